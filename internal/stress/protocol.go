package stress

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// A protocol is a way of keeping records that many processes change. The
// workload, the histories and the judge are the same for all.
type protocol interface {
	// Update runs fn on the newest state, makes what it did the next state,
	// and returns the revision of that. fn may run more than once.
	Update(ctx context.Context, fn func(tx) error) (revision uint64, err error)
	// CompareAndSwap puts data under key if its record has the revision old,
	// or does not exist if old is 0. Otherwise the error is a refusal.
	CompareAndSwap(ctx context.Context, key string, old uint64, data []byte) (revision uint64, err error)
	// Get reads one record.
	Get(ctx context.Context, key string) (stored, bool, error)
	// Snapshot reads one state. If fresh is set it is one that no later crash
	// of the machine takes back, if the protocol has such a promise.
	Snapshot(ctx context.Context, fresh bool) (snapshot, error)
	// Coherent reports whether it promises that a snapshot contains all that
	// was acknowledged before it was taken.
	Coherent(ctx context.Context) (bool, error)
	// Sort says what an error of these methods means.
	Sort(err error) errorSort
	Close() error
}

// A tx is what an update function works on.
type tx interface {
	Get(key string) (data []byte, ok bool, err error)
	Put(key string, data []byte) error
	Delete(key string) error
	Revision() uint64 // what this update's writes get, if it is the last run of the function
}

// A snapshot is one state.
type snapshot interface {
	Revision() uint64
	// Each calls fn with every record whose key has the prefix, until fn fails.
	Each(prefix string, fn func(key string, s stored) error) error
	Get(key string) (stored, bool, error)
	Close() error
}

// stored is a record as it is read.
type stored struct {
	Data     []byte
	Revision uint64
}

// errorSort is what an error says about the operation it answers.
type errorSort int

const (
	sortRefused errorSort = iota + 1 // not done: the record was not as it had to be
	sortLate                         // not done in time, and not done at all
	sortUnknown                      // not done in time, and perhaps done
	sortRecipe                       // the recipe's own failure, which its users live with; perhaps done
	sortBroken                       // a failure that must not happen
)

// openProtocol opens the records for a worker. A reader may find nothing there
// yet: fs.ErrNotExist.
func openProtocol(j job) (protocol, error) {
	switch j.Protocol {
	case ProtocolStore:
		// Every second reader opens for reading alone, and so cannot ask for a
		// fresh snapshot; the others can.
		return openStore(j.Store, j.Role == roleReader && j.Slot%2 == 0, j.Network, j.Journal)
	case ProtocolNaive, ProtocolRename:
		return openNaive(j.Store, j.Protocol == ProtocolRename)
	}
	return nil, fmt.Errorf("unknown protocol %q", j.Protocol)
}

// claim prepares the directory of the records for a run: it is made if it is
// not there, refused if it holds anything but what a run leaves, and emptied of
// former runs' records. If several machines take part none of them can know
// whether the others have begun, and so nothing is removed: records of other
// runs are refused then.
func claim(ctx context.Context, c Config) error {
	err := os.MkdirAll(filepath.Dir(c.Store), 0o777)
	if err != nil {
		return err
	}
	if c.Protocol != ProtocolStore {
		return claimNaive(c)
	}
	return claimStore(ctx, c)
}

// ErrTaken is reported when a directory given for a run holds other things.
var ErrTaken = errors.New("a run needs a directory of its own")
