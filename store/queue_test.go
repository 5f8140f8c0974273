package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/recordstore/recordstore/internal/vfs/faultfs"
	"github.com/recordstore/recordstore/lockfile"
)

// Somebody's context ends while his changes wait for another's function: they
// must not be committed with the others'.
func TestLeave(t *testing.T) {
	m := newMachine(faultfs.NewDisk(), 1)
	s := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
	defer s.Close()
	m.lock <- struct{}{} // so that both wait, and become one group
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	left := make(chan error, 1)
	go func() {
		_, err := s.Put(ctx, "left", 1)
		left <- err
	}()
	waitQueued(s, 1)
	runs := 0
	stayed := make(chan error, 1)
	go func() {
		_, err := s.Update(context.Background(), func(tx *Tx) error {
			runs++
			if runs == 1 {
				if _, err := tx.Get("left"); err != nil {
					return fmt.Errorf("not in one group: %w", err)
				}
				cancel()
				if err := <-left; !errors.Is(err, context.Canceled) || !errors.Is(err, lockfile.ErrLocked) || errors.Is(err, ErrUnknown) {
					return fmt.Errorf("who left was told %w", err)
				}
			}
			return tx.Put("stayed", runs)
		})
		stayed <- err
	}()
	waitQueued(s, 2)
	<-m.lock
	if err := <-stayed; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(context.Background(), "left"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the record of who left: %v, want %v", err, ErrNotFound)
	}
	rec, err := s.Get(context.Background(), "stayed")
	if n, err2 := Decode[int](rec); err != nil || err2 != nil || n != 2 {
		t.Errorf("the other's record: %d, %v, %v; want that of its second run", n, err, err2)
	}
}

// waitQueued waits until n updates wait for LOCK.
func waitQueued(s *Store, n int) {
	for {
		s.qmu.Lock()
		waiting := len(s.waiting)
		s.qmu.Unlock()
		if waiting == n {
			return
		}
	}
}

// Callers leave at every moment, and some functions panic, while others
// commit. What was answered must be true.
func TestLeaveAnywhere(t *testing.T) {
	s, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		key string
		err error
	}
	rounds := effort(t, 100)
	const callers = 8
	results := make(chan result, rounds*callers)
	for i := range rounds {
		for j := range callers {
			go func() {
				// From at once to about the time that a commit takes.
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(j*i*100/rounds)*5*time.Microsecond)
				defer cancel()
				r := result{updateKey(fmt.Sprint(i), j), errors.New("panicked")}
				defer func() {
					_ = recover()
					results <- r
				}()
				_, err := s.Update(ctx, func(tx *Tx) error {
					if i%20 == 7 && j == 3 {
						panic("on purpose")
					}
					return tx.Put(r.key, i)
				})
				r.err = err
			}()
		}
		if _, err := s.Put(context.Background(), "stays", i); err != nil {
			t.Fatal(err)
		}
	}
	done, unknown, not := 0, 0, 0
	var all []result
	for range cap(results) {
		all = append(all, <-results)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Open(s.Dir(), &Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, x := range all {
		_, err := r.Get(context.Background(), x.key)
		switch there := err == nil; {
		case x.err == nil:
			done++
			if !there {
				t.Errorf("%s was acknowledged and is lost", x.key)
			}
		case errors.Is(x.err, ErrUnknown):
			unknown++
		default:
			not++
			if there {
				t.Errorf("%s: %v, and it is there", x.key, x.err)
			}
		}
	}
	t.Logf("%d done, %d not, %d unknown", done, not, unknown)
}

// A caller leaves while his changes are being published, and just then the
// name turns out to be taken, so that the group is run again without him. The
// race detector watches over what the two sides tell each other.
func TestLeaveWhileTaken(t *testing.T) {
	for range effort(t, 50) {
		m := newMachine(faultfs.NewDisk(), 1)
		m.lock = nil // so that another writer can take the name
		b := mustOpen(t, simDir, nil, m.system(plain(m.disk)))
		at := stopAt(faultfs.OpRename, 2)
		s := mustOpen(t, simDir, nil, m.system(&faultfs.Hooked{FS: m.disk, Before: at.before}))
		ctx, cancel := context.WithCancel(context.Background())
		left := make(chan error, 1)
		go func() {
			_, err := s.Put(ctx, "left", 1)
			left <- err
		}()
		<-at.reached
		mustUpdate(t, b, "b/0") // takes sequence 2
		go cancel()
		close(at.goOn)
		err := <-left
		if e := s.Close(); e != nil {
			t.Fatal(e)
		}
		_, there := b.Get(context.Background(), "left")
		switch {
		case err == nil && there != nil:
			t.Errorf("acknowledged and lost: %v", there)
		case err != nil && !errors.Is(err, ErrUnknown) && there == nil:
			t.Errorf("%v, and it is there", err)
		}
		b.Close()
	}
}

// Where others compute, to let them run costs a time slice. A leader does so once
// in a while, not fifty times for each group.
func TestGatherInBusyProcess(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var stop atomic.Bool
	var spinning sync.WaitGroup
	for range 4 {
		spinning.Go(func() {
			for !stop.Load() {
			}
		})
	}
	defer spinning.Wait()
	defer stop.Store(true)
	q := new(queue)
	q.crowd.Store(true)
	began := time.Now()
	for range 4 {
		q.gather()
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("four groups were gathered in %v, want a time slice or two", took)
	}
}
