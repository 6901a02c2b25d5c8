package oci

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// bootTime is some moment long before any process of the test.
func bootTime(t *testing.T) time.Time {
	t.Helper()
	return time.Now().Add(-24 * time.Hour)
}

// program writes an executable shell script that stands for a runtime.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenAsksTheBinary(t *testing.T) {
	modern := `case "$1" in
--version) echo "runc version 9.9"; echo "spec: 1.3.0" ;;
features) echo '{"ociVersionMin":"1.0.0","ociVersionMax":"1.3.0","mountOptions":["bind","rro"],"linux":{"mountExtensions":{"idmap":{"enabled":true}}}}' ;;
esac`
	old := `case "$1" in --version) echo "crun version 1.8" ;; *) exit 1 ;; esac`
	older := `case "$1" in --version) echo "crun version 1.7.2" ;; *) exit 1 ;; esac`
	odd := `case "$1" in --version) echo "other 1" ;; features) echo "no JSON" ;; esac`
	for name, test := range map[string]struct {
		script  string
		want    Features
		hide    bool
		release bool
	}{
		"modern": {modern, Features{Version: "runc version 9.9", OCIVersion: "1.3.0", RecursiveReadOnly: true, IDMap: true, MountOptions: []string{"bind", "rro"}}, false, true},
		"old":    {old, Features{Version: "crun version 1.8", OCIVersion: oldestSpec, RecursiveReadOnly: true}, true, false},
		"older":  {older, Features{Version: "crun version 1.7.2", OCIVersion: oldestSpec}, true, false},
		"odd":    {odd, Features{Version: "other 1", OCIVersion: oldestSpec}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Open(t.Context(), Config{Handler: name, Path: program(t, test.script), Root: filepath.Join(t.TempDir(), "root"), HideUnified: true})
			if err != nil {
				t.Fatal(err)
			}
			got := r.Features()
			if got.Version != test.want.Version || got.OCIVersion != test.want.OCIVersion || got.RecursiveReadOnly != test.want.RecursiveReadOnly ||
				got.IDMap != test.want.IDMap || got.ReadsUserNS != test.release || !slices.Equal(got.MountOptions, test.want.MountOptions) {
				t.Errorf("features are %+v", got)
			}
			if r.HideUnified() != test.hide || r.release != test.release {
				t.Errorf("hide %v, release %v", r.hide, r.release)
			}
		})
	}
	if _, err := Open(t.Context(), Config{Path: "runc"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative path: %v", err)
	}
	if _, err := Open(t.Context(), Config{Path: program(t, "exit 1"), Root: t.TempDir()}); err == nil {
		t.Error("a binary that does not run was taken")
	}
}

func TestDeleteOfTheUnknown(t *testing.T) {
	r, err := Open(t.Context(), Config{Path: program(t, `[ "$1" = --version ] || { echo called >&2; exit 1; }`), Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), "abc", filepath.Join(t.TempDir(), "log")); err != nil {
		t.Errorf("a container the runtime does not know: %v", err)
	}
	if err := os.MkdirAll(r.stateDir("abc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), "abc", filepath.Join(t.TempDir(), "log")); err == nil {
		t.Error("the failure of the runtime was lost")
	}
}
