//go:build unix

package lockfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A handle is an open file description of the lock file: what the kernel takes
// for the owner of a lock. The mechanism adds the locking.
type handle struct {
	locker
	mechanism Mechanism // never Auto
	path      string    // absolute, unless it was opened to be looked at
	opts      *Options
	fd        int
	lingers   bool         // even what does not wait for others may take long: see locker.attempt
	fileID                 // of the open file
	port      int          // that the file records, for TCP; or 0
	users     int          // Locks that share it; protected by File.mu
	inherited bool         // children may have a descriptor of it; protected by File.mu
	record    []byte       // what announce writes
	spoiled   atomic.Bool  // what was written was not taken: it may not be used again
	swept     bool         // no record that somebody left is in the file
	size      atomic.Int64 // of the file, when the path was last seen to name it
	checked   int64        // the size that the file had when writeRecord last read it
	recorded  time.Time    // since when the lock is held that the record says; zero if there is none
	gone      atomic.Bool  // path was seen not to name the file: see abandon
}

// A fileID tells a file that exists from all others.
type fileID struct{ dev, ino uint64 }

// identify returns which file the path names.
func identify(path string) (fileID, error) {
	id, _, err := lstat(path)
	return id, err
}

func lstat(path string) (id fileID, size int64, err error) {
	var st unix.Stat_t
	err = ignoringEINTR(func() error { return unix.Lstat(path, &st) })
	return fileID{uint64(st.Dev), uint64(st.Ino)}, st.Size, err
}

// open opens the lock file, and creates it if it may. The file is one of ours when
// it returns, used with a mechanism that was wanted.
func (f *File) open() (*handle, error) {
	fd, created, err := f.openOrCreate()
	if err != nil {
		return nil, f.openError(err)
	}
	h := &handle{path: f.path, opts: &f.opts, fd: fd}
	m, _, err := h.check()
	if err == nil && created {
		err = f.grant(h)
	}
	if err == nil && (m == Auto || h.lacksPort(m)) {
		m, err = f.adopt(h, created)
	}
	if err == nil {
		err = h.use(m)
	}
	if err == nil {
		h.lingers = m == Link || !choosing.locate(filepath.Dir(f.path)).local // a server may not answer
		err = h.notOverwritten()
	}
	if err != nil {
		h.close()
		return nil, f.error("open", err)
	}
	return h, nil
}

// notOverwritten returns an error if a file that is not used with OFD is locked so:
// another lock file was copied over one that is held. It asks on local file systems only,
// where that cannot take long, and where other locks do not look the same. Of locks of
// flock(2) it cannot ask without being in their way.
func (h *handle) notOverwritten() error {
	if h.mechanism == OFD || h.mechanism == POSIX || mechanisms[OFD] == nil || !choosing.locate(filepath.Dir(h.path)).local {
		return nil
	}
	if m, err := fcntlUser(h); err != nil || m != OFD {
		return nil // strangers may lock what they like
	}
	return fmt.Errorf("%w: the file is one for %v locks, but was put in place of one for %v locks that is held", ErrLocked, h.mechanism, OFD)
}

// openOrCreate opens the lock file. A user who may lock it may yet be refused
// between its creation and the moment when it gets its permissions; so a file that may
// be new is tried again, for about 0.1 s. It need not be empty: root and its owner can
// use it before it has its permissions.
func (f *File) openOrCreate() (fd int, created bool, err error) {
	mode := uint32(f.mode())
	if f.opts.Group != nil && f.opts.Mode != 0 {
		mode &^= 0o070 // they are for the group that it is to have, not this one
	}
	empty := false // it is to be created empty
	for try := 0; ; try++ {
		if f.opts.ReadOnly {
			fd, err = openFile(f.path, unix.O_RDONLY, 0)
		} else {
			fd, created, err = openOrCreate(f.path, mode, empty)
		}
		if errors.Is(err, fs.ErrNotExist) && !empty && !f.opts.NoCreate && !f.opts.ReadOnly {
			if empty, err = f.create(mode); empty || err == nil || errors.Is(err, fs.ErrExist) && try < 100 {
				continue // and open it
			}
		}
		if !errors.Is(err, fs.ErrPermission) || try == 100 {
			return fd, created, err
		}
		fi, statErr := os.Lstat(f.path)
		if statErr != nil || !fi.Mode().IsRegular() || time.Since(fi.ModTime()).Abs() > time.Second {
			return fd, created, err
		}
		time.Sleep(time.Millisecond)
	}
}

// create creates the file with its header, or reports that it is to be created empty,
// and then adopted: where that is known to be as good, since other machines do not use
// it and kernel locks work, and where there is no other way. It returns fs.ErrExist if
// somebody else was faster.
func (f *File) create(mode uint32) (empty bool, err error) {
	p, want := choosing.locate(filepath.Dir(f.path)), f.opts.Mechanism
	if p.local && (want == Auto || want == defaultMechanism) {
		// With claims there it may be a link lock, which is created whole.
		if _, err := os.Lstat(f.path + claimsSuffix); errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
	}
	if want == Auto {
		if want, err = choosing.choose(p); err != nil {
			if _, statErr := os.Lstat(f.path); statErr == nil {
				err = fs.ErrExist // somebody knew better meanwhile
			}
			return false, err
		}
	}
	err = f.createWhole(want, mode, p)
	if want != Link && (errors.Is(err, errNoHardLinks) || errors.Is(err, unix.ENAMETOOLONG)) {
		return true, nil
	}
	return false, err
}

// openOrCreate creates only what it has not found: where fs.protected_regular is
// set, O_CREAT on an existing file fails in sticky directories like /tmp, for root
// too.
func openOrCreate(path string, mode uint32, create bool) (fd int, created bool, err error) {
	for {
		fd, err = openFile(path, unix.O_RDWR, 0)
		if !errors.Is(err, fs.ErrNotExist) || !create {
			return fd, false, err
		}
		fd, err = openFile(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, mode)
		if !errors.Is(err, fs.ErrExist) {
			return fd, err == nil, err
		}
		// Someone else has created it; or it is a symbolic link to nothing, and
		// the first open said that it is a link, not that it does not exist.
	}
}

func (f *File) mode() fs.FileMode {
	if f.opts.Mode == 0 {
		return 0o666
	}
	return f.opts.Mode.Perm()
}

// grant gives the file that h has created its group and its mode. If it cannot, it
// removes the file, unless somebody else has begun to use it.
func (f *File) grant(h *handle) error {
	err := f.give(h)
	if err != nil {
		f.discard(choosing.locate(filepath.Dir(f.path)), h)
	}
	return err
}

// give is grant but for the removal.
func (f *File) give(h *handle) error {
	err := f.chown(h)
	if err == nil && f.opts.Mode != 0 { // after chown: the bits are not for another group
		err = ignoringEINTR(func() error { return unix.Fchmod(h.fd, uint32(f.mode())) })
		if err != nil {
			err = fmt.Errorf("the new file could not be given mode %v: %w", f.mode(), err)
		}
	}
	return err
}

// discard removes the file that h has created in p, unless somebody else uses it. Nobody
// locks a file without a header, and nobody writes one while the header is locked. So
// if there is none, nobody has the lock, and who has the file open finds, when he has
// locked it, that the path does not name it any more.
func (f *File) discard(p location, h *handle) {
	if choosing.lockHeader(p, h) != nil {
		return
	}
	// Closing h need not unlock it: see closeFile.
	defer func() { _ = choosing.unlockHeader(p, h) }()
	if m, _, err := h.check(); err == nil && m == Auto && !h.outdated(f.path) {
		_ = unix.Unlink(f.path) // an empty file is in nobody's way
	}
}

func (f *File) chown(h *handle) error {
	if f.opts.Group == nil {
		return nil
	}
	gid := *f.opts.Group
	st, err := fstat(h.fd)
	if err != nil {
		return err
	}
	if int(st.Gid) == gid { // from the directory, perhaps
		return nil
	}
	if err := ignoringEINTR(func() error { return unix.Fchown(h.fd, -1, gid) }); err != nil {
		return fmt.Errorf("the new file could not be given to group %d: let a member of that group or root create it, or give the directory that group and the set-group-ID bit: %w", gid, err)
	}
	return nil
}

// adopt writes a header to a file that has none, and returns the mechanism that the
// file is used with: others may do the same at the same time, and want another. All
// but the first find his header.
//
// That holds as far as the header can be locked. Where it cannot, on this machine or on
// one of those that have the file, a file gets its header when it is created, and at no
// other time.
func (f *File) adopt(h *handle, created bool) (Mechanism, error) {
	if f.opts.ReadOnly {
		return f.adopted(h)
	}
	if m, err := f.adoptLinked(h, created); err != nil || m != Auto {
		return m, err
	}
	p := choosing.locate(filepath.Dir(f.path))
	want := f.opts.Mechanism
	if want == Auto {
		var err error
		if want, err = choosing.choose(p); err != nil {
			if m, _, checkErr := h.check(); checkErr != nil || m != Auto {
				return m, checkErr // somebody knew better meanwhile
			}
			return 0, err
		}
		if want == Link {
			return f.awaitHeader(h, errLinkEmpty)
		}
		if !p.local && want != defaultMechanism { // which the header is locked with
			return f.awaitHeader(h, unadopted(errors.New("they do not work")))
		}
	}
	if opt := p.confined(defaultMechanism); opt != "" {
		return f.awaitHeader(h, unadopted(fmt.Errorf("the mount option %s %w", opt, errConfined)))
	}
	// Others need this lock for microseconds. Should a stranger have locked the
	// file, there is no knowing for how long.
	began := time.Now()
	for try := 0; ; try++ {
		err := choosing.lockHeader(p, h)
		if err == nil {
			break
		}
		if m, _, checkErr := h.check(); checkErr != nil || m != Auto && !h.lacksPort(m) {
			return m, checkErr
		}
		if isNoAnswer(err) && want.ofKernel() {
			return 0, fmt.Errorf("the lock service of the file system (%v) is out of reach: %w", p, err)
		}
		if err != errBusy {
			return f.awaitHeader(h, unadopted(err))
		}
		if try == 1000 || time.Since(began) > choosing.patience {
			return 0, fmt.Errorf("%w: the file is empty, and another program has locked it", ErrLocked)
		}
		time.Sleep(time.Millisecond)
	}
	m, _, err := h.check()
	if err == nil && (m == Auto || h.lacksPort(m)) {
		if m == Auto {
			m = want
		}
		// Sockets have a guard that looks like a lock, for microseconds.
		for began := time.Now(); ; time.Sleep(time.Millisecond) {
			if err = h.unused(p, m); !errors.Is(err, ErrLocked) || time.Since(began) > 20*settleTime {
				break
			}
		}
		if err == nil {
			err = f.writeHeader(h, m)
		}
	}
	if unlockErr := choosing.unlockHeader(p, h); err == nil {
		err = unlockErr
	}
	return m, err
}

// unadopted says that a header cannot be written, since it cannot be locked.
func unadopted(err error) error {
	return fmt.Errorf("the file is empty, and what it is used with cannot be agreed on without kernel locks (%w): remove it, and open it again", err)
}

// unused returns an error if the file, which has no header, is locked by a mechanism
// other than m: it was truncated, and who holds the lock does not know it yet. The
// header is locked. Sockets and ports are not asked: whoever has their names could keep
// everybody from every lock, and a socket's may be that of a file which is gone.
func (h *handle) unused(p location, m Mechanism) error {
	if linked, err := isLinked(h); err == nil && linked {
		return inUse(Link) // they were made just now
	}
	var users []Mechanism
	err := choosing.ask(p, h, func(g *handle) (err error) {
		users, err = kernelUsers(g, p.local)
		return err
	})
	if err != nil {
		return err
	}
	for _, u := range users {
		if u != m {
			return inUse(u)
		}
	}
	return nil
}

func inUse(m Mechanism) error {
	return fmt.Errorf("%w: the file has lost its header, and is locked by who uses it with %v locks; when that is released, it can be opened",
		ErrLocked, m)
}

func (f *File) writeHeader(h *handle, m Mechanism) error {
	h.mechanism, h.port = m, f.opts.Port
	return h.writeAt(h.header(), 0)
}

// openFile does not follow a link at the end of the path, and does not hang on a
// FIFO. If the file is open, and may not be closed, that is used.
func openFile(path string, flags int, mode uint32) (int, error) {
	if flags&unix.O_CREAT == 0 {
		if fd, ok := parkedFD(path, flags&unix.O_RDWR != 0); ok {
			return fd, nil
		}
	}
	var fd int
	err := ignoringEINTR(func() (err error) {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, mode)
		return err
	})
	return fd, err
}

// openError says of a file that cannot be opened what is the matter with it.
func (f *File) openError(err error) error {
	fi, statErr := os.Lstat(f.path)
	switch {
	case statErr == nil && !fi.Mode().IsRegular():
		err = notRegular(fi.Mode())
	case errors.As(err, new(notGivenError)):
	case errors.Is(err, fs.ErrPermission):
		err = denied(f.path, err, f.opts.ReadOnly)
	}
	return f.error("open", err)
}

func notRegular(m fs.FileMode) error {
	kind := "not a regular file"
	switch m.Type() {
	case fs.ModeSymlink:
		kind = "a symbolic link"
	case fs.ModeDir:
		kind = "a directory"
	}
	return fmt.Errorf("%w: it is %s", ErrNotLockFile, kind)
}

// check finds out which file has been opened, and what checkHeader says of its
// contents, which it returns too.
func (h *handle) check() (m Mechanism, b []byte, err error) {
	if err := h.identify(); err != nil {
		return 0, nil, err
	}
	b, err = h.contents()
	for err == nil {
		m, err = checkHeader(b)
		h.port = headerPort(b)
		if !errors.Is(err, ErrNotLockFile) {
			break
		}
		// A read may see half of a write. What it sees twice is in the file.
		again, readErr := h.contents()
		if readErr != nil || bytes.Equal(again, b) {
			break
		}
		b, err = again, nil
	}
	return m, b, err
}

func (h *handle) identify() error {
	st, err := fstat(h.fd)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return notRegular(fs.ModeDir)
	default:
		return notRegular(fs.ModeIrregular)
	}
	h.dev, h.ino = uint64(st.Dev), uint64(st.Ino)
	return nil
}

// contents returns what the file holds, and of a file that is too long to be ours
// one byte too many.
func (h *handle) contents() ([]byte, error) {
	b := make([]byte, fileSize+1)
	for n := 0; ; {
		m, err := h.readAt(b[n:], int64(n))
		if err != nil {
			return nil, err
		}
		if n += m; m == 0 {
			return b[:n], nil
		}
	}
}

func (h *handle) readAt(b []byte, off int64) (n int, err error) {
	err = ignoringEINTR(func() error {
		n, err = unix.Pread(h.fd, b, off)
		return err
	})
	return n, err
}

func (h *handle) writeAt(b []byte, off int64) error {
	var n int
	err := ignoringEINTR(func() (err error) {
		n, err = unix.Pwrite(h.fd, b, off)
		return err
	})
	if err == nil && n < len(b) {
		err = unix.ENOSPC
	}
	return err
}

// named reports whether path names the file that h has open. Since that is open,
// its inode number cannot have been given to another.
func (h *handle) named(path string) (bool, error) {
	id, size, err := lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || h.gone.Load() {
		return false, nil
	}
	if err != nil || id != h.fileID {
		return false, err
	}
	h.size.Store(size)
	return true, nil
}

// abandon reports whether the path is known not to name the open file, and makes that
// so for ever, even if the file is put back there: a locker can then say that it is
// locked which has locked nothing.
func (h *handle) abandon(path string) bool {
	if h.outdated(path) {
		h.gone.Store(true)
	}
	return h.gone.Load()
}

// outdated reports whether the path is known not to name the open file any more.
func (h *handle) outdated(path string) bool {
	same, err := h.named(path)
	return err == nil && !same
}

// dup returns an os.File of the same description. An os.File closes its descriptor, so
// it gets one of its own. While ours is open closing that releases nothing: the locks
// belong to the description.
func (h *handle) dup(name string) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// close releases what h has locked.
func (h *handle) close() error {
	var err error
	if h.locker != nil {
		err = h.locker.close()
	}
	if e := closeFile(h.fileID, parkedFile{fd: h.fd, spent: h.spoiled.Load()}); err == nil {
		err = e
	}
	return err
}

// Whoever names the file by mistake may have written something else into it since it was
// opened, which must not be lost. So before something is written it is made sure that it
// still is a lock file, as far as that costs nothing to speak of: see writeRecord and withdraw.

// mine reports whether what the file begins with is of a lock file that is used with h's
// mechanism, or nothing that would be in the way of its header.
func (h *handle) mine(b []byte) bool {
	if bytes.HasPrefix(b, h.header()) {
		return true
	}
	m, err := checkHeader(b)
	return err == nil && (m == Auto || m == h.mechanism)
}

// readHead reads the file up to an offset, and reports whether it is mine.
func (h *handle) readHead(to int) (b []byte, mine bool, err error) {
	b = make([]byte, to)
	n, err := h.readAt(b, 0)
	return b, err == nil && h.mine(b[:n]), err
}

// announce records that this process holds the lock. The record is a courtesy, and
// failing to write it, on a full disk perhaps, no reason not to lock.
func (h *handle) announce(purpose string, since time.Time) error {
	if h.record == nil {
		h.record = append(h.header(), encodeHolder(self())...)
	}
	updateHolder(h.record[holderOffset:], purpose, since, newClaim())
	h.recorded = time.Time{}
	err := h.writeRecord()
	if err == nil {
		h.recorded = since
	}
	return err
}

// writeRecord writes the record. If the file has been cut off, or the header says which
// port it is, it mends that too, but writes nothing if somebody has put another there:
// those who come later go by that, and so must we. No lock is needed for the header, as
// the lock is held, and who would adopt the file for another mechanism sees that (unused).
//
// To read the file each time would make a lock dearer by a fifth. It is read when its size
// is another than it was.
func (h *handle) writeRecord() error {
	size := h.size.Load()
	if size >= holderOffset+holderSize && size == h.checked && h.mechanism != TCP {
		return h.writeAt(h.record[holderOffset:], holderOffset)
	}
	b, err := h.contents()
	if err != nil {
		return err
	}
	switch m, err := checkHeader(b); {
	case errors.Is(err, ErrIncompatible), err != nil && !bytes.HasPrefix(b, []byte(magic)):
		return err
	case err == nil && m != Auto && (m != h.mechanism || headerPort(b) != h.port && headerPort(b) != 0):
		return fmt.Errorf("%w: its header was replaced by one for %v locks", ErrIncompatible, m)
	}
	h.checked = max(int64(len(b)), holderOffset+holderSize)
	return h.writeAt(h.record, 0)
}

// withdraw clears the record. While the lock was held for a moment only, it is taken to be
// there.
func (h *handle) withdraw() {
	if h.recorded.IsZero() {
		return
	}
	if time.Since(h.recorded) > forMoment {
		var b [holderSize]byte
		if _, err := h.readAt(b[:], holderOffset); err != nil || string(b[:]) != string(h.record[holderOffset:]) {
			return
		}
	}
	_ = h.writeAt(noHolder[:], holderOffset)
}

// forMoment is much more than it takes to read a record.
const forMoment = 200 * time.Microsecond

var noHolder [holderSize]byte

// tidy does what writing a record does besides, for who writes none. It writes the header
// anew if the file has been cut off; its size was seen just now, by named. And it clears the
// record of somebody who has died: he would be taken for the holder for as long as
// nobody writes another. It looks for one once for each handle, and after a wait.
func (h *handle) tidy() {
	if h.size.Load() < headerSize {
		if b, err := h.contents(); err == nil {
			if m, err := checkHeader(b); err == nil && m == Auto {
				_ = h.writeAt(h.header(), 0)
			}
		}
	}
	if h.swept {
		return
	}
	h.swept = true
	if b, mine, _ := h.readHead(holderOffset + holderSize); mine && string(b[holderOffset:]) != string(noHolder[:]) {
		_ = h.writeAt(noHolder[:], holderOffset)
	}
}

// status is what can be seen of a lock from outside.
type status struct {
	state   State
	holder  Holder
	known   bool
	settled bool // the lock is held and not just changing hands; never false where it cannot be told
}

// look neither takes the lock nor needs permission to write.
func look(path string) (status, error) {
	h, b, err := openRead("inspect", path)
	if err != nil {
		return status{}, err
	}
	defer h.close()
	return h.look(b[holderOffset:][:holderSize])
}

// look judges a record that has just been read.
func (h *handle) look(record []byte) (status, error) {
	st, err := h.probe()
	if err != nil {
		return status{}, &fs.PathError{Op: "inspect", Path: h.path, Err: err}
	}
	s := status{state: st}
	if st == Exclusive || st == Unseen {
		s.holder, s.known = decodeHolder(record)
	}
	if l, ok := h.locker.(claimer); ok && st == Exclusive {
		// The claim says who, and the file what for, if it is his.
		if c, ok := l.holder(); ok && (!s.known || c.PID != s.holder.PID || c.Host != s.holder.Host) {
			s.holder, s.known = c, true
		}
	}
	s.settled = s.known || st == Shared || st == Foreign || st == Unseen
	return s, nil
}

func readData(path string) ([]byte, error) {
	h, b, err := openRead("read", path)
	if err != nil {
		return nil, err
	}
	defer h.close()
	region := b[dataOffset:][:dataSize]
	began := time.Now()
	for try := 0; ; try++ {
		data, err := decodeData(region)
		if err == nil {
			return data, nil
		}
		// A read may see half of a write, and for as long as the writer does not
		// get to run. What is there when that is over is in the file. Where many want
		// to run, we may have looked a few times only until then.
		if time.Since(began) > settleTime && try >= 50 {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		time.Sleep(50 * time.Microsecond)
		if _, err := h.readAt(region, dataOffset); err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
	}
}

// openRead opens a lock file for reading and returns its contents, filled up with
// zeros.
func openRead(op, path string) (*handle, []byte, error) {
	fail := func(err error) (*handle, []byte, error) {
		return nil, nil, &fs.PathError{Op: op, Path: path, Err: err}
	}
	fd, err := openFile(path, unix.O_RDONLY, 0)
	if err != nil {
		if fi, statErr := os.Lstat(path); statErr == nil && !fi.Mode().IsRegular() {
			err = notRegular(fi.Mode())
		}
		return fail(err)
	}
	h := &handle{path: path, opts: &Options{}, fd: fd}
	m, b, err := h.check()
	if err == nil && m == Auto {
		m = defaultMechanism
		var linked bool
		if linked, err = isLinked(h); linked {
			m = Link
		}
	}
	if err == nil {
		err = h.use(m)
	}
	if err != nil {
		h.close()
		return fail(err)
	}
	return h, append(b, make([]byte, fileSize)...)[:fileSize], nil
}

// lockError adds to an error of the operating system what was being done.
func (f *File) lockError(err error) error {
	switch {
	case err == errBusy:
		return err
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.ENOTSUP),
		errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		err = fmt.Errorf("the file system does not support locks, or its lock service is out of reach: %w", err)
	case errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("the system does not support locks of this kind: %w", err)
	}
	return f.error("lock", err)
}

func fstat(fd int) (st unix.Stat_t, err error) {
	err = ignoringEINTR(func() error { return unix.Fstat(fd, &st) })
	return st, err
}

// ignoringEINTR calls fn until it is not interrupted: on FUSE and CIFS system calls
// are, even when signals are handled with SA_RESTART.
func ignoringEINTR(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}
