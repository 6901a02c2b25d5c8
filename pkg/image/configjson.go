package image

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// ConfigJSON returns the config of an image as it came, with what the OCI's type
// has no fields for. It reads the disk.
func (s *Store) ConfigJSON(id string) ([]byte, error) {
	d, ok := parseID(id)
	if !ok {
		return nil, fmt.Errorf("%.100q is no image id: %w", id, errdefs.ErrInvalidArgument)
	}
	doc, err := os.ReadFile(s.blobPath(d))
	if err != nil {
		return nil, fmt.Errorf("read config of image %s: %w", id, err)
	}
	return doc, nil
}
