package http1

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watch notices who closes a connection that nobody reads from. net/http has a goroutine read from each such connection; here one waits
// for all of them, and the kernel says which.
type watch struct {
	mu   sync.Mutex
	file *os.File // an epoll instance, nil before the first connection
	fd   int      // its descriptor; File.Fd would make it one that blocks
	last uint64
	gone map[uint64]func() // by the number that the kernel knows a connection by; those of sockets are used again
}

// add has gone called, once or more, when the other side closes its direction of a connection. forget comes before the connection is closed.
// Connections that are no sockets are not watched.
func (w *watch) add(c net.Conn, gone func()) (forget func(), err error) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return func() {}, nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		if err := w.open(); err != nil {
			return nil, fmt.Errorf("watching connections: %w", err)
		}
	}
	w.last++
	id := w.last
	w.gone[id] = gone
	forget = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.gone, id)
	}
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(uint32(id)), Pad: int32(id >> 32)} //nolint:gosec // halves of the number
	if ctlErr := raw.Control(func(fd uintptr) { err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, int(fd), &event) }); ctlErr != nil {
		err = ctlErr
	}
	if err != nil {
		delete(w.gone, id)
		return nil, fmt.Errorf("watching a connection: %w", err)
	}
	return forget, nil
}

// open makes the epoll instance, for which Go's own waits: it is readable when there is news. w.mu is held.
func (w *watch) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	w.file, w.fd, w.gone = os.NewFile(uintptr(fd), "epoll"), fd, map[uint64]func(){}
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	go func() {
		events := make([]unix.EpollEvent, 64)
		_ = raw.Read(func(fd uintptr) bool { // until the file is closed
			for {
				n, err := unix.EpollWait(int(fd), events, 0)
				if n <= 0 && err != unix.EINTR { //nolint:errorlint // EpollWait wraps nothing
					return false
				}
				for _, e := range events[:max(n, 0)] {
					w.tell(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32) //nolint:gosec // as they were put in
				}
			}
		})
	}()
	return nil
}

func (w *watch) tell(id uint64) {
	w.mu.Lock()
	gone := w.gone[id]
	w.mu.Unlock()
	if gone != nil {
		gone()
	}
}

// close ends the watch.
func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil {
		_ = w.file.Close() // nothing was written
		w.file = nil
	}
}
