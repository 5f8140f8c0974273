package locks

import (
	"math/rand/v2"
	"strings"

	"github.com/recordstore/recordstore/internal/stress/workers"
)

// A crew is the processes of a run.
type crew struct {
	Config
	*workers.Crew
	path     string // of the lock file
	rng      *rand.Rand
	events   *events
	stopped  map[*workers.Process]int64 // until when they are suspended; the others are not
	progress Progress
}

func newCrew(c Config, path string, ev *events) (*crew, error) {
	w, err := workers.New(workerEnv, c.Notes)
	if err != nil {
		return nil, err
	}
	return &crew{
		Config: c, Crew: w, path: path, events: ev,
		rng: workers.Random(c.Seed, "crew"), stopped: map[*workers.Process]int64{},
	}, nil
}

// startAll starts as many processes as there are to be.
func (cr *crew) startAll() error {
	for slot := range cr.Processes {
		if err := cr.start(roleUser, slot, 0); err != nil {
			return err
		}
	}
	for slot := range cr.Removers {
		if err := cr.start(roleRemover, slot, 0); err != nil {
			return err
		}
	}
	return nil
}

// start runs one worker.
func (cr *crew) start(role string, slot, incarnation int) error {
	j := job{
		author: author{Role: role, Slot: slot, Incarnation: incarnation},
		Seed:   cr.Seed, Protocol: cr.Protocol, Path: cr.path, Notes: cr.Notes, Threads: 1, Processes: cr.Processes,
	}
	if role == roleUser && slot%10 == 0 {
		j.Threads = cr.Threads
	}
	return cr.Start(&workers.Process{
		Name: strings.TrimSuffix(j.String(), "-0"), Role: role, Slot: slot, Incarnation: incarnation,
		Mortal: cr.KillShare > 0 && role == roleRemover || workers.Mortal(slot, cr.Processes, cr.KillShare),
	}, j)
}
