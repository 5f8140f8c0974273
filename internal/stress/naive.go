package stress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// naive is the recipe of the question, with its faults: all records are in one
// file. To write, lock that file, read it, change one record, write all of them
// to a temporary file of a fixed name, rename that over the file, close. To
// read, lock the file shared, read it, close.
//
// Who waits for the lock has opened the file that was there when he began to
// wait. When he gets the lock that file has been replaced: he reads old
// records, and writes them over newer ones. Meanwhile others hold the lock of
// the newer file, and two at a time write the temporary file.
//
// It is here to be seen failing: whoever changes the workload or the judge
// checks with it that they still notice.
//
// Beside is the recipe of those who know that: what is locked is a file beside
// the data, the temporary file has a name of its own and is flushed, and
// readers take no lock. On a local file system it is right, if slow. Over NFS it
// loses updates: under the lock, the data file's name may still lead to the file
// before, if some process has that open, as readers do here.
type naive struct {
	data, temp string
	lock       string   // the file that is locked
	beside     bool     // that is not the data file
	held       *os.File // what was read last without a lock, kept open
	// The locks belong to the process. What this recipe is to show is what
	// happens between processes, so goroutines take turns.
	mu sync.Mutex
}

const (
	naiveData = "records.json"
	naiveTemp = "temp_file"
	naiveLock = "records.lock"
)

// naiveState is the content of the data file.
type naiveState struct {
	Revision uint64            `json:"revision"`
	Records  map[string]stored `json:"records"`
}

var errRefused = errors.New("refused")

func openNaive(dir string, beside bool) (protocol, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	n := &naive{data: filepath.Join(dir, naiveData), temp: filepath.Join(dir, naiveTemp), beside: beside}
	n.lock = n.data
	if beside {
		n.lock = filepath.Join(dir, naiveLock)
	}
	return n, nil
}

// locked runs fn with what the data file held once the lock was had.
func (n *naive) locked(lock int16, fn func(*naiveState) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	f, err := os.OpenFile(n.lock, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		err = unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &unix.Flock_t{Type: lock})
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", n.lock, err)
	}
	data := f
	if n.beside {
		if data, err = n.openData(); err != nil {
			return err
		}
		defer data.Close()
	}
	content, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	st, err := decodeNaive(n.data, content)
	if err != nil {
		return err
	}
	return fn(st)
}

// openData opens the data file, or an empty one if there is none yet.
func (n *naive) openData() (*os.File, error) {
	f, err := os.Open(n.data)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Open(os.DevNull)
	}
	return f, err
}

// read reads the data file without a lock, and keeps it open until the next
// time. Over NFS a file that was replaced since it was opened may be gone.
func (n *naive) read() (*naiveState, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		f, err := n.openData()
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(f)
		if errors.Is(err, unix.ESTALE) {
			f.Close()
			continue
		}
		if n.held != nil {
			n.held.Close() // it was only read
		}
		n.held = f
		if err != nil {
			return nil, err
		}
		return decodeNaive(n.data, content)
	}
}

func decodeNaive(path string, content []byte) (*naiveState, error) {
	st := &naiveState{}
	if len(content) > 0 {
		if err := json.Unmarshal(content, st); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	if st.Records == nil {
		st.Records = map[string]stored{}
	}
	return st, nil
}

// replace writes st to the temporary file and renames it over the data file.
func (n *naive) replace(st *naiveState) error {
	content, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if !n.beside {
		if err := os.WriteFile(n.temp, content, 0o666); err != nil {
			return err
		}
		return os.Rename(n.temp, n.data)
	}
	f, err := os.CreateTemp(filepath.Dir(n.temp), naiveTemp+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), n.data)
}

func (n *naive) Update(_ context.Context, fn func(tx) error) (revision uint64, err error) {
	err = n.locked(unix.F_WRLCK, func(st *naiveState) error {
		st.Revision++
		if err := fn(naiveTx{st}); err != nil {
			return err
		}
		revision = st.Revision
		return n.replace(st)
	})
	return revision, err
}

func (n *naive) CompareAndSwap(ctx context.Context, key string, old uint64, data []byte) (uint64, error) {
	return n.Update(ctx, func(tx tx) error {
		if has := tx.(naiveTx).Records[key].Revision; has != old {
			return fmt.Errorf("%w: %s has revision %d, not %d", errRefused, key, has, old)
		}
		return tx.Put(key, data)
	})
}

func (n *naive) Get(ctx context.Context, key string) (stored, bool, error) {
	sn, err := n.Snapshot(ctx, false)
	if err != nil {
		return stored{}, false, err
	}
	return sn.Get(key)
}

func (n *naive) Snapshot(context.Context, bool) (snapshot, error) {
	var sn naiveSnapshot
	if n.beside {
		st, err := n.read()
		return naiveSnapshot{st}, err
	}
	err := n.locked(unix.F_RDLCK, func(st *naiveState) error {
		sn.naiveState = st
		return nil
	})
	return sn, err
}

func (n *naive) Coherent(context.Context) (bool, error) { return true, nil }

func (n *naive) Sort(err error) errorSort {
	if errors.Is(err, errRefused) {
		return sortRefused
	}
	return sortRecipe
}

func (n *naive) Close() error {
	if n.held == nil {
		return nil
	}
	return n.held.Close()
}

type naiveTx struct{ *naiveState }

func (t naiveTx) Get(key string) ([]byte, bool, error) {
	s, ok := t.Records[key]
	return s.Data, ok, nil
}

func (t naiveTx) Put(key string, data []byte) error {
	t.Records[key] = stored{Data: bytes.Clone(data), Revision: t.naiveState.Revision}
	return nil
}

func (t naiveTx) Delete(key string) error {
	if _, ok := t.Records[key]; !ok {
		return fmt.Errorf("delete %s: not there", key)
	}
	delete(t.Records, key)
	return nil
}

func (t naiveTx) Revision() uint64 { return t.naiveState.Revision }

type naiveSnapshot struct{ *naiveState }

func (s naiveSnapshot) Revision() uint64 { return s.naiveState.Revision }

func (s naiveSnapshot) Each(prefix string, fn func(string, stored) error) error {
	for key, r := range s.Records {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := fn(key, r); err != nil {
			return err
		}
	}
	return nil
}

func (s naiveSnapshot) Get(key string) (stored, bool, error) {
	r, ok := s.Records[key]
	return r, ok, nil
}

func (s naiveSnapshot) Close() error { return nil }

// claimNaive is claim for this protocol.
func claimNaive(c Config) error {
	entries, err := os.ReadDir(c.Store)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(c.Store, 0o777) // another machine may have been faster
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != naiveData && e.Name() != naiveLock && !strings.HasPrefix(e.Name(), naiveTemp) {
			return fmt.Errorf("%s holds %s: %w", c.Store, e.Name(), ErrTaken)
		}
	}
	data := filepath.Join(c.Store, naiveData)
	content, err := os.ReadFile(data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := decodeNaive(data, content)
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrTaken)
	}
	for key := range st.Records {
		if !strings.HasPrefix(key, allRuns) {
			return fmt.Errorf("%s holds a record %q: %w", data, key, ErrTaken)
		}
		if c.Machines > 1 && !strings.HasPrefix(key, runPrefix(c.Seed)) {
			return fmt.Errorf("%s holds a record of another run, %s: %w", data, key, ErrTaken)
		}
	}
	if c.Machines > 1 {
		return nil
	}
	return os.Remove(data)
}
