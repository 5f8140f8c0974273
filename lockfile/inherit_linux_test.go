package lockfile

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

func init() {
	// linger ends with its input. Descriptor 3 is the lock file.
	helpers["linger"] = func([]string) error { _, err := io.Copy(io.Discard, os.Stdin); return err }
}

// forked starts a process that takes the lock and gives its descriptor to a child, which
// ends when the pipe is closed.
func forked(t *testing.T, path string) (parent *servant, pipe *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	parent = serve(t, path, func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{r} })
	r.Close()
	parent.must("open", "lock 5000")
	var child int
	if _, err := fmt.Sscanf(parent.ask("fork"), "ok %d", &child); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		eventually(t, "the child gone", func() bool { return !alive(child) })
	})
	return parent, w
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// TestChildOutlivesParent: a child that was given the descriptor keeps the lock until
// it ends.
func TestChildOutlivesParent(t *testing.T) {
	for _, m := range []Mechanism{OFD, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			withMechanism(t, m)
			path := lockPath(t)
			parent, pipe := forked(t, path)
			parent.kill()
			f := mustOpen(t, path)
			locked, _ := lockLater(f, false)
			judge := newJudge(t, path)
			eventually(t, "blocked", func() bool { return len(locked) > 0 || judge.blocked() })
			if _, err := mustOpen(t, path).TryLock(""); err == nil || len(locked) > 0 {
				t.Fatal("two holders: the child has the lock")
			}
			// What is recorded is all that can be known.
			if h, ok, err := recorded(path); err != nil || !ok || h.PID != parent.cmd.Process.Pid {
				t.Errorf("Inspect = %v, %v, %v", h, ok, err)
			}
			pipe.Close()
			mustUnlock(t, receive(t, locked))
		})
	}
}

// TestParentUnlocksChild: the lock is one, and whoever has it may release it.
func TestParentUnlocksChild(t *testing.T) {
	for _, m := range []Mechanism{OFD, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			withMechanism(t, m)
			path := lockPath(t)
			parent, _ := forked(t, path)
			f := mustOpen(t, path)
			if _, err := f.TryLock(""); err == nil {
				t.Fatal("two holders")
			}
			parent.must("unlock")
			l, err := f.TryLock("")
			if err != nil {
				t.Fatal(err)
			}
			mustUnlock(t, l)
		})
	}
}

// TestNoDescriptorInherited: not by children that are started while other threads open
// and lock the file either.
func TestNoDescriptorInherited(t *testing.T) {
	path := lockPath(t)
	f := mustOpen(t, path)
	judge := newJudge(t, path)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				g, err := Open(path, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if l, err := g.TryLock(""); err == nil {
					l.Unlock()
				}
				g.Close()
				runtime.Gosched()
			}
		}
	}()
	var children []*process
	for range 10 {
		children = append(children, start(t, nil, "linger"))
	}
	close(stop)
	<-done
	for _, c := range children {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", c.cmd.Process.Pid, fd.Name())); name == path {
				t.Errorf("a child has inherited descriptor %s", fd.Name())
			}
		}
	}
	l := mustLock(t, f, "")
	if judge.state() != Exclusive {
		t.Error("not locked")
	}
	mustUnlock(t, l)
	if !judge.allFree() {
		t.Error("a child has the lock")
	}
	for _, c := range children {
		c.finish()
	}
}

// TestPIDNamespace: processes that cannot see each other exclude each other.
func TestPIDNamespace(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("there is no unshare(1)")
	}
	args := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if out, err := exec.Command(unshare, append(args[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no pid namespace can be made here: %v: %s", err, out)
	}
	for _, m := range []Mechanism{OFD, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			withMechanism(t, m)
			path := lockPath(t)
			inside := func(cmd *exec.Cmd) {
				cmd.Path = unshare
				cmd.Args = append(append([]string{}, args...), cmd.Args...)
			}
			a, b := serve(t, path, inside), serve(t, path, inside) // of two namespaces, both with number 1
			out := serve(t, path, nil)
			for _, s := range []*servant{a, b, out} {
				s.must("open")
			}
			a.must("lock 5000")
			b.busy("trylock")
			b.busy("tryrlock")
			out.busy("trylock")
			// The holder's number is that of his namespace; see Holder.PID.
			for who, s := range map[string]*servant{"itself": a, "another namespace": b, "outside": out} {
				if r := s.ask("holder"); r != "ok 1" {
					t.Errorf("Holder of %s: %s", who, r)
				}
			}
			b.tell("lock 10000")
			eventually(t, "blocked", newJudge(t, path).blocked)
			a.kill() // and with it all of its namespace
			if r := b.reply(); r != "ok" {
				t.Fatalf("after the holder's death: %s", r)
			}
			out.busy("trylock")
			b.must("unlock")
			// With flock, a wait that was given up may have the lock for a moment.
			eventually(t, "free", func() bool { return out.ask("trylock") == "ok" })
			b.busy("lock 20")
			if r := b.ask("holder"); r != fmt.Sprintf("ok %d", out.cmd.Process.Pid) {
				t.Errorf("Holder of a namespace: %s", r)
			}
			out.must("unlock")
			b.must("trylock", "unlock")
		})
	}
}
