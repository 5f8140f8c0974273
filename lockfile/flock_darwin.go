package lockfile

import "golang.org/x/sys/unix"

// Locks with flock(2), which belong to the file description as well, but cover the
// whole file and cannot be looked at. There is no queue: who is next is for the
// kernel to say, and the functions that deal with a place do nothing.

const mechanism = 2

type place struct{}

func (h *handle) flock(how int) error {
	err := ignoringEINTR(func() error { return unix.Flock(h.fd, how) })
	if err == unix.EWOULDBLOCK && how&unix.LOCK_NB != 0 {
		return errBusy
	}
	return err
}

func lockType(shared bool) int {
	if shared {
		return unix.LOCK_SH
	}
	return unix.LOCK_EX
}

func (h *handle) attempt(shared bool) error { return h.flock(lockType(shared) | unix.LOCK_NB) }

func (h *handle) join() error { return nil } // it cannot be seen whether someone waits

func (h *handle) enter(shared bool) error { return h.attempt(shared) }

func (h *handle) await(shared bool) error { return h.flock(lockType(shared)) }

func (h *handle) settle(shared bool) error { return nil }

func (h *handle) leave() {}

func (h *handle) rejoin() {}

func (h *handle) unlock() error { return h.flock(unix.LOCK_UN) }

// probe has no means to look, so that what the file says has to be believed, and a
// try that fails has failed.
func (h *handle) probe() (lockState, error) { return lockUnseen, nil }
