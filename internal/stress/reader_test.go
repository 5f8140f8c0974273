package stress

import (
	"context"
	"maps"
	"os"
	"testing"
	"time"
)

// states is a protocol whose snapshots are those given, one after the other.
type states struct {
	naive
	next []*naiveState
}

func (s *states) Snapshot(context.Context, bool) (snapshot, error) {
	st := s.next[0]
	s.next = s.next[1:]
	return naiveSnapshot{st}, nil
}

// wholeState is a state without faults.
func wholeState(revision uint64) *naiveState {
	st := &naiveState{Revision: revision, Records: map[string]stored{}}
	set(st, "own/1-0000", revision-1, value{Op: 1, N: 3, Flips: 1})
	set(st, "flip/1-0000", revision-1, value{Op: 1, N: 1})
	set(st, "own/1-0001", 1, value{Op: 1, N: 2, Flips: 2})
	set(st, "shared/0", revision-1, value{Op: 1, N: 5})
	set(st, "once/0000", 2, value{Op: 1, N: 1})
	return st
}

func set(st *naiveState, key string, revision uint64, v value) {
	key = "stress/1/" + key
	v.Author = "h1-w0000-i000-0"
	st.Records[key] = stored{Data: v.encode(key), Revision: revision}
}

// TestReader shows a reader two states, the second of which has a fault, and
// looks at what it notes.
func TestReader(t *testing.T) {
	tests := []struct {
		name  string
		fault func(st *naiveState)
		want  map[Kind]int
	}{
		{"nothing", func(*naiveState) {}, nil},
		{"created since", func(st *naiveState) { set(st, "once/0001", 9, value{Op: 1, N: 1}) }, nil},
		{"flipped since", func(st *naiveState) {
			set(st, "own/1-0000", 10, value{Op: 2, N: 4, Flips: 2})
			set(st, "shared/1", 10, value{Op: 2, N: 1})
			delete(st.Records, "stress/1/flip/1-0000")
		}, nil},
		{"own record of a later state", func(st *naiveState) {
			set(st, "own/1-0001", 9, value{Op: 2, N: 3, Flips: 2})
		}, map[Kind]int{Torn: 1}},
		{"flip record of an earlier state", func(st *naiveState) {
			set(st, "own/1-0000", 9, value{Op: 2, N: 3, Flips: 2})
		}, map[Kind]int{Torn: 1}},
		{"flip record that was not put", func(st *naiveState) {
			delete(st.Records, "stress/1/flip/1-0000")
		}, map[Kind]int{Torn: 1}},
		{"flip record of another flip", func(st *naiveState) {
			set(st, "own/1-0000", 9, value{Op: 1, N: 3, Flips: 3})
		}, map[Kind]int{Torn: 1}},
		{"value cut short", func(st *naiveState) {
			r := st.Records["stress/1/once/0000"]
			st.Records["stress/1/once/0000"] = stored{r.Data[:9], r.Revision}
		}, map[Kind]int{Torn: 1}},
		{"record newer than the state", func(st *naiveState) {
			set(st, "once/0000", 11, value{Op: 1, N: 1})
		}, map[Kind]int{Torn: 1}},
		{"older state", func(st *naiveState) {
			*st = *wholeState(9)
			st.Revision = 8
		}, map[Kind]int{Back: 1}},
		{"older record", func(st *naiveState) { set(st, "once/0000", 1, value{Op: 1, N: 1}) }, map[Kind]int{Back: 1}},
		{"smaller count", func(st *naiveState) {
			set(st, "own/1-0001", 9, value{Op: 1, N: 1, Flips: 2})
			set(st, "own/1-0000", 9, value{Op: 1, N: 4, Flips: 1})
		}, map[Kind]int{Back: 1}},
		{"other count at the same revision", func(st *naiveState) {
			set(st, "own/1-0001", 1, value{Op: 1, N: 3, Flips: 2})
			set(st, "shared/1", 9, value{Op: 1, N: 1})
		}, map[Kind]int{Back: 1}},
		{"record is gone", func(st *naiveState) { delete(st.Records, "stress/1/once/0000") }, map[Kind]int{Back: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			first, second := wholeState(9), wholeState(10)
			test.fault(second)
			got := readersNotes(t, func(r *reader) { r.p.(*states).next = []*naiveState{first, second} }, 2)
			if !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}

	t.Run("held state changes", func(t *testing.T) {
		held := wholeState(9)
		got := readersNotes(t, func(r *reader) {
			r.held, r.digest = naiveSnapshot{held}, 1 // which it has not
			r.p.(*states).next = []*naiveState{wholeState(10)}
		}, 1)
		if want := map[Kind]int{Torn: 1}; !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// readersNotes lets a reader take some steps, and counts its violations.
func readersNotes(t *testing.T, prepare func(*reader), steps int) map[Kind]int {
	t.Helper()
	j := job{
		author: author{Machine: 1, Form: formHard, Role: roleReader},
		Seed:   1, Protocol: ProtocolStore, Machines: 1, History: t.TempDir(), Timeout: time.Minute,
	}
	h, err := j.hand(&states{}, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	h.tally = &tally{}
	r := newReader(h)
	prepare(r)
	for range steps {
		if err := r.step(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.history.end(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(h.history.f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := readHistory(f.Name(), f)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.reads) != steps {
		t.Errorf("%d snapshots are noted, want %d", len(a.reads), steps)
	}
	var notes map[Kind]int
	for _, f := range a.seen {
		if notes == nil {
			notes = map[Kind]int{}
		}
		notes[f.Kind]++
		t.Log(f.Kind, f.Text)
	}
	return notes
}
