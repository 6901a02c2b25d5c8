package cri

import "sync"

// stops are the sandboxes that were asked to stop, so that nothing is created or
// started in one behind the stop's back. A sandbox stays marked after its stop,
// until it is removed or revived.
type stops struct {
	mu     sync.Mutex
	marked map[string]bool
	// running counts the stops, and removals, under way.
	running map[string]int
}

// begin marks a sandbox. The caller must call the function it gets when its stop
// is over.
func (s *stops) begin(id string) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.marked == nil {
		s.marked, s.running = map[string]bool{}, map[string]int{}
	}
	s.marked[id] = true
	s.running[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running[id]--; s.running[id] == 0 {
			delete(s.running, id)
		}
	}
}

// has reports whether a sandbox is marked.
func (s *stops) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marked[id]
}

// forget takes the mark away.
func (s *stops) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.marked, id)
}

// lift takes the mark away, unless a stop is under way: that would not see what
// is created from now on.
func (s *stops) lift(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[id] > 0 {
		return false
	}
	delete(s.marked, id)
	return true
}
