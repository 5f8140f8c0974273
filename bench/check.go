package main

import (
	"fmt"
	"math"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// A bound is one of the project's goals: a figure, in a unit that the goal
// states, and what it may be.
type bound struct {
	what  string
	value float64
	least bool // the value must be at least the limit, not at most
	limit float64
	show  func(float64) string
}

func (b bound) verdict() string {
	switch {
	case math.IsNaN(b.value):
		return "not measured"
	case b.least && b.value >= b.limit, !b.least && b.value <= b.limit:
		return "PASS"
	}
	return "FAIL"
}

// The numbers that the goals name.
const (
	smallSize = 100
	largeSize = 1_000_000
	crowdSize = 100
)

// bounds returns all goals with what was measured.
func (l *lab) bounds() []bound {
	commit := func(n int, peer string) book.Place {
		return book.Place{Experiment: "a", Case: inRecords(n), Peer: peer, Figure: "p50"}
	}
	crowd := func(peer, figure string) book.Place {
		return book.Place{Experiment: "b", Case: inProcesses(crowdSize), Peer: peer, Figure: figure}
	}
	atMost := func(what string, value, limit float64) bound { return bound{what, value, false, limit, book.Times} }
	atLeast := func(what string, value, limit float64) bound { return bound{what, value, true, limit, book.Times} }

	// The sizes are measured one after the other, not in turn.
	all := []bound{atMost("a: a commit at 1,000,000 records to one at 100",
		l.book.Median(commit(largeSize, ours))/l.book.Median(commit(smallSize, ours)), 1.5)}
	for _, n := range l.sizes {
		all = append(all, atMost(fmt.Sprintf("a: a commit at %s records to SQLite's (WAL, FULL)", book.Grouped(n)),
			l.book.Ratio(commit(n, ours), commit(n, sqliteFull)), 3))
	}
	for _, batch := range steadyBatches {
		at := book.Place{Experiment: "a2", Case: steadyCase(batch), Peer: ours, Figure: "unevenness"}
		all = append(all, atMost(fmt.Sprintf("a2: the worst commit of %d new records to the median p99", batch), l.book.Median(at), 10))
	}
	load := func(peer string) book.Place {
		return book.Place{Experiment: "e", Case: oneTransaction, Peer: peer, Figure: "rate"}
	}
	command := func(name string) book.Place {
		return book.Place{Experiment: "f", Case: inRecords(l.largest()), Peer: name, Figure: "p50"}
	}
	space := book.Place{Experiment: "g", Case: oneTransaction, Peer: ours, Figure: "memory to get"}
	many := func(peer string) book.Place {
		return book.Place{Experiment: "h", Case: goroutinesCase, Peer: peer, Figure: "rate"}
	}
	contended := book.Place{Experiment: "l", Case: inProcesses(crowdSize), Peer: ourLock}
	free := func(name string) book.Place {
		return book.Place{Experiment: "l2", Case: freeCase, Peer: name, Figure: freeOpen}
	}
	return append(all,
		atLeast("b: commits/s of 100 processes to LMDB's", l.book.Ratio(crowd(ours, "rate"), crowd(lmdbName, "rate")), 2),
		atMost("b: p99 of 100 processes to LMDB's", l.book.Ratio(crowd(ours, "p99"), crowd(lmdbName, "p99")), 0.5),
		atLeast("b: fewest to most commits of 100 processes (median of the rounds)", l.book.Median(crowd(ours, "evenness")), 0.4),
		atMost("b: worst of 100 processes in all rounds to SQLite's (WAL, FULL)",
			l.book.Most(crowd(ours, "worst"))/l.book.Most(crowd(sqliteFull, "worst")), 0.1),
		atLeast("e: bulk load in one transaction to SQLite's (WAL, FULL)", l.book.Ratio(load(ours), load(sqliteFull)), 0.5),
		atMost(fmt.Sprintf("f: recordctl get to sqlite3, %s records", book.Grouped(l.largest())),
			l.book.Ratio(command(ours), command(sqliteFull)), 1),
		bound{fmt.Sprintf("g: peak memory to get one of %s records", book.Grouped(l.bulk)), l.book.Median(space), false, 32 << 20, book.Bytes},
		atLeast("h: commits/s of 64 goroutines to bbolt's Update", l.book.Ratio(many(ours), many(bboltName)), 10),
		atMost("l: most to fewest turns of 100 processes (median of the rounds)", l.book.Median(contended.Of("most to fewest")), 1.2),
		atMost("l: worst wait of 100 processes to their mean (the worst round)", l.book.Most(contended.Of("worst to mean")), 2.5),
		bound{"l2: lock and unlock, with queue and holder record", l.book.Median(free(ourLock)), false, 6e-6, book.Time},
		bound{"l2: lock and unlock, without queue and holder record", l.book.Median(free(ourBareLock)), false, 2e-6, book.Time},
	)
}

// check prints the goals.
func check(l *lab) {
	t := &table{
		title:   "Goals",
		columns: []string{"goal", "verdict", "measured", "limit"},
		names:   2,
	}
	for _, b := range l.bounds() {
		limit := "<= "
		if b.least {
			limit = ">= "
		}
		t.row(b.what, b.verdict(), b.show(b.value), limit+b.show(b.limit))
	}
	l.report(t)
}
