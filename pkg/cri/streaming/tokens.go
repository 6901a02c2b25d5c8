package streaming

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// tokenTime is how long a token waits for its use.
	tokenTime = time.Minute
	// maxTokens bounds those that wait. A flood gets errors; it does not push
	// out what others wait for.
	maxTokens = 1000
)

// tokens maps tokens to what they stand for. A token is 130 bits of randomness:
// that is all the authentication there is, so none is ever logged.
type tokens struct {
	mu sync.Mutex
	m  map[string]waiting
	// order has the tokens, used ones too, as they were issued, which is also
	// the order in which they expire.
	order []string
	// now is the clock.
	now func() time.Time
}

// waiting is a request that no client has come for yet.
type waiting struct {
	request any // Exec, Attach or PortForward
	until   time.Time
}

func newTokens() *tokens { return &tokens{m: map[string]waiting{}, now: time.Now} }

// issue returns a new token for a request.
func (t *tokens) issue(request any) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	if len(t.m) >= maxTokens {
		return "", fmt.Errorf("%d streaming requests wait for their client already: %w", len(t.m), errdefs.ErrResourceExhausted)
	}
	token := rand.Text()
	t.m[token] = waiting{request: request, until: t.now().Add(tokenTime)}
	t.order = append(t.order, token)
	return token, nil
}

// spend returns what a token stands for, once.
func (t *tokens) spend(token string) (request any, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	w, ok := t.m[token]
	delete(t.m, token)
	return w.request, ok
}

// expireLocked drops from the front what is spent or too old.
func (t *tokens) expireLocked() {
	now, n := t.now(), 0
	for _, token := range t.order {
		w, ok := t.m[token]
		if ok && now.Before(w.until) {
			break
		}
		delete(t.m, token)
		n++
	}
	t.order = append(t.order[:0], t.order[n:]...)
}
