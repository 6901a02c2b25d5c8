package invariant

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Resources are what a process holds. Connections are its descriptors of TCP
// sockets, Descriptors all others.
type Resources struct{ Descriptors, Connections, Threads int }

// What a process may hold more than at the start of its node. A registry's
// connections idle for half a minute, and the Go runtime keeps the threads it
// once had to start: one for each call to the kernel that took long at the same
// time, which on a machine with other work to do are many. A leak goes beyond
// any number.
var (
	slack   = Resources{Descriptors: 10, Connections: 64, Threads: 56}
	perPod  = Resources{Descriptors: 1}
	perCtr  = Resources{Descriptors: 6}
	atStart = map[string]Resources{
		// The first pod starts the monitor.
		Monitor: {Descriptors: 13, Threads: 10},
	}
)

// held counts what a process holds; false if it has ended.
func held(pid int) (Resources, bool, error) {
	var r Resources
	dir := fmt.Sprintf("/proc/%d", pid)
	tasks, err := os.ReadDir(filepath.Join(dir, "task"))
	if ended(err) {
		return r, false, nil
	} else if err != nil {
		return r, false, err
	}
	r.Threads = len(tasks)
	descriptors, err := os.ReadDir(filepath.Join(dir, "fd"))
	if ended(err) {
		return r, false, nil
	} else if err != nil {
		return r, false, err
	}
	connections, err := tcpSockets(dir)
	for _, d := range descriptors {
		if target, _ := os.Readlink(filepath.Join(dir, "fd", d.Name())); connections[target] {
			r.Connections++
		} else {
			r.Descriptors++
		}
	}
	return r, err == nil, err
}

func ended(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// tcpSockets are the links of all TCP sockets in the network namespace of a process.
func tcpSockets(dir string) (map[string]bool, error) {
	found := map[string]bool{}
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if ended(err) || errors.Is(err, unix.EINVAL) {
			continue // no IPv6, or a process that has just ended
		} else if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); len(fields) > 9 {
				found["socket:["+fields[9]+"]"] = true
			}
		}
	}
	return found, nil
}

// CheckResources compares what a process holds with what it held at the start of
// its node, allowing for the objects there are.
func CheckResources(role string, start, now Resources, v View) []string {
	var wrong []string
	compare := func(what string, count func(Resources) int) {
		most := count(start) + count(slack) + len(v.Sandboxes)*count(perPod) + len(v.Containers)*count(perCtr)
		if count(now) > most {
			wrong = append(wrong, fmt.Sprintf("the %s has %d %s with %d pods and %d containers, more than %d",
				role, count(now), what, len(v.Sandboxes), len(v.Containers), most))
		}
	}
	compare("open files", func(r Resources) int { return r.Descriptors })
	compare("connections", func(r Resources) int { return r.Connections })
	compare("threads", func(r Resources) int { return r.Threads })
	return wrong
}
