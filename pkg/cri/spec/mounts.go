package spec

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// Mount propagation as options of the OCI spec.
const (
	private = "rprivate"
	slave   = "rslave"
	shared  = "rshared"
)

// setMounts writes the mounts, parents before children: what every container
// has, the pod's files, the image's volumes, and the request's, each of which
// replaces an earlier one at the same path.
func (b *builder) setMounts(ctx context.Context) error {
	requested := b.cfg.GetMounts()
	volumes, err := b.planVolumes()
	if err != nil {
		return err
	}
	tmpfs, err := b.tmpfsMounts()
	if err != nil {
		return err
	}
	init, err := b.initMount()
	if err != nil {
		return err
	}
	gone := func(path string) bool {
		return replaced(path, requested) || slices.ContainsFunc(tmpfs, func(t specs.Mount) bool { return t.Destination == path })
	}
	var mounts []specs.Mount
	for _, m := range slices.Concat(b.adaptMounts(b.defaultMounts()), b.bindDevices(), b.podFiles(), volumes) {
		if !gone(m.Destination) {
			mounts = append(mounts, m)
		}
	}
	mounts = slices.Concat(mounts, tmpfs, init)
	b.out.Volumes = slices.DeleteFunc(b.out.Volumes, func(v Volume) bool { return gone(v.Path) })

	// Everything that can be wrong with a mount comes before the first missing
	// source is made.
	for i, m := range requested {
		if err := b.checkMount(fmt.Sprintf("config.mounts[%d]", i), m); err != nil {
			return err
		}
	}
	var table mountTable
	for i, m := range requested {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("prepare mounts of container %s: %w", b.in.ID, err)
		}
		field := fmt.Sprintf("config.mounts[%d]", i)
		if m.GetImage() != nil {
			om, err := b.imageMount(field, i, m)
			if err != nil {
				return err
			}
			mounts = append(mounts, om)
			continue
		}
		om, err := b.mount(field, m, &table)
		if err != nil {
			return err
		}
		mounts = append(mounts, om)
	}
	slices.SortStableFunc(mounts, func(x, y specs.Mount) int {
		return cmp.Compare(strings.Count(x.Destination, "/"), strings.Count(y.Destination, "/"))
	})
	b.spec.Mounts = mounts
	return nil
}

// replaced tells whether a mount of ours gives way to a requested one: to one
// at the same path; to one of /dev or /sys, which brings its own; and to one
// above that propagates to the host, where ours would then appear too.
func replaced(path string, requested []*runtimeapi.Mount) bool {
	for _, m := range requested {
		at := filepath.Clean(m.GetContainerPath())
		switch {
		case at == path:
			return true
		case !isBelow(path, at):
		case isAtOrBelow(at, "/dev"), isAtOrBelow(at, "/sys"):
			return true
		case m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			return true
		}
	}
	return false
}

// isBelow reports whether path is strictly below dir, both clean and absolute.
func isBelow(path, dir string) bool {
	return path != dir && strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func isAtOrBelow(path, dir string) bool {
	return path == dir || isBelow(path, dir)
}

// defaultMounts are what a process may expect to find. /dev is always a fresh
// tmpfs: runtimes followed links that an image had put there (CVE-2026-41579).
func (b *builder) defaultMounts() []specs.Mount {
	access := "ro"
	if b.sc.GetPrivileged() {
		access = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	return append(mounts, b.shm())
}

// shm is the pod's shared memory, without a pod's the host's or an own one.
func (b *builder) shm() specs.Mount {
	source := b.in.Pod.Shm
	if source == "" && b.in.Pod.IPCNS == "" {
		source = "/dev/shm"
	}
	if source == "" {
		return specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}}
	}
	return specs.Mount{Destination: "/dev/shm", Type: "bind", Source: source, Options: []string{"rbind", private, "rw", "nosuid", "noexec", "nodev"}}
}

// podFiles are the files of a pod that its containers share. They can be
// written, as in the other runtimes, unless the root file system cannot.
func (b *builder) podFiles() []specs.Mount {
	access := "rw"
	if b.sc.GetReadonlyRootfs() {
		access = "ro"
	}
	var mounts []specs.Mount
	for _, f := range []struct{ path, source string }{
		{"/etc/resolv.conf", b.in.Pod.ResolvConf},
		{"/etc/hosts", b.in.Pod.Hosts},
		{"/etc/hostname", b.in.Pod.Hostname},
	} {
		if f.source != "" {
			mounts = append(mounts, specs.Mount{Destination: f.path, Type: "bind", Source: f.source, Options: []string{"rbind", private, access}})
		}
	}
	return mounts
}

// checkMount looks at what depends on the runtime and the pod;
// ValidateContainer saw the rest.
func (b *builder) checkMount(field string, m *runtimeapi.Mount) error {
	// An image has no mounts in it, so that read-only is recursive there.
	if m.GetRecursiveReadOnly() && m.GetImage() == nil && !b.in.Runtime.RRO {
		return fmt.Errorf("%w: %s.recursive_read_only: the OCI runtime or the kernel has no recursive read-only mounts", crierrors.ErrRROUnsupported, field)
	}
	// The owners of an image were mapped when it was mounted on the host.
	if m.GetImage() == nil || b.in.Pod.UserNS == nil {
		if err := b.checkMountMappings(field, m); err != nil {
			return err
		}
	}
	for i, o := range m.GetMountOptions() {
		if b.in.Runtime.MountOptions != nil && !slices.Contains(b.in.Runtime.MountOptions, o) {
			return invalid(fmt.Sprintf("%s.mount_options[%d]", field, i), "the OCI runtime does not know %s", quote(o))
		}
	}
	return nil
}

// imageMount translates the mount of an image, which somebody has mounted on
// the host. Devices in it are files of nobody's that CRI has handed out.
func (b *builder) imageMount(field string, i int, m *runtimeapi.Mount) (specs.Mount, error) {
	source := b.in.ImageMounts[i]
	if source == "" {
		return specs.Mount{}, notImplemented(field+".image", "the image is not mounted")
	}
	destination := filepath.Clean(m.GetContainerPath())
	if err := checkProcMount(field, destination, source); err != nil {
		return specs.Mount{}, err
	}
	options := []string{"rbind", private, "ro", "nodev"}
	for _, o := range m.GetMountOptions() {
		if !slices.Contains(options, o) {
			options = append(options, o)
		}
	}
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options}, nil
}

// mount translates one requested mount. Its source is made if it is missing.
func (b *builder) mount(field string, m *runtimeapi.Mount, table *mountTable) (specs.Mount, error) {
	source, err := resolveSource(m.GetHostPath())
	if err != nil {
		return specs.Mount{}, invalid(field+".host_path", "%v", err)
	}
	if err := checkProcMount(field, filepath.Clean(m.GetContainerPath()), source); err != nil {
		return specs.Mount{}, err
	}
	propagation, err := b.propagation(field, m, source, table)
	if err != nil {
		return specs.Mount{}, err
	}
	access := "rw"
	switch {
	case m.GetRecursiveReadOnly():
		access = "rro"
	case m.GetReadonly():
		access = "ro"
	}
	om := specs.Mount{
		Destination: filepath.Clean(m.GetContainerPath()),
		Type:        "bind",
		Source:      source,
		Options:     append([]string{"rbind", propagation, access}, m.GetMountOptions()...),
	}
	mapOwners(&om, m)
	if m.GetSelinuxRelabel() {
		b.out.Relabel = append(b.out.Relabel, source)
	}
	return om, nil
}

// propagation checks that the source's mount can propagate as requested, and
// makes the container's root take part in it.
func (b *builder) propagation(field string, m *runtimeapi.Mount, source string, table *mountTable) (string, error) {
	field += ".propagation"
	option := private
	switch m.GetPropagation() {
	case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		// A private copy of the mounts of other containers keeps them busy as
		// long as this container lives.
		holds := func(root string) bool { return isAtOrBelow(filepath.Clean(root), source) }
		if !m.GetRecursiveReadOnly() && slices.ContainsFunc(b.in.Host.StorageRoots, holds) {
			option = slave
		}
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		mi, err := table.at(source)
		if err != nil {
			return "", err
		}
		if !mi.shared && !mi.slave {
			return "", precondition(field, "%s is on the mount %s, which is neither shared nor slave", quote(source), quote(mi.point))
		}
		option = slave
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		mi, err := table.at(source)
		if err != nil {
			return "", err
		}
		if !mi.shared {
			return "", precondition(field, "%s is on the mount %s, which is not shared", quote(source), quote(mi.point))
		}
		option = shared
	}
	root := &b.spec.Linux.RootfsPropagation
	if option == shared || (option == slave && *root == "") {
		*root = option
	}
	return option, nil
}
