package spec

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestAdjust(t *testing.T) {
	rootfs := t.TempDir()
	if err := os.Mkdir(filepath.Join(rootfs, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
		"group":  "root:x:0:\nextra:x:50:web\n",
	} {
		if err := os.WriteFile(filepath.Join(rootfs, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	process := func() *specs.Process {
		caps := []string{"CAP_CHOWN", "CAP_KILL"}
		return &specs.Process{
			Env: []string{"A=1", "B=2"}, Cwd: "/", ApparmorProfile: "p", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		}
	}
	p := process()
	if err := Adjust(p, rootfs, ExecOptions{Env: []string{"A=3", "B", "C=x=y"}, Workdir: "/srv/../tmp", User: "web"}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Env, []string{"A=3", "C=x=y"}) || p.Cwd != "/tmp" {
		t.Errorf("%q in %s", p.Env, p.Cwd)
	}
	if p.User.UID != 33 || p.User.GID != 34 || !slices.Equal(p.User.AdditionalGids, []uint32{34, 50}) {
		t.Errorf("%+v", p.User)
	}
	if len(p.Capabilities.Effective) != 0 || len(p.Capabilities.Bounding) != 2 {
		t.Errorf("%+v", p.Capabilities)
	}
	p = process()
	if err := Adjust(p, rootfs, ExecOptions{User: "7:8", Privileged: true}); err != nil {
		t.Fatal(err)
	}
	if p.User.UID != 7 || p.User.GID != 8 || len(p.Capabilities.Effective) < 3 || p.ApparmorProfile != "" || p.NoNewPrivileges {
		t.Errorf("%+v %+v", p.User, p.Capabilities)
	}
	for _, bad := range []ExecOptions{
		{User: "nobody"}, {User: "4294967296"}, {User: "0x0"}, {Workdir: "srv"}, {Env: []string{"=x"}}, {Env: []string{"A=\x00"}},
	} {
		if err := Adjust(process(), rootfs, bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
