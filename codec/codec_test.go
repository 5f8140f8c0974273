package codec

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestByName(t *testing.T) {
	for _, c := range []Codec{MessagePack, JSON, Raw} {
		got, err := ByName(c.Name())
		if err != nil || got != c {
			t.Errorf("ByName(%q) = %v, %v; want %v", c.Name(), got, err, c)
		}
	}
	if got, want := Names(), []string{"msgpack", "json", "raw"}; !slices.Equal(got, want) {
		t.Errorf("Names() = %q, want %q: these are in files", got, want)
	}
	for _, name := range []string{"", "MSGPACK", "gob", "msgpack "} {
		_, err := ByName(name)
		if !errors.Is(err, ErrUnknown) {
			t.Errorf("ByName(%q): error %v, want ErrUnknown", name, err)
		}
		if !strings.Contains(err.Error(), "msgpack, json, raw") {
			t.Errorf("ByName(%q): error %q does not list the names", name, err)
		}
	}
}

// An error leaves the value alone, and success leaves nothing of it.
func TestUnmarshalReplaces(t *testing.T) {
	type T struct {
		A, B int
		M    map[string]int
		X    any
	}
	for _, c := range []Codec{MessagePack, JSON} {
		t.Run(c.Name(), func(t *testing.T) {
			v := T{A: 1, B: 2, M: map[string]int{"old": 1}, X: 5}
			if err := c.Unmarshal(marshal(t, c, map[string]any{"A": 7, "B": "no number"}), &v); err == nil {
				t.Fatal("a string was decoded into an int")
			}
			if v.A != 1 || v.B != 2 || v.M["old"] != 1 {
				t.Errorf("after an error: %+v, want what was there", v)
			}
			if err := c.Unmarshal(marshal(t, c, map[string]any{"A": 7, "M": map[string]int{"new": 1}, "X": "s"}), &v); err != nil {
				t.Fatal(err)
			}
			if v.A != 7 || v.B != 0 || len(v.M) != 1 || v.X != "s" {
				t.Errorf("after success: %+v, want nothing of what was there", v)
			}
		})
	}
}

func TestUnmarshalTarget(t *testing.T) {
	var null *int
	for _, c := range all {
		for _, v := range []any{nil, 0, null, "", map[string]any{}} {
			if err := c.Unmarshal(marshal(t, c, "1"), v); err == nil {
				t.Errorf("%s: decoded into %#v", c.Name(), v)
			}
		}
	}
}

// The caller's buffer can be used again at once.
func TestUnmarshalCopies(t *testing.T) {
	for _, c := range all {
		data := marshal(t, c, "some text")
		var s string
		var x any
		if err := errors.Join(c.Unmarshal(data, &s), c.Unmarshal(data, &x)); err != nil {
			t.Fatal(err)
		}
		clear(data)
		if b, ok := x.([]byte); ok {
			x = string(b)
		}
		if s != "some text" || x != "some text" {
			t.Errorf("%s: %q, %q after the data changed", c.Name(), s, x)
		}
	}
}

func TestRaw(t *testing.T) {
	in := []byte{1, 2}
	data := marshal(t, Raw, in)
	in[0] = 9
	var out []byte
	if err := Raw.Unmarshal(data, &out); err != nil || string(out) != "\x01\x02" {
		t.Errorf("got %x, %v; want 0102", out, err)
	}
	if err := Raw.Unmarshal(nil, &out); err != nil || out == nil || len(out) != 0 {
		t.Errorf("no bytes: got %#v, %v; want []byte{}", out, err)
	}
	if _, err := Raw.Marshal(1); err == nil {
		t.Error("an int was encoded")
	}
	if err := Raw.Unmarshal(data, new(int)); err == nil {
		t.Error("decoded into an int")
	}
}

func marshal(t testing.TB, c Codec, v any) []byte {
	t.Helper()
	data, err := c.Marshal(v)
	if err != nil {
		t.Fatalf("%s.Marshal(%#v): %v", c.Name(), v, err)
	}
	return data
}
