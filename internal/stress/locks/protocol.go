package locks

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/recordstore/recordstore/lockfile"
)

// A protocol is a lock that the workload takes. The workload, the logs and the judge
// are the same for all.
type protocol interface {
	lock(ctx context.Context, shared bool) (held, error)
	try(shared bool) (held, error)
	close() error
}

// held is a lock that is held.
type held interface {
	Check() error // that nobody has taken away the file
	Unlock() error
}

func openProtocol(name, path string) (protocol, error) {
	switch name {
	case ProtocolLockfile:
		f, err := lockfile.Open(path, nil)
		return lockfileLock{f}, err
	case ProtocolNaive:
		return naive(path), nil
	}
	return nil, fmt.Errorf("unknown protocol %q", name)
}

// refusal reports whether err is an answer, and not a failure.
func refusal(err error) bool {
	return errors.Is(err, lockfile.ErrLocked) || errors.Is(err, context.DeadlineExceeded)
}

type lockfileLock struct{ *lockfile.File }

func (f lockfileLock) lock(ctx context.Context, shared bool) (held, error) {
	if shared {
		return f.RLock(ctx, "stress")
	}
	return f.Lock(ctx, "stress")
}

func (f lockfileLock) try(shared bool) (held, error) {
	if shared {
		return f.TryRLock("stress")
	}
	return f.TryLock("stress")
}

func (f lockfileLock) close() error { return f.Close() }

// naive is a lock as many write it: open the file, lock it with flock(2), and when
// done delete it, so that no litter is left. Who waits for the lock has the file open
// that is deleted, gets its lock, and does not look whether it still has its name;
// meanwhile another creates the file anew, and locks that.
//
// It is here to be seen failing: whoever changes the workload or the judge checks with
// it that they still notice.
type naive string

type naiveHeld struct {
	f    *os.File
	path string
}

func (path naive) take(shared bool, flags int) (held, error) {
	f, err := os.OpenFile(string(path), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	for {
		err = unix.Flock(int(f.Fd()), how|flags)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil {
		return naiveHeld{f, string(path)}, nil
	}
	f.Close()
	if err == unix.EWOULDBLOCK {
		err = lockfile.ErrLocked
	}
	return nil, err
}

func (path naive) lock(_ context.Context, shared bool) (held, error) { return path.take(shared, 0) }
func (path naive) try(shared bool) (held, error)                     { return path.take(shared, unix.LOCK_NB) }
func (path naive) close() error                                      { return nil }

func (h naiveHeld) Check() error { return nil }

func (h naiveHeld) Unlock() error {
	if err := os.Remove(h.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return h.f.Close()
}
