package codec

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// maxHops bounds how many pointers, interfaces, structs, slices and maps a
// walker goes through, one inside of the other. Each of the MaxDepth levels of
// an encoding may take several; more are a cycle, or too deep anyway.
const maxHops = 10 * MaxDepth

// A walker goes through a Go value as an encoder does, checks it, and changes
// what the libraries would get wrong. It copies what it changes, unless the
// value is its own.
type walker struct {
	tag    string                  // the key of struct tags, for "-"
	opaque func(reflect.Type) bool // types that encode themselves
	own    bool                    // just decoded: change in place, and settle numbers
	utc    bool                    // put times in UTC
	utf8   bool                    // refuse strings that are not UTF-8

	check   func(reflect.Value) error // of each value but inlined ones; may be nil
	odd     func(reflect.Type) bool   // plain types whose values must be checked all the same; may be nil
	inlines func(reflect.Type) []int  // the embedded fields of a struct that are checked with it; may be nil
	visited int                       // fields so far
}

var errTooDeep = errors.New("nested too deep, or a cycle")

var timeType = reflect.TypeFor[time.Time]()

// opaqueTo returns a function that tells whether a type, or a pointer to it,
// implements one of ifaces. Asking reflect each time would cost more than all
// the rest of a walk.
func opaqueTo(ifaces ...reflect.Type) func(reflect.Type) bool {
	var known sync.Map // of reflect.Type to bool
	return func(t reflect.Type) bool {
		if is, ok := known.Load(t); ok {
			return is.(bool)
		}
		is := slices.ContainsFunc(ifaces, func(i reflect.Type) bool {
			return t.Implements(i) || t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(i)
		})
		known.Store(t, is)
		return is
	}
}

// walk returns v, or a copy in which what the walker is to change is changed. If
// it owns v, a number in an any becomes an int64, a uint64 only above its range,
// or a float64.
func (w *walker) walk(v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	got, err := w.value(reflect.ValueOf(v), 0)
	if err != nil || !got.IsValid() {
		return v, err
	}
	return got.Interface(), nil
}

// value returns what v is to be replaced by; the zero Value if it can stay.
func (w *walker) value(v reflect.Value, hops int) (got reflect.Value, err error) {
	switch {
	case hops > maxHops:
		return got, errTooDeep
	case v.Type() == timeType:
		return w.time(v)
	}
	if w.check != nil {
		if err := w.check(v); err != nil {
			return got, err
		}
	}
	switch {
	case plain(v.Kind()):
		return got, nil
	case v.Kind() != reflect.Pointer && w.opaque(v.Type()):
		return got, nil // what a pointer leads to is asked in its turn
	}
	hops++
	switch v.Kind() {
	case reflect.String:
		if w.utf8 && !utf8.ValidString(v.String()) {
			return got, fmt.Errorf("string is not valid UTF-8: %.40q", v.String())
		}
	case reflect.Interface:
		return w.iface(v, hops)
	case reflect.Pointer:
		return w.pointer(v, hops)
	case reflect.Struct:
		return w.fields(v, hops)
	case reflect.Slice, reflect.Array:
		return w.elements(v, hops)
	case reflect.Map:
		return w.pairs(v, hops)
	}
	return got, nil
}

// plain reports whether values of the kind contain nothing to look at.
func plain(k reflect.Kind) bool { return k <= reflect.Complex128 }

// skips reports whether there is nothing to look at in values of the type.
func (w *walker) skips(t reflect.Type) bool {
	return plain(t.Kind()) && (w.odd == nil || !w.odd(t))
}

func (w *walker) time(v reflect.Value) (got reflect.Value, err error) {
	if !w.utc {
		return got, nil
	}
	if t := v.Interface().(time.Time); t.Location() != time.UTC {
		got = reflect.ValueOf(t.UTC())
	}
	return got, nil
}

func (w *walker) iface(v reflect.Value, hops int) (got reflect.Value, err error) {
	if v.IsNil() {
		return got, nil
	}
	e := v.Elem()
	if !w.own || !plain(e.Kind()) {
		return w.value(e, hops)
	}
	switch {
	case e.CanInt() && e.Kind() != reflect.Int64:
		got = reflect.ValueOf(e.Int())
	case e.CanUint() && e.Uint() <= math.MaxInt64:
		got = reflect.ValueOf(int64(e.Uint()))
	case e.Kind() == reflect.Float32:
		got = reflect.ValueOf(e.Float())
	}
	return got, nil
}

func (w *walker) pointer(v reflect.Value, hops int) (got reflect.Value, err error) {
	if v.IsNil() {
		return got, nil
	}
	e, err := w.value(v.Elem(), hops)
	return w.repoint(v, e, err)
}

// repoint returns what v is to be replaced by if what it points to is to be
// replaced by e.
func (w *walker) repoint(v, e reflect.Value, err error) (got reflect.Value, _ error) {
	switch {
	case err != nil || !e.IsValid():
		return got, err
	case w.own:
		v.Elem().Set(e)
		return got, nil
	}
	got = reflect.New(v.Type().Elem())
	got.Elem().Set(e)
	return got.Convert(v.Type()), nil
}

// inlined is value for an embedded struct, or a pointer to one, that is part of the
// outer one and checked with it.
func (w *walker) inlined(v reflect.Value, hops int) (got reflect.Value, err error) {
	if v.Kind() != reflect.Pointer {
		return w.fields(v, hops)
	}
	if v.IsNil() {
		return got, nil
	}
	e, err := w.fields(v.Elem(), hops)
	return w.repoint(v, e, err)
}

// mutable returns v if the walker may change it, otherwise a copy.
func (w *walker) mutable(v reflect.Value) reflect.Value {
	if w.own && v.CanSet() {
		return v
	}
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

func (w *walker) fields(v reflect.Value, hops int) (got reflect.Value, err error) {
	changes, err := w.changes(v, nil, hops)
	if err != nil || len(changes) == 0 {
		return got, err
	}
	got = w.mutable(v)
	for _, c := range changes {
		got.FieldByIndex(c.index).Set(c.to)
	}
	return got, nil
}

// A change is a field of a struct that is to be replaced.
type change struct {
	index []int // as in reflect.Value.FieldByIndex
	to    reflect.Value
}

// changes returns the changes to be made to v, which index leads to. An embedded
// struct whose type is not exported is part of the outer one: reflect can set
// its fields, but neither copy nor set itself.
func (w *walker) changes(v reflect.Value, index []int, hops int) (changes []change, err error) {
	if hops > maxHops {
		return nil, errTooDeep
	}
	var inlined []int
	if w.inlines != nil {
		inlined = w.inlines(v.Type())
	}
	for i := range v.NumField() {
		f, e := v.Type().Field(i), v.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get(w.tag), ",")
		if name == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		index := append(slices.Clip(index), i)
		inline := f.Anonymous && slices.Contains(inlined, i)
		if !f.IsExported() {
			inner, err := w.hidden(v, i, inline, index, hops)
			if err != nil {
				return nil, err
			}
			changes = append(changes, inner...)
			continue
		}
		w.visited++
		to, err := reflect.Value{}, error(nil)
		switch {
		case inline:
			to, err = w.inlined(e, hops)
		case options != "" && !w.own && strings.Contains(options, "omit") && w.empty(e):
			// It is left out, or should be: a pointer to nil would be written as nil,
			// be read as nil, and then be left out.
			if (e.Kind() == reflect.Pointer || e.Kind() == reflect.Interface) && !e.IsNil() {
				to = reflect.Zero(e.Type())
			}
		default:
			to, err = w.value(e, hops)
		}
		if err != nil {
			return nil, err
		}
		if to.IsValid() {
			changes = append(changes, change{index, to})
		}
	}
	return changes, nil
}

// hidden is changes for the i-th field of v, to which index leads, an embedded
// one whose type is not exported.
func (w *walker) hidden(v reflect.Value, i int, inline bool, index []int, hops int) ([]change, error) {
	e := v.Field(i)
	indirect := e.Kind() == reflect.Pointer
	if indirect {
		e = e.Elem()
	}
	if e.Kind() != reflect.Struct || w.opaque(e.Type()) {
		return nil, nil
	}
	if w.check != nil && !inline {
		if err := w.check(e); err != nil {
			return nil, err
		}
	}
	before := w.visited
	changes, err := w.changes(e, index, hops+1)
	if err == nil && indirect && !w.own && w.visited > before {
		err = fmt.Errorf("the embedded pointer %s of %s could not be set when it is read, as its type is not exported", v.Type().Field(i).Name, v.Type())
	}
	return changes, err
}

// empty reports whether v is a zero value in which there is nothing to look at, or
// leads to nil.
func (w *walker) empty(v reflect.Value) bool {
	if plain(v.Kind()) {
		return v.IsZero()
	}
	pointer := false
	for range maxHops { // a pointer can lead to itself
		if v.Kind() != reflect.Pointer && v.Kind() != reflect.Interface {
			return pointer && (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.IsNil() && !w.opaque(v.Type())
		}
		if v.IsNil() {
			return true
		}
		pointer, v = true, v.Elem()
	}
	return false
}

func (w *walker) elements(v reflect.Value, hops int) (got reflect.Value, err error) {
	if w.skips(v.Type().Elem()) {
		return got, nil
	}
	for i := range v.Len() {
		e, err := w.value(v.Index(i), hops)
		if err != nil {
			return got, err
		}
		if !e.IsValid() {
			continue
		}
		if !got.IsValid() {
			got = v
			if v.Kind() == reflect.Array {
				got = w.mutable(v)
			} else if !w.own {
				got = reflect.MakeSlice(v.Type(), v.Len(), v.Len())
				reflect.Copy(got, v)
			}
		}
		got.Index(i).Set(e)
	}
	return got, nil
}

func (w *walker) pairs(v reflect.Value, hops int) (got reflect.Value, err error) {
	if w.skips(v.Type().Key()) && w.skips(v.Type().Elem()) {
		return got, nil
	}
	// A map that grows while it is gone through may show a pair twice, so the
	// changes are made at the end.
	type pair struct{ was, key, elem reflect.Value }
	var changes []pair
	for it := v.MapRange(); it.Next(); {
		key, err := w.key(it.Key(), hops)
		if err != nil {
			return got, err
		}
		elem, err := w.value(it.Value(), hops)
		if err != nil {
			return got, err
		}
		if key.IsValid() || elem.IsValid() {
			changes = append(changes, pair{it.Key(), or(key, it.Key()), or(elem, it.Value())})
		}
	}
	if len(changes) == 0 {
		return got, nil
	}
	got = v
	if !w.own {
		got = cloneMap(v)
	}
	for _, c := range changes {
		got.SetMapIndex(c.was, reflect.Value{})
	}
	for _, c := range changes {
		if got.MapIndex(c.key).IsValid() {
			return got, fmt.Errorf("a map has two keys for the same time: %v", c.key)
		}
		got.SetMapIndex(c.key, c.elem)
	}
	return got, nil
}

// key is value for the key of a map. JSON writes keys in a way of its own, without
// the methods of a pointer, wherever the map is.
func (w *walker) key(v reflect.Value, hops int) (reflect.Value, error) {
	if w.odd != nil && w.odd(v.Type()) {
		v = w.mutable(v)
	}
	return w.value(v, hops)
}

// or returns a, or b if a is the zero Value.
func or(a, b reflect.Value) reflect.Value {
	if a.IsValid() {
		return a
	}
	return b
}

func cloneMap(v reflect.Value) reflect.Value {
	c := reflect.MakeMapWithSize(v.Type(), v.Len())
	for it := v.MapRange(); it.Next(); {
		c.SetMapIndex(it.Key(), it.Value())
	}
	return c
}
