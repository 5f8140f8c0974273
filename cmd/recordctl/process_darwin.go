package main

import "golang.org/x/sys/unix"

// processStart returns when the process started, in microseconds of Unix time, which tells
// it from a later one of its number; 0 if that is not known.
func processStart(pid int) uint64 {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return 0
	}
	start := k.Proc.P_starttime
	return uint64(start.Sec)*1e6 + uint64(start.Usec)
}
