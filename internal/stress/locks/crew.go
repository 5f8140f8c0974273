package locks

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A crew is the processes of a run.
type crew struct {
	Config
	path   string // of the lock file
	exe    string
	rng    *rand.Rand
	events *events

	gateR, gateW *os.File // see the worker's descriptors
	stopR, stopW *os.File
	lifeR, lifeW *os.File
	outR, outW   *os.File // what the workers say: a line a fact

	said  chan string   // lines of outR
	exits chan *process // processes that ended

	alive    []*process
	failures []string
	progress Progress
}

// A process is one worker.
type process struct {
	author
	cmd     *exec.Cmd
	stderr  string // path of what it writes there
	mortal  bool
	killed  bool
	stopped int64 // until when it is suspended; 0: it is not
	err     error // of its end
}

// name is what the events call it.
func (p *process) name() string { return strings.TrimSuffix(p.String(), "-0") }

func newCrew(c Config, path, exe string, ev *events) (*crew, error) {
	cr := &crew{
		Config: c, path: path, exe: exe, events: ev,
		rng:   random(c.Seed, "crew"),
		said:  make(chan string, 64),
		exits: make(chan *process, 64),
	}
	for _, p := range []struct{ r, w **os.File }{
		{&cr.gateR, &cr.gateW}, {&cr.stopR, &cr.stopW}, {&cr.lifeR, &cr.lifeW}, {&cr.outR, &cr.outW},
	} {
		var err error
		if *p.r, *p.w, err = os.Pipe(); err != nil {
			close(cr.said)
			cr.close()
			return nil, err
		}
	}
	go func() {
		lines := bufio.NewScanner(cr.outR)
		for lines.Scan() {
			cr.said <- lines.Text()
		}
		close(cr.said)
	}()
	return cr, nil
}

// close ends whatever is still there.
func (cr *crew) close() {
	for _, p := range cr.alive {
		_ = p.cmd.Process.Kill() // or it has ended
	}
	for len(cr.alive) > 0 {
		select {
		case p := <-cr.exits:
			cr.alive = slices.DeleteFunc(cr.alive, func(q *process) bool { return q == p })
		case <-cr.said:
		}
	}
	for _, f := range []*os.File{cr.gateR, cr.gateW, cr.stopR, cr.stopW, cr.lifeR, cr.lifeW, cr.outR, cr.outW} {
		if f != nil {
			_ = f.Close() // those closed before say so
		}
	}
	for range cr.said { // until its sender sees that
	}
}

// start runs one worker.
func (cr *crew) start(role string, slot, incarnation int) error {
	p := &process{author: author{Role: role, Slot: slot, Incarnation: incarnation}}
	j := job{author: p.author, Seed: cr.Seed, Protocol: cr.Protocol, Path: cr.path, Notes: cr.Notes, Threads: 1, Processes: cr.Processes}
	switch {
	case role == roleRemover:
		p.mortal = cr.KillShare > 0
	case cr.KillShare > 0:
		// The last slots, so that the groups of goroutines, every tenth slot
		// from the first, are among the mortal and the others.
		p.mortal = slot >= cr.Processes-max(1, int(cr.KillShare*float64(cr.Processes)+0.5))
	}
	if role == roleUser && slot%10 == 0 {
		j.Threads = cr.Threads
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	p.stderr = filepath.Join(cr.Notes, p.name()+".stderr")
	stderr, err := os.Create(p.stderr)
	if err != nil {
		return err
	}
	defer stderr.Close()
	p.cmd = exec.Command(cr.exe)
	p.cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	p.cmd.Stdout, p.cmd.Stderr = cr.outW, stderr
	p.cmd.ExtraFiles = []*os.File{cr.gateR, cr.stopR, cr.lifeR}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	cr.alive = append(cr.alive, p)
	go func() {
		p.err = p.cmd.Wait()
		cr.exits <- p
	}()
	return nil
}

// startTimeout is how long all processes may take to come up.
const startTimeout = 2 * time.Minute

// assemble starts all processes, waits until they are ready, and reports whether they
// are.
func (cr *crew) assemble(done <-chan struct{}) (bool, error) {
	for _, role := range []string{roleUser, roleRemover} {
		n := cr.Processes
		if role == roleRemover {
			n = cr.Removers
		}
		for slot := range n {
			if err := cr.start(role, slot, 0); err != nil {
				return false, err
			}
		}
	}
	late := time.NewTimer(startTimeout)
	defer late.Stop()
	for ready := 0; ready < cr.Processes+cr.Removers; {
		select {
		case line := <-cr.said:
			if line == "ready" {
				ready++
			}
		case p := <-cr.exits:
			if cr.gone(p); p.err == nil {
				cr.failures = append(cr.failures, fmt.Sprintf("%s ended before it began", p.name()))
			}
			return false, nil
		case <-late.C:
			cr.failures = append(cr.failures, fmt.Sprintf("%d of %d processes were ready after %s", ready, cr.Processes+cr.Removers, startTimeout))
			return false, nil
		case <-done:
			return false, nil
		}
	}
	return true, nil
}

// gone takes note of a process's end. An end other than by kill, or an exit without
// error, is a failure of the run.
func (cr *crew) gone(p *process) {
	cr.alive = slices.DeleteFunc(cr.alive, func(q *process) bool { return q == p })
	wrote, err := os.ReadFile(p.stderr)
	if err != nil {
		wrote = []byte(err.Error())
	}
	if p.err == nil || p.killed && bySIGKILL(p.err) {
		if len(wrote) == 0 {
			_ = os.Remove(p.stderr) // an empty file too many does no harm
		}
		return
	}
	cr.failures = append(cr.failures, fmt.Sprintf("%s: %v: %s", p.name(), p.err, strings.TrimSpace(string(wrote))))
}

func bySIGKILL(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	st, ok := exit.Sys().(syscall.WaitStatus)
	return ok && st.Signaled() && st.Signal() == syscall.SIGKILL
}

// finishTimeout is how long a process may take for what is under way: to wait until
// those before it have had the lock.
const finishTimeout = 30 * time.Second

// finish stops the processes and waits for their ends.
func (cr *crew) finish() {
	_ = cr.stopW.Close()
	_ = cr.gateW.Close() // those that came too late for the gate
	late := time.NewTimer(finishTimeout)
	defer late.Stop()
	for len(cr.alive) > 0 {
		select {
		case p := <-cr.exits:
			cr.gone(p)
		case <-cr.said:
		case <-late.C:
			for _, p := range cr.alive {
				cr.failures = append(cr.failures, fmt.Sprintf("%s did not stop", p.name()))
			}
			return // close is deferred
		}
	}
}
