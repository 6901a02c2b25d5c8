package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// bench is one run against one runtime.
type bench struct {
	options
	handler string
	runtime internalapi.RuntimeService
	imageID string
	logs    string
}

// unit is a pod with its container.
type unit struct {
	pod, container string
}

// The phases of a pod's life that are also told as sums.
var (
	upCalls   = []string{"RunPodSandbox", "CreateContainer", "StartContainer"}
	downCalls = []string{"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"}
)

// measure makes all rounds.
func (b *bench) measure(ctx context.Context) (*report, error) {
	version, err := b.runtime.Version(ctx, "0.1.0")
	if err != nil {
		return nil, err
	}
	r := &report{
		Runtime: version.RuntimeName + " " + version.RuntimeVersion, Handler: b.handler,
		Pods: b.pods, Parallel: b.parallel, Date: time.Now().UTC().Format(time.RFC3339),
	}
	// One pod that does not count: it fills caches and starts what starts late.
	if err := b.round(ctx, "warm-up", 1, 1, newSamples(), nil); err != nil {
		return nil, err
	}
	if r.AtRest, err = b.costAtRest(ctx); err != nil {
		return nil, err
	}
	one := newSamples()
	err = b.round(ctx, "one", b.pods, 1, one, func(up []unit) error {
		if r.AtWork, err = b.cost(); err != nil {
			return err
		}
		if err := b.questions(ctx, up, one); err != nil {
			return err
		}
		if r.WithPods, err = b.costAtRest(ctx); err != nil || b.node == "" {
			return err
		}
		return b.people(ctx, one)
	})
	if err != nil {
		return nil, err
	}
	r.Sequential = one.summaries()
	if b.many > 0 {
		crowd := newSamples()
		if err := b.round(ctx, "crowd", b.many, max(1, b.parallel), newSamples(), func([]unit) error { return b.statistics(ctx, crowd) }); err != nil {
			return nil, err
		}
		r.Many, r.Crowd = b.many, crowd.summaries()
	}
	if b.parallel < 1 {
		return r, nil
	}
	many := newSamples()
	began := time.Now()
	err = b.round(ctx, "many", b.pods, b.parallel, many, func([]unit) error {
		r.UpSeconds = time.Since(began).Seconds()
		if r.WithPodsParallel, err = b.cost(); err != nil {
			return err
		}
		began = time.Now()
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.DownSeconds = time.Since(began).Seconds()
	r.Concurrent = many.summaries()
	return r, nil
}

// round takes pods up, some at a time, calls between while all are up, and takes
// them down again, whatever has happened.
func (b *bench) round(ctx context.Context, name string, pods, workers int, s *samples, between func([]unit) error) error {
	units := make([]unit, pods)
	err := each(pods, workers, func(i int) error { return b.up(ctx, fmt.Sprintf("bench-%s-%d", name, i), &units[i], s) })
	if err == nil && between != nil {
		err = between(units)
	}
	clean := context.WithoutCancel(ctx)
	return errors.Join(err, each(pods, workers, func(i int) error { return b.down(clean, units[i], s) }))
}

// each calls do for 0 … n-1, at most workers at a time.
func each(n, workers int, do func(i int) error) error {
	next, errs := make(chan int), make([]error, n)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := range next {
				errs[i] = do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	return errors.Join(errs...)
}

func (b *bench) up(ctx context.Context, name string, u *unit, s *samples) error {
	config := kubelet.Pod{
		Name: name, Namespace: "bench", CgroupParent: b.cgroupParent, LogDirectory: filepath.Join(b.logs, name),
	}.Config()
	container := kubelet.Container{Name: "c", Image: b.imageID, Command: []string{"sleep", "100000"}}.Config(config)
	return s.time("up", func() error {
		err := s.time("RunPodSandbox", func() (err error) {
			u.pod, err = b.runtime.RunPodSandbox(ctx, config, b.handler)
			return err
		})
		if err != nil {
			return fmt.Errorf("run pod %s: %w", name, err)
		}
		err = s.time("CreateContainer", func() (err error) {
			u.container, err = b.runtime.CreateContainer(ctx, u.pod, container, config)
			return err
		})
		if err != nil {
			return fmt.Errorf("create container of %s: %w", name, err)
		}
		if err := s.time("StartContainer", func() error { return b.runtime.StartContainer(ctx, u.container) }); err != nil {
			return fmt.Errorf("start container of %s: %w", name, err)
		}
		return nil
	})
}

func (b *bench) down(ctx context.Context, u unit, s *samples) error {
	if u.pod == "" {
		return nil
	}
	return s.time("down", func() error {
		var errs []error
		if u.container != "" {
			errs = append(errs,
				s.time("StopContainer", func() error { return b.runtime.StopContainer(ctx, u.container, 0) }),
				s.time("RemoveContainer", func() error { return b.runtime.RemoveContainer(ctx, u.container) }))
		}
		return errors.Join(append(errs,
			s.time("StopPodSandbox", func() error { return b.runtime.StopPodSandbox(ctx, u.pod) }),
			s.time("RemovePodSandbox", func() error { return b.runtime.RemovePodSandbox(ctx, u.pod) }))...)
	})
}

// questions times what kubelet asks while pods run.
func (b *bench) questions(ctx context.Context, up []unit, s *samples) error {
	for i := range b.execs {
		err := s.time("ExecSync true", func() error {
			_, _, err := b.runtime.ExecSync(ctx, up[i%len(up)].container, []string{"true"}, 10*time.Second)
			return err
		})
		if err != nil {
			return fmt.Errorf("exec: %w", err)
		}
	}
	for _, q := range []struct {
		name string
		ask  func(i int) error
	}{
		{"ListPodSandbox", func(int) error { _, err := b.runtime.ListPodSandbox(ctx, nil); return err }},
		{"ListContainers", func(int) error { _, err := b.runtime.ListContainers(ctx, nil); return err }},
		{"PodSandboxStatus", func(i int) error { _, err := b.runtime.PodSandboxStatus(ctx, up[i%len(up)].pod, false); return err }},
		{"ContainerStatus", func(i int) error {
			_, err := b.runtime.ContainerStatus(ctx, up[i%len(up)].container, false)
			return err
		}},
		{"ListContainerStats", func(int) error { _, err := b.runtime.ListContainerStats(ctx, nil); return err }},
	} {
		for i := range b.lists {
			err := s.time(q.name, func() error { return q.ask(i) })
			if status.Code(err) == codes.Unimplemented {
				break // the table says so by its absence
			}
			if err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
		}
	}
	return nil
}

// statisticsGap is longer than a runtime should remember what it has read: each
// call is to read anew.
const statisticsGap = 1100 * time.Millisecond

// statistics times what monitoring asks while many pods run.
func (b *bench) statistics(ctx context.Context, s *samples) error {
	gap := time.NewTicker(statisticsGap)
	defer gap.Stop()
	for _, q := range []struct {
		name string
		ask  func() error
	}{
		{"ListContainerStats", func() error { _, err := b.runtime.ListContainerStats(ctx, nil); return err }},
		{"ListPodSandboxStats", func() error { _, err := b.runtime.ListPodSandboxStats(ctx, nil); return err }},
		{"ListPodSandboxMetrics", func() error { _, err := b.runtime.ListPodSandboxMetrics(ctx); return err }},
	} {
		for range max(1, b.lists/10) {
			select {
			case <-gap.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			err := s.time(q.name, q.ask)
			if status.Code(err) == codes.Unimplemented {
				break
			}
			if err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
		}
	}
	return nil
}

// cost is what the runtime's processes take.
type cost struct {
	Processes int   `json:"processes"`
	PSS       int64 `json:"pss_bytes"`
}

// restTime is without calls, so that what a runtime keeps is told from what its
// last work has needed.
const restTime = 8 * time.Second

func (b *bench) costAtRest(ctx context.Context) (cost, error) {
	select {
	case <-ctx.Done():
		return cost{}, ctx.Err()
	case <-time.After(restTime):
		return b.cost()
	}
}

func (b *bench) cost() (cost, error) {
	found, err := b.processes.list()
	if err != nil {
		return cost{}, err
	}
	pss, err := usage.PSS(found...)
	return cost{len(found), pss}, err
}
