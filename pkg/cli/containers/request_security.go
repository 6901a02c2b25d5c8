package containers

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// MaskedPaths are what of /proc and /sys containers of docker do not see.
func MaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
}

// ReadonlyPaths are what of /proc they cannot write to.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func (o *Options) security(r *nodev1.CreateRequest, m Machine) error {
	sc := r.GetContainer().GetLinux().GetSecurityContext()
	sc.Privileged, sc.ReadonlyRootfs = o.Privileged, o.ReadOnly
	sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	sc.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	if o.Privileged {
		sc.Seccomp.ProfileType = runtimeapi.SecurityProfile_Unconfined
		sc.Apparmor.ProfileType = runtimeapi.SecurityProfile_Unconfined
	} else {
		sc.MaskedPaths, sc.ReadonlyPaths = MaskedPaths(), ReadonlyPaths()
	}
	if len(o.CapAdd)+len(o.CapDrop) > 0 {
		sc.Capabilities = &runtimeapi.Capability{AddCapabilities: capabilities(o.CapAdd), DropCapabilities: capabilities(o.CapDrop)}
	}
	for _, s := range o.SecurityOpt {
		if err := securityOption(sc, m, s); err != nil {
			return err
		}
	}
	pod := r.GetPod().GetLinux()
	for _, s := range o.Sysctls {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return fmt.Errorf("invalid --sysctl %q: it is NAME=VALUE", s)
		}
		if pod.Sysctls == nil {
			pod.Sysctls = make(map[string]string)
		}
		pod.Sysctls[strings.ReplaceAll(name, "/", ".")] = value
	}
	return nil
}

// capabilities are names as CRI has them: NET_ADMIN.
func capabilities(names []string) []string {
	var all []string
	for _, name := range names {
		all = append(all, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
	}
	return all
}

// securityOption is one --security-opt, with = or, as once, : after its name.
func securityOption(sc *runtimeapi.LinuxContainerSecurityContext, m Machine, s string) error {
	name, value, has := strings.Cut(s, "=")
	if !has {
		name, value, has = strings.Cut(s, ":")
	}
	switch name {
	case "no-new-privileges":
		sc.NoNewPrivs = true
		if has {
			yes, err := strconv.ParseBool(value)
			if err != nil {
				return fmt.Errorf("invalid --security-opt %q: it is true or false", s)
			}
			sc.NoNewPrivs = yes
		}
		return nil
	case "seccomp":
		return seccomp(sc, m, value)
	case "apparmor":
		sc.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: value}
		if value == "unconfined" {
			sc.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		}
		return nil
	case "systempaths":
		if value != "unconfined" {
			return fmt.Errorf("invalid --security-opt %q: it can be systempaths=unconfined", s)
		}
		sc.MaskedPaths, sc.ReadonlyPaths = nil, nil
		return nil
	case "label":
		return selinux(sc, s, value)
	}
	return fmt.Errorf("invalid --security-opt %q: it can be no-new-privileges, seccomp=, apparmor=, label= or systempaths=unconfined", s)
}

func seccomp(sc *runtimeapi.LinuxContainerSecurityContext, m Machine, value string) error {
	switch value {
	case "":
		return errors.New("--security-opt seccomp= needs unconfined, builtin or a file")
	case "unconfined":
		sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		return nil
	case "builtin":
		return nil
	}
	if !filepath.IsAbs(value) {
		workdir, err := m.Getwd()
		if err != nil {
			return err
		}
		value = filepath.Join(workdir, value)
	}
	if err := m.Exists(value); err != nil {
		return fmt.Errorf("opening seccomp profile failed: %w", err)
	}
	sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: value}
	return nil
}

func selinux(sc *runtimeapi.LinuxContainerSecurityContext, s, value string) error {
	if sc.SelinuxOptions == nil {
		sc.SelinuxOptions = &runtimeapi.SELinuxOption{}
	}
	if value == "disable" {
		sc.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "spc_t"}
		return nil
	}
	key, value, _ := strings.Cut(value, ":")
	switch key {
	case "user":
		sc.SelinuxOptions.User = value
	case "role":
		sc.SelinuxOptions.Role = value
	case "type":
		sc.SelinuxOptions.Type = value
	case "level":
		sc.SelinuxOptions.Level = value
	default:
		return fmt.Errorf("invalid --security-opt %q: it can be label=disable, or label= with user:, role:, type: or level: before a value", s)
	}
	return nil
}
