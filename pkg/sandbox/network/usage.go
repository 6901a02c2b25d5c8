package network

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Usage is what went through one interface of a pod, from the pod's side.
type Usage struct {
	Name   string
	RX, TX Traffic
}

// Traffic is one direction.
type Traffic struct{ Bytes, Packets, Errors, Dropped uint64 }

// usageSize is more than a pod's interfaces fill: 400 of them.
const usageSize = 64 << 10

// ReadUsage reads the interfaces of pods, given by the paths of their network
// namespaces, in the order the kernel has them, without the loopback. The result
// of a namespace that is not there is nil.
//
// It reads /proc/thread-self/net/dev on a thread that enters one namespace after
// the other: that takes no lock in the kernel, whereas netlink waits for whoever
// configures the network of any pod, and no socket stays open that would keep a
// namespace alive.
func ReadUsage(paths []string) ([][]Usage, error) {
	type answer struct {
		all [][]Usage
		err error
	}
	result := make(chan answer, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread would not end. While this goroutine holds it, the
			// next one runs elsewhere.
			defer runtime.UnlockOSThread()
			all, err := ReadUsage(paths)
			result <- answer{all, err}
			return
		}
		// Never unlocked: a thread that has been in foreign namespaces goes.
		all := make([][]Usage, len(paths))
		buf := make([]byte, usageSize)
		var errs []error
		for i, path := range paths {
			usage, err := readUsage(path, buf)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, err)
			}
			all[i] = usage
		}
		result <- answer{all, errors.Join(errs...)}
	}()
	r := <-result
	return r.all, r.err
}

// readUsage moves the calling thread to a namespace and reads its interfaces.
func readUsage(path string, buf []byte) ([]Usage, error) {
	netns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	err = unix.Setns(netns, unix.CLONE_NEWNET)
	if err := errors.Join(err, unix.Close(netns)); err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	const file = "/proc/thread-self/net/dev"
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: file, Err: err}
	}
	n := 0
	for n < len(buf) {
		var got int
		got, err = unix.Read(fd, buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || got == 0 {
			break
		}
		n += got
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return nil, &os.PathError{Op: "read", Path: file, Err: err}
	}
	return parseUsage(buf[:n]), nil
}

// The columns of net/dev after the name: bytes, packets, errs, drop, fifo, frame,
// compressed and multicast received, then the same eight or so transmitted.
const (
	columnRX = 0
	columnTX = 8
	columns  = 16
)

// parseUsage reads proc_net(5)'s dev. Lines it does not understand, such as the
// two of the heading, are passed over.
func parseUsage(b []byte) []Usage {
	usage := []Usage{} // not nil: the namespace is there
	for line := range bytes.Lines(b) {
		// Names may hold colons, as aliases do; numbers do not.
		colon := bytes.LastIndexByte(line, ':')
		if colon < 0 {
			continue
		}
		name := string(bytes.TrimSpace(line[:colon]))
		var numbers [columns]uint64
		fields := bytes.Fields(line[colon+1:])
		if name == "lo" || len(fields) < columns {
			continue
		}
		ok := true
		for i := range numbers {
			v, err := strconv.ParseUint(string(fields[i]), 10, 64)
			ok = ok && err == nil
			numbers[i] = v
		}
		if !ok {
			continue
		}
		traffic := func(from int) Traffic {
			return Traffic{Bytes: numbers[from], Packets: numbers[from+1], Errors: numbers[from+2], Dropped: numbers[from+3]}
		}
		usage = append(usage, Usage{Name: name, RX: traffic(columnRX), TX: traffic(columnTX)})
	}
	return usage
}
