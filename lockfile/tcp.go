//go:build unix

package lockfile

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Locks with a TCP port of 127.0.0.1, for the processes of one machine; socket.go has
// what they have in common with Unix-domain sockets.
//
// The port is chosen by the user (Options.Port), and recorded in the lock file: who
// comes with another is refused. What has to be known:
//
//   - The port belongs to a network namespace. Processes in containers that share the
//     lock file and not the network do not exclude each other.
//   - There are no permissions. Any program may listen at the port, and while it does
//     nobody gets the lock.
//   - Two lock files with one port are one lock, which LockAll and ErrNested take for two.
//   - The port should not be among those that the system gives to connections (Linux:
//     /proc/sys/net/ipv4/ip_local_port_range, 32768 to 60999 as a rule). While one has
//     it, for whatever program, the lock cannot be taken, and nobody is named.
//   - What holds on one machine does not hold on another that has the file mounted.
//
// Go sets SO_REUSEADDR, so that the remains of closed connections are not in the way;
// it does not let two listen. Our own connections leave no such remains, since all of
// them end with a reset.

func init() {
	mechanisms[TCP] = func(h *handle) locker { return &socketLock{h: h, at: tcpPort{h}} }
}

// Where the header has the port: it is followed by its complement, since the checksum
// does not cover it.
const portOffset = 16

func putPort(header []byte, port int) {
	le.PutUint16(header[portOffset:], uint16(port))
	le.PutUint16(header[portOffset+2:], ^uint16(port))
}

// headerPort returns the port that the contents of a lock file record, or 0.
func headerPort(b []byte) int {
	if len(b) < portOffset+4 {
		return 0
	}
	port := le.Uint16(b[portOffset:])
	if le.Uint16(b[portOffset+2:]) != ^port {
		return 0
	}
	return int(port)
}

// portDamaged reports whether a header has neither a port nor the zeros of one that was
// cut off. Who took the one for the other would lock another port than the others do.
func portDamaged(header []byte) bool {
	return headerPort(header) == 0 && le.Uint32(header[portOffset:]) != 0
}

// checkPort says whether the options have the port that they need.
func (o *Options) checkPort() error {
	switch {
	case o.Port < 0 || o.Port > math.MaxUint16:
		return fmt.Errorf("there is no port %d; they go from 1 to %d", o.Port, math.MaxUint16)
	case o.Mechanism == TCP && o.Port == 0:
		return fmt.Errorf("%v locks need a port, from 1 to %d", TCP, math.MaxUint16)
	}
	return nil
}

// usePort says whether h can be used with the port that the file records.
func (h *handle) usePort() error {
	switch {
	case h.port == 0:
		return fmt.Errorf("%w: it is used with %v locks, and does not say on which port", ErrIncompatible, TCP)
	case h.opts.Port != 0 && h.opts.Port != h.port:
		return fmt.Errorf("%w: it is used with port %d, not port %d", ErrIncompatible, h.port, h.opts.Port)
	}
	return nil
}

// lacksPort reports whether the file, used with m, was cut off after the part of the
// header that has a checksum, and we know what is to follow. If it is damaged there,
// check has said so.
func (h *handle) lacksPort(m Mechanism) bool {
	return m == TCP && h.port == 0 && h.opts.Mechanism == TCP
}

// header returns the header that goes with h.
func (h *handle) header() []byte {
	b := encodeHeader(h.mechanism)
	if h.mechanism == TCP {
		putPort(b, h.port)
	}
	return b
}

type tcpPort struct{ h *handle }

func (t tcpPort) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(t.h.port)) }

func (t tcpPort) listen() (net.Listener, error) {
	c := net.ListenConfig{KeepAlive: -1}
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp4", t.address())
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, errBusy
	}
	return l, err
}

// dialTime bounds how long a connection may take to be made. That it takes any time
// means that the backlog is full.
const dialTime = 200 * time.Millisecond

func (t tcpPort) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{
		Timeout:         dialTime,
		LocalAddr:       dialFrom,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3},
	}
	c, err := d.DialContext(ctx, "tcp4", t.address())
	if err != nil {
		return nil, err
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	if c.LocalAddr().String() == c.RemoteAddr().String() {
		// With itself, from the port that it was to connect to: nobody listens.
		c.Close()
		return nil, unix.ECONNREFUSED
	}
	// The other end may have gone while the connection was being made, or have had no
	// room for it, without a trace. What is sent to it then is answered with a reset.
	if _, err := c.Write([]byte("\n")); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (t tcpPort) owner(_ net.Conn, hint int) int { return portOwner(t.h.port, hint) }
