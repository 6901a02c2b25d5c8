package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// execMounts are the mounts of one process, and what has to be undone for them.
type execMounts struct {
	run    *run
	mounts []Mount
	// caches are where cache mounts are.
	caches map[*pb.Mount]string
	undo   []func(context.Context) error
}

// close undoes everything, the newest first.
func (m *execMounts) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, f := range slices.Backward(m.undo) {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

// add makes one mount ready.
func (m *execMounts) add(ctx context.Context, op *pb.Mount, inputs []result) error {
	out := Mount{Target: op.GetDest(), ReadOnly: op.GetReadonly()}
	switch op.GetMountType() {
	case pb.MountType_TMPFS:
		out.TmpfsSize = op.GetTmpfsOpt().GetSize()
	case pb.MountType_SECRET:
		file, err := m.secret(op.GetSecretOpt())
		if err != nil || file == "" {
			return err
		}
		out.Source, out.ReadOnly = file, true
	case pb.MountType_SSH:
		socket, err := m.agent(ctx, op.GetSSHOpt())
		if err != nil || socket == "" {
			return err
		}
		out.Source = socket
	case pb.MountType_CACHE, pb.MountType_BIND:
		in, err := input(inputs, op.GetInput())
		if err != nil {
			return err
		}
		root := m.caches[op]
		if op.GetMountType() == pb.MountType_BIND {
			if root, err = m.bind(ctx, op, in); err != nil {
				return err
			}
		}
		if out.Source, err = m.pin(root, op.GetSelector()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("type %s: %w", op.GetMountType(), errdefs.ErrNotImplemented)
	}
	m.mounts = append(m.mounts, out)
	return nil
}

// bind is the tree of an input. One that can be written to is thrown away
// afterwards.
func (m *execMounts) bind(ctx context.Context, op *pb.Mount, in result) (string, error) {
	if op.GetReadonly() {
		return m.run.view(ctx, in)
	}
	w, err := m.run.workspace(ctx, in)
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, w.close)
	return w.dir, nil
}

// takeCaches finds the directories of all cache mounts. Those that are locked are
// taken in the order of their ids by everybody: else one process could have what
// another waits for, and the other way round.
func (m *execMounts) takeCaches(ctx context.Context, mounts []*pb.Mount, inputs []result) error {
	m.caches = map[*pb.Mount]string{}
	mounts = slices.DeleteFunc(slices.Clone(mounts), func(op *pb.Mount) bool { return op.GetMountType() != pb.MountType_CACHE })
	keys := map[*pb.Mount]string{}
	for _, op := range mounts {
		in, err := input(inputs, op.GetInput())
		if err != nil {
			return fmt.Errorf("mount on %s: %w", op.GetDest(), err)
		}
		keys[op] = op.GetCacheOpt().GetID() + "|" + in.identity()
	}
	slices.SortStableFunc(mounts, func(a, b *pb.Mount) int { return strings.Compare(keys[a], keys[b]) })
	for i, op := range mounts {
		if i > 0 && keys[op] == keys[mounts[i-1]] && op.GetCacheOpt().GetSharing() == pb.CacheSharingOpt_LOCKED {
			m.caches[op] = m.caches[mounts[i-1]] // it would wait for itself
			continue
		}
		in, err := input(inputs, op.GetInput())
		if err == nil {
			m.caches[op], err = m.cache(ctx, keys[op], op, in)
		}
		if err != nil {
			return fmt.Errorf("mount on %s: %w", op.GetDest(), err)
		}
	}
	return nil
}

// cache is the directory of a cache mount.
func (m *execMounts) cache(ctx context.Context, key string, op *pb.Mount, in result) (string, error) {
	c, err := m.run.mounts.use(ctx, key, op.GetCacheOpt().GetSharing(), func(dir string) error {
		if in.dir == "" && len(in.stack()) == 0 {
			return nil
		}
		from, err := m.run.view(ctx, in)
		if err != nil {
			return err
		}
		return copyTree(ctx, from, dir)
	})
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, func(context.Context) error { return c.release() })
	return c.path, nil
}

// pin mounts a path of a tree where nobody can change what it leads to. The path
// is looked up once, inside of the tree: between that and the mount by the
// runtime, a container that shares the tree could put a link to the host there
// (CVE-2024-23651).
func (m *execMounts) pin(root, selector string) (string, error) {
	at, err := pathrs.OpenInRoot(root, filepath.Join("/", selector))
	if err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Join("/", selector), bare(err))
	}
	defer at.Close()
	info, err := at.Stat()
	if err != nil {
		return "", err
	}
	dir, err := m.run.tempDir("mount")
	if err != nil {
		return "", err
	}
	target := dir
	if !info.IsDir() {
		target = filepath.Join(dir, "file")
		if err := os.WriteFile(target, nil, 0o600); err != nil {
			return "", err
		}
	}
	if err := cloneMount(int(at.Fd()), target); err != nil {
		return "", err
	}
	m.undo = append(m.undo, func(context.Context) error {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil {
			return &os.PathError{Op: "unmount", Path: target, Err: err}
		}
		return os.RemoveAll(dir)
	})
	return target, nil
}

// bare is an error without the path of this machine in it.
func bare(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// cloneMount mounts what a descriptor means on target.
func cloneMount(fd int, target string) error {
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return unix.Mount("", target, "", unix.MS_PRIVATE, "")
}

// secret writes a secret to a file in memory. Empty is an optional one that is
// not there.
func (m *execMounts) secret(o *pb.SecretOpt) (string, error) {
	value, ok := m.run.request.Secrets[o.GetID()]
	if !ok {
		if o.GetOptional() {
			return "", nil
		}
		return "", missingSecret(o.GetID())
	}
	dir, err := m.run.tempDir("secret")
	if err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size="+strconv.Itoa(len(value)+64<<10)); err != nil {
		return "", &os.PathError{Op: "mount tmpfs", Path: dir, Err: err}
	}
	m.undo = append(m.undo, func(context.Context) error { return unmount(dir) })
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, value, 0o600); err != nil {
		return "", err
	}
	return file, owned(file, o.GetUid(), o.GetGid(), o.GetMode())
}

// owned gives a file an owner and a mode.
func owned(file string, uid, gid, mode uint32) error {
	return errors.Join(os.Chown(file, int(uid), int(gid)), os.Chmod(file, os.FileMode(mode)&0o777))
}

// agent is a socket that leads to an SSH agent of the client.
func (m *execMounts) agent(ctx context.Context, o *pb.SSHOpt) (string, error) {
	id := o.GetID()
	if id == "" {
		id = "default"
	}
	if !slices.Contains(m.run.request.Agents, id) || m.run.request.Dial == nil {
		if o.GetOptional() {
			return "", nil
		}
		return "", fmt.Errorf("no SSH agent %q: give one with --ssh %s: %w", id, id, errdefs.ErrNotFound)
	}
	dir, err := m.run.tempDir("ssh")
	if err != nil {
		return "", err
	}
	socket := filepath.Join(dir, "agent.sock")
	l, err := listenUnix(ctx, dir, "agent.sock")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		serveAgent(ctx, l, func(ctx context.Context) (net.Conn, error) { return m.run.request.Dial(ctx, id) })
	})
	m.undo = append(m.undo, func(context.Context) error {
		cancel()
		err := l.Close()
		work.Wait()
		return errors.Join(err, os.RemoveAll(dir))
	})
	return socket, owned(socket, o.GetUid(), o.GetGid(), o.GetMode())
}

// listenUnix listens on a socket the path of which may be too long for one.
func listenUnix(ctx context.Context, dir, name string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	return l, err
}

// maxAgentConnections bounds what one process can make us hold.
const maxAgentConnections = 32

// serveAgent connects whoever dials the socket with the client's agent until ctx
// ends and the listener is closed.
func serveAgent(ctx context.Context, l net.Listener, dial func(context.Context) (net.Conn, error)) {
	var work sync.WaitGroup
	slots := make(chan struct{}, maxAgentConnections)
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			defer func() { _ = c.Close() }() // may be closed already
			agent, err := dial(ctx)
			if err != nil {
				return
			}
			defer func() { _ = agent.Close() }() // may be closed already
			stop := context.AfterFunc(ctx, func() { _ = errors.Join(c.Close(), agent.Close()) })
			defer stop()
			var up sync.WaitGroup
			up.Go(func() {
				_, _ = io.Copy(agent, c)
				_ = agent.Close()
			})
			_, _ = io.Copy(c, agent)
			_ = c.Close()
			up.Wait()
		})
	}
	work.Wait()
}
