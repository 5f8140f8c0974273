package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// mounted returns the directory of a new file system.
func mounted(t *testing.T, mkfs ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a file system")
	}
	for _, tool := range []string{mkfs[0], "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v; install it to test this", err)
		}
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 8<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], image)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("this machine cannot mount it: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return dir
}

// ext4 with small inodes has time stamps of a second.
func TestCoarseClock(t *testing.T) {
	r := examine(t, mounted(t, "mkfs.ext4", "-q", "-I", "128"))
	if r.want(t, "clock", Note, "coarse"); r.Granularity != time.Second || !r.OK {
		t.Errorf("steps of %v, %s", r.Granularity, r.Verdict)
	}
}

// FAT has no links, and is not among the file systems known to be local.
func TestWithoutLinks(t *testing.T) {
	r := examine(t, mounted(t, "mkfs.vfat"))
	r.want(t, "link", Good, "not to be had")
	if r.Local || !r.OK {
		t.Errorf("%+v", r)
	}
}
