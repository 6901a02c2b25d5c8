package image

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/platforms"
)

func FuzzReference(f *testing.F) {
	for _, ref := range []string{"busybox", "busybox:1", "docker.io/library/busybox@sha256:" + strings.Repeat("a", 64), "localhost:5000/a/b:c", "[::1]:5000/a", strings.Repeat("a", 64), "sha256:" + strings.Repeat("0", 64), "sha256:abc", "abc", "", "..", "a@md5:x", "A", "a:b@c", "\x00"} {
		f.Add(ref)
	}
	s := &Store{}
	s.updateView()
	f.Fuzz(func(t *testing.T, ref string) {
		if named, err := ParseReference(ref); err == nil {
			again, err := ParseReference(named.String())
			if err != nil || again.String() != named.String() {
				t.Errorf("%q becomes %q becomes %v, %v", ref, named, again, err)
			}
			if strings.Contains(named.String(), "..") || strings.ContainsAny(named.String(), "\x00\n ") {
				t.Errorf("%q was accepted", ref)
			}
		}
		if id, ok := parseID(ref); ok && (strings.ContainsAny(id.Encoded(), "/.") || validateDigest(id) != nil) {
			t.Errorf("%q is taken for an id", ref)
		}
		if img, err := s.Resolve(ref); err == nil {
			t.Errorf("%q found %v in an empty store", ref, img)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add("", []byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:`+strings.Repeat("a", 64)+`","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:`+strings.Repeat("b", 64)+`","size":1}]}`), []byte(`{"rootfs":{"type":"layers","diff_ids":["sha256:`+strings.Repeat("c", 64)+`"]}}`))
	f.Add("application/vnd.oci.image.index.v1+json", []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:`+strings.Repeat("a", 64)+`","size":2,"platform":{"os":"linux","architecture":"amd64"}}]}`), []byte(`{}`))
	f.Add("", []byte(`null`), []byte(`null`))
	f.Add("", []byte(`{"schemaVersion":2,"manifests":null}`), []byte(`[]`))
	f.Add("", []byte(`{"schemaVersion":2,"layers":[{}],"config":{"size":-1}}`), []byte(`{"rootfs":null}`))
	f.Fuzz(func(t *testing.T, mediaType string, b, config []byte) {
		doc, err := parseDocument(mediaType, b)
		if err != nil {
			return
		}
		if (doc.index == nil) == (doc.manifest == nil) {
			t.Fatal("document is both or nothing")
		}
		if doc.index != nil {
			d, err := choosePlatform(doc.index, platforms.Default())
			if err == nil && (validateDigest(d.Digest) != nil || d.Size < 0 || d.Size > maxDocument) {
				t.Errorf("chose %+v", d)
			}
			return
		}
		c, err := parseConfig(config, len(doc.manifest.Layers))
		if err != nil {
			return
		}
		for _, l := range uniqueLayers(doc.manifest, c) {
			if validateDigest(l.diffID) != nil || validateDigest(l.blob.Digest) != nil || l.blob.Size < 0 {
				t.Errorf("layer %+v", l)
			}
		}
		if _, err := json.Marshal(c); err != nil {
			t.Error(err)
		}
	})
}
