package codec

import (
	"fmt"
	"math"
	"reflect"
)

// A fitter goes through MessagePack data beside the Go type it is to be decoded
// into, and finds integers that do not fit: the library would keep their low
// bits, and 300 would be read as a uint8 of 44.
type fitter struct{ scanner }

// fit checks that the integers of data, which is well-formed, fit into a t.
func fit(data []byte, t reflect.Type) error {
	f := fitter{scanner{data: data}}
	return f.value(t)
}

// value checks the next value against t, of which nil is "anything".
func (f *fitter) value(t reflect.Type) error {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() == reflect.Interface || t.Kind() == reflect.String || msgpackOpaque(t) {
		f.skip()
		return nil
	}
	start := f.pos
	tok, err := f.next()
	if err != nil {
		return err
	}
	if t.Kind() == reflect.Struct && tok.children() > 0 {
		if err := layoutOf(t).endless; err != nil {
			return err
		}
	}
	switch tok.kind {
	case kindUint, kindInt:
		if overflows(tok, t) {
			return fmt.Errorf("integer at offset %d does not fit into %s", start, t)
		}
	case kindArray:
		var elem reflect.Type
		if k := t.Kind(); k == reflect.Slice || k == reflect.Array {
			elem = t.Elem()
		}
		for range tok.n {
			if err := f.value(elem); err != nil {
				return err
			}
		}
	case kindMap:
		return f.pairs(tok.n, t)
	}
	return nil
}

func (f *fitter) pairs(n uint64, t reflect.Type) error {
	var key, elem reflect.Type
	var fields map[string]*layoutField
	switch t.Kind() {
	case reflect.Map:
		key, elem = t.Key(), t.Elem()
	case reflect.Struct:
		fields = layoutOf(t).named
	}
	for range n {
		if fields != nil {
			peek := f.scanner
			tok, err := peek.next()
			if err != nil {
				return err
			}
			elem = nil
			if f := fields[string(tok.body)]; f != nil {
				elem = f.typ
			}
		}
		if err := f.value(key); err != nil {
			return err
		}
		if err := f.value(elem); err != nil {
			return err
		}
	}
	return nil
}

func overflows(tok token, t reflect.Type) bool {
	switch k := t.Kind(); {
	case k >= reflect.Int && k <= reflect.Int64:
		return tok.kind == kindUint && tok.n > math.MaxInt64 || t.OverflowInt(int64(tok.n))
	case k >= reflect.Uint && k <= reflect.Uint64:
		return tok.kind == kindInt || t.OverflowUint(tok.n)
	}
	return false
}
