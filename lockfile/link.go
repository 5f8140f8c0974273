//go:build unix

package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Locks made of hard links, for file systems whose locks cannot be had or cannot be
// trusted. They ask of the file system that link(2) makes a name that is not there, or
// fails, and that who reads a directory sees the names that are there all the while.
//
// Beside the lock file there is a directory, named like it with ".claims" at the end.
// Names in it that are numbers are the states that the lock went through. The highest
// is the state that it is in:
//
//	the file n is         the lock is
//	a claim for n         held by whose claim it is
//	a claim for n-1       free: its holder has released it
//	a break, for n        free: the holder of n-1 was found dead, or his lease over
//
// Every change is one link(2), to the next number:
//
//	take      n is free: write a claim for n+1 to a file of its own, flush it, link it to n+1
//	release   n is our claim: link it to n+1 as well
//	break     n is held: write a break for n+1, flush it, link it to n+1
//
// If two do so at once, one of them finds n+1 taken. So nothing is done to any state
// but the one that was looked at. A breaker who falls asleep before he links, and wakes
// when the lock has been released, or broken by another, and taken by a third, does
// not break the third's. No guard lock is needed, which could itself be left behind by
// the dead. A release needs no room on the disk for a file. If the holder is on a
// machine that will never be back, a person can release for him, as safely as he:
//
//	ln LOCK.claims/n LOCK.claims/n+1
//
// # Old numbers
//
// If all names were kept, that would be all. Since old ones are retired, somebody who
// has not looked for long may find n+1 not taken but gone, and link to it. He has then
// changed nothing: the highest number is still the state. But he must notice, though
// the directory cannot be read in one instant: while he reads it, the highest of before
// may be retired, and those that are higher by now not be shown to him. The rules:
//
//	R1  Only numbers are retired that are lower than another by keepNumbers. So the
//	    highest is never removed, and the highest never goes down.
//	R2  Who retires knows first a number H that is there, or was. Then he reads
//	    the directory. Then he removes what he has read below H-keepNumbers, in
//	    ascending order, and stops at the first that cannot be removed and is there.
//	R3  Who has linked p has it only if he then reads the directory, and p is the
//	    highest there, and after that the file p is his.
//
// Say somebody links p when that is not above the highest, and R3 does not tell him. Let
// m be the highest when he begins to read; m > p. He has not seen m, so it was removed
// before he was through. Who removed it knew a higher number by m+keepNumbers, which was
// made after he began; so that one read the directory after p was linked (R2), and
// removed p before m, or found it gone. So the file p is not his when he looks for it at
// last: a contradiction. It may be somebody else's by then, which is why he looks
// whose it is, not whether it is there.
//
// So who goes on after R3 made a change from the state before his, and the one he had
// looked at: when he linked n+1 the highest was n, the file n was never removed, and
// nobody can have linked to n twice.
//
// The same for a release, which R3 is too much for: the lock may be another's by then.
// What is linked to n+1 is the file n. If n+1 had been retired, n had been before, and
// the link fails, or it links what somebody else has linked to n in the past.
// So if the link is made, and the file n is ours after that, the lock was ours until
// then. If it is not, because so much has happened meanwhile, the breaks tell whether
// ours is among them, which are kept longer. They are written there before their
// numbers are retired.
//
// A number that somebody linked in the past, and left, is in nobody's way: the highest
// is what counts. The next one who retires removes it. At worst a break is on record
// that came too late.
//
// # Errors
//
// Over a network a call may be done and yet fail, or report of itself that the name is
// taken. So link's error decides nothing: what is in the directory does. If that cannot
// be read, the claim may have come into being though nobody holds it. This process
// remembers such claims, and releases them when it comes upon them.
//
// Network file systems remember directories too. Reading one through its path asks
// the server whether it has changed; where the server's clock is too coarse to tell,
// our own changes make the client forget it. R3 reads the directory twice, after the
// link and after the temporary name was removed. If the first reading shows it without
// what was linked, that is a claim that nobody holds, as after an error.
//
// # The directory
//
// All is done relative to the directory that was opened at first, and whenever that is
// read it is made sure that it is still at its path. If somebody removes it, the lock
// is lost, as with other mechanisms when the lock file is removed. But if only the
// lock file is removed, the lock is not lost: who makes a new one comes upon the old
// claims.

func init() { mechanisms[Link] = func(h *handle) locker { return newLinker(h) } }

const (
	// keepNumbers is how many old numbers are left. Any number will do; with more,
	// fewer slow ones have to look twice.
	keepNumbers = 8

	// retireAtOnce is how many numbers there are to retire before somebody does.
	retireAtOnce = 2 * keepNumbers

	// keepBreaks is how many of the breaks that numbers were retired of are left.
	keepBreaks = 16

	// litterAge is when a temporary file is litter though nothing is known of who
	// made it.
	litterAge = time.Hour

	// minLease leaves time for the counter to be flushed.
	minLease = 100 * time.Millisecond

	minPoll = time.Millisecond
	maxPoll = 100 * time.Millisecond

	// maxRelease is the longest pause between two tries to release what could not be
	// released, on a full disk perhaps.
	maxRelease = time.Second
)

type linker struct {
	path     string // of the directory
	open     func() (claimDir, error)
	make     func() error
	outdated func() bool                                  // the path does not name the lock file any more
	liveness func(h Holder, lease time.Duration) Liveness // of who has a claim with that lease
	record   func() []byte                                // the holder record of this process
	again    func(try func() bool)                        // untilDone
	lease    time.Duration
	keep     int // keepNumbers
	atOnce   int // retireAtOnce

	dir    claimDir      // nil if it is not open
	seen   sighting      // of a lease that somebody else has
	left   chan struct{} // closed when await is to return
	mu     sync.Mutex    // protects isLeft
	isLeft bool

	held atomic.Pointer[holding] // nil if it is not held
}

func newLinker(h *handle) *linker {
	return &linker{
		path:     h.path + claimsSuffix,
		open:     func() (claimDir, error) { return openClaimsOf(h) },
		make:     func() error { return makeClaims(h) },
		outdated: func() bool { return h.abandon(h.path) },
		liveness: h.liveness,
		record: func() []byte {
			b := encodeHolder(self())
			updateHolder(b, "", time.Now(), newClaim())
			return b
		},
		again:  untilDone,
		lease:  h.opts.Lease,
		keep:   keepNumbers,
		atOnce: retireAtOnce,
	}
}

// openClaimsOf is openClaims but for tests.
var openClaimsOf = openClaims

// abandoned has the ids of the claims of this process that nobody holds, though they
// may be in the directory.
var abandoned sync.Map

// A linkState is what the lock was found in.
type linkState struct {
	n            uint64 // 0 if there is no number yet
	held         bool
	unclear      bool // held, but not known by whom
	claim        claim
	began, ended time.Time // when it was looked at
}

// view looks which state the lock is in, or was in a moment ago.
func (l *linker) view() (linkState, error) {
	var st linkState
	for range 100 {
		st = linkState{began: time.Now()}
		names, err := l.names()
		if err != nil {
			return st, err
		}
		st.n = highest(names)
		if st.n == 0 {
			return st, nil
		}
		st.claim, err = l.read(st.n)
		st.ended = time.Now()
		if errors.Is(err, fs.ErrNotExist) {
			continue // retired meanwhile
		}
		if err != nil {
			return st, &fs.PathError{Op: "read", Path: filepath.Join(l.path, numberName(st.n)), Err: err}
		}
		c := &st.claim
		switch {
		case c.kind == kindClaim && c.number == st.n:
			st.held = true
		case c.kind == kindClaim && c.number == st.n-1, c.kind == kindBreak && c.number == st.n:
		default:
			st.held, st.unclear = true, true
		}
		return st, nil
	}
	return st, errBusy
}

// names opens the directory if it is not open, or is another than the one at its path
// by now, and reads it. It finds nothing if there is none.
func (l *linker) names() ([]string, error) {
	for try := 0; ; try++ {
		if l.dir == nil {
			dir, err := l.open()
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			l.dir = dir
		}
		names, err := l.dir.names()
		if !errors.Is(err, errMoved) || try == 10 {
			return names, err
		}
		l.shut()
	}
}

func (l *linker) shut() {
	if l.dir != nil {
		l.dir.close()
		l.dir = nil
	}
}

func (l *linker) read(n uint64) (claim, error) { return readClaim(l.dir, numberName(n)) }

func readClaim(dir claimDir, name string) (claim, error) {
	b, err := dir.read(name)
	if err != nil {
		return claim{}, err
	}
	return decodeClaim(b)
}

// isClaim reports whether the file at number n is the one with this id.
func isClaim(dir claimDir, n uint64, id claimID) (bool, error) {
	c, err := readClaim(dir, numberName(n))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && c.id == id, err
}

// publish writes c and links it to its number. It reports whether that was a change of
// the state before. An error is one of the file system, and then nothing is known.
func (l *linker) publish(c *claim) (bool, error) {
	if c.number > maxNumber {
		return false, fmt.Errorf("%s has no numbers left", l.path)
	}
	tmp := tmpPrefix + c.id.String()
	err := l.dir.create(tmp, c.encode())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // the directory was removed; who looks again will see
	}
	if err != nil {
		return false, err
	}
	// Of many who wait, few need to flush.
	names, err := l.dir.names()
	if err == nil && highest(names) == c.number-1 {
		err = l.dir.flush(tmp)
	} else if err == nil || errors.Is(err, errMoved) {
		_ = l.dir.remove(tmp)
		return false, nil
	}
	if err != nil {
		_ = l.dir.remove(tmp)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // somebody took the file for litter
		}
		return false, err
	}
	linkErr := l.dir.link(tmp, numberName(c.number))
	ours, err := l.confirm(c, tmp)
	if err == nil && !ours && linkErr != nil && !errors.Is(linkErr, fs.ErrExist) && !errors.Is(linkErr, fs.ErrNotExist) {
		err = linkError(linkErr) // ErrNotExist: somebody took the file for litter, or removed the directory
	}
	return ours, err
}

// confirm is R3. It removes the temporary name, or makes it the record of a break.
func (l *linker) confirm(c *claim, tmp string) (bool, error) {
	ours, err := l.stands(c)
	if ours && c.kind == kindBreak {
		_ = l.dir.rename(tmp, breakPrefix+numberName(c.number))
	} else {
		_ = l.dir.remove(tmp)
	}
	if ours {
		ours, err = l.stands(c) // see Errors
	}
	if errors.Is(err, errMoved) {
		return false, nil // what was linked is gone with the directory
	}
	return ours, err
}

// stands reports whether c is the highest number in a directory that is read now.
func (l *linker) stands(c *claim) (bool, error) {
	names, err := l.dir.names()
	if err != nil || highest(names) != c.number {
		return false, err
	}
	return isClaim(l.dir, c.number, c.id)
}

// take takes the lock if it is free, or its holder known to be dead or over his time.
// Otherwise it returns errBusy, and the state that is in the way.
//
// Of a file that the path does not name any more, since Remove has removed it with the
// claims, it has nothing to take. That must not look like an error, nor be waited for:
// who has taken the lock looks whether the path names his file, and h says from then on
// that it does not.
func (l *linker) take() (linkState, error) {
	st, err := l.tryTake()
	if err != nil && err != errBusy && l.outdated() {
		return st, nil
	}
	return st, err
}

func (l *linker) tryTake() (linkState, error) {
	for range 4 { // others may be faster, and it is ours to try again soon
		st, err := l.view()
		if err != nil {
			return st, err
		}
		if st.held {
			if _, ours := abandoned.Load(st.claim.id); ours && !st.unclear {
				if err := releaseClaim(l.dir, st.n, st.claim.id); err != nil && !errors.Is(err, ErrLost) {
					return st, err
				}
				abandoned.Delete(st.claim.id)
				continue
			}
			why := l.judge(&st)
			if why == "" {
				return st, errBusy
			}
			if _, _, err := l.breakState(&st, why); err != nil {
				return st, err
			}
			continue
		}
		ours, err := l.claim(st.n + 1)
		if err != nil {
			return st, err
		}
		if ours {
			return st, nil
		}
	}
	return linkState{}, errBusy
}

// claim tries to take the lock by a claim for n.
func (l *linker) claim(n uint64) (bool, error) {
	if l.dir == nil {
		if l.outdated() {
			return true, nil // see take
		}
		if err := l.make(); err != nil {
			return false, fmt.Errorf("link locks need a directory beside the file: %w", err)
		}
		if _, err := l.names(); err != nil {
			return false, err
		}
		if l.dir == nil {
			return false, nil // made and removed
		}
	}
	began := now()
	c := &claim{kind: kindClaim, id: newClaimID(), number: n, lease: l.lease, holder: l.record()}
	ours, err := l.publish(c)
	if err != nil {
		abandoned.Store(c.id, true) // a server may yet do what it has said nothing of
		if !gone(l.dir, n, c.id) {
			l.releaseLater(l.dir, n, c.id)
		}
		return false, err
	}
	if !ours {
		// Another was faster; or the directory was shown as it was before our link.
		if ok, err := isClaim(l.dir, n, c.id); err == nil && ok {
			abandoned.Store(c.id, true)
		}
		return false, nil
	}
	held := hold(l.dir, n, c.id, l.lease, began)
	l.held.Store(held)
	if held.expired() {
		if err := l.unlock(); err != nil && !errors.Is(err, ErrLost) {
			return false, err
		}
		return false, fmt.Errorf("%w: taking it took longer than the lease of %v allows", ErrLost, l.lease)
	}
	return true, nil
}

// releaseClaim releases the claim id at number n. If somebody else has ended it the
// error is ErrLost. After any other error it may not be released.
func releaseClaim(dir claimDir, n uint64, id claimID) error {
	linkErr := dir.link(numberName(n), numberName(n+1))
	at := n
	if linkErr != nil {
		at = n + 1 // ours, if it was done all the same
	}
	ours, err := isClaim(dir, at, id)
	switch {
	case err != nil:
		return err
	case ours:
		return nil
	}
	if linkErr != nil {
		// Somebody else's? Then he has broken ours, since nobody else could
		// have released it.
		if _, err := readClaim(dir, numberName(n+1)); err == nil {
			return ErrLost
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if ours, err := isClaim(dir, n, id); err != nil || ours {
			// The state is still ours, and the link's error is true.
			return errors.Join(err, linkError(linkErr))
		}
		if errors.Is(linkErr, fs.ErrNotExist) {
			return ErrLost // n was retired before n+1 was ours to link
		}
	}
	err = wasBroken(dir, n+1, id)
	if errors.Is(err, errMoved) {
		if linkErr == nil {
			return nil // it was there to be released; and then somebody could remove it all
		}
		return ErrLost
	}
	return err
}

// gone releases the claim id at number n if it is there, and reports whether it is known not
// to be held.
func gone(dir claimDir, n uint64, id claimID) bool {
	ours, err := isClaim(dir, n, id)
	if err == nil && ours {
		err = releaseClaim(dir, n, id)
	}
	return err == nil || errors.Is(err, ErrLost)
}

// releaseLater tries again and again to release a claim that nobody holds, until it is gone:
// for as long as this process lives, others must take the claim for held. The directory is
// not the linker's any more.
func (l *linker) releaseLater(dir claimDir, n uint64, id claimID) {
	abandoned.Store(id, true) // whoever comes upon it here releases it too
	if l.dir == dir {
		l.dir = nil
	}
	l.again(func() bool {
		if !gone(dir, n, id) {
			return false
		}
		dir.close()
		return true
	})
}

// untilDone calls try in the background until it reports true.
func untilDone(try func() bool) {
	go func() {
		for pause := minPoll; !try(); pause = min(2*pause, maxRelease) {
			time.Sleep(pause)
		}
	}()
}

// wasBroken looks among the breaks for one, at number n, of the claim id.
func wasBroken(dir claimDir, n uint64, id claimID) error {
	names, err := dir.names()
	if err != nil {
		return err
	}
	c, err := readClaim(dir, breakPrefix+numberName(n))
	switch {
	case err == nil && c.wasID == id:
		return ErrLost
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if breaks := numbers(names, breakPrefix); len(breaks) >= keepBreaks && breaks[0] > n {
		return ErrLost // it cannot be told any more
	}
	return nil
}

// retire removes old numbers, by R2: n was there before names were read. It removes old
// breaks and litter too. No error of it matters: somebody else will do it.
func (l *linker) retire(dir claimDir, n uint64, names []string) {
	for _, m := range numbers(names, "") {
		if m+uint64(l.keep) >= n {
			break
		}
		name := numberName(m)
		if c, err := readClaim(dir, name); err == nil && c.kind == kindBreak && c.number == m {
			if record := breakPrefix + name; !slices.Contains(names, record) {
				_ = dir.rename(name, record) // which does nothing if they are the same file
			}
		}
		if err := dir.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	breaks := numbers(names, breakPrefix)
	for _, m := range breaks[:max(0, len(breaks)-keepBreaks)] {
		_ = dir.remove(breakPrefix + numberName(m))
	}
	for _, name := range names {
		if strings.HasPrefix(name, tmpPrefix) && l.isLitter(dir, name, numberName(n)) {
			_ = dir.remove(name) // at worst its owner must try again
		}
	}
}

// isLitter reports whether who made a temporary file has died, or it is old, as compared
// with the file newer.
func (l *linker) isLitter(dir claimDir, name, newer string) bool {
	if c, err := readClaim(dir, name); err == nil {
		if h, ok := decodeHolder(c.holder); ok && l.liveness(h, c.lease) == Dead {
			return true
		}
	}
	age, err := dir.older(name, newer)
	return err == nil && age > litterAge
}

// allowed says what there is not.
func (l *linker) allowed(shared bool) error {
	switch {
	case shared:
		return fmt.Errorf("%w: %v locks cannot be shared", errors.ErrUnsupported, Link)
	case l.lease < 0 || 0 < l.lease && l.lease < minLease:
		return fmt.Errorf("a lease of %v is too short; %v is the least", l.lease, minLease)
	}
	return nil
}

// attempt waits for the file system alone.
func (l *linker) attempt(shared bool) error {
	if err := l.allowed(shared); err != nil {
		return err
	}
	_, err := l.take()
	return err
}

func (l *linker) enter(shared bool) error {
	l.mu.Lock()
	l.left, l.isLeft = make(chan struct{}), false
	l.mu.Unlock()
	return l.attempt(shared)
}

// await looks again and again: nobody can wake us. It looks more often while the lock
// is changing hands.
func (l *linker) await(bool) error {
	pause := minPoll
	var last uint64
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// Not always the same, so that two do not keep meeting.
		timer.Reset(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-l.left:
			return errBusy
		}
		st, err := l.take()
		if err != errBusy {
			return err
		}
		if st.n == last {
			pause = min(pause*3/2, maxPoll)
		} else {
			pause = max(pause/2, minPoll)
		}
		last = st.n
	}
}

func (l *linker) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isLeft {
		l.isLeft = true
		close(l.left)
	}
}

func (l *linker) join() error       { return nil }
func (l *linker) settle(bool) error { return nil }
func (l *linker) rejoin()           {} // await has been interrupted

// unlock returns ErrLost if the lock was not ours any more.
func (l *linker) unlock() error {
	held := l.held.Swap(nil)
	if held == nil {
		return nil
	}
	lost := held.end()
	if held.removed.Load() {
		return nil
	}
	err := releaseClaim(held.dir, held.n, held.id)
	if err != nil && !errors.Is(err, ErrLost) {
		l.releaseLater(held.dir, held.n, held.id)
		return err
	}
	if err == nil && lost {
		err = ErrLost
	}
	if names, namesErr := held.dir.names(); namesErr == nil && len(numbers(names, "")) >= l.keep+l.atOnce {
		l.retire(held.dir, held.n, names)
	}
	return err
}

// removeExtras removes the directory of claims. It is for who holds the lock and has
// removed the lock file; whoever comes later makes both anew. The directory is given
// another name before anything in it is removed, so that there are no fewer
// numbers in it at any time for those who have it open; who takes the lock in it sees
// then that it is not at its path. The lock need not be released any more, but may.
func (l *linker) removeExtras() error {
	if err := l.check(); err != nil {
		return err
	}
	held := l.held.Load()
	if held == nil {
		return nil // see take
	}
	gone := l.path + ".gone." + held.id.String()
	if err := os.Rename(l.path, gone); err != nil {
		return err
	}
	held.removed.Store(true)
	held.end()
	var err error
	for range 10 { // those who wait may be making a file there, once each
		if err = os.RemoveAll(gone); err == nil {
			break
		}
	}
	return err
}

func (l *linker) close() error {
	var err error
	if l.held.Load() != nil {
		err = l.unlock()
	}
	l.shut()
	return err
}

// describe adds the breaks that are recorded, the last one first.
func (l *linker) describe(s *Status) error {
	names, err := l.names()
	if err != nil {
		return err
	}
	found := map[uint64]Break{}
	for _, prefix := range []string{breakPrefix, ""} {
		for _, n := range numbers(names, prefix) {
			c, err := readClaim(l.dir, prefix+numberName(n))
			if err == nil && c.kind == kindBreak && c.number == n {
				found[n] = c.broken()
			}
		}
	}
	s.Breaks = nil
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(found))) {
		s.Breaks = append(s.Breaks, found[n])
	}
	return nil
}

// probe may be wrong for a moment when it is slow: what it sees is then of the past.
func (l *linker) probe() (State, error) {
	st, err := l.view()
	switch {
	case err == errBusy || err == nil && st.held:
		return Exclusive, nil
	case err != nil:
		return Unseen, err
	}
	return Free, nil
}
