//go:build unix

package lockfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The processes of a [Prober]. What they say, a line each:
//
//	ready         the file is open; now it waits for a line
//	held FROM TO  it had the lock from and to then at least (role count)
//	locked TIME   it has had the lock since then at the latest (roles hold and wait)
//	done          (role count)
//	error TEXT
//
// The times are those of [monotonic]. A worker ends when its input does.
const (
	roleCount = "count" // lock and unlock, for a while
	roleHold  = "hold"  // lock
	roleWait  = "wait"  // the same, while another holds
)

// probeHold is how long a worker holds the lock.
const probeHold = 200 * time.Microsecond

// A crew is processes that use one lock.
type crew struct {
	p       *Prober
	args    []string // but for the role
	said    chan saying
	over    chan struct{} // closed when nobody listens any more
	workers []*probeWorker
}

type probeWorker struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	gone  chan struct{} // closed when the process has ended
}

// A saying is a line of a worker's, or says that he has ended.
type saying struct {
	by   *probeWorker
	word string
	rest string
	err  error // why he has ended
}

func (p *Prober) newCrew(m Mechanism, path string, port int) *crew {
	return &crew{
		p:    p,
		args: []string{m.String(), strconv.Itoa(port), p.Duration.String(), path},
		said: make(chan saying),
		over: make(chan struct{}),
	}
}

func (c *crew) start(role string) (*probeWorker, error) {
	w := &probeWorker{cmd: c.p.Worker(append([]string{role}, c.args...)...), gone: make(chan struct{})}
	var stderr bytes.Buffer
	if w.cmd.Stderr == nil {
		w.cmd.Stderr = &stderr
	}
	stdin, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStart, err)
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStart, err)
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: %w", errStart, err)
	}
	w.stdin = stdin
	c.workers = append(c.workers, w)
	go func() {
		for s := bufio.NewScanner(stdout); s.Scan(); {
			word, rest, _ := strings.Cut(s.Text(), " ")
			c.say(saying{by: w, word: word, rest: rest})
		}
		err := w.cmd.Wait()
		close(w.gone)
		if err == nil {
			err = errors.New("it ended early")
		}
		if text := strings.TrimSpace(stderr.String()); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		c.say(saying{by: w, err: err})
	}()
	return w, nil
}

func (c *crew) say(s saying) {
	select {
	case c.said <- s:
	case <-c.over:
	}
}

// hear returns the next thing that a worker says. That he has an error, or has ended,
// is an error, and if ctx ends a noAnswerError.
func (c *crew) hear(ctx context.Context) (saying, error) {
	select {
	case s := <-c.said:
		switch {
		case s.err != nil:
			return s, fmt.Errorf("a worker process: %w", s.err)
		case s.word == "error":
			return s, errors.New(s.rest)
		}
		return s, nil
	case <-ctx.Done():
		return saying{}, noAnswerError(c.p.Patience)
	}
}

// expect hears w say word.
func (c *crew) expect(ctx context.Context, w *probeWorker, word string) (saying, error) {
	s, err := c.hear(ctx)
	if err == nil && (s.by != w || s.word != word) {
		err = fmt.Errorf("a worker process said %q, not %q", s.word, word)
	}
	return s, err
}

// tell makes a worker do what it is for. If that fails, the worker has ended, which
// is heard.
func (w *probeWorker) tell() { _, _ = io.WriteString(w.stdin, "\n") }

// end ends the workers. One that does not end even if it is killed, as in a call that
// nothing interrupts, is left.
func (c *crew) end() {
	close(c.over)
	for _, w := range c.workers {
		_ = w.cmd.Process.Kill() // if it fails, the worker has ended
	}
	t := time.NewTimer(time.Second)
	defer t.Stop()
	for _, w := range c.workers {
		select {
		case <-w.gone:
		case <-t.C:
			return
		}
	}
}

// compete lets workers take and release the lock, and returns when they had it.
func (p *Prober) compete(ctx context.Context, m Mechanism, path string, port int) ([]span, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Duration+p.Patience)
	defer cancel()
	c := p.newCrew(m, path, port)
	defer c.end()
	for range p.Processes {
		if _, err := c.start(roleCount); err != nil {
			return nil, err
		}
	}
	var spans []span
	for ready, done := 0, 0; done < p.Processes; {
		s, err := c.hear(ctx)
		if err != nil {
			return spans, err
		}
		switch s.word {
		case "ready":
			if ready++; ready == p.Processes {
				for _, w := range c.workers {
					w.tell()
				}
			}
		case "held":
			var sp span
			if _, err := fmt.Sscan(s.rest, &sp.from, &sp.to); err != nil {
				return spans, fmt.Errorf("a worker process said %q: %w", s.rest, err)
			}
			spans = append(spans, sp)
		case "done":
			done++
		}
	}
	if len(spans) == 0 {
		return nil, noAnswerError(p.Duration)
	}
	return spans, nil
}

// kill kills a worker that has the lock. It reports whether, and how soon after that,
// one that was waiting had it.
func (p *Prober) kill(ctx context.Context, m Mechanism, path string, port int) (freed bool, after time.Duration, err error) {
	c := p.newCrew(m, path, port)
	defer c.end()
	setup, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	var ws [2]*probeWorker
	for i, role := range []string{roleHold, roleWait} {
		if ws[i], err = c.start(role); err == nil {
			_, err = c.expect(setup, ws[i], "ready")
		}
		if err != nil {
			return false, 0, err
		}
		if i == 0 {
			ws[i].tell()
			if _, err := c.expect(setup, ws[i], "locked"); err != nil {
				return false, 0, err
			}
		}
	}
	holder, waiter := ws[0], ws[1]
	waiter.tell()
	moment, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	switch _, err := c.hear(moment); {
	case err == nil:
		return false, 0, errEarly
	case !isNoAnswer(err):
		return false, 0, err
	}
	killed := monotonic()
	if err := holder.cmd.Process.Kill(); err != nil {
		return false, 0, err
	}
	rest, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	for {
		s, err := c.hear(rest)
		switch {
		case s.by == holder: // he has ended
		case isNoAnswer(err):
			return false, 0, nil
		case err != nil:
			return false, 0, err
		case s.word == "locked":
			at, err := strconv.ParseInt(s.rest, 10, 64)
			if err == nil && at < killed {
				err = errEarly
			}
			return err == nil, time.Duration(at - killed), err
		}
	}
}

// ProbeWorker is what the processes do that a [Prober] starts, with the arguments that
// were given to its Worker. It reads standard input, and writes to standard output;
// what goes wrong with the lock it says there, and an error is returned for what else
// does.
func ProbeWorker(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("%d arguments for a worker of a probe", len(args))
	}
	// A terminal sends these to all processes of a group. The Prober's process
	// answers them, by ending the input, or dies of them, which ends it too.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	role, path := args[0], args[4]
	m, err := ParseMechanism(args[1])
	port, err2 := strconv.Atoi(args[2])
	duration, err3 := time.ParseDuration(args[3])
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	opts := &Options{Mechanism: m}
	opts.Port = port
	if err := probeWork(role, path, opts, duration); err != nil {
		return say("error", oneLine(err))
	}
	return nil
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func say(words ...any) error {
	_, err := os.Stdout.WriteString(fmt.Sprintln(words...)) // in one write
	return err
}

func probeWork(role, path string, opts *Options, duration time.Duration) error {
	f, err := Open(path, opts)
	if err != nil {
		return err
	}
	if err := say("ready"); err != nil {
		return err
	}
	stdin := bufio.NewReader(os.Stdin)
	if _, err := stdin.ReadString('\n'); err != nil {
		return nil // the Prober has gone
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	if role == roleCount {
		err = probeCount(ctx, f, duration)
	} else {
		var l *Lock
		if l, err = f.Lock(ctx, "probe"); err == nil {
			err = say("locked", monotonic())
			defer func() { _ = l.Unlock() }() // not before the input ends
		}
	}
	if ctx.Err() == nil && err == nil {
		<-ctx.Done()
	}
	return err
}

// probeCount takes the lock again and again.
func probeCount(ctx context.Context, f *File, duration time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	for ctx.Err() == nil {
		l, err := f.Lock(ctx, "probe")
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			return err
		}
		from := monotonic()
		time.Sleep(probeHold)
		to := monotonic()
		if err := l.Unlock(); err != nil {
			return err
		}
		if err := say("held", from, to); err != nil {
			return err
		}
	}
	return say("done")
}
