package main

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// sharedRecords is how many records the writers share.
const sharedRecords = 1000

// writerProcesses is experiment b: processes that all have the store open
// begin together and count up shared records, each as fast as it is let. In
// the end the counters must add up to what was acknowledged.
func writerProcesses(l *lab) error {
	t := &table{
		title:   fmt.Sprintf("b. Writer processes: durable changes of %s shared records", book.Grouped(sharedRecords)),
		columns: []string{"processes", "peer", "commits/s", "to ours", "median", "p99", "worst", "fewest-most", "failures"},
		names:   2,
		notes: []string{
			fmt.Sprintf("For %s each round. The worst is that of all rounds; fewest and most are the commits of a process, "+
				"in the round where they were furthest apart; failures, the operations that gave up waiting, of all rounds; their times count. %s", l.crowd, toOurs),
			"Median and p99 are of operations: a process that is starved has few, and hardly shows in them. Fewest-most and the worst show it.",
			"Nothing was lost: for all peers the counters add up to the commits that were acknowledged.",
		},
	}
	peers := l.that(sharedRecords)
	if err := l.ready(peers, sharedRecords); err != nil {
		return err
	}
	for _, processes := range l.writers {
		at := book.Place{Experiment: "b", Case: inProcesses(processes)}
		err := l.inTurn("b, "+at.Case, peers, func(p *peer) error {
			at.Peer = p.name
			return l.writeTogether(p, processes, at)
		})
		if err == nil {
			err = l.verifyAll(peers, sharedRecords)
		}
		if err != nil {
			return err
		}
		for _, p := range l.peers {
			at.Peer = p.name
			t.row(strconv.Itoa(processes), p.name,
				book.Number(l.book.Median(at.Of("rate"))), book.Times(l.toOurs(at.Of("rate"))),
				book.Time(l.book.Median(at.Of("p50"))), book.Time(l.book.Median(at.Of("p99"))), book.Time(l.book.Most(at.Of("worst"))),
				l.furthestApart(at), book.Number(l.book.Sum(at.Of("failures"))))
		}
	}
	l.report(t)
	return nil
}

func (l *lab) writeTogether(p *peer, processes int, at book.Place) error {
	d, err := l.set(p, sharedRecords)
	if err != nil {
		return err
	}
	jobs := make([]job, processes)
	for i := range jobs {
		jobs[i] = d.job(kindUpdate)
		jobs[i].Length, jobs[i].Seed, jobs[i].Shared = l.crowd, l.seed(), processes > 1
	}
	results, err := runCrew(l.ctx, jobs, nil)
	if err != nil {
		return err
	}
	var took []time.Duration
	inTime, failures := 0, 0
	fewest, most := math.MaxInt, 0
	for _, r := range results {
		d.counted += uint64(r.Done)
		took = append(took, r.Took...)
		inTime += r.InTime
		failures += r.Failures
		fewest, most = min(fewest, r.Done), max(most, r.Done)
	}
	l.addLatencies(at, took)
	l.book.Add(at.Of("rate"), float64(inTime)/l.crowd.Seconds())
	l.book.Add(at.Of("failures"), float64(failures))
	l.book.Add(at.Of("fewest"), float64(fewest))
	l.book.Add(at.Of("most"), float64(most))
	l.book.Add(at.Of("evenness"), float64(fewest)/float64(max(1, most)))
	return nil
}

// furthestApart returns the fewest and most commits of the round where they
// were furthest apart.
func (l *lab) furthestApart(at book.Place) string {
	even := l.book.Rounds(at.Of("evenness"))
	if len(even) == 0 {
		return book.None
	}
	round := 0
	for i, e := range even {
		if e < even[round] {
			round = i
		}
	}
	return fmt.Sprintf("%.0f-%.0f", l.book.Rounds(at.Of("fewest"))[round], l.book.Rounds(at.Of("most"))[round])
}

func inProcesses(n int) string { return strconv.Itoa(n) + " processes" }

// goroutines is how many work at once in experiment h.
const goroutines = 64

// goroutinesCase is its only case.
var goroutinesCase = strconv.Itoa(goroutines) + " goroutines"

// batchedName is what bbolt's Batch is called in the tables.
const batchedName = bboltName + " Batch"

// inOneProcess is experiment h: goroutines of one process, each of which
// commits small changes. A peer that commits several at once needs fewer
// flushes.
func inOneProcess(l *lab) error {
	t := &table{
		title:   fmt.Sprintf("h. %d goroutines of one process: durable changes of %s records", goroutines, book.Grouped(sharedRecords)),
		columns: []string{"peer", "commits/s", "to ours", "median", "p99", "worst"},
		names:   1,
		notes:   []string{"Nothing was lost. " + toOurs},
	}
	// One entry more than there are peers.
	var forms []peer
	batched := map[string]bool{}
	for _, p := range l.that(sharedRecords) {
		forms = append(forms, p)
		if p.name == bboltName {
			p.name = batchedName
			batched[p.name] = true
			forms = append(forms, p)
		}
	}
	at := book.Place{Experiment: "h", Case: goroutinesCase}
	err := l.inTurn("h", forms, func(f *peer) error {
		name := f.name
		if batched[name] {
			name = bboltName
		}
		p, err := peerNamed(name)
		if err != nil {
			return err
		}
		d, err := l.set(p, sharedRecords)
		if err != nil {
			return err
		}
		j := d.job(kindUpdate)
		j.Length, j.Seed, j.Goroutines, j.Batched = l.length, l.seed(), goroutines, batched[f.name]
		res, err := runOne(l.ctx, j, nil)
		if err != nil {
			return err
		}
		d.counted += uint64(res.Done)
		at.Peer = f.name
		l.addLatencies(at, res.Took)
		l.book.Add(at.Of("rate"), float64(res.InTime)/l.length.Seconds())
		return nil
	})
	if err == nil {
		err = l.verifyAll(l.that(sharedRecords), sharedRecords)
	}
	if err != nil {
		return err
	}
	for _, f := range forms {
		at.Peer = f.name
		t.row(f.name, book.Number(l.book.Median(at.Of("rate"))), book.Times(l.toOurs(at.Of("rate"))),
			book.Time(l.book.Median(at.Of("p50"))), book.Time(l.book.Median(at.Of("p99"))), book.Time(l.book.Most(at.Of("worst"))))
	}
	l.report(t)
	return nil
}
