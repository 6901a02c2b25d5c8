package build

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What cri-node is measured beside.
const (
	Containerd = "containerd"
	Shim       = "containerd-shim-runc-v2"
)

var containerd = module{folder: "peer", bin: "peer", pinned: "github.com/containerd/containerd/v2"}

// Peer makes containerd with what it takes, where that is not there yet. Its Pause
// is the one of Kubernetes, in C, which weighs next to nothing: what is ours and
// written in Go would be held against containerd.
func Peer(ctx context.Context) (Programs, error) {
	p, err := containerd.build(ctx, Containerd, Shim)
	if err != nil {
		return Programs{}, err
	}
	if err := p.compilePause(ctx); err != nil {
		return Programs{}, fmt.Errorf("build %s: %w", Pause, err)
	}
	return p, nil
}

// containerdFlags are what its Makefile gives for releases without cgo.
func containerdFlags(name, version, link string) []string {
	tags := "urfave_cli_no_docs,osusergo,netgo,static_build"
	if name == Shim {
		tags += ",no_grpc"
	}
	link += fmt.Sprintf(" -X %s/version.Version=%s", containerd.pinned, version)
	return []string{"-trimpath", "-buildvcs=false", "-tags=" + tags, "-ldflags=" + link}
}

// compilePause makes the program of sandbox containers, with the flags that
// Kubernetes' Makefile has for it.
func (p Programs) compilePause(ctx context.Context) error {
	version, _, err := kubernetes.version()
	if err != nil {
		return err
	}
	stamp := filepath.Join(p.Dir, "."+Pause+".stamp")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == version {
		return nil
	}
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", kubernetes.pinned)
	if list.Dir, err = kubernetes.dir(); err != nil {
		return err
	}
	source, err := list.Output()
	if err != nil {
		return fmt.Errorf("find module %s: %w", kubernetes.pinned, err)
	}
	cc := exec.CommandContext(ctx, "gcc", "-Os", "-Wall", "-static", "-s", "-DVERSION="+version,
		"-o", p.Path(Pause), filepath.Join(strings.TrimSpace(string(source)), "build", "pause", "linux", "pause.c"))
	if out, err := cc.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return os.WriteFile(stamp, []byte(version), 0o644)
}
