package cri

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// host is what this machine and this process can do, asked once at start.
type host struct {
	spec spec.Host
	// oomScoreFloor is the lowest oom_score_adj this process may give away.
	oomScoreFloor int
	// recursiveReadOnly: the kernel can make mounts read-only with all below.
	recursiveReadOnly bool
}

// capSysResource is CAP_SYS_RESOURCE of capabilities(7).
const capSysResource = 24

func askHost(cgroups *linux.Cgroups, confinement Confinement) host {
	h := host{oomScoreFloor: -1000, recursiveReadOnly: linux.CanChangeTrees()}
	if !hasCapability(capSysResource) {
		// Without it a process cannot go below the value it was born with.
		h.oomScoreFloor = readInt("/proc/self/oom_score_adj")
	}
	h.spec = spec.Host{
		CgroupV2:       cgroups.Unified(),
		SwapAccounting: swapAccounting(cgroups),
		OOMScoreFloor:  h.oomScoreFloor,
	}
	confinement.describe(&h.spec)
	if cgroups.HasController("hugetlb") {
		h.spec.HugepageSizes = hugepageSizes()
	}
	if caps, err := spec.HostCapabilities(); err == nil {
		h.spec.Capabilities = caps
	}
	return h
}

// hasCapability looks into this process's effective set.
func hasCapability(number uint) bool {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("CapEff:")); ok {
			set, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 16, 64)
			return err == nil && set&(1<<number) != 0
		}
	}
	return false
}

func readInt(file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(string(bytes.TrimSpace(b)))
	return n
}

func swapAccounting(cgroups *linux.Cgroups) bool {
	if !cgroups.Unified() {
		_, err := os.Stat(filepath.Join(linux.CgroupRoot, "memory/memory.memsw.limit_in_bytes"))
		return err == nil
	}
	if _, err := os.Stat("/proc/swaps"); err != nil {
		return false
	}
	// The root cgroup has no memory.swap.max; any child of it tells.
	matches, _ := filepath.Glob(filepath.Join(linux.CgroupRoot, "*/memory.swap.max"))
	return len(matches) > 0
}

// hugepageSizes names the page sizes as the hugetlb controller does: 2MB, 1GB.
func hugepageSizes() []string {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	var sizes []string
	for _, e := range entries {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		switch {
		case kb >= 1<<20:
			sizes = append(sizes, strconv.FormatInt(kb>>20, 10)+"GB")
		case kb >= 1<<10:
			sizes = append(sizes, strconv.FormatInt(kb>>10, 10)+"MB")
		default:
			sizes = append(sizes, strconv.FormatInt(kb, 10)+"KB")
		}
	}
	return sizes
}
