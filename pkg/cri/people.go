package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Extras are what CRI's messages have no words for. They are kept with what they
// were given for.
type Extras struct {
	// ID of the object, 64 hex digits as NewID makes them; empty is a new one.
	ID string `json:"-"`
	// Owner is who the object belongs to; not empty hides it from clients that do
	// not ask for it. A container has that of its pod.
	Owner string `json:"-"`

	// Of a pod:

	// NoNetwork: only lo.
	NoNetwork bool `json:"-"`
	// ShmSize of /dev/shm in bytes; 0 is the default.
	ShmSize int64 `json:"-"`
	// ExtraHosts are lines of /etc/hosts, "ADDRESS NAME...", see sandbox.Params.
	ExtraHosts []string `json:"-"`

	// Of a container:

	// LogPath is absolute and goes before what the configs say.
	LogPath string  `json:"-"`
	Tmpfs   []Tmpfs `json:"tmpfs,omitempty"`
	// Ulimits by name, such as RLIMIT_NOFILE.
	Ulimits []specs.POSIXRlimit `json:"ulimits,omitempty"`
	// Init runs an init in the container that reaps zombies and passes signals on.
	Init bool `json:"init,omitempty"`
	// StopSignal by name or number; empty is the request's, and then the image's.
	StopSignal string `json:"stopSignal,omitempty"`
	// NoEntrypoint: an empty command is none, and not the image's.
	NoEntrypoint bool `json:"noEntrypoint,omitempty"`
}

// Tmpfs is a file system in memory of a container's own.
type Tmpfs struct {
	Path string `json:"path"`
	// Options of mount(8): size=64m, mode=1777, ro, noexec ...
	Options []string `json:"options,omitempty"`
}

// CreatePod is RunPodSandbox with extras.
func (s *Server) CreatePod(ctx context.Context, r *runtimeapi.RunPodSandboxRequest, extras Extras) (id string, err error) {
	return "", fmt.Errorf("create pod: %w", errdefs.ErrNotImplemented)
}

// CreateIn is CreateContainer with extras.
func (s *Server) CreateIn(ctx context.Context, r *runtimeapi.CreateContainerRequest, extras Extras) (id string, err error) {
	return "", fmt.Errorf("create container: %w", errdefs.ErrNotImplemented)
}

// RenewContainer makes a container that has exited Created again, and before
// that its pod Ready, if need be; StartContainer follows. It is made from the
// stored request anew, so that it fits what the pod has now, with the files it
// had. On an error it is Exited as before. It must have an owner: what clients
// of CRI made is made anew by them.
func (s *Server) RenewContainer(ctx context.Context, id string) error {
	return fmt.Errorf("renew container %s: %w", id, errdefs.ErrNotImplemented)
}

// NewID returns an id in the form all clients expect: 64 hex digits.
func NewID() string { return newID() }

// ContainerConfig is the request that a container was made from, with the limits
// that are in force now. The caller must not change it.
func (s *Server) ContainerConfig(id string) (*runtimeapi.ContainerConfig, error) {
	c, err := s.findContainer(id)
	if err != nil {
		return nil, err
	}
	return s.containerView(c.Status()).Config, nil
}

// PodConfig is the request that a pod was made from. The caller must not change
// it.
func (s *Server) PodConfig(id string) (*runtimeapi.PodSandboxConfig, error) {
	sb, err := s.findSandbox(id)
	if err != nil {
		return nil, err
	}
	st := sb.Status()
	return s.sandboxView(&st).Config, nil
}
