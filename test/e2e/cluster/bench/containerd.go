package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	criclient "k8s.io/cri-client/pkg"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/cluster/process"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// Its defaults, but for where things are and what the machine does not allow.
//
//go:embed containerd.toml
var containerdConfig string

// The plugins, with the options, of the conflist that cri-node has in the tests,
// which are those of containerd's documentation.
//
//go:embed containerd.conflist
var containerdConfList string

// daemon is containerd.
type daemon struct {
	dir     string
	peer    build.Programs
	process *process.Process
}

// pauseLayer is the file of the image of sandbox containers.
func pauseLayer(peer build.Programs) ([]image.File, error) {
	data, err := os.ReadFile(peer.Path(build.Pause))
	return []image.File{{Name: "pause", Mode: 0o755, Data: data}}, err
}

// startContainerd starts containerd, with all that it has below a directory, and
// waits until it answers.
func (a *arena) startContainerd(ctx context.Context, dir string) (*daemon, error) {
	d := &daemon{dir: filepath.Join(dir, "containerd"), peer: a.prepared.Peer}
	hosts := filepath.Join(d.dir, "certs.d", registryAddress)
	files := map[string]string{
		filepath.Join(hosts, "hosts.toml"): fmt.Sprintf("server = %q\n", "http://"+registryAddress),
		d.path("net.d/10-bench.conflist"):  containerdConfList,
		d.path("config.toml"): strings.NewReplacer("$dir", d.dir, "$pause", a.pause, "$shim", d.peer.Path(build.Shim),
			"$runc", a.prepared.Binaries.Handlers["runc"], "$cni", a.prepared.Binaries.CNI).Replace(containerdConfig),
	}
	for path, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return nil, err
		}
	}
	var err error
	d.process, err = process.Start(process.Spec{
		Name: "containerd", LogDir: filepath.Join(dir, "logs"), Path: d.peer.Path(build.Containerd),
		Args: []string{"--config", d.path("config.toml")},
		// A shim looks for runc by its name, too.
		Env: []string{"PATH=" + filepath.Dir(a.prepared.Binaries.Handlers["runc"]) + ":" + os.Getenv("PATH")},
	})
	if err != nil {
		return nil, err
	}
	if err := d.await(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start containerd: %w\n%s", err, d.process.Spec.LogTail(20)), d.process.Kill())
	}
	return d, nil
}

// await waits until its CRI answers.
func (d *daemon) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(30*time.Second))
	defer cancel()
	return poll(ctx, 50*time.Millisecond, func(ctx context.Context) (bool, error) {
		if !d.process.Running() {
			return false, errors.New("it has ended")
		}
		if _, err := os.Stat(d.path("containerd.sock")); err != nil {
			return false, nil //nolint:nilerr // it is not there yet
		}
		service, err := criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(d.endpoint()).WithConnectionTimeout(10 * time.Second).Build(ctx)
		if err != nil {
			return false, nil //nolint:nilerr // the plugin does not serve yet
		}
		return true, service.Close(ctx)
	})
}

func (d *daemon) endpoint() string { return "unix://" + d.path("containerd.sock") }

func (d *daemon) path(name string) string { return filepath.Join(d.dir, name) }

// processes are the daemon and the shims.
func (d *daemon) processes() ([]usage.Process, error) {
	all, err := usage.Processes()
	return slices.DeleteFunc(all, func(p usage.Process) bool {
		return filepath.Base(p.Exe) != build.Containerd && filepath.Base(p.Exe) != build.Shim
	}), err
}

// sandboxes are the processes of the containers that hold a pod's namespaces.
func (d *daemon) sandboxes() ([]usage.Process, error) {
	all, err := usage.Processes()
	return slices.DeleteFunc(all, func(p usage.Process) bool { return p.Cmdline() != "/pause" }), err
}

// stop ends it; all pods are gone, and the last shims go.
func (d *daemon) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(20*time.Second))
	defer cancel()
	err := poll(ctx, 50*time.Millisecond, func(context.Context) (bool, error) {
		left, err := d.processes()
		return len(left) <= 1, err
	})
	return errors.Join(err, d.process.Stop(20*time.Second))
}
