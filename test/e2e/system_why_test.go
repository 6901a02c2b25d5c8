package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/node"
)

// TestWhyPeople: the story of a person's container, however it ended.
func TestWhyPeople(t *testing.T) {
	v := onVerbs(t)
	v.ok("run", "-d", "--name", "web", "--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "1", "IMAGE", "sleep", "1000")
	v.eventually("unhealthy", "why", "web")
	contains(v.env, "a container that runs", v.ok("why", "web"), "container web runs since", "unhealthy", "RunPodSandbox (cgroup", "network", "CreateContainer web (", "OCI runtime", "StartContainer web",
		"created from "+shared.image, "health_status: unhealthy", "-> what its health check said: cri-node inspect")
	v.ok("stop", "-t", "0", "web")
	contains(v.env, "a container that was stopped", v.ok("why", "web"), "container web exited with code 137", "  stop\n", "-> it was killed with SIGKILL", "cri-node logs --tail 20 web")
	v.run("run", "--name", "five", "IMAGE", "sh", "-c", "exit 5")
	contains(v.env, "an exit code", v.ok("why", "five"), "container five exited with code 5")
	v.run("run", "--name", "hungry", "-m", "8m", "IMAGE", "sh", "-c", "x=a; while :; do x=$x$x$x; done")
	contains(v.env, "an OOM kill", v.ok("why", "hungry"), "container hungry exited with code 137 (OOMKilled)", "  oom\n", "its limit, which is 8 MiB: raise it")
	v.run("run", "--name", "wrong", "IMAGE", "no-such-program")
	contains(v.env, "the runtime's refusal", v.ok("why", "wrong"), "wrong could not be made", "no-such-program", "executable file not found")
	v.ok("rm", "five")
	contains(v.env, "one that is gone", v.ok("why", "five"), "five is not here any more", "RemoveContainer")
	v.ok("run", "-d", "--name", "again", "--restart", "on-failure:2", "IMAGE", "sh", "-c", "exit 3")
	v.eventually("container again exited with code 3", "why", "again")
	v.waitFor("two starts", func() bool { return strings.Count(v.ok("why", "again"), "StartContainer again") >= 2 })
	if got := v.run("why", "nobody-knows-it"); got.code != 1 || !strings.Contains(got.err, "nobody-knows-it") {
		t.Errorf("an unknown name: %d %s", got.code, got.err)
	}
	var story struct {
		Summary string
		Lines   []struct {
			Time     time.Time
			Duration time.Duration
			Text     string
		}
		Advice []string
	}
	v.must(json.Unmarshal([]byte(v.ok("why", "-o", "json", "hungry")), &story))
	if !strings.Contains(story.Summary, "OOMKilled") || len(story.Lines) < 4 || len(story.Advice) == 0 || story.Lines[0].Duration == 0 || time.Since(story.Lines[0].Time) > time.Minute {
		t.Errorf("as JSON: %+v", story)
	}
	for i, l := range story.Lines[1:] {
		if l.Time.Before(story.Lines[i].Time) {
			t.Errorf("%q is told before %q", l.Text, story.Lines[i].Text)
		}
	}
	equal(v.env, "a template", v.ok("why", "--format", "{{.Summary}}", "five"), "five is not here any more: the last call about it was RemoveContainer")
}

// TestWhyKubelet: the story of a pod that a client of CRI made.
func TestWhyKubelet(t *testing.T) {
	v := onVerbs(t)
	p := v.runPod("")
	pod := p.config.Metadata.Namespace + "/" + p.config.Metadata.Name
	c := v.start(p, "web", []string{"sleep", "1000"})
	contains(v.env, "the pod", v.ok("why", pod), "pod "+pod+" is Ready", "RunPodSandbox (", "network", "CreateContainer web", "StartContainer web", "-> container "+p.config.Metadata.Name+"/web runs since")
	for _, name := range []string{pod + "/web", p.config.Metadata.Name + "/web", c.id[:12]} {
		contains(v.env, name, v.ok("why", name), "runs since", "CreateContainer web")
	}
	missing := shared.registry.Ref("no/such:1")
	if _, err := v.node.Images.PullImage(v.Context(), &runtimeapi.ImageSpec{Image: missing}, nil, p.config); err == nil {
		t.Fatal("an image that is not there is pulled")
	}
	contains(v.env, "a pull that failed", v.ok("why", pod), "PullImage "+missing, "failed", "-> image "+missing+" could not be pulled", "not found")
	v.refused(p, "lost", func(c *runtimeapi.ContainerConfig) { c.Image.Image = missing })
	contains(v.env, "a missing image", v.ok("why", pod), "-> container lost could not be made", missing+": not found")
	contains(v.env, "a missing image", v.ok("why", pod+"/lost"), pod+"/lost could not be made", "not found")
	v.refused(p, "wrong", func(c *runtimeapi.ContainerConfig) { c.Command = []string{"no-such-program"} })
	contains(v.env, "the runtime's refusal", v.ok("why", pod), "-> container wrong could not be made", "no-such-program", "executable file not found")
	v.start(p, "wrong", []string{"sh", "-c", "exit 7"})
	v.eventually("wrong exited with code 7", "why", pod)
	if story := v.ok("why", pod); strings.Contains(story, "-> container wrong could not be made") {
		t.Errorf("it was made in the end:\n%s", story)
	}
}

// refused has a container that cannot be made.
func (v *verbs) refused(p *pod, name string, edit func(*runtimeapi.ContainerConfig)) {
	v.Helper()
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: shared.image},
		Command: []string{"sleep", "1000"}, LogPath: name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
	edit(config)
	if _, err := v.node.Runtime.CreateContainer(v.Context(), p.id, config, p.config); err == nil {
		v.Fatalf("container %s is made", name)
	}
}

// TestWhyNetwork: a pod that the network refused is known by its name alone.
func TestWhyNetwork(t *testing.T) {
	// No bridge, though there is something of that name.
	v := &verbs{ownNode(t, node.Options{Number: 62, NoConfList: true, Config: "[network]\ndefault_bridge = \"lo\"\n"})}
	config := v.node.Pod("unconnected").Config()
	id, err := v.node.Runtime.RunPodSandbox(v.Context(), config, "")
	if err == nil {
		v.must(v.node.Runtime.RemovePodSandbox(cleanup(t), id))
		t.Fatal("lo is a bridge")
	}
	contains(v.env, "the pod", v.ok("why", "unconnected"), "unconnected could not be made", "lo", "RunPodSandbox (", "network")
}
