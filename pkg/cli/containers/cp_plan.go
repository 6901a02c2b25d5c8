package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// The names of docker's rules for what a copy becomes.
var (
	errNoDirectory = errors.New("the destination directory must exist")
	errDirOverFile = errors.New("cannot copy a directory over a file")
)

// planOut decides what a path of a container becomes on this machine. name is its
// name in the tar, source how a person wrote it.
func planOut(name string, isDir bool, source, to string) (unpacker, error) {
	real, err := filepath.EvalSymlinks(to)
	if errors.Is(err, fs.ErrNotExist) {
		if saysDirectory(to) && !isDir {
			return unpacker{}, fmt.Errorf("%s: %w", to, errNoDirectory)
		}
		return unpacker{dir: dirOf(to), from: name, to: filepath.Base(filepath.Clean(to))}, nil
	}
	if err != nil {
		return unpacker{}, err
	}
	info, err := os.Stat(real)
	if err != nil {
		return unpacker{}, err
	}
	switch {
	case info.IsDir() && isDir && saysContent(source):
		return unpacker{dir: real, from: name, to: "."}, nil
	case info.IsDir():
		return unpacker{dir: real, from: name, to: name}, nil
	case saysDirectory(to):
		return unpacker{}, fmt.Errorf("%s is not a directory", to)
	case isDir:
		return unpacker{}, fmt.Errorf("%s: %w", to, errDirOverFile)
	}
	return unpacker{dir: dirOf(real), from: name, to: filepath.Base(real)}, nil
}

// target is what a path inside a container is.
type target struct {
	exists, isDir bool
	// path is to where symbolic links at its end lead.
	path string
}

// maxLinks is how many symbolic links are followed.
const maxLinks = 40

// resolveTarget follows the symbolic links at the end of a path.
func resolveTarget(ctx context.Context, n *client.Node, to place) (target, error) {
	t := target{path: path.Join("/", to.path)}
	for range maxLinks {
		stat, err := statPath(ctx, n, place{to.container, t.path})
		if client.IsNotFound(err) {
			if _, err := n.Containers.Inspect(ctx, &nodev1.InspectRequest{Container: to.container}); err != nil {
				return t, err // it is the container that does not exist
			}
			return t, nil
		}
		if err != nil {
			return t, err
		}
		if mode(stat)&fs.ModeSymlink == 0 {
			t.exists, t.isDir = true, isDirectory(stat)
			return t, nil
		}
		link := stat.GetLinkTarget()
		if !path.IsAbs(link) {
			link = path.Join(path.Dir(t.path), link)
		}
		t.path = path.Join("/", link)
	}
	return t, fmt.Errorf("%s: too many symbolic links", to.path)
}

// planIn decides what a file of this machine becomes in a container: the
// directory to unpack in, and the name there.
func planIn(base string, isDir bool, source, to string, t target) (dir, name string, err error) {
	switch {
	case !t.exists && saysDirectory(to) && !isDir:
		return "", "", fmt.Errorf("%s: %w", to, errNoDirectory)
	case t.isDir && isDir && saysContent(source):
		return t.path, ".", nil
	case t.isDir:
		return t.path, base, nil
	case t.exists && saysDirectory(to):
		return "", "", fmt.Errorf("%s is not a directory", to)
	case t.exists && isDir:
		return "", "", fmt.Errorf("%s: %w", to, errDirOverFile)
	}
	return path.Dir(t.path), path.Base(t.path), nil
}

// mode is a file's mode, as Go has it.
func mode(stat *nodev1.PathStat) fs.FileMode { return fs.FileMode(stat.GetMode()) }

func isDirectory(stat *nodev1.PathStat) bool { return mode(stat).IsDir() }

// statPath asks what a path inside a container is.
func statPath(ctx context.Context, n *client.Node, at place) (*nodev1.PathStat, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before its content comes
	stream, err := n.Containers.CopyFrom(ctx, &nodev1.CopyFromRequest{Container: at.container, Path: at.path})
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	return first.GetStat(), err
}

// copyFrom asks for a path inside a container: what it is, and a tar of it.
func copyFrom(ctx context.Context, n *client.Node, from place, follow bool) (*nodev1.PathStat, io.Reader, error) {
	stream, err := n.Containers.CopyFrom(ctx, &nodev1.CopyFromRequest{Container: from.container, Path: from.path, Follow: follow})
	if err != nil {
		return nil, nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	return first.GetStat(), &chunkReader{receive: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}, rest: first.GetData()}, nil
}

// chunkReader reads what a stream carries.
type chunkReader struct {
	receive func() ([]byte, error)
	rest    []byte
}

func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		data, err := c.receive()
		if err != nil {
			return 0, err
		}
		c.rest = data
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// chunkWriter sends what is written in messages of a moderate size.
type chunkWriter struct {
	stream nodev1.Containers_CopyToClient
}

// chunkSize is how much goes into one message.
const chunkSize = 64 << 10

func (c chunkWriter) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(chunkSize, len(p)-sent)
		if err := c.stream.Send(&nodev1.CopyToRequest{Data: p[sent : sent+n]}); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

// copyTo sends the tar that write makes to a directory of a container.
func copyTo(ctx context.Context, n *client.Node, to place, keepOwner bool, write func(io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the daemon does not take half a tar for a whole one
	stream, err := n.Containers.CopyTo(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&nodev1.CopyToRequest{Container: to.container, Path: to.path, KeepOwner: keepOwner})
	if err == nil {
		err = write(chunkWriter{stream})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = stream.CloseAndRecv() // it has the reason why the daemon hung up
	return err
}
