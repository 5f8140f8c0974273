package lockfile

import (
	"container/list"
	"context"
	"errors"
	"io/fs"
	"time"
)

// How a File's goroutines wait.
//
// A thread that is blocked on a file lock cannot be called back: not by a signal,
// since Go restarts system calls, nor by closing the descriptor. So waiters block
// on channels, and one goroutine a File, the acquirer, blocks on the file lock for
// all of them. When it has the lock it hands it to the first waiter still there,
// and if there is none it gives it back.
//
// When the last waiter leaves, the acquirer stays blocked, but its place in the
// queue is given up at once (handle.leave): nobody, in this process or another,
// waits behind an abandoned wait. The next waiter takes the blocked acquirer over
// and puts it back in the queue (handle.rejoin).
//
// Each locked handle is a file description of its own, so that the kernel excludes
// the goroutines of one process, and the Files of one process, as it does
// processes. There is no second bookkeeping of who may hold the lock.
//
// The race detector does not know of file locks. File.mu is held after each
// acquisition and before each release, which orders them in its eyes too.

// A waiter is a goroutine waiting for a lock.
type waiter struct {
	shared bool
	place  *list.Element // in File.waiters; nil once the waiter has been answered
	answer chan answer   // of capacity 1
}

type answer struct {
	h   *handle
	err error
}

func (f *File) lock(ctx context.Context, shared bool, purpose string) (*Lock, error) {
	if err := ctx.Err(); err != nil {
		return nil, f.error("lock", err)
	}
	f.mu.Lock()
	h, err := f.attemptLocked(shared)
	if !errors.Is(err, errBusy) {
		f.mu.Unlock()
		if err != nil {
			return nil, err
		}
		return f.newLock(h, shared, purpose), nil
	}
	w := f.enqueueLocked(shared)
	f.mu.Unlock()

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
	return f.newLock(a.h, shared, purpose), nil
}

// settleTime bounds how long a try looks on while the lock changes hands. The
// lock is then locked by someone who has not said so yet, or is free while the
// first waiter is being woken, or is being given back by an acquirer whose waiters
// have gone: states that last for microseconds unless a process is suspended in
// one, and in which it cannot be told whether the lock is held.
const settleTime = 5 * time.Millisecond

func (f *File) try(shared bool, purpose string) (*Lock, error) {
	var began time.Time
	for {
		f.mu.Lock()
		h, err := f.attemptLocked(shared)
		f.mu.Unlock()
		if err == nil {
			return f.newLock(h, shared, purpose), nil
		}
		if !errors.Is(err, errBusy) {
			return nil, err
		}
		s := f.look()
		if began.IsZero() {
			began = time.Now()
		}
		if s.settled || time.Since(began) > settleTime {
			return nil, &HeldError{Path: f.name, Holder: s.holder, Known: s.known}
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// held makes the error of a wait that err ended.
func (f *File) held(err error) error {
	s := f.look()
	return &HeldError{Path: f.name, Holder: s.holder, Known: s.known, Err: err}
}

// look is for the text of an error, and has none of its own. One goroutine looks
// at a time: thousands whose contexts end together would otherwise need a thread
// and a descriptor each.
func (f *File) look() status {
	f.looking.Lock()
	defer f.looking.Unlock()
	s, _ := look(f.path)
	return s
}

// attemptLocked takes the lock if it is to be had without waiting, behind nobody.
// Otherwise it returns errBusy.
func (f *File) attemptLocked(shared bool) (*handle, error) {
	if f.closed {
		return nil, f.error("lock", fs.ErrClosed)
	}
	if f.waiters.Len() > 0 {
		return nil, errBusy
	}
	return f.takeLocked(shared)
}

// takeLocked is attemptLocked without regard to the waiters of f.
func (f *File) takeLocked(shared bool) (*handle, error) {
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
	for {
		h, err := f.handleLocked()
		if err != nil {
			return nil, err
		}
		if err := h.attempt(shared); err != nil {
			if errors.Is(err, errBusy) {
				f.putLocked(h)
			} else {
				h.close()
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
	f.mu.Unlock()

	err := h.unlock()
	if err != nil {
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

// handleLocked returns a handle that is not locked.
func (f *File) handleLocked() (*handle, error) {
	if n := len(f.spare); n > 0 {
		h := f.spare[n-1]
		f.spare = f.spare[:n-1]
		return h, nil
	}
	return f.open()
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
	w.place = f.waiters.PushBack(w)
	switch {
	case !f.acquiring:
		f.acquiring = true
		go f.acquire()
	case f.parked != nil:
		f.parked.rejoin()
	}
	return w
}

// answerLocked answers w, which must be waiting.
func (f *File) answerLocked(w *waiter, a answer) {
	f.waiters.Remove(w.place)
	w.place = nil
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
	if w.place == nil {
		return false
	}
	f.waiters.Remove(w.place)
	w.place = nil
	if f.parked == nil {
		return true
	}
	front := f.frontLocked()
	switch {
	case front == nil:
		f.parked.leave()
	case front.shared && !f.parkedShared:
		// The acquirer is blocked until it can lock exclusively, but those who
		// are now first may be able to share what others hold.
		f.parked.leave()
		if h, err := f.takeLocked(true); err == nil {
			f.shareLocked(h)
		}
		if f.waiters.Len() > 0 {
			f.parked.rejoin()
		}
	}
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
	if f.parked != nil {
		f.parked.leave()
	}
}

// acquire takes locks for the waiters until there are none.
func (f *File) acquire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := f.frontLocked(); w != nil; w = f.frontLocked() {
		h, err := f.acquireLocked(w.shared)
		if err != nil {
			// The waiter that is first now need not be the one this was for, but
			// the error would have been the same.
			if front := f.frontLocked(); front != nil {
				f.answerLocked(front, answer{err: err})
			}
			continue
		}
		if h != nil {
			f.handOverLocked(h, w.shared)
		}
	}
	f.acquiring = false
}

// handOverLocked gives a handle that has just been locked to the first waiter. If
// that is not there any more, or needs another kind of lock, it is given back.
func (f *File) handOverLocked(h *handle, shared bool) {
	front := f.frontLocked()
	switch {
	case front == nil || front.shared != shared:
		if err := h.unlock(); err != nil {
			h.close()
			return
		}
		f.putLocked(h)
	case shared:
		f.takenLocked(h, true)
		f.shareLocked(h)
	default:
		f.takenLocked(h, false)
		f.answerLocked(front, answer{h: h})
	}
}

// acquireLocked blocks until it has the lock, and returns nothing and no error if
// there is nobody to have it for any more. It lets go of f.mu while it is blocked.
func (f *File) acquireLocked(shared bool) (*handle, error) {
	for f.waiters.Len() > 0 {
		h, err := f.handleLocked()
		if err != nil {
			return nil, err
		}
		err = f.blockLocked(h, shared)
		if err == nil {
			var same bool
			if same, err = h.named(f.path); same {
				return h, nil
			}
		}
		if errors.Is(err, errBusy) {
			f.putLocked(h)
			continue
		}
		h.close() // releases
		if err != nil {
			return nil, f.lockError(err)
		}
	}
	return nil, nil
}

// blockLocked locks h, and lets go of f.mu while it waits. It returns errBusy, with h
// not locked, if there is nobody to wait for.
func (f *File) blockLocked(h *handle, shared bool) error {
	f.mu.Unlock()
	err := h.enter(shared)
	f.mu.Lock()
	if !errors.Is(err, errBusy) {
		return err
	}
	if f.waiters.Len() == 0 {
		// They left before there was a place to give up.
		if err := h.unlock(); err != nil {
			return err
		}
		return errBusy
	}
	f.parked, f.parkedShared = h, shared
	f.mu.Unlock()
	err = h.await(shared)
	f.mu.Lock()
	f.parked = nil
	if err != nil {
		return err
	}
	return h.settle(shared)
}
