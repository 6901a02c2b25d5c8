package monitor

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A journal is one page that the monitor maps shared, so that every store is
// there for its successor even after SIGKILL, in program order and without a
// system call. It is not for power cuts: it dies with the boot.
//
//	word    magic and version
//	word    state: bit 0 the current slot, bit 8 a batch is being written
//	slot 0  ⎫ what has been done; one is current, the other is filled with
//	slot 1  ⎭ the next values and made current by one store to state
//	batch   what is being done
//	exit    how the container's init ended
//
// A batch goes
//
//	IDLE --begin--> WRITING --commit--> IDLE (other slot)
//
// and what a kill leaves in WRITING is done again: the batch holds all that
// makes its bytes the same the second time.
type journal struct {
	page []byte
	p    *journalPage
}

const (
	journalMagic = 0x4352494e4c4f4701 // "CRINLOG", version 1
	journalSize  = 4096

	stateSlot    = 1 << 0
	stateWriting = 1 << 8
)

// streamCount: stdout is 0, stderr is 1.
const streamCount = 2

// progress is what has been done.
type progress struct {
	// consumed is how much of each stream's spool is in the log, spool which
	// of its two spool files that is.
	consumed [streamCount]int64
	spool    [streamCount]int64
	// lastTime is the newest time stamp in the log.
	lastTime int64
	// dropped counts the bytes of output that could not be logged, unreported
	// those of them that no drop record in the log speaks of, errno why.
	dropped, unreported, errno int64
}

// batch is what is being done.
type batch struct {
	// ends is where consumed will be.
	ends [streamCount]int64
	// time is the time stamp, first the stream that goes first.
	time  int64
	first int64
	// flush is 1 where unfinished lines are written too.
	flush int64
	// The log file and its size before the batch.
	logDev, logIno uint64
	logSize        int64
}

type journalPage struct {
	magic uint64
	state uint64
	slots [2]progress
	batch batch
	// exitSet is stored last, after the others.
	exitSet    uint64
	exitStatus uint64
	exitTime   int64
}

// openJournal maps the journal at path. create makes an empty one first.
func openJournal(path string, create bool) (*journal, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	j, err := mapJournal(f, create)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	return j, nil
}

func mapJournal(f *os.File, create bool) (*journal, error) {
	if create {
		// Written, not only sized: touching a hole of a mapped file on a full
		// disk is SIGBUS.
		if _, err := f.Write(make([]byte, journalSize)); err != nil {
			return nil, err
		}
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != journalSize {
		return nil, fmt.Errorf("size is %d, want %d", info.Size(), journalSize)
	}
	page, err := unix.Mmap(int(f.Fd()), 0, journalSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	j := &journal{page: page, p: (*journalPage)(unsafe.Pointer(&page[0]))}
	if create {
		atomic.StoreUint64(&j.p.magic, journalMagic)
	}
	if atomic.LoadUint64(&j.p.magic) != journalMagic {
		return nil, errors.Join(errors.New("not a journal of this version"), j.close())
	}
	return j, nil
}

func (j *journal) close() error {
	if j.page == nil {
		return nil
	}
	page := j.page
	j.page, j.p = nil, nil
	return os.NewSyscallError("munmap", unix.Munmap(page))
}

// current is what has been done.
func (j *journal) current() progress {
	return j.p.slots[atomic.LoadUint64(&j.p.state)&stateSlot]
}

// begin says what is going to be done.
func (j *journal) begin(b batch) {
	j.p.batch = b
	// The atomic store keeps the compiler from moving the one above it.
	atomic.StoreUint64(&j.p.state, atomic.LoadUint64(&j.p.state)&stateSlot|stateWriting)
}

// pending returns the batch that was begun and not committed, if any.
func (j *journal) pending() (batch, bool) {
	return j.p.batch, atomic.LoadUint64(&j.p.state)&stateWriting != 0
}

// commit says what has been done, in one step.
func (j *journal) commit(next progress) {
	slot := atomic.LoadUint64(&j.p.state)&stateSlot ^ 1
	j.p.slots[slot] = next
	atomic.StoreUint64(&j.p.state, slot)
}

// setExit notes how the init ended; the first note stands.
func (j *journal) setExit(status unix.WaitStatus, at time.Time) {
	if atomic.LoadUint64(&j.p.exitSet) != 0 {
		return
	}
	j.p.exitStatus = uint64(status)
	j.p.exitTime = at.UnixNano()
	atomic.StoreUint64(&j.p.exitSet, 1)
}

// exit returns what setExit noted.
func (j *journal) exit() (unix.WaitStatus, time.Time, bool) {
	if atomic.LoadUint64(&j.p.exitSet) == 0 {
		return 0, time.Time{}, false
	}
	return unix.WaitStatus(j.p.exitStatus), time.Unix(0, j.p.exitTime), true
}
