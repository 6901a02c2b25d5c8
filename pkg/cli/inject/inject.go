// Package inject puts files into containers that do not run yet: the secrets and
// configs of compose, the ConfigMaps and Secrets of Kubernetes. Their content may
// be nowhere on the machine, so that nothing could be mounted, and stays with the
// container.
package inject

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// File is one to be put into a container.
type File struct {
	// Path is absolute, inside the container.
	Path string
	// Mode has the permission bits.
	Mode     int64
	UID, GID int
	Content  []byte
}

// archive is a tar of files for the root of a container. It lists no directories:
// those that are there keep their modes, and others are made with the files.
func archive(all []File) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range all {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode,
			Uid: f.UID, Gid: f.GID, Size: int64(len(f.Content)),
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.Path, err)
		}
		if _, err := w.Write(f.Content); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack files: %w", err)
	}
	return b.Bytes(), nil
}

// chunk is how much of a tar goes into one message.
const chunk = 256 << 10

// Copy puts files into a container that does not run yet.
func Copy(ctx context.Context, n *client.Node, container string, all []File) error {
	if len(all) == 0 {
		return nil
	}
	data, err := archive(all)
	if err != nil {
		return err
	}
	stream, err := n.Containers.CopyTo(ctx)
	if err != nil {
		return err
	}
	r := &nodev1.CopyToRequest{Container: container, Path: "/", KeepOwner: true}
	for {
		part := data[:min(chunk, len(data))]
		data = data[len(part):]
		r.Data = part
		if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) { // the answer says why
			return err
		}
		if len(data) == 0 {
			break
		}
		r = &nodev1.CopyToRequest{}
	}
	_, err = stream.CloseAndRecv()
	return err
}
