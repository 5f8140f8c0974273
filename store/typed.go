package store

import (
	"context"
	"errors"
)

// Typed is a view of a store in which every value is a T: the caller writes
// and reads T and never sees bytes. It is as safe for concurrent use as the
// store is, and need not be closed.
type Typed[T any] struct{ s *Store }

// As returns a view of s in which every value is a T.
func As[T any](s *Store) Typed[T] { return Typed[T]{s} }

// Get returns the value of a record. See [Store.Get].
func (t Typed[T]) Get(ctx context.Context, key string) (T, error) {
	rec, err := t.s.Get(ctx, key)
	if err != nil {
		var zero T
		return zero, err
	}
	return Decode[T](rec)
}

// Put writes a record. See [Store.Put].
func (t Typed[T]) Put(ctx context.Context, key string, v T, opts ...PutOption) (Revision, error) {
	return t.s.Put(ctx, key, v, opts...)
}

// Update replaces the value of a record by what fn makes of it, atomically:
// nobody else's update comes between fn's reading and the writing. found
// tells whether there was a record; if not, old is T's zero value. An error
// from fn is returned as it is and nothing is changed. fn may run more than
// once and must have no other effects. The record expires as opts say, whatever
// it did before. See [Store.Update].
func (t Typed[T]) Update(ctx context.Context, key string, fn func(old T, found bool) (T, error), opts ...PutOption) (Revision, error) {
	if fn == nil {
		return 0, ErrNilFunc
	}
	return t.s.Update(ctx, func(tx *Tx) error {
		var old T
		rec, err := tx.Get(key)
		found := err == nil
		if found {
			old, err = Decode[T](rec)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		v, err := fn(old, found)
		if err != nil {
			return err
		}
		return tx.Put(key, v, opts...)
	})
}
