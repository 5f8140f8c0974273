package stress

import (
	"bufio"
	"context"
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

// A crew is the processes of one form.
type crew struct {
	Config
	form     string
	exe      string
	rng      *rand.Rand
	progress func(Progress)

	gateR, gateW *os.File // see the worker's descriptors
	stopR, stopW *os.File
	lifeR, lifeW *os.File
	outR, outW   *os.File // what the workers say: a line a fact

	said  chan string   // lines of outR
	exits chan *process // processes that ended

	alive    map[*process]bool
	mortal   []*process // those of alive that may be killed
	kills    int
	failures []string
	began    int64 // when the gate was opened
	total    Progress
}

// A process is one worker.
type process struct {
	author
	cmd    *exec.Cmd
	stderr string // path of what it writes there
	mortal bool
	killed bool
	err    error // of its end
}

func newCrew(c Config, form, exe string, progress func(Progress)) (*crew, error) {
	cr := &crew{
		Config: c, form: form, exe: exe, progress: progress,
		rng:   random(c.Seed, fmt.Sprintf("crew of machine %d", c.Machine)),
		said:  make(chan string, 64),
		exits: make(chan *process, 64),
		alive: map[*process]bool{},
	}
	for _, p := range []struct{ r, w **os.File }{
		{&cr.gateR, &cr.gateW}, {&cr.stopR, &cr.stopW}, {&cr.lifeR, &cr.lifeW}, {&cr.outR, &cr.outW},
	} {
		var err error
		if *p.r, *p.w, err = os.Pipe(); err != nil {
			cr.closePipes()
			return nil, err
		}
	}
	return cr, nil
}

func (cr *crew) closePipes() {
	for _, f := range []*os.File{cr.gateR, cr.gateW, cr.stopR, cr.stopW, cr.lifeR, cr.lifeW, cr.outR, cr.outW} {
		if f != nil {
			_ = f.Close() // those closed before say so
		}
	}
}

// startTimeout is how long all processes may take to come up. A machine with
// a hundred processes and two processors needs a second or two.
const startTimeout = 2 * time.Minute

// work starts the processes, opens the gate when all are ready, and sees the
// form through to the end. When it returns no process is left.
func (cr *crew) work(ctx context.Context) error {
	defer func() {
		cr.closePipes()
		for range cr.said { // until its sender sees that
		}
	}()
	defer cr.killAll()
	go func() {
		lines := bufio.NewScanner(cr.outR)
		for lines.Scan() {
			cr.said <- lines.Text()
		}
		close(cr.said)
	}()
	for _, role := range []string{roleWriter, roleReader} {
		n := cr.Writers
		if role == roleReader {
			n = cr.Readers
		}
		for slot := range n {
			if err := cr.start(role, slot, 0); err != nil {
				return err
			}
		}
	}
	if !cr.assemble(ctx) {
		cr.finish()
		return nil
	}
	cr.began = monotonic()
	if err := cr.gateW.Close(); err != nil {
		return err
	}
	if cr.form == formHard {
		if err := cr.supervise(ctx); err != nil {
			return err
		}
	}
	cr.finish()
	return nil
}

// start runs one worker.
func (cr *crew) start(role string, slot, incarnation int) error {
	p := &process{author: author{
		Machine: cr.Machine, Form: cr.form, Role: role, Slot: slot, Incarnation: incarnation,
	}}
	n := cr.Writers
	if role == roleReader {
		n = cr.Readers
	}
	// The mortal are the last slots of each role, so that the groups of
	// goroutines, every tenth slot from the first, are among both kinds.
	p.mortal = cr.form == formHard && cr.KillShare > 0 && slot >= n-max(1, int(cr.KillShare*float64(n)+0.5))
	j := job{
		author: p.author, Seed: cr.Seed, Machines: cr.Machines, Protocol: cr.Protocol,
		Store: cr.Store, History: cr.History, Network: cr.Network, Journal: cr.Journal, Threads: 1, Timeout: cr.Timeout,
		Wait: cr.QuestionWait, Records: cr.Records, Length: cr.Duration, Began: cr.began, ReadPause: cr.ReadPause,
		Report: cr.progress != nil,
	}
	if slot%10 == 0 {
		j.Threads = cr.Threads
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	p.stderr = filepath.Join(cr.History, p.String()+".stderr")
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
	cr.alive[p] = true
	if p.mortal {
		cr.mortal = append(cr.mortal, p)
	}
	go func() {
		p.err = p.cmd.Wait()
		cr.exits <- p
	}()
	return nil
}

// assemble waits until all processes are ready, and reports whether they are.
func (cr *crew) assemble(ctx context.Context) bool {
	late := time.NewTimer(startTimeout)
	defer late.Stop()
	for ready := 0; ready < cr.Writers+cr.Readers; {
		select {
		case line := <-cr.said:
			if line == "ready" {
				ready++
			}
		case p := <-cr.exits:
			cr.gone(p)
			if p.err == nil {
				cr.failures = append(cr.failures, fmt.Sprintf("%s ended before it began", p))
			}
			return false
		case <-late.C:
			cr.failures = append(cr.failures, fmt.Sprintf("%d of %d processes were ready after %s", ready, cr.Writers+cr.Readers, startTimeout))
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// supervise lets the hard form run its time, and kills and replaces processes.
// It ends early if one fails.
func (cr *crew) supervise(ctx context.Context) error {
	over := time.NewTimer(cr.Duration)
	defer over.Stop()
	kill := time.NewTimer(cr.untilKill())
	defer kill.Stop()
	var tick <-chan time.Time
	if cr.progress != nil {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-over.C:
			return nil
		case p := <-cr.exits:
			cr.gone(p)
			if len(cr.failures) > 0 {
				return nil
			}
			if err := cr.start(p.Role, p.Slot, p.Incarnation+1); err != nil {
				return err
			}
		case <-kill.C:
			if len(cr.mortal) > 0 {
				cr.kill(cr.rng.IntN(len(cr.mortal)))
			}
			kill.Reset(cr.untilKill())
		case line := <-cr.said:
			var commits, reads uint64
			if n, _ := fmt.Sscanf(line, "did %d %d", &commits, &reads); n == 2 {
				cr.total.Commits += commits
				cr.total.Reads += reads
			}
		case <-tick:
			cr.total.Elapsed = time.Duration(monotonic() - cr.began)
			cr.total.Kills = cr.kills
			cr.progress(cr.total)
		}
	}
}

// untilKill is the random time to the next kill.
func (cr *crew) untilKill() time.Duration {
	return time.Duration(cr.rng.ExpFloat64() * float64(cr.KillEvery))
}

// kill ends a mortal process with SIGKILL. It is replaced when it is gone.
func (cr *crew) kill(i int) {
	p := cr.mortal[i]
	cr.mortal = slices.Delete(cr.mortal, i, i+1)
	if err := p.cmd.Process.Kill(); err == nil {
		p.killed = true
		cr.kills++
	} // otherwise it has ended, and its end is on the way
}

// gone takes note of a process's end. An end other than by kill, or an exit
// without error, is a failure of the run.
func (cr *crew) gone(p *process) {
	delete(cr.alive, p)
	cr.mortal = slices.DeleteFunc(cr.mortal, func(q *process) bool { return q == p })
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
	cr.failures = append(cr.failures, fmt.Sprintf("%s: %v: %s", p, p.err, strings.TrimSpace(string(wrote))))
}

func bySIGKILL(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	st, ok := exit.Sys().(syscall.WaitStatus)
	return ok && st.Signaled() && st.Signal() == syscall.SIGKILL
}

// finish stops the processes and waits for their ends. Who is not gone when
// his last operation must have timed out, is killed and reported.
func (cr *crew) finish() {
	_ = cr.stopW.Close()
	_ = cr.gateW.Close() // those that came too late for the gate
	late := time.NewTimer(time.Duration(cr.Records)*(cr.Timeout+cr.QuestionWait) + startTimeout)
	defer late.Stop()
	for len(cr.alive) > 0 {
		select {
		case p := <-cr.exits:
			cr.gone(p)
		case <-cr.said:
		case <-late.C:
			for p := range cr.alive {
				cr.failures = append(cr.failures, fmt.Sprintf("%s did not stop", p))
			}
			return // killAll is deferred
		}
	}
}

// killAll ends whatever is still there.
func (cr *crew) killAll() {
	for p := range cr.alive {
		_ = p.cmd.Process.Kill()
	}
	for len(cr.alive) > 0 {
		select {
		case p := <-cr.exits:
			delete(cr.alive, p)
		case <-cr.said:
		}
	}
}
