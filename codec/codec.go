// Package codec turns Go values into bytes and back, in a form fit to be kept.
//
// Most users want [MessagePack]:
//
//	data, err := codec.MessagePack.Marshal(v)
//	...
//	err = codec.MessagePack.Unmarshal(data, &v)
//
// There are three codecs, and each has a short name that is stored beside a
// value, so that a value says what it is: [ByName] finds the codec again, and
// [ToJSON] shows the value to a person who does not have its Go type.
//
// # Guarantees
//
// Canonical. One value has one encoding. Map keys and struct fields are sorted
// at every level, numbers take their shortest form whatever Go type they had,
// and a time is its instant in UTC. Values can therefore be compared, hashed
// and deduplicated as bytes. For every codec, what Unmarshal accepts into the
// Go type it was written from, Marshal turns back into the canonical form of
// the same bytes.
//
// Bounded. Unmarshal may be given any bytes. Before a decoder sees them they
// are walked once: nesting is at most [MaxDepth], a declared length is at most
// the bytes that are left, one value takes all the bytes, and no map has a key
// twice. What fails is an error that unwraps to [ErrMalformed] and names the
// offset. The walk holds no more memory than a small multiple of len(data).
//
// Whole. Unmarshal replaces what its argument points to, and only when it
// succeeds: nothing of an older value shows through, and after an error the
// old value is untouched. The result shares no memory with data.
//
// # Not guaranteed
//
// Memory follows the Go type: a []T takes the size of T for an element that may
// be one byte long in the data, and decoding into an any takes up to some 200
// bytes of memory a byte of data. Bound the length of what you decode.
//
// A type that encodes itself (json.Marshaler, msgpack.CustomEncoder,
// encoding.TextMarshaler and their like) decides which of its values are the
// same; what it writes is checked and put in order, but a time it writes as a
// string keeps its zone. Where such methods have a pointer as their receiver,
// they cannot be called for a value that is in a map or an interface itself, and
// Marshal refuses one that would not come back without them: store a pointer.
//
// A pointer to nil is read as nil. With omitempty it is therefore left out.
//
// Marshal reads its argument, all of it, and must not run while another
// goroutine changes it. The codecs themselves have no state and are safe for
// concurrent use.
//
// # Compatibility
//
// The encodings are stored: the bytes a value has will not change, and what
// Unmarshal accepts will not shrink. Names are never given to another encoding.
package codec

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// MaxDepth is how many arrays and maps may be nested in one another. Marshal
// refuses a value that is deeper, as Unmarshal would refuse its bytes.
const MaxDepth = 100

// The codecs. They are constants, so that no package can replace one under
// another's feet; each is a [Codec].
const (
	// MessagePack is the default: compact, and it tells integers, floats,
	// strings, bytes and times apart. Struct fields take the tag `msgpack`.
	//
	// Integers and floats are written in the shortest form that keeps the value,
	// so int64(1) and uint8(1) are the same bytes, and float32(0.5) and
	// float64(0.5); 1 and 1.0 are not. Every NaN is the same NaN. A nil slice or
	// map is nil, which an empty one is not. Map keys are ordered by their
	// encoded bytes, which puts shorter strings first. Times are extension -1,
	// with nanoseconds.
	//
	// The fields of an embedded struct, or of what an embedded pointer leads to, are
	// fields of the outer one, unless a name is there already; the tag
	// `msgpack:",noinline"` makes it one field. Marshal refuses what could not be read
	// as it was: a field that comes after an embedded one of its name, an embedded
	// pointer that is nil (unless a field of the struct has omitempty), or whose type
	// is not exported. An uintptr has no encoding.
	//
	// An any is decoded to nil, bool, int64 (uint64 above its range), float64,
	// string, []byte, time.Time in UTC, []any, map[string]any or, if a key is not
	// a string, map[any]any. Well-formed bytes of other writers are accepted
	// though they are not canonical. Interned strings are refused. An integer
	// too large for the Go type it is decoded into is an error.
	MessagePack messagePackCodec = "msgpack"

	// JSON is for values that people or other programs read in the files. Struct
	// fields take the tag `json`, as in encoding/json.
	//
	// The text has no white space, no escapes that are not needed, and keys in
	// the order of their bytes. A number keeps its spelling, as JSON does not
	// bound its precision: 1 and 1.0 are two values, and in an any a number is a
	// json.Number. NaN and infinities have no JSON and are errors, and so are
	// strings that are not UTF-8, which encoding/json would change silently.
	JSON jsonCodec = "json"

	// Raw is for bytes that are already what they should be. It takes []byte and
	// string, and decodes into *[]byte, *string and *any (as []byte). An empty
	// value and a nil one are the same.
	Raw rawCodec = "raw"
)

// all lists the codecs in the order of [Names], the default first.
var all = [...]Codec{MessagePack, JSON, Raw}

// A Codec turns values into bytes and back. Its methods may be called
// concurrently.
type Codec interface {
	// Name returns the short name that is stored with a value, a single word in
	// lower-case ASCII.
	Name() string

	// Marshal returns the canonical encoding of v. The bytes are the caller's.
	Marshal(v any) ([]byte, error)

	// Unmarshal decodes data into v, which must be a non-nil pointer. It keeps
	// no reference to data. An error that unwraps to [ErrMalformed] says that
	// data is damaged or was never a value; any other, that v does not fit it.
	Unmarshal(data []byte, v any) error
}

// ErrUnknown is reported by [ByName] and [ToJSON] for a name that no codec has.
var ErrUnknown = errors.New("unknown codec")

// ErrMalformed is reported when bytes are not exactly one value that this
// package can decode. The error in the chain with the place is a [*SyntaxError].
var ErrMalformed = errors.New("malformed value")

// A SyntaxError says where and why bytes were refused.
type SyntaxError struct {
	Codec  string // the codec's name
	Offset int    // in bytes from the start of the data
	Reason string // what was found there
}

// Error returns the codec's name, the offset and the reason.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("malformed %s at offset %d: %s", e.Codec, e.Offset, e.Reason)
}

// Unwrap returns [ErrMalformed].
func (e *SyntaxError) Unwrap() error { return ErrMalformed }

// ByName returns the codec with the given name. The error unwraps to
// [ErrUnknown] and lists the names there are.
func ByName(name string) (Codec, error) {
	for _, c := range all {
		if c.Name() == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("codec: %w %q (known: %s)", ErrUnknown, name, strings.Join(Names(), ", "))
}

// Names returns the names of the codecs, the default first.
func Names() []string {
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.Name()
	}
	return names
}

// encode calls marshal, and wraps what goes wrong.
func encode(name string, v any, marshal func() ([]byte, error)) (data []byte, err error) {
	defer func() {
		if err != nil {
			data, err = nil, fmt.Errorf("codec: encode %T as %s: %w", v, name, err)
		}
	}()
	defer recoverTo(&err)
	return marshal()
}

// addressable returns a pointer to v, or to what v leads to if that is in an any.
// The libraries call a method that has a pointer as its receiver only where they
// can take an address: without this, v and &v could have two encodings.
func addressable(v any) any {
	at := reflect.ValueOf(v)
	for range maxHops { // an any can hold a pointer to itself
		if at.Kind() != reflect.Pointer && at.Kind() != reflect.Interface {
			break
		}
		at = at.Elem()
		if at.Kind() == reflect.Interface && at.NumMethod() == 0 {
			v = at.Interface()
		}
	}
	if v == nil || reflect.TypeOf(v).Kind() == reflect.Pointer {
		return v
	}
	p := reflect.New(reflect.TypeOf(v))
	p.Elem().Set(reflect.ValueOf(v))
	return p.Interface()
}

// decode calls unmarshal with a pointer to a new value of the type that v points
// to, and sets *v to that value if it succeeds. Decoders merge into what they
// find: they would fail on an any that is not nil, overwrite the array behind a
// slice that was handed out, and leave half a value behind an error.
func decode(name string, v any, unmarshal func(fresh any) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("codec: decode %s into %T: %w", name, v, err)
		}
	}()
	defer recoverTo(&err)
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return errors.New("not a non-nil pointer")
	}
	fresh := reflect.New(p.Type().Elem())
	if err := unmarshal(fresh.Interface()); err != nil {
		return err
	}
	p.Elem().Set(fresh.Elem())
	return nil
}

// recoverTo turns a panic into an error. The checks come first; this is for a
// library, or a type's own method, that trips over a value nevertheless.
func recoverTo(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("panic: %v", r)
	}
}
