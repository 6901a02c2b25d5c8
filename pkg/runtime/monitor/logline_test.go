package monitor

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

func newFormatter(maxLine int) *formatter {
	f := &formatter{maxLine: maxLine}
	f.stamp(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC).UnixNano())
	return f
}

func TestFormat(t *testing.T) {
	const stamp = "2026-01-02T03:04:05.000000006Z "
	tests := []struct {
		name, in, out, rest string
		flush, stripCR      bool
	}{
		{name: "nothing"},
		{name: "line", in: "hello\n", out: "stdout F hello\n"},
		{name: "empty line keeps its space", in: "\n\n", out: "stdout F \nstdout F \n"},
		{name: "unfinished line is held", in: "a\nprompt> ", out: "stdout F a\n", rest: "prompt> "},
		{name: "unfinished line at the end", in: "a\nb", out: "stdout F a\nstdout P b\n", flush: true},
		{name: "as long as can be", in: "12345678\n", out: "stdout F 12345678\n"},
		{name: "as long as can be, unfinished", in: "12345678", rest: "12345678"},
		{name: "as long as can be, at the end", in: "12345678", out: "stdout P 12345678\n", flush: true},
		{name: "longer by one", in: "123456789\n", out: "stdout P 12345678\nstdout F 9\n"},
		{name: "twice as long", in: "1234567812345678\n", out: "stdout P 12345678\nstdout F 12345678\n"},
		{name: "long and unfinished", in: "123456781234", out: "stdout P 12345678\n", rest: "1234"},
		{name: "carriage return is content", in: "a\r\n", out: "stdout F a\r\n"},
		{name: "carriage return of a terminal", in: "a\r\n\r\nb\rc\r\n", out: "stdout F a\nstdout F \nstdout F b\rc\n", stripCR: true},
		{name: "any byte", in: "\x00\xff \x1b\n", out: "stdout F \x00\xff \x1b\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFormatter(8)
			f.stripCR = tt.stripCR
			out, n := f.format(nil, 0, []byte(tt.in), limits{input: len(tt.in), output: 1 << 20, flush: tt.flush})
			want := ""
			for line := range strings.Lines(tt.out) {
				want += stamp + line
			}
			if string(out) != want || tt.in[n:] != tt.rest {
				t.Errorf("got %q and %q left, want %q and %q", out, tt.in[n:], want, tt.rest)
			}
		})
	}
}

// TestFormatAgain: a batch that is done again makes the same bytes.
func TestFormatAgain(t *testing.T) {
	data := []byte(strings.Repeat("x", 40) + "\nab\n\n" + strings.Repeat("y", 17))
	for output := range 200 {
		f := newFormatter(8)
		first, n := f.format(nil, 1, data, limits{input: len(data), output: output})
		again, m := f.format(nil, 1, data, limits{input: n, output: 1 << 20})
		if n != m || !bytes.Equal(first, again) {
			t.Fatalf("limit %d: %q (%d), then %q (%d)", output, first, n, again, m)
		}
	}
}

func FuzzFormat(f *testing.F) {
	f.Add([]byte("a\n\nbb\r\nccc"), uint8(3), uint8(2))
	f.Add(bytes.Repeat([]byte("x"), 100), uint8(7), uint8(50))
	f.Fuzz(func(t *testing.T, data []byte, maxLine, step uint8) {
		format := newFormatter(int(maxLine) + 1)
		var log []byte
		var pending []byte
		for chunk := range slices.Chunk(data, int(step)+1) {
			pending = append(pending, chunk...)
			var n int
			log, n = format.format(log, 0, pending, limits{input: len(pending), output: 1 << 30})
			pending = pending[n:]
			if len(pending) > format.maxLine {
				t.Fatalf("%d bytes are held, more than %d", len(pending), format.maxLine)
			}
		}
		log, n := format.format(log, 0, pending, limits{input: len(pending), output: 1 << 30, flush: true})
		if n != len(pending) {
			t.Fatalf("%d of %d bytes left at the end", len(pending)-n, len(pending))
		}
		entries := parseLog(t, log)
		for _, e := range entries {
			if len(e.content) > format.maxLine {
				t.Fatalf("entry of %d bytes, more than %d", len(e.content), format.maxLine)
			}
		}
		if got := output(entries, "stdout"); got != string(data) {
			t.Fatalf("%q became %q", data, got)
		}
	})
}
