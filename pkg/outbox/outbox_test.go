package outbox

import (
	"slices"
	"sync"
	"testing"
)

// TestOrder has many change a number under a lock, and wants every change once, in
// order, by one at a time.
func TestOrder(t *testing.T) {
	const workers, rounds = 8, 500
	var (
		mu     sync.Mutex
		number int
		box    Box[int]
		got    []int // unguarded: deliveries follow one another
		all    sync.WaitGroup
	)
	for range workers {
		all.Go(func() {
			for range rounds {
				mu.Lock()
				number++
				box.Put(number)
				mu.Unlock()
				box.Deliver(func(n int) { got = append(got, n) })
			}
		})
	}
	all.Wait()
	if len(got) != workers*rounds || !slices.IsSorted(got) || got[len(got)-1] != workers*rounds {
		t.Errorf("%d were received, in order: %t", len(got), slices.IsSorted(got))
	}
}

// TestReceiverPuts from within: that comes next, and nobody waits for itself.
func TestReceiverPuts(t *testing.T) {
	var box Box[int]
	var got []int
	var receive func(int)
	receive = func(n int) {
		got = append(got, n)
		if n < 3 {
			box.Put(n + 1)
			box.Deliver(receive)
			if len(got) != n {
				t.Errorf("%v was received within", got)
			}
		}
	}
	box.Deliver(receive)
	box.Put(1)
	box.Deliver(receive)
	if !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("received %v", got)
	}
}
