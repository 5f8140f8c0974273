package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/internal/vfs/faultfs"
)

const segmentPath = "/d/segment"

var segStore, segID = ID(bytes.Repeat([]byte{0x11}, 16)), ID(bytes.Repeat([]byte{0x22}, 16))

// writeSegment returns a segment's bytes, and what a manifest would say of it.
func writeSegment(t testing.TB, recs []rec, layout segmentLayout) ([]byte, segmentRef) {
	t.Helper()
	d := faultfs.NewDisk()
	if err := d.Mkdir("/d", 0o777); err != nil {
		t.Fatal(err)
	}
	f, err := d.CreateTemp("/d", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := newSegmentWriter(f, segStore, segID, layout)
	for _, r := range recs {
		if err := w.add(r); err != nil {
			t.Fatal(err)
		}
	}
	ref, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != ref.size || ref.id != segID || ref.seq != 0 {
		t.Fatalf("%d bytes, ref %+v", len(b), ref)
	}
	return b, ref
}

// tryOpenBytes opens bytes as a segment.
func tryOpenBytes(t testing.TB, b []byte, ref segmentRef, cache *blockCache) (*segment, error) {
	t.Helper()
	d := faultfs.NewDisk()
	if err := d.Mkdir("/d", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFile(segmentPath, b); err != nil {
		t.Fatal(err)
	}
	return openSegment(d, segmentPath, segStore, ref, cache)
}

func openBytes(t testing.TB, b []byte, ref segmentRef, cache *blockCache) *segment {
	t.Helper()
	g, err := tryOpenBytes(t, b, ref, cache)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// openCounting is openBytes with a cache, and counts how often the file is read.
func openCounting(t testing.TB, b []byte, ref segmentRef, reads *int) *segment {
	t.Helper()
	d := faultfs.NewDisk()
	d.Mkdir("/d", 0o777)
	if err := d.WriteFile(segmentPath, b); err != nil {
		t.Fatal(err)
	}
	g, err := openSegment(&faultfs.Hooked{FS: d, Before: func(op faultfs.Op) error {
		if op.Kind == faultfs.OpRead {
			*reads++
		}
		return nil
	}}, segmentPath, segStore, ref, newBlockCache(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// collect returns all that a scan yields.
func collect(g *segment, from string) ([]rec, error) {
	var out []rec
	for sc := g.scan(span{from: from}); ; {
		r, err := sc.next()
		if r == nil || err != nil {
			return out, err
		}
		out = append(out, r)
	}
}

func sameRecs(a, b []rec) bool {
	return slices.EqualFunc(a, b, func(a, b rec) bool { return bytes.Equal(a, b) })
}

// randomRecs makes up to n records with random keys, names and values; some of them
// are tombstones.
func randomRecs(rnd *rand.Rand, n, maxKey, maxValue int) []rec {
	m := map[string]rec{}
	for range n {
		key := make([]byte, 1+rnd.IntN(maxKey))
		for i := range key {
			key[i] = byte(rnd.Uint32())
		}
		if rnd.IntN(5) == 0 {
			m[string(key)] = encodeTombstone(string(key), Revision(rnd.Uint64()), rnd.Int64())
			continue
		}
		value := make([]byte, rnd.IntN(maxValue+1))
		for i := range value {
			value[i] = byte(rnd.Uint32())
		}
		m[string(key)] = encodeRec(string(key), []string{"raw", "json", "msgpack"}[rnd.IntN(3)], value, Revision(rnd.Uint64()), rnd.Int64(), rnd.Int64())
	}
	return sortedRecs(m)
}

func sortedRecs(m map[string]rec) []rec { return changes(m).in(span{}) }

// caches are the ones that a segment is read through in the tests: none, one
// in which hardly anything stays, and one in which all does.
func caches() map[string]*blockCache {
	return map[string]*blockCache{"no cache": newBlockCache(0), "small cache": newBlockCache(8 << 10), "large cache": newBlockCache(1 << 30)}
}

// checkSegment compares a segment with the records that it must have.
func checkSegment(t *testing.T, b []byte, ref segmentRef, recs []rec) {
	t.Helper()
	var want segmentInfo
	for _, r := range recs {
		want.dataBytes += int64(len(r))
		if r.tombstone() {
			want.tombstones++
		} else {
			want.records++
		}
	}
	for name, cache := range caches() {
		g := openBytes(t, b, ref, cache)
		for range 2 { // the second time from the cache
			for i, r := range recs {
				if got, err := g.get(string(r.key())); err != nil || !bytes.Equal(got, r) {
					t.Fatalf("%s: record %d, %q: got %x, %v; want %x", name, i, r.key(), got, err, r)
				}
			}
		}
		if got, err := collect(g, ""); err != nil || !sameRecs(got, recs) {
			t.Fatalf("%s: the scan has %d records, %v; want %d", name, len(got), err, len(recs))
		}
		if err := g.check(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := g.info()
		want.height = got.height
		if err != nil || got != want {
			t.Fatalf("%s: info %+v, %v; want %+v", name, got, err, want)
		}
		g.release()
	}
}

// TestSegmentRoundTrip writes random records in blocks of many sizes.
func TestSegmentRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	heights := map[int]bool{}
	for round := range 60 {
		layout := segmentLayout{dataBlock: 1 + rnd.IntN(1000), indexBlock: 1 + rnd.IntN(500), flushEvery: 1 + rnd.Int64N(5000)}
		if round%10 == 0 {
			layout = segmentLayout{}
		}
		recs := randomRecs(rnd, 1+rnd.IntN(10*round+5), 1+rnd.IntN(60), rnd.IntN(300))
		b, ref := writeSegment(t, recs, layout)
		checkSegment(t, b, ref, recs)
		info, err := openBytes(t, b, ref, nil).info()
		if err != nil {
			t.Fatal(err)
		}
		heights[info.height] = true
	}
	for h := range 4 {
		if !heights[h] {
			t.Errorf("no segment had height %d: %v", h, heights)
		}
	}
}

// TestSegmentSizes: the smallest and the largest of everything, beside each
// other.
func TestSegmentSizes(t *testing.T) {
	value := func(n int) []byte { return bytes.Repeat([]byte{0xa5}, n) }
	long := strings.Repeat("k", MaxKeySize)
	many := map[string]rec{}
	for i := range 200 { // keys so long that an index block has two entries
		k := fmt.Sprintf("%04d", i) + long[4:]
		many[k] = encodeRec(k, "raw", value(i), 1, 2, 3)
	}
	for name, recs := range map[string][]rec{
		"the smallest":      {encodeTombstone("k", 0, 0)},
		"one record":        {encodeRec("k", "raw", nil, 1, 2, 3)},
		"longest key":       {encodeRec(long, strings.Repeat("c", 255), value(1), 1, 2, 3)},
		"long keys":         sortedRecs(many),
		"a block to itself": {encodeRec("a", "raw", nil, 1, 2, 3), encodeRec("b", "raw", value(5<<20), 1, 2, 3), encodeRec("c", "raw", nil, 1, 2, 3), encodeTombstone("d", 1, 2)},
		"two large ones":    {encodeRec("a", "raw", value(3<<20), 1, 2, 3), encodeRec("b", "raw", value(1<<20), 1, 2, 3)},
		"just a block":      {encodeRec("a", "raw", value(4096-recHeaderSize-4-checksumSize), 1, 2, 3), encodeRec("b", "raw", nil, 1, 2, 3)},
		"a byte over":       {encodeRec("a", "raw", value(4096-recHeaderSize-4-checksumSize+1), 1, 2, 3), encodeRec("b", "raw", nil, 1, 2, 3)},
		"zeros and 0xff":    {encodeRec("\x00", "raw", nil, 1, 2, 3), encodeRec("\x00\x00", "raw", nil, 1, 2, 3), encodeRec("\xff", "raw", nil, 1, 2, 3), encodeRec("\xff\xff", "raw", nil, 1, 2, 3)},
		"tombstones only":   {encodeTombstone("a", 1, 2), encodeTombstone("b", 1, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			b, ref := writeSegment(t, recs, segmentLayout{})
			checkSegment(t, b, ref, recs)
			if name == "the smallest" && ref.size != minSegmentSize {
				t.Errorf("%d bytes, want %d", ref.size, minSegmentSize)
			}
			g := openBytes(t, b, ref, nil)
			for _, at := range allBlocks(t, g) {
				if name == "a block to itself" && at.height == 0 && at.size > 5<<20+1000 {
					t.Errorf("a data block of %d bytes", at.size)
				}
			}
			if name == "a block to itself" {
				if at := pathOf(t, g, "a"); at[len(at)-1].size > 4096 {
					t.Errorf("the small record's block has %d bytes", at[len(at)-1].size)
				}
			}
		})
	}
	// Larger than any block target, and allowed.
	if n := recHeaderSize + 255 + MaxKeySize + MaxValueSize + checksumSize; n > maxBlockSize {
		t.Errorf("a record can have %d bytes, a block %d", n, maxBlockSize)
	}
}

// allBlocks returns all blocks of a segment, in the order of the file.
func allBlocks(t testing.TB, g *segment) []blockRef {
	t.Helper()
	top, err := g.open()
	if err != nil {
		t.Fatal(err)
	}
	var out []blockRef
	var walk func(b *block)
	walk = func(b *block) {
		for i := 0; b.at.height > 0 && i < b.count(); i++ {
			down, err := g.down(b, i, false)
			if err != nil {
				t.Fatal(err)
			}
			walk(down)
		}
		out = append(out, b.at)
	}
	walk(top.root)
	return out
}

// pathOf returns the blocks that a lookup reads, root first.
func pathOf(t testing.TB, g *segment, key string) []blockRef {
	t.Helper()
	top, err := g.open()
	if err != nil {
		t.Fatal(err)
	}
	out := []blockRef{top.root.at}
	for b := top.root; b.at.height > 0; out = append(out, b.at) {
		i := b.step(key)
		if i < 0 {
			return out
		}
		if b, err = g.down(b, i, false); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestSegmentTiling: blocks follow each other without a gap, each after those
// below it.
func TestSegmentTiling(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	b, ref := writeSegment(t, randomRecs(rnd, 500, 20, 50), segmentLayout{dataBlock: 200, indexBlock: 150})
	end := int64(segmentHeaderSize)
	for _, at := range allBlocks(t, openBytes(t, b, ref, nil)) {
		if at.off != end {
			t.Errorf("block at %d, want %d", at.off, end)
		}
		end = at.end()
	}
	if end+segmentFooterSize != ref.size {
		t.Errorf("the blocks end at %d of %d", end, ref.size)
	}
}

// damageSample is a small segment of height 2.
func damageSample(t testing.TB) ([]rec, []byte, segmentRef) {
	t.Helper()
	recs := []rec{
		encodeRec("a/1", "msgpack", []byte{0xa2, 'h', 'i'}, 1001, 1_700_000_000_123_456_789, 0),
		encodeRec("b\xff", "raw", nil, 7, 1_600_000_000_000_000_000, 1_800_000_000_000_000_001),
		encodeRec("c", "json", []byte(`{"n":1}`), 1000, 1_700_000_000_123_456_789, 0),
		encodeTombstone("cc", 1001, 1_700_000_000_123_456_789),
		encodeRec("d", "raw", bytes.Repeat([]byte{0xdd}, 90), 3, 4, 0),
		encodeRec("e", "raw", []byte{1}, 3, 4, 0),
	}
	b, ref := writeSegment(t, recs, segmentLayout{dataBlock: 100, indexBlock: 40})
	return recs, b, ref
}

// TestSegmentGolden: the bytes of version 1 are for ever.
func TestSegmentGolden(t *testing.T) {
	want := golden(t, "segment-v1.hex")
	recs, b, ref := damageSample(t)
	if !bytes.Equal(b, want) {
		t.Errorf("written:\n%swant:\n%s", hex.Dump(b), hex.Dump(want))
	}
	if ref.checksum != binary.LittleEndian.Uint32(want[len(want)-4:]) || ref.size != int64(len(want)) {
		t.Errorf("ref %+v", ref)
	}
	checkSegment(t, want, ref, recs)
	if info, err := openBytes(t, want, ref, nil).info(); err != nil || info != (segmentInfo{records: 5, tombstones: 1, dataBytes: 347, height: 2}) {
		t.Errorf("info %+v, %v", info, err)
	}
}

// TestSegmentGoldenNewer: what a later version writes is not damage.
func TestSegmentGoldenNewer(t *testing.T) {
	for _, name := range []string{"segment-v2.hex", "segment-newer-flag.hex"} {
		b := golden(t, name)
		g := openBytes(t, b, segmentRef{size: int64(len(b)), id: segID}, nil)
		_, err := g.get("k")
		for _, err := range []error{err, g.check(t.Context())} {
			if !errors.Is(err, ErrNewerVersion) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), segmentPath) {
				t.Errorf("%s: got %v, want ErrNewerVersion naming the file", name, err)
			}
		}
	}
}

func TestSegmentPrologue(t *testing.T) {
	for _, tc := range []struct {
		name   string
		do     func(b []byte)
		newer  bool
		offset int64
	}{
		{"version 0", func(b []byte) { sealPrologue(b, 0, 0) }, false, 8},
		{"version 2", func(b []byte) { sealPrologue(b, 2, 0) }, true, 0},
		{"version 65535", func(b []byte) { sealPrologue(b, 65535, 0) }, true, 0},
		{"version 2, wrong checksum", func(b []byte) { b[8] = 2 }, false, 8},
		{"unknown flag", func(b []byte) { sealPrologue(b, 1, 1) }, true, 0},
		{"wrong magic", func(b []byte) { b[0] = 'M' }, false, 0},
		{"a manifest's magic", func(b []byte) { copy(b, manifestMagic); sealPrologue(b, 1, 0) }, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, b, ref := damageSample(t)
			tc.do(b)
			_, err := openBytes(t, b, ref, nil).info()
			if tc.newer {
				if !errors.Is(err, ErrNewerVersion) || errors.Is(err, ErrCorrupt) {
					t.Errorf("got %v, want ErrNewerVersion", err)
				}
				return
			}
			wantDamage(t, err, tc.offset, tc.offset)
		})
	}
}

// wantDamage checks that err names the file and an offset between two others.
func wantDamage(t *testing.T, err error, low, high int64) {
	t.Helper()
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || errors.Is(err, ErrNewerVersion) || corrupt.Path != segmentPath || corrupt.Offset < low || corrupt.Offset > high {
		t.Errorf("got %v, want a *CorruptError at %d to %d", err, low, high)
	}
}

// TestSegmentFlippedBits flips every bit, one at a time. The check and a scan
// must notice it, a lookup if and only if the bit is on its way; and the error
// must say where.
func TestSegmentFlippedBits(t *testing.T) {
	recs, whole, ref := damageSample(t)
	g := openBytes(t, whole, ref, nil)
	blocks := allBlocks(t, g)
	// part[i] is where the part begins that byte i is in.
	part := make([]int64, len(whole))
	for i := range part {
		switch foot := len(whole) - segmentFooterSize; {
		case i < 8:
			part[i] = 0
		case i < prologueSize:
			part[i] = 8
		case i < segmentHeaderSize:
			part[i] = prologueSize
		case i >= foot:
			part[i] = int64(foot)
		}
	}
	for _, at := range blocks {
		for i := at.off; i < at.end(); i++ {
			part[i] = at.off
		}
		for off := at.off; at.height == 0 && off < at.end(); {
			r, _ := cutRec(whole[off:])
			for i := range r {
				part[off+int64(i)] = off
			}
			off += int64(len(r))
		}
	}
	root := blocks[len(blocks)-1]
	onPath, want := map[string]func(i int64) bool{}, map[string]rec{}
	for _, key := range []string{"", "a/1", "b\xff", "c", "cc", "d", "e", "bb", "z"} {
		path := pathOf(t, g, key)
		if want[key], _ = g.get(key); (want[key] != nil) != slices.ContainsFunc(recs, func(r rec) bool { return string(r.key()) == key }) {
			t.Fatalf("%q: %x", key, want[key])
		}
		onPath[key] = func(i int64) bool {
			return i < segmentHeaderSize || i >= root.off ||
				slices.ContainsFunc(path, func(at blockRef) bool { return i >= at.off && i < at.end() })
		}
	}
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			g := openBytes(t, b, ref, newBlockCache(1<<20))
			wantDamage(t, g.check(t.Context()), part[i], part[i])
			got, err := collect(g, "")
			wantDamage(t, err, part[i], part[i])
			if len(got) > len(recs) || !sameRecs(got, recs[:len(got)]) {
				t.Errorf("byte %d, bit %d: the scan yielded other records before its error", i, bit)
			}
			for key, hit := range onPath {
				got, err := g.get(key)
				if hit(int64(i)) {
					wantDamage(t, err, part[i], part[i])
					continue
				}
				if err != nil || !bytes.Equal(got, want[key]) {
					t.Errorf("byte %d, bit %d: %q is %x, %v; want %x", i, bit, key, got, err, want[key])
				}
			}
			if t.Failed() {
				t.Fatalf("byte %d, bit %d", i, bit)
			}
		}
	}
}

// TestSegmentTruncated cuts a segment off at every length, and makes it longer.
func TestSegmentTruncated(t *testing.T) {
	_, whole, ref := damageSample(t)
	for n := range whole {
		_, err := tryOpenBytes(t, whole[:n:n], ref, nil)
		wantDamage(t, err, int64(n), int64(n))
		// If the manifest were wrong as well.
		ref := ref
		ref.size = int64(n)
		g, err := tryOpenBytes(t, whole[:n:n], ref, nil)
		if (err == nil) != (n >= minSegmentSize) {
			t.Errorf("%d bytes: opening gives %v", n, err)
		}
		if err == nil {
			err = g.check(t.Context())
		}
		wantDamage(t, err, 0, int64(n))
	}
	_, err := tryOpenBytes(t, append(bytes.Clone(whole), 0), ref, nil)
	wantDamage(t, err, ref.size, ref.size)
	long := ref
	long.size++
	wantDamage(t, openBytes(t, append(bytes.Clone(whole), 0), long, nil).check(t.Context()), 0, ref.size)
}

// sealSegment makes all checksums of a segment right that can be, and returns
// what a manifest would say of it.
func sealSegment(b []byte) segmentRef {
	ref := segmentRef{size: int64(len(b)), id: segID}
	if len(b) < segmentHeaderSize+segmentFooterSize {
		return ref
	}
	copy(b, segmentMagic)
	sealPrologue(b, binary.LittleEndian.Uint16(b[8:]), binary.LittleEndian.Uint16(b[10:]))
	foot := b[len(b)-segmentFooterSize:]
	off, size := binary.LittleEndian.Uint64(foot), uint64(binary.LittleEndian.Uint32(foot[8:]))
	budget := 10_000
	if end := uint64(len(b) - segmentFooterSize); off <= end && size <= end-off {
		binary.LittleEndian.PutUint32(foot[12:], sealBlock(b, off, size, int(foot[16]), &budget))
	}
	binary.LittleEndian.PutUint32(foot[20:], checksum(b[:segmentHeaderSize]))
	ref.checksum = checksum(foot[:60])
	binary.LittleEndian.PutUint32(foot[60:], ref.checksum)
	return ref
}

// sealBlock seals a block and those below it, and returns its checksum.
func sealBlock(b []byte, off, size uint64, height int, budget *int) uint32 {
	data := b[off : off+size]
	for at := 0; at < len(data) && *budget > 0; {
		*budget--
		if height == 0 {
			r, _ := cutRec(data[at:])
			if r == nil {
				break
			}
			binary.LittleEndian.PutUint32(r[len(r)-checksumSize:], checksum(r[:len(r)-checksumSize]))
			at += len(r)
			continue
		}
		e, n := data[at:], cutEntry(data[at:])
		if n == 0 {
			break
		}
		below, size := binary.LittleEndian.Uint64(e), uint64(binary.LittleEndian.Uint32(e[8:]))
		if below < off && size <= off-below {
			binary.LittleEndian.PutUint32(e[12:], sealBlock(b, below, size, height-1, budget))
		}
		at += n
	}
	return blockChecksum(data)
}

// TestSegmentSealed: bytes whose checksums are right and that make no sense,
// as only a faulty program could have written them.
func TestSegmentSealed(t *testing.T) {
	_, whole, ref := damageSample(t)
	blocks := allBlocks(t, openBytes(t, whole, ref, nil))
	root := blocks[len(blocks)-1]
	var index blockRef // the first above data blocks
	for _, at := range blocks {
		if at.height == 1 {
			index = at
			break
		}
	}
	first, foot := blocks[0], int64(len(whole)-segmentFooterSize)
	second := index.off + entryHeaderSize + int64(binary.LittleEndian.Uint16(whole[index.off+16:])) // entry
	u16, u32, u64 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	add64 := func(b []byte, n int64) { u64(b, binary.LittleEndian.Uint64(b)+uint64(n)) }
	add32 := func(b []byte, n int32) { u32(b, binary.LittleEndian.Uint32(b)+uint32(n)) }
	for _, tc := range []struct {
		name   string
		do     func(b []byte)
		offset int64
	}{
		{"reserved bytes of the header", func(b []byte) { b[63] = 1 }, 48},
		{"reserved bytes of the footer", func(b []byte) { b[foot+59] = 1 }, foot + 18},
		{"two more of them", func(b []byte) { b[foot+18] = 1 }, foot + 18},
		{"another store", func(b []byte) { b[16] ^= 1 }, 16},
		{"another segment", func(b []byte) { b[32] ^= 1 }, 32},
		{"a height that cannot be", func(b []byte) { u16(b[foot+16:], maxSegmentHeight+1) }, foot + 16},
		{"the root is a data block", func(b []byte) { u16(b[foot+16:], 0) }, foot},
		{"a height too low", func(b []byte) { u16(b[foot+16:], 1) }, -1},
		{"a height too high", func(b []byte) { u16(b[foot+16:], 3) }, -1},
		{"a root elsewhere", func(b []byte) { add64(b[foot:], -1) }, foot},
		{"a root far away", func(b []byte) { u64(b[foot:], 1<<63) }, foot},
		{"no root", func(b []byte) { u32(b[foot+8:], 0); u64(b[foot:], uint64(foot)) }, foot},
		{"the longest root", func(b []byte) { u32(b[foot+8:], 1<<32-1) }, foot},
		{"a root that is all", func(b []byte) { u32(b[foot+8:], uint32(foot)-64); u64(b[foot:], 64); u16(b[foot+16:], 1) }, foot},
		{"a record too many", func(b []byte) { add64(b[foot+24:], 1) }, foot + 24},
		{"a tombstone too few", func(b []byte) { add64(b[foot+32:], -1) }, foot + 24},
		{"data too long", func(b []byte) { add64(b[foot+40:], 1) }, foot + 24},
		{"data that cannot be", func(b []byte) { u64(b[foot+40:], 1<<63) }, foot + 24},
		{"data that cannot be in the file", func(b []byte) { u64(b[foot+40:], 1<<40) }, foot + 24},
		{"more records than bytes", func(b []byte) { u64(b[foot+24:], 1<<63) }, foot + 24},
		{"an entry names its own block", func(b []byte) { u64(b[root.off:], uint64(root.off)); u32(b[root.off+8:], root.size) }, root.off},
		{"an entry names what is above", func(b []byte) { u64(b[index.off:], uint64(root.off)) }, index.off},
		{"an entry names the header", func(b []byte) { u64(b[index.off:], 0) }, index.off},
		{"an entry far away", func(b []byte) { u64(b[index.off:], 1<<63) }, index.off},
		{"an entry whose end overflows", func(b []byte) { u64(b[root.off:], 1<<63-1) }, root.off},
		{"an empty block", func(b []byte) { u32(b[index.off+8:], 0) }, index.off},
		{"the longest block", func(b []byte) { u32(b[index.off+8:], 1<<32-1) }, index.off},
		{"a block twice", func(b []byte) { copy(b[second:second+16], b[index.off:]) }, second},
		{"a gap before the first block", func(b []byte) { add64(b[index.off:], 1); add32(b[index.off+8:], -1) }, index.off},
		{"a gap between blocks", func(b []byte) { add64(b[second:], 1); add32(b[second+8:], -1) }, second},
		{"a gap after the last block", func(b []byte) { add32(b[second+8:], -1) }, index.off},
		{"blocks that overlap", func(b []byte) { add64(b[second:], -1); add32(b[second+8:], 1) }, second},
		{"a key of no bytes", func(b []byte) { u16(b[index.off+16:], 0) }, index.off},
		{"a key too long", func(b []byte) { u16(b[index.off+16:], MaxKeySize+1) }, index.off},
		{"another first key", func(b []byte) { b[index.off+entryHeaderSize] = '0' }, -1},
		{"keys of entries out of order", func(b []byte) { b[second+entryHeaderSize] = 'A' }, second},
		{"a record's key", func(b []byte) { b[first.off+recHeaderSize+7] = 'A' }, first.off},
		{"a record's flags", func(b []byte) { b[first.off] = 0x80 }, first.off},
		{"a record's length", func(b []byte) { u32(b[first.off+4:], MaxValueSize+1) }, first.off},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := bytes.Clone(whole)
			tc.do(b)
			ref := sealSegment(b)
			g := openBytes(t, b, ref, newBlockCache(1<<20))
			err := g.check(t.Context())
			low, high := tc.offset, tc.offset
			if low < 0 {
				low, high = 0, int64(len(b))
			}
			wantDamage(t, err, low, high)
			if _, err := g.info(); strings.Contains(tc.name, "that cannot be") { // nor need it be counted
				wantDamage(t, err, low, high)
			}
			if _, err := collect(g, ""); err != nil {
				wantDamage(t, err, 0, int64(len(b)))
			}
		})
	}
	if got := sealSegment(bytes.Clone(whole)); got != ref {
		t.Errorf("sealing a whole segment gives %+v, want %+v", got, ref)
	}
}

// TestSegmentOrder: blocks in the wrong order, with checksums that are right
// for what they hold.
func TestSegmentOrder(t *testing.T) {
	var recs []rec
	for i := range 8 {
		recs = append(recs, encodeRec(fmt.Sprintf("k%d", i), "raw", []byte{1}, 1, 2, 3))
	}
	whole, ref := writeSegment(t, recs, segmentLayout{dataBlock: 2 * len(recs[0]), indexBlock: 40})
	var data []blockRef
	for _, at := range allBlocks(t, openBytes(t, whole, ref, nil)) {
		if at.height == 0 {
			data = append(data, at)
		}
	}
	if len(data) != 4 || data[0].size != data[1].size {
		t.Fatalf("data blocks %+v", data)
	}
	swap := func(b []byte, x, y blockRef) {
		copy(b[x.off:x.end()], whole[y.off:])
		copy(b[y.off:y.end()], whole[x.off:])
	}
	for i := range 3 {
		b := bytes.Clone(whole)
		swap(b, data[i], data[i+1])
		// With the checksums as they were, and with those of what is there now.
		for _, ref := range []segmentRef{ref, sealSegment(bytes.Clone(b))} {
			if ref.checksum != binary.LittleEndian.Uint32(b[len(b)-4:]) {
				sealSegment(b)
			}
			g := openBytes(t, b, ref, nil)
			wantDamage(t, g.check(t.Context()), data[i].off, data[i].off)
			_, err := collect(g, "")
			wantDamage(t, err, data[i].off, data[i].off)
			_, err = g.get(fmt.Sprintf("k%d", 2*i))
			wantDamage(t, err, data[i].off, data[i].off)
		}
	}
	// The same key twice, in a block.
	twice := bytes.Clone(whole)
	copy(twice[data[0].off+int64(len(recs[0])):], recs[0])
	g := openBytes(t, twice, sealSegment(twice), nil)
	second := data[0].off + int64(len(recs[0]))
	wantDamage(t, g.check(t.Context()), second, second)
	_, err := collect(g, "")
	wantDamage(t, err, second, second)
	// A record that belongs into the next block, where the index is right: no
	// lookup would find the next block's first.
	b := bytes.Clone(whole)
	last := data[1].off + int64(len(recs[0]))
	b[last+recHeaderSize+int64(len("raw"))] = 'z'
	ref = sealSegment(b)
	g = openBytes(t, b, ref, nil)
	wantDamage(t, g.check(t.Context()), data[2].off, data[2].off)
	_, err = collect(g, "")
	wantDamage(t, err, data[2].off, data[2].off)
}

// TestSegmentForeignBlock: a block of another segment, whose records are whole
// and have the same keys and lengths, does not pass for the right one. With
// CRC-32C as the checksum of blocks it would.
func TestSegmentForeignBlock(t *testing.T) {
	for _, perBlock := range []int{1, 3} {
		var one, other []rec
		for i := range 9 {
			k := fmt.Sprintf("k%d", i)
			one = append(one, encodeRec(k, "raw", []byte("old"), 1, 2, 3))
			other = append(other, encodeRec(k, "raw", []byte("new"), 4, 5, 6))
		}
		layout := segmentLayout{dataBlock: perBlock * len(one[0]), indexBlock: 60}
		b, _ := writeSegment(t, one, layout)
		whole, ref := writeSegment(t, other, layout)
		if len(b) != len(whole) {
			t.Fatal("two shapes")
		}
		for _, at := range allBlocks(t, openBytes(t, whole, ref, nil)) {
			mixed := bytes.Clone(whole)
			copy(mixed[at.off:at.end()], b[at.off:])
			wantDamage(t, openBytes(t, mixed, ref, nil).check(t.Context()), at.off, at.off)
		}
		mixed := bytes.Clone(whole)
		copy(mixed[ref.size-segmentFooterSize:], b[ref.size-segmentFooterSize:])
		wantDamage(t, openBytes(t, mixed, ref, nil).check(t.Context()), ref.size-segmentFooterSize, ref.size-segmentFooterSize)
	}
}

// TestSegmentRecordChecksum: a record that was damaged before the block's
// checksum was made. Only the check looks.
func TestSegmentRecordChecksum(t *testing.T) {
	recs, b, _ := damageSample(t)
	b[segmentHeaderSize+len(recs[0])-1] ^= 1
	bad := blockChecksum(b[segmentHeaderSize : segmentHeaderSize+len(recs[0])+len(recs[1])])
	blocks := allBlocks(t, openBytes(t, golden(t, "segment-v1.hex"), segmentRef{id: segID, size: int64(len(b)), checksum: binary.LittleEndian.Uint32(b[len(b)-4:])}, nil))
	first := blocks[0]
	if int(first.size) != len(recs[0])+len(recs[1]) {
		bad = blockChecksum(b[first.off:first.end()])
	}
	// All the way up, without sealSegment, which would put the record right.
	for _, at := range blocks[1:] {
		if at.height == 0 || at.low != segmentHeaderSize {
			continue
		}
		binary.LittleEndian.PutUint32(b[at.off+12:], bad)
		bad = blockChecksum(b[at.off:at.end()])
	}
	foot := b[len(b)-segmentFooterSize:]
	binary.LittleEndian.PutUint32(foot[12:], bad)
	binary.LittleEndian.PutUint32(foot[60:], checksum(foot[:60]))
	g := openBytes(t, b, segmentRef{id: segID, size: int64(len(b)), checksum: checksum(foot[:60])}, nil)
	if _, err := g.get("a/1"); err != nil {
		t.Fatal(err)
	}
	wantDamage(t, g.check(t.Context()), segmentHeaderSize, segmentHeaderSize)
}

// TestSegmentLengthsCostNothing: a length is checked before room is made for
// what it promises.
func TestSegmentLengthsCostNothing(t *testing.T) {
	_, whole, ref := damageSample(t)
	foot := len(whole) - segmentFooterSize
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, n := range []uint32{1 << 20, maxBlockSize, maxBlockSize + 1, 1<<32 - 1} {
		b := bytes.Clone(whole)
		binary.LittleEndian.PutUint32(b[foot+8:], n)
		binary.LittleEndian.PutUint64(b[foot:], uint64(foot)-uint64(n))
		wantDamage(t, openBytes(t, b, sealSegment(b), nil).check(t.Context()), 0, ref.size)
	}
	// A file that has so many bytes, and a block that claims more than any may have.
	path := filepath.Join(t.TempDir(), "segment")
	const size = 1 << 30
	head, end := bytes.Clone(whole[:segmentHeaderSize]), bytes.Clone(whole[foot:])
	binary.LittleEndian.PutUint32(end[8:], maxBlockSize+1)
	binary.LittleEndian.PutUint64(end, size-segmentFooterSize-maxBlockSize-1)
	binary.LittleEndian.PutUint32(end[60:], checksum(end[:60]))
	if err := errors.Join(os.WriteFile(path, head, 0o666), os.Truncate(path, size-segmentFooterSize)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(end)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	g, err := openSegment(vfs.OS{}, path, segStore, segmentRef{id: segID, size: size, checksum: checksum(end[:60])}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.release()
	if _, err := g.get("k"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a block of %d bytes: %v", maxBlockSize+1, err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

// TestSegmentScan begins a scan at every key, and between.
func TestSegmentScan(t *testing.T) {
	var recs []rec
	for i := range 100 {
		k := fmt.Sprintf("k%03d", 2*i)
		recs = append(recs, encodeRec(k, "raw", make([]byte, i%7), 1, 2, 3))
	}
	for _, layout := range []segmentLayout{{}, {dataBlock: 1, indexBlock: 1}, {dataBlock: 120, indexBlock: 60}} {
		b, ref := writeSegment(t, recs, layout)
		g := openBytes(t, b, ref, newBlockCache(1<<20))
		for i := range 202 {
			from, want := fmt.Sprintf("k%03d", i), recs[min((i+1)/2, 100):]
			got, err := collect(g, from)
			if err != nil || !sameRecs(got, want) {
				t.Fatalf("layout %+v, from %s: %d records, %v; want %d", layout, from, len(got), err, len(want))
			}
		}
		for from, want := range map[string]int{"": 100, "a": 100, "k": 100, "k000\x00": 99, "k198\x00": 0, "z": 0} {
			sc := g.scan(span{from: from})
			n := 0
			for r, err := sc.next(); r != nil || err != nil; r, err = sc.next() {
				n++
			}
			if r, err := sc.next(); n != want || r != nil || err != nil { // at the end it stays at the end
				t.Errorf("layout %+v, from %q: %d records, then %x, %v; want %d", layout, from, n, r, err, want)
			}
		}
		for i := range 202 {
			k := fmt.Sprintf("k%03d", i)
			if r, err := g.get(k); err != nil || (r != nil) != (i%2 == 0 && i < 200) {
				t.Errorf("layout %+v: %s is %x, %v", layout, k, r, err)
			}
		}
	}
}

// TestSegmentScanEnd: a scan reads no block that begins behind its end: it may hold a large
// value.
func TestSegmentScanEnd(t *testing.T) {
	recs := []rec{
		encodeRec("a/1", "raw", nil, 1, 2, 0),
		encodeRec("a/2", "raw", nil, 1, 2, 0),
		encodeRec("b", "raw", make([]byte, 1000), 1, 2, 0),
		encodeRec("c", "raw", make([]byte, 1000), 1, 2, 0),
	}
	for _, layout := range []segmentLayout{{dataBlock: 100}, {dataBlock: 1, indexBlock: 1}} {
		b, ref := writeSegment(t, recs, layout)
		reads := 0
		g := openCounting(t, b, ref, &reads)
		sc := g.scan(prefixSpan("a/"))
		n := 0
		for r, err := sc.next(); r != nil || err != nil; r, err = sc.next() {
			if n++; err != nil || n > 2 {
				t.Fatalf("layout %+v: record %d is %x, %v", layout, n, r, err)
			}
		}
		if all := 2 + len(allBlocks(t, openBytes(t, b, ref, nil))); n != 2 || reads > all-2 {
			t.Errorf("layout %+v: %d records with %d reads, of %d for all", layout, n, reads, all)
		}
	}
}

// TestSegmentCaching: a scan leaves index blocks in the cache and no data
// blocks; a lookup leaves all, and then needs neither memory nor the file.
func TestSegmentCaching(t *testing.T) {
	recs, b, ref := damageSample(t)
	reads := 0
	g := openCounting(t, b, ref, &reads)
	if reads != 0 {
		t.Errorf("opening reads %d times", reads)
	}
	blocks := allBlocks(t, openBytes(t, b, ref, nil))
	if _, err := collect(g, ""); err != nil {
		t.Fatal(err)
	}
	if want := 2 + len(blocks); reads != want {
		t.Errorf("a scan reads %d times, want %d: header, footer, and each block once", reads, want)
	}
	root := blocks[len(blocks)-1]
	for _, at := range blocks {
		if got := g.keeps(at); got != (at.height > 0 && at != root) {
			t.Errorf("after a scan: block %+v is in the cache: %v", at, got)
		}
	}
	for _, r := range recs {
		g.get(string(r.key()))
	}
	before := reads
	if n := testing.AllocsPerRun(100, func() {
		for _, k := range []string{"a/1", "c", "e", "", "bb", "zz"} {
			if _, err := g.get(k); err != nil {
				t.Error(err)
			}
		}
	}); n != 0 {
		t.Errorf("lookups in the cache allocate %v times", n)
	}
	if reads != before {
		t.Errorf("lookups in the cache read %d times", reads-before)
	}
	if err := g.check(t.Context()); err != nil || reads != before+2+len(blocks) {
		t.Errorf("the check reads %d times, %v; want %d", reads-before, err, 2+len(blocks))
	}
}

func TestSegmentOpen(t *testing.T) {
	_, b, ref := damageSample(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "segment")
	if _, err := openSegment(vfs.OS{}, path, segStore, ref, nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: got %v, want fs.ErrNotExist", err)
	}
	if err := os.Mkdir(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openSegment(vfs.OS{}, path, segStore, ref, nil); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a directory: got %v, want ErrCorrupt", err)
	}
	os.Remove(path)
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	g, err := openSegment(vfs.OS{}, path, segStore, ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	// An open segment is there after its name is gone, until its last holder goes.
	if !g.acquire() {
		t.Error("an open segment cannot be acquired")
	}
	os.Remove(path)
	g.release()
	if r, err := g.get("c"); err != nil || string(r.key()) != "c" {
		t.Errorf("c is %x, %v", r, err)
	}
	g.release()
	if g.acquire() {
		t.Error("a closed segment can be acquired")
	}
	if err := g.check(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("check of a closed file: %v", err)
	}
	// A file that becomes shorter under us.
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	if g, err = openSegment(vfs.OS{}, path, segStore, ref, nil); err != nil {
		t.Fatal(err)
	}
	defer g.release()
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := g.get("c"); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that became shorter: %v", err)
	}
}

// TestSegmentReadErrors: each read fails once, with an error that callers look
// for. It is passed on, and is not remembered.
func TestSegmentReadErrors(t *testing.T) {
	recs, b, ref := damageSample(t)
	for n := range 100 {
		d := faultfs.NewDisk()
		d.Mkdir("/d", 0o777)
		if err := d.WriteFile(segmentPath, b); err != nil {
			t.Fatal(err)
		}
		left, failed := n, false
		g, err := openSegment(&faultfs.Hooked{FS: d, Before: func(op faultfs.Op) error {
			if left--; op.Kind == faultfs.OpRead && left == -2 { // -1: to open
				failed = true
				return syscall.ESTALE
			}
			return nil
		}}, segmentPath, segStore, ref, newBlockCache(1<<20))
		if err != nil {
			t.Fatal(err)
		}
		left = n - 1
		var got []rec
		errs := 0
		for sc := g.scan(span{}); ; {
			r, err := sc.next()
			if err != nil {
				if errs++; !errors.Is(err, syscall.ESTALE) || !strings.Contains(err.Error(), segmentPath) || errors.Is(err, ErrCorrupt) {
					t.Fatalf("read %d: %v", n, err)
				}
				continue // the same once more
			}
			if r == nil {
				break
			}
			got = append(got, r)
		}
		if !sameRecs(got, recs) {
			t.Errorf("read %d fails: %d records, want %d", n, len(got), len(recs))
		}
		if !failed {
			if n < 5 {
				t.Errorf("%d reads only", n)
			}
			return
		}
		if errs != 1 {
			t.Errorf("read %d fails: %d errors", n, errs)
		}
	}
}

// TestSegmentWriterRefuses: what would not make a segment is not written.
func TestSegmentWriterRefuses(t *testing.T) {
	good := encodeRec("k", "raw", []byte("v"), 1, 2, 3)
	damaged := bytes.Clone(good)
	damaged[len(damaged)-5] ^= 1
	for name, recs := range map[string][]rec{
		"nothing":              nil,
		"twice the same":       {good, good},
		"descending":           {good, encodeRec("j", "raw", nil, 1, 2, 3)},
		"damaged":              {damaged},
		"no record":            {{}},
		"bytes after a record": {binary.LittleEndian.AppendUint32(bytes.Clone(good), checksum(good))},
		"two records in one":   {append(bytes.Clone(good), encodeRec("l", "raw", nil, 1, 2, 3)...)},
	} {
		d := faultfs.NewDisk()
		d.Mkdir("/d", 0o777)
		f, err := d.CreateTemp("/d", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		w := newSegmentWriter(f, segStore, segID, segmentLayout{})
		for _, r := range recs {
			err = w.add(r)
		}
		if (err == nil) != (recs == nil) || err != nil && !strings.Contains(err.Error(), f.Name()) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := w.add(encodeRec("z", "raw", nil, 1, 2, 3)); recs != nil && err == nil {
			t.Errorf("%s: the next is taken", name)
		}
		if _, err := w.finish(); recs != nil && err == nil {
			t.Errorf("%s: finished", name)
		}
	}
	d := faultfs.NewDisk()
	d.Mkdir("/d", 0o777)
	f, _ := d.CreateTemp("/d", 0o600)
	if _, err := newSegmentWriter(f, segStore, segID, segmentLayout{}).finish(); !errors.Is(err, errEmptySegment) {
		t.Errorf("an empty one: got %v", err)
	}
	w := newSegmentWriter(f, segStore, segID, segmentLayout{})
	w.add(good)
	if _, err := w.finish(); err != nil {
		t.Fatal(err)
	}
	if err := w.add(encodeRec("l", "raw", nil, 1, 2, 3)); err == nil {
		t.Error("a finished segment takes another record")
	}
}

// TestSegmentWriteErrors: each write and each flush fails in turn. A segment
// is not finished then, whatever succeeds later; and nothing that is not
// flushed is ever finished.
func TestSegmentWriteErrors(t *testing.T) {
	recs := randomRecs(rand.New(rand.NewPCG(5, 6)), 300, 20, 3000)
	for n := 0; ; n++ {
		d := faultfs.NewDisk()
		d.Mkdir("/d", 0o777)
		left, dirty, syncs := n, 0, 0
		fsys := &faultfs.Hooked{FS: d, Before: func(op faultfs.Op) error {
			switch op.Kind {
			case faultfs.OpWrite:
				dirty++
			case faultfs.OpSync:
				syncs, dirty = syncs+1, 0
			}
			if left--; left == -2 { // -1: to create
				return syscall.EIO
			}
			return nil
		}}
		f, err := fsys.CreateTemp("/d", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		left = n - 1
		w := newSegmentWriter(f, segStore, segID, segmentLayout{flushEvery: 100_000})
		for _, r := range recs {
			if err = w.add(r); err != nil {
				break
			}
		}
		ref, last := w.finish()
		if left >= -1 { // nothing failed
			if err != nil || last != nil || dirty != 0 || int64(syncs) != ref.size/100_000+1 {
				t.Errorf("got %v, %v; %d writes after the last of %d flushes of %d bytes", err, last, dirty, syncs, ref.size)
			}
			if n < 8 {
				t.Errorf("only %d operations", n)
			}
			return
		}
		if !errors.Is(last, syscall.EIO) || !strings.Contains(last.Error(), f.Name()) {
			t.Errorf("operation %d: finish gives %v, want EIO", n, last)
		}
	}
}

// TestSegmentConcurrent: many goroutines read through one small cache while
// the segment is acquired and released. Run with -race.
func TestSegmentConcurrent(t *testing.T) {
	recs := randomRecs(rand.New(rand.NewPCG(7, 8)), 1000, 20, 100)
	b, ref := writeSegment(t, recs, segmentLayout{dataBlock: 300, indexBlock: 200})
	g := openBytes(t, b, ref, newBlockCache(20<<10))
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 9))
			for range 300 {
				if !g.acquire() {
					t.Error("the segment is closed")
					return
				}
				r := recs[rnd.IntN(len(recs))]
				if got, err := g.get(string(r.key())); err != nil || !bytes.Equal(got, r) {
					t.Errorf("%q: %x, %v", r.key(), got, err)
				}
				g.release()
			}
			if got, err := collect(g, ""); err != nil || !sameRecs(got, recs) {
				t.Errorf("scan: %d records, %v", len(got), err)
			}
			if err := g.check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestSegmentName(t *testing.T) {
	const hex = "22222222222222222222222222222222"
	for _, tc := range []struct {
		name string
		seq  uint64
		ok   bool
	}{
		{"segment.0000000000000001." + hex, 1, true},
		{"segment.9999999999999999." + hex, 9999999999999999, true},
		{"segment.0000000000000000." + hex, 0, false},
		{"segment.1." + hex, 0, false},
		{"segment.00000000000000001." + hex, 0, false},
		{"segment.+000000000000001." + hex, 0, false},
		{"segment.000000000000000a." + hex, 0, false},
		{"segment.0000000000000001", 0, false},
		{"segment.0000000000000001.", 0, false},
		{"segment.0000000000000001." + hex[1:], 0, false},
		{"segment.0000000000000001." + hex + "2", 0, false},
		{"segment.0000000000000001." + hex[1:] + "A", 0, false},
		{"segment.0000000000000001." + hex[1:] + "g", 0, false},
		{"segment.0000000000000001." + hex + ".bak", 0, false},
		{"segment.0000000000000001-" + hex, 0, false},
		{"manifest.0000000000000001." + hex, 0, false},
		{"segment.", 0, false},
		{"", 0, false},
	} {
		seq, id, ok := parseSegmentName(tc.name)
		if ok != tc.ok || ok && (seq != tc.seq || id != segID) {
			t.Errorf("parseSegmentName(%q) = %d, %s, %v; want %d, %v", tc.name, seq, id, ok, tc.seq, tc.ok)
		}
		if got := (segmentRef{seq: seq, id: id}).name(); ok && got != tc.name {
			t.Errorf("name() = %q, want %q", got, tc.name)
		}
	}
}

// FuzzSegment: no bytes make the reader panic, or read more than there is; and
// what passes the check is a segment in every other way too. As hardly any
// bytes have the right checksums, they are tried again with these put right.
func FuzzSegment(f *testing.F) {
	for _, name := range []string{"segment-v1.hex", "segment-v2.hex", "segment-newer-flag.hex"} {
		f.Add(golden(f, name))
	}
	b, _ := writeSegment(f, []rec{encodeTombstone("k", 1, 2)}, segmentLayout{})
	f.Add(b)
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, seal := range []bool{false, true} {
			b := bytes.Clone(b)
			ref := segmentRef{size: int64(len(b)), id: segID}
			if seal {
				if len(b) >= segmentHeaderSize {
					copy(b[16:], segStore[:])
					copy(b[32:], segID[:])
				}
				ref = sealSegment(b)
			} else if len(b) >= 4 {
				ref.checksum = binary.LittleEndian.Uint32(b[len(b)-4:])
			}
			g, err := tryOpenBytes(t, b, ref, newBlockCache(1<<20))
			if err != nil {
				wantDamage(t, err, 0, int64(len(b)))
				continue
			}
			fuzzSegment(t, g)
		}
	})
}

func fuzzSegment(t *testing.T, g *segment) {
	bad := func(err error) bool {
		return err != nil && (!errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerVersion) || !strings.Contains(err.Error(), segmentPath))
	}
	whole := g.check(t.Context())
	recs, err := collect(g, "")
	if bad(whole) || bad(err) || whole == nil && err != nil {
		t.Fatalf("check %v, scan %v", whole, err)
	}
	for _, r := range recs {
		_ = r.record("")
		got, err := g.get(string(r.key()))
		if bad(err) || whole == nil && (err != nil || !bytes.Equal(got, r)) {
			t.Fatalf("%q: %x, %v; the scan has %x", r.key(), got, err, r)
		}
	}
	if whole != nil {
		return
	}
	info, err := g.info()
	if n := info.records + info.tombstones; err != nil || n != uint64(len(recs)) || n == 0 {
		t.Fatalf("info %+v, %v; the scan has %d records", info, err, len(recs))
	}
	b, ref := writeSegment(t, recs, segmentLayout{})
	if got, err := collect(openBytes(t, b, ref, nil), ""); err != nil || !sameRecs(got, recs) {
		t.Fatalf("written again: %d records, %v; want %d", len(got), err, len(recs))
	}
}

// counting counts the bytes that are read.
type counting struct {
	vfs.File
	read *int64
}

func (c counting) ReadAt(p []byte, off int64) (int, error) {
	*c.read += int64(len(p))
	return c.File.ReadAt(p, off)
}

// Who looks for a key beside a large record does not read that record, and does
// not keep it in memory.
func TestSegmentLargeRecord(t *testing.T) {
	const size = 1 << 20
	large := encodeRec("m", "raw", make([]byte, size), 1, 2, 0)
	for name, recs := range map[string][]rec{
		"alone":        {large},
		"among others": {encodeRec("a", "raw", nil, 1, 2, 0), large, encodeRec("z", "raw", nil, 1, 2, 0)},
		"at the end":   {encodeRec("a", "raw", nil, 1, 2, 0), large},
	} {
		for _, cache := range []*blockCache{nil, newBlockCache(size)} {
			t.Run(fmt.Sprintf("%s, cache: %v", name, cache != nil), func(t *testing.T) {
				b, ref := writeSegment(t, recs, segmentLayout{})
				g := openBytes(t, b, ref, cache)
				read := int64(0)
				g.file = counting{g.file, &read}
				for _, key := range []string{"0", "mm", "n", "zz"} {
					if r, err := g.get(key); r != nil || err != nil {
						t.Errorf("%s: %v, %v; want that it is not there", key, r, err)
					}
				}
				if read > 16<<10 {
					t.Errorf("%d bytes were read to find four keys that are not there", read)
				}
				if top := g.top.Load(); top.root.cost() > 4<<10 {
					t.Errorf("the root takes %d bytes of memory", top.root.cost())
				}
				for _, r := range recs {
					if got, err := g.get(string(r.key())); err != nil || !bytes.Equal(got, r) {
						t.Errorf("%s: %d bytes, %v; want its record", r.key(), len(got), err)
					}
				}
				if err := g.check(t.Context()); err != nil {
					t.Error(err)
				}
				checkSegment(t, b, ref, recs)

				// What is returned was verified, and damage to a size is no "not found".
				at := bytes.Index(b, large)
				for _, off := range []int{1, 2, 4, recHeaderSize + size/2} {
					bad := bytes.Clone(b)
					bad[at+off] ^= 0x10
					for _, key := range []string{"m", "mm"} {
						_, err := openBytes(t, bad, ref, cache).get(key)
						if off >= recHeaderSize && key == "mm" {
							continue // that byte is not looked at
						}
						if !errors.Is(err, ErrCorrupt) {
							t.Errorf("byte %d of the record damaged: %s: %v, want %v", off, key, err, ErrCorrupt)
						}
					}
				}
			})
		}
	}
}

// A large block of another writer may have several records: what comes after the
// first is found.
func TestSegmentLargeBlock(t *testing.T) {
	var recs []rec
	for i := range 40 {
		recs = append(recs, encodeRec(fmt.Sprintf("k%02d", i), "raw", make([]byte, 1000), 1, 2, 0))
	}
	b, ref := writeSegment(t, recs, segmentLayout{dataBlock: 16 << 10})
	g := openBytes(t, b, ref, nil)
	for _, r := range recs {
		if got, err := g.get(string(r.key())); err != nil || !bytes.Equal(got, r) {
			t.Errorf("%s: %d bytes, %v; want its record", r.key(), len(got), err)
		}
	}
}
