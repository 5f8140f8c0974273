package lockfile

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/crc32c"
)

func sum(b []byte) uint32 { return crc32c.Checksum(b) }

func TestHolderRecord(t *testing.T) {
	want := self()
	want.Purpose, want.Since, want.Claim = "p", time.Unix(1, 2), newClaim()
	b := encodeHolder(want)
	if got, ok := decodeHolder(b); !ok || got != want {
		t.Errorf("decoded %+v, %v; want %+v", got, ok, want)
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 0x10
		if got, ok := decodeHolder(c); ok {
			t.Errorf("byte %d flipped: %+v", i, got)
		}
	}
}

// TestLayout holds the layout to what its documentation says, byte by byte.
func TestLayout(t *testing.T) {
	header := []byte("\x8aRSLOCK\n\x01\x00")
	if got := encodeHeader(Flock); len(got) != 32 || !bytes.HasPrefix(got, header) ||
		le.Uint16(got[10:]) != 2 || le.Uint32(got[12:]) != sum(got[:12]) {
		t.Errorf("header %x", got)
	}
	sixteen := func(s string) (b [16]byte) { copy(b[:], s); return b }
	b := encodeHolder(Holder{
		PID: 0x01020304, Host: "h", Command: "c", Purpose: "p", Since: time.Unix(0, 0x1122334455667788),
		UID: 0x05060706, Start: 0x2122232425262728, PIDNamespace: 0x3132333435363738,
		BootID: sixteen("the boot of today"), MachineID: sixteen("machine number 1"), Claim: sixteen("claim number one"),
	})
	want := make([]byte, 480)
	copy(want, "HOLD")
	copy(want[8:], "\x88\x77\x66\x55\x44\x33\x22\x11\x04\x03\x02\x01\x07\x07\x06\x05"+
		"\x28\x27\x26\x25\x24\x23\x22\x21\x38\x37\x36\x35\x34\x33\x32\x31"+
		"the boot of toda"+"machine number 1"+"claim number one")
	want[96], want[160], want[224] = 'h', 'c', 'p'
	le.PutUint32(want[4:], sum(want[8:]))
	if !bytes.Equal(b, want) {
		t.Errorf("holder record %x\nwant %x", b, want)
	}
	d := encodeData([]byte("abc"))
	want = make([]byte, 272)
	copy(want, "DATA")
	copy(want[8:], "\x03\x00\x00\x00\x00\x00\x00\x00abc")
	le.PutUint32(want[4:], sum(want[8:]))
	if !bytes.Equal(d, want) {
		t.Errorf("data %x\nwant %x", d, want)
	}
	if holderOffset != 32 || ticketOffset != 512 || dataOffset != 640 || fileSize != 1024 {
		t.Error("a region has moved")
	}
}

func FuzzContents(f *testing.F) {
	f.Add(encodeHeader(OFD))
	f.Add(append(encodeHeader(OFD), encodeHolder(Holder{PID: 1})...))
	f.Add([]byte("text"))
	f.Add(make([]byte, fileSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := checkHeader(b); int(m) >= len(mechanismNames) || m != Auto && err != nil {
			t.Errorf("%v, %v", m, err)
		}
		full := append(bytes.Clone(b), make([]byte, fileSize)...)[:fileSize]
		if h, ok := decodeHolder(full[holderOffset:][:holderSize]); ok {
			_ = h.String()
		}
		if p, err := decodeData(full[dataOffset:][:dataSize]); err == nil && p != nil {
			if got, err := decodeData(encodeData(p)); err != nil || !bytes.Equal(got, p) {
				t.Errorf("%q came back as %q, %v", p, got, err)
			}
		}
	})
}

// TestClaim: each time the lock is taken.
func TestClaim(t *testing.T) {
	f := mustOpen(t, lockPath(t))
	seen := map[[16]byte]bool{{}: true}
	for range 10 {
		l := mustLock(t, f, "")
		h, _, err := f.Holder()
		if err != nil || seen[h.Claim] {
			t.Errorf("claim %x, %v", h.Claim, err)
		}
		seen[h.Claim] = true
		mustUnlock(t, l)
	}
	if h, _, _ := f.Holder(); h != (Holder{}) {
		t.Errorf("a free lock is held by %+v", h)
	}
}

// TestUnknownFacts: those of a record that has none, as an earlier version wrote.
func TestUnknownFacts(t *testing.T) {
	h, ok := decodeHolder(encodeHolder(Holder{PID: os.Getpid(), UID: -1}))
	if !ok || h.UID != -1 || h.Liveness() != Unknown {
		t.Errorf("%+v, %v", h, h.Liveness())
	}
}
