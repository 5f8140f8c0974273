package lockfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// eachRemovable runs test with the mechanisms that lock the file itself.
func eachRemovable(t *testing.T, test func(t *testing.T)) {
	for _, m := range []Mechanism{OFD, Flock} {
		if mechanisms[m] == nil {
			continue
		}
		t.Run(m.String(), func(t *testing.T) {
			withMechanism(t, m)
			test(t)
		})
	}
}

func TestRemove(t *testing.T) {
	eachRemovable(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "LOCK")
		f, g := mustOpen(t, path), mustOpen(t, path)

		l := mustLock(t, f, "work")
		var held *HeldError
		if err := Remove(path); !errors.As(err, &held) || !held.Known || held.Holder.Purpose != "work" || held.Path != path {
			t.Fatalf("Remove of a locked file: %v", err)
		}
		waiter, cancel := lockLater(g, false)
		eventually(t, "waiting", waiting(g, 1))
		cancel()
		<-waiter
		mustUnlock(t, l)

		r := mustRLock(t, f)
		if err := Remove(path); !errors.As(err, &held) || held.Known {
			t.Errorf("Remove of a file locked shared: %v", err)
		}
		if err := r.Check(); err != nil {
			t.Error(err)
		}
		mustUnlock(t, r)

		// g's acquirer may still be giving the lock back that nobody waits for.
		eventually(t, "removed", func() bool { return Remove(path) == nil })
		if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
			t.Errorf("left: %v, %v", left, err)
		}
		if err := Remove(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Remove of nothing: %v", err)
		}

		// Both have handles of the old file.
		l = mustLock(t, f, "")
		if err := l.Check(); err != nil {
			t.Errorf("locked the old file: %v", err)
		}
		if _, err := g.TryLock(""); !errors.Is(err, ErrLocked) {
			t.Errorf("two holders: %v", err)
		}
		mustUnlock(t, l)
	})
}

func TestRemoveNoCreate(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	g := openWith(t, path, Options{NoCreate: true})
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Lock(t.Context(), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lock without the file: %v", err)
	}
	mustUnlock(t, mustLock(t, f, "")) // creates it
	mustUnlock(t, mustLock(t, g, ""))
}

func TestRemoveRefuses(t *testing.T) {
	text := []byte("results of 12 May\n")
	for name, prepare := range map[string]func(path string) error{
		"somebody's file": func(path string) error { return os.WriteFile(path, text, 0o666) },
		"empty":           func(path string) error { return os.WriteFile(path, nil, 0o666) },
		"truncated": func(path string) error {
			return os.WriteFile(path, encodeHeader(defaultMechanism)[:headerSum], 0o666)
		},
		"directory": func(path string) error { return os.Mkdir(path, 0o777) },
		"symbolic link": func(path string) error {
			f, err := Open(path+".other", nil)
			if err != nil {
				return err
			}
			return errors.Join(f.Close(), os.Symlink(path+".other", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := lockPath(t)
			if err := prepare(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			if err := Remove(path); !errors.Is(err, ErrNotLockFile) || !strings.Contains(err.Error(), path) {
				t.Errorf("Remove: %v", err)
			}
			after, _ := os.ReadFile(path)
			if _, err := os.Lstat(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("it was changed from %q to %q: %v", before, after, err)
			}
		})
	}
	path := lockPath(t)
	head := encodeHeader(defaultMechanism)
	head[8]++
	reseal(head)
	if err := os.WriteFile(path, head, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); !errors.Is(err, ErrIncompatible) {
		t.Errorf("Remove of a later version's file: %v", err)
	}
}

// TestRemovedWhileWaiting stops a remover between its steps. Whoever comes meanwhile
// waits in the queue of the file that goes, and must have the lock of the new one in
// the end: on a File that has the old file open or opens it just now, to share the
// lock or not, and in the wake of a wait that was given up.
func TestRemovedWhileWaiting(t *testing.T) {
	eachRemovable(t, func(t *testing.T) {
		path := lockPath(t)
		files := make([]*File, 5)
		for i := range files {
			files[i] = mustOpen(t, path)
		}
		sharing, abandoned := files[3], files[4]
		mustUnlock(t, mustRLock(t, sharing)) // leaves a spare handle

		remover := &File{name: path, path: path, opts: Options{NoCreate: true}}
		h, err := remover.openToRemove()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.attempt(false); err != nil {
			t.Fatal(err)
		}
		type wait struct {
			locked <-chan *Lock
			shared bool
		}
		var waits []wait
		later := func(f *File, shared bool, n int) {
			locked, _ := lockLater(f, shared)
			waits = append(waits, wait{locked, shared})
			eventually(t, "waiting", waiting(f, n))
		}
		later(files[0], false, 1)
		later(files[1], true, 1)
		later(files[2], false, 1)
		later(files[2], true, 2)
		later(sharing, true, 1)
		later(sharing, true, 2)
		given, giveUp := lockLater(abandoned, false)
		eventually(t, "waiting", waiting(abandoned, 1))
		giveUp()
		<-given
		later(abandoned, false, 1)

		if err := remover.removeLocked(h, nil); err != nil {
			t.Fatal(err)
		}
		if err := h.unlock(); err != nil {
			t.Fatal(err)
		}
		h.close()

		var mu sync.Mutex // protects the counts
		writers, readers := 0, 0
		note := func(shared bool, n int) {
			mu.Lock()
			defer mu.Unlock()
			if shared {
				readers += n
			} else {
				writers += n
			}
			if writers > 1 || writers == 1 && readers > 0 {
				t.Errorf("%d writers and %d readers have the lock", writers, readers)
			}
		}
		var wg sync.WaitGroup
		for i, w := range waits {
			wg.Go(func() {
				l := receive(t, w.locked)
				note(w.shared, 1)
				if err := l.Check(); err != nil {
					t.Errorf("wait %d: %v", i, err)
				}
				time.Sleep(time.Millisecond)
				note(w.shared, -1)
				mustUnlock(t, l)
			})
		}
		wg.Wait()
	})
}

// TestRemoveLooks: a remover who has opened a file that somebody else removes first must
// not remove the new one.
func TestRemoveLooks(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	late := &File{name: path, path: path, opts: Options{NoCreate: true}}
	h, err := late.openToRemove()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	l := mustLock(t, f, "")
	if err := h.attempt(false); err != nil {
		t.Fatal(err)
	}
	if err := late.removeLocked(h, nil); !errors.Is(err, errBusy) {
		t.Errorf("removing what is gone: %v", err)
	}
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	mustUnlock(t, l)
}

// TestRemoveCampaign has goroutines and processes take the lock in bursts, while
// others remove the file whenever they can.
func TestRemoveCampaign(t *testing.T) {
	const files, goroutines = 4, 2
	enough := int64(20)
	if testing.Short() {
		enough = 5
	}
	eachRemovable(t, func(t *testing.T) {
		path := lockPath(t)
		mark := filepath.Join(t.TempDir(), "mark")
		var ps []*process
		for range 2 {
			ps = append(ps, start(t, nil, "burst", path, mark))
		}
		for _, p := range ps {
			p.expect("ready")
		}
		var stop atomic.Bool
		var removed, acquired atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for !stop.Load() {
					err := Remove(path)
					switch {
					case err == nil:
						removed.Add(1)
					case !errors.Is(err, ErrLocked) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNotLockFile):
						t.Errorf("Remove: %v", err)
						return
					}
					time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
				}
			})
		}
		for range files {
			f := mustOpen(t, path)
			for range goroutines {
				wg.Go(func() {
					for !stop.Load() {
						if err := burst(f, mark, &acquired); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
		}
		for deadline := time.Now().Add(40 * time.Second); removed.Load() < enough && !t.Failed() && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		stop.Store(true)
		wg.Wait()
		for _, p := range ps {
			p.finish()
		}
		t.Logf("%d acquisitions, %d removals", acquired.Load(), removed.Load())
		if removed.Load() < enough {
			t.Errorf("%d acquisitions and %d removals prove little", acquired.Load(), removed.Load())
		}
	})
}

// burst waits for the next tick of the clock, as all do, so that the lock is free before
// it and contended after, then takes the lock several times, and checks by the name mark
// that nobody else has it: who has it exclusively makes mark, which must not be there,
// and removes it.
func burst(f *File, mark string, acquired *atomic.Int64) error {
	const tick = 10 * time.Millisecond
	time.Sleep(time.Until(time.Now().Truncate(tick).Add(tick)))
	for range rand.IntN(4) {
		shared := rand.IntN(4) == 0
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if rand.IntN(4) == 0 {
			ctx, cancel = context.WithTimeout(context.Background(), time.Duration(rand.IntN(500))*time.Microsecond)
		}
		lock := f.Lock
		if shared {
			lock = f.RLock
		}
		l, err := lock(ctx, "burst")
		ended := ctx.Err() != nil
		cancel()
		if err != nil {
			if ended && errors.Is(err, context.DeadlineExceeded) {
				continue
			}
			return err
		}
		acquired.Add(1)
		if shared {
			if _, err := os.Lstat(mark); err == nil {
				return errors.New("shared while somebody has it exclusively")
			}
		} else {
			if err := os.Mkdir(mark, 0o777); err != nil {
				return fmt.Errorf("two holders: %w", err)
			}
			if err := os.Remove(mark); err != nil {
				return fmt.Errorf("two holders: %w", err)
			}
		}
		if err := l.Check(); err != nil {
			return err
		}
		if err := l.Unlock(); err != nil {
			return err
		}
	}
	return nil
}

// helpBurst PATH MARK does bursts until its input ends.
func helpBurst(args []string) error {
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Println("ready")
	var over atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		over.Store(true)
	}()
	var n atomic.Int64
	for !over.Load() {
		if err := burst(f, args[1], &n); err != nil {
			return err
		}
	}
	return nil
}

func init() { helpers["burst"] = helpBurst }

func TestRemoveUnused(t *testing.T) {
	eachRemovable(t, testRemoveUnused)
}

func testRemoveUnused(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	var open []*File
	for _, name := range []string{"free", "young", "held", "shared", "data", "LOCK", "MERGE", "truncated", "linked"} {
		f := mustOpen(t, path(name))
		l := mustLock(t, f, "")
		if name == "data" {
			if err := l.WriteData([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		mustUnlock(t, l)
		open = append(open, f)
	}
	mustUnlock(t, mustLock(t, open[0], ""))
	defer mustUnlock(t, mustLock(t, open[2], ""))
	defer mustUnlock(t, mustRLock(t, open[3]))
	if err := os.Truncate(path("truncated"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("text"), []byte("years of work"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path("linked"), filepath.Join(t.TempDir(), "linked")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("free", path("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path("sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, filepath.Join(path("sub"), "free"))
	later := encodeHeader(testMechanism)
	later[8]++
	reseal(later)
	if err := os.WriteFile(path("later"), later, 0o666); err != nil {
		t.Fatal(err)
	}
	hourAgo := time.Now().Add(-time.Hour)
	for _, e := range names(t, dir) {
		if e != "young" && e != "link" {
			if err := os.Chtimes(path(e), hourAgo, hourAgo); err != nil {
				t.Fatal(err)
			}
		}
	}

	before := names(t, dir)
	removed, err := RemoveUnused(dir, 10*time.Minute)
	if !slices.Equal(removed, []string{path("free")}) {
		t.Errorf("removed %q, want free alone", removed)
	}
	if !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), path("later")) || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("got error %v, want one that names the file of a later version", err)
	}
	want := slices.DeleteFunc(before, func(name string) bool { return name == "free" || name == "free"+turnSuffix })
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("left are\n%q, want\n%q", got, want)
	}
	removed, _ = RemoveUnused(dir, 0)
	if !slices.Equal(removed, []string{path("young")}) {
		t.Errorf("then removed %q, want young", removed)
	}
	if _, err := RemoveUnused(path("nosuch"), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

func names(t *testing.T, dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range entries {
		s = append(s, e.Name())
	}
	return s
}
