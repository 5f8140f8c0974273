package store_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/recordstore/recordstore/lockfile"
	"github.com/recordstore/recordstore/store"
)

// A store whose locks are of links, as on a network file system without a lock
// service, is as good.
func TestLocksOfLinks(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"LOCK", "MERGE"} {
		f, err := lockfile.Open(filepath.Join(dir, name), &lockfile.Options{Mechanism: lockfile.Link})
		if err != nil {
			t.Fatal(err)
		}
		l, err := f.Lock(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Unlock(); err != nil {
			t.Error(err)
		}
		f.Close()
	}
	var wg sync.WaitGroup
	const stores, updates = 3, 10
	for range stores {
		wg.Go(func() {
			s, err := store.Open(dir, &store.Options{Network: true, JournalSize: 200})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for range updates {
				_, err := s.Update(t.Context(), func(tx *store.Tx) error {
					n := 0
					if r, err := tx.Get("n"); err == nil {
						if err := r.Decode(&n); err != nil {
							return err
						}
					}
					return tx.Put("n", n+1)
				})
				if err != nil {
					t.Error(err)
				}
			}
			if err := s.Compact(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s, err := store.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Get(t.Context(), "n")
	n := 0
	if err == nil {
		err = r.Decode(&n)
	}
	if err != nil || n != stores*updates {
		t.Errorf("n is %d, %v; want %d", n, err, stores*updates)
	}
	report, err := store.Verify(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Files {
		if f.Err != nil {
			t.Errorf("verify: %s is %s: %v", f.Name, f.Status, f.Err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "LOCK.claims")); err != nil {
		t.Error(err)
	}
}
