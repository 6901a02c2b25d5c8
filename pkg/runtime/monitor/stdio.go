package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// The monitor's files in a container's directory.
const (
	journalName = "journal"
	exitName    = "exit.json"
)

var fifoNames = [3]string{"stdin.fifo", "stdout.fifo", "stderr.fifo"}

// removeStdio deletes the monitor's files of a container but exit.json.
func removeStdio(dir string) error {
	names := append([]string{journalName}, fifoNames[:]...)
	for i := range streamCount {
		for which := range int64(2) {
			names = append(names, filepath.Base(spoolPath(dir, i, which)))
		}
	}
	var errs []error
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// openFIFO opens an existing FIFO and refuses anything else.
func openFIFO(path string, flags int) (int, error) {
	var fd int
	err := ignoreEINTR(func() (err error) {
		fd, err = unix.Open(path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open fifo", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		closeFD(fd)
		return -1, fmt.Errorf("open fifo %s: not a fifo: %w", path, errors.Join(err, unix.EINVAL))
	}
	return fd, nil
}

// openReader opens the monitor's end of an output FIFO.
func openReader(dir string, stream int) (int, error) {
	return openFIFO(filepath.Join(dir, fifoNames[stream+1]), unix.O_RDONLY|unix.O_NONBLOCK)
}

// openStdin opens the monitor's end of the stdin FIFO. ENXIO means that
// nobody reads it.
func openStdin(dir string) (int, error) {
	return openFIFO(filepath.Join(dir, fifoNames[0]), unix.O_WRONLY|unix.O_NONBLOCK)
}

// makeOutput makes an output FIFO and returns the container's end. It is open
// for reading too, so that without a monitor the container waits for room in
// the pipe and gets no SIGPIPE.
func makeOutput(dir string, stream int) (int, error) {
	path := filepath.Join(dir, fifoNames[stream+1])
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return -1, &os.PathError{Op: "make fifo", Path: path, Err: err}
	}
	return openContainersEnd(path, unix.O_RDWR)
}

// openContainersEnd opens a FIFO for the container. Its descriptor must not
// say O_NOFOLLOW, which CRIU would repeat when it restores it, on a link.
func openContainersEnd(path string, flags int) (int, error) {
	checked, err := openFIFO(path, flags|unix.O_NONBLOCK)
	if err != nil {
		return -1, err
	}
	defer closeFD(checked)
	var fd int
	err = ignoreEINTR(func() (err error) {
		fd, err = unix.Open("/proc/self/fd/"+strconv.Itoa(checked), flags|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "open fifo", Path: path, Err: err}
	}
	return fd, nil
}

// makeStdin makes the stdin FIFO and returns the container's end, which reads
// only, and the monitor's, whose closing is the container's end of file.
func makeStdin(dir string) (its, ours int, err error) {
	path := filepath.Join(dir, fifoNames[0])
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return -1, -1, &os.PathError{Op: "make fifo", Path: path, Err: err}
	}
	// Opened for both first: neither end can be opened alone without waiting.
	both, err := openFIFO(path, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return -1, -1, err
	}
	defer closeFD(both)
	if its, err = openContainersEnd(path, unix.O_RDONLY); err != nil {
		return -1, -1, err
	}
	if ours, err = openStdin(dir); err != nil {
		closeFD(its)
		return -1, -1, err
	}
	return its, ours, nil
}

func openDevNull() (int, error) {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	return fd, nil
}

// newPump makes the pump of a container with what journal says was done.
func newPump(m *server, r containerRecord, j *journal) (*pump, error) {
	p := &pump{
		logPath: r.LogPath,
		format:  formatter{maxLine: r.MaxLineSize, stripCR: r.TTY},
		journal: j,
		hub:     newHub(&m.hubs),
		poller:  m.poller,
		pool:    &m.buffers,
		logger:  m.logger.With(slog.String("containerID", r.ID)),
		logFD:   -1,
		closed:  make(chan struct{}),
	}
	cur := j.current()
	streams := streamCount
	if r.TTY {
		streams = 1
	}
	for i := range streams {
		s := &stream{index: i, tty: r.TTY, dir: r.Dir, source: -1, spool: -1}
		consumed, err := s.openSpool(cur.spool[i], cur.consumed[i])
		if err != nil {
			p.closeStreams()
			return nil, err
		}
		if consumed != cur.consumed[i] {
			cur.consumed[i] = consumed
			if _, writing := j.pending(); !writing {
				j.commit(cur)
			}
		}
		p.streams[i] = s
	}
	return p, nil
}

// connect gives a stream its source, of which it takes ownership. The result
// comes to the channel when the pump has got to it.
func (p *pump) connect(stream, source int) <-chan error {
	result := make(chan error, 1)
	if !p.do(func(*buffers) { result <- p.connectNow(stream, source) }) {
		closeFD(source)
		result <- fmt.Errorf("connect output: %w: it has exited", ErrState)
	}
	return result
}

func (p *pump) connectNow(stream, source int) error {
	s := p.streams[stream]
	if s.eof || s.spool < 0 {
		closeFD(source)
		return fmt.Errorf("connect output: %w: it has exited", ErrState)
	}
	s.source = source
	token, err := p.poller.add(source, func() { p.wake(stream) })
	if err != nil {
		closeFD(source)
		s.source = -1
		return err
	}
	s.token = token
	s.ready.Store(true)
	return nil
}

func (p *pump) closeStreams() {
	for _, s := range p.streams {
		if s != nil {
			s.close(p.poller)
		}
	}
}
