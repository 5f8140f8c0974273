package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/recordstore/recordstore/lockfile"
	"github.com/recordstore/recordstore/store"
)

const storeEnv = "RECORDCTL_STORE"

// background is the context of work that waits for no other process. A signal
// ends such work, and the process, as if we were any program.
var background = context.Background()

// An app is one run of the command.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	out    *bufio.Writer // of stdout

	dir     string        // --store
	timeout time.Duration // --timeout; 0: as long as it takes
	json    bool          // --json

	started bool // the command line was understood
	changed bool // the store has been changed

	interrupted bool // a SIGINT has ended us, or the command that we ran

	kept *signals // caught until the end of the run; nil before an update
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{stdin: stdin, stdout: stdout, stderr: stderr, out: newOutput(stdout)}
}

type verb struct {
	name string
	cmd  func(*app) *cobra.Command // makes it
}

// verbs are all verbs but help.
var verbs = []verb{
	{"get", newGetCmd},
	{"put", newPutCmd},
	{"delete", newDeleteCmd},
	{"list", newListCmd},
	{"update", newUpdateCmd},
	{"incr", newIncrCmd},
	{"cas", newCasCmd},
	{"lock", newLockCmd},
	{"export", newExportCmd},
	{"import", newImportCmd},
	{"compact", newCompactCmd},
	{"stat", newStatCmd},
	{"verify", newVerifyCmd},
	{"doctor", newDoctorCmd},
	{"stress", newStressCmd},
	{"completion", newCompletionCmd},
	{"exit-codes", newExitCodesCmd},
	{"lock-probe-worker", newLockProbeWorkerCmd},
}

// verbsFor returns the verbs that may be needed to execute args. One that they
// begin with is enough: to make all takes half as long as to read a record.
func verbsFor(args []string) []verb {
	if len(args) > 0 {
		for i, v := range verbs {
			if v.name == args[0] {
				return verbs[i : i+1]
			}
		}
	}
	return verbs
}

func newRootCmd(a *app, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "recordctl",
		Short: "Read and change the records of a record store",
		Long: `Recordctl reads and changes the records of a record store.

A store is a directory of named records that any number of processes use at
the same time, on one machine or on several that mount it. There is no server.
Every change is atomic, and on disk before recordctl ends with status 0.
Readers wait for nobody and change nothing, not even create a store.

The store is named by --store or by the environment variable RECORDCTL_STORE.
put, incr, import, update and lock NAME create it if the directory is missing or
empty. lock PATH needs no store.`,
		Example: `  export RECORDCTL_STORE=results
  recordctl put colour blue
  recordctl get colour
  recordctl list --count`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("recordctl help shows the verbs", "a verb is missing")
			}
			return unknownVerb(cmd, args[0])
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.out)
	root.SetErr(a.stderr)
	root.SetVersionTemplate("recordctl {{.Version}}\n")
	root.SetUsageTemplate(usageTemplate)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(flagError)

	flags := root.PersistentFlags()
	flags.StringVarP(&a.dir, "store", "s", "", "the store's `directory` (default $"+storeEnv+")")
	flags.DurationVar(&a.timeout, "timeout", 0, "give up, with status 75, after waiting for a lock this `time`, as 1.5s (default, and 0: no limit)")
	flags.BoolVar(&a.json, "json", false, "print JSON, one value a line")

	for _, v := range verbsFor(args) {
		root.AddCommand(v.cmd(a))
	}
	root.SetHelpCommand(newHelpCmd(a))
	return root
}

// usageTemplate is cobra's in the words of this command.
const usageTemplate = `Usage:{{if .HasParent}}
  {{.UseLine}}{{else}}
  {{.CommandPath}} [flags] VERB ...{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}

Verbs:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of all verbs:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if not .HasParent}}

recordctl help VERB explains a verb, recordctl help exit-codes the exit statuses.{{end}}
`

// version is the module version that the go command recorded.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}

func newExitCodesCmd(*app) *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit statuses mean", Long: exitCodesHelp()}
}

func newHelpCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "help [VERB]",
		Short: "Explain a verb, or a topic such as exit-codes",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			if len(args) == 0 {
				for _, c := range cmd.Root().Commands() {
					if strings.HasPrefix(c.Name(), prefix) && !c.Hidden {
						names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			c, rest, err := cmd.Root().Find(args)
			switch {
			case err != nil || len(rest) > 0 && c == cmd.Root():
				return unknownVerb(cmd.Root(), args[0])
			case len(rest) > 0:
				return usagef("recordctl help "+strings.Join(args[:len(args)-len(rest)], " ")+" shows what there is", "there is no verb %q", strings.Join(args, " "))
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		}),
	}
}

func unknownVerb(root *cobra.Command, name string) error {
	hint := "recordctl help shows the verbs"
	if s := root.SuggestionsFor(name); len(s) > 0 {
		hint = "did you mean " + strings.Join(s, " or ") + "?"
	}
	return usagef(hint, "there is no verb %q", name)
}

// flagError explains an error of the flag parser, which also meets values and
// keys that begin with a dash.
func flagError(cmd *cobra.Command, err error) error {
	hint := cmd.CommandPath() + " --help shows the flags"
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		hint += "; an argument that begins with - goes behind --"
	}
	return usagef(hint, "%s: %w", cmd.Name(), err)
}

// verb wraps the work of a command. Errors before it are those of a wrong
// command line.
func (a *app) verb(work func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		if a.timeout < 0 {
			return usagef("", "--timeout %s: a time cannot be negative", a.timeout)
		}
		return work(cmd, args)
	}
}

// arguments checks that there is an argument for each name, but for the last
// ones in brackets, and no more.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		hint := "usage: " + cmd.UseLine()
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return usagef(hint, "%s: %s is missing", cmd.Name(), name)
			}
		}
		if len(args) > len(names) {
			return usagef(hint, "%s: unexpected argument %q", cmd.Name(), args[len(names)])
		}
		return nil
	}
}

// storeDir returns the directory that --store or the environment names.
func (a *app) storeDir(cmd *cobra.Command) (string, error) {
	if cmd.Flags().Changed("store") {
		if a.dir == "" {
			return "", usagef("", "--store is empty; it names the store's directory")
		}
		return a.dir, nil
	}
	if dir := os.Getenv(storeEnv); dir != "" {
		return dir, nil
	}
	return "", usagef("name its directory with --store DIR, or once for all with export "+storeEnv+"=DIR", "which store?")
}

// checkKey refuses a key before a store is created for it.
func checkKey(key string) error {
	switch {
	case key == "":
		return usagef("", "the key is empty")
	case len(key) > store.MaxKeySize:
		return usagef("", "the key has %d bytes; at most %d are possible", len(key), store.MaxKeySize)
	}
	return nil
}

// openRead opens the store to read. It changes and creates nothing.
func (a *app) openRead(cmd *cobra.Command) (*store.Store, error) {
	dir, err := a.storeDir(cmd)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(dir, &store.Options{ReadOnly: true})
	if err != nil {
		return nil, openError(dir, false, err)
	}
	return s, nil
}

// openWrite opens the store to change it. The purpose is what others read who
// wait for the lock meanwhile.
func (a *app) openWrite(cmd *cobra.Command, create bool, purpose string) (*store.Store, error) {
	dir, err := a.storeDir(cmd)
	if err != nil {
		return nil, err
	}
	if err := checkNotNested(dir, storeLock); err != nil {
		return nil, err
	}
	s, err := store.Open(dir, &store.Options{NoCreate: !create, Purpose: purpose})
	if err != nil {
		return nil, openError(dir, create, err)
	}
	return s, nil
}

// openError tells a store that is not there, or that cannot be made, from
// errors of one that is.
func openError(dir string, create bool, err error) error {
	missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
	if missing && !create {
		return fail(exitNoInput, "recordctl put KEY VALUE creates one", "there is no store in %q", dir)
	}
	if _, statErr := os.Lstat(filepath.Join(dir, storeLock)); statErr == nil || errors.Is(statErr, fs.ErrPermission) {
		return err // of a store that is there, or that may be
	}
	switch code := describe(err).code; {
	case create && (code == exitIO || code == exitNoPerm):
		return fail(exitCantCreate, "", "create a store in %q: %w", dir, err)
	}
	return err
}

// A wait is the waiting for a lock. Its context ends when --timeout has
// passed or a signal comes, but not any more once the lock is had.
type wait struct {
	context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer // nil without --timeout
	sigs   *signals
	path   string // of the lock
	limit  time.Duration
	work   string // what --timeout bounds, if that is more than waiting; it may be done in part

	mu   sync.Mutex
	over bool // nothing ends the context any more; protected by mu
}

// newWait begins to wait for the lock at path. The caller must call stop in the
// end.
func (a *app) newWait(path string) *wait {
	w := &wait{path: path, limit: a.timeout}
	w.Context, w.cancel = context.WithCancelCause(context.Background())
	if a.timeout > 0 {
		w.timer = time.AfterFunc(a.timeout, func() { w.end(context.DeadlineExceeded) })
	}
	return w
}

// startWait is newWait, and has signals end the waiting.
func (a *app) startWait(path string) *wait {
	w := a.newWait(path)
	w.sigs = catchSignals(func(err signalError) { w.end(err) })
	return w
}

// end ends the waiting, unless the lock is had.
func (w *wait) end(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.cancel(cause)
	}
}

// had says that the lock is had: neither --timeout nor a signal counts from now
// on. Its error says that one of them came first.
func (w *wait) had() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
	return context.Cause(w)
}

func (w *wait) stop() {
	if w.sigs != nil {
		w.sigs.stop()
	}
	_ = w.had()
	w.cancel(nil)
}

// explain names the reason for which the waiting was ended in an error that
// it caused.
func (w *wait) explain(err error) error {
	if err == nil || w.Err() == nil || errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrNotDurable) {
		return err
	}
	var (
		sig  signalError
		held *lockfile.HeldError
	)
	cause := context.Cause(w)
	switch {
	case !errors.Is(err, cause) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		return err // it failed for a reason of its own
	case errors.As(cause, &sig):
		left := "; nothing was changed"
		if w.work != "" {
			left = "; " + w.work + " is done in part, or not at all"
		}
		return &failure{code: exitSignal + int(sig.sig), msg: sig.Error() + left, err: sig}
	case errors.As(err, &held):
		return lockedError(held, w.limit)
	case w.work != "":
		return fail(exitLocked, "a longer --timeout lets it finish", "%s was not finished within %s: it is done in part, or not at all", w.work, w.limit)
	}
	// The time had passed before the lock was even tried.
	h := &lockfile.HeldError{Path: w.path, Err: err}
	if st, _ := lockfile.Inspect(w.path); st.Known {
		h.Holder, h.Known = st.Holder, true
		return lockedError(h, w.limit)
	}
	return fail(exitLocked, "a longer --timeout waits longer", "lock %s was not had within %s", w.path, w.limit)
}

// update runs fn as store.Update does. --timeout bounds the time until fn
// runs for the first time, and so the waiting for the lock, never the work. A
// signal ends the waiting too, and from then on the first one does nothing: in
// some milliseconds the change is made, or is not, and to be told which is
// better than not to know. That holds until the answer has been given.
func (a *app) update(s *store.Store, fn func(tx *store.Tx) error) (store.Revision, error) {
	w := a.startWait(lockPath(s))
	defer w.cancel(nil)
	a.kept = w.sigs
	return w.update(s, fn)
}

func (w *wait) update(s *store.Store, fn func(tx *store.Tx) error) (store.Revision, error) {
	rev, err := s.Update(w, func(tx *store.Tx) error {
		if err := w.had(); err != nil {
			return err
		}
		return fn(tx)
	})
	return rev, w.explain(err)
}

// lockPath returns the path of the store's own lock.
func lockPath(s *store.Store) string { return filepath.Join(s.Dir(), storeLock) }

// closeStore closes s after work that ended with err.
func closeStore(s *store.Store, err *error) {
	if closeErr := s.Close(); *err == nil {
		*err = closeErr
	}
}
