package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Cmd is a command in a guest. Like exec.Cmd it is used once.
type Cmd struct {
	Argv           []string
	Env            []string // in addition to the guest's
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil: thrown away. They are written to by one goroutine
	h              *Host
}

// Command returns a command to be run in the guest.
func (h *Host) Command(argv ...string) *Cmd { return &Cmd{h: h, Argv: argv} }

// A StatusError is that of a command that ended with another status than 0.
type StatusError struct {
	Argv   []string
	Status int    // as a shell has it
	Stderr string // what it wrote there, if nobody else wanted it
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: status %d: %s", strings.Join(e.Argv, " "), e.Status, strings.TrimSpace(e.Stderr))
}

// killWait is how long a killed command may take to end. One that waits for a
// server that does not answer cannot be killed.
const killWait = 5 * time.Second

// Run runs it to its end. When ctx is done its processes get SIGKILL.
func (c *Cmd) Run(ctx context.Context) error {
	var stderr bytes.Buffer
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	r, err := c.h.begin(request{c.Argv, c.Env})
	if err != nil {
		return err
	}
	defer r.forget()
	go r.feed(c.Stdin)
	late := time.Duration(1<<63 - 1)
	var cause error
	for {
		timer := time.NewTimer(late)
		select {
		case f, ok := <-r.frames:
			timer.Stop()
			if !ok {
				return fmt.Errorf("%s: %w", c.Argv[0], c.h.gone())
			}
			if done, err := c.take(f, stderr.String); done {
				return errors.Join(cause, err)
			}
		case <-ctx.Done():
			timer.Stop()
			cause, late = fmt.Errorf("%s: %w", c.Argv[0], context.Cause(ctx)), killWait
			ctx = context.Background()
			_ = r.signal(syscall.SIGKILL) // the end of the port ends the loop
		case <-timer.C:
			return cause
		}
	}
}

// take takes in one frame, and reports whether the command has ended.
func (c *Cmd) take(f frame, stderr func() string) (bool, error) {
	w := c.Stdout
	switch f.kind {
	case kindExit:
		var e response
		if err := json.Unmarshal(f.payload, &e); err != nil {
			return true, err
		}
		if e.Status != 0 || e.Error != "" {
			return true, &StatusError{c.Argv, e.Status, e.Error + stderr()}
		}
		return true, nil
	case kindStderr:
		w = c.Stderr
	}
	if w != nil {
		if _, err := w.Write(f.payload); err != nil {
			return true, err
		}
	}
	return false, nil
}

// A Host is the connection to a guest's agent.
type Host struct {
	conn io.ReadWriteCloser
	out  *frameWriter
	up   chan struct{} // closed when the agent is there
	down chan struct{} // closed when it is no more

	mu       sync.Mutex // protects what follows
	err      error      // why it is gone
	last     uint32
	commands map[uint32]*running
}

// Connect returns the Host at this end of the port.
func Connect(conn io.ReadWriteCloser) *Host {
	h := &Host{
		conn: conn, out: &frameWriter{w: conn},
		up: make(chan struct{}), down: make(chan struct{}), commands: map[uint32]*running{},
	}
	go h.receive()
	return h
}

// receive hands each frame to the command that it belongs to.
func (h *Host) receive() {
	in := newReader(h.conn)
	up := false
	for {
		f, err := readFrame(in)
		if err == nil && f.kind == kindHello && up {
			err = errors.New("the agent has been started again") // and knows of no command
		}
		if err != nil {
			h.mu.Lock()
			h.err = err
			for _, r := range h.commands {
				close(r.frames)
			}
			h.commands = nil
			h.mu.Unlock()
			close(h.down)
			return
		}
		if f.kind == kindHello {
			up = true
			close(h.up)
			continue
		}
		h.mu.Lock()
		r := h.commands[f.command]
		h.mu.Unlock()
		if r == nil {
			continue
		}
		select {
		case r.frames <- f:
		case <-r.gone:
		}
	}
}

// gone is the error of who finds the guest gone.
func (h *Host) gone() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Errorf("the guest is gone: %w", h.err)
}

// Up is closed when the guest has said hello.
func (h *Host) Up() <-chan struct{} { return h.up }

// Down is closed when the guest is gone.
func (h *Host) Down() <-chan struct{} { return h.down }

// Close ends the connection. Commands under way end with an error, here; in the
// guest they go on.
func (h *Host) Close() error { return h.conn.Close() }

// running is a command under way.
type running struct {
	h      *Host
	number uint32
	frames chan frame    // closed when the port is down
	gone   chan struct{} // closed when nobody wants the frames any more
}

func (h *Host) begin(c request) (*running, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	r := &running{h: h, frames: make(chan frame, 16), gone: make(chan struct{})}
	h.mu.Lock()
	if h.commands == nil {
		h.mu.Unlock()
		return nil, h.gone()
	}
	h.last++
	r.number = h.last
	h.commands[r.number] = r
	h.mu.Unlock()
	if err := h.out.write(frame{kindRun, r.number, payload}); err != nil {
		r.forget()
		return nil, err
	}
	return r, nil
}

func (r *running) forget() {
	close(r.gone)
	r.h.mu.Lock()
	delete(r.h.commands, r.number)
	r.h.mu.Unlock()
}

// feed sends the command its input, and the end of it.
func (r *running) feed(in io.Reader) {
	if in != nil {
		// Who does not read to the end says so by his status.
		_, _ = io.Copy(stream{r.h.out, kindStdin, r.number}, in)
	}
	_ = r.h.out.write(frame{kindStdin, r.number, nil})
}

func (r *running) signal(s syscall.Signal) error {
	return r.h.out.write(frame{kindSignal, r.number, []byte{byte(s)}})
}

// Nobody is the connection to a guest that is not up.
var Nobody = &Host{err: errors.New("it is not running")}
