package lockfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// readSmall reads a file of the system's. It is not os.ReadFile, which would start the
// poller: such files can be polled.
func readSmall(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 1024)
	n, err := unix.Read(fd, b)
	_ = unix.Close(fd)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// pidNamespace returns the number of this process's pid namespace, which is not given
// to another on this machine while it has processes.
func pidNamespace() uint64 {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return 0
	}
	return st.Ino
}

// machineID is a hash because the id is not meant to be published: machine-id(5),
// which asks for a cryptographic one. What starts with a program that carries one
// starts a tenth slower; this one keeps the id out of sight, and no secret.
func machineID() (id [16]byte) {
	b, err := readSmall("/etc/machine-id")
	b = bytes.TrimSpace(b)
	if err != nil || len(b) != 32 { // empty, or "uninitialized"
		return id
	}
	h := fnv.New128a()
	h.Write(append([]byte("recordstore lockfile\n"), b...))
	return [16]byte(h.Sum(nil))
}

func processName(pid int) string { return strconv.Itoa(pid) }

// initTimeNamespace is the time namespace of the system, which has the same number
// everywhere.
const initTimeNamespace = 0xEFFFFFFA

// readProcess reads /proc/NAME/stat.
func readProcess(name string) (processState, error) {
	b, err := readSmall("/proc/" + name + "/stat")
	if err != nil {
		return processState{}, err
	}
	p, err := parseProcess(b)
	if err != nil || name != "self" {
		return p, err
	}
	// The times are in those of the reader's time namespace. Where that is not the
	// system's, they are not comparable, and so not known.
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/time", &st); err == nil && st.Ino != initTimeNamespace {
		return processState{}, errors.New("in a time namespace")
	}
	return p, nil
}

// parseProcess takes a line such as
//
//	123 (name, which may have ) in it) S 1 ...
//
// in which the state is field 3, the number of threads 20, the start time 22.
func parseProcess(b []byte) (processState, error) {
	bad := fmt.Errorf("%q does not describe a process", b)
	first, _, ok := bytes.Cut(b, []byte(" ("))
	i := bytes.LastIndexByte(b, ')')
	if !ok || i < 0 {
		return processState{}, bad
	}
	w := bytes.Fields(b[i+1:])
	if len(w) < 20 {
		return processState{}, bad
	}
	pid, pidErr := strconv.Atoi(string(first))
	start, startErr := strconv.ParseUint(string(w[19]), 10, 64)
	if errors.Join(pidErr, startErr) != nil {
		return processState{}, bad
	}
	// A process whose first thread has ended may have others.
	state, threads := w[0][0], string(w[17])
	ended := state == 'X' || state == 'Z' && (threads == "0" || threads == "1")
	return processState{pid: pid, ended: ended, start: start}, nil
}

// lockKinds has the names in /proc of the locks that a mechanism is made of, and of
// those of strangers that are in its way.
var lockKinds = map[Mechanism][]string{
	OFD:   {"OFDLCK", "POSIX"},
	Flock: {"FLOCK"},
}

// commandOf returns the kernel's name of a process.
func commandOf(pid int) string {
	comm, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	return text(bytes.TrimSuffix(comm, []byte("\n")))
}

// lockUserOf looks whether the process pid has the lock of the file h. It fails if one
// may not see what the process has.
//
// The kernel tells in /proc/PID/fdinfo/N of the locks that belong to what descriptor N
// is of. The file it is of is told by its device and inode, which on some file systems
// are not those in the lines about locks.
func lockUserOf(h *handle, pid int) (u lockUser, has bool, err error) {
	kinds := lockKinds[h.mechanism]
	if kinds == nil {
		return u, false, nil
	}
	proc := "/proc/" + strconv.Itoa(pid)
	dir, err := os.Open(proc + "/fd")
	if err != nil {
		return u, false, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return u, false, err
	}
	for _, name := range names {
		// Nothing but what the kernel knows anyway: the file may be on a server that
		// does not answer.
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, proc+"/fd/"+name, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
		if err != nil || st.Ino != h.ino || st.Dev_major != unix.Major(h.dev) || st.Dev_minor != unix.Minor(h.dev) {
			continue
		}
		b, err := os.ReadFile(proc + "/fdinfo/" + name)
		if err != nil {
			continue
		}
		if u, ok := parseLocks(b, kinds, pid); ok {
			u.PID, u.Command = pid, commandOf(pid)
			return u, true, nil
		}
	}
	return u, false, nil
}

// parseLocks looks in the contents of a file of /proc/PID/fdinfo for a lock on byte 0,
// or all of the file:
//
//	lock:	1: OFDLCK ADVISORY  WRITE -1 fe:00:1234 0 0
//	lock:	2: FLOCK  ADVISORY  READ 123 fe:00:1234 0 EOF
//
// The number after the type is the process that took the lock. It remains when that
// has died, as does the lock if another has inherited it.
func parseLocks(b []byte, kinds []string, pid int) (u lockUser, ok bool) {
	for line := range bytes.Lines(b) {
		w := bytes.Fields(line)
		if len(w) == 9 && string(w[0]) == "lock:" && slices.Contains(kinds, string(w[2])) && string(w[7]) == "0" {
			u.Shared = string(w[4]) == "READ"
			u.taken = string(w[5]) == strconv.Itoa(pid)
			return u, true
		}
	}
	return u, false
}

// allLockUsers returns the processes that have the lock of the file h, as far as one
// may see.
func allLockUsers(h *handle) (all []lockUser) {
	if lockKinds[h.mechanism] == nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if u, has, err := lockUserOf(h, pid); err == nil && has {
				all = append(all, u)
			}
		}
	}
	slices.SortFunc(all, func(a, b lockUser) int { return cmp.Compare(a.PID, b.PID) })
	return all
}
