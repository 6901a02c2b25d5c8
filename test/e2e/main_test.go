package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

// world is what all tests share. TestMain makes it; nothing changes it later.
type world struct {
	dir      string
	bin      node.Binaries
	registry *registry.Registry
	busybox  []image.File // root file system with /bin/probe
	image    string       // reference of the busybox image
	node     *node.Node
	baseline []invariant.Fact
}

var shared world

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	if os.Getenv(api.PluginNameEnvVar) != "" {
		return runLaunched(context.Background())
	}
	if os.Getuid() != 0 {
		fmt.Println("test/e2e needs root")
		if required("root") {
			return 1
		}
		return 0
	}
	// The client logs each refusal, and many are asked for.
	logging := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logging)
	if err := errors.Join(logging.Set("logtostderr", "false"), logging.Set("stderrthreshold", "FATAL")); err != nil {
		fmt.Println("prepare:", err)
		return 1
	}
	klog.SetOutput(io.Discard)
	ctx := context.Background()
	if err := shared.make(ctx); err != nil {
		fmt.Println("prepare:", err)
		return 1
	}
	defer func() {
		if err := shared.finish(ctx); err != nil {
			fmt.Println("FAIL: at the end:", err)
			code = 1
		}
	}()
	return m.Run()
}

// required reports whether the machine must have the thing.
func required(thing string) bool {
	list := strings.Split(os.Getenv("CRI_NODE_REQUIRE"), ",")
	return slices.Contains(list, thing) || slices.Contains(list, "all")
}

// lacking skips a test for something the machine lacks.
func lacking(t *testing.T, thing, why string) {
	t.Helper()
	if required(thing) {
		t.Fatalf("%s is required: %s", thing, why)
	}
	t.Skip(why)
}

func (w *world) make(ctx context.Context) (err error) {
	if w.dir, err = os.MkdirTemp("", "crie2e"); err != nil {
		return err
	}
	if w.bin, err = node.FindBinaries(ctx, w.dir); err != nil {
		return err
	}
	if w.registry, err = registry.Start(); err != nil {
		return err
	}
	if err := w.makeImages(ctx); err != nil {
		return err
	}
	if w.node, err = w.startNode(ctx, node.Options{}); err != nil {
		return err
	}
	w.baseline, err = invariant.Collect(w.node.InvariantConfig())
	return err
}

// startNode starts a node that has the busybox image.
func (w *world) startNode(ctx context.Context, o node.Options) (*node.Node, error) {
	o.Binaries = w.bin
	n, err := node.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := n.Pull(ctx, w.image); err != nil {
		return nil, fmt.Errorf("pull %s: %w\n%s", w.image, err, n.LogTail(20))
	}
	return n, nil
}

func (w *world) makeImages(ctx context.Context) error {
	source, err := image.SourceDir()
	if err != nil {
		return err
	}
	probe := filepath.Join(w.dir, "probe")
	if err := image.Compile(ctx, filepath.Join(source, "program"), probe); err != nil {
		return err
	}
	binary, err := os.ReadFile(probe)
	if err != nil {
		return err
	}
	if w.busybox, err = image.Busybox(); err != nil {
		return err
	}
	w.busybox = append(w.busybox,
		image.File{Name: "bin/probe", Mode: 0o755, Data: binary},
		// setuid, to show what no_new_privs does
		image.File{Name: "bin/suid-probe", Mode: 0o4755, Data: binary},
		image.Dir("etc/secret"), image.Text("etc/secret/key", "secret\n"), image.Text("etc/masked", "masked\n"),
	)
	img, err := image.Build(image.Spec{Layers: [][]image.File{w.busybox}, Config: v1.Config{Cmd: []string{"/bin/sh"}}})
	if err != nil {
		return err
	}
	w.image = w.registry.Ref("e2e/busybox:1")
	_, err = w.registry.Push(ctx, "e2e/busybox:1", img)
	return err
}

// finish runs the full leak check on the shared node and takes everything down.
func (w *world) finish(ctx context.Context) error {
	left, err := invariant.Settle(10*time.Second, func() ([]string, error) {
		now, err := invariant.Collect(w.node.InvariantConfig())
		return invariant.Residue(w.baseline, now), err
	})
	if len(left) > 0 {
		err = fmt.Errorf("the node left things behind:\n%s", strings.Join(left, "\n"))
	}
	if closeErr := w.node.Close(ctx); err == nil {
		err = closeErr
	}
	if keep := os.Getenv("CRI_NODE_E2E_LOG"); keep != "" {
		_ = os.WriteFile(keep, []byte(w.node.LogFrom(0)), 0o600)
	}
	if purgeErr := w.node.Purge(ctx); err == nil {
		err = purgeErr
	}
	if closeErr := w.registry.Close(); err == nil {
		err = closeErr
	}
	if removeErr := os.RemoveAll(w.dir); err == nil {
		err = removeErr
	}
	return err
}
