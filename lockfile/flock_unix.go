//go:build unix

package lockfile

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Locks with flock(2), which belong to the file description, and cover the whole
// file.
//
// A second file, named like the lock file with ".turn" at the end, is the turnstile.
// Who wants the lock, exclusively or shared, first locks the turnstile, exclusively,
// then the lock, and then unlocks the turnstile. So only one at a time waits for the
// lock, and whoever comes meanwhile, to take the lock at once or to share it with
// those who do, finds the turnstile locked and waits for that. Neither readers nor
// writers can keep the other kind from the lock. Among those who wait at the
// turnstile the order is the kernel's.
//
// The turnstile is a matter of politeness only: exclusion rests on the lock file
// alone. Where the turnstile cannot be opened or created, as in a directory on which
// one has no write permission, one takes the lock without it. So does everybody where it
// is not the lock file's owner's, or root's, or has a wider mode than the lock file: in a
// directory like /tmp a stranger can make one, and keep it locked. And therefore nobody
// else creates it. If somebody deletes it, those who come later make a new one, and who
// has the old one open sees that when he next has to wait.
//
// What waits for what: nobody waits for the turnstile while he has the lock. So
// there is no cycle, and no deadlock.

func init() { mechanisms[Flock] = func(h *handle) locker { return &flocker{h: h, turn: turnUnopened} } }

const turnSuffix = ".turn"

const (
	turnUnopened = -1
	turnUnusable = -2
)

type flocker struct {
	h    *handle
	turn int // descriptor of the turnstile, or one of the above

	// While the handle is parked, leave and rejoin change these beside await.
	mu        sync.Mutex
	queued    bool // we have locked the turnstile
	atLock    bool // await is past the turnstile, and waits for the lock
	left      bool // nobody wants what await waits for
	requeuing bool // requeue runs
}

func flock(fd, how int) error {
	err := ignoringEINTR(func() error { return unix.Flock(fd, how) })
	if err == unix.EWOULDBLOCK && how&unix.LOCK_NB != 0 {
		return errBusy
	}
	return err
}

func lockHow(shared bool) int {
	if shared {
		return unix.LOCK_SH
	}
	return unix.LOCK_EX
}

// turnHow is how l locks the turnstile. To lock it exclusively NFS wants a descriptor
// that is open for writing.
func (l *flocker) turnHow() int { return lockHow(l.h.opts.ReadOnly) }

// openTurn reports whether there is a turnstile.
func (l *flocker) openTurn() bool {
	if l.turn != turnUnopened {
		return l.turn >= 0
	}
	l.turn = turnUnusable
	if l.h.opts.NoQueue {
		return false
	}
	// Who may use the lock may use the turnstile.
	st, err := fstat(l.h.fd)
	if err != nil {
		return false
	}
	mode := uint32(st.Mode) & 0o777
	var fd int
	var created bool
	if l.h.opts.ReadOnly {
		fd, err = openFile(l.h.path+turnSuffix, unix.O_RDONLY, 0)
	} else {
		uid := uint32(os.Geteuid())
		fd, created, err = openOrCreate(l.h.path+turnSuffix, mode, uid == st.Uid || uid == 0)
	}
	if err != nil {
		return false
	}
	if created {
		_ = unix.Fchown(fd, -1, int(st.Gid)) // else those of that group do without
		_ = unix.Fchmod(fd, mode)
	} else if !trusted(fd, st) {
		_ = unix.Close(fd)
		return false
	}
	l.turn = fd
	return true
}

// trusted reports whether nobody can lock what may be the turnstile but those who can
// lock the lock file, which is st, and its owner and root have seen to that.
func trusted(fd int, st unix.Stat_t) bool {
	turn, err := fstat(fd)
	return err == nil && turn.Mode&unix.S_IFMT == unix.S_IFREG &&
		(turn.Uid == st.Uid || turn.Uid == 0) && turn.Mode&0o777&^st.Mode == 0
}

// reopenTurn opens the turnstile if it could not be opened, or was deleted.
func (l *flocker) reopenTurn() {
	if l.turn >= 0 {
		if st, err := fstat(l.turn); err != nil || st.Nlink > 0 {
			return
		}
		_ = unix.Close(l.turn)
	}
	l.turn = turnUnopened
	l.openTurn()
}

// pass unlocks the turnstile, if we have locked it.
func (l *flocker) pass() {
	if l.queued {
		// An error would mean that others wait behind us for longer than they need.
		_ = flock(l.turn, unix.LOCK_UN)
		l.queued = false
	}
}

func (l *flocker) attempt(shared bool) error {
	if !l.openTurn() {
		return flock(l.h.fd, lockHow(shared)|unix.LOCK_NB)
	}
	if err := flock(l.turn, l.turnHow()|unix.LOCK_NB); err != nil {
		return err
	}
	l.queued = true
	err := flock(l.h.fd, lockHow(shared)|unix.LOCK_NB)
	l.pass()
	return err
}

func (l *flocker) join() error {
	if !l.openTurn() {
		return nil // it cannot be seen whether someone waits
	}
	if err := flock(l.turn, l.turnHow()|unix.LOCK_NB); err != nil {
		return err
	}
	return flock(l.turn, unix.LOCK_UN)
}

// enter keeps the turnstile if it has that and not the lock. It does not wait for the
// turnstile: that may be locked for long, and so is for await to wait for.
func (l *flocker) enter(shared bool) error {
	l.mu.Lock() // a requeue may be left of an earlier wait
	l.left = false
	l.mu.Unlock()
	l.reopenTurn()
	if l.turn >= 0 {
		if err := flock(l.turn, l.turnHow()|unix.LOCK_NB); err != nil {
			return err
		}
		l.queued = true
	}
	err := flock(l.h.fd, lockHow(shared)|unix.LOCK_NB)
	if err != errBusy {
		l.pass()
	}
	return err
}

func (l *flocker) await(shared bool) error {
	l.mu.Lock()
	if l.turn >= 0 && !l.queued {
		l.mu.Unlock()
		if err := flock(l.turn, l.turnHow()); err != nil {
			return err
		}
		l.mu.Lock()
		l.queued = true
		if l.left {
			l.pass()
			l.mu.Unlock()
			return errBusy
		}
	}
	l.atLock = true
	l.mu.Unlock()

	err := flock(l.h.fd, lockHow(shared))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.atLock = false
	l.pass()
	return err
}

func (l *flocker) settle(bool) error { return nil }

func (l *flocker) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = true
	l.pass()
}

// rejoin locks the turnstile again, or leaves that to requeue.
func (l *flocker) rejoin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left = false; l.requeueLocked() || l.requeuing {
		return
	}
	l.requeuing = true
	go l.requeue()
}

// requeueLocked locks the turnstile if await waits without it, and reports false if
// somebody else has it.
func (l *flocker) requeueLocked() bool {
	if !l.atLock || l.left || l.queued || l.turn < 0 {
		return true
	}
	l.queued = flock(l.turn, l.turnHow()|unix.LOCK_NB) == nil
	return l.queued
}

// requeue tries until we have the turnstile: without it, readers who come one after the
// other would pass us for ever. A thread cannot wait for it, as nothing could call it
// back, and await may be over before.
func (l *flocker) requeue() {
	const firstPause, lastPause = time.Millisecond, 50 * time.Millisecond
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		time.Sleep(pause)
		l.mu.Lock()
		if l.requeueLocked() {
			l.requeuing = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

func (l *flocker) unlock() error { return flock(l.h.fd, unix.LOCK_UN) }

func (l *flocker) probe() (State, error) { return probeFlock(l.h) }

func (l *flocker) close() error {
	if l.turn < 0 {
		return nil
	}
	return unix.Close(l.turn)
}
