package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/fstype"
	"github.com/recordstore/recordstore/lockfile"
)

// The line is written when it changes, and taken away once.
func TestWaitNote(t *testing.T) {
	var out bytes.Buffer
	n := &waitNote{out: &out}
	n.clear()
	w := lockfile.Wait{Path: "nosuch\n.lock", Ahead: 2}
	n.wait(w)
	n.wait(w)
	w.Ahead = 0
	n.wait(w)
	w.Ahead = -1
	n.wait(w)
	n.clear()
	n.clear()
	const begin = "\rrecordctl: waiting for lock nosuch .lock"
	want := begin + "; 2 ahead in the queue\x1b[K" + begin + "; next in the queue\x1b[K" + begin + "\x1b[K" + "\r\x1b[K"
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Who is dead does not have the lock, whatever the file says: others are named as "lock
// status" names them.
func TestDeadHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := lockfile.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := f.TryLock("living")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	h, ok, err := f.Holder()
	if !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	dead := h
	dead.Start++ // another of the same number
	dead.Purpose = "dead"
	if dead.Liveness() != lockfile.Dead {
		t.Skip("it cannot be told here who is dead")
	}
	for _, tt := range []struct {
		h    lockfile.Holder
		want string
	}{{h, "living"}, {dead, "living"}} {
		target := lockTarget{path: path, name: path}
		for _, got := range []string{
			waitText(lockfile.Wait{Path: path, Holder: tt.h, Known: true, Ahead: -1}),
			target.conflict(&lockfile.HeldError{Path: path, Holder: tt.h, Known: true}, 0),
		} {
			if !strings.Contains(got, "held by pid ") || !strings.HasSuffix(got, ", for "+tt.want) {
				t.Errorf("got %q, want it for %s", got, tt.want)
			}
		}
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		text string
		most int
		want string
	}{
		{"häuser", 3, "häu"},
		{"häuser", 6, "häuser"},
		{"häuser", 0, "häuser"},
		{"häuser", -1, "häuser"},
	} {
		if got := fit(tt.text, tt.most); got != tt.want {
			t.Errorf("fit(%q, %d): got %q, want %q", tt.text, tt.most, got, tt.want)
		}
	}
}

// Over a network, and only there, the holder is recorded late, and for other machines to see.
// That /proc is not a local file system is as good.
func TestLockRecordAfter(t *testing.T) {
	local := t.TempDir()
	for dir, want := range map[string]time.Duration{"/proc": recordAfter, local: 0} {
		if _, isLocal, err := fstype.Of(dir); err != nil || isLocal != (dir == local) {
			t.Logf("not tried: %s is there, and local: %v, %v", dir, isLocal, err)
			continue
		}
		o, err := (&lockFlags{}).options(newLockCmd(&app{}), lockTarget{path: filepath.Join(dir, "x")})
		if err != nil || o.RecordAfter != want {
			t.Errorf("in %s after %v, %v; want %v", dir, o.RecordAfter, err, want)
		}
	}
}
