package main

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A command under update that changed the same store would wait for a lock
// that its own parent holds until the command has ended, and so would one under
// lock that took the same lock: for ever. They are told instead, through the
// environment.
const (
	updatingEnv = "RECORDCTL_UPDATING" // marks of the stores whose LOCK our ancestors hold
	lockedEnv   = "RECORDCTL_LOCKED"   // marks of the lock files whose locks they hold
)

// A mark is "device:inode:pid" of a store's directory, or of a lock file's with
// ":name" of the file, which has no space in it. The process is the holder: a mark that outlived it, in a daemon
// that the command started, says nothing any more.
func mark(dir os.FileInfo, name string) (string, bool) {
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok {
		return "", false
	}
	m := fmt.Sprintf("%d:%d:%d", st.Dev, st.Ino, os.Getpid())
	if name != "" {
		m += ":" + name
	}
	return m, true
}

// addMark returns the setting for a command's environment that says that we
// hold the lock of the file of that name, or the store's own if there is none.
func addMark(env, dir, name string) (string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	m, _ := mark(info, name)
	return env + "=" + strings.TrimSpace(os.Getenv(env)+" "+m), nil
}

// heldByAncestor reports whether the environment says that a process which
// waits for us holds the lock.
func heldByAncestor(env, dir, name string) bool {
	list := os.Getenv(env)
	if list == "" {
		return false
	}
	info, err := os.Stat(dir)
	if err != nil {
		return false // no store yet, so nobody holds its lock
	}
	ours, ok := mark(info, name)
	if !ok {
		return false
	}
	return slices.ContainsFunc(strings.Fields(list), func(m string) bool {
		pid, ok := samePlace(m, ours)
		return ok && alive(pid)
	})
}

// samePlace compares two marks but for the process, and returns that of the
// first.
func samePlace(a, b string) (pid int, same bool) {
	x, y := strings.SplitN(a, ":", 4), strings.SplitN(b, ":", 4)
	if len(x) < 3 || len(x) != len(y) || x[0] != y[0] || x[1] != y[1] || !slices.Equal(x[3:], y[3:]) {
		return 0, false
	}
	pid, err := strconv.Atoi(x[2])
	return pid, err == nil && pid > 0
}

// alive reports whether there is such a process, ours or another user's.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || err == fs.ErrPermission || err == syscall.EPERM
}

// checkNotUpdating refuses to change the store whose update runs us.
func checkNotUpdating(dir string) error {
	if !heldByAncestor(updatingEnv, dir, "") {
		return nil
	}
	return fail(exitNested,
		"a command under update may read the store; what it prints becomes the value",
		"the update that runs this command holds the lock of %q until the command ends", dir)
}
