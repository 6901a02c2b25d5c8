package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/health"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Inspect describes a container in the form that docker has.
func (s *containers) Inspect(_ context.Context, r *nodev1.InspectRequest) (*nodev1.InspectResponse, error) {
	t, err := s.find(r.GetContainer())
	if err != nil {
		return nil, err
	}
	document, err := s.inspect(t, r.GetSize())
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("encode container: %w", err)
	}
	return &nodev1.InspectResponse{Json: text}, nil
}

func (s *Server) inspect(t target, size bool) (*inspection, error) {
	st := t.c.Status()
	config, err := s.config.CRI.ContainerConfig(st.ID)
	if err != nil {
		return nil, err
	}
	pod, err := s.config.CRI.PodConfig(st.Group)
	if err != nil {
		pod = &runtimeapi.PodSandboxConfig{} // its record is broken
	}
	m := s.describe(t, size)
	d := &inspection{
		ID: st.ID, Name: "/" + m.GetName(), Created: rfc3339(st.CreatedAt), Image: st.ImageID, LogPath: st.LogPath,
		RestartCount: int(m.GetRestarts()), Args: []string{}, Platform: "linux", Driver: "overlay",
		Pod:             podInspection{ID: st.Group, Name: m.GetPod(), Namespace: m.GetNamespace(), Kubernetes: m.GetKubernetes()},
		State:           inspectState(t, st, m),
		Mounts:          inspectMounts(m, s.volumePath),
		Config:          s.inspectConfig(t, st, config, pod, m),
		HostConfig:      inspectHost(t, st, config, pod, m),
		NetworkSettings: inspectNetwork(m),
	}
	if m.GetKubernetes() {
		d.Name = "/" + s.title(t)
	}
	if len(m.GetCommand()) > 0 {
		d.Path, d.Args = m.GetCommand()[0], m.GetCommand()[1:]
	}
	if process, err := t.c.InitProcess(); err == nil {
		// What it was made with, of image and request together.
		d.Config.Env, d.Config.WorkingDir = process.Env, process.Cwd
		if len(process.Args) > 0 {
			d.ProcessArgs = process.Args
		}
	}
	if size {
		d.SizeRw, d.SizeRootFs = &m.SizeRw, &m.SizeRootfs
	}
	return d, nil
}

func (s *Server) volumePath(name string) string { return s.volumes.Path(name) }

// rfc3339 is how docker writes times; the year 1 is never.
func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func inspectState(t target, st *runtime.Status, m *nodev1.Container) stateInspection {
	out := stateInspection{
		Status: m.GetState(), Pid: int(m.GetPid()), ExitCode: st.ExitCode,
		Running: st.State == runtime.Running, Paused: st.Paused, Restarting: m.GetState() == "restarting", Dead: m.GetState() == "dead",
		OOMKilled: st.Reason == runtime.ReasonOOMKilled,
		StartedAt: rfc3339(st.StartedAt), FinishedAt: rfc3339(st.FinishedAt),
	}
	if st.Reason == runtime.ReasonStartError || st.Message != "" {
		out.Error = st.Message
	}
	if t.e != nil && t.e.record().Health != nil {
		h := t.e.healthState()
		if h.Status == health.None {
			h.Status = health.Starting
		}
		if h.Log == nil {
			h.Log = []health.Result{}
		}
		out.Health = &h
	}
	return out
}

func inspectMounts(m *nodev1.Container, volumePath func(string) string) []mountInspection {
	list := []mountInspection{}
	for _, x := range m.GetMounts() {
		i := mountInspection{Type: x.GetType(), Source: x.GetSource(), Destination: x.GetDestination(), RW: !x.GetReadonly(), Mode: "rw"}
		if x.GetReadonly() {
			i.Mode = "ro"
		}
		if x.GetType() == "volume" {
			i.Name, i.Source, i.Driver = x.GetSource(), volumePath(x.GetSource()), "local"
		}
		list = append(list, i)
	}
	return list
}

func (s *Server) inspectConfig(t target, st *runtime.Status, config *runtimeapi.ContainerConfig, pod *runtimeapi.PodSandboxConfig, m *nodev1.Container) configInspection {
	out := configInspection{
		Hostname: pod.GetHostname(), Tty: config.GetTty(), OpenStdin: config.GetStdin(), StdinOnce: config.GetStdinOnce(),
		AttachStdin: config.GetStdin(), AttachStdout: true, AttachStderr: true,
		Image: m.GetImage(), WorkingDir: config.GetWorkingDir(), Labels: shown(st.Labels), StopSignal: st.StopSignal,
		Env: []string{}, Cmd: config.GetArgs(), Entrypoint: config.GetCommand(),
		ExposedPorts: map[string]struct{}{}, Volumes: map[string]struct{}{},
	}
	cleared, user := false, askedUser(config.GetLinux().GetSecurityContext())
	if t.e != nil {
		r := t.e.record()
		request := r.request()
		user = cmp.Or(request.GetUser(), user)
		cleared = request.GetEntrypointCleared()
		out.Healthcheck, out.StopTimeout = r.Health, r.StopTimeout
		for _, v := range r.Volumes {
			out.Volumes[v.Path] = struct{}{}
		}
	}
	if img, err := s.config.Images.Resolve(st.ImageID); err == nil {
		c := img.Config.Config
		for port := range c.ExposedPorts {
			out.ExposedPorts[port] = struct{}{}
		}
		for path := range c.Volumes {
			out.Volumes[path] = struct{}{}
		}
		switch {
		case len(config.GetCommand()) > 0:
		case cleared && len(config.GetArgs()) == 0:
			out.Cmd = c.Cmd
		case cleared:
		case len(config.GetArgs()) > 0:
			out.Entrypoint = c.Entrypoint
		default:
			out.Entrypoint, out.Cmd = c.Entrypoint, c.Cmd
		}
		out.User = c.User
	}
	for _, p := range m.GetPorts() {
		out.ExposedPorts[portName(p)] = struct{}{}
	}
	if user != "" {
		out.User = user
	}
	return out
}

// askedUser is who a request wants to be.
func askedUser(c *runtimeapi.LinuxContainerSecurityContext) string {
	user := c.GetRunAsUsername()
	if c.GetRunAsUser() != nil {
		user = strconv.FormatInt(c.GetRunAsUser().GetValue(), 10)
	}
	if c.GetRunAsGroup() != nil {
		user += ":" + strconv.FormatInt(c.GetRunAsGroup().GetValue(), 10)
	}
	return user
}

// inspectLog has docker's names for the bounds of a log.
func inspectLog(t target) logInspection {
	l := logInspection{Type: "json-file", Config: map[string]string{}}
	if t.e == nil {
		return l
	}
	if r := t.e.record(); r.LogMaxSize > 0 {
		l.Config["max-size"] = strconv.FormatInt(r.LogMaxSize, 10)
		l.Config["max-file"] = strconv.FormatUint(uint64(max(r.LogMaxFiles, 1)), 10)
	}
	return l
}

// nanosOfCPU is one processor, as docker counts.
const nanosOfCPU = 1_000_000_000

func inspectHost(t target, st *runtime.Status, config *runtimeapi.ContainerConfig, pod *runtimeapi.PodSandboxConfig, m *nodev1.Container) hostInspection {
	security := config.GetLinux().GetSecurityContext()
	resources := config.GetLinux().GetResources()
	out := hostInspection{
		Binds: []string{}, Runtime: st.Handler, NetworkMode: "pod", IpcMode: "private", PidMode: "",
		Privileged: security.GetPrivileged(), ReadonlyRootfs: security.GetReadonlyRootfs(),
		CapAdd: security.GetCapabilities().GetAddCapabilities(), CapDrop: security.GetCapabilities().GetDropCapabilities(),
		Memory: resources.GetMemoryLimitInBytes(), MemorySwap: resources.GetMemorySwapLimitInBytes(), CPUShares: resources.GetCpuShares(),
		CPUQuota: resources.GetCpuQuota(), CPUPeriod: resources.GetCpuPeriod(), CpusetCpus: resources.GetCpusetCpus(), CpusetMems: resources.GetCpusetMems(),
		OomScoreAdj: resources.GetOomScoreAdj(), PortBindings: bindings(m), RestartPolicy: policyInspection{Name: "no"},
		DNS: pod.GetDnsConfig().GetServers(), DNSSearch: pod.GetDnsConfig().GetSearches(), DNSOptions: pod.GetDnsConfig().GetOptions(),
		LogConfig: inspectLog(t),
	}
	if out.CPUQuota > 0 && out.CPUPeriod > 0 {
		out.NanoCpus = out.CPUQuota * nanosOfCPU / out.CPUPeriod
	}
	namespaces := security.GetNamespaceOptions()
	if namespaces.GetNetwork() == runtimeapi.NamespaceMode_NODE {
		out.NetworkMode = "host"
	}
	if namespaces.GetPid() == runtimeapi.NamespaceMode_NODE {
		out.PidMode = "host"
	}
	if namespaces.GetIpc() == runtimeapi.NamespaceMode_NODE {
		out.IpcMode = "host"
	}
	for _, x := range config.GetDevices() {
		out.Devices = append(out.Devices, deviceInspection{x.GetHostPath(), x.GetContainerPath(), x.GetPermissions()})
	}
	for _, x := range m.GetMounts() {
		if x.GetType() == "bind" || x.GetType() == "volume" {
			bind := x.GetSource() + ":" + x.GetDestination()
			if x.GetReadonly() {
				bind += ":ro"
			}
			out.Binds = append(out.Binds, bind)
		}
	}
	if t.e == nil {
		return out
	}
	r := t.e.record()
	request := r.request()
	out.GroupAdd = request.GetGroupAdd()
	out.AutoRemove, out.ShmSize, out.ExtraHosts = r.AutoRemove, request.GetShmSize(), request.GetExtraHosts()
	out.RestartPolicy = policyInspection{Name: string(r.Restart.Name), MaximumRetryCount: int(r.Restart.Maximum)}
	if request.GetInit() {
		out.Init = &request.Init
	}
	if request.GetNoNetwork() {
		out.NetworkMode = "none"
	}
	if r.Joined {
		out.NetworkMode = "container:" + request.GetJoin()
	}
	if len(request.GetTmpfs()) > 0 {
		out.Tmpfs = map[string]string{}
		for _, x := range request.GetTmpfs() {
			out.Tmpfs[x.GetPath()] = strings.Join(x.GetOptions(), ",")
		}
	}
	for _, u := range request.GetUlimits() {
		out.Ulimits = append(out.Ulimits, ulimitInspection{u.GetName(), u.GetHard(), u.GetSoft()})
	}
	return out
}

func portName(p *nodev1.Port) string {
	return strconv.FormatUint(uint64(p.GetContainerPort()), 10) + "/" + p.GetProtocol()
}

// bindings are the ports of the machine that lead to those of the container.
func bindings(m *nodev1.Container) map[string][]portInspection {
	all := map[string][]portInspection{}
	for _, p := range m.GetPorts() {
		name := portName(p)
		if p.GetHostPort() == 0 {
			all[name] = slices.Clip(all[name])
			continue
		}
		all[name] = append(all[name], portInspection{p.GetHostIp(), strconv.FormatUint(uint64(p.GetHostPort()), 10)})
	}
	return all
}

func inspectNetwork(m *nodev1.Container) networkInspection {
	out := networkInspection{Ports: map[string][]portInspection{}, Networks: map[string]endpointInspection{}}
	if m.GetState() == "running" || m.GetState() == "paused" {
		out.Ports = bindings(m)
	}
	for _, ip := range m.GetIps() {
		if strings.Contains(ip, ":") {
			out.GlobalIPv6Address = ip
		} else if out.IPAddress == "" {
			out.IPAddress = ip
		}
	}
	names := m.GetNetworks()
	if len(names) == 0 {
		names = []string{"pod"}
	}
	for _, n := range names {
		out.Networks[n] = endpointInspection{IPAddress: out.IPAddress, GlobalIPv6Address: out.GlobalIPv6Address}
	}
	return out
}
