package main

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// load inserts until all records are there or the time is up. The time counts
// from the first record to the end of the last commit.
func (w *worker) load() (res result, err error) {
	if err := w.ready(); err != nil {
		return res, err
	}
	start := time.Now()
	for res.Done < w.Records && (res.Done == 0 || time.Since(start) < w.Length) {
		to := min(res.Done+w.Batch, w.Records)
		if err := w.db.Insert(newRecords(res.Done, to), true); err != nil {
			return res, err
		}
		res.Done = to
	}
	res.Elapsed = time.Since(start)
	return res, nil
}

// update counts up random records, in one goroutine or several.
func (w *worker) update() (result, error) {
	do := w.db.Update
	if w.Batched {
		b, ok := w.db.(batcher)
		if !ok {
			return result{}, errors.New("has no batched update")
		}
		do = b.UpdateBatched
	}
	one := func(rnd *rand.Rand) error {
		key := recordKey(rnd.IntN(w.Records))
		return do(key, count(key))
	}
	var res result
	for range w.Warm {
		if err := one(w.rnd); err != nil {
			return res, err
		}
		res.Done++
	}
	if err := w.ready(); err != nil {
		return res, err
	}
	parts := make([]result, max(1, w.Goroutines))
	errs := make([]error, len(parts))
	var all sync.WaitGroup
	for i := range parts {
		rnd := rand.New(rand.NewPCG(w.Seed, uint64(i)+2))
		all.Go(func() { parts[i], errs[i] = w.repeat(func() error { return one(rnd) }) })
	}
	all.Wait()
	for _, p := range parts {
		res.Done += p.Done
		res.InTime += p.InTime
		res.Failures += p.Failures
		res.Elapsed = max(res.Elapsed, p.Elapsed)
		res.Took = append(res.Took, p.Took...)
	}
	return res, errors.Join(errs...)
}

// repeat calls one until the time is up.
func (w *worker) repeat(one func() error) (res result, err error) {
	start := time.Now()
	for began := time.Duration(0); began < w.Length; {
		err := one()
		ended := time.Since(start)
		switch {
		case err == nil:
			res.Done++
			if ended <= w.Length {
				res.InTime++
			}
		case w.gaveUp(err):
			res.Failures++
		default:
			return res, err
		}
		res.Took = append(res.Took, ended-began)
		res.At = append(res.At, ended)
		began = ended
	}
	res.Elapsed = time.Since(start)
	return res, nil
}

// steady inserts new records among those that are there, in one goroutine.
func (w *worker) steady() (result, error) {
	if err := w.ready(); err != nil {
		return result{}, err
	}
	return w.repeat(func() error {
		return w.db.Insert(scattered(w.rnd, w.Records, w.Batch), false)
	})
}
