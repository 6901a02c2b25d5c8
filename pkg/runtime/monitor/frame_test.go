package monitor

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzReadMessage(f *testing.F) {
	frame, err := appendMessage(nil, message{Call: 7, Op: opCreate, Body: []byte(`{"id":"x"}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{'})
	f.Add([]byte{0, 0, 0, 9, '{', '"', 'f', 'd', 's', '"', ':', '9', '}'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		m, err := readMessage(r)
		if err != nil {
			return
		}
		if m.FDs != 0 {
			return // descriptors do not travel in bytes
		}
		again, err := appendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := readMessage(bytes.NewReader(again))
		if err != nil {
			t.Fatal(err)
		}
		if m.Call != m2.Call || m.Op != m2.Op || !reflect.DeepEqual(m.Error, m2.Error) {
			t.Fatalf("%+v became %+v", m, m2)
		}
	})
}

func TestReadMessageRefuses(t *testing.T) {
	tests := map[string][]byte{
		"too long":             {0x7f, 0, 0, 0},
		"cut":                  {0, 0, 0, 5, '{'},
		"no JSON":              {0, 0, 0, 1, 'x'},
		"too many descriptors": []byte("\x00\x00\x00\x0a{\"fds\":99}"),
		"negative descriptors": []byte("\x00\x00\x00\x0a{\"fds\":-1}"),
	}
	for name, b := range tests {
		if _, err := readMessage(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := readMessage(bytes.NewReader(nil)); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
}

// TestDescriptorsKeepTheirFrames sends frames with and without descriptors
// closely together.
func TestDescriptorsKeepTheirFrames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err := dialUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.AcceptUnix()
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	sender, receiver := newConn(a), newConn(b)
	var wait sync.WaitGroup
	wait.Go(sender.writeLoop)
	const count = 100
	for i := range uint64(count) {
		m := message{Call: i + 1}
		for range i % 3 {
			fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(fd, []byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
			m.fds = append(m.fds, fd)
		}
		sender.send(m)
	}
	for i := range uint64(count) {
		m, err := receiver.receive()
		if err != nil || m.Call != i+1 || len(m.fds) != int(i%3) {
			t.Fatalf("frame %d is %+v, %v", i, m, err)
		}
		for _, fd := range m.fds {
			var content [1]byte
			if _, err := unix.Pread(fd, content[:], 0); err != nil || content[0] != byte(i) {
				t.Errorf("frame %d has a descriptor of frame %d, %v", i, content[0], err)
			}
		}
		closeFDs(m.fds)
	}
	sender.close()
	if _, err := receiver.receive(); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	receiver.close()
	wait.Wait()
}

func TestErrorsTravel(t *testing.T) {
	for _, err := range []error{ErrNotFound, ErrExists, ErrInvalid, ErrState, os.ErrClosed} {
		got := fromWire(toWire(err))
		if got.Error() != err.Error() || errors.Is(got, err) == errors.Is(err, os.ErrClosed) {
			t.Errorf("%v became %v", err, got)
		}
	}
	create, ok := errors.AsType[*CreateError](fromWire(toWire(&CreateError{Reason: "a", Output: "b", NotFound: true})))
	if !ok || create.Reason != "a" || create.Output != "b" || !create.NotFound {
		t.Errorf("create error became %+v", create)
	}
}
