package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cri-node/cri-node/pkg/node/health"
	"github.com/cri-node/cri-node/pkg/node/restart"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// entry is one container of people's.
type entry struct {
	id string
	// op holds one token; who has it may change what the container does.
	op chan struct{}

	// mu guards all below and is never held over I/O but that of the record.
	mu  sync.Mutex
	rec record
	// settled is the end that was last dealt with.
	settled time.Time
	// ends counts the ends that were dealt with, and last is how the last was.
	ends uint64
	last end
	// waiting is not nil while a restart waits, and restarting is set while it starts
	// the container.
	waiting    *waiting
	restarting bool
	// gone: the container was removed. delayed: it was to go by itself, and the
	// first attempt has failed.
	gone, delayed bool
	// changed is closed, and replaced, with each change of ends, gone and delayed,
	// and when it comes to rest.
	changed chan struct{}
	health  *watch
	// probed is what was known when the last health check of this daemon ended, or
	// of an earlier one.
	probed probed
	// failed: the last attempt to start it again has.
	failed bool
}

// end is how a container ended.
type end struct {
	code   int
	reason string
	at     time.Time
}

// waiting is one wait before a restart.
type waiting struct {
	// over is closed when somebody else takes over.
	over chan struct{}
}

func newEntry(r record) *entry {
	return &entry{id: r.ID, op: make(chan struct{}, 1), rec: r, changed: make(chan struct{})}
}

// lock takes the container for one operation. The caller must call unlock. One
// that was removed meanwhile is not found.
func (e *entry) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case e.op <- struct{}{}:
		if e.isGone() {
			<-e.op
			return nil, e.removed()
		}
		return func() { <-e.op }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another operation on container %s: %w", short(e.id), context.Cause(ctx))
	}
}

// removed is the error of what comes too late.
func (e *entry) removed() error {
	return notFound("container %q was removed meanwhile", e.name())
}

// record returns a copy. What its slices hold is not changed by anybody.
func (e *entry) record() record {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rec
}

func (e *entry) name() string { return e.record().Name }

// update changes the record, on disk and then in memory.
func (s *Server) update(e *entry, f func(*record)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		// A record without a container would come to life with the next daemon.
		return notFound("container %q was removed meanwhile", e.rec.Name)
	}
	next := e.rec
	f(&next)
	if err := s.save(&next); err != nil {
		return err
	}
	e.rec = next
	return nil
}

// insist is update where a full disk must not be in the way.
func (s *Server) insist(ctx context.Context, e *entry, f func(*record)) {
	err := s.update(e, f)
	if err == nil {
		return
	}
	e.mu.Lock()
	f(&e.rec)
	e.mu.Unlock()
	s.complain(ctx, err, "The record of a container is not saved", e.id)
}

// broadcast wakes whoever waits for a change.
func (e *entry) broadcast() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broadcastLocked()
}

// broadcastLocked wakes whoever waits for a change.
func (e *entry) broadcastLocked() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// beginWait says that the container will be started again.
func (e *entry) beginWait() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = &waiting{over: make(chan struct{})}
}

// endWait ends a wait, and reports whether there was one.
func (e *entry) endWait() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting == nil {
		return false
	}
	close(e.waiting.over)
	e.waiting = nil
	return true
}

// beginRestart ends a wait by what it was for, until endRestart; it reports
// whether there was one.
func (e *entry) beginRestart() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.restarting, e.waiting = e.waiting != nil, nil
	return e.restarting
}

func (e *entry) endRestart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.restarting = false
}

// settle takes note of an end, once; it reports whether this was the first time.
func (e *entry) settle(st *runtime.Status) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settled.Equal(st.FinishedAt) {
		return false
	}
	e.settled = st.FinishedAt
	return true
}

// tell wakes those who wait for the end that was settled.
func (e *entry) tell(st *runtime.Status) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ends++
	e.last = end{st.ExitCode, st.Reason, st.FinishedAt}
	e.broadcastLocked()
}

// exit is how the container ended, for the restart policy. One that could not be
// started again has not run, however long it did before.
func (e *entry) exit(st *runtime.Status) restart.Exit {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &e.rec
	ran := time.Duration(0)
	if !st.StartedAt.IsZero() && st.Reason != runtime.ReasonStartError && !e.failed {
		ran = st.FinishedAt.Sub(st.StartedAt)
	}
	return restart.Exit{Code: st.ExitCode, Ran: ran, Stopped: r.Stopped, Restarts: r.Restarts, Wait: r.Wait}
}

// state of a container as people call it.
func (e *entry) state(st *runtime.Status) string {
	switch {
	case st.State == runtime.Running && st.Paused:
		return "paused"
	case st.State == runtime.Running:
		return "running"
	case st.State == runtime.Exited && st.Reason == runtime.ReasonRecordBroken:
		return "dead"
	case st.State == runtime.Exited && e != nil && e.comesBack():
		return "restarting"
	case st.State == runtime.Exited:
		return "exited"
	default:
		return "created"
	}
}

func (e *entry) isWaiting() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.waiting != nil
}

// comesBack says that it waits for a restart, or is being started for one.
func (e *entry) comesBack() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.comesBackLocked()
}

func (e *entry) comesBackLocked() bool { return e.waiting != nil || e.restarting }

// healthState is how the container is by its health check.
func (e *entry) healthState() health.State {
	e.mu.Lock()
	w, known, status := e.health, e.probed.State, e.rec.HealthStatus
	e.mu.Unlock()
	switch {
	case w != nil:
		return w.checker.State()
	case known.Status == status:
		return known
	}
	return health.State{Status: status}
}

// table finds the containers of people.
type table struct {
	mu     sync.Mutex
	byID   map[string]*entry
	byName map[string]*entry
	// leaving are those that were removed and whose last changes are still to be
	// told.
	leaving map[string]*entry
}

// add enters a container whose name must be free; with an empty name choose
// makes one up.
func (t *table) add(e *entry, choose func(taken func(string) bool) string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.rec.Name == "" {
		e.rec.Name = choose(func(n string) bool { return t.byName[n] != nil })
	}
	if other := t.byName[e.rec.Name]; other != nil {
		return nameTaken(e.rec.Name, other)
	}
	t.byID[e.id], t.byName[e.rec.Name] = e, e
	return nil
}

func nameTaken(name string, by *entry) error {
	return exists("container %q exists already (id %s): remove it with \"cri-node rm %s\", or choose another --name", name, short(by.id), name)
}

// rename gives a container another name, if that is free. save is called in
// between, and nothing has changed if it fails.
func (t *table) rename(e *entry, to string, save func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other := t.byName[to]; other != nil {
		return nameTaken(to, other)
	}
	from := e.name()
	if err := save(); err != nil {
		return err
	}
	delete(t.byName, from)
	t.byName[to] = e
	return nil
}

// forget removes a container and frees its name. It is remembered until left.
func (t *table) forget(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, e.id)
	t.leaving[e.id] = e
	if name := e.name(); t.byName[name] == e {
		delete(t.byName, name)
	}
}

func (t *table) left(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.leaving, e.id)
}

// remembered finds a container that is there, or was until now.
func (t *table) remembered(id string) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil {
		return e
	}
	return t.leaving[id]
}

func (t *table) get(id string) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// named finds a container by its name, if it is one that was created.
func (t *table) named(name string) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byName[name]
}

// list returns all containers that were created, the oldest first.
func (t *table) list() []*entry {
	t.mu.Lock()
	all := make([]*entry, 0, len(t.byID))
	for _, e := range t.byID {
		all = append(all, e)
	}
	t.mu.Unlock()
	all = slices.DeleteFunc(all, func(e *entry) bool { return e.record().Creating })
	slices.SortFunc(all, func(a, b *entry) int {
		x, y := a.record(), b.record()
		if c := x.CreatedAt.Compare(y.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	return all
}

func (e *entry) isGone() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gone
}

// delay says that a container that is to go by itself is not gone yet.
func (e *entry) delay() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.delayed = true
	e.broadcastLocked()
}

func (e *entry) isSettled(st *runtime.Status) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.settled.Equal(st.FinishedAt)
}

// unsettle makes the last end one to be dealt with again: a restart failed.
func (e *entry) unsettle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settled, e.failed = time.Time{}, true
}

// begun notes that it was started again.
func (e *entry) begun() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = false
}
