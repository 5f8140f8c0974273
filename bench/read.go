package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// How many readers, and writers besides, experiment c has.
const (
	manyReaders = 100
	besides     = 2
)

// smallReads is the size at which the peers can be compared that read all to
// get one.
const smallReads = 1000

// reads is experiment c: readers get random records, which the system has in
// its cache, alone and while others write; and a process that has just
// started gets one record from the disk.
func reads(l *lab) error {
	t := &table{
		title:   "c. Point reads of random records, warm",
		columns: []string{"records", "reads", "peer", "a read", "to ours", "reads/s", "commits/s", "failures"},
		names:   3,
		notes: []string{fmt.Sprintf("\"A read\" is the time of one as its reader sees it; %d readers share the machine's cores. "+
			"Commits are those of the writers besides, which commit as fast as they can. ", l.readers) + toOurs},
	}
	sizes := slices.Compact([]int{min(smallReads, l.largest()), l.largest()})
	for _, n := range sizes {
		for _, s := range l.readings(n == l.largest()) {
			if err := l.readCase(t, n, s); err != nil {
				return err
			}
		}
	}
	l.report(t)
	return l.coldReads(sizes)
}

// A reading is one case of experiment c.
type reading struct {
	miss             bool
	readers, writers int
}

// readings returns all cases, or for a size that is there for comparison only
// the first of them.
func (l *lab) readings(all bool) []reading {
	var cases []reading
	for _, writers := range []int{0, besides} {
		for _, readers := range []int{1, l.readers} {
			cases = append(cases, reading{false, readers, writers}, reading{true, readers, writers})
		}
	}
	if !all {
		return cases[:1]
	}
	return cases
}

func (r reading) String() string {
	s := "hit"
	if r.miss {
		s = "miss"
	}
	if r.readers == 1 {
		s += ", 1 reader"
	} else {
		s += fmt.Sprintf(", %d readers", r.readers)
	}
	if r.writers > 0 {
		s += fmt.Sprintf(", %d writers", r.writers)
	}
	return s
}

func (l *lab) readCase(t *table, n int, r reading) error {
	peers := l.that(n)
	if err := l.ready(peers, n); err != nil {
		return err
	}
	at := book.Place{Experiment: "c", Case: inRecords(n) + ", " + r.String()}
	err := l.inTurn("c, "+at.Case, peers, func(p *peer) error {
		d, err := l.set(p, n)
		if err != nil {
			return err
		}
		at.Peer = p.name
		return l.readOnce(d, r, at)
	})
	if err == nil && r.writers > 0 {
		err = l.verifyAll(peers, n)
	}
	if err != nil {
		return err
	}
	for _, p := range l.peers {
		at.Peer = p.name
		t.row(book.Grouped(n), r.String(), p.name, book.Time(l.book.Median(at.Of("read"))), book.Times(l.toOurs(at.Of("read"))),
			book.Number(l.book.Median(at.Of("rate"))), book.Number(l.book.Median(at.Of("commits"))), book.Number(l.book.Sum(at.Of("failures"))))
	}
	return nil
}

func (l *lab) readOnce(d *dataset, r reading, at book.Place) error {
	var jobs []job
	for range r.readers {
		j := d.job(kindRead)
		j.Reads, j.Miss = true, r.miss
		jobs = append(jobs, j)
	}
	for range r.writers {
		jobs = append(jobs, d.job(kindUpdate))
	}
	for i := range jobs {
		jobs[i].Length, jobs[i].Seed, jobs[i].Shared = l.length, l.seed(), r.writers > 0
	}
	results, err := runCrew(l.ctx, jobs, nil)
	if err != nil {
		return err
	}
	done, commits, failures := 0, 0, 0
	var took time.Duration
	rate := 0.0
	for i, res := range results {
		failures += res.Failures
		if i >= r.readers {
			commits += res.InTime
			d.counted += uint64(res.Done)
			continue
		}
		done += res.Done
		took += res.Elapsed
		rate += float64(res.Done) / res.Elapsed.Seconds()
	}
	l.book.Add(at.Of("read"), took.Seconds()/float64(max(1, done)))
	l.book.Add(at.Of("rate"), rate)
	l.book.Add(at.Of("failures"), float64(failures))
	if r.writers > 0 {
		l.book.Add(at.Of("commits"), float64(commits)/l.length.Seconds())
	}
	return nil
}

func (l *lab) coldReads(sizes []int) error {
	how, drop := dropper()
	t := &table{
		title:   "c. The first read of a process: open, and get one random record",
		columns: []string{"records", "cache", "peer", "open and get", "to ours"},
		names:   3,
		notes:   []string{"Cold: " + how + ". The program itself is loaded before. " + toOurs},
	}
	// Cold last: it makes the others' files cold too.
	for _, cold := range []bool{false, true} {
		for _, n := range sizes {
			if err := l.firstCase(t, n, cold, drop); err != nil {
				return err
			}
		}
	}
	l.report(t)
	// What comes next finds everything in the cache again.
	for _, n := range sizes {
		if err := l.verifyAll(l.that(n), n); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) firstCase(t *table, n int, cold bool, drop func(dir string) error) error {
	cache := "warm"
	if cold {
		cache = "cold"
	}
	peers := l.that(n)
	for _, records := range []int{n, warmRecords} {
		if err := l.ready(peers, records); err != nil {
			return err
		}
	}
	at := book.Place{Experiment: "c", Case: inRecords(n) + ", first, " + cache, Figure: "first"}
	err := l.inTurn("c, "+at.Case, peers, func(p *peer) error {
		at.Peer = p.name
		return l.firstRead(p, n, cold, drop, at)
	})
	if err != nil {
		return err
	}
	for _, p := range l.peers {
		at.Peer = p.name
		t.row(book.Grouped(n), cache, p.name, book.Time(l.book.Median(at)), book.Times(l.toOurs(at)))
	}
	return nil
}

func (l *lab) firstRead(p *peer, n int, cold bool, drop func(dir string) error, at book.Place) error {
	d, err := l.set(p, n)
	if err != nil {
		return err
	}
	warm, err := l.set(p, warmRecords)
	if err != nil {
		return err
	}
	j := d.job(kindFirst)
	j.Reads, j.WarmDir, j.Seed = true, warm.dir, l.seed()
	var before func() error
	if cold {
		before = func() error { return drop(d.dir) }
	}
	res, err := runOne(l.ctx, j, before)
	if err == nil {
		l.book.AddTime(at, res.Elapsed)
	}
	return err
}

// scans is experiment d: all records in the order of their keys.
func scans(l *lab) error {
	t := &table{
		title:   "d. Reading all records in the order of their keys, warm",
		columns: []string{"records", "peer", "records/s", "to ours"},
		names:   2,
		notes:   []string{toOurs},
	}
	for _, n := range l.sizes {
		if n < smallReads && n < l.largest() {
			continue
		}
		peers := l.that(n)
		if err := l.ready(peers, n); err != nil {
			return err
		}
		at := book.Place{Experiment: "d", Case: inRecords(n), Figure: "rate"}
		err := l.inTurn("d, "+at.Case, peers, func(p *peer) error {
			d, err := l.set(p, n)
			if err != nil {
				return err
			}
			j := d.job(kindScan)
			j.Reads, j.Length = true, l.length
			res, err := runOne(l.ctx, j, nil)
			at.Peer = p.name
			l.book.Add(at, float64(res.Done)/res.Elapsed.Seconds())
			return err
		})
		if err != nil {
			return err
		}
		for _, p := range l.peers {
			at.Peer = p.name
			t.row(book.Grouped(n), p.name, book.Number(l.book.Median(at)), book.Times(l.toOurs(at)))
		}
	}
	l.report(t)
	return nil
}
