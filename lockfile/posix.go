//go:build unix

package lockfile

import (
	"fmt"
	"io"
	"io/fs"
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
// or releases it, does so with the table locked: what the table says is held is held.
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
	mu    sync.Mutex // held for no call that waits
	files map[fileID]*posixFile
	held  atomic.Int32 // files of which a lock is held; for those who need not look if there are none
}

// A posixFile is what the process has to do with a file. It is in the table as long as
// there is something.
type posixFile struct {
	holders   int  // handles that have the lock
	exclusive bool // they are one, and have it exclusively
	queue     []*posixLock
	waits     [2]int // in F_SETLKW, for an exclusive and for a shared lock
	closing   int    // descriptors that are being closed
	awaits    int    // calls of await
	parked    []parkedFile
}

// A parkedFile is to be closed.
type parkedFile struct {
	fd       int
	writable bool
	close    func() error // of an os.File, which nobody else can use
}

type posixLock struct {
	h *handle

	// Protected by posixFiles.mu.
	held   bool
	shared bool
	waits  bool          // between enter and the end of await; then only leave and rejoin mean anything
	left   bool          // nobody wants what await waits for
	queued bool          // in the queue
	turn   chan struct{} // of capacity 1: look again
	file   *os.File      // made by stat
}

func posixSetlk(fd int, typ int16, wait bool) error {
	cmd := unix.F_SETLK
	if wait {
		cmd = unix.F_SETLKW
	}
	err := ignoringEINTR(func() error {
		lk := unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: 0, Len: 1}
		return unix.FcntlFlock(uintptr(fd), cmd, &lk)
	})
	if !wait && (err == unix.EAGAIN || err == unix.EACCES) {
		return errBusy
	}
	return err
}

func posixType(shared bool) int16 {
	if shared {
		return unix.F_RDLCK
	}
	return unix.F_WRLCK
}

// fileLocked returns what the table has on a file, and puts it there. The caller calls
// forgetLocked.
func (t *posixTable) fileLocked(id fileID) *posixFile {
	f := t.files[id]
	if f == nil {
		f = &posixFile{}
		t.files[id] = f
	}
	return f
}

func (t *posixTable) forgetLocked(id fileID, f *posixFile) {
	if f.holders == 0 && len(f.queue) == 0 && f.waits == [2]int{} && f.closing == 0 && f.awaits == 0 {
		delete(t.files, id)
	}
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
		if err := posixSetlk(l.h.fd, posixType(shared), false); err != nil {
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
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.fileLocked(l.h.fileID)
	defer t.forgetLocked(l.h.fileID, f)
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
	t := &posixFiles
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.files[l.h.fileID]; f != nil && len(f.queue) > 0 && !l.h.opts.NoQueue {
		return errBusy
	}
	return nil
}

func (l *posixLock) await(shared bool) error {
	t := &posixFiles
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.fileLocked(l.h.fileID)
	f.awaits++
	defer func() {
		f.awaits--
		l.waits = false
		f.dequeueLocked(l)
		t.forgetLocked(l.h.fileID, f)
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
			t.mu.Unlock()
			<-l.turn
			t.mu.Lock()
			continue
		}
		switch err := l.waitLocked(f, shared); err {
		case nil, unix.EDEADLK:
			if err != nil {
				t.mu.Unlock()
				pause.pauseFor(l.turn)
				t.mu.Lock()
			}
		default:
			if l.left {
				return errBusy
			}
			return err
		}
	}
}

// waitLocked waits until no other process is in the way, without the table.
func (l *posixLock) waitLocked(f *posixFile, shared bool) error {
	kind := 0
	if shared {
		kind = 1
	}
	f.waits[kind]++
	posixFiles.mu.Unlock()
	err := posixSetlk(l.h.fd, posixType(shared), true)
	posixFiles.mu.Lock()
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
	t := &posixFiles
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.files[l.h.fileID]; f != nil && l.waits && !l.left {
		l.left = true
		f.dequeueLocked(l)
		l.wake()
	}
}

// rejoin takes a place at the end.
func (l *posixLock) rejoin() {
	t := &posixFiles
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.files[l.h.fileID]; f != nil && l.waits && l.left {
		l.left = false
		f.enqueueLocked(l)
	}
}

func (l *posixLock) unlock() error {
	t := &posixFiles
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[l.h.fileID]
	if f == nil || !l.held {
		return nil
	}
	defer t.forgetLocked(l.h.fileID, f)
	l.held = false
	if f.holders--; f.holders > 0 {
		return nil
	}
	t.held.Add(-1)
	err := f.settleLocked(l.h.fd)
	for _, p := range f.parked {
		_ = p.shut()
	}
	f.parked = nil
	f.wakeLocked()
	return err
}

func (p parkedFile) shut() error {
	if p.close != nil {
		return p.close()
	}
	return unix.Close(p.fd)
}

// close gives up the place in the queue too, if enter has been called and await has not.
func (l *posixLock) close() error {
	err := l.unlock()
	t := &posixFiles
	t.mu.Lock()
	if f := t.files[l.h.fileID]; f != nil {
		f.dequeueLocked(l)
		t.forgetLocked(l.h.fileID, f)
	}
	file := l.file
	l.file = nil
	t.mu.Unlock()
	if file != nil {
		_ = closeFile(l.h.fileID, parkedFile{close: file.Close})
	}
	return err
}

// stat makes one os.File for all calls, since it cannot be closed.
func (l *posixLock) stat(name string) (fs.FileInfo, error) {
	t := &posixFiles
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.file == nil {
		fd, err := unix.FcntlInt(uintptr(l.h.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
		}
		l.file = os.NewFile(uintptr(fd), name)
	}
	return l.file.Stat()
}

// probe asks the table, and the kernel about other processes.
func (l *posixLock) probe() (State, error) {
	st, _, err := l.look()
	return st, err
}

// peer tells which process has the lock; its user is not known.
func (l *posixLock) peer() (pid, uid int, ok bool) {
	st, pid, err := l.look()
	return pid, -1, err == nil && st != Free && pid > 0
}

func (l *posixLock) look() (st State, pid int, err error) {
	t := &posixFiles
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.files[l.h.fileID]; f != nil && f.holders > 0 {
		if f.exclusive {
			return Exclusive, os.Getpid(), nil
		}
		return Shared, os.Getpid(), nil
	}
	var lk unix.Flock_t
	err = ignoringEINTR(func() error {
		lk = unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: 0, Len: 1}
		return unix.FcntlFlock(uintptr(l.h.fd), unix.F_GETLK, &lk)
	})
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
// of this process. All descriptors of lock files are closed by it, whatever the
// mechanism is: they may have been opened to find that out.
func closeFile(id fileID, p parkedFile) error {
	t := &posixFiles
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.fileLocked(id)
	defer t.forgetLocked(id, f)
	if f.holders > 0 {
		f.parked = append(f.parked, p)
		return nil
	}
	f.closing++
	t.mu.Unlock() // it may take long, on a network file system
	err := p.shut()
	t.mu.Lock()
	f.closing--
	f.wakeLocked()
	return err
}

// parkedFD returns a descriptor of the file that path names which was to be closed.
func parkedFD(path string, write bool) (int, bool) {
	t := &posixFiles
	if t.held.Load() == 0 {
		return 0, false
	}
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Lstat(path, &st) }); err != nil {
		return 0, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[fileID{uint64(st.Dev), uint64(st.Ino)}]
	if f == nil {
		return 0, false
	}
	for i, p := range f.parked {
		if p.close == nil && (p.writable || !write) {
			f.parked = append(f.parked[:i:i], f.parked[i+1:]...)
			return p.fd, true
		}
	}
	return 0, false
}
