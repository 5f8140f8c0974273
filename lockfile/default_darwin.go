package lockfile

import "golang.org/x/sys/unix"

const defaultMechanism = Flock

// lockHeader takes the lock itself, for want of another: who tries for it while a
// new file is being opened may be told that it is held.
func lockHeader(h *handle) error   { return flock(h.fd, unix.LOCK_EX|unix.LOCK_NB) }
func unlockHeader(h *handle) error { return flock(h.fd, unix.LOCK_UN) }

// probeFlock has no means to look, so that what the file says has to be believed,
// and a try that fails has failed.
func probeFlock(*handle) (State, error) { return Unseen, nil }
