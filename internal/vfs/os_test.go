package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRenameNoReplace(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "new")
	write(t, b, "old")
	if err := (OS{}).RenameNoReplace(a, b); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto a name that is taken: %v, want %v", err, fs.ErrExist)
	}
	if got := read(t, b); got != "old" {
		t.Errorf("the name holds %q, want what it held", got)
	}
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	if err := (OS{}).RenameNoReplace(a, b); err != nil {
		t.Fatal(err)
	}
	if got := read(t, b); got != "new" {
		t.Errorf("the name holds %q, want the renamed file", got)
	}
	if err := (OS{}).RenameNoReplace(a, b); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a name that is gone: %v, want %v", err, fs.ErrNotExist)
	}
}

func TestCreateTemp(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	f, err := (OS{}).CreateTemp(dir, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if filepath.Dir(f.Name()) != dir || !IsTemp(filepath.Base(f.Name())) {
		t.Errorf("the temporary file is %s, want one in %s that IsTemp knows", f.Name(), dir)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode.Perm(); got != 0o600 {
		t.Errorf("mode %v, want 0600", got)
	}
	there, err := (OS{}).Lstat(f.Name())
	if err != nil || there.ID != info.ID {
		t.Errorf("Lstat: %+v, %v; want the identity of the open file, %+v", there, err, info)
	}
}

func TestNoSymlinks(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "x")
	link := filepath.Join(dir, "link")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	if f, err := (OS{}).Open(link); err == nil {
		f.Close()
		t.Error("a symbolic link was followed")
	}
	info, err := (OS{}).Lstat(link)
	if err != nil || info.Mode&fs.ModeSymlink == 0 {
		t.Errorf("Lstat: %v, %v; want a symbolic link", info.Mode, err)
	}
}

func TestErrorsNameThePath(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	var o OS
	_, lstat := o.Lstat(missing)
	_, open := o.Open(missing)
	_, list := o.ReadDir(missing)
	_, temp := o.CreateTemp(missing, 0o600)
	_, _, kind := o.Type(missing)
	for op, err := range map[string]error{
		"lstat": lstat, "open": open, "readdir": list, "create": temp, "type": kind,
		"remove": o.Remove(missing), "link": o.Link(missing, missing+"2"),
		"rename": o.RenameNoReplace(missing, missing+"2"), "sync": o.SyncDir(missing), "mkdir": o.Mkdir(missing+"/a", 0o777),
	} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
			t.Errorf("%s: %v, want one that is %v and names %s", op, err, fs.ErrNotExist, missing)
		}
	}
}

func TestRemoveIsNotForDirectories(t *testing.T) {
	dir := t.TempDir()
	if err := (OS{}).Remove(dir); err == nil {
		t.Error("a directory was removed")
	}
}

func TestTypeIsKnown(t *testing.T) {
	name, local, err := (OS{}).Type(t.TempDir())
	if err != nil || name == "" {
		t.Fatalf("Type = %q, %v, %v", name, local, err)
	}
	t.Logf("%s, local: %v", name, local)
	if name, local, _ := (OS{}).Type("/proc"); local {
		t.Errorf("/proc is taken for a local file system: %s", name)
	}
}

// TestDirChanged: the open directory tells when it was changed last, as stat
// does, wherever it is moved.
func TestDirChanged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	d, err := (OS{}).OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	want := func() time.Time {
		t.Helper()
		st, err := d.(osDir).stat()
		info, lstatErr := (OS{}).Lstat(dir)
		if err := errors.Join(err, lstatErr); err != nil {
			t.Fatal(err)
		}
		if id, err := d.ID(); err != nil || id != info.ID {
			t.Errorf("identity %v, %v, want %v", id, err, info.ID)
		}
		return changeTime(&st)
	}
	last, err := d.Changed()
	if w := want(); err != nil || !last.Equal(w) {
		t.Errorf("changed %v, %v; stat says %v", last, err, w)
	}
	for _, step := range []func() error{
		func() error { return os.WriteFile(filepath.Join(dir, "file"), nil, 0o666) },
		func() error { return os.Remove(filepath.Join(dir, "file")) },
		func() error { return os.Chmod(dir, 0o700) },
		func() error { old := dir; dir += "b"; return os.Rename(old, dir) },
	} {
		awaitClock(t, last)
		if err := step(); err != nil {
			t.Fatal(err)
		}
		got, err := d.Changed()
		if w := want(); err != nil || !got.Equal(w) || !got.After(last) {
			t.Errorf("changed %v, %v; stat says %v, before it was %v", got, err, w, last)
		}
		last = got
	}
}

// awaitClock waits until what is written from now on is seen to be later than that: the
// file system's clock has ticks, of up to a second or two.
func awaitClock(t *testing.T, last time.Time) {
	t.Helper()
	probe := filepath.Join(t.TempDir(), "probe")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		err := os.WriteFile(probe, []byte("x"), 0o666)
		info, statErr := os.Stat(probe)
		if err := errors.Join(err, statErr); err != nil {
			t.Fatal(err)
		}
		if info.ModTime().After(last) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a minute the file system's clock is still at %v", last)
		}
	}
}
