package stress

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/recordstore/recordstore/internal/crc32c"
)

// The keys of a run, below its prefix. Every writer is named by its machine
// and slot, for example 1-0007.
//
//	hello/1-0007   the one record of a writer in the first form; further ones are 1-0007-0001, ...
//	own/1-0007     a writer's record: N counts its own updates
//	flip/1-0007    there if and only if the own record's Flips is odd
//	shared/3       a counter that every writer increments
//	cas/3          a counter that is incremented by compare-and-swap alone
//	once/0042      created once, by whoever is first, and never changed
//
// In every committed state the sum of N over own/ equals that over shared/,
// because every update that raises the one raises the other.
const (
	sharedCounters = 8
	casCounters    = 4
	onceKeys       = 128
)

// allRuns is the prefix of the records of every run, which tells a store that
// may be used for another from one that holds somebody's data.
const allRuns = "stress/"

// runPrefix is the prefix of the records of the run with this seed.
func runPrefix(seed uint64) string { return allRuns + strconv.FormatUint(seed, 36) + "/" }

// author names one goroutine of one process of a run. A slot's first process
// is incarnation 0, and who replaces it after a kill is the next.
type author struct {
	Machine     int    `json:"machine"`
	Form        string `json:"form"` // formQuestion or formHard
	Role        string `json:"role"` // roleWriter or roleReader
	Slot        int    `json:"slot"`
	Incarnation int    `json:"incarnation"`
	Thread      int    `json:"thread"`
}

const (
	formQuestion = "question"
	formHard     = "hard"
	roleWriter   = "writer"
	roleReader   = "reader"
)

// String returns a word that is unique in the run, for example
// h1-w0007-i002-0. It is part of values and of file names.
func (a author) String() string {
	return fmt.Sprintf("%c%d-%c%04d-i%03d-%d", a.Form[0], a.Machine, a.Role[0], a.Slot, a.Incarnation, a.Thread)
}

// place returns the machine and slot as keys have them.
func (a author) place() string { return fmt.Sprintf("%d-%04d", a.Machine, a.Slot) }

// A value is what every record of a run holds: who wrote it, in which of its
// operations, and up to two counts. Encoded it is one line of text,
//
//	KEY AUTHOR OP N FLIPS PADDING CHECKSUM
//
// whose checksum covers all before it. The padding's length changes with each
// write, so that the bytes of two values mixed do not make a third.
type value struct {
	Author string
	Op     uint64
	N      uint64
	Flips  uint64
}

// encode returns the bytes of v under key.
func (v value) encode(key string) []byte {
	b := make([]byte, 0, 160)
	b = append(b, key...)
	b = append(b, ' ')
	b = append(b, v.Author...)
	for _, u := range []uint64{v.Op, v.N, v.Flips} {
		b = append(b, ' ')
		b = strconv.AppendUint(b, u, 10)
	}
	b = append(b, ' ', '.')
	for range (v.Op*7 + v.N) % 29 {
		b = append(b, '.')
	}
	return fmt.Appendf(b, " %08x", crc32c.Checksum(b))
}

// decodeValue is the inverse of encode. Bytes that encode did not make, or
// made for another key, are an error.
func decodeValue(key string, data []byte) (value, error) {
	s := string(data)
	cut := strings.LastIndexByte(s, ' ')
	if cut < 0 {
		return value{}, fmt.Errorf("value %.40q has no checksum", s)
	}
	if want := fmt.Sprintf("%08x", crc32c.Checksum(data[:cut])); s[cut+1:] != want {
		return value{}, fmt.Errorf("value %.40q... has checksum %.8q, and not %s", s, s[cut+1:], want)
	}
	f := strings.Split(s[:cut], " ")
	if len(f) != 6 {
		return value{}, fmt.Errorf("value %q has %d fields", s, len(f))
	}
	if f[0] != key {
		return value{}, fmt.Errorf("value of %s is under %s", f[0], key)
	}
	v := value{Author: f[1]}
	for i, p := range []*uint64{&v.Op, &v.N, &v.Flips} {
		u, err := strconv.ParseUint(f[2+i], 10, 64)
		if err != nil {
			return value{}, err
		}
		*p = u
	}
	return v, nil
}
