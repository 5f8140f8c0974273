// Package store is a record store in a directory, which any number of
// processes read and change at once, on one machine or on several that mount
// the directory over a network, without a server.
//
//	s, err := store.Open("results", nil)
//	...
//	defer s.Close()
//	results := store.As[Result](s)
//	_, err = results.Put(ctx, "run-17", Result{Score: 0.93})
//	r, err := results.Get(ctx, "run-17")
//
// A change that depends on what is there is made by [Store.Update], or by
// Update of [Typed], which run a function on the newest state:
//
//	_, err = s.Update(ctx, func(tx *store.Tx) error { ... })
//
// # Guarantees
//
//   - Atomic: the changes of one update are all seen, or none of them, by
//     everybody and for ever, wherever the process dies.
//   - Isolated: updates have one order. Each sees all before it and nothing of
//     those after it. A [Snapshot] is the state between two of them.
//   - Durable: an update that has returned without an error survives a power
//     loss. One that has not is there whole, or not at all.
//   - No update is lost, whatever becomes of the lock: broken, deleted by
//     hand, expired on a network file system. The lock saves work; what keeps
//     updates safe is that no manifest is ever published over another.
//   - Readers take no lock, wait for nobody and hold up nobody.
//   - Damage is reported, with the file and the place. A damaged newest state
//     is never passed over for an older one.
//
// # Not guaranteed
//
//   - On a network file system a [Snapshot] taken without the lock may be a
//     little old. [Store.FreshSnapshot] is not.
//   - A process that has published an update and has not yet flushed it shows
//     it to others already. They can see what a power loss may take back;
//     FreshSnapshot and every update speak only of what is durable.
//   - Expiry goes by clocks. See [Snapshot].
//   - Removing the directory, or copying files into it, while it is in use is
//     not supported. It is noticed as a rule ([ErrReplaced]), not always.
//   - What one update changes is held in memory, and so are the records that
//     were written last, some ten kilobytes. An update of far more than that
//     is written, and flushed, while LOCK is held.
//   - Room that deleted, expired and overwritten records took is free again
//     when the files they are in have been merged, which happens by and by, or
//     after [Store.Compact].
//
// # Cost
//
// A commit writes the records that were written last, some ten kilobytes, and
// not the store. When these are too many, the process whose commit has made
// them so moves them into a segment, an immutable file, and merges segments,
// after it has answered; [Store.Close] waits for that, and leaves a long merge
// to others. A lookup asks a few segments, and keeps parts of them in memory
// (CacheSize of [Options]).
//
// Where many processes write on few cores, GOMAXPROCS=1 in their environment
// makes more commits a second: the Go runtime looks many times after each
// thread that waits for the lock.
//
// A Store holds descriptors of its directory, its locks, the newest manifest
// and its segments. A [Snapshot] holds segments too, for as long as it is
// kept, and their room on the disk: close it.
//
// # Compatibility
//
// The format of the files has a version. A program reads all versions up to
// its own and refuses newer ones with [ErrNewerVersion]. docs/FORMAT.md has
// the format, docs/DESIGN.md the protocol and why it is safe.
package store
