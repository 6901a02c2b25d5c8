package revision_test

import (
	"sync"
	"testing"

	"github.com/cri-node/cri-node/pkg/revision"
)

// Who has read the counter before the values never keeps an old one for a new.
func TestCounter(t *testing.T) {
	var counter revision.Counter
	var p revision.Pointer[int]
	p.Store(new(int)) // counted by nobody
	if counter.Now() != 0 {
		t.Error("counted a change of another collection")
	}
	p.CountedBy(&counter)
	const last = 1000
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range last + 1 {
			if before := p.Swap(&i); i > 0 && *before != i-1 {
				t.Errorf("swapped %d for %d", i, *before)
			}
		}
	})
	kept, of := -1, counter.Now()
	for kept != last {
		if now := counter.Now(); now != of || kept < 0 {
			kept, of = *p.Load(), now
		}
	}
	writer.Wait()
	if n := counter.Now(); n != last+1 {
		t.Errorf("counted %d changes", n)
	}
	counter.Changed()
	if n := counter.Now(); n != last+2 {
		t.Errorf("counted %d changes", n)
	}
}
