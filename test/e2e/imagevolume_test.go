package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// imageMount mounts an image, or a part of it.
func imageMount(at, id, part string) *runtimeapi.Mount {
	return &runtimeapi.Mount{
		ContainerPath: at, Readonly: true, ImageSubPath: part,
		Image: &runtimeapi.ImageSpec{Image: id, UserSpecifiedImage: "what/the:user-wrote"},
	}
}

// createRefused asks for a container that must not come to be.
func (e *env) createRefused(p *pod, code codes.Code, field string, edits ...func(*runtimeapi.ContainerConfig)) string {
	e.Helper()
	config := kubelet.Container{Name: "refused", Image: shared.image, Command: []string{"true"}}.Config(p.config)
	for _, edit := range edits {
		edit(config)
	}
	_, err := e.node.Runtime.CreateContainer(e.Context(), p.id, config, p.config)
	refused(e, err, code, field)
	return grpcstatus.Convert(err).Message()
}

// TestImageVolume mounts an image: read-only, whole and in parts, with programs
// that run, and reported as kubelet's garbage collection needs it.
func TestImageVolume(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		files := []image.File{
			image.Dir("sub"), image.Text("sub/f", "from image\n"), {Name: "abs", Type: '2', Mode: 0o777, Link: "/sub"},
			{Name: "out", Type: '2', Mode: 0o777, Link: "../../../../../../../../etc"},
		}
		ref, _ := e.push("volume/"+handler+":1", image.Spec{Layers: [][]image.File{shared.busybox, files}})
		id := e.pull(ref)
		p := e.runPod(handler)
		mounts := []*runtimeapi.Mount{
			imageMount("/vol", id, ""), imageMount("/part", ref, "sub"), imageMount("/link", id, "abs/"), imageMount("/file", id, "abs/f"),
			imageMount("/image-etc", id, "out"), imageMount("/noexec", id, "bin"),
		}
		mounts[5].MountOptions = []string{"noexec", "nosuid"}
		mounts[0].RecursiveReadOnly = true
		c := e.start(p, "c", []string{"sleep", "1000"}, mounting(mounts...))
		equal(e, "content", e.exec(c.id, "cat", "/vol/sub/f", "/part/f", "/link/f", "/file"), strings.Repeat("from image\n", 4))
		contains(e, "the image's own etc", e.exec(c.id, "cat", "/image-etc/passwd"), "alice")
		e.exec(c.id, "/vol/bin/busybox", "true")
		for script, want := range map[string]string{
			"touch /vol/x": "Read-only file system", "rm /part/f": "Read-only file system", "echo x > /file": "Read-only file system",
			"/noexec/busybox true": "Permission denied", "mount -o remount,rw /vol": "denied",
		} {
			contains(e, script, e.exec(c.id, "sh", "-c", "("+script+") 2>&1; true"), want)
		}
		s := e.status(c.id)
		if len(s.Mounts) != len(mounts) {
			e.Fatalf("status has mounts %v", s.Mounts)
		}
		for i, m := range s.Mounts {
			if m.Image.GetImage() != id || m.Image.GetImageRef() != id || m.Image.GetUserSpecifiedImage() != "what/the:user-wrote" ||
				m.ImageSubPath != mounts[i].ImageSubPath || !m.Readonly || m.HostPath != "" || m.ContainerPath != mounts[i].ContainerPath {
				e.Errorf("mount in the status is %v", m)
			}
		}
		// What is removed while it is used stays readable.
		e.removeImage(id)
		if e.image(id) != nil {
			e.Error("the removed image is still there")
		}
		equal(e, "content of a removed image", e.exec(c.id, "cat", "/vol/sub/f"), "from image\n")
	})
}

// TestImageVolumePrivileged: not even root with every right can write into an
// image.
func TestImageVolumePrivileged(t *testing.T) {
	e := onShared(t)
	ref, _ := e.push("volume/privileged:1", image.Spec{Layers: [][]image.File{{image.Text("f", "x")}}})
	id := e.pull(ref)
	p := e.runPod("", func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	c := e.start(p, "c", []string{"sleep", "1000"}, mounting(imageMount("/vol", id, "")), security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }))
	out := e.exec(c.id, "sh", "-c", "mount -o remount,rw /vol 2>&1; mount -o remount,rw,bind /vol 2>&1; echo changed > /vol/f; cat /vol/f")
	if !strings.HasSuffix(out, "x") {
		e.Errorf("the image was changed: %q", out)
	}
}

// TestImageVolumeRefused: what cannot be mounted is said at create, with the
// word that kubelet looks for, and nothing stays.
func TestImageVolumeRefused(t *testing.T) {
	e := onShared(t)
	ref, _ := e.push("volume/refused:1", image.Spec{Layers: [][]image.File{{image.Text("f", "x"), {Name: "loop", Type: '2', Link: "loop"}, {Name: "fifo", Type: '6', Mode: 0o600}}}})
	id := e.pull(ref)
	p := e.runPod("")
	for name, tc := range map[string]struct {
		code  codes.Code
		field string
		edit  func(*runtimeapi.Mount)
	}{
		"writable":     {codes.InvalidArgument, "config.mounts[0].readonly", func(m *runtimeapi.Mount) { m.Readonly = false }},
		"host path":    {codes.InvalidArgument, "config.mounts[0].host_path", func(m *runtimeapi.Mount) { m.HostPath = "/tmp" }},
		"dots":         {codes.InvalidArgument, "config.mounts[0].image_sub_path", func(m *runtimeapi.Mount) { m.ImageSubPath = "a/../../x" }},
		"absolute":     {codes.InvalidArgument, "config.mounts[0].image_sub_path", func(m *runtimeapi.Mount) { m.ImageSubPath = "/f" }},
		"option":       {codes.InvalidArgument, "config.mounts[0].mount_options[0]", func(m *runtimeapi.Mount) { m.MountOptions = []string{"suid"} }},
		"absent image": {codes.NotFound, "config.mounts[0].image.image", func(m *runtimeapi.Mount) { m.Image.Image = "sha256:" + strings.Repeat("0", 64) }},
		"missing":      {codes.Unknown, "image_sub_path", func(m *runtimeapi.Mount) { m.ImageSubPath = "none" }},
		"below a file": {codes.Unknown, "image_sub_path", func(m *runtimeapi.Mount) { m.ImageSubPath = "f/x" }},
		"loop":         {codes.Unknown, "image_sub_path", func(m *runtimeapi.Mount) { m.ImageSubPath = "loop" }},
		"pipe":         {codes.Unknown, "image_sub_path", func(m *runtimeapi.Mount) { m.ImageSubPath = "fifo" }},
	} {
		e.Run(name, func(t *testing.T) {
			e := e.in(t)
			mount := imageMount("/vol", id, "")
			tc.edit(mount)
			message := e.createRefused(p, tc.code, tc.field, mounting(mount))
			if tc.code == codes.Unknown && !strings.HasPrefix(message, "ImageVolumeMountFailed") {
				e.Errorf("message is %q", message)
			}
		})
	}
	e.check() // no mount is left
}

// TestImageVolumeRestart: mounts and what they hold outlive the daemon, and go
// with the container.
func TestImageVolumeRestart(t *testing.T) {
	e := ownNode(t, node.Options{Number: 31})
	ref, _ := e.push("volume/restart:1", image.Spec{Layers: [][]image.File{{image.Text("f", "here\n")}}})
	id, err := e.node.Images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: ref}, nil, nil)
	e.must(err)
	e.must(e.node.Images.RemoveImage(t.Context(), &runtimeapi.ImageSpec{Image: shared.image}))
	_, err = e.node.Images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: shared.image}, nil, nil)
	e.must(err)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"}, mounting(imageMount("/vol", id, "")))
	e.removeImage(id)
	e.must(e.node.Kill())
	e.must(e.node.Restart(t.Context()))
	equal(e, "content", e.exec(c.id, "cat", "/vol/f"), "here\n")
	equal(e, "image in the status", e.status(c.id).Mounts[0].Image.GetImageRef(), id)
	e.must(e.node.Runtime.RemoveContainer(t.Context(), c.id))
	if left, err := filepath.Glob(filepath.Join(e.node.State, "containers", c.id, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestArtifact pulls an OCI artifact and mounts it; it is no image to run.
func TestArtifact(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		a, err := image.Artifact(image.Text("model/weights.bin", strings.Repeat("w", 100000)), image.Text("config.json", "{}\n"), image.Text("", "no name"))
		e.must(err)
		digest, err := shared.registry.Push(e.Context(), "artifact/"+handler+":1", a)
		e.must(err)
		ref := shared.registry.Ref("artifact/" + handler + ":1")
		id := e.pull(ref)
		equal(e, "id", id, digest.String())
		status := e.image(ref)
		sameSet(e, "tags", status.RepoTags, ref)
		sameSet(e, "digests", status.RepoDigests, strings.TrimSuffix(ref, ":1")+"@"+digest.String())
		if status.Size < 100000 || status.Uid != nil || status.Username != "" {
			e.Errorf("artifact is %v", status)
		}
		p := e.runPod(handler)
		contains(e, "running an artifact", e.createRefused(p, codes.InvalidArgument, "config.image", using(id)), "OCI artifact")
		c := e.start(p, "c", []string{"sleep", "1000"}, mounting(imageMount("/a", id, ""), imageMount("/w", id, "model/weights.bin")))
		equal(e, "files", e.exec(c.id, "sh", "-c", "cd /a && find . -type f | grep -v sha256 | sort | xargs wc -c | awk '{print $2, $1}'"),
			"./config.json 3\n./model/weights.bin 100000\ntotal 100003\n")
		equal(e, "sub path", strings.TrimSpace(e.exec(c.id, "sh", "-c", "wc -c < /w")), "100000")
		contains(e, "write", e.exec(c.id, "sh", "-c", "(echo x >> /a/config.json) 2>&1; true"), "Read-only file system")
		e.removeImage(id)
		equal(e, "content of a removed artifact", e.exec(c.id, "cat", "/a/config.json"), "{}\n")
		if e.image(ref) != nil {
			e.Error("the removed artifact is still there")
		}
	})
}

// TestArtifactHostile: titles that lead out, or to one another, are refused.
func TestArtifactHostile(t *testing.T) {
	e := onShared(t)
	for name, files := range map[string][]image.File{
		"up":        {image.Text("../../../../../tmp/e2e-escaped", "x")},
		"absolute":  {image.Text("/tmp/e2e-escaped", "x")},
		"twice":     {image.Text("a", "1"), image.Text("a", "2")},
		"file, dir": {image.Text("a", "1"), image.Text("a/b", "2")},
	} {
		a, err := image.Artifact(files...)
		e.must(err)
		repo := "artifact/hostile-" + strings.ReplaceAll(name, ", ", "-")
		_, err = shared.registry.Push(t.Context(), repo+":1", a)
		e.must(err)
		if _, err := e.node.Images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: shared.registry.Ref(repo + ":1")}, nil, nil); err == nil {
			t.Errorf("%s: pulled", name)
		}
	}
	if _, err := os.Lstat("/tmp/e2e-escaped"); err == nil {
		t.Error("an artifact has escaped")
	}
	// The bytes of a layer as an artifact's file must not become that layer.
	l, err := image.NewLayer(image.Form{Compression: "plain"}, image.Text("f", "right\n"))
	e.must(err)
	plain, err := l.Uncompressed()
	e.must(err)
	data := make([]byte, 64<<10)
	n, _ := plain.Read(data)
	a, err := image.Artifact(image.File{Name: "x", Data: data[:n]})
	e.must(err)
	_, err = shared.registry.Push(t.Context(), "artifact/layer:1", a)
	e.must(err)
	e.pull(shared.registry.Ref("artifact/layer:1"))
	img, err := image.Build(image.Spec{})
	e.must(err)
	img, err = mutate.AppendLayers(img, l)
	e.must(err)
	_, err = shared.registry.Push(t.Context(), "artifact/image:1", img)
	e.must(err)
	id := e.pull(shared.registry.Ref("artifact/image:1"))
	p := e.runPod("")
	equal(e, "content", e.sh(p, "c", "cat /vol/f", mounting(imageMount("/vol", id, ""))).stdout, "right\n")
}

// TestImageVolumeUserNS: the files of an image belong to root where root is
// another on the host.
func TestImageVolumeUserNS(t *testing.T) {
	withUserNS(t, func(e *env, handler string) {
		ref, _ := e.push("volume/userns-"+handler+":1", image.Spec{Layers: [][]image.File{{image.Text("f", "x"), {Name: "g", Mode: 0o640, UID: 1000, GID: 50}}}})
		id := e.pull(ref)
		a, err := image.Artifact(image.Text("a/b", "x"))
		e.must(err)
		_, err = shared.registry.Push(e.Context(), "artifact/userns:1", a)
		e.must(err)
		artifact := e.pull(shared.registry.Ref("artifact/userns:1"))
		p := e.runPod(handler, mapped)
		uids, gids := idMappings()
		withMapping := imageMount("/vol", id, "")
		withMapping.UidMappings, withMapping.GidMappings = uids, gids
		r := e.sh(p, "c", "stat -c '%u:%g' /vol/f /vol/g /file /art/a/b /art/a", ofPod(p), mounting(withMapping, imageMount("/file", id, "f"), imageMount("/art", artifact, "")))
		equal(e, "owners", r.stdout+r.stderr, "0:0\n1000:50\n0:0\n0:0\n0:0\n")
	})
}
