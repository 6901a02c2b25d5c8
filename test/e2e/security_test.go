package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
)

// security gives access to a container's security context.
func security(edit func(*runtimeapi.LinuxContainerSecurityContext)) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { edit(c.Linux.SecurityContext) }
}

func asUser(uid int64) func(*runtimeapi.ContainerConfig) {
	return security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: uid} })
}

// TestSecurityUsers resolves users and groups in the image.
func TestSecurityUsers(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		for _, tc := range []struct {
			name string
			edit func(*runtimeapi.LinuxContainerSecurityContext)
			want string // id -u, id -g, id -G
		}{
			{"root", func(*runtimeapi.LinuxContainerSecurityContext) {}, "0 0 0"},
			{"uid of a user", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
			}, "1000 1000 1000 50000"},
			{"uid of nobody known", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser = &runtimeapi.Int64Value{Value: 4321}
			}, "4321 0 0"},
			{"uid and gid", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.RunAsGroup = &runtimeapi.Int64Value{Value: 33}, &runtimeapi.Int64Value{Value: 99}
			}, "33 99 99"},
			{"username", func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUsername = "nobody" }, "65534 65534 65534"},
			{"supplemental, merged", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.SupplementalGroups = &runtimeapi.Int64Value{Value: 1000}, []int64{1234}
			}, "1000 1000 1000 1234 50000"},
			{"supplemental, strict", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.SupplementalGroups = &runtimeapi.Int64Value{Value: 1000}, []int64{1234}
				s.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
			}, "1000 1000 1000 1234"},
		} {
			e.Run(tc.name, func(t *testing.T) {
				e := e.in(t)
				script := "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n)"
				c := e.start(p, podName(t), []string{"sh", "-c", script + "; exec sleep 1000"}, security(tc.edit))
				e.logHas(c, "\n")
				equal(e, "ids of an exec", strings.TrimSpace(e.exec(c.id, "sh", "-c", script)), tc.want)
				s := e.status(c.id)
				e.must(e.node.Runtime.StopContainer(t.Context(), c.id, 0))
				equal(e, "ids", strings.TrimSpace(e.ended(c).stdout), tc.want)
				if got := s.User.GetLinux(); got == nil {
					t.Error("status has no user")
				} else if want := strings.Fields(tc.want); len(got.SupplementalGroups) != len(want)-2 {
					t.Errorf("user in the status is %v, want %s", got, tc.want)
				}
			})
		}
	})
}

// status lines of a process that show what confines it.
var confinement = regexp.MustCompile(`(?m)^(CapEff|CapBnd|CapAmb|CapInh|Seccomp|NoNewPrivs):\s+(\w+)$`)

func confined(text string) map[string]string {
	found := map[string]string{}
	for _, m := range confinement.FindAllStringSubmatch(text, -1) {
		found[m[1]] = m[2]
	}
	return found
}

const (
	none       = "0000000000000000"
	capNetBind = "0000000000000400"
)

// TestSecurityConfinement reads back what the kernel enforces.
func TestSecurityConfinement(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmod","fchmodat"],"action":"SCMP_ACT_ERRNO"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	kind := func(k runtimeapi.SecurityProfile_ProfileType) func(*runtimeapi.LinuxContainerSecurityContext) {
		return func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: k, LocalhostRef: profile}
			if k != runtimeapi.SecurityProfile_Localhost {
				s.Seccomp.LocalhostRef = ""
			}
		}
	}
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
		for _, tc := range []struct {
			name string
			edit func(*runtimeapi.LinuxContainerSecurityContext)
			want map[string]string
		}{
			{"nil seccomp", func(s *runtimeapi.LinuxContainerSecurityContext) { s.Seccomp = nil }, map[string]string{"Seccomp": "0", "NoNewPrivs": "0", "CapInh": none, "CapAmb": none}},
			{"default seccomp", kind(runtimeapi.SecurityProfile_RuntimeDefault), map[string]string{"Seccomp": "2"}},
			{"unconfined", kind(runtimeapi.SecurityProfile_Unconfined), map[string]string{"Seccomp": "0"}},
			{"localhost", kind(runtimeapi.SecurityProfile_Localhost), map[string]string{"Seccomp": "2"}},
			{"legacy", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Seccomp, s.SeccompProfilePath = nil, "runtime/default"
			}, map[string]string{"Seccomp": "2"}},
			{"no new privileges", func(s *runtimeapi.LinuxContainerSecurityContext) { s.NoNewPrivs = true }, map[string]string{"NoNewPrivs": "1"}},
			{"drop all", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
			}, map[string]string{"CapBnd": none, "CapEff": none}},
			{"drop all, add one", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"all"}, AddCapabilities: []string{"cap_net_bind_service"}}
			}, map[string]string{"CapBnd": capNetBind, "CapEff": capNetBind}},
			{"ambient", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
				s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
			}, map[string]string{"CapAmb": capNetBind, "CapEff": capNetBind}},
			{"other user", func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: 1000} }, map[string]string{"CapEff": none}},
			{"privileged", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Privileged = true
				s.Seccomp = &runtimeapi.SecurityProfile{}
			}, map[string]string{"Seccomp": "0", "CapEff": hostCapabilities(t)}},
		} {
			e.Run(tc.name, func(t *testing.T) {
				e := e.in(t)
				c := e.start(p, podName(t), []string{"sleep", "1000"}, security(tc.edit))
				got := confined(e.exec(c.id, "cat", "/proc/1/status"))
				inExec := confined(e.exec(c.id, "cat", "/proc/self/status"))
				for key, want := range tc.want {
					equal(e, key, got[key], want)
					equal(e, key+" of an exec", inExec[key], want)
				}
			})
		}
	})
}

// hostCapabilities are those of this process: none can have more.
func hostCapabilities(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return confined(string(data))["CapBnd"]
}

// TestSecurityEffects shows what the confinement forbids and allows.
func TestSecurityEffects(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
		for _, tc := range []struct {
			name, script   string
			edit           func(*runtimeapi.LinuxContainerSecurityContext)
			stdout, stderr string // parts
		}{
			{"setuid", "suid-probe id", func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: 1000} }, "1000 0\n", ""},
			{"setuid without new privileges", "suid-probe id", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.NoNewPrivs = &runtimeapi.Int64Value{Value: 1000}, true
			}, "1000 1000\n", ""},
			{"read-only root", "touch /f; touch /dev/shm/ok && echo ok", func(s *runtimeapi.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }, "ok\n", "Read-only file system"},
			{"masked file and directory", "cat /etc/masked; ls /etc/secret", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.MaskedPaths = []string{"/etc/masked", "/etc/secret", "/no/such/path"}
			}, "", ""},
			{"read-only path", "touch /tmp/test; touch /root/ok && echo ok", func(s *runtimeapi.LinuxContainerSecurityContext) { s.ReadonlyPaths = []string{"/tmp"} }, "ok\n", "touch: /tmp/test: Read-only file system"},
			{"/proc/sys", "echo 1 > /proc/sys/kernel/domainname", func(*runtimeapi.LinuxContainerSecurityContext) {}, "", "ead-only file system"},
			{"/proc/sys of privileged", "cat /proc/sys/kernel/hostname > /proc/sys/kernel/hostname && echo ok", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Privileged, s.MaskedPaths, s.ReadonlyPaths = true, nil, nil
			}, "ok\n", ""},
			{"no raw sockets", "ping -c 1 127.0.0.1 2>&1 | head -c 20; mknod /n c 1 3; ip link add d0 type dummy", func(*runtimeapi.LinuxContainerSecurityContext) {}, "", "not permitted"},
			{"ports below 1024", "nc -l -p 80 -w 1; echo $?", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.Capabilities = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
			}, "", ""},
		} {
			e.Run(tc.name, func(t *testing.T) {
				e := e.in(t)
				r := e.sh(p, podName(t), tc.script, security(tc.edit))
				contains(e, "stdout", r.stdout, tc.stdout)
				contains(e, "stderr", r.stderr, tc.stderr)
				if strings.Contains(r.stdout, "secret") || strings.Contains(r.stdout, "key") || strings.Contains(r.stdout, "masked") {
					t.Errorf("masked content is visible: %q", r.stdout)
				}
				if strings.Contains(r.stderr, "bind") {
					t.Errorf("stderr is %q", r.stderr)
				}
			})
		}
	})
}

// TestSecurityUnprivilegedPod refuses a privileged container.
func TestSecurityUnprivilegedPod(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	config := kubelet.Container{Name: "c", Image: shared.image, Command: []string{"true"}}.Config(p.config)
	config.Linux.SecurityContext.Privileged = true
	if _, err := e.node.Runtime.CreateContainer(t.Context(), p.id, config, p.config); err == nil {
		t.Error("created a privileged container in an unprivileged pod")
	}
}

// TestSecurityOOMScore is set as asked, or as near as the machine allows.
func TestSecurityOOMScore(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		for i, score := range []int64{1000, 500, -997} {
			c := e.start(p, fmt.Sprint("score", i), []string{"sleep", "1000"}, func(c *runtimeapi.ContainerConfig) {
				c.Linux.Resources.OomScoreAdj = score
			})
			got := strings.TrimSpace(e.exec(c.id, "cat", "/proc/1/oom_score_adj"))
			if score > 0 && got != fmt.Sprint(score) {
				e.Errorf("oom_score_adj is %s, want %d", got, score)
			}
		}
	})
}
