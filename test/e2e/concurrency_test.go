package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// peak follows the memory of a node's daemon and monitor until ctx ends.
func peak(ctx context.Context, n *node.Node, result *int64) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		daemon, err := n.Daemon()
		if err != nil {
			return err
		}
		monitors, err := n.Monitors()
		if err != nil {
			return err
		}
		pss, err := usage.PSS(append(monitors, daemon)...)
		if err != nil {
			return err
		}
		*result = max(*result, pss)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// onePod takes a pod with a container up; the pod's id comes even with an error.
func (e *env) onePod(ctx context.Context, name, handler string) (string, error) {
	config := e.node.Pod(name).Config()
	id, err := e.node.Runtime.RunPodSandbox(ctx, config, handler)
	if err != nil {
		return "", fmt.Errorf("run pod %s: %w", name, err)
	}
	c, err := e.node.Runtime.CreateContainer(ctx, id, kubelet.Container{Name: "c", Image: shared.image, Command: []string{"sleep", "1000"}}.Config(config), config)
	if err != nil {
		return id, fmt.Errorf("create container of %s: %w", name, err)
	}
	if err := e.node.Runtime.StartContainer(ctx, c); err != nil {
		return id, fmt.Errorf("start container of %s: %w", name, err)
	}
	return id, nil
}

// parallel calls do for 0 … n-1, at most workers at a time.
func parallel(n, workers int, do func(i int) error) error {
	next := make(chan int)
	errs := make(chan error, n)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := range next {
				errs <- do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// Memory that daemon and monitor may have together: while 8 pods at a time are
// started, which touches most of the program, and with all pods up, when they have
// come to rest.
const (
	busyMemory = 60_000_000
	restMemory = 40 << 20
)

// TestHundredPods takes 100 pods up and down, 8 at a time, twice.
func TestHundredPods(t *testing.T) {
	const workers = 8
	pods := pace.Count(100, 16)
	e := ownNode(t, node.Options{Number: 4})
	baseline, err := invariant.Collect(e.node.InvariantConfig())
	e.must(err)
	var most int64
	watching, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- peak(watching, e.node, &most) }()
	for round := range 2 {
		ids := make([]string, pods)
		began := time.Now()
		if err := parallel(pods, workers, func(i int) (err error) {
			ids[i], err = e.onePod(t.Context(), fmt.Sprintf("pod-%d-%d", round, i), "")
			return err
		}); err != nil {
			t.Error(err)
		}
		t.Logf("round %d: %d pods up in %v", round, pods, time.Since(began))
		e.check()
		e.comesToRest()
		all, err := usage.Processes()
		e.must(err)
		daemon, err := e.node.Daemon()
		e.must(err)
		ours := 0
		for _, p := range all {
			if p.Exe == daemon.Exe && p.PPID != p.PID {
				ours++
			}
		}
		// Other nodes of the tests run the same binary: the daemon and monitor
		// of this one and of the shared one.
		if ours > 4 {
			t.Errorf("%d processes of ours for %d pods", ours, pods)
		}
		began = time.Now()
		if err := parallel(pods, workers, func(i int) error {
			if ids[i] == "" {
				return nil
			}
			return errors.Join(e.node.Runtime.StopPodSandbox(t.Context(), ids[i]), e.node.Runtime.RemovePodSandbox(t.Context(), ids[i]))
		}); err != nil {
			t.Error(err)
		}
		t.Logf("round %d: %d pods down in %v", round, pods, time.Since(began))
		e.residue(baseline)
	}
	stop()
	e.must(<-watched)
	t.Logf("daemon and monitor at their peak: %.1f MB PSS", float64(most)/1e6)
	if most > busyMemory {
		t.Errorf("daemon and monitor have %d bytes PSS at their peak, more than %d", most, busyMemory)
	}
	e.descriptors()
}

// comesToRest waits until daemon and monitor have given back what work needed.
func (e *env) comesToRest() {
	e.Helper()
	var rest int64
	e.eventually(pace.Limit(30*time.Second), func() error {
		daemon, err := e.node.Daemon()
		if err != nil {
			return err
		}
		monitors, err := e.node.Monitors()
		if err != nil {
			return err
		}
		if rest, err = usage.PSS(append(monitors, daemon)...); err != nil {
			return err
		}
		if rest > restMemory {
			return fmt.Errorf("daemon and monitor have %d bytes PSS", rest)
		}
		return nil
	})
	e.Logf("daemon and monitor at rest: %.1f MB PSS", float64(rest)/1e6)
}

// descriptors: with no pods left, daemon and monitor hold few open files.
func (e *env) descriptors() {
	e.Helper()
	daemon, err := e.node.Daemon()
	e.must(err)
	monitors, err := e.node.Monitors()
	e.must(err)
	for _, p := range append(monitors, daemon) {
		n, err := usage.Descriptors(p.PID)
		e.must(err)
		if n > 60 {
			e.Errorf("%q has %d open files and no pod", p.Cmdline(), n)
		}
	}
}

// TestMixedLoad creates, starts, stops and removes at random places at once.
func TestMixedLoad(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		e.must(parallel(pace.Count(24, 8), 8, func(i int) error {
			ctx := e.Context()
			id, err := e.onePod(ctx, fmt.Sprintf("mixed-%s-%d", handler, i), handler)
			if err != nil {
				return err
			}
			// Calls that overlap: remove while stopping, twice.
			var group sync.WaitGroup
			errs := make(chan error, 3)
			group.Go(func() { errs <- e.node.Runtime.StopPodSandbox(ctx, id) })
			group.Go(func() { errs <- e.node.Runtime.RemovePodSandbox(ctx, id) })
			if i%2 == 0 {
				group.Go(func() { errs <- e.node.Runtime.RemovePodSandbox(ctx, id) })
			}
			group.Wait()
			close(errs)
			for err := range errs {
				if err != nil {
					return err
				}
			}
			return nil
		}))
	})
}

// TestCancelledCalls leave nothing, wherever they are cut off.
func TestCancelledCalls(t *testing.T) {
	e := onShared(t)
	baseline, err := invariant.Collect(e.node.InvariantConfig())
	e.must(err)
	for _, after := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 15 * time.Millisecond, 30 * time.Millisecond, 60 * time.Millisecond} {
		config := e.node.Pod(fmt.Sprintf("cancelled-%d", after)).Config()
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, first := e.node.Runtime.RunPodSandbox(ctx, config, "")
		cancel()
		id, err := e.node.Runtime.RunPodSandbox(t.Context(), config, "")
		if err != nil {
			t.Errorf("retry of a call cut off after %v (%v): %v", after, first, err)
			continue
		}
		p := &pod{id, config}
		container := kubelet.Container{Name: "c", Image: shared.image, Command: []string{"sleep", "1000"}}.Config(config)
		ctx, cancel = context.WithTimeout(t.Context(), after)
		_, first = e.node.Runtime.CreateContainer(ctx, id, container, config)
		cancel()
		c, err := e.node.Runtime.CreateContainer(t.Context(), id, container, config)
		if err != nil {
			t.Errorf("retry of a create cut off after %v (%v): %v", after, first, err)
		} else {
			e.must(e.node.Runtime.StartContainer(t.Context(), c))
		}
		list, err := e.node.Runtime.ListContainers(t.Context(), nil)
		e.must(err)
		equal(e, "containers", len(list), 1)
		e.removePod(p)
	}
	e.residue(baseline)
}
