package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/internal/boot"
	"github.com/recordstore/recordstore/lockfile"
)

// A Report is what [Verify] found.
type Report struct {
	Dir   string       // absolute path
	Files []FileReport // in the order of their names
}

// OK reports whether no file is damaged or unreadable.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Files, func(f FileReport) bool { return f.Err != nil })
}

// The states of a file in a [FileReport].
const (
	StatusNewest    = "newest"        // the manifest that readers see
	StatusOK        = "ok"            // whole
	StatusTorn      = "torn"          // lost its content in a power loss, was never acknowledged; skipped
	StatusNewer     = "newer version" // written by a newer version of the format
	StatusDamaged   = "damaged"       // its bytes are not what was written
	StatusUnread    = "unreadable"    // the file system reports an error
	StatusTemporary = "temporary"     // a write in progress or about to be, or litter
	StatusUnnamed   = "unnamed"       // a segment that no manifest names: about to be, or to be removed
)

// A FileReport is what [Verify] found about one file.
type FileReport struct {
	Name     string
	Kind     string // "manifest", "segment", "temporary" or "lock"
	Status   string // one of the constants above
	Bytes    int64
	Sequence uint64 // of a manifest
	Revision Revision
	Records  uint64 // in the journal of a manifest, or in a segment
	Marked   bool   // a manifest known to be on disk
	Err      error  // why it is damaged or could not be read

	// Of one that is whole:
	store    ID
	boot     boot.ID // of the machine run that published it
	segments []segmentRef
}

// Verify reads every file of the store in dir, checks all checksums, and that
// every record of the newest manifest decodes. It takes no lock and changes
// nothing. Files that are retired meanwhile are left out.
//
// The error is for a directory that cannot be examined; damage is in the
// report.
func Verify(ctx context.Context, dir string) (Report, error) {
	return verify(ctx, resolve(dir), realSystem())
}

func verify(ctx context.Context, dir string, sys system) (Report, error) {
	s, openErr := open(dir, &Options{ReadOnly: true}, sys)
	if openErr == nil {
		defer s.Close()
	} else if !errors.Is(openErr, ErrCorrupt) && !errors.Is(openErr, ErrNewerVersion) {
		return Report{}, fmt.Errorf("verify: %w", openErr)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	v := &Store{sys: sys, dir: dir, cache: newBlockCache(0)} // reads each file by itself, whatever the others say
	names, err := sys.fs.ReadDir(dir)
	if err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	slices.Sort(names)
	out := Report{Dir: dir}
	for _, name := range names {
		if ctx.Err() != nil {
			return out, context.Cause(ctx)
		}
		if f, ok := v.inspect(name); ok {
			out.Files = append(out.Files, f)
		}
	}
	// Files that are whole each by itself may not belong together, or LOCK may
	// speak of others that are gone. That others are damaged says nothing of that.
	if damage := (*CorruptError)(nil); errors.As(openErr, &damage) {
		known := false
		for i := range out.Files {
			f := &out.Files[i]
			if v.path(f.Name) != damage.Path && (f.Name != lockName || damage.Path != v.dir) {
				continue
			}
			known = true
			if f.Err == nil {
				f.Status, f.Err = StatusDamaged, damage
			}
		}
		if name := filepath.Base(damage.Path); !known { // a file that is missing
			out.Files = append(out.Files, FileReport{Name: name, Kind: kindOf(name), Status: StatusDamaged, Err: damage})
		}
	}
	if err := v.inspectSegments(ctx, &out); err != nil {
		return out, err
	}
	return out, judge(ctx, &out, s)
}

// inspectManifest reads a manifest, without its segments: only those of the
// newest need be there still.
func (s *Store) inspectManifest(f *FileReport) error {
	path := s.manifestPath(f.Sequence)
	file, err := openRegular(s.sys.fs, path)
	if err != nil {
		return vanished(err)
	}
	st, err := s.readState(path, file, f.Sequence)
	if err != nil {
		file.Close()
		return err
	}
	defer st.release()
	f.Revision, f.Records, f.store, f.boot = st.lastRev, uint64(len(st.view.journal)), st.store, st.boot
	f.segments = st.segments
	return nil
}

// inspectSegments reads the segments that the manifests name, all of each.
func (s *Store) inspectSegments(ctx context.Context, out *Report) error {
	type named struct {
		ref   segmentRef
		store ID
	}
	refs := map[string]named{}
	for _, f := range out.Files {
		for _, ref := range f.segments {
			refs[ref.name()] = named{ref, f.store}
		}
	}
	for i := range out.Files {
		f := &out.Files[i]
		n, ok := refs[f.Name]
		if !ok || f.Kind != kindSegment || f.Err != nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f.Status = StatusOK
		g, err := openSegment(s.sys.fs, s.path(f.Name), n.store, n.ref, s.cache)
		if errors.Is(err, fs.ErrNotExist) {
			continue // retired meanwhile
		}
		if err == nil {
			err = g.check(ctx)
			if info, infoErr := g.info(); infoErr == nil {
				f.Records = info.records
			}
			g.release()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f.fail(err)
	}
	return nil
}

// fail sets the status of a file by the error in reading it.
func (f *FileReport) fail(err error) {
	switch f.Err = err; {
	case err == nil:
	case errors.Is(err, ErrNewerVersion), errors.Is(err, lockfile.ErrIncompatible) && !errors.Is(err, errors.ErrUnsupported):
		f.Status = StatusNewer
	case errors.Is(err, ErrCorrupt):
		f.Status = StatusDamaged
	default:
		f.Status = StatusUnread
	}
}

// inspect examines one file. It reports false if there is nothing to say.
func (s *Store) inspect(name string) (FileReport, bool) {
	f := FileReport{Name: name, Kind: kindOf(name), Status: StatusOK}
	info, err := s.sys.fs.Lstat(s.path(name))
	if f.Kind == kindOther || errors.Is(err, fs.ErrNotExist) {
		return f, false
	}
	if err != nil {
		f.Status, f.Err = StatusUnread, err
		return f, true
	}
	f.Bytes = info.Size
	switch f.Kind {
	case kindTemporary:
		f.Status = StatusTemporary
	case kindLock:
		if besideLock(name) {
			break // there is nothing of the store's in it
		}
		_, err := s.sys.lockData(s.path(name))
		if name == mergeName && errors.Is(err, lockfile.ErrCorrupt) {
			err = nil // a hint, never flushed: the power may have torn it
		}
		if f.fail(err); errors.Is(err, lockfile.ErrCorrupt) || errors.Is(err, lockfile.ErrNotLockFile) {
			f.Status = StatusDamaged
		}
	case kindManifest:
		f.Marked = info.Marked()
		f.Sequence, _ = parseManifestName(name)
		err := s.inspectManifest(&f)
		if errors.Is(err, errVanished) {
			return f, false
		}
		f.fail(err)
	case kindSegment:
		f.Status = StatusUnnamed
	}
	return f, true
}

// judge tells torn manifests from damaged ones, and examines the newest more
// closely. s is the store as opened for reading, nil if that found damage.
func judge(ctx context.Context, out *Report, s *Store) error {
	if s == nil {
		return nil
	}
	st, err := s.newestOf(ctx, out)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer st.release()
	for i := range out.Files {
		f := &out.Files[i]
		if f.Kind != kindManifest {
			continue
		}
		switch {
		case f.Status == StatusDamaged && !f.Marked && (f.Sequence > st.seq || restarted(out.Files, i)):
			// Above the newest: opening the store has skipped it, with reason.
			f.Status, f.Err = StatusTorn, nil
		case f.Status == StatusOK && f.store != st.store && f.Sequence > 1: // a creator may be late
			f.Status, f.Err = StatusDamaged, &CorruptError{s.manifestPath(f.Sequence), 32, fmt.Sprintf("it belongs to store %v, this is %v", f.store, st.store)}
		case f.Status == StatusOK && f.Sequence == st.seq:
			f.Status = StatusNewest
			switch read, err := decodable(ctx, st); {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case err == nil:
			case read:
				f.Status, f.Err = StatusDamaged, err
			case !slices.ContainsFunc(out.Files, FileReport.badSegment):
				f.fail(err)
			default: // it is a segment's, in whose line it stands
			}
		}
	}
	return nil
}

// newestOf returns the newest state, acquired, and adds its manifest to the report if it was
// published since the directory was read.
func (s *Store) newestOf(ctx context.Context, out *Report) (*state, error) {
	for {
		st, err := s.newest(ctx)
		if err != nil {
			return nil, err
		}
		name := manifestName(st.seq)
		i, known := slices.BinarySearchFunc(out.Files, name, func(f FileReport, name string) int { return cmp.Compare(f.Name, name) })
		if known {
			return st, nil
		}
		if f, ok := s.inspect(name); ok {
			out.Files = slices.Insert(out.Files, i, f)
			return st, nil
		}
		st.release() // it is retired already: there are newer ones
	}
}

// restarted tells whether the machine has restarted between the nearest whole
// manifests below and above the i-th file, so that a power loss may have torn
// it. With none below it, nothing speaks against that.
func restarted(files []FileReport, i int) bool {
	whole := func(f FileReport) bool { return f.Kind == kindManifest && f.Err == nil && f.Status != StatusTorn }
	below, above := files[:i], files[i+1:]
	for j := len(below) - 1; j >= 0; j-- {
		if whole(below[j]) {
			k := slices.IndexFunc(above, whole)
			return k >= 0 && below[j].boot != above[k].boot
		}
	}
	return true
}

// badSegment tells whether the file is a segment that has an error.
func (f FileReport) badSegment() bool { return f.Kind == kindSegment && f.Err != nil }

// decodable checks that every record decodes with the codec that it names. With an
// error, it tells whether the record could be read: else nothing is known of the
// values, and the error, of whatever kind, is a segment's.
func decodable(ctx context.Context, st *state) (read bool, err error) {
	for r, err := range st.view.scan(span{}, nil) {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return false, err
		}
		rec := r.record("")
		c, err := codec.ByName(rec.Codec)
		if err == nil && rec.Codec != codec.Raw.Name() {
			var v any
			err = c.Unmarshal(rec.Value, &v)
		}
		if err != nil {
			return true, fmt.Errorf("record %q: %w", rec.Key, err)
		}
	}
	return true, nil
}
