package runtime

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stalled is a client that reads nothing until it goes on.
type stalled struct {
	goOn <-chan struct{}
	got  bytes.Buffer
}

func (s *stalled) Write(p []byte) (int, error) {
	<-s.goOn
	return s.got.Write(p)
}

// TestStalledClient gets what the process has written, though the process ended
// long ago and something it left behind holds the output open.
func TestStalledClient(t *testing.T) {
	for name, open := range map[string]func(*testing.T, io.Writer) (end *os.File, drain func()){
		"pipe": func(t *testing.T, client io.Writer) (*os.File, func()) {
			p := &pipes{}
			if err := p.open(Streams{Stdout: client}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = p.close() })
			return duplicate(t, p.process[1]), func() { _ = p.drain() }
		},
		"terminal": func(t *testing.T, client io.Writer) (*os.File, func()) {
			term := newTerminal(Streams{Stdout: client, TTY: true})
			var slave *os.File
			term.master, slave = openTerminal(t)
			term.copying.Go(term.copyOutput)
			return slave, term.drain
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			goOn := make(chan struct{})
			client := &stalled{goOn: goOn}
			end, drain := open(t, client)
			written := fill(t, end)
			time.AfterFunc(drainTime+300*time.Millisecond, func() { close(goOn) })
			drain()
			if !bytes.Equal(client.got.Bytes(), written) {
				t.Errorf("the client got %d bytes of %d", client.got.Len(), len(written))
			}
		})
	}
}

// fill writes what there is room for, and lets the reader take some before.
func fill(t *testing.T, f *os.File) []byte {
	t.Helper()
	fd := int(f.Fd()) // once: it makes the file blocking
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for full := 0; full < 20; {
		part := strconv.AppendInt(nil, int64(len(all)), 10)
		n, err := unix.Write(fd, part)
		all = append(all, part[:max(n, 0)]...)
		if err != nil {
			full++
			time.Sleep(5 * time.Millisecond) // until the reader is stuck for sure
		}
	}
	return all
}

func duplicate(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := os.NewFile(uintptr(fd), "duplicate")
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// openTerminal returns both ends of a terminal that changes nothing.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "terminal")
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}
