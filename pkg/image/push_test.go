package image

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pushRegistry is a fakeRegistry that takes pushes and has a repository's blobs
// in that repository only.
type pushRegistry struct {
	*fakeRegistry
	in      map[string]bool // REPOSITORY@DIGEST
	sent    int             // bytes of blobs
	refuse  bool            // to mount
	uploads int
}

func newPushRegistry(t *testing.T) *pushRegistry {
	p := &pushRegistry{fakeRegistry: newFakeRegistry(t), in: map[string]bool{}}
	p.onRequest(p.answer)
	return p
}

// fill is push of a test's image into one repository.
func (p *pushRegistry) fill(repo string, layers ...fakeLayer) fakeImage {
	img := p.push(repo, ocispec.Image{}, layers, "latest")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.in[repo+"@"+img.id] = true
	for _, l := range layers {
		p.in[repo+"@"+digest.FromBytes(l.blob).String()] = true
	}
	return img
}

func (p *pushRegistry) forget(repo string, layers ...fakeLayer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range layers {
		delete(p.in, repo+"@"+digest.FromBytes(l.blob).String())
	}
}

func (p *pushRegistry) answer(w http.ResponseWriter, r *http.Request) bool {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	if repo, d, ok := strings.Cut(path, "/blobs/"); ok {
		if upload, ok := strings.CutPrefix(d, "uploads/"); ok {
			p.upload(w, r, repo, upload)
			return true
		}
		p.mu.Lock()
		has := p.in[repo+"@"+d]
		p.mu.Unlock()
		if !has {
			http.NotFound(w, r)
		}
		return !has
	}
	if repo, ref, ok := strings.Cut(path, "/manifests/"); ok && r.Method == http.MethodPut {
		body, _ := io.ReadAll(r.Body)
		p.manifest(r.Header.Get("Content-Type"), body, repo, ref)
		w.WriteHeader(http.StatusCreated)
		return true
	}
	return false
}

func (p *pushRegistry) upload(w http.ResponseWriter, r *http.Request, repo, _ string) {
	query := r.URL.Query()
	switch r.Method {
	case http.MethodPost:
		p.mu.Lock()
		defer p.mu.Unlock()
		if d := query.Get("mount"); d != "" && !p.refuse && p.in[query.Get("from")+"@"+d] {
			p.in[repo+"@"+d] = true
			w.WriteHeader(http.StatusCreated)
			return
		}
		p.uploads++
		w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/1?state=x")
		w.WriteHeader(http.StatusAccepted)
	case http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if err != nil || digest.FromBytes(body).String() != query.Get("digest") || query.Get("state") != "x" {
			http.Error(w, "bad upload", http.StatusBadRequest)
			return
		}
		d := p.blob(body)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.in[repo+"@"+d.String()] = true
		p.sent += len(body)
		w.WriteHeader(http.StatusCreated)
	}
}

func (p *pushRegistry) digestOf(name string) digest.Digest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return digest.FromBytes(p.manifests[name].body)
}

func TestPushPulled(t *testing.T) {
	for name, test := range map[string]struct {
		other, refuse, gone, keep bool
		sent                      bool
		status                    string
		err                       error
	}{
		"mounted":                {status: "Mounted from from"},
		"sent where not mounted": {refuse: true, sent: true, status: "Pushed"},
		"to another registry":    {other: true, sent: true, status: "Pushed"},
		"gone":                   {gone: true, err: errBlobGone},
		"gone but kept":          {gone: true, keep: true, sent: true, status: "Pushed"},
	} {
		t.Run(name, func(t *testing.T) {
			source := newPushRegistry(t)
			target := source
			if test.other {
				target = newPushRegistry(t)
			}
			source.refuse = test.refuse
			layers := []fakeLayer{gzipLayer(map[string]string{"a": "1"}), zstdLayer(map[string]string{"b": "2"}), plainLayer(map[string]string{"c": "3"})}
			img := source.fill("from", layers...)
			root := t.TempDir()
			s := open(t, root, func(c *Config) { c.KeepCompressed = test.keep })
			pull(t, s, source.host()+"/from")
			if test.keep {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, root)
			}
			if test.gone {
				source.forget("from", layers...)
			}
			name := target.host() + "/to/image:v1"
			if err := s.Tag(t.Context(), source.host()+"/from", name); err != nil {
				t.Fatal(err)
			}
			statuses := map[digest.Digest]string{}
			got, err := s.Push(t.Context(), PushRequest{Ref: name, OnProgress: func(p Progress) { statuses[p.Layer] = p.Status }})
			if !errors.Is(err, test.err) || err != nil && !strings.Contains(err.Error(), "image.keep_compressed") {
				t.Fatalf("Push: %v", err)
			}
			if err != nil {
				return
			}
			if got.Digest != img.Digest || !got.Kept || target.digestOf("to/image/v1") != img.Digest {
				t.Errorf("digest is %s, pulled was %s", got.Digest, img.Digest)
			}
			if sent := target.sent > len(source.blobs[digest.Digest(img.id)]); sent != test.sent {
				t.Errorf("sent %d bytes", target.sent)
			}
			for _, l := range layers {
				if d := digest.FromBytes(l.blob); statuses[d] != test.status {
					t.Errorf("status of %s is %q", d, statuses[d])
				}
			}
			if back, err := s.Resolve(target.host() + "/to/image@" + img.Digest.String()); err != nil || back.ID != img.id {
				t.Errorf("digest is no name of the image: %v", err)
			}
			if err := s.Remove(t.Context(), img.id); err != nil {
				t.Fatal(err)
			}
			checkEmpty(t, s)
		})
	}
}

func TestPushRecompressed(t *testing.T) {
	r := newPushRegistry(t)
	layer := gzipLayer(map[string]string{"a": "1"})
	img := r.fill("from", layer)
	s := open(t, t.TempDir())
	pull(t, s, r.host()+"/from")
	r.forget("from", layer)
	name := r.host() + "/to:v1"
	if err := s.Tag(t.Context(), img.id, name); err != nil {
		t.Fatal(err)
	}
	got, err := s.Push(t.Context(), PushRequest{Ref: name, Recompress: true})
	if err != nil || got.Digest == img.Digest || got.Kept {
		t.Fatalf("Push = %+v, %v", got, err)
	}
	other := open(t, t.TempDir())
	if id := pull(t, other, name); id != img.id {
		t.Errorf("pulled %s, pushed %s", id, img.id)
	}
}

func TestPushMadeHere(t *testing.T) {
	first, second := newPushRegistry(t), newPushRegistry(t)
	base := gzipLayer(map[string]string{"base": "1"})
	first.fill("base", base)
	s := open(t, t.TempDir())
	pull(t, s, first.host()+"/base")
	l, err := s.AddLayer(t.Context(), bytes.NewReader(tarOf(t, [2]string{"new", "content"})), []digest.Digest{base.diffID})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{first.host() + "/made:v1", second.host() + "/made:v1"}
	img, err := s.Register(t.Context(), configOf(t, base.diffID, l.DiffID), names...)
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
	var digests []digest.Digest
	for _, name := range []string{names[0], names[0], names[1]} {
		got, err := s.Push(t.Context(), PushRequest{Ref: name})
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, got.Digest)
	}
	if digests[0] != digests[1] || digests[0] != digests[2] {
		t.Errorf("digest is not stable: %v", digests)
	}
	if !first.in["made@"+digest.FromBytes(base.blob).String()] || !second.in["made@"+digest.FromBytes(base.blob).String()] {
		t.Error("the layer of the base is another than it was pulled as")
	}
	other := open(t, t.TempDir())
	if id := pull(t, other, names[1]); id != img.ID {
		t.Errorf("pulled %s, pushed %s", id, img.ID)
	}
}

func TestPushArtifact(t *testing.T) {
	r := newPushRegistry(t)
	blob := r.blob([]byte("content of a file"))
	m := ocispec.Manifest{
		ArtifactType: "application/vnd.example",
		Config:       ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: r.blob([]byte("{}")), Size: 2},
		Layers:       []ocispec.Descriptor{{MediaType: "text/plain", Digest: blob, Size: 17}},
	}
	m.SchemaVersion, m.MediaType = 2, ocispec.MediaTypeImageManifest
	desc := r.manifest(ocispec.MediaTypeImageManifest, m, "from", "latest")
	r.in["from@"+blob.String()], r.in["from@"+digest.FromString("{}").String()] = true, true
	target := newPushRegistry(t)
	s := open(t, t.TempDir())
	pull(t, s, r.host()+"/from")
	if err := s.Tag(t.Context(), r.host()+"/from", target.host()+"/to"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Push(t.Context(), PushRequest{Ref: target.host() + "/to"})
	if err != nil || got.Digest != desc.Digest {
		t.Fatalf("Push = %+v, %v", got, err)
	}
}

func TestPushRefusals(t *testing.T) {
	r := newPushRegistry(t)
	img := r.fill("from", gzipLayer(map[string]string{"a": "1"}))
	s := open(t, t.TempDir())
	pull(t, s, r.host()+"/from")
	for ref, want := range map[string]func(error) bool{
		"unknown": errdefs.IsNotFound,
		img.id:    errdefs.IsInvalidArgument,
		r.host() + "/from@" + img.Digest.String(): errdefs.IsInvalidArgument,
		"UPPER": errdefs.IsInvalidArgument,
	} {
		if _, err := s.Push(t.Context(), PushRequest{Ref: ref}); !want(err) {
			t.Errorf("Push %s: %v", ref, err)
		}
	}
	r.onRequest(func(w http.ResponseWriter, q *http.Request) bool {
		http.Error(w, `{"errors":[{"code":"DENIED","message":"not yours"}]}`, http.StatusForbidden)
		return true
	})
	if _, err := s.Push(t.Context(), PushRequest{Ref: r.host() + "/from"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("Push where it is forbidden: %v", err)
	}
	entries, err := os.ReadDir(s.path(dirStaging))
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
