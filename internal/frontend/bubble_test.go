package frontend

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/frontend/http1"
	"github.com/berthdev/berth/internal/frontend/listentest"
	"github.com/berthdev/berth/internal/route"
)

// network is the machines of a test, in memory. In a bubble time passes only when everything waits, and a goroutine
// that outlives the test fails it.
type network struct {
	mu    sync.Mutex
	hosts map[string]*host
	dials map[string]int // connections asked for, by address
	kind  func(http.Handler) server
}

type host struct {
	*listentest.Pipes
	server server
}

// kill ends the host's process: its connections break, and new ones are refused.
func (h *host) kill() { _ = h.server.Close() }

// quiet drops what is logged.
var quiet = slog.New(slog.DiscardHandler)

// dialFrom connects as a machine with the given address.
func (n *network) dialFrom(from string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		n.mu.Lock()
		n.dials[addr]++
		h := n.hosts[addr]
		n.mu.Unlock()
		if h == nil {
			return nil, listentest.Refused(addr)
		}
		return h.Dial(ctx, from)
	}
}

func (n *network) dialled(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[addr]
}

// listen starts a host.
func (n *network) listen(t *testing.T, addr string, handler http.Handler) *host {
	t.Helper()
	return n.serve(t, addr, full(handler))
}

// serve starts a host with a server of its own.
func (n *network) serve(t *testing.T, addr string, s server) *host {
	t.Helper()
	h := &host{listentest.NewPipes(addr), s}
	n.mu.Lock()
	n.hosts[addr] = h
	n.mu.Unlock()
	go func() { _ = h.server.Serve(h) }()
	t.Cleanup(h.kill)
	return h
}

// server is what front ends answer with: kinds are those that they have.
type server interface {
	Serve(l net.Listener) error
	Close() error
}

// plain is for requests that come as they are.
func plain(h http.Handler) server {
	return &http1.Server{Handler: h, HeaderTimeout: time.Hour, IdleTimeout: time.Hour, MaxHeader: 64 << 10, Log: quiet}
}

// full is for TLS and HTTP/2.
func full(h http.Handler) server { return &http.Server{Handler: h} }

// front starts a front end at an address, with its inner listener at peersAddr(addr).
func (n *network) front(t *testing.T, addr string) *FrontEnd {
	t.Helper()
	f := New(quiet)
	f.model.DialContext, f.peer.DialContext = n.dialFrom(addr), n.dialFrom(addr)
	t.Cleanup(f.model.CloseIdle)
	t.Cleanup(f.peer.CloseIdle)
	n.serve(t, addr, n.kind(f))
	return f
}

// client is a caller with an address of its own.
func (n *network) client(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: n.dialFrom("198.51.100.7:5000"), DisableCompression: true, MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// bubble runs a test of a network with one front end, at fe:80, once with each kind of server.
func bubble(t *testing.T, test func(t *testing.T, n *network, f *FrontEnd)) {
	t.Helper()
	t.Run("plain", func(t *testing.T) { bubbleOf(t, plain, test) }) // one after the other: tests keep what pods saw
	t.Run("full", func(t *testing.T) { bubbleOf(t, full, test) })
}

// leaving runs a test whose callers leave. Plain servers notice that by sockets, which a network in memory does not have; TestOverTCP does.
func leaving(t *testing.T, test func(t *testing.T, n *network, f *FrontEnd)) {
	t.Helper()
	bubbleOf(t, full, test)
}

// bubbleOf runs it with one.
func bubbleOf(t *testing.T, kind func(http.Handler) server, test func(t *testing.T, n *network, f *FrontEnd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Second) }) // of the bubble's time: servers linger on connections they close
		n := &network{hosts: map[string]*host{}, dials: map[string]int{}, kind: kind}
		test(t, n, n.front(t, fe))
	})
}

const (
	fe        = "fe:80"
	primary   = "primary-key"
	secondary = "secondary-key"
)

// service is a route of one version with both keys, changed as a test needs it.
func service(t *testing.T, name string, changes ...func(*route.Route)) *route.Route {
	t.Helper()
	r := &route.Route{
		Service: name, ID: "id-of-" + name, Auth: route.Auth{Mode: route.AuthKey, Keys: []string{route.KeySum(primary), route.KeySum(secondary)}},
		Versions: []route.Version{{
			Workload: name, Percent: 100, Default: true, MaxConcurrent: 1, QueueWait: route.DefaultQueueWait, Timeout: route.DefaultTimeout,
			MaxBody: 1 << 20, Scale: route.Scale{Min: 1},
		}},
	}
	for _, change := range changes {
		change(r)
	}
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	return r
}

func up(addrs ...string) map[string]bool {
	m := map[string]bool{}
	for _, a := range addrs {
		m[a] = true
	}
	return m
}

// text answers with a fixed text.
func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

// answer is what a caller got.
type answer struct {
	status           int
	by, reason, body string
	header           http.Header
	err              error // of reading the body
	took             time.Duration
	requestIDs       []string
	transport        error // no answer at all
}

// score posts a body to a service with the primary key.
func score(t *testing.T, c *http.Client, service, body string) answer {
	t.Helper()
	return send(c, request(t, http.MethodPost, "/api/v1/service/"+service+"/score", strings.NewReader(body)))
}

func request(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	return requestTo(t, fe, method, path, body)
}

func requestTo(t *testing.T, front, method, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+front+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+primary)
	return r
}

func send(c *http.Client, r *http.Request) answer {
	began := time.Now()
	resp, err := c.Do(r)
	if err != nil {
		return answer{transport: err, took: time.Since(began)}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return answer{
		status: resp.StatusCode, by: resp.Header.Get(answeredBy), reason: resp.Header.Get(reasonHeader), body: string(body), header: resp.Header,
		err: err, took: time.Since(began), requestIDs: resp.Header.Values(requestID),
	}
}

// want fails unless an answer is the one expected.
func (a answer) want(t *testing.T, status int, by, reason string) {
	t.Helper()
	if a.transport != nil || a.err != nil {
		t.Fatalf("no whole answer: %v", errors.Join(a.transport, a.err))
	}
	if a.status != status || a.by != by || a.reason != reason {
		t.Fatalf("answered %d by %q for reason %q, want %d by %q for %q; body: %s", a.status, a.by, a.reason, status, by, reason, a.body)
	}
}
