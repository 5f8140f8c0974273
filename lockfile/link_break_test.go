package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// linkBreaks returns the breaks that are on record.
func linkBreaks(h *handle) []Break {
	var s Status
	_ = h.locker.(*linker).describe(&s)
	return s.Breaks
}

func init() {
	helpers["crew"] = helpCrew
	helpers["lease"] = helpLease
}

// helpCrew PATH DIR takes the lock again and again until its input ends, and checks
// that no living process holds it meanwhile. It prints how often.
func helpCrew(args []string) error {
	path, mark := args[0], filepath.Join(args[1], "mark")
	mine := filepath.Join(args[1], strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(mine, []byte(strconv.Itoa(os.Getpid())), 0o666); err != nil {
		return err
	}
	f, err := Open(path, &Options{Mechanism: Link})
	if err != nil {
		return err
	}
	var over atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		over.Store(true)
	}()
	n := 0
	for ; !over.Load(); n++ {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		l, err := f.Lock(ctx, "crew")
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			n--
			continue
		}
		if err != nil {
			return err
		}
		for os.Link(mine, mark) != nil {
			b, _ := os.ReadFile(mark)
			pid, _ := strconv.Atoi(string(b))
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if syscall.Kill(pid, 0) == nil && !strings.Contains(string(stat), ") Z ") { // a zombie is dead
				return fmt.Errorf("process %d holds the lock too", pid)
			}
			os.Remove(mark)
		}
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		os.Remove(mark)
		if err := l.Unlock(); err != nil {
			return err
		}
	}
	fmt.Println(n)
	return nil
}

// TestLinkKillCampaign kills holders and waiters at random moments.
func TestLinkKillCampaign(t *testing.T) {
	path, dir := lockPath(t), t.TempDir()
	spawn := func() *process { return start(t, nil, "crew", path, dir) }
	var ps []*process
	for range 40 {
		ps = append(ps, spawn())
	}
	kills, broken := 0, false
	for began := time.Now(); time.Since(began) < 2*time.Second || !broken && time.Since(began) < time.Minute; kills++ {
		if st, err := Inspect(path); err == nil {
			broken = len(st.Breaks) > 0
		}
		i := rand.IntN(len(ps))
		if h, ok, _ := recorded(path); ok && kills%2 == 0 { // the holder
			i = max(0, slices.IndexFunc(ps, func(p *process) bool { return p.cmd.Process.Pid == h.PID }))
		}
		ps[i].kill()
		ps[i] = spawn()
		time.Sleep(time.Millisecond)
	}
	for _, p := range ps {
		p.stdin.Close()
	}
	total := 0
	for _, p := range ps {
		n, _ := strconv.Atoi(p.line())
		total += n
		p.finish()
	}
	f := openLink(t, path)
	l := mustLock(t, f, "")
	breaks := linkBreaks(l.h)
	t.Logf("%d killed, %d acquisitions by those who lived to tell, the last %d breaks are on record", kills, total, len(breaks))
	if total == 0 || len(breaks) == 0 {
		t.Error("too little happened")
	}
	for _, b := range breaks {
		if b.Was.PID == 0 || b.By.PID == 0 || b.Why != "its process is dead" || time.Since(b.Time).Abs() > time.Minute {
			t.Errorf("break %+v", b)
		}
	}
	mustUnlock(t, l)
	for range keepNumbers + retireAtOnce {
		mustUnlock(t, mustLock(t, f, ""))
	}
	if ns, n := claimNames(t, path, ""), wholeTmp(t, path); len(ns) > keepNumbers+retireAtOnce+4 || n > 0 {
		out, _ := exec.Command("ls", "-la", path+claimsSuffix).Output()
		t.Errorf("%d numbers and %d temporary files are left\n%s", len(ns), n, out)
	}
	if n := len(claimNames(t, path, breakPrefix)); n > keepBreaks {
		t.Errorf("%d breaks are kept", n)
	}
}

// wholeTmp counts the temporary files that say whose they are. Others are left for longer.
func wholeTmp(t *testing.T, path string) (n int) {
	names, err := filepath.Glob(path + claimsSuffix + "/" + tmpPrefix + "*")
	for _, name := range names {
		if fi, err := os.Stat(name); err == nil && fi.Size() > 0 {
			n++
		}
	}
	if err != nil {
		t.Error(err)
	}
	return n
}

// abandonedBy leaves the lock held by a process that has died.
func abandonedBy(t *testing.T, path string) (pid int) {
	p := start(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, mechanismEnv+"=link") }, "hold", path, "dying")
	p.expect("locked")
	p.kill()
	return p.cmd.Process.Pid
}

// TestLinkBrokenByOne: of many who come upon a dead holder, one breaks him.
func TestLinkBrokenByOne(t *testing.T) {
	for range 5 {
		path := lockPath(t)
		pid := abandonedBy(t, path)
		var wg sync.WaitGroup
		var inside atomic.Int32
		for range 8 {
			f := openLink(t, path)
			wg.Go(func() {
				l := mustLock(t, f, "")
				if inside.Add(1) > 1 {
					t.Error("two holders")
				}
				time.Sleep(time.Millisecond)
				inside.Add(-1)
				mustUnlock(t, l)
			})
		}
		wg.Wait()
		l := mustLock(t, openLink(t, path), "")
		if b := linkBreaks(l.h); len(b) != 1 || b[0].Was.PID != pid || b[0].By.PID != os.Getpid() {
			t.Errorf("breaks %+v", b)
		}
		mustUnlock(t, l)
	}
}

// looker is a linker of its own, to make steps with.
func looker(t *testing.T, path string) *linker {
	h, _, err := openRead("test", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.close() })
	return h.locker.(*linker)
}

// TestLinkPausedBreaker: who judged, and links much later, does not break anybody else.
func TestLinkPausedBreaker(t *testing.T) {
	for _, changes := range []int{0, 1, 30} {
		path := lockPath(t)
		abandonedBy(t, path)
		slow := looker(t, path)
		st, err := slow.view()
		if err != nil || !st.held {
			t.Fatalf("%+v, %v", st, err)
		}
		why := slow.judge(&st)
		f := openLink(t, path)
		l := mustLock(t, f, "")
		for range changes { // with many, the number that he links to is retired
			mustUnlock(t, l)
			l = mustLock(t, f, "")
		}
		if _, ok, err := slow.breakState(&st, why); ok || err != nil {
			t.Errorf("after %d changes a state of the past was broken: %v, %v", changes, ok, err)
		}
		if err := linkerOf(l).check(); err != nil {
			t.Errorf("after %d changes the holder lost the lock: %v", changes, err)
		}
		if _, err := openLink(t, path).TryLock(""); !errors.Is(err, ErrLocked) {
			t.Errorf("two holders: %v", err)
		}
		// Nor does a slow one take it who saw it free.
		if ok, err := slow.claim(st.n + 2); ok || err != nil {
			t.Errorf("after %d changes the lock was taken in the past: %v, %v", changes, ok, err)
		}
		mustUnlock(t, l)
	}
}

// TestLinkReleasedWhileBroken: the one who is first has it, and the other knows.
func TestLinkReleasedWhileBroken(t *testing.T) {
	var broken int
	for range 30 {
		path := lockPath(t)
		l := mustLock(t, openLink(t, path), "")
		slow := looker(t, path)
		st, err := slow.view()
		if err != nil || !st.held {
			t.Fatal(err)
		}
		done := make(chan bool)
		go func() {
			_, ok, err := slow.breakState(&st, "a test")
			if err != nil {
				t.Error(err)
			}
			done <- ok
		}()
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		err = l.Unlock()
		if ok := <-done; ok != errors.Is(err, ErrLost) || !ok && err != nil {
			t.Errorf("Unlock: %v; the break: %v", err, ok)
		} else if ok {
			broken++
		}
		mustUnlock(t, mustLock(t, openLink(t, path), ""))
	}
	t.Logf("30 locks, of which %d were broken", broken)
}

// TestLinkLateRelease: a holder who has been broken is told so when he releases,
// whatever has happened since, and changes nothing. One who has released, and is only
// slow to see it, is not.
func TestLinkLateRelease(t *testing.T) {
	for _, changes := range []int{0, 1, 5, 13, 30} {
		path := lockPath(t)
		l := mustLock(t, openLink(t, path), "")
		slow := looker(t, path)
		st, err := slow.view()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok, err := slow.breakState(&st, "a test"); !ok || err != nil {
			t.Fatal(ok, err)
		}
		f := openLink(t, path)
		for range changes {
			mustUnlock(t, mustLock(t, f, ""))
		}
		next := mustLock(t, f, "")
		if changes == 30 {
			// Somebody slow has linked to the number that was ours.
			c := claim{kind: kindClaim, id: newClaimID(), number: st.n, holder: slow.record()}
			if err := slow.dir.create(numberName(st.n), c.encode()); err != nil {
				t.Fatal(err)
			}
			if err := releaseClaim(slow.dir, st.n, st.claim.id); !errors.Is(err, ErrLost) {
				t.Errorf("a release in the past: %v", err)
			}
		}
		if err := l.Unlock(); !errors.Is(err, ErrLost) {
			t.Errorf("after %d changes: %v", changes, err)
		}
		if err := linkerOf(next).check(); err != nil {
			t.Errorf("after %d changes the holder lost the lock: %v", changes, err)
		}
		mustUnlock(t, next)
	}
	path := lockPath(t)
	f := openLink(t, path)
	mustUnlock(t, mustLock(t, f, "")) // opens the directory, without faults
	var slow atomic.Bool
	withFaults(t, faultyDir{onLink: func(link func() error, _ string) error {
		err := link()
		if slow.Load() {
			for range 30 {
				mustUnlock(t, mustLock(t, f, ""))
			}
		}
		return err
	}})
	l := mustLock(t, openLink(t, path), "")
	slow.Store(true)
	mustUnlock(t, l)
}

// A faultyDir does and says what a test wants.
type faultyDir struct {
	claimDir
	onNames func(names func() ([]string, error)) ([]string, error)
	onLink  func(link func() error, to string) error
	onBump  func(bump func() error) error
}

func (d *faultyDir) names() ([]string, error) {
	if d.onNames != nil {
		return d.onNames(d.claimDir.names)
	}
	return d.claimDir.names()
}

func (d *faultyDir) link(from, to string) error {
	link := func() error { return d.claimDir.link(from, to) }
	if d.onLink != nil {
		return d.onLink(link, to)
	}
	return link()
}

func (d *faultyDir) bump(name string, id claimID, counter uint64) error {
	bump := func() error { return d.claimDir.bump(name, id, counter) }
	if d.onBump != nil {
		return d.onBump(bump)
	}
	return bump()
}

// withFaults is for the Files that are opened from now on.
func withFaults(t *testing.T, faults faultyDir) {
	old := openClaimsOf
	openClaimsOf = func(h *handle) (claimDir, error) {
		d, err := openClaims(h)
		if err != nil {
			return nil, err
		}
		f := faults
		f.claimDir = d
		return &f, nil
	}
	t.Cleanup(func() { openClaimsOf = old })
}

// TestLinkReplyLost: link is done and says that it is not.
func TestLinkReplyLost(t *testing.T) {
	for _, lie := range []error{syscall.EEXIST, syscall.EIO, syscall.ETIMEDOUT} {
		path := lockPath(t)
		withFaults(t, faultyDir{onLink: func(link func() error, _ string) error {
			_ = link()
			return lie
		}})
		f := openLink(t, path)
		for range 3 {
			l, err := f.TryLock("")
			if err != nil {
				t.Fatalf("%v: %v", lie, err)
			}
			mustUnlock(t, l)
		}
	}
}

// TestLinkFails: link is not done.
func TestLinkFails(t *testing.T) {
	path := lockPath(t)
	var fail atomic.Bool
	withFaults(t, faultyDir{onLink: func(link func() error, _ string) error {
		if fail.Load() {
			return syscall.EPERM
		}
		return link()
	}})
	f := openLink(t, path)
	fail.Store(true)
	if _, err := f.TryLock(""); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "hard links") {
		t.Errorf("no links: %v", err)
	}
	fail.Store(false)
	l := mustLock(t, f, "")
	fail.Store(true)
	if err := l.Unlock(); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("Unlock: %v", err)
	}
	// It is not released, as anybody can see, until the file system lets it.
	free := func() bool {
		st, err := looker(t, path).view()
		if err != nil {
			t.Fatal(err)
		}
		return !st.held
	}
	if free() {
		t.Error("it is free though the release failed")
	}
	fail.Store(false)
	eventually(t, "free", free)
	mustUnlock(t, mustLock(t, f, ""))
	if n := len(claimNames(t, path, tmpPrefix)); n > 0 {
		t.Errorf("%d temporary files are left", n)
	}
}

// TestLinkSlow: a file system that does not answer keeps nobody whose context ends.
func TestLinkSlow(t *testing.T) {
	path := lockPath(t)
	var stuck atomic.Bool
	asked, answer := make(chan bool, 1), make(chan bool)
	withFaults(t, faultyDir{onLink: func(link func() error, to string) error {
		if stuck.Load() {
			asked <- true
			<-answer
		}
		return link()
	}})
	f := openLink(t, path)
	mustUnlock(t, mustLock(t, f, "")) // so that there is a handle
	stuck.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := f.Lock(ctx, "")
			ended <- err
		}()
	}
	<-asked
	eventually(t, "waiting", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.waiters.Len() == 2
	})
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Lock: %v", err)
		}
	}
	stuck.Store(false)
	close(answer)
	mustUnlock(t, mustLock(t, f, ""))
}

// TestLinkUnread: a lock that was taken, but it could not be told, is not left behind,
// even if it could not be released at once.
func TestLinkUnread(t *testing.T) {
	for _, both := range []bool{true, false} {
		path := lockPath(t)
		var linked, failing atomic.Bool
		withFaults(t, faultyDir{
			onLink: func(link func() error, to string) error {
				if linked.Load() && both && failing.Load() {
					return syscall.EIO // the release fails too
				}
				linked.Store(true)
				return link()
			},
			onNames: func(names func() ([]string, error)) ([]string, error) {
				if linked.Load() && failing.Load() {
					return nil, syscall.EIO
				}
				return names()
			},
		})
		f := openLink(t, path)
		failing.Store(true)
		if _, err := f.TryLock(""); !errors.Is(err, syscall.EIO) {
			t.Errorf("TryLock: %v", err)
		}
		failing.Store(false)
		eventually(t, "free", func() bool {
			st, err := looker(t, path).view()
			if err != nil || st.n == 0 {
				t.Fatalf("number %d, %v", st.n, err)
			}
			return !st.held
		})
		l, err := f.TryLock("")
		if err != nil {
			t.Fatal(err)
		}
		mustUnlock(t, l)
	}
}

// TestLinkLate: a claim that a server makes when it has been given up is released by who comes
// upon it.
func TestLinkLate(t *testing.T) {
	path := lockPath(t)
	claims := path + claimsSuffix
	late := filepath.Join(claims, "late")
	var delayed atomic.Bool
	withFaults(t, faultyDir{onLink: func(link func() error, to string) error {
		err := link()
		if delayed.CompareAndSwap(true, false) {
			if err := os.Rename(filepath.Join(claims, to), late); err != nil {
				t.Error(err)
			}
			return syscall.EIO
		}
		return err
	}})
	f := openLink(t, path)
	mustUnlock(t, mustLock(t, f, ""))
	n := slices.Max(claimNames(t, path, "")) + 1
	delayed.Store(true)
	if _, err := f.TryLock(""); !errors.Is(err, syscall.EIO) {
		t.Fatalf("TryLock: %v", err)
	}
	if err := os.Rename(late, filepath.Join(claims, numberName(n))); err != nil {
		t.Fatal(err)
	}
	l, err := f.TryLock("")
	if err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
}

// TestLinkOtherMachine: a holder of whom nothing is known is not broken, but may be
// released by hand.
func TestLinkOtherMachine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it's the LOCK")
	f := openLink(t, path)
	mustUnlock(t, mustLock(t, f, ""))
	far := looker(t, path)
	far.record = func() []byte {
		return encodeHolder(Holder{PID: 1 << 22, Host: "far", Command: "recordctl", Since: time.Now()})
	}
	if _, err := far.take(); err != nil {
		t.Fatal(err)
	}
	held := far.held.Swap(nil) // its machine has gone
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var e *HeldError
	if _, err := f.Lock(ctx, ""); !errors.As(err, &e) || !e.Known || e.Holder.Host != "far" {
		t.Fatalf("Lock: %v", err)
	}
	_, err := BreakStale(t.Context(), path)
	if !errors.As(err, &e) || !errors.Is(err, ErrLocked) || e.Holder.Host != "far" || !strings.Contains(err.Error(), "cannot be told") {
		t.Fatalf("BreakStale: %v", err)
	}
	_, command, ok := strings.Cut(err.Error(), "release the lock for it: ")
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); !ok || err != nil {
		t.Fatalf("%q: %s, %v", command, out, err)
	}
	l := mustLock(t, f, "")
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err == nil {
		t.Errorf("%q broke the next holder: %s", command, out)
	}
	if err := held.look(); !errors.Is(err, ErrLost) {
		t.Errorf("the old holder: %v", err)
	}
	_, err = BreakStale(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), "it is alive") {
		t.Errorf("BreakStale: %v", err)
	}
	mustUnlock(t, l)
}

// TestLinkBreakKept: a break is on record though the breaker died before it could file
// it, and its number is retired.
func TestLinkBreakKept(t *testing.T) {
	path := lockPath(t)
	pid := abandonedBy(t, path)
	slow := looker(t, path)
	st, err := slow.view()
	if err != nil {
		t.Fatal(err)
	}
	c := claim{
		kind: kindBreak, id: newClaimID(), number: st.n + 1, holder: slow.record(),
		was: st.claim.holder, wasID: st.claim.id, why: "a test",
	}
	if err := slow.dir.create(numberName(c.number), c.encode()); err != nil {
		t.Fatal(err)
	}
	f := openLink(t, path)
	for range 30 {
		mustUnlock(t, mustLock(t, f, ""))
	}
	l := mustLock(t, f, "")
	if b := linkBreaks(l.h); len(b) != 1 || b[0].Was.PID != pid || b[0].Why != "a test" {
		t.Errorf("breaks %+v", b)
	}
	mustUnlock(t, l)
	if n := claimNames(t, path, "")[0]; n <= c.number {
		t.Errorf("number %d was not retired", n)
	}
}

func TestBreakStale(t *testing.T) {
	path := lockPath(t)
	pid := abandonedBy(t, path)
	b, err := BreakStale(t.Context(), path)
	if err != nil || b.Was.PID != pid || b.By.PID != os.Getpid() || b.Why != "its process is dead" {
		t.Errorf("%+v, %v", b, err)
	}
	if st, err := Inspect(path); err != nil || len(st.Breaks) != 1 || st.Breaks[0] != b {
		t.Errorf("recorded %+v, %v; returned %+v", st.Breaks, err, b)
	}
	if _, err := BreakStale(t.Context(), path); err == nil || !strings.Contains(err.Error(), "it is not locked") {
		t.Errorf("a free lock: %v", err)
	}
	l, err := openLink(t, path).TryLock("")
	if err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
	// A try breaks it too.
	abandonedBy(t, path)
	if l, err = openLink(t, path).TryLock(""); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)

	path = lockPath(t)
	l = mustLock(t, openWith(t, path, Options{}), "kernel")
	if _, err := BreakStale(t.Context(), path); !errors.Is(err, errors.ErrUnsupported) ||
		!strings.Contains(err.Error(), "never broken") || !strings.Contains(err.Error(), "for kernel") {
		t.Errorf("a kernel lock: %v", err)
	}
	mustUnlock(t, l)
	if _, err := BreakStale(t.Context(), lockPath(t)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// helpLease PATH LEASE takes a lock with a lease, says so, says when it is lost, and
// what Unlock says when the input ends.
func helpLease(args []string) error {
	d, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	f, err := Open(args[0], &Options{Mechanism: Link, Lease: d})
	if err != nil {
		return err
	}
	l, err := f.Lock(context.Background(), "lease")
	if err != nil {
		return err
	}
	lost := l.h.locker.(*linker).lost()
	fmt.Println("locked")
	input := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(input)
	}()
	select {
	case <-lost:
		fmt.Println("lost")
		<-input
	case <-input:
	}
	err = l.Unlock()
	if errors.Is(err, ErrLost) {
		fmt.Println("told")
		return nil
	}
	return err
}

// TestLinkSuspendedHolder suspends a real process.
func TestLinkSuspendedHolder(t *testing.T) {
	const lease = 1500 * time.Millisecond // a flush may take long
	path := lockPath(t)
	p := start(t, nil, "lease", path, lease.String())
	p.expect("locked")
	f := openLink(t, path) // which needs no lease itself
	ctx, cancel := context.WithTimeout(t.Context(), 3*lease/2)
	defer cancel()
	if _, err := f.Lock(ctx, ""); !errors.Is(err, ErrLocked) {
		t.Fatalf("a holder that is well is broken: %v", err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l := mustLock(t, f, "")
	if d := time.Since(began); d < lease/2 || d > 10*lease {
		t.Errorf("broken after %v", d)
	}
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.expect("lost")
	if err := linkerOf(l).check(); err != nil {
		t.Error(err)
	}
	p.stdin.Close()
	p.expect("told")
	p.finish()
	if err := linkerOf(l).check(); err != nil {
		t.Errorf("the old holder has released the lock: %v", err)
	}
	if h, ok, err := f.Holder(); err != nil || !ok || h.PID != os.Getpid() {
		t.Errorf("or its record: %v, %v, %v", h, ok, err)
	}
	if b := linkBreaks(l.h); len(b) != 1 || !strings.Contains(b[0].Why, "lease of "+lease.String()) {
		t.Errorf("breaks %+v", b)
	}
	mustUnlock(t, l)
}

// TestLeaseDead: proof of death breaks a lease at once.
func TestLeaseDead(t *testing.T) {
	path := lockPath(t)
	p := start(t, nil, "lease", path, "1h")
	p.expect("locked")
	p.kill()
	mustUnlock(t, mustLock(t, openLink(t, path), ""))
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestLeaseRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := lockPath(t)
		f := openWith(t, path, Options{Mechanism: Link, Lease: 30 * time.Second})
		l := mustLock(t, f, "")
		g := openLink(t, path)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		if _, err := g.Lock(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Lock: %v", err)
		}
		if err := linkerOf(l).check(); err != nil || isClosed(linkerOf(l).lost()) {
			t.Errorf("check: %v", err)
		}
		if linkerOf(l).held.Load().bumps.Load() < 10 {
			t.Error("it was not renewed")
		}
		mustUnlock(t, l)
		mustUnlock(t, mustLock(t, g, ""))
	})
}

// TestLeaseLost: a holder who cannot renew knows that it lost before a waiter breaks it,
// or if nobody waits.
func TestLeaseLost(t *testing.T) {
	const lease = 30 * time.Second
	for name, bump := range map[string]func(broken *atomic.Bool, bump func() error) error{
		"fails": func(_ *atomic.Bool, _ func() error) error { return syscall.EIO },
		"hangs": func(_ *atomic.Bool, _ func() error) error {
			time.Sleep(time.Hour)
			return nil
		},
		"comes late": func(broken *atomic.Bool, bump func() error) error {
			time.Sleep(45 * time.Second)
			return bump()
		},
	} {
		for _, waits := range []bool{true, false} {
			t.Run(fmt.Sprint(name, waits), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					path := lockPath(t)
					var broken atomic.Bool
					withFaults(t, faultyDir{onBump: func(b func() error) error { return bump(&broken, b) }})
					f := openWith(t, path, Options{Mechanism: Link, Lease: lease})
					l := mustLock(t, f, "")
					began := time.Now()
					lost := linkerOf(l).lost()
					var next *Lock
					if waits {
						locked, _ := lockLater(openLink(t, path), false)
						go func() {
							next = <-locked
							if !isClosed(lost) {
								t.Error("broken before the holder knew")
							}
							if d := time.Since(began); d < lease {
								t.Errorf("broken after %v", d)
							}
							broken.Store(true)
						}()
					}
					<-lost
					if d := time.Since(began); d > lease*2/3+time.Second || d < lease/3 {
						t.Errorf("the holder knew after %v", d)
					}
					if err := linkerOf(l).check(); !errors.Is(err, ErrLost) {
						t.Errorf("check: %v", err)
					}
					time.Sleep(4 * lease)
					if err := l.Unlock(); !errors.Is(err, ErrLost) {
						t.Errorf("Unlock: %v", err)
					}
					if waits != broken.Load() {
						t.Errorf("broken: %v, want %v", broken.Load(), waits)
					}
					if next != nil {
						mustUnlock(t, next)
					}
					time.Sleep(2 * time.Hour)
				})
			})
		}
	}
}

// TestLeaseRecovers: a holder who could not renew for a while, but not for too long.
func TestLeaseRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := lockPath(t)
		began := time.Now()
		withFaults(t, faultyDir{onBump: func(bump func() error) error {
			if time.Since(began)%time.Minute < 8*time.Second { // on and off
				return syscall.EIO
			}
			return bump()
		}})
		l := mustLock(t, openWith(t, path, Options{Mechanism: Link, Lease: 30 * time.Second}), "")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if _, err := openLink(t, path).Lock(ctx, ""); !errors.Is(err, ErrLocked) {
			t.Errorf("broken: %v", err)
		}
		mustUnlock(t, l)
	})
}

// TestLeaseBreakRace: many who have watched the same lease run out.
func TestLeaseBreakRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := lockPath(t)
		withFaults(t, faultyDir{onBump: func(func() error) error { return syscall.EIO }})
		l := mustLock(t, openWith(t, path, Options{Mechanism: Link, Lease: 10 * time.Second}), "")
		var inside atomic.Int32
		var wg sync.WaitGroup
		for i := range 6 {
			// Some with a lease, which they hold for less than that.
			f := openWith(t, path, Options{Mechanism: Link, Lease: time.Duration(i%2) * 10 * time.Second})
			wg.Go(func() {
				l := mustLock(t, f, "")
				if inside.Add(1) > 1 {
					t.Error("two holders")
				}
				time.Sleep(3 * time.Second)
				inside.Add(-1)
				mustUnlock(t, l)
			})
		}
		wg.Wait()
		if b := linkBreaks(l.h); len(b) != 1 {
			t.Errorf("breaks %+v", b)
		}
		if err := l.Unlock(); !errors.Is(err, ErrLost) {
			t.Errorf("Unlock: %v", err)
		}
	})
}

// TestLeaseWatched: BreakStale looks on for the whole lease.
func TestLeaseWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := lockPath(t)
		var fail atomic.Bool
		withFaults(t, faultyDir{onBump: func(bump func() error) error {
			if fail.Load() {
				return syscall.EIO
			}
			return bump()
		}})
		l := mustLock(t, openWith(t, path, Options{Mechanism: Link, Lease: time.Minute}), "")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		_, err := BreakStale(ctx, path)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrLocked) {
			t.Errorf("BreakStale: %v", err)
		}
		fail.Store(true)
		began := time.Now()
		b, err := BreakStale(t.Context(), path)
		if d := time.Since(began); err != nil || d < time.Minute || d > 2*time.Minute || b.Was.PID != os.Getpid() {
			t.Errorf("BreakStale: %+v, %v after %v", b, err, d)
		}
		if err := l.Unlock(); !errors.Is(err, ErrLost) {
			t.Errorf("Unlock: %v", err)
		}
	})
}

func TestLeaseTooShort(t *testing.T) {
	for _, d := range []time.Duration{-1, time.Millisecond} {
		f := openWith(t, lockPath(t), Options{Mechanism: Link, Lease: d})
		if _, err := f.TryLock(""); err == nil || !strings.Contains(err.Error(), "100ms is the least") {
			t.Errorf("%v: %v", d, err)
		}
	}
}

// TestLeaseLong: a lease of a life lasts.
func TestLeaseLong(t *testing.T) {
	l := mustLock(t, openWith(t, lockPath(t), Options{Mechanism: Link, Lease: 1<<63 - 1}), "")
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	mustUnlock(t, l)
}
