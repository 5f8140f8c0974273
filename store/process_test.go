package store_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/recordstore/recordstore/lockfile"
	"github.com/recordstore/recordstore/store"
)

// Tests with real processes: the test binary runs itself again, as a helper
// and, if the tests run as root, as another user.

const helperEnv = "RECORDSTORE_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", classOf(err), err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if dir := publicBinary.dir; dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// classOf says what kind of error a helper has met.
func classOf(err error) string {
	for _, c := range []struct {
		name string
		err  error
	}{
		{"ErrUnsafeDir", store.ErrUnsafeDir},
		{"ErrReadOnly", store.ErrReadOnly},
		{"ErrNotFound", store.ErrNotFound},
		{"ErrPermission", fs.ErrPermission},
		{"ErrNotExist", fs.ErrNotExist},
	} {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return "error"
}

// helpers are what a process can be told to do.
var helpers = map[string]func(args []string) error{
	"nothing":   func([]string) error { return nil },
	"touch":     helpTouch,
	"put":       helpPut,
	"get":       helpGet,
	"read":      helpRead,
	"create":    helpCreate,
	"hold":      helpHold,
	"increment": helpIncrement,
}

// helpTouch FILE tries to create a file.
func helpTouch(args []string) error { return os.WriteFile(args[0], nil, 0o666) }

// helpPut DIR KEY VALUE [UMASK] writes a record.
func helpPut(args []string) error {
	if len(args) > 3 {
		mask, err := strconv.ParseInt(args[3], 8, 32)
		if err != nil {
			return err
		}
		syscall.Umask(int(mask))
	}
	s, err := store.Open(args[0], nil)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Put(context.Background(), args[1], args[2])
	return err
}

// helpGet DIR KEY prints a record, through a store opened for writing.
func helpGet(args []string) error { return printRecord(args[0], args[1], nil) }

// helpRead DIR KEY prints a record, through a store opened for reading only.
func helpRead(args []string) error {
	return printRecord(args[0], args[1], &store.Options{ReadOnly: true})
}

func printRecord(dir, key string, opts *store.Options) error {
	s, err := store.Open(dir, opts)
	if err != nil {
		return err
	}
	defer s.Close()
	sn, err := s.Snapshot(context.Background())
	if err != nil {
		return err
	}
	defer sn.Close()
	rec, err := sn.Get(key)
	if err != nil {
		return err
	}
	v, err := store.Decode[string](rec)
	if err == nil {
		fmt.Println(v)
	}
	return err
}

// helpCreate DIR KEY waits for the end of its input, then opens the store,
// writes a record and prints the store's id.
func helpCreate(args []string) error {
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	s, err := store.Open(args[0], nil)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Put(context.Background(), args[1], os.Getpid()); err != nil {
		return err
	}
	fmt.Println(s.ID())
	return nil
}

// helpHold DIR PURPOSE locks, says so, and holds the lock until its input ends.
func helpHold(args []string) error {
	f, err := lockfile.Open(filepath.Join(args[0], "LOCK"), nil)
	if err != nil {
		return err
	}
	defer f.Close()
	l, err := f.Lock(context.Background(), args[1])
	if err != nil {
		return err
	}
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
	return l.Unlock()
}

// helpIncrement DIR NAME N increments the records "total" and NAME, in one
// update, N times, and prints a line for each acknowledgement.
func helpIncrement(args []string) error {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	s, err := store.Open(args[0], nil)
	if err != nil {
		return err
	}
	defer s.Close()
	for range n {
		_, err := s.Update(context.Background(), func(tx *store.Tx) error {
			for _, key := range []string{"total", args[1]} {
				n := 0
				rec, err := tx.Get(key)
				if err == nil {
					n, err = store.Decode[int](rec)
				}
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					return err
				}
				if err := tx.Put(key, n+1); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		fmt.Println("ack")
	}
	return nil
}

// nobody is the other user: the one without rights.
const nobody = 65534

// publicBinary is a copy of the test binary that every user can run.
var publicBinary struct {
	once      sync.Once
	dir, path string
	err       error
}

func makePublicBinary() {
	b := &publicBinary
	var self string
	if self, b.err = os.Executable(); b.err != nil {
		return
	}
	if b.dir, b.err = os.MkdirTemp("", "recordstore-test-"); b.err != nil {
		return
	}
	if b.err = os.Chmod(b.dir, 0o755); b.err != nil {
		return
	}
	b.path = filepath.Join(b.dir, "helper.test")
	data, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(b.path, data, 0o755)
	}
	if err == nil {
		cmd := asNobody(exec.Command(b.path))
		cmd.Env = append(os.Environ(), helperEnv+"=nothing")
		err = cmd.Run()
	}
	b.err = err
}

func asNobody(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

// needNobody skips the test if it cannot start processes as another user.
func needNobody(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start processes as another user")
	}
	publicBinary.once.Do(makePublicBinary)
	if err := publicBinary.err; err != nil {
		t.Skipf("uid %d cannot run programs in %s: %v", nobody, os.TempDir(), err)
	}
}

// publicDir returns a new directory that all users can get at. t.TempDir's
// parent is closed to others.
func publicDir(t *testing.T, perm fs.FileMode, uid int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "recordstore-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, perm); err != nil {
		t.Fatal(err)
	}
	return dir
}

// helper returns a command that runs a helper, killed at the end of the test.
func helper(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.Stderr = new(bytes.Buffer)
	return cmd
}

// nobodys is helper for a process of another user. needNobody goes before it.
func nobodys(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := asNobody(helper(t, name, args...))
	cmd.Path = publicBinary.path
	cmd.Dir = "/"
	return cmd
}

// output runs a helper that must succeed, and returns what it prints.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helper %q: %v: %s", cmd.Args[1:], err, cmd.Stderr)
	}
	return strings.TrimSpace(string(out))
}

// wantFailure runs a helper that must fail with an error of the class.
func wantFailure(t *testing.T, cmd *exec.Cmd, class string) {
	t.Helper()
	out, err := cmd.Output()
	if err == nil {
		t.Fatalf("helper %q succeeded (%q), want %s", cmd.Args[1:], out, class)
	}
	if got := fmt.Sprint(cmd.Stderr); !strings.HasPrefix(got, class+": ") {
		t.Fatalf("helper %q: got %q, want %s", cmd.Args[1:], got, class)
	}
}

// start starts a helper and waits until it prints the word. The function it
// returns ends the helper's input and waits for its end.
func start(t *testing.T, cmd *exec.Cmd, word string) (stop func()) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != word {
		t.Fatalf("helper %q printed %q (%v), want %q: %s", cmd.Args[1:], line, err, word, cmd.Stderr)
	}
	return func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("helper %q: %v: %s", cmd.Args[1:], err, cmd.Stderr)
		}
	}
}

func TestProcessesCreateOneStore(t *testing.T) {
	const processes = 20
	dir := filepath.Join(t.TempDir(), "s")
	gate, open, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	type proc struct {
		cmd *exec.Cmd
		out *bufio.Scanner
	}
	var procs []proc
	for i := range processes {
		cmd := helper(t, "create", dir, fmt.Sprint("p", i))
		cmd.Stdin = gate
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		procs = append(procs, proc{cmd, bufio.NewScanner(out)})
	}
	for _, p := range procs {
		if !p.out.Scan() || p.out.Text() != "ready" {
			t.Fatalf("helper: %q %s", p.out.Text(), p.cmd.Stderr)
		}
	}
	open.Close() // all at once
	ids := map[string]bool{}
	for _, p := range procs {
		if p.out.Scan() {
			ids[p.out.Text()] = true
		}
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, p.cmd.Stderr)
		}
	}
	if len(ids) != 1 {
		t.Errorf("the processes have written to the stores %v, want one", ids)
	}
	s := openStore(t, dir, &store.Options{NoCreate: true})
	if n := length(t, snapshot(t, s)); n != processes {
		t.Errorf("%d records, want those of %d processes", n, processes)
	}
	wantHealthy(t, dir)
}

// TestKilledProcesses lets 20 processes count, kills some at random, and wants
// every acknowledged increment, and of each killed process at most one more.
func TestKilledProcesses(t *testing.T) {
	const processes, victims = 20, 8
	rounds := 50
	if testing.Short() {
		rounds = 10
	}
	dir := filepath.Join(t.TempDir(), "s")
	openStore(t, dir, nil)
	acked := make([]int, processes)
	var wg sync.WaitGroup
	for i := range processes {
		n := rounds
		if i < victims {
			n = 1 << 30 // only its death ends it
		}
		cmd := helper(t, "increment", dir, fmt.Sprint("p", i), strconv.Itoa(n))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := -1
		if i < victims {
			last = rand.IntN(rounds)
		}
		wg.Go(func() {
			for sc := bufio.NewScanner(out); sc.Scan(); {
				if acked[i]++; acked[i]-1 == last {
					cmd.Process.Kill()
				}
			}
			err := cmd.Wait()
			if i < victims && err == nil {
				t.Errorf("process %d ended before it was killed, after %d increments", i, acked[i])
			}
			if i >= victims && (err != nil || acked[i] != rounds) {
				t.Errorf("process %d: %d increments, want %d: %v: %s", i, acked[i], rounds, err, cmd.Stderr)
			}
		})
	}
	wg.Wait()
	sn := snapshot(t, openStore(t, dir, nil))
	sum := 0
	for i, n := range acked {
		got := value[int](t, sn, fmt.Sprint("p", i))
		sum += got
		// Acknowledged after its last line was read, or only committed: a
		// process that is killed is one increment ahead at most, but it may
		// have printed lines between our decision and its death.
		if got < n || got > n+1 {
			t.Errorf("process %d: %d increments were acknowledged, the store has %d", i, n, got)
		}
	}
	if total := value[int](t, sn, "total"); total != sum {
		t.Errorf("the counter says %d, the processes' own sum up to %d", total, sum)
	}
	wantHealthy(t, dir)
}

// TestLockHeldByProcess: while another process holds LOCK, reading goes on,
// and an update waits until its context ends, with an error that tells who.
func TestLockHeldByProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	s := openStore(t, dir, nil)
	put(t, s, "k", "v")
	holder := helper(t, "hold", dir, "a long story")
	release := start(t, holder, "locked")

	fresh := openStore(t, dir, nil) // opening does not wait
	if got := value[string](t, snapshot(t, fresh), "k"); got != "v" {
		t.Errorf("snapshot has %q, want v", got)
	}
	if _, err := fresh.Get(t.Context(), "k"); err != nil {
		t.Error(err)
	}
	st, err := s.Stat(t.Context())
	if err != nil || !st.Lock.Known || st.Lock.Holder.PID != holder.Process.Pid || st.Lock.Holder.Purpose != "a long story" {
		t.Errorf("Stat: %v, %v; want pid %d", st.Lock, err, holder.Process.Pid)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for name, call := range map[string]func() error{
		"Put":           func() error { _, err := s.Put(ctx, "k", "w"); return err },
		"FreshSnapshot": func() error { _, err := s.FreshSnapshot(ctx); return err },
		"Sync":          func() error { return s.Sync(ctx) },
	} {
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := call()
		var held *lockfile.HeldError
		if !errors.As(err, &held) || !held.Known || held.Holder.PID != holder.Process.Pid {
			t.Errorf("%s: got %v, want a *lockfile.HeldError naming pid %d", name, err, holder.Process.Pid)
		}
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, lockfile.ErrLocked) {
			t.Errorf("%s: %v is not DeadlineExceeded and ErrLocked", name, err)
		}
		for _, want := range []string{strconv.Itoa(holder.Process.Pid), "a long story"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not mention %q", name, err, want)
			}
		}
	}
	release()
	put(t, s, "k", "x")
	if got := value[string](t, snapshot(t, fresh), "k"); got != "x" {
		t.Errorf("snapshot has %q, want x", got)
	}
}

// TestUsersShareAStore: root writes into a user's store, and the user can read
// it and write on.
func TestUsersShareAStore(t *testing.T) {
	needNobody(t)
	parent := publicDir(t, 0o755, nobody)
	dir := filepath.Join(parent, "s")
	output(t, nobodys(t, "put", dir, "user", "1"))
	s := openStore(t, dir, nil)
	put(t, s, "root", "2")
	for name, info := range list(t, dir) {
		if st := info.Sys().(*syscall.Stat_t); st.Uid != nobody {
			t.Errorf("%s belongs to uid %d, want the store's owner, %d", name, st.Uid, nobody)
		}
	}
	if got := output(t, nobodys(t, "get", dir, "root")); got != "2" {
		t.Errorf("the user reads %q, want 2", got)
	}
	for i := range 100 { // enough that retirement removes root's files
		put(t, s, "root", strconv.Itoa(i))
	}
	output(t, nobodys(t, "put", dir, "user", "3"))
	if got := value[string](t, snapshot(t, s), "user"); got != "3" {
		t.Errorf("root reads %q, want 3", got)
	}
	wantHealthy(t, dir)
}

// TestModeOfLock: the mode of LOCK decides who can use the store, whatever the
// umask of those who write.
func TestModeOfLock(t *testing.T) {
	for _, tc := range []struct {
		name       string
		mode       fs.FileMode // of LOCK
		wantUnmark fs.FileMode // of a manifest, but for the owner's write bit
	}{
		{"private", 0o600, 0o400},
		{"for all to read", 0o644, 0o444},
		{"for all to write", 0o666, 0o444},
		{"for the group", 0o660, 0o440},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "s")
			openStore(t, dir, nil)
			if err := os.Chmod(filepath.Join(dir, "LOCK"), tc.mode); err != nil {
				t.Fatal(err)
			}
			output(t, helper(t, "put", dir, "k", "v", "077"))
			name, _ := newestManifest(t, dir)
			if got := list(t, dir)[name].Mode().Perm(); got != tc.wantUnmark {
				t.Errorf("%s has mode %v with LOCK's %v, want %v", name, got, tc.mode, tc.wantUnmark)
			}
		})
	}
	t.Run("Options.Mode", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "s")
		openStore(t, dir, &store.Options{Mode: 0o600})
		if got := list(t, dir)["LOCK"].Mode().Perm(); got != 0o600 {
			t.Errorf("LOCK has mode %v, want %v", got, fs.FileMode(0o600))
		}
	})
	t.Run("another user reads", func(t *testing.T) {
		needNobody(t)
		dir := publicDir(t, 0o755, 0)
		put(t, openStore(t, dir, &store.Options{Mode: 0o644}), "a", "1")
		output(t, helper(t, "put", dir, "k", "v", "077"))
		if got := output(t, nobodys(t, "read", dir, "k")); got != "v" {
			t.Errorf("the other user reads %q, want v", got)
		}
	})
}

// TestReaderWithoutPermission: who may not write can read, and is told so when
// he tries to write.
func TestReaderWithoutPermission(t *testing.T) {
	needNobody(t)
	dir := publicDir(t, 0o755, 0)
	s := openStore(t, dir, &store.Options{Mode: 0o644})
	put(t, s, "k", "v")
	before := tree(t, dir)
	if got := output(t, nobodys(t, "read", dir, "k")); got != "v" {
		t.Errorf("the reader gets %q, want v", got)
	}
	wantFailure(t, nobodys(t, "get", dir, "k"), "ErrPermission")
	wantFailure(t, nobodys(t, "put", dir, "k", "w"), "ErrPermission")
	wantSameTree(t, dir, before)

	if err := os.Chmod(filepath.Join(dir, "LOCK"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := output(t, nobodys(t, "read", dir, "k")); got != "v" {
		t.Errorf("without permission to read LOCK the reader gets %q, want v", got)
	}
}

func TestDirectoryWithoutPermission(t *testing.T) {
	needNobody(t)
	for _, tc := range []struct {
		name  string
		perm  fs.FileMode
		uid   int
		class string
	}{
		{"read only, one's own", 0o555, nobody, "ErrPermission"},
		{"read only, root's", 0o755, 0, "ErrPermission"},
		{"no access", 0o700, 0, "ErrPermission"},
		{"sticky, root's", 0o777 | fs.ModeSticky, 0, "ErrUnsafeDir"},
		{"sticky, one's own", 0o777 | fs.ModeSticky, nobody, ""},
		{"root's, for all to write", 0o777, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := publicDir(t, tc.perm, tc.uid)
			before := tree(t, dir)
			cmd := nobodys(t, "put", dir, "k", "v")
			if tc.class == "" {
				output(t, cmd)
				return
			}
			wantFailure(t, cmd, tc.class)
			if got := fmt.Sprint(cmd.Stderr); !strings.Contains(got, dir) {
				t.Errorf("%q does not name the directory", got)
			}
			wantSameTree(t, dir, before)
		})
	}
	// A store that is there already is refused in the same way.
	t.Run("sticky, with root's store", func(t *testing.T) {
		dir := publicDir(t, 0o777|fs.ModeSticky, 0)
		put(t, openStore(t, dir, nil), "k", "v")
		if err := os.Chmod(filepath.Join(dir, "LOCK"), 0o666); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, nobodys(t, "put", dir, "k", "w"), "ErrUnsafeDir")
		if got := output(t, nobodys(t, "read", dir, "k")); got != "v" {
			t.Errorf("reading only gets %q, want v", got)
		}
	})
}

// TestDiskFull fills a small file system, and frees it again.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	mnt := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mnt).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	dir, ballast := filepath.Join(mnt, "s"), filepath.Join(mnt, "ballast")
	// Opened before, so that it is closed before the file system goes away.
	s, err := store.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "k", "before")
	rev := snapshot(t, s).Revision()
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o666); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	before := tree(t, dir)

	_, err = s.Put(t.Context(), "k", "too much")
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(fmt.Sprint(err), dir+"/") {
		t.Errorf("Put on a full disk: got %v, want ENOSPC and the name of a file", err)
	}
	if errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrNotDurable) {
		t.Errorf("%v: it is certain that nothing was changed", err)
	}
	wantSameTree(t, dir, before)
	if got := value[string](t, snapshot(t, s), "k"); got != "before" {
		t.Errorf("the record is %q, want what it was before", got)
	}
	if _, err := store.Open(filepath.Join(mnt, "other"), nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("creating a store on a full disk: got %v, want ENOSPC", err)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	got, err := s.Put(t.Context(), "k", "after")
	if err != nil || got != rev+1 {
		t.Errorf("Put after space was freed: revision %v, %v; want %v", got, err, rev+1)
	}
	other, err := store.Open(filepath.Join(mnt, "other"), nil)
	if err != nil {
		t.Fatalf("creating the store after space was freed: %v", err)
	}
	defer other.Close()
	put(t, other, "k", "v")
	wantHealthy(t, dir)
}

// TestDiskFullOfOldFiles fills a small file system with what a burst of commits
// leaves, which is all too young to be retired then.
func TestDiskFullOfOldFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	for name, first := range map[string]func(s *store.Store) error{
		"delete":  func(s *store.Store) error { _, err := s.Delete(t.Context(), "k0"); return err },
		"compact": func(s *store.Store) error { return s.Compact(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) { fullOfOldFiles(t, first) })
	}
}

// young tells whether some file of a directory is younger than those that may be retired.
func young(t *testing.T, dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		info, err := e.Info()
		return err == nil && time.Since(info.ModTime()) <= time.Second
	})
}

func fullOfOldFiles(t *testing.T, first func(s *store.Store) error) {
	mnt := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mnt).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	dir := filepath.Join(mnt, "s")
	s, err := store.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := 0; err == nil; i++ {
		if i == 100_000 {
			t.Skip("the disk does not get full: commits take too long here")
		}
		_, err = s.Put(t.Context(), fmt.Sprint("k", i%64), strings.Repeat("x", 500))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	for young(t, dir) {
		time.Sleep(10 * time.Millisecond)
	}
	if err := first(s); err != nil {
		t.Fatalf("%v, and the disk is full of old files: there are %d", err, len(tree(t, dir)))
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Error(err)
	}
	if st, err := s.Stat(t.Context()); err != nil || st.Manifests > 3 || st.SegmentFiles > 1 {
		t.Errorf("%+v, %v: the old files are still there", st, err)
	}
	wantHealthy(t, dir)
}

// TestReadOnlyFileSystem reads a store on a file system mounted for reading.
func TestReadOnlyFileSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a file system for reading")
	}
	mnt := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", mnt).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	dir := filepath.Join(mnt, "s")
	output(t, helper(t, "put", dir, "k", "v"))
	if out, err := exec.Command("mount", "-o", "remount,ro", mnt).CombinedOutput(); err != nil {
		t.Skipf("cannot remount a tmpfs for reading: %v: %s", err, out)
	}
	if got := output(t, helper(t, "read", dir, "k")); got != "v" {
		t.Errorf("got %q, want v", got)
	}
	if _, err := store.Open(dir, nil); !errors.Is(err, syscall.EROFS) {
		t.Errorf("opening for writing: got %v, want EROFS", err)
	}
}

// newestManifest returns the name and path of the manifest with the highest
// sequence.
func newestManifest(t *testing.T, dir string) (name, path string) {
	t.Helper()
	var names []string
	for n := range list(t, dir) {
		if strings.HasPrefix(n, "manifest.") {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		t.Fatalf("%s: no manifest", dir)
	}
	name = slices.Max(names)
	return name, filepath.Join(dir, name)
}
