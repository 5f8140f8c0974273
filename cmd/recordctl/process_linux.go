package main

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// initTimeNamespace is the time namespace of the system, which has the same number
// everywhere.
const initTimeNamespace = 0xEFFFFFFA

// processStart returns when the process started, in clock ticks after boot, which tells
// it from a later one of its number; 0 if that is not known. In a time namespace other
// than the system's the ticks are not those that others see.
func processStart(pid int) uint64 {
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/time", &st); err == nil && st.Ino != initTimeNamespace {
		return 0
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// It is field 22. The second is a name in parentheses, and may have some in it.
	w := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(w) < 20 {
		return 0
	}
	start, err := strconv.ParseUint(string(w[19]), 10, 64)
	if err != nil {
		return 0
	}
	return start
}
