package lockfile

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const abstractNames = true

func peerPID(fd int) int {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return int(c.Pid) // 0 if our pid namespace has none for it
}

// hasNotOpen reports whether it is known that a process does not have the file of h
// open. Whoever has the lock does.
func hasNotOpen(pid int, h *handle) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
	es, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range es {
		var st unix.Stat_t
		if err := unix.Stat(dir+e.Name(), &st); err == nil && uint64(st.Dev) == h.dev && st.Ino == h.ino {
			return false
		}
	}
	return true
}
