package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Status is how a container is; none where nobody asks.
type Status string

// The states, see the package comment.
const (
	None      Status = ""
	Starting  Status = "starting"
	Healthy   Status = "healthy"
	Unhealthy Status = "unhealthy"
)

// Config is a health check in the form of an image's, whose durations are in
// nanoseconds; 0 is the default.
type Config struct {
	// Test is ["NONE"], ["CMD", args...] or ["CMD-SHELL", command].
	Test          []string      `json:"Test,omitempty"`
	Interval      time.Duration `json:"Interval,omitempty"`
	Timeout       time.Duration `json:"Timeout,omitempty"`
	StartPeriod   time.Duration `json:"StartPeriod,omitempty"`
	StartInterval time.Duration `json:"StartInterval,omitempty"`
	Retries       int           `json:"Retries,omitempty"`
}

// The defaults.
const (
	defaultInterval      = 30 * time.Second
	defaultTimeout       = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
)

// The shortest durations that may be asked for.
const minDuration = time.Millisecond

// Over fills in what c leaves out with what an image has.
func (c Config) Over(image Config) Config {
	if len(c.Test) == 0 {
		c.Test = image.Test
	}
	fill := func(to *time.Duration, from time.Duration) {
		if *to == 0 {
			*to = from
		}
	}
	fill(&c.Interval, image.Interval)
	fill(&c.Timeout, image.Timeout)
	fill(&c.StartPeriod, image.StartPeriod)
	fill(&c.StartInterval, image.StartInterval)
	if c.Retries == 0 {
		c.Retries = image.Retries
	}
	return c
}

// Validate refuses what cannot be a health check. None at all is one.
func (c Config) Validate() error {
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"interval", c.Interval}, {"timeout", c.Timeout}, {"start_period", c.StartPeriod}, {"start_interval", c.StartInterval}} {
		if d.value != 0 && d.value < minDuration {
			return fmt.Errorf("healthcheck.%s: %v is less than %v: %w", d.field, d.value, minDuration, errdefs.ErrInvalidArgument)
		}
	}
	if c.Retries < 0 {
		return fmt.Errorf("healthcheck.retries: is negative: %w", errdefs.ErrInvalidArgument)
	}
	if len(c.Test) == 0 {
		return nil
	}
	args := len(c.Test) - 1
	switch kind := c.Test[0]; {
	case kind == "NONE" && args == 0, kind == "CMD" && args > 0, kind == "CMD-SHELL" && args == 1:
		return nil
	}
	return fmt.Errorf(`healthcheck.test: %.200q is none of ["NONE"], ["CMD", args...] and ["CMD-SHELL", command]: %w`, c.Test, errdefs.ErrInvalidArgument)
}

// Command is what a probe runs, with the shell of the image where the test is
// for one; nil where there is nothing to check.
func (c Config) Command(shell []string) []string {
	if len(c.Test) < 2 {
		return nil
	}
	if c.Test[0] == "CMD-SHELL" {
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(slices.Clone(shell), c.Test[1])
	}
	return c.Test[1:]
}

// maxOutput of a probe is kept, and maxResults probes.
const (
	maxOutput  = 4096
	maxResults = 5
)

// Result is one probe, in docker's form.
type Result struct {
	Start    time.Time
	End      time.Time
	ExitCode int
	Output   string
}

// State is how a container is and why, in docker's form.
type State struct {
	Status        Status
	FailingStreak int
	Log           []Result
}

// Checker probes one run of a container.
type Checker struct {
	config Config
	// began is when the container did.
	began time.Time
	// told is told what each probe has led to.
	told func(now State, changed bool)

	mu    sync.Mutex
	state State
}

// New returns a checker that goes on from a state, which is that of no status for
// a container that has just begun. told is called by Run after each probe, and
// gets to know whether the status is another one.
func New(c Config, began time.Time, from State, told func(now State, changed bool)) *Checker {
	if from.Status == None {
		from = State{Status: Starting}
	}
	if c.Interval == 0 {
		c.Interval = defaultInterval
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.StartInterval == 0 {
		c.StartInterval = defaultStartInterval
	}
	if c.Retries == 0 {
		c.Retries = defaultRetries
	}
	return &Checker{config: c, began: began, told: told, state: from}
}

// State returns how the container is now.
func (c *Checker) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.clone()
}

func (s State) clone() State {
	s.Log = slices.Clone(s.Log)
	return s
}

// Probe runs the check once and returns its exit code and output. It is over
// when its context is.
type Probe func(ctx context.Context) (code int, output string, err error)

// Run probes until ctx ends.
func (c *Checker) Run(ctx context.Context, probe Probe) {
	timer := time.NewTimer(c.wait())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		result := c.once(ctx, probe)
		if ctx.Err() != nil {
			return // it says nothing about the container
		}
		c.take(result)
		timer.Reset(c.wait())
	}
}

// wait is the time to the next probe.
func (c *Checker) wait() time.Duration {
	if c.State().Status == Starting && time.Since(c.began) < c.config.StartPeriod {
		return c.config.StartInterval
	}
	return c.config.Interval
}

var errTimeout = errors.New("timeout")

func (c *Checker) once(ctx context.Context, probe Probe) Result {
	ctx, cancel := context.WithTimeoutCause(ctx, c.config.Timeout, errTimeout)
	defer cancel()
	r := Result{Start: time.Now()}
	var err error
	r.ExitCode, r.Output, err = probe(ctx)
	r.End = time.Now()
	switch {
	case errors.Is(context.Cause(ctx), errTimeout) && err != nil:
		r.ExitCode, r.Output = -1, fmt.Sprintf("Health check exceeded timeout (%v): %s", c.config.Timeout, r.Output)
	case err != nil:
		r.ExitCode, r.Output = -1, err.Error()
	}
	if len(r.Output) > maxOutput {
		r.Output = r.Output[:maxOutput]
	}
	return r
}

// take draws the conclusion from a probe.
func (c *Checker) take(r Result) {
	c.mu.Lock()
	before := c.state.Status
	c.state.Log = append(c.state.Log, r)
	if extra := len(c.state.Log) - maxResults; extra > 0 {
		c.state.Log = slices.Clone(c.state.Log[extra:])
	}
	switch {
	case r.ExitCode == 0:
		c.state.FailingStreak, c.state.Status = 0, Healthy
	case before == Starting && r.Start.Sub(c.began) < c.config.StartPeriod:
	default:
		c.state.FailingStreak++
		if c.state.FailingStreak >= c.config.Retries {
			c.state.Status = Unhealthy
		}
	}
	now := c.state.clone()
	c.mu.Unlock()
	c.told(now, now.Status != before)
}
