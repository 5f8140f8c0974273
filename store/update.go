package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"syscall"

	"github.com/recordstore/recordstore/internal/boot"
	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/lockfile"
)

// Update runs fn on the newest state of the store and commits what it
// changes, atomically and durably: when Update returns without an error, the
// changes survive a power loss, and whoever looks sees all of them or none.
//
// It returns the revision that the changes got, or, if fn changed nothing,
// that of the state it saw.
//
// An error from fn is returned as it is, and nothing is changed by fn; so it is
// when fn panics or ends its goroutine. (If what others have committed beside it
// could not be flushed, the error is fn's and [ErrNotDurable]: what fn saw may not
// survive a power loss.) fn holds up all other writers while it runs, in every
// process. It may run more than once, each time on a newer state,
// and only the last run counts: it must have no effects but on tx and on
// variables that it sets anew in each run. It may run on another goroutine than
// the caller's, who waits meanwhile; if it panics or ends that one, it runs once
// more on the caller's. fn must not call what takes the same store's LOCK
// (Update and all that write, FreshSnapshot, Sync), nor Close: it would wait for
// itself, until its context ends.
//
// A context that ends while Update waits ends the waiting, and nothing is
// changed; the error is then a *lockfile.HeldError that says who holds LOCK,
// and is the context's. If it ends after publishing has begun, the error is
// also [ErrUnknown].
//
// Other errors are the file system's, which name the file (nothing is
// changed: no space, no permission), [ErrNotDurable] and [ErrUnknown]
// (something may be), [ErrCorrupt] and [ErrReplaced].
//
// Updates of goroutines of one process that wait at the same time are
// committed as a group: one manifest, one flush, a revision each.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) (Revision, error) {
	if fn == nil && !s.isClosed() {
		return 0, ErrNilFunc
	}
	out := s.submit(ctx, fn)
	if out.err != nil {
		return 0, out.err
	}
	out.st.release()
	return out.rev, nil
}

// submit queues fn and waits for the answer.
func (s *Store) submit(ctx context.Context, fn func(tx *Tx) error) outcome {
	return s.enqueue(ctx, &request{fn: fn})
}

// submitNothing waits for what a function that changes nothing would be told.
func (s *Store) submitNothing(ctx context.Context) outcome {
	return s.enqueue(ctx, &request{fn: func(*Tx) error { return nil }, idle: true})
}

func (s *Store) enqueue(ctx context.Context, r *request) outcome {
	switch {
	case s.isClosed():
		return outcome{err: fmt.Errorf("update %s: %w", s.dir, fs.ErrClosed)}
	case s.opts.ReadOnly:
		return outcome{err: fmt.Errorf("update %s: %w", s.dir, ErrReadOnly)}
	case ctx.Err() != nil:
		return outcome{err: context.Cause(ctx)}
	}
	r.said = make(chan word, 1)
	lead, ok := s.enter(r)
	switch {
	case !ok:
		return outcome{err: fmt.Errorf("update %s: %w", s.dir, fs.ErrClosed)}
	case lead && ctx.Done() == nil:
		return s.leadItself(ctx, r)
	case lead:
		go s.lead(nil)
	}
	return s.wait(ctx, r)
}

// timedOut is the error of a caller whose context ended while it waited.
func (s *Store) timedOut(ctx context.Context) error {
	held := &lockfile.HeldError{Path: s.path(lockName), Err: context.Cause(ctx)}
	if h, ok, err := s.lock.Holder(); ok && err == nil {
		held.Holder, held.Known = h, true
	}
	return held
}

func unknownFate(ctx context.Context) error {
	return fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx))
}

// lead commits groups until nobody waits. While one is being flushed, the next
// waits for the slot, and more join it. If lock is not nil, the first group's
// LOCK is held already, and it has its slot.
func (s *Store) lead(lock *turn) {
	defer s.busy.Done()
	var temp vfs.File
	defer func() { s.discard(temp) }()
	for {
		if lock == nil {
			ctx, writes, ok := s.await()
			if !ok {
				return
			}
			if writes && temp == nil {
				temp = s.prepareTemp() // while nobody is held up by that
			}
			var err error
			if lock, err = s.takeTurn(ctx, temp); err != nil {
				if ctx.Err() == nil {
					s.discard(temp)
					temp = nil
					refuse(s.take(), s.lockError(err))
				}
				continue // else all who waited have left; who came since waits anew
			}
		}
		if g := s.commit(s.take(), lock); g != nil {
			s.busy.Add(1)
			go s.finish(g)
		}
		temp, lock = lock.temp, nil
	}
}

// takeTurn waits for a slot, and for LOCK. It has the turn, or neither.
func (s *Store) takeTurn(ctx context.Context, temp vfs.File) (*turn, error) {
	if err := s.slot(ctx); err != nil {
		return nil, err
	}
	s.mergeFirst()
	s.gather()
	lock, err := s.turnWith(ctx, s.opts.Purpose, temp)
	if err != nil {
		s.freeSlot()
	}
	return lock, err
}

// leadItself is lead, and wait, for a caller with whom nobody else waits, and
// whose context cannot end, so that he need not be able to leave. On his own
// goroutine, a commit takes half the time: nobody has to be woken. If somebody
// comes before he has LOCK, he leaves the leading to a goroutine, for he does
// not wait for others' functions.
func (s *Store) leadItself(ctx context.Context, r *request) outcome {
	var temp vfs.File
	if !r.idle {
		temp = s.prepareTemp()
	}
	lock, err := s.takeTurn(ctx, temp)
	if err != nil {
		s.discard(temp)
		s.leave(r)
		s.passOn()
		return outcome{err: s.lockError(err)}
	}
	if !s.takeAlone() {
		go s.lead(lock)
		return s.wait(ctx, r)
	}
	g := s.commitAlone(r, lock)
	if g == nil {
		return s.wait(ctx, r)
	}
	err = s.settle(g)
	if err == nil && s.hasChores(g) {
		go s.tidyUp(g, err)
	} else {
		s.tidyUp(g, err)
	}
	return (<-r.said).outcome
}

// commitAlone commits the caller's own request. It returns nil if there is
// nothing to be flushed, and else counts on tidyUp being called. Should the
// caller's function panic or end its goroutine, others are none the worse.
func (s *Store) commitAlone(r *request, lock *turn) (g *committedGroup) {
	returned := false
	defer func() {
		s.discard(lock.temp)
		if !returned {
			s.freeSlot()
		}
		if g != nil {
			s.busy.Add(1)
		}
		s.passOn()
	}()
	r.own = true
	g = s.commit([]*request{r}, lock)
	returned = true
	return g
}

// passOn ends the leadership of a caller, or leaves it to a goroutine if there
// are others who wait.
func (s *Store) passOn() {
	if s.end() {
		s.busy.Done()
	} else {
		go s.lead(nil)
	}
}

// lockError is what a caller is told of an error of the lock.
func (s *Store) lockError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrReplaced, err)
	}
	return fmt.Errorf("update %s: %w", s.dir, err)
}

func refuse(group []*request, err error) {
	for _, r := range group {
		r.answer(outcome{err: err})
	}
}

// commit is the write path up to the flush. It is called with LOCK held and
// releases it. The result is nil if everybody has been answered.
//
// A process that dies before publish leaves the store as it was and a
// temporary file; after it, the store with the whole commit in it. A power
// loss before flush has come to its end may leave either; nobody has been
// told anything then.
func (s *Store) commit(group []*request, lock *turn) *committedGroup {
	g, err := func() (*committedGroup, error) {
		defer lock.end() // also if the caller's function ends the goroutine
		return s.commitLocked(group, lock)
	}()
	if err == nil && g.published {
		return g
	}
	s.discard(lock.take()) // before anybody is told that nothing was done
	s.freeSlot()
	// madeRoom is asked without LOCK: nobody waits for removals.
	if passed := errors.Is(err, errPassed); passed || errors.Is(err, errLockLost) || s.madeRoom(err) {
		group = s.again(group, !passed)
	}
	if err != nil {
		refuse(group, err)
		return nil
	}
	g.answer(nil) // the base is durable
	g.st.release()
	return nil
}

// finish is the write path from the flush on.
func (s *Store) finish(g *committedGroup) { s.tidyUp(g, s.settle(g)) }

// settle flushes what a group has published. Nobody is answered before.
func (s *Store) settle(g *committedGroup) error {
	err := s.flush(g.st, true)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	g.answer(err)
	s.freeSlot() // only now: who comes again at once belongs into one group
	return err
}

// hasChores tells whether tidyUp has more to do than to let go of the state.
func (s *Store) hasChores(g *committedGroup) bool { return g.overflows || s.mayRetire(g.st) }

// tidyUp does what can wait until a group has been answered.
func (s *Store) tidyUp(g *committedGroup, flushErr error) {
	defer s.busy.Done()
	defer g.st.release()
	if flushErr == nil {
		s.retire(g.st)
		if g.overflows {
			s.tidy(g.st)
		}
	}
}

// A committedGroup is a group whose updates have been published, or had
// nothing to publish.
type committedGroup struct {
	group     []*request
	st        *state // acquired; what the answers speak of
	published bool   // st is the group's own
	overflows bool   // its journal is to be moved into a segment
}

// answer tells everybody of the group what came of his update: errors and
// "nothing to do" too, for they speak of the same state. If that could not be
// flushed, a function's error says so: it may rest on what a power loss takes back.
func (g *committedGroup) answer(flushErr error) {
	for _, r := range g.group {
		switch {
		case r.failed != nil && flushErr != nil:
			r.answer(outcome{err: fmt.Errorf("%w; what it rests on: %w", r.failed, flushErr)})
		case r.failed != nil:
			r.answer(outcome{err: r.failed})
		case flushErr != nil:
			r.answer(outcome{err: flushErr})
		default:
			r.answer(outcome{rev: r.rev, st: g.st})
		}
	}
}

// commitLocked runs the group's functions on the newest state, publishes what
// they changed and makes sure that it stands.
func (s *Store) commitLocked(group []*request, lock *turn) (g *committedGroup, err error) {
	lock.guess, lock.guessCounts = s.guess(lock)
	err = s.onNewest(lock.guess, func(base *state) (bool, error) {
		g, err = s.attempt(group, base, lock)
		return g != nil, err
	})
	return g, err
}

// onNewest calls f with the newest state, and again if f reports false: others
// have gone past. guess, if not nil, is taken for the newest at first, and released.
func (s *Store) onNewest(guess *state, f func(base *state) (bool, error)) (err error) {
	var pause backoff
	var last ID
	for {
		base := guess
		if guess = nil; base == nil {
			if base, err = s.newest(context.Background()); err != nil {
				return err
			}
		}
		// A pause only where nothing has moved since the last round.
		if base.commit == last && !pause.wait(context.Background()) {
			base.release()
			return fmt.Errorf("update %s: the name after sequence %d stayed taken for %v, see recordctl verify", s.dir, base.seq, patience)
		}
		last = base.commit
		done, err := func() (bool, error) {
			defer base.release() // also if a caller's function panics
			return f(base)
		}()
		if done || err != nil {
			return err
		}
	}
}

// attempt is one round of commitLocked. It returns nil, nil if others have
// gone past.
func (s *Store) attempt(group []*request, base *state, lock *turn) (*committedGroup, error) {
	h := s.child(base)
	for {
		top := s.runAll(group, base, h)
		if len(top) == 0 {
			ok, err := s.restsOn(base)
			if err != nil {
				return nil, err
			}
			if ok || !slices.ContainsFunc(group, (*request).waits) {
				base.acquire()
				return &committedGroup{group: group, st: base}, nil
			}
		}
		if again, err := s.mustRecover(base); again || err != nil {
			if err == nil {
				err = s.recover(base, lock) // and once more, on top of that
			}
			return nil, err
		}
		if passNoReturn(group) {
			st, err := s.publishChanges(base, h, fold(base, top, h.time), lock)
			if st == nil || err != nil {
				return nil, err
			}
			return &committedGroup{group: group, st: st, published: true, overflows: s.bound.crossed(base, st)}, nil
		}
		// Somebody left whose changes are in it: without them, again.
	}
}

// child returns the header of the manifest that follows base.
func (s *Store) child(base *state) *header {
	return &header{
		network:   s.network.Load(),
		seq:       base.next(),
		store:     base.store,
		commit:    newID(),
		boot:      s.sys.boot,
		time:      base.instant(s.sys.now),
		firstRev:  base.lastRev + 1,
		ancestors: base.nextAncestors(),
		segments:  base.segments,
	}
}

// revisionGap is more revisions than can have been published and not flushed.
const revisionGap = 1 << 20

// recover is the first commit after a restart of the machine. Revisions above
// base's may have been seen, and then lost with the power; none of them is
// given again. So an empty manifest leaves them out, and is durable before
// anything is published on top of it: were it not, a second power loss could
// bring base back once more, and the revisions after the gap a second time.
//
// It flushes under the lock, once for each start of the machine. Nobody's
// update is in it, so that whatever goes wrong here, the updates that wait are
// not done. Over a network it comes once, on top of what was published locally: which
// machine that was, and whether it has lost power, nobody knows there.
func (s *Store) recover(base *state, lock *turn) error {
	h := s.child(base)
	h.recovery = true
	h.firstRev += revisionGap
	h.lastRev = h.firstRev - 1
	st, err := s.publishState(base, h, base.view.journal, lock)
	if err != nil {
		return &recoveryError{err}
	}
	if st == nil {
		return nil
	}
	defer st.release()
	if err := s.flush(st, false); err != nil {
		return &recoveryError{err}
	}
	if info, err := s.statOf(st); err != nil || !info.Marked() {
		return &recoveryError{fmt.Errorf("%s could not be marked: %w", s.manifestPath(st.seq), cmp.Or(err, errors.ErrUnsupported))}
	}
	if h.network {
		return errPassed // LOCK is released, see settleAfar
	}
	return nil
}

// A recoveryError is an error of recover. Whatever the fate of the empty
// manifest, that of the update which waits is known: it was not done.
type recoveryError struct{ err error }

func (e *recoveryError) Error() string { return fmt.Sprintf("recover after a restart: %v", e.err) }

func (e *recoveryError) Is(target error) bool {
	return target != ErrUnknown && target != ErrNotDurable && errors.Is(e.err, target)
}

func (e *recoveryError) As(target any) bool { return errors.As(e.err, target) }

// mustRecover tells whether recover has to come before anything is published
// on base: nobody has recovered since the restart, or somebody has begun to,
// and was not able to mark what he had published. His manifest is not flushed
// again in his place, for a flush that failed once may succeed without having
// written anything.
func (s *Store) mustRecover(base *state) (bool, error) {
	switch {
	case base.network: // it was on disk before anybody saw it
		return false, nil
	case base.boot != s.sys.boot:
		return true, nil
	case !base.recovery:
		return false, nil
	}
	info, err := s.statOf(base)
	return err == nil && !info.Marked(), err
}

// A groupRun runs the functions of a group, in order, each on what those before
// it made of base.
type groupRun struct {
	s    *Store
	base *state
	h    *header    // its last revision is that of the last change so far
	rest []*request // whose turn has not come yet
	top  changes    // of all that have had it
	own  changes    // empty, for the next one's: to make a map costs more than most functions do
}

// runAll runs the functions of a group. It returns all changes together.
func (s *Store) runAll(group []*request, base *state, h *header) changes {
	h.lastRev = h.firstRev - 1
	g := &groupRun{s: s, base: base, h: h, rest: group}
	for len(g.rest) > 0 {
		if r := g.rest[0]; r.own || r.unruly {
			g.byCaller(r)
			continue
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended) // also if a function ends the goroutine
			g.byGroup()
		}()
		<-ended
	}
	return g.top
}

// byGroup runs functions until one has not returned.
func (g *groupRun) byGroup() {
	for len(g.rest) > 0 && !g.rest[0].unruly {
		r := g.rest[0]
		tx, err := r.try(func() *Tx { return g.begin(r, called) })
		if !r.unruly {
			g.end(r, tx, err)
		}
	}
}

// byCaller has the caller run his function. Who leads does not call himself.
func (g *groupRun) byCaller(r *request) {
	tx := g.begin(r, running)
	if tx == nil {
		g.end(r, nil, nil)
		return
	}
	r.ran = make(chan error, 1)
	if r.own {
		r.call(tx)
	} else {
		r.said <- word{tx: tx}
	}
	g.end(r, tx, <-r.ran)
}

// begin returns what r's function is to work on, or nil if its caller has left.
func (g *groupRun) begin(r *request, p phase) *Tx {
	if !r.begin(p, g.h.lastRev) {
		return nil
	}
	tx := &Tx{s: g.s, base: g.base, below: g.top, own: g.own, now: g.h.time, rev: g.h.lastRev + 1}
	g.own = nil
	return tx
}

// end takes what r's function has changed.
func (g *groupRun) end(r *request, tx *Tx, err error) {
	g.rest = g.rest[1:]
	if r.failed = err; err == nil && tx != nil && len(tx.own) > 0 {
		switch {
		case g.top == nil && len(g.rest) == 0:
			g.top = tx.own
		case g.top == nil:
			g.top = make(changes, len(g.rest)+len(tx.own))
			fallthrough
		default:
			maps.Copy(g.top, tx.own)
			clear(tx.own)
			g.own = tx.own
		}
		g.h.lastRev = tx.rev
		r.rev, r.changed = tx.rev, true
	}
}

// passNoReturn passes the point after which who leaves does not know the fate
// of his update. It reports false if somebody has left before it whose
// changes are among those to be published.
func passNoReturn(group []*request) bool {
	for _, r := range group {
		if !r.move(ran, committing) && r.changed && !r.waits() {
			return false
		}
	}
	return true
}

// restsOn tells whether base counts still and is known to be on disk, so that
// answers that speak of it can be given without writing. On a network file
// system only a commit proves that.
func (s *Store) restsOn(base *state) (bool, error) {
	if s.network.Load() {
		return false, nil
	}
	info, err := s.sys.fs.Lstat(s.manifestPath(base.seq))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.ID == base.id && info.Marked(), err
}

// publishState publishes the state that follows base. It returns it acquired,
// or nil, nil if others have gone past.
func (s *Store) publishState(base *state, h *header, journal []rec, lock *turn) (*state, error) {
	segs, err := s.openSegments(h, base.view.segs)
	if errors.Is(err, fs.ErrNotExist) {
		// The segment that h introduces: others have gone past, and took it for
		// one that nobody will name.
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var st *state
	defer func() {
		if st == nil {
			releaseAll(segs)
		}
	}()
	b := encodeManifest(h, journal)
	f, info, err := s.writeManifest(b, base, h, lock)
	if errors.Is(err, errVanished) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ok, err := s.publish(f, h)
	switch {
	case errors.Is(err, ErrUnknown):
		f.Close() // the temporary file may yet get its name
		return nil, err
	case !ok:
		s.discard(f)
		return nil, err
	case h.network:
		s.own.add(base, h)
		if err := s.settleAfar(f, base, h, lock); err != nil {
			return nil, err
		}
		f = nil
	default:
		if stands, err := s.checkBase(base, h); !stands {
			f.Close()
			return nil, err
		}
		s.recordPublisher(lock)
	}
	st = newState(*h, journal, segs, int64(len(b)), f, info.ID)
	if err := s.install(base, st); err != nil {
		st.release()
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return st, nil
}

// writeManifest writes a manifest to a temporary file. Over a network, where every call
// takes time, it makes sure of the lock at the same time, and of a base that is guessed,
// and flushes the file: that is on disk before it has its name, so that what was seen is
// never lost, whichever machine or server loses power. The error is errVanished if the
// base is not there, or the file prepared is gone.
func (s *Store) writeManifest(b []byte, base *state, h *header, lock *turn) (f vfs.File, info vfs.Info, err error) {
	temp := lock.take()
	if !h.network {
		if f, err = s.writeTemp(b, base, temp, false); err != nil {
			return nil, info, err
		}
		info, err = f.Stat()
	} else {
		proved := make(chan error, 1)
		go func() { proved <- s.proveLock(lock, base, h) }()
		there := make(chan error, 1)
		go func() { there <- s.checkGuess(base, lock) }()
		if f, err = s.writeTemp(b, base, temp, true); errors.Is(err, syscall.ESTALE) {
			err = errVanished // the file was taken for litter: anew
		}
		err = cmp.Or(err, <-proved, <-there)
	}
	if err != nil {
		s.discard(f)
		return nil, info, err
	}
	return f, info, nil
}

// checkGuess makes sure that a base that was guessed counts, and so is the store's still: a
// manifest on top of one that does not would count for all others, and nothing is
// published in a directory that has taken the store's place.
func (s *Store) checkGuess(base *state, lock *turn) error {
	if lock.guess != base {
		return nil
	}
	lock.guess = nil // newest looks at what it finds
	if ok, err := lock.guessCounts(); !ok || err != nil {
		return errVanished // what is wrong with it, newest tells
	}
	return nil
}

// settleAfar is what follows upon publishing over a network. What need not be waited for
// is done at the same time: LOCK is released while it is found out whether the commit
// stands. If it does not the error is errPassed.
func (s *Store) settleAfar(f vfs.File, base *state, h *header, lock *turn) error {
	s.busy.Add(1)
	go func() {
		defer s.busy.Done()
		s.discard(f) // it has another name
	}()
	released := make(chan struct{})
	go func() {
		defer close(released)
		lock.end()
	}()
	stands, err := s.checkBase(base, h)
	<-released
	if err == nil && !stands {
		err = errPassed
	}
	return err
}

// errPassed tells that others have gone past, and that LOCK is released.
var errPassed = errors.New("others have gone past")

// discard removes a temporary file, if there is one.
func (s *Store) discard(f vfs.File) {
	if f != nil {
		f.Close()
		s.sys.fs.Remove(f.Name())
	}
}

// proveLock makes sure, on a network file system and just before publishing,
// that the lock is still ours: a lease that ran out shows itself when what is
// written to LOCK cannot be flushed. It saves a round, not an update. What is written is
// a hint for who has LOCK next: that h is the newest. With NFS 3, where kernel locks have no
// lease of which it could prove anything, who has written alone says once that he gives no
// hint, and then writes no more: to flush nothing is no call there.
func (s *Store) proveLock(lock *turn, base *state, h *header) (err error) {
	hint := h.seq
	row, _ := s.own.inRow(base)
	if s.nfs3 && row == ownRow {
		hint = 0
	}
	if !s.nfs3 || row <= ownRow {
		err = lock.WriteData(binary.LittleEndian.AppendUint64(slices.Clone(s.sys.boot[:]), hint))
	}
	if err == nil {
		err = lock.Sync() // also asks a lock of links, which has a lease
	}
	if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ESTALE) || errors.Is(err, lockfile.ErrLost) {
		return fmt.Errorf("%w: %w", errLockLost, err)
	}
	return err
}

// hint returns the sequence of the manifest that was the newest when LOCK was last held, if
// LOCK says so and things are as they should be, and else 0, or any other number.
func (t *turn) hint() uint64 {
	data, err := t.ReadData()
	if at := len(boot.ID{}); err == nil && len(data) >= at+8 {
		return binary.LittleEndian.Uint64(data[at:])
	}
	return 0
}

// errLockLost tells that LOCK has, as it seems, been lost before anything was
// published under it. It is taken once more then.
var errLockLost = errors.New("the lock was lost")

// maxVain is how often LOCK may be lost, or a disk that is full be made room on, before a
// caller is told: an error that stays looks the same.
const maxVain = 3

// recordPublisher leaves in LOCK the boot id of the machine that published
// last: a manifest that does not check, and is not older than that, was not
// torn by a power loss. An error costs only that knowledge.
func (s *Store) recordPublisher(lock *turn) {
	if s.published.Load() {
		return
	}
	if lock.WriteData(s.sys.boot[:]) == nil {
		s.published.Store(true)
	}
}

// flush makes a published manifest durable, and marks it. File and directory are
// flushed side by side: the file system's journal then does it in one go. LOCK
// is released by now: the flushes of many processes run side by side, and whoever flushes
// his manifest has flushed a file that contains all commits before it.
func (s *Store) flush(st *state, next bool) error {
	named := make(chan error, 1)
	s.busy.Add(2)
	go func() {
		defer s.busy.Done()
		if next {
			s.makeSpare()
		}
	}()
	go func() {
		defer s.busy.Done()
		named <- s.here.dir.Sync()
	}()
	var err error
	f := st.file
	if f != nil { // else it was flushed, and marked, before it was published
		err = f.Sync()
	}
	// The file's name is no longer the one that f was created under.
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		err = &fs.PathError{Op: pathErr.Op, Path: s.manifestPath(st.seq), Err: pathErr.Err}
	}
	if nameErr := <-named; err == nil {
		err = nameErr
	}
	if err != nil || f == nil {
		return err
	}
	// The mark comes after both. Without it the commit is as durable, and
	// retirement waits for a later one.
	if info, err := f.Stat(); err == nil {
		_ = f.Chmod(info.Mode.Perm() &^ 0o222)
	}
	return nil
}

// Put writes a record, whatever was there. The value is encoded with the
// store's codec, or that of [WithCodec]. It returns the record's new revision.
// Errors are those of [Store.Update], [ErrInvalidKey], [ErrTooLarge] and the
// codec's.
func (s *Store) Put(ctx context.Context, key string, value any, opts ...PutOption) (Revision, error) {
	// Encoded once, and outside the lock.
	w, err := s.prepare(key, value, opts)
	if err != nil {
		return 0, fmt.Errorf("put: %w", err)
	}
	return s.Update(ctx, func(tx *Tx) error { return tx.put(w) })
}

// Delete removes a record. If there is none, it reports [ErrNotFound].
func (s *Store) Delete(ctx context.Context, key string) (Revision, error) {
	if err := checkKey(key); err != nil {
		return 0, fmt.Errorf("delete: %w", err)
	}
	return s.Update(ctx, func(tx *Tx) error { return tx.Delete(key) })
}

// CompareAndSwap writes a record if its revision is old, or, if old is 0, if
// there is none. Else it reports a [*ConflictError], which is an
// [ErrConflict], and nothing is changed.
func (s *Store) CompareAndSwap(ctx context.Context, key string, old Revision, value any, opts ...PutOption) (Revision, error) {
	w, err := s.prepare(key, value, opts)
	if err != nil {
		return 0, fmt.Errorf("compare and swap: %w", err)
	}
	return s.Update(ctx, func(tx *Tx) error {
		if err := tx.expect(key, old); err != nil {
			return err
		}
		return tx.put(w)
	})
}

// CompareAndDelete removes a record if its revision is old, which must not be
// 0. Else it reports a [*ConflictError].
func (s *Store) CompareAndDelete(ctx context.Context, key string, old Revision) (Revision, error) {
	if err := checkKey(key); err != nil {
		return 0, fmt.Errorf("compare and delete: %w", err)
	}
	if old == 0 {
		return 0, fmt.Errorf("compare and delete %q: revision 0 is no record's", key)
	}
	return s.Update(ctx, func(tx *Tx) error {
		if err := tx.expect(key, old); err != nil {
			return err
		}
		return tx.Delete(key)
	})
}

// Sync makes durable all that was committed before it began, by this process
// or others. Updates are durable when they return; Sync is for what others
// have committed and perhaps not yet flushed.
func (s *Store) Sync(ctx context.Context) error {
	out := s.submitNothing(ctx)
	if out.err == nil {
		out.st.release()
	}
	return out.err
}
