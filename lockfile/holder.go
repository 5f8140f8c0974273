package lockfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/recordstore/recordstore/internal/boot"
	"github.com/recordstore/recordstore/internal/crc32c"
)

// The lock file. All integers are little-endian; all checksums are CRC-32C.
//
//	offset  size  region
//	0       32    header
//	32      480   holder record
//	512     8     next ticket of the queue (ofd_linux.go); never checked
//	520     120   zero
//	640     272   application data
//	912     112   zero, and usually not there
//
// A region that is missing because the file is shorter, or is all zero, is empty.
// Each region is written by one write, within one page, so that a process that is
// killed leaves the old contents or the new ones.
//
// The header:
//
//	offset  size  field
//	0       8     magic, "\x8aRSLOCK\n"
//	8       2     version, 1
//	10      2     mechanism: 1 open-file-description locks, 2 flock, 3 POSIX, 4 link, 5 Unix, 6 TCP
//	12      4     checksum of bytes 0 to 12
//	16      2     with mechanism 6, the port; otherwise zero
//	18      2     with mechanism 6, the port with all bits inverted; otherwise zero
//	20      12    zero
//
// Every version keeps the first 16 bytes, so that "later" is not mistaken for
// "damaged".
//
// The holder record, whose offsets are from its start:
//
//	offset  size  field
//	0       4     magic, "HOLD"
//	4       4     checksum of bytes 8 to 480
//	8       8     held since, Unix time in nanoseconds
//	16      4     process id
//	20      4     user id, plus 1
//	24      8     process start time \
//	32      8     pid namespace       \
//	40      16    boot id              > as in Holder
//	56      16    machine id          /
//	72      16    claim              /
//	88      8     zero
//	96      64    host        \
//	160     64    command      > UTF-8, padded with zero
//	224     256   purpose     /
//
// From the user id to the claim, zero means unknown.
//
// The application data, whose offsets are from its start:
//
//	offset  size  field
//	0       4     magic, "DATA"
//	4       4     checksum of bytes 8 to 272
//	8       2     length of the data, at most 256
//	10      6     zero
//	16      256   data, padded with zero
const (
	headerSize = 32
	headerSum  = 12 // offset of the header's checksum
	version    = 1

	holderOffset = 32
	holderSize   = 480

	ticketOffset = 512
	ticketSize   = 8

	dataOffset = 640
	dataSize   = 16 + MaxData

	fileSize = 1024
)

const (
	magic       = "\x8aRSLOCK\n"
	holderMagic = "HOLD"
	dataMagic   = "DATA"
)

var le = binary.LittleEndian

// A Holder says who holds a lock exclusively, as far as the holder has told.
type Holder struct {
	PID     int       // process id, on Host and in the holder's pid namespace
	Host    string    // host name, of which the first 64 bytes are kept
	Command string    // base name of the program, likewise
	Purpose string    // what the lock is held for, as given to Lock; may be empty
	Since   time.Time // when the lock was taken, by the holder's clock

	// What tells this process from others of the same number, for Liveness. Zero is
	// unknown.
	UID          int      // user id; -1 is unknown
	Start        uint64   // when the process started; on Linux in clock ticks after boot, on macOS in microseconds of Unix time
	PIDNamespace uint64   // on Linux the inode of /proc/self/ns/pid; 1 on macOS
	BootID       [16]byte // of this run of the machine: a hash of the system's boot id
	MachineID    [16]byte // a hash of /etc/machine-id; unknown on macOS

	Claim [16]byte // random, and another each time the lock is taken
}

// String returns a text such as
//
//	pid 123 (recordctl) on host since 12:03:04, for deploy
//
// with the date before the time if that is not today. Characters that do not print
// have been replaced, whatever the file contains.
func (h Holder) String() string {
	layout := time.TimeOnly
	if since, now := h.Since.Local(), time.Now(); since.YearDay() != now.YearDay() || since.Year() != now.Year() {
		layout = time.DateTime
	}
	s := fmt.Sprintf("pid %d (%s) on %s since %s", h.PID, h.Command, h.Host, h.Since.Local().Format(layout))
	if h.Purpose != "" {
		s += ", for " + h.Purpose
	}
	return s
}

// self is what does not change about this process. It is found out when it is first
// needed: it takes some ten system calls, and many processes never take a lock.
var self = sync.OnceValue(func() Holder {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	h := Holder{
		PID: os.Getpid(), Host: host, Command: filepath.Base(os.Args[0]),
		UID: os.Getuid(), PIDNamespace: pidNamespace(), BootID: boot.Current(), MachineID: machineID(),
	}
	// Of a process that cannot find itself, because this /proc is of another pid
	// namespace, the start is unknown, and so it does not look for others there.
	if p, err := readProcess("self"); err == nil && p.pid == h.PID {
		h.Start = p.start
	}
	return h
})

// newClaim does not repeat: the generator is seeded at random when a process starts.
func newClaim() (c [16]byte) {
	le.PutUint64(c[:], rand.Uint64())
	le.PutUint64(c[8:], rand.Uint64())
	return c
}

func encodeHeader(m Mechanism) []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	le.PutUint16(b[8:], version)
	le.PutUint16(b[10:], uint16(m))
	le.PutUint32(b[headerSum:], crc32c.Checksum(b[:headerSum]))
	return b
}

// checkHeader checks the contents of a lock file, from its start, and returns the
// mechanism that it is used with: Auto if there is no header, and none is in the way
// of one. Then the file is new, or was truncated, or lost its contents with the power.
func checkHeader(b []byte) (Mechanism, error) {
	head := make([]byte, headerSize)
	copy(head, b)
	m := Mechanism(le.Uint16(head[10:]))
	switch {
	case vacant(b):
		return Auto, nil
	case !bytes.HasPrefix(head, []byte(magic)):
		return 0, ErrNotLockFile
	case le.Uint32(head[headerSum:]) != crc32c.Checksum(head[:headerSum]):
		return 0, fmt.Errorf("%w: its header is damaged", ErrNotLockFile)
	case le.Uint16(head[8:]) != version:
		return 0, fmt.Errorf("%w: its format is version %d, and this program knows version %d",
			ErrIncompatible, le.Uint16(head[8:]), version)
	case m == Auto || int(m) >= len(mechanismNames):
		return 0, fmt.Errorf("%w: it is used with locks of kind %d, which this program does not know",
			ErrIncompatible, m)
	case m == TCP && portDamaged(head):
		return 0, fmt.Errorf("%w: its header is damaged where it says which port it is used with", ErrNotLockFile)
	}
	return m, nil
}

// vacant reports whether a header can be written in front of b without damage to
// something that is not ours: b has no more than the beginning of a header, and
// otherwise nothing but regions of ours. A file that is truncated while it is in
// use looks so until it is opened next.
func vacant(b []byte) bool {
	if len(b) > fileSize {
		return false
	}
	full := make([]byte, fileSize)
	copy(full, b)
	m := Mechanism(le.Uint16(full[10:]))
	if int(m) >= len(mechanismNames) {
		m = Auto // which no header says
	}
	for i, c := range encodeHeader(m)[:headerSum+4] {
		if full[i] != c {
			break
		}
		if i == headerSum+3 {
			return false // a whole header
		}
		full[i] = 0
	}
	clearRegion(full[holderOffset:][:holderSize], holderMagic)
	clearRegion(full[dataOffset:][:dataSize], dataMagic)
	clear(full[ticketOffset:][:ticketSize])
	if headerPort(full) != 0 {
		clear(full[portOffset:][:4])
	}
	return len(bytes.Trim(full, "\x00")) == 0
}

// clearRegion clears a region that is ours by its magic. The rest of it need not be whole:
// the file may have been cut off there, and have grown again since. Then as much of the
// magic as is left tells, for what was cut off is zero.
func clearRegion(region []byte, magic string) {
	if string(region[:len(magic)]) == magic {
		clear(region)
		return
	}
	for i := range magic {
		if region[i] != magic[i] {
			return
		}
		region[i] = 0
	}
}

func encodeHolder(h Holder) []byte {
	b := make([]byte, holderSize)
	copy(b, holderMagic)
	le.PutUint32(b[16:], uint32(h.PID))
	le.PutUint32(b[20:], uint32(h.UID+1))
	le.PutUint64(b[24:], h.Start)
	le.PutUint64(b[32:], h.PIDNamespace)
	copy(b[40:56], h.BootID[:])
	copy(b[56:72], h.MachineID[:])
	putText(b[96:160], h.Host)
	putText(b[160:224], h.Command)
	updateHolder(b, h.Purpose, h.Since, h.Claim)
	return b
}

// updateHolder changes what differs between the records of a process.
func updateHolder(b []byte, purpose string, since time.Time, claim [16]byte) {
	le.PutUint64(b[8:], uint64(since.UnixNano()))
	copy(b[72:88], claim[:])
	clear(b[224:480])
	putText(b[224:480], purpose)
	le.PutUint32(b[4:], crc32c.Checksum(b[8:]))
}

// decodeHolder reports false if b is empty, torn, or of a kind that is not known:
// who holds the lock is then unknown, which is never an error.
func decodeHolder(b []byte) (Holder, bool) {
	if string(b[:4]) != holderMagic || le.Uint32(b[4:]) != crc32c.Checksum(b[8:]) {
		return Holder{}, false
	}
	return Holder{
		PID:     int(le.Uint32(b[16:])),
		Host:    text(b[96:160]),
		Command: text(b[160:224]),
		Purpose: text(b[224:480]),
		Since:   time.Unix(0, int64(le.Uint64(b[8:]))),

		UID:          int(le.Uint32(b[20:])) - 1,
		Start:        le.Uint64(b[24:]),
		PIDNamespace: le.Uint64(b[32:]),
		BootID:       [16]byte(b[40:56]),
		MachineID:    [16]byte(b[56:72]),
		Claim:        [16]byte(b[72:88]),
	}, true
}

// putText stores as much of s as fits, in whole characters.
func putText(b []byte, s string) {
	if len(s) > len(b) {
		n := len(b)
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	copy(b, s)
}

// text makes a field fit to be shown on a terminal: others may write the file.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, string(b))
}

func encodeData(p []byte) []byte {
	b := make([]byte, dataSize)
	copy(b, dataMagic)
	le.PutUint16(b[8:], uint16(len(p)))
	copy(b[16:], p)
	le.PutUint32(b[4:], crc32c.Checksum(b[8:]))
	return b
}

// decodeData returns nil if the region is empty.
func decodeData(b []byte) ([]byte, error) {
	n := int(le.Uint16(b[8:]))
	switch {
	case len(bytes.Trim(b, "\x00")) == 0:
		return nil, nil
	case string(b[:4]) != dataMagic, n > MaxData,
		le.Uint32(b[4:]) != crc32c.Checksum(b[8:]):
		return nil, fmt.Errorf("%w at offset %d", ErrCorrupt, dataOffset)
	}
	return append([]byte{}, b[16:][:n]...), nil
}
