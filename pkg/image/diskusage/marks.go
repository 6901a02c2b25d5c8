package diskusage

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxGroups is how many fanotify groups are used; the kernel has 128 for all
// programs of a user together.
const maxGroups = 32

// marks tells when files of overlays are written to, once.
type marks struct {
	tell func(ids []string)

	mu      sync.Mutex // never held while tell runs
	groups  []*group
	byID    map[string]*group
	closed  bool
	readers sync.WaitGroup
}

// group is a fanotify group and the overlays marked in it.
type group struct {
	file *os.File
	ids  []string
}

func newMarks(tell func(ids []string)) *marks {
	return &marks{tell: tell, byID: map[string]*group{}}
}

// add marks the overlay mounted at a path, where that can be done.
func (m *marks) add(id, mount string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mount == "" || m.closed || m.byID[id] != nil {
		return
	}
	dir, err := openOverlay(mount)
	if err != nil {
		return
	}
	defer unix.Close(dir)
	g, err := m.groupLocked()
	if err != nil {
		return
	}
	mask := uint64(unix.FAN_MODIFY | unix.FAN_CLOSE_WRITE)
	err = control(g.file, func(fd int) error {
		return unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, mask, dir, "")
	})
	if err != nil { // no permission, or no more marks
		if len(g.ids) == 0 {
			m.releaseLocked(g)
		}
		return
	}
	g.ids = append(g.ids, id)
	m.byID[id] = g
}

// stands reports whether a mark is there and has not told of anything.
func (m *marks) stands(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byID[id] != nil
}

// groupLocked returns a new group, or where there are enough of them the one
// with the fewest marks.
func (m *marks) groupLocked() (*group, error) {
	var fewest *group
	if len(m.groups) > 0 {
		fewest = slices.MinFunc(m.groups, func(a, b *group) int { return len(a.ids) - len(b.ids) })
	}
	if len(m.groups) >= maxGroups {
		return fewest, nil
	}
	g, err := m.newGroupLocked()
	if err != nil && fewest != nil {
		return fewest, nil // others use up what the kernel permits
	}
	return g, err
}

func (m *marks) newGroupLocked() (*group, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fanotify_init", err)
	}
	g := &group{file: os.NewFile(uintptr(fd), "fanotify")}
	m.groups = append(m.groups, g)
	m.readers.Go(func() { m.wait(g) })
	return g, nil
}

// wait returns once a group has an event or was closed.
func (m *marks) wait(g *group) {
	if conn, err := g.file.SyscallConn(); err == nil {
		// The event is not read, closing the group drops it. Whether there is
		// one must be asked: one that came before the waiting wakes nobody.
		_ = conn.Read(func(fd uintptr) bool { return readable(int(fd)) })
	}
	m.mu.Lock()
	m.groups = slices.DeleteFunc(m.groups, func(x *group) bool { return x == g })
	ids := g.ids
	for _, id := range ids {
		delete(m.byID, id)
	}
	m.mu.Unlock()
	_ = g.file.Close()
	if len(ids) > 0 {
		m.tell(ids)
	}
}

// readable reports whether a read would not wait.
func readable(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// drop forgets a layer. Its mark goes with the super block. A group without any
// is closed by the goroutine that waits for it: closing waits for all
// processors, and whoever removes a container should not.
func (m *marks) drop(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.byID[id]
	if g == nil {
		return
	}
	delete(m.byID, id)
	g.ids = slices.DeleteFunc(g.ids, func(x string) bool { return x == id })
	if len(g.ids) == 0 {
		m.releaseLocked(g)
	}
}

// releaseLocked has a group closed.
func (m *marks) releaseLocked(g *group) {
	m.groups = slices.DeleteFunc(m.groups, func(x *group) bool { return x == g })
	_ = g.file.SetReadDeadline(time.Unix(1, 0)) // wakes who waits
}

// close drops all marks and waits for the goroutines.
func (m *marks) close() {
	m.mu.Lock()
	m.closed = true
	for _, g := range slices.Clone(m.groups) {
		g.ids = nil
		m.releaseLocked(g)
	}
	m.byID = map[string]*group{}
	m.mu.Unlock()
	m.readers.Wait()
}

// openOverlay opens the root of an overlay, and nothing else: where none is
// mounted the mark would be on the file system of the host.
func openOverlay(mount string) (int, error) {
	fd, err := unix.Open(mount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: mount, Err: err}
	}
	var fs unix.Statfs_t
	var own, parent unix.Stat_t
	err = unix.Fstatfs(fd, &fs)
	if err == nil {
		err = unix.Fstat(fd, &own)
	}
	if err == nil {
		err = unix.Stat(filepath.Dir(mount), &parent)
	}
	if err == nil && (fs.Type != unix.OVERLAYFS_SUPER_MAGIC || own.Dev == parent.Dev) {
		err = unix.EINVAL
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, &os.PathError{Op: "look at", Path: mount, Err: err}
	}
	return fd, nil
}

// control runs f with the descriptor of a file that a poller has.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
