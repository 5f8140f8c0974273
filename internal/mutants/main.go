// Command mutants breaks the store on purpose, one safety step at a time, and
// makes sure that a test notices:
//
//	go run ./internal/mutants            # all of them
//	go run ./internal/mutants flush      # those whose names contain "flush"
//
// Each mutant replaces a piece of text in one file, by means of go test's
// -overlay, so that the tree is not touched. A text that is no longer there
// exactly once is an error: the list must keep up with the code.
//
// The exit status is 0 if every mutant was noticed. A test that fails without a mutant
// too seems to notice it: run go test before.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A mutant is a store without one of its safety steps.
type mutant struct {
	name     string
	file     string
	old, new string
	run      string // the tests that must notice, as a pattern for go test -run
}

const (
	power     = "^TestPowerLoss$/create"
	moved     = "^TestPowerLoss$/^journal_moved$"
	schedules = "^TestSchedules$"
)

var mutants = []mutant{
	{
		"flush: the file is not flushed", "store/update.go",
		"		err = f.Sync()\n\t}\n\t// The file's", "\t}\n\t// The file's", power,
	},
	{
		"flush: the directory is not flushed", "store/update.go",
		"named <- s.here.dir.Sync()", "named <- nil", power,
	},
	{
		"flush: the mark comes before it", "store/update.go",
		"	f := st.file\n", "	f := st.file\n	_ = f.Chmod(0o444)\n", power,
	},
	{
		"flush: answered before it", "store/update.go",
		"	err := s.flush(g.st, true)\n\tif err != nil {\n\t\terr = fmt.Errorf(\"%w: %w\", ErrNotDurable, err)\n\t}\n\tg.answer(err)\n", "	g.answer(nil)\n\terr := s.flush(g.st, true)\n", power,
	},
	{
		"retire: by a manifest's own age", "store/retire.go",
		"s.isOld(s.manifestPath(seqs[1])", "s.isOld(s.manifestPath(seqs[0])", "^TestRetireSuperseded$",
	},
	{
		"retire: below a manifest that is not marked", "store/retire.go",
		"if err != nil || !self.Marked() {", "if err != nil {", "^TestRetirementWithoutMark$",
	},
	{
		"flush: nothing published, nothing marked, and answered", "store/update.go",
		"return err == nil && info.ID == base.id && info.Marked(), err", "return err == nil && info.ID == base.id, err", "^TestNothingToDoIsDurable$",
	},
	{
		"network: no revisions are left out on top of local commits", "store/update.go",
		"case base.network: //", "case s.network.Load(): //", "^TestRecoverAfar$",
	},
	{
		"network: LOCK, which is released, is taken for held after that", "store/update.go",
		"	if h.network {\n		return errPassed // LOCK", "	if false {\n		return errPassed // LOCK", "^TestRecoverAfar$",
	},
	{
		"network: a listing that is older than retirement speaks for a commit", "store/publish.go",
		"case s.network.Load():\n			// Who retired", "case false:\n			// Who retired", "^TestStaleSettles$",
	},
	{
		"network: an idle process guesses", "store/newest.go",
		"s.own.alone(old, s.keepAge()/6)", "s.own.alone(old, 1<<60)", "^TestGuessExpired$",
	},
	{
		"retire: a manifest that cannot be opened does not speak for its segments", "store/retire.go",
		"there || err != nil {\n				return nil, cmp", "(there || err != nil) && false {\n				return nil, cmp", "^TestForgottenLowest$",
	},
	{
		"network: the file is published before its flush", "store/update.go",
		"f, err = s.writeTemp(b, base, temp, true)", "f, err = s.writeTemp(b, base, temp, false)", "^TestPowerLoss$/network",
	},
	{
		"network: stands though its base is gone", "store/publish.go",
		"switch ok, err := s.still(base); {", "switch ok, err := true, error(nil); {", "^TestOrphanIsHighest$",
	},
	{
		"network: a base that was guessed is not looked at", "store/update.go",
		"go func() { there <- s.checkGuess(base, lock) }()", "there <- nil", "^TestReplaced$",
	},
	{
		"network: a segment on top of a guess", "store/compact.go",
		"if lock.guess == base {", "if false {", "^TestReplacedOverflow$",
	},
	{
		"network: the lock is not proved", "store/update.go",
		"proved <- s.proveLock(lock, base, h)", "proved <- nil", "^TestLostLock$",
	},
	{
		"create: manifest 1 is not flushed", "store/create.go",
		"s.writeTemp(encodeManifest(h, nil), nil, nil, true)", "s.writeTemp(encodeManifest(h, nil), nil, nil, false)", power,
	},
	{
		"create: the parent directory is not flushed", "store/create.go",
		"if err := s.sys.fs.SyncDir(filepath.Dir(s.dir)); err != nil && (", "if err := error(nil); filepath.Dir(s.dir) == \"\" && (", power,
	},
	{
		"create: its name is not flushed before it is built on", "store/create.go",
		"if err := s.here.dir.Sync(); err != nil || info.Marked() {", "if err := error(nil); err != nil || info.Marked() {", power,
	},
	{
		"recover: no gap in the revisions", "store/update.go",
		"h.firstRev += revisionGap", "", power,
	},
	{
		"recover: the gap is not durable before it is built on", "store/update.go",
		"	if err := s.flush(st, false); err != nil {\n\t\treturn &recoveryError{err}\n\t}\n", "	_ = st.file.Chmod(0o444)\n", power,
	},
	{
		"recover: a gap that is not durable is built on", "store/update.go",
		"return err == nil && !info.Marked(), err", "return err == nil && !info.Marked() && false, err", "^TestRecoverDies$",
	},
	{
		"recover: a torn manifest is damage once somebody has recovered", "store/newest.go",
		"return s.unlessNewer(highest, damage)\n\t}\n\treturn nil", "return damage\n\t}\n\treturn nil", "^TestTornWhileRecovering$|^TestOrphanWithoutSegment$",
	},
	{
		"recover: torn manifests are not skipped", "store/newest.go",
		"damage = append(damage, err)\n\t\t\tcontinue", "return nil, err", power,
	},
	{
		"recover: damage is taken for torn", "store/newest.go",
		"	case info.Marked(), // it was flushed whole\n", "	case info.Marked() && false,\n", "^TestTornOrDamaged$",
	},
	{
		"publish: a rename that replaces", "internal/vfs/os_linux.go",
		"newName, unix.RENAME_NOREPLACE)", "newName, 0)", "^TestRenameNoReplace$",
	},
	{
		"publish: a name that was taken is an error", "store/publish.go",
		"errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist)", "errors.Is(err, fs.ErrNotExist)", "^TestSchedules",
	},
	{
		"base check: left out", "store/publish.go",
		"	if !s.network.Load() {\n\t\tif ok, err := s.holds(base); ok && err == nil {\n\t\t\treturn true, nil", "	if true {\n\t\tif true {\n\t\t\treturn true, nil", schedules,
	},
	{
		"base check: by existence, not identity", "store/newest.go",
		"return info.ID == st.id, nil", "return info.Size > 0, nil", "^TestBaseCheckIdentity$",
	},
	{
		"base check: run again without asking the ancestors", "store/publish.go",
		"		stands, err := s.contained(h, base)\n", "		stands, err := lineageNo, error(nil)\n", schedules,
	},
	{
		"retire: a disk full of old files stays full", "store/update.go",
		" || s.madeRoom(err) {", " {", "^TestNoSpaceButOldFiles$",
	},
	{
		"retire: in descending order", "store/retire.go",
		"	for len(seqs) > 1 && seqs[0] < limit && s.isOld(s.manifestPath(seqs[1]), at, s.keepAge()) && s.remove(s.manifestPath(seqs[0])) {\n\t\tseqs, freed = seqs[1:], true\n\t}\n", "	for i := len(seqs) - 1; i >= 0; i-- {\n\t\tif seqs[i] < limit {\n\t\t\ts.remove(s.manifestPath(seqs[i]))\n\t\t}\n\t}\n", "^TestRetirementOrder$",
	},
	{
		"retire: below the newest, not the marked", "store/retire.go",
		"limit := marked.seq - min(marked.seq, uint64(keep-1))", "limit := s.cur.Load().seq - uint64(keep-1)", "^TestRetirementBelowMark$",
	},
	{
		"retire: none kept for readers", "store/retire.go",
		"limit := marked.seq - min(marked.seq, uint64(keep-1))", "limit := marked.seq", "^TestRetirementOrder$",
	},
	{
		"newest: what is above is adopted without a look back", "store/newest.go",
		"		ok, err := s.holds(st)\n\t\tif ok && err == nil && next.contains(st.self()) != lineageNo {", "		ok, err := true, error(nil)\n\t\tif ok && err == nil && next.contains(st.self()) != lineageNo {", "^TestOrphanAbove$",
	},
	{
		"newest: a listed manifest counts without its parent", "store/newest.go",
		"return p.commit == parent.commit, err", "return p.seq == parent.seq, err", "^TestOrphanInListing$",
	},
	{
		"newest: a listing is believed at once", "store/newest.go",
		"		ok, err = s.settled(st, seqs[len(seqs)-1])", "		ok, err = true, nil", "^TestOrphanInListing$",
	},
	{
		"update: who left is committed all the same", "store/update.go",
		"if !r.move(ran, committing) && r.changed && !r.waits() {", "if !r.move(ran, committing) && r.changed && false {", "^TestLeave",
	},
	{
		"update: no boot id in LOCK", "store/update.go",
		"\t\ts.recordPublisher(lock)\n", "", "^TestTornOrDamaged$",
	},
	{
		"segment: not flushed before it is named", "store/segment_write.go",
		"	if w.err == nil {\n\t\tw.err = w.file.Sync()\n\t}\n", "", moved,
	},
	{
		"segment: its name is not flushed before it is named", "store/compact.go",
		"		if err := s.here.dir.Sync(); err != nil {", "		if err := error(nil); err != nil {", "^TestSegmentNameIsFlushed$",
	},
	{
		"segment: a block's checksum is not checked", "store/segment.go",
		"	if blockChecksum(data) != at.checksum {", "	if false {", "^TestSegment",
	},
	{
		"segment: missing is always retired", "store/newest.go",
		"if ok, lookErr := s.still(st); lookErr != nil || !ok {", "if ok, lookErr := false, error(nil); lookErr != nil || !ok {", "^TestSegmentMissing$",
	},
	{
		"segment: one that was retired before publishing is an error", "store/update.go",
		"	if errors.Is(err, fs.ErrNotExist) {\n\t\t// The segment that h", "	if false {\n\t\t// The segment that h", "^TestSegmentRetiredBeforePublishing$",
	},
	{
		"merge: a tombstone is dropped above the bottom", "store/compact.go",
		"bottom: in.to == len(in.st.segments)}", "bottom: true}", "^TestMerge",
	},
	{
		"merge: what expired is dropped above the bottom", "store/compact.go",
		"		return encodeTombstone(string(r.key()), r.revision(), s.now), nil\n", "		continue\n", "^TestMerge",
	},
	{
		"merge: published although an input is gone", "store/compact.go",
		"ok = from >= 0 && to <= len(base.segments) && slices.Equal(base.segments[from:to], inputs)", "ok = from >= 0 && to <= len(base.segments)", "^TestMergeSegments$",
	},
	{
		"move: a record that is newer than the one moved is removed", "store/compact.go",
		"same := moved[0].revision() == r.revision()", "same := true", "^TestMoveJournal$",
	},
	{
		"move: published although the journal was moved", "store/compact.go",
		"	return left, len(moved) == 0", "	return left, true", "^TestMoveJournal$",
	},
	{
		"move: published above segments that were not there", "store/compact.go",
		"if len(in.st.segments) == 0 && len(base.segments) > 0 {", "if false {", "^TestMoveJournalAboveNewSegments$",
	},
	{
		"move: a deletion leaves nothing where there are segments", "store/state.go",
		"if len(v.segs) > 0 || !r.tombstone() && !r.expired(now) {", "if !r.tombstone() && !r.expired(now) {", "^TestMoveJournal$",
	},
	{
		"move: the hard bound is not kept", "store/compact.go",
		"if sizeOf(journal) <= s.bound.hard {", "if true {", "^TestHardBound$",
	},
	{
		"move: the segment of a manifest of unknown fate is removed", "store/compact.go",
		"if st != nil || errors.Is(err, ErrUnknown) {", "if st != nil {", "^TestSegmentOfUnknownManifest$",
	},
	{
		"merge: nobody waits for it", "store/update.go",
		"	s.mergeFirst()\n", "", "^TestMergeFirst$",
	},
	{
		"merge: MERGE is believed without end", "store/compact.go",
		"case told || len(st.segments) < anyway:", "default:", "^TestMergeAnyway$",
	},
	{
		"merge: what this process merges is merged again", "store/compact.go",
		"	n := s.freeLocked(st)\n", "	n := len(st.segments)\n", "^TestMergeBeside$",
	},
	{
		"merge: what another process merges is merged again", "store/compact.go",
		"			n = min(n, above)\n", "", "^TestMergeBeside$",
	},
	{
		"retire: a segment above the lowest manifest", "store/retire.go",
		"if ref.seq <= lowest.seq && !lowest.names(ref.id) {", "if !lowest.names(ref.id) {", "^TestRetireSegments$",
	},
	{
		"retire: a segment that the newest manifest does not name", "store/retire.go",
		"	lowest, err := s.lowestAncestor(&marked.header)\n", "	lowest, err := &marked.header, error(nil)\n", "^TestRetireSegments$",
	},
	{
		"retire: a segment that an older manifest names", "store/retire.go",
		"if ref.seq <= lowest.seq && !lowest.names(ref.id) {", "if ref.seq <= lowest.seq {", "^TestRetireSegments$",
	},
	{
		"retire: an orphan says which segments go", "store/retire.go",
		"case below.commit == a.commit:", "case below.seq == a.seq:", "^TestRetireSegments$",
	},
	{
		"lock: who has waited does not look what he has locked", "lockfile/wait.go",
		"if same, err = h.named(f.path); same {", "if same = true; same {", "^TestRemovedWhileWaiting$",
	},
	{
		"lock: who has not waited does not look what he has locked", "lockfile/wait.go",
		"same, err := h.named(f.path)\n\t\tif err == nil && same {\n\t\t\tf.takenLocked", "same, err := true, error(nil)\n\t\tif err == nil && same {\n\t\t\tf.takenLocked", "^TestRemove$",
	},
	{
		"lock: a file that is locked is adopted", "lockfile/open.go",
		"if err = h.unused(p, m); !errors", "if err = error(nil); !errors", "^TestTruncatedInUse$",
	},
	{
		"lock: the end of a lease waits for the file system", "lockfile/held.go",
		"	if l.gone == nil {\n", "	if true {\n", "^TestLostHangs$",
	},
	{
		"link: who has linked does not look", "lockfile/link.go",
		"if err != nil || highest(names) != c.number {", "if err != nil || highest(names) == 0 {", "^TestLinkSchedules$",
	},
	{
		"link: a stranger's claims are believed", "lockfile/link_dir.go",
		"	if err := believe(path, fi, &st); err != nil {\n\t\treturn false, err\n\t}\n", "\t_ = st\n", "^TestLinkStranger$",
	},
	{
		"lock: a file is removed without its lock", "lockfile/gc.go",
		"if err = h.attempt(false); err != nil {", "if err = error(nil); err != nil {", "^TestRemove$",
	},
	{
		"lock: a file is removed that may be another", "lockfile/gc.go",
		"if err == nil && !same {", "if err == nil && !same && false {", "^TestRemoveLooks$",
	},
}

func main() {
	want := ""
	if len(os.Args) > 1 {
		want = os.Args[1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	defer os.RemoveAll(dir)
	noticed, failed := 0, 0
	var mu sync.Mutex // protects the two, and the output
	var wg sync.WaitGroup
	places := make(chan struct{}, 2) // most tests keep one processor busy
	for _, m := range mutants {
		if !strings.Contains(m.name, want) || ctx.Err() != nil {
			continue
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			start := time.Now()
			by, err := m.try(ctx, dir)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				failed++
				fmt.Printf("%-60s  ERROR: %v\n", m.name, err)
			case by == "":
				failed++
				fmt.Printf("%-60s  NOT NOTICED by %s\n", m.name, m.run)
			default:
				noticed++
				fmt.Printf("%-60s  noticed by %s in %.0f s\n", m.name, by, time.Since(start).Seconds())
			}
		})
	}
	wg.Wait()
	fmt.Printf("%d mutants noticed, %d not\n", noticed, failed)
	if noticed+failed == 0 {
		fmt.Printf("no mutant's name contains %q\n", want)
	}
	if failed > 0 || noticed == 0 || ctx.Err() != nil {
		os.RemoveAll(dir)
		os.Exit(1)
	}
}

// try runs the tests on the mutant and returns the name of the test that
// failed, or "".
func (m mutant) try(ctx context.Context, dir string) (string, error) {
	src, err := os.ReadFile(m.file)
	if err != nil {
		return "", fmt.Errorf("%w (run it in the top directory)", err)
	}
	if n := strings.Count(string(src), m.old); n != 1 {
		return "", fmt.Errorf("%s: the text to replace is there %d times, not once: %q", m.file, n, m.old)
	}
	text := strings.Replace(string(src), m.old, m.new, 1)
	abs, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp(dir, ""); err != nil {
		return "", err
	}
	broken := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(broken, []byte(text), 0o644); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{abs: broken}})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o644); err != nil {
		return "", err
	}
	// Vet would refuse some mutants for being pointless.
	cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-overlay", list, "-run", m.run, "-timeout", "90s", "./"+filepath.Dir(m.file))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its own, and removes its files
	out, err := cmd.CombinedOutput()
	if err == nil {
		if strings.Contains(string(out), "no tests to run") {
			return "", fmt.Errorf("no test matches %s", m.run)
		}
		return "", nil
	}
	if strings.Contains(string(out), "[build failed]") {
		return "", fmt.Errorf("does not compile: %s", out)
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "--- FAIL: "); ok {
			return strings.Fields(name)[0], nil
		}
	}
	if strings.Contains(string(out), "panic: test timed out") {
		return "a hang", nil // updates that never come to their end
	}
	if strings.Contains(string(out), "panic: ") {
		return "a panic", nil
	}
	return "", fmt.Errorf("go test: %w: %s", err, out)
}
