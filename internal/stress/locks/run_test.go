package locks

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	MaybeWorker()
	os.Exit(m.Run())
}

// run runs c on directories of the test's own.
func run(t *testing.T, c Config) Result {
	t.Helper()
	dir := t.TempDir()
	c.Dir, c.Notes = filepath.Join(dir, "lock"), filepath.Join(dir, "notes")
	r, err := Run(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	_ = r.Print(&b) // a Builder does not fail
	t.Logf("%s\n%s", r.Verdict(), b.String())
	return r
}

func TestNeverTwoHolders(t *testing.T) {
	c := Config{
		Processes: 20, Removers: 2, Duration: 3 * time.Second, Seed: 1,
		KillShare: 0.5, KillEvery: 20 * time.Millisecond,
		StopEvery: 20 * time.Millisecond, TruncateEvery: 20 * time.Millisecond,
	}
	if testing.Short() {
		c.Duration = 1500 * time.Millisecond
	}
	r := run(t, c)
	if !r.OK() {
		t.Error(r.Verdict())
	}
	if r.Acquisitions < 100 || r.Shared == 0 || r.Kills == 0 || r.Stops == 0 || r.Truncations == 0 || r.Removals == 0 {
		t.Error("something of what the run is to do was not done")
	}
}

// TestNaive shows that the workload provokes what it is to find, and that the judge
// finds it.
func TestNaive(t *testing.T) {
	c := Config{Processes: 10, Protocol: ProtocolNaive, Acquisitions: 2000, Duration: 20 * time.Second}
	for c.Seed = 1; c.Seed <= 5; c.Seed++ {
		r := run(t, c)
		if len(r.Failures) > 0 {
			t.Fatalf("workers failed: %q", r.Failures)
		}
		if r.Faults[Overlap] > 0 {
			return
		}
	}
	t.Error("5 runs have not had two holders")
}

// TestDirectories: what is temporary is kept for as long as it is needed, and what is
// somebody's is not touched.
func TestDirectories(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	c := Config{Processes: 2, Acquisitions: 1, Seed: 1}
	for _, keep := range []bool{false, true} {
		c.Keep = keep
		r, err := Run(t.Context(), c, nil)
		if err != nil || !r.OK() {
			t.Fatal(err, r.Failures, r.Examples)
		}
		left, err := os.ReadDir(tmp)
		if err != nil {
			t.Fatal(err)
		}
		if (len(left) > 0) != keep || (r.Notes != "") != keep {
			t.Errorf("keep %t: left %v, result names %q", keep, left, r.Notes)
		}
	}

	c.Dir, c.Notes = t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(c.Dir, "LOCK"), []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), c, nil); !errors.Is(err, ErrTaken) {
		t.Errorf("somebody's lock file: %v", err)
	}
	c.Dir = t.TempDir()
	if _, err := Run(t.Context(), c, nil); err != nil {
		t.Fatal(err)
	}
	c.Dir = t.TempDir()
	if _, err := Run(t.Context(), c, nil); !errors.Is(err, ErrTaken) {
		t.Errorf("an earlier run's notes: %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := Config{Processes: 3, Duration: time.Hour, Seed: 1}
	r, err := Run(ctx, c, func(p Progress) {
		if p.Acquisitions > 0 {
			cancel()
		}
	})
	if err != nil || !r.OK() {
		t.Fatal(err, r.Failures, r.Examples)
	}
	if !r.Interrupted || r.Acquisitions == 0 {
		t.Errorf("got interrupted %t and %d acquisitions", r.Interrupted, r.Acquisitions)
	}
}

// TestFailureIsReported takes the directory away, which no user has to bear.
func TestFailureIsReported(t *testing.T) {
	dir := t.TempDir()
	c := Config{Dir: filepath.Join(dir, "lock"), Notes: filepath.Join(dir, "notes"), Processes: 3, Duration: time.Hour, Seed: 1}
	r, err := Run(t.Context(), c, func(p Progress) {
		if p.Acquisitions > 0 {
			// In one go: where names are removed one by one, workers make new ones.
			if err := os.Rename(c.Dir, filepath.Join(dir, "away")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.OK() || len(r.Failures) == 0 || !strings.Contains(r.Failures[0], c.Dir) {
		t.Errorf("got failures %q, want what the workers said", r.Failures)
	}
}

func TestConfig(t *testing.T) {
	good := Config{Processes: 2, Duration: 1}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(c *Config){
		"one process":      func(c *Config) { c.Processes = 1 },
		"too many":         func(c *Config) { c.Processes = maxSlots + 1 },
		"no end":           func(c *Config) { c.Duration = 0 },
		"negative time":    func(c *Config) { c.StopEvery = -1 },
		"unknown protocol": func(c *Config) { c.Protocol = "best" },
		"share over one":   func(c *Config) { c.KillShare = 1.1 },
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
