package workshop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

// patience is how long one command may take; a mirror may be slow.
const patience = time.Minute

func TestWorkshop(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	klog.SetOutput(io.Discard)
	source, err := image.SourceDir()
	must(t, err)
	steps, err := read(filepath.Join(source, "..", "..", "docs", "workshop.md"))
	must(t, err)
	n, bins := start(t)
	bin := filepath.Join(n.Dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	must(t, os.Symlink(bins.Node, filepath.Join(bin, "cri-node")))
	dir := t.TempDir()
	term, err := open(t.Context(), dir, []string{"CRI_NODE_ADDRESS=" + n.Endpoint(), "PATH=" + bin + ":" + os.Getenv("PATH")})
	must(t, err)
	defer func() { must(t, term.close()) }()
	_, err = term.expect(patience, "$")
	must(t, err)
	at := "$"
	noMirror := false
	for _, s := range steps {
		if s.mirror && noMirror {
			continue
		}
		if s.mirror && s.prompt == "$" && !mirror(t.Context()) {
			t.Logf("docs/workshop.md:%d: no mirror of Debian here: left out", s.line)
			noMirror = true
			continue
		}
		if s.prompt != at {
			t.Fatalf("docs/workshop.md:%d: %q is typed at %q, and the terminal is at %q", s.line, s.typed, s.prompt, at)
		}
		must(t, term.enter(s.typed))
		if at, err = term.expect(patience, "$", "#", ">>>"); err != nil {
			t.Fatalf("docs/workshop.md:%d: %s: %v\n%s", s.line, s.typed, err, n.LogTail(30))
		}
		if err := matches(s.shows, term.shown()); err != nil {
			t.Fatalf("docs/workshop.md:%d: %s: %v; the terminal shows\n%s\n%s", s.line, s.typed, err, term.shown(), n.LogTail(30))
		}
	}
	if at != "$" {
		t.Errorf("the workshop ends at %q", at)
	}
}

// start starts a node for which docker.io is a registry of the test.
func start(t *testing.T) (*node.Node, node.Binaries) {
	t.Helper()
	dir := t.TempDir()
	bin, err := node.FindBinaries(t.Context(), dir)
	must(t, err)
	r, err := registry.Start()
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	must(t, push(t.Context(), r))
	n, err := node.Start(t.Context(), node.Options{Binaries: bin, Number: 7})
	must(t, err)
	before, err := invariant.Collect(n.InvariantConfig())
	must(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			must(t, n.Purge(ctx))
			return
		}
		left, err := invariant.Settle(10*time.Second, func() ([]string, error) {
			now, err := invariant.Collect(n.InvariantConfig())
			return invariant.Residue(before, now), err
		})
		if len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		must(t, errors.Join(err, n.Close(ctx), n.Purge(ctx)))
	})
	hosts := filepath.Join(n.CertsDir, "docker.io")
	must(t, os.MkdirAll(hosts, 0o755))
	text := fmt.Sprintf("server = \"http://%[1]s\"\n[host.\"http://%[1]s\"]\n", r.Addr())
	must(t, os.WriteFile(filepath.Join(hosts, "hosts.toml"), []byte(text), 0o600))
	return n, bin
}

// mirror says whether containers can reach a mirror of Debian: they have the
// network that the machine has, less its proxies.
func mirror(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "exec 3<>/dev/tcp/deb.debian.org/80")
	return cmd.Run() == nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
