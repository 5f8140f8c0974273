package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

func marshal(t testing.TB, c codec.Codec, v any) []byte {
	t.Helper()
	data, err := c.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What export writes import reads to the same record, whatever JSON can express.
func TestLinesKeepRecords(t *testing.T) {
	long := strings.Repeat("k", store.MaxKeySize)
	for _, tt := range []struct {
		name, key, codec string
		value            []byte
		want             string // in the line
	}{
		{"text", "a", "raw", []byte("blue\n"), `{"key":"a","codec":"raw","value":"blue\n"}`},
		{"nothing", "a", "raw", nil, `"value":""`},
		{"bytes", "a", "raw", []byte{0xff, 0}, `"base64":"/wA="`},
		{"control characters", "a", "raw", []byte("\x00\x1f\x7f\u2028"), `"value":"\u0000\u001f` + "\x7f\u2028\""},
		{"replacement character", "a", "raw", []byte("\ufffd"), "\"\ufffd\""},
		{"key that is not UTF-8", "\xff", "raw", []byte("v"), `{"key_base64":"/w==","codec":`},
		{"key with a newline", "a\nb\"\\", "raw", []byte("v"), `{"key":"a\nb\"\\",`},
		{"longest key", long, "raw", []byte("v"), long},
		{"JSON", "a", "json", []byte(`{"a":[1,2.50],"b":null}`), `"value":{"a":[1,2.50],"b":null}`},
		{"JSON out of order", "a", "json", []byte(`{"b":1,"a":2}`), `"base64":`},
		{"JSON with white space", "a", "json", []byte("[1, 2]\n"), `"base64":`},
		{"map", "a", "msgpack", marshal(t, codec.MessagePack, map[string]any{"bb": 1, "c": []any{true, nil, "x", -5}}), `"value":{"bb":1,"c":[true,null,"x",-5]}`},
		{"largest integers", "a", "msgpack", marshal(t, codec.MessagePack, []any{uint64(math.MaxUint64), int64(math.MinInt64)}), `"value":[18446744073709551615,-9223372036854775808]`},
		{"fraction", "a", "msgpack", marshal(t, codec.MessagePack, 0.1), `"value":0.1`},
		{"float of 32 bits", "a", "msgpack", marshal(t, codec.MessagePack, 0.5), `"value":0.5`},
		{"whole float", "a", "msgpack", marshal(t, codec.MessagePack, 1.0), `"value":1.0}`},
		{"negative zero", "a", "msgpack", marshal(t, codec.MessagePack, math.Copysign(0, -1)), `"value":-0.0}`},
		{"NaN", "a", "msgpack", marshal(t, codec.MessagePack, math.NaN()), `"base64":`},
		{"infinity", "a", "msgpack", marshal(t, codec.MessagePack, math.Inf(1)), `"base64":`},
		{"byte string", "a", "msgpack", marshal(t, codec.MessagePack, []byte("abc")), `"base64":`},
		{"time", "a", "msgpack", marshal(t, codec.MessagePack, time.Unix(1, 2)), `"base64":`},
		{"string that is not UTF-8", "a", "msgpack", marshal(t, codec.MessagePack, "\xff"), `"base64":`},
		{"key that is a number", "a", "msgpack", marshal(t, codec.MessagePack, map[int]int{1: 2}), `"base64":`},
		{"not canonical: an integer", "a", "msgpack", []byte{0xcc, 1}, `"base64":`},
		{"not canonical: a float", "a", "msgpack", []byte{0xcb, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0}, `"base64":`},
		{"not canonical: a map", "a", "msgpack", []byte{0x82, 0xa1, 'b', 1, 0xa1, 'a', 2}, `"base64":`},
		{"deepest", "a", "msgpack", append(bytes.Repeat([]byte{0x91}, codec.MaxDepth), 1), `"value":[[[`},
		{"longest value", "a", "raw", bytes.Repeat([]byte{0}, store.MaxValueSize), `"base64":`},
	} {
		if testing.Short() && len(tt.value) > 1<<20 {
			continue
		}
		line := keeps(t, store.Record{Key: tt.key, Codec: tt.codec, Value: tt.value})
		if !bytes.Contains(line, []byte(tt.want)) {
			t.Errorf("%s: got the line %.200s, want it to contain %s", tt.name, line, tt.want)
		}
		for _, expires := range []time.Time{firstExpiry, time.Unix(1, 5e8), lastExpiry} {
			if len(tt.value) < 100 {
				keeps(t, store.Record{Key: tt.key, Codec: tt.codec, Value: tt.value, Expires: expires, Revision: 7, Time: time.Unix(3, 4)})
			}
		}
	}
}

// keeps checks that a record survives its line, which it returns.
func keeps(t *testing.T, r store.Record) []byte {
	t.Helper()
	line, err := appendLine(nil, r, !r.Time.IsZero())
	if err != nil {
		t.Fatalf("%q: appendLine: %v", r.Key, err)
	}
	if bytes.IndexByte(line, '\n') != len(line)-1 || len(line) > maxLine || !json.Valid(line) {
		t.Fatalf("%q: %.200q is not one line of JSON", r.Key, line)
	}
	got, err := parseLine(line, "none")
	if err != nil {
		t.Fatalf("%q: parseLine(%.200s): %v", r.Key, line, err)
	}
	if got.key != r.Key || got.codec != r.Codec || !bytes.Equal(got.data, r.Value) || !got.expires.Equal(r.Expires) || got.expires.IsZero() != r.Expires.IsZero() {
		t.Fatalf("by way of %.200s: got %q %s %.100x %v, want %q %s %.100x %v", line, got.key, got.codec, got.data, got.expires, r.Key, r.Codec, r.Value, r.Expires)
	}
	return line
}

// An export refuses what it cannot read, and does not invent something.
func TestExportRefusesDamage(t *testing.T) {
	for _, r := range []store.Record{
		{Key: "k", Codec: "msgpack", Value: []byte{0xc1}},
		{Key: "k", Codec: "json", Value: []byte("{")},
		{Key: "k", Codec: "gob", Value: []byte("x")},
	} {
		if line, err := appendLine(nil, r, false); err == nil || describe(err).code != exitData || !strings.Contains(err.Error(), `"k"`) {
			t.Errorf("appendLine of %s %x: got %q, %v; want an error that names the key", r.Codec, r.Value, line, err)
		}
	}
}

func TestParseLine(t *testing.T) {
	for _, tt := range []struct {
		line  string
		codec string
		value string // as ToJSON shows it
	}{
		{`{"key":"a","value":{"x":1}}`, "msgpack", `{"x":1}`},
		{" { \"value\" : [ 1 , \"}\" ] , \"key\" : \"a\" } \r\n", "msgpack", `[1,"}"]`},
		{`{"key":"a","codec":"json","value":{"b":1.0,"a":"\u00e9"}}`, "json", `{"a":"é","b":1.0}`},
		{`{"k\u0065y":"\u0061","value":null}`, "msgpack", `null`},
		{`{"key_base64":"YQ==","codec":"raw","value":"\ud83d\ude00"}`, "raw", `"😀"`},
		{`{"key":"a","codec":"raw","base64":""}`, "raw", `""`},
		{`{"key":"a","base64":"zAE=","expires":null,"revision":7,"time":"2026-01-02T03:04:05Z"}`, "msgpack", `1`},
	} {
		r, err := parseLine([]byte(tt.line), "msgpack")
		if err != nil {
			t.Errorf("parseLine(%s): %v", tt.line, err)
			continue
		}
		shown, err := codec.ToJSON(r.codec, r.data)
		if err != nil || r.key != "a" || r.codec != tt.codec || string(shown) != tt.value || !r.expires.IsZero() {
			t.Errorf("parseLine(%s): got %q %s %s %v, %v; want a %s %s", tt.line, r.key, r.codec, shown, r.expires, err, tt.codec, tt.value)
		}
	}
}

func TestParseLineRefuses(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{`x`, "column 1: a line must be a JSON object"},
		{`["key"]`, "column 1: a line must be a JSON object"},
		{`{`, "unexpected end of JSON input"},
		{`{}`, "there is no key"},
		{`{"key":"a"}`, "there is no value"},
		{`{"value":1}`, "there is no key"},
		{`{"key":"a","value":1}{"key":"b","value":1}`, "column 22: something follows the object"},
		{`{"key":"a","value":1} x`, "column 23: something follows the object"},
		{`{"key":"a","value":1`, "column 20: unexpected end of JSON input"},
		{`{"key":"a","value":"x`, "unexpected end of JSON input"},
		{`{"key":"a","value":[1,}`, "column 23: invalid character '}'"},
		{`{"key":"a","value":}`, "column 20: invalid character '}'"},
		{`{"key":"a","value":1,}`, "column 22: invalid character '}'"},
		{`{"key":"a","value":1 2}`, "column 22: invalid character '2'"},
		{`{"key":"a","value":nul}`, "column 23: invalid character '}' in literal null"},
		{`{"key":"a","value":1"x"}`, "column 21: invalid character '\"'"},
		{`{"key" "a"}`, "column 8: invalid character '\"' after object key"},
		{`{key:"a"}`, "column 2: invalid character 'k'"},
		{`{"key":"a","value":{"x":1,"x":2}}`, `column 27: an object has the key "x" twice`},
		{`{"key":"a","value":18446744073709551616}`, "column 20: the value has the number 18446744073709551616, which needs more than 64 bits"},
		{`{"key":"a","value":1e999}`, "out of range"},
		{"{\"key\":\"a\",\"value\":\"\xff\"}", "column 21: not valid UTF-8"},
		{`{"key":"a","value":"\ud800"}`, "column 21: half of a surrogate pair"},
		{"{\"key\":\"\xff\",\"value\":1}", "column 9: not valid UTF-8"},
		{"{\"time\":\"\xc3\",\"key\":\"0\",\"value\":1}", "column 9: not valid UTF-8"},
		{"{\"key\":\"0\",\"value\":1,\"revision\":\"\xff\"}", "column 33: not valid UTF-8"},
		{`{"key":"\ud800","value":1}`, "column 9: half of a surrogate pair"},
		{"{\"key\":\"a\tb\",\"value\":1}", "column 10: invalid character"},
		{`{"key":"a","key":"b","value":1}`, `column 12: the field "key" is there twice`},
		{`{"key":"a","k\u0065y":"b","value":1}`, `the field "key" is there twice`},
		{`{"key":"a","value":1,"value":1}`, `the field "value" is there twice`},
		{`{"key":"a","key_base64":"YQ==","value":1}`, `column 25: there are "key" and "key_base64"`},
		{`{"key":"a","value":1,"base64":"AQ=="}`, `column 31: there are "value" and "base64"`},
		{`{"Key":"a","value":1}`, `column 2: unknown field "Key"`},
		{`{"key":"a","vlaue":1}`, `column 12: unknown field "vlaue"`},
		{`{"key":"","value":1}`, "the key is empty"},
		{`{"key":1,"value":1}`, `"key" must be a string`},
		{`{"key":null,"value":1}`, `"key" must be a string`},
		{`{"key":"` + strings.Repeat("k", store.MaxKeySize+1) + `","value":1}`, "the key has 1025 bytes"},
		{`{"key_base64":"YQ","value":1}`, `"key_base64" is not base64`},
		{`{"key":"a","codec":"gob","value":1}`, `column 20: unknown codec "gob"`},
		{`{"key":"a","codec":null,"value":1}`, `"codec" must be a string`},
		{`{"key":"a","codec":"raw","value":1}`, `with the codec raw, "value" must be a string`},
		{`{"key":"a","codec":"raw","value":{"base64":"AA=="}}`, `"value" must be a string`},
		{`{"key":"a","codec":"raw","base64":"AA=x"}`, `"base64" is not base64: see its character 3`},
		{`{"key":"a","codec":"raw","base64":"AB=="}`, `"base64" is not base64`},
		{`{"key":"a","base64":"wQ=="}`, "the bytes are not msgpack: byte 0: byte c1"},
		{`{"key":"a","codec":"json","base64":"ew=="}`, "the bytes are not json"},
		{`{"key":"a","expires":"soon","value":1}`, `column 22: "expires" is not a time`},
		{`{"key":"a","expires":1700000000,"value":1}`, `"expires" must be a string`},
		{`{"key":"a","expires":"1969-12-31T23:59:59Z","value":1}`, "is not after 1970-01-01T00:00:00Z"},
		{`{"key":"a","expires":"1970-01-01T00:00:00Z","value":1}`, "is not after 1970-01-01T00:00:00Z"},
		{`{"key":"a","expires":"2030-01-02T3:04:05Z","value":1}`, "is not a time"},
		{`{"key":"a","expires":"2030-01-02T03:04:05,5Z","value":1}`, "is not a time"},
		{`{"key":"a","expires":"2030-01-02T03:04:05.123456789012Z","value":1}`, "up to 9 digits"},
		{`{"key":"a","expires":"2030-01-02T03:04:05+24:00","value":1}`, "is not a time"},
		{`{"key":"a","expires":"2030-02-30T03:04:05Z","value":1}`, "is not a time"},
		{`{"key":"a","codec":"raw","base64":"Y\nQ=="}`, `"base64" is not base64: see its character 2`},
		{`{"key":"a","codec":"raw","base64":"YQ==\r"}`, `"base64" is not base64: see its character 5`},
		{`{"key":"a","expires":"2262-04-11T23:47:17Z","value":1}`, "up to 2262-04-11T23:47:16"},
		{`{"key":"a","value":` + strings.Repeat("[", 1_000_000), "nested deeper than 100 levels"},
		{`{"key":"a","time":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `,"value":1}`, "nested deeper than 100 levels"},
		{`{"key":"a","revision":x,"value":1}`, "column 23: invalid character 'x'"},
	} {
		_, err := parseLine([]byte(tt.line), "msgpack")
		var bad *lineError
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("parseLine(%.100s): got error %v, want %q", tt.line, err, tt.want)
		}
	}
	if testing.Short() {
		return
	}
	big := append([]byte(`{"key":"a","codec":"raw","value":"`), bytes.Repeat([]byte("x"), store.MaxValueSize+1)...)
	if _, err := parseLine(append(big, `"}`...), "msgpack"); err == nil || !strings.Contains(err.Error(), "at most 67108864 are possible") {
		t.Errorf("a value that is too large: got error %v", err)
	}
}

// The bytes of "base64" are checked and not shown, which would take several times
// as much: up to 64 MiB of them are imported.
func TestParseLineMemory(t *testing.T) {
	for _, name := range []string{"raw", "json", "msgpack"} {
		value := marshal(t, codec.Raw, strings.Repeat("\x00", 4<<20))
		if name != "raw" {
			c, err := codec.ByName(name)
			if err != nil {
				t.Fatal(err)
			}
			value = marshal(t, c, strings.Repeat("a", 4<<20))
		}
		line := append(appendBase64([]byte(`{"key":"a","codec":"`+name+`","base64":`), value), '}')
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := parseLine(line, "raw")
		runtime.ReadMemStats(&after)
		if err != nil || !bytes.Equal(r.data, value) {
			t.Fatalf("%s: %d bytes, %v", name, len(r.data), err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 8*uint64(len(value)) {
			t.Errorf("%s: %d bytes were allocated for a value of %d", name, got, len(value))
		}
	}
}

// Whatever a record is, if its value can be read its line keeps it.
func FuzzExportedLine(f *testing.F) {
	for i := range codec.Names() {
		f.Add([]byte("k"), byte(i), []byte("1"), int64(0))
		f.Add([]byte("\xff\n"), byte(i), marshal(f, codec.MessagePack, map[string]any{"a": []any{1, 2.5, "x\n"}}), int64(1))
		f.Add([]byte("k"), byte(i), []byte(`{"a":["\n",1.50,null]}`), int64(math.MaxInt64))
	}
	f.Add([]byte("k"), byte(0), marshal(f, codec.MessagePack, map[any]any{1: []byte("a"), "1": time.Unix(1, 2)}), int64(5))
	f.Fuzz(func(t *testing.T, key []byte, i byte, value []byte, expires int64) {
		r := store.Record{Key: string(key), Codec: codec.Names()[int(i)%len(codec.Names())], Value: value}
		if len(key) == 0 || len(key) > store.MaxKeySize || expires < 0 {
			return
		}
		if expires > 0 {
			r.Expires = time.Unix(0, expires)
		}
		if _, err := codec.ToJSON(r.Codec, r.Value); err != nil {
			return
		}
		keeps(t, r)
	})
}

// Whatever a line is, it is refused, or it is JSON and says what its record is.
func FuzzImportedLine(f *testing.F) {
	f.Add([]byte(`{"key":"a","value":{"x":[1,2.5,null,"}"]}}`))
	f.Add([]byte(`{"key_base64":"/w==","codec":"raw","base64":"AA==","expires":"2030-01-02T03:04:05.5Z"}`))
	f.Add([]byte(` { "revision" : 1 , "time" : "x" , "key" : "\u0061" , "codec" : "json" , "value" : "\ud83d\ude00" } `))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseLine(line, "msgpack")
		if err != nil {
			var bad *lineError
			if !errors.As(err, &bad) || bad.offset > len(line) {
				t.Fatalf("parseLine(%q): %#v", line, err)
			}
			return
		}
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil || !utf8.Valid(line) {
			t.Fatalf("parseLine(%q) takes what is not JSON: %v", line, err)
		}
		for name := range fields {
			if !strings.Contains(" "+strings.Join(fieldNames[:], " ")+" ", " "+name+" ") {
				t.Fatalf("parseLine(%q) takes the field %q", line, name)
			}
		}
		if key, ok := fields["key"]; ok && key != r.key {
			t.Fatalf("parseLine(%q): got key %q, want %q", line, r.key, key)
		}
		keeps(t, store.Record{Key: r.key, Codec: r.codec, Value: r.data, Expires: r.expires})
	})
}

// slowly is encodeJSON for MessagePack by way of Go values.
func slowly(text []byte) ([]byte, error) {
	var v any
	if err := codec.JSON.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	var numbers func(v any) (any, error)
	numbers = func(v any) (_ any, err error) {
		switch v := v.(type) {
		case json.Number:
			if i, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
				return i, nil
			}
			if u, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
				return u, nil
			}
			if !strings.ContainsAny(v.String(), ".eE") {
				return nil, errors.New("too large")
			}
			return v.Float64()
		case []any:
			for i := range v {
				if v[i], err = numbers(v[i]); err != nil {
					return nil, err
				}
			}
		case map[string]any:
			for k := range v {
				if v[k], err = numbers(v[k]); err != nil {
					return nil, err
				}
			}
		}
		return v, nil
	}
	v, err := numbers(v)
	if err != nil {
		return nil, err
	}
	return codec.MessagePack.Marshal(v)
}

// The short way from JSON to MessagePack leads where the long one does.
func FuzzFromJSON(f *testing.F) {
	for _, text := range []string{
		`null`, ` [ true , false ] `, `{"b":{"":[]},"a":{}}`, `"\u0000\ud83d\ude00\\\""`, `[0,-0,1.0,-1,127,128,-32,-33,0.1,0.5,1e3,1E-400]`,
		`18446744073709551615`, `18446744073709551616`, `-9223372036854775808`, `-9223372036854775809`, `1e999`, `{"a":1,"a":2}`,
		`"` + strings.Repeat("x", 300) + `"`, `[` + strings.Repeat("1,", 300) + `1]`,
		strings.Repeat("[", codec.MaxDepth) + strings.Repeat("]", codec.MaxDepth), strings.Repeat("[", codec.MaxDepth+1) + strings.Repeat("]", codec.MaxDepth+1),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, gotErr := encodeJSON("msgpack", text)
		want, wantErr := slowly(text)
		if !bytes.Equal(got, want) || (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("%q: got %x, %v; want %x, %v", text, got, gotErr, want, wantErr)
		}
	})
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	lines := newLineReader(strings.NewReader("a\n\n" + long + "\nb\n" + long + "\nc"))
	for _, want := range []string{"a\n", "\n", long + "\n", "b\n", long + "\n", "c"} {
		if got, err := lines.next(); err != nil || string(got) != want {
			t.Fatalf("got %.20q of %d bytes, %v; want %.20q of %d", got, len(got), err, want, len(want))
		}
	}
	for range 2 {
		if got, err := lines.next(); err != io.EOF {
			t.Fatalf("at the end: got %q, %v", got, err)
		}
	}
}

// A line without an end is bounded while it is read, and nothing is made of it.
func TestEndlessLine(t *testing.T) {
	if testing.Short() {
		t.Skip("reads a line of 128 MiB")
	}
	dir := filepath.Join(t.TempDir(), "s")
	var out, msg bytes.Buffer
	r := &endless{}
	code := run([]string{"--store", dir, "import"}, r, &out, &msg)
	if want := "recordctl: import: line 1: the line has more than the 134217728 bytes that are possible; nothing was stored\n"; code != exitData || msg.String() != want || out.Len() > 0 {
		t.Errorf("got status %d, %q, want %d, %q", code, msg.String(), exitData, want)
	}
	if most := maxLine + 1<<20; r.n > most {
		t.Errorf("read %d bytes, want at most %d", r.n, most)
	}
	if files, _ := filepath.Glob(dir + "*"); len(files) > 0 {
		t.Errorf("there is %q", files)
	}
}

// An input that fails on the way costs nothing of what is complete, and a panic
// in reading it is an internal error.
func TestImportReadFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   io.Reader
		code int
		want string
	}{
		{"error", failingReader{errors.New("broken")}, exitIO, `recordctl: import: read "standard input" after line 2: broken; stored before it: lines 1 to 2 (2 records)` + "\n"},
		{"panic", panicReader{}, exitSoftware, "recordctl: import: internal error: boom; stored before it: lines 1 to 2 (2 records)\n"},
	} {
		dir := filepath.Join(t.TempDir(), "s")
		in := io.MultiReader(strings.NewReader(`{"key":"a","value":1}`+"\n"+`{"key":"b","value":2}`+"\n"), tt.in)
		var out, msg bytes.Buffer
		code := run([]string{"--store", dir, "import", "--batch", "2"}, in, &out, &msg)
		got, _, _ := strings.Cut(msg.String(), "hint: ")
		if code != tt.code || got != tt.want {
			t.Errorf("%s: got status %d, %q; want %d, %q", tt.name, code, msg.String(), tt.code, tt.want)
		}
		if _, got, _ := recordctl("--store", dir, "list"); got != "a\nb\n" {
			t.Errorf("%s: list: got %q", tt.name, got)
		}
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// A signal ends an export to a file, which is as it was, with nothing beside it.
func TestSignalEndsExport(t *testing.T) {
	dir, out := filepath.Join(t.TempDir(), "s"), t.TempDir()
	name := filepath.Join(out, "f")
	var in strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&in, "{\"key\":\"%d\",\"value\":{\"x\":[1,2,3]}}\n", i)
	}
	if code := run([]string{"--store", dir, "import"}, strings.NewReader(in.String()), io.Discard, io.Discard); code != 0 {
		t.Fatalf("import: status %d", code)
	}
	if err := os.WriteFile(name, []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	ours := make(chan os.Signal, 1) // before and after the time in which the command catches it
	signal.Notify(ours, syscall.SIGTERM)
	defer signal.Stop(ours)
	type result struct {
		code   int
		stderr string
	}
	done := make(chan result)
	go func() {
		code, _, stderr := recordctl("--store", dir, "export", "--output", name)
		done <- result{code, stderr}
	}()
	for {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-done:
			if want := exitSignal + int(syscall.SIGTERM); r.code != want || r.stderr != "recordctl: export: interrupted: terminated; nothing was written\n" {
				t.Errorf("got status %d, %q; want %d", r.code, r.stderr, want)
			}
			if got, err := os.ReadFile(name); err != nil || string(got) != "old" {
				t.Errorf("the file: got %.40q, %v", got, err)
			}
			if files, err := os.ReadDir(out); err != nil || len(files) != 1 {
				t.Errorf("the directory: got %v, %v; want the file alone", files, err)
			}
			return
		case <-time.After(time.Millisecond): // and once more
		}
	}
}

func TestProgressLine(t *testing.T) {
	p := &progress{verb: "import", size: 200}
	p.read.Store(1500)
	p.written.Store(1000)
	p.pos.Store(50)
	if got, want := p.line(2*time.Second), "import: 1500 read, 1000 written, 25%, 500/s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p = &progress{verb: "export"}
	p.written.Store(7)
	if got, want := p.line(time.Second), "export: 7 written, 7/s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a line costs, besides the store.
func BenchmarkLines(b *testing.B) {
	for _, codecName := range []string{"msgpack", "json"} {
		text := []byte(`{"key":"user/0123456","codec":"` + codecName + `","value":{"active":true,"id":123456,"name":"user number 123456","score":0.25,"tags":["a","bb","ccc"]}}`)
		r, err := parseLine(text, "")
		if err != nil {
			b.Fatal(err)
		}
		rec := store.Record{Key: r.key, Codec: r.codec, Value: r.data}
		b.Run(codecName+"/parse", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parseLine(text, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(codecName+"/append", func(b *testing.B) {
			b.ReportAllocs()
			var line []byte
			for b.Loop() {
				if line, err = appendLine(line[:0], rec, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
