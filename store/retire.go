package store

import (
	"errors"
	"io/fs"
	"slices"
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
// been flushed and marked by this process. It goes in ascending order and
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

// retireBelow is retire, now. It keeps the given number of newest manifests.
func (s *Store) retireBelow(marked *state, keep int) {
	// Fixed before the directory is listed: whoever published what is to be
	// kept had done so by then, see settled.
	limit := marked.seq - min(marked.seq, uint64(keep-1))
	self, err := s.statOf(marked)
	if err != nil || !self.Marked() {
		return
	}
	seqs, others, err := s.list()
	if err != nil {
		return
	}
	for len(seqs) > 0 && seqs[0] < limit && s.removeOld(s.manifestPath(seqs[0]), self, s.keepAge()) {
		seqs = seqs[1:]
	}
	var unnamed []segmentRef // that marked does not name; most of the others need not be looked at
	for _, name := range others {
		if vfs.IsTemp(name) {
			s.removeOld(s.path(name), self, tempAge)
		} else if seq, id, ok := parseSegmentName(name); ok && len(seqs) > 0 && seq <= seqs[0] && !marked.names(id) {
			unnamed = append(unnamed, segmentRef{seq: seq, id: id})
		}
	}
	s.retireSegments(marked, unnamed)
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
func (s *Store) retireSegments(marked *state, unnamed []segmentRef) {
	if len(unnamed) == 0 {
		return
	}
	lowest, err := s.lowestAncestor(&marked.header)
	if err != nil {
		return
	}
	for _, ref := range unnamed {
		if ref.seq <= lowest.seq && !lowest.names(ref.id) {
			s.removeSegment(s.path(ref.name()))
		}
	}
}

// removeSegment removes a segment, and then gives the file system time: it may
// have much to do for a large file, and what others flush waits for that.
func (s *Store) removeSegment(path string) {
	info, err := s.sys.fs.Lstat(path)
	if err != nil || s.sys.fs.Remove(path) != nil {
		return // the next one does
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

// removeOld removes a file that was written at least age before self, by the
// file system's own clock. It reports whether the name is free now.
func (s *Store) removeOld(path string, self vfs.Info, age time.Duration) bool {
	info, err := s.sys.fs.Lstat(path)
	if err == nil {
		// A file from the future was written before the clock was put right: to
		// keep it would keep all that is above it.
		if d := self.ModTime.Sub(info.ModTime); -age < d && d < age {
			return false
		}
		err = s.sys.fs.Remove(path)
	}
	return err == nil || errors.Is(err, fs.ErrNotExist)
}
