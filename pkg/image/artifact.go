package image

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/image/layer"
)

// Artifact is what an image has that is none: files to mount, and no root file
// system. It is shared: callers must not change it.
type Artifact struct {
	// Type is the artifactType of the manifest, else that of its config.
	Type string
	// Files are in the order of the manifest.
	Files []ArtifactFile
}

// ArtifactFile is one blob of an artifact.
type ArtifactFile struct {
	// Name is where it appears: a relative, clean path, which the blob's title
	// says, or the blob's digest.
	Name      string
	MediaType string
	Digest    digest.Digest
	Size      int64
}

// Bounds of an artifact, besides that on its size.
const (
	maxArtifactFiles = 1000
	maxTitleDepth    = 32
	maxTitlePath     = 1024
	maxTitlePart     = 255
	// artifactBlob is the name of the file in the layer that holds a blob.
	artifactBlob = "blob"
)

func imageConfigType(t string) bool {
	return t == ocispec.MediaTypeImageConfig || t == mediaTypeDockerConfig
}

// newArtifact checks the manifest of an artifact, every byte of which came from
// a registry.
func newArtifact(m *ocispec.Manifest) (*Artifact, error) {
	if m.Config.MediaType == "" {
		return nil, malformed("config has no media type")
	}
	if err := validateDescriptor(m.Config, maxDocument); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if len(m.Layers) > maxArtifactFiles {
		return nil, fmt.Errorf("artifact has %d blobs, at most %d are supported: %w", len(m.Layers), maxArtifactFiles, errdefs.ErrNotImplemented)
	}
	a := &Artifact{Type: m.ArtifactType}
	if a.Type == "" {
		a.Type = m.Config.MediaType
	}
	sizes := map[digest.Digest]int64{}
	for i, l := range m.Layers {
		if err := validateDescriptor(l, 1<<50); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		if size, again := sizes[l.Digest]; again && size != l.Size {
			return nil, malformed("layer %d: %s has %d and %d bytes", i, l.Digest, size, l.Size)
		}
		sizes[l.Digest] = l.Size
		file := ArtifactFile{Name: l.Digest.String(), MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
		if title, ok := l.Annotations[ocispec.AnnotationTitle]; ok {
			if err := checkTitle(title); err != nil {
				return nil, fmt.Errorf("layer %d: title %.100q: %w", i, title, err)
			}
			file.Name = title
		} else if slices.Contains(a.Files, file) {
			continue // twice the same blob without a name
		}
		a.Files = append(a.Files, file)
	}
	return a, a.checkNames()
}

// checkTitle accepts a relative path that means the same to everybody: it is
// never cleaned, because what needs that was not meant well.
func checkTitle(title string) error {
	switch {
	case title == "":
		return malformed("is empty")
	case len(title) > maxTitlePath || strings.Count(title, "/") >= maxTitleDepth:
		return malformed("is longer than %d bytes or %d names", maxTitlePath, maxTitleDepth)
	case !utf8.ValidString(title) || strings.ContainsFunc(title, unicode.IsControl):
		return malformed("has control characters or is not UTF-8")
	case !filepath.IsLocal(title) || path.Clean(title) != title || title == ".":
		return malformed("is no clean path below the artifact")
	}
	for part := range strings.SplitSeq(title, "/") {
		if len(part) > maxTitlePart {
			return malformed("has a name longer than %d bytes", maxTitlePart)
		}
	}
	return nil
}

// checkNames refuses two files at one path and files that are directories of
// others.
func (a *Artifact) checkNames() error {
	files := map[string]bool{}
	for _, f := range a.Files {
		if files[f.Name] {
			return malformed("two blobs have the title %.100q", f.Name)
		}
		files[f.Name] = true
	}
	for _, f := range a.Files {
		for dir := path.Dir(f.Name); dir != "."; dir = path.Dir(dir) {
			if files[dir] {
				return malformed("titles %.100q and %.100q: a file cannot be a directory", dir, f.Name)
			}
		}
	}
	return nil
}

// layers lists the layers that hold the blobs, each once.
func (a *Artifact) layers() []layerSource {
	var sources []layerSource
	seen := map[digest.Digest]bool{}
	for _, f := range a.Files {
		if seen[f.Digest] {
			continue
		}
		seen[f.Digest] = true
		sources = append(sources, layerSource{
			blob:   ocispec.Descriptor{MediaType: f.MediaType, Digest: f.Digest, Size: f.Size},
			diffID: blobLayer(f.Digest), file: true,
		})
	}
	return sources
}

// size of all files together.
func (a *Artifact) size() int64 {
	var n int64
	for _, l := range a.layers() {
		n += l.blob.Size
	}
	return n
}

// blobLayer names the layer that holds a blob as it is. It must never be the
// name of a layer that the same bytes unpack to: a tar without compression is
// its own diff ID, and an artifact could otherwise bring an image its layers.
func blobLayer(blob digest.Digest) digest.Digest {
	return digest.FromString("artifact blob " + blob.String())
}

// saveBlob makes the layer of an artifact's blob: one file, as it came. The
// download has written it to its own file already, which gets a second name.
func saveBlob(d *download, l layerSource, dir string) (applied, error) {
	diff := filepath.Join(dir, layerDiff)
	if err := os.Mkdir(diff, 0o755); err != nil {
		return applied{}, err
	}
	sum := l.blob.Digest.Algorithm().Hash()
	n, err := io.Copy(sum, d)
	if err != nil {
		return applied{}, err
	}
	if got := encoded(l.blob.Digest.Algorithm(), sum); got != l.blob.Digest || n != l.blob.Size {
		return applied{}, malformed("blob has digest %s and %d bytes, want %s and %d", got, n, l.blob.Digest, l.blob.Size)
	}
	file := filepath.Join(diff, artifactBlob)
	if err := os.Link(d.file.Name(), file); err != nil {
		return applied{}, err
	}
	if err := os.Chmod(file, 0o444); err != nil {
		return applied{}, err
	}
	return applied{Result: layer.Result{Usage: layer.Usage{Bytes: n, Inodes: 2}}}, nil
}

func encoded(a digest.Algorithm, h hash.Hash) digest.Digest {
	return digest.NewDigestFromEncoded(a, hex.EncodeToString(h.Sum(nil)))
}

// linkFiles fills dir, which must not exist, with the files of an artifact as
// links to the blobs. The caller holds references to their layers.
func (s *Store) linkFiles(a *Artifact, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // of what containers see; not up to a umask
		return err
	}
	for _, f := range a.Files {
		target := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := makeDirs(dir, path.Dir(f.Name)); err != nil {
			return err
		}
		blob := filepath.Join(s.layerDir(blobLayer(f.Digest)), layerDiff, artifactBlob)
		if err := os.Link(blob, target); err != nil {
			return err
		}
	}
	return nil
}

// makeDirs makes the directories of a name that checkTitle has seen.
func makeDirs(dir, name string) error {
	if name == "." {
		return nil
	}
	for part := range strings.SplitSeq(name, "/") {
		dir = filepath.Join(dir, part)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}
