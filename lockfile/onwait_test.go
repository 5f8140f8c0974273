package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func init() { helpers["tell"] = helpTell }

// helpTell PATH locks, prints what it is told while it waits, and holds the lock until
// its input ends.
func helpTell(args []string) error {
	opts := testOptions(args[0])
	opts.OnWait = func(w Wait) { fmt.Println(w.Ahead, w.Known, w.Holder.PID, w.Path == args[0], w.Since.IsZero()) }
	f, err := Open(args[0], opts)
	if err != nil {
		return err
	}
	l, err := f.Lock(context.Background(), "telling")
	if err != nil {
		return err
	}
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
	return l.Unlock()
}

// expectLater reads lines until one is as wanted: what is told between is of moments
// at which the lock changes hands.
func (p *process) expectLater(want string) {
	p.t.Helper()
	for {
		switch got := p.line(); got {
		case want:
			return
		case "locked":
			p.t.Fatalf("not told %q", want)
		default:
			p.t.Logf("told %q before %q", got, want)
		}
	}
}

// TestOnWait: the last of a queue is told who is before him, and how many.
func TestOnWait(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	if _, err := f.open(); err != nil {
		t.Fatal(err)
	}
	l := mustLock(t, f, "")
	queued := func(n int) {
		t.Helper()
		eventually(t, "in the queue", func() bool { s, err := Inspect(path); return err == nil && s.Waiting == n })
	}
	if s, _ := Inspect(path); s.Waiting < 0 {
		t.Skip("there is no queue")
	}
	var ps []*process
	for i := range 3 {
		ps = append(ps, start(t, nil, "tell", path))
		queued(i + 1)
	}
	told := func(ahead, pid int) string { return fmt.Sprintf("%d true %d true false", ahead, pid) }
	ps[2].expectLater(told(2, os.Getpid()))
	mustUnlock(t, l)
	ps[0].expectLater(told(0, os.Getpid()))
	ps[0].expectLater("locked")
	ps[2].expectLater(told(1, ps[0].cmd.Process.Pid))
	ps[0].finish()
	ps[2].expectLater(told(0, ps[1].cmd.Process.Pid))
	ps[1].finish()
	ps[2].expectLater("locked")
	ps[2].finish()
}

// TestOnWaitOfOneFile: its waiters are before one another, and the holder may be of
// another mechanism.
func TestOnWaitOfOneFile(t *testing.T) {
	for _, m := range []Mechanism{defaultMechanism, Flock} {
		path := lockPath(t)
		var mu sync.Mutex
		told := map[time.Time]Wait{}
		l := mustLock(t, openWith(t, path, Options{Mechanism: m}), "work")
		f := openWith(t, path, Options{Mechanism: m, OnWait: func(w Wait) {
			mu.Lock()
			defer mu.Unlock()
			told[w.Since] = w
			if !w.Known || w.Holder.Purpose != "work" || w.Path != path {
				t.Errorf("told %+v", w)
			}
		}})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				if _, err := f.Lock(ctx, ""); !errors.Is(err, ErrLocked) {
					t.Error(err)
				}
			})
			eventually(t, "waiting", waiting(f, i+1))
		}
		eventually(t, "told all", func() bool {
			mu.Lock()
			defer mu.Unlock()
			ahead := map[int]int{}
			for _, w := range told {
				ahead[w.Ahead]++
			}
			if m != OFD {
				return ahead[-1] == 3
			}
			return len(told) == 3 && ahead[0] == 1 && ahead[1] == 1 && ahead[2] == 1
		})
		cancel()
		wg.Wait()
		mustUnlock(t, l)
	}
}

// TestOnWaitNotCalled for a lock that is had at once, or tried.
func TestOnWaitNotCalled(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{Mechanism: testMechanism, OnWait: func(w Wait) { t.Errorf("told %+v", w) }})
	mustUnlock(t, mustLock(t, f, ""))
	mustUnlock(t, mustRLock(t, f))
	l := mustLock(t, mustOpen(t, path), "")
	if _, err := f.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Lock(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	time.Sleep(2 * settleTime)
	mustUnlock(t, l)
}

// TestOnWaitOver: nothing is told when Lock has returned, whatever ended the wait.
func TestOnWaitOver(t *testing.T) {
	path := lockPath(t)
	var calls atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var waits, inside atomic.Bool
			f := openWith(t, path, Options{Mechanism: testMechanism, OnWait: func(w Wait) {
				if !waits.Load() || inside.Swap(true) {
					t.Errorf("told %+v, waiting %v", w, waits.Load())
				}
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
				if !waits.Load() {
					t.Error("Lock returned meanwhile")
				}
				inside.Store(false)
				calls.Add(1)
			}})
			for range 50 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(20))*time.Millisecond)
				waits.Store(true)
				l, err := f.Lock(ctx, "")
				waits.Store(false)
				if err == nil {
					time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
					mustUnlock(t, l)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if calls.Load() < 50 {
		t.Errorf("only %d calls", calls.Load())
	}
}

// TestOnWaitBlocks: a call that does not return keeps its own wait from returning, and
// no other.
func TestOnWaitBlocks(t *testing.T) {
	path := lockPath(t)
	l := mustLock(t, mustOpen(t, path), "")
	var first atomic.Bool
	entered, block := make(chan struct{}), make(chan struct{})
	f := openWith(t, path, Options{Mechanism: testMechanism, OnWait: func(Wait) {
		if !first.Swap(true) {
			close(entered)
			<-block
		}
	}})
	blocked, cancel := lockLater(f, false)
	<-entered
	cancel()
	eventually(t, "the wait given up", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.waiters.Len() == 0
	})
	other, cancelOther := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	select {
	case <-blocked:
		t.Error("Lock has returned during a call")
	default:
	}
	mustUnlock(t, l)
	mustUnlock(t, receive(t, other))
	cancelOther()
	close(block)
	<-blocked
}

// TestOnWaitLate: Lock does not wait for a look, and what that finds is not told.
func TestOnWaitLate(t *testing.T) {
	path := lockPath(t)
	l := mustLock(t, mustOpen(t, path), "")
	f := openWith(t, path, Options{Mechanism: testMechanism, OnWait: func(w Wait) { t.Errorf("told %+v", w) }})
	f.looking.Lock()
	w, _ := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	eventually(t, "a look", func() bool { return goroutinesIn("(*File).observeOnce") > 0 })
	mustUnlock(t, l)
	l = receive(t, w)
	f.looking.Unlock()
	eventually(t, "the end of the look", func() bool { return goroutinesIn("(*File).observeOnce") == 0 })
	mustUnlock(t, l)
}

// TestOnWaitChanged: what has not changed is not told again; and of a file that is not
// the one that is waited for no number is told.
func TestOnWaitChanged(t *testing.T) {
	path := lockPath(t)
	l := mustLock(t, mustOpen(t, path), "old")
	told := make(chan Wait, 100)
	f := openWith(t, path, Options{Mechanism: testMechanism, OnWait: func(w Wait) { told <- w }})
	w, _ := lockLater(f, false)
	for t0 := <-told; t0.Holder.Purpose != "old"; t0 = <-told {
		t.Logf("told %+v", t0) // it was not settled
	}
	time.Sleep(3 * lookPause)
	for len(told) > 0 {
		if t1 := <-told; len(told) > 0 || t1.Ahead != 0 {
			t.Errorf("told again %+v", t1)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l2 := mustLock(t, mustOpen(t, path), "new")
	for t2 := <-told; t2.Holder.Purpose != "new" || t2.Ahead != -1; t2 = <-told {
		t.Logf("told %+v", t2)
	}
	mustUnlock(t, l)
	mustUnlock(t, l2)
	mustUnlock(t, receive(t, w))
}

// TestOnWaitShort: a short wait is not told of.
func TestOnWaitShort(t *testing.T) {
	path := lockPath(t)
	told := make(chan Wait, 100)
	f := openWith(t, path, Options{Mechanism: testMechanism, OnWait: func(w Wait) {
		if d := time.Since(w.Since); d < settleTime {
			t.Errorf("told after %v: %+v", d, w)
		}
		told <- w
	}})
	g := mustOpen(t, path)
	for range 20 {
		l := mustLock(t, g, "")
		w, _ := lockLater(f, false)
		eventually(t, "waiting", waiting(f, 1))
		mustUnlock(t, l)
		mustUnlock(t, receive(t, w))
	}
	l := mustLock(t, g, "")
	w, _ := lockLater(f, false)
	<-told // a longer one is
	mustUnlock(t, l)
	mustUnlock(t, receive(t, w))
}
