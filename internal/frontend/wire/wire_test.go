package wire

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/frontend/listentest"
)

// pod is a server that speaks byte by byte. Every connection runs script.
type pod struct {
	dials  atomic.Int32
	script func(c net.Conn, in *bufio.Reader)
}

func (p *pod) dial(context.Context, string, string) (net.Conn, error) {
	p.dials.Add(1)
	here, there := net.Pipe()
	go func() {
		defer func() { _ = there.Close() }()
		p.script(there, bufio.NewReader(there))
	}()
	return here, nil
}

// answering reads requests without a body and answers each with the next of some texts; then it closes.
func answering(answers ...string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, in *bufio.Reader) {
		for _, a := range answers {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			if _, err := io.WriteString(c, a); err != nil {
				return
			}
		}
	}
}

// with runs a test in fake time with a client of a pod.
func with(t *testing.T, script func(net.Conn, *bufio.Reader), test func(t *testing.T, c *Client, p *pod)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pod{script: script}
		c := &Client{DialContext: p.dial, IdleFor: time.Second}
		defer c.CloseIdle()
		test(t, c, p)
	})
}

func get() *Request {
	return &Request{Method: "GET", Head: []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")}
}

// body reads an answer as a router does, and closes it.
func body(a *Answer) (string, error) {
	defer a.Close()
	var all bytes.Buffer
	err := a.CopyTo(&all, func() error { return nil })
	return all.String(), err
}

// kept are the connections to the pod that nobody uses.
func (c *Client) kept() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.idle["pod"])
}

func isClosed(err error) bool {
	var closed *ClosedError
	return errors.As(err, &closed)
}

const whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestAnswers(t *testing.T) {
	t.Parallel()
	const broken, malformed = "unexpected EOF", "malformed"
	for _, tt := range []struct {
		name, method, answer string
		status               int
		body                 string
		err, bodyErr         string
		kept                 bool
	}{
		{name: "length", answer: whole, status: 200, body: "ok", kept: true},
		{name: "empty", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, kept: true},
		{name: "no content", answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204, kept: true},
		{name: "not modified, with the length there would be", answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", status: 304, kept: true},
		{name: "HEAD", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", status: 200, kept: true},
		{name: "chunks", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x=y\r\nay!\r\n0\r\n\r\n", status: 200, body: "okay!", kept: true},
		{name: "until it closes", answer: "HTTP/1.1 200 OK\r\n\r\nok", status: 200, body: "ok"},
		{name: "HTTP/1.0", answer: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok"},
		{name: "says that it closes", answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok"},
		{name: "more than an answer", answer: whole + "HTTP/1.1 200 OK\r\nX-Of: another\r\n\r\n", status: 200, body: "ok"},
		{name: "continue", answer: "HTTP/1.1 100 Continue\r\n\r\n" + whole, status: 200, body: "ok", kept: true},
		{name: "hint", answer: "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + whole, status: 200, body: "ok", kept: true},
		{name: "hints without end", answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxEarly+1) + whole, err: "informational"},
		{name: "switched protocols", answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", status: 101},
		{name: "header without end", answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 1100), err: "header is larger"},
		{name: "line without end", answer: "HTTP/1.1 200 " + strings.Repeat("y", maxHeader), err: "header is larger"},
		{name: "closed at once", answer: "", err: broken},
		{name: "closed in the header", answer: "HTTP/1.1 200 OK\r\nX: y", err: broken},
		{name: "no HTTP", answer: "SSH-2.0-OpenSSH_9.2\r\n", err: malformed},
		{name: "no status there is", answer: "HTTP/1.1 099 Early\r\n\r\n" + whole, err: malformed},
		{name: "two lengths", answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", err: "Content-Length"},
		{name: "negative length", answer: "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n", err: "Content-Length"},
		{name: "closed in the body", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", status: 200, body: "ok", bodyErr: broken},
		{name: "closed between chunks", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", status: 200, body: "ok", bodyErr: broken},
		{name: "no chunk", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay", status: 200, body: "ok", bodyErr: malformed},
		// RFC 9112, 6.3: chunks win over a length, which is how answers are smuggled.
		{name: "length and chunks", answer: "HTTP/1.1 200 OK\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", status: 200, body: "ok", kept: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			answers := []string{tt.answer}
			if tt.kept {
				answers = append(answers, whole)
			}
			with(t, answering(answers...), func(t *testing.T, c *Client, p *pod) {
				r := get()
				if tt.method != "" {
					r.Method, r.Head = tt.method, []byte(tt.method+" / HTTP/1.1\r\nHost: x\r\n\r\n")
				}
				a, err := c.Do(t.Context(), "pod", r)
				if tt.err != "" {
					if err == nil || !strings.Contains(err.Error(), tt.err) {
						t.Fatalf("error %v, want one with %q", err, tt.err)
					}
					if isClosed(err) != (tt.err == broken) {
						t.Errorf("the server closed the connection: %v, by the error %v", isClosed(err), err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				got, err := body(a)
				if a.StatusCode != tt.status || got != tt.body {
					t.Errorf("got %d %q, want %d %q", a.StatusCode, got, tt.status, tt.body)
				}
				if tt.bodyErr == "" && err != nil || tt.bodyErr != "" && (err == nil || !strings.Contains(err.Error(), tt.bodyErr)) {
					t.Errorf("the body's error is %v, want %q", err, tt.bodyErr)
				}
				if isClosed(err) != (tt.bodyErr == broken) {
					t.Errorf("the server closed the connection: %v, by the body's error %v", isClosed(err), err)
				}
				if kept := c.kept() == 1; kept != tt.kept {
					t.Errorf("the connection was kept: %v, want %v", kept, tt.kept)
				}
				if tt.kept { // and is good for another request
					a, err := c.Do(t.Context(), "pod", get())
					if err != nil {
						t.Fatal(err)
					}
					if got, err := body(a); got != "ok" || err != nil {
						t.Errorf("the next answer is %q, %v", got, err)
					}
					if n := p.dials.Load(); n != 1 {
						t.Errorf("%d connections for two requests", n)
					}
				}
			})
		})
	}
}

func TestHintsArePassedOnButContinue(t *testing.T) {
	t.Parallel()
	with(t, answering("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"+whole), func(t *testing.T, c *Client, _ *pod) {
		r := get()
		var got []string
		r.Early = func(code int, h http.Header) { got = append(got, fmt.Sprint(code, h.Get("Link"))) }
		a, err := c.Do(t.Context(), "pod", r)
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		if want := []string{"103a", "102"}; !slices.Equal(got, want) {
			t.Errorf("hints %q, want %q", got, want)
		}
	})
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	with(t, answering("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"), func(t *testing.T, c *Client, _ *pod) {
		a, err := c.Do(t.Context(), "pod", get())
		if err != nil {
			t.Fatal(err)
		}
		if _, announced := a.Trailer["X-Sum"]; !announced {
			t.Error("the trailer was not announced")
		}
		if got, err := body(a); got != "ok" || err != nil || a.Trailer.Get("X-Sum") != "7" {
			t.Errorf("got %q, %v with the trailer %q", got, err, a.Trailer)
		}
	})
}

func TestAnswerLeftUnreadEndsTheConnection(t *testing.T) {
	t.Parallel()
	with(t, answering(whole), func(t *testing.T, c *Client, _ *pod) {
		a, err := c.Do(t.Context(), "pod", get())
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		a.Close()
		a.Abort()
		if c.kept() != 0 {
			t.Error("a connection with half an answer in it was kept")
		}
	})
}

// What a request may have started is not started again, whoever was to blame.
func TestNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		good int // requests that are answered before
		read int // bytes of the last one
	}{{"all of it read", 1, 1000}, {"a part of it read", 1, 5}, {"nothing read of the first", 0, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			script := func(c net.Conn, in *bufio.Reader) {
				for range tt.good {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					_, _ = io.WriteString(c, whole)
				}
				_, _ = c.Read(make([]byte, tt.read)) // then it hangs up
			}
			with(t, script, func(t *testing.T, c *Client, p *pod) {
				for range tt.good {
					a, err := c.Do(t.Context(), "pod", get())
					if err != nil {
						t.Fatal(err)
					}
					if _, err := body(a); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := c.Do(t.Context(), "pod", get()); err == nil {
					t.Error("it was answered")
				}
				if n := p.dials.Load(); n != 1 {
					t.Errorf("the request went out on %d connections, want 1", n)
				}
			})
		})
	}
}

// A connection that is being closed for a caller who is gone is not another caller's.
func TestConnectionOfACallerWhoIsGoneIsNotKept(t *testing.T) {
	t.Parallel()
	with(t, answering(whole, whole), func(t *testing.T, c *Client, _ *pod) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a, err := c.Do(ctx, "pod", get())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.ReadAll(make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if a.Close(); c.kept() != 0 {
			t.Error("the connection was kept")
		}
	})
}

// A connection that was closed while nobody used it costs no request, even before it is looked at.
func TestClosedConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	with(t, answering(whole), func(t *testing.T, c *Client, p *pod) {
		for range 3 {
			a, err := c.Do(t.Context(), "pod", get())
			if err != nil {
				t.Fatal(err)
			}
			if got, err := body(a); got != "ok" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			synctest.Wait() // the pod has closed
		}
		if n := p.dials.Load(); n != 3 {
			t.Errorf("%d connections, want 3", n)
		}
	})
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	with(t, answering(whole, whole, whole), func(t *testing.T, c *Client, p *pod) {
		do := func() {
			t.Helper()
			a, err := c.Do(t.Context(), "pod", get())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := body(a); err != nil {
				t.Fatal(err)
			}
		}
		do()
		time.Sleep(c.IdleFor - 1)
		do()
		if n := p.dials.Load(); n != 1 {
			t.Errorf("%d connections before the time was over, want 1", n)
		}
		time.Sleep(c.IdleFor) // is not used any more, whether or not it was closed already
		do()
		if n := p.dials.Load(); n != 2 {
			t.Errorf("%d connections after the time was over, want 2", n)
		}
		time.Sleep(2 * c.IdleFor)
		if n := c.kept(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// posting asks with a body.
func posting(r io.Reader, length int) *Request {
	framing := fmt.Sprintf("Content-Length: %d", length)
	if length < 0 {
		framing = "Transfer-Encoding: chunked"
	}
	return &Request{Method: "POST", Head: []byte("POST / HTTP/1.1\r\nHost: x\r\n" + framing + "\r\n\r\n"), Body: r, Chunked: length < 0, Cut: func() {}}
}

func TestUploads(t *testing.T) {
	t.Parallel()
	sent := bytes.Repeat([]byte("0123456789"), 30000)
	for _, length := range []int{len(sent), -1} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			t.Parallel()
			script := func(c net.Conn, in *bufio.Reader) {
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					got, err := io.ReadAll(r.Body)
					if err != nil || !bytes.Equal(got, sent) || r.ContentLength != int64(length) {
						_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
						continue
					}
					_, _ = io.WriteString(c, whole)
				}
			}
			with(t, script, func(t *testing.T, c *Client, p *pod) {
				for range 2 {
					a, err := c.Do(t.Context(), "pod", posting(bytes.NewReader(sent), length))
					if err != nil {
						t.Fatal(err)
					}
					if got, err := body(a); got != "ok" || err != nil || a.Severed {
						t.Errorf("got %d %q, %v; severed: %v", a.StatusCode, got, err, a.Severed)
					}
				}
				if n := p.dials.Load(); n != 1 {
					t.Errorf("%d connections, want 1", n)
				}
			})
		})
	}
}

// stuck is a body whose sender stops half-way, until it is cut.
type stuck struct {
	first io.Reader
	cut   chan struct{}
	n     atomic.Int32
}

func (s *stuck) Read(p []byte) (int, error) {
	if n, err := s.first.Read(p); err == nil {
		return n, nil
	}
	<-s.cut
	return 0, os.ErrDeadlineExceeded
}

func (s *stuck) Cut() { s.n.Add(1); close(s.cut) }

// An answer that comes before the body has ended is passed on, and nothing of the rest stays behind.
func TestAnswerBeforeTheBodyHasEnded(t *testing.T) {
	t.Parallel()
	const refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n"
	for _, tt := range []struct {
		name, answer string
		read         int // bytes of the body
		took         time.Duration
	}{
		{"goes on", refusal + "\r\nno", 10, lateUpload},
		{"wants no more", refusal + "Connection: close\r\n\r\nno", 10, 0},
		{"reads nothing", refusal + "\r\nno", 0, lateUpload},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			script := func(c net.Conn, in *bufio.Reader) {
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				_, _ = io.CopyN(io.Discard, r.Body, int64(tt.read))
				_, _ = io.WriteString(c, tt.answer)
				time.Sleep(time.Second) // neither reads nor closes
			}
			with(t, script, func(t *testing.T, c *Client, _ *pod) {
				defer time.Sleep(2 * time.Second)
				s := &stuck{first: strings.NewReader("0123456789"), cut: make(chan struct{})}
				r := posting(s, 20)
				r.Cut = s.Cut
				began := time.Now()
				a, err := c.Do(t.Context(), "pod", r)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := body(a); a.StatusCode != 413 || got != "no" || err != nil {
					t.Errorf("got %d %q, %v", a.StatusCode, got, err)
				}
				if took := time.Since(began); !a.Severed || s.n.Load() != 1 || took != tt.took {
					t.Errorf("severed: %v, cut %d times, after %v, want %v", a.Severed, s.n.Load(), took, tt.took)
				}
				if c.kept() != 0 {
					t.Error("a connection with half a request in it was kept")
				}
			})
		})
	}
}

type broken struct{ error }

func (b broken) Read([]byte) (int, error) { return 0, b.error }

func TestBodyThatCannotBeRead(t *testing.T) {
	t.Parallel()
	var got error
	script := func(_ net.Conn, in *bufio.Reader) {
		if r, err := http.ReadRequest(in); err == nil {
			_, got = io.ReadAll(r.Body)
		}
	}
	with(t, script, func(t *testing.T, c *Client, _ *pod) {
		cause := errors.New("no more")
		_, err := c.Do(t.Context(), "pod", posting(io.MultiReader(strings.NewReader("half"), broken{cause}), 8))
		var u *UploadError
		if !errors.As(err, &u) || !errors.Is(err, cause) || isClosed(err) {
			t.Errorf("error %v", err)
		}
		synctest.Wait()
		if !errors.Is(got, io.ErrUnexpectedEOF) {
			t.Errorf("the pod takes half a body for a whole one: %v", got)
		}
	})
}

func TestTimeAndCallers(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before the answer", "in the body"} {
		for _, why := range []string{"deadline", "caller"} {
			t.Run(why+" "+when, func(t *testing.T) {
				t.Parallel()
				script := func(c net.Conn, in *bufio.Reader) {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					if when == "in the body" {
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
					}
					_, _ = c.Read(make([]byte, 1))
				}
				with(t, script, func(t *testing.T, c *Client, _ *pod) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					r, want, began := get(), context.Canceled, time.Now()
					if why == "deadline" {
						r.Deadline, want = time.Now().Add(time.Minute), os.ErrDeadlineExceeded
					} else {
						time.AfterFunc(time.Minute, cancel)
					}
					a, err := c.Do(ctx, "pod", r)
					if when == "in the body" {
						if err != nil {
							t.Fatal(err)
						}
						_, err = body(a)
						if want == context.Canceled { //nolint:errorlint // chosen above
							want = io.ErrClosedPipe
						}
					}
					if took := time.Since(began); !errors.Is(err, want) || isClosed(err) || took != time.Minute {
						t.Errorf("error %v after %v, want %v after a minute", err, took, want)
					}
				})
			})
		}
	}
}

func TestDialErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &Client{IdleFor: time.Second, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			if addr == "gone" {
				return nil, errors.New("refused")
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		var dial *DialError
		if _, err := c.Do(t.Context(), "gone", get()); !errors.As(err, &dial) {
			t.Errorf("error %v", err)
		}
		r, began := get(), time.Now()
		r.Deadline = began.Add(time.Second)
		if _, err := c.Do(t.Context(), "slow", r); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := c.Do(ctx, "slow", get()); errors.As(err, &dial) || !errors.Is(err, context.Canceled) {
			t.Errorf("error %v: who is gone is no reason to try another server", err)
		}
	})
}

// Over TCP, too, a caller who leaves is not taken for a server that closed the connection.
func TestCallerLeavesOverTCP(t *testing.T) {
	t.Parallel()
	l := listentest.Local(t)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
		_, _ = io.Copy(io.Discard, c) // until the other side closes
		_ = c.Close()
	}()
	c := &Client{IdleFor: time.Minute, DialContext: (&net.Dialer{}).DialContext}
	ctx, leave := context.WithCancel(t.Context())
	a, err := c.Do(ctx, l.Addr().String(), get())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	leave()
	if err := a.ReadAll(make([]byte, 3)); err == nil || isClosed(err) {
		t.Errorf("error %v", err)
	}
}

// A machine may break a connection off where a process would have closed it.
func TestConnectionsThatAreResetOverTCP(t *testing.T) {
	t.Parallel()
	for n, answer := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"} {
		l := listentest.Local(t)
		read := make(chan struct{})
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, answer)
			if answer != "" {
				<-read // a reset would take it away
			}
			if socket, ok := c.(*net.TCPConn); ok {
				_ = socket.SetLinger(0)
			}
			_ = c.Close()
		}()
		c := &Client{IdleFor: time.Minute, DialContext: (&net.Dialer{}).DialContext}
		a, err := c.Do(t.Context(), l.Addr().String(), get())
		if answer != "" && err == nil {
			close(read)
			if n == 1 {
				err = a.ReadAll(make([]byte, 3))
			} else {
				err = a.CopyTo(struct{ io.Writer }{io.Discard}, nothing)
			}
			a.Close()
		}
		if !isClosed(err) {
			t.Errorf("after %q: error %v", answer, err)
		}
	}
}

// Over TCP a kept connection is looked at before it is used.
func TestKeptConnectionsOverTCP(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		after string // what the server says without being asked
		close bool
		dials int32
	}{
		{"stays open", "", false, 1},
		{"closed", "", true, 2},
		{"says what nobody asked", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", false, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := listentest.Local(t)
			large := strings.Repeat("x", 300000)
			said := make(chan struct{}, 2)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer func() { _ = c.Close() }()
						for in := bufio.NewReader(c); ; {
							if _, err := http.ReadRequest(in); err != nil {
								return
							}
							_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(large), large)
							_, _ = io.WriteString(c, tt.after)
							if tt.close {
								_ = c.Close()
							}
							said <- struct{}{}
						}
					}()
				}
			}()
			var dials atomic.Int32
			c := &Client{IdleFor: time.Minute, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dials.Add(1)
				return (&net.Dialer{}).DialContext(ctx, network, addr)
			}}
			defer c.CloseIdle()
			for range 2 {
				a, err := c.Do(t.Context(), l.Addr().String(), get())
				if err != nil {
					t.Fatal(err)
				}
				if got, err := body(a); got != large || err != nil {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
				<-said
			}
			if got := dials.Load(); got != tt.dials {
				t.Errorf("%d connections for two requests, want %d", got, tt.dials)
			}
		})
	}
}

// FuzzAnswer: whatever a server says, an answer has what net/http reads, and a connection is kept only when the answer
// was all that it held.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nok"))
	f.Add([]byte(whole + whole))
	f.Fuzz(func(t *testing.T, said []byte) {
		c := &Client{IdleFor: time.Hour, DialContext: func(context.Context, string, string) (net.Conn, error) {
			return &canned{in: bytes.NewReader(said)}, nil
		}}
		want, wantBody, wantErr, rest := expected(said)
		a, err := c.Do(t.Context(), "pod", get())
		if (err == nil) != (want != nil) {
			t.Fatalf("error %v, net/http's answer is %v", err, want)
		}
		if err != nil {
			return
		}
		got, err := body(a)
		if a.StatusCode != want.StatusCode || got != wantBody || (err == nil) != (wantErr == nil) {
			t.Fatalf("got %d %q, %v; want %d %q, %v", a.StatusCode, got, err, want.StatusCode, wantBody, wantErr)
		}
		if c.kept() == 1 && (want.Close || err != nil || rest > 0 && len(said) < 4096) {
			t.Fatalf("kept with %d bytes left; closes: %v; error %v", rest, want.Close, err)
		}
	})
}

// expected is what net/http reads, and how many bytes it leaves.
func expected(said []byte) (resp *http.Response, body string, bodyErr error, rest int) {
	in := bytes.NewReader(said)
	b := bufio.NewReader(in)
	for range maxEarly + 1 {
		r, err := http.ReadResponse(b, nil)
		if err != nil {
			return nil, "", nil, 0
		}
		if r.StatusCode < 100 {
			return nil, "", nil, 0
		}
		if r.StatusCode >= 200 || r.StatusCode == http.StatusSwitchingProtocols {
			all, err := io.ReadAll(r.Body)
			return r, string(all), err, in.Len() + b.Buffered()
		}
	}
	return nil, "", nil, 0
}

// canned is a connection to a server that says the same whatever it is asked.
type canned struct {
	net.Conn
	in *bytes.Reader
}

func (c *canned) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (*canned) Write(p []byte) (int, error)        { return len(p), nil }
func (*canned) Close() error                       { return nil }
func (*canned) SetDeadline(time.Time) error        { return nil }
func (*canned) SetWriteDeadline(t time.Time) error { return nil }

// A connection that was closed by this side would keep its port for a minute. One that is reset does not, and nobody waits for anything on it.
func TestIdleConnectionsKeepNoPorts(t *testing.T) {
	t.Parallel()
	l := listentest.Local(t)
	ended := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer func() { _ = c.Close() }()
		in := bufio.NewReader(c)
		if _, err := http.ReadRequest(in); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
		}
		_, err = in.ReadByte()
		ended <- err
	}()
	c := &Client{IdleFor: time.Minute, DialContext: (&net.Dialer{}).DialContext}
	a, err := c.Do(t.Context(), l.Addr().String(), get())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := body(a); got != "abc" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	c.CloseIdle()
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server sees %v, want a reset", err)
	}
}
