// Package kubelet builds the requests a node's clients send: pods and containers
// in the shape kubelet 1.37 sends them, and in the sparse shape the CRI test
// suite sends them. The end-to-end tests, the benchmark and the demonstration
// share it.
package kubelet

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod says what a pod is to be; the zero value of a field is kubelet's default.
type Pod struct {
	Name, Namespace string
	UID             string // made up when empty
	Attempt         uint32
	LogDirectory    string
	// CgroupParent is the pod's parent; the pod's own cgroup is put below it,
	// as kubelet does. One that ends in ".slice" is systemd's.
	CgroupParent string
	HostNetwork  bool
	Ports        []*runtimeapi.PortMapping
}

// Config is the request kubelet sends for the pod: pid CONTAINER, network and
// ipc POD, the user namespace of the node, the default seccomp profile.
func (p Pod) Config() *runtimeapi.PodSandboxConfig {
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	if p.UID == "" {
		p.UID = NewUID()
	}
	hostname, network := p.Name, runtimeapi.NamespaceMode_POD
	if p.HostNetwork {
		hostname, network = "", runtimeapi.NamespaceMode_NODE
	}
	parent := ""
	if p.CgroupParent != "" {
		parent = podCgroup(p.CgroupParent, p.UID)
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{
			Name: p.Name, Namespace: p.Namespace, Uid: p.UID, Attempt: p.Attempt,
		},
		Hostname:     hostname,
		LogDirectory: p.LogDirectory,
		DnsConfig: &runtimeapi.DNSConfig{
			Servers:  []string{"10.96.0.10"},
			Searches: []string{p.Namespace + ".svc.cluster.local", "svc.cluster.local", "cluster.local"},
			Options:  []string{"ndots:5"},
		},
		PortMappings: p.Ports,
		Labels: map[string]string{
			"io.kubernetes.pod.name":      p.Name,
			"io.kubernetes.pod.namespace": p.Namespace,
			"io.kubernetes.pod.uid":       p.UID,
		},
		Annotations: map[string]string{"kubernetes.io/config.source": "api"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: parent,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(network),
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
			Resources: &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 2},
			Overhead:  &runtimeapi.LinuxContainerResources{},
		},
	}
}

// podCgroup names the cgroup of a pod: below a slice that is one of systemd's,
// in whose names "-" is what separates levels.
func podCgroup(parent, uid string) string {
	top, ok := strings.CutSuffix(parent, ".slice")
	if !ok {
		return parent + "/besteffort/pod" + uid
	}
	name := path.Base(top) + "-besteffort"
	return parent + "/" + name + ".slice/" + name + "-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice"
}

func namespaces(network runtimeapi.NamespaceMode) *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{
		Network: network, Pid: runtimeapi.NamespaceMode_CONTAINER, Ipc: runtimeapi.NamespaceMode_POD,
		UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE},
	}
}

// Container says what a container is to be.
type Container struct {
	Name    string
	Attempt uint32
	Image   string
	Command []string
	Args    []string
}

// Config is the request kubelet sends for the container in the pod.
func (c Container) Config(pod *runtimeapi.PodSandboxConfig) *runtimeapi.ContainerConfig {
	meta := pod.GetMetadata()
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: c.Attempt},
		Image:    &runtimeapi.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image},
		Command:  c.Command,
		Args:     c.Args,
		Envs: []*runtimeapi.KeyValue{
			{Key: "KUBERNETES_SERVICE_HOST", Value: []byte("10.96.0.1")},
			{Key: "KUBERNETES_SERVICE_PORT", Value: []byte("443")},
		},
		Labels: map[string]string{
			"io.kubernetes.container.name": c.Name,
			"io.kubernetes.pod.name":       meta.GetName(),
			"io.kubernetes.pod.namespace":  meta.GetNamespace(),
			"io.kubernetes.pod.uid":        meta.GetUid(),
		},
		Annotations: map[string]string{
			"io.kubernetes.container.restartCount":           fmt.Sprint(c.Attempt),
			"io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
		},
		LogPath: fmt.Sprintf("%s/%d.log", c.Name, c.Attempt),
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{
				CpuPeriod: 100000, CpuShares: 2, OomScoreAdj: 1000,
				HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}, {PageSize: "1GB"}},
			},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces(pod.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork()),
				RunAsUser:        nil,
				MaskedPaths:      MaskedPaths(),
				ReadonlyPaths:    ReadonlyPaths(),
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined},
			},
		},
	}
}

// MaskedPaths is what kubelet sends for ProcMount=Default.
func MaskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
		"/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

// ReadonlyPaths is what kubelet sends for ProcMount=Default.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// SparsePod is a pod as the CRI test suite sends it: no hostname, no DNS, no log
// directory, nil namespace options, attempt 2.
func SparsePod(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{
			Name: name, Namespace: "cri-test-namespace" + NewUID()[:8], Uid: "cri-test-uid" + NewUID()[:8], Attempt: 2,
		},
		Labels: map[string]string{"sandbox-name": name},
		Linux:  &runtimeapi.LinuxPodSandboxConfig{},
	}
}

// SparseContainer is a container as the CRI test suite sends it.
func SparseContainer(name, image string, command ...string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name, Attempt: 2},
		Image:    &runtimeapi.ImageSpec{Image: image},
		Command:  command,
		Linux:    &runtimeapi.LinuxContainerConfig{},
	}
}

// NewUID makes up a UID of a pod.
func NewUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
