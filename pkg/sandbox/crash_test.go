package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// A crash of Create is undone wherever it happens: before or after the effects
// of each stage.
func TestCrashInCreate(t *testing.T) {
	stages := []Stage{"record", StageNamespaces, StageFiles, StageNetwork}
	for _, kind := range []string{"own", "host", "mapped"} {
		for i := range stages {
			for _, effect := range []bool{false, true} {
				t.Run(fmt.Sprint(stages[i], " effect ", effect, " ", kind), func(t *testing.T) {
					n := newNode(t)
					m := n.start(t)
					p := params("x")
					p.HostNetwork, p.HostIPC = kind == "host", kind == "host"
					if kind == "mapped" {
						p.UserNS = mappedIDs()
					}
					s := newSandbox(m, Status{ID: "x", Params: p, State: Creating, CreatedAt: time.Now()})
					if err := os.Mkdir(m.recordDir("x"), 0o700); err != nil {
						t.Fatal(err)
					}
					for j, run := range []func() error{
						func() error { return m.save(s.Status()) },
						func() error { return makeNamespaces(m.stateOf("x"), p, "x", nil, m.config.Holder) },
						func() error { return s.makeFiles(m.stateOf("x"), "x") },
						func() error { return s.attach(t.Context(), m.stateOf("x"), "x") },
					}[:i+1] {
						if j < i || effect {
							if err := run(); err != nil {
								t.Fatal(err)
							}
						}
					}
					m = n.start(t)
					n.clean(t, m)
				})
			}
		}
	}
}

// A crash of Stop, wherever it happens, is finished.
func TestCrashInStop(t *testing.T) {
	for _, step := range []string{"recorded", "detached", "one pin gone", "pins gone", "user namespace's pin gone"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			m := n.start(t)
			p := params("x")
			if step == "user namespace's pin gone" {
				p.UserNS = mappedIDs()
			}
			s := ready(t, m, "x", p)
			s.update(func(st *Status) { st.State = NotReady })
			if err := s.saveStopped(); err != nil {
				t.Fatal(err)
			}
			if step != "recorded" {
				if err := n.net.Detach(t.Context(), "x", ""); err != nil {
					t.Fatal(err)
				}
			}
			switch step {
			case "one pin gone":
				if err := linux.Unmount(s.Status().Namespaces.IPC); err != nil {
					t.Fatal(err)
				}
			case "user namespace's pin gone":
				if err := linux.Unmount(s.Status().Namespaces.User); err != nil {
					t.Fatal(err)
				}
			case "pins gone":
				if err := unmountState(m.stateOf("x")); err != nil {
					t.Fatal(err)
				}
			}
			m = n.start(t)
			s, err := m.Get("x")
			if err != nil {
				t.Fatal(err)
			}
			if st := s.Status(); st.State != NotReady || st.IPs != nil || n.net.has("x") {
				t.Errorf("status is %+v", st)
			}
			if points, err := linux.MountPoints(n.State); err != nil || len(points) > 0 {
				t.Errorf("mounts left: %q %v", points, err)
			}
			remove(t, m, "x")
			n.clean(t, m)
		})
	}
}

// A crash of Remove leaves a stopped sandbox or none.
func TestCrashInRemove(t *testing.T) {
	for _, step := range []string{"state renamed", "state gone", "record renamed", "record half gone"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			m := n.start(t)
			ready(t, m, "x", params("x"))
			if err := m.Stop(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
			trash := func(dir string) string { return filepath.Join(filepath.Dir(dir), ".trash-x") }
			var err error
			switch step {
			case "state renamed":
				err = os.Rename(m.stateOf("x"), trash(m.stateOf("x")))
			case "state gone":
				err = os.RemoveAll(m.stateOf("x"))
			default:
				err = errors.Join(os.RemoveAll(m.stateOf("x")), os.Rename(m.recordDir("x"), trash(m.recordDir("x"))))
				if step == "record half gone" {
					err = errors.Join(err, os.Remove(filepath.Join(trash(m.recordDir("x")), "record.json")))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if !linux.IsTrash(".trash-x") {
				t.Fatal("trash has another name now")
			}
			m = n.start(t)
			if got := len(m.List()); (got == 1) != strings.HasPrefix(step, "state") {
				t.Errorf("%d sandboxes are listed", got)
			}
			remove(t, m, "x")
			n.clean(t, m)
		})
	}
}

const crashChildEnv = "SANDBOX_TEST_CRASH_CHILD"

// crashChild is a daemon that makes and removes pods until it is killed.
func crashChild() {
	ctx := context.Background()
	dir := os.Getenv(crashChildEnv)
	m := NewManager(Config{Root: dir + "/root", State: dir + "/state", Network: &fakeNetwork{}, Holder: holder})
	if err := m.Recover(ctx); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("up")
	for i := 0; ; i++ {
		id := fmt.Sprint("k", i)
		p := params(id)
		if i%2 > 0 {
			p.UserNS = mappedIDs()
		}
		s, err := m.Create(ctx, id, p)
		if err == nil {
			err = s.MarkReady(ctx)
		}
		if err == nil && i%3 > 0 {
			err = m.Stop(ctx, id)
		}
		if err == nil && i%4 > 1 {
			err = m.Revive(ctx, id)
		}
		if err == nil && i%3 > 1 {
			err = m.Remove(ctx, id)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// kill -9 at any moment: what the next daemon finds is whole, and all of it
// can be removed.
func TestKilledAtRandom(t *testing.T) {
	n := newNode(t)
	dir := filepath.Dir(n.Root)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 15 {
		killRandomly(t, exe, dir)
		m := n.start(t)
		for _, s := range m.List() {
			st := s.Status()
			if st.Broken != "" {
				t.Errorf("broken: %s", st.Broken)
			}
			whole, err := intact(m.stateOf(st.ID), st.Params)
			if err != nil || whole != (st.State == Ready) {
				t.Errorf("%s is %s, its namespaces are there: %v, %v", st.ID, st.State, whole, err)
			}
			remove(t, m, st.ID)
		}
		n.clean(t, m)
	}
}

func killRandomly(t *testing.T, exe, dir string) {
	t.Helper()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashChildEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 3)
	if _, err := out.Read(line); err != nil || string(line) != "up\n" {
		t.Errorf("child said %q, %v", line, err)
	}
	<-time.After(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
	if err := cmd.Process.Kill(); err != nil {
		t.Errorf("child was gone already: %v", err)
	}
	_ = cmd.Wait() // "signal: killed"
}
