package doctor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/recordstore/recordstore/lockfile"
)

const workerEnv = "DOCTOR_TEST_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		if err := lockfile.ProbeWorker(os.Args[1:]); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func examine(t *testing.T, dir string) *Report {
	t.Helper()
	e := Examination{Prober: lockfile.Prober{
		Worker: func(args ...string) *exec.Cmd {
			cmd := exec.Command(os.Args[0], args...)
			cmd.Env = append(os.Environ(), workerEnv+"=1")
			return cmd
		},
		Mechanisms: []lockfile.Mechanism{lockfile.Flock},
		Processes:  2,
		Duration:   50 * time.Millisecond,
	}}
	if runtime.GOOS == "linux" {
		e.Prober.Mechanisms = append(e.Prober.Mechanisms, lockfile.OFD)
	}
	before := names(t, dir)
	r, err := e.Examine(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Logf("%-8v %s: %s", f.Grade, f.About, f.Text)
	}
	t.Log(r.Verdict)
	for _, name := range names(t, dir) {
		if !slices.Contains(before, name) {
			t.Errorf("%s was left behind", name)
		}
	}
	return r
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// What a killed one left is removed, but nothing that another is at work in, or that
// is not doctor's.
func TestLitter(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * litterAge)
	for name, at := range map[string]time.Time{
		workPrefix + "1": old,
		workPrefix + "2": time.Now(),
		"doctor.3":       old,
	} {
		work := filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(work, 0o700), os.WriteFile(filepath.Join(work, "taken"), nil, 0o600), os.Chtimes(work, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	examine(t, dir)
	if got, want := names(t, dir), []string{workPrefix + "2", "doctor.3"}; !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
}

// grade returns the worst that was found about something.
func (r *Report) grade(about string) (g Grade, text string) {
	g = -1
	for _, f := range r.Findings {
		if f.About == about && f.Grade > g {
			g, text = f.Grade, f.Text
		}
	}
	return g, text
}

func (r *Report) want(t *testing.T, about string, want Grade, part string) {
	t.Helper()
	if g, text := r.grade(about); g != want || !strings.Contains(text, part) {
		t.Errorf("%s: %v, %q; want %v with %q", about, g, text, want, part)
	}
}

func TestHere(t *testing.T) {
	dir := t.TempDir()
	r := examine(t, dir)
	if !r.OK || r.Dir != dir || r.FileSystem == "" || r.Granularity <= 0 {
		t.Errorf("%+v", r)
	}
	r.want(t, "fsync", Good, "flushed")
	r.want(t, "rename", Good, "")
}

func TestSticky(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	r := examine(t, dir)
	if r.want(t, "permissions", Note, "sticky"); !r.OK || !strings.Contains(r.Verdict, "permissions") {
		t.Errorf("verdict %q", r.Verdict)
	}
}

// As the store does, doctor lets the owner and root keep a store in a sticky
// directory, and nobody else.
func TestStickyForOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[int]Grade{0: Note, os.Geteuid(): Note, os.Geteuid() + 1: Bad} {
		r := &Report{}
		r.judgeSticky(info, uid)
		r.want(t, "permissions", want, "sticky")
		if r.judge(); r.OK != (want != Bad) {
			t.Errorf("uid %d: %s", uid, r.Verdict)
		}
	}
}

func TestRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		file:                             "not a directory",
		filepath.Join(file + "-missing"): "no such file",
		"/proc":                          "permission to create files",
	} {
		if _, err := (&Examination{}).Examine(context.Background(), dir); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
}

// What the options of a mount mean.
func TestMountOptions(t *testing.T) {
	for _, c := range []struct {
		version, options string
		about, part      string
		want             Grade
	}{
		{"4.2", "rw,hard", "file system", "version 4.2", Good},
		{"3", "rw,hard", "NFS version 3", "lockd", Note},
		{"4.0", "rw,hard", "NFS version 4.0", "steps", Note},
		{"2", "rw", "NFS version 2", "vers=4.2", Bad},
		{"4.2", "rw,soft", "mount option soft", "hard", Note},
		{"3", "rw,nolock", "mount option nolock", "this machine only", Note},
		{"3", "rw,local_lock=all", "mount option local_lock", "local_lock=all", Note},
		{"4.2", "rw,noac", "mount option noac", "slow", Note},
		{"4.2", "rw,lookupcache=none", "mount option lookupcache", "lookupcache=none", Note},
		{"4.2", "ro,hard", "mount option ro", "reading only", Note},
	} {
		r := &Report{FileSystem: "nfs", NFSVersion: c.version, Options: strings.Split(c.options, ",")}
		if err := r.options(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		r.want(t, c.about, c.want, c.part)
		if r.judge(); r.OK != (c.want != Bad) {
			t.Errorf("%s %s: %s", c.version, c.options, r.Verdict)
		}
	}
	r := &Report{FileSystem: "nfs", NFSVersion: "4.2", Options: strings.Split("rw,hard,local_lock=none,lookupcache=all", ",")}
	if err := r.options(t.Context(), ""); err != nil || len(r.Findings) != 1 {
		t.Errorf("usual options: %+v, %v", r.Findings, err)
	}
}
