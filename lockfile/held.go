package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Lock is a lock that is held, until Unlock is called or the process ends. It is
// not released when it becomes unreachable.
//
// A Lock may be used by several goroutines at once, and unlocked by another than
// the one that obtained it.
type Lock struct {
	f       *File
	shared  bool
	purpose string
	id      fileID          // of the locked file
	parent  context.Context // what Context is derived from
	gone    <-chan struct{} // closed when the mechanism knows that the lock is lost; nil if it does not tell

	// io is held in all that is done with the file, which may block for long if that
	// is on a server. It is taken before mu, and protects h, which Unlock gives up
	// last, given and recorded.
	io       sync.Mutex
	h        *handle
	given    []*os.File // descriptors for children, see Inherit
	recorded bool       // the holder's record is this Lock's, and to be cleared

	since time.Time   // when it was taken
	later *time.Timer // records the holder, with Options.RecordAfter; else nil

	mu       sync.Mutex                // protects what follows
	released bool                      // or being released
	lost     error                     // that it was lost, once that has been seen
	ctx      context.Context           // nil until Context is called
	cancels  []context.CancelCauseFunc // of all contexts that end with the lock
	stop     chan struct{}             // ends watch; nil if that does not run, and then there are no cancels
}

// handedOver is what an unlocking happens before, and a locking after, in the terms of the
// Go memory model: that knows nothing of locks on files. So it does not matter whether
// two goroutines of a process lock by the same File.
var handedOver atomic.Uint64

// newLock makes the holder known, or sees to it.
func (f *File) newLock(ctx context.Context, h *handle, shared bool, purpose string) *Lock {
	handedOver.Load()
	l := &Lock{f: f, shared: shared, purpose: purpose, id: h.fileID, parent: ctx, h: h}
	if m, ok := h.locker.(losable); ok {
		l.gone = m.lost()
	}
	switch {
	case shared:
	case f.opts.NoRecord:
		h.tidy()
	case f.opts.RecordAfter > 0:
		h.tidy()
		l.since = time.Now()
		l.later = time.AfterFunc(f.opts.RecordAfter, l.recordLate)
	default:
		l.since = time.Now()
		_ = l.record(h)
	}
	return l
}

// record records the holder. It is called with l.io held, or by newLock.
func (l *Lock) record(h *handle) error {
	l.recorded = true
	return h.announce(l.purpose, l.since)
}

// recordLate records the holder, for other machines too. As everywhere, the record is a
// courtesy; but see write.
func (l *Lock) recordLate() {
	_ = l.write("record", func(h *handle) error {
		if !l.recorded { // Inherit may have done it, and not flushed it
			if err := l.record(h); err != nil {
				return err
			}
		}
		return h.sync()
	})
}

func (h *handle) sync() error { return ignoringEINTR(func() error { return unix.Fsync(h.fd) }) }

// Unlock releases the lock. It does so once: every further call changes nothing
// and returns an error that wraps [ErrReleased]. After any other error the lock
// is released nevertheless, a link lock as soon as the file system lets it, which is
// tried in the background; one that wraps [ErrLost] says that it was not held all the time.
//
// The lock's context ends before anybody else can have the lock. After
// [Lock.Inherit] the lock is released only when the children have ended too.
func (l *Lock) Unlock() error {
	l.mu.Lock()
	if l.released {
		l.mu.Unlock()
		return l.f.error("unlock", ErrReleased)
	}
	l.released = true
	if l.stop != nil {
		l.endLocked(l.f.error("lock", ErrReleased))
	}
	l.mu.Unlock()
	if l.later != nil {
		l.later.Stop()
	}

	l.io.Lock()
	defer l.io.Unlock()
	for _, file := range l.given {
		file.Close()
	}
	l.given = nil
	lost := l.h.held()
	if errors.Is(l.lost, ErrLost) {
		lost = ErrLost // and perhaps we have it again
	}
	// The record stays for as long as the children have the lock, and is not ours
	// to clear once somebody else has it.
	if l.recorded && !l.inherited() && lost == nil {
		l.h.withdraw()
	}
	h := l.h
	l.h = nil
	handedOver.Add(1)
	err := l.f.release(h)
	if err == nil && errors.Is(lost, ErrLost) {
		err = lost
	}
	if err != nil {
		return l.f.error("unlock", err)
	}
	return nil
}

// Check reports whether the lock is still what it was when it was taken. If the path
// does not name the file that is locked, by device and inode, or the file says by now
// that it is used with another mechanism, the error wraps [ErrReplaced], and another
// process may by now hold the lock on the new file. If
// somebody else may have the lock on this file, the error wraps [ErrLost]. Check looks
// each time that it is called, and what it has once found remains so.
//
// If the file system does not answer, Check waits, but with a lease not for longer than
// the lock is held.
func (l *Lock) Check() error {
	if err := l.known("check"); err != nil {
		return err
	}
	var err error
	if l.gone == nil {
		err = l.stillHeld()
	} else {
		found := make(chan error, 1)
		go func() { found <- l.stillHeld() }()
		select {
		case err = <-found:
		case <-l.gone:
			err = ErrLost
		}
	}
	if errors.Is(err, ErrReplaced) || errors.Is(err, ErrLost) {
		l.lose(l.f.error("check", err))
	}
	if known := l.known("check"); known != nil || err == nil {
		return known
	}
	return l.f.error("check", err)
}

// known returns the error of a lock that is known to be held no more.
func (l *Lock) known(op string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return l.f.error(op, ErrReleased)
	}
	return l.lost
}

// stillHeld finds out whether the lock is still what it was.
func (l *Lock) stillHeld() error {
	l.io.Lock()
	defer l.io.Unlock()
	if l.h == nil {
		return ErrReleased
	}
	if err := l.h.held(); err != nil {
		return err
	}
	same, err := l.h.named(l.f.path)
	if err == nil && !same {
		err = ErrReplaced
	}
	if err != nil {
		return err
	}
	return l.h.sameMechanism()
}

// sameMechanism returns an error if the header names another mechanism by now, so that
// others do not see this lock. A header that is gone is written anew with the next lock.
func (h *handle) sameMechanism() error {
	var b [headerSize]byte
	n, err := h.readAt(b[:], 0)
	if err != nil {
		return err
	}
	switch m, err := checkHeader(b[:n]); {
	case errors.Is(err, ErrNotLockFile):
		return h.overwritten() // or it was cut off
	case err == nil && m != Auto && m != h.mechanism:
		return fmt.Errorf("%w: by one that is used with %v locks", ErrReplaced, m)
	case err == nil && m == TCP && headerPort(b[:]) != 0 && headerPort(b[:]) != h.port:
		return fmt.Errorf("%w: by one that is used with port %d", ErrReplaced, headerPort(b[:]))
	}
	return nil
}

// overwritten returns an error if the file does not hold what a lock file does.
func (h *handle) overwritten() error {
	_, mine, err := h.readHead(fileSize + 1)
	if err == nil && !mine {
		err = fmt.Errorf("%w: something else was written into it", ErrReplaced)
	}
	return err
}

// lose notes that the lock, if it is not released, was lost.
func (l *Lock) lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.released && l.lost == nil {
		l.lost = err
		l.endLocked(err)
	}
}

// Context returns a context for the work that the lock protects. It is derived from
// the context that was given to Lock, and so has its values and ends when that does;
// after a try it is derived from [context.Background]. It also ends when the lock is
// unlocked or lost, and context.Cause then returns an error that names the lock file
// and wraps
//
//   - [ErrReleased] after [Lock.Unlock],
//   - [ErrReplaced] when the lock file has been deleted or replaced, which is looked
//     at about once a second, and whenever Check is called,
//   - [ErrLost] when the lock itself was lost, at once if the mechanism knows it.
//
// A deadline for Lock is therefore one for the work. Who wants to limit the wait only
// gives Lock a context that can be cancelled, has a timer cancel it, and stops the timer
// when he has the lock.
//
// Every call returns the same context. From the first call on, until Unlock, a
// goroutine keeps watch; who does not call Context pays nothing for it.
//
// A Lock call with this context, or one derived from it, on the same lock file fails
// with [ErrNested] until this lock is unlocked.
func (l *Lock) Context() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil {
		l.ctx = l.deriveLocked(l.parent)
	}
	return l.ctx
}

func (l *Lock) deriveContext(parent context.Context) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deriveLocked(parent)
}

// deriveLocked returns a context derived from parent that ends with the lock, and
// says that the lock is held.
func (l *Lock) deriveLocked(parent context.Context) context.Context {
	outer, _ := parent.Value(heldKey{}).(*heldLocks)
	ctx, cancel := context.WithCancelCause(context.WithValue(parent, heldKey{}, &heldLocks{l, outer}))
	switch {
	case l.released:
		cancel(l.f.error("lock", ErrReleased))
	case l.lost != nil:
		cancel(l.lost)
	default:
		l.cancels = append(l.cancels, cancel)
		if l.stop == nil {
			l.stop = make(chan struct{})
			go l.watch(l.stop, watchPeriod)
		}
	}
	return ctx
}

// endLocked ends the contexts and the watch.
func (l *Lock) endLocked(cause error) {
	for _, cancel := range l.cancels {
		cancel(cause)
	}
	l.cancels = nil
	if l.stop != nil {
		close(l.stop)
		l.stop = nil
	}
}

// watchPeriod is how often it is looked at whether a path still names the file that is
// locked or waited for. There is no notification of that on network file systems.
// Tests make it shorter.
var watchPeriod = time.Second

// watch ends the contexts when the lock is lost, until stop is closed. A look may take
// as long as the file system likes, and does not keep it from hearing what is known.
func (l *Lock) watch(stop <-chan struct{}, period time.Duration) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	looking := make(chan struct{}, 1)
	for {
		select {
		case <-stop:
			return
		case <-l.gone:
			l.lose(l.f.error("lock", ErrLost))
			return
		case <-tick.C:
		}
		select {
		case looking <- struct{}{}:
			go func() {
				_ = l.Check() // ends the contexts; if it cannot tell, it may the next time
				<-looking
			}()
		default: // the last one goes on
		}
	}
}

// heldLocks is the value for heldKey of a context: the locks that are held by whose
// work it is for. Some may have been released since.
type heldLocks struct {
	l     *Lock
	outer *heldLocks
}

type heldKey struct{}

// checkNested returns an error if ctx says that the lock is held on the file that the
// path names now.
func (f *File) checkNested(ctx context.Context) error {
	held, _ := ctx.Value(heldKey{}).(*heldLocks)
	if held == nil {
		return nil
	}
	id, err := identify(f.path)
	if err != nil {
		return nil // there is none that could be held; or locking it will say why not
	}
	for ; held != nil; held = held.outer {
		l := held.l
		if l.id != id || l.isReleased() {
			continue
		}
		if err := f.checkOpen("lock"); err != nil {
			return err
		}
		how := "exclusively"
		if l.shared {
			how = "shared"
		}
		if l.f.path != f.path {
			how += ", as " + l.f.name
		}
		if l.purpose != "" {
			how += ", for " + l.purpose
		}
		return f.error("lock", fmt.Errorf("%w: the context is that of work under this lock, which is held %s", ErrNested, how))
	}
	return nil
}

func (l *Lock) isReleased() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.released
}

// use calls fn with the handle, unless the lock is released.
func (l *Lock) use(op string, fn func(h *handle) error) error {
	l.io.Lock()
	defer l.io.Unlock()
	if l.isReleased() {
		return l.f.error(op, ErrReleased)
	}
	if err := fn(l.h); err != nil {
		return l.f.error(op, err)
	}
	return nil
}

// Do takes the lock exclusively, as [File.Lock] does, calls fn, and releases the lock,
// also if fn panics or calls [runtime.Goexit]. The context that fn gets is
// [Lock.Context]: it is derived from ctx, so that a deadline for the wait is one for fn
// too, and ends when the lock is lost.
//
// If the lock cannot be had, Do returns the error of Lock, and fn is not called.
// Otherwise Do returns what fn returns. If the lock is found lost when fn has
// returned, or releasing it fails, the errors are joined to fn's, with [errors.Join].
//
// So an error that wraps [ErrLocked] is that of Lock unless fn returns such an error
// of its own, of another lock perhaps. Where that is possible, let fn set a variable
// that says that it was called.
func (f *File) Do(ctx context.Context, purpose string, fn func(ctx context.Context) error) error {
	return f.do(ctx, false, purpose, fn)
}

// RDo is like [File.Do] with a shared lock, as [File.RLock] takes.
func (f *File) RDo(ctx context.Context, purpose string, fn func(ctx context.Context) error) error {
	return f.do(ctx, true, purpose, fn)
}

func (f *File) do(ctx context.Context, shared bool, purpose string, fn func(ctx context.Context) error) (err error) {
	l, err := f.lock(ctx, shared, purpose)
	if err != nil {
		return err
	}
	defer func() {
		lost := l.Check()
		released := l.Unlock()
		if errors.Is(lost, ErrLost) && errors.Is(released, ErrLost) {
			released = nil // it says the same
		}
		if lost != nil && errors.Is(err, lost) {
			lost = nil // fn has returned the cause of its context's end
		}
		if lost != nil || released != nil {
			err = errors.Join(err, lost, released)
		}
	}()
	return fn(l.Context())
}

// Stat describes the locked file, which need not be the one that the path names
// now: see [Lock.Check]. Its Sys is a *syscall.Stat_t; os.SameFile does not know it.
func (l *Lock) Stat() (info fs.FileInfo, err error) {
	err = l.use("stat", func(h *handle) error {
		info, err = h.stat()
		return err
	})
	return info, err
}

// WriteData stores p, at most [MaxData] bytes that belong to the application, in
// the lock file, in place of what was there. It needs an exclusive lock, and fails if
// that is known to be lost.
//
// The bytes outlive the lock and the process. A process that is killed in
// WriteData leaves the old bytes or the new ones. WriteData does not flush: after
// a loss of power there may be either, or none, or a checksum that does not match.
func (l *Lock) WriteData(p []byte) error {
	switch {
	case l.isReleased():
		return l.f.error("write", ErrReleased)
	case l.shared:
		return l.f.error("write", errors.New("the lock is shared"))
	case len(p) > MaxData:
		return l.f.error("write", fmt.Errorf("%d bytes of data, of at most %d", len(p), MaxData))
	}
	return l.write("write", func(h *handle) error { return h.writeAt(encodeData(p), dataOffset) })
}

// ReadData returns what [Lock.WriteData] has stored, as [File.ReadData] does. With kernel
// locks it does not open the file anew: over NFS to take such a lock makes the client forget
// what it knew of the file.
func (l *Lock) ReadData() (data []byte, err error) {
	err = l.use("read", func(h *handle) error {
		if !h.mechanism.ofKernel() {
			data, err = readData(l.f.path)
			return err
		}
		var b [dataSize]byte
		if _, err := h.readAt(b[:], dataOffset); err != nil {
			return err
		}
		data, err = decodeData(b[:])
		return err
	})
	return data, err
}

// Sync flushes what was written to the lock file: by WriteData, and the holder's
// record, which it writes once more if there is one of this lock's. On NFS 4 an error of
// WriteData or Sync such as EIO is how a client learns that the lease of its locks ran
// out, and that somebody else may have, or have had, the lock; who still has it can
// write.
func (l *Lock) Sync() error {
	return l.write("sync", func(h *handle) error {
		if l.recorded {
			if err := h.writeRecord(); err != nil {
				return err
			}
		}
		return h.sync()
	})
}

// write is use for what writes to the file: not if the lock is known to be lost, or
// something else is in the file. After an error the handle is closed when the lock is
// released, so that it is found out what is the matter.
func (l *Lock) write(op string, fn func(h *handle) error) error {
	return l.use(op, func(h *handle) error {
		err := h.held()
		if err == nil {
			err = h.overwritten()
		}
		if err == nil {
			err = fn(h)
		}
		if err != nil {
			h.spoiled.Store(true)
		}
		return err
	})
}
