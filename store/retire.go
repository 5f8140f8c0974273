package store

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
)

// Retirement does not list the directory after every commit, but after every
// retireEvery-th, or more often where manifests are large, so that old ones
// hold about retireBytes.
const (
	retireEvery = 256
	retireBytes = 1 << 20
)

// tempAge is how old a temporary file must be to be taken for the litter of a
// process that died. Its owner writes it in one go; should a live one be
// swept all the same, its update begins anew (on a network file system, it may
// end with ErrUnknown).
const tempAge = 10 * time.Minute

// retire removes manifests that nobody needs any more, given that marked has
// been flushed and marked, by whomever. It goes in ascending order and
// stops at the first removal that fails: as long as a name is there, no name
// above it has been removed, and much rests on that (I2 in docs/DESIGN.md).
//
// Dying anywhere leaves fewer old manifests, or as many. The next retirement
// goes on.
func (s *Store) retire(marked *state) {
	if s.mayRetire(marked) {
		s.retireBelow(marked, s.sys.keep)
	}
}

// mayRetire tells whether it is marked's turn to retire others.
func (s *Store) mayRetire(marked *state) bool {
	return marked.seq%uint64(min(s.sys.retireEvery, max(1, retireBytes/marked.size))) == 0
}

// madeRoom tells whether err says that the disk is full, nothing was done because
// of that, and room has been made since: then it is worth another try. What runs
// only after a commit that has succeeded would leave a full disk full for ever,
// with our own litter.
func (s *Store) madeRoom(err error) bool {
	if !noSpace(err) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotDurable) {
		return false
	}
	st, err := s.newest(context.Background())
	if err != nil {
		return false
	}
	defer st.release()
	marked := s.lastMarked(st)
	if marked == nil {
		return false
	}
	defer marked.release()
	if marked.network && s.here.dir.Sync() != nil {
		return false // there, a mark says nothing of the name
	}
	return s.retireBelow(marked, 1)
}

// lastMarked returns st if it is marked, or else the nearest of its ancestors that
// is, acquired; nil if there is none. A mark tells by itself that a manifest is on
// disk, whoever has flushed it. The newest may never get one, if its writer has
// died or his flush has failed. It is not flushed in his place, for that would
// prove nothing (see mustRecover); but its ancestors are as durable as before.
func (s *Store) lastMarked(st *state) *state {
	if info, err := s.statOf(st); err == nil && info.Marked() {
		st.acquire() // cannot fail: the caller holds one
		return st
	}
	for _, a := range st.ancestors {
		if info, err := s.sys.fs.Lstat(s.manifestPath(a.seq)); err != nil || !info.Marked() {
			continue
		}
		if old, err := s.load(a.seq); err == nil {
			if old.commit == a.commit {
				return old
			}
			old.release()
		}
	}
	return nil
}

// retireBelow is retire, now. It keeps the given number of newest manifests, and
// reports whether any room was made.
func (s *Store) retireBelow(marked *state, keep int) (freed bool) {
	// Fixed before the directory is listed: whoever published what is to be
	// kept had done so by then, see settled.
	limit := marked.seq - min(marked.seq, uint64(keep-1))
	self, err := s.statOf(marked)
	if err != nil || !self.Marked() {
		return false
	}
	seqs, others, err := s.list()
	if err != nil {
		return false
	}
	at := s.fileTime(self)
	// A manifest was the newest until that above it was published: whoever has seen it as
	// such has from then on the time that is left to him.
	for len(seqs) > 1 && seqs[0] < limit && s.isOld(s.manifestPath(seqs[1]), at, s.keepAge()) && s.remove(s.manifestPath(seqs[0])) {
		seqs, freed = seqs[1:], true
	}
	var unnamed []segmentRef // that marked does not name; most of the others need not be looked at
	for _, name := range others {
		if vfs.IsTemp(name) {
			freed = s.isOld(s.path(name), at, tempAge) && s.remove(s.path(name)) || freed
		} else if seq, id, ok := parseSegmentName(name); ok && len(seqs) > 0 && seq <= seqs[0] && !marked.names(id) {
			unnamed = append(unnamed, segmentRef{seq: seq, id: id})
		}
	}
	return s.retireSegments(marked, unnamed) || freed
}

// fileTime is the time by which the ages of files are judged, by the file
// system's own clock: now, where that is this machine's, and else the time of the
// manifest that retires. By that alone, what a burst of commits leaves would never
// be old while nothing more is committed.
func (s *Store) fileTime(self vfs.Info) time.Time {
	if now := s.sys.now(); !s.network.Load() && now.After(self.Changed) {
		return now
	}
	return self.Changed
}

// retireSegments removes those of the segments, none of which marked names, that
// no manifest below it names either.
//
// A segment is named by the manifest with its sequence, or never: it got its
// name for that one. From there on all name it, until one does not; and none
// does after that. So it is enough to ask the lowest manifest that is there
// and is an ancestor of marked, if it is not below the segment's sequence. (If
// none is there, marked itself was retired meanwhile, and is asked.) Orphans do
// not matter, nor do names that a power loss brought back: nobody stands on
// them.
func (s *Store) retireSegments(marked *state, unnamed []segmentRef) (freed bool) {
	if len(unnamed) == 0 {
		return false
	}
	lowest, err := s.lowestAncestor(&marked.header)
	if err != nil {
		return false
	}
	for _, ref := range unnamed {
		if ref.seq <= lowest.seq && !lowest.names(ref.id) {
			freed = s.removeSegment(s.path(ref.name())) || freed
		}
	}
	return freed
}

// removeSegment removes a segment, and then gives the file system time: it may
// have much to do for a large file, and what others flush waits for that. It
// reports whether it did.
func (s *Store) removeSegment(path string) bool {
	info, err := s.sys.fs.Lstat(path)
	if err != nil || s.sys.fs.Remove(path) != nil {
		return false // the next one does
	}
	const perMiB = 5 * time.Millisecond
	if pause := time.Duration(info.Size>>20) * perMiB; pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.background.Done():
		}
	}
	return true
}

// lowestAncestor returns the lowest ancestor of h, or h itself, that is still
// there. Each manifest knows 64 of its ancestors, so that not all need be read.
func (s *Store) lowestAncestor(h *header) (*header, error) {
	for {
		below, err := s.lowestKnown(h)
		if below == nil || err != nil {
			return h, err
		}
		h = below
	}
}

// lowestKnown returns the lowest that is still there of the ancestors that h
// lists, or nil.
func (s *Store) lowestKnown(h *header) (*header, error) {
	for _, a := range slices.Backward(h.ancestors) {
		below, err := s.loadHeader(a.seq)
		switch {
		case errors.Is(err, errVanished):
			// Only what is not there is passed over: a server may forget a file that is.
			if there, err := s.exists(s.manifestPath(a.seq)); there || err != nil {
				return nil, cmp.Or(err, errVanished)
			}
		case err != nil:
			return nil, err
		case below.commit == a.commit:
			return &below, nil
		}
	}
	return nil, nil
}

func (s *Store) keepAge() time.Duration {
	switch {
	case s.sys.keepAge != 0:
		return s.sys.keepAge
	case s.network.Load():
		return keepAgeNetwork
	}
	return keepAgeLocal
}

// isOld tells whether a file had its bytes, its name and its mark at least age before at,
// or is gone. (When it was written is not enough: its writer may have stood still before
// he gave it its name.)
func (s *Store) isOld(path string, at time.Time, age time.Duration) bool {
	info, err := s.sys.fs.Lstat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	// A file from the future was changed before the clock was put right: to
	// keep it would keep all that is above it.
	d := at.Sub(info.Changed)
	return d <= -age || d >= age
}

// remove removes a file. It reports whether the name is free now.
func (s *Store) remove(path string) bool {
	err := s.sys.fs.Remove(path)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// noSpace tells whether err says that the disk, or what this user may have of it, is full.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
