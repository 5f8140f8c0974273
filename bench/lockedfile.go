package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"

	"github.com/rogpeppe/go-internal/lockedfile"
)

// lockedfilePeer is the Go command's own way to change a file, with JSON in
// it. It writes the file in place and flushes nothing: it guards against other
// processes, not against a power loss, nor a kill in the middle of a write.
var lockedfilePeer = peer{
	name:     "lockedfile",
	settings: "Transform of one JSON file; NOT durable: it never flushes, and a kill while it writes tears the file; waits for ever",
	version:  func() string { return "rogpeppe/go-internal " + moduleVersion("github.com/rogpeppe/go-internal") },
	limit:    fileLimit,
	open: func(dir string, _ opening) (db, error) {
		return lockedfileDB{filepath.Join(dir, "records.json")}, nil
	},
}

type lockedfileDB struct{ path string }

func (d lockedfileDB) read() (map[string][]byte, error) {
	text, err := lockedfile.Read(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return parseRecords(text)
}

func (d lockedfileDB) transform(change func(map[string][]byte) error) error {
	return lockedfile.Transform(d.path, func(text []byte) ([]byte, error) {
		records, err := parseRecords(text)
		if err != nil {
			return nil, err
		}
		if err := change(records); err != nil {
			return nil, err
		}
		return json.Marshal(records)
	})
}

func (d lockedfileDB) Update(key string, change func([]byte) ([]byte, error)) error {
	return d.transform(updateOne(key, change))
}

func (d lockedfileDB) Get(key string) ([]byte, error) {
	records, err := d.read()
	if err != nil {
		return nil, err
	}
	return getOne(records, key)
}

func (d lockedfileDB) Scan(see func(string, []byte) error) error {
	records, err := d.read()
	if err != nil {
		return err
	}
	return scanAll(records, see)
}

func (d lockedfileDB) Insert(records iter.Seq2[string, []byte], _ bool) error {
	return d.transform(func(all map[string][]byte) error {
		maps.Insert(all, records)
		return nil
	})
}

func (d lockedfileDB) Close() error { return nil }
