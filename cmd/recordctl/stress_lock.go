package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/recordstore/recordstore/internal/stress/locks"
)

// lockStressFlags are those of stress --lock. Others it shares with stress.
type lockStressFlags struct {
	on bool
	locks.Config
}

func (f *lockStressFlags) add(flags *pflag.FlagSet) {
	flags.BoolVar(&f.on, "lock", false, "a lock file instead of a store")
	flags.IntVar(&f.Processes, "processes", 40, "--lock: `number` of processes that take the lock")
	flags.IntVar(&f.Acquisitions, "acquisitions", 0, "--lock: end after this `number` of them, and not after --duration")
	flags.DurationVar(&f.StopEvery, "stop-every", 40*time.Millisecond, "--lock: mean `time` between two suspensions; 0: nobody is suspended")
	flags.DurationVar(&f.TruncateEvery, "truncate-every", 50*time.Millisecond, "--lock: mean `time` between two truncations of the file; 0: none")
	flags.IntVar(&f.Removers, "removers", 2, "--lock: `number` of processes that remove the file")
	flags.DurationVar(&f.Stall, "stall", time.Second, "--lock: longest `time` after a death until somebody has the lock")
}

var (
	onlyWithLock    = []string{"processes", "acquisitions", "stop-every", "truncate-every", "removers", "stall"}
	onlyWithoutLock = []string{"writers", "readers", "wait", "read-pause", "journal", "network", "machines", "machine", "timeout"}
)

// fromRest takes over the flags that are the store's too.
func (f *lockStressFlags) fromRest(cmd *cobra.Command, rest *stressFlags) error {
	flags := cmd.Flags()
	wrong, with := onlyWithLock, "is only for stress --lock"
	if f.on {
		wrong, with = onlyWithoutLock, "has no meaning with --lock"
	}
	for _, name := range wrong {
		if flags.Changed(name) {
			return usagef("recordctl stress --help explains the flags", "stress: --%s %s", name, with)
		}
	}
	if !f.on {
		return nil
	}
	f.Dir, f.Notes, f.Keep, f.Seed = rest.Store, rest.History, rest.Keep, rest.Seed
	f.Threads, f.KillShare = rest.Threads, rest.KillShare
	if f.KillEvery = 50 * time.Millisecond; flags.Changed("kill-every") {
		f.KillEvery = rest.KillEvery
	}
	if f.Acquisitions == 0 || flags.Changed("duration") {
		f.Duration = rest.Duration
	}
	if flags.Changed("protocol") {
		f.Protocol = rest.Protocol
	}
	if f.Seed == 0 {
		f.Seed = uint64(rand.Uint32()) + 1
	}
	if rest.judge {
		if f.Notes == "" {
			return usagef("", "--judge needs --history")
		}
		return nil
	}
	if err := f.Check(); err != nil {
		return usagef("recordctl stress --help explains the flags", "stress: %w", err)
	}
	return nil
}

func lockProgress(p, last locks.Progress) string {
	rate := float64(p.Acquisitions-last.Acquisitions) / max(p.Elapsed-last.Elapsed, 1).Seconds()
	return fmt.Sprintf("%5.1f s  %d acquisitions (%.0f/s)  %d kills  %d stops", p.Elapsed.Seconds(), p.Acquisitions, rate, p.Kills, p.Stops)
}
