package spec

import (
	"fmt"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// Range of cpu.cfs_period_us and least quota of the kernel.
	minPeriod, maxPeriod, minQuota = 1000, 1000000, 1000
	// maxCPU is beyond what any kernel is built for.
	maxCPU = 65535
	// maxUnified bounds the keys of unified, each of which is a file to write.
	maxUnified = 256
)

// validateResources takes a nil res for one that sets nothing.
func validateResources(field string, res *runtimeapi.LinuxContainerResources, v2 bool) error {
	if err := validateResourceSums(field, res); err != nil {
		return err
	}
	if q := res.GetCpuQuota(); q > 0 && q < minQuota {
		return invalid(field+".cpu_quota", "%d is less than %d", q, minQuota)
	}
	if p := res.GetCpuPeriod(); p != 0 && (p < minPeriod || p > maxPeriod) {
		return invalid(field+".cpu_period", "%d is not in %d..%d", p, minPeriod, maxPeriod)
	}
	memory, swap := res.GetMemoryLimitInBytes(), res.GetMemorySwapLimitInBytes()
	if memory > 0 && memory < MinMemory {
		return invalid(field+".memory_limit_in_bytes", "%d is less than %d", memory, MinMemory)
	}
	if swap > 0 && memory > swap {
		return invalid(field+".memory_swap_limit_in_bytes", "%d is less than memory_limit_in_bytes, which it includes", swap)
	}
	if a := res.GetOomScoreAdj(); a < -1000 || a > 1000 {
		return invalid(field+".oom_score_adj", "%d is not in -1000..1000", a)
	}
	if len(res.GetUnified()) > 0 && !v2 {
		return invalid(field+".unified", "needs cgroup v2")
	}
	return validateUnified(field+".unified", res.GetUnified())
}

// validateResourceSums checks what must hold for sums over containers as well:
// a sandbox's overhead may be less than any container's least limit.
func validateResourceSums(field string, res *runtimeapi.LinuxContainerResources) error {
	for _, f := range []struct {
		name       string
		value, min int64
	}{
		{"cpu_period", res.GetCpuPeriod(), 0},
		{"cpu_quota", res.GetCpuQuota(), -1},
		{"cpu_shares", res.GetCpuShares(), 0},
		{"memory_limit_in_bytes", res.GetMemoryLimitInBytes(), 0},
		{"memory_swap_limit_in_bytes", res.GetMemorySwapLimitInBytes(), -1},
	} {
		if f.value < f.min {
			return invalid(field+"."+f.name, "%d is negative", f.value)
		}
	}
	for _, s := range []struct{ name, value string }{
		{"cpuset_cpus", res.GetCpusetCpus()}, {"cpuset_mems", res.GetCpusetMems()},
	} {
		if !isCPUSet(s.value) {
			return invalid(field+"."+s.name, "%s is no list such as 0-3,5", quote(s.value))
		}
	}
	seen := map[string]bool{}
	for i, h := range res.GetHugepageLimits() {
		at := fmt.Sprintf("%s.hugepage_limits[%d].page_size", field, i)
		if !isPageSize(h.GetPageSize()) {
			return invalid(at, "%s is no size such as 2MB", quote(h.GetPageSize()))
		}
		if seen[h.GetPageSize()] {
			return invalid(at, "%s is limited twice", quote(h.GetPageSize()))
		}
		seen[h.GetPageSize()] = true
	}
	return nil
}

// isCPUSet accepts the kernel's list format; empty is unset.
func isCPUSet(s string) bool {
	if s == "" {
		return true
	}
	if len(s) > 4096 {
		return false
	}
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, ok := cpuNumber(from)
		b, ok2 := cpuNumber(to)
		if !ok || !ok2 || a > b {
			return false
		}
	}
	return true
}

func cpuNumber(s string) (int, bool) {
	if !isDecimal(s) {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n <= maxCPU
}

// isPageSize accepts the names of the hugetlb controller.
func isPageSize(s string) bool {
	for _, unit := range []string{"KB", "MB", "GB"} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			return isDecimal(n) && n != "0" && len(n) < 10
		}
	}
	return false
}

// validateUnified accepts files of controllers. Those of the cgroup itself,
// cgroup.procs or cgroup.kill, are how processes are moved and killed, and a
// slash leads to other cgroups.
func validateUnified(field string, unified map[string]string) error {
	if len(unified) > maxUnified {
		return invalid(field, "more than %d keys", maxUnified)
	}
	for k, v := range unified {
		controller, file, ok := strings.Cut(k, ".")
		allowed := func(r rune) bool {
			return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.'
		}
		bad := !ok || controller == "" || file == "" || controller == "cgroup" || len(k) > 255
		if bad || strings.TrimFunc(k, allowed) != "" || strings.Contains(k, "..") {
			return invalid(field, "%s is no file of a controller", quote(k))
		}
		if hasControl(v) || len(v) > 4096 {
			return invalid(field, "value of %s has control characters or is too long", quote(k))
		}
	}
	return nil
}
