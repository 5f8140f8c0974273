package lockfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// shortWatch makes it possible to wait for what is looked at once a second.
func shortWatch(t *testing.T) {
	old := watchPeriod
	watchPeriod = 10 * time.Millisecond
	t.Cleanup(func() { watchPeriod = old })
}

type testKey struct{}

// checkEnded checks that ctx has ended, because of want.
func checkEnded(t *testing.T, ctx context.Context, path string, want error) {
	t.Helper()
	if err := context.Cause(ctx); !errors.Is(err, want) || ctx.Err() != context.Canceled || !strings.Contains(err.Error(), path) {
		t.Errorf("context: %v, cause %v; want %v", ctx.Err(), err, want)
	}
}

// goroutinesIn counts the goroutines that are in a function.
func goroutinesIn(function string) int {
	b := make([]byte, 4<<20)
	return strings.Count(string(b[:runtime.Stack(b, true)]), function+"(")
}

// watching counts the goroutines that keep watch over locks. The runtime's own come and go,
// so that all there are cannot be compared.
func watching() int { return goroutinesIn("(*Lock).watch") }

func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := lockPath(t)
		f := mustOpen(t, path)
		parent, cancel := context.WithCancel(context.WithValue(t.Context(), testKey{}, "value"))
		defer cancel()
		l, err := f.Lock(parent, "")
		if err != nil {
			t.Fatal(err)
		}
		before := watching()
		ctx := l.Context()
		if ctx.Value(testKey{}) != "value" || l.Context() != ctx {
			t.Error("not derived from the context, or not the same the second time")
		}
		synctest.Wait() // or it may not have begun
		if n := watching() - before; n != 1 {
			t.Errorf("%d goroutines keep watch", n)
		}
		time.Sleep(10 * watchPeriod)
		synctest.Wait()
		if err := ctx.Err(); err != nil {
			t.Errorf("ended by itself: %v", err)
		}
		mustUnlock(t, l)
		checkEnded(t, ctx, path, ErrReleased)
		synctest.Wait()
		if n := watching() - before; n != 0 {
			t.Errorf("%d goroutines left after Unlock", n)
		}

		// Never asked for before.
		l, err = f.RLock(parent, "")
		if err != nil {
			t.Fatal(err)
		}
		mustUnlock(t, l)
		checkEnded(t, l.Context(), path, ErrReleased)

		l, err = f.Lock(parent, "")
		if err != nil {
			t.Fatal(err)
		}
		ctx = l.Context()
		cancel()
		if context.Cause(ctx) != context.Canceled {
			t.Errorf("the parent has ended: %v", context.Cause(ctx))
		}
		if err := l.Check(); err != nil {
			t.Errorf("but not the lock: %v", err)
		}
		mustUnlock(t, l)

		l, err = f.TryLock("")
		if err != nil {
			t.Fatal(err)
		}
		if ctx = l.Context(); ctx.Err() != nil {
			t.Error(ctx.Err())
		}
		mustUnlock(t, l)
		checkEnded(t, ctx, path, ErrReleased)
	})
}

// TestContextReplaced: a lock that nobody asks about is known to be lost after a
// second, and for good.
func TestContextReplaced(t *testing.T) {
	for _, by := range []string{"nobody", "a new file", "Check"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := lockPath(t)
				f := mustOpen(t, path)
				l, err := f.Lock(t.Context(), "")
				if err != nil {
					t.Fatal(err)
				}
				ctx := l.Context()
				if err := os.Rename(path, path+".away"); err != nil {
					t.Fatal(err)
				}
				if by == "a new file" {
					// Those who come later agree on one.
					l := mustLock(t, mustOpen(t, path), "")
					defer mustUnlock(t, l)
					if _, err := f.TryLock(""); !errors.Is(err, ErrLocked) {
						t.Errorf("two holders: %v", err)
					}
				}
				time.Sleep(watchPeriod / 2)
				synctest.Wait()
				if ctx.Err() != nil {
					t.Fatal("looked at too often")
				}
				if by == "Check" {
					if err := l.Check(); !errors.Is(err, ErrReplaced) {
						t.Errorf("Check: %v", err)
					}
				} else {
					time.Sleep(watchPeriod)
					synctest.Wait()
				}
				checkEnded(t, ctx, path, ErrReplaced)
				if err := os.Rename(path+".away", path); err != nil {
					t.Fatal(err)
				}
				if err := l.Check(); !errors.Is(err, ErrReplaced) {
					t.Errorf("Check, when the file is back: %v", err)
				}
				checkEnded(t, l.Context(), path, ErrReplaced)
				mustUnlock(t, l)
				checkEnded(t, ctx, path, ErrReplaced)
				if err := l.Check(); !errors.Is(err, ErrReleased) {
					t.Errorf("Check after Unlock: %v", err)
				}
				// Asked for too late to watch.
				l, err = f.Lock(t.Context(), "")
				if err != nil {
					t.Fatal(err)
				}
				os.Remove(path)
				l.Check()
				checkEnded(t, l.Context(), path, ErrReplaced)
				mustUnlock(t, l)
			})
		})
	}
}

// A lossyLock is a fakeLock that can be lost.
type lossyLock struct {
	*fakeLock
	gone chan struct{}
	err  atomic.Value                  // of check: an error, or nothing
	hang atomic.Pointer[chan struct{}] // where check waits, if anywhere
}

func (l *lossyLock) attempt(shared bool) error {
	l.gone = make(chan struct{})
	return l.fakeLock.attempt(shared)
}

func (l *lossyLock) check() error {
	if hang := l.hang.Load(); hang != nil {
		*hang <- struct{}{} // it is being looked at
		*hang <- struct{}{} // and that is over
	}
	err, _ := l.err.Load().(error)
	return err
}
func (l *lossyLock) lost() <-chan struct{} { return l.gone }

func (l *lossyLock) unlock() error {
	err := l.fakeLock.unlock()
	if l.check() != nil {
		err = fmt.Errorf("%w to somebody", ErrLost)
	}
	return err
}

func lossyFile(t *testing.T) (*File, string) {
	m, _ := fakeMechanism(t)
	fake := mechanisms[m]
	mechanisms[m] = func(h *handle) locker { return &lossyLock{fakeLock: fake(h).(*fakeLock)} }
	path := lockPath(t)
	return openWith(t, path, Options{Mechanism: m, Port: 1}), path
}

func TestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, path := lossyFile(t)
		lock := func() (*Lock, *lossyLock, context.Context) {
			l, err := f.Lock(t.Context(), "mine")
			if err != nil {
				t.Fatal(err)
			}
			return l, l.h.locker.(*lossyLock), l.Context()
		}
		// Notified.
		l, m, ctx := lock()
		close(m.gone)
		synctest.Wait()
		checkEnded(t, ctx, path, ErrLost)
		if err := l.Check(); !errors.Is(err, ErrLost) {
			t.Errorf("Check: %v", err)
		}
		if err := l.Unlock(); !errors.Is(err, ErrLost) {
			t.Errorf("Unlock: %v", err)
		}

		// Found out by whoever looks first.
		for _, byCheck := range []bool{true, false} {
			l, m, ctx = lock()
			m.err.Store(fmt.Errorf("cannot tell: %w", io.EOF))
			time.Sleep(2 * watchPeriod)
			synctest.Wait()
			if err := l.Check(); err == nil || ctx.Err() != nil {
				t.Errorf("Check: %v; context: %v", err, ctx.Err())
			}
			m.err.Store(fmt.Errorf("%w to somebody", ErrLost))
			if byCheck {
				if err := l.Check(); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "to somebody") {
					t.Errorf("Check: %v", err)
				}
			} else {
				time.Sleep(watchPeriod)
				synctest.Wait()
			}
			checkEnded(t, ctx, path, ErrLost)
			if err := l.WriteData(nil); !errors.Is(err, ErrLost) {
				t.Errorf("WriteData: %v", err)
			}
			// What is recorded is somebody else by now.
			if err := l.h.writeAt(encodeHolder(Holder{Purpose: "his"}), holderOffset); err != nil {
				t.Fatal(err)
			}
			if err := l.Unlock(); !errors.Is(err, ErrLost) {
				t.Errorf("Unlock: %v", err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if h, ok := decodeHolder(b[holderOffset:][:holderSize]); !ok || h.Purpose != "his" {
				t.Errorf("somebody else's record was changed: %v, %v", h, ok)
			}
			if err := l.Unlock(); !errors.Is(err, ErrReleased) {
				t.Errorf("Unlock again: %v", err)
			}
		}
	})
}

// TestDoLost: what becomes of the lock is joined to the error of the work, and said
// once.
// TestLostHangs: a file system that does not answer keeps nobody from hearing that the
// lock is lost: a lease ends without it.
func TestLostHangs(t *testing.T) {
	defer func(d time.Duration) { watchPeriod = d }(watchPeriod)
	watchPeriod = time.Millisecond
	f, path := lossyFile(t)
	for _, watched := range []bool{true, false} {
		l, err := f.Lock(t.Context(), "mine")
		if err != nil {
			t.Fatal(err)
		}
		m, answer := l.h.locker.(*lossyLock), make(chan struct{})
		m.hang.Store(&answer)
		checked := make(chan error, 1)
		var ctx context.Context
		if watched {
			ctx = l.Context()
		} else {
			go func() { checked <- l.Check() }()
		}
		<-answer // the watch looks, or Check
		close(m.gone)
		if watched {
			<-ctx.Done()
			checkEnded(t, ctx, path, ErrLost)
			checked <- l.Check()
		}
		select {
		case err := <-checked:
			if !errors.Is(err, ErrLost) {
				t.Errorf("Check: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Check waits for the file system")
		}
		m.hang.Store(nil)
		<-answer
		if err := l.Unlock(); !errors.Is(err, ErrLost) {
			t.Errorf("Unlock: %v", err)
		}
	}
}

// TestOpenHangs: who gives up while the file is being opened anew does not wait for that.
func TestOpenHangs(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	empty := path + ".empty"
	if err := errors.Join(os.WriteFile(empty, nil, 0o666), os.Rename(empty, path)); err != nil {
		t.Fatal(err)
	}
	withFileSystem(t, "nfs", false)
	choosing.patience = time.Minute
	asked, answer := make(chan struct{}), make(chan struct{})
	lock := choosing.lock
	choosing.lock = func(h *handle) error {
		close(asked)
		<-answer
		return lock(h)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := f.Lock(ctx, "")
		got <- err
	}()
	<-asked
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("Lock: %v", err)
	}
	choosing.lock = lock
	close(answer)
	mustUnlock(t, mustLock(t, f, ""))
}

// TestCheckMechanism: who holds a lock of another mechanism than the file says by now is
// told.
func TestCheckMechanism(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{Mechanism: Flock})
	l, err := f.Lock(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, encodeHeader(Link), 0o666); err != nil {
		t.Fatal(err)
	}
	ctx := l.Context()
	if err := l.Check(); !errors.Is(err, ErrReplaced) || !strings.Contains(err.Error(), "link") {
		t.Errorf("Check: %v", err)
	}
	checkEnded(t, ctx, path, ErrReplaced)
	mustUnlock(t, l)
}

func TestDoLost(t *testing.T) {
	failed := errors.New("failed")
	another := fmt.Errorf("another %w", ErrLost)
	for _, fnErr := range []error{nil, failed, another, errCause} {
		f, path := lossyFile(t)
		err := f.Do(t.Context(), "", func(ctx context.Context) error {
			l := ctx.Value(heldKey{}).(*heldLocks).l
			l.h.locker.(*lossyLock).err.Store(ErrLost)
			if fnErr == errCause {
				l.Check()
				return context.Cause(ctx)
			}
			return fnErr
		})
		want := 1
		if fnErr == another {
			want = 2
		}
		if n := strings.Count(fmt.Sprint(err), ErrLost.Error()); !errors.Is(err, ErrLost) || n != want {
			t.Errorf("fn returns %v: Do returns %v", fnErr, err)
		}
		if fnErr != nil && fnErr != errCause && !errors.Is(err, fnErr) || !strings.Contains(err.Error(), path) {
			t.Errorf("fn returns %v: Do returns %v", fnErr, err)
		}

		g := mustOpen(t, lockPath(t))
		err = g.RDo(t.Context(), "", func(ctx context.Context) error {
			os.Remove(g.path)
			return fnErr
		})
		if !errors.Is(err, ErrReplaced) || fnErr != nil && !errors.Is(err, fnErr) {
			t.Errorf("fn returns %v: RDo returns %v", fnErr, err)
		}
	}
}

var errCause = errors.New("the cause")

func TestDo(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	free := func(when string) {
		t.Helper()
		l, err := g.TryLock("")
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		mustUnlock(t, l)
	}
	for name, do := range map[string]func(context.Context, string, func(context.Context) error) error{"Do": f.Do, "RDo": f.RDo} {
		t.Run(name, func(t *testing.T) {
			var inner context.Context
			err := do(context.WithValue(t.Context(), testKey{}, "value"), "work", func(ctx context.Context) error {
				inner = ctx
				if ctx.Value(testKey{}) != "value" || ctx.Err() != nil {
					t.Error("not a context derived from ours")
				}
				var held *HeldError
				if _, err := g.TryLock(""); !errors.As(err, &held) || held.Known != (name == "Do") || held.Known && held.Holder.Purpose != "work" {
					t.Errorf("a try meanwhile: %v", err)
				}
				l, err := g.TryRLock("")
				if (err == nil) != (name == "RDo") {
					t.Errorf("a try to share meanwhile: %v", err)
				}
				if err == nil {
					mustUnlock(t, l)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			checkEnded(t, inner, path, ErrReleased)
			free("after success")

			if err := do(t.Context(), "", func(context.Context) error { return io.EOF }); err != io.EOF {
				t.Errorf("fn's error is %v", err)
			}
			free("after failure")

			func() {
				defer func() {
					if v := recover(); v != "panic" {
						t.Errorf("recovered %v", v)
					}
				}()
				do(t.Context(), "", func(context.Context) error { panic("panic") })
			}()
			free("after a panic")

			var wg sync.WaitGroup
			wg.Go(func() {
				do(t.Context(), "", func(context.Context) error { runtime.Goexit(); return nil })
				t.Error("Goexit was stopped")
			})
			wg.Wait()
			free("after Goexit")

			// An error of the work's own is not one of the lock, nor the reverse.
			l := mustLock(t, g, "")
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			err = do(ctx, "", func(context.Context) error { t.Error("called without the lock"); return nil })
			if !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("not to be had: %v", err)
			}
			mustUnlock(t, l)
			if err := do(t.Context(), "", func(context.Context) error { return context.DeadlineExceeded }); errors.Is(err, ErrLocked) {
				t.Errorf("fn's error was taken for the lock's: %v", err)
			}
		})
	}
}

func TestNested(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "a", "LOCK")
	f := mustOpen(t, path)
	link := filepath.Join(dir, "b", "LINK")
	if err := errors.Join(os.Link(path, link), os.Symlink("a", filepath.Join(dir, "s"))); err != nil {
		t.Fatal(err)
	}
	files := map[string]*File{
		"same File":          f,
		"another File":       mustOpen(t, path),
		"a hard link":        mustOpen(t, link),
		"a linked directory": mustOpen(t, filepath.Join(dir, "s", "LOCK")),
	}
	nothing := func(context.Context) error { return nil }
	for _, shared := range []bool{false, true} {
		lock, kind := f.Lock, "exclusively"
		if shared {
			lock, kind = f.RLock, "shared"
		}
		l, err := lock(t.Context(), "outer work")
		if err != nil {
			t.Fatal(err)
		}
		// There may be other work between.
		between := mustOpen(t, lockPath(t))
		m, err := between.Lock(l.Context(), "inner work")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(m.Context(), time.Minute)
		for name, g := range files {
			_, err1 := g.Lock(ctx, "")
			_, err2 := g.RLock(ctx, "")
			for _, err := range []error{err1, err2, g.Do(ctx, "", nothing), g.RDo(ctx, "", nothing)} {
				if !errors.Is(err, ErrNested) || errors.Is(err, ErrLocked) {
					t.Fatalf("%s, %s: %v", kind, name, err)
				}
				for _, want := range []string{g.Name(), kind, "outer work"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %q does not say %q", name, err, want)
					}
				}
				if g.Name() != path && !strings.Contains(err.Error(), path) {
					t.Errorf("%s: %q does not name the other path", name, err)
				}
			}
			if _, err := LockAll(ctx, "", mustOpen(t, lockPath(t)), g); !errors.Is(err, ErrNested) {
				t.Errorf("LockAll, %s: %v", name, err)
			}
			// Tries have no context, and wait for nobody.
			if _, err := g.TryLock(""); !errors.Is(err, ErrLocked) {
				t.Errorf("try, %s: %v", name, err)
			}
		}
		if _, err := between.Lock(ctx, ""); !errors.Is(err, ErrNested) || !strings.Contains(err.Error(), "inner work") {
			t.Errorf("the inner lock: %v", err)
		}
		// Waiting without a context that says so is as it always was.
		short, cancelShort := context.WithTimeout(t.Context(), time.Millisecond)
		if _, err := between.Lock(short, ""); !errors.Is(err, ErrLocked) {
			t.Errorf("another context: %v", err)
		}
		cancelShort()

		// What has been released is not in the way, whatever the context says.
		mustUnlock(t, l)
		free := context.WithoutCancel(ctx)
		for name, g := range files {
			l, err := g.Lock(free, "")
			if err != nil {
				t.Fatalf("%s, released: %v", name, err)
			}
			mustUnlock(t, l)
		}
		if _, err := between.Lock(free, ""); !errors.Is(err, ErrNested) {
			t.Errorf("the inner lock: %v", err)
		}
		mustUnlock(t, m)
		cancel()
	}

	// A File that is closed.
	l := mustLock(t, f, "")
	g := mustOpen(t, path)
	g.Close()
	if _, err := g.Lock(context.WithoutCancel(l.Context()), ""); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed File: %v", err)
	}
	// The file that is there now is another one.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is not there; it is there
		l2, err := f.Lock(context.WithoutCancel(l.Context()), "")
		if err != nil {
			t.Fatalf("a new file: %v", err)
		}
		mustUnlock(t, l2)
	}
	if _, err := files["a hard link"].Lock(context.WithoutCancel(l.Context()), ""); !errors.Is(err, ErrNested) {
		t.Errorf("a link to the old file: %v", err)
	}
	mustUnlock(t, l)
}

// TestContextMany: Unlock, Check, Context and loss at the same time.
func TestContextMany(t *testing.T) {
	shortWatch(t)
	watchPeriod = 50 * time.Microsecond
	path := lockPath(t)
	f := mustOpen(t, path)
	for range 300 {
		l, err := f.RLock(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				switch i {
				case 0:
					os.Remove(path)
				case 1:
					mustUnlock(t, l)
				case 2:
					l.Check()
				default:
					<-l.Context().Done()
				}
			})
		}
		wg.Wait()
		if err := context.Cause(l.Context()); !errors.Is(err, ErrReleased) && !errors.Is(err, ErrReplaced) {
			t.Fatal(err)
		}
	}
}

// TestForeignContent: what somebody writes into a lock file that is open, or locked, is
// not changed any more, and the holder is told.
func TestForeignContent(t *testing.T) {
	for _, opts := range []Options{{}, {NoRecord: true}, {NoQueue: true}, {Mechanism: Flock}, {Mechanism: POSIX}, {Mechanism: Unix}, {Mechanism: TCP}, {Mechanism: Link}} {
		for _, size := range []int{20, 600, 3000} {
			t.Run(fmt.Sprintf("%v/%v/%v/%d bytes", opts.Mechanism, opts.NoQueue, opts.NoRecord, size), func(t *testing.T) {
				path := lockPath(t)
				if opts.Mechanism == TCP {
					opts.Port = testPort(path)
				}
				f, g := openWith(t, path, opts), openWith(t, path, opts)
				want := bytes.Repeat([]byte("results\n"), size)[:size]
				step := func(name string, do func()) {
					t.Helper()
					do()
					if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: the file holds %d bytes %.40q, %v", name, len(got), got, err)
					}
				}

				mustUnlock(t, mustLock(t, g, "")) // g knows the file
				l := mustLock(t, f, "")
				if err := os.WriteFile(path, want, 0o666); err != nil {
					t.Fatal(err)
				}
				step("written", func() {})
				var waited chan error
				step("waiting", func() {
					waited = make(chan error, 1)
					go func() {
						m, err := g.Lock(context.Background(), "")
						if err == nil {
							err = m.Unlock()
						}
						waited <- err
					}()
					eventually(t, "waiting", waiting(g, 1))
				})
				step("WriteData", func() {
					if err := l.WriteData([]byte("data")); !errors.Is(err, ErrReplaced) && !errors.Is(err, ErrLost) {
						t.Errorf("WriteData: %v", err)
					}
				})
				step("Check", func() {
					if err := l.Check(); !errors.Is(err, ErrReplaced) && !errors.Is(err, ErrLost) {
						t.Errorf("Check: %v", err)
					}
				})
				step("released", func() {
					eventually(t, "held for more than a moment", func() bool { return time.Since(l.since) > forMoment })
					_ = l.Unlock()
				})
				step("waited", func() { <-waited })
				step("locked again", func() {
					if m, err := g.TryLock(""); err == nil {
						_ = m.Unlock()
					}
				})
			})
		}
	}
}
