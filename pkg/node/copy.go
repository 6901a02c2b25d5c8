package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/inside"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// CopyFrom sends what a path of a container is, and then a tar of it.
func (s *containers) CopyFrom(r *nodev1.CopyFromRequest, stream grpc.ServerStreamingServer[nodev1.CopyFromResponse]) error {
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	if r.GetPath() == "" {
		return invalid("path: is empty")
	}
	t, err := s.find(r.GetContainer())
	if err != nil {
		return err
	}
	root, name, err := s.openFiles(ctx, t, r.GetPath())
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // nothing is written through it
	follow := r.GetFollow() || strings.HasSuffix(r.GetPath(), "/") || strings.HasSuffix(r.GetPath(), "/.")
	st, err := root.Stat(name, follow)
	if err != nil {
		return err
	}
	top := topName(r.GetPath())
	ids := t.c.Status().UserNS.Mappings()
	send := func(data []byte) error { return stream.Send(&nodev1.CopyFromResponse{Data: data}) }
	err = stream.Send(&nodev1.CopyFromResponse{Stat: &nodev1.PathStat{
		Name: top, Size: st.Size, Mode: uint32(st.Mode), Mtime: st.Time.UnixNano(), LinkTarget: printable(st.Link),
	}})
	if err != nil {
		return err
	}
	return root.Pack(ctx, pieces{send}, name, inside.Packing{
		Name: top, Follow: follow,
		UID: func(id uint32) uint32 { return orSame(ids.NamespaceUID(id))(id) },
		GID: func(id uint32) uint32 { return orSame(ids.NamespaceGID(id))(id) },
	})
}

// topName is the name that a path has in its tar: "." where what is in it is
// meant.
func topName(name string) string {
	clean := path.Join("/", name)
	if clean == "/" || strings.HasSuffix(name, "/.") {
		return "."
	}
	return path.Base(clean)
}

// pieceSize is how much goes into one message.
const pieceSize = 256 << 10

// pieces sends what is written in messages of a moderate size.
type pieces struct{ send func([]byte) error }

func (p pieces) Write(data []byte) (int, error) {
	sent := 0
	for piece := range slices.Chunk(data, pieceSize) {
		if err := p.send(piece); err != nil {
			return sent, err
		}
		sent += len(piece)
	}
	return sent, nil
}

// CopyTo unpacks the tar that comes in a directory of a container.
func (s *containers) CopyTo(stream grpc.ClientStreamingServer[nodev1.CopyToRequest, nodev1.CopyToResponse]) error {
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetPath() == "" {
		return invalid("path: is empty")
	}
	t, err := s.find(first.GetContainer())
	if err != nil {
		return err
	}
	root, dir, err := s.openFiles(ctx, t, first.GetPath())
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // nothing is written through it
	ids := t.c.Status().UserNS.Mappings()
	o := inside.Unpacking{
		KeepOwner: first.GetKeepOwner(),
		UID:       func(id uint32) uint32 { return orSame(ids.HostUID(id))(id) },
		GID:       func(id uint32) uint32 { return orSame(ids.HostGID(id))(id) },
	}
	o.OwnerUID, o.OwnerGID = o.UID(0), o.GID(0)
	content := &chunkReader{next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}, rest: first.GetData()}
	if err := root.Unpack(ctx, dir, content, o); err != nil {
		return err
	}
	// What comes after the end of a tar is padding.
	if _, err := io.Copy(io.Discard, content); err != nil {
		return err
	}
	return stream.SendAndClose(&nodev1.CopyToResponse{})
}

// openFiles opens the root that a path of a container is to be resolved in, and
// says what the path is there. A container that runs is seen as its process sees
// it, with all that is mounted. One that does not run has its files, and what
// would be mounted is opened in its own place.
func (s *Server) openFiles(ctx context.Context, t target, name string) (*inside.Root, string, error) {
	if st := t.c.Status(); st.State == runtime.Running {
		root, err := inside.Open(fmt.Sprintf("/proc/%d/root", st.Process.PID))
		if err == nil {
			// The number may have become another process's just before.
			if now := t.c.Status(); now.State == runtime.Running && now.Process == st.Process {
				return root, name, nil
			}
			err = root.Close()
		}
		if now := t.c.Status(); now.State == runtime.Running {
			return nil, "", errors.Join(fmt.Errorf("open the files of container %q: it is about to end or to start", s.title(t)), err)
		}
	}
	if err := t.c.MountRootfs(ctx); err != nil {
		return nil, "", err
	}
	dir, rest := t.c.RootfsPath(), name
	if config, err := s.config.CRI.ContainerConfig(t.c.ID()); err == nil {
		if source, below, ok := mountOf(config.GetMounts(), name); ok {
			dir, rest = source, below
			if info, err := os.Stat(source); err == nil && !info.IsDir() {
				dir, rest = filepath.Dir(source), filepath.Base(source)
			}
		}
	}
	root, err := inside.Open(dir)
	return root, rest, err
}

// mountOf finds the innermost mount of the machine's files that a path is on.
// Symbolic links on the way there are not followed.
func mountOf(mounts []*runtimeapi.Mount, name string) (source, below string, ok bool) {
	clean, best := path.Join("/", name), ""
	for _, m := range mounts {
		at := path.Join("/", m.GetContainerPath())
		if m.GetHostPath() == "" || len(at) <= len(best) || clean != at && !strings.HasPrefix(clean, at+"/") {
			continue
		}
		best, source = at, filepath.Clean(m.GetHostPath())
	}
	return source, path.Join("/", strings.TrimPrefix(clean, best)), best != ""
}
