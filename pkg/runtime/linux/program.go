package linux

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapping is a range of this process's memory.
type mapping struct{ start, end uintptr }

// ownProgram finds where the program is mapped and can be read from its file
// again.
func ownProgram() ([]mapping, error) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return cleanMappings(f, exe)
}

// release gives back the pages of mappings. What is used again is mapped again from
// the page cache, in a microsecond.
func release(mappings []mapping) error {
	var errs []error
	for _, m := range mappings {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
		if errno != 0 {
			errs = append(errs, fmt.Errorf("give back %x-%x of the program: %w", m.start, m.end, errno))
		}
	}
	return errors.Join(errs...)
}

// Of linux/userfaultfd.h.
const (
	uffdUserModeOnly   = 1
	uffdVersion        = 0xaa
	uffdFeatureWPAsync = 1 << 15
	uffdRegisterModeWP = 1 << 1
	uffdioAPI          = 0xc018aa3f
	uffdioRegister     = 0xc020aa00
)

// mapExactly makes the kernel map each page of mappings when it is touched, and no
// other with it, for as long as the process lives. Left alone it maps the sixteen
// pages around as well, and since Linux 6.18 the whole folio of the page cache, up
// to two megabytes: to start a pod touches an eighth of this program, here and
// there, and nearly all of it would count as the process's.
//
// No advice says so to the kernel. But it does so wherever writes are tracked page
// by page, which a userfaultfd can ask for, asynchronously, so that nobody has to
// answer anything. That nothing ever writes to these mappings does not matter.
// What one page costs is the same; ten are ten faults, of a microsecond each. It
// is an error before Linux 6.7, and where userfaultfd is not to be had.
func mapExactly(mappings []mapping) error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|uffdUserModeOnly, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("userfaultfd", errno)
	}
	api := struct{ version, features, ioctls uint64 }{version: uffdVersion, features: uffdFeatureWPAsync}
	err := uffdControl(fd, uffdioAPI, unsafe.Pointer(&api))
	for _, m := range mappings {
		if err != nil {
			break
		}
		register := struct{ start, length, mode, ioctls uint64 }{uint64(m.start), uint64(m.end - m.start), uffdRegisterModeWP, 0}
		err = uffdControl(fd, uffdioRegister, unsafe.Pointer(&register))
	}
	if err != nil {
		return errors.Join(err, unix.Close(int(fd)))
	}
	// A folio of two megabytes would be mapped as one even so.
	for _, m := range mappings {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_NOHUGEPAGE) // where there are none it fails, and need not work
	}
	return nil // to close it would end the registration
}

func uffdControl(fd, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(argument)); errno != 0 {
		return fmt.Errorf("userfaultfd: %w", os.NewSyscallError("ioctl", errno))
	}
	return nil
}

// cleanMappings finds in a smaps what maps file and can be read from it again:
// what cannot be written and has no page of its own. A program that is
// relocated when it is loaded has such pages in its tables, and one under a
// debugger has them where breakpoints are.
func cleanMappings(smaps io.Reader, file string) ([]mapping, error) {
	var found []mapping
	ours := false // the last of found is what the lines are about
	for lines := bufio.NewScanner(smaps); ; {
		if !lines.Scan() {
			return found, lines.Err()
		}
		line := lines.Text()
		key, value, _ := strings.Cut(line, " ")
		if !strings.HasSuffix(key, ":") {
			ours = strings.HasPrefix(value, "r-") && strings.HasSuffix(line, " "+file)
			if !ours {
				continue
			}
			var m mapping
			if _, err := fmt.Sscanf(key, "%x-%x", &m.start, &m.end); err != nil {
				return nil, fmt.Errorf("parse mapping %q: %w", line, err)
			}
			found = append(found, m)
			continue
		}
		if ours && key == "Anonymous:" && strings.TrimSpace(value) != "0 kB" {
			found, ours = found[:len(found)-1], false
		}
	}
}
