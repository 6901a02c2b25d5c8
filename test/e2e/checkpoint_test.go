package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

func code(err error) codes.Code { return grpcstatus.Code(err) }

// TestCheckpointDisabled: without the setting there are no checkpoints, and
// paths are no images.
func TestCheckpointDisabled(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	c := e.start(p, "c", []string{"probe", "trap"})
	rt := e.node.Runtime
	err := rt.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: c.id, Location: "/none/x.tar"})
	if code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "checkpoint.enable") {
		t.Errorf("checkpoint gives %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), pace.Limit(time.Minute))
	defer cancel()
	if err := rt.CheckpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: p.id}); code(err) != codes.Unimplemented {
		t.Errorf("checkpoint of a pod gives %v", err)
	}
	if _, err := rt.RestorePod(ctx, &runtimeapi.RestorePodRequest{}); code(err) != codes.Unimplemented {
		t.Errorf("restore of a pod gives %v", err)
	}
}

// checkpoints starts a node with checkpoints and a container whose log and file
// count, and skips where CRIU does not work.
func checkpoints(t *testing.T, number int) (*env, *pod, *container) {
	t.Helper()
	e := ownNode(t, node.Options{Number: number, Config: "[checkpoint]\nenable = true\n"})
	p := e.runPod("")
	c := e.start(p, "counter", counting)
	e.logHas(c, "count 3\n")
	err := e.node.Runtime.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: c.id, Location: filepath.Join(e.node.Dir, "probe.tar")})
	if code(err) == codes.Unimplemented {
		lacking(t, "criu", err.Error())
	}
	e.must(err)
	return e, p, c
}

// counting writes its state into memory, a file and the log.
var counting = []string{"sh", "-c", "i=0; while true; do i=$((i+1)); echo $i >/count; echo count $i; sleep 0.2; done"}

// last is the newest number in a log.
func (e *env) last(c *container) (n int) {
	e.Helper()
	b, err := os.ReadFile(c.log)
	e.must(err)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	line := lines[len(lines)-1]
	if _, err := fmt.Sscanf(line[strings.LastIndex(line, "count "):], "count %d", &n); err != nil {
		e.Fatalf("log ends with %q: %v", line, err)
	}
	return n
}

// TestCheckpointRestore: a container goes on where its checkpoint was, in
// another pod, and everything that is not exactly such a checkpoint is refused.
func TestCheckpointRestore(t *testing.T) {
	e, p, c := checkpoints(t, 40)
	archive := filepath.Join(e.node.Dir, "checkpoint.tar")
	before := e.last(c)
	e.must(e.node.Runtime.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: c.id, Location: archive, Timeout: 600}))
	info, err := os.Stat(archive)
	e.must(err)
	equal(e, "mode of the archive", info.Mode(), os.FileMode(0o600))
	after := e.last(c)
	e.logHas(c, fmt.Sprintf("count %d\n", after+2)) // it goes on
	e.removePod(p)

	q := e.runPod("")
	t.Run("refused", func(t *testing.T) { e.in(t).refuseRestore(q, archive) })
	r := e.create(q, "counter", counting, fromArchive(archive))
	s := e.status(r.id)
	equal(e, "state", s.State, runtimeapi.ContainerState_CONTAINER_CREATED)
	// A daemon that dies forgets nothing of it.
	e.must(e.node.Kill())
	e.must(e.node.Restart(t.Context()))
	equal(e, "state", e.status(r.id).State, runtimeapi.ContainerState_CONTAINER_CREATED)
	e.must(e.node.Runtime.StartContainer(t.Context(), r.id))
	equal(e, "state", e.status(r.id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	e.eventually(30*time.Second, func() error {
		if b, err := os.ReadFile(r.log); err != nil || !bytes.Contains(b, []byte("count ")) {
			return fmt.Errorf("log is %q, %w", b, err)
		}
		return nil
	})
	if first := e.first(r); first <= before || first > after+1 {
		t.Errorf("it went on at %d; the checkpoint was made between %d and %d", first, before, after)
	}
	if count := e.exec(r.id, "cat", "/count"); strings.TrimSpace(count) == "" {
		t.Error("the restored container's file is empty")
	}
	e.must(e.node.Runtime.StopContainer(t.Context(), r.id, 0))
	equal(e, "exit code", e.status(r.id).ExitCode, 137)

	// One that is never started goes as well.
	never := e.create(q, "counter2", counting, fromArchive(archive))
	e.must(e.node.Runtime.RemoveContainer(t.Context(), never.id))
}

// first is the oldest number in a log.
func (e *env) first(c *container) (n int) {
	e.Helper()
	b, err := os.ReadFile(c.log)
	e.must(err)
	line, _, _ := strings.Cut(string(b), "\n")
	if _, err := fmt.Sscanf(line[strings.LastIndex(line, "count "):], "count %d", &n); err != nil {
		e.Fatalf("log begins with %q: %v", line, err)
	}
	return n
}

func fromArchive(path string) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Image = &runtimeapi.ImageSpec{Image: path} }
}

// refuseRestore tries what must not become a container.
func (e *env) refuseRestore(p *pod, archive string) {
	good, err := os.ReadFile(archive)
	e.must(err)
	changed := filepath.Join(e.node.Dir, "changed.tar")
	for name, tc := range map[string]struct {
		content []byte
		edit    func(*runtimeapi.ContainerConfig)
		want    codes.Code
	}{
		"changed memory":   {content: flip(good, len(good)*2/3), want: codes.InvalidArgument},
		"changed manifest": {content: bytes.Replace(good, []byte(`"name": "counter"`), []byte(`"name": "another"`), 1), want: codes.InvalidArgument},
		"not an archive":   {content: []byte("root:x:0:0"), want: codes.InvalidArgument},
		"more capabilities": {content: good, edit: func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		}, want: codes.FailedPrecondition},
		"another mount": {content: good, edit: func(c *runtimeapi.ContainerConfig) {
			c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: e.node.Logs, ContainerPath: "/more"})
		}, want: codes.FailedPrecondition},
	} {
		e.must(os.WriteFile(changed, tc.content, 0o600))
		config := kubelet.Container{Name: "refused", Image: changed, Command: counting}.Config(p.config)
		if tc.edit != nil {
			tc.edit(config)
		}
		if id, err := e.node.Runtime.CreateContainer(e.Context(), p.id, config, p.config); code(err) != tc.want {
			e.Errorf("%s: container %s, %v, want %v", name, id, err, tc.want)
		}
	}
	none := kubelet.Container{Name: "refused", Image: "/none.tar", Command: counting}.Config(p.config)
	if _, err := e.node.Runtime.CreateContainer(e.Context(), p.id, none, p.config); code(err) != codes.NotFound {
		e.Errorf("an archive that is not there gives %v", err)
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// TestCheckpointPod: all containers of a pod go on from one moment.
func TestCheckpointPod(t *testing.T) {
	e, p, c := checkpoints(t, 41)
	rt := e.node.Runtime
	d := e.start(p, "second", counting)
	e.logHas(d, "count 2\n")
	out := filepath.Join(e.node.Dir, "pod")
	e.must(os.Mkdir(out, 0o700))
	ctx, cancel := context.WithTimeout(t.Context(), pace.Limit(2*time.Minute))
	defer cancel()
	request := &runtimeapi.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: out, ContainerIds: []string{c.id, d.id}}
	t.Run("refused", func(t *testing.T) { e.in(t).refuseCheckpointPod(ctx, request) })
	e.must(rt.CheckpointPod(ctx, request))
	last := map[string]int{"counter": e.last(c), "second": e.last(d)}
	e.logHas(c, fmt.Sprintf("count %d\n", last["counter"]+2))
	e.logHas(d, fmt.Sprintf("count %d\n", last["second"]+2))
	e.removePod(p)

	config := e.node.Pod("restored").Config()
	restore := &runtimeapi.RestorePodRequest{CheckpointPath: out, Config: config, ContainerConfigs: []*runtimeapi.ContainerConfig{
		kubelet.Container{Name: "second", Image: shared.image, Command: counting}.Config(config),
		kubelet.Container{Name: "counter", Image: shared.image, Command: counting}.Config(config),
	}}
	t.Run("refused restore", func(t *testing.T) { e.in(t).refuseRestorePod(ctx, restore) })
	answer, err := rt.RestorePod(ctx, restore)
	e.must(err)
	t.Cleanup(func() { e.removePod(&pod{answer.PodSandboxId, config}) })
	if len(answer.RestoredContainers) != 2 {
		t.Fatalf("restored %v", answer.RestoredContainers)
	}
	for i, r := range answer.RestoredContainers {
		equal(e, "state", e.status(r.ContainerId).State, runtimeapi.ContainerState_CONTAINER_CREATED)
		e.must(rt.StartContainer(t.Context(), r.ContainerId))
		rc := &container{id: r.ContainerId, log: config.LogDirectory + "/" + restore.ContainerConfigs[i].LogPath}
		e.logHas(rc, "count ")
		if first := e.first(rc); first > last[r.Name]+1 || first < last[r.Name]-20 {
			t.Errorf("container %s went on at %d; it was at %d", r.Name, first, last[r.Name])
		}
	}
}

func (e *env) refuseCheckpointPod(ctx context.Context, good *runtimeapi.CheckpointPodRequest) {
	edit := func(f func(*runtimeapi.CheckpointPodRequest)) *runtimeapi.CheckpointPodRequest {
		r, _ := proto.Clone(good).(*runtimeapi.CheckpointPodRequest)
		f(r)
		return r
	}
	full := filepath.Dir(good.OutputPath)
	for name, r := range map[string]*runtimeapi.CheckpointPodRequest{
		"no containers": edit(func(r *runtimeapi.CheckpointPodRequest) { r.ContainerIds = nil }),
		"one twice": edit(func(r *runtimeapi.CheckpointPodRequest) {
			r.ContainerIds = []string{r.ContainerIds[0], r.ContainerIds[0]}
		}),
		"an option":       edit(func(r *runtimeapi.CheckpointPodRequest) { r.Options = map[string]string{"x": "y"} }),
		"relative output": edit(func(r *runtimeapi.CheckpointPodRequest) { r.OutputPath = "x" }),
		"full output":     edit(func(r *runtimeapi.CheckpointPodRequest) { r.OutputPath = full }),
	} {
		if err := e.node.Runtime.CheckpointPod(ctx, r); code(err) != codes.InvalidArgument {
			e.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
	if entries, err := os.ReadDir(good.OutputPath); err != nil || len(entries) > 0 {
		e.Errorf("refused checkpoints left %v, %v", entries, err)
	}
}

func (e *env) refuseRestorePod(ctx context.Context, good *runtimeapi.RestorePodRequest) {
	for name, f := range map[string]func(*runtimeapi.RestorePodRequest){
		"one container":      func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs = r.ContainerConfigs[:1] },
		"one twice":          func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[1] = r.ContainerConfigs[0] },
		"another command":    func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[0].Command = []string{"sleep", "1"} },
		"an option":          func(r *runtimeapi.RestorePodRequest) { r.Options = map[string]string{"x": "y"} },
		"no checkpoint":      func(r *runtimeapi.RestorePodRequest) { r.CheckpointPath = "/tmp" },
		"an unknown handler": func(r *runtimeapi.RestorePodRequest) { r.RuntimeHandler = "none" },
	} {
		r, _ := proto.Clone(good).(*runtimeapi.RestorePodRequest)
		f(r)
		if _, err := e.node.Runtime.RestorePod(ctx, r); err == nil {
			e.Errorf("%s: was restored", name)
		}
	}
	pods, err := e.node.Runtime.ListPodSandbox(ctx, nil)
	e.must(err)
	if len(pods) > 0 {
		e.Errorf("refused restores left pods: %v", pods)
	}
}
