package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/cri-node/cri-node/test/specs"
)

func TestList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list.txt")
	if err := os.WriteFile(path, []byte("Pods end\nPods start [Conformance]\nVolumes mount\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := ReadList(path)
	if err != nil {
		t.Fatal(err)
	}
	run := []specs.Spec{
		{ContainerHierarchyTexts: []string{"Pods "}, LeafNodeText: "start [Conformance]", State: "passed"},
		{ContainerHierarchyTexts: []string{"Pods"}, LeafNodeText: "end", State: "failed"},
		{ContainerHierarchyTexts: []string{"Pods"}, LeafNodeText: "wait", State: "passed"},
	}
	focus := regexp.MustCompile("Pods")
	if lost := l.Lost(run, focus); !slices.Equal(lost, []string{"Pods end"}) {
		t.Errorf("lost are %q, want the one that failed", lost)
	}
	if err := l.Update(run, focus); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "Pods start [Conformance]\nPods wait\nVolumes mount\n"; string(data) != want {
		t.Errorf("the file is %q, want %q", data, want)
	}
}
