// Package crilog reads container logs in the CRI format
//
//	2006-01-02T15:04:05.999999999Z07:00 stdout F content
//
// strictly: a line that kubelet or the CRI test suite could not parse is an
// error. It joins partial lines and checks numbered sequences, which is how the
// tests prove that no line was lost or written twice.
package crilog

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Entry is one line of a log file.
type Entry struct {
	Time    time.Time
	Stream  string
	Partial bool
	Content string
}

// maxContent is the length at which a line must have been split: kubelet and
// critest read with a 64 KiB line limit, the runtimes split at 16 KiB.
const maxContent = 16 << 10

// Read parses a log file.
func Read(path string) ([]Entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(string(data))
}

// Parse parses the text of a log file. A last line without newline is an error.
func Parse(text string) ([]Entry, error) {
	if text == "" {
		return nil, nil
	}
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("log ends in the middle of a line: %q", tail(text))
	}
	var entries []Entry
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		e, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func tail(s string) string { return s[max(0, len(s)-80):] }

func parseLine(line string) (Entry, error) {
	fields := strings.SplitN(line, " ", 4)
	if len(fields) != 4 {
		return Entry{}, fmt.Errorf("has %d fields, not 4: %q", len(fields), tail(line))
	}
	at, err := time.Parse(time.RFC3339Nano, fields[0])
	if err != nil {
		return Entry{}, fmt.Errorf("parse time: %w", err)
	}
	if fields[1] != "stdout" && fields[1] != "stderr" {
		return Entry{}, fmt.Errorf("unknown stream %q", fields[1])
	}
	if fields[2] != "F" && fields[2] != "P" {
		return Entry{}, fmt.Errorf("unknown tag %q", fields[2])
	}
	if len(fields[3]) > maxContent {
		return Entry{}, fmt.Errorf("content of %d bytes was not split", len(fields[3]))
	}
	return Entry{Time: at, Stream: fields[1], Partial: fields[2] == "P", Content: fields[3]}, nil
}

// Text is the content of one stream ("" for both), partial lines joined.
func Text(entries []Entry, stream string) string {
	var b strings.Builder
	for _, e := range entries {
		if stream != "" && e.Stream != stream {
			continue
		}
		b.WriteString(e.Content)
		if !e.Partial {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// Ordered reports the first entry whose time is before its predecessor's.
func Ordered(entries []Entry) error {
	for i := 1; i < len(entries); i++ {
		if entries[i].Time.Before(entries[i-1].Time) {
			return fmt.Errorf("line %d is older than the line before it", i+1)
		}
	}
	return nil
}

// Contiguous checks that the lines of a stream that begin with prefix are
// numbered 1, 2, 3, … without gap or repetition, and returns the last number.
func Contiguous(entries []Entry, stream, prefix string) (int, error) {
	last := 0
	for line := range strings.Lines(Text(entries, stream)) {
		rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), prefix)
		if !ok {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(rest, "%d", &n); err != nil {
			return last, fmt.Errorf("%s line %q has no number: %w", stream, line, err)
		}
		if n != last+1 {
			return last, fmt.Errorf("%s line %d follows line %d", stream, n, last)
		}
		last = n
	}
	return last, nil
}
