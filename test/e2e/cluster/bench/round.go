package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/pace"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// calm is how long a runtime is left alone before its memory and its processor time
// at rest are read.
const calm = 10 * time.Second

// part is what one way of starting and deleting pods came to.
type part struct {
	// Up and Down are kubelet's metrics while pods started and while they went.
	Up, Down snapshot
	// SLI are the values that Up has in its histogram, and Ready and Gone what a
	// client saw from its call on; sorted, in seconds.
	SLI, Ready, Gone []float64
	// Fraction is the mean of what the time stamps of the pods' creations lack, which
	// have whole seconds, in seconds.
	Fraction float64
	// CPU is the runtime's processor time for each pod that started, in seconds.
	CPU float64
}

// result is what one round of a contender came to.
type result struct {
	Name, Version, Load string
	Round               int
	One, Many           part
	// What the runtime has while the pods are up and nothing is asked for but by
	// kubelet: how many processes, bytes of PSS, part of one processor.
	Processes, Sandboxes      int
	Memory, SandboxMemory     int64
	MemoryBefore              int64
	CPU                       float64
	Rest                      snapshot
	ProcessesBefore, PodCount int
}

// measure makes one round.
func (a *arena) measure(ctx context.Context, name string, round int) (r *result, err error) {
	dir := filepath.Join(a.dir, fmt.Sprintf("%d-%s", round, name))
	c, err := a.start(ctx, name, dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		err = errors.Join(err, c.close(clean), a.forget(clean), a.keepLogs(dir))
	}()
	r = &result{Name: name, Round: round, PodCount: a.options.pods}
	if r.Version, err = c.version(ctx); err != nil {
		return nil, err
	}
	if err := a.warm(ctx); err != nil {
		return nil, fmt.Errorf("start the first pod: %w", err)
	}
	if err := until(ctx, time.Now().Add(calm)); err != nil {
		return nil, err
	}
	before, err := c.processes()
	if err != nil {
		return nil, err
	}
	r.ProcessesBefore = len(before)
	if r.MemoryBefore, err = usage.PSS(before...); err != nil {
		return nil, err
	}
	if r.One, err = a.part(ctx, c, "one", 1, func() error { return a.restUp(ctx, c, r) }); err != nil {
		return nil, err
	}
	r.Load = load()
	if r.Many, err = a.part(ctx, c, "many", a.options.parallel, func() error { return nil }); err != nil {
		return nil, err
	}
	return r, nil
}

// keepLogs copies the logs of a round where that is asked for.
func (a *arena) keepLogs(dir string) error {
	if a.options.logs == "" {
		return nil
	}
	return os.CopyFS(filepath.Join(a.options.logs, filepath.Base(dir)), os.DirFS(filepath.Join(dir, "logs")))
}

// load is the load of the machine in the last minute.
func load() string {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	return first
}

// warm has one pod come and go: it pulls the image and starts what starts late.
func (a *arena) warm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(limit))
	defer cancel()
	// The controllers make it.
	err := poll(ctx, 100*time.Millisecond, func(ctx context.Context) (bool, error) {
		_, err := a.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	w, err := a.newWitness(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	one := *a
	one.options.pods = 1
	if _, err := one.up(ctx, w, "warm", 1); err != nil {
		return err
	}
	_, err = one.down(ctx, w, "warm", 1)
	return err
}

// awaitEmpty waits until kubelet has removed what the pods were, which it does once
// a minute.
func (a *arena) awaitEmpty(ctx context.Context, c *contender) error {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(limit))
	defer cancel()
	if err := poll(ctx, time.Second, c.empty); err != nil {
		return fmt.Errorf("wait until the runtime is empty: %w", err)
	}
	return nil
}

// part has pods come, calls between, and has them go.
func (a *arena) part(ctx context.Context, c *contender, prefix string, parallel int, between func() error) (p part, err error) {
	w, err := a.newWitness(ctx)
	if err != nil {
		return p, err
	}
	defer w.close()
	var spans map[string]span
	p.Up, p.CPU, err = a.metered(ctx, c, func() error {
		if spans, err = a.up(ctx, w, prefix, parallel); err != nil {
			return err
		}
		// kubelet counts the last one when it sees what the API server has got of it.
		return until(ctx, time.Now().Add(time.Second))
	})
	if err != nil {
		return p, err
	}
	p.Ready = seconds(spans)
	for _, s := range spans {
		p.Fraction += s.asked.Sub(s.stamp).Seconds() / float64(len(spans))
	}
	if p.SLI, err = startupsLogged(c.worker.Kubelet().Spec.Log(), prefix+"-"); err != nil {
		return p, err
	}
	if err := between(); err != nil {
		return p, err
	}
	p.Down, _, err = a.metered(ctx, c, func() error {
		if spans, err = a.down(ctx, w, prefix, parallel); err != nil {
			return err
		}
		return a.awaitEmpty(ctx, c)
	})
	p.Gone = seconds(spans)
	return p, err
}

// metered calls do, and says what kubelet counted meanwhile and what processor time
// the runtime used for each pod.
func (a *arena) metered(ctx context.Context, c *contender, do func() error) (snapshot, float64, error) {
	before, err := a.scrape(ctx)
	if err != nil {
		return nil, 0, err
	}
	began, err := c.meter.read()
	if err != nil {
		return nil, 0, err
	}
	if err := do(); err != nil {
		return nil, 0, err
	}
	ended, err := c.meter.read()
	if err != nil {
		return nil, 0, err
	}
	after, err := a.scrape(ctx)
	return after.since(before), (ended - began).Seconds() / float64(a.options.pods), err
}

// restUp measures the runtime with the pods up, and lets what comes after a start
// go by first.
func (a *arena) restUp(ctx context.Context, c *contender, r *result) error {
	if err := until(ctx, time.Now().Add(calm)); err != nil {
		return err
	}
	before, err := a.scrape(ctx)
	if err != nil {
		return err
	}
	began, err := c.meter.read()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := until(ctx, start.Add(time.Duration(a.options.rest)*time.Second)); err != nil {
		return err
	}
	ended, err := c.meter.read()
	if err != nil {
		return err
	}
	r.CPU = (ended - began).Seconds() / time.Since(start).Seconds()
	after, err := a.scrape(ctx)
	if err != nil {
		return err
	}
	r.Rest = after.since(before)
	processes, err := c.processes()
	if err != nil {
		return err
	}
	sandboxes, err := c.sandboxes()
	if err != nil {
		return err
	}
	r.Processes, r.Sandboxes = len(processes), len(sandboxes)
	if r.Memory, err = usage.PSS(processes...); err != nil {
		return err
	}
	r.SandboxMemory, err = usage.PSS(sandboxes...)
	return err
}

// seconds are the lengths of spans, sorted.
func seconds(spans map[string]span) []float64 {
	all := make([]float64, 0, len(spans))
	for s := range maps.Values(spans) {
		all = append(all, s.done.Sub(s.asked).Seconds())
	}
	slices.Sort(all)
	return all
}
