package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/lockfile"
	"github.com/recordstore/recordstore/store"
)

// recordctl runs a command line in this process.
func recordctl(args ...string) (code int, stdout, stderr string) {
	var out, msg bytes.Buffer
	code = run(args, strings.NewReader(""), &out, &msg)
	return code, out.String(), msg.String()
}

// holdLock takes the lock of a new store, and returns the store's directory.
func holdLock(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "s")
	if code, _, stderr := recordctl("--store", dir, "put", "k", "v"); code != 0 {
		t.Fatalf("put: status %d: %s", code, stderr)
	}
	f, err := lockfile.Open(filepath.Join(dir, "LOCK"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	l, err := f.TryLock("the test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Unlock() })
	return dir
}

// A verb is found by its name in the list, and without the others says the same.
func TestVerbs(t *testing.T) {
	for _, v := range verbs {
		if got := v.cmd(&app{}).Name(); got != v.name {
			t.Errorf("verb %q is listed as %q", got, v.name)
		}
		if got := verbsFor([]string{v.name}); len(got) != 1 || got[0].name != v.name {
			t.Errorf("verbs for %q: %d", v.name, len(got))
		}
		_, alone, _ := recordctl(v.name, "--help")
		_, among, _ := recordctl("help", v.name)
		if alone == "" || alone != among {
			t.Errorf("%[1]s --help and help %[1]s differ:\n%s\n%s", v.name, alone, among)
		}
	}
	for _, args := range [][]string{nil, {"--json", "get"}, {"help", "get"}, {"gat"}, {"__complete", ""}} {
		if got := verbsFor(args); len(got) != len(verbs) {
			t.Errorf("verbs for %q: %d, want all %d", args, len(got), len(verbs))
		}
	}
}

// A signal ends the waiting for the lock, and the message says what became of
// the change.
func TestSignalEndsWaiting(t *testing.T) {
	dir := holdLock(t)
	// Signals before and after the time in which the command catches them
	// end up here.
	ours := make(chan os.Signal, 1)
	signal.Notify(ours, syscall.SIGTERM)
	defer signal.Stop(ours)

	type result struct {
		code   int
		stderr string
	}
	done := make(chan result)
	go func() {
		code, _, stderr := recordctl("--store", dir, "put", "k", "w")
		done <- result{code, stderr}
	}()
	for {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-done:
			if want := exitSignal + int(syscall.SIGTERM); r.code != want {
				t.Errorf("status: got %d, want %d", r.code, want)
			}
			if want := "recordctl: interrupted: terminated; nothing was changed\n"; r.stderr != want {
				t.Errorf("message: got %q, want %q", r.stderr, want)
			}
			if _, got, _ := recordctl("--store", dir, "get", "k"); got != "v" {
				t.Errorf("value: got %q, want %q", got, "v")
			}
			return
		case <-time.After(time.Millisecond): // and once more
		}
	}
}

// A signal that comes when the update function runs, or later, does not end the
// update: what became of the change would not be known.
func TestSignalDuringUpdate(t *testing.T) {
	ours := make(chan os.Signal, 1)
	signal.Notify(ours, syscall.SIGTERM)
	defer signal.Stop(ours)
	s, err := store.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := newApp(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})
	a.timeout = time.Minute
	rev, err := a.update(s, func(tx *store.Tx) error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-a.kept.ended // the signal has done what it does
		return tx.Put("k", "v")
	})
	if err != nil || rev == 0 {
		t.Errorf("update: got revision %v, error %v", rev, err)
	}
	a.kept.stop()
}

// One that comes just before the command of update does, which would not know of
// it, keeps it from being run.
func TestSignalBeforeCommand(t *testing.T) {
	ours := make(chan os.Signal, 1)
	signal.Notify(ours, syscall.SIGTERM)
	defer signal.Stop(ours)
	dir := t.TempDir()
	a := newApp(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})
	a.kept = catchSignals(func(signalError) {})
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-a.kept.ended
	ran := filepath.Join(dir, "ran")
	_, err := a.filter(dir, store.Record{Key: "k"}, nil, []string{"touch", ran})
	if code := describe(err).code; code != exitSignal+int(syscall.SIGTERM) {
		t.Errorf("got error %v, status %d", err, code)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the command was run")
	}
}

// Who waits and is told to end just when he gets the lock either ends or has it.
func TestWaitEndsOrHas(t *testing.T) {
	for range 1000 {
		w := newApp(nil, &bytes.Buffer{}, nil).newWait("LOCK")
		go w.end(signalError{syscall.SIGTERM})
		had := w.had()
		w.end(context.DeadlineExceeded)
		if got := context.Cause(w); got != had {
			t.Fatalf("it had the lock with %v, and ended with %v", had, got)
		}
		w.stop()
	}
}

// Even a time that has passed before the lock is tried gives an answer that
// names the holder.
func TestTimeoutAtOnce(t *testing.T) {
	dir := holdLock(t)
	code, _, stderr := recordctl("--store", dir, "put", "k", "w", "--timeout", "1ns")
	if code != exitLocked || !strings.Contains(stderr, "for the test; gave up after 1ns") {
		t.Errorf("got status %d, %q; want %d and the holder", code, stderr, exitLocked)
	}
}

// A panic is an internal error, not a wrong command line.
func TestPanicIsInternalError(t *testing.T) {
	var stderr bytes.Buffer
	code := run([]string{"put", "k", "-", "--store", filepath.Join(t.TempDir(), "s")}, panicReader{}, &bytes.Buffer{}, &stderr)
	if code != exitSoftware || !strings.HasPrefix(stderr.String(), "recordctl: internal error: boom\n") {
		t.Errorf("got status %d, %q; want %d", code, stderr.String(), exitSoftware)
	}
}

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("boom") }

// A process that a command leaves behind, with its output open, holds nobody
// up for longer than the grace.
func TestOutputLeftOpen(t *testing.T) {
	defer func(d time.Duration) { outputGrace = d }(outputGrace)
	outputGrace = 10 * time.Millisecond
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FIFO", fifo)
	s := filepath.Join(dir, "s")
	code, _, stderr := recordctl("--store", s, "update", "k", "--", "sh", "-c", `echo value; (read x < "$FIFO") & exit 0`)
	if code != exitIO || !strings.Contains(stderr, "nothing was written") {
		t.Errorf("got status %d, %q; want %d", code, stderr, exitIO)
	}
	if err := os.WriteFile(fifo, []byte("end\n"), 0); err != nil { // lets the process end
		t.Fatal(err)
	}
	if code, _, _ := recordctl("--store", s, "get", "k"); code != exitNo {
		t.Errorf("get: got status %d, want %d", code, exitNo)
	}
}

func TestEncode(t *testing.T) {
	tests := []struct {
		codec, text string
		want        string // as ToJSON shows it
		err         string
	}{
		{"json", ` {"b":1, "a":[1.50]} `, `{"a":[1.50],"b":1}`, ""},
		{"json", "", "", "is empty"},
		{"json", `{"a":1,"a":2}`, "", "is not JSON"},
		{"json", "1 2", "", "is not JSON"},
		{"msgpack", `[1, -1, 1.5, 9223372036854775808, "x", null]`, `[1,-1,1.5,9223372036854775808,"x",null]`, ""},
		{"msgpack", `{"deep":[{"n":18446744073709551616}]}`, "", "more than 64 bits"},
		{"msgpack", `-9223372036854775809`, "", "more than 64 bits"},
		{"msgpack", `1e400`, "", "out of range"},
		{"raw", " as it is\n", `" as it is\n"`, ""},
	}
	for _, tt := range tests {
		data, err := encode(tt.codec, []byte(tt.text))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("encode(%s, %q): got error %v, want %q", tt.codec, tt.text, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("encode(%s, %q): %v", tt.codec, tt.text, err)
			continue
		}
		if got, err := codec.ToJSON(tt.codec, data); err != nil || string(got) != tt.want {
			t.Errorf("encode(%s, %q): got %s, %v, want %s", tt.codec, tt.text, got, err, tt.want)
		}
	}
}

// A raw value is shown in pieces, which do not show; and a large one takes no more
// than a small multiple of its size.
func TestLargeValueAsJSON(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	s, err := store.Open(dir, &store.Options{Codec: codec.Raw})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	zeros := bytes.Repeat([]byte{0}, 4<<20)
	for key, value := range map[string][]byte{
		"empty":  {},
		"piece":  bytes.Repeat([]byte("a"), rawPiece),
		"runes":  []byte("a" + strings.Repeat("😀é", rawPiece)),
		"binary": append(bytes.Repeat([]byte("a"), rawPiece), 0xff),
		"zeros":  zeros,
	} {
		if _, err := s.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
		_, out, stderr := recordctl("--store", dir, "get", "--json", key)
		_, listed, _ := recordctl("--store", dir, "list", "--json", key)
		var got struct{ Value json.RawMessage }
		want, err := codec.ToJSON("raw", value)
		if err := errors.Join(err, json.Unmarshal([]byte(out), &got)); err != nil || !bytes.Equal(got.Value, want) || listed != out {
			t.Errorf("%s: got %.100q, %v, %s; want the value %.100q", key, out, err, stderr, want)
		}
	}
	var before, after runtime.MemStats
	runtime.GC() // twice, for what encoding/json has put by to use again
	runtime.GC()
	runtime.ReadMemStats(&before)
	code := run([]string{"--store", dir, "get", "--json", "zeros"}, strings.NewReader(""), io.Discard, io.Discard)
	runtime.ReadMemStats(&after)
	if got, bound := after.TotalAlloc-before.TotalAlloc, uint64(11*len(zeros)); code != 0 || got > bound {
		t.Errorf("status %d; %d bytes allocated for %d, want at most %d", code, got, len(zeros), bound)
	} else {
		t.Logf("%.1f bytes allocated a byte", float64(got)/float64(len(zeros)))
	}
}

// A MessagePack value that JSON cannot carry is not put through a command.
func TestUpdateKeepsWhatJSONCannot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	s, err := store.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, value := range map[string]any{
		"bytes": []byte{1, 2, 3},
		"time":  map[string]any{"at": time.Unix(1, 0)},
		"keys":  map[int]string{1: "one"},
		"NaN":   []any{math.NaN()},
	} {
		if _, err := s.Put(t.Context(), name, value); err != nil {
			t.Fatal(err)
		}
		before, err := s.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		code, _, stderr := recordctl("--store", dir, "update", name, "--", "cat")
		after, err := s.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case code == 0 && !bytes.Equal(before.Value, after.Value):
			t.Errorf("%s: update with cat changed %x to %x", name, before.Value, after.Value)
		case code != 0 && (code != exitData || after.Revision != before.Revision || !strings.Contains(stderr, "JSON cannot express")):
			t.Errorf("%s: got status %d, %q, revision %v; want %d and revision %v", name, code, stderr, after.Revision, exitData, before.Revision)
		}
		if code, _, stderr := recordctl("--store", dir, "update", name, "--codec", "raw", "--", "cat"); code != 0 {
			t.Errorf("%s: update --codec raw: status %d: %s", name, code, stderr)
		}
	}
}

func TestDisplayKey(t *testing.T) {
	for key, want := range map[string]string{
		"plain":      "plain",
		"a b\\c":     "a b\\c",
		"é":          "é",
		`say "x"`:    `say "x"`,
		`"x"`:        `"\"x\""`,
		"a\nb":       `"a\nb"`,
		"\x1b[31m":   `"\x1b[31m"`,
		"\xff":       `"\xff"`,
		"\u202eabc":  `"\u202eabc"`,
		"a\u00a0b":   `"a\u00a0b"`,
		"tab\there":  `"tab\there"`,
		"del\x7fete": `"del\x7fete"`,
	} {
		if got := displayKey(key); got != want {
			t.Errorf("displayKey(%q): got %s, want %s", key, got, want)
		}
	}
}

// A mark counts while the process that made it lives, and for its lock only.
func TestHeldByAncestor(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	t.Setenv(lockedEnv, "")
	setting, err := addMark(lockedEnv, dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	_, value, _ := strings.Cut(setting, "=")
	t.Setenv(lockedEnv, "garbage 1:2 1:2:x "+value)
	for _, tt := range []struct {
		dir, name string
		want      bool
	}{
		{dir, "a", true},
		{dir, "b", false},
		{dir, "", false},
		{other, "a", false},
		{filepath.Join(dir, "none"), "a", false},
	} {
		if got := heldByAncestor(lockedEnv, tt.dir, tt.name); got != tt.want {
			t.Errorf("heldByAncestor(%s, %q): got %v, want %v", tt.dir, tt.name, got, tt.want)
		}
	}

	// The same mark, of a process that has ended.
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	ours, theirs := strconv.Itoa(os.Getpid())+".", strconv.Itoa(dead.Process.Pid)+"."
	t.Setenv(lockedEnv, strings.Replace(value, ours, theirs, 1))
	if heldByAncestor(lockedEnv, dir, "a") {
		t.Error("the mark of a process that has ended counts")
	}

	// Its number is that of another process by now, which started at another time.
	theirs = strconv.Itoa(os.Getppid()) + "."
	t.Setenv(lockedEnv, strings.Replace(value, ours, theirs, 1))
	switch {
	case processStart(os.Getpid()) == 0:
		t.Log("not tried: it cannot be told here when a process started")
	case heldByAncestor(lockedEnv, dir, "a"):
		t.Error("the mark of a process whose number is another's by now counts")
	}
	// Where that is not known it may be the same.
	t.Setenv(lockedEnv, strings.Replace(value, ours+strconv.FormatUint(processStart(os.Getpid()), 10), theirs+unknownStart, 1))
	if !heldByAncestor(lockedEnv, dir, "a") {
		t.Error("the mark of a process that started at an unknown time does not count")
	}
}

// A value is bounded while it is read, not afterwards.
func TestReadAllIsBounded(t *testing.T) {
	r := &endless{}
	_, err := readAll("it", r)
	if f := (*failure)(nil); !errors.As(err, &f) || f.code != exitData {
		t.Errorf("got error %v, want status %d", err, exitData)
	}
	if most := store.MaxValueSize + 1; r.n > most {
		t.Errorf("read %d bytes, want at most %d", r.n, most)
	}
}

type endless struct{ n int }

func (r *endless) Read(p []byte) (int, error) {
	r.n += len(p)
	return len(p), nil
}
