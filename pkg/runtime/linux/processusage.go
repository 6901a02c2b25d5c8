package linux

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ProcessUsage is what the processes of a cgroup hold.
type ProcessUsage struct {
	Processes, FDs, Sockets uint64
	// OpenFilesSoft is the soft limit of open files of the first process; nil
	// without a limit.
	OpenFilesSoft *uint64
}

// ProcessUsage looks at each process of a cgroup and those below it.
func (c *Cgroups) ProcessUsage(cgroup string) (ProcessUsage, error) {
	var u ProcessUsage
	pids, err := processesOf(c.dir(c.anyController(), cgroup))
	if err != nil {
		return u, fmt.Errorf("list processes of cgroup %s: %w", cgroup, err)
	}
	u.Processes = uint64(len(pids))
	for i, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		fds, sockets := countFDs(dir + "/fd")
		u.FDs += fds
		u.Sockets += sockets
		if i == 0 {
			u.OpenFilesSoft = openFilesSoft(dir + "/limits")
		}
	}
	return u, nil
}

// CountProcesses counts the processes of a cgroup and those below it. One that is
// not there has none.
func (c *Cgroups) CountProcesses(cgroup string) uint64 {
	pids, err := processesOf(c.dir(c.anyController(), cgroup))
	if err != nil {
		return 0
	}
	return uint64(len(pids))
}

// anyController names a tree that every runtime puts its processes in.
func (c *Cgroups) anyController() string {
	for _, name := range []string{"pids", "memory", "cpuacct", "cpu"} {
		if _, ok := c.trees[name]; ok {
			return name
		}
	}
	for name := range c.trees {
		return name
	}
	return ""
}

// processesOf reads the pids in a directory and those below it. It asks for the
// entries of a directory only where its link count says that some of them are
// directories.
func processesOf(dir string) ([]int, error) {
	var buf [4 << 10]byte
	b, err := readControl(dir+"/cgroup.procs", buf[:])
	if len(b) == len(buf) { // perhaps more
		b, err = os.ReadFile(dir + "/cgroup.procs")
	}
	if err != nil && ignoreGone(err) != nil {
		return nil, err
	}
	var pids []int
	for _, field := range bytes.Fields(b) {
		if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Nlink <= 2 {
		return pids, nil //nolint:nilerr // gone meanwhile
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return pids, ignoreNotExist(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		below, err := processesOf(filepath.Join(dir, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		pids = append(pids, below...)
	}
	return pids, nil
}

// countFDs counts open files, and the sockets among them. A process that ended
// has none.
func countFDs(dir string) (fds, sockets uint64) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return 0, 0
	}
	var buf [8]byte
	for _, name := range names {
		n, err := unix.Readlinkat(int(f.Fd()), name, buf[:])
		if err != nil {
			continue
		}
		fds++
		if string(buf[:n]) == "socket:[" {
			sockets++
		}
	}
	return fds, sockets
}

// openFilesSoft reads one line of proc_pid_limits(5).
func openFilesSoft(file string) *uint64 {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(content)) {
		rest, ok := strings.CutPrefix(line, "Max open files")
		if !ok {
			continue
		}
		if f := strings.Fields(rest); len(f) > 0 {
			if v, err := strconv.ParseUint(f[0], 10, 64); err == nil {
				return &v
			}
		}
	}
	return nil
}
