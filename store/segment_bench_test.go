package store

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/recordstore/recordstore/internal/vfs"
)

const benchRecords = 1_000_000

func benchKey(i int) string { return fmt.Sprintf("record/%08d", i) }

// benchSegment writes a segment of records of 150 bytes, with every second
// key.
func benchSegment(b *testing.B, dir string, every int64) (path string, ref segmentRef) {
	b.Helper()
	f, err := vfs.OS{}.CreateTemp(dir, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := newSegmentWriter(f, segStore, segID, segmentLayout{flushEvery: every})
	r := encodeRec(benchKey(0), "raw", make([]byte, 96), 1, 2, 0)
	for i := range benchRecords {
		r = encodeRec(benchKey(2*i), "raw", r.value(), 1, 2, 0)
		if err := w.add(r); err != nil {
			b.Fatal(err)
		}
	}
	ref, err = w.finish()
	if err != nil {
		b.Fatal(err)
	}
	return f.Name(), ref
}

func openBench(b *testing.B, path string, ref segmentRef, cache *blockCache) *segment {
	b.Helper()
	g, err := openSegment(vfs.OS{}, path, segStore, ref, cache)
	if err != nil {
		b.Fatal(err)
	}
	return g
}

// BenchmarkSegmentGet looks up keys at random, that are there or not, in a
// cache that holds all blocks, in one that holds a sixth, and without one.
func BenchmarkSegmentGet(b *testing.B) {
	path, ref := benchSegment(b, b.TempDir(), 0)
	for _, cache := range []int64{1 << 30, 32 << 20, 0} {
		for _, absent := range []int{0, 1} {
			b.Run(fmt.Sprintf("cache=%dMiB/absent=%d", cache>>20, absent), func(b *testing.B) {
				g := openBench(b, path, ref, newBlockCache(cache))
				defer g.release()
				for i := range benchRecords {
					if cache == 0 {
						break
					}
					if _, err := g.get(benchKey(2 * i)); err != nil {
						b.Fatal(err)
					}
				}
				keys := make([]string, 1<<16)
				for i := range keys {
					keys[i] = benchKey(2*rand.IntN(benchRecords) + absent)
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if r, err := g.get(keys[i%len(keys)]); err != nil || (r == nil) != (absent == 1) {
						b.Fatal(r, err)
					}
				}
			})
		}
	}
}

func BenchmarkSegmentScan(b *testing.B) {
	path, ref := benchSegment(b, b.TempDir(), 0)
	g := openBench(b, path, ref, newBlockCache(32<<20))
	defer g.release()
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for sc := g.scan(span{}); ; n++ {
			r, err := sc.next()
			if err != nil {
				b.Fatal(err)
			}
			if r == nil {
				break
			}
		}
		if n != benchRecords {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.N)*benchRecords/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkSegmentWrite includes the encoding of the records.
func BenchmarkSegmentWrite(b *testing.B) {
	for _, every := range []int64{1 << 20, 8 << 20, 1 << 40} {
		b.Run(fmt.Sprintf("flush=%dMiB", every>>20), func(b *testing.B) {
			for b.Loop() {
				benchSegment(b, b.TempDir(), every)
			}
			b.ReportMetric(float64(b.N)*benchRecords/b.Elapsed().Seconds(), "records/s")
		})
	}
}

func BenchmarkBlockCacheHit(b *testing.B) {
	const n = 8192
	c := newBlockCache(64 << 20)
	root := cacheRoot(c, n)
	for i := range n {
		c.put(root, i, cacheBlock(4096))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if root.kept(i*37%n) == nil {
				b.Fatal("it is not there")
			}
		}
	})
}
