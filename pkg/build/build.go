package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Config of a Builder.
type Config struct {
	// Root is where caches lie, State where what a boot forgets: mounts, uploads.
	Root, State string
	Images      *image.Store
	Executor    Executor
	// CacheBytes bounds what results of earlier builds and cache mounts take on
	// disk; 0 is DefaultCacheBytes.
	CacheBytes int64
}

// DefaultCacheBytes is how much of earlier builds is kept.
const DefaultCacheBytes = 20 << 30

// Executor runs the processes of builds in containers.
type Executor interface {
	// Run runs a process in a container of its own and returns its exit code.
	// When the process and all that it has started are gone, and before the
	// container goes, it calls p.Finish with the container's id, which is that of
	// its root file system in the image store, and where that is mounted; not
	// after an exit code that is not 0.
	Run(ctx context.Context, p Process) (code int, err error)
}

// Process is what an Executor runs.
type Process struct {
	// Image is an ID in the image store, with user, environment, directory and
	// command in its config.
	Image string
	Args  []string
	Env   []string
	Cwd   string
	User  string

	Hostname string
	Mounts   []Mount
	Network  Network
	// ExtraHosts are lines of /etc/hosts, "ADDRESS NAME".
	ExtraHosts []string
	Ulimits    []Ulimit
	// Privileged: the build was allowed security.insecure.
	Privileged bool

	Stdout, Stderr io.Writer
	Finish         func(ctx context.Context, id, rootfs string) error
}

// Mount is something a process sees beside its root file system.
type Mount struct {
	Target   string
	ReadOnly bool
	// Source is a directory, file or socket of the host, which nobody can replace.
	Source string
	// Tmpfs, without a Source, is an empty file system of so many bytes; 0 is no
	// limit of its own.
	TmpfsSize int64
}

// Network is what a process has of it.
type Network int

// The networks: one like that of a pod, only lo, and the machine's.
const (
	NetworkPod Network = iota
	NetworkNone
	NetworkHost
)

// Ulimit is a limit of a process, named as in docker: nofile.
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

// Request is one build.
type Request struct {
	// Dockerfile is the definition; empty: DockerfileName in the context.
	Dockerfile     []byte
	DockerfileName string
	// Dockerignore is what belongs to this Dockerfile, before .dockerignore.
	Dockerignore []byte
	Tags         []string
	BuildArgs    map[string]string
	Labels       map[string]string
	Target       string
	NoCache      bool
	// NoCacheFilter names stages that are built anew.
	NoCacheFilter []string
	Pull          bool
	Platforms     []string
	Secrets       map[string][]byte
	// Agents are ids of SSH agents, to be had from Dial.
	Agents []string
	Dial   func(ctx context.Context, agent string) (net.Conn, error)
	// Network is default, none or host.
	Network    string
	ExtraHosts []string
	ShmSize    int64
	Ulimits    []Ulimit
	// Contexts are named contexts: docker-image://, https://, or local:NAME.
	Contexts map[string]string
	// ContextURL is the address of the context; empty: the upload "context".
	ContextURL string
	Auth       func(host string) *image.Auth
	// Allow are entitlements: network.host, security.insecure.
	Allow []string
	// Uploads are directories with what the client has sent, by name. They
	// belong to the build, which may delete from them.
	Uploads map[string]string
	Output  Output
	// Events is told how it goes, by several goroutines.
	Events Events
}

// Output says what is made of the result.
type Output struct {
	// Type is image, local, tar, oci or docker; empty is image.
	Type string
	// Writer takes the tar of all types but image.
	Writer io.Writer
}

// Result of a build.
type Result struct {
	ImageID string
	Names   []string
}

// Builder builds images.
type Builder struct {
	config Config
	cache  *cache
	mounts *cacheMounts
	// execs bounds the processes that run at a time.
	execs *semaphore.Weighted
	// trimming is held by the one build that trims the cache.
	trimming sync.Mutex
}

// Open makes a Builder and takes away what one has left that died.
func Open(ctx context.Context, c Config) (*Builder, error) {
	if c.CacheBytes <= 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return nil, err
	}
	if err := errors.Join(linux.UnmountAll(c.State), linux.RemoveAll(c.State)); err != nil {
		return nil, fmt.Errorf("clear what builds have left: %w", err)
	}
	temporary := filepath.Join(c.Root, dirTemporary)
	if err := linux.RemoveAll(temporary); err != nil {
		return nil, fmt.Errorf("clear what builds have left: %w", err)
	}
	for _, dir := range []string{c.State, temporary, filepath.Join(c.Root, dirMounts)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	b := &Builder{config: c, execs: semaphore.NewWeighted(int64(max(2, goruntime.NumCPU())))}
	var err error
	if b.mounts, err = openCacheMounts(filepath.Join(c.Root, dirMounts)); err != nil {
		return nil, fmt.Errorf("clear what builds have left: %w", err)
	}
	if b.cache, err = openCache(ctx, filepath.Join(c.Root, "cache"), c.Images); err != nil {
		return nil, fmt.Errorf("open cache of builds: %w", err)
	}
	return b, nil
}

// dirTemporary has what may be large and goes with its build: the state
// directory is mostly in memory.
const dirTemporary = "tmp"

// Upload is a directory for what a client sends. The caller removes it.
func (b *Builder) Upload() (string, error) {
	return os.MkdirTemp(filepath.Join(b.config.Root, dirTemporary), "upload-")
}

// Prune removes what builds have cached, cache mounts that no build uses now
// among it, all of it or what the last day did not need, and says how many bytes
// that was.
func (b *Builder) Prune(ctx context.Context, all bool) (int64, error) {
	before := time.Now().Add(-24 * time.Hour)
	if all {
		before = time.Now().Add(time.Minute)
	}
	n, err := b.cache.prune(ctx, before)
	m, err2 := b.mounts.prune(ctx, before)
	return n + m, errors.Join(err, err2)
}

// Usage is what the cache of builds takes on disk.
type Usage struct {
	// Results and Mounts are how many results of steps and cache mounts there are.
	Results, Mounts int
	Bytes           int64
	// InUse of it belongs to cache mounts of builds under way.
	InUse int64
}

// Usage measures the cache.
func (b *Builder) Usage(ctx context.Context) (Usage, error) {
	mounts, err := b.mounts.usage(ctx)
	if err != nil {
		return Usage{}, fmt.Errorf("measure cache mounts: %w", err)
	}
	u := Usage{Mounts: len(mounts)}
	u.Bytes, u.Results = b.cache.usage()
	for _, m := range mounts {
		u.Bytes += m.size
		if m.inUse {
			u.InUse += m.size
		}
	}
	return u, nil
}

// Trim removes what was not used for the longest time, results and cache mounts
// that no build uses now, until the rest is within the limit. It is for after each
// build, and may have to look at every file of every cache mount.
func (b *Builder) Trim(ctx context.Context) error {
	b.trimming.Lock()
	defer b.trimming.Unlock()
	mounts, err := b.mounts.usage(ctx)
	if err != nil {
		return fmt.Errorf("measure cache mounts: %w", err)
	}
	var errs []error
	var mounted int64
	var idle []mountUsage
	for _, m := range mounts {
		mounted += m.size
		if !m.inUse {
			idle = append(idle, m)
		}
	}
	slices.SortFunc(idle, func(x, y mountUsage) int { return x.used.Compare(y.used) })
	for {
		before := time.Now().Add(time.Minute)
		if len(idle) > 0 {
			before = idle[0].used
		}
		rest := b.config.CacheBytes - mounted
		within, err := b.cache.trim(ctx, rest, before)
		errs = append(errs, err)
		if within || len(idle) == 0 {
			return errors.Join(errs...)
		}
		gone, err := b.mounts.remove(idle[0].name)
		errs = append(errs, err)
		if gone {
			mounted -= idle[0].size
		}
		idle = idle[1:]
	}
}

// Build makes an image, or the other things that Output may ask for.
func (b *Builder) Build(ctx context.Context, r *Request) (res *Result, err error) {
	dir, err := os.MkdirTemp(b.config.State, "build-")
	if err != nil {
		return nil, err
	}
	disk, err := os.MkdirTemp(filepath.Join(b.config.Root, dirTemporary), "build-")
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	run := &run{Builder: b, fail: cancel, request: r, dir: dir, disk: disk, progress: newProgress(r.Events), locals: map[string]*local{}}
	defer func() {
		if err2 := run.close(); err == nil {
			err = err2
		}
	}()
	for name, dir := range r.Uploads {
		run.locals[name] = &local{dir: dir}
	}
	target, err := run.convert(ctx)
	if err == nil {
		res, err = run.export(ctx, target)
	}
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx) // the first of all that failed
	}
	return res, err
}

// run is one build under way.
type run struct {
	*Builder
	request *Request
	// dir is for mounts and secrets, disk for what may be large.
	dir, disk string
	progress  *progress
	// fail ends the build with its first error.
	fail context.CancelCauseFunc

	locals map[string]*local
	mu     sync.Mutex
	graph  graph
	// views are mounts that are kept until the build ends, by their layers.
	views    map[string]*image.View
	releases []func() error
	images   map[string]func() (*baseImage, error)
	// sourceDate is SOURCE_DATE_EPOCH.
	sourceDate *time.Time
}

// close lets go of everything.
func (r *run) close() error {
	var errs []error
	for _, release := range slices.Backward(r.releases) {
		errs = append(errs, release())
	}
	errs = append(errs, linux.UnmountAll(r.dir), linux.RemoveAll(r.dir), linux.RemoveAll(r.disk))
	return errors.Join(errs...)
}

// onClose has f called when the build ends.
func (r *run) onClose(f func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.releases = append(r.releases, f)
}

// tempDir is a new directory below that of the build.
func (r *run) tempDir(kind string) (string, error) { return os.MkdirTemp(r.dir, kind+"-") }

// diskDir is one for what may be large.
func (r *run) diskDir(kind string) (string, error) { return os.MkdirTemp(r.disk, kind+"-") }

// newID is unique among all builds of this daemon and looks like one of a container.
func newID() string { return digest.FromString(time.Now().String() + randText()).Encoded() }

// allowed reports whether the request has an entitlement.
func (r *run) allowed(entitlement string) error {
	if slices.Contains(r.request.Allow, entitlement) {
		return nil
	}
	return fmt.Errorf("this needs the entitlement %s: build with --allow %s: %w", entitlement, entitlement, errdefs.ErrPermissionDenied)
}
