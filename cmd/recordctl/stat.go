package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/store"
)

func newStatCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "stat",
		Short: "Describe the store",
		Long: `Stat prints what the store is and what state it is in: its newest revision, the
number of its records and files, the file system, and who holds its lock.

Durable says that the newest state is known to be on disk. Between the publishing
of a change and the answer to who made it, it is not yet.

Stat takes no lock, waits for nobody and changes nothing. --json prints one JSON
object.`,
		Example: `  recordctl stat
  recordctl stat --json | jq .records`,
		Args:              arguments(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.verb(func(cmd *cobra.Command, _ []string) error {
			return a.stat(cmd)
		}),
	}
}

// jsonStats is what stat --json prints.
type jsonStats struct {
	Dir          string         `json:"dir"`
	ID           string         `json:"id"`
	Format       int            `json:"format_version"`
	FileSystem   string         `json:"file_system"`
	Network      bool           `json:"network"`
	Sequence     uint64         `json:"sequence"`
	Revision     store.Revision `json:"revision"`
	Time         time.Time      `json:"time"`
	Records      int            `json:"records"`
	Bytes        int64          `json:"bytes"`
	Durable      bool           `json:"durable"`
	Manifests    int            `json:"manifests"`
	Segments     int            `json:"segments"`
	SegmentFiles int            `json:"segment_files"`
	Journal      int64          `json:"journal_bytes"`
	Temporary    int            `json:"temporary"`
	Holder       *jsonHolder    `json:"holder"` // null: nobody
}

type jsonHolder struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Command string    `json:"command"`
	Purpose string    `json:"purpose"`
	Since   time.Time `json:"since"`
}

func (a *app) stat(cmd *cobra.Command) (err error) {
	s, err := a.openRead(cmd)
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	st, err := s.Stat(background)
	if err != nil {
		return err
	}
	records, err := countRecords(s)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(toJSONStats(st, records))
	}
	for _, line := range [][2]string{
		{"directory", st.Dir},
		{"id", st.ID.String()},
		{"format version", fmt.Sprint(st.FormatVersion)},
		{"file system", fileSystem(st)},
		{"records", fmt.Sprint(records)},
		{"revision", st.Revision.String()},
		{"sequence", fmt.Sprint(st.Sequence)},
		{"newest change", displayTime(st.Time)},
		{"durable", yesNo(st.Durable)},
		{"size", fmt.Sprintf("%d bytes, of which %d in the journal", st.Bytes, st.Journal)},
		{"segments", fmt.Sprint(st.Segments)},
		{"files", fmt.Sprintf("%d manifests, %d segments, %d temporary", st.Manifests, st.SegmentFiles, st.Temporary)},
		{"lock", st.Lock.String()},
	} {
		if err := a.printf("%-15s %s\n", line[0]+":", oneLine(line[1])); err != nil {
			return err
		}
	}
	return nil
}

// countRecords returns the number of records. It reads all of them.
func countRecords(s *store.Store) (int, error) {
	sn, err := s.Snapshot(background)
	if err != nil {
		return 0, err
	}
	n, err := sn.Len()
	return n, errors.Join(err, sn.Close())
}

func toJSONStats(st store.Stats, records int) jsonStats {
	j := jsonStats{
		Dir: st.Dir, ID: st.ID.String(), Format: st.FormatVersion, FileSystem: st.FileSystem, Network: st.Network,
		Sequence: st.Sequence, Revision: st.Revision, Time: st.Time, Records: records, Bytes: st.Bytes, Journal: st.Journal,
		Durable: st.Durable, Manifests: st.Manifests, Segments: st.Segments, SegmentFiles: st.SegmentFiles, Temporary: st.Temporary,
	}
	if st.Lock.Known {
		h := st.Lock.Holder
		j.Holder = &jsonHolder{PID: h.PID, Host: h.Host, Command: h.Command, Purpose: h.Purpose, Since: h.Since}
	}
	return j
}

func fileSystem(st store.Stats) string {
	if st.Network {
		return st.FileSystem + ", used as a network file system"
	}
	return st.FileSystem
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
