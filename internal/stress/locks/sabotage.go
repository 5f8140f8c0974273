package locks

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/internal/stress/workers"
	"github.com/recordstore/recordstore/lockfile"
)

// phase is how long there are only kills, and then how long only stops. A suspended
// process may hold everyone up; were there always one, little would be seen of how the
// others get over a death.
const phase = int64(500 * time.Millisecond)

// meanStop is the mean time for which a process is suspended, and longStop that of one
// in twenty.
const (
	meanStop = 3 * time.Millisecond
	longStop = 60 * time.Millisecond
)

// looks is how often to look for a process that has the lock, before another will do.
const looks = 25

// quiet is how long the workers may say nothing of acquisitions before the run ends:
// what would come of it is clear.
const quiet = 15 * time.Second

// A plan is when to do what next, on the machine's monotonic clock.
type plan struct{ kill, stop, truncate, tick int64 }

const never = int64(1) << 62

func (cr *crew) after(now int64, mean time.Duration) int64 {
	if mean == 0 {
		return never
	}
	return now + int64(cr.rng.ExpFloat64()*float64(mean))
}

// supervise lets the run take its course, and spoils it as planned. It ends early if
// a process fails or nothing goes on. No process is suspended when it returns.
func (cr *crew) supervise(ctx context.Context, progress func(Progress)) error {
	began := workers.Monotonic()
	killEvery := cr.KillEvery
	if cr.KillShare == 0 {
		killEvery = 0
	}
	next := plan{cr.after(began, killEvery), cr.after(began, cr.StopEvery), cr.after(began, cr.TruncateEvery), began}
	defer func() {
		for _, p := range cr.Alive {
			cr.resume(p)
		}
	}()
	lastWord := began
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-cr.Exits:
			cr.Gone(p)
			if len(cr.Failures) > 0 {
				return nil
			}
			if err := cr.start(p.Role, p.Slot, p.Incarnation+1); err != nil {
				return err
			}
		case line := <-cr.Said:
			var n int
			if k, _ := fmt.Sscanf(line, "did %d", &n); k == 1 && n > 0 {
				cr.progress.Acquisitions += n
				lastWord = workers.Monotonic()
			}
		case <-timer.C:
		}
		now := workers.Monotonic()
		switch {
		case cr.Acquisitions > 0 && cr.progress.Acquisitions >= cr.Acquisitions,
			cr.Duration > 0 && now-began >= int64(cr.Duration):
			return nil
		case now-lastWord > int64(quiet):
			cr.Failures = append(cr.Failures, fmt.Sprintf("nobody has had the lock for %s", quiet))
			return nil
		}
		if now >= next.tick {
			next.tick = now + int64(200*time.Millisecond)
			if progress != nil {
				cr.progress.Elapsed = time.Duration(now - began)
				progress(cr.progress)
			}
		}
		due := cr.spoil(now, &next, killEvery)
		timer.Reset(time.Duration(max(due-workers.Monotonic(), 0)))
	}
}

// spoil does what is due, and returns when there is something to do again.
func (cr *crew) spoil(now int64, next *plan, killEvery time.Duration) (due int64) {
	stopping := killEvery == 0 || cr.StopEvery > 0 && now/phase%2 == 1
	killing := cr.StopEvery == 0 || !stopping
	due = next.tick
	for _, p := range cr.Alive {
		switch {
		case cr.stopped[p] == 0:
		case cr.stopped[p] > now:
			due = min(due, cr.stopped[p])
		case killing || killEvery == 0 || !p.Mortal || cr.rng.IntN(4) > 0:
			cr.resume(p)
		default:
			cr.kill(p) // it does not get to continue
		}
	}
	if now >= next.kill {
		if killing {
			if p := cr.target(func(p *workers.Process) bool { return p.Mortal }); p != nil {
				cr.kill(p)
			}
		}
		next.kill = cr.after(now, killEvery)
	}
	if now >= next.stop {
		if stopping {
			p := cr.target(func(*workers.Process) bool { return true })
			if p != nil && (cr.stopped[p] > 0 || cr.suspend(p)) {
				cr.progress.Stops++
				due = min(due, cr.stopped[p])
			}
		}
		next.stop = cr.after(now, cr.StopEvery)
	}
	if now >= next.truncate {
		cr.truncate()
		next.truncate = cr.after(now, cr.TruncateEvery)
	}
	return min(due, next.kill, next.stop, next.truncate)
}

// target chooses a process that is fit. Every other time it looks for one that has the
// lock, which it would seldom meet by chance, and suspends it.
func (cr *crew) target(fit func(*workers.Process) bool) *workers.Process {
	var all []*workers.Process
	for _, p := range cr.Alive {
		if !p.Killed && cr.stopped[p] == 0 && fit(p) {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if cr.rng.IntN(2) == 0 {
		for range looks {
			if p := cr.catch(all); p != nil {
				return p
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
	return all[cr.rng.IntN(len(all))]
}

// catch suspends the process of whom the lock file says that he has the lock, if it is
// among those given. If he still has it then, he has it until he is resumed.
func (cr *crew) catch(among []*workers.Process) *workers.Process {
	st, err := lockfile.Inspect(cr.path)
	if err != nil || !st.Known {
		return nil
	}
	for _, p := range among {
		if p.PID() != st.Holder.PID {
			continue
		}
		if !cr.suspend(p) {
			return nil
		}
		if st, err := lockfile.Inspect(cr.path); err == nil && st.Known && st.Holder.PID == p.PID() {
			return p
		}
		cr.resume(p)
	}
	return nil
}

// kill ends a process with SIGKILL. It is replaced when it is gone.
func (cr *crew) kill(p *workers.Process) {
	now := workers.Monotonic()
	if !p.Kill() {
		return
	}
	cr.events.line("k %d %s", now, p.Name)
	delete(cr.stopped, p)
	cr.progress.Kills++
}

// suspend stops a process, and resume lets it go on.
func (cr *crew) suspend(p *workers.Process) bool {
	mean := meanStop
	if cr.rng.IntN(20) == 0 {
		mean = longStop
	}
	now := workers.Monotonic()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return false // it has ended, and its end is on the way
	}
	cr.events.line("s %d %s", now, p.Name)
	cr.stopped[p] = cr.after(now, mean)
	return true
}

func (cr *crew) resume(p *workers.Process) {
	if cr.stopped[p] == 0 {
		return
	}
	_ = p.Signal(syscall.SIGCONT) // an error means that it has ended
	cr.events.line("c %d %s", workers.Monotonic(), p.Name)
	delete(cr.stopped, p)
}

// truncate cuts the lock file off somewhere, as nobody should do.
func (cr *crew) truncate() {
	size := cr.rng.Int64N(700)
	if cr.rng.IntN(2) == 0 {
		size = 0
	}
	if err := os.Truncate(cr.path, size); err == nil { // or it is not there just now
		cr.events.line("t %d %d", workers.Monotonic(), size)
	}
}
