package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ValidateContainer checks the configuration of CreateContainer as far as no
// image, machine or runtime is needed. sandbox is what the pod was made from.
func ValidateContainer(cfg *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) error {
	if cfg == nil {
		return invalid("config", "is missing")
	}
	if sandbox == nil {
		return invalid("sandbox_config", "is missing")
	}
	if cfg.GetMetadata() == nil {
		return invalid("config.metadata", "is missing")
	}
	if err := validateName("config.metadata.name", cfg.GetMetadata().GetName()); err != nil {
		return err
	}
	if image := cfg.GetImage().GetImage(); image == "" {
		return invalid("config.image.image", "is empty")
	}
	if err := validateMaps("config", cfg.GetLabels(), cfg.GetAnnotations()); err != nil {
		return err
	}
	if err := validateLogPath("config.log_path", cfg.GetLogPath()); err != nil {
		return err
	}
	if err := validateProcess(cfg); err != nil {
		return err
	}
	if err := validateMounts(cfg.GetMounts()); err != nil {
		return err
	}
	if err := validateDevices(cfg); err != nil {
		return err
	}
	if _, ok := criSignalNumber(cfg.GetStopSignal()); !ok && cfg.GetStopSignal() != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return invalid("config.stop_signal", "%d is no signal", cfg.GetStopSignal())
	}
	// Whether the machine has cgroup v2 is for Container to look at.
	if err := validateResources("config.linux.resources", cfg.GetLinux().GetResources(), true); err != nil {
		return err
	}
	return validateContainerSecurity(cfg.GetLinux().GetSecurityContext(), sandbox)
}

func validateProcess(cfg *runtimeapi.ContainerConfig) error {
	for _, l := range []struct {
		field string
		args  []string
	}{{"config.command", cfg.GetCommand()}, {"config.args", cfg.GetArgs()}} {
		if err := validateArgv(l.field, l.args, nil); err != nil {
			return err
		}
	}
	for i, kv := range cfg.GetEnvs() {
		field := fmt.Sprintf("config.envs[%d]", i)
		if k := kv.GetKey(); k == "" || strings.ContainsAny(k, "=\x00") || !utf8.ValidString(k) {
			return invalid(field+".key", "%s is empty or has = or NUL", quote(k))
		}
		if slices.Contains(kv.GetValue(), 0) {
			return invalid(field+".value", "value of %s has a NUL", quote(kv.GetKey()))
		}
		// The OCI spec is JSON, whose strings are text: anything else would
		// arrive changed without a word.
		if !utf8.Valid(kv.GetValue()) {
			return invalid(field+".value", "value of %s is not UTF-8", quote(kv.GetKey()))
		}
	}
	if dir := cfg.GetWorkingDir(); dir != "" {
		if _, err := checkWorkingDir("config.working_dir", dir); err != nil {
			return err
		}
	}
	return nil
}

// mountOptions are what a request may add to a bind mount.
var mountOptions = []string{"noexec", "nodev", "nosuid"}

// maxMountOptions bounds their number, repetitions and all.
const maxMountOptions = 16

func validateMounts(mounts []*runtimeapi.Mount) error {
	if len(mounts) > maxMounts {
		return invalid("config.mounts", "more than %d mounts", maxMounts)
	}
	seen := make(map[string]bool, len(mounts))
	for i, m := range mounts {
		field := fmt.Sprintf("config.mounts[%d]", i)
		if err := validateHostPath(field+".container_path", m.GetContainerPath()); err != nil {
			return err
		}
		at := path.Clean(m.GetContainerPath())
		if at == "/" {
			return invalid(field+".container_path", "is the root")
		}
		if seen[at] {
			return invalid(field+".container_path", "%s is mounted twice", quote(at))
		}
		seen[at] = true
		if err := validateMount(field, m); err != nil {
			return err
		}
	}
	return nil
}

func validateMount(field string, m *runtimeapi.Mount) error {
	if m.GetImage() != nil {
		if err := validateImageMount(field, m); err != nil {
			return err
		}
	} else if m.GetImageSubPath() != "" {
		return invalid(field+".image_sub_path", "needs image")
	} else if err := validateHostPath(field+".host_path", m.GetHostPath()); err != nil {
		return err
	}
	if _, ok := runtimeapi.MountPropagation_name[int32(m.GetPropagation())]; !ok {
		return invalid(field+".propagation", "%d is unknown", m.GetPropagation())
	}
	if m.GetRecursiveReadOnly() {
		if !m.GetReadonly() {
			return invalid(field+".recursive_read_only", "needs readonly")
		}
		if m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
			return invalid(field+".recursive_read_only", "needs propagation PROPAGATION_PRIVATE")
		}
	}
	if len(m.GetMountOptions()) > maxMountOptions {
		return invalid(field+".mount_options", "more than %d options", maxMountOptions)
	}
	for i, o := range m.GetMountOptions() {
		if !slices.Contains(mountOptions, o) {
			return invalid(fmt.Sprintf("%s.mount_options[%d]", field, i), "%s is not one of %s", quote(o), strings.Join(mountOptions, ", "))
		}
	}
	return validateMountMappings(field, m)
}

func validateImageMount(field string, m *runtimeapi.Mount) error {
	switch {
	case m.GetHostPath() != "":
		return invalid(field+".host_path", "is set together with image")
	case !m.GetReadonly():
		return invalid(field+".readonly", "an image cannot be written")
	case m.GetImage().GetImage() == "":
		return invalid(field+".image.image", "is empty")
	case m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return invalid(field+".propagation", "nothing propagates out of an image")
	}
	return validateSubPath(field+".image_sub_path", m.GetImageSubPath())
}

// validateSubPath wants a relative path that stays inside, as written; links in
// the image are followed within it only.
func validateSubPath(field, sub string) error {
	if sub == "" {
		return nil
	}
	if err := checkPathText(field, sub); err != nil {
		return err
	}
	if path.IsAbs(sub) || slices.Contains(strings.Split(sub, "/"), "..") {
		return invalid(field, "%s is no path below the image", quote(sub))
	}
	return nil
}

func validateDevices(cfg *runtimeapi.ContainerConfig) error {
	if len(cfg.GetDevices()) > maxDevices {
		return invalid("config.devices", "more than %d devices", maxDevices)
	}
	for i, d := range cfg.GetDevices() {
		field := fmt.Sprintf("config.devices[%d]", i)
		if err := validateHostPath(field+".host_path", d.GetHostPath()); err != nil {
			return err
		}
		if at := d.GetContainerPath(); at != "" {
			if err := validateHostPath(field+".container_path", at); err != nil {
				return err
			}
			if path.Clean(at) == "/" {
				return invalid(field+".container_path", "is the root")
			}
		}
		p := d.GetPermissions()
		if strings.Trim(p, "rwm") != "" || strings.Count(p, "r") > 1 || strings.Count(p, "w") > 1 || strings.Count(p, "m") > 1 {
			return invalid(field+".permissions", "%s is not of r, w and m", quote(p))
		}
	}
	if len(cfg.GetCDIDevices()) > maxDevices {
		return invalid("config.CDI_devices", "more than %d devices", maxDevices)
	}
	return nil
}

func validateContainerSecurity(sc *runtimeapi.LinuxContainerSecurityContext, sandbox *runtimeapi.PodSandboxConfig) error {
	const field = fieldSecurity
	if sc.GetPrivileged() && !sandbox.GetLinux().GetSecurityContext().GetPrivileged() {
		return invalid(field+".privileged", "no privileged container allowed in sandbox")
	}
	if err := validateRunAs(field, sc); err != nil {
		return err
	}
	if err := validateGroups(field, sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy()); err != nil {
		return err
	}
	if err := validateCapabilities(field+".capabilities", sc.GetCapabilities()); err != nil {
		return err
	}
	if err := validateContainerNamespaces(field+".namespace_options", sc.GetNamespaceOptions(), sandboxNamespaces(sandbox)); err != nil {
		return err
	}
	for _, l := range []struct {
		name  string
		paths []string
	}{{"masked_paths", sc.GetMaskedPaths()}, {"readonly_paths", sc.GetReadonlyPaths()}} {
		for i, p := range l.paths {
			if err := validateHostPath(fmt.Sprintf("%s.%s[%d]", field, l.name, i), p); err != nil {
				return err
			}
		}
	}
	if err := validateSELinux(field+".selinux_options", sc.GetSelinuxOptions()); err != nil {
		return err
	}
	if err := validateSeccomp(containerSeccomp(sc)); err != nil {
		return err
	}
	return validateAppArmor(containerAppArmor(sc))
}

func validateRunAs(field string, sc *runtimeapi.LinuxContainerSecurityContext) error {
	user, name, group := sc.GetRunAsUser(), sc.GetRunAsUsername(), sc.GetRunAsGroup()
	if user != nil && name != "" {
		return invalid(field+".run_as_username", "is set together with run_as_user")
	}
	if group != nil && user == nil && name == "" {
		return invalid(field+".run_as_group", "needs run_as_user or run_as_username")
	}
	if user != nil {
		if err := validateID(field+".run_as_user", user.GetValue()); err != nil {
			return err
		}
	}
	if group != nil {
		if err := validateID(field+".run_as_group", group.GetValue()); err != nil {
			return err
		}
	}
	if name == "" {
		return nil
	}
	if id, err := parseID(name); err != nil {
		return invalid(field+".run_as_username", "%s %v", quote(name), err)
	} else if id != nil {
		return invalid(field+".run_as_username", "%s is a number", quote(name))
	}
	return nil
}

// validateContainerNamespaces does not let a container out of the namespaces of
// its pod: only a pod as a whole can be given the host's.
func validateContainerNamespaces(field string, o, pod *runtimeapi.NamespaceOption) error {
	if o == nil {
		return nil
	}
	if err := validateNamespaces(field, o, runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_TARGET); err != nil {
		return err
	}
	if u := o.GetUsernsOptions(); u != nil && !sameUserns(u, pod.GetUsernsOptions()) {
		return invalid(field+".userns_options", "is not that of the sandbox")
	}
	for _, m := range []struct {
		name           string
		container, pod runtimeapi.NamespaceMode
	}{
		{"network", o.GetNetwork(), pod.GetNetwork()},
		{"pid", o.GetPid(), pod.GetPid()},
		{"ipc", o.GetIpc(), pod.GetIpc()},
	} {
		if m.container == runtimeapi.NamespaceMode_NODE && m.pod != runtimeapi.NamespaceMode_NODE {
			return invalid(field+"."+m.name, "NODE, but the sandbox is %s", m.pod)
		}
	}
	return nil
}
