//go:build unix

package lockfile

import (
	"io"

	"golang.org/x/sys/unix"
)

// lockCalls are the commands of fcntl(2) for one kind of locks.
type lockCalls struct{ set, wait, get int }

func lockType(shared bool) int16 {
	if shared {
		return unix.F_RDLCK
	}
	return unix.F_WRLCK
}

// setlk locks or unlocks n bytes from start, n = 0 being all. If it cannot without
// waiting, it returns errBusy or waits.
func (c lockCalls) setlk(fd int, typ int16, start, n int64, wait bool) error {
	cmd := c.set
	if wait {
		cmd = c.wait
	}
	_, err := fcntlLock(fd, cmd, typ, start, n)
	if !wait && typ != unix.F_UNLCK && (err == unix.EAGAIN || err == unix.EACCES) {
		return errBusy
	}
	return err
}

// getlk returns a lock of somebody else that conflicts, if any.
func (c lockCalls) getlk(fd int, typ int16, start, n int64) (unix.Flock_t, error) {
	return fcntlLock(fd, c.get, typ, start, n)
}

func fcntlLock(fd, cmd int, typ int16, start, n int64) (lk unix.Flock_t, err error) {
	err = ignoringEINTR(func() error {
		lk = unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: start, Len: n}
		return unix.FcntlFlock(uintptr(fd), cmd, &lk)
	})
	return lk, err
}
