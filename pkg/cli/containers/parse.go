package containers

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// ParseBytes reads a size such as 512m: powers of 1024, with or without a b or
// ib at the end.
func ParseBytes(s string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(strings.TrimSpace(s)), "bikmgtp ")
	unit := strings.TrimSpace(strings.ToLower(strings.TrimSpace(s))[len(digits):])
	shifts := map[string]float64{
		"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20, "g": 30, "gb": 30, "gib": 30,
		"t": 40, "tb": 40, "tib": 40, "p": 50, "pb": 50, "pib": 50,
	}
	shift, known := shifts[unit]
	value, err := strconv.ParseFloat(digits, 64)
	if err != nil || !known || value < 0 || math.IsNaN(value) {
		return 0, fmt.Errorf("invalid size: %q: it is a number with b, k, m or g, such as 512m", s)
	}
	bytes := value * math.Exp2(shift)
	if bytes >= math.MaxInt64 {
		return 0, fmt.Errorf("invalid size: %q is too large", s)
	}
	return int64(bytes), nil
}

// ParseCPUs reads a number of CPUs such as 1.5 into a quota of the period
// CPUPeriod.
func ParseCPUs(s string) (quota int64, err error) {
	value, err := strconv.ParseFloat(s, 64)
	if err != nil || value < 0 || value > 1<<20 || math.IsNaN(value) {
		return 0, fmt.Errorf("invalid --cpus %q: it is a number such as 1.5", s)
	}
	quota = int64(math.Round(value * CPUPeriod))
	if value > 0 && quota < 1000 {
		return 0, fmt.Errorf("invalid --cpus %q: the least is 0.01", s)
	}
	return quota, nil
}

// CPUPeriod is the CFS period that quotas of --cpus are of, in microseconds.
const CPUPeriod = 100_000

// ParseRestart reads a restart policy such as on-failure:3.
func ParseRestart(s string) (*nodev1.RestartPolicy, error) {
	name, count, counted := strings.Cut(s, ":")
	switch name {
	case "", "no":
		name = "no"
	case "on-failure", "always", "unless-stopped":
	default:
		return nil, fmt.Errorf("invalid restart policy: %q: it can be no, on-failure[:N], always or unless-stopped", s)
	}
	policy := &nodev1.RestartPolicy{Name: name}
	if !counted {
		return policy, nil
	}
	if name != "on-failure" {
		return nil, errors.New("invalid restart policy: maximum retry count can only be used with 'on-failure'")
	}
	n, err := strconv.ParseUint(count, 10, 31)
	if err != nil {
		return nil, errors.New("invalid restart policy: maximum retry count must be a number, not negative")
	}
	policy.Maximum = uint32(n)
	return policy, nil
}

// ulimitNames are those of setrlimit(2), in lower case.
func ulimitNames() string {
	return " core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack "
}

// ParseUlimit reads NAME=SOFT[:HARD]; -1 is no limit.
func ParseUlimit(s string) (*nodev1.Ulimit, error) {
	name, values, ok := strings.Cut(s, "=")
	if !ok || !strings.Contains(ulimitNames(), " "+name+" ") || name == "" {
		return nil, fmt.Errorf("invalid ulimit %q: it is NAME=SOFT[:HARD], with a name of%s", s, strings.TrimRight(ulimitNames(), " "))
	}
	soft, hard, two := strings.Cut(values, ":")
	if !two {
		hard = soft
	}
	u := &nodev1.Ulimit{Name: name}
	var err, hardErr error
	u.Soft, err = strconv.ParseInt(soft, 10, 64)
	u.Hard, hardErr = strconv.ParseInt(hard, 10, 64)
	if err != nil || hardErr != nil || u.Soft < -1 || u.Hard < -1 {
		return nil, fmt.Errorf("invalid ulimit %q: limits are numbers, -1 is none", s)
	}
	if u.Hard != -1 && (u.Soft > u.Hard || u.Soft == -1) {
		return nil, fmt.Errorf("invalid ulimit %q: the soft limit is above the hard one", s)
	}
	return u, nil
}

// ParseExtraHost reads NAME:IP or NAME=IP, where the IP may be an IPv6 one, in
// brackets or not, or host-gateway. The answer has the form NAME:IP.
func ParseExtraHost(s string) (string, error) {
	name, ip, ok := strings.Cut(s, "=")
	if !ok {
		name, ip, ok = strings.Cut(s, ":")
	}
	ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
	if !ok || name == "" || strings.ContainsAny(name, " \t") {
		return "", fmt.Errorf("invalid --add-host %q: it is NAME:IP", s)
	}
	if ip != "host-gateway" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return "", fmt.Errorf("invalid --add-host %q: %q is no address", s, ip)
		}
	}
	return name + ":" + ip, nil
}

// ParseDevice reads PATH[:PATH_INSIDE][:PERMISSIONS].
func ParseDevice(s string) (*runtimeapi.Device, error) {
	parts := strings.Split(s, ":")
	d := &runtimeapi.Device{HostPath: parts[0], ContainerPath: parts[0], Permissions: "rwm"}
	permissions := func(p string) bool { return p != "" && strings.Trim(p, "rwm") == "" }
	switch {
	case len(parts) == 2 && permissions(parts[1]):
		d.Permissions = parts[1]
	case len(parts) == 2:
		d.ContainerPath = parts[1]
	case len(parts) == 3:
		d.ContainerPath, d.Permissions = parts[1], parts[2]
	}
	if len(parts) > 3 || !strings.HasPrefix(d.HostPath, "/") || !strings.HasPrefix(d.ContainerPath, "/") {
		return nil, fmt.Errorf("invalid device %q: it is PATH[:PATH_INSIDE][:rwm], with absolute paths", s)
	}
	if !permissions(d.Permissions) {
		return nil, fmt.Errorf("invalid device %q: invalid mode %q: it is of r, w and m", s, d.Permissions)
	}
	return d, nil
}

// isCDI reports whether a device is named as CDI does: vendor.com/class=name.
func isCDI(s string) bool {
	kind, name, ok := strings.Cut(s, "=")
	vendor, class, slash := strings.Cut(kind, "/")
	return ok && slash && name != "" && vendor != "" && class != "" && !strings.HasPrefix(s, "/")
}
