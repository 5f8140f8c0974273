package fstype

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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

func of(dir string) (string, bool, error) {
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
	m, err := mountOf(dir)
	if err != nil {
		return "", err
	}
	for _, opt := range m.Options {
		if upper, ok := strings.CutPrefix(opt, "upperdir="); ok {
			return upper, nil
		}
	}
	return "", fs.ErrNotExist
}

// mountOf looks for the number of the mount in /proc/self/mountinfo, and if it
// cannot know that for the device, of which there may be several mounts.
func mountOf(dir string) (Mount, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return Mount{}, err
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Mount{}, err
	}
	defer f.Close()
	return findMount(f, mountID(dir), dev)
}

// mountID returns the number of the mount that dir is on, "" if it is not told.
func mountID(dir string) string {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = unix.Close(fd) }()
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(b) {
		if id, ok := bytes.CutPrefix(line, []byte("mnt_id:")); ok {
			return string(bytes.TrimSpace(id))
		}
	}
	return ""
}

// findMount reads the lines of a mountinfo, which are described in proc(5):
//
//	36 35 98:0 /root /point rw,noatime master:1 - type source rw,errors=continue
//
// It returns that of number id, or else the last one of device dev.
func findMount(r io.Reader, id, dev string) (Mount, error) {
	var found Mount
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20) // an overlay of many layers has a long line
	for s.Scan() {
		head, tail, ok := strings.Cut(s.Text(), " - ")
		a, b := strings.Split(head, " "), strings.Split(tail, " ")
		if !ok || len(a) < 6 || len(b) < 3 || a[0] != id && a[2] != dev {
			continue
		}
		found = Mount{Type: unescape(b[0]), Point: unescape(a[4]), Source: unescape(b[1])}
		for _, list := range []string{a[5], b[2]} {
			for opt := range strings.SplitSeq(list, ",") {
				found.Options = append(found.Options, unescape(opt))
			}
		}
		if a[0] == id {
			return found, nil
		}
	}
	if err := s.Err(); err != nil {
		return Mount{}, err
	}
	if found.Type == "" {
		return Mount{}, fs.ErrNotExist
	}
	return found, nil
}

// unescape replaces what stands for a blank, a tab, a newline and a backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
