// Package locks runs many real processes against one lock file, kills some of them,
// suspends some, damages and removes the file all the while, and judges from what they
// noted whether two ever had the lock at once, and whether anybody's death kept the
// others from it.
//
//	result, err := locks.Run(ctx, locks.Config{Processes: 40, Acquisitions: 1_000_000, ...}, nil)
//	if err == nil && !result.OK() { ... }
//
// The parts keep apart who works and who judges:
//
//	run.go       a run from its beginning to its end
//	crew.go      starts and replaces the processes, by package workers
//	sabotage.go  kills and suspends them, and truncates the file
//	worker.go    what a process does
//	protocol.go  with which lock: package lockfile's, or the classic mistake
//	log.go       what a process notes, and events.go what the parent does
//	judge.go     reads these notes, with code of its own, and nothing else
//	report.go    what it found
//
// # What a run proves, and what not
//
// A process reads the machine's monotonic clock when it has the lock, and again before
// it lets go. No such interval of an exclusive lock overlaps another interval; that of
// a holder who was killed reaches to the moment before the signal was sent. After each
// death somebody has the lock again within a second, not counting the time in which
// the run itself had suspended a process: who is suspended with the lock, or in the
// queue, holds everyone up, and is meant to.
//
// The clock does not see an overlap between the taking of the lock and the reading of
// the clock. And a run that finds nothing proves nothing about the judge: that is why
// the same workload can run a broken lock (Config.Protocol "naive"), which must be
// seen to have two holders, and why the judge's tests plant each kind of fault.
//
// # Using the package
//
// The workers are the calling executable, run again. Its main, or TestMain, calls
// MaybeWorker before anything else.
package locks

import (
	"errors"
	"fmt"
	"time"
)

// The protocols that a run can drive.
const (
	ProtocolLockfile = "lockfile" // package lockfile
	ProtocolNaive    = "naive"    // flock(2) on a file that is deleted on release
)

// Config says what a run does.
type Config struct {
	// Dir is the directory of the lock file, LOCK, which must not be there yet.
	// Empty: in a temporary directory.
	Dir string
	// Notes is the directory of what the processes note, empty or not yet there.
	// Empty: in a temporary directory. Temporary ones are removed at the end, unless
	// there is a fault or Keep is set.
	Notes string
	Keep  bool

	Protocol  string // ProtocolLockfile (also if empty) or ProtocolNaive
	Processes int
	// Threads is the number of goroutines, on one lockfile.File, in every tenth
	// process. Zero: 4. The others have one.
	Threads int

	// A run ends after Acquisitions, or after Duration, whichever comes first. Zero:
	// it does not end for that reason.
	Acquisitions int
	Duration     time.Duration

	// KillShare is the share of the processes that may be killed, and KillEvery the
	// mean time between two kills. If either is zero, nobody is.
	KillShare float64
	KillEvery time.Duration
	// StopEvery is the mean time between two SIGSTOPs; zero: none. Kills and stops
	// alternate, half a second each.
	StopEvery time.Duration
	// TruncateEvery is the mean time between two truncations of the lock file, to a
	// random size. Zero: none.
	TruncateEvery time.Duration
	// Removers is the number of processes that do nothing but remove the lock file
	// (lockfile.Remove) when nobody uses it, and in the lulls make another to remove.
	// They may be killed and suspended too. Not with ProtocolNaive.
	Removers int

	// Stall is how long after a death nobody may have the lock. Zero: 1 s.
	Stall time.Duration

	// Seed determines all that is random in a run, but not the scheduling of its
	// processes.
	Seed uint64
}

// ErrTaken is reported when a directory given for a run holds what it would spoil.
var ErrTaken = errors.New("a run needs a lock file and notes of its own")

// Check reports what is wrong with the Config, before anything is done.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

func (c Config) withDefaults() (Config, error) {
	if c.Protocol == "" {
		c.Protocol = ProtocolLockfile
	}
	if c.Threads == 0 {
		c.Threads = 4
	}
	if c.Stall == 0 {
		c.Stall = time.Second
	}
	switch {
	case c.Protocol != ProtocolLockfile && c.Protocol != ProtocolNaive:
		return c, fmt.Errorf("unknown protocol %q for locks: there are %q and %q", c.Protocol, ProtocolLockfile, ProtocolNaive)
	case c.Processes < 2 || c.Processes > maxSlots:
		return c, fmt.Errorf("2 to %d processes can take part, not %d", maxSlots, c.Processes)
	case c.Removers < 0 || c.Removers > maxSlots, c.Acquisitions < 0, c.Threads < 0, c.Duration < 0, c.KillEvery < 0, c.StopEvery < 0, c.TruncateEvery < 0, c.Stall < 0:
		return c, errors.New("a count or time is negative or too large")
	case c.Acquisitions == 0 && c.Duration == 0:
		return c, errors.New("neither a number of acquisitions nor a duration is given")
	case c.KillShare < 0 || c.KillShare > 1:
		return c, fmt.Errorf("the share of processes that may be killed is between 0 and 1, not %g", c.KillShare)
	}
	if c.Protocol == ProtocolNaive {
		c.Removers = 0 // it does that itself
	}
	return c, nil
}

// maxSlots keeps the numbers in names at four digits.
const maxSlots = 9999
