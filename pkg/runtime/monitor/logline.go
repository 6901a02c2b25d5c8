package monitor

import (
	"bytes"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// timeFormat is RFC3339Nano with all nine digits, so that entries sort.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

var streamNames = [streamCount]string{"stdout", "stderr"}

// A formatter turns a stream's bytes into entries of a CRI log:
//
//	2026-01-02T03:04:05.123456789Z stdout F a whole line
//	2026-01-02T03:04:05.123456789Z stdout P the first 16 KiB of a long one
//	2026-01-02T03:04:05.123456789Z stderr F
//
// where the last, an empty line, ends in a space. An entry is P (partial) if
// its line goes on in the next entry of the stream, else F (full). Output that
// ends without a newline ends in P, as containerd has it: a reader then adds
// no newline that the program did not write.
type formatter struct {
	maxLine int
	// stripCR drops the carriage return that a terminal puts before each
	// newline.
	stripCR bool
	prefix  [streamCount][]byte
}

// stamp sets the time of the entries that follow.
func (f *formatter) stamp(t int64) {
	for i := range f.prefix {
		b := time.Unix(0, t).UTC().AppendFormat(f.prefix[i][:0], timeFormat)
		f.prefix[i] = append(append(append(b, ' '), streamNames[i]...), ' ')
	}
}

// limits bound one call of format.
type limits struct {
	// input and output stop the call as soon as that many bytes are consumed
	// or written.
	input, output int
	// flush writes an unfinished line too.
	flush bool
}

// format appends to out the entries that data makes and returns out and how
// much of data they took. What is left is an unfinished line of at most
// maxLine bytes, or beyond the limits.
func (f *formatter) format(out []byte, stream int, data []byte, l limits) ([]byte, int) {
	consumed := 0
	for consumed < min(len(data), l.input) && len(out) < l.output {
		rest := data[consumed:]
		end := bytes.IndexByte(rest[:min(len(rest), f.maxLine+1)], '\n')
		switch {
		case end >= 0:
			line := rest[:end]
			if f.stripCR && end > 0 && line[end-1] == '\r' {
				line = line[:end-1]
			}
			out = f.entry(out, stream, 'F', line)
			consumed += end + 1
		case len(rest) > f.maxLine:
			out = f.entry(out, stream, 'P', rest[:f.maxLine])
			consumed += f.maxLine
		case l.flush:
			out = f.entry(out, stream, 'P', rest)
			consumed += len(rest)
		default:
			return out, consumed
		}
	}
	return out, consumed
}

func (f *formatter) entry(out []byte, stream int, tag byte, content []byte) []byte {
	out = append(out, f.prefix[stream]...)
	out = append(out, tag, ' ')
	out = append(out, content...)
	return append(out, '\n')
}

// dropRecord appends the entry that tells a reader what is missing.
func (f *formatter) dropRecord(out []byte, p progress) []byte {
	text := fmt.Sprintf("[cri-node: %d bytes of output are missing here: %s]", p.unreported, unix.Errno(p.errno))
	return f.entry(out, 1, 'F', []byte(text))
}
