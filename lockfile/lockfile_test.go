package lockfile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The tests start this binary again as other processes, which do what helperEnv
// says, print a line when there is something to know, and end when their standard
// input does.
const helperEnv = "LOCKFILE_TEST_HELPER"

// testMechanism is what the general tests open lock files with, and what they tell
// their helpers by means of mechanismEnv.
var testMechanism Mechanism

const mechanismEnv = "LOCKFILE_TEST_MECHANISM"

func testOptions(path string) *Options {
	o := &Options{Mechanism: testMechanism}
	if testMechanism == TCP {
		o.Port = testPort(path)
	}
	return o
}

func TestMain(m *testing.M) {
	if name := os.Getenv(mechanismEnv); name != "" {
		var err error
		if testMechanism, err = ParseMechanism(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "helper %s %q: %v\n", name, os.Args[1:], err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")) // or each process ends with a second's sleep
	os.Exit(m.Run())
}

var helpers = map[string]func(args []string) error{
	"hold":   helpHold,
	"count":  helpCount,
	"hammer": helpHammer,
	"open":   helpOpen,
}

// helpHold PATH [PURPOSE] locks, says so, and holds the lock until its input ends.
func helpHold(args []string) error {
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		return err
	}
	l, err := f.Lock(context.Background(), strings.Join(args[1:], " "))
	if err != nil {
		return err
	}
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
	return l.Unlock()
}

// helpCount PATH COUNTER GOROUTINES TIMES counts with nothing but the lock to
// protect it.
func helpCount(args []string) error {
	goroutines, _ := strconv.Atoi(args[2])
	times, _ := strconv.Atoi(args[3])
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		return err
	}
	errs := make(chan error, goroutines)
	for range goroutines {
		go func() { errs <- count(f, args[1], times) }()
	}
	for range goroutines {
		err = errors.Join(err, <-errs)
	}
	return errors.Join(err, f.Close())
}

func count(f *File, counter string, times int) error {
	for i := range times {
		shared := i%8 == 7
		lock := f.Lock
		if shared {
			lock = f.RLock
		}
		l, err := lock(context.Background(), "counting")
		if err != nil {
			return err
		}
		b, err := os.ReadFile(counter)
		if err != nil {
			return err
		}
		// Two copies of the number, apart: a reader that overlaps with a
		// writer sees them differ.
		n, _ := strconv.Atoi(string(bytes.TrimSpace(b[:16])))
		m, _ := strconv.Atoi(string(bytes.TrimSpace(b[16:])))
		if n != m {
			return fmt.Errorf("overlap: counters %d and %d", n, m)
		}
		if !shared {
			if err := writeTwice(counter, n+1); err != nil {
				return err
			}
		}
		if err := l.Unlock(); err != nil {
			return err
		}
	}
	return nil
}

func writeTwice(counter string, n int) error {
	f, err := os.OpenFile(counter, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	s := fmt.Sprintf("%16d", n)
	if _, err := f.WriteAt([]byte(s), 0); err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(s), 16)
	return err
}

// helpHammer PATH MARK HOLD takes the lock as often as it can until its input
// ends, holding it for the duration HOLD, and checks that nobody else did so
// meanwhile. It prints how often, and the longest wait.
func helpHammer(args []string) error {
	hold, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		return err
	}
	mark, err := os.OpenFile(args[1], os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	stdin := bufio.NewReader(os.Stdin)
	if _, err := stdin.ReadString('\n'); err != nil { // the start
		return err
	}
	var over atomic.Bool
	go func() {
		io.Copy(io.Discard, stdin)
		over.Store(true)
	}()
	var n int
	var worst time.Duration
	for !over.Load() {
		began := time.Now()
		l, err := f.Lock(context.Background(), "hammering")
		if err != nil {
			return err
		}
		worst = max(worst, time.Since(began))
		me := make([]byte, 16)
		binary.LittleEndian.PutUint64(me, uint64(os.Getpid()))
		binary.LittleEndian.PutUint64(me[8:], uint64(n))
		if _, err := mark.WriteAt(me, 0); err != nil {
			return err
		}
		time.Sleep(hold)
		got := make([]byte, 16)
		if _, err := mark.ReadAt(got, 0); err != nil {
			return err
		}
		if !bytes.Equal(got, me) {
			return fmt.Errorf("overlap: wrote %x and read %x", me, got)
		}
		if err := l.Unlock(); err != nil {
			return err
		}
		n++
	}
	fmt.Println(n, worst.Microseconds())
	return nil
}

// helpOpen PATH opens, locks, unlocks and closes.
func helpOpen(args []string) error {
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		fmt.Println(err)
		return nil
	}
	l, err := f.Lock(context.Background(), "")
	if err != nil {
		return err
	}
	fmt.Println("locked")
	return errors.Join(l.Unlock(), f.Close())
}

type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	ended bool
}

func start(t testing.TB, prepare func(*exec.Cmd), name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name, mechanismEnv+"="+testMechanism.String())
	cmd.Stderr = os.Stderr
	if prepare != nil {
		prepare(cmd)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(p.kill)
	return p
}

// line waits for the process to print a line.
func (p *process) line() string {
	p.t.Helper()
	s, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("process %d: %v after %q", p.cmd.Process.Pid, err, s)
	}
	return strings.TrimSpace(s)
}

func (p *process) expect(want string) {
	p.t.Helper()
	if got := p.line(); got != want {
		p.t.Fatalf("process %d printed %q, want %q", p.cmd.Process.Pid, got, want)
	}
}

// finish ends the input and waits for the process, which must succeed.
func (p *process) finish() {
	p.t.Helper()
	p.stdin.Close()
	p.ended = true
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("process %d: %v", p.cmd.Process.Pid, err)
	}
}

// kill is kill -9. The process is gone when it returns.
func (p *process) kill() {
	if !p.ended {
		p.ended = true
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
}

func mustOpen(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path, testOptions(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func mustLock(t testing.TB, f *File, purpose string) *Lock {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := f.Lock(ctx, purpose)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustRLock(t testing.TB, f *File) *Lock {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := f.RLock(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustUnlock(t testing.TB, l *Lock) {
	t.Helper()
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
}

// lockLater takes the lock in another goroutine.
func lockLater(f *File, shared bool) (locked <-chan *Lock, cancel func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan *Lock, 1)
	go func() {
		lock := f.Lock
		if shared {
			lock = f.RLock
		}
		if l, err := lock(ctx, "later"); err == nil {
			c <- l
		}
		close(c)
	}()
	return c, cancel
}

func receive(t testing.TB, locked <-chan *Lock) *Lock {
	t.Helper()
	select {
	case l := <-locked:
		if l == nil {
			t.Fatal("no lock")
		}
		return l
	case <-time.After(time.Minute):
		t.Fatal("no lock after a minute")
		return nil
	}
}

// eventually waits for a condition that comes true by itself.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute still not: %s", what)
		}
	}
}

// waiting reports whether f has n waiters, and the acquirer that the first of them
// needs is about to block in the kernel, or does.
func waiting(f *File, n int) func() bool {
	return func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		front := f.frontLocked()
		if front == nil || f.waiters.Len() != n {
			return false
		}
		if front.shared {
			return f.sharing.parked != nil
		}
		return f.exclusively.parked != nil
	}
}

// recorded returns the holder that Inspect tells of.
func recorded(path string) (Holder, bool, error) {
	s, err := Inspect(path)
	return s.Holder, s.Known, err
}

func lockPath(t testing.TB) string { return filepath.Join(t.TempDir(), "LOCK") }

func TestMutualExclusion(t *testing.T) {
	const processes, goroutines, times = 20, 4, 40
	path := lockPath(t)
	counter := filepath.Join(t.TempDir(), "counter")
	if err := writeTwice(counter, 0); err != nil {
		t.Fatal(err)
	}
	var ps []*process
	for range processes {
		ps = append(ps, start(t, nil, "count", path, counter, strconv.Itoa(goroutines), strconv.Itoa(times)))
	}
	// Two Files in this process, and goroutines on each.
	var wg sync.WaitGroup
	for range 2 {
		f := mustOpen(t, path)
		for range goroutines {
			wg.Go(func() {
				if err := count(f, counter, times); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, p := range ps {
		p.finish()
	}
	b, err := os.ReadFile(counter)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := strconv.Atoi(string(bytes.TrimSpace(b[:16])))
	if want := (processes + 2) * goroutines * times * 7 / 8; got != want {
		t.Errorf("counted %d, want %d", got, want)
	}
}

// TestRace is for the race detector: the lock protects a plain variable, whichever File it
// is taken with. There is no record of the holder, as writing and reading that would bring
// the goroutines in an order.
func TestRace(t *testing.T) {
	path := lockPath(t)
	opts := Options{Mechanism: testMechanism, NoRecord: true}
	files := []*File{openWith(t, path, opts), openWith(t, path, opts)}
	var n int
	var wg sync.WaitGroup
	for g := range 8 {
		f := files[g/4]
		wg.Go(func() {
			for i := range 200 {
				switch {
				case (g+i)%4 == 0:
					l := mustRLock(t, f)
					_ = n
					mustUnlock(t, l)
				case (g+i)%4 == 1:
					if l, err := f.TryLock(""); err == nil {
						n++
						n--
						mustUnlock(t, l)
					}
				default:
					l := mustLock(t, f, "")
					n++
					mustUnlock(t, l)
				}
			}
		})
	}
	wg.Wait()
	if n != 8*200/2 {
		t.Errorf("counted %d, want %d", n, 8*200/2)
	}
}

func TestHolderKilled(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	p := start(t, nil, "hold", path, "dying")
	p.expect("locked")

	locked, _ := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	select {
	case <-locked:
		t.Fatal("two holders")
	default:
	}
	p.kill()
	l := receive(t, locked)
	if h, ok, err := f.Holder(); err != nil || !ok || h.PID != os.Getpid() {
		t.Errorf("Holder() = %v, %v, %v; want this process", h, ok, err)
	}
	mustUnlock(t, l)
}

func TestWaitersKilled(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	l := mustLock(t, f, "")
	var ps []*process
	for range 9 {
		ps = append(ps, start(t, nil, "hold", path))
	}
	if queueLength != nil && testMechanism == Auto {
		eventually(t, "nine in the queue", func() bool { return queueLength(t, path) == 9 })
	}
	for i, p := range ps {
		if i%3 != 0 {
			p.kill()
		}
	}
	mustUnlock(t, l)
	// They come in any order, and each must end for the next to come.
	done := make(chan struct{})
	for i, p := range ps {
		if i%3 == 0 {
			go func() {
				p.out.ReadString('\n')
				p.stdin.Close()
				done <- struct{}{}
			}()
		}
	}
	for range 3 {
		<-done
	}
	for i, p := range ps {
		if i%3 == 0 {
			p.finish()
		}
	}
	mustUnlock(t, mustLock(t, f, ""))
}

// TestKillCampaign kills holders and waiters at random moments. Those who remain
// check that nobody overlaps with them.
func TestKillCampaign(t *testing.T) {
	path := lockPath(t)
	mark := filepath.Join(t.TempDir(), "mark")
	spawn := func() *process {
		p := start(t, nil, "hammer", path, mark, "100us")
		p.expect("ready")
		io.WriteString(p.stdin, "go\n")
		return p
	}
	var ps []*process
	for range 10 {
		ps = append(ps, spawn())
	}
	for i := range 60 {
		if i%5 == 0 {
			os.Truncate(path, int64(i%3)*8) // the counter, and even the header
		}
		ps[i%10].kill()
		ps[i%10] = spawn()
	}
	total := 0
	for _, p := range ps {
		p.stdin.Close()
		var n, worst int
		fmt.Sscan(p.line(), &n, &worst)
		total += n
		p.finish()
	}
	t.Logf("%d acquisitions by those who lived to tell", total)
	mustUnlock(t, mustLock(t, mustOpen(t, path), ""))
}

func TestDeadlineNamesHolder(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	p := start(t, nil, "hold", path, "nightly", "build")
	p.expect("locked")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := f.Lock(ctx, "")
	var held *HeldError
	if !errors.As(err, &held) || !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v; want a HeldError for a deadline", err)
	}
	host, _ := os.Hostname()
	if !held.Known || held.Holder.PID != p.cmd.Process.Pid || held.Holder.Host != host || held.Holder.Purpose != "nightly build" ||
		time.Since(held.Holder.Since) > time.Minute {
		t.Errorf("holder %+v", held.Holder)
	}
	want := fmt.Sprintf("lock %s is held by pid %d (%s) on %s since ", path, p.cmd.Process.Pid, filepath.Base(os.Args[0]), host)
	if !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), ", for nightly build: context deadline exceeded") {
		t.Errorf("error %q", err)
	}
	p.finish()
	mustUnlock(t, mustLock(t, f, ""))
}

func TestEndedContext(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, lock := range []func(context.Context, string) (*Lock, error){f.Lock, f.RLock} {
		if _, err := lock(ctx, ""); !errors.Is(err, context.Canceled) || errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "did not wait") {
			t.Errorf("a free lock: %v", err)
		}
		l := mustLock(t, mustOpen(t, path), "work")
		var held *HeldError
		if _, err := lock(ctx, ""); !errors.Is(err, context.Canceled) || !errors.As(err, &held) || held.Holder.Purpose != "work" {
			t.Errorf("a lock that is held: %v", err)
		}
		mustUnlock(t, l)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lock(ctx, ""); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a closed File: %v", err)
	}
}

// TestHeldErrorText: it does not say more than is known.
func TestHeldErrorText(t *testing.T) {
	now := time.Now()
	holder := Holder{PID: 123, Host: "host", Command: "recordctl", Since: now}
	for _, tt := range []struct {
		err  *HeldError
		want string
	}{
		{&HeldError{Path: "LOCK"}, "lock LOCK was not available"},
		{&HeldError{Path: "LOCK", Err: context.Canceled}, "lock LOCK was not available: context canceled"},
		{
			&HeldError{Path: "LOCK", Known: true, Holder: holder, Err: context.Canceled},
			"lock LOCK is held by " + holder.String() + ": context canceled",
		},
	} {
		if got := tt.err.Error(); got != tt.want || !errors.Is(tt.err, ErrLocked) {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestTry(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	for _, other := range []*File{f, g} {
		l, err := f.TryLock("trying")
		if err != nil {
			t.Fatal(err)
		}
		for _, try := range []func(string) (*Lock, error){other.TryLock, other.TryRLock} {
			_, err = try("")
			var held *HeldError
			if !errors.As(err, &held) || !held.Known || held.Holder.Purpose != "trying" || held.Err != nil {
				t.Errorf("try while held: %v", err)
			}
		}
		mustUnlock(t, l)
		r, err := f.TryRLock("")
		if err != nil {
			t.Fatal(err)
		}
		r2, err := other.TryRLock("")
		if err != nil {
			t.Fatal(err)
		}
		var held *HeldError
		if _, err := other.TryLock(""); !errors.As(err, &held) || held.Known {
			t.Errorf("try while shared: %v", err)
		}
		mustUnlock(t, r)
		if _, err := other.TryLock(""); !errors.Is(err, ErrLocked) {
			t.Errorf("try while still shared: %v", err)
		}
		mustUnlock(t, r2)
	}
	l, err := g.TryLock("")
	if err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
}

// TestTryAfterAbandonedWait finds the lock free though the kernel still has
// someone waiting for it. Who gets it and does not want it gives it back at once, but
// may be kept from that by others who compute: a try that has looked on for settleTime
// is made again.
func TestTryAfterAbandonedWait(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	for range 200 {
		l := mustLock(t, g, "")
		locked, cancel := lockLater(f, false)
		eventually(t, "waiting", waiting(f, 1))
		cancel()
		<-locked
		mustUnlock(t, l)
		for _, file := range []*File{f, g} {
			eventually(t, "locked", func() bool {
				began := time.Now()
				l, err := file.TryLock("")
				if errors.Is(err, ErrLocked) && time.Since(began) > settleTime {
					return false
				}
				if err != nil {
					t.Fatal(err)
				}
				mustUnlock(t, l)
				return true
			})
		}
	}
}

func TestShared(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	r1, r2, r3 := mustRLock(t, f), mustRLock(t, f), mustRLock(t, g)
	locked, _ := lockLater(g, false)
	eventually(t, "waiting", waiting(g, 1))
	for _, r := range []*Lock{r2, r1} {
		mustUnlock(t, r)
		if len(locked) > 0 {
			t.Fatal("locked exclusively while shared")
		}
	}
	mustUnlock(t, r3)
	l := receive(t, locked)
	// Readers who come now are let in together.
	var readers []<-chan *Lock
	for i := range 6 {
		r, _ := lockLater([]*File{f, g}[i%2], true)
		readers = append(readers, r)
	}
	eventually(t, "waiting", waiting(f, 3))
	eventually(t, "waiting", waiting(g, 3))
	mustUnlock(t, l)
	var rs []*Lock
	for _, r := range readers {
		rs = append(rs, receive(t, r))
	}
	for _, r := range rs {
		mustUnlock(t, r)
	}
	mustUnlock(t, mustLock(t, f, ""))
}

// TestWaitOrder: the waiters of one File are served in order.
func TestWaitOrder(t *testing.T) {
	f := mustOpen(t, lockPath(t))
	l := mustLock(t, f, "")
	var waits []<-chan *Lock
	for i := range 10 {
		c, _ := lockLater(f, false)
		waits = append(waits, c)
		eventually(t, "waiting", waiting(f, i+1))
	}
	for _, c := range waits {
		mustUnlock(t, l)
		l = receive(t, c)
	}
	mustUnlock(t, l)
}

// TestAbandonedWriter: a writer who has given up does not keep readers out, in
// whatever process.
func TestAbandonedWriter(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	r := mustRLock(t, g)
	locked, cancel := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	cancel()
	if <-locked != nil {
		t.Fatal("locked exclusively while shared")
	}
	for _, file := range []*File{g, f} {
		mustUnlock(t, mustRLock(t, file))
		r, err := file.TryRLock("")
		if err != nil {
			t.Fatal(err)
		}
		mustUnlock(t, r)
	}
	mustUnlock(t, r)
	mustUnlock(t, mustLock(t, g, ""))
	mustUnlock(t, mustLock(t, f, ""))
}

// TestReadersBehindAbandonedWriter: readers who waited behind him go on.
func TestReadersBehindAbandonedWriter(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	r := mustRLock(t, g)
	locked, cancel := lockLater(f, false)
	eventually(t, "a writer waiting", waiting(f, 1))
	r1, _ := lockLater(f, true)
	eventually(t, "a reader behind him", waiting(f, 2))
	r2, _ := lockLater(f, true)
	eventually(t, "another", waiting(f, 3))
	w, _ := lockLater(f, false)
	eventually(t, "another writer behind them", waiting(f, 4))
	cancel()
	<-locked
	mustUnlock(t, receive(t, r1))
	mustUnlock(t, receive(t, r2))
	if len(w) > 0 {
		t.Fatal("locked exclusively while shared")
	}
	mustUnlock(t, r)
	mustUnlock(t, receive(t, w))
}

// TestOtherKind: the acquirer comes with a lock of the kind that the first waiter
// wanted, who has given up, and the next wants the other.
func TestOtherKind(t *testing.T) {
	for _, shared := range []bool{false, true} {
		path := lockPath(t)
		f, g := mustOpen(t, path), mustOpen(t, path)
		l := mustLock(t, g, "")
		first, cancel := lockLater(f, !shared)
		eventually(t, "waiting", waiting(f, 1))
		second, _ := lockLater(f, shared)
		eventually(t, "waiting", waiting(f, 2))
		cancel()
		<-first
		mustUnlock(t, l)
		l = receive(t, second)
		r, err := g.TryRLock("")
		if (err == nil) != shared {
			t.Errorf("another shared lock: %v; the first is shared: %v", err, shared)
		}
		if r != nil {
			mustUnlock(t, r)
		}
		mustUnlock(t, l)
	}
}

// TestManyWaitsTwoThreads lets ten thousand waits come and go, of both kinds.
func TestManyWaitsTwoThreads(t *testing.T) { testManyWaits(t, 1000, true) }

// testManyWaits lets ten times n waits come and go, half of them shared if any may be.
func testManyWaits(t *testing.T, n int, shared bool) {
	path := lockPath(t)
	f := mustOpen(t, path)
	p := start(t, nil, "hold", path)
	p.expect("locked")
	before := threads(t)
	for range 10 {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
				defer cancel()
				lock := f.Lock
				if shared && i%2 == 1 {
					lock = f.RLock
				}
				if l, err := lock(ctx, ""); err == nil {
					t.Error("two holders")
					l.Unlock()
				}
			})
		}
		wg.Wait()
	}
	// One or two are blocked; a few more are the scheduler's, which makes threads when
	// system calls take long.
	if after := threads(t); after > before+10 {
		t.Errorf("%d threads before, %d after", before, after)
	}
	p.finish()
	mustUnlock(t, mustLock(t, f, ""))
}

// notStarved has w take the lock among so many readers, a goroutine each, that there is
// hardly a moment without.
func notStarved(t *testing.T, w *File, readers []*File) {
	var over atomic.Bool
	var reading atomic.Int32
	var wg sync.WaitGroup
	for _, f := range readers {
		wg.Go(func() {
			for !over.Load() {
				l := mustRLock(t, f)
				reading.Add(1)
				time.Sleep(time.Millisecond)
				mustUnlock(t, l)
			}
		})
	}
	eventually(t, "many readers", func() bool { return reading.Load() > 100 })
	began := time.Now()
	for range 30 {
		mustUnlock(t, mustLock(t, w, ""))
	}
	t.Logf("a writer waits %v for readers who hold the lock for 1ms", time.Since(began)/30)
	over.Store(true)
	wg.Wait()
}

func threads(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0 // no way to count
	}
	_, s, _ := strings.Cut(string(b), "\nThreads:")
	s, _, _ = strings.Cut(s, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestUnlockOnce(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	l := mustLock(t, f, "")
	var ok atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			err := l.Unlock()
			switch {
			case err == nil:
				ok.Add(1)
			case !errors.Is(err, ErrReleased):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 1 {
		t.Errorf("released %d times", ok.Load())
	}
	l2 := mustLock(t, f, "")
	if err := l.Unlock(); !errors.Is(err, ErrReleased) {
		t.Error(err)
	}
	if _, err := f.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("an old Lock released a new one: %v", err)
	}
	for what, err := range map[string]error{
		"Check":     l.Check(),
		"WriteData": l.WriteData(nil),
		"ReadData":  func() error { _, err := l.ReadData(); return err }(),
		"Stat":      func() error { _, err := l.Stat(); return err }(),
	} {
		if !errors.Is(err, ErrReleased) {
			t.Errorf("%s after Unlock: %v", what, err)
		}
	}
	mustUnlock(t, l2)
}

func TestReplaced(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"deleted": os.Remove,
		"replaced": func(path string) error {
			if err := os.WriteFile(path+".new", nil, 0o666); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := lockPath(t)
			f, g := mustOpen(t, path), mustOpen(t, path)
			l := mustLock(t, f, "")
			if err := l.Check(); err != nil {
				t.Fatal(err)
			}
			waiter, _ := lockLater(g, false)
			eventually(t, "waiting", waiting(g, 1))
			if err := replace(path); err != nil {
				t.Fatal(err)
			}
			if err := l.Check(); !errors.Is(err, ErrReplaced) {
				t.Errorf("Check() = %v; want ErrReplaced", err)
			}
			mustUnlock(t, l)
			l = receive(t, waiter)
			if err := l.Check(); err != nil {
				t.Errorf("the waiter has locked the wrong file: %v", err)
			}
			// f still has the old file open. It must not be content with it.
			for _, file := range []*File{f, mustOpen(t, path)} {
				if _, err := file.TryLock(""); !errors.Is(err, ErrLocked) {
					t.Errorf("two holders: %v", err)
				}
			}
			mustUnlock(t, l)
			mustUnlock(t, mustLock(t, f, ""))
		})
	}
}

// TestReplacedWhileHeld: who has locked the old file is not in the way of a File
// that opened it too, but has not waited for it.
func TestReplacedWhileHeld(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	old := mustLock(t, mustOpen(t, path), "old")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l, err := f.TryLock("new")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Check(); err != nil {
		t.Errorf("locked the old file: %v", err)
	}
	waiter, _ := lockLater(g, true)
	eventually(t, "waiting", waiting(g, 1))
	mustUnlock(t, l)
	r := receive(t, waiter)
	if err := r.Check(); err != nil {
		t.Errorf("waited for the old file: %v", err)
	}
	mustUnlock(t, r)
	mustUnlock(t, old)
}

func TestReplacedShared(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	old := mustRLock(t, f)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r := mustRLock(t, f)
	if err := r.Check(); err != nil {
		t.Errorf("a reader joined the lock on a file that is gone: %v", err)
	}
	mustUnlock(t, old)
	if _, err := mustOpen(t, path).TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("try while shared: %v", err)
	}
	mustUnlock(t, r)
}

func TestDirectoryGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, filepath.Join(dir, "LOCK"))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lock(t.Context(), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lock: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was made anew")
	}
}

func TestOpenRefuses(t *testing.T) {
	text := []byte("results of 12 May\n")
	damaged := encodeHeader(defaultMechanism)
	damaged[10] ^= 0x40
	newer := encodeHeader(defaultMechanism)
	newer[8]++
	reseal(newer)
	other := encodeHeader(99)
	for name, tt := range map[string]struct {
		contents []byte
		want     error
	}{
		"text":            {text, ErrNotLockFile},
		"long text":       {bytes.Repeat(text, 1000), ErrNotLockFile},
		"text after zero": {append(make([]byte, 700), text...), ErrNotLockFile},
		"long zeros":      {make([]byte, fileSize+1), ErrNotLockFile},
		"damaged header":  {damaged, ErrNotLockFile},
		"newer version":   {newer, ErrIncompatible},
		"other mechanism": {other, ErrIncompatible},
	} {
		t.Run(name, func(t *testing.T) {
			path := lockPath(t)
			if err := os.WriteFile(path, tt.contents, 0o666); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path, testOptions(path)); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Open: %v; want %v", err, tt.want)
			}
			if _, err := Inspect(path); !errors.Is(err, tt.want) {
				t.Errorf("Inspect: %v; want %v", err, tt.want)
			}
			if _, err := ReadData(path); !errors.Is(err, tt.want) {
				t.Errorf("ReadData: %v; want %v", err, tt.want)
			}
			if got, _ := os.ReadFile(path); !bytes.Equal(got, tt.contents) {
				t.Error("the contents have changed")
			}
		})
	}
}

// TestAdopts: what may be left of a lock file by those who truncate it, or by a
// loss of power, becomes a lock file again.
func TestAdopts(t *testing.T) {
	used := lockPath(t)
	f := mustOpen(t, used)
	l := mustLock(t, f, "purpose")
	if err := l.WriteData([]byte("data")); err != nil {
		t.Fatal(err)
	}
	full, err := l.h.contents() // os.ReadFile would release a POSIX lock
	if err != nil {
		t.Fatal(err)
	}
	headless := append(make([]byte, headerSize), full[headerSize:]...)
	headless[ticketOffset] = 9
	beheaded := headless[:headerSize+100] // cut off twice, and written to between
	mustUnlock(t, l)
	free, err := os.ReadFile(used)
	if err != nil {
		t.Fatal(err)
	}
	clear(free[4:headerSize])
	for name, contents := range map[string][]byte{
		"empty":        {},
		"zeros":        make([]byte, fileSize),
		"half a magic": full[:4],
		"half header":  full[:13],
		"only header":  full[:headerSize],
		"half record":  full[:100],
		"headless":     headless,
		"beheaded":     beheaded,
		"half, free":   free,
	} {
		t.Run(name, func(t *testing.T) {
			path := lockPath(t)
			if headerPort(contents) != 0 {
				contents = bytes.Clone(contents)
				putPort(contents, testPort(path))
			}
			if err := os.WriteFile(path, contents, 0o666); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				f := mustOpen(t, path)
				if _, ok, err := f.Holder(); ok || err != nil {
					t.Errorf("Holder: %v, %v", ok, err)
				}
				l := mustLock(t, f, "")
				if h, ok, err := recorded(path); !ok || err != nil || h.PID != os.Getpid() {
					t.Errorf("Inspect: %v, %v, %v", h, ok, err)
				}
				mustUnlock(t, l)
			}
		})
	}
}

// TestAdoptsCutOff cuts a lock file off twice, with every write of this package in between
// and after that. The stress of locks met one that was taken for a stranger's: its header
// and half of its record were gone, and the counter of the queue had been written since.
func TestAdoptsCutOff(t *testing.T) {
	holder := encodeHolder(Holder{PID: 1, Host: "host", Command: "command", Purpose: strings.Repeat("p", 256), UID: 1, Start: 1})
	data := encodeData(bytes.Repeat([]byte("d"), MaxData))
	type write struct {
		name string
		off  int
		b    []byte
	}
	writes := []write{
		{"nothing", 0, nil},
		{"header", 0, encodeHeader(OFD)},
		{"record", holderOffset, holder},
		{"no record", holderOffset, noHolder[:]},
		{"ticket", ticketOffset, []byte{9, 8, 7, 6, 5, 4, 3, 2}},
		{"data", dataOffset, data},
	}
	apply := func(b []byte, w write) []byte {
		if end := w.off + len(w.b); len(b) < end && len(w.b) > 0 {
			b = append(b, make([]byte, end-len(b))...)
		}
		copy(b[min(w.off, len(b)):], w.b)
		return b
	}
	var full []byte
	for _, w := range writes[1:] {
		full = apply(full, w)
	}
	full = apply(full, writes[2])
	var cuts []int // near where something begins or ends, and some between
	for n := range len(full) {
		near := func(off int) bool { return n >= off-1 && n <= off+17 }
		if n%37 == 0 || near(0) || near(headerSize) || near(ticketOffset) || near(dataOffset) {
			cuts = append(cuts, n)
		}
	}
	for _, first := range cuts {
		for _, w := range writes {
			once := apply(bytes.Clone(full[:first]), w)
			for _, second := range cuts {
				if second > len(once) {
					break
				}
				for _, w2 := range writes {
					b := apply(bytes.Clone(once[:second]), w2)
					if _, err := checkHeader(b); err != nil {
						t.Fatalf("cut off at %d, %s written, cut off at %d, %s written: %v", first, w.name, second, w2.name, err)
					}
				}
			}
		}
	}
}

func reseal(header []byte) { le.PutUint32(header[headerSum:], sum(header[:headerSum])) }

func TestOpenKinds(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	dangling := filepath.Join(dir, "dangling")
	if err := errors.Join(os.Symlink(target, link), os.Symlink(dir+"/nothing", dangling)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{link: "symbolic link", dangling: "symbolic link", dir: "directory", os.DevNull: "regular"} {
		if _, err := Open(path, testOptions(path)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%s): %v; want %q", path, err, want)
		}
		if _, err := Inspect(path); err == nil {
			t.Errorf("Inspect(%s) succeeded", path)
		}
	}
	missing := filepath.Join(dir, "missing")
	if _, err := Open(missing, &Options{NoCreate: true, Mechanism: testMechanism, Port: testPort(missing)}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("NoCreate: %v", err)
	}
	if _, err := Inspect(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Inspect: %v", err)
	}
	if _, err := ReadData(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadData: %v", err)
	}
	if _, err := Open(filepath.Join(missing, "LOCK"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("created what it should not have")
	}
	f, err := Open(missing, &Options{Mode: 0o600, Mechanism: testMechanism, Port: testPort(missing)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := mustLock(t, f, "")
	if fi, err := l.Stat(); err != nil || fi.Mode() != 0o600 || fi.Sys() == nil {
		t.Errorf("Stat: %v, %v", fi, err)
	}
	mustUnlock(t, l)
}

func TestClose(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	l := mustLock(t, g, "")
	ctx := t.Context()
	errs := make(chan error)
	for range 3 {
		go func() { _, err := f.Lock(ctx, ""); errs <- err }()
	}
	eventually(t, "waiting", waiting(f, 3))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := <-errs; !errors.Is(err, fs.ErrClosed) {
			t.Errorf("waiter: %v", err)
		}
	}
	_, lockErr := f.Lock(ctx, "")
	_, tryErr := f.TryRLock("")
	_, readErr := f.ReadData()
	_, _, holderErr := f.Holder()
	for what, err := range map[string]error{
		"Lock": lockErr, "TryRLock": tryErr, "ReadData": readErr, "Holder": holderErr, "Close": f.Close(),
	} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	// A lock outlives the File it came from.
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	h := mustOpen(t, path)
	if _, err := h.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("Close has released a lock: %v", err)
	}
	if err := errors.Join(l.Check(), l.WriteData([]byte("x"))); err != nil {
		t.Error(err)
	}
	mustUnlock(t, l)
	mustUnlock(t, mustLock(t, h, ""))
	eventually(t, "the acquirers gone", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.exclusively.running && !f.sharing.running && len(f.spare) == 0
	})
}

// descriptors counts those that are open.
func descriptors(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("no way to count descriptors")
	}
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

func TestNoDescriptorLeft(t *testing.T) {
	before := descriptors(t)
	path := lockPath(t)
	f := mustOpen(t, path)
	var rs []*Lock
	for range 10 {
		rs = append(rs, mustRLock(t, f))
	}
	if n := descriptors(t) - before; n > 2 {
		t.Errorf("ten shared locks take %d descriptors", n)
	}
	os.Remove(path)
	for range 3 {
		rs = append(rs, mustRLock(t, f))
	}
	if _, err := f.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	for _, r := range rs {
		mustUnlock(t, r)
	}
	mustUnlock(t, mustLock(t, f, ""))
	f.Holder()
	f.Close()
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors before, %d after", before, n)
	}
}

func TestHolder(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	check := func(want bool) {
		t.Helper()
		for _, holder := range []func() (Holder, bool, error){f.Holder, func() (Holder, bool, error) { return recorded(path) }} {
			h, ok, err := holder()
			if err != nil || ok != want || (ok && h.PID != os.Getpid()) {
				t.Errorf("holder %v, %v, %v; want %v", h, ok, err, want)
			}
		}
	}
	check(false)
	long := strings.Repeat("\u00e4", 200)
	l := mustLock(t, f, "a\x1b[31m"+long)
	check(true)
	h, _, _ := f.Holder()
	if want := "a\ufffd[31m" + long[:250]; h.Purpose != want {
		t.Errorf("purpose %q, want %q", h.Purpose, want)
	}
	mustUnlock(t, l)
	check(false)
	r := mustRLock(t, f)
	check(false)
	mustUnlock(t, r)
	now := time.Date(2020, 5, 12, 12, 3, 4, 0, time.Local)
	h = Holder{PID: 123, Host: "host", Command: "recordctl", Purpose: "deploy", Since: now}
	if got, want := h.String(), "pid 123 (recordctl) on host since 2020-05-12 12:03:04, for deploy"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

func TestData(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	var l *Lock
	read := func(want []byte) {
		t.Helper()
		reads := []func() ([]byte, error){f.ReadData, func() ([]byte, error) { return ReadData(path) }}
		if l != nil {
			reads = append(reads, l.ReadData)
		}
		for _, read := range reads {
			got, err := read()
			if err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
				t.Errorf("read %q, %v; want %q", got, err, want)
			}
		}
	}
	read(nil)
	l = mustLock(t, f, "")
	read(nil)
	for _, p := range [][]byte{[]byte("boot id"), {}, bytes.Repeat([]byte{0xff}, MaxData), {0}} {
		if err := l.WriteData(p); err != nil {
			t.Fatal(err)
		}
		read(p)
	}
	if err := l.WriteData(make([]byte, MaxData+1)); err == nil {
		t.Error("too much was stored")
	}
	mustUnlock(t, l)
	l = nil
	read([]byte{0})
	l = mustRLock(t, f)
	if err := l.WriteData([]byte("x")); err == nil {
		t.Error("stored under a shared lock")
	}
	read([]byte{0})
	mustUnlock(t, l)
	l = nil
	read([]byte{0})

	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte{1}, dataOffset+20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadData(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a flipped bit: %v", err)
	}
	mustUnlock(t, mustLock(t, f, "")) // and is no reason not to lock
}

// TestDataWhole reads while others write.
func TestDataWhole(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	l := mustLock(t, f, "")
	defer l.Unlock()
	var over atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; !over.Load(); i++ {
			if err := l.WriteData(bytes.Repeat([]byte{byte(i)}, MaxData)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 3000 {
		got, err := ReadData(path)
		if err != nil {
			t.Error(err)
		}
		if len(got) > 0 && !bytes.Equal(got, bytes.Repeat(got[:1], MaxData)) {
			t.Errorf("read %x", got)
		}
	}
	over.Store(true)
	wg.Wait()
}

func TestCreatedByMany(t *testing.T) {
	path := lockPath(t)
	var ps []*process
	for range 10 {
		ps = append(ps, start(t, nil, "open", path))
	}
	for _, p := range ps {
		p.expect("locked")
		p.finish()
	}
}

// A child process does not inherit a lock.
func TestChildDoesNotInherit(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	l := mustLock(t, f, "")
	p := start(t, nil, "hold", lockPath(t)) // any process
	p.expect("locked")
	mustUnlock(t, l)
	if l, err := f.TryLock(""); err != nil {
		t.Error(err)
	} else {
		mustUnlock(t, l)
	}
	l = mustLock(t, f, "")
	f.Close()
	l.h.close() // as if this process had ended
	if l, err := mustOpen(t, path).TryLock(""); err != nil {
		t.Errorf("the child has the lock: %v", err)
	} else {
		mustUnlock(t, l)
	}
	p.finish()
}

func TestChdir(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	f := mustOpen(t, "LOCK")
	t.Chdir(t.TempDir())
	l := mustLock(t, f, "")
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	mustUnlock(t, l)
	if _, err := os.Stat("LOCK"); err == nil {
		t.Error("the path was taken for another")
	}
	if f.Name() != "LOCK" {
		t.Errorf("Name() = %q", f.Name())
	}
}

// TestFairness prints how often each of some processes that want nothing but the
// lock gets it. With RECORDSTORE_CAMPAIGN set it takes longer.
func TestFairness(t *testing.T) {
	processes, duration := 20, 300*time.Millisecond
	if os.Getenv("RECORDSTORE_CAMPAIGN") != "" {
		processes, duration = 50, 5*time.Second
	}
	for _, hold := range []string{"0s", "100us", "1ms"} {
		path := lockPath(t)
		mark := filepath.Join(t.TempDir(), "mark")
		var ps []*process
		for range processes {
			p := start(t, nil, "hammer", path, mark, hold)
			p.expect("ready")
			ps = append(ps, p)
		}
		for _, p := range ps {
			io.WriteString(p.stdin, "go\n")
		}
		time.Sleep(duration)
		for _, p := range ps {
			p.stdin.Close()
		}
		var counts, worst []int
		total := 0
		for _, p := range ps {
			var n, w int
			fmt.Sscan(p.line(), &n, &w)
			p.finish()
			counts, worst = append(counts, n), append(worst, w)
			total += n
		}
		t.Logf("%d processes, lock held for %s, %v: %d acquisitions, %d to %d per process, worst wait %d us",
			processes, hold, duration, total, slices.Min(counts), slices.Max(counts), slices.Max(worst))
	}
}

// TestStat: it says what os.Stat says, by whatever mechanism.
func TestStat(t *testing.T) {
	for _, m := range []Mechanism{defaultMechanism, Flock, POSIX} {
		path := lockPath(t)
		l := mustLock(t, openWith(t, path, Options{Mechanism: m, Mode: 0o640}), "")
		got, err := l.Stat()
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got.Name() != want.Name() || got.Size() != want.Size() || got.Mode() != want.Mode() || !got.ModTime().Equal(want.ModTime()) || got.IsDir() {
			t.Errorf("%v: got %v, want %v", m, got, want)
		}
		st, ok := got.Sys().(*syscall.Stat_t)
		if w := want.Sys().(*syscall.Stat_t); !ok || st.Ino != w.Ino || st.Dev != w.Dev {
			t.Errorf("%v: Sys %+v, want %+v", m, st, w)
		}
		mustUnlock(t, l)
	}
}
