package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
	"github.com/cri-node/cri-node/test/e2e/cluster/plane"
	"github.com/cri-node/cri-node/test/e2e/cluster/worker"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

// nodeName is the node's in the cluster, whatever its runtime is.
const nodeName = "node1"

// registryAddress is where the registry is, in the cage.
const registryAddress = "127.0.0.1:5000"

// arena is what all contenders have in common.
type arena struct {
	dir, logs string
	options   options
	prepared  prepared
	plane     *plane.Plane
	client    kubernetes.Interface
	registry  *registry.Registry
	// busybox is the image of the pods, and pause that of containerd's sandboxes.
	busybox, pause string
}

func newArena(ctx context.Context, dir string, o options, p prepared) (*arena, error) {
	a := &arena{dir: dir, logs: filepath.Join(dir, "logs"), options: o, prepared: p}
	var err error
	if a.registry, err = registry.StartAt(registryAddress); err != nil {
		return nil, err
	}
	if err := a.push(ctx); err != nil {
		return nil, err
	}
	a.plane, err = plane.Start(ctx, plane.Options{Programs: p.Programs, Dir: filepath.Join(dir, "plane"), LogDir: a.logs, Host: cage.Host})
	if err != nil {
		return nil, err
	}
	a.client = a.plane.Client()
	return a, nil
}

func (a *arena) close() error { return errors.Join(a.plane.Kill(), a.registry.Close()) }

// push makes the images.
func (a *arena) push(ctx context.Context) error {
	files, err := image.Busybox()
	if err != nil {
		return err
	}
	if a.busybox, err = a.pushOne(ctx, "bench/busybox:1", image.Spec{Layers: [][]image.File{files}}); err != nil {
		return err
	}
	if a.prepared.Peer.Dir == "" {
		return nil
	}
	layer, err := pauseLayer(a.prepared.Peer)
	if err != nil {
		return err
	}
	a.pause, err = a.pushOne(ctx, "bench/pause:1", image.Spec{
		Layers: [][]image.File{layer}, Config: v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"},
	})
	return err
}

func (a *arena) pushOne(ctx context.Context, name string, s image.Spec) (string, error) {
	img, err := image.Build(s)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	_, err = a.registry.Push(ctx, name, img)
	return a.registry.Ref(name), err
}

// workerOptions are those of a node whose files are in a directory.
func (a *arena) workerOptions(dir string) worker.Options {
	return worker.Options{
		Name: nodeName, Programs: a.prepared.Programs, Plane: a.plane, Dir: dir, LogDir: filepath.Join(dir, "logs"),
		Cgroup: cage.Cgroup(a.dir) + "/" + filepath.Base(dir), IP: cage.Host,
		// The log of each request costs what the log of a node would not.
		Node: node.Options{Binaries: a.prepared.Binaries, Kept: true, LogLevel: 1},
		Kubelet: func(c *kubeletconfig.KubeletConfiguration) {
			if a.options.evented {
				c.FeatureGates = map[string]bool{"EventedPLEG": true}
			}
		},
	}
}

// forget takes the node out of the cluster: another comes by its name.
func (a *arena) forget(ctx context.Context) error {
	return a.client.CoreV1().Nodes().Delete(ctx, nodeName, metav1.DeleteOptions{})
}
