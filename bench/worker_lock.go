package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The files of the directory where locks are measured.
const (
	lockName    = "LOCK"
	counterName = "counter"
)

// holdTime is how long a lock is held.
const holdTime = time.Millisecond

// hold takes the lock again and again, and counts up while it holds it.
func (w *worker) hold() (res result, err error) {
	k, err := w.lock.open(filepath.Join(w.Dir, lockName))
	if err != nil {
		return res, err
	}
	defer k.Close()
	counter, err := os.OpenFile(filepath.Join(w.Dir, counterName), os.O_RDWR, 0)
	if err != nil {
		return res, err
	}
	defer counter.Close()
	if err := w.ready(); err != nil {
		return res, err
	}
	start := time.Now()
	for began := time.Duration(0); began < w.Length; began = time.Since(start) {
		if err := k.Lock(); err != nil {
			return res, err
		}
		got := time.Since(start)
		if err := errors.Join(countUp(counter), k.Unlock()); err != nil {
			return res, err
		}
		res.Done++
		if got <= w.Length {
			res.InTime++
		}
		res.Took = append(res.Took, got-began)
	}
	res.Elapsed = time.Since(start)
	return res, nil
}

// countUp reads a number, and writes the next one holdTime later. If two do so at
// once, one of them is not counted.
func countUp(f *os.File) error {
	n, err := readCounter(f)
	if err == nil {
		err = sleep(holdTime)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.LittleEndian.AppendUint64(nil, n+1), 0)
	return err
}

func readCounter(f *os.File) (uint64, error) {
	var b [8]byte
	_, err := f.ReadAt(b[:], 0)
	return binary.LittleEndian.Uint64(b[:]), err
}

// sleep is as exact as the kernel. Go's timers round up to milliseconds.
func sleep(d time.Duration) error {
	t := unix.NsecToTimespec(d.Nanoseconds())
	for {
		// Go's signals interrupt it.
		if err := unix.Nanosleep(&t, &t); err != unix.EINTR {
			return err
		}
	}
}

// freeBatch is how often a free lock is taken between two looks at the clock.
const freeBatch = 100

// takeFree takes a lock that nobody else wants, and opens it each time if Reopen
// is set. What it took is of each batch, by the number in it.
func (w *worker) takeFree() (res result, err error) {
	path := filepath.Join(w.Dir, lockName)
	k, err := w.lock.open(path)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	one := func(k locker) error {
		if err := k.Lock(); err != nil {
			return err
		}
		return k.Unlock()
	}
	again := func() error { return one(k) }
	if w.Reopen {
		again = func() error {
			k, err := w.lock.open(path)
			if err != nil {
				return err
			}
			return errors.Join(one(k), k.Close())
		}
	}
	if err := again(); err != nil {
		return res, fmt.Errorf("the first time: %w", err)
	}
	if err := w.ready(); err != nil {
		return res, err
	}
	start := time.Now()
	for began := time.Duration(0); began < w.Length; {
		for range freeBatch {
			if err := again(); err != nil {
				return res, err
			}
			res.Done++
		}
		ended := time.Since(start)
		res.Took = append(res.Took, (ended-began)/freeBatch)
		began = ended
	}
	res.Elapsed = time.Since(start)
	return res, nil
}
