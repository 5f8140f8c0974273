package lockfile

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// Open-file-description locks, with a queue.
//
// The bytes that are locked have nothing to do with the bytes in the file:
//
//	byte            locked by
//	0               the holder. This is the lock; exclusion rests on it alone
//	2, 4, ... 2^62  waiters: each has locked its ticket, for writing
//	2^62            who is about to join the queue: the gate
//
// To take the lock at once, lock everything from 0 to the gate, without waiting:
// that succeeds only if there are no holder and no waiters, or, for a shared lock,
// only holders that share. Then unlock all but byte 0.
//
// To wait, lock the gate, read and increment the counter in the file, lock the
// ticket of that number, and unlock the gate. Then lock everything before the
// ticket, waiting: the kernel grants that when the holder and all earlier waiters
// are gone, in whatever way they went. Byte 0 is among it, so this is the lock.
//
// Before that, wait for the ticket just below, which its owner keeps for as long as
// he waits for the lock or holds it. Nothing depends on this step, but without it
// each release wakes every waiter: the kernel arranges requests that overlap in a
// tree in which the latest come to be asked first, and wakes them all until one is
// granted. With it a release wakes one.
//
// For the same reason a holder keeps what he has locked on the way until he releases
// it, as that is in nobody's way: later tickets are higher. Only who holds the lock
// shared unlocks all but byte 0 at once, for those behind may share. And tickets are
// even, because the kernel would merge the lock on [0, t) with that on t, and wake
// who waits for t.
//
// The counter only orders. If it is lost, or set back, or cannot be written, a
// number may be taken already, and the next free one is used; someone may then be
// served before his turn. Nothing else depends on it.
//
// What waits for what: the gate is held while nothing is waited for, a ticket while
// waiting for lower ones. So there is no cycle, and no deadlock.

const mechanism = 1

const (
	gate       = 1 << 62
	ticketStep = 2
)

// place is a place in the queue.
type place struct {
	turn   int64 // await waits for those before this ticket
	ticket int64 // the ticket that is locked; 0 if it has been given up
}

// setlk locks or unlocks n bytes from start, n = 0 being all. If it cannot without
// waiting, it returns errBusy or waits.
func (h *handle) setlk(typ int16, start, n int64, wait bool) error {
	cmd := unix.F_OFD_SETLK
	if wait {
		cmd = unix.F_OFD_SETLKW
	}
	err := ignoringEINTR(func() error {
		lk := unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: start, Len: n}
		return unix.FcntlFlock(uintptr(h.fd), cmd, &lk)
	})
	if !wait && (err == unix.EAGAIN || err == unix.EACCES) {
		return errBusy
	}
	return err
}

func lockType(shared bool) int16 {
	if shared {
		return unix.F_RDLCK
	}
	return unix.F_WRLCK
}

// attempt takes the lock if nobody has it or waits for it.
func (h *handle) attempt(shared bool) error {
	if err := h.setlk(lockType(shared), 0, gate+1, false); err != nil {
		return err
	}
	return h.setlk(unix.F_UNLCK, 1, 0, false)
}

// join finds out whether another may share the shared lock on h: not if someone
// waits, or streams of readers would starve writers.
func (h *handle) join() error {
	return h.attempt(true) // the lock on byte 0 is kept if it fails
}

// enter takes the lock if it is free, and otherwise a place in the queue, and
// returns errBusy. It waits for the gate, which nobody holds for long.
func (h *handle) enter(shared bool) error {
	if err := h.setlk(unix.F_WRLCK, gate, 1, true); err != nil {
		return err
	}
	err := h.setlk(lockType(shared), 0, gate, false)
	if err == nil {
		return h.setlk(unix.F_UNLCK, 1, 0, false)
	}
	if err != errBusy {
		return err
	}
	var b [ticketSize]byte
	_, _ = h.readAt(b[:], ticketOffset) // see above: it only orders
	t := int64(le.Uint64(b[:]))
	if t <= 0 || t >= gate/2 || t%ticketStep != 0 {
		t = ticketStep
	}
	switch t, err = h.takeTicket(t); err {
	case nil:
		h.place = place{turn: t, ticket: t}
		le.PutUint64(b[:], uint64(t+ticketStep))
		_ = h.writeAt(b[:], ticketOffset)
	case errBusy, errForeign:
		// Someone who is not one of us has locked them all. Wait for him too.
		h.place = place{turn: gate}
	default:
		return err
	}
	if err := h.setlk(unix.F_UNLCK, gate, 1, false); err != nil {
		return err
	}
	return errBusy
}

// errForeign is for a lock to the end of the file, which is not one of ours and may
// be there for long.
var errForeign = errors.New("locked by a stranger")

// takeTicket locks the first free ticket from t on. If there is none, it returns
// errBusy, or errForeign.
func (h *handle) takeTicket(t int64) (int64, error) {
	for t < gate {
		err := h.setlk(unix.F_WRLCK, t, 1, false)
		if err != errBusy {
			return t, err
		}
		lk, err := h.getlk(unix.F_WRLCK, t, 1)
		if err != nil {
			return 0, err
		}
		switch {
		case lk.Type == unix.F_UNLCK: // gone meanwhile: again
		case lk.Len == 0: // all there are
			return 0, errForeign
		default:
			t = (lk.Start + lk.Len + ticketStep - 1) / ticketStep * ticketStep
		}
	}
	return 0, errBusy
}

// await waits for its turn and takes the lock.
func (h *handle) await(shared bool) error {
	if prev := h.place.turn - ticketStep; prev > 0 {
		// For reading, which is enough to wait, and keeps no reader out if our
		// waiters have gone.
		if err := h.setlk(unix.F_RDLCK, prev, 1, true); err != nil {
			return err
		}
		if err := h.setlk(unix.F_UNLCK, prev, 1, false); err != nil {
			return err
		}
	}
	return h.setlk(lockType(shared), 0, h.place.turn-1, true)
}

// settle makes way, after await, for those who may share.
func (h *handle) settle(shared bool) error {
	if !shared {
		return nil
	}
	return h.setlk(unix.F_UNLCK, 1, 0, false)
}

// leave gives up the place in the queue of a handle that is blocked in await.
func (h *handle) leave() {
	if h.place.ticket == 0 {
		return
	}
	// An error would mean that others wait behind us for longer than they need.
	_ = h.setlk(unix.F_UNLCK, h.place.ticket, 1, false)
	h.place.ticket = 0
}

// rejoin takes a place again. The number may differ from that which await waits
// for: await still waits for the earlier waiters, and the ticket makes the later
// ones wait for it.
func (h *handle) rejoin() {
	if h.place.ticket != 0 {
		return
	}
	// Only someone who is just taking the lock at once is in the way, for as long
	// as it takes him to make a system call. If he is still there after all this,
	// or is a stranger, we have no ticket, and the kernel will wake us, but
	// latecomers may pass.
	for range 1000 {
		t, err := h.takeTicket(h.place.turn)
		if err == nil {
			h.place.ticket = t
		}
		if err != errBusy {
			return
		}
	}
}

// unlock releases all that h has locked.
func (h *handle) unlock() error {
	return h.setlk(unix.F_UNLCK, 0, 0, false)
}

// getlk returns a lock that another description holds and that conflicts, if any.
func (h *handle) getlk(typ int16, start, n int64) (unix.Flock_t, error) {
	var lk unix.Flock_t
	err := ignoringEINTR(func() error {
		lk = unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: start, Len: n}
		return unix.FcntlFlock(uintptr(h.fd), unix.F_OFD_GETLK, &lk)
	})
	return lk, err
}

// probe looks at the lock without touching it. It needs no permission to write.
func (h *handle) probe() (lockState, error) {
	lk, err := h.getlk(unix.F_WRLCK, 0, 1)
	switch {
	case err != nil:
		return lockFree, err
	case lk.Type == unix.F_UNLCK:
		return lockFree, nil
	case lk.Type == unix.F_RDLCK:
		return lockShared, nil
	case lk.Len == 0: // the whole file: not one of us
		return lockForeign, nil
	}
	return lockExclusive, nil
}
