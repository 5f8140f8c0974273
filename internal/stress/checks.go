package stress

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// The checks of a judgement, each on its own. See judge.

// decode checks each final record by itself.
func (g *judgement) decode() {
	g.values = make(map[string]value, len(g.records))
	for _, key := range g.keys() {
		if !strings.HasPrefix(key, g.prefix) {
			g.found(Foreign, "record %s is none of this run", key)
			continue
		}
		v, err := decodeValue(key, g.records[key].Data)
		if err != nil {
			g.found(Torn, "record %s: %v", key, err)
			continue
		}
		g.values[key] = v
	}
}

// keys returns those of the final state, sorted: findings do not depend on
// the order of a map.
func (g *judgement) keys() []string {
	keys := make([]string, 0, len(g.records))
	for key := range g.records {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// A count is one increment of a counter, and what the counter was after it.
type count struct {
	o *op
	n uint64
}

// counters judges every record that counts. Each acknowledged increment says
// which number it made. Two that made the same number: the later did not see
// the earlier. A number beyond the final one: it was undone. And the final
// number is that of the acknowledged increments and at most the open ones.
func (g *judgement) counters() {
	made := map[string][]count{} // by key
	open := map[string]uint64{}  // attempts that nobody knows the fate of
	for _, a := range g.accounts {
		for i := range a.ops {
			o := &a.ops[i]
			if o.kind == opHello || o.kind == opOnce {
				continue
			}
			switch o.fate {
			case fateDone:
				made[o.key] = append(made[o.key], count{o, o.n})
				if o.counter != "" {
					made[o.counter] = append(made[o.counter], count{o, o.count})
				}
			case fateUnknown:
				open[o.key]++
				if o.counter != "" {
					open[o.counter]++
				}
			}
		}
	}
	keys := map[string]bool{}
	for key := range made {
		keys[key] = true
	}
	for key := range open {
		keys[key] = true
	}
	for _, key := range sorted(keys) {
		g.counter(key, made[key], open[key])
	}
}

func (g *judgement) counter(key string, made []count, open uint64) {
	final := g.values[key].N
	slices.SortFunc(made, func(a, b count) int {
		return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(a.o.revision, b.o.revision), cmp.Compare(a.o.end, b.o.end))
	})
	stands := uint64(0) // acknowledged increments that are in the final number
	last := uint64(0)   // the highest revision so far
	for i, c := range made {
		switch {
		case c.n > final:
			g.loses(c.o, "it made %s %d, which is %d in the end", key, c.n, final)
			continue
		case i+1 < len(made) && made[i+1].n == c.n:
			g.loses(c.o, "it made %s %d, and so did %s", key, c.n, made[i+1].o)
			continue
		}
		stands++
		if c.o.revision < last {
			g.found(Back, "%s made %s %d, but a smaller number was made by revision %d", c.o, key, c.n, last)
		}
		last = max(last, c.o.revision)
	}
	if final > stands+open {
		g.result.Faults[Twice] += int(final-stands-open) - 1 // found adds one
		g.found(Twice, "%s is %d after %d acknowledged increments and %d that may have taken effect", key, final, stands, open)
	}
}

// unique judges the records that are written by one operation alone.
func (g *judgement) unique() {
	winners := map[string]*op{}
	for _, a := range g.accounts {
		for i := range a.ops {
			o := &a.ops[i]
			if o.kind != opHello && o.kind != opOnce {
				continue
			}
			if o.text == reasonExists {
				if _, ok := g.records[o.key]; !ok {
					g.found(Lost, "%s: answered that %s exists, and it is not there", o, o.key)
				}
			}
			if o.fate != fateDone {
				continue
			}
			if w := winners[o.key]; w != nil {
				g.found(Twice, "%s and %s were both told that they created it", w, o)
			}
			winners[o.key] = o
			switch v, ok := g.values[o.key]; {
			case !ok:
				g.loses(o, "it is not there")
			case v.Author != a.String() || v.Op != o.number:
				g.loses(o, "in its place is operation %d of %s", v.Op, v.Author)
			}
		}
	}
}

// origins judges who wrote the final records: somebody who attempted just
// that, and was not told that it was not done.
func (g *judgement) origins() {
	authors := map[string]*account{}
	made := map[string]*op{}      // by what it was told that it made of which record
	revisions := map[uint64]*op{} // by what it was told that it is
	for _, a := range g.accounts {
		authors[a.String()] = a
		for i := range a.ops {
			o := &a.ops[i]
			if o.fate != fateDone {
				continue
			}
			made[numbered(o.key, o.n)] = o
			made[numbered(o.counter, o.count)] = o
			revisions[o.revision] = o
		}
	}
	for _, key := range g.keys() {
		v, ok := g.values[key]
		if !ok {
			continue // judged by decode
		}
		a := authors[v.Author]
		if a == nil || v.Op == 0 || v.Op > uint64(len(a.ops)) {
			g.found(Foreign, "record %s was written by operation %d of %s, which nobody attempted", key, v.Op, v.Author)
			continue
		}
		o := &a.ops[v.Op-1]
		n, writes := o.writes(key)
		switch {
		case !writes:
			g.found(Foreign, "record %s was written by %s", key, o)
		case o.fate == fateNot:
			g.found(Foreign, "record %s was written by %s, which was answered: %s", key, o, o.text)
		case o.fate == fateUnknown && made[numbered(key, v.N)] != nil:
			g.loses(made[numbered(key, v.N)], "it made %s %d, and so did %s, which is there", key, v.N, o)
		case o.fate == fateUnknown && revisions[g.records[key].Revision] != nil:
			g.found(Back, "record %s, written by %s, has the revision of %s", key, o, revisions[g.records[key].Revision])
		case o.fate == fateDone && g.records[key].Revision != o.revision:
			g.found(Back, "record %s has revision %d, and was written by %s", key, g.records[key].Revision, o)
		case o.fate == fateDone && n != 0 && v.N != n:
			g.found(Torn, "record %s has n=%d, and was written by %s", key, v.N, o)
		case g.records[key].Revision > g.revision:
			g.found(Back, "record %s has revision %d in a state of revision %d", key, g.records[key].Revision, g.revision)
		}
	}
}

// numbered names a record in one of its states.
func numbered(key string, n uint64) string { return fmt.Sprintf("%s=%d", key, n) }

// writes reports whether the operation writes the record, and which number it
// was told that it made of it, or 0 if it was told none.
func (o *op) writes(key string) (n uint64, ok bool) {
	switch key {
	case o.key:
		return o.n, true
	case o.counter:
		return o.count, true
	}
	return 0, o.kind == opFlip && key == strings.Replace(o.key, "/own/", "/flip/", 1)
}

// whole judges what holds between the final records.
func (g *judgement) whole() {
	sums := map[string]uint64{} // by the key's first part
	for key, v := range g.values {
		group, place, _ := strings.Cut(strings.TrimPrefix(key, g.prefix), "/")
		sums[group] += v.N
		if group == "own" {
			flip := g.prefix + "flip/" + place
			_, there := g.records[flip]
			of, readable := g.values[flip]
			switch {
			case there != (v.Flips%2 == 1):
				g.found(Torn, "after %d flips of %s its record is there: %t", v.Flips, place, there)
			case readable && of.N != v.Flips:
				g.found(Torn, "after %d flips of %s its record is that of flip %d", v.Flips, place, of.N)
			}
		}
	}
	if sums["own"] != sums["shared"] {
		g.found(Torn, "the writers' own records sum up to %d, the shared counters to %d", sums["own"], sums["shared"])
	}
}

// revisions judges that each acknowledged revision was given once, is one of
// the final state's past, and is higher than the goroutine's one before.
func (g *judgement) revisions() {
	by := map[uint64]*op{}
	for _, a := range g.accounts {
		last := uint64(0)
		for i := range a.ops {
			o := &a.ops[i]
			if o.fate != fateDone {
				continue
			}
			if other := by[o.revision]; other != nil {
				g.found(Back, "%s got the revision of %s", o, other)
			}
			by[o.revision] = o
			if o.revision > g.revision {
				g.found(Back, "%s is later than the final state, of revision %d", o, g.revision)
			}
			if o.revision <= last {
				g.found(Back, "%s follows one of revision %d", o, last)
			}
			last = o.revision
		}
	}
}

// order judges that on each machine an operation that began when another had
// been acknowledged has the higher revision.
func (g *judgement) order() {
	for _, done := range g.acknowledged() {
		slices.SortFunc(done, func(a, b *op) int { return cmp.Compare(a.revision, b.revision) })
		var latest *op // of those with a lower revision, the one that began last
		for _, o := range done {
			if latest != nil && o.end < latest.start {
				g.found(Back, "%s was acknowledged before %s began", o, latest)
			}
			if latest == nil || o.start > latest.start {
				latest = o
			}
		}
	}
}

// snapshots judges that each contained what had been acknowledged on its
// machine before it was taken, where the protocol promises that.
func (g *judgement) snapshots() {
	done := g.acknowledged()
	for _, ops := range done {
		slices.SortFunc(ops, func(a, b *op) int { return cmp.Compare(a.end, b.end) })
	}
	newest := map[int][]uint64{} // newest[m][i]: the highest revision of done[m][:i+1]
	for m, ops := range done {
		high := uint64(0)
		for _, o := range ops {
			high = max(high, o.revision)
			newest[m] = append(newest[m], high)
		}
	}
	for _, a := range g.accounts {
		if !a.Fresh {
			continue
		}
		ops := done[a.Machine]
		for _, r := range a.reads {
			i := sort.Search(len(ops), func(i int) bool { return ops[i].end >= r.start })
			if i > 0 && r.revision < newest[a.Machine][i-1] {
				g.found(Stale, "a snapshot of revision %d was taken by %s after revision %d had been acknowledged",
					r.revision, a, newest[a.Machine][i-1])
			}
		}
	}
}

// acknowledged returns the operations that were, by machine: clocks of
// different machines are not compared.
func (g *judgement) acknowledged() map[int][]*op {
	done := map[int][]*op{}
	for _, a := range g.accounts {
		for i := range a.ops {
			if o := &a.ops[i]; o.fate == fateDone {
				done[a.Machine] = append(done[a.Machine], o)
			}
		}
	}
	return done
}

func sorted(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for key := range set {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
