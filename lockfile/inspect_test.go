package lockfile

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestStatusString(t *testing.T) {
	h := Holder{PID: 123, Host: "host", Command: "recordctl", Purpose: "deploy", Since: time.Date(2020, 5, 12, 12, 3, 4, 0, time.Local)}
	const who = "pid 123 (recordctl) on host since 2020-05-12 12:03:04, for deploy"
	holder, sleep := Process{PID: 123, Command: "recordctl"}, Process{PID: 34, Command: "sleep"}
	sharing := []Process{{PID: 3, Command: "a", Shared: true}, {PID: 4, Command: "b", Shared: true}}
	for _, tt := range []struct {
		want string
		s    Status
	}{
		{"free", Status{}},
		{"free; 1 waiting", Status{Waiting: 1}},
		{"free", Status{Waiting: -1}},
		{"held by " + who, Status{State: Exclusive, Known: true, Holder: h, Liveness: Alive, Processes: []Process{holder}}},
		{"held by " + who + "; 7 waiting", Status{State: Exclusive, Known: true, Holder: h, Liveness: Alive, Waiting: 7}},
		{"held by " + who, Status{State: Exclusive, Known: true, Holder: h}},
		{"held by " + who, Status{State: Unseen, Known: true, Holder: h}},
		{"held by " + who + ", which is gone", Status{State: Exclusive, Known: true, Holder: h, Liveness: Dead}},
		{"recorded process gone, the lock is inherited by pid 34 (sleep)", Status{State: Exclusive, Known: true, Holder: h, Liveness: Dead, Processes: []Process{sleep}}},
		{"held by pid 34 (sleep), recorded as " + who, Status{State: Exclusive, Known: true, Holder: h, Liveness: Alive, Processes: []Process{sleep}}},
		{"shared by pid 3 (a), pid 4 (b)", Status{State: Shared, Processes: sharing}},
		{"shared by pid 3 (a), pid 4 (b); 2 waiting", Status{State: Shared, Processes: sharing, Waiting: 2}},
		{"shared", Status{State: Shared}},
		{"held by pid 9 (flock), which is not recorded", Status{State: Foreign, Processes: []Process{{PID: 9, Command: "flock"}}}},
		{"held by pid 9 (flock), which is not recorded", Status{State: Exclusive, Processes: []Process{{PID: 9, Command: "flock"}}}},
		{"held by somebody who is not recorded", Status{State: Foreign}},
		{"free, or held by somebody who is not recorded", Status{State: Unseen}},
		{"free, or inherited from " + who + ", which is gone", Status{State: Unseen, Known: true, Holder: h, Liveness: Dead}},
	} {
		if got := tt.s.String(); got != tt.want {
			t.Errorf("%+v\n is %q\nwant %q", tt.s, got, tt.want)
		}
	}
	for s, want := range map[State]string{Free: "free", Shared: "shared", Exclusive: "exclusive", Foreign: "foreign", Unseen: "unseen", 5: "state 5", -1: "state -1"} {
		if got := s.String(); got != want {
			t.Errorf("state %d is %q, want %q", int(s), got, want)
		}
	}
}

// TestInspectDisturbsNobody: a lock that is free is always to be had.
func TestInspectDisturbsNobody(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	var over atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !over.Load() {
				if _, err := Inspect(path); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	for try := f.TryLock; ctx.Err() == nil; {
		l, err := try("")
		if err != nil {
			t.Errorf("somebody has the lock: %v", err)
			break
		}
		mustUnlock(t, l)
	}
	over.Store(true)
	wg.Wait()
}
