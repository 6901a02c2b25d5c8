package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
	"github.com/cri-node/cri-node/test/e2e/cluster/worker"
	"github.com/cri-node/cri-node/test/e2e/image"
)

// collector is a node on a small disk, with images that kubelet may collect, those
// that it must not, and a pod that uses what is used.
type collector struct {
	another
	disk, ns string
	pod      *corev1.Pod
	// unused may go; used is run, volume mounted and pinned by the configuration.
	unused, used, volume, pinned string
}

const (
	collectorDisk = 700 << 20
	// unusedSize is what the collection of the unused image brings.
	unusedSize = 200 << 20
)

// joinCollector adds the node.
func joinCollector(t *testing.T, name string, number int, change func(*kubeletconfig.KubeletConfiguration)) *collector {
	t.Helper()
	c := &collector{disk: filepath.Join(shared.Dir, name), used: shared.Images.Busybox}
	smallDisk(t, c.disk, collectorDisk)
	tmp := filepath.Join(c.disk, "tmp")
	must(t, os.Mkdir(tmp, 0o755))
	t.Setenv("TMPDIR", tmp) // where cri-node's directory is made
	c.unused = pushFile(t, "unused", unusedSize)
	c.volume, c.pinned = pushFile(t, "volume", 1<<20), pushFile(t, "pinned", 1<<20)
	c.another = join(t, name, number, func(o *worker.Options) {
		o.Dir, o.Kubelet = filepath.Join(c.disk, "worker"), change
		o.Node.Config = fmt.Sprintf("[image]\npinned = [%q]\n", c.pinned)
	})
	for _, ref := range []string{c.unused, c.volume, c.pinned} {
		must(t, c.Node.Pull(t.Context(), ref))
	}
	c.ns = shared.Namespace(t)
	p := mount(on(name, pod("user", shell("c", idle))), "/volume", corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: c.volume}})
	c.pod = startPod(t, c.ns, p)
	return c
}

// pushFile makes an image of one file that does not compress.
func pushFile(t *testing.T, name string, size int) string {
	t.Helper()
	data := make([]byte, size)
	_, err := rand.Read(data)
	must(t, err)
	img, err := image.Build(image.Spec{
		Form: image.Form{Compression: "plain"}, Layers: [][]image.File{{{Name: "file", Mode: 0o644, Data: data}}}, Config: v1.Config{Cmd: []string{"none"}},
	})
	must(t, err)
	_, err = shared.Registry.Push(t.Context(), "gc/"+name+":1", img)
	must(t, err)
	return shared.Registry.Ref("gc/" + name + ":1")
}

// kept says which of the node's images are there.
func (c *collector) kept(ctx context.Context) (map[string]bool, error) {
	list, err := runtimeapi.NewImageServiceClient(c.Node.Conn()).ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	for _, img := range list.GetImages() {
		for _, tag := range img.GetRepoTags() {
			kept[tag] = true
		}
	}
	return kept, nil
}

// free is how many bytes of the disk are.
func (c *collector) free(t *testing.T) int64 {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(c.disk, &st))
	return int64(st.Bavail) * st.Bsize
}

// awaitFree waits until so many bytes are: an image is out of sight before it is
// deleted.
func (c *collector) awaitFree(t *testing.T, want int64) {
	t.Helper()
	suite.Await(t, suite.Limit, "the disk has room again", func(context.Context) (bool, error) {
		got := c.free(t)
		if got < want {
			return false, fmt.Errorf("%d bytes are free, want %d", got, want)
		}
		return true, nil
	})
}

// fill writes a file that leaves so much of the disk free.
func (c *collector) fill(t *testing.T, name string, leave int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(c.disk, name))
	must(t, err)
	must(t, unix.Fallocate(int(f.Fd()), 0, 0, c.free(t)-leave))
	must(t, f.Close())
}

// awaitCollected waits until the unused image has gone; the others must be there,
// and the pod as it was.
func (c *collector) awaitCollected(t *testing.T, limit time.Duration) {
	t.Helper()
	var kept map[string]bool
	suite.Await(t, limit, "the unused image has gone", func(ctx context.Context) (gone bool, err error) {
		kept, err = c.kept(ctx)
		return err == nil && !kept[c.unused], err
	})
	for _, ref := range []string{c.used, c.volume, c.pinned} {
		if !kept[ref] {
			t.Errorf("%s has gone; there are %v", ref, kept)
		}
	}
	unchanged(t, c.pod, shared.AwaitReady(t, c.ns, c.pod.Name))
}

// TestImageMaximumAge: kubelet removes an image that nobody has used for so long,
// and neither one that a container runs or has mounted nor one that is pinned.
func TestImageMaximumAge(t *testing.T) {
	c := joinCollector(t, "aged", 6, nil)
	before := c.free(t)
	// kubelet looks at its start, and then every five minutes.
	must(t, c.Reconfigure(t.Context(), func(k *kubeletconfig.KubeletConfiguration) {
		k.ImageMinimumGCAge, k.ImageMaximumGCAge = metav1.Duration{Duration: 1}, metav1.Duration{Duration: 2}
	}))
	c.awaitCollected(t, suite.Limit)
	c.awaitFree(t, before+unusedSize*9/10)
}

// TestImageThreshold: where the disk is fuller than one share, kubelet removes
// images until it is less full than another.
func TestImageThreshold(t *testing.T) {
	c := joinCollector(t, "fuller", 7, nil)
	high, low := int32(75), int32(60)
	c.fill(t, "filler", collectorDisk/5)
	must(t, c.Reconfigure(t.Context(), func(k *kubeletconfig.KubeletConfiguration) {
		k.ImageMinimumGCAge = metav1.Duration{Duration: time.Second}
		k.ImageGCHighThresholdPercent, k.ImageGCLowThresholdPercent = &high, &low
	}))
	// At its start kubelet sees the images for the first time, and they are too
	// young; it looks again after five minutes.
	c.awaitCollected(t, 6*time.Minute)
	c.awaitFree(t, collectorDisk*(100-int64(low))/100)
	if events := shared.Do(t, "get", "events", "--all-namespaces", "--field-selector=involvedObject.name=fuller"); strings.Contains(events, "ImageGCFailed") {
		t.Error(events)
	}
}

// TestDiskPressureTakesImagesFirst: where the disk runs full, kubelet removes the
// containers that have ended and the images that nobody uses, looks at once how much
// that has brought, and evicts no pod if it is enough.
func TestDiskPressureTakesImagesFirst(t *testing.T) {
	c := joinCollector(t, "saved", 8, nil)
	const threshold = 100 << 20
	must(t, c.Reconfigure(t.Context(), func(k *kubeletconfig.KubeletConfiguration) {
		k.ImageMinimumGCAge = metav1.Duration{Duration: time.Second}
		k.EvictionHard = map[string]string{"nodefs.available": "100Mi", "imagefs.available": "100Mi"}
		k.EvictionPressureTransitionPeriod = metav1.Duration{Duration: time.Second}
	}))
	seen := time.Now()
	startPod(t, c.ns, on("saved", pod("other", shell("c", idle))))
	const written = 150 << 20
	shared.Create(t, c.ns, on("saved", pod("ended", shell("c", fmt.Sprintf("dd if=/dev/zero of=/file bs=1M count=%d", written>>20)))))
	shared.AwaitPhase(t, c.ns, "ended", corev1.PodSucceeded)
	suite.Await(t, suite.Limit, "the images are old enough", func(context.Context) (bool, error) { return time.Since(seen) > 2*time.Second, nil })

	c.fill(t, "filler", threshold/2)
	c.awaitCollected(t, suite.Limit)
	shared.AwaitPod(t, c.ns, "other", "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	c.awaitFree(t, threshold/2+(unusedSize+written)*9/10)
	if events := shared.Do(t, "get", "events", "-n", c.ns); strings.Contains(events, "Evicted") {
		t.Error(events)
	}
	if events := shared.Do(t, "get", "events", "--all-namespaces", "--field-selector=involvedObject.name=saved"); !strings.Contains(events, "EvictionThresholdMet") {
		t.Errorf("there was no pressure: %s", events)
	}
}
