package lockfile

import (
	"math"

	"golang.org/x/sys/unix"
)

// A Liveness says whether a process is still there.
type Liveness int

// The zero Liveness is Unknown.
const (
	Unknown Liveness = iota // it cannot be told from here
	Alive
	Dead
)

// String returns "unknown", "alive" or "dead".
func (l Liveness) String() string {
	switch l {
	case Alive:
		return "alive"
	case Dead:
		return "dead"
	}
	return "unknown"
}

// Liveness says whether the process that took the lock is still there: Alive and Dead
// only by proof.
//
// A process is dead if its machine has been started anew, which is that its boot id is
// another and its machine id and host name are the same; of copies of a machine that share
// both this is not so, and no lock is broken for it where several machines can use the
// file. And it is dead if it was of this run of
// this machine and of the caller's pid namespace, and has ended: there is none of its
// number, or only what remains of one until its parent has noticed its end, or one
// that started at another time. Of a process of another machine, or in another
// container, nothing is known.
//
// That a process is dead does not mean that its lock is free: it may have started
// others that inherited the lock.
func (h Holder) Liveness() Liveness { return h.liveness(self()) }

func (h Holder) liveness(me Holder) Liveness {
	var zero [16]byte
	if h.PID <= 0 || h.PID > math.MaxInt32 || h.BootID == zero || me.BootID == zero {
		return Unknown
	}
	if h.BootID != me.BootID {
		// Copies of a machine, or containers of one image, may share the machine
		// id. If they share the name too, nobody can tell them apart.
		if h.MachineID != zero && h.MachineID == me.MachineID && h.Host == me.Host {
			return Dead
		}
		return Unknown
	}
	if h.PIDNamespace == 0 || h.PIDNamespace != me.PIDNamespace {
		return Unknown
	}
	if me.Start != 0 {
		if p, err := readProcess(processName(h.PID)); err == nil {
			switch {
			case p.ended, h.Start != 0 && p.start != h.Start:
				return Dead
			case h.Start != 0:
				return Alive
			}
			return Unknown
		}
	}
	// There is none, or one may not look. Only this tells: ESRCH.
	if unix.Kill(h.PID, 0) == unix.ESRCH {
		return Dead
	}
	return Unknown
}

// A processState is what the system tells of a process.
type processState struct {
	pid   int
	ended bool   // its parent has not noticed yet, but it has let go of all it had
	start uint64 // as Holder.Start
}
