package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/lockfile"
)

func newLockBreakCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "break PATH",
		Short: "Take a lock from a holder who is gone",
		Long: `Break frees a lock that its holder cannot free any more, and prints from whom it was
taken and why. Who waits for the lock does the same, so that there is seldom a need.
PATH is a lock file, or with a store the name of one of its locks.

It breaks locks of the mechanism link, and only on proof: that the holder's process
is dead, or that its lease was not renewed for as long as it lasts, which break waits
for (--timeout bounds that). Where nothing can be proved, as of a process on another
machine, the message says what a person can do who knows more. Locks of all other
mechanisms are freed by the system when the processes that have them end: the message
names these.

Exit status: 0 if the lock was broken, 1 if it is free, 75 if it is held, 66 if there
is no such file.`,
		Example: `  recordctl lock break /mnt/shared/deploy.lock`,
		Args:    arguments("PATH"),
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			t, err := a.lockTarget(cmd, args)
			if err != nil {
				return err
			}
			return a.lockBreak(t.path)
		}),
	}
}

func (a *app) lockBreak(path string) error {
	before, _ := lockfile.Inspect(path)
	w := a.startWait(path)
	b, err := lockfile.BreakStale(w, path)
	ended := w.Err()
	cause := context.Cause(w)
	w.stop()
	if err == nil {
		if b.Was.Purpose == "" && before.Known && before.Holder.PID == b.Was.PID && before.Holder.Start == b.Was.Start {
			b.Was.Purpose = before.Holder.Purpose // which is in the lock file, not in what was broken
		}
		if a.json {
			return a.printJSON(toJSONBreak(b))
		}
		return a.printf("broke the lock that was held by %s: %s\n", oneLine(b.Was.String()), oneLine(b.Why))
	}
	var sig signalError
	if ended != nil && errors.As(cause, &sig) {
		return w.explain(err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return missingLock(path, err)
	}
	st, inspectErr := lockfile.Inspect(path)
	var held *lockfile.HeldError
	switch {
	case inspectErr == nil && st.State == lockfile.Free:
		return fail(exitNo, "", "lock %s is free; there is nothing to break", path)
	case errors.As(err, &held):
		msg := held.Error()
		if ended != nil {
			msg = strings.TrimSuffix(msg, ": "+ended.Error()) // it means nothing to who reads this
		}
		return &failure{code: exitLocked, msg: msg, err: err}
	case errors.Is(err, errors.ErrUnsupported) && inspectErr == nil:
		hint := "end the process that has it"
		if len(st.Processes) > 0 {
			var names []string
			for _, p := range st.Processes {
				names = append(names, p.String())
			}
			hint = "it is free when these have ended: " + oneLine(strings.Join(names, ", "))
		}
		is := " is "
		if st.Liveness == lockfile.Dead {
			is = ": " // what follows is a sentence of its own
		}
		return fail(exitLocked, hint, "lock %s%s%s; %v locks are never broken, as the system frees them when a process ends",
			path, is, st, st.Mechanism)
	}
	return err
}

func newLockGCCmd(a *app) *cobra.Command {
	var olderThan time.Duration
	cmd := &cobra.Command{
		Use:   "gc DIR",
		Short: "Remove the lock files of a directory that nobody uses",
		Long: `Gc removes the lock files in DIR that are neither held nor waited for and have not been
modified for --older-than, and prints their paths. It may be run at any time, if all who
use the locks are of recordctl, or of package lockfile, in a version that has gc: who comes
to use such a file meanwhile makes a new one, where other programs, such as flock(1), would
go on with the old one. To take a lock modifies its file; to share it, or to hold it for
less than 100 ms over a network, does not.

It leaves alone what is not a lock file, files with data of an application, a store's own
LOCK and MERGE, and subdirectories.

With --json it prints one object: dir (or dir_base64, if it is not UTF-8), removed, and
removed_base64, for paths that are not UTF-8.

Exit status: 0 if all went well, also if there was nothing to remove.`,
		Example: `  recordctl lock gc /var/lib/jobs/locks --older-than 168h`,
		Args:    arguments("DIR"),
		RunE: a.verb(func(_ *cobra.Command, args []string) error {
			if olderThan < 0 {
				return usagef("", "gc: --older-than %s: a time cannot be negative", olderThan)
			}
			return a.lockGC(args[0], olderThan)
		}),
	}
	cmd.Flags().DurationVar(&olderThan, "older-than", 24*time.Hour, "leave alone what was modified in the last `time`")
	return cmd
}

func (a *app) lockGC(dir string, olderThan time.Duration) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	removed, failed := lockfile.RemoveUnused(dir, olderThan)
	a.changed = len(removed) > 0
	if a.json {
		if err := a.printJSON(toJSONGC(dir, removed)); err != nil {
			return err
		}
	} else {
		for _, path := range removed {
			if err := a.printf("%s\n", displayKey(path)); err != nil {
				return err
			}
		}
	}
	// An error is that of several files, and each has its line.
	if joined, ok := failed.(interface{ Unwrap() []error }); ok {
		errs := joined.Unwrap()
		for _, err := range errs[:len(errs)-1] {
			a.note("%s", describe(err).msg)
		}
		failed = errs[len(errs)-1]
	}
	if failed != nil && len(removed) > 0 {
		f := describe(failed)
		f.hint = strings.TrimPrefix(f.hint, "nothing was changed; ")
		failed = &f
	}
	return failed
}

// jsonGC is what --json makes gc print.
type jsonGC struct {
	Dir           *string  `json:"dir,omitempty"`
	DirBase64     []byte   `json:"dir_base64,omitempty"`
	Removed       []string `json:"removed"`
	RemovedBase64 [][]byte `json:"removed_base64,omitempty"` // those that are not UTF-8
}

func toJSONGC(dir string, removed []string) jsonGC {
	j := jsonGC{Removed: []string{}}
	j.Dir, j.DirBase64 = jsonKey(dir)
	for _, path := range removed {
		if text, raw := jsonKey(path); text != nil {
			j.Removed = append(j.Removed, *text)
		} else {
			j.RemovedBase64 = append(j.RemovedBase64, raw)
		}
	}
	return j
}

// checkDir gives a directory that is not there a status of its own.
func checkDir(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fail(exitNoInput, "", "%q: there is no such directory", dir)
	}
	return nil
}

func newLockProbeCmd(a *app) *cobra.Command {
	var processes int
	cmd := &cobra.Command{
		Use:   "probe DIR",
		Short: "Find out which locks work in a directory",
		Long: `Probe tries with several processes which mechanisms of locks work in DIR: whether they
exclude each other, how fast, and whether a lock is free when its holder is killed. It
tells which one recordctl lock uses for a new file there. It takes about a second for
each mechanism, and more for those that do not answer. It works in files that it makes
in DIR and removes. What other machines do it cannot see. With --json a DIR that is not
UTF-8 is dir_base64.

Exit status: 0 if the one that is used works, 1 if not.`,
		Example: `  recordctl lock probe /mnt/shared
  recordctl lock probe --json /mnt/shared | jq -r .default`,
		Args: arguments("DIR"),
		RunE: a.verb(func(_ *cobra.Command, args []string) error {
			if err := checkProcesses("probe", processes); err != nil {
				return err
			}
			return a.lockProbe(args[0], processes)
		}),
	}
	addProcesses(cmd, &processes)
	return cmd
}

func addProcesses(cmd *cobra.Command, processes *int) {
	cmd.Flags().IntVar(processes, "processes", 4, "`number` of processes that take each kind of lock")
}

func checkProcesses(verb string, processes int) error {
	if processes < 2 {
		return usagef("", "%s: --processes %d: it takes two to exclude each other", verb, processes)
	}
	return nil
}

func (a *app) lockProbe(dir string, processes int) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	if isTerminal(a.stderr) {
		a.note("trying the locks in %s, which takes some seconds ...", dir)
	}
	ctx, stop := interruptible()
	defer stop()
	prober := lockfile.Prober{Worker: probeWorker, Processes: processes}
	r, err := prober.Probe(ctx, dir)
	if err != nil {
		return interrupted(ctx, err)
	}
	if a.json {
		j := jsonProbe{Report: r}
		j.Dir, j.DirBase64 = jsonKey(r.Dir)
		err = a.printJSON(j)
	} else {
		err = a.printf("%s\n", strings.TrimRight(displayReport(r).String(), "\n"))
	}
	if err != nil || r.OK {
		return err
	}
	return &failure{code: exitNo}
}

// jsonProbe is a report of a probe as --json prints it.
type jsonProbe struct {
	Dir       *string `json:"dir,omitempty"`
	DirBase64 []byte  `json:"dir_base64,omitempty"` // in place of Dir if that is not UTF-8
	lockfile.Report
}

// displayReport returns the report as it can be printed: it has a directory's name, and
// the words of errors, which may have it too.
func displayReport(r lockfile.Report) lockfile.Report {
	r.Dir, r.Verdict = displayKey(r.Dir), oneLine(r.Verdict)
	r.Mechanisms = slices.Clone(r.Mechanisms)
	for i := range r.Mechanisms {
		r.Mechanisms[i].Detail = oneLine(r.Mechanisms[i].Detail)
	}
	return r
}
