package main

import (
	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/store"
)

func newDeleteCmd(a *app) *cobra.Command {
	var ifRevision string
	cmd := &cobra.Command{
		Use:   "delete KEY",
		Short: "Delete a record",
		Long: `Delete removes the record KEY.

--if-revision N removes it only if its last write has revision N; the check and
the removal are one atomic step.

Delete creates no store. It prints nothing; with --json, the key and the
revision of the removal. When it ends with status 0 the removal is on disk.

Exit status: 0, or 1 if there is no such record or it has another revision.`,
		Example: `  recordctl delete colour
  recordctl delete colour --if-revision 17`,
		Aliases:           []string{"rm"},
		Args:              arguments("KEY"),
		ValidArgsFunction: a.completeKey,
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			return a.delete(cmd, args[0], ifRevision)
		}),
	}
	cmd.Flags().StringVar(&ifRevision, "if-revision", "", "only if the record's last write has revision `N`")
	return cmd
}

func (a *app) delete(cmd *cobra.Command, key, ifRevision string) (err error) {
	if err := checkKey(key); err != nil {
		return err
	}
	conditional := cmd.Flags().Changed("if-revision")
	var want store.Revision
	if conditional {
		if want, err = parseRevision(ifRevision); err != nil {
			return err
		}
		if want == 0 {
			return usagef("", "delete: --if-revision 0 asks for a record that does not exist")
		}
	}
	s, err := a.openWrite(cmd, false, purpose("delete", key))
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	rev, err := a.update(s, func(tx *store.Tx) error {
		have, err := revisionOf(tx, key)
		switch {
		case err != nil:
			return err
		case have == 0:
			return errNoRecord(key)
		case conditional && have != want:
			return &store.ConflictError{Key: key, Want: want, Have: have}
		}
		return tx.Delete(key)
	})
	if err != nil {
		return err
	}
	return a.wrote(key, rev)
}
