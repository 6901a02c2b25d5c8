package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/monitor"
)

// pipes connect a process without a terminal to a client.
type pipes struct {
	// process are the ends of the process.
	process [3]*os.File
	stdin   *os.File
	outputs []*os.File
	copying sync.WaitGroup
}

// open makes the pipes and begins to copy. The caller must call close, also
// after an error.
func (p *pipes) open(s Streams) error {
	if err := p.openStdin(s.Stdin); err != nil {
		return err
	}
	for i, to := range []io.Writer{s.Stdout, s.Stderr} {
		if err := p.openOutput(i+1, to); err != nil {
			return err
		}
	}
	return nil
}

func (p *pipes) openStdin(from io.Reader) (err error) {
	if from == nil {
		p.process[0], err = os.Open(os.DevNull)
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("create pipe: %w", err)
	}
	p.process[0], p.stdin = r, w
	go feed(w, from, w.Close)
	return nil
}

func (p *pipes) openOutput(i int, to io.Writer) (err error) {
	if to == nil {
		p.process[i], err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("create pipe: %w", err)
	}
	p.process[i] = w
	p.outputs = append(p.outputs, r)
	p.copying.Go(func() {
		_ = copyAll(to, r)
		_ = r.Close() // if it is the writer that failed, the process has no reader any more
	})
	return nil
}

// feed copies from a reader that may block for ever. Nobody waits for it: it
// ends with the reader, see Streams.
func feed(to io.Writer, from io.Reader, end func() error) {
	_, _ = io.Copy(to, from)
	_ = end() // who reads learns all there is to learn
}

// copyAll copies until the end, or the reader's deadline. A client may have
// been so slow that the deadline came before the last of what the process
// wrote was read: that is there, and copied too.
func copyAll(to io.Writer, from *os.File) error {
	_, err := io.Copy(to, from)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if err := from.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	_, err = io.Copy(to, io.LimitReader(present{from}, maxPresent))
	return err
}

// maxPresent is as much as a pipe or terminal holds. There may be no end to it
// where something that the process left behind goes on writing.
const maxPresent = 1 << 20

// present reads what is there, and ends where a read would wait for more.
type present struct{ *os.File }

// Read reads.
func (f present) Read(p []byte) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), p)
		return true // also when there is nothing now
	})
	switch err = errors.Join(waitErr, err); {
	case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
		return 0, io.EOF
	case err != nil:
		return 0, err
	}
	return n, nil
}

// drain waits until all output has been copied. It lets go of our copies of the
// process's ends, and limits how much longer what the process left behind is
// listened to.
func (p *pipes) drain() error {
	err := p.closeProcess()
	for _, r := range p.outputs {
		_ = r.SetReadDeadline(time.Now().Add(drainTime)) // it fails where the copying has ended
	}
	p.copying.Wait()
	return err
}

func (p *pipes) closeProcess() error {
	var errs []error
	for i, f := range p.process {
		if f != nil {
			errs = append(errs, f.Close())
			p.process[i] = nil
		}
	}
	return errors.Join(errs...)
}

func (p *pipes) close() error {
	if p.stdin != nil {
		_ = p.stdin.Close() // feed may have done it
	}
	err := p.closeProcess()
	for _, r := range p.outputs {
		_ = r.Close() // the copying has done it, unless open has failed
	}
	p.copying.Wait()
	return err
}

// terminal connects a process with a terminal to a client.
type terminal struct {
	streams Streams
	// size is the first one, if it was there in time.
	size   Size
	master *os.File
	// ended is closed when the process has ended.
	ended   chan struct{}
	copying sync.WaitGroup
}

func newTerminal(s Streams) *terminal {
	t := &terminal{streams: s, ended: make(chan struct{})}
	select {
	case t.size = <-s.Resize:
	default:
	}
	return t
}

// connect waits for the terminal's master and begins to copy.
func (t *terminal) connect(ctx context.Context, console *monitor.Console) error {
	fd, err := console.Receive(ctx)
	if err != nil {
		return err
	}
	t.master = os.NewFile(uintptr(fd), "terminal")
	if t.size != (Size{}) {
		t.resize(t.size)
	}
	if t.streams.Stdin != nil {
		go feed(t.master, t.streams.Stdin, func() error { return nil })
	}
	t.copying.Go(t.copyOutput)
	t.copying.Go(t.followSize)
	return nil
}

const (
	firstLook = 10 * time.Millisecond
	lastLook  = time.Second
)

// copyOutput ends when the process has, and nobody else has the terminal open.
// While the process lives, a terminal that nobody has open may be opened again.
func (t *terminal) copyOutput() {
	to := t.streams.Stdout
	if to == nil {
		to = io.Discard
	}
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		if err := copyAll(to, t.master); !errors.Is(err, unix.EIO) {
			_ = t.master.Close() // a client that is gone hangs up
			return
		}
		select {
		case <-t.ended:
			// What came between the two.
			_, _ = io.Copy(to, t.master)
			return
		case <-time.After(pause):
		}
	}
}

func (t *terminal) followSize() {
	for {
		select {
		case size, ok := <-t.streams.Resize:
			if !ok {
				_ = t.master.Close() // a client that is gone hangs up
				return
			}
			t.resize(size)
		case <-t.ended:
			return
		}
	}
}

// resize sets the size of the terminal, which may have been closed.
func (t *terminal) resize(s Size) {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
	})
}

// drain waits until all output has been copied, not for long if others than the
// process have the terminal open, and closes it.
func (t *terminal) drain() {
	close(t.ended)
	if t.master == nil {
		return
	}
	_ = t.master.SetReadDeadline(time.Now().Add(drainTime)) // it fails where the copying has ended
	t.copying.Wait()
	_ = t.master.Close() // the copying may have done it
}
