package build

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Events is told how a build goes.
type Events interface {
	// Step tells of a step that began, was found in the cache, ended or failed.
	Step(s Step)
	// Log is what a step has written to stream 1 or 2.
	Log(step string, stream int, data []byte)
	// Progress tells how much of a part of a step is done; total may be 0.
	Progress(step, name string, current, total int64)
	Warn(text string)
}

// Step of a build, as people see it.
type Step struct {
	ID, Name           string
	Started, Completed time.Time
	Cached             bool
	Error              string
	Inputs             []string
}

// progress remembers steps, so that each is told whole.
type progress struct {
	to    Events
	mu    sync.Mutex
	steps map[string]*Step
}

func newProgress(to Events) *progress {
	if to == nil {
		to = nobody{}
	}
	return &progress{to: to, steps: map[string]*Step{}}
}

func randText() string { return rand.Text() }

// begin tells that a step has begun. The returned function tells that it ended.
func (p *progress) begin(id, name string) (end func(cached bool, err error)) {
	if id == "" {
		return func(bool, error) {}
	}
	p.mu.Lock()
	s := p.steps[id]
	if s == nil {
		s = &Step{ID: id, Name: name, Started: time.Now()}
		p.steps[id] = s
	}
	s.Completed, s.Error = time.Time{}, ""
	told := *s
	p.mu.Unlock()
	p.to.Step(told)
	return func(cached bool, err error) {
		p.mu.Lock()
		s.Completed, s.Cached = time.Now(), cached
		if err != nil {
			s.Error = err.Error()
		}
		told := *s
		p.mu.Unlock()
		p.to.Step(told)
	}
}

// do is a step that is no operation of the graph.
func (p *progress) do(name string, f func(id string) error) error {
	id := digest.FromString(name + rand.Text()).String()
	end := p.begin(id, name)
	err := f(id)
	end(false, err)
	return err
}

// shared is do for what several do at the same time and people see once.
func (p *progress) shared(name string, f func(id string) error) error {
	id := digest.FromString(name).String()
	p.mu.Lock()
	first := p.steps[id] == nil
	p.mu.Unlock()
	if !first {
		return f(id)
	}
	end := p.begin(id, name)
	err := f(id)
	end(false, err)
	return err
}

// writer writes to the log of a step.
func (p *progress) writer(step string, stream int) *logWriter {
	return &logWriter{p: p, step: step, stream: stream}
}

// maxLog is how much of one step's output is told: a step that writes without
// end must not fill the memory of clients.
const maxLog = 64 << 20

type logWriter struct {
	p      *progress
	step   string
	stream int
	mu     sync.Mutex
	size   int
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	before := w.size
	w.size += len(b)
	w.mu.Unlock()
	switch {
	case before > maxLog:
	case before+len(b) > maxLog:
		w.p.to.Log(w.step, w.stream, fmt.Appendf(nil, "\n[output clipped, %d MiB are shown]\n", maxLog>>20))
	default:
		w.p.to.Log(w.step, w.stream, append([]byte(nil), b...))
	}
	return len(b), nil
}

// line writes one line.
func (w *logWriter) line(words ...any) { _, _ = fmt.Fprintln(w, words...) }

// nobody is told nothing.
type nobody struct{}

func (nobody) Step(Step)                             {}
func (nobody) Log(string, int, []byte)               {}
func (nobody) Progress(string, string, int64, int64) {}
func (nobody) Warn(string)                           {}
