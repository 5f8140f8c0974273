package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/recordstore/recordstore/internal/vfs/faultfs"
	"github.com/recordstore/recordstore/lockfile"
)

// The steps of moving journals and merging segments, one at a time: what others
// do between two of them is done here, in order.

// A mill is a store whose journal and segments are moved and merged by the test
// alone.
type mill struct {
	*Store
	t   *testing.T
	m   *simMachine
	sys system
}

func newMill(t *testing.T) *mill {
	t.Helper()
	m := newMachine(faultfs.NewDisk(), 1)
	sys := m.system(plain(m.disk))
	g := &mill{mustOpen(t, simDir, nil, sys), t, m, sys}
	t.Cleanup(func() { g.Close() })
	return g
}

func (g *mill) put(keys ...string) {
	g.t.Helper()
	for _, k := range keys {
		mustPut(g.t, g.Store, k, "value of "+k)
	}
}

func (g *mill) del(key string) {
	g.t.Helper()
	if _, err := g.Delete(context.Background(), key); err != nil {
		g.t.Fatal(err)
	}
}

// newestState returns the newest state, for the rest of the test.
func (g *mill) newestState() *state {
	g.t.Helper()
	st, err := g.newest(context.Background())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(st.release)
	return st
}

// moving and merging return the inputs of the newest state.
func (g *mill) moving() *input { return &input{st: g.newestState(), journal: true} }

func (g *mill) merging(from, to int) *input { return &input{st: g.newestState(), from: from, to: to} }

// begin writes the segment that the input becomes. finish publishes it, and
// tells whether there was a place for it.
func (g *mill) begin(in *input) (finish func() bool) {
	g.t.Helper()
	out, err := g.writeSegment(in.st, in.source(), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return func() bool {
		g.t.Helper()
		defer out.close()
		st, err := g.replaceLocked(context.Background(), in, out)
		if err != nil {
			g.t.Fatal(err)
		}
		if st == nil {
			return false
		}
		defer st.release()
		if err := g.flush(st, false); err != nil {
			g.t.Fatal(err)
		}
		return true
	}
}

func (g *mill) do(in *input) {
	g.t.Helper()
	if !g.begin(in)() {
		g.t.Fatal("there was no place for a segment, and nobody has changed anything")
	}
}

// want compares the live records with the keys, separated by spaces.
func (g *mill) want(keys string) {
	g.t.Helper()
	sn := mustSnapshot(g.t, g.Store)
	var got []string
	for r, err := range sn.All() {
		if err != nil {
			g.t.Fatal(err)
		}
		got = append(got, r.Key)
		if _, err := sn.Get(r.Key); err != nil {
			g.t.Errorf("%s is in the scan, and Get says: %v", r.Key, err)
		}
	}
	if !slices.Equal(got, strings.Fields(keys)) {
		g.t.Errorf("there are %v, want %v", got, keys)
	}
}

// shape returns what is where, tombstones with a minus: the journal, then each
// segment.
func (g *mill) shape() string {
	g.t.Helper()
	st := g.newestState()
	name := func(r rec) string {
		if r.tombstone() {
			return "-" + string(r.key())
		}
		return string(r.key())
	}
	var parts []string
	var journal []string
	for _, r := range st.view.journal {
		journal = append(journal, name(r))
	}
	parts = append(parts, strings.Join(journal, " "))
	for _, seg := range st.view.segs {
		recs, err := collect(seg, "")
		if err != nil {
			g.t.Fatal(err)
		}
		var names []string
		for _, r := range recs {
			names = append(names, name(r))
		}
		parts = append(parts, strings.Join(names, " "))
	}
	return strings.Join(parts, " | ")
}

func (g *mill) wantShape(want string) {
	g.t.Helper()
	if got := g.shape(); got != want {
		g.t.Errorf("journal and segments are %q, want %q", got, want)
	}
}

func TestMoveJournal(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first func(g *mill)
		then  func(g *mill) // between writing the segment and publishing it
		place bool
		shape string
		keys  string
	}{
		{"nothing happens", func(g *mill) { g.put("a", "b") }, func(*mill) {}, true, " | a b", "a b"},
		{
			"others are added, and one is written anew",
			func(g *mill) { g.put("b", "d") },
			func(g *mill) { g.put("a", "d", "e") },
			true, "a d e | b d", "a b d e",
		},
		{
			"one is deleted, and there are segments",
			func(g *mill) { g.put("a"); g.do(g.moving()); g.put("b", "c") },
			func(g *mill) { g.del("b") },
			true, "-b | b c | a", "a c",
		},
		{
			"one is deleted, and there are none",
			func(g *mill) { g.put("a", "b") },
			func(g *mill) { g.del("a") },
			false, "b", "b",
		},
		{
			"the only one is deleted, and there are no segments",
			func(g *mill) { g.put("a") },
			func(g *mill) { g.del("a") },
			false, "", "",
		},
		{
			"one is deleted and put again, and there are no segments",
			func(g *mill) { g.put("a") },
			func(g *mill) { g.del("a"); g.put("a") },
			true, "a | a", "a",
		},
		{
			"another one moves it first",
			func(g *mill) { g.put("a", "b") },
			func(g *mill) { g.do(g.moving()); g.put("c") },
			false, "c | a b", "a b c",
		},
		{
			"another one moves it, and a newer version after it",
			func(g *mill) { g.put("a", "b") },
			func(g *mill) { g.do(g.moving()); g.put("a"); g.do(g.moving()) },
			false, " | a | a b", "a b",
		},
		{
			"another one moves it, and some is written anew",
			func(g *mill) { g.put("a", "b") },
			func(g *mill) { g.do(g.moving()); g.put("a") },
			false, "a | a b", "a b",
		},
		{
			// What comes back above the other's segment is hidden by the journal.
			"another one moves it, and all is written anew",
			func(g *mill) { g.put("z"); g.do(g.moving()); g.put("a", "b") },
			func(g *mill) { g.do(g.moving()); g.put("a"); g.del("b") },
			true, "a -b | a b | a b | z", "a z",
		},
		{
			"another one moves it, and all is written anew, where there were no segments",
			func(g *mill) { g.put("a", "b") },
			func(g *mill) { g.do(g.moving()); g.put("a"); g.del("b") },
			false, "a -b | a b", "a",
		},
		{
			"segments are merged meanwhile",
			func(g *mill) { g.put("a"); g.do(g.moving()); g.put("b"); g.do(g.moving()); g.put("c") },
			func(g *mill) { g.do(g.merging(0, 2)) },
			true, " | c | a b", "a b c",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newMill(t)
			tc.first(g)
			finish := g.begin(g.moving())
			tc.then(g)
			if ok := finish(); ok != tc.place {
				t.Errorf("there was a place: %v, want %v", ok, tc.place)
			}
			g.wantShape(tc.shape)
			g.want(tc.keys)
			// Whatever came of it, the files are those that are named.
			if st, err := g.Stat(context.Background()); err != nil || st.SegmentFiles > st.Segments+2 || st.Temporary > 0 {
				t.Errorf("the directory holds %+v, %v", st, err)
			}
			if err := g.Compact(context.Background()); err != nil {
				t.Fatal(err)
			}
			g.want(tc.keys)
		})
	}
}

// A journal that is moved where there are no segments leaves out what is
// deleted: nothing is below it. If that is no longer so when it is published,
// because a slower process had moved an older journal meanwhile, what is
// deleted would come back.
func TestMoveJournalAboveNewSegments(t *testing.T) {
	var clock atomic.Int64
	clock.Store(1_700_000_000_000_000_000)
	open := func(t *testing.T) *mill {
		g := newMill(t)
		g.Store.sys.now = func() time.Time { return time.Unix(0, clock.Load()) }
		return g
	}
	empty := func(g *mill) { // a commit that leaves the journal as it is, like the first after a restart
		lock, err := g.turnWith(context.Background(), "test", nil)
		if err != nil {
			g.t.Fatal(err)
		}
		defer lock.end()
		base := g.newestState()
		h := g.child(base)
		h.lastRev = h.firstRev - 1
		st, err := g.publishState(base, h, base.view.journal, lock)
		if err != nil {
			g.t.Fatal(err)
		}
		st.release()
	}
	t.Run("an expired record", func(t *testing.T) {
		g := open(t)
		g.put("k")
		slow := g.begin(g.moving())
		mustPut(t, g.Store, "k", "short-lived", WithTTL(5))
		clock.Add(10)
		empty(g)
		fast := g.begin(g.moving())
		slow()
		fast()
		g.want("")
	})
	t.Run("a tombstone", func(t *testing.T) {
		g := open(t)
		mustPut(t, g.Store, "x", "short-lived", WithTTL(5))
		g.do(g.moving())
		g.put("k")
		slow := g.begin(g.moving())
		g.del("k")
		clock.Add(10)
		empty(g)
		g.do(g.merging(0, 1)) // there are none any more
		g.wantShape("-k")
		fast := g.begin(g.moving())
		slow()
		fast()
		g.want("")
	})
}

func TestMergeSegments(t *testing.T) {
	// Four segments, newest first: "-a d", "b c", "a b", "a".
	four := func(t *testing.T) *mill {
		g := newMill(t)
		g.put("a")
		g.do(g.moving())
		g.put("a", "b")
		g.do(g.moving())
		g.put("b", "c")
		g.do(g.moving())
		g.del("a")
		g.put("d")
		g.do(g.moving())
		g.wantShape(" | -a d | b c | a b | a")
		return g
	}
	for _, tc := range []struct {
		name     string
		from, to int
		then     func(g *mill)
		place    bool
		shape    string
	}{
		{"the newest", 0, 2, func(*mill) {}, true, " | -a b c d | a b | a"},
		{"a tombstone stays above what it hides", 0, 3, func(*mill) {}, true, " | -a b c d | a"},
		{"all", 0, 4, func(*mill) {}, true, " | b c d"},
		{"the oldest", 2, 4, func(*mill) {}, true, " | -a d | b c | a b"},
		{"in the middle", 1, 3, func(*mill) {}, true, " | -a d | a b c | a"},
		{"others come above", 1, 3, func(g *mill) { g.put("e"); g.do(g.moving()) }, true, " | e | -a d | a b c | a"},
		{"others are merged above", 2, 4, func(g *mill) { g.do(g.merging(0, 2)) }, true, " | -a b c d | a b"},
		{"others are merged below", 0, 2, func(g *mill) { g.do(g.merging(2, 4)) }, true, " | -a b c d | a b"},
		{"the newest input is gone", 1, 3, func(g *mill) { g.do(g.merging(0, 2)) }, false, " | -a b c d | a b | a"},
		{"the oldest input is gone", 0, 3, func(g *mill) { g.do(g.merging(2, 4)) }, false, " | -a d | b c | a b"},
		{"an input in the middle is gone", 0, 4, func(g *mill) { g.do(g.merging(1, 3)) }, false, " | -a d | a b c | a"},
		{"all inputs are gone", 1, 3, func(g *mill) { g.do(g.merging(0, 4)) }, false, " | b c d"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := four(t)
			before := mustSnapshot(t, g.Store)
			finish := g.begin(g.merging(tc.from, tc.to))
			tc.then(g)
			if ok := finish(); ok != tc.place {
				t.Errorf("there was a place: %v, want %v", ok, tc.place)
			}
			g.wantShape(tc.shape)
			if tc.name == "others come above" {
				g.want("b c d e")
			} else {
				g.want("b c d")
			}
			if n, err := before.Len(); n != 3 || err != nil {
				t.Errorf("a snapshot from before has %d records, %v; want 3", n, err)
			}
		})
	}
}

// What has expired is left out at the bottom. Above, it hides what is older
// still, and loses its value.
func TestMergeExpired(t *testing.T) {
	g := newMill(t)
	var clock atomic.Int64
	clock.Store(1_700_000_000_000_000_000)
	g.Store.sys.now = func() time.Time { return time.Unix(0, clock.Load()) }
	g.put("a", "b")
	g.do(g.moving())
	mustPut(t, g.Store, "a", "short-lived", WithTTL(5))
	mustPut(t, g.Store, "c", "short-lived", WithTTL(5))
	g.do(g.moving())
	g.put("d")
	g.do(g.moving())
	g.wantShape(" | d | a c | a b")
	clock.Add(10)
	g.put("e") // the time is the newest commit's
	g.do(g.merging(0, 2))
	g.wantShape("e | -a -c d | a b")
	g.want("b d e")
	g.do(g.merging(0, 2))
	g.wantShape("e | b d")
	g.want("b d e")
}

// A merge of which nothing is left leaves no segment.
func TestMergeToNothing(t *testing.T) {
	g := newMill(t)
	g.put("a")
	g.do(g.moving())
	g.del("a")
	g.do(g.moving())
	g.wantShape(" | -a | a")
	g.do(g.merging(0, 2))
	g.wantShape("")
	g.put("b")
	g.want("b")
}

// sized returns a state with segments of the sizes, newest first.
func sized(sizes ...int64) *state {
	st := &state{}
	for _, n := range sizes {
		st.segments = append(st.segments, segmentRef{size: n})
	}
	return st
}

func TestDue(t *testing.T) {
	for _, tc := range []struct {
		name     string
		sizes    []int64
		from, to int // both 0: nothing is due
	}{
		{"none", nil, 0, 0},
		{"one", []int64{5}, 0, 0},
		{"equal", []int64{5, 5}, 0, 2},
		{"twice as large", []int64{5, 10}, 0, 2},
		{"more than that", []int64{5, 11}, 0, 0},
		{"smaller", []int64{11, 5}, 0, 2},
		{"what is merged counts together", []int64{5, 10, 30}, 0, 3},
		{"until one is too large", []int64{5, 10, 31, 1}, 0, 2},
		{"older ones alone", []int64{1, 5, 10, 100}, 1, 3},
		{"nothing", []int64{1, 3, 9, 27}, 0, 0},
	} {
		in := due(sized(tc.sizes...), len(tc.sizes))
		if in == nil {
			in = &input{}
		}
		if in.from != tc.from || in.to != tc.to || in.journal {
			t.Errorf("%s: of %v, %d to %d are due, want %d to %d", tc.name, tc.sizes, in.from, in.to, tc.from, tc.to)
		}
	}
}

// However many journals have been moved, segments are few, and each byte has
// been written anew few times: both grow with the logarithm of their number.
func TestDueGrowth(t *testing.T) {
	for _, tc := range []struct {
		name string
		size func(i int) int64
	}{
		{"all of a size", func(int) int64 { return 16 << 10 }},
		{"from small to large", func(i int) int64 { return int64(1+i*7919%64) << 10 }},
		{"a large one now and then", func(i int) int64 {
			if i%100 == 99 {
				return 4 << 20
			}
			return 16 << 10
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := &state{}
			var moved, merged, sum int64
			most, n := 0, 0
			t.Logf("%8s %13s %13s %13s", "journals", "segments: max", "average", "bytes merged per byte moved")
			for _, until := range []int{10, 100, 1000, 10_000, 100_000} {
				for ; n < until; n++ {
					size := tc.size(n)
					moved += size
					st.segments = slices.Insert(st.segments, 0, segmentRef{size: size})
					for in := due(st, len(st.segments)); in != nil; in = due(st, len(st.segments)) {
						merged += in.bytes()
						st.segments = slices.Replace(st.segments, in.from, in.to, segmentRef{size: in.bytes()})
					}
					most, sum = max(most, len(st.segments)), sum+int64(len(st.segments))
				}
				log := math.Log2(float64(n))
				again := float64(merged) / float64(moved)
				t.Logf("%8d %13d %13.1f %13.1f", n, most, float64(sum)/float64(n), again)
				// Sizes grow at least by growth from one to the next older; and
				// whatever is merged with newer ones grows by half at least.
				if float64(most) > log/math.Log2(growth)+8 {
					t.Errorf("after %d journals there were %d segments", n, most)
				}
				if again > log/math.Log2(1.5)+2 {
					t.Errorf("after %d journals each byte has been merged %.1f times", n, again)
				}
			}
		})
	}
}

// files returns which of the segments are there.
func (g *mill) files(refs ...segmentRef) string {
	var out []string
	for _, ref := range refs {
		if _, err := g.m.disk.Lstat(g.path(ref.name())); err == nil {
			out = append(out, fmt.Sprint(ref.seq))
		}
	}
	return strings.Join(out, " ")
}

// A segment goes when no manifest that is there names it, and none can come
// that does.
func TestRetireSegments(t *testing.T) {
	stray := segmentRef{seq: 2, id: newID()}  // of a merge whose process died
	coming := segmentRef{seq: 9, id: newID()} // of one that is about to publish
	for _, tc := range []struct {
		name string
		gone []uint64 // manifests
		do   func(g *mill, at4 *state)
		want string
	}{
		{"all manifests are there", nil, nil, "2 3 5 6 9"},
		{"the lowest is above the stray one", []uint64{1}, nil, "3 5 6 9"},
		{"the lowest names one, and is below another", []uint64{1, 2, 3}, nil, "3 5 6 9"},
		{"the lowest names both", []uint64{1, 2, 3, 4}, nil, "3 5 6 9"},
		{"only the newest is left", []uint64{1, 2, 3, 4, 5}, nil, "6 9"},
		{"an orphan is the lowest", []uint64{1, 2, 3}, func(g *mill, at4 *state) {
			h := at4.header
			h.commit, h.segments = newID(), nil
			if err := g.m.disk.WriteFile(g.manifestPath(4), encodeManifest(&h, nil)); err != nil {
				g.t.Fatal(err)
			}
		}, "3 5 6 9"},
		{"on behalf of an old one", []uint64{1}, func(g *mill, at4 *state) { g.retireBelow(at4, 100) }, "3 5 6 9"},
		{"on behalf of one that is gone", []uint64{1, 2, 3, 4}, func(g *mill, at4 *state) { g.retireBelow(at4, 100) }, "3 5 6 9"},
		{"an ancestor cannot be read", []uint64{1, 2, 3, 4}, func(g *mill, _ *state) {
			if err := g.m.disk.WriteFile(g.manifestPath(5), []byte("damage")); err != nil {
				g.t.Fatal(err)
			}
		}, "2 3 5 6 9"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newMill(t)
			g.Store.sys.retireEvery = math.MaxInt64
			g.Store.sys.keep = 100
			g.put("a")
			g.do(g.moving()) // 3
			g.put("b")
			if at := g.newestState(); at.seq != 4 {
				t.Fatalf("the newest is sequence %d, want 4", at.seq)
			}
			at4 := g.newestState()
			g.do(g.moving()) // 5
			at5 := g.newestState()
			g.do(g.merging(0, 2)) // 6
			newest := g.newestState()
			for _, ref := range []segmentRef{stray, coming} {
				if err := g.m.disk.WriteFile(g.path(ref.name()), nil); err != nil {
					t.Fatal(err)
				}
			}
			for _, seq := range tc.gone {
				if err := g.m.disk.Remove(g.manifestPath(seq)); err != nil {
					t.Fatal(err)
				}
			}
			if tc.do != nil {
				tc.do(g, at4)
			}
			g.retireBelow(newest, 100)
			if got := g.files(stray, at5.segments[1], at5.segments[0], newest.segments[0], coming); got != tc.want {
				t.Errorf("there are segments of the sequences %s, want %s", got, tc.want)
			}
		})
	}
}

// A segment that is not there is damage, if the manifest that names it still
// is.
func TestSegmentMissing(t *testing.T) {
	for _, network := range []bool{false, true} {
		t.Run(fmt.Sprintf("network: %v", network), func(t *testing.T) {
			g := newMill(t)
			g.put("a")
			g.do(g.moving())
			path := g.path(g.newestState().segments[0].name())
			if err := g.m.disk.Remove(path); err != nil {
				t.Fatal(err)
			}
			g.want("a") // it is open
			for _, opts := range []*Options{{Network: network}, {Network: network, ReadOnly: true}} {
				s, err := open(simDir, opts, g.sys)
				var damage *CorruptError
				if !errors.As(err, &damage) || damage.Path != path {
					t.Errorf("Open: %v, want damage in %s", err, path)
				}
				if err == nil {
					s.Close()
				}
			}
		})
	}
}

// A reader has read a manifest, and both this and its segment are retired
// before it opens the segment.
func TestSegmentRetiredWhileOpening(t *testing.T) {
	for _, network := range []bool{false, true} {
		t.Run(fmt.Sprintf("network: %v", network), func(t *testing.T) {
			g := newMill(t)
			g.put("a")
			g.do(g.moving())
			at := stopAt(faultfs.OpOpen, 0)
			at.at = func(op faultfs.Op) bool {
				return op.Kind == faultfs.OpOpen && strings.Contains(op.Path, segmentPrefix)
			}
			done := make(chan error, 1)
			go func() {
				s, err := open(simDir, &Options{ReadOnly: true, Network: network}, g.m.system(&faultfs.Hooked{FS: g.m.disk, Before: at.before}))
				if err == nil {
					defer s.Close()
					var sn *Snapshot
					if sn, err = s.Snapshot(context.Background()); err == nil {
						_, err = sn.Get("b")
					}
				}
				done <- err
			}()
			<-at.reached
			old := g.newestState().segments[0]
			g.put("b")
			if err := g.Compact(context.Background()); err != nil {
				t.Fatal(err)
			}
			g.put("c") // what was the newest before the last two is retired
			settle(g.Store)
			if left := g.files(old); left != "" {
				t.Fatal("the old segment has not been retired")
			}
			close(at.goOn)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// An orphan, alone in a listing with another one, names a segment that was
// retired. That is not damage: there are newer manifests.
func TestOrphanWithoutSegment(t *testing.T) {
	m, b, _, goOn, done := orphaned(t)
	defer b.Close()
	h, err := b.loadHeader(3)
	if err != nil {
		t.Fatal(err)
	}
	h.segments = []segmentRef{{seq: 3, id: newID(), size: 1000}}
	if err := m.disk.WriteFile(simDir+"/"+manifestName(3), encodeManifest(&h, nil)); err != nil {
		t.Fatal(err)
	}
	wantPastOrphans(t, m)
	close(goOn)
	<-done
}

// A writer without a lock has named the segment that holds his update, and
// stands still until it is retired: he begins anew.
func TestSegmentRetiredBeforePublishing(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	m.lock = nil
	b := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
	defer b.Close()
	mustUpdate(t, b, "b/0")
	for _, kind := range []string{faultfs.OpOpen, faultfs.OpRename} {
		t.Run(kind, func(t *testing.T) {
			at := stopAt(kind, 0)
			at.at = func(op faultfs.Op) bool {
				// To rename it once more: it is the manifest that comes after it.
				return op.Kind == kind && strings.Contains(op.Path, map[string]string{
					faultfs.OpOpen: segmentPrefix, faultfs.OpRename: manifestPrefix,
				}[kind])
			}
			a := mustOpen(t, simDir, &Options{JournalSize: hardJournal}, m.system(plain(m.disk)))
			defer a.Close()
			a.sys.fs = &faultfs.Hooked{FS: m.disk, Before: at.before}
			done := start(a, "a/"+kind)
			<-at.reached
			for i := range 4 {
				mustUpdate(t, b, fmt.Sprintf("b/%s/%d", kind, i))
			}
			close(at.goOn)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			settle(a)
			if _, err := b.Get(context.Background(), "a/"+kind); err != nil {
				t.Error(err)
			}
		})
	}
}

// hold has another process hold MERGE.
func (m *simMachine) hold() (letGo func()) {
	m.merge <- struct{}{}
	return func() { <-m.merge }
}

// Who closes the store leaves a merge of much to others, and does not wait.
// There must not be so many segments that it is needed.
func TestCloseLeavesMerge(t *testing.T) {
	for _, tc := range []struct {
		name     string
		segments int
		size     int
		finished bool
	}{
		{"much", 3, 2 << 20, false},
		{"little", 3, 1 << 10, true},
		{"much, and too many segments", patientMerge, 1 << 20, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(faultfs.NewDisk(), 1)
			at := stopAt(faultfs.OpCreate, 0)
			var armed sync.Mutex
			armed.Lock()
			sys := m.system(&faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
				if armed.TryLock() { // from then on
					armed.Unlock()
					return at.before(op)
				}
				return nil
			}})
			sys.layout = segmentLayout{}
			s := mustOpen(t, simDir, &Options{JournalSize: hardJournal}, sys)
			letGo := m.hold()
			for i := range tc.segments {
				mustPut(t, s, fmt.Sprint(i), strings.Repeat("x", tc.size))
				settle(s)
			}
			letGo()
			if st, err := s.Stat(context.Background()); err != nil || st.Segments != tc.segments {
				t.Fatalf("%+v, %v; want %d segments", st, err, tc.segments)
			}
			armed.Unlock()
			s.busy.Add(1)
			merged := make(chan error, 1)
			go func() {
				defer s.busy.Done()
				merged <- s.merge(s.background)
			}()
			<-at.reached
			closed := make(chan error, 1)
			go func() { closed <- s.Close() }()
			<-s.background.Done()
			close(at.goOn)
			if err := <-merged; tc.finished == errors.Is(err, context.Canceled) {
				t.Errorf("the merge ends with %v; want it finished: %v", err, tc.finished)
			}
			if err := <-closed; err != nil {
				t.Error(err)
			}
			s = mustOpen(t, simDir, &Options{ReadOnly: true}, m.system(plain(m.disk)))
			defer s.Close()
			st, err := s.Stat(context.Background())
			if err != nil || tc.finished != (st.Segments < tc.segments) || st.Temporary > 0 {
				t.Errorf("left are %+v, %v; want %d merged: %v, and no temporary file", st, err, tc.segments, tc.finished)
			}
		})
	}
}

// wantMergedAnyway updates s, each time with a segment, and wants the segments merged when
// there are mergeAnyway, and not before.
func wantMergedAnyway(t *testing.T, s *Store) {
	t.Helper()
	most := 0
	for i := range 3 * mergeAnyway {
		mustUpdate(t, s, updateKey("w", i))
		st, err := s.Stat(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, st.Segments)
	}
	if most != mergeAnyway-1 {
		t.Errorf("there were up to %d segments, want %d", most, mergeAnyway-1)
	}
}

// A process that holds MERGE and stands still keeps others from merging only
// while there are not too many segments.
func TestMergeAnyway(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	s := mustOpen(t, simDir, &Options{JournalSize: softJournal}, m.system(plain(m.disk)))
	defer s.Close()
	defer m.hold()()
	wantMergedAnyway(t, s)
}

// A merge that there is no room for, or that comes upon damage, is not tried again at once,
// and does not keep what is newer from being merged.
func TestMergeInVain(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, &CorruptError{}, syscall.EIO} {
		t.Run(cause.Error(), func(t *testing.T) {
			g := newMill(t)
			for i := range 5 {
				g.put(fmt.Sprint(i))
				g.do(g.moving())
			}
			st := g.newestState()
			next := func(want int) *input {
				t.Helper()
				in, err := g.startMerge(st, mergeAnyway)
				if err != nil {
					t.Fatal(err)
				}
				got := 0
				if in != nil {
					got = in.to
				}
				if got != want {
					t.Errorf("the %d newest are merged, want %d", got, want)
				}
				return in
			}
			g.endMerge(next(5), fmt.Errorf("merging: %w", cause))
			left := []int{4, 3, 2, 0}
			if cause == syscall.EIO {
				left = []int{5, 5, 5, 5} // it may be over
			}
			for _, want := range left {
				if in := next(want); in != nil {
					g.endMerge(in, cause)
				}
			}
			g.shunUntil = time.Now().Add(-1)
			g.endMerge(next(5), nil)
		})
	}
}

// At the limit of segments there is no room for that of the journal: compacting merges all
// the same.
func TestCompactAtLimit(t *testing.T) {
	g := newMill(t)
	lock, err := g.turnWith(context.Background(), "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxSegments { // an update would merge before there are so many
		st := g.newestState()
		out, err := g.writeSegment(st, &recSource{[]rec{encodeRec(fmt.Sprintf("k%03d", i), "raw", nil, 1, st.time, 0)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		h := g.child(st)
		h.lastRev = h.firstRev - 1
		if err := g.introduce(out, h, 0, 0); err != nil {
			t.Fatal(err)
		}
		next, err := g.publishState(st, h, []rec{encodeRec("j", "raw", nil, 1, st.time, 0)}, lock)
		if err != nil {
			t.Fatal(err)
		}
		out.keep()
		out.close()
		next.release()
	}
	lock.end()
	if err := g.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st := g.newestState(); len(st.segments) != 1 {
		t.Errorf("%d segments are left", len(st.segments))
	}
}

// A merge of large values ends with its context, and not when all is written.
func TestMergeContext(t *testing.T) {
	g := newMill(t)
	for i := range 8 {
		mustPut(t, g.Store, fmt.Sprint(i), strings.Repeat("x", checkEvery))
	}
	st := g.newestState()
	written := 0
	_, err := g.writeSegment(st, (&input{st: st, journal: true, to: len(st.segments)}).source(), func() error {
		written++
		return context.Canceled
	})
	if !errors.Is(err, context.Canceled) || written != 1 {
		t.Errorf("%v, asked %d times", err, written)
	}
	asked := 0
	out, err := g.writeSegment(st, (&input{st: st, journal: true, to: len(st.segments)}).source(), func() error {
		asked++
		return nil
	})
	if err != nil || asked < 8 {
		t.Errorf("%v, asked %d times in 8 values that are large enough each", err, asked)
	}
	out.close()
}

// Close does not wait for a Compact that waits for somebody else.
func TestCloseCompact(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	s := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
	mustPut(t, s, "k", "v")
	letGo := m.hold()
	defer letGo()
	compacted := make(chan error, 1)
	go func() { compacted <- s.Compact(context.Background()) }()
	until(t, "Compact waits for MERGE", func() bool {
		s.mergeMu.Lock()
		defer s.mergeMu.Unlock()
		return s.claims > 0
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-compacted; !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Compact: %v", err)
	}
}

// What cannot be locked as MERGE is as good as a process that stands still with it.
func TestMergeUnusable(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	sys := m.system(plain(m.disk))
	open := sys.openLock
	sys.openLock = func(path string, opts *lockfile.Options) (locker, error) {
		if filepath.Base(path) == mergeName {
			return nil, syscall.EISDIR
		}
		return open(path, opts)
	}
	s := mustOpen(t, simDir, &Options{JournalSize: softJournal}, sys)
	defer s.Close()
	wantMergedAnyway(t, s)
}

// While much is being merged, what comes meanwhile is merged too, and not what is being
// merged already: not by the same process, nor by another one, if MERGE says what that is.
// Without that, each who moved a journal from the 24th segment on began the same large
// merge once more.
func TestMergeBeside(t *testing.T) {
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprintf("another process: %v", other), func(t *testing.T) {
			g := newMill(t)
			for i := range 3 {
				g.put(fmt.Sprint("old", i))
				g.do(g.moving())
			}
			st := g.current()
			large, err := g.startMerge(st, mergeAnyway)
			if err != nil || large == nil || large.to-large.from != 3 {
				t.Fatalf("%+v, %v; want a merge of three", large, err)
			}
			defer func() {
				g.endMerge(large, nil)
				st.release()
			}()
			s := g.Store
			if other {
				s = mustOpen(t, simDir, nil, g.m.system(plain(g.m.disk)))
				defer s.Close()
			}
			for i := range 3 * mergeAnyway {
				g.put(fmt.Sprint("new", i))
				g.do(g.moving())
				if err := s.merge(context.Background()); err != nil && !errors.Is(err, lockfile.ErrLocked) {
					t.Fatal(err)
				}
				now, err := g.newest(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				above := now.newerThan(large.newest())
				if above == len(now.segments) {
					t.Fatal("what is being merged was merged")
				}
				if above > mergeAbove {
					t.Fatalf("%d segments came and were not merged", above)
				}
				if other && above%mergeAbove != 0 {
					if in, _ := s.startMerge(now, mergeAnyway); in != nil {
						t.Fatalf("with %d segments everybody begins to merge them", above)
					}
				}
				now.release()
			}
			if done, err := g.rewrite(context.Background(), large); !done || err != nil {
				t.Errorf("the large merge: %v, %v", done, err)
			}
		})
	}
}

// When there are far too many segments, who is to merge before he writes does not wait for one
// who merges what is older.
func TestMergeBesideAtOnce(t *testing.T) {
	g := newMill(t)
	for i := range 3 {
		g.put(fmt.Sprint("old", i))
		g.do(g.moving())
	}
	large, err := g.startMerge(g.newestState(), mergeAnyway)
	if err != nil || large == nil {
		t.Fatalf("%+v, %v", large, err)
	}
	defer g.endMerge(large, nil)
	const newer = waitForMerge - 3 // and no multiple of mergeAbove
	for i := range newer {
		g.put(fmt.Sprint("new", i))
		g.do(g.moving())
	}
	s := mustOpen(t, simDir, nil, g.m.system(plain(g.m.disk)))
	defer s.Close()
	in, err := s.startMerge(g.newestState(), maxSegments+1)
	if in == nil || in.to > newer {
		t.Fatalf("%+v, %v; want a merge of what is newer", in, err)
	}
	s.endMerge(in, nil)
}

// Who comes when there are far too many segments merges before he writes.
func TestMergeFirst(t *testing.T) {
	g := newMill(t)
	for i := range waitForMerge {
		g.put(fmt.Sprint(i))
		g.do(g.moving())
	}
	segments := func(s *Store) int {
		st := s.current()
		defer st.release()
		return len(st.segments)
	}
	if n := segments(g.Store); n != waitForMerge {
		t.Fatalf("%d segments, want %d", n, waitForMerge)
	}
	published := 0
	b := mustOpen(t, simDir, nil, g.m.system(&faultfs.Hooked{FS: g.m.disk, Before: func(op faultfs.Op) error {
		if op.Kind == faultfs.OpRename && published == 0 {
			published++
			if !strings.Contains(op.Path, segmentPrefix) {
				t.Errorf("%s is published before anything is merged", op.Path)
			}
		}
		return nil
	}}))
	defer b.Close()
	mustPut(t, b, "b", 0)
	if n := segments(b); n >= waitForMerge {
		t.Errorf("%d segments after an update", n)
	}
}

// tellingLocker tells when somebody is about to wait for a lock.
type tellingLocker struct {
	locker
	waits chan<- struct{}
}

func (l tellingLocker) Lock(ctx context.Context, purpose string) (heldLock, error) {
	l.waits <- struct{}{}
	return l.locker.Lock(ctx, purpose)
}

// If another process merges just then, he waits for it, and finds its work done.
func TestMergeFirstWaits(t *testing.T) {
	g := newMill(t)
	for i := range waitForMerge {
		g.put(fmt.Sprint(i))
		g.do(g.moving())
	}
	finish := g.begin(g.merging(0, waitForMerge))
	letGo := sync.OnceFunc(g.m.hold())
	defer letGo()
	var merged atomic.Int64
	waits := make(chan struct{}, 1)
	sys := g.m.system(&faultfs.Hooked{FS: g.m.disk, Before: func(op faultfs.Op) error {
		if op.Kind == faultfs.OpRename && strings.Contains(op.Path, segmentPrefix) {
			merged.Add(1)
		}
		return nil
	}})
	openLock := sys.openLock
	sys.openLock = func(path string, opts *lockfile.Options) (locker, error) {
		l, err := openLock(path, opts)
		if filepath.Base(path) == mergeName {
			l = tellingLocker{l, waits}
		}
		return l, err
	}
	b := mustOpen(t, simDir, nil, sys)
	defer b.Close()
	done := start(b, "b/0")
	select {
	case <-waits:
	case err := <-done:
		t.Fatalf("the update ends (%v) and has not waited for who merges", err)
	}
	if !finish() {
		t.Fatal("the other's merge was in vain")
	}
	letGo()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := merged.Load(); n > 0 {
		t.Errorf("%d segments were made beside those of who merged", n)
	}
}

// Who finds nothing to merge leaves no MERGE behind.
func TestNothingToMerge(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	s := mustOpen(t, simDir, &Options{JournalSize: softJournal}, m.system(plain(m.disk)))
	defer s.Close()
	mustUpdate(t, s, "w/0")
	if st, err := s.Stat(context.Background()); err != nil || st.Segments != 1 {
		t.Fatalf("%+v, %v; want one segment", st, err)
	}
	if ok, err := s.exists(s.path(mergeName)); ok || err != nil {
		t.Errorf("MERGE is there: %v, %v; nothing was merged", ok, err)
	}
	mustUpdate(t, s, "w/1", "w/2", "w/3")
	if ok, err := s.exists(s.path(mergeName)); !ok || err != nil {
		t.Errorf("MERGE is there: %v, %v; segments were merged", ok, err)
	}
}

// If the journal cannot be moved in the background, it does not grow for ever:
// at the hard bound the writers move it.
func TestHardBound(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	const size = 400
	s := mustOpen(t, simDir, &Options{JournalSize: size}, m.system(plain(m.disk)))
	defer s.Close()
	s.bound.soft = math.MaxInt64 // as if whoever is to move it always died
	most, moved := int64(0), 0
	for i := range 100 {
		mustUpdate(t, s, updateKey("w", i))
		st, err := s.Stat(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if most = max(most, st.Journal); st.Journal == 0 {
			moved++
		}
	}
	if most > 8*size || most < 4*size || moved == 0 {
		t.Errorf("the journal had up to %d bytes, the bound is %d; it was moved %d times", most, 8*size, moved)
	}
}

// Compact without anything to be done, without permission, after Close.
func TestCompactRefuses(t *testing.T) {
	g := newMill(t)
	if err := g.Compact(context.Background()); err != nil {
		t.Errorf("an empty store: %v", err)
	}
	g.put("a")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Compact(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	g.want("a")
	ro := mustOpen(t, simDir, &Options{ReadOnly: true}, g.sys)
	defer ro.Close()
	if err := ro.Compact(context.Background()); !errors.Is(err, ErrReadOnly) {
		t.Errorf("opened for reading: %v", err)
	}
	s := mustOpen(t, simDir, nil, g.sys)
	s.Close()
	if err := s.Compact(context.Background()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// When segments can be written and not merged, there is an end to it: an update
// that needs another one is refused, and nothing is lost.
func TestSegmentLimit(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	var broken atomic.Bool
	broken.Store(true)
	s := mustOpen(t, simDir, &Options{JournalSize: 1, CacheSize: -1}, m.system(&faultfs.Hooked{FS: m.disk, Before: func(op faultfs.Op) error {
		if op.Kind == faultfs.OpRead && broken.Load() && strings.HasPrefix(filepath.Base(op.Path), segmentPrefix) {
			return syscall.EIO
		}
		return nil
	}}))
	defer s.Close()
	put := func(key string) error { // which reads nothing
		_, err := s.Put(context.Background(), key, 1)
		return err
	}
	for i := range maxSegments {
		if err := put(updateKey("w", i)); err != nil {
			t.Fatal(err)
		}
	}
	err := put("one too many")
	if err == nil || !strings.Contains(err.Error(), "128 segments") || !strings.Contains(err.Error(), "compact") {
		t.Errorf("update with %d segments: %v", maxSegments, err)
	}
	if !strings.Contains(err.Error(), syscall.EIO.Error()) || !strings.Contains(err.Error(), simDir+"/"+segmentPrefix) {
		t.Errorf("update with %d segments: %v, want what keeps them from being merged", maxSegments, err)
	}
	broken.Store(false)
	if err := put("after"); err != nil {
		t.Errorf("update when segments can be read again: %v", err)
	}
	if _, err := s.Get(context.Background(), "one too many"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the update that was refused: %v", err)
	}
	for i := range maxSegments {
		if _, err := s.Get(context.Background(), updateKey("w", i)); err != nil {
			t.Error(err)
		}
	}
}

// When it is not known whether a manifest was published, its segment stays: it
// may be needed.
func TestSegmentOfUnknownManifest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(faultfs.NewDisk(), 1)
		var broken, lost atomic.Bool
		s := mustOpen(t, simDir, &Options{JournalSize: 1}, m.system(&faultfs.Hooked{
			FS: m.disk,
			Before: func(op faultfs.Op) error {
				manifest := strings.HasPrefix(filepath.Base(op.Path), manifestPrefix)
				if lost.Load() && manifest && op.Kind == faultfs.OpLstat {
					return syscall.EIO // so that nobody can look what came of it
				}
				return nil
			},
			After: func(op faultfs.Op, err error) error {
				if op.Kind == faultfs.OpRename && err == nil && broken.Load() && strings.HasPrefix(filepath.Base(op.Path), manifestPrefix) {
					lost.Store(true)
					return syscall.EIO // it was published, and the answer is lost
				}
				return err
			},
		}))
		mustUpdate(t, s, "before")
		broken.Store(true)
		if _, err := applyUpdate(context.Background(), s, "perhaps", nil); !errors.Is(err, ErrUnknown) {
			t.Errorf("update without an answer: %v, want ErrUnknown", err)
		}
		broken.Store(false)
		lost.Store(false)
		s.Close()
		r := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
		defer r.Close()
		for _, key := range []string{"before", "perhaps"} {
			if _, err := r.Get(context.Background(), key); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
	})
}
