package stress

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults that a judge or a reader finds.
const (
	Lost    Kind = "lost"    // acknowledged, and not there, or overwritten by one that did not see it
	Twice   Kind = "twice"   // there more often than attempted, or won by two where one can win
	Foreign Kind = "foreign" // there, and nobody attempted it, or it had been answered "not done"
	Torn    Kind = "torn"    // a record or a state that is not whole
	Back    Kind = "back"    // a revision given twice, or one that went back
	Stale   Kind = "stale"   // a snapshot without what was acknowledged before it was taken
	Damaged Kind = "damaged" // a file of the store
)

// Kinds lists them in the order in which a report does.
var Kinds = []Kind{Lost, Twice, Foreign, Torn, Back, Stale, Damaged}

// A Finding is one fault.
type Finding struct {
	Kind Kind   `json:"kind"`
	Text string `json:"text"`
}

// Spread says how many commits the processes made that lived throughout.
type Spread struct {
	Processes int `json:"processes"`
	Fewest    int `json:"fewest"`
	Most      int `json:"most"`
}

// Factor is Most by Fewest.
func (s Spread) Factor() float64 { return float64(s.Most) / float64(s.Fewest) }

// A Result is what a run did and what the judge found. Durations are in
// nanoseconds in JSON.
type Result struct {
	Protocol string `json:"protocol"`
	Seed     uint64 `json:"seed"`
	Machines int    `json:"machines"`
	Writers  int    `json:"writers"` // processes at a time, of all machines
	Readers  int    `json:"readers"`

	// First form: how many writers were told that their record is saved, and
	// how many of these records there were at its end.
	Saved int `json:"saved"`
	Found int `json:"found"`

	// Hard form.
	Elapsed    time.Duration `json:"elapsed_ns"`
	Commits    int           `json:"commits"` // acknowledged
	PerSecond  float64       `json:"commits_per_second"`
	P50        time.Duration `json:"wait_p50_ns"` // from call to answer
	P99        time.Duration `json:"wait_p99_ns"`
	Worst      time.Duration `json:"wait_worst_ns"`
	PerProcess Spread        `json:"per_process"` // writers of one goroutine
	PerGroup   Spread        `json:"per_group"`   // writers of several
	Snapshots  int           `json:"snapshots"`
	Kills      int           `json:"kills"`     // if Judge says so: processes whose histories break off
	Open       int           `json:"open"`      // attempts whose process was killed before the answer
	Refused    int           `json:"refused"`   // answered: the record was not as it had to be
	TimedOut   int           `json:"timed_out"` // answered: not done in time, and not done
	Unknown    int           `json:"unknown"`   // answered: perhaps done

	// Judged is false for one machine's part of a run on several.
	Judged   bool         `json:"judged"`
	Faults   map[Kind]int `json:"faults"`
	Examples []Finding    `json:"examples,omitempty"` // a few of each kind

	// Failures are the ends of workers that were not to end so.
	Failures    []string `json:"failures,omitempty"`
	Interrupted bool     `json:"interrupted,omitempty"`

	// Store and History are where the records and histories were left. Empty:
	// they were temporary, and are removed.
	Store   string `json:"store,omitempty"`
	History string `json:"history,omitempty"`
}

// OK reports whether nothing was found, and no worker failed.
func (r Result) OK() bool { return r.FaultCount() == 0 && len(r.Failures) == 0 }

// FaultCount is the number of faults of all kinds.
func (r Result) FaultCount() int {
	n := 0
	for _, c := range r.Faults {
		n += c
	}
	return n
}

// Print writes the result as a table, and examples of the faults. The verdict
// is left to the caller.
func (r Result) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("protocol", "%s", r.Protocol)
	row("seed", "%d", r.Seed)
	machines := ""
	if r.Machines > 1 {
		machines = fmt.Sprintf(" on %d machines", r.Machines)
	}
	row("processes", "%d writers, %d readers%s", r.Writers, r.Readers, machines)
	switch {
	case r.Saved > 0 && r.Judged:
		row("first form", "%d of %d records are there", r.Found, r.Saved)
	case r.Saved > 0:
		row("first form", "%d records were saved", r.Saved)
	}
	if r.Elapsed > 0 {
		row("commits", "%d in %.1f s", r.Commits, r.Elapsed.Seconds())
		row("commits/s", "%.0f", r.PerSecond)
		row("wait p50", "%s", ms(r.P50))
		row("wait p99", "%s", ms(r.P99))
		row("wait worst", "%s", ms(r.Worst))
		for _, s := range []struct {
			name string
			Spread
		}{{"fewest-most", r.PerProcess}, {"fewest-most, grouped", r.PerGroup}} {
			if s.Processes > 0 {
				row(s.name, "%d-%d (%.2f times) of %d writers that lived throughout", s.Fewest, s.Most, s.Factor(), s.Processes)
			}
		}
		row("reads", "%d", r.Snapshots)
		row("kills", "%d, which left %d attempts without an answer", r.Kills, r.Open)
		row("refused", "%d", r.Refused)
		row("timed out", "%d", r.TimedOut)
		row("unknown", "%d", r.Unknown)
	}
	if r.Judged {
		for _, k := range Kinds {
			row(string(k), "%d", r.Faults[k])
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, f := range r.Examples {
		fmt.Fprintf(w, "%s: %s\n", f.Kind, f.Text)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(w, "failed: %s\n", f)
	}
	if r.History != "" {
		fmt.Fprintf(w, "kept: records in %s, histories in %s\n", r.Store, r.History)
	}
	return nil
}

// Verdict says in one line what came of the run.
func (r Result) Verdict() string {
	cut := ""
	if r.Interrupted {
		cut = " (interrupted)"
	}
	switch {
	case len(r.Failures) > 0 && r.FaultCount() == 0:
		return fmt.Sprintf("FAILED: nothing is lost, but %d workers failed%s", len(r.Failures), cut)
	case !r.OK():
		return fmt.Sprintf("FAULTY: %d lost updates, %d faults in all%s", r.Faults[Lost], r.FaultCount(), cut)
	case !r.Judged:
		return "not judged yet: this is one machine's part of a run on several" + cut
	}
	return fmt.Sprintf("ok: all %d acknowledged updates are there, once%s", r.Saved+r.Commits, cut)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }
