// Package vfs is the seam between the store and the file system: the few
// operations that the store needs, each one a step that can fail or be cut
// short by a power loss.
//
// [OS] is the operating system's. Tests put others in its place: package
// faultfs fails any operation on demand, and simulates a machine that loses
// power after any of them.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"time"
)

// An ID is the identity of a file: two names with equal IDs, compared while
// one of the files is held open, name the same file.
type ID struct{ Dev, Ino uint64 }

// Info is what the store asks about a file.
type Info struct {
	ID      ID
	Size    int64
	Mode    fs.FileMode // type and permission bits
	UID     uint32
	GID     uint32
	Changed time.Time // its bytes, its mode or its names, by the file system's clock; nobody can set it
}

// Marked reports whether all write permission bits are cleared, which is how
// the store says that a file is known to be on disk.
func (i Info) Marked() bool { return i.Mode.Perm()&0o222 == 0 }

// A File is an open file.
type File interface {
	io.ReaderAt
	io.Writer
	io.Closer
	Name() string // the path it was opened or created under
	Stat() (Info, error)
	Chmod(perm fs.FileMode) error
	Chown(uid, gid int) error // -1: leave as it is
	Sync() error              // data and metadata of the file, not its name
}

// A Dir is an open directory of a local file system. It stays the same one
// whatever becomes of its path.
type Dir interface {
	// Lookup returns the identity of the file of that name; false if there is
	// none. It does not follow a symbolic link.
	Lookup(name string) (ID, bool, error)
	// ID returns the identity of the directory itself.
	ID() (ID, error)
	// Changed returns when the directory was last changed: a name in it, its
	// mode, anything. The zero time is "not known".
	Changed() (time.Time, error)
	// Sync makes the names in it durable. Over NFS it asks the server nothing.
	Sync() error
	Close() error
}

// An FS is a file system. Errors are of type *fs.PathError or
// *os.LinkError and name the operation and the path.
type FS interface {
	// ReadDir lists the names in a directory, in no particular order. A name
	// that is added or removed meanwhile may be there or not.
	ReadDir(dir string) ([]string, error)
	// OpenDir opens a directory for many lookups.
	OpenDir(dir string) (Dir, error)
	// Lstat does not follow a symbolic link.
	Lstat(name string) (Info, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// CreateTemp creates a new file in dir, for writing and reading, under a
	// unique name for which IsTemp holds. Its mode is perm less the umask.
	CreateTemp(dir string, perm fs.FileMode) (File, error)
	// Mkdir creates a directory, not its parents.
	Mkdir(dir string, perm fs.FileMode) error
	// Remove removes a name.
	Remove(name string) error
	// RenameNoReplace renames a file to a name that must not exist; if it
	// does, the error is fs.ErrExist and nothing has changed. Where the file
	// system cannot do this, the error is errors.ErrUnsupported.
	RenameNoReplace(oldName, newName string) error
	// Link gives a file a second name that must not exist (fs.ErrExist).
	Link(oldName, newName string) error
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// Type names the file system that dir is on and says whether it is known
	// to be local to this machine.
	Type(dir string) (name string, local bool, err error)
}

// IsTemp reports whether name, without a directory, is one that CreateTemp
// makes.
func IsTemp(name string) bool {
	return len(name) > len(tempPrefix) && name[:len(tempPrefix)] == tempPrefix
}

// tempPrefix begins the name of every temporary file. The dot is renameio's.
const tempPrefix = ".tmp."

// DirByPath is a Dir that looks names up by their paths.
type DirByPath struct {
	FS   FS
	Path string
}

// Lookup implements [Dir].
func (d DirByPath) Lookup(name string) (ID, bool, error) {
	info, err := d.FS.Lstat(filepath.Join(d.Path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return ID{}, false, nil
	}
	return info.ID, err == nil, err
}

// ID implements [Dir].
func (d DirByPath) ID() (ID, error) {
	info, err := d.FS.Lstat(d.Path)
	return info.ID, err
}

// Changed implements [Dir]. It does not know the time.
func (d DirByPath) Changed() (time.Time, error) { return time.Time{}, nil }

// Sync implements [Dir].
func (d DirByPath) Sync() error { return d.FS.SyncDir(d.Path) }

// Close implements [Dir].
func (DirByPath) Close() error { return nil }
