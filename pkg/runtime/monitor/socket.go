package monitor

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// The address of a unix socket has room for 107 bytes, a path for 4096: both
// ends go through a descriptor of the directory.

func listenUnix(path string) (*net.UnixListener, error) {
	return withShortPath(path, func(short string) (*net.UnixListener, error) {
		return net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	})
}

func dialUnix(path string) (*net.UnixConn, error) {
	return withShortPath(path, func(short string) (*net.UnixConn, error) {
		return net.DialUnix("unix", nil, &net.UnixAddr{Name: short, Net: "unix"})
	})
}

func withShortPath[T any](path string, f func(string) (T, error)) (result T, err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return result, err
	}
	result, err = f("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path))
	return result, errors.Join(err, dir.Close())
}
