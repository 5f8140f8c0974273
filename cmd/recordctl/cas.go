package main

import (
	"bytes"
	"errors"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

func newCasCmd(a *app) *cobra.Command {
	var f valueFlags
	cmd := &cobra.Command{
		Use:   "cas KEY OLD NEW",
		Short: "Replace a value if it is the one expected (compare and swap)",
		Long: `Cas stores NEW under KEY if the value there is OLD. The comparison and the write
are one atomic step: of several that compare with the same OLD one succeeds,
unless NEW is the same again. To compare revisions use put --if-revision, which
also notices a value that was changed and changed back; to create a record, put
--if-absent.

For a raw record OLD is compared byte for byte. Of a json or msgpack record the
JSON is compared, in canonical form: as get prints it, or as it was put. NEW must
be JSON too. The record keeps its codec unless --codec is given. As with put, it
does not expire unless --ttl is given.

OLD and NEW are values as for put: - reads standard input (one of them), @FILE a
file, --literal takes both as they are. Mind that a shell's $(recordctl get KEY)
drops newlines at the end of a value.

Cas creates no store. It prints nothing; with --json, the key and the new
revision. When it ends with status 0 the new value is on disk.

Exit status: 0, or 1 if the value is another or there is no such record.`,
		Example: `  recordctl cas state idle running || echo "somebody else was faster"
  recordctl get doc > old; sed s/cat/dog/ old > new; recordctl cas doc @old @new`,
		Args:              arguments("KEY", "OLD", "NEW"),
		ValidArgsFunction: a.completeKey,
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			return a.cas(cmd, args[0], args[1], args[2], &f)
		}),
	}
	f.addTTL(cmd, "the `time` after which the record expires, as 90s or 24h (default: never)")
	f.addCodec(cmd, "how to store NEW: `raw`, json or msgpack (default: as OLD was)")
	f.addLiteral(cmd)
	return cmd
}

func (a *app) cas(cmd *cobra.Command, key, oldArg, newArg string, f *valueFlags) (err error) {
	if err := errors.Join(checkKey(key), f.check()); err != nil {
		return err
	}
	if oldArg == "-" && newArg == "-" && !f.literal {
		return usagef("read one of them from a file: @FILE", "cas: OLD and NEW cannot both be standard input")
	}
	oldText, err := a.readValue("cas", oldArg, f.literal)
	if err != nil {
		return err
	}
	newText, err := a.readValue("cas", newArg, f.literal)
	if err != nil {
		return err
	}
	s, err := a.openWrite(cmd, false, purpose("cas", key))
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	rev, err := a.update(s, func(tx *store.Tx) error {
		rec, err := tx.Get(key)
		if errors.Is(err, store.ErrNotFound) {
			return errNoRecord(key)
		}
		if err != nil {
			return err
		}
		same, err := sameText(rec, oldText)
		if err != nil {
			return err
		}
		if !same {
			return fail(exitNo, "recordctl get shows it", "%q has another value, of revision %s", key, rec.Revision)
		}
		codecName := f.codec
		if codecName == "" {
			codecName = rec.Codec
		}
		data, err := encode(codecName, newText)
		if err != nil {
			return fail(exitData, "--codec raw stores any value", "cas: %q is a %s record, and NEW %w", key, codecName, err)
		}
		return tx.PutEncoded(key, codecName, data, f.putOptions(cmd, store.Record{})...)
	})
	if err != nil {
		return err
	}
	return a.wrote(key, rev)
}

// sameText compares a record's value with the text given for it. A text that
// is not JSON is no value of a record that is.
func sameText(rec store.Record, text []byte) (bool, error) {
	have, err := decode(rec)
	if err != nil {
		return false, err
	}
	if rec.Codec == codec.Raw.Name() {
		return bytes.Equal(have, text), nil
	}
	given, err := encode(codec.JSON.Name(), text)
	if err != nil {
		return false, nil //nolint:nilerr // it differs, that is all
	}
	if bytes.Equal(have, given) {
		return true, nil
	}
	// The text that was put may be another: get shows a MessagePack 2e3 as 2000.0.
	value, err := encode(rec.Codec, text)
	return err == nil && bytes.Equal(value, rec.Value), nil
}
