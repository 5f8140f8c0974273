package codec

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// A layout is how the MessagePack library reads and writes a struct type. It is
// worked out here once more, as the library's own is not to be had, and as what
// cannot be stored must be known before: the library dies of a struct that embeds
// itself, and writes to the log of the program about names that are there twice.
type layout struct {
	fields  []*layoutField          // that are written, in this order
	named   map[string]*layoutField // that are read, with aliases and inlined structs
	inlined []int                   // the embedded structs whose fields are among fields
	clashes []*layoutField          // of fields, those that are read into another field
	hazards []hazard
	array   bool  // written as an array
	omits   bool  // some field has omitempty
	endless error // the struct embeds itself
}

type layoutField struct {
	name      string
	place     place
	typ       reflect.Type
	omitEmpty bool
}

// A place is where a field is: Base.Name in Go.
type place struct {
	index []int
	path  string
}

// in returns the place of the same in the struct that has f.
func (p place) in(i int, f reflect.StructField) place {
	return place{append([]int{i}, p.index...), f.Name + "." + p.path}
}

// of returns the value there. If a pointer on the way is nil, which is a hazard of
// its own, there is none.
func (p place) of(v reflect.Value) (at reflect.Value, ok bool) {
	for _, i := range p.index {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return at, false
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v, true
}

// A hazard is an embedded field of which only the value tells whether what is
// written can be read.
type hazard struct {
	place    place
	pointer  bool // to a struct that is inlined
	exported bool
}

var layouts sync.Map // of reflect.Type to *layout

// layoutOf returns the layout of the struct type t.
func layoutOf(t reflect.Type) *layout {
	if l, ok := layouts.Load(t); ok {
		return l.(*layout)
	}
	l := newLayout(t, nil)
	layouts.Store(t, l)
	return l
}

// newLayout works as getFields of the library, msgpack 5.4. Outer are the types
// that t is embedded in.
func newLayout(t reflect.Type, outer []reflect.Type) *layout {
	l := &layout{named: make(map[string]*layoutField)}
	if slices.Contains(outer, t) {
		l.endless = fmt.Errorf("%s embeds itself: give the field a name, or the tag `msgpack:\",noinline\"`", t)
		return l
	}
	outer = append(slices.Clip(outer), t)
	omitAll := false
	for i := range t.NumField() {
		f := t.Field(i)
		name, list, _ := strings.Cut(f.Tag.Get("msgpack"), ",")
		options := strings.Split(list, ",")
		if name == "-" {
			continue
		}
		if f.Name == "_msgpack" {
			l.array = slices.Contains(options, "as_array") || slices.Contains(options, "asArray")
			omitAll = omitAll || slices.Contains(options, "omitempty")
		}
		if !f.IsExported() && !f.Anonymous {
			continue
		}
		if name == "" {
			name = f.Name
		}
		here := place{[]int{i}, f.Name}
		lf := &layoutField{name, here, f.Type, omitAll || slices.Contains(options, "omitempty")}
		if f.Anonymous && !slices.Contains(options, "noinline") && l.inline(i, f, slices.Contains(options, "inline"), outer) {
			l.named[name] = lf
			continue
		}
		if k := f.Type.Kind(); !f.IsExported() && k != reflect.Struct {
			l.hazards = append(l.hazards, hazard{place: here})
		}
		l.add(lf)
		for _, option := range options {
			if alias, ok := strings.CutPrefix(option, "alias:"); ok {
				l.named[alias] = lf
			}
		}
	}
	for _, f := range l.fields {
		if l.named[f.name] != f {
			l.clashes = append(l.clashes, f)
		}
	}
	return l
}

func (l *layout) add(f *layoutField) {
	l.fields = append(l.fields, f)
	l.named[f.name] = f
	l.omits = l.omits || f.omitEmpty
}

// inline adds the fields of the embedded field f, which is the i-th, and reports
// whether that is done: if it is a struct, or a pointer to one, and has no name
// that is there already. With force, those that are not.
func (l *layout) inline(i int, f reflect.StructField, force bool, outer []reflect.Type) bool {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || msgpackOpaque(t) && !force {
		return false
	}
	in := newLayout(t, outer)
	if in.endless != nil {
		l.endless = in.endless
	}
	taken := func(f *layoutField) bool { return l.named[f.name] != nil }
	if !force && slices.ContainsFunc(in.fields, taken) {
		return false
	}
	l.inlined = append(l.inlined, i)
	if f.Type.Kind() == reflect.Pointer && len(in.fields) > 0 {
		l.hazards = append(l.hazards, hazard{place{[]int{i}, f.Name}, true, f.IsExported()})
	}
	for _, h := range in.hazards {
		h.place = h.place.in(i, f)
		l.hazards = append(l.hazards, h)
	}
	for _, lf := range in.fields {
		if force && taken(lf) {
			continue
		}
		lf.place = lf.place.in(i, f)
		l.add(lf)
	}
	return true
}

// check refuses a v, a struct of this layout, that could not be read again.
func (l *layout) check(v reflect.Value) error {
	if l.endless != nil {
		return l.endless
	}
	for _, f := range l.clashes {
		if at, ok := f.place.of(v); ok && !(f.omitEmpty && nothing(at)) {
			return fmt.Errorf("the fields %s and %s of %s have one name in MessagePack, %q: give one of them another by a tag", f.place.path, l.named[f.name].place.path, v.Type(), f.name)
		}
	}
	for _, h := range l.hazards {
		if err := l.checkHazard(h, v); err != nil {
			return err
		}
	}
	return nil
}

// nothing reports whether v is left out by omitempty, unless it is a struct or an
// array.
func nothing(v reflect.Value) bool {
	if k := v.Kind(); k == reflect.Slice || k == reflect.Map {
		return v.Len() == 0
	}
	return v.IsZero()
}

func (l *layout) checkHazard(h hazard, v reflect.Value) error {
	at, ok := h.place.of(v)
	if !ok {
		return nil
	}
	k := at.Kind()
	isNil := (k == reflect.Pointer || k == reflect.Interface) && at.IsNil()
	switch {
	case isNil && (!h.pointer || l.omits && !l.array):
		return nil // it is written as nil, or nothing of it
	case !h.exported:
		return fmt.Errorf("the embedded field %s of %s could not be set when it is read, as its type is not exported", h.place.path, v.Type())
	case isNil:
		// Its fields would be nil one by one, of which the library makes a struct.
		// With an omitempty anywhere it leaves them out. The tag noinline would do too,
		// but what is stored already would not be read any more.
		instead := "set it"
		if !l.array {
			instead += ", or give some field of the struct omitempty, with which it is left out"
		}
		return fmt.Errorf("the embedded pointer %s of %s is nil, which would not be read as nil: %s", h.place.path, v.Type(), instead)
	}
	return nil
}
