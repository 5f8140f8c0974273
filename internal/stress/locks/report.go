package locks

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults that the judge finds.
const (
	Overlap Kind = "overlap" // two had the lock at once, and not both to share it
	Stall   Kind = "stall"   // after a death nobody had the lock for too long
	Broken  Kind = "broken"  // a log that no process of the run could have left
)

// Kinds lists them in the order in which a report does.
var Kinds = []Kind{Overlap, Stall, Broken}

// A Finding is one fault.
type Finding struct {
	Kind Kind   `json:"kind"`
	Text string `json:"text"`
}

// Spread says how often the processes of one goroutine had the lock that lived
// throughout.
type Spread struct {
	Processes int `json:"processes"`
	Fewest    int `json:"fewest"`
	Most      int `json:"most"`
}

// A Result is what a run did and what the judge found. Durations are in nanoseconds
// in JSON.
type Result struct {
	Protocol  string `json:"protocol"`
	Seed      uint64 `json:"seed"`
	Processes int    `json:"processes"` // at a time
	Removers  int    `json:"removers"`  // beside them

	Elapsed      time.Duration `json:"elapsed_ns"`
	Acquisitions int           `json:"acquisitions"`
	Shared       int           `json:"shared"` // of these
	PerSecond    float64       `json:"acquisitions_per_second"`
	PerProcess   Spread        `json:"per_process"`
	Taken        int           `json:"taken"` // tries that found the lock taken
	Late         int           `json:"late"`  // waits that ended with their context

	Kills         int `json:"kills"`
	KilledHolding int `json:"killed_holding"`
	KilledWaiting int `json:"killed_waiting"`
	Stops         int `json:"stops"`
	Truncations   int `json:"truncations"`
	Removals      int `json:"removals"`

	// Waits of those who wait as long as it takes, suspended or not.
	P50   time.Duration `json:"wait_p50_ns"`
	P99   time.Duration `json:"wait_p99_ns"`
	Worst time.Duration `json:"wait_worst_ns"`
	// The longest time from one acquisition to the next, and that from a death to the
	// next acquisition, without the time in which the run had somebody suspended.
	Gap      time.Duration `json:"longest_gap_ns"`
	DeathGap time.Duration `json:"longest_gap_after_death_ns"`

	Faults   map[Kind]int `json:"faults"`
	Examples []Finding    `json:"examples,omitempty"` // a few of each kind

	// Failures are the ends of workers that were not to end so.
	Failures    []string `json:"failures,omitempty"`
	Interrupted bool     `json:"interrupted,omitempty"`

	// Notes is where the notes were left. Empty: they were temporary, and are removed.
	Notes string `json:"notes,omitempty"`
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

// Print writes the result as a table, and examples of the faults. The verdict is left
// to the caller.
func (r Result) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("lock", "%s", r.Protocol)
	row("seed", "%d", r.Seed)
	row("processes", "%d, and %d that remove the file", r.Processes, r.Removers)
	row("acquisitions", "%d in %.1f s, %d of them shared", r.Acquisitions, r.Elapsed.Seconds(), r.Shared)
	row("acquisitions/s", "%.0f", r.PerSecond)
	if s := r.PerProcess; s.Processes > 0 {
		row("fewest-most", "%d-%d of %d processes that lived throughout", s.Fewest, s.Most, s.Processes)
	}
	row("refused", "%d tries, %d waits cut short", r.Taken, r.Late)
	row("kills", "%d, %d of them of a holder, %d of one who waited", r.Kills, r.KilledHolding, r.KilledWaiting)
	row("stops", "%d", r.Stops)
	row("truncations", "%d", r.Truncations)
	row("removals", "%d", r.Removals)
	row("wait p50", "%s", ms(r.P50))
	row("wait p99", "%s", ms(r.P99))
	row("wait longest", "%s", ms(r.Worst))
	row("gap longest", "%s", ms(r.Gap))
	row("gap after a death", "%s", ms(r.DeathGap))
	for _, k := range Kinds {
		row(string(k), "%d", r.Faults[k])
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
	if r.Notes != "" {
		fmt.Fprintf(w, "kept: notes in %s\n", r.Notes)
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
		return fmt.Sprintf("FAILED: never two holders, but %d workers failed%s", len(r.Failures), cut)
	case !r.OK():
		return fmt.Sprintf("FAULTY: two holders %d times, %d faults in all%s", r.Faults[Overlap], r.FaultCount(), cut)
	}
	return fmt.Sprintf("ok: never two holders in %d acquisitions, and no death kept the others waiting%s", r.Acquisitions, cut)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }
