package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The text of values, which is in files and may not change. Where several
// values are in one row they are the same value.
func TestJSONGolden(t *testing.T) {
	type inner struct {
		B int `json:"b"`
		A int `json:"a,omitempty"`
	}
	tests := []struct {
		name string
		want string
		vs   []any
	}{
		{"null", `null`, []any{nil, (*int)(nil), []int(nil), map[string]int(nil)}},
		{"number", `1`, []any{1, uint8(1), 1.0, json.Number("1")}},
		{"2^53+1", `9007199254740993`, []any{int64(1<<53 + 1), json.Number("9007199254740993")}},
		{"2^64-1", `18446744073709551615`, []any{uint64(math.MaxUint64)}},
		{"2^70", `1180591620717411303424`, []any{new(big.Int).Lsh(big.NewInt(1), 70), *new(big.Int).Lsh(big.NewInt(1), 70)}},
		{"spelling of a number", `1.0`, []any{json.Number("1.0"), json.RawMessage(" 1.0 ")}},
		{"big float", `1e+21`, []any{1e21}},
		{"characters of HTML", `"<&>"`, []any{"<&>", json.RawMessage(`"\u003c&>"`)}},
		{"line separators", "\"\u2028\u2029\"", []any{"\u2028\u2029", json.RawMessage(`"\u2028\u2029"`)}},
		{"escapes", `"\"\\/\b\f\n\r\t\u0000\u001f"` + "", []any{"\"\\/\b\f\n\r\t\x00\x1f", json.RawMessage(`"\"\\\/\b\f\n\r\t\u0000\u001F"`)}},
		{"character in two escapes", `"😀"`, []any{"😀", json.RawMessage(`"\ud83d\uDE00"`)}},
		{"replacement character", `"` + "\ufffd" + `"`, []any{"\ufffd", json.RawMessage(`"\ufffd"`)}},
		{"backslash before u", `"\\ud800"`, []any{`\ud800`}},
		{"bytes", `"AAE="`, []any{[]byte{0, 1}}},
		{"time", `"1970-01-01T00:00:01.000000001Z"`, []any{time.Unix(1, 1), time.Unix(1, 1).In(cet)}},
		{"keys in order", `{"a":3,"aa":2,"b":1,"é":4}`, []any{
			map[string]int{"é": 4, "b": 1, "aa": 2, "a": 3},
			json.RawMessage("{ \"b\": 1, \"\\u00e9\": 4, \n\"a\": 3,\t\"aa\" :2 }"),
		}},
		{"fields in order", `{"a":1,"b":2}`, []any{inner{B: 2, A: 1}, map[string]int{"a": 1, "b": 2}}},
		{"keys that are integers, as text", `{"-1":0,"1":0,"10":0,"2":0}`, []any{map[int]int{2: 0, 10: 0, 1: 0, -1: 0}}},
		{"key that is a time", `{"1970-01-01T00:00:01Z":0}`, []any{map[time.Time]int{time.Unix(1, 0).In(cet): 0}}},
		{"objects inside", `[{"a":[{"c":{},"d":[]}],"b":{}}]`, []any{json.RawMessage(`[ {"b":{ }, "a":[{"d":[ ],"c":{}}]}]`)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, v := range tt.vs {
				data := marshal(t, JSON, v)
				if string(data) != tt.want {
					t.Errorf("%T: got %s, want %s", v, data, tt.want)
				}
				if shown, err := ToJSON("json", data); err != nil || !bytes.Equal(shown, data) {
					t.Errorf("ToJSON: %s, %v; want %s", shown, err, data)
				}
				if v == nil {
					continue
				}
				for _, p := range []any{reflect.New(reflect.TypeOf(v)).Interface(), new(any)} {
					if err := JSON.Unmarshal(data, p); err != nil {
						t.Errorf("%T: %v", p, err)
					} else if again := marshal(t, JSON, p); !bytes.Equal(again, data) {
						t.Errorf("%T: decoded and encoded again: %s, want %s", p, again, data)
					}
				}
			}
		})
	}
}

var hostileJSON = []struct {
	name   string
	in     string
	offset int
}{
	{"nothing", ``, 0},
	{"white space", ` `, 1},
	{"cut short", `{"a":`, 5},
	{"trailing value", `1 2`, 3},
	{"trailing bracket", `{}}`, 3},
	{"trailing NUL", "1\x00", 2},
	{"comma too many", `[1,]`, 4},
	{"key twice", `{"a":1,"a":2}`, 7},
	{"key twice, not in a row", `{"a":1,"b":2,"a":3}`, 13},
	{"key twice, spelled otherwise", `{"a":1,"\u0061":2}`, 7},
	{"key twice, inside", `[{"x":{"":1,"":2}}]`, 12},
	{"not UTF-8", "[\"\xff\"]", 2},
	{"not UTF-8 in a key", "{\"\xc3\":1}", 2},
	{"surrogate in UTF-8", "\"\xed\xa0\x80\"", 1},
	{"half of a pair", `["\ud800"]`, 2},
	{"half of a pair, then text", `"\ud800abcdefg"`, 1},
	{"second half first", `"\udc00\ud800"`, 1},
	{"first half twice", `"a\ud800\ud800\udc00"`, 2},
	{"half of a pair after a backslash", `"\\\ud800"`, 3},
	{"half of a pair in a key", `{"\uDFFF":1}`, 2},
	{"101 arrays", strings.Repeat("[", 101) + strings.Repeat("]", 101), 100},
	{"101 objects", strings.Repeat(`{"":`, 101) + "1" + strings.Repeat("}", 101), 400},
	{"2M arrays", strings.Repeat("[", 2_000_000), 10001},
	{"NaN", `NaN`, 1},
	{"leading zero", `01`, 2},
}

func TestJSONHostile(t *testing.T) {
	for _, tt := range hostileJSON {
		t.Run(tt.name, func(t *testing.T) {
			for _, v := range targets() {
				err := JSON.Unmarshal([]byte(tt.in), v)
				var serr *SyntaxError
				if !errors.Is(err, ErrMalformed) || !errors.As(err, &serr) {
					t.Fatalf("into %T: error %v, want ErrMalformed", v, err)
				}
				if serr.Offset != tt.offset {
					t.Errorf("offset %d, want %d: %v", serr.Offset, tt.offset, err)
				}
				if deep := len(tt.in) > 200; deep && !strings.Contains(serr.Reason, "deeper than 100 levels") {
					t.Errorf("reason %q, want the levels that are possible", serr.Reason)
				}
			}
			if _, err := ToJSON("json", []byte(tt.in)); !errors.Is(err, ErrMalformed) {
				t.Errorf("ToJSON: error %v, want ErrMalformed", err)
			}
			if _, err := JSON.Marshal(json.RawMessage(tt.in)); err == nil && tt.in != "" {
				t.Error("encoded as json.RawMessage")
			}
		})
	}
}

// What has no JSON, or would be changed by it.
func TestJSONRefuses(t *testing.T) {
	type hidden struct{ T time.Time }
	tests := []struct {
		name string
		v    any
	}{
		{"NaN", math.NaN()},
		{"infinity", map[string]float64{"a": math.Inf(1)}},
		{"string that is not UTF-8", []any{map[string]string{"a": "\xff"}}},
		{"key that is not UTF-8", map[string]int{"\xff": 1}},
		{"map[any]any", map[any]any{1: 2}},
		{"time out of reach", struct{ *hidden }{&hidden{time.Unix(1, 0).In(cet)}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := JSON.Marshal(tt.v); err == nil {
				t.Errorf("got %s, want an error", got)
			}
		})
	}
}

// Types that encode themselves by a method of a pointer.
type (
	celsius float64 // reads back what it is without the method
	level   int     // does not
	sealed  struct{ n int }
	noted   struct{ N int } // reads both forms
)

func (c *celsius) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `"%v °C"`, float64(*c)), nil
}

func (l *level) MarshalText() ([]byte, error) { return bytes.Repeat([]byte("I"), int(*l)), nil }

func (l *level) UnmarshalText(text []byte) error {
	*l = level(len(text))
	return nil
}

func (s *sealed) MarshalJSON() ([]byte, error) { return json.Marshal(s.n) }

func (n *noted) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `{"N":%d,"note":"it is %d"}`, n.N, n.N), nil
}

func (n *noted) UnmarshalJSON(text []byte) error {
	type plain noted
	return json.Unmarshal(text, (*plain)(n))
}

// Where encoding/json cannot call the methods of a pointer it says nothing.
func TestJSONByPointer(t *testing.T) {
	five := *big.NewInt(5)
	type in struct{ N big.Int }
	for name, v := range map[string]any{
		"in a map":              map[string]big.Int{"a": five},
		"in an any":             []any{five},
		"in a struct in a map":  map[int]in{1: {five}},
		"in an array in an any": []any{[1]big.Int{five}},
		"number, in a map":      map[string]level{"a": 2},
		"number, in an any":     []any{level(2)},
		"number, in an array":   map[string][2]level{"a": {1, 2}},
		"nothing exported":      map[string]sealed{"a": {1}},
	} {
		if text, err := JSON.Marshal(v); err == nil || !strings.Contains(err.Error(), "store a *") {
			t.Errorf("%s: %s, %v; want an error that says what to store", name, text, err)
		}
	}
	for _, tt := range []struct {
		name, want string
		v          any
	}{
		{"pointers in a map", `{"a":5}`, map[string]*big.Int{"a": &five}},
		{"pointer in an any", `[5]`, []any{&five}},
		{"slice in a map", `{"a":[5]}`, map[string][]big.Int{"a": {five}}},
		{"number in a slice", `["I","II"]`, []level{1, 2}},
		{"field", `{"N":5}`, in{five}},
		{"pointer to a struct, in a map", `{"1":{"N":5}}`, map[int]*in{1: {five}}},
		{"key", `{"2":true}`, map[level]bool{2: true}},
		{"comes back all the same", `{"a":21.5}`, map[string]celsius{"a": 21.5}},
		{"both forms are read", `{"a":{"N":5}}`, map[string]noted{"a": {5}}},
	} {
		if text := marshal(t, JSON, tt.v); string(text) != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, text, tt.want)
		}
	}
}

// A value and a pointer to it have one encoding.
func TestBehindAny(t *testing.T) {
	var x any = *big.NewInt(5)
	var y any = &x
	for _, c := range []Codec{MessagePack, JSON} {
		want := marshal(t, c, x)
		for _, v := range []any{&x, y, &y, big.NewInt(5)} {
			if got := marshal(t, c, v); !bytes.Equal(got, want) {
				t.Errorf("%s: %T: got %x, want %x", c.Name(), v, got, want)
			}
		}
		var null any
		if got, want := marshal(t, c, &null), marshal(t, c, nil); !bytes.Equal(got, want) {
			t.Errorf("%s: pointer to nil: got %x, want %x", c.Name(), got, want)
		}
	}
}

func TestJSONAny(t *testing.T) {
	var got any
	if err := JSON.Unmarshal([]byte(`{"n":9007199254740993,"l":[null,true,"s",{}]}`), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"n": json.Number("9007199254740993"), "l": []any{nil, true, "s", map[string]any{}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, want %#v", got, want)
	}
}

func TestJSONMemory(t *testing.T) {
	nested := "1"
	for range MaxDepth {
		nested = `{"b":` + nested + `,"a":0}`
	}
	for _, in := range []string{
		"[" + strings.Repeat("[],", 1<<16) + "1]",
		"[" + strings.Repeat("{},", 1<<16) + "1]",
		nested,
		strings.Repeat("[", 2_000_000),
		`"` + strings.Repeat(`\u0000`, 1<<16) + `"`,
	} {
		got := allocated(func() { _ = JSON.Unmarshal([]byte(in), new(any)) })
		if bound := uint64(300*len(in) + 1<<14); got > bound {
			t.Errorf("%.20s: %d bytes allocated for %d, want at most %d", in, got, len(in), bound)
		}
	}
}

func TestToJSON(t *testing.T) {
	tests := []struct {
		name  string
		codec Codec
		v     any
		want  string
	}{
		{"text", Raw, "a\n\"b\"", `"a\n\"b\""`},
		{"nothing", Raw, "", `""`},
		{"bytes", Raw, []byte{0xff, 0}, `{"base64":"/wA="}`},
		{
			"numbers", MessagePack,
			[]any{0, -1, uint64(math.MaxUint64), int64(math.MinInt64), 0.1, 1e21, float32(0.5)},
			`[0,-1,18446744073709551615,-9223372036854775808,0.1,1e+21,0.5]`,
		},
		{"whole floats", MessagePack, []float64{1, -3, math.Copysign(0, -1), 1e20, 1 << 53}, `[1.0,-3.0,-0.0,100000000000000000000.0,9007199254740992.0]`},
		{"keys that are the float and the integer", MessagePack, map[any]any{1: "i", 1.0: "f"}, `{"1":"i","1.0":"f"}`},
		{"floats without JSON", MessagePack, []float64{math.NaN(), math.Inf(1), math.Inf(-1)}, `["NaN","Infinity","-Infinity"]`},
		{"strings", MessagePack, []any{"é<\x00", "\xff", []byte{0xff}, nil, true, false}, `["é<\u0000","/w==","/w==",null,true,false]`},
		{"times", MessagePack, []time.Time{{}, time.Unix(1, 5).In(cet)}, `["0001-01-01T00:00:00Z","1970-01-01T00:00:01.000000005Z"]`},
		{"keys in order", MessagePack, map[string]int{"b": 1, "aa": 2, "a": 3, "a!": 4}, `{"a":3,"a!":4,"aa":2,"b":1}`},
		{
			"keys that are not strings", MessagePack,
			map[any]any{1: "i", 1.5: "f", true: "b", nil: "n", time.Unix(1, 0): "t"},
			`{"1":"i","1.5":"f","1970-01-01T00:00:01Z":"t","null":"n","true":"b"}`,
		},
		{"keys that are arrays", MessagePack, map[[2]string]int{{"a", "b"}: 1}, `{"[\"a\",\"b\"]":1}`},
		{"keys that look alike", MessagePack, map[any]any{1: "i", "1": map[string]int{"x": 1}}, `[[1,"i"],["1",{"x":1}]]`},
		{"empty", MessagePack, []any{[]int{}, map[string]int{}}, `[[],{}]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ToJSON(tt.codec.Name(), marshal(t, tt.codec, tt.v))
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
	if _, err := ToJSON("gob", nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown codec: error %v, want ErrUnknown", err)
	}
}

func FuzzJSON(f *testing.F) {
	for _, tt := range hostileJSON {
		f.Add([]byte(tt.in[:min(len(tt.in), 500)]))
	}
	f.Add([]byte(`{"A":1,"b":{"A":2},"T":"2024-01-01T00:00:00+01:00","M":{"x":null},"X":[1.50,"\ud83d\ude00"],"D":"AAE="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		was := bytes.Clone(data)
		canon, cerr := canonicalJSON(data)
		if cerr == nil {
			if again, err := canonicalJSON(canon); err != nil || !bytes.Equal(again, canon) {
				t.Fatalf("%s: canonical %s, and of that %s, %v", data, canon, again, err)
			}
			var x, y any
			if err := errors.Join(json.Unmarshal(data, &x), json.Unmarshal(canon, &y)); err != nil && !strings.Contains(err.Error(), "cannot unmarshal number") {
				t.Fatal(err)
			} else if err == nil && !reflect.DeepEqual(x, y) {
				t.Fatalf("%s means %#v, but %s means %#v", data, x, canon, y)
			}
		}
		for _, v := range targets() {
			if err := JSON.Unmarshal(data, v); err != nil {
				if cerr != nil != errors.Is(err, ErrMalformed) {
					t.Fatalf("canonical: %v, Unmarshal: %v", cerr, err)
				}
				continue
			}
			if cerr != nil {
				t.Fatalf("decoded, but %v", cerr)
			}
			again, err := JSON.Marshal(v)
			if err != nil {
				if _, ok := v.(*map[any]any); ok {
					continue // null is decoded, but has no type in JSON
				}
				if strings.Contains(err.Error(), "unsupported type") {
					continue
				}
				t.Fatalf("decoded into %T, but: %v", v, err)
			}
			if _, ok := v.(*any); ok && !bytes.Equal(again, canon) {
				t.Fatalf("%s was decoded, and encoded again: %s, want %s", data, again, canon)
			}
			v2 := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := JSON.Unmarshal(again, v2); err != nil {
				t.Fatalf("%T encoded as %s: %v", v, again, err)
			}
			if third := marshal(t, JSON, v2); !bytes.Equal(third, again) {
				t.Fatalf("%T: %s, again %s", v, again, third)
			}
		}
		if !bytes.Equal(was, data) {
			t.Fatal("the data was changed")
		}
	})
}
