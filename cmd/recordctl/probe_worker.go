package main

import (
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/lockfile"
)

// newLockProbeWorkerCmd makes the verb of the processes that a probe of locks starts.
func newLockProbeWorkerCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "lock-probe-worker",
		Short:  "Take part in a probe of locks, which starts this itself",
		Hidden: true,
		Args:   cobra.ArbitraryArgs,
		RunE:   a.verb(func(_ *cobra.Command, args []string) error { return lockfile.ProbeWorker(args) }),
	}
}

// probeWorker makes the command of such a process.
func probeWorker(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	return exec.Command(exe, append([]string{"lock-probe-worker", "--"}, args...)...)
}
