//go:build unix

package lockfile

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Leases of the Link mechanism.
//
// Without a lease, a claim is broken only on proof that its holder is dead. With a lease
// of d, the holder changes the counter in his claim every d/3, and a waiter may also
// break the claim when he has seen the same claim with the same counter for d. Each goes
// by his own clock, which nobody compares with another's, and by the d in the claim.
//
//	holder   begins to store c at b; gives up at b + 2d/3, unless by then he has stored c+1
//	waiter   has read c, at r or before; reads c again, from r + d on
//
// The waiter cannot have read c before b, so he breaks at b + d or later. What remains,
// d/3, is for clocks that run differently, and for the holder to stop his work. When a
// holder cannot store he does not wait for the waiter to break his claim, whom he may not
// be able to hear of either.
//
// The clock of package time stands still while the machine sleeps, and on another
// machine it does not. A holder goes by whichever clock says that more time has passed.
//
// A holder who has given up stays the one whom the lock is held by, until it is released
// or broken. He stores nothing any more.

// An instant is a time by two clocks: one that a test can turn, and one that goes on
// while the machine sleeps.
type instant struct {
	time  time.Time
	awake time.Duration
}

func now() instant {
	var ts unix.Timespec
	_ = unix.ClockGettime(awakeOrNot, &ts) // never fails
	return instant{time.Now(), time.Duration(ts.Nano())}
}

func (t instant) elapsed() time.Duration {
	n := now()
	return max(n.time.Sub(t.time), n.awake-t.awake)
}

// A holding is the lock while it is held.
type holding struct {
	dir     claimDir
	n       uint64
	id      claimID
	lease   time.Duration
	lost    chan struct{} // closed when it is known to be lost
	stop    chan struct{} // closed when nobody holds it any more
	removed atomic.Bool   // the directory was, by us
	bumps   atomic.Uint64 // counters that were stored

	mu      sync.Mutex
	renewed instant // when the last counter that was stored began to be stored
	isLost  bool
	ended   bool
	expiry  *time.Timer
}

// hold keeps up a claim that was begun to be written at began.
func hold(dir claimDir, n uint64, id claimID, lease time.Duration, began instant) *holding {
	h := &holding{dir: dir, n: n, id: id, lease: lease, renewed: began, lost: make(chan struct{}), stop: make(chan struct{})}
	if lease > 0 {
		h.expiry = time.AfterFunc(h.limit()-began.elapsed(), h.expire)
		go h.keepUp()
	}
	return h
}

func (h *holding) limit() time.Duration { return h.lease / 3 * 2 }

// expired reports whether the lock must be taken for lost, and notes it.
func (h *holding) expired() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.expiredLocked()
}

func (h *holding) expiredLocked() bool {
	if !h.isLost && !h.ended && h.lease > 0 && h.renewed.elapsed() >= h.limit() {
		h.loseLocked()
	}
	return h.isLost
}

func (h *holding) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.expiredLocked() && !h.ended { // it was renewed when the timer had just fired
		h.expiry.Reset(h.limit() - h.renewed.elapsed())
	}
}

func (h *holding) lose() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loseLocked()
}

func (h *holding) loseLocked() {
	if !h.isLost && !h.ended {
		h.isLost = true
		close(h.lost)
	}
}

// end is for the release. It reports whether the lock was lost before.
func (h *holding) end() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	lost := h.expiredLocked()
	if !h.ended {
		h.ended = true
		close(h.stop)
	}
	if h.expiry != nil {
		h.expiry.Stop()
	}
	return lost
}

// keepUp stores a new counter every third of the lease, until the lock is lost or
// released.
func (h *holding) keepUp() {
	var counter uint64
	pause := h.lease / 3
	for {
		h.mu.Lock()
		next := time.NewTimer(pause - h.renewed.elapsed())
		h.mu.Unlock()
		select {
		case <-next.C:
		case <-h.lost:
			next.Stop()
			return
		case <-h.stop:
			next.Stop()
			return
		}
		if h.expired() {
			return
		}
		began := now()
		counter++
		err := h.bump(counter)
		switch {
		case err == nil:
			pause = h.lease / 3
			h.renew(began)
		case errors.Is(err, ErrLost):
			h.lose()
			return
		default:
			// A new counter is stored each time, so that nothing depends on
			// what became of the last one.
			pause = h.renewed.elapsed() + h.lease/12
		}
	}
}

func (h *holding) bump(counter uint64) error {
	err := h.dir.bump(numberName(h.n), h.id, counter)
	if errors.Is(err, errMoved) {
		return ErrLost
	}
	if err != nil {
		return err
	}
	return h.look()
}

// renew notes that a counter was stored, unless it came too late.
func (h *holding) renew(began instant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.expiredLocked() {
		return
	}
	h.bumps.Add(1)
	h.renewed = began
	h.expiry.Reset(h.limit() - began.elapsed())
}

// look looks whether the claim is still the highest number. If it is not the error is
// ErrLost.
func (h *holding) look() error {
	names, err := h.dir.names()
	if err == nil && highest(names) == h.n {
		var ours bool
		if ours, err = isClaim(h.dir, h.n, h.id); err == nil && ours {
			return nil
		}
	}
	if err == nil || errors.Is(err, errMoved) {
		return ErrLost
	}
	return err
}

// check reports with ErrLost that the lock is not held any more.
func (l *linker) check() error {
	held := l.held.Load()
	if held == nil || held.removed.Load() {
		return nil
	}
	if held.expired() {
		return ErrLost
	}
	err := held.look()
	if errors.Is(err, ErrLost) {
		held.lose()
	}
	return err
}

// lost returns a channel that is closed when the lock is known to be lost. Without a
// lease that is when check has found it out. It is called while the lock is held, and
// check may be called at any time.
func (l *linker) lost() <-chan struct{} {
	if held := l.held.Load(); held != nil {
		return held.lost
	}
	return nil
}
