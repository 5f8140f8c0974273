package locks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// notes are made-up notes of a run, which began at time 0 in milliseconds.
type notes struct {
	processes int // that must have a log
	events    []string
	logs      map[string][]record
	open      map[string]bool // logs that break off
}

// record is a time of having the lock, in milliseconds. It was asked for when it
// began, if asked is 0.
type record struct {
	asked, start, end int64
	kind              int64
}

const testBase = int64(1e15) // monotonic clocks do not begin at 0

func ns(ms int64) int64 { return testBase + ms*int64(time.Millisecond) }

func (n notes) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	lines := []string{fmt.Sprintf(`h {"version":1,"protocol":"made up","seed":7,"processes":%d,"threads":4,"removers":1,"stall_ns":1000000000}`, n.processes)}
	for _, e := range n.events {
		var kind, rest string
		var at int64
		if _, err := fmt.Sscan(e, &kind, &at); err != nil {
			t.Fatal(err)
		}
		if f := strings.Fields(e); len(f) > 2 {
			rest = " " + f[2]
		}
		lines = append(lines, fmt.Sprintf("%s %d%s", kind, ns(at), rest))
	}
	if err := os.WriteFile(filepath.Join(dir, "events"), []byte(strings.Join(lines, "\n")+"\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for name, records := range n.logs {
		b := make([]byte, 4096+32*len(records)+64)
		copy(b, "RSLOCKS1")
		if !n.open[name] {
			b[32] = 1
		}
		for i, r := range records {
			if r.asked == 0 {
				r.asked = r.start
			}
			rec := b[4096+32*i:]
			for j, v := range []int64{r.kind, ns(r.asked), ns(r.start), ns(r.end)} {
				if j > 0 && v == ns(0) {
					v = 0
				}
				binary.LittleEndian.PutUint64(rec[8*j:], uint64(v))
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name+".log"), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	a0, b0, c0 = "u0000-i0000-0", "u0001-i0000-0", "u0002-i0000-0"
	procB      = "u0001-i0000"
)

func TestJudge(t *testing.T) {
	tests := []struct {
		name  string
		notes notes
		want  map[Kind]int
		text  string // in the first example
	}{
		{
			"one after the other", notes{
				logs: map[string][]record{a0: {{start: 10, end: 20}, {start: 40, end: 50}}, b0: {{start: 20, end: 40}}},
			}, nil, "",
		},
		{
			"shared together", notes{
				logs: map[string][]record{a0: {{start: 10, end: 20, kind: 1}}, b0: {{start: 15, end: 25, kind: 1}}, c0: {{start: 25, end: 30}}},
			}, nil, "",
		},
		{
			"two writers", notes{
				logs: map[string][]record{a0: {{start: 10, end: 20}}, b0: {{start: 19, end: 25}}},
			}, map[Kind]int{Overlap: 1}, "u0001-i0000-0 (acquisition 1) had the lock at 1000000019000000, and u0000-i0000-0 (acquisition 1) until 1000000020000000, 1ms later",
		},
		{
			"two writers in one process", notes{
				logs: map[string][]record{a0: {{start: 10, end: 20}}, "u0000-i0000-1": {{start: 19, end: 25}}},
			}, map[Kind]int{Overlap: 1}, "u0000-i0000-1",
		},
		{
			"a reader during a writer", notes{
				logs: map[string][]record{a0: {{start: 10, end: 20}}, b0: {{start: 12, end: 13, kind: 1}}},
			}, map[Kind]int{Overlap: 1}, "shared) had the lock",
		},
		{
			"a writer during the longer of two readers", notes{
				logs: map[string][]record{a0: {{start: 10, end: 40, kind: 1}}, b0: {{start: 11, end: 12, kind: 1}}, c0: {{start: 20, end: 21}}},
			}, map[Kind]int{Overlap: 1}, "u0000-i0000-0 (acquisition 1, shared) until",
		},
		{
			"many during a long one", notes{
				logs: map[string][]record{a0: {{start: 10, end: 90}}, b0: {{start: 20, end: 30}, {start: 30, end: 40, kind: 1}, {start: 95, end: 99}}},
			}, map[Kind]int{Overlap: 2}, "",
		},
		{
			"a holder killed, and the next", notes{
				events: []string{"b 1", "k 20 " + procB, "e 100"},
				logs:   map[string][]record{b0: {{start: 10}}, a0: {{start: 21, end: 30}}},
				open:   map[string]bool{b0: true},
			}, nil, "",
		},
		{
			"another before the holder was killed", notes{
				events: []string{"b 1", "k 20 " + procB, "e 100"},
				logs:   map[string][]record{b0: {{start: 10}}, a0: {{start: 19, end: 30}}},
				open:   map[string]bool{b0: true},
			}, map[Kind]int{Overlap: 1}, "until 1000000020000000",
		},
		{
			"had it after the parent read the clock to kill it", notes{
				events: []string{"b 1", "k 20 " + procB, "e 100"},
				logs:   map[string][]record{b0: {{start: 21}}, a0: {{start: 22, end: 30}}},
				open:   map[string]bool{b0: true},
			}, nil, "",
		},
		{
			"the same while another had it", notes{
				events: []string{"b 1", "k 20 " + procB, "e 100"},
				logs:   map[string][]record{b0: {{start: 21}}, a0: {{start: 12, end: 30}}},
				open:   map[string]bool{b0: true},
			}, map[Kind]int{Overlap: 1}, "u0001",
		},
		{
			"suspended with the lock", notes{
				events: []string{"b 1", "s 20 " + procB, "c 90 " + procB, "e 100"},
				logs:   map[string][]record{b0: {{start: 10, end: 91}}, a0: {{start: 50, end: 51}}},
			}, map[Kind]int{Overlap: 1}, "u0000",
		},
		{
			"nobody for more than a second after a death", notes{
				events: []string{"b 1", "k 20 " + procB, "e 3000"},
				logs:   map[string][]record{b0: {{start: 10}}, a0: {{start: 1021, end: 1022}}},
				open:   map[string]bool{b0: true},
			}, map[Kind]int{Stall: 1}, "after u0001-i0000 was killed at 1000000020000000 nobody had the lock for 1.001s",
		},
		{
			"nobody for a second", notes{
				events: []string{"b 1", "k 20 " + procB, "e 3000"},
				logs:   map[string][]record{b0: {{start: 10}}, a0: {{start: 1020, end: 1022}}},
				open:   map[string]bool{b0: true},
			}, nil, "",
		},
		{
			"nobody ever again", notes{
				events: []string{"b 1", "k 20 " + procB, "e 3000"},
				logs:   map[string][]record{b0: {{start: 10}}, a0: {{start: 3, end: 4}}},
				open:   map[string]bool{b0: true},
			}, map[Kind]int{Stall: 1}, "2.98s",
		},
		{
			"only one who came after the end", notes{
				events: []string{"b 1", "k 20 " + procB, "e 3000"},
				logs:   map[string][]record{b0: {{start: 10}}, a0: {{start: 4000, end: 4001}}},
				open:   map[string]bool{b0: true},
			}, map[Kind]int{Stall: 1}, "",
		},
		{
			"killed at the end", notes{
				events: []string{"b 1", "k 2500 " + procB, "e 3000"},
				logs:   map[string][]record{b0: {{start: 2000}}, a0: {{start: 3, end: 4}}},
				open:   map[string]bool{b0: true},
			}, nil, "",
		},
		{
			"a waiter killed, and nobody after it", notes{
				events: []string{"b 1", "k 20 " + procB, "e 3000"},
				logs:   map[string][]record{b0: {{start: 5, end: 6}, {asked: 10}}, a0: {{start: 1500, end: 1501}}},
				open:   map[string]bool{b0: true},
			}, map[Kind]int{Stall: 1}, "",
		},
		{
			"somebody was suspended meanwhile", notes{
				events: []string{"b 1", "k 20 " + procB, "s 30 u0000-i0000", "s 100 u0002-i0000", "c 900 u0000-i0000", "c 1000 u0002-i0000", "e 3000"},
				logs:   map[string][]record{b0: {{start: 10}}, a0: {{start: 1500, end: 1501}}},
				open:   map[string]bool{b0: true},
			}, nil, "",
		},
		{
			"somebody was suspended, but not for long enough", notes{
				events: []string{"b 1", "s 10 u0000-i0000", "k 20 " + procB, "c 420 u0000-i0000", "e 3000"},
				logs:   map[string][]record{b0: {{start: 10}}, a0: {{start: 1500, end: 1501}}},
				open:   map[string]bool{b0: true},
			}, map[Kind]int{Stall: 1}, "1.08s",
		},
		{
			"the suspended one was killed", notes{
				events: []string{"b 1", "s 10 " + procB, "k 500 " + procB, "e 3000"},
				logs:   map[string][]record{b0: {{start: 5}}, a0: {{start: 1600, end: 1601}}},
				open:   map[string]bool{b0: true},
			}, map[Kind]int{Stall: 1}, "1.1s",
		},
		{
			"no end, and not killed", notes{
				logs: map[string][]record{a0: {{start: 10}}},
			}, map[Kind]int{Broken: 1}, "has no end",
		},
		{
			"breaks off, and not killed", notes{
				logs: map[string][]record{a0: {{start: 10, end: 11}}},
				open: map[string]bool{a0: true},
			}, map[Kind]int{Broken: 1}, "breaks off",
		},
		{
			"no log of one", notes{
				processes: 3,
				logs:      map[string][]record{a0: {{start: 10, end: 11}}, c0: {{start: 12, end: 13}}},
			}, map[Kind]int{Broken: 1}, b0 + ".log is missing",
		},
		{
			"ends before it begins", notes{
				logs: map[string][]record{a0: {{start: 11, end: 10}}},
			}, map[Kind]int{Broken: 1}, "backward",
		},
		{
			"begins before the last one ended", notes{
				logs: map[string][]record{a0: {{start: 11, end: 20}, {asked: 19, start: 21, end: 22}}},
			}, map[Kind]int{Broken: 1}, "acquisition 2",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.notes.events == nil {
				test.notes.events = []string{"b 1", "e 3000"}
			}
			r, err := Judge(test.notes.write(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range Kinds {
				if r.Faults[k] != test.want[k] {
					t.Errorf("%d faults of kind %s, want %d: %v", r.Faults[k], k, test.want[k], r.Examples)
				}
			}
			if test.text != "" && (len(r.Examples) == 0 || !strings.Contains(r.Examples[0].Text, test.text)) {
				t.Errorf("got examples %q, want %q in the first", r.Examples, test.text)
			}
			if r.OK() != (len(test.want) == 0) {
				t.Errorf("OK is %t", r.OK())
			}
		})
	}
}

func TestJudgeMeasures(t *testing.T) {
	n := notes{
		processes: 3,
		events:    []string{"b 1", "t 5 0", "s 6 u0002-i0000", "c 8 u0002-i0000", "k 70 " + procB, "k 71 u0002-i0000", "e 101"},
		logs: map[string][]record{
			a0:              {{asked: 10, start: 12, end: 13}, {asked: 20, start: 50, end: 51, kind: 1}},
			b0:              {{start: 60}},
			c0:              {{start: 30, end: 31, kind: kindTry}, {asked: 65}},
			"u0002-i0001-0": {{start: 90, end: 91}},
			"u0010-i0000-0": {{start: 92, end: 93}},
			"u0010-i0000-1": {{start: 94, end: 95}},
		},
		open: map[string]bool{b0: true, c0: true},
	}
	r, err := Judge(n.write(t))
	if err != nil || !r.OK() {
		t.Fatal(err, r.Examples)
	}
	if r.Protocol != "made up" || r.Seed != 7 || r.Processes != 3 || r.Removers != 1 {
		t.Errorf("header: %+v", r)
	}
	if r.Acquisitions != 7 || r.Shared != 1 || r.Elapsed != 100*time.Millisecond || r.PerSecond != 70 {
		t.Errorf("acquisitions: %+v", r)
	}
	if want := (Spread{Processes: 1, Fewest: 2, Most: 2}); r.PerProcess != want {
		t.Errorf("spread %+v, want %+v: of one goroutine, and never killed", r.PerProcess, want)
	}
	if r.Kills != 2 || r.KilledHolding != 1 || r.KilledWaiting != 1 || r.Stops != 1 || r.Truncations != 1 {
		t.Errorf("sabotage: %+v", r)
	}
	if r.Worst != 30*time.Millisecond || r.Gap != 30*time.Millisecond || r.DeathGap != 20*time.Millisecond {
		t.Errorf("longest wait %v, gap %v, gap after a death %v", r.Worst, r.Gap, r.DeathGap)
	}
}

func TestJudgeNothing(t *testing.T) {
	n := notes{events: []string{"b 1", "e 2"}, logs: map[string][]record{a0: nil}}
	if _, err := Judge(n.write(t)); !errors.Is(err, ErrNothing) {
		t.Errorf("empty logs: %v", err)
	}
	if _, err := Judge(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no notes: %v", err)
	}
	dir := n.write(t)
	if err := os.WriteFile(filepath.Join(dir, "events"), []byte("h {}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Judge(dir); err == nil || errors.Is(err, ErrNothing) {
		t.Errorf("notes of another version: %v", err)
	}
}

// TestLog has the judge read what the workers' side writes, past the end of a window.
func TestLog(t *testing.T) {
	n := notes{events: []string{"b 1", "e 2", "k 3 " + procB}}
	dir := n.write(t)
	const records = windowSize/recordSize + 5
	for slot := range 2 {
		l, err := createLog(dir, author{Role: roleUser, Slot: slot})
		if err != nil {
			t.Fatal(err)
		}
		at := testBase + int64(slot)
		tick := func() int64 { at += 10; return at }
		for i := range records {
			if i == 7 {
				if err := l.attempt(kindTry, tick()); err != nil {
					t.Fatal(err)
				}
				l.refused(countTaken)
			}
			if err := l.attempt(kindShared, tick()); err != nil {
				t.Fatal(err)
			}
			l.had(tick())
			if slot == 1 && i == records-1 {
				break // killed
			}
			l.released(tick())
		}
		if slot == 0 {
			l.add(countEnded)
		}
	}
	if _, err := createLog(dir, author{Role: roleUser, Slot: 1}); !errors.Is(err, os.ErrExist) {
		t.Errorf("an author's second log: %v", err)
	}
	r, err := Judge(dir)
	if err != nil || !r.OK() {
		t.Fatal(err, r.Examples)
	}
	if r.Acquisitions != 2*records || r.Shared != 2*records || r.Taken != 2 || r.KilledHolding != 1 || r.KilledWaiting != 0 {
		t.Errorf("got %+v", r)
	}
}
