package lockfile

import (
	"errors"
	"fmt"
	"os/exec"
)

// Inherit makes cmd, which has not been started yet, and the processes that it starts,
// holders of the lock too. It adds a descriptor of the lock file to cmd.ExtraFiles. The
// lock, in the meaning of the kernel, is held for as long as one process has that
// descriptor open, and released when the last has ended or closed it. The child need
// not know of this. But a child that closes the descriptors it does not know, or
// starts others without them, as some daemons and languages do, does not keep the lock,
// or does not hand it on; and one that unlocks the descriptor unlocks it for all.
//
// From now on [Lock.Unlock] gives up only what this process has of the lock, and closes
// the descriptor in cmd.ExtraFiles as well, so cmd must be started before. If cmd
// never is, Unlock releases the lock as ever. Unlock leaves the record of the holder in
// the file: while a child has the lock it is this process, even if that has ended, that
// is named, and the purpose is still that which was given to Lock.
//
// A lock can be given to several commands, one call for each, and a shared lock too.
// Only locks of [OFD] and [Flock] can be inherited; for others the error wraps
// errors.ErrUnsupported.
func (l *Lock) Inherit(cmd *exec.Cmd) error {
	return l.use("inherit", func(h *handle) error {
		switch {
		case h.mechanism != OFD && h.mechanism != Flock:
			return fmt.Errorf("%w: %v locks do not belong to a descriptor", errors.ErrUnsupported, h.mechanism)
		case cmd.Process != nil:
			return errors.New("the command has been started already")
		}
		file, err := h.dup(l.f.name)
		if err != nil {
			return err
		}
		if l.later != nil && !l.recorded {
			_ = l.record(h) // for when this process has ended
		}
		// The handle and not the Lock remembers it: other Locks may share the handle,
		// and the last of them must not unlock it either.
		l.f.mu.Lock()
		h.inherited = true
		l.f.mu.Unlock()
		l.given = append(l.given, file)
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
		return nil
	})
}

// inherited reports whether children may have the lock. It is called with l.io held.
func (l *Lock) inherited() bool {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	return l.h.inherited
}
