package loadbalancer

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

// dialTimeout bounds the try of one node; the next one is tried after it.
const dialTimeout = 2 * time.Second

// tries is how often each node is tried. A node chooses a pod by chance, and one that died a moment ago refuses.
const tries = 3

// forwarder listens at one address and connects each client to one of the targets, in turn.
type forwarder struct {
	listener net.Listener
	targets  atomic.Pointer[func() []string]
	turn     atomic.Uint32

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

func listen(address netip.AddrPort, targets func() []string) (*forwarder, error) {
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return nil, fmt.Errorf("listen for a LoadBalancer service: %w", err)
	}
	f := &forwarder{listener: listener, open: map[net.Conn]struct{}{}}
	f.setTargets(targets)
	go f.accept()
	return f, nil
}

func (f *forwarder) setTargets(targets func() []string) { f.targets.Store(&targets) }

func (f *forwarder) accept() {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return // closed
		}
		go f.serve(client)
	}
}

func (f *forwarder) serve(client net.Conn) {
	defer client.Close()
	server, err := f.dial()
	if err != nil {
		klog.ErrorS(err, "No node takes a connection", "address", f.listener.Addr())
		return
	}
	defer server.Close()
	if !f.track(client, server) {
		return
	}
	defer f.untrack(client, server)
	var both sync.WaitGroup
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
}

func (f *forwarder) dial() (net.Conn, error) {
	targets := (*f.targets.Load())()
	err := fmt.Errorf("no node is ready")
	for range tries * len(targets) {
		target := targets[int(f.turn.Add(1))%len(targets)]
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", target, dialTimeout); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// pipe copies until one side ends and passes that end on, so that half-closed
// connections work.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from) // a broken connection ends both directions
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

func (f *forwarder) track(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		f.open[c] = struct{}{}
	}
	return !f.closed
}

func (f *forwarder) untrack(conns ...net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		delete(f.open, c)
	}
}

// close ends the listener and every connection.
func (f *forwarder) close() {
	f.listener.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for c := range f.open {
		c.Close()
	}
}
