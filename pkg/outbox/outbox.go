package outbox

import "sync"

// Box has the news for one receiver. The zero Box is empty.
type Box[T any] struct {
	mu         sync.Mutex
	news       []T
	delivering bool
}

// Put adds news. It does not block.
func (b *Box[T]) Put(news T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.news = append(b.news, news)
}

// Deliver gives receive all that is in the Box, one after another, and what is
// put meanwhile, unless another call of it does so already.
func (b *Box[T]) Deliver(receive func(T)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.delivering {
		return
	}
	b.delivering = true
	for len(b.news) > 0 {
		all := b.news
		b.news = nil
		b.mu.Unlock()
		for _, news := range all {
			receive(news)
		}
		b.mu.Lock()
	}
	b.delivering = false
}
