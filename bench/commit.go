package main

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// warmCommits are made before a measurement of commits begins.
const warmCommits = 10

// commits is experiment a: one process that has the store open commits one
// small change after the other. Nobody else is there.
func commits(l *lab) error {
	t := &table{
		title:   "a. One durable commit: read one of N records, change its 100 bytes, commit; one process",
		columns: []string{"records", "peer", "median", "p99", "worst", "median to ours"},
		names:   2,
		notes:   []string{"The worst is that of all rounds, the rest are medians of the rounds. " + toOurs},
	}
	for _, n := range l.sizes {
		peers := l.that(n)
		if err := l.ready(peers, n); err != nil {
			return err
		}
		at := book.Place{Experiment: "a", Case: inRecords(n)}
		err := l.inTurn("a, "+at.Case, peers, func(p *peer) error {
			d, err := l.set(p, n)
			if err != nil {
				return err
			}
			j := d.job(kindUpdate)
			j.Length, j.Warm, j.Seed = l.length, warmCommits, l.seed()
			res, err := runOne(l.ctx, j, nil)
			d.counted += uint64(res.Done)
			at.Peer = p.name
			l.addLatencies(at, res.Took)
			return err
		})
		if err == nil {
			err = l.verifyAll(peers, n)
		}
		if err != nil {
			return err
		}
		for _, p := range l.peers {
			at.Peer = p.name
			t.row(book.Grouped(n), p.name, book.Time(l.book.Median(at.Of("p50"))), book.Time(l.book.Median(at.Of("p99"))),
				book.Time(l.book.Most(at.Of("worst"))), book.Times(l.toOurs(at.Of("p50"))))
		}
	}
	l.report(t)
	return nil
}

// toOurs explains the columns of ratios.
const toOurs = "\"to ours\" is the peer's figure divided by this store's of the same round, the median of the rounds."

// steadyBatches are the records that steady writing puts into a commit.
var steadyBatches = []int{1, 100}

// steadyWindows is into how many windows the time of steady writing is cut.
const steadyWindows = 20

// steadyWriting is experiment a2: new records are written for a long time, all
// over the keys, so that what works in the background (merging, checkpoints)
// has much to do. A store that does too much of it at once shows in its worst
// commit. One round: it is long.
func steadyWriting(l *lab) error {
	t := &table{
		title: fmt.Sprintf("a2. Steady writing of new records among %s, for %s", book.Grouped(l.largest()), l.steady),
		columns: []string{
			"records a commit", "peer", "records/s", "median",
			"p99 (median of windows)", "p99 (worst window)", "worst", "worst to median p99",
		},
		names: 2,
		notes: []string{fmt.Sprintf("The time is cut into %d windows, and each has its p99. One round.", steadyWindows)},
	}
	for _, batch := range steadyBatches {
		at := book.Place{Experiment: "a2", Case: steadyCase(batch)}
		for i := range l.peers {
			p := &l.peers[i]
			at.Peer = p.name
			if p.holds(l.largest()) {
				l.say("a2, %s, %s", at.Case, p.name)
				if err := l.steadyOnce(p, batch, at); err != nil {
					return fmt.Errorf("a2: %s: %w", p.name, err)
				}
			}
			median := func(figure string) string { return book.Time(l.book.Median(at.Of(figure))) }
			t.row(book.Grouped(batch), p.name, book.Number(l.book.Median(at.Of("rate"))), median("p50"),
				median("window p99"), median("worst window"), median("worst"), book.Times(l.book.Median(at.Of("unevenness"))))
		}
	}
	l.report(t)
	return nil
}

func steadyCase(batch int) string { return strconv.Itoa(batch) + " a commit" }

func (l *lab) steadyOnce(p *peer, batch int, at book.Place) error {
	d, _, err := l.load(p, l.largest(), loadBatch, never)
	if err != nil {
		return err
	}
	j := d.job(kindSteady)
	j.Length, j.Batch, j.Seed = l.steady, batch, l.seed()
	res, err := runOne(l.ctx, j, nil)
	if err != nil {
		return err
	}
	d.inserted = res.Done * batch
	if err := l.verify(d); err != nil {
		return err
	}
	windows := windowP99s(res, l.steady)
	l.addLatencies(at, res.Took)
	l.book.Add(at.Of("rate"), float64(d.inserted)/res.Elapsed.Seconds())
	l.book.Add(at.Of("window p99"), book.MedianOf(windows))
	l.book.Add(at.Of("worst window"), slices.Max(windows))
	l.book.Add(at.Of("unevenness"), l.book.Median(at.Of("worst"))/book.MedianOf(windows))
	return l.drop(d)
}

// windowP99s returns the p99 of each window in which an operation ended.
func windowP99s(res result, length time.Duration) []float64 {
	windows := map[int][]time.Duration{}
	for i, took := range res.Took {
		w := int(res.At[i] * steadyWindows / length)
		windows[w] = append(windows[w], took)
	}
	var p99s []float64
	for _, took := range windows {
		slices.Sort(took)
		p99s = append(p99s, book.Quantile(took, 0.99).Seconds())
	}
	return p99s
}
