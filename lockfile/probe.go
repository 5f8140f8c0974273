//go:build unix

package lockfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// A Prober finds out which locks work in a directory, with several processes. They all
// run on this machine: of others it shows nothing.
type Prober struct {
	// Worker makes the command that calls [ProbeWorker] with args: the program
	// itself, commonly, with a first argument by which it knows what to do. Its
	// standard input and output are the Prober's.
	Worker func(args ...string) *exec.Cmd

	Mechanisms []Mechanism   // to be tried; nil: all that this system supports
	Processes  int           // that take each lock; 0: 4
	Duration   time.Duration // for which they do; 0: half a second
	Patience   time.Duration // with what should take no time; 0: 5 seconds
}

// An Outcome is what was seen of a mechanism.
type Outcome int

const (
	// Works is for locks that excluded each other, and became free when their
	// holder was killed.
	Works Outcome = iota
	// NotExclusive is for locks that two processes had at the same time.
	NotExclusive
	// Fails is for locks that cannot be taken, or used: there was an error.
	Fails
	// NoAnswer is for lock calls that did not return in time.
	NoAnswer
	// Stuck is for locks that excluded each other, but stayed locked when their
	// holder was killed.
	Stuck
	// Confined is for locks that work on this machine, while a mount option keeps
	// them from others.
	Confined
)

var outcomeNames = [...]string{"works", "does not exclude", "fails", "no answer", "stays locked", "this machine only"}

// String returns a text such as "does not exclude".
func (o Outcome) String() string {
	if o >= 0 && int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome %d", int(o))
}

// MarshalText returns what String does.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// A Report is what a [Prober] has found out about a directory.
type Report struct {
	Dir          string        `json:"dir"`
	FileSystem   string        `json:"file_system"`   // its type
	Local        bool          `json:"local"`         // it is known that no other machine uses it
	MountOptions []string      `json:"mount_options"` // those that matter for locks, if it is not local
	Default      Mechanism     `json:"default"`       // of new lock files; Auto if there is none
	DefaultError string        `json:"default_error,omitempty"`
	Mechanisms   []ProbeResult `json:"mechanisms"`
	OK           bool          `json:"ok"`      // the default works
	Verdict      string        `json:"verdict"` // in one line
}

// A ProbeResult is what was seen of one mechanism.
type ProbeResult struct {
	Mechanism    Mechanism     `json:"mechanism"`
	Outcome      Outcome       `json:"outcome"`
	Detail       string        `json:"detail,omitempty"` // the error, or what else there is to say
	Acquisitions int           `json:"acquisitions"`
	Overlaps     int           `json:"overlaps"`       // acquisitions while another process had the lock
	PerSecond    float64       `json:"per_second"`     // acquisitions, each held for about 0.2 ms
	Freed        bool          `json:"freed"`          // the lock became free when its holder was killed
	FreedAfter   time.Duration `json:"freed_after_ns"` // until a waiter had it
}

// String returns a table and the verdict.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "directory    %s\nfile system  %s", r.Dir, r.FileSystem)
	if r.Local {
		b.WriteString(", local")
	}
	if len(r.MountOptions) > 0 {
		b.WriteString(", " + strings.Join(r.MountOptions, ","))
	}
	b.WriteString("\ndefault      ")
	if r.Default == Auto {
		b.WriteString("none")
	} else {
		b.WriteString(r.Default.String())
	}
	b.WriteString("\n\n")
	b.WriteString(r.Table())
	b.WriteString("\n" + r.Verdict + "\n")
	return b.String()
}

// Table returns a table of what was seen of each mechanism.
func (r Report) Table() string {
	var b strings.Builder
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MECHANISM\tRESULT\tLOCKS/S\tFREE AFTER KILL\tDETAIL")
	for _, m := range r.Mechanisms {
		rate, freed := "-", "-"
		if m.PerSecond > 0 {
			rate = strconv.FormatFloat(m.PerSecond, 'f', 0, 64)
		}
		if m.Freed {
			freed = fmt.Sprintf("%.1f ms", m.FreedAfter.Seconds()*1000)
		}
		fmt.Fprintf(w, "%v\t%v\t%s\t%s\t%s\n", m.Mechanism, m.Outcome, rate, freed, m.Detail)
	}
	w.Flush()
	for line := range strings.Lines(table.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

// Probe finds out which locks work in the directory dir, and which [Open] would use for
// a new file there. It starts processes, which take about a second for each mechanism,
// and longer for those that do not work, and creates files in dir, which it removes.
//
// What does not work is in the Report. An error is that of an invalid dir, of files
// that cannot be created in it, of a Worker that cannot be started, or of ctx.
func (p Prober) Probe(ctx context.Context, dir string) (Report, error) {
	fail := func(err error) (Report, error) {
		return Report{}, &fs.PathError{Op: "probe", Path: dir, Err: err}
	}
	if p.Worker == nil {
		return fail(errors.New("Prober.Worker is nil"))
	}
	if p.Mechanisms == nil {
		p.Mechanisms = slices.Sorted(maps.Keys(mechanisms))
	}
	p.Processes = cmp.Or(p.Processes, 4)
	p.Duration = cmp.Or(p.Duration, time.Second/2)
	p.Patience = cmp.Or(p.Patience, 5*time.Second)
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fail(err)
	}
	tmp, err := os.MkdirTemp(abs, probePrefix)
	if err != nil {
		return Report{}, err // it names the directory
	}
	defer removeAll(tmp)

	at := choosing.locate(abs)
	r := Report{Dir: dir, FileSystem: at.name, Local: at.local, MountOptions: at.lockOptions(), Mechanisms: []ProbeResult{}}
	if r.Default, err = choosing.choose(at); err != nil {
		r.DefaultError = err.Error()
	}
	for _, m := range p.Mechanisms {
		res, err := p.mechanism(ctx, m, filepath.Join(tmp, m.String()))
		if err != nil {
			return fail(err)
		}
		if opt := at.confined(m); opt != "" && res.Outcome == Works {
			res.Outcome, res.Detail = Confined, fmt.Sprintf("the mount option %s %v", opt, errConfined)
		}
		r.Mechanisms = append(r.Mechanisms, res)
	}
	r.conclude()
	return r, nil
}

// removeAll removes a directory. On NFS what a process has open that is being killed
// stays in it until it has ended.
func removeAll(dir string) {
	for range 20 {
		if os.RemoveAll(dir) == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// conclude makes the verdict.
func (r *Report) conclude() {
	var others []string
	var def *ProbeResult
	for i, m := range r.Mechanisms {
		switch {
		case m.Mechanism == r.Default:
			def = &r.Mechanisms[i]
		case m.Outcome == Works:
			others = append(others, m.Mechanism.String())
		}
	}
	also := ""
	if len(others) > 0 {
		also = "; what works, if it is named: " + strings.Join(others, ", ")
	}
	switch {
	case r.Default == Auto:
		r.Verdict = "no locks: " + r.DefaultError
	case def == nil:
		r.Verdict = fmt.Sprintf("it is not known whether the default, %v, works: it was not tried", r.Default)
	case def.Outcome == Works:
		r.OK = true
		r.Verdict = fmt.Sprintf("locks work here, with %v, the default", r.Default)
		if !r.Local {
			r.Verdict += ", between processes of this machine; of others this shows nothing"
		}
	default:
		r.Verdict = fmt.Sprintf("do not use the default here, %v: %v", r.Default, def.Outcome)
		if def.Detail != "" {
			r.Verdict += ", " + def.Detail
		}
		r.Verdict += also
	}
}

// mechanism tries m on a new file at path.
func (p *Prober) mechanism(ctx context.Context, m Mechanism, path string) (ProbeResult, error) {
	r := ProbeResult{Mechanism: m}
	if err := m.check(); err != nil {
		r.Outcome, r.Detail = Fails, err.Error()
		return r, nil
	}
	// With its header, so that the workers do not need the lock on that.
	if err := os.WriteFile(path, encodeHeader(m), 0o600); err != nil {
		return r, err
	}
	port := 0
	if m == TCP {
		var err error
		if port, err = freePort(); err != nil {
			r.Outcome, r.Detail = Fails, err.Error()
			return r, nil
		}
	}
	spans, err := p.compete(ctx, m, path, port)
	r.Acquisitions, r.Overlaps, r.PerSecond = judgeSpans(spans)
	if err == nil && r.Overlaps == 0 {
		r.Freed, r.FreedAfter, err = p.kill(ctx, m, path, port)
	}
	switch {
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	case errors.Is(err, errStart):
		return r, err
	case r.Overlaps > 0:
		r.Outcome = NotExclusive
		r.Detail = fmt.Sprintf("%d of %d times another had the lock", r.Overlaps, r.Acquisitions)
	case err == errEarly:
		r.Outcome, r.Overlaps, r.Detail = NotExclusive, 1, err.Error()
	case isNoAnswer(err):
		r.Outcome, r.Detail = NoAnswer, err.Error()
	case err != nil:
		r.Outcome, r.Detail = Fails, err.Error()
	case !r.Freed:
		r.Outcome, r.Detail = Stuck, fmt.Sprintf("for %v after the holder was killed", p.Patience)
	}
	return r, nil
}

var (
	errStart = errors.New("start a worker process")
	errEarly = errors.New("another had the lock while the holder lived")
)

// freePort returns a port that is free, if nobody is quicker.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// A span is the time for which a process was sure to have the lock, on the clock of
// [monotonic].
type span struct{ from, to int64 }

// judgeSpans counts the spans that began during another. They are sorted.
func judgeSpans(spans []span) (n, overlaps int, perSecond float64) {
	if len(spans) == 0 {
		return 0, 0, 0
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	end := spans[0].to
	for _, s := range spans[1:] {
		if s.from < end {
			overlaps++
		}
		end = max(end, s.to)
	}
	if d := end - spans[0].from; d > 0 {
		perSecond = float64(len(spans)) / time.Duration(d).Seconds()
	}
	return len(spans), overlaps, perSecond
}

// monotonic is a clock that is the same in all processes.
func monotonic() int64 {
	var ts unix.Timespec
	if err := ignoringEINTR(func() error { return unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) }); err != nil {
		panic(err) // every system has it
	}
	return ts.Nano()
}
