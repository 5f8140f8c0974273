package lockfile

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLinkStranger: a directory of claims that a stranger has made, or may write to, is
// none.
func TestLinkStranger(t *testing.T) {
	type fault struct {
		name string
		lock os.FileMode
		make func(dir string) error
		text string
	}
	faults := []fault{{"mode", 0o600, func(dir string) error { return os.Chmod(dir, 0o777) }, "drwxrwxrwx"}}
	if os.Getuid() == 0 {
		faults = append(faults,
			fault{"owner", 0o600, func(dir string) error { return errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, 2000, 0)) }, "uid 2000"},
			fault{"group", 0o660, func(dir string) error { return errors.Join(os.Chmod(dir, 0o770), os.Chown(dir, 0, 2000)) }, "gid 2000"})
	}
	recorded := func(path string) Mechanism {
		b, _ := os.ReadFile(path)
		m, err := checkHeader(b)
		if err != nil {
			t.Error(err)
		}
		return m
	}
	for _, tt := range faults {
		t.Run(tt.name, func(t *testing.T) {
			withFileSystem(t, "ext4", true)
			path := lockPath(t)
			claims := path + claimsSuffix
			if err := errors.Join(os.Mkdir(claims, 0o700), tt.make(claims)); err != nil {
				t.Fatal(err)
			}
			// A new file is not made a link lock by it.
			opts := Options{Mode: tt.lock}
			mustUnlock(t, mustLock(t, openWith(t, path, opts), ""))
			if m := recorded(path); m != defaultMechanism {
				t.Errorf("a new file is used with %v", m)
			}
			// Of one that is there it is not known what it was.
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			check := func(what string, err error) {
				t.Helper()
				if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), claims) {
					t.Errorf("%s: %v; want %q", what, err, tt.text)
				}
			}
			_, err := Open(path, &opts)
			check("Open of an empty file", err)
			_, err = Inspect(path)
			check("Inspect", err)
			// Nor is a link lock locked there.
			if err := errors.Join(os.Remove(path), os.Remove(claims)); err != nil {
				t.Fatal(err)
			}
			opts.Mechanism = Link
			openWith(t, path, opts)
			if err := tt.make(claims); err != nil {
				t.Fatal(err)
			}
			_, err = openWith(t, path, opts).TryLock("")
			check("TryLock", err)
			if err := errors.Join(os.RemoveAll(claims), os.Remove(path)); err != nil {
				t.Fatal(err)
			}
			mustUnlock(t, mustLock(t, openWith(t, path, opts), ""))
		})
	}
}

// TestLinkHardLinks: the second name of a file is not a second lock.
func TestLinkHardLinks(t *testing.T) {
	path := lockPath(t)
	l := mustLock(t, openLink(t, path), "")
	other := path + "2"
	if err := os.Link(path, other); err != nil {
		t.Fatal(err)
	}
	if _, err := openLink(t, other).TryLock(""); !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), "hard links") {
		t.Errorf("two holders: %v", err)
	}
	checkOnly(t, filepath.Dir(path), "LOCK", "LOCK2", "LOCK"+claimsSuffix)
	mustUnlock(t, l)
	if _, err := openLink(t, path).TryLock(""); !errors.Is(err, ErrIncompatible) {
		t.Errorf("TryLock of a file with two names: %v", err)
	}
	// One that was left by who created the file is removed.
	left := path + newSuffix + "x"
	if err := os.Rename(other, left); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, mustLock(t, openLink(t, path), ""))
	if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was left: %v", left, err)
	}
}

// TestLinkFIFO: what is no claim, or no directory, does not hang those who lock.
func TestLinkFIFO(t *testing.T) {
	lock := func(f *File) error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		result := make(chan error)
		go func() {
			_, err := f.Lock(ctx, "")
			result <- err
		}()
		select {
		case err := <-result:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("Lock hangs")
			return nil
		}
	}
	path := lockPath(t)
	f := openLink(t, path)
	fifo := filepath.Join(path+claimsSuffix, numberName(1))
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := lock(f); err == nil || !strings.Contains(err.Error(), fifo) {
		t.Errorf("a FIFO for a claim: %v", err)
	}
	if err := os.Remove(fifo); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, mustLock(t, f, ""))
	if err := errors.Join(os.RemoveAll(path+claimsSuffix), unix.Mkfifo(path+claimsSuffix, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := lock(f); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("a FIFO for the directory: %v", err)
	}
}

// TestLinkLongClaim: no more of a file is read than a claim has.
func TestLinkLongClaim(t *testing.T) {
	path := lockPath(t)
	f := openLink(t, path)
	name := filepath.Join(path+claimsSuffix, numberName(1))
	if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, 1<<40)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.TryLock(""); !errors.Is(err, ErrCorrupt) {
		t.Errorf("TryLock: %v", err)
	}
}

// TestLinkCopiedMachine: the end of a machine is not concluded from another that has
// its id and name, where both can have the file; and never if there is a lease.
func TestLinkCopiedMachine(t *testing.T) {
	old := self
	t.Cleanup(func() { self = old })
	me := old()
	me.BootID[0], me.MachineID[0] = 1, 1
	self = func() Holder { return me }
	copied := me
	copied.BootID[0] = 2
	if l := copied.Liveness(); l != Dead {
		t.Fatalf("liveness %v", l)
	}
	for _, tt := range []struct {
		local  bool
		lease  time.Duration
		broken bool
	}{{true, 0, true}, {false, 0, false}, {true, time.Hour, false}, {false, time.Hour, false}} {
		withFileSystem(t, "xfs", tt.local)
		path := lockPath(t)
		f := openLink(t, path)
		far := looker(t, path)
		far.record = func() []byte { return encodeHolder(copied) }
		far.lease = tt.lease
		if _, err := far.take(); err != nil {
			t.Fatal(err)
		}
		l, err := f.TryLock("")
		if (err == nil) != tt.broken || err != nil && !errors.Is(err, ErrLocked) {
			t.Errorf("%+v: %v", tt, err)
		}
		if l != nil {
			mustUnlock(t, l)
		}
		far.held.Swap(nil).end()
	}
}

// TestLinkRemove: nothing is left of a link lock, and the next may be of another kind.
func TestLinkRemove(t *testing.T) {
	path := lockPath(t)
	l := mustLock(t, openLink(t, path), "")
	if err := Remove(path); !errors.Is(err, ErrLocked) {
		t.Errorf("Remove of a lock that is held: %v", err)
	}
	mustUnlock(t, l)
	if names, err := RemoveUnused(filepath.Dir(path), 0); len(names) > 0 || err != nil {
		t.Errorf("RemoveUnused: %v, %v", names, err) // it is named LOCK
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	checkOnly(t, filepath.Dir(path))
	mustUnlock(t, mustLock(t, openWith(t, path, Options{Mechanism: defaultMechanism}), ""))
	other := filepath.Join(filepath.Dir(path), "other")
	openLink(t, other).Close()
	if names, err := RemoveUnused(filepath.Dir(path), 0); len(names) != 1 || err != nil {
		t.Errorf("RemoveUnused: %v, %v", names, err)
	}
	checkOnly(t, filepath.Dir(path), "LOCK")
}

// TestLinkRemoveRace: while others open the file, wait for the lock and take it.
func TestLinkRemoveRace(t *testing.T) {
	path := lockPath(t)
	var wg sync.WaitGroup
	var inside, over atomic.Int32
	for range 4 {
		wg.Go(func() {
			defer over.Add(1)
			f := openLink(t, path)
			for i := range 60 {
				l, err := f.Lock(t.Context(), "")
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) > 1 {
					t.Error("two holders")
				}
				if err := l.Check(); err != nil {
					t.Errorf("Check: %v", err)
				}
				inside.Add(-1)
				mustUnlock(t, l)
				if i%10 == 0 {
					f = openLink(t, path)
				}
			}
		})
	}
	removed := 0
	for over.Load() < 4 {
		switch err := Remove(path); {
		case err == nil:
			removed++
		case !errors.Is(err, ErrLocked) && !errors.Is(err, os.ErrNotExist):
			t.Errorf("Remove: %v", err)
		}
	}
	wg.Wait()
	t.Logf("removed %d times", removed)
	if err := Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	checkOnly(t, filepath.Dir(path))
}

// TestLinkOutdated: who has locked nothing, since the file was gone, has nothing when
// the file is back.
func TestLinkOutdated(t *testing.T) {
	path := lockPath(t)
	f := openLink(t, path)
	away := path + ".away"
	if err := errors.Join(os.Rename(path, away), os.RemoveAll(path+claimsSuffix)); err != nil {
		t.Fatal(err)
	}
	h := f.spare[0]
	if err := h.attempt(false); err != nil {
		t.Errorf("attempt: %v", err)
	}
	if err := os.Rename(away, path); err != nil {
		t.Fatal(err)
	}
	if same, err := h.named(path); same || err != nil {
		t.Errorf("named: %v, %v", same, err)
	}
	mustUnlock(t, mustLock(t, f, ""))

	// Nor is it an error for him that what is there now would not go with his file.
	path = lockPath(t)
	opts := Options{Mechanism: Link, Mode: 0o600}
	f = openWith(t, path, opts)
	if err := errors.Join(os.Remove(path), os.RemoveAll(path+claimsSuffix)); err != nil {
		t.Fatal(err)
	}
	opts.Mode = 0o666
	openWith(t, path, opts)
	mustUnlock(t, mustLock(t, f, ""))
}

// TestAgreedWithoutLocks: where the header cannot be locked, all the same agree on what
// a new file is used with, and an empty one is left alone.
func TestAgreedWithoutLocks(t *testing.T) {
	withFileSystem(t, "nfs4", false, "nolock")
	choosing.lock = func(*handle) error { return syscall.ENOLCK }
	for range 100 {
		path := lockPath(t)
		opts := []Options{{}, {Mechanism: Unix}, {Mechanism: TCP, Port: 1}, {Mechanism: Flock}}
		var got [8]Mechanism
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				f, err := Open(path, &opts[i%len(opts)])
				if err == nil {
					got[i] = f.spare[0].mechanism
					f.Close()
				} else if !errors.Is(err, ErrIncompatible) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		seen := map[Mechanism]bool{}
		for _, m := range got {
			seen[m] = m != Auto
		}
		delete(seen, Auto)
		if len(seen) != 1 {
			t.Fatalf("opened with %v", got)
		}
	}
	path := lockPath(t)
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []Options{{}, {Mechanism: Unix}, {Mechanism: OFD}} {
		if _, err := Open(path, &opts); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%v: %v", opts.Mechanism, err)
		}
	}
}

// TestRecordOfAnother: who takes the lock does not write over the header of another
// mechanism, and does put back one that is gone.
func TestRecordOfAnother(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{})
	mustUnlock(t, mustLock(t, f, ""))
	foreign := append(encodeHeader(Unix), make([]byte, 600)...)
	if err := os.WriteFile(path, foreign, 0o666); err != nil {
		t.Fatal(err)
	}
	l := mustLock(t, f, "mine")
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b[:headerSize], foreign[:headerSize]) {
		t.Errorf("the header is %q, %v", b[:headerSize], err)
	}
	mustUnlock(t, l)
	for _, n := range []int64{0, 10} {
		if err := os.Truncate(path, n); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			if err := os.WriteFile(path, encodeHeader(defaultMechanism)[:n], 0o666); err != nil {
				t.Fatal(err)
			}
		}
		l = mustLock(t, f, "mine")
		if h, ok, err := recorded(path); err != nil || !ok || h.Purpose != "mine" {
			t.Errorf("cut off at %d: %v, %v, %v", n, h, ok, err)
		}
		mustUnlock(t, l)
	}
}

// TestTruncatedInUse: a file that is locked and has lost its header is not used with
// another mechanism, nor one that another lock file was copied over.
func TestTruncatedInUse(t *testing.T) {
	all := []Options{{Mechanism: OFD}, {Mechanism: Flock}, {Mechanism: POSIX}, {Mechanism: Unix}, {Mechanism: Link}}
	for _, held := range all {
		if mechanisms[held.Mechanism] == nil {
			continue
		}
		for _, want := range append(all, Options{}) {
			if mechanisms[want.Mechanism] == nil && want.Mechanism != Auto {
				continue
			}
			if held.Mechanism == Unix && want.Mechanism != Unix {
				continue // nobody asks its socket
			}
			t.Run(held.Mechanism.String()+" "+want.Mechanism.String(), func(t *testing.T) {
				path := lockPath(t)
				l := mustLock(t, openWith(t, path, held), "")
				if err := os.Truncate(path, 0); err != nil {
					t.Fatal(err)
				}
				f, err := Open(path, &want)
				if err == nil {
					defer f.Close()
					_, err = f.TryLock("")
				}
				if !errors.Is(err, ErrLocked) && held.Mechanism != Link && want.Mechanism != Link || err == nil {
					t.Errorf("two holders: %v", err)
				}
				if err := l.Unlock(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if mechanisms[OFD] == nil {
		return
	}
	for _, want := range all[1:] {
		if want.Mechanism == POSIX {
			continue // which excludes the other
		}
		path := lockPath(t)
		f := openWith(t, path, Options{Mechanism: OFD})
		mustLock(t, f, "")
		if err := os.WriteFile(path, encodeHeader(want.Mechanism), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, &want); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "put in place") {
			t.Errorf("%v copied over: %v", want.Mechanism, err)
		}
	}
}
