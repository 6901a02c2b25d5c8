package build

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// display shows how a build goes.
type display interface {
	update(m *nodev1.BuildResponse)
	// transferred tells that a context was sent.
	transferred(name string, bytes int64)
	end(err error)
}

// newDisplay makes the display of a mode: auto is tty on a terminal that can be drawn on, and plain
// elsewhere.
func newDisplay(mode string, w io.Writer) (display, error) {
	switch mode {
	case "auto", "":
		if terminal.Draws(w) {
			return newScreen(w), nil
		}
		return newPlain(w), nil
	case "tty":
		if !terminal.Is(w) {
			return nil, fmt.Errorf("--progress tty: standard error is no terminal")
		}
		return newScreen(w), nil
	case "plain":
		return newPlain(w), nil
	case "quiet", "none":
		return quiet{w}, nil
	}
	return nil, fmt.Errorf("--progress %s: use auto, plain, tty or quiet", mode)
}

// say writes a line. A terminal that has gone tells elsewhere.
func say(w io.Writer, format string, values ...any) { _, _ = fmt.Fprintf(w, format+"\n", values...) }

// quiet shows warnings and errors only, which others print.
type quiet struct{ w io.Writer }

func (quiet) update(*nodev1.BuildResponse) {}
func (quiet) transferred(string, int64)    {}
func (quiet) end(error)                    {}

// plain writes a line for all that happens, each with the number of its step.
type plain struct {
	w     io.Writer
	mu    sync.Mutex
	steps map[string]*plainStep
	last  string // the step of the line before
	sent  map[string]int64
	warns []string
	logs  map[string][]string // the last lines of each step
}

type plainStep struct {
	number  int
	name    string
	started int64
	partial []byte
	ended   bool
	// progress that was written of each part.
	progress map[string]time.Time
}

func newPlain(w io.Writer) *plain {
	return &plain{w: w, steps: map[string]*plainStep{}, sent: map[string]int64{}, logs: map[string][]string{}}
}

func (p *plain) transferred(name string, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[name] = bytes
}

// line writes a line of a step. Where another one wrote before, an empty line and
// the name come first.
func (p *plain) line(id string, s *plainStep, text string) {
	if p.last != id {
		if p.last != "" {
			say(p.w, "")
		}
		say(p.w, "#%d %s", s.number, s.name)
		p.last = id
	}
	if text != "" {
		say(p.w, "#%d %s", s.number, text)
	}
}

func (p *plain) update(m *nodev1.BuildResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range m.GetSteps() {
		p.step(s)
	}
	for _, l := range m.GetLogs() {
		p.log(l)
	}
	for _, g := range m.GetProgress() {
		s := p.steps[g.GetStep()]
		if s == nil || time.Since(s.progress[g.GetName()]) < 2*time.Second && g.GetCurrent() != g.GetTotal() {
			continue
		}
		s.progress[g.GetName()] = time.Now()
		text := g.GetName() + " " + human(g.GetCurrent())
		if g.GetTotal() > 0 {
			text += " / " + human(g.GetTotal())
		}
		p.line(g.GetStep(), s, text)
	}
	p.warns = append(p.warns, m.GetWarnings()...)
}

func (p *plain) step(s *nodev1.Step) {
	known := p.steps[s.GetId()]
	if known == nil {
		known = &plainStep{number: len(p.steps) + 1, name: s.GetName(), progress: map[string]time.Time{}}
		p.steps[s.GetId()] = known
	}
	known.started = s.GetStartedAt()
	if s.GetCompletedAt() == 0 {
		p.line(s.GetId(), known, "")
		return
	}
	if known.ended {
		return
	}
	known.ended = true
	if len(known.partial) > 0 {
		p.print(s.GetId(), known, known.partial)
		known.partial = nil
	}
	if strings.Contains(s.GetName(), "load build context") {
		if n, ok := p.sent[""]; ok {
			p.line(s.GetId(), known, fmt.Sprintf("transferring context: %s done", human(n)))
		}
	}
	switch {
	case s.GetError() != "":
		p.line(s.GetId(), known, "ERROR: "+s.GetError())
	case s.GetCached():
		p.line(s.GetId(), known, "CACHED")
	default:
		p.line(s.GetId(), known, fmt.Sprintf("DONE %.1fs", time.Duration(s.GetCompletedAt()-s.GetStartedAt()).Seconds()))
	}
}

// log writes whole lines, with the time since the step began.
func (p *plain) log(l *nodev1.StepLog) {
	s := p.steps[l.GetStep()]
	if s == nil {
		return
	}
	s.partial = append(s.partial, l.GetData()...)
	for {
		line, rest, ok := bytes.Cut(s.partial, []byte("\n"))
		if !ok {
			return
		}
		s.partial = append([]byte(nil), rest...)
		p.print(l.GetStep(), s, line)
	}
}

// keptLines is how much of a failed step's output is repeated at the end.
const keptLines = 20

func (p *plain) print(id string, s *plainStep, line []byte) {
	text := strings.TrimRight(string(line), "\r")
	p.line(id, s, fmt.Sprintf("%.3f %s", time.Since(time.Unix(0, s.started)).Seconds(), text))
	p.logs[id] = append(p.logs[id], text)
	if n := len(p.logs[id]); n > keptLines {
		p.logs[id] = p.logs[id][n-keptLines:]
	}
}

func (p *plain) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.warns {
		say(p.w, "\nWARNING: %s", w)
	}
	if err != nil && len(p.steps) > 0 {
		say(p.w, "")
	}
}
