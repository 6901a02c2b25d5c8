package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// namespace is one kind of namespace that a pod may have of its own.
type namespace struct {
	pin  string // name of the pin below the state directory
	proc string // name below /proc/PID/ns
	flag int    // of unshare(2)
}

var (
	userNamespace = namespace{"userns", "user", unix.CLONE_NEWUSER}

	netNamespace = namespace{"netns", "net", unix.CLONE_NEWNET}
	ipcNamespace = namespace{"ipcns", "ipc", unix.CLONE_NEWIPC}
	utsNamespace = namespace{"utsns", "uts", unix.CLONE_NEWUTS}
)

// ownNamespaces are those that the pod does not share with the host. A pod in
// the host's network also keeps the host's name.
func ownNamespaces(p Params) []namespace {
	var own []namespace
	if p.UserNS != nil {
		own = append(own, userNamespace)
	}
	if !p.HostNetwork {
		own = append(own, netNamespace, utsNamespace)
	}
	if !p.HostIPC {
		own = append(own, ipcNamespace)
	}
	return own
}

// nsSetup is what a thread does in new namespaces.
type nsSetup struct {
	dir        string // where the pins go; made by mountState
	namespaces []namespace
	hostname   string
	sysctls    []sysctl
	// userNS makes the namespaces belong to a user namespace, and holder is a
	// program that waits in it.
	userNS *UserNS
	holder []string
}

// pinNamespaces makes the namespaces and leaves them pinned. It cannot be
// interrupted: what it waits for is the kernel alone, and to return before the
// thread is done would let a teardown overtake it.
func pinNamespaces(s nsSetup) error {
	if len(s.namespaces) == 0 {
		return nil
	}
	if s.userNS != nil {
		return onOwnThread(s.runMapped)
	}
	return onOwnThread(s.run)
}

// onOwnThread runs f on a thread that ends with it: one that has been in
// foreign namespaces must not run anything else, ever.
func onOwnThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread would not end, and /proc/self/ns would show
			// its namespaces as those of the whole process. While this
			// goroutine holds it, the next one runs elsewhere.
			defer runtime.UnlockOSThread()
			result <- onOwnThread(f)
			return
		}
		result <- f() // never unlocked, so the thread goes too
	}()
	return <-result
}

// run does all that has to happen inside, on the thread that is given up for
// it, and pins last: a pin stands for a finished namespace.
func (s nsSetup) run() error {
	flags := 0
	for _, n := range s.namespaces {
		flags |= n.flag
	}
	if err := unix.Unshare(flags); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := s.furnish(); err != nil {
		return err
	}
	for _, n := range s.namespaces {
		if err := s.pin(n, "/proc/thread-self/ns/"+n.proc); err != nil {
			return err
		}
	}
	return nil
}

// runMapped is run for a pod with a user namespace, which a process has to
// make. This thread enters the others and stays root of the host, to whom they
// belong as well.
func (s nsSetup) runMapped() error {
	var flags uintptr
	for _, n := range s.namespaces {
		flags |= uintptr(n.flag)
	}
	return linux.InNewUserNS(s.holder, *s.userNS, flags, func(pid int) error {
		dir := fmt.Sprintf("/proc/%d/ns/", pid)
		for _, n := range s.namespaces {
			if n == userNamespace {
				continue
			}
			if err := joinNamespace(dir+n.proc, n.flag); err != nil {
				return err
			}
		}
		if err := s.furnish(); err != nil {
			return err
		}
		for _, n := range s.namespaces {
			if err := s.pin(n, dir+n.proc); err != nil {
				return err
			}
		}
		return nil
	})
}

// joinNamespace moves the calling thread.
func joinNamespace(path string, flag int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.Setns(fd, flag); err != nil {
		return errors.Join(&os.PathError{Op: "setns", Path: path, Err: err}, unix.Close(fd))
	}
	return unix.Close(fd)
}

// furnish sets up the namespaces that the calling thread is in.
func (s nsSetup) furnish() error {
	if slices.Contains(s.namespaces, utsNamespace) {
		if err := unix.Sethostname([]byte(s.hostname)); err != nil {
			return os.NewSyscallError("sethostname", err)
		}
	}
	if slices.Contains(s.namespaces, netNamespace) {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	return writeSysctls(s.sysctls, s.userNS)
}

// pin keeps the namespace at path alive.
func (s nsSetup) pin(n namespace, path string) error {
	pin := filepath.Join(s.dir, n.pin)
	if err := createEmpty(pin); err != nil {
		return err
	}
	// Private because the mount it is made on is; see mountState.
	if err := unix.Mount(path, pin, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "pin " + n.proc + " namespace at", Path: pin, Err: err}
	}
	return nil
}

// loopbackUp brings lo up in the network namespace of the calling thread; the
// kernel then gives it its addresses.
func loopbackUp() (err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
		return fmt.Errorf("read flags of lo: %w", err)
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// createEmpty makes the file that a pin is mounted on.
func createEmpty(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// pinned reports whether path is a mounted namespace.
func pinned(path string) (bool, error) {
	mounted, err := linux.IsMountPoint(path)
	if err != nil || !mounted {
		return false, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return st.Type == unix.NSFS_MAGIC, nil
}

// mountState makes dir and mounts the pod's tmpfs on it, private, so that no
// pin in it propagates even where the mount below it is shared. shm takes its
// size and its flags from it.
func mountState(dir string, p Params) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	size := p.ShmSize
	if size == 0 {
		size = defaultShmSize
	}
	if p.HostIPC {
		size = 0
	}
	options := fmt.Sprintf("mode=0700,size=%d", max(size, minShmSize))
	err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
	if err == nil {
		err = unix.Mount("", dir, "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		return &os.PathError{Op: "mount tmpfs on", Path: dir, Err: err}
	}
	return nil
}

// unmountState takes away all mounts of a sandbox, be there any or not: what
// is mounted in the tmpfs goes with it. That is one call, because each umount
// waits for all processors (RCU), and one fixed path, so that no request and
// no record can choose what is unmounted (CVE-2025-0750).
func unmountState(dir string) error { return linux.Unmount(dir) }

// intact reports whether all that keeps a pod's namespaces alive is mounted.
func intact(dir string, p Params) (bool, error) {
	if ok, err := linux.IsMountPoint(dir); err != nil || !ok {
		return false, err
	}
	for _, n := range ownNamespaces(p) {
		if ok, err := pinned(filepath.Join(dir, n.pin)); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}
