//go:build unix

package lockfile

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Locks with F_SETLK of fcntl(2), on byte 0, for writing or reading. They exclude, and
// are excluded by, all other programs that lock that byte with fcntl or lockf(3), open-
// file-description locks too. They have to do with flock only on network file systems.
//
// Their owner is the process, and that makes them treacherous:
//
//   - A process does not exclude itself.
//   - Closing any descriptor of the file, wherever in the process it was opened,
//     releases the lock. So does a library that reads the lock file, and a program that
//     copies its directory. This package takes care that it does not do so itself; it
//     cannot for others. Where the system tells, one who asks whether he still has the
//     lock is told that it is gone.
//   - A child never inherits them.
//
// So there is a table of the process's files, in which the Files and goroutines of the
// process exclude each other and queue, in order; who shares the lock is counted, since
// to the kernel they all have one. Whatever asks the kernel for a lock, without waiting,
// or releases it, does so with the file's entry locked: what that says is held is held.
// Each file has a mutex of its own, as even these calls may not return while a server does
// not answer; that of the table is held for no system call.
//
// While a lock is held, no descriptor of the file is closed, and while one is being
// closed, no lock is taken. Those that are to be closed are parked, and closed after the
// lock is released; who opens the file meanwhile gets one of them.
//
// Who waits for another process waits with F_SETLKW. Among processes there is no order.
// The wait cannot be interrupted, so one that was given up may be granted when nobody
// wants it, and at any time; and since to the kernel it is all one owner, it then
// replaces what the process has. Therefore:
//
//   - The return of F_SETLKW grants nothing. Who waited asks again without waiting.
//   - What a wait has left locked, beyond what the table says, is put right then.
//   - Nobody locks exclusively while a wait for a shared lock is going on: it would
//     turn his lock into a shared one. Such a wait goes on only while another process
//     has an exclusive lock, so that he would have to wait all the same.
//
// The kernel, which knows processes only, sees deadlocks that are none, as when two
// processes each have one lock and wait for the other's, but in goroutines that do not
// wait for each other; and it fails one of the waits with EDEADLK. Who gets that asks
// again at intervals of up to maxPause, until he has the lock or gives up.

func init() { mechanisms[POSIX] = func(h *handle) locker { return &posixLock{h: h} } }

// errPosixLost is what check reports, on systems where it can be told.
var errPosixLost = fmt.Errorf("%w: something in this process has closed a descriptor of the file", ErrLost)

// posixFiles has the files that the process has locked or waits for.
var posixFiles = posixTable{files: map[fileID]*posixFile{}}

type posixTable struct {
	mu    sync.Mutex // protects files and what they have uses; held for no call that can take long
	files map[fileID]*posixFile
	held  atomic.Int32 // files of which a lock is held; for those who need not look if there are none
}

// A posixFile is what the process has to do with a file. It is in the table as long as
// there is something.
type posixFile struct {
	id   fileID
	uses int // calls that have it, protected by the table's mutex

	mu        sync.Mutex // protects what follows; not held in calls that wait for a lock, or close
	holders   int        // handles that have the lock
	exclusive bool       // they are one, and have it exclusively
	queue     []*posixLock
	waits     [2]int // in F_SETLKW, for an exclusive and for a shared lock
	closing   int    // calls of closeUnlocked
	parked    []parkedFile
}

// A parkedFile is a descriptor that is to be closed.
type parkedFile struct {
	fd    int
	spent bool // it is not fit to be used again
}

type posixLock struct {
	h   *handle
	pid int // that probe has found

	// Protected by posixFile.mu.
	held   bool
	shared bool
	waits  bool          // between enter and the end of await; then only leave and rejoin mean anything
	left   bool          // nobody wants what await waits for
	queued bool          // in the queue
	turn   chan struct{} // of capacity 1: look again
}

var posixCalls = lockCalls{set: unix.F_SETLK, wait: unix.F_SETLKW, get: unix.F_GETLK}

func posixSetlk(fd int, typ int16, wait bool) error { return posixCalls.setlk(fd, typ, 0, 1, wait) }

// file returns what the table has on a file, locked, and puts it there. The caller calls
// done.
func (t *posixTable) file(id fileID) *posixFile {
	t.mu.Lock()
	f := t.files[id]
	if f == nil {
		f = &posixFile{id: id}
		t.files[id] = f
	}
	f.uses++
	t.mu.Unlock()
	f.mu.Lock()
	return f
}

// done unlocks f, and forgets it if there is nothing to know.
func (t *posixTable) done(f *posixFile) {
	t.mu.Lock()
	if f.uses--; f.uses == 0 && f.holders == 0 && len(f.queue) == 0 {
		delete(t.files, f.id)
	}
	t.mu.Unlock()
	f.mu.Unlock()
}

// blockedLocked reports whether something in the process is in the way of who is first.
func (f *posixFile) blockedLocked(shared bool) bool {
	switch {
	case f.holders > 0:
		return f.exclusive || !shared
	case f.closing > 0:
		return true
	}
	return !shared && f.waits[1] > 0
}

// takeLocked takes the lock for l if nobody has it who is in the way. Who waits in the
// queue is not asked.
func (t *posixTable) takeLocked(f *posixFile, l *posixLock, shared bool) error {
	if f.blockedLocked(shared) {
		return errBusy
	}
	if f.holders == 0 {
		if err := posixSetlk(l.h.fd, lockType(shared), false); err != nil {
			return err
		}
		t.held.Add(1)
	}
	f.holders++
	f.exclusive = !shared
	l.held, l.shared = true, shared
	return nil
}

// settleLocked makes what the kernel has for the process what the table says.
func (f *posixFile) settleLocked(fd int) error {
	switch {
	case f.holders == 0:
		return posixSetlk(fd, unix.F_UNLCK, false)
	case !f.exclusive:
		return posixSetlk(fd, unix.F_RDLCK, false)
	}
	return nil
}

// wakeLocked lets the first of the queue look again.
func (f *posixFile) wakeLocked() {
	if len(f.queue) > 0 {
		f.queue[0].wake()
	}
}

func (l *posixLock) wake() {
	select {
	case l.turn <- struct{}{}:
	default:
	}
}

func (f *posixFile) enqueueLocked(l *posixLock) {
	f.queue = append(f.queue, l)
	l.queued = true
}

func (f *posixFile) dequeueLocked(l *posixLock) {
	if !l.queued {
		return
	}
	l.queued = false
	for i, q := range f.queue {
		if q == l {
			f.queue = append(f.queue[:i:i], f.queue[i+1:]...)
			break
		}
	}
	f.wakeLocked()
}

func (l *posixLock) attempt(shared bool) error { return l.tryOr(shared, func(*posixFile) {}) }

func (l *posixLock) enter(shared bool) error {
	return l.tryOr(shared, func(f *posixFile) {
		l.left, l.waits = false, true
		l.turn = make(chan struct{}, 1)
		f.enqueueLocked(l)
	})
}

// tryOr takes the lock if that is possible behind nobody, and otherwise calls busy.
func (l *posixLock) tryOr(shared bool, busy func(*posixFile)) error {
	t := &posixFiles
	f := t.file(l.h.fileID)
	defer t.done(f)
	err := errBusy
	if len(f.queue) == 0 || l.h.opts.NoQueue {
		err = t.takeLocked(f, l, shared)
	}
	if err == errBusy {
		busy(f)
	}
	return err
}

func (l *posixLock) join() error {
	f := posixFiles.file(l.h.fileID)
	defer posixFiles.done(f)
	if len(f.queue) > 0 && !l.h.opts.NoQueue {
		return errBusy
	}
	return nil
}

func (l *posixLock) await(shared bool) error {
	t := &posixFiles
	f := t.file(l.h.fileID)
	defer func() {
		l.waits = false
		f.dequeueLocked(l)
		t.done(f)
	}()
	pause := pauser{}
	for {
		if l.left {
			return errBusy
		}
		first := f.queue[0] == l
		if first {
			if err := t.takeLocked(f, l, shared); err != errBusy {
				return err
			}
		}
		if !first || f.blockedLocked(shared) {
			f.mu.Unlock()
			<-l.turn
			f.mu.Lock()
			continue
		}
		switch err := l.waitLocked(f, shared); err {
		case nil, unix.EDEADLK:
			if err != nil {
				f.mu.Unlock()
				pause.pauseFor(l.turn)
				f.mu.Lock()
			}
		default:
			if l.left {
				return errBusy
			}
			return err
		}
	}
}

// waitLocked waits until no other process is in the way, with f unlocked.
func (l *posixLock) waitLocked(f *posixFile, shared bool) error {
	kind := 0
	if shared {
		kind = 1
	}
	f.waits[kind]++
	f.mu.Unlock()
	err := posixSetlk(l.h.fd, lockType(shared), true)
	f.mu.Lock()
	f.waits[kind]--
	if l.left || len(f.queue) == 0 || f.queue[0] != l || f.holders > 0 {
		// What is granted now is not ours to take. Who is first may have seen that he
		// had to wait for us.
		if settleErr := f.settleLocked(l.h.fd); err == nil {
			err = settleErr
		}
		f.wakeLocked()
	}
	return err
}

// pauseFor is pause, unless there is a reason to look again.
func (p *pauser) pauseFor(turn <-chan struct{}) {
	p.tries++
	select {
	case <-turn:
	case <-time.After(min(20*time.Microsecond<<min(p.tries, 16), maxPause)):
	}
}

func (l *posixLock) settle(bool) error { return nil }

// leave interrupts await, unless it waits for another process. That wait goes on, and
// is behind nobody and before nobody.
func (l *posixLock) leave() {
	f := posixFiles.file(l.h.fileID)
	defer posixFiles.done(f)
	if l.waits && !l.left {
		l.left = true
		f.dequeueLocked(l)
		l.wake()
	}
}

// rejoin takes a place at the end.
func (l *posixLock) rejoin() {
	f := posixFiles.file(l.h.fileID)
	defer posixFiles.done(f)
	if l.waits && l.left {
		l.left = false
		f.enqueueLocked(l)
	}
}

func (l *posixLock) unlock() error {
	t := &posixFiles
	f := t.file(l.h.fileID)
	defer t.done(f)
	if !l.held {
		return nil
	}
	l.held = false
	if f.holders--; f.holders > 0 {
		return nil
	}
	t.held.Add(-1)
	err := f.settleLocked(l.h.fd)
	parked := f.parked
	f.parked = nil
	_ = f.closeUnlocked(parked...)
	return err
}

// closeUnlocked closes descriptors, with f unlocked. Nobody takes the lock meanwhile.
func (f *posixFile) closeUnlocked(ps ...parkedFile) (err error) {
	if len(ps) > 0 {
		f.closing++
		f.mu.Unlock() // it may take long, on a network file system
		for _, p := range ps {
			if e := unix.Close(p.fd); err == nil {
				err = e
			}
		}
		f.mu.Lock()
		f.closing--
	}
	f.wakeLocked()
	return err
}

// close gives up the place in the queue too, if enter has been called and await has not.
func (l *posixLock) close() error {
	err := l.unlock()
	f := posixFiles.file(l.h.fileID)
	f.dequeueLocked(l)
	posixFiles.done(f)
	return err
}

// probe asks the table, and the kernel about other processes.
func (l *posixLock) probe() (State, error) {
	st, pid, err := l.look()
	l.pid = pid
	return st, err
}

func (l *posixLock) peer() int { return l.pid }

func (l *posixLock) look() (st State, pid int, err error) {
	f := posixFiles.file(l.h.fileID)
	ours, exclusive := f.holders > 0, f.exclusive
	posixFiles.done(f)
	if ours {
		if exclusive {
			return Exclusive, os.Getpid(), nil
		}
		return Shared, os.Getpid(), nil
	}
	lk, err := posixCalls.getlk(l.h.fd, unix.F_WRLCK, 0, 1)
	pid = max(int(lk.Pid), 0) // -1: of a file description
	switch {
	case err != nil:
		return Unseen, 0, err
	case lk.Type == unix.F_UNLCK:
		return Free, 0, nil
	case lk.Type == unix.F_RDLCK:
		return Shared, pid, nil
	case lk.Start != 0 || lk.Len != 1 || lk.Pid == -1:
		return Foreign, pid, nil
	}
	return Exclusive, pid, nil
}

// closeFile closes a descriptor of the lock file, at once or when that releases no lock
// of this process. All descriptors of lock files are closed by it, whatever the mechanism
// is: they may have been opened to find that out. Not so those that [Lock.Inherit] makes,
// of locks that are not POSIX, and those that only their makers know: of the files on
// which locks are tried, and of one that is made with its header.
func closeFile(id fileID, p parkedFile) error {
	f := posixFiles.file(id)
	defer posixFiles.done(f)
	if f.holders > 0 {
		f.parked = append(f.parked, p)
		return nil
	}
	return f.closeUnlocked(p)
}

// parkedFD returns a descriptor of the file that path names which was to be closed.
func parkedFD(path string, write bool) (int, bool) {
	t := &posixFiles
	if t.held.Load() == 0 {
		return 0, false
	}
	id, err := identify(path)
	if err != nil {
		return 0, false
	}
	f := t.file(id)
	defer t.done(f)
	for i, p := range f.parked {
		if !p.spent && (!write || writable(p.fd)) {
			f.parked = append(f.parked[:i:i], f.parked[i+1:]...)
			return p.fd, true
		}
	}
	return 0, false
}

func writable(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_ACCMODE == unix.O_RDWR
}
