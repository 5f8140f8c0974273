// Package faultfs has file systems for tests: one that fails any operation on
// demand, and a disk in memory that loses power.
package faultfs

import (
	"io/fs"

	"github.com/recordstore/recordstore/internal/vfs"
)

// An Op is one operation of a file system.
type Op struct {
	Kind string // "rename", "sync", "syncdir", ...: the constants below
	Path string // the name that it is about; the new one of a rename or link
}

// The kinds of operations.
const (
	OpReadDir = "readdir"
	OpLstat   = "lstat"
	OpOpen    = "open"
	OpCreate  = "create"
	OpMkdir   = "mkdir"
	OpRemove  = "remove"
	OpRename  = "rename"
	OpLink    = "link"
	OpSyncDir = "syncdir"
	OpRead    = "read"
	OpWrite   = "write"
	OpStat    = "stat"
	OpChmod   = "chmod"
	OpChown   = "chown"
	OpSync    = "sync"
)

// Changes reports whether operations of the kind can change the disk or what
// of it is durable.
func (o Op) Changes() bool {
	switch o.Kind {
	case OpReadDir, OpLstat, OpOpen, OpRead, OpStat:
		return false
	}
	return true
}

// Hooked is a file system whose operations can be watched, delayed and made
// to fail.
type Hooked struct {
	vfs.FS
	// Before, if set, is called before each operation. If it returns an error,
	// the operation is not carried out and reports that error.
	Before func(Op) error
	// After, if set, is called after each operation that was carried out, with
	// its error, and returns the error to report.
	After func(Op, error) error
}

// Do carries out f as an operation of the file system.
func (h *Hooked) Do(kind, path string, f func() error) error {
	op := Op{kind, path}
	if h.Before != nil {
		if err := h.Before(op); err != nil {
			return &fs.PathError{Op: kind, Path: path, Err: err}
		}
	}
	err := f()
	if h.After != nil {
		err = h.After(op, err)
	}
	return err
}

// ReadDir implements [vfs.FS].
func (h *Hooked) ReadDir(dir string) (names []string, err error) {
	err = h.Do(OpReadDir, dir, func() (err error) { names, err = h.FS.ReadDir(dir); return })
	return names, err
}

// OpenDir implements [vfs.FS]. A lookup is an lstat.
func (h *Hooked) OpenDir(dir string) (vfs.Dir, error) { return vfs.DirByPath{FS: h, Path: dir}, nil }

// Lstat implements [vfs.FS].
func (h *Hooked) Lstat(name string) (info vfs.Info, err error) {
	err = h.Do(OpLstat, name, func() (err error) { info, err = h.FS.Lstat(name); return })
	return info, err
}

// Open implements [vfs.FS].
func (h *Hooked) Open(name string) (f vfs.File, err error) {
	err = h.Do(OpOpen, name, func() (err error) { f, err = h.FS.Open(name); return })
	return h.file(f, err)
}

// CreateTemp implements [vfs.FS].
func (h *Hooked) CreateTemp(dir string, perm fs.FileMode) (f vfs.File, err error) {
	err = h.Do(OpCreate, dir, func() (err error) { f, err = h.FS.CreateTemp(dir, perm); return })
	return h.file(f, err)
}

func (h *Hooked) file(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return &hookedFile{f, h}, nil
}

// Mkdir implements [vfs.FS].
func (h *Hooked) Mkdir(dir string, perm fs.FileMode) error {
	return h.Do(OpMkdir, dir, func() error { return h.FS.Mkdir(dir, perm) })
}

// Remove implements [vfs.FS].
func (h *Hooked) Remove(name string) error {
	return h.Do(OpRemove, name, func() error { return h.FS.Remove(name) })
}

// RenameNoReplace implements [vfs.FS].
func (h *Hooked) RenameNoReplace(oldName, newName string) error {
	return h.Do(OpRename, newName, func() error { return h.FS.RenameNoReplace(oldName, newName) })
}

// Link implements [vfs.FS].
func (h *Hooked) Link(oldName, newName string) error {
	return h.Do(OpLink, newName, func() error { return h.FS.Link(oldName, newName) })
}

// SyncDir implements [vfs.FS].
func (h *Hooked) SyncDir(dir string) error {
	return h.Do(OpSyncDir, dir, func() error { return h.FS.SyncDir(dir) })
}

type hookedFile struct {
	vfs.File
	h *Hooked
}

func (f *hookedFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.h.Do(OpRead, f.Name(), func() (err error) { n, err = f.File.ReadAt(p, off); return })
	return n, err
}

func (f *hookedFile) Write(p []byte) (n int, err error) {
	err = f.h.Do(OpWrite, f.Name(), func() (err error) { n, err = f.File.Write(p); return })
	return n, err
}

func (f *hookedFile) Stat() (info vfs.Info, err error) {
	err = f.h.Do(OpStat, f.Name(), func() (err error) { info, err = f.File.Stat(); return })
	return info, err
}

func (f *hookedFile) Chmod(perm fs.FileMode) error {
	return f.h.Do(OpChmod, f.Name(), func() error { return f.File.Chmod(perm) })
}

func (f *hookedFile) Chown(uid, gid int) error {
	return f.h.Do(OpChown, f.Name(), func() error { return f.File.Chown(uid, gid) })
}

func (f *hookedFile) Sync() error {
	return f.h.Do(OpSync, f.Name(), func() error { return f.File.Sync() })
}

// A Pretender is a file system that reports success for some operations and
// does not carry them out. It knows Sync and SyncDir.
type Pretender struct {
	vfs.FS
	Pretend func(Op) bool
}

// SyncDir implements [vfs.FS].
func (p *Pretender) SyncDir(dir string) error {
	if p.Pretend(Op{OpSyncDir, dir}) {
		return nil
	}
	return p.FS.SyncDir(dir)
}

// CreateTemp implements [vfs.FS].
func (p *Pretender) CreateTemp(dir string, perm fs.FileMode) (vfs.File, error) {
	f, err := p.FS.CreateTemp(dir, perm)
	if err != nil {
		return nil, err
	}
	return &pretendedFile{f, p}, nil
}

type pretendedFile struct {
	vfs.File
	p *Pretender
}

func (f *pretendedFile) Sync() error {
	if f.p.Pretend(Op{OpSync, f.Name()}) {
		return nil
	}
	return f.File.Sync()
}
