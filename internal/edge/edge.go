package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// firstByteTimeout is how long a client may be silent after it connected.
	firstByteTimeout  = 10 * time.Second
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// maxHeader bounds a request's header. Tokens have about 1.2 kB, hostile resource IDs more.
	maxHeader = 64 << 10
	// shutdownTimeout is what requests under way get to finish.
	shutdownTimeout = 10 * time.Second
)

// Config is what an Edge needs.
type Config struct {
	// Listener takes the connections. Run closes it.
	Listener net.Listener
	// Dir holds the certificate authority: ca.pem and ca-key.pem.
	Dir string
	// Hosts are further names or addresses of the installation itself, without a port,
	// besides localhost, 127.0.0.1 and ::1.
	Hosts    []string
	Backends Backends
	// Routes are further names to answer for, such as those of storage accounts.
	Routes []Route
	// Paths are further first path segments (in lower case) at the installation's own address.
	Paths map[string]http.Handler
	// ProxyFromAnywhere lets clients on other machines use the proxy, not only those on loopback.
	ProxyFromAnywhere bool
	Clock             func() time.Time // nil means time.Now
	Logger            *slog.Logger     // nil means slog.Default()
}

// Edge is the front door of an installation.
type Edge struct {
	listener  net.Listener
	addr      *net.TCPAddr
	authority *Authority
	hosts     []string // the installation's own, the certificate's subject first
	routes    []Route
	paths     map[string]http.Handler
	anywhere  bool
	log       *slog.Logger

	secure, plain *queue // connections by their first byte
	tunnels       sync.WaitGroup
}

var loopbackHosts = []string{"localhost", "127.0.0.1", "::1"}

// OwnURLs lists the addresses at which an installation that listens on addr is reached,
// the one for people first. hosts are those of Config.
func OwnURLs(addr net.Addr, hosts []string) []string {
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return nil
	}
	var urls []string
	for _, host := range slices.Concat(hosts, loopbackHosts) {
		urls = append(urls, "https://"+joinHost(host, port))
	}
	return urls
}

// New returns an Edge that is ready to Run. It makes the certificate authority if there is none.
func New(c Config) (*Edge, error) {
	addr, ok := c.Listener.Addr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("edge: cannot serve on %s: it is not TCP", c.Listener.Addr())
	}
	e := &Edge{
		listener: c.Listener, addr: addr, anywhere: c.ProxyFromAnywhere, log: c.Logger,
		routes: slices.Concat(azureRoutes(c.Backends), c.Routes),
		secure: newQueue(c.Listener.Addr()), plain: newQueue(c.Listener.Addr()),
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	now := c.Clock
	if now == nil {
		now = time.Now
	}
	var names []string
	for _, r := range e.routes {
		if !patternForm.MatchString(r.Pattern) {
			return nil, fmt.Errorf("edge: %q is not a host name in lower case, nor *. and a domain", r.Pattern)
		}
		names = append(names, strings.TrimPrefix(r.Pattern, "*."))
	}
	var ips []net.IP
	for _, host := range slices.Concat(loopbackHosts, c.Hosts) {
		name, _ := splitHost(host)
		e.hosts = append(e.hosts, name)
		if ip := net.ParseIP(name); ip == nil {
			names = append(names, name)
		} else if v4 := ip.To4(); v4 != nil {
			ips = append(ips, v4)
		} else {
			ips = append(ips, ip)
		}
	}
	slices.Sort(names)
	var err error
	if e.authority, err = OpenAuthority(c.Dir, slices.Compact(names), ips, now); err != nil {
		return nil, err
	}
	if e.paths, err = e.ownPaths(c.Backends, c.Paths); err != nil {
		return nil, err
	}
	return e, nil
}

// CA is the certificate that clients have to trust, as PEM.
func (e *Edge) CA() []byte { return e.authority.PEM() }

// Run serves until ctx is done, then lets requests under way finish. It returns nil after
// such an end, and the reason when it cannot serve. It can be called once.
func (e *Edge) Run(ctx context.Context) error {
	// Tunnels outlive ctx until the requests under way have finished.
	tunnels, stopTunnels := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTunnels()

	errorLog := slog.NewLogLogger(e.log.Handler(), slog.LevelDebug)
	secure := &http.Server{
		Handler: e, ErrorLog: errorLog, MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: e.certificate},
	}
	plain := &http.Server{
		Handler: http.HandlerFunc(e.servePlain), ErrorLog: errorLog, MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context { return tunnels },
	}
	ended := make(chan error, 3)
	go func() { ended <- e.accept(ctx) }()
	go func() { ended <- secure.ServeTLS(e.secure, "", "") }()
	go func() { ended <- plain.Serve(e.plain) }()

	var err error
	running := 3
	select {
	case <-ctx.Done():
	case err = <-ended: // none of them ends by itself
		running--
		if err == nil {
			err = errors.New("edge: the listener was closed")
		}
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	_ = e.listener.Close()
	for _, s := range []*http.Server{plain, secure} {
		if s.Shutdown(grace) != nil {
			_ = s.Close() // cuts off what did not finish in time
		}
	}
	stopTunnels()
	e.tunnels.Wait()
	for range running {
		<-ended
	}
	return err
}

// certificate picks the certificate for a TLS handshake.
func (e *Edge) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name, _ := splitHost(hello.ServerName)
	if name == "" || slices.Contains(e.hosts, name) { // clients send no name with an IP address
		return e.authority.certificate(e.hosts...)
	}
	if e.route(name) == nil {
		return nil, fmt.Errorf("not a name of this installation: %q", name)
	}
	return e.authority.certificate(name)
}

// accept sorts connections by their first byte until the listener is closed.
func (e *Edge) accept(ctx context.Context) error {
	var sorting sync.WaitGroup
	defer func() {
		sorting.Wait()
		e.secure.Close()
		e.plain.Close()
	}()
	for pause := time.Duration(0); ; {
		conn, err := e.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			// Out of file descriptors, most likely: wait for some to be closed.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			e.log.Warn("a connection could not be accepted", "error", err, "retry_in", pause)
			time.Sleep(pause)
			continue
		}
		pause = 0
		sorting.Go(func() { e.sort(ctx, conn) })
	}
}

// tlsRecord is the first byte of a TLS handshake; no HTTP method begins with it.
const tlsRecord = 0x16

func (e *Edge) sort(ctx context.Context, conn net.Conn) {
	// A client that is silent must not hold up the end.
	sorted := context.AfterFunc(ctx, func() { conn.Close() })
	defer sorted()
	p := &peekedConn{Conn: conn, r: bufio.NewReaderSize(conn, 512)}
	_ = conn.SetReadDeadline(time.Now().Add(firstByteTimeout))
	first, err := p.r.Peek(1)
	if err != nil {
		conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if first[0] == tlsRecord {
		e.secure.put(p)
	} else {
		e.plain.put(p)
	}
}

// peekedConn is a connection whose first bytes were read ahead.
type peekedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *peekedConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// CloseWrite passes the end of one direction on, where the connection can.
func (c *peekedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// queue is a net.Listener whose connections are put into it.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (q *queue) put(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.done:
		c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }
