package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Two users without a name, and root.
const (
	userA = 65531
	userB = 65532
)

// protectRegular sets fs.protected_regular, which is for the whole system, to 2, as many
// distributions do, for as long as the test runs.
func protectRegular(t testing.TB) {
	t.Helper()
	const file = "/proc/sys/fs/protected_regular"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Skipf("this kernel does not protect regular files: %v", err)
	}
	if strings.TrimSpace(string(old)) == "2" {
		return
	}
	if os.Getuid() != 0 {
		t.Skipf("fs.protected_regular is %s, and only root can set it", old)
	}
	t.Cleanup(func() { os.WriteFile(file, old, 0) })
	if err := os.WriteFile(file, []byte("2"), 0); err != nil {
		t.Skipf("fs.protected_regular cannot be set here: %v", err)
	}
}

// TestManyUsers: in a sticky directory in which all may write, of root or of one of
// the users, whoever creates the lock file shares it with the others. The naive way to
// open a file that may have to be created is refused to some of them, root among them.
func TestManyUsers(t *testing.T) {
	top, as := everybodysDir(t)
	protectRegular(t)
	refused := 0
	for _, dirOwner := range []int{0, userA} {
		dir := filepath.Join(top, fmt.Sprint(dirOwner))
		if err := errors.Join(os.Mkdir(dir, 0o777), os.Chown(dir, dirOwner, dirOwner), os.Chmod(dir, 0o777|fs.ModeSticky)); err != nil {
			t.Fatal(err)
		}
		for _, order := range [][]uint32{
			{0, userA, userB}, {0, userB, userA}, {userA, 0, userB}, {userA, userB, 0}, {userB, 0, userA}, {userB, userA, 0},
		} {
			t.Run(fmt.Sprintf("directory of %d, then %d", dirOwner, order), func(t *testing.T) {
				path := filepath.Join(dir, strings.Trim(strings.Join(strings.Fields(fmt.Sprint(order)), "-"), "[]"))
				var users []*servant
				for i, id := range order {
					u := serve(t, path, as(id))
					users = append(users, u)
					u.must("umask 077", "open mode=666")
					if i == 0 {
						u.must("lock 5000")
					}
				}
				judge := newJudge(t, path)
				fi, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if owner := fi.Sys().(*syscall.Stat_t).Uid; owner != order[0] || fi.Mode() != 0o666 {
					t.Errorf("owner %d, mode %v", owner, fi.Mode())
				}
				for i, u := range users {
					// The rule: the file is neither yours nor the directory owner's.
					trap := order[0] != order[i] && int(order[0]) != dirOwner
					r := u.ask("create")
					if got := strings.HasPrefix(r, fmt.Sprintf("error %d ", unix.EACCES)); got != trap {
						t.Errorf("O_CREAT of user %d: %s; want it refused: %v", order[i], r, trap)
					}
					if trap {
						refused++
					}
				}
				for i, u := range users {
					next, last := users[(i+1)%3], users[(i+2)%3]
					next.busy("trylock")
					if r := last.busy("tryrlock"); !strings.Contains(r, fmt.Sprintf("pid %d ", u.cmd.Process.Pid)) {
						t.Errorf("the holder is %d: %s", u.cmd.Process.Pid, r)
					}
					next.tell("lock 10000")
					eventually(t, "blocked", judge.blocked)
					u.must("unlock")
					if r := next.reply(); r != "ok" {
						t.Fatalf("user %d: %s", order[(i+1)%3], r)
					}
				}
				users[0].must("unlock")
				users[1].must("rlock 5000")
				users[2].must("rlock 5000")
				users[0].busy("trylock")
			})
		}
	}
	t.Logf("O_CREAT was refused %d times", refused)
	if refused == 0 {
		t.Error("there is no trap here")
	}
}

// TestManyUsersCount: all at once, and nobody has created the file before.
func TestManyUsersCount(t *testing.T) {
	dir, as := everybodysDir(t)
	protectRegular(t)
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	// Whoever the file is of, all must be able to write it.
	for range 5 {
		path := filepath.Join(dir, "LOCK")
		var users []*servant
		for _, id := range []uint32{0, userA, userB, 0, userA, userB} {
			users = append(users, serve(t, path, as(id)))
		}
		for _, u := range users {
			u.tell("open mode=666")
		}
		for _, u := range users {
			if r := u.reply(); r != "ok" {
				t.Fatal(r)
			}
		}
		judge := newJudge(t, path)
		for _, u := range users {
			u.tell("lock 20000")
		}
		for range users {
			// One at a time has it.
			var holder *servant
			for deadline := time.Now().Add(20 * time.Second); holder == nil; time.Sleep(100 * time.Microsecond) {
				for _, u := range users {
					if len(u.replies) > 0 {
						if holder != nil {
							t.Fatal("two holders")
						}
						holder = u
					}
				}
				if time.Now().After(deadline) {
					t.Fatal("nobody has the lock")
				}
			}
			if r := holder.reply(); r != "ok" || judge.state() != Exclusive {
				t.Fatal(r)
			}
			holder.must("unlock")
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestModeLateInUse: who comes before the file has got its mode waits for that, even if
// root or the file's owner, who need no mode, have come between and use the file.
func TestModeLateInUse(t *testing.T) {
	dir, as := everybodysDir(t)
	path := filepath.Join(dir, "LOCK")
	for _, open := range []string{"open mode=666", "open readonly"} {
		if err := os.WriteFile(path, encodeHeader(defaultMechanism), 0o600); err != nil {
			t.Fatal(err)
		}
		u := serve(t, path, as(userA))
		u.must("umask 077") // it runs
		u.tell(open)
		time.Sleep(10 * time.Millisecond)
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		if r := u.reply(); r != "ok" {
			t.Errorf("%s: %s", open, r)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGroupOfUsers: the file is for a group that not everybody is in.
func TestGroupOfUsers(t *testing.T) {
	dir, as := everybodysDir(t)
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "LOCK")
	root, a, b := serve(t, path, as(0)), serve(t, path, as(userA)), serve(t, path, as(userB))
	root.must("umask 077", fmt.Sprintf("open mode=660 group=%d", userA), "lock 5000")
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if gid := fi.Sys().(*syscall.Stat_t).Gid; gid != userA || fi.Mode() != 0o660 {
		t.Errorf("group %d, mode %v", gid, fi.Mode())
	}
	a.must("open")
	a.busy("trylock")
	want := fmt.Sprintf("error 13 open %s: permission denied: it belongs to root (uid 0), group gid %d, and has mode -rw-rw----"+
		", in a sticky directory, mode drwxrwxrwt, where only its owner, the directory's and root can delete it"+
		"; to lock it one needs permission to read and write: members of that group have it, and its owner can give it to all with chmod a+rw", path, userA)
	if r := b.ask("open"); r != want {
		t.Errorf("not a member:\n%s\nwant\n%s", r, want)
	}
}

// TestPermissionErrors: what is in the way, whose it is, and what to do.
func TestPermissionErrors(t *testing.T) {
	top, as := everybodysDir(t)
	if u, g := userName(0), groupName(0); u != "root (uid 0)" || g != "root (gid 0)" {
		t.Skipf("root is known here as %s, group %s", u, g)
	}
	const (
		ofRoot  = "belongs to root (uid 0), group root (gid 0), and has mode "
		rw      = "; to lock it one needs permission to read and write: "
		give    = "its owner can give it to all with chmod a+rw, or to that group with chmod g+rw"
		sticky  = ", in a sticky directory, mode %s, where only its owner, the directory's and root can delete it"
		creator = "it does not exist, and to create it one needs permission to write to the directory: "
		better  = " can create it, and with mode 666 it is for all to lock"
	)
	for i, tt := range []struct {
		dir       fs.FileMode
		dirOwner  int
		file      fs.FileMode // 0: there is none
		fileOwner int
		open      string
		want      string // after the path and the system's error, DIR being the directory
	}{
		{0o755, 0, 0o644, 0, "open", "it " + ofRoot + "-rw-r--r--" + rw + give},
		{0o777 | fs.ModeSticky, 0, 0o644, 0, "open", "it " + ofRoot + "-rw-r--r--" + fmt.Sprintf(sticky, "drwxrwxrwt") + rw + give},
		{0o776 | fs.ModeSticky, userA, 0o600, 0, "open", "it " + ofRoot + "-rw-------" + fmt.Sprintf(sticky, "drwxrwxrwT") + rw + give},
		{0o755, 0, 0o664, 0, "open", "it " + ofRoot + "-rw-rw-r--" + rw + "members of that group have it, and its owner can give it to all with chmod a+rw"},
		{0o755, 0, 0o400, userA, "open", fmt.Sprintf("it belongs to uid %d, group gid %[1]d, and has mode -r--------", userA) + rw + "chmod u+rw gives it"},
		{0o755, 0, 0o640, 0, "open readonly", "it " + ofRoot + "-rw-r-----; to share the lock one needs permission to read: members of that group have it, and its owner can give it to all with chmod a+r"},
		{0o755, 0, 0o600, 0, "open readonly", "it " + ofRoot + "-rw-------; to share the lock one needs permission to read: its owner can give it to all with chmod a+r, or to that group with chmod g+r"},
		{0o755, 0, 0, 0, "open", creator + "DIR " + ofRoot + "drwxr-xr-x; root" + better},
		{0o775, userB, 0, 0, "open", creator + fmt.Sprintf("DIR belongs to uid %d, group gid %[1]d, and has mode drwxrwxr-x; uid %[1]d or members of that group or root", userB) + better},
		{0o555, userB, 0, 0, "open", creator + fmt.Sprintf("DIR belongs to uid %d, group gid %[1]d, and has mode dr-xr-xr-x; root", userB) + better},
		{0o700, 0, 0o666, 0, "open", "the directory DIR " + ofRoot + "drwx------; to open what is in it one needs permission to search it, which its owner can give with chmod a+x"},
		{0o755, 0, 0o666, 0, "open", ""},
		{0o755, 0, 0o644, 0, "open readonly", ""},
	} {
		dir := filepath.Join(top, fmt.Sprint("dir", i))
		path := filepath.Join(dir, "LOCK")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if tt.file != 0 {
			err := os.WriteFile(path, encodeHeader(defaultMechanism), 0o600)
			if err := errors.Join(err, os.Chmod(path, tt.file), os.Chown(path, tt.fileOwner, tt.fileOwner)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.Chown(dir, tt.dirOwner, tt.dirOwner), os.Chmod(dir, tt.dir)); err != nil {
			t.Fatal(err)
		}
		r := serve(t, path, as(userA)).ask(tt.open)
		want := "ok"
		if tt.want != "" {
			want = fmt.Sprintf("error 13 open %s: permission denied: %s", path, strings.ReplaceAll(tt.want, "DIR", dir))
		}
		if r != want {
			t.Errorf("%d:\n%s\nwant\n%s", i, r, want)
		}
	}
}

// TestImmutable: permission is not refused by the mode, and so chmod is no help.
func TestImmutable(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make a file immutable")
	}
	path := lockPath(t)
	mustOpen(t, path)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const immutable = 0x10 // FS_IMMUTABLE_FL
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags|immutable)
	}
	if err != nil {
		t.Skipf("a file cannot be made immutable here: %v", err)
	}
	defer unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags)
	want := "operation not permitted: it belongs to "
	if _, err := Open(path, nil); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), want) ||
		!strings.Contains(err.Error(), "an attribute of the file") || strings.Contains(err.Error(), "chmod") {
		t.Errorf("Open: %v", err)
	}
	mustUnlock(t, mustRLock(t, openWith(t, path, Options{ReadOnly: true})))
}

// TestNames: no cgo, and no file that has to be there.
func TestNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "names")
	const names = "# comment\n\nbroken:x\n:x:7:\nplus:x:70:7:\nalice:x:7:7:Alice:/:/bin/sh\nbob:x:7:\n+::0:\nlast:*:8:last"
	if err := os.WriteFile(file, []byte(names), 0o600); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uint32]string{7: "alice (uid 7)", 70: "plus (uid 70)", 8: "last (uid 8)", 9: "uid 9", 1<<32 - 1: "uid 4294967295"} {
		if got := idName("uid", id, file); got != want {
			t.Errorf("%d is %q, want %q", id, got, want)
		}
	}
	if got := idName("gid", 7, file+".missing"); got != "gid 7" {
		t.Error(got)
	}
}

// TestKinds: nothing but a regular file will do, whatever somebody has put there, and
// nobody waits for a FIFO.
func TestKinds(t *testing.T) {
	dir := t.TempDir()
	mk := func(name string, mode uint32, dev int) {
		if err := unix.Mknod(filepath.Join(dir, name), mode|0o666, dev); err != nil {
			t.Logf("no %s: %v", name, err)
		}
	}
	mk("fifo", unix.S_IFIFO, 0)
	mk("socket", unix.S_IFSOCK, 0)
	mk("null", unix.S_IFCHR, int(unix.Mkdev(1, 3)))
	mk("loop", unix.S_IFBLK, int(unix.Mkdev(7, 250)))
	file := filepath.Join(dir, "file")
	mustOpen(t, file)
	err := errors.Join(
		os.Mkdir(filepath.Join(dir, "directory"), 0o777),
		os.Symlink("file", filepath.Join(dir, "link")),
		os.Symlink("fifo", filepath.Join(dir, "link to fifo")),
		os.Symlink("link", filepath.Join(dir, "link to link")),
		os.Symlink("nothing", filepath.Join(dir, "dangling")),
		os.Symlink("circle", filepath.Join(dir, "circle")),
		os.Symlink("/proc/self/fd/0", filepath.Join(dir, "magic link")))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if path == file {
			continue
		}
		seen = append(seen, e.Name())
		want := "not a regular file"
		switch e.Type() {
		case fs.ModeDir:
			want = "a directory"
		case fs.ModeSymlink:
			want = "a symbolic link"
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		for what, open := range map[string]func() error{
			"Open":     func() error { _, err := Open(path, &Options{Mode: 0o600}); return err },
			"NoCreate": func() error { _, err := Open(path, &Options{NoCreate: true}); return err },
			"ReadOnly": func() error { _, err := Open(path, &Options{ReadOnly: true}); return err },
			"Inspect":  func() error { _, _, err := recorded(path); return err },
			"ReadData": func() error { _, err := ReadData(path); return err },
		} {
			done := make(chan error, 1)
			go func() { done <- open() }()
			select {
			case err := <-done:
				if !errors.Is(err, ErrNotLockFile) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s of %s: %v; want %q", what, e.Name(), err, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s of %s hangs", what, e.Name())
			}
		}
		if after, err := os.Lstat(path); err != nil || after.Mode() != before.Mode() {
			t.Errorf("%s was %v and is %v, %v", e.Name(), before.Mode(), after, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link to nothing was followed: %v", err)
	}
	t.Logf("refused: %q", seen)

	// On the way to the file links are as good as directories.
	if err := os.Symlink(dir, filepath.Join(dir, "way")); err != nil {
		t.Fatal(err)
	}
	l := mustLock(t, mustOpen(t, filepath.Join(dir, "way", "file")), "")
	if _, err := mustOpen(t, file).TryLock(""); !errors.Is(err, ErrLocked) {
		t.Errorf("two holders: %v", err)
	}
	mustUnlock(t, l)

	// A File that is open finds out when it next takes the lock.
	f := mustOpen(t, file)
	if err := errors.Join(os.Rename(file, file+".moved"), os.Symlink("file.moved", file)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.TryLock(""); !errors.Is(err, ErrNotLockFile) {
		t.Errorf("a link in the file's place: %v", err)
	}
}
