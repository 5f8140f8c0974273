package store

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/recordstore/recordstore/codec"
)

// A Tx is what an update function sees of the store: the newest state with
// the function's own changes on top. It is valid until the function returns,
// and must not be used by several goroutines at once.
type Tx struct {
	s     *Store
	base  *state
	below changes // of those before us in the group
	own   changes
	now   int64 // the commit's time, nanoseconds since 1970 UTC
	rev   Revision
	over  bool
}

// Revision returns the revision that the function's changes will have, if
// there are any and this run of the function is the one that counts.
func (tx *Tx) Revision() Revision { return tx.rev }

// Time returns the time of the commit, in UTC. It never goes back from one
// commit to the next, even if the clock does; expiry is judged by it.
func (tx *Tx) Time() time.Time { return time.Unix(0, tx.now).UTC() }

// find returns the record with the key, or nil.
func (tx *Tx) find(key string) (rec, error) {
	r, ok := tx.own[key]
	if !ok {
		r, ok = tx.below[key]
	}
	if r = alive(r); !ok {
		var err error
		if r, err = tx.base.view.find(key); err != nil {
			return nil, err
		}
	}
	if r == nil || r.expired(tx.now) {
		return nil, nil
	}
	return r, nil
}

// Get returns a record; [ErrNotFound] if there is none or it is expired.
func (tx *Tx) Get(key string) (Record, error) {
	if tx.over {
		return Record{}, ErrTxDone
	}
	if err := checkKey(key); err != nil {
		return Record{}, fmt.Errorf("get: %w", err)
	}
	r, err := tx.find(key)
	if r == nil {
		return Record{}, fmt.Errorf("get %q: %w", key, cmp.Or(err, ErrNotFound))
	}
	return r.record(key), nil
}

// Put writes a record, whatever was there. Errors: [ErrInvalidKey],
// [ErrTooLarge], the codec's. After an error nothing of the call is kept, and
// the function may go on.
func (tx *Tx) Put(key string, value any, opts ...PutOption) error {
	w, err := tx.s.prepare(key, value, opts)
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	return tx.put(w)
}

// PutEncoded writes a record whose value is encoded already, with the codec of
// that name. It copies data. What the codec cannot decode is refused with its
// error; that it is in the canonical form is not checked.
func (tx *Tx) PutEncoded(key, codecName string, data []byte, opts ...PutOption) error {
	w, err := tx.s.prepareEncoded(key, codecName, data, opts)
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	return tx.put(w)
}

// Delete removes a record; [ErrNotFound] if there is none.
func (tx *Tx) Delete(key string) error {
	if tx.over {
		return ErrTxDone
	}
	if err := checkKey(key); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if r, err := tx.find(key); r == nil {
		return fmt.Errorf("delete %q: %w", key, cmp.Or(err, ErrNotFound))
	}
	tx.write(key, encodeTombstone(key, tx.rev, tx.now))
	return nil
}

// All returns all records, in ascending order of their keys, as they are when
// the iteration begins: what the function changes meanwhile is not in it.
// The error of a pair is nil, or the last pair's.
func (tx *Tx) All() iter.Seq2[Record, error] { return tx.scan(span{}) }

// Prefix is All for the keys that begin with prefix.
func (tx *Tx) Prefix(prefix string) iter.Seq2[Record, error] { return tx.scan(prefixSpan(prefix)) }

// Range is All for the keys with from <= key < to, in the order of their
// bytes. An empty to means "to the end".
func (tx *Tx) Range(from, to string) iter.Seq2[Record, error] { return tx.scan(span{from, to}) }

func (tx *Tx) scan(sp span) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if tx.over {
			yield(Record{}, ErrTxDone)
			return
		}
		top := make(changes, len(tx.below)+len(tx.own))
		for _, c := range []changes{tx.below, tx.own} {
			for k, r := range c {
				top[k] = r
			}
		}
		yieldAll(tx.base.view.scan(sp, top), tx.now, yield)
	}
}

// yieldAll yields the records that are not expired.
func yieldAll(recs iter.Seq2[rec, error], now int64, yield func(Record, error) bool) {
	for r, err := range recs {
		if err != nil {
			yield(Record{}, err)
			return
		}
		if !r.expired(now) && !yield(r.record(""), nil) {
			return
		}
	}
}

// expect reports a conflict if the record's revision is not old.
func (tx *Tx) expect(key string, old Revision) error {
	var have Revision
	r, err := tx.find(key)
	if err != nil {
		return err
	}
	if r != nil {
		have = r.revision()
	}
	if have != old {
		return &ConflictError{Key: key, Want: old, Have: have}
	}
	return nil
}

// A write is a record that is to be written.
type write struct {
	key   string
	codec string
	data  []byte
	opts  putOptions
}

// prepare encodes a value and checks all that can be checked without a state.
func (s *Store) prepare(key string, value any, opts []PutOption) (*write, error) {
	w := &write{key: key, opts: putOptions{codec: s.opts.Codec}}
	if err := w.apply(opts); err != nil {
		return nil, err
	}
	if err := checkCodec(w.opts.codec); err != nil {
		return nil, fmt.Errorf("record %q: %w", key, err)
	}
	data, err := w.opts.codec.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode record %q: %w", key, err)
	}
	w.codec, w.data = w.opts.codec.Name(), data
	return w, w.check()
}

// checkCodec returns an error if c is not one of package codec's: a value that nobody else
// could decode would be damage to Verify.
func checkCodec(c codec.Codec) error {
	known, err := codec.ByName(c.Name())
	if err == nil && known != c {
		err = fmt.Errorf("%w: it is called %s, and is not package codec's", codec.ErrUnknown, c.Name())
	}
	return err
}

func (s *Store) prepareEncoded(key, codecName string, data []byte, opts []PutOption) (*write, error) {
	if err := codec.Check(codecName, data); err != nil {
		return nil, fmt.Errorf("record %q: %w", key, err)
	}
	w := &write{key: key, codec: codecName, data: data}
	if err := w.apply(opts); err != nil {
		return nil, err
	}
	return w, w.check()
}

func (w *write) apply(opts []PutOption) error {
	for _, o := range opts {
		if o != nil {
			o(&w.opts)
		}
	}
	if w.opts.err != nil {
		return fmt.Errorf("record %q: %w", w.key, w.opts.err)
	}
	return nil
}

func (w *write) check() error {
	if err := checkKey(w.key); err != nil {
		return err
	}
	if len(w.data) > MaxValueSize {
		return fmt.Errorf("record %q: value %w: %d bytes, the limit is %d", w.key, ErrTooLarge, len(w.data), MaxValueSize)
	}
	return nil
}

func (tx *Tx) put(w *write) error {
	if tx.over {
		return ErrTxDone
	}
	tx.write(w.key, encodeRec(w.key, w.codec, w.data, tx.rev, tx.now, w.opts.expiry(tx.now)))
	return nil
}

func (tx *Tx) write(key string, r rec) {
	if tx.own == nil {
		tx.own = changes{}
	}
	tx.own[key] = r
}

// expiry returns when a record expires that is written at now, in nanoseconds
// since 1970 UTC; 0 for never. A time that does not fit is the nearest that
// does: the years 1970 to 2262 do.
func (o *putOptions) expiry(now int64) int64 {
	switch {
	case o.ttl > 0:
		if e := now + o.ttl.Nanoseconds(); e > now {
			return e
		}
		return math.MaxInt64
	case o.expires.IsZero():
		return 0
	case o.expires.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	case o.expires.Before(time.Unix(0, 1)):
		return 1
	}
	return o.expires.UnixNano()
}
