package main

import (
	"os/exec"
	"testing"
	"time"

	"github.com/recordstore/recordstore/lockfile"
)

func TestProbeWorker(t *testing.T) {
	exe, err := exec.LookPath("recordctl") // this binary, under that name
	if err != nil {
		t.Fatal(err)
	}
	p := lockfile.Prober{
		Worker: func(args ...string) *exec.Cmd {
			cmd := probeWorker(args...)
			cmd.Path, cmd.Args[0] = exe, exe
			return cmd
		},
		Mechanisms: []lockfile.Mechanism{lockfile.Flock},
		Processes:  2,
		Duration:   50 * time.Millisecond,
		Patience:   time.Minute,
	}
	r, err := p.Probe(t.Context(), t.TempDir())
	if err != nil || r.Mechanisms[0].Outcome != lockfile.Works {
		t.Errorf("%v\n%v", err, r)
	}
}
