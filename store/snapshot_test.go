package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/recordstore/recordstore/store"
)

// texts returns all records of a snapshot, decoded as strings.
func texts(t testing.TB, sn *store.Snapshot) map[string]string {
	t.Helper()
	out := map[string]string{}
	for rec, err := range sn.All() {
		if err != nil {
			t.Fatal(err)
		}
		v, err := store.Decode[string](rec)
		if err != nil {
			t.Fatal(err)
		}
		out[rec.Key] = v
	}
	return out
}

// TestSnapshotDoesNotChange: what is committed later, by this process or
// through another Store, is not in a snapshot that was taken before.
func TestSnapshotDoesNotChange(t *testing.T) {
	s := newStore(t)
	other := openStore(t, s.Dir(), nil)
	put(t, s, "a", "1")
	put(t, s, "b", "1")
	sn := snapshot(t, s)
	rev, seq, commit, at := sn.Revision(), sn.Sequence(), sn.Commit(), sn.Time()
	for i := range 200 { // manifests are retired meanwhile
		put(t, []*store.Store{s, other}[i%2], "a", fmt.Sprint(i))
	}
	if _, err := other.Delete(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if got, want := texts(t, sn), map[string]string{"a": "1", "b": "1"}; !maps.Equal(got, want) {
		t.Errorf("the snapshot has changed: %v, want %v", got, want)
	}
	if sn.Revision() != rev || sn.Sequence() != seq || sn.Commit() != commit || !sn.Time().Equal(at) || length(t, sn) != 2 {
		t.Errorf("the snapshot is now of revision %v, sequence %v, %d records", sn.Revision(), sn.Sequence(), length(t, sn))
	}
	if got, want := texts(t, snapshot(t, s)), map[string]string{"a": "199"}; !maps.Equal(got, want) {
		t.Errorf("a new snapshot has %v, want %v", got, want)
	}
}

// TestSnapshotsAreWhole takes snapshots while others commit, each of which
// writes the same value to several records.
func TestSnapshotsAreWhole(t *testing.T) {
	for _, opts := range []*store.Options{{}, {Network: true}} {
		t.Run(fmt.Sprintf("network %v", opts.Network), func(t *testing.T) {
			rounds := 150
			if testing.Short() || opts.Network {
				rounds = 40
			}
			dir := filepath.Join(t.TempDir(), "s")
			keys := []string{"a", "b", "c", "d"}
			write := func(s *store.Store, v int) error {
				_, err := s.Update(t.Context(), func(tx *store.Tx) error {
					for _, k := range keys {
						if err := tx.Put(k, v); err != nil {
							return err
						}
					}
					return nil
				})
				return err
			}
			stores := []*store.Store{openStore(t, dir, opts), openStore(t, dir, opts)}
			if err := write(stores[0], -1); err != nil {
				t.Fatal(err)
			}
			var writers, readers sync.WaitGroup
			done := make(chan struct{})
			for w, s := range stores {
				writers.Go(func() {
					for i := range rounds {
						if err := write(s, 10*i+w); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			readOnly := *opts
			readOnly.ReadOnly = true
			for _, s := range []*store.Store{stores[0], openStore(t, dir, &readOnly)} {
				readers.Go(func() {
					var last store.Revision
					for {
						sn, err := s.Snapshot(context.Background())
						if err != nil {
							t.Error(err)
							return
						}
						first, err := sn.Get("a")
						if err != nil {
							t.Error(err)
							return
						}
						for rec, err := range sn.All() {
							if err != nil || string(rec.Value) != string(first.Value) || rec.Revision != sn.Revision() {
								t.Errorf("revision %v: %q has %q of revision %v, %v; a has %q", sn.Revision(), rec.Key, rec.Value, rec.Revision, err, first.Value)
								return
							}
						}
						if sn.Revision() < last {
							t.Errorf("revision %v after %v", sn.Revision(), last)
						}
						last = sn.Revision()
						select {
						case <-done:
							return
						default:
						}
					}
				})
			}
			writers.Wait()
			close(done)
			readers.Wait()
			if rev := snapshot(t, stores[0]).Revision(); rev != store.Revision(2*rounds+1) {
				t.Errorf("revision %v after %d updates", rev, 2*rounds+1)
			}
		})
	}
}

// TestReadersSeeWhatIsCommitted: as soon as an update returns, every other
// Store sees it, with whatever method, even if it slept for long.
func TestReadersSeeWhatIsCommitted(t *testing.T) {
	s := newStore(t)
	readers := map[string]*store.Store{
		"for writing": openStore(t, s.Dir(), nil),
		"ReadOnly":    openStore(t, s.Dir(), &store.Options{ReadOnly: true}),
	}
	for _, pause := range []int{1, 2, 3, 70, 200} {
		var rev store.Revision
		for i := range pause {
			rev = put(t, s, "k", fmt.Sprint(pause, i))
		}
		want := fmt.Sprint(pause, pause-1)
		for name, r := range readers {
			rec, err := r.Get(t.Context(), "k")
			if err != nil || rec.Revision != rev {
				t.Errorf("%s, after %d commits: Get has revision %v, %v; want %v", name, pause, rec.Revision, err, rev)
			}
			if sn := snapshot(t, r); sn.Revision() != rev || value[string](t, sn, "k") != want {
				t.Errorf("%s, after %d commits: Snapshot has revision %v, want %v", name, pause, sn.Revision(), rev)
			}
		}
	}
}

func TestSnapshotClose(t *testing.T) {
	s := newStore(t)
	put(t, s, "k", "v")
	sn := snapshot(t, s)
	other := snapshot(t, s)
	rec, err := sn.Get("k")
	if err != nil {
		t.Fatal(err)
	}
	if err := sn.Close(); err != nil {
		t.Fatal(err)
	}
	first := func(seq func(func(store.Record, error) bool)) error {
		for _, err := range seq {
			return err
		}
		return nil
	}
	for name, call := range map[string]func() error{
		"Get":    func() error { _, err := sn.Get("k"); return err },
		"All":    func() error { return first(sn.All()) },
		"Prefix": func() error { return first(sn.Prefix("k")) },
		"Range":  func() error { return first(sn.Range("a", "z")) },
		"Close":  sn.Close,
	} {
		if err := call(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close: got %v, want fs.ErrClosed", name, err)
		}
	}
	if v, err := store.Decode[string](rec); err != nil || v != "v" {
		t.Errorf("a record read before Close: %q, %v", v, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := value[string](t, other, "k"); got != "v" {
		t.Errorf("another snapshot, after the store's Close: %q, want v", got)
	}
}

// unmark takes the mark of the newest manifest away, as if its process had
// died before its flush came to its end.
func unmark(t testing.TB, dir string, sn *store.Snapshot) (path string) {
	t.Helper()
	path = filepath.Join(dir, fmt.Sprintf("manifest.%016d", sn.Sequence()))
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func durable(t testing.TB, s *store.Store) bool {
	t.Helper()
	st, err := s.Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.Durable
}

// TestUnflushedState: who relies on a state whose flush is not known to have
// come to its end makes it durable first; who only reads does not.
func TestUnflushedState(t *testing.T) {
	for _, tc := range []struct {
		name string
		call func(ctx context.Context, s *store.Store) error
		err  error
		want bool // made durable
	}{
		{"Get", func(ctx context.Context, s *store.Store) error { _, err := s.Get(ctx, "k"); return err }, nil, false},
		{"Snapshot", func(ctx context.Context, s *store.Store) error { _, err := s.Snapshot(ctx); return err }, nil, false},
		{"FreshSnapshot", func(ctx context.Context, s *store.Store) error {
			sn, err := s.FreshSnapshot(ctx)
			if err == nil {
				defer sn.Close()
				rec, err := sn.Get("k")
				if v, _ := store.Decode[string](rec); v != "v" {
					return fmt.Errorf("FreshSnapshot has %q, %w", v, err)
				}
			}
			return err
		}, nil, true},
		{"Sync", func(ctx context.Context, s *store.Store) error { return s.Sync(ctx) }, nil, true},
		{"Put", func(ctx context.Context, s *store.Store) error { _, err := s.Put(ctx, "other", 1); return err }, nil, true},
		{"update that changes nothing", func(ctx context.Context, s *store.Store) error {
			_, err := s.Update(ctx, func(tx *store.Tx) error { _, err := tx.Get("k"); return err })
			return err
		}, nil, true},
		{"update that fails", func(ctx context.Context, s *store.Store) error {
			_, err := s.CompareAndSwap(ctx, "k", 0, 1)
			return err
		}, store.ErrConflict, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			rev := put(t, s, "k", "v")
			before := snapshot(t, s)
			unmark(t, s.Dir(), before)
			if durable(t, s) {
				t.Fatal("the mark was not taken away")
			}
			if err := tc.call(t.Context(), s); !errors.Is(err, tc.err) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			if got := durable(t, s); got != tc.want {
				t.Errorf("durable: %v, want %v", got, tc.want)
			}
			if rec, err := s.Get(t.Context(), "k"); err != nil || rec.Revision != rev {
				t.Errorf("the record has revision %v, %v; want %v", rec.Revision, err, rev)
			}
		})
	}
}

// TestSyncMovesNothing: on a durable state there is nothing to do.
func TestSyncMovesNothing(t *testing.T) {
	s := newStore(t)
	put(t, s, "k", "v")
	before := tree(t, s.Dir())
	for range 3 {
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.FreshSnapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wantSameTree(t, s.Dir(), before)
}
