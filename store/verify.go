package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/internal/boot"
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
	StatusTemporary = "temporary"     // a write in progress, or litter
)

// A FileReport is what [Verify] found about one file.
type FileReport struct {
	Name     string
	Kind     string // "manifest", "segment", "temporary" or "lock"
	Status   string // one of the constants above
	Bytes    int64
	Sequence uint64 // of a manifest
	Revision Revision
	Records  int
	Marked   bool  // a manifest known to be on disk
	Err      error // why it is damaged or could not be read

	// Of one that is whole:
	store ID
	boot  boot.ID // of the machine run that published it
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
	v := &Store{sys: sys, dir: dir} // reads each file by itself, whatever the others say
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
	// speak of others that are gone.
	if damage := (*CorruptError)(nil); out.OK() && errors.As(openErr, &damage) {
		for i := range out.Files {
			if f := &out.Files[i]; v.path(f.Name) == damage.Path || f.Kind == kindLock && damage.Path == v.dir {
				f.Status, f.Err = StatusDamaged, damage
			}
		}
	}
	return out, judge(&out, s)
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
		if _, err := s.sys.lockData(s.path(name)); err != nil {
			f.Status, f.Err = StatusDamaged, err
		}
	case kindManifest:
		f.Marked = info.Marked()
		f.Sequence, _ = parseManifestName(name)
		st, err := s.load(f.Sequence)
		switch {
		case errors.Is(err, errVanished):
			return f, false
		case errors.Is(err, ErrNewerVersion):
			f.Status, f.Err = StatusNewer, err
		case errors.Is(err, ErrCorrupt):
			f.Status, f.Err = StatusDamaged, err
		case err != nil:
			f.Status, f.Err = StatusUnread, err
		default:
			f.Revision, f.Records, f.store, f.boot = st.lastRev, len(st.recs), st.store, st.boot
			st.release()
		}
	}
	return f, true
}

// judge tells torn manifests from damaged ones, and examines the newest more
// closely. s is the store as opened for reading, nil if that found damage.
func judge(out *Report, s *Store) error {
	if s == nil {
		return nil
	}
	st, err := s.newest(context.Background())
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
			if err := decodable(st); err != nil {
				f.Status, f.Err = StatusDamaged, err
			}
		}
	}
	return nil
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

// decodable checks that every record decodes with the codec that it names.
func decodable(st *state) error {
	for _, r := range st.recs {
		rec := r.record("")
		c, err := codec.ByName(rec.Codec)
		if err == nil && rec.Codec != codec.Raw.Name() {
			var v any
			err = c.Unmarshal(rec.Value, &v)
		}
		if err != nil {
			return fmt.Errorf("record %q: %w", rec.Key, err)
		}
	}
	return nil
}
