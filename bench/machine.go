package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// about is what the figures belong to.
type about struct {
	machine string
	lines   []string // of the software
}

// describe looks at the machine and the file system of dir.
func describe(ctx context.Context, dir string, peers []peer) about {
	a := about{machine: fmt.Sprintf("%s, %d cores, %s, %s", processor(), runtime.NumCPU(), kernel(), fileSystem(ctx, dir))}
	a.lines = append(a.lines, fmt.Sprintf("%s, %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH))
	for _, p := range peers {
		a.lines = append(a.lines, fmt.Sprintf("%s: %s; %s", p.name, p.version(), p.settings))
	}
	return a
}

// ratiosMatter is true whenever and wherever the figures were taken.
const ratiosMatter = "Only ratios mean anything: absolute figures are those of one machine, which was not alone with its disk. " +
	"All peers were measured in turn, round after round unless a table says \"One round\", so that they met the same machine."

func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// fileSystem returns the kind of the file system that dir is on.
func fileSystem(ctx context.Context, dir string) string {
	out, err := exec.CommandContext(ctx, "df", "-T", dir).Output()
	if err != nil {
		return "unknown"
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if fields := bytes.Fields(lines[len(lines)-1]); len(fields) > 1 {
		return string(fields[1])
	}
	return "unknown"
}
