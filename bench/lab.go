package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// A lab is what the experiments share.
type lab struct {
	ctx      context.Context
	dir      string
	peers    []peer
	sizes    []int // ascending
	writers  []int // processes, ascending
	readers  int   // processes, where there are many
	holders  int   // processes that want one lock
	bulk     int   // records of a bulk load
	rounds   int
	length   time.Duration // of one measurement
	crowd    time.Duration // of one with many writer processes
	steady   time.Duration // of the steady writing
	command  string        // recordctl; empty: is built
	book     *book.Book
	tables   []*table
	out      io.Writer
	progress io.Writer
	began    time.Time
	sets     map[string]*dataset
	made     int // directories
	drawn    uint64

	toldLocks bool // how the locks are used
}

// seed returns another one each time, and the same ones in each run.
func (l *lab) seed() uint64 {
	l.drawn++
	return l.drawn
}

// largest is the greatest number of records.
func (l *lab) largest() int { return l.sizes[len(l.sizes)-1] }

// report prints a table, and keeps it for the Markdown.
func (l *lab) report(t *table) {
	t.writeText(l.out)
	l.tables = append(l.tables, t)
}

// say tells what is going on, for those who wait.
func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(l.progress, "%7.1fs  %s\n", time.Since(l.began).Seconds(), fmt.Sprintf(format, args...))
}

// inTurn calls measure for one peer after the other, and that for all rounds,
// so that a slow minute of the machine meets all of them.
func (l *lab) inTurn(what string, peers []peer, measure func(p *peer) error) error {
	named := map[string]*peer{}
	for i := range peers {
		named[peers[i].name] = &peers[i]
	}
	return l.namedInTurn(what, peerNames(peers), func(name string) error { return measure(named[name]) })
}

// namedInTurn is inTurn of whatever has these names.
func (l *lab) namedInTurn(what string, names []string, measure func(name string) error) error {
	for round := range l.rounds {
		for _, name := range names {
			l.say("%s: round %d of %d, %s", what, round+1, l.rounds, name)
			if err := measure(name); err != nil {
				return fmt.Errorf("%s: %s: %w", what, name, err)
			}
		}
	}
	return nil
}

// that returns the peers that can hold so many records.
func (l *lab) that(hold int) []peer {
	var some []peer
	for _, p := range l.peers {
		if p.holds(hold) {
			some = append(some, p)
		}
	}
	return some
}

// A dataset is a database with records in it, and what must be in it by now.
type dataset struct {
	peer     *peer
	dir      string
	records  int    // with keys of recordKey
	inserted int    // others
	counted  uint64 // acknowledged updates
}

// job returns a job on the dataset.
func (d *dataset) job(kind string) job {
	return job{Kind: kind, Peer: d.peer.name, Dir: d.dir, Records: d.records}
}

// warmRecords is the size of the database that a worker opens to warm up.
const warmRecords = 100

// loadBatch is how many records of a dataset are loaded at once.
const loadBatch = 1_000_000

// set returns the dataset of a peer and a size, which all experiments use that
// do not add records. It is loaded the first time.
func (l *lab) set(p *peer, records int) (*dataset, error) {
	name := p.name + strconv.Itoa(records)
	if d := l.sets[name]; d != nil {
		return d, nil
	}
	d, _, err := l.load(p, records, loadBatch, never)
	if err == nil {
		l.sets[name] = d
	}
	return d, err
}

// ready loads the datasets of all peers, before anything is measured.
func (l *lab) ready(peers []peer, records int) error {
	for i := range peers {
		if _, err := l.set(&peers[i], records); err != nil {
			return err
		}
	}
	return nil
}

// never is a time limit that is none.
const never = 24 * time.Hour

// load makes a new dataset.
func (l *lab) load(p *peer, records, batch int, most time.Duration) (*dataset, result, error) {
	l.made++
	dir := filepath.Join(l.dir, fmt.Sprintf("%s-%d-%d", p.name, records, l.made))
	if err := os.Mkdir(dir, 0o777); err != nil {
		return nil, result{}, err
	}
	d := &dataset{peer: p, dir: dir, records: records}
	j := d.job(kindLoad)
	j.Batch, j.Length = batch, most
	res, err := runOne(l.ctx, j, nil)
	d.records = res.Done
	return d, res, err
}

// drop removes a dataset.
func (l *lab) drop(d *dataset) error { return os.RemoveAll(d.dir) }

// errLost is reported when what is there is not what was acknowledged.
var errLost = errors.New("updates were lost")

// verify checks that a dataset has all that was acknowledged, and no more.
func (l *lab) verify(d *dataset) error {
	j := d.job(kindVerify)
	j.Reads = true
	res, err := runOne(l.ctx, j, nil)
	if err != nil {
		return err
	}
	if res.Sum != d.counted {
		return fmt.Errorf("%s: counters add up to %d, %d updates were acknowledged: %w", d.peer.name, res.Sum, d.counted, errLost)
	}
	if want := d.records + d.inserted; res.Done != want {
		return fmt.Errorf("%s: %d records are there, %d were inserted: %w", d.peer.name, res.Done, want, errLost)
	}
	return nil
}

// verifyAll verifies the datasets of some peers.
func (l *lab) verifyAll(peers []peer, records int) error {
	for i := range peers {
		d, err := l.set(&peers[i], records)
		if err == nil {
			err = l.verify(d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// toOurs returns the ratio of a figure to this store's.
func (l *lab) toOurs(at book.Place) float64 {
	own := at
	own.Peer = ours
	return l.book.Ratio(at, own)
}

// addLatencies books the figures of operations' times.
func (l *lab) addLatencies(at book.Place, took []time.Duration) {
	slices.Sort(took)
	for _, f := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"worst", 1}} {
		at.Figure = f.name
		l.book.AddTime(at, book.Quantile(took, f.q))
	}
}

func inRecords(n int) string { return strconv.Itoa(n) + " records" }
