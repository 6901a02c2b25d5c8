package build

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// screen shows all steps on a terminal and keeps them up to date in place.
type screen struct {
	out     io.Writer
	colours bool

	mu     sync.Mutex
	steps  []*screenStep
	byID   map[string]*screenStep
	drawn  int // lines on the terminal that are ours
	began  time.Time
	warns  []string
	ending bool
	stop   chan struct{}
	done   chan struct{}
}

type screenStep struct {
	name           string
	started, ended int64
	cached         bool
	err            string
	parts          map[string]*nodev1.StepProgress
	order          []string
	lines          []string // the last of its output
	partial        []byte
}

// Lines of output shown of a step that runs, and of one that failed.
const (
	runningLines = 6
	failedLines  = 30
	drawEvery    = 100 * time.Millisecond
)

func newScreen(out io.Writer) *screen {
	s := &screen{out: out, colours: terminal.Colors(out), byID: map[string]*screenStep{}, began: time.Now(), stop: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

// run draws a few times a second until end.
func (s *screen) run() {
	defer close(s.done)
	tick := time.NewTicker(drawEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			s.mu.Lock()
			s.draw()
			s.mu.Unlock()
		}
	}
}

func (s *screen) transferred(string, int64) {}

func (s *screen) update(m *nodev1.BuildResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range m.GetSteps() {
		st := s.byID[n.GetId()]
		if st == nil {
			st = &screenStep{name: printable(n.GetName()), parts: map[string]*nodev1.StepProgress{}}
			s.byID[n.GetId()] = st
			s.steps = append(s.steps, st)
		}
		st.started, st.ended, st.cached, st.err = n.GetStartedAt(), n.GetCompletedAt(), n.GetCached(), n.GetError()
	}
	for _, l := range m.GetLogs() {
		if st := s.byID[l.GetStep()]; st != nil {
			st.log(l.GetData())
		}
	}
	for _, g := range m.GetProgress() {
		if st := s.byID[g.GetStep()]; st != nil {
			if st.parts[g.GetName()] == nil {
				st.order = append(st.order, g.GetName())
			}
			st.parts[g.GetName()] = g
		}
	}
	s.warns = append(s.warns, m.GetWarnings()...)
}

func (st *screenStep) log(data []byte) {
	st.partial = append(st.partial, data...)
	for {
		line, rest, ok := bytes.Cut(st.partial, []byte("\n"))
		if !ok {
			return
		}
		st.lines = append(st.lines, printable(string(line)))
		st.partial = append([]byte(nil), rest...)
		if n := len(st.lines); n > failedLines {
			st.lines = st.lines[n-failedLines:]
		}
	}
}

// printable keeps a step's output from moving the cursor about.
func printable(s string) string {
	if i := strings.LastIndexByte(strings.TrimRight(s, "\r"), '\r'); i >= 0 {
		s = s[i+1:]
	}
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// draw replaces what it drew before.
func (s *screen) draw() {
	width, height := 80, 24
	if w, h, ok := terminal.Size(s.out); ok && w > 0 && h > 1 {
		width, height = int(w), int(h)
	}
	lines := s.render(width)
	if limit := height - 1; len(lines) > limit && !s.ending {
		// The head, and what happens now.
		lines = append(lines[:1:1], lines[len(lines)-limit+1:]...)
	}
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, l := range lines {
		b.WriteString(l)
		b.WriteString("\n")
	}
	s.drawn = len(lines)
	_, _ = io.WriteString(s.out, b.String()) // a terminal that has gone tells elsewhere
}

// render is all lines.
func (s *screen) render(width int) []string {
	finished := 0
	for _, st := range s.steps {
		if st.ended != 0 {
			finished++
		}
	}
	state := ""
	if s.ending {
		state = " FINISHED"
	}
	lines := []string{fit(fmt.Sprintf("[+] Building %.1fs (%d/%d)%s", time.Since(s.began).Seconds(), finished, len(s.steps), state), "", width)}
	for _, st := range s.steps {
		lines = append(lines, st.render(width, s.colours)...)
	}
	return lines
}

// Colours: blue is done, red failed.
const (
	blue  = "\x1b[34m"
	red   = "\x1b[31m"
	reset = "\x1b[0m"
)

// render is the lines of one step.
func (st *screenStep) render(width int, colours bool) []string {
	name, colour := " => "+st.name, ""
	end := time.Now().UnixNano()
	shown := 0
	switch {
	case st.err != "":
		name, colour = " => ERROR "+st.name, red
	case st.cached:
		name, colour = " => CACHED "+st.name, blue
	case st.ended != 0:
		colour = blue
	default:
		shown = runningLines
	}
	if st.ended != 0 {
		end = st.ended
	}
	took := fmt.Sprintf("%.1fs", time.Duration(end-st.started).Seconds())
	line := fit(name, took, width)
	if colours && colour != "" {
		line = colour + line + reset
	}
	lines := []string{line}
	if st.ended == 0 {
		for _, part := range st.order {
			g := st.parts[part]
			text := human(g.GetCurrent())
			if g.GetTotal() > 0 {
				text += " / " + human(g.GetTotal())
			}
			lines = append(lines, fit(" => => "+part+" "+text, "", width))
		}
	}
	for _, l := range st.lines[max(0, len(st.lines)-shown):] {
		lines = append(lines, fit(" => => # "+l, "", width))
	}
	return lines
}

// fit makes a line of a width, with something at its right end.
func fit(left, right string, width int) string {
	l := []rune(left)
	room := width - len(right) - 2
	if len(l) > room {
		l = l[:max(0, room)]
	}
	return string(l) + strings.Repeat(" ", max(0, width-len(l)-len(right)-1)) + right
}

func (s *screen) end(err error) {
	close(s.stop)
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	s.draw()
	for _, st := range s.steps {
		if st.err == "" || len(st.lines) == 0 {
			continue
		}
		say(s.out, "------\n > %s:", st.name)
		for _, l := range st.lines {
			say(s.out, "%s", l)
		}
		fmt.Fprintln(s.out, "------")
	}
	for _, w := range s.warns {
		say(s.out, "\nWARNING: %s", w)
	}
	_ = err // main prints it
}
