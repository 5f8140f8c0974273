package lockfile

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recordstore/recordstore/internal/crc32c"
)

// A claim file of the Link mechanism. Integers are little-endian; the checksum is
// CRC-32C. It is written and flushed under a name of its own, before it is linked to
// a number, and but for the counter never changed.
//
//	offset  size  field
//	0       8     magic, "\x8aRSCLAIM"
//	8       2     version, 1
//	10      2     kind: 1 a claim, 2 a break
//	12      4     checksum of bytes 0 to 12 and 16 to 1168
//	16      16    id, random, new for each file
//	32      8     the number that it is for
//	40      8     duration of the lease in nanoseconds, 0 if there is none
//	48      480   holder record: of who claims or breaks
//	528     480   holder record of whose claim was broken
//	1008    16    id of the claim that was broken
//	1024    128   why, UTF-8, padded with zero
//	1152    16    zero
//	1168    8     counter, which the holder of a lease changes; never checked
const (
	claimMagic   = "\x8aRSCLAIM"
	claimVersion = 1

	claimHolder  = 48
	claimWas     = claimHolder + holderSize
	claimWasID   = claimWas + holderSize
	claimWhy     = 1024
	claimCounter = 1168
	claimSize    = 1176
)

// The kinds of claim files.
const (
	kindClaim = 1
	kindBreak = 2
)

type claimID [16]byte

func newClaimID() claimID { return newClaim() }

func (id claimID) String() string { return hex.EncodeToString(id[:]) }

type claim struct {
	kind    int
	id      claimID
	number  uint64
	lease   time.Duration
	holder  []byte // holder record, 480 bytes
	was     []byte // likewise; of a break
	wasID   claimID
	why     string
	counter uint64
}

func (c *claim) encode() []byte {
	b := make([]byte, claimSize)
	copy(b, claimMagic)
	le.PutUint16(b[8:], claimVersion)
	le.PutUint16(b[10:], uint16(c.kind))
	copy(b[16:], c.id[:])
	le.PutUint64(b[32:], c.number)
	le.PutUint64(b[40:], uint64(c.lease))
	copy(b[claimHolder:claimWas], c.holder)
	copy(b[claimWas:claimWasID], c.was)
	copy(b[claimWasID:], c.wasID[:])
	putText(b[claimWhy:claimWhy+128], c.why)
	le.PutUint64(b[claimCounter:], c.counter)
	le.PutUint32(b[12:], claimSum(b))
	return b
}

func claimSum(b []byte) uint32 {
	return crc32c.Checksum(slices.Concat(b[:12], b[16:claimCounter]))
}

// decodeClaim reports an error for what this version did not write.
func decodeClaim(b []byte) (claim, error) {
	switch {
	case len(b) < claimSize, string(b[:8]) != claimMagic, le.Uint32(b[12:]) != claimSum(b):
		return claim{}, fmt.Errorf("%w: it is not a whole claim file", ErrCorrupt)
	case le.Uint16(b[8:]) != claimVersion:
		return claim{}, fmt.Errorf("%w: its format is version %d, and this program knows version %d",
			ErrIncompatible, le.Uint16(b[8:]), claimVersion)
	}
	return claim{
		kind:    int(le.Uint16(b[10:])),
		id:      claimID(b[16:32]),
		number:  le.Uint64(b[32:]),
		lease:   time.Duration(max(0, int64(le.Uint64(b[40:])))),
		holder:  b[claimHolder:claimWas],
		was:     b[claimWas:claimWasID],
		wasID:   claimID(b[claimWasID:claimWhy]),
		why:     text(b[claimWhy : claimWhy+128]),
		counter: le.Uint64(b[claimCounter:]),
	}, nil
}

// broken returns what a file of kindBreak records.
func (c *claim) broken() Break {
	by, _ := decodeHolder(c.holder)
	was, _ := decodeHolder(c.was)
	return Break{Time: by.Since, By: by, Was: was, Why: c.why}
}

// The names in the directory of claims. All others are ignored.
const (
	numberDigits = 16
	maxNumber    = 1e16 - 1
	breakPrefix  = "break."
	tmpPrefix    = "tmp."
)

func numberName(n uint64) string { return fmt.Sprintf("%0*d", numberDigits, n) }

// parseNumber returns 0 for other names.
func parseNumber(name string) uint64 {
	if len(name) != numberDigits || strings.Trim(name, "0123456789") != "" {
		return 0
	}
	n, _ := strconv.ParseUint(name, 10, 64)
	return n
}

// numbers returns those among names that begin with prefix, in ascending order.
func numbers(names []string, prefix string) []uint64 {
	var ns []uint64
	for _, name := range names {
		if s, ok := strings.CutPrefix(name, prefix); ok {
			if n := parseNumber(s); n > 0 {
				ns = append(ns, n)
			}
		}
	}
	slices.Sort(ns)
	return ns
}

// highest returns 0 if there is no number among names.
func highest(names []string) (n uint64) {
	for _, name := range names {
		n = max(n, parseNumber(name))
	}
	return n
}
