package node

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/build"
	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/journal"
	"github.com/cri-node/cri-node/pkg/node/logs"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/node/volumes"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// Owner is who pods made here belong to, and OwnerLabel the label that says so
// to clients of CRI. They are in Namespace.
const (
	Owner      = "people"
	OwnerLabel = "io.cri-node.owner"
	Namespace  = "people"
)

// Config of a Server.
type Config struct {
	CRI        *cri.Server
	Images     *image.Store
	Sandboxes  *sandbox.Manager
	Containers *runtime.Manager
	// Changes is told by OnChange of Containers.
	Changes *Changes
	// Root and State are the daemon's directories.
	Root, State string
	// Logs is how large the log of a container may become that does not say.
	Logs    logs.Bounds
	Version string
}

// Server serves the four services of nodev1.
type Server struct {
	config     Config
	containers containers
	images     images
	builder    builder
	system     system

	table   table
	volumes *volumes.Store
	// volumeUse keeps a volume from being removed while a container is made that
	// mounts it.
	volumeUse sync.RWMutex
	// networkUse orders the making and removing of networks.
	networkUse sync.Mutex
	events     *journal.Journal[*nodev1.Event]
	hosts      hostsFiles
	ports      claims

	// life ends with the server, calls when it takes no more of them.
	life, calls context.Context //nolint:containedctx // of what outlives requests
	endLife     context.CancelFunc
	endCalls    context.CancelCauseFunc
	background  sync.WaitGroup
}

// containers, images, builder and system are the services; each in files of its
// own.
type (
	containers struct {
		nodev1.UnimplementedContainersServer
		*Server
	}
	images struct {
		nodev1.UnimplementedImagesServer
		*Server
	}
	builder struct {
		nodev1.UnimplementedBuilderServer
		*Server
		builds *build.Builder
	}
	system struct {
		nodev1.UnimplementedSystemServer
		*Server
	}
)

// rememberedEvents is how many events of the past Events can tell.
const rememberedEvents = 1000

// New returns a Server that nobody can reach yet.
func New(c Config) *Server {
	s := &Server{
		config: c,
		table:  table{byID: map[string]*entry{}, byName: map[string]*entry{}, leaving: map[string]*entry{}},
		events: journal.New[*nodev1.Event](rememberedEvents),
		hosts:  hostsFiles{written: map[string]string{}},
	}
	s.containers.Server, s.images.Server, s.builder.Server, s.system.Server = s, s, s, s
	return s
}

// Register adds the services to a gRPC server that does not serve yet.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	nodev1.RegisterContainersServer(r, &s.containers)
	nodev1.RegisterImagesServer(r, &s.images)
	nodev1.RegisterBuilderServer(r, &s.builder)
	nodev1.RegisterSystemServer(r, &s.system)
}

var errClosing = fmt.Errorf("cri-node is shutting down: %w", errdefs.ErrUnavailable)

// Start loads what there is, undoes what an earlier daemon could not finish, and
// begins to watch containers. It is called once, after the layers below have
// recovered and before anybody can call.
func (s *Server) Start(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	s.life, s.endLife = context.WithCancel(ctx)
	s.calls, s.endCalls = context.WithCancelCause(ctx)
	if err := s.reconcile(ctx); err != nil {
		s.endLife()
		return err
	}
	s.background.Go(func() { s.config.Changes.follow(s.life, s.changed) })
	s.background.Go(func() { s.rotateLogs(s.life) })
	for _, e := range s.table.list() {
		s.later(e.id, func(ctx context.Context) error { return s.boot(ctx, e) }) //nolint:contextcheck // it ends with the server
	}
	return nil
}

// EndCalls ends the calls that would last as long as their client likes: what
// waits, follows or is attached.
func (s *Server) EndCalls() { s.endCalls(errClosing) }

// Close ends what the server does by itself, and waits for it. Containers go on.
func (s *Server) Close() error {
	s.EndCalls()
	s.endLife()
	s.background.Wait()
	return nil
}

// later does something about a container in the time of the server.
func (s *Server) later(id string, do func(context.Context) error) {
	s.background.Go(func() {
		log := klog.FromContext(s.life).WithValues("containerID", id)
		ctx := klog.NewContext(s.life, log)
		err := guard.Call(log, "work on container "+id, func() error { return do(ctx) })
		if err != nil && ctx.Err() == nil {
			log.Error(err, "What a container of people's needs cannot be done")
		}
	})
}

// bound ends the context of a call that may last with EndCalls, too.
func (s *Server) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.calls, func() { cancel(errClosing) })
	return ctx, func() { stop(); cancel(nil) }
}
