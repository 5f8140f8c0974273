package main

import (
	"bytes"
	"errors"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

func newGetCmd(a *app) *cobra.Command {
	var fresh bool
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Print the value of a record",
		Long: `Get prints the value of KEY.

A raw value, as put stores it, is printed byte for byte with no newline added,
so that get KEY > FILE is the way back from put KEY @FILE. (On a terminal a
newline follows a value that has none.) A value of another codec is printed as
JSON on one line. With --json the whole record is printed as one JSON object:
key, revision, time, expires (null: never), codec and value. A key that is not
UTF-8 is in key_base64 in place of key; the value of a raw record that is not
UTF-8 is {"base64":"..."}.

Get takes no lock, waits for nobody and changes nothing. What it prints is one
committed state. On a network file system that may be a slightly old one;
--fresh is certain to see every change that was reported as done before, but
waits for the store's lock and needs permission to write.

Exit status: 0, or 1 if there is no such record.`,
		Example: `  recordctl get colour
  recordctl get photo > photo.jpg
  recordctl get --json colour | jq .revision`,
		Args:              arguments("KEY"),
		ValidArgsFunction: a.completeKey,
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			return a.get(cmd, args[0], fresh)
		}),
	}
	addFresh(cmd, &fresh)
	return cmd
}

func addFresh(cmd *cobra.Command, fresh *bool) {
	cmd.Flags().BoolVar(fresh, "fresh", false, "wait for the lock, to see all that is done by now")
}

func (a *app) get(cmd *cobra.Command, key string, fresh bool) (err error) {
	if err := checkKey(key); err != nil {
		return err
	}
	sn, done, err := a.snapshot(cmd, fresh)
	if err != nil {
		return err
	}
	defer done(&err)
	rec, err := sn.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return errNoRecord(key)
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printRecord(rec)
	}
	text, err := decode(rec)
	if err != nil {
		return err
	}
	if err := a.printBytes(text); err != nil {
		return err
	}
	if rec.Codec != codec.Raw.Name() || isTerminal(a.stdout) && !bytes.HasSuffix(text, []byte("\n")) {
		return a.printf("\n")
	}
	return nil
}

// snapshot opens the store and returns one committed state of it, and what to
// call when it has been read.
func (a *app) snapshot(cmd *cobra.Command, fresh bool) (*store.Snapshot, func(*error), error) {
	open, take := a.openRead, a.plainSnapshot
	if fresh {
		open, take = a.openFresh, a.freshSnapshot
	}
	s, err := open(cmd)
	if err != nil {
		return nil, nil, err
	}
	sn, err := take(s)
	if err != nil {
		closeStore(s, &err)
		return nil, nil, err
	}
	return sn, func(err *error) {
		if closeErr := sn.Close(); *err == nil {
			*err = closeErr
		}
		closeStore(s, err)
	}, nil
}

// openFresh opens the store for FreshSnapshot, which may commit.
func (a *app) openFresh(cmd *cobra.Command) (*store.Store, error) {
	return a.openWrite(cmd, false, "recordctl "+cmd.Name()+" --fresh")
}

func (a *app) plainSnapshot(s *store.Store) (*store.Snapshot, error) {
	return s.Snapshot(background)
}

func (a *app) freshSnapshot(s *store.Store) (*store.Snapshot, error) {
	w := a.startWait(lockPath(s))
	defer w.stop()
	sn, err := s.FreshSnapshot(w)
	return sn, w.explain(err)
}
