package monitor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openLogFile opens a CRI log for appending. The directory is kubelet's and
// the name is ours, but a log must never end up in something that is not a
// file of its own: no symbolic link is followed and nothing else written to.
func openLogFile(path string) (int, error) {
	const flags = unix.O_RDWR | unix.O_APPEND | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	var fd int
	err := ignoreEINTR(func() (err error) {
		fd, err = unix.Open(path, flags, 0o640)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open log", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		closeFD(fd)
		return -1, &os.PathError{Op: "stat log", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		closeFD(fd)
		return -1, fmt.Errorf("%w: log %s is not a regular file", ErrInvalid, path)
	}
	return fd, nil
}

// appendLog writes all of out to the log, or nothing: what a full disk took of
// it is cut off again.
func appendLog(fd int, out []byte, size int64) error {
	for written := 0; written < len(out); {
		n, err := unix.Write(fd, out[written:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return errors.Join(os.NewSyscallError("write log", err), cutLog(fd, size))
		}
		written += n
	}
	return nil
}

func cutLog(fd int, size int64) error {
	return os.NewSyscallError("truncate log", ignoreEINTR(func() error { return unix.Ftruncate(fd, size) }))
}

// resumeLog completes a batch that a kill may have cut short: out was to be
// written at offset b.logSize of the file with b's inode. It goes by what is
// there, so that nobody who follows the log ever sees it shrink.
func resumeLog(path string, out []byte, b batch) error {
	fd, err := findLogFile(path, b)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	have := make([]byte, len(out))
	n := readAt(fd, have, b.logSize)
	if !bytes.Equal(have[:n], out[:n]) {
		// Somebody else has cut or written the file. Better twice than never.
		n = 0
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("stat log", err)
	}
	return appendLog(fd, out[n:], st.Size)
}

// findLogFile opens the log that a batch was for: kubelet may have renamed it,
// in the same directory, and not yet asked for a new one.
func findLogFile(path string, b batch) (int, error) {
	is := func(name string) bool {
		var st unix.Stat_t
		return unix.Lstat(name, &st) == nil && st.Dev == b.logDev && st.Ino == b.logIno
	}
	if !is(path) {
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			return -1, err
		}
		for _, e := range entries {
			if name := filepath.Join(filepath.Dir(path), e.Name()); e.Type().IsRegular() && is(name) {
				return openLogFile(name)
			}
		}
	}
	return openLogFile(path)
}

// readAt reads what there is at offset.
func readAt(fd int, p []byte, offset int64) (n int) {
	for n < len(p) {
		m, err := unix.Pread(fd, p[n:], offset+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m == 0 {
			break // the end, or bytes that cannot be read and so do not count
		}
		n += m
	}
	return n
}

// ignoreEINTR repeats a system call that a signal interrupted.
func ignoreEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// errnoOf finds the system's error number in an error; EIO stands for others.
func errnoOf(err error) unix.Errno {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return unix.EIO
}
