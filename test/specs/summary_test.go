package specs

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const report = `[{"SpecReports": [
		{"LeafNodeType": "BeforeSuite", "State": "passed"},
		{"ContainerHierarchyTexts": ["[k8s.io] Container", "runtime"], "LeafNodeType": "It", "LeafNodeText": "starts [Conformance]", "State": "passed"},
		{"ContainerHierarchyTexts": ["[k8s.io] Container", "log"], "LeafNodeType": "It", "LeafNodeText": "reopens", "State": "failed", "Failure": {"Message": "Expected\n  <int>: 1"}},
		{"ContainerHierarchyTexts": ["[k8s.io] AppArmor"], "LeafNodeType": "It", "LeafNodeText": "enforces", "State": "skipped", "Failure": {"Message": "AppArmor is disabled on this host"}},
		{"ContainerHierarchyTexts": ["[k8s.io] benchmark"], "LeafNodeType": "It", "LeafNodeText": "is not selected", "State": "skipped"},
		{"ContainerHierarchyTexts": ["[k8s.io] Image"], "LeafNodeType": "It", "LeafNodeText": "pulls", "State": "panicked"}
	]}]`
	specs, err := Parse(strings.NewReader(report))
	if err != nil {
		t.Fatal(err)
	}
	got := Summarize(specs).Markdown()
	const want = `| Group | Specs | Passed | Failed | Skipped |
|---|--:|--:|--:|--:|
| AppArmor | 1 | 0 | 0 | 1 |
| Container | 2 | 1 | 1 | 0 |
| Image | 1 | 0 | 1 | 0 |
| **All** | 4 | 1 | 2 | 1 |

Failed:

- Container: log reopens: Expected <int>: 1
- Image: pulls: panicked

Skipped:

- AppArmor: enforces: AppArmor is disabled on this host
`
	if got != want {
		t.Errorf("summary is\n%s\nwant\n%s", got, want)
	}
}

func TestParseBroken(t *testing.T) {
	if _, err := Parse(strings.NewReader(`[{"SpecReports": [`)); err == nil {
		t.Error("half a report is taken for a whole one")
	}
}
