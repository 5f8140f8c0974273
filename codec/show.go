package codec

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ToJSON returns the value that the named codec keeps in data as compact JSON
// text, for display. It needs no Go type, and it can show whatever Unmarshal
// accepts; the only errors are [ErrUnknown] and [ErrMalformed].
//
// JSON is canonical JSON already. Raw is a string if it is valid UTF-8,
// otherwise {"base64":"..."}. For MessagePack:
//
//   - Numbers keep every digit; of an integer beyond 2^53 a reader that takes
//     all numbers for float64 may lose some. A float has a fraction or an
//     exponent, as 1.0, and an integer has not. NaN and the infinities are the
//     strings "NaN", "Infinity" and "-Infinity".
//   - Byte strings are strings in base64 (RFC 4648, padded), and so are strings
//     that are not valid UTF-8.
//   - Times are strings as of [time.RFC3339Nano], in UTC.
//   - A map is an object with its keys in order. A key that is not a string
//     is the text that it would be as a value. If two keys have the same text,
//     as 1 and "1" do, the map is an array of [key, value] arrays.
func ToJSON(name string, data []byte) ([]byte, error) {
	c, err := ByName(name)
	if err != nil {
		return nil, err
	}
	var text []byte
	switch c {
	case JSON:
		text, err = canonicalJSON(data)
	case Raw:
		text = showRaw(data)
	case MessagePack:
		if data, err = canonical(data); err == nil {
			s := shower{scanner{data: data}}
			text = s.value(nil)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("codec: show %s: %w", name, err)
	}
	return text, nil
}

// Check reports whether data is what the named codec can decode: into some Go
// type, and as ToJSON. The errors are [ErrUnknown] and [ErrMalformed].
func Check(name string, data []byte) error {
	c, err := ByName(name)
	if err != nil {
		return err
	}
	switch c {
	case JSON:
		_, err = canonicalJSON(data)
	case MessagePack:
		_, err = canonical(data)
	}
	if err != nil {
		return fmt.Errorf("codec: check %s: %w", name, err)
	}
	return nil
}

func showRaw(data []byte) []byte {
	if utf8.Valid(data) {
		most := len(data) + 2 // with escapes, which may be all of it
		for _, c := range data {
			if c < ' ' || c == '"' || c == '\\' {
				most += 5
			}
		}
		return appendJSONString(make([]byte, 0, most), string(data))
	}
	return append(appendBase64([]byte(`{"base64":`), data), '}')
}

func appendBase64(b, data []byte) []byte {
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, data)
	return append(b, '"')
}

// A shower writes canonical MessagePack as JSON.
type shower struct{ scanner }

// value appends the next value to b.
func (s *shower) value(b []byte) []byte {
	t, err := s.next()
	if err != nil {
		panic(err) // not reached: the data is canonical
	}
	switch t.kind {
	case kindNil:
		return append(b, "null"...)
	case kindBool:
		return strconv.AppendBool(b, t.n == 1)
	case kindUint:
		return strconv.AppendUint(b, t.n, 10)
	case kindInt:
		return strconv.AppendInt(b, int64(t.n), 10)
	case kindFloat:
		return appendJSONFloat(b, math.Float64frombits(t.n))
	case kindBin:
		return appendBase64(b, t.body)
	case kindStr:
		if !utf8.Valid(t.body) {
			return appendBase64(b, t.body)
		}
		return appendJSONString(b, string(t.body))
	case kindTime:
		tm, _ := decodeTime(t.body)
		return appendJSONString(b, tm.Format(time.RFC3339Nano))
	case kindArray:
		b = append(b, '[')
		for i := range t.n {
			if i > 0 {
				b = append(b, ',')
			}
			b = s.value(b)
		}
		return append(b, ']')
	default: // kindMap
		return s.pairs(b, t.n)
	}
}

func appendJSONFloat(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(b, `"-Infinity"`...)
	}
	text, _ := json.Marshal(f)
	b = append(b, text...)
	if !bytes.ContainsAny(text, ".e") {
		b = append(b, ".0"...) // or it would be an integer
	}
	return b
}

// pairs appends the n pairs of a map.
func (s *shower) pairs(b []byte, n uint64) []byte {
	type pair struct{ name, key, value string }
	pairs := make([]pair, n)
	for i := range pairs {
		key := s.value(nil)
		pairs[i] = pair{keyName(key), string(key), string(s.value(nil))}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	alike := false
	for i := 1; i < len(pairs); i++ {
		alike = alike || pairs[i].name == pairs[i-1].name
	}
	if alike {
		b = append(b, '[')
		for i, p := range pairs {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, "["+p.key+","+p.value+"]"...)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	for i, p := range pairs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendJSONString(b, p.name), ":"+p.value...)
	}
	return append(b, '}')
}

// keyName returns the name in an object of a key with the given JSON text.
func keyName(key []byte) string {
	var name string
	if key[0] != '"' || json.Unmarshal(key, &name) != nil {
		return string(key)
	}
	return name
}
