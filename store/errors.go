package store

import (
	"errors"
	"fmt"
)

// Errors of a call that could not be, or need not be, carried out. The store
// is as it was.
var (
	// ErrNotFound is reported when there is no record with the key.
	ErrNotFound = errors.New("no such record")
	// ErrConflict is reported, as a [*ConflictError], by a compare-and-swap
	// whose record has another revision than the one given.
	ErrConflict = errors.New("record has changed")
	// ErrInvalidKey is reported for a key that is empty or longer than
	// [MaxKeySize].
	ErrInvalidKey = errors.New("invalid key")
	// ErrTooLarge is reported for a value whose encoding is longer than
	// [MaxValueSize].
	ErrTooLarge = errors.New("too large")
	// ErrNilFunc is reported when [Store.Update] is given no function.
	ErrNilFunc = errors.New("nil update function")
	// ErrReadOnly is reported by a write on a store opened with
	// [Options].ReadOnly.
	ErrReadOnly = errors.New("store was opened for reading only")
	// ErrTxDone is reported when a [Tx] is used after its function returned.
	ErrTxDone = errors.New("transaction is over")
)

// Errors of a directory that cannot be used as it is. Nothing is changed.
var (
	// ErrNotStore is reported by [Open] for a directory that holds other
	// files but no store.
	ErrNotStore = errors.New("not a record store")
	// ErrNewerVersion is reported for a file whose format is newer than this
	// program. The file is not damaged: use a newer program.
	ErrNewerVersion = errors.New("written by a newer version of the format")
	// ErrCorrupt is reported, as a [*CorruptError], for a file that is damaged.
	ErrCorrupt = errors.New("damaged")
	// ErrReplaced is reported when the directory was removed, replaced or
	// restored from a copy while the store was open: it holds another store,
	// or another history than the one seen before.
	ErrReplaced = errors.New("store was removed, replaced or restored while it was open")
	// ErrSnapshotExpired is reported by a [Snapshot] on a network file system
	// when the server has removed what it reads: after some minutes others may
	// retire the files of an old state, and there an open file does not keep
	// them. Take a new snapshot. On a local file system it does not happen.
	ErrSnapshotExpired = errors.New("snapshot has expired")
	// ErrUnsafeDir is reported by [Open] when the directory's permissions or
	// file system would keep the store from working: others' files cannot be
	// removed in it, or no file can be published without replacing. An update
	// reports it if a store that exists was brought to such a file system.
	ErrUnsafeDir = errors.New("directory cannot hold a shared store")
)

// Errors of an update that had come so far that others may have seen it.
var (
	// ErrUnknown is reported when it is not known whether an update was
	// committed: the context ended after its publishing had begun, or the file
	// system's answers did not tell. Read the record again to find out.
	ErrUnknown = errors.New("fate of the update is unknown: it may be committed")
	// ErrNotDurable is reported when an update is committed and visible to
	// all, but could not be flushed: it may not survive a power loss. It is
	// not undone, and must not be run again as if it had not happened.
	//
	// An error that is also [ErrConflict], [ErrNotFound] or an update function's
	// own is that of an update that was not done: it is what refused it that is
	// committed, and may not survive a power loss.
	ErrNotDurable = errors.New("committed but may not survive a power loss")
)

// A ConflictError says what revision a record has, when a compare-and-swap
// expected another. It is an [ErrConflict].
type ConflictError struct {
	Key  string
	Want Revision // expected; 0: that there is no record
	Have Revision // found; 0: there is no record
}

func (e *ConflictError) Error() string {
	switch {
	case e.Have == 0:
		return fmt.Sprintf("record %q does not exist, expected revision %d", e.Key, e.Want)
	case e.Want == 0:
		return fmt.Sprintf("record %q exists already, with revision %d", e.Key, e.Have)
	}
	return fmt.Sprintf("record %q has revision %d, expected %d", e.Key, e.Have, e.Want)
}

// Unwrap returns [ErrConflict].
func (e *ConflictError) Unwrap() error { return ErrConflict }

// A CorruptError names the damaged place. It is an [ErrCorrupt].
type CorruptError struct {
	Path   string
	Offset int64 // in bytes; where the damaged part begins
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: damaged at byte %d: %s; restore the store from a backup, or see recordctl verify", e.Path, e.Offset, e.Reason)
}

// Unwrap returns [ErrCorrupt].
func (e *CorruptError) Unwrap() error { return ErrCorrupt }
