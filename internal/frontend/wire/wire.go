// Package wire asks HTTP/1.1 servers, model pods and other front ends, on the goroutine of who asks. net/http's
// Transport takes two goroutines for each connection, and hands every request and answer from one to the other: for a
// router that is most of what a request costs.
package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// maxHeader is the most bytes that an answer's status and header may have, informational answers included.
	maxHeader = 1 << 20
	// maxEarly is the most informational answers before an answer.
	maxEarly = 10
	// lateUpload is how long a body may go on after the answer to it has begun. A server that read it to its
	// end answers before this side has noticed the end.
	lateUpload = 100 * time.Millisecond
)

// Client keeps connections to servers.
type Client struct {
	// DialContext connects. A server that it does not reach has not seen a request.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// IdleFor is how long an unused connection is kept. It must be shorter than servers keep one: a request that meets
	// a connection in the moment it is closed is lost, because nobody knows whether it was seen.
	IdleFor time.Duration

	mu      sync.Mutex
	idle    map[string][]*conn // by address; the one that was used last is at the end
	reaping bool
}

// Request is a request as it travels.
type Request struct {
	Method string
	// Head is the request line, the header with its empty line, and a body that is short. It is sent at once.
	Head []byte
	// Body is a body that is not in Head, nil for none.
	Body    io.Reader
	Chunked bool // how it is sent, as Head says
	// Cut makes a Read of Body that waits return. It is called when an answer does not wait for the body's end.
	Cut func()
	// Deadline is when the answer must have come to its end; zero for never.
	Deadline time.Time
	// Early gets informational answers but for 100 Continue. It must be done with the header when it returns.
	Early func(code int, h http.Header)
}

// DialError says that no connection was made, so that no server has seen the request.
type DialError struct{ Err error }

func (e *DialError) Error() string { return "connecting: " + e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// ClosedError says that the connection ended before the answer did, by the server's doing or the network's.
type ClosedError struct{ Err error }

func (e *ClosedError) Error() string { return "the server closed the connection: " + e.Err.Error() }
func (e *ClosedError) Unwrap() error { return e.Err }

// closed tells an end of the connection, among the errors of reading an answer, from an answer that cannot be understood, from
// one that takes too long, and from a connection that this side closed.
func closed(err error) error {
	var socket *net.OpError
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &socket) && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		return &ClosedError{err}
	}
	return err
}

// UploadError says that the request's body could not be read to its end.
type UploadError struct{ Err error }

func (e *UploadError) Error() string { return "reading the request's body: " + e.Err.Error() }
func (e *UploadError) Unwrap() error { return e.Err }

var (
	errStale  = errors.New("the connection was closed before anything was sent")
	errHeader = fmt.Errorf("the answer's header is larger than %d bytes", maxHeader)
)

// Do sends a request and returns the answer when its header is there. The caller closes the answer.
//
// Errors: *DialError; *UploadError; what matches os.ErrDeadlineExceeded when the deadline passed; ctx's error;
// *ClosedError; else the server spoke no HTTP. A request is sent once: only when a kept connection turns out
// to be closed before a byte was written is another one taken.
func (c *Client) Do(ctx context.Context, addr string, r *Request) (*Answer, error) {
	for {
		k, err := c.take(ctx, addr, r.Deadline)
		if err != nil {
			if gone := ctx.Err(); gone != nil {
				return nil, gone
			}
			return nil, &DialError{err}
		}
		a, err := k.exchange(ctx, r)
		if err == nil {
			return a, nil
		}
		if errors.Is(err, errStale) {
			continue
		}
		return nil, err
	}
}

// take finds a connection that still works, or makes one.
func (c *Client) take(ctx context.Context, addr string, deadline time.Time) (*conn, error) {
	for k := c.pop(addr); k != nil; k = c.pop(addr) {
		if k.SetDeadline(deadline) == nil && time.Since(k.used) < c.IdleFor && k.silent() {
			k.kept = true
			return k, nil
		}
		k.drop()
	}
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	n, err := c.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	k := newConn(c, addr, n)
	if err := k.SetDeadline(deadline); err != nil {
		k.abort()
		return nil, err
	}
	return k, nil
}

func (c *Client) pop(addr string) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.idle[addr]
	if len(list) == 0 {
		return nil
	}
	k := list[len(list)-1]
	list[len(list)-1] = nil
	c.idle[addr] = list[:len(list)-1]
	return k
}

func (c *Client) put(k *conn) {
	k.used = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle == nil {
		c.idle = map[string][]*conn{}
	}
	c.idle[k.addr] = append(c.idle[k.addr], k)
	if !c.reaping {
		c.reaping = true
		time.AfterFunc(c.IdleFor, c.reap)
	}
}

// reap closes what was not used for long.
func (c *Client) reap() { c.close(time.Now().Add(-c.IdleFor)) }

// CloseIdle closes the connections that are not in use.
func (c *Client) CloseIdle() { c.close(time.Now().Add(time.Hour)) }

// close closes connections that were not used after a time.
func (c *Client) close(last time.Time) {
	var old []*conn
	c.mu.Lock()
	for addr, list := range c.idle {
		n := 0
		for n < len(list) && !list[n].used.After(last) {
			n++
		}
		old = append(old, list[:n]...)
		if n == len(list) {
			delete(c.idle, addr)
		} else if n > 0 {
			c.idle[addr] = append([]*conn(nil), list[n:]...)
		}
	}
	if c.reaping = len(c.idle) > 0; c.reaping {
		time.AfterFunc(c.IdleFor, c.reap)
	}
	c.mu.Unlock()
	for _, k := range old {
		k.drop()
	}
}

// conn is a connection. While it is not in use it has no buffers.
type conn struct {
	net.Conn
	client *Client
	addr   string
	used   time.Time // last
	kept   bool      // it has had a request before
	in     *bufio.Reader
	left   int64 // bytes that may still be read
	abort  func()

	raw    syscall.RawConn // nil: it is no socket
	peek   func(fd uintptr) bool
	peeked error
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

func newConn(c *Client, addr string, n net.Conn) *conn {
	k := &conn{Conn: n, client: c, addr: addr}
	k.abort = func() { _ = n.Close() } // whether or not it was closed before
	if s, ok := n.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			k.raw = raw
			k.peek = func(fd uintptr) bool {
				var b [1]byte
				n, err := syscall.Read(int(fd), b[:])
				if n >= 0 && err == nil {
					err = io.ErrClosedPipe // it was closed, or says what nobody asked
				}
				k.peeked = err
				return true
			}
		}
	}
	return k
}

// drop closes a connection that nobody uses, by a reset. Closed in the usual way it would hold a port of this machine for a minute, and of those
// there are 28,000 for each server; the kernel searches long for one when half of them are taken.
func (k *conn) drop() {
	if s, ok := k.Conn.(interface{ SetLinger(sec int) error }); ok {
		_ = s.SetLinger(0) // it is closed in any case
	}
	k.abort()
}

// silent reports whether the server keeps the connection open and has sent nothing without being asked.
func (k *conn) silent() bool {
	if k.raw == nil {
		return true
	}
	return k.raw.Read(k.peek) == nil && errors.Is(k.peeked, syscall.EAGAIN)
}

// Read implements io.Reader.
func (k *conn) Read(p []byte) (int, error) {
	if k.left <= 0 {
		return 0, errHeader
	}
	if int64(len(p)) > k.left {
		p = p[:k.left]
	}
	n, err := k.Conn.Read(p)
	k.left -= int64(n)
	return n, err
}

// exchange sends a request and reads the answer's header.
func (k *conn) exchange(ctx context.Context, r *Request) (*Answer, error) {
	stop := context.AfterFunc(ctx, k.abort)
	n, sendErr := k.Write(r.Head)
	if sendErr != nil && n == 0 && k.kept && ctx.Err() == nil && !errors.Is(sendErr, os.ErrDeadlineExceeded) {
		stop()
		k.abort()
		return nil, errStale
	}
	var up *upload
	if r.Body != nil && sendErr == nil {
		up = k.upload(r)
	}
	in, ok := readers.Get().(*bufio.Reader)
	if !ok {
		panic("readers holds something else")
	}
	in.Reset(k)
	k.in, k.left = in, maxHeader
	// A server may answer and close without reading all: what it said counts, not that it closed.
	_, _ = in.Peek(1) // header reads on, or meets an error again. Models work now, and collections of garbage look at the whole stack meanwhile
	resp, err := k.header(r)
	if err == nil {
		err = ctx.Err()
	} else if gone := ctx.Err(); gone != nil {
		err = gone
	} else {
		err = closed(err)
	}
	k.left = math.MaxInt64
	whole, late := sendErr == nil, false
	if up != nil {
		if err != nil {
			k.abort() // so that the upload ends
		}
		var upErr error
		wait := lateUpload
		if err == nil && resp.Close {
			wait = 0 // the server wants no more
		}
		late, upErr = up.end(k, r, stop, wait)
		whole = whole && !late && upErr == nil
		if isUpload(upErr) && !errors.Is(err, context.Canceled) {
			err = upErr // the server is not to blame
		}
	}
	if err != nil {
		stop()
		k.abort()
		k.free()
		return nil, err
	}
	return &Answer{Response: resp, Severed: late, conn: k, stop: stop, keep: whole && !resp.Close && resp.StatusCode >= 200}, nil
}

func isUpload(err error) bool {
	var u *UploadError
	return errors.As(err, &u)
}

var head = &http.Request{Method: http.MethodHead} // whose answers have no body

// header reads the status and header of the answer.
func (k *conn) header(r *Request) (*http.Response, error) {
	var asked *http.Request
	if r.Method == http.MethodHead {
		asked = head
	}
	for range maxEarly + 1 {
		resp, err := http.ReadResponse(k.in, asked)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode < 100 {
			return nil, fmt.Errorf("malformed HTTP status %q", resp.Status)
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
		if resp.StatusCode != http.StatusContinue && r.Early != nil {
			r.Early(resp.StatusCode, resp.Header)
		}
	}
	return nil, fmt.Errorf("more than %d informational answers", maxEarly)
}

// free gives the buffer back.
func (k *conn) free() {
	k.in.Reset(nil)
	readers.Put(k.in)
	k.in = nil
}

// upload is a body on its way.
type upload struct{ done chan error }

func (k *conn) upload(r *Request) *upload {
	u := &upload{done: make(chan error, 1)}
	go func() {
		err := k.send(r)
		if isUpload(err) {
			k.abort() // so that the server does not wait for the rest
		}
		u.done <- err
	}()
	return u
}

func (k *conn) send(r *Request) error {
	to, flush := io.Writer(k.Conn), nothing
	var out *bufio.Writer
	if r.Chunked {
		out = bufio.NewWriterSize(k.Conn, 4<<10)
		to, flush = httputil.NewChunkedWriter(out), out.Flush
	}
	if read, write := copyBody(to, r.Body, flush); read != nil {
		return &UploadError{read}
	} else if write != nil || !r.Chunked {
		return write
	}
	_, _ = io.WriteString(out, "0\r\n\r\n") // without trailers; Flush has the error
	return out.Flush()
}

func nothing() error { return nil }

// copyBody tells who failed: who is read, or who is written to.
func copyBody(to io.Writer, from io.Reader, flush func() error) (read, write error) {
	c := newChunk()
	defer func() { c.free() }()
	for {
		n, read := from.Read(*c.b)
		if n > 0 {
			if _, err := to.Write((*c.b)[:n]); err != nil {
				return nil, err
			}
			if err := flush(); err != nil {
				return nil, err
			}
		}
		if errors.Is(read, io.EOF) {
			return nil, nil
		}
		if read != nil {
			return read, nil
		}
		c.fit(n)
	}
}

// end waits for the end of the upload, but not for long: then late is true, and the upload was cut off.
func (u *upload) end(k *conn, r *Request, stop func() bool, wait time.Duration) (late bool, err error) {
	select {
	case err := <-u.done:
		return false, err
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case err := <-u.done:
		return false, err
	case <-timer.C:
	}
	stop() // a cut upload looks like a client that is gone
	_ = k.SetWriteDeadline(time.Unix(1, 0))
	r.Cut()
	<-u.done
	return true, nil
}
