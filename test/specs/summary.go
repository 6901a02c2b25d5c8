package specs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Spec is one spec of a suite as ginkgo reports it.
type Spec struct {
	ContainerHierarchyTexts    []string
	LeafNodeType, LeafNodeText string
	State                      string
	Failure                    struct{ Message string }
}

// Failed covers "failed", "panicked", "timedout", "interrupted" and "aborted".
func (s Spec) Failed() bool {
	return s.State != "passed" && s.State != "skipped" && s.State != "pending"
}

// Group is the outermost heading, such as "Container".
func (s Spec) Group() string {
	if len(s.ContainerHierarchyTexts) == 0 {
		return s.LeafNodeType
	}
	return strings.TrimPrefix(s.ContainerHierarchyTexts[0], "[k8s.io] ")
}

// Name is all that is below the group.
func (s Spec) Name() string {
	parts := s.ContainerHierarchyTexts
	if len(parts) > 0 {
		parts = parts[1:]
	}
	return strings.TrimSpace(strings.Join(append(slices.Clone(parts), s.LeafNodeText), " "))
}

// Count is how the specs of a group ended.
type Count struct{ Passed, Failed, Skipped int }

func (c Count) specs() int { return c.Passed + c.Failed + c.Skipped }

func (c *Count) add(s Spec) {
	switch {
	case s.State == "passed":
		c.Passed++
	case s.Failed():
		c.Failed++
	default:
		c.Skipped++
	}
}

// Summary is what came of a run.
type Summary struct {
	Total                   Count
	groups                  map[string]*Count
	Passed, Failed, Skipped []Spec // by name
}

// Summarize counts specs by their groups.
func Summarize(specs []Spec) Summary {
	s := Summary{groups: map[string]*Count{}}
	for _, one := range specs {
		group := s.groups[one.Group()]
		if group == nil {
			group = &Count{}
			s.groups[one.Group()] = group
		}
		group.add(one)
		s.Total.add(one)
		switch {
		case one.Failed():
			s.Failed = append(s.Failed, one)
		case one.State == "passed":
			s.Passed = append(s.Passed, one)
		default:
			s.Skipped = append(s.Skipped, one)
		}
	}
	byName := func(a, b Spec) int { return strings.Compare(a.Group()+a.Name(), b.Group()+b.Name()) }
	for _, list := range [][]Spec{s.Passed, s.Failed, s.Skipped} {
		slices.SortFunc(list, byName)
	}
	return s
}

// Markdown is a table of the groups, and the specs that did not pass with the reason.
func (s Summary) Markdown() string {
	var b strings.Builder
	b.WriteString("| Group | Specs | Passed | Failed | Skipped |\n|---|--:|--:|--:|--:|\n")
	row := func(name string, c Count) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", name, c.specs(), c.Passed, c.Failed, c.Skipped)
	}
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		row(name, *s.groups[name])
	}
	row("**All**", s.Total)
	list := func(title string, specs []Spec) {
		if len(specs) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n%s:\n\n", title)
		for _, one := range specs {
			fmt.Fprintf(&b, "- %s: %s: %s\n", one.Group(), one.Name(), Reason(one))
		}
	}
	list("Failed", s.Failed)
	list("Skipped", s.Skipped)
	return b.String()
}

// Reason is why a spec did not pass, in one line.
func Reason(s Spec) string {
	text := strings.Join(strings.Fields(s.Failure.Message), " ")
	const most = 300
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	if text == "" {
		text = s.State
	}
	return text
}
