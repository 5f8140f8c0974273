//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/recordstore/recordstore/internal/nfslab"
	"github.com/recordstore/recordstore/internal/stress"
)

func TestScenarios(t *testing.T) {
	s := settings{versions: "3 4.2", options: "default noac", duration: time.Second, lease: time.Second}
	seen := map[string]bool{}
	var names []string
	for _, sc := range s.scenarios() {
		if seen[sc.name] || sc.run == nil || sc.what == "" {
			t.Errorf("%s is there twice, or does nothing", sc.name)
		}
		seen[sc.name] = true
		names = append(names, sc.name)
	}
	for _, want := range []string{"stress/3/default", "stress/4.2/noac", "kill/3", "coarse/3", "rename/4.2", "short"} {
		if !seen[want] {
			t.Errorf("no %s among %q", want, names)
		}
	}
	if i, j := slices.Index(names, "cut/3"), slices.Index(names, "kill/3"); i > j {
		t.Error("a scenario that spoils the lab comes before one that does not")
	}
}

// The list of docs/TESTING.md is that of the code.
func TestScenariosAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/TESTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "| scenario | what it does |\n|---|---|\n")
	list, _, _ = strings.Cut(list, "\n\n")
	want := map[string]bool{}
	s := settings{versions: "3 4.2", options: "default"}
	for _, sc := range s.scenarios() {
		name, _, _ := strings.Cut(sc.name, "/")
		want[name] = true
	}
	got := map[string]bool{}
	for row := range strings.Lines(list) {
		for name := range strings.SplitSeq(strings.Split(row, "|")[1], ",") {
			got[strings.TrimSpace(name)] = true
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

func TestArguments(t *testing.T) {
	st := &stage{runner: &runner{settings: &settings{seed: 7, with: "--journal 600"}}, scenario: scenario{name: "stress/4.2/noac"}}
	l := both(3, 4)
	l.duration = time.Second
	got := strings.Join(l.arguments(st, 1), " ")
	for _, want := range []string{"--store /mnt/stress-42-noac ", "--machines 2 --machine 2 ", "--writers 3 --readers 4 ", "--records 1 ", " --journal 600"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}

// What takes longer than -within is skipped only where it is known to be emulated,
// or could not run whatever the time.
func TestLate(t *testing.T) {
	boot := errors.New("client0: boot: the agent is not there")
	noPackages := fmt.Errorf("%w: apt-get download", nfslab.ErrSkip)
	for _, tt := range []struct {
		name     string
		cause    error
		emulated bool
		err      error
		skipped  bool
		says     string
	}{
		{"an emulated guest boots slowly", errSlow, true, boot, true, "emulated"},
		{"a guest boots slowly with KVM, or hangs", errSlow, false, boot, false, boot.Error()},
		{"packages come slowly", errSlow, false, noPackages, true, "apt-get download, within 1s"},
		{"an interrupt, while it is slow", context.Canceled, true, boot, false, context.Canceled.Error()},
		{"an interrupt, while packages come", context.Canceled, false, noPackages, false, context.Canceled.Error()},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(tt.cause)
		r := &runner{settings: &settings{within: time.Second}, emulated: tt.emulated}
		err := r.late(ctx, tt.err)
		if errors.Is(err, nfslab.ErrSkip) != tt.skipped || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want it skipped: %t, and %q", tt.name, err, tt.skipped, tt.says)
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		name  string
		loses bool
		r     stress.Result
		ok    bool
	}{
		{"all is there", false, stress.Result{Judged: true, Commits: 3}, true},
		{"nothing was done", false, stress.Result{Judged: true}, false},
		{"lost", false, stress.Result{Judged: true, Commits: 3, Faults: map[stress.Kind]int{stress.Lost: 1}}, false},
		{"a worker failed", false, stress.Result{Judged: true, Commits: 3, Failures: []string{"x"}}, false},
		{"lost as it must be", true, stress.Result{Judged: true, Commits: 3, Faults: map[stress.Kind]int{stress.Lost: 1}}, true},
		{"not seen to lose", true, stress.Result{Judged: true, Commits: 3}, false},
	} {
		if v := (load{loses: tt.loses}).verdict(tt.r, nil); v.ok != tt.ok {
			t.Errorf("%s: got %t, %s", tt.name, v.ok, v.text)
		}
	}
}

func TestWatch(t *testing.T) {
	w := &watch{at: time.Now()}
	w.Write([]byte("manifest.0000000000000010\nmanifest.00000000"))
	w.Write([]byte("00000011\nmanifest.0000000000000025\n"))
	if got := w.commits(); got != 15 {
		t.Errorf("got %d commits, want 15", got)
	}
}

func TestWatchPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watch{at: time.Now()}
		wantLongest := func(want time.Duration) {
			t.Helper()
			if got := w.longest(); got != want {
				t.Errorf("got a pause of %s, want %s", got, want)
			}
		}
		time.Sleep(time.Minute)
		w.Write([]byte("manifest.0000000000000025\n"))
		wantLongest(time.Minute)
		w.reset()
		wantLongest(0)
		time.Sleep(3 * time.Second)
		w.Write([]byte("manifest.0000000000000026\n"))
		time.Sleep(2 * time.Second)
		w.Write([]byte("manifest.0000000000000026\n"))
		wantLongest(3 * time.Second)
		time.Sleep(2 * time.Second) // nothing new for 4 s by now
		wantLongest(4 * time.Second)
	})
}

func TestUntar(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range map[string]string{"./a/b": "x", "../c": "y"} {
		w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(content))})
		w.Write([]byte(content))
	}
	w.Close()
	dir := t.TempDir()
	err := untar(&b, dir)
	if err == nil {
		t.Fatal("a file without its directory") // tar names directories first
	}
	b.Reset()
	w = tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "./a/", Typeflag: tar.TypeDir})
	w.WriteHeader(&tar.Header{Name: "./a/b", Typeflag: tar.TypeReg, Size: 1})
	w.Write([]byte("x"))
	w.WriteHeader(&tar.Header{Name: "../c", Typeflag: tar.TypeReg, Size: 1})
	w.Write([]byte("y"))
	w.WriteHeader(&tar.Header{Name: "./a/d", Linkname: "./a/b", Typeflag: tar.TypeLink})
	w.WriteHeader(&tar.Header{Name: "e", Linkname: "../c", Typeflag: tar.TypeLink})
	w.Close()
	if err := untar(&b, dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a/b": "x", "c": "y", "a/d": "x", "e": "y"} { // nothing gets out of dir
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	b.Reset()
	w = tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "./s", Linkname: "a/b", Typeflag: tar.TypeSymlink})
	w.Close()
	if err := untar(&b, dir); err == nil {
		t.Error("a symbolic link is left out, and nobody is told")
	}
}
