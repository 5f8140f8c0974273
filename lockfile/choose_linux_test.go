package lockfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestChooseMounted: on file systems that are mounted for it, local ones and one of
// which that is not known.
func TestChooseMounted(t *testing.T) {
	tests := []struct {
		fs, options string
		name        string
		local       bool
	}{
		{"tmpfs", "", "tmpfs", true},
		{"ramfs", "", "ramfs", false},
		{"overlay", "lowerdir=%/a,upperdir=%/b,workdir=%/c", "overlay on ", true},
	}
	for _, tt := range tests {
		t.Run(tt.fs, func(t *testing.T) {
			top := t.TempDir()
			for _, name := range []string{"a", "b", "c", "mnt"} {
				if err := os.Mkdir(filepath.Join(top, name), 0o777); err != nil {
					t.Fatal(err)
				}
			}
			dir := filepath.Join(top, "mnt")
			if err := unix.Mount("lockfile-test", dir, tt.fs, 0, strings.ReplaceAll(tt.options, "%", top)); err != nil {
				t.Skipf("mount %s: %v", tt.fs, err)
			}
			defer func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Errorf("a descriptor was left open: %v", err)
					unix.Unmount(dir, unix.MNT_DETACH)
				}
			}()
			r := mustProbe(t, testProber("probe"), dir)
			if tt.fs == "overlay" && !r.Local {
				t.Logf("the temporary directory is not on a local file system: %s", r.FileSystem)
			} else if !strings.HasPrefix(r.FileSystem, tt.name) || r.Local != tt.local {
				t.Errorf("file system %q, local: %v", r.FileSystem, r.Local)
			}
			if r.Default != OFD || !r.OK {
				t.Errorf("default %v: %s", r.Default, r.Verdict)
			}
			path := filepath.Join(dir, "LOCK")
			f, err := Open(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			mustUnlock(t, mustLock(t, f, ""))
			f.Close()
			b, _ := os.ReadFile(path)
			if m, err := checkHeader(b); m != OFD || err != nil {
				t.Errorf("the file records %v, %v", m, err)
			}
			checkOnly(t, dir, "LOCK")
		})
	}
}
