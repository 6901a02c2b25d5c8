package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/build"
	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// buildOwner is who pods belong to that steps of builds run in.
const buildOwner = "build"

// buildHostname is what a step of a build finds as its host's name, always the
// same one: it must not make a difference to results.
const buildHostname = "buildkitsandbox"

// removeTimeout bounds the taking away of a step's pod.
const removeTimeout = time.Minute

// executor runs steps of builds, each in a pod of its own.
type executor struct {
	cri        *cri.Server
	containers *runtime.Manager
}

// Run implements build.Executor.
func (e executor) Run(ctx context.Context, p build.Process) (code int, err error) {
	pod := podOfStep(&p)
	id, err := e.cri.CreatePod(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod}, cri.Extras{
		Owner: buildOwner, NoNetwork: p.Network == build.NetworkNone, ExtraHosts: p.ExtraHosts,
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.remove(context.WithoutCancel(ctx), id)) }()
	config, extras, err := containerOfStep(&p)
	if err != nil {
		return 0, err
	}
	container, err := e.cri.CreateIn(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: config, SandboxConfig: pod}, extras)
	if err != nil {
		return 0, err
	}
	c, err := e.containers.Get(container)
	if err != nil {
		return 0, err
	}
	if err := e.run(ctx, c, &p); err != nil {
		return 0, err
	}
	if s := c.Status(); s.ExitCode != 0 {
		if s.Reason == "OOMKilled" {
			return s.ExitCode, fmt.Errorf("the process was killed as it used more memory than it may, or than there is: exit code: %d", s.ExitCode)
		}
		return s.ExitCode, nil
	}
	return 0, p.Finish(ctx, c.ID(), c.RootfsPath())
}

// run starts a container and returns when it has ended and all of its output is
// written.
func (e executor) run(ctx context.Context, c *runtime.Container, p *build.Process) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	connected, ended := make(chan struct{}), make(chan struct{})
	var attached error // once ended
	go func() {
		defer close(ended)
		attached = c.Attach(ctx, runtime.Streams{Stdout: p.Stdout, Stderr: p.Stderr, Connected: func() { close(connected) }})
	}()
	select {
	case <-connected:
	case <-ended:
		return errors.Join(fmt.Errorf("follow the output of a step: %w", errdefs.ErrInternal), attached)
	}
	if _, err := e.cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ID()}); err != nil {
		cancel(err)
		<-ended
		return err
	}
	select {
	case <-ended:
		if attached != nil {
			return fmt.Errorf("follow the output of a step: %w", attached)
		}
	case <-ctx.Done():
		<-ended
		return context.Cause(ctx)
	}
	select {
	case <-c.Exited():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// remove takes away the pod of a step, and everything in it.
func (e executor) remove(ctx context.Context, pod string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	_, err := e.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod})
	_, err2 := e.cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod})
	if err2 == nil {
		return nil // what could not be stopped first is gone all the same
	}
	return errors.Join(err, err2)
}

// podOfStep is the pod that a step runs in.
func podOfStep(p *build.Process) *runtimeapi.PodSandboxConfig {
	uid := cri.NewID()
	hostname := p.Hostname
	if hostname == "" {
		hostname = buildHostname
	}
	net := runtimeapi.NamespaceMode_POD
	if p.Network == build.NetworkHost {
		net, hostname = runtimeapi.NamespaceMode_NODE, ""
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "build-" + uid[:12], Uid: uid, Namespace: buildOwner},
		Hostname: hostname,
		Labels:   map[string]string{OwnerLabel: buildOwner},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: net, Pid: runtimeapi.NamespaceMode_CONTAINER},
			Privileged:       p.Privileged,
			Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		}},
	}
}

// containerOfStep is the container of a step: as confined as any.
func containerOfStep(p *build.Process) (*runtimeapi.ContainerConfig, cri.Extras, error) {
	net := runtimeapi.NamespaceMode_POD
	if p.Network == build.NetworkHost {
		net = runtimeapi.NamespaceMode_NODE
	}
	sc := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Network: net, Pid: runtimeapi.NamespaceMode_CONTAINER},
		Privileged:       p.Privileged,
		Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		Apparmor:         &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	if p.Privileged {
		sc.Seccomp.ProfileType = runtimeapi.SecurityProfile_Unconfined
		sc.Apparmor.ProfileType = runtimeapi.SecurityProfile_Unconfined
	} else {
		sc.MaskedPaths, sc.ReadonlyPaths = buildMaskedPaths(), buildReadonlyPaths()
	}
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "run"},
		Image:    &runtimeapi.ImageSpec{Image: p.Image, UserSpecifiedImage: "build step"},
		Linux:    &runtimeapi.LinuxContainerConfig{SecurityContext: sc, Resources: &runtimeapi.LinuxContainerResources{}},
	}
	var extras cri.Extras
	for _, m := range p.Mounts {
		if m.Source == "" {
			options := []string{"mode=1777", "nosuid", "nodev"}
			if m.TmpfsSize > 0 {
				options = append(options, "size="+strconv.FormatInt(m.TmpfsSize, 10))
			}
			extras.Tmpfs = append(extras.Tmpfs, cri.Tmpfs{Path: m.Target, Options: options})
			continue
		}
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: m.Source, ContainerPath: m.Target, Readonly: m.ReadOnly})
	}
	for _, u := range p.Ulimits {
		l, err := rlimit(u)
		if err != nil {
			return nil, extras, err
		}
		extras.Ulimits = append(extras.Ulimits, l)
	}
	return c, extras, nil
}

// rlimit is a limit in the words of the OCI runtime. -1 is none.
func rlimit(u build.Ulimit) (specs.POSIXRlimit, error) {
	l := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)} //nolint:gosec // -1 is the largest
	if u.Name == "" || u.Soft < -1 || u.Hard < -1 {
		return l, fmt.Errorf("ulimit %q %d:%d: %w", u.Name, u.Soft, u.Hard, errdefs.ErrInvalidArgument)
	}
	return l, nil
}

// buildMaskedPaths and buildReadonlyPaths are what of /proc and /sys docker
// keeps from its containers.
func buildMaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

func buildReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
