package spec

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Input is all that decides how a container runs. Container reads it and
// retains nothing of it.
type Input struct {
	// ID and SandboxID are the ids of the container and of its pod.
	ID, SandboxID string
	// Config is the container as requested.
	Config *runtimeapi.ContainerConfig
	// Sandbox is the configuration the sandbox was made from, which is not
	// necessarily what the request repeats.
	Sandbox *runtimeapi.PodSandboxConfig
	// Image is the image configuration; nil is an empty one.
	Image *ocispec.Image
	// ImageID is told to the runtime in an annotation only.
	ImageID string
	// Rootfs is the mounted, still writable root file system. It becomes
	// Spec.Root.Path.
	Rootfs string
	// VolumesDir is the private directory below which volumes that the image
	// declares live, one directory for each. Empty ignores such volumes.
	VolumesDir string
	// ImageMounts are the host paths of what the request's mounts of images
	// show, mounted and resolved, by the index of the mount.
	ImageMounts map[int]string

	Extras   Extras
	Pod      Pod
	Host     Host
	Runtime  Runtime
	Defaults Defaults
}

// Pod is what the pod's sandbox has for its containers.
type Pod struct {
	// NetNS, IPCNS and UTSNS are paths of namespaces; empty is the host's.
	NetNS, IPCNS, UTSNS string
	// UserNS is the pod's user namespace, which owns all of its namespaces;
	// nil is the host's.
	UserNS *linux.UserNS
	// PIDNS is the path of the PID namespace that the pod shares, for the
	// mode POD. It is not looked at in other modes.
	PIDNS string
	// TargetPIDNS is the path of the PID namespace of the container that
	// namespace_options.target_id names, for the mode TARGET.
	TargetPIDNS string
	// ResolvConf, Hosts, Hostname and Shm are host paths to mount at
	// /etc/resolv.conf, /etc/hosts, /etc/hostname and /dev/shm. An empty path
	// is not mounted; an empty Shm becomes the host's with the host's IPC
	// namespace and a tmpfs of the container's own otherwise.
	ResolvConf, Hosts, Hostname, Shm string
	// HostnameValue becomes the environment variable HOSTNAME. Empty sets none.
	HostnameValue string
	// CgroupsPath is the final linux.cgroupsPath of the OCI spec.
	CgroupsPath string
	// ProcessLabel and MountLabel are SELinux labels of the container, whose
	// options they already follow; empty where there is no SELinux.
	ProcessLabel, MountLabel string
	// Privileged is whether the sandbox was made for privileged containers.
	Privileged bool
}

// Host is what the machine has. The zero Host has nothing that is optional.
type Host struct {
	// CgroupV2 is whether the machine has the unified hierarchy alone.
	CgroupV2 bool
	// HugepageSizes are the sizes, such as "2MB", that the hugetlb controller
	// can limit; none where there is no such controller.
	HugepageSizes []string
	// SwapAccounting is whether memory+swap can be limited.
	SwapAccounting bool
	// OOMScoreFloor is the lowest oom_score_adj this process may set; lower
	// requests are raised to it. The zero value is a floor of 0: set it.
	OOMScoreFloor int
	// AppArmor is whether the kernel enforces AppArmor, and AppArmorProfile the
	// profile that RuntimeDefault means; empty is one that could not be loaded.
	// AppArmorLoaded looks whether a profile is loaded.
	AppArmor        bool
	AppArmorProfile string
	AppArmorLoaded  func(name string) (bool, error)
	// Capabilities are those that can be given away, "CAP_CHOWN" and so on.
	// Nil means the bounding set of this process.
	Capabilities []string
	// MaxRlimits caps hard limits by name, "RLIMIT_NOFILE"; absent is uncapped.
	MaxRlimits map[string]uint64
	// StorageRoots are directories with mounts of containers in them. A mount
	// whose source holds one is not made private, or the mounts of other
	// containers would stay busy as long as this one lives.
	StorageRoots []string
	// DevDir is where the machine's devices are. Empty means /dev.
	DevDir string
}

// Runtime is what the chosen OCI runtime can do, as its "features" say.
type Runtime struct {
	// OCIVersion is written as the version of the spec. Empty means 1.0.2.
	OCIVersion string
	// RRO and IDMap are whether recursive read-only and ID-mapped mounts work.
	RRO, IDMap bool
	// ReadsUserNS: it finds out itself what is mapped in a user namespace that
	// a container joins, and does not want to be told.
	ReadsUserNS bool
	// MountOptions are the options it knows; nil means that it did not say.
	MountOptions []string
	// MinMemory is the least memory its init survives in. Zero means
	// MinMemory of this package.
	MinMemory int64
}

// Defaults are the operator's choices for what a request leaves open.
type Defaults struct {
	// Capabilities of an unprivileged container. Nil means
	// DefaultCapabilities.
	Capabilities []string
	// Env has NAME=value pairs, stronger than the image's and weaker than the
	// request's.
	Env []string
	// PidsLimit is the pids limit of a container; 0 and less set none.
	PidsLimit int64
	// SeccompRuntimeDefault confines a container that asks for no profile with
	// the default one. CRI says that such a container is unconfined.
	SeccompRuntimeDefault bool
	// Rlimits of a container; none by default, which leaves the monitor's.
	Rlimits []specs.POSIXRlimit
	// DeviceOwnership gives a container's devices to its run_as_user and
	// run_as_group.
	DeviceOwnership bool
	// PrivilegedWithoutHostDevices keeps the machine's devices from privileged
	// containers.
	PrivilegedWithoutHostDevices bool
}

// Output is a container as it shall run, and what its status says of it.
type Output struct {
	// Spec is the content of config.json.
	Spec *specs.Spec
	// User is who the first process runs as.
	User User
	// StopSignal is what asks the container to stop.
	StopSignal Signal
	// LogPath is the absolute path of the log; empty for no log.
	LogPath string
	// Resources are the limits as they are applied, for ContainerStatus.
	Resources *runtimeapi.LinuxContainerResources
	// Volumes are what the image declares and the spec mounts. Their Dirs do
	// not exist until PrepareVolumes made them.
	Volumes []Volume
	// Relabel are the sources of mounts that shall get MountLabel.
	Relabel []string
	// Warnings say what was asked for but is not to be had on this machine,
	// and was left out instead of failing the container.
	Warnings []string
}

// DefaultCapabilities are those of an unprivileged container, CRI-O's nine:
// without NET_RAW, MKNOD and SYS_CHROOT, which few programs need and many
// attacks did.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
	}
}

// defaultOCIVersion is what every runtime in use understands.
const defaultOCIVersion = "1.0.2"
