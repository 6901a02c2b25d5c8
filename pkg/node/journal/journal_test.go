package journal

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func add(j *Journal[int], events ...int) (at []time.Time) {
	for _, e := range events {
		j.Add(func(t time.Time) int { at = append(at, t); return e })
	}
	return at
}

// read collects until there were n events or the read ended.
func read(t *testing.T, j *Journal[int], since, until time.Time, n int) (got []int, err error) {
	t.Helper()
	enough := errors.New("enough")
	err = j.Read(t.Context(), since, until, func(e int) error {
		if got = append(got, e); len(got) == n {
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return got, err
}

func TestReadSinceAndUntil(t *testing.T) {
	j := New[int](4)
	at := add(j, 1, 2, 3, 4, 5, 6)
	for _, test := range []struct {
		name         string
		since, until time.Time
		want         []int
	}{
		{"all that is remembered", at[0], at[5], []int{3, 4, 5, 6}},
		{"from one on", at[4], at[5], []int{5, 6}},
		{"up to one", at[2], at[3], []int{3, 4}},
		{"nothing before now", time.Time{}, time.Now().Add(-time.Second), nil},
	} {
		if got, err := read(t, j, test.since, test.until, 100); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, %v", test.name, got, err)
		}
	}
}

func TestReadGoesOn(t *testing.T) {
	j := New[int](4)
	add(j, 1)
	first := make(chan struct{})
	done := make(chan []int)
	go func() {
		var got []int
		_ = j.Read(t.Context(), time.Unix(1, 0), time.Time{}, func(e int) error {
			if got = append(got, e); len(got) == 1 {
				close(first)
			}
			if len(got) == 3 {
				return errors.New("enough")
			}
			return nil
		})
		done <- got
	}()
	<-first
	add(j, 2)
	add(j, 3)
	if got := <-done; !slices.Equal(got, []int{1, 2, 3}) {
		t.Error(got)
	}
}

func TestSlowReaderIsTold(t *testing.T) {
	j := New[int](2)
	at := add(j, 1)
	err := j.Read(t.Context(), at[0], time.Time{}, func(int) error {
		add(j, 2, 3, 4)
		return nil
	})
	if !errors.Is(err, ErrLost) {
		t.Error(err)
	}
}

func TestReadEndsWithContext(t *testing.T) {
	j := New[int](2)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("over")
	cancel(cause)
	if err := j.Read(ctx, time.Time{}, time.Time{}, nil); !errors.Is(err, cause) {
		t.Error(err)
	}
}
