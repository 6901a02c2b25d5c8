package runtime

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// watchStart calls started once the OCI runtime has written the pid file of an
// exec, which it does when the process is there. stop ends the watching, and
// waits until it has.
func watchStart(dir string, started func()) (stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE); err != nil {
		_ = f.Close()
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		name := filepath.Base(oci.PidFile(dir))
		b := make([]byte, 16*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
		for {
			n, err := f.Read(b) // returns when f is closed
			if err != nil {
				return
			}
			if names(b[:n], name) {
				started()
				return
			}
		}
	}()
	return func() {
		_ = f.Close()
		<-done
	}, nil
}

// names reports whether one of the events of inotify(7) in b is about a file.
func names(b []byte, file string) bool {
	for len(b) >= unix.SizeofInotifyEvent {
		length := int(binary.NativeEndian.Uint32(b[unix.SizeofInotifyEvent-4:]))
		b = b[unix.SizeofInotifyEvent:]
		if length > len(b) {
			return false
		}
		if string(bytes.TrimRight(b[:length], "\x00")) == file {
			return true
		}
		b = b[length:]
	}
	return false
}
