package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// The protocol of the Link mechanism on a directory in memory that is as bad as it may
// be: reading it is not atomic, calls are done and fail, and who makes one may be
// suspended for long, or killed, before it and in the midst of it. One actor runs at a
// time, which is for a random generator to choose; so a seed is a schedule.

type simulation struct {
	t      *testing.T
	seed   uint64
	rand   *rand.Rand
	steps  int
	parked chan struct{} // the actor that was resumed is parked, or has ended
	actors []*actor
	pids   int
	dead   map[int]bool
	gaveUp map[int]bool // have stopped renewing, and know that they lost

	files  map[string]*simFile
	broken map[claimID]bool // by breaks of the state that was
	last   uint64           // the highest there ever was
	holder *actor

	taken, breaks, past, lostN, faults int
}

type simFile struct{ b []byte }

type actor struct {
	s      *simulation
	pid    int
	resume chan bool // false: die
	asleep bool
	ended  bool
}

const simSteps = 3000

func (s *simulation) errorf(format string, args ...any) {
	s.t.Helper()
	s.t.Errorf("seed %d, step %d: %s", s.seed, s.steps, fmt.Sprintf(format, args...))
}

func (s *simulation) spawn() *actor {
	s.pids++
	a := &actor{s: s, pid: s.pids, resume: make(chan bool)}
	go func() {
		defer func() {
			a.ended = true
			s.parked <- struct{}{}
		}()
		a.park()
		a.live()
	}()
	<-s.parked
	return a
}

// park lets others run.
func (a *actor) park() {
	a.s.parked <- struct{}{}
	if !<-a.resume {
		runtime.Goexit()
	}
}

func (a *actor) yield() {
	if a.s.steps >= 0 && a.s.rand.IntN(4) > 0 {
		a.park()
	}
}

func (s *simulation) run(actors int) {
	for range actors {
		s.actors = append(s.actors, s.spawn())
	}
	for s.steps < simSteps {
		i := s.rand.IntN(len(s.actors))
		a := s.actors[i]
		switch r := s.rand.IntN(1000); {
		case a.asleep && r > 3:
			continue
		case r < 1:
			s.kill(a)
			s.actors[i] = s.spawn()
			continue
		case r < 9 && !a.asleep:
			a.asleep = true
			continue
		}
		a.asleep = false
		s.steps++
		a.resume <- true
		<-s.parked
	}
	for _, a := range s.actors {
		s.kill(a)
	}
	// Whatever has happened, the lock can be had.
	a := &actor{s: s, pid: -1}
	s.steps = -1
	l := a.linker()
	for range 5 {
		if _, err := l.take(); err == nil {
			return
		}
	}
	s.errorf("the lock cannot be had any more")
}

func (s *simulation) kill(a *actor) {
	if s.holder == a {
		s.holder = nil
	}
	s.dead[a.pid] = true
	a.resume <- false
	<-s.parked
}

func (a *actor) linker() *linker {
	return &linker{
		open:     func() (claimDir, error) { return a, nil },
		make:     func() error { return nil },
		outdated: func() bool { return false },
		liveness: func(h Holder, _ time.Duration) Liveness {
			if a.s.dead[h.PID] || a.s.gaveUp[h.PID] {
				return Dead
			}
			return Alive
		},
		record: func() []byte { return encodeHolder(Holder{PID: a.pid}) },
		again: func(try func() bool) {
			for !try() && a.s.rand.IntN(4) > 0 { // it may take longer than the rest of its life
				a.yield()
			}
		},
		keep:   int(a.s.seed % 3),
		atOnce: 2 + int(a.s.seed%5),
	}
}

func (a *actor) live() {
	s := a.s
	l := a.linker()
	for {
		a.park()
		if _, err := l.take(); err != nil {
			if err != errBusy && !errors.Is(err, syscall.EIO) {
				s.errorf("take: %v", err)
			}
			continue
		}
		if s.holder != nil {
			s.errorf("%d and %d hold the lock", s.holder.pid, a.pid)
		}
		s.holder = a
		s.taken++
		for range s.rand.IntN(5) {
			a.park()
		}
		s.holder = nil
		id := l.held.Load().id
		if s.rand.IntN(4) == 0 {
			s.gaveUp[a.pid] = true
			for range s.rand.IntN(40) {
				a.park()
			}
		}
		lost := s.broken[id]
		switch err := l.unlock(); {
		case errors.Is(err, ErrLost):
			s.lostN++
			if !s.broken[id] {
				s.errorf("%d is told that it lost", a.pid)
			}
		case errors.Is(err, syscall.EIO):
			_ = l.close()
		case err != nil:
			s.errorf("unlock: %v", err)
		case lost:
			s.errorf("%d is not told that it lost", a.pid)
		}
		if s.gaveUp[a.pid] {
			// Its pid stays that of somebody who gave up. The next is another.
			s.pids++
			a.pid = s.pids
		}
	}
}

// An actor is the claimDir that it uses.

func (a *actor) names() ([]string, error) {
	a.yield()
	s := a.s
	before := maps.Clone(s.files)
	order := slices.Sorted(maps.Keys(before))
	s.rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	var names []string
	half := s.rand.IntN(2)
	for _, name := range order {
		if s.rand.IntN(3) == 0 {
			a.yield()
		}
		if f, ok := s.files[name]; ok && f == before[name] || s.rand.IntN(2) < half {
			names = append(names, name)
		}
	}
	half = s.rand.IntN(2)
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if before[name] == nil && s.rand.IntN(2) < half {
			names = append(names, name)
		}
	}
	return names, a.fault()
}

func (a *actor) fault() error {
	a.yield()
	if a.s.steps >= 0 && a.s.rand.IntN(400) == 0 {
		a.s.faults++
		return &os.PathError{Op: "fault", Err: syscall.EIO}
	}
	return nil
}

func (a *actor) read(name string) ([]byte, error) {
	a.yield()
	f := a.s.files[name]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	return f.b, a.fault()
}

func (a *actor) create(name string, b []byte) error {
	a.yield()
	if a.s.files[name] != nil {
		return fs.ErrExist
	}
	a.s.files[name] = &simFile{b}
	return a.fault()
}

func (a *actor) link(from, to string) error {
	a.yield()
	if err := a.fault(); err != nil {
		return err // and nothing done
	}
	s := a.s
	f := s.files[from]
	switch {
	case f == nil:
		return fs.ErrNotExist
	case s.files[to] != nil:
		return fs.ErrExist
	}
	s.files[to] = f
	s.judge(parseNumber(to), f)
	a.yield()
	switch s.rand.IntN(20) {
	case 0:
		return fs.ErrExist
	case 1:
		return syscall.EIO
	}
	return nil
}

// judge is told of each number that is linked.
func (s *simulation) judge(n uint64, f *simFile) {
	if n <= s.last {
		s.past++
		return
	}
	if n != s.last+1 {
		s.errorf("%d after %d", n, s.last)
	}
	c, err := decodeClaim(f.b)
	if err != nil {
		s.errorf("%d: %v", n, err)
	}
	var before claim
	if s.last > 0 {
		before, _ = decodeClaim(s.files[numberName(s.last)].b)
	}
	held := before.kind == kindClaim && before.number == s.last
	switch {
	case c.kind == kindBreak:
		s.breaks++
		s.broken[c.wasID] = true
		if !held || c.wasID != before.id || c.number != n {
			s.errorf("%d breaks what was not held", n)
		}
	case c.number == n-1 && (!held || c.id != before.id), c.number == n && held, c.number != n && c.number != n-1:
		s.errorf("%d takes or releases what was not his", n)
	}
	s.last = n
}

func (a *actor) remove(name string) error {
	a.yield()
	if a.s.files[name] == nil {
		return fs.ErrNotExist
	}
	if n := parseNumber(name); n > 0 && n == a.s.last {
		a.s.errorf("the highest is removed")
	}
	if a.s.steps >= 0 && a.s.rand.IntN(50) == 0 {
		return syscall.EIO // and nothing done
	}
	delete(a.s.files, name)
	return a.fault()
}

func (a *actor) rename(from, to string) error {
	a.yield()
	f := a.s.files[from]
	if f == nil {
		return fs.ErrNotExist
	}
	if a.s.files[to] != f {
		a.s.files[to] = f
		delete(a.s.files, from)
	}
	return a.fault()
}

func (a *actor) flush(string) error                          { return a.fault() }
func (a *actor) bump(string, claimID, uint64) error          { return nil }
func (a *actor) older(string, string) (time.Duration, error) { return 0, nil }
func (a *actor) close()                                      {}

func simulate(t *testing.T, seed uint64) *simulation {
	s := &simulation{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), parked: make(chan struct{}),
		dead: map[int]bool{}, gaveUp: map[int]bool{}, files: map[string]*simFile{}, broken: map[claimID]bool{},
	}
	s.run(3 + int(seed%4))
	return s
}

func TestLinkSchedules(t *testing.T) {
	if s := os.Getenv("RECORDSTORE_SEED"); s != "" {
		seed, _ := strconv.ParseUint(s, 10, 64)
		simulate(t, seed)
		return
	}
	seeds := 300
	if testing.Short() {
		seeds = 100
	}
	if n, _ := strconv.Atoi(os.Getenv("RECORDSTORE_EFFORT")); n > 0 {
		seeds *= n
	}
	var taken, breaks, past, lost, faults int
	for seed := range seeds {
		s := simulate(t, uint64(seed))
		taken, breaks, past = taken+s.taken, breaks+s.breaks, past+s.past
		lost, faults = lost+s.lostN, faults+s.faults
		if t.Failed() {
			break
		}
	}
	t.Logf("taken %d times, broken %d times, linked into the past %d times, lost %d times; %d calls failed",
		taken, breaks, past, lost, faults)
	if past == 0 && !t.Failed() {
		t.Error("no schedule was one of those that this is about")
	}
}
