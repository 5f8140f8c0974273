package lockfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var readOnly = Options{ReadOnly: true}

// TestReadOnly: shared locks without permission to write.
func TestReadOnly(t *testing.T) {
	for _, m := range []Mechanism{OFD, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			path := lockPath(t)
			w := openWith(t, path, Options{Mechanism: m})
			mustUnlock(t, mustLock(t, w, ""))
			f, g := openWith(t, path, readOnly), openWith(t, path, readOnly)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}

			_, lockErr := f.Lock(t.Context(), "")
			_, tryErr := f.TryLock("")
			for _, err := range []error{lockErr, tryErr} {
				if errors.Is(err, ErrLocked) || err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "ReadOnly") {
					t.Errorf("an exclusive lock: %v", err)
				}
			}

			r := mustRLock(t, f)
			r2, err := g.TryRLock("")
			if err != nil {
				t.Fatal(err)
			}
			r3, err := f.TryRLock("") // joins
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.TryLock(""); !errors.Is(err, ErrLocked) {
				t.Errorf("a writer beside readers: %v", err)
			}
			if err := r.WriteData([]byte("x")); err == nil {
				t.Error("wrote")
			}
			if err := r.Check(); err != nil {
				t.Error(err)
			}
			for _, l := range []*Lock{r, r2, r3} {
				mustUnlock(t, l)
			}

			l := mustLock(t, w, "writing")
			var held *HeldError
			if _, err := f.TryRLock(""); !errors.As(err, &held) || held.Holder.Purpose != "writing" {
				t.Errorf("a reader beside a writer: %v", err)
			}
			late, _ := lockLater(f, true)
			eventually(t, "waiting", waiting(f, 1))
			// Gives up and comes again.
			gone, cancel := lockLater(g, true)
			eventually(t, "waiting", waiting(g, 1))
			cancel()
			<-gone
			again, _ := lockLater(g, true)
			eventually(t, "waiting", waiting(g, 1))
			mustUnlock(t, l)
			mustUnlock(t, receive(t, late))
			mustUnlock(t, receive(t, again))
			after, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			after, before = after[:ticketOffset], before[:ticketOffset] // others have counted
			if !bytes.Equal(after, before) {
				t.Error("the file has changed")
			}
			mustUnlock(t, mustLock(t, w, ""))
		})
	}
}

// TestReadOnlyOrder: who cannot write waits where he came, and whoever comes later
// waits behind him, although he cannot count.
func TestReadOnlyOrder(t *testing.T) {
	path := lockPath(t)
	l := mustLock(t, mustOpen(t, path), "")
	judge := newJudge(t, path)
	type wait struct {
		shared bool
		c      <-chan *Lock
	}
	var waits []wait
	tickets := func() (n int) { // locked for reading or writing
		for b := int64(ticketStep); b < 100; b += ticketStep {
			if lk := (unix.Flock_t{Type: unix.F_WRLCK, Start: b, Len: 1}); unix.FcntlFlock(uintptr(judge.fd), unix.F_OFD_GETLK, &lk) != nil {
				t.Fatal("no F_OFD_GETLK")
			} else if lk.Type != unix.F_UNLCK {
				n++
			}
		}
		return n
	}
	want := 0
	last := rune(0)
	for _, kind := range "rrwrRwwrrwRr" { // r: read-only; R: a reader who could write; w: a writer
		opts := Options{ReadOnly: kind == 'r'}
		f := openWith(t, path, opts)
		c, _ := lockLater(f, kind != 'w')
		waits = append(waits, wait{kind != 'w', c})
		eventually(t, "waiting", waiting(f, 1))
		if kind != 'r' || last != 'r' {
			want++ // read-only neighbours share a ticket
		}
		last = kind
		eventually(t, fmt.Sprintf("%d tickets", want), func() bool { return tickets() == want })
	}
	mustUnlock(t, l)
	for len(waits) > 0 {
		// All readers up to the next writer, and nobody else.
		n := 1
		for waits[0].shared && n < len(waits) && waits[n].shared {
			n++
		}
		var held []*Lock
		for _, w := range waits[:n] {
			held = append(held, receive(t, w.c))
		}
		time.Sleep(2 * time.Millisecond)
		for i, w := range waits[n:] {
			if len(w.c) > 0 {
				t.Fatalf("the %dth after passes the queue, shared %v", i, w.shared)
			}
		}
		l, err := openWith(t, path, readOnly).TryRLock("")
		if (err != nil) != (len(waits) > n || !waits[0].shared) {
			t.Errorf("a try with %d waiting: %v", len(waits)-n, err)
		}
		if err == nil {
			held = append(held, l)
		}
		for _, l := range held {
			mustUnlock(t, l)
		}
		waits = waits[n:]
	}
	if !judge.allFree() {
		t.Error("something is still locked")
	}
}

// TestReadOnlyDoesNotStarveWriter: so many readers that there is hardly a moment
// without, and none of them can write.
func TestReadOnlyDoesNotStarveWriter(t *testing.T) {
	for _, m := range []Mechanism{OFD, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			path := lockPath(t)
			w := openWith(t, path, Options{Mechanism: m})
			mustUnlock(t, mustLock(t, w, ""))
			var readers []*File
			for range 12 {
				readers = append(readers, openWith(t, path, readOnly))
			}
			notStarved(t, w, readers)
		})
	}
}

// TestReadOnlyFile: what is not a lock file yet does not become one by being read.
func TestReadOnlyFile(t *testing.T) {
	path := lockPath(t)
	if _, err := Open(path, &readOnly); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, &readOnly); !errors.Is(err, ErrNotLockFile) || !strings.Contains(err.Error(), "no header") {
		t.Errorf("an empty file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || len(b) > 0 {
		t.Errorf("%d bytes were written, %v", len(b), err)
	}
	time.AfterFunc(20*time.Millisecond, func() { mustOpen(t, path) })
	mustUnlock(t, mustRLock(t, openWith(t, path, readOnly)))
	for _, m := range []Mechanism{POSIX, Link, Unix, TCP} {
		old := mechanisms[m]
		mechanisms[m] = mechanisms[Flock]
		err := os.WriteFile(path, encodeHeader(m), 0o666)
		if err == nil {
			_, err = Open(path, &readOnly)
		}
		if mechanisms[m] = old; old == nil {
			delete(mechanisms, m)
		}
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), m.String()) {
			t.Errorf("%v: %v", m, err)
		}
	}
}

// TestReadOnlyUser is the same with a user who really may not write.
func TestReadOnlyUser(t *testing.T) {
	dir, as := everybodysDir(t)
	path := dir + "/LOCK"
	w, r := serve(t, path, as(0)), serve(t, path, as(userA))
	w.must("open mode=644", "lock 5000")
	r.must("open readonly")
	r.busy("tryrlock")
	r.tell("rlock 10000")
	judge := newJudge(t, path)
	eventually(t, "in the queue", judge.queued)
	w.must("unlock")
	if got := r.reply(); got != "ok" {
		t.Fatal(got)
	}
	w.busy("trylock")
	w.busy("lock 20")
	r.must("unlock")
	w.must("trylock")
	if got := r.ask("lock 100"); !strings.HasPrefix(got, "error 0 ") {
		t.Errorf("an exclusive lock: %s", got)
	}
}
