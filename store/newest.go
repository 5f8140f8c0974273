package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/internal/boot"
	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/lockfile"
)

// This file finds the newest manifest. Nothing in it takes a lock or writes.
//
// It rests on these facts (docs/DESIGN.md argues them):
//
//   - A manifest's name, once taken, is freed only by retirement, which goes
//     in ascending order. So while a name still holds what it held, nothing
//     above it has been retired.
//   - A writer publishes on top of the newest manifest, at the lowest name
//     above it that is free. A writer with an old view can therefore take a
//     name only after its base was retired. What it publishes then, and dies
//     before it can withdraw, is an orphan: a whole manifest that does not
//     count.
//   - A manifest counts if, after it was seen, the name of its parent, or of
//     any manifest below it that counts, still held that manifest.

// errVanished reports that a name that was listed is gone: look again.
var errVanished = errors.New("manifest was retired meanwhile")

// backoff waits a little longer each time.
type backoff struct{ spent, step time.Duration }

const (
	firstPause = 200 * time.Microsecond
	patience   = 10 * time.Second // in all, before something is called impossible
)

// wait reports false when the patience or the context has come to its end.
func (b *backoff) wait(ctx context.Context) bool {
	if b.spent >= patience {
		return false
	}
	b.step = min(max(2*b.step, firstPause), 250*time.Millisecond)
	b.spent += b.step
	t := time.NewTimer(b.step)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *Store) path(name string) string        { return filepath.Join(s.dir, name) }
func (s *Store) manifestPath(seq uint64) string { return s.path(manifestName(seq)) }

// exists tells whether there is a file of that name.
func (s *Store) exists(path string) (bool, error) {
	switch _, err := s.sys.fs.Lstat(path); {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, err
	}
}

// holds tells whether the name of st still holds the very file of st.
func (s *Store) holds(st *state) (bool, error) {
	switch info, err := s.sys.fs.Lstat(s.manifestPath(st.seq)); {
	case err == nil:
		return info.ID == st.id, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, err
	}
}

// statOf describes the file of st.
func (s *Store) statOf(st *state) (vfs.Info, error) {
	if st.file != nil {
		return st.file.Stat()
	}
	return s.sys.fs.Lstat(s.manifestPath(st.seq))
}

// isNewest tells whether st is the newest state: two stats, and the answer
// holds for the moment between them. The order matters: had the name above
// been used and retired before we asked for it, st would have been retired
// before that.
func (s *Store) isNewest(st *state) (bool, error) {
	above, err := s.exists(s.manifestPath(st.next()))
	if above || err != nil {
		return false, err
	}
	return s.holds(st)
}

// isNewestHere is isNewest for reading, by the open directory: a directory that
// has not changed since st was found to be the newest needs no lookups at all.
// It may be that the directory's path leads elsewhere by now: that is looked at
// only now and then.
func (s *Store) isNewestHere(st *state) (bool, error) {
	now := s.sys.now()
	if ok, err := s.here.stays(s, now); !ok || err != nil {
		return false, err
	}
	changed, err := s.here.dir.Changed()
	if err != nil {
		return false, err
	}
	if !changed.IsZero() && st.confirmed.Load() == changed.UnixNano() {
		return true, nil
	}
	_, above, err := s.here.dir.Lookup(st.nextName)
	if above || err != nil {
		return false, err
	}
	id, ok, err := s.here.dir.Lookup(st.name)
	if ok && id == st.id && !changed.IsZero() && now.Sub(changed) > timeStep(changed) {
		// The change is so long ago that another one, after these lookups,
		// will have another time.
		st.confirmed.Store(changed.UnixNano())
	}
	return ok && id == st.id, err
}

// timeStep is more than the steps in which a file system's time advances, if
// this is one of its times: some milliseconds, or a second or two where times
// have no fraction.
func timeStep(t time.Time) time.Duration {
	if t.Nanosecond() == 0 {
		return 3 * time.Second
	}
	return 50 * time.Millisecond
}

// A lookout is the store's directory, held open.
type lookout struct {
	dir     vfs.Dir
	id      vfs.ID
	checked atomic.Int64 // when its path was last seen to lead to it, nanoseconds since 1970 UTC
}

// recheck is how long reading may overlook that a directory has another place.
const recheck = 100 * time.Millisecond

// stays tells whether the store's path still leads to the open directory.
func (l *lookout) stays(s *Store, at time.Time) (bool, error) {
	if l.dir == nil {
		return false, nil
	}
	now, last := at.UnixNano(), l.checked.Load()
	if d := now - last; 0 <= d && d < int64(recheck) {
		return true, nil
	}
	info, err := s.sys.fs.Lstat(s.dir)
	if err != nil || info.ID != l.id {
		return false, err
	}
	l.checked.Store(now)
	return true, nil
}

// openLookout opens the directory.
func (s *Store) openLookout() error {
	dir, err := s.sys.fs.OpenDir(s.dir)
	if err != nil {
		return err
	}
	s.here.dir = dir
	s.here.id, err = dir.ID()
	return err
}

// current returns the newest state that this process has seen, acquired, or
// nil.
func (s *Store) current() *state {
	for {
		st := s.cur.Load()
		if st == nil || st.acquire() {
			return st
		}
	}
}

// newest returns the newest state of the store, acquired.
func (s *Store) newest(ctx context.Context) (*state, error) {
	var pause backoff
	for {
		st, err := s.newestOnce(ctx, true)
		if !errors.Is(err, errVanished) {
			return st, err
		}
		if pause.wait(ctx) {
			continue
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		st, err = s.newestOnce(ctx, false)
		if errors.Is(err, errVanished) {
			err = fmt.Errorf("%s: no manifest could be read in %v, all were retired before they could be opened: %w", s.dir, patience, err)
		}
		return st, err
	}
}

// guess returns a state that is likely to be the newest, acquired, or nil; and what then
// tells whether it counts. Over a network to make sure of both takes a third of a
// commit's time. That it counts can be made sure of while the manifest is written, and
// whether it is the newest is found out after publishing anyhow.
func (s *Store) guess(lock *turn) (st *state, counts func() (bool, error)) {
	if !s.network.Load() {
		return nil, nil
	}
	old := s.current()
	if old == nil {
		return nil, nil
	}
	// Neither need be held for this.
	counts = func() (bool, error) {
		if ok, err := s.still(old); ok || err != nil || st == old {
			return ok, err
		}
		return s.counts(st)
	}
	if s.own.alone(old, s.keepAge()/6) {
		return old, counts
	}
	seq := lock.hint()
	if seq < old.seq { // it says nothing, or is of before
		seqs, _, err := s.list()
		if err != nil || len(seqs) == 0 || seqs[len(seqs)-1] < old.seq {
			old.release()
			return nil, nil
		}
		seq = seqs[len(seqs)-1]
	}
	if seq == old.seq {
		return old, counts
	}
	defer old.release()
	next, err := s.load(seq)
	if err != nil {
		return nil, nil // what is wrong with it, newest tells
	}
	if next.contains(old.self()) == lineageNo {
		next.release()
		return nil, nil
	}
	return next, counts
}

// ownCommits is what a process remembers of its commits over a network, for guess.
type ownCommits struct {
	mu   sync.Mutex // protects the rest
	last ID         // of the newest
	at   time.Time  // when it was published
	row  int        // how many of them in a row, at the end, were each built on the one before
}

// add tells of a commit that has been published.
func (o *ownCommits) add(base *state, h *header) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.row++; base.commit != o.last {
		o.row = 0
	}
	o.last, o.at = h.commit, time.Now()
}

// alone tells whether st is the process's last commit, and nobody else, as it seems, is
// writing. It must not be older than age: functions run on it before it is known to be
// there, and once it is retired its segments can go. The clock that stands still while the
// machine sleeps is not enough, nor is that which can be set.
func (o *ownCommits) alone(st *state, age time.Duration) bool {
	row, at := o.inRow(st)
	now := time.Now()
	wall := now.Round(0).Sub(at.Round(0))
	return row >= ownRow && now.Sub(at) <= age && 0 <= wall && wall <= age
}

// inRow returns how many of the process's commits, up to st, were each built on the one
// before, and when st was published: none if it is not the process's last commit.
func (o *ownCommits) inRow(st *state) (row int, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last != st.commit {
		return 0, time.Time{}
	}
	return o.row, o.at
}

// ownRow is how many commits in a row make it likely that the next one will be built on
// them too.
const ownRow = 8

// A finder lets one goroutine at a time look for the newest manifest, from which
// the others profit.
type finder struct {
	turn  chan struct{} // capacity 1: has something in it while somebody looks
	begun atomic.Uint64 // how often somebody has begun to look
	found uint64        // begun, when the last look began that found the newest; whoever has the turn may use it
}

// newestOnce is newest, without a second attempt where that may help: then it
// returns errVanished. patient says to take a directory that seems to be older than
// what has been seen for one that is not fresh.
func (s *Store) newestOnce(ctx context.Context, patient bool) (*state, error) {
	if st := s.warm(s.isNewest); st != nil {
		return st, nil
	}
	came := s.finder.begun.Load()
	select {
	case s.finder.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.finder.turn }()
	if s.finder.found > came { // since we have come
		if st := s.current(); st != nil {
			return st, nil
		}
	}
	if st := s.warm(s.isNewest); st != nil {
		return st, nil
	}
	begun := s.finder.begun.Add(1)
	st, err := s.find(patient)
	if err == nil {
		s.finder.found = begun
	}
	return st, err
}

// warm returns the current state if it is the newest still, acquired. On a
// network file system a name that was looked up proves nothing.
func (s *Store) warm(isNewest func(*state) (bool, error)) *state {
	st := s.current()
	if st == nil {
		return nil
	}
	if !s.network.Load() {
		if ok, err := isNewest(st); ok && err == nil {
			return st
		}
	}
	st.release()
	return nil
}

// find is newestOnce without the short ways.
func (s *Store) find(patient bool) (*state, error) {
	old := s.current()
	if old != nil {
		defer old.release()
	}
	st, err := s.advance(old)
	if st == nil && err == nil {
		st, err = s.search(old)
	}
	if err != nil {
		return nil, err
	}
	if patient && s.network.Load() && old != nil && st.seq < old.seq {
		// The directory is shown as it was a while ago. Nothing is known to be newer than
		// what we have, as long as that is there.
		st.release()
		if ok, err := s.still(old); ok && err == nil && old.acquire() {
			return old, nil
		}
		return nil, errVanished
	}
	if err := s.install(old, st); err != nil {
		st.release()
		return nil, err
	}
	return st, nil
}

// install makes st the current state, unless a goroutine of this process has
// come further meanwhile. It refuses a state that is not of old's future.
func (s *Store) install(old, st *state) error {
	if old != nil && st.contains(old.self()) == lineageNo {
		return fmt.Errorf("%s: %w: found sequence %d (commit %v), which does not contain sequence %d (commit %v) seen before; open the store anew",
			s.dir, ErrReplaced, st.seq, st.commit, old.seq, old.commit)
	}
	if st.network {
		s.network.Store(true)
	}
	for {
		cur := s.cur.Load()
		if cur != nil && (cur.seq > st.seq || cur.seq == st.seq && cur.skip >= st.skip) {
			return nil
		}
		st.acquire() // on behalf of s.cur; it cannot fail, the caller holds one
		if s.cur.CompareAndSwap(cur, st) {
			if cur != nil {
				cur.release()
			}
			if s.ended.Load() {
				s.drop() // Close has come between
			}
			return nil
		}
		st.release()
	}
}

// advance goes from a state that counts to the newest, by names alone. It
// returns it acquired, or nil if that way is barred: then search must tell.
// It looks for names at growing distances, so that who slept through a
// thousand commits does not read a thousand files.
func (s *Store) advance(from *state) (*state, error) {
	if from == nil || s.network.Load() || !from.acquire() {
		return nil, nil
	}
	st := from
	for {
		above, err := s.highestNear(st.next())
		if err != nil {
			st.release()
			return nil, err
		}
		if above == 0 {
			ok, err := s.holds(st)
			if ok && err == nil {
				return st, nil
			}
			st.release()
			return nil, err
		}
		next, err := s.load(above)
		if err != nil {
			st.release()
			return nil, nil // retired, or damaged: search tells which
		}
		// Seen first, and only then: does what we stand on still count?
		ok, err := s.holds(st)
		if ok && err == nil && next.contains(st.self()) != lineageNo {
			st.release()
			st = next
			continue
		}
		next.release()
		st.release()
		return nil, err
	}
}

// highestNear returns the sequence of a manifest at or above seq, as high as
// a few stats can find, or 0 if there is none at seq.
func (s *Store) highestNear(seq uint64) (uint64, error) {
	if ok, err := s.taken(seq); !ok || err != nil {
		return 0, err
	}
	known, step := seq, uint64(1)
	for {
		ok, err := s.taken(known + step)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		known, step = known+step, 2*step
	}
	for step /= 2; step > 0; step /= 2 {
		ok, err := s.taken(known + step)
		if err != nil {
			return 0, err
		}
		if ok {
			known += step
		}
	}
	return known, nil
}

// taken tells whether there is a manifest of that sequence, as a hint: nothing
// rests on it.
func (s *Store) taken(seq uint64) (bool, error) {
	_, ok, err := s.here.dir.Lookup(manifestName(seq))
	return ok, err
}

// search finds the newest state by listing the directory. It returns it acquired.
func (s *Store) search(old *state) (*state, error) {
	seqs, _, err := s.list()
	if err != nil {
		if old != nil && errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrReplaced, err)
		}
		return nil, err
	}
	return s.searchListed(seqs, old)
}

// searchListed is search with the sequences that a listing showed.
func (s *Store) searchListed(seqs []uint64, old *state) (*state, error) {
	if len(seqs) == 0 {
		// A listing may miss names that come and those that go: all, at worst.
		again, _, err := s.list()
		switch {
		case err != nil:
			return nil, err
		case len(again) > 0:
			return nil, errVanished
		case old != nil:
			return nil, fmt.Errorf("%s: %w: its manifests are gone", s.dir, ErrReplaced)
		}
		return nil, errNoManifest
	}
	if s.network.Load() && old != nil && seqs[len(seqs)-1] == old.seq {
		// Nothing new, as a rule: then its header is all that need be read.
		if h, err := s.loadHeader(old.seq); err == nil && h.commit == old.commit && old.acquire() {
			return old, nil
		}
	}
	st, err := s.highestWhole(seqs)
	if err != nil {
		return nil, err
	}
	ok, err := s.counts(st)
	if err == nil && !ok {
		ok, err = s.settled(st, seqs[len(seqs)-1])
	}
	if err != nil || !ok {
		st.release()
		if err == nil {
			err = errVanished
		}
		return nil, err
	}
	if s.network.Load() || st.network {
		return st, nil
	}
	newest, err := s.advance(st)
	st.release()
	if newest == nil && err == nil {
		err = errVanished
	}
	return newest, err
}

// errNoManifest is reported where a directory holds none.
var errNoManifest = fmt.Errorf("no record store here: %w", fs.ErrNotExist)

// list reads the directory: the sequences of the manifests, ascending, and
// the other names.
func (s *Store) list() (seqs []uint64, others []string, err error) {
	names, err := s.sys.fs.ReadDir(s.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if seq, ok := parseManifestName(name); ok {
			seqs = append(seqs, seq)
		} else {
			others = append(others, name)
		}
	}
	slices.Sort(seqs)
	return seqs, others, nil
}

// highestWhole loads the highest of the listed manifests that is whole, and
// decides whether those above it may be skipped.
func (s *Store) highestWhole(seqs []uint64) (*state, error) {
	highest := seqs[len(seqs)-1]
	var damage []error // of those above, highest first
	for i, seq := range slices.Backward(seqs) {
		st, err := s.load(seq)
		if errors.Is(err, ErrCorrupt) {
			damage = append(damage, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		for j, reason := range damage {
			if err := s.mustBeTorn(seqs[len(seqs)-1-j], highest, st, reason); err != nil {
				st.release()
				return nil, err
			}
		}
		if i < len(seqs)-1 {
			st.skipTo(highest)
		}
		return st, nil
	}
	return nil, s.unlessNewer(highest, damage[0])
}

// unlessNewer returns err if highest is the highest manifest still, and else
// errVanished: what was listed is out of date.
func (s *Store) unlessNewer(highest uint64, err error) error {
	seqs, _, listErr := s.list()
	switch {
	case listErr != nil:
		return listErr
	case len(seqs) == 0 || seqs[len(seqs)-1] != highest:
		return errVanished
	}
	return err
}

// mustBeTorn returns nil if a manifest that does not check can only be one
// that a power loss tore before anyone was told that it was committed. Else
// it is damage, and skipping it would show an older state as the newest.
func (s *Store) mustBeTorn(seq, highest uint64, below *state, damage error) error {
	info, err := s.sys.fs.Lstat(s.manifestPath(seq))
	if err != nil {
		return vanished(err)
	}
	data, err := s.sys.lockData(s.path(lockName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, lockfile.ErrCorrupt) {
		return err // a LOCK that a power loss has torn as well says nothing
	}
	var published boot.ID
	copy(published[:], data)
	now := s.sys.boot
	switch {
	case info.Marked(), // it was flushed whole
		s.network.Load(), below.network, // there, it was flushed before it had its name
		!now.Known(), now.Same(below.boot), // no power loss since
		now.Same(published): // nor here, if it is the highest
		if s.network.Load() && !below.network && !info.Marked() {
			damage = fmt.Errorf("%w (if the power has failed on the machine with the disk, open the store there once, without Options.Network)", damage)
		}
		// But somebody may have recovered, above it, since we listed the
		// directory; or the listing shows an orphan, whose segments may go, alone.
		return s.unlessNewer(highest, damage)
	}
	return nil
}

// vanished turns the errors that mean "this name is gone" into errVanished.
func vanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESTALE) {
		return errVanished
	}
	return err
}

// counts tells whether the name of the parent of st still holds the parent.
// If not, st may be an orphan, or merely old.
func (s *Store) counts(st *state) (bool, error) {
	if len(st.ancestors) == 0 {
		return false, nil
	}
	parent := st.ancestors[0]
	p, err := s.loadHeader(parent.seq)
	if errors.Is(err, errVanished) || errors.Is(err, ErrCorrupt) {
		return false, nil
	}
	return p.commit == parent.commit, err
}

// loadHeader reads no more than the header and the tables of a manifest.
func (s *Store) loadHeader(seq uint64) (header, error) {
	path := s.manifestPath(seq)
	f, err := openRegular(s.sys.fs, path)
	if err != nil {
		return header{}, vanished(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return header{}, vanished(err)
	}
	b := make([]byte, min(info.Size, headerSize+maxAncestors*ancestorSize+maxSegments*segmentRefSize))
	if err := readFull(f, b); err != nil {
		return header{}, vanished(err)
	}
	if _, err := manifestLength(path, b); err != nil {
		return header{}, err
	}
	h, _, _, err := decodeHeader(path, b)
	return h, err
}

// settled tells whether st is the newest for want of any other: a listing
// begun after st was seen shows no manifest above highest, which is st or
// torn, and st is still there after it. That is what a store looks like that
// was just created, or whose newest manifests a power loss took.
//
// Why it is right: were st an orphan, the true newest would be above it and
// missing from this whole listing, so it would have been retired during it.
// Who retires it has published above it meanwhile and has listed the
// directory after that, with st in it, and would have removed st before.
func (s *Store) settled(st *state, highest uint64) (bool, error) {
	seqs, _, err := s.list()
	if err != nil {
		return false, err
	}
	if len(seqs) == 0 || seqs[len(seqs)-1] != highest {
		return false, nil
	}
	for _, seq := range seqs {
		// Nothing of its own lineage speaks for st, so nothing of another
		// store may be there that speaks against it. (A manifest 1 may: its
		// creator was late.)
		h, err := s.loadHeader(seq)
		if err == nil && seq > 1 && h.store != st.store {
			return false, &CorruptError{s.manifestPath(st.seq), 32, fmt.Sprintf("it belongs to store %v, and %s to store %v", st.store, manifestName(seq), h.store)}
		}
	}
	return s.still(st)
}

// still is holds that can be trusted on a network file system too: there, an
// inode number may be given anew while the file is open here.
func (s *Store) still(st *state) (bool, error) {
	if !s.network.Load() && !st.network {
		return s.holds(st)
	}
	now, err := s.loadHeader(st.seq)
	if errors.Is(err, errVanished) {
		return false, nil
	}
	return err == nil && now.commit == st.commit, err
}

// load reads a manifest and returns its state, acquired. The error is
// errVanished, a *CorruptError, ErrNewerVersion, or the file system's.
func (s *Store) load(seq uint64) (*state, error) {
	path := s.manifestPath(seq)
	f, err := openRegular(s.sys.fs, path)
	if err != nil {
		return nil, vanished(err)
	}
	st, err := s.readState(path, f, seq)
	if err != nil {
		f.Close()
		return nil, err
	}
	st.view.segs, err = s.openSegments(&st.header, s.segmentsAtHand())
	if err != nil {
		f.Close()
		if vanished(err) == errVanished {
			err = s.segmentMissing(st, err)
		}
		return nil, err
	}
	return st, nil
}

// readState reads a manifest from its file, and makes sure that it is the right
// one. It opens no segments.
func (s *Store) readState(path string, f vfs.File, seq uint64) (*state, error) {
	st, err := readManifest(path, f)
	if err == nil && st.seq != seq {
		err = &CorruptError{path, 24, fmt.Sprintf("it says that its sequence is %d", st.seq)}
	}
	if err == nil && s.id != (ID{}) && st.store != s.id {
		err = fmt.Errorf("%s: %w: it belongs to store %v, this is %v; open the store anew", path, ErrReplaced, st.store, s.id)
	}
	return st, err
}

// segmentsAtHand returns what the current state has open. It may be closed at
// any time.
func (s *Store) segmentsAtHand() []*segment {
	if st := s.cur.Load(); st != nil {
		return st.view.segs
	}
	return nil
}

// openSegments opens the segments that h names, but for those at hand, which
// are shared.
func (s *Store) openSegments(h *header, atHand []*segment) ([]*segment, error) {
	segs := make([]*segment, 0, len(h.segments))
	for _, ref := range h.segments {
		g := shared(atHand, ref)
		if g == nil {
			var err error
			if g, err = openSegment(s.sys.fs, s.path(ref.name()), h.store, ref, s.cache); err != nil {
				releaseAll(segs)
				return nil, err
			}
		}
		segs = append(segs, g)
	}
	return segs, nil
}

// shared returns the segment at hand that ref names, acquired, or nil.
func shared(atHand []*segment, ref segmentRef) *segment {
	for _, g := range atHand {
		if g.ref == ref && g.acquire() {
			return g
		}
	}
	return nil
}

// segmentMissing says what it means that a segment of st is not there: if the
// name of st still holds st, that a power loss took the segment's name, or
// somebody removed it; else, that both were retired meanwhile.
func (s *Store) segmentMissing(st *state, err error) error {
	if ok, lookErr := s.still(st); lookErr != nil || !ok {
		return cmp.Or(lookErr, errVanished)
	}
	path := s.manifestPath(st.seq)
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		path = pathErr.Path
	}
	return &CorruptError{path, 0, fmt.Sprintf("it is missing, and %s names it", manifestName(st.seq))}
}

// openRegular opens a file that is to be a regular one. What else can be opened, its Stat
// tells.
func openRegular(fsys vfs.FS, path string) (vfs.File, error) {
	f, err := fsys.Open(path)
	if errors.Is(err, syscall.ELOOP) {
		return nil, &CorruptError{path, 0, "not a regular file, but a symbolic link"}
	}
	return f, err
}

func readManifest(path string, f vfs.File) (*state, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, vanished(err)
	}
	if !info.Mode.IsRegular() {
		return nil, &CorruptError{path, 0, "not a regular file"}
	}
	// The length in the header is checked before room is made for it, so that
	// a foreign file does not cost more memory than its header.
	head := make([]byte, min(info.Size, headerSize))
	if err := readFull(f, head); err != nil {
		return nil, vanished(err)
	}
	n, err := manifestLength(path, head)
	if err != nil {
		return nil, err
	}
	if n != info.Size {
		return nil, &CorruptError{path, min(n, info.Size), fmt.Sprintf("the file has %d bytes, its header says %d", info.Size, n)}
	}
	b := make([]byte, n)
	if err := readFull(f, b); err != nil {
		return nil, vanished(err)
	}
	h, recs, err := decodeManifest(path, b)
	if err != nil {
		return nil, err
	}
	return newState(h, recs, nil, n, f, info.ID), nil
}

// readFull fills b from the beginning of f.
func readFull(f vfs.File, b []byte) error {
	n, err := f.ReadAt(b, 0)
	if n == len(b) {
		return nil
	}
	return fmt.Errorf("read %s: %w", f.Name(), err)
}
