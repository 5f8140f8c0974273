//go:build unix

package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Locks that are sockets: who listens at an address has the lock. The kernel lets one
// at a time do so, and stops it when the process ends. unixsocket.go and tcp.go
// say what the addresses are.
//
// To wait, connect to the holder's socket, and read. He neither accepts nor answers,
// so nothing happens until he closes the socket or dies; then the kernel resets the
// connections, all of them, and whoever is the first to listen has the lock. There is
// no queue and no order, each release wakes all who wait, and who releases the lock
// and takes it again at once passes them all. A wait is not a blocked thread, and ends
// when it is to.
//
// It is looked at again, at growing intervals of at most maxPause, while the address
// is taken and there is nobody to wait for: somebody has been stopped between bind and
// listen, a stranger has bound the address and does not listen, or closes connections
// at once, or the backlog is full.
//
// The backlog has room for some thousands, and those who have given up stay in it. So
// who has the lock for long empties it from time to time; those who still wait then
// connect again.
//
// A descriptor is inherited by no program that this process starts. But between fork
// and exec the child has it, and if the lock is released just then, it is free only
// when the child has come to exec.

const (
	maxPause    = 20 * time.Millisecond
	drainPeriod = 10 * time.Second
	drainBatch  = 64
)

// An endpoint is the address, and how to listen there and connect to it.
type endpoint interface {
	// listen returns errBusy if the address is taken.
	listen() (net.Listener, error)

	// dial connects to who listens. It ends with ctx, if it can take time.
	dial(ctx context.Context) (net.Conn, error)

	// owner tells which process listens, or 0 if the system does not tell. It is told
	// which probably does.
	owner(c net.Conn, hint int) (pid int)
}

type socketLock struct {
	h   *handle
	at  endpoint
	pid int // that probe has found

	ctx    context.Context // of await, from enter on; ended by leave
	cancel context.CancelFunc

	mu    sync.Mutex // protects what follows from drain
	l     net.Listener
	timer *time.Timer
}

// attempt listens. Nobody can be seen to wait: who does has no place in a queue.
func (s *socketLock) attempt(shared bool) error {
	if shared {
		return fmt.Errorf("%w: %v locks cannot be shared", errors.ErrUnsupported, s.h.mechanism)
	}
	l, err := s.at.listen()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.l = l
	s.timer = time.AfterFunc(drainPeriod, s.drain)
	return nil
}

func (s *socketLock) enter(shared bool) error {
	s.end()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s.attempt(shared)
}

func (s *socketLock) await(shared bool) error {
	pause := pauser{}
	for {
		if s.ctx.Err() != nil {
			return errBusy
		}
		if err := s.attempt(shared); err != errBusy {
			return err
		}
		c, err := s.at.dial(s.ctx)
		switch {
		case err == nil:
			began := time.Now()
			untilClosed(s.ctx, c)
			pause.waited(time.Since(began))
		case s.ctx.Err() != nil, absent(err), full(err):
		default:
			return err
		}
		pause.pause(s.ctx, err == nil)
	}
}

// untilClosed waits until the other end closes the connection, or ctx ends.
func untilClosed(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	_, _ = io.Copy(io.Discard, c)
	stop()
	c.Close()
}

// A pauser makes pauses between attempts that follow each other closely.
type pauser struct{ tries int }

func (p *pauser) waited(d time.Duration) {
	if d > time.Millisecond {
		p.tries = 0
	}
}

// pause is short after somebody has been waited for, since then the lock changes hands
// often, and longer if there was nobody.
func (p *pauser) pause(ctx context.Context, short bool) {
	p.tries++
	if p.tries < 4 {
		return
	}
	d := min(20*time.Microsecond<<min(p.tries-4, 16), maxPause)
	if short {
		d = min(d, time.Millisecond)
	}
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// absent reports whether a connection failed because nobody listens, or stopped just
// then.
func absent(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) ||
		errors.Is(err, unix.ECONNABORTED) || errors.Is(err, fs.ErrNotExist)
}

// full reports whether it failed though somebody listens, because too many wait: TCP
// then takes its time, and Unix-domain sockets return EAGAIN, which is Timeout too.
func full(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func (s *socketLock) leave() { s.cancel() }

func (s *socketLock) rejoin() {} // too late

func (s *socketLock) join() error       { return nil } // not called, there being nothing to share
func (s *socketLock) settle(bool) error { return nil }

func (s *socketLock) unlock() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.l == nil {
		return nil
	}
	s.timer.Stop()
	l := s.l
	s.l = nil
	return l.Close()
}

func (s *socketLock) close() error {
	s.end()
	return s.unlock()
}

// end frees what enter has made.
func (s *socketLock) end() {
	if s.cancel != nil {
		s.cancel()
	}
}

// drain closes the connections in the backlog.
func (s *socketLock) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.l == nil {
		return
	}
	defer s.timer.Reset(drainPeriod)
	c, err := s.l.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) {
		// Those who are closed and still wait come back at once, behind the others.
		for n := drainBatch; n == drainBatch; {
			n = closeSome(int(fd))
		}
	})
}

// closeSome accepts and closes connections, and returns how many.
func closeSome(l int) int {
	var fds []int
	for len(fds) < drainBatch {
		syscall.ForkLock.RLock()
		fd, _, err := unix.Accept(l)
		if err == nil {
			unix.CloseOnExec(fd)
		}
		syscall.ForkLock.RUnlock()
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			break // most probably there is none
		}
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		// With a reset, after which nothing remains of a TCP connection.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_ = unix.Close(fd)
	}
	return len(fds)
}

// probeTimes bound how long one waits for a connection, which is made at once unless
// the backlog is full; or we were not let run for so long, and have not really tried.
var probeTimes = []time.Duration{5 * time.Millisecond, 50 * time.Millisecond}

// probeDial connects for as long as it takes to see whether somebody listens.
func (s *socketLock) probeDial() (c net.Conn, err error) {
	for _, limit := range probeTimes {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		c, err = s.at.dial(ctx)
		cancel()
		if err == nil || !full(err) {
			break
		}
	}
	return c, err
}

// probe connects. Who listens and does not have the lock file open is not one of us,
// where that can be told.
func (s *socketLock) probe() (State, error) {
	s.pid = 0
	c, err := s.probeDial()
	switch {
	case err == nil:
		defer c.Close()
	case absent(err):
		return Free, nil
	case full(err):
		return Exclusive, nil
	default:
		return Unseen, err
	}
	var b [holderSize]byte
	_, _ = s.h.readAt(b[:], holderOffset)
	recorded, _ := decodeHolder(b[:])
	s.pid = s.at.owner(c, recorded.PID)
	if s.pid != 0 && s.pid != recorded.PID && s.pid != os.Getpid() && hasNotOpen(s.pid, s.h) {
		return Foreign, nil
	}
	return Exclusive, nil
}

func (s *socketLock) peer() int { return s.pid }
