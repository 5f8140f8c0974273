package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func init() {
	helpers["wait"] = helpWait
	helpers["parent"] = helpParent
	helpers["inherit"] = helpInherit
}

// helpWait knows nothing of locks, and ends when its input does.
func helpWait([]string) error {
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// child is a process of this one's, with the same input and output.
func child(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// helpParent starts a process as a shell would, which leaves it the descriptors that it
// has itself, and waits to be killed.
func helpParent([]string) error {
	cmd := child("wait")
	if f := os.NewFile(3, "3"); f != nil {
		defer f.Close()
		cmd.ExtraFiles = []*os.File{f}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(time.Hour)
	return nil
}

// helpInherit PATH locks, hands the lock to a child, and waits to be killed.
func helpInherit(args []string) error {
	f, err := Open(args[0], testOptions(args[0]))
	if err != nil {
		return err
	}
	l, err := f.Lock(context.Background(), "inherited")
	if err != nil {
		return err
	}
	cmd := child("wait")
	if err := errors.Join(l.Inherit(cmd), cmd.Start()); err != nil {
		return err
	}
	time.Sleep(time.Hour)
	return nil
}

func TestInherit(t *testing.T) {
	for _, m := range []Mechanism{defaultMechanism, Flock} {
		t.Run(m.String(), func(t *testing.T) {
			withMechanism(t, m)
			testInherit(t, Options{Mechanism: m})
		})
		t.Run(m.String()+" recorded late", func(t *testing.T) { // what is inherited is recorded at once
			withMechanism(t, m)
			testInherit(t, Options{Mechanism: m, RecordAfter: time.Hour})
		})
	}
}

func testInherit(t *testing.T, opts Options) {
	path := lockPath(t)
	f, g := openWith(t, path, opts), mustOpen(t, path)
	held := func(when string) {
		t.Helper()
		if _, err := g.TryLock(""); !errors.Is(err, ErrLocked) {
			t.Fatalf("%s: %v", when, err)
		}
		// With flock it may be overlooked when other locks come and go.
		eventually(t, when+": the holder recorded", func() bool {
			h, ok, err := g.Holder()
			return err == nil && ok && h.Purpose == "inherited"
		})
	}
	free := func(when string) {
		t.Helper()
		l, err := g.TryLock("")
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		mustUnlock(t, l)
	}
	inheriting := func(ls ...*Lock) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			for _, l := range ls {
				if err := l.Inherit(cmd); err != nil {
					t.Fatal(err)
				}
			}
		}
	}

	// A child keeps it until it ends, and whoever waits gets it then.
	l := mustLock(t, f, "inherited")
	ps := []*process{start(t, inheriting(l), "wait"), start(t, inheriting(l), "wait")}
	for _, p := range ps {
		p.expect("ready")
	}
	mustUnlock(t, l)
	if err := l.Unlock(); !errors.Is(err, ErrReleased) {
		t.Error(err)
	}
	held("unlocked by the parent")
	ps[0].kill()
	held("one of two children ended")
	later := mustOpen(t, path)
	w, _ := lockLater(later, false)
	eventually(t, "waiting", waiting(later, 1))
	if len(w) > 0 {
		t.Fatal("two holders")
	}
	ps[1].kill()
	mustUnlock(t, receive(t, w))
	free("both ended")

	// The parent keeps it when the children end.
	l = mustLock(t, f, "inherited")
	p := start(t, inheriting(l), "wait")
	p.expect("ready")
	p.kill()
	held("the child ended")
	mustUnlock(t, l)
	free("child and parent released")

	// Nothing has been started, or it could not be.
	for _, path := range []string{"", "/no such program"} {
		l = mustLock(t, f, "inherited")
		cmd := exec.Command(path)
		inheriting(l)(cmd)
		if path != "" {
			if err := cmd.Start(); err == nil {
				t.Fatal("started")
			}
		}
		mustUnlock(t, l)
		free("not started")
		if err := cmd.ExtraFiles[0].Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the descriptor was not closed: %v", err)
		}
	}

	// The caller has closed it himself.
	l = mustLock(t, f, "inherited")
	cmd := exec.Command("")
	inheriting(l)(cmd)
	cmd.ExtraFiles[0].Close()
	held("closed the copy")
	mustUnlock(t, l)
	free("unlocked")

	// A grandchild, of a child that was killed.
	l = mustLock(t, f, "inherited")
	p = start(t, inheriting(l), "parent")
	p.expect("ready")
	mustUnlock(t, l)
	p.cmd.Process.Kill()
	p.cmd.Process.Wait()
	held("child killed")
	p.stdin.Close()
	eventually(t, "free when the grandchild has ended", func() bool {
		l, err := g.TryLock("")
		if err == nil {
			mustUnlock(t, l)
		}
		return err == nil
	})

	// The parent is killed.
	p = start(t, nil, "inherit", path)
	p.expect("ready")
	held("locked by another process")
	p.cmd.Process.Kill()
	p.cmd.Process.Wait()
	held("parent killed")
	p.stdin.Close()
	eventually(t, "free when the child has ended", func() bool {
		l, err := g.TryLock("")
		if err == nil {
			mustUnlock(t, l)
		}
		return err == nil
	})

	// Shared: one of several Locks that share a handle.
	r1, r2 := mustRLock(t, f), mustRLock(t, f)
	p = start(t, inheriting(r1), "wait")
	r3 := mustRLock(t, f)
	for _, r := range []*Lock{r1, r2, r3} {
		mustUnlock(t, r)
	}
	if _, err := g.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("shared with a child: %v", err)
	}
	r, err := g.TryRLock("")
	if err != nil {
		t.Fatalf("shared with a child: %v", err)
	}
	mustUnlock(t, r)
	p.kill()
	free("shared, all gone")

	// Several locks for one child.
	f2 := mustOpen(t, lockPath(t))
	l, l2 := mustLock(t, f, "inherited"), mustLock(t, f2, "")
	p = start(t, inheriting(l, l2), "wait")
	mustUnlock(t, l)
	mustUnlock(t, l2)
	held("two locks")
	if _, err := f2.TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("the second of two locks: %v", err)
	}
	p.kill()
	free("two locks")

	// Refused.
	l = mustLock(t, f, "")
	cmd = exec.Command(os.Args[0], "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if err := l.Inherit(cmd); err == nil || len(cmd.ExtraFiles) != 0 {
		t.Errorf("Inherit after Start: %v, %v", err, cmd.ExtraFiles)
	}
	mustUnlock(t, l)
	if err := l.Inherit(exec.Command("")); !errors.Is(err, ErrReleased) {
		t.Errorf("Inherit after Unlock: %v", err)
	}
	// What was inherited once does not make the next lock so.
	l = mustLock(t, f, "")
	start(t, nil, "wait").expect("ready")
	mustUnlock(t, l)
	if _, ok, err := f.Holder(); ok || err != nil {
		t.Errorf("Holder: %v, %v", ok, err)
	}
	free("not inherited")
}

func TestInheritUnsupported(t *testing.T) {
	m, _ := fakeMechanism(t)
	l := mustLock(t, openWith(t, lockPath(t), Options{Mechanism: m, Port: 1}), "")
	cmd := exec.Command("")
	if err := l.Inherit(cmd); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), m.String()) || len(cmd.ExtraFiles) != 0 {
		t.Errorf("Inherit: %v, %v", err, cmd.ExtraFiles)
	}
	mustUnlock(t, l)
}
