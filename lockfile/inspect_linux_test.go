package lockfile

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	helpers["pass"] = helpPass
	helpers["share"] = helpShare
}

// helpPass PATH KEEP locks, and starts a sleep(1) that inherits the lock and of which
// it prints the pid. If KEEP is "no" it closes its own descriptor of the lock.
func helpPass(args []string) error {
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		return err
	}
	l, err := f.Lock(context.Background(), "passing on")
	if err != nil {
		return err
	}
	fd, err := syscall.Dup(l.h.fd)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "lock")
	child := exec.Command("sleep", "300")
	child.ExtraFiles = []*os.File{file}
	if err := child.Start(); err != nil {
		return err
	}
	file.Close()
	if args[1] == "no" {
		l.h.close()
	}
	fmt.Println(child.Process.Pid)
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// helpShare PATH shares the lock until its input ends.
func helpShare(args []string) error {
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		return err
	}
	if _, err := f.RLock(context.Background(), ""); err != nil {
		return err
	}
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// bothMechanisms are those whose locks belong to a file description.
func bothMechanisms(t *testing.T, test func(t *testing.T)) {
	for _, m := range []Mechanism{OFD, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			withMechanism(t, m)
			test(t)
		})
	}
}

func mustInspect(t *testing.T, path string) Status {
	t.Helper()
	s, err := Inspect(path)
	if err != nil {
		t.Fatal(err)
	}
	if s.Path != path {
		t.Errorf("path %q", s.Path)
	}
	return s
}

func TestInspect(t *testing.T) {
	bothMechanisms(t, func(t *testing.T) {
		path := lockPath(t)
		f := mustOpen(t, path)
		me := Process{PID: os.Getpid(), Command: "lockfile.test"}
		if s := mustInspect(t, path); s.State != Free && s.State != Unseen || s.Known || len(s.Processes) > 0 || s.Mechanism != testMechanism {
			t.Errorf("free: %+v", s)
		}
		l := mustLock(t, f, "work")
		s := mustInspect(t, path)
		if s.State != Exclusive || !s.Known || s.Liveness != Alive || s.Holder.Purpose != "work" || len(s.Processes) != 1 || s.Processes[0] != me {
			t.Errorf("locked: %+v", s)
		}
		if want := "held by " + s.Holder.String(); s.String() != want {
			t.Errorf("%q, want %q", s, want)
		}
		mustUnlock(t, l)

		l = mustLock(t, openWith(t, path, Options{Mechanism: testMechanism, NoRecord: true}), "")
		s = mustInspect(t, path)
		if want := fmt.Sprintf("held by %v, which is not recorded", me); s.State != Exclusive || s.Known || s.String() != want {
			t.Errorf("%+v is %q, want %q", s, s, want)
		}
		mustUnlock(t, l)

		p := start(t, nil, "share", path)
		p.expect("locked")
		r, r2 := mustRLock(t, f), mustRLock(t, mustOpen(t, path))
		s = mustInspect(t, path)
		me.Shared = true
		other := Process{PID: p.cmd.Process.Pid, Command: "lockfile.test", Shared: true}
		first, second := me, other
		if me.PID > other.PID {
			first, second = other, me
		}
		want := fmt.Sprintf("shared by %v, %v", first, second)
		if s.State != Shared || s.Known || s.String() != want || len(s.Processes) != 2 || !s.Processes[0].Shared {
			t.Errorf("%+v is %q, want %q", s, s, want)
		}
		// A waiter has something locked, but not the lock.
		w := mustOpen(t, path)
		writer, cancel := lockLater(w, false)
		eventually(t, "waiting", waiting(w, 1))
		q := start(t, nil, "hold", path)
		if testMechanism == OFD {
			want += "; 2 waiting"
		}
		eventually(t, want, func() bool { s = mustInspect(t, path); return testMechanism != OFD || s.Waiting == 2 })
		if s.String() != want {
			t.Errorf("%+v is %q, want %q", s, s, want)
		}
		q.kill()
		cancel()
		<-writer
		mustUnlock(t, r)
		mustUnlock(t, r2)
		p.finish()
	})
}

// TestInspectInherited: the holder has died, but not the child that it has passed the
// lock to.
func TestInspectInherited(t *testing.T) {
	bothMechanisms(t, func(t *testing.T) {
		path := lockPath(t)
		for _, keep := range []string{"yes", "no"} {
			p := start(t, nil, "pass", path, keep)
			var child int
			if _, err := fmt.Sscan(p.line(), &child); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { syscall.Kill(child, syscall.SIGKILL) })
			// It may not have executed sleep yet.
			eventually(t, "sleep", func() bool {
				comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child))
				return err == nil && string(comm) == "sleep\n"
			})
			s := mustInspect(t, path)
			want := "held by " + s.Holder.String()
			if keep == "no" {
				want = fmt.Sprintf("held by pid %d (sleep), recorded as %v", child, s.Holder)
			}
			if s.Liveness != Alive || s.Holder.PID != p.cmd.Process.Pid || s.String() != want {
				t.Errorf("it lives: %+v is %q, want %q", s, s, want)
			}
			p.kill()
			s = mustInspect(t, path)
			want = fmt.Sprintf("recorded process gone, the lock is inherited by pid %d (sleep)", child)
			if s.State != Exclusive || !s.Known || s.Liveness != Dead || s.Holder.PID != p.cmd.Process.Pid || s.String() != want {
				t.Errorf("it is dead: %+v is %q, want %q", s, s, want)
			}
			if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			mustUnlock(t, mustLock(t, mustOpen(t, path), ""))
		}
	})
}

// TestInspectStranger: another program, on a file in which there is the record of a
// process that has died.
func TestInspectStranger(t *testing.T) {
	bothMechanisms(t, func(t *testing.T) {
		path := lockPath(t)
		p := start(t, nil, "hold", path)
		p.expect("locked")
		p.kill()
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		state := Exclusive // one cannot tell
		if testMechanism == Flock {
			err = flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		} else {
			err, state = setlk(int(file.Fd()), unix.F_WRLCK, 0, 0, false), Foreign
		}
		if err != nil {
			t.Fatal(err)
		}
		s := mustInspect(t, path)
		want := fmt.Sprintf("held by pid %d (lockfile.test), which is not recorded", os.Getpid())
		if s.State != state || s.Known || s.String() != want || s.Waiting != -1 {
			t.Errorf("%+v is %q, want %q", s, s, want)
		}
	})
}

// TestInspectChanging: what is told while the lock changes hands all the time is of
// one holder.
func TestInspectChanging(t *testing.T) {
	bothMechanisms(t, func(t *testing.T) {
		path := lockPath(t)
		mark := filepath.Join(t.TempDir(), "mark")
		var ps []*process
		for range 3 {
			p := start(t, nil, "hammer", path, mark, "3ms")
			p.expect("ready")
			ps = append(ps, p)
		}
		for _, p := range ps {
			fmt.Fprintln(p.stdin)
		}
		known, unknown := 0, 0
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
			s := mustInspect(t, path)
			switch {
			case s.Known:
				known++
				if s.Liveness != Alive || len(s.Processes) != 1 || s.Processes[0].PID != s.Holder.PID {
					t.Errorf("%+v\n%v", s, s)
				}
			case s.State != Free:
				unknown++ // he did not get to run
			}
		}
		if known < 10 || unknown > known/10 {
			t.Errorf("a holder was known %d times, and unknown %d times", known, unknown)
		}
		for _, p := range ps {
			p.stdin.Close()
			p.line()
			p.finish()
		}
	})
}

// TestWaitingCount: tickets are counted, whichever waiters have given up, and not that
// of a holder who has been in the queue.
func TestWaitingCount(t *testing.T) {
	withMechanism(t, OFD)
	path := lockPath(t)
	check := func(want int) {
		t.Helper()
		if got := mustInspect(t, path).Waiting; got != want {
			t.Errorf("%d waiting, want %d", got, want)
		}
	}
	f := mustOpen(t, path)
	check(0)
	l := mustLock(t, f, "")
	check(0)
	type wait struct {
		locked <-chan *Lock
		cancel func()
	}
	var waits []wait
	for i := range 40 {
		f := mustOpen(t, path)
		w, cancel := lockLater(f, i%5 == 4)
		waits = append(waits, wait{w, cancel})
		eventually(t, "waiting", waiting(f, 1))
		check(i + 1)
	}
	rand.Shuffle(30, func(i, j int) { i, j = i+10, j+10; waits[i], waits[j] = waits[j], waits[i] })
	for range 20 {
		last := waits[len(waits)-1]
		waits = waits[:len(waits)-1]
		last.cancel()
		<-last.locked
		check(len(waits))
	}
	// Of those that are left the first four want the lock for themselves.
	for range 3 {
		mustUnlock(t, l)
		l = receive(t, waits[0].locked)
		waits = waits[1:]
		check(len(waits))
	}
	mustUnlock(t, l)
	for _, w := range waits {
		go func() {
			if l := <-w.locked; l != nil {
				l.Unlock()
			}
		}()
	}
	mustUnlock(t, mustLock(t, f, ""))
}

// TestInspectSettles: who has locked, and has not said so yet, is waited for.
func TestInspectSettles(t *testing.T) {
	bothMechanisms(t, func(t *testing.T) {
		path := lockPath(t)
		f := mustOpen(t, path)
		// Looking at all processes takes so long that it would hide the waiting.
		kinds := lockKinds[testMechanism]
		delete(lockKinds, testMechanism)
		defer func() { lockKinds[testMechanism] = kinds }()
		known := 0
		for range 10 {
			h, err := f.open()
			if err != nil {
				t.Fatal(err)
			}
			if err := h.attempt(false); err != nil {
				t.Fatal(err)
			}
			said := make(chan struct{})
			time.AfterFunc(time.Millisecond, func() { _ = h.announce("late", time.Now()); close(said) })
			if mustInspect(t, path).Holder.Purpose == "late" {
				known++
			}
			<-said
			h.withdraw()
			h.close()
		}
		if known < 3 { // it may be later than that on a busy machine
			t.Errorf("known %d times of 10", known)
		}
	})
}

// TestCountTickets that were not taken in order, among other locks.
func TestCountTickets(t *testing.T) {
	withMechanism(t, OFD)
	path := lockPath(t)
	f := mustOpen(t, path)
	for _, b := range [][2]int64{{20, 1}, {6, 1}, {12, 1}, {8, 1}, {31, 2}, {15, 1}, {40, 4}, {4, 1}, {100, 1}} {
		h, err := f.open()
		if err != nil {
			t.Fatal(err)
		}
		defer h.close()
		if err := setlk(h.fd, unix.F_WRLCK, b[0], b[1], false); err != nil {
			t.Fatal(err)
		}
	}
	h, _, err := openRead("inspect", path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	for limit, want := range map[int64]int{gate: 6, 101: 6, 100: 5, 20: 4, 12: 3, 6: 1, 4: 0, 0: 0} {
		if got, err := h.locker.(*ofd).queued(limit); err != nil || got != want {
			t.Errorf("below %d: %d, %v; want %d", limit, got, err, want)
		}
	}
}

// TestOnWaitJoining: the first call comes when the File has joined the queue, if that
// is soon.
func TestOnWaitJoining(t *testing.T) {
	withMechanism(t, OFD)
	path := lockPath(t)
	g := mustOpen(t, path)
	l := mustLock(t, g, "")
	h, err := g.open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	judge := newJudge(t, path)
	first := make(chan Wait, 100)
	good := 0
	for range 10 {
		f := openWith(t, path, Options{OnWait: func(w Wait) { first <- w }})
		if err := setlk(h.fd, unix.F_WRLCK, gate, 1, true); err != nil {
			t.Fatal(err)
		}
		w, cancel := lockLater(f, false)
		eventually(t, "blocked", judge.blocked)
		if err := setlk(h.fd, unix.F_UNLCK, gate, 1, true); err != nil {
			t.Fatal(err)
		}
		if told := <-first; told.Ahead == 0 && told.Known {
			good++
		}
		cancel()
		<-w
		for len(first) > 0 {
			<-first
		}
	}
	if good < 3 { // a busy machine may take longer
		t.Errorf("%d first calls of 10 were complete", good)
	}
	mustUnlock(t, l)
}

// TestInspectTaken: these locks are not inherited. Whoever has one took it, and did not
// say so, when there is the record of somebody who is dead.
func TestInspectTaken(t *testing.T) {
	test := func(t *testing.T) {
		path := lockPath(t)
		opts := *testOptions(path)
		opts.NoRecord = true
		f := openWith(t, path, opts)
		mustUnlock(t, mustLock(t, f, "")) // which clears what was there before
		p := start(t, nil, "hold", path)
		p.expect("locked")
		if s := mustInspect(t, path); !s.Known || s.Liveness != Alive || len(s.Processes) != 1 || s.Processes[0].PID != p.cmd.Process.Pid {
			t.Errorf("recorded: %+v", s)
		}
		p.kill()
		l := mustLock(t, f, "")
		s := mustInspect(t, path)
		want := fmt.Sprintf("held by pid %d (lockfile.test), which is not recorded", os.Getpid())
		if s.State != Exclusive || s.Known || s.Liveness != Unknown || s.String() != want {
			t.Errorf("%+v is %q, want %q", s, s, want)
		}
		mustUnlock(t, l)
	}
	socketKinds(t, test)
	t.Run("posix", func(t *testing.T) {
		withMechanism(t, POSIX)
		test(t)
	})
	t.Run("untold", func(t *testing.T) { // as when it is another user's
		withMechanism(t, TCP)
		path := lockPath(t)
		p := start(t, nil, "hold", path)
		p.expect("locked")
		p.kill()
		old := mechanisms[TCP]
		defer func() { mechanisms[TCP] = old }()
		mechanisms[TCP] = func(h *handle) locker { return untoldLock{old(h)} }
		if s := mustInspect(t, path); s.String() != "held by somebody who is not recorded" || s.Liveness != Unknown {
			t.Errorf("%+v is %q", s, s)
		}
	})
}

// An untoldLock is held, and nobody tells by whom.
type untoldLock struct{ locker }

func (untoldLock) probe() (State, error) { return Exclusive, nil }
func (untoldLock) peer() int             { return 0 }

// TestInspectAlmostAll: a stranger may lock all but the last byte there can be. What
// comes after his lock cannot be computed with.
func TestInspectAlmostAll(t *testing.T) {
	withMechanism(t, OFD)
	for _, typ := range []int16{unix.F_WRLCK, unix.F_RDLCK} {
		for _, first := range []int64{0, 1, firstTicket, gate - 1} {
			path := lockPath(t)
			f := mustOpen(t, path)
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := setlk(int(file.Fd()), typ, first, math.MaxInt64-first, false); err != nil {
				t.Fatal(err)
			}
			want := Free
			switch {
			case first == 0 && typ == unix.F_RDLCK:
				want = Shared
			case first == 0:
				want = Foreign
			}
			if s := mustInspect(t, path); s.State != want {
				t.Errorf("type %d from %d: state %v, want %v", typ, first, s.State, want)
			}
			o := f.spare[0].locker.(*ofd)
			for start := range int64(10) {
				if n, err := o.countTickets(start, gate); n > 0 || err != nil {
					t.Errorf("type %d from %d: %d tickets, %v", typ, first, n, err)
				}
			}
			if first <= firstTicket { // else there is a ticket to be had
				if n, err := o.takeTicket(firstTicket); err != errForeign {
					t.Errorf("type %d from %d: ticket %d, %v", typ, first, n, err)
				}
			}
			w, _ := lockLater(f, false)
			time.Sleep(time.Millisecond)
			if len(w) > 0 {
				t.Fatal("two holders")
			}
			file.Close()
			mustUnlock(t, receive(t, w))
		}
	}
}
