package events

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func one(int) int { return 1 }

var errEnough = errors.New("enough")

// read subscribes until it has n events.
func read(t *testing.T, l *Log[int], n int) []int {
	t.Helper()
	var got []int
	if n == 0 {
		return got
	}
	err := l.Subscribe(t.Context(), func(e int) error {
		if got = append(got, e); len(got) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("subscription ended after %v: %v", got, err)
	}
	return got
}

func TestLateSubscribers(t *testing.T) {
	l := NewLog(DefaultBounds, one)
	for i := range 10 {
		l.Add(i)
	}
	if got := read(t, l, 4); !slices.Equal(got, []int{0, 1, 2, 3}) {
		t.Errorf("the first got %v", got)
	}
	if got := read(t, l, 6); !slices.Equal(got, []int{4, 5, 6, 7, 8, 9}) {
		t.Errorf("the second got %v, want what the first has not had", got)
	}
	if len(l.entries) != 0 || l.bytes != 0 || l.Dropped() != 0 {
		t.Errorf("%d events of %d bytes are kept, %d dropped", len(l.entries), l.bytes, l.Dropped())
	}
}

// Everybody who is there gets everything, at a speed of their own.
func TestAllGetEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(DefaultBounds, one)
		const readers, count = 3, 500
		got := make([][]int, readers)
		var wait sync.WaitGroup
		for i := range readers {
			wait.Go(func() {
				err := l.Subscribe(t.Context(), func(e int) error {
					time.Sleep(time.Duration(i) * time.Millisecond)
					if got[i] = append(got[i], e); len(got[i]) == count {
						return errEnough
					}
					return nil
				})
				if !errors.Is(err, errEnough) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		for i := range count {
			l.Add(i)
		}
		wait.Wait()
		for i := range readers {
			for want, e := range got[i] {
				if e != want {
					t.Fatalf("reader %d got %d in the place of %d", i, e, want)
				}
			}
		}
		if l.Dropped() != 0 || len(l.entries) != 0 {
			t.Errorf("%d dropped, %d kept", l.Dropped(), len(l.entries))
		}
	})
}

// One who does not read is cut off and keeps no memory; the others go on.
func TestStuckReaderIsCutOff(t *testing.T) {
	l := NewLog(Bounds{Events: 10, Bytes: 1 << 20, IdleEvents: 10, IdleBytes: 10, Keep: time.Hour}, one)
	stuck, release := make(chan struct{}), make(chan struct{})
	cut := make(chan error, 1)
	go func() {
		cut <- l.Subscribe(t.Context(), func(int) error {
			close(stuck) // once: it never reads on
			<-release
			return nil
		})
	}()
	l.Add(0)
	<-stuck
	for i := range 100 {
		l.Add(i)
	}
	if err := <-cut; !errors.Is(err, ErrLost) {
		t.Errorf("it ended with %v", err)
	}
	close(release)
	if l.Dropped() == 0 {
		t.Error("what it missed is not counted")
	}
	if len(l.entries) > 10 || l.Subscribers() != 0 {
		t.Errorf("%d events kept for %d subscribers", len(l.entries), l.Subscribers())
	}
	l.Close()
	l.Wait()
}

func TestBounds(t *testing.T) {
	for name, test := range map[string]struct {
		bounds Bounds
		want   []int
	}{
		"events": {Bounds{Events: 10, Bytes: 10, IdleEvents: 3, IdleBytes: 1000, Keep: time.Hour}, []int{7, 8, 9}},
		"bytes":  {Bounds{Events: 10, Bytes: 10, IdleEvents: 1000, IdleBytes: 2, Keep: time.Hour}, []int{8, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLog(test.bounds, one)
			defer l.Close()
			for i := range 10 {
				l.Add(i)
			}
			if got := l.Dropped(); got != uint64(10-len(test.want)) {
				t.Errorf("%d dropped", got)
			}
			if got := read(t, l, len(test.want)); !slices.Equal(got, test.want) {
				t.Errorf("kept %v, want %v", got, test.want)
			}
		})
	}
}

// What nobody comes for goes after a while, also when nothing more happens.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(Bounds{IdleEvents: 10, IdleBytes: 10, Keep: time.Minute}, one)
		defer l.Close()
		l.Add(1)
		time.Sleep(30 * time.Second)
		l.Add(2)
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if l.Dropped() != 1 {
			t.Errorf("%d dropped after a minute, want 1", l.Dropped())
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if l.Dropped() != 2 || l.entries != nil {
			t.Errorf("%d dropped, %v kept", l.Dropped(), l.entries)
		}
	})
}

func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(DefaultBounds, one)
		gone, stop := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- l.Subscribe(gone, func(int) error { return nil }) }()
		synctest.Wait()
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a client that left ended with %v", err)
		}
		go func() { ended <- l.Subscribe(t.Context(), func(int) error { return nil }) }()
		synctest.Wait()
		for range 2 {
			l.Close()
		}
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("the log's end ended with %v", err)
		}
		if err := l.Subscribe(t.Context(), nil); !errors.Is(err, ErrClosed) {
			t.Errorf("subscribed to a closed log: %v", err)
		}
		l.Add(1)
		l.Wait()
	})
}

// Subscribers come and go while events are added: of each event somebody is
// told exactly once.
func TestHandOver(t *testing.T) {
	const count = 2000
	l := NewLog(Bounds{Events: count, Bytes: count, IdleEvents: count, IdleBytes: count, Keep: time.Hour}, one)
	go func() {
		for i := range count {
			l.Add(i)
		}
	}()
	var got []int
	for len(got) < count {
		got = append(got, read(t, l, min(37, count-len(got)))...)
	}
	for want, e := range got {
		if e != want {
			t.Fatalf("got %d in the place of %d", e, want)
		}
	}
}
