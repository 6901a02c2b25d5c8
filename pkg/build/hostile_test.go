package build

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A container that shares a cache puts a link where its neighbour's mount is
// looked up (CVE-2024-23651).
func TestPinIsNotFooled(t *testing.T) {
	needRoot(t)
	host, root := t.TempDir(), t.TempDir()
	write(t, filepath.Join(host, "f"), "of the machine")
	write(t, filepath.Join(root, "sub/f"), "of the cache")
	m := &execMounts{run: &run{dir: t.TempDir()}}
	target, err := m.pin(root, "sub")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err := os.Rename(filepath.Join(root, "sub"), filepath.Join(root, "was")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(host, filepath.Join(root, "sub")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(target, "f")); err != nil || string(got) != "of the cache" {
		t.Errorf("the mount shows %q, %v", got, err)
	}
	// A link that is there before leads nowhere.
	if _, err := m.pin(root, "sub/f"); err == nil {
		t.Error("a link out of the tree was mounted")
	}
}

// A step replaces the parent of a mount point by a link, so that what is taken
// away afterwards would be a file of the machine (CVE-2024-23652).
func TestStubsDoNotFollowLinks(t *testing.T) {
	host, root := t.TempDir(), t.TempDir()
	victim := filepath.Join(host, "empty")
	write(t, victim, "")
	write(t, filepath.Join(root, "kept/empty"), "")
	if err := os.Symlink(host, filepath.Join(root, "m")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/kept", filepath.Join(root, "n")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "gone"), "")
	write(t, filepath.Join(root, "written"), "by the step")
	s := stubs{{path: "/m/empty"}, {path: "/n/empty"}, {path: "/gone"}, {path: "/written"}, {path: "/../../../../../../../.." + victim}}
	if err := s.remove(root); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		victim: true, filepath.Join(root, "kept/empty"): true, filepath.Join(root, "gone"): false, filepath.Join(root, "written"): true,
	} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
}

// Entitlements are looked at where a process runs, whoever made the graph
// (CVE-2024-23653).
func TestEntitlements(t *testing.T) {
	for name, c := range map[string]struct {
		op      *pb.ExecOp
		request Request
		ok      bool
	}{
		"sandbox":           {&pb.ExecOp{}, Request{}, true},
		"insecure":          {&pb.ExecOp{Security: pb.SecurityMode_INSECURE}, Request{}, false},
		"insecure, allowed": {&pb.ExecOp{Security: pb.SecurityMode_INSECURE}, Request{Allow: []string{"security.insecure"}}, true},
		"host":              {&pb.ExecOp{Network: pb.NetMode_HOST}, Request{Allow: []string{"security.insecure"}}, false},
		"host, allowed":     {&pb.ExecOp{Network: pb.NetMode_HOST}, Request{Allow: []string{"network.host"}}, true},
		"host, asked for":   {&pb.ExecOp{Network: pb.NetMode_HOST}, Request{Network: "host"}, true},
		"device":            {&pb.ExecOp{CdiDevices: []*pb.CDIDevice{{Name: "x"}}}, Request{}, false},
	} {
		r := &run{request: &c.request}
		if err := r.checkExec(c.op); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Accounts are those of the image, never the machine's.
func TestLookupOwner(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0::/:\nbob:x:7:8::/:\nbig:x:4294967296:0::/:\n")
	write(t, filepath.Join(root, "etc/group"), "staff:x:9:\n")
	name := func(n string) *pb.UserOpt {
		return &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: n}}}
	}
	id := func(n uint32) *pb.UserOpt { return &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: n}} }
	for _, c := range []struct {
		opt      *pb.ChownOpt
		uid, gid int
		ok       bool
	}{
		{&pb.ChownOpt{User: name("bob")}, 7, 8, true},
		{&pb.ChownOpt{User: name("bob"), Group: name("staff")}, 7, 9, true},
		{&pb.ChownOpt{User: id(7), Group: id(5)}, 7, 5, true},
		{&pb.ChownOpt{User: name("big")}, 0, 0, false},
		{&pb.ChownOpt{User: name("daemon")}, 0, 0, false},
		{&pb.ChownOpt{User: name("bob"), Group: name("bob")}, 0, 0, false},
	} {
		u, err := lookupOwner(root, c.opt)
		if (err == nil) != c.ok || c.ok && (u.UID != c.uid || u.GID != c.gid) {
			t.Errorf("%v: %v, %v", c.opt, u, err)
		}
	}
}

// A Dockerfile of very many lines is refused before anything is made of it.
func TestManyInstructions(t *testing.T) {
	many := "FROM scratch\n" + strings.Repeat("ENV a=b\n", maxVertices)
	if err := checkExpansion([]byte(many), nil); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// A git server that never answers does not keep a build from ending.
func TestGitEndsWithItsBuild(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not on this machine")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	accepted := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		close(accepted)
		<-t.Context().Done()
		_ = c.Close()
	}()
	go func() { <-accepted; cancel() }()
	dir := t.TempDir()
	g := gitCommand{program: git, dir: dir, home: dir, out: &bytes.Buffer{}}
	ended := make(chan error, 1)
	go func() { ended <- g.run(ctx, "ls-remote", "--", "http://"+l.Addr().String()+"/r.git") }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it has found a repository")
		}
	case <-time.After(60 * time.Second):
		t.Fatal("git goes on")
	}
}
