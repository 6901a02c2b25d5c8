package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	mediaTypeDockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerIndex     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeDockerSchema1   = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeDockerSchema1JW = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	mediaTypeDockerConfig    = "application/vnd.docker.container.image.v1+json"
)

const (
	// maxDocument bounds manifests, indexes and configs (CVE-2023-25153).
	maxDocument = 4 << 20
	// maxIndexDepth bounds an index of an index of an index.
	maxIndexDepth = 4
	// maxLayers is what the kernel's overlayfs takes (OVL_MAX_STACK).
	maxLayers = 500
)

// layerTypes are the layers we unpack: tar and nothing else, so that no kernel
// parser of file system images ever sees bytes from a registry. How one is
// compressed is told by its first bytes, because builders get the type wrong.
var layerTypes = []string{
	ocispec.MediaTypeImageLayer,
	ocispec.MediaTypeImageLayerGzip,
	ocispec.MediaTypeImageLayerZstd,
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
	"application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.docker.image.rootfs.diff.tar.gzip",
	"application/vnd.docker.image.rootfs.diff.tar.zstd",
	"application/vnd.docker.image.rootfs.foreign.diff.tar",
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
}

// document is a manifest or an index: which of them is told by its fields, and
// has to agree with what it says of itself.
type document struct {
	index    *ocispec.Index
	manifest *ocispec.Manifest
	// artifact is what the manifest holds where it is not that of an image.
	artifact *Artifact
}

// parseDocument parses the bytes of a manifest or index. mediaType is what the
// descriptor or the registry said, and may be a type of no meaning.
func parseDocument(mediaType string, b []byte) (document, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return document{}, malformed("manifest is no JSON object: %v", err)
	}
	var probe struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return document{}, malformed("manifest: %v", err)
	}
	if probe.SchemaVersion == 1 || mediaType == mediaTypeDockerSchema1 || mediaType == mediaTypeDockerSchema1JW {
		return document{}, fmt.Errorf("image has a docker schema 1 manifest, which is obsolete; push it again with a current tool: %w", errdefs.ErrNotImplemented)
	}
	if probe.SchemaVersion != 2 {
		return document{}, malformed("manifest has schema version %d, want 2", probe.SchemaVersion)
	}
	isIndex, isManifest := false, false
	for name := range fields {
		switch strings.ToLower(name) { // as the decoder compares
		case "manifests":
			isIndex = true
		case "config", "layers", "fslayers":
			isManifest = true
		}
	}
	if isIndex == isManifest {
		// The same bytes must not be two things to two readers
		// (CVE-2021-41190).
		return document{}, malformed("manifest has both or neither of a list of manifests and layers")
	}
	for _, said := range []string{mediaType, probe.MediaType} {
		if indexType(said) && isManifest || manifestType(said) && isIndex {
			return document{}, malformed("media type %q contradicts the fields of the manifest", said)
		}
	}
	if isIndex {
		var index ocispec.Index
		if err := json.Unmarshal(b, &index); err != nil {
			return document{}, malformed("index: %v", err)
		}
		return document{index: &index}, nil
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(b, &manifest); err != nil {
		return document{}, malformed("manifest: %v", err)
	}
	if !imageConfigType(manifest.Config.MediaType) {
		a, err := newArtifact(&manifest)
		return document{manifest: &manifest, artifact: a}, err
	}
	return document{manifest: &manifest}, validateManifest(&manifest)
}

func indexType(t string) bool { return t == ocispec.MediaTypeImageIndex || t == mediaTypeDockerIndex }

func manifestType(t string) bool {
	return t == ocispec.MediaTypeImageManifest || t == mediaTypeDockerManifest
}

// validateManifest makes sure that every descriptor of an image can be used
// without another look.
func validateManifest(m *ocispec.Manifest) error {
	if err := validateDescriptor(m.Config, maxDocument); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if len(m.Layers) > maxLayers {
		return fmt.Errorf("image has %d layers, at most %d can be stacked: %w", len(m.Layers), maxLayers, errdefs.ErrNotImplemented)
	}
	for i, l := range m.Layers {
		if !slices.Contains(layerTypes, l.MediaType) {
			return fmt.Errorf("layer %d is of type %.100q, only tar layers are supported: %w", i, l.MediaType, errdefs.ErrNotImplemented)
		}
		if err := validateDescriptor(l, 1<<50); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

func validateDescriptor(d ocispec.Descriptor, maxSize int64) error {
	if err := validateDigest(d.Digest); err != nil {
		return malformed("%v", err)
	}
	if d.Size < 0 || d.Size > maxSize {
		return malformed("size %d of %s is not between 0 and %d", d.Size, d.Digest, maxSize)
	}
	return nil
}

// choosePlatform picks the manifest of an index that fits this machine best.
// One without a platform is taken where no other fits.
func choosePlatform(index *ocispec.Index, want platforms.MatchComparer) (ocispec.Descriptor, error) {
	var fit, unknown []ocispec.Descriptor
	var offered []string
	for _, d := range index.Manifests {
		switch {
		case !manifestType(d.MediaType) && !indexType(d.MediaType):
		case d.Platform == nil:
			unknown = append(unknown, d)
		case want.Match(platforms.Normalize(*d.Platform)):
			fit = append(fit, d)
		case len(offered) < 16 && d.Platform.OS != "unknown":
			offered = append(offered, platforms.Format(*d.Platform))
		}
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case want.Less(*a.Platform, *b.Platform):
			return -1
		case want.Less(*b.Platform, *a.Platform):
			return 1
		default:
			return 0
		}
	})
	fit = append(fit, unknown...)
	if len(fit) == 0 {
		return ocispec.Descriptor{}, fmt.Errorf("no image for %s, only for [%s]: %w", platforms.DefaultString(), strings.Join(offered, " "), errdefs.ErrNotFound)
	}
	if err := validateDescriptor(fit[0], maxDocument); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("index: %w", err)
	}
	return fit[0], nil
}

// parseConfig parses an image config and holds it against the manifest.
func parseConfig(b []byte, layers int) (ocispec.Image, error) {
	var c ocispec.Image
	if err := json.Unmarshal(b, &c); err != nil {
		return c, malformed("image config: %v", err)
	}
	if c.RootFS.Type != "layers" && (c.RootFS.Type != "" || len(c.RootFS.DiffIDs) > 0) {
		return c, malformed("image config: rootfs is of type %.40q, want layers", c.RootFS.Type)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return c, malformed("image config names %d layers, the manifest %d", len(c.RootFS.DiffIDs), layers)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := validateDigest(d); err != nil {
			return c, malformed("image config: diff id: %v", err)
		}
	}
	return c, nil
}

// checkPlatform refuses an image that came without an index and was built for
// another kind of machine: it would end as "exec format error" at start.
func checkPlatform(c ocispec.Image, want platforms.MatchComparer) error {
	if c.OS == "" || c.Architecture == "" || want.Match(platforms.Normalize(c.Platform)) {
		return nil
	}
	return fmt.Errorf("image is for %s, this machine is %s: %w", platforms.Format(c.Platform), platforms.DefaultString(), errdefs.ErrNotFound)
}

// parsePlatform parses what a person writes, such as linux/arm64.
func parsePlatform(text string) (platforms.MatchComparer, error) {
	p, err := platforms.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("platform %.100q: %w: %w", text, err, errdefs.ErrInvalidArgument)
	}
	return platforms.Only(p), nil
}

// uniqueLayers pairs each diff ID with the blob that holds it, every pair once.
func uniqueLayers(m *ocispec.Manifest, c ocispec.Image) []layerSource {
	var sources []layerSource
	seen := map[digest.Digest]bool{}
	for i, l := range m.Layers {
		diffID := c.RootFS.DiffIDs[i]
		if !seen[diffID] {
			seen[diffID] = true
			sources = append(sources, layerSource{blob: l, diffID: diffID})
		}
	}
	return sources
}

// malformed is an error about bytes that a registry sent.
func malformed(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrDataLoss)...)
}
