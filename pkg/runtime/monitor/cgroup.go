package monitor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// cgroupMounts is where the hierarchies are mounted.
type cgroupMounts struct {
	unified string
	v1      map[string]string
}

// readCgroupMounts reads proc_pid_mountinfo(5) of this process.
func readCgroupMounts() (cgroupMounts, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return cgroupMounts{}, err
	}
	m, err := parseCgroupMounts(f)
	return m, errors.Join(err, f.Close())
}

func parseCgroupMounts(r io.Reader) (cgroupMounts, error) {
	m := cgroupMounts{v1: map[string]string{}}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		before, after, ok := strings.Cut(scanner.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 || left[3] != "/" {
			continue
		}
		switch right[0] {
		case "cgroup2":
			m.unified = left[4]
		case "cgroup":
			for option := range strings.SplitSeq(right[2], ",") {
				m.v1[option] = left[4] // "rw" among them does no harm
			}
		}
	}
	return m, scanner.Err()
}

// of returns the cgroup directories of a process. Directories that others are
// in too, the root and those above this process, are not taken for its own.
func (m cgroupMounts) of(pid int) (Cgroup, error) {
	mine, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Cgroup{}, err
	}
	its, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return Cgroup{}, err
	}
	own := map[string]string{}
	eachCgroup(mine, func(controllers, path string) { own[controllers] = path })
	c := Cgroup{V1: map[string]string{}}
	eachCgroup(its, func(controllers, path string) {
		if strings.HasPrefix(own[controllers]+"/", strings.TrimSuffix(path, "/")+"/") {
			return
		}
		if controllers == "" {
			if m.unified != "" {
				c.Unified = filepath.Join(m.unified, path)
			}
			return
		}
		for name := range strings.SplitSeq(controllers, ",") {
			if mount, ok := m.v1[name]; ok {
				c.V1[name] = filepath.Join(mount, path)
			}
		}
	})
	return c, nil
}

// eachCgroup parses proc_pid_cgroup: "id:controllers:path" a line.
func eachCgroup(b []byte, f func(controllers, path string)) {
	for line := range strings.Lines(string(b)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) == 3 {
			f(fields[1], strings.TrimSuffix(fields[2], " (deleted)"))
		}
	}
}

// oomKilled reports whether the kernel has killed a process of the cgroup for
// want of memory.
func (c Cgroup) oomKilled() bool {
	for _, path := range []string{filepath.Join(c.Unified, memoryEvents), filepath.Join(c.V1["memory"], "memory.oom_control")} {
		if !filepath.IsAbs(path) {
			continue
		}
		b, err := os.ReadFile(path)
		if err == nil && keyedCount(b, "oom_kill") > 0 {
			return true
		}
	}
	return false
}

// keyedCount reads one value of a "key value" file.
func keyedCount(b []byte, key string) int64 {
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) == 2 && string(fields[0]) == key {
			n, err := strconv.ParseInt(string(fields[1]), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// killTime bounds the killing of what an init has left behind.
const killTime = 5 * time.Second

// killAll kills every process of the cgroup and below until there is none, or
// ctx ends.
func (c Cgroup) killAll(ctx context.Context) error {
	dir := c.killDir()
	if dir == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	if err := linux.KillCgroup(ctx, dir); err != nil {
		return fmt.Errorf("kill cgroup %s: %w", dir, err)
	}
	return nil
}

// killDir chooses the hierarchy to kill by: on a hybrid host the runtime may
// not have made a directory in each.
func (c Cgroup) killDir() string {
	for _, dir := range []string{c.Unified, c.V1["pids"], c.V1["memory"], c.V1["freezer"], c.V1["devices"], c.V1["cpu"]} {
		if dir != "" {
			return dir
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
