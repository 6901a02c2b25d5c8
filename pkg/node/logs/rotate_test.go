package logs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// rotation is a log that is written and rotated.
type rotation struct {
	*testing.T
	path string
	now  time.Time
}

func (r *rotation) write(text string) {
	r.Helper()
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("2026-01-02T15:04:05.000000001Z stdout F " + text + "\n"); err != nil {
		r.Fatal(err)
	}
}

func (r *rotation) rotate(b Bounds, reopen func() error) (bool, error) {
	r.now = r.now.Add(time.Second)
	return Rotate(r.path, b, r.now, reopen)
}

// texts are all lines that can be read, in their order.
func (r *rotation) texts() string {
	r.Helper()
	var all []string
	err := Read(r.Context(), Options{Path: r.path, Tail: -1}, func(lines []Line) error {
		for _, l := range lines {
			all = append(all, string(l.Text))
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return strings.Join(all, " ")
}

func newRotation(t *testing.T) *rotation {
	return &rotation{t, filepath.Join(t.TempDir(), "id.log"), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func TestRotate(t *testing.T) {
	r := newRotation(t)
	begin := func() error { return os.WriteFile(r.path, nil, 0o600) }
	b := Bounds{Size: 60, Files: 3}
	r.write("a")
	if done, err := r.rotate(b, begin); done || err != nil {
		t.Errorf("a small log: %v %v", done, err)
	}
	for _, text := range []string{"b", "c", "d", "e", "f", "g"} {
		r.write(text)
		if _, err := r.rotate(b, begin); err != nil {
			t.Fatal(err)
		}
	}
	r.write("h")
	if got := r.texts(); got != "c d e f g h" {
		t.Errorf("three files have %q", got)
	}
	if all, err := files(r.path); err != nil || len(all) != 3 || !slices.Contains(all, r.path) {
		t.Errorf("%v %v", all, err)
	}
	if done, err := r.rotate(Bounds{Size: 1, Files: 1}, begin); !done || err != nil {
		t.Fatal(done, err)
	}
	if got := r.texts(); got != "" {
		t.Errorf("one file has %q", got)
	}
	r.write(strings.Repeat("x", 1000))
	if done, err := r.rotate(Bounds{Size: 0, Files: 1}, begin); done || err != nil {
		t.Errorf("no bound: %v %v", done, err)
	}
}

// TestRotateFails: a container that has just ended keeps its log.
func TestRotateFails(t *testing.T) {
	r := newRotation(t)
	r.write("kept")
	ended := errors.New("it has exited")
	if done, err := r.rotate(Bounds{Size: 1, Files: 1}, func() error { return ended }); done || !errors.Is(err, ended) {
		t.Errorf("%v %v", done, err)
	}
	if got := r.texts(); got != "kept" {
		t.Errorf("the log has %q", got)
	}
	// It was started again meanwhile.
	if _, err := r.rotate(Bounds{Size: 1, Files: 1}, func() error { r.write("new"); return ended }); !errors.Is(err, ended) {
		t.Error(err)
	}
	if got := r.texts(); got != "kept new" {
		t.Errorf("the log has %q", got)
	}
}

// TestRotateBegins the file that a daemon which died in between did not: what was
// written since is in the one put aside.
func TestRotateBegins(t *testing.T) {
	r := newRotation(t)
	r.write("one")
	b := Bounds{Size: 1000, Files: 2}
	if err := os.Rename(r.path, r.path+"."+r.now.Format(stamp)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.rotate(b, func() error { return errors.New("broken") }); err == nil {
		t.Error("no log was begun, and that is no error")
	}
	begun, err := r.rotate(b, func() error { return os.WriteFile(r.path, nil, 0o600) })
	if err != nil || !begun {
		t.Fatal(begun, err)
	}
	r.write("two")
	if got := r.texts(); got != "one two" {
		t.Errorf("the log is %q", got)
	}
	if _, there := Size(r.path); !there {
		t.Error("there is no log")
	}
}
