package main

import (
	"encoding/base64"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/recordstore/recordstore/lockfile"
)

// The lock file of a store gets the mode of the store's LOCK, and nothing else does that
// somebody has put in its place since it was locked.
func TestRestoreMode(t *testing.T) {
	for _, tt := range []struct {
		name    string
		put     func(secret, path string) error // in place of the lock file
		restore bool
	}{
		{name: "itself", put: func(_, _ string) error { return nil }, restore: true},
		{name: "symbolic link", put: replaceBy(os.Symlink)},
		{name: "hard link", put: replaceBy(os.Link)},
		{name: "hard link to itself", put: func(_, path string) error { return os.Link(path, path+"2") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			secret, lock := filepath.Join(dir, "secret"), filepath.Join(dir, storeLock)
			for _, name := range []string{secret, lock} {
				if err := os.WriteFile(name, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(lock, 0o640); err != nil {
				t.Fatal(err)
			}
			target := lockTarget{path: filepath.Join(dir, "lock.a"), dir: dir}
			f, err := lockfile.Open(target.path, &lockfile.Options{Mode: 0o600})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			l, err := f.TryLock("")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Unlock()
			if err := tt.put(secret, target.path); err != nil {
				t.Fatal(err)
			}
			if c := target.restoreMode(l); c != nil {
				defer c.Close()
			}
			want := fs.FileMode(0o600)
			if tt.restore {
				want = 0o640
			}
			if info, err := l.Stat(); err != nil || info.Mode() != want {
				t.Errorf("the lock file has mode %v, %v; want %v", info.Mode(), err, want)
			}
			if info, err := os.Stat(secret); err != nil || info.Mode() != 0o600 {
				t.Errorf("the file in its place has mode %v, %v; want %v", info.Mode(), err, fs.FileMode(0o600))
			}
		})
	}
}

// replaceBy makes what puts a link to the secret in the place of a file.
func replaceBy(link func(old, name string) error) func(secret, path string) error {
	return func(secret, path string) error {
		if err := os.Remove(path); err != nil {
			return err
		}
		return link(secret, path)
	}
}

// A message that nobody reads ends neither lock nor the command, which has the usual SIGPIPE.
func TestLockMessageUnread(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		want       int
	}{
		{"not had", "recordctl lock a -- recordctl lock a -- true", exitNested},
		{"lost", "recordctl lock a -- rm a", exitIO},
		{"lost meanwhile", "recordctl lock a -- sh -c 'rm a; sleep 2; echo went on > on'", exitIO},
		{"of the command", "recordctl lock a -- sh -c 'kill -PIPE $$'", exitSignal + 13},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			defer w.Close()
			cmd := exec.Command("sh", "-c", tt.line+"; exit $?")
			cmd.Dir, cmd.Stderr = t.TempDir(), w
			cmd.Env = append(os.Environ(), storeEnv+"=", lockedEnv+"=")
			_ = cmd.Run() // the status says it
			if got := cmd.ProcessState.ExitCode(); got != tt.want {
				t.Errorf("%s: status: got %d, want %d", tt.line, got, tt.want)
			}
			if _, err := os.Stat(filepath.Join(cmd.Dir, "on")); err != nil && strings.Contains(tt.line, "> on") {
				t.Errorf("the command did not go on: %v", err)
			}
		})
	}
}

// How the command ended lock tells in the same way if it was by SIGINT, and else by its status.
func TestLockEndsAsCommand(t *testing.T) {
	for _, tt := range []struct {
		line   string
		status int // -1: a signal
		signal syscall.Signal
	}{
		{"recordctl lock a -- sh -c 'kill -INT $$'", -1, syscall.SIGINT},
		{"recordctl lock a -- recordctl lock b -- sh -c 'kill -INT $$'", -1, syscall.SIGINT},
		{"recordctl lock a -- sh -c 'exit 130'", 130, -1},
		{"recordctl lock a -- sh -c 'kill -TERM $$'", 143, -1},
		{"trap '' INT; recordctl lock a -- sh -c 'kill -INT $$; exit 5'", 5, -1},
	} {
		t.Run(tt.line, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("sh", "-c", strings.Replace(tt.line, "recordctl", "exec recordctl", 1))
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), storeEnv+"=", lockedEnv+"=")
			_ = cmd.Run() // its state says it
			if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.ExitStatus() != tt.status || ws.Signal() != tt.signal {
				t.Errorf("got status %d, signal %d; want %d, %d", ws.ExitStatus(), ws.Signal(), tt.status, tt.signal)
			}
		})
	}
}

// Names that are not UTF-8 are not changed by --json, and none forges a line or reaches a
// terminal as more than text.
func TestLockStrangeNames(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d\xff\nOK: \x1b[31m")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Skipf("there are no such names here: %v", err)
	}
	path := filepath.Join(dir, "a\xfe")
	f, err := lockfile.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	base64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"lock", "probe", dir, "--processes", "2"}, "directory    " + strconv.Quote(dir) + "\n"},
		{[]string{"lock", "probe", dir, "--processes", "2", "--json"}, `{"dir_base64":"` + base64(dir) + `","file_system":`},
		{[]string{"lock", "status", path}, strconv.Quote(path) + ": free\n"},
		{[]string{"lock", "status", path, "--json"}, `{"path_base64":"` + base64(path) + `","mechanism":`},
		{[]string{"lock", "gc", dir, "--older-than", "0s", "--json"}, `{"dir_base64":"` + base64(dir) + `","removed":[],"removed_base64":["` + base64(path) + `"]}`},
	} {
		cmd := exec.Command("recordctl", tt.args...)
		cmd.Env = append(os.Environ(), storeEnv+"=")
		out, err := cmd.Output()
		if err != nil || !strings.HasPrefix(string(out), tt.want) {
			t.Errorf("%q: got %q, %v; want %q at the beginning", tt.args, out, err, tt.want)
		}
	}
}
