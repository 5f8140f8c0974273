package store

import (
	"errors"
	"io/fs"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
)

// Retirement does not list the directory after every commit, but after every
// retireEvery-th, or more often where manifests are large, so that old ones
// hold about retireBytes.
const (
	retireEvery = 64
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
	every := uint64(min(s.sys.retireEvery, max(1, retireBytes/marked.size)))
	if marked.seq%every != 0 {
		return
	}
	// Fixed before the directory is listed: whoever published what is to be
	// kept had done so by then, see settled.
	limit := marked.seq - min(marked.seq, uint64(s.sys.keep-1))
	self, err := marked.file.Stat()
	if err != nil || !self.Marked() {
		return
	}
	seqs, temps, err := s.list()
	if err != nil {
		return
	}
	for _, seq := range seqs {
		if seq >= limit || !s.removeOld(s.manifestPath(seq), self, s.keepAge()) {
			break
		}
	}
	for _, name := range temps {
		s.removeOld(s.path(name), self, tempAge)
	}
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
