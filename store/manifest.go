package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recordstore/recordstore/internal/boot"
	"github.com/recordstore/recordstore/internal/crc32c"
)

// The format of a manifest. docs/FORMAT.md has the same tables with a worked
// example. All integers are little-endian; all checksums are CRC-32C, but for the
// last one, which is CRC-32 (IEEE).
//
//	Offset  Size  Field
//	     0     8  magic
//	     8     2  format version
//	    10     2  flags; bit 0: the store has been used through a network file system
//	                     bit 1: published by recovery after a restart; adds no revision
//	    12     4  checksum of bytes 0 to 12: the prologue, the same in every version
//	    16     8  length of the file
//	    24     8  sequence, which must be the name's
//	    32    16  id of the store
//	    48    16  id of this commit
//	    64    16  boot id of the publishing machine; zero: not known
//	    80     8  time of the commit, nanoseconds since 1970 UTC
//	    88     8  first revision that this commit adds
//	    96     8  last revision; the one before the first if it adds none
//	   104     4  number of ancestors, at most 64
//	   108     4  number of segments, at most 128
//	   112     4  number of records in the journal
//	   116     4  checksum of bytes 0 to 116 and of the two tables
//	   120    24  for each ancestor, parent first: sequence (8), commit id (16)
//	          40  for each segment, newest first: sequence (8), id (16), length (8), checksum (4), 0 (4)
//	              the journal: records in ascending order of their keys
//	 end-4     4  checksum of everything before it
//
// A record:
//
//	 0     1  flags; bit 0: a tombstone, there is no record with the key
//	 1     1  length of the codec's name; 0 in a tombstone, and only there
//	 2     2  length of the key
//	 4     4  length of the value
//	 8     8  revision
//	16     8  time of the write, nanoseconds since 1970 UTC
//	24     8  expiry, the same; 0: never
//	32        the codec's name, the key, the value
//	       4  checksum of the record before it
//
// The checksum at the end decides whether the file is whole. Those of the
// header and of the records repeat it in parts, so that damage can be placed.
// It is of another kind than theirs because the CRC-32C of any bytes with their
// own CRC-32C behind them is always the same: over whole records it would
// depend on nothing but their lengths.
//
// Version 1 is the same with a CRC-32C at the end, without segments and
// without tombstones.
const (
	manifestMagic   = "\x93RECMAN\n"
	formatVersion   = 2
	flagNetwork     = 1 << 0
	flagRecovery    = 1 << 1
	knownFlags      = flagNetwork | flagRecovery
	prologueSize    = 16
	headerSize      = 120
	ancestorSize    = 24
	segmentRefSize  = 40
	recHeaderSize   = 32
	checksumSize    = 4
	flagTombstone   = 1 << 0
	maxAncestors    = 64
	maxSegments     = 128
	maxManifestSize = 1 << 36 // bytes; more is damage, not data
)

func checksum(b []byte) uint32 { return crc32c.Checksum(b) }

// fileChecksum is the checksum of a manifest of that version before its end.
func fileChecksum(version uint16, b []byte) uint32 {
	if version < 2 {
		return checksum(b)
	}
	return crc32.ChecksumIEEE(b)
}

const manifestPrefix = "manifest."

// manifestName returns the name of the manifest with the sequence.
func manifestName(seq uint64) string { return fmt.Sprintf("%s%016d", manifestPrefix, seq) }

// parseManifestName is strict: what manifestName does not print is not the
// name of a manifest.
func parseManifestName(name string) (seq uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, manifestPrefix)
	if !ok || len(digits) != 16 || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, err == nil && seq > 0
}

// An ancestor is a commit that a manifest contains.
type ancestor struct {
	seq    uint64
	commit ID
}

// A header is a manifest without its journal.
type header struct {
	network   bool
	recovery  bool
	seq       uint64
	store     ID
	commit    ID
	boot      boot.ID
	time      int64 // nanoseconds since 1970 UTC
	firstRev  Revision
	lastRev   Revision
	ancestors []ancestor   // parent first
	segments  []segmentRef // newest first
}

// self returns the commit as an ancestor of those to come.
func (h *header) self() ancestor { return ancestor{h.seq, h.commit} }

// names tells whether h names the segment.
func (h *header) names(segment ID) bool {
	return slices.ContainsFunc(h.segments, func(g segmentRef) bool { return g.id == segment })
}

// lineage says what h tells about a commit's place in its history.
type lineage int

const (
	lineageUnknown lineage = iota // h's ancestors do not reach back so far
	lineageYes                    // h is the commit or contains it
	lineageNo                     // h does not contain it
)

// contains tells whether a is h itself or among its ancestors.
func (h *header) contains(a ancestor) lineage {
	if h.seq <= a.seq {
		if h.self() == a {
			return lineageYes
		}
		return lineageNo
	}
	for _, b := range h.ancestors {
		if b == a {
			return lineageYes
		}
		if b.seq <= a.seq {
			return lineageNo // another in its place, or none
		}
	}
	if len(h.ancestors) < maxAncestors {
		return lineageNo // they reach back to the store's creation
	}
	return lineageUnknown
}

// nextAncestors returns the ancestors of h's child.
func (h *header) nextAncestors() []ancestor {
	n := min(len(h.ancestors), maxAncestors-1)
	return append([]ancestor{h.self()}, h.ancestors[:n]...)
}

// A rec is an encoded record or tombstone, checksum included.
type rec []byte

// tombstone tells whether r says that there is no record with its key,
// whatever older segments hold.
func (r rec) tombstone() bool { return r[0]&flagTombstone != 0 }

func (r rec) sizes() (name, key, value int) {
	return int(r[1]), int(binary.LittleEndian.Uint16(r[2:])), int(binary.LittleEndian.Uint32(r[4:]))
}

func (r rec) revision() Revision { return Revision(binary.LittleEndian.Uint64(r[8:])) }
func (r rec) expires() int64     { return int64(binary.LittleEndian.Uint64(r[24:])) }
func (r rec) codec() []byte      { return r[recHeaderSize : recHeaderSize+int(r[1])] }

func (r rec) key() []byte {
	n, k, _ := r.sizes()
	return r[recHeaderSize+n : recHeaderSize+n+k]
}

func (r rec) value() []byte {
	n, k, v := r.sizes()
	start := recHeaderSize + n + k
	return r[start : start+v : start+v]
}

// expired tells whether the record is expired at now, in nanoseconds.
func (r rec) expired(now int64) bool {
	e := r.expires()
	return e != 0 && e <= now
}

// record decodes r. The key is passed in if the caller has it as a string.
func (r rec) record(key string) Record {
	if key == "" {
		key = string(r.key())
	}
	out := Record{
		Key:      key,
		Value:    r.value(),
		Codec:    codecName(r.codec()),
		Revision: r.revision(),
		Time:     time.Unix(0, int64(binary.LittleEndian.Uint64(r[16:]))).UTC(),
	}
	if e := r.expires(); e != 0 {
		out.Expires = time.Unix(0, e).UTC()
	}
	return out
}

// codecName is string(b) without an allocation for the usual names.
func codecName(b []byte) string {
	switch string(b) {
	case "msgpack":
		return "msgpack"
	case "json":
		return "json"
	case "raw":
		return "raw"
	}
	return string(b)
}

// encodeRec encodes a record.
func encodeRec(key, codec string, value []byte, rev Revision, now, expires int64) rec {
	n := recHeaderSize + len(codec) + len(key) + len(value)
	b := make([]byte, 8, n+checksumSize)
	b[1] = byte(len(codec))
	binary.LittleEndian.PutUint16(b[2:], uint16(len(key)))
	binary.LittleEndian.PutUint32(b[4:], uint32(len(value)))
	b = binary.LittleEndian.AppendUint64(b, uint64(rev))
	b = binary.LittleEndian.AppendUint64(b, uint64(now))
	b = binary.LittleEndian.AppendUint64(b, uint64(expires))
	b = append(b, codec...)
	b = append(b, key...)
	b = append(b, value...)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

// encodeTombstone encodes that there is no record with the key.
func encodeTombstone(key string, rev Revision, now int64) rec {
	r := encodeRec(key, "", nil, rev, now, 0)
	r[0] = flagTombstone
	body := r[:len(r)-checksumSize]
	return binary.LittleEndian.AppendUint32(body, checksum(body))
}

// encodeManifest encodes a manifest whose journal is recs.
func encodeManifest(h *header, recs []rec) []byte {
	size := headerSize + len(h.ancestors)*ancestorSize + len(h.segments)*segmentRefSize + checksumSize
	for _, r := range recs {
		size += len(r)
	}
	b := make([]byte, 0, size)
	b = append(b, manifestMagic...)
	b = binary.LittleEndian.AppendUint16(b, formatVersion)
	var flags uint16
	if h.network {
		flags |= flagNetwork
	}
	if h.recovery {
		flags |= flagRecovery
	}
	b = binary.LittleEndian.AppendUint16(b, flags)
	b = binary.LittleEndian.AppendUint32(b, checksum(b))
	b = binary.LittleEndian.AppendUint64(b, uint64(size))
	b = binary.LittleEndian.AppendUint64(b, h.seq)
	b = append(b, h.store[:]...)
	b = append(b, h.commit[:]...)
	b = append(b, h.boot[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.time))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.firstRev))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.lastRev))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h.ancestors)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h.segments)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(recs)))
	b = binary.LittleEndian.AppendUint32(b, 0) // checksum, below
	for _, a := range h.ancestors {
		b = binary.LittleEndian.AppendUint64(b, a.seq)
		b = append(b, a.commit[:]...)
	}
	for _, g := range h.segments {
		b = binary.LittleEndian.AppendUint64(b, g.seq)
		b = append(b, g.id[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(g.size))
		b = binary.LittleEndian.AppendUint32(b, g.checksum)
		b = binary.LittleEndian.AppendUint32(b, 0)
	}
	binary.LittleEndian.PutUint32(b[116:], headerChecksum(b))
	for _, r := range recs {
		b = append(b, r...)
	}
	return binary.LittleEndian.AppendUint32(b, fileChecksum(formatVersion, b))
}

// headerChecksum is that of the header and the tables, which are all of b.
func headerChecksum(b []byte) uint32 {
	return crc32c.Update(checksum(b[:116]), b[headerSize:])
}

// checkPrologue checks magic and version, in this order.
func checkPrologue(path string, b []byte) error {
	switch {
	case len(b) < prologueSize:
		return &CorruptError{path, int64(len(b)), "the file ends within the header"}
	case string(b[:8]) != manifestMagic:
		return &CorruptError{path, 0, "not a manifest (wrong magic number)"}
	case binary.LittleEndian.Uint32(b[12:]) != checksum(b[:12]):
		return &CorruptError{path, 8, "wrong checksum of version and flags"}
	}
	version, flags := binary.LittleEndian.Uint16(b[8:]), binary.LittleEndian.Uint16(b[10:])
	switch {
	case version > formatVersion:
		return fmt.Errorf("%s: %w: version %d, this program knows up to %d; use a newer program",
			path, ErrNewerVersion, version, formatVersion)
	case version == 0:
		return &CorruptError{path, 8, "format version 0"}
	case flags&^knownFlags != 0:
		return fmt.Errorf("%s: %w: unknown flags %#x; use a newer program", path, ErrNewerVersion, flags)
	}
	return nil
}

// manifestLength returns the length that the header at the beginning of b
// states for the whole file.
func manifestLength(path string, b []byte) (int64, error) {
	if err := checkPrologue(path, b); err != nil {
		return 0, err
	}
	if len(b) < headerSize {
		return 0, &CorruptError{path, int64(len(b)), "the file ends within the header"}
	}
	n := binary.LittleEndian.Uint64(b[16:])
	if n < headerSize+checksumSize || n > maxManifestSize {
		return 0, &CorruptError{path, 16, "impossible length in the header"}
	}
	return int64(n), nil
}

// decodeManifest decodes a whole manifest. The records share b.
func decodeManifest(path string, b []byte) (header, []rec, error) {
	n, err := manifestLength(path, b)
	switch {
	case err != nil:
		return header{}, nil, err
	case int64(len(b)) != n:
		return header{}, nil, &CorruptError{path, min(int64(len(b)), n), fmt.Sprintf("the file has %d bytes, its header says %d", len(b), n)}
	}
	body := b[:n-checksumSize]
	if binary.LittleEndian.Uint32(b[len(body):]) != fileChecksum(binary.LittleEndian.Uint16(b[8:]), body) {
		return header{}, nil, placeDamage(path, body)
	}
	h, off, count, err := decodeHeader(path, body)
	if err == nil && count > (len(body)-off)/(recHeaderSize+checksumSize) {
		err = &CorruptError{path, 112, "more records than the file has room for"}
	}
	if err != nil {
		return header{}, nil, err
	}
	recs := make([]rec, 0, count)
	for i := range count {
		r, reason := cutRec(body[off:])
		if reason == "" && i > 0 && string(recs[i-1].key()) >= string(r.key()) {
			reason = "record out of order"
		}
		if reason != "" {
			return header{}, nil, &CorruptError{path, int64(off), reason}
		}
		recs = append(recs, r)
		off += len(r)
	}
	if off != len(body) {
		return header{}, nil, &CorruptError{path, int64(off), "bytes after the last record"}
	}
	return h, recs, nil
}

// decodeHeader decodes the header and the tables at the beginning of body. It
// returns where the journal begins and how many records it has.
func decodeHeader(path string, body []byte) (h header, off, count int, err error) {
	u64 := func(off int) uint64 { return binary.LittleEndian.Uint64(body[off:]) }
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(body[off:]) }
	// Compared as they are stored: an int may have no more bits.
	ancestors, segments, room := u32(104), u32(108), uint64(len(body))
	if tables := uint64(ancestors)*ancestorSize + uint64(segments)*segmentRefSize; ancestors > maxAncestors || segments > maxSegments || headerSize+tables > room {
		return h, 0, 0, &CorruptError{path, 104, "tables longer than the file"}
	}
	if uint64(u32(112)) > maxManifestSize/recHeaderSize || uint64(u32(112)) > math.MaxInt {
		return h, 0, 0, &CorruptError{path, 112, "more records than a file has room for"}
	}
	count = int(u32(112))
	off = headerSize + int(ancestors)*ancestorSize + int(segments)*segmentRefSize
	switch {
	case u32(116) != headerChecksum(body[:off]):
		return h, 0, 0, &CorruptError{path, 16, "wrong checksum of the header"}
	case segments > 0 && binary.LittleEndian.Uint16(body[8:]) < 2:
		return h, 0, 0, &CorruptError{path, 108, "segments in a manifest of version 1"}
	}
	h = header{
		network:  binary.LittleEndian.Uint16(body[10:])&flagNetwork != 0,
		recovery: binary.LittleEndian.Uint16(body[10:])&flagRecovery != 0,
		seq:      u64(24),
		store:    ID(body[32:48]),
		commit:   ID(body[48:64]),
		boot:     boot.ID(body[64:80]),
		time:     int64(u64(80)),
		firstRev: Revision(u64(88)),
		lastRev:  Revision(u64(96)),
	}
	at := headerSize
	for range ancestors {
		h.ancestors = append(h.ancestors, ancestor{u64(at), ID(body[at+8 : at+24])})
		at += ancestorSize
	}
	for range segments {
		g := segmentRef{seq: u64(at), id: ID(body[at+8 : at+24]), size: int64(u64(at + 24)), checksum: u32(at + 32)}
		if g.seq > h.seq || g.size < minSegmentSize || g.size > maxSegmentSize {
			return h, 0, 0, &CorruptError{path, int64(at), "impossible sequence or size of a segment"}
		}
		h.segments = append(h.segments, g)
		at += segmentRefSize
	}
	return h, off, count, nil
}

// cutRec returns the record at the beginning of b, or why there is none. It
// does not check the record's checksum.
func cutRec(b []byte) (r rec, reason string) {
	if len(b) < recHeaderSize+checksumSize {
		return nil, "the file ends within a record"
	}
	if b[0]&^flagTombstone != 0 {
		return nil, "unknown flags of a record"
	}
	if binary.LittleEndian.Uint32(b[4:]) > MaxValueSize {
		return nil, "impossible size of a value"
	}
	name, key, value := rec(b).sizes()
	if dead := rec(b).tombstone(); key == 0 || key > MaxKeySize || (name == 0) != dead || dead && value > 0 {
		return nil, "impossible size of a name, key or value"
	}
	n := recHeaderSize + name + key + value + checksumSize
	if n > len(b) {
		return nil, "the file ends within a record"
	}
	return b[:n:n], ""
}

// placeDamage finds which part of a manifest does not check, given that the
// whole does not.
func placeDamage(path string, body []byte) error {
	_, off, count, err := decodeHeader(path, body)
	if err != nil {
		return err
	}
	for range count {
		r, reason := cutRec(body[off:])
		if reason == "" && !r.intact() {
			reason = "wrong checksum of a record"
		}
		if reason != "" {
			return &CorruptError{path, int64(off), reason}
		}
		off += len(r)
	}
	return &CorruptError{path, int64(len(body)), "wrong checksum of the file"}
}
