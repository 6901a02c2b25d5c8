package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	internalapi "k8s.io/cri-api/pkg/apis"
	criclient "k8s.io/cri-client/pkg"

	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
	"github.com/cri-node/cri-node/test/e2e/cluster/worker"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// The contenders there are.
const (
	nameOurs       = "cri-node"
	nameConfList   = "cri-node-conflist"
	nameContainerd = "containerd"
)

func known() []string { return []string{nameOurs, nameConfList, nameContainerd} }

// contender is a runtime that runs, with a kubelet.
type contender struct {
	worker   *worker.Worker
	endpoint string
	runtime  internalapi.RuntimeService
	meter    meter
	// processes are those of the runtime, and sandboxes those that it keeps in pods
	// beside their containers.
	processes, sandboxes func() ([]usage.Process, error)
	// stop ends what the worker does not.
	stop func(context.Context) error
}

// start starts a runtime and a kubelet in a directory of their own.
func (a *arena) start(ctx context.Context, name, dir string) (c *contender, err error) {
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o755); err != nil {
		return nil, err
	}
	c = &contender{stop: func(context.Context) error { return nil }}
	o := a.workerOptions(dir)
	if name == nameContainerd {
		d, err := a.startContainerd(ctx, dir)
		if err != nil {
			return nil, err
		}
		c.endpoint, c.processes, c.sandboxes, c.stop = d.endpoint(), d.processes, d.sandboxes, d.stop
		o.Endpoint = c.endpoint
	}
	o.Node.NoConfList = name == nameOurs
	if c.worker, err = worker.Start(ctx, o); err != nil {
		return nil, errors.Join(err, c.stop(ctx))
	}
	if n := c.worker.Node; n != nil {
		c.endpoint = n.Endpoint()
		c.sandboxes = func() ([]usage.Process, error) { return nil, nil }
		c.processes = func() ([]usage.Process, error) {
			daemon, err := n.Daemon()
			if err != nil {
				return nil, err
			}
			monitors, err := n.Monitors()
			return append(monitors, daemon), err
		}
	}
	c.runtime, err = criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(c.endpoint).WithConnectionTimeout(2 * time.Minute).Build(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.endpoint, err)
	}
	processes, err := c.processes()
	if err != nil {
		return nil, err
	}
	c.meter, err = newMeter(cage.Cgroup(a.dir)+"/"+filepath.Base(dir)+"-runtime", processes)
	return c, err
}

// version is what the runtime says it is.
func (c *contender) version(ctx context.Context) (string, error) {
	v, err := c.runtime.Version(ctx, "")
	if err != nil {
		return "", err
	}
	return v.GetRuntimeName() + " " + v.GetRuntimeVersion(), nil
}

// close ends kubelet, removes what it has left in the runtime, and ends that.
func (c *contender) close(ctx context.Context) error {
	err := c.worker.StopKubelet()
	all, listErr := c.runtime.ListPodSandbox(ctx, nil)
	err = errors.Join(err, listErr)
	for _, s := range all {
		err = errors.Join(err, c.runtime.StopPodSandbox(ctx, s.GetId()), c.runtime.RemovePodSandbox(ctx, s.GetId()))
	}
	return errors.Join(err, c.runtime.Close(ctx), c.worker.Stop(ctx), c.stop(ctx))
}

// empty reports whether the runtime has neither sandboxes nor containers.
func (c *contender) empty(ctx context.Context) (bool, error) {
	pods, err := c.runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return false, err
	}
	containers, err := c.runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{})
	return len(pods)+len(containers) == 0, err
}
