package lockfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() { helpers["obey"] = helpObey }

// helpObey PATH does what its input says, a command a line, and prints a line about
// each: "ok", perhaps with what was asked for; "busy" and the error, if that says that
// somebody else has the lock; "error" and the error number, or 0, and the error.
func helpObey(args []string) error {
	runtime.LockOSThread() // strace counts the calls of each thread
	time.AfterFunc(2*time.Minute, func() { os.Exit(3) })
	o := obeyer{path: args[0]}
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		var errno syscall.Errno
		result, err := o.obey(strings.Fields(s.Text()))
		switch {
		case err == nil:
			fmt.Println(strings.TrimSpace("ok " + result))
		case errors.Is(err, ErrLocked):
			fmt.Println("busy", err)
		case errors.As(err, &errno):
			fmt.Println("error", int(errno), err)
		default:
			fmt.Println("error 0", err)
		}
	}
	return nil
}

type obeyer struct {
	path  string
	f     *File
	locks []*Lock
}

func (o *obeyer) obey(w []string) (string, error) {
	var arg string
	if len(w) > 1 {
		arg = w[1]
	}
	number, _ := strconv.ParseInt(arg, 0, 32)
	var err error
	var l *Lock
	switch w[0] {
	case "umask":
		syscall.Umask(int(number))
	case "open": // MODE or GROUP or "readonly", each at will
		opts := testOptions(o.path)
		for _, s := range w[1:] {
			switch name, value, _ := strings.Cut(s, "="); name {
			case "mode":
				n, _ := strconv.ParseUint(value, 8, 32)
				opts.Mode = fs.FileMode(n)
			case "group":
				gid, _ := strconv.Atoi(value)
				opts.Group = &gid
			case "readonly":
				opts.ReadOnly = true
			}
		}
		o.f, err = Open(o.path, opts)
	case "create": // what everybody does first
		var file *os.File
		if file, err = os.OpenFile(o.path, os.O_RDWR|os.O_CREATE, 0o666); err == nil {
			file.Close()
		}
	case "lock", "rlock": // MILLISECONDS
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(number)*time.Millisecond)
		defer cancel()
		if w[0] == "lock" {
			l, err = o.f.Lock(ctx, "obeying")
		} else {
			l, err = o.f.RLock(ctx, "obeying")
		}
	case "trylock":
		l, err = o.f.TryLock("obeying")
	case "tryrlock":
		l, err = o.f.TryRLock("obeying")
	case "unlock":
		last := len(o.locks) - 1
		l := o.locks[last]
		o.locks = o.locks[:last]
		return "", l.Unlock()
	case "check":
		err = o.locks[0].Check()
	case "stat":
		_, err = o.locks[0].Stat()
	case "write":
		err = o.locks[0].WriteData([]byte(arg))
	case "data":
		var b []byte
		b, err = o.f.ReadData()
		return string(b), err
	case "holder":
		h, ok, err := o.f.Holder()
		if !ok {
			return "nobody", err
		}
		return strconv.Itoa(h.PID), err
	case "close":
		err = o.f.Close()
	case "fork": // leaves a child that has the descriptor and ends with the input that this one got as fd 3
		var pid int
		pid, err = syscall.ForkExec("/proc/self/exe", []string{"linger"}, &syscall.ProcAttr{
			Env:   append([]string{helperEnv + "=linger"}, os.Environ()...),
			Files: []uintptr{3, 1, 2, uintptr(o.locks[0].h.fd)},
		})
		return strconv.Itoa(pid), err
	default:
		return "", fmt.Errorf("what is %q?", w)
	}
	if l != nil {
		o.locks = append(o.locks, l)
	}
	return "", err
}

// A servant is a process that obeys.
type servant struct {
	*process
	replies chan string
}

func serve(t testing.TB, path string, prepare func(*exec.Cmd)) *servant {
	t.Helper()
	s := &servant{process: start(t, prepare, "obey", path), replies: make(chan string, 1)}
	go func() {
		defer close(s.replies)
		for {
			line, err := s.out.ReadString('\n')
			if err != nil {
				return
			}
			s.replies <- strings.TrimSpace(line)
		}
	}()
	return s
}

func (s *servant) tell(command string) { fmt.Fprintln(s.stdin, command) }

// reply waits for the answer to the last command.
func (s *servant) reply() string {
	s.t.Helper()
	select {
	case r, ok := <-s.replies:
		if !ok {
			s.t.Fatal("the process has ended")
		}
		return r
	case <-time.After(20 * time.Second):
		s.t.Fatal("the process hangs")
		return ""
	}
}

func (s *servant) ask(command string) string {
	s.t.Helper()
	s.tell(command)
	return s.reply()
}

// must gives commands and wants each to be answered with ok.
func (s *servant) must(commands ...string) {
	s.t.Helper()
	for _, c := range commands {
		if r := s.ask(c); r != "ok" {
			s.t.Fatalf("process %d: %s: %s", s.cmd.Process.Pid, c, r)
		}
	}
}

// busy gives a command and wants to hear that somebody else has the lock.
func (s *servant) busy(command string) string {
	s.t.Helper()
	r := s.ask(command)
	if !strings.HasPrefix(r, "busy ") {
		s.t.Fatalf("process %d: %s: %s; want busy", s.cmd.Process.Pid, command, r)
	}
	return r
}

// copied makes a directory of that mode, and a copy of this program in it, which other
// users may not be able to reach where it is.
func copied(t testing.TB, mode fs.FileMode) (dir, program string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lockfile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "lockfile.test")
	if err := errors.Join(os.Chmod(dir, mode), os.WriteFile(program, binary, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir, program
}

// nobodysDir is copied. Nobody prepares the copy to be run as another user, if we are
// root and can.
func nobodysDir(t testing.TB, mode fs.FileMode) (dir string, nobody func(*exec.Cmd)) {
	t.Helper()
	dir, program := copied(t, mode)
	return dir, func(cmd *exec.Cmd) {
		cmd.Path = program
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
	}
}

// everybodysDir is copied, with a directory that all users can reach. As prepares the
// copy to be run as another user, of the same group number.
func everybodysDir(t testing.TB) (dir string, as func(id uint32) func(*exec.Cmd)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be several users")
	}
	dir, program := copied(t, 0o755)
	return dir, func(id uint32) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			cmd.Path = program
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
		}
	}
}

// A judge looks at the locks of a file without any help from the package.
type judge struct {
	t  testing.TB
	fd int
}

func newJudge(t testing.TB, path string) *judge {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &judge{t, fd}
}

// can locks n bytes from start, 0 being all, if that is possible.
func (j *judge) can(typ int16, start, n int64) bool {
	j.t.Helper()
	for {
		err := unix.FcntlFlock(uintptr(j.fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: typ, Start: start, Len: n})
		switch err {
		case nil:
			return true
		case unix.EAGAIN:
			return false
		case unix.EINTR:
		default:
			j.t.Fatal(err)
		}
	}
}

func (j *judge) unlock() { j.can(unix.F_UNLCK, 0, 0) }

// state says how others have locked the lock itself.
func (j *judge) state() State {
	defer j.unlock()
	switch {
	case j.can(unix.F_WRLCK, 0, 1):
		return Free
	case j.can(unix.F_RDLCK, 0, 1):
		return Shared
	}
	return Exclusive
}

// allFree reports whether nothing at all is locked, or is not after a second.
func (j *judge) allFree() bool {
	defer j.unlock()
	for deadline := time.Now().Add(time.Second); ; time.Sleep(100 * time.Microsecond) {
		if j.can(unix.F_WRLCK, 0, 0) {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// queued reports whether anybody has locked a ticket.
func (j *judge) queued() bool {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: ticketStep, Len: gate - ticketStep}
	if err := unix.FcntlFlock(uintptr(j.fd), unix.F_OFD_GETLK, &lk); err != nil {
		j.t.Fatal(err)
	}
	return lk.Type != unix.F_UNLCK
}

// blocked reports whether the kernel has anybody wait for a lock on the file.
func (j *judge) blocked() bool {
	j.t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(j.fd, &st); err != nil {
		j.t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		j.t.Fatal(err)
	}
	// 1: -> FLOCK  ADVISORY  WRITE 124 fe:00:456 0 EOF
	// The device may be another one than that of stat.
	inode := fmt.Sprintf(":%d", st.Ino)
	for line := range strings.Lines(string(b)) {
		if w := strings.Fields(line); len(w) > 6 && w[1] == "->" && strings.HasSuffix(w[6], inode) {
			return true
		}
	}
	return false
}
