package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/internal/stress"
	"github.com/recordstore/recordstore/internal/stress/locks"
)

// stressFlags are those of the verb that do not go into the Config as they
// are.
type stressFlags struct {
	stress.Config
	judge  bool
	report string
	lock   lockStressFlags
}

func newStressCmd(a *app) *cobra.Command {
	var f stressFlags
	cmd := &cobra.Command{
		Use:   "stress",
		Short: "Run 100 processes on one store, kill some, and count what is lost",
		Long: `Stress starts many processes, writers and readers, on a store of its own. First
each of them waits a random time, and then a writer saves one record, and a
reader reads. Then, for --duration, all writers change shared counters and
records of their own as fast as they can, readers check every snapshot, and
some of the processes are killed with SIGKILL at random moments and replaced.

Every process notes what it is about to do and what it was told. A judge reads
that and the records that are there in the end: each acknowledged update must
be there, once, and nothing that nobody attempted. Faults are of these kinds:

  lost      acknowledged, and not there, or overwritten by one that did not see it
  twice     there more often than attempted, or won by two where one can win
  foreign   there, and nobody attempted it, or it was answered "not done"
  torn      a record or a state that is not whole
  back      a revision given twice, or one that went back
  stale     a snapshot without what was acknowledged before it was taken
  damaged   a file of the store

Without --store the store is temporary, and is removed unless there is a fault.
The directory decides what is measured: name one on the disk that you mean.
RECORDCTL_STORE is not used, and a store that holds anything but what an
earlier run left is refused. --timeout is that of each operation (default 10s);
operations that time out are counted, and are no faults.

That the judge notes a fault is shown by --protocol naive. It locks the data
file itself and replaces it by rename, as many do, and loses records. Those who
lock another file, --protocol rename, lose none on a local file system, and some
over NFS.

Several machines can take part in one run: each gets the same --store, --seed
and --machines, its own --machine, and a --history directory. When all have
ended, bring the histories together below one directory, and let --judge read
them.

With --lock there is no store. --processes take one lock as often as they can,
for microseconds, one in ten to share it, until --acquisitions have been made or
--duration is over. Meanwhile some are killed, and some suspended, preferably when
they have the lock, the lock file is truncated, and it is removed whenever it is not
in use. Each process notes by the machine's clock when it had the lock, and a judge
compares. Faults are of these kinds:

  overlap   two had the lock at once, and not both to share it
  stall     for a second after a death nobody had the lock, though none was suspended
  broken    the notes of a process break off or contradict themselves

--store and --history name the directories of the lock file and of the notes; here
--protocol naive is a lock file that is deleted on release, and has two holders.

Exit status: 0 if nothing is lost or otherwise at fault, 1 if something is or if
a process failed. An interrupt ends the run early, and what there is is judged.`,
		Example: `  recordctl stress
  recordctl stress --duration 30s --store /mnt/disk/stress
  recordctl stress --protocol naive
  recordctl stress --store /nfs/s --history h1 --seed 7 --machines 2 --machine 1
  recordctl stress --store /nfs/s --history histories --judge
  recordctl stress --lock --acquisitions 1000000
  recordctl stress --lock --protocol naive`,
		Args:              arguments(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.verb(func(cmd *cobra.Command, _ []string) error {
			return a.stress(cmd, &f)
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&f.Writers, "writers", 50, "`number` of processes that write")
	flags.IntVar(&f.Readers, "readers", 50, "`number` of processes that read")
	flags.DurationVar(&f.Duration, "duration", 10*time.Second, "`time` of the hard form; 0 leaves it out")
	flags.DurationVar(&f.QuestionWait, "wait", time.Second, "longest random `time` to wait in the first form; 0 leaves it out")
	flags.IntVar(&f.Records, "records", 1, "`number` of records that each writer saves in the first form")
	flags.Float64Var(&f.KillShare, "kill", 0.2, "`share` of the processes that may be killed; 0: nobody is")
	flags.DurationVar(&f.KillEvery, "kill-every", 200*time.Millisecond, "mean `time` between two kills; with --lock 50ms if not given")
	flags.IntVar(&f.Threads, "threads", 4, "`number` of goroutines in every tenth writer; the others have one")
	flags.DurationVar(&f.ReadPause, "read-pause", 50*time.Millisecond, "mean `time` between two reads of a reader")
	flags.Uint64Var(&f.Seed, "seed", 0, "`number` that determines what is random (default: a new one, which is printed)")
	flags.StringVar(&f.Protocol, "protocol", stress.ProtocolStore, "`name` of how to keep the records: "+strings.Join(stress.Protocols, ", "))
	flags.IntVar(&f.Journal, "journal", 0, "move records into segments from this many `bytes` on (default: the store's)")
	flags.BoolVar(&f.Network, "network", false, "take the careful path of network file systems wherever the store is")
	flags.BoolVar(&f.Keep, "keep", false, "keep temporary directories")
	flags.StringVar(&f.report, "report", "", "write the result as JSON to this `file` too")
	flags.StringVar(&f.History, "history", "", "`directory` for what the processes note (default: a temporary one)")
	flags.IntVar(&f.Machines, "machines", 1, "`number` of machines that take part")
	flags.IntVar(&f.Machine, "machine", 1, "`number` of this machine among them, from 1")
	flags.BoolVar(&f.judge, "judge", false, "run nothing; judge the histories below --history against --store")
	f.lock.add(flags)
	_ = cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions(
		append(slices.Clone(stress.Protocols), locks.ProtocolLockfile), cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return cmd
}

// A stressResult is what came of a run.
type stressResult interface {
	Print(w io.Writer) error
	OK() bool
	Verdict() string
}

func (a *app) stress(cmd *cobra.Command, f *stressFlags) error {
	if err := f.complete(a, cmd); err != nil {
		return err
	}
	var report *os.File
	if f.report != "" { // that it cannot be made must not be noticed after an hour
		var err error
		if report, err = os.Create(f.report); err != nil {
			return err
		}
		defer report.Close()
	}
	ctx, stop := interruptible()
	defer stop()

	var r stressResult
	var err error
	switch {
	case f.lock.on && f.judge:
		r, err = locks.Judge(f.History)
	case f.lock.on:
		progress, clear := progressLine(a.stderr, lockProgress)
		r, err = locks.Run(ctx, f.lock.Config, progress)
		clear()
	case f.judge:
		r, err = stress.Judge(ctx, f.History, f.Store)
	default:
		progress, clear := progressLine(a.stderr, stressProgress)
		r, err = stress.Run(ctx, f.Config, progress)
		clear()
	}
	if err != nil {
		return f.explain(err)
	}
	if err := a.printStress(r, report); err != nil {
		return err
	}
	var sig signalError
	switch {
	case !r.OK():
		return fail(exitNo, "", "%s", r.Verdict())
	case errors.As(context.Cause(ctx), &sig):
		return fail(exitSignal+int(sig.sig), "", "%w; what had been done until then is not at fault", sig)
	}
	return nil
}

// complete takes over the flags that all verbs have, and checks what the
// Config cannot.
func (f *stressFlags) complete(a *app, cmd *cobra.Command) error {
	flags := cmd.Flags()
	f.Store = a.dir // not the environment's: it holds somebody's records
	f.Timeout = a.timeout
	if flags.Changed("seed") && f.Seed == 0 {
		return usagef("", "--seed 0 is not a seed; begin with 1")
	}
	if err := f.lock.fromRest(cmd, f); err != nil {
		return err
	}
	several := f.Machines > 1
	switch {
	case f.lock.on:
		return nil
	case f.judge && (f.Store == "" || f.History == ""):
		return usagef("", "--judge needs --store and --history")
	case several && !flags.Changed("seed") && !f.judge:
		return usagef("give all machines the same --seed", "a run on several machines needs --seed")
	case f.Seed == 0:
		f.Seed = uint64(rand.Uint32()) + 1
	}
	if !f.judge {
		if err := f.Check(); err != nil {
			return usagef("recordctl stress --help explains the flags", "stress: %w", err)
		}
	}
	return nil
}

// printStress prints the result, and writes it to the report, if there is one.
func (a *app) printStress(r stressResult, report *os.File) error {
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	content = append(content, '\n')
	if a.json {
		err = a.printBytes(content)
	} else if err = r.Print(a.out); err == nil && r.OK() { // a verdict that is not ok goes to standard error
		err = a.printf("%s\n", r.Verdict())
	}
	if err != nil || report == nil {
		return err
	}
	if _, err := report.Write(content); err != nil {
		return err
	}
	return report.Close()
}

func stressProgress(p, last stress.Progress) string {
	rate := float64(p.Commits-last.Commits) / max(p.Elapsed-last.Elapsed, 1).Seconds()
	return fmt.Sprintf("%5.1f s  %d commits (%.0f/s)  %d reads  %d kills", p.Elapsed.Seconds(), p.Commits, rate, p.Reads, p.Kills)
}

// progressLine returns a function that rewrites one line of a terminal, and
// one that clears it. For anything but a terminal they are nil and do nothing.
func progressLine[P any](w io.Writer, line func(p, last P) string) (show func(P), clear func()) {
	if !isTerminal(w) {
		return nil, func() {}
	}
	var last P
	show = func(p P) {
		fmt.Fprintf(w, "\r%s\x1b[K", line(p, last))
		last = p
	}
	return show, func() { fmt.Fprint(w, "\r\x1b[K") }
}

// explain gives an error its exit status.
func (f *stressFlags) explain(err error) error {
	switch {
	case errors.Is(err, stress.ErrTaken), errors.Is(err, locks.ErrTaken):
		return fail(exitCantCreate, "without --store and --history temporary ones are used", "%w", err)
	case errors.Is(err, stress.ErrNoHistory):
		return fail(exitNoInput, "bring those of all machines together below one directory, and name it with --history", "%w", err)
	case f.judge && errors.Is(err, locks.ErrNothing):
		return fail(exitNoInput, "", "%s: %w", f.History, err)
	case f.judge && errors.Is(err, fs.ErrNotExist):
		return fail(exitNoInput, "", "%w", err)
	}
	return err
}
