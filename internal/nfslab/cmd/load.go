//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/recordstore/recordstore/internal/nfslab"
	"github.com/recordstore/recordstore/internal/nfslab/remote"
	"github.com/recordstore/recordstore/internal/stress"
)

// A stage is where one scenario runs.
type stage struct {
	*runner
	scenario scenario
	part     string // of a scenario that has several loads
}

// name is that of the directories of this stage: in the export, and on the host.
func (st *stage) name() string {
	return strings.ReplaceAll(strings.ReplaceAll(st.scenario.name, "/", "-"), ".", "") + st.part
}

func (st *stage) store() string { return "/mnt/" + st.name() }

// host returns a directory of the stage's own on the host.
func (st *stage) host(kind string) (string, error) {
	dir := filepath.Join(st.dir, st.name(), kind)
	return dir, errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755))
}

// A load is the harness on the clients, each of which is a machine of one run.
type load struct {
	clients          int
	writers, readers int // on each
	protocol         string
	wait             time.Duration // first form; 0: without
	records          int           // of each writer in it
	duration         time.Duration // hard form; 0: without
	flags            []string
	before           string        // a script, whose $0 is the store
	loses            bool          // what is right is to be seen to lose
	longest          time.Duration // that an update may wait; 0: whatever comes
	// during breaks something while the load is under way, and says what it saw.
	during func(context.Context, *stage, *watch) ([]string, error)
	killed bool // and the last client is gone after that
}

// What a load may run before.
const (
	makeStore = `recordctl import --store "$0" </dev/null` // an empty one
	makeLinks = `mkdir "$0" && for f in LOCK MERGE; do recordctl lock --mechanism link "$0/$f" -- true || exit; done`
)

// arguments are those of the machine's recordctl, after its name.
func (l load) arguments(st *stage, machine int) []string {
	args := []string{
		"stress", "--json", "--store", st.store(), "--history", l.history(st), "--protocol", l.protocol,
		"--seed", fmt.Sprint(st.seed), "--machines", fmt.Sprint(l.clients), "--machine", fmt.Sprint(machine + 1),
		"--writers", fmt.Sprint(l.writers), "--readers", fmt.Sprint(l.readers), "--kill", "0",
		"--wait", l.wait.String(), "--records", fmt.Sprint(max(1, l.records)), "--duration", l.duration.String(),
		"--timeout", "2m",
	}
	return append(append(args, l.flags...), strings.Fields(st.with)...)
}

// history is where processes note what they do. What is to outlive the guest is
// on its disk, which is slower.
func (l load) history(st *stage) string {
	if l.killed {
		return "/disk/" + st.name()
	}
	return "/tmp/" + st.name()
}

// run runs the load to its end, and judges it.
func (l load) run(ctx context.Context, st *stage) (verdict, error) {
	r, notes, err := l.result(ctx, st)
	if err != nil {
		return verdict{}, err
	}
	return l.verdict(r, notes), nil
}

func (l load) result(ctx context.Context, st *stage) (stress.Result, []string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if l.before != "" {
		if _, err := st.lab.Client(0).Run(ctx, "sh", "-c", l.before, st.store()); err != nil {
			return stress.Result{}, nil, err
		}
	}
	var notes []string
	errs := make([]error, l.clients)
	failures := make([][]string, l.clients)
	var wg sync.WaitGroup
	for n := range l.clients {
		wg.Go(func() {
			failures[n], errs[n] = l.machine(ctx, st, n)
			if l.killed && n == l.clients-1 && st.lab.Client(n).Killed() {
				errs[n] = nil // it is what was wanted
			}
			if errs[n] != nil {
				cancel() // the other's work would be in vain
			}
		})
	}
	var during error
	if l.during != nil {
		w := watchStore(ctx, st)
		if during = w.until(ctx, 10); during == nil { // all are at work, and not only starting
			notes, during = l.during(ctx, st, w)
		}
		if during != nil {
			cancel()
		}
	}
	wg.Wait()
	if l.killed && during == nil {
		during = st.lab.Client(l.clients - 1).Boot(ctx) // it has the histories
	}
	if err := errors.Join(append(errs, during)...); err != nil {
		return stress.Result{}, nil, err
	}
	r, err := l.judge(ctx, st)
	if err != nil {
		return r, nil, err
	}
	for _, f := range failures {
		r.Failures = append(r.Failures, f...)
	}
	return r, append(notes, st.kernels(ctx)...), nil
}

// machine runs one client's part. A failure of its workers is not an error.
func (l load) machine(ctx context.Context, st *stage, n int) ([]string, error) {
	out, err := st.lab.Client(n).Run(ctx, append([]string{"recordctl"}, l.arguments(st, n)...)...)
	var status *remote.StatusError
	if err != nil && !(errors.As(err, &status) && status.Status == 1 && out != "") {
		return nil, err
	}
	var r stress.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return nil, fmt.Errorf("client%d: %w: %q", n, err, out)
	}
	return r.Failures, nil
}

// judge brings histories and records to the host and judges there.
func (l load) judge(ctx context.Context, st *stage) (stress.Result, error) {
	histories, err := st.host("histories")
	if err != nil {
		return stress.Result{}, err
	}
	for n := range l.clients {
		if err := download(ctx, st.lab.Client(n), l.history(st), filepath.Join(histories, fmt.Sprint(n))); err != nil {
			return stress.Result{}, err
		}
	}
	records, err := st.host("records")
	if err != nil {
		return stress.Result{}, err
	}
	if err := download(ctx, st.lab.Server(), "/srv/export/"+st.name(), records); err != nil {
		return stress.Result{}, err
	}
	r, err := stress.Judge(ctx, histories, records)
	if err != nil {
		return r, err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return r, err
	}
	return r, os.WriteFile(filepath.Join(st.dir, st.name(), "result.json"), text, 0o644)
}

func (l load) verdict(r stress.Result, notes []string) verdict {
	v := verdict{
		counted: true, acked: r.Saved + r.Commits, perSecond: r.PerSecond, p50: r.P50, worst: r.Worst,
		lost: r.Faults[stress.Lost], twice: r.Faults[stress.Twice], torn: r.Faults[stress.Torn], back: r.Faults[stress.Back],
		unknown: r.Open + r.Unknown, notes: notes,
	}
	v.other = r.FaultCount() - v.lost - v.twice - v.torn - v.back
	if r.TimedOut > 0 {
		v.notes = append(v.notes, fmt.Sprintf("%d operations timed out", r.TimedOut))
	}
	v.ok, v.text = r.OK(), "ok"
	switch {
	case l.loses && v.lost > 0:
		v.ok, v.text = true, "ok: it is seen to lose"
		return v
	case l.loses:
		v.ok, v.text = false, "AT FAULT: it was to be seen to lose"
	case !v.ok:
		v.text = r.Verdict()
	case v.acked == 0:
		v.ok, v.text = false, "AT FAULT: nothing was done"
	case l.longest > 0 && r.Worst > l.longest:
		v.ok, v.text = false, fmt.Sprintf("AT FAULT: an update waited for %.0f s", r.Worst.Seconds())
	}
	for _, f := range r.Examples {
		v.notes = append(v.notes, fmt.Sprintf("%s: %s", f.Kind, f.Text))
	}
	for _, f := range r.Failures[:min(5, len(r.Failures))] {
		v.notes = append(v.notes, "failed: "+f)
	}
	return v
}

// kernels returns what the clients' kernels have said about NFS since the last
// time: a lab that stalls loses leases that nobody has taken from it.
func (st *stage) kernels(ctx context.Context) []string {
	var notes []string
	for _, g := range st.lab.Clients() {
		out, err := g.Run(ctx, "sh", "-c", "dmesg -c | grep -iE 'nfs|lockd|statd|hung|out of memory' | grep -v Register | cut -c 16- | sort | uniq -c | head -5")
		if err != nil && out == "" {
			continue // grep found nothing
		}
		for line := range strings.Lines(out) {
			notes = append(notes, fmt.Sprintf("kernel of %s: %s", g.Name(), strings.TrimSpace(line)))
		}
	}
	return notes
}

// download copies a directory of a guest to the host.
func download(ctx context.Context, g *nfslab.Guest, from, to string) error {
	r, w := io.Pipe()
	c := g.Command("tar", "-c", "-C", from, ".")
	c.Stdout = w
	go func() { w.CloseWithError(cmp.Or(c.Run(ctx), io.EOF)) }()
	err := untar(r, to)
	r.CloseWithError(err)
	if err != nil {
		return fmt.Errorf("copy %s of %s: %w", from, g.Name(), err)
	}
	return nil
}

// untar unpacks what a store and histories are made of. A file that was published by
// a link may have two names, if whoever did it was killed; it has two here as well.
func untar(r io.Reader, dir string) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			_, err := io.Copy(io.Discard, r) // what fills up the last block, and then the command's end
			return err
		}
		if err != nil {
			return err
		}
		inDir := func(name string) string { return filepath.Join(dir, filepath.Clean("/"+name)) }
		path := inDir(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			var content bytes.Buffer
			if _, err = io.Copy(&content, in); err == nil {
				err = os.WriteFile(path, content.Bytes(), 0o644)
			}
		case tar.TypeLink:
			err = os.Link(inDir(h.Linkname), path)
		default:
			err = fmt.Errorf("%s is neither a file nor a directory (type %q)", h.Name, h.Typeflag)
		}
		if err != nil {
			return err
		}
	}
}
