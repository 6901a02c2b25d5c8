package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A Console receives a pseudo-terminal's master from the OCI runtime over a
// socket, as the runtime specification's --console-socket has it.
type Console struct {
	listener *net.UnixListener
	dir      *os.File
	name     string
}

const consoleTime = 5 * time.Second

// NewConsole listens in dir, where no two consoles may have the same id. The path for the runtime goes through /proc: the
// address of a unix socket has room for 107 bytes only.
func NewConsole(dir, id string) (*Console, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	c := &Console{dir: d, name: "console-" + strconv.FormatUint(hashID(id), 36)}
	if err := os.Remove(filepath.Join(dir, c.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, d.Close())
	}
	c.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: c.Path(), Net: "unix"})
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return c, nil
}

// Path is what the OCI runtime gets as --console-socket.
func (c *Console) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), c.dir.Fd(), c.name)
}

// Receive waits for the master, a nonblocking descriptor that the caller must
// close, until ctx ends.
func (c *Console) Receive(ctx context.Context) (int, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.listener.SetDeadline(time.Now()) }) // it is open until stop
	defer stop()
	socket, err := c.listener.AcceptUnix()
	if err != nil {
		return -1, fmt.Errorf("receive terminal from OCI runtime: %w", err)
	}
	defer func() { _ = socket.Close() }() // nothing is sent on it
	if err := socket.SetDeadline(time.Now().Add(consoleTime)); err != nil {
		return -1, err
	}
	rights := &rightsReader{socket: socket}
	defer rights.drop()
	if _, err := rights.Read(make([]byte, 4096)); err != nil {
		return -1, fmt.Errorf("receive terminal from OCI runtime: %w", err)
	}
	fds, err := rights.take(1)
	if err != nil {
		return -1, fmt.Errorf("receive terminal from OCI runtime: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		closeFD(fds[0])
		return -1, os.NewSyscallError("set terminal nonblocking", err)
	}
	return fds[0], nil
}

// Close removes the socket.
func (c *Console) Close() error {
	return errors.Join(c.listener.Close(), c.dir.Close())
}

// hashID is FNV-1a: ids can be longer than a socket's name may be.
func hashID(id string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	return h
}
