package image

import (
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxOrigins is how many repositories are remembered for a layer.
const maxOrigins = 8

// origin says where a layer can be had in compressed form.
type origin struct {
	DiffID    digest.Digest `json:"diffID"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	// Blobs are REPOSITORY@DIGEST, the last to be seen first. All have the same
	// digest.
	Blobs []string `json:"blobs"`
	// Own: the layer was compressed here, and can be again.
	Own bool `json:"own,omitempty"`
}

// ownRepository stands for a repository where the blob is in none.
const ownRepository = "-"

func newOrigin(diffID digest.Digest, blob ocispec.Descriptor, repositories ...string) origin {
	o := origin{DiffID: diffID, MediaType: blob.MediaType, Size: blob.Size}
	for _, r := range repositories {
		o.Blobs = append(o.Blobs, r+"@"+blob.Digest.String())
	}
	return o
}

// descriptor is that of the blob. It has no digest where the origin says
// nothing that could be believed.
func (o origin) descriptor() ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: o.MediaType, Size: o.Size}
	if len(o.Blobs) > 0 {
		_, text, _ := strings.Cut(o.Blobs[0], "@")
		if validateDigest(digest.Digest(text)) == nil {
			d.Digest = digest.Digest(text)
		}
	}
	return d
}

// repositories are the full names of those that have, or had, the blob.
func (o origin) repositories() []reference.Named {
	var named []reference.Named
	for _, b := range o.Blobs {
		repository, _, _ := strings.Cut(b, "@")
		if n, err := reference.ParseNormalizedNamed(repository); err == nil && repository != ownRepository {
			named = append(named, reference.TrimNamed(n))
		}
	}
	return named
}

// joinOrigins adds to the first what only the second know. Of two that have
// another blob for a layer, the first counts: the manifest came with it.
func joinOrigins(first, second []origin) []origin {
	joined := slices.Clone(first)
	for _, o := range second {
		i := slices.IndexFunc(joined, func(j origin) bool { return j.DiffID == o.DiffID })
		if i < 0 {
			joined = append(joined, o)
			continue
		}
		if joined[i].descriptor().Digest != o.descriptor().Digest {
			continue
		}
		j := joined[i]
		j.Blobs, j.Own = slices.Clone(j.Blobs), j.Own || o.Own
		for _, b := range o.Blobs {
			if !slices.Contains(j.Blobs, b) && len(j.Blobs) < maxOrigins {
				j.Blobs = append(j.Blobs, b)
			}
		}
		joined[i] = j
	}
	return joined
}

// originsElsewhere finds what other images know about layers. The caller holds
// s.mu.
func (s *Store) originsElsewhere(layers []digest.Digest) []origin {
	var found []origin
	for _, st := range s.images {
		for _, o := range st.origins(s) {
			if slices.Contains(layers, o.DiffID) {
				found = joinOrigins(found, []origin{o})
			}
		}
	}
	return found
}

// origins are those in the record and, for an image that was pulled before
// there were any, those that its names tell.
func (st *stored) origins(s *Store) []origin {
	if len(st.record.Origins) > 0 || st.record.Manifest == "" || st.artifact != nil {
		return st.record.Origins
	}
	m, _, err := s.manifestOf(st)
	if err != nil || len(m.Layers) != len(st.config.RootFS.DiffIDs) {
		return nil
	}
	var repositories []string
	for _, n := range st.record.Names {
		if repository, _, ok := strings.Cut(n.Ref, "@"); ok && !slices.Contains(repositories, repository) {
			repositories = append(repositories, repository)
		}
	}
	if len(repositories) == 0 {
		return nil
	}
	var found []origin
	for i, l := range m.Layers {
		found = joinOrigins(found, []origin{newOrigin(st.config.RootFS.DiffIDs[i], l, repositories[:min(len(repositories), maxOrigins)]...)})
	}
	return found
}

// manifestOf reads the manifest of an image, and its bytes. The caller holds a
// reference, or s.mu.
func (s *Store) manifestOf(st *stored) (*ocispec.Manifest, []byte, error) {
	i := slices.IndexFunc(st.record.Blobs, func(b blobRef) bool { return b.Digest == st.record.Manifest })
	if i < 0 {
		return nil, nil, malformed("manifest of image %s is not in its record", st.record.ID)
	}
	content, err := s.loadBlob(st.record.Blobs[i])
	if err != nil {
		return nil, nil, err
	}
	doc, err := parseDocument("", content)
	if err != nil {
		return nil, nil, err
	}
	if doc.manifest == nil {
		return nil, nil, malformed("manifest of image %s is an index", st.record.ID)
	}
	return doc.manifest, content, nil
}
