package progress

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Stages keeps how far a call has come, for the error of somebody who could not
// wait for its end, and makes a span of each stage. Its methods may be called by
// many at once.
type Stages struct {
	call    context.Context //nolint:containedctx // of the call that the stages are of
	onStage func(stage string, took time.Duration)

	mu      sync.Mutex
	name    string
	since   time.Time
	history strings.Builder
	detail  func() string
	end     func(error) // of the stage's span
	parts   []part
}

type part struct {
	title  string
	stages *Stages
}

// NewStages returns the stages of a call, whose spans are below that of ctx.
// onStage, which may be nil, is told how long each took.
func NewStages(ctx context.Context, onStage func(stage string, took time.Duration)) *Stages {
	return &Stages{call: ctx, onStage: onStage}
}

// Enter begins a stage, which ends the one before, and returns ctx with its span.
// It is a Listener.
func (s *Stages) Enter(ctx context.Context, name string) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(nil)
	s.name, s.since = name, time.Now()
	ctx, s.end = Start(Below(ctx, s.call), name)
	return ctx
}

// Detail says more of the stage that is under way, when somebody asks.
func (s *Stages) Detail(detail func() string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detail = detail
}

// Follow makes the stages of some part of the work part of what String says,
// while the stage lasts that is under way.
func (s *Stages) Follow(title string, of *Stages) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts = append(s.parts, part{title, of})
}

// Finish ends the last stage of a call that has ended with err.
func (s *Stages) Finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(err)
}

func (s *Stages) leave(err error) {
	if s.name == "" {
		return
	}
	took := time.Since(s.since)
	s.end(err)
	if s.onStage != nil {
		s.onStage(s.name, took)
	}
	fmt.Fprintf(&s.history, "%s %v, ", s.name, took.Round(time.Millisecond))
	s.name, s.detail, s.parts = "", nil, nil
}

// Entered reports whether a stage is under way.
func (s *Stages) Entered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name != ""
}

// String lists the stages with their times: "first 2ms, in second for 3s".
func (s *Stages) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.name == "" {
		return strings.TrimSuffix(s.history.String(), ", ")
	}
	text := fmt.Sprintf("%sin %s for %v", s.history.String(), s.name, time.Since(s.since).Round(time.Millisecond))
	if s.detail != nil {
		text += ", " + s.detail()
	}
	for _, p := range s.parts {
		if p.stages.Entered() {
			text += fmt.Sprintf("; %s %s", p.title, p.stages)
		}
	}
	return text
}
