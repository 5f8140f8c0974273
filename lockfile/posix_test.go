//go:build unix

package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPOSIXGeneral(t *testing.T) { testGeneral(t, POSIX) }

func TestPOSIXExclusion(t *testing.T) {
	withMechanism(t, POSIX)
	hammerTogether(t, 20, 2*time.Second)
}

func TestPOSIXCancelledTry(t *testing.T) {
	withMechanism(t, POSIX)
	path := lockPath(t)
	f := mustOpen(t, path)
	p := start(t, nil, "hold", path)
	p.expect("locked")
	for range 20 {
		w, cancel := lockLater(f, rand.IntN(2) == 0)
		eventually(t, "waiting", waiting(f, 1))
		cancel()
		<-w
	}
	if pid := peerOf(t, path); pid != p.cmd.Process.Pid {
		t.Errorf("peer %d, want %d", pid, p.cmd.Process.Pid)
	}
	p.kill()
	l, err := f.TryLock("")
	if err != nil {
		t.Fatalf("the holder was killed: %v", err)
	}
	if pid := peerOf(t, path); pid != os.Getpid() {
		t.Errorf("peer %d, want this process", pid)
	}
	mustUnlock(t, l)
	if pid := peerOf(t, path); pid != 0 {
		t.Errorf("%d has a free lock", pid)
	}
}

func init() {
	helpers["posixtry"] = helpPOSIXTry
	helpers["posixshare"] = helpPOSIXShare
}

// helpPOSIXTry PATH says for each line of its input whether the lock is held, as the
// kernel sees it.
func helpPOSIXTry(args []string) error {
	file, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for b := make([]byte, 1); ; {
		if _, err := os.Stdin.Read(b); err != nil {
			return nil
		}
		lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 1}
		if err := unix.FcntlFlock(file.Fd(), unix.F_GETLK, &lk); err != nil {
			return err
		}
		switch lk.Type {
		case unix.F_UNLCK:
			fmt.Println("free")
		case unix.F_RDLCK:
			fmt.Println("shared")
		default:
			fmt.Println("exclusive")
		}
	}
}

// posixState starts a process that tells what the kernel has locked for this one.
func posixState(t *testing.T, path string) func(want string) {
	p := start(t, nil, "posixtry", path)
	p.expect("ready")
	return func(want string) {
		t.Helper()
		io.WriteString(p.stdin, "?")
		if got := p.line(); got != want {
			t.Errorf("to other processes it is %s, want %s", got, want)
		}
	}
}

// TestPOSIXNothingReleases: none of our own functions closes a descriptor of the file
// while a lock is held, in whatever mechanism they believe.
func TestPOSIXNothingReleases(t *testing.T) {
	path := lockPath(t)
	opts := Options{Mechanism: POSIX}
	f := openWith(t, path, opts)
	state := posixState(t, path)
	for name, do := range map[string]func(l *Lock) error{
		"Inspect":   func(*Lock) error { _, _, err := recorded(path); return err },
		"Holder":    func(*Lock) error { _, _, err := f.Holder(); return err },
		"ReadData":  func(*Lock) error { _, err := ReadData(path); return err },
		"Check":     func(l *Lock) error { return l.Check() },
		"Stat":      func(l *Lock) error { _, err := l.Stat(); return err },
		"WriteData": func(l *Lock) error { return l.WriteData([]byte("x")) },
		"Open": func(*Lock) error {
			g, err := Open(path, &opts)
			if err != nil {
				return err
			}
			_, tryErr := g.TryLock("")
			if !errors.Is(tryErr, ErrLocked) {
				return fmt.Errorf("try: %w", tryErr)
			}
			return g.Close()
		},
		"Open with another mechanism": func(*Lock) error {
			if _, err := Open(path, &Options{Mechanism: Flock}); !errors.Is(err, ErrIncompatible) {
				return err
			}
			return nil
		},
		"a wait that is given up": func(*Lock) error {
			g := openWith(t, path, opts)
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			if _, err := g.Lock(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			return g.Close()
		},
		"closing the File": func(*Lock) error {
			err := f.Close()
			f = openWith(t, path, opts)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			state("free")
			l := mustLock(t, f, "")
			state("exclusive")
			for range 3 {
				if err := do(l); err != nil {
					t.Error(err)
				}
				runtime.GC() // finalizers close descriptors too
			}
			state("exclusive")
			mustUnlock(t, l)
			state("free")
		})
	}
	if len(posixFiles.files) != 0 || posixFiles.held.Load() != 0 {
		t.Errorf("%d files left in the table, %d held", len(posixFiles.files), posixFiles.held.Load())
	}
}

// TestPOSIXDescriptors: those that may not be closed are used again, and closed in the
// end.
func TestPOSIXDescriptors(t *testing.T) {
	before := descriptors(t)
	path := lockPath(t) + ".x" // RemoveUnused leaves LOCK alone
	f, err := Open(path, &Options{Mechanism: POSIX})
	if err != nil {
		t.Fatal(err)
	}
	l := mustLock(t, f, "")
	for range 100 {
		Inspect(path)
		ReadData(path)
		l.Stat()
		g, err := Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		g.TryLock("")
		g.Close()
		if _, err := RemoveUnused(filepath.Dir(path), 0); err != nil {
			t.Fatal(err)
		}
		if err := Remove(path); !errors.Is(err, ErrLocked) {
			t.Fatal(err)
		}
		if _, err := Open(path, &Options{ReadOnly: true}); !errors.Is(err, errors.ErrUnsupported) {
			t.Fatal(err)
		}
	}
	if n := descriptors(t) - before; n > 6 {
		t.Errorf("%d descriptors", n)
	}
	f.Close()
	mustUnlock(t, l)
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors before, %d after", before, n)
	}
}

// TestPOSIXClosing: nobody takes the lock while a descriptor is being closed, which
// would release it.
func TestPOSIXClosing(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{Mechanism: POSIX})
	id := f.spare[0].fileID
	for _, shared := range []bool{false, true} {
		fd, end := slowToClose(t)
		go closeFile(id, parkedFile{fd: fd})
		eventually(t, "being closed", closing(id))
		w, _ := lockLater(f, shared)
		eventually(t, "in the queue", func() bool {
			file := posixFiles.file(id)
			defer posixFiles.done(file)
			return len(w) > 0 || len(file.queue) == 1
		})
		if len(w) > 0 {
			t.Fatal("locked while a descriptor is being closed")
		}
		end()
		mustUnlock(t, receive(t, w))
	}
}

// slowToClose makes a descriptor that cannot be closed before end is called: what was
// written to it waits to be sent.
func slowToClose(t *testing.T) (fd int, end func()) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
		err = errors.Join(
			unix.Connect(fd, &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}),
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 60}),
			unix.SetNonblock(fd, true))
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 1<<20); err == nil; {
		_, err = unix.Write(fd, b)
	}
	if err != unix.EAGAIN {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	})
	t.Cleanup(end)
	return fd, end
}

// closing reports whether a descriptor of the file is being closed.
func closing(id fileID) func() bool {
	return func() bool {
		f := posixFiles.file(id)
		defer posixFiles.done(f)
		return f.closing > 0
	}
}

// TestPOSIXSlowClose: what takes long to close, after the lock was released, keeps the
// lock from everybody, and nobody from anything else.
func TestPOSIXSlowClose(t *testing.T) {
	path := lockPath(t)
	f, g := openWith(t, path, Options{Mechanism: POSIX}), openWith(t, path, Options{Mechanism: POSIX})
	l := mustLock(t, f, "")
	fd, end := slowToClose(t)
	if err := closeFile(l.id, parkedFile{fd: fd, spent: true}); err != nil {
		t.Fatal(err)
	}
	unlocked := make(chan struct{})
	go func() {
		mustUnlock(t, l)
		close(unlocked)
	}()
	eventually(t, "being closed", closing(l.id))
	within10s(t, "the others", func() {
		if st := stateOf(t, path); st != Free {
			t.Errorf("state %v", st)
		}
		if _, err := g.TryLock(""); !errors.Is(err, ErrLocked) {
			t.Errorf("try: %v", err)
		}
		if err := useOthers(t); err != nil {
			t.Error(err)
		}
	})
	w, cancel := lockLater(g, true)
	defer cancel()
	eventually(t, "waiting", waiting(g, 1))
	select {
	case <-unlocked:
		t.Error("unlocked before the descriptor was closed")
	default:
	}
	end()
	<-unlocked
	mustUnlock(t, receive(t, w))
}

// TestPOSIXOneHangs: a call for one file that does not return, as when its server does
// not answer, does not keep others from others.
func TestPOSIXOneHangs(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{Mechanism: POSIX})
	l := mustLock(t, f, "")
	hangs := posixFiles.file(l.id) // as F_SETLK is called
	looked := make(chan struct{})
	go func() { // has to wait for that
		defer close(looked)
		if _, err := Inspect(path); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "who waits", func() bool { return goroutinesIn("(*posixTable).file") > 0 })
	within10s(t, "the others", func() {
		if err := useOthers(t); err != nil {
			t.Error(err)
		}
	})
	posixFiles.done(hangs)
	<-looked
	mustUnlock(t, l)
}

func within10s(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: no answer", what)
	}
}

// useOthers opens, locks and closes files of which nobody knows.
func useOthers(t *testing.T) error {
	for _, m := range []Mechanism{defaultMechanism, POSIX} {
		f, err := Open(filepath.Join(t.TempDir(), "LOCK"), &Options{Mechanism: m})
		if err != nil {
			return err
		}
		l, err := f.Lock(context.Background(), "")
		if err != nil {
			return err
		}
		if err := errors.Join(l.Check(), l.Unlock(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// TestPOSIXHeader: neither writing a header, where its lock may not be granted at once,
// nor what removes a new file that cannot be used, closes a descriptor.
func TestPOSIXHeader(t *testing.T) {
	notLocal(t)
	path := lockPath(t)
	opts := Options{Mechanism: POSIX}
	f := openWith(t, path, opts)
	state := posixState(t, path)

	l := mustLock(t, f, "")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	openWith(t, path, opts)
	state("exclusive")
	f.discard(choosing.locate(filepath.Dir(path)), l.h)
	state("exclusive")
	if file := posixFiles.file(l.id); true {
		for _, p := range file.parked {
			if !p.spent {
				t.Error("a copy of a descriptor that is in use is to be had")
			}
		}
		posixFiles.done(file)
	}
	mustUnlock(t, l)
	state("free")
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// notLocal makes the package believe that no file system is local.
func notLocal(t *testing.T) {
	old := choosing
	choosing.fsType = func(string) (string, bool, error) { return "nfs", false, nil }
	t.Cleanup(func() { choosing = old })
}

// TestPOSIXReadOnlyParked: a descriptor that was opened for reading is not given to who
// locks.
func TestPOSIXReadOnlyParked(t *testing.T) {
	for name, read := range map[string]func(path string){
		"Open with ReadOnly": func(path string) {
			if _, err := Open(path, &Options{ReadOnly: true}); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Open: %v", err)
			}
		},
		"RemoveUnused": func(path string) {
			if removed, err := RemoveUnused(filepath.Dir(path), time.Hour); len(removed) > 0 || err != nil {
				t.Errorf("RemoveUnused: %q, %v", removed, err)
			}
		},
		"Inspect": func(path string) { stateOf(t, path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := lockPath(t) + ".x" // RemoveUnused leaves LOCK alone
			l := mustLock(t, openWith(t, path, Options{Mechanism: POSIX}), "")
			read(path)
			f := openWith(t, path, Options{})
			mustUnlock(t, l)
			l, err := f.TryLock("")
			if err != nil {
				t.Fatal(err)
			}
			mustUnlock(t, l)
		})
	}
}

// TestPOSIXStrangerCloses is the trap that remains, and that it can be told.
func TestPOSIXStrangerCloses(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{Mechanism: POSIX})
	state := posixState(t, path)
	for _, shared := range []bool{false, true} {
		var l *Lock
		if shared {
			l = mustRLock(t, f)
		} else {
			l = mustLock(t, f, "")
		}
		c, ok := l.h.locker.(interface{ check() error })
		if ok {
			if err := c.check(); err != nil {
				t.Errorf("a lock that is held: %v", err)
			}
		}
		if _, err := os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		state("free")
		if ok {
			if err := c.check(); !errors.Is(err, errPosixLost) {
				t.Errorf("a lock that is lost: %v", err)
			}
			if err := l.Unlock(); !errors.Is(err, ErrLost) {
				t.Errorf("Unlock: %v", err)
			}
			if err := l.Unlock(); !errors.Is(err, ErrReleased) {
				t.Errorf("Unlock again: %v", err)
			}
			continue
		}
		mustUnlock(t, l)
	}
	mustUnlock(t, mustLock(t, f, ""))
}

// TestPOSIXShared: to the kernel all who share in one process are one, and the lock is
// there until the last is gone.
func TestPOSIXShared(t *testing.T) {
	path := lockPath(t)
	f, g := openWith(t, path, Options{Mechanism: POSIX}), openWith(t, path, Options{Mechanism: POSIX})
	state := posixState(t, path)
	a, b, c := mustRLock(t, f), mustRLock(t, g), mustRLock(t, f)
	state("shared")
	mustUnlock(t, a)
	mustUnlock(t, b)
	g.Close()
	state("shared")
	mustUnlock(t, c)
	state("free")
}

// helpPOSIXShare PATH holds the lock shared.
func helpPOSIXShare(args []string) error {
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		return err
	}
	l, err := f.RLock(context.Background(), "")
	if err != nil {
		return err
	}
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
	return l.Unlock()
}

// TestPOSIXAbandonedWaits: a wait of each kind that is granted late, and replaces what
// the process has, by which nobody is let in or kept out.
func TestPOSIXAbandonedWaits(t *testing.T) {
	withMechanism(t, POSIX)
	path := lockPath(t)
	over := func(l *Lock) func() bool {
		return func() bool {
			file := posixFiles.file(l.h.fileID)
			defer posixFiles.done(file)
			return file.waits == [2]int{}
		}
	}
	for range 20 {
		f, g := mustOpen(t, path), mustOpen(t, path)
		state := posixState(t, path)

		// A writer gives up waiting for a reader elsewhere. We share; when the other is
		// gone, the wait makes our lock exclusive, and is put right.
		p := start(t, nil, "posixshare", path)
		p.expect("locked")
		w, cancel := lockLater(f, false)
		eventually(t, "waiting", waiting(f, 1))
		cancel()
		<-w
		r := mustRLock(t, g)
		p.finish()
		eventually(t, "the wait over", over(r))
		state("shared")
		mustUnlock(t, r)
		state("free")

		// A reader gives up waiting for a writer elsewhere. Who locks exclusively
		// then must not be made a reader.
		p = start(t, nil, "hold", path)
		p.expect("locked")
		w, cancel = lockLater(f, true)
		eventually(t, "waiting", waiting(f, 1))
		cancel()
		<-w
		x, _ := lockLater(g, false)
		eventually(t, "waiting", waiting(g, 1))
		p.finish()
		l := receive(t, x)
		eventually(t, "the wait over", over(l))
		state("exclusive")
		mustUnlock(t, l)
		state("free")
		f.Close()
		g.Close()
	}
}

// TestPOSIXRandom lets Files in several processes lock in both ways, wait, try and give
// up, so that waits that were given up are granted in the midst of everything.
func TestPOSIXRandom(t *testing.T) {
	withMechanism(t, POSIX)
	path := lockPath(t)
	mark := filepath.Join(t.TempDir(), "mark")
	if err := writeTwice(mark, 0); err != nil {
		t.Fatal(err)
	}
	d := 2 * time.Second
	var ps []*process
	for range 3 {
		ps = append(ps, start(t, nil, "posixrandom", path, mark, d.String()))
	}
	if err := posixRandom(path, mark, d); err != nil {
		t.Error(err)
	}
	for _, p := range ps {
		p.finish()
	}
}

func init() {
	helpers["posixrandom"] = func(args []string) error {
		d, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return posixRandom(args[0], args[1], d)
	}
}

func posixRandom(path, mark string, d time.Duration) error {
	var over atomic.Bool
	time.AfterFunc(d, func() { over.Store(true) })
	errs := make(chan error, 100)
	var wg sync.WaitGroup
	for range 3 {
		f, err := Open(path, testOptions(path))
		if err != nil {
			return err
		}
		defer f.Close()
		for range 3 {
			wg.Go(func() {
				for !over.Load() {
					if err := posixStep(f, mark); err != nil {
						errs <- err
						return
					}
				}
			})
		}
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	// Waits that were given up may still go on.
	for range 10000 {
		posixFiles.mu.Lock()
		files := slices.Collect(maps.Keys(posixFiles.files))
		posixFiles.mu.Unlock()
		n := 0
		for _, id := range files {
			f := posixFiles.file(id)
			n += len(f.queue) + f.holders + f.closing
			posixFiles.done(f)
		}
		if n == 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("the table still has locks or waiters")
}

// posixStep is like count.
func posixStep(f *File, mark string) error {
	if rand.IntN(8) == 0 {
		if _, _, err := recorded(f.path); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(2000))*time.Microsecond)
	defer cancel()
	shared := rand.IntN(2) == 0
	var l *Lock
	var err error
	switch {
	case rand.IntN(4) == 0 && shared:
		l, err = f.TryRLock("")
	case rand.IntN(4) == 0 && !shared:
		l, err = f.TryLock("")
	case shared:
		l, err = f.RLock(ctx, "")
	default:
		l, err = f.Lock(ctx, "")
	}
	if errors.Is(err, ErrLocked) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Unlock()
	b, err := os.ReadFile(mark)
	if err != nil {
		return err
	}
	var n, m int
	fmt.Sscan(string(b[:16]), &n)
	fmt.Sscan(string(b[16:]), &m)
	if n != m {
		return fmt.Errorf("overlap: %d and %d", n, m)
	}
	if !shared {
		err = writeTwice(mark, n+1)
	}
	if rand.IntN(2) == 0 {
		time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
	}
	again, readErr := os.ReadFile(mark)
	if shared && readErr == nil && string(again) != string(b) {
		return errors.New("a writer wrote while we read")
	}
	if c, ok := l.h.locker.(interface{ check() error }); ok && err == nil {
		err = c.check()
	}
	return errors.Join(err, readErr)
}

// TestPOSIXDeadlock: two processes each have one lock and want the other's. The kernel
// sees a deadlock; we wait, and here it is dissolved by giving up.
func TestPOSIXDeadlock(t *testing.T) {
	withMechanism(t, POSIX)
	one, two := lockPath(t), lockPath(t)
	p := start(t, nil, "posixboth", one, two)
	p.expect("first")
	f, g := mustOpen(t, one), mustOpen(t, two)
	l := mustLock(t, g, "")
	io.WriteString(p.stdin, "go\n")
	p.expect("waiting")
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		_, err := f.Lock(ctx, "")
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "held by pid") {
			t.Errorf("Lock: %v", err)
		}
	}
	mustUnlock(t, l)
	p.expect("both")
	p.finish()
	mustUnlock(t, mustLock(t, f, ""))
}

func init() {
	helpers["posixboth"] = func(args []string) error {
		f, err := Open(args[0], testOptions(args[0]))
		if err != nil {
			return err
		}
		l, err := f.Lock(context.Background(), "")
		if err != nil {
			return err
		}
		g, err := Open(args[1], testOptions(args[1]))
		if err != nil {
			return err
		}
		fmt.Println("first")
		os.Stdin.Read(make([]byte, 10))
		go func() {
			for waits := waiting(g, 1); !waits(); time.Sleep(100 * time.Microsecond) {
			}
			fmt.Println("waiting")
		}()
		l2, err := g.Lock(context.Background(), "")
		if err != nil {
			return err
		}
		fmt.Println("both")
		return errors.Join(l.Unlock(), l2.Unlock())
	}
}

// TestPOSIXForeign: a program that has locked the whole file with fcntl, and one that
// has done so with an open-file-description lock.
func TestPOSIXForeign(t *testing.T) {
	withMechanism(t, POSIX)
	path := lockPath(t)
	f := mustOpen(t, path)
	mustUnlock(t, mustLock(t, f, ""))
	p := start(t, nil, "posixlockall", path)
	p.expect("locked")
	if st := stateOf(t, path); st != Foreign {
		t.Errorf("state %v", st)
	}
	var held *HeldError
	if _, err := f.TryLock(""); !errors.As(err, &held) || held.Known {
		t.Errorf("try: %v", err)
	}
	w, _ := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	p.finish()
	mustUnlock(t, receive(t, w))
}

func init() {
	helpers["posixlockall"] = func(args []string) error {
		file, err := os.OpenFile(args[0], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		lk := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(file.Fd(), unix.F_SETLK, &lk); err != nil {
			return err
		}
		fmt.Println("locked")
		io.Copy(io.Discard, os.Stdin)
		return nil
	}
}

func TestPOSIXMechanismRecorded(t *testing.T) {
	path := lockPath(t)
	mustUnlock(t, mustLock(t, openWith(t, path, Options{Mechanism: POSIX}), ""))
	mustUnlock(t, mustLock(t, openWith(t, path, Options{}), ""))
	for _, m := range []Mechanism{Flock, Unix, TCP} {
		if _, err := Open(path, &Options{Mechanism: m, Port: 1}); !errors.Is(err, ErrIncompatible) || errors.Is(err, fs.ErrNotExist) ||
			!strings.Contains(err.Error(), fmt.Sprintf("used with posix locks, not %v locks", m)) {
			t.Errorf("with %v: %v", m, err)
		}
	}
}
