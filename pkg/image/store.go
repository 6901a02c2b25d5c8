package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/cri-node/cri-node/pkg/image/diskusage"
	"github.com/cri-node/cri-node/pkg/image/layer"
	"github.com/cri-node/cri-node/pkg/image/registry"
	"github.com/cri-node/cri-node/pkg/image/signature"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Config says where a store lies and how it pulls. Only Root is required.
type Config struct {
	// Root is the directory of the store, created with mode 0700. It must be
	// on one file system that can hold the upper directory of an overlay.
	Root string
	// CertsDirs, AuthFiles, TrustedRealms and HelperTimeout: see
	// registry.Config.
	CertsDirs     []string
	AuthFiles     []string
	TrustedRealms []string
	HelperTimeout time.Duration
	// MaxParallelLayers is how many layers are downloaded and unpacked at the
	// same time, over all pulls. Default 4.
	MaxParallelLayers int
	// ProgressTimeout is how long a registry may send nothing worth
	// mentioning before the request is tried again. Default 60 s.
	ProgressTimeout time.Duration
	// PinnedImages are names, with * for any characters, of images that the
	// garbage collection of the kubelet must leave alone.
	PinnedImages []string
	// Policy says what images must carry; nil accepts all.
	Policy *signature.Policy
	// Limits bound what one layer may unpack to, and MaxBytes what the files
	// of an artifact take together. The zero value has the defaults of package
	// layer.
	Limits layer.Options
	// OnStage, if set, is told how long each stage of a pull took.
	OnStage func(stage string, took time.Duration)
	// KeepCompressed keeps layers in the form they came in as well, so that an
	// image can be pushed from here alone.
	KeepCompressed bool
	// Platform chooses from an index. Default: that of this machine.
	Platform platforms.MatchComparer
}

// Auth is the credentials of one request.
type Auth = registry.Auth

// ErrRegistryUnavailable means that the registry could not be reached. Errors
// of Pull that are it begin with its text, which kubelet looks for.
var ErrRegistryUnavailable = registry.ErrUnavailable

// errClosed is why work ends at shutdown. What it has downloaded is kept.
var errClosed = fmt.Errorf("image store is closed: %w", errdefs.ErrUnavailable)

// Store holds the images of a node. See the package documentation for its form
// on disk and its locks.
type Store struct {
	received atomic.Uint64 // bytes that came from registries

	config Config
	lock   *os.File
	slots  *semaphore.Weighted
	wake   chan struct{} // for the collector, capacity 1

	ctx    context.Context //nolint:containedctx // the life of the store, which shared work hangs on
	cancel context.CancelCauseFunc
	work   sync.WaitGroup
	life   sync.RWMutex // held for reading while work is added
	closed bool

	pulls      flights[pullKey, string]
	layerPulls flights[layerKey, struct{}]
	boards     boards
	commits    sync.Mutex
	names      sync.Mutex
	partial    atomic.Int64 // bytes of unfinished downloads
	buffers    sync.Pool
	policy     atomic.Pointer[signature.Policy]
	usages     *diskusage.Accountant
	// legacyMount makes overlays with mount(2) alone: on a kernel whose
	// overlayfs knows nothing newer, and in tests.
	legacyMount bool
	// idmap is set once, by ProbeIDMap.
	idmap idmapSupport

	emptying sync.Mutex // held by whoever empties the trash
	// holding guards holds, and is taken before mu.
	holding sync.Mutex
	holds   map[string]holdRecord
	// stacks are layers that look like images, by id.
	stacks sync.Map

	mu       sync.Mutex
	images   map[digest.Digest]*stored
	layers   map[digest.Digest]*layerEntry
	blobs    map[digest.Digest]*blobEntry
	rootfses map[string]*rootfsEntry
	sequence uint64
	view     atomic.Pointer[view]
}

// The directories below Root.
const (
	dirBlobs   = "blobs"
	dirImages  = "images"
	dirLayers  = "layers"
	dirRootfs  = "rootfs"
	dirStaging = "staging"
	dirPartial = "partial"
	dirTrash   = "trash"
	dirBroken  = "broken"
	dirHolds   = "holds"
	dirViews   = "views"
	// Two empty directories, because overlayfs takes none twice: the only
	// layer of an image without any, and what makes one layer two.
	dirEmpty  = "empty/0"
	dirFiller = "empty/1"
)

// Open opens the store at c.Root, or makes an empty one, and brings it into
// order after whatever ended its last user. What cannot be believed is moved
// aside and logged; only a root that cannot be used at all is an error. The
// values of ctx are kept, its end is not: the caller must Close the store.
func Open(ctx context.Context, c Config) (*Store, error) {
	if !filepath.IsAbs(c.Root) {
		return nil, fmt.Errorf("root of the image store %q is not absolute: %w", c.Root, errdefs.ErrInvalidArgument)
	}
	c.Root = filepath.Clean(c.Root)
	if c.MaxParallelLayers <= 0 {
		c.MaxParallelLayers = 4
	}
	if c.ProgressTimeout <= 0 {
		c.ProgressTimeout = time.Minute
	}
	if c.Limits.MaxBytes <= 0 {
		c.Limits.MaxBytes = layer.DefaultMaxBytes
	}
	if c.Platform == nil {
		c.Platform = platforms.Default()
	}
	s := &Store{
		config:   c,
		slots:    semaphore.NewWeighted(int64(c.MaxParallelLayers)),
		wake:     make(chan struct{}, 1),
		images:   map[digest.Digest]*stored{},
		layers:   map[digest.Digest]*layerEntry{},
		blobs:    map[digest.Digest]*blobEntry{},
		rootfses: map[string]*rootfsEntry{},
		holds:    map[string]holdRecord{},

		legacyMount: oldOverlay(),
		usages:      diskusage.New(),
	}
	s.policy.Store(c.Policy)
	s.pulls.onStage = c.OnStage
	s.layerPulls.title = func(k layerKey) string { return "layer " + k.blob.String() }
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	lock, err := linux.Lock(s.path("lock"))
	if err != nil {
		return nil, err
	}
	s.lock = lock
	if err := s.recover(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("recover image store: %w", err), lock.Close())
	}
	s.work.Go(func() { s.collect(s.ctx) })
	s.work.Go(func() { s.usages.Run(s.ctx) })
	s.wakeCollector()
	return s, nil
}

// Close ends all work and waits for it. Downloads in progress leave behind
// what the next Open can go on from. Using the store afterwards is an error,
// looking at images is not.
func (s *Store) Close() error {
	s.life.Lock()
	if s.closed {
		s.life.Unlock()
		return nil
	}
	s.closed = true
	s.life.Unlock()
	s.cancel(errClosed)
	s.work.Wait()
	return s.lock.Close()
}

// StopPulls ends the pulls under way, and those to come, the way Close does:
// what they have downloaded is kept, which it is not where their callers leave.
// Only Close may follow.
func (s *Store) StopPulls() { s.cancel(errClosed) }

// begin keeps Close waiting until the returned function is called.
func (s *Store) begin() (func(), error) {
	s.life.RLock()
	defer s.life.RUnlock()
	if s.closed {
		return nil, errClosed
	}
	s.work.Add(1)
	return s.work.Done, nil
}

func (s *Store) makeDirs() error {
	for _, dir := range []string{"", dirBlobs + "/sha256", dirBlobs + "/sha512", dirImages, dirLayers, dirRootfs, dirStaging, dirPartial, dirTrash, dirBroken, dirHolds, dirViews, dirEmpty, dirFiller} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return err
		}
	}
	// Whoever made the root before us may have been more generous.
	return os.Chmod(s.config.Root, 0o700)
}

// path joins names below the root.
func (s *Store) path(names ...string) string {
	return filepath.Join(append([]string{s.config.Root}, names...)...)
}

// FsUsage is the space that images take.
type FsUsage struct {
	// Mountpoint is a directory on the file system that images are on.
	Mountpoint string
	UsedBytes  uint64
	InodesUsed uint64
}

// Usage adds up what layers, blobs and unfinished downloads take, from
// memory. Writable layers of containers are not in it.
func (s *Store) Usage() (FsUsage, error) {
	u := FsUsage{Mountpoint: s.config.Root, UsedBytes: uint64(max(0, s.partial.Load()))}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		u.UsedBytes += uint64(l.usage.Bytes)
		u.InodesUsed += uint64(l.usage.Inodes)
	}
	for _, b := range s.blobs {
		if b.stored {
			u.UsedBytes += uint64(b.size)
			u.InodesUsed++
		}
	}
	return u, nil
}

// ReceivedBytes counts the bytes that came from registries.
func (s *Store) ReceivedBytes() uint64 { return s.received.Load() }
