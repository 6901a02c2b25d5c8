package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/monitor"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// TestMain lets the test binary be the monitor too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "monitor" {
		if err := monitor.Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeRuntime is an OCI runtime whose containers are one sleep each, without
// any isolation, and ends with an exec.
const fakeRuntime = `#!/bin/sh
case $1 in --version) echo fake version 1; exit;; features) exit 1;; esac
root=$2; shift 6
case $1 in
create)
	mkdir -p "$root/$6"
	setsid sleep 1000 </dev/null >/dev/null 2>&1 &
	echo $! >"$root/$6/pid"; echo $! >"$5";;
delete)
	kill -9 "$(cat "$root/$3/pid")" 2>/dev/null
	rm -rf "${root:?}/$3";;
exec)
	# The container ends meanwhile.
	eval "pid=\$(cat \"$root/\${$#}/pid\")"
	kill -9 "$pid"
	while kill -0 "$pid" 2>/dev/null; do :; done
	exit 1;;
esac
`

// fakeRootfs makes directories for root file systems, and lets a test look in.
type fakeRootfs struct {
	mounting func()
	mounted  atomic.Int32
}

func (f *fakeRootfs) PrepareRootfs(context.Context, string, string) error { return nil }

func (f *fakeRootfs) MountRootfs(context.Context, string, string, RootfsOptions) error {
	f.mounted.Add(1)
	if f.mounting != nil {
		f.mounting()
	}
	return nil
}

func (f *fakeRootfs) UnmountRootfs(context.Context, string, string) error {
	f.mounted.Store(0)
	return nil
}
func (f *fakeRootfs) RemoveRootfs(context.Context, string) error { return nil }

// newTestManager returns a manager with a monitor and the fake runtime.
func newTestManager(t *testing.T, dir string, rootfs *fakeRootfs) *Manager {
	t.Helper()
	script := filepath.Join(dir, "fake")
	if err := os.WriteFile(script, []byte(fakeRuntime), 0o755); err != nil {
		t.Fatal(err)
	}
	runtime, err := oci.Open(t.Context(), oci.Config{Handler: "fake", Path: script, Root: filepath.Join(dir, "oci")})
	if err != nil {
		t.Fatal(err)
	}
	return managerOf(t, dir, rootfs, runtime)
}

// managerOf returns a manager with a monitor and one runtime. Its containers go
// with the test.
func managerOf(t *testing.T, dir string, rootfs Rootfs, runtime *oci.Runtime) *Manager {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cgroups, err := linux.DetectCgroups()
	if err != nil {
		t.Skip(err)
	}
	m := NewManager(Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Rootfs: rootfs,
		Handlers: map[string]*oci.Runtime{runtime.Handler(): runtime}, Cgroups: cgroups,
	})
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	supervisor, err := monitor.Start(context.WithoutCancel(t.Context()), monitor.Config{
		Dir: filepath.Join(dir, "monitor"), Exe: exe, OnEvent: m.HandleEvent, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 60*time.Second)
		defer cancel()
		for _, c := range m.all() {
			if err := m.Remove(ctx, c.id); err != nil {
				t.Error(err)
			}
		}
		if err := supervisor.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := m.Recover(t.Context(), supervisor); err != nil {
		t.Fatal(err)
	}
	return m
}

func createOptions() CreateOptions {
	return CreateOptions{Spec: &specs.Spec{Process: &specs.Process{}}}
}

// created returns a container that waits to be started.
func createdContainer(t *testing.T, m *Manager, id string) *Container {
	t.Helper()
	c, err := m.Prepare(t.Context(), Params{ID: id, Group: "g", Name: id, Handler: "fake", ImageID: "i"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), createOptions()); err != nil {
		t.Fatal(err)
	}
	return c
}
