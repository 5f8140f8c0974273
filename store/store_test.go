package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/lockfile"
	"github.com/recordstore/recordstore/store"
)

// What the tests of this package have in common.

// openStore opens a store that is closed at the end of the test.
func openStore(t testing.TB, dir string, opts *store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

func newStore(t testing.TB) *store.Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "s"), nil)
}

func put(t testing.TB, s *store.Store, key string, v any, opts ...store.PutOption) store.Revision {
	t.Helper()
	rev, err := s.Put(context.Background(), key, v, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func snapshot(t testing.TB, s *store.Store) *store.Snapshot {
	t.Helper()
	sn, err := s.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

// length returns the number of records in a snapshot.
func length(t testing.TB, sn *store.Snapshot) int {
	t.Helper()
	n, err := sn.Len()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// value returns the decoded value of a record in a snapshot.
func value[T any](t testing.TB, sn *store.Snapshot, key string) T {
	t.Helper()
	rec, err := sn.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := store.Decode[T](rec)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// list returns what is in a directory, by name.
func list(t testing.TB, dir string) map[string]fs.FileInfo {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]fs.FileInfo{}
	for _, e := range entries {
		info, err := e.Info()
		temp := strings.HasPrefix(e.Name(), ".tmp.")
		if err != nil && !(temp && errors.Is(err, fs.ErrNotExist)) {
			t.Fatal(err)
		}
		if temp && (err != nil || info.Size() == 0) {
			continue // made ahead for the next commit, which may be taking it
		}
		out[e.Name()] = info
	}
	return out
}

// tree describes a directory and everything in it: mode, owner, time of the
// last change and every byte.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	describe := func(name string, info fs.FileInfo, data []byte) {
		st := info.Sys().(*syscall.Stat_t)
		out[name] = fmt.Sprintf("%v uid %d gid %d %v %x", info.Mode(), st.Uid, st.Gid, info.ModTime().UnixNano(), data)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		t.Fatal(err)
	}
	describe(".", info, nil)
	for name, info := range list(t, dir) {
		var data []byte
		if info.Mode().IsRegular() {
			if data, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		describe(name, info, data)
	}
	return out
}

// wantSameTree fails the test if anything in dir has changed, but for what
// LOCK says about its holders.
func wantSameTree(t testing.TB, dir string, before map[string]string) {
	t.Helper()
	after := tree(t, dir)
	for name := range maps.Keys(after) {
		if _, ok := before[name]; !ok {
			t.Errorf("%s: %s is new", dir, name)
		}
	}
	for name, want := range before {
		if name == "." || name == "LOCK" && after[name] != "" {
			continue
		}
		if got := after[name]; got != want {
			t.Errorf("%s: %s has changed:\n before %.200s\n after  %.200s", dir, name, want, got)
		}
	}
}

// wantUntouched is wantSameTree, and not even LOCK was taken, or a file made
// and removed.
func wantUntouched(t testing.TB, dir string, before map[string]string) {
	t.Helper()
	wantSameTree(t, dir, before)
	after := tree(t, dir)
	for _, name := range []string{".", "LOCK"} {
		if after[name] != before[name] {
			t.Errorf("%s: %s has changed:\n before %.200s\n after  %.200s", dir, name, before[name], after[name])
		}
	}
}

func wantHealthy(t testing.TB, dir string) {
	t.Helper()
	rep, err := store.Verify(context.Background(), dir)
	if err != nil || !rep.OK() {
		t.Errorf("Verify: %+v, %v", rep, err)
	}
}

func write(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestOpen(t *testing.T) {
	noCreate, readOnly := &store.Options{NoCreate: true}, &store.Options{ReadOnly: true}
	for _, tc := range []struct {
		name  string
		setup func(t *testing.T, dir string) // dir's parent exists
		opts  *store.Options
		want  error    // nil: it opens
		says  []string // the error mentions
	}{
		{"missing directory", nil, nil, nil, nil},
		{"missing directory, NoCreate", nil, noCreate, fs.ErrNotExist, []string{"DIR"}},
		{"missing directory, ReadOnly", nil, readOnly, fs.ErrNotExist, []string{"DIR"}},
		{"empty directory", mkdir, nil, nil, nil},
		{"empty directory, NoCreate", mkdir, noCreate, fs.ErrNotExist, []string{"DIR", "no record store"}},
		{"empty directory, ReadOnly", mkdir, readOnly, fs.ErrNotExist, []string{"DIR", "no record store"}},
		{"store", mkstore, nil, nil, nil},
		{"store, NoCreate", mkstore, noCreate, nil, nil},
		{"store, ReadOnly", mkstore, readOnly, nil, nil},
		{"file in place of the directory", func(t *testing.T, dir string) { write(t, dir, "x") }, nil, syscall.ENOTDIR, []string{"DIR"}},
		{"file in place of the directory, ReadOnly", func(t *testing.T, dir string) { write(t, dir, "x") }, readOnly, syscall.ENOTDIR, []string{"DIR"}},
		{"link to a missing directory", func(t *testing.T, dir string) {
			if err := os.Symlink(dir+"-not-there", dir); err != nil {
				t.Fatal(err)
			}
		}, nil, fs.ErrNotExist, []string{"DIR"}},
		{"stranger's file", withFile("notes.txt"), nil, store.ErrNotStore, []string{"DIR", "notes.txt"}},
		{"stranger's file, NoCreate", withFile("notes.txt"), noCreate, store.ErrNotStore, []string{"DIR", "notes.txt"}},
		{"stranger's file, ReadOnly", withFile("notes.txt"), readOnly, store.ErrNotStore, []string{"DIR", "notes.txt"}},
		{"almost a manifest", withFile("manifest.1"), nil, store.ErrNotStore, []string{"DIR", "manifest.1"}},
		{"hidden file", withFile(".DS_Store"), nil, nil, nil},
		{"left by a creator that died", withFile(".tmp.1234"), nil, nil, nil},
		{"lock of the command", withFile("lock.deploy"), nil, nil, nil},
		{"strangers' files in a store", func(t *testing.T, dir string) {
			mkstore(t, dir)
			write(t, filepath.Join(dir, "notes.txt"), "x")
		}, nil, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "s")
			if tc.setup != nil {
				tc.setup(t, dir)
			}
			above := tree(t, parent)
			var before map[string]string
			if info, err := os.Stat(dir); err == nil && info.IsDir() {
				before = tree(t, dir)
			}
			s, err := store.Open(dir, tc.opts)
			if err == nil {
				defer s.Close()
			}
			if tc.want != nil {
				if !errors.Is(err, tc.want) {
					t.Fatalf("got %v, want %v", err, tc.want)
				}
				for _, w := range tc.says {
					if w = strings.ReplaceAll(w, "DIR", dir); !strings.Contains(err.Error(), w) {
						t.Errorf("%v does not mention %q", err, w)
					}
				}
				wantUntouched(t, parent, above)
				if before != nil {
					wantUntouched(t, dir, before)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tc.opts == readOnly {
				if _, err := s.Put(t.Context(), "k", "v"); !errors.Is(err, store.ErrReadOnly) {
					t.Errorf("Put: got %v, want ErrReadOnly", err)
				}
				wantUntouched(t, dir, before)
				return
			}
			put(t, s, "k", "v")
			if got := value[string](t, snapshot(t, s), "k"); got != "v" {
				t.Errorf("got %q, want v", got)
			}
		})
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
}

func mkstore(t *testing.T, dir string) {
	t.Helper()
	s := openStore(t, dir, nil)
	put(t, s, "a", 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func withFile(name string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		mkdir(t, dir)
		write(t, filepath.Join(dir, name), "not yours")
	}
}

func TestOpenMissingParent(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "no", "s")
	for name, opts := range map[string]*store.Options{"nil": nil, "ReadOnly": {ReadOnly: true}, "NoCreate": {NoCreate: true}} {
		if _, err := store.Open(dir, opts); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(fmt.Sprint(err), dir) {
			t.Errorf("%s: got %v, want ErrNotExist and the directory", name, err)
		}
	}
	if left := list(t, parent); len(left) != 0 {
		t.Errorf("Open has left %v", slices.Collect(maps.Keys(left)))
	}
}

// TestStrangersAreSeenInAnyOrder: one stranger's file is enough, whatever the
// order in which the directory lists it.
func TestStrangersAreSeenInAnyOrder(t *testing.T) {
	dir := t.TempDir()
	for i := range 40 {
		write(t, filepath.Join(dir, fmt.Sprint("lock.", i)), "")
	}
	for i := range 3 {
		write(t, filepath.Join(dir, fmt.Sprint("notes", i)), "not yours")
	}
	before := tree(t, dir)
	s, err := store.Open(dir, nil)
	if err == nil {
		s.Close()
	}
	if !errors.Is(err, store.ErrNotStore) || !strings.Contains(err.Error(), "notes") {
		t.Errorf("got %v, want ErrNotStore naming the file", err)
	}
	wantUntouched(t, dir, before)
}

// TestRelativeDir: a store stays where it is when the process goes elsewhere.
func TestRelativeDir(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	s := openStore(t, "s", nil)
	t.Chdir(t.TempDir())
	put(t, s, "k", "v")
	want, err := filepath.EvalSymlinks(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := filepath.EvalSymlinks(s.Dir()); err != nil || got != want {
		t.Errorf("Dir() = %s, %v; want %s", got, err, want)
	}
}

// TestReadOnlyWritesNothing uses all that reads, and looks at every byte.
func TestReadOnlyWritesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	mkstore(t, dir)
	before := tree(t, dir)
	s := openStore(t, dir, &store.Options{ReadOnly: true})
	ctx := t.Context()
	if _, err := s.Get(ctx, "a"); err != nil {
		t.Error(err)
	}
	for _, err := range snapshot(t, s).All() {
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Stat(ctx); err != nil {
		t.Error(err)
	}
	wantHealthy(t, dir)
	for name, call := range writes(s) {
		if err := call(ctx); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: got %v, want ErrReadOnly", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wantUntouched(t, dir, before)
}

// writes are the methods that need a store opened for writing.
func writes(s *store.Store) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Update": func(ctx context.Context) error {
			_, err := s.Update(ctx, func(*store.Tx) error { return nil })
			return err
		},
		"Put":              func(ctx context.Context) error { _, err := s.Put(ctx, "k", 1); return err },
		"Delete":           func(ctx context.Context) error { _, err := s.Delete(ctx, "a"); return err },
		"CompareAndSwap":   func(ctx context.Context) error { _, err := s.CompareAndSwap(ctx, "k", 0, 1); return err },
		"CompareAndDelete": func(ctx context.Context) error { _, err := s.CompareAndDelete(ctx, "a", 1); return err },
		"FreshSnapshot":    func(ctx context.Context) error { _, err := s.FreshSnapshot(ctx); return err },
		"Sync":             func(ctx context.Context) error { return s.Sync(ctx) },
		"Typed.Put":        func(ctx context.Context) error { _, err := store.As[int](s).Put(ctx, "k", 1); return err },
		"Typed.Update": func(ctx context.Context) error {
			_, err := store.As[int](s).Update(ctx, "k", func(int, bool) (int, error) { return 1, nil })
			return err
		},
	}
}

// reads are those that do not.
func reads(s *store.Store) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Get":       func(ctx context.Context) error { _, err := s.Get(ctx, "a"); return err },
		"Snapshot":  func(ctx context.Context) error { _, err := s.Snapshot(ctx); return err },
		"Stat":      func(ctx context.Context) error { _, err := s.Stat(ctx); return err },
		"Typed.Get": func(ctx context.Context) error { _, err := store.As[int](s).Get(ctx, "a"); return err },
	}
}

func TestClosed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	s := openStore(t, dir, nil)
	put(t, s, "a", 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	calls := writes(s)
	maps.Copy(calls, reads(s))
	calls["Close"] = func(context.Context) error { return s.Close() }
	for name, call := range calls {
		if err := call(t.Context()); !errors.Is(err, fs.ErrClosed) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s after Close: got %v, want fs.ErrClosed naming the store", name, err)
		}
	}
	wantUntouched(t, dir, before)
}

// TestCancelledBefore: a context that has ended is reported with its cause,
// and nothing is begun.
func TestCancelledBefore(t *testing.T) {
	s := newStore(t)
	put(t, s, "a", 1)
	before := tree(t, s.Dir())
	cause := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	calls := writes(s)
	maps.Copy(calls, reads(s))
	for name, call := range calls {
		if err := call(ctx); !errors.Is(err, cause) {
			t.Errorf("%s: got %v, want the context's cause", name, err)
		}
		var held *lockfile.HeldError
		if err := call(ctx); errors.As(err, &held) {
			t.Errorf("%s: got %v, but it has not waited for anybody", name, err)
		}
	}
	wantUntouched(t, s.Dir(), before)
}

func TestHundredGoroutinesCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	var wg sync.WaitGroup
	gate := make(chan struct{})
	ids := make([]store.ID, 100)
	for i := range ids {
		wg.Go(func() {
			<-gate
			s, err := store.Open(dir, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			ids[i] = s.ID()
			if _, err := s.Put(t.Context(), fmt.Sprint(i), i); err != nil {
				t.Error(err)
			}
		})
	}
	close(gate)
	wg.Wait()
	if ids = slices.Compact(ids); len(ids) != 1 {
		t.Errorf("%d stores, want one", len(ids))
	}
	if n := length(t, snapshot(t, openStore(t, dir, nil))); n != 100 {
		t.Errorf("%d records, want 100", n)
	}
	wantHealthy(t, dir)
}

// TestCloseWaits: an update under way when the store is closed is carried out.
func TestCloseWaits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	s := openStore(t, dir, nil)
	inside, goOn := make(chan struct{}), make(chan struct{})
	var updateErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		_, updateErr = s.Update(t.Context(), func(tx *store.Tx) error {
			close(inside)
			<-goOn
			return tx.Put("k", "v")
		})
	})
	<-inside
	wg.Go(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		after, err := store.Open(dir, &store.Options{ReadOnly: true})
		if err != nil {
			t.Error(err)
			return
		}
		defer after.Close()
		if _, err := after.Get(t.Context(), "k"); err != nil {
			t.Errorf("Close has returned before the update under way was committed: %v", err)
		}
	})
	// Close has begun when new updates are refused.
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		err := s.Sync(ctx)
		cancel()
		if errors.Is(err, fs.ErrClosed) {
			break
		}
	}
	close(goOn)
	wg.Wait()
	if updateErr != nil {
		t.Errorf("the update under way: %v", updateErr)
	}
}

func TestKeys(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	for _, tc := range []struct {
		name, key string
		valid     bool
	}{
		{"empty", "", false},
		{"a byte", "k", true},
		{"zero byte", "\x00", true},
		{"not UTF-8", "\xff\xfe", true},
		{"slash", "../../etc/passwd", true},
		{"longest", strings.Repeat("k", store.MaxKeySize), true},
		{"one byte too long", strings.Repeat("k", store.MaxKeySize+1), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.valid {
				rev := put(t, s, tc.key, tc.name)
				rec, err := s.Get(ctx, tc.key)
				if err != nil || rec.Key != tc.key || rec.Revision != rev {
					t.Errorf("Get: %q revision %v, %v; want %q revision %v", rec.Key, rec.Revision, err, tc.key, rev)
				}
				if got := value[string](t, snapshot(t, s), tc.key); got != tc.name {
					t.Errorf("got %q, want %q", got, tc.name)
				}
				if _, err := s.Delete(ctx, tc.key); err != nil {
					t.Errorf("Delete: %v", err)
				}
				return
			}
			s := openStore(t, s.Dir(), nil) // one that has no temporary file in store
			before := tree(t, s.Dir())
			calls := map[string]func() error{
				"Put":              func() error { _, err := s.Put(ctx, tc.key, 1); return err },
				"Get":              func() error { _, err := s.Get(ctx, tc.key); return err },
				"Delete":           func() error { _, err := s.Delete(ctx, tc.key); return err },
				"CompareAndSwap":   func() error { _, err := s.CompareAndSwap(ctx, tc.key, 0, 1); return err },
				"CompareAndDelete": func() error { _, err := s.CompareAndDelete(ctx, tc.key, 1); return err },
				"Snapshot.Get":     func() error { _, err := snapshot(t, s).Get(tc.key); return err },
			}
			for name, inTx := range map[string]func(tx *store.Tx) error{
				"Tx.Put":        func(tx *store.Tx) error { return tx.Put(tc.key, 1) },
				"Tx.PutEncoded": func(tx *store.Tx) error { return tx.PutEncoded(tc.key, "raw", nil) },
				"Tx.Get":        func(tx *store.Tx) error { _, err := tx.Get(tc.key); return err },
				"Tx.Delete":     func(tx *store.Tx) error { return tx.Delete(tc.key) },
			} {
				calls[name] = func() error { _, err := s.Update(ctx, inTx); return err }
			}
			for name, call := range calls {
				if err := call(); !errors.Is(err, store.ErrInvalidKey) {
					t.Errorf("%s: got %v, want ErrInvalidKey", name, err)
				}
			}
			wantSameTree(t, s.Dir(), before)
		})
	}
}

func TestValueSize(t *testing.T) {
	if testing.Short() {
		t.Skip("writes a value of 64 MiB: not with -short")
	}
	s := openStore(t, filepath.Join(t.TempDir(), "s"), &store.Options{Codec: codec.Raw})
	big := make([]byte, store.MaxValueSize+1)
	for i := range big {
		big[i] = byte(i * i >> 8)
	}
	put(t, s, "k", "small")
	before := tree(t, s.Dir())
	for name, err := range map[string]error{
		"Put": func() error { _, err := s.Put(t.Context(), "k", big); return err }(),
		"CompareAndSwap": func() error {
			_, err := s.CompareAndSwap(t.Context(), "k", 1, big)
			return err
		}(),
		"Tx.PutEncoded": func() error {
			_, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutEncoded("k", "raw", big) })
			return err
		}(),
	} {
		if !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), `"k"`) {
			t.Errorf("%s: got %v, want ErrTooLarge naming the record", name, err)
		}
	}
	wantSameTree(t, s.Dir(), before)
	put(t, s, "k", big[:store.MaxValueSize])
	rec, err := openStore(t, s.Dir(), nil).Get(t.Context(), "k")
	if err != nil || !slices.Equal(rec.Value, big[:store.MaxValueSize]) {
		t.Errorf("a value of %d bytes: %d bytes came back, %v", store.MaxValueSize, len(rec.Value), err)
	}
}

func TestCodecs(t *testing.T) {
	type point struct {
		X int `json:"x" msgpack:"x"`
	}
	ctx := t.Context()
	for _, name := range codec.Names() {
		t.Run(name, func(t *testing.T) {
			c, err := codec.ByName(name)
			if err != nil {
				t.Fatal(err)
			}
			s := openStore(t, filepath.Join(t.TempDir(), "s"), &store.Options{Codec: c})
			put(t, s, "k", "text")
			rec, err := s.Get(ctx, "k")
			if err != nil || rec.Codec != name {
				t.Fatalf("codec %q, %v; want %q", rec.Codec, err, name)
			}
			// Opened with another codec, it is decoded with its own.
			other := openStore(t, s.Dir(), &store.Options{Codec: codec.JSON})
			if rec, err = other.Get(ctx, "k"); err != nil {
				t.Fatal(err)
			}
			if v, err := store.Decode[string](rec); err != nil || v != "text" {
				t.Errorf("decoded %q, %v; want text", v, err)
			}
			for _, over := range codec.Names() {
				oc, _ := codec.ByName(over)
				put(t, s, "over", "x", store.WithCodec(oc))
				if rec, err := s.Get(ctx, "over"); err != nil || rec.Codec != over {
					t.Errorf("WithCodec(%s): codec %q, %v", over, rec.Codec, err)
				}
			}
		})
	}
	t.Run("value does not fit the codec", func(t *testing.T) {
		s := newStore(t)
		before := tree(t, s.Dir())
		if _, err := s.Put(ctx, "k", point{1}, store.WithCodec(codec.Raw)); err == nil || !strings.Contains(err.Error(), `"k"`) {
			t.Errorf("got %v, want an error naming the record", err)
		}
		if _, err := s.Put(ctx, "k", make(chan int)); err == nil {
			t.Error("a channel was encoded")
		}
		wantUntouched(t, s.Dir(), before)
	})
	t.Run("value does not fit the type", func(t *testing.T) {
		s := newStore(t)
		put(t, s, "k", "text")
		rec, err := s.Get(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		n := 7
		if err := rec.Decode(&n); err == nil || n != 7 || !strings.Contains(err.Error(), `"k"`) {
			t.Errorf("Decode: %v with %d in the variable, want an error naming the record, and 7", err, n)
		}
		if _, err := store.As[int](s).Get(ctx, "k"); err == nil {
			t.Error("As[int].Get of a string succeeded")
		}
	})
	t.Run("value does not change with its variable", func(t *testing.T) {
		s := openStore(t, filepath.Join(t.TempDir(), "s"), &store.Options{Codec: codec.Raw})
		b := []byte("before")
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			if err := tx.Put("put", b); err != nil {
				return err
			}
			if err := tx.PutEncoded("encoded", "raw", b); err != nil {
				return err
			}
			copy(b, "after!")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"put", "encoded"} {
			if got := value[string](t, snapshot(t, s), key); got != "before" {
				t.Errorf("%s: got %q, want before", key, got)
			}
		}
	})
}

func TestPutEncoded(t *testing.T) {
	s := newStore(t)
	data := []byte(` { "not" : "canonical" } `)
	_, err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutEncoded("k", "json", data) })
	if err != nil {
		t.Fatal(err)
	}
	rec, err := s.Get(t.Context(), "k")
	if err != nil || string(rec.Value) != string(data) || rec.Codec != "json" {
		t.Errorf("got %q as %q, %v; want the bytes as they were", rec.Value, rec.Codec, err)
	}
	_, err = s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutEncoded("k", "morse", data) })
	if !errors.Is(err, codec.ErrUnknown) || !strings.Contains(err.Error(), "morse") {
		t.Errorf("unknown codec: got %v, want codec.ErrUnknown", err)
	}
}

func TestTyped(t *testing.T) {
	type result struct {
		Score int
		Tags  []string
	}
	s, ctx := newStore(t), t.Context()
	r := store.As[result](s)
	if _, err := r.Get(ctx, "k"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of a missing record: %v, want ErrNotFound", err)
	}
	if _, err := r.Put(ctx, "k", result{1, []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	rev, err := r.Update(ctx, "k", func(old result, found bool) (result, error) {
		if !found || old.Score != 1 {
			t.Errorf("old %+v, found %v; want what was put", old, found)
		}
		old.Score++
		return old, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Get(ctx, "k"); err != nil || got.Score != 2 || !slices.Equal(got.Tags, []string{"a"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = r.Update(ctx, "new", func(old result, found bool) (result, error) {
		if found || old.Score != 0 || old.Tags != nil {
			t.Errorf("old %+v, found %v; want nothing", old, found)
		}
		return result{Score: 7}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	if _, err := r.Update(ctx, "k", func(result, bool) (result, error) { return result{}, stop }); err != stop {
		t.Errorf("got %v, want the function's error as it is", err)
	}
	if _, err := r.Update(ctx, "k", nil); !errors.Is(err, store.ErrNilFunc) {
		t.Errorf("nil function: got %v, want ErrNilFunc", err)
	}
	put(t, s, "text", "not a result")
	if _, err := r.Update(ctx, "text", func(result, bool) (result, error) { return result{}, nil }); err == nil {
		t.Error("a record of another type was overwritten")
	}
	if rec, err := s.Get(ctx, "k"); err != nil || rec.Revision != rev {
		t.Errorf("revision %v, %v; want %v", rec.Revision, err, rev)
	}
}

func TestRevisionAndIDText(t *testing.T) {
	for _, rev := range []store.Revision{0, 1, 1 << 63, 1<<64 - 1} {
		if got, err := store.ParseRevision(rev.String()); err != nil || got != rev {
			t.Errorf("ParseRevision(%q) = %v, %v", rev.String(), got, err)
		}
	}
	for _, s := range []string{"", "-1", "+1", " 1", "1x", "0x1", "18446744073709551616"} {
		if got, err := store.ParseRevision(s); err == nil {
			t.Errorf("ParseRevision(%q) = %v, want an error", s, got)
		}
	}
	id := newStore(t).ID()
	if id == (store.ID{}) {
		t.Error("a store has the zero id")
	}
	if got, err := store.ParseID(id.String()); err != nil || got != id {
		t.Errorf("ParseID(%q) = %v, %v", id.String(), got, err)
	}
	for _, s := range []string{"", "00", strings.Repeat("g", 32), strings.Repeat("0", 31)} {
		if got, err := store.ParseID(s); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", s, got)
		}
	}
}

func TestStat(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	s := openStore(t, dir, nil)
	put(t, s, "a", 1)
	rev := put(t, s, "b", 2)
	write(t, filepath.Join(dir, ".tmp.litter"), "x")
	st, err := s.Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name, path := newestManifest(t, dir)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	sn := snapshot(t, s)
	if st.Dir != s.Dir() || st.ID != s.ID() || st.FormatVersion != 2 || st.FileSystem == "" {
		t.Errorf("%+v is not the store", st)
	}
	if st.Sequence != sn.Sequence() || st.Commit != sn.Commit() || st.Revision != rev || !st.Time.Equal(sn.Time()) {
		t.Errorf("%+v is not the newest state", st)
	}
	if !strings.HasSuffix(name, fmt.Sprintf("%016d", st.Sequence)) || st.Bytes != info.Size() || !st.Durable {
		t.Errorf("%+v is not about %s with %d bytes", st, name, info.Size())
	}
	if st.Entries != 2 || st.Manifests != 3 || st.Segments != 0 || st.Temporary != 1 || st.Lock.Known {
		t.Errorf("%+v: want 2 records, 3 manifests, 1 temporary, nobody holding LOCK", st)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if st, err := s.Stat(t.Context()); err != nil || st.Durable {
		t.Errorf("with the mark taken away: durable %v, %v; want false", st.Durable, err)
	}
}

func TestParseIDTooLong(t *testing.T) {
	for _, s := range []string{strings.Repeat("0", 34), strings.Repeat("0", 100)} {
		if got, err := store.ParseID(s); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", s, got)
		}
	}
}
