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

// kernelUsers returns with which mechanisms the file of h, whose header is locked, is
// locked by others, as far as the kernel tells. On a file system that is not local both
// kinds of locks may be one to the server, ours among them; so only this machine's list
// is consulted about flock there.
func kernelUsers(h *handle, local bool) (users []Mechanism, err error) {
	switch m, err := fcntlUser(h); {
	case err != nil:
		return nil, err
	case m != Auto:
		users = append(users, m)
	}
	if !local {
		if st, seen := findFlock(h); seen && st != Unseen {
			users = append(users, Flock)
		}
		return users, nil
	}
	switch err := flock(h.fd, unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		return users, flock(h.fd, unix.LOCK_UN)
	case errBusy:
		return append(users, Flock), nil
	default:
		return users, nil // there are no such locks here
	}
}

// fcntlUser returns which locks of fcntl others have on the file, and Auto if none.
func fcntlUser(h *handle) (Mechanism, error) {
	l := ofd{h: h}
	lk, err := l.getlk(unix.F_WRLCK, 0, gate+1)
	switch {
	case err != nil, lk.Type == unix.F_UNLCK:
		return Auto, err
	case lk.Pid == -1: // of a description
		return OFD, nil
	}
	return POSIX, nil
}

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
