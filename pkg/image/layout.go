package image

import (
	"context"
	"encoding/json"
	"io"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationName is the full name of an image in the layouts that docker and
// containerd write; that of the specification often is the tag alone.
const annotationName = "io.containerd.image.name"

// layoutImages finds the images of an OCI layout: of each index the one for the
// platform.
func (s *Store) layoutImages(ctx context.Context, a *archive, platform string) ([]archived, error) {
	want := s.config.Platform
	if platform != "" {
		var err error
		if want, err = parsePlatform(platform); err != nil {
			return nil, err
		}
	}
	b, err := a.document("index.json")
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, badArchive("index.json: %v", err)
	}
	if len(index.Manifests) > maxArchiveImages {
		return nil, badArchive("it has %d images, at most %d are loaded", len(index.Manifests), maxArchiveImages)
	}
	var images []archived
	var other error
	for _, desc := range index.Manifests {
		if desc.Platform != nil && !want.Match(platforms.Normalize(*desc.Platform)) {
			other = badArchive("it has an image for %s only", platforms.Format(*desc.Platform))
			continue
		}
		img, err := layoutImage(ctx, a, desc, want)
		if err != nil {
			return nil, err
		}
		img.names = layoutNames(desc.Annotations)
		images = append(images, img)
	}
	if len(images) == 0 {
		return nil, other
	}
	return images, nil
}

// layoutNames takes a name that was written down whole.
func layoutNames(annotations map[string]string) []string {
	for _, key := range []string{annotationName, ocispec.AnnotationRefName} {
		name := annotations[key]
		if !strings.ContainsAny(name, ":/") {
			continue
		}
		if refs, err := parseTags([]string{name}); err == nil {
			return refs
		}
	}
	return nil
}

// layoutImage follows a descriptor to a manifest and its config.
func layoutImage(ctx context.Context, a *archive, desc ocispec.Descriptor, want platforms.MatchComparer) (archived, error) {
	for range maxIndexDepth {
		b, err := a.blobDocument(ctx, desc)
		if err != nil {
			return archived{}, err
		}
		doc, err := parseDocument(desc.MediaType, b)
		if err != nil {
			return archived{}, badArchive("%v", err)
		}
		if doc.index != nil {
			if desc, err = choosePlatform(doc.index, want); err != nil {
				return archived{}, badArchive("%v", err)
			}
			continue
		}
		if doc.artifact != nil {
			return archived{}, badArchive("it has an artifact of type %.100q, only images can be loaded", doc.artifact.Type)
		}
		img := archived{}
		if img.config, err = a.blobDocument(ctx, doc.manifest.Config); err != nil {
			return archived{}, err
		}
		for _, l := range doc.manifest.Layers {
			img.layers = append(img.layers, func(ctx context.Context) (*io.SectionReader, error) { return a.blob(ctx, l) })
		}
		return img, nil
	}
	return archived{}, badArchive("index of indexes is more than %d deep", maxIndexDepth)
}
