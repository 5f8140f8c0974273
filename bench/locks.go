package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// errNotExclusive is reported when a lock was held twice at a time.
var errNotExclusive = errors.New("two held the lock at once")

// contendedLocks is experiment l: processes that want the lock again as soon as
// they have released it. They count up while they hold it, without any other
// protection.
func contendedLocks(l *lab) error {
	t := &table{
		title:   fmt.Sprintf("l. A lock that %s want all the time, held for %v each time, for %v", inProcesses(l.holders), holdTime, l.crowd),
		columns: []string{"lock", "acquisitions", "to ours", "median wait", "p99 wait", "worst wait", "worst to mean", "fewest-most", "most to fewest"},
		names:   1,
		notes: []string{
			"Acquisitions within the time; \"to ours\" is theirs, of the same round. The worst wait is that of all rounds. Fewest and most are the acquisitions of a process, " +
				"with the one for which it was waiting in the end, in the round where they were furthest apart. All else, the two ratios too, are medians of the rounds.",
			"Median, p99 and mean are of acquisitions: a process that is starved has few, and hardly shows in them. Fewest-most and the worst show it.",
		},
	}
	locks := l.locksHere(t)
	at := book.Place{Experiment: "l", Case: inProcesses(l.holders)}
	failed := map[string]error{}
	err := l.namedInTurn("l", lockNames(locks), func(name string) error {
		at.Peer = name
		err := l.holdTogether(at)
		if errors.Is(err, errNotExclusive) && name != ourLock {
			failed[name] = err // reported, and not ranked
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	sound := 0
	for _, p := range locks {
		at.Peer = p.name
		if err := failed[p.name]; err != nil {
			t.row(append([]string{p.name + ", which FAILED"}, slices.Repeat([]string{book.None}, len(t.columns)-1)...)...)
			t.notes = append(t.notes, fmt.Sprintf("%s failed: %v.", p.name, err))
			continue
		}
		sound++
		t.row(p.name, book.Number(l.book.Median(at.Of("acquisitions"))), book.Times(l.toOurLock(at.Of("acquisitions"))),
			book.Time(l.book.Median(at.Of("p50"))), book.Time(l.book.Median(at.Of("p99"))), book.Time(l.book.Most(at.Of("worst"))),
			book.Times(l.book.Median(at.Of("worst to mean"))),
			l.furthestApart(at), book.Times(l.book.Median(at.Of("most to fewest"))))
	}
	if sound > 0 {
		t.notes = append(t.notes, fmt.Sprintf("No two held a lock at once: a counter that the holders counted up adds up to the acquisitions, for all %d that have figures.", sound))
	}
	l.report(t)
	return nil
}

// holdTogether measures one lock once.
func (l *lab) holdTogether(at book.Place) (err error) {
	dir, err := l.lockDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	counter, err := os.OpenFile(filepath.Join(dir, counterName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return err
	}
	defer counter.Close()
	if _, err := counter.Write(make([]byte, 8)); err != nil {
		return err
	}
	jobs := make([]job, l.holders)
	for i := range jobs {
		jobs[i] = job{Kind: kindHold, Lock: at.Peer, Dir: dir, Length: l.crowd}
	}
	results, err := runCrew(l.ctx, jobs, nil)
	if err != nil {
		return err
	}
	var waits []time.Duration
	total, mean := 0, 0.0
	inTime, fewest, most := 0, math.MaxInt, 0
	for _, r := range results {
		waits = append(waits, r.Took...)
		total += r.Done
		inTime += r.InTime
		fewest, most = min(fewest, r.Done), max(most, r.Done)
	}
	if n, err := readCounter(counter); err != nil {
		return err
	} else if n != uint64(total) {
		return fmt.Errorf("%d acquisitions were counted up to %d: %w", total, n, errNotExclusive)
	}
	for _, d := range waits {
		mean += d.Seconds() / float64(len(waits))
	}
	l.addLatencies(at, waits)
	l.book.Add(at.Of("acquisitions"), float64(inTime))
	l.book.Add(at.Of("mean"), mean)
	l.book.Add(at.Of("worst to mean"), slices.Max(waits).Seconds()/mean)
	l.book.Add(at.Of("fewest"), float64(fewest))
	l.book.Add(at.Of("most"), float64(most))
	l.book.Add(at.Of("evenness"), float64(fewest)/float64(most))
	l.book.Add(at.Of("most to fewest"), float64(most)/float64(fewest))
	return nil
}

// The figures of experiment l2.
const (
	freeCase     = "free"
	freeOpen     = "lock and unlock"
	freeReopened = "open, lock, unlock and close"
)

// freeLocks is experiment l2: what a lock costs that nobody else wants.
func freeLocks(l *lab) error {
	t := &table{
		title:   "l2. A lock that nobody else wants",
		columns: []string{"lock", freeOpen, "to ours", freeReopened, "to ours"},
		names:   1,
		notes: []string{fmt.Sprintf("Medians of the rounds, of whose batches of %d the median counts. The file is there, but for the dotlock's. "+
			"Those that open it each time do so in both columns. %s", freeBatch, toOurs)},
	}
	locks := l.locksHere(t)
	at := book.Place{Experiment: "l2", Case: freeCase}
	err := l.namedInTurn("l2", lockNames(locks), func(name string) error {
		at.Peer = name
		return l.takeFree(at)
	})
	if err != nil {
		return err
	}
	for _, p := range locks {
		at.Peer = p.name
		row := []string{p.name}
		for _, figure := range []string{freeOpen, freeReopened} {
			row = append(row, book.Time(l.book.Median(at.Of(figure))), book.Times(l.toOurLock(at.Of(figure))))
		}
		t.row(row...)
	}
	l.report(t)
	return nil
}

// takeFree measures one lock once, both ways.
func (l *lab) takeFree(at book.Place) (err error) {
	dir, err := l.lockDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, figure := range []string{freeOpen, freeReopened} {
		res, err := runOne(l.ctx, job{Kind: kindFree, Lock: at.Peer, Dir: dir, Length: l.length / 2, Reopen: figure == freeReopened}, nil)
		if err != nil {
			return err
		}
		slices.Sort(res.Took)
		l.book.AddTime(at.Of(figure), book.Quantile(res.Took, 0.5))
	}
	return nil
}

// lockDir makes an empty directory.
func (l *lab) lockDir() (string, error) { return os.MkdirTemp(l.dir, "lock-") }

// locksHere returns the locks that can be measured here. It notes in the table, if
// it is the first, which ones cannot, and how the others are used.
func (l *lab) locksHere(t *table) []lockPeer {
	var here []lockPeer
	var notes []string
	for _, p := range lockPeers {
		if p.missing != nil {
			if why := p.missing(); why != "" {
				l.say("%s is left out: %s", p.name, why)
				notes = append(notes, fmt.Sprintf("%s is left out: %s.", p.name, why))
				continue
			}
		}
		here = append(here, p)
		notes = append(notes, fmt.Sprintf("%s: %s; %s.", p.name, p.version(), p.settings))
	}
	if !l.toldLocks {
		l.toldLocks = true
		t.notes = append(t.notes, notes...)
	}
	return here
}

func lockNames(locks []lockPeer) []string {
	var names []string
	for _, p := range locks {
		names = append(names, p.name)
	}
	return names
}

// toOurLock returns the ratio of a figure to that of this project's lock.
func (l *lab) toOurLock(at book.Place) float64 {
	own := at
	own.Peer = ourLock
	return l.book.Ratio(at, own)
}
