package conformance

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/image"
)

// Images are the images that the specs name, by path and tag as they are behind
// the registry's name. The bases are Debian's and busybox's instead of Alpine's;
// all programs are compiled from Kubernetes' module.
type Images map[string]v1.Image

// recipe says how to make one image.
type recipe struct {
	// tags are names with a version.
	tags []string
	// onBusybox puts it on busybox instead of Debian; scratch on nothing.
	onBusybox, scratch bool
	// programs are the names of built programs, by their place in the image.
	programs map[string]string
	files    []image.File
	config   v1.Config
}

// path is that of Debian.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// recipes are all images we can make; what is missing is in doc.go.
func (m *maker) recipes() []recipe {
	agnhost := map[string]string{"agnhost": build.Agnhost}
	return []recipe{
		{tags: []string{"busybox:1.37.0-2"}, onBusybox: true, config: v1.Config{Cmd: []string{"sh"}}},
		{tags: []string{"pause:3.10.2", "pause:3.10.1", "pause:3.10"}, scratch: true,
			programs: map[string]string{"pause": build.Pause}, config: v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		{tags: []string{"agnhost:2.66.1", "agnhost:2.55"}, programs: map[string]string{"agnhost": build.Agnhost, "coredns": build.CoreDNS}, files: m.agnhostFiles(),
			config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}},
		{tags: []string{"kitten:1.8"}, programs: agnhost, files: served("kitten"),
			config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}}},
		{tags: []string{"nautilus:1.8"}, programs: agnhost, files: served("nautilus"),
			config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}}},
		{tags: []string{"nginx:1.27.0-2", "nginx:1.28.0-2"}, files: nginxFiles(), config: v1.Config{Cmd: []string{"nginx", "-g", "daemon off;"}}},
		{tags: []string{"nonewprivs:1.4"}, programs: map[string]string{"usr/local/bin/nnp": build.NoNewPrivs}, config: v1.Config{Cmd: []string{"nnp"}}},
		{tags: []string{"nonroot:1.5"}, onBusybox: true, config: v1.Config{Cmd: []string{"sh"}, User: "1234"}},
		{tags: []string{"perl:5.26"}, config: v1.Config{Cmd: []string{"perl"}}},
		{tags: []string{"ipc-utils:1.4"}, config: v1.Config{Cmd: []string{"sh"}}},
		{tags: []string{"glibc-dns-testing:2.1.1"}, config: v1.Config{Cmd: []string{"bash"}}},
		{tags: []string{"regression-issue-74839:1.5"}, scratch: true, programs: map[string]string{"regression-issue-74839": build.Regression74839},
			config: v1.Config{Entrypoint: []string{"/regression-issue-74839"}}},
		{tags: []string{"resource-consumer:1.14"}, config: v1.Config{Entrypoint: []string{"/consumer"}},
			programs: map[string]string{"consumer": build.Consumer, "consume-cpu": build.ConsumeCPU}},
		{tags: []string{"sample-device-plugin:1.7", "sample-device-plugin:1.8.0"}, programs: map[string]string{"sampledeviceplugin": build.DevicePlugin},
			config: v1.Config{Entrypoint: []string{"/sampledeviceplugin"}}},
	}
}

// maker makes images; the first error ends it.
type maker struct {
	programs build.Programs
	debian   string // tar of its root
	bases    map[bool]v1.Image
	err      error
}

// MakeImages makes all images; debian is what MakeDebian has made.
func MakeImages(programs build.Programs, debian string) (Images, error) {
	m := &maker{programs: programs, debian: debian, bases: map[bool]v1.Image{}}
	images := Images{}
	for _, r := range m.recipes() {
		img := m.build(r)
		for _, tag := range r.tags {
			repo := "e2e-test-images/" + tag
			if strings.HasPrefix(tag, "pause:") {
				repo = tag
			}
			images[repo] = img
		}
	}
	return images, m.err
}

func (m *maker) build(r recipe) v1.Image {
	if m.err != nil {
		return nil
	}
	files := r.files
	for _, place := range slices.Sorted(maps.Keys(r.programs)) {
		f := image.File{Name: place, Mode: 0o755, Data: m.read(m.programs.Path(r.programs[place]))}
		if r.programs[place] == build.NoNewPrivs {
			f.Mode = 0o4755
		}
		files = append(files, f)
	}
	if m.err != nil {
		return nil
	}
	r.config.Env = append(r.config.Env, path)
	top, err := image.Build(image.Spec{Layers: [][]image.File{files}, Config: r.config})
	if err == nil && !r.scratch {
		top, err = m.onto(r.onBusybox, top, len(files) > 0)
	}
	if err != nil {
		m.err = fmt.Errorf("build %q: %w", r.tags, err)
	}
	return top
}

// onto puts the layer and the configuration of one image onto a base.
func (m *maker) onto(busybox bool, top v1.Image, withLayer bool) (v1.Image, error) {
	base, ok := m.bases[busybox]
	if !ok {
		var err error
		if busybox {
			base, err = busyboxBase(m.debian)
		} else {
			base, err = debianBase(m.debian)
		}
		if err != nil {
			return nil, err
		}
		m.bases[busybox] = base
	}
	config, err := top.ConfigFile()
	if err != nil {
		return nil, err
	}
	if withLayer {
		layers, err := top.Layers()
		if err != nil {
			return nil, err
		}
		if base, err = mutate.AppendLayers(base, layers...); err != nil {
			return nil, err
		}
	}
	return mutate.Config(base, config.Config)
}

// read is a file's content.
func (m *maker) read(path string) []byte {
	data, err := os.ReadFile(path)
	if m.err == nil {
		m.err = err
	}
	return data
}

// agnhostFiles are all but the program: what its commands serve, and the users
// that specs run it as.
func (m *maker) agnhostFiles() []image.File {
	cert, key, err := certificate()
	if err != nil && m.err == nil {
		m.err = err
	}
	files := []image.File{
		{Name: "usr/bin/nmeter", Mode: 0o755, Data: []byte(nmeter)},
		{Name: "localhost.crt", Mode: 0o644, Data: cert}, {Name: "localhost.key", Mode: 0o644, Data: key}, image.Dir("uploads"),
		{Name: "agnhost-2", Type: tar.TypeSymlink, Mode: 0o777, Link: "agnhost"},
		image.Text("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\nuser-defined-in-image:x:1000:1000::/home:/bin/sh\n"),
		image.Text("etc/group", "root:x:0:\nnogroup:x:65534:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"),
	}
	served, err := m.servedImage("pause", "testing")
	if err != nil && m.err == nil {
		m.err = err
	}
	return append(files, served...)
}

// servedImage is a small image in the form in which agnhost's fake registry
// has them on its disk.
func (m *maker) servedImage(name, tag string) ([]image.File, error) {
	pause := m.build(recipe{tags: []string{name}, scratch: true,
		programs: map[string]string{"pause": build.Pause}, config: v1.Config{Entrypoint: []string{"/pause"}}})
	if m.err != nil {
		return nil, m.err
	}
	index := image.Index(true, map[string]v1.Image{"amd64": pause})
	top := "var/registry/" + name + "/"
	var files []image.File
	add := func(kind string, data []byte) string {
		sum := sha256.Sum256(data)
		digest := hex.EncodeToString(sum[:])
		files = append(files, image.File{Name: top + kind + "/sha256/" + digest[:2] + "/" + digest + "/data", Mode: 0o644, Data: data})
		return "sha256:" + digest
	}
	raw, err := index.RawManifest()
	if err != nil {
		return nil, err
	}
	files = append(files, image.Text(top+"manifests/"+tag, add("manifests", raw)+"\n"))
	for _, part := range []struct {
		kind string
		read func() ([]byte, error)
	}{{"manifests", pause.RawManifest}, {"blobs", pause.RawConfigFile}, {"blobs", func() ([]byte, error) { return onlyLayer(pause) }}} {
		data, err := part.read()
		if err != nil {
			return nil, err
		}
		add(part.kind, data)
	}
	return files, nil
}

// served are the files by which one image can be told from another. Specs know
// the real ones by their system's name, too.
func served(name string) []image.File {
	return []image.File{
		image.Text("data.json", "{\"image\": \""+name+".jpg\"}\n"), image.Text(name+".jpg", name+"\n"),
		image.Text("etc/os-release", "NAME=\"Debian, in the place of Alpine Linux\"\n"),
	}
}

func nginxFiles() []image.File {
	return []image.File{
		image.Text("etc/nginx/nginx.conf", "user www-data;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log stderr;\n"+
			"events { worker_connections 64; }\nhttp { access_log /dev/stdout; server { listen 80; root /usr/share/nginx/html; } }\n"),
		image.Text("usr/share/nginx/html/index.html", "<html><head><title>Welcome to nginx!</title></head><body>Welcome to nginx!</body></html>\n"),
	}
}
