package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Dial connects to a TCP port of the pod on its own loopback interface, or on
// the host's where the pod is in the host's network: 127.0.0.1, then ::1. The
// sandbox must be ready. The caller must close the connection; it has no other
// tie to the sandbox and ends with whoever is at its other end.
func (s *Sandbox) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	st := s.Status()
	if st.State != Ready {
		return nil, fmt.Errorf("sandbox %s is %s, not ready: %w", st.ID, st.State, errdefs.ErrFailedPrecondition)
	}
	var errs []error
	for _, loopback := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		conn, err := dialFrom(ctx, st.Namespaces.Net, netip.AddrPortFrom(loopback, port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("connect to port %d of sandbox %s: %w", port, st.ID, errors.Join(errs...))
}

// dialFrom connects from the network namespace at path; "" is the one of the
// daemon.
func dialFrom(ctx context.Context, path string, to netip.AddrPort) (net.Conn, error) {
	if path == "" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	}
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	// A socket belongs for ever to the namespace that it was made in. So the
	// thread is there for one system call only, not as long as connecting takes.
	var fd int
	err := onOwnThread(func() (err error) {
		fd, err = socketIn(path, family)
		return err
	})
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "tcp:"+to.String()) // takes ownership of fd
	conn, err := connect(ctx, file, to)
	if err := errors.Join(err, file.Close()); err != nil {
		if conn != nil {
			err = errors.Join(err, conn.Close())
		}
		return nil, err
	}
	return conn, nil
}

// socketIn moves the calling thread to a network namespace and makes a
// non-blocking TCP socket there.
func socketIn(path string, family int) (fd int, err error) {
	ns, err := os.Open(path)
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return -1, &os.PathError{Op: "enter network namespace", Path: path, Err: err}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return fd, nil
}

// connect connects a non-blocking socket and returns it as a connection with a
// descriptor of its own.
func connect(ctx context.Context, file *os.File, to netip.AddrPort) (net.Conn, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	// The end of ctx ends the waiting below.
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	begun := false
	var failed error
	err = raw.Write(func(fd uintptr) (done bool) {
		if !begun {
			begun = true
			failed = ignoring(unix.Connect(int(fd), sockaddr(to)), unix.EINPROGRESS, unix.EINTR)
			return failed != nil
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failed = err
		case code != 0:
			failed = unix.Errno(code)
		default:
			// The poller may also wake up for nothing.
			_, err := unix.Getpeername(int(fd))
			return !errors.Is(err, unix.ENOTCONN)
		}
		return true
	})
	if err = errors.Join(err, failed); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return net.FileConn(file)
}

func ignoring(err error, harmless ...error) error {
	for _, h := range harmless {
		if errors.Is(err, h) {
			return nil
		}
	}
	return err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
