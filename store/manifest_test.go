package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/recordstore/recordstore/internal/boot"
	"github.com/recordstore/recordstore/internal/vfs"
)

// golden reads a file of testdata: hexadecimal digits, and comments from # to
// the end of the line.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("testdata/%s: %v", name, err)
	}
	return b
}

// sample is the manifest of testdata/manifest-v1.hex and manifest-v2.hex.
func sample() (*header, []rec) {
	h := &header{
		network:  true,
		seq:      42,
		store:    ID(bytes.Repeat([]byte{0x11}, 16)),
		commit:   ID(bytes.Repeat([]byte{0x22}, 16)),
		boot:     boot.ID(bytes.Repeat([]byte{0x33}, 16)),
		time:     1_700_000_000_123_456_789,
		firstRev: 1000,
		lastRev:  1001,
		ancestors: []ancestor{
			{41, ID(bytes.Repeat([]byte{0x44}, 16))},
			{39, ID(bytes.Repeat([]byte{0x55}, 16))},
		},
	}
	return h, []rec{
		encodeRec("a/1", "msgpack", []byte{0xa2, 'h', 'i'}, 1001, h.time, 0),
		encodeRec("b\xff", "raw", nil, 7, 1_600_000_000_000_000_000, 1_800_000_000_000_000_001),
		encodeRec("c", "json", []byte(`{"n":1}`), 1000, h.time, 0),
	}
}

// TestManifestGolden: the bytes of a version are for ever.
func TestManifestGolden(t *testing.T) {
	h, recs := sample()
	decodes := func(name string) []rec {
		t.Helper()
		gotHeader, gotRecs, err := decodeManifest("m", golden(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&gotHeader, h) {
			t.Errorf("%s: decoded %+v, want %+v", name, gotHeader, h)
		}
		if !reflect.DeepEqual(gotRecs, recs) {
			t.Errorf("%s: decoded records %x, want %x", name, gotRecs, recs)
		}
		return gotRecs
	}
	gotRecs := decodes("manifest-v1.hex")
	// What came with version 2.
	h.segments = []segmentRef{
		{42, ID(bytes.Repeat([]byte{0x66}, 16)), 4096, 0x01020304},
		{17, ID(bytes.Repeat([]byte{0x77}, 16)), 1 << 33, 0x05060708},
	}
	recs = append(recs, encodeTombstone("d", 1001, h.time))
	if got, want := encodeManifest(h, recs), golden(t, "manifest-v2.hex"); !bytes.Equal(got, want) {
		t.Errorf("encoded:\n%swant:\n%s", hex.Dump(got), hex.Dump(want))
	}
	decodes("manifest-v2.hex")
	r := gotRecs[1].record("")
	if got, want := fmt.Sprintf("%q %q %s %d %d %d", r.Key, r.Value, r.Codec, r.Revision, r.Time.UnixNano(), r.Expires.UnixNano()),
		`"b\xff" "" raw 7 1600000000000000000 1800000000000000001`; got != want {
		t.Errorf("record %s, want %s", got, want)
	}
}

// TestManifestGoldenNewer: what a later version writes is not damage.
func TestManifestGoldenNewer(t *testing.T) {
	for _, name := range []string{"manifest-v3.hex", "manifest-newer-flag.hex"} {
		_, _, err := decodeManifest("the/file", golden(t, name))
		if !errors.Is(err, ErrNewerVersion) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "the/file") {
			t.Errorf("%s: got %v, want ErrNewerVersion naming the file", name, err)
		}
	}
}

// sealPrologue sets version and flags, with the right checksum.
func sealPrologue(b []byte, version, flags uint16) []byte {
	binary.LittleEndian.PutUint16(b[8:], version)
	binary.LittleEndian.PutUint16(b[10:], flags)
	binary.LittleEndian.PutUint32(b[12:], checksum(b[:12]))
	return b
}

// seal makes all checksums of a manifest right that must be, and its length.
func seal(b []byte) []byte {
	if len(b) < headerSize+checksumSize {
		return b
	}
	copy(b, manifestMagic)
	sealPrologue(b, binary.LittleEndian.Uint16(b[8:]), binary.LittleEndian.Uint16(b[10:]))
	binary.LittleEndian.PutUint64(b[16:], uint64(len(b)))
	body := b[:len(b)-checksumSize]
	tables := headerSize + int(binary.LittleEndian.Uint32(b[104:]))*ancestorSize + int(binary.LittleEndian.Uint32(b[108:]))*segmentRefSize
	if tables >= headerSize && tables <= len(body) {
		binary.LittleEndian.PutUint32(b[116:], headerChecksum(body[:tables]))
	}
	binary.LittleEndian.PutUint32(b[len(body):], fileChecksum(binary.LittleEndian.Uint16(b[8:]), body))
	return b
}

func TestManifestPrologue(t *testing.T) {
	for _, tc := range []struct {
		name   string
		do     func(b []byte)
		newer  bool
		offset int64
	}{
		{"version 0", func(b []byte) { sealPrologue(b, 0, 0) }, false, 8},
		{"version 3", func(b []byte) { sealPrologue(b, 3, 0) }, true, 0},
		{"version 65535", func(b []byte) { sealPrologue(b, 65535, 0) }, true, 0},
		{"version 3, wrong checksum", func(b []byte) { b[8] = 3 }, false, 8},
		{"unknown flag", func(b []byte) { sealPrologue(b, 1, 1<<15) }, true, 0},
		{"wrong magic", func(b []byte) { b[0] = 'M' }, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := golden(t, "manifest-v1.hex")
			tc.do(b)
			_, _, err := decodeManifest("the/file", b)
			if tc.newer {
				if !errors.Is(err, ErrNewerVersion) || errors.Is(err, ErrCorrupt) {
					t.Errorf("got %v, want ErrNewerVersion", err)
				}
				return
			}
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.Path != "the/file" || corrupt.Offset != tc.offset {
				t.Errorf("got %v, want a *CorruptError at %d", err, tc.offset)
			}
		})
	}
}

// TestManifestSealed: bytes whose checksums are right and that make no sense,
// as only a faulty program could have written them.
func TestManifestSealed(t *testing.T) {
	u32 := binary.LittleEndian.PutUint32
	const firstRec = headerSize + 2*ancestorSize
	for _, tc := range []struct {
		name   string
		do     func(b []byte)
		offset int64
	}{
		{"too many ancestors", func(b []byte) { u32(b[104:], maxAncestors+1) }, 104},
		{"all ancestors there can be", func(b []byte) { u32(b[104:], 1<<32-1) }, 104},
		{"all segments there can be", func(b []byte) { u32(b[108:], 1<<32-1) }, 104},
		{"all records there can be", func(b []byte) { u32(b[112:], 1<<32-1) }, 112},
		{"a record too many", func(b []byte) { u32(b[112:], 4) }, -1},
		{"a record too few", func(b []byte) { u32(b[112:], 2) }, -1},
		{"impossible segment", func(b []byte) { // 48 bytes after the header: room for one
			sealPrologue(b, 2, 0)
			u32(b[104:], 0)
			u32(b[108:], 1)
		}, headerSize},
		{"flags of a record", func(b []byte) { b[firstRec] = 2 }, firstRec},
		{"tombstone with a value", func(b []byte) { b[firstRec] = 1 }, firstRec},
		{"no codec", func(b []byte) { b[firstRec+1] = 0 }, firstRec},
		{"no key", func(b []byte) { b[firstRec+2] = 0 }, firstRec},
		{"a key too long", func(b []byte) { b[firstRec+3] = 0xff }, firstRec},
		{"a value too long", func(b []byte) { u32(b[firstRec+4:], 1<<32-1) }, firstRec},
		{"records out of order", func(b []byte) { b[firstRec+recHeaderSize+len("msgpack")] = 'z' }, -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := golden(t, "manifest-v1.hex")
			tc.do(b)
			_, _, err := decodeManifest("the/file", seal(b))
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.Path != "the/file" || corrupt.Offset < 0 || corrupt.Offset > int64(len(b)) {
				t.Fatalf("got %v, want a *CorruptError", err)
			}
			if tc.offset >= 0 && corrupt.Offset != tc.offset {
				t.Errorf("damaged at %d, want %d: %v", corrupt.Offset, tc.offset, err)
			}
		})
	}
}

// readAll decodes a manifest as it is read from a file.
func readAll(t testing.TB, b []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m")
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := vfs.OS{}.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = readManifest("the/file", f)
	return err
}

// TestManifestTruncated cuts a manifest off at every length.
func TestManifestTruncated(t *testing.T) {
	whole := golden(t, "manifest-v1.hex")
	for n := range whole {
		_, _, err := decodeManifest("the/file", whole[:n:n])
		for name, err := range map[string]error{"decoded": err, "read": readAll(t, whole[:n])} {
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.Path != "the/file" || corrupt.Offset != int64(n) {
				t.Errorf("%d bytes of %d, %s: got %v, want a *CorruptError at %d", n, len(whole), name, err, n)
			}
		}
	}
	if err := readAll(t, append(whole, 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte too many: got %v, want ErrCorrupt", err)
	}
	if err := readAll(t, whole); err != nil {
		t.Error(err)
	}
}

// TestManifestFlippedBits flips every bit, one at a time. The error must name
// the file, and the part that the bit is in.
func TestManifestFlippedBits(t *testing.T) {
	whole := golden(t, "manifest-v1.hex")
	_, recs, err := decodeManifest("the/file", whole)
	if err != nil {
		t.Fatal(err)
	}
	// part[i] is where the part begins that byte i is in; -1: the length,
	// which may send the reader anywhere.
	part := make([]int64, len(whole))
	end := headerSize + 2*ancestorSize
	for i := range end {
		switch {
		case i < 8:
			part[i] = 0
		case i < prologueSize:
			part[i] = 8
		case i < 24, i >= 104 && i < 116: // lengths
			part[i] = -1
		default:
			part[i] = prologueSize
		}
	}
	for _, r := range recs {
		for i := range r {
			part[end+i] = int64(end)
		}
		end += len(r)
	}
	for i := end; i < len(whole); i++ {
		part[i] = int64(end)
	}
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			_, _, err := decodeManifest("the/file", b)
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || errors.Is(err, ErrNewerVersion) || corrupt.Path != "the/file" || corrupt.Offset < 0 || corrupt.Offset > int64(len(b)) {
				t.Fatalf("byte %d, bit %d: got %v, want a *CorruptError", i, bit, err)
			}
			if part[i] >= 0 && corrupt.Offset != part[i] {
				t.Errorf("byte %d, bit %d: damaged at %d, want %d: %v", i, bit, corrupt.Offset, part[i], err)
			}
			// And through a file, whose length is checked first; a few of them.
			if bit == i%8 {
				if err := readAll(t, b); !errors.Is(err, ErrCorrupt) {
					t.Errorf("byte %d, bit %d, read: got %v, want ErrCorrupt", i, bit, err)
				}
			}
		}
	}
}

// TestManifestLengthCostsNothing: a length that is not the file's is refused
// before room is made for it.
func TestManifestLengthCostsNothing(t *testing.T) {
	for _, n := range []uint64{0, headerSize, maxManifestSize, maxManifestSize + 1, 1 << 63, 1<<64 - 1} {
		b := golden(t, "manifest-v1.hex")
		binary.LittleEndian.PutUint64(b[16:], n)
		if err := readAll(t, b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("length %d: got %v, want ErrCorrupt", n, err)
		}
	}
}

func TestManifestName(t *testing.T) {
	for _, tc := range []struct {
		name string
		seq  uint64
		ok   bool
	}{
		{"manifest.0000000000000001", 1, true},
		{"manifest.9999999999999999", 9999999999999999, true},
		{"manifest.0000000000000000", 0, false},
		{"manifest.1", 0, false},
		{"manifest.00000000000000001", 0, false},
		{"manifest.-000000000000001", 0, false},
		{"manifest.+000000000000001", 0, false},
		{"manifest.000000000000000a", 0, false},
		{"manifest.0x00000000000001", 0, false},
		{"manifest.0_00000000000001", 0, false},
		{"manifest.", 0, false},
		{"Manifest.0000000000000001", 0, false},
		{"manifest.0000000000000001 ", 0, false},
		{"manifest.0000000000000001.bak", 0, false},
		{"xmanifest.0000000000000001", 0, false},
		{"manifest.\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661", 0, false},
	} {
		seq, ok := parseManifestName(tc.name)
		if ok != tc.ok || ok && seq != tc.seq {
			t.Errorf("parseManifestName(%q) = %d, %v; want %d, %v", tc.name, seq, ok, tc.seq, tc.ok)
		}
		if ok && manifestName(seq) != tc.name {
			t.Errorf("manifestName(%d) = %q, want %q", seq, manifestName(seq), tc.name)
		}
	}
}

// TestLineage follows 200 commits, some of whose sequences are skipped.
func TestLineage(t *testing.T) {
	var all []*header
	h := &header{seq: 1, commit: newID()}
	for i := range 200 {
		all = append(all, h)
		h = &header{seq: h.seq + 1 + uint64(i%3), commit: newID(), ancestors: h.nextAncestors()}
		if want := min(i+1, maxAncestors); len(h.ancestors) != want {
			t.Fatalf("commit %d has %d ancestors, want %d", i+1, len(h.ancestors), want)
		}
	}
	for i, h := range all {
		for j, a := range all {
			want := lineageYes
			switch {
			case j > i:
				want = lineageNo
			case j < i-maxAncestors:
				want = lineageUnknown
			}
			if got := h.contains(a.self()); got != want {
				t.Fatalf("commit %d contains %d: %v, want %v", i, j, got, want)
			}
			// Another commit in its place, or at a sequence that was skipped.
			if want == lineageYes {
				want = lineageNo
			}
			if got := h.contains(ancestor{a.seq, newID()}); got != want {
				t.Fatalf("commit %d contains another in place of %d: %v, want %v", i, j, got, want)
			}
		}
	}
}

// FuzzManifest: whatever bytes decode, encode to the same bytes; and nothing
// makes the decoder panic. As hardly any bytes have the right checksums, they
// are tried again with these put right.
func FuzzManifest(f *testing.F) {
	for _, name := range []string{"manifest-v1.hex", "manifest-v2.hex", "manifest-v3.hex", "manifest-newer-flag.hex"} {
		f.Add(golden(f, name))
	}
	f.Add(encodeManifest(&header{seq: 1}, nil))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, seal(bytes.Clone(b))} {
			h, recs, err := decodeManifest("the/file", b)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerVersion) || !strings.Contains(err.Error(), "the/file") {
					t.Fatalf("got %v, want ErrCorrupt or ErrNewerVersion naming the file", err)
				}
				continue
			}
			for _, r := range recs {
				_ = r.record("")
			}
			if got := encodeManifest(&h, recs); binary.LittleEndian.Uint16(b[8:]) == formatVersion && !bytes.Equal(got, b) {
				t.Fatalf("decoded:\n%sencodes to:\n%s", hex.Dump(b), hex.Dump(got))
			}
		}
	})
}
