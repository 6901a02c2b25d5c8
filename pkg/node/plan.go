package node

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/health"
	"github.com/cri-node/cri-node/pkg/node/names"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/node/restart"
	"github.com/cri-node/cri-node/pkg/node/volumes"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// plan is a checked CreateRequest: what is to be made.
type plan struct {
	request *nodev1.CreateRequest
	record  record
	// pod is nil where the container joins another's.
	pod       *runtimeapi.PodSandboxConfig
	container *runtimeapi.ContainerConfig
	handler   string
	hosts     []string
	ulimits   []specs.POSIXRlimit
	warnings  []string
}

// plan checks a request as far as it can be checked before anything is made.
func (s *Server) plan(r *nodev1.CreateRequest) (*plan, error) {
	p := &plan{request: r, handler: r.GetHandler(), container: &runtimeapi.ContainerConfig{}}
	if r.GetContainer() != nil {
		p.container = proto.CloneOf(r.GetContainer())
	}
	if r.GetName() != "" {
		if err := names.Validate("name", r.GetName()); err != nil {
			return nil, err
		}
		if other := s.table.named(r.GetName()); other != nil {
			return nil, nameTaken(r.GetName(), other)
		}
	}
	asked := p.container.GetImage().GetImage()
	if asked == "" {
		return nil, invalid("container.image.image: is empty")
	}
	id, err := s.resolveImage(asked)
	if err != nil {
		return nil, err
	}
	img, err := s.config.Images.Resolve(id)
	if err != nil {
		return nil, err
	}
	p.record = record{
		ID: cri.NewID(), Name: r.GetName(), CreatedAt: time.Now(), Creating: true,
		Image: asked, Command: command(p.container, &img.Config, r.GetEntrypointCleared()),
		AutoRemove: r.GetAutoRemove(), StopTimeout: r.StopTimeout,
	}
	p.container.Image = &runtimeapi.ImageSpec{Image: img.ID, UserSpecifiedImage: asked}
	for _, check := range []func() error{
		p.checkPolicy, func() error { return s.planPod(p) }, func() error { return p.planHealth(s, img) },
		p.planVolumes, p.planLog, p.planNetworks, p.planHosts, p.planLimits, p.checkSignal,
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	kept := proto.CloneOf(r)
	kept.Pod, kept.Container, kept.Volumes, kept.Networks = nil, nil, nil, nil
	p.record.Request, err = proto.Marshal(kept)
	return p, err
}

// nameIt puts the name, which may have been made up, where CRI has it.
func (p *plan) nameIt(name string) {
	p.container.Metadata = &runtimeapi.ContainerMetadata{Name: name}
	p.container.Labels = owned(p.container.GetLabels())
	p.container.LogPath = ""
	if p.pod == nil {
		return
	}
	p.pod.Metadata = &runtimeapi.PodSandboxMetadata{Name: name, Uid: p.record.PodID, Namespace: Namespace}
	p.pod.Labels = owned(p.pod.GetLabels())
	p.pod.LogDirectory = ""
}

// shown are labels without the one that owned adds, which is not for people.
func shown(labels map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, labels)
	delete(all, OwnerLabel)
	return all
}

// owned adds the label that says whose a pod or container is.
func owned(labels map[string]string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[OwnerLabel] = Owner
	return labels
}

// command is what the container executes: request over image, as CRI merges them.
func command(c *runtimeapi.ContainerConfig, img *ocispec.Image, cleared bool) []string {
	entrypoint, args := img.Config.Entrypoint, img.Config.Cmd
	switch {
	case len(c.GetCommand()) > 0:
		entrypoint, args = c.GetCommand(), c.GetArgs()
	case len(c.GetArgs()) > 0:
		args = c.GetArgs()
	}
	if cleared && len(c.GetCommand()) == 0 {
		entrypoint = nil
	}
	return slices.Concat(entrypoint, args)
}

func (p *plan) checkPolicy() (err error) {
	r := p.request
	p.record.Restart, err = restart.Parse(r.GetRestart().GetName(), r.GetRestart().GetMaximum())
	if err != nil {
		return err
	}
	if r.GetAutoRemove() && !p.record.Restart.None() {
		return invalid("auto_remove: a container that is removed when it exits cannot be restarted, too: choose --rm or --restart")
	}
	return nil
}

// planPod fills in the pod, or finds the one to join.
func (s *Server) planPod(p *plan) error {
	if p.request.GetJoin() != "" {
		return s.planJoin(p)
	}
	p.record.PodID = cri.NewID()
	p.pod = &runtimeapi.PodSandboxConfig{}
	if p.request.GetPod() != nil {
		p.pod = proto.CloneOf(p.request.GetPod())
	}
	if p.pod.Linux == nil {
		p.pod.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	if p.pod.Linux.SecurityContext == nil {
		p.pod.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{}
	}
	security := p.pod.Linux.SecurityContext
	if security.NamespaceOptions == nil {
		// A container sees its own processes alone.
		security.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	}
	if p.pod.GetHostname() == "" && security.GetNamespaceOptions().GetNetwork() != runtimeapi.NamespaceMode_NODE {
		p.pod.Hostname = short(p.record.ID)
	}
	if u := security.GetNamespaceOptions().GetUsernsOptions(); wantsIDs(u) {
		s.giveIDs(u)
		if own := p.container.GetLinux().GetSecurityContext().GetNamespaceOptions(); own != nil {
			own.UsernsOptions = proto.CloneOf(u)
		}
	}
	p.fitContainer(security.GetNamespaceOptions())
	return nil
}

// fitContainer gives the container its pod's namespaces, if it says nothing.
func (p *plan) fitContainer(options *runtimeapi.NamespaceOption) {
	if p.container.Linux == nil {
		p.container.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	if p.container.Linux.SecurityContext == nil {
		p.container.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{}
	}
	if security := p.container.Linux.SecurityContext; security.NamespaceOptions == nil {
		security.NamespaceOptions = proto.CloneOf(options)
	}
}

func (s *Server) planJoin(p *plan) error {
	t, err := s.find(p.request.GetJoin())
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if t.e == nil {
		return refused("join: container %q belongs to Kubernetes: only its own containers are in its pods", s.title(t))
	}
	if len(p.request.GetPod().GetPortMappings()) > 0 || len(p.request.GetNetworks()) > 0 || len(p.request.GetExtraHosts()) > 0 || p.request.GetNoNetwork() {
		return invalid("join: ports, networks and hosts are those of container %q", s.title(t))
	}
	st := t.c.Status()
	if st.State == runtime.Exited {
		return refused("join: container %q does not run: start it first", s.title(t))
	}
	p.record.PodID, p.record.Joined = st.Group, true
	config, err := s.config.CRI.PodConfig(st.Group)
	if err != nil {
		return err
	}
	p.fitContainer(config.GetLinux().GetSecurityContext().GetNamespaceOptions())
	return nil
}

// planHealth merges the request's health check with the image's.
func (p *plan) planHealth(s *Server, img *image.Image) error {
	c := health.Config{}
	if h := p.request.GetHealthcheck(); h != nil {
		if h.GetRetries() > math.MaxInt32 {
			return invalid("healthcheck.retries: %d is too many", h.GetRetries())
		}
		c = health.Config{
			Test: h.GetTest(), Interval: time.Duration(h.GetInterval()), Timeout: time.Duration(h.GetTimeout()),
			StartPeriod: time.Duration(h.GetStartPeriod()), StartInterval: time.Duration(h.GetStartInterval()), Retries: int(h.GetRetries()),
		}
	}
	if err := c.Validate(); err != nil {
		return err
	}
	own := s.imageHealth(img)
	c = c.Over(own.Healthcheck)
	if err := c.Validate(); err != nil {
		p.warnings = append(p.warnings, "the image's health check is left out: "+err.Error())
		return nil //nolint:nilerr // an image must not make its containers impossible
	}
	if command := c.Command(own.Shell); command != nil {
		if c.Test[0] == "CMD-SHELL" && len(own.Shell) > 0 {
			c.Test = append([]string{"CMD"}, command...)
		}
		p.record.Health = &c
	}
	return nil
}

func (p *plan) planVolumes() error {
	seen := map[string]bool{}
	for _, m := range p.container.GetMounts() {
		seen[path.Clean(m.GetContainerPath())] = true
	}
	for i, v := range p.request.GetVolumes() {
		field := fmt.Sprintf("volumes[%d]", i)
		at := path.Clean(v.GetPath())
		switch {
		case !path.IsAbs(at) || at == "/":
			return invalid("%s.path: %q is no absolute path below /", field, v.GetPath())
		case seen[at]:
			return invalid("%s.path: something is mounted at %s already", field, at)
		case v.GetSubpath() != "":
			return invalid("%s.subpath: a part of a volume cannot be mounted", field)
		}
		seen[at] = true
		m := mounted{Name: v.GetName(), Path: at, Readonly: v.GetReadonly()}
		if m.Name == "" {
			m.Name, m.Anonymous = volumes.NewName(), true
		} else if err := names.Validate(field+".name", m.Name); err != nil && !volumes.IsNewName(m.Name) {
			return err
		}
		p.record.Volumes = append(p.record.Volumes, m)
	}
	return nil
}

func (p *plan) planNetworks() error {
	for i, n := range p.request.GetNetworks() {
		field := fmt.Sprintf("networks[%d]", i)
		if err := names.Validate(field+".network", n.GetNetwork()); err != nil {
			return err
		}
		for _, a := range n.GetAliases() {
			if err := names.Validate(field+".aliases", a); err != nil {
				return err
			}
		}
		p.record.Networks = append(p.record.Networks, membership{n.GetNetwork(), n.GetAliases()})
	}
	return nil
}

// planHosts turns NAME:ADDRESS into lines of /etc/hosts.
func (p *plan) planHosts() error {
	for i, h := range p.request.GetExtraHosts() {
		name, address, ok := strings.Cut(h, ":")
		if before, after, equals := strings.Cut(h, "="); equals {
			name, address, ok = before, after, true
		}
		address = strings.Trim(address, "[]")
		if _, err := netip.ParseAddr(address); !ok || err != nil && address != sandbox.HostGateway {
			return invalid("extra_hosts[%d]: %q is not NAME:ADDRESS, where ADDRESS is one of IP or %s", i, h, sandbox.HostGateway)
		}
		if err := names.Validate(fmt.Sprintf("extra_hosts[%d]", i), name); err != nil {
			return err
		}
		p.hosts = append(p.hosts, address+"\t"+name)
	}
	return nil
}

// limitNames are the resources of setrlimit(2).
var limitNames = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

func (p *plan) planLimits() error {
	for i, u := range p.request.GetUlimits() {
		name := strings.ToLower(strings.TrimPrefix(strings.ToUpper(u.GetName()), "RLIMIT_"))
		if !slices.Contains(limitNames, name) {
			return invalid("ulimits[%d].name: %q is none of %s", i, u.GetName(), strings.Join(limitNames, ", "))
		}
		soft, hard := limit(u.GetSoft()), limit(u.GetHard())
		if soft > hard {
			return invalid("ulimits[%d]: the soft limit of %s is above the hard one", i, name)
		}
		p.ulimits = append(p.ulimits, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: soft, Hard: hard})
	}
	return nil
}

// limit of less than 0 is none.
func limit(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64
	}
	return uint64(n)
}

func (p *plan) checkSignal() error {
	if p.request.GetStopSignal() == "" {
		return nil
	}
	if _, err := runtime.ParseSignal(p.request.GetStopSignal()); err != nil {
		return fmt.Errorf("stop_signal: %w", err)
	}
	return nil
}
