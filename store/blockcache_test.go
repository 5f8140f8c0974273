package store

import (
	"sync"
	"testing"
)

// cacheBlock makes a block of so many bytes, for the cache's tests only.
func cacheBlock(off int64, size int) *block {
	return &block{at: blockRef{off: off, size: uint32(size)}, data: make([]byte, size)}
}

// bytesUsed adds up what is in the cache, and checks that it counts right.
func (c *blockCache) bytesUsed(t *testing.T) (used int64) {
	t.Helper()
	for i := range c.shards {
		s := &c.shards[i]
		var sum int64
		for _, b := range s.lru.Values() {
			sum += b.cost()
		}
		if sum != s.used || sum > s.max {
			t.Errorf("shard %d has %d bytes, counts %d, may have %d", i, sum, s.used, s.max)
		}
		used += sum
	}
	return used
}

// TestBlockCacheBound: however many blocks are put in, their bytes stay within
// the bound, and the cache is made use of.
func TestBlockCacheBound(t *testing.T) {
	for _, maxBytes := range []int64{1, 1000, 64 << 10, cacheShards*minShardSize - 1, 16 << 20} {
		c := newBlockCache(maxBytes)
		for i := range 2000 {
			c.put(segID, cacheBlock(int64(i), 100+i*37%20_000))
			c.put(ID{byte(i)}, cacheBlock(int64(i%50), i)) // in place of another
		}
		if used := c.bytesUsed(t); used > maxBytes || maxBytes >= 64<<10 && used < maxBytes/2 {
			t.Errorf("a cache of %d bytes holds %d", maxBytes, used)
		}
	}
}

// TestBlockCacheOldest: what was used last stays.
func TestBlockCacheOldest(t *testing.T) {
	const size = 1000 - blockOverhead
	c := newBlockCache(10_000) // one shard, ten blocks
	for i := range int64(10) {
		c.put(segID, cacheBlock(i, size))
	}
	hit := func(off int64) bool { return c.get(segID, blockRef{off: off, size: size}) != nil }
	for i := range int64(10) {
		if !hit(i) {
			t.Fatalf("block %d is gone before there was need", i)
		}
	}
	hit(0)
	for i := range int64(9) {
		c.put(segID, cacheBlock(10+i, size))
	}
	for i := range int64(19) {
		if got, want := hit(i), i == 0 || i >= 10; got != want {
			t.Errorf("block %d is there: %v, want %v", i, got, want)
		}
	}
}

// TestBlockCacheIdentity: a block is what its reference says in all, and of
// its segment.
func TestBlockCacheIdentity(t *testing.T) {
	c := newBlockCache(1 << 20)
	b := cacheBlock(64, 100)
	b.at.checksum, b.at.low, b.at.height = 1, 2, 3
	c.put(segID, b)
	if c.get(segID, b.at) != b {
		t.Fatal("the block is not there")
	}
	for name, change := range map[string]func(*blockRef){
		"offset":   func(r *blockRef) { r.off++ },
		"size":     func(r *blockRef) { r.size++ },
		"checksum": func(r *blockRef) { r.checksum++ },
		"low":      func(r *blockRef) { r.low++ },
		"height":   func(r *blockRef) { r.height++ },
	} {
		at := b.at
		change(&at)
		if c.get(segID, at) != nil {
			t.Errorf("a block with another %s is taken for it", name)
		}
	}
	if c.get(ID{1}, b.at) != nil {
		t.Error("a block of another segment is taken for it")
	}
}

// TestBlockCacheLarge: a block of more than a quarter is not kept, and nothing
// goes for its sake. No cache at all holds nothing.
func TestBlockCacheLarge(t *testing.T) {
	for _, maxBytes := range []int64{10_000, 40 << 20} {
		c := newBlockCache(maxBytes)
		small := cacheBlock(1, 100)
		c.put(segID, small)
		for off, size := range map[int64]int64{2: maxBytes/4 - blockOverhead, 3: maxBytes/4 - blockOverhead + 1} {
			big := cacheBlock(off, int(size))
			c.put(segID, big)
			if got, want := c.get(segID, big.at) != nil, off == 2; got != want {
				t.Errorf("of %d bytes, a block of %d is kept: %v, want %v", maxBytes, size, got, want)
			}
		}
		if maxBytes == 10_000 && c.get(segID, small.at) == nil {
			t.Error("the small block is gone")
		}
		c.bytesUsed(t)
	}
	for _, maxBytes := range []int64{0, -1} {
		c := newBlockCache(maxBytes)
		b := cacheBlock(1, 100)
		if c.put(segID, b); c.get(segID, b.at) != nil {
			t.Errorf("a cache of %d bytes holds a block", maxBytes)
		}
	}
}

// TestBlockCacheConcurrent is for -race.
func TestBlockCacheConcurrent(t *testing.T) {
	c := newBlockCache(8 << 20)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 5000 {
				off := int64((i*31 + w) % 4000)
				at := blockRef{off: off, size: 4000}
				if b := c.get(segID, at); b == nil {
					c.put(segID, cacheBlock(off, 4000))
				} else if b.at != at {
					t.Errorf("block %+v, want %+v", b.at, at)
				}
			}
		})
	}
	wg.Wait()
	if used := c.bytesUsed(t); used < 6<<20 {
		t.Errorf("%d bytes used", used)
	}
}
