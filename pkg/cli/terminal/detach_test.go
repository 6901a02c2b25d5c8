package terminal

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParseKeys(t *testing.T) {
	for keys, want := range map[string]string{
		"": "", "ctrl-p,ctrl-q": "\x10\x11", "a,ctrl-@": "a\x00", "ctrl-[,ctrl-_": "\x1b\x1f", "ctrl-^": "\x1e",
	} {
		if got, err := ParseKeys(keys); err != nil || string(got) != want {
			t.Errorf("%q is %q, %v, want %q", keys, got, err, want)
		}
	}
	for _, keys := range []string{"ctrl-", "ctrl-pq", "ab", ",", "ctrl-1", "a,,b"} {
		if got, err := ParseKeys(keys); err == nil {
			t.Errorf("%q is taken: %q", keys, got)
		}
	}
}

func TestDetacher(t *testing.T) {
	for _, test := range []struct {
		keys, in, want string
		detached       bool
	}{
		{"\x10\x11", "hello", "hello", false},
		{"\x10\x11", "hello\x10\x11ignored", "hello", true},
		{"\x10\x11", "a\x10b\x10\x11", "a\x10b", true},
		{"\x10\x11", "\x10\x10\x11", "\x10", true},
		{"\x10\x11", "end\x10", "end\x10", false},
		{"aab", "aaab", "a", true},
		{"abab", "abaabab", "aba", true},
		{"", "\x10\x11", "\x10\x11", false},
	} {
		for name, in := range map[string]io.Reader{
			"at once":     strings.NewReader(test.in),
			"byte by one": iotest.OneByteReader(strings.NewReader(test.in)),
			"with EOF":    iotest.DataErrReader(strings.NewReader(test.in)),
		} {
			got, err := io.ReadAll(NewDetacher(in, []byte(test.keys)))
			if string(got) != test.want || errors.Is(err, ErrDetached) != test.detached {
				t.Errorf("%q of %q %s: read %q, %v, want %q", test.keys, test.in, name, got, err, test.want)
			}
		}
	}
}

// FuzzDetacher: without the keys nothing is lost, with them all before them
// comes out.
func FuzzDetacher(f *testing.F) {
	f.Add("aab", "aaab")
	f.Fuzz(func(t *testing.T, keys, in string) {
		got, err := io.ReadAll(NewDetacher(iotest.HalfReader(strings.NewReader(in)), []byte(keys)))
		want, _, found := strings.Cut(in, keys)
		if keys == "" {
			want, found = in, false
		}
		if string(got) != want || errors.Is(err, ErrDetached) != found {
			t.Errorf("keys %q, input %q: %q, %v", keys, in, got, err)
		}
	})
}
