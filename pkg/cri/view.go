package cri

import (
	"encoding/json"
	"fmt"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/selinux"
	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// What a sandbox and a container were asked to be is kept in their records as
// bytes that only this file reads and writes: the packages below need not know
// CRI, and no field is kept twice.

// sandboxView is what this package keeps with a sandbox.
type sandboxView struct {
	Config *runtimeapi.PodSandboxConfig `json:"-"`
	// MadeCgroup: the cgroup parent was not there and is ours to remove.
	MadeCgroup bool `json:"madeCgroup,omitempty"`
	// SELinux labels of the pod, whose level is its own.
	SELinux selinux.Labels `json:"selinux,omitzero"`
}

// containerView is what this package keeps with a container.
type containerView struct {
	Config *runtimeapi.ContainerConfig `json:"-"`
	// ImageRef is the image as clients report it: a digest where it has one.
	ImageRef string `json:"imageRef"`
	// UserSpecifiedImage is what the author of the pod wrote.
	UserSpecifiedImage string    `json:"userSpecifiedImage"`
	User               spec.User `json:"user"`
	StopSignal         string    `json:"stopSignal,omitempty"`
	// Limits are those in force where an NRI plugin set some that CRI does not
	// know; nil where those of the spec and Config tell all.
	Limits *specs.LinuxResources `json:"limits,omitempty"`
	// Extras and Image, the config of the image, are kept where the container can
	// be renewed: with nobody's pods they are nil.
	Extras *Extras        `json:"extras,omitempty"`
	Image  *ocispec.Image `json:"image,omitempty"`
}

// encoded is the form of both on disk: CRI's own message in its wire form, and
// the rest as JSON.
type encoded struct {
	Config []byte          `json:"config"`
	Extra  json.RawMessage `json:"extra"`
}

func encodeView(config proto.Message, extra any) ([]byte, error) {
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	rest, err := json.Marshal(extra)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	return json.Marshal(encoded{Config: wire, Extra: rest})
}

func decodeView(request []byte, config proto.Message, extra any) error {
	var e encoded
	if err := json.Unmarshal(request, &e); err != nil {
		return fmt.Errorf("decode request: %w", err)
	}
	if err := proto.Unmarshal(e.Config, config); err != nil {
		return fmt.Errorf("decode request: %w", err)
	}
	if err := json.Unmarshal(e.Extra, extra); err != nil {
		return fmt.Errorf("decode request: %w", err)
	}
	return nil
}

func (v *sandboxView) encode() ([]byte, error)   { return encodeView(v.Config, v) }
func (v *containerView) encode() ([]byte, error) { return encodeView(v.Config, v) }

// viewCache keeps decoded views by id, as long as the bytes they were decoded
// from are still the record's.
type viewCache struct{ m sync.Map }

type cachedView struct {
	from *byte
	view any
}

// cached returns the decoded view of a request, and keeps it if the object it is
// of exists: nobody drops what has gone already.
func cached[V any](c *viewCache, id string, request []byte, exists func() bool, decode func() *V) *V {
	if len(request) == 0 {
		return decode() // a broken record
	}
	if hit, ok := c.m.Load(id); ok {
		if hit, ok := hit.(cachedView); ok && hit.from == &request[0] {
			if v, ok := hit.view.(*V); ok {
				return v
			}
		}
	}
	v := decode()
	c.m.Store(id, cachedView{from: &request[0], view: v})
	if !exists() {
		c.drop(id)
	}
	return v
}

func (c *viewCache) drop(id string) { c.m.Delete(id) }

// sandboxView returns what is kept with a sandbox. A record that cannot be
// read gives an empty view: the sandbox can still be listed and removed.
func (s *Server) sandboxView(st *sandbox.Status) *sandboxView {
	return cached(&s.views, st.ID, st.Params.Request, func() bool { return s.hasSandbox(st.ID) }, func() *sandboxView {
		v := &sandboxView{Config: &runtimeapi.PodSandboxConfig{}}
		_ = decodeView(st.Params.Request, v.Config, v)
		return v
	})
}

func (s *Server) hasSandbox(id string) bool {
	_, err := s.sandboxes().Get(id)
	return err == nil
}

// containerView is the same for a container.
func (s *Server) containerView(st *runtime.Status) *containerView {
	return cached(&s.views, st.ID, st.Request, func() bool { return s.hasContainer(st.ID) }, func() *containerView {
		v := &containerView{Config: &runtimeapi.ContainerConfig{}}
		_ = decodeView(st.Request, v.Config, v)
		return v
	})
}

func (s *Server) hasContainer(id string) bool {
	_, err := s.config.Containers.Get(id)
	return err == nil
}

// drop forgets what is kept in memory of an object that is gone.
func (s *Server) drop(id string) {
	s.views.drop(id)
	s.listings.m.Delete(id)
	s.listings.m.Delete(id + attributesOf)
	s.stats.Drop(id)
	s.stats.Drop(id + podCgroup)
}
