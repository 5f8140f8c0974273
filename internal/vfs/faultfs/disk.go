package faultfs

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/internal/vfs"
)

// A Disk is a file system in memory that can lose power: [Disk.PowerLoss]
// returns what may then be left of it.
//
// What it takes for granted of a real one, and no more: a file's content and
// mode are durable after its Sync; a directory's entries after its SyncDir; a
// rename within a directory is there or not, with both its names. What was
// not flushed may be kept or lost, each by itself and in any order: names,
// removals, modes; and content may be torn besides.
//
// It has one level of directories below "/", more than the store needs.
type Disk struct {
	// DurableLinks makes a link durable when it is answered, as the server of a
	// network file system does. It is set before the disk is used.
	DurableLinks bool

	mu   sync.Mutex
	dirs map[string]*inode // by path; the root is "/"
	next uint64            // inode number
	tick int64             // time, in steps of a second per change
}

type inode struct {
	ino         uint64
	data        []byte
	flushed     []byte // content after a power loss, if data is lost
	mode        fs.FileMode
	flushedMode fs.FileMode
	changed     int64

	// Of a directory:
	entries map[string]*inode
	durable map[string]*inode // entries as of the last SyncDir
	pending []change          // since then
}

// A change of a directory's entries that is not flushed: atomic in itself.
type change struct {
	add    string
	ino    *inode
	remove string
}

func (c change) apply(entries map[string]*inode) {
	if c.remove != "" {
		delete(entries, c.remove)
	}
	if c.add != "" {
		entries[c.add] = c.ino
	}
}

// NewDisk returns a disk with an empty root directory.
func NewDisk() *Disk {
	d := &Disk{dirs: map[string]*inode{}}
	d.dirs["/"] = d.newInode(fs.ModeDir | 0o755)
	return d
}

func (d *Disk) newInode(mode fs.FileMode) *inode {
	d.next++
	d.tick++
	n := &inode{ino: d.next, mode: mode, flushedMode: mode, changed: d.tick}
	if mode.IsDir() {
		n.entries, n.durable = map[string]*inode{}, map[string]*inode{}
	}
	return n
}

func (d *Disk) lookup(name string) (dir *inode, base string, n *inode, err error) {
	dir = d.dirs[filepath.Dir(name)]
	if dir == nil {
		return nil, "", nil, syscall.ENOENT
	}
	base = filepath.Base(name)
	return dir, base, dir.entries[base], nil
}

func (n *inode) change(c change) {
	c.apply(n.entries)
	n.pending = append(n.pending, c)
}

func pathErr(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// ReadDir implements [vfs.FS].
func (d *Disk) ReadDir(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.dirs[dir]
	if n == nil {
		return nil, pathErr("open", dir, syscall.ENOENT)
	}
	return slices.Sorted(maps.Keys(n.entries)), nil
}

// OpenDir implements [vfs.FS].
func (d *Disk) OpenDir(dir string) (vfs.Dir, error) { return vfs.DirByPath{FS: d, Path: dir}, nil }

// Lstat implements [vfs.FS].
func (d *Disk) Lstat(name string) (vfs.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.dirs[name]; n != nil {
		return n.info(), nil
	}
	_, _, n, err := d.lookup(name)
	if err == nil && n == nil {
		err = syscall.ENOENT
	}
	if err != nil {
		return vfs.Info{}, pathErr("lstat", name, err)
	}
	return n.info(), nil
}

// start is when the disk's clock began, in Unix time: about that of the machines
// that the tests simulate.
const start = 1_700_000_000

func (n *inode) info() vfs.Info {
	return vfs.Info{ID: vfs.ID{Dev: 1, Ino: n.ino}, Size: int64(len(n.data)), Mode: n.mode, Changed: time.Unix(start+n.changed, 0)}
}

// Open implements [vfs.FS].
func (d *Disk) Open(name string) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, _, n, err := d.lookup(name)
	if err == nil && n == nil {
		err = syscall.ENOENT
	}
	if err != nil {
		return nil, pathErr("open", name, err)
	}
	return &diskFile{d, n, name}, nil
}

// CreateTemp implements [vfs.FS].
func (d *Disk) CreateTemp(dir string, perm fs.FileMode) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.dirs[dir]
	if n == nil {
		return nil, pathErr("open", dir, syscall.ENOENT)
	}
	f := d.newInode(perm)
	name := fmt.Sprintf(".tmp.%d", f.ino)
	n.change(change{add: name, ino: f})
	return &diskFile{d, f, filepath.Join(dir, name)}, nil
}

// WriteFile sets the content of a file, and creates it if it is missing. It is
// not part of [vfs.FS]: tests use it for lock files and for damage.
func (d *Disk) WriteFile(name string, content []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, n, err := d.lookup(name)
	if err != nil {
		return pathErr("open", name, err)
	}
	if n == nil {
		n = d.newInode(0o666)
		dir.change(change{add: base, ino: n})
	}
	n.data = bytes.Clone(content)
	return nil
}

// ReadFile returns the content of a file.
func (d *Disk) ReadFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, _, n, err := d.lookup(name)
	if err == nil && n == nil {
		err = syscall.ENOENT
	}
	if err != nil {
		return nil, pathErr("open", name, err)
	}
	return bytes.Clone(n.data), nil
}

// Mkdir implements [vfs.FS].
func (d *Disk) Mkdir(dir string, perm fs.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	parent, base, n, err := d.lookup(dir)
	if err == nil && n != nil {
		err = syscall.EEXIST
	}
	if err != nil {
		return pathErr("mkdir", dir, err)
	}
	n = d.newInode(fs.ModeDir | perm)
	parent.change(change{add: base, ino: n})
	d.dirs[dir] = n
	return nil
}

// Remove implements [vfs.FS].
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, n, err := d.lookup(name)
	if err == nil && n == nil {
		err = syscall.ENOENT
	}
	if err != nil {
		return pathErr("unlink", name, err)
	}
	dir.change(change{remove: base})
	return nil
}

// RenameNoReplace implements [vfs.FS].
func (d *Disk) RenameNoReplace(oldName, newName string) error { return d.name(oldName, newName, true) }

// Link implements [vfs.FS].
func (d *Disk) Link(oldName, newName string) error { return d.name(oldName, newName, false) }

func (d *Disk) name(oldName, newName string, move bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, oldBase, n, err := d.lookup(oldName)
	if err == nil && n == nil {
		err = syscall.ENOENT
	}
	if err != nil {
		return pathErr("rename", oldName, err)
	}
	newBase := filepath.Base(newName)
	if dir.entries[newBase] != nil {
		return pathErr("rename", newName, syscall.EEXIST)
	}
	c := change{add: newBase, ino: n}
	if move {
		c.remove = oldBase
	}
	dir.change(c)
	d.tick++
	n.changed = d.tick
	if !move && d.DurableLinks {
		dir.durable[newBase] = n
	}
	return nil
}

// RenameReplace is a rename that replaces. It is not part of [vfs.FS]: tests
// use it to show what its use would lose.
func (d *Disk) RenameReplace(oldName, newName string) error {
	d.mu.Lock()
	if dir, base, n, err := d.lookup(newName); err == nil && n != nil {
		delete(dir.entries, base)
	}
	d.mu.Unlock()
	return d.RenameNoReplace(oldName, newName)
}

// SyncDir implements [vfs.FS].
func (d *Disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.dirs[dir]
	if n == nil {
		return pathErr("open", dir, syscall.ENOENT)
	}
	n.durable, n.pending = maps.Clone(n.entries), nil
	return nil
}

// Type implements [vfs.FS].
func (d *Disk) Type(string) (string, bool, error) { return "disk in memory", true, nil }

type diskFile struct {
	d    *Disk
	n    *inode
	name string
}

func (f *diskFile) Name() string { return f.name }
func (f *diskFile) Close() error { return nil }

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return bytes.NewReader(f.n.data).ReadAt(p, off)
}

// Write appends.
func (f *diskFile) Write(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.tick++
	f.n.changed = f.d.tick
	f.n.data = append(slices.Clip(f.n.data), p...)
	return len(p), nil
}

func (f *diskFile) Stat() (vfs.Info, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.n.info(), nil
}

func (f *diskFile) Chmod(perm fs.FileMode) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.n.mode = f.n.mode&^fs.ModePerm | perm
	return nil
}

func (f *diskFile) Chown(int, int) error { return nil }

func (f *diskFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.n.flushed, f.n.flushedMode = f.n.data, f.n.mode
	return nil
}

// Clone returns a copy of the disk, with what is durable of it and what is
// not. Open files stay with the original.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &copier{seen: map[*inode]*inode{}}
	out := &Disk{DurableLinks: d.DurableLinks, dirs: map[string]*inode{}, next: d.next, tick: d.tick}
	for path, n := range d.dirs {
		out.dirs[path] = c.inode(n)
	}
	return out
}

// A copier copies inodes, each once.
type copier struct{ seen map[*inode]*inode }

func (c *copier) inode(n *inode) *inode {
	if n == nil {
		return nil
	}
	if m := c.seen[n]; m != nil {
		return m
	}
	m := new(inode)
	*m = *n
	c.seen[n] = m
	m.entries, m.durable, m.pending = c.names(n.entries), c.names(n.durable), nil
	for _, p := range n.pending {
		p.ino = c.inode(p.ino)
		m.pending = append(m.pending, p)
	}
	return m
}

func (c *copier) names(in map[string]*inode) map[string]*inode {
	if in == nil {
		return nil
	}
	out := make(map[string]*inode, len(in))
	for name, n := range in {
		out[name] = c.inode(n)
	}
	return out
}

// PowerLoss returns a disk as a power loss may leave it. choose(n) decides,
// for everything that was not flushed, which of n things has become of it; 0
// is that it is kept.
func (d *Disk) PowerLoss(choose func(n int) int) *Disk {
	out := d.Clone()
	settled := map[*inode]bool{}
	for _, path := range slices.Sorted(maps.Keys(out.dirs)) {
		dir := out.dirs[path]
		entries := dir.durable
		for _, c := range dir.pending {
			if choose(2) == 0 {
				c.apply(entries)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			if n := entries[name]; !settled[n] {
				settled[n] = true
				n.settle(choose)
			}
		}
		dir.entries, dir.durable, dir.pending = entries, maps.Clone(entries), nil
	}
	for path := range out.dirs { // a directory whose own name was lost
		if path == "/" {
			continue
		}
		if parent := out.dirs[filepath.Dir(path)]; parent.entries[filepath.Base(path)] == nil {
			delete(out.dirs, path)
		}
	}
	return out
}

// settle decides what became of a file's content and mode.
func (n *inode) settle(choose func(n int) int) {
	if n.entries != nil {
		return
	}
	if !bytes.Equal(n.data, n.flushed) {
		switch choose(3) {
		case 1:
			n.data = bytes.Clone(n.flushed) // empty, if it was never flushed
		case 2: // its length is there, and half of its bytes
			torn := make([]byte, len(n.data))
			copy(torn, n.data[:len(n.data)/2])
			n.data = torn
		}
	}
	if n.mode != n.flushedMode && choose(2) == 1 {
		n.mode = n.flushedMode
	}
	n.flushed, n.flushedMode = n.data, n.mode
}
