package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/berthdev/berth/internal/frontend"
	"github.com/berthdev/berth/internal/frontend/kube"
	"github.com/berthdev/berth/internal/frontend/listentest"
	"github.com/berthdev/berth/internal/route"
)

const peerToken = "peer-token"

// started runs a front end with a service whose pod is at an address, and which leaves at once when it is to stop, unless change says
// otherwise. stop ends it, and ended gives what run returned.
func started(t *testing.T, pod string, change func(*program, *route.Version), log io.Writer, listen func(int) (net.Listener, error), objects ...*corev1.Secret) (stop func(), ended <-chan error) {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(log, nil))
	front := frontend.New(logger)
	r := &route.Route{Service: "iris", Auth: route.Auth{Mode: route.AuthNone}, Versions: []route.Version{{
		Workload: "iris", Percent: 100, MaxConcurrent: 100, Timeout: route.DefaultTimeout, MaxBody: 1 << 20, Scale: route.Scale{Min: 1},
	}}}
	p := program{front: front, log: logger, listen: listen}
	if change != nil {
		change(&p, &r.Versions[0])
	}
	front.SetRoute(r)
	front.SetPods("iris", map[string]bool{pod: true})
	api := fake.NewClientset()
	for _, o := range objects {
		if _, err := api.CoreV1().Secrets("ns").Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p.watcher = &kube.Watcher{API: api, Namespace: "ns", Self: "127.0.0.1", Front: front, Log: logger}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	over := make(chan error, 1)
	go func() { over <- p.run(ctx) }()
	return cancel, over
}

// secrets are what front ends know each other by and their certificate, with how a client trusts that.
func secrets(t *testing.T) (*corev1.Secret, *tls.Config) {
	t.Helper()
	holder := httptest.NewTLSServer(nil) // of a certificate
	t.Cleanup(holder.Close)
	private, err := x509.MarshalPKCS8PrivateKey(holder.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(holder.Certificate())
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Data: map[string][]byte{ // the API server in memory knows no selectors of names
		route.TokenEntry:       []byte(peerToken),
		route.CertificateEntry: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: holder.Certificate().Raw}),
		route.KeyEntry:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}}, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: trusted, ServerName: "example.com"}
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// A front end that is to stop finishes what it has, on all its listeners at once. None of them takes anything new meanwhile,
// neither on a new connection nor on one that is open, and its readiness says so.
func TestStoppingFinishesRequestsSideBySide(t *testing.T) {
	t.Parallel()
	began, release := make(chan struct{}, 10), make(chan struct{})
	pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			began <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, "done")
	}))
	t.Cleanup(pod.Close)
	let := sync.OnceFunc(func() { close(release) })
	t.Cleanup(let)
	secret, trust := secrets(t)
	var mu sync.Mutex
	addrs := map[int]string{}
	stop, ended := started(t, pod.Listener.Addr().String(), nil, io.Discard, func(port int) (net.Listener, error) {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			addrs[port] = l.Addr().String()
		}
		return l, err
	}, secret)
	addr := func(port int) string { mu.Lock(); defer mu.Unlock(); return addrs[port] }
	until(t, "it listens", func() bool { mu.Lock(); defer mu.Unlock(); return len(addrs) == 4 })

	client := func(http2 bool) *http.Client {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: trust.Clone(), ForceAttemptHTTP2: http2}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	ways := []struct {
		name, scheme string
		port         int
		client       *http.Client
		proto        int
	}{
		{"HTTP", "http", route.HTTPPort, client(false), 1},
		{"HTTPS", "https", route.HTTPSPort, client(false), 1},
		{"HTTP/2", "https", route.HTTPSPort, client(true), 2},
		{"peers", "http", route.PeersPort, client(false), 1},
	}
	var wg sync.WaitGroup
	for _, w := range ways {
		wg.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.scheme+"://"+addr(w.port)+"/api/v1/service/iris/score", strings.NewReader("x"))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("X-Berth-Peer", peerToken)
			resp, err := w.client.Do(r)
			if err != nil {
				t.Errorf("%s: the request is cut off: %v", w.name, err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 200 || string(body) != "done" || resp.ProtoMajor != w.proto {
				t.Errorf("%s: answered %s %d %q: %v", w.name, resp.Proto, resp.StatusCode, body, err)
			}
			if w.proto == 1 && !resp.Close {
				t.Errorf("%s: the client is not told to close the connection", w.name)
			}
		})
	}
	until(t, "all requests are at the model", func() bool { return len(began) == len(ways) || t.Failed() })
	// Connections that had a request before and are kept.
	kept := map[int]net.Conn{}
	for _, port := range []int{route.HTTPPort, route.HTTPSPort, route.PeersPort} {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr(port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if port == route.HTTPSPort {
			c = tls.Client(c, trust)
		}
		kept[port] = c
		_, _ = fmt.Fprintf(c, "GET /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\nX-Berth-Peer: %s\r\n\r\n", peerToken)
		if b := make([]byte, 15); !errors.Is(readFull(c, b), nil) || string(b) != "HTTP/1.1 200 OK" {
			t.Fatalf("port %d answers %q", port, b)
		}
	}
	if got := readiness(t, addr(route.StatusPort)); got != 200 {
		t.Errorf("readiness is %d before it stops", got)
	}

	stop()
	for port, c := range kept {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("port %d keeps a connection open, for another request: %v", port, err)
		}
		until(t, fmt.Sprintf("port %d refuses connections", port), func() bool {
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr(port))
			if err == nil {
				_ = c.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
	}
	if got := readiness(t, addr(route.StatusPort)); got != 503 {
		t.Errorf("readiness is %d while it stops", got)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended before its requests: %v", err)
	default:
	}
	let()
	wg.Wait()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func readFull(c net.Conn, b []byte) error { _, err := io.ReadFull(c, b); return err }

func readiness(t *testing.T, addr string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+route.ReadyPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// inMemory are listeners for all ports.
func inMemory() map[int]*listentest.Pipes {
	all := map[int]*listentest.Pipes{}
	for _, port := range []int{route.HTTPPort, route.HTTPSPort, route.PeersPort, route.StatusPort} {
		all[port] = listentest.NewPipes("front")
	}
	return all
}

// A front end that is to stop goes on as long as its most patient service may take, but not for ever.
func TestStoppingIsBounded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		wait, timeout time.Duration
		took          time.Duration
		whole         bool
	}{
		{"an impatient service", 2 * time.Second, time.Second, 2 * time.Second, true},
		{"a patient service", time.Hour, time.Minute, time.Hour, true},
		{"too patient a service", 2 * time.Hour, time.Hour, route.MaxDrain, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				servers := inMemory()
				var log bytes.Buffer
				stop, ended := started(t, "no pod", func(_ *program, v *route.Version) { v.QueueWait, v.Timeout, v.Workload = tt.wait, tt.timeout, "other" }, &log, func(port int) (net.Listener, error) { return servers[port], nil })
				synctest.Wait()
				here, err := servers[route.HTTPPort].Dial(t.Context(), "198.51.100.7:5000")
				if err != nil {
					t.Fatal(err)
				}
				answer := make(chan string)
				go func() {
					_, _ = io.WriteString(here, "GET /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\n\r\n")
					b, _ := io.ReadAll(here)
					answer <- string(b)
				}()
				synctest.Wait()
				began := time.Now()
				stop()
				got := <-answer
				if took := time.Since(began).Round(time.Second); took != tt.took {
					t.Errorf("the request, which waits for a pod, came to its end after %v, want %v", took, tt.took)
				}
				if err := <-ended; err != nil {
					t.Errorf("it ended with %v", err)
				}
				if tt.whole != strings.HasPrefix(got, "HTTP/1.1 503 ") || tt.whole == strings.Contains(log.String(), "cut off") {
					t.Errorf("the client got %q; the log is\n%s", got, &log)
				}
			})
		})
	}
}

// A front end that is to stop goes on for a while, so that nothing is lost by who does not know yet. It takes new connections and
// requests, but tells clients to close their connections, and is not ready. Then it closes what is idle.
func TestStoppingTellsClientsToLeave(t *testing.T) {
	t.Parallel()
	secret, trust := secrets(t)
	synctest.Test(t, func(t *testing.T) {
		servers := inMemory()
		stop, ended := started(t, "no pod", func(p *program, _ *route.Version) { p.leaving = route.LeavingPeriod }, io.Discard,
			func(port int) (net.Listener, error) { return servers[port], nil }, secret)
		type way struct {
			name, scheme string
			port, proto  int
			status       int
			dials        int
			client       *http.Client
		}
		ways := []*way{
			{name: "HTTP", scheme: "http", port: route.HTTPPort, proto: 1, status: 200},
			{name: "HTTPS", scheme: "https", port: route.HTTPSPort, proto: 1, status: 200},
			{name: "HTTP/2", scheme: "https", port: route.HTTPSPort, proto: 2, status: 200},
			{name: "peers", scheme: "http", port: route.PeersPort, proto: 1, status: 403}, // without the token
			{name: "status", scheme: "http", port: route.StatusPort, proto: 1, status: 404},
		}
		for _, w := range ways {
			transport := &http.Transport{TLSClientConfig: trust.Clone(), ForceAttemptHTTP2: w.proto == 2, DialContext: func(context.Context, string, string) (net.Conn, error) {
				w.dials++
				return servers[w.port].Dial(t.Context(), "198.51.100.7:5000")
			}}
			defer transport.CloseIdleConnections()
			w.client = &http.Client{Transport: transport}
		}
		ask := func(w *way, path string, status int) *http.Response {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.scheme+"://front/"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := w.client.Do(r)
			if err != nil {
				t.Fatalf("%s: %v", w.name, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != status || resp.ProtoMajor != w.proto {
				t.Errorf("%s: %s answered with %s %d, %v", w.name, path, resp.Proto, resp.StatusCode, err)
			}
			_ = resp.Body.Close()
			synctest.Wait() // for what a client learns after an answer
			return resp
		}
		for _, w := range ways {
			if resp := ask(w, "", w.status); resp.Close {
				t.Errorf("%s: the client is told to leave before the front end stops", w.name)
			}
		}
		idle, err := servers[route.HTTPPort].Dial(t.Context(), "198.51.100.7:5000")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if b := make([]byte, 15); readFull(idle, b) != nil || string(b) != "HTTP/1.1 200 OK" {
			t.Fatalf("answered %q", b)
		}
		closed := make(chan time.Time)
		go func() {
			_, _ = io.Copy(io.Discard, idle)
			closed <- time.Now()
		}()

		began := time.Now()
		stop()
		synctest.Wait()
		for _, w := range ways {
			if w.name == "status" { // of this front end only: Kubernetes does not ask another one
				ask(w, strings.TrimPrefix(route.ReadyPath, "/"), 503)
				continue
			}
			for try, dials := range []int{1, 2} { // over the connection from before, and then over another one
				if resp := ask(w, "", w.status); w.proto == 1 && !resp.Close {
					t.Errorf("%s: the client is not told to leave", w.name)
				}
				if w.dials != dials {
					t.Errorf("%s: request %d of those since it is to stop was sent over connection %d, want %d", w.name, try+1, w.dials, dials)
				}
			}
		}
		if took := (<-closed).Sub(began).Round(time.Second); took != route.LeavingPeriod {
			t.Errorf("an idle connection was closed after %v, want %v", took, route.LeavingPeriod)
		}
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
		if _, err := servers[route.HTTPPort].Dial(t.Context(), "198.51.100.7:5000"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("it still takes connections when it ended: %v", err)
		}
	})
}
