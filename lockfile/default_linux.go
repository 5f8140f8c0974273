package lockfile

import (
	"bufio"
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const defaultMechanism = OFD

// headerByte is locked by who writes the header of a file that has none. It is
// apart from the bytes of the queue, which ofd_linux.go describes.
const headerByte = gate + 2

func lockHeader(h *handle) error   { return setlk(h.fd, unix.F_WRLCK, headerByte, 1, false) }
func unlockHeader(h *handle) error { return setlk(h.fd, unix.F_UNLCK, headerByte, 1, false) }

// initPIDNamespace is the pid namespace of the system, which has the same number
// everywhere.
const initPIDNamespace = "pid:[4026531836]"

// probeFlock looks for the lock in /proc/locks, which names files by device and
// inode. The pid there is of no use: it is of who took the lock, and may be dead
// while a child has it.
//
// The kernel hands the file out in pieces, between which locks come and go, so that
// one which is there all the time may be missing. What is missing is looked for again.
func probeFlock(h *handle) (State, error) {
	for range 3 {
		if st, seen := findFlock(h); seen {
			return st, nil
		}
	}
	return flockMissing(h), nil
}

// findFlock reports false if no lock on the file is listed.
func findFlock(h *handle) (State, bool) {
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return Unseen, true
	}
	name := fmt.Sprintf("%02x:%02x:%d", unix.Major(h.dev), unix.Minor(h.dev), h.ino)
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 123 fe:00:456 0 EOF
		// 1: -> FLOCK  ADVISORY  WRITE 124 fe:00:456 0 EOF   (is waiting)
		w := bytes.Fields(s.Bytes())
		if len(w) < 6 || string(w[1]) != "FLOCK" || string(w[5]) != name {
			continue
		}
		if string(w[3]) == "READ" {
			return Shared, true
		}
		return Exclusive, true
	}
	return Free, false
}

// flockMissing says what it means that a lock is not listed.
func flockMissing(h *handle) State {
	// What is not there is free only if it would be there: the locks of processes
	// of which this pid namespace has no number are left out, the locks of
	// other machines are not known, and some file systems give their files
	// another device than the one that is shown.
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil || ns != initPIDNamespace {
		return Unseen
	}
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Fstatfs(h.fd, &st) }); err != nil {
		return Unseen
	}
	switch int64(st.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.F2FS_SUPER_MAGIC:
		return Free
	}
	return Unseen
}
