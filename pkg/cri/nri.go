package cri

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/nri"
	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// prepareNRI makes the manager of plugins. Without one the node works.
func (s *Server) prepareNRI(ctx context.Context) {
	if s.config.NRI == nil {
		return
	}
	config := *s.config.NRI
	config.Name, config.Version = runtimeName, s.config.Version
	config.InjectCDI = s.config.CDI.Inject
	m, err := nri.New(ctx, config, nriNode{s})
	if err != nil {
		s.log.Error(err, "NRI plugins cannot be used")
		return
	}
	s.nri = m
}

// StartNRI starts plugins and lets others connect. It must be called after
// Reconcile and before Serve. What fails is logged: no pod needs a plugin.
func (s *Server) StartNRI(ctx context.Context) {
	var known nri.Known
	for _, sb := range s.sandboxes().List() {
		known.Pods = append(known.Pods, nri.KnownPod{ID: sb.ID(), Stopped: sb.Status().State == sandbox.NotReady})
	}
	for _, c := range s.config.Containers.List() {
		st := c.Status()
		if st.Infra || st.State == runtime.Creating {
			continue
		}
		known.Containers = append(known.Containers, nri.KnownContainer{
			ID: st.ID, Pod: st.Group, Started: st.State == runtime.Running, Exited: st.State == runtime.Exited,
		})
	}
	if err := s.nri.Start(known); err != nil {
		klog.FromContext(ctx).Error(err, "NRI plugins cannot be used")
	}
	// One that ended after it was listed was not known yet when its end was told.
	for _, c := range s.config.Containers.List() {
		if c.Status().State == runtime.Exited {
			s.nri.Exited(c.ID())
		}
	}
}

// CloseNRI lets go of the plugins.
func (s *Server) CloseNRI() { s.nri.Close() }

// tellExit tells plugins of the end of a container, unless that is not its
// state, or they know.
func (s *Server) tellExit(ctx context.Context, c *runtime.Container) error {
	if c.Status().State != runtime.Exited {
		return nil
	}
	return s.nri.StopContainer(ctx, c.ID())
}

// adjustContainer lets plugins change a container that is about to be made,
// and what its status will say. The cgroup is empty where it stays.
func (s *Server) adjustContainer(ctx context.Context, c *runtime.Container, view *containerView, document *specs.Spec) (cgroup string, err error) {
	host := s.specHost()
	adjusted, err := s.nri.CreateContainer(ctx, &nri.Container{
		Status: c.Status(), Config: view.Config, Image: view.UserSpecifiedImage, ImageRef: view.ImageRef, Spec: document,
	}, nri.Host{OOMScoreFloor: host.OOMScoreFloor, SwapAccounting: host.SwapAccounting})
	if err != nil || adjusted == nil {
		return "", err
	}
	resources := view.Config.GetLinux().GetResources()
	if adjusted.Resources != nil {
		limits, err := spec.UpdateLimits(spec.Limits{OCI: document.Linux.Resources, CRI: resources}, nri.ToCRI(adjusted.Resources), host)
		if err != nil {
			return "", fmt.Errorf("limits of an NRI plugin: %w", err)
		}
		document.Linux.Resources, resources = limits.OCI, limits.CRI
	}
	if adjusted.OOMScoreAdj != nil {
		resources = proto.CloneOf(resources)
		if resources == nil {
			resources = &runtimeapi.LinuxContainerResources{}
		}
		resources.OomScoreAdj = int64(*adjusted.OOMScoreAdj)
	}
	view.Config = withResources(view.Config, resources)
	return s.adjustedCgroup(adjusted.CgroupsPath)
}

// adjustedCgroup is the path in the trees of what a plugin chose.
func (s *Server) adjustedCgroup(cgroupsPath string) (string, error) {
	if cgroupsPath == "" {
		return "", nil
	}
	bad := fmt.Errorf("cgroups path %q of an NRI plugin: %w", cgroupsPath, errdefs.ErrInvalidArgument)
	if !s.config.SystemdCgroup {
		if !path.IsAbs(cgroupsPath) || path.Clean(cgroupsPath) != cgroupsPath || cgroupsPath == "/" {
			return "", bad
		}
		return cgroupsPath, nil
	}
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 || !strings.HasSuffix(parts[0], ".slice") || parts[2] == "" || strings.Contains(cgroupsPath, "/") {
		return "", bad
	}
	return path.Join(expandSlice(parts[0]), parts[1]+"-"+parts[2]+".scope"), nil
}

// nriNode shows the node to the plugins.
type nriNode struct{ s *Server }

// Pod implements nri.Node.
func (n nriNode) Pod(id string) (*nri.Pod, error) {
	sb, err := n.s.sandboxes().Get(id)
	if err != nil {
		return nil, err
	}
	st := sb.Status()
	return &nri.Pod{Status: st, Config: n.s.sandboxView(&st).Config}, nil
}

// Container implements nri.Node.
func (n nriNode) Container(id string) (*nri.Container, error) {
	c, err := n.s.config.Containers.Get(id)
	if err != nil {
		return nil, err
	}
	st := c.Status()
	view := n.s.containerView(st)
	document, err := c.Spec()
	if err != nil {
		document = nil // not made yet, or broken
	}
	return &nri.Container{
		Status: st, Config: view.Config, Image: view.UserSpecifiedImage, ImageRef: view.ImageRef, Spec: document,
	}, nil
}

// Update implements nri.Node.
func (n nriNode) Update(ctx context.Context, id string, resources *api.LinuxResources) error {
	c, err := n.s.findContainer(id)
	if err != nil {
		return err
	}
	return n.s.updateLimits(ctx, c, nil, resources)
}

// evictGrace is how long an evicted container may take to end by itself.
const evictGrace = 10 * time.Second

// Evict implements nri.Node.
func (n nriNode) Evict(ctx context.Context, id, reason string) error {
	c, err := n.s.findContainer(id)
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("An NRI plugin wants a container evicted", "containerID", id, "reason", reason)
	if err := c.Stop(ctx, evictGrace); err != nil {
		return err
	}
	return n.s.tellExit(ctx, c)
}
