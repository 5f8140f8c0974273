package stress

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/recordstore/recordstore/store"
)

func TestMain(m *testing.M) {
	MaybeWorker()
	if dir, ok := os.LookupEnv(orphanEnv); ok {
		runForever(dir)
	}
	os.Exit(m.Run())
}

// run runs c on directories of the test's own.
func run(t *testing.T, c Config) Result {
	t.Helper()
	dir := t.TempDir()
	c.Store, c.History = filepath.Join(dir, "store"), filepath.Join(dir, "history")
	r, err := Run(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantOK reports what a run that must not find anything has found.
func wantOK(t *testing.T, r Result) {
	t.Helper()
	if !r.OK() {
		var b strings.Builder
		_ = r.Print(&b) // a Builder does not fail
		t.Errorf("%s\n%s", r.Verdict(), b.String())
	}
}

func TestStoreLosesNothing(t *testing.T) {
	r := run(t, Config{
		Writers: 11, Readers: 4, Seed: 1,
		QuestionWait: 20 * time.Millisecond, Duration: time.Second,
		KillShare: 0.3, KillEvery: 40 * time.Millisecond,
	})
	wantOK(t, r)
	if r.Saved != 11 || r.Found != 11 {
		t.Errorf("first form: %d of %d records, want 11 of 11", r.Found, r.Saved)
	}
	if r.Commits == 0 || r.Snapshots == 0 || r.Kills == 0 || r.Writers != 11 || r.Readers != 4 {
		t.Errorf("got %d commits, %d snapshots, %d kills of %d writers and %d readers", r.Commits, r.Snapshots, r.Kills, r.Writers, r.Readers)
	}
	// Slot 0 has four goroutines and lives; slot 10 has four and is mortal.
	if r.PerGroup.Processes < 1 || r.PerProcess.Processes < 7 {
		t.Errorf("%d and %d writers lived throughout, want 7 and 1 at least", r.PerProcess.Processes, r.PerGroup.Processes)
	}
}

// TestNaiveLoses shows that the workload provokes what it is to find, and that
// the judge finds it. Which run loses is up to the scheduler.
func TestNaiveLoses(t *testing.T) {
	forms := map[string]Config{
		"first form": {Writers: 30, Readers: 10, QuestionWait: 30 * time.Millisecond},
		"hard form":  {Writers: 8, Readers: 2, Duration: 300 * time.Millisecond},
	}
	for name, c := range forms {
		t.Run(name, func(t *testing.T) {
			c.Protocol = ProtocolNaive
			for c.Seed = 1; c.Seed <= 20; c.Seed++ {
				r := run(t, c)
				if len(r.Failures) > 0 {
					t.Fatalf("workers failed: %q", r.Failures)
				}
				if r.Faults[Lost] > 0 {
					return
				}
			}
			t.Error("20 runs lost nothing")
		})
	}
}

// TestRenameLosesNothingHere shows that what the usual recipe loses over NFS is
// the file system's doing, not a fault of the recipe as it is written here.
func TestRenameLosesNothingHere(t *testing.T) {
	r := run(t, Config{
		Protocol: ProtocolRename, Writers: 8, Readers: 4, Seed: 1,
		QuestionWait: 10 * time.Millisecond, Records: 5, Duration: 500 * time.Millisecond,
	})
	wantOK(t, r)
	if r.Commits == 0 || r.Snapshots == 0 {
		t.Errorf("got %d commits and %d snapshots", r.Commits, r.Snapshots)
	}
}

func TestSeveralRecords(t *testing.T) {
	r := run(t, Config{Writers: 3, Readers: 2, Seed: 1, QuestionWait: 5 * time.Millisecond, Records: 4})
	wantOK(t, r)
	if r.Saved != 12 || r.Found != 12 || r.Snapshots != 8 {
		t.Errorf("%d of %d records and %d reads, want 12 of 12 and 8", r.Found, r.Saved, r.Snapshots)
	}
}

func TestTemporaryDirectories(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	c := Config{Writers: 3, Readers: 1, Seed: 1, QuestionWait: time.Millisecond}
	for _, keep := range []bool{false, true} {
		c.Keep = keep
		r, err := Run(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantOK(t, r)
		left, err := os.ReadDir(tmp)
		if err != nil {
			t.Fatal(err)
		}
		if (len(left) > 0) != keep || (r.Store != "") != keep || (r.History != "") != keep {
			t.Errorf("keep %t: left %v, result names %q and %q", keep, left, r.Store, r.History)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Run(ctx, Config{Writers: 3, Readers: 1, Seed: 1, Duration: time.Hour}, func(p Progress) {
		if p.Commits > 0 && p.Reads > 0 {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	wantOK(t, r)
	if !r.Interrupted || r.Commits == 0 {
		t.Errorf("got interrupted %t and %d commits", r.Interrupted, r.Commits)
	}
}

// TestDamaged damages what a run has left, and has it judged.
func TestDamaged(t *testing.T) {
	for what, pattern := range map[string]string{"the newest manifest": "manifest.*", "a segment": "segment.*"} {
		dir := t.TempDir()
		c := Config{
			Store: filepath.Join(dir, "store"), History: filepath.Join(dir, "history"), Keep: true,
			Writers: 3, Seed: 1, Duration: 300 * time.Millisecond, Journal: 600,
		}
		r, err := Run(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantOK(t, r)
		paths, err := filepath.Glob(filepath.Join(c.Store, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %v", what, paths, err)
		}
		path := paths[len(paths)-1]
		data, err := os.ReadFile(path)
		if err == nil {
			data[len(data)/2] ^= 1
			err = errors.Join(os.Remove(path), os.WriteFile(path, data, 0o444))
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err = Judge(t.Context(), c.History, c.Store)
		if err != nil || r.OK() || r.Faults[Damaged] == 0 {
			t.Errorf("%s is damaged: %v, %v", what, err, r.Faults)
		}
	}
}

// TestInterruptedQuestion interrupts those who wait a random time before they save a
// record: they save it or not, and nobody waits for long.
func TestInterruptedQuestion(t *testing.T) {
	dir := t.TempDir()
	c := Config{
		Store: filepath.Join(dir, "store"), History: filepath.Join(dir, "history"),
		Writers: 3, Seed: 1, QuestionWait: time.Hour, Records: 1,
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := Run(ctx, c, func(Progress) { cancel() }) // all have begun
	if err != nil {
		t.Fatal(err)
	}
	wantOK(t, r)
	if !r.Interrupted {
		t.Error("not said to be interrupted")
	}
}

// TestFailureIsReported takes the store away from under its users, which no
// user has to bear.
func TestFailureIsReported(t *testing.T) {
	dir := t.TempDir()
	c := Config{
		Store: filepath.Join(dir, "store"), History: filepath.Join(dir, "history"),
		Writers: 3, Readers: 1, Seed: 1, Duration: time.Hour,
	}
	r, err := Run(t.Context(), c, func(p Progress) {
		if p.Commits > 0 {
			if err := os.Rename(c.Store, c.Store+".gone"); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.OK() || len(r.Failures) == 0 || !strings.Contains(r.Failures[0], c.Store) {
		t.Errorf("got failures %q, want what the workers said", r.Failures)
	}
}

func TestSeveralMachines(t *testing.T) {
	dir := t.TempDir()
	histories := filepath.Join(dir, "histories")
	var wg sync.WaitGroup
	for m := range 2 {
		wg.Go(func() {
			r, err := Run(t.Context(), Config{
				Store:   filepath.Join(dir, "store"),
				History: filepath.Join(histories, string(rune('a'+m))),
				Writers: 3, Readers: 1, Seed: 7, QuestionWait: 10 * time.Millisecond, Duration: 300 * time.Millisecond,
				KillShare: 0.3, KillEvery: 50 * time.Millisecond,
				Machine: m + 1, Machines: 2,
			}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			wantOK(t, r)
			if r.Judged {
				t.Error("one machine has judged alone")
			}
		})
	}
	wg.Wait()
	r, err := Judge(t.Context(), histories, filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	wantOK(t, r)
	if r.Machines != 2 || r.Writers != 6 || r.Found != 6 {
		t.Errorf("got %d machines, %d writers, %d records of the first form; want 2, 6, 6", r.Machines, r.Writers, r.Found)
	}
	if _, err := Judge(t.Context(), filepath.Join(histories, "a"), filepath.Join(dir, "store")); !errors.Is(err, ErrNoHistory) {
		t.Errorf("judging one machine's histories: got %v, want %v", err, ErrNoHistory)
	}
}

func TestClaim(t *testing.T) {
	tests := []struct {
		name     string
		protocol string
		machines int
		prepare  func(t *testing.T, dir string)
		taken    bool
	}{
		{"new", ProtocolStore, 1, func(*testing.T, string) {}, false},
		{"empty directory", ProtocolStore, 1, mkdir, false},
		{"empty store", ProtocolStore, 1, put(), false},
		{"store of an earlier run", ProtocolStore, 1, put("stress/z/once/0000", "stress/1/once/0000"), false},
		{"store of this run", ProtocolStore, 2, put("stress/1/once/0000"), false},
		{"store of another run", ProtocolStore, 2, put("stress/1/once/0000", "stress/z/once/0000"), true},
		{"somebody's records", ProtocolStore, 1, put("stress/1/once/0000", "stressed"), true},
		{"somebody's files", ProtocolStore, 1, file("thesis.txt"), true},
		{"new for the recipe", ProtocolNaive, 1, func(*testing.T, string) {}, false},
		{"store for the recipe", ProtocolNaive, 1, put(), true},
		{"somebody's files for the recipe", ProtocolNaive, 1, file("thesis.txt"), true},
		{"somebody's data file", ProtocolNaive, 1, file(naiveData), true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := Config{
				Store: filepath.Join(t.TempDir(), "s"), History: "h", Protocol: test.protocol,
				Machine: 1, Machines: test.machines, Writers: 1, Seed: 1, Duration: 1,
			}.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			test.prepare(t, c.Store)
			if err := claim(t.Context(), c); errors.Is(err, ErrTaken) != test.taken || (err != nil) != test.taken {
				t.Fatalf("got error %v, want taken: %t", err, test.taken)
			}
			if test.taken || test.machines > 1 {
				return
			}
			s, err := store.Open(c.Store, &store.Options{ReadOnly: true})
			if errors.Is(err, os.ErrNotExist) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			sn, err := s.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer sn.Close()
			if n, err := sn.Len(); n != 0 || err != nil {
				t.Errorf("%d records are left, %v", n, err)
			}
		})
	}
}

func mkdir(t *testing.T, dir string) {
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
}

// put prepares a store with these records.
func put(keys ...string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		s, err := store.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for _, key := range keys {
			if _, err := s.Put(t.Context(), key, "x"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// file prepares a directory with a file.
func file(name string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		mkdir(t, dir)
		if err := os.WriteFile(filepath.Join(dir, name), []byte("years of work"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConfig(t *testing.T) {
	good := Config{Writers: 1, Duration: 1}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(c *Config){
		"no writers":         func(c *Config) { c.Writers = 0 },
		"negative readers":   func(c *Config) { c.Readers = -1 },
		"too many":           func(c *Config) { c.Writers = maxSlots + 1 },
		"neither form":       func(c *Config) { c.Duration = 0 },
		"negative time":      func(c *Config) { c.Timeout = -1 },
		"unknown protocol":   func(c *Config) { c.Protocol = "best" },
		"share over one":     func(c *Config) { c.KillShare = 1.1 },
		"no such machine":    func(c *Config) { c.Machine, c.Machines = 2, 1 },
		"machines, no store": func(c *Config) { c.Machine, c.Machines = 1, 2 },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			c := good
			spoil(&c)
			if err := c.Check(); err == nil {
				t.Errorf("%+v is accepted", c)
			}
		})
	}
}

func TestValue(t *testing.T) {
	v := value{Author: "h1-w0000-i000-0", Op: 12, N: 34, Flips: 5}
	data := v.encode("k")
	if got, err := decodeValue("k", data); err != nil || got != v {
		t.Errorf("got %+v, %v, want %+v", got, err, v)
	}
	if _, err := decodeValue("j", data); err == nil {
		t.Error("a value is accepted under another key")
	}
	for i := range data {
		for bit := range 8 {
			data[i] ^= 1 << bit
			if _, err := decodeValue("k", data); err == nil {
				t.Errorf("flipped bit %d of byte %d is accepted", bit, i)
			}
			data[i] ^= 1 << bit
		}
		if _, err := decodeValue("k", data[:i]); err == nil {
			t.Errorf("value cut to %d bytes is accepted", i)
		}
	}
}
