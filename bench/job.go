package main

import "time"

// A job is what one worker process does. Everything that is measured happens
// in workers, so that no peer meets what another left in a process's memory.
type job struct {
	Kind string
	Peer string
	Dir  string
	opening

	Records int           // how many are in Dir, or are to be loaded
	Seed    uint64        // of the keys that are chosen
	Length  time.Duration // how long to work; the operation under way is finished
	Warm    int           // update: operations before, whose time does not count

	Batch      int    // load, steady: records in a transaction
	Goroutines int    // update: how many share the database
	Batched    bool   // update: by batcher
	Miss       bool   // read: keys that are not there
	WarmDir    string // first: a small database that is opened before

	Commands [][]string // call

	Lock   string // hold, free: the name of a lock; there is no Peer then
	Reopen bool   // free: open it each time
}

// The kinds of jobs.
const (
	kindLoad   = "load"   // insert Records records
	kindUpdate = "update" // count up random records
	kindSteady = "steady" // insert new records among the old ones
	kindRead   = "read"   // get random records
	kindScan   = "scan"   // read all, in order
	kindFirst  = "first"  // open, and get one record
	kindVerify = "verify" // check all values, and add up the counters
	kindCall   = "call"   // run commands, one after the other
	kindHold   = "hold"   // take a lock that others want too
	kindFree   = "free"   // take a lock that nobody else wants
	kindIdle   = "idle"   // nothing: what a worker needs by itself
)

// A result is what a worker tells when its job is done.
type result struct {
	Done     int             // operations that succeeded, or records
	InTime   int             // those of them that ended within Length; of hold, that began to hold
	Failures int             // the peer gave up waiting; nothing was changed
	Elapsed  time.Duration   // from the first operation to the end of the last
	Took     []time.Duration // of each operation, failures too; not of reads; of hold, the waits
	At       []time.Duration // when each of them ended
	Sum      uint64          // of the counters
	Memory   int64           // bytes, the most that was resident
	Calls    []called        // of call
}

// A called command has ended well.
type called struct {
	Took   time.Duration // from its start to its exit
	Output []byte
	Memory int64 // bytes, the most that was resident
}
