package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/recordstore/recordstore/store"
)

// filled creates a store with n records of 100 bytes.
func filled(b *testing.B, n int) *store.Store {
	b.Helper()
	s := newStore(b)
	_, err := s.Update(context.Background(), func(tx *store.Tx) error {
		for i := range n {
			if err := tx.PutEncoded(fmt.Sprintf("record/%08d", i), "raw", make([]byte, 100)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// sizes runs a benchmark on stores of three sizes.
func sizes(b *testing.B, f func(b *testing.B, s *store.Store)) {
	for _, n := range []int{100, 10_000, 1_000_000} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) { f(b, filled(b, n)) })
	}
}

// BenchmarkCommit is one small durable update after the other.
func BenchmarkCommit(b *testing.B) {
	sizes(b, func(b *testing.B, s *store.Store) {
		ctx := context.Background()
		for b.Loop() {
			if _, err := s.Put(ctx, "k", 1); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
	})
}

// BenchmarkCommit64 is the same by 64 goroutines at once: an iteration is 64
// updates. Its commits/s divided by BenchmarkCommit's is what group commit
// brings.
func BenchmarkCommit64(b *testing.B) {
	const writers = 64
	sizes(b, func(b *testing.B, s *store.Store) {
		ctx := context.Background()
		before := snapshot(b, s).Sequence()
		for b.Loop() {
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					if _, err := s.Put(ctx, fmt.Sprint("k", w), 1); err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
		}
		n := float64(b.N * writers)
		b.ReportMetric(n/b.Elapsed().Seconds(), "commits/s")
		b.ReportMetric(n/float64(snapshot(b, s).Sequence()-before), "updates/manifest")
	})
}

// BenchmarkCommitBusy is what a few writers commit in a process that computes,
// or does nothing else. Run it with -cpu 2.
func BenchmarkCommitBusy(b *testing.B) {
	for _, spinners := range []int{0, 4} {
		for _, writers := range []int{2, 8} {
			b.Run(fmt.Sprintf("spinners=%d/writers=%d", spinners, writers), func(b *testing.B) {
				s := newStore(b)
				var stop atomic.Bool
				var spinning, writing sync.WaitGroup
				for range spinners {
					spinning.Go(func() {
						for !stop.Load() {
						}
					})
				}
				var left atomic.Int64
				left.Store(int64(b.N))
				b.ResetTimer()
				for w := range writers {
					writing.Go(func() {
						for left.Add(-1) >= 0 {
							if _, err := s.Put(context.Background(), fmt.Sprint("k", w), 1); err != nil {
								b.Error(err)
							}
						}
					})
				}
				writing.Wait()
				b.StopTimer()
				stop.Store(true)
				spinning.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			})
		}
	}
}

// BenchmarkGetWarm reads a record of a store that does not change.
func BenchmarkGetWarm(b *testing.B) {
	sizes(b, func(b *testing.B, s *store.Store) {
		ctx := context.Background()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(ctx, "record/00000050"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkGetWarmParallel is the same by 100 goroutines at once, each with
// keys of its own choice.
func BenchmarkGetWarmParallel(b *testing.B) {
	sizes(b, func(b *testing.B, s *store.Store) {
		ctx := context.Background()
		b.ReportAllocs()
		b.SetParallelism(max(1, 100/runtime.GOMAXPROCS(0)))
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			key := fmt.Sprintf("record/%08d", rand.IntN(100))
			for pb.Next() {
				if _, err := s.Get(ctx, key); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkSnapshotWarm takes a snapshot of a store that does not change.
func BenchmarkSnapshotWarm(b *testing.B) {
	sizes(b, func(b *testing.B, s *store.Store) {
		ctx := context.Background()
		b.ReportAllocs()
		for b.Loop() {
			sn, err := s.Snapshot(ctx)
			if err != nil {
				b.Fatal(err)
			}
			sn.Close()
		}
	})
}

// BenchmarkSnapshotAfterForeignCommit is what a reader pays for the newest
// state after somebody else has committed. Only the reading is timed.
func BenchmarkSnapshotAfterForeignCommit(b *testing.B) {
	sizes(b, func(b *testing.B, s *store.Store) {
		ctx := context.Background()
		other := openStore(b, s.Dir(), nil)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			rev := put(b, other, "k", i)
			b.StartTimer()
			sn, err := s.Snapshot(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if sn.Revision() != rev {
				b.Fatalf("revision %v, want %v", sn.Revision(), rev)
			}
			sn.Close()
		}
	})
}
