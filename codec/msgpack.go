package codec

import (
	"bytes"
	"encoding"
	"fmt"
	"reflect"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// messagePackCodec is the type of [MessagePack].
type messagePackCodec string

// Name implements [Codec].
func (messagePackCodec) Name() string { return string(MessagePack) }

// Marshal implements [Codec]. The library sorts only some types of maps, and
// types that encode themselves may write anything, so what it wrote is put into
// canonical form, which checks it too: nothing is stored that could not be read.
func (messagePackCodec) Marshal(v any) ([]byte, error) {
	return encode(MessagePack.Name(), v, func() ([]byte, error) {
		// The library would follow a pointer back to itself until the stack ends.
		w := walker{tag: "msgpack", opaque: msgpackOpaque, check: checkMessagePack, odd: isUintptr, inlines: msgpackInlines}
		v, err := w.walk(addressable(v))
		if err != nil {
			return nil, err
		}
		var buf bytes.Buffer
		enc := msgpack.NewEncoder(&buf)
		enc.UseCompactInts(true)
		if err := enc.Encode(v); err != nil {
			return nil, err
		}
		return canonical(buf.Bytes())
	})
}

// Unmarshal implements [Codec]. The library sees only bytes that decodable has
// made. A decoder of its own, and not msgpack.Unmarshal, as that one keeps a
// goroutine running for each type it has met.
func (messagePackCodec) Unmarshal(data []byte, v any) error {
	return decode(MessagePack.Name(), v, func(fresh any) error {
		data, err := decodable(data)
		if err != nil {
			return err
		}
		if err := fit(data, reflect.TypeOf(fresh).Elem()); err != nil {
			return err
		}
		dec := msgpack.NewDecoder(bytes.NewReader(data))
		dec.SetMapDecoder(decodeMap)
		if err := dec.Decode(fresh); err != nil {
			return err
		}
		w := walker{tag: "msgpack", opaque: msgpackOpaque, own: true, utc: true}
		_, err = w.walk(fresh)
		return err
	})
}

// checkMessagePack refuses what the library would panic over, log, or write so
// that it could not be read again.
func checkMessagePack(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Uintptr:
		if t := v.Type(); !msgpackOpaque(t) {
			return fmt.Errorf("%s has no MessagePack; take a uint64", t)
		}
	case reflect.Array:
		// The library copies it where it can take no address, and only from bytes.
		if t := v.Type(); t.Elem().Kind() == reflect.Uint8 && t.Elem() != reflect.TypeFor[byte]() && !v.CanAddr() && !msgpackOpaque(t) {
			return fmt.Errorf("%[1]s in a map or an interface cannot be encoded; store a *%[1]s, or an array of byte", t)
		}
	case reflect.Struct:
		if t := v.Type(); !msgpackOpaque(t) {
			return layoutOf(t).check(v)
		}
	}
	return nil
}

func isUintptr(t reflect.Type) bool { return t.Kind() == reflect.Uintptr }

func msgpackInlines(t reflect.Type) []int { return layoutOf(t).inlined }

// decodeMap decodes a map into an any: a map[string]any if all its keys are
// strings, otherwise a map[any]any.
func decodeMap(dec *msgpack.Decoder) (any, error) {
	n, err := dec.DecodeMapLen()
	if err != nil {
		return nil, err
	}
	byString := make(map[string]any, n)
	for i := range n {
		code, err := dec.PeekCode()
		if err != nil {
			return nil, err
		}
		if !msgpcode.IsString(code) {
			return decodeAnyMap(dec, byString, n-i)
		}
		key, err := dec.DecodeString()
		if err != nil {
			return nil, err
		}
		if byString[key], err = dec.DecodeInterface(); err != nil {
			return nil, err
		}
	}
	return byString, nil
}

// decodeAnyMap decodes the n pairs that are left of a map that began with the
// pairs in begun.
func decodeAnyMap(dec *msgpack.Decoder, begun map[string]any, n int) (any, error) {
	m := make(map[any]any, len(begun)+n)
	for k, v := range begun {
		m[k] = v
	}
	for range n {
		key, err := dec.DecodeInterface()
		if err != nil {
			return nil, err
		}
		if key != nil && !reflect.TypeOf(key).Comparable() {
			return nil, fmt.Errorf("a map has a key that is no Go map key: %T", key)
		}
		if m[key], err = dec.DecodeInterface(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

var msgpackOpaque = opaqueTo(
	reflect.TypeFor[msgpack.CustomEncoder](),
	reflect.TypeFor[msgpack.CustomDecoder](),
	reflect.TypeFor[msgpack.Marshaler](),
	reflect.TypeFor[msgpack.Unmarshaler](),
	reflect.TypeFor[encoding.BinaryMarshaler](),
	reflect.TypeFor[encoding.BinaryUnmarshaler](),
	reflect.TypeFor[encoding.TextMarshaler](),
	reflect.TypeFor[encoding.TextUnmarshaler](),
)
