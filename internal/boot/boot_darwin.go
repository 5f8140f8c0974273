package boot

import "golang.org/x/sys/unix"

func session() string {
	s, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return s
}
