package lockfile

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// faults are the system calls on the lock file, and how each can fail. With close the
// descriptor stays open, and so the lock held, unlike in real life.
var faults = []struct {
	call   string
	errnos []syscall.Errno // the first few are for -short
	short  int
}{
	{"openat", []syscall.Errno{unix.EIO, unix.EACCES, unix.EMFILE, unix.EINTR, unix.ENOENT, unix.EPERM, unix.ENFILE, unix.ENOSPC, unix.EROFS, unix.ELOOP}, 2},
	{"fcntl", []syscall.Errno{unix.ENOLCK, unix.EAGAIN, unix.EINTR, unix.EACCES, unix.EINVAL, unix.EDEADLK, unix.EBADF, unix.EIO, unix.ENOSYS}, 3},
	{"?fstat", []syscall.Errno{unix.EIO, unix.EINTR, unix.EOVERFLOW, unix.ESTALE}, 1},
	{"?newfstatat", []syscall.Errno{unix.EIO, unix.EINTR, unix.ENOENT, unix.EACCES, unix.ESTALE}, 1},
	{"pread64", []syscall.Errno{unix.EIO, unix.EINTR, unix.ESTALE}, 1},
	{"pwrite64", []syscall.Errno{unix.ENOSPC, unix.EINTR, unix.EIO, unix.EDQUOT, unix.EROFS}, 1},
	{"close", []syscall.Errno{unix.EIO, unix.EINTR}, 1},
	{"fchmod", []syscall.Errno{unix.EPERM, unix.EINTR, unix.EIO, unix.EROFS}, 1},
}

// TestFaults lets each system call that a process makes on its lock file fail once, by
// itself, and then it and all that follow. Whatever the process then says of the lock
// must be true, one fault must cost one operation at most, and who is told that
// somebody else has the lock must have been told so by the kernel.
func TestFaults(t *testing.T) {
	needStrace(t)
	calls := countCalls(t)
	t.Run("all", func(t *testing.T) {
		for _, fault := range faults {
			n := calls[strings.TrimPrefix(fault.call, "?")]
			if n == 0 {
				if !strings.HasPrefix(fault.call, "?") {
					t.Errorf("no %s was seen", fault.call)
				}
				continue
			}
			errnos := fault.errnos
			if testing.Short() {
				errnos = errnos[:fault.short]
			}
			for _, errno := range errnos {
				t.Run(fmt.Sprintf("%s %v", fault.call, unix.ErrnoName(errno)), func(t *testing.T) {
					t.Parallel()
					step := 4
					if fault.call == "openat" {
						step = n + 1 // they take longer
					}
					for i := 1; i <= n; i++ {
						faultRun(t, fault.call, errno, strconv.Itoa(i))
						if errno != unix.EINTR && i%step == 1 {
							faultRun(t, fault.call, errno, strconv.Itoa(i)+"+")
						}
					}
				})
			}
		}
	})
}

// TestFaultTwice: a file that could not be given its mode cannot be removed either.
func TestFaultTwice(t *testing.T) {
	needStrace(t)
	path := lockPath(t)
	s, log := trace(t, path, "trace=fchmod,unlinkat", "inject=fchmod:error=EPERM:when=1", "inject=unlinkat:error=EBUSY:when=1")
	if r := s.ask("open mode=666"); !strings.HasPrefix(r, fmt.Sprintf("error %d ", unix.EPERM)) {
		t.Errorf("open: %s", r)
	}
	s.must("open mode=666", "trylock", "unlock", "close")
	s.finish()
	if got := injected(t, log); len(got) != 2 {
		t.Errorf("injected %q", got)
	}
}

func needStrace(t testing.TB) {
	t.Helper()
	if strconv.IntSize == 32 {
		t.Skip("the calls have other names here")
	}
	if runtimeRace {
		t.Skip("nothing that the race detector could see, and slow with it")
	}
	for range 3 {
		out, err := exec.Command("strace", "-f", "-o", os.DevNull, "-e", "inject=getppid:error=EPERM:when=1", os.Args[0], "-test.run=^$").CombinedOutput()
		if err == nil {
			return
		}
		t.Logf("strace: %v: %s", err, out)
	}
	t.Skip("no strace that works")
}

// trace starts a process that obeys, under strace, which reports and tampers with
// calls on path only.
func trace(t testing.TB, path string, exprs ...string) (s *servant, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "strace")
	s = serve(t, path, func(cmd *exec.Cmd) {
		args := []string{"strace", "-f", "--seccomp-bpf", "-qq", "-o", log, "-P", path}
		for _, e := range exprs {
			args = append(args, "-e", e)
		}
		cmd.Args = append(append(args, "--"), cmd.Args...)
		var err error
		if cmd.Path, err = exec.LookPath("strace"); err != nil {
			t.Fatal(err)
		}
	})
	return s, log
}

// countCalls returns how often a thread makes each call.
func countCalls(t *testing.T) map[string]int {
	path := lockPath(t)
	s, log := trace(t, path, "trace=openat,fcntl,?fstat,?newfstatat,pread64,pwrite64,close,fchmod")
	(&faultTest{T: t, s: s, path: path}).run()
	most, byThread := map[string]int{}, map[string]int{}
	for _, c := range traced(t, log) {
		thread, rest, _ := strings.Cut(c, " ")
		name, _, _ := strings.Cut(strings.TrimSpace(rest), "(")
		byThread[thread+name]++
		most[name] = max(most[name], byThread[thread+name])
	}
	t.Logf("calls of a thread: %v", most)
	return most
}

var (
	unfinished = regexp.MustCompile(`^(\d+) +(.*) <unfinished \.\.\.>$`)
	resumed    = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
)

// traced returns the calls in a log of strace, each with its thread in front.
func traced(t testing.TB, log string) (calls []string) {
	t.Helper()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	begun := map[string]string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if m := unfinished.FindStringSubmatch(line); m != nil {
			begun[m[1]] = m[2]
			continue
		}
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = m[1] + " " + begun[m[1]] + m[2]
		}
		if strings.Contains(line, "(") {
			calls = append(calls, line)
		}
	}
	return calls
}

// injected returns the calls that failed because strace said so.
func injected(t testing.TB, log string) []string {
	t.Helper()
	return slices.DeleteFunc(traced(t, log), func(c string) bool { return !strings.Contains(c, "(INJECTED)") })
}

func faultRun(t *testing.T, call string, errno syscall.Errno, when string) {
	t.Helper()
	path := lockPath(t)
	s, log := trace(t, path,
		fmt.Sprintf("trace=%s", call), fmt.Sprintf("inject=%s:error=%s:when=%s", call, unix.ErrnoName(errno), when))
	ft := &faultTest{
		T: t, s: s, path: path, errno: errno, staysOpen: call == "close",
		// What a kernel says when somebody else has the lock.
		mayBeBusy: call == "fcntl" && (errno == unix.EAGAIN || errno == unix.EACCES),
		persists:  strings.HasSuffix(when, "+"),
	}
	ft.run()
	got := injected(t, log)
	if len(ft.errors) > len(got) {
		ft.Errorf("%d operations failed for %d faults", len(ft.errors), len(got))
	}
	if errno == unix.EINTR && call != "close" && len(ft.errors) > 0 && !strings.Contains(strings.Join(got, ""), "F_DUPFD") {
		ft.Errorf("EINTR was reported: %q", ft.errors)
	}
	if len(ft.errors) == 0 && slices.ContainsFunc(got, func(c string) bool { return mustTell(c, errno) }) {
		ft.Errorf("nobody was told")
	}
	if call == "?newfstatat" && when == "1" && errno != unix.EINTR && errno != unix.ENOENT && len(ft.errors) == 0 {
		ft.Errorf("locked something without knowing whether it is what the path names")
	}
	if t.Failed() {
		t.Fatalf("%s fails with %v, when=%s: calls\n%s\nreplies\n%s", call, errno, when, strings.Join(got[:min(5, len(got))], "\n"), strings.Join(ft.log, "\n"))
	}
}

var lockedBytes = regexp.MustCompile(`l_start=(\d+), l_len=(\d+)`)

// mustTell reports whether it would be wrong to go on after the failure of a call.
func mustTell(call string, errno syscall.Errno) bool {
	switch {
	case errno == unix.EINTR:
		return false
	case strings.Contains(call, "F_OFD_SETLK"):
		// But a lock on the header is not needed to write it, nor a ticket to wait.
		m := lockedBytes.FindStringSubmatch(call)
		start, _ := strconv.ParseInt(m[1], 10, 64)
		return errno != unix.EAGAIN && errno != unix.EACCES && !strings.Contains(call, "F_UNLCK") &&
			start != headerByte && (start == 0 || start == gate || m[2] != "1")
	case strings.Contains(call, " pwrite64("):
		// The application's data; the header; but not who holds the lock, nor the counter.
		return strings.Contains(call, fmt.Sprintf(" %d, %d)", dataSize, dataOffset)) || strings.Contains(call, fmt.Sprintf(" %d, 0)", headerSize))
	case strings.Contains(call, " openat("):
		// Of a new file EACCES and EPERM may be for a moment only.
		return strings.Contains(call, "O_RDWR") && errno != unix.ENOENT && errno != unix.EACCES && errno != unix.EPERM
	}
	return strings.Contains(call, " fchmod(")
}

// A faultTest goes through a process's life with a lock.
type faultTest struct {
	*testing.T
	s         *servant
	path      string
	errno     syscall.Errno
	mayBeBusy bool // it may be told that somebody has the lock when nobody has
	staysOpen bool // what was closed may still be locked
	persists  bool

	judge  *judge
	held   int  // locks that the process says it has
	shared bool // of what kind
	f      *File
	taken  *Lock // our own
	log    []string
	errors []string
}

func (ft *faultTest) run() {
	ft.Helper()
	const open = "open mode=666"
	opened := ft.do(open)
	if !opened {
		opened = ft.do(open)
	}
	if !opened {
		if !ft.persists {
			ft.Errorf("cannot be opened after one fault")
		}
		ft.s.finish()
		return
	}
	ft.judge = newJudge(ft.T, ft.path)
	ft.f = mustOpen(ft.T, ft.path)
	ft.look()
	ft.lock("lock 5000", "write x", "check", "stat", "data", "holder")
	ft.lock("trylock")
	if ft.do("rlock 5000") {
		ft.lock("tryrlock") // joins
		ft.do("unlock")
	}
	// Waits that end well.
	for _, command := range []string{"lock 5000", "rlock 5000"} {
		ft.take()
		ft.s.tell(command)
		eventually(ft.T, "blocked, or answered", func() bool { return len(ft.s.replies) > 0 || ft.judge.blocked() })
		ft.release()
		if ft.answered(command, ft.s.reply()) {
			ft.do("unlock")
		}
	}
	// And those that do not.
	ft.take()
	ft.lock("lock 20")
	ft.lock("trylock")
	ft.lock("tryrlock")
	ft.release()
	ft.look()
	// What was wrong is over.
	ft.lock("lock 5000")
	ft.lock("rlock 5000")
	ft.do("close")
	ft.look()
	ft.s.finish()
}

func (ft *faultTest) take() {
	ctx, cancel := context.WithTimeout(ft.Context(), time.Second)
	defer cancel()
	l, err := ft.f.Lock(ctx, "judging")
	switch {
	case err == nil:
		ft.taken = l
	case !ft.staysOpen:
		ft.Errorf("somebody still has the lock")
	}
}

func (ft *faultTest) release() {
	if ft.taken != nil {
		mustUnlock(ft, ft.taken)
		ft.taken = nil
	}
}

// lock takes the lock, does what else there is to do, and unlocks it again.
func (ft *faultTest) lock(command string, then ...string) {
	ft.Helper()
	if !ft.do(command) {
		return
	}
	for _, c := range then {
		ft.do(c)
	}
	ft.do("unlock")
}

// do gives a command and reports whether it succeeded.
func (ft *faultTest) do(command string) bool {
	ft.Helper()
	return ft.answered(command, ft.s.ask(command))
}

func (ft *faultTest) answered(command, reply string) bool {
	ft.Helper()
	ft.log = append(ft.log, command+": "+reply)
	w := strings.Fields(reply)
	word := strings.Fields(command)[0]
	switch w[0] {
	case "ok":
		if strings.HasSuffix(word, "lock") && word != "unlock" {
			ft.held++
			ft.shared = strings.HasSuffix(word, "rlock")
		}
	case "busy":
		if ft.taken == nil && !ft.staysOpen && !ft.mayBeBusy {
			ft.Errorf("%s: nobody has the lock: %s", command, reply)
		}
	default:
		ft.errors = append(ft.errors, reply)
		if ft.errno == unix.ENOENT && strings.Contains(reply, ErrReplaced.Error()) {
			break // that is what it comes to
		}
		if !strings.HasPrefix(reply, fmt.Sprintf("error %d ", int(ft.errno))) || !strings.Contains(reply, ft.path) {
			ft.Errorf("%s: %s; want %d and the path", command, reply, int(ft.errno))
		}
	}
	if word == "unlock" { // whatever it says
		ft.held--
	}
	ft.look()
	return w[0] == "ok"
}

// look finds out whether the process has what it says it has, and nothing else.
func (ft *faultTest) look() {
	ft.Helper()
	if ft.judge == nil || ft.taken != nil {
		if ft.taken != nil && ft.held > 0 {
			ft.Errorf("two holders")
		}
		return
	}
	switch state := ft.judge.state(); {
	case ft.held > 0 && !ft.shared && state != Exclusive, ft.held > 0 && ft.shared && state != Shared:
		ft.Errorf("the process believes to have a lock, and has not: %v", state)
	case ft.held == 0 && !ft.staysOpen && !ft.judge.allFree():
		ft.Errorf("the process has a lock and does not know it")
	}
}
