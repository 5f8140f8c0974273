package main

import (
	"errors"
	"iter"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// bboltWait is how long opening waits for another process, the same as
// SQLite's.
const bboltWait = 5 * time.Second

// bboltFill is how full the leaves get when records come in order. Nothing is
// put between them, so the default of a half would waste space and time.
const bboltFill = 0.95

var bboltBucket = []byte("records")

// bboltPeer keeps all other processes out for as long as it is open for
// writing. Where several processes take part it is therefore opened and closed
// for each operation, as programs that use it so must do.
var bboltPeer = peer{
	name: bboltName,
	settings: "as it opens; with several processes opened and closed for each operation, " +
		"because one that has it open keeps the others out; waits 5 s to open",
	version: func() string { return moduleVersion("go.etcd.io/bbolt") },
	open: func(dir string, o opening) (db, error) {
		d := &bboltDB{path: filepath.Join(dir, "records.bolt"), reads: o.Reads, shared: o.Shared}
		if o.Shared {
			return d, nil
		}
		return d, d.open()
	},
	busy: func(err error) bool { return errors.Is(err, berrors.ErrTimeout) },
}

type bboltDB struct {
	path          string
	reads, shared bool
	db            *bbolt.DB
}

func (d *bboltDB) open() error {
	b, err := bbolt.Open(d.path, 0o666, &bbolt.Options{Timeout: bboltWait, ReadOnly: d.reads})
	if err != nil {
		return err
	}
	d.db = b
	if d.reads {
		return nil
	}
	var known bool
	err = b.View(func(tx *bbolt.Tx) error {
		known = tx.Bucket(bboltBucket) != nil
		return nil
	})
	if err == nil && !known {
		err = b.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket(bboltBucket)
			return err
		})
	}
	if err != nil {
		b.Close()
	}
	return err
}

// with calls do with the database open. A shared one is used by one goroutine.
func (d *bboltDB) with(do func() error) error {
	if !d.shared {
		return do()
	}
	if err := d.open(); err != nil {
		return err
	}
	return errors.Join(do(), d.db.Close())
}

func (d *bboltDB) Update(key string, change func([]byte) ([]byte, error)) error {
	return d.with(func() error { return d.db.Update(bboltChange(key, change)) })
}

// UpdateBatched commits with other goroutines' updates that come within 10 ms,
// bbolt's default.
func (d *bboltDB) UpdateBatched(key string, change func([]byte) ([]byte, error)) error {
	return d.with(func() error { return d.db.Batch(bboltChange(key, change)) })
}

func bboltChange(key string, change func([]byte) ([]byte, error)) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		b := tx.Bucket(bboltBucket)
		v, err := change(b.Get([]byte(key)))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), v)
	}
}

func (d *bboltDB) Get(key string) (v []byte, err error) {
	err = d.with(func() error {
		return d.db.View(func(tx *bbolt.Tx) error {
			found := tx.Bucket(bboltBucket).Get([]byte(key))
			if found == nil {
				return errMissing
			}
			v = slices.Clone(found)
			return nil
		})
	})
	return v, err
}

func (d *bboltDB) Scan(see func(string, []byte) error) error {
	return d.with(func() error {
		return d.db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket(bboltBucket).ForEach(func(k, v []byte) error { return see(string(k), v) })
		})
	})
}

func (d *bboltDB) Insert(records iter.Seq2[string, []byte], sorted bool) error {
	return d.with(func() error {
		return d.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(bboltBucket)
			if sorted {
				b.FillPercent = bboltFill
			}
			for k, v := range records {
				if err := b.Put([]byte(k), v); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (d *bboltDB) Close() error {
	if d.shared {
		return nil
	}
	return d.db.Close()
}
