package conformance

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStandInForSystemd(t *testing.T) {
	units, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	must(t, StandInForSystemd(units))
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(units, name), args...)
		cmd.Env = append(os.Environ(), "PATH="+units+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v: %s", name, args, err, out)
		}
		return string(out)
	}
	running := func() string { return run("sudo", "systemctl", "list-units", "*kubelet*", "--state=running") }
	logged := func(want string) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for {
			data, err := os.ReadFile(log)
			if string(data) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the log is %q, want %q: %v", data, want, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if got := run("systemd-run", "--version"); !strings.HasPrefix(got, "systemd 2") {
		t.Errorf("version %q", got)
	}
	run("systemd-run", "-p", "Delegate=true", "-p", "StandardError=append:"+log, "--unit=kubelet-20260102T030405.service", "--slice=runtime.slice",
		"--remain-after-exit", "sh", "-c", `echo "$$1" %%d; exec sleep 1000`, "-", "it's $$HOME")
	t.Cleanup(func() { run("systemctl", "stop", "kubelet-20260102T030405.service") })
	logged("it's $HOME %d\n")
	const unit = "kubelet-20260102T030405"
	if got := running(); !strings.Contains(got, unit+".service") {
		t.Errorf("running: %q", got)
	}
	run("systemctl", "reset-failed", unit)
	run("systemctl", "kill", unit)
	for deadline := time.Now().Add(10 * time.Second); strings.Contains(running(), unit) && time.Now().Before(deadline); {
	}
	if got := running(); got != "" {
		t.Errorf("running: %q", got)
	}
	if got := run("systemctl", "list-units", "*kubelet*"); !strings.Contains(got, unit) {
		t.Errorf("known: %q", got)
	}
	run("systemctl", "restart", unit)
	logged("it's $HOME %d\nit's $HOME %d\n")
	// One that was never started says nothing, not even in a message.
	must(t, os.WriteFile(filepath.Join(units, "kubelet-other.service"), nil, 0o600))
	if got := running(); strings.Contains(got, "other") {
		t.Errorf("running: %q", got)
	}
	run("systemctl", "stop", "kubelet-other")
	if got := run("systemctl", "list-units", "*kubelet*"); strings.Contains(got, "other") {
		t.Errorf("known: %q", got)
	}
	if got := running(); !strings.Contains(got, unit) {
		t.Errorf("running: %q", got)
	}
}
