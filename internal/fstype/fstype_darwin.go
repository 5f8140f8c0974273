package fstype

import "golang.org/x/sys/unix"

func of(dir string) (string, bool, error) {
	m, err := mountOf(dir)
	if err != nil {
		return "", false, err
	}
	return m.Type, m.Type == "apfs" || m.Type == "hfs", nil
}

// mountOf leaves out the options, which are not strings here.
func mountOf(dir string) (Mount, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return Mount{}, err
		}
	}
	return Mount{
		Type:   unix.ByteSliceToString(st.Fstypename[:]),
		Point:  unix.ByteSliceToString(st.Mntonname[:]),
		Source: unix.ByteSliceToString(st.Mntfromname[:]),
	}, nil
}
