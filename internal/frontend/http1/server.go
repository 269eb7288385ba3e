// Package http1 answers HTTP/1.1 requests with less work than net/http does: one goroutine for a connection instead of two while a request
// waits, and memory that is used again. For a router with many requests that wait, two goroutines and four kilobytes for each are most of what
// collections of garbage have to do.
package http1

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// freshFor is how long a server that stops waits for the first request of a connection, which may be on its way.
	freshFor = 5 * time.Second
	// acceptAgain is how long a server without file descriptors waits before it takes another connection.
	acceptAgain = 100 * time.Millisecond
)

// Server answers HTTP/1.1 and 1.0 requests on one goroutine for each connection, and uses what it reads them into again. Its handlers
// may therefore not keep a request, its header or its context when they return: the context is the connection's. A string of a request holds all
// of its line and header in memory as long as it is kept. The context ends when the caller closes the connection after sending all of the
// request, as it does in net/http; only connections that are sockets are watched for that.
//
// Unlike net/http's it guesses no Content-Type, refuses what may mean two things (Transfer-Encoding beside Content-Length, folded headers), and
// does not read what is left of a body before it answers.
type Server struct {
	Handler http.Handler
	// HeaderTimeout is how long a request's line and header may take from their first byte, and how long a new connection is kept without a request.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection that had a request is kept without another one.
	IdleTimeout time.Duration
	// MaxHeader is the most bytes that a request's line and header may have.
	MaxHeader int
	// Log is told of handlers that panic.
	Log *slog.Logger

	watch   watch
	closing atomic.Bool

	mu        sync.Mutex
	listeners map[net.Listener]bool
	callers   map[*caller]bool
	left      chan struct{} // capacity 1: a connection has ended
}

// What a connection is doing. Shutdown closes those that are idle.
const (
	fresh int32 = iota // it has had no request
	idle
	busy
	closed
)

// Serve takes connections until Shutdown or Close; then it returns http.ErrServerClosed. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer func() { _ = l.Close() }() // it may be closed
	if !s.track(l) {
		return http.ErrServerClosed
	}
	for {
		n, err := l.Accept()
		if err == nil {
			s.take(n)
			continue
		}
		if s.closing.Load() {
			return http.ErrServerClosed
		}
		if !passes(err) {
			return err
		}
		time.Sleep(acceptAgain)
	}
}

// passes reports whether a listener works again when others have closed their files.
func passes(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	if s.listeners == nil {
		s.listeners, s.callers, s.left = map[net.Listener]bool{}, map[*caller]bool{}, make(chan struct{}, 1)
	}
	s.listeners[l] = true
	return true
}

// take answers the requests of a connection.
func (s *Server) take(n net.Conn) {
	c := newCaller(s, n)
	forget, err := s.admit(c)
	if err != nil {
		if !errors.Is(err, http.ErrServerClosed) {
			s.Log.Error("a connection is not served", "error", err)
		}
		_ = n.Close()
		return
	}
	go func() {
		defer func() {
			if why := recover(); why != nil {
				s.Log.Error("a connection is closed", "panic", why, "stack", string(debug.Stack()))
			}
			forget()
			c.cancel()
			_ = n.Close() // nothing is left to be written
			s.mu.Lock()
			delete(s.callers, c)
			s.mu.Unlock()
			select {
			case s.left <- struct{}{}:
			default:
			}
		}()
		c.serve()
	}()
}

func (s *Server) admit(c *caller) (forget func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return nil, http.ErrServerClosed
	}
	if forget, err = s.watch.add(c.Conn, c.hungUp); err == nil {
		s.callers[c] = true
	}
	return forget, err
}

// stop has no more connections taken.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	for l := range s.listeners {
		_ = l.Close() // Serve says what is wrong with it
	}
}

// Shutdown takes no more requests, and returns when those that are here were answered, or with ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	patience := time.NewTimer(freshFor)
	defer patience.Stop()
	closes := []int32{idle}
	for s.close(closes...) > 0 {
		select {
		case <-s.left:
		case <-patience.C:
			closes = append(closes, fresh)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.watch.close()
	return nil
}

// Close closes all connections.
func (s *Server) Close() error {
	s.stop()
	s.close(fresh, idle, busy)
	s.watch.close()
	return nil
}

// close closes the connections in certain states, and returns how many have not ended yet, these included.
func (s *Server) close(states ...int32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.callers {
		for _, state := range states {
			if c.state.CompareAndSwap(state, closed) {
				c.cancel()
				_ = c.Close() // what reads from it ends
			}
		}
	}
	return len(s.callers)
}
