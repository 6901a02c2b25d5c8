package node

import (
	"google.golang.org/grpc"

	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// Owner is who pods made here belong to, and OwnerLabel the label that says so
// to clients of CRI.
const (
	Owner      = "people"
	OwnerLabel = "io.cri-node.owner"
)

// Config of a Server.
type Config struct {
	CRI        *cri.Server
	Images     *image.Store
	Sandboxes  *sandbox.Manager
	Containers *runtime.Manager
	// Root and State are the daemon's directories.
	Root, State string
	Version     string
}

// Server serves the four services of nodev1.
type Server struct {
	config     Config
	containers containers
	images     images
	builder    builder
	system     system
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
	}
	system struct {
		nodev1.UnimplementedSystemServer
		*Server
	}
)

// New returns a Server that nobody can reach yet.
func New(c Config) *Server {
	s := &Server{config: c}
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
