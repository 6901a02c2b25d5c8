package cri

import (
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/runtime/infra"
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
	// User as an image has it, USER or USER:GROUP; it goes before the security
	// context's. Groups are more of them, names or numbers.
	User   string   `json:"user,omitempty"`
	Groups []string `json:"groups,omitempty"`
	// PidsLimit goes before the configured one; 0 is none of its own.
	PidsLimit int64 `json:"pidsLimit,omitempty"`
}

// Tmpfs is a file system in memory of a container's own.
type Tmpfs = spec.Tmpfs

// validID is what newID makes.
var validID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// validate refuses what the packages below take for granted. They check the
// rest.
func (e Extras) validate() error {
	if e.ID != "" && !validID.MatchString(e.ID) {
		return fmt.Errorf("extras.id: %.80q: %w", e.ID, errdefs.ErrInvalidArgument)
	}
	if e.LogPath != "" && (!filepath.IsAbs(e.LogPath) || filepath.Clean(e.LogPath) != e.LogPath) {
		return fmt.Errorf("extras.log_path: %.200q is no clean absolute path: %w", e.LogPath, errdefs.ErrInvalidArgument)
	}
	seen := map[string]bool{}
	for i, u := range e.Ulimits {
		switch {
		case !validRlimit.MatchString(u.Type) || seen[u.Type]:
			return fmt.Errorf("extras.ulimits[%d]: %.40q is no limit, or there twice: %w", i, u.Type, errdefs.ErrInvalidArgument)
		case u.Soft > u.Hard:
			return fmt.Errorf("extras.ulimits[%d]: the soft limit of %s is above the hard one: %w", i, u.Type, errdefs.ErrInvalidArgument)
		}
		seen[u.Type] = true
	}
	return nil
}

// validRlimit is a name of setrlimit(2).
var validRlimit = regexp.MustCompile(`^RLIMIT_(AS|CORE|CPU|DATA|FSIZE|LOCKS|MEMLOCK|MSGQUEUE|NICE|NOFILE|NPROC|RSS|RTPRIO|RTTIME|SIGPENDING|STACK)$`)

// specExtras are the extras that the spec of a container shows.
func (s *Server) specExtras(e Extras) spec.Extras {
	x := spec.Extras{Tmpfs: e.Tmpfs, StopSignal: e.StopSignal, User: e.User, Groups: e.Groups}
	if e.Init {
		x.Init = infra.ContainerInit(s.config.InfraRoot)
	}
	return x
}

// keep notes what renewing the container will need.
func (v *containerView) keep(q *creation) {
	if q.pod.Params.Owner != "" {
		v.Extras, v.Image = &q.extras, &q.image.Config
	}
}

// imageConfig is the config of the image as far as the request wants it.
func (q *creation) imageConfig() *ocispec.Image {
	if !q.extras.NoEntrypoint || len(q.config.GetCommand()) > 0 {
		return &q.image.Config
	}
	config := q.image.Config
	config.Config.Entrypoint = nil
	return &config
}

// ownerLabel in a selector asks for objects that have an owner, too.
const ownerLabel = "io.cri-node.owner"

// hidden reports whether an object of an owner is kept from a client that asks
// for no object by its id. Its record says whose it is, and not its labels,
// which anybody may set.
func hidden(owner, id string, selector map[string]string) bool {
	if owner == "" || id != "" {
		return false
	}
	_, asked := selector[ownerLabel]
	return !asked
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
