package compose

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// imageOf is the image of a service, which has a name of its own if it is built.
func imageOf(p *types.Project, s *types.ServiceConfig) string {
	return cmp.Or(s.Image, p.Name+"-"+s.Name)
}

// request is what the daemon is asked for to make one container of a service.
// peers finds the container of another service, whose namespaces it shares; edit,
// if given, changes the options.
func request(p *types.Project, s *types.ServiceConfig, m containers.Machine, peers func(service string) (string, error), edit func(*containers.Options)) (*nodev1.CreateRequest, error) {
	o, err := options(s)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", s.Name, err)
	}
	if mode, ok := strings.CutPrefix(s.NetworkMode, "service:"); ok {
		id, err := peers(mode)
		if err != nil {
			return nil, fmt.Errorf("service %s: network_mode: %w", s.Name, err)
		}
		o.Networks = []string{"container:" + id}
	}
	if edit != nil {
		edit(o)
	}
	r, err := o.Request(m, imageOf(p, s), s.Command)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", s.Name, err)
	}
	if s.Entrypoint != nil {
		r.Container.Command = s.Entrypoint
		r.EntrypointCleared = len(s.Entrypoint) == 0
	}
	if err := mounts(p, s, r); err != nil {
		return nil, fmt.Errorf("service %s: %w", s.Name, err)
	}
	networks(p, s, r)
	if err := health(s.HealthCheck, r); err != nil {
		return nil, fmt.Errorf("service %s: healthcheck: %w", s.Name, err)
	}
	return r, nil
}

// options are the service in the words of `run`.
func options(s *types.ServiceConfig) (*containers.Options, error) {
	if err := unsupported(s); err != nil {
		return nil, err
	}
	o := &containers.Options{
		Workdir: s.WorkingDir, User: s.User, GroupAdd: s.GroupAdd,
		Hostname: s.Hostname, Domainname: s.DomainName, AddHost: s.ExtraHosts.AsList(":"),
		DNS: s.DNS, DNSSearch: s.DNSSearch, DNSOptions: s.DNSOpts,
		Env: equals(s.Environment), Labels: pairs(s.Labels), Annotations: pairs(s.Annotations), Sysctls: pairs(s.Sysctls),
		CPUShares: s.CPUShares, CPUPeriod: s.CPUPeriod, CPUQuota: s.CPUQuota, CpusetCPUs: s.CPUSet,
		PidsLimit: s.PidsLimit, OOMScoreAdj: s.OomScoreAdj, CgroupParent: s.CgroupParent,
		CapAdd: s.CapAdd, CapDrop: s.CapDrop, Privileged: s.Privileged, ReadOnly: s.ReadOnly, SecurityOpt: s.SecurityOpt,
		Init: s.Init != nil && *s.Init, PID: s.Pid, IPC: s.Ipc, UTS: s.Uts, Userns: s.UserNSMode,
		Runtime: s.Runtime, StopSignal: s.StopSignal, Tmpfs: s.Tmpfs,
		Interactive: s.StdinOpen, TTY: s.Tty, Detach: true,
		CPUs: decimal(float64(s.CPUS)), Memory: size(s.MemLimit), MemoryReservation: size(s.MemReservation),
		MemorySwap: size(s.MemSwapLimit), ShmSize: size(s.ShmSize),
		Publish: published(s.Ports), Expose: s.Expose,
		Restart: restart(s),
	}
	if s.StopGracePeriod != nil {
		seconds := int64(math.Ceil(time.Duration(*s.StopGracePeriod).Seconds()))
		o.StopTimeout = &seconds
	}
	for name, u := range s.Ulimits {
		if u.Single != 0 {
			o.Ulimits = append(o.Ulimits, fmt.Sprintf("%s=%d", name, u.Single))
		} else {
			o.Ulimits = append(o.Ulimits, fmt.Sprintf("%s=%d:%d", name, u.Soft, u.Hard))
		}
	}
	slices.Sort(o.Ulimits)
	for _, d := range s.Devices {
		o.Devices = append(o.Devices, strings.TrimRight(d.Source+":"+d.Target+":"+d.Permissions, ":"))
	}
	if s.NetworkMode == "host" || s.NetworkMode == "none" || strings.HasPrefix(s.NetworkMode, "container:") {
		o.Networks = []string{s.NetworkMode}
	}
	if s.Logging != nil {
		o.LogDriver, o.LogOptions = s.Logging.Driver, pairs(s.Logging.Options)
	}
	deploy(s.Deploy, o)
	return o, nil
}

// deploy adds what deploy says for containers of one machine.
func deploy(d *types.DeployConfig, o *containers.Options) {
	if d == nil {
		return
	}
	if limits := d.Resources.Limits; limits != nil {
		if limits.NanoCPUs != 0 {
			o.CPUs = decimal(float64(limits.NanoCPUs))
		}
		if limits.MemoryBytes != 0 {
			o.Memory = size(limits.MemoryBytes)
		}
		if limits.Pids != 0 {
			o.PidsLimit = limits.Pids
		}
	}
	if r := d.Resources.Reservations; r != nil && r.MemoryBytes != 0 {
		o.MemoryReservation = size(r.MemoryBytes)
	}
}

// restart is the policy of a service; that of deploy has other words.
func restart(s *types.ServiceConfig) string {
	if s.Deploy == nil || s.Deploy.RestartPolicy == nil || s.Restart != "" {
		return s.Restart
	}
	policy := s.Deploy.RestartPolicy
	switch policy.Condition {
	case "none":
		return "no"
	case "on-failure":
		if policy.MaxAttempts != nil {
			return fmt.Sprintf("on-failure:%d", *policy.MaxAttempts)
		}
		return "on-failure"
	}
	return "always"
}

func published(ports []types.ServicePortConfig) []string {
	var all []string
	for _, p := range ports {
		port := strconv.FormatUint(uint64(p.Target), 10)
		if p.Published != "" {
			port = p.Published + ":" + port
		} else if p.HostIP != "" {
			port = ":" + port
		}
		if p.HostIP != "" {
			host := p.HostIP
			if strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			port = host + ":" + port
		}
		all = append(all, port+"/"+cmp.Or(p.Protocol, "tcp"))
	}
	return all
}

// networks makes the container known in the networks of its service, under the
// service's name.
func networks(p *types.Project, s *types.ServiceConfig, r *nodev1.CreateRequest) {
	if s.NetworkMode != "" && s.NetworkMode != "bridge" {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(s.Networks)) {
		member := &nodev1.NetworkMembership{
			Network: cmp.Or(p.Networks[key].Name, p.Name+"_"+key),
			Aliases: []string{s.Name},
		}
		if n := s.Networks[key]; n != nil {
			member.Aliases = append(member.Aliases, n.Aliases...)
		}
		r.Networks = append(r.Networks, member)
	}
}

func health(h *types.HealthCheckConfig, r *nodev1.CreateRequest) error {
	if h == nil {
		return nil
	}
	if h.Disable {
		r.Healthcheck = &nodev1.Healthcheck{Test: []string{"NONE"}}
		return nil
	}
	nanoseconds := func(d *types.Duration) int64 {
		if d == nil {
			return 0
		}
		return int64(time.Duration(*d))
	}
	r.Healthcheck = &nodev1.Healthcheck{
		Test: h.Test, Interval: nanoseconds(h.Interval), Timeout: nanoseconds(h.Timeout),
		StartPeriod: nanoseconds(h.StartPeriod), StartInterval: nanoseconds(h.StartInterval),
	}
	if h.Retries != nil {
		if *h.Retries > 1<<31 {
			return fmt.Errorf("retries: %d is too many", *h.Retries)
		}
		r.Healthcheck.Retries = uint32(*h.Retries)
	}
	return nil
}

// equals are variables as `-e` takes them; one without a value is left out, as it
// has none in the environment either.
func equals(m types.MappingWithEquals) []string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if m[key] != nil {
			all = append(all, key+"="+*m[key])
		}
	}
	return all
}

func pairs[M ~map[string]string](m M) []string {
	all := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		all = append(all, key+"="+m[key])
	}
	return all
}

// size and decimal are numbers as flags take them; nothing for none.
func size(n types.UnitBytes) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(int64(n), 10)
}

func decimal(n float64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatFloat(n, 'f', -1, 32)
}
