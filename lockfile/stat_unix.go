//go:build unix

package lockfile

import (
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// A lockInfo is what an os.File would say. But that closes a descriptor in the end, which
// would release locks that belong to the process.
type lockInfo struct {
	name string
	st   syscall.Stat_t
}

func (h *handle) stat() (fs.FileInfo, error) {
	i := &lockInfo{name: filepath.Base(h.path)}
	err := ignoringEINTR(func() error { return syscall.Fstat(h.fd, &i.st) })
	return i, err
}

func (i *lockInfo) Name() string       { return i.name }
func (i *lockInfo) Size() int64        { return i.st.Size }
func (i *lockInfo) ModTime() time.Time { return modTime(&i.st) }
func (i *lockInfo) IsDir() bool        { return false }
func (i *lockInfo) Sys() any           { return &i.st }

// Mode has no type: the file is a regular one.
func (i *lockInfo) Mode() fs.FileMode { return fs.FileMode(i.st.Mode) & fs.ModePerm }
