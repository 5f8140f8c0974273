package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
)

// This file is the dangerous step: giving a finished manifest its name, and
// finding out what came of it.

// A turn is a writer's hold of LOCK, with what he has prepared for it.
type turn struct {
	heldLock
	temp        vfs.File             // an empty temporary file; nil if there is none
	guess       *state               // a base that is guessed and to be checked; nil if there is none
	guessCounts func() (bool, error) // checks it
	over        bool                 // LOCK is released
}

// end releases LOCK, once. An error changes nothing: what was published under the lock is
// published, and what a lock failed to do or to undo never costs an update.
func (t *turn) end() {
	if !t.over {
		t.over = true
		_ = t.Unlock()
	}
}

// take returns the prepared file, or nil. It is the caller's from now on.
func (t *turn) take() vfs.File {
	f := t.temp
	t.temp = nil
	return f
}

// tempPatience is how long a prepared temporary file may wait for LOCK. After
// tempAge somebody may take it for litter.
const tempPatience = tempAge / 10

// turnWith waits for LOCK. temp is the turn's if there is one, and else the
// caller's still.
func (s *Store) turnWith(ctx context.Context, purpose string, temp vfs.File) (*turn, error) {
	began := time.Now()
	held, err := s.lock.Lock(ctx, purpose)
	if err != nil {
		return nil, err
	}
	if time.Since(began) > tempPatience {
		s.discard(temp)
		temp = nil
	}
	return &turn{heldLock: held, temp: temp}, nil
}

// prepareTemp returns a temporary file for a manifest, so that it need not be
// created with LOCK held. Should it fail, it returns nil, and writeTemp says why.
func (s *Store) prepareTemp() vfs.File {
	if f := s.spare.take(s, time.Now()); f != nil {
		return f
	}
	f, err := s.newTemp(nil)
	if err != nil {
		return nil
	}
	return f
}

// A spare is a temporary file for the next commit, made while the last one is
// being flushed: creating a file is among the slower things that a file system
// does. Only a process that commits again and again has one, and it is removed
// soon after the last commit.
type spare struct {
	mu     sync.Mutex  // protects the fields below
	file   vfs.File    // nil: none
	expiry *time.Timer // of file, if there is one: removes it after spareAge
	wanted time.Time   // when one was last asked for
	row    int         // how often in a row that was not long after the time before
}

// spareAge is how old a spare may be: it has the permissions that LOCK had when
// it was made. It is also how often a process must write to have one.
const spareAge = time.Second

// spareRow is how many commits of a process in a row make it likely that there
// will be another one.
const spareRow = 8

// take returns the spare, or nil. It is the caller's from now on.
func (sp *spare) take(s *Store, now time.Time) vfs.File {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if now.Sub(sp.wanted) > spareAge {
		sp.row = 0
	}
	sp.row++
	sp.wanted = now
	f := sp.file
	sp.file = nil
	if f != nil && !sp.expiry.Stop() { // it is too old, and just about to be removed
		s.discard(f)
		return nil
	}
	return f
}

// expire removes f if it is the spare still. With the lock: Close waits for it.
func (sp *spare) expire(s *Store, f vfs.File) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.file == f {
		sp.file = nil
		s.discard(f)
	}
}

// makeSpare makes a spare if one will be wanted soon, as it seems.
func (s *Store) makeSpare() {
	now := time.Now()
	s.spare.mu.Lock()
	defer s.spare.mu.Unlock()
	if s.sys.noSpare || s.spare.file != nil || s.spare.row < spareRow || now.Sub(s.spare.wanted) > spareAge || s.ended.Load() {
		return
	}
	if info, err := s.sys.fs.Lstat(s.dir); err != nil || info.ID != s.here.id {
		return // not into a directory that has been put in the store's place
	}
	if f, err := s.newTemp(nil); err == nil {
		s.spare.file = f
		s.spare.expiry = time.AfterFunc(spareAge, func() { s.spare.expire(s, f) })
	}
}

// newTemp creates a temporary file that everybody can read who can use the
// store: it has the owner, group and permissions of LOCK as far as that is needed for
// all of LOCK's users to read it, and allowed. Root, writing into a user's store, leaves
// a file that is the user's. base, if not nil, is the state that the writer builds on.
func (s *Store) newTemp(base *state) (vfs.File, error) {
	class, err := s.class(base)
	if err != nil {
		return nil, err
	}
	perm := class.Mode.Perm() | 0o200 // the owner's bit tells unmarked from marked
	if s.network.Load() {
		perm = class.Mode.Perm() &^ 0o222 // marked: it is flushed before it has its name
	}
	first := perm
	if perm&0o044 != 0o044 {
		first &= 0o700 // until it has its group
	}
	f, err := s.sys.fs.CreateTemp(s.dir, first)
	if err != nil {
		return nil, err
	}
	if err := s.adopt(f, class, perm); err != nil {
		s.discard(f)
		return nil, err
	}
	return f, nil
}

// A lockClass is what LOCK says of the store's users, and when that was asked.
type lockClass struct {
	info vfs.Info
	at   time.Time
}

// class returns owner, group and mode of LOCK. Over a network it does not ask each time.
func (s *Store) class(base *state) (vfs.Info, error) {
	now := time.Now()
	if c := s.users.Load(); c != nil && s.network.Load() && now.Sub(c.at) < spareAge {
		return c.info, nil
	}
	info, err := s.sys.fs.Lstat(s.path(lockName))
	if errors.Is(err, fs.ErrNotExist) && base != nil {
		return s.statOf(base) // LOCK was deleted by hand: as before
	}
	if err == nil && s.network.Load() {
		s.users.Store(&lockClass{info, now})
	}
	return info, err
}

// writeTemp writes a manifest to a temporary file: to f, if that is prepared.
func (s *Store) writeTemp(b []byte, base *state, f vfs.File, flush bool) (_ vfs.File, err error) {
	if f == nil {
		if f, err = s.newTemp(base); err != nil {
			return nil, err
		}
	}
	_, err = f.Write(b)
	if err == nil && flush {
		err = f.Sync()
	}
	if err != nil {
		s.discard(f)
		return nil, err
	}
	return f, nil
}

// adopt gives a file the owner, group and permissions of its class.
func (s *Store) adopt(f vfs.File, class vfs.Info, want fs.FileMode) error {
	own, err := f.Stat()
	if err != nil {
		return err
	}
	if own.UID != class.UID && f.Chown(int(class.UID), -1) == nil {
		own.UID = class.UID
	}
	if own.GID != class.GID && f.Chown(-1, int(class.GID)) == nil {
		own.GID = class.GID
	}
	perm := class.Mode.Perm()
	others, group := perm&0o004 != 0, perm&0o040 != 0 && own.GID == class.GID
	if !others && !group && own.UID != class.UID || !others && perm&0o040 != 0 && !group {
		return fmt.Errorf("write manifest: the users of %s (uid %d, gid %d, mode %v) could not read a file of uid %d, gid %d: join its group, or have its owner widen its mode",
			s.path(lockName), class.UID, class.GID, perm, own.UID, own.GID)
	}
	if own.Mode.Perm() == want {
		return nil
	}
	return f.Chmod(want)
}

// publish gives the temporary file f, which holds the manifest h, its name,
// unless somebody has that name. It reports whether the name is now f's;
// false without an error is somebody else's, so that h is built on an old
// state. An error that is not ErrUnknown means that the name is not f's and
// never will be.
func (s *Store) publish(f vfs.File, h *header) (bool, error) {
	name := s.manifestPath(h.seq)
	var pause backoff
	for {
		err := s.giveName(f.Name(), name)
		if err == nil {
			return true, nil
		}
		// The error alone is not an answer: on a network file system it may
		// come late, or for a repeated request. The directory tells.
		switch whose, lookErr := s.whoHas(name, f, h); {
		case lookErr == nil && whose == ours:
			return true, nil
		case lookErr == nil && whose == theirs:
			return false, nil
		case lookErr == nil && whose == nobodys && !s.network.Load():
			// A local file system has said no, and kept to it.
			if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
				// The name was taken and has been retired since, or f was
				// swept as litter: either way our state is old.
				return false, nil
			}
			return false, err
		case lookErr == nil && whose == nobodys && pause.spent == 0 && unsupported(err):
			// At once, as nothing was tried before. But it may mean that the name is taken.
			if err := s.probePublishing(); errors.Is(err, ErrUnsafeDir) {
				return false, err
			}
			pause.wait(context.Background())
		case !pause.wait(context.Background()):
			return false, fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
}

// giveName gives a file a name that must not be taken: by rename where the
// file system is local, by link where it is not (a repeated request for a
// link is answered "exists", which tells more than "no such file"). Where one
// is not to be had, it is the other. Over a network the temporary name is left:
// removing that of an open file there is renaming it, and removing it later.
func (s *Store) giveName(temp, name string) error {
	byLink := func() error {
		err := s.sys.fs.Link(temp, name)
		if err == nil && !s.network.Load() {
			s.sys.fs.Remove(temp) // or it is litter
		}
		return err
	}
	first, second := func() error { return s.sys.fs.RenameNoReplace(temp, name) }, byLink
	if s.network.Load() {
		first, second = second, first
	}
	err := first()
	if unsupported(err) {
		err = second()
	}
	return err
}

// unsupported tells whether err means that the file system cannot do it at
// all. EPERM is how link says so.
func unsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EPERM)
}

type owner int

const (
	nobodys owner = iota
	ours
	theirs
)

// whoHas tells who has the name that f was to be given.
func (s *Store) whoHas(name string, f vfs.File, h *header) (owner, error) {
	if s.network.Load() {
		seqs, _, err := s.list() // a fresh look, not a cached name
		if err != nil {
			return nobodys, err
		}
		for _, seq := range seqs {
			if seq != h.seq {
				continue
			}
			there, err := s.loadHeader(seq)
			if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewerVersion) {
				return theirs, nil // looking for the newest reports it
			}
			if err != nil {
				return nobodys, err
			}
			if there.commit == h.commit {
				return ours, nil
			}
			return theirs, nil
		}
		// The listing may be old. What the name holds may be too, but not if that is ours,
		// or built on the same base: either that counts, or the base was gone before, and
		// ours never will.
		switch there, err := s.loadHeader(h.seq); {
		case err == nil && there.commit == h.commit:
			return ours, nil
		case err == nil && len(there.ancestors) > 0 && there.ancestors[0] == h.ancestors[0]:
			return theirs, nil
		}
		return nobodys, nil
	}
	own, err := f.Stat()
	if err != nil {
		return nobodys, err
	}
	there, err := s.sys.fs.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nobodys, nil
	case err != nil:
		return nobodys, err
	case there.ID == own.ID:
		return ours, nil
	}
	return theirs, nil
}

// probePublishing makes sure, where it is not known from the file system's kind, that a file
// can be published without replacing another.
func (s *Store) probePublishing() error {
	f, err := s.sys.fs.CreateTemp(s.dir, 0o600)
	if err != nil {
		return err
	}
	defer s.discard(f)
	probe := f.Name() + ".probe"
	err = s.giveName(f.Name(), probe)
	if err == nil {
		return s.sys.fs.Remove(probe)
	}
	if !unsupported(err) {
		return err
	}
	return fmt.Errorf("%s: %w: its file system has neither hard links nor a rename that refuses to replace (%w); use another", s.dir, ErrUnsafeDir, err)
}

// checkBase finds out whether the commit h, just published on top of base,
// stands: whether the name of base still holds it. If not, the lock has
// failed us: others have gone past and retired base, and what we took for a
// free name above it was one of the past. Then the newest manifest tells.
//
// It reports false if the commit does not stand and its name is free again.
func (s *Store) checkBase(base *state, h *header) (bool, error) {
	if !s.network.Load() {
		if ok, err := s.holds(base); ok && err == nil {
			return true, nil
		}
	}
	var pause backoff
	for {
		stands, err := s.contained(h, base)
		if err == nil && stands != lineageUnknown {
			if stands == lineageNo {
				s.withdraw(h)
			}
			return stands == lineageYes, nil
		}
		if !pause.wait(context.Background()) {
			return false, fmt.Errorf("%w: sequence %d was published, then its base was gone, and the newest manifest does not tell: %w",
				ErrUnknown, h.seq, cmp.Or(err, errVanished))
		}
	}
}

// contained tells whether the newest manifest contains the commit h, which was
// published on top of base.
func (s *Store) contained(h *header, base *state) (lineage, error) {
	seqs, _, err := s.list()
	if err != nil {
		return lineageUnknown, err
	}
	if n := len(seqs); n > 0 && seqs[n-1] == h.seq {
		// Nothing is above, as a rule, and the name is the one that h was given, if
		// base is still there: a name above base has not been freed then.
		switch ok, err := s.still(base); {
		case ok || err != nil:
			return lineageYes, err
		case s.network.Load():
			// Who retired base saw manifests above h, so this listing is older than that.
			// It must not speak for h, which it shows: see settled.
			return lineageUnknown, nil
		}
	}
	st, err := s.searchListed(seqs, nil)
	if err != nil {
		return lineageUnknown, err
	}
	defer st.release()
	if st.seq < h.seq {
		return lineageUnknown, nil // a listing from before our own publishing
	}
	in := st.contains(h.self())
	if in == lineageUnknown && slices.Contains(seqs, base.seq) {
		// More have passed than st lists. But a base that is there has one child.
		if ok, err := s.still(base); ok || err != nil {
			return lineageYes, err
		}
	}
	return in, nil
}

// withdraw frees the name of an orphan of ours. Should the name have been
// retired and taken by somebody else meanwhile, that is an orphan too: the
// name is of the past, and nothing in the past counts.
func (s *Store) withdraw(h *header) {
	if there, err := s.loadHeader(h.seq); err == nil && there.commit == h.commit {
		s.sys.fs.Remove(s.manifestPath(h.seq)) // else retirement sweeps it
	}
}
