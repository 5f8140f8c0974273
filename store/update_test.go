package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/internal/vfs/faultfs"
	"github.com/recordstore/recordstore/lockfile"
)

// testStore creates a store that is closed at the end of the test. adapt, if
// not nil, changes the system it runs on.
func testStore(t testing.TB, opts *Options, adapt func(*system)) *Store {
	t.Helper()
	return testOpen(t, filepath.Join(t.TempDir(), "s"), opts, adapt)
}

func testOpen(t testing.TB, dir string, opts *Options, adapt func(*system)) *Store {
	t.Helper()
	sys := testSystem()
	if adapt != nil {
		adapt(&sys)
	}
	s := mustOpen(t, dir, opts, sys)
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// eachPath runs a test on both paths: that of local file systems, and the
// careful one.
func eachPath(t *testing.T, f func(t *testing.T, opts *Options)) {
	t.Run("local", func(t *testing.T) { f(t, &Options{}) })
	t.Run("network", func(t *testing.T) { f(t, &Options{Network: true}) })
}

func mustPut(t testing.TB, s *Store, key string, v any, opts ...PutOption) Revision {
	t.Helper()
	rev, err := s.Put(context.Background(), key, v, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func mustSnapshot(t testing.TB, s *Store) *Snapshot {
	t.Helper()
	sn, err := s.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

// contents returns all records of a snapshot, decoded as T.
func contents[T any](t testing.TB, sn *Snapshot) map[string]T {
	t.Helper()
	out := map[string]T{}
	for rec, err := range sn.All() {
		if err != nil {
			t.Fatal(err)
		}
		v, err := Decode[T](rec)
		if err != nil {
			t.Fatal(err)
		}
		out[rec.Key] = v
	}
	return out
}

// filesOf returns the files of a store with their bytes, LOCK's left out: it
// says who held it.
func filesOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() == lockName {
			data = nil
		}
		out[e.Name()] = string(data)
	}
	return out
}

// testSystem is the real one, but that no temporary files are made ahead: a test
// compares what is in the directory.
func testSystem() system {
	sys := realSystem()
	sys.noSpare = true
	return sys
}

func wantSameFiles(t testing.TB, dir string, before map[string]string) {
	t.Helper()
	if after := filesOf(t, dir); !maps.Equal(after, before) {
		t.Errorf("the files of the store have changed: were %q, are %q",
			slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
}

// until waits for a condition that no channel tells of.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s for this: %s", what)
		}
	}
}

// waiters is how many updates of this process wait for their turn.
func waiters(s *Store) int {
	s.qmu.Lock()
	defer s.qmu.Unlock()
	return len(s.waiting)
}

// holdLock takes LOCK as another process would. The function returned
// releases it.
func holdLock(t testing.TB, s *Store) (release func()) {
	t.Helper()
	f, err := lockfile.Open(s.path(lockName), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := f.Lock(context.Background(), "the test")
	if err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if err := errors.Join(l.Unlock(), f.Close()); err != nil {
			t.Error(err)
		}
	})
}

// together runs n calls that are committed as one group: LOCK is held until
// all of them wait.
func together(t testing.TB, s *Store, n int, call func(i int)) {
	t.Helper()
	release := holdLock(t, s)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { call(i) })
	}
	until(t, "all calls wait for LOCK", func() bool { return waiters(s) == n })
	release()
	wg.Wait()
}

func TestUpdateIsAtomic(t *testing.T) {
	eachPath(t, func(t *testing.T, opts *Options) {
		s := testStore(t, opts, nil)
		mustPut(t, s, "old", 1)
		held := mustSnapshot(t, s)
		rev, err := s.Update(t.Context(), func(tx *Tx) error {
			for _, key := range []string{"a", "b", "c"} {
				if err := tx.Put(key, 2); err != nil {
					return err
				}
			}
			return tx.Delete("old")
		})
		if err != nil {
			t.Fatal(err)
		}
		sn := mustSnapshot(t, s)
		if got, want := contents[int](t, sn), map[string]int{"a": 2, "b": 2, "c": 2}; !maps.Equal(got, want) {
			t.Errorf("after the update: %v, want %v", got, want)
		}
		if got, want := contents[int](t, held), map[string]int{"old": 1}; !maps.Equal(got, want) {
			t.Errorf("the snapshot taken before: %v, want %v", got, want)
		}
		for rec, err := range sn.All() {
			if err != nil || rec.Revision != rev || !rec.Time.Equal(sn.Time()) {
				t.Errorf("%q: revision %v of %v, %v; want the update's, %v of %v", rec.Key, rec.Revision, rec.Time, err, rev, sn.Time())
			}
		}
		if sn.Revision() != rev {
			t.Errorf("the snapshot's revision is %v, want %v", sn.Revision(), rev)
		}
	})
}

// exits runs f on a goroutine of its own and returns what it panicked with, and
// whether it returned.
func exits(f func()) (panicked any, returned bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		f()
		returned = true
	}()
	<-done
	return panicked, returned
}

// TestFailedUpdateChangesNothing: whatever way an update function ends in but
// by returning nil, the store is as it was, byte for byte, and goes on.
func TestFailedUpdateChangesNothing(t *testing.T) {
	stop := errors.New("stop")
	for _, tc := range []struct {
		name string
		fn   func(tx *Tx) error
		err  error // nil: it does not return
		boom any
	}{
		{"returns an error", func(*Tx) error { return stop }, stop, nil},
		{"returns an error of the store", func(tx *Tx) error { return tx.Delete("missing") }, ErrNotFound, nil},
		{"panics", func(*Tx) error { panic("boom") }, nil, "boom"},
		{"ends its goroutine", func(*Tx) error { runtime.Goexit(); return nil }, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachPath(t, func(t *testing.T, opts *Options) {
				s := testStore(t, opts, nil)
				rev := mustPut(t, s, "k", "before")
				before := filesOf(t, s.dir)
				panicked, returned := exits(func() {
					_, err := s.Update(t.Context(), func(tx *Tx) error {
						if err := tx.Put("k", "after"); err != nil {
							return err
						}
						if err := tx.Put("new", "after"); err != nil {
							return err
						}
						return tc.fn(tx)
					})
					if tc.err == stop && err != stop {
						t.Errorf("got %v, want the function's error as it is", err)
					}
					if !errors.Is(err, tc.err) {
						t.Errorf("got %v, want %v", err, tc.err)
					}
				})
				if panicked != tc.boom || returned != (tc.err != nil) {
					t.Errorf("Update panicked with %v, returned: %v", panicked, returned)
				}
				settle(s)
				// There, only a commit proves that what an error speaks of is
				// on disk and the newest.
				if !opts.Network {
					wantSameFiles(t, s.dir, before)
				}
				if got, want := contents[string](t, mustSnapshot(t, s)), map[string]string{"k": "before"}; !maps.Equal(got, want) {
					t.Errorf("records %v, want %v", got, want)
				}
				if got := mustPut(t, s, "k", "next"); got != rev+1 {
					t.Errorf("the next update has revision %v, want %v", got, rev+1)
				}
			})
		})
	}
	t.Run("is nil", func(t *testing.T) {
		s := testStore(t, nil, nil)
		before := filesOf(t, s.dir)
		if _, err := s.Update(t.Context(), nil); !errors.Is(err, ErrNilFunc) {
			t.Errorf("got %v, want ErrNilFunc", err)
		}
		wantSameFiles(t, s.dir, before)
	})
}

// TestGroupMembersFailAlone: in a group commit, those who fail take nobody
// with them, and nobody sees what they did.
func TestGroupMembersFailAlone(t *testing.T) {
	eachPath(t, func(t *testing.T, opts *Options) {
		const n = 40
		s := testStore(t, opts, nil)
		stop := errors.New("stop")
		errs := make([]error, n)
		boom, end := make([]any, n), make([]bool, n)
		together(t, s, n, func(i int) {
			boom[i], end[i] = exits(func() {
				_, errs[i] = s.Update(t.Context(), func(tx *Tx) error {
					saw := 0
					for rec, err := range tx.All() {
						if err != nil || !strings.HasPrefix(rec.Key, "good") {
							t.Errorf("update %d sees %q, %v", i, rec.Key, err)
						}
						saw++
					}
					name := "good"
					if i%4 != 0 {
						name = "bad"
					}
					if err := tx.Put(fmt.Sprint(name, i), saw); err != nil {
						return err
					}
					switch i % 4 {
					case 1:
						return stop
					case 2:
						panic(i)
					case 3:
						runtime.Goexit()
					}
					return nil
				})
			})
		})
		for i := range n {
			ok := false
			switch i % 4 {
			case 0:
				ok = errs[i] == nil && end[i]
			case 1:
				ok = errs[i] == stop && end[i]
			case 2:
				ok = boom[i] == i && !end[i]
			case 3:
				ok = boom[i] == nil && !end[i]
			}
			if !ok {
				t.Errorf("update %d: error %v, panic %v, returned %v", i, errs[i], boom[i], end[i])
			}
		}
		// Each saw those before it: the first none, the second one, and so on.
		got := contents[int](t, mustSnapshot(t, s))
		for i, saw := range slices.Sorted(maps.Values(got)) {
			if len(got) != n/4 || saw != i {
				t.Fatalf("those that succeeded saw %v others, want 0 to %d", got, n/4-1)
			}
		}
	})
}

func TestGroupCommit(t *testing.T) {
	eachPath(t, func(t *testing.T, opts *Options) {
		const n = 64
		s := testStore(t, opts, nil)
		mustPut(t, s, "first", 0)
		before := mustSnapshot(t, s)
		revs := make([]Revision, n)
		together(t, s, n, func(i int) {
			rev, err := s.Update(t.Context(), func(tx *Tx) error {
				if err := tx.Put(fmt.Sprint(i), tx.Revision()); err != nil {
					return err
				}
				return tx.Put("last", i)
			})
			if err != nil {
				t.Error(err)
			}
			revs[i] = rev
		})
		after := mustSnapshot(t, s)
		if got := after.Sequence() - before.Sequence(); got != 1 {
			t.Errorf("%d updates made %d manifests, want one", n, got)
		}
		for i, rev := range revs {
			rec, err := after.Get(fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			if saw, err := Decode[Revision](rec); err != nil || saw != rev || rec.Revision != rev {
				t.Errorf("update %d: returned revision %v, record has %v, the function saw %v (%v)", i, rev, rec.Revision, saw, err)
			}
		}
		slices.Sort(revs)
		for i, rev := range revs {
			if want := before.Revision() + 1 + Revision(i); rev != want {
				t.Fatalf("revisions %v, want each once from %v", revs, before.Revision()+1)
			}
		}
		if after.Revision() != revs[n-1] {
			t.Errorf("the snapshot's revision is %v, want %v", after.Revision(), revs[n-1])
		}
		if rec, err := after.Get("last"); err != nil || rec.Revision != revs[n-1] {
			t.Errorf("the record written by all has revision %v, %v; want the last, %v", rec.Revision, err, revs[n-1])
		}
	})
}

func TestCompareAndSwapInAGroup(t *testing.T) {
	eachPath(t, func(t *testing.T, opts *Options) {
		const n = 64
		s := testStore(t, opts, nil)
		for _, create := range []bool{true, false} {
			var old Revision
			key := "new"
			if !create {
				key = "old"
				old = mustPut(t, s, key, -1)
			}
			var won atomic.Int64
			winner := -1
			together(t, s, n, func(i int) {
				_, err := s.CompareAndSwap(t.Context(), key, old, i)
				var conflict *ConflictError
				switch {
				case err == nil:
					won.Add(1)
					winner = i
				case !errors.As(err, &conflict), !errors.Is(err, ErrConflict), conflict.Key != key, conflict.Want != old, conflict.Have <= old:
					t.Errorf("got %v, want a *ConflictError", err)
				}
			})
			if won.Load() != 1 {
				t.Fatalf("%d of %d compare-and-swaps of %q from revision %v succeeded, want one", won.Load(), n, key, old)
			}
			if got := contents[int](t, mustSnapshot(t, s))[key]; got != winner {
				t.Errorf("the record is %d, the winner was %d", got, winner)
			}
		}
	})
}

func TestCompare(t *testing.T) {
	s, ctx := testStore(t, nil, nil), t.Context()
	rev := mustPut(t, s, "k", 1)
	swap := func(key string, old Revision) error { _, err := s.CompareAndSwap(ctx, key, old, 2); return err }
	del := func(key string, old Revision) error { _, err := s.CompareAndDelete(ctx, key, old); return err }
	for _, tc := range []struct {
		name string
		call func(string, Revision) error
		key  string
		old  Revision
		have Revision
		says string
	}{
		{"swap, exists", swap, "k", 0, rev, "exists already"},
		{"swap, other revision", swap, "k", rev + 1, rev, "expected"},
		{"swap, missing", swap, "missing", rev, 0, "does not exist"},
		{"delete, other revision", del, "k", rev + 1, rev, "expected"},
		{"delete, missing", del, "missing", rev, 0, "does not exist"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := filesOf(t, s.dir)
			err := tc.call(tc.key, tc.old)
			var conflict *ConflictError
			if !errors.As(err, &conflict) || *conflict != (ConflictError{tc.key, tc.old, tc.have}) || !errors.Is(err, ErrConflict) {
				t.Fatalf("got %#v, want a *ConflictError with revision %v", err, tc.have)
			}
			if !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), tc.key) {
				t.Errorf("%q does not mention %q and the key", err, tc.says)
			}
			wantSameFiles(t, s.dir, before)
		})
	}
	if err := del("k", 0); err == nil || errors.Is(err, ErrConflict) {
		t.Errorf("CompareAndDelete with revision 0: got %v, want an error that is no conflict", err)
	}
	if err := swap("k", rev); err != nil {
		t.Error(err)
	}
	if err := del("k", rev+1); err != nil {
		t.Error(err)
	}
	if err := swap("k", 0); err != nil {
		t.Errorf("creating a record anew: %v", err)
	}
}

// TestRevisions: each update that changes something gets the next revision,
// others that of the state they saw.
func TestRevisions(t *testing.T) {
	eachPath(t, func(t *testing.T, opts *Options) {
		s, ctx := testStore(t, opts, nil), t.Context()
		if rev := mustSnapshot(t, s).Revision(); rev != 0 {
			t.Errorf("a new store has revision %v, want 0", rev)
		}
		for want := Revision(1); want <= 5; want++ {
			if got := mustPut(t, s, "k", 1); got != want {
				t.Errorf("update %d has revision %v", want, got)
			}
			got, err := s.Update(ctx, func(tx *Tx) error { _, err := tx.Get("k"); return err })
			if err != nil || got != want {
				t.Errorf("an update that changes nothing: revision %v, %v; want that of the state, %v", got, err, want)
			}
			if err := s.Sync(ctx); err != nil {
				t.Error(err)
			}
		}
		rev, err := s.Delete(ctx, "k")
		if err != nil || rev != 6 {
			t.Errorf("Delete: revision %v, %v; want 6", rev, err)
		}
		if _, err := s.Delete(ctx, "k"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Delete of a missing record: %v, want ErrNotFound", err)
		}
		if got := mustPut(t, s, "k", 1); got != 7 {
			t.Errorf("after an update that failed: revision %v, want 7", got)
		}
	})
}

func TestCancelWhileWaiting(t *testing.T) {
	wantHeld := func(t *testing.T, s *Store, err, cause error) {
		t.Helper()
		var held *lockfile.HeldError
		if !errors.As(err, &held) || held.Path != s.path(lockName) {
			t.Errorf("got %v, want a *lockfile.HeldError with LOCK's path", err)
		}
		if !errors.Is(err, cause) {
			t.Errorf("%v is not the context's error, %v", err, cause)
		}
	}
	untouched := func(tx *Tx) error { panic("the function runs although its context has ended") }

	t.Run("for LOCK", func(t *testing.T) {
		s := testStore(t, nil, nil)
		release := holdLock(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err := s.Update(ctx, untouched)
		wantHeld(t, s, err, context.DeadlineExceeded)
		if want := fmt.Sprint("pid ", os.Getpid()); !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "the test") {
			t.Errorf("%q does not name the holder, %s, for the test", err, want)
		}
		release()
		mustPut(t, s, "k", "v")
	})
	t.Run("behind another goroutine's function", func(t *testing.T) {
		s := testStore(t, nil, nil)
		inside, goOn := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := s.Update(t.Context(), func(tx *Tx) error {
				close(inside)
				<-goOn
				return tx.Put("first", 1)
			})
			if err != nil {
				t.Error(err)
			}
		})
		<-inside
		cause := errors.New("changed my mind")
		ctx, cancel := context.WithCancelCause(t.Context())
		left := make(chan error)
		go func() { _, err := s.Update(ctx, untouched); left <- err }()
		until(t, "the second update waits", func() bool { return waiters(s) == 1 })
		cancel(cause)
		wantHeld(t, s, <-left, cause)
		close(goOn)
		wg.Wait()
		if got := contents[int](t, mustSnapshot(t, s)); len(got) != 1 {
			t.Errorf("records %v, want only the first", got)
		}
	})
	t.Run("while it is being published", func(t *testing.T) {
		for _, kind := range []string{faultfs.OpRename, faultfs.OpSync} {
			ctx, cancel := context.WithCancel(t.Context())
			begun, goOn := make(chan struct{}), make(chan struct{})
			var armed atomic.Bool
			s := testStore(t, nil, func(sys *system) {
				sys.fs = &faultfs.Hooked{FS: sys.fs, Before: func(op faultfs.Op) error {
					if op.Kind == kind && armed.CompareAndSwap(true, false) {
						close(begun)
						<-goOn
					}
					return nil
				}}
			})
			armed.Store(true)
			left := make(chan error)
			go func() { _, err := s.Put(ctx, "k", 1); left <- err }()
			<-begun
			cancel()
			if err := <-left; !errors.Is(err, ErrUnknown) || !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled in %s: got %v, want ErrUnknown and the context's error", kind, err)
			}
			close(goOn)
			settle(s)
			if got := contents[int](t, mustSnapshot(t, s)); got["k"] != 1 {
				t.Errorf("cancelled in %s: records %v; it was published", kind, got)
			}
			if n := s.cur.Load().n.Load(); n != 1 {
				t.Errorf("cancelled in %s: the state has %d holders, want the store alone", kind, n)
			}
		}
	})
}

// TestCancelAfterOnesTurn: a member of a group whose function has run leaves
// before the group is published. Nothing of it is published, and those after
// it, who have seen its changes, run again without them.
func TestCancelAfterOnesTurn(t *testing.T) {
	s := testStore(t, nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	release := holdLock(t, s)
	left := make(chan error, 1)
	go func() {
		_, err := s.Update(ctx, func(tx *Tx) error { return tx.Put("gone", 1) })
		left <- err
	}()
	until(t, "the first waits", func() bool { return waiters(s) == 1 })
	runs, sawIt := 0, false
	done := make(chan error, 1)
	go func() {
		_, err := s.Update(t.Context(), func(tx *Tx) error {
			if runs++; runs == 1 {
				cancel()
				err := <-left // it leaves while we run
				left <- err
			}
			_, err := tx.Get("gone")
			sawIt = err == nil
			return tx.Put("stays", runs)
		})
		done <- err
	}()
	until(t, "the second waits", func() bool { return waiters(s) == 2 })
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var held *lockfile.HeldError
	if err := <-left; !errors.As(err, &held) || errors.Is(err, ErrUnknown) {
		t.Errorf("who left got %v, want a *lockfile.HeldError", err)
	}
	if runs != 2 || sawIt {
		t.Errorf("who stayed ran %d times, saw the other's changes in the last: %v; want 2, false", runs, sawIt)
	}
	if got, want := contents[int](t, mustSnapshot(t, s)), map[string]int{"stays": 2}; !maps.Equal(got, want) {
		t.Errorf("records %v, want %v", got, want)
	}
}

// TestNestedUpdate: an update function that waits for its own store waits until
// its context ends. Reading is allowed.
func TestNestedUpdate(t *testing.T) {
	s := testStore(t, nil, nil)
	mustPut(t, s, "k", 1)
	_, err := s.Update(t.Context(), func(tx *Tx) error {
		if _, err := s.Get(t.Context(), "k"); err != nil {
			t.Errorf("Get within an update: %v", err)
		}
		if _, err := s.Snapshot(t.Context()); err != nil {
			t.Errorf("Snapshot within an update: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err := s.Put(ctx, "k", 2)
		return err
	})
	var held *lockfile.HeldError
	if !errors.As(err, &held) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a *lockfile.HeldError", err)
	}
	if want := fmt.Sprint("pid ", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not name this process, %s", err, want)
	}
	mustPut(t, s, "k", 3)
}

func TestTxDone(t *testing.T) {
	s := testStore(t, nil, nil)
	mustPut(t, s, "k", 1)
	var tx *Tx
	var all func(func(Record, error) bool)
	if _, err := s.Update(t.Context(), func(x *Tx) error { tx, all = x, x.All(); return nil }); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Get":        func() error { _, err := tx.Get("k"); return err },
		"Put":        func() error { return tx.Put("k", 1) },
		"PutEncoded": func() error { return tx.PutEncoded("k", "raw", nil) },
		"Delete":     func() error { return tx.Delete("k") },
		"All":        func() error { return firstError(tx.All()) },
		"Prefix":     func() error { return firstError(tx.Prefix("")) },
		"Range":      func() error { return firstError(tx.Range("", "")) },
		"All before": func() error { return firstError(all) },
	} {
		if err := call(); !errors.Is(err, ErrTxDone) {
			t.Errorf("%s after the update: got %v, want ErrTxDone", name, err)
		}
	}
}

func firstError(seq func(func(Record, error) bool)) error {
	for _, err := range seq {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestTxAgainstAMap runs random updates, with some that fail, and compares
// all that they and snapshots can see with a map.
func TestTxAgainstAMap(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	// Few keys, so that they are met again, at the edges of prefixes.
	keys := []string{"\x00", "a", "a\x00", "aa", "a\xff", "a\xff\xff", "a\xff\xffb", "b", "b\xff", "z", "\xff", "\xff\xff", "\xffa"}
	pick := func() string { return keys[rng.IntN(len(keys))] }
	s := testStore(t, nil, nil)
	model := map[string]int{}
	stop := errors.New("stop")

	look := func(where string, m map[string]int, v interface {
		Get(string) (Record, error)
		All() func(func(Record, error) bool)
		Prefix(string) func(func(Record, error) bool)
		Range(string, string) func(func(Record, error) bool)
	},
	) {
		k := pick()
		rec, err := v.Get(k)
		n, ok := m[k]
		if ok != (err == nil) || !ok && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: Get(%q): %v, in the map: %v", where, k, err, ok)
		} else if got, _ := Decode[int](rec); ok && got != n {
			t.Errorf("%s: Get(%q) = %d, want %d", where, k, got, n)
		}
		from, to, p := pick(), pick(), pick()
		if rng.IntN(4) == 0 {
			to = ""
		}
		p = p[:rng.IntN(len(p)+1)]
		wantSeq(t, where+": All", v.All(), m, func(string) bool { return true })
		wantSeq(t, fmt.Sprintf("%s: Prefix(%q)", where, p), v.Prefix(p), m, func(k string) bool { return strings.HasPrefix(k, p) })
		wantSeq(t, fmt.Sprintf("%s: Range(%q, %q)", where, from, to), v.Range(from, to), m,
			func(k string) bool { return k >= from && (to == "" || k < to) })
	}
	for round := 0; round < 300 && !t.Failed(); round++ {
		next := maps.Clone(model)
		fails := rng.IntN(4) == 0
		_, err := s.Update(t.Context(), func(tx *Tx) error {
			for range rng.IntN(6) {
				k := pick()
				if rng.IntN(3) > 0 {
					next[k] = rng.Int()
					if err := tx.Put(k, next[k]); err != nil {
						t.Errorf("Put(%q): %v", k, err)
					}
				} else {
					_, ok := next[k]
					if err := tx.Delete(k); ok != (err == nil) || !ok && !errors.Is(err, ErrNotFound) {
						t.Errorf("Delete(%q): %v, in the map: %v", k, err, ok)
					}
					delete(next, k)
				}
				look("Tx", next, txView{tx})
			}
			if fails {
				return stop
			}
			return nil
		})
		if !fails {
			model = next
		}
		if fails != errors.Is(err, stop) || !fails && err != nil {
			t.Errorf("Update: %v", err)
		}
		sn := mustSnapshot(t, s)
		look("Snapshot", model, snapshotView{sn})
		if n, err := sn.Len(); n != len(model) || err != nil {
			t.Errorf("Len() = %d, %v, want %d", n, err, len(model))
		}
	}
}

// txView and snapshotView give both the same method set.
type (
	txView       struct{ *Tx }
	snapshotView struct{ *Snapshot }
)

func (v txView) All() func(func(Record, error) bool)              { return v.Tx.All() }
func (v txView) Prefix(p string) func(func(Record, error) bool)   { return v.Tx.Prefix(p) }
func (v txView) Range(a, b string) func(func(Record, error) bool) { return v.Tx.Range(a, b) }
func (v snapshotView) All() func(func(Record, error) bool)        { return v.Snapshot.All() }
func (v snapshotView) Prefix(p string) func(func(Record, error) bool) {
	return v.Snapshot.Prefix(p)
}

func (v snapshotView) Range(a, b string) func(func(Record, error) bool) {
	return v.Snapshot.Range(a, b)
}

// wantSeq compares an iteration with the part of a map, and breaks off another.
func wantSeq(t *testing.T, what string, seq func(func(Record, error) bool), m map[string]int, in func(string) bool) {
	t.Helper()
	var want, got []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if in(k) {
			want = append(want, k)
		}
	}
	for rec, err := range seq {
		v, decErr := Decode[int](rec)
		if err != nil || decErr != nil || v != m[rec.Key] {
			t.Errorf("%s: %q = %d, %v, %v; want %d", what, rec.Key, v, err, decErr, m[rec.Key])
		}
		got = append(got, rec.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: keys %q, want %q", what, got, want)
	}
	for i := range want {
		n := 0
		for range seq {
			if n++; n > i {
				break
			}
		}
	}
}

// TestIterationIsOfItsBeginning: changes made while iterating are not in it.
func TestIterationIsOfItsBeginning(t *testing.T) {
	s := testStore(t, nil, nil)
	mustPut(t, s, "a", 1)
	mustPut(t, s, "c", 1)
	_, err := s.Update(t.Context(), func(tx *Tx) error {
		var keys []string
		for rec, err := range tx.All() {
			if err != nil {
				return err
			}
			keys = append(keys, rec.Key)
			if err := tx.Put("b", 1); err != nil {
				return err
			}
			if err := tx.Put("d", 1); err != nil {
				return err
			}
			if _, err := tx.Get("c"); err == nil {
				if err := tx.Delete("c"); err != nil {
					return err
				}
			}
		}
		if !slices.Equal(keys, []string{"a", "c"}) {
			t.Errorf("iterated over %q, want a and c", keys)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A fakeClock goes when it is told to.
type fakeClock struct{ ns atomic.Int64 }

func newFakeClock() *fakeClock {
	c := new(fakeClock)
	c.ns.Store(time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC).UnixNano())
	return c
}

func (c *fakeClock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *fakeClock) advance(d time.Duration) { c.ns.Add(int64(d)) }
func (c *fakeClock) use(sys *system)         { sys.now = c.now }

func TestExpiry(t *testing.T) {
	clock := newFakeClock()
	s := testStore(t, nil, clock.use)
	ctx := t.Context()
	begin := clock.now()
	mustPut(t, s, "ttl", 1, WithTTL(time.Minute))
	mustPut(t, s, "at", 1, WithExpiry(begin.Add(2*time.Minute)))
	mustPut(t, s, "never", 1)
	mustPut(t, s, "kept", 1, WithTTL(time.Second), WithExpiry(time.Time{})) // the last one counts
	mustPut(t, s, "rewritten", 1, WithTTL(time.Second))
	mustPut(t, s, "rewritten", 1)
	if rec, err := s.Get(ctx, "ttl"); err != nil || !rec.Expires.Equal(begin.Add(time.Minute)) || rec.Expires.Location() != time.UTC {
		t.Errorf("Expires = %v, %v; want a minute from %v", rec.Expires, err, begin)
	}
	if rec, err := s.Get(ctx, "never"); err != nil || !rec.Expires.IsZero() {
		t.Errorf("Expires = %v, %v; want the zero time", rec.Expires, err)
	}
	early := mustSnapshot(t, s)

	visible := func(sn *Snapshot) []string { return slices.Sorted(maps.Keys(contents[int](t, sn))) }
	want := func(when string, keys ...string) {
		t.Helper()
		keys = slices.Sorted(slices.Values(keys))
		sn := mustSnapshot(t, s)
		if got := visible(sn); !slices.Equal(got, keys) {
			t.Errorf("%s: a snapshot has %q, want %q", when, got, keys)
		}
		if n, err := sn.Len(); n != len(keys) || err != nil {
			t.Errorf("%s: Len() = %d, %v, want %d", when, n, err, len(keys))
		}
		stop := errors.New("stop")
		_, err := s.Update(ctx, func(tx *Tx) error {
			var got []string
			for rec, err := range tx.All() {
				if err != nil {
					return err
				}
				got = append(got, rec.Key)
			}
			if !slices.Equal(got, keys) {
				t.Errorf("%s: a Tx has %q, want %q", when, got, keys)
			}
			for _, k := range []string{"at", "kept", "never", "rewritten", "ttl"} {
				_, err := tx.Get(k)
				if ok := slices.Contains(keys, k); ok != (err == nil) || !ok && !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: Tx.Get(%q): %v", when, k, err)
				}
				if err := tx.Delete(k); slices.Contains(keys, k) != (err == nil) {
					t.Errorf("%s: Tx.Delete(%q): %v", when, k, err)
				}
			}
			return stop
		})
		if !errors.Is(err, stop) {
			t.Error(err)
		}
		for _, k := range []string{"at", "kept", "never", "rewritten", "ttl"} {
			for name, get := range map[string]func() (Record, error){
				"Store.Get":    func() (Record, error) { return s.Get(ctx, k) },
				"Snapshot.Get": func() (Record, error) { return sn.Get(k) },
			} {
				_, err := get()
				if ok := slices.Contains(keys, k); ok != (err == nil) || !ok && !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: %s(%q): %v", when, name, k, err)
				}
			}
		}
	}
	all := []string{"ttl", "at", "never", "kept", "rewritten"}
	want("at first", all...)
	clock.advance(time.Minute - 1)
	want("a nanosecond before", all...)
	clock.advance(1)
	want("at the very moment", all[1:]...)
	late := mustSnapshot(t, s)
	clock.advance(time.Hour)
	want("an hour later", all[2:]...)
	if got := visible(early); len(got) != 5 {
		t.Errorf("the early snapshot has %q now, want all", got)
	}
	if got := visible(late); len(got) != 4 {
		t.Errorf("the late snapshot has %q now, want it without one", got)
	}

	// A commit at this time fixes it for all: a clock that goes back does not
	// bring anything back, nor make a commit seem older than its parent.
	mustPut(t, s, "new", 1, WithTTL(time.Second))
	at := mustSnapshot(t, s).Time()
	clock.advance(-2 * time.Hour)
	want("with the clock set back", "never", "kept", "rewritten", "new")
	mustPut(t, s, "new", 1)
	if got := mustSnapshot(t, s).Time(); got.Before(at) {
		t.Errorf("commit time went back from %v to %v", at, got)
	}

	// An expired record is as good as none for those who compare.
	clock.advance(4 * time.Hour)
	mustPut(t, s, "gone", 1, WithTTL(time.Second))
	clock.advance(time.Second)
	if _, err := s.CompareAndSwap(ctx, "gone", 0, 2); err != nil {
		t.Errorf("CompareAndSwap in place of an expired record: %v", err)
	}
}

// TestExpiredRecordsAreDropped: the manifest does not keep them.
func TestExpiredRecordsAreDropped(t *testing.T) {
	clock := newFakeClock()
	s := testStore(t, nil, clock.use)
	for i := range 50 {
		mustPut(t, s, fmt.Sprint(i), strings.Repeat("x", 100), WithTTL(time.Second))
	}
	clock.advance(time.Minute)
	mustPut(t, s, "k", 1)
	st, err := s.Stat(t.Context())
	if err != nil || st.Bytes > 50*100 {
		t.Errorf("the manifest has %d bytes, %v; it keeps what is expired", st.Bytes, err)
	}
}

func TestPutOptionErrors(t *testing.T) {
	s := testStore(t, nil, nil)
	before := filesOf(t, s.dir)
	for _, d := range []time.Duration{0, -1, -time.Hour} {
		if _, err := s.Put(t.Context(), "k", 1, WithTTL(d)); err == nil || !strings.Contains(err.Error(), d.String()) {
			t.Errorf("WithTTL(%v): got %v, want an error", d, err)
		}
	}
	wantSameFiles(t, s.dir, before)
	// In the past is no error: it is there for nobody to see.
	rev := mustPut(t, s, "k", 1, WithExpiry(time.Now().Add(-time.Hour)))
	if _, err := s.Get(t.Context(), "k"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a record that was expired when it was written: %v, want ErrNotFound", err)
	}
	if got := mustPut(t, s, "other", 1); got != rev+1 {
		t.Errorf("the next revision is %v, want %v", got, rev+1)
	}
}

// TestFarExpiry: times that do not fit into 64 bits of nanoseconds.
func TestFarExpiry(t *testing.T) {
	s := testStore(t, nil, nil)
	for _, tc := range []struct {
		name    string
		opt     PutOption
		visible bool
	}{
		{"year 9999", WithExpiry(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)), true},
		{"year 2300", WithExpiry(time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)), true},
		{"longest TTL", WithTTL(math.MaxInt64), true},
		{"1970, which is 0 nanoseconds", WithExpiry(time.Unix(0, 0)), false},
		{"year 1", WithExpiry(time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mustPut(t, s, tc.name, 1, tc.opt)
			if _, err := s.Get(t.Context(), tc.name); (err == nil) != tc.visible {
				t.Errorf("Get: %v, want it visible: %v", err, tc.visible)
			}
		})
	}
}

// TestWarmGet: while nothing changes, Get asks for two names and opens nothing.
func TestWarmGet(t *testing.T) {
	var ops []faultfs.Op
	var watch atomic.Bool
	s := testStore(t, nil, func(sys *system) {
		sys.fs = &faultfs.Hooked{FS: sys.fs, Before: func(op faultfs.Op) error {
			if watch.Load() {
				ops = append(ops, op)
			}
			return nil
		}}
	})
	mustPut(t, s, "k", "v")
	settle(s)
	for name, call := range map[string]func() error{
		"Get":      func() error { _, err := s.Get(t.Context(), "k"); return err },
		"Snapshot": func() error { _, err := s.Snapshot(t.Context()); return err },
	} {
		watch.Store(true)
		err := call()
		watch.Store(false)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range ops {
			if op.Kind != faultfs.OpLstat {
				t.Errorf("%s: %s %s, want lstat only", name, op.Kind, op.Path)
			}
		}
		// Of the directory too, where its path leads and when it changed.
		if len(ops) > 4 || len(ops) < 2 {
			t.Errorf("%s: %d operations, want two to four: %v", name, len(ops), ops)
		}
		ops = nil
	}
}

// TestNetworkGet: on a network file system a name that was looked up proves
// nothing, so that every Get reads the directory.
func TestNetworkGet(t *testing.T) {
	var listings atomic.Int64
	s := testStore(t, &Options{Network: true}, func(sys *system) {
		sys.fs = &faultfs.Hooked{FS: sys.fs, Before: func(op faultfs.Op) error {
			if op.Kind == faultfs.OpReadDir {
				listings.Add(1)
			}
			return nil
		}}
	})
	mustPut(t, s, "k", "v")
	settle(s)
	before := listings.Load()
	for range 3 {
		if _, err := s.Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
	}
	if n := listings.Load() - before; n < 3 {
		t.Errorf("3 Gets have read the directory %d times, want one each at least", n)
	}
}

// watchedLock tells when LOCK is released.
type watchedLock struct {
	locker
	released func()
}

type watchedHeld struct {
	heldLock
	released func()
}

func (l watchedLock) Lock(ctx context.Context, purpose string) (heldLock, error) {
	h, err := l.locker.Lock(ctx, purpose)
	if err != nil {
		return nil, err
	}
	return watchedHeld{h, l.released}, nil
}

func (h watchedHeld) Unlock() error {
	err := h.heldLock.Unlock()
	h.released()
	return err
}

// TestCommitFlushesOnceAfterUnlock: one commit flushes one file and one
// directory, both after LOCK is released, and marks the file after both.
func TestCommitFlushesOnceAfterUnlock(t *testing.T) {
	var mu sync.Mutex
	var log []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, what)
	}
	s := testStore(t, nil, func(sys *system) {
		sys.fs = &faultfs.Hooked{FS: sys.fs, After: func(op faultfs.Op, err error) error {
			switch op.Kind {
			case faultfs.OpSync, faultfs.OpSyncDir, faultfs.OpRename, faultfs.OpLink, faultfs.OpRemove:
				note(op.Kind)
			case faultfs.OpChmod:
				if info, err := (vfs.OS{}).Lstat(op.Path); err == nil && info.Marked() {
					note("mark") // still by its first name: must not be
				}
			}
			return err
		}}
		openLock := sys.openLock
		sys.openLock = func(path string, opts *lockfile.Options) (locker, error) {
			l, err := openLock(path, opts)
			return watchedLock{l, func() { note("unlock") }}, err
		}
	})
	mustPut(t, s, "first", 1) // the first one has more to do
	settle(s)
	want := []string{faultfs.OpRename, "unlock", faultfs.OpSync, faultfs.OpSyncDir}
	sorted := func(log []string) []string { // the two flushes are side by side
		if len(log) == len(want) {
			slices.Sort(log[2:])
		}
		return log
	}
	slices.Sort(want[2:])
	for name, call := range map[string]func(){
		"one commit":          func() { mustPut(t, s, "k", 1) },
		"a group of 64":       func() { together(t, s, 64, func(i int) { mustPut(t, s, fmt.Sprint(i), i) }) },
		"an update of 64":     func() { manyPuts(t, s, 64) },
		"a compare and a Put": func() { compareAndPut(t, s) },
	} {
		mu.Lock()
		log = nil
		mu.Unlock()
		call()
		settle(s)
		mu.Lock()
		if !slices.Equal(sorted(log), want) {
			t.Errorf("%s: %q, want %q", name, log, want)
		}
		mu.Unlock()
	}
	// Nothing to publish, on a state that is on disk: nothing is flushed.
	mu.Lock()
	log = nil
	mu.Unlock()
	if err := s.Sync(t.Context()); err != nil {
		t.Error(err)
	}
	settle(s)
	if want := []string{"unlock"}; !slices.Equal(log, want) {
		t.Errorf("Sync of a durable state: %q, want %q", log, want)
	}
}

func manyPuts(t testing.TB, s *Store, n int) {
	t.Helper()
	_, err := s.Update(t.Context(), func(tx *Tx) error {
		for i := range n {
			if err := tx.Put(fmt.Sprint(i), i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func compareAndPut(t testing.TB, s *Store) {
	t.Helper()
	rec, err := s.Get(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CompareAndSwap(t.Context(), "first", rec.Revision, 2); err != nil {
		t.Fatal(err)
	}
}

// TestNothingLeaks: after many commits and snapshots and Close there are as
// many descriptors and goroutines as before, and few files.
func TestNothingLeaks(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	const workers = 4
	descriptors := func() int {
		entries, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Skipf("cannot count descriptors: %v", err)
		}
		return len(entries)
	}
	dir := filepath.Join(t.TempDir(), "s")
	files, goroutines := descriptors(), runtime.NumGoroutine()
	sys := testSystem()
	// It is about descriptors, so that nothing need be flushed.
	sys.fs = &faultfs.Pretender{FS: sys.fs, Pretend: func(faultfs.Op) bool { return true }}
	sys.keepAge = time.Nanosecond
	a, b := mustOpen(t, dir, nil, sys), mustOpen(t, dir, nil, sys)
	var wg sync.WaitGroup
	for w := range workers {
		s := []*Store{a, b}[w%2]
		wg.Go(func() {
			for i := range n / workers {
				if _, err := s.Put(t.Context(), fmt.Sprint(w), i); err != nil {
					t.Error(err)
					return
				}
				if _, err := b.Snapshot(t.Context()); err != nil { // not closed
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	settle(a)
	settle(b)
	if got := len(filesOf(t, dir)); got > 2*retireEvery+2*keepManifests {
		t.Errorf("%d files after %d commits", got, n)
	}
	if got := descriptors(); got > files+10 {
		t.Errorf("%d descriptors with two stores open, were %d before", got, files)
	}
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	if got := descriptors(); got != files {
		t.Errorf("%d descriptors after Close, were %d before", got, files)
	}
	until(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
}

// TestRecordsOutliveTheirFile: a record's bytes stay valid when its manifest is
// retired and the store closed.
func TestRecordsOutliveTheirFile(t *testing.T) {
	s := testStore(t, nil, func(sys *system) { sys.keep, sys.keepAge, sys.retireEvery = 1, 1, 1 })
	mustPut(t, s, "k", []byte("bytes"))
	sn := mustSnapshot(t, s)
	rec, err := sn.Get("k")
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		mustPut(t, s, "k", []byte("other"))
	}
	settle(s)
	if _, err := os.Lstat(s.manifestPath(sn.Sequence())); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the manifest was not retired: %v", err)
	}
	if err := errors.Join(sn.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if v, err := Decode[[]byte](rec); err != nil || !bytes.Equal(v, []byte("bytes")) {
		t.Errorf("got %q, %v; want bytes", v, err)
	}
}

// A process that commits no more keeps no temporary file, and neither does a store
// that was closed.
func TestSpareGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(faultfs.NewDisk(), 1)
		m.spare = true
		temps := func() (n int) {
			names, err := m.disk.ReadDir(simDir)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if vfs.IsTemp(name) {
					n++
				}
			}
			return n
		}
		s := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
		defer s.Close()
		for i := range spareRow + 2 {
			mustUpdate(t, s, updateKey("w", i))
		}
		if n := temps(); n != 1 {
			t.Fatalf("%d temporary files after many commits, want one made ahead", n)
		}
		time.Sleep(spareAge / 2)
		mustUpdate(t, s, "w/again") // takes it, and leaves another
		time.Sleep(spareAge * 3 / 4)
		if n := temps(); n != 1 {
			t.Errorf("%d temporary files, want the one that is not old yet", n)
		}
		time.Sleep(spareAge)
		synctest.Wait()
		if n := temps(); n != 0 {
			t.Errorf("%d temporary files after a while, want none", n)
		}
		for i := range spareRow + 2 {
			mustUpdate(t, s, updateKey("v", i))
		}
		if err := s.Close(); err != nil || temps() != 0 {
			t.Errorf("%d temporary files after Close, %v", temps(), err)
		}
	})
}
