package node

import "github.com/cri-node/cri-node/pkg/node/health"

// The form of docker's inspect. Its fields have docker's names, which templates
// of people rely on; Pod and ProcessArgs are ours.
type inspection struct {
	ID           string `json:"Id"`
	Name         string
	Created      string
	Path         string
	Args         []string
	State        stateInspection
	Image        string
	LogPath      string
	RestartCount int
	Driver       string
	Platform     string
	SizeRw       *int64 `json:",omitempty"`
	SizeRootFs   *int64 `json:",omitempty"`
	// ProcessArgs is the command line as it was executed, with an init before it.
	ProcessArgs     []string `json:",omitempty"`
	Pod             podInspection
	HostConfig      hostInspection
	Mounts          []mountInspection
	Config          configInspection
	NetworkSettings networkInspection
}

type podInspection struct {
	ID         string `json:"Id"`
	Name       string
	Namespace  string
	Kubernetes bool
}

type stateInspection struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
	Health     *health.State `json:",omitempty"`
}

type mountInspection struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
}

type configInspection struct {
	Hostname     string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Cmd          []string
	Healthcheck  *health.Config `json:",omitempty"`
	Image        string
	Volumes      map[string]struct{} `json:",omitempty"`
	WorkingDir   string
	Entrypoint   []string
	Labels       map[string]string
	StopSignal   string `json:",omitempty"`
	StopTimeout  *int64 `json:",omitempty"`
}

type hostInspection struct {
	Binds          []string
	LogConfig      logInspection
	NetworkMode    string
	PortBindings   map[string][]portInspection
	RestartPolicy  policyInspection
	AutoRemove     bool
	CapAdd         []string
	CapDrop        []string
	DNS            []string `json:"Dns"`
	DNSOptions     []string `json:"DnsOptions"`
	DNSSearch      []string `json:"DnsSearch"`
	ExtraHosts     []string
	GroupAdd       []string
	IpcMode        string
	PidMode        string
	Privileged     bool
	ReadonlyRootfs bool
	ShmSize        int64             `json:",omitempty"`
	Tmpfs          map[string]string `json:",omitempty"`
	Runtime        string
	Memory         int64
	MemorySwap     int64
	NanoCpus       int64
	CPUShares      int64 `json:"CpuShares"`
	CPUPeriod      int64 `json:"CpuPeriod"`
	CPUQuota       int64 `json:"CpuQuota"`
	CpusetCpus     string
	CpusetMems     string
	OomScoreAdj    int64
	Init           *bool `json:",omitempty"`
	Devices        []deviceInspection
	Ulimits        []ulimitInspection
}

type logInspection struct {
	Type   string
	Config map[string]string
}

type policyInspection struct {
	Name              string
	MaximumRetryCount int
}

type portInspection struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

type deviceInspection struct{ PathOnHost, PathInContainer, CgroupPermissions string }

type ulimitInspection struct {
	Name       string
	Hard, Soft int64
}

type networkInspection struct {
	IPAddress         string
	GlobalIPv6Address string
	Ports             map[string][]portInspection
	Networks          map[string]endpointInspection
}

type endpointInspection struct {
	IPAddress         string
	GlobalIPv6Address string
}
