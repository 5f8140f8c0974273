package lockfile

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// check asks, in the name of the file description, who has the lock that we should
// have. If others share it, the answer may be one of them.
func (l *posixLock) check() error {
	t := &posixFiles
	t.mu.Lock()
	defer t.mu.Unlock()
	if !l.held {
		return ErrReleased
	}
	var lk unix.Flock_t
	err := ignoringEINTR(func() error {
		lk = unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: 0, Len: 1}
		return unix.FcntlFlock(uintptr(l.h.fd), unix.F_OFD_GETLK, &lk)
	})
	if err != nil {
		return nil // there is no way to tell
	}
	if lk.Type == unix.F_UNLCK || !l.shared && int(lk.Pid) != os.Getpid() {
		return errPosixLost
	}
	return nil
}

// lost implements losable: the kernel does not tell.
func (l *posixLock) lost() <-chan struct{} { return nil }
