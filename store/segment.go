package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/recordstore/recordstore/internal/vfs"
)

// The format of a segment: records in ascending order of their keys, and a
// static search tree over them. docs/FORMAT.md has the same tables with a
// worked example. All integers are little-endian; all checksums are CRC-32C but
// those of blocks, which are CRC-32 (IEEE).
//
//	Offset  Size  Field
//	     0     8  magic
//	     8     2  format version
//	    10     2  flags: 0
//	    12     4  checksum of bytes 0 to 12: the prologue, the same in every version
//	    16    16  id of the store
//	    32    16  id of the segment
//	    48    16  0
//	    64        blocks: each after the blocks below it, the root last
//	end-64    64  footer
//
// A data block is one record after the other, in the form they have in a
// manifest. An index block is one entry after the other:
//
//	 0     8  offset of the block that it stands for
//	 8     4  length of that block
//	12     4  checksum of that block
//	16     2  length of the key
//	18        the key: the lowest in that block and in all below it
//
// The footer:
//
//	 0     8  offset of the root
//	 8     4  length of the root
//	12     4  checksum of the root
//	16     2  height; 0: the root is a data block, 1: data blocks are below it
//	18     2  0
//	20     4  checksum of the header
//	24     8  number of records, tombstones not among them
//	32     8  number of tombstones
//	40     8  length of all data blocks
//	48    12  0
//	60     4  checksum of the footer before it
//
// A manifest has the last of these checksums, and whoever names a block has
// the block's: what is read is verified from the manifest down, and a block of
// the wrong file, or of the wrong place, does not pass for the right one.
//
// The blocks of a subtree are contiguous, and its top is the last of them. So
// an index block tells, together with those above it, where each byte below it
// belongs: it is refused as soon as it is read if a block is missing, is there
// twice, or leaves a gap. There can be no cycles, and no more to read than the
// file has bytes.
//
// CRC-32C would be useless for a block: that of any bytes with their own
// CRC-32C behind them, as a record is, is always 48674bc7. The checksum of a
// data block would depend on the lengths of its records and on nothing else, as
// long as each of them is whole.
const (
	segmentMagic      = "\x93RECSEG\n"
	segmentVersion    = 1
	segmentHeaderSize = 64
	segmentFooterSize = 64
	entryHeaderSize   = 18

	minSegmentSize = segmentHeaderSize + recHeaderSize + 1 + checksumSize + segmentFooterSize
	maxSegmentSize = 1 << 48 // bytes; more is damage, not data
	maxBlockSize   = 1 << 27 // bytes; room for the largest record

	// An index block has two entries or more but for the last of its level.
	// So a tree that is higher has more blocks than a file has bytes.
	maxSegmentHeight = 48
)

const segmentPrefix = "segment."

// A segmentRef is what a manifest says of a segment.
type segmentRef struct {
	seq      uint64 // the sequence of the manifest that introduced it
	id       ID
	size     int64  // of the file, in bytes
	checksum uint32 // of the file's footer, and through it of all else
}

// name returns the name of the segment's file.
func (r segmentRef) name() string { return fmt.Sprintf("%s%016d.%s", segmentPrefix, r.seq, r.id) }

// parseSegmentName is strict: what name does not print is not the name of a
// segment.
func parseSegmentName(name string) (seq uint64, id ID, ok bool) {
	rest, ok := strings.CutPrefix(name, segmentPrefix)
	digits, hex, dot := strings.Cut(rest, ".")
	if !ok || !dot || len(digits) != 16 || strings.Trim(digits, "0123456789") != "" || strings.Trim(hex, "0123456789abcdef") != "" {
		return 0, ID{}, false
	}
	id, idErr := ParseID(hex)
	seq, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || idErr != nil || seq == 0 {
		return 0, ID{}, false
	}
	return seq, id, true
}

// segmentInfo is what a segment's footer says of its content.
type segmentInfo struct {
	records    uint64 // without the tombstones
	tombstones uint64
	dataBytes  int64 // of records and tombstones
	height     int   // 0: the root is a data block
}

// A blockRef names a block and says what must be there.
type blockRef struct {
	off      int64
	size     uint32
	checksum uint32
	low      int64 // where the first of the blocks below it begins; off if there are none
	height   int   // 0: a data block
}

// blockChecksum is not checksum, see above.
func blockChecksum(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

func (r blockRef) end() int64 { return r.off + int64(r.size) }

func encodeSegmentHeader(store, id ID) []byte {
	b := make([]byte, 0, segmentHeaderSize)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint16(b, segmentVersion)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, checksum(b))
	b = append(b, store[:]...)
	b = append(b, id[:]...)
	return b[:segmentHeaderSize]
}

// appendEntry appends the entry of an index block that stands for the block r.
func appendEntry(b []byte, r blockRef, key []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(r.off))
	b = binary.LittleEndian.AppendUint32(b, r.size)
	b = binary.LittleEndian.AppendUint32(b, r.checksum)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(key)))
	return append(b, key...)
}

func encodeSegmentFooter(root blockRef, headerSum uint32, info segmentInfo) []byte {
	b := make([]byte, segmentFooterSize)
	binary.LittleEndian.PutUint64(b, uint64(root.off))
	binary.LittleEndian.PutUint32(b[8:], root.size)
	binary.LittleEndian.PutUint32(b[12:], root.checksum)
	binary.LittleEndian.PutUint16(b[16:], uint16(info.height))
	binary.LittleEndian.PutUint32(b[20:], headerSum)
	binary.LittleEndian.PutUint64(b[24:], info.records)
	binary.LittleEndian.PutUint64(b[32:], info.tombstones)
	binary.LittleEndian.PutUint64(b[40:], uint64(info.dataBytes))
	binary.LittleEndian.PutUint32(b[60:], checksum(b[:60]))
	return b
}

// checkSegmentPrologue tells what is no segment, what is damaged and what is
// newer apart, before anything else in the file is believed.
func checkSegmentPrologue(path string, b []byte) error {
	switch {
	case string(b[:8]) != segmentMagic:
		return &CorruptError{path, 0, "not a segment (wrong magic number)"}
	case binary.LittleEndian.Uint32(b[12:]) != checksum(b[:12]):
		return &CorruptError{path, 8, "wrong checksum of version and flags"}
	}
	version, flags := binary.LittleEndian.Uint16(b[8:]), binary.LittleEndian.Uint16(b[10:])
	switch {
	case version > segmentVersion:
		return fmt.Errorf("%s: %w: version %d, this program knows up to %d; use a newer program",
			path, ErrNewerVersion, version, segmentVersion)
	case version == 0:
		return &CorruptError{path, 8, "format version 0"}
	case flags != 0:
		return fmt.Errorf("%s: %w: unknown flags %#x; use a newer program", path, ErrNewerVersion, flags)
	}
	return nil
}

// decodeSegmentEnds checks header and footer against each other and against
// ref, and returns the root.
func decodeSegmentEnds(path string, store ID, ref segmentRef, head, foot []byte) (blockRef, segmentInfo, error) {
	fail := func(off int64, reason string) (blockRef, segmentInfo, error) {
		return blockRef{}, segmentInfo{}, &CorruptError{path, off, reason}
	}
	start := ref.size - segmentFooterSize
	if sum := binary.LittleEndian.Uint32(foot[60:]); sum != checksum(foot[:60]) {
		return fail(start, "wrong checksum of the footer")
	} else if sum != ref.checksum {
		return fail(start, "the footer is not the one that the manifest names")
	}
	zero := [16]byte{}
	switch {
	case binary.LittleEndian.Uint32(foot[20:]) != checksum(head):
		return fail(prologueSize, "wrong checksum of the header")
	case ID(head[16:32]) != store:
		return fail(16, "the segment belongs to another store")
	case ID(head[32:48]) != ref.id:
		return fail(32, "another segment's id")
	case [16]byte(head[48:]) != zero:
		return fail(48, "bytes that must be zero are not")
	case [2]byte(foot[18:]) != [2]byte{}, [12]byte(foot[48:]) != [12]byte{}:
		return fail(start+18, "bytes that must be zero are not")
	}
	root := blockRef{
		size:     binary.LittleEndian.Uint32(foot[8:]),
		checksum: binary.LittleEndian.Uint32(foot[12:]),
		low:      segmentHeaderSize,
		height:   int(binary.LittleEndian.Uint16(foot[16:])),
	}
	root.off = start - int64(root.size)
	info := segmentInfo{
		records:    binary.LittleEndian.Uint64(foot[24:]),
		tombstones: binary.LittleEndian.Uint64(foot[32:]),
		dataBytes:  int64(binary.LittleEndian.Uint64(foot[40:])),
		height:     root.height,
	}
	switch {
	case root.height > maxSegmentHeight:
		return fail(start+16, "impossible height")
	case !root.possible(), binary.LittleEndian.Uint64(foot) != uint64(root.off):
		return fail(start, "impossible place of the root")
	case info.dataBytes < 0 || info.dataBytes > start-segmentHeaderSize,
		max(info.records, info.tombstones) > uint64(info.dataBytes):
		return fail(start+24, "more records than the file has room for")
	}
	return root, info, nil
}

// possible tells whether a block can be where r says, as far as r alone tells.
func (r blockRef) possible() bool {
	if r.size == 0 || r.size > maxBlockSize {
		return false
	}
	// A data block has none below it; there are data blocks below all others.
	return r.height == 0 && r.off == r.low || r.height > 0 && r.off > r.low
}

// A block is one that was read and found whole. It is immutable, but for what
// the cache notes, and shared.
type block struct {
	at     blockRef
	data   []byte
	starts []uint32 // in data, of each record or entry; then the length of data
	keeping
}

// decodeBlock checks that data is the block that at names, and whole.
func decodeBlock(path string, at blockRef, data []byte) (*block, error) {
	if blockChecksum(data) != at.checksum {
		return nil, placeBlockDamage(path, at, data)
	}
	b := &block{at: at, data: data}
	n, off, reason := b.split(nil)
	if reason == "" {
		b.starts = make([]uint32, 0, n+1)
		_, off, reason = b.split(&b.starts)
	}
	if reason != "" {
		return nil, &CorruptError{path, at.off + int64(off), reason}
	}
	b.starts = append(b.starts, at.size)
	for i := 1; i < n; i++ {
		if string(b.key(i-1)) >= string(b.key(i)) {
			return nil, &CorruptError{path, at.off + int64(b.starts[i]), "key out of order"}
		}
	}
	if at.height > 0 {
		return b, b.checkChildren(path)
	}
	return b, nil
}

// split counts the records or entries of b, and appends where they begin to
// starts, if that is not nil. It is called twice, so that a block in the cache
// takes no more memory than it needs. If one of them makes no sense, it
// returns its offset and why.
func (b *block) split(starts *[]uint32) (n, off int, reason string) {
	for off < len(b.data) {
		var size int
		if b.at.height == 0 {
			r, reason := cutRec(b.data[off:])
			if reason != "" {
				return n, off, reason
			}
			size = len(r)
		} else if size = cutEntry(b.data[off:]); size == 0 {
			return n, off, "impossible entry of an index block"
		}
		if starts != nil {
			*starts = append(*starts, uint32(off))
		}
		off += size
		n++
	}
	return n, off, ""
}

// cutEntry returns the size of the entry at the beginning of b; 0 if there is
// none.
func cutEntry(b []byte) int {
	if len(b) < entryHeaderSize {
		return 0
	}
	key := int(binary.LittleEndian.Uint16(b[16:]))
	if key == 0 || key > MaxKeySize || entryHeaderSize+key > len(b) {
		return 0
	}
	return entryHeaderSize + key
}

// checkChildren checks that the blocks below b are just those between b.at.low
// and b itself.
func (b *block) checkChildren(path string) error {
	for i := range b.count() {
		if c := b.child(i); uint64(c.off) > maxSegmentSize || !c.possible() || c.end() > b.at.off {
			return &CorruptError{path, b.at.off + int64(b.starts[i]), "impossible place of a block"}
		}
	}
	if b.child(b.count()-1).end() != b.at.off {
		return &CorruptError{path, b.at.off, "a block is missing below this one"}
	}
	return nil
}

// placeBlockDamage finds which record of a block does not check, given that
// the whole does not.
func placeBlockDamage(path string, at blockRef, data []byte) error {
	for off := 0; at.height == 0 && off < len(data); {
		r, reason := cutRec(data[off:])
		if reason == "" && !r.intact() {
			reason = "wrong checksum of a record"
		}
		if reason != "" {
			return &CorruptError{path, at.off + int64(off), reason}
		}
		off += len(r)
	}
	return &CorruptError{path, at.off, "wrong checksum of a block"}
}

// intact tells whether the record's own checksum is right.
func (r rec) intact() bool {
	body := r[:len(r)-checksumSize]
	return binary.LittleEndian.Uint32(r[len(body):]) == checksum(body)
}

func (b *block) count() int { return len(b.starts) - 1 }

// rec returns the i-th record of a data block.
func (b *block) rec(i int) rec {
	start, end := b.starts[i], b.starts[i+1]
	return b.data[start:end:end]
}

// key returns the key of the i-th record or entry.
func (b *block) key(i int) []byte {
	if b.at.height == 0 {
		return b.rec(i).key()
	}
	return b.data[b.starts[i]+entryHeaderSize : b.starts[i+1]]
}

// child returns the block that the i-th entry of an index block stands for.
func (b *block) child(i int) blockRef {
	e := b.data[b.starts[i]:]
	c := blockRef{
		off:      int64(binary.LittleEndian.Uint64(e)),
		size:     binary.LittleEndian.Uint32(e[8:]),
		checksum: binary.LittleEndian.Uint32(e[12:]),
		low:      b.at.low,
		height:   b.at.height - 1,
	}
	if i > 0 { // below it is what lies between the one before and itself
		e = b.data[b.starts[i-1]:]
		c.low = int64(binary.LittleEndian.Uint64(e)) + int64(binary.LittleEndian.Uint32(e[8:]))
	}
	return c
}

// search returns the index of the first key that is not below key, and whether
// it is key.
func (b *block) search(key string) (i int, found bool) {
	lo, hi := 0, b.count()
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if string(b.key(mid)) < key { // does not allocate
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < b.count() && string(b.key(lo)) == key
}

// step returns the index of the entry of an index block below which key is, if
// it is anywhere; -1: nowhere, all keys are above it.
func (b *block) step(key string) int {
	lo, hi := 0, b.count()
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if e := b.data[b.starts[mid]:b.starts[mid+1]]; string(e[entryHeaderSize:]) <= key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// A segment is an open segment file. It is immutable and shared: what is
// called "read" here may be called by any number of goroutines at once.
type segment struct {
	path  string
	store ID
	ref   segmentRef
	cache *blockCache
	file  vfs.File
	refs  // holders of the open file; it is closed when there are none

	mu  sync.Mutex // for the first to read
	top atomic.Pointer[segmentTop]
}

// A segmentTop is what is read of a segment before all else. It stays in
// memory: all that is kept of the segment hangs on it.
type segmentTop struct {
	info segmentInfo
	root *block
}

// openSegment opens the segment that ref names, for one holder. It reads
// nothing yet: a snapshot needs every segment to be open, a lookup hardly ever
// needs them all. An error of opening is returned as it is.
func openSegment(fsys vfs.FS, path string, store ID, ref segmentRef, cache *blockCache) (*segment, error) {
	f, err := openRegular(fsys, path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode.IsRegular():
		err = &CorruptError{path, 0, "not a regular file"}
	case info.Size != ref.size:
		err = &CorruptError{path, min(info.Size, ref.size), fmt.Sprintf("the file has %d bytes, the manifest says %d", info.Size, ref.size)}
	case ref.size < minSegmentSize || ref.size > maxSegmentSize:
		err = &CorruptError{path, 0, fmt.Sprintf("a segment cannot have %d bytes", ref.size)}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	g := &segment{path: path, store: store, ref: ref, cache: cache, file: f}
	g.n.Store(1)
	return g, nil
}

// release gives up what acquire or openSegment gave. Records that were read
// stay valid. With the last holder its blocks leave the cache.
func (g *segment) release() {
	if !g.leave() {
		return
	}
	g.file.Close() // opened for reading: nothing to lose
	if top := g.top.Load(); top != nil && g.cache != nil {
		g.cache.fell(top.root)
	}
}

// read reads n bytes. That n is no more than what the file has must be known.
func (g *segment) read(off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	got, err := g.file.ReadAt(b, off)
	var path *fs.PathError
	switch {
	case got == n:
		return b, nil
	case errors.Is(err, io.EOF): // it had all its bytes when it was opened
		return nil, &CorruptError{g.path, off + int64(got), "the file has become shorter"}
	case errors.As(err, &path):
		return nil, err // it names the path already
	}
	return nil, fmt.Errorf("read %s: %w", g.path, err)
}

// open returns the root. It is read once; after an error, again.
func (g *segment) open() (*segmentTop, error) {
	if top := g.top.Load(); top != nil {
		return top, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if top := g.top.Load(); top != nil {
		return top, nil
	}
	top, err := g.readTop()
	if err == nil {
		g.cache.plant(top.root)
		g.top.Store(top)
	}
	return top, err
}

// readTop reads header, footer and root.
func (g *segment) readTop() (*segmentTop, error) {
	head, err := g.read(0, segmentHeaderSize)
	if err == nil {
		err = checkSegmentPrologue(g.path, head)
	}
	if err != nil {
		return nil, err
	}
	foot, err := g.read(g.ref.size-segmentFooterSize, segmentFooterSize)
	if err != nil {
		return nil, err
	}
	root, info, err := decodeSegmentEnds(g.path, g.store, g.ref, head, foot)
	if err != nil {
		return nil, err
	}
	b, err := g.readBlock(root, nil)
	if err != nil {
		return nil, err
	}
	return &segmentTop{info, b}, nil
}

// readBlock reads a block from the file. Its first key must be first, unless
// that is nil.
func (g *segment) readBlock(at blockRef, first []byte) (*block, error) {
	data, err := g.read(at.off, int(at.size))
	if err != nil {
		return nil, err
	}
	b, err := decodeBlock(g.path, at, data)
	if err != nil {
		return nil, err
	}
	if first != nil && string(b.key(0)) != string(first) {
		return nil, &CorruptError{g.path, at.off, "the first key is not the one that the index says"}
	}
	return b, nil
}

// down returns the block below the i-th entry of b, from the cache if it is
// there. If keep is set, it is in the cache afterwards.
func (g *segment) down(b *block, i int, keep bool) (*block, error) {
	if c := b.kept(i); c != nil {
		return c, nil
	}
	c, err := g.readBlock(b.child(i), b.key(i))
	if err == nil && keep {
		c = g.cache.put(b, i, c)
	}
	return c, err
}

// get returns the record or tombstone with the key; nil: the segment has none.
// It shares the memory of its block and must not be changed.
func (g *segment) get(key string) (rec, error) {
	top, err := g.open()
	if err != nil {
		return nil, err
	}
	b := top.root
	for b.at.height > 0 {
		i := b.step(key)
		if i < 0 {
			return nil, nil
		}
		if b.at.height == 1 {
			if alone, err := g.holdsAlone(b, i, key); alone || err != nil {
				return nil, err
			}
		}
		if b, err = g.down(b, i, true); err != nil {
			return nil, err
		}
	}
	if i, found := b.search(key); found {
		return b.rec(i), nil
	}
	return nil, nil
}

// holdsAlone tells whether the data block below the i-th entry of b has a single
// record, whose key is not key. It does so for blocks that the cache does not
// keep: who looks for a key that is not there would read a large value for that,
// each time. The index has the record's key, and its first bytes tell its size.
//
// These are not verified: that takes the whole block. But damage to them makes
// the record longer or shorter than the block, which is then read, and refused.
// (Or just as long, if there are more records in it: in blocks of this size this
// program writes one.)
func (g *segment) holdsAlone(b *block, i int, key string) (bool, error) {
	e := b.data[b.starts[i]:]
	size := int64(binary.LittleEndian.Uint32(e[8:]))
	if size <= defaultDataBlock || g.cache.keeps(size) || string(b.key(i)) == key {
		return false, nil
	}
	head, err := g.read(int64(binary.LittleEndian.Uint64(e)), recHeaderSize)
	if err != nil {
		return false, err
	}
	name, first, value := rec(head).sizes()
	return recHeaderSize+int64(name)+int64(first)+int64(value)+checksumSize == size, nil
}

// info returns what the footer says.
func (g *segment) info() (segmentInfo, error) {
	top, err := g.open()
	if err != nil {
		return segmentInfo{}, err
	}
	return top.info, nil
}

// A segmentScan is a walk over a segment's records and tombstones in ascending
// order of their keys. It holds one block of each level.
type segmentScan struct {
	g *segment
	span
	path []scanStep
	last []byte // key of the last record before the current data block
}

// A scanStep is a block on the way from the root to a data block, and which of
// its records or entries comes next.
type scanStep struct {
	*block
	next int
}

// scan returns a walk from the first key within the span. It may go beyond its end, to
// where a block begins.
func (g *segment) scan(sp span) *segmentScan { return &segmentScan{g: g, span: sp} }

// next returns the next record or tombstone; nil: there are no more. After an
// error it may be called again, and tries the same again.
//
// A scan leaves the data blocks that it reads out of the cache: it comes by
// each of them once, and would evict what lookups need.
func (sc *segmentScan) next() (rec, error) {
	if sc.path == nil {
		top, err := sc.g.open()
		if err != nil {
			return nil, err
		}
		sc.path = append(make([]scanStep, 0, top.info.height+1), sc.enter(top.root))
	}
	for len(sc.path) > 0 {
		s := &sc.path[len(sc.path)-1]
		switch {
		case s.next == s.count():
			sc.leave(s.block)
		case s.at.height == 0:
			s.next++
			return s.rec(s.next - 1), nil
		default:
			if err := sc.descend(s); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// enter finds the place in b where the walk begins.
func (sc *segmentScan) enter(b *block) scanStep {
	if b.at.height > 0 {
		return scanStep{b, max(b.step(sc.from), 0)}
	}
	i, _ := b.search(sc.from)
	return scanStep{b, i}
}

func (sc *segmentScan) leave(b *block) {
	if b.at.height == 0 {
		sc.last = b.key(b.count() - 1)
	}
	sc.path = sc.path[:len(sc.path)-1]
}

// descend goes to the next block below s.
func (sc *segmentScan) descend(s *scanStep) error {
	if sc.to != "" && string(s.key(s.next)) >= sc.to {
		sc.path = sc.path[:0] // a value behind the end may be large
		return nil
	}
	b, err := sc.g.down(s.block, s.next, s.at.height > 1)
	if err != nil {
		return err
	}
	// Within a block the keys are known to ascend, and so are the first ones
	// of blocks with the same parent.
	if b.at.height == 0 && sc.last != nil && string(sc.last) >= string(b.key(0)) {
		return &CorruptError{sc.g.path, b.at.off, "key out of order"}
	}
	s.next++
	sc.path = append(sc.path, sc.enter(b))
	return nil
}

// check reads the whole file, past the cache and what is in memory, and
// returns the first thing that is wrong with it, or why the context has ended.
func (g *segment) check(ctx context.Context) error {
	top, err := g.readTop()
	if err != nil {
		return err
	}
	c := segmentCheck{g: g}
	if err := c.walk(ctx, top.root); err != nil {
		return err
	}
	c.info.height = top.info.height
	if c.info != top.info {
		reason := fmt.Sprintf("the footer counts %d records, %d tombstones, %d bytes; there are %d, %d, %d",
			top.info.records, top.info.tombstones, top.info.dataBytes, c.info.records, c.info.tombstones, c.info.dataBytes)
		return &CorruptError{g.path, g.ref.size - segmentFooterSize + 24, reason}
	}
	return nil
}

// A segmentCheck is what a check has found so far.
type segmentCheck struct {
	g    *segment
	info segmentInfo
	last []byte // key of the last record
}

func (c *segmentCheck) walk(ctx context.Context, b *block) error {
	if b.at.height == 0 {
		return c.records(b)
	}
	for i := range b.count() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		down, err := c.g.readBlock(b.child(i), b.key(i))
		if err == nil {
			err = c.walk(ctx, down)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// records checks what reading a data block does not: that it comes after the
// one before, and the checksums that its records brought with them.
func (c *segmentCheck) records(b *block) error {
	for i := range b.count() {
		r := b.rec(i)
		off := b.at.off + int64(b.starts[i])
		switch {
		case c.last != nil && string(c.last) >= string(r.key()):
			return &CorruptError{c.g.path, off, "key out of order"}
		case !r.intact():
			return &CorruptError{c.g.path, off, "wrong checksum of a record"}
		case r.tombstone():
			c.info.tombstones++
		default:
			c.info.records++
		}
		c.last = r.key()
	}
	c.info.dataBytes += int64(len(b.data))
	return nil
}
