// Package stress runs many real processes against one record store, kills some
// of them, and judges from what they wrote down whether anything was lost.
//
//	result, err := stress.Run(ctx, stress.Config{Writers: 50, Readers: 50, Duration: 30 * time.Second})
//	if err == nil && !result.OK() { ... }
//
// A run has two forms. In the first, each writer waits a random time and saves
// one record, and each reader waits a random time and reads: the test of the
// question that this project answers, at whose end 46 or 47 of 50 records were
// there. In the hard form all writers read, change and write shared counters
// and records of their own as fast as they can, readers check every snapshot,
// and some processes are killed with SIGKILL at random moments and replaced.
//
// The parts keep apart who works and who judges:
//
//	run.go       a run from its beginning to its end
//	crew.go      starts, kills, replaces and stops the processes, by package workers
//	worker.go    what a process does; workload.go and reader.go its operations
//	protocol.go  how it does them: by package store, or by the classic recipe
//	history.go   the lines a process writes about each operation; account.go reads them
//	value.go     the records' values, which prove their own integrity
//	judge.go     reads the histories and the final state, and nothing else; checks.go
//
// # What a run proves, and what not
//
// Every acknowledged operation is in the final state once; what is in the
// final state was attempted; a killed process's operation is there whole or
// not at all; revisions were given once, in the order in which operations
// followed each other; every snapshot a reader saw was whole and, on a local
// file system, contained all that was acknowledged before it was taken.
//
// It does not prove durability: processes die here, machines do not. And a run
// that finds nothing proves nothing about a judge; that is why the same
// workload can run the classic recipe (Config.Protocol "naive"), which must be
// seen to lose records, and why the judge's tests plant each kind of fault. The
// usual recipe (Config.Protocol "rename") loses none on a local file system, and
// some where two machines share a directory by NFS.
//
// # Using the package
//
// The workers are the calling executable, run again. Its main, or TestMain,
// calls MaybeWorker before anything else.
package stress

import (
	"fmt"
	"slices"
	"time"
)

// The protocols that a run can drive.
const (
	ProtocolStore  = "store"  // package store
	ProtocolNaive  = "naive"  // the recipe of the question: lock the data file, replace it by rename
	ProtocolRename = "rename" // the usual recipe: lock a file beside it, replace it by rename, read without a lock
)

// Protocols lists them.
var Protocols = []string{ProtocolStore, ProtocolNaive, ProtocolRename}

// Config says what a run does. The zero value of a field means what its
// comment says.
type Config struct {
	// Store is the directory of the records. It must not hold anything but
	// what an earlier run left. Empty: a temporary directory of the run's own,
	// removed at the end unless the judge found a fault or Keep is set.
	Store string
	// History is the directory of the processes' histories, empty or not yet
	// there. Empty: beside the temporary store, or a temporary directory.
	History string
	// Keep leaves temporary directories where they are.
	Keep bool

	Protocol string // ProtocolStore (also if empty), ProtocolNaive or ProtocolRename
	Writers  int    // processes that write
	Readers  int    // processes that read

	// Network makes the store take the careful path of network file systems,
	// wherever it is. Snapshots may then be a little old.
	Network bool
	// Journal is the store's JournalSize, in bytes: the smaller, the more often
	// records move to segments and these are merged. Zero: the default.
	Journal int

	// QuestionWait is the longest random wait in the first form. Zero: the
	// first form is left out.
	QuestionWait time.Duration
	// Records is how many records each writer saves in the first form, and how
	// often each reader reads, each after a random wait. Zero: 1.
	Records int
	// Duration is the length of the hard form. Zero: it is left out.
	Duration time.Duration

	// Threads is the number of goroutines in every tenth writer, whose
	// updates the store may commit as a group. Zero: 4. The others have one.
	Threads int
	// ReadPause is the mean of a reader's random pauses in the hard form.
	// Zero: 50 ms. Readers without pauses measure the scheduler.
	ReadPause time.Duration

	// KillShare is the share of the processes, writers and readers, that may
	// be killed; the others live throughout. Zero: nobody is killed.
	KillShare float64
	// KillEvery is the mean time between two kills. Zero: 200 ms.
	KillEvery time.Duration

	// Timeout is how long one operation may take. Zero: 10 s. An operation
	// that takes longer is counted, not an error of the run.
	Timeout time.Duration

	// Seed determines all that is random in a run, but not the scheduling of
	// its processes. The run's records carry it in their keys.
	Seed uint64

	// Machine and Machines number the machines that take part in one run, from
	// 1. Zero: 1 of 1. With several, Run does not judge: the histories of all
	// are brought together afterwards, and given to Judge.
	Machine, Machines int
}

// Check reports what is wrong with the Config, before anything is done.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

// withDefaults fills in what zero values stand for, and checks the rest.
func (c Config) withDefaults() (Config, error) {
	if c.Protocol == "" {
		c.Protocol = ProtocolStore
	}
	if c.Records == 0 {
		c.Records = 1
	}
	if c.Threads == 0 {
		c.Threads = 4
	}
	if c.ReadPause == 0 {
		c.ReadPause = 50 * time.Millisecond
	}
	if c.KillEvery == 0 {
		c.KillEvery = 200 * time.Millisecond
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Machine == 0 && c.Machines == 0 {
		c.Machine, c.Machines = 1, 1
	}
	switch {
	case !slices.Contains(Protocols, c.Protocol):
		return c, fmt.Errorf("unknown protocol %q: there are %q", c.Protocol, Protocols)
	case c.Writers < 1:
		return c, fmt.Errorf("a run needs at least one writer, not %d", c.Writers)
	case c.Writers > maxSlots || c.Readers > maxSlots:
		return c, fmt.Errorf("at most %d writers and %d readers a machine", maxSlots, maxSlots)
	case c.Readers < 0, c.Duration < 0, c.QuestionWait < 0, c.Records < 0, c.Threads < 0, c.ReadPause < 0, c.KillEvery < 0, c.Timeout < 0, c.Journal < 0:
		return c, fmt.Errorf("a count or time is negative")
	case c.Duration == 0 && c.QuestionWait == 0:
		return c, fmt.Errorf("neither form is asked for")
	case c.KillShare < 0 || c.KillShare > 1:
		return c, fmt.Errorf("the share of processes that may be killed is between 0 and 1, not %g", c.KillShare)
	case c.Machine < 1 || c.Machine > c.Machines:
		return c, fmt.Errorf("machine %d of %d does not exist", c.Machine, c.Machines)
	case c.Machines > 1 && (c.Store == "" || c.History == ""):
		return c, fmt.Errorf("a run on several machines needs the store's and the history's directories named")
	}
	return c, nil
}

// maxSlots keeps the numbers in names and values at four digits.
const maxSlots = 9999
