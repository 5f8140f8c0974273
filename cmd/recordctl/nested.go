package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/recordstore/recordstore/lockfile"
)

// A command under update that changed the same store would wait for a lock
// that its own parent holds until the command has ended, and so would one under
// lock that took the same lock: for ever. They are told instead, through the
// environment.
const (
	updatingEnv = "RECORDCTL_UPDATING" // marks of the stores that our ancestors update
	lockedEnv   = "RECORDCTL_LOCKED"   // marks of the lock files whose locks they hold
)

// The lock files of a store itself. Who has its LOCK must not wait for MERGE:
// others take them the other way round.
const (
	storeLock = "LOCK"
	mergeLock = "MERGE"
)

// A mark is "pid.start@namespace:device:inode:name", of the holder, and of a lock file's
// directory and name, without spaces. A mark that outlived the holder, in a
// daemon that the command started, says nothing any more: the pid may be another
// process's, but not with this start.
func mark(pid int, place string) string {
	return fmt.Sprintf("%d.%d@%d:%s", pid, processStart(pid), pidNamespace(), place)
}

// pidNamespace returns what tells our pid namespace from others, as [lockfile.Holder] has
// it on Linux, or 0 if that is not to be had.
func pidNamespace() uint64 {
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/pid", &st); err != nil {
		return 0
	}
	return st.Ino
}

// placeOf returns the part of a mark that says which lock it is. Hard links to
// a lock file are files of their own here.
func placeOf(dir, name string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	return fmt.Sprintf("%d:%d:%s", st.Dev, st.Ino, url.PathEscape(name)), nil
}

// addMark returns the setting for a command's environment that says that we
// hold the lock.
func addMark(env, dir, name string) (string, error) {
	place, err := placeOf(dir, name)
	if err != nil {
		return "", err
	}
	return env + "=" + strings.TrimSpace(os.Getenv(env)+" "+mark(os.Getpid(), place)), nil
}

// heldByAncestor reports whether the environment says that a process which
// waits for us holds the lock. One that is gone counts if we have inherited the
// lock from it: then it is ourselves whom we would wait for.
func heldByAncestor(env, dir, name string) bool {
	list := os.Getenv(env)
	if list == "" {
		return false
	}
	place, err := placeOf(dir, name)
	if err != nil {
		return false // no store yet, so nobody holds its lock
	}
	path := filepath.Join(dir, name)
	return slices.ContainsFunc(strings.Fields(list), func(m string) bool {
		before, ours := strings.CutSuffix(m, ":"+place)
		process, namespace, _ := strings.Cut(before, "@")
		number, start, _ := strings.Cut(process, ".")
		pid, err := strconv.Atoi(number)
		if !ours || err != nil || pid <= 0 {
			return false
		}
		st, err := lockfile.Inspect(path)
		switch {
		case err == nil && st.State == lockfile.Free:
			return false // the mark was left behind, and its number may be another's by now
		case namespace != strconv.FormatUint(pidNamespace(), 10):
			// The number says nothing here: is it he who has the lock?
			return err == nil && st.Known && st.Holder.PID == pid && strconv.FormatUint(st.Holder.PIDNamespace, 10) == namespace
		}
		return alive(pid, start) || inherited(path)
	})
}

// alive reports whether there is such a process, ours or another user's. Where it cannot
// be told when it started the number decides: not to wait for oneself for ever matters more.
func alive(pid int, start string) bool {
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	now := strconv.FormatUint(processStart(pid), 10)
	return now == start || now == unknownStart || start == unknownStart
}

// unknownStart is how a mark has what processStart does not know.
const unknownStart = "0"

// The descriptors that are no standard streams, and more than a command is ever given: the
// lock is the first that is free.
const (
	firstFD = 3
	manyFDs = 256
)

// given reports whether we were started with the descriptor. Those that we have opened
// are closed by exec.
func given(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// inherited reports whether lock --inherit has given us the lock file. Descriptors below
// it may have been closed since.
func inherited(path string) bool {
	var ours, file syscall.Stat_t
	if syscall.Stat(path, &file) != nil {
		return false
	}
	for fd := firstFD; fd < manyFDs; fd++ {
		if given(fd) && syscall.Fstat(fd, &ours) == nil && ours.Dev == file.Dev && ours.Ino == file.Ino {
			return true
		}
	}
	return false
}

// keepInherited is called before cmd is given our lock, which it then has by its first
// descriptor that is free: those that we were started with, such as another lock or the
// pipe of make's jobserver, stay what they are. Afterwards, and whatever the error, the
// files are to be closed.
func keepInherited(cmd *exec.Cmd) (files []*os.File, err error) {
	for fd := firstFD; given(fd); fd++ {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return files, os.NewSyscallError("fcntl", err)
		}
		files = append(files, os.NewFile(uintptr(dup), "inherited"))
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, files...)
	return files, nil
}

// checkNotNested refuses to wait for a lock of the store in dir that who runs
// us holds until we have ended.
func checkNotNested(dir, name string) error {
	switch {
	case name == storeLock && heldByAncestor(updatingEnv, dir, name):
		return fail(exitNested,
			"a command under update may read the store; what it prints becomes the value",
			"the update that runs this command holds the lock of %q until the command ends", dir)
	case heldByAncestor(lockedEnv, dir, name):
		return fail(exitNested, "", "the recordctl lock that runs this command holds %q until the command ends", filepath.Join(dir, name))
	}
	return nil
}
