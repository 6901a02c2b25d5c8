package volumes

import (
	"io/fs"
	"syscall"
)

// blockSize is the unit in which stat(2) counts, whatever the file system has.
const blockSize = 512

// onDisk is what a file takes.
func onDisk(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * blockSize
	}
	return info.Size()
}
