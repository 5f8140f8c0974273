package store_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/recordstore/recordstore/store"
)

// exampleStore creates a store in a new directory.
func exampleStore() (s *store.Store, remove func()) {
	dir, err := os.MkdirTemp("", "recordstore-example-")
	if err != nil {
		log.Fatal(err)
	}
	s, err = store.Open(filepath.Join(dir, "results"), nil)
	if err != nil {
		log.Fatal(err)
	}
	return s, func() {
		s.Close()
		os.RemoveAll(dir)
	}
}

func Example() {
	dir, err := os.MkdirTemp("", "recordstore-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	s, err := store.Open(filepath.Join(dir, "results"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	ctx := context.Background()
	if _, err := s.Put(ctx, "job/1", "done"); err != nil {
		log.Fatal(err)
	}
	rec, err := s.Get(ctx, "job/1")
	if err != nil {
		log.Fatal(err)
	}
	status, err := store.Decode[string](rec)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status, "in revision", rec.Revision)
	// Output: done in revision 1
}

// An update sees what it changes, and all of it is committed or nothing.
func ExampleStore_Update() {
	s, remove := exampleStore()
	defer remove()

	move := func(from, to string, amount int) error {
		_, err := s.Update(context.Background(), func(tx *store.Tx) error {
			balance := map[string]int{from: 0, to: 0}
			for account := range balance {
				rec, err := tx.Get(account)
				if errors.Is(err, store.ErrNotFound) {
					continue
				}
				if err != nil {
					return err
				}
				if balance[account], err = store.Decode[int](rec); err != nil {
					return err
				}
			}
			if balance[from] < amount && from != "bank" {
				return fmt.Errorf("%s has only %d", from, balance[from])
			}
			if err := tx.Put(from, balance[from]-amount); err != nil {
				return err
			}
			return tx.Put(to, balance[to]+amount)
		})
		return err
	}
	fmt.Println(move("bank", "ann", 10))
	fmt.Println(move("ann", "bob", 7))
	fmt.Println(move("ann", "bob", 7))
	// Output:
	// <nil>
	// <nil>
	// ann has only 3
}

// Typed spares the decoding where all values have one type.
func ExampleTyped() {
	type Result struct {
		Score float64
		Runs  int
	}
	s, remove := exampleStore()
	defer remove()

	results := store.As[Result](s)
	ctx := context.Background()
	for _, score := range []float64{0.5, 0.75, 0.625} {
		_, err := results.Update(ctx, "model-a", func(old Result, found bool) (Result, error) {
			return Result{Score: max(old.Score, score), Runs: old.Runs + 1}, nil
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	best, err := results.Get(ctx, "model-a")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", best)
	// Output: {Score:0.75 Runs:3}
}

// A snapshot stays as it is while others write.
func ExampleSnapshot() {
	s, remove := exampleStore()
	defer remove()

	ctx := context.Background()
	for _, key := range []string{"job/2", "job/1", "note"} {
		if _, err := s.Put(ctx, key, "new"); err != nil {
			log.Fatal(err)
		}
	}
	sn, err := s.Snapshot(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer sn.Close()
	if _, err := s.Delete(ctx, "job/1"); err != nil {
		log.Fatal(err)
	}
	for rec, err := range sn.Prefix("job/") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(rec.Key, "of revision", rec.Revision)
	}
	// Output:
	// job/1 of revision 2
	// job/2 of revision 1
}

// A change made to what was read goes through only if nobody was faster.
func ExampleStore_CompareAndSwap() {
	s, remove := exampleStore()
	defer remove()

	ctx := context.Background()
	rev, err := s.CompareAndSwap(ctx, "leader", 0, "ann") // 0: there must be none
	if err != nil {
		log.Fatal(err)
	}
	if _, err := s.CompareAndSwap(ctx, "leader", rev, "bob"); err != nil {
		log.Fatal(err)
	}
	_, err = s.CompareAndSwap(ctx, "leader", rev, "eve")
	var conflict *store.ConflictError
	if errors.As(err, &conflict) {
		fmt.Println("too late:", err)
	}
	// Output: too late: record "leader" has revision 2, expected 1
}
