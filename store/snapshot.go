package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"sync/atomic"
	"syscall"
	"time"
)

// A Snapshot is one committed state of the store, whole and unchanging,
// however long it is kept and whatever others commit meanwhile. It takes no
// lock and holds up nobody. It is safe for concurrent use.
//
// Whether a record is expired is judged at one instant for the whole
// snapshot: the time of its newest commit or, if that is later, the local
// clock's when the snapshot was taken. A machine whose clock is fast
// therefore takes others' records for expired too early.
//
// Close releases what the snapshot holds. A snapshot outlives its store's
// Close.
type Snapshot struct {
	view   *view // acquired until Close
	closed atomic.Bool
	now    int64 // nanoseconds since 1970 UTC

	seq    uint64
	commit ID
	rev    Revision
	time   int64
}

// Snapshot returns the newest state without taking any lock. On a local file
// system it contains every update that was committed before the call; on a
// network file system it may be a little late.
func (s *Store) Snapshot(ctx context.Context) (*Snapshot, error) {
	st, err := s.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	defer st.release()
	return s.snapshotOf(st), nil
}

// FreshSnapshot returns the newest state by taking LOCK, as an update does: it
// contains every update that was committed before the call, on any file
// system and on any machine, and it is durable, so that nothing in it is
// taken back by a power loss. The store must be open for writing. Errors are
// those of [Store.Update].
func (s *Store) FreshSnapshot(ctx context.Context) (*Snapshot, error) {
	out := s.submitNothing(ctx)
	if out.err != nil {
		return nil, out.err
	}
	defer out.st.release()
	return s.snapshotOf(out.st), nil
}

func (s *Store) snapshotOf(st *state) *Snapshot {
	st.view.acquire() // it cannot fail: the caller holds the state
	return &Snapshot{view: st.view, now: st.instant(s.sys.now), seq: st.seq, commit: st.commit, rev: st.lastRev, time: st.time}
}

// acquire keeps the segments open until the view is released. It reports false
// after Close.
func (sn *Snapshot) acquire() bool { return !sn.closed.Load() && sn.view.acquire() }

// Get returns a record. The error for a missing or expired record is
// [ErrNotFound]; after Close it is fs.ErrClosed.
func (sn *Snapshot) Get(key string) (Record, error) {
	if !sn.acquire() {
		return Record{}, errSnapshotClosed
	}
	defer sn.view.release()
	if err := checkKey(key); err != nil {
		return Record{}, fmt.Errorf("get: %w", err)
	}
	r, err := sn.view.find(key)
	if err != nil {
		return Record{}, fmt.Errorf("get %q: %w", key, tooOld(err))
	}
	if r == nil || r.expired(sn.now) {
		return Record{}, fmt.Errorf("get %q: %w", key, ErrNotFound)
	}
	return r.record(key), nil
}

// tooOld tells the error of a file that the server has removed.
func tooOld(err error) error {
	if errors.Is(err, syscall.ESTALE) {
		return fmt.Errorf("%w: %w", ErrSnapshotExpired, err)
	}
	return err
}

var errSnapshotClosed = fmt.Errorf("snapshot: %w", fs.ErrClosed)

// All returns all records, in ascending order of their keys. The error of a
// pair is nil, or the last pair's.
func (sn *Snapshot) All() iter.Seq2[Record, error] { return sn.scan(span{}) }

// Prefix is All for the keys that begin with prefix.
func (sn *Snapshot) Prefix(prefix string) iter.Seq2[Record, error] {
	return sn.scan(prefixSpan(prefix))
}

// Range is All for the keys with from <= key < to, in the order of their
// bytes. An empty to means "to the end".
func (sn *Snapshot) Range(from, to string) iter.Seq2[Record, error] { return sn.scan(span{from, to}) }

func (sn *Snapshot) scan(sp span) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if !sn.acquire() {
			yield(Record{}, errSnapshotClosed)
			return
		}
		defer sn.view.release()
		yieldAll(sn.view.scan(sp, nil), sn.now, func(r Record, err error) bool { return yield(r, tooOld(err)) })
	}
}

// Len returns the number of records that are not expired. It reads all of them.
func (sn *Snapshot) Len() (int, error) {
	n := 0
	for _, err := range sn.All() {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// Revision returns the revision of the newest update in the snapshot.
func (sn *Snapshot) Revision() Revision { return sn.rev }

// Sequence returns the sequence of the snapshot's manifest.
func (sn *Snapshot) Sequence() uint64 { return sn.seq }

// Commit returns the id of the snapshot's commit: unlike a revision or a
// sequence, it is never given again, even after the store was restored from a
// copy.
func (sn *Snapshot) Commit() ID { return sn.commit }

// Time returns the time of the snapshot's commit, in UTC.
func (sn *Snapshot) Time() time.Time { return time.Unix(0, sn.time).UTC() }

// Close releases the snapshot. Reading it afterwards reports fs.ErrClosed, and
// so does a second Close. Records that were read stay valid.
func (sn *Snapshot) Close() error {
	if sn.closed.Swap(true) {
		return errSnapshotClosed
	}
	sn.view.release()
	return nil
}
