package linux

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// statBuffer has room for any memory.stat, the largest of the files here.
type statBuffer [8 << 10]byte

// buffer returns a buffer that the caller puts back into buffers.
func (c *Cgroups) buffer() *statBuffer {
	if b, ok := c.buffers.Get().(*statBuffer); ok {
		return b
	}
	return new(statBuffer)
}

// keptFile is a control file that may stay open. The zero value is closed.
type keptFile struct {
	fd      int // plus one
	missing bool
}

// read reads the file from its start. One that was not there once is not
// looked for again until close: which files a cgroup has does not change.
func (f *keptFile) read(path func() string, buf []byte) ([]byte, error) {
	if f.missing {
		return nil, fs.ErrNotExist
	}
	if f.fd == 0 {
		p := path()
		var fd int
		err := retry(func() (err error) {
			fd, err = unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return err
		})
		if errors.Is(err, unix.ENOENT) {
			f.missing = true
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: p, Err: err}
		}
		f.fd = fd + 1
	}
	var n int
	err := retry(func() (err error) {
		n, err = unix.Pread(f.fd-1, buf, 0)
		return err
	})
	if errors.Is(err, unix.ENODEV) {
		err = fs.ErrNotExist // the cgroup is gone
	}
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path(), Err: err}
	}
	return buf[:n], nil
}

func (f *keptFile) close() {
	if f.fd != 0 {
		_ = unix.Close(f.fd - 1) // nothing was written
	}
	*f = keptFile{}
}

// readControl reads a control file with three system calls, where os.ReadFile
// makes seven. buf must be larger than the file can be.
func readControl(file string, buf []byte) (content []byte, err error) {
	var f keptFile
	defer f.close()
	return f.read(func() string { return file }, buf)
}

func readNumber(file string) (uint64, error) {
	var buf [32]byte
	b, err := readControl(file, buf[:])
	if err != nil {
		return 0, err
	}
	return parseNumber(b)
}

func parseNumber(b []byte) (uint64, error) { return strconv.ParseUint(string(trimSpace(b)), 10, 64) }

// readOptional is nil for a file that is not there or says "max".
func readOptional(file string) *uint64 {
	v, err := readNumber(file)
	if err != nil {
		return nil
	}
	return &v
}

// readKeyed reads a file of "key number" lines into the values asked for; those
// it does not have keep what they were.
func readKeyed(file string, buf *statBuffer, want map[string]*uint64) error {
	b, err := readControl(file, buf[:])
	if err != nil {
		return err
	}
	if err := eachKeyed(b, func(key []byte) *uint64 { return want[string(key)] }); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// eachKeyed parses "key number" lines into where want says. Keys it wants not
// are nil, and cost next to nothing.
func eachKeyed(b []byte, want func(key []byte) *uint64) error {
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte("\n"))
		key, number, ok := bytes.Cut(line, []byte(" "))
		if !ok {
			continue
		}
		to := want(key)
		if to == nil {
			continue
		}
		v, err := strconv.ParseUint(string(trimSpace(number)), 10, 64)
		if err != nil {
			return fmt.Errorf("parse %s: %w", key, err)
		}
		*to = v
	}
	return nil
}

// parsePressure reads the two lines of a PSI file; nil if there is none it
// knows.
func parsePressure(b []byte) *Pressure {
	var p Pressure
	found := false
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var to *PressureLine
		switch fields[0] {
		case "some":
			to = &p.Some
		case "full":
			to = &p.Full
		default:
			continue
		}
		found = true
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			switch key {
			case "avg10":
				to.Avg10 = number
			case "avg60":
				to.Avg60 = number
			case "avg300":
				to.Avg300 = number
			case "total":
				to.Total = time.Duration(number) * time.Microsecond
			}
		}
	}
	if !found {
		return nil
	}
	return &p
}
