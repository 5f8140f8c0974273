package stress

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

// recordStore is package store as a protocol. Values are raw bytes, so that
// what a reader and the judge see is what was on disk.
type recordStore struct{ s *store.Store }

func openStore(dir string, readOnly, network bool, journal int) (protocol, error) {
	s, err := store.Open(dir, &store.Options{
		ReadOnly: readOnly, Network: network, JournalSize: journal, Codec: codec.Raw, Purpose: "recordctl stress",
	})
	if err != nil {
		return nil, err
	}
	return recordStore{s}, nil
}

func (r recordStore) Update(ctx context.Context, fn func(tx) error) (uint64, error) {
	rev, err := r.s.Update(ctx, func(tx *store.Tx) error { return fn(storeTx{tx}) })
	return uint64(rev), err
}

func (r recordStore) CompareAndSwap(ctx context.Context, key string, old uint64, data []byte) (uint64, error) {
	rev, err := r.s.CompareAndSwap(ctx, key, store.Revision(old), data)
	return uint64(rev), err
}

func (r recordStore) Get(ctx context.Context, key string) (stored, bool, error) {
	return found(r.s.Get(ctx, key))
}

func (r recordStore) Snapshot(ctx context.Context, fresh bool) (snapshot, error) {
	take := r.s.Snapshot
	if fresh {
		take = r.s.FreshSnapshot
	}
	sn, err := take(ctx)
	if err != nil {
		return nil, err
	}
	return storeSnapshot{sn}, nil
}

func (r recordStore) Coherent(ctx context.Context) (bool, error) {
	st, err := r.s.Stat(ctx)
	return !st.Network, err
}

func (r recordStore) Sort(err error) errorSort {
	late := errors.Is(err, context.DeadlineExceeded)
	switch {
	case errors.Is(err, store.ErrConflict):
		return sortRefused
	case late && errors.Is(err, store.ErrUnknown):
		return sortUnknown
	case late && !errors.Is(err, store.ErrNotDurable):
		return sortLate
	}
	return sortBroken
}

func (r recordStore) Close() error { return r.s.Close() }

// found turns the store's answer for a record that is not there into false.
func found(r store.Record, err error) (stored, bool, error) {
	if errors.Is(err, store.ErrNotFound) {
		return stored{}, false, nil
	}
	return stored{Data: r.Value, Revision: uint64(r.Revision)}, err == nil, err
}

type storeTx struct{ tx *store.Tx }

func (t storeTx) Get(key string) ([]byte, bool, error) {
	s, ok, err := found(t.tx.Get(key))
	return s.Data, ok, err
}

func (t storeTx) Put(key string, data []byte) error { return t.tx.Put(key, data) }
func (t storeTx) Delete(key string) error           { return t.tx.Delete(key) }
func (t storeTx) Revision() uint64                  { return uint64(t.tx.Revision()) }

type storeSnapshot struct{ sn *store.Snapshot }

func (s storeSnapshot) Revision() uint64 { return uint64(s.sn.Revision()) }

func (s storeSnapshot) Each(prefix string, fn func(string, stored) error) error {
	for r, err := range s.sn.Prefix(prefix) {
		if err != nil {
			return err
		}
		if err := fn(r.Key, stored{Data: r.Value, Revision: uint64(r.Revision)}); err != nil {
			return err
		}
	}
	return nil
}

func (s storeSnapshot) Get(key string) (stored, bool, error) { return found(s.sn.Get(key)) }
func (s storeSnapshot) Close() error                         { return s.sn.Close() }

// claimStore is claim for this protocol. A store that is not there is left to
// the processes: that they create it, all at once, is part of the test.
func claimStore(ctx context.Context, c Config) (err error) {
	s, err := store.Open(c.Store, &store.Options{NoCreate: true, Purpose: "recordctl stress"})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, store.ErrNotStore) {
		return fmt.Errorf("%w: %w", err, ErrTaken)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	sn, err := s.Snapshot(ctx)
	if err != nil {
		return err
	}
	var keys []string
	for r, err := range sn.All() {
		if err != nil {
			return errors.Join(err, sn.Close())
		}
		keys = append(keys, r.Key)
	}
	if err := sn.Close(); err != nil {
		return err
	}
	if i := slices.IndexFunc(keys, func(k string) bool { return !strings.HasPrefix(k, allRuns) }); i >= 0 {
		return fmt.Errorf("%s holds a record %q: %w", c.Store, keys[i], ErrTaken)
	}
	if c.Machines > 1 {
		if i := slices.IndexFunc(keys, func(k string) bool { return !strings.HasPrefix(k, runPrefix(c.Seed)) }); i >= 0 {
			return fmt.Errorf("%s holds a record of another run, %s: %w", c.Store, keys[i], ErrTaken)
		}
		return nil
	}
	if len(keys) == 0 {
		return nil
	}
	_, err = s.Update(ctx, func(tx *store.Tx) error {
		for _, k := range keys {
			if err := tx.Delete(k); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	return err
}
