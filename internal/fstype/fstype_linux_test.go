package fstype

import (
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"testing"
)

const mountinfo = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 0:50 / /mnt/nfs rw,relatime shared:30 master:2 - nfs4 server:/a\040b rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1
41 27 0:51 / /mnt/nfs3 rw,nosuid - nfs server:/export rw,vers=3,nolock,local_lock=all
42 27 0:50 /sub /mnt/other\040place ro - nfs4 server:/a\040b rw,vers=4.2,local_lock=none
43 27 0:52 / /merged rw - overlay overlay rw,lowerdir=/l\040,upperdir=/u\040p,workdir=/w
broken line
44 27 0:53 / /no-dash rw
45 27 0:54 / /short rw - ext4
46 27 0:55 / /mnt/ssh rw,nosuid,nodev - fuse.sshfs me@host: rw,user_id=0
`

func TestFindMount(t *testing.T) {
	tests := []struct {
		name, id, dev string
		want          Mount
	}{
		{"by number", "41", "", Mount{"nfs", "/mnt/nfs3", "server:/export", []string{"rw", "nosuid", "rw", "vers=3", "nolock", "local_lock=all"}}},
		{"two mounts of a device", "40", "0:50", Mount{"nfs4", "/mnt/nfs", "server:/a b", []string{"rw", "relatime", "rw", "vers=4.2", "hard", "local_lock=none", "addr=10.0.0.1"}}},
		{"the other", "42", "0:50", Mount{"nfs4", "/mnt/other place", "server:/a b", []string{"ro", "rw", "vers=4.2", "local_lock=none"}}},
		{"by device", "", "254:0", Mount{"ext4", "/", "/dev/vda", []string{"rw", "relatime", "rw", "discard"}}},
		{"unknown number", "99", "0:55", Mount{"fuse.sshfs", "/mnt/ssh", "me@host:", []string{"rw", "nosuid", "nodev", "rw", "user_id=0"}}},
		{"escapes", "43", "", Mount{"overlay", "/merged", "overlay", []string{"rw", "rw", "lowerdir=/l ", "upperdir=/u p", "workdir=/w"}}},
		{"no dash", "44", "0:53", Mount{}},
		{"short", "45", "0:54", Mount{}},
		{"none", "99", "9:9", Mount{}},
		{"a number is not a prefix", "4", "", Mount{}},
	}
	for _, tt := range tests {
		got, err := findMount(strings.NewReader(mountinfo), tt.id, tt.dev)
		if (err != nil) != (tt.want.Type == "") || err != nil && !errors.Is(err, fs.ErrNotExist) || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
	long := "50 27 0:60 / /many rw - overlay overlay rw,lowerdir=" + strings.Repeat("/layer:", 20000) + ",upperdir=/u\n"
	if m, err := findMount(strings.NewReader(long), "50", ""); err != nil || m.Options[len(m.Options)-1] != "upperdir=/u" {
		t.Errorf("a long line: %v", err)
	}
}

func TestUnescape(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "a": "a", `a\040b`: "a b", `\134040`: `\040`, `\04`: `\04`, `\`: `\`, `\999`: `\999`, `x\011`: "x\t",
	} {
		if got := unescape(s); got != want {
			t.Errorf("unescape(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestHere(t *testing.T) {
	for dir, want := range map[string]string{"/proc": "proc", "/dev/shm": "tmpfs"} {
		m, err := MountOf(dir)
		if err != nil {
			t.Skip(err)
		}
		if m.Type != want {
			t.Errorf("%s: %+v", dir, m)
		}
	}
	if name, local, err := Of("/dev/shm"); name != "tmpfs" || !local || err != nil {
		t.Errorf("/dev/shm: %v, %v, %v", name, local, err)
	}
	if _, local, err := Of("/proc"); local || err != nil {
		t.Errorf("/proc: %v, %v", local, err)
	}
	if _, _, err := Of("/nosuch"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := MountOf("/nosuch"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
