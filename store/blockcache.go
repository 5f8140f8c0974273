package store

import (
	"container/list"
	"sync"
	"sync/atomic"
)

// A blockCache keeps blocks that were read from segments, as many as a number
// of bytes allows. It is shared by all segments of a store. A nil *blockCache
// keeps nothing.
//
// It has no index of its own: a kept block hangs on the very entry of the index
// block by which it was found, up to the root, which its segment holds. So a hit
// takes no lock, and what hangs on an entry is what was read and verified by
// that entry. While a block is kept, those above it are: who is kept can be
// found, and who cannot be found is not kept.
//
// Blocks that were evicted stay valid for whoever has them.
type blockCache struct {
	largest int64 // a block that takes more is not kept: it would evict too many
	max     int64

	mu    sync.Mutex // held to change what is kept
	used  int64
	order list.List // of the blocks, the next to be looked at for eviction first
}

// keeping is what the cache knows of a block.
type keeping struct {
	below []atomic.Pointer[block] // by entry of an index block: the kept ones; made before the block is shared
	hit   atomic.Bool             // since it was last looked at for eviction

	// With the cache's lock:
	open   bool // others may be kept below it
	kids   int  // how many are
	parent *block
	entry  int
	place  *list.Element // nil: it is not kept
}

const blockOverhead = 256 // bytes; about what a block costs beside its content

// newBlockCache returns a cache of so many bytes; of none, if that is not
// positive.
func newBlockCache(maxBytes int64) *blockCache {
	if maxBytes <= 0 {
		return nil
	}
	return &blockCache{largest: maxBytes / 4, max: maxBytes}
}

// cost is about how many bytes of memory a block takes.
func (b *block) cost() int64 {
	return int64(cap(b.data)) + 4*int64(cap(b.starts)) + 8*int64(cap(b.below)) + blockOverhead
}

// keeps tells whether a block of so many bytes is not too large to be kept.
func (c *blockCache) keeps(size int64) bool { return c != nil && size+blockOverhead <= c.largest }

// kept returns the block below the i-th entry of b if it is kept, and else nil.
func (b *block) kept(i int) *block {
	if b.below == nil {
		return nil
	}
	c := b.below[i].Load()
	if c != nil && !c.hit.Load() { // written only if need be: others read it
		c.hit.Store(true)
	}
	return c
}

// plant lets blocks be kept below a root, which nobody else has yet. The root
// itself belongs to its segment.
func (c *blockCache) plant(root *block) {
	if c != nil {
		root.openUp()
	}
}

func (b *block) openUp() {
	b.open = true
	if b.at.height > 0 {
		b.below = make([]atomic.Pointer[block], b.count())
	}
}

// put keeps b, which was just read by the i-th entry of parent and which nobody
// else has yet. It returns the block to be used: another one, if somebody was
// faster.
func (c *blockCache) put(parent *block, i int, b *block) *block {
	if c == nil || parent.below == nil {
		return b
	}
	b.openUp()
	cost := b.cost()
	if cost > c.largest {
		b.open, b.below = false, nil
		return b
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !parent.open { // it was evicted meanwhile
		b.open, b.below = false, nil
		return b
	}
	if other := parent.below[i].Load(); other != nil {
		return other
	}
	b.parent, b.entry = parent, i
	b.place = c.order.PushBack(b)
	b.hit.Store(true) // or it might be the only one that is not
	parent.kids++
	parent.below[i].Store(b)
	c.used += cost
	c.evict()
	b.hit.Store(false) // that was no hit
	return b
}

// evict removes blocks until the others are within the bound: in the order in
// which they came, but those that were hit since they were last looked at have
// another turn. An index block stays while one below it does.
func (c *blockCache) evict() {
	for n := c.order.Len(); c.used > c.max; n-- {
		e := c.order.Front()
		b := e.Value.(*block)
		// When all had their turn, a hit is no excuse any more: hits may come
		// as fast as we look.
		if b.kids > 0 || b.hit.Swap(false) && n > 0 {
			c.order.MoveToBack(e)
			continue
		}
		c.remove(b)
	}
}

// remove takes a block out that has none below it.
func (c *blockCache) remove(b *block) {
	b.parent.below[b.entry].Store(nil)
	b.parent.kids--
	c.order.Remove(b.place)
	c.used -= b.cost()
	b.open, b.parent, b.place = false, nil, nil
}

// fell removes a block and all below it; of a root, whose segment is closed,
// those below it. The lock is never held for long.
func (c *blockCache) fell(b *block) {
	c.mu.Lock()
	b.open = false // nothing comes after this
	c.mu.Unlock()
	for i := range b.below {
		if kid := b.below[i].Load(); kid != nil {
			c.fell(kid)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.place != nil { // it was not evicted meanwhile
		c.remove(b)
	}
}
