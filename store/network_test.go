package store

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
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

	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/internal/vfs/faultfs"
	"github.com/recordstore/recordstore/lockfile"
)

// A staleDir shows its names as they were once, from some moment on.
type staleDir struct {
	*faultfs.Disk
	names *atomic.Pointer[[]string] // nil: as they are
}

func newStaleDir(d *faultfs.Disk) staleDir { return staleDir{d, new(atomic.Pointer[[]string])} }

func (d staleDir) ReadDir(dir string) ([]string, error) {
	if names := d.names.Load(); names != nil {
		return *names, nil
	}
	return d.Disk.ReadDir(dir)
}

// openStale opens a store in such a directory.
func openStale(t *testing.T) (*simMachine, staleDir, *Store) {
	t.Helper()
	m := newMachine(faultfs.NewDisk(), 1)
	dir := newStaleDir(m.disk)
	sys := m.system(plain(m.disk))
	sys.fs = dir
	s := mustOpen(t, simDir, &Options{Network: true}, sys)
	t.Cleanup(func() { s.Close() })
	return m, dir, s
}

// remember has the directory shown as it is now, when the function returned is called.
func (d staleDir) remember(t *testing.T) (show func()) {
	t.Helper()
	names, err := d.Disk.ReadDir(simDir)
	if err != nil {
		t.Fatal(err)
	}
	return func() { d.names.Store(&names) }
}

// A stale listing is no reason to say that the store was replaced, nor to wait: what was
// seen is there. If it is not, who has no time to look again is told that.
func TestStaleListing(t *testing.T) {
	m, dir, s := openStale(t)
	mustUpdate(t, s, "w/0")
	show := dir.remember(t)
	mustUpdate(t, s, "w/1")
	show()
	if _, err := s.Get(t.Context(), "w/1"); err != nil {
		t.Errorf("Get: %v", err)
	}
	if err := m.disk.Remove(s.manifestPath(s.cur.Load().seq)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, "w/1"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrReplaced) {
		t.Errorf("Get of what is gone: %v", err)
	}
}

// An orphan is not taken for a commit by a listing that is older than what retirement
// leaves, and shows what its writer has published since.
func TestStaleSettles(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	m.lock = nil
	bsys := m.system(plain(m.disk))
	bsys.keep, bsys.keepAge = keepManifests, 0
	b := mustOpen(t, simDir, &Options{Network: true}, bsys)
	defer b.Close()

	stop := stopAt(faultfs.OpLink, 2)
	dir := newStaleDir(m.disk)
	asys := m.system(&faultfs.Hooked{FS: dir, Before: stop.before})
	a := mustOpen(t, simDir, &Options{Network: true}, asys)
	defer a.Close()
	done := start(a, "a/0") // stands still before it links 2
	<-stop.reached

	mustUpdate(t, b, "b/0") // the true 2
	show := dir.remember(t)
	for n := 0; ; n++ {
		mustUpdate(t, b, updateKey("b/n", n))
		seqs, _, err := b.list()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(seqs, 2) {
			break
		}
	}
	show()
	close(stop.goOn)
	if err := <-done; !errors.Is(err, ErrUnknown) {
		t.Errorf("a: %v, want that it is not known", err)
	}
}

// Others may make more commits than a manifest lists ancestors while a writer stands still
// after publishing. As long as its base is there it stands, over a network too.
func TestManyPass(t *testing.T) {
	for _, network := range []bool{false, true} {
		m := newMachine(faultfs.NewDisk(), 1)
		m.lock = nil
		opts := &Options{Network: network}
		kind := faultfs.OpRename
		if network {
			kind = faultfs.OpLink
		}
		at := stopAt(kind, 2).at
		reached, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		sys := m.system(&faultfs.Hooked{FS: m.disk, After: func(op faultfs.Op, err error) error {
			if at(op) {
				once.Do(func() {
					close(reached)
					<-goOn
				})
			}
			return err
		}})
		sys.keep = 1000
		a := mustOpen(t, simDir, opts, sys)
		defer a.Close()
		sys = m.system(plain(m.disk))
		sys.keep = 1000
		b := mustOpen(t, simDir, opts, sys)
		defer b.Close()
		done := start(a, "a/0")
		<-reached
		for i := range maxAncestors + 2 {
			mustUpdate(t, b, updateKey("b", i))
		}
		close(goOn)
		if err := <-done; err != nil {
			t.Errorf("network %v: %v", network, err)
		}
	}
}

// link says that the name is taken, and it is, but the listing is old: another's commit on
// the same base is an answer.
func TestTakenUnlisted(t *testing.T) {
	m, dir, s := openStale(t)
	other := mustOpen(t, simDir, &Options{Network: true}, m.system(plain(m.disk)))
	defer other.Close()
	mustUpdate(t, s, "s/0")
	show := dir.remember(t)
	mustUpdate(t, other, "o/0")
	show()
	setHint(t, m) // or it would be known of
	runs := 0
	_, err := s.Update(t.Context(), func(tx *Tx) error {
		if runs++; runs == 2 { // the first run's commit was refused
			dir.names.Store(nil)
		}
		return tx.Put("s/1", 1)
	})
	if err != nil || runs < 2 {
		t.Errorf("%v, after %d runs", err, runs)
	}
}

// A process that has written alone, and then nothing for long, does not take its own last
// commit for the newest: others may have merged since, and what it has open may be gone.
func TestGuessExpired(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	opts := &Options{Network: true, JournalSize: softJournal, CacheSize: -1}
	h := plain(m.disk)
	h.Before = func(op faultfs.Op) error {
		if op.Kind == faultfs.OpRead && strings.Contains(op.Path, segmentPrefix) {
			if _, err := m.disk.Lstat(op.Path); err != nil {
				return syscall.ESTALE // as on NFS
			}
		}
		return nil
	}
	s := mustOpen(t, simDir, opts, m.system(h))
	defer s.Close()
	other := mustOpen(t, simDir, opts, m.system(plain(m.disk)))
	defer other.Close()
	for i := range 2 * ownRow {
		mustUpdate(t, s, updateKey("s", i))
	}
	for i := range 20 {
		mustUpdate(t, other, updateKey("o", i))
	}
	_, err := s.Update(t.Context(), func(tx *Tx) error {
		for i := range 2 * ownRow {
			if _, err := tx.Get(updateKey("s", i)); err != nil {
				t.Errorf("the function met %v at revision %d", err, tx.Revision())
			}
		}
		return tx.Put("t/0", 1)
	})
	if err != nil {
		t.Error(err)
	}
}

// A temporary file that was swept, and that the server has forgotten, is no caller's error.
func TestTempForgotten(t *testing.T) {
	for _, kind := range []string{faultfs.OpWrite, faultfs.OpSync} {
		m := newMachine(faultfs.NewDisk(), 1)
		var armed atomic.Bool
		s := mustOpen(t, simDir, &Options{Network: true}, m.system(&faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
			if op.Kind == kind && vfs.IsTemp(filepath.Base(op.Path)) && armed.CompareAndSwap(true, false) {
				return syscall.ESTALE
			}
			return nil
		}}))
		defer s.Close()
		armed.Store(true)
		if _, err := applyUpdate(t.Context(), s, "w/0", nil); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if armed.Load() {
			t.Errorf("%s: not met", kind)
		}
	}
}

// Somebody cannot open a manifest that is there: no segment that it names is removed.
func TestForgottenLowest(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	opts := &Options{Network: true, JournalSize: hardJournal}
	var forgotten []string
	sys := m.system(&faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
		if op.Kind == faultfs.OpOpen && slices.Contains(forgotten, op.Path) {
			return syscall.ESTALE
		}
		return nil
	}})
	sys.keep = 4
	s := mustOpen(t, simDir, opts, sys)
	defer s.Close()
	for i := range 40 {
		seqs, _, _ := s.list()
		if i > 10 {
			for _, seq := range seqs[:min(len(seqs), 3)] {
				forgotten = append(forgotten, s.manifestPath(seq))
			}
		}
		_, err := applyUpdate(t.Context(), s, updateKey("w", i), nil)
		settle(s)
		forgotten = nil
		if err != nil {
			continue // the file system's, of a base that cannot be opened
		}
		seqs, names, _ := s.list()
		for _, seq := range seqs {
			h, err := s.loadHeader(seq)
			if err != nil {
				t.Fatal(err)
			}
			for _, ref := range h.segments {
				if !slices.Contains(names, ref.name()) {
					t.Fatalf("update %d: manifest %d names %s, which is gone", i, seq, ref.name())
				}
			}
		}
	}
}

// The first who uses a store over a network after it was used locally cannot know whether
// the power has failed since: revisions that were seen, and lost, are not given again.
func TestRecoverAfar(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	var failing atomic.Bool
	s := mustOpen(t, simDir, nil, m.system(&faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
		if failing.Load() && (op.Kind == faultfs.OpSync || op.Kind == faultfs.OpSyncDir) {
			return errDead
		}
		return nil
	}}))
	mustUpdate(t, s, "w/0")
	failing.Store(true)
	if _, err := applyUpdate(t.Context(), s, "w/1", nil); !errors.Is(err, ErrNotDurable) {
		t.Fatal(err)
	}
	seen := s.cur.Load().lastRev
	settle(s)

	for _, torn := range []bool{false, true} {
		lost := m.disk.PowerLoss(func(n int) int {
			if torn && n == 2 {
				return 0 // the name is kept
			}
			return n - 1
		})
		again := newMachine(lost, 2)
		afar := again.system(&faultfs.Hooked{FS: lost, Before: func(op faultfs.Op) error {
			if op.Kind == faultfs.OpLink && len(again.lock) == 0 {
				t.Error("published without LOCK")
			}
			return nil
		}})
		s, err := open(simDir, &Options{Network: true}, afar)
		if torn {
			if err == nil || !strings.Contains(err.Error(), "without Options.Network") {
				t.Errorf("a torn manifest: %v, want to be told where to open the store", err)
			}
			mustUpdate(t, mustOpen(t, simDir, nil, again.system(plain(lost))), "w/2")
			s, err = open(simDir, &Options{Network: true}, afar)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			before := s.cur.Load().lastRev
			rev, err := applyUpdate(t.Context(), s, updateKey("x", i), nil)
			if err != nil || rev <= seen {
				t.Fatalf("revision %d, %v; %d was seen before the power failed", rev, err, seen)
			}
			if i > 0 && rev != before+1 {
				t.Errorf("revision %d follows %d: there is one gap", rev, before)
			}
		}
		s.Close()
	}
}

// A directory that is shown as it was before there was a store is looked at once more if
// LOCK says otherwise.
func TestStaleEmpty(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	mustUpdate(t, mustOpen(t, simDir, &Options{Network: true}, m.system(plain(m.disk))), "w/0")
	for _, opts := range []*Options{{ReadOnly: true}, {NoCreate: true}, {}} {
		stale := true
		sys := m.system(plain(m.disk))
		sys.fs = listing{m.disk, func(names []string) []string {
			if !stale {
				return names
			}
			stale = false
			return []string{lockName}
		}}
		opts.Network = true
		s, err := open(simDir, opts, sys)
		if err != nil {
			t.Errorf("%+v: %v", opts, err)
			continue
		}
		if _, err := s.Get(t.Context(), "w/0"); err != nil {
			t.Errorf("%+v: %v", opts, err)
		}
		s.Close()
	}
}

// Those who read at the same time look once for all of them, and none longer than his
// context lasts.
func TestReadTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause = time.Second
		m := newMachine(faultfs.NewDisk(), 1)
		var listings atomic.Int64
		h := plain(m.disk)
		slow := false
		h.Before = func(op faultfs.Op) error {
			if slow && op.Kind == faultfs.OpReadDir {
				listings.Add(1)
				time.Sleep(pause)
			}
			return nil
		}
		s := mustOpen(t, simDir, &Options{Network: true}, m.system(h))
		mustUpdate(t, s, "w/0")
		settle(s)
		slow = true
		var wg sync.WaitGroup
		began := time.Now()
		for range 32 {
			wg.Go(func() {
				if _, err := s.Get(t.Context(), "w/0"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			time.Sleep(pause / 4)
			ctx, cancel := context.WithTimeout(t.Context(), pause/4)
			defer cancel()
			if _, err := s.Get(ctx, "w/0"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > pause*3/4 {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
		wg.Wait()
		// One for the first, and one that began after all others had come.
		if n := listings.Load(); n > 2 || time.Since(began) > 2*pause {
			t.Errorf("%d listings, %v", n, time.Since(began))
		}
		slow = false
		s.Close()
	})
}

// A name that a later version has taken is taken, and it is said at once.
func TestPublishUnderNewer(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	var newer []byte
	h := plain(m.disk)
	h.Before = func(op faultfs.Op) error {
		if op.Kind != faultfs.OpLink || newer == nil {
			return nil
		}
		b := newer
		newer = nil
		return m.disk.WriteFile(op.Path, b)
	}
	s := mustOpen(t, simDir, &Options{Network: true}, m.system(h))
	defer s.Close()
	mustUpdate(t, s, "w/0")
	b, err := m.disk.ReadFile(simDir + "/" + manifestName(2))
	if err != nil {
		t.Fatal(err)
	}
	newer = sealPrologue(b, formatVersion+1, 0)
	began := time.Now()
	_, err = s.Put(t.Context(), "w/1", 1)
	if !errors.Is(err, ErrNewerVersion) || errors.Is(err, ErrUnknown) || errors.Is(err, fs.ErrExist) || time.Since(began) > patience/2 {
		t.Errorf("Put: %v, after %v", err, time.Since(began))
	}
}

// onlyTwo is a disk of which a listing shows manifest 2 alone, once, when it is told to.
func onlyTwo(m *simMachine, partial *atomic.Bool) vfs.FS {
	return listing{m.disk, func(names []string) []string {
		if !partial.CompareAndSwap(true, false) {
			return names
		}
		return []string{lockName, manifestName(2)}
	}}
}

// A listing that is read while names come and go may show what was just published as the
// highest, though it is an orphan: its base is gone by then.
func TestOrphanIsHighest(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	m.lock = nil
	network := &Options{Network: true}
	b := mustOpen(t, simDir, network, m.system(plain(m.disk)))
	defer b.Close()
	stop := stopAt(faultfs.OpLink, 2)
	var partial atomic.Bool
	sys := m.system(&faultfs.Hooked{
		FS:     onlyTwo(m, &partial),
		Before: stop.before,
		After: func(op faultfs.Op, err error) error {
			if stop.at(op) && err == nil {
				partial.Store(true)
			}
			return err
		},
	})
	a := mustOpen(t, simDir, network, sys)
	defer a.Close()
	done := start(a, "a/0")
	<-stop.reached
	mustUpdate(t, b, "b/0", "b/1", "b/2", "b/3", "b/4")
	if seqs, _, err := b.list(); err != nil || slices.Contains(seqs, 2) {
		t.Fatalf("%v, %v; want 2 retired", seqs, err)
	}
	close(stop.goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if partial.Load() {
		t.Error("the directory was not listed after publishing")
	}
	wantState(t, sys, "b/0", "b/1", "b/2", "b/3", "b/4", "a/0")
}

// A temporary file that has waited for LOCK for so long that somebody may have swept it is
// not published: over a network that would end with a fate that nobody knows.
func TestTempWaitsTooLong(t *testing.T) {
	for _, network := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine(faultfs.NewDisk(), 1)
			var created, removed atomic.Int64
			h := plain(m.disk)
			h.Before = func(op faultfs.Op) error {
				switch {
				case op.Kind == faultfs.OpCreate:
					created.Add(1)
				case op.Kind == faultfs.OpRemove && vfs.IsTemp(filepath.Base(op.Path)):
					removed.Add(1)
				}
				return nil
			}
			s := mustOpen(t, simDir, &Options{Network: network}, m.system(h))
			defer s.Close()
			settle(s)
			m.lock <- struct{}{}
			created.Store(0)
			removed.Store(0)
			done := start(s, "w/0")
			time.Sleep(2 * tempPatience)
			if n := removed.Load(); created.Load() != 1 || n != 0 {
				t.Errorf("%d temporary files, %d removed before LOCK is had", created.Load(), n)
			}
			<-m.lock
			if err := <-done; err != nil {
				t.Error(err)
			}
			settle(s)
			if n := created.Load(); n != 2 {
				t.Errorf("%d temporary files, want the old one and a new one", n)
			}
		})
	}
}

// A file of the group's can be read by nobody else before it has its group.
func TestCreatedPrivate(t *testing.T) {
	for mode, want := range map[fs.FileMode]fs.FileMode{0o600: 0o600, 0o640: 0o600, 0o660: 0o600, 0o644: 0o644, 0o604: 0o600} {
		var got []fs.FileMode
		s := testStore(t, &Options{Mode: mode}, func(sys *system) {
			sys.fs = createModes{sys.fs, &got}
		})
		got = nil // that of manifest 1
		mustPut(t, s, "k", 1)
		settle(s)
		if !slices.Equal(got, []fs.FileMode{want}) {
			t.Errorf("mode %v: created with %v, want %v", mode, got, want)
		}
		info, err := os.Lstat(s.manifestPath(2))
		if err != nil || info.Mode().Perm() != mode&^0o222 {
			t.Errorf("mode %v: %v, %v", mode, info.Mode(), err)
		}
	}
}

// createModes notes with which modes temporary files are created.
type createModes struct {
	vfs.FS
	got *[]fs.FileMode
}

func (c createModes) CreateTemp(dir string, perm fs.FileMode) (vfs.File, error) {
	*c.got = append(*c.got, perm)
	return c.FS.CreateTemp(dir, perm)
}

// What a commit asks of the file system over a network, besides its own file. It lists the
// directory after publishing, and before if LOCK tells nothing, and looks at the base
// before and after publishing: at what it has seen before, if the base is another's, which
// it reads as well. LOCK tells which that is.
func TestCallsAfar(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	var mu sync.Mutex
	n := make(map[string]int)
	h := plain(m.disk)
	h.Before = func(op faultfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		n[op.Kind]++
		return nil
	}
	sys := m.system(h)
	sys.retireEvery, sys.keepAge = 1000, 0
	s := mustOpen(t, simDir, &Options{Network: true}, sys)
	defer s.Close()
	other := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
	defer other.Close()
	check := func(when, key string, listings, opened int) {
		t.Helper()
		clear(n)
		mustUpdate(t, s, key)
		if n[faultfs.OpReadDir] != listings || n[faultfs.OpOpen] != opened || n[faultfs.OpLink] != 1 {
			t.Errorf("%s: %v; want %d listings, %d files opened, 1 link", when, n, listings, opened)
		}
	}
	check("at first", "first/0", 2, 2) // LOCK says nothing yet
	for i := range ownRow {
		check("at first", updateKey("first", i+1), 1, 2)
	}
	check("alone", "alone/0", 1, 2)
	check("alone", "alone/1", 1, 2)
	mustUpdate(t, other, "other/0")
	mustUpdate(t, s, "s/0") // on a wrong guess
	for i := range ownRow {
		check("not alone", updateKey("again", i), 1, 2)
	}
	check("alone again", "alone/2", 1, 2)
	for i := range 3 {
		mustUpdate(t, other, updateKey("more", i))
		mustUpdate(t, s, updateKey("s/more", i))
	}
	mustUpdate(t, other, "other/1")
	check("others write", "s/1", 1, 3)
	mustUpdate(t, other, "other/2")
	setHint(t, m)
	check("without a hint", "s/2", 2, 3)
}

// Over NFS 3 who writes alone says once that he gives no hint, and leaves LOCK alone after
// that; who comes then lists the directory, and writes on the newest state at once.
func TestAloneOnNFS3(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	sys := m.system(plain(m.disk))
	sys.retireEvery = 1000
	opts := &Options{Network: true}
	s := mustOpen(t, simDir, opts, sys)
	defer s.Close()
	other := mustOpen(t, simDir, opts, sys)
	defer other.Close()
	s.nfs3, other.nfs3 = true, true
	hint := func() uint64 { return s.lock.(*simLock).hintOf(t) }
	for round := range 2 {
		for i := range ownRow + 5 {
			mustUpdate(t, s, updateKey("s", 100*round+i))
			want := s.cur.Load().seq
			if i > ownRow {
				want = 0
			}
			if i == ownRow+2 {
				setHint(t, m, 1) // to see that nothing is written any more
			}
			if i >= ownRow+2 {
				want = 1
			}
			if got := hint(); got != want {
				t.Errorf("after %d commits LOCK says that %d is the newest, want %d", i+1, got, want)
			}
		}
		setHint(t, m, 0)
		runs := 0
		if _, err := other.Update(t.Context(), func(tx *Tx) error { runs++; return tx.Put("o", runs) }); err != nil || runs != 1 {
			t.Errorf("%d runs, %v", runs, err)
		}
		if got, want := hint(), other.cur.Load().seq; got != want {
			t.Errorf("LOCK says that %d is the newest, want %d", got, want)
		}
	}
}

// setHint makes LOCK say of these sequences that they are the newest, or nothing.
func setHint(t *testing.T, m *simMachine, seqs ...uint64) {
	t.Helper()
	data := m.boot[:]
	for _, seq := range seqs {
		data = binary.LittleEndian.AppendUint64(slices.Clone(data), seq)
	}
	if err := m.disk.WriteFile(filepath.Join(simDir, lockName), sealed(data)); err != nil {
		t.Fatal(err)
	}
}

// Nothing rests on the hint in LOCK: whatever it says, an update is made on the newest state.
func TestHint(t *testing.T) {
	for name, hint := range map[string]func(newest uint64) []uint64{
		"none":         func(uint64) []uint64 { return nil },
		"right":        func(newest uint64) []uint64 { return []uint64{newest} },
		"zero":         func(uint64) []uint64 { return []uint64{0} },
		"what is seen": func(uint64) []uint64 { return []uint64{4} },
		"old":          func(newest uint64) []uint64 { return []uint64{newest - 1} },
		"retired":      func(uint64) []uint64 { return []uint64{5} },
		"to come":      func(newest uint64) []uint64 { return []uint64{newest + 1} },
		"absurd":       func(uint64) []uint64 { return []uint64{1<<64 - 1} },
		"longer":       func(newest uint64) []uint64 { return []uint64{newest, 3} },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(faultfs.NewDisk(), 1)
			opts := &Options{Network: true}
			s := mustOpen(t, simDir, opts, m.system(plain(m.disk)))
			defer s.Close()
			mustUpdate(t, s, "s/0", "s/1", "s/2")
			seen := s.cur.Load().seq
			sys := m.system(plain(m.disk))
			sys.keepAge = time.Hour
			other := mustOpen(t, simDir, opts, sys)
			defer other.Close()
			mustUpdate(t, other, "o/0", "o/1", "o/2", "o/3")
			newest := other.cur.Load().seq
			if seen != 4 || newest != 8 {
				t.Fatalf("sequences %d and %d, want 4 and 8", seen, newest)
			}
			if name == "retired" {
				if err := m.disk.Remove(filepath.Join(simDir, manifestName(5))); err != nil {
					t.Fatal(err)
				}
			}
			setHint(t, m, hint(newest)...)
			mustUpdate(t, s, "s/3")
			wantState(t, sys, "s/0", "s/1", "s/2", "o/0", "o/1", "o/2", "o/3", "s/3")
			if got := s.lock.(*simLock).hintOf(t); got != newest+1 {
				t.Errorf("LOCK says that %d is the newest, want %d", got, newest+1)
			}
		})
	}
}

func (l *simLock) hintOf(t *testing.T) uint64 {
	t.Helper()
	return (&turn{heldLock: l}).hint()
}

// An orphan may be guessed to be the newest where a listing shows nothing else above what a
// process has seen, or LOCK says that it is. Nothing is published on top of it: a manifest
// whose base's name holds that base would count for all others. If what the process has seen
// is shown as it was before it was retired, something is, and is taken back.
func TestGuessOrphan(t *testing.T) {
	t.Run("listed", func(t *testing.T) { testGuessOrphan(t, false, false) })
	t.Run("hinted", func(t *testing.T) { testGuessOrphan(t, true, false) })
	t.Run("hinted, and shown as it was", func(t *testing.T) { testGuessOrphan(t, true, true) })
}

func testGuessOrphan(t *testing.T, hinted, stale bool) {
	m := newMachine(faultfs.NewDisk(), 1)
	m.lock = nil
	network := &Options{Network: true}
	b := mustOpen(t, simDir, network, m.system(plain(m.disk)))
	defer b.Close()
	var partial atomic.Bool
	onOrphan := stopAt(faultfs.OpLink, 3)
	close(onOrphan.goOn)
	sys := m.system(&faultfs.Hooked{
		FS:     onlyTwo(m, &partial),
		Before: onOrphan.before,
	})
	c := mustOpen(t, simDir, network, sys)
	defer c.Close()

	seen := c.manifestPath(c.cur.Load().seq)
	before, err := m.disk.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	stop, dead := doomed(t, m, network, faultfs.OpLink, 2, "d/0")
	mustUpdate(t, b, "b/0", "b/1", "b/2", "b/3", "b/4")
	close(stop.goOn)
	<-dead
	if seqs, _, err := b.list(); err != nil || len(seqs) == 0 || seqs[0] != 2 || seqs[len(seqs)-1] != 6 || slices.Contains(seqs, 3) {
		t.Fatalf("there are manifests %v, %v; want orphan 2, and 6", seqs, err)
	}

	if stale {
		if err := m.disk.WriteFile(seen, before); err != nil {
			t.Fatal(err)
		}
	}
	if hinted {
		setHint(t, m, 2)
	} else {
		setHint(t, m)
		partial.Store(true)
	}
	var saw []Revision
	if _, err := applyUpdate(t.Context(), c, "c/0", func(rev Revision) { saw = append(saw, rev) }); err != nil {
		t.Fatal(err)
	}
	if len(saw) != 2 || partial.Load() {
		t.Errorf("the function ran for revisions %v, want a guess and another one", saw)
	}
	select {
	case <-onOrphan.reached:
		if !stale {
			t.Error("it was built on an orphan")
		}
	default:
		if stale {
			t.Error("nothing was to be taken back")
		}
	}
	if seqs, _, err := c.list(); err != nil || slices.Contains(seqs, 3) {
		t.Errorf("there are manifests %v, %v; want 3 taken back", seqs, err)
	}
	wantState(t, sys, "b/0", "b/1", "b/2", "b/3", "b/4", "c/0")
}

// An old manifest of one's own that is damaged is of no interest to a commit: others have
// gone on.
func TestGuessDamaged(t *testing.T) {
	opts := &Options{Network: true}
	dir, _ := storeWith(t, 1, opts)
	s, other := testOpen(t, dir, opts, nil), testOpen(t, dir, opts, nil)
	defer s.Close()
	defer other.Close()
	for i := range ownRow + 3 {
		mustPut(t, s, "k", i)
		settle(s)
	}
	path := s.manifestPath(s.cur.Load().seq)
	mustPut(t, other, "o", 1)
	mustPut(t, other, "o", 2)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[60] ^= 1
	if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o444)); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "k", -1)
}

// Not even a segment is put into a directory that has taken the store's place.
func TestReplacedOverflow(t *testing.T) {
	opts := &Options{Network: true, JournalSize: hardJournal}
	dir, _ := storeWith(t, 1, opts)
	var armed atomic.Bool
	sys := testSystem()
	sys.fs = &faultfs.Hooked{FS: sys.fs, Before: func(op faultfs.Op) error {
		if armed.Load() && op.Kind == faultfs.OpLink {
			t.Errorf("put into another store's directory: %s", op.Path)
		}
		return nil
	}}
	s := mustOpen(t, dir, opts, sys)
	defer s.Close()
	for i := range ownRow + 3 {
		mustPut(t, s, "k", i)
		settle(s)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	o := testOpen(t, dir, opts, nil)
	defer o.Close()
	mustPut(t, o, "k", 1)
	settle(o)
	armed.Store(true)
	if _, err := s.Put(t.Context(), "k", "mine"); !errors.Is(err, ErrReplaced) {
		t.Errorf("got %v, want ErrReplaced", err)
	}
}

// EPERM may be how a file system says that a name is taken, and a listing may not show it
// yet: that is no reason to say that nothing can be published there.
func TestPermMeansExists(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	var stale []string
	left := 0 // stale listings
	sys := m.system(plain(m.disk))
	sys.fs = permLink{listing{m.disk, func(names []string) []string {
		if left == 0 {
			return names
		}
		left--
		return stale
	}}}
	s := mustOpen(t, simDir, &Options{Network: true}, sys)
	defer s.Close()
	other := mustOpen(t, simDir, &Options{Network: true}, m.system(plain(m.disk)))
	defer other.Close()
	mustUpdate(t, s, "s/0")
	stale, _ = m.disk.ReadDir(simDir)
	mustUpdate(t, other, "o/0")
	left = 2 // before and after publishing
	mustUpdate(t, s, "s/1")
}

// permLink is a file system of which link says EPERM whatever the matter is, and that cannot
// rename without replacing.
type permLink struct{ listing }

func (f permLink) Link(o, n string) error {
	if err := f.listing.Link(o, n); err != nil {
		return &os.LinkError{Op: "link", Old: o, New: n, Err: syscall.EPERM}
	}
	return nil
}

func (f permLink) RenameNoReplace(o, n string) error {
	return &os.LinkError{Op: "rename", Old: o, New: n, Err: errors.ErrUnsupported}
}

// Where LOCK is made of links, a machine that dies with it holds nobody up for good.
func TestLinkLease(t *testing.T) {
	var leases []time.Duration
	s := testStore(t, nil, func(sys *system) {
		openLock := sys.openLock
		sys.openLock = func(path string, opts *lockfile.Options) (locker, error) {
			leases = append(leases, opts.Lease)
			return openLock(path, opts)
		}
	})
	defer s.Close()
	if err := s.Compact(t.Context()); err != nil { // which opens MERGE
		t.Fatal(err)
	}
	if !slices.Equal(leases, []time.Duration{linkLease, linkLease}) {
		t.Errorf("LOCK and MERGE have leases %v", leases)
	}
}
