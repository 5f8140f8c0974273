package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// fileLimit is the number of records up to which the recipes that write the
// whole file take part.
const fileLimit = 10_000

// jsonfilePeer is the usual recipe, done right: flock a file beside the data,
// read all, change, write a temporary file, flush it, rename it, flush the
// directory. Readers take no lock; a rename is all or nothing for them.
var jsonfilePeer = peer{
	name:     "flock+json",
	settings: "flock; the whole file is read, changed, written, flushed, renamed, and the directory flushed; waits for ever",
	version:  func() string { return "encoding/json" },
	limit:    fileLimit,
	open: func(dir string, _ opening) (db, error) {
		return &jsonfileDB{dir: dir, path: filepath.Join(dir, "records.json")}, nil
	},
}

type jsonfileDB struct {
	dir, path string
	one       sync.Mutex // the goroutines' turn: they would wait for flock in threads
}

func (d *jsonfileDB) read() (map[string][]byte, error) {
	text, err := os.ReadFile(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return parseRecords(text)
}

// transform replaces all records by what change makes of them.
func (d *jsonfileDB) transform(change func(map[string][]byte) error) error {
	d.one.Lock()
	defer d.one.Unlock()
	lock, err := os.OpenFile(d.path+".lock", os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return err
	}
	defer lock.Close() // which also unlocks
	if err := flock(lock); err != nil {
		return err
	}
	records, err := d.read()
	if err != nil {
		return err
	}
	if err := change(records); err != nil {
		return err
	}
	return d.replace(records, d.path+".tmp")
}

func flock(f *os.File) error {
	for {
		// Go's signals interrupt it.
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

// replace writes all records, by way of a temporary file.
func (d *jsonfileDB) replace(records map[string][]byte, temporary string) error {
	text, err := json.Marshal(records)
	if err != nil {
		return err
	}
	f, err := os.Create(temporary)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.path); err != nil {
		return err
	}
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (d *jsonfileDB) Update(key string, change func([]byte) ([]byte, error)) error {
	return d.transform(updateOne(key, change))
}

func (d *jsonfileDB) Get(key string) ([]byte, error) {
	records, err := d.read()
	if err != nil {
		return nil, err
	}
	return getOne(records, key)
}

func (d *jsonfileDB) Scan(see func(string, []byte) error) error {
	records, err := d.read()
	if err != nil {
		return err
	}
	return scanAll(records, see)
}

func (d *jsonfileDB) Insert(records iter.Seq2[string, []byte], _ bool) error {
	return d.transform(func(all map[string][]byte) error {
		maps.Insert(all, records)
		return nil
	})
}

func (d *jsonfileDB) Close() error { return nil }

// parseRecords parses a file of records; an empty one has none.
func parseRecords(text []byte) (map[string][]byte, error) {
	records := map[string][]byte{}
	if len(text) == 0 {
		return records, nil
	}
	return records, json.Unmarshal(text, &records)
}

func updateOne(key string, change func([]byte) ([]byte, error)) func(map[string][]byte) error {
	return func(records map[string][]byte) error {
		v, err := change(records[key])
		if err != nil {
			return err
		}
		records[key] = v
		return nil
	}
}

func getOne(records map[string][]byte, key string) ([]byte, error) {
	v, found := records[key]
	if !found {
		return nil, errMissing
	}
	return v, nil
}

func scanAll(records map[string][]byte, see func(string, []byte) error) error {
	for _, k := range slices.Sorted(maps.Keys(records)) {
		if err := see(k, records[k]); err != nil {
			return err
		}
	}
	return nil
}
