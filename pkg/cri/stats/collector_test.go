package stats

import (
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

func newCgroup(t *testing.T) (*linux.Cgroups, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c, err := linux.DetectCgroups()
	if err != nil {
		t.Skip(err)
	}
	const name = "/cri-node-test-collector"
	if err := c.Create(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(name); err != nil {
			t.Error(err)
		}
	})
	return c, name
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestShared: a burst shares one reading, and nothing stays open.
func TestShared(t *testing.T) {
	cgroups, name := newCgroup(t)
	c := New(cgroups)
	before := openFiles(t)
	target := Target{ID: "a", Cgroup: name, Since: time.Now().Add(-time.Second), Keep: true}
	first, err := c.Sample(target)
	if err != nil || first.NanoCores == nil {
		t.Fatalf("%+v, %v", first, err)
	}
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if s, err := c.Sample(target); err != nil || !s.Time.Equal(first.Time) {
				t.Errorf("read again: %v, %v", s.Time, err)
			}
		})
	}
	wait.Wait()
	if openFiles(t) <= before {
		t.Error("nothing is kept open")
	}
	<-time.After(life)
	if s, err := c.Sample(target); err != nil || s.Time.Equal(first.Time) {
		t.Errorf("not read again: %v", err)
	}
	c.Close("a")
	if got := openFiles(t); got != before || c.kept.Load() != 0 {
		t.Errorf("%d open files, %d before; %d kept", got, before, c.kept.Load())
	}
	if _, err := c.Sample(target); err != nil {
		t.Error(err)
	}
	c.Drop("a")
	c.Drop("a")
	if got := openFiles(t); got != before || len(c.entries) != 0 {
		t.Errorf("%d open files, %d before, %d entries", got, before, len(c.entries))
	}
}

// TestBound: what may be kept open is bounded; the others work all the same.
func TestBound(t *testing.T) {
	cgroups, name := newCgroup(t)
	c := New(cgroups)
	c.maxKept = 3
	before := openFiles(t)
	var targets []Target
	for i := range 40 {
		targets = append(targets, Target{ID: string(rune('A' + i)), Cgroup: name, Keep: true})
	}
	for i, r := range c.Samples(targets) {
		if r.Err != nil {
			t.Errorf("%d: %v", i, r.Err)
		}
	}
	if got := openFiles(t) - before; got == 0 || got > 3*linux.MaxReaderFiles {
		t.Errorf("%d files are open", got)
	}
	for _, target := range targets {
		c.Drop(target.ID)
	}
	if got := openFiles(t); got != before {
		t.Errorf("%d open files, %d before", got, before)
	}
}

// TestGone: a cgroup that is not there leaves nothing behind.
func TestGone(t *testing.T) {
	cgroups, _ := newCgroup(t)
	c := New(cgroups)
	results := c.Samples([]Target{{ID: "x", Cgroup: "/cri-node-test-none", Keep: true}})
	if !errors.Is(results[0].Err, os.ErrNotExist) || len(c.entries) != 0 || c.kept.Load() != 0 {
		t.Errorf("%v, %d entries, %d kept", results[0].Err, len(c.entries), c.kept.Load())
	}
	networks, err := c.Networks([]NetworkTarget{{"x", "/proc/self/ns/none"}})
	if err != nil || networks[0].Interfaces != nil || len(c.networks) != 0 {
		t.Errorf("%+v, %v", networks, err)
	}
}

func TestRate(t *testing.T) {
	start := time.Now()
	second := uint64(time.Second)
	e := &entry{}
	rate := func(after time.Duration, usage uint64) *uint64 {
		return e.rateLocked(start.Add(after), usage, time.Time{})
	}
	if r := rate(0, 5*second); r != nil {
		t.Errorf("one reading has the rate %d", *r)
	}
	if r := rate(2*time.Second, 6*second); r == nil || *r != second/2 {
		t.Errorf("rate %v", r)
	}
	if r := rate(2*time.Second+minSample/2, 7*second); r == nil || *r != second/2 {
		t.Errorf("two readings at nearly the same time: %v", r)
	}
	if r := rate(3*time.Second, 0); r == nil || *r != 0 {
		t.Errorf("a smaller reading: %v", r)
	}
	young, old := &entry{}, &entry{}
	if r := young.rateLocked(start, second, start.Add(-2*time.Second)); r == nil || *r != second/2 {
		t.Errorf("what has just begun: %v", r)
	}
	if r := old.rateLocked(start, second, start.Add(-time.Hour)); r != nil {
		t.Errorf("what has run for long: %v", *r)
	}
}
