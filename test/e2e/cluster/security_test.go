package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// TestSecurityContext: what a container is allowed, as its process sees it.
func TestSecurityContext(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	strict := corev1.SupplementalGroupsPolicyStrict
	for name, c := range map[string]struct {
		script string
		pod    corev1.PodSecurityContext
		own    corev1.SecurityContext
		want   string
	}{
		"user-and-groups": {
			script: "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '; echo; stat -c '%g %a' /shared",
			pod:    corev1.PodSecurityContext{RunAsUser: pointer(int64(1001)), RunAsGroup: pointer(int64(2001)), FSGroup: pointer(int64(3001)), SupplementalGroups: []int64{4001}, SupplementalGroupsPolicy: &strict},
			want:   "1001\n2001\n2001 3001 4001 \n3001 2777\n",
		},
		"own-user-wins": {
			script: "id -u",
			pod:    corev1.PodSecurityContext{RunAsUser: pointer(int64(1001))},
			own:    corev1.SecurityContext{RunAsUser: pointer(int64(1002))},
			want:   "1002\n",
		},
		"capabilities": {
			script: "chown 1 /tmp 2>/dev/null && echo chown; hostname x 2>/dev/null && echo hostname; grep CapEff /proc/self/status | cut -f2",
			own:    corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"CHOWN"}}},
			want:   "chown\n0000000000000001\n",
		},
		"readonly-root": {
			script: "touch /x 2>&1 | grep -o 'Read-only.*'; touch /shared/x && echo volume",
			own:    corev1.SecurityContext{ReadOnlyRootFilesystem: pointer(true)},
			want:   "Read-only file system\nvolume\n",
		},
		"no-new-privileges": {
			script: "grep NoNewPrivs /proc/self/status | cut -f2",
			own:    corev1.SecurityContext{AllowPrivilegeEscalation: pointer(false)},
			want:   "1\n",
		},
		"privileged": {
			script: "grep -c . /proc/self/attr/current >/dev/null 2>&1; grep Seccomp: /proc/self/status | cut -f2; mkdir /m && mount -t tmpfs x /m && echo mounted; ls /dev/kmsg",
			own:    corev1.SecurityContext{Privileged: pointer(true)},
			want:   "0\nmounted\n/dev/kmsg\n",
		},
		"seccomp-default": {
			script: "grep Seccomp: /proc/self/status | cut -f2; unshare -U true 2>&1 | grep -o 'Operation not permitted'",
			pod:    corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			want:   "2\nOperation not permitted\n",
		},
		"seccomp-localhost": {
			script: "mkdir /tmp/x 2>&1 | grep -o 'Operation not permitted'",
			own:    corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: pointer("no-mkdir.json")}},
			want:   "Operation not permitted\n",
		},
		"sysctls": {
			script: "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
			pod:    corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "77"}, {Name: "kernel.shm_rmid_forced", Value: "1"}}},
			want:   "77\n1\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "seccomp-localhost" {
				dir := filepath.Join(shared.Dir, shared.Worker.Name(), "kubelet", "seccomp")
				must(t, os.MkdirAll(dir, 0o755))
				must(t, os.WriteFile(filepath.Join(dir, "no-mkdir.json"), []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`), 0o644))
			}
			one := shell("main", c.script)
			one.SecurityContext = &c.own
			p := withShared(pod(name, one))
			p.Spec.SecurityContext = &c.pod
			shared.Create(t, ns, p)
			shared.AwaitPod(t, ns, name, "over", over)
			if got := logsOf(t, ns, name, "main"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestRunAsNonRoot: an image whose user is root is refused, with the reason.
func TestRunAsNonRoot(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("root", shell("c", "id"))
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: pointer(true)}
	shared.Create(t, ns, p)
	refused := shared.AwaitPod(t, ns, p.Name, "refused", func(p *corev1.Pod) bool {
		waiting := suite.Status(p, "c").State.Waiting
		return waiting != nil && waiting.Reason == "CreateContainerConfigError"
	})
	if message := suite.Status(refused, "c").State.Waiting.Message; !strings.Contains(message, "image will run as root") {
		t.Errorf("message %q", message)
	}
}

// TestUserNamespace: root of the pod is nobody of the node, in its volumes, too.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	sources(t, ns)
	p := pod("mapped", shell("main", "id -u; awk '{print ($2 > 0), $3}' /proc/self/uid_map; stat -c %u /shared /config/color; echo x > /shared/x && cat /config/color"))
	p.Spec.HostUsers = pointer(false)
	withShared(p)
	mount(p, "/config", corev1.VolumeSource{ConfigMap: configMap()})
	shared.Create(t, ns, p)
	shared.AwaitPhase(t, ns, p.Name, corev1.PodSucceeded)
	if got := logsOf(t, ns, p.Name, "main"); got != "0\n1 65536\n0\n0\nblue" {
		t.Errorf("got %q", got)
	}
}
