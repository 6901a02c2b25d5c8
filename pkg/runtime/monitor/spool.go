package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	pipeSize    = 64 << 10
	hotPipeSize = 256 << 10
	// maxHeld bounds a spool while the OCI runtime creates the container.
	maxHeld = 1 << 20
	// A spool that is longer is made short again.
	hotSpoolSize  = 1 << 20
	idleSpoolSize = 64 << 10
)

// A stream is one source of output and the spool its bytes go to first. The
// size of the spool says how much has been taken from the source: splice(2)
// takes from a pipe what it has put into the file, so that SIGKILL cannot come
// between. Bytes of a terminal are read and written, and SIGKILL between the
// two can lose what one read returned.
type stream struct {
	index int
	tty   bool
	dir   string
	// source is the FIFO's reading end or the pty's master, -1 for none yet.
	source int
	token  int32
	// ready says that the source may have something.
	ready atomic.Bool
	// eof says that it never will again.
	eof bool
	hot bool

	spool int
	size  int64
}

func spoolPath(dir string, stream int, which int64) string {
	return filepath.Join(dir, fmt.Sprintf("%s.spool%d", streamNames[stream], which))
}

// openSpool opens the stream's current spool and deletes the other one, which
// a kill may have left. It returns how much of the spool was consumed.
func (s *stream) openSpool(which, consumed int64) (int64, error) {
	if err := os.Remove(spoolPath(s.dir, s.index, 1-which)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	fd, err := createSpool(spoolPath(s.dir, s.index, which), 0)
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		closeFD(fd)
		return 0, os.NewSyscallError("fstat spool", err)
	}
	s.spool, s.size = fd, st.Size
	// A spool is cut to nothing only when all of it was consumed, and a kill
	// can come before the journal says so.
	return min(consumed, s.size), nil
}

func createSpool(path string, flags int) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "open spool", Path: path, Err: err}
	}
	return fd, nil
}

// fill takes some bytes from the source into the spool. 0 and no error is the
// end of the source; EAGAIN says that there is nothing now.
func (s *stream) fill(b *buffers) (int64, error) {
	if s.tty {
		return s.fillFromTTY(b)
	}
	length := pipeSize
	if s.hot {
		length = hotPipeSize
	}
	offset := s.size
	n, err := splice(s.source, s.spool, &offset, length)
	if err != nil {
		return 0, err
	}
	s.size += n
	s.heat(n)
	return n, nil
}

// heat enlarges the pipe of a container that fills it.
func (s *stream) heat(n int64) {
	if n >= pipeSize && !s.hot {
		s.hot = true
		// Refused where the limit of pipe memory is reached; slower then.
		_, _ = unix.FcntlInt(uintptr(s.source), unix.F_SETPIPE_SZ, hotPipeSize)
	}
}

func (s *stream) fillFromTTY(b *buffers) (int64, error) {
	data := b.input(pipeSize)
	n, err := read(s.source, data)
	if err != nil || n == 0 {
		return 0, err
	}
	if err := pwrite(s.spool, data[:n], s.size); err != nil {
		return 0, errors.Join(err, ignoreEINTR(func() error { return unix.Ftruncate(s.spool, s.size) }))
	}
	s.size += int64(n)
	return int64(n), nil
}

// discard takes some bytes from the source to nowhere.
func (s *stream) discard(b *buffers) (int64, error) {
	n, err := read(s.source, b.input(pipeSize))
	return int64(n), err
}

// load reads the spool from an offset, at most limit bytes.
func (s *stream) load(b *buffers, offset int64, limit int) ([]byte, error) {
	data := b.input(int(min(s.size-offset, int64(limit))))
	for n := 0; n < len(data); {
		m, err := unix.Pread(s.spool, data[n:], offset+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && m == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("read spool of %s: %w", streamNames[s.index], err)
		}
		n += m
	}
	return data, nil
}

// cut empties a spool that was consumed to its end.
func (s *stream) cut() error {
	if err := ignoreEINTR(func() error { return unix.Ftruncate(s.spool, 0) }); err != nil {
		return os.NewSyscallError("truncate spool", err)
	}
	s.size = 0
	return nil
}

// moveTail copies what is not consumed to the other spool file and returns its
// descriptor. The caller must make it current with useTail, or close it.
func (s *stream) moveTail(b *buffers, which, consumed int64) (int, error) {
	path := spoolPath(s.dir, s.index, which)
	fd, err := createSpool(path, unix.O_TRUNC)
	if err != nil {
		return -1, err
	}
	tail, err := s.load(b, consumed, int(s.size-consumed))
	if err == nil {
		err = pwrite(fd, tail, 0)
	}
	if err != nil {
		closeFD(fd)
		return -1, errors.Join(err, os.Remove(path))
	}
	return fd, nil
}

// useTail lets go of the old spool, after the journal names the new one.
func (s *stream) useTail(fd int, which, consumed int64) error {
	closeFD(s.spool)
	s.spool = fd
	s.size -= consumed
	return os.Remove(spoolPath(s.dir, s.index, 1-which))
}

// close closes source and spool.
func (s *stream) close(p *poller) {
	if s.source >= 0 {
		p.remove(s.source, s.token)
		closeFD(s.source)
		s.source = -1
	}
	closeFD(s.spool)
	s.spool = -1
}

func splice(from, to int, offset *int64, length int) (n int64, err error) {
	err = ignoreEINTR(func() (err error) {
		n, err = unix.Splice(from, nil, to, offset, length, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		return err
	})
	return max(n, 0), err
}

func read(fd int, p []byte) (n int, err error) {
	err = ignoreEINTR(func() (err error) {
		n, err = unix.Read(fd, p)
		return err
	})
	return max(n, 0), err
}

func pwrite(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("pwrite spool", err)
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// buffers are the memory of one pump while it runs.
type buffers struct{ in, out []byte }

// input returns n bytes that are valid until the next call.
func (b *buffers) input(n int) []byte {
	if cap(b.in) < n {
		b.in = make([]byte, max(n, 16<<10))
	}
	return b.in[:n]
}

// bufferPool keeps buffers of idle pumps; the garbage collector empties it.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) get() *buffers {
	if b, ok := p.pool.Get().(*buffers); ok {
		return b
	}
	return &buffers{}
}

func (p *bufferPool) put(b *buffers) { p.pool.Put(b) }
