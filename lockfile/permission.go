//go:build unix

package lockfile

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// denied adds to an error of opening path for want of permission what is in the way,
// whose it is, and what can be done about it.
func denied(path string, err error, readOnly bool) error {
	fi, statErr := os.Lstat(path)
	var why string
	switch {
	case statErr == nil && errors.Is(err, syscall.EPERM):
		// Modes make EACCES.
		why = describe("it", fi) + "; but that is not the reason: an attribute of the file, such as immutable, or a rule of the system forbids it"
	case statErr == nil:
		why = describe("it", fi) + inSticky(path) + "; " + remedy(fi, readOnly)
	case errors.Is(statErr, fs.ErrNotExist):
		dir := filepath.Dir(path)
		fi, err := os.Stat(dir)
		if err != nil {
			break
		}
		why = "it does not exist, and to create it one needs permission to write to the directory: " +
			describe(dir, fi) + "; " + writers(fi) + " can create it, and with mode 666 it is for all to lock"
	default:
		why = searchable(path)
	}
	if why == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, why)
}

// describe says whose something is.
func describe(name string, fi fs.FileInfo) string {
	s := name
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s += fmt.Sprintf(" belongs to %s, group %s, and", userName(st.Uid), groupName(st.Gid))
	}
	return s + " has mode " + modeText(fi.Mode())
}

// inSticky is about a directory in which others cannot delete a file and make
// a better one.
func inSticky(path string) string {
	fi, err := os.Stat(filepath.Dir(path))
	if err != nil || fi.Mode()&fs.ModeSticky == 0 {
		return ""
	}
	return fmt.Sprintf(", in a sticky directory, mode %s, where only its owner, the directory's and root can delete it", modeText(fi.Mode()))
}

// remedy says of a file that is there how to get permission to lock it.
func remedy(fi fs.FileInfo, readOnly bool) string {
	bits, letters, need := fs.FileMode(6), "rw", "to lock it one needs permission to read and write"
	if readOnly {
		bits, letters, need = 4, "r", "to share the lock one needs permission to read"
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return need
	case int(st.Uid) == os.Geteuid():
		return fmt.Sprintf("%s: chmod u+%s gives it", need, letters)
	case fi.Mode()>>3&bits == bits:
		return fmt.Sprintf("%s: members of that group have it, and its owner can give it to all with chmod a+%s", need, letters)
	default:
		return fmt.Sprintf("%s: its owner can give it to all with chmod a+%s, or to that group with chmod g+%s", need, letters, letters)
	}
}

// writers says who can create files in a directory.
func writers(fi fs.FileInfo) string {
	var who []string
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		if st.Uid != 0 && fi.Mode()&0o300 == 0o300 {
			who = append(who, userName(st.Uid))
		}
		if fi.Mode()&0o030 == 0o030 {
			who = append(who, "members of that group")
		}
	}
	return strings.Join(append(who, "root"), " or ")
}

// searchable finds the directory on the way to path that cannot be searched.
func searchable(path string) string {
	for dir := filepath.Dir(path); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if fi, err := os.Stat(dir); err == nil {
			return "the directory " + describe(dir, fi) + "; to open what is in it one needs permission to search it, which its owner can give with chmod a+x"
		}
	}
	return ""
}

// modeText is a mode as ls(1) writes it.
func modeText(m fs.FileMode) string {
	s := []byte((m & (fs.ModeDir | fs.ModePerm)).String())
	if m&fs.ModeSticky != 0 {
		s[9] = 'T'
		if m&1 != 0 {
			s[9] = 't'
		}
	}
	return string(s)
}

func userName(uid uint32) string  { return idName("uid", uid, "/etc/passwd") }
func groupName(gid uint32) string { return idName("gid", gid, "/etc/group") }

// idName returns a text such as "root (uid 0)". Package os/user would ask directory
// services too, but only with cgo, and over the network.
func idName(kind string, id uint32, file string) string {
	number := strconv.FormatUint(uint64(id), 10)
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			// name:password:id:...
			if w := strings.SplitN(s.Text(), ":", 4); len(w) == 4 && w[2] == number && w[0] != "" {
				return fmt.Sprintf("%s (%s %s)", w[0], kind, number)
			}
		}
	}
	return kind + " " + number
}
