package stress

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/recordstore/recordstore/internal/stress/workers"
)

// A crew is the processes of one form.
type crew struct {
	Config
	*workers.Crew
	form     string
	rng      *rand.Rand
	progress func(Progress)

	kills int
	began int64 // when the gate was opened
	total Progress
}

func newCrew(c Config, form string, progress func(Progress)) (*crew, error) {
	w, err := workers.New(workerEnv, c.History)
	if err != nil {
		return nil, err
	}
	return &crew{
		Config: c, Crew: w, form: form, progress: progress,
		rng: workers.Random(c.Seed, fmt.Sprintf("crew of machine %d", c.Machine)),
	}, nil
}

// work starts the processes, opens the gate when all are ready, and sees the
// form through to the end. When it returns no process is left.
func (cr *crew) work(ctx context.Context) error {
	defer cr.Close()
	for _, role := range []string{roleWriter, roleReader} {
		for slot := range cr.slots(role) {
			if err := cr.start(role, slot, 0); err != nil {
				return err
			}
		}
	}
	if cr.Assemble(ctx) {
		cr.began = workers.Monotonic()
		if err := cr.Begin(); err != nil {
			return err
		}
		if cr.form == formQuestion {
			cr.awaitAll(ctx)
		} else if err := cr.supervise(ctx); err != nil {
			return err
		}
	}
	// Who is not gone when what he is doing must have timed out never is.
	cr.Finish(cr.Timeout + workers.StartTimeout)
	return nil
}

// awaitAll waits until all have done what the first form asks for, or must have.
func (cr *crew) awaitAll(ctx context.Context) {
	late := time.NewTimer(time.Duration(cr.Records) * (cr.Timeout + cr.QuestionWait))
	defer late.Stop()
	if cr.progress != nil {
		cr.progress(cr.total)
	}
	for len(cr.Alive) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-late.C:
			return
		case p := <-cr.Exits:
			cr.Gone(p)
		case <-cr.Said:
		}
	}
}

// slots is how many processes have a role at a time.
func (cr *crew) slots(role string) int {
	if role == roleReader {
		return cr.Readers
	}
	return cr.Writers
}

// start runs one worker.
func (cr *crew) start(role string, slot, incarnation int) error {
	j := job{
		author: author{Machine: cr.Machine, Form: cr.form, Role: role, Slot: slot, Incarnation: incarnation},
		Seed:   cr.Seed, Machines: cr.Machines, Protocol: cr.Protocol,
		Store: cr.Store, History: cr.History, Network: cr.Network, Journal: cr.Journal, Threads: 1, Timeout: cr.Timeout,
		Wait: cr.QuestionWait, Records: cr.Records, Length: cr.Duration, Began: cr.began, ReadPause: cr.ReadPause,
		Report: cr.progress != nil,
	}
	if slot%10 == 0 {
		j.Threads = cr.Threads
	}
	return cr.Start(&workers.Process{
		Name: j.String(), Role: role, Slot: slot, Incarnation: incarnation,
		Mortal: cr.form == formHard && workers.Mortal(slot, cr.slots(role), cr.KillShare),
	}, j)
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
		case p := <-cr.Exits:
			cr.Gone(p)
			if len(cr.Failures) > 0 {
				return nil
			}
			if err := cr.start(p.Role, p.Slot, p.Incarnation+1); err != nil {
				return err
			}
		case <-kill.C:
			cr.kill()
			kill.Reset(cr.untilKill())
		case line := <-cr.Said:
			var commits, reads uint64
			if n, _ := fmt.Sscanf(line, "did %d %d", &commits, &reads); n == 2 {
				cr.total.Commits += commits
				cr.total.Reads += reads
			}
		case <-tick:
			cr.total.Elapsed = time.Duration(workers.Monotonic() - cr.began)
			cr.total.Kills = cr.kills
			cr.progress(cr.total)
		}
	}
}

// untilKill is the random time to the next kill.
func (cr *crew) untilKill() time.Duration {
	return time.Duration(cr.rng.ExpFloat64() * float64(cr.KillEvery))
}

// kill ends one of the mortal processes, if there is any. It is replaced when it is gone.
func (cr *crew) kill() {
	var mortal []*workers.Process
	for _, p := range cr.Alive {
		if p.Mortal && !p.Killed {
			mortal = append(mortal, p)
		}
	}
	if len(mortal) > 0 && mortal[cr.rng.IntN(len(mortal))].Kill() {
		cr.kills++
	}
}
