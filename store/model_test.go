package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/vfs/faultfs"
)

// The model test. Random operations on two Stores of the same directory are
// compared with the same ones on a map. The journal is so small that it is
// moved into segments, and these are merged and retired, all the time, in the
// background of the operations.

// An entry is a record of the model.
type entry struct {
	value   string
	rev     Revision
	expires int64 // nanoseconds since 1970 UTC; 0: never
}

func (e entry) alive(now int64) bool { return e.expires == 0 || e.expires > now }

// A keptSnapshot is a snapshot with what must be in it, for ever.
type keptSnapshot struct {
	sn   *Snapshot
	want map[string]entry
}

// A modelRun is one run of the test. All follows from its seed, but for when
// things happen in the background.
type modelRun struct {
	t      *testing.T
	rng    *rand.Rand
	sys    system
	clock  atomic.Int64
	stores [2]*Store
	want   map[string]entry
	last   Revision
	kept   []keptSnapshot
	log    []string // the last operations

	segs int // segments that were seen last
	done modelCounts
}

// modelCounts are what must have happened, lest the test prove nothing.
type modelCounts struct {
	moved, retired atomic.Int64 // segments named and removed
	merges         int          // times at which there were fewer segments than before
	inline         int          // journals moved before publishing
	expired        int          // records that the clock took
}

const modelJournal = 300

func newModelRun(t *testing.T, seed uint64) *modelRun {
	r := &modelRun{t: t, rng: rand.New(rand.NewPCG(seed, 0)), want: map[string]entry{}}
	m := newMachine(faultfs.NewDisk(), 1)
	r.clock.Store(1_700_000_000_000_000_000)
	r.sys = m.system(&faultfs.Hooked{FS: m.disk, After: func(op faultfs.Op, err error) error {
		switch {
		case err != nil || !strings.Contains(op.Path, segmentPrefix):
		case op.Kind == faultfs.OpRename:
			r.done.moved.Add(1)
		case op.Kind == faultfs.OpRemove:
			r.done.retired.Add(1)
		}
		return err
	}})
	r.sys.now = func() time.Time { return time.Unix(0, r.clock.Load()) }
	r.sys.retireEvery = 4
	for i := range r.stores {
		r.open(i)
	}
	return r
}

func (r *modelRun) open(i int) {
	opts := &Options{
		JournalSize: modelJournal,
		CacheSize:   []int64{-1, 500, 0}[r.rng.IntN(3)],
	}
	r.sys.layout = segmentLayout{dataBlock: 100 + r.rng.IntN(200), indexBlock: 60 + r.rng.IntN(100)}
	r.stores[i] = mustOpen(r.t, simDir, opts, r.sys)
}

// fail ends the test.
func (r *modelRun) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("%s\nthe last operations, the newest last:\n%s", fmt.Sprintf(format, args...), strings.Join(r.log, "\n"))
}

func (r *modelRun) did(format string, args ...any) {
	if len(r.log) == 30 {
		r.log = slices.Delete(r.log, 0, 1)
	}
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

func (r *modelRun) now() int64 { return r.clock.Load() }

func (r *modelRun) key() string {
	return fmt.Sprintf("%c/%02d", 'a'+r.rng.IntN(5), r.rng.IntN(30))
}

// value returns a value, not an empty one, sometimes one that the hard bound of the journal has
// no room for.
func (r *modelRun) value() string {
	n := 1 + r.rng.IntN(60)
	if r.rng.IntN(100) == 0 {
		n = 8*modelJournal + r.rng.IntN(3000)
	}
	return strings.Repeat(string(rune('a'+r.rng.IntN(26))), n)
}

func (r *modelRun) ttl() (expires int64, opts []PutOption) {
	if r.rng.IntN(4) != 0 {
		return 0, nil
	}
	d := time.Duration(1 + r.rng.IntN(200))
	return r.now() + int64(d), []PutOption{WithTTL(d)}
}

// get returns what the model has of a key.
func (r *modelRun) get(key string) (entry, bool) {
	e, ok := r.want[key]
	if !ok || !e.alive(r.now()) {
		return entry{}, false
	}
	return e, true
}

// commit notes what a successful update has changed. The zero entry is a
// deletion.
func (r *modelRun) commit(rev Revision, changed map[string]entry) {
	r.t.Helper()
	if rev <= r.last {
		r.fail("revision %d after %d", rev, r.last)
	}
	r.last = rev
	for k, e := range changed {
		if e == (entry{}) {
			delete(r.want, k)
			continue
		}
		e.rev = rev
		r.want[k] = e
	}
}

// same compares a record with the model's.
func (r *modelRun) same(rec Record, e entry) error {
	v, err := Decode[string](rec)
	expires := int64(0)
	if !rec.Expires.IsZero() {
		expires = rec.Expires.UnixNano()
	}
	if err != nil || v != e.value || rec.Revision != e.rev || expires != e.expires {
		return fmt.Errorf("record %q is %.20q of revision %d, expires %d (%w); want %.20q, %d, %d", rec.Key, v, rec.Revision, expires, err, e.value, e.rev, e.expires)
	}
	return nil
}

// compare compares records with those of the model that are within the span
// and alive at now.
func (r *modelRun) compare(recs iter.Seq2[Record, error], want map[string]entry, sp span, now int64) {
	r.t.Helper()
	var keys []string
	for k, e := range want {
		if k >= sp.from && (sp.to == "" || k < sp.to) && e.alive(now) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for rec, err := range recs {
		switch {
		case err != nil:
			r.fail("scan %q: %v", sp, err)
		case len(keys) == 0 || keys[0] != rec.Key:
			r.fail("scan %q: record %q, want %.1q", sp, rec.Key, keys)
		}
		if err := r.same(rec, want[rec.Key]); err != nil {
			r.fail("scan %q: %v", sp, err)
		}
		keys = keys[1:]
	}
	if len(keys) > 0 {
		r.fail("scan %q: %q are missing", sp, keys)
	}
}

// step does one operation.
func (r *modelRun) step() {
	r.clock.Add(int64(r.rng.IntN(3)))
	i := r.rng.IntN(2)
	s := r.stores[i]
	switch n := r.rng.IntN(1000); {
	case n < 420:
		r.doGet(s)
	case n < 640:
		r.doPut(s)
	case n < 730:
		r.doDelete(s)
	case n < 830:
		r.doSwap(s)
	case n < 900:
		r.doUpdate(s)
	case n < 940:
		r.doScan(s)
	case n < 970:
		r.doSnapshot(s)
	case n < 995:
		r.doKept()
	case n < 999:
		r.doReopen(i)
		s = r.stores[i]
	default:
		r.doCompact(s)
	}
	r.look(s)
}

// look sees what has become of the journal and the segments.
func (r *modelRun) look(s *Store) {
	st := s.current()
	if st == nil {
		return // opened just now
	}
	defer st.release()
	if st.journalSize() > s.bound.hard {
		r.fail("the journal of sequence %d has %d bytes, the bound is %d", st.seq, st.journalSize(), s.bound.hard)
	}
	if len(st.segments) < r.segs {
		r.done.merges++
	}
	r.segs = len(st.segments)
}

func (r *modelRun) doGet(s *Store) {
	key := r.key()
	r.did("get %s", key)
	e, ok := r.get(key)
	rec, err := s.Get(context.Background(), key)
	switch {
	case ok && err != nil, !ok && !errors.Is(err, ErrNotFound):
		r.fail("get %s: %v, want a record: %v", key, err, ok)
	case ok:
		if err := r.same(rec, e); err != nil {
			r.fail("get: %v", err)
		}
	case r.want[key] != entry{}:
		r.done.expired++
	}
}

func (r *modelRun) doPut(s *Store) {
	key, v := r.key(), r.value()
	expires, opts := r.ttl()
	r.did("put %s, %d bytes, expires %d", key, len(v), expires)
	rev, err := s.Put(context.Background(), key, v, opts...)
	if err != nil {
		r.fail("put: %v", err)
	}
	r.commit(rev, map[string]entry{key: {value: v, expires: expires}})
	if len(v) > 8*modelJournal {
		r.done.inline++
	}
}

func (r *modelRun) doDelete(s *Store) {
	key := r.key()
	r.did("delete %s", key)
	_, ok := r.get(key)
	rev, err := s.Delete(context.Background(), key)
	switch {
	case ok && err != nil, !ok && !errors.Is(err, ErrNotFound):
		r.fail("delete %s: %v, want a record: %v", key, err, ok)
	case ok:
		r.commit(rev, map[string]entry{key: {}})
	}
}

// doSwap compares with the right revision, or not, and puts or deletes.
func (r *modelRun) doSwap(s *Store) {
	key, v := r.key(), r.value()
	expires, opts := r.ttl()
	e, _ := r.get(key)
	old := e.rev
	if r.rng.IntN(3) == 0 {
		old = Revision(r.rng.Uint64N(uint64(r.last) + 2))
	}
	r.did("compare %s with %d and swap, %d bytes, expires %d", key, old, len(v), expires)
	change := entry{value: v, expires: expires}
	var rev Revision
	var err error
	if old != 0 && r.rng.IntN(4) == 0 {
		change = entry{}
		rev, err = s.CompareAndDelete(context.Background(), key, old)
	} else {
		rev, err = s.CompareAndSwap(context.Background(), key, old, v, opts...)
	}
	switch {
	case old == e.rev && err != nil, old != e.rev && !errors.Is(err, ErrConflict):
		r.fail("compare %s, which has revision %d, with %d: %v", key, e.rev, old, err)
	case err == nil:
		r.commit(rev, map[string]entry{key: change})
	}
}

var errRollback = errors.New("not this time")

// doUpdate changes several records, looks at what it has done, and now and then
// wants none of it.
func (r *modelRun) doUpdate(s *Store) {
	changed := map[string]entry{}
	back := r.rng.IntN(4) == 0
	r.did("update, rolled back: %v", back)
	rev, err := s.Update(context.Background(), func(tx *Tx) error {
		clear(changed)
		seen := maps.Clone(r.want)
		for range 1 + r.rng.IntN(6) {
			key, v := r.key(), r.value()
			expires, opts := r.ttl()
			if e, ok := seen[key]; ok && e.alive(r.now()) && r.rng.IntN(3) == 0 {
				r.did("    delete %s", key)
				if err := tx.Delete(key); err != nil {
					return err
				}
				delete(seen, key)
				changed[key] = entry{}
				continue
			}
			r.did("    put %s, %d bytes, expires %d", key, len(v), expires)
			if err := tx.Put(key, v, opts...); err != nil {
				return err
			}
			seen[key] = entry{v, tx.Revision(), expires}
			changed[key] = seen[key]
		}
		sp := r.span()
		r.compare(tx.Range(sp.from, sp.to), seen, sp, r.now())
		if back {
			return errRollback
		}
		return nil
	})
	switch {
	case back && errors.Is(err, errRollback):
	case err != nil || back:
		r.fail("update: %v", err)
	default:
		r.commit(rev, changed)
	}
}

func (r *modelRun) span() span {
	switch r.rng.IntN(4) {
	case 0:
		return span{}
	case 1:
		return prefixSpan(r.key()[:2])
	}
	a, b := r.key(), r.key()
	return span{min(a, b), max(a, b)}
}

func (r *modelRun) doScan(s *Store) {
	sn, err := s.Snapshot(context.Background())
	if err != nil {
		r.fail("snapshot: %v", err)
	}
	defer sn.Close()
	sp := r.span()
	r.did("scan %q", sp)
	recs := sn.Range(sp.from, sp.to)
	switch {
	case sp == span{}:
		recs = sn.All()
	case len(sp.from) == 2:
		recs = sn.Prefix(sp.from)
	}
	r.compare(recs, r.want, sp, r.now())
}

// doSnapshot takes a snapshot, or a fresh one, that is kept for a while.
func (r *modelRun) doSnapshot(s *Store) {
	take := s.Snapshot
	if r.rng.IntN(2) == 0 {
		take = s.FreshSnapshot
	}
	r.did("snapshot")
	sn, err := take(context.Background())
	if err != nil {
		r.fail("snapshot: %v", err)
	}
	want := maps.Clone(r.want)
	maps.DeleteFunc(want, func(_ string, e entry) bool { return !e.alive(r.now()) })
	r.kept = append(r.kept, keptSnapshot{sn, want})
	if len(r.kept) > 8 {
		r.drop(r.rng.IntN(len(r.kept)))
	}
}

func (r *modelRun) drop(i int) {
	if err := r.kept[i].sn.Close(); err != nil {
		r.fail("close a snapshot: %v", err)
	}
	r.kept = slices.Delete(r.kept, i, i+1)
}

// doKept reads a snapshot that was taken before. The time in it stands still.
func (r *modelRun) doKept() {
	if len(r.kept) == 0 {
		return
	}
	k := r.kept[r.rng.IntN(len(r.kept))]
	r.did("read the snapshot of sequence %d", k.sn.Sequence())
	key := r.key()
	rec, err := k.sn.Get(key)
	e, ok := k.want[key]
	if ok != (err == nil) || err != nil && !errors.Is(err, ErrNotFound) {
		r.fail("get %s of a snapshot: %v, want a record: %v", key, err, ok)
	}
	if ok {
		if err := r.same(rec, e); err != nil {
			r.fail("get of a snapshot: %v", err)
		}
	}
	r.compare(k.sn.All(), k.want, span{}, 0)
}

func (r *modelRun) doReopen(i int) {
	r.did("reopen")
	if err := r.stores[i].Close(); err != nil {
		r.fail("close: %v", err)
	}
	r.open(i)
}

func (r *modelRun) doCompact(s *Store) {
	r.did("compact")
	if err := s.Compact(context.Background()); err != nil {
		r.fail("compact: %v", err)
	}
}

// finish reads everything once more, from the disk, and looks at the files.
func (r *modelRun) finish() {
	for i := range r.kept {
		r.compare(r.kept[i].sn.All(), r.kept[i].want, span{}, 0)
	}
	for _, s := range r.stores {
		if err := s.Close(); err != nil {
			r.fail("close: %v", err)
		}
	}
	rep, err := verify(context.Background(), simDir, r.sys)
	if err != nil || !rep.OK() {
		r.fail("verify: %+v, %v", rep, err)
	}
	r.open(0)
	r.doCompact(r.stores[0])
	r.doScan(r.stores[0])
	r.stores[0].Close()
	late := r.sys
	late.now = time.Now // all that is on the disk is old, and what may expire has
	s, err := open(simDir, nil, late)
	if err != nil {
		r.fail("open: %v", err)
	}
	r.doCompact(s)
	st, err := s.Stat(context.Background())
	if err != nil || st.Manifests != 1 || st.Segments > 1 || st.SegmentFiles != st.Segments || int(st.Entries) > len(r.want) || st.Temporary > 1 {
		r.fail("a store with %d records has become, by compaction, %+v, %v", len(r.want), st, err)
	}
	s.Close()
	for len(r.kept) > 0 {
		r.drop(0)
	}
}

func TestModel(t *testing.T) {
	const n = 20_000 // operations of one run
	for seed := range effort(t, 6) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			r := newModelRun(t, uint64(seed))
			for range n {
				r.step()
			}
			r.finish()
			d := &r.done
			if d.moved.Load() < n/100 || d.retired.Load() < n/100 || d.merges < n/1000 || d.inline == 0 || d.expired == 0 {
				t.Error("too little has happened to segments for the test to prove anything")
			}
			t.Logf("%d operations: %d segments named, %d removed, %d merges seen, %d journals moved at once, %d expired records missed",
				n, d.moved.Load(), d.retired.Load(), d.merges, d.inline, d.expired)
		})
	}
}
