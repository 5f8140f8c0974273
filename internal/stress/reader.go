package stress

import (
	"errors"
	"fmt"
	"strings"

	"github.com/recordstore/recordstore/internal/crc32c"
	"github.com/recordstore/recordstore/internal/stress/workers"
)

// A reader takes snapshots, and notes each that is not what it must be.
type reader struct {
	*hand
	revision uint64             // of the newest snapshot
	known    map[string]reached // what it held
	held     snapshot           // a snapshot kept from the last step, or nil
	digest   uint64             // of what it held then
}

// reached is how far a record had come when it was last read.
type reached struct{ revision, n uint64 }

func newReader(h *hand) *reader { return &reader{hand: h, known: map[string]reached{}} }

// step takes one snapshot and looks at all of it.
func (r *reader) step() error {
	fresh := r.Form == formHard && r.Slot%2 == 1 && r.rng.IntN(50) == 0
	ctx, cancel := r.context()
	defer cancel()
	start := workers.Monotonic()
	sn, err := r.p.Snapshot(ctx, fresh)
	if err != nil {
		return r.failed("take a snapshot", err)
	}
	if err := r.history.snapshot(start, sn.Revision()); err != nil {
		return err
	}
	r.tally.reads.Add(1)
	digest, err := r.check(sn)
	if err != nil {
		return errors.Join(r.failed(fmt.Sprintf("read a snapshot of revision %d", sn.Revision()), err), sn.Close())
	}
	if err := r.again(); err != nil {
		return err
	}
	if r.rng.IntN(8) > 0 {
		return sn.Close()
	}
	r.held, r.digest = sn, digest
	return nil
}

// again reads the held snapshot once more: others have committed since, and it
// must be what it was.
func (r *reader) again() error {
	if r.held == nil {
		return nil
	}
	var digest uint64
	err := r.held.Each(r.prefix, func(key string, s stored) error {
		digest += sum(key, s)
		return nil
	})
	if err != nil {
		return r.failed("read a snapshot again", err)
	}
	if digest != r.digest {
		if err := r.violation(Torn, "snapshot of revision %d changed while it was held", r.held.Revision()); err != nil {
			return err
		}
	}
	err = r.held.Close()
	r.held = nil
	return err
}

// failed sorts out an error of the records. A time-out is counted; so is an
// error of the recipe, as a read that found no whole state.
func (r *reader) failed(what string, err error) error {
	switch r.p.Sort(err) {
	case sortLate, sortUnknown: // a fresh snapshot commits, perhaps
		return r.history.lateSnapshot()
	case sortRecipe:
		return r.violation(Torn, "%s: %v", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (r *reader) violation(k Kind, format string, args ...any) error {
	return r.history.violation(Finding{Kind: k, Text: fmt.Sprintf(format, args...)})
}

// sum is one record's part of a digest that does not depend on their order.
func sum(key string, s stored) uint64 {
	c := crc32c.Update(crc32c.Checksum([]byte(key)), s.Data)
	return uint64(c) * (s.Revision | 1)
}

// check looks at every record, at what holds between them, and at how they
// follow on what this reader saw before.
func (r *reader) check(sn snapshot) (digest uint64, err error) {
	if sn.Revision() < r.revision {
		if err := r.violation(Back, "a snapshot of revision %d after one of %d", sn.Revision(), r.revision); err != nil {
			return 0, err
		}
	}
	r.revision = sn.Revision()

	var own, shared uint64
	flips := map[string]uint64{} // by place, of the own records
	flip := map[string]uint64{}  // by place, of the flip records
	now := make(map[string]reached, len(r.known))
	var probe string // one of the records, to be read by its key too
	var probed stored
	err = sn.Each(r.prefix, func(key string, s stored) error {
		digest += sum(key, s)
		if probe == "" || r.rng.IntN(64) == 0 {
			probe, probed = key, s
		}
		v, err := decodeValue(key, s.Data)
		if err != nil {
			now[key] = r.known[key] // it is there, after all
			return r.violation(Torn, "snapshot of revision %d: %v", sn.Revision(), err)
		}
		now[key] = reached{s.Revision, v.N}
		group, place, _ := strings.Cut(strings.TrimPrefix(key, r.prefix), "/")
		switch group {
		case "own":
			own += v.N
			flips[place] = v.Flips
		case "shared":
			shared += v.N
		case "flip":
			flip[place] = v.N
		}
		if s.Revision > sn.Revision() {
			return r.violation(Torn, "snapshot of revision %d has %s of revision %d", sn.Revision(), key, s.Revision)
		}
		return r.follows(sn, key, now[key])
	})
	if err != nil {
		return 0, err
	}
	if own != shared {
		if err := r.violation(Torn, "snapshot of revision %d: the writers' own records sum up to %d, the shared counters to %d", sn.Revision(), own, shared); err != nil {
			return 0, err
		}
	}
	for place, n := range flips {
		has, ok := flip[place]
		if ok != (n%2 == 1) || ok && has != n {
			if err := r.violation(Torn, "snapshot of revision %d: after %d flips of %s its record is there: %t (of flip %d)", sn.Revision(), n, place, ok, has); err != nil {
				return 0, err
			}
		}
	}
	for key := range r.known {
		if _, ok := now[key]; !ok && !strings.HasPrefix(key, r.prefix+"flip/") {
			if err := r.violation(Back, "snapshot of revision %d: %s, which had been there, is gone", sn.Revision(), key); err != nil {
				return 0, err
			}
		}
	}
	r.known = now
	if probe == "" {
		return digest, nil
	}
	got, ok, err := sn.Get(probe)
	if err == nil && (!ok || sum(probe, got) != sum(probe, probed)) {
		err = r.violation(Torn, "snapshot of revision %d: %s read by its key is not what was listed", sn.Revision(), probe)
	}
	return digest, err
}

// follows checks that a record did not go back since the last snapshot.
func (r *reader) follows(sn snapshot, key string, is reached) error {
	was, ok := r.known[key]
	if ok && (is.revision < was.revision || is.n < was.n || is.revision == was.revision && is.n != was.n) {
		return r.violation(Back, "snapshot of revision %d: %s is of revision %d with n=%d after revision %d with n=%d",
			sn.Revision(), key, is.revision, is.n, was.revision, was.n)
	}
	return nil
}
