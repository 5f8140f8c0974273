package stress

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/recordstore/recordstore/internal/stress/workers"
)

// workerEnv is the environment variable that makes a process a worker. It
// holds the job as JSON.
const workerEnv = "RECORDSTORE_STRESS_WORKER"

// A job is what the parent tells a worker. The author's Thread is 0.
type job struct {
	author
	Seed     uint64
	Machines int
	Protocol string
	Store    string
	History  string
	Network  bool
	Journal  int
	Threads  int
	Timeout  time.Duration
	// Wait is the longest random wait of the first form, and Records how often
	// it is waited there.
	Wait    time.Duration
	Records int
	// Length is the planned length of the hard form, and Began when it began
	// on the machine's monotonic clock, or 0: when the gate opens.
	Length    time.Duration
	Began     int64
	ReadPause time.Duration
	// Report asks for the counts that the progress line shows.
	Report bool
}

// MaybeWorker does a worker's job and exits, if this process was started to be
// one, and returns otherwise. Programs that call Run, and TestMain of their
// tests, call it first of all.
func MaybeWorker() { workers.Maybe(workerEnv, job.work) }

// work does the job: open, say that all is ready, wait for the gate, and go on
// until the stop, or in the first form until all operations are done.
func (j job) work(stop <-chan struct{}) error {
	p, err := j.open(stop)
	if err != nil || p == nil {
		return err
	}
	defer p.Close()
	ctx, cancel := j.context()
	fresh, err := p.Coherent(ctx)
	cancel()
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	threads := 1
	if j.Role == roleWriter && j.Form == formHard {
		threads = j.Threads
	}
	hands := make([]*hand, threads)
	for t := range hands {
		if hands[t], err = j.hand(p, t, fresh); err != nil {
			return err
		}
	}
	if err := workers.Ready(); err != nil {
		return err
	}
	if j.Began == 0 {
		j.Began = workers.Monotonic()
	}

	var counts tally
	if j.Report {
		go counts.report()
	}
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for t, h := range hands {
		h.job.Began, h.tally, h.stop = j.Began, &counts, stop
		wg.Go(func() {
			if errs[t] = h.run(); errs[t] == nil {
				errs[t] = h.history.end()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// open opens the records. A reader that comes before the first writer waits
// for him; if he is stopped before that there is nothing to do, and no error.
func (j job) open(stop <-chan struct{}) (protocol, error) {
	for {
		p, err := openProtocol(j)
		if err == nil || j.Role != roleReader || !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
		select {
		case <-stop:
			return nil, nil
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// A hand is one goroutine of a worker.
type hand struct {
	job
	p       protocol
	history *history
	rng     *rand.Rand
	name    string
	prefix  string
	tally   *tally
	stop    <-chan struct{}
}

func (j job) hand(p protocol, thread int, fresh bool) (*hand, error) {
	j.Thread = thread
	h, err := createHistory(j.History, header{
		Protocol: j.Protocol, Seed: j.Seed, Machines: j.Machines, Fresh: fresh, author: j.author,
	})
	if err != nil {
		return nil, err
	}
	return &hand{
		job: j, p: p, history: h, name: j.author.String(), prefix: runPrefix(j.Seed),
		rng: workers.Random(j.Seed, j.author.String()),
	}, nil
}

// run is the hand's part of the form.
func (h *hand) run() error {
	var step func() error
	pause := time.Duration(0)
	switch h.Role {
	case roleWriter:
		step = (&writer{hand: h}).step
	case roleReader:
		step = newReader(h).step
		pause = h.ReadPause
	default:
		return fmt.Errorf("unknown role %q", h.Role)
	}
	if h.Form == formQuestion {
		for range h.Records {
			select {
			case <-h.stop:
				return nil
			case <-time.After(h.random(h.Wait)):
			}
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		if pause > 0 {
			select {
			case <-h.stop:
				return nil
			case <-time.After(h.random(2 * pause)):
			}
		}
		select {
		case <-h.stop:
			return nil
		default:
		}
		if err := step(); err != nil {
			return err
		}
	}
}

// random returns a random time below d.
func (h *hand) random(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(h.rng.Int64N(int64(d)))
}

// tally counts for the progress line, which alone uses it: the judge has the
// histories.
type tally struct{ commits, reads atomic.Uint64 }

// report tells the parent what came since the last time. It never returns.
func (t *tally) report() {
	for range time.Tick(200 * time.Millisecond) {
		// The pipe is shared; a line this short is written whole.
		fmt.Fprintf(os.Stdout, "did %d %d\n", t.commits.Swap(0), t.reads.Swap(0))
	}
}
