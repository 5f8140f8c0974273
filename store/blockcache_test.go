package store

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// cacheBlock makes a data block of so many bytes, for the cache's tests only.
func cacheBlock(size int) *block { return &block{data: make([]byte, size)} }

// cacheIndex makes an index block of n entries, likewise.
func cacheIndex(n int) *block {
	return &block{at: blockRef{height: 1}, starts: make([]uint32, n+1)}
}

// cacheRoot makes a root of n entries.
func cacheRoot(c *blockCache, n int) *block {
	b := cacheIndex(n)
	c.plant(b)
	return b
}

// has tells whether a block is kept below the i-th entry of b, and is no hit.
func (b *block) has(i int) bool { return b.below != nil && b.below[i].Load() != nil }

// hanging counts the blocks that can be reached below b, and checks that the
// cache knows of them.
func (b *block) hanging(t *testing.T) (n int) {
	t.Helper()
	kids := 0
	for i := range b.below {
		kid := b.below[i].Load()
		if kid == nil {
			continue
		}
		kids++
		n += 1 + kid.hanging(t)
		if kid.place == nil || !kid.open || kid.parent != b || kid.entry != i {
			t.Errorf("a block hangs on entry %d that is not kept there", i)
		}
	}
	if kids != b.kids {
		t.Errorf("%d blocks hang on a block that counts %d", kids, b.kids)
	}
	return n
}

// bytesUsed adds up what is in the cache, and checks that it counts right, and
// that all of it, and no more, hangs on the roots.
func (c *blockCache) bytesUsed(t *testing.T, roots ...*block) (used int64) {
	t.Helper()
	for e := c.order.Front(); e != nil; e = e.Next() {
		used += e.Value.(*block).cost()
	}
	if used != c.used || used > c.max {
		t.Errorf("the cache has %d bytes, counts %d, may have %d", used, c.used, c.max)
	}
	n := 0
	for _, root := range roots {
		n += root.hanging(t)
	}
	if n != c.order.Len() {
		t.Errorf("%d blocks hang on the roots, %d are kept", n, c.order.Len())
	}
	return used
}

// TestBlockCacheBound: however many blocks of however many segments are put in,
// their bytes stay within the bound, and the cache is made use of.
func TestBlockCacheBound(t *testing.T) {
	for _, maxBytes := range []int64{1, 1000, 64 << 10, 4 << 20, 16 << 20} {
		c := newBlockCache(maxBytes)
		var roots []*block
		for s := range 100 {
			root := cacheRoot(c, 10)
			roots = append(roots, root)
			for i := range 200 {
				parent := root.kept(i % 10)
				if parent == nil {
					parent = c.put(root, i%10, cacheIndex(20))
				}
				c.put(parent, i/10, cacheBlock(100+(s*200+i)*37%20_000))
				parent.kept(rand.IntN(20))
			}
		}
		if used := c.bytesUsed(t, roots...); used > maxBytes || maxBytes >= 64<<10 && used < maxBytes/2 {
			t.Errorf("a cache of %d bytes holds %d", maxBytes, used)
		}
	}
}

// TestBlockCacheOrder: what was hit stays when there is need of room, and else
// what came last.
func TestBlockCacheOrder(t *testing.T) {
	const size = 1000 - blockOverhead
	c := newBlockCache(10_000) // ten blocks
	root := cacheRoot(c, 100)
	check := func(want func(i int) bool) {
		t.Helper()
		for i := range 100 {
			if got := root.has(i); got != want(i) {
				t.Errorf("block %d is there: %v, want %v", i, got, want(i))
			}
		}
	}
	for i := range 10 {
		c.put(root, i, cacheBlock(size))
	}
	check(func(i int) bool { return i < 10 })
	root.kept(0)
	for i := range 9 {
		c.put(root, 10+i, cacheBlock(size))
	}
	check(func(i int) bool { return i == 0 || 10 <= i && i < 19 })

	for i := range 100 {
		root.kept(i) // if all were hit, it goes by who came first
	}
	c.put(root, 50, cacheBlock(size))
	check(func(i int) bool { return i == 0 || 10 < i && i < 19 || i == 50 })
}

// TestBlockCacheTree: an index block stays while one below it does. When it has
// gone, nothing is kept below it any more.
func TestBlockCacheTree(t *testing.T) {
	const size = 1000 - blockOverhead
	c := newBlockCache(10_000)
	root := cacheRoot(c, 150)
	index := c.put(root, 0, cacheIndex(4))
	leaf := c.put(index, 2, cacheBlock(size))
	if c.put(index, 2, cacheBlock(size)) != leaf || c.bytesUsed(t, root) != index.cost()+leaf.cost() {
		t.Error("a second block is kept in place of the first")
	}
	for i := 1; i < 150; i++ {
		c.put(root, i, cacheBlock(size))
		c.bytesUsed(t, root)
		if i < 90 && index.kept(2) != leaf {
			t.Fatal("a block that is used is evicted")
		} else if !root.has(0) && index.has(2) {
			t.Fatal("a block cannot be found any more, and is still there")
		}
	}
	if root.has(0) || index.has(2) {
		t.Error("blocks that nobody uses are not evicted")
	}
	if b := cacheBlock(size); c.put(index, 2, b) != b || index.has(2) {
		t.Error("a block is kept below one that is not")
	}
	c.bytesUsed(t, root)
}

// TestBlockCacheLarge: a block of more than a quarter is not kept, and nothing
// goes for its sake. No cache at all holds nothing.
func TestBlockCacheLarge(t *testing.T) {
	for _, maxBytes := range []int64{10_000, 40 << 20} {
		c := newBlockCache(maxBytes)
		root := cacheRoot(c, 4)
		c.put(root, 1, cacheBlock(100))
		for i, size := range map[int]int64{2: maxBytes/4 - blockOverhead, 3: maxBytes/4 - blockOverhead + 1} {
			c.put(root, i, cacheBlock(int(size)))
			if got, want := root.has(i), i == 2; got != want {
				t.Errorf("of %d bytes, a block of %d is kept: %v, want %v", maxBytes, size, got, want)
			}
		}
		if !root.has(1) {
			t.Error("the small block is gone")
		}
		big := c.put(root, 0, cacheIndex(int(maxBytes/8)))
		if b := cacheBlock(1); c.put(big, 0, b) != b || big.has(0) || root.has(0) {
			t.Error("a block is kept below one that is too large")
		}
		c.bytesUsed(t, root)
	}
	for _, maxBytes := range []int64{0, -1} {
		c := newBlockCache(maxBytes)
		root, b := cacheRoot(c, 1), cacheBlock(100)
		if c.put(root, 0, b) != b || root.has(0) || root.kept(0) != nil {
			t.Errorf("a cache of %d bytes holds a block", maxBytes)
		}
	}
}

// TestBlockCacheConcurrent is for -race: roots come, are read through and go.
func TestBlockCacheConcurrent(t *testing.T) {
	c := newBlockCache(2 << 20)
	forest := make([]*block, 4)
	for i := range forest {
		forest[i] = cacheRoot(c, 20)
	}
	read := func(root *block, k int) {
		index := root.kept(k % 20)
		if index == nil {
			index = c.put(root, k%20, cacheIndex(50))
		}
		leaf := index.kept(k / 20 % 50)
		if leaf == nil {
			b := cacheBlock(1000)
			b.at.off = int64(k)
			leaf = c.put(index, k/20%50, b)
		}
		if leaf.at.off != int64(k) {
			t.Errorf("block %d, want %d", leaf.at.off, k)
		}
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for range 20 {
				own := cacheRoot(c, 20)
				for range 500 {
					read(forest[rnd.IntN(len(forest))], rnd.IntN(1000))
					read(own, rnd.IntN(1000))
				}
				c.fell(own)
				if n := own.hanging(t); n > 0 {
					t.Errorf("%d blocks hang on a root that was felled", n)
				}
			}
		})
	}
	wg.Wait()
	if used := c.bytesUsed(t, forest...); used < 1<<20 {
		t.Errorf("%d bytes used", used)
	}
	for _, root := range forest {
		c.fell(root)
	}
	if used := c.bytesUsed(t); used != 0 {
		t.Errorf("%d bytes are used by nobody", used)
	}
}

// keeps tells whether the block that at names is in the cache.
func (g *segment) keeps(at blockRef) bool {
	var below func(b *block) bool
	below = func(b *block) bool {
		for i := range b.below {
			if kid := b.below[i].Load(); kid != nil && (kid.at == at || below(kid)) {
				return true
			}
		}
		return false
	}
	return below(g.top.Load().root)
}

// The blocks of a segment leave the cache with its last holder.
func TestBlockCacheWithoutSegment(t *testing.T) {
	var recs []rec
	for i := range 1000 {
		recs = append(recs, encodeRec(fmt.Sprintf("key/%06d", i), "raw", make([]byte, 100), 1, 0, 0))
	}
	b, ref := writeSegment(t, recs, segmentLayout{})
	cache := newBlockCache(1 << 20)
	g, err := tryOpenBytes(t, b, ref, cache)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.get("key/000500"); err != nil {
		t.Fatal(err)
	}
	if cache.used == 0 {
		t.Fatal("nothing is kept")
	}
	g.release()
	if cache.used != 0 || cache.order.Len() != 0 {
		t.Errorf("%d bytes in %d blocks are kept of a segment that is closed", cache.used, cache.order.Len())
	}
}
