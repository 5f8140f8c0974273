package lockfile

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func init() {
	helpers["inspect"] = helpInspect
	helpers["self"] = helpSelf
}

// helpInspect PATH prints what Inspect says.
func helpInspect(args []string) error {
	s, err := Inspect(args[0])
	blind := self()
	blind.Start = 0 // as if there were no /proc
	fmt.Println(s.Liveness, s.Holder.liveness(blind), len(s.Processes), err, s)
	return nil
}

// helpSelf prints what a process says of itself.
func helpSelf([]string) error {
	h := self()
	fmt.Println(h.PID, h.Start, h.PIDNamespace)
	return nil
}

func TestParseProcess(t *testing.T) {
	line := func(name, state, threads string) []byte {
		return fmt.Appendf(nil, "42 (%s) %s 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 %s 0 777 23 24\n", name, state, threads)
	}
	for name, tt := range map[string]struct {
		b    []byte
		want processState
	}{
		"running":             {line("a", "S", "3"), processState{42, false, 777}},
		"odd name":            {line("a) Z (b) 1 ", "R", "1"), processState{42, false, 777}},
		"zombie":              {line("a", "Z", "1"), processState{42, true, 777}},
		"gone":                {line("a", "X", "0"), processState{42, true, 777}},
		"first thread zombie": {line("a", "Z", "2"), processState{42, false, 777}},
	} {
		if got, err := parseProcess(tt.b); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tt.want)
		}
	}
	for _, s := range []string{"", "42", "42 (a", "42 (a) S 1", "x (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"} {
		if got, err := parseProcess([]byte(s)); err == nil {
			t.Errorf("%q: %+v", s, got)
		}
	}
}

// unshared makes a command run in namespaces of its own, or skips the test.
func unshared(t *testing.T, flags ...string) func(*exec.Cmd) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make namespaces")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("there is no unshare(1)")
	}
	flags = append([]string{unshare}, flags...)
	if out, err := exec.Command(flags[0], append(flags[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("%q: %v: %s", flags, err, out)
	}
	return func(cmd *exec.Cmd) {
		cmd.Args = append(append(flags, cmd.Path), cmd.Args[1:]...)
		cmd.Path = unshare
	}
}

// TestLivenessInNamespace: of a process in a container, and seen from there.
func TestLivenessInNamespace(t *testing.T) {
	in := unshared(t, "--pid", "--fork", "--kill-child", "--mount-proc")
	path := lockPath(t)
	p := start(t, in, "hold", path, "work")
	p.expect("locked")
	s, err := Inspect(path)
	if err != nil || !s.Known || s.Holder.PID != 1 || s.Holder.Start == 0 || s.Liveness != Unknown {
		t.Errorf("from outside: %+v, %v", s, err)
	}
	if len(s.Processes) != 1 || !strings.HasPrefix(s.String(), fmt.Sprintf("held by pid %d (lockfile.test), recorded as pid 1 (lockfile.test) on ", s.Processes[0].PID)) {
		t.Errorf("from outside: %v", s)
	}
	p.finish()

	l := mustLock(t, mustOpen(t, path), "work")
	p = start(t, in, "inspect", path)
	if got := p.line(); !strings.HasPrefix(got, fmt.Sprintf("unknown unknown 0 <nil> held by pid %d (lockfile.test) on ", os.Getpid())) {
		t.Errorf("from inside: %s", got)
	}
	p.finish()
	mustUnlock(t, l)
}

// TestSelfInNamespace: who cannot trust /proc does not say when he started.
func TestSelfInNamespace(t *testing.T) {
	for name, flags := range map[string][]string{
		"/proc of another namespace": {"--pid", "--fork", "--kill-child"},
		"time namespace":             {"--time", "--fork", "--kill-child"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, unshared(t, flags...), "self")
			var pid int
			var start, ns uint64
			line := p.line()
			if n, err := fmt.Sscan(line, &pid, &start, &ns); n != 3 || err != nil {
				t.Fatal(err)
			}
			if start != 0 || ns == 0 || (ns == self().PIDNamespace) != (flags[0] == "--time") {
				t.Errorf("pid, start, namespace: %s", line)
			}
			p.finish()
		})
	}
}

// TestInspectAsAnother: one who may only read the file, and may neither signal the
// holder nor see what it has.
func TestInspectAsAnother(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	top, nobody := nobodysDir(t, 0o755)
	path := filepath.Join(top, "LOCK")
	f := openWith(t, path, Options{Mode: 0o644})
	inspect := func(want string) {
		t.Helper()
		p := start(t, nobody, "inspect", path)
		if got := p.line(); !strings.HasPrefix(got, want) {
			t.Errorf("%s; want %s", got, want)
		}
		p.finish()
	}
	inspect("unknown unknown 0 <nil> free")
	l := mustLock(t, f, "work")
	inspect(fmt.Sprintf("alive unknown 0 <nil> held by pid %d (lockfile.test) on ", os.Getpid()))
	mustUnlock(t, l)
	r, err := f.RLock(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	inspect("unknown unknown 0 <nil> shared")
	mustUnlock(t, r)
}
