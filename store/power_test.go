package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/vfs/faultfs"
)

// The power-loss campaign. A scenario runs once on a disk in memory, and after
// every operation that changes something a copy of the disk is put aside,
// with what had been acknowledged by then. Then power is lost on each copy in
// every legal way, the machine starts again, and every acknowledged update
// must be there; and once more while that recovery is under way.

// A moment is a disk after an operation.
type moment struct {
	disk   *faultfs.Disk
	op     faultfs.Op
	opened bool     // its creator's Open had returned: there must be a store
	acked  []string // keys of the updates that had been acknowledged
	begun  []string // and of those that had been begun
	maxRev Revision // the highest revision that anybody may have seen
}

// A recorder runs a scenario and collects its moments.
type recorder struct {
	*faultfs.Hooked
	m       *simMachine
	creator bool // the store did not exist before
	last    bool // no power loss follows: moments are not needed

	mu        sync.Mutex
	updating  bool  // by update, which does one thing at a time
	named     bool  // the manifest of the update under way
	flushed   bool  // and the next flush after that was seen to
	violation error // of what before looks for
	now       moment
	coming    Revision // of the update under way
	moments   []moment
	waiting   chan struct{} // closed while no call to Update is under way
}

func record(m *simMachine, fsys func(*faultfs.Disk) *faultfs.Hooked) *recorder {
	r := &recorder{Hooked: fsys(m.disk), m: m, waiting: make(chan struct{})}
	close(r.waiting)
	inner := *r.Hooked
	r.Hooked = &faultfs.Hooked{FS: &inner, Before: r.before, After: r.after}
	return r
}

// before makes sure that an acknowledgement is on record before anything is
// retired that may only be retired after it, and, in the scenario itself, that
// there is none before the flush.
func (r *recorder) before(op faultfs.Op) error {
	r.mu.Lock()
	idle, violated := r.waiting, r.violation != nil
	// What comes after the flush of the update's own manifest is the move of
	// the journal, with flushes of its own.
	own := r.creator && r.updating && !r.flushed
	if op.Kind == faultfs.OpSync && r.named {
		r.flushed = true
	}
	r.mu.Unlock()
	switch {
	case violated:
	case op.Kind == faultfs.OpRemove && strings.Contains(op.Path, manifestPrefix):
		select {
		case <-idle:
		case <-time.After(10 * time.Second):
			r.violated(errors.New("a manifest is retired before the update is acknowledged"))
		}
	case op.Kind == faultfs.OpSync && own:
		select {
		case <-idle:
			r.violated(errors.New("an update is acknowledged before its flush"))
		case <-time.After(10 * time.Millisecond): // enough for an answer that was given
		}
	}
	return nil
}

func (r *recorder) violated(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violation = err
}

func (r *recorder) after(op faultfs.Op, err error) error {
	if !op.Changes() {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if manifest := strings.Contains(op.Path, manifestPrefix); manifest && err == nil {
		r.named = r.named || op.Kind == faultfs.OpRename || op.Kind == faultfs.OpLink
		r.flushed = r.flushed || op.Kind == faultfs.OpLink // over a network, it was before
	}
	if op.Kind == faultfs.OpRename && err == nil {
		r.now.maxRev = max(r.now.maxRev, r.coming) // now everybody can see it
	}
	if r.last {
		return err
	}
	mom := r.now
	mom.disk, mom.op = r.m.disk.Clone(), op
	mom.acked, mom.begun = slices.Clone(mom.acked), slices.Clone(mom.begun)
	r.moments = append(r.moments, mom)
	return err
}

func (r *recorder) open(opts *Options) (*Store, error) {
	s, err := open(simDir, opts, r.m.system(r.Hooked))
	if err == nil && r.creator {
		r.mu.Lock()
		r.now.opened = true
		r.mu.Unlock()
	}
	return s, err
}

// update runs one update of the workload and waits until what follows it in
// the background has come to its end.
func (r *recorder) update(s *Store, key string) error {
	r.mu.Lock()
	r.now.begun = append(r.now.begun, key)
	r.waiting = make(chan struct{})
	r.updating, r.named, r.flushed = true, false, false
	// Whoever can leave is led by another goroutine, and answered by it.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if len(r.now.begun)%2 == 0 {
		ctx = context.Background()
	}
	r.mu.Unlock()
	_, err := applyUpdate(ctx, s, key, r.saw)
	r.mu.Lock()
	if err == nil {
		r.now.acked = append(r.now.acked, key)
	}
	close(r.waiting)
	r.mu.Unlock()
	settle(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.updating = false
	return errors.Join(err, r.violation)
}

// saw notes the revision that an update will have once it is published.
func (r *recorder) saw(rev Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.coming = rev
}

// plain is the disk as it is.
func plain(d *faultfs.Disk) *faultfs.Hooked { return &faultfs.Hooked{FS: d} }

// A scenario does something with a store and reports its moments.
type scenario func(r *recorder) error

func updates(n int, opts *Options) scenario {
	return func(r *recorder) error {
		s, err := r.open(opts)
		if err != nil {
			return err
		}
		defer s.Close()
		for i := range n {
			if err := r.update(s, updateKey("w", i)); err != nil {
				return err
			}
		}
		return nil
	}
}

// withSpares is a process that has committed again and again: it makes the next
// temporary file while the last commit is being flushed.
func withSpares(r *recorder) error {
	r.m.spare = true
	s, err := r.open(nil)
	if err != nil {
		return err
	}
	defer s.Close()
	s.spare.row, s.spare.wanted = spareRow, time.Now()
	met := 0
	for i := range 4 {
		if err := r.update(s, updateKey("w", i)); err != nil {
			return err
		}
		s.spare.mu.Lock()
		if s.spare.file != nil {
			met++
		}
		s.spare.mu.Unlock()
	}
	if met == 0 {
		return errors.New("there was no spare")
	}
	return nil
}

// compacting commits, compacts, and commits.
func compacting(opts *Options) scenario {
	return func(r *recorder) error {
		s, err := r.open(opts)
		if err != nil {
			return err
		}
		defer s.Close()
		for i := range 3 {
			if err := r.update(s, updateKey("w", i)); err != nil {
				return err
			}
		}
		if err := s.Compact(context.Background()); err != nil {
			return err
		}
		return r.update(s, updateKey("w", 3))
	}
}

// mergingBeside is two processes: one of them has written a merged segment, or
// has moved the journal into one, and not yet given it its name, when the other
// commits, and moves its journal, too.
func mergingBeside(opts *Options) scenario {
	return func(r *recorder) error {
		a, err := r.open(opts)
		if err != nil {
			return err
		}
		defer a.Close()
		for i := range 2 {
			if err := r.update(a, updateKey("a", i)); err != nil {
				return err
			}
		}
		at := &stop{
			at: func(op faultfs.Op) bool {
				return op.Kind == faultfs.OpRename && strings.Contains(op.Path, segmentPrefix)
			},
			reached: make(chan struct{}),
			goOn:    make(chan struct{}),
		}
		release := sync.OnceFunc(func() { close(at.goOn) })
		defer release()
		b, err := open(simDir, opts, r.m.system(&faultfs.Hooked{FS: r.Hooked, Before: func(op faultfs.Op) error {
			if at.at(op) { // LOCK is the other's, as if it had been lost
				at.once.Do(func() {
					<-r.m.lock
					close(at.reached)
					<-at.goOn
					r.m.lock <- struct{}{}
				})
			}
			return nil
		}}))
		if err != nil {
			return err
		}
		defer b.Close()
		done := make(chan error, 1)
		go func() { done <- b.compactLocked(context.Background(), nil) }()
		select {
		case <-at.reached:
		case err := <-done:
			return fmt.Errorf("nothing was there to be merged: %w", err)
		}
		for i := range 2 {
			if err := r.update(a, updateKey("a", 2+i)); err != nil {
				return err
			}
		}
		release()
		if err := <-done; err != nil {
			return err
		}
		return r.update(a, "a/4")
	}
}

// overlapping is two processes. The first has published and not yet flushed,
// when the second commits on top of it, flushes and retires.
func overlapping(r *recorder) error {
	a, err := r.open(nil)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := r.update(a, "a/0"); err != nil {
		return err
	}
	published, goOn := make(chan struct{}), make(chan struct{})
	late := &faultfs.Hooked{FS: r.Hooked, Before: func(op faultfs.Op) error {
		if op.Kind == faultfs.OpSync {
			close(published)
			<-goOn
		}
		return nil
	}}
	b, err := open(simDir, nil, r.m.system(late))
	if err != nil {
		return err
	}
	defer b.Close()
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	r.mu.Lock()
	r.now.begun = append(r.now.begun, "b/0")
	r.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := applyUpdate(context.Background(), b, "b/0", r.saw)
		done <- err
	}()
	select {
	case <-published:
	case err := <-done:
		return fmt.Errorf("an update was answered (%v) and its file never flushed", err)
	}
	for i := range 3 {
		if err := r.update(a, updateKey("a", i+1)); err != nil {
			return err
		}
	}
	release()
	if err := <-done; err != nil {
		return err
	}
	settle(b)
	return nil
}

// killed is the first run of the machine, in which the scenario takes place: a
// process that goes on in it follows one that was killed.
const killed = 1

// survives checks what must hold on a disk after a power loss, and then goes
// on to use it. It returns what it did as a recorder, for a second power loss,
// unless this is the last.
func survives(disk *faultfs.Disk, mom moment, run byte, last bool, fsys func(*faultfs.Disk) *faultfs.Hooked, opts *Options) (*recorder, error) {
	m := newMachine(disk, run)
	if state, err := stateOf(m.system(fsys(disk))); err == nil {
		if k := missing(state, mom.acked); k != "" {
			return nil, fmt.Errorf("a reader misses %s", k)
		}
	} else if mom.opened || len(mom.acked) > 0 || !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("a reader: %w", err)
	}
	r := record(m, fsys)
	r.last = last
	r.now = moment{opened: mom.opened, acked: mom.acked, begun: mom.begun, maxRev: mom.maxRev}
	s, err := r.open(opts)
	if err != nil {
		return r, err
	}
	defer s.Close()
	sn, err := s.Snapshot(context.Background())
	if err != nil {
		return r, err
	}
	state, err := checkState(sn)
	if err != nil {
		return r, err
	}
	if k := missing(state, mom.acked); k != "" {
		return r, fmt.Errorf("%s was acknowledged and is lost", k)
	}
	for k := range state {
		if !slices.Contains(mom.begun, k) {
			return r, fmt.Errorf("%s is there and nobody wrote it", k)
		}
	}
	before := r.now.maxRev
	if err := r.update(s, updateKey("r"+strconv.Itoa(int(run)), len(mom.begun))); err != nil {
		return r, fmt.Errorf("update after recovery: %w", err)
	}
	// A network file system's server has a link on disk before it answers.
	if !networked(opts) && run != killed && r.now.maxRev <= before {
		return r, fmt.Errorf("revision %d after recovery, %d may have been seen before", r.now.maxRev, before)
	}
	rep, err := verify(context.Background(), simDir, m.system(fsys(disk)))
	if err == nil && !rep.OK() {
		err = fmt.Errorf("verify finds damage: %+v", rep)
	}
	return r, err
}

func networked(opts *Options) bool { return opts != nil && opts.Network }

// campaign runs a scenario, loses power, and reports the first failure. It
// tries all ways of losing it at one moment if there are not more than limit,
// and else that many, and as many again at random; and while another process
// goes on, in proportion to that.
func campaign(limit int, sc scenario, fsys func(*faultfs.Disk) *faultfs.Hooked, opts *Options) (losses int, err error) {
	disk := faultfs.NewDisk()
	disk.DurableLinks = networked(opts)
	m := newMachine(disk, killed)
	r := record(m, fsys)
	r.creator = true
	if err := sc(r); err != nil {
		return 0, fmt.Errorf("without a power loss: %w", err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i, mom := range r.moments {
		// The process is killed, another one goes on, then power is lost.
		next, err := survives(mom.disk.Clone(), mom, killed, false, fsys, opts)
		if err != nil {
			return losses, fmt.Errorf("process killed after operation %d (%s %s): %w", i, mom.op.Kind, mom.op.Path, err)
		}
		for j, mom2 := range next.moments {
			if n := len(next.moments); n > limit && rng.IntN(n) >= limit {
				continue
			}
			for range max(1, limit/10) {
				losses++
				if _, err := survives(mom2.disk.PowerLoss(rng.IntN), mom2, 2, true, fsys, opts); err != nil {
					return losses, fmt.Errorf("process killed after operation %d (%s %s), and power lost after operation %d of the next (%s %s): %w",
						i, mom.op.Kind, mom.op.Path, j, mom2.op.Kind, mom2.op.Path, err)
				}
			}
		}
		for c := (&faultfs.Choices{Limit: limit, Rand: rng}); c.More(); losses++ {
			last := rng.IntN(20) != 0
			again, err := survives(mom.disk.PowerLoss(c.Choose), mom, 2, last, fsys, opts)
			if err != nil {
				return losses, fmt.Errorf("power lost after operation %d (%s %s): %w", i, mom.op.Kind, mom.op.Path, err)
			}
			if last {
				continue
			}
			for j, mom2 := range again.moments { // power is lost during the recovery too
				for range max(1, limit/30) {
					losses++
					if _, err := survives(mom2.disk.PowerLoss(rng.IntN), mom2, 3, true, fsys, opts); err != nil {
						return losses, fmt.Errorf("power lost after operation %d (%s %s) and, in the recovery, %d (%s %s): %w",
							i, mom.op.Kind, mom.op.Path, j, mom2.op.Kind, mom2.op.Path, err)
					}
				}
			}
		}
	}
	return losses, nil
}

func TestPowerLoss(t *testing.T) {
	network := &Options{Network: true}
	soft, hard := &Options{JournalSize: softJournal}, &Options{JournalSize: hardJournal}
	both := &Options{JournalSize: softJournal, Network: true}
	for _, tc := range []struct {
		name string
		sc   scenario
		opts *Options
		ways int
	}{
		{"create and commit", updates(5, nil), nil, 100},
		{"two processes", overlapping, nil, 100},
		{"temporary files made ahead", withSpares, nil, 50},
		{"network file system", updates(4, network), network, 100},
		// Here are more operations, by far.
		{"journal moved", updates(3, soft), soft, 5},
		{"journal moved at once", updates(3, hard), hard, 5},
		{"merge beside commits", mergingBeside(soft), soft, 5},
		{"compact", compacting(soft), soft, 5},
		{"network file system, journal moved", updates(2, both), both, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n, err := campaign(effort(t, tc.ways), tc.sc, plain, tc.opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d power losses survived", n)
		})
	}
}

// TestPowerLossIsNoticed leaves out one flush after the other, and so on, and
// wants the campaign to fail: else it would prove nothing.
func TestPowerLossIsNoticed(t *testing.T) {
	soft, hard := &Options{JournalSize: softJournal}, &Options{JournalSize: hardJournal}
	noSegmentFlush := func(d *faultfs.Disk) *faultfs.Hooked {
		return plain2(d, func(op faultfs.Op) bool { return isSegment(d, op) })
	}
	for _, tc := range []struct {
		name string
		sc   scenario
		fsys func(*faultfs.Disk) *faultfs.Hooked
		opts *Options
	}{
		{"the file is not flushed", updates(3, nil), func(d *faultfs.Disk) *faultfs.Hooked {
			return plain2(d, func(op faultfs.Op) bool { return op.Kind == faultfs.OpSync })
		}, nil},
		{"the directory is not flushed", updates(3, nil), func(d *faultfs.Disk) *faultfs.Hooked {
			return plain2(d, func(op faultfs.Op) bool { return op.Kind == faultfs.OpSyncDir && op.Path == simDir })
		}, nil},
		{"the parent directory is not flushed", updates(1, nil), func(d *faultfs.Disk) *faultfs.Hooked {
			return plain2(d, func(op faultfs.Op) bool { return op.Kind == faultfs.OpSyncDir && op.Path == "/" })
		}, nil},
		{"a segment is not flushed before it has its name", updates(3, soft), noSegmentFlush, soft},
		{"a segment that holds an update is not flushed before it has its name", updates(3, hard), noSegmentFlush, hard},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, err := campaign(effort(t, 100), tc.sc, tc.fsys, tc.opts)
			if err == nil {
				t.Fatalf("%d power losses, and the campaign has not noticed", n)
			}
			t.Log(err)
		})
	}
}

// isSegment tells whether an operation is the flush of a segment that has no
// name yet.
func isSegment(d *faultfs.Disk, op faultfs.Op) bool {
	b, err := d.ReadFile(op.Path)
	return op.Kind == faultfs.OpSync && err == nil && bytes.HasPrefix(b, []byte(segmentMagic))
}

// plain2 is a disk that only pretends to carry out some operations.
func plain2(d *faultfs.Disk, pretend func(faultfs.Op) bool) *faultfs.Hooked {
	return &faultfs.Hooked{FS: &faultfs.Pretender{FS: d, Pretend: pretend}}
}
