package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/internal/vfs/faultfs"
)

// The schedule campaign. Several processes use one store with a lock that
// excludes nobody, on a disk in memory. Every file operation is a step, and a
// random schedule decides who takes the next one: a process may stand still
// anywhere while others go far ahead, or die. In the end every acknowledged
// update must be there, once, and every snapshot must have been whole.

var errDead = errors.New("this process has been killed")

// A scheduler lets one process at a time take one step.
type scheduler struct {
	mu    sync.Mutex
	ready []*step
	dead  map[int]bool
}

type step struct {
	proc int
	op   faultfs.Op
	goOn chan error
}

// arrive is called before each operation of process proc, and returns when the
// schedule lets it take place.
func (s *scheduler) arrive(proc int, op faultfs.Op) error {
	s.mu.Lock()
	if s.dead[proc] {
		s.mu.Unlock()
		return errDead
	}
	st := &step{proc, op, make(chan error, 1)}
	s.ready = append(s.ready, st)
	s.mu.Unlock()
	return <-st.goOn
}

// kill lets no step of proc take place any more.
func (s *scheduler) kill(proc int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead[proc] = true
	s.ready = slices.DeleteFunc(s.ready, func(st *step) bool {
		if st.proc == proc {
			st.goOn <- errDead
		}
		return st.proc == proc
	})
}

// take removes and returns one of the steps that are ready.
func (s *scheduler) take(choose func(ready []*step) int) *step {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) == 0 {
		return nil
	}
	i := choose(s.ready)
	if i < 0 {
		return nil
	}
	st := s.ready[i]
	s.ready = slices.Delete(s.ready, i, i+1)
	return st
}

// A run is one schedule: its parameters follow from the seed.
type run struct {
	rng     *rand.Rand
	disk    *faultfs.Disk
	sched   *scheduler
	m       *simMachine
	writers int
	rounds  int
	deaths  bool
	replace bool // publish by a rename that replaces: must be noticed
	journal int  // Options.JournalSize
	opts    *Options

	mu     sync.Mutex
	coins  *rand.Rand
	acked  []string
	absent []string // reported as certainly not done
	errs   []error
	seen   segmentsSeen
}

func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

// replacing publishes by a rename that replaces.
type replacing struct{ *faultfs.Disk }

func (d replacing) RenameNoReplace(oldName, newName string) error {
	return d.RenameReplace(oldName, newName)
}

func (r *run) system(proc int) system {
	var disk vfs.FS = r.disk
	if r.replace {
		disk = replacing{r.disk}
	}
	return r.m.system(&faultfs.Hooked{
		FS:     slowDir{disk, r, proc},
		Before: func(op faultfs.Op) error { return r.sched.arrive(proc, op) },
		After: func(op faultfs.Op, err error) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.seen.count(op, err)
			return err
		},
	})
}

// slowDir reads a directory in two steps. A name that comes or goes between
// them may be in the list or not.
type slowDir struct {
	vfs.FS
	r    *run
	proc int
}

func (d slowDir) ReadDir(dir string) ([]string, error) {
	first, err := d.FS.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if err := d.r.sched.arrive(d.proc, faultfs.Op{Kind: faultfs.OpReadDir, Path: dir}); err != nil {
		return nil, err
	}
	second, err := d.FS.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range first {
		if slices.Contains(second, name) || d.r.coin() {
			names = append(names, name)
		}
	}
	for _, name := range second {
		if !slices.Contains(first, name) && d.r.coin() {
			names = append(names, name)
		}
	}
	return names, nil
}

func (r *run) coin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.coins.IntN(2) == 0
}

// writer makes its updates, one after the other.
func (r *run) writer(proc int) {
	s, err := open(simDir, r.opts, r.system(proc))
	if err != nil {
		if !errors.Is(err, errDead) {
			r.fail(fmt.Errorf("writer %d: %w", proc, err))
		}
		return
	}
	defer s.Close()
	for i := range r.rounds {
		key := updateKey(strconv.Itoa(proc), i)
		_, err := applyUpdate(context.Background(), s, key, nil)
		// What follows in the background is interleaved with the other
		// processes. With the next update of this one it would wait for a
		// mutex, of which a bubble does not know that it is waited for.
		settle(s)
		r.mu.Lock()
		switch {
		case err == nil:
			r.acked = append(r.acked, key)
		case errors.Is(err, errDead), errors.Is(err, ErrUnknown), errors.Is(err, ErrNotDurable):
			// there or not
		default:
			r.absent = append(r.absent, key)
			r.errs = append(r.errs, fmt.Errorf("writer %d: %w", proc, err))
		}
		r.mu.Unlock()
	}
}

// reader takes snapshots until the writers are done.
func (r *run) reader(proc int, done <-chan struct{}) {
	s, err := open(simDir, &Options{ReadOnly: true}, r.system(proc))
	if err != nil {
		r.fail(fmt.Errorf("reader %d: %w", proc, err))
		return
	}
	defer s.Close()
	var last *Snapshot
	seen := map[string]bool{}
	for {
		sn, err := s.Snapshot(context.Background())
		if err != nil {
			r.fail(fmt.Errorf("reader %d: %w", proc, err))
			return
		}
		state, err := checkState(sn)
		if err != nil {
			r.fail(fmt.Errorf("reader %d: sequence %d: %w", proc, sn.Sequence(), err))
		}
		for k := range seen {
			if !state[k] {
				r.fail(fmt.Errorf("reader %d: %s was seen, and is gone at sequence %d", proc, k, sn.Sequence()))
			}
		}
		if last != nil && (sn.Revision() < last.Revision() || sn.Sequence() < last.Sequence()) {
			r.fail(fmt.Errorf("reader %d: went back from sequence %d to %d", proc, last.Sequence(), sn.Sequence()))
		}
		last, seen = sn, state
		select {
		case <-done:
			return
		default:
		}
	}
}

// schedule runs it, in a bubble of its own, and returns what went wrong, and
// what became of the store.
func schedule(t *testing.T, seed uint64, replace bool, journal int) (seen segmentsSeen, err error) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 0))
		r := &run{
			rng:     rng,
			coins:   rand.New(rand.NewPCG(seed, 1)),
			disk:    faultfs.NewDisk(),
			writers: 2 + rng.IntN(3),
			rounds:  1 + rng.IntN(5),
			deaths:  rng.IntN(2) == 0,
			replace: replace,
			journal: journal,
			opts:    &Options{JournalSize: journal},
		}
		switch {
		case replace:
		case rng.IntN(8) == 0:
			r.opts.Network = true
		case rng.IntN(3) == 0:
			r.losePower()
		}
		r.m = newMachine(r.disk, 2)
		r.m.lock, r.m.merge = nil, nil // exclude nobody
		r.sched = &scheduler{dead: map[int]bool{}}
		r.play()
		err = r.judge()
		seen = r.seen
	})
	return seen, err
}

// segmentsSeen counts what was done to segments.
type segmentsSeen struct{ named, removed int }

func (n *segmentsSeen) count(op faultfs.Op, err error) {
	switch {
	case err != nil || !strings.Contains(op.Path, segmentPrefix):
	case op.Kind == faultfs.OpRename || op.Kind == faultfs.OpLink:
		n.named++
	case op.Kind == faultfs.OpRemove:
		n.removed++
	}
}

// losePower has the run begin after a power loss, with some updates flushed
// and some published and lost or torn.
func (r *run) losePower() {
	m := newMachine(r.disk, 1)
	flushed := true
	s, err := open(simDir, r.opts, m.system(&faultfs.Hooked{FS: r.disk, Before: func(op faultfs.Op) error {
		if !flushed && (op.Kind == faultfs.OpSync || op.Kind == faultfs.OpSyncDir) {
			return errDead
		}
		return nil
	}}))
	if err != nil {
		r.fail(err)
		return
	}
	for i := range 1 + r.rng.IntN(6) {
		key := updateKey("before", i)
		if i > 0 && r.rng.IntN(3) == 0 {
			flushed = false // from here on
		}
		switch _, err := applyUpdate(context.Background(), s, key, nil); {
		case err == nil:
			r.acked = append(r.acked, key)
		case errors.Is(err, ErrNotDurable):
		case errors.Is(err, errDead): // of the segment, before it was published
			r.absent = append(r.absent, key)
		default:
			r.fail(err)
		}
		settle(s)
	}
	s.Close()
	r.disk = r.disk.PowerLoss(r.rng.IntN)
}

// play lets the processes run by a random schedule.
func (r *run) play() {
	if len(r.acked) == 0 { // else there is a store, and the first to open it are part of the play
		s, err := open(simDir, r.opts, r.m.system(plain(r.disk)))
		if err != nil {
			r.fail(err)
			return
		}
		s.Close()
	}
	var writers, all sync.WaitGroup
	done := make(chan struct{})
	for p := range r.writers {
		writers.Go(func() { r.writer(p) })
	}
	all.Go(func() { r.reader(r.writers, done) })
	if r.journal > 0 {
		all.Go(func() { r.keeper(r.writers+1, done) })
	}
	over := make(chan struct{})
	go func() {
		writers.Wait()
		close(done)
		all.Wait()
		close(over)
	}()

	// A process that is asleep takes no steps until its hour has come or
	// nobody else can.
	asleep := map[int]int{}
	for steps := 0; ; steps++ {
		synctest.Wait()
		select {
		case <-over:
			return
		default:
		}
		if r.rng.IntN(12) == 0 {
			asleep[r.rng.IntN(r.writers)] = steps + r.rng.IntN(400)
		}
		if r.deaths && r.rng.IntN(300) == 0 {
			r.sched.kill(r.rng.IntN(r.writers))
			continue
		}
		st := r.sched.take(func(ready []*step) int {
			awake := -1
			for _, i := range r.rng.Perm(len(ready)) {
				if asleep[ready[i].proc] <= steps {
					return i
				}
				if awake < 0 || asleep[ready[i].proc] < asleep[ready[awake].proc] {
					awake = i
				}
			}
			return awake
		})
		// Now and then, or if nobody can take a step, time passes for those who
		// pause: it stands still otherwise.
		if st == nil || r.rng.IntN(10) == 0 {
			time.Sleep(time.Duration(1+r.rng.IntN(20)) * firstPause)
		}
		if st != nil {
			st.goOn <- nil
		}
	}
}

// keeper takes a snapshot now and then, keeps it until the end, and reads it
// all the time: whatever is retired meanwhile, it stays as it was. It opens no
// file for that.
func (r *run) keeper(proc int, done <-chan struct{}) {
	opts := Options{ReadOnly: true, CacheSize: -1}
	s, err := open(simDir, &opts, r.system(proc))
	if err != nil {
		r.fail(fmt.Errorf("keeper: %w", err))
		return
	}
	defer s.Close()
	type kept struct {
		sn   *Snapshot
		keys map[string]bool
	}
	var all []kept
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		if len(all) < 3 {
			sn, err := s.Snapshot(context.Background())
			if err != nil {
				r.fail(fmt.Errorf("keeper: %w", err))
				return
			}
			keys, err := checkState(sn)
			if err != nil {
				r.fail(fmt.Errorf("keeper: sequence %d: %w", sn.Sequence(), err))
			}
			all = append(all, kept{sn, keys})
		}
		// A step in any case: what is in memory is read without any.
		if err := r.sched.arrive(proc, faultfs.Op{Kind: faultfs.OpStat, Path: simDir}); err != nil {
			return
		}
		for _, k := range all {
			keys, err := checkState(k.sn)
			if err != nil || !maps.Equal(keys, k.keys) {
				r.fail(fmt.Errorf("keeper: the snapshot of sequence %d has become %v, %w; it was %v", k.sn.Sequence(), keys, err, k.keys))
				return
			}
		}
	}
}

// judge compares what was acknowledged with what is there.
func (r *run) judge() error {
	errs := r.errs
	state, err := stateOf(r.m.system(plain(r.disk)))
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if k := missing(state, r.acked); k != "" {
		errs = append(errs, fmt.Errorf("%s was acknowledged and is lost", k))
	}
	for _, k := range r.absent {
		if state[k] {
			errs = append(errs, fmt.Errorf("%s was reported as not done and is there", k))
		}
	}
	return errors.Join(errs...)
}

func TestSchedules(t *testing.T) {
	for seed := range effort(t, 200) {
		if _, err := schedule(t, uint64(seed), false, 0); err != nil {
			t.Fatalf("schedule %d: %v", seed, err)
		}
	}
}

// TestSchedulesOfSegments is TestSchedules with journals that are moved into
// segments, which are merged and retired, all the time: after each update, or
// after some, in the background, or before each is published.
func TestSchedulesOfSegments(t *testing.T) {
	var all segmentsSeen
	for seed := range effort(t, 200) {
		seen, err := schedule(t, uint64(seed), false, []int{softJournal, 3 * softJournal, hardJournal}[seed%3])
		if err != nil {
			t.Fatalf("schedule %d: %v", seed, err)
		}
		all.named += seen.named
		all.removed += seen.removed
	}
	if all.named == 0 || all.removed == 0 {
		t.Errorf("%d segments were named and %d removed in all", all.named, all.removed)
	}
	t.Logf("%d segments named, %d removed", all.named, all.removed)
}

// TestSchedulesNotice publishes by a rename that replaces, and wants the
// campaign to find the loss.
func TestSchedulesNotice(t *testing.T) {
	for seed := range 200 {
		if _, err := schedule(t, uint64(seed), true, 0); err != nil {
			t.Logf("schedule %d: %v", seed, err)
			return
		}
	}
	t.Fatal("no schedule in which a replacing rename loses anything")
}
