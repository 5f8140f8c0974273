package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/store"
)

// linesHelp describes the lines that export writes and import reads.
const linesHelp = `A line is a JSON object, one record, with these fields in any order:

  "key"         the key, or "key_base64" if it is not UTF-8
  "codec"       raw, json or msgpack: how the value is stored
  "value"       the value as JSON: with raw a string, else any JSON
  "base64"      in place of "value": the bytes that are stored, in base64
  "expires"     when the record expires, as "2030-01-02T03:04:05.5Z"; null: never
  "revision"    of the last write; import passes over it
  "time"        of the last write; import passes over it

A line must have a key and a value.`

// The fields of a line, by their index.
const (
	fieldKey = iota
	fieldKeyBase64
	fieldCodec
	fieldValue
	fieldBase64
	fieldExpires
	fieldRevision
	fieldTime
	fieldCount
)

var fieldNames = [fieldCount]string{"key", "key_base64", "codec", "value", "base64", "expires", "revision", "time"}

// A lineRecord is the record of a line.
type lineRecord struct {
	key     string
	codec   string
	data    []byte // encoded
	expires time.Time
	line    int // number of the line
}

// appendLine appends the line of r. With meta it has the revision and time of
// the last write.
//
// The value is shown as JSON only where import makes the same bytes of it, which
// is tried and not reasoned out: MessagePack has bytes, times, NaN, keys that are no
// strings and more that JSON has not.
func appendLine(b []byte, r store.Record, meta bool) ([]byte, error) {
	if utf8.ValidString(r.Key) {
		b = append(append(b, `{"key":`...), quoteJSON([]byte(r.Key))...)
	} else {
		b = appendBase64(append(b, `{"key_base64":`...), []byte(r.Key))
	}
	if meta {
		b = strconv.AppendUint(append(b, `,"revision":`...), uint64(r.Revision), 10)
		b = appendTime(append(b, `,"time":`...), r.Time)
	}
	if !r.Expires.IsZero() {
		b = appendTime(append(b, `,"expires":`...), r.Expires)
	}
	b = append(append(b, `,"codec":`...), quoteJSON([]byte(r.Codec))...)
	text, err := exactJSON(r)
	switch {
	case err != nil:
		return nil, valueError(r.Key, err)
	case text != nil:
		b = append(append(b, `,"value":`...), text...)
	default:
		b = appendBase64(append(b, `,"base64":`...), r.Value)
	}
	return append(b, '}', '\n'), nil
}

// exactJSON returns the value as the JSON that is encoded to the same bytes, nil
// if there is none, or none that leaves the line shorter than maxLine.
func exactJSON(r store.Record) ([]byte, error) {
	if r.Codec == codec.Raw.Name() && (!utf8.Valid(r.Value) || quotedSize(r.Value) > store.MaxValueSize) {
		return nil, nil
	}
	text, err := codec.ToJSON(r.Codec, r.Value)
	if err != nil {
		return nil, err
	}
	again := text
	switch r.Codec {
	case codec.Raw.Name():
		return text, nil
	case codec.MessagePack.Name():
		// ToJSON's text is compact and in order, as fromJSON needs it.
		if again, err = fromJSON(text); err != nil {
			return nil, nil
		}
	}
	if !bytes.Equal(again, r.Value) || len(text) > store.MaxValueSize {
		return nil, nil
	}
	return text, nil
}

// quotedSize returns at least the bytes that quoteJSON makes of text, which may be
// six times as many.
func quotedSize(text []byte) int {
	n := len(text) + 2
	for _, c := range text {
		switch {
		case c < ' ':
			n += 5
		case c == '"' || c == '\\':
			n++
		}
	}
	return n
}

// quoteJSON returns text, which is UTF-8, as a string of JSON.
func quoteJSON(text []byte) []byte {
	quoted, err := codec.ToJSON(codec.Raw.Name(), text)
	if err != nil {
		panic(err) // not reached: raw is anything
	}
	return quoted
}

func appendBase64(b, data []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), data), '"')
}

func appendTime(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// A lineError says what is wrong with a line.
type lineError struct {
	offset int // in bytes, from the start of the line; -1: the line as a whole
	reason string
	hint   string
}

func (e *lineError) Error() string {
	if e.offset < 0 {
		return e.reason
	}
	return fmt.Sprintf("column %d: %s", e.offset+1, e.reason)
}

func lineErrorf(offset int, format string, args ...any) *lineError {
	return &lineError{offset: offset, reason: fmt.Sprintf(format, args...)}
}

const fieldsHint = `a line is like {"key":"a","value":{"x":1}}; recordctl help import lists the fields`

// A field is the text of a field's value.
type field struct {
	text   []byte // nil: the line has no such field
	offset int    // in the line
}

// parseLine reads a line. Without the field codec, the codec is codecName. The
// record refers to nothing of text. An error is a *lineError.
//
// Only the object itself is read here: encoding/json takes the last of two
// fields with the same name, fields in any case, and U+FFFD for what is not
// UTF-8, without a word. The codecs read the values, and refuse all that.
func parseLine(text []byte, codecName string) (lineRecord, error) {
	r, err := readFields(text, codecName)
	if err == errNotJSON {
		err = explainSyntax(text)
	}
	return r, err
}

func readFields(text []byte, codecName string) (lineRecord, error) {
	r := lineRecord{codec: codecName}
	fields, err := splitLine(text)
	if err != nil {
		return r, err
	}
	if r.key, err = lineKey(fields[fieldKey], fields[fieldKeyBase64]); err != nil {
		return r, err
	}
	if f := fields[fieldCodec]; f.text != nil {
		if r.codec, err = f.string(`"codec"`); err != nil {
			return r, err
		}
		if !slices.Contains(codec.Names(), r.codec) {
			e := lineErrorf(f.offset, "unknown codec %s", quoteArg(r.codec))
			e.hint = "the codecs are " + strings.Join(codec.Names(), ", ")
			return r, e
		}
	}
	if r.expires, err = lineExpiry(fields[fieldExpires]); err != nil {
		return r, err
	}
	for _, i := range []int{fieldRevision, fieldTime} {
		switch f := fields[i]; {
		case f.text == nil:
		case !utf8.Valid(f.text): // which json lets pass
			return r, lineErrorf(f.offset, "not valid UTF-8")
		case !json.Valid(f.text):
			return r, errNotJSON
		}
	}
	r.data, err = lineValue(r.codec, fields[fieldValue], fields[fieldBase64])
	return r, err
}

func lineKey(plain, coded field) (key string, err error) {
	f := plain
	switch {
	case plain.text != nil && coded.text != nil:
		return "", lineErrorf(max(plain.offset, coded.offset), `there are "key" and "key_base64"`)
	case plain.text != nil:
		key, err = plain.string(`"key"`)
	case coded.text != nil:
		f = coded
		var data []byte
		data, err = coded.base64(`"key_base64"`)
		key = string(data)
	default:
		e := lineErrorf(-1, "there is no key")
		e.hint = fieldsHint
		return "", e
	}
	switch {
	case err != nil:
		return "", err
	case key == "":
		return "", lineErrorf(f.offset, "the key is empty")
	case len(key) > store.MaxKeySize:
		return "", lineErrorf(f.offset, "the key has %d bytes; at most %d are possible", len(key), store.MaxKeySize)
	}
	return key, nil
}

// The first and last expiry that a store can keep exactly.
var firstExpiry, lastExpiry = time.Unix(0, 1), time.Unix(0, 1<<63-1)

// rfc3339 is what package time is too lenient to hold a time to: it takes an hour of
// one digit and a comma, and cuts off what is below nanoseconds.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

func lineExpiry(f field) (t time.Time, err error) {
	if f.text == nil || string(f.text) == "null" {
		return t, nil
	}
	s, err := f.string(`"expires"`)
	if err != nil {
		return t, err
	}
	if !rfc3339.MatchString(s) || t.UnmarshalText([]byte(s)) != nil {
		return t, lineErrorf(f.offset, `"expires" is not a time as "2030-01-02T03:04:05Z", with up to 9 digits of a fraction: %s`, quoteArg(s))
	}
	if t.Before(firstExpiry) || t.After(lastExpiry) {
		return t, lineErrorf(f.offset, `"expires" is not after 1970-01-01T00:00:00Z and up to 2262-04-11T23:47:16.854775807Z: %s`, quoteArg(s))
	}
	return t, nil
}

func lineValue(codecName string, shown, coded field) (data []byte, err error) {
	f := shown
	switch {
	case shown.text != nil && coded.text != nil:
		return nil, lineErrorf(max(shown.offset, coded.offset), `there are "value" and "base64"`)
	case coded.text != nil:
		f = coded
		data, err = coded.encoded(codecName)
	case shown.text == nil:
		e := lineErrorf(-1, "there is no value")
		e.hint = fieldsHint
		return nil, e
	case codecName == codec.Raw.Name():
		var s string
		s, err = shown.string(`with the codec raw, "value"`)
		data = []byte(s)
	default:
		data, err = encodeJSON(codecName, shown.text)
		err = shown.explain(err, "the value ")
	}
	if err == nil && len(data) > store.MaxValueSize {
		err = lineErrorf(f.offset, "the value has %d bytes; at most %d are possible", len(data), store.MaxValueSize)
	}
	return data, err
}

// explain makes an error of a codec's, which read the field, a *lineError or
// errNotJSON.
func (f field) explain(err error, subject string) error {
	var syntax *codec.SyntaxError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &syntax):
		return lineErrorf(f.offset, "%s%v", subject, err)
	case json.Valid(f.text):
		return lineErrorf(f.offset+syntax.Offset, "%s", syntax.Reason)
	}
	return errNotJSON
}

// string reads a field that must be a string.
func (f field) string(name string) (s string, err error) {
	n := len(f.text)
	switch {
	case f.text[0] != '"':
		return "", lineErrorf(f.offset, "%s must be a string", name)
	case plainString(f.text):
		return string(f.text[1 : n-1]), nil
	}
	text, err := codec.ToJSON(codec.JSON.Name(), f.text)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, f.explain(err, "")
}

// plainString reports whether a quoted string has no escapes, and nothing in it
// that must be escaped.
func plainString(text []byte) bool {
	ascii := true
	for _, c := range text {
		if c < ' ' || c == '\\' {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return ascii || utf8.Valid(text)
}

// base64 reads a field that must be a string in base64.
func (f field) base64(name string) ([]byte, error) {
	s, err := f.string(name)
	if err != nil {
		return nil, err
	}
	if i := strings.IndexAny(s, "\r\n"); i >= 0 { // which the package passes over
		return nil, lineErrorf(f.offset, "%s is not base64: see its character %d", name, i+1)
	}
	data, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		var corrupt base64.CorruptInputError
		if errors.As(err, &corrupt) {
			return nil, lineErrorf(f.offset, "%s is not base64: see its character %d", name, int64(corrupt)+1)
		}
		return nil, lineErrorf(f.offset, "%s is not base64", name)
	}
	return data, nil
}

// encoded reads the field base64, the bytes of a value.
func (f field) encoded(codecName string) ([]byte, error) {
	data, err := f.base64(`"base64"`)
	if err != nil {
		return nil, err
	}
	if err := codec.Check(codecName, data); err != nil {
		var syntax *codec.SyntaxError
		if errors.As(err, &syntax) {
			e := lineErrorf(f.offset, "the bytes are not %s: byte %d: %s", codecName, syntax.Offset, syntax.Reason)
			e.hint = `to store bytes as they are, add "codec":"raw"`
			return nil, e
		}
		return nil, lineErrorf(f.offset, "the bytes are not %s: %v", codecName, err)
	}
	return data, nil
}

// errNotJSON says that a line is not JSON, and leaves it to explainSyntax where
// and why.
var errNotJSON = errors.New("not JSON")

func explainSyntax(text []byte) error {
	var syntax *json.SyntaxError
	if err := json.Unmarshal(text, new(json.RawMessage)); errors.As(err, &syntax) {
		if strings.HasSuffix(syntax.Error(), "exceeded max depth") { // its own, of 10000
			return lineErrorf(max(int(syntax.Offset)-1, 0), "nested deeper than %d levels", codec.MaxDepth)
		}
		return lineErrorf(max(int(syntax.Offset)-1, 0), "%v", syntax)
	}
	return lineErrorf(-1, "not JSON") // not reached
}

// splitLine finds the fields of a line. The values are not checked but for
// where they end.
func splitLine(text []byte) (fields [fieldCount]field, err error) {
	s := splitter{text: text}
	if s.peek() != '{' {
		e := lineErrorf(s.pos, "a line must be a JSON object, {...}")
		e.hint = fieldsHint
		if bytes.HasPrefix(text, []byte("\ufeff")) {
			e.hint = "the line begins with a byte order mark, which JSON does not have: remove it"
		}
		return fields, e
	}
	s.pos++
	if s.peek() == '}' {
		s.pos++
		return fields, s.end()
	}
	for {
		s.peek()
		name, err := s.value()
		if err != nil {
			return fields, err
		}
		i, err := fieldIndex(name)
		if err != nil {
			return fields, err
		}
		if fields[i].text != nil {
			return fields, lineErrorf(name.offset, "the field %q is there twice", fieldNames[i])
		}
		if s.peek() != ':' {
			return fields, errNotJSON
		}
		s.pos++
		s.peek()
		if fields[i], err = s.value(); err != nil {
			return fields, err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return fields, s.end()
		default:
			return fields, errNotJSON
		}
	}
}

func fieldIndex(name field) (int, error) {
	if name.text[0] != '"' {
		return 0, errNotJSON
	}
	s, err := name.string("") // it is one
	if err != nil {
		return 0, err
	}
	if i := slices.Index(fieldNames[:], s); i >= 0 {
		return i, nil
	}
	e := lineErrorf(name.offset, "unknown field %s", quoteArg(s))
	e.hint = fieldsHint
	return 0, e
}

// A splitter goes through the text of an object.
type splitter struct {
	text []byte
	pos  int
}

// peek skips white space and returns the byte after it, 0 at the end.
func (s *splitter) peek() byte {
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// end checks that nothing follows.
func (s *splitter) end() error {
	if s.peek(); s.pos < len(s.text) {
		return lineErrorf(s.pos, "something follows the object; each record has a line of its own")
	}
	return nil
}

// value returns the text of a value, which if it is JSON has been all of it.
func (s *splitter) value() (field, error) {
	start, depth := s.pos, 0
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case '"':
			if !s.skipString() {
				return field{}, errNotJSON
			}
			if depth == 0 {
				return field{s.text[start:s.pos], start}, nil
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return s.scalar(start)
			}
			if depth--; depth == 0 {
				s.pos++
				return field{s.text[start:s.pos], start}, nil
			}
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return s.scalar(start)
			}
		}
		s.pos++
	}
	if depth > 0 {
		return field{}, errNotJSON
	}
	return s.scalar(start)
}

func (s *splitter) scalar(start int) (field, error) {
	if start == s.pos {
		return field{}, errNotJSON
	}
	return field{s.text[start:s.pos], start}, nil
}

// skipString goes behind the string that begins at pos.
func (s *splitter) skipString() bool {
	for s.pos++; s.pos < len(s.text); s.pos++ {
		switch s.text[s.pos] {
		case '"':
			s.pos++
			return true
		case '\\':
			s.pos++
		}
	}
	return false
}

// maxLine is the most bytes that a line may have. Export's have less: the base64
// of the longest value, or as much JSON, and a key.
const maxLine = 2 * store.MaxValueSize

// errLongLine is reported for a line of more than maxLine bytes, of which no
// more have been read.
var errLongLine = fmt.Errorf("the line has more than the %d bytes that are possible", maxLine)

// A lineReader reads lines.
type lineReader struct {
	r   *bufio.Reader
	buf []byte // of a line that is longer than r's buffer
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 256<<10)}
}

// next returns a line, with its newline if it has one, and io.EOF after the
// last. The bytes are valid until the next call.
func (l *lineReader) next() ([]byte, error) {
	if cap(l.buf) > 1<<20 {
		l.buf = nil // that was the exception
	}
	l.buf = l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		switch {
		case len(l.buf)+len(part) > maxLine:
			return nil, errLongLine
		case err == nil && len(l.buf) == 0:
			return part, nil
		}
		l.buf = append(l.buf, part...)
		switch {
		case err == nil, err == io.EOF && len(l.buf) > 0:
			return l.buf, nil
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}
