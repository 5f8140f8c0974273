package workers

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// The descriptors that a worker inherits. All are read ends of pipes to which nothing
// is ever written: what they tell is that the other end was closed.
const (
	gateFD = 3 + iota // all workers are ready: begin
	stopFD            // finish what is under way, and exit
	lifeFD            // the parent is gone: exit at once
)

const readyLine = "ready"

// Maybe does a worker's job and exits, if this process was started to be one of a crew
// with this environment variable, and returns otherwise. The job is to call Ready; stop
// is closed when it is to end. Its name stands before an error.
func Maybe[Job fmt.Stringer](env string, work func(j Job, stop <-chan struct{}) error) {
	text, ok := os.LookupEnv(env)
	if !ok {
		return
	}
	// A terminal and a supervisor send these to all processes of a group. The
	// parent answers them, by closing the stop pipe, or dies of them.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	stop := make(chan struct{})
	go func() {
		awaitClosed(stopFD)
		close(stop)
	}()
	go func() {
		awaitClosed(lifeFD)
		// Those that the parent had suspended are to see it too.
		_ = syscall.Kill(0, syscall.SIGCONT)
		os.Exit(2) // nobody is left to tell
	}()
	var j Job
	err := json.Unmarshal([]byte(text), &j)
	if err == nil {
		err = work(j, stop)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "worker %s: %v\n", j, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// awaitClosed waits until the parent has closed its end of a pipe, or is gone.
func awaitClosed(fd uintptr) { _, _ = io.Copy(io.Discard, os.NewFile(fd, "pipe")) }

// Ready says that this worker is ready, and waits until all are.
func Ready() error {
	if _, err := os.Stdout.WriteString(readyLine + "\n"); err != nil {
		return err
	}
	awaitClosed(gateFD)
	return nil
}

// Random returns the generator that the seed gives to whoever has this name.
func Random(seed uint64, name string) *rand.Rand {
	f := fnv.New64a()
	_, _ = f.Write([]byte(name)) // never fails
	return rand.New(rand.NewPCG(seed, f.Sum64()))
}

// Monotonic returns the machine's monotonic clock in nanoseconds. time.Now will not
// do: its monotonic reading cannot be compared between processes, and the wall clock
// can be set.
func Monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the clock and the pointer are right
	}
	return ts.Nano()
}
