package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
)

// The kinds of MessagePack values.
type kind uint8

const (
	kindNil kind = iota
	kindBool
	kindUint  // token.n
	kindInt   // token.n, as int64; negative
	kindFloat // token.n, as the bits of a float64
	kindStr   // token.body
	kindBin   // token.body
	kindTime  // token.body, as encodeTime writes it
	kindArray // token.n elements follow
	kindMap   // token.n pairs follow
)

// extTime is the extension type of times, -1.
const extTime = 0xff

// A token is a value without the elements it may contain.
type token struct {
	kind kind
	n    uint64
	body []byte // part of the data, except in kindTime
}

// children returns how many values follow that belong to the token.
func (t token) children() uint64 {
	switch t.kind {
	case kindArray:
		return t.n
	case kindMap:
		return 2 * t.n
	}
	return 0
}

// A scanner reads tokens.
type scanner struct {
	data []byte
	pos  int
}

func (s *scanner) errorf(offset int, format string, args ...any) error {
	return &SyntaxError{Codec: MessagePack.Name(), Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// next reads a token. It has checked that as many bytes are left as the token
// says, and that an element may follow for each that it announces: an element
// is a byte at least.
//
//	00-7f, e0-ff  fixint       c7 c8 c9  ext, length of 1, 2, 4 bytes
//	80-8f         fixmap       ca cb     float32, float64
//	90-9f         fixarray     cc-cf     uint of 1, 2, 4, 8 bytes
//	a0-bf         fixstr       d0-d3     int of 1, 2, 4, 8 bytes
//	c0            nil          d4-d8     ext of 1, 2, 4, 8, 16 bytes
//	c1            never used   d9 da db  str, length of 1, 2, 4 bytes
//	c2 c3         false, true  dc dd     array, length of 2, 4 bytes
//	c4 c5 c6      bin          de df     map, length of 2, 4 bytes
func (s *scanner) next() (token, error) {
	start := s.pos
	if start == len(s.data) {
		return token{}, s.errorf(start, "end of data where a value should be")
	}
	c := s.data[start]
	s.pos++
	switch {
	case c <= 0x7f:
		return token{kind: kindUint, n: uint64(c)}, nil
	case c <= 0x8f:
		return s.container(kindMap, start, uint64(c&0x0f))
	case c <= 0x9f:
		return s.container(kindArray, start, uint64(c&0x0f))
	case c <= 0xbf:
		return s.bytes(kindStr, start, uint64(c&0x1f))
	case c >= 0xe0:
		return token{kind: kindInt, n: uint64(int8(c))}, nil
	case c == 0xc0:
		return token{kind: kindNil}, nil
	case c == 0xc1:
		return token{}, s.errorf(start, "byte c1, which no value begins with")
	case c <= 0xc3:
		return token{kind: kindBool, n: uint64(c & 1)}, nil
	case c >= 0xd4 && c <= 0xd8:
		return s.extension(start, 1<<(c-0xd4))
	}

	width := widths[c-0xc4]
	n, err := s.uint(start, width)
	if err != nil {
		return token{}, err
	}
	switch {
	case c <= 0xc6:
		return s.bytes(kindBin, start, n)
	case c <= 0xc9:
		return s.extension(start, n)
	case c == 0xca:
		return token{kind: kindFloat, n: math.Float64bits(float64(math.Float32frombits(uint32(n))))}, nil
	case c == 0xcb:
		return token{kind: kindFloat, n: n}, nil
	case c <= 0xcf:
		return token{kind: kindUint, n: n}, nil
	case c <= 0xd3:
		shift := 64 - 8*width
		i := int64(n<<shift) >> shift // sign-extended
		if i >= 0 {
			return token{kind: kindUint, n: uint64(i)}, nil
		}
		return token{kind: kindInt, n: uint64(i)}, nil
	case c <= 0xdb:
		return s.bytes(kindStr, start, n)
	case c <= 0xdd:
		return s.container(kindArray, start, n)
	default:
		return s.container(kindMap, start, n)
	}
}

// widths holds, for the codes c4 to df, the bytes of the number that follows.
var widths = [...]int{
	1, 2, 4, 1, 2, 4, 4, 8, 1, 2, 4, 8, // c4-cf
	1, 2, 4, 8, 0, 0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4, // d0-df
}

// uint reads a big-endian integer of width bytes.
func (s *scanner) uint(start, width int) (n uint64, err error) {
	if len(s.data)-s.pos < width {
		return 0, s.errorf(start, "%d bytes should follow, but %d are left", width, len(s.data)-s.pos)
	}
	for range width {
		n = n<<8 | uint64(s.data[s.pos])
		s.pos++
	}
	return n, nil
}

func (s *scanner) bytes(k kind, start int, n uint64) (token, error) {
	left := len(s.data) - s.pos
	if n > uint64(left) {
		return token{}, s.errorf(start, "declares %d bytes, but %d are left", n, left)
	}
	body := s.data[s.pos : s.pos+int(n)]
	s.pos += int(n)
	return token{kind: k, body: body}, nil
}

func (s *scanner) container(k kind, start int, n uint64) (token, error) {
	t := token{kind: k, n: n}
	if left := len(s.data) - s.pos; t.children() > uint64(left) {
		return token{}, s.errorf(start, "declares %d elements, but %d bytes are left", t.children(), left)
	}
	return t, nil
}

// extension reads an extension with a body of n bytes. Only times are known.
// Others are refused, as their bytes could not be checked: the library looks
// for a map inside any extension when it is to decode a map.
func (s *scanner) extension(start int, n uint64) (token, error) {
	id, err := s.uint(start, 1)
	if err != nil {
		return token{}, err
	}
	t, err := s.bytes(kindTime, start, n)
	if err != nil {
		return token{}, err
	}
	if id != extTime {
		return token{}, s.errorf(start, "extension of type %d, but only times (-1) are supported", int8(id))
	}
	tm, ok := decodeTime(t.body)
	if !ok {
		return token{}, s.errorf(start, "not a time: %x", t.body[:min(len(t.body), 12)])
	}
	t.body = encodeTime(tm)
	return t, nil
}

// decodeTime reads the body of extension -1, in any of its forms:
//
//	4 bytes: seconds, unsigned
//	8 bytes: 30 bits of nanoseconds, 34 bits of seconds, unsigned
//	12 bytes: 4 bytes of nanoseconds, 8 bytes of seconds, signed
func decodeTime(b []byte) (time.Time, bool) {
	var sec, nsec int64
	switch len(b) {
	case 4:
		sec = int64(binary.BigEndian.Uint32(b))
	case 8:
		n := binary.BigEndian.Uint64(b)
		sec, nsec = int64(n&(1<<34-1)), int64(n>>34)
	case 12:
		sec, nsec = int64(binary.BigEndian.Uint64(b[4:])), int64(binary.BigEndian.Uint32(b))
	default:
		return time.Time{}, false
	}
	return time.Unix(sec, nsec).UTC(), nsec < 1e9
}

// encodeTime writes the shortest form that decodeTime reads.
func encodeTime(t time.Time) []byte {
	sec, nsec := uint64(t.Unix()), uint64(t.Nanosecond())
	switch {
	case sec>>32 == 0 && nsec == 0:
		return binary.BigEndian.AppendUint32(nil, uint32(sec))
	case sec>>34 == 0:
		return binary.BigEndian.AppendUint64(nil, nsec<<34|sec)
	}
	return encodeLongTime(t)
}

// encodeLongTime writes the form of 12 bytes.
func encodeLongTime(t time.Time) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(t.Nanosecond()))
	return binary.BigEndian.AppendUint64(b, uint64(t.Unix()))
}

// appendHead appends the canonical form of t without the body of a string, a
// byte string or a time.
func appendHead(b []byte, t token) []byte {
	switch t.kind {
	case kindNil:
		return append(b, 0xc0)
	case kindBool:
		return append(b, 0xc2|byte(t.n))
	case kindUint:
		if t.n <= 0x7f {
			return append(b, byte(t.n))
		}
		return appendUint(b, 0xcc, 1, t.n)
	case kindInt:
		return appendInt(b, int64(t.n))
	case kindFloat:
		return appendFloat(b, math.Float64frombits(t.n))
	case kindStr:
		if len(t.body) < 32 {
			return append(b, 0xa0|byte(len(t.body)))
		}
		return appendUint(b, 0xd9, 1, uint64(len(t.body)))
	case kindBin:
		return appendUint(b, 0xc4, 1, uint64(len(t.body)))
	case kindTime:
		switch len(t.body) {
		case 4:
			return append(b, 0xd6, extTime)
		case 8:
			return append(b, 0xd7, extTime)
		}
		return append(b, 0xc7, 12, extTime)
	case kindArray:
		if t.n < 16 {
			return append(b, 0x90|byte(t.n))
		}
		return appendUint(b, 0xdc, 2, t.n)
	default: // kindMap
		if t.n < 16 {
			return append(b, 0x80|byte(t.n))
		}
		return appendUint(b, 0xde, 2, t.n)
	}
}

// appendUint appends n in the fewest bytes, width or a doubling of it, after
// the code for that many: code is the one for width, and they are consecutive.
func appendUint(b []byte, code byte, width int, n uint64) []byte {
	for width < 8 && n>>(8*width) != 0 {
		code, width = code+1, 2*width
	}
	b = append(b, code)
	for shift := 8 * (width - 1); shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift))
	}
	return b
}

func appendInt(b []byte, n int64) []byte {
	switch {
	case n >= -32:
		return append(b, byte(n))
	case n >= math.MinInt8:
		return append(b, 0xd0, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(n))
}

// canonicalNaN is the encoding of every NaN.
const canonicalNaN = "\xca\x7f\xc0\x00\x00"

// appendFloat appends f as a float32 if that holds the same value: the Go type
// it came from is not part of the value, as with integers.
func appendFloat(b []byte, f float64) []byte {
	if f != f {
		return append(b, canonicalNaN...)
	}
	if g := float32(f); float64(g) == f {
		return binary.BigEndian.AppendUint32(append(b, 0xca), math.Float32bits(g))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(f))
}

// A canonicalizer copies values from data to out in canonical form. As long as
// they have it already, out is the beginning of data and nothing is copied.
type canonicalizer struct {
	scanner
	out    []byte
	shared bool // out is data[:len(out)]
	long   bool // times take their 12-byte form
	head   [16]byte
}

// canonical returns the canonical form of the one value that data holds. The
// result may be data itself, which is not changed.
func canonical(data []byte) ([]byte, error) { return canonicalize(data, false) }

// decodable returns what canonical does, except that each time has its 12-byte
// form: this is what the library may be given. Where it is to decode a map and
// finds an extension, it takes the body for the beginning of the map. The body
// of a time of 8 bytes can be df ff ff ff ff ..., a map of 4 billion pairs, for
// which it allocates before it reads on. One of 12 bytes begins with less than
// 3c, the nanoseconds being less than 1e9, and that is not a map.
func decodable(data []byte) ([]byte, error) { return canonicalize(data, true) }

func canonicalize(data []byte, long bool) ([]byte, error) {
	// The capacity of 0 makes the first append copy.
	c := canonicalizer{scanner: scanner{data: data}, out: data[:0:0], shared: true, long: long}
	if err := c.value(0); err != nil {
		return nil, err
	}
	if c.pos != len(data) {
		return nil, c.errorf(c.pos, "%d bytes after the value", len(data)-c.pos)
	}
	return c.out, nil
}

// value copies a value that is inside of depth arrays and maps.
func (c *canonicalizer) value(depth int) error {
	start := c.pos
	t, err := c.next()
	if err != nil {
		return err
	}
	if depth == MaxDepth && (t.kind == kindArray || t.kind == kindMap) {
		return c.errorf(start, "nested deeper than %d levels", MaxDepth)
	}
	c.emit(start, t)
	switch t.kind {
	case kindArray:
		for range t.n {
			if err := c.value(depth + 1); err != nil {
				return err
			}
		}
	case kindMap:
		return c.pairs(start, t.n, depth+1)
	}
	return nil
}

// emit appends t, which was read from data[start:c.pos].
func (c *canonicalizer) emit(start int, t token) {
	if t.kind == kindTime && c.long {
		tm, _ := decodeTime(t.body)
		t.body = encodeLongTime(tm)
	}
	head := appendHead(c.head[:0], t)
	if was := c.data[start:c.pos]; c.shared && len(was) == len(head)+len(t.body) &&
		bytes.HasPrefix(was, head) && bytes.HasSuffix(was, t.body) {
		c.out = c.data[:c.pos:c.pos]
		return
	}
	c.shared = false
	c.out = append(append(c.out, head...), t.body...)
}

// pairs copies the n pairs of the map that begins at start, and sorts them.
func (c *canonicalizer) pairs(start int, n uint64, depth int) error {
	first := len(c.out)
	sorted := true
	var key, keyEnd int // of the pair before, in out
	for i := range n {
		offset, prev, prevEnd := c.pos, key, keyEnd
		key = len(c.out)
		if err := c.value(depth); err != nil {
			return err
		}
		keyEnd = len(c.out)
		if string(c.out[key:keyEnd]) == canonicalNaN {
			return c.errorf(offset, "a map has NaN for a key, which is not equal even to itself")
		}
		if i > 0 {
			switch bytes.Compare(c.out[prev:prevEnd], c.out[key:keyEnd]) {
			case 0:
				return c.errorf(offset, "a map has this key twice")
			case +1:
				sorted = false
			}
		}
		if err := c.value(depth); err != nil {
			return err
		}
	}
	if sorted {
		return nil
	}
	return c.sort(start, first, n)
}

// sort puts the n pairs at the end of out, from first on, in order. Only maps
// that are not in order pay for it, and each level of nesting at most once more
// than the one inside it.
func (c *canonicalizer) sort(start, first int, n uint64) error {
	type pair struct{ key, both []byte }
	pairs := make([]pair, n)
	s := scanner{data: c.out, pos: first}
	for i := range pairs {
		begin := s.pos
		s.skip()
		end := s.pos
		s.skip()
		pairs[i] = pair{c.out[begin:end], c.out[begin:s.pos]}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return bytes.Compare(a.key, b.key) })
	ordered := make([]byte, 0, len(c.out)-first)
	for i, p := range pairs {
		if i > 0 && bytes.Equal(p.key, pairs[i-1].key) {
			return c.errorf(start, "the map has a key twice")
		}
		ordered = append(ordered, p.both...)
	}
	if c.shared {
		c.out, c.shared = slices.Clone(c.out), false
	}
	copy(c.out[first:], ordered)
	return nil
}

// skip reads over a value of which it is known that it is well-formed.
func (s *scanner) skip() {
	for left := uint64(1); left > 0; left-- {
		t, err := s.next()
		if err != nil {
			panic(err) // not reached: canonicalizer wrote it
		}
		left += t.children()
	}
}
