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
	recs []rec // in ascending order of their keys
	size int64 // of the manifest, in bytes

	// skip is how many sequences above this one are taken by names that do
	// not count: torn in a power loss. The next manifest is looked for, and
	// published, above them.
	skip uint64

	// file is held open so that the inode, and with it the identity, is not
	// given to another file while we compare it.
	file vfs.File
	id   vfs.ID
	refs atomic.Int64 // holders of the open file; it is closed when there are none
}

func newState(h header, recs []rec, size int64, file vfs.File, id vfs.ID) *state {
	st := &state{header: h, recs: recs, size: size, file: file, id: id}
	st.refs.Store(1)
	return st
}

// acquire keeps the state's file open until release. It reports false if the
// file is closed already.
func (st *state) acquire() bool {
	for {
		n := st.refs.Load()
		if n == 0 {
			return false
		}
		if st.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (st *state) release() {
	if st.refs.Add(-1) == 0 {
		st.file.Close() // opened for reading, or flushed by its owner: nothing to lose
	}
}

// next is the sequence under which the state's successor is published.
func (st *state) next() uint64 { return st.seq + 1 + st.skip }

// instant is the time at which expiry is judged for a reader that finds st
// now, or a writer on top of it. It is never before a commit, whatever the
// local clock does.
func (st *state) instant(clock func() time.Time) int64 {
	return max(st.time, clock().UnixNano())
}

// search returns the index of the first record whose key is not below key,
// and whether it is key's.
func (st *state) search(key string) (int, bool) {
	lo, hi := 0, len(st.recs)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if k := st.recs[mid].key(); string(k) < key { // does not allocate
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(st.recs) && string(st.recs[lo].key()) == key
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

// changes are records written (or, where nil, deleted) on top of a state.
type changes map[string]rec

// in returns the keys of c within the span, in ascending order.
func (c changes) in(sp span) []string {
	var keys []string
	for k := range c {
		if k >= sp.from && (sp.to == "" || k < sp.to) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// scan yields in ascending order the records of st within the span, with the
// changes on top.
func (st *state) scan(sp span, top changes) iter.Seq[rec] {
	return func(yield func(rec) bool) {
		keys := top.in(sp)
		start, _ := st.search(sp.from)
		for _, r := range st.recs[start:] {
			key := r.key()
			if sp.to != "" && string(key) >= sp.to {
				break
			}
			for len(keys) > 0 && keys[0] < string(key) {
				if c := top[keys[0]]; c != nil && !yield(c) {
					return
				}
				keys = keys[1:]
			}
			if len(keys) > 0 && keys[0] == string(key) {
				r, keys = top[keys[0]], keys[1:]
			}
			if r != nil && !yield(r) {
				return
			}
		}
		for _, k := range keys {
			if c := top[k]; c != nil && !yield(c) {
				return
			}
		}
	}
}
