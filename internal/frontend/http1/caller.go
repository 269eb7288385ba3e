package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxUnread is the most of a body that is read after the answer, in bytes, so that the connection can have another request.
	maxUnread = 256 << 10
	// unreadFor is how long that may take.
	unreadFor = time.Second
	// lastWords is how long a connection with an unread body stays open after its last answer. Closing it at once can take the answer away
	// from the caller.
	lastWords = 500 * time.Millisecond
	// keptText and keptNames are the size in bytes, and the number of names, of the largest header whose memory is used again.
	keptText, keptNames = 4 << 10, 50
	// maxEmpty is the most bytes of empty lines before a request.
	maxEmpty = 8
)

var errHeader = errors.New("the request's header is too large")

// caller is the connection of who asks.
type caller struct {
	net.Conn
	server  *Server
	in      *bufio.Reader
	out     *bufio.Writer
	state   atomic.Int32
	ctx     context.Context //nolint:containedctx // of requests
	cancel  context.CancelFunc
	hup     atomic.Bool  // the caller sends nothing more
	blank   http.Request // what all requests have: the context, the address, and the map of the header
	request http.Request
	values  []string // of its header
	text    []byte   // of its line and header
	body    incoming
	answer  writer
}

func newCaller(s *Server, n net.Conn) *caller {
	c := &caller{Conn: n, server: s, in: bufio.NewReaderSize(n, 4<<10)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.blank = *(&http.Request{RemoteAddr: n.RemoteAddr().String(), Header: http.Header{}, Body: http.NoBody}).WithContext(c.ctx)
	c.out = bufio.NewWriterSize(outgoing{c}, 4<<10)
	c.body.c, c.answer = c, writer{c: c, header: http.Header{}}
	return c
}

// outgoing ends the caller's context when nothing reaches it any more.
type outgoing struct{ *caller }

func (o outgoing) Write(p []byte) (int, error) {
	n, err := o.Conn.Write(p)
	if err != nil {
		o.cancel()
	}
	return n, err
}

// hungUp is called when the caller has closed its direction.
func (c *caller) hungUp() {
	c.hup.Store(true)
	if c.body.state.Load() == whole {
		c.cancel()
	}
}

// arrived is called when the request was read to its end.
func (c *caller) arrived() {
	c.body.state.Store(whole)
	if c.hup.Load() {
		c.cancel()
	}
}

// serve answers requests until the connection is to be closed.
func (c *caller) serve() {
	for {
		wrong, err := c.next()
		if err != nil {
			return
		}
		if wrong != nil {
			c.refuse(wrong)
			return
		}
		if !c.exchange() {
			return
		}
		if !c.state.CompareAndSwap(busy, idle) || c.server.closing.Load() {
			return
		}
	}
}

// next reads a request but for its body. wrong says what is wrong with it.
func (c *caller) next() (wrong *malformed, err error) {
	patience := c.server.IdleTimeout
	if c.state.Load() == fresh {
		patience = c.server.HeaderTimeout
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if err := c.first(); err != nil {
		return nil, err
	}
	if !c.state.CompareAndSwap(idle, busy) && !c.state.CompareAndSwap(fresh, busy) {
		return nil, net.ErrClosed
	}
	here, err := c.in.Peek(c.in.Buffered())
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(here, []byte("\r\n\r\n")) { // the rest is on its way, or not
		if err := c.SetReadDeadline(time.Now().Add(c.server.HeaderTimeout)); err != nil {
			return nil, err
		}
	}
	if err := c.readHead(); err != nil {
		if errors.Is(err, errHeader) {
			return &malformed{http.StatusRequestHeaderFieldsTooLarge, "the request's header is larger than " + strconv.Itoa(c.server.MaxHeader) + " bytes"}, nil
		}
		return nil, err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return c.parse(string(c.text)), nil
}

// first waits for a request's first byte. Empty lines before it do not count, as some send one after a body (RFC 9112, 2.2).
func (c *caller) first() error {
	for n := 0; ; n++ {
		b, err := c.in.Peek(1)
		if err != nil || n == maxEmpty || b[0] != '\r' && b[0] != '\n' {
			return err
		}
		_, _ = c.in.Discard(1) // it is there
	}
}

// letGo drops what a request and its answer took, if that is much: a connection that is idle is to keep little.
func (c *caller) letGo() {
	if len(c.text) > keptText || len(c.blank.Header) > keptNames || len(c.answer.header) > keptNames {
		c.blank.Header, c.answer.header, c.values, c.text = http.Header{}, http.Header{}, nil, nil
		c.request = c.blank
	}
}

// readHead reads the request's line and header into c.text.
func (c *caller) readHead() error {
	c.text = c.text[:0]
	begins := true // a line
	for read := 0; ; {
		part, err := c.in.ReadSlice('\n')
		if read += len(part); read > c.server.MaxHeader {
			return errHeader
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if begins && blank(part) {
			return nil
		}
		begins = err == nil
		c.text = append(c.text, part...)
	}
}

// blank reports whether a line is empty. A single \n ends lines, too (RFC 9112, 2.2).
func blank(line []byte) bool { return string(line) == "\r\n" || string(line) == "\n" }

// exchange has the request answered, and reports whether the connection can have another one.
func (c *caller) exchange() (again bool) {
	defer c.letGo()
	w := &c.answer
	w.begin()
	if !c.handle() {
		return false
	}
	if err := w.end(); err != nil {
		return false
	}
	if c.body.state.Load() != whole && (!w.keep || c.body.skip() != nil) {
		c.sayGoodbye()
		return false
	}
	return w.keep && !c.hup.Load()
}

// handle calls the handler. It returns false when that gave up.
func (c *caller) handle() (done bool) {
	defer func() {
		if done {
			return
		}
		if why := recover(); why != http.ErrAbortHandler { //nolint:errorlint // as net/http says
			c.server.Log.Error("a handler panicked", "panic", why, "path", c.request.URL.Path, "stack", string(debug.Stack()))
		}
	}()
	c.server.Handler.ServeHTTP(&c.answer, &c.request)
	return true
}

// refuse answers what is no request.
func (c *caller) refuse(wrong *malformed) {
	status := strconv.Itoa(wrong.status) + " " + http.StatusText(wrong.status)
	text := status + ": " + wrong.why + ".\n"
	_, _ = c.out.WriteString("HTTP/1.1 " + status + "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: " + strconv.Itoa(len(text)) + "\r\n\r\n" + text)
	if c.out.Flush() == nil {
		c.sayGoodbye()
	}
}

// sayGoodbye ends this side's direction, and waits until the other side does, but not for long.
func (c *caller) sayGoodbye() {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() != nil {
		return
	}
	c.arrived() // or never will
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-c.ctx.Done():
	case <-timer.C:
	}
}

// incoming is a request's body.
type incoming struct {
	c      *caller
	left   int64     // of known length
	chunks io.Reader // of unknown length, nil otherwise
	err    error     // what reading ends with, nil before it does
	state  atomic.Int32

	expects  bool // the caller waits for 100 Continue before it sends the body
	mu       sync.Mutex
	answered bool // 100 Continue was sent, or the answer was
}

// How far reading has come.
const (
	unread int32 = iota // there is more
	whole               // it came to its end
	broken              // it never will
)

// begin takes a body of a length, or one in chunks, whose length is less than 0.
func (b *incoming) begin(length int64, expects bool) {
	b.left, b.chunks, b.err, b.expects, b.answered = length, nil, nil, expects && length != 0, false
	b.state.Store(unread)
	switch {
	case length == 0:
		b.c.arrived()
	case length < 0:
		b.chunks = httputil.NewChunkedReader(b.c.in)
	}
}

// Read implements io.Reader.
func (b *incoming) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.expects {
		b.goOn()
	}
	var n int
	var err error
	if b.chunks != nil {
		if n, err = b.chunks.Read(p); errors.Is(err, io.EOF) {
			err = b.trailer()
		}
	} else {
		if int64(len(p)) > b.left {
			p = p[:b.left]
		}
		n, err = b.c.in.Read(p)
		if b.left -= int64(n); b.left == 0 {
			err = io.EOF
		} else if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	}
	b.ends(err)
	return n, err
}

// ends says what reading ends with, nil if it does not.
func (b *incoming) ends(err error) {
	switch b.err = err; {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.c.arrived()
	default:
		b.state.Store(broken)
	}
}

// Close does nothing: what is left is read after the answer.
func (*incoming) Close() error { return nil }

// trailer reads what comes after the last chunk, of which nobody wants to know.
func (b *incoming) trailer() error {
	for read := 0; read <= b.c.server.MaxHeader; {
		line, err := b.c.in.ReadSlice('\n')
		if read += len(line); err != nil {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		if blank(line) {
			return io.EOF
		}
	}
	return errHeader
}

// goOn tells the caller to send the body.
func (b *incoming) goOn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.answered {
		b.answered = true
		_, _ = io.WriteString(outgoing{b.c}, "HTTP/1.1 100 Continue\r\n\r\n") // reading fails as well
	}
}

// refused says that an answer comes instead of 100 Continue, and reports whether that was not sent.
func (b *incoming) refused() bool {
	if !b.expects {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.answered
	b.answered = true
	return !before
}

// endless reports whether so much of the body is left that another request cannot follow it, as far as is known before it is tried.
func (b *incoming) endless(status int) bool {
	s := b.state.Load()
	return s == broken || s == unread && (b.c.request.ContentLength > maxUnread || status == http.StatusRequestEntityTooLarge)
}

// skip reads the rest of the body. It returns an error when that is too much, or takes too long.
func (b *incoming) skip() error {
	if b.err != nil {
		return b.err
	}
	if err := b.c.SetReadDeadline(time.Now().Add(unreadFor)); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, b, maxUnread+1); !errors.Is(err, io.EOF) {
		return errors.New("more of the body is left than is worth reading")
	}
	return nil
}
