//go:build linux

// Command agent is the first process of the NFS lab's guests, and what runs
// commands in them for the host.
//
// As process 1 it mounts what every process expects, loads the kernel's modules,
// runs the script of the guest's part (internal/nfslab/guest), starts itself
// again as the agent proper, which is remote.Serve on a virtio-serial port, and
// from then on only collects dead processes.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/recordstore/recordstore/internal/nfslab/remote"
)

func main() {
	var err error
	if os.Getpid() == 1 {
		err = initialize()
	} else {
		err = serve()
	}
	fmt.Fprintln(os.Stderr, "agent:", err)
	if os.Getpid() == 1 {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // the host sees qemu end, and shows the console
	}
	os.Exit(1)
}

// initialize is what process 1 does. It returns only errors.
func initialize() error {
	for _, m := range [][2]string{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := console(); err != nil {
		return err
	}
	env, err := parameters()
	if err != nil {
		return err
	}
	env = append(env, "PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/", "LD_LIBRARY_PATH=/lib")
	if err := loadModules(); err != nil {
		return err
	}
	// busybox by its path: the links that PATH needs are what it makes.
	script := "/etc/" + value(env, "LAB_ROLE") + ".sh"
	for _, argv := range [][]string{{"/bin/busybox", "--install", "-s", "/bin"}, {"/bin/busybox", "sh", script}} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
		}
	}
	for {
		pid, err := startAgent(env)
		if err != nil {
			return err
		}
		for died := 0; died != pid; { // whoever has no parent any more is ours
			if died, err = unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
				return err
			}
		}
		fmt.Fprintln(os.Stderr, "agent: starting it again")
		time.Sleep(time.Second)
	}
}

// startAgent starts the agent proper. Not os/exec, whose Wait would be in
// the way of the one above.
func startAgent(env []string) (int, error) {
	p, err := os.StartProcess("/init", []string{"agent"}, &os.ProcAttr{Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 0, err
	}
	return p.Pid, p.Release()
}

// console makes the console the standard files: the initramfs has no /dev from
// which the kernel could.
func console() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR, 0) // not os.File, which is closed when it is forgotten
	if err != nil {
		return err
	}
	for standard := range 3 {
		if standard == fd {
			continue
		}
		if err := unix.Dup3(fd, standard, 0); err != nil {
			return err
		}
	}
	return nil
}

// parameters returns the kernel's parameters lab.NAME=VALUE as LAB_NAME=VALUE.
func parameters() ([]string, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	var env []string
	for _, word := range strings.Fields(string(line)) {
		name, value, ok := strings.Cut(word, "=")
		if name, is := strings.CutPrefix(name, "lab."); is && ok {
			env = append(env, "LAB_"+strings.ToUpper(name)+"="+value)
		}
	}
	return env, nil
}

// value returns that of the variable in env.
func value(env []string, name string) string {
	for _, v := range env {
		if v, ok := strings.CutPrefix(v, name+"="); ok {
			return v
		}
	}
	return ""
}

// loadModules loads those of /etc/modules, each after the ones that it needs.
func loadModules() error {
	list, err := os.ReadFile("/etc/modules")
	if err != nil {
		return err
	}
	for path := range strings.Lines(string(list)) {
		path = strings.TrimSpace(path)
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

// serve runs the host's commands until the port fails.
func serve() error {
	port, err := openPort("agent")
	if err != nil {
		return err
	}
	return remote.Serve(patient{port})
}

// openPort opens the virtio-serial port of the name. There is no udev that
// would make a link of that name.
func openPort(name string) (*os.File, error) {
	for range 100 {
		found, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == name {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(path)), os.O_RDWR, 0)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, fmt.Errorf("there is no virtio-serial port %q", name)
}

// patient reads from a port at whose other end there may be nobody just now,
// which the kernel reports as the end of the file.
type patient struct{ *os.File }

func (p patient) Read(b []byte) (int, error) {
	for {
		n, err := p.File.Read(b)
		if n > 0 || err != nil && err != io.EOF {
			return n, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
