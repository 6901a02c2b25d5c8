package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// away makes the monitors that are started next live in a mount namespace of their
// own.
func (n *node) away() {
	n.t.Helper()
	n.forbidSpawning()
	script := fmt.Sprintf("#!/bin/sh\nexec unshare --mount --propagation unchanged %s \"$@\"\n", testExe(n.t))
	if err := os.WriteFile(filepath.Join(n.dir, "exe"), []byte(script), 0o700); err != nil { //nolint:gosec // it is executed
		n.t.Fatal(err)
	}
}

func (n *node) home() {
	n.t.Helper()
	n.forbidSpawning()
	n.allowSpawning()
}

// TestElsewhere: a monitor in another mount namespace is replaced while it has no
// containers, and else the daemon that is in the wrong place says so.
func TestElsewhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	n := startNode(t)
	first := n.s.PID()
	n.away()
	n.killMonitor() // the next one is away, and so is the one in its place
	if !elsewhere(n.s.PID()) {
		t.Fatal("the monitor is not away")
	}
	if err := n.s.Close(); err != nil {
		t.Fatal(err)
	}
	n.home()
	n.connect()
	if n.s.PID() == first || elsewhere(n.s.PID()) {
		t.Error("the monitor was not replaced")
	}

	n.away()
	n.killMonitor()
	if !elsewhere(n.s.PID()) {
		t.Fatal("the monitor is not away")
	}
	n.create(n.request("a", "sleep 1000"))
	away := n.s.PID()
	s, err := Start(t.Context(), Config{Dir: filepath.Join(n.dir, "monitor"), Exe: testExe(t)})
	if err == nil {
		_ = s.Close()
	}
	if want := fmt.Sprintf("nsenter --mount --target %d", away); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want one with %q", err, want)
	}
}
