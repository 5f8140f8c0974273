package main

import (
	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/store"
)

// listFlags are the flags of list.
type listFlags struct {
	count, long, null, fresh bool
}

func newListCmd(a *app) *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the keys, or count them",
		Long: `List prints the keys that begin with PREFIX, or all, in the order of their
bytes, one a line.

A key that has control characters or is not UTF-8, or begins with a quotation
mark, is printed as a quoted Go string. -0 prints every key as it is and a NUL
after it, for xargs -0.

--long prints a table of revision, time of the last write and expiry (UTC), size
of the stored value in bytes, codec and key. --json prints whole records, as get
--json does, one a line. --count prints the number of keys and nothing else.

List takes no lock, waits for nobody and changes nothing. What it prints is one
committed state, however long the reading takes; records that have expired are
not in it. For --fresh see get.

List prints while it reads. If it fails on the way, what it has printed are
whole lines, and the status is not 0. A PREFIX that no key has is no failure.`,
		Example: `  recordctl list
  recordctl list --count user/
  recordctl list -0 tmp/ | xargs -0 -n1 recordctl delete
  recordctl list --json | jq -r 'select(.expires) | .key'`,
		Aliases:           []string{"ls"},
		Args:              arguments("[PREFIX]"),
		ValidArgsFunction: a.completeKey,
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) > 0 {
				prefix = args[0]
			}
			return a.list(cmd, prefix, &f)
		}),
	}
	cmd.Flags().BoolVar(&f.count, "count", false, "print the number of keys only")
	cmd.Flags().BoolVarP(&f.long, "long", "l", false, "print a table with revision, time, expiry, size and codec")
	cmd.Flags().BoolVarP(&f.null, "null", "0", false, "print the keys as they are, with NUL after each")
	addFresh(cmd, &f.fresh)
	return cmd
}

func (a *app) list(cmd *cobra.Command, prefix string, f *listFlags) (err error) {
	if err := f.check(a.json); err != nil {
		return err
	}
	sn, done, err := a.snapshot(cmd, f.fresh)
	if err != nil {
		return err
	}
	defer done(&err)
	if f.count {
		return a.listCount(sn, prefix)
	}
	if f.long {
		if err := a.printf("%-8s  %-20s  %-20s  %8s  %-7s  %s\n", "REVISION", "TIME", "EXPIRES", "SIZE", "CODEC", "KEY"); err != nil {
			return err
		}
	}
	for rec, err := range sn.Prefix(prefix) {
		if err == nil {
			err = a.listRecord(rec, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// check refuses forms of output that exclude each other.
func (f *listFlags) check(json bool) error {
	forms := 0
	for _, form := range []bool{f.count, f.long, f.null} {
		if form {
			forms++
		}
	}
	if forms > 1 || json && (f.long || f.null) {
		return usagef("", "list: --count, --long, --null and --json are different outputs; choose one")
	}
	return nil
}

func (a *app) listCount(sn *store.Snapshot, prefix string) error {
	n := 0
	for _, err := range sn.Prefix(prefix) {
		if err != nil {
			return err
		}
		n++
	}
	return a.printf("%d\n", n)
}

func (a *app) listRecord(rec store.Record, f *listFlags) error {
	switch {
	case a.json:
		return a.printRecord(rec)
	case f.null:
		return a.printf("%s\x00", rec.Key)
	case f.long:
		return a.printf("%8s  %-20s  %-20s  %8d  %-7s  %s\n", rec.Revision,
			displayTime(rec.Time), displayTime(rec.Expires), len(rec.Value), rec.Codec, displayKey(rec.Key))
	}
	return a.printf("%s\n", displayKey(rec.Key))
}
