package store

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// A merger yields of each key the newest source's version, and nothing twice.
func TestMerger(t *testing.T) {
	for seed := range 200 {
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		want := map[string]rec{}
		m := newMerger()
		for age := range rng.IntN(8) {
			recs := changes{}
			for range rng.IntN(20) {
				key := fmt.Sprintf("k%02d", rng.IntN(30))
				if rng.IntN(4) == 0 {
					recs[key] = encodeTombstone(key, Revision(100-age), 1)
				} else {
					recs[key] = encodeRec(key, "raw", []byte{byte(age)}, Revision(100-age), 1, 0)
				}
				if want[key] == nil {
					want[key] = recs[key]
				}
			}
			m.add(&recSource{recs.in(span{})})
			for key := range recs {
				if want[key].revision() == Revision(100-age) {
					want[key] = recs[key] // its last version in this source
				}
			}
		}
		var got []rec
		for {
			r, err := m.next()
			if err != nil {
				t.Fatal(err)
			}
			if r == nil {
				break
			}
			got = append(got, r)
		}
		if !sameRecs(got, changes(maps.Clone(want)).in(span{})) {
			t.Fatalf("seed %d: got %d records, want %d", seed, len(got), len(want))
		}
	}
}

// failing is a source that fails once it has yielded its records.
type failing struct {
	recSource
	err error
}

func (f *failing) next() (rec, error) {
	if r, _ := f.recSource.next(); r != nil {
		return r, nil
	}
	return nil, f.err
}

// What a merger has yielded before an error is right, and the error is not
// taken for the end of a source: what is older would show through.
func TestMergerError(t *testing.T) {
	recOf := func(key string, rev Revision) rec { return encodeRec(key, "raw", nil, rev, 1, 0) }
	broken := errors.New("broken")
	for n := range 3 {
		newer := &failing{recSource{[]rec{recOf("a", 9), recOf("b", 9)}[:n]}, broken}
		older := &recSource{[]rec{recOf("a", 1), recOf("b", 1), recOf("c", 1)}}
		m := newMerger(newer, older)
		var got []Revision
		var err error
		for {
			var r rec
			if r, err = m.next(); r == nil || err != nil {
				break
			}
			got = append(got, r.revision())
		}
		if !errors.Is(err, broken) || slices.Contains(got, 1) {
			t.Errorf("after %d records of the newer source: revisions %v, error %v; want the newer ones alone, and the error", n, got, err)
		}
	}
}
