package layer

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// rawEntry makes a header by hand, for what archive/tar refuses to write, with
// body behind it, padded.
func rawEntry(name string, typeflag byte, size string, body string) []byte {
	b := make([]byte, blockSize)
	copy(b, name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x00")
	copy(b[116:], "0000000\x00")
	copy(b[124:136], size)
	copy(b[136:], "00000000000\x00")
	b[156] = typeflag
	copy(b[257:], "ustar\x0000")
	setChecksum(b)
	b = append(b, body...)
	return append(b, make([]byte, -len(b)&(blockSize-1))...)
}

func setChecksum(b []byte) {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:blockSize] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// rawName is rawEntry for a regular file or another type of the right size.
func rawName(name string, typeflag byte, body string) []byte {
	return rawEntry(name, typeflag, fmt.Sprintf("%011o\x00", len(body)), body)
}

func base256(n int64) string {
	b := make([]byte, 12)
	binary.BigEndian.PutUint64(b[4:], uint64(n))
	if n < 0 {
		copy(b, "\xff\xff\xff\xff")
	}
	b[0] |= 0x80
	return string(b)
}

func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for len(fmt.Sprint(n))+len(key)+len(value)+3 != n {
		n = len(fmt.Sprint(n)) + len(key) + len(value) + 3
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

var endMark = make([]byte, 2*blockSize)

func TestRawArchives(t *testing.T) {
	good := rawName("f", tar.TypeReg, "x")
	tests := []struct {
		name string
		data [][]byte
		want map[string]string // nil: an invalid argument
	}{
		{"empty stream", nil, map[string]string{}},
		{"only an end mark", [][]byte{endMark}, map[string]string{}},
		{"no end mark", [][]byte{good}, map[string]string{"f": "file x"}},
		{"one byte", [][]byte{{'x'}}, nil},
		{"garbage", [][]byte{bytes.Repeat([]byte("garbage!"), 200)}, nil},
		{"bad checksum", [][]byte{append([]byte("g"), good[1:]...), endMark}, nil},
		{"file with slash", [][]byte{rawName("e/", tar.TypeReg, "x"), endMark}, map[string]string{"e": "file x"}},
		{"old directory", [][]byte{rawName("e/", 0, ""), endMark}, map[string]string{"e": "dir"}},
		{"root as file with slash", [][]byte{rawName("./", tar.TypeReg, "x"), endMark}, nil},
		{"root as device", [][]byte{rawName("/", tar.TypeChar, ""), endMark}, nil},
		{"empty name", [][]byte{rawName("", tar.TypeReg, "x"), endMark}, nil},
		{"unknown type", [][]byte{rawName("f", 'A', "x"), endMark}, nil},
		{"negative size", [][]byte{rawEntry("f", tar.TypeReg, base256(-1), ""), endMark}, nil},
		{"huge size", [][]byte{rawEntry("f", tar.TypeReg, base256(1<<62), ""), endMark}, nil},
		{"size beyond the end", [][]byte{rawEntry("f", tar.TypeReg, base256(100<<10), "x"), endMark}, nil},
		{"truncated data", [][]byte{rawName("f", tar.TypeReg, strings.Repeat("x", 4096))[:3000]}, nil},
		{"truncated header", [][]byte{good, good[:100]}, nil},
		{"directory with size", [][]byte{rawEntry("d", tar.TypeDir, "00000000777\x00", ""), good, endMark}, map[string]string{"d": "dir", "f": "file x"}},
		{"second archive", [][]byte{good, endMark, rawName("g", tar.TypeReg, "y"), endMark}, map[string]string{"f": "file x"}},
		{"garbage at the end", [][]byte{good, endMark, []byte("garbage")}, map[string]string{"f": "file x"}},
		{"pax path wins", [][]byte{rawName("p", tar.TypeXHeader, paxRecord("path", "g")), good, endMark}, map[string]string{"g": "file x"}},
		{"pax path with zero byte", [][]byte{rawName("p", tar.TypeXHeader, paxRecord("path", "a\x00b")), good, endMark}, nil},
		{"pax negative size", [][]byte{rawName("p", tar.TypeXHeader, paxRecord("size", "-5")), good, endMark}, nil},
		{"pax owner -1", [][]byte{rawName("p", tar.TypeXHeader, paxRecord("uid", "-1")), good, endMark}, nil},
		{"pax time out of range", [][]byte{rawName("p", tar.TypeXHeader, paxRecord("mtime", "9223372036854775807")), good, endMark}, map[string]string{"f": "file x"}},
		{"pax time before 1970", [][]byte{rawName("p", tar.TypeXHeader, paxRecord("mtime", "-9223372036854775808")), good, endMark}, map[string]string{"f": "file x"}},
		{"sparse beyond any disk", [][]byte{
			rawName("p", tar.TypeXHeader, paxRecord("GNU.sparse.major", "1")+paxRecord("GNU.sparse.minor", "0")+paxRecord("GNU.sparse.realsize", "9000000000000000000")),
			rawName("f", tar.TypeReg, "0\n"+strings.Repeat("\x00", 510)), endMark}, nil},
		{"endless pax headers", [][]byte{bytes.Repeat(rawName("p", tar.TypeXHeader, paxRecord("comment", strings.Repeat("x", 400))), 6000), good, endMark}, nil},
		{"pax header of 1 GiB", [][]byte{rawEntry("p", tar.TypeXHeader, base256(1<<30), strings.Repeat("x", 2<<20)), endMark}, nil},
		{"endless long names", [][]byte{bytes.Repeat(rawName("././@LongLink", tar.TypeGNULongName, strings.Repeat("x", 5000)), 1000), good, endMark}, nil},
		{"long name without end", [][]byte{rawEntry("././@LongLink", tar.TypeGNULongName, base256(1<<40), strings.Repeat("x", 2<<20))}, nil},
		{"headers without an entry", [][]byte{rawName("p", tar.TypeXHeader, paxRecord("path", "g")), endMark}, map[string]string{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSandbox(t)
			_, err := s.apply(t.Context(), bytes.Join(test.data, nil), Options{})
			s.check(t)
			if test.want == nil {
				if !errdefs.IsInvalidArgument(err) {
					t.Fatalf("got error %v, want an invalid argument", err)
				}
				return
			}
			must(t, err)
			if diff := cmp.Diff(test.want, tree(t, s.layer)); diff != "" {
				t.Errorf("layer (-want +got):\n%s", diff)
			}
		})
	}
}
