package codec

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// jsonCodec is the type of [JSON].
type jsonCodec string

// Name implements [Codec].
func (jsonCodec) Name() string { return string(JSON) }

// Marshal implements [Codec].
func (jsonCodec) Marshal(v any) ([]byte, error) {
	return encode(JSON.Name(), v, func() ([]byte, error) {
		w := walker{tag: "json", opaque: jsonOpaque, utc: true, utf8: true, check: checkByPointer, odd: byPointer}
		v, err := w.walk(addressable(v))
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		return canonicalJSON(text)
	})
}

// Unmarshal implements [Codec].
func (jsonCodec) Unmarshal(data []byte, v any) error {
	return decode(JSON.Name(), v, func(fresh any) error {
		text, err := canonicalJSON(data)
		if err != nil {
			return err
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		if err := dec.Decode(fresh); err != nil {
			return err
		}
		w := walker{tag: "json", opaque: jsonOpaque, own: true, utc: true}
		_, err = w.walk(fresh)
		return err
	})
}

var jsonOpaque = opaqueTo(
	reflect.TypeFor[json.Marshaler](),
	reflect.TypeFor[json.Unmarshaler](),
	reflect.TypeFor[encoding.TextMarshaler](),
	reflect.TypeFor[encoding.TextUnmarshaler](),
)

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

var byPointerCache sync.Map // of reflect.Type to bool

// byPointer reports whether only a pointer to a t has the method by which it
// encodes itself: encoding/json then writes a t in another way where it can take
// no address, without a word.
func byPointer(t reflect.Type) bool {
	if is, ok := byPointerCache.Load(t); ok {
		return is.(bool)
	}
	is := false
	if k := t.Kind(); k != reflect.Pointer && k != reflect.Interface && !t.Implements(jsonMarshaler) {
		p := reflect.PointerTo(t)
		is = p.Implements(jsonMarshaler) || p.Implements(textMarshaler) && !t.Implements(textMarshaler)
	}
	byPointerCache.Store(t, is)
	return is
}

// checkByPointer refuses a v that encoding/json would write without its own
// methods, if it would not come back: of a big.Int in a map it writes {}. That
// is tried, and not refused for all types alike, as many read both forms, and
// are in stores in this one.
func checkByPointer(v reflect.Value) error {
	if v.CanAddr() || !byPointer(v.Type()) {
		return nil
	}
	p, back := reflect.New(v.Type()), reflect.New(v.Type())
	p.Elem().Set(v)
	own, err := json.Marshal(p.Interface())
	if err != nil {
		return err
	}
	text, err := json.Marshal(v.Interface())
	if err == nil {
		err = json.Unmarshal(text, back.Interface())
	}
	if err == nil {
		if again, err := json.Marshal(back.Interface()); err == nil && bytes.Equal(again, own) {
			return nil
		}
	}
	return fmt.Errorf("%[1]s in a map or an interface cannot be encoded by its own methods, which only a pointer to it has: store a *%[1]s", v.Type())
}

// A jsonWalker copies JSON text from data to out in canonical form. The text is
// known to have the syntax of JSON, which leaves the rest to check: UTF-8,
// depth, and keys that are there twice.
type jsonWalker struct {
	data []byte
	pos  int
	out  []byte
}

func jsonError(offset int, format string, args ...any) error {
	return &SyntaxError{Codec: JSON.Name(), Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// canonicalJSON returns the canonical form of the one value that data holds.
func canonicalJSON(data []byte) ([]byte, error) {
	if !json.Valid(data) {
		// Only now the form that copies: it knows what is wrong.
		var serr *json.SyntaxError
		if err := json.Unmarshal(data, new(json.RawMessage)); errors.As(err, &serr) {
			if strings.HasSuffix(serr.Error(), "exceeded max depth") { // its own, of 10000
				return nil, jsonError(int(serr.Offset), "nested deeper than %d levels", MaxDepth)
			}
			return nil, jsonError(int(serr.Offset), "%v", serr)
		}
		return nil, jsonError(0, "not JSON")
	}
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return nil, jsonError(i, "not valid UTF-8")
		}
		i += n
	}
	w := jsonWalker{data: data, out: make([]byte, 0, len(data))}
	if err := w.value(0); err != nil {
		return nil, err
	}
	return w.out, nil
}

// peek skips white space and returns the byte after it.
func (w *jsonWalker) peek() byte {
	for {
		switch c := w.data[w.pos]; c {
		case ' ', '\t', '\r', '\n':
			w.pos++
		default:
			return c
		}
	}
}

func (w *jsonWalker) value(depth int) error {
	c := w.peek()
	if depth == MaxDepth && (c == '{' || c == '[') {
		return jsonError(w.pos, "nested deeper than %d levels", MaxDepth)
	}
	switch c {
	case '{':
		return w.object(depth + 1)
	case '[':
		return w.array(depth + 1)
	case '"':
		s, err := w.string()
		w.out = appendJSONString(w.out, s)
		return err
	}
	start := w.pos
	for w.pos < len(w.data) && strings.IndexByte(",]} \t\r\n", w.data[w.pos]) < 0 {
		w.pos++
	}
	w.out = append(w.out, w.data[start:w.pos]...)
	return nil
}

func (w *jsonWalker) array(depth int) error {
	w.pos++
	w.out = append(w.out, '[')
	for i := 0; w.peek() != ']'; i++ {
		if i > 0 {
			w.pos++ // the comma
			w.out = append(w.out, ',')
		}
		if err := w.value(depth); err != nil {
			return err
		}
	}
	w.pos++
	w.out = append(w.out, ']')
	return nil
}

// A member is a pair of an object. Its value is a piece of text.
type member struct {
	key        string
	start, end int
	offset     int // of the key, in the data
}

func (w *jsonWalker) object(depth int) error {
	w.pos++
	first := len(w.out)
	var members []member
	for w.peek() != '}' {
		if w.data[w.pos] == ',' {
			w.pos++
			w.peek()
		}
		m := member{offset: w.pos}
		var err error
		if m.key, err = w.string(); err != nil {
			return err
		}
		w.peek()
		w.pos++ // the colon
		m.start = len(w.out)
		if err := w.value(depth); err != nil {
			return err
		}
		m.end = len(w.out)
		members = append(members, m)
	}
	w.pos++
	slices.SortStableFunc(members, func(a, b member) int { return strings.Compare(a.key, b.key) })
	values := slices.Clone(w.out[first:])
	w.out = append(w.out[:first], '{')
	for i, m := range members {
		if i > 0 {
			if m.key == members[i-1].key {
				return jsonError(m.offset, "an object has the key %.40q twice", m.key)
			}
			w.out = append(w.out, ',')
		}
		w.out = append(appendJSONString(w.out, m.key), ':')
		w.out = append(w.out, values[m.start-first:m.end-first]...)
	}
	w.out = append(w.out, '}')
	return nil
}

// string reads a string.
func (w *jsonWalker) string() (string, error) {
	start := w.pos
	escaped := false
	for w.pos++; w.data[w.pos] != '"'; w.pos++ {
		if w.data[w.pos] == '\\' {
			escaped = true
			w.pos++
		}
	}
	w.pos++
	quoted := w.data[start:w.pos]
	if !escaped {
		return string(quoted[1 : len(quoted)-1]), nil
	}
	if i := loneSurrogate(quoted); i >= 0 {
		return "", jsonError(start+i, "half of a surrogate pair: %s", quoted[i:i+6])
	}
	var s string
	err := json.Unmarshal(quoted, &s)
	return s, err
}

// loneSurrogate returns where in a quoted string there is an escape for half of
// a character, which encoding/json would replace silently, or -1.
func loneSurrogate(quoted []byte) int {
	unit := func(i int) uint64 { // of the escape at i, 0 if there is none
		if i+6 > len(quoted) || quoted[i] != '\\' || quoted[i+1] != 'u' {
			return 0
		}
		n, _ := strconv.ParseUint(string(quoted[i+2:i+6]), 16, 16)
		return n
	}
	for i := 0; i < len(quoted); i++ {
		if quoted[i] != '\\' {
			continue
		}
		switch u := unit(i); {
		case u>>10 == 0xd800>>10 && unit(i+6)>>10 == 0xdc00>>10:
			i += 11
		case u>>11 == 0xd800>>11:
			return i
		default:
			i++ // what is escaped, which may be a backslash
		}
	}
	return -1
}

// appendJSONString appends s as a string of JSON with the escapes it needs.
func appendJSONString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ':
			b = append(b, c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\f':
			b = append(b, `\f`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(b, '"')
}
