package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// A State is what can be seen of a lock from outside.
type State int

// The states. The zero State is Free.
const (
	Free      State = iota
	Shared          // held by one or more who share it
	Exclusive       // held by one, or just being taken
	Foreign         // held exclusively by a program that does not use this package
	Unseen          // there is no way to look
)

// String returns the state's name in lower case.
func (s State) String() string {
	if names := [...]string{"free", "shared", "exclusive", "foreign", "unseen"}; s >= 0 && int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", int(s))
}

// A Status is what [Inspect] has found out.
type Status struct {
	Path      string // as given to Inspect
	Mechanism Mechanism
	State     State

	// Holder is who is recorded as holding the lock exclusively, if Known. He may have
	// died, and a process that he has started may have the lock still.
	Holder   Holder
	Known    bool
	Liveness Liveness // of Holder

	// Processes are those that have the lock, by the kernel's account, as far as the
	// caller may see them: Linux, and locks that belong to a file description. If
	// Holder is one of them, there may be others, to whom he has passed it on.
	Processes []Process

	Waiting int     // how many are in the queue, a File being one however many wait on it; -1 if unknown
	Breaks  []Break // when the lock was taken from somebody: the last 16 times, or some more
}

// A Process has a lock.
type Process struct {
	PID     int    // in the pid namespace of /proc, which is the caller's unless somebody went out of his way
	Command string // the kernel's name of it, of at most 15 bytes
	Shared  bool   // whether it shares the lock
}

// String returns a text such as "pid 123 (recordctl)".
func (p Process) String() string { return fmt.Sprintf("pid %d (%s)", p.PID, p.Command) }

// A Break says that a lock was taken from who held it.
type Break struct {
	Time time.Time
	By   Holder
	Was  Holder
	Why  string
}

// String returns one line, such as
//
//	free
//	held by pid 123 (recordctl) on host since 12:03:04, for deploy
//	recorded process gone, the lock is inherited by pid 34 (sleep)
//	shared by pid 3 (a), pid 4 (b); 2 waiting
//	held by pid 9 (flock), which is not recorded
func (s Status) String() string {
	text := s.held()
	if s.Waiting > 0 {
		text += fmt.Sprintf("; %d waiting", s.Waiting)
	}
	return text
}

func (s Status) held() string {
	var names []string
	for _, p := range s.Processes {
		names = append(names, p.String())
	}
	processes := strings.Join(names, ", ")
	switch {
	case s.State == Free:
		return "free"
	case s.State == Shared && processes == "":
		return "shared"
	case s.State == Shared:
		return "shared by " + processes
	case s.State == Unseen && !s.Known:
		return "free, or held by somebody who is not recorded"
	case !s.Known && processes == "":
		return "held by somebody who is not recorded"
	case !s.Known:
		return "held by " + processes + ", which is not recorded"
	case s.State == Unseen && s.Liveness == Dead:
		return "free, or inherited from " + s.Holder.String() + ", which is gone"
	case s.Liveness == Dead && processes != "":
		return "recorded process gone, the lock is inherited by " + processes
	case s.Liveness == Dead:
		return "held by " + s.Holder.String() + ", which is gone"
	case processes == "" || slices.ContainsFunc(s.Processes, func(p Process) bool { return p.PID == s.Holder.PID }):
		return "held by " + s.Holder.String()
	}
	// He is in another pid namespace; or he lives, but has passed the lock on.
	return "held by " + processes + ", recorded as " + s.Holder.String()
}

// A claimer is a locker whose lock itself says who has it. It is called after probe.
type claimer interface{ holder() (Holder, bool) }

// A describer is a locker that knows more of a lock than its state, and adds that to
// s, in which are the state and the holder. It is called where probe is.
type describer interface {
	describe(s *Status) error
}

// A peerer is a locker that is told by the system which process has the lock, which is
// never inherited: the process that probe has found, or 0.
type peerer interface{ peer() int }

// Inspect finds out who holds the lock of the file at path, and who waits. It needs no
// more than permission to read the file, and never disturbs the lock, which it does
// not take even for an instant. Its result is out of date as soon as it returns. A
// missing file is an error that wraps fs.ErrNotExist.
//
// Where the recorded holder is not known to have the lock, Inspect goes through the
// processes of the machine, which takes some milliseconds. When it finds the lock
// changing hands, it waits for a few milliseconds at most to see who has it.
func Inspect(path string) (Status, error) {
	fail := func(err error) (Status, error) {
		return Status{}, &fs.PathError{Op: "inspect", Path: path, Err: err}
	}
	h, b, err := openRead("inspect", path)
	if err != nil {
		return Status{}, err
	}
	defer h.close()
	record := b[holderOffset:][:holderSize]
	const tries = 10
	for began, try := time.Now(), 1; ; {
		seen, err := h.look(record)
		if err != nil {
			return Status{}, err
		}
		settled := seen.state != Exclusive || seen.known || time.Since(began) > settleTime
		s := Status{Path: path, Mechanism: h.mechanism, State: seen.state, Holder: seen.holder, Known: seen.known, Waiting: -1}
		if settled {
			if err := h.fill(&s); err != nil {
				return fail(err)
			}
		} else {
			time.Sleep(20 * time.Microsecond)
		}
		clear(record)
		if _, err := h.readAt(record, holderOffset); err != nil {
			return fail(err)
		}
		if !settled {
			continue
		}
		// What was found out is about this holder if he still is the holder.
		if again, err := h.look(record); err == nil && again == seen || try == tries {
			return s, nil
		}
		try, began = try+1, time.Now()
	}
}

// fill adds to s, in which are the state and the holder.
func (h *handle) fill(s *Status) error {
	if d, ok := h.locker.(describer); ok {
		if err := d.describe(s); err != nil {
			return err
		}
	}
	if s.Known {
		s.Liveness = s.Holder.Liveness()
	}
	if s.State == Free {
		return nil
	}
	p, told := h.locker.(peerer)
	var found []lockUser
	switch {
	case told:
		if pid := p.peer(); pid != 0 {
			found = append(found, lockUser{Process: Process{PID: pid, Command: commandOf(pid), Shared: s.State == Shared}})
		}
	case s.Liveness == Alive:
		switch u, has, err := lockUserOf(h, s.Holder.PID); {
		case has:
			found = append(found, u)
		case errors.Is(err, fs.ErrPermission):
			return nil // one may not look: he will be what he says
		}
	}
	if len(found) == 0 && !told {
		found = allLockUsers(h)
	}
	taken := told // by one of them, and so not inherited
	for _, u := range found {
		s.Processes = append(s.Processes, u.Process)
		taken = taken || u.taken
	}
	if s.State == Unseen && len(found) > 0 {
		s.State = Exclusive
		if found[0].Shared {
			s.State = Shared
		}
	}
	if s.State == Shared || s.Liveness == Dead && taken {
		s.Holder, s.Known, s.Liveness = Holder{}, false, Unknown // a record that somebody left
	}
	return nil
}

// A lockUser is a process that has the lock.
type lockUser struct {
	Process
	taken bool // it is known that this process took the lock, and did not inherit it
}
