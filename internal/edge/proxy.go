package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const dialTimeout = 30 * time.Second

// errLoop says that a CONNECT target is the proxy itself under a name it does not know.
var errLoop = errors.New("the target is this proxy itself")

// servePlain answers requests that came in without TLS: the proxy's, the certificate's, and
// a hint for those who forgot the s of https.
func (e *Edge) servePlain(w http.ResponseWriter, r *http.Request) {
	name, _ := splitHost(r.Host)
	switch {
	case r.Method == http.MethodConnect:
		e.connect(w, r)
	case r.URL.IsAbs():
		http.Error(w, "This proxy is for HTTPS only: set HTTPS_PROXY, not HTTP_PROXY.", http.StatusBadRequest)
	case r.URL.Path == "/"+caFile:
		e.serveCA(w, r)
	case slices.Contains(e.hosts, name):
		http.Redirect(w, r, "https://"+r.Host+r.URL.RequestURI(), http.StatusPermanentRedirect)
	default:
		http.Error(w, "Use https:// with this address.", http.StatusBadRequest)
	}
}

// serveCA hands out the certificate to trust. It is public.
func (e *Edge) serveCA(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(e.authority.pem) // the client is gone; nobody is left to tell
}

// connect is the intercepting proxy. Connections to names of this installation end here;
// all others are tunnelled as they are.
func (e *Edge) connect(w http.ResponseWriter, r *http.Request) {
	if remote, err := netip.ParseAddrPort(r.RemoteAddr); !e.anywhere && (err != nil || !remote.Addr().Unmap().IsLoopback()) {
		http.Error(w, "This proxy is for clients on the same machine.", http.StatusForbidden)
		return
	}
	name, port := splitHost(r.Host)
	if name == "" || port == "" {
		http.Error(w, "A CONNECT target is a host and a port.", http.StatusBadRequest)
		return
	}
	if e.intercepts(name, port) {
		if conn, err := hijack(w); err == nil {
			e.secure.put(conn)
		}
		return
	}
	target, err := e.dial(r.Context(), net.JoinHostPort(name, port))
	switch {
	case errors.Is(err, errLoop):
		http.Error(w, fmt.Sprintf("Refused: %s is this proxy itself. Its own names are %v.", r.Host, e.hosts), http.StatusForbidden)
		return
	case err != nil:
		e.log.Debug("tunnel failed", "target", r.Host, "error", err)
		http.Error(w, fmt.Sprintf("Cannot connect to %s: %v", r.Host, err), http.StatusBadGateway)
		return
	}
	e.tunnels.Add(1)
	defer e.tunnels.Done()
	client, err := hijack(w)
	if err != nil {
		target.Close()
		return
	}
	tunnel(r.Context(), client, target)
}

// intercepts says whether a CONNECT target is ours to answer for.
func (e *Edge) intercepts(name, port string) bool {
	if slices.Contains(e.hosts, name) {
		return port == strconv.Itoa(e.addr.Port)
	}
	return port == "443" && e.route(name) != nil
}

// dial connects to a tunnel's target, unless that is the proxy.
func (e *Edge) dial(ctx context.Context, target string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		// Here the name has been resolved, so no second look-up can lead elsewhere.
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if int(to.Port()) == e.addr.Port && e.listensOn(to.Addr().Unmap()) {
			return errLoop
		}
		return nil
	}}
	return d.DialContext(ctx, "tcp", target)
}

// listensOn says whether a connection to ip, at our port, would come back to us.
func (e *Edge) listensOn(ip netip.Addr) bool {
	if e.addr.IP == nil || e.addr.IP.IsUnspecified() {
		if ip.IsLoopback() || ip.IsUnspecified() {
			return true
		}
		local, err := net.InterfaceAddrs()
		return err != nil || slices.ContainsFunc(local, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.Equal(ip.AsSlice())
		})
	}
	// Linux takes a connection to 0.0.0.0 for one to this machine.
	return ip.IsUnspecified() || e.addr.IP.Equal(ip.AsSlice())
}

// hijack takes the connection over and tells the client that it is through.
func hijack(w http.ResponseWriter) (net.Conn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		conn.Close()
		return nil, err
	}
	// The client may have sent its first bytes already.
	return &peekedConn{Conn: conn, r: bufio.NewReader(io.MultiReader(io.LimitReader(buffered.Reader, int64(buffered.Reader.Buffered())), conn))}, nil
}

// tunnel copies both ways until both have ended or stop is done.
func tunnel(ctx context.Context, a, b net.Conn) {
	closed := context.AfterFunc(ctx, func() {
		a.Close()
		b.Close()
	})
	defer closed()
	defer a.Close()
	defer b.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pump(a, b)
	}()
	pump(b, a)
	<-done
}

// pump copies one way and passes its end on. The other way may go on.
func pump(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close() // a broken half breaks the other, too
		from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the other side is gone; the other pump notices
	}
}
