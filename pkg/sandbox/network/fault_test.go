package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeFixture has one plugin, a shell script, which finds its own directory in
// $D and has $CNI_COMMAND.
func fakeFixture(t *testing.T, script string) (f *fixture, dir string) {
	t.Helper()
	dir = t.TempDir()
	f = newFixture(t, func(c *Config) { c.PluginDirs = []string{dir} })
	writePlugin(t, dir, "fake", "D="+dir+"\necho $CNI_COMMAND >>$D/log\n"+script)
	f.writeConf(t, "10-fake.conflist", `{"cniVersion":"1.0.0","name":"fake","plugins":[{"type":"fake","capabilities":{"portMappings":true}}]}`)
	return f, dir
}

const goodResult = `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"interface":0,"address":"10.1.2.3/24"}]}`

func readLog(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

func TestPluginFaults(t *testing.T) {
	tests := []struct {
		name, add string
		want      string // in the error of ADD
	}{
		{"error in CNI form", `echo '{"code":100,"msg":"no cable","details":"port 7"}'; exit 1`, `plugin type="fake" failed (add): no cable; port 7`},
		{"error in other form", `echo first >&2; printf 'boom\033[31m\n' >&2; exit 3`, "exit status 3: first boom[31m"},
		{"crash", `kill -SEGV $$`, "segmentation fault"},
		{"garbage", `echo '{"ips": hello'`, `plugin type="fake" failed (add)`},
		{"nothing", `exit 0`, `plugin type="fake" failed (add)`},
		{"no address", `echo '{"cniVersion":"1.0.0"}'`, "no address for the pod"},
		{"address of the host only", `echo '{"cniVersion":"1.0.0","interfaces":[{"name":"br0"}],"ips":[{"interface":0,"address":"10.1.2.3/24"}]}'`, "no address for the pod"},
		{"hang", `sleep 1000`, "deadline"},
		{"hang of a child", `sleep 1000 & wait`, "deadline"},
		{"success after the deadline", `sleep 3; echo '` + goodResult + `'`, "deadline"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, dir := fakeFixture(t, `
case $CNI_COMMAND in
ADD) cp `+"$INTENT"+` $D/intent-at-add; `+tt.add+`;;
esac`)
			// The intent must be there before the plugin runs.
			writePlugin(t, dir, "fake", strings.ReplaceAll(readPlugin(t, dir), "$INTENT", f.intentPath("fault")))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := f.Attach(ctx, Attachment{ID: "fault", NetNS: newNetNS(t)})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
			if log := readLog(t, dir); log != "ADD DEL" {
				t.Errorf("plugin ran for %q", log)
			}
			if _, err := os.Stat(filepath.Join(dir, "intent-at-add")); err != nil {
				t.Error("no intent before ADD")
			}
			f.wantClean(t, "fault")
		})
	}
}

func readPlugin(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "fake"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(string(b), "#!/bin/sh\n")
}

func TestPluginSeesCleanProcess(t *testing.T) {
	t.Setenv("LD_PRELOAD_TEST", "leak")
	f, dir := fakeFixture(t, `
if [ $CNI_COMMAND = ADD ]; then
  env | sort >$D/env; ls /proc/self/fd >$D/fds; cat >$D/stdin; ps -o pgid= -p $$ | tr -d ' ' >$D/pgid; echo $$ >>$D/pgid
  echo '`+goodResult+`'
fi`)
	leak, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	a := Attachment{ID: "clean", Namespace: "ns", Name: "pod", UID: "uid-1", NetNS: newNetNS(t),
		PortMappings: []PortMapping{{HostPort: 1, ContainerPort: 2, Protocol: "SCTP", HostIP: "::"}, {ContainerPort: 9}}}
	r, err := f.Attach(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(r.IPs) != "[10.1.2.3]" {
		t.Errorf("IPs %v", r.IPs)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	env := read("env")
	for _, want := range []string{
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_INFRA_CONTAINER_ID=clean;K8S_POD_UID=uid-1",
		"CNI_IFNAME=eth0", "CNI_CONTAINERID=clean", "CNI_PATH=" + dir,
	} {
		if !strings.Contains(env, want) {
			t.Errorf("no %s in\n%s", want, env)
		}
	}
	if strings.Contains(env, "leak") || strings.Contains(env, "HOME=") {
		t.Errorf("environment is\n%s", env)
	}
	// 0 to 2, the lock, the script, and the directory ls reads.
	if fds := strings.Fields(read("fds")); len(fds) > 6 {
		t.Errorf("file descriptors %v", fds)
	}
	if ids := strings.Fields(read("pgid")); ids[0] != ids[1] {
		t.Errorf("process group %s of process %s", ids[0], ids[1])
	}
	if in := read("stdin"); !strings.Contains(in, `"portMappings":[{"hostIP":"::","hostPort":1,"containerPort":2,"protocol":"sctp"}]`) {
		t.Errorf("stdin is %s", in)
	}
}

// TestDebt is a DEL that cannot succeed yet.
func TestDebt(t *testing.T) {
	f, dir := fakeFixture(t, `
case $CNI_COMMAND in
ADD) echo '`+goodResult+`';;
DEL) cat >$D/stdin; if [ -e $D/broken ]; then echo '{"code":11,"msg":"later"}'; exit 1; fi;;
esac`)
	netns := newNetNS(t)
	if _, err := f.Attach(t.Context(), Attachment{ID: "debt", NetNS: netns}); err != nil {
		t.Fatal(err)
	}
	// The configuration has gone, and the daemon has restarted.
	if err := os.RemoveAll(f.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	if err := os.WriteFile(filepath.Join(dir, "broken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Detach(t.Context(), "debt", netns); err == nil || !strings.Contains(err.Error(), "later") {
		t.Fatalf("error is %v", err)
	}
	if err := os.Rename(filepath.Join(dir, "fake"), filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := f.Detach(t.Context(), "debt", netns); !errors.Is(err, ErrPluginMissing) {
		t.Fatalf("error is %v", err)
	}
	if err := f.GC(t.Context(), nil); !errors.Is(err, ErrPluginMissing) {
		t.Fatalf("error is %v", err)
	}
	if known, err := f.Known(); err != nil || fmt.Sprint(known) != "[debt]" {
		t.Fatalf("known are %v, %v", known, err)
	}
	if err := os.Rename(filepath.Join(dir, "gone"), filepath.Join(dir, "fake")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "broken")); err != nil {
		t.Fatal(err)
	}
	if err := f.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	in, err := os.ReadFile(filepath.Join(dir, "stdin"))
	if err != nil || !strings.Contains(string(in), "10.1.2.3") {
		t.Errorf("DEL did not get the result of ADD: %s %v", in, err)
	}
	f.wantClean(t, "debt")
	if err := f.Detach(t.Context(), "debt", netns); err != nil {
		t.Errorf("unknown id: %v", err)
	}
}

// TestOrphanedPlugin is an ADD that outlives the daemon that started it.
func TestOrphanedPlugin(t *testing.T) {
	f, dir := fakeFixture(t, `if [ $CNI_COMMAND = ADD ]; then echo '`+goodResult+`'; fi`)
	if _, err := f.Attach(t.Context(), Attachment{ID: "orphan", NetNS: newNetNS(t)}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, life string
		killed     bool
	}{{"ends by itself", "0.3", false}, {"hangs", "1000", true}} {
		t.Run(tt.name, func(t *testing.T) {
			lock, err := os.OpenFile(f.lockPath("orphan"), os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sleep", tt.life)
			cmd.ExtraFiles = []*os.File{lock}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if err := lock.Close(); err != nil {
				t.Fatal(err)
			}
			exited := make(chan error, 1)
			go func() { exited <- cmd.Wait() }()
			ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
			defer cancel()
			if err := f.Detach(ctx, "orphan", ""); err != nil {
				t.Fatal(err)
			}
			if err := <-exited; (err != nil) != tt.killed {
				t.Errorf("the orphan ended with %v", err)
			}
			f.wantClean(t, "orphan")
			if _, err := f.Attach(t.Context(), Attachment{ID: "orphan", NetNS: newNetNS(t)}); err != nil {
				t.Fatal(err)
			}
		})
	}
	if log := readLog(t, dir); log != "ADD DEL ADD DEL ADD" {
		t.Errorf("plugin ran for %q", log)
	}
}

// TestInterruptedSave: what a killed daemon was writing goes at the next start.
func TestInterruptedSave(t *testing.T) {
	f, _ := fakeFixture(t, "exit 0")
	left := filepath.Join(f.cfg.CacheDir, intentDir, ".a.json.tmp-1")
	if err := os.WriteFile(left, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there still: %v", err)
	}
	if ids, err := f.Known(); err != nil || len(ids) > 0 {
		t.Errorf("known are %v, %v", ids, err)
	}
}

// TestInterruptedAttach is a crash between ADD and its end: everything is
// there, and the daemon knows only the intent.
func TestInterruptedAttach(t *testing.T) {
	for _, lose := range []string{"nothing", "result", "intent", "both", "broken intent"} {
		t.Run(lose, func(t *testing.T) {
			f := newFixture(t, nil)
			netns := newNetNS(t)
			if _, err := f.Attach(t.Context(), Attachment{ID: "crash", NetNS: netns}); err != nil {
				t.Fatal(err)
			}
			if lose == "result" || lose == "both" {
				if err := os.RemoveAll(filepath.Join(f.cfg.CacheDir, "results")); err != nil {
					t.Fatal(err)
				}
			}
			if lose == "intent" || lose == "both" {
				if err := os.Remove(f.intentPath("crash")); err != nil {
					t.Fatal(err)
				}
			}
			if lose == "broken intent" {
				if err := os.WriteFile(f.intentPath("crash"), []byte("{"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f.reopen(t)
			if lose == "both" {
				// Only its addresses tell of it.
				if err := f.GC(t.Context(), []string{"other"}); err != nil {
					t.Fatal(err)
				}
				f.wantClean(t, "crash")
				return
			}
			// kubelet tries again: same id, same namespace.
			if lose != "intent" {
				if _, err := f.Attach(t.Context(), Attachment{ID: "crash", NetNS: netns}); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Detach(t.Context(), "crash", netns); err != nil {
				t.Fatal(err)
			}
			f.wantClean(t, "crash")
			// And once more, while the old pair may wait for the reaper.
			if _, err := f.Attach(t.Context(), Attachment{ID: "crash", NetNS: netns}); err != nil {
				t.Fatal(err)
			}
			if err := f.Detach(t.Context(), "crash", netns); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestGCKeepsTheLiving(t *testing.T) {
	f := newFixture(t, nil)
	ids := []string{"old-valid", "old-stale", "new"}
	for i, id := range ids {
		if i == 2 {
			f.reopen(t) // the first two are of an earlier daemon
		}
		if _, err := f.Attach(t.Context(), Attachment{ID: id, NetNS: newNetNS(t)}); err != nil {
			t.Fatal(err)
		}
	}
	leaked := filepath.Join(f.dataDir, defaultNetworkName, f.cfg.DefaultNetwork.Subnets[0].Addr().Next().Next().String())
	leaked = leaked[:len(leaked)-1] + "77"
	if err := os.WriteFile(leaked, []byte("leaked\r\neth0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.GC(t.Context(), []string{"old-valid"}); err != nil {
		t.Fatal(err)
	}
	known, err := f.Known()
	if err != nil || fmt.Sprint(known) != "[new old-valid]" {
		t.Errorf("known are %v, %v", known, err)
	}
	f.wantClean(t, "old-stale")
	f.wantClean(t, "leaked")
	addresses, err := filepath.Glob(filepath.Join(f.dataDir, defaultNetworkName, "[1f]*"))
	if err != nil || len(addresses) != 4 {
		t.Errorf("addresses %v, %v", addresses, err)
	}
	for _, id := range ids {
		if err := f.Detach(t.Context(), id, ""); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddressesRunOut(t *testing.T) {
	f := newFixture(t, nil)
	f.writeConf(t, "10-small.conflist", strings.ReplaceAll(f.defaultConfDoc(t, "small", nil), ".0/24", ".0/30"))
	if _, err := f.Attach(t.Context(), Attachment{ID: "pod-1", NetNS: newNetNS(t)}); err != nil {
		t.Fatal(err)
	}
	_, err := f.Attach(t.Context(), Attachment{ID: "pod-2", NetNS: newNetNS(t)})
	if err == nil || !strings.Contains(err.Error(), "no IP addresses available") {
		t.Fatalf("error is %v", err)
	}
	f.wantClean(t, "pod-2")
	if n := ports(t, f.cfg.DefaultNetwork.Bridge); n != 1 {
		t.Errorf("%d ports", n)
	}
	if err := f.Detach(t.Context(), "pod-1", ""); err != nil {
		t.Fatal(err)
	}
}

// TestCancelledAttach gives up while it waits for its turn.
func TestCancelledAttach(t *testing.T) {
	f := newFixture(t, nil)
	if err := f.rtnl.Acquire(t.Context(), int64(f.Network.cfg.MaxParallel)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	netns := newNetNS(t)
	go func() {
		_, err := f.Attach(ctx, Attachment{ID: "cancel", NetNS: netns})
		done <- err
	}()
	eventually(t, "intent", func() bool { _, err := f.loadIntent("cancel"); return err == nil })
	cancel()
	// Even the undoing waits for its turn.
	eventually(t, "undoing", func() bool { return !f.isLive("cancel") })
	f.rtnl.Release(int64(f.Network.cfg.MaxParallel))
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	f.wantClean(t, "cancel")
}
