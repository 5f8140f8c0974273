package lockfile

import "golang.org/x/sys/unix"

// awakeOrNot is a monotonic clock that goes on while the machine sleeps, which that
// of package time does not.
const awakeOrNot = unix.CLOCK_MONOTONIC
