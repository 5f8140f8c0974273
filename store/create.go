package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// makeDir creates the store's directory if it is missing, and reports whether
// it was. Its name is flushed in create.
func (s *Store) makeDir() (made bool, err error) {
	switch err := s.sys.fs.Mkdir(s.dir, 0o777); {
	case errors.Is(err, fs.ErrExist):
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("%w; create the parent directory first", err)
	default:
		return err == nil, err
	}
}

// checkDir refuses a directory in which this user cannot do what the protocol
// needs.
func (s *Store) checkDir() error {
	info, err := s.sys.fs.Lstat(s.dir)
	if err != nil {
		return err
	}
	uid := os.Geteuid()
	if info.Mode&fs.ModeSticky != 0 && uid != 0 && uint32(uid) != info.UID {
		return fmt.Errorf("%s: %w: it has the sticky bit (mode %v) and belongs to uid %d, so that you (uid %d) cannot remove files that others wrote in it; clear it with chmod -t, or use a directory of its own",
			s.dir, ErrUnsafeDir, info.Mode.Perm(), info.UID, uid)
	}
	return nil
}

// create publishes an empty manifest 1, so that there is a store. A hundred
// processes may do so at once; one of them succeeds, and whatever came of it,
// all go on with what the directory then holds.
//
// States that dying here can leave: the directory without a manifest, with
// LOCK or a temporary file or both, which the next Open takes for an empty
// directory; or the store. Creation never carries data: a creator that was
// paused between its look at the directory and its publishing could publish
// into a store's past, and nobody may miss what it brings.
func (s *Store) create(made bool) error {
	if used, err := s.wasUsed(); used || err != nil {
		return err
	}
	if s.network.Load() {
		if err := s.probePublishing(); err != nil {
			return err
		}
	}
	// Before there is a manifest: who finds one need not ask whether the
	// directory's own name is on disk, however its creator died. One that we
	// found, in a directory that we may not read, is its owner's affair.
	if err := s.sys.fs.SyncDir(filepath.Dir(s.dir)); err != nil && (made || !errors.Is(err, fs.ErrPermission)) {
		return err
	}
	h := &header{
		network:  s.network.Load(),
		seq:      1,
		store:    newID(),
		commit:   newID(),
		boot:     s.sys.boot,
		time:     s.sys.now().UnixNano(),
		firstRev: 1,
	}
	// Flushed before it has its name, unlike later manifests: there is nothing
	// below it to fall back to.
	f, err := s.writeTemp(encodeManifest(h, nil), nil, nil, true)
	if err != nil {
		return err
	}
	ok, err := s.publish(f, h)
	if !ok || s.network.Load() {
		s.discard(f) // it keeps the name that it has got
		return err
	}
	f.Close() // flushed: nothing to lose
	return nil
}

// wasUsed tells whether LOCK says that the store has been written to, where no
// manifest was found. If there is none still, that is damage.
func (s *Store) wasUsed() (bool, error) {
	data, err := s.sys.lockData(s.path(lockName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// LOCK has data only after a commit was begun, and that came after manifest 1: if the
	// store was created since we looked, it is found now.
	seqs, _, err := s.list()
	if err == nil && len(seqs) == 0 {
		err = &CorruptError{s.dir, 0, "LOCK says that the store was written to, but all its manifests are gone"}
	}
	return true, err
}

// finishCreation makes the name of manifest 1 durable, and marks it. Not only
// its creator does so, who may have died, but everybody who opens a store that
// holds nothing else yet, before he builds on it.
func (s *Store) finishCreation() error {
	st := s.current() // as Open has found it
	defer st.release()
	info, err := s.statOf(st)
	if err != nil || st.seq > 1 || info.Marked() && !st.network {
		return err
	}
	if err := s.here.dir.Sync(); err != nil || info.Marked() {
		return err
	}
	// Another user's file cannot be marked. Then the next one flushes again.
	_ = st.file.Chmod(info.Mode.Perm() &^ 0o222)
	return nil
}
