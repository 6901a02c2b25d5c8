package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// Error is a runtime command that failed, with what the runtime said of it.
type Error struct {
	Runtime string // handler
	Verb    string // create, start, …
	Message string // the runtime's own words, without control characters
	Err     error  // of the process: exit status, signal or context
}

func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%s %s: %v", e.Runtime, e.Verb, e.Err)
	}
	return fmt.Sprintf("%s %s: %s", e.Runtime, e.Verb, e.Message)
}

func (e *Error) Unwrap() error { return e.Err }

// maxMessage bounds what of a runtime's output goes into an error.
const maxMessage = 4 << 10

// tail keeps the last bytes written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if extra := len(t.b) - maxMessage; extra > 0 {
		t.b = append(t.b[:0], t.b[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }

// size of a file, 0 where there is none yet.
func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// Explain finds the reason of a failure in the JSON lines a runtime appended to
// its log file after offset, and falls back to its standard error.
func Explain(logFile string, offset int64, stderr string) string {
	if message := lastError(logFile, offset); message != "" {
		return sanitise(message)
	}
	return sanitise(strings.TrimSpace(stderr))
}

func lastError(logFile string, offset int64) string {
	f, err := os.Open(logFile)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	n, _ := f.ReadAt(b, offset)
	message := ""
	for line := range bytes.Lines(b[:n]) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Level == "error" {
			message = entry.Msg
		}
	}
	return message
}

// sanitise makes foreign text fit for an error and a log line.
func sanitise(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < 0x20 || r == 0x7f:
			return -1
		}
		return r
	}, s)
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}
