package lockfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// Why LockAll cannot deadlock: who holds some of the locks waits only for one that is
// higher than all he holds, in the order of device and inode of the files. So among
// those who wait for each other somebody holds the highest and waits for nothing.
//
// That holds for files, and a wait is for a path. When the file of a path is replaced,
// somebody may find himself waiting for a file that is not the one he counted on, and
// out of order. He cannot be woken for that by the kernel, so he looks now and then,
// lets go of everything, and starts again.

// Locks are the locks that [LockAll] has taken.
type Locks []*Lock

// LockAll takes the locks of all the files exclusively, as [File.Lock] does, and
// returns them in the order of the arguments. It takes them in an order that is the
// same for all its callers, by device and inode of the lock files, so that callers whose
// sets overlap do not wait for each other in a circle, whatever the order of their
// arguments. They can still do that if they hold other locks already.
//
// If one of the locks cannot be had, those taken are released, and the error is that of
// Lock. A file that is given twice, by whatever paths, is an error that wraps
// [ErrNested], as is one that ctx says is locked already.
//
// While LockAll waits, it looks about once a second whether it has come to wait for
// another file than it counted on, since one was deleted or replaced. The order has then
// changed, and it releases what it has and starts again.
func LockAll(ctx context.Context, purpose string, files ...*File) (Locks, error) {
	for {
		locks, err := lockAll(ctx, purpose, files)
		if err != errElsewhere {
			return locks, err
		}
	}
}

// errElsewhere says that the path of a lock file names another file than it did.
var errElsewhere = errors.New("the lock file was replaced meanwhile")

// lockAll takes the locks in the order of the files that the paths name now. It returns
// errElsewhere, with none of them, if that changes before it has them.
func lockAll(ctx context.Context, purpose string, files []*File) (Locks, error) {
	type place struct {
		f     *File
		id    fileID
		index int
	}
	order := make([]place, len(files))
	for i, f := range files {
		// Before the first wait, and not when it is this file's turn.
		if err := f.checkNested(ctx); err != nil {
			return nil, err
		}
		id, err := f.identity()
		if err != nil {
			return nil, err
		}
		order[i] = place{f, id, i}
	}
	slices.SortStableFunc(order, func(a, b place) int { return compareIDs(a.id, b.id) })
	for i := 1; i < len(order); i++ {
		if a, b := order[i-1], order[i]; a.id == b.id {
			// If one was removed after it was looked at, the other may have been given
			// its inode number since.
			for _, p := range order[i-1 : i+1] {
				if id, err := identify(p.f.path); err != nil || id != p.id {
					return nil, errElsewhere
				}
			}
			return nil, b.f.error("lock", fmt.Errorf("%w: it is to be locked as %s at the same time", ErrNested, a.f.name))
		}
	}
	locks := make(Locks, len(files), len(files)+1)
	locks[:len(files)+1][len(files)] = &Lock{parent: ctx} // for Context, if there is no other
	for i, p := range order {
		l, err := p.f.lockFile(ctx, purpose, p.id)
		if err == nil {
			locks[p.index] = l
			continue
		}
		var taken Locks
		for _, p := range order[:i] {
			taken = append(taken, locks[p.index])
		}
		if e := taken.Unlock(); e != nil {
			err = errors.Join(err, e)
		}
		return nil, err
	}
	return locks, nil
}

func compareIDs(a, b fileID) int {
	return cmp.Or(cmp.Compare(a.dev, b.dev), cmp.Compare(a.ino, b.ino))
}

// identity returns which file the path names. If there is none it creates it, as
// locking it would.
func (f *File) identity() (fileID, error) {
	if err := f.checkOpen("lock"); err != nil {
		return fileID{}, err
	}
	id, err := identify(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		h, err := f.open() // which may take long, and so without f.mu
		if err != nil {
			return fileID{}, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.putLocked(h)
		return h.fileID, nil
	}
	if err != nil {
		return fileID{}, f.error("lock", err)
	}
	return id, nil
}

// lockFile takes the lock if it is on the file id. If it would have to wait for
// another, it returns errElsewhere, soon if not at once.
func (f *File) lockFile(ctx context.Context, purpose string, id fileID) (*Lock, error) {
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func(period time.Duration) {
		tick := time.NewTicker(period)
		defer tick.Stop()
		for {
			select {
			case <-wait.Done():
				return
			case <-tick.C:
				if f.moved(id) {
					cancel(errElsewhere)
				}
			}
		}
	}(watchPeriod)

	l, err := f.lock(wait, false, purpose)
	switch {
	case err != nil && context.Cause(wait) == errElsewhere:
		return nil, errElsewhere
	case err != nil:
		return nil, err
	case l.id != id:
		if err := l.Unlock(); err != nil {
			return nil, err
		}
		return nil, errElsewhere
	}
	l.parent = ctx // not the one that ends now
	return l, nil
}

// moved reports whether who waits for the lock waits for another file than id. It is
// what is waited for that counts, and not what the path names: who waits for a file that
// was replaced, and is the one that he counted on, is in order until it is released.
func (f *File) moved(id fileID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	front := f.frontLocked()
	if front == nil {
		return false
	}
	a := &f.exclusively
	if front.shared {
		a = &f.sharing
	}
	return a.parked != nil && a.parked.fileID != id
}

// Unlock releases the locks, the last taken first, and returns what errors there are,
// joined. All of them are released in any case.
func (ls Locks) Unlock() error {
	ls = slices.Clone(ls)
	slices.SortFunc(ls, func(a, b *Lock) int { return compareIDs(b.id, a.id) })
	var errs []error
	for _, l := range ls {
		errs = append(errs, l.Unlock())
	}
	return errors.Join(errs...)
}

// Check calls [Lock.Check] for each of the locks and joins the errors.
func (ls Locks) Check() error {
	var errs []error
	for _, l := range ls {
		errs = append(errs, l.Check())
	}
	return errors.Join(errs...)
}

// Context returns a context for work that needs all the locks. It is to all of them
// what [Lock.Context] is to one, and ends as soon as one of them does. Each call makes
// another, which remains until the locks are released.
func (ls Locks) Context() context.Context {
	ctx := context.Background()
	if first := ls[:min(cap(ls), 1)]; len(first) > 0 && first[0] != nil {
		ctx = first[0].parent // what LockAll was given, if only that
	}
	for _, l := range ls {
		ctx = l.deriveContext(ctx)
	}
	return ctx
}
