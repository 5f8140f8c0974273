//go:build linux

package nfslab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/internal/nfslab/remote"
)

const qemu = "qemu-system-x86_64"

// A Guest is one of a lab's machines.
type Guest struct {
	lab    *Lab
	name   string
	number int // of a client; -1: the server

	mu      sync.Mutex // protects what follows
	process *os.Process
	ended   chan struct{} // closed when process is gone
	host    *remote.Host  // nil: it is not up
}

func (l *Lab) newGuest(number int) *Guest {
	g := &Guest{lab: l, number: number, name: "server"}
	if number >= 0 {
		g.name = fmt.Sprintf("client%d", number)
	}
	return g
}

// Name is "server", or such as "client0".
func (g *Guest) Name() string { return g.name }

// path is that of the guest's file in the lab's directory.
func (g *Guest) path(kind string) string { return filepath.Join(g.lab.Dir, g.name+"."+kind) }

// Console returns the last of what the guest's kernel and daemons said.
func (g *Guest) Console() string {
	text, err := os.ReadFile(g.path("console"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// bootTimeout is how long a guest may take to come up. Emulated, and beside
// others on a busy machine, it takes half a minute.
const bootTimeout = 3 * time.Minute

// Boot starts the guest with the disk that it had, and returns when it is up.
func (g *Guest) Boot(ctx context.Context) error {
	g.mu.Lock()
	running := g.process != nil
	g.mu.Unlock()
	if running {
		return errors.New("it is running")
	}
	for _, kind := range []string{"agent", "qmp"} {
		_ = os.Remove(g.path(kind)) // of the process before
	}
	cmd := exec.Command(qemu, g.arguments()...)
	said, err := os.Create(g.path("qemu"))
	if err != nil {
		return err
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	// A group of its own: an interrupt at the terminal is for the lab. And an end
	// with the lab's, however that ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := startForGood(cmd); err != nil {
		return err
	}
	ended := make(chan struct{})
	g.mu.Lock()
	g.process, g.ended = cmd.Process, ended
	g.mu.Unlock()
	go func() {
		_ = cmd.Wait() // Kill's doing, or seen by whoever talks to it
		close(ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	h, err := g.connect(ctx, ended)
	if err != nil {
		g.Kill()
		text, _ := os.ReadFile(g.path("qemu"))
		return fmt.Errorf("boot: %w; qemu said: %s; the console's last lines:\n%s", err, text, g.Console())
	}
	g.mu.Lock()
	g.host = h
	g.mu.Unlock()
	return nil
}

// starter runs the functions that it is sent on one thread that never ends: the
// kernel takes the end of the thread for that of the parent.
var starter = sync.OnceValue(func() chan func() {
	todo := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range todo {
			f()
		}
	}()
	return todo
})

func startForGood(cmd *exec.Cmd) error {
	err := make(chan error)
	starter() <- func() { err <- cmd.Start() }
	return <-err
}

// arguments are qemu's.
func (g *Guest) arguments() []string {
	l := g.lab
	cpu, memory := "host", "1024"
	if l.accel == "tcg" {
		cpu = "qemu64"
	}
	parameters := fmt.Sprintf("console=ttyS0 quiet panic=-1 mitigations=off lab.role=client lab.number=%d", g.number)
	if g.number < 0 {
		memory = "768"
		parameters = fmt.Sprintf("console=ttyS0 quiet panic=-1 mitigations=off lab.role=server lab.clients=%d lab.lease=%d",
			l.Options.Clients, int(l.Lease.Seconds()))
	}
	args := []string{
		"-nodefaults", "-display", "none", "-no-reboot", "-m", memory, "-smp", "1", "-cpu", cpu, "-accel", l.accel,
		"-kernel", l.cache.path("vmlinuz"), "-initrd", l.initrd(), "-append", parameters,
		"-serial", "file:" + g.path("console"),
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-chardev", "socket,id=agent,server=on,wait=off,path=" + g.path("agent"),
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=agent",
		"-chardev", "socket,id=qmp,server=on,wait=off,path=" + g.path("qmp"), "-mon", "chardev=qmp,mode=control",
		// Nothing needs to outlive the host: what the guest has written is in the
		// host's memory when it is acknowledged, and stays there after a kill.
		"-drive", "file=" + g.path("disk") + ",format=raw,if=virtio,cache=unsafe",
	}
	// A cable between the server and each client: two sockets that know each other.
	for n := range l.Options.Clients {
		if g.number >= 0 && n != g.number {
			continue
		}
		near, far, host := "client", "server", 2
		if g.number < 0 {
			near, far, host = "server", "client", 1
		}
		cable := func(end string) string { return filepath.Join(l.Dir, fmt.Sprintf("cable%d.%s", n, end)) }
		_ = os.Remove(cable(near)) // of the process before
		args = append(
			args,
			"-netdev", fmt.Sprintf("dgram,id=cable%d,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", n, cable(near), cable(far)),
			"-device", fmt.Sprintf("virtio-net-pci,id=card%d,netdev=cable%d,mac=52:54:00:01:%02x:%02x", n, n, n, host),
		)
	}
	return args
}

// connect waits until the guest's agent says that it is there.
func (g *Guest) connect(ctx context.Context, ended <-chan struct{}) (*remote.Host, error) {
	var conn net.Conn
	for {
		var err error
		if conn, err = net.Dial("unix", g.path("agent")); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-ended:
			return nil, errors.New("qemu has ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
	h := remote.Connect(conn)
	select {
	case <-h.Up():
		return h, nil
	case <-h.Down():
		h.Close()
		return nil, errors.New("the agent's port was closed")
	case <-ctx.Done():
		h.Close()
		return nil, fmt.Errorf("the agent is not there: %w", ctx.Err())
	}
}

// Kill ends the guest at once, as the failure of its power would. Commands under
// way in it end with an error. The disk keeps what the guest had written to it;
// what was only in its memory is gone.
func (g *Guest) Kill() {
	g.mu.Lock()
	process, ended, h := g.process, g.ended, g.host
	g.process, g.host = nil, nil
	g.mu.Unlock()
	if process == nil {
		return
	}
	_ = process.Kill() // it may have ended
	<-ended
	if h != nil {
		h.Close()
	}
}

// Killed reports whether the guest was killed, and not booted since. One that ended
// by itself was not.
func (g *Guest) Killed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.process == nil
}

// Stop makes the guest stand still, as a suspended or badly overloaded machine.
func (g *Guest) Stop() error { return g.signal(syscall.SIGSTOP) }

// Continue lets it go on.
func (g *Guest) Continue() error { return g.signal(syscall.SIGCONT) }

func (g *Guest) signal(s os.Signal) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.process == nil {
		return errDown
	}
	return g.process.Signal(s)
}

var errDown = errors.New("the guest is not running")

// Command returns a command to be run in the guest. If that is not up, running
// it is an error.
func (g *Guest) Command(argv ...string) *remote.Cmd {
	g.mu.Lock()
	h := g.host
	g.mu.Unlock()
	if h == nil {
		h = remote.Nobody
	}
	return h.Command(argv...)
}

// Run runs a command in the guest and returns what it printed. The error of a
// command that failed is a remote.StatusError.
func (g *Guest) Run(ctx context.Context, argv ...string) (string, error) {
	var out bytes.Buffer
	c := g.Command(argv...)
	c.Stdout = &out
	err := c.Run(ctx)
	if err != nil {
		err = fmt.Errorf("%s: %w", g.name, err)
	}
	return out.String(), err
}
