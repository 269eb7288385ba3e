package main

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// conn is a connection of the load's, or a pod's, that has the kernel throw away most of a large body, as nobody looks at one: copying
// bodies took these more than half of a processor long before what is measured had used its own.
type conn struct {
	*net.TCPConn
	raw syscall.RawConn
}

func newConn(c net.Conn) (net.Conn, error) {
	tcp := c.(*net.TCPConn)
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &conn{tcp, raw}, nil
}

// Read implements net.Conn. It leaves p as it is when that is too long for anything but a body.
func (c *conn) Read(p []byte) (n int, err error) {
	const body = 64 << 10 // fasthttp reads headers 4 KB at a time
	if len(p) < body {
		return c.TCPConn.Read(p)
	}
	closed := c.raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_TRUNC) // see tcp(7)
		return err != unix.EAGAIN
	})
	switch {
	case closed != nil:
		return 0, closed
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
