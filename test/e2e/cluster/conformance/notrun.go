package conformance

import (
	"os"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/node"
)

// Reason says why some specs are not run.
type Reason struct {
	// Specs is a regular expression.
	Specs string
	Why   string
	// Where says on which machines it is so; nil is everywhere.
	Where func() bool
}

func (r Reason) applies() bool { return r.Where == nil || r.Where() }

// NotRun are the specs of both suites that are left out.
var NotRun = []Reason{
	{`Conformance Tests should have at least two untainted nodes`, "There is one.", nil},
	{`Aggregator Should be able to support the 1.17 Sample API Server`, "The image sample-apiserver is of another repository.", nil},
	{`Kubelet Cgroup Manager`, "They look for kubelet's cgroups at the root of the tree, which is the machine's.", nil},
	{`ContainerMetrics .*/metrics/cadvisor`, "kubelet counts only the containers of containerd and CRI-O by itself; it asks others with PodAndContainerStatsFromCRI.", nil},
	{`Summary API when querying /stats/summary should report resource usage`, "It wants the pressure of each cgroup and system containers, which kubelet has with cgroup v2 and systemd.", nil},
	{`volume failing to unmount`, "It wants a server of NFS, which is the kernel's.", nil},
	{`container runtime is temporarily down`, "It asks systemd which service the runtime is.", func() bool { return !node.Systemd() }},
	{`ImageGarbageCollect`, "At its end it pulls every image of the suite, one by its digest. TestImageMaximumAge and TestImageThreshold are its counterparts.", nil},
	{`with a critical pod - should avoid swap`, "It reads the files of cgroup v2.", withoutCgroup2},
	{`PrivilegedPod should enable privileged commands`, "It makes a link of the kind dummy, which is a module of the kernel.", withoutModules},
	{`Resiz(e|ing).*[Gg]uaranteed`, "They want the score -997, which takes the capability SYS_RESOURCE.", withoutSysResource},
}

// withoutModules reports a kernel that loads none.
func withoutModules() bool {
	_, err := os.Stat("/proc/modules")
	return err != nil
}

// withoutCgroup2 reports a machine whose containers have version 1 of cgroups.
func withoutCgroup2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err != nil
}

// withoutSysResource reports a machine on which nobody may lower the score by which
// the kernel picks whom to kill.
func withoutSysResource() bool {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	found := regexp.MustCompile(`CapEff:\s*([0-9a-f]+)`).FindSubmatch(data)
	if found == nil {
		return false
	}
	caps, err := strconv.ParseUint(string(found[1]), 16, 64)
	return err == nil && caps&(1<<unix.CAP_SYS_RESOURCE) == 0
}
