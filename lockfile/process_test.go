package lockfile

import (
	"os"
	"testing"
	"time"
)

func TestLiveness(t *testing.T) {
	me := self()
	if me.Start == 0 || me.PIDNamespace == 0 || me.BootID == [16]byte{} {
		t.Skipf("the system does not tell who this process is: %+v", me)
	}
	if me.UID != os.Getuid() {
		t.Errorf("user id %d", me.UID)
	}
	me.MachineID[0] |= 1 // there may be none here
	ended := start(t, nil, "open", lockPath(t))
	ended.finish()
	gone := ended.cmd.Process.Pid
	for name, tt := range map[string]struct {
		change func(h, me *Holder)
		want   Liveness
	}{
		"this process":                {func(h, me *Holder) {}, Alive},
		"other start":                 {func(h, me *Holder) { h.Start++ }, Dead},
		"unknown start":               {func(h, me *Holder) { h.Start = 0 }, Unknown},
		"gone":                        {func(h, me *Holder) { h.PID = gone }, Dead},
		"gone, unknown start":         {func(h, me *Holder) { h.PID = gone; h.Start = 0 }, Dead},
		"other /proc":                 {func(h, me *Holder) { me.Start = 0 }, Unknown},
		"other /proc, other start":    {func(h, me *Holder) { me.Start = 0; h.Start++ }, Unknown},
		"other /proc, gone":           {func(h, me *Holder) { me.Start = 0; h.PID = gone }, Dead},
		"other namespace":             {func(h, me *Holder) { h.PIDNamespace++ }, Unknown},
		"other namespace, gone":       {func(h, me *Holder) { h.PIDNamespace++; h.PID = gone }, Unknown},
		"unknown namespace, gone":     {func(h, me *Holder) { h.PIDNamespace, me.PIDNamespace = 0, 0; h.PID = gone }, Unknown},
		"other boot":                  {func(h, me *Holder) { h.BootID[0]++ }, Dead},
		"other boot and namespace":    {func(h, me *Holder) { h.BootID[0]++; h.PIDNamespace++ }, Dead},
		"unknown boot":                {func(h, me *Holder) { h.BootID = [16]byte{}; h.PID = gone }, Unknown},
		"own boot unknown":            {func(h, me *Holder) { me.BootID = [16]byte{}; h.PID = gone }, Unknown},
		"both boots unknown":          {func(h, me *Holder) { h.BootID, me.BootID = [16]byte{}, [16]byte{}; h.PID = gone }, Unknown},
		"other machine":               {func(h, me *Holder) { h.BootID[0]++; h.MachineID[0]++ }, Unknown},
		"other machine, same boot":    {func(h, me *Holder) { h.MachineID[0]++ }, Alive}, // it is in another container
		"unknown machine, other boot": {func(h, me *Holder) { h.BootID[0]++; h.MachineID, me.MachineID = [16]byte{}, [16]byte{} }, Unknown},
		"copy of the machine":         {func(h, me *Holder) { h.BootID[0]++; h.Host = "copy" }, Unknown},
		"no process":                  {func(h, me *Holder) { h.PID = 0 }, Unknown},
		"process group":               {func(h, me *Holder) { h.PID = -gone }, Unknown},
		"process group, unsigned":     {func(h, me *Holder) { h.PID = int(int64(1)<<32 - int64(gone)) }, Unknown},
	} {
		h, me := me, me
		tt.change(&h, &me)
		if got := h.liveness(me); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestLivenessOfAnother: also while it has ended and its parent has not noticed.
func TestLivenessOfAnother(t *testing.T) {
	path := lockPath(t)
	p := start(t, nil, "hold", path)
	p.expect("locked")
	h, ok, err := recorded(path)
	if err != nil || !ok || h.PID != p.cmd.Process.Pid {
		t.Fatalf("%v, %v, %v", h, ok, err)
	}
	time.Sleep(30 * time.Millisecond)
	if got := h.Liveness(); got != Alive {
		t.Errorf("while it runs: %v", got)
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ended", func() bool { return h.Liveness() == Dead })
	p.kill()
	if got := h.Liveness(); got != Dead {
		t.Errorf("after its end: %v", got)
	}
}
