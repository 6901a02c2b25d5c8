package e2e

import (
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
)

// refused checks the answer to a bad request: the code, the field's name in the
// message, and a message fit for a log.
func refused(e *env, err error, code codes.Code, field string) {
	e.Helper()
	if err == nil {
		e.Error("was accepted")
		return
	}
	s := grpcstatus.Convert(err)
	if s.Code() != code {
		e.Errorf("code is %v, want %v: %s", s.Code(), code, s.Message())
	}
	if !strings.Contains(s.Message(), field) {
		e.Errorf("message does not name %q: %s", field, s.Message())
	}
	if len(s.Message()) > 4096 || !utf8.ValidString(s.Message()) || strings.ContainsFunc(s.Message(), func(r rune) bool { return r < ' ' && r != '\t' }) {
		e.Errorf("message is unfit for a log: %q", s.Message())
	}
}

func port(container, host int32, ip string) *runtimeapi.PortMapping {
	return &runtimeapi.PortMapping{ContainerPort: container, HostPort: host, HostIp: ip}
}

// badPods are requests to RunPodSandbox and the field each must name.
var badPods = map[string]struct {
	field string
	edit  func(*runtimeapi.PodSandboxConfig)
}{
	"no metadata":            {"metadata", func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil }},
	"no name":                {"metadata.name", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" }},
	"no namespace":           {"metadata.namespace", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = "" }},
	"no uid":                 {"metadata.uid", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "" }},
	"name with slash":        {"metadata.name", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "../x" }},
	"uid with newline":       {"metadata.uid", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "a\nb" }},
	"long name":              {"metadata.name", func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = strings.Repeat("n", 5000) }},
	"long hostname":          {"hostname", func(c *runtimeapi.PodSandboxConfig) { c.Hostname = strings.Repeat("h", 65) }},
	"hostname newline":       {"hostname", func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a\nb" }},
	"dns server name":        {"dns_config.servers", func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig.Servers = []string{"dns.test"} }},
	"dns option newline":     {"dns_config.options", func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig.Options = []string{"a\nnameserver 6.6.6.6"} }},
	"dns search newline":     {"dns_config.searches", func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig.Searches = []string{"a\nb"} }},
	"relative log directory": {"log_directory", func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "var/log" }},
	"dotted log directory":   {"log_directory", func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory += "/../../x" }},
	"host port beyond":       {"host_port", func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{port(80, 65536, "")} }},
	"container port beyond": {"container_port", func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{port(70000, 8080, "")}
	}},
	"host ip": {"host_ip", func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{port(80, 8080, "host")}
	}},
	"protocol": {"protocol", func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{Protocol: 77, ContainerPort: 1, HostPort: 1}}
	}},
	"port twice": {"host_port", func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{port(80, 8080, ""), port(81, 8080, "")}
	}},
	"cgroup parent up": {"cgroup_parent", func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/../../x" }},
	"sysctl of host":   {"sysctl", func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} }},
	"sysctl path":      {"sysctl", func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.../../x": "1"} }},
	"sysctl of hostnet": {"sysctl", func(c *runtimeapi.PodSandboxConfig) {
		options(c).Network, c.Linux.Sysctls = runtimeapi.NamespaceMode_NODE, map[string]string{"net.ipv4.ip_forward": "1"}
	}},
	"sysctl of hostipc": {"sysctl", func(c *runtimeapi.PodSandboxConfig) {
		options(c).Ipc, c.Linux.Sysctls = runtimeapi.NamespaceMode_NODE, map[string]string{"kernel.shmmax": "1"}
	}},
	"network mode": {"network", func(c *runtimeapi.PodSandboxConfig) { options(c).Network = runtimeapi.NamespaceMode_CONTAINER }},
	"ipc mode":     {"ipc", func(c *runtimeapi.PodSandboxConfig) { options(c).Ipc = runtimeapi.NamespaceMode_TARGET }},
	"unknown mode": {"pid", func(c *runtimeapi.PodSandboxConfig) { options(c).Pid = 42 }},
	"group without user": {"run_as_group", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
	}},
	"userns without mapping": {"userns_options", func(c *runtimeapi.PodSandboxConfig) {
		options(c).UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}
	}},
	"userns with two mappings": {"userns_options", func(c *runtimeapi.PodSandboxConfig) {
		two := []*runtimeapi.IDMapping{{HostId: 100000, Length: 1000}, {HostId: 200000, ContainerId: 1000, Length: 1000}}
		options(c).UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: two, Gids: two}
	}},
	"userns mode": {"userns_options", func(c *runtimeapi.PodSandboxConfig) {
		options(c).UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_CONTAINER}
	}},
}

// TestBadPods are refused before anything is made.
func TestBadPods(t *testing.T) {
	e := onShared(t)
	before, err := invariant.Collect(e.node.InvariantConfig())
	e.must(err)
	for name, tc := range badPods {
		t.Run(name, func(t *testing.T) {
			config := e.node.Pod("bad").Config()
			tc.edit(config)
			r, err := e.node.Raw.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
			e := e.in(t)
			refused(e, err, codes.InvalidArgument, tc.field)
			if err == nil {
				e.removePod(&pod{r.PodSandboxId, config})
			}
		})
	}
	t.Run("no config", func(t *testing.T) {
		_, err := e.node.Raw.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{})
		refused(e.in(t), err, codes.InvalidArgument, "config")
	})
	t.Run("unknown handler", func(t *testing.T) {
		_, err := e.node.Raw.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: e.node.Pod("bad").Config(), RuntimeHandler: "none-such"})
		refused(e.in(t), err, grpcstatus.Code(err), "none-such")
		if c := grpcstatus.Code(err); c != codes.InvalidArgument && c != codes.NotFound {
			t.Errorf("code is %v", c)
		}
	})
	e.residue(before)
}

// badContainers are requests to CreateContainer and the field each must name.
var badContainers = map[string]struct {
	field string
	edit  func(*runtimeapi.ContainerConfig)
}{
	"no metadata":      {"metadata", func(c *runtimeapi.ContainerConfig) { c.Metadata = nil }},
	"no name":          {"metadata.name", func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "" }},
	"name with slash":  {"metadata.name", func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "a/b" }},
	"no image":         {"image", func(c *runtimeapi.ContainerConfig) { c.Image = nil }},
	"empty image":      {"image", func(c *runtimeapi.ContainerConfig) { c.Image = &runtimeapi.ImageSpec{} }},
	"NUL in argument":  {"command", func(c *runtimeapi.ContainerConfig) { c.Command = []string{"a\x00b"} }},
	"empty key":        {"envs", func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Value: []byte("x")}} }},
	"key with =":       {"envs", func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Key: "a=b"}} }},
	"relative workdir": {"working_dir", func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "tmp" }},
	"relative mount": {"container_path", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: "/tmp", ContainerPath: "mnt"}}
	}},
	"mount on root": {"container_path", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: "/tmp", ContainerPath: "/"}}
	}},
	"mount twice": {"container_path", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: "/tmp", ContainerPath: "/mnt"}, {HostPath: "/etc", ContainerPath: "/mnt/"}}
	}},
	"relative source": {"host_path", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: "tmp", ContainerPath: "/mnt"}}
	}},
	"propagation": {"propagation", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: "/tmp", ContainerPath: "/mnt", Propagation: 9}}
	}},
	"rro without ro": {"recursive_read_only", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: "/tmp", ContainerPath: "/mnt", RecursiveReadOnly: true}}
	}},
	"writable image": {"readonly", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/mnt", Image: &runtimeapi.ImageSpec{Image: "x"}}}
	}},
	"no device": {"devices", func(c *runtimeapi.ContainerConfig) {
		c.Devices = []*runtimeapi.Device{{HostPath: "/etc/passwd", ContainerPath: "/dev/x", Permissions: "r"}}
	}},
	"permissions": {"permissions", func(c *runtimeapi.ContainerConfig) {
		c.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rwmx"}}
	}},
	"absolute log":    {"log_path", func(c *runtimeapi.ContainerConfig) { c.LogPath = "/etc/cron.d/x" }},
	"log outside":     {"log_path", func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../x.log" }},
	"small memory":    {"memory_limit_in_bytes", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 1000 }},
	"negative memory": {"memory_limit_in_bytes", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = -5 }},
	"small quota":     {"cpu_quota", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.CpuQuota = 10 }},
	"cpuset":          {"cpuset_cpus", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.CpusetCpus = "many" }},
	"huge page size": {"hugepage_limits", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "../x", Limit: 1}}
	}},
	"unified path": {"unified", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.Unified = map[string]string{"../x": "1"} }},
	"oom score":    {"oom_score_adj", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.OomScoreAdj = 2000 }},
	"group alone": {"run_as_group", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 5}
	}},
	"user twice": {"run_as_username", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsUsername = &runtimeapi.Int64Value{Value: 5}, "root"
	}},
	"unknown username": {"run_as_username", func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "stranger" }},
	"negative uid": {"run_as_user", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: -1}
	}},
	"unknown capability": {"capabilities", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"CAP_FLY"}}
	}},
	"seccomp file": {"seccomp", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/no/such/profile.json"}
	}},
	"seccomp relative": {"seccomp", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "profile.json"}
	}},
	"seccomp not JSON": {"seccomp", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/etc/passwd"}
	}},
	"relative masked path": {"masked_paths", func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.MaskedPaths = []string{"proc"} }},
	"privileged":           {"privileged", func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }},
	"stop signal":          {"stop_signal", func(c *runtimeapi.ContainerConfig) { c.StopSignal = 999 }},
	"target id": {"target_id", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
	}},
}

// TestBadContainers are refused and leave nothing in their pod.
func TestBadContainers(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	before, err := invariant.Collect(e.node.InvariantConfig())
	e.must(err)
	for name, tc := range badContainers {
		t.Run(name, func(t *testing.T) {
			config := kubelet.Container{Name: "bad", Image: shared.image, Command: []string{"true"}}.Config(p.config)
			tc.edit(config)
			r, err := e.node.Raw.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
			e := e.in(t)
			refused(e, err, codes.InvalidArgument, tc.field)
			if err == nil {
				e.must(e.node.Runtime.RemoveContainer(t.Context(), r.ContainerId))
			}
		})
	}
	e.residue(before)
}

// TestBadCalls covers the calls that name an object, and what they may not be.
func TestBadCalls(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	exited := e.start(p, "exited", []string{"true"})
	e.ended(exited)
	unknown := strings.Repeat("0", 64)
	good := kubelet.Container{Name: "good", Image: shared.image, Command: []string{"true"}}.Config(p.config)
	lost := proto.Clone(good).(*runtimeapi.ContainerConfig)
	lost.Image = &runtimeapi.ImageSpec{Image: "127.0.0.1:1/no/such:image"}
	linux := &runtimeapi.LinuxContainerResources{}
	ctx, raw := t.Context(), e.node.Raw
	for name, tc := range map[string]struct {
		code  codes.Code
		field string
		call  func() error
	}{
		"status of no pod": {codes.NotFound, unknown[:12], func() error {
			_, err := raw.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: unknown})
			return err
		}},
		"status of no container": {codes.NotFound, unknown[:12], func() error {
			_, err := raw.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: unknown})
			return err
		}},
		"container of no pod": {codes.NotFound, unknown[:12], func() error {
			_, err := raw.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: unknown, Config: good, SandboxConfig: p.config})
			return err
		}},
		"container of no image": {codes.NotFound, "no/such", func() error {
			_, err := raw.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: lost, SandboxConfig: p.config})
			return err
		}},
		"container without config": {codes.InvalidArgument, "config", func() error {
			_, err := raw.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config})
			return err
		}},
		"start of no container": {codes.NotFound, unknown[:12], func() error {
			_, err := raw.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: unknown})
			return err
		}},
		"start of a running one": {codes.FailedPrecondition, "", func() error {
			_, err := raw.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.id})
			return err
		}},
		"exec without command": {codes.InvalidArgument, "cmd", func() error {
			_, err := raw.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id})
			return err
		}},
		"exec with negative timeout": {codes.InvalidArgument, "timeout", func() error {
			_, err := raw.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"true"}, Timeout: -1})
			return err
		}},
		"exec in no container": {codes.NotFound, unknown[:12], func() error {
			_, err := raw.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: unknown, Cmd: []string{"true"}})
			return err
		}},
		"exec in an exited one": {codes.FailedPrecondition, "", func() error {
			_, err := raw.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: exited.id, Cmd: []string{"true"}})
			return err
		}},
		"update of no container": {codes.NotFound, unknown[:12], func() error {
			_, err := raw.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: unknown, Linux: linux})
			return err
		}},
		"update with bad memory": {codes.InvalidArgument, "memory_limit_in_bytes", func() error {
			_, err := raw.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 5}})
			return err
		}},
		"reopen of an exited one": {codes.FailedPrecondition, "", func() error {
			_, err := raw.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: exited.id})
			return err
		}},
		"pull of nothing": {codes.InvalidArgument, "image", func() error {
			_, err := e.node.RawImages.PullImage(ctx, &runtimeapi.PullImageRequest{})
			return err
		}},
		"pull for an unknown handler": {codes.InvalidArgument, "none-such", func() error {
			_, err := e.node.RawImages.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: shared.image, RuntimeHandler: "none-such"}})
			return err
		}},
		"pull of an upper-case name": {codes.InvalidArgument, "Upper", func() error {
			_, err := e.node.RawImages.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "127.0.0.1:1/Upper/Case:1"}})
			return err
		}},
		"pull with two kinds of auth": {codes.InvalidArgument, "auth", func() error {
			_, err := e.node.RawImages.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: shared.image}, Auth: &runtimeapi.AuthConfig{Auth: "%%%"}})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) { refused(e.in(t), tc.call(), tc.code, tc.field) })
	}
}
