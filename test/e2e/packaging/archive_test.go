package packaging

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// archive is a tar of images in the making: its files by name.
type archive map[string][]byte

func (a archive) json(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	a[name] = b
}

// blob adds a blob of an OCI layout.
func (a archive) blob(t *testing.T, mediaType types.MediaType, b []byte) v1.Descriptor {
	t.Helper()
	h, size, err := v1.SHA256(bytes.NewReader(b))
	must(t, err)
	a[path(h)] = b
	return v1.Descriptor{MediaType: mediaType, Size: size, Digest: h}
}

func path(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// tar is the archive, its files in the order of their names.
func (a archive) tar(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, file := range slices.Sorted(maps.Keys(a)) {
		must(t, w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(a[file])), Format: tar.FormatPAX}))
		_, err := w.Write(a[file])
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// add adds an image as docker save writes it, with layers as they are in files,
// and returns the descriptor of its manifest.
func (a archive) add(t *testing.T, img v1.Image, compressed bool) (v1.Descriptor, []string) {
	t.Helper()
	config, err := img.RawConfigFile()
	must(t, err)
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: a.blob(t, types.OCIConfigJSON, config)}
	layers, err := img.Layers()
	must(t, err)
	files := []string{path(m.Config.Digest)}
	for _, l := range layers {
		open, mediaType := l.Uncompressed, types.OCIUncompressedLayer
		if compressed {
			open, mediaType = l.Compressed, types.OCILayer
		}
		r, err := open()
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		m.Layers = append(m.Layers, a.blob(t, mediaType, b))
		files = append(files, path(m.Layers[len(m.Layers)-1].Digest))
	}
	b, err := json.Marshal(m)
	must(t, err)
	return a.blob(t, types.OCIManifestSchema1, b), files
}

// finish adds the lists of what is in the archive: one for OCI and docker's own.
func (a archive) finish(t *testing.T, images []v1.Descriptor, names [][]string, files [][]string) []byte {
	t.Helper()
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	type entry struct {
		Config           string
		RepoTags, Layers []string
	}
	var list []entry
	for i, d := range images {
		for _, full := range names[i] {
			d.Annotations = map[string]string{"io.containerd.image.name": full, "org.opencontainers.image.ref.name": full[strings.LastIndex(full, ":")+1:]}
			index.Manifests = append(index.Manifests, d)
		}
		list = append(list, entry{files[i][0], names[i], files[i][1:]})
	}
	a.json(t, "index.json", index)
	a.json(t, "manifest.json", list)
	a["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
	return a.tar(t)
}

// dockerSave is what docker save writes since version 25: an OCI layout and
// docker's own list in one.
func dockerSave(t *testing.T, img v1.Image, names ...string) []byte {
	t.Helper()
	a := archive{}
	d, files := a.add(t, img, false)
	return a.finish(t, []v1.Descriptor{d}, [][]string{names}, [][]string{files})
}

// dockerSaveIndex is what docker save writes of an image for several platforms
// where it keeps images in containerd: only those blobs that were pulled.
func dockerSaveIndex(t *testing.T, img, foreign v1.Image, arch, foreignArch string, names ...string) []byte {
	t.Helper()
	a := archive{}
	here, files := a.add(t, img, true)
	here.Platform = &v1.Platform{OS: "linux", Architecture: arch}
	elsewhere, _ := archive{}.add(t, foreign, true)
	elsewhere.Platform = &v1.Platform{OS: "linux", Architecture: foreignArch}
	b, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{elsewhere, here}})
	must(t, err)
	return a.finish(t, []v1.Descriptor{a.blob(t, types.OCIImageIndex, b)}, [][]string{names}, [][]string{files})
}

// oldDockerSave is docker's own form alone, as podman and older versions have it.
func oldDockerSave(t *testing.T, images map[string]v1.Image) []byte {
	t.Helper()
	tagged := map[name.Tag]v1.Image{}
	for n, img := range images {
		tag, err := name.NewTag(n)
		must(t, err)
		tagged[tag] = img
	}
	var b bytes.Buffer
	must(t, tarball.MultiWrite(tagged, &b))
	return b.Bytes()
}

// ociLayout is an OCI layout alone, with several images.
func ociLayout(t *testing.T, images map[string]v1.Image) []byte {
	t.Helper()
	a := archive{}
	var all []v1.Descriptor
	var names, files [][]string
	for _, n := range slices.Sorted(maps.Keys(images)) {
		d, f := a.add(t, images[n], true)
		all, names, files = append(all, d), append(names, []string{n}), append(files, f)
	}
	a.finish(t, all, names, files)
	delete(a, "manifest.json")
	return a.tar(t)
}

// id is that of an image in CRI and in docker: the digest of its configuration.
func id(t *testing.T, img v1.Image) string {
	t.Helper()
	h, err := img.ConfigName()
	must(t, err)
	return fmt.Sprint(h)
}
