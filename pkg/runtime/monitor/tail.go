package monitor

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"unicode"
)

// tail returns the end of what the runtime of a failed create had to say.
func (n *creation) tail() string {
	var parts []string
	if n.req.RuntimeLog != "" {
		if f, err := os.Open(n.req.RuntimeLog); err == nil {
			parts = append(parts, logMessages(fileTail(f)))
			_ = f.Close() // only read
		}
	}
	parts = append(parts, n.stderr())
	text := strings.TrimSpace(parts[0])
	for _, part := range parts[1:] {
		// The runtimes say their last words twice, to stderr and the log.
		if part = strings.TrimSpace(part); !strings.Contains(part, text) {
			text = strings.TrimSpace(text + "\n" + part)
		} else {
			text = part
		}
	}
	return sanitize(text)
}

// stderr returns the end of what the runtime wrote.
func (n *creation) stderr() string {
	if n.output != nil {
		return fileTail(n.output)
	}
	result := make(chan string, 1)
	p := n.c.pump
	ok := p.do(func(b *buffers) {
		if b == nil {
			result <- ""
			return
		}
		// The poller may not have told of it yet.
		for _, s := range p.streams {
			if s != nil {
				s.ready.Store(true)
			}
		}
		for p.take(b) {
		}
		for i := streamCount - 1; i >= 0; i-- {
			if s := p.streams[i]; s.size > 0 {
				data, err := s.load(b, max(0, s.size-maxErrorTail), maxErrorTail)
				if err == nil {
					result <- string(data)
					return
				}
			}
		}
		result <- ""
	})
	if !ok {
		return ""
	}
	return <-result
}

// fileTail reads the last bytes of a file.
func fileTail(f *os.File) string {
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, maxErrorTail)
	n, err := f.ReadAt(b, max(0, info.Size()-maxErrorTail))
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return string(b[:n])
}

// logMessages takes the messages out of a runtime's log in JSON; any other
// text stays as it is.
func logMessages(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		var entry struct {
			Msg string `json:"msg"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg != "" {
			line = entry.Msg + "\n"
		}
		out.WriteString(line)
	}
	return out.String()
}

// sanitize makes foreign bytes fit for an error message: valid UTF-8, no
// control characters, at most maxErrorTail bytes, of which the last count.
func sanitize(text string) string {
	text = strings.Map(func(r rune) rune {
		if r != '\n' && unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) > maxErrorTail {
		text = strings.ToValidUTF8(text[len(text)-maxErrorTail:], "")
	}
	return strings.TrimSpace(text)
}
