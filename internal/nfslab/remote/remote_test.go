package remote

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// ends returns a host whose agent is this process.
func ends(t *testing.T) *Host {
	t.Helper()
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(far) }()
	h := Connect(near)
	t.Cleanup(func() {
		h.Close()
		if err := <-served; err == nil {
			t.Error("Serve ended without an error")
		}
	})
	select {
	case <-h.Up():
	case <-time.After(10 * time.Second):
		t.Fatal("no hello")
	}
	return h
}

func TestCommand(t *testing.T) {
	h := ends(t)
	long := strings.Repeat("0123456789", 20_000) // several frames
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var out, stderr bytes.Buffer
			c := h.Command("sh", "-c", `cat; echo "$V" >&2; exit 3`)
			c.Env, c.Stdin, c.Stdout, c.Stderr = []string{"V=v"}, strings.NewReader(long), &out, &stderr
			err := c.Run(t.Context())
			var status *StatusError
			if !errors.As(err, &status) || status.Status != 3 {
				t.Errorf("got error %v, want status 3", err)
			}
			if out.String() != long || stderr.String() != "v\n" {
				t.Errorf("got %d bytes and %q, want %d and v", out.Len(), stderr.String(), len(long))
			}
		})
	}
	wg.Wait()
}

func TestStatus(t *testing.T) {
	h := ends(t)
	for _, tt := range []struct {
		script string
		status int
	}{
		{"exit 0", 0},
		{"exit 7", 7},
		{"kill -9 $$", 137},
		{"sleep 60 & exit 5", 5}, // what it leaves behind has its output
	} {
		c := h.Command("sh", "-c", tt.script)
		err := c.Run(t.Context())
		got := 0
		if status := (*StatusError)(nil); errors.As(err, &status) {
			got = status.Status
		} else if err != nil {
			t.Errorf("%s: %v", tt.script, err)
		}
		if got != tt.status {
			t.Errorf("%s: got status %d, want %d", tt.script, got, tt.status)
		}
	}
	err := h.Command("/does/not/exist").Run(t.Context())
	if status := (*StatusError)(nil); !errors.As(err, &status) || status.Status != 127 || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestCancel(t *testing.T) {
	h := ends(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	err := h.Command("sh", "-c", "sleep 60; echo late").Run(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 20*time.Second {
		t.Errorf("got %v after %s", err, time.Since(began))
	}
	if err := h.Command("true").Run(t.Context()); err != nil {
		t.Errorf("the next command: %v", err)
	}
}

// A guest that dies ends what is under way in it.
func TestGuestDies(t *testing.T) {
	near, far := net.Pipe()
	go Serve(far)
	h := Connect(near)
	<-h.Up()
	c := h.Command("sh", "-c", "echo under way; sleep 5")
	out, stdout := io.Pipe()
	c.Stdout = stdout
	ended := make(chan error, 1)
	go func() {
		err := c.Run(t.Context())
		stdout.CloseWithError(err)
		ended <- err
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "under way\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	far.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("the command under way: %v", err)
	}
	<-h.Down()
	if err := h.Command("true").Run(t.Context()); err == nil {
		t.Error("a command in a dead guest ran")
	}
	if err := Nobody.Command("true").Run(t.Context()); err == nil {
		t.Error("a command in no guest ran")
	}
}

// An agent that was started anew knows of no command of the one before.
func TestSecondHello(t *testing.T) {
	near, far := net.Pipe()
	h := Connect(near)
	w := frameWriter{w: far}
	go io.Copy(io.Discard, far)
	if err := w.write(frame{kind: kindHello}); err != nil {
		t.Fatal(err)
	}
	<-h.Up()
	if err := w.write(frame{kind: kindHello}); err != nil {
		t.Fatal(err)
	}
	<-h.Down()
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	w := frameWriter{w: &b}
	for _, f := range []frame{{kindRun, 1, []byte("x")}, {kindStdin, 1 << 30, nil}} {
		if err := w.write(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.write(frame{payload: make([]byte, maxPayload+1)}); err == nil {
		t.Error("a frame that is too long was written")
	}
	text := b.Bytes()
	r := newReader(bytes.NewReader(text))
	if f, err := readFrame(r); err != nil || f.kind != kindRun || f.command != 1 || string(f.payload) != "x" {
		t.Errorf("got %+v, %v", f, err)
	}
	if f, err := readFrame(r); err != nil || f.kind != kindStdin || f.command != 1<<30 || len(f.payload) != 0 {
		t.Errorf("got %+v, %v", f, err)
	}
	if _, err := readFrame(r); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if _, err := readFrame(newReader(bytes.NewReader(text[:9]))); err != io.ErrUnexpectedEOF {
		t.Errorf("cut short: %v", err)
	}
	if _, err := readFrame(newReader(strings.NewReader("O\x01\x00\x00\x00\xff\xff\xff\xff"))); err == nil || err == io.EOF {
		t.Errorf("a frame that is too long was read: %v", err)
	}
}
