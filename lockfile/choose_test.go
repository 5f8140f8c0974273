//go:build unix

package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/fstype"
)

// standIn makes m what newLocker makes, or for nil not supported.
func standIn(t *testing.T, m Mechanism, newLocker func(*handle) locker) {
	t.Helper()
	old := mechanisms[m]
	if mechanisms[m] = newLocker; newLocker == nil {
		delete(mechanisms, m)
	}
	t.Cleanup(func() {
		if mechanisms[m] = old; old == nil {
			delete(mechanisms, m)
		}
	})
}

// A madeUp lock does what its functions say, and by default what it should.
type madeUp struct {
	locker // nil: what is not here is not called
	h      *handle
	sem    chan struct{}
	odd    *oddity
}

type oddity struct {
	sems    sync.Map
	attempt func(l *madeUp) error
	unlock  func(l *madeUp) error
	calls   atomic.Int64
}

func (o *oddity) make(h *handle) locker {
	sem, _ := o.sems.LoadOrStore(h.ino, make(chan struct{}, 1))
	return &madeUp{h: h, sem: sem.(chan struct{}), odd: o}
}

func (l *madeUp) attempt(bool) error {
	l.odd.calls.Add(1)
	if l.odd.attempt != nil {
		return l.odd.attempt(l)
	}
	select {
	case l.sem <- struct{}{}:
		return nil
	default:
		return errBusy
	}
}

func (l *madeUp) unlock() error {
	if l.odd.unlock != nil {
		return l.odd.unlock(l)
	}
	<-l.sem
	return nil
}

func (l *madeUp) close() error { return nil }

func alwaysFails(err error) *oddity {
	return &oddity{attempt: func(*madeUp) error { return err }}
}

func alwaysSucceeds() *oddity {
	return &oddity{attempt: func(*madeUp) error { return nil }, unlock: func(*madeUp) error { return nil }}
}

func alwaysHangs(t *testing.T) *oddity {
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	return &oddity{attempt: func(*madeUp) error { <-end; return errBusy }}
}

// withFileSystem pretends that all is on a file system of that type.
func withFileSystem(t *testing.T, name string, local bool, options ...string) {
	t.Helper()
	old := choosing
	choosing.fsType = func(string) (string, bool, error) { return name, local, nil }
	choosing.mountOf = func(string) (fstype.Mount, error) {
		return fstype.Mount{Type: name, Point: "/mnt/made-up", Options: options}, nil
	}
	choosing.patience = time.Second // of a machine that may be slow
	t.Cleanup(func() { choosing = old })
}

func TestConfined(t *testing.T) {
	tests := []struct {
		fs       string
		options  string
		confined []Mechanism
	}{
		{"nfs4", "rw,vers=4.2,local_lock=none", nil},
		{"nfs", "rw,vers=3,hard,local_lock=none", nil},
		{"nfs", "rw,vers=3", nil},
		{"nfs", "vers=3,nolock,local_lock=none", []Mechanism{OFD, Flock, POSIX}},
		{"nfs", "local_lock=all", []Mechanism{OFD, Flock, POSIX}},
		{"nfs", "local_lock=posix", []Mechanism{OFD, POSIX}},
		{"nfs4", "local_lock=flock", []Mechanism{Flock}},
		{"nfs", "xnolock,local_lock=allx", nil},
		{"cifs", "vers=3.1.1,nobrl", []Mechanism{OFD, Flock, POSIX}},
		{"cifs", "vers=3.1.1,nolock", nil},
		{"fuse.sshfs", "nolock,local_lock=all,nobrl", nil},
		{"ext4", "nolock", nil},
	}
	for _, tt := range tests {
		p := location{name: tt.fs, mount: fstype.Mount{Options: strings.Split(tt.options, ",")}}
		for m := OFD; m <= TCP; m++ {
			opt := p.confined(m)
			if (opt != "") != slices.Contains(tt.confined, m) || opt != "" && !slices.Contains(p.mount.Options, opt) {
				t.Errorf("%s %s: %v is confined by %q", tt.fs, tt.options, m, opt)
			}
		}
	}
}

func TestChoose(t *testing.T) {
	good := func() *oddity { return &oddity{} }
	enolck := func() *oddity { return alwaysFails(syscall.ENOLCK) }
	hangs := func() *oddity { return alwaysHangs(t) }
	real := func() *oddity { return nil }
	free := func() *oddity { return &oddity{unlock: func(*madeUp) error { return nil }} }
	garbles := func() *oddity {
		o := &oddity{}
		o.attempt = func(l *madeUp) error {
			if o.calls.Load() == 1 {
				return errors.Join(l.h.writeAt([]byte{'x'}, 0))
			}
			return errBusy
		}
		return o
	}
	tests := []struct {
		name             string
		fs               string
		local            bool
		options          string
		ofd, flock, link func() *oddity // nil: not supported
		want             Mechanism
		text             []string // of the error
	}{
		{"local, untried", "ext4", true, "", alwaysSucceeds, alwaysSucceeds, alwaysSucceeds, defaultMechanism, nil},
		{"the first", "nfs4", false, "local_lock=none", good, good, good, OFD, nil},
		{"unknown file system", "newfs", false, "", good, good, good, OFD, nil},
		{"the second", "fuse.x", false, "", enolck, good, good, Flock, nil},
		{"the third", "9p", false, "", enolck, alwaysSucceeds, good, Link, nil},
		{"busy for ever", "9p", false, "", func() *oddity { return alwaysFails(errBusy) }, good, good, Flock, nil},
		{"never released", "9p", false, "", free, good, good, Flock, nil},
		{"not to be read", "cifs", false, "", garbles, good, good, Flock, nil},
		{"without an answer", "nfs", false, "", hangs, hangs, good, Link, nil},
		{"posix confined", "nfs", false, "local_lock=posix", good, good, good, Flock, nil},
		{"flock confined", "nfs", false, "local_lock=flock", enolck, good, good, Link, nil},
		{"all confined", "nfs", false, "nolock", good, good, good, Link, nil},
		{"only one supported", "fuse", false, "", nil, nil, good, Link, nil},
		{"real links", "9p", false, "", enolck, enolck, real, Link, nil},
		{"none", "nfs", false, "local_lock=flock", alwaysSucceeds, good, hangs, Auto, []string{
			"(nfs, mounted on /mnt/made-up): ofd: two have the lock at the same time; flock: the mount option local_lock=flock keeps locks on this machine",
			"; link: no answer within 1s; mount it with locks",
		}},
		{"none of what is there", "fuse.y", false, "", enolck, nil, nil, Auto, []string{
			"(fuse.y, mounted on /mnt/made-up): ofd: no locks available; mount",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for m, odd := range map[Mechanism]func() *oddity{OFD: tt.ofd, Flock: tt.flock, Link: tt.link} {
				var newLocker func(*handle) locker
				if odd != nil {
					o := odd()
					if o == nil {
						continue
					}
					newLocker = o.make
				}
				standIn(t, m, newLocker)
			}
			withFileSystem(t, tt.fs, tt.local, strings.Split(tt.options, ",")...)
			dir := t.TempDir()
			path := filepath.Join(dir, "LOCK")
			began := time.Now()
			f, err := Open(path, nil)
			if d := time.Since(began); d > 20*time.Second {
				t.Errorf("it took %v", d)
			}
			if tt.want == Auto {
				if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), path) {
					t.Errorf("Open: %v", err)
				}
				for _, text := range tt.text {
					if !strings.Contains(fmt.Sprint(err), text) {
						t.Errorf("Open: %v; want %q", err, text)
					}
				}
			} else if err != nil {
				t.Error(err)
			} else {
				defer f.Close()
				b, _ := os.ReadFile(path)
				if m, err := checkHeader(b); m != tt.want || err != nil {
					t.Errorf("the file records %v, %v; want %v", m, err, tt.want)
				}
			}
			only := []string{"LOCK"}
			if tt.want == Link { // which is made with the file, by who may
				only = append(only, "LOCK"+claimsSuffix)
				if fi, err := os.Stat(path + claimsSuffix); err != nil || !fi.IsDir() {
					t.Errorf("the directory of claims: %v", err)
				}
			}
			checkOnly(t, dir, only...)
		})
	}
}

// checkOnly checks that dir has no other files, as soon as nobody is left behind.
func checkOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(want, e.Name()) {
			t.Errorf("%s was left", e.Name())
		}
	}
}

// TestChooseRecorded: what a file records, and what is named, is not tried.
func TestChooseRecorded(t *testing.T) {
	odd := alwaysSucceeds()
	for _, m := range candidates {
		standIn(t, m, odd.make)
	}
	withFileSystem(t, "nfs", false, "nolock")
	path := lockPath(t)
	for _, opts := range []*Options{{Mechanism: Flock}, nil, {}} {
		f, err := Open(path, opts)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if n := odd.calls.Load(); n != 0 {
		t.Errorf("%d locks", n)
	}
}

// TestChooseOvertaken: whose probe fails looks whether somebody has named one meanwhile.
func TestChooseOvertaken(t *testing.T) {
	path := lockPath(t)
	odd := &oddity{attempt: func(*madeUp) error {
		return errors.Join(errors.ErrUnsupported, os.WriteFile(path, encodeHeader(Flock), 0o666))
	}}
	standIn(t, OFD, odd.make)
	standIn(t, Flock, alwaysSucceeds().make)
	standIn(t, Link, nil)
	withFileSystem(t, "nfs", false, "local_lock=flock")
	f, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// TestHeaderNoAnswer: the lock on the header does not hang Open, nor stay behind. Without
// it an empty file is not adopted; a new one needs none.
func TestHeaderNoAnswer(t *testing.T) {
	for m, text := range map[Mechanism]string{OFD: "out of reach", Flock: "out of reach", POSIX: "out of reach", Unix: "remove it"} {
		t.Run(m.String(), func(t *testing.T) {
			standIn(t, m, (&oddity{}).make)
			withFileSystem(t, "nfs", false)
			choosing.patience = 100 * time.Millisecond
			answer, unlocked := make(chan struct{}), make(chan struct{})
			choosing.lock = func(h *handle) error { <-answer; return lockHeader(h) }
			choosing.unlock = func(h *handle) error { defer close(unlocked); return unlockHeader(h) }
			path := lockPath(t)
			openWith(t, path, Options{Mechanism: m})
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path, &Options{Mechanism: m}); !isNoAnswer(err) || !strings.Contains(err.Error(), text) {
				t.Errorf("Open: %v; want %q", err, text)
			}
			close(answer)
			<-unlocked
		})
	}
}

// TestHeaderNetwork: also with another descriptor the header is locked and unlocked.
func TestHeaderNetwork(t *testing.T) {
	withFileSystem(t, "nfs", false)
	choosing.patience = time.Minute
	path := lockPath(t)
	other, _, err := openOrCreate(path, 0o666, true)
	if err != nil {
		t.Fatal(err)
	}
	h := &handle{fd: other}
	defer h.close()
	choosing.lock = func(g *handle) error {
		err := lockHeader(g)
		if err == nil {
			if err := lockHeader(h); err != errBusy {
				t.Errorf("the header is not locked: %v", err)
			}
		}
		return err
	}
	f, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := lockHeader(h); err != nil {
		t.Errorf("the header stays locked: %v", err)
	}
	checkOnly(t, filepath.Dir(path), "LOCK")
}

func TestChooseNoPermission(t *testing.T) {
	withFileSystem(t, "fuse", false)
	if os.Getuid() == 0 {
		// Root may write everywhere, but not where there is nothing.
		p := choosing.locate(filepath.Join(t.TempDir(), "gone"))
		if _, err := choosing.choose(p); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "does not exist") {
			t.Error(err)
		}
		return
	}
	path := lockPath(t)
	if err := errors.Join(os.WriteFile(path, nil, 0o666), os.Chmod(filepath.Dir(path), 0o555)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, nil); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "needs a file in the directory") {
		t.Error(err)
	}
	f, err := Open(path, &Options{Mechanism: defaultMechanism})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// TestChooseByMany: all who open a new file on a network file system agree.
func TestChooseByMany(t *testing.T) {
	withFileSystem(t, "nfs4", false)
	choosing.patience = time.Minute
	path := lockPath(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			f, err := Open(path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for range 20 {
				l, err := f.Lock(t.Context(), "")
				if err != nil {
					t.Error(err)
					return
				}
				n := 0
				b, _ := os.ReadFile(path + ".n")
				fmt.Sscan(string(b), &n)
				os.WriteFile(path+".n", fmt.Append(nil, n+1), 0o666)
				if err := l.Unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b, _ := os.ReadFile(path + ".n")
	if string(b) != "320" {
		t.Errorf("counted %s, want 320", b)
	}
}
