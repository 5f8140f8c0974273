// Package fstype tells what kind of file system a directory is on, whether that is
// local to this machine, and how it is mounted.
package fstype

// A Mount is how the file system of a directory is mounted.
type Mount struct {
	Type    string   // as "nfs4", "fuse.sshfs", "ext4"
	Point   string   // the directory on which it is mounted
	Source  string   // as "server:/export", "/dev/sda1"
	Options []string // those of the mount, then those of the file system
}

// Of returns the name of the file system's type, and whether it is one whose names,
// once looked up, are never stale, and of which no other machine has a copy. Of what
// is not known it says that it is not.
func Of(dir string) (name string, local bool, err error) { return of(dir) }

// MountOf returns the mount that dir is on. What it is not told is an error.
func MountOf(dir string) (Mount, error) { return mountOf(dir) }
