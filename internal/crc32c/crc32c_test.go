package crc32c

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// TestUpdate compares both ways with hash/crc32.
func TestUpdate(t *testing.T) {
	want := crc32.MakeTable(crc32.Castagnoli)
	rng := rand.New(rand.NewPCG(1, 2))
	for summed.Load() < 2*enough {
		b := make([]byte, rng.IntN(5000))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		crc := rng.Uint32()
		if got, want := Update(crc, b), crc32.Update(crc, want, b); got != want {
			t.Fatalf("after %d bytes: Update(%#x, %d bytes) = %#x, want %#x", summed.Load(), crc, len(b), got, want)
		}
		if summed.Load() >= enough {
			summed.Add(int64(len(b)))
		}
	}
	if got, want := Checksum([]byte("123456789")), uint32(0xe3069283); got != want {
		t.Errorf("Checksum = %#x, want %#x", got, want)
	}
}
