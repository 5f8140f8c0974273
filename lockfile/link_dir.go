//go:build unix

package lockfile

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// claimsSuffix is what the name of the directory of claims has more than that of the
// lock file. Such a directory exists only where the lock file has, or had, a header
// that says link, and so tells of a lock file that has lost its header what it is; if
// it can have been made by who may use the lock (see believe).
const claimsSuffix = ".claims"

// newSuffix is followed by an id, in names of what is made whole before it gets its
// own name.
const newSuffix = ".new."

// errMoved is returned when the path no longer names the directory of claims that was
// opened.
var errMoved = errors.New("the directory of claims was removed or replaced")

// A claimDir is what the protocol asks of the directory of claims: the seam at which
// tests put others. All but names and close work on the directory that was opened,
// even if it is not at its path any more. Its methods may be called concurrently.
type claimDir interface {
	// names reads the directory, afresh and through its path, so that a network
	// file system asks its server. It is not atomic: a name that was there from
	// before the call until after it is among the result, but one that came or
	// went meanwhile need not be. If the path names another directory by now, or
	// none, the error is errMoved.
	names() ([]string, error)
	// read opens a file afresh and reads it.
	read(name string) ([]byte, error)
	// create makes a file that is not there, and whole.
	create(name string, b []byte) error
	// flush makes a file outlive a loss of power.
	flush(name string) error
	// link and remove are link(2) and unlink(2). The error need not tell the truth.
	link(from, to string) error
	remove(name string) error
	rename(from, to string) error
	// bump stores the counter of the claim id, if the file at that name is that.
	// Otherwise the error is errMoved.
	bump(name string, id claimID, counter uint64) error
	// older reports by how much a file is older than another, by the file system's
	// own clock.
	older(name, than string) (time.Duration, error)
	close()
}

// claimFiles is a claimDir on the file system.
type claimFiles struct {
	path string
	root *os.Root
	is   fs.FileInfo
	mode fs.FileMode // of new files
	gid  int         // of new files
}

// openClaims opens the directory of claims of h, if it is there.
func openClaims(h *handle) (claimDir, error) {
	path := h.path + claimsSuffix
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, notDirectory(path)
	}
	st, err := fstat(h.fd)
	if err != nil {
		return nil, err
	}
	if err := believe(path, fi, &st); err != nil {
		return nil, err
	}
	if err := oneName(h, &st); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, permissionText(err, path)
	}
	is, err := root.Stat(".")
	if err == nil && !os.SameFile(is, fi) {
		err = believe(path, is, &st) // it was replaced just now
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	// Who may read the lock file may read the claims. Their owners change them.
	mode := fs.FileMode(st.Mode)&0o444 | 0o600
	return &claimFiles{path: path, root: root, is: is, mode: mode, gid: int(st.Gid)}, nil
}

// believe says what is wrong with a directory of claims, for the lock file st. One that
// a stranger can have made, or can write to, is none: he could remove the claims of
// those who hold the lock, and make a link lock of a new file that is to be another.
// What the lock file lets everybody do, everybody may.
func believe(path string, dir fs.FileInfo, st *unix.Stat_t) error {
	is, ok := dir.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	file := fs.FileMode(st.Mode) & 0o777
	allowed := claimsMode(file).Perm()
	if is.Gid != st.Gid {
		allowed = ofStrangers(allowed)
	}
	var what string
	switch {
	case is.Uid != st.Uid && is.Uid != 0 && file&0o006 != 0o006:
		what = "which only " + userName(st.Uid) + ", who owns the lock file, or root can have made: if nobody holds the lock remove it, and otherwise let root give it to him with chown"
	case dir.Mode().Perm()&^allowed != 0:
		what = fmt.Sprintf("which no more may read or write than the lock file, whose mode is %s: its owner can see to that with chmod %03o", modeText(file), allowed)
	default:
		return nil
	}
	return &fs.PathError{Op: "open", Path: path, Err: errors.New(describe("it", dir) + ", and so is not used for the claims of the lock, " + what)}
}

// ofStrangers returns m with no more for the group, which is another than it is meant
// for, than for the others.
func ofStrangers(m fs.FileMode) fs.FileMode { return m & (0o707 | m&0o007<<3) }

// oneName returns an error if the lock file of h has several names, which would be as many
// locks, since the claims are beside the name. Who creates the file gives it a second one for a
// moment, and leaves it if he dies then.
func oneName(h *handle, st *unix.Stat_t) error {
	if st.Nlink <= 1 {
		return nil
	}
	dir, base := filepath.Split(h.path)
	for try := range 10 {
		if try > 0 {
			time.Sleep(time.Millisecond)
		}
		// A network file system asks its server when a file is opened.
		fd, err := openFile(h.path, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		st, err := fstat(fd)
		_ = closeFile(fileID{uint64(st.Dev), uint64(st.Ino)}, parkedFile{fd: fd})
		if err != nil || st.Nlink <= 1 {
			return err
		}
		if try != 5 {
			continue
		}
		es, _ := os.ReadDir(dir)
		for _, e := range es {
			if id, err := identify(dir + e.Name()); err == nil && id == h.fileID && strings.HasPrefix(e.Name(), base+newSuffix) {
				_ = unix.Unlink(dir + e.Name())
			}
		}
	}
	return fmt.Errorf("%w: it has other names too, by hard links, and with link locks each would be another lock: remove the others", ErrIncompatible)
}

func notDirectory(path string) error {
	return &fs.PathError{Op: "open", Path: path, Err: errors.New("it is in the way of the directory that link locks need")}
}

func permissionText(err error, path string) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; a link lock needs permission to read, write and search %s, which its owner can give with chmod", err, path)
	}
	return err
}

// makeClaims makes the directory of claims of h, unless there is one. Who may use the
// lock file may use the directory: nothing else would work, since everybody removes
// everybody's old claims. It gets its name when it has its permissions.
func makeClaims(h *handle) error {
	path := h.path + claimsSuffix
	if fi, err := os.Lstat(path); err == nil {
		if !fi.IsDir() {
			return notDirectory(path)
		}
		return nil
	}
	st, err := fstat(h.fd)
	if err != nil {
		return err
	}
	if err := oneName(h, &st); err != nil {
		return err
	}
	if uid := os.Geteuid(); uid != 0 && uid != int(st.Uid) && st.Mode&0o006 != 0o006 {
		return fmt.Errorf("only %s, who owns the lock file, and root can make it: let one of them take the lock first: %w", userName(st.Uid), fs.ErrPermission)
	}
	tmp := path + newSuffix + newClaimID().String()
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	if err := giveClaims(tmp, int(st.Gid), claimsMode(fs.FileMode(st.Mode)&0o777)); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	err = os.Rename(tmp, path)
	if err == nil {
		return nil
	}
	_ = os.Remove(tmp)
	if fi, statErr := os.Lstat(path); statErr == nil && fi.IsDir() {
		return nil // somebody else was faster
	}
	return err
}

// giveClaims gives the directory that was made just now its group and mode. Whoever may
// write where it is can put another file there meanwhile, even root's: so it is opened, and
// what is not an empty directory stays as it is. Whose it is does not tell: a server may make
// root somebody else.
func giveClaims(path string, gid int, mode fs.FileMode) error {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := dir.Readdirnames(1); err != io.EOF {
		return cmp.Or(err, fmt.Errorf("%s was replaced while it was made, by a directory that is not empty", path))
	}
	// A stranger to the group cannot give it away. Its members then have the
	// permissions of the others, as he has.
	if err := dir.Chown(-1, gid); err != nil {
		mode = ofStrangers(mode)
	}
	return dir.Chmod(mode)
}

// claimsMode returns the mode of the directory for that of the lock file. There is no
// sticky bit, which would keep those who may use the lock from removing old claims.
func claimsMode(m fs.FileMode) fs.FileMode {
	d := m&0o666 | 0o600
	for shift := 0; shift <= 6; shift += 3 {
		if d>>shift&0o4 != 0 {
			d |= 0o1 << shift
		}
		if d>>shift&0o6 != 0o6 { // to lock takes both
			d &^= 0o2 << shift
		}
	}
	if d&0o070 == 0o070 {
		d |= fs.ModeSetgid // so that what is in it belongs to the group too
	}
	return d
}

func (d *claimFiles) names() ([]string, error) {
	dir, err := os.OpenFile(d.path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESTALE),
			errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			return nil, errMoved // or replaced by what is no directory
		}
		return nil, err
	}
	defer dir.Close()
	fi, err := dir.Stat()
	if err == nil && !os.SameFile(fi, d.is) {
		err = errMoved
	}
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) {
		err = errMoved // removed while it was open
	}
	return names, err
}

// open opens what is a claim, if it is a file. It does not wait for who would write to a
// FIFO. A symbolic link leads to nothing outside of the directory.
func (d *claimFiles) open(name string, flags int) (*os.File, error) {
	file, err := d.root.OpenFile(name, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := file.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: filepath.Join(d.path, name), Err: errNoClaim}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

var errNoClaim = errors.New("it is not a regular file, and so no claim: remove it")

func (d *claimFiles) read(name string) ([]byte, error) {
	file, err := d.open(name, os.O_RDONLY)
	var b []byte
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(file, claimSize))
		file.Close()
	}
	if errors.Is(err, unix.ESTALE) {
		err = fs.ErrNotExist // removed by another machine while it was open
	}
	return b, err
}

func (d *claimFiles) create(name string, b []byte) error {
	file, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return permissionText(err, d.path)
	}
	if fi, statErr := file.Stat(); statErr == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Gid) != d.gid {
			_ = file.Chown(-1, d.gid) // see makeClaims
		}
	}
	_, err = file.Write(b)
	if err == nil {
		err = file.Chmod(d.mode)
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = d.root.Remove(name)
	}
	return err
}

func (d *claimFiles) flush(name string) error {
	file, err := d.open(name, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer file.Close()
	return file.Sync()
}

func (d *claimFiles) link(from, to string) error   { return d.root.Link(from, to) }
func (d *claimFiles) remove(name string) error     { return d.root.Remove(name) }
func (d *claimFiles) rename(from, to string) error { return d.root.Rename(from, to) }
func (d *claimFiles) close()                       { _ = d.root.Close() }

func (d *claimFiles) bump(name string, id claimID, counter uint64) error {
	file, err := d.open(name, os.O_RDWR)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) {
			err = errMoved
		}
		return err
	}
	defer file.Close()
	b := make([]byte, claimCounter)
	if _, err := file.ReadAt(b, 0); err != nil {
		return err
	}
	if claimID(b[16:32]) != id {
		return errMoved
	}
	if _, err := file.WriteAt(le.AppendUint64(nil, counter), claimCounter); err != nil {
		return err
	}
	return file.Sync()
}

func (d *claimFiles) older(name, than string) (time.Duration, error) {
	a, err := d.root.Lstat(name)
	if err != nil {
		return 0, err
	}
	b, err := d.root.Lstat(than)
	if err != nil {
		return 0, err
	}
	return b.ModTime().Sub(a.ModTime()), nil
}

// isLinked reports whether h is, or was, a lock file of the Link mechanism, whatever
// became of its header. The error is that of believe, upon which it is not known.
func isLinked(h *handle) (bool, error) {
	path := h.path + claimsSuffix
	fi, err := os.Lstat(path)
	if err != nil || !fi.IsDir() {
		return false, nil
	}
	st, err := fstat(h.fd)
	if err != nil {
		return false, err
	}
	if err := believe(path, fi, &st); err != nil {
		return false, err
	}
	return true, nil
}

// createWhole creates the lock file with its header, for m, in one step: so whoever is
// first says which mechanism it is used with, and no lock is needed to agree on that.
// Kernel locks may be what this file system does not have, or what hangs on it. If
// somebody else was faster the error is fs.ErrExist.
//
// If there are claims, of a lock file that was removed, they are what it is used with;
// but not those of a stranger.
func (f *File) createWhole(m Mechanism, mode uint32, p location) error {
	tmp := f.path + newSuffix + newClaimID().String()
	id, m, err := f.linkWhole(tmp, m, mode, p)
	_ = unix.Unlink(tmp) // closed by now: over NFS the name of an open file would be renamed
	if err != nil || m != Link {
		return err
	}
	fd, err := openFile(f.path, unix.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fs.ErrExist // but not any more
	}
	if err != nil {
		return err
	}
	h := &handle{path: f.path, opts: &f.opts, fd: fd}
	defer h.close()
	if err := h.identify(); err != nil {
		return err
	}
	if h.fileID != id {
		return fs.ErrExist // likewise
	}
	return makeClaims(h) // by who may, as not all users of the lock may
}

// linkWhole makes the file at tmp and gives it the name of the lock file. It returns which
// file that is, and the mechanism, which is another than m if the lock is of links already.
func (f *File) linkWhole(tmp string, m Mechanism, mode uint32, p location) (fileID, Mechanism, error) {
	fd, err := openFile(tmp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, mode)
	if err != nil {
		return fileID{}, m, err
	}
	h := &handle{path: f.path, opts: &f.opts, fd: fd}
	defer h.close()
	if err := f.give(h); err != nil {
		return fileID{}, m, notGivenError{err}
	}
	if linked, err := isLinked(h); err == nil && linked {
		m = Link
	}
	if err := f.writeHeader(h, m); err != nil {
		return fileID{}, m, err
	}
	if m == Link || !p.local {
		if err := ignoringEINTR(func() error { return unix.Fsync(fd) }); err != nil {
			return fileID{}, m, err
		}
	}
	linkErr := unix.Link(tmp, f.path)
	// Over a network an error does not mean that it did not happen.
	if err := h.identify(); err != nil {
		return fileID{}, m, err
	}
	same, err := h.named(f.path)
	switch {
	case err != nil, same:
		return h.fileID, m, err
	case linkErr == nil, errors.Is(linkErr, fs.ErrNotExist):
		err = fs.ErrExist // but not any more; or RemoveUnused took tmp for unused
	default:
		err = linkError(linkErr)
	}
	return fileID{}, m, err
}

// A notGivenError is about the permissions of a new file, not about permissions that
// who creates it lacks.
type notGivenError struct{ error }

func (e notGivenError) Unwrap() error { return e.error }

var errNoHardLinks = fmt.Errorf("%w: link locks need hard links, which this file system does not have", errors.ErrUnsupported)

// linkError says what it means that link(2) failed.
func linkError(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTSUP),
		errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EMLINK):
		return fmt.Errorf("%w: %w", errNoHardLinks, err)
	}
	return err
}

// adoptLinked is what adopt does instead of locking the header, which may hang or be
// impossible where link locks are used. It returns Auto if the file has nothing to do
// with link locks.
//
// A file without a header that has a directory of claims was a lock file of this kind,
// and was truncated. All who see that write the same header, and need no lock. Any
// other empty file is not made one: somebody may be adopting it for a lock of another
// kind at this moment, and without a lock it cannot be agreed on one.
//
// A directory of claims that a stranger has made tells nothing of a file that was just
// created. Otherwise it is not known what the file was.
func (f *File) adoptLinked(h *handle, created bool) (Mechanism, error) {
	linked, err := isLinked(h)
	switch {
	case err != nil && !created:
		return f.awaitHeader(h, err)
	case err == nil && linked:
		return Link, f.writeHeader(h, Link)
	case f.opts.Mechanism != Link:
		return Auto, nil
	}
	return f.awaitHeader(h, errLinkEmpty)
}

var errLinkEmpty = errors.New("the file is empty; a link lock is made with its file: remove it, and open it again")

// awaitHeader waits for the header of a file that somebody may be about to write. If
// nobody does the error is err.
func (f *File) awaitHeader(h *handle, err error) (Mechanism, error) {
	for range 100 {
		time.Sleep(time.Millisecond)
		if m, _, err := h.check(); err != nil || m != Auto && !h.lacksPort(m) {
			return m, err
		}
	}
	return 0, err
}
