package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A terminal is a program at a terminal of its own, in a directory with the FIFOs of hold.
type terminal struct {
	*testing.T
	dir    string
	master *os.File
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has
	shown  string
}

// patience is for what should take milliseconds.
const patience = 30 * time.Second

func startAtTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	// Not blocking, so that reads have deadlines.
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	conn, err := master.SyscallConn() // Fd would make it block
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if ctlErr := conn.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()

	dir := t.TempDir()
	for _, name := range []string{"ready", "go"} {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), storeEnv+"=", lockedEnv+"=", updatingEnv+"=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tt := &terminal{T: t, dir: dir, master: master, cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its state says it
		close(tt.ended)
	}()
	t.Cleanup(func() {
		// What is left of it would keep the lock, and the FIFO.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-tt.ended
	})
	return tt
}

// ready waits until hold runs.
func (t *terminal) ready() {
	t.Helper()
	running := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(t.dir, "ready"))
		running <- err
	}()
	select {
	case err := <-running:
		if err != nil {
			t.Fatal(err)
		}
	case <-t.ended:
		t.Fatalf("it ended before: %v", t.cmd.ProcessState)
	case <-time.After(patience):
		t.Fatal("it does not run")
	}
}

// enter types.
func (t *terminal) enter(keys string) {
	t.Helper()
	if _, err := t.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// until waits until the terminal shows the text, and "" waits until nobody has it open.
func (t *terminal) until(text string) {
	t.Helper()
	if err := t.master.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 4096); text == "" || !strings.Contains(t.shown, text); {
		n, err := t.master.Read(b)
		t.shown += string(bytes.ReplaceAll(b[:n], []byte("\r\n"), []byte("\n")))
		if err != nil && text == "" && !os.IsTimeout(err) {
			return
		}
		if err != nil {
			t.Fatalf("the terminal shows %q, not %q: %v", t.shown, text, err)
		}
	}
}

// wait waits until the program has ended.
func (t *terminal) wait() syscall.WaitStatus {
	t.Helper()
	select {
	case <-t.ended:
	case <-time.After(patience):
		t.Fatalf("it does not end, and the terminal shows %q", t.shown)
	}
	return t.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// What is typed at a terminal reaches a command that has left the process group.
func TestInterruptOtherGroup(t *testing.T) {
	for _, verb := range [][]string{{"lock", "a"}, {"--store", "s", "update", "a"}} {
		t.Run(strings.Join(verb, " "), func(t *testing.T) {
			t.Parallel()
			term := startAtTerminal(t, append(append([]string{"recordctl"}, verb...), "--", "hold", "-group")...)
			term.ready()
			term.enter("\x03")
			term.wait()
		})
	}
}

// Who is interrupted ends of that, so that a shell's loop does too.
func TestInterruptEndsLoop(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("there is no bash; other shells do not wait for the command's end")
	}
	for _, line := range []string{"lock a --", "--store s update a --"} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			term := startAtTerminal(t, "bash", "-c", "for i in 1 2 3; do recordctl "+line+` hold; echo "after $i"; done`)
			term.ready()
			term.enter("\x03")
			if got := term.wait(); got.Signal() != syscall.SIGINT {
				t.Errorf("bash ended with status %d, signal %d", got.ExitStatus(), got.Signal())
			}
			if term.until(""); strings.Contains(term.shown, "after") {
				t.Errorf("the loop goes on: %q", term.shown)
			}
		})
	}
}

// So does who waits for the lock.
func TestInterruptWhileWaiting(t *testing.T) {
	term := startAtTerminal(t, "recordctl", "lock", "a", "--", "sh", "-c", "hold")
	term.ready()
	waiting := startAtTerminal(t, "recordctl", "lock", filepath.Join(term.dir, "a"), "--", "touch", "ran")
	waiting.until("waiting for lock")
	waiting.enter("\x03")
	if got := waiting.wait(); got.Signal() != syscall.SIGINT {
		t.Errorf("got status %d, signal %d", got.ExitStatus(), got.Signal())
	}
	waiting.until("interrupted: interrupt; nothing was changed\n")
}
