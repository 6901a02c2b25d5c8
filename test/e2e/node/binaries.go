package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/cri-node/cri-node/test/e2e/image"
)

// BinDirVariable names the environment variable with the folder of cri-node,
// runc and cni/. Without it the folder bin of the repository is used for what
// others made, and cri-node is built afresh.
const BinDirVariable = "CRI_NODE_BIN_DIR"

// Binaries are the executables a node needs.
type Binaries struct {
	Node string
	// Handlers are the OCI runtimes found, by name.
	Handlers map[string]string
	CNI      string
	// Gate holds operations at exact places (test/e2e/gate).
	Gate string
	// Sweeper purges nodes of tests that were killed (test/e2e/sweeper).
	Sweeper string
}

// FindBinaries locates or builds all of them; dir takes what it builds.
func FindBinaries(ctx context.Context, dir string) (Binaries, error) {
	source, err := image.SourceDir()
	if err != nil {
		return Binaries{}, err
	}
	repo := filepath.Dir(filepath.Dir(source))
	bin := os.Getenv(BinDirVariable)
	b := Binaries{Handlers: map[string]string{}, Gate: filepath.Join(dir, "gate"), Sweeper: filepath.Join(dir, "sweeper")}
	if bin != "" {
		b.Node = filepath.Join(bin, "cri-node")
	}
	if _, err := os.Stat(b.Node); err != nil {
		b.Node = filepath.Join(dir, "cri-node")
		if err := image.Compile(ctx, filepath.Join(repo, "cmd", "cri-node"), b.Node); err != nil {
			return Binaries{}, err
		}
	}
	if bin == "" {
		bin = filepath.Join(repo, "bin")
	}
	for _, name := range []string{"runc", "crun"} {
		if path, err := findExecutable(bin, name); err == nil {
			b.Handlers[name] = path
		}
	}
	if len(b.Handlers) == 0 {
		return Binaries{}, fmt.Errorf("no OCI runtime in %s or $PATH: run make deps", bin)
	}
	for _, dir := range []string{filepath.Join(bin, "cni"), "/opt/cni/bin", "/usr/lib/cni"} {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			b.CNI = dir
			break
		}
	}
	if b.CNI == "" {
		return Binaries{}, errors.New("no CNI plugins: run make deps")
	}
	return b, errors.Join(image.Compile(ctx, filepath.Join(source, "gate"), b.Gate), image.Compile(ctx, filepath.Join(source, "sweeper"), b.Sweeper))
}

func findExecutable(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
		return path, nil
	}
	return exec.LookPath(name)
}
