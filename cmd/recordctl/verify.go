package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/recordstore/recordstore/store"
)

func newVerifyCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Check every byte of the store",
		Long: `Verify reads every file of the store and checks it against its checksums, and
prints a line for each. Nothing is repaired or changed, and no lock is taken: a
store in use can be verified.

"newest" is the state that readers see. "torn" is what a power loss left of a
change that was never acknowledged, "temporary" a write in progress, or about to
be, or of a process that died; neither is damage, and both go away by themselves. --json
prints one JSON object.

Exit status: 0 if nothing is damaged, 65 if something is, 76 if a file is of a
newer version, 74 or 77 if one cannot be read; standard error has the verdict.`,
		Example: `  recordctl verify
  recordctl verify --json | jq '.files[] | select(.error)'`,
		Args:              arguments(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.verb(func(cmd *cobra.Command, _ []string) error {
			return a.verify(cmd)
		}),
	}
}

// jsonReport is what verify --json prints.
type jsonReport struct {
	Dir   string           `json:"dir"`
	OK    bool             `json:"ok"`
	Files []jsonFileReport `json:"files"`
}

type jsonFileReport struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Sequence uint64 `json:"sequence"`
	Records  uint64 `json:"records"`
	Bytes    int64  `json:"bytes"`
	Status   string `json:"status"`
	Error    string `json:"error,omitempty"`
}

func (a *app) verify(cmd *cobra.Command) error {
	dir, err := a.storeDir(cmd)
	if err != nil {
		return err
	}
	report, err := store.Verify(background, dir)
	if err != nil {
		return openError(dir, false, err)
	}
	if a.json {
		err = a.printJSON(toJSONReport(report))
	} else {
		err = a.printReport(report)
	}
	if err != nil {
		return err
	}
	if report.OK() {
		return nil
	}
	return verdict(dir, report)
}

func (a *app) printReport(report store.Report) error {
	if err := a.printf("%-40s  %-9s  %10s  %8s  %10s  %s\n", "FILE", "KIND", "SEQUENCE", "RECORDS", "BYTES", "STATUS"); err != nil {
		return err
	}
	for _, f := range report.Files {
		status := f.Status
		if f.Err != nil {
			status += ": " + oneLine(f.Err.Error())
		}
		if err := a.printf("%-40s  %-9s  %10d  %8d  %10d  %s\n", displayKey(f.Name), f.Kind, f.Sequence, f.Records, f.Bytes, status); err != nil {
			return err
		}
	}
	return nil
}

func toJSONReport(report store.Report) jsonReport {
	j := jsonReport{Dir: report.Dir, OK: report.OK(), Files: []jsonFileReport{}}
	for _, f := range report.Files {
		file := jsonFileReport{Name: f.Name, Kind: f.Kind, Sequence: f.Sequence, Records: f.Records, Bytes: f.Bytes, Status: f.Status}
		if f.Err != nil {
			file.Error = f.Err.Error()
		}
		j.Files = append(j.Files, file)
	}
	return j
}

// verdict is the error of a report that is not OK: about the first file that is
// damaged, or else the first that cannot be judged.
func verdict(dir string, report store.Report) error {
	var bad []store.FileReport
	for _, f := range report.Files {
		if f.Err != nil {
			bad = append(bad, f)
		}
	}
	code, what := exitData, "is damaged"
	worst := slices.IndexFunc(bad, func(f store.FileReport) bool { return f.Status == store.StatusDamaged })
	if worst < 0 {
		worst, code, what = 0, describe(bad[0].Err).code, "cannot be verified"
	}
	more := ""
	if len(bad) > 1 {
		more = fmt.Sprintf(", and %d more", len(bad)-1)
	}
	return fail(code, "", "%q %s: %s: %w%s", dir, what, bad[worst].Name, bad[worst].Err, more)
}
