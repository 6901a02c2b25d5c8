package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// noise is a file that does not compress.
func noise(name string, size int, seed uint64) image.File {
	data := make([]byte, size)
	source := rand.New(rand.NewPCG(seed, seed))
	for i := range data {
		data[i] = byte(source.Uint32())
	}
	return image.File{Name: name, Mode: 0o644, Data: data}
}

// kindUsage is a kind of `system df -o json`.
type kindUsage struct {
	Kind              string
	Total, Active     int
	Size, Reclaimable int64
	Items             []struct {
		ID, Name     string
		Size, Shared int64
		Used         bool
	}
}

func (v *verbs) usage() map[string]kindUsage {
	v.Helper()
	var all []kindUsage
	v.must(json.Unmarshal([]byte(v.ok("system", "df", "-o", "json")), &all))
	kinds := map[string]kindUsage{}
	for _, k := range all {
		kinds[k.Kind] = k
	}
	return kinds
}

// roughly allows for directories and records.
func roughly(v *verbs, what string, got, want int64) {
	v.Helper()
	if got < want || got > want+64<<10 {
		v.Errorf("%s is %d, want %d and a little", what, got, want)
	}
}

// storage is a node of its own with images of known sizes: first and second share
// a layer of 2 MiB and have 1 MiB and 512 KiB of their own; pinned has 256 KiB.
func onStorage(t *testing.T) *verbs {
	t.Helper()
	ref := func(name string) string { return shared.registry.Ref("e2e/df-" + name + ":1") }
	n, err := shared.startNode(t.Context(), node.Options{Number: 3, Config: fmt.Sprintf("[image]\npinned = [%q]\n", ref("pinned"))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := n.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := n.Purge(ctx); err != nil {
			t.Error(err)
		}
	})
	v := &verbs{onNode(t, n)}
	base := []image.File{noise("base", 2<<20, 1)}
	for name, layers := range map[string][][]image.File{
		"first":  {base, {noise("own", 1<<20, 2)}},
		"second": {base, {noise("own", 512<<10, 3)}},
		"pinned": {{noise("own", 256<<10, 4)}},
	} {
		img, err := image.Build(image.Spec{Layers: append([][]image.File{shared.busybox}, layers...), Config: v1.Config{Labels: map[string]string{"is": name}}})
		v.must(err)
		_, err = shared.registry.Push(t.Context(), "e2e/df-"+name+":1", img)
		v.must(err)
		v.ok("pull", "-q", ref(name))
	}
	return v
}

// TestDiskUsage: the sums are right, and shared layers count once.
func TestDiskUsage(t *testing.T) {
	v := onStorage(t)
	const mib = 1 << 20
	images := v.usage()["images"]
	busybox := int64(0)
	for _, i := range images.Items {
		if i.Name == shared.image {
			busybox = i.Size
		}
	}
	equal(v.env, "images", images.Total, 4)
	equal(v.env, "images in use", images.Active, 0)
	roughly(v, "what all images take", images.Size, busybox+2*mib+mib+mib/2+mib/4-4096)
	equal(v.env, "reclaimable", images.Reclaimable, images.Size)
	for _, i := range images.Items {
		if strings.Contains(i.Name, "df-first") {
			roughly(v, "the first image", i.Size, busybox+3*mib-4096)
			roughly(v, "what it shares", i.Shared, busybox+2*mib-4096)
		}
	}
	first := shared.registry.Ref("e2e/df-first:1")
	v.ok("run", "-d", "--name", "writer", "-v", "data:/data", first, "sh", "-c",
		"head -c 1048576 /dev/urandom >/file; head -c 524288 /dev/urandom >/data/file; echo done; exec sleep 1000")
	v.eventually("done", "logs", "writer")
	// Writable layers are measured in the background.
	v.waitFor("the container's size", func() bool { return v.usage()["containers"].Size > mib })
	now := v.usage()
	equal(v.env, "images in use", now["images"].Active, 1)
	roughly(v, "reclaimable images", now["images"].Reclaimable, mib/2+mib/4)
	roughly(v, "containers", now["containers"].Size, mib)
	equal(v.env, "running containers", now["containers"].Active, 1)
	equal(v.env, "reclaimable containers", now["containers"].Reclaimable, 0)
	roughly(v, "volumes", now["volumes"].Size, mib/2)
	equal(v.env, "reclaimable volumes", now["volumes"].Reclaimable, 0)
	contains(v.env, "the table", v.ok("system", "df"), "TYPE", "RECLAIMABLE", "Images", "Local Volumes", "Build Cache")
	contains(v.env, "each object", v.ok("system", "df", "-v"), first, "writer", "data", "IN USE")
	equal(v.env, "a template", v.ok("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"), "Images 4 1\nContainers 1 1\nLocal Volumes 1 1\nBuild Cache 0 0")
	v.ok("rm", "-f", "writer")
	equal(v.env, "reclaimable volumes", v.usage()["volumes"].Reclaimable, v.usage()["volumes"].Size)
	v.ok("volume", "rm", "data")
}

// TestPrune: what somebody uses or means to keep stays.
func TestPrune(t *testing.T) {
	v := onStorage(t)
	first, second, pinned := shared.registry.Ref("e2e/df-first:1"), shared.registry.Ref("e2e/df-second:1"), shared.registry.Ref("e2e/df-pinned:1")
	p := v.runPod("")
	// kubelet's: one that has exited, whose image nobody else uses.
	exited := v.start(p, "exited", []string{"true"}, using(second))
	v.await(exited.id, runtimeapi.ContainerState_CONTAINER_EXITED, 20e9)
	v.ok("volume", "create", "named")
	v.ok("run", "-d", "--name", "running", "-v", "used:/u", "-v", "/anonymous", first, "sleep", "1000")
	v.ok("run", "--name", "over", "-v", "/anonymous", "-l", "keep=yes", "IMAGE", "true")
	v.ok("run", "--name", "paused", "-d", "IMAGE", "sleep", "1000")
	v.ok("pause", "paused")
	v.ok("create", "--name", "fresh", "IMAGE", "true")
	v.ok("tag", first, "other:1")

	if got := v.pipe("n\n", "system", "prune"); got.code != 0 || !strings.Contains(got.out+got.err, "WARNING! This will remove") || strings.Contains(got.out, "Deleted") {
		t.Errorf("no: %+v", got)
	}
	contains(v.env, "a filter", v.ok("system", "prune", "-f", "--filter", "label=keep=no"), "Total reclaimed space: 0B")
	equal(v.env, "containers", len(strings.Fields(v.ok("ps", "-aq", "--filter", "kubernetes=false"))), 4)
	contains(v.env, "containers alone", v.ok("container", "prune", "-f", "--filter", "label=keep"), "Deleted Containers")
	equal(v.env, "anonymous volumes", len(strings.Fields(v.ok("volume", "ls", "-q"))), 4)
	said := v.ok("system", "prune", "-f", "--volumes")
	contains(v.env, "system prune", said, "Deleted Containers", "Deleted Volumes", "Total reclaimed space")
	equal(v.env, "containers", strings.Join(strings.Fields(v.ok("ps", "-a", "--filter", "kubernetes=false", "--format", "{{.Names}}")), " "), "paused running")
	if v.status(exited.id) == nil {
		t.Error("kubelet's container is gone")
	}
	volumes := v.ok("volume", "ls", "-q")
	contains(v.env, "volumes", volumes, "named", "used")
	equal(v.env, "volumes", len(strings.Fields(volumes)), 3) // the running container's anonymous one, too
	v.ok("rm", "-f", "paused")
	contains(v.env, "images without a name", v.ok("image", "prune", "-f"), "Total reclaimed space: 0B")
	v.ok("image", "prune", "-af")
	for ref, stays := range map[string]bool{first: true, second: true, pinned: true, shared.image: false} {
		if v.image(ref) != nil != stays {
			t.Errorf("image %s stays: %v, want %v", ref, !stays, stays)
		}
	}
	v.ok("rm", "-fv", "running")
	v.ok("system", "prune", "-af", "--volumes")
	if v.image(first) != nil || v.image(second) == nil || v.image(pinned) == nil {
		t.Error("images are gone or not")
	}
	equal(v.env, "named volumes", strings.Join(strings.Fields(v.ok("volume", "ls", "-q")), " "), "named used")
	v.ok("volume", "prune", "-af")
	equal(v.env, "volumes", v.ok("volume", "ls", "-q"), "")
	if v.status(exited.id) == nil {
		t.Error("kubelet's container is gone")
	}
}

// TestInfoAndEvents: counts, conditions and what happened.
func TestInfoAndEvents(t *testing.T) {
	v := onVerbs(t)
	v.ok("run", "-d", "--name", "noted", "-l", "of=events", "IMAGE", "sleep", "1000")
	v.ok("create", "--name", "silent", "IMAGE", "true")
	equal(v.env, "info", v.ok("info", "--format", "{{.ContainersRunning}} {{.ContainersStopped}} {{.OSType}} {{.DockerRootDir}}"), "1 1 linux "+v.node.Root)
	var info struct {
		Runtimes   []string
		NCPU       int
		MemTotal   uint64
		Conditions []struct{ Type, Status string }
	}
	v.must(json.Unmarshal([]byte(v.ok("info", "-o", "json")), &info))
	if len(info.Runtimes) == 0 || info.NCPU == 0 || info.MemTotal == 0 || len(info.Conditions) < 2 || info.Conditions[0].Status != "true" {
		t.Errorf("info: %+v", info)
	}
	contains(v.env, "info", v.ok("info"), "KernelVersion: ", "DefaultRuntime: ", "NetworkReady")
	v.ok("pause", "noted")
	v.ok("unpause", "noted")
	v.ok("rename", "noted", "famous")
	v.ok("stop", "-t", "0", "famous")
	v.ok("rm", "famous")
	past := func(filter ...string) string {
		args := []string{"events", "--since", "1m", "--until", "0s", "--format", "{{.Type}} {{.Action}} {{.Name}}"}
		for _, f := range filter {
			args = append(args, "--filter", f)
		}
		return strings.ReplaceAll(v.ok(args...), "\n", ", ")
	}
	equal(v.env, "events", past("label=of=events"), "container create noted, container start noted, container pause noted, container unpause noted, container rename famous, "+
		"container die famous, container stop famous, container destroy famous")
	equal(v.env, "one event", past("label=of=events", "event=die"), "container die famous")
	var event struct {
		Type, Action string
		Attributes   map[string]string
	}
	v.must(json.Unmarshal([]byte(v.ok("events", "--since", "1m", "--until", "0s", "--filter", "label=of=events", "--filter", "event=die", "--format", "json")), &event))
	if event.Action != "die" || event.Attributes["exitCode"] != "137" {
		t.Errorf("as JSON: %+v", event)
	}
	follower := v.open("events", "--filter", "container=late")
	v.waitFor("the follower", func() bool {
		v.run("run", "--rm", "--name", "late", "IMAGE", "true")
		return strings.Contains(follower.text(0), "destroy")
	})
	follower.send("\x03")
	follower.code()
}
