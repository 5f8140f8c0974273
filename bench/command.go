package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// callsPerRound is how often each command is run in a round.
const callsPerRound = 10

// A call is a command that a script would use to get one record.
type call struct {
	name string // in the book
	text string // in the table
	args func(key string) []string
	// value returns the record's value from what the command printed.
	value func(out []byte) []byte
}

// idleCall is the name of the command that does nothing.
const idleCall = "true"

// commandCalls is experiment f: the time from a command's start to its exit.
// The commands run in turn. One of them does nothing: starting a process costs
// that much.
func commandCalls(l *lab) error {
	t := &table{
		title:   fmt.Sprintf("f. A command gets one of %s records: from its start to its exit, warm", book.Grouped(l.largest())),
		columns: []string{"command", "median", "to ours", "p99", "memory"},
		names:   1,
		notes: []string{"Memory is the most that was resident, by the kernel's rusage. It says nothing below that of `true`: " +
			"the kernel begins with the memory of the process that starts the command, a worker of this program. " + toOurs},
	}
	calls, err := l.calls()
	if err != nil {
		return err
	}
	at := book.Place{Experiment: "f", Case: inRecords(l.largest())}
	version, err := exec.CommandContext(l.ctx, "sqlite3", "--version").Output()
	if err != nil {
		return fmt.Errorf("f: sqlite3 --version: %w", err)
	}
	t.notes = append(t.notes, "The command sqlite3 is "+strings.Fields(string(version) + " unknown")[0]+".")
	for round := range l.rounds {
		l.say("f: round %d of %d", round+1, l.rounds)
		if err := l.callInTurn(calls, at); err != nil {
			return fmt.Errorf("f: %w", err)
		}
	}
	for _, c := range calls {
		at.Peer = c.name
		t.row(c.text, book.Time(l.book.Median(at.Of("p50"))), book.Times(l.toOurs(at.Of("p50"))),
			book.Time(l.book.Median(at.Of("p99"))), book.Bytes(l.book.Median(at.Of("memory"))))
	}
	l.report(t)
	return nil
}

// calls returns the commands, with their databases loaded.
func (l *lab) calls() ([]call, error) {
	sets := map[string]*dataset{}
	for _, name := range []string{ours, sqliteFull} {
		p, err := peerNamed(name)
		if err != nil {
			return nil, err
		}
		if sets[name], err = l.set(p, l.largest()); err != nil {
			return nil, err
		}
	}
	recordctl, err := l.buildCommand()
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("sqlite3"); err != nil {
		return nil, fmt.Errorf("install it, or leave f out by -run: %w", err)
	}
	file := filepath.Join(sets[sqliteFull].dir, sqliteFile)
	return []call{
		{
			name: ours, text: "`recordctl get`",
			args:  func(key string) []string { return []string{recordctl, "get", "--store", sets[ours].dir, key} },
			value: func(out []byte) []byte { return out },
		},
		{
			name: sqliteFull, text: "`sqlite3`",
			args: func(key string) []string {
				return []string{"sqlite3", file, "SELECT hex(v) FROM t WHERE k = '" + key + "'"}
			},
			value: unhex,
		},
		{name: idleCall, text: "`true`", args: func(string) []string { return []string{"true"} }},
	}, nil
}

func unhex(out []byte) []byte {
	v, err := hex.DecodeString(string(bytes.TrimSpace(out)))
	if err != nil {
		return out // which is not a value either
	}
	return v
}

// buildCommand builds recordctl, of the same source as the store, unless one
// was given.
func (l *lab) buildCommand() (string, error) {
	if l.command != "" {
		return l.command, nil
	}
	const module = "github.com/recordstore/recordstore"
	source, err := exec.CommandContext(l.ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the source of recordctl (run this in bench/, or name one by -recordctl): %w", err)
	}
	linked := filepath.Join(l.dir, "recordctl.linked")
	build := exec.CommandContext(l.ctx, "go", "build", "-C", strings.TrimSpace(string(source)), "-o", linked, "./cmd/recordctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as the README says to install it
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build recordctl: %w: %s", err, out)
	}
	// What the linker has just written through a memory map is in the page cache
	// in small pieces, and starts a tenth slower than the same file copied, or
	// read from the disk once the machine was restarted.
	program, err := os.ReadFile(linked)
	if err != nil {
		return "", err
	}
	copied := filepath.Join(l.dir, "recordctl")
	if err := os.WriteFile(copied, program, 0o755); err != nil {
		return "", err
	}
	l.command = copied
	return copied, os.Remove(linked)
}

// callInTurn runs each command for the same random keys, once before it counts.
// A worker starts them, because it has little memory itself.
func (l *lab) callInTurn(calls []call, at book.Place) error {
	rnd := rand.New(rand.NewPCG(l.seed(), 0))
	var keys []string
	j := job{Kind: kindCall}
	for range callsPerRound + 1 {
		key := recordKey(rnd.IntN(l.largest()))
		for _, c := range calls {
			keys = append(keys, key)
			j.Commands = append(j.Commands, c.args(key))
		}
	}
	res, err := runOne(l.ctx, j, nil)
	if err != nil {
		return err
	}
	took := make([][]time.Duration, len(calls))
	memory := make([]int64, len(calls))
	for n, did := range res.Calls {
		i := n % len(calls)
		if value := calls[i].value; value != nil {
			if _, err := readValue(keys[n], value(did.Output)); err != nil {
				return fmt.Errorf("%s: %w", strings.Join(j.Commands[n], " "), err)
			}
		}
		if n >= len(calls) {
			took[i] = append(took[i], did.Took)
			memory[i] = max(memory[i], did.Memory)
		}
	}
	for i, c := range calls {
		at.Peer = c.name
		l.addLatencies(at, took[i])
		l.book.Add(at.Of("memory"), float64(memory[i]))
	}
	return nil
}

// call runs the job's commands.
func (w *worker) call() (res result, err error) {
	if err := w.ready(); err != nil {
		return res, err
	}
	for _, args := range w.Commands {
		did, err := callOnce(args)
		if err != nil {
			return res, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		res.Calls = append(res.Calls, did)
	}
	return res, nil
}

func callOnce(args []string) (called, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	start := time.Now()
	out, err := cmd.Output()
	took := time.Since(start)
	if err != nil {
		return called{}, err
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return called{}, errors.New("this system has no rusage")
	}
	return called{took, out, usage.Maxrss << 10}, nil
}
