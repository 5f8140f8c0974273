package lockfile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// queueLength counts the tickets that are locked.
var queueLength = func(t testing.TB, path string) (n int) {
	t.Helper()
	h, _, err := openRead("read", path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	// The kernel names any lock that conflicts, so look at each ticket there can
	// be. The counter says how many have been given out.
	var b [ticketSize]byte
	if _, err := h.readAt(b[:], ticketOffset); err != nil {
		t.Fatal(err)
	}
	for i := int64(firstTicket); i < int64(le.Uint64(b[:])); i += ticketStep {
		lk, err := h.locker.(*ofd).getlk(unix.F_WRLCK, i, 1)
		if err != nil {
			t.Fatal(err)
		}
		if lk.Type == unix.F_WRLCK && lk.Start == i && lk.Len == 1 {
			n++
		}
	}
	return n
}

// TestFIFO: between Files, that is between processes.
func TestFIFO(t *testing.T) {
	path := lockPath(t)
	l := mustLock(t, mustOpen(t, path), "")
	var waits []<-chan *Lock
	for i := range 10 {
		c, _ := lockLater(mustOpen(t, path), false)
		waits = append(waits, c)
		eventually(t, "in the queue", func() bool { return queueLength(t, path) == i+1 })
	}
	for _, c := range waits {
		mustUnlock(t, l)
		l = receive(t, c)
	}
	mustUnlock(t, l)
}

// TestNobodyPassesTheQueue: who comes when the lock has just been released, and
// the first waiter is being woken, does not get it. Nor does one who could share.
func TestNobodyPassesTheQueue(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	for i := range 200 {
		shared := i%2 == 1
		l := mustLock(t, f, "")
		w, _ := lockLater(g, false)
		eventually(t, "in the queue", func() bool { return queueLength(t, path) == 1 })
		mustUnlock(t, l)
		late, cancel := lockLater(f, shared)
		l = receive(t, w)
		if len(late) > 0 {
			t.Fatalf("passed the queue, shared %v", shared)
		}
		mustUnlock(t, l)
		mustUnlock(t, receive(t, late))
		cancel()
	}
}

func TestReadersDoNotStarveWriter(t *testing.T) {
	path := lockPath(t)
	var readers []*File
	for range 4 {
		readers = append(readers, mustOpen(t, path))
	}
	notStarved(t, mustOpen(t, path), slices.Repeat(readers, 4))
}

// TestReaderWaitsBehindWriter: even a reader of the File that is shared already.
func TestReaderWaitsBehindWriter(t *testing.T) {
	path := lockPath(t)
	f, g, w := mustOpen(t, path), mustOpen(t, path), mustOpen(t, path)
	r := mustRLock(t, f)
	locked, _ := lockLater(w, false)
	eventually(t, "in the queue", func() bool { return queueLength(t, path) == 1 })
	for _, file := range []*File{f, g} {
		if _, err := file.TryRLock(""); !errors.Is(err, ErrLocked) {
			t.Errorf("a reader passed a writer: %v", err)
		}
	}
	r2, _ := lockLater(f, true)
	eventually(t, "in the queue", func() bool { return queueLength(t, path) == 2 })
	mustUnlock(t, r)
	l := receive(t, locked)
	if len(r2) > 0 {
		t.Fatal("shared while locked exclusively")
	}
	mustUnlock(t, l)
	mustUnlock(t, receive(t, r2))
}

// TestCounterLost: the queue's counter only orders.
func TestCounterLost(t *testing.T) {
	path := lockPath(t)
	l := mustLock(t, mustOpen(t, path), "")
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var waits []<-chan *Lock
	for i, counter := range []uint64{0, 0, 1, 1 << 63, 1<<64 - 1, gate, gate - 2, gate - 1, 3, 2, 2} {
		var b [8]byte
		le.PutUint64(b[:], counter)
		if _, err := file.WriteAt(b[:], ticketOffset); err != nil {
			t.Fatal(err)
		}
		f := mustOpen(t, path)
		w, _ := lockLater(f, i%3 == 2)
		waits = append(waits, w)
		eventually(t, "waiting", waiting(f, 1))
	}
	mustUnlock(t, l)
	all := make(chan struct{})
	for _, w := range waits {
		go func() {
			if l := <-w; l != nil {
				l.Unlock()
			}
			all <- struct{}{}
		}()
	}
	for range waits {
		<-all
	}
	mustUnlock(t, mustLock(t, mustOpen(t, path), ""))
}

// TestRejoin: who takes over an abandoned wait is in the queue again.
func TestRejoin(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	l := mustLock(t, f, "")
	w, cancel := lockLater(g, false)
	eventually(t, "in the queue", func() bool { return queueLength(t, path) == 1 })
	cancel()
	<-w
	if n := queueLength(t, path); n != 0 {
		t.Errorf("%d in the queue after the only waiter gave up", n)
	}
	w, _ = lockLater(g, false)
	eventually(t, "in the queue", func() bool { return queueLength(t, path) == 1 })
	mustUnlock(t, l)
	mustUnlock(t, receive(t, w))
}

// TestForeignTickets: someone has locked what is not his to lock.
func TestForeignTickets(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	h, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if err := h.locker.(*ofd).setlk(unix.F_WRLCK, 1, gate-1, false); err != nil {
		t.Fatal(err)
	}
	w, _ := lockLater(f, false)
	eventually(t, "waiting", waiting(f, 1))
	if err := h.unlock(); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, receive(t, w))
}

func TestStaleRecord(t *testing.T) {
	path := lockPath(t)
	p := start(t, nil, "hold", path, "dying")
	p.expect("locked")
	if h, ok, err := recorded(path); err != nil || !ok || h.PID != p.cmd.Process.Pid || h.Purpose != "dying" {
		t.Errorf("Inspect = %v, %v, %v", h, ok, err)
	}
	p.kill()
	if h, ok, err := recorded(path); err != nil || ok {
		t.Errorf("Inspect = %v, %v, %v; want nobody: the process is dead", h, ok, err)
	}
	f := mustOpen(t, path)
	r := mustRLock(t, f)
	if h, ok, err := f.Holder(); err != nil || ok {
		t.Errorf("Holder() = %v, %v, %v; want nobody: the process is dead", h, ok, err)
	}
	mustUnlock(t, r)
}

// TestStaleRecordWholeFileLock: a process that has died does not become the holder
// again because a stranger has locked the file.
func TestStaleRecordWholeFileLock(t *testing.T) {
	path := lockPath(t)
	p := start(t, nil, "hold", path, "dying")
	p.expect("locked")
	p.kill()
	f := mustOpen(t, path)
	h, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if err := h.locker.(*ofd).setlk(unix.F_WRLCK, 0, 0, false); err != nil {
		t.Fatal(err)
	}
	if who, ok, err := f.Holder(); err != nil || ok {
		t.Errorf("Holder() = %v, %v, %v; want nobody who is known", who, ok, err)
	}
	var held *HeldError
	if _, err := f.TryLock(""); !errors.As(err, &held) || held.Known || strings.Contains(err.Error(), "pid") {
		t.Errorf("try: %v", err)
	}
}

// TestReaderAfterWriterAtGate: a writer gives up while he is about to join the
// queue, which leaves his acquirer behind, but not the reader who is next.
func TestReaderAfterWriterAtGate(t *testing.T) {
	path := lockPath(t)
	f, g := mustOpen(t, path), mustOpen(t, path)
	r := mustRLock(t, g)
	h, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if err := h.locker.(*ofd).setlk(unix.F_WRLCK, gate, 1, false); err != nil {
		t.Fatal(err)
	}
	writer, cancel := lockLater(f, false)
	eventually(t, "a writer at the gate", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.exclusively.running && len(f.spare) == 0
	})
	reader, _ := lockLater(f, true)
	eventually(t, "a reader behind him", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.waiters.Len() == 2
	})
	cancel()
	<-writer
	if err := h.unlock(); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, receive(t, reader))
	mustUnlock(t, r)
}

// TestReaderAfterTwoWriters: the writer before a reader has given up, and then the
// writer of another File before them, so that only readers are left.
func TestReaderAfterTwoWriters(t *testing.T) {
	path := lockPath(t)
	f, g, other := mustOpen(t, path), mustOpen(t, path), mustOpen(t, path)
	r := mustRLock(t, g)
	first, cancelFirst := lockLater(other, false)
	eventually(t, "a writer in the queue", func() bool { return queueLength(t, path) == 1 })
	second, cancelSecond := lockLater(f, false)
	eventually(t, "another", func() bool { return queueLength(t, path) == 2 })
	reader, _ := lockLater(f, true)
	eventually(t, "a reader behind him", waiting(f, 2))
	cancelSecond()
	<-second
	eventually(t, "the reader in the queue", func() bool { return waiting(f, 1)() && queueLength(t, path) == 2 })
	if len(reader) > 0 {
		t.Fatal("passed a writer")
	}
	cancelFirst()
	<-first
	mustUnlock(t, receive(t, reader))
	mustUnlock(t, r)
}

// TestReadersTogether: readers of several Files who queue behind a writer are let in
// together, one of them by way of a wait that began as a writer's.
func TestReadersTogether(t *testing.T) {
	path := lockPath(t)
	files := []*File{mustOpen(t, path), mustOpen(t, path), mustOpen(t, path)}
	l := mustLock(t, mustOpen(t, path), "")
	writer, cancel := lockLater(files[0], false)
	eventually(t, "a writer in the queue", func() bool { return queueLength(t, path) == 1 })
	cancel()
	<-writer
	var readers []<-chan *Lock
	for i, f := range files {
		r, _ := lockLater(f, true)
		readers = append(readers, r)
		eventually(t, "in the queue", func() bool { return queueLength(t, path) == i+1 })
	}
	mustUnlock(t, l)
	var held []*Lock
	for _, r := range readers {
		held = append(held, receive(t, r))
	}
	for _, r := range held {
		mustUnlock(t, r)
	}
}

func TestPermissions(t *testing.T) {
	top, nobody := nobodysDir(t, 0o755)
	dir := filepath.Join(top, "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "LOCK")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(path, 0o444), os.Chmod(dir, 0o555)); err != nil {
		t.Fatal(err)
	}
	p := start(t, nobody, "open", path)
	if s := p.line(); !strings.Contains(s, "permission denied") || !strings.Contains(s, fmt.Sprintf("uid %d", os.Getuid())) ||
		!strings.Contains(s, "-r--r--r--") || !strings.Contains(s, "chmod") {
		t.Errorf("no permission on the file: %s", s)
	}
	p.finish()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	p = start(t, nobody, "open", path)
	p.expect("locked") // nothing need be written to the directory
	p.finish()
	if err := os.Chmod(dir, 0o755); err != nil { // so that root can remove it
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	p = start(t, nobody, "open", path)
	if s := p.line(); !strings.Contains(s, "permission denied") {
		t.Errorf("no permission on the directory: %s", s)
	}
	p.finish()
	os.Chmod(dir, 0o755)
}

// TestInspectReadOnly: a reader needs no permission to write.
func TestInspectReadOnly(t *testing.T) {
	path := lockPath(t)
	f, err := Open(path, &Options{Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := mustLock(t, f, "work")
	defer l.Unlock()
	h, _, err := openRead("read", path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if st, err := h.probe(); err != nil || st != Exclusive {
		t.Errorf("probe of a descriptor open for reading: %v, %v", st, err)
	}
}

// TestFlockCommand: a program that locks the whole file with fcntl.
func TestFlockCommand(t *testing.T) {
	help, err := exec.Command("flock", "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(help), "--fcntl") {
		t.Skip("there is no flock(1) with --fcntl")
	}
	path := lockPath(t)
	f := mustOpen(t, path)
	try := func() error { return exec.Command("flock", "--fcntl", "--nonblock", path, "true").Run() }
	l := mustLock(t, f, "")
	if try() == nil {
		t.Error("flock(1) has the lock too")
	}
	mustUnlock(t, l)
	if err := try(); err != nil {
		t.Error(err)
	}
}

// TestWholeFileLock is the same without the command.
func TestWholeFileLock(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	h, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	l := mustLock(t, f, "")
	if err := h.locker.(*ofd).setlk(unix.F_WRLCK, 0, 0, false); err != errBusy {
		t.Errorf("locked the whole file of a holder: %v", err)
	}
	mustUnlock(t, l)
	if err := h.locker.(*ofd).setlk(unix.F_WRLCK, 0, 0, false); err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := f.TryLock(""); !errors.As(err, &held) || held.Known {
		t.Errorf("try: %v", err)
	}
	other, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if _, err := other.locker.(*ofd).takeTicket(ticketStep); err != errForeign {
		t.Errorf("a ticket under a stranger's lock: %v", err)
	}
	w, _ := lockLater(f, false)
	eventually(t, "waiting", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.exclusively.running
	})
	if err := h.unlock(); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, receive(t, w))
}
