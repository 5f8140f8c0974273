package main

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
)

// A value is a counter and what follows from it and the key, so that a value
// that is torn, or belongs to another record, is noticed. It does not compress.
const valueSize = 100

const counterSize = 8

func recordKey(i int) string { return fmt.Sprintf("record/%08d", i) }

// missingKey lies between two keys that are there.
func missingKey(i int) string { return recordKey(i) + "-" }

func newValue(key string, counter uint64) []byte {
	v := make([]byte, valueSize)
	binary.BigEndian.PutUint64(v, counter)
	fill(v[counterSize:], key, counter)
	return v
}

// fill writes splitmix64 of the key and the counter.
func fill(b []byte, key string, counter uint64) {
	x := counter*0x9e3779b97f4a7c15 + 1
	for i := range len(key) {
		x = (x ^ uint64(key[i])) * 0x100000001b3
	}
	for i := 0; i < len(b); i += 8 {
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		for j := i; j < min(i+8, len(b)); j++ {
			b[j] = byte(z)
			z >>= 8
		}
	}
}

// readValue returns a value's counter, and an error if it is not a value that
// newValue made for this key.
func readValue(key string, v []byte) (uint64, error) {
	if len(v) != valueSize {
		return 0, fmt.Errorf("value of %s has %d bytes, want %d", key, len(v), valueSize)
	}
	counter := binary.BigEndian.Uint64(v)
	var want [valueSize - counterSize]byte
	fill(want[:], key, counter)
	if string(want[:]) != string(v[counterSize:]) {
		return 0, fmt.Errorf("value of %s with counter %d is not what was written", key, counter)
	}
	return counter, nil
}

// count is the change that all updates make: one more.
func count(key string) func(old []byte) ([]byte, error) {
	return func(old []byte) ([]byte, error) {
		n, err := readValue(key, old)
		if err != nil {
			return nil, err
		}
		return newValue(key, n+1), nil
	}
}

// newRecords returns the records from <= i < to, in order, with counters of 0.
func newRecords(from, to int) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for i := from; i < to; i++ {
			if key := recordKey(i); !yield(key, newValue(key, 0)) {
				return
			}
		}
	}
}

// scattered returns n new records with random keys, all over the keys that are
// there.
func scattered(rnd *rand.Rand, among, n int) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for range n {
			key := fmt.Sprintf("%s+%016x", recordKey(rnd.IntN(among)), rnd.Uint64())
			if !yield(key, newValue(key, 0)) {
				return
			}
		}
	}
}
