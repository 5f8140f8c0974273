package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// generalTests are those of lockfile_test.go that any mechanism with shared locks
// must pass that is as good as the default.
var generalTests = []struct {
	name string
	test func(*testing.T)
}{
	{"MutualExclusion", TestMutualExclusion},
	{"Race", TestRace},
	{"HolderKilled", TestHolderKilled},
	{"WaitersKilled", TestWaitersKilled},
	{"KillCampaign", TestKillCampaign},
	{"DeadlineNamesHolder", TestDeadlineNamesHolder},
	{"EndedContext", TestEndedContext},
	{"Try", TestTry},
	{"TryAfterAbandonedWait", TestTryAfterAbandonedWait},
	{"Shared", TestShared},
	{"WaitOrder", TestWaitOrder},
	{"AbandonedWriter", TestAbandonedWriter},
	{"ReadersBehindAbandonedWriter", TestReadersBehindAbandonedWriter},
	{"OtherKind", TestOtherKind},
	{"ManyWaitsTwoThreads", TestManyWaitsTwoThreads},
	{"UnlockOnce", TestUnlockOnce},
	{"Replaced", TestReplaced},
	{"ReplacedWhileHeld", TestReplacedWhileHeld},
	{"ReplacedShared", TestReplacedShared},
	{"DirectoryGone", TestDirectoryGone},
	{"OpenRefuses", TestOpenRefuses},
	{"Adopts", TestAdopts},
	{"OpenKinds", TestOpenKinds},
	{"Close", TestClose},
	{"Holder", TestHolder},
	{"Data", TestData},
	{"DataWhole", TestDataWhole},
	{"CreatedByMany", TestCreatedByMany},
	{"ChildDoesNotInherit", TestChildDoesNotInherit},
	{"Chdir", TestChdir},
	{"Fairness", TestFairness},
	{"Context", TestContext},
	{"ContextReplaced", TestContextReplaced},
	{"Do", TestDo},
	{"Nested", TestNested},
	{"LockAllErrors", TestLockAllErrors},
	{"LockAllReplaced", TestLockAllReplaced},
}

func testGeneral(t *testing.T, m Mechanism) {
	withMechanism(t, m)
	for _, tt := range generalTests {
		t.Run(tt.name, tt.test)
	}
}

// withMechanism makes m what the helpers of the tests open lock files with.
func withMechanism(t *testing.T, m Mechanism) {
	old := testMechanism
	testMechanism = m
	t.Cleanup(func() { testMechanism = old })
}

func TestFlockGeneral(t *testing.T) { testGeneral(t, Flock) }

func openWith(t testing.TB, path string, opts Options) *File {
	t.Helper()
	f, err := Open(path, &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestMechanismNames(t *testing.T) {
	for m := Auto; m <= TCP; m++ {
		if got, err := ParseMechanism(m.String()); err != nil || got != m {
			t.Errorf("%d is named %q, which is %d, %v", m, m, got, err)
		}
	}
	if Auto != 0 || OFD != 1 || Flock != 2 || POSIX != 3 || Link != 4 || Unix != 5 || TCP != 6 {
		t.Error("a number has changed")
	}
	for _, name := range []string{"", "fcntl", "OFD"} {
		if _, err := ParseMechanism(name); err == nil {
			t.Errorf("%q is a mechanism", name)
		}
	}
	if got := Mechanism(99).String(); got != "mechanism 99" {
		t.Error(got)
	}
}

func TestMechanismUnsupported(t *testing.T) {
	path := lockPath(t)
	old := mechanisms[TCP]
	delete(mechanisms, TCP)
	defer func() {
		if old != nil {
			mechanisms[TCP] = old
		}
	}()
	for _, m := range []Mechanism{TCP, 99} {
		_, err := Open(path, &Options{Mechanism: m})
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), m.String()) || !strings.Contains(err.Error(), path) {
			t.Errorf("Open with %v: %v", m, err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a file was created for nothing")
	}
	// A file that another system uses.
	if err := os.WriteFile(path, encodeHeader(TCP), 0o666); err != nil {
		t.Fatal(err)
	}
	_, autoErr := Open(path, nil)
	_, inspectErr := Inspect(path)
	for _, err := range []error{autoErr, inspectErr} {
		if !errors.Is(err, ErrIncompatible) || !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "tcp") {
			t.Errorf("a file used with tcp: %v", err)
		}
	}
}

func TestMechanismRecorded(t *testing.T) {
	other := Flock
	if defaultMechanism == Flock {
		other = OFD
	}
	if mechanisms[other] == nil {
		t.Skip("there is only one mechanism")
	}
	path := lockPath(t)
	f := openWith(t, path, Options{Mechanism: other})
	l := mustLock(t, f, "mine")
	// Auto uses what is recorded, and so is excluded.
	g := mustOpen(t, path)
	if _, err := g.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("Auto does not use the recorded mechanism: %v", err)
	}
	_, err := Open(path, &Options{Mechanism: defaultMechanism})
	want := fmt.Sprintf("used with %v locks, not %v locks", other, defaultMechanism)
	if !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), want) {
		t.Errorf("another mechanism: %v; want %q", err, want)
	}
	if h, ok, err := recorded(path); err != nil || !ok || h.Purpose != "mine" {
		t.Errorf("Inspect: %v, %v, %v", h, ok, err)
	}
	mustUnlock(t, l)
	mustUnlock(t, mustLock(t, g, ""))
	// The same for a File that is open when the file is replaced.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, mustLock(t, openWith(t, path, Options{Mechanism: defaultMechanism}), ""))
	if _, err := f.Lock(t.Context(), ""); !errors.Is(err, ErrIncompatible) {
		t.Errorf("another mechanism by replacement: %v", err)
	}
	l = mustLock(t, g, "")
	if _, err := mustOpen(t, path).TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("two holders: %v", err)
	}
	mustUnlock(t, l)
}

// TestMechanismAgreed: when a new file is opened with two mechanisms at once, all
// but those of one are refused.
func TestMechanismAgreed(t *testing.T) {
	if mechanisms[OFD] == nil {
		t.Skip("there is only one mechanism")
	}
	for range 200 {
		path := lockPath(t)
		var got [8]Mechanism
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				want := OFD + Mechanism(i%2)
				f, err := Open(path, &Options{Mechanism: want})
				switch {
				case err == nil:
					got[i] = want
					f.Close()
				case !errors.Is(err, ErrIncompatible):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		seen := map[Mechanism]bool{}
		for _, m := range got {
			if m != Auto {
				seen[m] = true
			}
		}
		if len(seen) != 1 {
			t.Fatalf("opened with %v", got)
		}
	}
}

// TestNoQueueExcludes: those who queue and those who do not, in one process and in
// others, exclude each other and all get along.
func TestNoQueueExcludes(t *testing.T) {
	for _, m := range []Mechanism{defaultMechanism, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			withMechanism(t, m)
			path := lockPath(t)
			counter := filepath.Join(t.TempDir(), "counter")
			if err := writeTwice(counter, 0); err != nil {
				t.Fatal(err)
			}
			var ps []*process
			for range 4 {
				ps = append(ps, start(t, nil, "count", path, counter, "2", "40"))
			}
			var wg sync.WaitGroup
			for i := range 6 {
				f := openWith(t, path, Options{Mechanism: m, NoQueue: i%3 != 0, NoRecord: i%2 == 0})
				wg.Go(func() {
					if err := count(f, counter, 160); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for _, p := range ps {
				p.finish()
			}
			b, err := os.ReadFile(counter)
			if err != nil {
				t.Fatal(err)
			}
			var n int
			fmt.Sscan(string(b[:16]), &n)
			if want := (4*2*40 + 6*160) * 7 / 8; n != want {
				t.Errorf("counted %d, want %d", n, want)
			}
		})
	}
}

// TestNoQueuePasses: a try succeeds though others wait, and waiters that do not
// queue are in nobody's way.
func TestNoQueuePasses(t *testing.T) {
	for _, m := range []Mechanism{defaultMechanism, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			path := lockPath(t)
			r := mustRLock(t, openWith(t, path, Options{Mechanism: m}))
			f := openWith(t, path, Options{Mechanism: m, NoQueue: true})
			w, _ := lockLater(f, false)
			eventually(t, "waiting", waiting(f, 1))
			queued := openWith(t, path, Options{Mechanism: m})
			r2, err := queued.TryRLock("")
			if err != nil {
				t.Fatalf("a waiter that does not queue is in the way: %v", err)
			}
			mustUnlock(t, r2)
			w2, _ := lockLater(queued, false)
			eventually(t, "waiting", waiting(queued, 1))
			r3, err := openWith(t, path, Options{Mechanism: m, NoQueue: true}).TryRLock("")
			if err != nil {
				t.Fatalf("behind those who wait: %v", err)
			}
			mustUnlock(t, r3)
			mustUnlock(t, r)
			select {
			case l := <-w:
				mustUnlock(t, l)
				mustUnlock(t, receive(t, w2))
			case l := <-w2:
				mustUnlock(t, l)
				mustUnlock(t, receive(t, w))
			case <-time.After(time.Minute):
				t.Fatal("nobody gets the lock")
			}
		})
	}
}

// TestNoQueueAbandoned: waits that were given up are in nobody's way, and are
// taken over.
func TestNoQueueAbandoned(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{NoQueue: true})
	g := openWith(t, path, Options{NoQueue: true})
	l := mustLock(t, g, "")
	w, cancel := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	cancel()
	<-w
	w, _ = lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	mustUnlock(t, l)
	mustUnlock(t, receive(t, w))
}

// recordIn returns what is in the place of the holder's record, but for zeros.
func recordIn(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(string(b[headerSize:min(len(b), headerSize+holderSize)]), "\x00")
}

// With RecordAfter who holds the lock for less leaves no trace, and who holds it for longer
// is named, as having it since he took it.
func TestRecordAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const after = 10 * time.Second
		path := lockPath(t)
		f := openWith(t, path, Options{RecordAfter: after})
		pass := func(d time.Duration) { // by the bubble's clock: nothing is waited for but what is to run
			time.Sleep(d)
			synctest.Wait()
		}
		check := func(when, want string, since time.Time) {
			t.Helper()
			h, ok, err := f.Holder()
			if err != nil || ok != (want != "") || h.Purpose != want || ok && !h.Since.Equal(since) || (recordIn(t, path) != "") != ok {
				t.Errorf("%s: %q since %v, %v; want %q since %v", when, h.Purpose, h.Since, err, want, since)
			}
		}
		for range 2 { // the second time with a handle that has been used
			taken := time.Now()
			l := mustLock(t, f, "long")
			pass(after - 1)
			if err := l.Sync(); err != nil {
				t.Error(err)
			}
			check("before", "", taken)
			pass(1)
			check("after", "long", taken)
			if err := l.Sync(); err != nil {
				t.Error(err)
			}
			check("synced", "long", taken)
			mustUnlock(t, l)
			check("released", "", taken)
		}
		for range 3 {
			l := mustLock(t, f, "short")
			pass(after - 1)
			mustUnlock(t, l)
		}
		l := mustLock(t, f, "short")
		pass(1) // what was for those before says nothing of this one
		check("short", "", time.Time{})
		mustUnlock(t, l)
		pass(after)
		check("free", "", time.Time{})
		r := mustRLock(t, f)
		pass(after)
		check("shared", "", time.Time{})
		mustUnlock(t, r)

		// What somebody left who died goes at once, as nobody may write another for long.
		l = mustLock(t, openWith(t, path, Options{}), "dead")
		l.h.close()
		if recordIn(t, path) == "" {
			t.Fatal("there is no record to start with")
		}
		mustUnlock(t, mustLock(t, openWith(t, path, Options{RecordAfter: after}), ""))
		check("left by another", "", time.Time{})
	})
}

// A file that was cut off gets its header back from who takes the lock next, recorded or not:
// without one it would be adopted for other locks.
func TestMended(t *testing.T) {
	for _, opts := range []Options{{}, {NoRecord: true}, {RecordAfter: time.Hour}} {
		path := lockPath(t)
		f := openWith(t, path, opts)
		mustUnlock(t, mustLock(t, f, ""))
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		l := mustLock(t, f, "")
		if err := l.WriteData([]byte("x")); err != nil {
			t.Error(err)
		}
		mustUnlock(t, l)
		if g, err := Open(path, &Options{Mechanism: Flock}); !errors.Is(err, ErrIncompatible) {
			t.Errorf("%+v: opened for other locks: %v, %v", opts, g, err)
		}
	}
}

// Who has waited clears the record of whom he has waited for.
func TestRecordAfterDeath(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{RecordAfter: time.Hour})
	mustUnlock(t, mustLock(t, f, ""))
	l := mustLock(t, mustOpen(t, path), "dead")
	locked, _ := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	l.h.close() // as if it died
	l = receive(t, locked)
	if h, ok, err := f.Holder(); ok || err != nil || recordIn(t, path) != "" {
		t.Errorf("%v is said to hold it, %v", h, err)
	}
	mustUnlock(t, l)
}

func TestNoRecord(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{NoRecord: true})
	g := mustOpen(t, path)
	// As if somebody had died.
	l := mustLock(t, g, "dead")
	l.h.close()
	record := func() string { return recordIn(t, path) }
	if record() == "" {
		t.Fatal("there is no record to start with")
	}
	for range 2 {
		l = mustLock(t, f, "secret")
		if s := record(); s != "" {
			t.Errorf("record %q while locked", s)
		}
		var held *HeldError
		if _, err := g.TryLock(""); !errors.As(err, &held) || held.Known {
			t.Errorf("try: %v", err)
		}
		if h, ok, err := g.Holder(); ok || err != nil {
			t.Errorf("Holder: %v, %v, %v", h, ok, err)
		}
		mustUnlock(t, l)
	}
	// It does not clear the record either, beyond the first time.
	l = mustLock(t, g, "again")
	l.h.close()
	mustUnlock(t, mustLock(t, f, ""))
	if record() == "" {
		t.Error("the record was cleared")
	}
}

// TestMode: whatever the umask.
func TestMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	for mode, want := range map[fs.FileMode]fs.FileMode{0: 0o600, 0o664: 0o664, 0o666: 0o666, 0o640: 0o640} {
		for _, m := range []Mechanism{defaultMechanism, Flock} {
			path := lockPath(t)
			mustUnlock(t, mustLock(t, openWith(t, path, Options{Mode: mode, Mechanism: m}), ""))
			names := []string{path}
			if m == Flock {
				names = append(names, path+turnSuffix)
			}
			for _, name := range names {
				fi, err := os.Stat(name)
				if err != nil {
					t.Fatal(err)
				}
				if fi.Mode() != want {
					t.Errorf("%s with mode %v has %v, want %v", filepath.Base(name), mode, fi.Mode(), want)
				}
			}
		}
	}
	// Only who creates the file gives it a mode.
	path := lockPath(t)
	openWith(t, path, Options{Mode: 0o600})
	openWith(t, path, Options{Mode: 0o666})
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

// TestModeLate: who comes before the file has got its mode waits for that.
func TestModeLate(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root is not refused anything")
	}
	path := lockPath(t)
	if err := os.WriteFile(path, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { os.Chmod(path, 0o600) })
	openWith(t, path, Options{})
}

func TestGroup(t *testing.T) {
	path := lockPath(t)
	gid := os.Getgid()
	openWith(t, path, Options{Group: &gid})
	if os.Getuid() != 0 {
		t.Skip("only root can give a file to any group")
	}
	for _, mode := range []fs.FileMode{0, 0o660} {
		path = lockPath(t)
		gid = 12345
		mustUnlock(t, mustLock(t, openWith(t, path, Options{Group: &gid, Mode: mode, Mechanism: Flock}), ""))
		for _, name := range []string{path, path + turnSuffix} {
			fi, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := fi.Sys().(*syscall.Stat_t).Gid; int(got) != gid || mode != 0 && fi.Mode() != mode {
				t.Errorf("group %d, mode %v", got, fi.Mode())
			}
		}
	}
}

// TestTurnstileGone: the turnstile is a matter of politeness only.
func TestTurnstileGone(t *testing.T) {
	path := lockPath(t)
	turn := path + turnSuffix
	f, g := openWith(t, path, Options{Mechanism: Flock}), openWith(t, path, Options{Mechanism: Flock})
	l := mustLock(t, f, "")
	w, _ := lockLater(g, false)
	eventually(t, "waiting", waiting(g, 1))
	if err := os.Remove(turn); err != nil {
		t.Fatal(err)
	}
	if _, err := f.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("two holders: %v", err)
	}
	h := openWith(t, path, Options{Mechanism: Flock})
	if _, err := h.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("two holders: %v", err)
	}
	// h has made a new turnstile, and so do those who wait from now on use it.
	if _, err := os.Stat(turn); err != nil {
		t.Error(err)
	}
	mustUnlock(t, l)
	mustUnlock(t, receive(t, w))
	l = mustLock(t, h, "")
	w, _ = lockLater(f, true)
	eventually(t, "waiting", waiting(f, 1))
	free := make(chan struct{})
	go func() {
		defer close(free)
		mustUnlock(t, receive(t, w))
	}()
	eventually(t, "at the new turnstile", func() bool {
		fd, _, err := openOrCreate(turn, 0o666, false)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		return flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == errBusy
	})
	mustUnlock(t, l)
	<-free

	// Where there can be none, one locks without it.
	if err := errors.Join(os.Remove(turn), os.Mkdir(turn, 0o777)); err != nil {
		t.Fatal(err)
	}
	h = openWith(t, path, Options{Mechanism: Flock})
	l = mustLock(t, h, "")
	w, _ = lockLater(openWith(t, path, Options{Mechanism: Flock}), false)
	mustUnlock(t, l)
	mustUnlock(t, receive(t, w))
}

// TestTurnstile: nobody who tries, or could share, passes one who waits, and a stream
// of readers does not starve a writer.
func TestTurnstile(t *testing.T) {
	path := lockPath(t)
	opts := Options{Mechanism: Flock}
	f, g, w := openWith(t, path, opts), openWith(t, path, opts), openWith(t, path, opts)
	r := mustRLock(t, f)
	locked, cancel := lockLater(w, false)
	eventually(t, "waiting", waiting(w, 1))
	for _, file := range []*File{f, g} {
		if _, err := file.TryRLock(""); !errors.Is(err, ErrLocked) {
			t.Errorf("a reader passed a writer: %v", err)
		}
	}
	// A second waiter, at the turnstile. When both have given up, nobody is in the way.
	at, cancelAt := lockLater(g, false)
	eventually(t, "waiting", waiting(g, 1))
	cancelAt()
	<-at
	cancel()
	<-locked
	eventually(t, "readers let in", func() bool {
		l, err := f.TryRLock("")
		if err != nil {
			return false
		}
		mustUnlock(t, l)
		return true
	})
	mustUnlock(t, r)

	notStarved(t, w, slices.Repeat([]*File{f, g, openWith(t, path, opts), openWith(t, path, opts)}, 4))
}

// TestTurnstileTaken: who takes an abandoned wait over while somebody else is at the
// turnstile has it as soon as that is free, and readers do not pass him any more.
func TestTurnstileTaken(t *testing.T) {
	path := lockPath(t)
	opts := Options{Mechanism: Flock}
	f, w := openWith(t, path, opts), openWith(t, path, opts)
	r := mustRLock(t, f)
	locked, cancel := lockLater(w, false)
	eventually(t, "waiting", waiting(w, 1))
	cancel()
	<-locked
	turn, _, err := openOrCreate(path+turnSuffix, 0o666, false)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(turn)
	eventually(t, "turnstile free", func() bool { return flock(turn, syscall.LOCK_EX|syscall.LOCK_NB) == nil })
	locked, _ = lockLater(w, false)
	eventually(t, "waiting again", waiting(w, 1))
	if err := flock(turn, syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	eventually(t, "readers kept out", func() bool {
		l, err := f.TryRLock("")
		if err == nil {
			mustUnlock(t, l)
		}
		return errors.Is(err, ErrLocked)
	})
	mustUnlock(t, r)
	mustUnlock(t, receive(t, locked))
}

// TestTurnstileRequeueLeft: who had the lock before he was at the turnstile again may wait
// anew, whenever what looks for the turnstile in his place ends. (The race detector tells.)
func TestTurnstileRequeueLeft(t *testing.T) {
	path := lockPath(t)
	opts := Options{Mechanism: Flock}
	f, w := openWith(t, path, opts), openWith(t, path, opts)
	held := mustLock(t, f, "")
	locked, cancel := lockLater(w, false)
	eventually(t, "waiting", waiting(w, 1))
	cancel()
	<-locked
	turn, _, err := openOrCreate(path+turnSuffix, 0o666, false)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "turnstile free", func() bool { return flock(turn, syscall.LOCK_EX|syscall.LOCK_NB) == nil })
	locked, _ = lockLater(w, false)
	eventually(t, "waiting again", waiting(w, 1))
	mustUnlock(t, held)
	mustUnlock(t, receive(t, locked))
	if err := syscall.Close(turn); err != nil {
		t.Fatal(err)
	}
	// Asked in a way that does not itself bring the two in an order.
	eventually(t, "nobody looking", func() bool { return goroutinesIn("lockfile.(*flocker).requeue") == 0 })
	held = mustLock(t, f, "")
	locked, _ = lockLater(w, false)
	eventually(t, "waiting once more", waiting(w, 1))
	mustUnlock(t, held)
	mustUnlock(t, receive(t, locked))
}

// A fakeLock is a lock of a mechanism whose waits can be interrupted, and which cannot
// be shared. It works within this process only.
type fakeLock struct {
	h      *handle
	sem    chan struct{}
	left   chan struct{}
	isLeft bool
	awaits *atomic.Int64
}

func fakeMechanism(t *testing.T) (m Mechanism, awaits *atomic.Int64) {
	m = TCP
	awaits = new(atomic.Int64)
	var sems sync.Map
	old := mechanisms[m]
	mechanisms[m] = func(h *handle) locker {
		sem, _ := sems.LoadOrStore(h.ino, make(chan struct{}, 1))
		return &fakeLock{h: h, sem: sem.(chan struct{}), awaits: awaits}
	}
	t.Cleanup(func() {
		delete(mechanisms, m)
		if old != nil {
			mechanisms[m] = old
		}
	})
	return m, awaits
}

func (l *fakeLock) attempt(shared bool) error {
	if shared {
		return fmt.Errorf("%w: %v locks cannot be shared", errors.ErrUnsupported, l.h.mechanism)
	}
	select {
	case l.sem <- struct{}{}:
		return nil
	default:
		return errBusy
	}
}

func (l *fakeLock) enter(shared bool) error {
	l.left, l.isLeft = make(chan struct{}), false
	return l.attempt(shared)
}

func (l *fakeLock) await(bool) error {
	l.awaits.Add(1)
	select {
	case l.sem <- struct{}{}:
		return nil
	case <-l.left:
		time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond) // soon
		return errBusy
	}
}

func (l *fakeLock) leave() {
	if !l.isLeft {
		l.isLeft = true
		close(l.left)
	}
}

func (l *fakeLock) unlock() error         { <-l.sem; return nil }
func (l *fakeLock) join() error           { return nil }
func (l *fakeLock) settle(bool) error     { return nil }
func (l *fakeLock) rejoin()               {}
func (l *fakeLock) close() error          { return nil }
func (l *fakeLock) probe() (State, error) { return Unseen, nil }

// TestInterruptible: waits that are interrupted, and taken over at the same moment,
// are neither lost nor made again and again.
func TestInterruptible(t *testing.T) {
	m, awaits := fakeMechanism(t)
	path := lockPath(t)
	f, g := openWith(t, path, Options{Mechanism: m, Port: 1}), openWith(t, path, Options{Mechanism: m, Port: 1})
	for range 300 {
		l := mustLock(t, g, "")
		w, cancel := lockLater(f, false)
		eventually(t, "waiting", waiting(f, 1))
		cancel()
		// The next comes before await has returned, or after.
		time.Sleep(time.Duration(rand.IntN(150)) * time.Microsecond)
		next, _ := lockLater(f, false)
		<-w
		mustUnlock(t, l)
		mustUnlock(t, receive(t, next))
	}
	if n := awaits.Load(); n > 300*2 {
		t.Errorf("%d waits for 600 waiters", n)
	}
	// When nobody waits any more, nothing is blocked.
	l := mustLock(t, g, "")
	w, cancel := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	cancel()
	<-w
	eventually(t, "the acquirer gone", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.exclusively.running
	})
	mustUnlock(t, l)

	var n int
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			f := []*File{f, g}[i%2]
			for range 300 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(300))*time.Microsecond)
				if l, err := f.Lock(ctx, ""); err == nil {
					n++
					n--
					mustUnlock(t, l)
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	mustUnlock(t, mustLock(t, f, ""))
}

func TestCannotShare(t *testing.T) {
	m, _ := fakeMechanism(t)
	path := lockPath(t)
	f, g := openWith(t, path, Options{Mechanism: m, Port: 1}), openWith(t, path, Options{Mechanism: m, Port: 1})
	check := func(err error) {
		t.Helper()
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "tcp locks cannot be shared") {
			t.Errorf("a shared lock: %v", err)
		}
	}
	_, err := f.TryRLock("")
	check(err)
	_, err = f.RLock(t.Context(), "")
	check(err)
	// Behind a writer of the same File, it is the acquirer that finds out.
	l := mustLock(t, g, "")
	w, cancel := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	errs := make(chan error)
	go func() { _, err := f.RLock(context.Background(), ""); errs <- err }()
	eventually(t, "behind him", waiting(f, 2))
	cancel()
	<-w
	check(<-errs)
	mustUnlock(t, l)
	mustUnlock(t, mustLock(t, f, ""))
}

// TestLookShared: a crowd whose waits end together looks a few times, not one after the
// other, and nobody is told what was seen before he came.
func TestLookShared(t *testing.T) {
	const crowd = 100
	m, _ := fakeMechanism(t)
	var looks, inside atomic.Int32
	fake := mechanisms[m]
	mechanisms[m] = func(h *handle) locker { return &countedLock{fake(h), &looks, &inside} }
	path := lockPath(t)
	f := openWith(t, path, Options{Mechanism: m, Port: 1})
	l := mustLock(t, openWith(t, path, Options{Mechanism: m, Port: 1}), "old")
	f.looking.Lock()
	var wg sync.WaitGroup
	for range crowd {
		wg.Go(func() {
			if s := f.look(); !s.known || s.holder.Purpose != "new" {
				t.Errorf("told %+v", s)
			}
		})
	}
	eventually(t, "the crowd", func() bool { return goroutinesIn("(*File).look") == crowd })
	mustUnlock(t, l)
	l = mustLock(t, l.f, "new")
	f.looking.Unlock()
	wg.Wait()
	if n := looks.Load(); n < 1 || n > crowd/2 {
		t.Errorf("%d looks for %d", n, crowd)
	}
	mustUnlock(t, l)

	// Who comes while somebody looks is told what the next one sees.
	release := make(chan struct{})
	block.Store(&release)
	first := make(chan status)
	go func() { first <- f.look() }()
	eventually(t, "a look", func() bool { return inside.Load() == 1 })
	second := make(chan status)
	go func() { second <- f.look() }()
	eventually(t, "another", func() bool { return goroutinesIn("(*File).look") == 2 })
	block.Store(nil)
	l = mustLock(t, l.f, "late")
	close(release)
	<-first
	if s := <-second; s.holder.Purpose != "late" {
		t.Errorf("told %+v", s)
	}
	mustUnlock(t, l)
}

// block makes looks at a countedLock wait.
var block atomic.Pointer[chan struct{}]

type countedLock struct {
	locker
	looks, inside *atomic.Int32
}

func (l *countedLock) probe() (State, error) {
	l.looks.Add(1)
	l.inside.Add(1)
	defer l.inside.Add(-1)
	st, err := l.locker.probe()
	if c := block.Load(); c != nil {
		<-*c
	}
	return st, err
}

// TestFlockTrySharedPassing: readers are not refused because one of them is passing the
// turnstile.
func TestFlockTrySharedPassing(t *testing.T) {
	path := lockPath(t)
	f, g := openWith(t, path, Options{Mechanism: Flock}), openWith(t, path, Options{Mechanism: Flock})
	mustUnlock(t, mustRLock(t, f)) // opens the turnstile
	r := mustRLock(t, f)
	file, err := os.Open(path + turnSuffix)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	turn := int(file.Fd())
	had := 0
	for i := range 20 {
		if err := flock(turn, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			t.Fatal(err)
		}
		passed := make(chan error, 1)
		time.AfterFunc(500*time.Microsecond, func() { passed <- flock(turn, syscall.LOCK_UN) })
		l, err := []*File{f, g}[i%2].TryRLock("")
		if passErr := <-passed; passErr != nil {
			t.Fatal(passErr)
		}
		switch {
		case err == nil:
			mustUnlock(t, l)
			had++
		case !errors.Is(err, ErrLocked):
			t.Error(err)
		}
	}
	if had < 5 { // a busy machine may take longer to pass
		t.Errorf("a reader passes, and another is not refused only %d times of 20", had)
	}
	// And not looked at for long if somebody waits.
	w, cancel := lockLater(g, false)
	eventually(t, "waiting", waiting(g, 1))
	began := time.Now()
	if _, err := f.TryRLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("a reader before a writer who waits: %v", err)
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("that took %v", d)
	}
	cancel()
	<-w
	mustUnlock(t, r)
}

// TestFlockTurnstileTrusted: one that others than those who can lock the lock file can
// lock is not used, and not waited for.
func TestFlockTurnstileTrusted(t *testing.T) {
	for _, tt := range []struct {
		name  string
		owner int // 0: as it is
		lock  os.FileMode
		turn  os.FileMode
		used  bool
	}{
		{"the same", 0, 0o600, 0o600, true},
		{"narrower", 0, 0o644, 0o600, true},
		{"wider", 0, 0o600, 0o666, false},
		{"for others", 0, 0o660, 0o606, false},
		{"a stranger's", 2000, 0o666, 0o666, false},
		{"a stranger's, and private", 2000, 0o600, 0o600, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.owner != 0 && os.Getuid() != 0 {
				t.Skip("only root can give files away")
			}
			path := lockPath(t)
			f := openWith(t, path, Options{Mechanism: Flock, Mode: tt.lock})
			turn := path + turnSuffix
			file, err := os.OpenFile(turn, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
			if err == nil {
				defer file.Close()
				err = os.Chmod(turn, tt.turn)
			}
			if err == nil && tt.owner != 0 {
				err = os.Chown(turn, tt.owner, -1)
			}
			if err == nil {
				err = flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
			}
			if err != nil {
				t.Fatal(err)
			}
			l, err := f.TryLock("")
			if used := errors.Is(err, ErrLocked); used != tt.used || !used && err != nil {
				t.Errorf("try: %v; want the turnstile used: %v", err, tt.used)
			}
			if err == nil {
				mustUnlock(t, l)
			}
			if !tt.used {
				mustUnlock(t, mustRLock(t, f))
				l := mustLock(t, f, "")
				g := openWith(t, path, Options{Mechanism: Flock})
				w, _ := lockLater(g, false)
				eventually(t, "waiting", waiting(g, 1))
				mustUnlock(t, l)
				mustUnlock(t, receive(t, w))
			}
		})
	}
}
