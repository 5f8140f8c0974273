//go:build amd64 || arm64

package vfs

import (
	"io/fs"
	"syscall"
	"time"
	"unsafe"
)

// Changed implements [Dir], as Lookup does: without telling the scheduler. With
// Lookup's statx it takes half as long again, and that is a tenth of a read. If the
// Dir is closed meanwhile, the answer is an error or of another file.
func (d osDir) Changed() (time.Time, error) {
	var st syscall.Stat_t // where this file is built, the kernel's own
	for {
		_, _, errno := syscall.RawSyscall(syscall.SYS_FSTAT, uintptr(d.fd), uintptr(unsafe.Pointer(&st)), 0)
		switch errno {
		case 0:
			return changeTime(&st), nil
		case syscall.EINTR:
		default:
			return time.Time{}, &fs.PathError{Op: "fstat", Path: d.Name(), Err: errno}
		}
	}
}
