package stress

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/recordstore/recordstore/internal/stress/workers"
)

// A writer does the operations of one goroutine.
type writer struct{ *hand }

// step does one operation, and returns an error only for what must not happen.
func (w *writer) step() error {
	if w.Form == formQuestion {
		return w.hello()
	}
	switch p := w.rng.IntN(100); {
	case p < 5:
		return w.change(opRenew)
	case p < 10:
		return w.change(opFlip)
	case p < 20:
		return w.swap()
	case p < 22:
		return w.once()
	default:
		return w.change(opBump)
	}
}

// An answer is what an acknowledged operation says it did.
type answer struct {
	revision uint64
	n        uint64 // of the operation's key, after it
	count    uint64 // of its counter, after it
}

// context is done when an operation that begins now has taken too long.
func (j job) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), j.Timeout)
}

// do notes the attempt, makes it, and notes what came of it.
func (w *writer) do(kind, key, counter string, try func(ctx context.Context, op uint64) (answer, error)) error {
	op, err := w.history.attempt(kind, key, counter)
	if err != nil {
		return err
	}
	ctx, cancel := w.context()
	defer cancel()
	began := time.Now()
	a, err := try(ctx, op)
	wait := time.Since(began)
	if err == nil {
		w.tally.commits.Add(1)
		return w.history.ack(wait, a.revision, a.n, a.count)
	}
	switch w.p.Sort(err) {
	case sortRefused:
		if kind == opOnce {
			return w.history.refused(reasonExists)
		}
		return w.history.refused(reasonConflict)
	case sortLate:
		return w.history.refused(reasonLate)
	case sortUnknown:
		return w.history.unknown(err)
	case sortRecipe:
		time.Sleep(w.random(5 * time.Millisecond)) // as a user who tries again
		return w.history.unknown(err)
	}
	return errors.Join(fmt.Errorf("%s %s: %w", kind, key, err), w.history.unknown(err))
}

// value returns what the operation writes, but for the counts.
func (w *writer) value(op, n uint64) value { return value{Author: w.name, Op: op, N: n} }

// hello saves a record of the first form.
func (w *writer) hello() error {
	key := w.prefix + "hello/" + w.place()
	if n := w.history.op; n > 0 {
		key += fmt.Sprintf("-%04d", n)
	}
	return w.do(opHello, key, "", func(ctx context.Context, op uint64) (a answer, err error) {
		a.n = 1
		a.revision, err = w.p.Update(ctx, func(t tx) error {
			return t.Put(key, w.value(op, 1).encode(key))
		})
		return a, err
	})
}

// change increments the writer's own record and a shared counter, both as they
// are read from the state: the writer keeps no count in memory.
func (w *writer) change(kind string) error {
	own := w.prefix + "own/" + w.place()
	flip := w.prefix + "flip/" + w.place()
	counter := fmt.Sprintf("%sshared/%d", w.prefix, w.rng.IntN(sharedCounters))
	return w.do(kind, own, counter, func(ctx context.Context, op uint64) (a answer, err error) {
		promised := uint64(0)
		a.revision, err = w.p.Update(ctx, func(t tx) error {
			mine, had, err := readValue(t, own)
			if err != nil {
				return err
			}
			all, _, err := readValue(t, counter)
			if err != nil {
				return err
			}
			v := value{Author: w.name, Op: op, N: mine.N + 1, Flips: mine.Flips}
			switch {
			case kind == opRenew && had:
				err = t.Delete(own)
			case kind == opFlip:
				v.Flips++
				if v.Flips%2 == 1 {
					err = t.Put(flip, w.value(op, v.Flips).encode(flip))
				} else {
					err = t.Delete(flip)
				}
			}
			if err != nil {
				return err
			}
			if err := t.Put(own, v.encode(own)); err != nil {
				return err
			}
			a.n, a.count, promised = v.N, all.N+1, t.Revision()
			return t.Put(counter, w.value(op, all.N+1).encode(counter))
		})
		if err == nil && promised != a.revision {
			err = fmt.Errorf("the update was promised revision %d and got %d", promised, a.revision)
		}
		return a, err
	})
}

// swap increments a counter by compare-and-swap. It does not try again: that
// another was faster is an answer.
func (w *writer) swap() error {
	key := fmt.Sprintf("%scas/%d", w.prefix, w.rng.IntN(casCounters))
	return w.do(opCAS, key, "", func(ctx context.Context, op uint64) (a answer, err error) {
		old, ok, err := w.p.Get(ctx, key)
		if err != nil {
			return a, err
		}
		var v value
		if ok {
			if v, err = decodeValue(key, old.Data); err != nil {
				return a, err
			}
		}
		a.n = v.N + 1
		a.revision, err = w.p.CompareAndSwap(ctx, key, old.Revision, w.value(op, a.n).encode(key))
		return a, err
	})
}

// once creates a record that others try to create at the same time: all look
// at the same few of them, which move on as the run does.
func (w *writer) once() error {
	i := 0
	if w.Length > 0 {
		i = int(float64(onceKeys) * float64(workers.Monotonic()-w.Began) / float64(w.Length))
	}
	i = min(i+w.rng.IntN(3), onceKeys-1)
	key := fmt.Sprintf("%sonce/%04d", w.prefix, i)
	return w.do(opOnce, key, "", func(ctx context.Context, op uint64) (a answer, err error) {
		a.n = 1
		a.revision, err = w.p.CompareAndSwap(ctx, key, 0, w.value(op, 1).encode(key))
		return a, err
	})
}

// readValue reads a record of the state that t works on. One that is not there
// is the zero value.
func readValue(t tx, key string) (value, bool, error) {
	data, ok, err := t.Get(key)
	if err != nil || !ok {
		return value{}, false, err
	}
	v, err := decodeValue(key, data)
	return v, true, err
}
