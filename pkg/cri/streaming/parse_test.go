package streaming

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"
)

func TestTokens(t *testing.T) {
	now := time.Now()
	tokens := newTokens()
	tokens.now = func() time.Time { return now }
	seen := map[string]bool{}
	for i := range maxTokens {
		token, err := tokens.issue(i)
		if err != nil || seen[token] || len(token) < 26 {
			t.Fatalf("token %d is %q, %v", i, token, err)
		}
		seen[token] = true
	}
	if _, err := tokens.issue("one more"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("token %d: %v", maxTokens, err)
	}
	var last string
	for token := range seen {
		if _, ok := tokens.spend(token); !ok {
			t.Fatal("a token is lost")
		}
		if _, ok := tokens.spend(token); ok {
			t.Fatal("a token is good twice")
		}
		last, _ = tokens.issue("again")
	}
	now = now.Add(tokenTime)
	if _, ok := tokens.spend(last); ok {
		t.Error("a token is good for ever")
	}
	if len(tokens.m)+len(tokens.order) > 0 {
		t.Errorf("%d and %d tokens are kept", len(tokens.m), len(tokens.order))
	}
}

// FuzzSizes reads sizes from whatever a client sends: it reads all, ends, and
// holds little.
func FuzzSizes(f *testing.F) {
	for _, seed := range []string{
		`{"Width":80,"Height":25}`, `{"Width":80,"Height":25}{"Width":1,"Height":2}`, `{"Width":-1}`, `{"Width":70000}`,
		`[]`, `{"a":"` + strings.Repeat("x", 2*maxSize), strings.Repeat("[", maxSize), "", "\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		from := bytes.NewReader(b)
		to := make(chan Size, 1)
		copySizes(to, from)
		if from.Len() > 0 {
			t.Error("not all is read")
		}
		n := 0
		for range to {
			n++
		}
		if n > 1 {
			t.Errorf("%d sizes are kept", n)
		}
	})
}

// FuzzMessage takes one WebSocket message of whatever kind.
func FuzzMessage(f *testing.F) {
	for _, seed := range []string{"", "\x00", "\x00data", "\x04{}", "\xff\x00", "\xff\x09", "\xff", "\xff\x00\x00", "0aGVsbG8=", "0!", "\x09x"} {
		for kind := range byte(3) {
			f.Add(kind, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		c := &channels{
			session: newSession(&Config{}, klog.Logger{}),
			base64:  kind%3 == 1, closes: kind%3 == 2,
			in: make([]*io.PipeWriter, 5), read: make([]*io.PipeReader, 5),
		}
		for _, i := range []int{stdinChannel, resizeChannel} {
			c.read[i], c.in[i] = io.Pipe()
		}
		got := make(chan string, 2)
		for _, i := range []int{stdinChannel, resizeChannel} {
			go func() {
				data, err := io.ReadAll(c.read[i])
				got <- fmt.Sprint(i, string(data), err)
			}()
		}
		_ = c.receive(bytes.NewReader(b))
		c.endInput(io.EOF)
		all := (<-got) + (<-got)
		if len(all) > len(b)+20 {
			t.Errorf("%q becomes %q", b, all)
		}
	})
}
