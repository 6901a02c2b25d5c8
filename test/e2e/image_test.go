package e2e

import (
	"archive/tar"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
)

// push builds and pushes an image that differs from every other by its mark.
func (e *env) push(repoTag string, s image.Spec) (ref string, digest v1.Hash) {
	e.Helper()
	s.Layers = append(slices.Clone(s.Layers), []image.File{image.Text("mark", repoTag+e.Name())})
	img, err := image.Build(s)
	e.must(err)
	digest, err = shared.registry.Push(e.Context(), repoTag, img)
	e.must(err)
	return shared.registry.Ref(repoTag), digest
}

// pull pulls a reference and removes the image when the test ends.
func (e *env) pull(ref string) string {
	e.Helper()
	id, err := e.node.Images.PullImage(e.Context(), &runtimeapi.ImageSpec{Image: ref}, nil, nil)
	if err != nil {
		e.Fatalf("pull %s: %v", ref, err)
	}
	e.Cleanup(func() { e.removeImage(id) })
	return id
}

func (e *env) removeImage(ref string) {
	e.Helper()
	if err := e.node.Images.RemoveImage(cleanup(e.T), &runtimeapi.ImageSpec{Image: ref}); err != nil {
		e.Errorf("remove image %s: %v", ref, err)
	}
}

// image asks for an image; nil where there is none.
func (e *env) image(ref string) *runtimeapi.Image {
	e.Helper()
	r, err := e.node.Images.ImageStatus(e.Context(), &runtimeapi.ImageSpec{Image: ref}, false)
	if err != nil {
		e.Fatalf("status of image %s: %v", ref, err)
	}
	return r.Image
}

// using makes a container use another image.
func using(ref string) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		c.Image = &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: ref}
	}
}

// TestImageForms pulls every form a registry may serve and runs each.
func TestImageForms(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	top := []image.File{image.Dir("data"), image.Text("data/hello", "hello\n")}
	for _, tc := range []struct {
		name string
		form image.Form
	}{
		{"oci gzip", image.Form{}},
		{"oci zstd", image.Form{Compression: "zstd"}},
		{"oci plain", image.Form{Compression: "plain"}},
		{"docker gzip", image.Form{Docker: true}},
		{"docker plain", image.Form{Docker: true, Compression: "plain"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := e.in(t)
			ref, _ := e.push("forms/"+strings.ReplaceAll(tc.name, " ", "-")+":1", image.Spec{
				Form: tc.form, Layers: [][]image.File{shared.busybox, top},
			})
			id := e.pull(ref)
			r := e.runs(p, podName(t), []string{"cat", "/data/hello"}, using(id))
			equal(e, "stdout", r.stdout, "hello\n")
			equal(e, "image_id of the container", r.status.ImageId, id)
			e.must(e.node.Runtime.RemoveContainer(e.Context(), r.status.Id))
		})
	}
}

// TestImageIndex takes the manifest of this machine's platform out of an index.
func TestImageIndex(t *testing.T) {
	for _, docker := range []bool{false, true} {
		t.Run(fmt.Sprintf("docker=%v", docker), func(t *testing.T) {
			e := onShared(t)
			images := map[string]v1.Image{}
			for _, arch := range []string{runtime.GOARCH, "s390x", "riscv64"} {
				img, err := image.Build(image.Spec{Form: image.Form{Docker: docker}, Architecture: arch,
					Layers: [][]image.File{{image.Text("arch", arch+t.Name())}}})
				e.must(err)
				images[arch] = img
			}
			tag := fmt.Sprintf("index/docker-%v:1", docker)
			digest, err := shared.registry.PushIndex(e.Context(), tag, image.Index(docker, images))
			e.must(err)
			want, err := images[runtime.GOARCH].ConfigName()
			e.must(err)
			equal(e, "image id", e.pull(shared.registry.Ref(tag)), want.String())

			byDigest := shared.registry.Ref(strings.TrimSuffix(tag, ":1")) + "@" + digest.String()
			equal(e, "image id by digest", e.pull(byDigest), want.String())
			sameSet(e, "repo digests", e.image(want.String()).RepoDigests, byDigest)
		})
	}
}

// TestImageNames checks the one id everywhere, and what each kind of name shows.
func TestImageNames(t *testing.T) {
	e := onShared(t)
	ref, digest := e.push("names/a:1", image.Spec{Layers: [][]image.File{{image.Text("f", "names")}}})
	repo := shared.registry.Ref("names/a")
	id := e.pull(ref)
	if !strings.HasPrefix(id, "sha256:") {
		t.Errorf("id %q is no digest", id)
	}
	byTag := e.image(ref)
	if byTag == nil {
		t.Fatal("pulled image has no status")
	}
	equal(e, "id", byTag.Id, id)
	sameSet(e, "tags", byTag.RepoTags, ref)
	sameSet(e, "digests", byTag.RepoDigests, repo+"@"+digest.String())
	if byTag.Size == 0 {
		t.Error("size is 0")
	}
	for _, name := range []string{id, strings.TrimPrefix(id, "sha256:"), strings.TrimPrefix(id, "sha256:")[:13], repo + "@" + digest.String()} {
		if got := e.image(name); !proto.Equal(got, byTag) {
			t.Errorf("status by %q differs: %v", name, got)
		}
	}
	for _, name := range []string{repo + ":other", strings.Repeat("0", 64), "sha256:" + strings.Repeat("0", 64), "nothing/like/this"} {
		if got := e.image(name); got != nil {
			t.Errorf("status by %q is %v, want none", name, got)
		}
	}
	// A second tag in another repository is the same image.
	img, err := image.Build(image.Spec{Layers: [][]image.File{{image.Text("f", "names")}, {image.Text("mark", "names/a:1"+t.Name())}}})
	e.must(err)
	_, err = shared.registry.Push(e.Context(), "names/b:2", img)
	e.must(err)
	equal(e, "id of second tag", e.pull(shared.registry.Ref("names/b:2")), id)
	sameSet(e, "tags", e.image(id).RepoTags, ref, shared.registry.Ref("names/b:2"))
	list, err := e.node.Images.ListImages(e.Context(), &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: ref}})
	e.must(err)
	if len(list) != 1 || list[0].Id != id {
		t.Errorf("list by name gives %v", list)
	}
	e.removeImage(ref)
	for _, name := range []string{ref, id, shared.registry.Ref("names/b:2")} {
		if got := e.image(name); got != nil {
			t.Errorf("after removal %q gives %v", name, got)
		}
	}
	e.removeImage(id)
	e.removeImage(strings.Repeat("0", 64))
}

// TestImageByDigestOnly has no tags; TestImageUntagged gets "latest".
func TestImageByDigestOnly(t *testing.T) {
	e := onShared(t)
	_, digest := e.push("digest/only:1", image.Spec{Layers: [][]image.File{{image.Text("f", "digest")}}})
	ref := shared.registry.Ref("digest/only") + "@" + digest.String()
	img := e.image(e.pull(ref))
	sameSet(e, "tags", img.RepoTags)
	sameSet(e, "digests", img.RepoDigests, ref)
}

func TestImageUntagged(t *testing.T) {
	e := onShared(t)
	e.push("digest/untagged:latest", image.Spec{Layers: [][]image.File{{image.Text("f", "untagged")}}})
	img := e.image(e.pull(shared.registry.Ref("digest/untagged")))
	sameSet(e, "tags", img.RepoTags, shared.registry.Ref("digest/untagged:latest"))
}

// TestImageUser shows uid or username, never both.
func TestImageUser(t *testing.T) {
	e := onShared(t)
	for user, want := range map[string]string{
		"": "<nil> ", "1002": "1002 ", "1003:1003": "1003 ", "www-data": "<nil> www-data", "www-data:www-data": "<nil> www-data",
	} {
		t.Run("user="+user, func(t *testing.T) {
			e := e.in(t)
			ref, _ := e.push("user/u"+fmt.Sprintf("%x", user)+":1", image.Spec{
				Layers: [][]image.File{{image.Text("f", "user"+user)}}, Config: v1.Config{User: user},
			})
			img := e.image(e.pull(ref))
			got := "<nil> " + img.Username
			if img.Uid != nil {
				got = fmt.Sprintf("%d %s", img.Uid.Value, img.Username)
			}
			equal(e, "user", got, want)
		})
	}
}

// TestImageContents unpacks whiteouts, opaque directories, links, attributes,
// file capabilities and more layers than one mount option page holds.
func TestImageContents(t *testing.T) {
	e := onShared(t)
	// cap_net_raw+ep, version 2
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	layers := [][]image.File{
		shared.busybox,
		{
			image.Dir("d"), image.Text("d/gone", "x"), image.Text("d/kept", "x"),
			image.Dir("o"), image.Text("o/old", "x"), image.Dir("o/sub"), image.Text("o/sub/old", "x"),
			image.Text("h1", "linked\n"), {Name: "h2", Type: tar.TypeLink, Link: "h1"},
			{Name: "s", Type: tar.TypeSymlink, Mode: 0o777, Link: "/d/kept"},
			{Name: "cap", Mode: 0o755, Data: []byte("x"), Xattrs: map[string]string{"security.capability": capability}},
			{Name: "attr", Mode: 0o644, Xattrs: map[string]string{"user.color": "blue"}},
			{Name: "owned", Mode: 0o6750, UID: 1000, GID: 33, Data: []byte("x")},
			{Name: "fifo", Type: tar.TypeFifo, Mode: 0o600},
		},
		{image.Text("d/.wh.gone", ""), image.Text("o/.wh..wh..opq", ""), image.Text("o/new", "x")},
	}
	for i := range 70 {
		layers = append(layers, []image.File{image.Text(fmt.Sprintf("deep/%02d", i), "x"), image.Text("deep/last", fmt.Sprint(i))})
	}
	ref, _ := e.push("contents/all:1", image.Spec{Layers: layers})
	id := e.pull(ref)
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"}, using(id))
		for _, tc := range []struct{ script, want string }{
			{"ls /d", "kept\n"},
			{"ls /o", "new\n"},
			{"stat -c %i /h1 /h2 | sort -u | wc -l", "1\n"},
			{"stat -c %h /h1", "2\n"},
			{"readlink /s", "/d/kept\n"},
			{"probe xattr /cap | grep capability", "security.capability=" + fmt.Sprintf("%x", capability) + "\n"},
			{"probe xattr /attr | grep user", "user.color=626c7565\n"},
			{"stat -c '%a %u %g' /owned", "6750 1000 33\n"},
			{"stat -c %F /fifo", "fifo\n"},
			{"ls /deep | wc -l; cat /deep/last", "71\n69"},
			{"echo new > /d/kept && cat /d/kept", "new\n"},
		} {
			equal(e, tc.script, e.exec(c.id, "sh", "-c", tc.script), tc.want)
		}
	})
}

// TestImageRemoveWhileUsed must not disturb a container of the image.
func TestImageRemoveWhileUsed(t *testing.T) {
	e := onShared(t)
	ref, _ := e.push("used/a:1", image.Spec{Layers: [][]image.File{shared.busybox, {image.Text("f", "still here\n")}}})
	id := e.pull(ref)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"}, using(id))
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() {
			e.removeImage(id)
			if got := e.image(id); got != nil {
				t.Errorf("image is there after its removal: %v", got)
			}
		})
	}
	group.Wait()
	equal(e, "file of a removed image", e.exec(c.id, "cat", "/f"), "still here\n")
	equal(e, "image_id", e.status(c.id).ImageId, id)
	config := kubelet.Container{Name: "second", Image: id, Command: []string{"true"}}.Config(p.config)
	if _, err := e.node.Runtime.CreateContainer(e.Context(), p.id, config, p.config); err == nil {
		t.Error("created a container of a removed image")
	}
}

// TestImageFsInfo has numbers a disk can have.
func TestImageFsInfo(t *testing.T) {
	e := onShared(t)
	info, err := e.node.Images.ImageFsInfo(e.Context())
	e.must(err)
	if len(info.ImageFilesystems) == 0 {
		t.Fatal("no image file system")
	}
	fs := info.ImageFilesystems[0]
	if fs.Timestamp == 0 || !strings.HasPrefix(fs.FsId.GetMountpoint(), "/") || fs.UsedBytes.GetValue() == 0 || fs.InodesUsed.GetValue() == 0 {
		t.Errorf("image file system is %v", fs)
	}
}
