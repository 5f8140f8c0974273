//go:build unix

package lockfile

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func init() {
	helpers["probe"] = ProbeWorker
	// The rest have a mechanism that is broken in some way, under the name of Unix.
	for name, o := range map[string]*oddity{
		"probefree":  alwaysSucceeds(),
		"probefails": alwaysFails(syscall.ENOLCK),
		"probehangs": {attempt: hang},
	} {
		helpers[name] = func(args []string) error {
			mechanisms[Unix] = o.make
			return ProbeWorker(args)
		}
	}
	helpers["probestuck"] = func(args []string) error {
		if args[0] == roleWait {
			mechanisms[Unix] = (&oddity{attempt: hang}).make
			return ProbeWorker(args)
		}
		mechanisms[Unix] = mechanisms[Flock]
		return ProbeWorker(args)
	}
	helpers["probedies"] = func([]string) error { return errors.New("on purpose") }
	helpers["probesilent"] = func([]string) error { return hang(nil) }
}

func hang(*madeUp) error {
	time.Sleep(time.Minute)
	return errors.New("nobody has killed this process")
}

func testProber(helper string, ms ...Mechanism) Prober {
	return Prober{
		Worker: func(args ...string) *exec.Cmd {
			cmd := exec.Command(os.Args[0], args...)
			cmd.Env = append(os.Environ(), helperEnv+"="+helper)
			return cmd
		},
		Mechanisms: ms,
		Duration:   200 * time.Millisecond,
	}
}

func mustProbe(t *testing.T, p Prober, dir string) Report {
	t.Helper()
	r, err := p.Probe(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%v", r)
	checkOnly(t, dir)
	return r
}

func TestProbeHere(t *testing.T) {
	p := testProber("probe")
	p.Patience = time.Minute // this machine may be slow
	dir := t.TempDir()
	r := mustProbe(t, p, dir)
	if r.Dir != dir || len(r.Mechanisms) != len(mechanisms) {
		t.Errorf("%+v", r)
	}
	for _, m := range r.Mechanisms {
		if m.Outcome != Works || !m.Freed || m.Acquisitions == 0 || m.PerSecond == 0 || m.Overlaps > 0 || m.Detail != "" {
			t.Errorf("%+v", m)
		}
		if m.FreedAfter <= 0 || m.FreedAfter > time.Minute {
			t.Errorf("%v: free after %v", m.Mechanism, m.FreedAfter)
		}
	}
	if !r.OK || !strings.HasPrefix(r.Verdict, "locks work here, with "+r.Default.String()) || strings.Contains(r.String(), "  \n") {
		t.Errorf("OK %v: %s", r.OK, r.Verdict)
	}
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `"mechanism":"flock","outcome":"works"`) || !strings.Contains(string(b), `"verdict":"locks work`) {
		t.Errorf("%s, %v", b, err)
	}
	var back struct{ Default Mechanism }
	if err := json.Unmarshal(b, &back); err != nil || back.Default != r.Default {
		t.Errorf("%v, %v", back, err)
	}
}

func TestProbeBroken(t *testing.T) {
	tests := []struct {
		helper string
		want   Outcome
		detail string
	}{
		{"probefree", NotExclusive, "times another had the lock"},
		{"probefails", Fails, "does not support locks"},
		{"probehangs", NoAnswer, "no answer within 700ms"},
		{"probestuck", Stuck, "after the holder was killed"},
		{"probedies", Fails, "on purpose"},
		{"probesilent", NoAnswer, "no answer within"},
	}
	for _, tt := range tests {
		t.Run(tt.helper, func(t *testing.T) {
			standIn(t, Unix, (&oddity{}).make) // or the Prober would not try it
			p := testProber(tt.helper, Unix)
			if tt.want == NoAnswer || tt.want == Stuck {
				p.Patience = 700 * time.Millisecond
			}
			began := time.Now()
			r := mustProbe(t, p, t.TempDir())
			for tt.want == Stuck && r.Mechanisms[0].Outcome == NoAnswer && p.Patience < 20*time.Second {
				p.Patience *= 2 // this machine is slow: the holder did not get so far
				began = time.Now()
				r = mustProbe(t, p, t.TempDir())
			}
			if d := time.Since(began); d > 20*time.Second+2*p.Patience {
				t.Errorf("it took %v", d)
			}
			m := r.Mechanisms[0]
			if m.Outcome != tt.want || !strings.Contains(m.Detail, tt.detail) || strings.Contains(m.Detail, "\n") {
				t.Errorf("%v: %+v", m.Outcome, m)
			}
			if (m.Overlaps > 0) != (tt.want == NotExclusive) || m.Freed != (tt.want == Works) {
				t.Errorf("%+v", m)
			}
			if r.OK || !strings.Contains(r.Verdict, "not tried") {
				t.Errorf("OK %v: %s", r.OK, r.Verdict)
			}
		})
	}
}

// TestProbeUnsupported: a mechanism that this system does not have is no error.
func TestProbeUnsupported(t *testing.T) {
	standIn(t, Unix, nil)
	r := mustProbe(t, testProber("probe", Unix), t.TempDir())
	if m := r.Mechanisms[0]; m.Outcome != Fails || !strings.Contains(m.Detail, "unix") {
		t.Errorf("%+v", m)
	}
}

// TestProbeNetwork: what the mount options say counts, and the default is what Open
// would choose.
func TestProbeNetwork(t *testing.T) {
	if mechanisms[OFD] == nil {
		t.Skip("there is no OFD")
	}
	withFileSystem(t, "nfs", false, "rw", "vers=3", "local_lock=posix")
	choosing.patience = time.Minute
	r := mustProbe(t, testProber("probe", OFD, Flock), t.TempDir())
	if r.Default != Flock || r.Local || r.FileSystem != "nfs" || strings.Join(r.MountOptions, ",") != "vers=3,local_lock=posix" {
		t.Errorf("%+v", r)
	}
	if a, b := r.Mechanisms[0], r.Mechanisms[1]; a.Outcome != Confined || !strings.Contains(a.Detail, "local_lock=posix") || b.Outcome != Works {
		t.Errorf("%+v", r)
	}
	if !r.OK || !strings.Contains(r.Verdict, "of others this shows nothing") {
		t.Error(r.Verdict)
	}
}

func TestProbeConclude(t *testing.T) {
	tests := []struct {
		name string
		r    Report
		ok   bool
		want string
	}{
		{
			"no default",
			Report{DefaultError: "none works", Mechanisms: []ProbeResult{{Mechanism: OFD, Outcome: Fails}}},
			false, "no locks: none works",
		},
		{
			"a default that only seemed to work",
			Report{Default: OFD, Mechanisms: []ProbeResult{
				{Mechanism: OFD, Outcome: NotExclusive, Detail: "3 of 5"}, {Mechanism: Flock}, {Mechanism: POSIX, Outcome: Fails}, {Mechanism: Link},
			}},
			false, "do not use the default here, ofd: does not exclude, 3 of 5; what works, if it is named: flock, link",
		},
		{
			"local",
			Report{Default: OFD, Local: true, Mechanisms: []ProbeResult{{Mechanism: OFD}}},
			true, "locks work here, with ofd, the default",
		},
	}
	for _, tt := range tests {
		tt.r.conclude()
		if tt.r.OK != tt.ok || tt.r.Verdict != tt.want {
			t.Errorf("%s: %v, %s", tt.name, tt.r.OK, tt.r.Verdict)
		}
	}
}

func TestJudgeSpans(t *testing.T) {
	tests := []struct {
		name     string
		spans    []span
		overlaps int
	}{
		{"none", nil, 0},
		{"one after the other", []span{{1, 2}, {2, 3}, {5, 6}}, 0},
		{"unsorted", []span{{5, 6}, {1, 2}, {3, 4}}, 0},
		{"by one", []span{{1, 3}, {2, 4}}, 1},
		{"within a long one", []span{{1, 10}, {2, 3}, {4, 5}}, 2},
		{"the same", []span{{1, 2}, {1, 2}}, 1},
	}
	for _, tt := range tests {
		n, got, _ := judgeSpans(tt.spans)
		if n != len(tt.spans) || got != tt.overlaps {
			t.Errorf("%s: %d overlaps of %d, want %d", tt.name, got, n, tt.overlaps)
		}
	}
	if _, _, rate := judgeSpans([]span{{0, 1e8}, {3e8, 5e8}}); rate != 4 {
		t.Errorf("%v a second", rate)
	}
}

func TestProbeErrors(t *testing.T) {
	if _, err := (Prober{}).Probe(t.Context(), t.TempDir()); err == nil {
		t.Error("without a Worker")
	}
	if _, err := testProber("probe").Probe(t.Context(), filepath.Join(t.TempDir(), "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	dir := t.TempDir()
	p := testProber("probe")
	p.Worker = func(...string) *exec.Cmd { return exec.Command("/nosuch/program") }
	if _, err := p.Probe(t.Context(), dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "start a worker") {
		t.Error(err)
	}
	checkOnly(t, dir)

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	p = testProber("probesilent")
	p.Patience = time.Hour
	if _, err := p.Probe(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	checkOnly(t, dir)

	for _, args := range [][]string{nil, {"count", "nosuch", "0", "1s", "x"}, {"count", "flock", "x", "1s", "x"}, {"count", "flock", "0", "x", "x"}} {
		if err := ProbeWorker(args); err == nil {
			t.Errorf("a worker with %q", args)
		}
	}
}
