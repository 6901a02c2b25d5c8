package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/revision"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// Network is what a sandbox needs of the network; *network.Network is one.
type Network interface {
	// Attach connects the pod. It keeps an intent before it has any effect,
	// and undoes what it did when it fails.
	Attach(ctx context.Context, a network.Attachment) (network.Result, error)
	// Detach releases all that Attach of this id took, also where netns is ""
	// or gone. An unknown id is a success.
	Detach(ctx context.Context, id, netns string) error
	// GC releases what belongs to none of the ids.
	GC(ctx context.Context, validIDs []string) error
}

// Config says where sandboxes live and what they are made with.
type Config struct {
	// Root and State are the directories for what survives a reboot and what
	// does not. They must differ.
	Root, State string
	Network     Network
	// DefaultSysctls are set in every pod that has its own network namespace,
	// where the kernel knows them. nil means the two that let programs which
	// are not root bind low ports and send pings; empty means none.
	DefaultSysctls map[string]string
	// HostResolvConf and HostHosts are the host's files that pods get copies
	// of. "" means those in /etc.
	HostResolvConf, HostHosts string
	// Holder is a command that waits until it is killed. It runs for a moment
	// in each new user namespace, so the shorter the better. Without one there
	// are no pods with user namespaces.
	Holder []string
	// TeardownTimeout bounds the undoing of a failed Create, and of each
	// object in Recover. 0 means 30 seconds.
	TeardownTimeout time.Duration
	// DetachTimeout bounds one release of the network, after which it becomes
	// a debt. 0 means 20 seconds.
	DetachTimeout time.Duration
	// OnChange, if set, is told of each transition of a sandbox that others can
	// see, see Change. No mutex is held, but the operation that made the change
	// is still under way: it must not block, nor operate on the sandbox.
	OnChange func(Change)
}

// Manager owns all sandboxes of the node.
type Manager struct {
	config Config

	mu      sync.RWMutex // guards all below; never held over I/O
	phase   phase
	byID    map[string]*Sandbox
	byKey   map[Key][]*Sandbox // oldest first
	newest  time.Time          // creation times are unique and grow
	owed    map[string]bool    // debts; their sandboxes may be removed
	running sync.WaitGroup     // operations; grows under mu only
	changes revision.Counter   // of sandboxes, and of the status of each
}

// phase of a manager: new, then open once Recover is done, then closed.
type phase int

const (
	phaseNew phase = iota
	phaseRecovering
	phaseOpen
	phaseClosed
)

// NewManager returns a manager that knows no sandboxes until Recover. It does
// no I/O.
func NewManager(c Config) *Manager {
	if c.DefaultSysctls == nil {
		c.DefaultSysctls = maps.Clone(defaultSysctls)
	}
	if c.HostResolvConf == "" {
		c.HostResolvConf = "/etc/resolv.conf"
	}
	if c.HostHosts == "" {
		c.HostHosts = "/etc/hosts"
	}
	if c.TeardownTimeout == 0 {
		c.TeardownTimeout = 30 * time.Second
	}
	if c.DetachTimeout == 0 {
		c.DetachTimeout = 20 * time.Second
	}
	return &Manager{config: c, byID: make(map[string]*Sandbox), byKey: make(map[Key][]*Sandbox), owed: make(map[string]bool)}
}

func (m *Manager) rootDir() string  { return filepath.Join(m.config.Root, "sandboxes") }
func (m *Manager) stateDir() string { return filepath.Join(m.config.State, "sandboxes") }

func (m *Manager) recordDir(id string) string  { return filepath.Join(m.rootDir(), id) }
func (m *Manager) recordPath(id string) string { return filepath.Join(m.rootDir(), id, "record.json") }
func (m *Manager) stateOf(id string) string    { return filepath.Join(m.stateDir(), id) }

// Create makes a sandbox and leaves it Creating, for the caller to finish and
// MarkReady, or else to Remove. On an error nothing is left of it; only if even that fails does a
// NotReady sandbox stay, for Remove. The error of a stage is a *StageError.
//
// It is errdefs.ErrAlreadyExists if the id is taken or a sandbox of the same
// key is Creating or Ready.
func (m *Manager) Create(ctx context.Context, id string, p Params) (*Sandbox, error) {
	if err := validate(id, p); err != nil {
		return nil, err
	}
	sysctls, err := m.sysctls(p)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", id, context.Cause(ctx))
	}
	done, err := m.begin()
	if err != nil {
		return nil, err
	}
	defer done()

	s := newSandbox(m, Status{ID: id, Params: p.clone(), State: Creating})
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	if err := m.addNew(s); err != nil {
		return nil, err
	}
	if err := s.createLocked(ctx, sysctls); err != nil {
		return nil, s.abandonLocked(ctx, err)
	}
	return s, nil
}

// begin counts an operation in, so that Close can wait for it.
func (m *Manager) begin() (done func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.phase {
	case phaseOpen:
		m.running.Add(1)
		return m.running.Done, nil
	case phaseClosed:
		return nil, fmt.Errorf("sandbox manager is closed: %w", errdefs.ErrUnavailable)
	default:
		return nil, fmt.Errorf("sandboxes are not recovered yet: %w", errdefs.ErrUnavailable)
	}
}

// addNew makes a new sandbox known and gives it its time of creation.
func (m *Manager) addNew(s *Sandbox) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := s.Status()
	if _, taken := m.byID[st.ID]; taken {
		return fmt.Errorf("sandbox %s: %w", st.ID, errdefs.ErrAlreadyExists)
	}
	for _, other := range m.byKey[st.Params.Key] {
		if o := other.Status(); o.State != NotReady || other.reviving {
			return fmt.Errorf("sandbox %s for pod %s/%s attempt %d: %w",
				o.ID, o.Params.Namespace, o.Params.Name, o.Params.Attempt, errdefs.ErrAlreadyExists)
		}
	}
	// kubelet takes the youngest sandbox of a pod for its current one, so no
	// two may be of one age, whatever the clock does.
	st.CreatedAt = time.Now().Round(0)
	if !st.CreatedAt.After(m.newest) {
		st.CreatedAt = m.newest.Add(time.Nanosecond)
	}
	s.status.Store(&st)
	m.addLocked(s)
	return nil
}

// addLocked enters s in the maps; sandboxes of one key come in order of age.
func (m *Manager) addLocked(s *Sandbox) {
	st := s.Status()
	m.byID[st.ID] = s
	m.changes.Changed()
	m.byKey[st.Params.Key] = append(m.byKey[st.Params.Key], s)
	if st.CreatedAt.After(m.newest) {
		m.newest = st.CreatedAt
	}
}

// forget takes s out of the maps.
func (m *Manager) forget(s *Sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := s.Status()
	delete(m.byID, st.ID)
	m.changes.Changed()
	rest := slices.DeleteFunc(m.byKey[st.Params.Key], func(x *Sandbox) bool { return x == s })
	if len(rest) == 0 {
		delete(m.byKey, st.Params.Key)
	} else {
		m.byKey[st.Params.Key] = rest
	}
}

// Get returns a sandbox in any state, Creating too. It is errdefs.ErrNotFound
// where there is none.
func (m *Manager) Get(id string) (*Sandbox, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, ok := m.byID[id]
	if !ok {
		return nil, fmt.Errorf("sandbox %.200q: %w", id, errdefs.ErrNotFound)
	}
	return s, nil
}

// List returns the sandboxes that are Ready or NotReady, oldest first.
func (m *Manager) List() []*Sandbox {
	m.mu.RLock()
	all := make([]*Sandbox, 0, len(m.byID))
	for _, s := range m.byID {
		if s.Status().State != Creating {
			all = append(all, s)
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(all, func(a, b *Sandbox) int {
		if c := a.Status().CreatedAt.Compare(b.Status().CreatedAt); c != 0 {
			return c
		}
		return compareIDs(a, b)
	})
	return all
}

// Revision is another number after each change of what List returns, and of the
// status of any of them.
func (m *Manager) Revision() uint64 { return m.changes.Now() }

// Lookup returns the youngest sandbox of a key, whatever its state.
func (m *Manager) Lookup(k Key) (*Sandbox, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	all := m.byKey[k]
	if len(all) == 0 {
		return nil, false
	}
	return all[len(all)-1], true
}

// Stop releases the network and the namespaces of a sandbox, which is NotReady
// from the moment Stop has it. It may be repeated, and an unknown id is a
// success. A network that cannot be released is a debt (see doc.go) and no
// error, unless ctx ends first.
func (m *Manager) Stop(ctx context.Context, id string) error {
	s, err := m.Get(id)
	if err != nil {
		return nil
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.stopLocked(ctx)
}

// Remove stops a sandbox and deletes all there is of it. It may be repeated,
// and an unknown id is a success.
func (m *Manager) Remove(ctx context.Context, id string) error {
	s, err := m.Get(id)
	if err != nil {
		return nil
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.removeLocked(ctx)
}

// SettleDebts tries once more to release networks that a Stop or a failed
// Create could not release, those of removed sandboxes too. It may run at any
// time; a daemon calls it now and then.
func (m *Manager) SettleDebts(ctx context.Context) error {
	done, err := m.begin()
	if err != nil {
		return err
	}
	defer done()
	m.mu.RLock()
	owed := slices.Sorted(maps.Keys(m.owed))
	m.mu.RUnlock()
	var errs []error
	for _, id := range owed {
		errs = append(errs, m.settle(ctx, id))
	}
	return errors.Join(errs...)
}

// settle pays one debt. An id comes back by Revive alone, which pays first.
func (m *Manager) settle(ctx context.Context, id string) error {
	if s, err := m.Get(id); err == nil {
		if err := s.lock(ctx); err != nil {
			return err
		}
		defer s.unlock()
		if s.Status().Debt == "" {
			m.setOwed(id, false) // a revival has paid it
			return nil
		}
		if err := m.detach(ctx, id, ""); err != nil {
			return err
		}
		s.update(func(st *Status) { st.Debt = "" })
	} else if err := m.detach(ctx, id, ""); err != nil {
		return err
	}
	m.setOwed(id, false)
	return nil
}

func (m *Manager) setOwed(id string, owed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if owed {
		m.owed[id] = true
	} else {
		delete(m.owed, id)
	}
}

// Close refuses new operations and waits for those that run. Sandboxes live
// on; the next Recover finds them.
func (m *Manager) Close() error {
	m.mu.Lock()
	m.phase = phaseClosed
	m.mu.Unlock()
	m.running.Wait()
	return nil
}

// logger returns the logger of ctx with the sandbox's id.
func logger(ctx context.Context, id string) klog.Logger {
	return klog.FromContext(ctx).WithValues("sandboxID", id)
}
