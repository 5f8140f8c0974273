package lockfile

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/recordstore/recordstore/internal/fstype"
)

// Open-file-description locks, with a queue.
//
// The bytes that are locked have nothing to do with the bytes in the file:
//
//	byte            locked by
//	0               the holder. This is the lock; exclusion rests on it alone
//	4, 6, ... 2^62  waiters: each has locked its ticket, for writing
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
// who waits for t. They begin at 4, so that a holder who has a ticket can be told from
// one who has not: he has locked more than byte 0.
//
// The counter only orders. If it is lost, or set back, or cannot be written, a
// number may be taken already, and the next free one is used; someone may then be
// served before his turn. Nothing else depends on it.
//
// What waits for what: the gate is held while nothing is waited for, a ticket while
// waiting for lower ones. So there is no cycle, and no deadlock.
//
// With Options.ReadOnly the ticket and the gate are locked for reading, as no more can
// be had on a descriptor that is open for reading, and the counter stays as it is. A
// waiter who comes later then finds the number locked and uses the next, unless he is
// read-only too; those two share the number, and both want to share the lock. A ticket
// locked for reading is in the way of a writer with a later one, and not of a reader,
// who may share; and who has one waits for all earlier tickets, like anyone. So such
// readers do not starve a writer. They do not keep each other out at the gate, but
// that is only locked to be passed.
//
// With Options.NoQueue only byte 0 is ever locked, by those who try and by those who
// wait. Some may do so and others queue, as both kinds have the lock only with byte 0.
// Who does not queue waits for that byte with nothing locked, and so cannot be part
// of a cycle. To those who queue he is a holder like any other, or, while he waits,
// nobody: he has no ticket, they do not wait behind him, and they keep their order
// among themselves. But he does not wait behind them either. Whenever the lock is
// released, the first of the queue and all who wait without one are woken, the
// first to run has it, and who comes at that moment and does not queue may be
// quicker than all of them. So neither kind is shut out, but nobody is promised a
// turn either: who releases the lock and takes it again at once, without the queue,
// passes everyone, until the kernel happens to run another in between.

func init() {
	mechanisms[OFD] = func(h *handle) locker {
		return &ofd{h: h, queue: !h.opts.NoQueue, slow: sync.OnceValue(func() slowness { return slowWaits(h.path) })}
	}
}

const (
	gate        = 1 << 62
	ticketStep  = 2
	firstTicket = 4
)

type ofd struct {
	h     *handle
	queue bool

	// The place in the queue. Protected by File.mu once the handle is parked.
	turn   int64 // await waits for those before this ticket
	ticket int64 // the ticket that is locked; 0 if it has been given up

	left atomic.Bool     // nobody wants what await waits for; only for steps
	slow func() slowness // slowWaits, asked once
}

var ofdCalls = lockCalls{set: unix.F_OFD_SETLK, wait: unix.F_OFD_SETLKW, get: unix.F_OFD_GETLK}

func setlk(fd int, typ int16, start, n int64, wait bool) error {
	return ofdCalls.setlk(fd, typ, start, n, wait)
}

func (l *ofd) setlk(typ int16, start, n int64, wait bool) error {
	return setlk(l.h.fd, typ, start, n, wait)
}

// ticketType is how l locks tickets and the gate.
func (l *ofd) ticketType() int16 { return lockType(l.h.opts.ReadOnly) }

// attempt takes the lock if nobody has it or waits for it.
func (l *ofd) attempt(shared bool) error {
	if !l.queue {
		return l.setlk(lockType(shared), 0, 1, false)
	}
	if err := l.setlk(lockType(shared), 0, gate+1, false); err != nil {
		return err
	}
	return l.setlk(unix.F_UNLCK, 1, 0, false)
}

// join finds out whether another may share the shared lock on h: not if someone
// waits, or streams of readers would starve writers.
func (l *ofd) join() error {
	if !l.queue {
		return nil
	}
	return l.attempt(true) // the lock on byte 0 is kept if it fails
}

// enter takes a place in the queue, if there is one, and returns errBusy. It waits for the gate, which
// nobody holds for long. That the lock may be free by now is left to await: over a
// network each step at the gate keeps all who come.
func (l *ofd) enter(shared bool) error {
	l.left.Store(false)
	if !l.queue {
		return errBusy
	}
	if err := l.wait(l.ticketType(), gate, 1, true); err != nil {
		return err
	}
	head, mine, _ := l.h.readHead(ticketOffset + ticketSize)
	b := head[ticketOffset:] // see above: it only orders
	t := int64(le.Uint64(b))
	if t < firstTicket || t >= gate/2 || t%ticketStep != 0 {
		t = firstTicket
	}
	switch t, err := l.takeTicket(t); err {
	case nil:
		l.turn, l.ticket = t, t
		if le.PutUint64(b, uint64(t+ticketStep)); mine {
			_ = l.h.writeAt(b, ticketOffset)
		}
	case errBusy, errForeign:
		// Someone who is not one of us has locked them all. Wait for him too.
		l.turn, l.ticket = gate, 0
	default:
		return err
	}
	if err := l.setlk(unix.F_UNLCK, gate, 1, false); err != nil {
		return err
	}
	return errBusy
}

// errForeign is for a lock to the end of the file, or almost, which is not one of ours
// and may be there for long.
var errForeign = errors.New("locked by a stranger")

// takeTicket locks the first free ticket from t on. If there is none, it returns
// errBusy, or errForeign.
func (l *ofd) takeTicket(t int64) (int64, error) {
	for t < gate {
		err := l.setlk(l.ticketType(), t, 1, false)
		if err != errBusy {
			return t, err
		}
		lk, err := l.getlk(l.ticketType(), t, 1)
		if err != nil {
			return 0, err
		}
		switch {
		case lk.Type == unix.F_UNLCK: // gone meanwhile: again
		case pastGate(lk): // all there are
			return 0, errForeign
		default:
			t = (lk.Start + lk.Len + ticketStep - 1) / ticketStep * ticketStep
		}
	}
	return 0, errBusy
}

// wait locks n bytes from start, and waits for that: in the kernel, or, where that is
// slow, in steps. Steps end with errBusy when nobody wants the lock any more. contended
// tells that others may wait for the same bytes, and get them first.
func (l *ofd) wait(typ int16, start, n int64, contended bool) error {
	if slow := l.slow(); slow == never || slow == whenContended && !contended {
		return l.setlk(typ, start, n, true)
	}
	for pause := firstStep; ; pause = min(2*pause, lastStep) {
		err := l.setlk(typ, start, n, false)
		if err != errBusy || l.left.Load() {
			return err
		}
		time.Sleep(pause)
	}
}

// The steps are as short as a server is far, at first.
const (
	firstStep = time.Millisecond
	lastStep  = 50 * time.Millisecond
)

// slowness tells when the kernel is slow to find out that a lock is free.
type slowness int

const (
	never slowness = iota
	whenContended
	always
)

// slowWaits tells how the kernel waits for locks. With NFS 4.0 the client asks the server
// again after a time that doubles up to 30 s. In later versions, and in version 3, the
// server calls back. But in 4.1 and 4.2 a client that the server has delegated the file to
// keeps its locks to itself: there, of those who have waited for the same lock all but the
// first go on to wait, for 30 s, to be called back by a server that knows nothing of it
// (nfs4_retry_setlk in Linux 6.1; seen with 25 processes that come at the same time).
var slowWaits = func(path string) slowness {
	dir := filepath.Dir(path)
	if name, _, err := fstype.Of(dir); err != nil || name != "nfs" {
		return never
	}
	m, err := fstype.MountOf(dir)
	switch {
	case err != nil:
		return never
	case slices.ContainsFunc(m.Options, func(o string) bool { return o == "vers=4.0" || o == "vers=4" }):
		return always
	case slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "vers=4.") }):
		return whenContended
	}
	return never
}

// await waits for its turn and takes the lock.
func (l *ofd) await(shared bool) error {
	if !l.queue {
		return l.wait(lockType(shared), 0, 1, true)
	}
	if prev := l.turn - ticketStep; prev > 0 {
		// For reading, which is enough to wait, and keeps no reader out if our
		// waiters have gone.
		if err := l.wait(unix.F_RDLCK, prev, 1, false); err != nil {
			return err
		}
		// As a rule nobody is in the way any more.
		if err := l.setlk(lockType(shared), 0, l.turn-1, false); err != errBusy {
			return err
		}
		if err := l.setlk(unix.F_UNLCK, prev, 1, false); err != nil {
			return err
		}
	}
	// Somebody has the lock who is not in the queue. Who was just before us and has left it
	// may still be blocked on that (see File.leave).
	return l.wait(lockType(shared), 0, l.turn-1, true)
}

// settle makes way, after await, for those who may share.
func (l *ofd) settle(shared bool) error {
	if !shared || !l.queue {
		return nil
	}
	return l.setlk(unix.F_UNLCK, 1, 0, false)
}

// leave gives up the place in the queue of a handle that is blocked in await.
func (l *ofd) leave() {
	l.left.Store(true)
	if l.ticket == 0 {
		return
	}
	// An error would mean that others wait behind us for longer than they need.
	_ = l.setlk(unix.F_UNLCK, l.ticket, 1, false)
	l.ticket = 0
}

// rejoin takes a place again. The number may differ from that which await waits
// for: await still waits for the earlier waiters, and the ticket makes the later
// ones wait for it.
func (l *ofd) rejoin() {
	l.left.Store(false)
	if !l.queue || l.ticket != 0 {
		return
	}
	// Only someone who is just taking the lock at once is in the way, for as long
	// as it takes him to make a system call. If he is still there after all this,
	// or is a stranger, we have no ticket, and the kernel will wake us, but
	// latecomers may pass.
	for range 1000 {
		t, err := l.takeTicket(l.turn)
		if err == nil {
			l.ticket = t
		}
		if err != errBusy {
			return
		}
	}
}

// unlock releases all that h has locked.
func (l *ofd) unlock() error {
	return l.setlk(unix.F_UNLCK, 0, 0, false)
}

// getlk returns a lock that another description holds and that conflicts, if any.
func (l *ofd) getlk(typ int16, start, n int64) (unix.Flock_t, error) {
	return ofdCalls.getlk(l.h.fd, typ, start, n)
}

// pastGate reports whether a lock is that of a stranger because it ends after the gate.
// What we lock at the end of the file is not asked about.
func pastGate(lk unix.Flock_t) bool { return lk.Len == 0 || lk.Len > gate+1-lk.Start }

// probe looks at the lock without touching it. It needs no permission to write.
func (l *ofd) probe() (State, error) {
	lk, err := l.getlk(unix.F_WRLCK, 0, 1)
	switch {
	case err != nil:
		return Free, err
	case lk.Type == unix.F_UNLCK:
		return Free, nil
	case lk.Type == unix.F_RDLCK:
		return Shared, nil
	case pastGate(lk):
		return Foreign, nil
	}
	return Exclusive, nil
}

// queued counts the tickets below limit. Nobody keeps the others from moving meanwhile,
// so it is what it was at some moments. The result is -1 if it cannot be told.
func (l *ofd) queued(limit int64) (int, error) {
	lk, err := l.getlk(unix.F_WRLCK, 0, 1)
	switch {
	case err != nil:
		return -1, err
	case lk.Type == unix.F_UNLCK, lk.Len == 1:
		return l.countTickets(0, limit)
	case pastGate(lk):
		return -1, nil // see takeTicket
	}
	// The holder has been in the queue. He has kept his ticket, two bytes after what
	// else he has locked, and there is nothing below.
	return l.countTickets(lk.Len+ticketStep, limit)
}

// countTickets counts the tickets from start on and below limit. The kernel names any
// lock in a range, so it is asked about what is on either side of that.
func (l *ofd) countTickets(start, limit int64) (int, error) {
	var n int
	for start = max(start, firstTicket); start < limit; {
		// For reading, as tickets are locked for writing.
		lk, err := l.getlk(unix.F_RDLCK, start, limit-start)
		if err != nil {
			return -1, err
		}
		if lk.Type == unix.F_UNLCK {
			break
		}
		if lk.Start >= start && lk.Start%ticketStep == 0 && lk.Len == 1 {
			n++
		}
		before, err := l.countTickets(start, lk.Start)
		if err != nil {
			return -1, err
		}
		n += before
		if pastGate(lk) {
			break
		}
		start = (lk.Start + lk.Len + ticketStep - 1) / ticketStep * ticketStep
	}
	return n, nil
}

// limit returns the limit for queued that counts who is before us; 0 if that is not
// known. File.mu is held.
func (l *ofd) limit() int64 {
	if l.ticket == 0 {
		return 0
	}
	return l.turn // which is what await waits for, whatever ticket rejoin has found
}

func (l *ofd) describe(s *Status) error {
	var err error
	s.Waiting, err = l.queued(gate)
	return err
}

func (l *ofd) close() error { return nil }
