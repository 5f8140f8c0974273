package vfs

import (
	"errors"
	"io/fs"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func infoOf(st *syscall.Stat_t) Info {
	return Info{
		ID:      ID{Dev: uint64(st.Dev), Ino: st.Ino},
		Size:    st.Size,
		Mode:    fileMode(uint32(st.Mode)),
		UID:     st.Uid,
		GID:     st.Gid,
		Changed: changeTime(st),
	}
}

// Lookup implements [Dir]. It is what a read of an unchanged store costs, so it
// goes without telling the scheduler: the names are those of a directory in use,
// which the kernel has in memory. If the Dir is closed meanwhile, the answer is
// an error or of another directory, in which there is no file of that identity.
func (d osDir) Lookup(name string) (ID, bool, error) {
	var path [64]byte
	if len(name) >= len(path) {
		return DirByPath{OS{}, d.Name()}.Lookup(name)
	}
	copy(path[:], name)
	var st unix.Statx_t
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_STATX, uintptr(d.fd), uintptr(unsafe.Pointer(&path)),
			unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO, uintptr(unsafe.Pointer(&st)), 0)
		switch errno {
		case 0:
			return ID{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino}, true, nil
		case syscall.ENOENT:
			return ID{}, false, nil
		case syscall.EINTR:
		case syscall.ENOSYS, syscall.EPERM: // an old kernel, or a filter that does not know the call
			return DirByPath{OS{}, d.Name()}.Lookup(name)
		default:
			return ID{}, false, &fs.PathError{Op: "statx", Path: name, Err: errno}
		}
	}
}

func changeTime(st *syscall.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }

func renameNoReplace(oldName, newName string) error {
	for {
		err := unix.Renameat2(unix.AT_FDCWD, oldName, unix.AT_FDCWD, newName, unix.RENAME_NOREPLACE)
		switch err {
		case unix.EINTR:
		case unix.EINVAL, unix.ENOSYS, unix.ENOTSUP:
			// EINVAL is how a file system says that it does not know the
			// flag. The names are never one a prefix of the other, which is
			// the error's other meaning.
			return errors.ErrUnsupported
		default:
			return err
		}
	}
}
