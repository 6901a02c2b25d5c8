package layer

import (
	"bytes"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pageSize is the grain in which holes are found and files take up space.
const pageSize = 4 << 10

var zeroPage [pageSize]byte

// writeData writes the current entry's data to the empty file fd. Pages of
// zeros, from the tar's sparse maps or as such, become holes.
func (a *applier) writeData(fd int, size int64) error {
	var end int64 // of what was written last
	for offset := int64(0); offset < size; {
		chunk := a.buf[:min(size-offset, int64(len(a.buf)))]
		if _, err := io.ReadFull(a.tr, chunk); err != nil {
			return a.streamError("read data", err)
		}
		for start := 0; start < len(chunk); {
			hole, data := nextRun(chunk[start:])
			if data > 0 {
				if err := pwrite(fd, chunk[start+hole:start+hole+data], offset+int64(start+hole)); err != nil {
					return err
				}
				end = offset + int64(start+hole+data)
				a.usage.Bytes += (int64(data) + pageSize - 1) / pageSize * pageSize
			}
			start += hole + data
		}
		offset += int64(len(chunk))
	}
	if end < size {
		return os.NewSyscallError("ftruncate", unix.Ftruncate(fd, size))
	}
	return nil
}

// nextRun says how many bytes of zero pages p begins with, and how many bytes
// of data follow. A last part of a page is data, so small files stay whole.
func nextRun(p []byte) (hole, data int) {
	for len(p)-hole >= pageSize && bytes.Equal(p[hole:hole+pageSize], zeroPage[:]) {
		hole += pageSize
	}
	for i := hole; i < len(p); i += pageSize {
		if len(p)-i >= pageSize && bytes.Equal(p[i:i+pageSize], zeroPage[:]) {
			return hole, i - hole
		}
	}
	return hole, len(p) - hole
}
