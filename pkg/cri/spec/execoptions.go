package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ExecOptions are what the process of an exec has that its container's does not.
// Empty is the container's.
type ExecOptions struct {
	// Env is NAME=value, or NAME to take a variable away.
	Env []string
	// Workdir is absolute.
	Workdir string
	// User is user or user:group, each a name or a number.
	User string
	// Privileged gives it all capabilities and no confinement.
	Privileged bool
}

// Adjust applies options to what Process has made. Users are looked up in a root
// file system.
func Adjust(p *specs.Process, rootfs string, o ExecOptions) error {
	for i, kv := range o.Env {
		name, _, set := strings.Cut(kv, "=")
		if name == "" || strings.ContainsRune(kv, 0) {
			return execInvalid(fmt.Sprintf("env[%d]", i), "%s is no variable", quote(kv))
		}
		p.Env = slices.DeleteFunc(p.Env, func(had string) bool { return strings.HasPrefix(had, name+"=") })
		if set {
			p.Env = append(p.Env, kv)
		}
	}
	if o.Workdir != "" {
		if !path.IsAbs(o.Workdir) || strings.ContainsRune(o.Workdir, 0) {
			return execInvalid("workdir", "%s is no absolute path", quote(o.Workdir))
		}
		p.Cwd = path.Clean(o.Workdir)
	}
	if o.User != "" {
		if err := becomeUser(p, rootfs, o.User); err != nil {
			return err
		}
	}
	if !o.Privileged {
		return nil
	}
	all, err := HostCapabilities()
	if err != nil {
		return err
	}
	p.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	p.ApparmorProfile, p.SelinuxLabel, p.NoNewPrivileges = "", "", false
	return nil
}

func becomeUser(p *specs.Process, rootfs, user string) error {
	a, err := parseUser("user", user)
	a.field = "user"
	if err != nil {
		return fmt.Errorf("user: %w", err)
	}
	files, err := openAccounts(rootfs)
	if err != nil {
		return err
	}
	u, err := files.resolve(a, &runtimeapi.LinuxContainerSecurityContext{})
	if err != nil {
		return err
	}
	was := p.User.UID
	p.User = specs.User{UID: u.UID, GID: u.GID, AdditionalGids: slices.Clone(u.Groups)}
	if was == u.UID || p.Capabilities == nil {
		return nil
	}
	// The capabilities in force are those of root, or of ambience.
	c := *p.Capabilities
	if u.UID == 0 {
		c.Effective, c.Permitted = c.Bounding, c.Bounding
	} else {
		c.Effective, c.Permitted = c.Ambient, c.Ambient
	}
	p.Capabilities = &c
	// HOME is that of the container's user, unless somebody set it.
	return nil
}

func execInvalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
