//go:build unix

package lockfile

import (
	"errors"
	"fmt"
	"time"
)

// What Options.ReadOnly comes to: the file is opened for reading, which is enough for
// shared locks, and nothing in it is ever written.

var errReadOnly = errors.New("the file was opened with Options.ReadOnly, for shared locks only")

// adopted is adopt for who cannot write. He waits while the file is new and somebody
// else may be about to write the header.
func (f *File) adopted(h *handle) (Mechanism, error) {
	for range 100 {
		time.Sleep(time.Millisecond)
		if m, _, err := h.check(); err != nil || m != Auto {
			return m, err
		}
	}
	return 0, fmt.Errorf("%w: it has no header yet, which needs somebody with permission to write", ErrNotLockFile)
}

// mayBeReadOnly says whether locks of this kind need no permission to write.
func (m Mechanism) mayBeReadOnly() error {
	if m == OFD || m == Flock {
		return nil
	}
	return fmt.Errorf("%w: with Options.ReadOnly there are no %v locks", errors.ErrUnsupported, m)
}
