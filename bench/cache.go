package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const dropCaches = "/proc/sys/vm/drop_caches"

// dropper returns a function that takes a directory's files out of the
// system's cache, and what it does. Only root can drop directories and inodes
// too.
func dropper() (how string, drop func(dir string) error) {
	if f, err := os.OpenFile(dropCaches, os.O_WRONLY, 0); err == nil {
		f.Close()
		return "the system's whole cache is dropped before each read", func(string) error {
			unix.Sync()
			return os.WriteFile(dropCaches, []byte("3"), 0)
		}
	}
	return "the files' pages are dropped before each read (not as root: names and inodes stay in the cache)", dropFiles
}

func dropFiles(dir string) error {
	unix.Sync()
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("drop %s from the cache: %w", path, err)
		}
		return nil
	})
}

// usage returns the bytes of a directory's files: what they say, and what is
// allocated for them.
func usage(dir string) (apparent, allocated int64, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		apparent += st.Size
		allocated += st.Blocks * 512
		return nil
	})
	return apparent, allocated, err
}
