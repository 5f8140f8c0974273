package store

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/recordstore/recordstore/codec"
	"github.com/recordstore/recordstore/internal/boot"
	"github.com/recordstore/recordstore/internal/fstype"
	_ "github.com/recordstore/recordstore/internal/platform" // refuses other operating systems
	"github.com/recordstore/recordstore/internal/vfs"
	"github.com/recordstore/recordstore/lockfile"
)

const (
	lockName  = "LOCK"  // the file that serializes the writers
	mergeName = "MERGE" // and the one that serializes those who merge segments
)

// A Store is an open record store. It is safe for concurrent use by
// goroutines, and any number of processes may have the same store open.
//
// A Store holds descriptors of its directory, of LOCK, of the newest manifest
// that it has seen and of that one's segments. A process that dies with a store open, even in the middle of an
// update, holds nobody up: the kernel frees its lock, its update is there
// whole or not at all, and what temporary file it leaves is removed later.
type Store struct {
	dir  string
	id   ID
	opts Options
	sys  system
	lock locker // nil if opened for reading only
	nfs3 bool   // the directory is on NFS 3, see onNFS3; only asked to write

	here  lookout
	cache *blockCache
	bound journalBound
	merging
	spare spare
	own   ownCommits
	users atomic.Pointer[lockClass] // as last asked for

	network   atomic.Bool // the careful path is taken
	published atomic.Bool // LOCK is known to hold this machine's boot id
	ended     atomic.Bool // nothing is to be held open any more

	finder finder
	cur    atomic.Pointer[state] // the newest state that this process has seen

	queue
}

// system is what the store asks of the machine: a seam for tests.
type system struct {
	fs       vfs.FS
	now      func() time.Time
	boot     boot.ID
	openLock func(path string, opts *lockfile.Options) (locker, error)
	lockData func(path string) ([]byte, error) // the store's bytes in LOCK

	layout      segmentLayout
	noSpare     bool          // no temporary files are made ahead
	keep        int           // newest manifests that retirement leaves, whatever their age
	keepAge     time.Duration // how old a manifest must be to be retired; 0: by file system
	retireEvery int64         // commits between two retirements
}

// A locker serializes the writers, usually.
type locker interface {
	Lock(ctx context.Context, purpose string) (heldLock, error)
	TryLock(purpose string) (heldLock, error)
	Holder() (lockfile.Holder, bool, error)
	Close() error
}

type heldLock interface {
	ReadData() ([]byte, error)
	WriteData(p []byte) error
	Sync() error
	Unlock() error
}

type fileLocker struct{ *lockfile.File }

func (l fileLocker) Lock(ctx context.Context, purpose string) (heldLock, error) {
	return asHeld(l.File.Lock(ctx, purpose))
}

func (l fileLocker) TryLock(purpose string) (heldLock, error) {
	return asHeld(l.File.TryLock(purpose))
}

// asHeld keeps a nil pointer from becoming an interface that is not nil.
func asHeld(l *lockfile.Lock, err error) (heldLock, error) {
	if err != nil {
		return nil, err
	}
	return l, nil
}

// How much retirement leaves. A reader that has listed the directory has so
// much time to open what it has read, however fast the commits come.
const (
	keepManifests  = 8
	keepAgeLocal   = time.Second
	keepAgeNetwork = 3 * time.Minute // caches of other machines may be that old
)

func realSystem() system {
	return system{
		fs:   vfs.OS{},
		now:  time.Now,
		boot: boot.Current(),
		openLock: func(path string, opts *lockfile.Options) (locker, error) {
			f, err := lockfile.Open(path, opts)
			return fileLocker{f}, err
		},
		lockData:    lockfile.ReadData,
		keep:        keepManifests,
		retireEvery: retireEvery,
	}
}

// Open opens the record store in the directory dir, and creates it if there
// is none and opts do not forbid it: dir itself (but not its parents), if it
// is missing, or the store in it, if it is empty. nil opts are the defaults.
//
// Any number of processes may open, and create, a store at once. Opening does
// not wait for writers. The store must be closed.
//
// Errors, besides the file system's: fs.ErrNotExist if there is no store and
// none is to be created, [ErrNotStore], [ErrUnsafeDir], [ErrNewerVersion],
// [ErrCorrupt].
func Open(dir string, opts *Options) (*Store, error) {
	return open(resolve(dir), opts, realSystem())
}

// resolve follows symbolic links, so that the directory that is examined and
// whose parent is flushed is the one that is used.
func resolve(dir string) string {
	if dir == "" {
		return "" // not the current directory
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		return filepath.Join(parent, filepath.Base(dir)) // to be created
	}
	return dir
}

func open(dir string, opts *Options, sys system) (_ *Store, err error) {
	s := &Store{sys: sys, queue: queue{slots: make(chan struct{}, 1)}, finder: finder{turn: make(chan struct{}, 1)}}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.Codec == nil {
		s.opts.Codec = codec.MessagePack
	}
	s.cache = newBlockCache(s.opts.cacheSize())
	s.bound = boundOf(s.opts.JournalSize)
	s.merging.start()
	if dir == "" {
		return nil, fmt.Errorf("open store: the name of the directory is empty: %w", fs.ErrInvalid)
	}
	if err := checkCodec(s.opts.Codec); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	defer func() {
		if err != nil {
			s.shut()
			err = fmt.Errorf("open store: %w", err)
		}
	}()
	create := !s.opts.ReadOnly && !s.opts.NoCreate
	made := false
	if create {
		if made, err = s.makeDir(); err != nil {
			return nil, err
		}
	}
	if err := s.openLookout(); err != nil {
		return nil, err
	}
	found, err := s.survey()
	switch {
	case err != nil:
		return nil, err
	case found: // looked at before anything is touched
		err = s.identify()
	case !create:
		switch found, err = s.wasUsed(); {
		case err != nil:
		case found: // the listing was not fresh
			err = s.identify()
		default:
			err = fmt.Errorf("%s: %w", s.dir, errNoManifest)
		}
	}
	if err != nil {
		return nil, err
	}
	if s.opts.ReadOnly {
		return s, nil
	}
	if err := s.openLock(); err != nil {
		return nil, err
	}
	if !found {
		if err := s.create(made); err != nil {
			return nil, err
		}
		if err := s.identify(); err != nil {
			return nil, err
		}
	}
	if err := s.finishCreation(); err != nil {
		return nil, err
	}
	return s, nil
}

// identify finds the newest state, and with it the store's id.
func (s *Store) identify() error {
	st, err := s.newest(context.Background())
	if err != nil {
		return err
	}
	defer st.release()
	s.id = st.store
	return nil
}

// survey looks at the directory before anything is done in it. It reports
// whether there is a store.
func (s *Store) survey() (found bool, err error) {
	_, local, err := s.sys.fs.Type(s.dir)
	if err != nil {
		return false, err
	}
	s.network.Store(!local || s.opts.Network)
	names, err := s.sys.fs.ReadDir(s.dir)
	if err != nil {
		return false, err
	}
	stranger, orphaned := "", ""
	for _, name := range names {
		_, manifest := parseManifestName(name)
		found = found || manifest
		if _, _, segment := parseSegmentName(name); segment {
			orphaned = name
		}
		if !manifest && name[0] != '.' && !ownName(name) {
			stranger = name
		}
	}
	for range 10 { // a listing may miss names that come and those that go: all, at worst
		if found || orphaned == "" {
			break
		}
		seqs, _, err := s.list()
		if err != nil {
			return false, err
		}
		found = len(seqs) > 0
	}
	if !found && orphaned != "" {
		return false, &CorruptError{s.path(orphaned), 0, "it is a segment of a store whose manifests are gone"}
	}
	if !found && stranger != "" {
		return false, fmt.Errorf("%s: %w: it holds other files (%q) and no manifest; choose a directory that is empty or does not exist", s.dir, ErrNotStore, stranger)
	}
	return found, nil
}

// ownName tells whether a name is of those that belong into a store's directory,
// beside manifests: docs/FORMAT.md has the grammar.
func ownName(name string) bool {
	_, _, segment := parseSegmentName(name)
	named, ok := strings.CutPrefix(name, "lock.")
	return name == lockName || name == mergeName || besideLock(name) || segment || ok && named != ""
}

// besideLock tells whether a name is that of something which package lockfile puts
// beside LOCK or MERGE: LOCK.turn with flock, LOCK.claims with locks of links, and what
// is made whole before it gets its name, which may be LOCK or that of the claims.
func besideLock(name string) bool {
	rest, ok := strings.CutPrefix(name, lockName)
	if !ok {
		if rest, ok = strings.CutPrefix(name, mergeName); !ok {
			return false
		}
	}
	if rest == ".turn" || rest == ".claims" {
		return true
	}
	id, ok := strings.CutPrefix(strings.TrimPrefix(rest, ".claims"), ".new.")
	_, err := hex.DecodeString(id)
	return ok && err == nil && len(id) == 2*len(ID{})
}

// openLock opens LOCK, after it has made sure that the directory can hold a
// shared store.
func (s *Store) openLock() error {
	if err := s.checkDir(); err != nil {
		return err
	}
	s.nfs3 = s.onNFS3()
	lock, err := s.openLockFile(lockName)
	if err != nil {
		return err
	}
	s.lock = lock
	return nil
}

// linkLease is how long others wait for a machine that died with LOCK, if that is made of
// links. Who only seems to be dead loses his turn, not his update.
const linkLease = 15 * time.Second

// recordAfter is how long LOCK or MERGE is held over a network before it says by whom: a
// commit takes a tenth of that there, if it is slow.
const recordAfter = time.Second

// openLockFile opens LOCK or MERGE.
func (s *Store) openLockFile(name string) (locker, error) {
	opts := lockfile.Options{Mode: s.opts.Mode, Lease: linkLease, NoQueue: s.nfs3}
	if s.network.Load() {
		opts.RecordAfter = recordAfter
	}
	lock, err := s.sys.openLock(s.path(name), &opts)
	// Where no store was found, it may be anybody's file.
	if s.cur.Load() != nil && errors.Is(err, lockfile.ErrNotLockFile) {
		err = fmt.Errorf("%w; it holds no records: when nobody uses the store, it may be removed", err)
	}
	return lock, err
}

// onNFS3 tells whether the directory is on NFS 3. Those who wait for a lock there do so on
// the server, which serves them in the order in which they came: a queue of our own would
// only be more calls. (Only exclusive locks are taken, which is where that order is fair.)
// And the kernel's locks have no leases there: that LOCK can be written does not tell that it
// is still ours.
func (s *Store) onNFS3() bool {
	if !s.network.Load() {
		return false
	}
	m, err := fstype.MountOf(s.dir)
	return err == nil && slices.Contains(m.Options, "vers=3")
}

// Close waits for the updates under way, and for what they have left to be done
// soon; a merge of segments that can wait is left to others. Then it closes the
// store. Snapshots stay valid. A second Close, and every later call whose arguments are
// right, reports fs.ErrClosed. Close must not be called from an update function.
func (s *Store) Close() error {
	if !s.opts.ReadOnly { // else nothing is under way, and a timer is dear for who gets one record
		s.merging.hurryUp()
	}
	if !s.queue.close() {
		return fmt.Errorf("close store %s: %w", s.dir, fs.ErrClosed)
	}
	return s.shut()
}

func (s *Store) shut() error {
	s.ended.Store(true)
	s.discard(s.spare.take(s, time.Now()))
	s.drop()
	err := s.merging.close()
	if s.here.dir != nil {
		err = errors.Join(err, s.here.dir.Close())
	}
	if s.lock != nil {
		err = errors.Join(s.lock.Close(), err)
	}
	return err
}

// drop lets go of the current state.
func (s *Store) drop() {
	if st := s.cur.Swap(nil); st != nil {
		st.release()
	}
}

// Dir returns the absolute path of the store's directory.
func (s *Store) Dir() string { return s.dir }

// ID returns the random number that names the store.
func (s *Store) ID() ID { return s.id }

// Get returns the newest version of a record, without any lock. On a local
// file system it sees every update that was committed before it began; on a
// network file system it may be a little late, see [Store.FreshSnapshot]. The
// error for a missing or expired record is [ErrNotFound].
//
// While the store does not change, Get costs one system call, opens no file and
// copies nothing.
func (s *Store) Get(ctx context.Context, key string) (Record, error) {
	if err := checkKey(key); err != nil {
		return Record{}, fmt.Errorf("get: %w", err)
	}
	st, err := s.read(ctx)
	if err != nil {
		return Record{}, fmt.Errorf("get: %w", err)
	}
	defer st.release()
	r, err := st.view.find(key)
	if r != nil && (r.expires() == 0 || !r.expired(st.instant(s.sys.now))) {
		return r.record(key), nil
	}
	return Record{}, fmt.Errorf("get %q: %w", key, cmp.Or(err, ErrNotFound))
}

// read returns the newest state, acquired, for a call that only reads.
func (s *Store) read(ctx context.Context) (*state, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if s.queue.isClosed() {
		return nil, fmt.Errorf("store %s: %w", s.dir, fs.ErrClosed)
	}
	if st := s.warm(s.isNewestHere); st != nil {
		return st, nil
	}
	return s.newest(ctx)
}
