package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/frontend/listentest"
)

func server(h http.Handler) *Server {
	return &Server{Handler: h, HeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeader: 8 << 10, Log: slog.New(slog.DiscardHandler)}
}

// serving runs a server on a socket.
func serving(t *testing.T, s interface {
	Serve(l net.Listener) error
	Close() error
}) (addr string) {
	t.Helper()
	l := listentest.Local(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("it ended with %v", err)
		}
	})
	return l.Addr().String()
}

// connect opens a connection on which nothing takes longer than 10 s.
func connect(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	n, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	_ = n.SetDeadline(time.Now().Add(10 * time.Second))
	return n.(*net.TCPConn)
}

const last = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// What is sent is answered as net/http's server answers it, byte for byte but for the order of the header.
func TestAnswersAsNetHTTPDoes(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		text := fmt.Sprintf("%s %q %s host=%s length=%d body=%q error=%v query=%s", r.Method, r.URL.EscapedPath(), r.Proto, r.Host, r.ContentLength, body, err != nil, r.URL.RawQuery)
		for _, name := range []string{"A", "B-C", "Connection", "Expect", "Host"} {
			text += fmt.Sprintf(" %s=%q", name, r.Header[name])
		}
		h := w.Header()
		h.Set("Content-Type", "text/plain")
		switch r.URL.Path {
		case "/chunks":
			h.Set("Trailer", "T, U")
			_, _ = io.WriteString(w, text)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "more")
			h.Set("T", "t")
		case "/status":
			w.WriteHeader(http.StatusTeapot)
			_ = http.NewResponseController(w).Flush()
		case "/nothing":
			w.WriteHeader(http.StatusNoContent)
		case "/unchanged":
			h.Del("Content-Type")
			w.WriteHeader(http.StatusNotModified)
		case "/early":
			h.Set("Link", "soon")
			h.Set("Content-Length", "5")
			w.WriteHeader(http.StatusEarlyHints)
			h.Del("Link")
			h.Set("Content-Length", fmt.Sprint(len(text)))
			_, _ = io.WriteString(w, text)
		case "/leave":
			h.Set("Connection", "close")
			h.Set("Content-Length", fmt.Sprint(len(text)))
			_, _ = io.WriteString(w, text)
		case "/split":
			h.Set("A", "b\r\nC: d")
			h.Set("Content-Length", "0")
		case "/short":
			h.Set("Content-Length", fmt.Sprint(len(text)+1))
			_, _ = io.WriteString(w, text)
		case "/panics":
			panic(http.ErrAbortHandler)
		default:
			h.Set("Content-Length", fmt.Sprint(len(text)))
			_, _ = io.WriteString(w, text)
		}
	})
	theirs := serving(t, &http.Server{Handler: handler, MaxHeaderBytes: 4 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}) // to which it adds 4 KiB
	ours := serving(t, server(handler))
	post := func(rest string) string { return "POST /x HTTP/1.1\r\nHost: x\r\n" + rest }
	for name, text := range map[string]string{
		"two":                              "GET /a?b=c HTTP/1.1\r\nHost: x\r\nA: 1\r\nb-c:  2 \r\nA: 3\r\n\r\n" + last,
		"a body":                           post("Content-Length: 3\r\n\r\nabc") + last,
		"the same length twice":            post("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc") + last,
		"no body":                          post("\r\n") + last,
		"chunks":                           post("Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") + last,
		"chunks with a trailer":            post("Transfer-Encoding: Chunked\r\nTrailer: A\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n") + last,
		"chunks that are none":             post("Transfer-Encoding: chunked\r\n\r\nabc\r\n"),
		"no more lines":                    "GET / HTTP/1.1\nHost: x\n\n" + last,
		"an absolute target":               "GET http://y/z HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"escapes":                          "GET /a%20b%2Fc HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"HTTP/1.0":                         "GET / HTTP/1.0\r\n\r\n",
		"HTTP/1.0, kept":                   "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n" + last,
		"HTTP/1.0, of unknown length":      "GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"close":                            "GET / HTTP/1.1\r\nHost: x\r\nConnection: a, Close\r\n\r\n" + last,
		"HEAD":                             "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"HEAD of chunks":                   "HEAD /chunks HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"an answer in chunks":              "GET /chunks HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"an answer that is empty":          "GET /status HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"no content":                       "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"not modified":                     "GET /unchanged HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"early hints":                      "GET /early HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"told to leave":                    "GET /leave HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"a value with line breaks":         "GET /split HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"too short an answer":              "GET /short HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"a handler that gives up":          "GET /panics HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"no text":                          "",
		"PUT":                              "PUT / HTTP/1.1\r\nHost: x\r\n\r\n" + last,
		"a Host that is empty":             "GET / HTTP/1.1\r\nHost:\r\n\r\n" + last,
		"what nobody reads after an end":   last + "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"an expectation":                   post("Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc") + last,
		"an expectation without a body":    post("Expect: 100-continue\r\n\r\n") + last,
		"a length that a plus precedes":    post("Content-Length: +3\r\n\r\nabc"),
		"a name with a space":              "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
		"a control character":              "GET / HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n",
		"no Host":                          "GET / HTTP/1.1\r\n\r\n",
		"two Hosts":                        "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
		"a Host that is none":              "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
		"no version":                       "GET /\r\nHost: x\r\n\r\n",
		"another version":                  "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
		"no target":                        "GET HTTP/1.1\r\nHost: x\r\n\r\n",
		"a method that is none":            "G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
		"lengths that differ":              post("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
		"a coding that nobody knows":       post("Transfer-Encoding: gzip\r\n\r\nabc"),
		"an expectation that nobody has":   post("Expect: a miracle\r\nContent-Length: 3\r\n\r\nabc"),
		"too long a header":                "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("x", 9<<10) + "\r\n\r\n",
		"too many lines":                   "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: x\r\n", 2000) + "\r\n",
		"what was encrypted":               "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"a target that goes to its server": "OPTIONS /x HTTP/1.1\r\nHost: x\r\n\r\n" + last,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got [2]string
			for i, addr := range []string{ours, theirs} {
				c := connect(t, addr)
				_, _ = io.WriteString(c, text)
				if len(text) < 100 && !strings.Contains(text, "\n\n") && !strings.Contains(text, "\r\n\r\n") || strings.HasSuffix(name, "none") {
					_ = c.CloseWrite()
				}
				got[i] = exchanges(t, c, text)
			}
			if got[0] != got[1] {
				t.Errorf("answered\n%s\nwant\n%s", got[0], got[1])
			}
		})
	}
}

// exchanges reads the answers to what was sent, until the connection is closed, and writes them in one way.
func exchanges(t *testing.T, c net.Conn, sent string) string {
	t.Helper()
	var out strings.Builder
	in := bufio.NewReader(c)
	for asked := range strings.SplitSeq(sent+"\n", " HTTP/1.") {
		method, _, _ := strings.Cut(asked[strings.LastIndex(asked, "\n")+1:], " ")
		for {
			resp, err := http.ReadResponse(in, &http.Request{Method: method})
			if err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("after %s: %v", &out, err)
				}
				return out.String()
			}
			body, err := io.ReadAll(resp.Body)
			resp.Header.Del("Date")
			if resp.StatusCode >= 400 && resp.StatusCode != http.StatusTeapot { // each says in its own words what is wrong
				body = nil
				resp.Header.Del("Content-Length")
				resp.Header.Del("Content-Type")
				resp.ContentLength = 0
			}
			fmt.Fprintf(&out, "%s %d %v length=%d %v close=%v %q %v %v\n", resp.Proto, resp.StatusCode, resp.Header, resp.ContentLength, resp.TransferEncoding, resp.Close, body, err, resp.Trailer)
			if resp.StatusCode >= 200 {
				break
			}
		}
	}
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after that came %q, %v", rest, err)
	}
	return out.String()
}

// What is not as in net/http, where it had to choose for servers of all kinds.
func TestAnswersInItsOwnWay(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		text := fmt.Sprintf("%s %q %v", r.URL.Path, body, err)
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		if r.URL.Path == "/long" {
			w.Header().Set("Content-Length", "1")
		}
		if _, err := io.WriteString(w, text); (err != nil) != (r.URL.Path == "/long") {
			t.Errorf("writing says %v", err)
		}
	})
	addr := serving(t, server(handler))
	for name, tt := range map[string]struct{ text, want string }{
		"empty lines before a request are skipped":   {"\r\n\n" + last, `200 "/last \"\" <nil>"`},
		"a body that breaks off ends the connection": {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc", `200 "/ \"abc\" unexpected EOF"`},
		"chunks that break off":                      {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", `200 "/ \"abc\" unexpected EOF"`},
		"a trailer that breaks off":                  {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b", `200 "/ \"\" unexpected EOF"`},
		"a trailer without an end":                   {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: b\r\n", 2000), `200 "/ \"\" the request's header is too large"`},
		"an answer that is too long is none":         {"GET /long HTTP/1.1\r\nHost: x\r\n\r\n", `200 "" unexpected EOF`},
		"chunks and a length":                        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", `400 "400 Bad Request: Transfer-Encoding comes beside Content-Length, or in HTTP/1.0, so that it is not clear where the body ends.\n"`},
		"chunks in HTTP/1.0":                         {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", `400 "400 Bad Request: Transfer-Encoding comes beside Content-Length, or in HTTP/1.0, so that it is not clear where the body ends.\n"`},
		"only empty lines":                           {strings.Repeat("\r\n", 6), `400 "400 Bad Request: the request line has no method.\n"`},
		"a Kelvin sign":                              {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chun\u212aed\r\n\r\n0\r\n\r\n", `501 "501 Not Implemented: the only Transfer-Encoding that is known here is chunked.\n"`},
		"a tunnel":                                   {"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", `405 "405 Method Not Allowed: CONNECT is for proxies.\n"`},
		"a folded line":                              {"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", `400 "400 Bad Request: a line of the header has no name, or a malformed one.\n"`},
		"too large a header":                         {"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("x", 8<<10) + "\r\n\r\n", `431 "431 Request Header Fields Too Large: the request's header is larger than 8192 bytes.\n"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, addr)
			_, _ = io.WriteString(c, tt.text)
			_ = c.CloseWrite()
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			got := fmt.Sprintf("%d %q", resp.StatusCode, body)
			if err != nil {
				got += " " + err.Error()
			}
			if got != tt.want {
				t.Errorf("answered\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// Who waits for an answer and goes is noticed; who sends another request meanwhile, or has not sent all of it, is not taken for gone.
func TestCallerGoes(t *testing.T) {
	t.Parallel()
	const head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
	for name, tt := range map[string]struct {
		sent  string
		leave func(*net.TCPConn)
		gone  bool
	}{
		"closes":                      {head + "abc", func(c *net.TCPConn) { _ = c.Close() }, true},
		"resets":                      {head + "abc", func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }, true},
		"closes its direction":        {head + "abc", func(c *net.TCPConn) { _ = c.CloseWrite() }, true},
		"had no body":                 {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", func(c *net.TCPConn) { _ = c.Close() }, true},
		"had its second request":      {"GET /at-once HTTP/1.1\r\nHost: x\r\n\r\n" + head + "abc", func(c *net.TCPConn) { _ = c.Close() }, true},
		"sends more":                  {head + "abc", func(c *net.TCPConn) { _, _ = io.WriteString(c, last) }, false},
		"breaks off in its second":    {"GET /at-once HTTP/1.1\r\nHost: x\r\n\r\n" + head + "a", func(c *net.TCPConn) { _ = c.CloseWrite() }, false},
		"breaks off":                  {head + "a", func(c *net.TCPConn) { _ = c.CloseWrite() }, false},
		"chunks, and closes":          {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", func(c *net.TCPConn) { _ = c.Close() }, true},
		"closed before it was served": {head + "abc", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began, left, over := make(chan bool), make(chan bool), make(chan bool, 1)
			var s *Server
			s = server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/" {
					return
				}
				began <- true
				<-left
				for strings.HasPrefix(name, "breaks off") && !s.noticed() {
					time.Sleep(time.Millisecond)
				}
				_, err := io.Copy(io.Discard, r.Body)
				if !tt.gone { // what happened is known when the body ends, or never
					over <- r.Context().Err() != nil || (err != nil) != strings.HasPrefix(name, "breaks off")
					return
				}
				select {
				case <-r.Context().Done():
					over <- true
				case <-time.After(10 * time.Second):
					over <- false
				}
			}))
			addr := serving(t, s)
			c := connect(t, addr)
			_, _ = io.WriteString(c, tt.sent)
			if tt.leave == nil {
				_ = c.Close()
				<-began
			} else {
				<-began
				tt.leave(c)
			}
			close(left)
			if got := <-over; got != tt.gone {
				t.Errorf("the caller is taken for gone: %v", got)
			}
		})
	}
}

// noticed reports whether a caller closed its direction.
func (s *Server) noticed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.callers {
		if c.hup.Load() {
			return true
		}
	}
	return false
}

// A handler that waits for its caller while the body is read hears of it as well.
func TestCallerGoesLater(t *testing.T) {
	t.Parallel()
	began, over := make(chan bool), make(chan bool)
	addr := serving(t, server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		began <- true
		<-r.Context().Done()
		over <- true
	})))
	c := connect(t, addr)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
	<-began
	_ = c.Close()
	<-over
}

// A body that nobody read does not keep the answer from the caller, nor what was sent after it from being answered when it was short.
func TestUnreadBodies(t *testing.T) {
	t.Parallel()
	addr := serving(t, server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "2")
		switch r.URL.Path {
		case "/half":
			_, _ = io.ReadFull(r.Body, make([]byte, 5))
		case "/large":
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
		_, _ = io.WriteString(w, "no")
	})))
	post := func(path, rest string, body int) string {
		return "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + rest + "\r\n" + strings.Repeat("x", body)
	}
	for name, tt := range map[string]struct {
		sent    string
		answers int
		told    bool // to close
	}{
		"short":                                {post("/", "Content-Length: 1000\r\n", 1000) + last, 2, false},
		"half read":                            {post("/half", "Content-Length: 1000\r\n", 1000) + last, 2, false},
		"in chunks":                            {post("/", "Transfer-Encoding: chunked\r\n", 0) + "3\r\nabc\r\n0\r\n\r\n" + last, 2, false},
		"long":                                 {post("/", "Content-Length: 1000000\r\n", 1000000) + last, 1, true},
		"too large, in chunks":                 {post("/large", "Transfer-Encoding: chunked\r\n", 0) + "f4240\r\n" + strings.Repeat("x", 1000000) + "\r\n0\r\n\r\n" + last, 1, true},
		"long, in chunks":                      {post("/", "Transfer-Encoding: chunked\r\n", 0) + "f4240\r\n" + strings.Repeat("x", 1000000) + "\r\n0\r\n\r\n" + last, 1, false},
		"malformed chunks":                     {post("/", "Transfer-Encoding: chunked\r\n", 0) + "x\r\n" + last, 1, false},
		"asked for, and not sent":              {post("/", "Expect: 100-continue\r\nContent-Length: 1000\r\n", 0), 1, true},
		"asked for in vain, and sent after it": {post("/", "Expect: 100-continue\r\nContent-Length: 1000\r\n", 1000) + last, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, addr)
			go func() { _, _ = io.WriteString(c, tt.sent) }() // as long as it is read
			in := bufio.NewReader(c)
			for n := range tt.answers {
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "no" || n == 0 && resp.Close != tt.told {
					t.Errorf("answer %d: %q %v, to close: %v", n, body, err, resp.Close)
				}
			}
			if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("after that came %q, %v", rest, err)
			}
		})
	}
}

func TestExpectations(t *testing.T) {
	t.Parallel()
	read := make(chan bool)
	addr := serving(t, server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-read
		_, _ = io.Copy(w, r.Body)
	})))
	c := connect(t, addr)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	in := bufio.NewReader(c)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if b, err := in.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %q, %v before the body was asked for", b, err)
	}
	close(read)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusContinue {
		t.Fatalf("got %v, %v", resp, err)
	}
	_, _ = io.WriteString(c, "abc")
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "abc" || resp.Close {
		t.Errorf("got %q, %v, to close: %v", body, err, resp.Close)
	}
}

// An answer is on its way when it is flushed, and can be read from a socket.
func TestAnswersOnTheirWay(t *testing.T) {
	t.Parallel()
	source := listentest.Local(t)
	const size = 1 << 20
	go func() {
		c, err := source.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write(make([]byte, size+10))
		_ = c.Close()
	}()
	more := make(chan bool)
	addr := serving(t, server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/from" {
			c, err := new(net.Dialer).DialContext(r.Context(), "tcp", source.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			w.Header().Set("Content-Length", fmt.Sprint(size))
			w.WriteHeader(http.StatusOK)
			if n, err := w.(io.ReaderFrom).ReadFrom(c); n != size || err != nil {
				t.Errorf("%d bytes are copied: %v", n, err)
			}
			return
		}
		_, _ = io.WriteString(w, "a")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, "b")
	})))
	c := connect(t, addr)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /from HTTP/1.1\r\nHost: x\r\n\r\n"+last)
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, first); err != nil || first[0] != 'a' {
		t.Fatalf("%q, %v", first, err)
	}
	more <- true
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "b" {
		t.Errorf("%q, %v", rest, err)
	}
	if resp, err = http.ReadResponse(in, nil); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("%d bytes came, %v", n, err)
	}
	go func() { more <- true }()
	if resp, err = http.ReadResponse(in, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the connection is not used again: %v", err)
	}
}

// dial connects to a server in memory.
func dial(t *testing.T, p *listentest.Pipes) net.Conn {
	t.Helper()
	c, err := p.Dial(t.Context(), "198.51.100.7:5000")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// in fake time a server answers what comes over pipes.
func inFakeTime(t *testing.T, h http.Handler, test func(t *testing.T, s *Server, p *listentest.Pipes, ended <-chan error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, p, ended := server(h), listentest.NewPipes("server:80"), make(chan error, 1)
		go func() { ended <- s.Serve(p) }()
		synctest.Wait()
		defer func() { _ = s.Close() }()
		test(t, s, p, ended)
	})
}

// open tells how long a connection stays open.
func open(c net.Conn) time.Duration {
	began := time.Now()
	_, _ = io.Copy(io.Discard, c)
	return time.Since(began)
}

func TestCallersThatDoNothing(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sent string
		want time.Duration
	}{
		"no request":      {"", 10 * time.Second},
		"half a header":   {"GET / HTTP/1.1\r\nHost: x\r\n", 10 * time.Second},
		"one request":     {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", time.Minute},
		"empty lines":     {"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n\r\n", time.Minute},
		"half after them": {"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n", 10 * time.Second},
		"one and a half":  {"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", 10 * time.Second},
		"an unread body":  {"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na", unreadFor + lastWords},
		"nonsense":        {"nonsense\r\n\r\n", lastWords},
		"an answered one": {"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na", time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inFakeTime(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), func(t *testing.T, _ *Server, p *listentest.Pipes, _ <-chan error) {
				c := dial(t, p)
				go func() { _, _ = io.WriteString(c, tt.sent) }()
				if got := open(c); got != tt.want {
					t.Errorf("the connection was closed after %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// What a large header took is not kept for the next request of its connection.
func TestLargeHeadersAreForgotten(t *testing.T) {
	t.Parallel()
	var large strings.Builder
	for i := range 200 {
		fmt.Fprintf(&large, "A-%d: %s\r\n", i, strings.Repeat("x", 20))
	}
	inFakeTime(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			w.Header()[name] = values
		}
	}), func(t *testing.T, s *Server, p *listentest.Pipes, _ <-chan error) {
		c := dial(t, p)
		in := bufio.NewReader(c)
		for n, header := range []string{large.String(), "B: c\r\n", large.String()} {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n"+header+"\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil || (resp.Header.Get("A-199") != "") != (n != 1) || (resp.Header.Get("B") == "c") != (n == 1) {
				t.Fatal(resp, err)
			}
			synctest.Wait()
			s.mu.Lock()
			for c := range s.callers {
				if kept := []int{cap(c.text), cap(c.values), len(c.blank.Header), len(c.answer.header), len(c.request.Header)}; n != 1 && !slices.Equal(kept, make([]int, 5)) {
					t.Errorf("after a large header are kept %v", kept)
				}
			}
			s.mu.Unlock()
		}
	})
}

// A handler decides how long a body and an answer may take. What it decides is over with the request.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	inFakeTime(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if string(body) != "abc" || err != nil {
			t.Errorf("%q, %v", body, err)
		}
		c := http.NewResponseController(w)
		if r.URL.Path != "/first" {
			return
		}
		if err := errors.Join(c.SetReadDeadline(time.Now().Add(time.Second)), c.SetWriteDeadline(time.Now().Add(time.Second))); err != nil {
			t.Error(err)
		}
	}), func(t *testing.T, _ *Server, p *listentest.Pipes, _ <-chan error) {
		c := dial(t, p)
		in := bufio.NewReader(c)
		for _, path := range []string{"/first", "/second"} {
			_, _ = io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
			time.Sleep(5 * time.Minute)
			_, _ = io.WriteString(c, "abc")
			if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
			time.Sleep(10 * time.Second)
		}
		_ = c.Close()
	})
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	inFakeTime(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Minute)
		}
		if r.URL.Path != "/" {
			time.Sleep(time.Minute)
		}
	}), func(t *testing.T, s *Server, p *listentest.Pipes, ended <-chan error) {
		idle, busy, begun, fresh := dial(t, p), dial(t, p), dial(t, p), dial(t, p)
		_, _ = io.WriteString(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(idle), nil); err != nil || resp.Close {
			t.Fatal(resp, err)
		}
		_, _ = io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
		_, _ = io.WriteString(begun, "GET /begun HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(begun), nil); err != nil || resp.Close {
			t.Fatal(resp, err)
		}
		synctest.Wait()
		began, over := time.Now(), make(chan error, 1)
		go func() { over <- s.Shutdown(context.Background()) }()
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := open(idle); got != 0 {
				t.Errorf("an idle connection was closed after %v", got)
			}
		})
		wg.Go(func() {
			if got := open(begun); got != 2*time.Minute {
				t.Errorf("a connection whose answer had begun was closed after %v", got)
			}
		})
		wg.Go(func() {
			if got := open(fresh); got != freshFor {
				t.Errorf("a fresh connection was closed after %v", got)
			}
		})
		resp, err := http.ReadResponse(bufio.NewReader(busy), nil)
		if err != nil || !resp.Close || time.Since(began) != time.Minute {
			t.Errorf("a request that was there is answered with %v, %v after %v", resp, err, time.Since(began))
		}
		if err := <-over; err != nil || time.Since(began) != 2*time.Minute {
			t.Errorf("shut down with %v after %v", err, time.Since(began))
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("it ended with %v", err)
		}
		if err := s.Serve(listentest.NewPipes("server:80")); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("it serves again: %v", err)
		}
		wg.Wait()
	})
}

// A request that takes too long is cut off by Close, and its handler hears of that.
func TestClose(t *testing.T) {
	t.Parallel()
	var heard atomic.Bool
	inFakeTime(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		heard.Store(true)
	}), func(t *testing.T, s *Server, p *listentest.Pipes, _ <-chan error) {
		c := dial(t, p)
		_, _ = io.WriteString(c, last)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shut down with %v", err)
		}
		_ = s.Close()
		if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
		synctest.Wait()
		if !heard.Load() {
			t.Error("the handler goes on")
		}
	})
}

// A machine without file descriptors has them again later; what is wrong with the listener itself is not waited for.
func TestListenersThatFail(t *testing.T) {
	t.Parallel()
	inFakeTime(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), func(t *testing.T, _ *Server, p *listentest.Pipes, ended <-chan error) {
		p.Fail(&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)})
		began := time.Now()
		c := dial(t, p)
		if took := time.Since(began); took != acceptAgain {
			t.Errorf("the next connection was taken after %v, want %v", took, acceptAgain)
		}
		_ = c.Close()
		broken := errors.New("broken")
		p.Fail(broken)
		if err := <-ended; !errors.Is(err, broken) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// A handler that panics loses its connection, and nothing else. The log says why, unless the handler meant it.
func TestPanics(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	inFakeTime(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/meant" {
			panic(http.ErrAbortHandler)
		}
		panic("not meant")
	}), func(t *testing.T, s *Server, p *listentest.Pipes, _ <-chan error) {
		s.Log = slog.New(slog.NewTextHandler(&log, nil))
		for _, path := range []string{"/meant", "/else"} {
			c := dial(t, p)
			_, _ = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
			if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
				t.Errorf("%q, %v", rest, err)
			}
			if got := strings.Contains(log.String(), "not meant"); got != (path == "/else") {
				t.Errorf("%s: the log is %q", path, &log)
			}
		}
	})
}

// A server leaves no file open, and its watch none of the connections.
func TestLeavesNothingOpen(t *testing.T) { //nolint:paralleltest // counts the files of the process
	files := func() int {
		n := 0
		links, _ := filepath.Glob("/proc/self/fd/*")
		for _, l := range links {
			if to, _ := os.Readlink(l); to == "anon_inode:[eventpoll]" {
				n++
			}
		}
		return n
	}
	before := files()
	s := server(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	l := listentest.Local(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	for range 3 {
		c := connect(t, l.Addr().String())
		_, _ = io.WriteString(c, last)
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-ended
	if len(s.watch.gone) > 0 || len(s.callers) > 0 {
		t.Errorf("%d connections are watched and %d known", len(s.watch.gone), len(s.callers))
	}
	if after := files(); after > max(before, 1) { // Go has one of its own
		t.Errorf("%d epoll instances are open, %d were", after, before)
	}
}

// What this parser takes, net/http takes for the same request.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST http://y/z?q HTTP/1.0\nA:b\nContent-Length: 3\n\n", "PUT /a%20b HTTP/1.1\r\nhost: x:1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\na: 1\r\nA: 2\r\n\r\n",
		"GET / HTTP/1.0\n\r\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chun\u212aed\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\nPragma: no-cache\r\n\r\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := server(nil)
		here, there := net.Pipe()
		defer func() { _, _ = here.Close(), there.Close() }()
		c := newCaller(s, here)
		defer c.cancel()
		c.in = bufio.NewReader(strings.NewReader(text))
		if c.readHead() != nil || c.parse(string(c.text)) != nil {
			return
		}
		got := &c.request
		want, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.TrimLeft(text, "\r\n"))))
		if err != nil {
			t.Fatalf("%q is taken, but: %v", text, err)
		}
		want.Header.Del("Cache-Control") // which it adds for Pragma
		got.Header.Del("Cache-Control")
		want.Header.Del("Trailer") // which it puts elsewhere
		got.Header.Del("Trailer")
		show := func(r *http.Request) string {
			return fmt.Sprintf("%s %s %s %d %d %q %q %v %d %v %v", r.Method, r.RequestURI, r.Proto, r.ProtoMajor, r.ProtoMinor, r.URL, r.Host, r.Header, r.ContentLength, r.TransferEncoding, r.Close)
		}
		if show(got) != show(want) {
			t.Errorf("%q is\n%s\nwant\n%s", text, show(got), show(want))
		}
	})
}
