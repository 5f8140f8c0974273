package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/lockfile"
)

// Stats describe a store at one moment.
type Stats struct {
	Dir           string // absolute path
	ID            ID
	FormatVersion int    // of the manifests that are written; older ones are read
	FileSystem    string // its kind: "ext4", "nfs", ...
	Network       bool   // the careful path of network file systems is taken

	Sequence uint64    // of the newest manifest
	Commit   ID        // its commit
	Revision Revision  // of the newest update in it
	Time     time.Time // of its commit, in UTC
	Entries  uint64    // versions of records and tombstones in it; not fewer than there are records
	Bytes    int64     // of the newest manifest and the segments that it names
	Journal  int64     // bytes of records in the newest manifest
	Segments int       // that the newest manifest names
	Durable  bool      // the newest manifest is marked: known to be on disk

	Manifests    int // files in the directory, old ones included
	SegmentFiles int // likewise
	Temporary    int // writes in progress or about to be, or the litter of processes that died

	Lock lockfile.Status // what can be seen of LOCK; nothing, if it is missing or damaged
}

// Stat describes the store. It takes no lock, so that the figures may be of
// slightly different moments.
func (s *Store) Stat(ctx context.Context) (Stats, error) {
	st, err := s.read(ctx)
	if err != nil {
		return Stats{}, fmt.Errorf("stat: %w", err)
	}
	defer st.release()
	info, err := s.statOf(st)
	if err != nil {
		return Stats{}, fmt.Errorf("stat: %w", err)
	}
	fsName, _, err := s.sys.fs.Type(s.dir)
	if err != nil {
		return Stats{}, fmt.Errorf("stat: %w", err)
	}
	names, err := s.sys.fs.ReadDir(s.dir)
	if err != nil {
		return Stats{}, fmt.Errorf("stat: %w", err)
	}
	out := Stats{
		Dir: s.dir, ID: st.store, FormatVersion: formatVersion,
		FileSystem: fsName, Network: s.network.Load(),
		Sequence: st.seq, Commit: st.commit, Revision: st.lastRev, Time: time.Unix(0, st.time).UTC(),
		Entries: uint64(len(st.view.journal)), Bytes: st.size, Journal: st.journalSize(),
		Segments: len(st.segments), Durable: info.Marked(),
	}
	for _, g := range st.view.segs {
		info, err := g.info()
		if err != nil {
			return Stats{}, fmt.Errorf("stat: %w", err)
		}
		out.Entries += info.records + info.tombstones
		out.Bytes += g.ref.size
	}
	for _, name := range names {
		switch kindOf(name) {
		case kindManifest:
			out.Manifests++
		case kindSegment:
			out.SegmentFiles++
		case kindTemporary:
			out.Temporary++
		}
	}
	switch out.Lock, err = lockfile.Inspect(s.path(lockName)); {
	case err == nil, errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, lockfile.ErrNotLockFile), errors.Is(err, lockfile.ErrCorrupt):
		// No record depends on it, and Verify says what is wrong with it.
		out.Lock = lockfile.Status{Path: s.path(lockName), State: lockfile.Unseen}
	default:
		return Stats{}, fmt.Errorf("stat: %w", err)
	}
	return out, nil
}

// The kinds of files in a store's directory.
const (
	kindManifest  = "manifest"
	kindSegment   = "segment"
	kindTemporary = "temporary"
	kindLock      = "lock"
	kindOther     = "" // ignored
)

func kindOf(name string) string {
	_, manifest := parseManifestName(name)
	_, _, segment := parseSegmentName(name)
	switch {
	case manifest:
		return kindManifest
	case segment:
		return kindSegment
	case vfs.IsTemp(name):
		return kindTemporary
	case name == lockName, name == mergeName, besideLock(name):
		return kindLock
	}
	return kindOther
}
