package lockfile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Mechanism is what a lock is made of. All who use a lock file must use the same,
// since the mechanisms do not exclude one another. The file says which it is.
type Mechanism uint16

// The numbers are those in the file's header.
const (
	// Auto is the mechanism that the file records. For a file that records none, as
	// a new one, it is on a local file system OFD on Linux and Flock on macOS, and
	// on others the first that works of OFD, Flock and Link.
	Auto Mechanism = iota
	// OFD is open-file-description locks, of fcntl(2). Linux only.
	OFD
	// Flock is flock(2).
	Flock
	// POSIX is the traditional locks of fcntl(2), as other programs use them. They
	// belong to a process, and are released when anything in it closes a descriptor of
	// the file. This package does not while the lock is held, but other code may. In a
	// process waiters queue; among processes there is no order, and streams of
	// readers can starve a writer. For the sake of programs that know nothing else.
	POSIX
	// Link is claim files that are linked to a name.
	Link
	// Unix is a Unix-domain socket, for the processes of one machine and, on Linux, of
	// one network namespace. It cannot be shared. There is no order. On Linux any
	// user there can keep all others out; elsewhere a socket beside the lock file is
	// left behind, and whoever removes it while the lock is held lets in another.
	Unix
	// TCP is the port Options.Port of 127.0.0.1, likewise: for the processes of one
	// machine and one network namespace, not to be shared, without order. Any program
	// can keep all others out by listening there, or by having a connection
	// from that port: choose one that the system does not give to connections. Two lock
	// files with one port are one lock; [LockAll] and [ErrNested] take them for two, so
	// that who wants both waits for himself.
	TCP
)

var mechanismNames = [...]string{"auto", "ofd", "flock", "posix", "link", "unix", "tcp"}

// String returns the name that [ParseMechanism] takes.
func (m Mechanism) String() string {
	if int(m) < len(mechanismNames) {
		return mechanismNames[m]
	}
	return fmt.Sprintf("mechanism %d", uint16(m))
}

// ParseMechanism returns the mechanism of a name: "auto", "ofd", "flock", "posix",
// "link", "unix" or "tcp". It need not be one that this system supports.
func ParseMechanism(name string) (Mechanism, error) {
	if i := slices.Index(mechanismNames[:], name); i >= 0 {
		return Mechanism(i), nil
	}
	return 0, fmt.Errorf("no lock mechanism is named %q; there are %s", name, strings.Join(mechanismNames[:], ", "))
}

// MarshalText returns the name.
func (m Mechanism) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is [ParseMechanism].
func (m *Mechanism) UnmarshalText(name []byte) (err error) {
	*m, err = ParseMechanism(string(name))
	return err
}

// mechanisms has the mechanisms that this system supports. A file that implements
// one adds it in its init function. A constructor is called whenever the lock file is
// opened, if only to be looked at, and so does nothing that costs or can fail.
var mechanisms = map[Mechanism]func(h *handle) locker{}

// check says whether m may be asked for.
func (m Mechanism) check() error {
	if m == Auto || mechanisms[m] != nil {
		return nil
	}
	return fmt.Errorf("%w: this system, or this version of the program, has no %v locks", errors.ErrUnsupported, m)
}

// use makes m, the mechanism that the file records, that of h, if it is wanted.
func (h *handle) use(m Mechanism) error {
	if want := h.opts.Mechanism; want != Auto && want != m {
		return fmt.Errorf("%w: it is used with %v locks, not %v locks", ErrIncompatible, m, want)
	}
	if err := m.check(); err != nil {
		return fmt.Errorf("%w: it is used with %v locks: %w", ErrIncompatible, m, err)
	}
	if h.opts.ReadOnly {
		if err := m.mayBeReadOnly(); err != nil {
			return err
		}
	}
	if m == TCP {
		if err := h.usePort(); err != nil {
			return err
		}
	}
	h.mechanism = m
	h.locker = mechanisms[m](h)
	return nil
}
