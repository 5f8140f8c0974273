// Package doctor examines a directory that is to hold a store: what file system it
// is on, how that is mounted, and whether what a store needs works there.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/internal/fstype"
	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/lockfile"
)

// A Grade says how much a finding matters.
type Grade int

// The grades.
const (
	Good    Grade = iota // as a store needs it
	Note                 // to know: it costs time, or a promise is a weaker one
	Bad                  // a store must not be used here
	Unknown              // it could not be found out
)

var gradeNames = [...]string{"good", "note", "bad", "unknown"}

func (g Grade) String() string { return gradeNames[g] }

// MarshalText returns what String does.
func (g Grade) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// A Finding is the answer to one question.
type Finding struct {
	About string `json:"about"` // as "rename", "mount option soft"
	Grade Grade  `json:"grade"`
	Text  string `json:"text"` // what was seen, and what it means
}

// A Report is what was found out about a directory.
type Report struct {
	Dir         string          `json:"dir"`
	FileSystem  string          `json:"file_system"`
	Local       bool            `json:"local"`         // no other machine has a copy of it
	NFSVersion  string          `json:"nfs_version"`   // as "4.2"; "" if it is not NFS
	Source      string          `json:"source"`        // what is mounted, as "server:/export"
	MountPoint  string          `json:"mount_point"`   // where
	Options     []string        `json:"mount_options"` // all of them
	Granularity time.Duration   `json:"time_granularity_ns"`
	ClockAhead  time.Duration   `json:"clock_ahead_ns"` // of this machine's clock, before that of the file system's
	Locks       lockfile.Report `json:"locks"`
	Findings    []Finding       `json:"findings"`
	OK          bool            `json:"ok"`
	Verdict     string          `json:"verdict"` // in one line
}

func (r *Report) add(about string, g Grade, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{about, g, fmt.Sprintf(format, args...)})
}

// An Examination is what Examine needs besides the directory.
type Examination struct {
	Prober   lockfile.Prober
	Progress func(step string) // told what comes next; may be nil
}

// workPrefix begins the names of the directories that Examine works in. It is not
// .tmp., the names of the store's temporary files: the store removes old ones, but
// no directory that has something in it.
const workPrefix = ".doctor."

// litterAge is how old such a directory must be to be taken for the litter of a
// process that died. None is at work for so long.
const litterAge = time.Hour

// Examine examines dir, which must exist. It works in a directory of its own within
// it, which it removes; if it dies, the next one does, an hour later. An error is that
// nothing could be found out.
func (e *Examination) Examine(ctx context.Context, dir string) (*Report, error) {
	r := &Report{Dir: dir}
	if err := r.mount(dir); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, workPrefix)
	if err != nil {
		return nil, fmt.Errorf("examine %s: one needs permission to create files in it: %w", dir, err)
	}
	defer os.RemoveAll(work)
	removeLitter(dir, work)
	for _, step := range []struct {
		name string
		do   func(ctx context.Context, work string) error
	}{
		{"mount options", r.options},
		{"publishing", r.publishing},
		{"flushing", r.flushing},
		{"others' files", r.sticky},
		{"the clock", r.clock},
		{"locks", func(ctx context.Context, work string) error { return r.locks(ctx, work, e.Prober) }},
	} {
		if e.Progress != nil {
			e.Progress(step.name)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := step.do(ctx, work); err != nil {
			return nil, err
		}
	}
	r.judge()
	return r, nil
}

// removeLitter removes what others left in dir that died. Ages are by the file
// system's own clock: work is new. What cannot be removed is another user's, and
// matters to nobody.
func removeLitter(dir, work string) {
	now, err := os.Stat(work)
	if err != nil {
		return
	}
	entries, _ := os.ReadDir(dir) // those that were read are there all the same
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), workPrefix) {
			continue
		}
		if info, err := e.Info(); err == nil && now.ModTime().Sub(info.ModTime()) > litterAge {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

func (r *Report) mount(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "examine", Path: dir, Err: syscall.ENOTDIR}
	}
	name, local, err := fstype.Of(dir)
	if err != nil {
		return &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	r.FileSystem, r.Local = name, local
	m, err := fstype.MountOf(dir)
	if err != nil {
		r.add("mount", Unknown, "how it is mounted could not be found out: %v", err)
		return nil
	}
	r.Source, r.MountPoint, r.Options = m.Source, m.Point, m.Options
	if strings.HasPrefix(m.Type, "nfs") {
		r.NFSVersion = r.option("vers")
		r.FileSystem = "nfs"
	}
	return nil
}

// option returns the value of a mount option; "" if it is not set.
func (r *Report) option(name string) string {
	for _, o := range r.Options {
		if v, ok := strings.CutPrefix(o, name+"="); ok {
			return v
		}
	}
	return ""
}

func (r *Report) has(option string) bool { return slices.Contains(r.Options, option) }

// options judges the mount. What is said of NFS was measured; see docs/NFS.md.
func (r *Report) options(context.Context, string) error {
	if r.has("ro") {
		r.add("mount option ro", Note, "it is mounted for reading only: nothing can be written from here")
	}
	switch {
	case r.Local:
		r.add("file system", Good, "%s is local: no other machine has a copy of its names or contents", r.FileSystem)
		return nil
	case r.NFSVersion == "":
		r.add("file system", Note, "%s is not known to be local, so a store takes the careful path of network file systems here", r.FileSystem)
		return nil
	}
	r.add("file system", Good, "NFS version %s, from %s", r.NFSVersion, r.Source)
	switch {
	case r.NFSVersion == "2":
		r.add("NFS version 2", Bad, "it has neither safe file creation nor 64-bit sizes; mount with vers=4.2, or 3")
	case strings.HasPrefix(r.NFSVersion, "3"):
		r.add("NFS version 3", Note, "locks go through a service of their own (lockd, statd). If a client dies, its locks stay until it is back; with vers=4.2 the server's lease ends them")
	case r.NFSVersion == "4.0":
		r.add("NFS version 4.0", Note, "the client asks for a lock again after up to 30 s, so a store tries in steps of its own; vers=4.2 is quicker")
	}
	if r.has("soft") || r.has("softerr") || r.has("softreval") {
		r.add("mount option soft", Note, "when the server is slow, calls fail instead of waiting. The store finds out what became of them, or says that it does not know; hard is better")
	}
	if r.has("nolock") {
		r.add("mount option nolock", Note, "kernel locks exclude this machine only; a store stays whole, at the price of retries")
	}
	if v := r.option("local_lock"); v != "" && v != "none" {
		r.add("mount option local_lock", Note, "local_lock=%s: such locks exclude this machine only; a store stays whole, at the price of retries", v)
	}
	if r.has("noac") {
		r.add("mount option noac", Note, "nothing is cached, which a store does not need and which makes all else slow")
	}
	if v := r.option("lookupcache"); v != "" && v != "all" {
		r.add("mount option lookupcache", Note, "lookupcache=%s: a store does not need it", v)
	}
	return nil
}

// publishing finds out whether a file can get its name without replacing another.
func (r *Report) publishing(_ context.Context, work string) error {
	sys := vfs.OS{}
	file := func(name string) (string, error) {
		path := filepath.Join(work, name)
		return path, os.WriteFile(path, []byte(name), 0o666)
	}
	taken, err := file("taken")
	if err != nil {
		return err
	}
	temp, err := file("temp")
	if err != nil {
		return err
	}
	ways := 0
	for _, way := range []struct {
		name string
		do   func(old, new string) error
	}{{"rename", sys.RenameNoReplace}, {"link", sys.Link}} {
		err := way.do(temp, taken)
		content, readErr := os.ReadFile(taken)
		switch {
		case readErr != nil:
			return readErr
		case string(content) != "taken":
			r.add(way.name, Bad, "%s replaced a file that it was asked not to replace: commits could overwrite each other", way.name)
			return nil
		case errors.Is(err, fs.ErrExist):
			ways++
			r.add(way.name, Good, "%s refuses to replace a file", way.name)
		case err == nil:
			r.add(way.name, Bad, "%s to a name that was taken reported success", way.name)
			return nil
		default:
			r.add(way.name, Good, "%s without replacing is not to be had here, and need not be if the other way is: %v", way.name, err)
		}
	}
	if ways == 0 {
		r.add("publishing", Bad, "there is neither a rename that refuses to replace nor a hard link: a store cannot publish a commit")
	}
	return nil
}

// flushing finds out whether files and directories can be flushed.
func (r *Report) flushing(_ context.Context, work string) error {
	f, err := os.Create(filepath.Join(work, "flushed"))
	if err != nil {
		return err
	}
	defer f.Close()
	begin := time.Now()
	if err := f.Sync(); err != nil {
		r.add("fsync", Bad, "a file cannot be flushed: %v", err)
		return nil
	}
	if err := (vfs.OS{}).SyncDir(work); err != nil {
		r.add("fsync", Bad, "a directory cannot be flushed, so that names may be lost with the power: %v", err)
		return nil
	}
	r.add("fsync", Good, "files and directories can be flushed (%v for an empty one)", time.Since(begin).Round(10*time.Microsecond))
	return nil
}

// sticky finds out whether one user may remove what another left behind.
func (r *Report) sticky(context.Context, string) error {
	info, err := os.Stat(r.Dir)
	if err != nil {
		return err
	}
	r.judgeSticky(info, os.Geteuid())
	return nil
}

// judgeSticky calls bad what the store refuses: see checkDir there.
func (r *Report) judgeSticky(info fs.FileInfo, uid int) {
	if info.Mode()&fs.ModeSticky == 0 {
		return
	}
	grade, who := Note, "others, whom the store refuses here"
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && uid != 0 && uint32(uid) != stat.Uid {
		grade, who = Bad, fmt.Sprintf("you (uid %d), whom the store refuses here", uid)
	}
	r.add("permissions", grade, "the directory is sticky: make one within it for the store, since whoever writes to a store removes others' old files, which its owner and root alone may here, and not %s", who)
}

// granularitySteps is how many steps of the file system's clock are looked at.
const granularitySteps = 3

// clockPatience is how long a step of it is waited for.
const clockPatience = 5 * time.Second

// clock measures the steps in which the file system's time stamps move, and how its
// clock differs from this machine's.
func (r *Report) clock(ctx context.Context, work string) error {
	f, err := os.Create(filepath.Join(work, "stamped"))
	if err != nil {
		return err
	}
	defer f.Close()
	stamp := func() (time.Time, error) {
		if _, err := f.WriteAt([]byte("x"), 0); err != nil {
			return time.Time{}, err
		}
		if !r.Local {
			if err := f.Sync(); err != nil { // it is the server that stamps it
				return time.Time{}, err
			}
		}
		info, err := f.Stat()
		if err != nil {
			return time.Time{}, err
		}
		return info.ModTime(), nil
	}
	last, err := stamp()
	if err != nil {
		return err
	}
	r.ClockAhead = time.Since(last)
	begin := time.Now()
	for steps := 0; steps < granularitySteps; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		now, err := stamp()
		if err != nil {
			return err
		}
		if d := now.Sub(last); d != 0 {
			if steps++; steps > 1 && (r.Granularity == 0 || d < r.Granularity) {
				r.Granularity = d // the first step may be a part of one
			}
			last = now
		}
		if time.Since(begin) > clockPatience {
			r.add("clock", Unknown, "the file system's time stamps did not move %d times in %v", granularitySteps, clockPatience)
			return nil
		}
	}
	grade, text := Good, ""
	if r.Granularity >= 500*time.Millisecond {
		grade, text = Note, ": so coarse that clients overlook changes of a directory within it. A store reads directories anew instead"
	}
	step := "about " + r.Granularity.Round(10*time.Microsecond).String()
	if r.Granularity < 10*time.Microsecond {
		step = "less than 10µs"
	}
	r.add("clock", grade, "time stamps move in steps of %s%s", step, text)
	if off := r.ClockAhead.Abs(); off > max(time.Minute, 2*r.Granularity) {
		r.add("clock", Note, "this machine's clock and the file system's differ by %v: records with an expiry end early or late by that", off.Round(time.Second))
	}
	return nil
}

func (r *Report) locks(ctx context.Context, work string, p lockfile.Prober) error {
	var err error
	if r.Locks, err = p.Probe(ctx, work); err != nil {
		return err
	}
	r.Locks.Dir = r.Dir
	if r.Locks.OK {
		r.add("locks", Good, "%v locks exclude each other across processes", r.Locks.Default)
	} else {
		r.add("locks", Bad, "%s", r.Locks.Verdict)
	}
	if !r.Local {
		r.add("locks", Note, "what other machines do was not tried: run recordctl lock on two of them to see")
	}
	return nil
}

// judge puts it all in one line.
func (r *Report) judge() {
	var bad, notes []string
	for _, f := range r.Findings {
		switch f.Grade {
		case Bad:
			bad = append(bad, f.About)
		case Note, Unknown:
			notes = append(notes, f.About)
		case Good:
		}
	}
	bad, notes = slices.Compact(bad), slices.Compact(notes)
	r.OK = len(bad) == 0
	switch {
	case !r.OK:
		r.Verdict = "do not keep a store here: " + strings.Join(bad, ", ")
	case len(notes) > 0:
		r.Verdict = "a store can be kept here; to know: " + strings.Join(notes, ", ")
	default:
		r.Verdict = "a store can be kept here"
	}
}
