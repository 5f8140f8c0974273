package main

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

func newIncrCmd(a *app) *cobra.Command {
	var (
		f  valueFlags
		by string
	)
	cmd := &cobra.Command{
		Use:   "incr KEY [N]",
		Short: "Add to a number, atomically, and print the sum",
		Long: `Incr adds N, or 1, to the number stored under KEY and prints the new number.
A record that does not exist counts as 0. To subtract write --by=-5, or put the
negative number behind --.

A number is a whole decimal one from -9223372036854775808 to 9223372036854775807,
as text if the record is raw, or a json or msgpack integer. The record keeps its
codec, and its expiry unless --ttl is given; a new record is raw.

If the value is not such a number, or the sum would not be one, nothing is
changed and the status is 65. With --json, incr prints the key, the revision
and the value. When it ends with status 0 the new number is on disk.`,
		Example: `  recordctl incr visits
  recordctl incr visits 10
  recordctl incr stock --by=-1
  id=$(recordctl incr next-id)`,
		Args:              arguments("KEY", "[N]"),
		ValidArgsFunction: a.completeKey,
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			n, err := addend(cmd, args, by)
			if err != nil {
				return err
			}
			return a.incr(cmd, args[0], n, &f)
		}),
	}
	cmd.Flags().StringVar(&by, "by", "1", "add `N`, which may be negative")
	f.addTTL(cmd, "the `time` after which the record expires; 0: never (default: as it was)")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("to subtract 5 write recordctl incr KEY --by=-5", "incr: %w", err)
	})
	return cmd
}

// addend returns the number to add, from the argument or --by.
func addend(cmd *cobra.Command, args []string, by string) (int64, error) {
	if len(args) == 2 {
		if cmd.Flags().Changed("by") {
			return 0, usagef("", "incr: N and --by are the same; give one")
		}
		by = args[1]
	}
	n, err := strconv.ParseInt(by, 10, 64)
	if err != nil {
		return 0, usagef("N is a whole decimal number of at most 64 bits", "incr: %s is not a number", quoteArg(by))
	}
	return n, nil
}

func (a *app) incr(cmd *cobra.Command, key string, n int64, f *valueFlags) (err error) {
	if err := errors.Join(checkKey(key), f.check()); err != nil {
		return err
	}
	s, err := a.openWrite(cmd, true, purpose("incr", key))
	if err != nil {
		return err
	}
	defer closeStore(s, &err)

	var sum int64
	rev, err := a.update(s, func(tx *store.Tx) error {
		old, err := tx.Get(key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		exists := err == nil
		c, now := codec.Codec(codec.Raw), int64(0)
		if exists {
			if c, err = codec.ByName(old.Codec); err != nil {
				return valueError(key, err)
			}
			if now, err = integer(old); err != nil {
				return err
			}
		}
		if n > 0 && now > math.MaxInt64-n || n < 0 && now < math.MinInt64-n {
			return fail(exitData, "", "%q is %d; with %d more it would need more than 64 bits", key, now, n)
		}
		sum = now + n
		var v any = sum
		if c == codec.Raw {
			v = strconv.FormatInt(sum, 10)
		}
		data, err := c.Marshal(v)
		if err != nil {
			return err
		}
		return tx.PutEncoded(key, c.Name(), data, f.putOptions(cmd, old)...)
	})
	if err != nil {
		return err
	}
	a.changed = true
	text := strconv.FormatInt(sum, 10)
	if a.json {
		w := jsonWritten{Revision: rev, Value: json.RawMessage(text)}
		w.Key, w.KeyBase64 = jsonKey(key)
		return a.printJSON(w)
	}
	return a.printf("%s\n", text)
}

// integer returns the number that a record has.
func integer(r store.Record) (int64, error) {
	var text string
	if r.Codec == codec.Raw.Name() {
		text = strings.TrimSpace(string(r.Value))
	} else {
		var v any
		if err := r.Decode(&v); err != nil {
			return 0, valueError(r.Key, err)
		}
		switch v := v.(type) {
		case int64:
			return v, nil
		case json.Number:
			text = v.String()
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fail(exitData, "recordctl get shows it, recordctl put replaces it",
			"%q is not a whole number of 64 bits", r.Key)
	}
	return n, nil
}
