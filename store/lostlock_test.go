package store

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/internal/vfs/faultfs"
	"github.com/recordstore/recordstore/lockfile"
)

// A losingLocker is LOCK on a server whose lease runs out: flushing what is written
// under it is refused as often as losses says.
type losingLocker struct {
	locker
	losses, taken *int
	other         chan struct{} // who has it once it was lost, until this is closed; nil: nobody
}

func (l losingLocker) Lock(ctx context.Context, purpose string) (heldLock, error) {
	if l.other != nil && *l.losses == 0 {
		select {
		case <-l.other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	held, err := l.locker.Lock(ctx, purpose)
	*l.taken++
	return losingLock{held, l}, err
}

// losing returns a machine whose LOCK is lost as often as losses says from now on, and how
// often it was taken.
func losing(losses int, other chan struct{}) (m *simMachine, sys system, left, taken *int) {
	m, left, taken = newMachine(faultfs.NewDisk(), 1), &losses, new(int)
	sys = m.system(plain(m.disk))
	open := sys.openLock
	sys.openLock = func(path string, opts *lockfile.Options) (locker, error) {
		l, err := open(path, opts)
		return losingLocker{l, left, taken, other}, err
	}
	return m, sys, left, taken
}

type losingLock struct {
	heldLock
	l losingLocker
}

func (h losingLock) Sync() error {
	if *h.l.losses == 0 {
		return h.heldLock.Sync()
	}
	*h.l.losses--
	return &fs.PathError{Op: "sync", Path: "LOCK", Err: syscall.EIO}
}

// A LOCK of links has a lease on NFS 3 too: who has written alone there, and writes nothing to
// LOCK, asks all the same whether it was lost.
func TestLostLockAlone(t *testing.T) {
	_, sys, losses, taken := losing(0, nil)
	s := mustOpen(t, simDir, &Options{Network: true}, sys)
	defer s.Close()
	s.nfs3 = true
	for i := range ownRow + 3 {
		mustUpdate(t, s, updateKey("alone", i))
	}
	*losses, *taken = 1, 0
	mustUpdate(t, s, "w")
	if *taken != 2 {
		t.Errorf("LOCK was taken %d times, want 2", *taken)
	}
}

// On a network file system a lease that ran out costs the writer another round, and
// nobody an update. An error that stays is told, and nothing is done.
func TestLostLock(t *testing.T) {
	_, sys, losses, taken := losing(0, nil)
	s := mustOpen(t, simDir, &Options{Network: true}, sys)
	defer s.Close()
	mustUpdate(t, s, "before")
	for n := range maxVain + 1 {
		*losses, *taken = n, 0
		key, runs := updateKey("w", n), 0
		rev, err := s.Update(t.Context(), func(tx *Tx) error {
			runs++
			return tx.Put(key, runs)
		})
		_, getErr := s.Get(t.Context(), key)
		if n < maxVain {
			if err != nil || rev == 0 || getErr != nil || runs != n+1 || *taken != n+1 {
				t.Errorf("lost %d times: %v; %d runs, LOCK taken %d times; Get: %v", n, err, runs, *taken, getErr)
			}
			continue
		}
		if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotDurable) || !errors.Is(getErr, ErrNotFound) {
			t.Errorf("lost %d times: %v, want EIO alone; Get: %v", n, err, getErr)
		}
		if *losses != 0 || *taken != maxVain {
			t.Errorf("LOCK was taken %d times, want %d", *taken, maxVain)
		}
	}
}

// Somebody else has the lock by then, and keeps it: who gives up is told that nothing was
// done, and Close does not wait for the lock. Who cannot give up goes on after that.
func TestLostLockLeave(t *testing.T) {
	for _, leaves := range []bool{true, false} {
		other := make(chan struct{})
		_, sys, _, taken := losing(1, other)
		s := mustOpen(t, simDir, &Options{Network: true}, sys)
		ctx, cancel := context.Background(), func() {}
		if leaves {
			ctx, cancel = context.WithCancel(ctx)
		}
		done := make(chan error, 1)
		go func() {
			_, err := s.Update(ctx, func(tx *Tx) error { return tx.Put("w/1", 1) })
			done <- err
		}()
		waits := func() bool {
			s.qmu.Lock()
			defer s.qmu.Unlock()
			return *taken == 1 && len(s.waiting) == 1 && s.waiting[0].vain == 1
		}
		for began := time.Now(); !waits(); time.Sleep(time.Millisecond) {
			if time.Since(began) > time.Minute {
				t.Fatal("the update does not wait for LOCK anew")
			}
		}
		if cancel(); leaves {
			if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnknown) {
				t.Errorf("Update: %v, want that nothing was done", err)
			}
			if _, err := s.Get(t.Context(), "w/1"); !errors.Is(err, ErrNotFound) {
				t.Errorf("Get: %v", err)
			}
		} else {
			close(other)
			if err := <-done; err != nil {
				t.Errorf("Update: %v", err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Moving the journal and merging, too, take the lock anew.
func TestLostLockCompact(t *testing.T) {
	m, sys, losses, _ := losing(0, nil)
	s := mustOpen(t, simDir, &Options{Network: true}, sys)
	defer s.Close()
	for i := range 3 {
		mustUpdate(t, s, updateKey("w", i))
		*losses = maxVain - 1
		if err := s.Compact(t.Context()); err != nil || *losses != 0 {
			t.Fatalf("Compact: %v; %d losses are left", err, *losses)
		}
	}
	settle(s)
	if state, err := stateOf(sys); err != nil || len(state) != 3 {
		t.Errorf("%v, %v", state, err)
	}
	names, err := m.disk.ReadDir(simDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if vfs.IsTemp(name) {
			t.Errorf("%s is left", name)
		}
	}
}
