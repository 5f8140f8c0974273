package lockfile

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// dialFrom is where our connections come from. Were it 127.0.0.1, a connection could be
// given the very port that it is to go to, and so be with itself, and in everybody's
// way; or that of another lock.
var dialFrom net.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}

// portOwner tells which process listens at a port of 127.0.0.1, if it is one that we may
// look into, and otherwise 0. It looks first at the process hint.
func portOwner(port, hint int) int {
	for _, name := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			//   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
			//   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 ...
			w := strings.Fields(s.Text())
			if len(w) < 10 || w[3] != "0A" {
				continue
			}
			addr, p, _ := strings.Cut(w[1], ":")
			if n, err := strconv.ParseUint(p, 16, 16); err != nil || int(n) != port {
				continue
			}
			// 127.0.0.1 itself, any address, or 127.0.0.1 in other words.
			if !strings.HasSuffix(addr, "0100007F") && strings.Trim(addr, "0") != "" {
				continue
			}
			return socketOwner(w[9], hint)
		}
	}
	return 0
}

// socketOwner finds the process that has a socket open, or returns 0.
func socketOwner(inode string, hint int) int {
	link := fmt.Sprintf("socket:[%s]", inode)
	if hint > 0 && hasLink(hint, link) {
		return hint
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && hasLink(pid, link) {
			return pid
		}
	}
	return 0
}

func hasLink(pid int, link string) bool {
	path := "/proc/" + strconv.Itoa(pid) + "/fd/"
	dir, err := os.Open(path)
	if err != nil {
		return false
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if s, err := os.Readlink(path + name); err == nil && s == link {
			return true
		}
	}
	return false
}
