package store

import (
	"encoding/binary"
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A blockCache holds blocks that were read from segments, as many as a number
// of bytes allows. It is shared by all segments of a store. Blocks that were
// evicted stay valid for whoever has them. A nil *blockCache holds nothing.
type blockCache struct {
	largest int64 // a block that takes more is not kept: it would evict too many
	shards  []cacheShard
}

// A cacheShard is a part of the cache with a lock of its own. A hit changes the
// order of eviction, so that it needs the lock too.
type cacheShard struct {
	mu   sync.Mutex
	lru  *simplelru.LRU[blockKey, *block]
	used int64
	max  int64
	_    [64]byte // so that no two locks are in one cache line
}

type blockKey struct {
	segment ID
	off     int64
}

const (
	cacheShards   = 4
	minShardSize  = 1 << 20 // bytes; less is not divided
	blockOverhead = 256     // bytes; about what a block costs beside its content
)

// newBlockCache returns a cache of so many bytes; of none, if that is not
// positive.
func newBlockCache(maxBytes int64) *blockCache {
	if maxBytes <= 0 {
		return nil
	}
	n := int64(cacheShards)
	if maxBytes < n*minShardSize {
		n = 1
	}
	c := &blockCache{largest: maxBytes / 4, shards: make([]cacheShard, n)}
	for i := range c.shards {
		s := &c.shards[i]
		s.max = maxBytes / n
		// It counts blocks, and we count bytes: its own bound is never reached.
		s.lru, _ = simplelru.NewLRU(math.MaxInt, func(_ blockKey, b *block) { s.used -= b.cost() })
	}
	return c
}

// cost is about how many bytes of memory a block takes.
func (b *block) cost() int64 {
	return int64(cap(b.data)) + 4*int64(cap(b.starts)) + blockOverhead
}

func (c *blockCache) shard(k blockKey) *cacheShard {
	// Ids are random and offsets are not: one multiplication spreads both.
	h := (binary.LittleEndian.Uint64(k.segment[:]) ^ uint64(k.off)) * 0x9e3779b97f4a7c15
	return &c.shards[h>>32%uint64(len(c.shards))]
}

// get returns the block that at names; nil if it is not there. What is there
// and is not all that at says, is not the block: two blocks of a damaged index
// may disagree on what is at an offset.
func (c *blockCache) get(segment ID, at blockRef) *block {
	if c == nil {
		return nil
	}
	k := blockKey{segment, at.off}
	s := c.shard(k)
	s.mu.Lock()
	b, _ := s.lru.Get(k)
	s.mu.Unlock()
	if b == nil || b.at != at {
		return nil
	}
	return b
}

// put keeps a block, in place of the one that was there.
func (c *blockCache) put(segment ID, b *block) {
	cost := b.cost()
	if c == nil || cost > c.largest {
		return
	}
	k := blockKey{segment, b.at.off}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru.Remove(k) // or it would be replaced without being taken off used
	s.lru.Add(k, b)
	s.used += cost
	for s.used > s.max {
		s.lru.RemoveOldest()
	}
}
