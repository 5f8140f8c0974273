//go:build linux

package nfslab

import (
	"bytes"
	"fmt"
	"path"
)

// An archive is an initramfs in the making, in the form that cpio calls newc:
// a header of hexadecimal digits, the name, and the content, each filled up to
// four bytes. The kernel unpacks several of them, one after the other.
type archive struct {
	out   bytes.Buffer
	inode int
	dirs  map[string]bool
}

func newArchive() *archive { return &archive{dirs: map[string]bool{".": true, "/": true}} }

const (
	modeFile = 0o100000
	modeDir  = 0o040000
)

// file adds one, and the directories above it.
func (a *archive) file(name string, perm int, content []byte) {
	a.dir(path.Dir(name))
	a.entry(name, modeFile|perm, content)
}

func (a *archive) dir(name string) {
	if a.dirs[name] {
		return
	}
	a.dirs[name] = true
	a.dir(path.Dir(name))
	a.entry(name, modeDir|0o755, nil)
}

func (a *archive) entry(name string, mode int, content []byte) {
	a.inode++
	const links, owner, time, checksum = 1, 0, 0, 0
	a.out.WriteString("070701")
	for _, v := range []int{
		a.inode, mode, owner, owner, links, time, len(content), 0, 0, 0, 0, len(name) + 1, checksum,
	} {
		fmt.Fprintf(&a.out, "%08X", v)
	}
	a.out.WriteString(name + "\x00")
	a.fill()
	a.out.Write(content)
	a.fill()
}

func (a *archive) fill() {
	for a.out.Len()%4 != 0 {
		a.out.WriteByte(0)
	}
}

// bytes ends the archive and returns it.
func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, nil)
	for a.out.Len()%512 != 0 {
		a.out.WriteByte(0)
	}
	return a.out.Bytes()
}
