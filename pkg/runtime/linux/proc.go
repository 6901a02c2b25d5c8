package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process names one process for ever: the kernel hands out a pid again, but
// not with the same start time. The zero Process names none.
type Process struct {
	PID int `json:"pid"`
	// StartTime is field 22 of proc_pid_stat(5), in clock ticks since boot.
	StartTime uint64 `json:"startTime"`
}

// Stat is what proc_pid_stat(5) says of a process.
type Stat struct {
	State     byte // R, S, D, Z, T, …
	PPID      int
	Session   int
	StartTime uint64
	// ExitCode is the wait status; it means something for a zombie only and
	// is 0 for readers without ptrace access.
	ExitCode int
}

// ReadStat reads /proc/PID/stat. The error is os.ErrNotExist, or ESRCH, where
// there is no such process.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, err
	}
	return parseStat(b)
}

// parseStat starts after the last ')': the command name before it may hold
// anything, spaces and parentheses too.
func parseStat(b []byte) (Stat, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return Stat{}, fmt.Errorf("proc stat without a command: %q", b)
	}
	fields := bytes.Fields(b[end+1:])
	const first = 3 // the number, in the manual page, of the first field here
	if len(fields) < 22-first+1 {
		return Stat{}, fmt.Errorf("proc stat has only %d fields after the command", len(fields))
	}
	field := func(n int) []byte {
		if n-first >= len(fields) {
			return []byte("0")
		}
		return fields[n-first]
	}
	var s Stat
	s.State = field(3)[0]
	var errs [4]error
	s.PPID, errs[0] = strconv.Atoi(string(field(4)))
	s.Session, errs[1] = strconv.Atoi(string(field(6)))
	s.StartTime, errs[2] = strconv.ParseUint(string(field(22)), 10, 64)
	s.ExitCode, errs[3] = strconv.Atoi(string(field(52)))
	return s, errors.Join(errs[:]...)
}

// FindProcess returns the identity of the process that has pid now.
func FindProcess(pid int) (Process, error) {
	s, err := ReadStat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, StartTime: s.StartTime}, nil
}

// Alive reports whether the process exists and has not exited; a zombie has.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	s, err := ReadStat(p.PID)
	return err == nil && s.StartTime == p.StartTime && s.State != 'Z' && s.State != 'X'
}

// Open returns a pidfd of exactly this process. The caller must close it. The
// error is ESRCH where the process is gone, even if its pid lives again. A
// zombie that nobody has waited for yet can still be opened.
func (p Process) Open() (*os.File, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("open pidfd of process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(p.PID))
	// The pid may have been handed on before pidfd_open; now it cannot be.
	s, err := ReadStat(p.PID)
	if err != nil || s.StartTime != p.StartTime {
		return nil, errors.Join(fmt.Errorf("open pidfd of process %d: %w", p.PID, unix.ESRCH), f.Close())
	}
	return f, nil
}

// Signal sends a signal to exactly this process. ESRCH means it is gone.
func (p Process) Signal(sig unix.Signal) error {
	f, err := p.Open()
	if err != nil {
		return err
	}
	err = SignalPidfd(f, sig)
	return errors.Join(err, f.Close())
}

// SignalPidfd sends a signal through a pidfd.
func SignalPidfd(pidfd *os.File, sig unix.Signal) error {
	err := unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, 0)
	if err != nil {
		return fmt.Errorf("send %s through %s: %w", unix.SignalName(sig), pidfd.Name(), err)
	}
	return nil
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h in its first version (64
// bytes), which is all that PIDFD_INFO_EXIT needs.
type pidfdInfo struct {
	Mask     uint64
	CgroupID uint64
	PID      uint32
	TGID     uint32
	PPID     uint32
	RUID     uint32
	RGID     uint32
	EUID     uint32
	EGID     uint32
	SUID     uint32
	SGID     uint32
	FSUID    uint32
	FSGID    uint32
	ExitCode int32
}

const (
	// _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
	pidfdGetInfo  = 0xc0000000 | unsafe.Sizeof(pidfdInfo{})<<16 | 0xff<<8 | 11
	pidfdInfoExit = 1 << 3
)

// PidfdExitStatus asks the kernel how a process that is no child of ours
// ended. ok is false where it has not been reaped yet, or the kernel is older
// than 6.15, which cannot tell.
func PidfdExitStatus(pidfd *os.File) (status unix.WaitStatus, ok bool) {
	info := pidfdInfo{Mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, pidfd.Fd(), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 || info.Mask&pidfdInfoExit == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.ExitCode), true
}

// ExitStatus tells how a process that is no child of ours ended, from its
// zombie or, once somebody reaped that, from its pidfd. ok is false while it
// runs and where the kernel does not know any more.
func (p Process) ExitStatus(pidfd *os.File) (status unix.WaitStatus, ok bool) {
	if status, ok := PidfdExitStatus(pidfd); ok {
		return status, true
	}
	s, err := ReadStat(p.PID)
	if err == nil && s.StartTime == p.StartTime && s.State == 'Z' {
		return unix.WaitStatus(s.ExitCode), true
	}
	// Between the two looks somebody may have reaped it.
	return PidfdExitStatus(pidfd)
}

// PollPidfd waits until the process has exited, at most for timeout; negative
// means without end. It reports whether it has exited.
func PollPidfd(pidfd *os.File, timeout time.Duration) (bool, error) {
	deadline := time.Now().Add(timeout)
	for {
		ms := -1
		if timeout >= 0 {
			ms = int(max(0, time.Until(deadline).Milliseconds()))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}, ms)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("poll %s: %w", pidfd.Name(), err)
		}
		return n > 0, nil
	}
}

// Executable identifies the file the process executes, by device and inode:
// another answer than before means that it has called execve(2).
func (p Process) Executable() (string, error) {
	var st unix.Stat_t
	link := "/proc/" + strconv.Itoa(p.PID) + "/exe"
	if err := retry(func() error { return unix.Stat(link, &st) }); err != nil {
		return "", &os.PathError{Op: "stat", Path: link, Err: err}
	}
	if s, err := ReadStat(p.PID); err != nil || s.StartTime != p.StartTime {
		return "", errors.Join(fmt.Errorf("executable of process %d: %w", p.PID, unix.ESRCH), err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}
