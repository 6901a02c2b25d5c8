package sandbox

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox/network"
)

// Key is what kubelet means by one attempt at one pod. Two sandboxes of one
// key are never Creating or Ready at the same time.
type Key struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Attempt   uint32 `json:"attempt"`
}

// Params is what a sandbox is made from. It is stored in the record.
type Params struct {
	Key
	// Labels and Annotations are kept and handed back, never interpreted.
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	// Hostname is the name in the UTS namespace, at most 64 bytes. Empty
	// means the pod's name made fit, and with HostNetwork, where the UTS
	// namespace is the host's, it is the host's name in any case.
	Hostname string `json:"hostname,omitempty"`
	// DNS is the content of resolv.conf; nil or empty means the host's.
	DNS *DNS `json:"dns,omitempty"`
	// PortMappings with HostPort 0 ask for nothing, nor does any of them
	// with HostNetwork.
	PortMappings []network.PortMapping `json:"portMappings,omitempty"`

	// HostNetwork shares the network and UTS namespaces of the host, HostIPC
	// its IPC namespace and /dev/shm. HostPID and SharedPID are only kept.
	HostNetwork bool `json:"hostNetwork,omitempty"`
	HostIPC     bool `json:"hostIPC,omitempty"`
	HostPID     bool `json:"hostPID,omitempty"`
	SharedPID   bool `json:"sharedPID,omitempty"`
	// NoNetwork leaves the pod's network namespace with nothing but lo.
	NoNetwork bool `json:"noNetwork,omitempty"`
	// ExtraHosts are more lines of the hosts file, "ADDRESS NAME...". The address
	// HostGateway stands for that of the machine as the pod sees it.
	ExtraHosts []string `json:"extraHosts,omitempty"`
	// UserNS gives the pod a user namespace, which owns its other namespaces
	// and whose root owns its files. nil is the host's.
	UserNS *UserNS `json:"userNS,omitempty"`

	// Sysctls are set in the pod's namespaces: net.*, kernel.shm*,
	// kernel.msg*, kernel.sem and fs.mqueue.*, written with dots or slashes.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// ShmSize is the size of /dev/shm in bytes; 0 means 64 MiB, and the
	// smallest is 1 MiB.
	ShmSize int64 `json:"shmSize,omitempty"`

	// Owner is who the pod belongs to where that is no client of the CRI; see
	// package node.
	Owner string `json:"owner,omitempty"`
	// CgroupParent, RuntimeHandler, LogDirectory and Request are only kept.
	// Request is opaque here: the caller's own encoding of what it was asked.
	CgroupParent   string `json:"cgroupParent,omitempty"`
	RuntimeHandler string `json:"runtimeHandler,omitempty"`
	LogDirectory   string `json:"logDirectory,omitempty"`
	Request        []byte `json:"request,omitempty"`
}

// HostGateway in the place of an address in a line of a hosts file stands for
// the address under which the pod reaches the machine.
const HostGateway = "host-gateway"

// UserNS says which ids of the host a pod's user namespace has.
type UserNS = linux.IDMappings

// IDMap is a run of ids.
type IDMap = linux.IDMap

// DNS becomes the lines of a resolv.conf(5).
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

func (d *DNS) empty() bool {
	return d == nil || len(d.Servers)+len(d.Searches)+len(d.Options) == 0
}

// clone keeps later changes by the caller out of the snapshots.
func (p Params) clone() Params {
	p.Labels = maps.Clone(p.Labels)
	p.Annotations = maps.Clone(p.Annotations)
	p.Sysctls = maps.Clone(p.Sysctls)
	p.PortMappings = slices.Clone(p.PortMappings)
	p.ExtraHosts = slices.Clone(p.ExtraHosts)
	p.Request = slices.Clone(p.Request)
	if p.UserNS != nil {
		p.UserNS = &UserNS{UIDs: slices.Clone(p.UserNS.UIDs), GIDs: slices.Clone(p.UserNS.GIDs)}
	}
	if p.DNS != nil {
		p.DNS = &DNS{
			Servers:  slices.Clone(p.DNS.Servers),
			Searches: slices.Clone(p.DNS.Searches),
			Options:  slices.Clone(p.DNS.Options),
		}
	}
	return p
}

// State is where a sandbox is in its life; doc.go draws it.
type State string

// The states of a sandbox.
const (
	Creating State = "Creating"
	Ready    State = "Ready"
	NotReady State = "NotReady"
)

// Status is an immutable snapshot of a sandbox; readers must not change what
// its maps and slices hold.
type Status struct {
	ID        string
	Params    Params
	CreatedAt time.Time
	State     State
	// Reason says in a word why a sandbox that nobody stopped is NotReady.
	Reason string
	// IPs are the pod's addresses in the order CNI gave them, while it has
	// them. A pod in the host's network has none.
	IPs []netip.Addr
	// NetworkResult is the CNI result, while the pod is attached.
	NetworkResult json.RawMessage
	// Hosts are the lines that SetHosts has set.
	Hosts      []string
	Namespaces Namespaces
	Files      Files
	// Broken says why the record could not be believed. Params is empty then.
	Broken string
	// Debt says what of the network could not be released yet.
	Debt string
}

// The reasons of a NotReady sandbox that nobody asked to stop.
const (
	ReasonReboot         = "NodeReboot"
	ReasonNamespacesGone = "NamespacesGone"
	ReasonBrokenRecord   = "BrokenRecord"
	ReasonCreateFailed   = "CreateFailed"
)

// Namespaces are the paths of the pod's namespaces, "" for the host's.
type Namespaces struct{ User, Net, IPC, UTS string }

// Files are host paths to mount in each container at the place their names
// say, until the sandbox is stopped. Shm is a directory on a tmpfs mounted
// nosuid, nodev and noexec, and the host's /dev/shm with HostIPC.
type Files struct{ ResolvConf, Hosts, Hostname, Shm string }
