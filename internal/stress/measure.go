package stress

import (
	"slices"
	"time"
)

// measure fills in what the run did: counts, times, and how the commits were
// spread over the processes. It finds no faults.
func (r *Result) measure(accounts []*account) {
	type place struct {
		role          string
		machine, slot int
	}
	type span struct{ from, to int64 }
	type process struct {
		place
		form        string
		incarnation int
	}
	places := map[place]bool{}
	killed := map[process]bool{} // those whose histories break off
	spans := map[int]span{}      // of the hard form's operations, by machine
	var waits []time.Duration
	for _, a := range accounts {
		p := place{a.Role, a.Machine, a.Slot}
		if !places[p] {
			places[p] = true
			if a.Role == roleWriter {
				r.Writers++
			} else {
				r.Readers++
			}
		}
		if !a.ended {
			killed[process{p, a.Form, a.Incarnation}] = true
		}
		r.Snapshots += len(a.reads)
		r.TimedOut += a.late
		for i := range a.ops {
			o := &a.ops[i]
			switch {
			case o.fate == fateDone && a.Form == formQuestion:
				r.Saved++
			case o.fate == fateDone:
				waits = append(waits, o.wait)
				s, ok := spans[a.Machine]
				if !ok {
					s.from = o.start
				}
				spans[a.Machine] = span{min(s.from, o.start), max(s.to, o.end)}
			case o.fate == fateNot && o.text == reasonLate:
				r.TimedOut++
			case o.fate == fateNot:
				r.Refused++
			case o.end == 0:
				r.Open++
			default:
				r.Unknown++
			}
		}
	}
	r.Kills = len(killed)
	for _, s := range spans {
		r.Elapsed = max(r.Elapsed, time.Duration(s.to-s.from))
	}
	if r.Commits = len(waits); r.Commits > 0 {
		slices.Sort(waits)
		r.P50, r.P99, r.Worst = waits[len(waits)/2], waits[len(waits)*99/100], waits[len(waits)-1]
		r.PerSecond = float64(r.Commits) / max(r.Elapsed.Seconds(), 1e-9)
	}
	r.PerProcess, r.PerGroup = spreads(accounts)
}

// spreads returns those of the writers that lived throughout the hard form: of
// the ones with one goroutine, and of those with several, which of course
// commit more.
func spreads(accounts []*account) (single, group Spread) {
	type slot struct{ machine, slot int }
	type life struct {
		commits, threads int
		ended            bool
	}
	lives := map[slot]life{}
	for _, a := range accounts {
		if a.Form != formHard || a.Role != roleWriter {
			continue
		}
		k := slot{a.Machine, a.Slot}
		l, ok := lives[k]
		l.ended = (l.ended || !ok) && a.ended && a.Incarnation == 0
		l.threads++
		for i := range a.ops {
			if a.ops[i].fate == fateDone {
				l.commits++
			}
		}
		lives[k] = l
	}
	for _, l := range lives {
		s := &single
		if l.threads > 1 {
			s = &group
		}
		if !l.ended {
			continue
		}
		if s.Processes == 0 {
			s.Fewest = l.commits
		}
		s.Processes++
		s.Fewest, s.Most = min(s.Fewest, l.commits), max(s.Most, l.commits)
	}
	return single, group
}
