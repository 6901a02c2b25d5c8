package cri

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/cdi"
	"github.com/cri-node/cri-node/pkg/cri/checkpoint"
	"github.com/cri-node/cri-node/pkg/cri/nri"
	"github.com/cri-node/cri-node/pkg/cri/stats"
	"github.com/cri-node/cri-node/pkg/cri/streaming"
	"github.com/cri-node/cri-node/pkg/cri/telemetry"
	"github.com/cri-node/cri-node/pkg/cri/tracing"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/hooks"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
	"github.com/cri-node/cri-node/pkg/sandbox"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// errShuttingDown answers calls that come too late.
var errShuttingDown = fmt.Errorf("cri-node is shutting down: %w", errdefs.ErrUnavailable)

// Network is what Server asks of the pod network.
type Network interface {
	// Status is nil when pods can get a network, else a reason a person can
	// act on.
	Status(ctx context.Context) error
	// Info describes the network configuration in use.
	Info() network.Info
	// SetPodCIDRs tells it which addresses pods get from now on.
	SetPodCIDRs(cidrs []netip.Prefix) error
}

// Config of a Server.
type Config struct {
	Images     *image.Store
	Sandboxes  *sandbox.Manager
	Containers *runtime.Manager
	Network    Network
	Cgroups    *linux.Cgroups
	// CDI has the devices, and Hooks the OCI hooks, of the machine; nil is none.
	CDI   *cdi.Registry
	Hooks *hooks.Dirs
	// Handlers are the OCI runtimes by name; DefaultHandler is the one for
	// requests that name none.
	Handlers       map[string]*oci.Runtime
	DefaultHandler string
	// Root and State are the daemon's directories, Version its version.
	Root, State, Version string
	// SystemdCgroup: containers get their cgroups from systemd.
	SystemdCgroup bool
	// CgroupRoot is the parent cgroup of pods that name none; with systemd a
	// slice.
	CgroupRoot  string
	Confinement Confinement
	// UserNamespaces: images can be mounted for user namespaces.
	UserNamespaces bool
	// InfraRoot is the root file system of the init of shared pid namespaces.
	InfraRoot string
	// Streams issues the URLs of Exec, Attach and PortForward; nil is nobody.
	Streams *streaming.Server
	// MaxMessage is the largest gRPC message taken, in bytes.
	MaxMessage int
	// NRI connects plugins; nil for none.
	NRI *nri.Config
	// CheckpointKey proves where checkpoints come from; nil where there are
	// none.
	CheckpointKey *checkpoint.Key
	// MonitorPID returns the pid of the monitor, for Status.
	MonitorPID func() int
	// Changes is what OnChange of Sandboxes and Containers tells; nil where
	// nobody is told.
	Changes *Changes
	// Metrics are told of calls and their stages; nil measures nothing.
	Metrics *telemetry.Metrics
	// Tracing makes the spans of calls; nil traces nothing.
	Tracing *tracing.Provider
	Options
}

// Options are the parts of a configuration that may change while the daemon
// runs.
type Options struct {
	// Capabilities of a container that asks for none.
	Capabilities []string
	// Env of every container, below that of its image and its request.
	Env []string
	// PidsLimit of a container; 0 is none.
	PidsLimit int64
	// SeccompDefault confines containers that say nothing about seccomp.
	SeccompDefault bool
	// DeviceOwnership gives a container's devices to its user.
	DeviceOwnership bool
	// WithoutHostDevices names the handlers whose privileged containers do not
	// get the machine's devices.
	WithoutHostDevices map[string]bool
}

// Server serves CRI.
type Server struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	config  Config
	options atomic.Pointer[Options]
	log     klog.Logger
	grpc    *grpc.Server

	// abort cancels the work that outlived its requests.
	abort   func()
	runs    operations[podKey]
	creates operations[containerKey]
	// renewals and revivals are by the id of the container and of the sandbox.
	renewals, revivals operations[string]
	// stopping holds the ids of sandboxes that were asked to stop, so that no
	// container is created or started behind the stop's back.
	stopping stops
	views    viewCache
	listings listings
	lists    lists
	nri      *nri.Manager // nil without NRI
	stats    *stats.Collector
	metrics  metricTable
	host     host
	events   *eventLog
	// chronicle remembers what was done, for people.
	chronicle chronicle
}

type containerKey struct {
	sandbox, name string
	attempt       uint32
}

// Limits of work that outlives its request; those of the requests themselves
// are kubelet's: 4 minutes for RunPodSandbox, 2 for the others.
const (
	runLimit    = 4 * time.Minute
	createLimit = 4 * time.Minute
)

// How much a client may send before the server has read it, in bytes: for one call
// (the context of a build is the largest) and for all of a connection. And how many
// goroutines wait for calls; others are started as they are needed.
const (
	streamWindow  = 1 << 20
	connWindow    = 4 << 20
	streamWorkers = 8
)

// New returns a Server that does not serve yet.
func New(ctx context.Context, c Config) *Server {
	life := make(chan struct{})
	s := &Server{
		config:  c,
		log:     klog.FromContext(ctx),
		abort:   sync.OnceFunc(func() { close(life) }),
		host:    askHost(c.Cgroups, c.Confinement),
		runs:    operations[podKey]{limit: runLimit, life: life, method: "RunPodSandbox", metrics: c.Metrics},
		creates: operations[containerKey]{limit: createLimit, life: life, method: "CreateContainer", metrics: c.Metrics},
		events:  newEventLog(),

		renewals: operations[string]{limit: createLimit, life: life, method: "RenewContainer", metrics: c.Metrics},
		revivals: operations[string]{limit: runLimit, life: life, method: "RevivePod", metrics: c.Metrics},
		stats:    stats.New(c.Cgroups),
		metrics:  newMetricTable(c.Cgroups.Offers()),
	}
	s.runs.done, s.creates.done = s.runDone, s.createDone
	s.options.Store(&c.Options)
	s.prepareNRI(ctx)
	s.grpc = grpc.NewServer(append(c.Tracing.ServerOptions(), s.serverOptions()...)...)
	runtimeapi.RegisterRuntimeServiceServer(s.grpc, s)
	runtimeapi.RegisterImageServiceServer(s.grpc, s)
	if c.Changes != nil {
		c.Changes.connect(s)
	}
	return s
}

// serverOptions are what gRPC is told, but for traces.
func (s *Server) serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(s.intercept),
		grpc.StreamInterceptor(s.interceptStream),
		grpc.MaxRecvMsgSize(s.config.MaxMessage),
		grpc.MaxConcurrentStreams(1000),
		// Windows that do not grow: to learn how far, the server would send a ping for
		// each request, which wakes both sides twice more.
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		// A goroutine that has answered once has the stack that the next answer needs.
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(newCodec(&s.lists)),
	}
}

// SetOptions changes what may change while the daemon runs. Containers that
// exist keep what they have.
func (s *Server) SetOptions(o Options) { s.options.Store(&o) }

// Register adds the services of another API to the same socket. It is called
// before Serve.
func (s *Server) Register(api interface{ Register(r grpc.ServiceRegistrar) }) {
	api.Register(s.grpc)
}

// Serve answers on a listener until Stop is called.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Stop refuses new calls and waits, as long as ctx lasts, for those under way
// and for the work that outlived its call.
func (s *Server) Stop(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.runs.close()
		s.creates.close()
		s.renewals.close() // they need revivals
		s.revivals.close()
		s.events.log.Close() // its subscribers would stay
		s.grpc.GracefulStop()
		s.events.log.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.abort()
		s.grpc.Stop()
		<-done
	}
}

// newID returns an id in the form all clients expect: 64 hex digits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// handler resolves the name of a runtime handler; "" is the default.
func (s *Server) handler(name string) (*oci.Runtime, error) {
	if name == "" {
		name = s.config.DefaultHandler
	}
	r, ok := s.config.Handlers[name]
	if !ok {
		return nil, fmt.Errorf("runtime_handler: %q is not configured: %w", name, errdefs.ErrInvalidArgument)
	}
	return r, nil
}
