package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/recordstore/recordstore/codec"
)

// fromJSON returns the MessagePack of a JSON value, which must be in the
// canonical form of codec.JSON. A number becomes an integer if it is written as
// one, or else the nearest float.
//
// It only writes something well-formed, every length and number in the widest
// form. What is canonical the codec alone knows, which puts it in order. By way
// of an any this would take four times as long.
func fromJSON(text []byte) ([]byte, error) {
	t := transcoder{text: text, out: make([]byte, 0, 2*len(text)+9)}
	if err := t.value(); err != nil {
		return nil, err
	}
	return codec.MessagePack.Marshal(wellFormed(t.out))
}

// wellFormed is a value that is MessagePack already.
type wellFormed []byte

// MarshalMsgpack is what the codec calls.
func (w wellFormed) MarshalMsgpack() ([]byte, error) { return w, nil }

// A transcoder writes JSON text, which it does not check, as MessagePack.
type transcoder struct {
	text []byte
	pos  int
	out  []byte
}

// value writes the value at pos. As codec.JSON bounds the nesting, it can call
// itself.
func (t *transcoder) value() error {
	switch t.text[t.pos] {
	case 'n':
		t.pos += len("null")
		t.out = append(t.out, 0xc0)
	case 'f':
		t.pos += len("false")
		t.out = append(t.out, 0xc2)
	case 't':
		t.pos += len("true")
		t.out = append(t.out, 0xc3)
	case '"':
		return t.string()
	case '[':
		return t.elements(0xdd, ']')
	case '{':
		return t.elements(0xdf, '}')
	default:
		return t.number()
	}
	return nil
}

// elements writes an array, or the pairs of an object.
func (t *transcoder) elements(code, end byte) error {
	t.pos++
	head := len(t.out)
	t.out = append(t.out, code, 0, 0, 0, 0)
	n := uint32(0)
	for ; t.text[t.pos] != end; n++ {
		if n > 0 {
			t.pos++ // the comma
		}
		if end == '}' {
			if err := t.string(); err != nil {
				return err
			}
			t.pos++ // the colon
		}
		if err := t.value(); err != nil {
			return err
		}
	}
	t.pos++
	binary.BigEndian.PutUint32(t.out[head+1:], n)
	return nil
}

func (t *transcoder) string() error {
	start, escaped := t.pos, false
	for t.pos++; t.text[t.pos] != '"'; t.pos++ {
		if t.text[t.pos] == '\\' {
			escaped = true
			t.pos++
		}
	}
	t.pos++
	quoted := t.text[start:t.pos]
	s := quoted[1 : len(quoted)-1]
	if escaped {
		var plain string
		if err := json.Unmarshal(quoted, &plain); err != nil {
			return err
		}
		s = []byte(plain)
	}
	t.out = binary.BigEndian.AppendUint32(append(t.out, 0xdb), uint32(len(s)))
	t.out = append(t.out, s...)
	return nil
}

func (t *transcoder) number() error {
	start := t.pos
	for t.pos < len(t.text) && strings.IndexByte(",]}", t.text[t.pos]) < 0 {
		t.pos++
	}
	n := string(t.text[start:t.pos])
	if i, err := strconv.ParseInt(n, 10, 64); err == nil {
		t.out = binary.BigEndian.AppendUint64(append(t.out, 0xd3), uint64(i))
		return nil
	}
	if u, err := strconv.ParseUint(n, 10, 64); err == nil {
		t.out = binary.BigEndian.AppendUint64(append(t.out, 0xcf), u)
		return nil
	}
	if !strings.ContainsAny(n, ".eE") {
		return fmt.Errorf("has the number %.40s, which needs more than 64 bits", n)
	}
	f, err := strconv.ParseFloat(n, 64)
	if err != nil {
		return fmt.Errorf("has the number %.40s, which is out of range", n)
	}
	t.out = binary.BigEndian.AppendUint64(append(t.out, 0xcb), math.Float64bits(f))
	return nil
}
