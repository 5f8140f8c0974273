//go:build linux || darwin

package vfs

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"

	"github.com/recordstore/recordstore/internal/fstype"
)

// OS is the operating system's file system.
type OS struct{}

var _ FS = OS{}

// ReadDir implements [FS].
func (OS) ReadDir(dir string) ([]string, error) {
	d, err := openRead(dir, syscall.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// Lstat implements [FS].
func (OS) Lstat(name string) (Info, error) {
	var st syscall.Stat_t
	for {
		err := syscall.Lstat(name, &st)
		if err == nil {
			return infoOf(&st), nil
		}
		if err != syscall.EINTR {
			return Info{}, &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
	}
}

// OpenDir implements [FS].
func (OS) OpenDir(dir string) (Dir, error) {
	d, err := openRead(dir, syscall.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return osDir{d, int(d.Fd())}, nil
}

// osDir looks names up in an open directory, which costs half of walking the
// path. Lookup and Changed are in os_linux.go and os_darwin.go.
type osDir struct {
	*os.File
	fd int // asked for once: Close may be called meanwhile
}

// ID implements [Dir].
func (d osDir) ID() (ID, error) {
	st, err := d.stat()
	return ID{Dev: uint64(st.Dev), Ino: st.Ino}, err
}

func (d osDir) stat() (st syscall.Stat_t, err error) {
	for {
		err := syscall.Fstat(d.fd, &st)
		if err == nil {
			return st, nil
		}
		if err != syscall.EINTR {
			return st, &fs.PathError{Op: "fstat", Path: d.Name(), Err: err}
		}
	}
}

// Open implements [FS].
func (OS) Open(name string) (File, error) {
	// What the store writes is never a symbolic link.
	f, err := openRead(name, syscall.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// openRead is os.Open without its system calls to find out that a regular file
// or a directory cannot be polled, and it does not wait for the writer of a
// FIFO that somebody has put there.
func openRead(name string, flags int) (*os.File, error) {
	for {
		fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK|flags, 0)
		if err == nil {
			_ = syscall.SetNonblock(fd, false) // or reading is as good
			return os.NewFile(uintptr(fd), name), nil
		}
		if err != syscall.EINTR {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// CreateTemp implements [FS]. The temporary file is renameio's; its final
// name is given by RenameNoReplace or Link, because renameio knows only how
// to replace. WithTempDir keeps it from probing $TMPDIR.
func (OS) CreateTemp(dir string, perm fs.FileMode) (File, error) {
	p, err := renameio.NewPendingFile(filepath.Join(dir, tempPrefix[1:]), renameio.WithTempDir(dir), renameio.WithPermissions(perm))
	if err != nil {
		return nil, err
	}
	return osFile{p.File}, nil
}

// Mkdir implements [FS].
func (OS) Mkdir(dir string, perm fs.FileMode) error { return os.Mkdir(dir, perm) }

// Remove implements [FS]. Unlike os.Remove it never removes a directory.
func (OS) Remove(name string) error {
	for {
		err := syscall.Unlink(name)
		if err == nil {
			return nil
		}
		if err != syscall.EINTR {
			return &fs.PathError{Op: "unlink", Path: name, Err: err}
		}
	}
}

// RenameNoReplace implements [FS].
func (OS) RenameNoReplace(oldName, newName string) error {
	if err := renameNoReplace(oldName, newName); err != nil {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: err}
	}
	return nil
}

// Link implements [FS].
func (OS) Link(oldName, newName string) error { return os.Link(oldName, newName) }

// SyncDir implements [FS].
func (OS) SyncDir(dir string) error {
	d, err := openRead(dir, syscall.O_DIRECTORY)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		d.Close()
		return err
	}
	return d.Close()
}

// Type implements [FS].
func (OS) Type(dir string) (string, bool, error) {
	name, local, err := fstype.Of(dir)
	if err != nil {
		return "", false, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return name, local, nil
}

type osFile struct{ *os.File }

func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & syscall.S_IFMT {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		mode |= fs.ModeDir
	case syscall.S_IFLNK:
		mode |= fs.ModeSymlink
	default:
		mode |= fs.ModeIrregular
	}
	if m&syscall.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

func (f osFile) Stat() (Info, error) {
	// Not os.File.Stat: this allocates nothing and fills in only Info.
	var st syscall.Stat_t
	for {
		err := syscall.Fstat(int(f.Fd()), &st)
		if err == nil {
			return infoOf(&st), nil
		}
		if err != syscall.EINTR {
			return Info{}, &fs.PathError{Op: "fstat", Path: f.Name(), Err: err}
		}
	}
}
