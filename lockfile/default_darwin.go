package lockfile

import "golang.org/x/sys/unix"

const defaultMechanism = Flock

// lockHeader takes the lock itself, for want of another: who tries for it while a
// new file is being opened may be told that it is held.
func lockHeader(h *handle) error   { return flock(h.fd, unix.LOCK_EX|unix.LOCK_NB) }
func unlockHeader(h *handle) error { return flock(h.fd, unix.LOCK_UN) }

// kernelUsers returns with which mechanisms the file of h is locked by others, as far as
// the kernel tells. Those of flock are kept out by the lock on the header.
func kernelUsers(h *handle, _ bool) (users []Mechanism, err error) {
	if st, err := (&posixLock{h: h}).probe(); err == nil && st != Free && st != Unseen {
		users = append(users, POSIX)
	}
	return users, nil
}

// fcntlUser is for locks that there are not here.
func fcntlUser(*handle) (Mechanism, error) { return Auto, nil }

// probeFlock has no means to look, so that what the file says has to be believed,
// and a try that fails has failed.
func probeFlock(*handle) (State, error) { return Unseen, nil }
