package lockfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFlockProbe(t *testing.T) {
	path := lockPath(t)
	f := openWith(t, path, Options{Mechanism: Flock})
	check := func(want State) {
		t.Helper()
		h, _, err := openRead("inspect", path)
		if err != nil {
			t.Fatal(err)
		}
		defer h.close()
		got, err := h.probe()
		if want == Free && got == Unseen {
			t.Log("it cannot be told here that a lock is free")
			return
		}
		if err != nil || got != want {
			t.Errorf("lock state %v, %v; want %v", got, err, want)
		}
	}
	check(Free)
	l := mustLock(t, f, "")
	check(Exclusive)
	w, cancel := lockLater(f, true)
	eventually(t, "waiting", waiting(f, 1))
	check(Exclusive)
	mustUnlock(t, l)
	r := receive(t, w)
	cancel()
	check(Shared)
	mustUnlock(t, r)
	check(Free)
}

// TestFlockStaleRecord: the dead process is not the holder, where that can be told.
func TestFlockStaleRecord(t *testing.T) {
	withMechanism(t, Flock)
	path := lockPath(t)
	p := start(t, nil, "hold", path, "dying")
	p.expect("locked")
	if h, ok, err := recorded(path); err != nil || !ok || h.PID != p.cmd.Process.Pid || h.Purpose != "dying" {
		t.Errorf("Inspect = %v, %v, %v", h, ok, err)
	}
	p.kill()
	st := stateOf(t, path)
	if h, ok, err := recorded(path); err != nil || ok != (st == Unseen) {
		t.Errorf("Inspect = %v, %v, %v; lock state %v", h, ok, err, st)
	}
}

// TestFlockIsFlock: and an open-file-description lock is none.
func TestFlockIsFlock(t *testing.T) {
	for _, m := range []Mechanism{Auto, OFD, Flock} {
		path := lockPath(t)
		l := mustLock(t, openWith(t, path, Options{Mechanism: m}), "")
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		fd := int(file.Fd())
		if err := flock(fd, unix.LOCK_SH|unix.LOCK_NB); (err == errBusy) != (m == Flock) {
			t.Errorf("%v: flock: %v", m, err)
		}
		if err := setlk(fd, unix.F_RDLCK, 0, 1, false); (err == errBusy) != (m != Flock) {
			t.Errorf("%v: setlk: %v", m, err)
		}
		mustUnlock(t, l)
	}
}

func init() { helpers["opengroup"] = helpOpenGroup }

// helpOpenGroup PATH creates the file for a group that an ordinary user is not in.
func helpOpenGroup(args []string) error {
	group := 0
	_, err := Open(args[0], &Options{Group: &group, Mode: 0o660})
	fmt.Println(err)
	return nil
}

func TestGroupRefused(t *testing.T) {
	top, nobody := nobodysDir(t, 0o777)
	path := filepath.Join(top, "LOCK")
	p := start(t, nobody, "opengroup", path)
	s := p.line()
	p.finish()
	if !strings.Contains(s, "group 0") || !strings.Contains(s, "set-group-ID") || !strings.Contains(s, "not permitted") {
		t.Errorf("Open: %s", s)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file was left: %v", err)
	}
}

// TestGroupRefusedInUse: a file that somebody else has begun to use is left.
func TestGroupRefusedInUse(t *testing.T) {
	for _, used := range []bool{false, true} {
		path := lockPath(t)
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		fd, _, err := openOrCreate(path, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		f := &File{name: path, path: path}
		h := &handle{path: path, opts: &f.opts, fd: fd}
		if err := h.identify(); err != nil {
			t.Fatal(err)
		}
		if used {
			mustUnlock(t, mustLock(t, mustOpen(t, path), ""))
		}
		f.discard(choosing.locate(filepath.Dir(path)), h)
		h.close()
		if _, err := os.Lstat(path); (err == nil) != used {
			t.Errorf("used %v: %v", used, err)
		}
	}
}

// TestEmptyFileLocked: a stranger who has locked an empty file is not waited for
// forever.
func TestEmptyFileLocked(t *testing.T) {
	path := lockPath(t)
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := setlk(int(file.Fd()), unix.F_WRLCK, 0, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, nil); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("Open: %v", err)
	}
	file.Close()
	mustUnlock(t, mustLock(t, mustOpen(t, path), ""))
}
