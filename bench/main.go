// Command bench measures the same work on this store and on others: what a
// commit costs, how many processes can write, how fast records are read,
// scanned and loaded, and what it takes in memory and on disk. It measures this
// project's file lock and others too.
//
// Absolute figures are those of one machine at one time. Only ratios of one
// run mean anything, which is why all peers are measured in turn, and but for
// what takes long (a2, g) round after round.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/recordstore/recordstore/bench/internal/book"
)

// experiments are run in this order.
var experiments = []struct {
	letter string
	what   string
	run    func(*lab) error
}{
	{"a", "one durable commit, by size", commits},
	{"a2", "the worst commit while much is written", steadyWriting},
	{"b", "writer processes", writerProcesses},
	{"c", "point reads, warm and cold", reads},
	{"d", "full scan", scans},
	{"e", "bulk load", bulkLoads},
	{"f", "recordctl get and sqlite3", commandCalls},
	{"g", "disk and memory", space},
	{"h", "goroutines of one process", inOneProcess},
	{"l", "a lock that many processes want", contendedLocks},
	{"l2", "a lock that nobody else wants", freeLocks},
}

func main() {
	maybeWorker()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

// An order is what the command line asks for.
type order struct {
	letters             []string
	check               bool
	markdown, svg, json string // files, or ""
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	l := &lab{ctx: ctx, book: book.New(), out: out, progress: progress, began: time.Now(), readers: manyReaders, holders: crowdSize, sets: map[string]*dataset{}}
	o, parent, err := parse(l, args)
	if err != nil {
		return err
	}
	if l.dir, err = os.MkdirTemp(parent, "recordstore-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(l.dir)) }()
	if l.dir, err = filepath.Abs(l.dir); err != nil {
		return err
	}
	a := describe(ctx, l.dir, l.peers)
	fmt.Fprintf(out, "%s\n%s\n\n%s\n\n", a.machine, strings.Join(a.lines, "\n"), ratiosMatter)
	for _, e := range experiments {
		if slices.Contains(o.letters, e.letter) {
			unix.Sync() // what others have left to be written slows down whoever is next
			if err := e.run(l); err != nil {
				return err
			}
		}
	}
	if o.check {
		check(l)
	}
	return o.write(l, a)
}

func (o *order) write(l *lab, a about) error {
	for _, f := range []struct {
		path string
		do   func(io.Writer) error
	}{
		{o.markdown, func(w io.Writer) error { return l.writeMarkdown(w, a) }},
		{o.svg, l.drawPlots},
		{o.json, l.book.WriteJSON},
	} {
		if f.path == "" {
			continue
		}
		if err := writeFile(f.path, f.do); err != nil {
			return err
		}
	}
	return nil
}

// parse sets up the lab. It returns the directory to work in besides.
func parse(l *lab, args []string) (o *order, parent string, err error) {
	o = &order{}
	var letters []string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(l.progress)
	fs.Usage = func() {
		fmt.Fprintln(l.progress, "usage: bench [flags]\n\nexperiments:")
		for _, e := range experiments {
			fmt.Fprintf(l.progress, "  %-3s %s\n", e.letter, e.what)
		}
		fmt.Fprintln(l.progress, "\nflags:")
		fs.PrintDefaults()
	}
	for _, e := range experiments {
		letters = append(letters, e.letter)
	}
	chosen := fs.String("run", strings.Join(letters, ","), "`experiments`")
	names := fs.String("peers", strings.Join(peerNames(allPeers), ","), "`peers` of all but l and l2; this store is always among them")
	sizes := fs.String("sizes", "100,1000,10000,100000,1000000", "numbers of `records`")
	writers := fs.String("writers", "1,10,100", "numbers of writer `processes`")
	short := fs.Bool("short", false, "everything tiny, to see that it works and that nothing is lost; overrides the sizes and times")
	fs.StringVar(&parent, "dir", ".", "measure in a new directory in `DIR`, which is removed; its file system is what is measured")
	fs.StringVar(&l.command, "recordctl", "", "measure this `FILE` and build none")
	fs.IntVar(&l.bulk, "bulk", 1_000_000, "`records` of the bulk load")
	fs.IntVar(&l.rounds, "rounds", 5, "how often all peers are measured in turn")
	fs.DurationVar(&l.length, "time", time.Second, "length of a measurement")
	fs.DurationVar(&l.crowd, "crowd", 4*time.Second, "length of one with writer processes, or processes that want a lock")
	fs.DurationVar(&l.steady, "steady", 30*time.Second, "length of the steady writing")
	fs.StringVar(&o.markdown, "markdown", "", "write the tables to `FILE` too")
	fs.StringVar(&o.svg, "svg", "", "plot a and b to `FILE`")
	fs.StringVar(&o.json, "json", "", "write all figures of all rounds to `FILE`")
	fs.BoolVar(&o.check, "check", false, "compare with the project's goals")
	if err := fs.Parse(args); err != nil {
		return nil, "", err
	}
	if fs.NArg() > 0 {
		return nil, "", fmt.Errorf("what is %q? There are only flags", fs.Arg(0))
	}
	if *short {
		*sizes, *writers = "100,1000", "1,10"
		l.bulk, l.rounds, l.length, l.crowd, l.steady = 1000, 1, 100*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond
		l.readers, l.holders = 10, 10
	}
	o.letters = strings.Split(*chosen, ",")
	for _, c := range o.letters {
		if !slices.Contains(letters, c) {
			return nil, "", fmt.Errorf("there is no experiment %q; there are %s", c, strings.Join(letters, ", "))
		}
	}
	if l.rounds < 1 || l.bulk < 1 {
		return nil, "", errors.New("-rounds and -bulk must be positive")
	}
	if l.peers, err = choosePeers(*names); err != nil {
		return nil, "", err
	}
	if l.sizes, err = numbers(*sizes); err != nil {
		return nil, "", err
	}
	l.writers, err = numbers(*writers)
	return o, parent, err
}

// numbers parses a list and sorts it.
func numbers(list string) ([]int, error) {
	var all []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is not a list of positive numbers", list)
		}
		all = append(all, n)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
