package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/vfs/faultfs"
)

// The fault campaign. Each operation of a scenario fails once: before it takes
// effect, or after it, as on a network file system whose answer is lost. What
// is reported must be true, and nothing else may be lost.

// A faulty disk fails the n-th operation.
type faulty struct {
	mu    sync.Mutex
	n     int
	late  bool  // the operation takes effect all the same
	err   error // nil: none fails
	count int
	hit   faultfs.Op
}

func (f *faulty) hooked(d *faultfs.Disk) *faultfs.Hooked {
	h := &faultfs.Hooked{FS: d}
	h.Before = func(op faultfs.Op) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.count++
		if f.count == f.n {
			f.hit = op
			if !f.late {
				return f.err
			}
		}
		return nil
	}
	h.After = func(_ faultfs.Op, err error) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.late && f.count == f.n && err == nil {
			f.count++ // once
			return f.err
		}
		return err
	}
	return h
}

// faultRun opens a store and updates it while f fails, and checks what was
// reported. It returns how many operations there were.
func faultRun(f *faulty, opts *Options) (int, error) {
	m := newMachine(faultfs.NewDisk(), 1)
	sys := m.system(f.hooked(m.disk))
	clean := m.system(plain(m.disk))
	s, err := open(simDir, opts, sys)
	if err != nil {
		if s, err = open(simDir, opts, sys); err != nil {
			return 0, fmt.Errorf("open once more after an error: %w", err)
		}
	}
	defer s.Close()
	var acked, absent []string
	for i := range 4 {
		key := updateKey("w", i)
		_, err := applyUpdate(context.Background(), s, key, nil)
		settle(s)
		switch {
		case err == nil:
			acked = append(acked, key)
		case errors.Is(err, ErrUnknown), errors.Is(err, ErrNotDurable):
		case !errors.Is(err, f.err):
			return 0, fmt.Errorf("update %d reports %w, which hides the cause", i, err)
		default:
			absent = append(absent, key)
		}
		state, err := stateOf(clean)
		if err != nil {
			return 0, err
		}
		if k := missing(state, acked); k != "" {
			return 0, fmt.Errorf("%s was acknowledged and is lost", k)
		}
		for _, k := range absent {
			if state[k] {
				return 0, fmt.Errorf("%s was reported as not done and is there", k)
			}
		}
	}
	if len(acked) < 3 {
		return 0, fmt.Errorf("one fault has cost more than one update: only %v were done", acked)
	}
	small := opts != nil && opts.JournalSize > 0
	if small {
		// What failed was the journal's move, or a merge, perhaps: the next one
		// has made up for it.
		st := s.current()
		segments, journal := len(st.segments), st.journalSize()
		st.release()
		if segments == 0 || journal > 2*s.bound.hard {
			return 0, fmt.Errorf("the store has %d segments and a journal of %d bytes", segments, journal)
		}
		if err := s.Compact(context.Background()); err != nil && (f.err == nil || !errors.Is(err, f.err)) {
			return 0, fmt.Errorf("compact reports %w, which hides the cause", err)
		}
	}
	f.mu.Lock()
	count := f.count
	f.n, f.count = 0, 0 // from here on all is well
	f.mu.Unlock()
	before, err := stateOf(clean)
	if err != nil {
		return 0, err
	}
	if small {
		if err := s.Compact(context.Background()); err != nil {
			return 0, fmt.Errorf("compact once more: %w", err)
		}
		if st, err := s.Stat(context.Background()); err != nil || st.Segments != 1 || st.Journal != 0 {
			return 0, fmt.Errorf("compacted, the store has %d segments and a journal of %d bytes, %w", st.Segments, st.Journal, err)
		}
	}
	after, err := stateOf(clean)
	if k := missing(after, acked); err != nil || k != "" || !maps.Equal(before, after) {
		return 0, fmt.Errorf("there were %v, and are after compaction %v, %w", before, after, err)
	}
	rep, err := verify(context.Background(), simDir, clean)
	if err == nil && !rep.OK() {
		err = fmt.Errorf("verify finds damage: %+v", rep)
	}
	if err != nil {
		return 0, err
	}
	return count, nil
}

func TestFaults(t *testing.T) {
	for _, tc := range []struct {
		name   string
		opts   *Options
		causes []error
	}{
		{"local", nil, []error{syscall.EIO, syscall.ENOSPC}},
		{"network", &Options{Network: true}, []error{syscall.EIO, syscall.ENOSPC}},
		{"journal moved", &Options{JournalSize: softJournal}, []error{syscall.EIO}},
		{"journal moved at once", &Options{JournalSize: hardJournal}, []error{syscall.ENOSPC}},
		{"network, journal moved", &Options{JournalSize: softJournal, Network: true}, []error{syscall.EIO}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, err := faultRun(&faulty{}, tc.opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d operations", n)
			for i := range n {
				for _, cause := range tc.causes {
					for _, late := range []bool{false, true} {
						f := &faulty{n: i + 1, late: late, err: cause}
						if _, err := faultRun(f, tc.opts); err != nil {
							t.Errorf("operation %d (%s %s) reports %v, late: %v: %v", i, f.hit.Kind, f.hit.Path, cause, late, err)
						}
					}
				}
			}
		})
	}
}

// A full disk: everything that needs room fails, until there is room again.
func TestNoSpace(t *testing.T) {
	for _, kind := range []string{faultfs.OpCreate, faultfs.OpWrite, faultfs.OpRename} {
		t.Run(kind, func(t *testing.T) {
			m := newMachine(faultfs.NewDisk(), 1)
			full := false
			h := &faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
				if full && op.Kind == kind {
					return syscall.ENOSPC
				}
				return nil
			}}
			s := mustOpen(t, simDir, nil, m.system(h))
			defer s.Close()
			mustUpdate(t, s, "w/0")
			before, err := m.disk.ReadDir(simDir)
			if err != nil {
				t.Fatal(err)
			}
			full = true
			for range 3 {
				if _, err := applyUpdate(context.Background(), s, "w/1", nil); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrUnknown) {
					t.Errorf("error %v, want %v and nothing done", err, syscall.ENOSPC)
				}
			}
			if after, err := m.disk.ReadDir(simDir); err != nil || !slices.Equal(before, after) {
				t.Errorf("the directory holds %v, %v; want what it held: %v", after, err, before)
			}
			wantState(t, m.system(plain(m.disk)), "w/0")
			full = false
			mustUpdate(t, s, "w/2")
			wantState(t, m.system(plain(m.disk)), "w/0", "w/2")
		})
	}
}

// A disk that is full of the store's own old files has room for a commit: they
// are retired, below a manifest that is known to be on disk.
func TestNoSpaceButOldFiles(t *testing.T) {
	const room = 30 // files
	for _, tc := range []struct {
		name     string
		unmarked uint64 // as many of the newest manifests
		young    bool
		works    bool
	}{
		{"the newest is marked", 0, false, true},
		{"the newest are not marked: their writers have died", 3, false, true},
		{"none is marked", room, false, false},
		{"the files are young", 0, true, false},
	} {
		for what, cause := range map[string]error{"update": syscall.ENOSPC, "rewrite": syscall.EDQUOT} {
			t.Run(fmt.Sprintf("%s, %s", tc.name, what), func(t *testing.T) {
				m := newMachine(faultfs.NewDisk(), 1)
				var mu sync.Mutex
				highest := uint64(0) // that was removed
				h := &faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
					mu.Lock()
					defer mu.Unlock()
					if names, err := m.disk.ReadDir(simDir); err == nil && len(names) >= room && op.Kind == faultfs.OpCreate {
						return cause
					}
					if seq, ok := parseManifestName(filepath.Base(op.Path)); ok && op.Kind == faultfs.OpRemove {
						highest = max(highest, seq)
					}
					return nil
				}}
				sys := m.system(h)
				sys.retireEvery = math.MaxInt64
				sys.keepAge = time.Hour
				if now := sys.now; !tc.young { // the disk's clock goes on when nothing is written
					sys.now = func() time.Time { return now().Add(24 * time.Hour) }
				}
				s := mustOpen(t, simDir, nil, sys)
				defer s.Close()
				var keys []string
				for s.cur.Load().seq < room-1 { // and LOCK
					keys = append(keys, updateKey("w", len(keys)))
					mustUpdate(t, s, keys[len(keys)-1])
				}
				newest := s.cur.Load().seq
				for seq := newest; seq > 0 && seq+tc.unmarked > newest; seq-- {
					f, err := m.disk.Open(s.manifestPath(seq))
					if err == nil {
						err = f.Chmod(0o644)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				var err error
				switch what {
				case "update":
					_, err = applyUpdate(context.Background(), s, "w/more", nil)
				case "rewrite":
					err = s.compactLocked(context.Background(), nil)
				}
				settle(s)
				if (err == nil) != tc.works || err != nil && !errors.Is(err, cause) {
					t.Fatalf("it reports %v, want that it is done: %v", err, tc.works)
				}
				if tc.works && what == "update" {
					keys = append(keys, "w/more")
				}
				wantState(t, m.system(plain(m.disk)), keys...)
				below := newest - tc.unmarked
				if (highest > 0) != tc.works || tc.works && highest != below-1 {
					t.Errorf("removed up to sequence %d, the highest that was marked is %d", highest, below)
				}
			})
		}
	}
}
