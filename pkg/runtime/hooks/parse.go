package hooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// version is the one form of file there is; 0.1.0 died with its only reader.
const version = "1.0.0"

// maxFile bounds what a mistake can make the daemon read at each create.
const maxFile = 256 << 10

// document is a file as written.
type document struct {
	Version string     `json:"version"`
	Hook    specs.Hook `json:"hook"`
	When    struct {
		Always        *bool             `json:"always"`
		Annotations   map[string]string `json:"annotations"`
		Commands      []string          `json:"commands"`
		HasBindMounts *bool             `json:"hasBindMounts"`
	} `json:"when"`
	Stages []string `json:"stages"`
}

// hook is a file made ready to be matched.
type hook struct {
	oci           specs.Hook
	stages        []string
	always        *bool
	hasBindMounts *bool
	annotations   []pair
	commands      []*regexp.Regexp
}

// pair is a pattern for the key and one for the value of an annotation.
type pair struct{ key, value *regexp.Regexp }

// stages of a container's life, and where their hooks are in a spec.
func stage(h *specs.Hooks, name string) *[]specs.Hook {
	switch name {
	case "prestart":
		return &h.Prestart //nolint:staticcheck // deprecated, but what most files name
	case "createRuntime":
		return &h.CreateRuntime
	case "createContainer":
		return &h.CreateContainer
	case "startContainer":
		return &h.StartContainer
	case "poststart":
		return &h.Poststart
	case "poststop":
		return &h.Poststop
	}
	return nil
}

// parse reads one file. It is strict: a condition that was misspelt would not
// hold a hook back, or a hook that never runs would not be missed.
func parse(b []byte) (*hook, error) {
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	var d document
	if err := decoder.Decode(&d); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	if d.Version != version {
		return nil, fmt.Errorf("version: is %.40q, want %q", d.Version, version)
	}
	if err := checkHook(d.Hook); err != nil {
		return nil, err
	}
	if len(d.Stages) == 0 {
		return nil, errors.New("stages: is empty")
	}
	for i, s := range d.Stages {
		if stage(&specs.Hooks{}, s) == nil {
			return nil, fmt.Errorf("stages[%d]: %.40q is no stage", i, s)
		}
		if slices.Contains(d.Stages[:i], s) {
			return nil, fmt.Errorf("stages[%d]: %s is there twice", i, s)
		}
	}
	return d.compile()
}

func checkHook(h specs.Hook) error {
	if !filepath.IsAbs(h.Path) || strings.ContainsRune(h.Path, 0) {
		return fmt.Errorf("hook.path: %.100q is no absolute path", h.Path)
	}
	if h.Timeout != nil && *h.Timeout <= 0 {
		return fmt.Errorf("hook.timeout: is %d, want seconds", *h.Timeout)
	}
	for i, e := range h.Env {
		if !strings.Contains(e, "=") {
			return fmt.Errorf("hook.env[%d]: %.100q is not NAME=value", i, e)
		}
	}
	return nil
}

// compile turns the conditions into patterns.
func (d *document) compile() (*hook, error) {
	w := d.When
	if w.Always == nil && w.HasBindMounts == nil && len(w.Annotations) == 0 && len(w.Commands) == 0 {
		return nil, errors.New("when: has no condition, so that the hook would never run")
	}
	h := &hook{oci: d.Hook, stages: d.Stages, always: w.Always, hasBindMounts: w.HasBindMounts}
	for key, value := range w.Annotations {
		k, err := regexp.Compile(key)
		if err != nil {
			return nil, fmt.Errorf("when.annotations: %w", err)
		}
		v, err := regexp.Compile(value)
		if err != nil {
			return nil, fmt.Errorf("when.annotations[%.100q]: %w", key, err)
		}
		h.annotations = append(h.annotations, pair{k, v})
	}
	for i, command := range w.Commands {
		c, err := regexp.Compile(command)
		if err != nil {
			return nil, fmt.Errorf("when.commands[%d]: %w", i, err)
		}
		h.commands = append(h.commands, c)
	}
	return h, nil
}

// applies reports whether all conditions hold.
func (h *hook) applies(r Request, command string) bool {
	if h.always != nil && !*h.always {
		return false
	}
	if h.hasBindMounts != nil && (!*h.hasBindMounts || !r.BindMounts) {
		return false
	}
	for _, p := range h.annotations {
		if !p.matchesAny(r.Annotations) {
			return false
		}
	}
	matches := func(c *regexp.Regexp) bool { return c.MatchString(command) }
	return len(h.commands) == 0 || slices.ContainsFunc(h.commands, matches)
}

func (p pair) matchesAny(annotations map[string]string) bool {
	for key, value := range annotations {
		if p.key.MatchString(key) && p.value.MatchString(value) {
			return true
		}
	}
	return false
}
