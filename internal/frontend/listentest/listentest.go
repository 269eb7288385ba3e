// Package listentest has listeners for tests of servers.
package listentest

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
)

// Local listens on a port of this machine until the test ends.
func Local(t testing.TB) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // a server may have closed it
	return l
}

// Pipes is a listener in memory, for a bubble's fake time. Its connections hold nothing: what is written waits for who reads.
type Pipes struct {
	addr   address
	conns  chan net.Conn
	errors chan error
	closed chan struct{}
	once   sync.Once
}

// NewPipes listens at an address, which is only a name.
func NewPipes(addr string) *Pipes {
	return &Pipes{addr: address(addr), conns: make(chan net.Conn), errors: make(chan error, 1), closed: make(chan struct{})}
}

// Dial connects from an address. It returns ECONNREFUSED, as a machine does, when nobody listens any more, and ctx's error.
func (p *Pipes) Dial(ctx context.Context, from string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- conn{there, address(from)}:
		return here, nil
	case <-p.closed:
		return nil, Refused(p.addr.String())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Refused is the error of dialling an address where nobody listens.
func Refused(addr string) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: address(addr), Err: syscall.ECONNREFUSED}
}

// Fail has Accept return an error once.
func (p *Pipes) Fail(err error) { p.errors <- err }

// Accept implements net.Listener.
func (p *Pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.errors:
		return nil, err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *Pipes) Close() error { p.once.Do(func() { close(p.closed) }); return nil }

// Addr implements net.Listener.
func (p *Pipes) Addr() net.Addr { return p.addr }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// conn knows from where it comes.
type conn struct {
	net.Conn
	from address
}

func (c conn) RemoteAddr() net.Addr { return c.from }
