package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/internal/doctor"
	"github.com/recordstore/recordstore/lockfile"
)

func newDoctorCmd(a *app) *cobra.Command {
	var processes int
	cmd := &cobra.Command{
		Use:   "doctor [DIR]",
		Short: "Examine whether a directory can hold a store",
		Long: `Doctor examines a directory: which file system it is on and how that is mounted,
whether files can be published there without replacing others, whether files
and directories can be flushed, in which steps time stamps move, and which kinds
of locks exclude each other across processes. DIR need not be a store; without
it, the store's directory is examined.

The first line of the output is the verdict, the rest the reasons. A "note" is
something to know, "bad" a reason not to keep a store there. Doctor works in a
directory that it makes within DIR and removes; if it is killed, that stays, as
.doctor.N, until doctor is run there an hour later or more. It takes some seconds, and
more where something does not answer. What other machines do it cannot see.
It waits for nobody's lock, so that --timeout means nothing to it.

Exit status: 0 if a store can be kept there, 1 if not.`,
		Example: `  recordctl doctor /mnt/results
  recordctl doctor --json /mnt/results | jq '.findings[] | select(.grade != "good")'`,
		Args: arguments("[DIR]"),
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			if err := checkProcesses("doctor", processes); err != nil {
				return err
			}
			if len(args) > 0 {
				return a.doctor(args[0], processes)
			}
			dir, err := a.storeDir(cmd)
			if err != nil {
				return err
			}
			return a.doctor(dir, processes)
		}),
	}
	addProcesses(cmd, &processes)
	return cmd
}

func (a *app) doctor(dir string, processes int) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	e := doctor.Examination{Prober: lockfile.Prober{Worker: probeWorker, Processes: processes}}
	if isTerminal(a.stderr) {
		e.Progress = func(step string) { a.note("examining %s ...", step) }
	}
	ctx, stop := interruptible()
	defer stop()
	r, err := e.Examine(ctx, dir)
	if err != nil {
		return interrupted(ctx, err)
	}
	if a.json {
		err = a.printJSON(r)
	} else {
		err = a.printDoctor(r)
	}
	if err != nil || r.OK {
		return err
	}
	return &failure{code: exitNo}
}

func (a *app) printDoctor(r *doctor.Report) error {
	where := r.FileSystem
	if r.NFSVersion != "" {
		where += " " + r.NFSVersion
	}
	if r.MountPoint != "" {
		where += ", " + r.Source + " on " + r.MountPoint
	}
	if err := a.printf("%s\n\n", r.Verdict); err != nil {
		return err
	}
	for _, line := range [][2]string{
		{"directory", r.Dir},
		{"file system", where},
		{"mount options", strings.Join(r.Options, ",")},
	} {
		if err := a.printf("%-15s %s\n", line[0]+":", oneLine(line[1])); err != nil {
			return err
		}
	}
	for _, f := range r.Findings {
		if err := a.printf("\n%-8s %s: %s", f.Grade, f.About, oneLine(f.Text)); err != nil {
			return err
		}
	}
	return a.printf("\n\n%s", r.Locks.Table())
}
