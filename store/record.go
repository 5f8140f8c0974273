package store

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/recordstore/recordstore/codec"
)

// A Revision is the number of a successful update. Every update that changes
// something gets a revision greater than all before it; numbers may be
// skipped. A record's revision is that of the update that wrote it last. No
// record has revision 0.
type Revision uint64

// String returns the revision in decimal.
func (r Revision) String() string { return strconv.FormatUint(uint64(r), 10) }

// ParseRevision is the inverse of [Revision.String].
func ParseRevision(s string) (Revision, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("revision %q is not a decimal number below 2^64", s)
	}
	return Revision(n), nil
}

// An ID is a random number that names a store, or one commit of it.
type ID [16]byte

// String returns the ID as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID is the inverse of [ID.String].
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(ID{}) {
		return ID{}, fmt.Errorf("id %q is not 32 hexadecimal digits", s)
	}
	return ID(b), nil
}

// A Record is a named value.
type Record struct {
	Key string
	// Value is the encoded value. The bytes belong to the snapshot that they
	// were read from and must not be changed; they stay valid for as long as
	// they are referred to.
	Value    []byte
	Codec    string    // name of the codec that Value is encoded with
	Revision Revision  // of the record's last write
	Time     time.Time // of the record's last write, in UTC
	Expires  time.Time // in UTC; zero: never
}

// Decode decodes the value into v, a non-nil pointer, with the codec that the
// record names. It changes nothing but *v. Errors are the codec's.
func (r Record) Decode(v any) error {
	c, err := codec.ByName(r.Codec)
	if err == nil {
		err = c.Unmarshal(r.Value, v)
	}
	if err != nil {
		return fmt.Errorf("decode record %q: %w", r.Key, err)
	}
	return nil
}

// Decode is [Record.Decode] that returns the value:
//
//	r, err := store.Decode[Result](rec)
func Decode[T any](r Record) (T, error) {
	var v T
	err := r.Decode(&v)
	return v, err
}

// checkKey reports whether a record may have the key.
func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidKey)
	case len(key) > MaxKeySize:
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrInvalidKey, len(key), MaxKeySize)
	}
	return nil
}
