package vfs

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
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
		ModTime: time.Unix(st.Mtim.Unix()),
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

// localTypes are the file systems whose names, once looked up, are never
// stale, and of which no other machine has a copy.
var localTypes = map[int64]string{
	unix.EXT4_SUPER_MAGIC:  "ext4", // ext2 and ext3 have the same number
	unix.XFS_SUPER_MAGIC:   "xfs",
	unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.F2FS_SUPER_MAGIC:  "f2fs",
	unix.TMPFS_MAGIC:       "tmpfs",
	0x2fc12fc1:             "zfs",
}

// otherTypes are named for messages only.
var otherTypes = map[int64]string{
	unix.NFS_SUPER_MAGIC:   "nfs",
	unix.SMB_SUPER_MAGIC:   "smb",
	unix.SMB2_SUPER_MAGIC:  "smb2",
	unix.CIFS_SUPER_MAGIC:  "cifs",
	unix.FUSE_SUPER_MAGIC:  "fuse",
	unix.V9FS_MAGIC:        "9p",
	unix.CEPH_SUPER_MAGIC:  "ceph",
	unix.AFS_SUPER_MAGIC:   "afs",
	unix.MSDOS_SUPER_MAGIC: "fat",
	unix.EXFAT_SUPER_MAGIC: "exfat",
}

func fsType(dir string) (string, bool, error) {
	magic, err := statfsType(dir)
	if err != nil {
		return "", false, err
	}
	if name, ok := localTypes[magic]; ok {
		return name, true, nil
	}
	if magic == unix.OVERLAYFS_SUPER_MAGIC {
		// Writes go to the upper layer, so that is what counts. It may be out
		// of sight (in a container it is); then the answer is the careful one.
		if upper, err := overlayUpper(dir); err == nil {
			if m, err := statfsType(upper); err == nil && localTypes[m] != "" {
				return "overlay on " + localTypes[m], true, nil
			}
		}
		return "overlay", false, nil
	}
	if name, ok := otherTypes[magic]; ok {
		return name, false, nil
	}
	return fmt.Sprintf("%#x", magic), false, nil
}

func statfsType(dir string) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			return int64(uint32(st.Type)), nil
		}
		if err != unix.EINTR {
			return 0, err
		}
	}
}

// overlayUpper returns the upper directory of the overlay that dir is on.
func overlayUpper(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", err
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 4 || fields[2] != dev {
			continue
		}
		for opt := range strings.SplitSeq(fields[len(fields)-1], ",") {
			if upper, ok := strings.CutPrefix(opt, "upperdir="); ok {
				return upper, nil
			}
		}
	}
	return "", fs.ErrNotExist
}
