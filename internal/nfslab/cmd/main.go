//go:build linux

// Command cmd runs the project over real NFS: a server and two clients in
// virtual machines, the harness on both clients, and what can go wrong.
//
//	make nfs-lab                        # everything: an hour or more
//	make nfs-lab RUN=short              # what CI runs
//	make nfs-lab RUN='stress/4.2'       # the scenarios whose names match
//	make nfs-lab RUN=list               # their names
//	make nfs-lab RUN=shell              # a shell in the guests
//
// See docs/TESTING.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/recordstore/recordstore/internal/nfslab"
)

// settings are the command line's.
type settings struct {
	run      string
	versions string
	options  string
	with     string
	duration time.Duration
	lease    time.Duration
	limit    time.Duration
	within   time.Duration
	accel    string
	cache    string
	dir      string
	seed     uint64
}

func main() {
	var s settings
	flag.StringVar(&s.run, "run", "", "run the scenarios whose names match this `pattern`; list: print the names; shell: a shell in the guests")
	flag.StringVar(&s.versions, "versions", "3 4.0 4.1 4.2", "versions of NFS, between spaces")
	flag.StringVar(&s.options, "options", "default actimeo=60 noac lookupcache=none", "mount options to try, between spaces")
	flag.StringVar(&s.with, "with", "", "more `flags` for recordctl stress, such as --journal 600")
	flag.DurationVar(&s.duration, "duration", 10*time.Second, "`time` of load where nothing is broken meanwhile")
	flag.DurationVar(&s.lease, "lease", 15*time.Second, "the server's `time` until it gives up a silent client")
	flag.DurationVar(&s.limit, "limit", 10*time.Minute, "`time` that one scenario may take")
	flag.DurationVar(&s.within, "within", 0, "skip what emulated guests cannot do within this `time`; with KVM it is a failure")
	flag.StringVar(&s.accel, "accel", "", "kvm or tcg (default: kvm if it works)")
	flag.StringVar(&s.cache, "cache", "", "`directory` for what is fetched (default: in the user's cache directory)")
	flag.StringVar(&s.dir, "dir", "", "keep disks, consoles, histories and records in this `directory` (default: a temporary one)")
	flag.Uint64Var(&s.seed, "seed", 0, "`number` that determines what is random (default: from the clock)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "nfs-lab: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.main(ctx); err != nil {
		stop()
		if errors.Is(err, nfslab.ErrSkip) {
			fmt.Printf("skipped: %v\n", err)
			return
		}
		fmt.Fprintf(os.Stderr, "nfs-lab: %v\n", err)
		os.Exit(1)
	}
}

func (s *settings) main(ctx context.Context) error {
	if s.seed == 0 {
		s.seed = uint64(time.Now().UnixNano())%1e6 + 1
	}
	if s.within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.within, errSlow)
		defer cancel()
	}
	all := s.scenarios()
	if s.run == "list" {
		for _, sc := range all {
			fmt.Printf("%-28s %s\n", sc.name, sc.what)
		}
		return nil
	}
	pattern, err := regexp.Compile(s.run)
	if err != nil {
		return err
	}
	r := &runner{settings: s}
	if r.dir == "" {
		if r.dir, err = os.MkdirTemp("", "nfs-lab-"); err != nil {
			return err
		}
		defer func() {
			if len(r.bad) == 0 {
				os.RemoveAll(r.dir)
			} else {
				fmt.Printf("kept: %s\n", r.dir)
			}
		}()
	} else if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	defer r.close()
	if s.run == "shell" {
		return r.shell(ctx)
	}
	for _, sc := range all {
		if s.run == "" && sc.name == "short" || !pattern.MatchString(sc.name) || ctx.Err() != nil {
			continue
		}
		r.ran++
		if err := r.scenario(ctx, sc); err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
	}
	switch {
	case ctx.Err() != nil:
		return r.late(ctx, errors.New("not all scenarios have begun"))
	case r.ran == 0:
		return fmt.Errorf("no scenario matches %q; RUN=list lists them", s.run)
	case len(r.bad) > 0:
		return fmt.Errorf("%d of %d scenarios are at fault: %s", len(r.bad), r.ran, strings.Join(r.bad, ", "))
	}
	return nil
}

// A runner runs scenarios, one after the other, on labs of the same options for
// as long as they can be used.
type runner struct {
	*settings
	lab      *nfslab.Lab // nil: the next scenario starts one
	coarse   bool        // of lab
	emulated bool        // it is known that the guests are, or would be
	labs     int
	ran      int
	bad      []string // names of scenarios
	header   bool
}

// errSlow ends a run that takes longer than -within.
var errSlow = errors.New("it took too long")

// late returns the error of a run that was ended before its time, in the middle
// of what then ended with err. With KVM, or where nobody knows yet, slowness is no
// reason to skip anything: a guest that hangs as it boots looks the same.
func (r *runner) late(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	switch {
	case !errors.Is(cause, errSlow):
		return cause
	case errors.Is(err, nfslab.ErrSkip): // it says what was not to be had, such as packages
		return fmt.Errorf("%w, within %s", err, r.within)
	case r.emulated:
		return fmt.Errorf("%w: the guests are emulated, and have not done it within %s", nfslab.ErrSkip, r.within)
	}
	return fmt.Errorf("%w: more than %s: %w", cause, r.within, err)
}

func (r *runner) close() {
	if r.lab != nil {
		r.lab.Close()
		r.lab = nil
	}
}

// start gives r a lab.
func (r *runner) start(ctx context.Context, coarse bool) (err error) {
	if r.lab != nil && r.coarse == coarse {
		return nil
	}
	r.close()
	r.labs++
	dir := filepath.Join(r.dir, fmt.Sprintf("lab%d", r.labs))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r.lab, err = nfslab.Start(ctx, nfslab.Options{
		Lease: r.lease, CoarseTime: coarse, Accel: r.accel, Cache: r.cache, Dir: dir,
		Chosen: func(accel string) { r.emulated = accel == "tcg" },
		Say:    func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	})
	r.coarse = coarse
	return err
}

func (r *runner) shell(ctx context.Context) error {
	if err := r.start(ctx, false); err != nil {
		return err
	}
	version, options := strings.Fields(r.versions), strings.Fields(r.options)
	m := mount{version[len(version)-1], options[0]}
	if err := r.lab.Mount(ctx, m.version, m.flags()); err != nil {
		return err
	}
	fmt.Printf("mounted with NFS %s\n", m)
	return shell(ctx, r.lab)
}

// scenario runs one, and prints what came of it. An error is one of the lab: the
// scenario could not be run.
func (r *runner) scenario(ctx context.Context, sc scenario) error {
	if err := r.start(ctx, sc.coarse); err != nil {
		if ctx.Err() != nil {
			err = r.late(ctx, err)
		}
		return err
	}
	whole := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	examined := make(chan struct{})
	late := time.AfterFunc(r.limit, func() {
		defer close(examined)
		r.autopsy(ctx) // while they still hang
		cancel(fmt.Errorf("it took longer than %s", r.limit))
	})
	began := time.Now()
	err := r.lab.Mount(ctx, sc.mount.version, sc.mount.flags())
	var v verdict
	if err == nil {
		v, err = sc.run(ctx, &stage{runner: r, scenario: sc})
	}
	if !late.Stop() {
		<-examined // the lab may be closed from here on
	}
	if err != nil && whole.Err() != nil {
		r.close()
		return r.late(whole, err)
	}
	if err != nil {
		for _, g := range append(r.lab.Clients(), r.lab.Server()) {
			fmt.Fprintf(os.Stderr, "--- the console of %s\n%s\n", g.Name(), g.Console())
		}
		r.close() // whatever state it is in
		v = verdict{text: "FAILED: " + err.Error()}
	} else if sc.spoils {
		r.close()
	}
	if !v.ok {
		r.bad = append(r.bad, sc.name)
	}
	r.print(sc, v, time.Since(began))
	return nil
}

// autopsy prints where the guests' processes hang, and what the server knows of
// the clients.
func (r *runner) autopsy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, g := range append(r.lab.Clients(), r.lab.Server()) {
		out, err := g.Run(ctx, "sh", "-c", `
			dmesg -c >/dev/null; echo w >/proc/sysrq-trigger; dmesg
			for f in /proc/fs/nfsd/clients/*; do echo $f; cat $f/info $f/states; done 2>/dev/null
			cat /proc/locks`)
		fmt.Fprintf(os.Stderr, "--- what hangs in %s (%v)\n%s\n", g.Name(), err, out)
	}
}

// print prints one row of the table.
func (r *runner) print(sc scenario, v verdict, took time.Duration) {
	const layout = "%-26s %6s %8s %8s %8s %5s %5s %5s %5s %6s %7s  %s\n"
	if !r.header {
		fmt.Printf(layout, "scenario", "acked", "per s", "p50 s", "worst s", "lost", "twice", "torn", "back", "other", "unknown", "verdict")
		r.header = true
	}
	n := func(i int) string {
		if !v.counted {
			return "-"
		}
		return fmt.Sprint(i)
	}
	f := func(d float64) string {
		if d == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f", d)
	}
	fmt.Printf(layout, sc.name, n(v.acked), f(v.perSecond), f(v.p50.Seconds()), f(v.worst.Seconds()),
		n(v.lost), n(v.twice), n(v.torn), n(v.back), n(v.other), n(v.unknown), v.text)
	for _, note := range v.notes {
		fmt.Printf("    %s\n", note)
	}
	fmt.Fprintf(os.Stderr, "(%s took %.0f s)\n", sc.name, took.Seconds())
}
