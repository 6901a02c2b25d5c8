package invariant_test

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/invariant"
)

var (
	pod = strings.Repeat("a", 64)
	ctr = strings.Repeat("b", 64)
	odd = strings.Repeat("c", 64)
)

func TestCheck(t *testing.T) {
	view := func() invariant.View {
		return invariant.View{
			Sandboxes:  []invariant.Sandbox{{ID: pod, Key: "a", Ready: true, IPs: []string{"10.1.0.2"}}},
			Containers: []invariant.Container{{ID: ctr, SandboxID: pod, Key: "c/0", State: "RUNNING"}},
		}
	}
	facts := func() []invariant.Fact {
		return []invariant.Fact{
			{Kind: invariant.NetNS, What: "/s/" + pod, IDs: []string{pod}},
			{Kind: invariant.Port, What: "veth0"},
			{Kind: invariant.Lease, What: "10.1.0.2 of " + pod + " eth0", IDs: []string{pod}},
			{Kind: invariant.Address, What: "10.1.0.2 in /s/" + pod, IDs: []string{pod}},
			{Kind: invariant.Process, What: "1 " + ctr, IDs: []string{ctr}},
		}
	}
	for _, tc := range []struct {
		name   string
		change func(v *invariant.View, f *[]invariant.Fact)
		want   string // "" is nothing wrong
	}{
		{"true", func(*invariant.View, *[]invariant.Fact) {}, ""},
		{"orphan mount", func(_ *invariant.View, f *[]invariant.Fact) {
			*f = append(*f, invariant.Fact{Kind: invariant.Mount, What: odd, IDs: []string{odd}})
		}, "nobody owns"},
		{"two monitors", func(_ *invariant.View, f *[]invariant.Fact) {
			*f = append(*f, invariant.Fact{Kind: invariant.Monitor}, invariant.Fact{Kind: invariant.Monitor})
		}, "2 monitors"},
		{"not running", func(_ *invariant.View, f *[]invariant.Fact) { *f = (*f)[:4] }, "RUNNING and has no process"},
		{"not exited", func(v *invariant.View, _ *[]invariant.Fact) { v.Containers[0].State = "EXITED" }, "EXITED and has a process"},
		{"stopped keeps lease", func(v *invariant.View, _ *[]invariant.Fact) { v.Sandboxes[0].Ready = false }, "a stopped pod has lease"},
		{"no lease", func(_ *invariant.View, f *[]invariant.Fact) { *f = slices.Delete(*f, 2, 3) }, "not leased"},
		{"wrong address", func(v *invariant.View, _ *[]invariant.Fact) { v.Sandboxes[0].IPs = []string{"10.1.0.9"} }, "not in the status"},
		{"wrong address inside", func(_ *invariant.View, f *[]invariant.Fact) { (*f)[3].What = "10.1.0.9 in /s/" + pod }, "inside"},
		{"same address inside", func(_ *invariant.View, f *[]invariant.Fact) { *f = append(*f, (*f)[3]) }, "in both"},
		{"open file", func(_ *invariant.View, f *[]invariant.Fact) {
			*f = append(*f, invariant.Fact{Kind: invariant.Mode, What: "/s/f is writable to the world"})
		}, "writable"},
		{"same name", func(v *invariant.View, _ *[]invariant.Fact) {
			v.Sandboxes = append(v.Sandboxes, invariant.Sandbox{ID: odd, Key: "a"})
		}, "two sandboxes are named"},
		{"container without pod", func(v *invariant.View, _ *[]invariant.Fact) { v.Containers[0].SandboxID = odd }, "not listed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v, f := view(), facts()
			tc.change(&v, &f)
			wrong := strings.Join(invariant.Check(f, v), "\n")
			if tc.want == "" && wrong != "" || !strings.Contains(wrong, tc.want) {
				t.Fatalf("want %q, got %q", tc.want, wrong)
			}
		})
	}
}

func TestStore(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, "image", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wrong := func() string {
		t.Helper()
		facts, err := invariant.Collect(invariant.Config{Root: root, State: filepath.Join(root, "state")})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(invariant.Check(slices.DeleteFunc(facts, func(f invariant.Fact) bool { return f.Kind != invariant.Store }), invariant.View{}), "\n")
	}
	blob := fmt.Sprintf("%x", sha256.Sum256([]byte("config")))
	write("blobs/sha256/"+blob, "config")
	write("layers/"+ctr+"/diff/f", "x")
	write("images/"+blob+".json", `{"names":["a@sha256:`+odd+`"],"id":"sha256:`+blob+`","layers":["sha256:`+ctr+`"]}`)
	if got := wrong(); got != "" {
		t.Errorf("a store that is whole: %s", got)
	}
	write("staging/x/f", "")
	write("layers/"+odd+"/diff/f", "")
	write("rootfs/"+pod+"/rootfs.json", `{"layers":["sha256:`+pod+`"]}`)
	write("blobs/sha256/"+blob, "other")
	got := wrong()
	for _, want := range []string{"staging holds x", "nothing needs layers/" + odd, "there for " + pod, "content of blob " + blob} {
		if !strings.Contains(got, want) {
			t.Errorf("findings lack %q:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n"); n != 3 {
		t.Errorf("%d findings instead of 4:\n%s", n+1, got)
	}
}

func TestCollect(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	c := invariant.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"),
		LeaseDir: filepath.Join(dir, "leases"), Subnets: []netip.Prefix{netip.MustParsePrefix("10.254.253.0/24")}}
	for _, d := range []string{c.Root, filepath.Join(c.State, pod), filepath.Join(c.LeaseDir, "net"), filepath.Join(c.Root, "images", "blobs", odd)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"10.254.253.2": pod + "\r\neth0", "lock": "", "last_reserved_ip.0": "10.254.253.2"} {
		if err := os.WriteFile(filepath.Join(c.LeaseDir, "net", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before, err := invariant.Collect(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(c.State, pod), "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(c.State, pod), unix.MNT_DETACH) })
	sleeper := exec.Command("sh", "-c", "read x; : "+c.State)
	stdin, err := sleeper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = sleeper.Wait() })
	after, err := invariant.Collect(c)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, f := range before {
		kinds[f.Kind]++
	}
	if kinds[invariant.Path] != 1 || kinds[invariant.Lease] != 1 || kinds[invariant.Rule] != 0 {
		t.Fatalf("before: %v", before)
	}
	if left := invariant.Residue(before, after); len(left) != 2 {
		t.Fatalf("residue: %q", left)
	}
}
