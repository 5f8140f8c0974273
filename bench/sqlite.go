package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"path/filepath"

	"github.com/mattn/go-sqlite3"
)

// sqliteWait is how long SQLite tries to get its lock before it reports that
// the database is busy. There is no "for ever"; this is what most programs use.
const sqliteWait = "5000" // ms

// sqliteFile is the name of the database in its directory.
const sqliteFile = "records.db"

// sqlitePeer returns SQLite with a write-ahead log: the mode that its manual
// advises for several processes. Transactions that write begin IMMEDIATE; one
// that began as a reader would fail at once, without waiting, if another wrote
// between. The table is WITHOUT ROWID, which saves a second tree. The rest is
// as it comes: a checkpoint every 1000 pages, 4 KiB pages, 2 MB of cache.
func sqlitePeer(name, synchronous, what string) peer {
	return peer{
		name: name,
		settings: fmt.Sprintf("journal_mode WAL, synchronous %s (%s); BEGIN IMMEDIATE; busy time-out %s ms; "+
			"through database/sql with prepared statements and one connection", synchronous, what, sqliteWait),
		version: func() string {
			v, _, _ := sqlite3.Version()
			return v + " (mattn/go-sqlite3 " + moduleVersion("github.com/mattn/go-sqlite3") + ")"
		},
		open: func(dir string, o opening) (db, error) { return openSQLite(dir, synchronous, o) },
		busy: func(err error) bool {
			var e sqlite3.Error
			return errors.As(err, &e) && (e.Code == sqlite3.ErrBusy || e.Code == sqlite3.ErrLocked)
		},
	}
}

type sqliteDB struct {
	db                  *sql.DB
	get, put, add, scan *sql.Stmt
}

func openSQLite(dir, synchronous string, o opening) (_ db, err error) {
	q := url.Values{
		"_busy_timeout": {sqliteWait},
		"_journal_mode": {"WAL"},
		"_synchronous":  {synchronous},
		"_txlock":       {"immediate"},
	}
	if o.Reads {
		// A reader of a log must be able to write the log's index; query_only
		// keeps it from writing records.
		q.Set("_query_only", "true")
	}
	conn, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, sqliteFile)+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	// More would only poll for each other's lock.
	conn.SetMaxOpenConns(1)
	d := &sqliteDB{db: conn}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if !o.Reads {
		const create = "CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
		if _, err := conn.Exec(create); err != nil {
			return nil, err
		}
	}
	for _, s := range []struct {
		to   **sql.Stmt
		text string
	}{
		{&d.get, "SELECT v FROM t WHERE k = ?"},
		{&d.put, "UPDATE t SET v = ?2 WHERE k = ?1"},
		{&d.add, "INSERT INTO t (k, v) VALUES (?, ?)"},
		{&d.scan, "SELECT k, v FROM t ORDER BY k"},
	} {
		if *s.to, err = conn.Prepare(s.text); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *sqliteDB) Update(key string, change func([]byte) ([]byte, error)) error {
	return d.transaction(func(tx *sql.Tx) error {
		var old []byte
		if err := tx.Stmt(d.get).QueryRow(key).Scan(&old); err != nil {
			return err
		}
		v, err := change(old)
		if err != nil {
			return err
		}
		_, err = tx.Stmt(d.put).Exec(key, v)
		return err
	})
}

func (d *sqliteDB) transaction(do func(*sql.Tx) error) error {
	tx, err := d.db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (d *sqliteDB) Get(key string) ([]byte, error) {
	var v []byte
	err := d.get.QueryRow(key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errMissing
	}
	return v, err
}

func (d *sqliteDB) Scan(see func(string, []byte) error) error {
	rows, err := d.scan.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k string
		var v sql.RawBytes
		if err := rows.Scan(&k, &v); err != nil {
			return err
		}
		if err := see(k, v); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (d *sqliteDB) Insert(records iter.Seq2[string, []byte], _ bool) error {
	return d.transaction(func(tx *sql.Tx) error {
		add := tx.Stmt(d.add)
		for k, v := range records {
			if _, err := add.Exec(k, v); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *sqliteDB) Close() error {
	var errs []error
	for _, s := range []*sql.Stmt{d.get, d.put, d.add, d.scan} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(append(errs, d.db.Close())...)
}
