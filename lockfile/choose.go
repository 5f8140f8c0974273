//go:build unix

package lockfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/recordstore/recordstore/internal/fstype"
)

// Which mechanism a new file is used with.
//
// On a local file system that is the system's default. Elsewhere locks may be refused,
// or granted to everybody, or not answered at all, so there the candidates are tried
// in turn, on a file made for that, and the first that works is it. What was found is
// in the header of the lock file, and nowhere else.
//
// The try is between two file descriptions of this process. It says nothing of other
// machines: with some mount options the kernel grants locks without asking the server.
// These are looked for among the options of the mount. Of FUSE nothing of the kind can
// be seen.
//
// A lock call on NFS does not return while the server's lock service is out of reach,
// and cannot be interrupted. So each is made by a goroutine that can be left behind.

// candidates are tried in this order.
var candidates = []Mechanism{OFD, Flock, Link}

// A chooser chooses the mechanism. What it asks the system is replaced in tests.
type chooser struct {
	fsType   func(dir string) (name string, local bool, err error)
	mountOf  func(dir string) (fstype.Mount, error)
	lock     func(h *handle) error // locks the header
	unlock   func(h *handle) error
	patience time.Duration // with a lock call
}

var choosing = chooser{
	fsType:   fstype.Of,
	mountOf:  fstype.MountOf,
	lock:     lockHeader,
	unlock:   unlockHeader,
	patience: 5 * time.Second,
}

// A location is a directory, and what is known of the file system there.
type location struct {
	dir   string
	name  string // of the type of file system
	local bool
	mount fstype.Mount // zero if it is local, or not known
}

func (c *chooser) locate(dir string) location {
	p := location{dir: dir, name: "unknown"}
	if name, local, err := c.fsType(dir); err == nil {
		p.name, p.local = name, local
	}
	if p.local {
		return p
	}
	if m, err := c.mountOf(dir); err == nil {
		p.mount = m
		p.name = m.Type // which says more: "nfs4", not "nfs", "fuse.sshfs"
	}
	return p
}

func (p location) String() string {
	if p.mount.Point == "" {
		return p.name
	}
	return p.name + ", mounted on " + p.mount.Point
}

// confined returns the mount option that keeps locks of m from other machines, if
// there is one.
func (p location) confined(m Mechanism) string {
	var by []string
	posix := m == OFD || m == POSIX
	switch {
	case !posix && m != Flock:
	case strings.HasPrefix(p.name, "nfs"):
		by = []string{"nolock", "local_lock=all", "local_lock=flock"}
		if posix {
			by[2] = "local_lock=posix"
		}
	case p.name == "cifs", p.name == "smb3":
		by = []string{"nobrl"}
	}
	for _, opt := range p.mount.Options {
		if slices.Contains(by, opt) {
			return opt
		}
	}
	return ""
}

// lockOptions returns the mount options that matter for locks.
func (p location) lockOptions() []string {
	var opts []string
	for _, opt := range p.mount.Options {
		name, _, _ := strings.Cut(opt, "=")
		if slices.Contains([]string{"vers", "nolock", "local_lock", "nobrl"}, name) {
			opts = append(opts, opt)
		}
	}
	return opts
}

// A refusal is why a mechanism is not used in a place.
type refusal struct {
	m   Mechanism
	err error
}

// A chooseError is reported when no mechanism works.
type chooseError struct {
	p       location
	refused []refusal
}

func (e *chooseError) Error() string {
	s := "no locks work on this file system (" + e.p.String() + ")"
	for i, r := range e.refused {
		s += fmt.Sprintf("%c %v: %v", ":;"[min(i, 1)], r.m, r.err)
	}
	return s + "; mount it with locks (NFS: with the server's lock service running, without nolock or local_lock)," +
		" put the lock file on another file system, or name a mechanism for it"
}

func (e *chooseError) Unwrap() []error {
	errs := []error{errors.ErrUnsupported}
	for _, r := range e.refused {
		errs = append(errs, r.err)
	}
	return errs
}

var errConfined = errors.New("keeps locks on this machine, where others do not see them")

// choose returns the mechanism for new lock files in p.
func (c *chooser) choose(p location) (Mechanism, error) {
	if p.local {
		return defaultMechanism, nil
	}
	e := &chooseError{p: p}
	for _, m := range candidates {
		if mechanisms[m] == nil {
			continue
		}
		var err error
		if opt := p.confined(m); opt != "" {
			err = fmt.Errorf("the mount option %s %w", opt, errConfined)
		} else {
			path, createErr := probeFile(p.dir)
			if errors.Is(createErr, fs.ErrNotExist) {
				return 0, fmt.Errorf("the directory %s does not exist: %w", p.dir, fs.ErrNotExist)
			}
			if createErr != nil {
				return 0, fmt.Errorf("finding out which locks work on this file system (%v), unless one is named, needs a file in the directory: %w",
					p, createErr)
			}
			err = c.try(m, path)
		}
		if err == nil {
			return m, nil
		}
		e.refused = append(e.refused, refusal{m, err})
	}
	return 0, e
}

const probePrefix = ".probe."

// probeFile creates a file to try locks on.
func probeFile(dir string) (string, error) {
	for {
		path := filepath.Join(dir, fmt.Sprintf("%s%016x", probePrefix, rand.Uint64()))
		fd, err := openFile(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		if err == nil {
			return path, unix.Close(fd)
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
}

// removeProbe removes a file of probeFile's, and what the mechanism has put beside it,
// a directory perhaps.
func removeProbe(m Mechanism, path string) {
	_ = unix.Unlink(path)
	if m == OFD {
		return
	}
	dir, name := filepath.Split(path)
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, n := range names {
		if strings.HasPrefix(n, name) {
			_ = os.RemoveAll(dir + n)
		}
	}
}

// A noAnswerError is reported when a lock call has not returned in time.
type noAnswerError time.Duration

func (e noAnswerError) Error() string { return fmt.Sprintf("no answer within %v", time.Duration(e)) }

func isNoAnswer(err error) bool {
	var e noAnswerError
	return errors.As(err, &e)
}

// within returns what fn returns. If that takes longer than d it leaves fn behind, and
// when fn returns late is called with what it returned.
func within(d time.Duration, fn func() error, late func(error)) error {
	result, left := make(chan error), make(chan struct{})
	go func() {
		err := fn()
		select {
		case result <- err:
		case <-left:
			late(err)
		}
	}()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case err := <-result:
		return err
	case <-t.C:
		close(left)
		return noAnswerError(d)
	}
}

// try tries m on the file at path, which is a probeFile, and removes that.
func (c *chooser) try(m Mechanism, path string) error {
	newLocker := mechanisms[m]
	defer removeProbe(m, path)
	return within(c.patience, func() error { return tryTwo(m, newLocker, path) }, func(error) { removeProbe(m, path) })
}

// tryTwo finds out whether two file descriptions exclude each other, and can read
// the file all the same: on SMB a lock may be one on the contents.
func tryTwo(m Mechanism, newLocker func(*handle) locker, path string) error {
	var two [2]*handle
	for i := range two {
		fd, err := openFile(path, unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		h := &handle{path: path, opts: &Options{Mechanism: m}, fd: fd, mechanism: m}
		defer h.close()
		if err := h.identify(); err != nil {
			return err
		}
		h.locker = newLocker(h)
		two[i] = h
	}
	header := encodeHeader(m)
	if err := two[0].writeAt(header, 0); err != nil {
		return err
	}
	switch err := two[0].attempt(false); err {
	case nil:
	case errBusy:
		return errors.New("a new file is locked")
	default:
		return err
	}
	switch err := two[1].attempt(false); err {
	case errBusy:
	case nil:
		return errors.New("two have the lock at the same time")
	default:
		return err
	}
	if b, err := two[1].contents(); err != nil {
		return fmt.Errorf("a locked file cannot be read: %w", err)
	} else if !bytes.Equal(b, header) {
		return errors.New("a locked file reads differently")
	}
	if err := two[0].unlock(); err != nil {
		return err
	}
	switch err := two[1].attempt(false); err {
	case nil:
		return two[1].unlock()
	case errBusy:
		return errors.New("the lock stays locked when it is released")
	default:
		return err
	}
}

// lockHeader is the function of that name, which may not return where p is.
func (c *chooser) lockHeader(p location, h *handle) error {
	if p.local {
		return c.lock(h)
	}
	return c.onHeader(h, c.lock, true)
}

func (c *chooser) unlockHeader(p location, h *handle) error {
	if p.local {
		return c.unlock(h)
	}
	return c.onHeader(h, c.unlock, false)
}

// ask calls op, which asks about locks of h, and which may not return where p is.
func (c *chooser) ask(p location, h *handle, op func(*handle) error) error {
	if p.local {
		return op(h)
	}
	return c.onHeader(h, op, false)
}

// onHeader calls op with another descriptor of h's file description, so that h can be
// closed meanwhile, and its number be given to another file.
func (c *chooser) onHeader(h *handle, op func(*handle) error, isLock bool) error {
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	g := &handle{path: h.path, opts: h.opts, fd: fd, fileID: h.fileID}
	// Nobody else may have a copy: with h he has a description in common, and its locks.
	closeCopy := func() { _ = closeFile(h.fileID, parkedFile{fd: fd, spent: true}) }
	unlock := c.unlock
	err = within(c.patience, func() error { return op(g) }, func(err error) {
		if isLock && err == nil {
			_ = unlock(g) // nobody knows that it is locked
		}
		closeCopy()
	})
	if !isNoAnswer(err) {
		closeCopy()
	}
	return err
}

// ofKernel reports whether locks of m are of the kind that the header is locked with,
// so that they get no answer where that got none.
func (m Mechanism) ofKernel() bool { return m == OFD || m == Flock || m == POSIX }
