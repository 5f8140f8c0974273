package stress

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Progress is what a run has done so far, for whoever shows it.
type Progress struct {
	Elapsed time.Duration // of the hard form
	Commits uint64
	Reads   uint64
	Kills   int
}

// Run runs the processes, waits until all are gone, and judges what they did.
// When ctx is done it stops them before their time, and judges what there is.
// Progress, if it is not nil, is called from Run's goroutine: when the first form
// begins, and a few times a second in the hard form.
//
// Faults that the judge found, and workers that failed, are in the Result. An
// error says that there was no run, or nothing to judge by.
func Run(ctx context.Context, c Config, progress func(Progress)) (r Result, err error) {
	c, err = c.withDefaults()
	if err != nil {
		return r, err
	}
	work, err := c.directories()
	began := false
	defer func() {
		switch {
		case work == "":
			return
		case !began:
			_ = os.RemoveAll(work) // nothing is in it
			return
		}
		if c.Keep || !r.OK() || err != nil {
			r.Store, r.History = c.Store, c.History
			if err != nil {
				err = fmt.Errorf("%w (records and histories are kept in %s)", err, work)
			}
			return
		}
		err = os.RemoveAll(work)
	}()
	if err != nil {
		return r, err
	}
	if err := claim(ctx, c); err != nil {
		return r, err
	}

	began = true
	var failures []string
	var first Result // of the first form alone, when the hard form has not yet begun
	kills, interrupted := 0, false
	for _, form := range []string{formQuestion, formHard} {
		if form == formQuestion && c.QuestionWait == 0 || form == formHard && c.Duration == 0 {
			continue
		}
		cr, err := newCrew(c, form, progress)
		if err != nil {
			return r, err
		}
		err = cr.work(ctx)
		failures, kills = append(failures, cr.Failures...), kills+cr.kills
		if err != nil {
			return r, err
		}
		if interrupted = ctx.Err() != nil; interrupted || len(failures) > 0 {
			break
		}
		if form == formQuestion && c.Machines == 1 {
			if first, err = Judge(context.WithoutCancel(ctx), c.History, c.Store); err != nil {
				return r, err
			}
		}
	}
	ctx = context.WithoutCancel(ctx)
	if c.Machines > 1 {
		r, err = summarize(c.History)
	} else {
		r, err = Judge(ctx, c.History, c.Store)
	}
	switch {
	case errors.Is(err, ErrNoHistory) && (len(failures) > 0 || interrupted):
		err = nil // it was over before anything was done, and the result says why
	case err != nil && len(failures) > 0:
		failures = append(failures, fmt.Sprintf("the judge: %v", err)) // perhaps for the same reason
		err = nil
	}
	if len(failures) == 0 && r.Kills > kills {
		failures = append(failures, fmt.Sprintf("the histories of %d processes break off, and %d were killed", r.Kills, kills))
	}
	r.Kills, r.Failures, r.Interrupted = kills, failures, interrupted
	if first.Judged {
		r.Found = first.Found // the hard form of a bad protocol destroys more
	}
	r.Seed, r.Protocol = c.Seed, c.Protocol
	r.Store, r.History = c.Store, c.History
	if work != "" && r.OK() && !c.Keep {
		r.Store, r.History = "", "" // they will be gone
	}
	return r, err
}

// directories names those that are not named yet, and makes that of the
// histories. It returns the temporary directory that they are in, if any.
func (c *Config) directories() (work string, err error) {
	if c.Store == "" || c.History == "" {
		if work, err = os.MkdirTemp("", "recordctl-stress-"); err != nil {
			return "", err
		}
	}
	if c.Store == "" {
		c.Store = filepath.Join(work, "store")
	}
	if c.History == "" {
		c.History = filepath.Join(work, "history")
	}
	// Workers inherit the working directory, but messages and later judges do
	// not.
	for _, p := range []*string{&c.Store, &c.History} {
		if *p, err = filepath.Abs(*p); err != nil {
			return work, err
		}
	}
	if err := os.MkdirAll(c.History, 0o777); err != nil {
		return work, err
	}
	return work, c.refuseOldHistories()
}

// refuseOldHistories reports an error if the histories' directory holds one of
// this machine: the judge would take it for a part of this run.
func (c *Config) refuseOldHistories() error {
	return filepath.WalkDir(c.History, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, historySuffix) {
			return err
		}
		var m int
		if _, err := fmt.Sscanf(d.Name()[1:], "%d-", &m); err == nil && c.Machines > 1 && m != c.Machine {
			return nil
		}
		return fmt.Errorf("%s is the history of an earlier run: %w", path, ErrTaken)
	})
}
