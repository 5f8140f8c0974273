package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

func newUpdateCmd(a *app) *cobra.Command {
	var f valueFlags
	cmd := &cobra.Command{
		Use:                   "update KEY [flags] -- CMD [ARG]...",
		DisableFlagsInUseLine: true,
		Short:                 "Pass the value of a record through a command, atomically",
		Long: `Update runs CMD with the value of KEY on its standard input, and stores what CMD
writes to its standard output as the new value. If there is no such record, CMD
reads an empty input. In its environment are RECORDCTL_KEY; RECORDCTL_EXISTS,
which is 1 or 0; RECORDCTL_REVISION, 0 if there is no record; RECORDCTL_STORE.

Nobody changes the store between the reading and the writing: update holds the
store's lock while CMD runs. Other writers wait so long, readers do not. So CMD
should be quick, and it must not change the same store: a recordctl that would is
refused at once with status 78. Reading it is fine.

If CMD fails, that is ends with a status other than 0, nothing is written and
update ends with the same status: 128+N if signal N killed it, 127 if it was not
found, 126 if it cannot be executed. SIGINT, SIGTERM, SIGHUP and SIGQUIT are
passed on to CMD; nothing is written then either, and the status is 128+N. SIGUSR1
and SIGUSR2 are passed on too, and change nothing else. Those
that a terminal sends CMD has had already: while both are in the foreground of one,
update does not pass on SIGINT and SIGQUIT, whoever sent them.

CMD may run more than once, when the lock failed and another process wrote in
between; the output of its last run counts. It should have no side effects.

The value keeps its codec and its expiry, unless --codec or --ttl are given. A
value of the codec json or msgpack is JSON for CMD, and what CMD writes must be
JSON too; a new record is raw. In msgpack a number without fraction and exponent is
an integer, any other a float. A msgpack record with bytes, times and whatever else
JSON cannot express is refused, with status 65, unless --codec is given. What a process that CMD leaves behind writes is
waited for, but not longer than 5 seconds; then nothing is written, status 74.

--timeout bounds the waiting for the lock, not the time that CMD takes.`,
		Example: `  recordctl update todo -- sort -u
  recordctl update log -- sh -c 'cat; date'
  recordctl update --codec json config -- jq '.debug = true'`,
		ValidArgsFunction: a.completeKey,
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			own, argv, err := commandArgs(cmd, args, 1, "KEY")
			if err != nil {
				return err
			}
			return a.runUpdate(cmd, own[0], argv, &f)
		}),
	}
	f.addTTL(cmd, "the `time` after which the record expires; 0: never (default: as it was)")
	f.addCodec(cmd, "how to store the new value: `raw`, json or msgpack (default: as it was)")
	return cmd
}

func (a *app) runUpdate(cmd *cobra.Command, key string, argv []string, f *valueFlags) (err error) {
	if err := errors.Join(checkKey(key), f.check()); err != nil {
		return err
	}
	if err := exec.Command(argv[0]).Err; err != nil {
		return startError(argv[0], err)
	}
	s, err := a.openWrite(cmd, true, purpose("update", key, argv...))
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	dir, err := a.storeDir(cmd)
	if err != nil {
		return err
	}

	rev, err := a.update(s, func(tx *store.Tx) error {
		old, err := tx.Get(key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		old.Key = key
		return a.updateThrough(cmd, tx, dir, old, argv, f)
	})
	if err != nil {
		return err
	}
	return a.wrote(key, rev)
}

// updateThrough runs the command on the old record, whose revision is 0 if
// there is none, and puts what it wrote.
func (a *app) updateThrough(cmd *cobra.Command, tx *store.Tx, dir string, old store.Record, argv []string, f *valueFlags) error {
	codecName, text := codec.Raw.Name(), []byte(nil)
	if old.Revision != 0 {
		codecName = old.Codec
		var err error
		if text, err = decode(old); err != nil {
			return err
		}
		if f.codec == "" {
			if err := checkJSONKeeps(old, text); err != nil {
				return err
			}
		}
	}
	if f.codec != "" {
		codecName = f.codec
	}
	output, err := a.filter(dir, old, text, argv)
	if err != nil {
		return err
	}
	data, err := encode(codecName, output)
	if err != nil {
		return fail(exitData, "--codec raw stores any output", "update %q: what %q wrote %w; nothing was written", old.Key, argv[0], err)
	}
	return tx.PutEncoded(old.Key, codecName, data, f.putOptions(cmd, old)...)
}

// filter runs the command with text on its standard input and returns what it
// wrote.
func (a *app) filter(dir string, old store.Record, text []byte, argv []string) ([]byte, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	updating, err := addMark(updatingEnv, dir, storeLock)
	if err != nil {
		return nil, err
	}
	exists := "0"
	if old.Revision != 0 {
		exists = "1"
	}
	output := &boundedBuffer{limit: store.MaxValueSize}
	child := exec.Command(argv[0], argv[1:]...)
	child.Stdin = bytes.NewReader(text)
	child.Stdout = output
	child.Stderr = a.stderr
	child.Env = childEnv(updating, storeEnv+"="+absolute,
		"RECORDCTL_KEY="+old.Key,
		"RECORDCTL_EXISTS="+exists,
		"RECORDCTL_REVISION="+strconv.FormatUint(uint64(old.Revision), 10))
	status := childStatus{signaled: a.kept.came()} // of which the command would not know
	if status.signaled == nil {
		status, err = runChild(child)
	}
	if err == nil || errors.Is(err, errOutputHeld) {
		if failed := status.failed(argv[0], output); failed != "" {
			f := &failure{code: status.exitCode(output), msg: fmt.Sprintf("update %q: %s; nothing was written", old.Key, failed), err: status.err()}
			if status.signaled != nil {
				f.err = *status.signaled
			}
			return nil, f
		}
	}
	if errors.Is(err, errOutputHeld) {
		return nil, fail(exitIO, "redirect the output of what runs in the background", "update %q: %w; nothing was written", old.Key, err)
	}
	return output.data, err
}

// failed says in what way the command failed, or "".
func (s childStatus) failed(name string, output *boundedBuffer) string {
	switch {
	case s.signaled != nil:
		return s.signaled.Error()
	case output.over:
		return fmt.Sprintf("%q wrote more than the %d bytes that a value may have", name, output.limit)
	case s.killed:
		return fmt.Sprintf("%q was killed by signal %d", name, s.code-exitSignal)
	case s.code != 0:
		return fmt.Sprintf("%q ended with status %d", name, s.code)
	}
	return ""
}

// exitCode is our status after a command that failed.
func (s childStatus) exitCode(output *boundedBuffer) int {
	switch {
	case s.signaled != nil:
		return exitSignal + int(s.signaled.sig)
	case output.over:
		return exitData
	}
	return s.code
}
