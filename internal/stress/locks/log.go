package locks

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An author is who writes a log: one goroutine of one process.
type author struct {
	Role        string `json:"role"`
	Slot        int    `json:"slot"`
	Incarnation int    `json:"incarnation"` // counts a slot's processes, from 0
	Thread      int    `json:"thread"`
}

// The roles of processes.
const (
	roleUser    = "u" // takes the lock
	roleRemover = "r" // removes the file
)

func (a author) String() string {
	return fmt.Sprintf("%s%04d-i%04d-%d", a.Role, a.Slot, a.Incarnation, a.Thread)
}

// A log is the file in which one goroutine of one process notes what it does. It is
// named AUTHOR.log. All integers are of eight bytes, little-endian; times are
// nanoseconds of the machine's monotonic clock, which its processes share.
//
//	offset  field
//	0       magic, "RSLOCKS1"
//	8       tries that found the lock taken
//	16      waits that ended with their context
//	24      removals of the lock file
//	32      1: the process has stopped of its own accord
//	4096    records
//
// A record of 32 bytes for each attempt, of which the last may be under way, and
// those after it are zero:
//
//	offset  field
//	0       kind: 1 shared, 2 a try, 4 with a deadline, or'ed
//	8       before the call; 0: it was refused, and this record will be used again
//	16      when the lock was had; 0: it has not been
//	24      before it was given back; 0: it is held
//
// The file is mapped into memory and written by single stores of eight bytes, in the
// order of the table: what a process did before SIGKILL is in the file, and costs it
// no system call.
type log struct {
	f      *os.File
	head   []byte
	window []byte
	end    int64 // of the window, in the file
	rest   []byte
}

const (
	logMagic   = "RSLOCKS1"
	logSuffix  = ".log"
	headSize   = 4096
	recordSize = 32
	windowSize = 1 << 20

	kindShared  = 1
	kindTry     = 2
	kindLimited = 4
)

// createLog makes the log of an author. There must not be one.
func createLog(dir string, a author) (*log, error) {
	f, err := os.OpenFile(filepath.Join(dir, a.String()+logSuffix), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	l := &log{f: f, end: headSize}
	if err := f.Truncate(headSize); err != nil {
		return nil, err
	}
	if l.head, err = l.mapped(0, headSize); err != nil {
		return nil, err
	}
	copy(l.head, logMagic)
	return l, nil
}

func (l *log) mapped(offset int64, size int) ([]byte, error) {
	b, err := unix.Mmap(int(l.f.Fd()), offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "map", Path: l.f.Name(), Err: err}
	}
	return b, nil
}

func put(b []byte, offset int, v int64) {
	(*atomic.Int64)(unsafe.Pointer(&b[offset : offset+8][0])).Store(v)
}

func (l *log) add(offset int) {
	(*atomic.Int64)(unsafe.Pointer(&l.head[offset : offset+8][0])).Add(1)
}

// attempt notes that an attempt begins. If the one before was refused its record is
// used again.
func (l *log) attempt(kind, now int64) error {
	if len(l.rest) == 0 {
		if err := l.advance(); err != nil {
			return err
		}
	}
	put(l.rest, 0, kind)
	put(l.rest, 8, now)
	return nil
}

// advance maps the next window.
func (l *log) advance() error {
	if l.window != nil {
		if err := unix.Munmap(l.window); err != nil {
			return err
		}
	}
	var err error
	if err = l.f.Truncate(l.end + windowSize); err != nil {
		return err
	}
	l.window, err = l.mapped(l.end, windowSize)
	l.end += windowSize
	l.rest = l.window
	return err
}

// refused notes that an attempt was not successful.
func (l *log) refused(counter int) {
	l.add(counter)
	put(l.rest, 8, 0)
}

func (l *log) had(now int64) { put(l.rest, 16, now) }

func (l *log) released(now int64) {
	put(l.rest, 24, now)
	l.rest = l.rest[recordSize:]
}

// The counters in the head.
const (
	countTaken   = 8
	countLate    = 16
	countRemoved = 24
	countEnded   = 32
)
