//go:build unix

package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"
)

// A sighting is a claim with a lease, its counter, and when that was first seen.
type sighting struct {
	id      claimID
	counter uint64
	since   time.Time
}

// judge says why the claim in the way may be broken, and nothing if it may not.
func (l *linker) judge(st *linkState) (why string) {
	c := &st.claim
	if st.unclear {
		return ""
	}
	if h, ok := decodeHolder(c.holder); ok && l.liveness(h, c.lease) == Dead {
		return "its process is dead"
	}
	if c.lease == 0 {
		return ""
	}
	if l.seen.id != c.id || l.seen.counter != c.counter {
		l.seen = sighting{c.id, c.counter, st.ended}
		return ""
	}
	if st.began.Sub(l.seen.since) < c.lease {
		return ""
	}
	return fmt.Sprintf("its lease of %v was not renewed", c.lease)
}

// liveness is that of who has a claim with that lease, for who would break it. A machine
// that is a copy of another, with the machine id and the name of that, cannot be told
// from it; and so neither can its end be from its being another. Where only one machine
// can use the lock that is no matter. A lease needs no such proof: it runs out.
func (h *handle) liveness(of Holder, lease time.Duration) Liveness {
	l := of.Liveness()
	if l == Dead && of.BootID != self().BootID && (lease > 0 || !choosing.locate(filepath.Dir(h.path)).local) {
		return Unknown
	}
	return l
}

// breakState breaks the claim that st was found in, and returns the record of that. It
// reports false if the state is another by now.
func (l *linker) breakState(st *linkState, why string) (*claim, bool, error) {
	c := &claim{
		kind: kindBreak, id: newClaimID(), number: st.n + 1, holder: l.record(),
		was: st.claim.holder, wasID: st.claim.id, why: why,
	}
	ok, err := l.publish(c)
	return c, ok, err
}

// BreakStale takes a lock from a holder who cannot release it any more, and reports
// what was broken. It breaks a lock of the [Link] mechanism only, and only on proof:
// that the holder's process is dead, or, if the lock has a lease, that it was not renewed
// while BreakStale looked on for as long as the lease lasts. Who waits for the lock does
// the same, so that there is seldom a need.
//
// Locks of other mechanisms are never broken, and need not be, since the system releases
// them when a process ends: the error wraps errors.ErrUnsupported. If nothing is proved
// it is a *[HeldError] that names the holder and says what can be done. It
// wraps the error of ctx, if that has ended. A lock that is free is not an error that
// wraps ErrLocked.
func BreakStale(ctx context.Context, path string) (Break, error) {
	fail := func(err error) (Break, error) {
		return Break{}, &fs.PathError{Op: "break", Path: path, Err: err}
	}
	h, b, err := openRead("break", path)
	if err != nil {
		return Break{}, err
	}
	defer h.close()
	l, ok := h.locker.(*linker)
	if !ok {
		s := "nobody is recorded as its holder"
		if holder, ok := decodeHolder(b[holderOffset:][:holderSize]); ok {
			s = "the holder is " + holder.String()
		}
		return fail(fmt.Errorf("%w: %v locks are never broken, as the system releases them when a process ends; %s",
			errors.ErrUnsupported, h.mechanism, s))
	}
	for {
		st, err := l.view()
		switch {
		case err == errBusy:
		case err != nil:
			return fail(err)
		case !st.held:
			return fail(errors.New("it is not locked"))
		default:
			why := l.judge(&st)
			if why == "" && st.claim.lease == 0 {
				return Break{}, l.unproved(path, &st, nil)
			}
			if why == "" {
				break // watch on
			}
			c, ours, err := l.breakState(&st, why)
			if err != nil {
				return fail(err)
			}
			if ours {
				return c.broken(), nil
			}
		}
		timer := time.NewTimer(maxPoll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Break{}, l.unproved(path, &st, ctx.Err())
		}
	}
}

// unproved says what is known, and what a person can do who knows more: what the
// holder would do to release the lock. It fails if the state is another by then.
func (l *linker) unproved(path string, st *linkState, err error) error {
	h, ok := decodeHolder(st.claim.holder)
	text := "it cannot be told from here whether it is alive"
	switch {
	case ok && l.liveness(h, st.claim.lease) == Alive:
		text = "it is alive"
	case st.claim.lease > 0:
		text = fmt.Sprintf("its lease of %v was not seen to run out", st.claim.lease)
	}
	name := func(n uint64) string { return path + claimsSuffix + "/" + numberName(n) }
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" } // as a shell wants it
	why := fmt.Errorf("%s; who is sure that it is gone can release the lock for it: ln %s %s", text, quote(name(st.n)), quote(name(st.n+1)))
	if st.unclear {
		why = fmt.Errorf("%s is not understood", name(st.n))
	}
	if err != nil {
		why = fmt.Errorf("%w: %w", why, err)
	}
	return &HeldError{Path: path, Holder: h, Known: ok, Err: why}
}

// holder returns who holds the lock, as recorded in his claim. It is for a handle that
// is being looked at, like probe.
func (l *linker) holder() (Holder, bool) {
	st, err := l.view()
	if err != nil || !st.held || st.unclear {
		return Holder{}, false
	}
	return decodeHolder(st.claim.holder)
}
