//go:build unix

package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Locks with Unix-domain sockets, for the processes of one machine; socket.go has what
// they have in common with TCP.
//
// On Linux the socket has an abstract name, made of the device and inode of the lock
// file. That is no file, and goes with the socket. What has to be known:
//
//   - Abstract names belong to a network namespace. Processes in containers that share
//     the lock file and not the network do not exclude each other.
//   - They have no permissions. Whoever is in the namespace can take the name, whether
//     he may open the lock file or not, and keep all others out.
//   - All must see the file as the same device and inode: not so if one of them comes
//     by way of another mount of a network file system.
//   - What holds on one machine does not hold on another that has the file mounted.
//
// Elsewhere the socket is a file beside the lock file, of its name and inode number
// with ".sock" at the end. The kernel does not remove it when its owner dies, nor do
// we when we release the lock: whoever takes the lock next removes it, having found
// that nobody listens. Nobody must be about to listen there meanwhile, so all do this
// under a guard, flock(2) on the lock file, which is held for as long as it takes to
// look, remove, bind and listen; a process that dies meanwhile releases it. The inode
// is in the name for the sake of those who lock a file that has been replaced, and are
// not excluded by the guard of the new one. If somebody removes the socket while the
// lock is held, there are two holders, as there are when the lock file is removed.
// The directory must be one that all who use the lock may write to, without the sticky
// bit, or all must be one user. The path may have some 100 bytes.

func init() { mechanisms[Unix] = newUnixLock }

// forceSocketFile makes a test use on Linux what other systems use.
var forceSocketFile bool

func newUnixLock(h *handle) locker {
	if abstractNames && !forceSocketFile {
		return &socketLock{h: h, at: abstractSocket{h}}
	}
	return &socketLock{h: h, at: socketFile{h}}
}

func unixListen(name string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, errBusy
	}
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// unixDial has no use for a context: such a connection is made or refused at once. And
// a time limit that ends before it is tried would look as if there were no room.
func unixDial(name string) (net.Conn, error) { return net.Dial("unix", name) }

// unixOwner asks the connection who has called listen at its other end. The kernel
// noted it then.
func unixOwner(c net.Conn) (pid int) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { pid = peerPID(int(fd)) })
	return max(pid, 0)
}

// An abstractSocket has a name that is no file.
type abstractSocket struct{ h *handle }

func (a abstractSocket) name() string {
	return fmt.Sprintf("@recordstore/lock/%x:%x", a.h.dev, a.h.ino) // @ stands for zero
}

func (a abstractSocket) listen() (net.Listener, error) {
	l, err := unixListen(a.name())
	if err != nil {
		return nil, err // not a nil pointer
	}
	return l, nil
}

func (a abstractSocket) dial(context.Context) (net.Conn, error) { return unixDial(a.name()) }

func (a abstractSocket) owner(c net.Conn, _ int) int { return unixOwner(c) }

// A socketFile is beside the lock file.
type socketFile struct{ h *handle }

const socketSuffix = ".sock"

func (s socketFile) name() string { return fmt.Sprintf("%s.%x%s", s.h.path, s.h.ino, socketSuffix) }

// listen does not wait for the guard, but says then that the lock is taken, which
// mostly it will be.
func (s socketFile) listen() (net.Listener, error) {
	name := s.name()
	if limit := len(unix.RawSockaddrUnix{}.Path) - 1; len(name) > limit {
		return nil, fmt.Errorf("the path of the socket, %s, has %d bytes, and can have %d: %w", name, len(name), limit, unix.ENAMETOOLONG)
	}
	if err := flock(s.h.fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, err
	}
	l, err := s.listenGuarded(name)
	if unlockErr := flock(s.h.fd, unix.LOCK_UN); err == nil && unlockErr != nil {
		l.Close()
		err = unlockErr
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (s socketFile) listenGuarded(name string) (*net.UnixListener, error) {
	l, err := unixListen(name)
	if err == errBusy {
		if err := s.removeDead(name); err != nil {
			return nil, err
		}
		l, err = unixListen(name)
	}
	if err != nil {
		return nil, err
	}
	if err := s.permit(name); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// removeDead removes the socket if nobody listens to it, and otherwise returns
// errBusy.
func (s socketFile) removeDead(name string) error {
	fi, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: %s is not a socket", ErrNotLockFile, name)
	}
	c, err := unixDial(name)
	switch {
	case err == nil:
		c.Close()
		return errBusy
	case errors.Is(err, unix.ECONNREFUSED): // nor is anyone about to listen, by the guard
		return os.Remove(name)
	case absent(err), full(err):
		return errBusy
	}
	return err
}

// permit lets those connect, and so wait, who may open the lock file.
func (s socketFile) permit(name string) error {
	st, err := fstat(s.h.fd)
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 || int(st.Gid) != os.Getegid() {
		_ = os.Lchown(name, -1, int(st.Gid)) // else those of that group look again and again
	}
	return os.Chmod(name, fs.FileMode(st.Mode)&0o777)
}

// dial takes into account that another user's socket is new, and permit comes next.
func (s socketFile) dial(context.Context) (net.Conn, error) {
	for try := 0; ; try++ {
		c, err := unixDial(s.name())
		if !errors.Is(err, fs.ErrPermission) || try == 10 {
			return c, err
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func (s socketFile) owner(c net.Conn, _ int) int { return unixOwner(c) }
