package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/internal/boot"
	"github.com/recordstore/recordstore/internal/crc32c"
	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/internal/vfs/faultfs"
	"github.com/recordstore/recordstore/lockfile"
)

// otherBoot is the machine after a restart.
func otherBoot(sys *system) { sys.boot = boot.ID{9} }

// storeWith creates a store in which the record "k" has had the values 1 to n,
// closes it and returns its directory and the path of its newest manifest.
func storeWith(t testing.TB, n int, opts *Options) (dir, newest string) {
	t.Helper()
	s := testStore(t, opts, nil)
	for i := range n {
		mustPut(t, s, "k", i+1)
	}
	path := s.manifestPath(mustSnapshot(t, s).Sequence())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return s.dir, path
}

// overwrite writes data into an existing file, whatever its mode, and keeps
// that.
func overwrite(t testing.TB, path string, data []byte) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	setMode(t, path, 0o644)
	if err := os.WriteFile(path, data, 0); err != nil {
		t.Fatal(err)
	}
	setMode(t, path, info.Mode())
}

func setMode(t testing.TB, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// copyDir copies the files of a directory into a new one.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

var damages = []struct {
	name string
	do   func(b []byte) []byte
}{
	{"flipped bit in the magic", flip(3)},
	{"flipped bit in the version", flip(8)},
	{"flipped bit in the length", flip(16)},
	{"flipped bit in the sequence", flip(24)},
	{"flipped bit in an ancestor", flip(headerSize + 3)},
	{"flipped bit in a record", flip(-20)},
	{"flipped bit in the last checksum", flip(-1)},
	{"cut off by a byte", func(b []byte) []byte { return b[:len(b)-1] }},
	{"cut off in the tables", func(b []byte) []byte { return b[:headerSize+5] }},
	{"cut off in the prologue", func(b []byte) []byte { return b[:11] }},
	{"empty", func([]byte) []byte { return nil }},
	{"zeros", func(b []byte) []byte { return make([]byte, len(b)) }},
	{"zeros at the end", func(b []byte) []byte { clear(b[len(b)/2:]); return b }},
	{"longer than it was", func(b []byte) []byte { return append(b, 0) }},
	{"another file", func([]byte) []byte { return []byte("#!/bin/sh\necho hello\n") }},
}

// flip returns what flips a bit of the byte at i, from the end if i is
// negative.
func flip(i int) func(b []byte) []byte {
	return func(b []byte) []byte {
		if i < 0 {
			b[len(b)+i] ^= 0x10
		} else {
			b[i] ^= 0x10
		}
		return b
	}
}

// wantCorrupt wants an error that is a *CorruptError and names the file.
func wantCorrupt(t testing.TB, what string, err error, path string) {
	t.Helper()
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || !errors.Is(err, ErrCorrupt) || corrupt.Path != path || corrupt.Offset < 0 {
		t.Errorf("%s: got %v, want a *CorruptError for %s", what, err, path)
		return
	}
	if want := fmt.Sprintf("%s: damaged at byte %d", path, corrupt.Offset); !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %q does not say %q", what, err, want)
	}
}

// TestDamagedNewest: a newest manifest that does not check is damage, and never an
// older state, if it was known to be on disk or no power was lost since.
func TestDamagedNewest(t *testing.T) {
	for _, tc := range []struct {
		name     string
		unmarked bool
		adapt    func(*system)
		opts     *Options
	}{
		{"marked, same run of the machine", false, nil, nil},
		{"marked, after a restart", false, otherBoot, nil},
		{"not marked, same run of the machine", true, nil, nil},
		{"not marked, run of the machine not known", true, func(sys *system) { sys.boot = boot.ID{} }, nil},
		{"not marked, after a restart, network file system", true, otherBoot, &Options{Network: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, d := range damages {
				t.Run(d.name, func(t *testing.T) {
					dir, path := storeWith(t, 3, tc.opts)
					sys := testSystem()
					if tc.adapt != nil {
						tc.adapt(&sys)
					}
					// One that has seen an older state, when the newest had no
					// name yet.
					hidden := path + ".hidden"
					if err := os.Rename(path, hidden); err != nil {
						t.Fatal(err)
					}
					old := testOpen(t, dir, tc.opts, func(s *system) { *s = sys })
					if err := os.Rename(hidden, path); err != nil {
						t.Fatal(err)
					}
					overwrite(t, path, d.do(readFile(t, path)))
					if tc.unmarked {
						setMode(t, path, 0o644)
					}
					before := filesOf(t, dir)

					for name, opts := range map[string]Options{"": {}, ", ReadOnly": {ReadOnly: true}, ", NoCreate": {NoCreate: true}} {
						opts.Network = tc.opts != nil
						s, err := open(dir, &opts, sys)
						if err == nil {
							s.Close()
						}
						wantCorrupt(t, "Open"+name, err, path)
					}
					_, err := old.Get(t.Context(), "k")
					wantCorrupt(t, "Get", err, path)
					_, err = old.Snapshot(t.Context())
					wantCorrupt(t, "Snapshot", err, path)
					_, err = old.Put(t.Context(), "k", 0)
					wantCorrupt(t, "Put", err, path)
					wantSameFiles(t, dir, before)

					rep, err := verify(t.Context(), dir, sys)
					if err != nil || rep.OK() {
						t.Fatalf("Verify: %+v, %v", rep, err)
					}
					for _, f := range rep.Files {
						if damaged := filepath.Join(dir, f.Name) == path; damaged != (f.Status == StatusDamaged) {
							t.Errorf("Verify says %s is %s", f.Name, f.Status)
						} else if damaged {
							wantCorrupt(t, "Verify", f.Err, path)
						}
					}
					wantSameFiles(t, dir, before)
				})
			}
		})
	}
}

// TestTorn: after a restart, a newest manifest that does not check and is not
// marked was torn by the power loss. It was never acknowledged: the one below
// it is the newest, for readers, who write nothing, and for writers, who go on
// above it.
func TestTorn(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			dir, path := storeWith(t, 3, nil)
			overwrite(t, path, d.do(readFile(t, path)))
			setMode(t, path, 0o644)
			torn := readFile(t, path)
			before := filesOf(t, dir)

			reader := testOpen(t, dir, &Options{ReadOnly: true}, otherBoot)
			sn := mustSnapshot(t, reader)
			if got := contents[int](t, sn)["k"]; got != 2 {
				t.Errorf("k = %d, want the state below the torn one, 2", got)
			}
			rep, err := verify(t.Context(), dir, reader.sys)
			if err != nil || !rep.OK() {
				t.Errorf("Verify: %+v, %v", rep, err)
			}
			for _, f := range rep.Files {
				if (f.Status == StatusTorn) != (filepath.Join(dir, f.Name) == path) {
					t.Errorf("Verify says %s is %s", f.Name, f.Status)
				}
			}
			wantSameFiles(t, dir, before)

			s := testOpen(t, dir, nil, otherBoot)
			wantSameFiles(t, dir, before)
			rev := mustPut(t, s, "k", 10)
			if rev <= sn.Revision()+1 {
				t.Errorf("revision %v after %v: that of the torn manifest, which may have been seen, is given again", rev, sn.Revision())
			}
			if rev-sn.Revision() < revisionGap {
				t.Errorf("revision %v after %v, want a gap of %d", rev, sn.Revision(), revisionGap)
			}
			for _, r := range []*Store{s, reader, testOpen(t, dir, nil, otherBoot)} {
				if got := contents[int](t, mustSnapshot(t, r))["k"]; got != 10 {
					t.Errorf("k = %d after the update, want 10", got)
				}
			}
			if got := mustPut(t, s, "k", 11); got != rev+1 {
				t.Errorf("the next revision is %v, want %v", got, rev+1)
			}
			if got := string(readFile(t, path)); got != string(torn) {
				t.Error("the torn manifest was written to")
			}
			if rep, err := verify(t.Context(), dir, s.sys); err != nil || !rep.OK() {
				t.Errorf("Verify after the update: %+v, %v", rep, err)
			}
		})
	}
}

// TestDamageAfterRecovery: LOCK says that the machine has published since its
// restart, so what does not check was not torn by it, although the newest that
// is whole is from before.
func TestDamageAfterRecovery(t *testing.T) {
	dir, last := storeWith(t, 3, nil)
	s := testOpen(t, dir, nil, otherBoot)
	mustPut(t, s, "k", 10)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	v := &Store{sys: s.sys, dir: dir}
	seqs, _, err := v.list()
	if err != nil {
		t.Fatal(err)
	}
	highest := ""
	for _, seq := range seqs {
		if path := v.manifestPath(seq); path > last {
			overwrite(t, path, nil)
			setMode(t, path, 0o644)
			highest = path
		}
	}
	s, err = open(dir, nil, s.sys)
	if err == nil {
		s.Close()
	}
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || corrupt.Path > highest || corrupt.Path <= last {
		t.Errorf("got %v, want a *CorruptError for a manifest above %s", err, last)
	}
}

// TestDamageWithoutLock: the manifest below the damaged one is of this run of
// the machine, which is reason enough, whatever has become of LOCK.
func TestDamageWithoutLock(t *testing.T) {
	dir, path := storeWith(t, 3, nil)
	overwrite(t, path, nil)
	setMode(t, path, 0o644)
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, &Options{ReadOnly: true})
	if err == nil {
		s.Close()
	}
	wantCorrupt(t, "Open", err, path)
}

func TestNewerVersion(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(b []byte) []byte
		says string
	}{
		{"version", func(b []byte) []byte { return sealPrologue(b, formatVersion+1, 0) }, "version 3"},
		{"version of a format that is otherwise unknown", func([]byte) []byte {
			return append(sealPrologue([]byte(manifestMagic+"12345678"), 77, 0xffff), "something else"...)
		}, "version 77"},
		{"flag", func(b []byte) []byte { return sealPrologue(b, formatVersion, 1<<7) }, "0x80"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, after := range []func(*system){func(*system) {}, otherBoot} { // a restart makes no difference
				dir, path := storeWith(t, 3, nil)
				overwrite(t, path, tc.do(readFile(t, path)))
				setMode(t, path, 0o644)
				sys := testSystem()
				after(&sys)
				before := filesOf(t, dir)
				for _, opts := range []*Options{nil, {ReadOnly: true}} {
					s, err := open(dir, opts, sys)
					if err == nil {
						s.Close()
					}
					if !errors.Is(err, ErrNewerVersion) || errors.Is(err, ErrCorrupt) {
						t.Fatalf("got %v, want ErrNewerVersion and not ErrCorrupt", err)
					}
					for _, want := range []string{path, tc.says} {
						if !strings.Contains(err.Error(), want) {
							t.Errorf("%q does not mention %q", err, want)
						}
					}
				}
				rep, err := verify(t.Context(), dir, sys)
				if err != nil || rep.OK() {
					t.Errorf("Verify: %+v, %v", rep, err)
				}
				for _, f := range rep.Files {
					if (f.Status == StatusNewer) != (filepath.Join(dir, f.Name) == path) {
						t.Errorf("Verify says %s is %s", f.Name, f.Status)
					}
				}
				wantSameFiles(t, dir, before)
			}
		})
	}
}

// TestFilesThatDoNotBelong: something has the name of the newest manifest and
// is not.
func TestFilesThatDoNotBelong(t *testing.T) {
	for _, tc := range []struct {
		name string
		put  func(t *testing.T, newest, above string)
		want error
	}{
		{"copy of a lower manifest", func(t *testing.T, newest, above string) {
			if err := os.WriteFile(above, readFile(t, newest), 0o644); err != nil {
				t.Fatal(err)
			}
		}, ErrCorrupt},
		{"foreign file", func(t *testing.T, _, above string) {
			if err := os.WriteFile(above, []byte("hello\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, ErrCorrupt},
		{"directory", func(t *testing.T, _, above string) {
			if err := os.Mkdir(above, 0o755); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"symbolic link to a manifest", func(t *testing.T, newest, above string) {
			if err := os.Symlink(newest, above); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"symbolic link to nothing", func(t *testing.T, _, above string) {
			if err := os.Symlink(above+"-not-there", above); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, newest := storeWith(t, 3, nil)
			old := testOpen(t, dir, nil, nil)
			seq, _ := parseManifestName(filepath.Base(newest))
			above := filepath.Join(dir, manifestName(seq+1))
			tc.put(t, newest, above)
			_, err := open(dir, nil, testSystem())
			_, putErr := old.Put(t.Context(), "k", 0)
			for name, err := range map[string]error{"Open": err, "Put": putErr} {
				if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), above) {
					t.Errorf("%s: got %v, want an error naming %s", name, err, above)
				}
			}
		})
	}
	t.Run("names that are almost a manifest's", func(t *testing.T) {
		dir, _ := storeWith(t, 3, nil)
		for _, name := range []string{"manifest.0000000000000009.bak", "manifest.9", "Manifest.0000000000000009", "manifest.000000000000000x", "manifest.+000000000000009", "manifest.0000000000000000", "manifest.00000000000000009"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s := testOpen(t, dir, nil, nil)
		mustPut(t, s, "k", 4)
		if rep, err := Verify(t.Context(), dir); err != nil || !rep.OK() {
			t.Errorf("Verify: %+v, %v", rep, err)
		}
	})
}

// TestManifestsGone: a store whose manifests were all removed is not made anew.
func TestManifestsGone(t *testing.T) {
	dir, newest := storeWith(t, 2, nil)
	old := testOpen(t, dir, nil, nil)
	for name := range filesOf(t, dir) {
		if name != lockName {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := Open(dir, nil)
	wantCorrupt(t, "Open", err, filepath.Dir(newest))
	if _, err := Open(dir, &Options{ReadOnly: true}); err == nil {
		t.Error("opening for reading succeeded")
	}
	if _, err := old.Get(t.Context(), "k"); !errors.Is(err, ErrReplaced) {
		t.Errorf("Get: %v, want ErrReplaced", err)
	}
	if _, err := old.Put(t.Context(), "k", 0); !errors.Is(err, ErrReplaced) {
		t.Errorf("Put: %v, want ErrReplaced", err)
	}
	if got := slices.Collect(maps.Keys(filesOf(t, dir))); len(got) != 1 {
		t.Errorf("the directory holds %q, want LOCK alone", got)
	}
}

// TestLockDeleted: LOCK is needed for nobody's data.
func TestLockDeleted(t *testing.T) {
	eachPath(t, func(t *testing.T, opts *Options) {
		dir, newest := storeWith(t, 2, opts)
		old := testOpen(t, dir, opts, nil)
		setMode(t, newest, 0o640)
		if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
			t.Fatal(err)
		}
		if got := contents[int](t, mustSnapshot(t, testOpen(t, dir, &Options{ReadOnly: true, Network: opts.Network}, nil))); got["k"] != 2 {
			t.Errorf("k = %d without LOCK, want 2", got["k"])
		}
		mustPut(t, old, "k", 3)
		mustPut(t, testOpen(t, dir, opts, nil), "k", 4)
		if got := contents[int](t, mustSnapshot(t, old)); got["k"] != 4 {
			t.Errorf("k = %d, want 4", got["k"])
		}
	})
}

// TestLockIsNoLock: something else has its name.
func TestLockIsNoLock(t *testing.T) {
	dir, _ := storeWith(t, 2, nil)
	overwrite(t, filepath.Join(dir, lockName), []byte("this is not a lock file, but somebody's notes"))
	before := readFile(t, filepath.Join(dir, lockName))
	if _, err := Open(dir, nil); !errors.Is(err, lockfile.ErrNotLockFile) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want lockfile.ErrNotLockFile naming it", err)
	}
	if _, err := Open(dir, nil); !strings.Contains(fmt.Sprint(err), "may be removed") {
		t.Errorf("%v does not say what to do", err)
	}
	reader := testOpen(t, dir, &Options{ReadOnly: true}, nil)
	if got := contents[int](t, mustSnapshot(t, reader)); got["k"] != 2 {
		t.Errorf("k = %d for a reader, want 2", got["k"])
	}
	if st, err := reader.Stat(t.Context()); err != nil || st.Revision != 2 || st.Lock.Known || st.Lock.State != lockfile.Unseen {
		t.Errorf("Stat: %+v, %v; want all but LOCK described", st, err)
	}
	rep, err := Verify(t.Context(), dir)
	if err != nil || rep.OK() {
		t.Errorf("Verify: %+v, %v; want LOCK damaged", rep, err)
	}
	if got := readFile(t, filepath.Join(dir, lockName)); string(got) != string(before) {
		t.Error("LOCK was written to")
	}
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	mustPut(t, testOpen(t, dir, nil, nil), "k", 3)
	// Where there is no store, it is somebody's file.
	notes := t.TempDir()
	if err := os.WriteFile(filepath.Join(notes, lockName), before, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(notes, nil); err == nil || strings.Contains(err.Error(), "may be removed") {
		t.Errorf("without a store: %v, want an error that does not say to remove the file", err)
	}
}

// TestReplaced: the directory under an open store becomes another, or an older
// one. The open store says so, with whatever method, and writes nothing.
func TestReplaced(t *testing.T) {
	for _, tc := range []struct {
		name    string
		replace func(t *testing.T, dir, earlier string)
		gone    bool
	}{
		{"removed", func(*testing.T, string, string) {}, true},
		{"removed and created anew", func(t *testing.T, dir, _ string) {
			testOpen(t, dir, nil, nil)
		}, false},
		{"removed, created anew, with as many commits", func(t *testing.T, dir, _ string) {
			s := testOpen(t, dir, nil, nil)
			for range 5 {
				mustPut(t, s, "k", 0)
			}
		}, false},
		{"removed, created anew, with more commits", func(t *testing.T, dir, _ string) {
			s := testOpen(t, dir, nil, nil)
			for range 150 {
				mustPut(t, s, "k", 0)
			}
		}, false},
		{"removed and empty", func(t *testing.T, dir, _ string) {
			if err := os.Mkdir(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"an earlier copy put back", func(t *testing.T, dir, earlier string) {
			copyDir(t, earlier, dir)
		}, false},
		{"an earlier copy put back, as many commits later", func(t *testing.T, dir, earlier string) {
			copyDir(t, earlier, dir)
			s := testOpen(t, dir, nil, nil)
			for range 2 {
				mustPut(t, s, "k", 0)
			}
		}, false},
		{"an earlier copy put back, more commits later", func(t *testing.T, dir, earlier string) {
			copyDir(t, earlier, dir)
			s := testOpen(t, dir, nil, nil)
			for range 30 {
				mustPut(t, s, "k", 0)
			}
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachPath(t, func(t *testing.T, opts *Options) {
				if opts.Network && tc.name == "an earlier copy put back" {
					return // TestReplacedByOlderOnNetwork: it takes patience
				}
				dir, _ := storeWith(t, 3, opts)
				earlier := filepath.Join(t.TempDir(), "earlier")
				copyDir(t, dir, earlier)
				s := testOpen(t, dir, opts, nil)
				mustPut(t, s, "k", 4)
				mustPut(t, s, "k", 5)
				reader := testOpen(t, dir, &Options{ReadOnly: true, Network: opts.Network}, nil)
				held := mustSnapshot(t, s)
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				tc.replace(t, dir, earlier)
				before := map[string]string{}
				if !tc.gone {
					before = filesOf(t, dir)
				}
				ctx := t.Context()
				calls := map[string]func() error{
					"Get":      func() error { _, err := s.Get(ctx, "k"); return err },
					"Snapshot": func() error { _, err := s.Snapshot(ctx); return err },
					"Put":      func() error { _, err := s.Put(ctx, "k", 6); return err },
					"Sync":     func() error { return s.Sync(ctx) },
					"Stat":     func() error { _, err := s.Stat(ctx); return err },
					"Get, opened for reading": func() error {
						_, err := reader.Get(ctx, "k")
						return err
					},
				}
				for range 2 { // it does not get used to it
					for name, call := range calls {
						err := call()
						if !errors.Is(err, ErrReplaced) || !strings.Contains(err.Error(), dir) {
							t.Errorf("%s: got %v, want ErrReplaced naming the directory", name, err)
						}
					}
				}
				if tc.gone {
					if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("the directory was made anew: %v", err)
					}
				} else {
					after := filesOf(t, dir)
					for _, files := range []map[string]string{before, after} {
						maps.DeleteFunc(files, func(name, _ string) bool { return name == lockName || vfs.IsTemp(name) })
					}
					if !maps.Equal(before, after) {
						t.Errorf("something was written to the new directory: had %q, has %q", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
					}
				}
				if got := contents[int](t, held)["k"]; got != 5 {
					t.Errorf("a snapshot taken before has k = %d, want 5", got)
				}
				if !tc.gone {
					anew := testOpen(t, dir, opts, nil)
					mustPut(t, anew, "k", 7)
				}
			})
		})
	}
}

// TestReplacedByOlderOnNetwork: there, a directory may look as it did a while
// ago, so that an older state is reported only when it stays. A bubble's clock
// spares the waiting.
func TestReplacedByOlderOnNetwork(t *testing.T) {
	network := &Options{Network: true}
	dir, _ := storeWith(t, 3, network)
	earlier := filepath.Join(t.TempDir(), "earlier")
	copyDir(t, dir, earlier)
	synctest.Test(t, func(t *testing.T) {
		s := testOpen(t, dir, network, nil)
		mustPut(t, s, "k", 4)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		copyDir(t, earlier, dir)
		begin := time.Now()
		if _, err := s.Get(t.Context(), "k"); !errors.Is(err, ErrReplaced) {
			t.Errorf("Get: %v, want ErrReplaced", err)
		}
		if d := time.Since(begin); d < patience || d > 2*patience {
			t.Errorf("it was reported after %v, want a patience of %v", d, patience)
		}
	})
}

// TestPublishingUnsupported: where the file system knows no rename that
// refuses to replace, files are published by link, and where it has no links
// either, the store cannot be.
func TestPublishingUnsupported(t *testing.T) {
	without := func(kinds ...string) func(*system) {
		return func(sys *system) {
			sys.fs = &faultfs.Hooked{FS: sys.fs, Before: func(op faultfs.Op) error {
				if slices.Contains(kinds, op.Kind) {
					return errors.ErrUnsupported
				}
				return nil
			}}
		}
	}
	for _, tc := range []struct {
		name  string
		opts  *Options
		kinds []string
	}{
		{"local, no such rename", nil, []string{faultfs.OpRename}},
		{"network, no links", &Options{Network: true}, []string{faultfs.OpLink}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := testStore(t, tc.opts, without(tc.kinds...))
			mustPut(t, s, "k", 1)
			if got := contents[int](t, mustSnapshot(t, s))["k"]; got != 1 {
				t.Errorf("k = %d, want 1", got)
			}
			if st, err := s.Stat(t.Context()); err != nil || st.Temporary != 0 {
				t.Errorf("%d temporary files are left, %v", st.Temporary, err)
			}
		})
	}
	t.Run("neither", func(t *testing.T) {
		dir := t.TempDir()
		sys := testSystem()
		without(faultfs.OpRename, faultfs.OpLink)(&sys)
		_, err := open(dir, &Options{Network: true}, sys)
		if !errors.Is(err, ErrUnsafeDir) || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v, want ErrUnsafeDir naming the directory", err)
		}
	})
	t.Run("neither any more", func(t *testing.T) {
		dir := t.TempDir()
		first := mustOpen(t, dir, &Options{Network: true}, testSystem())
		mustPut(t, first, "k", 1)
		first.Close()
		sys := testSystem()
		without(faultfs.OpRename, faultfs.OpLink)(&sys)
		s := mustOpen(t, dir, nil, sys)
		defer s.Close()
		_, err := s.Put(t.Context(), "k", 2)
		if !errors.Is(err, ErrUnsafeDir) || !strings.Contains(err.Error(), dir) || errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want ErrUnsafeDir naming the directory", err)
		}
		if got := contents[int](t, mustSnapshot(t, s))["k"]; got != 1 {
			t.Errorf("k = %d, want 1", got)
		}
	})
}

// TestFailedCommitLeavesNothing: an operation that fails before the commit has
// its name is reported with the file's name, and leaves no file.
func TestFailedCommitLeavesNothing(t *testing.T) {
	for _, kind := range []string{faultfs.OpCreate, faultfs.OpWrite, faultfs.OpChmod, faultfs.OpRename} {
		t.Run(kind, func(t *testing.T) {
			var fail atomic.Bool
			// A file of the group's is created for its owner alone.
			s := testStore(t, &Options{Mode: 0o640}, func(sys *system) {
				sys.fs = &faultfs.Hooked{FS: sys.fs, Before: func(op faultfs.Op) error {
					if op.Kind == kind && fail.Load() {
						return syscall.EIO
					}
					return nil
				}}
			})
			rev := mustPut(t, s, "k", 1)
			settle(s)
			before := filesOf(t, s.dir)
			fail.Store(true)
			_, err := s.Put(t.Context(), "k", 2)
			fail.Store(false)
			if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotDurable) || !strings.Contains(err.Error(), s.dir) {
				t.Errorf("got %v, want EIO, certainly nothing done, and a name", err)
			}
			wantSameFiles(t, s.dir, before)
			if got := mustPut(t, s, "k", 3); got != rev+1 {
				t.Errorf("the next revision is %v, want %v", got, rev+1)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	t.Run("healthy", func(t *testing.T) {
		dir, newest := storeWith(t, 3, nil)
		for _, name := range []string{".tmp.litter", "notes.txt", "lock.deploy"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		before := filesOf(t, dir)
		rep, err := Verify(t.Context(), dir)
		if err != nil || !rep.OK() || rep.Dir != dir {
			t.Fatalf("Verify: %+v, %v", rep, err)
		}
		got := map[string]string{}
		for _, f := range rep.Files {
			got[f.Name] = f.Kind + ", " + f.Status
			if f.Kind == kindManifest && (!f.Marked || f.Bytes != int64(len(before[f.Name])) || manifestName(f.Sequence) != f.Name) {
				t.Errorf("%+v is not what %s is", f, f.Name)
			}
			if f.Status == StatusNewest && (f.Records != 1 || f.Revision != 3) {
				t.Errorf("%+v: want 1 record and revision 3", f)
			}
		}
		want := map[string]string{".tmp.litter": "temporary, temporary", lockName: "lock, ok"}
		for name := range before {
			if strings.HasPrefix(name, manifestPrefix) {
				want[name] = "manifest, ok"
			}
		}
		want[filepath.Base(newest)] = "manifest, newest"
		if !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if !slices.IsSortedFunc(rep.Files, func(a, b FileReport) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("%v is not in the order of names", rep.Files)
		}
		wantSameFiles(t, dir, before)
	})
	t.Run("an old manifest is damaged", func(t *testing.T) {
		dir, newest := storeWith(t, 3, nil)
		seq, _ := parseManifestName(filepath.Base(newest))
		old := filepath.Join(dir, manifestName(seq-1))
		overwrite(t, old, flip(-10)(readFile(t, old)))
		rep, err := Verify(t.Context(), dir)
		if err != nil || rep.OK() {
			t.Fatalf("Verify: %+v, %v", rep, err)
		}
		for _, f := range rep.Files {
			if (f.Status == StatusDamaged) != (filepath.Join(dir, f.Name) == old) {
				t.Errorf("Verify says %s is %s", f.Name, f.Status)
			}
		}
		if got := contents[int](t, mustSnapshot(t, testOpen(t, dir, nil, nil)))["k"]; got != 3 {
			t.Errorf("k = %d, want that of the newest, which is whole: 3", got)
		}
	})
	t.Run("a segment is damaged", func(t *testing.T) {
		dir, _ := storeWith(t, 3, &Options{JournalSize: 1})
		sn := mustSnapshot(t, testOpen(t, dir, &Options{ReadOnly: true}, nil))
		newest, damaged := filepath.Join(dir, manifestName(sn.Sequence())), sn.view.segs[0].path
		overwrite(t, damaged, flip(segmentHeaderSize+recHeaderSize+8)(readFile(t, damaged)))
		rep, err := Verify(t.Context(), dir)
		if err != nil || rep.OK() {
			t.Fatalf("Verify: %+v, %v", rep, err)
		}
		for _, f := range rep.Files {
			path := filepath.Join(dir, f.Name)
			if (f.Status == StatusDamaged) != (path == damaged) || (f.Status == StatusNewest) != (path == newest) {
				t.Errorf("Verify says %s is %s: %v", f.Name, f.Status, f.Err)
			}
		}
	})
	t.Run("a segment is missing, and an old manifest is damaged", func(t *testing.T) {
		dir, _ := storeWith(t, 3, &Options{JournalSize: 1})
		missing := mustSnapshot(t, testOpen(t, dir, &Options{ReadOnly: true}, nil)).view.segs[0].path
		if err := os.Remove(missing); err != nil {
			t.Fatal(err)
		}
		old := filepath.Join(dir, manifestName(1))
		overwrite(t, old, flip(-10)(readFile(t, old)))
		rep, err := Verify(t.Context(), dir)
		if err != nil || rep.OK() {
			t.Fatalf("Verify: %+v, %v", rep, err)
		}
		var damaged []string
		for _, f := range rep.Files {
			if f.Status == StatusDamaged {
				damaged = append(damaged, filepath.Join(dir, f.Name))
			}
		}
		if !slices.Equal(damaged, []string{old, missing}) {
			t.Errorf("Verify says that %q are damaged; want %q and %q", damaged, old, missing)
		}
	})
	t.Run("a segment is newer", func(t *testing.T) {
		dir, _ := storeWith(t, 3, &Options{JournalSize: 1})
		sn := mustSnapshot(t, testOpen(t, dir, &Options{ReadOnly: true}, nil))
		newest, newer := filepath.Join(dir, manifestName(sn.Sequence())), sn.view.segs[0].path
		b := readFile(t, newer)
		binary.LittleEndian.PutUint16(b[8:], segmentVersion+1)
		binary.LittleEndian.PutUint32(b[12:], checksum(b[:12]))
		overwrite(t, newer, b)
		rep, err := Verify(t.Context(), dir)
		if err != nil || rep.OK() {
			t.Fatalf("Verify: %+v, %v", rep, err)
		}
		for _, f := range rep.Files {
			path := filepath.Join(dir, f.Name)
			if f.Status == StatusDamaged || (f.Status == StatusNewer) != (path == newer) || (f.Status == StatusNewest) != (path == newest) {
				t.Errorf("Verify says %s is %s: %v", f.Name, f.Status, f.Err)
			}
		}
	})
	t.Run("LOCK is of a newer version", func(t *testing.T) {
		dir, _ := storeWith(t, 1, nil)
		lock := filepath.Join(dir, lockName)
		b := readFile(t, lock)
		b[8]++
		binary.LittleEndian.PutUint32(b[12:], crc32c.Checksum(b[:12]))
		overwrite(t, lock, b)
		rep, err := Verify(t.Context(), dir)
		if err != nil || rep.OK() {
			t.Fatalf("Verify: %+v, %v", rep, err)
		}
		for _, f := range rep.Files {
			if (f.Status == StatusNewer) != (f.Name == lockName) || f.Status == StatusUnread {
				t.Errorf("Verify says %s is %s: %v", f.Name, f.Status, f.Err)
			}
		}
	})
	t.Run("a segment cannot be read", func(t *testing.T) {
		dir, _ := storeWith(t, 3, &Options{JournalSize: 1})
		sn := mustSnapshot(t, testOpen(t, dir, &Options{ReadOnly: true}, nil))
		bad := sn.view.segs[0].path
		sys := realSystem()
		sys.fs = &faultfs.Hooked{FS: sys.fs, Before: func(op faultfs.Op) error {
			if op.Kind == faultfs.OpRead && op.Path == bad {
				return syscall.EIO
			}
			return nil
		}}
		rep, err := verify(t.Context(), dir, sys)
		if err != nil || rep.OK() {
			t.Fatalf("Verify: %+v, %v", rep, err)
		}
		for _, f := range rep.Files {
			if f.Status == StatusDamaged || (f.Status == StatusUnread) != (filepath.Join(dir, f.Name) == bad) {
				t.Errorf("Verify says %s is %s: %v", f.Name, f.Status, f.Err)
			}
		}
	})
	t.Run("a record does not decode", func(t *testing.T) {
		s := testStore(t, nil, nil)
		bad := []byte("{")
		if _, err := s.Update(t.Context(), func(tx *Tx) error { return tx.PutEncoded("bad", "json", bad) }); !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("PutEncoded: %v, want %v", err, codec.ErrMalformed)
		}
		if _, err := s.Update(t.Context(), func(tx *Tx) error { tx.put(&write{key: "bad", codec: "json", data: bad}); return nil }); err != nil {
			t.Fatal(err)
		}
		rep, err := Verify(t.Context(), s.dir)
		if err != nil || rep.OK() || !strings.Contains(fmt.Sprint(rep), `"bad"`) {
			t.Errorf("Verify: %+v, %v; want the record named", rep, err)
		}
	})
	for name, setup := range map[string]func(t *testing.T, dir string){
		"no directory":    func(*testing.T, string) {},
		"empty directory": func(t *testing.T, dir string) { os.Mkdir(dir, 0o777) },
		"another's directory": func(t *testing.T, dir string) {
			os.Mkdir(dir, 0o777)
			os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o666)
		},
		"a file": func(t *testing.T, dir string) { os.WriteFile(dir, nil, 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "s")
			setup(t, dir)
			if rep, err := Verify(t.Context(), dir); err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("Verify: %+v, %v; want an error naming the directory", rep, err)
			}
		})
	}
}

// TestVerifyEnds: a segment may have many gigabytes, and whoever has asked for it to be
// read not wait for that.
func TestVerifyEnds(t *testing.T) {
	s := testStore(t, &Options{JournalSize: 1}, nil)
	if _, err := s.Update(t.Context(), func(tx *Tx) error {
		for i := range 2000 {
			if err := tx.Put(fmt.Sprintf("%04d", i), i); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// reads verifies the store with a context that ends with the n-th read of a
	// segment, and returns how many there were.
	reads := func(n int) (int, error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		count, sys := 0, realSystem()
		sys.fs = &faultfs.Hooked{FS: sys.fs, Before: func(op faultfs.Op) error {
			if op.Kind == faultfs.OpRead && strings.HasPrefix(filepath.Base(op.Path), segmentPrefix) {
				if count++; count == n {
					cancel()
				}
			}
			return nil
		}}
		_, err := verify(ctx, s.dir, sys)
		return count, err
	}
	all, err := reads(0)
	if err != nil || all < 20 {
		t.Fatalf("%d reads, %v; there should be blocks to read", all, err)
	}
	for _, n := range []int{4, all / 2, all - 4} { // while it is checked, and while its values are
		if got, err := reads(n); !errors.Is(err, context.Canceled) || got > n+3 { // header, footer and root
			t.Errorf("the context ended with read %d of %d: %d reads, %v", n, all, got, err)
		}
	}
}

// TestVerifyBusy: the newest manifest is examined, also if it has come since the directory was
// read.
func TestVerifyBusy(t *testing.T) {
	s := testStore(t, nil, nil)
	mustPut(t, s, "k", 0)
	newest := uint64(0)
	sys := realSystem()
	sys.fs = &faultfs.Hooked{FS: sys.fs, Before: func(op faultfs.Op) error {
		if op.Kind == faultfs.OpLstat && filepath.Base(op.Path) == lockName {
			mustPut(t, s, "k", 1)
			st := s.current()
			newest = st.seq
			st.release()
		}
		return nil
	}}
	rep, err := verify(t.Context(), s.dir, sys)
	if err != nil || !rep.OK() || newest == 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	i := slices.IndexFunc(rep.Files, func(f FileReport) bool { return f.Status == StatusNewest })
	if i < 0 || rep.Files[i].Sequence != newest || rep.Files[i].Records != 1 {
		t.Errorf("the newest, %s, is not among %+v", manifestName(newest), rep.Files)
	}
}

// TestSymbolicLink: what the store writes is never one, and whoever has put one there is told
// what it is.
func TestSymbolicLink(t *testing.T) {
	for _, name := range []string{manifestName(99), "segment"} {
		s := testStore(t, &Options{JournalSize: 1}, nil)
		mustPut(t, s, "k", strings.Repeat("x", 100))
		mustPut(t, s, "l", strings.Repeat("x", 100))
		s.busy.Wait()
		if name == "segment" {
			st := s.current()
			name = st.segments[0].name()
			st.release()
			if err := os.Rename(filepath.Join(s.dir, name), filepath.Join(s.dir, "elsewhere")); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("elsewhere", filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(s.dir, nil); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("%s: Open: %v", name, err)
		}
		rep, err := Verify(t.Context(), s.dir)
		if i := slices.IndexFunc(rep.Files, func(f FileReport) bool { return f.Name == name }); err != nil || i < 0 || rep.Files[i].Status != StatusDamaged {
			t.Errorf("%s: Verify: %+v, %v", name, rep, err)
		}
	}
}

// TestManifestOfAnotherStore: a directory that holds manifests of two stores
// is damaged. To take the highest for the newest, whosesoever it is, would
// silently lose the records of the store that was there.
func TestManifestOfAnotherStore(t *testing.T) {
	for _, commits := range []int{4, 6} { // directly above the newest, and above a gap
		dir, _ := storeWith(t, 3, nil)
		_, foreign := storeWith(t, commits, nil)
		path := filepath.Join(dir, filepath.Base(foreign))
		if err := os.WriteFile(path, readFile(t, foreign), 0o444); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, nil)
		if err == nil {
			t.Errorf("%d commits: opened, k = %d, which another store wrote", commits, contents[int](t, mustSnapshot(t, s))["k"])
			s.Close()
		}
		if rep, err := Verify(t.Context(), dir); err == nil && rep.OK() {
			t.Errorf("%d commits: Verify finds nothing", commits)
		}
	}
}

// TestForeignManifestNameInForeignDir: "Nothing is changed", says the doc of
// these errors.
func TestForeignManifestNameInForeignDir(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, manifestName(1))
	if err := os.WriteFile(path, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := filesOf(t, dir)
	_, err := Open(dir, nil)
	wantCorrupt(t, "Open", err, path)
	wantSameFiles(t, dir, before)
}

// lying is a codec that has the name of another.
type lying struct{ codec.Codec }

func (lying) Name() string { return "json" }

// morse is a codec that package codec does not have.
type morse struct{ codec.Codec }

func (morse) Name() string { return "morse" }

// TestForeignCodec: its values would be refused by Decode, export and Verify.
func TestForeignCodec(t *testing.T) {
	ctx := t.Context()
	s := testStore(t, nil, nil)
	for _, c := range []codec.Codec{morse{codec.Raw}, lying{codec.Raw}} {
		_, put := s.Put(ctx, "k", "x", WithCodec(c))
		_, swap := s.CompareAndSwap(ctx, "k", 0, "x", WithCodec(c))
		_, update := s.Update(ctx, func(tx *Tx) error { return tx.Put("k", "x", WithCodec(c)) })
		for _, err := range []error{put, swap, update} {
			if !errors.Is(err, codec.ErrUnknown) || !strings.Contains(err.Error(), `"k"`) {
				t.Errorf("got %v, want %v and the record named", err, codec.ErrUnknown)
			}
		}
		if _, err := Open(s.dir, &Options{Codec: c}); !errors.Is(err, codec.ErrUnknown) {
			t.Errorf("Open: %v, want %v", err, codec.ErrUnknown)
		}
	}
	if rep, err := Verify(ctx, s.dir); err != nil || !rep.OK() {
		t.Errorf("Verify: %+v, %v", rep, err)
	}
}

// TestNilCodec: nil is the store's codec, as in Options.
func TestNilCodec(t *testing.T) {
	s := testStore(t, nil, nil)
	if _, err := s.Put(t.Context(), "k", 1, WithCodec(nil)); err != nil {
		t.Error(err)
	}
}

// TestManifestsGoneForReaders: LOCK knows that there was a store. To say that there is
// none would be as wrong for a reader as to make a new one.
func TestManifestsGoneForReaders(t *testing.T) {
	dir, newest := storeWith(t, 3, nil)
	names, err := filepath.Glob(filepath.Join(filepath.Dir(newest), manifestPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, opts := range []*Options{{ReadOnly: true}, {NoCreate: true}, nil} {
		if _, err := Open(dir, opts); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Open(%+v): %v, want %v", opts, err, ErrCorrupt)
		}
	}
	if rep, err := Verify(t.Context(), dir); err != nil || rep.OK() {
		t.Errorf("Verify: %+v, %v; want damage", rep, err)
	}
}

// TestSegmentsAlone: a directory that holds segments and no manifest is no empty
// directory, in which a store may be created.
func TestSegmentsAlone(t *testing.T) {
	dir := t.TempDir()
	name := segmentRef{seq: 7, id: ID{1}}.name()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []*Options{nil, {ReadOnly: true}, {NoCreate: true}} {
		if _, err := Open(dir, opts); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: got %v, want ErrCorrupt naming the segment", opts, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v; want the segment alone", len(entries), err)
	}
}

// TestSegmentNameIsFlushed: others build on a manifest before its own flush, and
// must be able to count on the segments that it names.
func TestSegmentNameIsFlushed(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	var mu sync.Mutex
	var log []string
	s := mustOpen(t, simDir, &Options{JournalSize: 1}, m.system(&faultfs.Hooked{FS: m.disk, After: func(op faultfs.Op, err error) error {
		mu.Lock()
		defer mu.Unlock()
		if base := filepath.Base(op.Path); op.Kind == faultfs.OpRename || op.Kind == faultfs.OpSyncDir {
			name, _, _ := strings.Cut(base, ".")
			log = append(log, op.Kind+" "+name)
		}
		return err
	}}))
	defer s.Close()
	mu.Lock()
	log = nil
	mu.Unlock()
	mustUpdate(t, s, "w/0")
	mu.Lock()
	defer mu.Unlock()
	want := []string{"rename segment", "syncdir s", "rename manifest"}
	if len(log) < 3 || !slices.Equal(log[:3], want) {
		t.Errorf("%q, want %q first", log, want)
	}
}

// TestNotStore: what is beside a store's own names by a letter is somebody
// else's.
func TestNotStore(t *testing.T) {
	for name, own := range map[string]bool{
		"LOCK": true, "MERGE": true, "LOCK.turn": true, "LOCK.claims": true, "MERGE.turn": true, "MERGE.claims": true, "LOCK.new." + ID{1}.String(): true, "LOCK.claims.new." + ID{1}.String(): true, "lock.deploy": true, ".hidden": true,
		"LOCK.txt": false, "LOCK.new.1": false, "LOCK.turn.new." + ID{1}.String(): false, "MERGE.bak": false, "segment.csv": false, "segment.0000000000000001.xyz": false, "lock.": false, "lock": false, "Manifest": false,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, nil)
		if err == nil {
			s.Close()
		}
		if (err == nil) != own || !own && (!errors.Is(err, ErrNotStore) || !strings.Contains(err.Error(), name)) {
			t.Errorf("%s: got %v, want ErrNotStore: %v", name, err, !own)
		}
	}
}
