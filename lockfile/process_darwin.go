package lockfile

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func pidNamespace() uint64 { return 1 } // there is but one

func machineID() [16]byte { return [16]byte{} }

func processName(pid int) string { return strconv.Itoa(pid) }

// readProcess asks for the process of a number, or "self".
func readProcess(name string) (processState, error) {
	pid := os.Getpid()
	if name != "self" {
		var err error
		if pid, err = strconv.Atoi(name); err != nil {
			return processState{}, err
		}
	}
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return processState{}, err
	}
	const zombie = 5 // SZOMB
	start := k.Proc.P_starttime
	return processState{
		pid:   int(k.Proc.P_pid),
		ended: k.Proc.P_stat == zombie,
		start: uint64(start.Sec)*1e6 + uint64(start.Usec),
	}, nil
}

// There is no way to ask which processes have a lock.
func lockUserOf(*handle, int) (u lockUser, has bool, err error) { return u, false, nil }

func allLockUsers(*handle) []lockUser { return nil }

// commandOf returns the name of a process; here it is not asked for.
func commandOf(int) string { return "unknown" }
