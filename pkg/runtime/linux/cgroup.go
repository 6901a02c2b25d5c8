package linux

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// CgroupRoot is where systemd and every distribution mount control groups.
const CgroupRoot = "/sys/fs/cgroup"

// Cgroups knows how control groups are mounted on this machine: one unified
// tree (cgroup v2) or one tree for each controller (v1). A v1 machine that also
// mounts an empty v2 tree, which is called hybrid, counts as v1.
//
// A cgroup is named by its path from the root of the trees, such as
// /kubepods/burstable/pod123/abc.
type Cgroups struct {
	unified bool
	hybrid  bool
	root    string            // v2: where the tree is mounted
	trees   map[string]string // v1: controller -> mount point
	buffers sync.Pool         // of *statBuffer
}

// DetectCgroups looks at what is mounted at CgroupRoot.
func DetectCgroups() (*Cgroups, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(CgroupRoot, &st); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: CgroupRoot, Err: err}
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return &Cgroups{unified: true, root: CgroupRoot}, nil
	}
	entries, err := os.ReadDir(CgroupRoot)
	if err != nil {
		return nil, err
	}
	c := &Cgroups{trees: map[string]string{}}
	for _, e := range entries {
		mountPoint := filepath.Join(CgroupRoot, e.Name())
		if err := unix.Statfs(mountPoint, &st); err != nil {
			continue // a dangling symlink such as cpu -> cpu,cpuacct with nothing behind it
		}
		switch st.Type {
		case unix.CGROUP2_SUPER_MAGIC:
			c.hybrid = true
		case unix.CGROUP_SUPER_MAGIC:
			// Joint trees show up once for each name: cpu, cpuacct and cpu,cpuacct.
			for name := range strings.SplitSeq(e.Name(), ",") {
				c.trees[name] = mountPoint
			}
		}
	}
	if len(c.trees) == 0 {
		return nil, fmt.Errorf("no control groups are mounted below %s", CgroupRoot)
	}
	return c, nil
}

// Unified reports whether this machine has cgroup v2 alone.
func (c *Cgroups) Unified() bool { return c.unified }

// Hybrid reports whether a v1 machine also mounts a v2 tree.
func (c *Cgroups) Hybrid() bool { return c.hybrid }

// HasController reports whether limits of a controller can be set.
func (c *Cgroups) HasController(name string) bool {
	if !c.unified {
		_, ok := c.trees[name]
		return ok
	}
	b, err := os.ReadFile(filepath.Join(CgroupRoot, "cgroup.controllers"))
	return err == nil && bytes.Contains(append(append([]byte(" "), bytes.TrimSpace(b)...), ' '), []byte(" "+name+" "))
}

// dir is the directory of a cgroup in the tree of one controller. Cleaning
// with a leading slash keeps it inside the tree whatever the name holds.
func (c *Cgroups) dir(controller, cgroup string) string {
	cgroup = path.Clean("/" + cgroup)
	if c.unified {
		return c.root + cgroup
	}
	return c.trees[controller] + cgroup
}

// dirs lists the directories of a cgroup, one for each distinct tree.
func (c *Cgroups) dirs(cgroup string) []string {
	if c.unified {
		return []string{c.dir("", cgroup)}
	}
	seen := map[string]bool{}
	var dirs []string
	for controller, tree := range c.trees {
		if !seen[tree] {
			seen[tree] = true
			dirs = append(dirs, c.dir(controller, cgroup))
		}
	}
	if c.hybrid { // runc makes its cgroups there as well
		dirs = append(dirs, filepath.Join(CgroupRoot, "unified", path.Clean("/"+cgroup)))
	}
	return dirs
}

// Exists reports whether the cgroup is there in any tree.
func (c *Cgroups) Exists(cgroup string) bool {
	for _, dir := range c.dirs(cgroup) {
		if _, err := os.Stat(dir); err == nil {
			return true
		}
	}
	return false
}

// Create makes a cgroup and its parents, with every controller the root has
// enabled for its children. One that exists is a success.
func (c *Cgroups) Create(cgroup string) error {
	if c.unified {
		return c.createUnified(cgroup)
	}
	for _, dir := range c.dirs(cgroup) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
	}
	return c.inheritCpuset(cgroup)
}

func (c *Cgroups) createUnified(cgroup string) error {
	controllers, err := os.ReadFile(filepath.Join(CgroupRoot, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read cgroup controllers: %w", err)
	}
	dir := CgroupRoot
	for part := range strings.SplitSeq(strings.Trim(path.Clean("/"+cgroup), "/"), "/") {
		for _, controller := range strings.Fields(string(controllers)) {
			// A controller that cannot be enabled (threaded, or taken by v1)
			// is left out; who needs it gets a clear error from the runtime.
			_ = writeControl(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller)
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("create cgroup: %w", err)
		}
	}
	return nil
}

// inheritCpuset fills the cpuset of new v1 cgroups from their parents: the
// kernel leaves it empty, and no process can enter an empty one.
func (c *Cgroups) inheritCpuset(cgroup string) error {
	tree, ok := c.trees["cpuset"]
	if !ok {
		return nil
	}
	dir := tree
	for part := range strings.SplitSeq(strings.Trim(path.Clean("/"+cgroup), "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			own, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return fmt.Errorf("read cpuset: %w", err)
			}
			if len(bytes.TrimSpace(own)) > 0 {
				continue
			}
			inherited, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return fmt.Errorf("read cpuset: %w", err)
			}
			if err := writeControl(filepath.Join(dir, file), string(bytes.TrimSpace(inherited))); err != nil {
				return fmt.Errorf("inherit cpuset: %w", err)
			}
		}
	}
	return nil
}

// writeControl writes a value to an existing control file.
func writeControl(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Remove deletes a cgroup and those below it. One that is not there is a
// success; one with processes is EBUSY.
func (c *Cgroups) Remove(cgroup string) error {
	if path.Clean("/"+cgroup) == "/" {
		return fmt.Errorf("remove cgroup %q: it is the root", cgroup)
	}
	var errs []error
	for _, dir := range c.dirs(cgroup) {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

// removeTree removes directories only: the files in a cgroup are no files.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return ignoreNotExist(readErr)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// RemoveEmpty deletes a cgroup that has neither processes nor cgroups below it,
// and reports whether it is gone. One that is not there is.
func (c *Cgroups) RemoveEmpty(cgroup string) bool {
	if path.Clean("/"+cgroup) == "/" {
		return false
	}
	for _, dir := range c.dirs(cgroup) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return false
		}
	}
	return true
}

// Processes lists the pids in a cgroup and those below it. A cgroup that is
// not there has none.
func (c *Cgroups) Processes(cgroup string) ([]int, error) {
	pids, err := cgroupProcesses(c.dirs(cgroup))
	if err != nil {
		return nil, fmt.Errorf("list processes of cgroup %s: %w", cgroup, err)
	}
	return pids, nil
}

// cgroupProcesses lists the pids in the directories of a cgroup and below them.
func cgroupProcesses(dirs []string) ([]int, error) {
	seen := map[int]bool{}
	var pids []int
	for _, dir := range dirs {
		found, err := processesOf(dir)
		if err != nil {
			return nil, err
		}
		for _, pid := range found {
			if !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// ignoreGone treats a cgroup that vanished while it was read as empty, and one
// that a container made threaded: the processes of that are in a cgroup above.
func ignoreGone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return ignoreNotExist(err)
}
