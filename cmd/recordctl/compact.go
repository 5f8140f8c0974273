package main

import (
	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/store"
)

func newCompactCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "compact",
		Short: "Merge the store's files and free the room that is not needed",
		Long: `Compact merges all segments of the store into one. What was deleted, expired or
overwritten then takes no room on the disk any more.

It is not needed for the store to work well, as segments are merged when there are
too many. Readers and writers go on meanwhile. It needs room on the disk for all
records once more, while it runs. If another process merges, it waits for that;
--timeout bounds all of it. A compact that is interrupted leaves the store as it
was, or compacted in part: no record is lost, and another one goes on from there.

It prints the size before and after; --json prints one JSON object.`,
		Example:           `  recordctl compact`,
		Args:              arguments(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.verb(func(cmd *cobra.Command, _ []string) error {
			return a.compact(cmd)
		}),
	}
}

// jsonCompacted is what compact --json prints.
type jsonCompacted struct {
	BytesBefore    int64 `json:"bytes_before"`
	BytesAfter     int64 `json:"bytes_after"`
	SegmentsBefore int   `json:"segments_before"`
	SegmentsAfter  int   `json:"segments_after"`
}

func (a *app) compact(cmd *cobra.Command) (err error) {
	dir, err := a.storeDir(cmd)
	if err != nil {
		return err
	}
	if err := checkNotNested(dir, mergeLock); err != nil { // others do without MERGE if they must
		return err
	}
	s, err := a.openWrite(cmd, false, "compact")
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	before, err := s.Stat(background)
	if err != nil {
		return err
	}
	w := a.startWait(lockPath(s))
	defer w.stop()
	w.work = "compact"
	if err := w.explain(s.Compact(w)); err != nil {
		return err
	}
	after, err := s.Stat(background)
	if err != nil {
		return err
	}
	return a.compacted(before, after)
}

func (a *app) compacted(before, after store.Stats) error {
	if a.json {
		return a.printJSON(jsonCompacted{before.Bytes, after.Bytes, before.Segments, after.Segments})
	}
	return a.printf("%d bytes in %d segments, before: %d bytes in %d segments\n",
		after.Bytes, after.Segments, before.Bytes, before.Segments)
}
