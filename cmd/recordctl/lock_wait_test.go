package main

import (
	"bytes"
	"testing"

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
