// Package usage finds processes and says what they cost: proportional set size,
// file descriptors. It reads /proc only and shares no code with the daemon.
package usage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is one live process. Zombies are not listed.
type Process struct {
	PID, PPID int
	StartTime uint64 // clock ticks since boot; with PID it names the process
	Args      []string
	Exe       string
	Cgroups   []string // one path for each hierarchy
}

// Cmdline is the command line with spaces.
func (p Process) Cmdline() string { return strings.Join(p.Args, " ") }

// Processes lists all live processes.
func Processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok, err := Get(pid); err != nil {
			return nil, err
		} else if ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// Get reads one process; false if it does not exist or is a zombie.
func Get(pid int) (Process, bool, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if gone(err) {
		return Process{}, false, nil
	} else if err != nil {
		return Process{}, false, err
	}
	// The name in parentheses may hold anything; the fields begin behind it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return Process{}, false, nil
	}
	p := Process{PID: pid}
	p.PPID, _ = strconv.Atoi(string(fields[1]))
	p.StartTime, _ = strconv.ParseUint(string(fields[19]), 10, 64)
	cmdline, err := os.ReadFile(dir + "cmdline")
	if err != nil && !gone(err) {
		return Process{}, false, err
	}
	if len(cmdline) > 0 {
		p.Args = strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	}
	p.Exe, _ = os.Readlink(dir + "exe") // kernel threads have none
	cgroups, err := os.ReadFile(dir + "cgroup")
	if err != nil && !gone(err) {
		return Process{}, false, err
	}
	for line := range strings.Lines(string(cgroups)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			p.Cgroups = append(p.Cgroups, parts[2])
		}
	}
	return p, true, nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// Alive reports whether the very process is still there.
func Alive(p Process) bool {
	now, ok, err := Get(p.PID)
	return err == nil && ok && now.StartTime == p.StartTime
}

// Match finds the processes whose command line contains all words.
func Match(words ...string) ([]Process, error) {
	all, err := Processes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p Process) bool {
		if p.PID == os.Getpid() {
			return true
		}
		for _, w := range words {
			if !strings.Contains(p.Cmdline(), w) {
				return true
			}
		}
		return false
	}), nil
}

// InCgroup finds the processes in a cgroup, in any hierarchy, or below it.
func InCgroup(path string) ([]Process, error) {
	all, err := Processes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p Process) bool {
		return !slices.ContainsFunc(p.Cgroups, func(c string) bool {
			return c == path || strings.HasPrefix(c, strings.TrimSuffix(path, "/")+"/")
		})
	}), nil
}

// PSS sums the proportional set size of processes in bytes; those that have
// ended count nothing.
func PSS(processes ...Process) (int64, error) {
	var sum int64
	for _, p := range processes {
		f, err := os.Open(filepath.Join("/proc", strconv.Itoa(p.PID), "smaps_rollup"))
		if gone(err) {
			continue
		} else if err != nil {
			return 0, err
		}
		scanner := bufio.NewScanner(f)
		for scanner.Scan() {
			if rest, ok := strings.CutPrefix(scanner.Text(), "Pss:"); ok {
				kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err != nil {
					return 0, errors.Join(fmt.Errorf("parse Pss of %d: %w", p.PID, err), f.Close())
				}
				sum += kib << 10
				break
			}
		}
		// The read gives ESRCH where the process ended after the open.
		if err := errors.Join(scanner.Err(), f.Close()); err != nil && !gone(err) {
			return 0, err
		}
	}
	return sum, nil
}

// Descriptors counts the open files of a process.
func Descriptors(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries), err
}
