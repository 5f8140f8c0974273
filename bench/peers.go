package main

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// A peer is one way for programs to keep records. All of them are given the
// same work.
type peer struct {
	name string
	// settings says how it is set up, and why so, in a line of the report.
	settings string
	version  func() string
	// limit is the number of records beyond which it is left out, or 0. Those
	// that write everything in each commit would hold up the run for hours.
	limit int
	// open opens what is in dir, and creates it if there is nothing. Each peer
	// has a directory of its own.
	open func(dir string, o opening) (db, error)
	// busy tells the error of a peer that gave up waiting for others. It counts
	// as a failure; nothing was changed. Any other error ends the run. nil: it
	// never gives up.
	busy func(error) bool
}

// An opening says what a database is opened for.
type opening struct {
	// Reads is set if it is only to be read.
	Reads bool
	// Shared is set if another process may write meanwhile. A peer that keeps
	// others out while it is open must open anew for each operation.
	Shared bool
}

// A db is an open database. Update may be called by several goroutines, the
// rest by one.
type db interface {
	// Update replaces one record by what change makes of it. When it returns
	// without an error, that is as durable as the peer's settings promise.
	Update(key string, change func(old []byte) ([]byte, error)) error
	// Get returns a record's value, which the caller may keep, or errMissing.
	Get(key string) ([]byte, error)
	// Scan calls see for all records, in the order of their keys. The value is
	// valid until see returns.
	Scan(see func(key string, value []byte) error) error
	// Insert writes records in one durable transaction. sorted is set if they
	// come in order and lie behind all that are there.
	Insert(records iter.Seq2[string, []byte], sorted bool) error
	Close() error
}

// A batcher is a db that has a second form of Update for goroutines, which
// commits several of them at once.
type batcher interface {
	UpdateBatched(key string, change func(old []byte) ([]byte, error)) error
}

// errMissing is reported by Get when there is no such record.
var errMissing = errors.New("no such record")

// The names that bounds refer to.
const (
	ours       = "recordstore"
	sqliteFull = "sqlite-full"
	lmdbName   = "lmdb"
	bboltName  = "bbolt"
)

// allPeers are in the order of the tables. The first is what the others are
// compared with.
var allPeers = []peer{
	recordstorePeer,
	sqlitePeer(sqliteFull, "FULL", "flushes the log in each commit, as durable as this store"),
	sqlitePeer("sqlite-normal", "NORMAL", "flushes only at checkpoints: a power loss takes back the last commits"),
	bboltPeer,
	lmdbPeer,
	lockedfilePeer,
	jsonfilePeer,
}

func peerNamed(name string) (*peer, error) {
	for i := range allPeers {
		if allPeers[i].name == name {
			return &allPeers[i], nil
		}
	}
	return nil, fmt.Errorf("no peer is called %q; there are %s", name, strings.Join(peerNames(allPeers), ", "))
}

func peerNames(peers []peer) []string {
	var names []string
	for _, p := range peers {
		names = append(names, p.name)
	}
	return names
}

// choosePeers returns those of a list of names, or all if it is empty, in the
// order of the tables. This store is always among them: the ratios need it.
func choosePeers(list string) ([]peer, error) {
	if list == "" {
		return allPeers, nil
	}
	names := strings.Split(list, ",")
	for _, n := range names {
		if _, err := peerNamed(n); err != nil {
			return nil, err
		}
	}
	var chosen []peer
	for _, p := range allPeers {
		if p.name == ours || slices.Contains(names, p.name) {
			chosen = append(chosen, p)
		}
	}
	return chosen, nil
}

// holds tells whether the peer takes part with that many records.
func (p *peer) holds(records int) bool { return p.limit == 0 || records <= p.limit }

// openFor opens the peer's database, and names the peer in the error.
func (p *peer) openFor(dir string, o opening) (db, error) {
	d, err := p.open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("%s: open: %w", p.name, err)
	}
	return d, nil
}
