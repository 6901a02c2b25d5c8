package diskusage

import (
	"context"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
)

// Usage is what a layer takes up.
type Usage struct {
	Bytes  int64
	Inodes int64
}

// What may be spent, and when; see the package comment.
const (
	courtesy      = 30 * time.Millisecond
	minInterval   = time.Second
	intervalShare = 20
	toldInterval  = 30 * time.Second
	toldShare     = 100
	quietFirst    = 5 * time.Second
	quietMost     = time.Minute
	fullInterval  = 10 * time.Minute
	fullShare     = 200
)

// Accountant keeps the figures of all layers of a node. The zero value is of
// no use; see New.
type Accountant struct {
	marks *marks
	wake  chan struct{}

	mu     sync.Mutex
	layers map[string]*layer
}

// layer is one writable layer. Accountant.mu guards all but tree, which is the
// walker's alone.
type layer struct {
	dir   string
	mount string // where the overlay is mounted; "" until it is known

	usage Usage
	known bool
	asOf  time.Time // usage was right then

	asked    time.Time // last
	looked   time.Time // when the last look began
	fullAt   time.Time // when the last full walk began
	next     time.Time // no look before, whoever asks
	cost     time.Duration
	fullCost time.Duration
	quiet    time.Duration // how long the layer is left alone, as passes found nothing
	// written: a file may have been written to since the last full walk began.
	// told: one was.
	written, told bool
	gone          bool

	tree *tree
}

// New returns an Accountant; its Run has to be called once.
func New() *Accountant {
	a := &Accountant{wake: make(chan struct{}, 1), layers: map[string]*layer{}}
	a.marks = newMarks(a.suspect)
	return a
}

// Add makes a layer known, by the directory that it is in. known is what it
// takes up, where that is known already.
func (a *Accountant) Add(id, dir string, known *Usage) {
	l := &layer{dir: dir, written: true}
	if known != nil {
		l.usage, l.known, l.asOf = *known, true, time.Now()
	}
	a.mu.Lock()
	a.layers[id] = l
	a.mu.Unlock()
	if known == nil {
		a.poke()
	}
}

// Remove forgets a layer.
func (a *Accountant) Remove(id string) {
	a.mu.Lock()
	l := a.layers[id]
	delete(a.layers, id)
	if l != nil {
		l.gone = true
	}
	a.mu.Unlock()
	a.marks.drop(id)
}

// Get returns the figure of a layer and when it was right, without any I/O; ok
// is false as long as there is none. mount is where its overlay is mounted, ""
// where it is not. Who asks makes the next figure a fresh one.
func (a *Accountant) Get(id, mount string) (u Usage, asOf time.Time, ok bool) {
	now := time.Now()
	a.mu.Lock()
	l := a.layers[id]
	if l == nil {
		a.mu.Unlock()
		return Usage{}, time.Time{}, false
	}
	l.asked, l.mount = now, mount
	u, asOf, ok = l.usage, l.asOf, l.known
	due := !now.Before(l.next)
	a.mu.Unlock()
	if due {
		a.poke()
	}
	return u, asOf, ok
}

// suspect notes that layers may have been written to.
func (a *Accountant) suspect(ids []string) {
	a.mu.Lock()
	for _, id := range ids {
		if l := a.layers[id]; l != nil {
			l.written, l.told = true, true
			l.quiet = 0
			l.next = l.earliest(l.looked)
		}
	}
	a.mu.Unlock()
	a.poke()
}

func (a *Accountant) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run keeps the figures up to date until ctx ends.
func (a *Accountant) Run(ctx context.Context) {
	defer a.marks.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait := a.work(ctx)
		if wait > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			continue
		case <-a.wake:
		}
		// Whoever asked is being answered, and would have to share the processor.
		timer.Reset(courtesy)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// work looks at the layers that are due. It returns how long there is nothing
// to do, 0 for until it is woken.
func (a *Accountant) work(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		id, l, wait := a.pick(time.Now())
		if l == nil {
			return wait
		}
		a.look(ctx, id, l)
	}
	return 0
}

// pick chooses the cheapest of the layers that are due, or else says when the
// next one is.
func (a *Accountant) pick(now time.Time) (id string, l *layer, wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, candidate := range a.layers {
		due, wanted := candidate.due()
		if !wanted {
			continue
		}
		if until := due.Sub(now); until > 0 {
			if wait == 0 || until < wait {
				wait = until
			}
			continue
		}
		if l == nil || candidate.cost < l.cost {
			id, l = i, candidate
		}
	}
	return id, l, wait
}

// due says from when on a layer is to be looked at, if it is: somebody has asked
// since the last look, or it was written to.
func (l *layer) due() (at time.Time, wanted bool) {
	switch {
	case !l.known || l.asked.After(l.looked):
		return l.next, true
	case l.told:
		return l.looked.Add(max(toldInterval, toldShare*l.cost)), true
	}
	return time.Time{}, false
}

// earliest is when the next look may begin, after one that ended then.
func (l *layer) earliest(then time.Time) time.Time {
	return then.Add(max(minInterval, intervalShare*l.cost, l.quiet))
}

// look brings one figure up to date.
func (a *Accountant) look(ctx context.Context, id string, l *layer) {
	began := time.Now()
	a.mu.Lock()
	if l.gone {
		a.mu.Unlock()
		return
	}
	mount := l.mount
	full := l.written || l.tree == nil || began.Sub(l.fullAt) > max(fullInterval, fullShare*l.fullCost)
	l.told = l.told && !full
	a.mu.Unlock()

	before := l.tree
	if full {
		// Marked first, so that no write falls between the two.
		a.marks.add(id, mount)
		before = nil
	}
	p := &pace{began: time.Now()}
	var t *tree
	var usage Usage
	err := guard.Call(klog.FromContext(ctx), "the measuring of a layer", func() (err error) { // whose files are a container's
		t, usage, err = measure(ctx, l.dir, before, p)
		return err
	})
	cost := p.spent()

	a.mu.Lock()
	defer a.mu.Unlock()
	l.looked, l.cost, l.tree = began, cost, t
	switch {
	case err != nil:
		l.quiet = toldInterval
		l.written, l.next = true, l.earliest(time.Now())
		return
	case full || usage != l.usage || l.told:
		l.quiet = 0
	default:
		l.quiet = min(max(2*l.quiet, quietFirst), quietMost)
	}
	l.next = l.earliest(time.Now())
	l.usage, l.known, l.asOf = usage, true, began
	if full {
		l.fullAt, l.fullCost = began, cost
		// A mark that has told something meanwhile stands no more.
		l.written = !a.marks.stands(id)
	}
	if l.gone {
		a.marks.drop(id) // Remove did not see it
	}
}
