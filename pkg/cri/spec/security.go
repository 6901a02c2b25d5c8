package spec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// profile is a seccomp or AppArmor profile as requested, in either form.
type profile struct {
	field string
	kind  runtimeapi.SecurityProfile_ProfileType
	ref   string
	unset bool
}

// The prefix and the words of the deprecated fields that name a profile.
const (
	localhostPrefix   = "localhost/"
	profileDefault    = "runtime/default"
	profileDocker     = "docker/default"
	profileUnconfined = "unconfined"
)

// parseProfile lets the message win over the deprecated string. field and
// legacyField are for errors.
func parseProfile(field string, p *runtimeapi.SecurityProfile, legacyField, legacy string) (profile, error) {
	if p != nil {
		switch p.GetProfileType() {
		case runtimeapi.SecurityProfile_RuntimeDefault, runtimeapi.SecurityProfile_Unconfined:
			return profile{field: field, kind: p.GetProfileType()}, nil
		case runtimeapi.SecurityProfile_Localhost:
			if p.GetLocalhostRef() == "" {
				return profile{}, invalid(field+".localhost_ref", "is empty with profile_type Localhost")
			}
			return profile{field: field + ".localhost_ref", kind: p.GetProfileType(), ref: p.GetLocalhostRef()}, nil
		default:
			return profile{}, invalid(field+".profile_type", "%d is unknown", p.GetProfileType())
		}
	}
	switch legacy {
	case "":
		return profile{field: field, unset: true}, nil
	case profileDefault, profileDocker:
		return profile{field: legacyField, kind: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case profileUnconfined:
		return profile{field: legacyField, kind: runtimeapi.SecurityProfile_Unconfined}, nil
	}
	if ref, ok := strings.CutPrefix(legacy, localhostPrefix); ok && ref != "" {
		return profile{field: legacyField, kind: runtimeapi.SecurityProfile_Localhost, ref: ref}, nil
	}
	return profile{}, invalid(legacyField, "%s is no profile", quote(legacy))
}

func containerSeccomp(sc *runtimeapi.LinuxContainerSecurityContext) (profile, error) {
	//nolint:staticcheck // clients still send the deprecated field
	return parseProfile(fieldSecurity+".seccomp", sc.GetSeccomp(), fieldSecurity+".seccomp_profile_path", sc.GetSeccompProfilePath())
}

func containerAppArmor(sc *runtimeapi.LinuxContainerSecurityContext) (profile, error) {
	//nolint:staticcheck // clients still send the deprecated field
	return parseProfile(fieldSecurity+".apparmor", sc.GetApparmor(), fieldSecurity+".apparmor_profile", sc.GetApparmorProfile())
}

// maxSeccompProfile bounds a profile on the node; the default one has 17 KiB.
const maxSeccompProfile = 4 << 20

// setSeccomp writes the filter. The default profile allows more to those who
// have the capabilities for it.
func (b *builder) setSeccomp(context.Context) error {
	p, err := containerSeccomp(b.sc)
	if err != nil {
		return err
	}
	if p.unset {
		p.kind = runtimeapi.SecurityProfile_Unconfined
		if b.in.Defaults.SeccompRuntimeDefault {
			p.kind = runtimeapi.SecurityProfile_RuntimeDefault
		}
	}
	if b.sc.GetPrivileged() {
		return nil
	}
	switch p.kind {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		filter, err := seccomp.GetDefaultProfile(b.spec)
		if err != nil {
			return fmt.Errorf("resolve default seccomp profile: %w", err)
		}
		b.spec.Linux.Seccomp = filter
	case runtimeapi.SecurityProfile_Localhost:
		filter, err := loadSeccomp(p, b.spec)
		if err != nil {
			return err
		}
		b.spec.Linux.Seccomp = filter
	case runtimeapi.SecurityProfile_Unconfined:
	}
	return nil
}

// loadSeccomp reads a profile of the node, in the form of docker or of OCI.
func loadSeccomp(p profile, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	doc, err := readProfile(p)
	if err != nil {
		return nil, err
	}
	if !json.Valid(doc) {
		return nil, invalid(p.field, "%s is not JSON", quote(p.ref))
	}
	filter, err := seccomp.LoadProfile(string(doc), s)
	if err != nil {
		return nil, invalid(p.field, "%s: %v", quote(p.ref), err)
	}
	// The loader takes an empty document for "no confinement"; whoever names
	// a profile wants one.
	if filter == nil || filter.DefaultAction == "" {
		return nil, invalid(p.field, "%s has no defaultAction", quote(p.ref))
	}
	return filter, nil
}

// readProfile reads a small regular file. It looks before it opens, since to
// open a device can do something, and again at what it got, without blocking
// if that became a FIFO meanwhile.
func readProfile(p profile) (doc []byte, err error) {
	if err := validateHostPath(p.field, p.ref); err != nil {
		return nil, err
	}
	if info, err := os.Stat(p.ref); err == nil && !info.Mode().IsRegular() {
		return nil, invalid(p.field, "%s is no regular file", quote(p.ref))
	}
	f, err := os.OpenFile(p.ref, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, invalid(p.field, "%v", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, invalid(p.field, "%v", err)
	}
	if !info.Mode().IsRegular() {
		return nil, invalid(p.field, "%s is no regular file", quote(p.ref))
	}
	doc, err = io.ReadAll(io.LimitReader(f, maxSeccompProfile+1))
	if err != nil {
		return nil, invalid(p.field, "%v", err)
	}
	if len(doc) > maxSeccompProfile {
		return nil, invalid(p.field, "%s is larger than %d bytes", quote(p.ref), maxSeccompProfile)
	}
	return doc, nil
}

// setAppArmor names the profile. A privileged container has none, a machine
// without AppArmor fails only those who name one.
func (b *builder) setAppArmor(context.Context) error {
	p, err := containerAppArmor(b.sc)
	if err != nil || b.sc.GetPrivileged() {
		return err
	}
	switch p.kind {
	case runtimeapi.SecurityProfile_RuntimeDefault: // also where nothing was asked for
		if !b.in.Host.AppArmor {
			return nil
		}
		if b.in.Host.AppArmorProfile == "" && !p.unset {
			return precondition(p.field, "the default profile is not loaded, see the daemon's log")
		}
		b.spec.Process.ApparmorProfile = b.in.Host.AppArmorProfile
	case runtimeapi.SecurityProfile_Localhost:
		name := strings.TrimPrefix(p.ref, localhostPrefix)
		if !b.in.Host.AppArmor {
			return precondition(p.field, "profile %s requested, but the machine has no AppArmor", quote(name))
		}
		loaded, err := b.in.Host.AppArmorLoaded(name)
		if err != nil {
			return err
		}
		if !loaded {
			return precondition(p.field, "profile %s is not loaded", quote(name))
		}
		b.spec.Process.ApparmorProfile = name
	case runtimeapi.SecurityProfile_Unconfined:
	}
	return nil
}

// setSELinux writes the labels. The OCI runtime gives the mount label to what
// it mounts itself, and to the keyring the process label.
func (b *builder) setSELinux(context.Context) error {
	b.spec.Process.SelinuxLabel, b.spec.Linux.MountLabel = b.in.Pod.ProcessLabel, b.in.Pod.MountLabel
	return nil
}

// setPaths masks what the request lists and nothing else: an empty list on the
// wire is how kubelet says ProcMount Unmasked.
func (b *builder) setPaths(context.Context) error {
	if b.sc.GetPrivileged() {
		return nil
	}
	b.spec.Linux.MaskedPaths = slices.Clone(b.sc.GetMaskedPaths())
	b.spec.Linux.ReadonlyPaths = slices.Clone(b.sc.GetReadonlyPaths())
	return nil
}
