package spec

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// builder carries one translation from step to step.
type builder struct {
	in    *Input
	cfg   *runtimeapi.ContainerConfig
	sc    *runtimeapi.LinuxContainerSecurityContext // nil has the getters' defaults
	image *ocispec.Image
	spec  *specs.Spec
	out   *Output

	devices *deviceSet // what setDevices has found
}

// Container translates a request to create a container. The order of its steps
// is the design: what can refuse the request comes before what changes the
// machine, so that a refused request leaves nothing behind.
func Container(ctx context.Context, in Input) (*Output, error) {
	if err := ValidateContainer(in.Config, in.Sandbox); err != nil {
		return nil, err
	}
	b := newBuilder(&in)
	steps := []func(context.Context) error{
		// 1. The request and the machine's facts alone.
		b.checkPrivileged,
		b.setProcess,
		b.setNamespaces,
		b.setResources,
		b.setStopSignal,
		// 2. Reads of the image's root file system and of the machine. Seccomp
		// comes after the capabilities, which its default profile depends on.
		b.setUser,
		b.setCapabilities,
		b.setSeccomp,
		b.setAppArmor,
		b.setSELinux,
		b.setPaths,
		b.setDevices,
		// 3. Changes: missing mount sources and the working directory.
		b.setMounts,
		b.makeWorkingDir,
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("translate container %s: %w", in.ID, err)
		}
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return b.out, nil
}

// newBuilder starts the spec with what needs no decision.
func newBuilder(in *Input) *builder {
	sc := in.Config.GetLinux().GetSecurityContext()
	version := in.Runtime.OCIVersion
	if version == "" {
		version = defaultOCIVersion
	}
	image := in.Image
	if image == nil {
		image = &ocispec.Image{}
	}
	s := &specs.Spec{
		Version:     version,
		Process:     &specs.Process{NoNewPrivileges: sc.GetNoNewPrivs(), Terminal: in.Config.GetTty()},
		Root:        &specs.Root{Path: in.Rootfs, Readonly: sc.GetReadonlyRootfs()},
		Annotations: annotations(in),
		Linux:       &specs.Linux{CgroupsPath: in.Pod.CgroupsPath},
	}
	return &builder{
		in: in, cfg: in.Config, sc: sc, image: image, spec: s,
		out: &Output{Spec: s, LogPath: LogPath(in.Sandbox, in.Config)},
	}
}

// LogPath joins the pod's log directory and the container's log path; without
// either there is no log.
func LogPath(sandbox *runtimeapi.PodSandboxConfig, cfg *runtimeapi.ContainerConfig) string {
	if sandbox.GetLogDirectory() == "" || cfg.GetLogPath() == "" {
		return ""
	}
	return filepath.Join(sandbox.GetLogDirectory(), cfg.GetLogPath())
}

// checkPrivileged looks at the sandbox as it was made; ValidateContainer saw
// only a configuration.
func (b *builder) checkPrivileged(context.Context) error {
	if b.sc.GetPrivileged() && !b.in.Pod.Privileged {
		return invalid(fieldSecurity+".privileged", "no privileged container allowed in sandbox")
	}
	return nil
}

// warn notes something that was left out.
func (b *builder) warn(format string, args ...any) {
	b.out.Warnings = append(b.out.Warnings, fmt.Sprintf(format, args...))
}

// invalid is the error of a field that must not be as it is. The arguments are
// cut by the callers, see quote.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// notImplemented is the error of a field that asks for what does not exist yet.
func notImplemented(field, why string) error {
	return fmt.Errorf("%s: %s: %w", field, why, errdefs.ErrNotImplemented)
}

// precondition is the error of a field that is right, on a machine that is not.
func precondition(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrFailedPrecondition)
}

// maxQuoted keeps a hostile value from filling an error message or a log line.
const maxQuoted = 128

// quote shows a foreign string in an error: without control characters, and cut.
func quote(s string) string {
	if len(s) > maxQuoted {
		return fmt.Sprintf("%q…", s[:maxQuoted])
	}
	return fmt.Sprintf("%q", s)
}
