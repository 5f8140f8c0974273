package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"recordctl": main, "hold": hold, "fcntl-lock": fcntlLock})
}

// hold is a command for scripts: it says through the FIFO ready that it runs,
// waits until the FIFO go is written to, and prints its arguments. With -term as
// the first it waits for a SIGTERM before that, and does not end of it. With -group it
// runs in a process group of its own. A script that fails interrupts it.
func hold() {
	args := os.Args[1:]
	term := make(chan os.Signal, 1)
	switch {
	case len(args) > 0 && args[0] == "-term":
		signal.Notify(term, syscall.SIGTERM)
		args = args[1:]
	case len(args) > 0 && args[0] == "-group":
		if err := syscall.Setpgid(0, 0); err != nil {
			log.Fatal(err)
		}
		args = args[1:]
		fallthrough
	default:
		close(term)
	}
	if err := os.WriteFile("ready", []byte("running\n"), 0); err != nil {
		log.Fatal(err)
	}
	<-term
	if _, err := os.ReadFile("go"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.Join(args, " "))
}

// fcntlLock is a program that knows nothing of ours: "fcntl-lock FILE [ARG]..." locks
// the whole file with a traditional lock of fcntl(2), or ends with status 1 if it is
// locked, and then does what hold does.
func fcntlLock() {
	f, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		log.Fatal(err)
	}
	os.Args = os.Args[1:]
	hold()
	runtime.KeepAlive(f)
}

// TestScripts runs the scripts of testdata/script. Each runs the command in
// real processes, by way of this test binary.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// Nothing of who runs the tests may name a store.
			for _, name := range []string{storeEnv, updatingEnv, lockedEnv} {
				env.Setenv(name, "")
			}
			// Under -race each process would sleep a second before it ends.
			env.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Getuid() == 0, nil
			case "unshare":
				return exec.Command("unshare", "--pid", "--fork", "--mount-proc", "true").Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":       scriptExits,
			"fingerprint": scriptFingerprint,
		},
	})
}

// scriptExits is "exits STATUS PROGRAM [ARG]...": the program must end with
// exactly that status, and print nothing on standard output if it is not 0.
// With "+out" after the status it may.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS [+out] PROGRAM [ARG]...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	args, output := args[1:], args[1] == "+out"
	if output {
		args = args[1:]
	}
	got := 0
	if err := ts.Exec(args[0], args[1:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status: got %d, want %d", got, want)
	}
	if stdout := ts.ReadFile("stdout"); got != 0 && !output && stdout != "" {
		ts.Fatalf("a failed command printed %q", stdout)
	}
}

// scriptFingerprint is "fingerprint DIR FILE": FILE gets a line for DIR and
// each file in it that no change leaves the same: a changed byte, permission or
// name, a file that came and went.
func scriptFingerprint(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fingerprint DIR FILE")
	}
	dir := ts.MkAbs(args[0])
	var lines []string
	ts.Check(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var sum [sha256.Size]byte
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = sha256.Sum256(data)
		}
		lines = append(lines, fmt.Sprintf("%s %v %d %d %x", path, info.Mode(), info.Size(), info.ModTime().UnixNano(), sum))
		return nil
	}))
	slices.Sort(lines)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(lines, "\n")+"\n"), 0o666))
}
