package lockfile

import (
	"context"
	"fmt"
	"testing"
)

var benchmarkOptions = []Options{{}, {NoQueue: true}, {NoRecord: true}, {NoQueue: true, NoRecord: true}}

func benchmarkName(m Mechanism, opts Options) string {
	return fmt.Sprintf("%v/queue=%v/record=%v", m, !opts.NoQueue, !opts.NoRecord)
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
				f := openWith(b, lockPath(b), opts)
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
