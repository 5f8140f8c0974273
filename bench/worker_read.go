package main

import (
	"errors"
	"fmt"
	"time"
)

// readsPerLook is how many reads are made between two looks at the clock, if
// they are fast.
const readsPerLook = 64

// read gets random records, and did so for a while before the gate.
func (w *worker) read() (res result, err error) {
	one := func() error {
		if w.Miss {
			key := missingKey(w.rnd.IntN(w.Records))
			_, err := w.db.Get(key)
			if err == nil {
				return fmt.Errorf("%s is there and should not be", key)
			}
			if errors.Is(err, errMissing) {
				err = nil
			}
			return err
		}
		v, err := w.db.Get(recordKey(w.rnd.IntN(w.Records)))
		if err == nil && len(v) != valueSize {
			err = fmt.Errorf("got %d bytes, want %d", len(v), valueSize)
		}
		return err
	}
	for start := time.Now(); time.Since(start) < w.Length/2; {
		if err := one(); err != nil && !w.gaveUp(err) {
			return res, err
		}
	}
	if err := w.ready(); err != nil {
		return res, err
	}
	start := time.Now()
	group := 1
	for res.Elapsed < w.Length {
		for range group {
			err := one()
			switch {
			case err == nil:
				res.Done++
			case w.gaveUp(err):
				res.Failures++
			default:
				return res, err
			}
		}
		res.Elapsed = time.Since(start)
		if res.Elapsed < w.Length/10 {
			group = readsPerLook
		}
	}
	return res, nil
}

// scan reads everything, as often as there is time, and once before.
func (w *worker) scan() (res result, err error) {
	all := func() error {
		n, last := 0, ""
		err := w.db.Scan(func(key string, value []byte) error {
			if key <= last {
				return fmt.Errorf("%s comes after %s", key, last)
			}
			n, last = n+1, key
			res.Sum += uint64(value[len(value)-1]) // so that it is read
			return nil
		})
		if err == nil && n != w.Records {
			err = fmt.Errorf("found %d records, want %d", n, w.Records)
		}
		res.Done += n
		return err
	}
	if err := all(); err != nil {
		return res, err
	}
	res.Done = 0
	if err := w.ready(); err != nil {
		return res, err
	}
	start := time.Now()
	for res.Elapsed < w.Length {
		if err := all(); err != nil {
			return res, err
		}
		res.Elapsed = time.Since(start)
	}
	return res, nil
}

// first opens the database and gets one record. It has done the same with a
// small one before, so that the time is the database's and not that of loading
// the program.
func (w *worker) first() (res result, err error) {
	once := func(dir string, records int) error {
		start := time.Now()
		d, err := w.peer.openFor(dir, w.opening)
		if err != nil {
			return err
		}
		_, err = d.Get(recordKey(w.rnd.IntN(records)))
		res.Elapsed = time.Since(start)
		return errors.Join(err, d.Close())
	}
	if w.WarmDir != "" {
		if err := once(w.WarmDir, warmRecords); err != nil {
			return res, err
		}
	}
	if err := w.ready(); err != nil {
		return res, err
	}
	return res, once(w.Dir, w.Records)
}

// verify checks every value and adds up the counters. Records that steady
// inserted are counted in Done and have counters of 0.
func (w *worker) verify() (res result, err error) {
	if err := w.ready(); err != nil {
		return res, err
	}
	return res, w.db.Scan(func(key string, value []byte) error {
		n, err := readValue(key, value)
		res.Sum += n
		res.Done++
		return err
	})
}
