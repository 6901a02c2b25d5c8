package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// spec is one spec of the suite as ginkgo reports it.
type spec struct {
	ContainerHierarchyTexts    []string
	LeafNodeType, LeafNodeText string
	State                      string
	Failure                    struct{ Message string }
}

// failed covers "failed", "panicked", "timedout", "interrupted" and "aborted".
func (s spec) failed() bool {
	return s.State != "passed" && s.State != "skipped" && s.State != "pending"
}

// group is the outermost heading, such as "Container".
func (s spec) group() string {
	if len(s.ContainerHierarchyTexts) == 0 {
		return s.LeafNodeType
	}
	return strings.TrimPrefix(s.ContainerHierarchyTexts[0], "[k8s.io] ")
}

// name is all that is below the group.
func (s spec) name() string {
	parts := s.ContainerHierarchyTexts
	if len(parts) > 0 {
		parts = parts[1:]
	}
	return strings.TrimSpace(strings.Join(append(slices.Clone(parts), s.LeafNodeText), " "))
}

// count is how the specs of a group ended.
type count struct{ passed, failed, skipped int }

func (c count) specs() int { return c.passed + c.failed + c.skipped }

func (c *count) add(s spec) {
	switch {
	case s.State == "passed":
		c.passed++
	case s.failed():
		c.failed++
	default:
		c.skipped++
	}
}

// summary is what came of a run.
type summary struct {
	total           count
	groups          map[string]*count
	failed, skipped []spec
}

func summarize(specs []spec) summary {
	s := summary{groups: map[string]*count{}}
	for _, one := range specs {
		group := s.groups[one.group()]
		if group == nil {
			group = &count{}
			s.groups[one.group()] = group
		}
		group.add(one)
		s.total.add(one)
		switch {
		case one.failed():
			s.failed = append(s.failed, one)
		case one.State != "passed":
			s.skipped = append(s.skipped, one)
		}
	}
	byName := func(a, b spec) int { return strings.Compare(a.group()+a.name(), b.group()+b.name()) }
	slices.SortFunc(s.failed, byName)
	slices.SortFunc(s.skipped, byName)
	return s
}

// markdown is a table of the groups, and the specs that did not pass with the reason.
func (s summary) markdown() string {
	var b strings.Builder
	b.WriteString("| Group | Specs | Passed | Failed | Skipped |\n|---|--:|--:|--:|--:|\n")
	row := func(name string, c count) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", name, c.specs(), c.passed, c.failed, c.skipped)
	}
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		row(name, *s.groups[name])
	}
	row("**All**", s.total)
	list := func(title string, specs []spec) {
		if len(specs) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n%s:\n\n", title)
		for _, one := range specs {
			fmt.Fprintf(&b, "- %s: %s: %s\n", one.group(), one.name(), reason(one))
		}
	}
	list("Failed", s.failed)
	list("Skipped", s.skipped)
	return b.String()
}

// reason is why a spec did not pass, in one line.
func reason(s spec) string {
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
