package http1

import (
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// framing is how an answer shows where it ends.
type framing int

const (
	empty   framing = iota // it has no body
	known                  // by Content-Length
	chunks                 // the last one is empty
	closing                // with the connection
)

// writer writes an answer.
type writer struct {
	c        *caller
	header   http.Header
	status   int // 0: not written yet
	framing  framing
	left     int64    // of a body of known length
	trailers []string // names that were announced
	keep     bool     // the connection can have another request after the answer
	paced    bool     // there is a deadline for writing
}

func (w *writer) begin() {
	clear(w.header)
	*w = writer{c: w.c, header: w.header, trailers: w.trailers[:0], keep: !w.c.request.Close}
}

// Header implements http.ResponseWriter.
func (w *writer) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. What the header says is on its way afterwards, so that it can be used again.
func (w *writer) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.write(w.line(w.c.out.AvailableBuffer(), status), true)
		_ = w.c.out.Flush() // writing the answer fails as well
		return
	}
	w.status = status
	w.frame()
	b := w.line(w.c.out.AvailableBuffer(), status)
	if w.header["Date"] == nil {
		b = append(time.Now().UTC().AppendFormat(append(b, "Date: "...), http.TimeFormat), "\r\n"...)
	}
	switch {
	case !w.keep && w.c.request.ProtoMinor == 1:
		b = append(b, "Connection: close\r\n"...)
	case w.keep && w.c.request.ProtoMinor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	if w.framing == chunks {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	w.write(b, w.framing == chunks || w.framing == closing || status == http.StatusNoContent)
}

// frame decides how the answer ends, and whether another may follow.
func (w *writer) frame() {
	w.left = -1
	if l := w.header["Content-Length"]; len(l) > 0 {
		if n, err := strconv.ParseUint(l[0], 10, 63); err == nil {
			w.left = int64(n) //nolint:gosec // has 63 bits
		} else {
			delete(w.header, "Content-Length")
		}
	}
	switch {
	case w.c.request.Method == http.MethodHead || w.status < 200 || w.status == http.StatusNoContent || w.status == http.StatusNotModified:
		w.framing = empty
	case w.left >= 0:
		w.framing = known
	case w.c.request.ProtoMinor == 1:
		w.framing = chunks
		for _, v := range w.header["Trailer"] {
			for name := range strings.SplitSeq(v, ",") {
				w.trailers = append(w.trailers, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
			}
		}
	default:
		w.framing = closing
	}
	if w.framing == closing || w.c.server.closing.Load() || httpguts.HeaderValuesContainsToken(w.header["Connection"], "close") || w.c.body.refused() || w.c.body.endless(w.status) {
		w.keep = false
	}
}

// line begins an answer.
func (w *writer) line(b []byte, status int) []byte {
	b = append(append(append(b, "HTTP/1."...), byte('0'+w.c.request.ProtoMinor), ' '), strconv.Itoa(status)...)
	return append(append(append(b, ' '), http.StatusText(status)...), "\r\n"...)
}

// write writes the header after what is in b. bare leaves out a length.
func (w *writer) write(b []byte, bare bool) {
	for name, values := range w.header {
		if name == "Connection" || name == "Transfer-Encoding" || bare && name == "Content-Length" {
			continue
		}
		b = fields(b, name, values)
	}
	_, _ = w.c.out.Write(append(b, "\r\n"...)) // Flush has the error
}

// fields writes lines of a header. What would be taken for another line is left out, or made a space.
func fields(b []byte, name string, values []string) []byte {
	if !token(name) {
		return b
	}
	for _, v := range values {
		b = append(append(b, name...), ": "...)
		for i := range len(v) {
			if ch := v[i]; ch == '\r' || ch == '\n' {
				b = append(b, ' ')
			} else {
				b = append(b, ch)
			}
		}
		b = append(b, "\r\n"...)
	}
	return b
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch w.framing {
	case empty:
		if w.c.request.Method == http.MethodHead {
			return len(p), nil
		}
		return 0, http.ErrBodyNotAllowed
	case known:
		if int64(len(p)) > w.left {
			return 0, http.ErrContentLength
		}
		w.left -= int64(len(p))
	case chunks:
		if len(p) == 0 {
			return 0, nil
		}
		_, _ = w.c.out.Write(append(strconv.AppendInt(w.c.out.AvailableBuffer(), int64(len(p)), 16), "\r\n"...)) // what follows has the error
		n, err := w.c.out.Write(p)
		if err == nil {
			_, err = w.c.out.WriteString("\r\n")
		}
		return n, err
	case closing:
	}
	return w.c.out.Write(p)
}

// ReadFrom implements io.ReaderFrom. From one socket to another a body of known length does not pass through this process's memory.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	socket, ok := w.c.Conn.(io.ReaderFrom)
	if !ok || w.framing != known || w.status == 0 {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	if err := w.c.out.Flush(); err != nil {
		return 0, err
	}
	if l, ok := r.(*io.LimitedReader); !ok || l.N > w.left {
		r = io.LimitReader(r, w.left)
	}
	n, err := socket.ReadFrom(r)
	w.left -= n
	return n, err
}

// FlushError sends what was written, for http.ResponseController.
func (w *writer) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.c.out.Flush()
}

// SetReadDeadline is for http.ResponseController.
func (w *writer) SetReadDeadline(t time.Time) error { return w.c.Conn.SetReadDeadline(t) }

// SetWriteDeadline is for http.ResponseController. It holds for this answer.
func (w *writer) SetWriteDeadline(t time.Time) error {
	w.paced = true
	return w.c.Conn.SetWriteDeadline(t)
}

// end sends what is left of the answer.
func (w *writer) end() error {
	if w.status == 0 {
		w.header["Content-Length"] = []string{"0"}
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.framing == known && w.left > 0:
		_ = w.c.out.Flush() // the answer breaks off in any case
		return io.ErrShortWrite
	case w.framing == chunks:
		b := append(w.c.out.AvailableBuffer(), "0\r\n"...)
		for _, name := range w.trailers {
			b = fields(b, name, w.header[name])
		}
		_, _ = w.c.out.Write(append(b, "\r\n"...)) // Flush has the error
	}
	if err := w.c.out.Flush(); err != nil {
		return err
	}
	if w.paced {
		return w.c.Conn.SetWriteDeadline(time.Time{})
	}
	return nil
}
