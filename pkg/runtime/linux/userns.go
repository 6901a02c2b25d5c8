package linux

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// IDMap maps a run of user or group ids of a user namespace to the host's.
type IDMap struct {
	ContainerID uint32 `json:"containerID"`
	HostID      uint32 `json:"hostID"`
	Length      uint32 `json:"length"`
}

// IDMappings are the ids of a user namespace.
type IDMappings struct {
	UIDs []IDMap `json:"uids"`
	GIDs []IDMap `json:"gids"`
}

// HostUID returns what a user id of the namespace is on the host. ok is false
// for one that is not mapped. Nil is the host's own namespace.
func (m *IDMappings) HostUID(id uint32) (host uint32, ok bool) {
	if m == nil {
		return id, true
	}
	return hostID(m.UIDs, id)
}

// HostGID is the same for a group id.
func (m *IDMappings) HostGID(id uint32) (host uint32, ok bool) {
	if m == nil {
		return id, true
	}
	return hostID(m.GIDs, id)
}

// NamespaceUID returns what a user id of the host is in the namespace: the
// reverse of HostUID.
func (m *IDMappings) NamespaceUID(host uint32) (id uint32, ok bool) {
	if m == nil {
		return host, true
	}
	return namespaceID(m.UIDs, host)
}

// NamespaceGID is the same for a group id.
func (m *IDMappings) NamespaceGID(host uint32) (id uint32, ok bool) {
	if m == nil {
		return host, true
	}
	return namespaceID(m.GIDs, host)
}

// Root returns the host's ids of the namespace's root, those of the host's
// root where that is not mapped.
func (m *IDMappings) Root() (uid, gid int) {
	u, _ := m.HostUID(0)
	g, _ := m.HostGID(0)
	return int(u), int(g)
}

func hostID(maps []IDMap, id uint32) (uint32, bool) {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Length {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

func namespaceID(maps []IDMap, host uint32) (uint32, bool) {
	for _, m := range maps {
		if host >= m.HostID && host-m.HostID < m.Length {
			return m.ContainerID + (host - m.HostID), true
		}
	}
	return 0, false
}

// UserNS is a user namespace that exists.
type UserNS struct {
	// Path is where it can be opened.
	Path string `json:"path"`
	IDMappings
}

// Mappings is nil for no namespace.
func (u *UserNS) Mappings() *IDMappings {
	if u == nil {
		return nil
	}
	return &u.IDMappings
}

// InNewUserNS makes a user namespace and, owned by it, namespaces of the other
// kinds in flags, and calls f with the id of a process in them, below whose
// /proc/PID/ns they are. The process runs the command, which has to wait until
// it is killed, and is gone when InNewUserNS returns.
//
// It takes a process: one with several threads cannot enter a user namespace
// (user_namespaces(7)). The kernel kills it if this process dies first. The
// calling goroutine must not share its thread (runtime.LockOSThread).
func InNewUserNS(command []string, m IDMappings, flags uintptr, f func(pid int) error) (err error) {
	if len(command) == 0 {
		return errors.New("no program to hold a user namespace")
	}
	runtime.LockOSThread() // Pdeathsig looks at the thread
	defer runtime.UnlockOSThread()
	holder := exec.Cmd{
		Path: command[0], Args: command, Dir: "/", Env: []string{},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:                 unix.CLONE_NEWUSER | flags,
			UidMappings:                procMappings(m.UIDs),
			GidMappings:                procMappings(m.GIDs),
			GidMappingsEnableSetgroups: true,
			Pdeathsig:                  unix.SIGKILL,
			Setsid:                     true,
		},
	}
	if err := holder.Start(); err != nil {
		return fmt.Errorf("make user namespace: %w", err)
	}
	defer func() {
		if killErr := holder.Process.Kill(); killErr != nil && !errors.Is(killErr, os.ErrProcessDone) {
			err = errors.Join(err, fmt.Errorf("end holder of user namespace: %w", killErr))
		}
		_ = holder.Wait() // it was killed
	}()
	return f(holder.Process.Pid)
}

func procMappings(maps []IDMap) []syscall.SysProcIDMap {
	all := make([]syscall.SysProcIDMap, len(maps))
	for i, m := range maps {
		all[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Length)}
	}
	return all
}

// CloneMapped returns a clone of the mount that dir is on, from dir downwards
// and without the mounts below, in which files belong to those whom the user
// namespace maps their owners to. The clone is attached nowhere and ends with
// the descriptor. It is an error where the file system or the kernel cannot
// map.
func CloneMapped(dir string, userns *os.File) (_ *os.File, err error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	tree := os.NewFile(uintptr(fd), dir)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := retry(func() error { return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr) }); err != nil {
		return nil, errors.Join(&os.PathError{Op: "map owners (mount_setattr) of", Path: dir, Err: err}, tree.Close())
	}
	return tree, nil
}
