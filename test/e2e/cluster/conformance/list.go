package conformance

import (
	"errors"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/cri-node/cri-node/test/specs"
)

// List is the names of specs that have passed, in a file of a line each.
type List struct {
	path  string
	names []string
}

// ReadList reads a list; there is none yet where there is no file.
func ReadList(path string) (*List, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l := &List{path: path}
	for line := range strings.Lines(string(data)) {
		if name := strings.TrimSpace(line); name != "" {
			l.names = append(l.names, name)
		}
	}
	return l, nil
}

// Lost are the names that focus matches and that did not pass in a run.
func (l *List) Lost(run []specs.Spec, focus *regexp.Regexp) []string {
	passed := passedNames(run)
	var lost []string
	for _, name := range l.names {
		if !passed[name] && focus.MatchString(name) {
			lost = append(lost, name)
		}
	}
	return lost
}

// Update replaces what focus matches with what passed in a run, and writes the file.
func (l *List) Update(run []specs.Spec, focus *regexp.Regexp) error {
	l.names = slices.DeleteFunc(l.names, focus.MatchString)
	for name := range passedNames(run) {
		l.names = append(l.names, name)
	}
	slices.Sort(l.names)
	l.names = slices.Compact(l.names)
	return os.WriteFile(l.path, []byte(strings.Join(l.names, "\n")+"\n"), 0o644)
}

func passedNames(run []specs.Spec) map[string]bool {
	passed := map[string]bool{}
	for _, s := range run {
		if s.State == "passed" {
			passed[FullName(s)] = true
		}
	}
	return passed
}
