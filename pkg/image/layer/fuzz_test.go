package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fixChecksums makes mutated headers valid again, so that the fuzzer gets past
// the first one.
func fixChecksums(data []byte) []byte {
	data = bytes.Clone(data)
	for rest := data; len(rest) >= blockSize; {
		if !bytes.Equal(rest[:blockSize], endMark[:blockSize]) {
			setChecksum(rest)
		}
		size, err := strconv.ParseInt(strings.Trim(string(rest[124:136]), " \x00"), 8, 32)
		if err != nil || size < 0 {
			size = 0
		}
		rest = rest[min(len(rest), blockSize+(int(size)+blockSize-1)/blockSize*blockSize):]
	}
	return data
}

// verify applies data and checks all that must hold whatever it is.
func verify(t *testing.T, data []byte) {
	s := newSandbox(t)
	r := bytes.NewReader(data)
	usage, err := Apply(t.Context(), r, s.layer, Options{MaxBytes: 8 << 20, MaxEntries: 500, MaxHeaderBytes: 64 << 10, MaxTrailer: 1 << 20})
	s.check(t)
	for _, cause := range []error{unix.EBADF, unix.EFAULT, unix.ENOTEMPTY, unix.EMFILE, unix.EEXIST} {
		if errors.Is(err, cause) {
			t.Fatalf("not the layer's fault: %v", err)
		}
	}
	if err != nil {
		return
	}
	if r.Len() > 0 {
		t.Fatalf("%d bytes not read", r.Len())
	}
	if got := inodes(t, s.layer); got != usage.Inodes {
		t.Fatalf("usage says %d inodes, there are %d", usage.Inodes, got)
	}
	for _, p := range usage.Implied {
		if st := lstat(t, s.layer, p); st.Mode != unix.S_IFDIR|0o755 || st.Uid != 0 {
			t.Fatalf("implied directory %q has mode %o, owner %d", p, st.Mode, st.Uid)
		}
	}
	if err := Inherit(t.Context(), []Stacked{{Dir: s.layer, Implied: usage.Implied, Fixed: true}, {Dir: s.layer, Implied: usage.Implied}}); err != nil {
		t.Fatalf("inherit: %v", err)
	}
	for p := range tree(t, s.layer) {
		for name, value := range xattrs(t, s.layer+"/"+p) {
			if !takeXattr(name) && (name != opaqueXattr || value != "y") {
				t.Fatalf("%q has attribute %q", p, name)
			}
		}
	}
}

// FuzzApply feeds bytes.
func FuzzApply(f *testing.F) {
	for _, b := range breakouts {
		f.Add(pack(f, at("/tmp", b.entries)...))
	}
	f.Add(rawName("f", tar.TypeGNUSparse, "x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		verify(t, fixChecksums(data))
	})
}

// FuzzEntries feeds entries with few names, so that they meet one another. A
// program is a sequence of: type, name, target; the latter two are made of
// components as long as the upper bits say so.
func FuzzEntries(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09"))
	f.Add([]byte("\x02\x00\x08\x00\x40\x01\x00\x03\x00\x00"))
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 600 {
			return
		}
		var entries []entry
		for len(program) > 0 {
			var e entry
			e, program = decodeEntry(program)
			entries = append(entries, e)
		}
		var archive bytes.Buffer
		for _, e := range entries {
			b := rawName(e.Name, e.Typeflag, e.body)
			copy(b[157:257], e.Linkname)
			copy(b[329:], "0000001\x000000003\x00")
			setChecksum(b)
			archive.Write(b)
		}
		archive.Write(endMark)
		verify(t, archive.Bytes())
	})
}

var (
	fuzzTypes      = []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeReg, tar.TypeSymlink, tar.TypeFifo, tar.TypeChar}
	fuzzComponents = []string{"a", "b", "c", "..", ".", "", ".wh.a", ".wh.b", ".wh..wh..opq", "outside", "secret", "a", "b", "..", "link", "dir"}
)

func decodeEntry(program []byte) (entry, []byte) {
	typeflag := fuzzTypes[program[0]%8]
	body := ""
	if typeflag == tar.TypeReg {
		body = strings.Repeat("x", int(program[0]>>3))
	}
	name, program := decodePath(program[1:])
	target := ""
	if typeflag == tar.TypeSymlink || typeflag == tar.TypeLink {
		target, program = decodePath(program)
	}
	return entry{tar.Header{Typeflag: typeflag, Name: name, Linkname: target}, body}, program
}

func decodePath(program []byte) (string, []byte) {
	var components []string
	for len(program) > 0 && len(components) < 6 {
		b := program[0]
		program = program[1:]
		components = append(components, fuzzComponents[b%16])
		if b < 0x60 {
			break
		}
	}
	return strings.Join(components, "/"), program
}
