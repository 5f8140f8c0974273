package store

import (
	"bufio"
	"errors"
	"fmt"

	"github.com/recordstore/recordstore/internal/vfs"
)

// segmentLayout says how a segment is written, in bytes; 0: the default. A
// reader need not know it.
type segmentLayout struct {
	// dataBlock and indexBlock are how long blocks become, if they can: a
	// record is never divided, and an index block has two entries at least.
	dataBlock, indexBlock int
	// flushEvery is how much is written between two flushes of the file. A
	// file system's journal makes others wait for what a file has not yet
	// brought to disk: the commits of the store, while a merge writes.
	flushEvery int64
}

const (
	defaultDataBlock  = 4 << 10
	defaultIndexBlock = 4 << 10
	defaultFlushEvery = 1 << 20
	segmentBuffer     = 256 << 10
)

func (l segmentLayout) orDefault() segmentLayout {
	if l.dataBlock <= 0 {
		l.dataBlock = defaultDataBlock
	}
	if l.indexBlock <= 0 {
		l.indexBlock = defaultIndexBlock
	}
	if l.flushEvery <= 0 {
		l.flushEvery = defaultFlushEvery
	}
	l.dataBlock, l.indexBlock = min(l.dataBlock, maxBlockSize), min(l.indexBlock, maxBlockSize)
	return l
}

// errEmptySegment is reported when a segment would have no record: whoever has
// nothing to write names no segment.
var errEmptySegment = errors.New("segment without records")

// A segmentWriter writes a segment to a file from its beginning to its end,
// and keeps one unfinished block of each level in memory. The file is the
// caller's: to name, and to close. A process that dies leaves a piece of a
// segment behind, which no manifest names.
type segmentWriter struct {
	file    vfs.File
	out     *bufio.Writer
	id      ID
	layout  segmentLayout
	head    uint32 // checksum of the header
	off     int64  // where the next block begins
	info    segmentInfo
	last    []byte // key of the last record
	pending []*pendingBlock
	err     error // the first; nothing can be written after it
}

// A pendingBlock is a block that is not written yet, of one level of the tree.
type pendingBlock struct {
	data  []byte
	count int    // of its records or entries
	first []byte // the lowest key in it or below it
	low   int64  // where the blocks below it begin
}

func newSegmentWriter(f vfs.File, store, id ID, layout segmentLayout) *segmentWriter {
	w := &segmentWriter{
		file:    f,
		id:      id,
		layout:  layout.orDefault(),
		pending: []*pendingBlock{{}},
	}
	w.out = bufio.NewWriterSize(&flushingFile{File: f, every: w.layout.flushEvery}, segmentBuffer)
	head := encodeSegmentHeader(store, id)
	w.head = checksum(head)
	w.write(head)
	return w
}

// write appends b to the file. Its error stays in w.err.
func (w *segmentWriter) write(b []byte) {
	if w.err == nil {
		_, w.err = w.out.Write(b)
	}
	w.off += int64(len(b))
}

// add appends a record or tombstone. Its key must be above all before it.
func (w *segmentWriter) add(r rec) error {
	if w.err != nil {
		return w.err
	}
	// A block's checksum would make a damaged record look whole.
	cut, reason := cutRec(r)
	switch {
	case reason == "" && len(cut) != len(r):
		reason = "bytes after the record"
	case reason == "" && !r.intact():
		reason = "wrong checksum"
	case reason == "" && w.last != nil && string(w.last) >= string(r.key()):
		reason = fmt.Sprintf("it does not come after %q", w.last)
	}
	if reason != "" {
		w.err = fmt.Errorf("write %s: record %q: %s", w.file.Name(), keyOf(cut), reason)
		return w.err
	}
	b := w.pending[0]
	if b.count > 0 && len(b.data)+len(r) > w.layout.dataBlock {
		w.flush(0)
	}
	if b.count == 0 {
		w.begin(0, r.key())
	}
	b.data = append(b.data, r...)
	b.count++
	w.last = append(w.last[:0], r.key()...)
	if r.tombstone() {
		w.info.tombstones++
	} else {
		w.info.records++
	}
	return w.err
}

// keyOf returns the key of what may be no record.
func keyOf(r rec) []byte {
	if r == nil {
		return nil
	}
	return r.key()
}

// begin starts the block of a level whose lowest key will be key. That it has
// room in the block above is seen to now: were the one above found to be full
// when this one is finished, it would have to be written after blocks that are
// not below it.
func (w *segmentWriter) begin(level int, key []byte) {
	b := w.pending[level]
	b.first = append(b.first[:0], key...)
	b.low = w.off
	if level+1 == len(w.pending) {
		return // the block above will be new
	}
	above := w.pending[level+1]
	if above.count >= 2 && len(above.data)+entryHeaderSize+len(key) > w.layout.indexBlock {
		w.flush(level + 1)
	}
	if above.count == 0 {
		w.begin(level+1, key)
	}
}

// flush writes the block of a level and enters it in the one above.
func (w *segmentWriter) flush(level int) {
	b := w.pending[level]
	if level+1 == len(w.pending) {
		w.pending = append(w.pending, &pendingBlock{first: append([]byte(nil), b.first...), low: b.low})
	}
	above := w.pending[level+1]
	above.data = appendEntry(above.data, w.writeBlock(level), b.first)
	above.count++
	b.data, b.count = b.data[:0], 0
	if cap(b.data) > segmentBuffer {
		b.data = nil // a large record came by
	}
}

// writeBlock writes the block of a level.
func (w *segmentWriter) writeBlock(level int) blockRef {
	b := w.pending[level]
	at := blockRef{off: w.off, size: uint32(len(b.data)), checksum: blockChecksum(b.data), low: b.low, height: level}
	if level == 0 {
		w.info.dataBytes += int64(len(b.data))
	}
	w.write(b.data)
	return at
}

// finish writes what is left, and flushes the file. The ref's sequence is the
// caller's to set.
func (w *segmentWriter) finish() (segmentRef, error) {
	if w.last == nil && w.err == nil {
		w.err = errEmptySegment
	}
	if w.err != nil {
		return segmentRef{}, w.err
	}
	w.info.height = len(w.pending) - 1
	if w.info.height == 0 && len(w.pending[0].data) > w.layout.dataBlock {
		w.info.height = 1 // a root stays in memory, and every lookup begins with it
	}
	for level := range w.info.height {
		w.flush(level)
	}
	foot := encodeSegmentFooter(w.writeBlock(w.info.height), w.head, w.info)
	w.write(foot)
	if w.err == nil {
		w.err = w.out.Flush()
	}
	if w.err == nil {
		w.err = w.file.Sync()
	}
	if w.err != nil {
		return segmentRef{}, w.err
	}
	w.err = errors.New("segment is finished")
	return segmentRef{id: w.id, size: w.off, checksum: checksum(foot[:60])}, nil
}

// A flushingFile flushes a file as it is written.
type flushingFile struct {
	vfs.File
	every, since int64
}

// Write implements [io.Writer].
func (f *flushingFile) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		m, err := f.File.Write(p[:min(int64(len(p)), f.every-f.since)])
		n += m
		f.since += int64(m)
		p = p[m:]
		if err == nil && f.since >= f.every {
			f.since = 0
			err = f.Sync()
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
