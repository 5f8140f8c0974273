package lockfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// check asks, in the name of the file description, who has the lock that we should
// have. If others share it, the answer may be one of them.
func (l *posixLock) check() error {
	f := posixFiles.file(l.h.fileID)
	held, shared := l.held, l.shared
	posixFiles.done(f)
	if !held {
		return ErrReleased
	}
	lk, err := ofdCalls.getlk(l.h.fd, unix.F_WRLCK, 0, 1)
	if err != nil {
		return nil // there is no way to tell
	}
	if lk.Type == unix.F_UNLCK || !shared && int(lk.Pid) != os.Getpid() {
		return errPosixLost
	}
	return nil
}

// lost implements losable: the kernel does not tell.
func (l *posixLock) lost() <-chan struct{} { return nil }
