package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
)

// This file moves records out of the journal into segments, and merges
// segments. Both are one operation, rewrite: some of what a state holds is
// written to a new segment, outside the lock, and then a manifest is published
// that names it in place of what went into it. No record changes by that, and
// nobody waits for it, but for the publishing, which is a commit like others.
//
// States that dying here can leave: a temporary file; a segment that no
// manifest names, which retirement removes; or the new manifest.

// How many segments there may be. One that is read is asked for its index, so
// they are few; the file format allows maxSegments.
const (
	// growth says when segments are merged: an older one when it is not more
	// than growth times as large as all newer ones of the merge together. So
	// sizes grow by at least that factor from one to the next older, and what
	// is merged with newer ones grows by half at least.
	growth = 2
	// mergeAbove is how many segments that are newer than what another process merges are
	// merged meanwhile.
	mergeAbove = 8
	// mergeAnyway is the number of segments from which on a process merges
	// though another one has MERGE and does not say what it merges: it may be
	// standing still.
	mergeAnyway = 24
	// waitForMerge is the number from which on a process merges before it
	// commits anything more.
	waitForMerge = 48
	// patientMerge is the number below which a process that closes the store
	// leaves a merge of much to others.
	patientMerge = 12
	// quickMerge is what is merged in some ten milliseconds, in bytes.
	quickMerge = 4 << 20
	// checkEvery is how many bytes of a segment are written between two looks whether to
	// go on.
	checkEvery = 256 << 10
	// shunFor is how long a merge is not tried again that failed for want of room, or
	// because of damage.
	shunFor = time.Minute
)

// defaultJournal is the size in bytes at which the journal is moved into a
// segment. docs/DESIGN.md has the measurements.
const defaultJournal = 16 << 10

// journalBound is how large the journal may get, in bytes.
type journalBound struct {
	soft int64 // from here on it is to be moved, by who crosses a quarter of it
	wide int64 // the soft bound where commits are large; see commitsToMove
	hard int64 // beyond, it is moved before anything is added
}

// commitsToMove is how many commits like the last one the journal is to have
// room for, within the wide bound: for groups of many updates the soft one
// would be a segment every other commit.
const commitsToMove = 8

func boundOf(size int) journalBound {
	if size > 0 {
		soft := min(int64(size), maxManifestSize/16)
		return journalBound{soft: soft, wide: soft, hard: 8 * soft}
	}
	return journalBound{soft: defaultJournal, wide: 4 * defaultJournal, hard: 8 * defaultJournal}
}

// crossed tells whether whoever made the commit st, on top of base, is to tidy
// up: his commit crossed a bound, or has written a segment. That one process
// does so, and another one soon, should it die, needs no lock.
func (b journalBound) crossed(base, st *state) bool {
	before, now := base.journalSize(), st.journalSize()
	bound := max(b.soft, min(commitsToMove*(now-before), b.wide))
	step := max(bound/4, 1)
	again := st.seq%64 == 0 // should whoever crossed it have died, and the journal not grow
	return now >= bound && (again || before/step < now/step) || len(st.segments) > len(base.segments)
}

// journalSize returns the size of the journal in bytes.
func (st *state) journalSize() int64 {
	return st.size - headerSize - int64(len(st.ancestors))*ancestorSize - int64(len(st.segments))*segmentRefSize - checksumSize
}

// merging is what a Store needs for merging.
type merging struct {
	background context.Context // ends when Close is called
	stop       context.CancelFunc
	hurried    context.Context // ends closePatience after that
	hurry      context.CancelFunc

	moving sync.Mutex // held by who moves the journal in the background

	mergeMu   sync.Mutex // protects what follows
	mergeLock locker     // nil before the first merge
	mergeHeld heldLock   // MERGE, while merges of this process have it; else nil
	merges    []*input   // that are under way, the newest inputs last
	claims    int        // how many wait for MERGE: then it is not given from merge to merge
	shun      ID         // the oldest segment of the last merge that would fail again
	shunUntil time.Time  // until then neither that nor what is older is merged

	rewriteErr atomic.Pointer[error] // of the last rewrite
}

// closePatience is how long Close waits for LOCK so that this process's own
// commits leave the journal as small as it is to be.
const closePatience = time.Second

func (m *merging) start() {
	m.background, m.stop = context.WithCancel(context.Background())
	m.hurried, m.hurry = context.WithCancel(context.Background())
}

// hurryUp lets what is under way come to its end soon.
func (m *merging) hurryUp() {
	m.stop()
	time.AfterFunc(closePatience, m.hurry)
}

func (m *merging) close() error {
	m.stop()
	m.hurry()
	m.mergeMu.Lock()
	defer m.mergeMu.Unlock()
	if m.mergeLock == nil {
		return nil
	}
	return m.mergeLock.Close()
}

// publishChanges publishes the state that follows base, with the journal, or,
// if the journal would be too large, with a segment in its place. That is the
// one case in which a segment is written under LOCK: large values, updates of
// many records, and the back-pressure should nobody get to move the journal.
func (s *Store) publishChanges(base *state, h *header, journal []rec, lock *turn) (*state, error) {
	if sizeOf(journal) <= s.bound.hard {
		return s.publishState(base, h, journal, lock)
	}
	if lock.guess == base { // not on a guess
		lock.guess = nil
		return nil, nil
	}
	if len(h.segments) >= maxSegments {
		err := fmt.Errorf("update %s: there are %d segments, the limit, and merging them did not succeed; see recordctl compact", s.dir, maxSegments)
		if why := s.rewriteErr.Load(); why != nil && *why != nil {
			err = fmt.Errorf("%w: %s", err, (*why).Error()) // not wrapped: the fate of a merge is not the update's
		}
		return nil, err
	}
	out, err := s.writeSegment(base, &recSource{journal}, nil)
	if err != nil {
		return nil, err
	}
	defer out.close()
	if err := s.introduce(out, h, 0, 0); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // swept as litter, so our state is old
		}
		return nil, err
	}
	st, err := s.publishState(base, h, nil, lock)
	if st != nil || errors.Is(err, ErrUnknown) {
		out.keep()
	}
	return st, err
}

// An output is a segment that has been written and flushed, and belongs to no
// manifest yet.
type output struct {
	s    *Store
	ref  segmentRef
	file vfs.File
	temp string // the name it was written under, "" when it has that no more
	name string // the one it was given for a manifest, "" when that may name it
}

// keep leaves the file where it is.
func (o *output) keep() { o.name = "" }

// close removes the file unless it is to be kept.
func (o *output) close() {
	if o == nil {
		return
	}
	o.file.Close()
	for _, name := range []string{o.temp, o.name} {
		if name != "" {
			o.s.sys.fs.Remove(name) // else it is swept later
		}
	}
}

// writeSegment writes what src yields to a temporary file and flushes it. If
// that is nothing, the result is nil. check, if not nil, is asked now and then
// whether to go on.
func (s *Store) writeSegment(base *state, src source, check func() error) (_ *output, err error) {
	r, err := src.next()
	if r == nil || err != nil {
		return nil, err
	}
	f, err := s.newTemp(base)
	if err != nil {
		return nil, err
	}
	out := &output{s: s, file: f, temp: f.Name()}
	defer func() {
		if err != nil {
			out.close()
		}
	}()
	w := newSegmentWriter(f, base.store, newID(), s.sys.layout)
	for due := int64(0); r != nil && err == nil; {
		if err = w.add(r); err == nil && check != nil && w.off >= due {
			due = w.off + checkEvery
			err = check()
		}
		if err == nil {
			r, err = src.next()
		}
	}
	if err != nil {
		return nil, err
	}
	if out.ref, err = w.finish(); err != nil {
		return nil, err
	}
	// It is on disk and never changes again.
	if info, err := f.Stat(); err == nil && !info.Marked() {
		_ = f.Chmod(info.Mode.Perm() &^ 0o222)
	}
	return out, nil
}

// introduce gives a segment the name under which h may introduce it, flushes
// that, and lets h name it in place of its segments from one index to another.
// It is flushed before h is published: others will build on h, and if our flush
// failed after that, theirs would say nothing of the segment's name.
func (s *Store) introduce(out *output, h *header, from, to int) error {
	segments := slices.Clone(h.segments[:from])
	if out != nil {
		out.ref.seq = h.seq
		if err := s.rename(out, s.path(out.ref.name())); err != nil {
			return err
		}
		if err := s.here.dir.Sync(); err != nil {
			return err
		}
		segments = append(segments, out.ref)
	}
	h.segments = append(segments, h.segments[to:]...)
	return nil
}

// rename gives a segment its name, or another one if a manifest that was to introduce it
// came too late.
func (s *Store) rename(out *output, name string) error {
	if out.name == name {
		return nil // tried before
	}
	if err := s.giveName(cmp.Or(out.name, out.temp), name); err != nil {
		// Over a network the error may be that of a repeated request.
		if there, lookErr := s.exists(name); lookErr != nil || !there {
			return err
		}
	}
	if !s.network.Load() {
		out.temp = ""
	} else if out.name != "" {
		s.sys.fs.Remove(out.name)
	}
	out.name = name
	return nil
}

// An input is what of a state goes into one segment: its journal, or some
// segments.
type input struct {
	st      *state
	journal bool
	from    int // index of the newest segment
	to      int // after that of the oldest
}

// bytes returns the size of the input.
func (in *input) bytes() int64 {
	n := int64(0)
	for _, ref := range in.st.segments[in.from:in.to] {
		n += ref.size
	}
	if in.journal {
		n += in.st.journalSize()
	}
	return n
}

// source yields what of the input is to be kept. What it leaves out nobody can see any more:
// tombstones with nothing below them, the values of expired records.
func (in *input) source() source {
	m := newMerger()
	if in.journal {
		m.add(&recSource{in.st.view.journal})
	}
	for _, g := range in.st.view.segs[in.from:in.to] {
		m.add(g.scan(span{}))
	}
	return &survivors{m: m, now: in.st.time, bottom: in.to == len(in.st.segments)}
}

// survivors yields what of a source is still needed at the time now.
type survivors struct {
	m      *merger
	now    int64
	bottom bool // there is nothing older
}

func (s *survivors) next() (rec, error) {
	for {
		r, err := s.m.next()
		switch {
		case r == nil || err != nil:
			return nil, err
		case !r.tombstone() && !r.expired(s.now):
			return r, nil
		case s.bottom:
			continue
		case r.tombstone():
			return r, nil
		}
		return encodeTombstone(string(r.key()), r.revision(), s.now), nil
	}
}

// place finds out where in base, which may be newer than the input's state, the
// segment goes that the input became: in place of the segments from one index
// to another. The journal that is left is returned. It reports false if the
// segment is of no use any more.
func (in *input) place(base *state) (from, to int, journal []rec, ok bool) {
	if in.journal {
		if len(in.st.segments) == 0 && len(base.segments) > 0 {
			// Tombstones were left out, as there was nothing below them.
			return 0, 0, nil, false
		}
		journal, ok = without(base.view.journal, in.st.view.journal)
		return 0, 0, journal, ok
	}
	inputs := in.st.segments[in.from:in.to]
	from = slices.Index(base.segments, inputs[0])
	to = from + len(inputs)
	ok = from >= 0 && to <= len(base.segments) && slices.Equal(base.segments[from:to], inputs)
	return from, to, base.view.journal, ok
}

// without returns the records of journal that moved, an older state of it,
// does not contain in the same version. It reports false if the journal has
// been moved since, so that segments may hold newer versions than moved. If it
// has not, all of them are in the journal still, in that version or a newer
// one: then what moved became belongs above all segments.
func without(journal, moved []rec) (left []rec, ok bool) {
	for _, r := range journal {
		if len(moved) > 0 && string(moved[0].key()) == string(r.key()) {
			same := moved[0].revision() == r.revision()
			moved = moved[1:]
			if same {
				continue
			}
		}
		left = append(left, r)
	}
	return left, len(moved) == 0
}

// rewrite turns the input into one segment. It reports false if that was in
// vain, because others have changed what went into it.
func (s *Store) rewrite(ctx context.Context, in *input) (bool, error) {
	done, err := s.rewriteOnce(ctx, in)
	if s.madeRoom(err) {
		done, err = s.rewriteOnce(ctx, in)
	}
	s.rewriteErr.Store(&err)
	return done, err
}

func (s *Store) rewriteOnce(ctx context.Context, in *input) (bool, error) {
	out, err := s.writeSegment(in.st, in.source(), ctx.Err)
	if err != nil {
		return false, err
	}
	defer out.close()
	if ctx.Done() == nil { // it must be done, and yet not hang behind a LOCK that is never free
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	st, err := s.replaceLocked(ctx, in, out)
	if st == nil || err != nil {
		return false, err
	}
	defer st.release()
	if err := s.flush(st, false); err != nil {
		return false, fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	if in.bytes() >= retireBytes {
		s.retireBelow(st, s.sys.keep)
	} else {
		s.retire(st)
	}
	return true, nil
}

// replaceLocked is replace, with LOCK.
func (s *Store) replaceLocked(ctx context.Context, in *input, out *output) (st *state, err error) {
	for lost := 0; lost < maxVain; {
		st, err = s.replaceOnce(ctx, in, out)
		switch {
		case errors.Is(err, errLockLost):
			lost++
		case !errors.Is(err, errPassed):
			return st, err
		}
	}
	return nil, err
}

func (s *Store) replaceOnce(ctx context.Context, in *input, out *output) (*state, error) {
	temp := s.prepareTemp()
	lock, err := s.turnWith(ctx, cmp.Or(s.opts.Purpose, "merging"), temp)
	if err != nil {
		s.discard(temp)
		return nil, err
	}
	defer func() { s.discard(lock.temp) }()
	defer lock.end()
	return s.replace(in, out, lock)
}

// replace publishes the state in which the output is in the input's place. It
// returns it acquired, or nil if there is no place any more.
func (s *Store) replace(in *input, out *output, lock *turn) (st *state, err error) {
	err = s.onNewest(nil, func(base *state) (bool, error) {
		if must, err := s.mustRecover(base); must || err != nil {
			if err == nil {
				err = s.recover(base, lock)
			}
			return false, err
		}
		from, to, journal, ok := in.place(base)
		if !ok || len(base.segments) >= maxSegments && out != nil && from == to {
			return true, nil
		}
		h := s.child(base)
		h.lastRev = h.firstRev - 1
		if err := s.introduce(out, h, from, to); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return true, nil // swept as litter
			}
			return false, err
		}
		st, err = s.publishState(base, h, journal, lock)
		if out != nil && (st != nil || errors.Is(err, ErrUnknown)) {
			out.keep()
		}
		return st != nil, err
	})
	return st, err
}

// tidy moves the journal of st into a segment, and merges what is to be merged
// then. An error is no update's: the journal stays where it is, and is moved by
// the next commit that crosses a bound; the last bound is the writers'.
func (s *Store) tidy(st *state) {
	if st.journalSize() < s.bound.soft || s.moveJournal(st) {
		_ = s.merge(s.background)
	}
}

// moveJournal moves the journal of st. It reports false if it failed, or was in vain, or
// if somebody in this process is at it: what two of them write at the same time, one has
// written in vain.
func (s *Store) moveJournal(st *state) bool {
	if !s.moving.TryLock() {
		return false
	}
	defer s.moving.Unlock()
	// Not s.background: this is quick, and who closes the store waits for it.
	done, err := s.rewrite(s.hurried, &input{st: st, journal: true})
	return done && err == nil
}

// due returns what of the first n segments of st, which are the newest, is to be merged,
// or nil: the newest run of segments of which each older one is not too large for all
// newer ones of it.
func due(st *state, n int) *input {
	segs := st.segments[:n]
	for from := range segs {
		to, sum := from+1, segs[from].size
		for to < len(segs) && segs[to].size <= growth*sum {
			sum += segs[to].size
			to++
		}
		if to > from+1 {
			return &input{st: st, from: from, to: to}
		}
	}
	return nil
}

// merge merges segments until none are due, but those that somebody merges already: of
// those who merge the same at the same time only one gets anywhere. What takes long ends
// with ctx, unless there are many segments.
func (s *Store) merge(ctx context.Context) error {
	for {
		st, err := s.newest(s.hurried)
		if err != nil {
			return err
		}
		in, err := s.startMerge(st, mergeAnyway)
		if in == nil {
			st.release()
			return err
		}
		end := ctx
		switch {
		case len(st.segments) >= patientMerge:
			end = context.Background()
		case in.bytes() < quickMerge:
			end = s.hurried
		}
		_, err = s.rewrite(end, in)
		s.endMerge(in, err)
		st.release()
		if err != nil && (!failsAgain(err) || ctx.Err() != nil) {
			return err
		}
	}
}

// failsAgain tells whether a merge that ended with err would end so again, for want of room
// or by damage, if it was tried at once.
func failsAgain(err error) bool {
	return noSpace(err) || errors.Is(err, ErrCorrupt)
}

// startMerge returns what of st is to be merged that nobody merges already, as far as is
// known, or nil. The caller is to merge that, and then to call endMerge.
//
// A merge of much takes seconds, in which many segments may come, and these are merged
// meanwhile, by this process if it has MERGE. There is no lock between others who do so. Of
// them it is the one who finds that mergeAbove more have come, which he sees whose segment
// was the last of them; when there are so many that nothing else may be done, everybody.
// If who has MERGE does not say what he merges, from anyway segments on it is as if he had
// not got it; and so it is if MERGE cannot be used.
func (s *Store) startMerge(st *state, anyway int) (*input, error) {
	if due(st, len(st.segments)) == nil {
		return nil, nil // without MERGE, which would be made
	}
	err := s.openMerge()
	s.mergeMu.Lock()
	defer s.mergeMu.Unlock()
	n := s.freeLocked(st)
	switch {
	case s.mergeHeld != nil && s.claims > 0:
		return nil, nil
	case s.mergeHeld == nil && err == nil:
		s.mergeHeld, err = s.mergeLock.TryLock(cmp.Or(s.opts.Purpose, "merging"))
	}
	if err != nil {
		s.mergeHeld = nil
		switch above, told := s.aboveOthers(st); {
		case told && above >= mergeAbove && (above%mergeAbove == 0 || len(st.segments) >= waitForMerge):
			n = min(n, above)
		case told || len(st.segments) < anyway:
			return nil, err
		}
	}
	in := due(st, n)
	if in == nil {
		s.letGoLocked()
		return nil, err
	}
	s.enterLocked(in, s.mergeHeld)
	return in, nil
}

// mergeableLocked returns how many of the newest segments of st are newer than what could
// not be merged lately: that does not keep them from being merged.
func (s *Store) mergeableLocked(st *state) int {
	if time.Now().After(s.shunUntil) {
		return len(st.segments)
	}
	return st.newerThan(s.shun)
}

// due returns what is to be merged of what can be.
func (s *Store) due(st *state) *input {
	s.mergeMu.Lock()
	defer s.mergeMu.Unlock()
	return due(st, s.mergeableLocked(st))
}

// freeLocked returns how many of those are newer than all that this process merges.
func (s *Store) freeLocked(st *state) int {
	n := s.mergeableLocked(st)
	for _, in := range s.merges {
		n = min(n, st.newerThan(in.newest()))
	}
	return n
}

// newest returns the id of the newest segment of the input.
func (in *input) newest() ID { return in.st.segments[in.from].id }

// newerThan returns how many segments of st are newer than the one with the id: all, if it
// is not there any more.
func (st *state) newerThan(id ID) int {
	if i := slices.IndexFunc(st.segments, func(g segmentRef) bool { return g.id == id }); i >= 0 {
		return i
	}
	return len(st.segments)
}

// aboveOthers returns how many of the newest segments of st are newer than those that the
// holder of MERGE merges, and whether he says what that is.
func (s *Store) aboveOthers(st *state) (n int, told bool) {
	data, err := s.sys.lockData(s.path(mergeName))
	if err != nil || len(data) != len(ID{}) {
		return 0, false
	}
	return st.newerThan(ID(data)), true
}

// enterLocked notes that in is being merged, and says so in MERGE, if that is held. It is a
// hint: whoever does not know of it merges in vain, or makes this merge one.
func (s *Store) enterLocked(in *input, held heldLock) {
	s.merges = append(s.merges, in)
	if held != nil {
		id := in.newest()
		_ = held.WriteData(id[:])
	}
}

// endMerge is called when in has been merged, or not, because of err.
func (s *Store) endMerge(in *input, err error) {
	s.mergeMu.Lock()
	defer s.mergeMu.Unlock()
	if failsAgain(err) {
		s.shun, s.shunUntil = in.st.segments[in.to-1].id, time.Now().Add(shunFor)
	}
	s.merges = slices.DeleteFunc(s.merges, func(m *input) bool { return m == in })
	if n := len(s.merges); n > 0 && s.mergeHeld != nil {
		id := s.merges[n-1].newest()
		_ = s.mergeHeld.WriteData(id[:])
	}
	s.letGoLocked()
}

// letGoLocked releases MERGE if no merge of this process needs it.
func (s *Store) letGoLocked() {
	if len(s.merges) == 0 && s.mergeHeld != nil {
		_ = s.mergeHeld.Unlock()
		s.mergeHeld = nil
	}
}

// mergeFirst merges if there are so many segments that nothing else may be done
// before: the back-pressure on those who write faster than others merge. It
// waits a while for who merges already; that one may be standing still.
func (s *Store) mergeFirst() {
	for range maxSegments {
		st := s.current()
		if st == nil {
			return
		}
		many := len(st.segments) >= waitForMerge && s.due(st) != nil
		st.release()
		if !many || !s.mergeOnce() {
			return // an error shows itself at the limit
		}
	}
}

// mergeOnce is one step of mergeFirst. It reports whether that was of any use.
func (s *Store) mergeOnce() bool {
	st, err := s.newest(s.hurried)
	if err != nil {
		return false
	}
	in, _ := s.startMerge(st, maxSegments+1)
	if in == nil { // somebody has MERGE who is at it, or stands still
		st.release()
		ctx, cancel := context.WithTimeout(s.hurried, closePatience)
		defer cancel()
		lock, _ := s.claimMerge(ctx, "merging")
		if lock != nil {
			defer func() { _ = lock.Unlock() }()
		}
		if st, err = s.newest(s.hurried); err != nil {
			return false
		}
		if in = s.due(st); in != nil && len(st.segments) >= waitForMerge {
			s.mergeMu.Lock()
			s.enterLocked(in, lock)
			s.mergeMu.Unlock()
		} else {
			in = nil
		}
	}
	defer st.release()
	if in != nil {
		_, err = s.rewrite(s.hurried, in)
		s.endMerge(in, err)
	}
	return err == nil
}

// claimMerge waits for MERGE, which merges of this process may have too.
func (s *Store) claimMerge(ctx context.Context, purpose string) (heldLock, error) {
	if err := s.openMerge(); err != nil {
		return nil, err
	}
	count := func(n int) {
		s.mergeMu.Lock()
		defer s.mergeMu.Unlock()
		s.claims += n
	}
	count(1)
	defer count(-1)
	return s.mergeLock.Lock(ctx, cmp.Or(s.opts.Purpose, purpose))
}

// openMerge opens MERGE, which gets LOCK's owner and permissions: who may write
// may merge.
func (s *Store) openMerge() error {
	s.mergeMu.Lock()
	defer s.mergeMu.Unlock()
	if s.mergeLock != nil {
		return nil
	}
	path := s.path(mergeName)
	_, statErr := s.sys.fs.Lstat(path)
	lock, err := s.openLockFile(mergeName)
	if err != nil {
		return err
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		if f, err := s.sys.fs.Open(path); err == nil {
			if class, err := s.class(nil); err == nil {
				_ = s.adopt(f, class, class.Mode.Perm()|0o200) // else some cannot merge, and leave it to others
			}
			f.Close()
		}
	}
	s.mergeLock = lock
	return nil
}

// Compact merges the journal and all segments into one segment, and removes
// what is no longer needed: what was deleted, expired or overwritten then takes
// no room any more. It is not needed for the store to work well: segments are
// merged as they come. Readers and writers go on meanwhile.
//
// If another process merges, Compact waits for it. It needs room on the disk
// for all records once more. On a local file system it then waits for a second,
// in which readers may still open the old files; on a network file system the
// old files stay for some minutes, until a later commit removes them.
//
// Errors are those of [Store.Update]; a context that ends leaves the store as
// it was, or compacted in part.
func (s *Store) Compact(ctx context.Context) error {
	if err := s.compact(ctx); err != nil {
		return fmt.Errorf("compact %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) compact(ctx context.Context) error {
	switch {
	case s.opts.ReadOnly:
		return ErrReadOnly
	case !s.queue.join():
		return fs.ErrClosed
	}
	defer s.busy.Done()
	ctx, cancel := context.WithCancelCause(ctx) // it waits for as long as its caller likes, see rewrite
	defer cancel(nil)
	defer context.AfterFunc(s.background, func() { cancel(fs.ErrClosed) })()
	err := s.compactWith(ctx)
	if err != nil && context.Cause(ctx) == fs.ErrClosed {
		err = fs.ErrClosed // not that a context has ended, which was not the caller's
	}
	return err
}

func (s *Store) compactWith(ctx context.Context) error {
	lock, err := s.claimMerge(ctx, "compacting")
	if err != nil {
		return err
	}
	err = s.compactLocked(ctx, lock)
	_ = lock.Unlock()
	if err != nil {
		return err
	}
	return s.retireAll(ctx)
}

// compactLocked moves the journal, then merges all segments. What others add
// meanwhile is left. It is called with MERGE held.
func (s *Store) compactLocked(ctx context.Context, merge heldLock) error {
	once := func(f func(st *state) *input) (bool, error) {
		st, err := s.newest(ctx)
		if err != nil {
			return false, err
		}
		defer st.release()
		in := f(st)
		if in == nil {
			return true, nil
		}
		if !in.journal {
			s.mergeMu.Lock()
			s.enterLocked(in, merge)
			s.mergeMu.Unlock()
			defer s.endMerge(in, nil)
		}
		return s.rewrite(ctx, in)
	}
	for _, step := range []func(st *state) *input{
		func(st *state) *input {
			if len(st.view.journal) == 0 || len(st.segments) >= maxSegments { // there is no room for one more
				return nil
			}
			return &input{st: st, journal: true}
		},
		func(st *state) *input {
			if len(st.segments) == 0 {
				return nil
			}
			return &input{st: st, to: len(st.segments)}
		},
	} {
		for tries := 0; ; tries++ {
			done, err := once(step)
			if err != nil {
				return err
			}
			if done {
				break
			}
			if tries == 10 {
				return errors.New("others have changed what was being merged, ten times over; try again when fewer write")
			}
		}
	}
	return nil
}

// retireAll waits until what was superseded before it began may be retired.
func (s *Store) retireAll(ctx context.Context) error {
	if s.network.Load() {
		return nil
	}
	t := time.NewTimer(s.keepAge())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
	}
	st, err := s.newest(ctx)
	if err != nil {
		return err
	}
	defer st.release()
	if marked := s.lastMarked(st); marked != nil {
		s.retireBelow(marked, 1)
		marked.release()
	}
	return nil
}
