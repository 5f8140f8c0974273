package lockfile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

var benchmarkOptions = []Options{{}, {NoQueue: true}, {NoRecord: true}, {NoQueue: true, NoRecord: true}}

func benchmarkName(m Mechanism, opts Options) string {
	return fmt.Sprintf("%v/queue=%v/record=%v", m, !opts.NoQueue, !opts.NoRecord)
}

// benchmarkPort is the option Port for a mechanism.
func benchmarkPort(m Mechanism, path string) int {
	if m == TCP {
		return testPort(path)
	}
	return 0
}

// BenchmarkUncontended: what a lock costs that nobody else wants.
func BenchmarkUncontended(b *testing.B) {
	ctx := context.Background()
	for m := OFD; m <= TCP; m++ {
		if mechanisms[m] == nil {
			continue
		}
		for _, opts := range benchmarkOptions {
			opts.Mechanism = m
			b.Run("lock/"+benchmarkName(m, opts), func(b *testing.B) {
				path := lockPath(b)
				opts.Port = benchmarkPort(m, path)
				f := openWith(b, path, opts)
				b.ReportAllocs()
				for b.Loop() {
					l, err := f.Lock(ctx, "benchmark")
					if err != nil {
						b.Fatal(err)
					}
					l.Unlock()
				}
			})
		}
		for _, opts := range []Options{{}, {NoQueue: true, NoRecord: true}} {
			opts.Mechanism = m
			b.Run("open/"+benchmarkName(m, opts), func(b *testing.B) {
				path := lockPath(b)
				opts.Port = benchmarkPort(m, path)
				b.ReportAllocs()
				for b.Loop() {
					f, err := Open(path, &opts)
					if err != nil {
						b.Fatal(err)
					}
					l, err := f.Lock(ctx, "benchmark")
					if err != nil {
						b.Fatal(err)
					}
					l.Unlock()
					f.Close()
				}
			})
		}
	}
}

func BenchmarkRLockUnlock(b *testing.B) {
	f := mustOpen(b, lockPath(b))
	ctx := context.Background()
	for b.Loop() {
		l, err := f.RLock(ctx, "benchmark")
		if err != nil {
			b.Fatal(err)
		}
		l.Unlock()
	}
}

func BenchmarkTryLock(b *testing.B) {
	path := lockPath(b)
	f := mustOpen(b, path)
	b.Run("free", func(b *testing.B) {
		for b.Loop() {
			l, err := f.TryLock("benchmark")
			if err != nil {
				b.Fatal(err)
			}
			l.Unlock()
		}
	})
	b.Run("held", func(b *testing.B) {
		l := mustLock(b, mustOpen(b, path), "")
		defer l.Unlock()
		for b.Loop() {
			if _, err := f.TryLock("benchmark"); !errors.Is(err, ErrLocked) {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkContended hands the lock around between goroutines of one File, and
// between Files.
func BenchmarkContended(b *testing.B) {
	ctx := context.Background()
	for _, files := range []int{1, 10, 50} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			path := lockPath(b)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for range files {
				f := mustOpen(b, path)
				for range max(1, 10/files) {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							l, err := f.Lock(ctx, "benchmark")
							if err != nil {
								b.Error(err)
								return
							}
							l.Unlock()
						}
					})
				}
			}
			wg.Wait()
		})
	}
}
