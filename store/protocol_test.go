package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/internal/vfs/faultfs"
)

// Interleavings that random schedules meet too seldom, one test each.

// A stop is a place where a process stands still until it is told to go on.
type stop struct {
	at      func(faultfs.Op) bool
	reached chan struct{}
	goOn    chan struct{}
	once    sync.Once
}

func stopAt(kind string, seq uint64) *stop {
	return &stop{
		at: func(op faultfs.Op) bool {
			return op.Kind == kind && (seq == 0 || strings.HasSuffix(op.Path, manifestName(seq)))
		},
		reached: make(chan struct{}),
		goOn:    make(chan struct{}),
	}
}

func (st *stop) before(op faultfs.Op) error {
	if st.at(op) {
		st.once.Do(func() {
			close(st.reached)
			<-st.goOn
		})
	}
	return nil
}

// start runs an update in the background.
func start(s *Store, key string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := applyUpdate(context.Background(), s, key, nil)
		done <- err
	}()
	return done
}

func mustUpdate(t *testing.T, s *Store, keys ...string) {
	t.Helper()
	for _, k := range keys {
		if _, err := applyUpdate(context.Background(), s, k, nil); err != nil {
			t.Fatalf("update %s: %v", k, err)
		}
		settle(s)
	}
}

func wantState(t *testing.T, sys system, keys ...string) {
	t.Helper()
	state, err := stateOf(sys)
	if err != nil {
		t.Fatal(err)
	}
	if k := missing(state, keys); k != "" {
		t.Errorf("%s is lost; there are %v", k, state)
	}
	if len(state) != len(keys) {
		t.Errorf("there are %v, want %v", state, keys)
	}
}

// doomed starts an update of a new process that stands still before it
// publishes the sequence, by that operation, and dies as soon as it has.
func doomed(t *testing.T, m *simMachine, opts *Options, publishes string, seq uint64, key string) (st *stop, dead <-chan struct{}) {
	t.Helper()
	st = stopAt(publishes, seq)
	died := make(chan struct{})
	s := mustOpen(t, simDir, opts, m.system(&faultfs.Hooked{
		FS: m.disk,
		Before: func(op faultfs.Op) error {
			select {
			case <-died:
				return errDead
			default:
				return st.before(op)
			}
		},
		After: func(op faultfs.Op, err error) error {
			if st.at(op) {
				close(died)
			}
			return err
		},
	}))
	start(s, key)
	<-st.reached
	return st, died
}

// orphaned returns a disk on which sequences 2 and 3 are orphans: their
// writers took sequences 1 and 2 for the newest, stood still while the others
// went on to sequence 8 and retired all below 7, published, and died. Another
// writer, a, stands just before publishing sequence 4 on top of the true
// sequence 3.
//
// old is a reader that has seen sequence 2 and nothing since.
func orphaned(t *testing.T) (m *simMachine, b, old *Store, goOnA chan<- struct{}, doneA <-chan error) {
	t.Helper()
	m = newMachine(faultfs.NewDisk(), 1)
	m.lock = nil
	b = mustOpen(t, simDir, nil, m.system(plain(m.disk)))
	stopD, deadD := doomed(t, m, nil, faultfs.OpRename, 2, "d/0")
	mustUpdate(t, b, "b/0")
	old = mustOpen(t, simDir, &Options{ReadOnly: true}, m.system(plain(m.disk)))

	stopC, deadC := doomed(t, m, nil, faultfs.OpRename, 3, "c/0")
	mustUpdate(t, b, "b/1")

	stopA := stopAt(faultfs.OpRename, 4)
	a := mustOpen(t, simDir, nil, m.system(&faultfs.Hooked{FS: m.disk, Before: stopA.before}))
	doneA = start(a, "a/0")
	<-stopA.reached
	mustUpdate(t, b, "b/2", "b/3", "b/4", "b/5", "b/6")
	close(stopD.goOn)
	<-deadD
	close(stopC.goOn)
	<-deadC
	seqs, _, err := b.list()
	if err != nil || fmt.Sprint(seqs) != "[2 3 7 8]" {
		t.Fatalf("there are manifests %v, %v; want orphans 2 and 3, and 7, 8", seqs, err)
	}
	return m, b, old, stopA.goOn, doneA
}

// The name of a's base holds a manifest again, but not a's base.
func TestBaseCheckIdentity(t *testing.T) {
	m, b, _, goOn, done := orphaned(t)
	defer b.Close()
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantState(t, m.system(plain(m.disk)), "b/0", "b/1", "b/2", "b/3", "b/4", "b/5", "b/6", "a/0")
}

// A directory that is being read while names come and go may show the orphans
// alone, and the name of an orphan's parent holds a manifest.
func TestOrphanInListing(t *testing.T) {
	m, b, _, goOn, done := orphaned(t)
	defer b.Close()
	wantPastOrphans(t, m)
	close(goOn)
	<-done
}

// wantPastOrphans opens orphaned's store by a listing that shows the orphans alone.
func wantPastOrphans(t *testing.T, m *simMachine) {
	t.Helper()
	seen := false
	sys := m.system(&faultfs.Hooked{
		FS: listing{m.disk, func(names []string) []string {
			if seen {
				return names
			}
			return []string{lockName, manifestName(2), manifestName(3)}
		}},
		Before: func(op faultfs.Op) error {
			seen = seen || op.Kind == faultfs.OpOpen
			return nil
		},
	})
	s, err := open(simDir, &Options{ReadOnly: true}, sys)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	wantNewest(t, s, 8)
}

// The name above the newest that a process has seen holds a manifest that was
// built on just that, and is an orphan.
func TestOrphanAbove(t *testing.T) {
	_, b, old, goOn, done := orphaned(t)
	defer b.Close()
	defer old.Close()
	wantNewest(t, old, 8)
	close(goOn)
	<-done
}

func wantNewest(t *testing.T, s *Store, seq uint64) {
	t.Helper()
	sn, err := s.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if sn.Sequence() != seq {
		t.Errorf("the newest is sequence %d, want %d", sn.Sequence(), seq)
	}
}

// Retirement goes in ascending order and ends where a removal fails.
func TestRetirementOrder(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	var removed []string
	failing := manifestName(4)
	sys := m.system(&faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
		if op.Kind != faultfs.OpRemove {
			return nil
		}
		removed = append(removed, strings.TrimPrefix(op.Path, simDir+"/"+manifestPrefix))
		if strings.HasSuffix(op.Path, failing) {
			return errors.New("not now")
		}
		return nil
	}})
	sys.keep, sys.retireEvery = 3, 8
	s := mustOpen(t, simDir, nil, sys)
	defer s.Close()
	for i := range 7 { // sequences 2 to 8
		mustUpdate(t, s, updateKey("w", i))
	}
	want := "[0000000000000001 0000000000000002 0000000000000003 0000000000000004]"
	if got := fmt.Sprint(removed); got != want {
		t.Errorf("removed %s, want %s and nothing after the failure", got, want)
	}
	removed, failing = nil, "none"
	for i := range 8 { // to 16
		mustUpdate(t, s, updateKey("v", i))
	}
	seqs, _, err := s.list()
	if err != nil || fmt.Sprint(seqs) != "[14 15 16]" || !slices.IsSorted(removed) {
		t.Errorf("left %v, %v, removed %v; want 14, 15 and 16 left, the others removed in order", seqs, err, removed)
	}
}

// listing is a disk whose directory is read through a filter.
type listing struct {
	*faultfs.Disk
	filter func([]string) []string
}

func (l listing) ReadDir(dir string) ([]string, error) {
	names, err := l.Disk.ReadDir(dir)
	return l.filter(names), err
}

// An agedFS shows some files as an hour older than they are.
type agedFS struct {
	vfs.FS
	names *sync.Map
}

func (a agedFS) Lstat(name string) (vfs.Info, error) {
	info, err := a.FS.Lstat(name)
	if _, ok := a.names.Load(name); ok {
		info.Changed = info.Changed.Add(-time.Hour)
	}
	return info, err
}

// A manifest's age counts from when it was not the newest any more: who has seen it as that
// has time from then on, however old it was.
func TestRetireSuperseded(t *testing.T) {
	for _, network := range []bool{false, true} {
		aged := agedFS{FS: vfs.OS{}, names: &sync.Map{}}
		s := testStore(t, &Options{Network: network}, func(sys *system) {
			sys.keepAge, sys.keep, sys.retireEvery = 0, keepManifests, 1
			sys.fs = aged
		})
		defer s.Close()
		put := func(n int) {
			for i := range n {
				mustPut(t, s, "k", i)
				settle(s)
			}
		}
		lowest := func() uint64 {
			seqs, _, err := s.list()
			if err != nil || len(seqs) == 0 {
				t.Fatalf("%v, %v", seqs, err)
			}
			return seqs[0]
		}
		age := func(seq uint64) { aged.names.Store(s.manifestPath(seq), true) }
		put(2) // to 3
		age(2)
		age(3)
		put(2 * keepManifests)
		if got := lowest(); got != 3 {
			t.Errorf("network %v: the lowest manifest is %d, want 3, which was the newest until just now", network, got)
		}
		age(4)
		put(1)
		if got := lowest(); got != 4 {
			t.Errorf("network %v: the lowest manifest is %d, want 4", network, got)
		}
	}
}

// Nor does it count from when its successor was written, if that got its name much later.
func TestRetireSlowPublish(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	stop := stopAt(faultfs.OpRename, 3)
	sys := m.system(&faultfs.Hooked{FS: m.disk, Before: stop.before})
	sys.keepAge, sys.retireEvery = 100*time.Second, 1
	sys.now = func() time.Time { return time.Time{} } // by the disk's clock alone
	s := mustOpen(t, simDir, nil, sys)
	defer s.Close()
	mustUpdate(t, s, "w/0")
	done := start(s, "w/1")
	<-stop.reached
	f, err := m.disk.CreateTemp(simDir, 0o600)
	for range 200 { // seconds
		if err == nil {
			_, err = f.Write([]byte("x"))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	close(stop.goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for i := range sys.keep + 1 {
		mustUpdate(t, s, updateKey("more", i))
		settle(s)
	}
	if ok, err := s.exists(s.manifestPath(2)); !ok || err != nil {
		t.Errorf("manifest 2, the newest until a moment ago, is gone (%v)", err)
	}
}

// Nothing is retired on behalf of a manifest that could not be marked.
func TestRetirementWithoutMark(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	marking := false
	s := mustOpen(t, simDir, nil, m.system(&faultfs.Hooked{
		FS: m.disk,
		Before: func(op faultfs.Op) error {
			switch {
			case op.Kind == faultfs.OpRename:
				marking = true
			case op.Kind == faultfs.OpCreate:
				marking = false
			case op.Kind == faultfs.OpChmod && marking:
				return syscall.EPERM
			case op.Kind == faultfs.OpRemove:
				t.Errorf("%s is removed, and no manifest is marked", op.Path)
			}
			return nil
		},
	}))
	defer s.Close()
	for i := range 10 {
		mustUpdate(t, s, updateKey("w", i))
	}
}

// A group has been flushed and retires, when three later ones of the same
// process are published and not yet flushed: what they stand on must stay.
func TestRetirementBelowMark(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	first, others := make(chan struct{}), make(chan struct{})
	syncs, armed := 0, false
	marked := func() (highest uint64) {
		for seq := uint64(1); seq < 20; seq++ {
			if info, err := m.disk.Lstat(simDir + "/" + manifestName(seq)); err == nil && info.Marked() {
				highest = seq
			}
		}
		return highest
	}
	var mu sync.Mutex
	sys := m.system(&faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
		mu.Lock()
		var wait <-chan struct{}
		switch {
		case op.Kind == faultfs.OpRemove && strings.Contains(op.Path, manifestPrefix):
			seq, _ := parseManifestName(strings.TrimPrefix(op.Path, simDir+"/"))
			if seq+1 >= marked() {
				t.Errorf("sequence %d is removed, the highest that is marked is %d", seq, marked())
			}
		case op.Kind == faultfs.OpSync && armed:
			if syncs++; syncs == 1 {
				wait = first
			} else {
				wait = others
			}
		}
		mu.Unlock()
		if wait != nil {
			<-wait
		}
		return nil
	}})
	sys.now = time.Now // all that is on the disk is old
	s := mustOpen(t, simDir, nil, sys)
	defer s.Close()
	s.slots = make(chan struct{}, 4) // as if four processes were writing
	mustUpdate(t, s, "w/0")          // sequence 2
	mu.Lock()
	armed = true
	mu.Unlock()
	flushing := func() int {
		mu.Lock()
		defer mu.Unlock()
		return syncs
	}
	var done []<-chan error
	for i := range 4 { // 3 to 6, one after the other published, and in its flush
		done = append(done, start(s, updateKey("v", i)))
		for flushing() != i+1 {
			runtime.Gosched()
		}
	}
	close(first)
	if err := <-done[0]; err != nil {
		t.Fatal(err)
	}
	// Its retirement is over when its names are gone, at the latest with the
	// others'.
	for {
		if _, err := m.disk.Lstat(simDir + "/" + manifestName(1)); err != nil {
			break
		}
		runtime.Gosched()
	}
	close(others)
	for _, d := range done[1:] {
		if err := <-d; err != nil {
			t.Fatal(err)
		}
	}
	settle(s)
}

// What is said of a state that another process has published and not yet
// flushed is durable when it is said, even if there was nothing to do.
func TestNothingToDoIsDurable(t *testing.T) {
	for _, tc := range []struct {
		name string
		call func(s *Store) error
	}{
		{"Sync", func(s *Store) error { return s.Sync(context.Background()) }},
		{"FreshSnapshot", func(s *Store) error { _, err := s.FreshSnapshot(context.Background()); return err }},
		{"a conflict", func(s *Store) error {
			_, err := s.CompareAndSwap(context.Background(), "a/0", 0, 1)
			if !errors.Is(err, ErrConflict) {
				return fmt.Errorf("error %w, want a conflict", err)
			}
			return nil
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(faultfs.NewDisk(), 1)
			b := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
			defer b.Close()
			mustUpdate(t, b, "b/0")
			flush := stopAt(faultfs.OpSync, 0)
			a := mustOpen(t, simDir, nil, m.system(&faultfs.Hooked{FS: m.disk, Before: flush.before}))
			defer a.Close()
			done := start(a, "a/0")
			<-flush.reached
			if err := tc.call(b); err != nil {
				t.Fatal(err)
			}
			lost := m.disk.PowerLoss(func(n int) int { return n - 1 }) // all that can be
			close(flush.goOn)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			m2 := newMachine(lost, 2)
			wantState(t, m2.system(plain(lost)), "b/0", "a/0")
		})
	}
}

// A manifest that does not check is skipped only if nothing but a power loss
// can have torn it.
func TestTornOrDamaged(t *testing.T) {
	path := func(seq uint64) string { return simDir + "/" + manifestName(seq) }
	tear := func(t *testing.T, d *faultfs.Disk, seq uint64) {
		t.Helper()
		b, err := d.ReadFile(path(seq))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.WriteFile(path(seq), b[:len(b)/2]); err != nil {
			t.Fatal(err)
		}
	}
	// unflushed leaves a disk whose newest manifest was published by a process
	// that was killed before the flush: sequence 3 with "a/0", above 2 with "b/0".
	unflushed := func(t *testing.T) *faultfs.Disk {
		t.Helper()
		m := newMachine(faultfs.NewDisk(), 1)
		b := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
		mustUpdate(t, b, "b/0")
		return killedAt(t, m, faultfs.OpSync, "a/0")
	}
	for _, tc := range []struct {
		name string
		disk func(t *testing.T) *faultfs.Disk
		run  byte // of the machine that looks
		bad  uint64
	}{
		{"marked, restarted", func(t *testing.T) *faultfs.Disk {
			m := newMachine(faultfs.NewDisk(), 1)
			b := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
			mustUpdate(t, b, "b/0", "b/1")
			return m.disk
		}, 2, 3},
		{"not marked, not restarted", unflushed, 1, 3},
		{"not marked, restarted, but published since", func(t *testing.T) *faultfs.Disk {
			// The first manifest of the second run, which is empty.
			return killedAt(t, newMachine(unflushed(t), 2), faultfs.OpSync, "a/1")
		}, 2, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			disk := tc.disk(t)
			tear(t, disk, tc.bad)
			m := newMachine(disk, tc.run)
			for _, opts := range []*Options{nil, {ReadOnly: true}} {
				_, err := open(simDir, opts, m.system(plain(disk)))
				var damage *CorruptError
				if !errors.As(err, &damage) || damage.Path != path(tc.bad) {
					t.Errorf("Open(%+v): %v, want damage in %s", opts, err, path(tc.bad))
				}
			}
		})
	}
	t.Run("not marked, restarted", func(t *testing.T) {
		disk := unflushed(t)
		tear(t, disk, 3)
		m := newMachine(disk, 2)
		wantState(t, m.system(plain(disk)), "b/0")
		s := mustOpen(t, simDir, nil, m.system(plain(disk)))
		defer s.Close()
		mustUpdate(t, s, "b/1", "b/2", "b/3")
		wantState(t, m.system(plain(disk)), "b/0", "b/1", "b/2", "b/3")
	})
}

// killedAt runs an update and returns the disk as the process leaves it that
// is killed before its first operation of the kind.
func killedAt(t *testing.T, m *simMachine, kind, key string) *faultfs.Disk {
	t.Helper()
	at := stopAt(kind, 0)
	s := mustOpen(t, simDir, nil, m.system(&faultfs.Hooked{FS: m.disk, Before: at.before}))
	done := start(s, key)
	<-at.reached
	left := m.disk.Clone()
	close(at.goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.Close()
	return left
}

// Who recovers after a restart publishes an empty manifest with a gap in the
// revisions, and dies before it is flushed. The next process must not build on
// it: with a second power loss, the gap would be given twice.
func TestRecoverDies(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	s := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
	mustUpdate(t, s, "a/0")
	m = newMachine(killedAt(t, newMachine(m.disk.Clone(), 2), faultfs.OpSync, "a/1"), 2)

	var seen Revision
	var disk *faultfs.Disk // as it is when seen can be seen
	s = mustOpen(t, simDir, nil, m.system(&faultfs.Hooked{FS: m.disk, After: func(op faultfs.Op, err error) error {
		if op.Kind == faultfs.OpRename {
			disk = m.disk.Clone()
		}
		return err
	}}))
	if _, err := applyUpdate(context.Background(), s, "a/2", func(r Revision) { seen = r }); err != nil {
		t.Fatal(err)
	}
	lost := disk.PowerLoss(func(n int) int { return n - 1 })
	s = mustOpen(t, simDir, nil, newMachine(lost, 3).system(plain(lost)))
	if r, err := applyUpdate(context.Background(), s, "a/3", nil); err != nil || r <= seen {
		t.Errorf("revision %d, %v after a second power loss; %d has been seen before", r, err, seen)
	}
}

// An error of the recovery is not one of the update that waits for it.
func TestRecoverFails(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	s := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
	mustUpdate(t, s, "a/0")
	m = newMachine(m.disk, 2)
	failing := true
	s = mustOpen(t, simDir, nil, m.system(&faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
		if failing && op.Kind == faultfs.OpSync {
			return syscall.EIO
		}
		return nil
	}}))
	_, err := applyUpdate(context.Background(), s, "a/1", nil)
	if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrNotDurable) || errors.Is(err, ErrUnknown) {
		t.Errorf("error %v, want %v and nothing done", err, syscall.EIO)
	}
	wantState(t, m.system(plain(m.disk)), "a/0")
	failing = false
	mustUpdate(t, s, "a/2")
	wantState(t, m.system(plain(m.disk)), "a/0", "a/2")
}

// A reader has listed a torn manifest, when somebody recovers above it.
func TestTornWhileRecovering(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	b := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
	mustUpdate(t, b, "b/0")
	disk := killedAt(t, m, faultfs.OpSync, "a/0")
	if err := disk.WriteFile(simDir+"/"+manifestName(3), nil); err != nil {
		t.Fatal(err)
	}
	m = newMachine(disk, 2)
	sys := m.system(plain(disk))
	sys.keep = 100
	w := mustOpen(t, simDir, nil, sys)
	reads := 0
	sys = m.system(&faultfs.Hooked{FS: disk, After: func(op faultfs.Op, err error) error {
		if op.Kind == faultfs.OpReadDir {
			if reads++; reads == 2 { // the first is Open's look at the directory
				mustUpdate(t, w, "w/0")
			}
		}
		return err
	}})
	wantState(t, sys, "b/0", "w/0")
}

// A conflict is found with what others of the group have changed, and that could
// not be flushed: the answer is the conflict, and says so.
func TestConflictNotDurable(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	var failing atomic.Bool
	s := mustOpen(t, simDir, nil, m.system(&faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
		if op.Kind == faultfs.OpSync && failing.Load() {
			return syscall.EIO
		}
		return nil
	}}))
	defer s.Close()
	m.lock <- struct{}{} // so that both wait, and become one group
	failing.Store(true)
	put, cas, own := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, err := s.Put(ctx, "k", 1)
		put <- err
	}()
	waitQueued(s, 1)
	go func() {
		_, err := s.CompareAndSwap(ctx, "k", 0, 2)
		cas <- err
	}()
	waitQueued(s, 2)
	refused := errors.New("refused")
	go func() {
		_, err := s.Update(ctx, func(*Tx) error { return refused })
		own <- err
	}()
	waitQueued(s, 3)
	<-m.lock
	if err := <-put; !errors.Is(err, ErrNotDurable) {
		t.Errorf("the update reports %v, want %v", err, ErrNotDurable)
	}
	err := <-cas
	conflict := (*ConflictError)(nil)
	if !errors.As(err, &conflict) || !errors.Is(err, ErrConflict) || !errors.Is(err, ErrNotDurable) || !errors.Is(err, syscall.EIO) {
		t.Errorf("the conflict is %v, want that it rests on what is not durable", err)
	}
	if err := <-own; !errors.Is(err, refused) || !errors.Is(err, ErrNotDurable) {
		t.Errorf("the function's error is %v, want that it rests on what is not durable", err)
	}
}
