package spec

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Prefixes of fields in errors, as paths from the request message.
const (
	fieldSecurity        = "config.linux.security_context"
	fieldSandboxSecurity = "config.linux.security_context"
)

const (
	// maxName is the longest name of Kubernetes.
	maxName = 253
	// maxMetadata bounds all labels and annotations of one object. Kubernetes
	// allows annotations 256 KiB, and kubelet adds to them.
	maxMetadata = 512 << 10
	// maxArgument is MAX_ARG_STRLEN of Linux, with the NUL at the end, and
	// maxArguments the most that arguments and environment may have together.
	maxArgument  = 128 << 10
	maxArguments = 6 << 20
	// maxMounts bounds the mounts and maxPortMappings the ports of one request.
	maxMounts       = 4096
	maxPortMappings = 4096
)

// validateName accepts what Kubernetes names look like and a little more.
// Names become arguments of CNI, which separates them by semicolons, and parts
// of paths: hence a list of what is allowed and not of what is not.
func validateName(field, name string) error {
	switch {
	case name == "":
		return invalid(field, "is empty")
	case len(name) > maxName:
		return invalid(field, "is longer than %d bytes", maxName)
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
		if !letter && (i == 0 || !strings.ContainsRune("-.", r)) {
			return invalid(field, "%s: the character %q is not allowed there", quote(name), r)
		}
	}
	return nil
}

// validateMaps bounds labels and annotations, which are stored and answered as
// they came.
func validateMaps(field string, labels, annotations map[string]string) error {
	size := 0
	for k, v := range labels {
		size += len(k) + len(v)
	}
	for k, v := range annotations {
		size += len(k) + len(v)
	}
	if size > maxMetadata {
		return invalid(field+".annotations", "labels and annotations have more than %d bytes", maxMetadata)
	}
	return nil
}

// hasControl finds control characters and what terminals take for some: line
// and paragraph separators.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' })
}

func hasDotDot(p string) bool {
	return slices.Contains(strings.Split(p, "/"), "..")
}

// validateHostPath accepts absolute paths that say where they lead.
func validateHostPath(field, p string) error {
	if err := checkPathText(field, p); err != nil {
		return err
	}
	if !path.IsAbs(p) {
		return invalid(field, "%s is not absolute", quote(p))
	}
	if hasDotDot(p) {
		return invalid(field, "%s has a .. in it", quote(p))
	}
	return nil
}

// validateArgv refuses what execve would: it fails with E2BIG inside the
// runtime, where the message is hard to tell from others.
func validateArgv(field string, args, env []string) error {
	total := 0
	for i, a := range args {
		if strings.ContainsRune(a, 0) {
			return invalid(field, "element %d has a NUL", i)
		}
		if !utf8.ValidString(a) {
			return invalid(field, "element %d is not UTF-8", i)
		}
		if len(a) >= maxArgument {
			return invalid(field, "element %d has more than %d bytes", i, maxArgument-1)
		}
		total += len(a) + 1
	}
	for _, kv := range env {
		if len(kv) >= maxArgument {
			key, _, _ := strings.Cut(kv, "=")
			return invalid("config.envs", "%s has more than %d bytes", quote(key), maxArgument-1)
		}
		total += len(kv) + 1
	}
	if total > maxArguments {
		return invalid(field, "arguments and environment have more than %d bytes", maxArguments)
	}
	return nil
}

// validateID accepts the ids that Linux programs agree on; beyond 2³¹-1 some
// wrap to 0.
func validateID(field string, id int64) error {
	if id < 0 || id > math.MaxInt32 {
		return invalid(field, "%d is not in 0..%d", id, math.MaxInt32)
	}
	return nil
}

// validateGroups checks supplemental groups and the policy for them.
func validateGroups(field string, groups []int64, policy runtimeapi.SupplementalGroupsPolicy) error {
	if len(groups) > maxGroups {
		return invalid(field+".supplemental_groups", "more than %d groups", maxGroups)
	}
	for i, g := range groups {
		if err := validateID(fmt.Sprintf("%s.supplemental_groups[%d]", field, i), g); err != nil {
			return err
		}
	}
	if _, ok := runtimeapi.SupplementalGroupsPolicy_name[int32(policy)]; !ok {
		return invalid(field+".supplemental_groups_policy", "%d is unknown", policy)
	}
	return nil
}

// validateNamespaces checks modes; pidModes are those the PID namespace may
// have.
func validateNamespaces(field string, o *runtimeapi.NamespaceOption, pidModes ...runtimeapi.NamespaceMode) error {
	podOrNode := []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE}
	for _, m := range []struct {
		name  string
		mode  runtimeapi.NamespaceMode
		modes []runtimeapi.NamespaceMode
	}{
		{"network", o.GetNetwork(), podOrNode},
		{"ipc", o.GetIpc(), podOrNode},
		{"pid", o.GetPid(), append(podOrNode, pidModes...)},
	} {
		if !slices.Contains(m.modes, m.mode) {
			return invalid(field+"."+m.name, "mode %s is not supported", m.mode)
		}
	}
	if o.GetPid() == runtimeapi.NamespaceMode_TARGET && o.GetTargetId() == "" {
		return invalid(field+".target_id", "is empty with pid TARGET")
	}
	return validateUserns(field+".userns_options", o.GetUsernsOptions())
}

// validateUserns checks options by themselves. None mean the host's user
// namespace.
func validateUserns(field string, u *runtimeapi.UserNamespace) error {
	if u == nil {
		return nil
	}
	switch u.GetMode() {
	case runtimeapi.NamespaceMode_NODE:
		if len(u.GetUids())+len(u.GetGids()) > 0 {
			return invalid(field+".uids", "mappings with mode NODE")
		}
		return nil
	case runtimeapi.NamespaceMode_POD:
	default:
		return invalid(field+".mode", "mode %s is not supported", u.GetMode())
	}
	for _, m := range []struct {
		name     string
		mappings []*runtimeapi.IDMapping
	}{{"uids", u.GetUids()}, {"gids", u.GetGids()}} {
		if err := validateMapping(field+"."+m.name, m.mappings); err != nil {
			return err
		}
	}
	if u.GetUids()[0].GetLength() != u.GetGids()[0].GetLength() {
		return invalid(field+".gids", "is not as long as uids")
	}
	return nil
}

func validateMapping(field string, mappings []*runtimeapi.IDMapping) error {
	if len(mappings) != 1 {
		return invalid(field, "has %d mappings, not one", len(mappings))
	}
	m := mappings[0]
	switch {
	case m.GetContainerId() != 0:
		return invalid(field+"[0].container_id", "%d is not 0", m.GetContainerId())
	case m.GetLength() == 0:
		return invalid(field+"[0].length", "is 0")
	case m.GetHostId() == 0:
		return invalid(field+"[0].host_id", "is root of the host")
	case uint64(m.GetHostId())+uint64(m.GetLength()) > math.MaxUint32:
		return invalid(field+"[0].length", "mapping ends beyond the last id")
	}
	return nil
}

// validateSELinux checks that the parts of a label stay parts.
func validateSELinux(field string, o *runtimeapi.SELinuxOption) error {
	for _, p := range []struct{ name, value string }{
		{"user", o.GetUser()}, {"role", o.GetRole()}, {"type", o.GetType()}, {"level", o.GetLevel()},
	} {
		// Only levels have a colon, between sensitivity and categories.
		if hasControl(p.value) || strings.ContainsAny(p.value, " /") || (p.name != "level" && strings.Contains(p.value, ":")) || len(p.value) > maxName {
			return invalid(field+"."+p.name, "%s is no part of a label", quote(p.value))
		}
	}
	return nil
}

// validateLogPath accepts paths below the log directory.
func validateLogPath(field, p string) error {
	if p == "" {
		return nil
	}
	if err := checkPathText(field, p); err != nil {
		return err
	}
	if path.IsAbs(p) || hasDotDot(p) || path.Clean(p) == "." || strings.HasSuffix(p, "/") || len(path.Base(p)) > unix.NAME_MAX {
		return invalid(field, "%s is no path of a file below the log directory", quote(p))
	}
	return nil
}
