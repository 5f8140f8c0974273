package main

import (
	"fmt"
	"time"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// Experiment e loads in these batches, this store in both.
const ownBatch = 10_000

// loadLimit ends a load in batches that takes too long. The records that are
// there by then count.
const loadLimit = time.Minute

// A loading is a way to load: a peer, and the records of a transaction.
type loading struct {
	peer  *peer
	total int
	batch int
}

const oneTransaction = "one transaction"

func (g loading) how() string {
	if g.batch < g.total {
		return "batches of " + book.Grouped(g.batch)
	}
	return oneTransaction
}

// loadings returns the ways. A peer that cannot hold all loads what it can.
func (l *lab) loadings() []loading {
	var all []loading
	for i := range l.peers {
		p := &l.peers[i]
		total := l.bulk
		if p.limit > 0 {
			total = min(total, p.limit)
		}
		all = append(all, loading{p, total, total})
		if p.name == ours && ownBatch < total {
			all = append(all, loading{p, total, ownBatch})
		}
	}
	return all
}

func (g loading) at(experiment string) book.Place {
	return book.Place{Experiment: experiment, Case: g.how(), Peer: g.peer.name}
}

// bulkLoads is experiment e: many records, in order, into an empty database.
func bulkLoads(l *lab) error {
	t := &table{
		title:   "e. Bulk load, in the order of the keys, durable at the end",
		columns: []string{"peer", "how", "records", "records/s", "to ours"},
		names:   2,
		notes: []string{fmt.Sprintf("A load in batches is ended after %s. ", loadLimit) +
			"The ratios are to this store's load in one transaction. " + toOurs},
	}
	for round := range l.rounds {
		for _, g := range l.loadings() {
			l.say("e: round %d of %d, %s, %s", round+1, l.rounds, g.peer.name, g.how())
			d, res, err := l.load(g.peer, g.total, g.batch, loadLimit)
			if err == nil {
				err = l.verify(d)
			}
			if err == nil {
				err = l.drop(d)
			}
			if err != nil {
				return fmt.Errorf("e: %s: %w", g.peer.name, err)
			}
			l.book.Add(g.at("e").Of("rate"), float64(res.Done)/res.Elapsed.Seconds())
			l.book.Add(g.at("e").Of("records"), float64(res.Done))
		}
	}
	own := book.Place{Experiment: "e", Case: oneTransaction, Peer: ours, Figure: "rate"}
	for _, g := range l.loadings() {
		rate := g.at("e").Of("rate")
		t.row(g.peer.name, g.how(), book.Grouped(int(l.book.Least(g.at("e").Of("records")))),
			book.Number(l.book.Median(rate)), book.Times(l.book.Ratio(rate, own)))
	}
	l.report(t)
	return nil
}

// space is experiment g: what a loaded database takes on disk, and how much
// memory the processes need that load it, and that get one record.
func space(l *lab) error {
	t := &table{
		title:   "g. Space: on disk after the load, and the peak of a process's resident memory",
		columns: []string{"peer", "how", "records", "size of files", "on disk", "memory to load", "memory to get one"},
		names:   2,
		notes: []string{
			"The records' keys and values are " + book.Bytes(float64(l.bulk*(valueSize+len(recordKey(0))))) + " for " + book.Grouped(l.bulk) + " records. " +
				"Files that are mapped count as memory as far as they were touched. One round.",
		},
	}
	idle, err := runOne(l.ctx, job{Kind: kindIdle}, nil)
	if err != nil {
		return err
	}
	t.row("(none)", "a process that does nothing", book.None, book.None, book.None, book.Bytes(float64(idle.Memory)), book.Bytes(float64(idle.Memory)))
	for _, g := range l.loadings() {
		l.say("g: %s, %s", g.peer.name, g.how())
		if err := l.spaceOf(g); err != nil {
			return fmt.Errorf("g: %s: %w", g.peer.name, err)
		}
		figure := func(name string) string { return book.Bytes(l.book.Median(g.at("g").Of(name))) }
		t.row(g.peer.name, g.how(), book.Grouped(int(l.book.Median(g.at("g").Of("records")))),
			figure("size"), figure("disk"), figure("memory to load"), figure("memory to get"))
	}
	l.report(t)
	return nil
}

func (l *lab) spaceOf(g loading) error {
	d, loaded, err := l.load(g.peer, g.total, g.batch, loadLimit)
	if err != nil {
		return err
	}
	apparent, allocated, err := usage(d.dir)
	if err != nil {
		return err
	}
	j := d.job(kindFirst)
	j.Reads = true
	got, err := runOne(l.ctx, j, nil)
	if err != nil {
		return err
	}
	if err := l.verify(d); err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		bytes int64
	}{
		{"records", int64(d.records)},
		{"size", apparent},
		{"disk", allocated},
		{"memory to load", loaded.Memory},
		{"memory to get", got.Memory},
	} {
		l.book.Add(g.at("g").Of(f.name), float64(f.bytes))
	}
	return l.drop(d)
}
