package containers

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// fake is a machine with a few variables and files, and 40000 and up free.
func fake() Machine {
	files := map[string]string{
		"env":    "\ufeff# comment\n\nA=from file\n  B=b\nHOME\nGONE\n",
		"labels": "tier=front\nowner=\n",
		"bad":    "A B=c\n",
	}
	next := uint16(40000)
	return Machine{
		LookupEnv: func(name string) (string, bool) {
			v, ok := map[string]string{"HOME": "/root", "EMPTY": ""}[name]
			return v, ok
		},
		ReadFile: func(path string) ([]byte, error) {
			if data, ok := files[path]; ok {
				return []byte(data), nil
			}
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		},
		Exists: func(path string) error {
			if strings.HasPrefix(path, "/missing") {
				return &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
			}
			return nil
		},
		Getwd: func() (string, error) { return "/home/me", nil },
		FreePort: func(_, _ string, first, _ uint16) (uint16, error) {
			if first != 0 {
				return first, nil
			}
			next++
			return next - 1, nil
		},
	}
}

// parseLine reads a command line as run does.
func parseLine(line ...string) (*nodev1.CreateRequest, error) {
	var o Options
	f := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.Usage = func() {}
	f.SetInterspersed(false)
	o.AddFlags(f)
	addRefusedFlags(f)
	if err := f.Parse(line); err != nil {
		return nil, err
	}
	image, args := "", f.Args()
	if len(args) > 0 {
		image, args = args[0], args[1:]
	}
	return o.Request(fake(), image, args)
}

// plain is what `run IMAGE` asks for.
func plain(change func(*nodev1.CreateRequest)) *nodev1.CreateRequest {
	ns := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	def := func() *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	}
	r := &nodev1.CreateRequest{
		Pod: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{},
			Linux:    &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: ns}},
		},
		Container: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{},
			Image:    &runtimeapi.ImageSpec{Image: "img", UserSpecifiedImage: "img"},
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &runtimeapi.LinuxContainerResources{},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
					NamespaceOptions: ns, Seccomp: def(), Apparmor: def(),
					MaskedPaths: MaskedPaths(), ReadonlyPaths: ReadonlyPaths(),
				},
			},
		},
		Restart: &nodev1.RestartPolicy{Name: "no"},
	}
	if change != nil {
		change(r)
	}
	return r
}

func TestRequest(t *testing.T) {
	type request = *nodev1.CreateRequest
	env := func(pairs ...string) (all []*runtimeapi.KeyValue) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, &runtimeapi.KeyValue{Key: pairs[i], Value: []byte(pairs[i+1])})
		}
		return all
	}
	for name, test := range map[string]struct {
		line string
		want func(request)
	}{
		"image":       {"img", nil},
		"command":     {"img echo -n hi", func(r request) { r.Container.Args = []string{"echo", "-n", "hi"} }},
		"name and rm": {"--name web --rm img", func(r request) { r.Name, r.AutoRemove = "web", true }},
		"terminal": {"-it img sh", func(r request) {
			r.Container.Stdin, r.Container.StdinOnce, r.Container.Tty, r.Container.Args = true, true, true, []string{"sh"}
		}},
		"entrypoint":    {"--entrypoint /bin/sh img -c x", func(r request) { r.Container.Command, r.Container.Args = []string{"/bin/sh"}, []string{"-c", "x"} }},
		"no entrypoint": {"--entrypoint= img x", func(r request) { r.EntrypointCleared, r.Container.Args = true, []string{"x"} }},
		"environment": {"--env-file env -e A=flag -e EMPTY -e NOPE -e C=x=y img", func(r request) {
			r.Container.Envs = env("A", "flag", "B", "b", "HOME", "/root", "EMPTY", "", "C", "x=y")
		}},
		"labels": {"--label-file labels -l x -l tier=back img", func(r request) {
			r.Container.Labels = map[string]string{"tier": "back", "owner": "", "x": ""}
		}},
		"mounts": {"-v /data:/data:ro -v ./src:/src:z -v cache:/cache:nocopy -v /anon/ --mount type=bind,src=/there,dst=/b,readonly,bind-propagation=rslave --tmpfs /tmp:size=64m,exec img", func(r request) {
			r.Container.Mounts = []*runtimeapi.Mount{
				{HostPath: "/data", ContainerPath: "/data", Readonly: true},
				{HostPath: "/home/me/src", ContainerPath: "/src", SelinuxRelabel: true},
				{HostPath: "/there", ContainerPath: "/b", Readonly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
			}
			r.Volumes = []*nodev1.VolumeMount{{Name: "cache", Path: "/cache", NoCopy: true}, {Path: "/anon"}}
			r.Tmpfs = []*nodev1.Tmpfs{{Path: "/tmp", Options: []string{"nosuid", "nodev", "size=64m", "exec"}}}
		}},
		"more mounts": {"--mount type=volume,source=db,target=/db,volume-subpath=a --mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770 --mount type=image,source=busybox,target=/i --mount target=/anon img", func(r request) {
			r.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/i", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "busybox"}}}
			r.Volumes = []*nodev1.VolumeMount{{Name: "db", Path: "/db", Subpath: "a"}, {Path: "/anon"}}
			r.Tmpfs = []*nodev1.Tmpfs{{Path: "/t", Options: []string{"nosuid", "nodev", "noexec", "size=1048576", "mode=1770"}}}
		}},
		"ports": {"-p 8080:80 -p 127.0.0.1:53:53/udp -p 443 -p [::1]:9000-9001:90-91 --expose 80 --expose 7000 img", func(r request) {
			r.Pod.PortMappings = []*runtimeapi.PortMapping{
				{HostPort: 8080, ContainerPort: 80},
				{HostPort: 53, ContainerPort: 53, HostIp: "127.0.0.1", Protocol: runtimeapi.Protocol_UDP},
				{HostPort: 40000, ContainerPort: 443},
				{HostPort: 9000, ContainerPort: 90, HostIp: "::1"},
				{HostPort: 9001, ContainerPort: 91, HostIp: "::1"},
				{ContainerPort: 7000},
			}
		}},
		"publish all": {"-P --expose 80/udp img", func(r request) {
			r.Pod.PortMappings = []*runtimeapi.PortMapping{{HostPort: 40000, ContainerPort: 80, Protocol: runtimeapi.Protocol_UDP}}
		}},
		"resources": {"-m 512m --memory-swap -1 --cpus 1.5 -c 512 --cpuset-cpus 0-1 --pids-limit 100 --shm-size 1g --ulimit nofile=1024:2048 --ulimit core=-1 --oom-score-adj 500 img", func(r request) {
			r.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{
				MemoryLimitInBytes: 512 << 20, MemorySwapLimitInBytes: -1, CpuQuota: 150000, CpuPeriod: 100000, CpuShares: 512,
				CpusetCpus: "0-1", OomScoreAdj: 500,
			}
			r.PidsLimit, r.ShmSize = 100, 1<<30
			r.Ulimits = []*nodev1.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}, {Name: "core", Soft: -1, Hard: -1}}
		}},
		"security": {"--cap-add net_admin --cap-add CAP_SYS_PTRACE --cap-drop ALL --read-only -u 1000:staff --group-add audio --security-opt no-new-privileges --security-opt seccomp=unconfined --security-opt systempaths=unconfined --sysctl net.core.somaxconn=99 img", func(r request) {
			sc := r.Container.Linux.SecurityContext
			sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN", "SYS_PTRACE"}, DropCapabilities: []string{"ALL"}}
			sc.ReadonlyRootfs, sc.NoNewPrivs, sc.MaskedPaths, sc.ReadonlyPaths = true, true, nil, nil
			sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
			r.User, r.GroupAdd = "1000:staff", []string{"audio"}
			r.Pod.Linux.Sysctls = map[string]string{"net.core.somaxconn": "99"}
		}},
		"privileged": {"--privileged img", func(r request) {
			r.Pod.Linux.SecurityContext.Privileged = true
			sc := r.Container.Linux.SecurityContext
			sc.Privileged, sc.MaskedPaths, sc.ReadonlyPaths = true, nil, nil
			sc.Seccomp.ProfileType, sc.Apparmor.ProfileType = runtimeapi.SecurityProfile_Unconfined, runtimeapi.SecurityProfile_Unconfined
		}},
		"host's namespaces": {"--net host --pid host --ipc host --uts host -p 80:80 img", func(r request) {
			n := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
			r.Pod.Linux.SecurityContext.NamespaceOptions, r.Container.Linux.SecurityContext.NamespaceOptions = n, n
		}},
		"no network":    {"--network none img", func(r request) { r.NoNetwork = true }},
		"join":          {"--network container:web img", func(r request) { r.Join = "web" }},
		"named network": {"--network app --network-alias db img", func(r request) { r.Networks = []*nodev1.NetworkMembership{{Network: "app", Aliases: []string{"db"}}} }},
		"names": {"-h box --domainname example.org --add-host db:10.0.0.1 --add-host v6=[::1] --add-host host:host-gateway --dns 1.1.1.1 --dns-search x.org img", func(r request) {
			r.Pod.Hostname = "box.example.org"
			r.ExtraHosts = []string{"db:10.0.0.1", "v6:::1", "host:host-gateway"}
			r.Pod.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"1.1.1.1"}, Searches: []string{"x.org"}}
		}},
		"devices": {"--device /dev/fuse --device /dev/sda:/dev/xvda:r --device vendor.com/gpu=all img", func(r request) {
			r.Container.Devices = []*runtimeapi.Device{
				{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rwm"}, {HostPath: "/dev/sda", ContainerPath: "/dev/xvda", Permissions: "r"},
			}
			r.Container.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.com/gpu=all"}}
		}},
		"user namespace": {"--userns 0:100000:65536 img", func(r request) {
			m := []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}}
			r.Pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
		}},
		"life": {"--init --restart on-failure:3 --stop-signal INT --stop-timeout 3 --runtime crun -w /srv img", func(r request) {
			r.Init, r.StopSignal, r.StopTimeout, r.Handler = true, "INT", proto.Int64(3), "crun"
			r.Restart = &nodev1.RestartPolicy{Name: "on-failure", Maximum: 3}
			r.Container.WorkingDir = "/srv"
		}},
		"no patience": {"--stop-timeout 0 img", func(r request) { r.StopTimeout = proto.Int64(0) }},
		"health": {"--health-cmd true --health-interval 5s --health-retries 2 img", func(r request) {
			r.Healthcheck = &nodev1.Healthcheck{Test: []string{"CMD-SHELL", "true"}, Interval: int64(5 * time.Second), Retries: 2}
		}},
		"no health": {"--no-healthcheck img", func(r request) { r.Healthcheck = &nodev1.Healthcheck{Test: []string{"NONE"}} }},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseLine(strings.Fields(test.line)...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(plain(test.want), got, protocmp.Transform()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"--rm --restart always":   "cannot specify both --restart and --rm",
		"--restart sometimes":     "invalid restart policy",
		"--restart always:3":      "can only be used with 'on-failure'",
		"--restart on-failure:-1": "maximum retry count must be a number",
		"-v relative":             "must be absolute",
		"-v a:/x":                 "no name of a volume",
		"-v /x:/":                 "destination cannot be /",
		"-v /x:y":                 "must be absolute",
		"-v /x:/y:zz":             "unknown option",
		"-v ~/x:/y":               "$HOME",
		"-v /a:/x -v /b:/x":       "duplicate mount point: /x",
		"--mount type=bind,source=/missing,target=/x": "bind source path does not exist",
		"--mount type=npipe,target=/x":                "unknown type",
		"--mount type=volume":                         "target is required",
		"--mount source=x,target=/x,surprise":         "unexpected key",
		"--tmpfs tmp":                                 "absolute path",
		"--tmpfs /tmp:surprise":                       "unknown option",
		"-p 80000":                                    "no port",
		"-p 80:0":                                     "no port",
		"-p 80/icmp":                                  "no protocol",
		"-p x.y:80:80":                                "no address",
		"-p 1-3:1-2":                                  "differ in length",
		"-m 1m":                                       "minimum memory limit allowed is 6MB",
		"-m lots":                                     "invalid size",
		"--memory-swap 1g":                            "set the memory limit",
		"-m 2g --memory-swap 1g":                      "larger than the memory limit",
		"--cpus x":                                    "invalid --cpus",
		"--cpus 1 --cpu-quota 1000":                   "cannot both be set",
		"--shm-size 0":                                "greater than 0",
		"--ulimit nofile":                             "invalid ulimit",
		"--ulimit nofile=2:1":                         "above the hard one",
		"--ulimit files=1":                            "invalid ulimit",
		"--oom-score-adj 2000":                        "not in -1000..1000",
		"--device fuse":                               "absolute",
		"--device /dev/x:/dev/y:q":                    "invalid mode",
		"--security-opt x":                            "invalid --security-opt",
		"--security-opt seccomp=/missing.json":        "opening seccomp profile failed",
		"--sysctl x":                                  "NAME=VALUE",
		"--pid container:x":                           "invalid PID mode",
		"--ipc none":                                  "invalid IPC mode",
		"--uts host":                                  "needs --network host",
		"--userns 1:2":                                "invalid USER mode",
		"--network host --network app":                "goes with no other network",
		"--network container:x -h y":                  "hostname and the container type network mode",
		"--network container:x -p 80":                 "port publishing and the container type network mode",
		"--network container:":                        "needs a container's name",
		"--network host -h y":                         "conflicting options: hostname",
		"--network-alias x":                           "give --network NAME",
		"--add-host x":                                "NAME:IP",
		"--add-host x:y":                              "no address",
		"--dns example.org":                           "it is an address",
		"--env-file gone":                             "file does not exist",
		"--env-file bad":                              "contains whitespaces",
		"-e =x":                                       "invalid environment variable",
		"-l =x":                                       "invalid label",
		"-w srv":                                      "needs to be an absolute path",
		"--log-driver syslog":                         "not supported",
		"--log-opt max-size=much":                     "no size such as 10m",
		"--log-opt max-file=3":                        "needs --log-opt max-size",
		"--log-opt max-size=1m --log-opt max-file=0": "no number of files",
		"--no-healthcheck --health-cmd x":            "conflicts with --health-*",
		"--health-interval -1s":                      "cannot be negative",
		"--link db:db":                               "same --network NAME",
		"--gpus all":                                 "CDI device",
		"--surprise":                                 "unknown flag: --surprise",
	} {
		if _, err := parseLine(append(strings.Fields(line), "img")...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %q", line, err, want)
		}
	}
}

func TestFreePorts(t *testing.T) {
	var ports Ports
	defer ports.Close()
	first, err := ports.Free("tcp", "127.0.0.1", 0, 0)
	if err != nil || first == 0 {
		t.Fatalf("free port %d, %v", first, err)
	}
	if got, err := ports.Free("tcp", "127.0.0.1", first, first); err == nil {
		t.Errorf("port %d given away twice", got)
	}
	if got, err := ports.Free("udp", "", 0, 0); err != nil || got == 0 {
		t.Errorf("free UDP port %d, %v", got, err)
	}
	ports.Close()
	ports.Published = func() []*nodev1.Port { return []*nodev1.Port{{HostPort: uint32(first)}} }
	if got, err := ports.Free("tcp", "127.0.0.1", first, first); err == nil {
		t.Errorf("port %d, which a container publishes, given away", got)
	}
	if got, err := ports.Free("tcp", "127.0.0.1", 0, 0); err != nil || got == first {
		t.Errorf("free port %d, %v", got, err)
	}
}

func FuzzParsers(f *testing.F) {
	for _, s := range []string{"a:b:c", "8080:80/udp", "type=bind,source=/x,target=/y", "512m", "nofile=1:2", "[::1]:1-2:3-4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = ParseVolume(s, "/w")
		_, _ = ParseMount(s, "/w")
		_, _ = ParseTmpfs(s)
		_, _ = ParseBytes(s)
		_, _ = ParseUlimit(s)
		_, _ = ParseExtraHost(s)
		_, _ = ParseDevice(s)
		if ports, err := ParsePorts(s); err == nil {
			for _, p := range ports {
				if p.Container == 0 || p.HostFirst > p.HostLast {
					t.Errorf("%q: %+v", s, p)
				}
			}
		}
	})
}
