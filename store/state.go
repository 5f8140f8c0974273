package store

import (
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
)

// A state is a manifest in memory: one committed state of the store. It is
// immutable and shared.
type state struct {
	header
	size int64 // of the manifest, in bytes
	view *view

	// skip is how many sequences above this one are taken by names that do
	// not count: torn in a power loss. The next manifest is looked for, and
	// published, above them.
	skip uint64

	name     string // of the manifest
	nextName string // of its successor

	// confirmed is the time of the directory's last change when the state was
	// last seen to be the newest, nanoseconds since 1970 UTC; 0: never, or the
	// change was too recent to be told from a later one by its time.
	confirmed atomic.Int64

	// file is held open so that the inode, and with it the identity, is not
	// given to another file while we compare it. It may be nil if network is set:
	// there the commit is compared.
	file vfs.File
	id   vfs.ID
	refs // holders of the open file; when there are none it is closed
}

// A view is what a state says of the records: the newest first, those of the
// journal, then those of each segment. It is immutable and shared. A snapshot
// keeps the view of a state, and not the state.
type view struct {
	journal []rec      // in ascending order of their keys
	segs    []*segment // newest first
	refs               // holders of the open segments
}

// refs counts those who use something that is closed when nobody does.
type refs struct{ n atomic.Int64 }

// acquire keeps the thing open until release. It reports false if it is
// closed already.
func (r *refs) acquire() bool {
	for {
		n := r.n.Load()
		if n == 0 {
			return false
		}
		if r.n.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave reports whether nobody is left.
func (r *refs) leave() bool { return r.n.Add(-1) == 0 }

// newState returns a state, acquired. The segments are its own from now on.
func newState(h header, journal []rec, segs []*segment, size int64, file vfs.File, id vfs.ID) *state {
	st := &state{header: h, size: size, view: &view{journal: journal, segs: segs}, file: file, id: id}
	st.name = manifestName(st.seq)
	st.skipTo(st.seq)
	st.n.Store(1)
	st.view.n.Store(1)
	return st
}

func (st *state) release() {
	if st.leave() {
		if st.file != nil {
			st.file.Close() // opened for reading, or flushed by its owner: nothing to lose
		}
		st.view.release()
	}
}

func (v *view) release() {
	if v.leave() {
		releaseAll(v.segs)
	}
}

func releaseAll(segs []*segment) {
	for _, g := range segs {
		g.release()
	}
}

// skipTo says that the names above st up to seq do not count. It is called
// before the state is shared.
func (st *state) skipTo(seq uint64) {
	st.skip = seq - st.seq
	st.nextName = manifestName(st.next())
}

// next is the sequence under which the state's successor is published.
func (st *state) next() uint64 { return st.seq + 1 + st.skip }

// instant is the time at which expiry is judged for a reader that finds st
// now, or a writer on top of it. It is never before a commit, whatever the
// local clock does.
func (st *state) instant(clock func() time.Time) int64 {
	return max(st.time, clock().UnixNano())
}

// find returns the newest version of a record, be it expired, or nil if there
// is none or it was deleted.
func (v *view) find(key string) (rec, error) {
	if i, ok := searchRecs(v.journal, key); ok {
		return alive(v.journal[i]), nil
	}
	for _, g := range v.segs {
		if r, err := g.get(key); r != nil || err != nil {
			return alive(r), err
		}
	}
	return nil, nil
}

// alive returns r, or nil if it is none or a tombstone.
func alive(r rec) rec {
	if r == nil || r.tombstone() {
		return nil
	}
	return r
}

// searchRecs returns the index of the first of recs, which are in ascending
// order, whose key is not below key, and whether it is key's.
func searchRecs(recs []rec, key string) (int, bool) {
	lo, hi := 0, len(recs)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if k := recs[mid].key(); string(k) < key { // does not allocate
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(recs) && string(recs[lo].key()) == key
}

// span is a range of keys: from <= key < to, without an end if to is "".
type span struct{ from, to string }

// prefixSpan is the range of the keys that begin with p.
func prefixSpan(p string) span {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] < 0xff {
			return span{p, p[:i] + string([]byte{p[i] + 1})}
		}
	}
	return span{from: p}
}

// changes are the records and tombstones that updates write on top of a state.
type changes map[string]rec

// in returns the changes within the span, in ascending order.
func (c changes) in(sp span) []rec {
	var keys []string
	for k := range c {
		if k >= sp.from && (sp.to == "" || k < sp.to) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	recs := make([]rec, len(keys))
	for i, k := range keys {
		recs[i] = c[k]
	}
	return recs
}

// scan yields in ascending order the records within the span, with the changes
// on top, expired ones too. An error is the last pair's. Memory is bounded: of
// each segment it holds some blocks.
func (v *view) scan(sp span, top changes) iter.Seq2[rec, error] {
	return func(yield func(rec, error) bool) {
		start, _ := searchRecs(v.journal, sp.from)
		m := newMerger(&recSource{top.in(sp)}, &recSource{v.journal[start:]})
		for _, g := range v.segs {
			m.add(g.scan(sp))
		}
		for {
			r, err := m.next()
			switch {
			case err != nil:
				yield(nil, err)
				return
			case r == nil, sp.to != "" && string(r.key()) >= sp.to:
				return
			case !r.tombstone() && !yield(r, nil):
				return
			}
		}
	}
}

// fold returns the journal with the changes on top. Where there is no segment,
// nothing older can hold a key: then what is deleted or expired at now is left
// out.
func fold(base *state, top changes, now int64) []rec {
	v := base.view
	recs := make([]rec, 0, len(v.journal)+len(top))
	m := newMerger(&recSource{top.in(span{})}, &recSource{v.journal})
	for {
		r, _ := m.next() // from memory, without errors
		if r == nil {
			return slices.Clip(recs)
		}
		if len(v.segs) > 0 || !r.tombstone() && !r.expired(now) {
			recs = append(recs, r)
		}
	}
}

// sizeOf returns the size of the records in bytes.
func sizeOf(recs []rec) int64 {
	n := int64(0)
	for _, r := range recs {
		n += int64(len(r))
	}
	return n
}
