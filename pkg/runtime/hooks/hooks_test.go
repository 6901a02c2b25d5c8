package hooks

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	// As editors do: a new file in the place of the old one.
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

func withWhen(when, stages string) string {
	return fmt.Sprintf(`{"version":"1.0.0","hook":{"path":"/bin/sh","args":["sh","-c","true"],"timeout":3},"when":%s,"stages":%s}`, when, stages)
}

func TestWhen(t *testing.T) {
	for _, tc := range []struct {
		when    string
		request Request
		want    bool
	}{
		{`{"always":true}`, Request{}, true},
		{`{"always":false}`, Request{}, false},
		{`{"always":true,"hasBindMounts":true}`, Request{}, false},
		{`{"always":true,"hasBindMounts":true}`, Request{BindMounts: true}, true},
		{`{"hasBindMounts":false}`, Request{}, false},
		{`{"commands":["^/bin/a$","/sh$"]}`, Request{}, true},
		{`{"commands":["^/bin/a$"]}`, Request{}, false},
		{`{"annotations":{"^k$":"^v"}}`, Request{Annotations: map[string]string{"k": "vv", "x": "y"}}, true},
		{`{"annotations":{"^k$":"^v"}}`, Request{Annotations: map[string]string{"k": "w", "x": "v"}}, false},
		{`{"annotations":{"^k$":"^v","^x$":"."}}`, Request{Annotations: map[string]string{"k": "v"}}, false},
		{`{"annotations":{"^k$":"^v"},"commands":["nothing"]}`, Request{Annotations: map[string]string{"k": "v"}}, false},
	} {
		dir := t.TempDir()
		write(t, dir, "a.json", withWhen(tc.when, `["createRuntime"]`))
		spec := &specs.Spec{Process: &specs.Process{Args: []string{"/bin/sh", "/bin/a"}}}
		if err := Open([]string{dir}).Apply(spec, tc.request); err != nil {
			t.Errorf("%s: %v", tc.when, err)
		}
		if got := spec.Hooks != nil; got != tc.want {
			t.Errorf("%s with %+v applies: %v", tc.when, tc.request, got)
		}
	}
}

func TestStages(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.json", withWhen(`{"always":true}`, `["prestart","createRuntime","createContainer","startContainer","poststart","poststop"]`))
	own := specs.Hook{Path: "/own"}
	spec := &specs.Spec{Hooks: &specs.Hooks{Poststop: []specs.Hook{own}}}
	if err := Open([]string{dir}).Apply(spec, Request{}); err != nil {
		t.Fatal(err)
	}
	h := spec.Hooks
	for i, list := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart} { //nolint:staticcheck // prestart is in use
		if len(list) != 1 || list[0].Path != "/bin/sh" || *list[0].Timeout != 3 || len(list[0].Args) != 3 {
			t.Errorf("stage %d has %+v", i, list)
		}
	}
	if len(h.Poststop) != 2 || h.Poststop[0].Path != "/own" {
		t.Errorf("poststop has %+v", h.Poststop)
	}
}

func TestOrderAndChanges(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	hook := func(arg string) string {
		return fmt.Sprintf(`{"version":"1.0.0","hook":{"path":"/bin/sh","args":[%q]},"when":{"always":true},"stages":["poststop"]}`, arg)
	}
	d := Open([]string{first, filepath.Join(first, "missing"), second})
	check := func(want string) {
		t.Helper()
		spec := &specs.Spec{}
		if err := d.Apply(spec, Request{}); err != nil {
			t.Fatal(err)
		}
		var got []string
		if spec.Hooks != nil {
			for _, h := range spec.Hooks.Poststop {
				got = append(got, h.Args[0])
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("hooks are %v, want %s", got, want)
		}
	}
	check("")
	write(t, first, "20.json", hook("first20"))
	write(t, first, "10.json", hook("first10"))
	write(t, second, "15.json", hook("second15"))
	write(t, second, "README", "not a hook")
	check("first10 second15 first20")
	write(t, second, "20.json", hook("second20"))
	check("first10 second15 second20")
	write(t, first, "10.json", hook("second"))
	check("second second15 second20")
	if err := os.Remove(filepath.Join(second, "20.json")); err != nil {
		t.Fatal(err)
	}
	check("second second15 first20")
	if len(d.files) != 3 {
		t.Errorf("%d files are remembered", len(d.files))
	}
	// A broken file holds everything up, and its removal cures it.
	broken := write(t, second, "99.json", "{")
	if err := d.Apply(&specs.Spec{}, Request{}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), broken) {
		t.Errorf("broken file: %v", err)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	check("second second15 first20")
}

func TestRefused(t *testing.T) {
	good := withWhen(`{"always":true}`, `["poststop"]`)
	for _, change := range [][2]string{
		{`"1.0.0"`, `"0.1.0"`}, {`"version":"1.0.0",`, ``}, {`"always":true`, ``}, {`"always"`, `"allways"`}, {`"always":true`, `"always":1`},
		{`"always":true`, `"commands":["("]`}, {`"always":true`, `"annotations":{"(":"a"}`}, {`"always":true`, `"annotations":{"a":"("}`},
		{`["poststop"]`, `[]`}, {`["poststop"]`, `["poststop","poststop"]`}, {`"poststop"`, `"later"`}, {`/bin/sh`, `bin/sh`}, {`/bin/sh`, `/nowhere/at/all`},
		{`/bin/sh`, `/etc`}, {`/bin/sh`, `/etc/passwd`}, {`"timeout":3`, `"timeout":0`}, {`"timeout":3`, `"env":["x"]`}, {good, good + good}, {good, ""}, {good, "null"}, {good, "[]"},
	} {
		dir := t.TempDir()
		changed := strings.Replace(good, change[0], change[1], 1)
		if changed == good {
			t.Fatalf("%v changes nothing", change)
		}
		write(t, dir, "a.json", changed)
		spec := &specs.Spec{}
		if err := Open([]string{dir}).Apply(spec, Request{}); !errdefs.IsFailedPrecondition(err) || spec.Hooks != nil {
			t.Errorf("%s was accepted: %v", changed, err)
		}
	}
	dir := t.TempDir()
	path := write(t, dir, "a.json", good)
	for name, spoil := range map[string]func() error{
		"writable by all": func() error { return os.Chmod(path, 0o622) },
		"directory": func() error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o700)
		},
		"dangling": func() error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Symlink("nowhere", path)
		},
	} {
		_ = os.RemoveAll(path)
		write(t, dir, "a.json", good)
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if err := Open([]string{dir}).Apply(&specs.Spec{}, Request{}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNone(t *testing.T) {
	var d *Dirs
	for _, d := range []*Dirs{d, Open(nil), Open([]string{"/nowhere/at/all"})} {
		spec := &specs.Spec{}
		if err := d.Apply(spec, Request{}); err != nil || spec.Hooks != nil {
			t.Errorf("no directory: %v %v", err, spec.Hooks)
		}
	}
}

// FuzzParse: what is accepted can be matched and names stages that exist.
func FuzzParse(f *testing.F) {
	f.Add([]byte(withWhen(`{"always":true}`, `["poststop"]`)), "a", "b")
	f.Add([]byte(withWhen(`{"annotations":{"a":"b"},"commands":["c"],"hasBindMounts":true}`, `["prestart"]`)), "a", "b")
	f.Fuzz(func(t *testing.T, b []byte, key, value string) {
		h, err := parse(b)
		if (h == nil) != (err != nil) {
			t.Fatalf("hook %v, error %v", h, err)
		}
		if err != nil {
			return
		}
		h.applies(Request{Annotations: map[string]string{key: value}}, key)
		for _, s := range h.stages {
			if stage(&specs.Hooks{}, s) == nil {
				t.Errorf("stage %q", s)
			}
		}
		if !filepath.IsAbs(h.oci.Path) {
			t.Errorf("path %q", h.oci.Path)
		}
	})
}
