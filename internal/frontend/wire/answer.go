package wire

import (
	"cmp"
	"io"
	"net/http"
	"sync/atomic"
)

// Answer is a server's answer, its body unread.
type Answer struct {
	*http.Response // its Body is for ReadAll and CopyTo
	// Severed says that the answer came before the request's body had come to its end, and that the rest of it was given up.
	Severed bool

	conn *conn
	stop func() bool // no longer watches for who asked
	keep bool        // the connection can have another request when the body was read
	read bool        // the body was read to its end
	over atomic.Bool // closed or aborted, whichever came first
	done bool        // closed
}

// Empty reports whether there is no body.
func (a *Answer) Empty() bool { return a.Body == http.NoBody }

// ReadAll reads a body of known length, which b has to have. It returns os.ErrDeadlineExceeded when there was no time for all of
// it, and *ClosedError when the connection ended before.
func (a *Answer) ReadAll(b []byte) error {
	_, err := io.ReadFull(a.Body, b)
	a.read = err == nil
	return closed(err)
}

// CopyTo copies the body as it comes; flush is called after each part of a body of unknown length. It returns *ClosedError when the
// connection is seen to have ended before. From one socket
// to another a body of known length does not pass through this process's memory.
func (a *Answer) CopyTo(w io.Writer, flush func() error) error {
	var err error
	switch {
	case a.Empty(): // whatever length it announces
	case a.ContentLength > 0:
		err = a.copyKnown(w)
	default:
		read, write := copyBody(w, a.Body, flush)
		err = cmp.Or(closed(read), write)
	}
	a.read = err == nil
	return err
}

func (a *Answer) copyKnown(w io.Writer) error {
	here, err := a.conn.in.Peek(int(min(int64(a.conn.in.Buffered()), a.ContentLength)))
	if err != nil {
		return err
	}
	if _, err := w.Write(here); err != nil {
		return err
	}
	rest := a.ContentLength - int64(len(here))
	if _, err := a.conn.in.Discard(len(here)); err != nil || rest == 0 {
		return err
	}
	n := &io.LimitedReader{R: a.conn.Conn, N: rest}
	if socket, ok := w.(io.ReaderFrom); ok {
		_, err = socket.ReadFrom(n)
	} else {
		read, write := copyBody(w, n, nothing)
		err = cmp.Or(closed(read), write)
	}
	if err == nil && n.N > 0 {
		err = &ClosedError{io.ErrUnexpectedEOF}
	}
	return err
}

// Abort closes the connection, so that a read of the body that waits fails. It may be called at any time.
func (a *Answer) Abort() {
	if a.over.CompareAndSwap(false, true) {
		a.conn.abort()
	}
}

// Close ends the exchange. The connection is kept when the body was read to its end. Closing again does nothing.
func (a *Answer) Close() {
	if a.done {
		return
	}
	a.done = true
	k := a.conn
	open := a.over.CompareAndSwap(false, true)
	mine := a.stop() // false: who asked is gone, and the connection closed
	again := open && mine && a.keep && (a.read || a.Empty()) && k.in.Buffered() == 0
	k.free()
	if !again {
		k.abort()
		return
	}
	k.client.put(k)
}
