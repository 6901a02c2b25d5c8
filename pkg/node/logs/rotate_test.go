package logs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write := func(text string) func() error { return func() error { return os.WriteFile(path, []byte(text), 0o600) } }
	content := func() string {
		all, err := files(path)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, f := range all {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(text))
		}
		return strings.Join(texts, " ")
	}
	if err := write("a")(); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, step := range []struct {
		keep int
		want string
	}{{2, "a b"}, {2, "a b c"}, {2, "b c d"}, {1, "d e"}, {0, "f"}} {
		next := string(rune('b' + i))
		if err := Rotate(path, step.keep, at.Add(time.Duration(i)*time.Millisecond), write(next)); err != nil || content() != step.want {
			t.Errorf("keep %d: %q, %v, want %q", step.keep, content(), err, step.want)
		}
	}
	refused := errors.New("refused")
	if err := Rotate(path, 0, at, func() error { return refused }); !errors.Is(err, refused) || content() != "f" {
		t.Errorf("after a refusal: %q, %v", content(), err)
	}
}
