package image

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Artifact makes an OCI artifact of files, each of which is a blob as it is.
// Only names and data count; a file without a name gets no title.
func Artifact(files ...File) (v1.Image, error) {
	a := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.example.config.v1+json")
	for _, f := range files {
		blob := mutate.Addendum{Layer: static.NewLayer(f.Data, "application/octet-stream"), MediaType: "application/octet-stream"}
		if f.Name != "" {
			blob.Annotations = map[string]string{"org.opencontainers.image.title": f.Name}
		}
		var err error
		if a, err = mutate.Append(a, blob); err != nil {
			return nil, fmt.Errorf("append %q: %w", f.Name, err)
		}
	}
	return a, nil
}
