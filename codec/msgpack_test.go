package codec

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

var cet = time.FixedZone("CET", 3600)

// The bytes of values, which are in files and may not change. Where several
// values are in one row they are the same value.
func TestMessagePackGolden(t *testing.T) {
	type named map[string]int
	type inner struct {
		Z, A named
	}
	tests := []struct {
		name string
		want string
		vs   []any
	}{
		{"nil", "c0", []any{nil, (*int)(nil), []int(nil), map[string]int(nil), []byte(nil)}},
		{"bool", "c3", []any{true}},
		{"one", "01", []any{1, int8(1), int64(1), uint8(1), uint64(1), time.Duration(1)}},
		{"127", "7f", []any{127, uint8(127)}},
		{"128", "cc80", []any{128, uint8(128), int16(128)}},
		{"256", "cd0100", []any{256, uint16(256)}},
		{"65536", "ce00010000", []any{65536, uint32(65536)}},
		{"2^32", "cf0000000100000000", []any{int64(1 << 32), uint64(1 << 32)}},
		{"2^64-1", "cfffffffffffffffff", []any{uint64(math.MaxUint64)}},
		{"-1", "ff", []any{-1, int8(-1), int64(-1)}},
		{"-32", "e0", []any{-32}},
		{"-33", "d0df", []any{-33, int64(-33)}},
		{"-129", "d1ff7f", []any{-129}},
		{"-32769", "d2ffff7fff", []any{-32769}},
		{"min int64", "d38000000000000000", []any{int64(math.MinInt64)}},
		{"half", "ca3f000000", []any{0.5, float32(0.5)}},
		{"one as float", "ca3f800000", []any{1.0, float32(1)}},
		{"a tenth", "cb3fb999999999999a", []any{0.1}},
		{"minus zero", "ca80000000", []any{math.Copysign(0, -1)}},
		{"infinity", "ca7f800000", []any{math.Inf(1)}},
		{"NaN", "ca7fc00000", []any{math.NaN(), math.Float64frombits(0xfff8dead00000000), float32(math.NaN())}},
		{"string", "a2c3a9", []any{"é"}},
		{"empty string", "a0", []any{""}},
		{"string of 32", "d920" + strings.Repeat("61", 32), []any{strings.Repeat("a", 32)}},
		{"bytes", "c4020001", []any{[]byte{0, 1}, [2]byte{0, 1}}},
		{"no bytes", "c400", []any{[]byte{}}},
		{"empty array", "90", []any{[]int{}, []any{}, [0]int{}}},
		{"array", "920102", []any{[]int{1, 2}, []any{1, uint8(2)}, [2]int64{1, 2}}},
		{"seconds", "d6ff00000001", []any{time.Unix(1, 0), time.Unix(1, 0).In(cet), time.Unix(1, 0).UTC()}},
		{"nanoseconds", "d7ff0000000400000001", []any{time.Unix(1, 1).In(cet)}},
		{"zero time", "c70cff00000000fffffff1886e0900", []any{time.Time{}, time.Time{}.In(cet)}},
		{"keys by length, then bytes", "83a16103a16201a2616102", []any{
			map[string]int{"b": 1, "aa": 2, "a": 3},
			map[any]any{"b": 1, "aa": 2, "a": 3},
			named{"b": 1, "aa": 2, "a": 3},
			struct {
				B  int `msgpack:"b"`
				AA int `msgpack:"aa"`
				A  int `msgpack:"a"`
			}{1, 2, 3},
		}},
		{"keys that are integers", "8401c2cc80c2cd0100c2ffc2", []any{
			map[int]bool{256: false, -1: false, 128: false, 1: false},
		}},
		{"maps inside of structs", "82a14182a17801a17902a15ac0", []any{inner{A: named{"y": 2, "x": 1}}, &inner{A: named{"y": 2, "x": 1}}}},
		{"keys that are times", "82d6ff0000000102d6ff0000000201", []any{map[time.Time]int{time.Unix(2, 0).In(cet): 1, time.Unix(1, 0): 2}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, v := range tt.vs {
				data := marshal(t, MessagePack, v)
				if got := hex.EncodeToString(data); got != tt.want {
					t.Errorf("%T: got %s, want %s", v, got, tt.want)
				}
				if v == nil {
					continue
				}
				// Back into its own type, and into an any.
				for _, p := range []any{reflect.New(reflect.TypeOf(v)).Interface(), new(any)} {
					if err := MessagePack.Unmarshal(data, p); err != nil {
						t.Errorf("%T: %v", p, err)
					} else if again := marshal(t, MessagePack, reflect.ValueOf(p).Elem().Interface()); !bytes.Equal(again, data) {
						t.Errorf("%T: decoded and encoded again: %x, want %x", p, again, data)
					}
				}
			}
		})
	}
}

// Well-formed bytes of other writers mean the same value.
func TestMessagePackAccepts(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"int64 for 1", "d30000000000000001", "01"},
		{"uint16 for -1 as int16", "d1ffff", "ff"},
		{"float64 for a half", "cb3fe0000000000000", "ca3f000000"},
		{"NaN with a payload", "cb7ff8000000000001", "ca7fc00000"},
		{"str32", "db0000000161", "a161"},
		{"bin32", "c60000000161", "c40161"},
		{"array32", "dd0000000101", "9101"},
		{"map32", "df0000000101c0", "8101c0"},
		{"time of 12 bytes", "c70cff000000000000000000000001", "d6ff00000001"},
		{"time of 8 bytes", "d7ff0000000000000001", "d6ff00000001"},
		{"unsorted", "83a16201a16102a16303", "83a16102a16201a16303"},
		{"unsorted inside a key", "8182a16201a1610203", "8182a16102a1620103"},
		{"unsorted at two levels", "82a16282a17901a17802a16101", "82a16101a16282a17802a17901"},
		{"unsorted after a change", "93d001cc0182a16201a16102", "93010182a16102a16201"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := unhex(tt.in)
			got, err := canonical(in)
			if err != nil || hex.EncodeToString(got) != tt.want {
				t.Errorf("got %x, %v; want %s", got, err, tt.want)
			}
			if hex.EncodeToString(in) != tt.in {
				t.Errorf("the data was changed to %x", in)
			}
		})
	}
}

// hostile are bytes that must be refused before the library sees them.
var hostile = []struct {
	name   string
	in     []byte
	offset int
}{
	{"nothing", nil, 0},
	{"array of 4G (crash of msgpack 5.4)", unhex("ddffffffff"), 0},
	{"map of 4G (crash of msgpack 5.4)", unhex("dfffffffff"), 0},
	{"array of 4G inside", unhex("81a161ddffffffff"), 3},
	{"string of 4G", unhex("dbffffffff61"), 0},
	{"bytes of 4G", unhex("c6ffffffff61"), 0},
	{"extension of 4G", unhex("c9ffffffffff"), 0},
	{"array of 2 that has 1", unhex("9201"), 0},
	{"map of 1 that has a key", unhex("8101"), 0},
	{"map of 2^31, twice of which is 0 in 32 bits", unhex("df8000000001"), 0},
	{"length cut short", unhex("dd0000"), 0},
	{"number cut short", unhex("cf00"), 0},
	{"code c1", unhex("91c1"), 1},
	{"trailing byte", unhex("0101"), 1},
	{"trailing value after an array", unhex("910102"), 2},
	{"key twice", unhex("82a16101a16102"), 4},
	{"key twice, not in a row", unhex("83a16101a16202a16103"), 0},
	{"key twice, spelled otherwise", unhex("820102d0010a"), 3},
	{"key twice, maps with another order", unhex("8282010203040082030401020000"), 7},
	{"key twice, inside", unhex("9182a16101a16102"), 5},
	{"key NaN", unhex("8230c0caffff303030"), 3},
	{"101 arrays", append(bytes.Repeat([]byte{0x91}, 101), 0x01), 100},
	{"101 maps", append(bytes.Repeat([]byte{0x81, 0x01}, 101), 0x01), 200},
	{"101 maps as keys", bytes.Repeat([]byte{0x81}, 300), 100},
	{"2M arrays (stack overflow of msgpack)", bytes.Repeat([]byte{0x91}, 2_000_000), 100},
	{"extension with a map of 4G in it", unhex("c70505dfffffffff"), 0},
	{"extension of no type we know", unhex("d40100"), 0},
	{"extension like a time, of another type", unhex("d60500000001"), 0},
	{"interned string", unhex("d48000"), 0},
	{"time of 5 bytes", unhex("c705ff0000000001"), 0},
	{"time of no bytes", unhex("c700ff"), 0},
	{"time with 1e9 nanoseconds", unhex("c70cff3b9aca000000000000000001"), 0},
}

func TestMessagePackHostile(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			for _, v := range targets() {
				err := MessagePack.Unmarshal(tt.in, v)
				var serr *SyntaxError
				if !errors.Is(err, ErrMalformed) || !errors.As(err, &serr) {
					t.Fatalf("into %T: error %v, want ErrMalformed", v, err)
				}
				if serr.Offset != tt.offset {
					t.Errorf("offset %d, want %d: %v", serr.Offset, tt.offset, err)
				}
			}
			if _, err := ToJSON("msgpack", tt.in); !errors.Is(err, ErrMalformed) {
				t.Errorf("ToJSON: error %v, want ErrMalformed", err)
			}
		})
	}
}

type tree struct {
	A    int8
	B    *tree
	C    []tree
	M    map[string]*tree
	K    map[[2]byte]time.Time
	T    time.Time
	P    *time.Time
	X    any
	S    []string
	D    []byte
	E    [3]int
	F    float32
	Big  big.Int // text or binary of its own
	Skip func()  `msgpack:"-" json:"-"`
}

// targets returns pointers to zero values of many types.
func targets() []any {
	return []any{
		new(any), new(map[string]any), new(map[any]any), new(map[string]string), new(map[string]bool),
		new(map[int8]any), new([]any), new([]string), new([]int8), new([]struct{}), new([4]any), new(string), new([]byte),
		new([4]byte), new(int), new(uint8), new(float32), new(float64), new(bool), new(time.Time),
		new(*time.Time), new(map[time.Time]time.Time), new(time.Duration), new(tree), new(*tree),
		new(msgpack.RawMessage), new(Embeds), new(error), new(fmt.Stringer), new(chan int), new(func()),
	}
}

// The library, told to decode a map, takes the inside of an extension for one.
// The body of a time is the only one that gets so far.
func TestMessagePackMapInsideTime(t *testing.T) {
	for _, in := range []string{
		"d7ffdfffffffff000000", // 4G pairs
		"d6ffdfffffff",
		"d6ffdeffff00",
		"d6ff81a09191",
		"c70cffdfffffffff00000000000000",
	} {
		var m map[string]any
		var n map[int]map[string]any
		in := unhex(in)
		if alloc := allocated(func() {
			if MessagePack.Unmarshal(in, &m) == nil || MessagePack.Unmarshal(append([]byte{0x81, 1}, in...), &n) == nil {
				t.Errorf("%x: a time was decoded into a map", in)
			}
		}); alloc > 1<<16 {
			t.Errorf("%x: %d bytes allocated", in, alloc)
		}
	}
}

// What a decoder trips over is an error.
func TestMessagePackMisfit(t *testing.T) {
	tests := []struct {
		name string
		in   string
		v    any
	}{
		{"nil for a time (library panics)", "81a154c0", new(tree)},
		{"array as a key of an any", "819001", new(any)},
		{"map as a key of an any", "818001", new(any)},
		{"bytes as a key of an any, after a string", "82a161c0c40161c0", new(any)},
		{"300 for an int8", "81a141cd012c", new(tree)},
		{"-1 for a uint", "ff", new(uint)},
		{"2^63 for an int64", "cf8000000000000000", new(int64)},
		{"128 for an int8 deep inside", "81a14d81a17881a14391" + "81a141cc80", new(tree)},
		{"128 for an int8 key", "81cc80c0", new(map[int8]any)},
		{"256 for an embedded field", "81a141cd0100", new(struct{ tree })},
		{"256 for an aliased field", "81a161cd0100", new(struct {
			X uint8 `msgpack:"x,alias:a"`
		})},
		{"float64 for a float32", "cb3fb999999999999a", new(float32)},
		{"string for an int", "a161", new(int)},
		{"array of 4 for 3", "81a1459401020304", new(tree)},
		{"int for an interface with methods (library panics)", "01", new(fmt.Stringer)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := MessagePack.Unmarshal(unhex(tt.in), tt.v)
			if err == nil || errors.Is(err, ErrMalformed) {
				t.Errorf("got %+v, error %v; want an error that is not ErrMalformed", reflect.ValueOf(tt.v).Elem(), err)
			} else if strings.Contains(err.Error(), "panic") != strings.HasSuffix(tt.name, "(library panics)") {
				t.Errorf("a panic, or none where one was known: %v", err)
			}
		})
	}
}

// A map whose keys change while they are settled. A map that grows in the middle
// of a range shows some pairs twice; enough of them, and it does.
func TestMessagePackAnyKeys(t *testing.T) {
	in := map[any]any{"s": 0}
	for i := range 1000 {
		in[i-500] = i
		in[time.Unix(int64(i), 0).In(cet)] = i
	}
	var got map[any]any
	if err := MessagePack.Unmarshal(marshal(t, MessagePack, in), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(in) || got[int64(-500)] != int64(0) || got[time.Unix(999, 0).UTC()] != int64(999) {
		t.Errorf("got %d keys, want %d", len(got), len(in))
	}
}

func TestMessagePackAny(t *testing.T) {
	in := []any{
		nil, true, int8(-5), uint8(200), int64(math.MaxInt64), uint64(math.MaxUint64), float32(0.5), 0.1, "s",
		[]byte{1},
		time.Unix(1, 2).In(cet),
		[]any{uint16(1)},
		map[string]any{"a": int8(1)},
		map[string]int{},
		map[int]uint8{1: 2},
		map[any]any{"a": 1, 1: "a", true: nil, time.Unix(3, 0).In(cet): uint8(4)},
	}
	want := []any{
		nil, true, int64(-5), int64(200), int64(math.MaxInt64), uint64(math.MaxUint64), 0.5, 0.1, "s",
		[]byte{1},
		time.Unix(1, 2).UTC(),
		[]any{int64(1)},
		map[string]any{"a": int64(1)},
		map[string]any{},
		map[any]any{int64(1): int64(2)},
		map[any]any{"a": int64(1), int64(1): "a", true: nil, time.Unix(3, 0).UTC(): int64(4)},
	}
	var got any
	if err := MessagePack.Unmarshal(marshal(t, MessagePack, in), &got); err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		if g := got.([]any)[i]; !reflect.DeepEqual(g, w) {
			t.Errorf("%d: got %#v, want %#v", i, g, w)
		}
	}
}

// Times come back in UTC wherever they are.
func TestTimesInUTC(t *testing.T) {
	type embedded struct{ Emb time.Time }
	type Outer struct{ Out time.Time }
	type T struct {
		embedded
		*Outer
		A time.Time
		P *time.Time
		L []time.Time
		R [1]time.Time
		M map[string]time.Time
		N map[string][]*time.Time
		S []struct{ T time.Time }
		Q map[string]struct{ T time.Time }
		X any
	}
	at := time.Date(2024, 5, 6, 7, 8, 9, 10, cet)
	st := struct{ T time.Time }{at}
	v := T{
		embedded{at},
		&Outer{at}, at, &at,
		[]time.Time{at},
		[1]time.Time{at},
		map[string]time.Time{"a": at},
		map[string][]*time.Time{"a": {&at}},
		[]struct{ T time.Time }{st},
		map[string]struct{ T time.Time }{"a": st},
		[]any{at, &at, map[string]any{"a": at}},
	}
	zone := time.Local
	time.Local = cet // or a machine in UTC would hide a fault
	defer func() { time.Local = zone }()
	for _, c := range []Codec{MessagePack, JSON} {
		data := marshal(t, c, v)
		text, err := ToJSON(c.Name(), data)
		if err != nil || strings.Count(string(text), `"2024-05-06T06:08:09.00000001Z"`) != 13 {
			t.Errorf("%s: %s, %v; want the time in UTC 13 times", c.Name(), text, err)
		}
		var got T
		if err := c.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		for i, tm := range []time.Time{
			got.Emb, got.Out, got.A, *got.P, got.L[0], got.R[0], got.M["a"], *got.N["a"][0], got.S[0].T, got.Q["a"].T,
		} {
			if tm != at.UTC() {
				t.Errorf("%s: time %d is %v, want %v", c.Name(), i, tm, at.UTC())
			}
		}
	}
	if at.Location() != cet || v.A.Location() != cet || v.M["a"].Location() != cet || v.L[0].Location() != cet {
		t.Error("Marshal changed its argument")
	}
}

type lawless struct{ out string }

func (l lawless) EncodeMsgpack(e *msgpack.Encoder) error {
	_, err := e.Writer().Write(unhex(l.out))
	return err
}

// What a type of its own encoding writes is put in order, or refused.
func TestMessagePackCustom(t *testing.T) {
	tests := []struct{ name, out, want string }{
		{"unsorted", "82a16201a161d30000000000000002", "82a16102a16201"},
		{"nothing", "", ""},
		{"two values", "0101", ""},
		{"key twice", "8201010102", ""},
		{"not MessagePack", "c1", ""},
		{"array of 4G", "ddffffffff", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := MessagePack.Marshal(lawless{tt.out})
			if hex.EncodeToString(got) != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %x, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// A value that has no end, or no encoding, is an error.
func TestMarshalRefuses(t *testing.T) {
	type list struct{ Next *list }
	cycle := new(list)
	cycle.Next = cycle
	self := map[string]any{}
	self["self"] = self
	slice := []any{nil}
	slice[0] = slice
	var loop any
	loop = &loop
	deep := any(1)
	for range MaxDepth + 1 {
		deep = []any{deep}
	}
	tests := []struct {
		name string
		v    any
	}{
		{"pointer to itself", cycle},
		{"map in itself", self},
		{"slice in itself", slice},
		{"interface with itself", loop},
		{"101 levels", deep},
		{"channel", make(chan int)},
		{"function in a map", map[string]any{"f": func() {}}},
		{"two keys that are one time", map[time.Time]int{time.Unix(1, 0).UTC(): 1, time.Unix(1, 0).In(cet): 2}},
	}
	for _, c := range []Codec{MessagePack, JSON} {
		for _, tt := range tests {
			t.Run(c.Name()+" "+tt.name, func(t *testing.T) {
				if got, err := c.Marshal(tt.v); err == nil || got != nil {
					t.Errorf("got %.40x, error %v; want an error", got, err)
				}
			})
		}
		if _, err := c.Marshal(deep.([]any)[0]); err != nil {
			t.Errorf("%s: %d levels: %v", c.Name(), MaxDepth, err)
		}
	}
	if _, err := MessagePack.Marshal(map[float64]int{math.NaN(): 1}); err == nil {
		t.Error("a map with NaN for a key was encoded")
	}
	// A field that is not encoded may lead back.
	type child struct {
		Parent *child `msgpack:"-" json:"-"`
	}
	c := new(child)
	c.Parent = c
	marshal(t, MessagePack, c)
	marshal(t, JSON, c)
}

type (
	Base   struct{ Name string }
	Embeds struct {
		*Base
		P **int `msgpack:",omitempty" json:",omitempty"`
	}
	Deep     struct{ *Base }
	Loop     struct{ *Loop }
	LoopA    struct{ *LoopB }
	LoopB    struct{ *LoopA }
	ownByte  byte
	ownNames []string
	base     struct{ Name string }
	bare     struct{ n int }
	Named    struct {
		Name string `msgpack:",omitempty"`
	}
)

// What cannot be read again, or not as it was, is not written. The library says
// nothing of it, or panics, or dies.
func TestMarshalUnreadable(t *testing.T) {
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	type Aliased struct {
		A int `msgpack:"a"`
		X int `msgpack:"x,alias:a"`
	}
	type Array struct {
		_msgpack struct{} `msgpack:",as_array"` //nolint:unused // the library reads the tag
		*Base
		A int `msgpack:",omitempty"`
	}
	type Outer struct {
		Base
		Name string
	}
	for _, tt := range []struct {
		name, want string
		v          any
		json       bool // it refuses too
	}{
		{"nil embedded pointer", "embedded pointer Base", struct {
			*Base
			A int
		}{}, false},
		{"nil embedded pointer, two levels deep", "embedded pointer Deep.Base", struct {
			Deep
			A int
		}{}, false},
		{"nil embedded pointer in a map", "embedded pointer Base", map[string]Deep{"a": {}}, false},
		{"nil embedded pointer, as an array", "embedded pointer Base", Array{}, false},
		{"nil embedded pointer in an embedded struct with a name", "embedded pointer Base", struct {
			Deep `msgpack:"d,noinline"`
			A    int `msgpack:",omitempty"`
		}{}, false},
		{"embedded pointer that is not exported", "field base of", struct {
			*base
			A int
		}{&base{"x"}, 1}, true},
		{"the same, nil", "field base of", struct {
			*base
			A int
		}{}, false},
		{"the same, as a field", "field base of", struct {
			*base `msgpack:",noinline"`
		}{&base{"x"}}, true},
		{"embedded slice that is not exported", "field ownNames of", struct{ ownNames }{}, false},
		{"field over an embedded one", "fields Base.Name and Name of codec.Outer", Outer{}, false},
		{"alias over a field", "fields A and X of codec.Aliased", []Aliased{{}}, false},
		{"struct that embeds itself", "codec.Loop embeds itself", Loop{}, false},
		{"struct that embeds itself by another", "embeds itself", &LoopA{}, false},
		{"array of bytes of one's own", "*[2]codec.ownByte", map[string]any{"a": [2]ownByte{}}, false},
		{"array of bytes of one's own, as a key", "*[2]codec.ownByte", map[[2]ownByte]int{{}: 1}, false},
		{"uintptr", "uint64", uintptr(1), false},
		{"uintptrs", "uint64", map[uintptr][]uintptr{1: {1}}, false},
	} {
		data, err := MessagePack.Marshal(tt.v)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "panic") || errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %x, %v; want an error with %q", tt.name, data, err, tt.want)
		}
		if !tt.json {
			continue
		}
		if text, err := JSON.Marshal(tt.v); err == nil {
			t.Errorf("JSON: %s: %s", tt.name, text)
		}
	}
	if err := MessagePack.Unmarshal(unhex("81a3466f6f01"), new(Loop)); err == nil || !strings.Contains(err.Error(), "embeds itself") {
		t.Errorf("decoded into a struct that embeds itself: %v", err)
	}
	if logged.Len() > 0 {
		t.Errorf("the library logged: %s", &logged)
	}
}

// What is close to that, and comes back.
func TestEmbedded(t *testing.T) {
	type shadowed struct {
		Name string
		Base
	}
	for _, tt := range []struct {
		name, want string
		v          any
	}{
		{"embedded pointer", `{"A":1,"Name":"x"}`, struct {
			*Base
			A int
		}{&Base{"x"}, 1}},
		{"nil embedded pointer, with an omitempty", `{"A":1}`, struct {
			*Base
			A int `msgpack:",omitempty"`
		}{nil, 1}},
		{"nil embedded pointer in an embedded struct, with an omitempty", `{"A":1}`, struct {
			Deep
			A int `msgpack:",omitempty"`
		}{Deep{}, 1}},
		{"nil embedded pointer that is not exported, with an omitempty", `{"A":1}`, struct {
			*base
			A int `msgpack:",omitempty"`
		}{nil, 1}},
		{"nil embedded pointer as a field", `{"A":1,"Base":null}`, struct {
			*Base `msgpack:",noinline"`
			A     int
		}{nil, 1}},
		{"embedded struct that is not exported", `{"A":1,"Name":"x"}`, struct {
			base
			A int
		}{base{"x"}, 1}},
		{"field before an embedded one of the same name", `{"Base":{"Name":"y"},"Name":"x"}`, shadowed{"x", Base{"y"}}},
		{"field after an embedded one, which is left out", `{"Name":"x"}`, struct {
			Named
			Name string
		}{Named{}, "x"}},
		{"alias of a field that comes after it", `{"a":2,"x":1}`, struct {
			X int `msgpack:"x,alias:a"`
			A int `msgpack:"a"`
		}{1, 2}},
		{"array of bytes of one's own", `"AQI="`, [2]ownByte{1, 2}},
		{"uintptr that is left out", `{}`, struct {
			A uintptr `msgpack:",omitempty"`
		}{}},
	} {
		data := marshal(t, MessagePack, tt.v)
		if text, err := ToJSON("msgpack", data); err != nil || string(text) != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.name, text, err, tt.want)
		}
		got := reflect.New(reflect.TypeOf(tt.v))
		if err := MessagePack.Unmarshal(data, got.Interface()); err != nil || !reflect.DeepEqual(got.Elem().Interface(), tt.v) {
			t.Errorf("%s: got %+v, %v; want %+v", tt.name, got.Elem(), err, tt.v)
		}
	}
	// There is nothing in it that would have to be set.
	for _, c := range []Codec{MessagePack, JSON} {
		marshal(t, c, struct {
			*bare
			A int
		}{&bare{1}, 1})
	}
}

// What is left out when it is empty is so when it is a pointer to nil, as which it
// would not come back: the second time it would be left out.
func TestOmittedPointerToNil(t *testing.T) {
	type T struct {
		P **int     `msgpack:",omitempty" json:",omitempty"`
		S *[]string `msgpack:",omitempty" json:",omitempty"`
		X any       `msgpack:",omitempty" json:",omitempty"`
		Z **int     `msgpack:",omitempty" json:",omitzero"`
		Q **int
	}
	var null *int
	var names []string
	v := T{&null, &names, &null, &null, &null}
	one := 1
	first := &one
	for _, c := range []Codec{MessagePack, JSON} {
		data := marshal(t, c, v)
		var got T
		if err := c.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if again := marshal(t, c, got); !bytes.Equal(again, data) {
			t.Errorf("%s: %q was decoded, and encoded again: %q", c.Name(), data, again)
		}
		data = marshal(t, c, T{P: &first, S: &[]string{}})
		got = T{}
		if err := c.Unmarshal(data, &got); err != nil || got.P == nil || **got.P != 1 || got.S == nil {
			t.Errorf("%s: %q: got %+v, %v", c.Name(), data, got, err)
		}
	}
	if v.P != &null || v.S != &names {
		t.Error("Marshal changed its argument")
	}
}

// The order in which a map was filled does not show.
func TestMapOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []Codec{MessagePack, JSON} {
		for range 200 {
			n := rng.IntN(40)
			a, b := map[string]map[int]string{}, map[string]map[int]string{}
			keys := rng.Perm(n)
			for _, m := range []map[string]map[int]string{a, b} {
				for _, k := range keys {
					in := map[int]string{}
					for _, j := range rng.Perm(20) {
						in[j*k] = "x"
					}
					m[fmt.Sprint(k*k)] = in
				}
				rng.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			}
			if x, y := marshal(t, c, a), marshal(t, c, b); !bytes.Equal(x, y) {
				t.Fatalf("%s: one map, two encodings:\n%x\n%x", c.Name(), x, y)
			}
		}
	}
}

// Hostile bytes do not allocate more than a bounded multiple of their length,
// whatever they are decoded into.
func TestMessagePackMemory(t *testing.T) {
	const size = 1 << 16
	header := func(code byte, n int) []byte {
		return []byte{code, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
	ascending := header(0xdf, size/4)
	descending := header(0xdf, size/4)
	for i := range size / 4 {
		ascending = append(ascending, 0xcd, byte(i>>8), byte(i), 0x80)
		descending = append(descending, 0xcd, byte(^i>>8), byte(^i), 0x80)
	}
	nested := []byte{0x01}
	for range MaxDepth { // each level unsorted
		nested = append(append([]byte{0x82, 0x02}, nested...), 0x01, 0xc0)
	}
	tests := []struct {
		name string
		in   []byte
	}{
		{"nils", append(header(0xdd, size), bytes.Repeat([]byte{0xc0}, size)...)},
		{"empty arrays", append(header(0xdd, size), bytes.Repeat([]byte{0x90}, size)...)},
		{"empty maps", append(header(0xdd, size), bytes.Repeat([]byte{0x80}, size)...)},
		{"maps of a string", append(header(0xdd, size), bytes.Repeat(unhex("81a0c0"), size)...)},
		{"maps of a number", append(header(0xdd, size), bytes.Repeat(unhex("8101c0"), size)...)},
		{"map", ascending},
		{"map, unsorted", descending},
		{"maps in maps, unsorted", nested},
		{"length of all but one", append(header(0xdd, size), bytes.Repeat([]byte{0xc0}, size-1)...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bound := uint64(400*len(tt.in) + 1<<14)
			if got := allocated(func() { _ = MessagePack.Unmarshal(tt.in, new(any)) }); got > bound {
				t.Errorf("%d bytes allocated for %d, want at most %d", got, len(tt.in), bound)
			} else {
				t.Logf("%.1f bytes allocated a byte", float64(got)/float64(len(tt.in)))
			}
		})
	}
	for _, tt := range hostile {
		if len(tt.in) > 1000 {
			continue
		}
		for _, v := range targets() {
			if got := allocated(func() { _ = MessagePack.Unmarshal(tt.in, v) }); got > 1<<15 {
				t.Errorf("%s into %T: %d bytes allocated", tt.name, v, got)
			}
		}
	}
}

// Canonical bytes are checked without a copy.
func TestCanonicalIsFree(t *testing.T) {
	data := marshal(t, MessagePack, map[string]any{"a": []int{1, 300}, "b": "text", "c": map[int]string{5: "x"}})
	if n := testing.AllocsPerRun(100, func() { _, _ = canonical(data) }); n > 1 {
		t.Errorf("%v allocations, want 1 at most", n)
	}
}

// allocated returns the bytes that f allocates. Other goroutines are idle.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func FuzzMessagePack(f *testing.F) {
	for _, tt := range hostile {
		f.Add(tt.in[:min(len(tt.in), 200)])
	}
	for _, v := range []any{
		nil, 1, -1, 0.1, "s", []byte("b"), time.Unix(1, 1),
		[]any{1, "a"},
		map[any]any{1: 2, "a": time.Time{}},
		tree{A: 1, C: []tree{{}}, M: map[string]*tree{"x": nil}, X: 1, S: []string{"a"}, E: [3]int{1}},
	} {
		f.Add(marshal(f, MessagePack, v))
	}
	f.Add([]byte("\x8d\xa100102000819\xca2110Y1\xa17078A\xa10\xa11\xc7\f\xff997121020101 2\xa31008")) // map in an any, keys change
	f.Add(unhex("83d30000000000000001d7ffdfffffffff000000a16201a16101"))
	f.Fuzz(func(t *testing.T, data []byte) {
		was := bytes.Clone(data)
		canon, cerr := canonical(data)
		text, err := ToJSON("msgpack", data)
		if (err == nil) != (cerr == nil) {
			t.Fatalf("ToJSON: %v, canonical: %v", err, cerr)
		}
		if err == nil {
			if _, err := canonicalJSON(text); err != nil && !strings.Contains(err.Error(), "nested") {
				t.Fatalf("ToJSON: %s: %v", text, err)
			}
		}
		for _, v := range targets() {
			if err := MessagePack.Unmarshal(data, v); err != nil {
				if cerr != nil != errors.Is(err, ErrMalformed) {
					t.Fatalf("canonical: %v, Unmarshal: %v", cerr, err)
				}
				continue
			}
			if cerr != nil {
				t.Fatalf("decoded, but %v", cerr)
			}
			if raw, ok := v.(*msgpack.RawMessage); ok && *raw == nil {
				continue // the library writes nothing for it
			}
			again, err := MessagePack.Marshal(v)
			if err != nil {
				t.Fatalf("decoded into %T, but: %v", v, err)
			}
			// An any forgets nothing.
			if _, ok := v.(*any); ok && !bytes.Equal(again, canon) {
				t.Fatalf("%x was decoded, and encoded again: %x, want %x", data, again, canon)
			}
			v2 := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := MessagePack.Unmarshal(again, v2); err != nil {
				t.Fatalf("%T encoded as %x: %v", v, again, err)
			}
			if third := marshal(t, MessagePack, v2); !bytes.Equal(third, again) {
				t.Fatalf("%T: %x, again %x", v, again, third)
			}
		}
		if !bytes.Equal(was, data) {
			t.Fatal("the data was changed")
		}
	})
}
