package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// lossyPeer reads, changes and replaces a JSON file without any lock.
var lossyPeer = peer{
	name:    "lossy",
	version: func() string { return "" },
	open: func(dir string, _ opening) (db, error) {
		return lossyDB{&jsonfileDB{dir: dir, path: filepath.Join(dir, "records.json")}}, nil
	},
}

type lossyDB struct{ *jsonfileDB }

func (d lossyDB) Update(key string, change func([]byte) ([]byte, error)) error {
	records, err := d.read()
	if err != nil {
		return err
	}
	if err := updateOne(key, change)(records); err != nil {
		return err
	}
	return d.replace(records, fmt.Sprintf("%s.%d", d.path, os.Getpid()))
}

// forgetfulPeer leaves one record out of what it is to insert.
var forgetfulPeer = peer{
	name:    "forgetful",
	version: func() string { return "" },
	open: func(dir string, _ opening) (db, error) {
		return forgetfulDB{&jsonfileDB{dir: dir, path: filepath.Join(dir, "records.json")}}, nil
	},
}

type forgetfulDB struct{ *jsonfileDB }

func (d forgetfulDB) Insert(records iter.Seq2[string, []byte], _ bool) error {
	all := maps.Collect(records)
	delete(all, slices.Max(slices.Collect(maps.Keys(all))))
	return d.replace(all, d.path+".tmp")
}

func TestMain(m *testing.M) {
	allPeers = append(allPeers, lossyPeer, forgetfulPeer)
	if _, worker := os.LookupEnv(workerEnv); worker {
		lockPeers = append(lockPeers, noLock)
	}
	maybeWorker()
	os.Exit(m.Run())
}

func newLab(t *testing.T, peers ...string) *lab {
	l := &lab{
		ctx: context.Background(), dir: t.TempDir(), book: book.New(),
		sizes: []int{100}, writers: []int{4}, holders: 4, rounds: 1,
		length: 100 * time.Millisecond, crowd: 500 * time.Millisecond,
		out: io.Discard, progress: io.Discard, began: time.Now(), sets: map[string]*dataset{},
	}
	for _, name := range peers {
		p, err := peerNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		l.peers = append(l.peers, *p)
	}
	return l
}

func TestLostUpdatesAreNoticed(t *testing.T) {
	if err := writerProcesses(newLab(t, "lossy")); !errors.Is(err, errLost) {
		t.Errorf("a peer without a lock: got %v, want %v", err, errLost)
	}
}

func TestLostRecordsAreNoticed(t *testing.T) {
	for name, experiment := range map[string]func(*lab) error{"e": bulkLoads, "g": space} {
		l := newLab(t, "forgetful")
		l.bulk = 1000
		if err := experiment(l); !errors.Is(err, errLost) {
			t.Errorf("%s: a peer that forgets a record: got %v, want %v", name, err, errLost)
		}
	}
}

// noLock excludes nobody.
var noLock = lockPeer{
	name:    "none",
	version: func() string { return "" },
	open:    func(string) (locker, error) { return noLocker{}, nil },
}

type noLocker struct{}

func (noLocker) Lock() error   { return nil }
func (noLocker) Unlock() error { return nil }
func (noLocker) Close() error  { return nil }

// A lock that does not exclude is reported, and has no figures; the rest have.
func TestLockThatDoesNotExclude(t *testing.T) {
	saved := lockPeers
	defer func() { lockPeers = saved }()
	lockPeers = []lockPeer{saved[0], noLock}
	l := newLab(t, ours)
	if err := contendedLocks(l); err != nil {
		t.Fatal(err)
	}
	rows := l.tables[0].rows
	if len(rows) != 2 || rows[0][1] == book.None || !strings.Contains(rows[1][0], "FAILED") || rows[1][1] != book.None {
		t.Errorf("got %q", rows)
	}

	// Our own is no different, but nothing could be compared with it.
	if err := l.holdTogether(book.Place{Peer: noLock.name}); !errors.Is(err, errNotExclusive) {
		t.Errorf("got %v, want %v", err, errNotExclusive)
	}
}

// Every peer takes the work of every experiment, and the tables and the plot
// come out.
func TestShortRun(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	dir := t.TempDir()
	markdown, plot, figures := filepath.Join(dir, "m.md"), filepath.Join(dir, "p.svg"), filepath.Join(dir, "f.json")
	var out bytes.Buffer
	args := []string{
		"-short", "-run", "a,a2,b,c,d,e,g,h,l,l2", "-peers", strings.Join(peerNames(allPeers[:len(allPeers)-2]), ","),
		"-dir", dir, "-check", "-markdown", markdown, "-svg", plot, "-json", figures,
	}
	if err := run(context.Background(), args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{markdown, plot, figures} {
		if text, err := os.ReadFile(path); err != nil || len(text) == 0 {
			t.Errorf("%s: got %d bytes, %v", path, len(text), err)
		}
	}
	for _, want := range []string{"a. ", "a2. ", "b. ", "c. ", "d. ", "e. ", "g. ", "h. ", "l. ", "l2. ", "Goals"} {
		if !strings.Contains("\n"+out.String(), "\n"+want) {
			t.Errorf("no table %q", want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "recordstore-bench-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestValuesProveThemselves(t *testing.T) {
	key := recordKey(7)
	v := newValue(key, 3)
	if n, err := readValue(key, v); n != 3 || err != nil {
		t.Errorf("got %d, %v, want 3", n, err)
	}
	for name, bad := range map[string]func() (string, []byte){
		"short":        func() (string, []byte) { return key, v[:valueSize-1] },
		"another's":    func() (string, []byte) { return recordKey(8), v },
		"torn":         func() (string, []byte) { return key, append(v[:50:50], newValue(key, 4)[50:]...) },
		"one bit else": func() (string, []byte) { w := bytes.Clone(v); w[valueSize-1] ^= 1; return key, w },
	} {
		if _, err := readValue(bad()); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestBounds(t *testing.T) {
	l := newLab(t, ours)
	for _, b := range l.bounds() {
		if b.verdict() != "not measured" {
			t.Errorf("%s: got %s of nothing", b.what, b.verdict())
		}
	}
	for _, b := range []bound{{value: 2, limit: 2}, {value: 2, limit: 2, least: true}, {value: 1, limit: 2}} {
		if b.verdict() != "PASS" {
			t.Errorf("%+v: got %s", b, b.verdict())
		}
	}
	for _, b := range []bound{{value: 3, limit: 2}, {value: 1, limit: 2, least: true}} {
		if b.verdict() != "FAIL" {
			t.Errorf("%+v: got %s", b, b.verdict())
		}
	}
}
