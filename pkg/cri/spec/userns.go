package spec

import (
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// UserNS returns the ids that a sandbox's user namespace shall have; nil for
// the host's. The configuration has passed ValidateSandbox.
func UserNS(sandbox *runtimeapi.PodSandboxConfig) *linux.IDMappings {
	u := sandboxNamespaces(sandbox).GetUsernsOptions()
	if !ownUserns(u) {
		return nil
	}
	return &linux.IDMappings{UIDs: idMaps(u.GetUids()), GIDs: idMaps(u.GetGids())}
}

func ownUserns(u *runtimeapi.UserNamespace) bool {
	return u != nil && u.GetMode() == runtimeapi.NamespaceMode_POD
}

func idMaps(mappings []*runtimeapi.IDMapping) []linux.IDMap {
	maps := make([]linux.IDMap, len(mappings))
	for i, m := range mappings {
		maps[i] = linux.IDMap{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Length: m.GetLength()}
	}
	return maps
}

func ociMappings(maps []linux.IDMap) []specs.LinuxIDMapping {
	all := make([]specs.LinuxIDMapping, len(maps))
	for i, m := range maps {
		all[i] = specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Length}
	}
	return all
}

// sameUserns compares a container's options with its pod's.
func sameUserns(container, pod *runtimeapi.UserNamespace) bool {
	if !ownUserns(container) && !ownUserns(pod) {
		return true
	}
	return pod != nil && proto.Equal(container, pod)
}

// validateOwnedNamespaces refuses the namespaces of the host that a user
// namespace has no say in: nothing of them could be mounted. With the host's
// network that is sysfs alone, which there is a way around.
func validateOwnedNamespaces(field string, o *runtimeapi.NamespaceOption) error {
	if !ownUserns(o.GetUsernsOptions()) {
		return nil
	}
	if o.GetPid() == runtimeapi.NamespaceMode_NODE {
		return invalid(field+".pid", "NODE cannot be had with a user namespace")
	}
	if o.GetIpc() == runtimeapi.NamespaceMode_NODE {
		return invalid(field+".ipc", "NODE cannot be had with a user namespace")
	}
	return nil
}

// maxMountMappings is what the kernel takes for a namespace (UID_GID_MAP_MAX_EXTENTS).
const maxMountMappings = 340

// validateMountMappings checks the mappings of a mount by themselves.
func validateMountMappings(field string, m *runtimeapi.Mount) error {
	uids, gids := m.GetUidMappings(), m.GetGidMappings()
	if len(uids)+len(gids) == 0 {
		return nil
	}
	for _, l := range []struct {
		name     string
		mappings []*runtimeapi.IDMapping
	}{{".uidMappings", uids}, {".gidMappings", gids}} {
		if len(l.mappings) == 0 {
			return invalid(field+l.name, "is empty, and the other is not")
		}
		if len(l.mappings) > maxMountMappings {
			return invalid(field+l.name, "more than %d mappings", maxMountMappings)
		}
		for _, r := range l.mappings {
			end := uint64(max(r.GetHostId(), r.GetContainerId())) + uint64(r.GetLength())
			if r.GetLength() == 0 || end > math.MaxUint32 {
				return invalid(field+l.name, "%d ids from %d at %d of the host are no mapping", r.GetLength(), r.GetContainerId(), r.GetHostId())
			}
		}
	}
	return nil
}

// checkMountMappings looks whether the pod and the runtime can do what the
// mappings of a mount say.
func (b *builder) checkMountMappings(field string, m *runtimeapi.Mount) error {
	if len(m.GetUidMappings()) == 0 {
		return nil
	}
	if b.in.Pod.UserNS == nil {
		return invalid(field+".uidMappings", "needs a pod with a user namespace")
	}
	if !b.in.Runtime.IDMap {
		return precondition(field+".uidMappings", "the OCI runtime has no ID-mapped mounts")
	}
	return nil
}

// mapOwners adds the mappings of a request to its mount. What is mounted below
// the source keeps its owners: some file systems there cannot map any, and
// would fail the container.
func mapOwners(om *specs.Mount, m *runtimeapi.Mount) {
	if len(m.GetUidMappings()) == 0 {
		return
	}
	om.UIDMappings, om.GIDMappings = ociMappings(idMaps(m.GetUidMappings())), ociMappings(idMaps(m.GetGidMappings()))
	om.Options = append(om.Options, "idmap")
}

// checkMappedUser refuses a user that does not exist in the user namespace.
func (b *builder) checkMappedUser(field string, u User) error {
	ids := b.in.Pod.UserNS.Mappings()
	if _, ok := ids.HostUID(u.UID); !ok {
		return invalid(field, "user %d is not mapped in the pod's user namespace", u.UID)
	}
	for _, g := range append([]uint32{u.GID}, u.Groups...) {
		if _, ok := ids.HostGID(g); !ok {
			return invalid(field, "group %d is not mapped in the pod's user namespace", g)
		}
	}
	return nil
}

// runtimeDevices are what every container's /dev gets from the OCI runtime.
var runtimeDevices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// bindDevices turns device nodes into mounts of the host's where there is a
// user namespace, in which nobody can make a node. Owners stay the host's. It
// comes before the mounts are sorted.
func (b *builder) bindDevices() []specs.Mount {
	if b.in.Pod.UserNS == nil {
		return nil
	}
	var mounts []specs.Mount
	for _, d := range b.spec.Linux.Devices {
		if slices.Contains(runtimeDevices, d.Path) {
			continue
		}
		mounts = append(mounts, specs.Mount{
			Destination: d.Path, Type: "bind", Source: b.devices.sources[d.Path], Options: []string{"bind", private, "rw", "nosuid", "noexec"},
		})
	}
	b.spec.Linux.Devices = nil
	return mounts
}

// adaptMounts changes the default mounts that the root of a user namespace may
// not make.
func (b *builder) adaptMounts(mounts []specs.Mount) []specs.Mount {
	u := b.in.Pod.UserNS
	if u == nil {
		return mounts
	}
	for i, m := range mounts {
		switch {
		case m.Destination == "/dev/pts":
			if _, ok := u.HostGID(5); !ok { // tty
				mounts[i].Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "gid=5" })
			}
		case m.Destination == "/sys" && b.in.Pod.NetNS == "":
			// sysfs belongs to whom the network namespace does.
			access := "ro"
			if b.in.Runtime.RRO {
				access = "rro"
			}
			mounts[i] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", slave, "nosuid", "noexec", "nodev", access}}
		}
	}
	return mounts
}
