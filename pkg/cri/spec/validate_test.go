package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func itoa(i int) string { return strconv.Itoa(i) }

// wantInvalid checks that an error names its field first, is short and has no
// control characters.
func wantInvalid(t *testing.T, err error, field string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one of %s", field)
	}
	if !strings.HasPrefix(err.Error(), field+":") {
		t.Errorf("error is %q, want it to start with %s", err, field)
	}
	if len(err.Error()) > 4096 || hasControl(err.Error()) {
		t.Errorf("error is long or has control characters: %.200q", err)
	}
}

func TestValidateSandbox(t *testing.T) {
	type cfg = runtimeapi.PodSandboxConfig
	sc := func(c *cfg) *runtimeapi.LinuxSandboxSecurityContext { return c.Linux.SecurityContext }
	userns := func(mode runtimeapi.NamespaceMode, uids, gids []*runtimeapi.IDMapping) func(*cfg) {
		return func(c *cfg) {
			sc(c).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: mode, Uids: uids, Gids: gids}
		}
	}
	mapping := func(host, container, length uint32) []*runtimeapi.IDMapping {
		return []*runtimeapi.IDMapping{{HostId: host, ContainerId: container, Length: length}}
	}
	const (
		sec = "config.linux.security_context"
		usr = sec + ".namespace_options.userns_options"
	)
	tests := []struct {
		name   string
		change func(c *cfg)
		field  string // empty: valid
	}{
		{"default", func(*cfg) {}, ""},
		{"everything empty", func(c *cfg) { *c = cfg{Metadata: c.Metadata} }, ""},
		{"empty dns", func(c *cfg) { c.DnsConfig = &runtimeapi.DNSConfig{} }, ""},
		{"no metadata", func(c *cfg) { c.Metadata = nil }, "config.metadata"},
		{"no name", func(c *cfg) { c.Metadata.Name = "" }, "config.metadata.name"},
		{"no uid", func(c *cfg) { c.Metadata.Uid = "" }, "config.metadata.uid"},
		{"no namespace", func(c *cfg) { c.Metadata.Namespace = "" }, "config.metadata.namespace"},
		{"slash", func(c *cfg) { c.Metadata.Name = "a/b" }, "config.metadata.name"},
		{"dots", func(c *cfg) { c.Metadata.Uid = ".." }, "config.metadata.uid"},
		{"dash", func(c *cfg) { c.Metadata.Name = "-a" }, "config.metadata.name"},
		{"semicolon", func(c *cfg) { c.Metadata.Namespace = "a;K8S_POD_NAME=b" }, "config.metadata.namespace"},
		{"newline", func(c *cfg) { c.Metadata.Name = "a\nb" }, "config.metadata.name"},
		{"separator", func(c *cfg) { c.Metadata.Name = "a\u2028b" }, "config.metadata.name"},
		{"long name", func(c *cfg) { c.Metadata.Name = strings.Repeat("a", 300) }, "config.metadata.name"},
		{"labels", func(c *cfg) { c.Labels = map[string]string{"a": strings.Repeat("a", 1<<20)} }, "config.annotations"},
		{"hostname", func(c *cfg) { c.Hostname = "web-0.example" }, ""},
		{"hostname long", func(c *cfg) { c.Hostname = strings.Repeat("a", 65) }, "config.hostname"},
		{"hostname newline", func(c *cfg) { c.Hostname = "a\nb" }, "config.hostname"},
		{"log directory relative", func(c *cfg) { c.LogDirectory = "logs" }, "config.log_directory"},
		{"log directory dots", func(c *cfg) { c.LogDirectory = "/var/../etc" }, "config.log_directory"},
		{"dns", func(c *cfg) {
			c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.0.0.1", "fe80::1"}, Searches: []string{"a.b", "."}, Options: []string{"ndots:5"}}
		}, ""},
		{"dns server", func(c *cfg) { c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"ns.example"}} }, "config.dns_config.servers[0]"},
		{"dns searches", func(c *cfg) { c.DnsConfig = &runtimeapi.DNSConfig{Searches: make([]string, 100)} }, "config.dns_config.searches"},
		{"dns search", func(c *cfg) { c.DnsConfig = &runtimeapi.DNSConfig{Searches: []string{"a b"}} }, "config.dns_config.searches[0]"},
		{"dns option", func(c *cfg) { c.DnsConfig = &runtimeapi.DNSConfig{Options: []string{"a", "b\nc"}} }, "config.dns_config.options[1]"},
		{"ports", func(c *cfg) {
			c.PortMappings = []*runtimeapi.PortMapping{{}, {ContainerPort: 80}, {ContainerPort: 80, HostPort: 8080, HostIp: "::"}, {ContainerPort: 80, HostPort: 8080, Protocol: runtimeapi.Protocol_UDP}}
		}, ""},
		{"port range", func(c *cfg) { c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 65536}} }, "config.port_mappings[0].host_port"},
		{"port missing", func(c *cfg) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80}} }, "config.port_mappings[0].container_port"},
		{"port twice", func(c *cfg) {
			c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 80}, {ContainerPort: 81, HostPort: 80}}
		}, "config.port_mappings[1].host_port"},
		{"port ip", func(c *cfg) {
			c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 80, HostIp: "x"}}
		}, "config.port_mappings[0].host_ip"},
		{"port protocol", func(c *cfg) { c.PortMappings = []*runtimeapi.PortMapping{{Protocol: 9}} }, "config.port_mappings[0].protocol"},
		{"ports many", func(c *cfg) { c.PortMappings = make([]*runtimeapi.PortMapping, 10000) }, "config.port_mappings"},
		{"cgroup parent", func(c *cfg) { c.Linux.CgroupParent = "/test.slice" }, ""},
		{"cgroup parent root", func(c *cfg) { c.Linux.CgroupParent = "/" }, "config.linux.cgroup_parent"},
		{"cgroup parent dots", func(c *cfg) { c.Linux.CgroupParent = "/a/../.." }, "config.linux.cgroup_parent"},
		{"cgroup parent colon", func(c *cfg) { c.Linux.CgroupParent = "/a:b:c" }, "config.linux.cgroup_parent"},
		{"sysctl", func(c *cfg) { c.Linux.Sysctls = map[string]string{"net.ipv4.tcp_rmem": "1\t2 3"} }, ""},
		{"sysctl value", func(c *cfg) { c.Linux.Sysctls = map[string]string{"kernel.shmall": "1\nx"} }, "config.linux.sysctls"},
		{"sysctl key", func(c *cfg) { c.Linux.Sysctls = map[string]string{"a\x00": "1"} }, "config.linux.sysctls"},
		{"overhead", func(c *cfg) { c.Linux.Overhead = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1000} }, ""},
		{"overhead negative", func(c *cfg) { c.Linux.Overhead = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -1} }, "config.linux.overhead.memory_limit_in_bytes"},
		{"group alone", func(c *cfg) { sc(c).RunAsGroup = id(1) }, sec + ".run_as_group"},
		{"group with user", func(c *cfg) { sc(c).RunAsGroup, sc(c).RunAsUser = id(1), id(1) }, ""},
		{"user range", func(c *cfg) { sc(c).RunAsUser = id(1 << 31) }, sec + ".run_as_user"},
		{"groups range", func(c *cfg) { sc(c).SupplementalGroups = []int64{1, -1} }, sec + ".supplemental_groups[1]"},
		{"groups policy", func(c *cfg) { sc(c).SupplementalGroupsPolicy = 5 }, sec + ".supplemental_groups_policy"},
		{"network container", func(c *cfg) { sc(c).NamespaceOptions.Network = runtimeapi.NamespaceMode_CONTAINER }, sec + ".namespace_options.network"},
		{"ipc target", func(c *cfg) { sc(c).NamespaceOptions.Ipc = runtimeapi.NamespaceMode_TARGET }, sec + ".namespace_options.ipc"},
		{"pid target", func(c *cfg) { sc(c).NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET }, sec + ".namespace_options.pid"},
		{"pid unknown", func(c *cfg) { sc(c).NamespaceOptions.Pid = 77 }, sec + ".namespace_options.pid"},
		{"seccomp relative", func(c *cfg) {
			sc(c).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "../../etc/passwd"}
		}, sec + ".seccomp.localhost_ref"},
		{"seccomp kind", func(c *cfg) { sc(c).Seccomp = &runtimeapi.SecurityProfile{ProfileType: 9} }, sec + ".seccomp.profile_type"},
		{"selinux", func(c *cfg) { sc(c).SelinuxOptions = &runtimeapi.SELinuxOption{Type: "a_t:s0"} }, sec + ".selinux_options.type"},
		{"selinux level", func(c *cfg) { sc(c).SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1,c2"} }, ""},
		{"userns node", userns(runtimeapi.NamespaceMode_NODE, nil, nil), ""},
		{"userns container", userns(runtimeapi.NamespaceMode_CONTAINER, nil, nil), usr + ".mode"},
		{"userns target", userns(runtimeapi.NamespaceMode_TARGET, nil, nil), usr + ".mode"},
		{"userns none", userns(runtimeapi.NamespaceMode_POD, nil, nil), usr + ".uids"},
		{"userns no gids", userns(runtimeapi.NamespaceMode_POD, mapping(1, 0, 1), nil), usr + ".gids"},
		{"userns two", userns(runtimeapi.NamespaceMode_POD, append(mapping(1, 0, 1), mapping(2, 1, 1)...), mapping(1, 0, 1)), usr + ".uids"},
		{"userns container id", userns(runtimeapi.NamespaceMode_POD, mapping(1, 1, 1), mapping(1, 0, 1)), usr + ".uids[0].container_id"},
		{"userns length", userns(runtimeapi.NamespaceMode_POD, mapping(1, 0, 0), mapping(1, 0, 1)), usr + ".uids[0].length"},
		{"userns host root", userns(runtimeapi.NamespaceMode_POD, mapping(0, 0, 1), mapping(1, 0, 1)), usr + ".uids[0].host_id"},
		{"userns end", userns(runtimeapi.NamespaceMode_POD, mapping(1<<32-1, 0, 1), mapping(1, 0, 1)), usr + ".uids[0].length"},
		{"userns", userns(runtimeapi.NamespaceMode_POD, mapping(100000, 0, 65536), mapping(200000, 0, 65536)), ""},
		{"userns and the host's processes", func(c *cfg) {
			userns(runtimeapi.NamespaceMode_POD, mapping(1, 0, 1), mapping(1, 0, 1))(c)
			sc(c).NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		}, sec + ".namespace_options.pid"},
		{"userns and the host's ipc", func(c *cfg) {
			userns(runtimeapi.NamespaceMode_POD, mapping(1, 0, 1), mapping(1, 0, 1))(c)
			sc(c).NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
		}, sec + ".namespace_options.ipc"},
		{"userns unequal", userns(runtimeapi.NamespaceMode_POD, mapping(1, 0, 2), mapping(1, 0, 1)), usr + ".gids"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := proto.CloneOf(testInput(t).Sandbox)
			tc.change(c)
			err := ValidateSandbox(c)
			if tc.field == "" {
				must(t, err)
				return
			}
			wantInvalid(t, err, tc.field)
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v is no invalid argument", err)
			}
		})
	}
	wantInvalid(t, ValidateSandbox(nil), "config")
}

func TestValidateContainer(t *testing.T) {
	mounts := func(m ...*runtimeapi.Mount) func(*Input) { return func(in *Input) { in.Config.Mounts = m } }
	mount := func(container, host string) *runtimeapi.Mount {
		return &runtimeapi.Mount{ContainerPath: container, HostPath: host}
	}
	device := func(d *runtimeapi.Device) func(*Input) {
		return func(in *Input) { in.Config.Devices = []*runtimeapi.Device{d} }
	}
	env := func(key, value string) func(*Input) {
		return func(in *Input) {
			in.Config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("1")}, {Key: key, Value: []byte(value)}}
		}
	}
	logPath := func(p string) func(*Input) { return func(in *Input) { in.Config.LogPath = p } }
	workdir := func(p string) func(*Input) { return func(in *Input) { in.Config.WorkingDir = p } }
	caps := func(c *runtimeapi.Capability) func(*Input) {
		return func(in *Input) { in.security().Capabilities = c }
	}
	pid := runtimeapi.NamespaceMode_TARGET
	const sec = fieldSecurity
	type test struct {
		name   string
		change func(in *Input)
		field  string // empty: valid
	}
	tests := []test{
		{"default", func(*Input) {}, ""},
		{"no config", func(in *Input) { in.Config = nil }, "config"},
		{"no sandbox", func(in *Input) { in.Sandbox = nil }, "sandbox_config"},
		{"no metadata", func(in *Input) { in.Config.Metadata = nil }, "config.metadata"},
		{"no name", func(in *Input) { in.Config.Metadata.Name = "" }, "config.metadata.name"},
		{"name", func(in *Input) { in.Config.Metadata.Name = "../x" }, "config.metadata.name"},
		{"no image", func(in *Input) { in.Config.Image = nil }, "config.image.image"},
		{"annotations", func(in *Input) { in.Config.Annotations = map[string]string{"a": strings.Repeat("a", 1<<20)} }, "config.annotations"},
		{"log none", logPath(""), ""},
		{"log absolute", logPath("/etc/cron.d/x"), "config.log_path"},
		{"log dots", logPath("../../etc/cron.d/x"), "config.log_path"},
		{"log dot", logPath("./"), "config.log_path"},
		{"log long", logPath(strings.Repeat("a/", 2049)), "config.log_path"},
		{"log newline", logPath("a\nb"), "config.log_path"},
		{"argument NUL", func(in *Input) { in.Config.Args = []string{"a", "b\x00"} }, "config.args"},
		{"argument long", func(in *Input) { in.Config.Args = []string{strings.Repeat("a", 200<<10)} }, "config.args"},
		{"arguments long", func(in *Input) {
			for range 100 {
				in.Config.Args = append(in.Config.Args, strings.Repeat("a", 100<<10))
			}
		}, "config.args"},
		{"env key empty", env("", "x"), "config.envs[1].key"},
		{"env key =", env("A=B", "x"), "config.envs[1].key"},
		{"env key NUL", env("A\x00", "x"), "config.envs[1].key"},
		{"env value NUL", env("B", "x\x00"), "config.envs[1].value"},
		{"env value not text", env("B", "\xff"), "config.envs[1].value"},
		{"env twice", env("A", "2"), ""},
		{"env newline", env("B", "x\ny"), ""},
		{"env long", env("B", strings.Repeat("a", 1<<20)), "config.envs"},
		{"workdir relative", workdir("a"), "config.working_dir"},
		{"workdir dots", workdir("/a/../../b"), "config.working_dir"},
		{"workdir proc", workdir("/proc/self/fd/7"), "config.working_dir"},
		{"workdir unclean proc", workdir("//proc/./self"), "config.working_dir"},
		{"workdir sys", workdir("/sys"), "config.working_dir"},
		{"workdir dev", workdir("/dev/fd/3"), "config.working_dir"},
		{"workdir like proc", workdir("/process"), ""},
		{"mount relative", mounts(mount("a", "/x")), "config.mounts[0].container_path"},
		{"mount root", mounts(mount("/", "/x")), "config.mounts[0].container_path"},
		{"mount root unclean", mounts(mount("/./", "/x")), "config.mounts[0].container_path"},
		{"mount dots", mounts(mount("/..", "/x")), "config.mounts[0].container_path"},
		{"mount twice", mounts(mount("/a", "/x"), mount("/a/", "/y")), "config.mounts[1].container_path"},
		{"mount no source", mounts(mount("/a", "")), "config.mounts[0].host_path"},
		{"mount relative source", mounts(mount("/a", "x")), "config.mounts[0].host_path"},
		{"mount source dots", mounts(mount("/a", "/x/../y")), "config.mounts[0].host_path"},
		{"mount long", mounts(mount("/a", "/"+strings.Repeat("a", 65000))), "config.mounts[0].host_path"},
		{"mounts many", func(in *Input) {
			for i := range 10000 {
				in.Config.Mounts = append(in.Config.Mounts, mount("/m"+itoa(i), "/x"))
			}
		}, "config.mounts"},
		{"mount propagation", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/x", Propagation: 7}), "config.mounts[0].propagation"},
		{"rro not ro", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/x", RecursiveReadOnly: true}), "config.mounts[0].recursive_read_only"},
		{"rro propagation", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/x", Readonly: true, RecursiveReadOnly: true, Propagation: 1}), "config.mounts[0].recursive_read_only"},
		{"mount option", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/x", MountOptions: []string{"nosuid", "dev"}}), "config.mounts[0].mount_options[1]"},
		{"mount ids", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/x", UidMappings: []*runtimeapi.IDMapping{{}}}), "config.mounts[0].uidMappings"},
		{"image and source", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/x", Image: &runtimeapi.ImageSpec{Image: "a"}}), "config.mounts[0].host_path"},
		{"image path up", mounts(&runtimeapi.Mount{ContainerPath: "/a", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "a"}, ImageSubPath: "a/../../b"}), "config.mounts[0].image_sub_path"},
		{"image path from the root", mounts(&runtimeapi.Mount{ContainerPath: "/a", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "a"}, ImageSubPath: "/etc"}), "config.mounts[0].image_sub_path"},
		{"image path with control characters", mounts(&runtimeapi.Mount{ContainerPath: "/a", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "a"}, ImageSubPath: "a\nb"}), "config.mounts[0].image_sub_path"},
		{"image path without image", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/x", ImageSubPath: "a"}), "config.mounts[0].image_sub_path"},
		{"image without name", mounts(&runtimeapi.Mount{ContainerPath: "/a", Readonly: true, Image: &runtimeapi.ImageSpec{}}), "config.mounts[0].image.image"},
		{"image propagates", mounts(&runtimeapi.Mount{ContainerPath: "/a", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "a"}, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}), "config.mounts[0].propagation"},
		{"image option", mounts(&runtimeapi.Mount{ContainerPath: "/a", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "a"}, MountOptions: []string{"rw"}}), "config.mounts[0].mount_options[0]"},
		{"many options", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/x", MountOptions: slices.Repeat([]string{"nodev"}, maxMountOptions+1)}), "config.mounts[0].mount_options"},
		{"image rw", mounts(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{Image: "a"}}), "config.mounts[0].readonly"},
		{"image sub path", mounts(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/x", ImageSubPath: "a"}), "config.mounts[0].image_sub_path"},
		{"device relative", device(&runtimeapi.Device{HostPath: "null"}), "config.devices[0].host_path"},
		{"device target", device(&runtimeapi.Device{HostPath: "/dev/null", ContainerPath: "x"}), "config.devices[0].container_path"},
		{"device permissions", device(&runtimeapi.Device{HostPath: "/dev/null", Permissions: "rwmx"}), "config.devices[0].permissions"},
		{"device permissions twice", device(&runtimeapi.Device{HostPath: "/dev/null", Permissions: "rr"}), "config.devices[0].permissions"},
		{"stop signal", func(in *Input) { in.Config.StopSignal = 66 }, "config.stop_signal"},
		{"stop signal negative", func(in *Input) { in.Config.StopSignal = -1 }, "config.stop_signal"},
		{"privileged", func(in *Input) { in.security().Privileged = true }, sec + ".privileged"},
		{"user and name", func(in *Input) { in.security().RunAsUser, in.security().RunAsUsername = id(1), "a" }, sec + ".run_as_username"},
		{"group alone", func(in *Input) { in.security().RunAsGroup = id(1) }, sec + ".run_as_group"},
		{"user negative", func(in *Input) { in.security().RunAsUser = id(-1) }, sec + ".run_as_user"},
		{"user 2³²", func(in *Input) { in.security().RunAsUser = id(1 << 32) }, sec + ".run_as_user"},
		{"group range", func(in *Input) { in.security().RunAsUser, in.security().RunAsGroup = id(1), id(1<<31) }, sec + ".run_as_group"},
		{"name number", func(in *Input) { in.security().RunAsUsername = "0" }, sec + ".run_as_username"},
		{"name numeric", func(in *Input) { in.security().RunAsUsername = "0x0" }, sec + ".run_as_username"},
		{"groups", func(in *Input) { in.security().SupplementalGroups = []int64{1 << 33} }, sec + ".supplemental_groups[0]"},
		{"capability", caps(&runtimeapi.Capability{AddCapabilities: []string{"net_admin", "CAP_CHOWN", "ALL", "all"}}), ""},
		{"capability add", caps(&runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN", "FLY"}}), sec + ".capabilities.add_capabilities[1]"},
		{"capability drop", caps(&runtimeapi.Capability{DropCapabilities: []string{""}}), sec + ".capabilities.drop_capabilities[0]"},
		{"capability ambient", caps(&runtimeapi.Capability{AddAmbientCapabilities: []string{"CAP_"}}), sec + ".capabilities.add_ambient_capabilities[0]"},
		{"pid target", func(in *Input) { in.security().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: pid} }, sec + ".namespace_options.target_id"},
		{"network of the host", func(in *Input) { in.security().NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE }, sec + ".namespace_options.network"},
		{"pid of the host", func(in *Input) { in.security().NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE }, sec + ".namespace_options.pid"},
		{"masked path", func(in *Input) { in.security().MaskedPaths = []string{"/a", "b"} }, sec + ".masked_paths[1]"},
		{"readonly path", func(in *Input) { in.security().ReadonlyPaths = []string{"/a/../.."} }, sec + ".readonly_paths[0]"},
		{"seccomp no path", func(in *Input) {
			in.security().Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		}, sec + ".seccomp.localhost_ref"},
		{"seccomp legacy", func(in *Input) { in.security().SeccompProfilePath = "localhost/relative" }, sec + ".seccomp_profile_path"},
		{"seccomp legacy word", func(in *Input) { in.security().SeccompProfilePath = "off" }, sec + ".seccomp_profile_path"},
		{"apparmor control", func(in *Input) {
			in.security().Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "a\nb"}
		}, sec + ".apparmor.localhost_ref"},
		{"selinux newline", func(in *Input) { in.security().SelinuxOptions = &runtimeapi.SELinuxOption{User: "a\n"} }, sec + ".selinux_options.user"},
		{"memory", func(in *Input) { in.Config.Linux.Resources.MemoryLimitInBytes = 1 << 20 }, "config.linux.resources.memory_limit_in_bytes"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			tc.change(&in)
			err := ValidateContainer(in.Config, in.Sandbox)
			if tc.field == "config.envs" { // only known once all parts are together
				_, err = Container(t.Context(), in)
			}
			if tc.field == "" {
				must(t, err)
				return
			}
			wantInvalid(t, err, tc.field)
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v is no invalid argument", err)
			}
		})
	}
}

func TestValidateResources(t *testing.T) {
	type res = runtimeapi.LinuxContainerResources
	huge := func(size string) *res {
		return &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: size}}}
	}
	unified := func(k, v string) *res { return &res{Unified: map[string]string{k: v}} }
	tests := []struct {
		name  string
		res   *res
		v1    bool
		field string
	}{
		{"nil", nil, true, ""},
		{"critest", &res{MemoryLimitInBytes: 15 << 20, MemorySwapLimitInBytes: 15 << 20, CpuPeriod: 100000, CpuQuota: -1, CpuShares: 1, OomScoreAdj: -1000, CpusetCpus: "0-1,3", CpusetMems: "0"}, true, ""},
		{"period", &res{CpuPeriod: -1}, false, "linux.cpu_period"},
		{"period low", &res{CpuPeriod: 999}, false, "linux.cpu_period"},
		{"period high", &res{CpuPeriod: 1000001}, false, "linux.cpu_period"},
		{"quota", &res{CpuQuota: -2}, false, "linux.cpu_quota"},
		{"quota low", &res{CpuQuota: 999}, false, "linux.cpu_quota"},
		{"shares", &res{CpuShares: -1}, false, "linux.cpu_shares"},
		{"memory", &res{MemoryLimitInBytes: -1}, false, "linux.memory_limit_in_bytes"},
		{"memory low", &res{MemoryLimitInBytes: 1}, false, "linux.memory_limit_in_bytes"},
		{"swap", &res{MemorySwapLimitInBytes: -2}, false, "linux.memory_swap_limit_in_bytes"},
		{"swap unlimited", &res{MemorySwapLimitInBytes: -1}, false, ""},
		{"swap below memory", &res{MemoryLimitInBytes: 16 << 20, MemorySwapLimitInBytes: 8 << 20}, false, "linux.memory_swap_limit_in_bytes"},
		{"oom", &res{OomScoreAdj: 2000}, false, "linux.oom_score_adj"},
		{"oom low", &res{OomScoreAdj: -1001}, false, "linux.oom_score_adj"},
		{"cpus", &res{CpusetCpus: "0-999999"}, false, "linux.cpuset_cpus"},
		{"cpus order", &res{CpusetCpus: "3-1"}, false, "linux.cpuset_cpus"},
		{"cpus text", &res{CpusetCpus: "all"}, false, "linux.cpuset_cpus"},
		{"cpus comma", &res{CpusetCpus: "0,"}, false, "linux.cpuset_cpus"},
		{"mems", &res{CpusetMems: "0\n"}, false, "linux.cpuset_mems"},
		{"huge", huge("2MB"), false, ""},
		{"huge garbage", huge("../2MB"), false, "linux.hugepage_limits[0].page_size"},
		{"huge unit", huge("2TB"), false, "linux.hugepage_limits[0].page_size"},
		{"huge zero", huge("0MB"), false, "linux.hugepage_limits[0].page_size"},
		{"huge twice", &res{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}, {PageSize: "2MB"}}}, false, "linux.hugepage_limits[1].page_size"},
		{"unified", unified("memory.high", "max"), false, ""},
		{"unified hugetlb", unified("hugetlb.2MB.max", "0"), false, ""},
		{"unified v1", unified("memory.high", "max"), true, "linux.unified"},
		{"unified path", unified("../memory.max", "1"), false, "linux.unified"},
		{"unified slash", unified("a/memory.max", "1"), false, "linux.unified"},
		{"unified procs", unified("cgroup.procs", "1"), false, "linux.unified"},
		{"unified kill", unified("cgroup.kill", "1"), false, "linux.unified"},
		{"unified word", unified("memory", "1"), false, "linux.unified"},
		{"unified value", unified("memory.max", "1\n2"), false, "linux.unified"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			err := validateResources("linux", tc.res, !tc.v1)
			if tc.field == "" {
				must(t, err)
				return
			}
			wantInvalid(t, err, tc.field)
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v is no invalid argument", err)
			}
		})
	}
}

// TestErrorsAreShort gives each text field of a mount the worst text.
func TestErrorsAreShort(t *testing.T) {
	bad := strings.Repeat("\x1b\n\u2028\x00", 100000)
	in := testInput(t)
	in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/" + bad, HostPath: bad}}
	wantInvalid(t, ValidateContainer(in.Config, in.Sandbox), "config.mounts[0].container_path")
	in.Sandbox.Metadata.Name = bad
	wantInvalid(t, ValidateSandbox(in.Sandbox), "config.metadata.name")
	if q := quote(bad); len(q) > 4*maxQuoted+10 || fmt.Sprint(hasControl(q)) == "true" {
		t.Errorf("quoted is %d bytes: %.100s", len(q), q)
	}
}
