package lockfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func init() { helpers["lockall"] = helpLockAll }

// helpLockAll TIMES PATH... takes random subsets in random order, and counts in the
// file that belongs to each.
func helpLockAll(args []string) error {
	times, _ := strconv.Atoi(args[0])
	var files []*File
	for _, path := range args[1:] {
		f, err := Open(path, testOptions(path))
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	return lockSubsets(files, times)
}

func lockSubsets(files []*File, times int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	files = slices.Clone(files)
	for range times {
		rand.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
		some := files[:1+rand.IntN(len(files))]
		locks, err := LockAll(ctx, "", some...)
		if err != nil {
			return err
		}
		for i, f := range some {
			if locks[i].f != f {
				return errors.New("not in the order of the arguments")
			}
			counter := f.Name() + ".counter"
			b, _ := os.ReadFile(counter)
			n, _ := strconv.Atoi(string(b))
			if err := os.WriteFile(counter, []byte(strconv.Itoa(n+1)), 0o666); err != nil {
				return err
			}
		}
		if err := locks.Unlock(); err != nil {
			return err
		}
	}
	return nil
}

// TestLockAll: whoever wants whichever locks in whatever order gets them all, and
// nobody waits for ever.
func TestLockAll(t *testing.T) {
	for _, m := range []Mechanism{defaultMechanism, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			withMechanism(t, m)
			const times = 60
			var paths []string
			for range 5 {
				paths = append(paths, lockPath(t))
			}
			var ps []*process
			for range 3 {
				ps = append(ps, start(t, nil, "lockall", append([]string{fmt.Sprint(times)}, paths...)...))
			}
			var common []*File
			for _, path := range paths {
				common = append(common, mustOpen(t, path))
			}
			var wg sync.WaitGroup
			for i := range 8 {
				files := common
				if i%2 == 0 {
					files = nil
					for _, path := range paths {
						files = append(files, mustOpen(t, path))
					}
				}
				wg.Go(func() {
					if err := lockSubsets(files, times); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for _, p := range ps {
				p.finish()
			}
			sum := 0
			for _, path := range paths {
				b, err := os.ReadFile(path + ".counter")
				if err != nil {
					t.Fatal(err)
				}
				n, _ := strconv.Atoi(string(b))
				sum += n
			}
			// Three of five on average.
			if mean := float64(sum) / (11 * times); mean < 2.5 || mean > 3.5 {
				t.Errorf("%v counts for each LockAll, want about 3", mean)
			}
		})
	}
}

func TestLockAllErrors(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	a, b, c := mustOpen(t, path("a")), mustOpen(t, path("b")), mustOpen(t, path("c"))
	if err := os.Link(path("b"), path("link")); err != nil {
		t.Fatal(err)
	}
	free := func(when string, files ...*File) {
		t.Helper()
		for _, f := range files {
			l, err := f.TryLock("")
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			mustUnlock(t, l)
		}
	}
	for _, files := range [][]*File{{b, a, b}, {b, a, mustOpen(t, path("b"))}, {b, a, mustOpen(t, path("link"))}} {
		_, err := LockAll(t.Context(), "", files...)
		if !errors.Is(err, ErrNested) || !strings.Contains(err.Error(), path("b")) {
			t.Errorf("twice the same: %v", err)
		}
	}
	free("twice the same", a, b, c)

	for _, f := range []*File{a, b, c} {
		l := mustLock(t, f, "holding")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := LockAll(ctx, "", c, b, a)
		cancel()
		var held *HeldError
		if !errors.As(err, &held) || held.Path != f.Name() || held.Holder.Purpose != "holding" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with %s held: %v", f.Name(), err)
		}
		mustUnlock(t, l)
		free("the context ended", a, b, c)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := LockAll(ended, "", a, b); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	closed := mustOpen(t, path("closed"))
	closed.Close()
	if _, err := LockAll(t.Context(), "", a, closed, b); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	free("errors", a, b, c)
	if locks, err := LockAll(t.Context(), ""); err != nil || len(locks) != 0 || locks.Unlock() != nil || locks.Check() != nil || locks.Context().Err() != nil {
		t.Errorf("no files: %v, %v", locks, err)
	}

	// Files that are gone are made anew.
	os.Remove(path("a"))
	os.Remove(path("b"))
	locks, err := LockAll(context.WithValue(t.Context(), testKey{}, "value"), "all", c, a, b)
	if err != nil {
		t.Fatal(err)
	}
	if err := locks.Check(); err != nil {
		t.Error(err)
	}
	if h, ok, err := b.Holder(); !ok || err != nil || h.Purpose != "all" {
		t.Errorf("Holder: %v, %v, %v", h, ok, err)
	}
	ctx, one := locks.Context(), locks[0].Context()
	if ctx.Err() != nil || one.Err() != nil || ctx.Value(testKey{}) != "value" || one.Value(testKey{}) != "value" {
		t.Errorf("not a context derived from ours: %v, %v", ctx.Err(), one.Err())
	}
	for _, f := range []*File{a, b, c} {
		if _, err := f.Lock(ctx, ""); !errors.Is(err, ErrNested) {
			t.Errorf("%s nested: %v", f.Name(), err)
		}
	}
	if _, err := LockAll(ctx, "", mustOpen(t, path("d")), a); !errors.Is(err, ErrNested) {
		t.Errorf("LockAll nested: %v", err)
	}
	os.Remove(path("c"))
	if err := locks.Check(); !errors.Is(err, ErrReplaced) || strings.Contains(err.Error(), path("a")) {
		t.Errorf("Check: %v", err)
	}
	checkEnded(t, ctx, path("c"), ErrReplaced)
	if err := locks.Unlock(); err != nil {
		t.Error(err)
	}
	checkEnded(t, locks[1].Context(), path("a"), ErrReleased)
	free("unlocked", a, b, c)

	// What is unlocked already is an error that does not keep the others.
	for i := range 3 {
		locks, err := LockAll(t.Context(), "", b, a, c)
		if err != nil {
			t.Fatal(err)
		}
		ctx := locks.Context()
		mustUnlock(t, locks[i])
		checkEnded(t, ctx, locks[i].f.Name(), ErrReleased)
		if err := locks.Unlock(); !errors.Is(err, ErrReleased) {
			t.Error(err)
		}
		free("one unlocked before", a, b, c)
	}
}

// filesByInode makes lock files, ordered as LockAll orders them.
func filesByInode(t *testing.T, n int) []string {
	dir := t.TempDir()
	paths := make([]string, n)
	ids := map[string]fileID{}
	for i := range paths {
		paths[i] = filepath.Join(dir, fmt.Sprint("LOCK", i))
		mustOpen(t, paths[i])
		id, err := identify(paths[i])
		if err != nil {
			t.Fatal(err)
		}
		ids[paths[i]] = id
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Compare(ids[a].ino, ids[b].ino) })
	return paths
}

// TestLockAllReplaced: when the order changes while somebody waits, he does not go on
// waiting for a file that has come to be a lower one.
func TestLockAllReplaced(t *testing.T) {
	shortWatch(t)
	all := func(c chan<- error, paths ...string) {
		var files []*File
		for _, path := range paths {
			files = append(files, mustOpen(t, path))
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			locks, err := LockAll(ctx, "", files...)
			if err == nil {
				err = errors.Join(locks.Check(), locks.Unlock())
			}
			c <- err
		}()
	}
	locked := func(path string) func() bool {
		f := mustOpen(t, path)
		return func() bool {
			_, held, err := f.Holder()
			return err == nil && held
		}
	}
	paths := filesByInode(t, 3)
	low, a, b := paths[0], paths[1], paths[2]
	done := make(chan error, 2)
	x := mustLock(t, mustOpen(t, b), "")
	all(done, a, b)
	eventually(t, "a locked", locked(a)) // and waiting for b
	l := mustLock(t, mustOpen(t, low), "")
	if err := os.Rename(low, b); err != nil {
		t.Fatal(err)
	}
	all(done, a, b) // b first, which is what was low
	if err := errors.Join(l.Unlock(), x.Unlock()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}

	// The same when it is an abandoned wait for the old file that is in the way: its
	// File does not come to the new one before the old is released, and whoever is
	// to do that may want what is held meanwhile.
	paths = filesByInode(t, 3)
	low, a, b = paths[0], paths[1], paths[2]
	if err := os.Rename(low, low+".b"); err != nil {
		t.Fatal(err)
	}
	low += ".b"
	f := mustOpen(t, low)
	x = mustLock(t, mustOpen(t, low), "")
	w, cancel := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	cancel()
	<-w
	if err := os.Rename(b, low); err != nil {
		t.Fatal(err)
	}
	y := mustLock(t, mustOpen(t, low), "") // else it would be locked without a wait
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		locks, err := LockAll(ctx, "", f, mustOpen(t, a)) // a first
		if err == nil {
			err = locks.Unlock()
		}
		done <- err
	}()
	eventually(t, "a locked", locked(a))
	mustUnlock(t, y)
	l, err := mustOpen(t, a).Lock(ctx, "")
	if err != nil {
		t.Fatalf("who has the old file and wants the other: %v", err)
	}
	mustUnlock(t, l)
	mustUnlock(t, x)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLockAllReplacedBefore: between ordering and locking.
func TestLockAllReplacedBefore(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	id, err := f.identity()
	if err != nil {
		t.Fatal(err)
	}
	keep := mustLock(t, f, "") // or the new one might get the number of the old one
	defer keep.Unlock()
	os.Remove(path)
	if _, err := f.lockFile(t.Context(), "", id); err != errElsewhere {
		t.Errorf("another file is locked: %v", err)
	}
	if id, err = f.identity(); err != nil {
		t.Fatal(err)
	}
	l, err := f.lockFile(t.Context(), "", id)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Context().Err(); err != nil {
		t.Errorf("the context of the wait: %v", err)
	}
	mustUnlock(t, l)
	if locks, err := LockAll(t.Context(), "", f); err != nil {
		t.Error(err)
	} else if err := locks.Unlock(); err != nil {
		t.Error(err)
	}
}

// TestLockAllNumberAgain: a lock file that is removed may leave its inode number to the one
// that is looked at next. That is not the same lock twice.
func TestLockAllNumberAgain(t *testing.T) {
	first, second := lockPath(t), lockPath(t)
	a, b := mustOpen(t, first), mustOpen(t, second)
	for _, files := range [][]*File{{a, b}, {b, a}} {
		// The one that is looked at last is missing, and so comes into being then.
		path := files[1].path
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		old, moved := choosing, false
		choosing.fsType = func(dir string) (string, bool, error) {
			if dir == filepath.Dir(path) && !moved {
				moved = true
				if err := os.Rename(files[0].path, path); err != nil {
					t.Error(err)
				}
			}
			return old.fsType(dir)
		}
		locks, err := LockAll(t.Context(), "", files...)
		choosing = old
		if !moved {
			t.Error("no file was made, and the number is that of nobody else")
		}
		if err != nil {
			t.Errorf("two files that had one number in turn: %v", err)
			continue
		}
		if err := locks.Unlock(); err != nil {
			t.Error(err)
		}
	}
}

// TestLockAllOpenHangs: while LockAll opens a file anew others of the File give up in time.
func TestLockAllOpenHangs(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	old := choosing
	asked, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	choosing.fsType = func(dir string) (string, bool, error) {
		once.Do(func() { close(asked) })
		<-answer
		return old.fsType(dir)
	}
	t.Cleanup(func() { choosing = old })
	all := make(chan error, 1)
	go func() {
		locks, err := LockAll(t.Context(), "", f)
		if err == nil {
			err = locks.Unlock()
		}
		all <- err
	}()
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := make(chan error, 1)
	go func() {
		_, err := f.Lock(ctx, "")
		got <- err
	}()
	select {
	case err := <-got:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Lock: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("who has given up waits for LockAll to open the file")
	}
	close(answer)
	if err := <-all; err != nil {
		t.Errorf("LockAll: %v", err)
	}
}

// TestLockAllNothing: the context of no locks is that of LockAll.
func TestLockAllNothing(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), testKey{}, "value"))
	locks, err := LockAll(ctx, "")
	if err != nil || len(locks) != 0 {
		t.Fatalf("%v, %v", locks, err)
	}
	work := locks.Context()
	if work.Err() != nil || work.Value(testKey{}) != "value" {
		t.Errorf("context: %v", work)
	}
	why := errors.New("why")
	cancel(why)
	if context.Cause(work) != why {
		t.Errorf("the context has not ended: %v", context.Cause(work))
	}
	for range locks {
		t.Error("there is a lock")
	}
	if err := errors.Join(locks.Check(), locks.Unlock()); err != nil {
		t.Error(err)
	}
	for _, locks := range []Locks{nil, {}, make(Locks, 0, 4)} {
		if err := locks.Context().Err(); err != nil {
			t.Error(err)
		}
	}
}
