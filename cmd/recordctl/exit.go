package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/lockfile"
	"github.com/recordstore/recordstore/store"
)

// The exit statuses. From 64 on they are those of BSD's sysexits.h; 126 and
// up are those a shell gives.
const (
	exitOK         = 0
	exitNo         = 1
	exitUsage      = 2
	exitData       = 65
	exitNoInput    = 66
	exitUnknown    = 69
	exitSoftware   = 70
	exitCantCreate = 73
	exitIO         = 74
	exitLocked     = 75
	exitVersion    = 76
	exitNoPerm     = 77
	exitNested     = 78
	exitCannotRun  = 126
	exitNoCommand  = 127
	exitSignal     = 128 // plus the signal's number
)

// exitCodes is the one list of what the statuses mean: the help topic prints
// it, and a test holds other documents to it.
var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "done"},
	{exitNo, "the answer is no: there is no such record, or a condition was not met"},
	{exitUsage, "the command line is wrong; nothing was done"},
	{exitData, "bad data: damage in the store, a value that is no number, JSON that is none"},
	{exitNoInput, "no store in that directory, or no such input file or lock file"},
	{exitUnknown, "the fate of the change is not known: look before you repeat it"},
	{exitSoftware, "an error inside recordctl"},
	{exitCantCreate, "the store, or the lock file, cannot be created there"},
	{exitIO, "an input or output error; nothing was changed, unless the message says so"},
	{exitLocked, "the lock was not had in time, and the message names who holds it; lock status: it is held"},
	{exitVersion, "the store was written by a newer version"},
	{exitNoPerm, "permission denied"},
	{exitNested, "would wait for itself: a command under update changes the same store, or one under lock takes the same lock"},
	{exitCannotRun, "update, lock: the command cannot be executed"},
	{exitNoCommand, "update, lock: the command was not found"},
	{exitSignal, "plus N: ended by signal N (update, lock: or the command was)"},
}

// exitCodesHelp is the text of recordctl help exit-codes.
func exitCodesHelp() string {
	var b strings.Builder
	b.WriteString("Exit statuses of recordctl:\n\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "  %3d  %s\n", c.code, c.meaning)
	}
	b.WriteString(`
update and lock pass on the exit status of the command they run, whatever it
is. What is interrupted by SIGINT ends of it, for which a shell has the status
130, and ends its loop. A message "recordctl: ..." on standard error tells that a status is
recordctl's; where a script must tell by the status alone, give lock one that
the command never uses: lock --conflict-exit N.

Only 75 says that to repeat the same command later is all there is to do.
After 69 look first: the change may have been made.
`)
	return b.String()
}

// A failure is an error with the status to exit with. With an empty message
// nothing is printed.
type failure struct {
	code int
	msg  string
	hint string // what to type, or ""
	err  error  // the cause, or nil
}

func (f *failure) Error() string { return f.msg }
func (f *failure) Unwrap() error { return f.err }

// fail makes a failure. The format may wrap an error with %w.
func fail(code int, hint, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &failure{code: code, msg: err.Error(), hint: hint, err: errors.Unwrap(err)}
}

// usagef makes the failure of a wrong command line.
func usagef(hint, format string, args ...any) error {
	return fail(exitUsage, hint, format, args...)
}

// usageError makes an error of cobra's, which comes before any work, that of
// a wrong command line.
func usageError(err error) error {
	var f *failure
	if errors.As(err, &f) {
		return err
	}
	return usagef("recordctl help shows the verbs, recordctl VERB --help the flags", "%w", err)
}

// A signalError is the cause of a context that a signal ended.
type signalError struct{ sig syscall.Signal }

func (e signalError) Error() string { return "interrupted: " + e.sig.String() }

// describe turns any error into what to print and the status to exit with.
func describe(err error) failure {
	if err == nil {
		return failure{code: exitOK}
	}
	if f := (*failure)(nil); errors.As(err, &f) {
		return *f
	}
	f := failure{code: exitSoftware, msg: err.Error(), err: err}
	var (
		sig     signalError
		held    *lockfile.HeldError
		pathErr *fs.PathError
		linkErr *os.LinkError
		sysErr  *os.SyscallError
		errno   syscall.Errno
	)
	switch {
	// The fate of a change comes first: whatever else is in the chain,
	// these decide what the caller may do next.
	case errors.Is(err, store.ErrUnknown):
		f.code, f.hint = exitUnknown, "look before you repeat it: the change may have been made"
	case errors.Is(err, store.ErrNotDurable):
		f.code = exitIO
	case errors.As(err, &sig):
		f.code = exitSignal + int(sig.sig)
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
		f.code = exitNo
	case errors.As(err, &held):
		return describe(lockedError(held, 0))
	case errors.Is(err, context.DeadlineExceeded):
		f.code = exitLocked
	case errors.Is(err, store.ErrInvalidKey):
		f.code = exitUsage
	case errors.Is(err, store.ErrTooLarge), errors.Is(err, codec.ErrMalformed), errors.Is(err, lockfile.ErrNotLockFile):
		f.code = exitData
	case errors.Is(err, store.ErrNewerVersion), errors.Is(err, lockfile.ErrIncompatible):
		f.code, f.hint = exitVersion, "use the recordctl that wrote it, or a newer one"
	case errors.Is(err, store.ErrCorrupt):
		f.code = exitData
	case errors.Is(err, store.ErrNotStore):
		f.code, f.hint = exitNoInput, "name another directory with --store"
	case errors.Is(err, store.ErrUnsafeDir):
		f.code = exitCantCreate
	case errors.Is(err, store.ErrReadOnly), errors.Is(err, fs.ErrPermission):
		f.code, f.hint = exitNoPerm, "nothing was changed; ls -ld shows who may read and write there"
	case errors.Is(err, store.ErrReplaced):
		f.code = exitIO
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		f.code, f.hint = exitIO, "nothing was changed; make room and try again"
	case errors.Is(err, syscall.EROFS):
		f.code, f.hint = exitIO, "nothing was changed; the file system is read-only"
	case errors.As(err, &pathErr), errors.As(err, &linkErr), errors.As(err, &sysErr), errors.As(err, &errno):
		f.code = exitIO
	}
	return f
}

// lockedError is the answer to who wants a lock that another has.
func lockedError(held *lockfile.HeldError, limit time.Duration) error {
	h := *held
	h.Err = nil // "context canceled" means nothing to who reads this
	msg, hint := h.Error(), ""
	if limit > 0 {
		msg = fmt.Sprintf("%s; gave up after %s", msg, limit)
		hint = "a longer --timeout waits longer"
	}
	return &failure{code: exitLocked, msg: msg, hint: hint, err: held}
}

// inputStatus is the status if an input cannot be read because of err.
func inputStatus(err error) int {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return exitNoInput
	}
	if code := describe(err).code; code != exitSoftware {
		return code
	}
	return exitIO // a reader may have errors of its own
}

// errNoRecord is the answer no of verbs that need a record.
func errNoRecord(key string) error {
	return &failure{code: exitNo, msg: fmt.Sprintf("no record %q", key), err: store.ErrNotFound}
}

// valueError is reported when the stored bytes are not what their codec says.
func valueError(key string, err error) error {
	return fail(exitData, "", "value of %q: %w", key, err)
}
