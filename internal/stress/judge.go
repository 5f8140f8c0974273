package stress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/recordstore/recordstore/store"
)

// Judge reads the histories below historyDir and the records in storeDir, when
// all processes are gone, and compares them. It knows nothing of the processes
// but what they wrote down, and needs no process's word on whether an
// operation took effect: it counts.
//
// For each operation there are three cases. Acknowledged: it must be there
// once. Answered "not done": it must not be there. No answer, because the
// process was killed, or "perhaps done": it may be there once.
func Judge(ctx context.Context, historyDir, storeDir string) (Result, error) {
	accounts, err := readHistories(historyDir)
	if err != nil {
		return Result{}, err
	}
	g, err := newJudgement(accounts)
	if err != nil {
		return Result{}, err
	}
	if err := g.readState(ctx, storeDir); err != nil {
		return Result{}, err
	}
	g.judge()
	g.result.Store, g.result.History = storeDir, historyDir
	return g.result, nil
}

// summarize is Judge without judging, for one machine's part of a run.
func summarize(historyDir string) (Result, error) {
	accounts, err := readHistories(historyDir)
	if err != nil {
		return Result{}, err
	}
	r := Result{Machines: accounts[0].Machines}
	r.measure(accounts)
	return r, nil
}

// A judgement is one judge's work.
type judgement struct {
	accounts []*account
	prefix   string
	revision uint64            // of the final state
	records  map[string]stored // the final state
	values   map[string]value  // its records, decoded
	lost     map[*op]bool
	result   Result
}

// newJudgement checks that the accounts are those of one run, and all of it.
func newJudgement(accounts []*account) (*judgement, error) {
	first := accounts[0]
	machines := map[int]bool{}
	names := map[string]string{}
	for _, a := range accounts {
		if a.Seed != first.Seed || a.Protocol != first.Protocol || a.Machines != first.Machines {
			return nil, fmt.Errorf("%s and %s are histories of different runs", first.path, a.path)
		}
		if other, ok := names[a.String()]; ok {
			return nil, fmt.Errorf("%s and %s are histories of the same process", other, a.path)
		}
		names[a.String()] = a.path
		machines[a.Machine] = true
	}
	for m := 1; m <= first.Machines; m++ {
		if !machines[m] {
			return nil, fmt.Errorf("machine %d of %d: %w", m, first.Machines, ErrNoHistory)
		}
	}
	return &judgement{
		accounts: accounts,
		prefix:   runPrefix(first.Seed),
		records:  map[string]stored{},
		lost:     map[*op]bool{},
		result: Result{
			Protocol: first.Protocol, Seed: first.Seed, Machines: first.Machines,
			Judged: true, Faults: map[Kind]int{},
		},
	}, nil
}

// readState reads the records that are there in the end.
func (g *judgement) readState(ctx context.Context, dir string) error {
	if g.result.Protocol != ProtocolStore {
		return g.readNaive(dir)
	}
	if err := g.readRecords(ctx, dir); errors.Is(err, store.ErrCorrupt) {
		g.found(Damaged, "%v", err)
	} else if err != nil {
		return err
	}
	return g.verify(ctx, dir)
}

// readRecords reads those of a store.
func (g *judgement) readRecords(ctx context.Context, dir string) error {
	// On a network file system a plain snapshot may be a little old, and the
	// last commits another machine's: the fresh one is not.
	s, err := store.Open(dir, &store.Options{NoCreate: true, Purpose: "recordctl stress, judging"})
	if err != nil {
		return err
	}
	defer s.Close()
	sn, err := s.FreshSnapshot(ctx)
	if err != nil {
		return err
	}
	defer sn.Close()
	g.revision = uint64(sn.Revision())
	for r, err := range sn.All() {
		if err != nil {
			return err
		}
		g.records[r.Key] = stored{Data: slices.Clone(r.Value), Revision: uint64(r.Revision)}
	}
	return nil
}

// verify has all files of the store read.
func (g *judgement) verify(ctx context.Context, dir string) error {
	report, err := store.Verify(ctx, dir)
	if err != nil {
		return err
	}
	if !report.OK() {
		for _, f := range report.Files {
			if f.Err != nil {
				g.found(Damaged, "%s: %s: %v", f.Name, f.Status, f.Err)
			}
		}
		if g.result.Faults[Damaged] == 0 {
			g.found(Damaged, "verifying the store found damage")
		}
	}
	return nil
}

// readNaive is readState for the recipe, whose data file may well be broken.
func (g *judgement) readNaive(dir string) error {
	path := filepath.Join(dir, naiveData)
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	st, err := decodeNaive(path, content)
	if err != nil {
		g.found(Damaged, "%v", err)
		return nil
	}
	g.revision, g.records = st.Revision, st.Records
	return nil
}

// examples is how many findings of a kind are named.
const examples = 3

func (g *judgement) found(k Kind, format string, args ...any) {
	g.result.Faults[k]++
	if g.result.Faults[k] <= examples {
		g.result.Examples = append(g.result.Examples, Finding{Kind: k, Text: fmt.Sprintf(format, args...)})
	}
}

// loses is found for an acknowledged operation, which counts once however many
// of its writes are missing.
func (g *judgement) loses(o *op, format string, args ...any) {
	if !g.lost[o] {
		g.lost[o] = true
		g.found(Lost, "%s: %s", o, fmt.Sprintf(format, args...))
	}
}

func (g *judgement) judge() {
	g.decode()
	g.counters()
	g.unique()
	g.origins()
	g.whole()
	g.revisions()
	g.order()
	g.snapshots()
	for _, a := range g.accounts {
		for _, f := range a.seen {
			g.found(f.Kind, "%s", f.Text)
		}
	}
	g.result.measure(g.accounts)
	for _, a := range g.accounts {
		if a.Form == formQuestion && a.Role == roleWriter {
			for i := range a.ops {
				if o := &a.ops[i]; o.fate == fateDone && !g.lost[o] {
					g.result.Found++
				}
			}
		}
	}
	slices.SortStableFunc(g.result.Examples, func(a, b Finding) int {
		return cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind))
	})
}
