package locks

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// ErrNothing is reported when there is nothing to judge by.
var ErrNothing = errors.New("nobody has noted anything")

// Judge reads what the processes and their parent noted in dir, when all processes are
// gone. It knows nothing of them but that, and shares no code with them: the files are
// described in log.go and events.go.
func Judge(dir string) (Result, error) {
	g := &judgement{ends: map[string]int64{}, suspended: map[string]int64{}}
	g.result.Faults = map[Kind]int{}
	g.result.Notes = dir
	if err := g.readEvents(filepath.Join(dir, "events")); err != nil {
		return g.result, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return g.result, err
	}
	for _, path := range paths {
		if err := g.readLog(path); err != nil {
			return g.result, err
		}
	}
	if len(g.intervals) == 0 {
		return g.result, ErrNothing
	}
	for slot := range g.result.Processes { // each has made its log before it began
		if path := filepath.Join(dir, fmt.Sprintf("u%04d-i0000-0.log", slot)); !slices.Contains(paths, path) {
			g.found(Broken, "%s is missing", path)
		}
	}
	g.judge()
	return g.result, nil
}

// An interval is a time in which somebody says that he had the lock.
type interval struct {
	start, end int64
	shared     bool
	log, n     int // in which log, and which record there
}

// A judgement is one judge's work.
type judgement struct {
	began, ended int64
	deaths       []death
	ends         map[string]int64 // when who was killed
	suspended    map[string]int64 // since when who is
	stops        []span           // in which somebody was
	stall        int64

	logs      []string // names
	intervals []interval
	waits     []int64
	perUser   map[string]int // acquisitions of users of one goroutine, each, who lived throughout
	grouped   map[string]bool
	result    Result
}

type death struct {
	at  int64
	who string
}

type span struct{ from, to int64 }

// readEvents reads the parent's notes.
func (g *judgement) readEvents(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		if kind == "h" {
			var h struct {
				Protocol                              string
				Seed                                  uint64
				Processes, Threads, Removers, Version int
				Stall                                 int64 `json:"stall_ns"`
			}
			if err := json.Unmarshal([]byte(rest), &h); err != nil || h.Version != 1 {
				return fmt.Errorf("%s:%d: not a header that is known: %w", path, n, err)
			}
			g.result.Protocol, g.result.Seed, g.stall = h.Protocol, h.Seed, h.Stall
			g.result.Processes, g.result.Removers = h.Processes, h.Removers
			continue
		}
		var at int64
		var who string
		if _, err := fmt.Sscan(rest, &at); err != nil {
			return fmt.Errorf("%s:%d: %q: %w", path, n, lines.Text(), err)
		}
		if _, s, ok := strings.Cut(rest, " "); ok {
			who = s
		}
		g.event(kind, at, who)
	}
	for who := range g.suspended {
		g.resumed(who, g.ended) // the parent does not leave any
	}
	slices.SortFunc(g.stops, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	return lines.Err()
}

func (g *judgement) event(kind string, at int64, who string) {
	g.ended = max(g.ended, at)
	switch kind {
	case "b":
		g.began = at
	case "k":
		g.ends[who] = at
		g.deaths = append(g.deaths, death{at, who})
		g.resumed(who, at)
		g.result.Kills++
	case "s":
		g.suspended[who] = at
		g.result.Stops++
	case "c":
		g.resumed(who, at)
	case "t":
		g.result.Truncations++
	}
}

func (g *judgement) resumed(who string, at int64) {
	if since, ok := g.suspended[who]; ok {
		delete(g.suspended, who)
		g.stops = append(g.stops, span{since, at})
	}
}

// readLog reads what one goroutine noted.
func (g *judgement) readLog(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(path), ".log")
	who := name[:strings.LastIndex(name, "-")]
	killedAt, killed := g.ends[who]
	if len(b) < 4096 || string(b[:8]) != "RSLOCKS1" {
		if !killed { // on its first steps
			g.found(Broken, "%s is no log", path)
		}
		return nil
	}
	word := func(off int) int64 { return int64(binary.LittleEndian.Uint64(b[off:])) }
	g.result.Taken += int(word(8))
	g.result.Late += int(word(16))
	g.result.Removals += int(word(24))
	if !killed && word(32) != 1 {
		g.found(Broken, "%s breaks off, and nobody has killed the process", name)
	}
	g.logs = append(g.logs, name)
	if g.perUser == nil {
		g.perUser, g.grouped = map[string]int{}, map[string]bool{}
	}
	if name[0] != 'u' {
		return nil
	}
	n := 0
	last := int64(0)
	for off := 4096; off+32 <= len(b); off += 32 {
		kind, asked, start, end := word(off), word(off+8), word(off+16), word(off+24)
		if asked == 0 || start == 0 {
			if killed && asked != 0 {
				g.result.KilledWaiting++
			}
			break
		}
		n++
		if end == 0 {
			if !killed {
				g.found(Broken, "%s: acquisition %d has no end, and nobody has killed the process", name, n)
			} else {
				g.result.KilledHolding++
			}
			// It held the lock until it was killed, and if the parent read its clock
			// before that, for a moment.
			end = max(start, killedAt)
		}
		if asked < last || start < asked || end < start {
			g.found(Broken, "%s: the times of acquisition %d go backward", name, n)
		}
		last = end
		if kind&1 != 0 {
			g.result.Shared++
		}
		if kind&6 == 0 {
			g.waits = append(g.waits, start-asked)
		}
		g.intervals = append(g.intervals, interval{start, end, kind&1 != 0, len(g.logs) - 1, n})
	}
	if strings.HasSuffix(name, "-0") && strings.Contains(name, "-i0000-") && !killed {
		g.perUser[who] = n
	} else {
		g.grouped[who] = true
	}
	return nil
}

func (g *judgement) judge() {
	slices.SortFunc(g.intervals, func(a, b interval) int { return cmp.Compare(a.start, b.start) })
	g.overlaps()
	g.stalls()
	g.measure()
}

// overlaps looks at the intervals in the order of their starts. One is at fault if one
// that began before it has not ended, unless both are shared.
func (g *judgement) overlaps() {
	var exclusive, any interval // those that end last
	for _, iv := range g.intervals {
		before := any
		if iv.shared {
			before = exclusive
		}
		if before.end > iv.start {
			g.found(Overlap, "%s had the lock at %d, and %s until %d, %v later",
				g.name(iv), iv.start, g.name(before), before.end, time.Duration(min(before.end, iv.end)-iv.start))
		}
		if iv.end > any.end {
			any = iv
		}
		if !iv.shared && iv.end > exclusive.end {
			exclusive = iv
		}
	}
}

func (g *judgement) name(iv interval) string {
	how := ""
	if iv.shared {
		how = ", shared"
	}
	return fmt.Sprintf("%s (acquisition %d%s)", g.logs[iv.log], iv.n, how)
}

// stalls looks how long after each death it took until anybody got the lock, without
// the time in which the parent had somebody suspended. At the end of the run nobody
// need have got it any more.
func (g *judgement) stalls() {
	stopped := newClock(g.stops)
	for _, d := range g.deaths {
		i := sort.Search(len(g.intervals), func(i int) bool { return g.intervals[i].start > d.at })
		next := max(g.ended, d.at)
		if i < len(g.intervals) {
			next = min(next, g.intervals[i].start)
		}
		gap := next - d.at - stopped.within(d.at, next)
		g.result.DeathGap = max(g.result.DeathGap, time.Duration(gap))
		if gap > g.stall {
			g.found(Stall, "after %s was killed at %d nobody had the lock for %v", d.who, d.at, time.Duration(gap))
		}
	}
	last := g.intervals[0].start
	for _, iv := range g.intervals {
		if iv.start-last > int64(g.result.Gap) {
			gap := iv.start - last - stopped.within(last, iv.start)
			g.result.Gap = max(g.result.Gap, time.Duration(gap))
		}
		last = iv.start
	}
}

// A clock tells how much of a time lies within spans.
type clock struct {
	spans []span  // apart from each other, in order
	sums  []int64 // of those before each
}

// newClock takes spans in order of their beginnings.
func newClock(spans []span) clock {
	var c clock
	var sum int64
	for _, s := range spans {
		if n := len(c.spans); n > 0 && s.from <= c.spans[n-1].to {
			grown := max(s.to-c.spans[n-1].to, 0)
			c.spans[n-1].to += grown
			sum += grown
			continue
		}
		c.spans, c.sums = append(c.spans, s), append(c.sums, sum)
		sum += s.to - s.from
	}
	return c
}

func (c clock) within(from, to int64) int64 { return c.until(to) - c.until(from) }

func (c clock) until(t int64) int64 {
	i := sort.Search(len(c.spans), func(i int) bool { return c.spans[i].from >= t }) - 1
	if i < 0 {
		return 0
	}
	return c.sums[i] + min(t, c.spans[i].to) - c.spans[i].from
}

// measure fills in what is not a fault.
func (g *judgement) measure() {
	r := &g.result
	r.Acquisitions = len(g.intervals)
	r.Elapsed = time.Duration(g.ended - g.began)
	r.PerSecond = float64(r.Acquisitions) / max(r.Elapsed.Seconds(), 1e-9)
	if slices.Sort(g.waits); len(g.waits) > 0 {
		at := func(q float64) time.Duration { return time.Duration(g.waits[int(q*float64(len(g.waits)-1))]) }
		r.P50, r.P99, r.Worst = at(0.5), at(0.99), at(1)
	}
	for who, n := range g.perUser {
		if g.grouped[who] {
			continue
		}
		s := &r.PerProcess
		if s.Processes == 0 || n < s.Fewest {
			s.Fewest = n
		}
		s.Most = max(s.Most, n)
		s.Processes++
	}
}

// examples is how many findings of a kind are named.
const examples = 3

func (g *judgement) found(k Kind, format string, args ...any) {
	g.result.Faults[k]++
	if g.result.Faults[k] <= examples {
		g.result.Examples = append(g.result.Examples, Finding{Kind: k, Text: fmt.Sprintf(format, args...)})
	}
}
