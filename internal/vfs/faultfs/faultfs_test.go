package faultfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestChoices(t *testing.T) {
	var got []string
	for c := new(Choices); c.More(); {
		// What is chosen second depends on the first.
		if a := c.Choose(2); a == 0 {
			got = append(got, fmt.Sprint(a, c.Choose(3)))
		} else {
			got = append(got, fmt.Sprint(a, c.Choose(2), c.Choose(2)))
		}
	}
	want := []string{"0 0", "0 1", "0 2", "1 0 0", "1 0 1", "1 1 0", "1 1 1"}
	if !slices.Equal(got, want) {
		t.Errorf("the ways are %q, want %q", got, want)
	}
	n := 0
	for c := (&Choices{Limit: 5, Rand: rand.New(rand.NewPCG(1, 1))}); c.More(); n++ {
		for range 10 {
			c.Choose(2)
		}
	}
	if n != 10 {
		t.Errorf("%d ways with a limit of 5, want 5 and as many at random", n)
	}
}

// publish writes a file and renames it, flushing what flush says.
func publish(t *testing.T, d *Disk, name, content, flush string) {
	t.Helper()
	f, err := d.CreateTemp("/s", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := d.RenameNoReplace(f.Name(), "/s/"+name); err != nil {
		t.Fatal(err)
	}
	if flush == "file" || flush == "both" {
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if flush == "dir" || flush == "both" {
		if err := d.SyncDir("/s"); err != nil {
			t.Fatal(err)
		}
	}
}

func newDir(t *testing.T) *Disk {
	t.Helper()
	d := NewDisk()
	if err := d.Mkdir("/s", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	return d
}

// What may be left of a file after a power loss, by what was flushed.
func TestPowerLoss(t *testing.T) {
	for flush, want := range map[string][]string{
		"nothing": {"", "ab\x00\x00", "abcd", "missing"},
		"file":    {"abcd", "missing"},
		"dir":     {"", "ab\x00\x00", "abcd"},
		"both":    {"abcd"},
	} {
		d := newDir(t)
		publish(t, d, "a", "abcd", flush)
		seen := map[string]bool{}
		for c := new(Choices); c.More(); {
			after := d.PowerLoss(c.Choose)
			b, err := after.ReadFile("/s/a")
			switch {
			case errors.Is(err, fs.ErrNotExist):
				seen["missing"] = true
			case err != nil:
				t.Fatal(err)
			default:
				seen[string(b)] = true
			}
		}
		var got []string
		for s := range seen {
			got = append(got, s)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s flushed: left may be %q, want %q", flush, got, want)
		}
	}
}

// A removal that was not flushed may be undone, and a directory lost.
func TestPowerLossOfNames(t *testing.T) {
	d := newDir(t)
	publish(t, d, "a", "abcd", "both")
	if err := d.Remove("/s/a"); err != nil {
		t.Fatal(err)
	}
	kept := d.PowerLoss(func(int) int { return 0 })
	lost := d.PowerLoss(func(n int) int { return n - 1 })
	if _, err := kept.ReadFile("/s/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removal kept: %v", err)
	}
	if b, err := lost.ReadFile("/s/a"); err != nil || string(b) != "abcd" {
		t.Errorf("removal lost: %q, %v", b, err)
	}

	d = NewDisk()
	if err := d.Mkdir("/s", 0o755); err != nil {
		t.Fatal(err)
	}
	publish(t, d, "a", "abcd", "both")
	if _, err := d.PowerLoss(func(n int) int { return n - 1 }).ReadDir("/s"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory whose name was not flushed: %v, want that it may be missing", err)
	}
}

// A copy has nothing in common with its original.
func TestClone(t *testing.T) {
	d := newDir(t)
	publish(t, d, "a", "abcd", "both")
	c := d.Clone()
	publish(t, d, "b", "x", "both")
	if err := d.WriteFile("/s/a", []byte("changed")); err != nil {
		t.Fatal(err)
	}
	if b, err := c.ReadFile("/s/a"); err != nil || string(b) != "abcd" {
		t.Errorf("the copy holds %q, %v", b, err)
	}
	if names, err := c.ReadDir("/s"); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Errorf("the copy has %q, %v", names, err)
	}
}

func TestNoReplace(t *testing.T) {
	d := newDir(t)
	publish(t, d, "a", "old", "both")
	f, err := d.CreateTemp("/s", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for name, give := range map[string]func(string, string) error{"rename": d.RenameNoReplace, "link": d.Link} {
		if err := give(f.Name(), "/s/a"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s onto a name that is taken: %v", name, err)
		}
	}
	if b, err := d.ReadFile("/s/a"); err != nil || string(b) != "old" {
		t.Errorf("the name holds %q, %v", b, err)
	}
}

func TestHooked(t *testing.T) {
	d := newDir(t)
	publish(t, d, "a", "x", "both")
	before, after := errors.New("before"), errors.New("after")
	h := &Hooked{FS: d, Before: func(op Op) error {
		if op.Kind == OpRemove {
			return before
		}
		return nil
	}, After: func(op Op, err error) error {
		if op.Kind == OpLink {
			return after
		}
		return err
	}}
	if err := h.Remove("/s/a"); !errors.Is(err, before) {
		t.Errorf("Remove: %v, want %v", err, before)
	}
	if _, err := h.Lstat("/s/a"); err != nil {
		t.Errorf("what fails before it takes effect has taken effect: %v", err)
	}
	if err := h.Link("/s/a", "/s/b"); !errors.Is(err, after) {
		t.Errorf("Link: %v, want %v", err, after)
	}
	if _, err := h.Lstat("/s/b"); err != nil {
		t.Errorf("what fails after it took effect has not: %v", err)
	}
}
