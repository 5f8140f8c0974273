package store

import (
	"fmt"
	"io/fs"
	"time"

	"github.com/recordstore/recordstore/codec"
)

// Limits of a record.
const (
	MaxKeySize   = 1024     // bytes of a key
	MaxValueSize = 64 << 20 // bytes of an encoded value
)

// Options say how [Open] opens a store. The zero value, and nil, open for
// reading and writing and create what is not there.
type Options struct {
	// ReadOnly opens for reading alone: nothing is created or written, and no
	// write permission is needed, not even on LOCK.
	ReadOnly bool
	// NoCreate opens for writing only a store that exists.
	NoCreate bool
	// Codec, which must be one of package codec's, encodes the values given to
	// Put and its like. The default is codec.MessagePack. A value is decoded with
	// the codec it was written with, whatever this says.
	Codec codec.Codec
	// Mode is given to LOCK when the store is created, whatever the umask;
	// every other file of the store follows LOCK, whoever writes it. It decides
	// who can use the store: who may write LOCK and the directory can write,
	// who may read them can read. The default, 0, is 0o666 less the umask.
	Mode fs.FileMode
	// Purpose is recorded in LOCK while this process holds it, and shown to
	// those who wait.
	Purpose string
	// JournalSize is how many bytes of records a manifest holds before they
	// are moved into a segment. Every commit writes them anew, and a segment
	// is one more file for readers to look into. The default, 0, is 16 KiB,
	// and up to 64 KiB where groups of many updates are committed; it should
	// be the same for all processes.
	JournalSize int
	// CacheSize bounds the memory in which parts of segments are kept for
	// reading, in bytes; the root of each segment, some KiB, is in memory
	// besides. The default, 0, is 16 MiB; a negative size keeps none.
	CacheSize int64
	// Network takes the careful path of network file systems even where the
	// file system is known to be local: for a directory that is exported, and
	// is used on the exporting machine too. Once a store has been used so, it
	// says so itself. If that machine loses power at the moment of a commit, which
	// others have seen by then and nobody has been told of, its revision may be given
	// once more.
	Network bool
}

// defaultCacheSize is far below what a process that reads one key may need.
const defaultCacheSize = 16 << 20

func (o *Options) cacheSize() int64 {
	if o.CacheSize == 0 {
		return defaultCacheSize
	}
	return o.CacheSize
}

// A PutOption changes how one record is written.
type PutOption func(*putOptions)

type putOptions struct {
	codec   codec.Codec
	ttl     time.Duration
	expires time.Time
	err     error
}

// WithCodec encodes the value with c, one of package codec's, instead of the
// store's codec. nil is the store's codec.
func WithCodec(c codec.Codec) PutOption {
	return func(o *putOptions) {
		if c != nil {
			o.codec = c
		}
	}
}

// WithTTL lets the record expire d after the time of its commit. d must be
// positive. See [Snapshot] for when a record counts as expired.
func WithTTL(d time.Duration) PutOption {
	return func(o *putOptions) {
		if d <= 0 {
			o.err = fmt.Errorf("time to live %v is not positive", d)
		}
		o.ttl, o.expires = d, time.Time{}
	}
}

// WithExpiry lets the record expire at t. The zero time is "never". The latest
// expiry there can be is in April 2262; a later t is taken for that.
func WithExpiry(t time.Time) PutOption {
	return func(o *putOptions) { o.expires, o.ttl = t, 0 }
}
