package store

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/recordstore/recordstore/internal/vfs/faultfs"
	"github.com/recordstore/recordstore/lockfile"
)

// A losingLocker is LOCK on a server whose lease runs out: flushing what is written
// under it is refused as often as losses says.
type losingLocker struct {
	locker
	losses, taken *int
}

func (l losingLocker) Lock(ctx context.Context, purpose string) (heldLock, error) {
	held, err := l.locker.Lock(ctx, purpose)
	*l.taken++
	return losingLock{held, l}, err
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

// On a network file system a lease that ran out costs the writer another round, and
// nobody an update. An error that stays is told, and nothing is done.
func TestLostLock(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	losses, taken := 0, 0
	sys := m.system(plain(m.disk))
	open := sys.openLock
	sys.openLock = func(path string, opts *lockfile.Options) (locker, error) {
		l, err := open(path, opts)
		return losingLocker{l, &losses, &taken}, err
	}
	s := mustOpen(t, simDir, &Options{Network: true}, sys)
	defer s.Close()
	mustUpdate(t, s, "before")
	for n := range lockTries + 1 {
		losses, taken = n, 0
		key, runs := updateKey("w", n), 0
		rev, err := s.Update(t.Context(), func(tx *Tx) error {
			runs++
			return tx.Put(key, runs)
		})
		_, getErr := s.Get(t.Context(), key)
		if n < lockTries {
			if err != nil || rev == 0 || getErr != nil || runs != n+1 || taken != n+1 {
				t.Errorf("lost %d times: %v; %d runs, LOCK taken %d times; Get: %v", n, err, runs, taken, getErr)
			}
			continue
		}
		if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotDurable) || !errors.Is(getErr, ErrNotFound) {
			t.Errorf("lost %d times: %v, want EIO alone; Get: %v", n, err, getErr)
		}
		if losses != 0 || taken != lockTries {
			t.Errorf("LOCK was taken %d times, want %d", taken, lockTries)
		}
	}
}
