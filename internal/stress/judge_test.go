package stress

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// A scene is a run as its judge finds it: histories as text, and the final
// records.
type scene struct {
	histories map[string]string // by author
	revision  uint64
	records   map[string]stored
}

// quietRun returns a run without faults, in which all kinds of operations and
// answers occur. The tests change it.
func quietRun() *scene {
	s := &scene{revision: 9, records: map[string]stored{}, histories: map[string]string{
		"q1-w0000-i000-0": `
			a 1 10 hello stress/1/hello/1-0000 -
			k 1 20 9 1 1 0
			z 21`,
		"h1-w0000-i000-0": `
			a 1 30 bump stress/1/own/1-0000 stress/1/shared/0
			k 1 40 9 2 1 1
			a 2 50 renew stress/1/own/1-0000 stress/1/shared/0
			k 2 60 9 3 2 2
			a 3 70 once stress/1/once/0000 -
			k 3 80 9 4 1 0
			a 4 90 cas stress/1/cas/0 -
			x 4 100 conflict
			z 101`,
		"h1-w0001-i000-0": `
			a 1 100 flip stress/1/own/1-0001 stress/1/shared/0
			k 1 110 9 5 1 3
			a 2 120 cas stress/1/cas/0 -
			k 2 130 9 6 1 0
			a 3 140 once stress/1/once/0000 -
			x 3 150 exists
			a 4 160 bump stress/1/own/1-0001 stress/1/shared/1
			x 4 170 late
			a 5 180 bump stress/1/own/1-0001 stress/1/shared/1
			u 5 190 "perhaps"
			a 6 200 bump stress/1/own/1-0001 stress/1/shared/0
			k 6 210 9 7 2 4
			z 211`,
		// Killed in its second operation.
		"h1-w0002-i000-0": `
			a 1 220 bump stress/1/own/1-0002 stress/1/shared/1
			k 1 230 9 8 1 1
			a 2 240 bump stress/1/own/1-0002 stress/1/shared/1`,
		// Its successor.
		"h1-w0002-i001-0": `
			a 1 250 bump stress/1/own/1-0002 stress/1/shared/1
			k 1 260 9 9 2 2
			z 261`,
		"h1-r0000-i000-0": `
			s 5 6 0
			s 41 42 2
			s 55 56 3
			l 57
			s 265 266 9
			z 270`,
	}}
	s.put("hello/1-0000", 1, value{"q1-w0000-i000-0", 1, 1, 0})
	s.put("own/1-0000", 3, value{"h1-w0000-i000-0", 2, 2, 0})
	s.put("once/0000", 4, value{"h1-w0000-i000-0", 3, 1, 0})
	s.put("flip/1-0001", 5, value{"h1-w0001-i000-0", 1, 1, 0})
	s.put("cas/0", 6, value{"h1-w0001-i000-0", 2, 1, 0})
	s.put("own/1-0001", 7, value{"h1-w0001-i000-0", 6, 2, 1})
	s.put("shared/0", 7, value{"h1-w0001-i000-0", 6, 4, 0})
	s.put("own/1-0002", 9, value{"h1-w0002-i001-0", 1, 2, 0})
	s.put("shared/1", 9, value{"h1-w0002-i001-0", 1, 2, 0})
	return s
}

// put sets a final record.
func (s *scene) put(key string, revision uint64, v value) {
	key = "stress/1/" + key
	s.records[key] = stored{Data: v.encode(key), Revision: revision}
}

// edit replaces a part of a history.
func (s *scene) edit(author, from, to string) {
	h := s.histories[author]
	if strings.Count(h, from) != 1 {
		panic(fmt.Sprintf("%q is not once in the history of %s", from, author))
	}
	s.histories[author] = strings.Replace(h, from, to, 1)
}

// text returns an author's history as its process would have written it.
func (s *scene) text(name string) string {
	var a author
	var form, role rune
	if _, err := fmt.Sscanf(name, "%c%d-%c%d-i%d-%d", &form, &a.Machine, &role, &a.Slot, &a.Incarnation, &a.Thread); err != nil {
		panic(err)
	}
	a.Form = map[rune]string{'q': formQuestion, 'h': formHard}[form]
	a.Role = map[rune]string{'w': roleWriter, 'r': roleReader}[role]
	head := fmt.Sprintf(`h {"version":1,"protocol":"store","seed":1,"machines":1,"fresh":true,`+
		`"machine":%d,"form":%q,"role":%q,"slot":%d,"incarnation":%d,"thread":%d}`,
		a.Machine, a.Form, a.Role, a.Slot, a.Incarnation, a.Thread)
	return head + strings.ReplaceAll(s.histories[name], "\n\t\t\t", "\n") + "\n"
}

// judge lets the judge see the scene. Histories are cut by cut bytes at their
// end, as by a kill.
func (s *scene) judge(t *testing.T, cut map[string]int) *judgement {
	t.Helper()
	var accounts []*account
	for _, name := range slices.Sorted(maps.Keys(s.histories)) {
		text := s.text(name)
		a, err := readHistory(name, strings.NewReader(text[:len(text)-cut[name]]))
		if err != nil {
			t.Fatal(err)
		}
		accounts = append(accounts, a)
	}
	g, err := newJudgement(accounts)
	if err != nil {
		t.Fatal(err)
	}
	g.revision, g.records = s.revision, s.records
	g.judge()
	return g
}

func TestJudge(t *testing.T) {
	const (
		w0 = "h1-w0000-i000-0"
		w1 = "h1-w0001-i000-0"
		w2 = "h1-w0002-i000-0"
		r0 = "h1-r0000-i000-0"
	)
	tests := []struct {
		name  string
		fault func(s *scene)
		want  map[Kind]int
	}{
		{"nothing", func(s *scene) {}, nil},
		{"killed operation is there", func(s *scene) {
			s.revision = 10
			s.put("own/1-0002", 9, value{"h1-w0002-i001-0", 1, 3, 0})
			s.put("shared/1", 9, value{"h1-w0002-i001-0", 1, 3, 0})
			s.edit("h1-w0002-i001-0", "k 1 260 9 9 2 2", "k 1 260 9 9 3 3")
		}, nil},
		{"perhaps-operation is there", func(s *scene) {
			s.put("own/1-0001", 7, value{w1, 6, 3, 1})
			s.put("shared/1", 9, value{"h1-w0002-i001-0", 1, 3, 0})
			s.edit(w1, "k 6 210 9 7 2 4", "k 6 210 9 7 3 4")
			s.edit("h1-w0002-i001-0", "k 1 260 9 9 2 2", "k 1 260 9 9 2 3")
		}, nil},
		{"half of a killed operation is there", func(s *scene) {
			s.put("own/1-0002", 9, value{"h1-w0002-i001-0", 1, 3, 0})
			s.edit("h1-w0002-i001-0", "k 1 260 9 9 2 2", "k 1 260 9 9 3 2")
		}, map[Kind]int{Torn: 1}},

		{"saved record is missing", func(s *scene) { delete(s.records, "stress/1/hello/1-0000") }, map[Kind]int{Lost: 1}},
		{"saved record is another's", func(s *scene) {
			s.put("hello/1-0000", 1, value{w0, 1, 1, 0})
		}, map[Kind]int{Lost: 1, Foreign: 1}},
		{"created record is missing, though one was told that it exists", func(s *scene) {
			delete(s.records, "stress/1/once/0000")
		}, map[Kind]int{Lost: 2}},
		{"own record is missing", func(s *scene) {
			delete(s.records, "stress/1/own/1-0000")
		}, map[Kind]int{Lost: 2, Torn: 1}},
		{"last update is undone", func(s *scene) {
			s.put("own/1-0001", 5, value{w1, 1, 1, 1})
			s.put("shared/0", 5, value{w1, 1, 3, 0})
		}, map[Kind]int{Lost: 1}},
		{"update did not see the one before", func(s *scene) {
			s.edit(w1, "k 6 210 9 7 2 4", "k 6 210 9 7 1 3")
			s.put("own/1-0001", 7, value{w1, 6, 1, 1})
			s.put("shared/0", 7, value{w1, 6, 3, 0})
		}, map[Kind]int{Lost: 1}},
		{"lost update hidden by a killed one", func(s *scene) {
			// The counters are as high as the acknowledged increments ask for,
			// and yet two of these made the same number.
			s.edit("h1-w0002-i001-0", "k 1 260 9 9 2 2", "k 1 260 9 9 1 1")
		}, map[Kind]int{Lost: 1, Torn: 2}},
		{"lost update hidden by a killed one that made the same number", func(s *scene) {
			s.edit(w2, "a 2 240 bump stress/1/own/1-0002 stress/1/shared/1", "a 2 240 cas stress/1/cas/0 -")
			s.put("cas/0", 10, value{w2, 2, 1, 0})
			s.revision = 10
		}, map[Kind]int{Lost: 1}},
		{"swapped counter is undone", func(s *scene) { delete(s.records, "stress/1/cas/0") }, map[Kind]int{Lost: 1}},

		{"increment is there twice", func(s *scene) {
			s.put("own/1-0000", 3, value{w0, 2, 3, 0})
			s.put("shared/0", 7, value{w1, 6, 5, 0})
		}, map[Kind]int{Twice: 2, Torn: 2}},
		{"three more than attempted", func(s *scene) {
			s.put("cas/0", 6, value{w1, 2, 4, 0})
		}, map[Kind]int{Twice: 3, Torn: 1}},
		{"two were told that they created it", func(s *scene) {
			s.edit(w1, "x 3 150 exists", "k 3 150 9 10 1 0")
			s.edit(w1, "k 6 210 9 7 2 4", "k 6 210 9 11 2 4")
			s.put("own/1-0001", 11, value{w1, 6, 2, 1})
			s.put("shared/0", 11, value{w1, 6, 4, 0})
			s.revision = 11
		}, map[Kind]int{Twice: 1, Lost: 1, Back: 2, Stale: 1}},

		{"record of nobody", func(s *scene) {
			s.put("once/0001", 9, value{"h1-w0009-i000-0", 1, 1, 0})
		}, map[Kind]int{Foreign: 1}},
		{"record of an attempt that was never made", func(s *scene) {
			s.put("once/0001", 9, value{w0, 9, 1, 0})
		}, map[Kind]int{Foreign: 1}},
		{"record of an attempt on another", func(s *scene) {
			s.put("once/0001", 4, value{w0, 3, 1, 0})
		}, map[Kind]int{Foreign: 1}},
		{"record of another run", func(s *scene) {
			s.records["stress/2/once/0000"] = s.records["stress/1/once/0000"]
		}, map[Kind]int{Foreign: 1}},
		{"operation that was answered late is there", func(s *scene) {
			s.put("own/1-0001", 7, value{w1, 4, 2, 1})
		}, map[Kind]int{Foreign: 1}},
		{"refused operation is there", func(s *scene) {
			s.put("cas/0", 6, value{w0, 4, 1, 0})
		}, map[Kind]int{Foreign: 1}},

		{"flipped bit", func(s *scene) {
			s.records["stress/1/once/0000"].Data[3] ^= 1
		}, map[Kind]int{Torn: 1, Lost: 1}},
		{"value cut short", func(s *scene) {
			r := s.records["stress/1/cas/0"]
			s.records["stress/1/cas/0"] = stored{r.Data[:len(r.Data)-1], r.Revision}
		}, map[Kind]int{Torn: 1, Lost: 1}},
		{"empty value", func(s *scene) {
			s.records["stress/1/cas/0"] = stored{nil, 6}
		}, map[Kind]int{Torn: 1, Lost: 1}},
		{"value of another record", func(s *scene) {
			s.records["stress/1/cas/1"] = s.records["stress/1/cas/0"]
		}, map[Kind]int{Torn: 1}},
		{"deleted record is there", func(s *scene) {
			s.put("flip/1-0002", 9, value{"h1-w0002-i001-0", 1, 2, 0})
		}, map[Kind]int{Foreign: 1, Torn: 1}},
		{"record of an older flip", func(s *scene) {
			s.put("own/1-0001", 7, value{w1, 6, 2, 3})
		}, map[Kind]int{Torn: 1}},
		{"put record is missing", func(s *scene) { delete(s.records, "stress/1/flip/1-0001") }, map[Kind]int{Torn: 1}},

		{"revision given twice", func(s *scene) {
			s.edit(w1, "k 2 130 9 6 1 0", "k 2 130 9 4 1 0")
			s.put("cas/0", 4, value{w1, 2, 1, 0})
		}, map[Kind]int{Back: 3}}, // also: it follows 5, and it began after 4 was answered
		{"killed operation has another's revision", func(s *scene) {
			s.edit(w2, "a 2 240 bump stress/1/own/1-0002 stress/1/shared/1", "a 2 240 cas stress/1/cas/0 -")
			s.put("cas/0", 9, value{w2, 2, 2, 0})
		}, map[Kind]int{Back: 1}},
		{"revision of a goroutine goes back", func(s *scene) {
			s.edit(w0, "k 1 40 9 2 1 1", "k 1 40 9 4 1 1")
			s.edit(w0, "k 3 80 9 4 1 0", "k 3 80 9 2 1 0")
			s.put("once/0000", 2, value{w0, 3, 1, 0})
		}, map[Kind]int{Back: 6, Stale: 2}},
		{"revision is none of the final state's", func(s *scene) { s.revision = 8 }, map[Kind]int{Back: 3}},
		{"final record is of an older revision than acknowledged", func(s *scene) {
			s.put("once/0000", 3, value{w0, 3, 1, 0})
		}, map[Kind]int{Back: 1}},
		{"order of two processes goes back", func(s *scene) {
			s.edit(w1, "k 2 130 9 6 1 0", "k 2 130 9 8 1 0")
			s.edit(w1, "k 6 210 9 7 2 4", "k 6 210 9 9 2 4")
			s.edit(w2, "k 1 230 9 8 1 1", "k 1 230 9 6 1 1")
			s.edit("h1-w0002-i001-0", "k 1 260 9 9 2 2", "k 1 260 9 10 2 2")
			s.put("cas/0", 8, value{w1, 2, 1, 0})
			s.put("own/1-0001", 9, value{w1, 6, 2, 1})
			s.put("shared/0", 9, value{w1, 6, 4, 0})
			s.put("own/1-0002", 10, value{"h1-w0002-i001-0", 1, 2, 0})
			s.put("shared/1", 10, value{"h1-w0002-i001-0", 1, 2, 0})
			s.revision = 10
			s.edit(r0, "s 265 266 9", "s 265 266 10")
		}, map[Kind]int{Back: 2}},

		{"snapshot misses what was acknowledged", func(s *scene) { s.edit(r0, "s 55 56 3", "s 61 62 2") }, map[Kind]int{Stale: 1}},
		{"snapshot may miss what was not yet acknowledged", func(s *scene) { s.edit(r0, "s 55 56 3", "s 60 62 2") }, nil},
		{"reader saw faults", func(s *scene) {
			s.edit(r0, "l 57", "v torn \"half\"\n\t\t\tv back \"older\"\n\t\t\tv torn \"a third\"")
		}, map[Kind]int{Torn: 2, Back: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := quietRun()
			test.fault(s)
			g := s.judge(t, nil)
			if !maps.Equal(g.result.Faults, test.want) {
				t.Errorf("got faults %v, want %v", g.result.Faults, test.want)
				for _, f := range g.result.Examples {
					t.Logf("%s: %s", f.Kind, f.Text)
				}
			}
			if ok := g.result.OK(); ok != (len(test.want) == 0) {
				t.Errorf("got OK %t", ok)
			}
		})
	}
}

// TestJudgeCut cuts the history of the killed process at every byte. What is
// missing then is at most an answer: the operation may have taken effect, and
// has.
func TestJudgeCut(t *testing.T) {
	s := quietRun()
	const killed = "h1-w0002-i000-0"
	s.edit(killed, "\n\t\t\ta 2 240 bump stress/1/own/1-0002 stress/1/shared/1", "")
	text := s.text(killed)
	answer := len(text) - strings.LastIndex(text, "\nk ") - 1
	attempt := len(text) - strings.LastIndex(text, "\na ") - 1
	for cut := range attempt + 1 {
		g := s.judge(t, map[string]int{killed: cut})
		want, open := map[Kind]int(nil), 0
		switch {
		case cut == 0:
		case cut <= answer:
			open = 1
		default:
			// The attempt's line is not whole, so the attempt was not made; and
			// who raised the own record to 2? The shared counter may have been
			// raised by the operation of fate unknown.
			want = map[Kind]int{Twice: 1}
		}
		if !maps.Equal(g.result.Faults, want) || g.result.Open != open {
			t.Errorf("cut by %d: got %v and %d open operations, want %v and %d", cut, g.result.Faults, g.result.Open, want, open)
		}
	}
}

func TestReadHistoryErrors(t *testing.T) {
	head := `h {"version":1,"protocol":"store","seed":1,"machines":1,"machine":1,"form":"hard","role":"writer"}` + "\n"
	tests := []struct{ name, text, want string }{
		{"no header", "a 1 2 bump x y\n", "x:1: not a line of a history"},
		{"two headers", head + head, "x:2: not a line of a history"},
		{"newer version", `h {"version":2,"form":"hard","role":"writer"}` + "\n", "x:1: history of version 2; this program reads 1"},
		{"unknown line", head + "y 1\n", "x:2: not a line of a history"},
		{"answer without attempt", head + "k 1 2 3 4 5 6\n", "x:2: an answer before the first attempt"},
		{"answer to another attempt", head + "a 1 2 bump x y\nk 2 2 3 4 5 6\n", "x:3: answer to attempt 2 follows attempt 1"},
		{"two answers", head + "a 1 2 bump x y\nx 1 2 late\nx 1 2 late\n", "x:4: a second answer to attempt 1"},
		{"attempt before the answer", head + "a 1 2 bump x y\na 2 2 bump x y\n", "x:3: attempt 2 begins before the answer to the one before"},
		{"attempt left out", head + "a 2 2 bump x y\n", "x:2: attempt 2 follows attempt 0"},
		{"number left out", head + "a 1 2 bump x y\nk 1 2 3 4 5\n", "x:3: not a line of a history"},
		{"end without an answer", head + "a 1 2 bump x y\nz 3\n", "x: ends with an attempt that has no answer"},
		{"on after the end", head + "z 3\ns 1 2 3\n", "x:3: not a line of a history"},
		{"cut after the end", head + "z 3\ns 1", "x:3: goes on after its end"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := readHistory("x", strings.NewReader(test.text))
			if err == nil || err.Error() != test.want {
				t.Errorf("got error %v, want %s", err, test.want)
			}
		})
	}
	for cut := range len(head) {
		if a, err := readHistory("x", strings.NewReader(head[:cut])); a != nil || err != nil {
			t.Errorf("header cut to %d bytes: got %v, %v, want nothing", cut, a, err)
		}
	}
}

// TestOneRun gives the judge histories that do not belong together.
func TestOneRun(t *testing.T) {
	of := func(path string, machine, machines int, seed uint64) *account {
		return &account{path: path, header: header{
			Seed: seed, Machines: machines,
			author: author{Machine: machine, Form: formHard, Role: roleWriter},
		}}
	}
	tests := []struct {
		name     string
		accounts []*account
		want     string
	}{
		{"different seeds", []*account{of("a", 1, 2, 1), of("b", 2, 2, 2)}, "a and b are histories of different runs"},
		{"same process", []*account{of("a", 1, 1, 1), of("b", 1, 1, 1)}, "a and b are histories of the same process"},
		{"machine missing", []*account{of("a", 1, 3, 1), of("b", 3, 3, 1)}, "machine 2 of 3: histories are missing"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := newJudgement(test.accounts); err == nil || err.Error() != test.want {
				t.Errorf("got error %v, want %s", err, test.want)
			}
		})
	}
}

func TestMeasure(t *testing.T) {
	g := quietRun().judge(t, nil)
	r := g.result
	got := fmt.Sprintln(r.Writers, r.Readers, r.Saved, r.Found, r.Commits, r.Elapsed, r.P50, r.Snapshots, r.Kills, r.Open, r.Refused, r.TimedOut, r.Unknown, r.PerProcess, r.PerGroup)
	want := fmt.Sprintln(3, 1, 1, 1, 8, "230ns", "9ns", 4, 1, 1, 2, 2, 1, Spread{2, 3, 3}, Spread{})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
