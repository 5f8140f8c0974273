package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

// putFlags are the flags of put.
type putFlags struct {
	valueFlags
	ifAbsent   bool
	ifRevision string
}

func newPutCmd(a *app) *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:   "put KEY VALUE|-|@FILE",
		Short: "Store a value under a key",
		Long: `Put stores VALUE under KEY, whether or not there is a record already.

` + valueHelp + `

--if-absent stores it only if there is no such record, --if-revision N only if
the record's last write has revision N (0: there is none). The check and the
write are one atomic step. Revisions are shown by get --json and list --long.

The record does not expire, whatever was there before, unless --ttl is given.

--codec json checks that VALUE is JSON and stores it in canonical form: no
white space, keys sorted. --codec msgpack takes JSON as well and stores it as
MessagePack.

The store is created if its directory is missing or empty; not so with an
--if-revision other than 0. Put prints nothing; with --json, the key and the new
revision. When it ends with status 0 the value is on disk.

Exit status: 0, or 1 if the condition is not met.`,
		Example: `  recordctl put colour blue
  recordctl put photo @photo.jpg
  date | recordctl put now -
  recordctl put --if-absent --ttl 10m leader "$(hostname)"
  recordctl put --codec json point '{"x": 1, "y": 2}'
  recordctl put temperature -- -5`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return usagef("recordctl put KEY VALUE, or - to read standard input, or @FILE to read a file", "put: VALUE is missing")
			}
			return arguments("KEY", "VALUE")(cmd, args)
		},
		ValidArgsFunction: a.completeKey,
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			return a.put(cmd, args[0], args[1], &f)
		}),
	}
	cmd.Flags().BoolVar(&f.ifAbsent, "if-absent", false, "only if there is no such record")
	cmd.Flags().StringVar(&f.ifRevision, "if-revision", "", "only if the record's last write has revision `N`; 0: if there is none")
	f.addTTL(cmd, "the `time` after which the record expires, as 90s or 24h (default: never)")
	f.addCodec(cmd, "how to store the value: `raw`, json or msgpack (default raw)")
	f.addLiteral(cmd)
	return cmd
}

// condition returns the revision that --if-absent or --if-revision asks for.
func (f *putFlags) condition(cmd *cobra.Command) (want store.Revision, conditional bool, err error) {
	given := cmd.Flags().Changed("if-revision")
	switch {
	case f.ifAbsent && given:
		return 0, false, usagef("--if-absent is --if-revision 0", "put: --if-absent and --if-revision exclude each other")
	case given:
		want, err = parseRevision(f.ifRevision)
		return want, true, err
	}
	return 0, f.ifAbsent, nil
}

// parseRevision reads the argument of --if-revision.
func parseRevision(s string) (store.Revision, error) {
	rev, err := store.ParseRevision(s)
	if err != nil {
		return 0, usagef("get --json and list --long show the revisions", "--if-revision: %q is not a revision", s)
	}
	return rev, nil
}

func (a *app) put(cmd *cobra.Command, key, value string, f *putFlags) (err error) {
	want, conditional, err := f.condition(cmd)
	if err != nil {
		return err
	}
	if err := errors.Join(checkKey(key), f.check()); err != nil {
		return err
	}
	codecName := f.codec
	if codecName == "" {
		codecName = codec.Raw.Name()
	}
	data, err := a.readValue("put", value, f.literal)
	if err != nil {
		return err
	}
	if data, err = encode(codecName, data); err != nil {
		return fail(exitData, "", "put: the value %w", err)
	}

	s, err := a.openWrite(cmd, want == 0, purpose("put", key))
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	rev, err := a.update(s, func(tx *store.Tx) error {
		if conditional {
			have, err := revisionOf(tx, key)
			if err != nil {
				return err
			}
			if have != want {
				return &store.ConflictError{Key: key, Want: want, Have: have}
			}
		}
		return tx.PutEncoded(key, codecName, data, f.putOptions(cmd, store.Record{})...)
	})
	if err != nil {
		return err
	}
	return a.wrote(key, rev)
}

// revisionOf returns the revision of a record's last write, 0 if there is no
// such record.
func revisionOf(tx *store.Tx, key string) (store.Revision, error) {
	rec, err := tx.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	return rec.Revision, err
}

// purpose says in the lock what it is held for.
func purpose(verb, key string, argv ...string) string {
	p := "recordctl " + verb + " " + displayKey(key)
	if len(argv) > 0 {
		p += " -- " + strings.Join(argv, " ")
	}
	return p
}
