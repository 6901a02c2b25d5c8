package compose

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// A secret or config is copied into the container before it starts, as docker
// compose does where it cannot mount a file: its content may come from a variable
// or the Compose file itself, and has to be there after the command is over.

// file is one to be copied into a container.
type file struct {
	path     string
	mode     int64
	uid, gid int
	content  []byte
}

// files are the secrets and configs of a service.
func files(p *types.Project, s *types.ServiceConfig) ([]file, error) {
	var all []file
	for _, secret := range s.Secrets {
		from, ok := p.Secrets[secret.Source]
		if !ok {
			return nil, fmt.Errorf("secret %s is not defined", secret.Source)
		}
		target := cmp.Or(secret.Target, secret.Source)
		if !path.IsAbs(target) {
			target = path.Join("/run/secrets", target)
		}
		f, err := content(p, types.FileObjectConfig(from), types.FileReferenceConfig(secret), target)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", secret.Source, err)
		}
		all = append(all, f)
	}
	for _, config := range s.Configs {
		from, ok := p.Configs[config.Source]
		if !ok {
			return nil, fmt.Errorf("config %s is not defined", config.Source)
		}
		target := cmp.Or(config.Target, "/"+config.Source)
		f, err := content(p, types.FileObjectConfig(from), types.FileReferenceConfig(config), target)
		if err != nil {
			return nil, fmt.Errorf("config %s: %w", config.Source, err)
		}
		all = append(all, f)
	}
	return all, nil
}

// content reads what a secret or config is.
func content(p *types.Project, from types.FileObjectConfig, to types.FileReferenceConfig, target string) (f file, err error) {
	f = file{path: path.Clean(target), mode: 0o444}
	if to.Mode != nil {
		f.mode = int64(*to.Mode)
	}
	for _, id := range []struct {
		name, text string
		to         *int
	}{{"uid", to.UID, &f.uid}, {"gid", to.GID, &f.gid}} {
		if id.text == "" {
			continue
		}
		if *id.to, err = strconv.Atoi(id.text); err != nil {
			return file{}, fmt.Errorf("%s %q is no number", id.name, id.text)
		}
	}
	switch {
	case bool(from.External):
		return file{}, errors.New("external ones are not supported: give it a file")
	case from.File != "":
		f.content, err = os.ReadFile(from.File)
	case from.Environment != "":
		value, ok := p.Environment[from.Environment]
		if !ok {
			return file{}, fmt.Errorf("variable %s is not set", from.Environment)
		}
		f.content = []byte(value)
	default:
		f.content = []byte(from.Content)
	}
	return f, err
}

// archive is a tar of files for the root of a container. It lists no directories:
// those that are there keep their modes, and others are made with the files.
func archive(all []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range all {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.path, "/"), Mode: f.mode,
			Uid: f.uid, Gid: f.gid, Size: int64(len(f.content)),
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.path, err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack files: %w", err)
	}
	return b.Bytes(), nil
}

// chunk is how much of a tar goes into one message.
const chunk = 256 << 10

// copyFiles puts files into a container that does not run yet.
func copyFiles(ctx context.Context, n *client.Node, container string, all []file) error {
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
