// Recordctl reads and changes the records of a record store from the shell.
//
//	export RECORDCTL_STORE=results
//	recordctl put colour blue
//	recordctl get colour
//	recordctl update todo -- sort -u
//	recordctl lock deploy -- make deploy
//
// A store is a directory that any number of processes, on one machine or on
// several that mount it, use at the same time. Run recordctl help for the
// verbs, recordctl help exit-codes for the exit statuses.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/recordstore/recordstore/internal/stress"
	"github.com/recordstore/recordstore/internal/stress/locks"
)

// main is the only place that ends the process.
func main() {
	stress.MaybeWorker() // ends the process if it is one of stress
	locks.MaybeWorker()  // or of stress --lock
	a := newApp(os.Stdin, os.Stdout, os.Stderr)
	code := a.run(os.Args[1:])
	if a.interrupted {
		endOfInterrupt()
	}
	os.Exit(code)
}

// run executes one command line and returns its exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	return newApp(stdin, stdout, stderr).run(args)
}

func (a *app) run(args []string) (code int) {
	// A panic that nobody caught would end a Go program with status 2,
	// which here means that the command line was wrong.
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(a.stderr, "recordctl: internal error: %v\n%s", p, debug.Stack())
			code = exitSoftware
		}
	}()
	defer func() {
		if a.kept != nil {
			a.kept.stop()
		}
	}()
	root := newRootCmd(a, args)
	root.SetArgs(args)
	err := root.Execute()
	if err != nil && !a.started {
		err = usageError(err)
	}
	if flushErr := a.out.Flush(); err == nil && flushErr != nil {
		err = a.outputError(flushErr)
	}
	return a.report(err)
}
