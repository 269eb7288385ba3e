package frontend

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/route"
)

// sent is what a pod gets of a request, read as a server would.
func sent(t *testing.T, r *http.Request) (*http.Request, string) {
	t.Helper()
	c := passage{r: r, id: "mine", version: &version{Version: &route.Version{}}, target: target{path: "/score"}}
	text := c.toPod(nil)
	in := bufio.NewReader(bytes.NewReader(text))
	got, err := http.ReadRequest(in)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	if r.ContentLength == 0 && in.Buffered() > 0 {
		t.Fatalf("more than one request:\n%s", text)
	}
	return got, string(text)
}

// A pod sees where a request begins and ends as the front end does, whatever the caller says.
func TestRequestsAreFramedByTheFrontEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(r *http.Request)
		want   []string
		never  []string
	}{
		{
			"lengths of the caller", func(r *http.Request) { r.Header.Set("Content-Length", "7"); r.ContentLength = 5 },
			[]string{"Content-Length: 5\r\n"}, []string{"7"},
		},
		{
			"chunks", func(r *http.Request) { r.Header.Set("Transfer-Encoding", "gzip, chunked"); r.ContentLength = -1 },
			[]string{"Transfer-Encoding: chunked\r\n"}, []string{"gzip", "Content-Length"},
		},
		{"a POST of nothing", func(*http.Request) {}, []string{"Content-Length: 0\r\n"}, nil},
		{
			"what is for one hop", func(r *http.Request) {
				r.Header.Set("Connection", "close, x-mine ,te")
				for _, k := range []string{"Te", "X-Mine", "Upgrade", "Expect", "Trailer", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Forwarded"} {
					r.Header.Set(k, "no")
				}
				r.Header.Set("X-Other", "yes")
			},
			[]string{"X-Other: yes\r\n"}, []string{": no\r\n", "Connection"},
		},
		// HTTP/2 lets through what would end a request line.
		{
			"a space in the query", func(r *http.Request) { r.URL.RawQuery = "a=b HTTP/1.1\x7f" },
			[]string{"POST /score?a=b%20HTTP/1.1%7F HTTP/1.1\r\n"}, nil,
		},
		{"several values", func(r *http.Request) { r.Header["Accept"] = []string{"a", "b"} }, []string{"Accept: a\r\n", "Accept: b\r\n"}, nil},
		{"who asks", func(r *http.Request) { r.Header.Set("X-Forwarded-For", "forged") }, []string{"X-Forwarded-For: 192.0.2.1\r\n", "X-Forwarded-Proto: http\r\n", "X-Ms-Request-Id: mine\r\n"}, []string{"forged"}},
		{"secrets", func(r *http.Request) {
			r.Header.Set(tokenHeader, "secret")
			r.Header.Set("Authorization", "Bearer secret")
		}, nil, []string{"secret"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequestWithContext(t.Context(), "POST", "http://x/api/v1/service/iris/score", nil)
			tt.change(r)
			_, text := sent(t, r)
			for _, w := range tt.want {
				if !strings.Contains(text, w) {
					t.Errorf("there is no %q in:\n%s", w, text)
				}
			}
			for _, n := range tt.never {
				if strings.Contains(text, n) {
					t.Errorf("there is %q in:\n%s", n, text)
				}
			}
		})
	}
}

func TestContinueIsAnsweredByTheFrontEnd(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 2 * small} {
		bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
			f.SetRoute(service(t, "iris"))
			var expect string
			n.listen(t, "pod:5001", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				expect = r.Header.Get("Expect")
				body, _ := io.ReadAll(r.Body)
				_, _ = w.Write(body)
			}))
			f.SetPods("iris", up("pod:5001"))
			r := request(t, "POST", "/api/v1/service/iris/score", bytes.NewReader(make([]byte, size)))
			r.Header.Set("Expect", "100-continue")
			continued := false
			r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }}))
			c := n.client(t)
			c.Transport.(*http.Transport).ExpectContinueTimeout = 1 << 40 // the body waits for it
			a := send(c, r)
			a.want(t, 200, "model", "")
			if !continued || len(a.body) != size || expect != "" {
				t.Errorf("continued: %v; %d bytes came back; the pod was asked for %q", continued, len(a.body), expect)
			}
		})
	}
}

func TestHintsReachTheCaller(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris"))
		n.listen(t, "pod:5001", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "a")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			_, _ = io.WriteString(w, "ok")
		}))
		f.SetPods("iris", up("pod:5001"))
		r := request(t, "GET", "/api/v1/service/iris/score", nil)
		hints := ""
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints += http.StatusText(code) + h.Get("Link")
			return nil
		}}))
		a := send(n.client(t), r)
		a.want(t, 200, "model", "")
		if hints != "Early Hintsa" || a.header.Get("Link") != "" || len(a.requestIDs) != 1 {
			t.Errorf("hints %q, then the header %q", hints, a.header)
		}
	})
}

func TestTrailersReachTheCaller(t *testing.T) {
	t.Parallel()
	fleetBubble(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "ok")
		w.Header().Set("X-Sum", "7")
	}), func(t *testing.T, n *network, fl *fleet) {
		for i := range fl.fronts {
			resp, err := n.client(t).Do(requestTo(t, fl.outer[i], "POST", "/api/v1/service/iris/score", nil))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if string(body) != "ok" || err != nil || resp.Trailer.Get("X-Sum") != "7" {
				t.Errorf("through %d: %q, %v, with the trailers %q", i, body, err, resp.Trailer)
			}
		}
	})
}

// Whatever has no body has none on the way between front ends either, whatever length it announces.
func TestHeadThroughPeers(t *testing.T) {
	t.Parallel()
	fleetBubble(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "300000") }), func(t *testing.T, n *network, fl *fleet) {
		for i := range fl.fronts {
			for range 2 {
				a := send(n.client(t), requestTo(t, fl.outer[i], "HEAD", "/api/v1/service/iris/score", nil))
				if a.want(t, 200, "model", ""); a.header.Get("Content-Length") != "300000" {
					t.Errorf("through %d the header is %q", i, a.header)
				}
			}
		}
	})
}

// A model that answers before the body has come to its end is heard, and its answer ends the caller's connection: the rest of
// the body must not be taken for another request.
func TestModelAnswersBeforeTheBodyHasEnded(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris"))
		n.listen(t, "pod:5001", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength > 100 {
				w.WriteHeader(http.StatusUnprocessableEntity)
			}
		}))
		f.SetPods("iris", up("pod:5001"))
		c, err := n.dialFrom("198.51.100.8:1")(t.Context(), "tcp", fe)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		go func() {
			_, _ = io.WriteString(c, "POST /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+primary+"\r\nContent-Length: 1000000\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}()
		in := bufio.NewReader(c)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnprocessableEntity || !resp.Close {
			t.Errorf("answered %d, closes: %v", resp.StatusCode, resp.Close)
		}
		if rest, _ := io.ReadAll(in); len(rest) > 0 {
			t.Errorf("after that came %q", rest)
		}
		score(t, n.client(t), "iris", "x").want(t, 200, "model", "") // the pod is free
	})
}
