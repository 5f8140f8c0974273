//go:build unix

package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// How a lock file is removed.
//
// Removing one on release is a classic mistake: who waits for the lock has the file
// open, gets the lock of a file that has no name any more, and meanwhile others lock
// the one that has been created in its place. Two rules prevent that here.
//
// Whoever has taken a lock looks whether the path still names the file that he has
// locked. If not he has locked nothing, and opens the path anew (attemptLocked and
// acquireLocked in wait.go; who joins a shared lock looks first, which is as good,
// because the lock that he joins is held meanwhile).
//
// And a file is removed only by who holds it exclusively, and has himself looked
// whether the path names it. So the name does not go, and comes to mean no other
// file, while anybody holds the lock.
//
// Those who wait meanwhile are in the queue of the old file. It gives them the lock,
// one after the other, when the remover lets go of it or dies, and each goes on to the
// new file. Their order may change on the way.

// Remove removes the lock file at path, if nobody holds its lock or waits for it.
// Otherwise it returns a *[HeldError], at once, and nothing has changed.
//
// Remove may be called at any time, whatever others do with the lock: it takes the
// lock itself while it removes the file, and those who have the file open, or just
// opened it, find out and open the path anew, which creates it with the mode and group
// that their Options say, or fails if they say NoCreate. The application's data
// ([Lock.WriteData]) goes with the file. A process that dies in Remove has removed the
// file or has not, and leaves no lock. With [Link] it can leave the directory of claims,
// which whoever opens the lock next uses, or part of it under another name, with ".gone."
// in it, which is in nobody's way.
//
// Like [Open], Remove refuses what is not a lock file ([ErrNotLockFile]), and in
// addition files that have no header: new ones, and ones that were truncated. A file
// that is not there is an error that wraps fs.ErrNotExist. Remove needs permission to
// lock the file and to write the directory.
//
// The users must all be of a version of this package that has Remove, and nobody may
// remove or replace the file by other means.
func Remove(path string) error { return remove(path, nil) }

// RemoveUnused removes the lock files in dir that nobody uses, as [Remove] does, and
// returns the paths of those it has removed. It does not look into subdirectories.
//
// It leaves alone
//
//   - what is not a regular file with the header of a lock file;
//   - files that are locked or waited for;
//   - files modified less than olderThan ago: taking the lock exclusively modifies
//     the file, unless Options.NoRecord is set or it is released before
//     Options.RecordAfter, and sharing it does not;
//   - files with the application's data ([Lock.WriteData]), which somebody may want
//     to read again;
//   - files with several hard links, whose users by another name it would part from those
//     who come;
//   - files named LOCK or MERGE, because these are a record store's own wherever it
//     is one, and their mode says who may use it.
//
// It opens all regular files in dir to look at them, and so releases the [POSIX] locks, and
// those that are not this package's, that the process has on any of them by fcntl(F_SETLK).
//
// A file that could not be examined or removed does not keep RemoveUnused from the
// others. The error joins those of all such files, and each names its file.
func RemoveUnused(dir string, olderThan time.Duration) (removed []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	limit := time.Now().Add(-olderThan)
	var errs []error
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == "LOCK" || e.Name() == "MERGE" {
			continue
		}
		path := filepath.Join(dir, e.Name())
		err := removeUnused(path, limit)
		switch {
		case err == nil:
			removed = append(removed, path)
		case !errors.Is(err, errKeep):
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

// errKeep is for files that RemoveUnused leaves alone.
var errKeep = errors.New("to be left alone")

// removeUnused first only reads: most files of a directory may be no lock files, or
// somebody else's.
func removeUnused(path string, limit time.Time) error {
	keep := func(h *handle, b []byte) error {
		st, err := fstat(h.fd)
		if err != nil {
			return err
		}
		b = append(b, make([]byte, fileSize)...)
		data, err := decodeData(b[dataOffset:][:dataSize])
		if time.Unix(st.Mtim.Unix()).After(limit) || err != nil || data != nil || st.Nlink > 1 {
			return errKeep
		}
		return nil
	}
	fd, err := openFile(path, unix.O_RDONLY, 0)
	if err == nil {
		h := &handle{fd: fd}
		var m Mechanism
		var b []byte
		if m, b, err = h.check(); err == nil && m == Auto {
			err = ErrNotLockFile
		}
		if err == nil {
			err = keep(h, b)
		}
		h.close()
	}
	if err == nil {
		err = remove(path, keep)
	} else if !errors.Is(err, errKeep) {
		err = &fs.PathError{Op: "examine", Path: path, Err: err}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotLockFile) || errors.Is(err, ErrLocked) {
		return errKeep // gone, or none of ours, or in use
	}
	return err
}

// remove removes the lock file at path unless keep, which is called with the lock
// held and with the contents of the file, returns an error.
func remove(path string, keep func(h *handle, b []byte) error) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	// A File for its errors' sake: it has none open.
	f := &File{name: path, path: abs, opts: Options{NoCreate: true}}
	for {
		h, err := f.openToRemove()
		if err != nil {
			return err
		}
		if err = h.attempt(false); err != nil {
			err = f.lockError(err)
		} else {
			err = f.removeLocked(h, keep)
			// Not by closing alone: a child that is just being started has the
			// description open too.
			_ = h.unlock()
		}
		replaced := err != nil && h.outdated(abs)
		h.close()
		switch {
		case !errors.Is(err, errBusy):
			return err
		case !replaced:
			return f.held(nil)
		}
		// Somebody else has removed it, and it may be there again.
	}
}

// openToRemove opens the file as it is. It does not make a lock file of an empty one,
// as Open does.
func (f *File) openToRemove() (*handle, error) {
	fd, err := openFile(f.path, unix.O_RDWR, 0)
	if err != nil {
		return nil, f.openError(err)
	}
	h := &handle{path: f.path, opts: &f.opts, fd: fd}
	m, _, err := h.check()
	if err == nil && m == Auto {
		err = errNoHeader
	}
	if err == nil {
		err = h.use(m)
	}
	if err != nil {
		h.close()
		return nil, f.error("remove", err)
	}
	return h, nil
}

var errNoHeader = fmt.Errorf("%w: it has no header", ErrNotLockFile)

// removeLocked removes the file that h has locked exclusively. It returns errBusy if
// the path does not name that file any more.
func (f *File) removeLocked(h *handle, keep func(h *handle, b []byte) error) error {
	same, err := h.named(f.path)
	if err == nil && !same {
		return errBusy
	}
	var b []byte
	if err == nil {
		var m Mechanism
		if m, b, err = h.check(); err == nil && m != h.mechanism {
			err = errNoHeader // it was truncated meanwhile
		}
	}
	if err == nil && keep != nil {
		err = keep(h, b)
	}
	if err == nil {
		err = ignoringEINTR(func() error { return unix.Unlink(f.path) })
	}
	if err != nil {
		return f.error("remove", err)
	}
	switch l := h.locker.(type) {
	case *flocker:
		removeTurnstile(f.path + turnSuffix)
	case *linker:
		// After the file: who makes a new one meanwhile waits for our claim, and then
		// makes a new directory. The other way round somebody could take the lock
		// of the old file.
		if err := l.removeExtras(); err != nil {
			return f.error("remove", err)
		}
	}
	return nil
}

// removeTurnstile removes what flock_unix.go keeps beside the lock file, if that is
// what it is: it is empty. Those who have it open make a new one when they next have
// to wait. Until then some may wait at the one and some at the other, which is only
// a matter of politeness.
func removeTurnstile(path string) {
	if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() && fi.Size() == 0 {
		_ = unix.Unlink(path) // an empty file is in nobody's way
	}
}
