package store

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A request is one call of Update, on its way through a group commit.
//
// The functions of a group run one after the other on a goroutine of the
// group's: to wake each caller for his would take longer than most of them do.
// Only a function that panics there, or ends the goroutine (as a test's FailNow
// does), is run again by its caller. So a panic unwinds its caller's stack and
// nobody else's, and nobody takes the group with him.
type request struct {
	fn   func(*Tx) error
	idle bool // it changes nothing, for sure
	own  bool // its caller leads, and runs it himself
	vain int  // how often it was tried in vain, for a reason that may be gone

	said chan word  // capacity 1: the leader's call to run fn, and the answer
	ran  chan error // capacity 1: what came of such a call

	calling sync.Mutex // held while the group's goroutine runs fn
	unruly  bool       // fn has panicked or ended the goroutine: it is for the caller to run

	mu    sync.Mutex // protects phase, and what begin resets
	phase phase

	// Set by the leader, or the group's goroutine, while it is not the phase
	// committing:
	failed  error    // fn's error in its last run
	rev     Revision // this update's, or that of the state it saw
	changed bool
}

// phase is how far a request has come. A caller whose context has ended may
// leave, as if it had never come, until its changes are about to be published.
type phase int

const (
	queued     phase = iota
	called           // the group's goroutine runs its function
	running          // it is the caller's turn to run it
	ran              // its changes, if any, wait for the group to be published
	committing       // they are being published: who leaves now does not know their fate
	answered         // there is an answer
	gone             // the caller has left, and waits for nothing
)

// outcome is the answer to a request.
type outcome struct {
	rev Revision
	st  *state // the state that the answer speaks of, acquired; nil with an error
	err error
}

// A word is what a leader says to a caller: that he is to run his function, on
// tx, or else the answer.
type word struct {
	tx *Tx
	outcome
}

// errLeft is the result of a function whose caller panicked, exited or left.
var errLeft = context.Canceled

// move changes the phase from one to another, and reports false if it was not
// the one.
func (r *request) move(from, to phase) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase != from {
		return false
	}
	r.phase = to
	return true
}

// begin makes it the function's turn, for the first time or again, and forgets
// what came of an earlier one. It reports false if the caller has left.
func (r *request) begin(p phase, seen Revision) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rev, r.changed, r.failed = seen, false, nil
	if r.phase == gone {
		return false
	}
	r.phase = p
	return true
}

// leaveCommitting has the caller leave while the group is being published. It
// tells whether he could, and whether changes of his are among those published.
func (r *request) leaveCommitting() (left, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase != committing {
		return false, false
	}
	r.phase = gone
	return true, r.changed
}

// waits tells whether the caller has not left.
func (r *request) waits() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.phase != gone
}

// try runs the function on the group's goroutine. If it does not return, the
// request is unruly from then on, and the caller may leave.
func (r *request) try(begin func() *Tx) (tx *Tx, err error) {
	r.calling.Lock()
	defer r.calling.Unlock()
	if tx = begin(); tx == nil {
		return nil, nil
	}
	r.unruly = true
	defer func() {
		_ = recover() // the caller will meet it himself
		tx.over = true
		r.move(called, ran)
	}()
	err = r.fn(tx)
	r.unruly = false
	return tx, err
}

// untilCalled waits while the function runs: nobody leaves then.
func (r *request) untilCalled() {
	r.calling.Lock()
	defer r.calling.Unlock()
}

// call runs the function on the caller's goroutine.
func (r *request) call(tx *Tx) {
	returned := false
	defer func() {
		tx.over = true
		if !returned {
			r.move(running, gone)
			r.ran <- errLeft
		}
	}()
	err := r.fn(tx)
	returned = true
	r.move(running, ran)
	r.ran <- err
}

// wait carries a request through: it runs the function whenever it is its
// turn, until there is an answer or ctx ends.
func (s *Store) wait(ctx context.Context, r *request) outcome {
	for {
		select {
		case w := <-r.said:
			if w.tx == nil {
				return w.outcome
			}
			r.call(w.tx)
			continue
		case <-ctx.Done():
		}
		r.untilCalled()
		switch {
		case s.leave(r), r.move(ran, gone):
			return outcome{err: s.timedOut(ctx)}
		case r.move(running, gone): // the leader has called, and must be told
			<-r.said
			r.ran <- errLeft
			return outcome{err: s.timedOut(ctx)}
		}
		if left, changed := r.leaveCommitting(); left {
			if !changed { // a read, or an error: there is no fate to know
				return outcome{err: s.timedOut(ctx)}
			}
			return outcome{err: unknownFate(ctx)}
		}
		// It has moved on between these questions, or been answered: once more.
	}
}

// answer delivers the outcome, unless the caller has left.
func (r *request) answer(out outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == gone {
		return
	}
	if out.st != nil {
		out.st.acquire() // cannot fail: who answers holds one
	}
	r.phase = answered
	r.said <- word{outcome: out}
}

// queue is where the updates of a process wait for one another. While there
// are any, one goroutine leads: it takes LOCK, and takes along all that wait
// by then.
type queue struct {
	qmu      sync.Mutex // protects the fields below, but for busy
	waiting  []*request
	leading  bool
	noGather time.Time          // until then gather costs too much
	closed   atomic.Bool        // set under qmu
	retract  context.CancelFunc // ends the leader's wait for LOCK
	busy     sync.WaitGroup     // the leader, and the groups being flushed
	crowd    atomic.Bool        // the last group was one of several
	slots    chan struct{}      // capacity 1: holds something from before LOCK to the end of a group's flush
}

// gatherYields is how often the leader must have let others run without
// somebody coming for a group to be complete: some ten microseconds, which is
// short against a flush, of which a group needs one however many are in it.
//
// gatherTime bounds all of it, and 64 goroutines come within that. Where others
// compute, letting them run once may take some ten milliseconds, with the
// process's only slot held: then the next groups do without, for gatherPause
// times as long as that took.
const (
	gatherYields = 50
	gatherTime   = 300 * time.Microsecond
	gatherPause  = 5
)

// gather lets those come who have just been answered, if they were several: who
// comes again at once belongs into one group with the others.
func (q *queue) gather() {
	if !q.crowd.Load() {
		return
	}
	began := time.Now()
	q.qmu.Lock()
	dear := began.Before(q.noGather)
	q.qmu.Unlock()
	if dear {
		return
	}
	n, spent := 0, time.Duration(0)
	for yields := 0; yields < gatherYields && spent < gatherTime; yields++ {
		runtime.Gosched()
		spent = time.Since(began)
		q.qmu.Lock()
		if len(q.waiting) != n {
			n, yields = len(q.waiting), 0
		}
		q.qmu.Unlock()
	}
	if spent > 4*gatherTime {
		q.qmu.Lock()
		q.noGather = began.Add(spent + gatherPause*spent)
		q.qmu.Unlock()
	}
}

// slot waits until the last group is on disk. Several on their way at once would
// be smaller groups, and not be there any sooner.
func (q *queue) slot(ctx context.Context) error {
	select {
	case q.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (q *queue) freeSlot() { <-q.slots }

// end ends the leadership. It reports false, and does not, if somebody waits.
func (q *queue) end() bool {
	q.qmu.Lock()
	defer q.qmu.Unlock()
	q.leading = len(q.waiting) > 0
	return !q.leading
}

func (q *queue) isClosed() bool { return q.closed.Load() }

// close lets nobody in any more and waits for those who are. It reports false
// if it was called before.
func (q *queue) close() bool {
	q.qmu.Lock()
	was := q.closed.Swap(true)
	q.qmu.Unlock()
	q.busy.Wait()
	return !was
}

// join lets somebody work whom close waits for until he calls busy.Done. It
// reports false if the store is closed.
func (q *queue) join() bool {
	q.qmu.Lock()
	defer q.qmu.Unlock()
	if !q.closed.Load() {
		q.busy.Add(1)
	}
	return !q.closed.Load()
}

// enter adds a request. It reports whether the caller must start a leader, and
// false, false if the store is closed.
func (q *queue) enter(r *request) (lead, ok bool) {
	q.qmu.Lock()
	defer q.qmu.Unlock()
	if q.closed.Load() {
		return false, false
	}
	q.waiting = append(q.waiting, r)
	if q.leading {
		return false, true
	}
	q.leading = true
	q.busy.Add(1)
	return true, true
}

// leave takes back a request that nobody has begun with. It reports false if
// somebody has.
func (q *queue) leave(r *request) bool {
	q.qmu.Lock()
	defer q.qmu.Unlock()
	if !r.move(queued, gone) {
		return false
	}
	for i, w := range q.waiting {
		if w == r {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			break
		}
	}
	if len(q.waiting) == 0 && q.retract != nil {
		q.retract() // nobody is left to wait for LOCK
	}
	return true
}

// await returns the context in which the leader waits for LOCK, and whether
// somebody may want to write; or it reports false, and ends the leadership, if
// nobody waits.
func (q *queue) await() (ctx context.Context, writes, ok bool) {
	q.qmu.Lock()
	defer q.qmu.Unlock()
	if len(q.waiting) == 0 {
		q.leading = false
		return nil, false, false
	}
	ctx, q.retract = context.WithCancel(context.Background())
	writes = slices.ContainsFunc(q.waiting, func(r *request) bool { return !r.idle })
	return ctx, writes, true
}

// takeAlone takes the one request that waits, or reports false if there are
// more.
func (q *queue) takeAlone() bool {
	q.qmu.Lock()
	defer q.qmu.Unlock()
	if len(q.waiting) > 1 {
		return false
	}
	q.waiting = nil
	q.crowd.Store(false)
	return true
}

// again has those of a group of which nothing is published wait once more, before all
// others, and returns those who have done so often enough, if that counts.
func (q *queue) again(group []*request, counts bool) (tired []*request) {
	q.qmu.Lock()
	defer q.qmu.Unlock()
	var waiting []*request
	for _, r := range group {
		if counts {
			r.vain++
		}
		switch {
		case r.vain >= maxVain:
			tired = append(tired, r)
		case r.requeue():
			waiting = append(waiting, r)
		}
	}
	q.waiting = append(waiting, q.waiting...)
	return tired
}

// requeue makes it a request that nobody has begun with. It reports false if the
// caller has left.
func (r *request) requeue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.phase == gone {
		return false
	}
	r.phase, r.own = queued, false
	return true
}

// take returns all that wait.
func (q *queue) take() []*request {
	q.qmu.Lock()
	defer q.qmu.Unlock()
	if q.retract != nil {
		q.retract()
		q.retract = nil
	}
	group := q.waiting
	q.waiting = nil
	q.crowd.Store(len(group) > 1)
	return group
}
