// Package progress shows how pulls, pushes and loads go: on a terminal a bar for
// each layer, with what has arrived and how fast, redrawn in place; else a line
// for each thing that happens.
//
// A Display has no goroutine and no lock: it draws while it is told.
package progress

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// redrawEvery is how often bars move.
const redrawEvery = 100 * time.Millisecond

// Display shows progress on a stream. The zero Display shows nothing.
type Display struct {
	out   io.Writer
	fancy bool
	now   func() time.Time

	width, height int
	layers        []*layer
	byName        map[string]*layer
	drawn         int // lines that are to be drawn over
	last          time.Time
	begin         time.Time
}

// layer is one line.
type layer struct {
	name, status   string
	current, total int64
	// moved and since are for the speed: bytes that moved since then.
	moved, first int64
	since        time.Time
	ended        bool
}

// New returns a Display on a stream, with bars if that is a terminal.
func New(out io.Writer) *Display {
	d := &Display{out: out, now: time.Now, byName: map[string]*layer{}}
	if w, h, ok := terminal.Size(out); ok && w > 0 && terminal.Draws(out) {
		d.fancy, d.width, d.height = true, int(w), int(h)
	}
	return d
}

// Update takes in one message.
func (d *Display) Update(p *nodev1.Progress) {
	if d.out == nil {
		return
	}
	if p.GetMessage() != "" {
		d.Flush()
		fmt.Fprintln(d.out, output.Printable(p.GetMessage()))
	}
	if p.GetLayer() == "" || p.GetStatus() == "" {
		return
	}
	l := d.byName[p.GetLayer()]
	if l == nil {
		l = &layer{name: output.Printable(p.GetLayer())}
		d.byName[p.GetLayer()] = l
		d.layers = append(d.layers, l)
	}
	now := d.now()
	if d.begin.IsZero() {
		d.begin = now
	}
	status := output.Printable(p.GetStatus())
	news := l.status != status
	if news && !l.ended {
		l.first, l.since = p.GetCurrent(), now
	}
	l.status, l.current, l.total = status, p.GetCurrent(), p.GetTotal()
	l.moved = max(l.current-l.first, 0)
	l.ended = !moving(status)
	switch {
	case d.fancy && (news || now.Sub(d.last) >= redrawEvery):
		d.draw()
	case !d.fancy && news && status != "Waiting":
		fmt.Fprintf(d.out, "%s: %s\n", l.name, status)
	}
}

// moving are the statuses that bytes move in.
func moving(status string) bool {
	switch status {
	case "Waiting", "Downloading", "Extracting", "Pushing", "Loading layer", "Compressing":
		return true
	}
	return false
}

// Flush draws what there is for the last time: what comes next goes below.
func (d *Display) Flush() {
	if d.out == nil {
		return
	}
	if d.fancy && len(d.layers) > 0 {
		d.draw()
	}
	d.layers, d.byName, d.drawn, d.begin = nil, map[string]*layer{}, 0, time.Time{}
}

// draw draws all lines over the last ones.
func (d *Display) draw() {
	d.last = d.now()
	var b strings.Builder
	if d.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", d.drawn)
	}
	lines := d.lines()
	for _, l := range lines {
		b.WriteString("\r" + output.Ellipsis(l, d.width-1) + "\x1b[K\n")
	}
	if len(lines) < d.drawn {
		b.WriteString("\x1b[J")
	}
	d.drawn = len(lines)
	_, _ = io.WriteString(d.out, b.String()) // nobody is left to be told
}

// lines are as many as fit: those that move go first where there are too many.
func (d *Display) lines() []string {
	room := max(d.height-3, 1)
	shown := d.layers
	left := 0
	if len(shown) > room {
		shown = nil
		for _, wantMoving := range []bool{true, false} {
			for _, l := range d.layers {
				if l.ended != wantMoving && len(shown) < room-1 {
					shown = append(shown, l)
				}
			}
		}
		left = len(d.layers) - len(shown)
	}
	var lines []string
	for _, l := range shown {
		lines = append(lines, d.line(l))
	}
	if left > 0 {
		lines = append(lines, fmt.Sprintf("… and %d more layers", left))
	}
	if total := d.total(); total != "" {
		lines = append(lines, total)
	}
	return lines
}

func (d *Display) line(l *layer) string {
	line := l.name + ": " + l.status
	if l.ended || l.total <= 0 {
		return line
	}
	if l.current > 0 || l.status != "Waiting" {
		line = fmt.Sprintf("%-26s %s %8s/%s", line, bar(l.current, l.total, d.barWidth()), output.Size(l.current), output.Size(l.total))
		if s := speed(l.moved, d.now().Sub(l.since)); s != "" && l.current < l.total {
			line += "  " + s
		}
	}
	return line
}

func (d *Display) barWidth() int { return min(max(d.width-70, 10), 50) }

// total is the line about all layers whose bytes move, while any do.
func (d *Display) total() string {
	var current, all, moved int64
	busy := 0
	for _, l := range d.layers {
		if l.total <= 0 || l.since.IsZero() {
			continue
		}
		current, all, moved = current+min(l.current, l.total), all+l.total, moved+l.moved
		if !l.ended {
			busy++
		}
	}
	if busy == 0 || len(d.layers) < 2 {
		return ""
	}
	line := fmt.Sprintf("%-26s %s %8s/%s", "Total", bar(current, all, d.barWidth()), output.Size(current), output.Size(all))
	if s := speed(moved, d.now().Sub(d.begin)); s != "" {
		line += "  " + s
	}
	return line
}

// bar is how docker draws one.
func bar(current, total int64, width int) string {
	done := 0
	if total > 0 {
		done = int(min(current, total) * int64(width) / total)
	}
	if done >= width {
		return "[" + strings.Repeat("=", width) + ">]"
	}
	return "[" + strings.Repeat("=", done) + ">" + strings.Repeat(" ", width-done) + "]"
}

// speed is bytes a second, once there is enough to tell.
func speed(bytes int64, d time.Duration) string {
	if d < 300*time.Millisecond || bytes <= 0 {
		return ""
	}
	return output.Size(int64(float64(bytes)/d.Seconds())) + "/s"
}
