package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/lockfile"
)

const defaultLock = "default"

// lockFlags are the flags of lock.
type lockFlags struct {
	shared, nonblock bool
	purpose          string
	conflictCode     int
}

func newLockCmd(a *app) *cobra.Command {
	var f lockFlags
	cmd := &cobra.Command{
		Use:                   "lock [NAME] [flags] -- CMD [ARG]...",
		DisableFlagsInUseLine: true,
		Short:                 "Run a command while holding a named lock",
		Long: `Lock takes the lock NAME of the store, "default" if none is given, runs CMD, and
frees the lock when CMD has ended. No two commands run under the same name at the
same time, unless both are --shared. Locks of different names, and those of
different stores, have nothing to do with one another. A name has letters,
digits and ._- and does not begin with a dot.

The lock is the file lock.NAME in the store's directory. It is not the one with
which the store orders its writers: CMD may use the store. The store is created
if its directory is missing or empty.

Lock waits for the lock as long as it takes, no longer than --timeout says, or
with --nonblock not at all. If it is not had, CMD is not run, the message names
the holder and what it has the lock for (--for; else CMD; who shares a lock is not
recorded), and the status is 75.

Lock ends with the status of CMD, whatever it is: 128+N if signal N killed it, 127
if it was not found, 126 if it cannot be executed. Where 75 is something that CMD
might say too, choose another with --conflict-exit-code. SIGINT, SIGTERM, SIGHUP
and SIGQUIT are passed on to CMD, and lock goes on until CMD has ended.

The kernel frees the lock when lock ends, however it ends, and not before. If
lock itself is killed by SIGKILL, CMD is sent SIGTERM (on Linux; elsewhere it goes
on without the lock). Processes that CMD leaves behind do not hold the lock. If
the lock file is deleted or replaced while CMD runs, others may have run too: lock
says so, and its status is 74 if that of CMD is 0.

A command under the lock that takes the same lock of the same store again would
wait for itself; it is refused at once with status 78.`,
		Example: `  recordctl lock deploy -- make deploy
  recordctl lock backup --nonblock -- ./backup.sh || echo "status $?"
  recordctl lock index --shared --timeout 30s --for "nightly report" -- ./report`,
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			own, argv, err := commandArgs(cmd, args, 0, "NAME")
			if err != nil {
				return err
			}
			name := defaultLock
			if len(own) > 0 {
				name = own[0]
			}
			if err := f.check(cmd, name); err != nil {
				return err
			}
			return a.lock(cmd, name, argv, &f)
		}),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&f.shared, "shared", false, "share the lock with others who do")
	cmd.Flags().BoolVarP(&f.nonblock, "nonblock", "n", false, "do not wait")
	cmd.Flags().StringVar(&f.purpose, "for", "", "tell those who wait what the lock is held for: `TEXT` (default: the command)")
	cmd.Flags().IntVarP(&f.conflictCode, "conflict-exit-code", "E", exitLocked, "the `status` if the lock is not had")
	return cmd
}

func (f *lockFlags) check(cmd *cobra.Command, name string) error {
	if name == "" || name[0] == '.' || strings.Trim(name, lockNameChars) != "" || len(name) > 200 {
		return usagef("use up to 200 letters, digits and ._-, and no dot at the beginning", "lock: %s cannot be the name of a lock", quoteArg(name))
	}
	if f.conflictCode < 0 || f.conflictCode > 255 {
		return usagef("", "lock: --conflict-exit-code %d: a status is from 0 to 255", f.conflictCode)
	}
	if f.nonblock && cmd.Flags().Changed("timeout") {
		return usagef("", "lock: --nonblock and --timeout exclude each other")
	}
	return nil
}

const lockNameChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

func (a *app) lock(cmd *cobra.Command, name string, argv []string, f *lockFlags) error {
	dir, err := a.storeDir(cmd)
	if err != nil {
		return err
	}
	if err := exec.Command(argv[0]).Err; err != nil {
		return startError(argv[0], err)
	}
	if heldByAncestor(lockedEnv, dir, name) {
		return fail(exitNested, "", "the lock %q of %q is already held by the recordctl lock that runs this command", name, dir)
	}
	file, err := a.openLock(cmd, dir, name)
	if err != nil {
		return err
	}
	defer file.Close()
	if f.purpose == "" {
		f.purpose = strings.Join(argv, " ")
	}
	l, err := a.takeLock(file, name, f)
	if err != nil {
		if d := describe(err); d.code == exitLocked {
			d.code = f.conflictCode
			return &d
		}
		return err
	}
	status, err := a.runLocked(dir, name, argv)
	checkErr := l.Check()
	if unlockErr := l.Unlock(); checkErr == nil {
		checkErr = unlockErr
	}
	switch {
	case err != nil:
		return err
	case checkErr != nil:
		d := describe(checkErr)
		d.msg = fmt.Sprintf("the lock %q was lost while the command ran: %s", name, d.msg)
		if d.code = status; status == 0 {
			d.code = exitIO
		}
		return &d
	}
	return &failure{code: status}
}

// openLock opens the lock's file, with the permissions of the store's LOCK:
// who may use the one may use the other. The store itself need not stay open.
func (a *app) openLock(cmd *cobra.Command, dir, name string) (*lockfile.File, error) {
	s, err := a.openWrite(cmd, true, "recordctl lock "+name)
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	info, err := os.Stat(filepath.Join(dir, "LOCK"))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "lock."+name)
	file, err := lockfile.Open(path, &lockfile.Options{Mode: info.Mode().Perm()})
	if err != nil {
		return nil, err
	}
	// Who created it may have been killed before it had its mode. If the file is
	// not ours, that is its owner's to put right.
	if own, err := os.Stat(path); err == nil && own.Mode().Perm() != info.Mode().Perm() {
		_ = os.Chmod(path, info.Mode().Perm())
	}
	return file, nil
}

// takeLock takes the lock. A person who has to wait is told for whom.
func (a *app) takeLock(file *lockfile.File, name string, f *lockFlags) (*lockfile.Lock, error) {
	try, lock := file.TryLock, file.Lock
	if f.shared {
		try, lock = file.TryRLock, file.RLock
	}
	if f.nonblock {
		return try(f.purpose)
	}
	if isTerminal(a.stderr) {
		if holder, held, err := file.Holder(); err == nil && held {
			a.note("waiting for the lock %q, held by %s", name, holder)
		}
	}
	w := a.startWait(file.Name())
	defer w.stop()
	l, err := lock(w, f.purpose)
	return l, w.explain(err)
}

// runLocked runs the command with our standard streams and returns its status.
func (a *app) runLocked(dir, name string, argv []string) (int, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return 0, err
	}
	locked, err := addMark(lockedEnv, dir, name)
	if err != nil {
		return 0, err
	}
	child := exec.Command(argv[0], argv[1:]...)
	child.Stdin, child.Stdout, child.Stderr = a.stdin, a.stdout, a.stderr
	child.Env = childEnv(locked, storeEnv+"="+absolute)
	status, err := runChild(child)
	return status.code, err
}
