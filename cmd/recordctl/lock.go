package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/internal/fstype"
	"github.com/recordstore/recordstore/lockfile"
)

const defaultLock = "default"

// lockFlags are the flags of lock.
type lockFlags struct {
	shared, nonblock, inherit, noQueue bool
	purpose                            string
	conflictCode                       int
	mechanism, mode                    string
	port                               int
	lease                              time.Duration
}

func newLockCmd(a *app) *cobra.Command {
	var f lockFlags
	cmd := &cobra.Command{
		Use:                   "lock [PATH|NAME] [flags] -- CMD [ARG]...",
		DisableFlagsInUseLine: true,
		Short:                 "Run a command while holding a lock",
		Long: `Lock takes a lock, runs CMD, and frees the lock when CMD has ended. No two commands
run under the same lock at the same time, unless both are --shared.

The lock is a file. An argument with a slash is its PATH, and so is every argument
if no store is given, by --store or RECORDCTL_STORE: lock creates the file if it
is missing, and needs no store. With a store, an argument without a slash is the
NAME of one of its locks, "default" if there is no argument: the file lock.NAME in
the store's directory. A name has letters, digits and ._- and does not begin with
a dot. It is not the lock with which the store orders its writers: CMD may use the
store, which is created if its directory is missing or empty.

  PATH                      the file to lock, as /run/lock/backup or ./backup
  NAME                      a lock of the store
  status, break, gc, probe  the verbs below; a lock file named so is ./status

Lock waits for the lock as long as it takes, no longer than --timeout says, or
with --nonblock not at all. If it is not had, CMD is not run, the message names
the holder and what it has the lock for (--for; else CMD), or, on Linux, the
processes that share it; and the status is 75, or that of --conflict-exit. On a
terminal lock shows while it waits who holds the lock and how many are ahead.

Lock ends with the status of CMD, whatever it is: 128+N if signal N killed it, 127
if it was not found, 126 if it cannot be executed. If SIGINT killed it lock ends of
SIGINT too, for which a shell has the same status, and which ends its loop. Where 75
is something that CMD might say too, choose another with --conflict-exit.

SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to CMD, as are SIGUSR1 and SIGUSR2,
and lock goes on until CMD has ended. Those that a terminal sends CMD has had already:
while both are in the foreground of one, lock does not pass on SIGINT and SIGQUIT,
whoever sent them. If lock is started with SIGHUP or SIGINT ignored, as by nohup, CMD
ignores them too. Other signals it does not, such as SIGTERM after trap '' TERM.

The lock is freed when lock ends, however it ends, and not before. If lock itself
is killed by SIGKILL, CMD is sent SIGTERM (on Linux, and not if it is set-uid or the
like; elsewhere it goes on without the lock). Processes that CMD leaves behind do not
hold the lock. With --inherit CMD and all that it starts hold it too, by a descriptor,
whatever becomes of lock, and it is free when the last of them has ended or closed
that. It is the first from 3 on that lock was not given itself: CMD has those too, as
they are.

If the lock is lost while CMD runs, because the file is deleted or replaced or a
lease has run out, others may run too: lock says so at once, CMD goes on, and the
status is 74 if that of CMD is 0.

A command under the lock that takes the same lock again would wait for itself; it
is refused at once with status 78. By a hard link to the lock file it does wait.

What the lock is made of the file says, and for a new one the file system decides.
--mechanism asks for one: ofd, flock, posix, link, unix or tcp. All who use a file
must use the same; recordctl lock probe DIR tells which work in a directory. With
ofd, programs that lock the whole file by fcntl(2) are excluded too.`,
		Example: `  recordctl lock /run/lock/backup --nonblock -- ./backup.sh || echo "status $?"
  recordctl lock ./serve.lock --inherit -- ./start-daemons
  recordctl lock --store s deploy -- make deploy
  recordctl lock --store s index --shared --timeout 30s --for "nightly report" -- ./report`,
		Args: cobra.ArbitraryArgs,
		// Files, which cobra would not offer where there are verbs.
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			own, argv, err := commandArgs(cmd, args, 0, "PATH")
			if err != nil {
				return err
			}
			t, err := a.lockTarget(cmd, own)
			if err != nil {
				return err
			}
			opts, err := f.options(cmd, t)
			if err != nil {
				return err
			}
			return a.lock(cmd, t, argv, &f, opts)
		}),
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.shared, "shared", false, "share the lock with others who do; who may only read its file can")
	flags.BoolVarP(&f.nonblock, "nonblock", "n", false, "do not wait")
	flags.StringVar(&f.purpose, "for", "", "tell those who wait what the lock is held for: `TEXT` (default: the command)")
	flags.IntVarP(&f.conflictCode, "conflict-exit", "E", exitLocked, "the `status` if the lock is not had")
	flags.BoolVar(&f.inherit, "inherit", false, "let the command and what it starts keep the lock until all have ended (ofd, flock)")
	flags.StringVar(&f.mechanism, "mechanism", "", "what the lock is made of: `NAME` (default: what the file says)")
	flags.IntVar(&f.port, "port", 0, "the `port` of 127.0.0.1 that the lock is, with --mechanism tcp")
	flags.DurationVar(&f.lease, "lease", 0, "let others break the lock if it is not renewed for this `time` (link)")
	flags.BoolVar(&f.noQueue, "no-queue", false, "leave the order of those who wait to the kernel")
	flags.StringVar(&f.mode, "mode", "", "the permissions of the lock file of a PATH if it is created, as 0660 (`octal`; default: 0666 less the umask)")
	cmd.AddCommand(newLockStatusCmd(a), newLockBreakCmd(a), newLockGCCmd(a), newLockProbeCmd(a))
	return cmd
}

// A lockTarget is the lock that an argument means.
type lockTarget struct {
	path string // of the lock file
	name string // as messages have it
	dir  string // the store's directory; "" for a PATH
}

// lockTarget finds out whether the argument, if there is one, is a PATH or a NAME.
func (a *app) lockTarget(cmd *cobra.Command, own []string) (lockTarget, error) {
	dir, err := a.storeDir(cmd)
	if len(own) > 0 && (strings.Contains(own[0], "/") || err != nil && !cmd.Flags().Changed("store")) {
		path := own[0]
		if path == "" || strings.HasSuffix(path, "/") {
			return lockTarget{}, usagef("", "lock: %s cannot be the path of a lock file", quoteArg(path))
		}
		return lockTarget{path: path, name: path}, nil
	}
	if err != nil {
		if !cmd.Flags().Changed("store") {
			return lockTarget{}, usagef("usage: "+cmd.UseLine(), "%s: which lock? Name its file, or a store", cmd.Name())
		}
		return lockTarget{}, err
	}
	name := defaultLock
	if len(own) > 0 {
		name = own[0]
	}
	if name == "" || name[0] == '.' || strings.Trim(name, lockNameChars) != "" || len(name) > 200 {
		return lockTarget{}, usagef("use up to 200 letters, digits and ._-, and no dot at the beginning; a path has a slash",
			"lock: %s cannot be the name of a lock", quoteArg(name))
	}
	return lockTarget{path: filepath.Join(dir, "lock."+name), name: fmt.Sprintf("%q", name), dir: dir}, nil
}

const lockNameChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

// key returns what marks need to know.
func (t lockTarget) key() (dir, name string) { return filepath.Dir(t.path), filepath.Base(t.path) }

// recordAfter is when the holder of a lock over a network is recorded, for other machines
// to see.
const recordAfter = 100 * time.Millisecond

// options checks the flags and returns those that are for the lock file.
func (f *lockFlags) options(cmd *cobra.Command, t lockTarget) (lockfile.Options, error) {
	o := lockfile.Options{Port: f.port, Lease: f.lease, NoQueue: f.noQueue}
	if _, local, err := fstype.Of(filepath.Dir(t.path)); err == nil && !local {
		o.RecordAfter = recordAfter
	}
	changed := cmd.Flags().Changed
	switch {
	case f.conflictCode < 0 || f.conflictCode > 255:
		return o, usagef("", "lock: --conflict-exit %d: a status is from 0 to 255", f.conflictCode)
	case f.nonblock && changed("timeout"):
		return o, usagef("", "lock: --nonblock and --timeout exclude each other")
	case f.port < 0 || f.port > 65535 || changed("port") && f.port == 0:
		return o, usagef("", "lock: --port %d: a port is from 1 to 65535", f.port)
	case changed("lease") && f.lease < 100*time.Millisecond:
		return o, usagef("", "lock: --lease %s: the least is 100ms", f.lease)
	case f.mode != "" && t.dir != "":
		return o, usagef("", "lock: --mode is for a PATH; the locks of a store have the permissions of the store")
	}
	if f.mechanism != "" {
		var err error
		if o.Mechanism, err = lockfile.ParseMechanism(f.mechanism); err != nil {
			return o, usagef("they are auto, ofd, flock, posix, link, unix and tcp", "lock: --mechanism: %w", err)
		}
		if o.Mechanism == lockfile.TCP && o.Port == 0 {
			return o, usagef("without --mechanism it is used as the file says", "lock: --mechanism tcp needs a --port")
		}
	}
	if f.mode != "" {
		mode, err := strconv.ParseUint(f.mode, 8, 32)
		if err != nil || mode == 0 || mode > 0o777 {
			return o, usagef("", "lock: --mode %s: permissions are octal, from 1 to 777", quoteArg(f.mode))
		}
		o.Mode = fs.FileMode(mode)
	}
	return o, nil
}

func (a *app) lock(cmd *cobra.Command, t lockTarget, argv []string, f *lockFlags, opts lockfile.Options) error {
	if err := exec.Command(argv[0]).Err; err != nil {
		return startError(argv[0], err)
	}
	// A message that nobody reads must end neither us, and the command with us, nor give
	// us another status than its own: until we end, as one may be the last thing we do.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if err := t.checkNotNested(); err != nil {
		return err
	}
	note := &waitNote{out: a.stderr}
	if isTerminal(a.stderr) {
		opts.OnWait = note.wait
	}
	open := f.openFile
	if t.dir != "" {
		open = func(t lockTarget, o lockfile.Options) (*lockfile.File, error) { return a.openLock(cmd, t, f, o) }
	}
	file, err := open(t, opts)
	w := a.startWait(t.path)
	defer w.stop() // which ends the lock's context
	// A file without a header cannot be opened while another program has locked it.
	for errors.Is(err, lockfile.ErrLocked) && !f.nonblock && w.Err() == nil {
		if opts.OnWait != nil {
			opts.OnWait(lockfile.Wait{Path: t.path, Ahead: -1})
		}
		select { // open may find at once that the file is locked
		case <-w.Done():
		case <-time.After(50 * time.Millisecond):
			file, err = open(t, opts)
		}
	}
	if err != nil {
		note.clear()
		d := describe(err)
		switch sig := (signalError{}); {
		case !errors.Is(err, lockfile.ErrLocked):
			return f.explain(err)
		case errors.As(context.Cause(w), &sig):
			return w.explain(sig)
		case d.code == exitIO:
			d.code, d.msg = f.conflictCode, t.conflict(err, w.limit)+"; "+d.msg
		}
		return &d
	}
	defer file.Close()
	if f.purpose == "" {
		f.purpose = strings.Join(argv, " ")
	}
	l, err := takeLock(file, w, f)
	note.clear()
	if err != nil {
		if d := describe(err); d.code == exitLocked {
			d.code, d.msg = f.conflictCode, t.conflict(err, w.limit)
			return &d
		}
		return f.explain(err)
	}
	if t.dir != "" {
		if f := t.restoreMode(l); f != nil {
			defer f.Close()
		}
	}

	// That the lock is lost is said once: while the command runs, if it is seen then.
	var say sync.Once
	stop := context.AfterFunc(l.Context(), func() {
		if err := context.Cause(l.Context()); errors.Is(err, lockfile.ErrReplaced) || errors.Is(err, lockfile.ErrLost) {
			say.Do(func() {
				a.note("the lock %s is lost, and others may have it while the command runs on: %s", t.name, describe(err).msg)
			})
		}
	})
	status, err := a.runLocked(t, argv, l, f)
	stop()
	checkErr := l.Check()
	if unlockErr := l.Unlock(); checkErr == nil {
		checkErr = unlockErr
	}
	switch {
	case err != nil:
		return f.explain(err)
	case checkErr != nil:
		say.Do(func() { a.note("the lock %s was lost while the command ran: %s", t.name, describe(checkErr).msg) })
		if status.code == 0 {
			status.code = exitIO
		}
	}
	return &failure{code: status.code, err: status.err()}
}

// checkNotNested refuses to take a lock that who runs us holds until we have ended.
func (t lockTarget) checkNotNested() error {
	dir, name := t.key()
	if name == storeLock || name == mergeLock { // of a store, maybe
		if err := checkNotNested(dir, storeLock); err != nil {
			return err
		}
	}
	if !heldByAncestor(lockedEnv, dir, name) {
		return nil
	}
	if t.dir != "" {
		return fail(exitNested, "", "the lock %s of %q is already held by the recordctl lock that runs this command", t.name, t.dir)
	}
	return fail(exitNested, "", "the lock %s is already held by the recordctl lock that runs this command", t.name)
}

// openFile opens the lock file. To share its lock it is enough to be able to read it.
func (f *lockFlags) openFile(t lockTarget, opts lockfile.Options) (*lockfile.File, error) {
	_, before := os.Lstat(t.path)
	file, err := lockfile.Open(t.path, &opts)
	if f.shared && cannotWrite(err) {
		opts.ReadOnly = true
		var readErr error
		file, readErr = lockfile.Open(t.path, &opts)
		// If there is none, or none that can be shared so, the first error says more.
		if !errors.Is(readErr, fs.ErrNotExist) && !errors.Is(readErr, errors.ErrUnsupported) {
			err = readErr
		}
	}
	if err == nil {
		return file, nil
	}
	_, after := os.Lstat(t.path)
	switch f := describe(err); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, fail(exitCantCreate, "the directory must exist", "%w", err)
	case errors.Is(after, fs.ErrNotExist) && (f.code == exitIO || f.code == exitNoPerm):
		return nil, fail(exitCantCreate, f.hint, "%w", err)
	case errors.Is(before, fs.ErrNotExist) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)):
		// It is not removed: somebody may use it by now.
		return nil, fail(exitCantCreate, "make room and try again; the lock file is there, and empty", "%w", err)
	}
	return nil, err
}

// openLock opens the file of a store's lock, with the permissions of the store's
// LOCK: who may use the one may use the other. The store itself need not stay open.
func (a *app) openLock(cmd *cobra.Command, t lockTarget, f *lockFlags, opts lockfile.Options) (*lockfile.File, error) {
	s, err := a.openWrite(cmd, true, "recordctl lock "+t.name)
	if f.shared && cannotWrite(err) {
		if read, readErr := a.openRead(cmd); readErr == nil {
			s, err = read, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	info, err := os.Stat(filepath.Join(t.dir, storeLock))
	if err != nil {
		return nil, err
	}
	opts.Mode = info.Mode().Perm()
	return f.openFile(t, opts)
}

// cannotWrite reports whether what was opened to write could not be for that reason.
func cannotWrite(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// restoreMode gives the file of a store's lock, which we hold, the permissions of the
// store's LOCK: who created it may have been killed before it had them. If the file is
// not ours, that is its owner's to put right.
//
// Who may write the directory can put something else in the file's place at any time. So
// it is done by a descriptor, of the very file that is locked, and not if that has other
// names, as it may be another's lock. The descriptor is to be closed when the lock is not
// held any more: with some mechanisms that would release it.
func (t lockTarget) restoreMode(l *lockfile.Lock) io.Closer {
	want, err := os.Stat(filepath.Join(t.dir, storeLock))
	if err != nil {
		return nil
	}
	locked, err := l.Stat()
	if err != nil || locked.Mode() == want.Mode().Perm() {
		return nil
	}
	// Not to block, should it be a FIFO by now.
	f, err := os.OpenFile(t.path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	opened, err := f.Stat()
	if err != nil {
		return f
	}
	ours, theirs := locked.Sys().(*syscall.Stat_t), opened.Sys().(*syscall.Stat_t)
	if ours.Dev == theirs.Dev && ours.Ino == theirs.Ino && theirs.Nlink == 1 {
		_ = f.Chmod(want.Mode().Perm())
	}
	return f
}

// takeLock takes the lock. Afterwards w no longer catches signals.
func takeLock(file *lockfile.File, w *wait, f *lockFlags) (*lockfile.Lock, error) {
	var l *lockfile.Lock
	var err error
	switch {
	case f.nonblock && f.shared:
		l, err = file.TryRLock(f.purpose)
	case f.nonblock:
		l, err = file.TryLock(f.purpose)
	case f.shared:
		l, err = file.RLock(w, f.purpose)
	default:
		l, err = file.Lock(w, f.purpose)
	}
	w.sigs.stop()
	if cause := w.had(); err == nil && cause != nil { // both came at once, and the lock's context has ended
		_ = l.Unlock()
		err = cause
	}
	return l, w.explain(err)
}

// explain makes what the flags have asked for in vain an error of the command line.
func (f *lockFlags) explain(err error) error {
	switch asked := f.mechanism != "" || f.port != 0; {
	case asked && errors.Is(err, lockfile.ErrIncompatible):
		return usagef("without --mechanism and --port it is used as the file says", "%w", err)
	case (asked || f.inherit) && errors.Is(err, errors.ErrUnsupported):
		return usagef("", "%w", err)
	case errors.Is(err, errors.ErrUnsupported):
		return fail(exitIO, "recordctl lock probe DIR shows which locks work there", "%w", err)
	}
	return err
}

// conflict says who has the lock that was not had because of err.
func (t lockTarget) conflict(err error, limit time.Duration) string {
	held := new(lockfile.HeldError)
	errors.As(err, &held)
	msg := "lock " + t.path
	who, gone := whoHas(t.path, held.Holder, held.Known)
	switch {
	case who == "":
		msg += " was not available"
	case gone:
		msg += " was not available: " + who // which is a sentence of its own
	default:
		msg += " is " + who
	}
	// Of a lock that nobody is seen to have, the time may just have been too short.
	if t.dir == "" && (who != "" || !errors.Is(err, context.DeadlineExceeded) && errors.Is(err, lockfile.ErrLocked)) {
		msg = "another instance is running: " + msg
	}
	if limit > 0 {
		msg += fmt.Sprintf("; gave up after %s", limit)
	}
	return msg
}

// whoHas says who has a lock: the holder who was known when it was tried, if he is
// alive, or else what can be seen now; "" if that is nobody. It reports whether the
// holder on record is gone.
func whoHas(path string, h lockfile.Holder, known bool) (who string, gone bool) {
	// Of one in another pid namespace it is not known, and his number says nothing here.
	alive := h.Liveness()
	if known && alive == lockfile.Alive {
		return "held by " + h.String(), false
	}
	st, err := lockfile.Inspect(path)
	switch free := err != nil || st.State == lockfile.Free; {
	case free && known && alive != lockfile.Dead:
		return "held by " + h.String(), false
	case free:
		return "", false
	}
	st.Waiting = 0
	return st.String(), st.Liveness == lockfile.Dead
}

// runLocked runs the command with our standard streams and returns its status.
func (a *app) runLocked(t lockTarget, argv []string, l *lockfile.Lock, f *lockFlags) (status childStatus, err error) {
	dir, name := t.key()
	locked, err := addMark(lockedEnv, dir, name)
	if err != nil {
		return status, err
	}
	settings := []string{locked}
	if t.dir != "" {
		absolute, err := filepath.Abs(t.dir)
		if err != nil {
			return status, err
		}
		settings = append(settings, storeEnv+"="+absolute)
	}
	child := exec.Command(argv[0], argv[1:]...)
	child.Stdin, child.Stdout, child.Stderr = a.stdin, a.stdout, a.stderr
	child.Env = childEnv(settings...)
	if f.inherit {
		files, err := keepInherited(child)
		defer func() {
			for _, file := range files {
				file.Close()
			}
		}()
		if err == nil {
			err = l.Inherit(child)
		}
		if err != nil {
			return status, err
		}
		child.SysProcAttr = &syscall.SysProcAttr{} // it has the lock, and may go on without us
	}
	return runChild(child)
}
