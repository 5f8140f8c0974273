package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spf13/cobra"
)

// outputGrace, which a test shortens, is how long a command's output may stay open after the command
// has ended, held by a process that it left behind.
var outputGrace = 5 * time.Second

// errOutputHeld is reported when a command has ended but its output has not.
// To wait on would keep everybody else waiting too.
var errOutputHeld = errors.New("the command has ended, but a process that it left behind still holds its standard input or output")

// commandArgs splits the arguments at the dash: those of the verb, of which
// there are at least least and at most len(names), and the command.
func commandArgs(cmd *cobra.Command, args []string, least int, names ...string) (own, argv []string, err error) {
	hint := "usage: " + cmd.UseLine()
	dash := cmd.ArgsLenAtDash()
	if dash < 0 {
		return nil, nil, usagef(hint, "%s: put -- before the command to run", cmd.Name())
	}
	own, argv = args[:dash], args[dash:]
	switch {
	case len(own) < least:
		return nil, nil, usagef(hint, "%s: %s is missing", cmd.Name(), names[len(own)])
	case len(own) > len(names):
		return nil, nil, usagef(hint, "%s: unexpected argument %q before --", cmd.Name(), own[len(names)])
	case len(argv) == 0 || argv[0] == "":
		return nil, nil, usagef(hint, "%s: there is no command after --", cmd.Name())
	}
	return own, argv, nil
}

// childEnv returns our environment with the settings added, of which the last
// of a name counts.
func childEnv(settings ...string) []string { return append(os.Environ(), settings...) }

// A childStatus is how a command ended.
type childStatus struct {
	code     int          // as a shell has it: 128+N if signal N killed it
	killed   bool         // it was killed by a signal
	signaled *signalError // we were asked to end while it ran
}

// note notes that the signal came while the command ran.
func (s *childStatus) note(sig os.Signal) {
	if sig != syscall.SIGUSR1 && sig != syscall.SIGUSR2 {
		s.signaled = &signalError{sig.(syscall.Signal)}
	}
}

// err is nil unless SIGINT ended the command: we end of that too, see endOfInterrupt.
func (s childStatus) err() error {
	if s.killed && s.code == exitSignal+int(syscall.SIGINT) {
		return signalError{syscall.SIGINT}
	}
	return nil
}

// runChild runs the command and waits for it. It is in our process group, so
// that a Ctrl-C reaches it from the terminal; signals sent to us alone are
// passed on. We outlive it always.
//
// The error says that the command could not be run, or that its output did
// not end with it.
func runChild(cmd *exec.Cmd) (childStatus, error) {
	// On Linux the command is told when its parent, that is this thread, dies.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = childAttr()
	}
	cmd.WaitDelay = outputGrace

	// Those that mean something to the command alone are passed on too. Not what the
	// terminal sends it itself, such as SIGWINCH, and SIGCONT, of which we know nothing
	// if we were not stopped.
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, append(endingSignals(), syscall.SIGUSR1, syscall.SIGUSR2)...)
	defer signal.Stop(sigs)
	if err := cmd.Start(); err != nil {
		return childStatus{}, startError(cmd.Args[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	var status childStatus
	for {
		select {
		case sig := <-sigs:
			status.note(sig)
			if !fromTerminal(sig, cmd.Process.Pid) {
				_ = cmd.Process.Signal(sig) // it may just have ended
			}
		case err := <-ended:
			select {
			case sig := <-sigs: // it came first, and we did not see it
				status.note(sig)
			default:
			}
			status.code = cmd.ProcessState.ExitCode()
			if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
				status.code, status.killed = exitSignal+int(ws.Signal()), true
			}
			if errors.Is(err, exec.ErrWaitDelay) {
				return status, errOutputHeld
			}
			return status, nil
		}
	}
}

// startError gives a command that cannot be run the status a shell gives it.
func startError(name string, err error) error {
	var execErr *exec.Error
	if errors.As(err, &execErr) {
		err = execErr.Err
	} else {
		err = bare(err)
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return fail(exitNoCommand, "", "run %q: %w", name, err)
	}
	return fail(exitCannotRun, "", "run %q: %w", name, err)
}

// fromTerminal reports whether the command, the process pid, has had the signal as
// well: what is typed at a terminal goes to all processes in its foreground. To pass
// it on would be a second Ctrl-C, which to many programs means: at once. A command
// that has left our process group, as timeout(1) does, has not had it.
func fromTerminal(sig os.Signal, pid int) bool {
	if sig != syscall.SIGINT && sig != syscall.SIGQUIT {
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	if err != nil || foreground != unix.Getpgrp() {
		return false
	}
	group, err := unix.Getpgid(pid)
	return err == nil && group == foreground
}

// boundedBuffer keeps what is written to it, up to a limit. Beyond that it
// fails, which closes the pipe to the command that writes.
type boundedBuffer struct {
	data  []byte
	limit int
	over  bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if len(p) > b.limit-len(b.data) {
		b.over = true
		return 0, io.ErrShortWrite
	}
	b.data = append(b.data, p...)
	return len(p), nil
}
