package main

import (
	"errors"
	"iter"

	"github.com/PowerDNS/lmdb-go/lmdb"
)

// lmdbMap is the size of the map, which a database cannot outgrow. It is
// address space, not memory.
const lmdbMap = 16 << 30

// lmdbReaders is how many readers there may be at once; LMDB's default of 126
// is little more than the processes of one experiment.
const lmdbReaders = 512

// lmdbPeer is LMDB as it opens: each commit is flushed, readers and the writer
// do not wait for each other, writers wait on a mutex in shared memory for as
// long as it takes.
var lmdbPeer = peer{
	name:     lmdbName,
	settings: "flushes in each commit, its default; map of 16 GiB; waits for ever; loads with MDB_APPEND; through cgo, which shows in scans",
	version: func() string {
		_, _, _, v := lmdb.Version()
		return v + " (PowerDNS/lmdb-go " + moduleVersion("github.com/PowerDNS/lmdb-go") + ", which has its own copy)"
	},
	open: openLMDB,
}

type lmdbDB struct {
	env *lmdb.Env
	dbi lmdb.DBI
	// reads is a transaction that Get renews: beginning a new one costs more.
	reads *lmdb.Txn
}

func openLMDB(dir string, o opening) (_ db, err error) {
	env, err := lmdb.NewEnv()
	if err != nil {
		return nil, err
	}
	d := &lmdbDB{env: env}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := errors.Join(env.SetMapSize(lmdbMap), env.SetMaxReaders(lmdbReaders)); err != nil {
		return nil, err
	}
	var flags uint
	if o.Reads {
		flags = lmdb.Readonly
	}
	if err := env.Open(dir, flags, 0o666); err != nil {
		return nil, err
	}
	// The root database is always there, so that a reader can open it too.
	err = env.View(func(txn *lmdb.Txn) (err error) {
		d.dbi, err = txn.OpenRoot(0)
		return err
	})
	if err != nil {
		return nil, err
	}
	if d.reads, err = env.BeginTxn(nil, lmdb.Readonly); err != nil {
		return nil, err
	}
	d.reads.Reset()
	return d, nil
}

func (d *lmdbDB) Update(key string, change func([]byte) ([]byte, error)) error {
	return d.env.Update(func(txn *lmdb.Txn) error {
		txn.RawRead = true // valid until the Put
		old, err := txn.Get(d.dbi, []byte(key))
		if err != nil {
			return err
		}
		v, err := change(old)
		if err != nil {
			return err
		}
		return txn.Put(d.dbi, []byte(key), v, 0)
	})
}

func (d *lmdbDB) Get(key string) ([]byte, error) {
	if err := d.reads.Renew(); err != nil {
		return nil, err
	}
	defer d.reads.Reset()
	v, err := d.reads.Get(d.dbi, []byte(key))
	if lmdb.IsNotFound(err) {
		return nil, errMissing
	}
	return v, err
}

func (d *lmdbDB) Scan(see func(string, []byte) error) error {
	return d.env.View(func(txn *lmdb.Txn) error {
		txn.RawRead = true
		c, err := txn.OpenCursor(d.dbi)
		if err != nil {
			return err
		}
		defer c.Close()
		for {
			k, v, err := c.Get(nil, nil, lmdb.Next)
			if lmdb.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := see(string(k), v); err != nil {
				return err
			}
		}
	})
}

func (d *lmdbDB) Insert(records iter.Seq2[string, []byte], sorted bool) error {
	var flags uint
	if sorted {
		flags = lmdb.Append
	}
	return d.env.Update(func(txn *lmdb.Txn) error {
		for k, v := range records {
			if err := txn.Put(d.dbi, []byte(k), v, flags); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *lmdbDB) Close() error {
	if d.reads != nil {
		d.reads.Abort()
	}
	return d.env.Close()
}
