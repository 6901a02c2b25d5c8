package containers

import (
	"os"
	"strconv"
	"time"

	"github.com/spf13/pflag"
)

// Options are what `run` and `create` can be told about a container, in the
// words of docker's flags. The zero value is a container as its image has it.
type Options struct {
	Name                           string
	Entrypoint                     string
	EntrypointSet                  bool // Entrypoint was given, be it empty
	Env, EnvFiles                  []string
	Labels, LabelFiles             []string
	Annotations                    []string
	Volumes, Mounts, Tmpfs         []string
	VolumesFrom                    []string
	Publish, Expose                []string
	PublishAll                     bool
	Workdir, User                  string
	GroupAdd                       []string
	Networks, NetworkAliases       []string
	Hostname, Domainname           string
	AddHost                        []string
	DNS, DNSSearch, DNSOptions     []string
	CPUs                           string
	CPUShares, CPUPeriod, CPUQuota int64
	CpusetCPUs, CpusetMems         string
	Memory, MemorySwap             string
	MemoryReservation              string
	PidsLimit                      int64
	OOMScoreAdj                    int64
	ShmSize                        string
	Ulimits                        []string
	CapAdd, CapDrop                []string
	Privileged, ReadOnly, Init     bool
	SecurityOpt                    []string
	Sysctls, Devices               []string
	PID, IPC, UTS, Userns          string
	CgroupParent                   string
	Restart                        string
	Remove                         bool
	Runtime                        string
	StopSignal                     string
	StopTimeout                    *int64 // nil is the default, below 0 for ever
	Health                         HealthOptions
	Interactive, TTY               bool
	Attach                         []string
	Detach                         bool
	LogDriver                      string
	LogOptions                     []string
}

// HealthOptions are the flags of a health check.
type HealthOptions struct {
	Disable                                       bool
	Command                                       string
	Interval, Timeout, StartPeriod, StartInterval time.Duration
	Retries                                       uint32
}

// Machine is what of the client's machine flags can refer to. Tests replace it.
type Machine struct {
	LookupEnv func(name string) (string, bool)
	ReadFile  func(path string) ([]byte, error)
	// Exists is nil for a path that is there.
	Exists func(path string) error
	// Getwd is what relative paths of volumes are relative to.
	Getwd func() (string, error)
	// FreePort finds a port of the machine that nobody uses, from first to last,
	// which are 0 for any.
	FreePort func(protocol, ip string, first, last uint16) (uint16, error)
}

// ThisMachine is the machine the process runs on. Ports is kept open until the
// container has its own.
func ThisMachine(ports *Ports) Machine {
	exists := func(path string) error {
		_, err := os.Stat(path)
		return err
	}
	return Machine{LookupEnv: os.LookupEnv, ReadFile: os.ReadFile, Exists: exists, Getwd: os.Getwd, FreePort: ports.Free}
}

// AddFlags adds docker's flags for all options.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	o.addBasicFlags(f)
	o.addResourceFlags(f)
	o.addSecurityFlags(f)
	o.addNetworkFlags(f)
	o.addHealthFlags(f)
	f.SetNormalizeFunc(normalize)
}

// normalize knows the older names of docker's flags.
func normalize(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "net":
		name = "network"
	case "net-alias":
		name = "network-alias"
	case "dns-opt":
		name = "dns-option"
	}
	return pflag.NormalizedName(name)
}

func (o *Options) addBasicFlags(f *pflag.FlagSet) {
	f.StringVar(&o.Name, "name", "", "`name` of the container; a random one else")
	f.Var(&entrypointFlag{o}, "entrypoint", "`command` instead of the image's ENTRYPOINT; empty for none")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "set `NAME=VALUE`, or pass the client's NAME on")
	f.StringArrayVar(&o.EnvFiles, "env-file", nil, "read variables from a `file`")
	f.StringArrayVarP(&o.Labels, "label", "l", nil, "set a label `KEY=VALUE`")
	f.StringArrayVar(&o.LabelFiles, "label-file", nil, "read labels from a `file`")
	f.StringArrayVar(&o.Annotations, "annotation", nil, "set an annotation `KEY=VALUE` of the OCI runtime")
	f.StringArrayVarP(&o.Volumes, "volume", "v", nil, "mount `VOLUME_OR_PATH:PATH[:OPTIONS]`: ro, nocopy, rshared, rslave, z, Z")
	f.StringArrayVar(&o.Mounts, "mount", nil, "`mount` type=bind|volume|tmpfs|image,source=X,target=Y[,readonly]")
	f.StringArrayVar(&o.Tmpfs, "tmpfs", nil, "mount a tmpfs at `PATH[:OPTIONS]`, such as /tmp:size=64m")
	f.StringArrayVar(&o.VolumesFrom, "volumes-from", nil, "mount what another `container[:ro]` has mounted")
	f.StringVarP(&o.Workdir, "workdir", "w", "", "working `directory` inside")
	f.StringVarP(&o.User, "user", "u", "", "`USER[:GROUP]`, names or numbers")
	f.StringArrayVar(&o.GroupAdd, "group-add", nil, "another `group` of the user")
	f.BoolVarP(&o.Interactive, "interactive", "i", false, "keep stdin open")
	f.BoolVarP(&o.TTY, "tty", "t", false, "give the container a terminal")
	f.StringArrayVarP(&o.Attach, "attach", "a", nil, "attach to this `stream` only: STDIN, STDOUT or STDERR")
	f.BoolVar(&o.Remove, "rm", false, "remove the container, and its anonymous volumes, when it exits")
	f.StringVar(&o.Restart, "restart", "no", "`policy` when it exits: no, on-failure[:N], always, unless-stopped")
	f.StringVar(&o.StopSignal, "stop-signal", "", "`signal` that stop sends")
	f.Func("stop-timeout", "`seconds` that stop waits before it kills, -1 for ever (default 10)", func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		o.StopTimeout = &n
		return err
	})
	f.BoolVar(&o.Init, "init", false, "run an init that passes signals on and reaps processes")
	f.StringVar(&o.Runtime, "runtime", "", "OCI runtime `handler`, such as crun")
	f.StringVar(&o.LogDriver, "log-driver", "", "how logs are kept: json-file is as good as any, since there is one way")
	f.StringArrayVar(&o.LogOptions, "log-opt", nil, "`option` of the log: max-size=10m begins a new file at so much, max-file=3 keeps so many (default 1); without, it grows")
}

func (o *Options) addResourceFlags(f *pflag.FlagSet) {
	o.addLimitFlags(f)
	f.Int64Var(&o.PidsLimit, "pids-limit", 0, "how many `processes`; -1 for no limit")
	f.Int64Var(&o.OOMScoreAdj, "oom-score-adj", 0, "how much sooner (up to 1000) or later (-1000) it is killed when memory is out")
	f.StringVar(&o.ShmSize, "shm-size", "", "`size` of /dev/shm, such as 64m")
	f.StringArrayVar(&o.Ulimits, "ulimit", nil, "resource limit `NAME=SOFT[:HARD]`, such as nofile=1024:4096")
	f.StringVar(&o.CgroupParent, "cgroup-parent", "", "`cgroup` that holds the container's")
}

// addLimitFlags adds the flags of limits that update can change.
func (o *Options) addLimitFlags(f *pflag.FlagSet) {
	f.StringVar(&o.CPUs, "cpus", "", "how many CPUs, a `number` such as 1.5")
	f.Int64VarP(&o.CPUShares, "cpu-shares", "c", 0, "relative `weight` when CPUs are scarce (1024 is normal)")
	f.Int64Var(&o.CPUPeriod, "cpu-period", 0, "CFS period in `microseconds`")
	f.Int64Var(&o.CPUQuota, "cpu-quota", 0, "CFS quota in `microseconds` of each period")
	f.StringVar(&o.CpusetCPUs, "cpuset-cpus", "", "CPUs it may run on, a `list` such as 0-2,4")
	f.StringVar(&o.CpusetMems, "cpuset-mems", "", "memory nodes it may use, a `list` such as 0,1")
	f.StringVarP(&o.Memory, "memory", "m", "", "memory `limit`, such as 512m")
	f.StringVar(&o.MemorySwap, "memory-swap", "", "`limit` of memory and swap together; -1 for none")
	f.StringVar(&o.MemoryReservation, "memory-reservation", "", "memory it keeps under pressure, in `bytes` (cgroup v2)")
}

func (o *Options) addSecurityFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.Privileged, "privileged", false, "all capabilities and devices, nothing hidden")
	f.BoolVar(&o.ReadOnly, "read-only", false, "make the root file system read-only")
	f.StringArrayVar(&o.CapAdd, "cap-add", nil, "add a `capability`, such as NET_ADMIN, or ALL")
	f.StringArrayVar(&o.CapDrop, "cap-drop", nil, "drop a `capability`, or ALL")
	f.StringArrayVar(&o.SecurityOpt, "security-opt", nil, "`option`: no-new-privileges, seccomp=unconfined|FILE, apparmor=PROFILE, label=KEY:VALUE, systempaths=unconfined")
	f.StringArrayVar(&o.Sysctls, "sysctl", nil, "set a kernel parameter `NAME=VALUE` in the container's namespaces")
	f.StringArrayVar(&o.Devices, "device", nil, "add a device `PATH[:PATH_INSIDE][:rwm]`, or one of CDI, VENDOR/CLASS=NAME")
	f.StringVar(&o.PID, "pid", "", "process `namespace`: private or host")
	f.StringVar(&o.IPC, "ipc", "", "IPC `namespace`: private or host")
	f.StringVar(&o.UTS, "uts", "", "hostname's `namespace`: private, or host with --network host")
	f.StringVar(&o.Userns, "userns", "", "user `namespace`: host, auto, or CONTAINER:HOST:LENGTH of its ids")
}

func (o *Options) addNetworkFlags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.Networks, "network", nil, "`network`: pod, host, none, container:NAME, or a name whose members know one another")
	f.StringArrayVar(&o.NetworkAliases, "network-alias", nil, "another `name` it has for the members of its networks")
	f.StringArrayVarP(&o.Publish, "publish", "p", nil, "publish a port `[IP:][HOST_PORT:]PORT[/tcp|udp|sctp]`")
	f.BoolVarP(&o.PublishAll, "publish-all", "P", false, "publish all ports the image exposes, each as a free one")
	f.StringArrayVar(&o.Expose, "expose", nil, "say that it listens on a `port`")
	f.StringVarP(&o.Hostname, "hostname", "h", "", "`name` it has for itself")
	f.StringVar(&o.Domainname, "domainname", "", "`domain` of its hostname")
	f.StringArrayVar(&o.AddHost, "add-host", nil, "a line of /etc/hosts, `NAME:IP`; host-gateway is the machine's address")
	f.StringArrayVar(&o.DNS, "dns", nil, "`address` of a DNS server")
	f.StringArrayVar(&o.DNSSearch, "dns-search", nil, "`domain` to search names in")
	f.StringArrayVar(&o.DNSOptions, "dns-option", nil, "`option` of resolv.conf")
}

func (o *Options) addHealthFlags(f *pflag.FlagSet) {
	f.StringVar(&o.Health.Command, "health-cmd", "", "`command` that says whether it is healthy")
	f.DurationVar(&o.Health.Interval, "health-interval", 0, "`time` between two checks (default 30s)")
	f.DurationVar(&o.Health.Timeout, "health-timeout", 0, "`time` one check may take (default 30s)")
	f.DurationVar(&o.Health.StartPeriod, "health-start-period", 0, "`time` in which checks may fail")
	f.DurationVar(&o.Health.StartInterval, "health-start-interval", 0, "`time` between two checks in that time")
	f.Uint32Var(&o.Health.Retries, "health-retries", 0, "`failures` until it is unhealthy (default 3)")
	f.BoolVar(&o.Health.Disable, "no-healthcheck", false, "leave the image's check out")
}

// entrypointFlag tells --entrypoint "" from no --entrypoint.
type entrypointFlag struct{ o *Options }

func (e *entrypointFlag) String() string {
	if e.o == nil {
		return ""
	}
	return e.o.Entrypoint
}

func (e *entrypointFlag) Set(s string) error {
	e.o.Entrypoint, e.o.EntrypointSet = s, true
	return nil
}

func (e *entrypointFlag) Type() string { return "string" }
