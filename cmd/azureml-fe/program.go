package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthdev/berth/internal/frontend"
	"github.com/berthdev/berth/internal/frontend/http1"
	"github.com/berthdev/berth/internal/frontend/kube"
	"github.com/berthdev/berth/internal/route"
)

// program is what runs: a front end, who feeds it, and its servers.
type program struct {
	front   *frontend.FrontEnd
	watcher *kube.Watcher
	log     *slog.Logger
	listen  func(port int) (net.Listener, error)
	leaving time.Duration // that it still serves when it is to stop
}

// run serves until stop ends. Then it leaves: it goes on for a while, but says that it is not ready, and tells clients to close
// their connections. Only after that it closes what is idle, and finishes the requests that it has.
func (p *program) run(stop context.Context) error {
	var stopping atomic.Bool
	callers := closing(&stopping, p.front)
	plain, peers := p.plain(callers, maxHeader), p.plain(closing(&stopping, p.front.Inner()), 2*maxHeader) // front ends add to what they pass on
	secure, status := secure{full(callers)}, full(p.status(&stopping))
	secure.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: p.watcher.Certificate}
	watching, forget := context.WithCancel(context.Background())
	defer forget()
	group, ctx := errgroup.WithContext(stop)
	for port, s := range map[int]server{route.HTTPPort: plain, route.HTTPSPort: secure, route.PeersPort: peers, route.StatusPort: status} {
		group.Go(func() error {
			if s != status { // until it knows the services, callers and other front ends are better off elsewhere
				select {
				case <-p.watcher.Learned():
				case <-ctx.Done():
					return nil
				}
			}
			l, err := p.listen(port)
			if err != nil {
				return err
			}
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	group.Go(func() error { return p.watcher.Run(watching) })
	group.Go(func() error { collectLess(ctx); return nil })
	group.Go(func() error {
		<-ctx.Done()
		stopping.Store(true)
		p.log.Info("stopping; clients are told to leave", "serving_for", p.leaving.String())
		time.Sleep(p.leaving)
		p.drain(plain, secure, peers)
		forget() // until now, what waits wants to know of pods
		return status.Close()
	})
	return group.Wait()
}

// closing has clients close the connections of requests that come while a front end stops. A connection that the server closed by
// itself might carry a request by then, which would be lost. HTTP/2 makes a GOAWAY of it.
func closing(stopping *atomic.Bool, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// status answers Kubernetes and Prometheus.
func (p *program) status(stopping *atomic.Bool) http.Handler {
	m := http.NewServeMux()
	m.Handle("/metrics", p.front.Metrics())
	m.HandleFunc(route.LivePath, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	m.HandleFunc(route.ReadyPath, func(w http.ResponseWriter, _ *http.Request) {
		if !p.watcher.Ready() || stopping.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	return m
}

// drain ends servers when they have finished their requests. All of them at once: one that waited for another would take
// new requests from connections that it keeps, and a long request there would leave no time for those here.
func (p *program) drain(servers ...server) {
	within := min(p.front.Longest(), route.MaxDrain)
	p.log.Info("no new requests are taken", "finishing_within", within.String())
	end, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var group errgroup.Group
	for _, s := range servers {
		group.Go(func() error { return s.Shutdown(end) })
	}
	if err := group.Wait(); err == nil {
		return
	}
	p.log.Warn("requests are cut off: they took longer than a front end that stops goes on", "limit", within.String())
	for _, s := range servers {
		_ = s.Close() // what cannot be closed ends with the process
	}
}

// server answers what comes to a listener.
type server interface {
	Serve(l net.Listener) error
	Shutdown(ctx context.Context) error
	Close() error
}

// Limits of what comes before a body; bodies and answers take as long as models do.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10 // bytes
)

// plain is a server of requests that come as they are.
func (p *program) plain(h http.Handler, header int) *http1.Server {
	return &http1.Server{Handler: h, HeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeader: header, Log: p.log}
}

// full is a server that can do more: TLS and HTTP/2.
func full(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		HTTP2:    &http.HTTP2Config{MaxReceiveBufferPerStream: frontend.StreamBuffer},
		ErrorLog: log.New(io.Discard, "", 0), // clients that break a handshake are not news
	}
}

// secure is a server of TLS connections.
type secure struct{ *http.Server }

func (s secure) Serve(l net.Listener) error { return s.ServeTLS(l, "", "") }
