package lockfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestLinkGeneral is those of the general tests that are about exclusive locks, and not
// about an order, or what happens when the lock file alone is removed: the claims, which
// are the lock, are not removed with it.
func TestLinkGeneral(t *testing.T) {
	withMechanism(t, Link)
	for _, name := range []string{
		"HolderKilled", "WaitersKilled", "DeadlineNamesHolder", "WaitOrder", "UnlockOnce",
		"DirectoryGone", "OpenRefuses", "OpenKinds", "Close", "DataWhole", "CreatedByMany",
		"Chdir", "Fairness",
	} {
		i := slices.IndexFunc(generalTests, func(tt struct {
			name string
			test func(*testing.T)
		},
		) bool {
			return tt.name == name
		})
		t.Run(name, generalTests[i].test)
	}
}

func openLink(t testing.TB, path string) *File {
	return openWith(t, path, Options{Mechanism: Link})
}

// linkerOf is for a lock that is held.
func linkerOf(l *Lock) *linker { return l.h.locker.(*linker) }

func claimNames(t testing.TB, path, prefix string) []uint64 {
	es, err := os.ReadDir(path + claimsSuffix)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	if prefix == tmpPrefix {
		n := 0
		for _, name := range names {
			if strings.HasPrefix(name, tmpPrefix) {
				n++
			}
		}
		return make([]uint64, n)
	}
	return numbers(names, prefix)
}

func TestLinkExcludes(t *testing.T) {
	path := lockPath(t)
	var n int
	var wg sync.WaitGroup
	for i := range 4 {
		f := openLink(t, path)
		for range 2 {
			wg.Go(func() {
				for range 30 {
					l := mustLock(t, f, "")
					n++
					mustUnlock(t, l)
				}
			})
		}
		if i%2 == 0 {
			wg.Go(func() {
				for range 100 {
					if l, err := f.TryLock(""); err == nil {
						n++
						n--
						mustUnlock(t, l)
					} else if !errors.Is(err, ErrLocked) {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	if n != 240 {
		t.Errorf("counted %d, want 240", n)
	}
	if ns := claimNames(t, path, ""); len(ns) > keepNumbers+retireAtOnce+4 {
		t.Errorf("%d numbers are left", len(ns))
	}
	if n := len(claimNames(t, path, tmpPrefix)); n > 0 {
		t.Errorf("%d temporary files are left", n)
	}
	_, err := openLink(t, path).TryRLock("")
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "link locks cannot be shared") {
		t.Errorf("a shared lock: %v", err)
	}
}

// TestLinkFileRemoved: the lock is not lost with the file.
func TestLinkFileRemoved(t *testing.T) {
	path := lockPath(t)
	f := openLink(t, path)
	l := mustLock(t, f, "old")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	// With no mechanism named: the claims tell.
	g := openWith(t, path, Options{})
	for _, f := range []*File{f, g} {
		if _, err := f.TryLock(""); !errors.Is(err, ErrLocked) {
			t.Errorf("two holders: %v", err)
		}
	}
	if err := l.Check(); !errors.Is(err, ErrReplaced) {
		t.Errorf("Check: %v", err)
	}
	mustUnlock(t, l)
	mustUnlock(t, mustLock(t, g, ""))

	// With the claims it is.
	l = mustLock(t, g, "")
	if err := os.RemoveAll(path + claimsSuffix); err != nil {
		t.Fatal(err)
	}
	if err := linkerOf(l).check(); !errors.Is(err, ErrLost) {
		t.Errorf("check: %v", err)
	}
	select {
	case <-linkerOf(l).lost():
	default:
		t.Error("the channel is not closed")
	}
	l2 := mustLock(t, f, "")
	if err := l.Unlock(); !errors.Is(err, ErrLost) {
		t.Errorf("Unlock: %v", err)
	}
	if err := errors.Join(linkerOf(l2).check(), l2.Check()); err != nil {
		t.Error(err)
	}
	if h, ok, err := f.Holder(); err != nil || !ok || h.PID != os.Getpid() {
		t.Errorf("the record of the new holder: %v, %v, %v", h, ok, err)
	}
	mustUnlock(t, l2)
}

// TestLinkTruncated: the lock file's contents are not the lock.
func TestLinkTruncated(t *testing.T) {
	path := lockPath(t)
	l := mustLock(t, openLink(t, path), "work")
	for _, opts := range []Options{{}, {Mechanism: Link}} {
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		if h, ok, err := recorded(path); err != nil || !ok || h.PID != os.Getpid() {
			t.Errorf("Inspect: %v, %v, %v", h, ok, err)
		}
		if _, err := openWith(t, path, opts).TryLock(""); !errors.Is(err, ErrLocked) {
			t.Errorf("two holders: %v", err)
		}
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, &Options{Mechanism: Flock}); !errors.Is(err, ErrIncompatible) {
		t.Errorf("Flock: %v", err)
	}
	mustUnlock(t, l)
	if h, ok, err := recorded(path); err != nil || ok {
		t.Errorf("Inspect: %v, %v, %v", h, ok, err)
	}
	// An empty file that was none before is not adopted.
	path = lockPath(t)
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, &Options{Mechanism: Link}); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("an empty file: %v", err)
	}
	// Unless it gets a header meanwhile.
	time.AfterFunc(20*time.Millisecond, func() { os.WriteFile(path, encodeHeader(Link), 0o666) })
	mustUnlock(t, mustLock(t, openLink(t, path), ""))
}

func TestLinkModes(t *testing.T) {
	for mode, want := range map[os.FileMode][2]os.FileMode{
		0o600: {0o700, 0o600},
		0o644: {0o755, 0o644},
		0o664: {0o775 | os.ModeSetgid, 0o644},
		0o660: {0o770 | os.ModeSetgid, 0o640},
		0o666: {0o777 | os.ModeSetgid, 0o644},
	} {
		path := lockPath(t)
		opts := Options{Mechanism: Link, Mode: mode}
		gid := 12345
		if os.Getuid() == 0 {
			opts.Group = &gid
		}
		l := mustLock(t, openWith(t, path, opts), "")
		for i, name := range []string{path + claimsSuffix, filepath.Join(path+claimsSuffix, numberName(1))} {
			fi, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := fi.Mode() &^ os.ModeDir; got != want[i] {
				t.Errorf("%v: %s has mode %v, want %v", mode, filepath.Base(name), got, want[i])
			}
			if st := fmt.Sprintf("%+v", fi.Sys()); os.Getuid() == 0 && !strings.Contains(st, "Gid:12345") {
				t.Errorf("%v: %s: %s", mode, filepath.Base(name), st)
			}
		}
		mustUnlock(t, l)
	}
	for in, want := range map[os.FileMode]os.FileMode{0o640: 0o750, 0o606: 0o707, 0o620: 0o700, 0o444: 0o755} {
		if got := claimsMode(in); got != want {
			t.Errorf("claimsMode(%v) = %v, want %v", in, got, want)
		}
	}
	entries, _ := os.ReadDir(filepath.Dir(lockPath(t)))
	if len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

// TestGiveClaims: what somebody has put in place of the directory of claims, before it
// got its permissions, does not get them.
func TestGiveClaims(t *testing.T) {
	dir := t.TempDir()
	private, full, empty := filepath.Join(dir, "private"), filepath.Join(dir, "full"), filepath.Join(dir, "empty")
	if err := os.WriteFile(private, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{full, empty, filepath.Join(full, "x")} {
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{private, full, empty} {
		link := target + ".link"
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{link, target} {
			before, err := os.Stat(target)
			if err != nil {
				t.Fatal(err)
			}
			err = giveClaims(name, os.Getgid(), 0o777)
			after, statErr := os.Stat(target)
			if statErr != nil {
				t.Fatal(statErr)
			}
			if name == empty {
				if err != nil || after.Mode().Perm() != 0o777 {
					t.Errorf("%s: %v, mode %v", name, err, after.Mode())
				}
			} else if err == nil || after.Mode() != before.Mode() {
				t.Errorf("%s: %v, and mode %v after %v", name, err, after.Mode(), before.Mode())
			}
		}
	}
}

// TestLinkRemoveExtras: the directory goes while others have it open and wait.
func TestLinkRemoveExtras(t *testing.T) {
	path := lockPath(t)
	f := openLink(t, path)
	var wg sync.WaitGroup
	var inside atomic.Int32
	for range 4 {
		g := openLink(t, path)
		wg.Go(func() {
			for range 10 {
				l := mustLock(t, g, "")
				if inside.Add(1) > 1 {
					t.Error("two holders")
				}
				time.Sleep(time.Millisecond)
				inside.Add(-1)
				mustUnlock(t, l)
			}
		})
	}
	for range 10 {
		l := mustLock(t, f, "")
		if inside.Add(1) > 1 {
			t.Error("two holders")
		}
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
		inside.Add(-1)
		if err := linkerOf(l).removeExtras(); err != nil {
			t.Error(err)
		}
		mustUnlock(t, l)
		time.Sleep(2 * time.Millisecond)
	}
	wg.Wait()
	mustUnlock(t, mustLock(t, f, ""))
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// TestLinkStaleListing: a directory that is shown once as it was before the link does not
// leave a claim behind that this process holds against itself.
func TestLinkStaleListing(t *testing.T) {
	path := lockPath(t)
	var armed, linked atomic.Bool
	var before []string
	withFaults(t, faultyDir{
		onLink: func(link func() error, _ string) error {
			err := link()
			linked.Store(armed.Load())
			return err
		},
		onNames: func(names func() ([]string, error)) ([]string, error) {
			if linked.CompareAndSwap(true, false) {
				armed.Store(false)
				return before, nil
			}
			var err error
			before, err = names()
			return before, err
		},
	})
	f := openLink(t, path)
	mustUnlock(t, mustLock(t, f, ""))
	armed.Store(true)
	l, err := f.TryLock("")
	if err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
	if armed.Load() {
		t.Error("no listing was old")
	}
}
