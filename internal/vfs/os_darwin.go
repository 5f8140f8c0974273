package vfs

import (
	"errors"
	"io/fs"
	"syscall"
	"time"

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

func changeTime(st *syscall.Stat_t) time.Time { return time.Unix(st.Ctimespec.Unix()) }

func renameNoReplace(oldName, newName string) error {
	for {
		err := unix.RenamexNp(oldName, newName, unix.RENAME_EXCL)
		switch err {
		case unix.EINTR:
		case unix.EINVAL, unix.ENOSYS, unix.ENOTSUP:
			return errors.ErrUnsupported
		default:
			return err
		}
	}
}

// Lookup implements [Dir].
func (d osDir) Lookup(name string) (ID, bool, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		switch err {
		case nil:
			return ID{Dev: uint64(st.Dev), Ino: st.Ino}, true, nil
		case unix.ENOENT:
			return ID{}, false, nil
		case unix.EINTR:
		default:
			return ID{}, false, &fs.PathError{Op: "fstatat", Path: name, Err: err}
		}
	}
}
