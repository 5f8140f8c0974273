package locks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/recordstore/recordstore/internal/stress/workers"
	"github.com/recordstore/recordstore/lockfile"
)

// workerEnv is the environment variable that makes a process a worker. It holds the
// job as JSON.
const workerEnv = "RECORDSTORE_STRESS_LOCKS_WORKER"

// A job is what the parent tells a worker. The author's Thread is 0.
type job struct {
	author
	Seed      uint64
	Protocol  string
	Path      string // of the lock file
	Notes     string
	Threads   int
	Processes int
}

// MaybeWorker does a worker's job and exits, if this process was started to be one,
// and returns otherwise. Programs that call Run, and TestMain of their tests, call it
// first of all.
func MaybeWorker() { workers.Maybe(workerEnv, job.work) }

// work does the job: open, say that all is ready, wait for the gate, and go on until
// the stop.
func (j job) work(stopped <-chan struct{}) error {
	// Dozens of processes on a few processors: with more threads each they would
	// mostly look for work among themselves.
	runtime.GOMAXPROCS(1)
	var stop atomic.Bool
	go func() {
		<-stopped
		stop.Store(true)
	}()

	hands := make([]*hand, j.Threads)
	var p protocol
	var err error
	if j.Role == roleUser {
		if p, err = openProtocol(j.Protocol, j.Path); err != nil {
			return err
		}
	}
	var done atomic.Int64
	for t := range hands {
		a := j.author
		a.Thread = t
		l, err := createLog(j.Notes, a)
		if err != nil {
			return err
		}
		hands[t] = &hand{job: j, p: p, log: l, rng: workers.Random(j.Seed, a.String()), stop: &stop, done: &done}
	}
	if err := workers.Ready(); err != nil {
		return err
	}
	go report(&done)
	errs := make([]error, j.Threads)
	var wg sync.WaitGroup
	for t, h := range hands {
		wg.Go(func() {
			if errs[t] = h.run(); errs[t] == nil {
				h.log.add(countEnded)
			}
			stop.Store(true) // after a failure the others are to end too
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// report tells the parent what came since the last time. It never returns. Only the
// parent uses this, to know when there is enough: the judge has the logs.
func report(done *atomic.Int64) {
	for range time.Tick(200 * time.Millisecond) {
		// The pipe is shared; a line this short is written whole.
		fmt.Fprintf(os.Stdout, "did %d\n", done.Swap(0))
	}
}

// A hand is one goroutine of a worker.
type hand struct {
	job
	p    protocol
	log  *log
	rng  *rand.Rand
	stop *atomic.Bool
	done *atomic.Int64
}

func (h *hand) run() error {
	for !h.stop.Load() {
		step := h.use
		if h.Role == roleRemover {
			step = h.remove
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// The workload has a rhythm, which is that of the machine's clock, so that all keep it.
// A beat begins with a lull, in which all pause: what was queued is served, the lock is
// free, the file is removed, a few times perhaps; then all come at once and find it gone.
// Where dozens want a lock all the time it is never free otherwise, and a file that is
// in use is not removed.
//
// Then there is a crowd: everybody takes the lock as often as he can, and so everybody
// queues. In the second half a single process does so, each beat another one, and the
// others come now and then: the lock is mostly taken at once, and the queue comes and
// goes.
const (
	beat     = int64(50 * time.Millisecond)
	lull     = int64(3 * time.Millisecond)
	halfTime = int64(20 * time.Millisecond)
	rest     = int64(40 * time.Millisecond) // longest pause of the others
)

// pause keeps the rhythm, and returns the time when it is over.
func (h *hand) pause() int64 {
	now := workers.Monotonic()
	into := now % beat
	var wait int64
	switch {
	case into < lull:
		wait = lull - into
	case into > halfTime && now/beat%int64(h.Processes) != int64(h.Slot):
		wait = min(h.rng.Int64N(rest), beat-into)
	default:
		return now
	}
	time.Sleep(time.Duration(wait))
	return workers.Monotonic()
}

// maxHold is the longest time for which the lock is held. It is spent at work, since
// no sleep is that short.
const maxHold = 50 * time.Microsecond

// use takes the lock once, in one of the ways there are, and gives it back.
func (h *hand) use() error {
	now := h.pause()
	var kind int64
	if h.rng.IntN(10) == 0 {
		kind |= kindShared
	}
	switch h.rng.IntN(20) {
	case 0:
		kind |= kindTry
	case 1:
		kind |= kindLimited
	}
	if err := h.log.attempt(kind, now); err != nil {
		return err
	}
	l, err := h.take(kind)
	if err != nil {
		if kind&(kindTry|kindLimited) == 0 || !refusal(err) {
			return err
		}
		if kind&kindTry != 0 {
			h.log.refused(countTaken)
		} else {
			h.log.refused(countLate)
		}
		return nil
	}
	h.log.had(workers.Monotonic())
	if h.rng.IntN(16) == 0 {
		if err := l.Check(); err != nil {
			_ = l.Unlock() // or the others would wait for this one for ever
			return fmt.Errorf("while the lock was held: %w", err)
		}
	}
	hold := time.Duration(h.rng.Int64N(int64(maxHold)))
	for began := time.Now(); time.Since(began) < hold; {
	}
	h.log.released(workers.Monotonic())
	if err := l.Unlock(); err != nil {
		return err
	}
	h.done.Add(1)
	return h.reopen()
}

func (h *hand) take(kind int64) (held, error) {
	shared := kind&kindShared != 0
	if kind&kindTry != 0 {
		return h.p.try(shared)
	}
	ctx := context.Background()
	if kind&kindLimited != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(h.rng.Int64N(int64(3*time.Millisecond))))
		defer cancel()
	}
	return h.p.lock(ctx, shared)
}

// reopen closes the file at times, and opens it again.
func (h *hand) reopen() (err error) {
	if h.Threads > 1 || h.rng.IntN(500) > 0 {
		return nil
	}
	if err := h.p.close(); err != nil {
		return err
	}
	h.p, err = openProtocol(h.Protocol, h.Path)
	return err
}

// remove removes the lock file if nobody uses it, and pauses. In the lulls, and as the
// crowd comes, it makes a new one if there is none, and hardly pauses: some of those
// who come then are to find the lock taken by the remover, and to wait for a file that
// goes.
func (h *hand) remove() error {
	often := workers.Monotonic()%beat < lull+lull/3
	err := lockfile.Remove(h.Path)
	switch {
	case err == nil:
		h.log.add(countRemoved)
	case errors.Is(err, fs.ErrNotExist):
		if often {
			f, err := lockfile.Open(h.Path, nil)
			if err != nil {
				return err
			}
			return f.Close()
		}
	case errors.Is(err, lockfile.ErrLocked):
	case errors.Is(err, lockfile.ErrNotLockFile): // it has been truncated, or is about to become one
	default:
		return err
	}
	pause := time.Millisecond
	if often {
		pause /= 50
	}
	time.Sleep(time.Duration(h.rng.Int64N(int64(pause))))
	return nil
}
