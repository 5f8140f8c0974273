package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/internal/vfs"
)

// docs/FORMAT.md is held to the code: its tables are those of the comments
// that the encoders stand under, and its examples are what they write.

const formatDoc = "../docs/FORMAT.md"

func readText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// between returns the text between two others, each of which must be there.
func between(t *testing.T, text, begin, end string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, begin)
	out, _, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("there is no text between %q and %q", begin, end)
	}
	return out
}

// A row of a table: offset, size and field, as they are written.
type row [3]string

// docRows returns the rows of the n-th table, from 0, below a line of
// FORMAT.md. What comes after the third column is notes.
func docRows(t *testing.T, text, below string, n int) []row {
	t.Helper()
	_, text, found := strings.Cut(text, below)
	if !found {
		t.Fatalf("%s: there is no %q", formatDoc, below)
	}
	var rows []row
	tables := -1
	inside := false
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		switch {
		case len(cells) < 5:
			inside = false
		case !inside: // the heading
			inside = true
			tables++
		case tables == n && !strings.HasPrefix(cells[1], "---"):
			rows = append(rows, row{strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3])})
		}
	}
	return rows
}

// brace is one that spans several rows, with what it says of them.
var brace = regexp.MustCompile(`\s+[\\>/]( .*)?$`)

// commentRows returns the rows of a table in a comment: of columns that are
// offset and size bytes wide, with two spaces after each.
func commentRows(t *testing.T, comment string, offset, size int) []row {
	t.Helper()
	var rows []row
	for line := range strings.Lines(comment) {
		line, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "//\t")
		if !ok {
			continue
		}
		if len(line) < offset+size+4 {
			t.Fatalf("%q is no row", line)
		}
		field := brace.ReplaceAllString(line[offset+size+4:], "")
		rows = append(rows, row{strings.TrimSpace(line[:offset]), strings.TrimSpace(line[offset+2 : offset+2+size]), strings.TrimSpace(field)})
	}
	return rows
}

// chained checks that each field begins where the one before ends, as far as
// offsets and sizes are numbers, and returns where the last of these ends.
func chained(t *testing.T, rows []row) int {
	t.Helper()
	end := 0
	for _, r := range rows {
		if r[0] == "" && r[1] == "" {
			continue // more about the field before, or data
		}
		offset, err := strconv.Atoi(r[0])
		if err != nil {
			break
		}
		if offset != end {
			t.Errorf("%q: offset %d, want %d, where the one before ends", r[2], offset, end)
		}
		size, err := strconv.Atoi(r[1])
		if err != nil || end == headerSize {
			break // a table, or data
		}
		end = offset + size
	}
	return end
}

func TestFormatTables(t *testing.T) {
	doc := readText(t, formatDoc)
	manifest, segment, holder := readText(t, "manifest.go"), readText(t, "segment.go"), readText(t, "../lockfile/holder.go")
	for _, tc := range []struct {
		name, below  string
		n            int
		comment      string
		offset, size int
		want         int // the size of what is fixed
	}{
		{"manifest", "## Manifest", 0, between(t, manifest, "//\tOffset  Size  Field\n", "//\n"), 6, 4, headerSize},
		{"record", "### Record", 0, between(t, manifest, "// A record:\n//\n", "//\n"), 2, 4, recHeaderSize},
		{"segment", "## Segment", 0, between(t, segment, "//\tOffset  Size  Field\n", "//\n"), 6, 4, segmentHeaderSize},
		{"segment, entry", "### Entry", 0, between(t, segment, "An index block is one entry after the other:\n//\n", "//\n"), 2, 4, entryHeaderSize},
		{"segment, footer", "### Footer", 0, between(t, segment, "// The footer:\n//\n", "//\n"), 2, 4, segmentFooterSize},
		{"LOCK", "## LOCK", 0, between(t, holder, "//\toffset  size  region\n", "//\n"), 6, 4, 1024},
		{"LOCK, header", "## LOCK", 1, between(t, holder, "// The header:\n//\n//\toffset  size  field\n", "//\n"), 6, 4, 32},
		{"LOCK, holder record", "## LOCK", 2, between(t, holder, "from its start:\n//\n//\toffset  size  field\n", "//\n"), 6, 4, 480},
		{"LOCK, application data", "## LOCK", 3, between(t, holder, "// The application data, whose offsets are from its start:\n//\n//\toffset  size  field\n", "const ("), 6, 4, 272},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, want := docRows(t, doc, tc.below, tc.n), commentRows(t, tc.comment, tc.offset, tc.size)
			if !slices.Equal(got, want) {
				t.Errorf("%s has\n%q\nand the comment in the code\n%q", formatDoc, got, want)
			}
			if end := chained(t, got); end != tc.want {
				t.Errorf("the fields of fixed size have %d bytes, want %d", end, tc.want)
			}
		})
	}
}

// docBytes returns the bytes of the example with the name, whose offsets must
// be right.
func docBytes(t *testing.T, name string) []byte {
	t.Helper()
	line := regexp.MustCompile(`^ *(\d+)  ((?:[0-9a-f]{2} )+)`)
	var b []byte
	for l := range strings.Lines(between(t, readText(t, formatDoc), "<!-- "+name+" -->\n```\n", "```\n<!-- /"+name+" -->")) {
		m := line.FindStringSubmatch(l)
		if m == nil {
			t.Fatalf("%q has no offset and bytes", l)
		}
		if m[1] != strconv.Itoa(len(b)) {
			t.Errorf("%q: want offset %d", l, len(b))
		}
		piece, err := hex.DecodeString(strings.ReplaceAll(m[2], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, piece...)
	}
	return b
}

// exampleTime is the time of everything in the examples.
var exampleTime = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func TestFormatExample(t *testing.T) {
	b := docBytes(t, "example")
	h, recs, err := decodeManifest("the example", b)
	if err != nil {
		t.Fatal(err)
	}
	if got := encodeManifest(&h, recs); !bytes.Equal(got, b) {
		t.Errorf("the example encodes to\n%swant\n%s", hex.Dump(got), hex.Dump(b))
	}
	// What the right-hand column says.
	if len(b) != 202 || h.network || h.seq != 2 || manifestName(h.seq) != "manifest.0000000000000002" ||
		h.time != exampleTime.UnixNano() || h.firstRev != 1 || h.lastRev != 1 || len(h.ancestors) != 1 || h.ancestors[0].seq != 1 || len(recs) != 1 {
		t.Fatalf("the example has %d bytes, header %+v, %d records", len(b), h, len(recs))
	}
	rec := recs[0].record("")
	v, err := Decode[string](rec)
	if err != nil || rec.Key != "colour" || rec.Codec != "msgpack" || v != "blue" || rec.Revision != 1 || !rec.Time.Equal(exampleTime) || !rec.Expires.IsZero() {
		t.Errorf("the record is %+v with value %q, %v", rec, v, err)
	}
}

func TestFormatSegmentExample(t *testing.T) {
	b := docBytes(t, "segment-example")
	// As a manifest would name it.
	ref := segmentRef{
		id:       ID(b[32:48]),
		size:     int64(len(b)),
		checksum: binary.LittleEndian.Uint32(b[len(b)-checksumSize:]),
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "segment")
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	g, err := openSegment(vfs.OS{}, path, ID(b[16:32]), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.release()
	if err := g.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	recs, err := collect(g, "")
	if err != nil {
		t.Fatal(err)
	}

	f, err := vfs.OS{}.CreateTemp(dir, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := newSegmentWriter(f, ID(b[16:32]), ref.id, segmentLayout{dataBlock: 1})
	for _, r := range recs {
		if err := w.add(r); err != nil {
			t.Fatal(err)
		}
	}
	again, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, b) || again != ref {
		t.Errorf("the example, %+v, %v, encodes to %+v\n%swant\n%s", ref, err, again, hex.Dump(got), hex.Dump(b))
	}

	// What the right-hand column says.
	info, err := g.info()
	if want := (segmentInfo{records: 1, tombstones: 1, dataBytes: 95, height: 1}); err != nil || info != want || len(b) != 270 || len(recs) != 2 {
		t.Fatalf("the example has %d bytes, %+v, %d records; %v", len(b), info, len(recs), err)
	}
	dead, colour := recs[0], recs[1]
	if !dead.tombstone() || string(dead.key()) != "color" || dead.revision() != 7 || !dead.record("").Time.Equal(exampleTime) {
		t.Errorf("the tombstone is %+v", dead.record(""))
	}
	manifest := docBytes(t, "example")
	if !bytes.Contains(manifest, colour) || !bytes.Equal(manifest[32:48], b[16:32]) {
		t.Errorf("the record %x is not that of the manifest, or the store is another", colour)
	}
}

func TestFormatValues(t *testing.T) {
	row := regexp.MustCompile("^\\| `([0-9a-f ]+)` \\| `([^`]+)`")
	n := 0
	for line := range strings.Lines(between(t, readText(t, formatDoc), "<!-- msgpack -->\n", "<!-- /msgpack -->")) {
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		n++
		b, err := hex.DecodeString(strings.ReplaceAll(m[1], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		shown, err := codec.ToJSON(codec.MessagePack.Name(), b)
		if err != nil || string(shown) != m[2] {
			t.Errorf("%s shows as %s, %v; want %s", m[1], shown, err, m[2])
		}
		var v any
		if err := codec.MessagePack.Unmarshal(b, &v); err != nil {
			t.Errorf("%s: %v", m[1], err)
			continue
		}
		if again, err := codec.MessagePack.Marshal(v); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s is not canonical: %x, %v", m[1], again, err)
		}
	}
	if n < 10 {
		t.Errorf("%d examples found", n)
	}
}
