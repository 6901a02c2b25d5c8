package terminal

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// DefaultDetachKeys leave a container without ending it.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ErrDetached is what a Detacher's Read returns once the keys were pressed.
var ErrDetached = errors.New("read escape sequence")

// ParseKeys reads keys such as "ctrl-p,ctrl-q" or "a,b,ctrl-@". Empty is none.
func ParseKeys(keys string) ([]byte, error) {
	if keys == "" {
		return nil, nil
	}
	var parsed []byte
	for _, key := range strings.Split(keys, ",") {
		control, isControl := strings.CutPrefix(key, "ctrl-")
		switch {
		case len(key) == 1:
			parsed = append(parsed, key[0])
		case isControl && len(control) == 1 && control[0] >= 'a' && control[0] <= 'z':
			parsed = append(parsed, control[0]-'a'+1)
		case isControl && len(control) == 1 && strings.Contains(`@[\]^_`, control):
			parsed = append(parsed, control[0]&0x1f)
		default:
			return nil, fmt.Errorf("detach keys: %q is no key: it can be a character, or ctrl- with one of a-z, @, [, \\, ], ^, _", key)
		}
	}
	return parsed, nil
}

// Detacher passes a terminal's bytes on until the detach keys are among them.
// Keys that begin the sequence are kept back until it is known whether they are
// of it.
type Detacher struct {
	r    io.Reader
	keys []byte
	// matched is how much of keys has been read, and pending what must be given
	// to the reader before more is read.
	matched int
	pending []byte
	err     error
}

// NewDetacher reads from r; without keys nothing detaches.
func NewDetacher(r io.Reader, keys []byte) *Detacher { return &Detacher{r: r, keys: keys} }

func (d *Detacher) Read(p []byte) (int, error) {
	if len(d.keys) == 0 || len(p) == 0 {
		return d.r.Read(p)
	}
	for {
		if len(d.pending) > 0 {
			n := copy(p, d.pending)
			d.pending = d.pending[n:]
			return n, nil
		}
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.r.Read(p)
		d.scan(p[:n])
		if err != nil && d.err == nil {
			// What began like the keys was none of them.
			d.pending = append(d.pending, d.keys[:d.matched]...)
			d.err = err
		}
	}
}

// scan sorts what was read into pending and the keys.
func (d *Detacher) scan(read []byte) {
	for _, b := range read {
		for b != d.keys[d.matched] && d.matched > 0 {
			// The longest end of what was kept back that the keys begin with
			// stays kept back.
			was := d.matched
			d.matched = border(d.keys, was)
			d.pending = append(d.pending, d.keys[:was-d.matched]...)
		}
		if b != d.keys[d.matched] {
			d.pending = append(d.pending, b)
			continue
		}
		if d.matched++; d.matched == len(d.keys) {
			d.err = ErrDetached
			return
		}
	}
}

// border is the length of the longest proper beginning of keys[:n] that is its
// end as well.
func border(keys []byte, n int) int {
	for k := n - 1; k > 0; k-- {
		if string(keys[:k]) == string(keys[n-k:n]) {
			return k
		}
	}
	return 0
}
