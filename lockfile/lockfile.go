// Package lockfile provides exclusive and shared locks between processes, and
// between the goroutines of a process, on a file that exists for that purpose.
//
//	f, err := lockfile.Open("/var/lib/results/LOCK", nil)
//	...
//	l, err := f.Lock(ctx, "deploy")
//	if err != nil {
//		return err // "lock /var/lib/results/LOCK is held by pid 123 (recordctl) on ..."
//	}
//	defer l.Unlock()
//
// # Guarantees
//
//   - Exclusion. While an exclusive lock is held, no other lock of either kind is
//     held on the file that the path names, by whatever process, goroutine or
//     [File]. Shared locks exclude only exclusive ones. Between goroutines, an unlocking
//     happens before the lockings that it lets in, in the terms of the Go memory model.
//   - Death releases. The kernel releases the locks and the places in the queue of
//     a process that ends, however it ends. What remains is the file, and in it the
//     dead holder's record, which [File.Holder] knows not to believe once the lock
//     is free, and which the next exclusive holder who is recorded overwrites.
//   - Waiting costs nothing and ends when the context does. No wait polls; only
//     a try ([File.TryLock]) looks again, for at most 5 ms, while the lock changes
//     hands (Linux), and [LockAll] looks once a second whether it has come to wait
//     for another file. The exceptions are [Link], which looks every 100 ms; OFD over
//     NFS 4.0, and in later versions who joins the queue, does without it, or waits for
//     one who does, every 50 ms, where the kernel may take 30 s to ask again (as it does
//     for [Flock] and [POSIX] there); Flock, every 50 ms, for who has taken over a wait
//     that was given up, while another is at the turnstile; and, every 20 ms, [Unix] and
//     [TCP] while thousands wait, or a stranger has the address and does not listen, and
//     [POSIX] when the kernel has seen a deadlock. However many goroutines wait on a
//     [File], and however many of them give up, at most two operating-system threads are
//     blocked, one for each kind of lock; a second one only after a wait was given up.
//   - Waiters are told who is in their way: a wait that ends without the lock
//     returns a [HeldError] that names the holder, if he is known.
//   - The lock file is never truncated, and never removed but by [Remove], under the
//     lock, and by the Open that creates it and cannot give it the group or mode
//     asked for. After locking, the device
//     and inode of what was locked are compared with those the path names, so that
//     processes agree on one file even when someone has replaced it.
//   - A file that is not a lock file is refused, and not a byte of it is changed. Nor is
//     what somebody writes into a lock file in use, which [Lock.Check] then tells; but
//     when a lock is taken, and while it has been held for less than a millisecond, only
//     the size of the file shows that he has.
//
// # Order
//
// With [OFD], the default on Linux, waiters queue: the lock goes to them in the order
// in which their Files joined the queue, across processes. A File is in the queue once,
// on behalf of its first waiter, and serves its own waiters in the order in which they
// came; so a process with a hundred waiting goroutines gets no more turns than one
// with a single one. A waiter who gives up is out of the way at once. His place goes to
// the next waiter of his File for a lock of the same kind, ahead of those who came
// between even if the File had no waiters for a while, unless its turn came
// meanwhile; a next waiter for the other kind joins at the end.
//
// Shared locks queue with the exclusive ones, and are granted together when no
// exclusive one is between them: a stream of readers does not starve a writer, nor
// the reverse. The queue is a matter of politeness only. Exclusion does not depend
// on it, and a damaged queue puts itself right.
//
// With [Flock], the default on macOS, there is a turnstile instead of the queue, a
// second file: whoever wants the lock, to share it or not, waits for his turn there,
// and one at a time waits for the lock itself. So no stream of readers starves a
// writer, nor the reverse; but among those who wait for their turn the order is the
// kernel's, which promises none. Where the turnstile can be neither opened nor
// created, as without write permission on the directory, or is a stranger's, all order
// is the kernel's. It is created by root and the owner of the lock file.
//
// With Options.NoQueue all order is the kernel's, and a stream of readers in other
// processes can keep a writer waiting.
//
// # Who holds it
//
// Whoever takes the lock exclusively writes into the file who he is and what for, at once
// or after Options.RecordAfter: a [Holder]. That is what a [HeldError] and [File.Holder]
// name, and what Options.OnWait is told while one waits. The record has what it takes to tell a process from a
// later one of the same number, another container or another machine, and
// [Holder.Liveness] says Dead only by proof.
//
// [Inspect] tells more, to whoever may read the file: who shares the lock, who holds it
// without being recorded, and who has inherited it from a process that has died; for
// these it asks the kernel which processes have the file locked (Linux). It takes no
// lock, not even for an instant.
//
// # What is not guaranteed
//
//   - The lock is advisory: it excludes those who ask for it.
//   - A process that is suspended (SIGSTOP) while it holds the lock, or when its
//     turn comes, holds everyone up until it continues or ends; suspended while it
//     joins the queue, it holds up those who come after it.
//   - If the file is deleted or replaced while the lock is held, those who come
//     later lock the new file, and there are two holders. [Lock.Check] tells, and
//     [Lock.Context] ends. Who is already waiting goes on waiting until the old file
//     is released, and so does who comes later to a File that is still blocked on it.
//   - On a network file system the lock is as good as the server and the mount
//     options make it: with NFS "nolock" or "local_lock=all" OFD and Flock, if the
//     file records or the program names them, are silently confined to one
//     machine, and a lease can be lost while the holder sleeps.
//     What is said about dying processes then holds for dying machines only
//     after the server has noticed.
//   - A child process does not inherit a lock across exec unless it is asked to,
//     with [Lock.Inherit]. A fork without exec (not possible from Go alone) shares it,
//     and the lock is then held until both have ended or one has released it. If the
//     child outlives its parent, the dead parent is named as the holder.
//   - Locks are not reentrant, and there is no upgrade from shared to exclusive. A
//     goroutine that locks twice waits for itself, unless its context says what it
//     has (see below).
//
// # Work under a lock
//
// [File.Do] runs a function under the lock, and releases it however the function
// ends. The function's context is that of the lock: it ends when the lock does, and
// says why. It also says what is held: whoever asks with it, or with one derived from
// it, for a lock on the same file, by whatever path, gets [ErrNested] at once instead
// of waiting for himself. [Lock.Context] is that context for who locks without Do.
//
//	err := f.Do(ctx, "deploy", func(ctx context.Context) error {
//		return exec.CommandContext(ctx, "rsync", ...).Run() // killed if the lock is lost
//	})
//
// Work that needs several locks takes them with [LockAll], in an order that is the
// same for all. Who takes them one by one must see to the order himself, or two may
// wait for each other for ever: the package does not see that.
//
// # Platforms
//
//	mechanism  what it is                   systems              order      Holder after a death
//	OFD        open-file-description locks  Linux 3.15 or later  FIFO       nobody
//	Flock      flock(2)                     Linux                turnstile  nobody, or may name the dead process
//	                                        macOS                turnstile  may name the dead process
//	POSIX      fcntl(2), of the process     Linux, macOS         FIFO in a  nobody
//	                                                             process
//	Link       claim files and hard links   all                  none       see below
//	Unix       a socket, not to be shared   Linux, macOS         none       nobody
//	TCP        a port, not to be shared     Linux, macOS         none       nobody
//
// Unix and TCP exclude the processes of one machine (one network namespace) only, and
// whoever can bind the socket or port can keep everybody out. POSIX locks go when the
// process closes any descriptor of the file, by whatever code; the constants of
// [Mechanism] have the limits of each. With Link, Unix and TCP there are no shared
// locks. Who may only read a file can share its lock, with Options.ReadOnly and OFD or
// Flock.
//
// Elsewhere the package does not compile. On Linux it can be told for Flock that the
// holder is dead on ext4, XFS, F2FS and tmpfs, outside of containers.
//
// The mechanisms do not exclude one another, so the file says which one it is used
// with. A File that was asked for no mechanism in particular uses that one; one that
// was asked for another, or a system that has no such locks, gets [ErrIncompatible].
//
// A new file for which none was asked for is used with OFD on a local file system of
// Linux, and with Flock on one of macOS. On all others (NFS, SMB, FUSE, 9p, and what is
// not known to be local) [Open] tries OFD, Flock and Link in this order, on a
// temporary file in the directory, and takes the first with which two file
// descriptions exclude each other. The file comes into being with its header, by a hard
// link, so that all machines agree on it; for a moment, and if the process dies then, there
// is another file beside it, named like it with ".new." and an id at the end. It waits
// 5 seconds for each, and does not take what
// a mount option confines to this machine (of NFS nolock and local_lock, of SMB
// nobrl). If none works, the error says what became of each. Whether other machines are
// excluded cannot be seen from one: a FUSE file system may keep locks to itself, and
// nothing tells. A [Prober] tries all mechanisms thoroughly, with several processes.
//
// With OFD, a program that locks the whole file with fcntl(2) locks, such as
// flock(1) with --fcntl, excludes the users of this package and is excluded by
// them. It is not in the queue, and gets the lock when nobody is waiting. While it
// has the lock, no holder is named.
//
// # Link locks
//
// [Link] is for file systems without a lock service, or with one that cannot be
// relied upon: it needs hard links and nothing else. It differs from the others:
//
//   - The lock is not the file but a directory beside it, named like it with ".claims"
//     at the end, which all who lock can write. It is not lost when the file is
//     removed, replaced or truncated, and is when the directory is. The owner of the
//     file, or root, makes it, if not everybody may write the file, and it is not used
//     if others than those who may use the file could have made it or can write it. The
//     file has one name: it is refused while it has others, by hard links.
//   - There are no shared locks, and there is no order. Waiters look again, every
//     100 ms at the longest. Taking the lock flushes a file.
//   - Death does not release it. Who comes upon the claim of a dead process breaks it,
//     on proof: that on the same machine, in the same pid namespace, there is no
//     such process any more, or, on a local file system and without a lease, that the
//     machine has been started anew since. Elsewhere that is no proof: machines that
//     were copied from one image may share the machine id and the host name. Of a
//     process on another machine nothing can be proved. Its lock stays, until
//     somebody who knows that it is gone releases it by hand: [BreakStale] says how.
//     What is assumed is that no two running machines have the same boot id, as
//     two that go on from one snapshot of memory do.
//   - With Options.Lease a lock is also broken when its holder has not renewed it for
//     that long. A holder that was suspended has then lost it, and is told by
//     [Lock.Check] and [Lock.Unlock], as soon as it runs. What it does before it asks
//     nobody prevents. No clocks of different machines are compared.
//   - The claim names the holder with Options.NoRecord too.
//   - A fork of the process does not share the lock, and a child does not inherit it.
//
// # Compatibility
//
// The layout of the file carries a version. A later version of this package that
// needs another layout will not lock a file of this version by a means that this
// version does not respect, and this version refuses a later layout.
package lockfile

import (
	"container/list"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	_ "github.com/recordstore/recordstore/internal/platform" // refuses systems without these locks
)

var (
	// ErrLocked is reported, within a [HeldError], when the lock could not be had
	// because someone else has it or is before us.
	ErrLocked = errors.New("locked by another user")

	// ErrReleased is reported by the methods of a [Lock] after Unlock, and is then
	// the cause of the end of its context.
	ErrReleased = errors.New("lock already released")

	// ErrReplaced is reported by [Lock.Check], and as the cause of the end of a
	// [Lock.Context], when the path no longer names the file that is locked; and by
	// the methods that take a lock when it never names the file that was just
	// opened, as if somebody replaced it all the time.
	ErrReplaced = errors.New("lock file was deleted or replaced")

	// ErrLost is reported by [Lock.Check] and [Lock.Unlock], and as the cause of the
	// end of a [Lock.Context], when somebody else may have, or have had, the lock
	// since it was taken. The locks that the kernel keeps, those of OFD and Flock
	// among them, are not lost.
	ErrLost = errors.New("lock was lost")

	// ErrNested is reported to who asks for a lock with a context that says that he
	// has it already.
	ErrNested = errors.New("nested lock")

	// ErrNotLockFile is reported when a file has contents that this package did not
	// write.
	ErrNotLockFile = errors.New("not a lock file")

	// ErrIncompatible is reported when a lock file is in use with a later version
	// of this package, or with another mechanism than was asked for or than this
	// system supports.
	ErrIncompatible = errors.New("incompatible lock file")

	// ErrCorrupt is reported by ReadData when the application's bytes do not match
	// their checksum.
	ErrCorrupt = errors.New("corrupt data in lock file")
)

// errBusy is what the mechanisms return when a lock is not to be had at once.
var errBusy = errors.New("busy")

// MaxData is the number of bytes that [Lock.WriteData] can store.
const MaxData = 256

// A HeldError is reported when a lock was not available: at once to those who
// try, and when their context ends, or has ended, to those who wait.
type HeldError struct {
	Path   string
	Holder Holder // who held it when the error was made, if Known
	Known  bool   // false if it was held shared or by a stranger, or was changing hands
	Err    error  // the context's error; nil if it was only a try
}

// Error names the lock file and, if it is known, the holder. If it is not, the
// lock may by now be free.
func (e *HeldError) Error() string {
	s := "lock " + e.Path
	if e.Known {
		s += " is held by " + e.Holder.String()
	} else {
		s += " was not available"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns [ErrLocked] and e.Err.
func (e *HeldError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrLocked}
	}
	return []error{ErrLocked, e.Err}
}

// Options says how [Open] opens a lock file. The zero value, and nil, mean the
// defaults.
type Options struct {
	// Mechanism is what the lock is made of. The default, Auto, leaves that to the
	// file, and for a new one to the file system.
	Mechanism Mechanism

	// Mode is the permission bits of the file if Open creates it, whatever the
	// umask. Who is to take the lock needs read and write permission; who is only
	// to see who holds it, or to share it (see ReadOnly), needs read permission. The
	// default, 0, is 0o666 less the umask.
	//
	// Whoever may read the file can therefore keep others from the exclusive lock,
	// for ever if he likes. The mode says whom to trust not to.
	Mode fs.FileMode

	// Group is the group id of the file if Open creates it. If it cannot be given
	// to that group, Open fails, and the file is removed unless somebody else has
	// opened it meanwhile. The default, nil, leaves the group to the system.
	Group *int

	// Lease makes a lock of [Link] one that others may break when the holder has not
	// renewed it for that long, though nothing proves that he is dead. The package
	// renews it in the background every third of that time. A holder who could not do
	// so for two thirds, because the process was suspended or the file system out of
	// reach, has lost the lock, and [Lock.Check] and [Lock.Unlock] say so with
	// [ErrLost]. The least is 100 ms; over a network it should be many seconds, and
	// more than the granularity of the server's timestamps. Each lock has the
	// lease of the File that took it. The default, 0, is a lock that is broken on proof
	// of the holder's death only. With other mechanisms it is of no consequence.
	Lease time.Duration

	// Port is the port of 127.0.0.1 that the lock is, with the mechanism TCP, which
	// needs one. The file records it; with Auto and no port, that is used, and
	// with another port Open fails with ErrIncompatible. Other mechanisms have no
	// port, and do not look at this.
	Port int

	// NoCreate makes a missing file an error that wraps fs.ErrNotExist.
	NoCreate bool

	// ReadOnly opens the file for reading only, for those who have no permission to
	// write it. They get shared locks only, by [OFD] and [Flock] only, and wait for
	// them where others do. The file is not created, and not adopted if it is empty:
	// somebody who may write it has to open it first.
	ReadOnly bool

	// NoQueue makes waiters wait where they do not queue, and tries succeed though
	// others wait, unless it is with the same File. Taking the lock costs less, and the order is the kernel's, which
	// promises none: someone may wait long. All the Files of a lock file should
	// agree on this. If some do not, they exclude each other all the same, but those
	// that queue have no precedence over those that do not.
	NoQueue bool

	// NoRecord leaves out the record of the holder, which makes taking and releasing
	// the lock cost two system calls less. Nobody can then see who holds the lock.
	// A record that somebody left who died is cleared when the File first takes the
	// lock; left later, it is shown until somebody writes another.
	NoRecord bool

	// RecordAfter is how long the lock has to be held for its holder to be recorded, and
	// the record flushed, so that other machines see it too. 0 is for at once, and without
	// a flush. On a network file system, where a record written at once costs each holder
	// calls of the server and is yet not sent to it for as long as the client likes (half
	// a minute with Linux's NFS), 100 ms serves all better. Who asks before that is told
	// that somebody has the lock, and not who. A record that was left by somebody who died,
	// or whose lock was lost, is cleared when the File first takes the lock, and whenever
	// it has had to wait for it; left at another time, it is shown until there is another.
	RecordAfter time.Duration

	// OnWait, if it is not nil, is called when somebody begins to wait, and again
	// whenever what it is told has changed, which is looked at about every 100 ms.
	// It is not called for a lock that is had within 5 ms.
	//
	// Each wait has its own calls, one at a time, and none is running when Lock or
	// RLock returns: they wait for the one that is. So a call that does not return
	// keeps the lock, if it is had meanwhile, from everybody; it delays nothing else.
	OnWait func(Wait)
}

// A File is an open lock file, from which locks are obtained.
//
// A File may be used by many goroutines at once. They exclude each other as
// processes do, whether they share a File or open the path twice. Handing a lock
// over through one File orders memory as a mutex does; two Files in a process
// exclude each other, but the race detector cannot see that they do.
//
// A File keeps two to four file descriptors, none of which a child process
// inherits, and one more for each group of shared locks that it holds at a time;
// twice as many with [Flock] and a queue. A process that ends without closing it
// leaves nothing behind but the file, and the turnstile of [Flock].
type File struct {
	name string // as given to Open
	path string // absolute, so that os.Chdir does not change what is compared
	opts Options

	looking sync.Mutex  // at most one waiter at a time finds out who holds the lock
	nextMu  sync.Mutex  // protects next
	next    *sharedLook // has not begun

	mu                   sync.Mutex // protects what follows, and is never held in a call that waits for a lock
	closed               bool
	waiters              list.List // of *waiter, in order of arrival
	exclusively, sharing acquirer  // the one that the first waiter needs is running
	joinable             *handle   // locked shared; further shared locks may join
	spare                []*handle // open and not locked
}

// An acquirer is the goroutine that waits for locks of one kind.
type acquirer struct {
	running bool
	parked  *handle // what it is blocked on, if it is
}

// Open opens the lock file at path, and creates it if it is missing. An existing
// empty file is adopted, unless kernel locks do not work there, without which it could not
// be agreed on what it is to be used with, or it is locked: it was truncated in use. (Of
// sockets and ports it does not ask. Their holder finds with [Lock.Check] that the file is
// used with something else.)
// Nothing is locked yet, and Open does not wait for those who have the lock.
//
// Open refuses with an error symbolic links and everything else that is not a
// regular file, files that this package did not write ([ErrNotLockFile]), and lock
// files in use with a mechanism that was not asked for, or a mechanism or format that
// this system does not use ([ErrIncompatible]). A mechanism that this system does not
// support is an error that wraps errors.ErrUnsupported, and so is a file system, of those
// that are not local, on which no mechanism works for a new file, which is then not
// created. The directory must exist. In a directory on which it has
// no write permission Open opens a file that is there. Other errors are those of
// the operating system, as *fs.PathError.
func Open(path string, opts *Options) (*File, error) {
	if opts == nil {
		opts = &Options{}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := &File{name: path, path: abs, opts: *opts}
	if opts.Group != nil {
		group := *opts.Group // the caller's may change
		f.opts.Group = &group
	}
	if err := opts.Mechanism.check(); err != nil {
		return nil, f.error("open", err)
	}
	if err := opts.checkPort(); err != nil {
		return nil, f.error("open", err)
	}
	h, err := f.open()
	if err != nil {
		return nil, err
	}
	f.spare = append(f.spare, h)
	return f, nil
}

// Name returns the path as it was given to [Open].
func (f *File) Name() string { return f.name }

// Lock takes the lock exclusively. It waits until the lock is free or ctx is done.
//
// While the lock is held, others can see the process and what it says it holds
// the lock for: purpose, of which the first 256 bytes are kept.
//
// When ctx ends the wait, Lock returns a *[HeldError] that wraps the context's
// error and [ErrLocked] and names the holder. If ctx has ended before, the lock is
// not tried, and the error is the same if there is a known holder, and otherwise
// wraps the context's error alone. When the File is closed, before or meanwhile,
// the error wraps fs.ErrClosed. If the lock file is found to be deleted or
// replaced, Lock opens the path anew, as [Open] did, and waits for that; a missing
// directory is an error. The operating system's errors are *fs.PathError.
//
// If ctx comes from the [Lock.Context] of a lock that is still held on the file that
// the path names, Lock would wait for its own caller. It returns an error that wraps
// [ErrNested] at once. This is so for every combination of exclusive and shared locks,
// since two shared ones wait for each other too if somebody who wants the lock
// exclusively comes between them; and for whatever paths name the file.
func (f *File) Lock(ctx context.Context, purpose string) (*Lock, error) {
	return f.lock(ctx, false, purpose)
}

// RLock takes the lock shared, together with others who do. In all else it is like
// [File.Lock], except that holders of a shared lock are not recorded, and purpose
// is of no consequence yet.
func (f *File) RLock(ctx context.Context, purpose string) (*Lock, error) {
	return f.lock(ctx, true, purpose)
}

// TryLock takes the lock exclusively if it is free and nobody is waiting for it,
// and otherwise returns a *[HeldError].
//
// TryLock does not wait for anyone's work. When it finds the lock changing hands
// it does wait, for a few milliseconds at most, to see who has it.
func (f *File) TryLock(purpose string) (*Lock, error) {
	return f.try(false, purpose)
}

// TryRLock takes the lock shared if it is not held exclusively and nobody is
// waiting for it, and is otherwise like [File.TryLock]. It takes the few milliseconds
// too when the lock is shared and yet not to be had: somebody waits, or is just passing.
func (f *File) TryRLock(purpose string) (*Lock, error) {
	return f.try(true, purpose)
}

// Holder reports who holds the lock exclusively. The result is false if nobody
// does, or if the holder is not recorded, or not yet. It neither takes nor delays
// the lock, and is out of date as soon as it returns.
//
// A lock of flock(2) can be seen on Linux only, and there not everywhere. Where it
// cannot, Holder reports what the file says, and may name a process that has died.
// With Options.NoRecord, and before Options.RecordAfter, nobody is named.
func (f *File) Holder() (Holder, bool, error) {
	if err := f.checkOpen("inspect"); err != nil {
		return Holder{}, false, err
	}
	s, err := look(f.path)
	return s.holder, s.known, err
}

// ReadData returns the bytes that [Lock.WriteData] stored last, and nil if there
// are none. It needs no lock. The bytes returned were stored together.
//
// If they do not match their checksum, as may happen when the machine lost power,
// the error wraps [ErrCorrupt].
func (f *File) ReadData() ([]byte, error) {
	if err := f.checkOpen("read"); err != nil {
		return nil, err
	}
	return ReadData(f.path)
}

// ReadData is like [File.ReadData] for a process that may have no permission to
// write, and so cannot open the lock file. A missing file is an error that wraps
// fs.ErrNotExist.
func ReadData(path string) ([]byte, error) {
	return readData(path)
}

// Close closes the File. Waiters return at once with an error that wraps
// fs.ErrClosed, as does every method called later, a second Close among them.
// Locks that were obtained from the File stay held, and usable, until they are
// unlocked.
//
// A File whose waits were abandoned keeps, for each kind of lock, one thread and
// one descriptor until the lock is next released, Close or not: open a File once,
// and keep it.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return f.error("close", fs.ErrClosed)
	}
	f.closed = true
	f.dismissLocked(f.error("lock", fs.ErrClosed))
	var err error
	for _, h := range f.spare {
		if e := h.close(); err == nil && e != nil {
			err = f.error("close", e)
		}
	}
	f.spare = nil
	return err
}

func (f *File) checkOpen(op string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return f.error(op, fs.ErrClosed)
	}
	return nil
}

func (f *File) error(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}
