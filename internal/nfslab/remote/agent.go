package remote

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// An agent runs the host's commands.
type agent struct {
	out     *frameWriter
	mu      sync.Mutex // protects running
	running map[uint32]*process
}

type process struct {
	cmd   *exec.Cmd
	stdin chan []byte // nil once it was closed
}

// Serve runs commands for the host at the other end of the port, until the port
// fails.
func Serve(port io.ReadWriter) error {
	a := &agent{out: &frameWriter{w: port}, running: map[uint32]*process{}}
	if err := a.out.write(frame{kind: kindHello}); err != nil {
		return err
	}
	in := newReader(port)
	for {
		f, err := readFrame(in)
		if err != nil {
			return err
		}
		switch f.kind {
		case kindRun:
			err = a.start(f)
		case kindStdin:
			a.input(f)
		case kindSignal:
			a.signal(f)
		}
		if err != nil {
			return err
		}
	}
}

// start runs a command. Only an error of the port is returned.
func (a *agent) start(f frame) error {
	var c request
	err := json.Unmarshal(f.payload, &c)
	if err == nil && len(c.Argv) == 0 {
		err = errors.New("no command")
	}
	if err != nil {
		return a.ended(f.command, response{127, err.Error()})
	}
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // signals are for all of its processes
	cmd.Stdout, cmd.Stderr = stream{a.out, kindStdout, f.command}, stream{a.out, kindStderr, f.command}
	cmd.WaitDelay = 2 * time.Second // processes that it leaves behind may keep its output open
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return a.ended(f.command, response{127, err.Error()})
	}
	p := &process{cmd: cmd, stdin: make(chan []byte, 1024)}
	a.mu.Lock()
	a.running[f.command] = p
	a.mu.Unlock()
	// The goroutine has the channel, not p: input sets that to nil.
	go func(in <-chan []byte) {
		for b := range in {
			_, _ = stdin.Write(b) // it may not want to read; its status tells
		}
		_ = stdin.Close()
	}(p.stdin)
	go func() {
		err := cmd.Wait()
		a.mu.Lock()
		delete(a.running, f.command)
		a.mu.Unlock()
		_ = a.ended(f.command, response{Status: status(cmd, err)}) // Serve meets the same error
	}()
	return nil
}

func (a *agent) ended(command uint32, r response) error {
	payload, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return a.out.write(frame{kindExit, command, payload})
}

// input passes on what the host has for a command, or that it has no more.
// While a command does not read and the channel is full everything waits.
func (a *agent) input(f frame) {
	a.mu.Lock()
	p := a.running[f.command]
	a.mu.Unlock()
	switch {
	case p == nil || p.stdin == nil: // it has ended, or said so twice
	case len(f.payload) > 0:
		p.stdin <- f.payload
	default:
		close(p.stdin)
		p.stdin = nil
	}
}

// signal sends one to all processes of a command.
func (a *agent) signal(f frame) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.running[f.command]; p != nil && len(f.payload) == 1 {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.Signal(f.payload[0])) // they may be gone
	}
}

// status is the command's, as a shell has it.
func status(cmd *exec.Cmd, err error) int {
	ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && ws.Signaled():
		return 128 + int(ws.Signal())
	case err == nil || errors.Is(err, exec.ErrWaitDelay) || cmd.ProcessState.ExitCode() != 0:
		return cmd.ProcessState.ExitCode()
	}
	return 126 // its output could not be copied
}
