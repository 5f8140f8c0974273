//go:build unix

package lockfile

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// TEMPORARY: stands in for holder.go, inspect.go, process_*.go and held.go.

// Liveness says whether a recorded holder is still there.
type Liveness int

// What can be known.
const (
	Unknown Liveness = iota
	Alive
	Dead
)

// Liveness of the process, as far as it can be told from here.
func (h Holder) Liveness() Liveness {
	if host, err := os.Hostname(); err != nil || host != h.Host || h.PID <= 0 {
		return Unknown
	}
	err := unix.Kill(h.PID, 0)
	switch {
	case err == nil, errors.Is(err, unix.EPERM):
		return Alive
	case errors.Is(err, unix.ESRCH):
		return Dead
	}
	return Unknown
}

// A Break is a lock taken from a holder.
type Break struct {
	Time time.Time
	By   Holder
	Was  Holder
	Why  string
}
