package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/boot"
	"github.com/recordstore/recordstore/internal/vfs/faultfs"
	"github.com/recordstore/recordstore/lockfile"
)

// What the simulated machines of the campaigns have in common: a disk in
// memory, a lock that works (or does not), and a workload whose state tells
// by itself whether it is a state that there may be.

const simDir = "/s"

// simMachine is one run of a machine, from its start to a power loss.
type simMachine struct {
	disk  *faultfs.Disk
	boot  boot.ID
	lock  chan struct{} // nil: a lock that excludes nobody
	merge chan struct{} // likewise, of MERGE
	tick  *atomic.Int64
	spare bool // temporary files are made ahead
}

func newMachine(disk *faultfs.Disk, run byte) *simMachine {
	return &simMachine{disk: disk, boot: boot.ID{run}, lock: make(chan struct{}, 1), merge: make(chan struct{}, 1), tick: new(atomic.Int64)}
}

// system returns the machine as a store sees it through fs, with little kept
// by retirement, and blocks of two records, so that a few commits show
// everything.
func (m *simMachine) system(h *faultfs.Hooked) system {
	return system{
		fs:   h,
		now:  func() time.Time { return time.Unix(1_700_000_000, m.tick.Add(1)) },
		boot: m.boot,
		openLock: func(path string, _ *lockfile.Options) (locker, error) {
			l := &simLock{m, h, path}
			if _, err := m.disk.ReadFile(path); errors.Is(err, fs.ErrNotExist) {
				return l, l.write(nil)
			}
			return l, nil
		},
		lockData: func(path string) ([]byte, error) {
			b, err := m.disk.ReadFile(path)
			if len(b) == 0 || err != nil {
				return nil, err
			}
			// Like lockfile's, the data has a checksum.
			n := len(b) - checksumSize
			if n < 0 || !bytes.Equal(b, sealed(b[:n])) {
				return nil, lockfile.ErrCorrupt
			}
			return b[:n], nil
		},
		noSpare:     !m.spare,
		layout:      segmentLayout{dataBlock: 64, indexBlock: 64},
		keep:        2,
		keepAge:     1,
		retireEvery: 1,
	}
}

type simLock struct {
	m    *simMachine
	h    *faultfs.Hooked
	path string
}

func (l *simLock) write(p []byte) error {
	return l.h.Do(faultfs.OpWrite, l.path, func() error { return l.m.disk.WriteFile(l.path, p) })
}

// sealed returns p with a checksum.
func sealed(p []byte) []byte {
	return binary.LittleEndian.AppendUint32(slices.Clone(p), checksum(p))
}

// held is what the holder of the lock has put something into.
func (l *simLock) held() chan struct{} {
	if filepath.Base(l.path) == mergeName {
		return l.m.merge
	}
	return l.m.lock
}

func (l *simLock) Lock(ctx context.Context, _ string) (heldLock, error) {
	if l.held() == nil {
		return l, nil
	}
	select {
	case l.held() <- struct{}{}:
		return l, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *simLock) TryLock(string) (heldLock, error) {
	select {
	case l.held() <- struct{}{}:
		return l, nil
	default:
		if l.held() == nil {
			return l, nil
		}
		return nil, lockfile.ErrLocked
	}
}

func (l *simLock) Unlock() error {
	if l.held() != nil {
		<-l.held()
	}
	return nil
}

func (l *simLock) Sync() error                            { return nil }
func (l *simLock) WriteData(p []byte) error               { return l.write(sealed(p)) }
func (l *simLock) ReadData() ([]byte, error)              { return l.m.system(l.h).lockData(l.path) }
func (l *simLock) Holder() (lockfile.Holder, bool, error) { return lockfile.Holder{}, false, nil }
func (l *simLock) Close() error                           { return nil }

// The workload: update number i of writer w adds the record "w/i" and counts
// in the record "n" how many updates there have been. So n must equal the
// number of the other records in every state, whatever is in it.

func updateKey(writer string, i int) string { return fmt.Sprintf("%s/%d", writer, i) }

// applyUpdate is one update of the workload. saw, if not nil, is told the
// revision that others may see as soon as it is published.
func applyUpdate(ctx context.Context, s *Store, key string, saw func(Revision)) (Revision, error) {
	return s.Update(ctx, func(tx *Tx) error {
		if saw != nil {
			saw(tx.Revision())
		}
		n := 0
		rec, err := tx.Get("n")
		if err == nil {
			n, err = Decode[int](rec)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err := tx.Put(key, n+1); err != nil {
			return err
		}
		return tx.Put("n", n+1)
	})
}

// checkState returns the keys of the updates that a snapshot contains, and an
// error if it is a state that cannot be.
func checkState(sn *Snapshot) (map[string]bool, error) {
	n, keys := 0, map[string]bool{}
	for rec, err := range sn.All() {
		if err != nil {
			return nil, err
		}
		if rec.Key == "n" {
			if n, err = Decode[int](rec); err != nil {
				return nil, err
			}
			continue
		}
		if !strings.Contains(rec.Key, "/") {
			return nil, fmt.Errorf("record %q, which nobody wrote", rec.Key)
		}
		keys[rec.Key] = true
	}
	if n != len(keys) {
		return nil, fmt.Errorf("%d updates were counted, %d have left a record", n, len(keys))
	}
	return keys, nil
}

// stateOf opens the store for reading and returns what is in it.
func stateOf(sys system) (map[string]bool, error) {
	s, err := open(simDir, &Options{ReadOnly: true}, sys)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	sn, err := s.Snapshot(context.Background())
	if err != nil {
		return nil, err
	}
	return checkState(sn)
}

// missing returns the first of keys that is not in state, or "".
func missing(state map[string]bool, keys []string) string {
	for _, k := range keys {
		if !state[k] {
			return k
		}
	}
	return ""
}

// The journal of one update of the workload is larger than softJournal, so
// that each is moved into a segment in the background; and larger than the hard
// bound that belongs to hardJournal, so that each is, before it is published.
const (
	softJournal = 60
	hardJournal = 1
)

// settle waits until nothing of the store runs in the background: no flush, no
// retirement, no move of the journal and no merge.
func settle(s *Store) { s.busy.Wait() }

func mustOpen(t testing.TB, dir string, opts *Options, sys system) *Store {
	t.Helper()
	s, err := open(dir, opts, sys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// effort is how much of a campaign to run, where n is what go test runs: n times
// RECORDSTORE_EFFORT; a fifth of it with -short.
func effort(t testing.TB, n int) int {
	if v := os.Getenv("RECORDSTORE_EFFORT"); v != "" {
		times, err := strconv.Atoi(v)
		if err != nil || times < 1 {
			t.Fatalf("RECORDSTORE_EFFORT=%s: it must be a number from 1", v)
		}
		n *= times
	}
	if testing.Short() {
		n /= 5
	}
	return n
}
