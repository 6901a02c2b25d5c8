package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
)

// denyWrite is an AppArmor profile that lets nobody write a file.
const denyWrite = `profile cri-node-e2e-deny-write flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  signal,
  ptrace,
  umount,
  deny /tmp/** w,
}
`

const denyWriteName = "cri-node-e2e-deny-write"

func appArmor(kind runtimeapi.SecurityProfile_ProfileType, ref string) func(*runtimeapi.ContainerConfig) {
	return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	})
}

// createError is the error of a create that must fail.
func (e *env) createError(p *pod, edits ...func(*runtimeapi.ContainerConfig)) error {
	e.Helper()
	config := kubelet.Container{Name: "refused", Image: shared.image, Command: []string{"true"}}.Config(p.config)
	for _, edit := range edits {
		edit(config)
	}
	_, err := e.node.Runtime.CreateContainer(e.Context(), p.id, config, p.config)
	if err == nil {
		e.Error("created")
	}
	return err
}

// TestAppArmor runs containers under profiles where the kernel has them. On
// other machines only a profile by name is an error.
func TestAppArmor(t *testing.T) {
	const (
		runtimeDefault = runtimeapi.SecurityProfile_RuntimeDefault
		localhost      = runtimeapi.SecurityProfile_Localhost
	)
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled") // none is no
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
		if err := e.createError(p, appArmor(localhost, "localhost/no-such-profile")); err != nil {
			contains(e, "error", err.Error(), "apparmor")
		}
		if !strings.HasPrefix(string(enabled), "Y") {
			if r := e.sh(p, "default", "echo ok", appArmor(runtimeDefault, "")); r.stdout != "ok\n" {
				e.Errorf("the default profile is not ignored without AppArmor: %+v", r)
			}
			return
		}
		load := exec.CommandContext(e.Context(), "apparmor_parser", "--replace", "--skip-cache")
		load.Stdin = strings.NewReader(denyWrite)
		if out, err := load.CombinedOutput(); err != nil {
			lacking(e.T, "apparmor", "load a profile: "+err.Error()+": "+string(out))
		}
		script := "cat /proc/self/attr/current; touch /tmp/x && echo written"
		for _, tc := range []struct {
			name    string
			edit    func(*runtimeapi.ContainerConfig)
			profile string
			writes  bool
		}{
			{"unset", func(*runtimeapi.ContainerConfig) {}, "cri-node-default (enforce)", true},
			{"default", appArmor(runtimeDefault, ""), "cri-node-default (enforce)", true},
			{"unconfined", appArmor(runtimeapi.SecurityProfile_Unconfined, ""), "unconfined", true},
			{"privileged", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }), "unconfined", true},
			{"localhost", appArmor(localhost, denyWriteName), denyWriteName + " (enforce)", false},
			{"with prefix", appArmor(localhost, "localhost/"+denyWriteName), denyWriteName + " (enforce)", false},
			{"deprecated", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.ApparmorProfile = "localhost/" + denyWriteName }), denyWriteName + " (enforce)", false},
			{"new wins", security(func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.ApparmorProfile, s.Apparmor = "localhost/"+denyWriteName, &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
			}), "unconfined", true},
		} {
			e.Run(tc.name, func(t *testing.T) {
				e := e.in(t)
				r := e.sh(p, podName(t), script, tc.edit)
				contains(e, "stdout", r.stdout, tc.profile)
				equal(e, "writes", strings.Contains(r.stdout, "written"), tc.writes)
				c := e.start(p, podName(t)+"-x", []string{"sleep", "1000"}, tc.edit)
				equal(e, "profile of an exec", strings.TrimSpace(e.exec(c.id, "cat", "/proc/self/attr/current")), tc.profile)
			})
		}
		if err := e.createError(p, appArmor(localhost, "")); err != nil {
			contains(e, "error", err.Error(), "localhost_ref")
		}
	})
}

// TestSELinux gives each pod a level of its own where the kernel has SELinux,
// and ignores options elsewhere.
func TestSELinux(t *testing.T) {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	e := onShared(t)
	label := func(p *pod, name string, o *runtimeapi.SELinuxOption) string {
		c := e.start(p, name, []string{"sleep", "1000"}, security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.SelinuxOptions = o }))
		return strings.TrimRight(e.exec(c.id, "cat", "/proc/1/attr/current"), "\n\x00")
	}
	p := e.runPod("")
	if err != nil {
		if got := e.sh(p, "c", "echo ok", security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1,c2"}
		})); got.stdout != "ok\n" {
			t.Errorf("options are not ignored without SELinux: %+v", got)
		}
		return
	}
	other := e.runPodConfig("", e.node.Pod(podName(t)+"-other").Config())
	a, b, c := label(p, "a", nil), label(p, "b", nil), label(other, "c", nil)
	equal(e, "label in the same pod", b, a)
	if c == a {
		t.Errorf("two pods have the label %s", a)
	}
	if got := label(p, "d", &runtimeapi.SELinuxOption{Level: "s0:c1,c2"}); !strings.HasSuffix(got, ":s0:c1,c2") {
		t.Errorf("label is %s", got)
	}
	_ = e.createError(p, security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "no_such_type_t"}
	}))
}
