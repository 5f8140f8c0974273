package stress

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/recordstore/recordstore/store"
)

// orphanEnv makes the test binary the parent of a run in that directory, with
// no end but by a kill.
const orphanEnv = "STRESS_TEST_ORPHAN"

func runForever(dir string) {
	_, err := Run(context.Background(), Config{
		Store: filepath.Join(dir, "store"), History: filepath.Join(dir, "history"),
		Writers: 3, Readers: 1, Seed: 1, Duration: time.Hour, Timeout: time.Hour,
	}, nil)
	fmt.Println(err)
	os.Exit(1)
}

// TestKilledParent kills the parent of a run while its workers wait for the
// lock of the store, and will for an hour. They must go at once all the same.
// Signals that ask for an end are the parent's to answer: they ignore those.
func TestKilledParent(t *testing.T) {
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		t.Skip("processes are found by their environment in /proc: ", err)
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), orphanEnv+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() // or it would go on for an hour after a failure
	await(t, "4 workers", func() bool { return len(workersIn(t, dir)) == 4 })
	workers := workersIn(t, dir)
	for _, pid := range workers {
		await(t, "a worker past its start", func() bool { return ignores(t, pid, syscall.SIGQUIT) })
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Error(err)
			}
		}
	}

	await(t, "the store", func() bool {
		_, err := os.Stat(filepath.Join(dir, "store", "LOCK"))
		return err == nil
	})
	s, err := store.Open(filepath.Join(dir, "store"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Update(t.Context(), func(*store.Tx) error {
		if got := workersIn(t, dir); !slices.Equal(got, workers) {
			t.Errorf("after the signals the workers are %v, and not %v", got, workers)
		}
		if err := cmd.Process.Kill(); err != nil {
			return err
		}
		if err := cmd.Wait(); err == nil {
			t.Error("the killed parent has ended well")
		}
		await(t, "no worker", func() bool { return len(workersIn(t, dir)) == 0 })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// await waits until the condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// ignores tells whether a process ignores a signal.
func ignores(t *testing.T, pid int, sig syscall.Signal) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(b), "\nSigIgn:\t")
	mask, _, _ := strings.Cut(after, "\n")
	n, err := strconv.ParseUint(mask, 16, 64)
	if !ok || err != nil {
		t.Fatalf("no ignored signals in %s: %v", b, err)
	}
	return n&(1<<(sig-1)) != 0
}

// workersIn returns the processes that work in dir.
func workersIn(t *testing.T, dir string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		env, err := os.ReadFile(f)
		if err != nil {
			continue // not ours, or gone
		}
		for _, v := range bytes.Split(env, []byte{0}) {
			if bytes.HasPrefix(v, []byte(workerEnv+"=")) && bytes.Contains(v, []byte(dir)) {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
