//go:build unix

package lockfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
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

	"golang.org/x/sys/unix"
)

// testPort is the same in all processes of a test, and below those that the system
// gives to connections.
func testPort(path string) int {
	h := fnv.New32()
	io.WriteString(h, path)
	return 10000 + int(h.Sum32()%20000)
}

// needShared are the general tests that lock shared. TestExclusive has what remains of
// them for a mechanism that cannot.
var needShared = map[string]string{
	"MutualExclusion":              "one in eight of its locks is shared",
	"Race":                         "one in four of its locks is shared",
	"Try":                          "it tries shared locks",
	"Shared":                       "it is about shared locks",
	"AbandonedWriter":              "the writer is in the way of readers",
	"ReadersBehindAbandonedWriter": "it is about readers",
	"OtherKind":                    "it is about the other kind",
	"ManyWaitsTwoThreads":          "half of its waits are for shared locks",
	"ReplacedWhileHeld":            "it waits for a shared lock",
	"ReplacedShared":               "it is about shared locks",
	"Holder":                       "it ends with a shared lock",
	"Data":                         "it ends with a shared lock",
	"Context":                      "one of its locks is shared",
	"Do":                           "half of it is RDo",
	"Nested":                       "half of its locks are shared",
	"LockAllErrors":                "it opens a file by two paths, for which it has two ports",
	"LockAllReplaced":              "it gives a file the name of another, for which it has another port",
	"ContextReplaced":              "some of its locks are shared, and it has a fake clock, which sockets do not keep to",
}

// testExclusive is testGeneral for a mechanism whose locks cannot be shared.
func testExclusive(t *testing.T, m Mechanism) {
	withMechanism(t, m)
	for _, tt := range generalTests {
		t.Run(tt.name, func(t *testing.T) {
			if why := needShared[tt.name]; why != "" {
				t.Skipf("not for %v locks: %s", m, why)
			}
			tt.test(t)
		})
	}
	t.Run("Refused", testShareRefused)
	t.Run("Exclusion", testExclusiveExclusion)
	t.Run("RaceExclusive", testExclusiveRace)
	t.Run("TryExclusive", testExclusiveTry)
	t.Run("ManyWaits", func(t *testing.T) { testManyWaits(t, 300, false) })
	t.Run("ReplacedWhileHeldExclusive", testExclusiveReplaced)
	t.Run("Data", testExclusiveData)
	t.Run("Cancelled", testCancelled)
}

func TestUnixGeneral(t *testing.T) { testExclusive(t, Unix) }
func TestTCPGeneral(t *testing.T)  { testExclusive(t, TCP) }

func testShareRefused(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	_, err := f.TryRLock("")
	_, waitErr := f.RLock(t.Context(), "")
	for _, err := range []error{err, waitErr} {
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), testMechanism.String()+" locks cannot be shared") {
			t.Errorf("a shared lock: %v", err)
		}
	}
	mustUnlock(t, mustLock(t, f, ""))
}

// testExclusiveExclusion: twenty processes, and two Files here, for two seconds.
func testExclusiveExclusion(t *testing.T) {
	hammerTogether(t, 20, 2*time.Second)
}

func hammerTogether(t *testing.T, processes int, d time.Duration) {
	path := lockPath(t)
	mark := filepath.Join(t.TempDir(), "mark")
	var ps []*process
	for range processes {
		p := start(t, nil, "hammer", path, mark, "50us")
		p.expect("ready")
		ps = append(ps, p)
	}
	for _, p := range ps {
		io.WriteString(p.stdin, "go\n")
	}
	var over atomic.Bool
	var inside, here atomic.Int32
	var wg sync.WaitGroup
	for range 2 {
		f := mustOpen(t, path)
		for range 2 {
			wg.Go(func() {
				for !over.Load() {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
					l, err := f.Lock(ctx, "")
					cancel()
					if errors.Is(err, context.DeadlineExceeded) {
						continue
					} else if err != nil {
						t.Error(err)
						return
					}
					if inside.Add(1) != 1 {
						t.Error("two holders in one process")
					}
					here.Add(1)
					os.WriteFile(mark, []byte("0123456789abcdef"), 0o666)
					inside.Add(-1)
					mustUnlock(t, l)
				}
			})
		}
	}
	time.Sleep(d)
	over.Store(true)
	for _, p := range ps {
		p.stdin.Close()
	}
	wg.Wait()
	total := 0
	for _, p := range ps {
		var n, worst int
		fmt.Sscan(p.line(), &n, &worst)
		total += n
		p.finish()
	}
	t.Logf("%d acquisitions by %d processes, and %d here", total, processes, here.Load())
}

func testExclusiveRace(t *testing.T) {
	f := mustOpen(t, lockPath(t))
	var n int
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				if (g+i)%4 == 1 {
					if l, err := f.TryLock(""); err == nil {
						n++
						n--
						mustUnlock(t, l)
					}
					continue
				}
				l := mustLock(t, f, "")
				n++
				mustUnlock(t, l)
			}
		})
	}
	wg.Wait()
	if n != 8*100*3/4 {
		t.Errorf("counted %d", n)
	}
}

func testExclusiveTry(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	for _, other := range []*File{f, g} {
		l, err := f.TryLock("trying")
		if err != nil {
			t.Fatal(err)
		}
		var held *HeldError
		if _, err := other.TryLock(""); !errors.As(err, &held) || !held.Known || held.Holder.Purpose != "trying" || held.Err != nil {
			t.Errorf("try while held: %v", err)
		}
		mustUnlock(t, l)
	}
	mustUnlock(t, mustLock(t, g, ""))
	if _, ok, err := recorded(path); ok || err != nil {
		t.Errorf("Inspect of a free lock: %v, %v", ok, err)
	}
}

func testExclusiveReplaced(t *testing.T) {
	if testMechanism == TCP {
		t.Skip("both files have one port, and so are one lock")
	}
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
	waiter, _ := lockLater(g, false)
	eventually(t, "waiting", waiting(g, 1))
	mustUnlock(t, l)
	l = receive(t, waiter)
	if err := l.Check(); err != nil {
		t.Errorf("waited for the old file: %v", err)
	}
	mustUnlock(t, l)
	mustUnlock(t, old)
}

func testExclusiveData(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	l := mustLock(t, f, "")
	if err := l.WriteData([]byte("x")); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
	if got, err := ReadData(path); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

// testCancelled: a wait that is given up ends, and leaves nothing that waits.
func testCancelled(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	p := start(t, nil, "hold", path)
	p.expect("locked")
	for range 50 {
		w, cancel := lockLater(f, false)
		eventually(t, "waiting", waiting(f, 1))
		time.Sleep(50 * time.Microsecond)
		cancel()
		<-w
	}
	eventually(t, "the acquirer gone", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.exclusively.running
	})
	p.kill()
	l, err := f.TryLock("")
	if err != nil {
		t.Fatalf("the holder was killed: %v", err)
	}
	mustUnlock(t, l)
}

// withSocketFile makes the tests and their helpers use the socket that is a file.
func withSocketFile(t *testing.T) {
	old := forceSocketFile
	forceSocketFile = true
	t.Setenv(socketFileEnv, "1")
	t.Cleanup(func() { forceSocketFile = old })
}

const socketFileEnv = "LOCKFILE_TEST_SOCKET_FILE"

func init() {
	forceSocketFile = os.Getenv(socketFileEnv) != ""
	helpers["grab"] = helpGrab
	helpers["squat"] = helpSquat
}

// dead reports whether a process has ended, and perhaps not yet been waited for.
func dead(pid string) bool {
	st, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(st), ") Z ") || strings.Contains(string(st), ") X ")
}

func TestSocketFileGeneral(t *testing.T) {
	withSocketFile(t)
	testExclusive(t, Unix)
}

// helpGrab PATH LOG takes the lock again and again without pause and without waiting
// much, so as to be killed in the midst of it, and notes it in a file of its own
// that must not be there.
func helpGrab(args []string) error {
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		l, err := f.Lock(context.Background(), "")
		if err != nil {
			return err
		}
		// While we have the lock nobody else has written here and not been killed. Who
		// is dying does not clear it any more; who goes on does, or never ends.
		b, _ := os.ReadFile(args[1])
		for began := time.Now(); len(b) > 0 && !dead(string(b)); time.Sleep(time.Millisecond) {
			if now, _ := os.ReadFile(args[1]); !bytes.Equal(now, b) || time.Since(began) > 10*time.Second {
				fmt.Printf("overlap with %s\n", b)
				os.Exit(1)
			}
		}
		os.WriteFile(args[1], []byte(strconv.Itoa(os.Getpid())), 0o666)
		os.WriteFile(args[1], nil, 0o666)
		if err := l.Unlock(); err != nil {
			return err
		}
	}
}

// TestSocketKillCampaign kills processes at every stage of taking the lock: what they
// leave is removed, and nothing else. Those who live check that nobody overlaps.
func TestSocketKillCampaign(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it looks for the dead in /proc")
	}
	for _, m := range []string{"file", "abstract", "tcp"} {
		t.Run(m, func(t *testing.T) {
			withMechanism(t, Unix)
			switch m {
			case "file":
				withSocketFile(t)
			case "tcp":
				withMechanism(t, TCP)
			}
			path := lockPath(t)
			log := filepath.Join(t.TempDir(), "log")
			kills, d := 0, time.Second
			if os.Getenv("RECORDSTORE_CAMPAIGN") != "" {
				d *= 10
			}
			var ps []*process
			for range 8 {
				p := start(t, nil, "grab", path, log)
				p.expect("ready")
				ps = append(ps, p)
			}
			for began := time.Now(); time.Since(began) < d; kills++ {
				i := kills % len(ps)
				ps[i].kill()
				if s := ps[i].cmd.ProcessState; s.ExitCode() != -1 {
					t.Fatalf("it has ended by itself: %v", s)
				}
				if s, _ := io.ReadAll(ps[i].out); len(s) > 0 {
					t.Fatalf("%s", s)
				}
				ps[i] = start(t, nil, "grab", path, log)
				ps[i].expect("ready")
			}
			for _, p := range ps {
				p.kill()
				if s, _ := io.ReadAll(p.out); len(s) > 0 {
					t.Fatalf("%s", s)
				}
			}
			f := mustOpen(t, path)
			mustUnlock(t, mustLock(t, f, ""))
			t.Logf("%d processes killed", kills)
		})
	}
}

// TestSocketFileStale: the socket of a dead process is removed, that of a living one is
// not, though it is not accepting and nobody has its file locked; and what is no socket
// is left alone.
func TestSocketFileStale(t *testing.T) {
	withSocketFile(t)
	withMechanism(t, Unix)
	path := lockPath(t)
	f := mustOpen(t, path)
	p := start(t, nil, "hold", path)
	p.expect("locked")
	for range 10 {
		if _, err := f.TryLock(""); !errors.Is(err, ErrLocked) {
			t.Fatalf("try while held: %v", err)
		}
	}
	names, _ := filepath.Glob(path + ".*" + socketSuffix)
	if len(names) != 1 {
		t.Fatalf("sockets %v", names)
	}
	p.kill()
	if _, err := os.Lstat(names[0]); err != nil {
		t.Fatal(err)
	}
	if l, err := f.TryLock(""); err != nil {
		t.Fatalf("the holder was killed: %v", err)
	} else {
		mustUnlock(t, l)
	}
	if err := errors.Join(os.Remove(names[0]), os.WriteFile(names[0], []byte("text"), 0o666)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.TryLock(""); !errors.Is(err, ErrNotLockFile) {
		t.Errorf("a file where the socket is to be: %v", err)
	}
	if b, err := os.ReadFile(names[0]); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestSocketFileGuard: while one is at it, the other does not remove what the first has
// just bound.
func TestSocketFileGuard(t *testing.T) {
	withSocketFile(t)
	withMechanism(t, Unix)
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	mustUnlock(t, mustLock(t, f, ""))
	h := g.spare[0]
	if err := flock(h.fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := f.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("past the guard: %v", err)
	}
	w, _ := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	if err := flock(h.fd, unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, receive(t, w))
}

func TestSocketFileLongPath(t *testing.T) {
	withSocketFile(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	f := openWith(t, filepath.Join(dir, "LOCK"), Options{Mechanism: Unix})
	if _, err := f.TryLock(""); !errors.Is(err, unix.ENAMETOOLONG) || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("a long path: %v", err)
	}
}

// socketKinds runs a test for all kinds of sockets.
func socketKinds(t *testing.T, test func(t *testing.T)) {
	t.Run("abstract", func(t *testing.T) {
		if !abstractNames {
			t.Skip("there are none here")
		}
		withMechanism(t, Unix)
		test(t)
	})
	t.Run("file", func(t *testing.T) {
		withSocketFile(t)
		withMechanism(t, Unix)
		test(t)
	})
	t.Run("tcp", func(t *testing.T) {
		withMechanism(t, TCP)
		test(t)
	})
}

// peerOf returns which process has the lock, or 0.
func peerOf(t *testing.T, path string) int {
	t.Helper()
	h, _, err := openRead("inspect", path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if _, err := h.probe(); err != nil {
		t.Fatal(err)
	}
	return h.locker.(peerer).peer()
}

func stateOf(t *testing.T, path string) State {
	t.Helper()
	h, _, err := openRead("inspect", path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	st, err := h.probe()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// TestSocketPeer: the kernel names the holder, whatever the file says.
func TestSocketPeer(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not for all kinds")
	}
	socketKinds(t, func(t *testing.T) {
		path := lockPath(t)
		mustOpen(t, path)
		if peerOf(t, path) != 0 || stateOf(t, path) != Free {
			t.Error("somebody has a free lock")
		}
		p := start(t, nil, "hold", path)
		p.expect("locked")
		if err := os.Truncate(path, headerSize); err != nil {
			t.Fatal(err)
		}
		if pid := peerOf(t, path); pid != p.cmd.Process.Pid {
			t.Errorf("peer %d, want %d", pid, p.cmd.Process.Pid)
		}
		if st := stateOf(t, path); st != Exclusive {
			t.Errorf("state %v", st)
		}
		p.kill()
		if peerOf(t, path) != 0 || stateOf(t, path) != Free {
			t.Error("the dead have the lock")
		}
	})
}

// helpSquat NETWORK ADDRESS listens there, without a lock file.
func helpSquat(args []string) error {
	l, err := net.Listen(args[0], args[1])
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println("listening")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// TestSocketForeign: a stranger who listens keeps us out, and is not taken for the
// holder that died.
func TestSocketForeign(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it cannot be told here who listens")
	}
	socketKinds(t, func(t *testing.T) {
		path := lockPath(t)
		p := start(t, nil, "hold", path, "dying")
		p.expect("locked")
		p.kill() // and leaves its record
		f := mustOpen(t, path)
		h := f.spare[0]
		var s *process
		switch at := h.locker.(*socketLock).at.(type) {
		case abstractSocket:
			s = start(t, nil, "squat", "unix", at.name())
		case socketFile:
			os.Remove(at.name())
			s = start(t, nil, "squat", "unix", at.name())
		case tcpPort:
			s = start(t, nil, "squat", "tcp", ":"+strconv.Itoa(h.port)) // any address, and the other protocol
		}
		s.expect("listening")
		if st := stateOf(t, path); st != Foreign {
			t.Errorf("state %v, want %v", st, Foreign)
		}
		var held *HeldError
		if _, err := f.TryLock(""); !errors.As(err, &held) || held.Known {
			t.Errorf("try: %v", err)
		}
		w, _ := lockLater(f, false)
		eventually(t, "waiting", waiting(f, 1))
		s.finish()
		mustUnlock(t, receive(t, w))
	})
}

// TestSocketDrain: those who gave up do not stay in the holder's backlog, and those who
// wait go on waiting.
func TestSocketDrain(t *testing.T) {
	socketKinds(t, func(t *testing.T) {
		path := lockPath(t)
		f, g := mustOpen(t, path), mustOpen(t, path)
		l := mustLock(t, f, "")
		w, _ := lockLater(g, false)
		eventually(t, "waiting", waiting(g, 1))
		s := l.h.locker.(*socketLock)
		for range 200 {
			stateOf(t, path)
		}
		s.drain()
		// By now there is room again: who waits comes anew, perhaps more than once.
		c, err := s.l.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		c.Control(func(fd uintptr) {
			if n := closeSome(int(fd)); n > 10 {
				t.Errorf("%d connections are left", n)
			}
		})
		if len(w) > 0 {
			t.Fatal("two holders")
		}
		mustUnlock(t, l)
		mustUnlock(t, receive(t, w))
	})
}

// TestSocketBacklogFull: whoever finds no room looks again.
func TestSocketBacklogFull(t *testing.T) {
	socketKinds(t, func(t *testing.T) {
		path := lockPath(t)
		f, g := mustOpen(t, path), mustOpen(t, path)
		l := mustLock(t, f, "purpose")
		s := l.h.locker.(*socketLock)
		raw, err := s.l.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 3) })
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if st := stateOf(t, path); st != Exclusive {
				t.Fatalf("state %v", st)
			}
		}
		if _, err := g.TryLock(""); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "purpose") {
			t.Errorf("try: %v", err)
		}
		w, cancel := lockLater(g, false)
		eventually(t, "waiting", waiting(g, 1))
		time.Sleep(10 * time.Millisecond)
		cancel()
		if <-w != nil {
			t.Fatal("two holders")
		}
		w, _ = lockLater(g, false)
		eventually(t, "waiting", waiting(g, 1))
		time.Sleep(10 * time.Millisecond)
		mustUnlock(t, l)
		mustUnlock(t, receive(t, w))
	})
}

// TestSocketProbeLate: who was not let run in time does not say that the lock is held.
func TestSocketProbeLate(t *testing.T) {
	defer func(d time.Duration) { probeTimes[0] = d }(probeTimes[0])
	probeTimes[0] = 0
	socketKinds(t, func(t *testing.T) {
		path := lockPath(t)
		f := mustOpen(t, path)
		l := mustLock(t, f, "")
		if st := stateOf(t, path); st != Exclusive {
			t.Errorf("held, it is %v", st)
		}
		mustUnlock(t, l)
		if st := stateOf(t, path); st != Free {
			t.Errorf("free, it is %v", st)
		}
	})
}

// TestSocketNotInherited: a child does not keep the lock.
func TestSocketNotInherited(t *testing.T) {
	socketKinds(t, func(t *testing.T) {
		path := lockPath(t)
		f := mustOpen(t, path)
		l := mustLock(t, f, "")
		p := start(t, nil, "squat", "unix", filepath.Join(t.TempDir(), "any"))
		p.expect("listening")
		mustUnlock(t, l)
		l, err := f.TryLock("")
		if err != nil {
			t.Fatalf("the child has the lock: %v", err)
		}
		mustUnlock(t, l)
		p.finish()
	})
}

func TestTCPPort(t *testing.T) {
	path := lockPath(t)
	for _, port := range []int{0, -1, 65536} {
		_, err := Open(path, &Options{Mechanism: TCP, Port: port})
		if err == nil || !strings.Contains(err.Error(), "port") || !strings.Contains(err.Error(), "65535") {
			t.Errorf("port %d: %v", port, err)
		}
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("a file was created for nothing")
	}
	port := testPort(path)
	f := openWith(t, path, Options{Mechanism: TCP, Port: port})
	for _, o := range []Options{{Mechanism: TCP, Port: port + 1}, {Port: port + 1}} {
		_, err := Open(path, &o)
		want := fmt.Sprintf("used with port %d, not port %d", port, port+1)
		if !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), want) {
			t.Errorf("another port: %v; want %q", err, want)
		}
	}
	l := mustLock(t, f, "mine")
	g := openWith(t, path, Options{})
	if _, err := g.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("Auto does not use the recorded port: %v", err)
	}
	if h, ok, err := recorded(path); err != nil || !ok || h.Purpose != "mine" {
		t.Errorf("Inspect: %v, %v, %v", h, ok, err)
	}
	mustUnlock(t, l)

	// Cut off after the checksum: who does not know the port does not guess.
	if err := os.Truncate(path, portOffset); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, nil); !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), "which port") {
		t.Errorf("no port: %v", err)
	}
	openWith(t, path, Options{Mechanism: TCP, Port: port})
	openWith(t, path, Options{})
	// And who holds the lock writes it anew.
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, mustLock(t, f, ""))
	if h := openWith(t, path, Options{}).spare[0]; h.mechanism != TCP || h.port != port {
		t.Errorf("%v, port %d", h.mechanism, h.port)
	}
}

func TestTCPLayout(t *testing.T) {
	b := (&handle{mechanism: TCP, port: 0x1234}).header()
	if got := string(b[16:]); got != "\x34\x12\xcb\xed"+strings.Repeat("\x00", 12) {
		t.Errorf("port %x", got)
	}
	for i := 16; i < 20; i++ {
		b[i] ^= 1
		if headerPort(b) != 0 {
			t.Errorf("byte %d flipped: port %d", i, headerPort(b))
		}
		b[i] ^= 1
	}
}

// TestTCPSelfConnect: a connection to a port at which nobody listens must not be with
// itself. Without care one in 28,000 is, if the port is one that the system gives out.
func TestTCPSelfConnect(t *testing.T) {
	f, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Skip("there is no telling which ports the system gives out")
	}
	var low, high int
	fmt.Sscan(string(f), &low, &high)
	path := lockPath(t)
	port := low + testPort(path)%(high-low)
	at := tcpPort{openWith(t, path, Options{Mechanism: TCP, Port: port}).spare[0]}
	for range 50000 {
		c, err := at.dial(t.Context())
		if err == nil {
			t.Fatalf("connected %v with %v, where nobody listens", c.LocalAddr(), c.RemoteAddr())
		}
		if !absent(err) && !full(err) { // it may time out on a busy machine
			t.Fatal(err)
		}
	}
	// Where the system chooses the address, that can happen, and is noticed.
	defer func(old net.Addr) { dialFrom = old }(dialFrom)
	dialFrom = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
	if c, err := at.dial(t.Context()); err == nil || !absent(err) {
		t.Errorf("connected with itself: %v, %v", c, err)
	}
}

// TestTCPAgain: neither waits that ended, nor those that were given up, nor a dead
// holder leave remains that are in the way.
func TestTCPAgain(t *testing.T) {
	withMechanism(t, TCP)
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	for i := range 300 {
		l := mustLock(t, f, "")
		w, cancel := lockLater(g, false)
		eventually(t, "waiting", waiting(g, 1))
		if i%2 == 0 {
			time.Sleep(100 * time.Microsecond)
			cancel()
			<-w
		}
		l.h.locker.(*socketLock).drain()
		mustUnlock(t, l)
		if i%2 == 1 {
			mustUnlock(t, receive(t, w))
		}
	}
	if b, err := os.ReadFile("/proc/net/tcp"); err == nil {
		if n := strings.Count(string(b), fmt.Sprintf(":%04X ", testPort(path))); n > 10 {
			t.Errorf("%d connections remain", n)
		}
	}
	// One listens, and no second one.
	l := mustLock(t, f, "")
	if _, err := (tcpPort{g.spareHandle(t)}).listen(); err != errBusy {
		t.Errorf("two listen: %v", err)
	}
	mustUnlock(t, l)
}

func (f *File) spareHandle(t *testing.T) *handle {
	t.Helper()
	h, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.close() })
	return h
}

// TestTCPPortDamaged: a port that is damaged is not one that is missing. Whoever wrote
// his own over it would have a lock of his own.
func TestTCPPortDamaged(t *testing.T) {
	path := lockPath(t)
	port := testPort(path)
	f := openWith(t, path, Options{Mechanism: TCP, Port: port})
	g := openWith(t, path, Options{}) // has another handle
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good = good[:headerSize]
	l := mustLock(t, f, "")
	for i := portOffset; i < portOffset+4; i++ {
		bad := slices.Clone(good)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o666); err != nil {
			t.Fatal(err)
		}
		_, other := Open(path, &Options{Mechanism: TCP, Port: port + 1})
		_, same := Open(path, &Options{Mechanism: TCP, Port: port})
		_, auto := Open(path, nil)
		_, inspect := Inspect(path)
		for _, err := range []error{other, same, auto, inspect} {
			if !errors.Is(err, ErrNotLockFile) || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "port") {
				t.Errorf("byte %d flipped: %v", i, err)
			}
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
			t.Errorf("byte %d flipped, and the file is changed, %v", i, err)
		}
	}
	// Who has the file open puts it right.
	mustUnlock(t, l)
	mustUnlock(t, mustLock(t, g, ""))
	openWith(t, path, Options{Mechanism: TCP, Port: port})
}
