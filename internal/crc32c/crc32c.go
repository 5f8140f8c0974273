// Package crc32c computes CRC-32C, the checksum of all files of the store.
//
// It is hash/crc32's, without what that does before the first byte: its tables
// for long inputs take a quarter of a millisecond to make, a tenth of the life
// of a process that reads one record.
package crc32c

import (
	"hash/crc32"
	"sync"
	"sync/atomic"
)

// enough is how many bytes are summed one by one, in about the time in which
// the tables are made, before it is worth to make them.
const enough = 64 << 10

var (
	simple = simpleTable()
	summed atomic.Int64 // bytes, with the simple table
	fast   = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })
)

// Checksum returns the checksum of b.
func Checksum(b []byte) uint32 { return Update(0, b) }

// Update returns the checksum of what crc is the checksum of, followed by b.
func Update(crc uint32, b []byte) uint32 {
	if summed.Load() < enough && summed.Add(int64(len(b))) < enough {
		return crc32.Update(crc, simple, b)
	}
	return crc32.Update(crc, fast(), b)
}

// simpleTable returns the table for one byte at a time. crc32.MakeTable would
// make the others too.
func simpleTable() *crc32.Table {
	t := new(crc32.Table)
	crc := uint32(1)
	for i := 128; i > 0; i /= 2 { // each power of two, and its sums with those above
		if crc&1 != 0 {
			crc = crc>>1 ^ crc32.Castagnoli
		} else {
			crc >>= 1
		}
		for j := 0; j < 256; j += 2 * i {
			t[i+j] = crc ^ t[j]
		}
	}
	return t
}
