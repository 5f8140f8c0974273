// Package workers runs the processes of a stress run, which are the calling executable,
// run again: it starts them, lets them all begin at once, stops them and takes note of
// how they end. What they do, whom to kill and when, and what has come of it, is the
// run's business.
package workers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Crew is processes that begin together, and those that replace them.
type Crew struct {
	Alive    []*Process    // in the order of their starts
	Exits    chan *Process // those that have ended: each is to be given to Gone
	Said     chan string   // what they print: a line a fact
	Failures []string      // ends that were not to be so

	env, dir, exe string
	gate          pipe // these three: see the worker's descriptors
	stop          pipe
	life          pipe
	out           pipe
}

type pipe struct{ r, w *os.File }

// A Process is one worker. Who starts it says the first five.
type Process struct {
	Name              string
	Role              string
	Slot, Incarnation int
	Mortal            bool // it may be killed

	Killed bool
	cmd    *exec.Cmd
	stderr string // path of what it writes there
	err    error  // of its end
}

// New makes a crew of nobody, whose workers are told their jobs in the environment
// variable env. What they write to standard error goes to files in dir; those of
// workers that wrote nothing and did not fail are removed. Close has to be called.
func New(env, dir string) (*Crew, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &Crew{Exits: make(chan *Process, 64), Said: make(chan string, 64), env: env, dir: dir, exe: exe}
	for _, p := range c.pipes() {
		if p.r, p.w, err = os.Pipe(); err != nil {
			close(c.Said)
			c.Close()
			return nil, err
		}
	}
	go func() {
		lines := bufio.NewScanner(c.out.r)
		for lines.Scan() {
			c.Said <- lines.Text()
		}
		close(c.Said)
	}()
	return c, nil
}

func (c *Crew) pipes() []*pipe { return []*pipe{&c.gate, &c.stop, &c.life, &c.out} }

// Close kills whatever is still there.
func (c *Crew) Close() {
	for _, p := range c.Alive {
		_ = p.Signal(syscall.SIGKILL) // or it has ended
	}
	for len(c.Alive) > 0 {
		select {
		case p := <-c.Exits:
			c.remove(p)
		case <-c.Said:
		}
	}
	for _, p := range c.pipes() {
		_, _ = p.r.Close(), p.w.Close() // those closed before, or never made, say so
	}
	for range c.Said { // until its sender sees that
	}
}

func (c *Crew) remove(p *Process) {
	c.Alive = slices.DeleteFunc(c.Alive, func(q *Process) bool { return q == p })
}

// Start runs one worker.
func (c *Crew) Start(p *Process, job any) error {
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	p.stderr = filepath.Join(c.dir, p.Name+".stderr")
	stderr, err := os.Create(p.stderr)
	if err != nil {
		return err
	}
	defer stderr.Close()
	p.cmd = exec.Command(c.exe)
	p.cmd.Env = append(os.Environ(), c.env+"="+string(text))
	p.cmd.Stdout, p.cmd.Stderr = c.out.w, stderr
	p.cmd.ExtraFiles = []*os.File{c.gate.r, c.stop.r, c.life.r}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	c.Alive = append(c.Alive, p)
	go func() {
		p.err = p.cmd.Wait()
		c.Exits <- p
	}()
	return nil
}

// StartTimeout is how long all processes may take to come up. A machine with a hundred
// processes and two processors needs a second or two.
const StartTimeout = 2 * time.Minute

// Assemble waits until all that were started are ready, and reports whether they are.
func (c *Crew) Assemble(ctx context.Context) bool {
	late := time.NewTimer(StartTimeout)
	defer late.Stop()
	all := len(c.Alive)
	for ready := 0; ready < all; {
		select {
		case line := <-c.Said:
			if line == readyLine {
				ready++
			}
		case p := <-c.Exits:
			if c.Gone(p); p.err == nil {
				c.failed("%s ended before it began", p.Name)
			}
			return false
		case <-late.C:
			c.failed("%d of %d processes were ready after %s", ready, all, StartTimeout)
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Begin opens the gate, for those that are ready and those that come later.
func (c *Crew) Begin() error { return c.gate.w.Close() }

// Gone takes note of a process's end. An end other than by Kill, or an exit without
// error, is a failure of the run.
func (c *Crew) Gone(p *Process) {
	c.remove(p)
	wrote, err := os.ReadFile(p.stderr)
	if err != nil {
		wrote = []byte(err.Error())
	}
	if p.err == nil || p.Killed && bySIGKILL(p.err) {
		if len(wrote) == 0 {
			_ = os.Remove(p.stderr) // an empty file too many does no harm
		}
		return
	}
	c.failed("%s: %v: %s", p.Name, p.err, strings.TrimSpace(string(wrote)))
}

func (c *Crew) failed(format string, args ...any) {
	c.Failures = append(c.Failures, fmt.Sprintf(format, args...))
}

func bySIGKILL(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	st, ok := exit.Sys().(syscall.WaitStatus)
	return ok && st.Signaled() && st.Signal() == syscall.SIGKILL
}

// Finish stops the processes and waits for their ends, so long as what is under way may
// take. Who is not gone then has failed, and is left to Close.
func (c *Crew) Finish(patience time.Duration) {
	_ = c.stop.w.Close()
	_ = c.gate.w.Close() // those that came too late for the gate
	late := time.NewTimer(patience)
	defer late.Stop()
	for len(c.Alive) > 0 {
		select {
		case p := <-c.Exits:
			c.Gone(p)
		case <-c.Said:
		case <-late.C:
			for _, p := range c.Alive {
				c.failed("%s did not stop", p.Name)
			}
			return
		}
	}
}

// Mortal reports whether the process of a slot, of n, is in the share that may be
// killed. These are the last slots, so that the groups of goroutines, every tenth slot
// from the first, are among both kinds.
func Mortal(slot, n int, share float64) bool {
	return share > 0 && slot >= n-max(1, int(share*float64(n)+0.5))
}

// Kill ends a process with SIGKILL. It reports false if the process has ended, and its
// end is on the way.
func (p *Process) Kill() bool {
	if p.Signal(syscall.SIGKILL) != nil {
		return false
	}
	p.Killed = true
	return true
}

// Signal sends a signal. An error means that the process has ended.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }
