package logs

import (
	"bytes"
	"time"
)

// Line is one record.
type Line struct {
	Time time.Time
	// Stderr, else stdout.
	Stderr bool
	// Partial: the line goes on in the next record of its stream.
	Partial bool
	Text    []byte
}

// parse reads a record without its newline. The text is that of b.
func parse(b []byte) (l Line, ok bool) {
	at, b, _ := bytes.Cut(b, []byte(" "))
	stream, b, _ := bytes.Cut(b, []byte(" "))
	tag, text, ok := bytes.Cut(b, []byte(" "))
	if !ok {
		return l, false
	}
	var err error
	if l.Time, err = time.Parse(time.RFC3339Nano, string(at)); err != nil {
		return l, false
	}
	switch string(stream) {
	case "stdout":
	case "stderr":
		l.Stderr = true
	default:
		return l, false
	}
	// There may be more tags, after a colon.
	tag, _, _ = bytes.Cut(tag, []byte(":"))
	switch string(tag) {
	case "F":
	case "P":
		l.Partial = true
	default:
		return l, false
	}
	l.Text = text
	return l, true
}

// whole reports whether a record ends a line.
func whole(record []byte) bool {
	l, ok := parse(record)
	return ok && !l.Partial
}
