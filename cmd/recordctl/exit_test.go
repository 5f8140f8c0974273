package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/lockfile"
	"github.com/recordstore/recordstore/store"
)

func TestDescribe(t *testing.T) {
	held := &lockfile.HeldError{Path: "s/LOCK", Known: true, Holder: lockfile.Holder{PID: 42, Host: "h", Purpose: "work"}, Err: context.Canceled}
	tests := []struct {
		name string
		err  error
		want int
		msg  string // in the message
	}{
		{"none", nil, exitOK, ""},
		{"no such record", store.ErrNotFound, exitNo, "no such record"},
		{"conflict", &store.ConflictError{Key: "k", Want: 1, Have: 2}, exitNo, `"k"`},
		{"usage", usagef("", "bad"), exitUsage, "bad"},
		{"invalid key", store.ErrInvalidKey, exitUsage, "invalid key"},
		{"too large", store.ErrTooLarge, exitData, "too large"},
		{"damage", &store.CorruptError{Path: "s/manifest.1", Offset: 7, Reason: "checksum"}, exitData, "s/manifest.1"},
		{"malformed value", codec.ErrMalformed, exitData, ""},
		{"not a lock file", lockfile.ErrNotLockFile, exitData, ""},
		{"not a store", store.ErrNotStore, exitNoInput, ""},
		{"fate unknown", store.ErrUnknown, exitUnknown, "may be committed"},
		{"fate unknown and cancelled", fmt.Errorf("%w: %w", store.ErrUnknown, context.DeadlineExceeded), exitUnknown, ""},
		{"fate unknown and a signal", fmt.Errorf("%w: %w", store.ErrUnknown, signalError{syscall.SIGINT}), exitUnknown, ""},
		{"fate unknown and an I/O error", fmt.Errorf("%w: %w", store.ErrUnknown, &fs.PathError{Op: "link", Err: syscall.EIO}), exitUnknown, ""},
		{"not durable", fmt.Errorf("%w: %w", store.ErrNotDurable, syscall.EIO), exitIO, ""},
		{"not durable and no permission", fmt.Errorf("%w: %w", store.ErrNotDurable, fs.ErrPermission), exitIO, ""},
		{"lock held", held, exitLocked, "pid 42"},
		{"lock held, wrapped", fmt.Errorf("update: %w", held), exitLocked, "for work"},
		{"deadline", context.DeadlineExceeded, exitLocked, ""},
		{"newer version", store.ErrNewerVersion, exitVersion, "newer"},
		{"incompatible lock", lockfile.ErrIncompatible, exitVersion, ""},
		{"unsafe directory", store.ErrUnsafeDir, exitCantCreate, ""},
		{"read only", store.ErrReadOnly, exitNoPerm, ""},
		{"permission", &fs.PathError{Op: "open", Path: "s/LOCK", Err: syscall.EACCES}, exitNoPerm, "s/LOCK"},
		{"not permitted", &fs.PathError{Op: "open", Path: "s/LOCK", Err: syscall.EPERM}, exitNoPerm, ""},
		{"replaced", store.ErrReplaced, exitIO, ""},
		{"disk full", &fs.PathError{Op: "write", Path: "s/tmp.1", Err: syscall.ENOSPC}, exitIO, "s/tmp.1"},
		{"rename", &os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.EIO}, exitIO, ""},
		{"system call", os.NewSyscallError("fsync", syscall.EIO), exitIO, "fsync"},
		{"errno", syscall.EROFS, exitIO, ""},
		{"signal", signalError{syscall.SIGTERM}, exitSignal + 15, "interrupted"},
		{"anything else", errors.New("odd"), exitSoftware, "odd"},
	}
	for _, tt := range tests {
		for _, err := range []error{tt.err, wrap(tt.err)} {
			got := describe(err)
			if got.code != tt.want {
				t.Errorf("%s: describe(%v): got status %d, want %d", tt.name, err, got.code, tt.want)
			}
			if !strings.Contains(got.msg, tt.msg) {
				t.Errorf("%s: message: got %q, want it to contain %q", tt.name, got.msg, tt.msg)
			}
			if strings.Contains(got.msg, "context") && tt.name == "lock held" {
				t.Errorf("%s: message: got %q, want nothing about contexts", tt.name, got.msg)
			}
		}
	}
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("wrapped: %w", err)
}

// Every status that describe can give is in the table, and no status twice.
func TestExitCodesAreListed(t *testing.T) {
	seen := map[int]bool{}
	last := -1
	for _, c := range exitCodes {
		if seen[c.code] || c.code <= last || c.meaning == "" {
			t.Errorf("status %d: listed twice, out of order or without meaning", c.code)
		}
		seen[c.code], last = true, c.code
	}
	for _, code := range []int{
		exitOK, exitNo, exitUsage, exitData, exitNoInput, exitUnknown, exitSoftware, exitCantCreate, exitIO,
		exitLocked, exitVersion, exitNoPerm, exitNested, exitCannotRun, exitNoCommand, exitSignal,
	} {
		if !seen[code] {
			t.Errorf("status %d is not in the table", code)
		}
	}
}

// A document that has the table between the two marks has it as it is here.
func TestExitCodesInDocuments(t *testing.T) {
	const begin, end = "<!-- exit-codes -->\n", "<!-- /exit-codes -->"
	var want strings.Builder
	want.WriteString("| status | meaning |\n|---|---|\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&want, "| %d | %s |\n", c.code, c.meaning)
	}
	documents, err := filepath.Glob("../../*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(documents, more...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, found := strings.Cut(string(text), begin)
		if !found {
			continue
		}
		if got, _, _ := strings.Cut(rest, end); got != want.String() {
			t.Errorf("%s: table of exit statuses:\n%s\nwant:\n%s", name, got, want.String())
		}
	}
}
