package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/cdi"
	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// CreateContainer makes a container in a ready pod, up to the point where its
// process waits to be started.
func (s *Server) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	id, err := s.CreateIn(ctx, r, Extras{})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// CreateIn is CreateContainer with extras.
func (s *Server) CreateIn(ctx context.Context, r *runtimeapi.CreateContainerRequest, extras Extras) (id string, err error) {
	sb, err := s.readySandbox(r.GetPodSandboxId())
	if err != nil {
		return "", err
	}
	st := sb.Status()
	view := s.sandboxView(&st)
	if err := spec.ValidateContainer(r.GetConfig(), view.Config); err != nil {
		return "", err
	}
	if err := extras.validate(); err != nil {
		return "", err
	}
	if extras.Owner != "" && extras.Owner != st.Params.Owner {
		return "", fmt.Errorf("sandbox %s is somebody else's: %w", st.ID, errdefs.ErrFailedPrecondition)
	}
	if _, err := cdi.Requested(r.GetConfig()); err != nil {
		return "", err
	}
	m := r.GetConfig().GetMetadata()
	key := containerKey{sandbox: st.ID, name: m.GetName(), attempt: m.GetAttempt()}
	id, err = s.creates.do(ctx, key, func(ctx context.Context, at *progress.Stages) (string, error) {
		from, err := s.restoreFrom(r.GetConfig().GetImage().GetImage())
		if err != nil {
			return "", fmt.Errorf("config.image: %w", err)
		}
		return s.createContainer(ctx, at, &creation{pod: &st, config: r.GetConfig(), from: from, extras: extras})
	})
	if err != nil {
		return "", fmt.Errorf("create container %s in sandbox %s: %w", key.name, st.ID, err)
	}
	return id, nil
}

// creation is one making of a container.
type creation struct {
	pod    *sandbox.Status
	config *runtimeapi.ContainerConfig
	extras Extras
	// renewed: it has been made before, and has its volumes.
	renewed bool
	// from is the checkpoint it is made of, or nil.
	from *restorable

	// What follows is found out on the way.
	image       *image.Image
	handler     *oci.Runtime
	cgroupsPath string
}

// readySandbox finds a sandbox in which something may be created or started.
func (s *Server) readySandbox(id string) (*sandbox.Sandbox, error) {
	sb, err := s.findSandbox(id)
	if err != nil {
		return nil, err
	}
	st := sb.Status()
	if s.stopping.has(sb.ID()) || s.sandboxState(&st) != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil, fmt.Errorf("sandbox %s is not ready: %w", sb.ID(), errdefs.ErrFailedPrecondition)
	}
	return sb, nil
}

// createContainer makes a container.
func (s *Server) createContainer(ctx context.Context, at *progress.Stages, q *creation) (string, error) {
	st, config := q.pod, q.config
	// 1. A repeated request gets what the first one made.
	m := config.GetMetadata()
	if c, ok := s.config.Containers.Lookup(st.ID, m.GetName(), m.GetAttempt()); ok {
		if c.Status().State != runtime.Creating {
			return c.ID(), nil
		}
		// What an earlier request could not undo; nobody can see it to remove it.
		if err := s.undoCreate(ctx, c); err != nil {
			return "", err
		}
	}
	var err error
	if q.image, err = s.containerImage(config, q.from); err != nil {
		return "", fmt.Errorf("config.image: %w", err)
	}
	if q.handler, err = s.handler(st.Params.RuntimeHandler); err != nil {
		return "", err
	}
	labels, err := s.labels(st, config)
	if err != nil {
		return "", err
	}
	// 2. Record and root file system.
	ctx = at.Enter(ctx, "root file system")
	id := q.extras.id()
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithValues("containerID", id))
	var cgroup string
	cgroup, q.cgroupsPath = s.containerCgroup(st.Params.CgroupParent, id)
	c, err := s.config.Containers.Prepare(ctx, runtime.Params{
		ID: id, Group: st.ID, Name: m.GetName(), Attempt: m.GetAttempt(),
		Handler: q.handler.Handler(), ImageID: q.image.ID, Cgroup: cgroup,
		UserNS: userNS(st), MountLabel: labels.Mount, Owner: st.Params.Owner,
		LogPath: cmp.Or(q.extras.LogPath, spec.LogPath(s.sandboxView(st).Config, config)),
		Labels:  config.GetLabels(), Annotations: config.GetAnnotations(),
	})
	if err != nil {
		return "", err
	}
	// 3. The OCI spec, which needs the root file system for its users.
	ctx = at.Enter(ctx, "OCI spec")
	options, err := s.createOptions(ctx, c, q)
	if err != nil {
		return "", errors.Join(err, s.undoCreate(ctx, c))
	}
	if q.from != nil {
		ctx = at.Enter(ctx, "checkpoint")
		if err := s.restoreInto(ctx, c, q.from, &options); err != nil {
			return "", errors.Join(err, s.undoCreate(ctx, c))
		}
	}
	// 4. Namespaces and process.
	ctx = at.Enter(ctx, "OCI runtime")
	if err := c.Create(ctx, options); err != nil {
		s.nri.RemoveContainer(ctx, id)
		s.drop(id) // plugins may have been shown it
		return "", err
	}
	// 5. A stop that came meanwhile has not seen this container.
	if _, err := s.readySandbox(st.ID); err != nil {
		return "", errors.Join(err, s.undoCreate(ctx, c))
	}
	s.nri.PostCreateContainer(ctx, id)
	return id, nil
}

// containerImage finds what the root file system is made from.
func (s *Server) containerImage(config *runtimeapi.ContainerConfig, from *restorable) (*image.Image, error) {
	if from != nil {
		return from.image(s.config.Images)
	}
	img, err := s.config.Images.Resolve(config.GetImage().GetImage())
	if err != nil {
		return nil, err
	}
	if img.Artifact != nil {
		return nil, fmt.Errorf("%s is an OCI artifact of type %.100q, which can be mounted but not run: %w", img.ID, img.Artifact.Type, errdefs.ErrInvalidArgument)
	}
	return img, nil
}

// undoCreate removes a container in a time of its own.
func (s *Server) undoCreate(ctx context.Context, c *runtime.Container) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(progress.Enter(ctx, "undo")), undoTimeout)
	defer cancel()
	return s.removeContainer(progress.Listen(ctx, nil), c)
}

// createOptions translates the request.
func (s *Server) createOptions(ctx context.Context, c *runtime.Container, q *creation) (runtime.CreateOptions, error) {
	st, config, handler := q.pod, q.config, q.handler
	pod, err := s.pod(st, config)
	if err != nil {
		return runtime.CreateOptions{}, err
	}
	pod.CgroupsPath = q.cgroupsPath
	labels, err := s.labels(st, config)
	if err != nil {
		return runtime.CreateOptions{}, err
	}
	pod.ProcessLabel, pod.MountLabel = labels.Process, labels.Mount
	volumes, err := s.mountImages(ctx, c, st, config)
	if err != nil {
		return runtime.CreateOptions{}, err
	}
	options := s.options.Load()
	features := handler.Features()
	out, err := spec.Container(ctx, spec.Input{
		ID: c.ID(), SandboxID: st.ID,
		Config: config, Sandbox: s.sandboxView(st).Config,
		Image: q.imageConfig(), ImageID: q.image.ID,
		Rootfs: c.RootfsPath(), VolumesDir: c.VolumesDir(), ImageMounts: volumes.paths,
		Extras: s.specExtras(q.extras),
		Pod:    pod,
		Host:   s.specHost(),
		Runtime: spec.Runtime{
			OCIVersion: features.OCIVersion, RRO: features.RecursiveReadOnly && s.host.recursiveReadOnly, IDMap: features.IDMap, ReadsUserNS: features.ReadsUserNS, MountOptions: features.MountOptions,
		},
		Defaults: spec.Defaults{
			Capabilities: options.Capabilities, Env: options.Env, PidsLimit: cmp.Or(q.extras.PidsLimit, options.PidsLimit), SeccompRuntimeDefault: options.SeccompDefault,
			Rlimits: q.extras.Ulimits, DeviceOwnership: options.DeviceOwnership, PrivilegedWithoutHostDevices: options.WithoutHostDevices[handler.Handler()],
		},
	})
	if err != nil {
		return runtime.CreateOptions{}, err
	}
	for _, w := range out.Warnings {
		klog.FromContext(ctx).Info("The container does not get all it asked for", "reason", w)
	}
	if !q.renewed {
		if err := spec.PrepareVolumes(ctx, c.RootfsPath(), out.Volumes); err != nil {
			return runtime.CreateOptions{}, err
		}
	}
	if err := s.relabel(ctx, &pod, out); err != nil {
		return runtime.CreateOptions{}, err
	}
	if err := s.addEdits(&edits{container: config, sandbox: s.sandboxView(st).Config, spec: out.Spec}); err != nil {
		return runtime.CreateOptions{}, err
	}
	view := newContainerView(volumes.report(config), q.image, out)
	view.keep(q)
	cgroup, err := s.adjustContainer(ctx, c, view, out.Spec)
	if err != nil {
		return runtime.CreateOptions{}, err
	}
	request, err := view.encode()
	if err != nil {
		return runtime.CreateOptions{}, err
	}
	return runtime.CreateOptions{
		Spec:       out.Spec,
		StopSignal: out.StopSignal.Name(),
		Stdin:      config.GetStdin(),
		StdinOnce:  config.GetStdinOnce(),
		SharedPID:  pidMode(config) != runtimeapi.NamespaceMode_CONTAINER,
		Cgroup:     cgroup,
		Request:    request,
	}, nil
}

func pidMode(config *runtimeapi.ContainerConfig) runtimeapi.NamespaceMode {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
}

// specHost adds to what the machine has where this daemon keeps its mounts.
func (s *Server) specHost() spec.Host {
	h := s.host.spec
	h.StorageRoots = []string{s.config.Root, s.config.State}
	return h
}

// pod is what the sandbox has for a container, and the pid namespaces it may
// join.
func (s *Server) pod(st *sandbox.Status, config *runtimeapi.ContainerConfig) (spec.Pod, error) {
	p := spec.Pod{
		UserNS: userNS(st),
		NetNS:  st.Namespaces.Net, IPCNS: st.Namespaces.IPC, UTSNS: st.Namespaces.UTS,
		ResolvConf: st.Files.ResolvConf, Hosts: st.Files.Hosts, Hostname: st.Files.Hostname, Shm: st.Files.Shm,
		Privileged: s.sandboxView(st).Config.GetLinux().GetSecurityContext().GetPrivileged(),
	}
	p.HostnameValue = s.sandboxView(st).Config.GetHostname()
	switch pidMode(config) {
	case runtimeapi.NamespaceMode_POD:
		c, err := s.config.Containers.Get(st.ID)
		if err != nil || c.Status().State != runtime.Running {
			return p, fmt.Errorf("config.linux.security_context.namespace_options.pid: sandbox %s was made without a shared pid namespace, or its init is gone: %w", st.ID, errdefs.ErrFailedPrecondition)
		}
		p.PIDNS = pidNamespace(c)
	case runtimeapi.NamespaceMode_TARGET:
		target := config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetTargetId()
		c, err := s.config.Containers.Get(target)
		if err != nil || c.Status().Group != st.ID || c.Status().Infra {
			return p, fmt.Errorf("config.linux.security_context.namespace_options.target_id: no container %q in sandbox %s: %w", target, st.ID, errdefs.ErrInvalidArgument)
		}
		if c.Status().State != runtime.Running {
			return p, fmt.Errorf("config.linux.security_context.namespace_options.target_id: container %s is not running: %w", target, errdefs.ErrFailedPrecondition)
		}
		p.TargetPIDNS = pidNamespace(c)
	default: // the host's, or one of its own
	}
	return p, nil
}

func pidNamespace(c *runtime.Container) string {
	return fmt.Sprintf("/proc/%d/ns/pid", c.Status().Process.PID)
}

func newContainerView(config *runtimeapi.ContainerConfig, img *image.Image, out *spec.Output) *containerView {
	v := &containerView{
		Config:             withResources(config, out.Resources),
		ImageRef:           img.ID,
		UserSpecifiedImage: config.GetImage().GetUserSpecifiedImage(),
		StopSignal:         out.StopSignal.Name(),
		User:               out.User,
	}
	if len(img.Digests) > 0 {
		v.ImageRef = img.Digests[0]
	}
	if v.UserSpecifiedImage == "" {
		v.UserSpecifiedImage = config.GetImage().GetImage()
	}
	return v
}
