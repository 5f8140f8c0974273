package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"time"

	gofrs "github.com/gofrs/flock"
	"github.com/recordstore/recordstore/lockfile"
	"github.com/rogpeppe/go-internal/lockedfile"
)

// A lockPeer is one way for processes to take turns.
type lockPeer struct {
	name string
	// settings says how it is used, in a line below the table.
	settings string
	version  func() string
	// missing says why it cannot be measured here, or nothing. nil: it always can.
	missing func() string
	// open prepares to lock path, and creates what must be there before.
	open func(path string) (locker, error)
}

// A locker is used by one goroutine. Lock waits as long as it takes.
type locker interface {
	Lock() error
	Unlock() error
	Close() error
}

// The names that bounds refer to. ourLock is that with all that it does.
const (
	ourLock     = "lockfile"
	ourBareLock = "lockfile, bare"
)

// lockPeers are in the order of the tables. The first is what the others are
// compared with.
var lockPeers = []lockPeer{
	ownLock(ourLock, "as it opens, with queue and holder record", nil),
	ownLock(ourBareLock, "NoQueue and NoRecord", &lockfile.Options{NoQueue: true, NoRecord: true}),
	{
		name:     "gofrs/flock",
		settings: "Lock: flock(2), blocking; opens the file each time",
		version:  func() string { return moduleVersion("github.com/gofrs/flock") },
		open:     func(path string) (locker, error) { return gofrs.New(path), nil },
	},
	{
		name:     "gofrs/flock polling",
		settings: fmt.Sprintf("TryLockContext, which tries every %v; opens the file each time it tries", pollDelay),
		version:  func() string { return moduleVersion("github.com/gofrs/flock") },
		open:     func(path string) (locker, error) { return pollingLock{gofrs.New(path)}, nil },
	},
	{
		name:     "cmd/go lockedfile",
		settings: "Mutex: flock(2), blocking; opens the file each time",
		version:  func() string { return "rogpeppe/go-internal " + moduleVersion("github.com/rogpeppe/go-internal") },
		open:     func(path string) (locker, error) { return &mutexLock{mutex: lockedfile.MutexAt(path)}, nil },
	},
	{
		name:     "dotlock",
		settings: fmt.Sprintf("a file made with O_EXCL, and removed; tries after %v and then after twice as long each time, up to %v, give or take a quarter", dotlockFirst, dotlockLast),
		version:  func() string { return "a few lines of this program" },
		open:     func(path string) (locker, error) { return dotLock(path), nil },
	},
	{
		name: flockCommand + "(1)",
		settings: "as in its manual, ( flock 9; ... ) 9>file, but for the shell: " +
			"opens the file, starts the command with it to lock it, blocking, and closes it to unlock",
		version: flockVersion,
		missing: func() string {
			if _, err := exec.LookPath(flockCommand); err != nil {
				return "it is not installed"
			}
			return ""
		},
		open: func(path string) (locker, error) { return &commandLock{path: path}, nil },
	},
}

func lockPeerNamed(name string) (*lockPeer, error) {
	for i := range lockPeers {
		if lockPeers[i].name == name {
			return &lockPeers[i], nil
		}
	}
	return nil, fmt.Errorf("no lock is called %q", name)
}

// ownLock is this project's lock.
func ownLock(name, settings string, opts *lockfile.Options) lockPeer {
	return lockPeer{
		name:     name,
		settings: settings,
		version:  func() string { return "this source" },
		open: func(path string) (locker, error) {
			f, err := lockfile.Open(path, opts)
			return &fileLock{f: f}, err
		},
	}
}

type fileLock struct {
	f *lockfile.File
	l *lockfile.Lock
}

func (k *fileLock) Lock() (err error) {
	k.l, err = k.f.Lock(context.Background(), "bench")
	return err
}

func (k *fileLock) Unlock() error { return k.l.Unlock() }
func (k *fileLock) Close() error  { return k.f.Close() }

// pollDelay is how often gofrs/flock is asked to try. The examples of its
// documentation have more, which is less fair and slower.
const pollDelay = 10 * time.Millisecond

type pollingLock struct{ *gofrs.Flock }

func (k pollingLock) Lock() error {
	locked, err := k.TryLockContext(context.Background(), pollDelay)
	if err == nil && !locked {
		err = errors.New("gave up, and gave no reason")
	}
	return err
}

type mutexLock struct {
	mutex  *lockedfile.Mutex
	unlock func()
}

func (k *mutexLock) Lock() (err error) {
	k.unlock, err = k.mutex.Lock()
	return err
}

func (k *mutexLock) Unlock() error {
	k.unlock()
	return nil
}

func (k *mutexLock) Close() error { return nil }

// The delays of dotLock.
const (
	dotlockFirst = time.Millisecond
	dotlockLast  = 100 * time.Millisecond
)

// A dotLock is held by who made the file. Nobody takes it from the dead.
type dotLock string

func (k dotLock) Lock() error {
	for delay := dotlockFirst; ; delay = min(2*delay, dotlockLast) {
		f, err := os.OpenFile(string(k), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
		if err == nil {
			_, err = fmt.Fprintln(f, os.Getpid()) // all do, for people
			return errors.Join(err, f.Close())
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		time.Sleep(delay*3/4 + rand.N(delay/2))
	}
}

func (k dotLock) Unlock() error { return os.Remove(string(k)) }
func (k dotLock) Close() error  { return nil }

// flockCommand is util-linux's.
const flockCommand = "flock"

func flockVersion() string {
	out, err := exec.Command(flockCommand, "--version").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), flockCommand+" from ")
}

// A commandLock does what a shell does. The lock belongs to the open file, which
// the command has inherited, and so outlives the command.
type commandLock struct {
	path string
	f    *os.File
}

func (k *commandLock) Lock() (err error) {
	if k.f, err = os.OpenFile(k.path, os.O_CREATE|os.O_WRONLY, 0o666); err != nil {
		return err
	}
	cmd := exec.Command(flockCommand, "3") // the first of ExtraFiles
	cmd.ExtraFiles = []*os.File{k.f}
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

func (k *commandLock) Unlock() error { return k.f.Close() }
func (k *commandLock) Close() error  { return nil }
