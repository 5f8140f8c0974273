package locks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/recordstore/recordstore/internal/stress/workers"
)

// Progress is what a run has done so far, for whoever shows it.
type Progress struct {
	Elapsed      time.Duration
	Acquisitions int
	Kills, Stops int
}

// Run runs the processes, waits until all are gone, and judges what they noted. When
// ctx is done it stops them before their time, and judges what there is. Progress, if
// it is not nil, is called a few times a second from Run's goroutine.
//
// Faults that the judge found, and workers that failed, are in the Result. An error
// says that there was no run, or nothing to judge by.
func Run(ctx context.Context, c Config, progress func(Progress)) (r Result, err error) {
	c, err = c.withDefaults()
	if err != nil {
		return r, err
	}
	path, work, err := c.directories()
	if err != nil {
		if work != "" {
			_ = os.RemoveAll(work) // nothing is in it
		}
		return r, err
	}
	defer func() {
		if work == "" {
			return
		}
		if c.Keep || !r.OK() || err != nil {
			r.Notes = c.Notes
			if err != nil {
				err = fmt.Errorf("%w (notes are kept in %s)", err, work)
			}
			return
		}
		r.Notes = ""
		err = os.RemoveAll(work)
	}()
	failures, err := c.drive(ctx, path, progress)
	if err != nil {
		return r, err
	}
	r, err = Judge(c.Notes)
	if errors.Is(err, ErrNothing) && (len(failures) > 0 || ctx.Err() != nil) {
		err = nil // it was over before anything was done, and the result says why
	}
	r.Failures, r.Interrupted = failures, ctx.Err() != nil
	r.Protocol, r.Seed = c.Protocol, c.Seed
	return r, err
}

// finishTimeout is how long a process may take for what is under way: to wait until
// those before it have had the lock.
const finishTimeout = 30 * time.Second

// drive is the run without the judging. When it returns no process is left.
func (c Config) drive(ctx context.Context, path string, progress func(Progress)) (failures []string, err error) {
	ev, err := createEvents(c.Notes, header{
		Protocol: c.Protocol, Seed: c.Seed, Processes: c.Processes, Threads: c.Threads, Removers: c.Removers,
		StallNS: int64(c.Stall),
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ev.close()) }()
	cr, err := newCrew(c, path, ev)
	if err != nil {
		return nil, err
	}
	defer cr.Close()
	if err := cr.startAll(); err != nil {
		return nil, err
	}
	if cr.Assemble(ctx) {
		ev.line("b %d", workers.Monotonic())
		if err := cr.Begin(); err != nil {
			return nil, err
		}
		if err := cr.supervise(ctx, progress); err != nil {
			return nil, err
		}
		ev.line("e %d", workers.Monotonic())
	}
	cr.Finish(finishTimeout)
	return cr.Failures, nil
}

// directories names those that are not named yet, and makes them. It returns the path
// of the lock file, and the temporary directory that was made, if any.
func (c *Config) directories() (path, work string, err error) {
	if c.Dir == "" || c.Notes == "" {
		if work, err = os.MkdirTemp("", "recordctl-stress-"); err != nil {
			return "", "", err
		}
	}
	if c.Dir == "" {
		c.Dir = work
	}
	if c.Notes == "" {
		c.Notes = filepath.Join(work, "notes")
	}
	for _, p := range []*string{&c.Dir, &c.Notes} {
		if *p, err = filepath.Abs(*p); err != nil {
			return "", work, err
		}
		if err := os.MkdirAll(*p, 0o777); err != nil {
			return "", work, err
		}
	}
	path = filepath.Join(c.Dir, "LOCK")
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return "", work, errors.Join(err, fmt.Errorf("%s is there already: %w", path, ErrTaken))
	}
	entries, err := os.ReadDir(c.Notes)
	if err != nil {
		return "", work, err
	}
	for _, e := range entries {
		if e.Name() == eventsName || strings.HasSuffix(e.Name(), logSuffix) {
			return "", work, fmt.Errorf("%s is of an earlier run: %w", filepath.Join(c.Notes, e.Name()), ErrTaken)
		}
	}
	return path, work, nil
}
