package main

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/lockfile"
)

func newLockStatusCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status PATH...",
		Short: "Show who holds locks, and how many wait",
		Long: `Status prints a line for each lock: whether it is free, who holds it, since when and
what for, who shares it, and how many wait for it. PATH is a lock file, or with a
store the name of one of its locks, as for recordctl lock.

It needs permission to read the file, takes no lock, not even for an instant, and
changes nothing. On Linux it asks the kernel which processes have the lock, and so
names those that have inherited it from one that is gone, and programs that are
not recorded.

With --json it prints an object for each lock: path (or path_base64, if it is not
UTF-8), mechanism, state (free, shared, exclusive, foreign: held by a program that
locks by other means, unseen: it cannot be told), holder (as recorded, or null),
liveness (of the holder: alive, dead or unknown, or null), processes (that have the
lock), waiting (null if not known) and breaks (when the lock was taken from somebody:
the last 16 times, or some more, the last first).

Exit status: 0 if all are free, 75 if one is held or may be, 66 if a file is
missing.`,
		Example: `  recordctl lock status /run/lock/*.lock
  recordctl lock status --json ./backup | jq .holder.pid`,
		Args: minimumArguments("PATH"),
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			var targets []lockTarget
			for _, arg := range args {
				t, err := a.lockTarget(cmd, []string{arg})
				if err != nil {
					return err
				}
				targets = append(targets, t)
			}
			return a.lockStatus(targets)
		}),
	}
}

// minimumArguments checks that there is an argument.
func minimumArguments(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("usage: "+cmd.UseLine(), "%s: %s is missing", cmd.Name(), name)
		}
		return nil
	}
}

func (a *app) lockStatus(targets []lockTarget) error {
	var held bool
	var failed error // the first
	for _, t := range targets {
		st, err := lockfile.Inspect(t.path)
		if err != nil {
			err = missingLock(t.path, err)
			if failed != nil {
				a.note("%s", describe(err).msg)
			} else {
				failed = err
			}
			continue
		}
		held = held || st.State != lockfile.Free
		if a.json {
			err = a.printJSON(toJSONLock(st))
		} else {
			err = a.printf("%s: %s\n", displayKey(t.path), oneLine(st.String()))
		}
		if err != nil {
			return err
		}
	}
	if failed == nil && held {
		return &failure{code: exitLocked}
	}
	return failed
}

// missingLock gives a lock file that is not there a status of its own.
func missingLock(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fail(exitNoInput, "", "there is no lock file %q", path)
	}
	return err
}

// jsonLock is a lock as --json prints it.
type jsonLock struct {
	Path       *string            `json:"path,omitempty"`
	PathBase64 []byte             `json:"path_base64,omitempty"` // in place of Path if that is not UTF-8
	Mechanism  lockfile.Mechanism `json:"mechanism"`
	State      string             `json:"state"`
	Holder     *jsonLockHolder    `json:"holder"`
	Liveness   *string            `json:"liveness"`
	Processes  []jsonProcess      `json:"processes"`
	Waiting    *int               `json:"waiting"`
	Breaks     []jsonBreak        `json:"breaks"`
}

// jsonLockHolder is a holder of a lock; what is not known is null.
type jsonLockHolder struct {
	PID          int       `json:"pid"`
	Host         string    `json:"host"`
	Command      string    `json:"command"`
	Purpose      string    `json:"purpose"`
	Since        time.Time `json:"since"`
	UID          *int      `json:"uid"`
	Start        *uint64   `json:"start"`
	PIDNamespace *uint64   `json:"pid_namespace"`
	BootID       *string   `json:"boot_id"`
	MachineID    *string   `json:"machine_id"`
	Claim        *string   `json:"claim"`
}

type jsonProcess struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Shared  bool   `json:"shared"`
}

// jsonBreak says that a lock was taken from somebody.
type jsonBreak struct {
	Time time.Time      `json:"time"`
	By   jsonLockHolder `json:"by"`
	Was  jsonLockHolder `json:"was"`
	Why  string         `json:"why"`
}

func toJSONLock(st lockfile.Status) jsonLock {
	j := jsonLock{Mechanism: st.Mechanism, State: st.State.String(), Processes: []jsonProcess{}, Breaks: []jsonBreak{}}
	j.Path, j.PathBase64 = jsonKey(st.Path)
	if st.Known {
		h, liveness := toJSONLockHolder(st.Holder), st.Liveness.String()
		j.Holder, j.Liveness = &h, &liveness
	}
	for _, p := range st.Processes {
		j.Processes = append(j.Processes, jsonProcess(p))
	}
	if st.Waiting >= 0 {
		j.Waiting = &st.Waiting
	}
	for _, b := range st.Breaks {
		j.Breaks = append(j.Breaks, toJSONBreak(b))
	}
	return j
}

func toJSONLockHolder(h lockfile.Holder) jsonLockHolder {
	return jsonLockHolder{
		PID: h.PID, Host: h.Host, Command: h.Command, Purpose: h.Purpose, Since: h.Since,
		UID: unless(h.UID, -1), Start: unless(h.Start, 0), PIDNamespace: unless(h.PIDNamespace, 0),
		BootID: hexID(h.BootID), MachineID: hexID(h.MachineID), Claim: hexID(h.Claim),
	}
}

func toJSONBreak(b lockfile.Break) jsonBreak {
	return jsonBreak{Time: b.Time, By: toJSONLockHolder(b.By), Was: toJSONLockHolder(b.Was), Why: b.Why}
}

// unless returns nil for the value that means unknown.
func unless[T comparable](v, unknown T) *T {
	if v == unknown {
		return nil
	}
	return &v
}

func hexID(id [16]byte) *string {
	if id == [16]byte{} {
		return nil
	}
	s := hex.EncodeToString(id[:])
	return &s
}
