package main

import (
	"context"
	"errors"
	"iter"
	"runtime/debug"

	"github.com/recordstore/recordstore/store"
)

var recordstorePeer = peer{
	name:     ours,
	settings: "as it opens; raw values",
	version:  func() string { return "this source" },
	open: func(dir string, o opening) (db, error) {
		s, err := store.Open(dir, &store.Options{ReadOnly: o.Reads})
		if err != nil {
			return nil, err
		}
		return recordstoreDB{s}, nil
	},
}

type recordstoreDB struct{ s *store.Store }

func (d recordstoreDB) Update(key string, change func([]byte) ([]byte, error)) error {
	_, err := d.s.Update(context.Background(), func(tx *store.Tx) error {
		r, err := tx.Get(key)
		if err != nil {
			return err
		}
		v, err := change(r.Value)
		if err != nil {
			return err
		}
		return tx.PutEncoded(key, "raw", v)
	})
	return err
}

func (d recordstoreDB) Get(key string) ([]byte, error) {
	r, err := d.s.Get(context.Background(), key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errMissing
	}
	return r.Value, err
}

func (d recordstoreDB) Scan(see func(string, []byte) error) error {
	sn, err := d.s.Snapshot(context.Background())
	if err != nil {
		return err
	}
	defer sn.Close()
	for r, err := range sn.All() {
		if err != nil {
			return err
		}
		if err := see(r.Key, r.Value); err != nil {
			return err
		}
	}
	return nil
}

func (d recordstoreDB) Insert(records iter.Seq2[string, []byte], _ bool) error {
	_, err := d.s.Update(context.Background(), func(tx *store.Tx) error {
		for k, v := range records {
			if err := tx.PutEncoded(k, "raw", v); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func (d recordstoreDB) Close() error { return d.s.Close() }

// moduleVersion is the version of a dependency that this program was built
// with.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Version
		}
	}
	return "unknown"
}
