package image

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// Progress is how far one layer of a pull, push or load is.
type Progress struct {
	// Layer is the digest of the blob, or the diff ID; empty for the whole.
	Layer digest.Digest
	// Status is in docker's words: Downloading, Pull complete, Pushed …
	Status string
	// Current and Total are bytes; Total is 0 where nobody knows.
	Current, Total int64
}

// Statuses of a pull, in their order.
const (
	statusWaiting     = "Waiting"
	statusDownloading = "Downloading"
	statusExtracting  = "Extracting"
	statusComplete    = "Pull complete"
	statusExists      = "Already exists"
)

// reportEvery is how often progress within one status is told.
const reportEvery = 100 * time.Millisecond

// reporter tells a caller of progress: each status once, and bytes not too
// often. The zero reporter's methods do nothing.
type reporter struct {
	mu   sync.Mutex
	send func(Progress)
	last map[digest.Digest]reported
}

type reported struct {
	progress Progress
	at       time.Time
}

func newReporter(tell func(Progress)) *reporter {
	return &reporter{send: tell, last: map[digest.Digest]reported{}}
}

// tell passes p on if it is news.
func (r *reporter) tell(p Progress) {
	if r.send == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	was, seen := r.last[p.Layer]
	now := time.Now()
	if seen && (was.progress == p || was.progress.Status == p.Status && now.Sub(was.at) < reportEvery && p.Current != p.Total) {
		return
	}
	r.last[p.Layer] = reported{p, now}
	r.send(p)
}

// board shows how far the layers of a pull are. Those who carry it out write to
// it, those who wait for it read.
type board struct {
	mu     sync.Mutex
	layers []*layerBoard
}

// layerBoard is one layer, which may be on the boards of several pulls.
type layerBoard struct {
	users  int // guarded by boards.mu
	blob   digest.Digest
	total  int64
	status atomic.Pointer[string]
	got    atomic.Int64
}

func (l *layerBoard) set(status string) { l.status.Store(&status) }

// boards are those of all pulls under way.
type boards struct {
	mu     sync.Mutex
	pulls  map[pullKey]*board
	layers map[layerKey]*layerBoard
}

// pull makes the board of a pull, and returns what takes it down.
func (b *boards) pull(key pullKey) (*board, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pulls == nil {
		b.pulls, b.layers = map[pullKey]*board{}, map[layerKey]*layerBoard{}
	}
	made := &board{}
	b.pulls[key] = made
	return made, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.pulls[key] == made {
			delete(b.pulls, key)
		}
	}
}

func (b *boards) of(key pullKey) *board {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pulls[key]
}

// layer finds or makes the board of a layer. The caller calls leave.
func (b *boards) layer(l layerSource) *layerBoard {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.layers == nil {
		b.pulls, b.layers = map[pullKey]*board{}, map[layerKey]*layerBoard{}
	}
	made := b.layers[l.key()]
	if made == nil {
		made = &layerBoard{blob: l.blob.Digest, total: l.blob.Size}
		made.set(statusWaiting)
		b.layers[l.key()] = made
	}
	made.users++
	return made
}

func (b *boards) leave(l layerSource) {
	b.mu.Lock()
	defer b.mu.Unlock()
	made := b.layers[l.key()]
	if made.users--; made.users == 0 {
		delete(b.layers, l.key())
	}
}

// show puts layers on a board that are already there, or on their way.
func (b *board) show(layers []*layerBoard) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.layers = layers
}

func (b *board) tell(r *reporter) {
	b.mu.Lock()
	layers := b.layers
	b.mu.Unlock()
	for _, l := range layers {
		status := *l.status.Load()
		p := Progress{Layer: l.blob, Status: status, Total: l.total}
		switch status {
		case statusDownloading, statusExtracting:
			p.Current = l.got.Load()
		case statusComplete, statusExists:
			p.Current = l.total
		}
		r.tell(p)
	}
}

// watch tells of a pull until stop is called, and then of its end.
func (s *Store) watch(ctx context.Context, key pullKey, tell func(Progress)) (stop func()) {
	if tell == nil {
		return func() {}
	}
	r := newReporter(tell)
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	var last *board
	watching.Go(func() {
		tick := time.NewTicker(reportEvery / 2)
		defer tick.Stop()
		for {
			if b := s.boards.of(key); b != nil {
				last = b
				b.tell(r)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		watching.Wait()
		if last != nil {
			last.tell(r)
		}
	}
}
