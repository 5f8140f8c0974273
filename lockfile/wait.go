package lockfile

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"
)

// How a File's goroutines wait.
//
// A thread that is blocked on a file lock cannot be called back: not by a signal,
// since Go restarts system calls, nor by closing the descriptor. So waiters block
// on channels, and two goroutines a File, the acquirers, block on the file lock for
// all of them: one to lock it exclusively, the other to lock it shared. The one
// that the first waiter needs is at work; when it has the lock it hands it to the
// first waiter still there, and if that is none of its own it gives it back.
//
// When an acquirer is not needed any more it stays blocked, unless the mechanism can
// interrupt it, but its place in the queue is given up at once (locker.leave): nobody,
// in this process or another, waits behind an abandoned wait. That is why there are
// two: who is first after a writer has given up may be able to share, and must not
// wait for what only the writer had to wait for. The next waiter of the kind takes the
// blocked acquirer over and puts it back in the queue (locker.rejoin).
//
// Each locked handle is a file description of its own, so that the kernel excludes
// the goroutines of one process, and the Files of one process, as it does
// processes. There is no second bookkeeping of who may hold the lock.
//
// The race detector does not know of file locks. File.mu is held after each
// acquisition and before each release, which orders them in its eyes too.

// A locker is what a mechanism adds to a handle: one place to hold a lock from, or to
// wait for one. Locks exclude those of all other handles of the same file, in
// whatever process, and end with the process.
//
// The operations are called one at a time, except as said of leave, rejoin and probe.
// Any of them may return an error of the operating system, upon which the handle is
// closed. A mechanism whose locks cannot be shared returns from attempt, enter and
// await, if they are to share, an error that wraps errors.ErrUnsupported and names the
// mechanism; join and settle are then not called for a shared lock.
type locker interface {
	// attempt takes the lock if that is possible at once, and nobody waits for it
	// who could be seen. Otherwise it returns errBusy, and has neither a lock nor a
	// place in the queue. It is called with File.mu held, and must not block. On a handle
	// that lingers only a try does so; else it may take as long as the file system does.
	attempt(shared bool) error

	// join is called on a handle that is locked shared, and finds out whether
	// another user may share that lock. If somebody waits, it returns errBusy, or
	// streams of readers would starve writers. The lock is kept in any case. It is
	// called with File.mu held, and must not block.
	join() error

	// enter takes a place in the queue, if there is one and it can be had soon, and
	// returns errBusy; then await follows, or close. It may take the lock instead, if
	// that is possible at once. It may wait, but only for what nobody holds for
	// long: the waiter who gives up meanwhile is answered, but his File does not
	// wait for a lock of this kind for another until enter returns.
	enter(shared bool) error

	// await follows upon enter, and waits until it has the lock. It may return
	// errBusy, without a lock or a place in the queue, if leave was called since
	// enter, and for no other reason, or the acquirer would never rest. The acquirer
	// then closes the handle, and if by now there is a waiter again starts anew.
	await(shared bool) error

	// settle follows upon await, and gives up what is in the way of those who may
	// share the lock.
	settle(shared bool) error

	// leave is called while await is, or is about to be, and says that nobody wants
	// what it waits for. From then on nobody may have to wait behind it. If await
	// can be interrupted it returns errBusy soon. If it cannot, the place in the
	// queue is given up, and await goes on: if it gets the lock, the acquirer releases
	// it at once. leave may be called again and again, and must not block.
	leave()

	// rejoin takes leave back, if it was called. It may come too late: when await has
	// been interrupted it returns errBusy nevertheless, and that is not lost,
	// since the acquirer looks whether there is a waiter after await has returned.
	// rejoin may be called again and again, and must not block.
	//
	// leave and rejoin are called with File.mu held, which await is not.
	rejoin()

	// unlock releases the lock, after which the handle can be used anew. An error that
	// wraps ErrLost says that somebody else has had the lock since it was taken.
	unlock() error

	// probe looks at the lock without touching it. It is called on a handle of its
	// own, on which nothing else is called but close, and which may be open for
	// reading only.
	probe() (State, error)

	// close releases what the locker has besides the descriptor of the lock file,
	// which is closed next, and with it the lock and the place in the queue. It may
	// be called at any time, but not during await.
	close() error
}

// A losable is a locker whose lock can be lost while it is held, in another way than by
// the death of the process. Its operations are called while the lock is held, by several
// goroutines at once, and beside nothing but each other and join.
type losable interface {
	// check finds out whether the lock is still held. If it is not, the error wraps
	// ErrLost; other errors mean that it cannot tell.
	check() error

	// lost returns a channel that is closed when the lock is known to be lost, and nil
	// if only check tells. Each time that the lock is taken it is another.
	lost() <-chan struct{}
}

// held asks the locker, if its locks can be lost, whether this one was.
func (h *handle) held() error {
	if m, ok := h.locker.(losable); ok {
		return m.check()
	}
	return nil
}

// A waiter is a goroutine waiting for a lock.
type waiter struct {
	shared bool
	elem   *list.Element // in File.waiters; nil once the waiter has been answered
	answer chan answer   // of capacity 1
}

type answer struct {
	h   *handle
	err error
}

func (f *File) lock(ctx context.Context, shared bool, purpose string) (*Lock, error) {
	if err := ctx.Err(); err != nil {
		return nil, f.ended(err)
	}
	if err := f.checkNested(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	h, err := f.attemptLocked(shared, false)
	if !errors.Is(err, errBusy) {
		f.mu.Unlock()
		if err != nil {
			return nil, err
		}
		return f.newLock(ctx, h, shared, purpose), nil
	}
	w := f.enqueueLocked(shared)
	f.mu.Unlock()
	if f.opts.OnWait != nil {
		defer f.tell(w)()
	}

	var a answer
	select {
	case a = <-w.answer:
	case <-ctx.Done():
		if f.giveUp(w) {
			return nil, f.held(ctx.Err())
		}
		a = <-w.answer // it came first
	}
	if a.err != nil {
		return nil, a.err
	}
	if f.opts.RecordAfter > 0 && !shared {
		a.h.swept = false // who had it may have died
	}
	return f.newLock(ctx, a.h, shared, purpose), nil
}

// settleTime bounds how long a try looks on while the lock changes hands. The
// lock is then locked by someone who has not said so yet, or is free while the
// first waiter is being woken, or is being given back by an acquirer whose waiters
// have gone: states that last for microseconds unless a process is suspended in
// one, and in which it cannot be told whether the lock is held. (With Options.RecordAfter
// or NoRecord who holds it may never say so: then each try takes so long.)
const settleTime = 5 * time.Millisecond

func (f *File) try(shared bool, purpose string) (*Lock, error) {
	var began time.Time
	for {
		f.mu.Lock()
		h, err := f.attemptLocked(shared, true)
		f.mu.Unlock()
		if err == nil {
			return f.newLock(context.Background(), h, shared, purpose), nil
		}
		if !errors.Is(err, errBusy) {
			return nil, err
		}
		s := f.look()
		if began.IsZero() {
			began = time.Now()
		}
		// Who shares is not in the way of who wants to. Somebody waits, for long, or he is
		// just passing through the queue or the turnstile.
		passing := shared && (s.state == Shared || s.state == Unseen)
		if s.settled && !passing || time.Since(began) > settleTime {
			return nil, &HeldError{Path: f.name, Holder: s.holder, Known: s.known}
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// ended makes the error of a call with a context that err has ended already.
func (f *File) ended(err error) error {
	if err := f.checkOpen("lock"); err != nil {
		return err
	}
	if s := f.look(); s.known {
		return &HeldError{Path: f.name, Holder: s.holder, Known: true, Err: err}
	}
	return f.error("lock", fmt.Errorf("did not wait: %w", err))
}

// held makes the error of a wait that err ended.
func (f *File) held(err error) error {
	s := f.look()
	return &HeldError{Path: f.name, Holder: s.holder, Known: s.known, Err: err}
}

// look is for the text of an error, and has none of its own. One goroutine looks
// at a time: thousands whose contexts end together would otherwise need a thread
// and a descriptor each. And those who come while one looks share the next look: it
// may take milliseconds, and what began before they came may be out of date.
func (f *File) look() status {
	f.nextMu.Lock()
	if f.next == nil {
		f.next = &sharedLook{}
	}
	l := f.next
	f.nextMu.Unlock()
	l.once.Do(func() {
		f.looking.Lock()
		defer f.looking.Unlock()
		f.nextMu.Lock()
		f.next = nil
		f.nextMu.Unlock()
		l.status, _ = look(f.path)
	})
	return l.status
}

// A sharedLook is made by the first of those who want it.
type sharedLook struct {
	once   sync.Once
	status status
}

// maxReplaced is how often in a row a file that was just opened may turn out not to be
// the one that the path names.
const maxReplaced = 100

// attemptLocked takes the lock if it is to be had without waiting, behind nobody.
// Otherwise it returns errBusy; so it does, unless mayOpen, if that may take long: if the
// file has to be opened for that, which lets go of f.mu, or the handle lingers. Then the
// acquirer does it.
func (f *File) attemptLocked(shared, mayOpen bool) (*handle, error) {
	if f.opts.ReadOnly && !shared {
		return nil, f.error("lock", errReadOnly)
	}
	if f.closed {
		return nil, f.error("lock", fs.ErrClosed)
	}
	if f.waiters.Len() > 0 {
		return nil, errBusy
	}
	if h := f.joinable; shared && h != nil {
		same, err := h.named(f.path)
		if err == nil && same {
			if err = h.join(); err == nil {
				h.users++
				return h, nil
			}
		}
		if err != nil {
			return nil, f.lockError(err)
		}
	}
	for try := 0; ; try++ {
		if n := len(f.spare); !mayOpen && (n == 0 || f.spare[n-1].lingers) {
			return nil, errBusy
		}
		h, err := f.handleLocked()
		if err != nil {
			return nil, err
		}
		if try == maxReplaced {
			h.close()
			return nil, f.alwaysReplaced()
		}
		if err := h.attempt(shared); err != nil {
			switch {
			case !errors.Is(err, errBusy):
				h.close()
			case h.outdated(f.path):
				h.close()
				continue // who has the old file is not in the way
			default:
				f.putLocked(h)
			}
			return nil, f.lockError(err)
		}
		same, err := h.named(f.path)
		if err == nil && same {
			f.takenLocked(h, shared)
			return h, nil
		}
		h.close() // releases
		if err != nil {
			return nil, f.lockError(err)
		}
	}
}

func (f *File) alwaysReplaced() error {
	return f.error("lock", fmt.Errorf("%w, again and again: or the file system has no lasting inode numbers", ErrReplaced))
}

// takenLocked notes that h is locked.
func (f *File) takenLocked(h *handle, shared bool) {
	h.users = 1
	if shared {
		f.joinable = h
	}
}

// release gives up one use of a locked handle, and the lock with the last.
func (f *File) release(h *handle) error {
	f.mu.Lock()
	h.users--
	if h.users > 0 {
		f.mu.Unlock()
		return nil
	}
	if f.joinable == h {
		f.joinable = nil
	}
	inherited := h.inherited
	f.mu.Unlock()

	if inherited {
		return h.close() // to unlock would take the lock from the children too
	}
	err := h.unlock()
	if err != nil || h.spoiled.Load() {
		h.close() // which releases too
		return err
	}
	f.mu.Lock()
	f.putLocked(h)
	f.mu.Unlock()
	return nil
}

// maxSpare is enough for a holder and an acquirer to take turns.
const maxSpare = 2

// handleLocked returns a handle that is not locked. If there is no spare one, it lets go
// of f.mu while it opens the file.
func (f *File) handleLocked() (*handle, error) {
	if n := len(f.spare); n > 0 {
		h := f.spare[n-1]
		f.spare = f.spare[:n-1]
		return h, nil
	}
	f.mu.Unlock()
	h, err := f.open()
	f.mu.Lock()
	if err == nil && f.closed {
		h.close()
		return nil, f.error("lock", fs.ErrClosed)
	}
	return h, err
}

// putLocked takes back a handle that is not locked.
func (f *File) putLocked(h *handle) {
	if f.closed || len(f.spare) >= maxSpare {
		h.close() // nothing was written that an error could be about
		return
	}
	f.spare = append(f.spare, h)
}

func (f *File) enqueueLocked(shared bool) *waiter {
	w := &waiter{shared: shared, answer: make(chan answer, 1)}
	w.elem = f.waiters.PushBack(w)
	f.arrangeLocked()
	return w
}

// arrangeLocked sees to it that the acquirer that the first waiter needs is in the
// queue, and that the other is not. Whatever changes who is first calls it, or is
// an acquirer, which calls it before it ends.
func (f *File) arrangeLocked() {
	f.arrangeKindLocked(&f.exclusively, false)
	f.arrangeKindLocked(&f.sharing, true)
}

func (f *File) arrangeKindLocked(a *acquirer, shared bool) {
	wanted := f.wantedLocked(shared)
	switch {
	case wanted && !a.running:
		a.running = true
		go f.acquire(a, shared)
	case a.parked == nil: // if it is running, it will look before it blocks
	case wanted:
		a.parked.rejoin()
	default:
		a.parked.leave()
	}
}

// wantedLocked reports whether the first waiter needs a lock of this kind.
func (f *File) wantedLocked(shared bool) bool {
	front := f.frontLocked()
	return front != nil && front.shared == shared
}

// answerLocked answers w, which must be waiting.
func (f *File) answerLocked(w *waiter, a answer) {
	f.waiters.Remove(w.elem)
	w.elem = nil
	w.answer <- a
}

// frontLocked returns the first waiter, or nil.
func (f *File) frontLocked() *waiter {
	if e := f.waiters.Front(); e != nil {
		return e.Value.(*waiter)
	}
	return nil
}

// giveUp removes w from the waiters. It reports false if w has been answered.
func (f *File) giveUp(w *waiter) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.elem == nil {
		return false
	}
	f.waiters.Remove(w.elem)
	w.elem = nil
	f.arrangeLocked()
	return true
}

// shareLocked hands a handle that was taken shared to all the waiters who are first
// and want to share. There is at least one.
func (f *File) shareLocked(h *handle) {
	h.users-- // the taking itself
	for w := f.frontLocked(); w != nil && w.shared; w = f.frontLocked() {
		h.users++
		f.answerLocked(w, answer{h: h})
	}
}

// dismissLocked answers all waiters with err.
func (f *File) dismissLocked(err error) {
	for w := f.frontLocked(); w != nil; w = f.frontLocked() {
		f.answerLocked(w, answer{err: err})
	}
	f.arrangeLocked()
}

// acquire takes locks of one kind for as long as the first waiter needs that kind.
func (f *File) acquire(a *acquirer, shared bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	replaced := 0 // in a row
	for first := true; f.wantedLocked(shared); first = false {
		h, err := f.acquireLocked(a, shared, first)
		if err == ErrReplaced {
			if replaced++; replaced < maxReplaced {
				continue
			}
			err = f.alwaysReplaced()
		}
		replaced = 0
		switch {
		case err != nil:
			// The waiter that is first now need not be the one this was for, but
			// if it needs this kind the error would have been the same.
			if f.wantedLocked(shared) {
				f.answerLocked(f.frontLocked(), answer{err: err})
			}
		case h == nil: // not wanted any more
		case shared:
			f.takenLocked(h, true)
			f.shareLocked(h)
		default:
			f.takenLocked(h, false)
			f.answerLocked(f.frontLocked(), answer{h: h})
		}
	}
	a.running = false
	f.arrangeLocked()
}

// acquireLocked blocks until it has the lock. It returns nothing and no error if that is
// not wanted any more, and ErrReplaced if it turns out to be on a file that the path does
// not name. It lets go of f.mu while it is blocked.
//
// If it is the first thing that the acquirer does, and nobody has tried for him because that
// is slow, the lock is first tried to be had at once.
func (f *File) acquireLocked(a *acquirer, shared, first bool) (*handle, error) {
	h, err := f.handleLocked()
	if err != nil {
		return nil, err
	}
	f.mu.Unlock()
	err = errBusy
	if first && h.lingers {
		err = h.attempt(shared)
	}
	if errors.Is(err, errBusy) {
		err = h.enter(shared)
	}
	f.mu.Lock()
	if errors.Is(err, errBusy) {
		err = f.parkLocked(a, h, shared)
	}
	if err == nil && !f.wantedLocked(shared) {
		if err = h.unlock(); err == nil {
			f.putLocked(h)
			return nil, nil
		}
	}
	if err == nil {
		var same bool
		if same, err = h.named(f.path); same {
			return h, nil
		}
	}
	h.close() // releases
	switch {
	case err == nil, err == ErrReplaced:
		return nil, ErrReplaced
	case errors.Is(err, errBusy):
		return nil, nil
	}
	return nil, f.lockError(err)
}

// parkLocked blocks, in the place in the queue that h has entered, until h is
// locked. It returns errBusy, with h not locked, if the waiters left before there was a
// place to give up, and ErrReplaced if there is no point in waiting for this file.
func (f *File) parkLocked(a *acquirer, h *handle, shared bool) error {
	if !f.wantedLocked(shared) {
		return errBusy
	}
	if h.outdated(f.path) {
		return ErrReplaced
	}
	a.parked = h
	f.mu.Unlock()
	err := h.await(shared)
	f.mu.Lock()
	a.parked = nil
	if err != nil {
		return err
	}
	return h.settle(shared)
}

// A Wait is what Options.OnWait is told of a wait.
type Wait struct {
	Path   string    // as given to Open
	Since  time.Time // when the wait began
	Holder Holder    // who holds the lock, if Known; as in HeldError
	Known  bool

	// Ahead is how many are served before this wait as things stand; -1 if that is not
	// known, as with mechanisms that have no queue. The holder is not among them.
	// Another File is one, since it has one place in the queue, however many wait on it;
	// of this File each waiter is. When one of those has been served, and the File
	// takes its next place at the end of the queue, the number grows.
	Ahead int
}

// A queuer is a locker with a queue in which places can be compared.
type queuer interface {
	// limit returns a limit for queued, in the locker of another handle: up to there
	// they are served before us. It is 0 if we have no place. It is called between
	// enter and the end of await, with File.mu held.
	limit() int64

	// queued counts the places below limit, without those that hold the lock; -1 if
	// that is not known. It is called where probe is.
	queued(limit int64) (int, error)
}

// lookPause is how long the wait is between two looks at who is in the way.
const lookPause = 100 * time.Millisecond

// tell calls Options.OnWait for w from now on. What it returns ends that, and waits for
// the call that is being made, if there is one, but not for a look.
func (f *File) tell(w *waiter) (end func()) {
	since := time.Now()
	over := make(chan struct{})
	var mu sync.Mutex // held in calls, and to close over
	call := func(t Wait) (again bool) {
		mu.Lock()
		defer mu.Unlock()
		select {
		case <-over:
			return false
		default:
		}
		f.opts.OnWait(t)
		return true
	}
	go func() {
		select {
		case <-over:
			return
		case <-time.After(settleTime):
		}
		var last Wait
		for first := true; ; first = false {
			began := time.Now()
			t, ok := f.observe(w, over)
			if !ok {
				return
			}
			// Looking should not take more than a small part of the time, even if
			// many do it, and take turns, or if it is slow.
			pause := max(lookPause, 20*time.Since(began))
			if t.Path, t.Since = f.name, since; first || t != last {
				if !call(t) {
					return
				}
				last = t
			}
			select {
			case <-over:
				return
			case <-time.After(pause):
			}
		}
	}()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		close(over)
	}
}

// observe finds out what is in w's way. While the lock changes hands, or w's File is
// about to join the queue, it looks again for a few milliseconds. It reports false if
// the wait is over.
func (f *File) observe(w *waiter, over <-chan struct{}) (Wait, bool) {
	for began := time.Now(); ; {
		t, settled, ok := f.observeOnce(w)
		if !ok || settled || time.Since(began) > settleTime {
			return t, ok
		}
		select {
		case <-over:
			return t, false
		case <-time.After(time.Millisecond):
		}
	}
}

func (f *File) observeOnce(w *waiter) (t Wait, settled, ok bool) {
	p, ok := f.positionOf(w)
	if !ok {
		return t, false, false
	}
	t.Ahead = -1
	f.looking.Lock()
	defer f.looking.Unlock()
	h, b, err := openRead("inspect", f.path)
	if err != nil {
		return t, true, true // the wait itself will say so
	}
	defer h.close()
	s, _ := h.look(b[holderOffset:][:holderSize])
	t.Holder, t.Known = s.holder, s.known
	if q, ok := h.locker.(queuer); ok && p.limit > 0 && h.dev == p.dev && h.ino == p.ino {
		if n, err := q.queued(p.limit); err == nil && n >= 0 {
			t.Ahead = n + p.before
		}
	}
	return t, s.settled && p.parked, true
}

// A position is where a waiter is.
type position struct {
	parked   bool   // his File waits in the kernel
	dev, ino uint64 // for this file
	limit    int64  // in this place; 0 if that is not known
	before   int    // waiters of the same File before him
}

// positionOf reports false if w has been answered, or has given up.
func (f *File) positionOf(w *waiter) (p position, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.elem == nil {
		return p, false
	}
	a := &f.exclusively
	if f.frontLocked().shared {
		a = &f.sharing
	}
	if h := a.parked; h != nil {
		p.parked, p.dev, p.ino = true, h.dev, h.ino
		if q, ok := h.locker.(queuer); ok {
			p.limit = q.limit()
		}
	}
	for e := w.elem.Prev(); e != nil; e = e.Prev() {
		p.before++
	}
	return p, true
}
