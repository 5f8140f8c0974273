package vfs

import (
	"errors"
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
		ModTime: time.Unix(st.Mtimespec.Unix()),
	}
}

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

func fsType(dir string) (string, bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", false, err
	}
	name := unix.ByteSliceToString(st.Fstypename[:])
	return name, name == "apfs" || name == "hfs", nil
}
