package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// record is one line of a log, so many seconds after the epoch.
func record(second int, stream, tag, text string) string {
	return fmt.Sprintf("%s %s %s %s\n", time.Unix(int64(second), 0).UTC().Format(time.RFC3339Nano), stream, tag, text)
}

// lines are n records beginning with the number from.
func lines(from, n int) string {
	var b strings.Builder
	for i := from; i < from+n; i++ {
		b.WriteString(record(i, "stdout", "F", fmt.Sprint(i)))
	}
	return b.String()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func pack(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// read reads to the end.
func read(t *testing.T, o Options) []string {
	t.Helper()
	var got []string
	err := Read(t.Context(), o, func(batch []Line) error {
		for _, l := range batch {
			got = append(got, string(l.Text))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// numbers from the first to the last.
func numbers(first, last int) []string {
	var list []string
	for i := first; i <= last; i++ {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

// rotatedLog is a log of 30 lines in three files.
func rotatedLog(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.log")
	pack(t, path+".20260101-000000.gz", lines(1, 10))
	write(t, path+".20260102-000000", lines(11, 10))
	write(t, path, lines(21, 10))
	write(t, path+".20260103-000000.tmp", "what is being compressed")
	write(t, path+"ger", lines(1, 1))
	return path
}

func TestReadGoesThroughRotatedFiles(t *testing.T) {
	path := rotatedLog(t)
	for _, test := range []struct {
		name string
		o    Options
		want []string
	}{
		{"all", Options{Tail: -1}, numbers(1, 30)},
		{"none", Options{Tail: 0}, nil},
		{"the last", Options{Tail: 1}, numbers(30, 30)},
		{"the last file", Options{Tail: 10}, numbers(21, 30)},
		{"over two files", Options{Tail: 11}, numbers(20, 30)},
		{"over three files", Options{Tail: 25}, numbers(6, 30)},
		{"more than there is", Options{Tail: 100}, numbers(1, 30)},
		{"since", Options{Tail: -1, Since: time.Unix(28, 0)}, numbers(28, 30)},
		{"until", Options{Tail: -1, Until: time.Unix(3, 0)}, numbers(1, 3)},
		{"both", Options{Tail: -1, Since: time.Unix(9, 0), Until: time.Unix(12, 0)}, numbers(9, 12)},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.o.Path = path
			if got := read(t, test.o); !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// Tail finds the right line for every number, also over many blocks.
func TestTailOfABigFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.log")
	var b strings.Builder
	for i := range 300 {
		b.WriteString(record(i, "stdout", "F", fmt.Sprint(i)+strings.Repeat("x", i*7)))
	}
	write(t, path, b.String())
	for _, n := range []int{1, 2, 10, 100, 200, 299, 300} {
		got := read(t, Options{Path: path, Tail: int64(n)})
		if len(got) != n || !strings.HasPrefix(got[0], fmt.Sprint(300-n)) {
			t.Errorf("the last %d are %d", n, len(got))
		}
	}
}

func TestPartsAndBrokenRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.log")
	write(t, path, record(1, "stdout", "P", "a")+record(1, "stdout", "F", "b")+"broken\n"+record(2, "stderr", "F:x", "c")+
		record(3, "stdin", "F", "no")+record(3, "stdout", "F", "d")+record(4, "stdout", "P", "e")+"2026-01-01T00:00:00Z stdout F cut sho")
	for tail, want := range map[int64][]string{-1: {"a", "b", "c", "d", "e"}, 2: {"d", "e"}, 1: {"e"}} {
		if got := read(t, Options{Path: path, Tail: tail}); !slices.Equal(got, want) {
			t.Errorf("tail %d: %v, want %v", tail, got, want)
		}
	}
	if l, ok := parse([]byte("2026-01-01T00:00:00Z stderr P:y text with spaces")); !ok || !l.Stderr || !l.Partial || string(l.Text) != "text with spaces" {
		t.Errorf("%+v %v", l, ok)
	}
}

func TestNoLog(t *testing.T) {
	if got := read(t, Options{Path: filepath.Join(t.TempDir(), "none", "c.log"), Tail: 3}); got != nil {
		t.Error(got)
	}
}

// TestFollow sees what is written, through a rotation as kubelet does it, to the
// end.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.log")
	done := make(chan struct{})
	got := make(chan string, 1000)
	ended := make(chan error, 1)
	write(t, path, lines(1, 3))
	go func() {
		ended <- Read(t.Context(), Options{Path: path, Tail: 2, Follow: true, Done: done}, func(batch []Line) error {
			for _, l := range batch {
				got <- string(l.Text)
			}
			return nil
		})
	}()
	want := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			select {
			case line := <-got:
				if line != text {
					t.Fatalf("%s, want %s", line, text)
				}
			case err := <-ended:
				t.Fatal(err)
			case <-time.After(10 * time.Second):
				t.Fatalf("%s does not come", text)
			}
		}
	}
	want("2", "3")
	write(t, path, lines(4, 2))
	want("4", "5")
	half := record(6, "stdout", "F", "6")
	write(t, path, half[:10])
	write(t, path, half[10:])
	want("6")
	// Renamed, still written to, and only then another file.
	if err := os.Rename(path, path+".20260101-000000"); err != nil {
		t.Fatal(err)
	}
	write(t, path+".20260101-000000", lines(7, 1))
	write(t, path, lines(8, 1))
	want("7", "8")
	write(t, path, lines(9, 1))
	want("9")
	write(t, path, lines(10, 500))
	close(done)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(ended) // the rest waits in got
	ended = nil
	want(numbers(10, 509)...)
}

// TestFollowWaitsForTheFile, which the monitor makes with the container.
func TestFollowWaitsForTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.log")
	got := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Read(ctx, Options{Path: path, Tail: -1, Follow: true}, func(batch []Line) error {
			for _, l := range batch {
				got <- string(l.Text)
			}
			return nil
		})
	}()
	write(t, path, lines(1, 1))
	if line := <-got; line != "1" {
		t.Error(line)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFollowEndsAtUntil(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.log")
	write(t, path, lines(1, 2))
	got := read(t, Options{Path: path, Tail: -1, Follow: true, Until: time.Now().Add(50 * time.Millisecond)})
	if !slices.Equal(got, numbers(1, 2)) {
		t.Error(got)
	}
}

func FuzzLast(f *testing.F) {
	f.Add([]byte(lines(1, 3)), int64(2))
	f.Add([]byte("\n\n x"), int64(1))
	f.Fuzz(func(t *testing.T, text []byte, n int64) {
		if n <= 0 || n > 1000 {
			return
		}
		path := filepath.Join(t.TempDir(), "c.log")
		write(t, path, string(text))
		at, err := last([]string{path}, n)
		if err != nil || at.offset < 0 || at.offset > int64(len(text)) {
			t.Errorf("%+v %v", at, err)
		}
	})
}
