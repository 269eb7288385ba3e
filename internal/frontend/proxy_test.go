package frontend

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/frontend/listentest"
	"github.com/berthdev/berth/internal/route"
)

// status answers with a status and a text.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, "the model says %d", code)
	}
}

// hangUp closes the connection without an answer.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// first answers one request in a way of its own, and others with nothing. It counts them.
func first(calls *atomic.Int32, answer http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if calls.Add(1) == 1 {
			answer(w, r)
		}
	})
}

// chunked hides a body's length.
type chunked struct{ io.Reader }

// sized makes bodies of some bytes.
func sized(n int) func() io.Reader {
	return func() io.Reader { return bytes.NewReader(make([]byte, n)) }
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	slow := func(d time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		}
	}
	const scorePath = "/api/v1/service/iris/score"
	limit := 1 << 20
	for _, tt := range []struct {
		name         string
		model        http.HandlerFunc // nil: no pod
		method, path string
		body         func() io.Reader
		change       func(*route.Version)
		status       int
		by, reason   string
		contains     string
		took         time.Duration
	}{
		{name: "200", model: text("[3]"), status: 200, by: "model", contains: "[3]"},
		{name: "GET", model: text("[3]"), method: "GET", status: 200, by: "model"},
		{name: "model's 201", model: status(201), status: 201, by: "model"},
		{name: "model's 204", model: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, status: 204, by: "model"},
		{name: "model's 302", model: status(304), status: 304, by: "model"},
		{name: "model's 400", model: status(400), status: 400, by: "model", contains: "the model says 400"},
		{name: "model's 401", model: status(401), status: 401, by: "model"},
		{name: "model's 404", model: status(404), status: 404, by: "model"},
		{name: "model's 413", model: status(413), status: 413, by: "model"},
		{name: "model's 429", model: status(429), status: 429, by: "model", contains: "the model says 429"},
		{name: "model's 500 is 502", model: status(500), status: 502, by: "model", reason: "ModelError", contains: "the model says 500"},
		{name: "model's 501", model: status(501), status: 501, by: "model"},
		{name: "model's 502", model: status(502), status: 502, by: "model"},
		{name: "model's 503", model: status(503), status: 503, by: "model"},
		{name: "model's 504", model: status(504), status: 504, by: "model"},
		{name: "unknown service", model: text(""), path: "/api/v1/service/rose/score", status: 404, by: "router", reason: "UnknownService", contains: `no service \"rose\"`},
		{name: "unknown version", model: text(""), path: "/api/v1/service/iris/version/v9/score", status: 404, by: "router", reason: "UnknownVersion"},
		{name: "nameless version", model: text(""), path: "/api/v1/service/iris/version//score", status: 404, by: "router", reason: "UnknownPath"},
		{name: "unknown path", model: text(""), path: "/api/v1/service/iris/admin", status: 404, by: "router", reason: "UnknownPath", contains: "/api/v1/service/{name}/score"},
		{name: "no name", model: text(""), path: "/api/v1/service//score", status: 404, by: "router", reason: "UnknownPath"},
		{name: "climbing out", model: text(""), path: "/api/v1/service/iris/score/../../x", status: 404, by: "router", reason: "UnknownPath"},
		{name: "elsewhere", model: text(""), path: "/subscriptions", status: 404, by: "router", reason: "UnknownPath"},
		{name: "DELETE", model: text(""), method: "DELETE", status: 405, by: "router", reason: "MethodNotAllowed"},
		{name: "body at the limit", model: text("ok"), body: sized(limit), status: 200, by: "model"},
		{name: "body over the limit", model: text(""), body: sized(limit + 1), status: 413, by: "router", reason: "BodyTooLarge", contains: "1048576 bytes"},
		{
			name: "chunked body over the limit", status: 413, by: "router", reason: "BodyTooLarge", contains: "1048576 bytes", body: func() io.Reader { return chunked{sized(limit + 1)()} },
			model: func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
		},
		{name: "just in time", model: slow(60*time.Second - 1), status: 200, by: "model", took: 60*time.Second - 1},
		{name: "too slow", model: slow(time.Hour), status: 504, by: "router", reason: "ScoringTimeout", contains: "1m0s (scoring_timeout_ms)", took: time.Minute},
		{name: "too slow for its own limit", model: slow(time.Minute), change: func(v *route.Version) { v.Timeout = time.Second }, status: 504, by: "router", reason: "ScoringTimeout", took: time.Second},
		{name: "no pod", status: 503, by: "router", reason: "NoReadyReplicas", contains: "No ready replicas for service iris", took: route.DefaultQueueWait},
		{name: "no pod and no waiting", change: func(v *route.Version) { v.QueueWait = 0 }, status: 503, by: "router", reason: "NoReadyReplicas"},
		{
			name: "asleep for good", status: 503, by: "router", reason: "NoReadyReplicas", took: route.DefaultTimeout,
			change: func(v *route.Version) {
				v.Scale = route.Scale{Auto: true, Max: 1, Utilization: 70, Refresh: time.Second}
			},
		},
		{name: "pod hangs up", model: hangUp, status: 502, by: "router", reason: "ReplicaClosedConnection", contains: "Replica closed connection before replying"},
		{name: "preflight", model: status(200), method: "OPTIONS", status: 200, by: "model"},
		{name: "HEAD", model: status(200), method: "HEAD", status: 200, by: "model"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris", func(r *route.Route) {
					if tt.change != nil {
						tt.change(&r.Versions[0])
					}
				}))
				if tt.model != nil {
					n.listen(t, "pod:5001", tt.model)
					f.SetPods("iris", up("pod:5001"))
				}
				var body io.Reader
				if tt.body != nil {
					body = tt.body()
				}
				r := request(t, cmp.Or(tt.method, "POST"), cmp.Or(tt.path, scorePath), body)
				r.Header.Set("X-Request-Id", "mine")
				if tt.method == "OPTIONS" {
					r.Header.Del("Authorization")
				}
				a := send(n.client(t), r)
				a.want(t, tt.status, tt.by, tt.reason)
				if !strings.Contains(a.body, tt.contains) {
					t.Errorf("the body is %q, want %q in it", a.body, tt.contains)
				}
				if a.took != tt.took {
					t.Errorf("took %v, want %v", a.took, tt.took)
				}
				if !slices.Equal(a.requestIDs, []string{"mine"}) {
					t.Errorf("request IDs %q, want mine", a.requestIDs)
				}
				if retry := a.header.Get("Retry-After"); (retry != "") != (tt.status == 503 && tt.by == "router") {
					t.Errorf("Retry-After is %q", retry)
				}
				if tt.by == "router" {
					var e struct {
						Error struct{ Code, Message string }
					}
					if err := json.Unmarshal([]byte(a.body), &e); err != nil || e.Error.Code != tt.reason || e.Error.Message == "" {
						t.Errorf("the error %q is not that of %s: %v", a.body, tt.reason, err)
					}
				}
				// Whatever happened, the pod is free again.
				if tt.model != nil {
					if l := f.pools["iris"].load(time.Now()); l.busy != 0 || l.queued != 0 {
						t.Errorf("afterwards the load is %+v", l)
					}
				}
			})
		})
	}
}

func TestHealthyForLoadBalancers(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, _ *FrontEnd) {
		if a := send(n.client(t), request(t, "GET", "/", nil)); a.status != 200 || a.body != "Healthy" {
			t.Errorf("answered %+v", a)
		}
	})
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		given  map[string]string
		want   string // "": a new one
		status int
	}{
		{"none", nil, "", 200},
		{"x-ms-request-id", map[string]string{"X-Ms-Request-Id": "a", "X-Request-Id": "b"}, "a", 200},
		{"x-request-id", map[string]string{"X-Request-Id": "b", "X-Ms-Client-Request-Id": "c"}, "b", 200},
		{"x-ms-client-request-id", map[string]string{"X-Ms-Client-Request-Id": "c"}, "c", 200},
		{"longest", map[string]string{"X-Request-Id": strings.Repeat("x", 100)}, strings.Repeat("x", 100), 200},
		{"too long", map[string]string{"X-Request-Id": strings.Repeat("x", 101)}, "", 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris"))
				seen := ""
				n.listen(t, "pod:5001", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					seen = r.Header.Get(requestID)
					w.Header().Set(requestID, "the model's own")
					w.WriteHeader(http.StatusEarlyHints) // clears what was set before it
				}))
				f.SetPods("iris", up("pod:5001"))
				r := request(t, "GET", "/api/v1/service/iris/score", nil)
				for k, v := range tt.given {
					r.Header.Set(k, v)
				}
				a := send(n.client(t), r)
				if tt.status != 200 {
					a.want(t, tt.status, "router", "RequestIdTooLong")
					return
				}
				a.want(t, 200, "model", "")
				if len(a.requestIDs) != 1 || a.requestIDs[0] != seen {
					t.Fatalf("the caller got %q, the model %q", a.requestIDs, seen)
				}
				if tt.want == "" && len(seen) != 36 || tt.want != "" && seen != tt.want {
					t.Errorf("the request ID is %q, want %q", seen, tt.want)
				}
			})
		})
	}
}

func TestWhatTheModelSees(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ method, path, want string }{
		{"POST", "/api/v1/service/iris/score", "/score"},
		{"POST", "/api/v1/service/iris/score?a=1&b=x%2Fy", "/score?a=1&b=x%2Fy"},
		{"GET", "/api/v1/service/iris/swagger.json?version=3", "/swagger.json?version=3"},
		{"GET", "/api/v1/service/iris", "/"},
		{"GET", "/api/v1/service/iris/", "/"},
		{"POST", "/api/v1/endpoint/iris/score", "/score"},
		{"POST", "/api/v1/service/iris/version/blue/score", "/score"},
		{"GET", "/api/v1/service/iris/version/blue/swagger.json", "/swagger.json"},
		{"GET", "/api/v1/service/iris/version/blue", "/"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].Name = "blue" }))
				var seen *http.Request
				var body []byte
				n.listen(t, "pod:5001", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					seen = r
					body, _ = io.ReadAll(r.Body)
				}))
				f.SetPods("iris", up("pod:5001"))
				r := request(t, tt.method, tt.path, strings.NewReader("{\"data\": [1]}"))
				r.Header.Set("Traceid", "t1")
				r.Header.Set("X-Forwarded-For", "forged")
				r.Header.Set("Upgrade", "websocket")
				r.Header.Set("Connection", "Upgrade")
				a := send(n.client(t), r)
				a.want(t, 200, "model", "")
				if got := a.header.Get(VersionHeader); got != "blue" {
					t.Errorf("the answer names the version %q", got)
				}
				if seen.RequestURI != tt.want || seen.Method != tt.method || string(body) != "{\"data\": [1]}" {
					t.Errorf("the model saw %s %s with %q", seen.Method, seen.RequestURI, body)
				}
				for k, want := range map[string]string{
					"Authorization": "", "Traceid": "t1", "X-Forwarded-For": "198.51.100.7", "Upgrade": "", VersionHeader: "blue",
				} {
					if got := seen.Header.Get(k); got != want {
						t.Errorf("the model saw %s: %q, want %q", k, got, want)
					}
				}
				if seen.Host != fe {
					t.Errorf("the model saw the host %q", seen.Host)
				}
			})
		})
	}
}

// A script that waits for a pod's slot to come back would hang for good if it did not.
func TestSwitchedProtocolsFreeThePod(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris"))
		n.listen(t, "pod:5001", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Traceid") == "switch" {
				w.WriteHeader(http.StatusSwitchingProtocols)
			}
		}))
		f.SetPods("iris", up("pod:5001"))
		r := request(t, "GET", "/api/v1/service/iris/score", nil)
		r.Header.Set("Traceid", "switch")
		send(n.client(t), r).want(t, 502, "router", "ReplicaClosedConnection")
		score(t, n.client(t), "iris", "").want(t, 200, "model", "")
	})
}

func TestAnswerBreaksOff(t *testing.T) {
	t.Parallel()
	endless := func(r *http.Request) { <-r.Context().Done() }
	abort := func(*http.Request) { panic(http.ErrAbortHandler) }
	for _, tt := range []struct {
		name   string
		length string // that the model announces
		then   func(*http.Request)
		// What a client learns: an error in the router's name while nothing was passed on, else a connection that breaks.
		status int
		reason string
		took   time.Duration
	}{
		{"small, pod ends", "100", abort, 502, "ReplicaClosedConnection", 0},
		{"large, pod ends", "100000", abort, 0, "", 0},
		{"unknown length, pod ends", "", abort, 0, "", 0},
		{"small, time is over", "100", endless, 504, "ScoringTimeout", time.Minute},
		{"unknown length, time is over", "", endless, 0, "", time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris"))
				n.listen(t, "pod:5001", first(new(atomic.Int32), func(w http.ResponseWriter, r *http.Request) {
					if tt.length != "" {
						w.Header().Set("Content-Length", tt.length)
					}
					_, _ = io.WriteString(w, "half")
					_ = http.NewResponseController(w).Flush()
					tt.then(r)
				}))
				f.SetPods("iris", up("pod:5001"))
				a := score(t, n.client(t), "iris", "x")
				if tt.status != 0 {
					a.want(t, tt.status, "router", tt.reason)
				} else if a.transport == nil && a.err == nil {
					t.Errorf("half an answer looks whole: %+v", a)
				}
				if a.took != tt.took {
					t.Errorf("took %v, want %v", a.took, tt.took)
				}
				score(t, n.client(t), "iris", "x").want(t, 200, "model", "") // the pod is free again
			})
		})
	}
}

// Clients that send or read slowly keep no pod busy when what they send and read is small, and none beyond the
// time limit when it is large.
func TestSlowClientsKeepNoPod(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		body   string // of 10 bytes that are announced
		answer int    // bytes
		after  time.Duration
	}{
		{"sends nothing", "", 1, 0},
		{"reads nothing of a small answer", "0123456789", small, 0},
		{"reads nothing of a large answer", "0123456789", 10 * small, route.DefaultTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris"))
				var calls atomic.Int32
				n.listen(t, "pod:5001", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					if calls.Add(1); string(body) == "healthy" {
						return
					}
					w.Header().Set("Content-Length", fmt.Sprint(tt.answer))
					_, _ = w.Write(make([]byte, tt.answer))
				}))
				f.SetPods("iris", up("pod:5001"))
				c, err := n.dialFrom("198.51.100.8:1")(t.Context(), "tcp", fe)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }()
				_, _ = io.WriteString(c, "POST /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+primary+"\r\nContent-Length: 10\r\n\r\n"+tt.body)
				synctest.Wait()
				if tt.after > 0 {
					score(t, n.client(t), "iris", "healthy").want(t, 503, "router", "Overloaded")
					time.Sleep(tt.after)
				}
				score(t, n.client(t), "iris", "healthy").want(t, 200, "model", "")
				if want := int32(1 + min(1, len(tt.body))); calls.Load() != want {
					t.Errorf("the model was called %d times, want %d", calls.Load(), want)
				}
			})
		})
	}
}

// Who does not send a body to its end keeps a pod for the time limit and no longer, and is told that it was not the
// model. Nobody is kept waiting for an answer that is there.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	const large = 10 * small
	reads := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	for _, tt := range []struct {
		name   string
		length int
		key    string
		model  http.HandlerFunc
		busy   bool // meanwhile
		status int
		by     string
		reason string
		took   time.Duration
	}{
		{"small", small, primary, reads, false, 408, "router", "BodyTooSlow", route.DefaultTimeout},
		{"large", large, primary, reads, true, 408, "router", "BodyTooSlow", route.DefaultTimeout},
		{"of unknown length", -1, primary, reads, true, 408, "router", "BodyTooSlow", route.DefaultTimeout},
		{"that the model does not read", large, primary, text("enough"), false, 200, "model", "", 0},
		{"that the model hangs up on", large, primary, hangUp, false, 502, "router", "ReplicaClosedConnection", 0},
		{"over the limit", 2 << 20, primary, reads, false, 413, "router", "BodyTooLarge", 0},
		{"small, without a key", small, "", reads, false, 401, "router", "Unauthorized", 0},
		{"large, without a key", large, "", reads, false, 401, "router", "Unauthorized", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for through := range 3 {
				fleetBubble(t, nil, func(t *testing.T, n *network, fl *fleet) {
					n.listen(t, "slow:5001", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.ContentLength == 1 {
							return
						}
						tt.model(w, r)
					}))
					fl.each(func(f *FrontEnd) {
						f.SetRoute(service(t, "iris"))
						f.SetPods("iris", up("slow:5001"))
					})
					body, end := io.Pipe()
					r := requestTo(t, fl.outer[through], "POST", "/api/v1/service/iris/score", body)
					r.ContentLength = int64(tt.length)
					r.Header.Set("Authorization", "Bearer "+tt.key)
					c := n.client(t)
					slow := make(chan answer)
					go func() { slow <- send(c, r) }()
					if _, err := io.WriteString(end, "half"); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if tt.busy {
						fl.score(t, n.client(t), through, strings.NewReader("x")).want(t, 503, "router", "Overloaded")
					}
					a := <-slow
					a.want(t, tt.status, tt.by, tt.reason)
					if a.took < tt.took || a.took > tt.took+2*linger { // each front end that it passes may wait
						t.Errorf("through %d it was told after %v, want %v", through, a.took, tt.took)
					}
					fl.score(t, c, through, strings.NewReader("x")).want(t, 200, "model", "")
					_ = end.Close()
				})
			}
		})
	}
}

// A client that does not take its answer loses its connection, so that it cannot hold many.
func TestAnswerThatIsNotTaken(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris"))
		n.listen(t, "pod:5001", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(10*small))
			_, _ = w.Write(make([]byte, 10*small))
		}))
		f.SetPods("iris", up("pod:5001"))
		c, err := n.dialFrom("198.51.100.8:1")(t.Context(), "tcp", fe)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "GET /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+primary+"\r\n\r\n")
		time.Sleep(stall + route.DefaultTimeout + time.Second)
		got, err := io.ReadAll(c)
		if err != nil || len(got) != 0 { // a pipe holds nothing: what was waiting to be taken would come
			t.Errorf("it got %d bytes, and then %v: the connection was open", len(got), err)
		}
	})
}

func TestClientGone(t *testing.T) {
	t.Parallel()
	for _, queued := range []bool{false, true} {
		t.Run(fmt.Sprintf("queued=%v", queued), func(t *testing.T) {
			t.Parallel()
			leaving(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris"))
				var calls atomic.Int32
				stopped := make(chan struct{}, 2)
				n.listen(t, "pod:5001", first(&calls, func(_ http.ResponseWriter, r *http.Request) {
					<-r.Context().Done()
					stopped <- struct{}{}
				}))
				f.SetPods("iris", up("pod:5001"))
				var wg sync.WaitGroup
				leave := func() context.CancelFunc {
					r := request(t, "POST", "/api/v1/service/iris/score", strings.NewReader("x"))
					ctx, cancel := context.WithCancel(r.Context())
					wg.Go(func() {
						if a := send(n.client(t), r.WithContext(ctx)); a.transport == nil {
							t.Errorf("who is gone got %+v", a)
						}
					})
					synctest.Wait()
					return cancel
				}
				first := leave()
				want := 1.0
				if queued {
					second := leave()
					if l := f.pools["iris"].load(time.Now()); l.queued != 1 {
						t.Fatalf("the load is %+v, want one in the queue", l)
					}
					second()
					synctest.Wait()
					if l := f.pools["iris"].load(time.Now()); l.queued != 0 || l.busy != 1 {
						t.Fatalf("the load is %+v, want none in the queue", l)
					}
					want = 2
				}
				first()
				<-stopped // the model learns of it
				wg.Wait()
				synctest.Wait()
				if got := value(t, f, `berth_requests_total{code="499",service="iris",version=""}`); got != want {
					t.Errorf("%v requests are counted as 499, want %v", got, want)
				}
				score(t, n.client(t), "iris", "x").want(t, 200, "model", "")
				if calls.Load() != 2 {
					t.Errorf("the model was called %d times, want 2: not for who left the queue", calls.Load())
				}
			})
		})
	}
}

// raw sends bytes as they are and ends.
func raw(t *testing.T, n *network, text string) string {
	t.Helper()
	c, err := n.dialFrom("198.51.100.8:1")(t.Context(), "tcp", fe)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get(reasonHeader))
}

func TestBodyBreaksOff(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris"))
		n.listen(t, "pod:5001", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
		f.SetPods("iris", up("pod:5001"))
		got := raw(t, n, "POST /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+primary+"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n")
		if got != "400 BodyBrokeOff" {
			t.Errorf("answered %s: the pod is not to blame", got)
		}
		score(t, n.client(t), "iris", "x").want(t, 200, "model", "")
	})
}

// A pod that does not take a connection has not seen the request, so another one gets it.
func TestPodThatRefusesLosesNoRequest(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].MaxConcurrent = 10 }))
		echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
		})
		n.listen(t, "a:5001", echo)
		b := n.listen(t, "b:5001", echo)
		f.SetPods("iris", up("a:5001", "b:5001"))
		c := n.client(t)
		var wg sync.WaitGroup
		burst := func() {
			for i := range 10 {
				wg.Go(func() {
					body := strings.Repeat(fmt.Sprint(i), 50000) // more than buffers hold
					if a := score(t, c, "iris", body); a.status != 200 || a.body != body {
						t.Errorf("request %d got %d (%s) and %d bytes back", i, a.status, a.reason, len(a.body))
					}
				})
			}
			wg.Wait()
		}
		burst()
		if n.dialled("b:5001") == 0 {
			t.Fatal("the second pod got nothing")
		}
		b.kill()
		synctest.Wait()
		for range 5 {
			burst()
		}
		refused := n.dialled("b:5001")
		burst()
		if got := n.dialled("b:5001"); got != refused {
			t.Errorf("a pod that refused a moment ago was asked again %d times", got-refused)
		}
		// Nothing tells that it is well again: it is found out.
		n.listen(t, "b:5001", echo)
		time.Sleep(refusedFor)
		burst()
		if got := n.dialled("b:5001"); got == refused {
			t.Error("a pod that refused once never gets anything again")
		}
	})
}

// A connection that is not made says little of a pod that answers others meanwhile: they keep it.
func TestPodThatAnswersIsNotTakenForGone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].MaxConcurrent = 10 }))
		n.listen(t, "pod:5001", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(100 * time.Millisecond) }))
		f.SetPods("iris", up("pod:5001"))
		connect, lost := f.model.DialContext, atomic.Bool{}
		f.model.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if lost.CompareAndSwap(true, false) {
				time.Sleep(dialer.Timeout)
				return nil, os.ErrDeadlineExceeded
			}
			return connect(ctx, network, addr)
		}
		c := n.client(t)
		lost.Store(true)
		var wg sync.WaitGroup
		wg.Go(func() { // its second try is
			a := score(t, c, "iris", "x")
			a.want(t, 200, "model", "")
			if want := dialer.Timeout + 100*time.Millisecond; a.took != want {
				t.Errorf("the one whose connection was not made was answered after %v, want %v", a.took, want)
			}
		})
		synctest.Wait()
		time.Sleep(50 * time.Millisecond) // so that none of the others is answered at that moment
		for range 30 {
			a := score(t, c, "iris", "x")
			a.want(t, 200, "model", "")
			if a.took != 100*time.Millisecond {
				t.Errorf("another was answered after %v", a.took)
			}
		}
		wg.Wait()
	})
}

// A container that is killed breaks its connections off one by one, and until its end its machine takes others for it. The requests that it
// had are lost; who comes next waits until it refuses, or goes elsewhere.
func TestPodThatIsKilledLosesNoMore(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("0123456789", 10000)
	for _, tt := range []struct {
		name   string
		breaks http.HandlerFunc
		reason string // "": the answer broke off, too late to say why
	}{
		{"before an answer", hangUp, "ReplicaClosedConnection"},
		{"in a short answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "ReplicaClosedConnection"},
		{"in a long answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(text)+1))
			_, _ = io.WriteString(w, text)
			panic(http.ErrAbortHandler)
		}, ""},
		{"in an answer of unknown length", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, text)
			panic(http.ErrAbortHandler)
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris"))
				dying := n.listen(t, "a:5001", tt.breaks)
				f.SetPods("iris", up("a:5001"))
				c := n.client(t)
				lost := score(t, c, "iris", "x")
				if tt.reason != "" {
					lost.want(t, 502, "router", tt.reason)
				} else if lost.err == nil {
					t.Fatalf("half an answer looks whole: %d", lost.status)
				}
				began := time.Now()
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						a := score(t, c, "iris", "x")
						a.want(t, 200, "model", "")
						if a.took != closedFor {
							t.Errorf("answered after %v, want %v", a.took, closedFor)
						}
					})
				}
				synctest.Wait()
				if l := f.pools["iris"].load(time.Now()); l.queued != 3 {
					t.Errorf("the load is %+v, want all in the queue", l)
				}
				time.Sleep(closedFor - time.Nanosecond)
				dying.kill()
				n.listen(t, "a:5001", working(0)) // it is started again
				wg.Wait()
				if took := time.Since(began); took != closedFor {
					t.Errorf("it took %v", took)
				}
			})
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) { // with another replica
				f.SetRoute(service(t, "iris"))
				n.listen(t, "a:5001", tt.breaks)
				f.SetPods("iris", up("a:5001"))
				c := n.client(t)
				score(t, c, "iris", "x")
				n.listen(t, "b:5001", working(0))
				f.SetPods("iris", up("a:5001", "b:5001"))
				for range 10 {
					a := score(t, c, "iris", "x")
					a.want(t, 200, "model", "")
					if a.took != 0 {
						t.Errorf("answered after %v, want at once by the other", a.took)
					}
				}
			})
		})
	}
}

// A long answer shows that its pod lives when it came to its end, and its connection is kept.
func TestLongAnswersAndDoubt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].MaxConcurrent, r.Versions[0].QueueWait = 3, time.Hour }))
		n.listen(t, "pod:5001", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if string(body) == "close" {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Content-Length", fmt.Sprint(2*small))
			_, _ = io.WriteString(w, strings.Repeat("x", small))
			if wait, err := time.ParseDuration(string(body)); err == nil {
				select {
				case <-time.After(wait):
				case <-r.Context().Done():
				}
			}
			_, _ = io.WriteString(w, strings.Repeat("x", small))
		}))
		f.SetPods("iris", up("pod:5001"))
		c := n.client(t)
		for range 3 {
			score(t, c, "iris", "x").want(t, 200, "model", "")
		}
		if got := n.dialled("pod:5001"); got != 1 {
			t.Errorf("%d connections for three answers one after the other", got)
		}
		const moment = 10 * time.Millisecond
		for _, tt := range []struct {
			name string
			has  string // how long the other answer takes
			gone time.Duration
			want time.Duration
		}{
			{"it comes to its end", moment.String(), time.Hour, moment},
			{"its client leaves", time.Minute.String(), moment, closedFor},
		} {
			var wg sync.WaitGroup
			ctx, leave := context.WithTimeout(t.Context(), tt.gone)
			wg.Go(func() {
				send(c, request(t, "POST", "/api/v1/service/iris/score", strings.NewReader(tt.has)).WithContext(ctx))
			})
			synctest.Wait()
			score(t, c, "iris", "close").want(t, 502, "router", "ReplicaClosedConnection")
			if a := score(t, c, "iris", "x"); a.status != 200 || a.took != tt.want {
				t.Errorf("%s: the next one got %d after %v, want %v", tt.name, a.status, a.took, tt.want)
			}
			wg.Wait()
			leave()
		}
	})
}

// A pod is not in doubt for what others did, or for an answer that was no good.
func TestPodThatIsNotToBlameGetsTheNextRequest(t *testing.T) {
	t.Parallel()
	post := func(t *testing.T, n *network, header, body string) string {
		t.Helper()
		return raw(t, n, "POST /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+primary+"\r\n"+header+"\r\n\r\n"+body)
	}
	for _, tt := range []struct {
		name   string
		answer string // of the pod, to the first request
		send   func(t *testing.T, n *network) string
		want   string
	}{
		{"the body is malformed", "", func(t *testing.T, n *network) string {
			t.Helper()
			return post(t, n, "Transfer-Encoding: chunked", "5\r\nhello\r\nnonsense\r\n")
		}, "400 BodyBrokeOff"},
		{"the body is too large", "", func(t *testing.T, n *network) string {
			t.Helper()
			a := send(n.client(t), request(t, "POST", "/api/v1/service/iris/score", chunked{strings.NewReader(strings.Repeat("x", 2<<20))}))
			return fmt.Sprint(a.status, " ", a.reason)
		}, "413 BodyTooLarge"},
		{"there is no answer in time", "", func(t *testing.T, n *network) string {
			t.Helper()
			return post(t, n, "Content-Length: 1", "x")
		}, "504 ScoringTimeout"},
		{"the client is gone", "", func(t *testing.T, n *network) string {
			t.Helper()
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			send(n.client(t), request(t, "POST", "/api/v1/service/iris/score", strings.NewReader("x")).WithContext(ctx))
			return "gone"
		}, "gone"},
		{"the answer is malformed", "SSH-2.0-OpenSSH_9.2\r\n", func(t *testing.T, n *network) string {
			t.Helper()
			return post(t, n, "Content-Length: 1", "x")
		}, "502 ReplicaClosedConnection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := bubble
			if tt.want == "gone" {
				in = leaving
			}
			in(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris"))
				var calls atomic.Int32
				n.listen(t, "pod:5001", first(&calls, func(w http.ResponseWriter, r *http.Request) {
					if tt.answer == "" {
						<-r.Context().Done()
						return
					}
					if c, _, err := w.(http.Hijacker).Hijack(); err == nil { //nolint:forcetypeassert // net/http's is one
						_, _ = io.WriteString(c, tt.answer)
						_ = c.Close()
					}
				}))
				f.SetPods("iris", up("pod:5001"))
				if got := tt.send(t, n); got != tt.want {
					t.Fatalf("answered %s, want %s", got, tt.want)
				}
				synctest.Wait()
				calls.Store(1)
				a := score(t, n.client(t), "iris", "x")
				a.want(t, 200, "model", "")
				if a.took != 0 {
					t.Errorf("the next one was answered after %v", a.took)
				}
			})
		})
	}
}

func TestAllPodsRefuse(t *testing.T) {
	t.Parallel()
	for _, pods := range []int{1, 10} {
		t.Run(fmt.Sprint(pods), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris"))
				list := map[string]bool{}
				for i := range pods {
					list[fmt.Sprintf("p%d:5001", i)] = true
				}
				f.SetPods("iris", list)
				score(t, n.client(t), "iris", "x").want(t, 503, "router", "NoReadyReplicas")
				tries := 0
				for addr := range list {
					tries += n.dialled(addr)
				}
				if want := min(pods, attempts); tries != want {
					t.Errorf("%d pods were tried, want %d", tries, want)
				}
			})
		})
	}
}

// A pod that took a request may have run it: what it does is not for the router to do twice.
func TestNeverTwice(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		read int64 // of the body, before the pod ends
	}{{"nothing read", 0}, {"part read", 1000}, {"all read", 1 << 20}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris"))
				var calls atomic.Int32
				for _, addr := range []string{"a:5001", "b:5001", "c:5001"} {
					n.listen(t, addr, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						calls.Add(1)
						_, _ = io.CopyN(io.Discard, r.Body, tt.read)
						panic(http.ErrAbortHandler)
					}))
				}
				f.SetPods("iris", up("a:5001", "b:5001", "c:5001"))
				r := request(t, "POST", "/api/v1/service/iris/score", bytes.NewReader(make([]byte, 1<<20)))
				send(n.client(t), r).want(t, 502, "router", "ReplicaClosedConnection")
				if calls.Load() != 1 {
					t.Errorf("%d pods saw the request, want 1", calls.Load())
				}
			})
		})
	}
}

// The same over TCP, with and without TLS, where connections are refused and broken by the machine.
func TestOverTCP(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"HTTP", "HTTPS", "HTTP/2"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			began, left := make(chan bool, 1), make(chan bool, 1)
			pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				switch string(body) {
				case "hang up":
					panic(http.ErrAbortHandler)
				case "wait":
					began <- true
					<-r.Context().Done()
					left <- true
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				_, _ = w.Write(body)
			}))
			defer pod.Close()
			gone := listentest.Local(t)
			_ = gone.Close()
			f := New(quiet)
			defer f.model.CloseIdle()
			f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].QueueWait = 10 * time.Second }))
			f.SetPods("iris", up(pod.Listener.Addr().String(), gone.Addr().String()))
			scheme, addr, client := overTCP(t, f, way)
			post := func(ctx context.Context, body io.Reader) answer {
				r := requestTo(t, addr, "POST", "/api/v1/service/iris/score", body)
				r.URL.Scheme = scheme
				return send(client, r.WithContext(ctx))
			}
			for i := range 20 {
				a := post(t.Context(), strings.NewReader(fmt.Sprint(i)))
				a.want(t, 200, "model", "")
				if a.body != fmt.Sprint(i) {
					t.Fatalf("request %d got %q", i, a.body)
				}
			}
			post(t.Context(), strings.NewReader("hang up")).want(t, 502, "router", "ReplicaClosedConnection")
			post(t.Context(), strings.NewReader("again")).want(t, 200, "model", "")
			large := strings.Repeat("0123456789", 60000)
			for _, body := range []io.Reader{strings.NewReader(large), chunked{strings.NewReader(large)}} {
				a := post(t.Context(), body)
				a.want(t, 200, "model", "")
				if a.body != large {
					t.Errorf("%d bytes of %d came back", len(a.body), len(large))
				}
			}
			leaving, leave := context.WithCancel(t.Context())
			go func() { <-began; leave() }()
			if a := post(leaving, strings.NewReader("wait")); !errors.Is(a.transport, context.Canceled) {
				t.Errorf("who left got %+v", a)
			}
			<-left // the model hears of it
			post(t.Context(), strings.NewReader("after it")).want(t, 200, "model", "")
		})
	}
}

// overTCP has a front end answer as it does in a cluster.
func overTCP(t *testing.T, f *FrontEnd, way string) (scheme, addr string, client *http.Client) {
	t.Helper()
	if way == "HTTP" {
		l := listentest.Local(t)
		s, transport := plain(f), &http.Transport{}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { transport.CloseIdleConnections(); _ = s.Close() })
		return "http", l.Addr().String(), &http.Client{Transport: transport}
	}
	s := httptest.NewUnstartedServer(f)
	s.EnableHTTP2 = way == "HTTP/2"
	s.StartTLS()
	t.Cleanup(s.Close)
	return "https", s.Listener.Addr().String(), s.Client()
}

func TestRouteChangesTakeEffect(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		c := n.client(t)
		n.listen(t, "a:5001", text("a"))
		n.listen(t, "b:5001", text("b"))
		score(t, c, "iris", "").want(t, 404, "router", "UnknownService")
		f.SetPods("iris", up("a:5001")) // pods may be known before the route
		f.SetRoute(service(t, "iris"))
		score(t, c, "iris", "").want(t, 200, "model", "")
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Auth.Keys = []string{route.KeySum("new")} }))
		score(t, c, "iris", "").want(t, 401, "router", "Unauthorized")
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Auth = route.Auth{Mode: route.AuthNone} }))
		score(t, c, "iris", "").want(t, 200, "model", "")
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].MaxBody = 2 }))
		score(t, c, "iris", "abc").want(t, 413, "router", "BodyTooLarge")
		f.SetPods("iris", up("b:5001"))
		if a := score(t, c, "iris", ""); a.body != "b" {
			t.Errorf("after the pods changed, %q answers", a.body)
		}
		f.SetPods("iris", map[string]bool{"b:5001": false})
		score(t, c, "iris", "").want(t, 503, "router", "NoReadyReplicas")
		f.RemoveRoute("iris")
		score(t, c, "iris", "").want(t, 404, "router", "UnknownService")
	})
}

// What is being answered when its route goes is answered to the end.
func TestRequestOutlivesItsRoute(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris"))
		n.listen(t, "a:5001", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			_, _ = io.WriteString(w, "done")
		}))
		f.SetPods("iris", up("a:5001"))
		got := make(chan answer)
		go func() { got <- score(t, n.client(t), "iris", "x") }()
		synctest.Wait()
		f.SetPods("iris", nil)
		f.RemoveRoute("iris")
		a := <-got
		a.want(t, 200, "model", "")
		if a.body != "done" {
			t.Errorf("got %q", a.body)
		}
	})
}

func TestThousandsOfRoutes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		const many = 3000
		name := func(i int) string { return fmt.Sprintf("s%d", i) }
		for i := range many {
			f.SetRoute(service(t, name(i)))
			f.SetPods(name(i), up(name(i)+":5001"))
		}
		for i := range many { // each is changed once
			f.SetRoute(service(t, name(i), func(r *route.Route) { r.Generation = 2; r.Auth = route.Auth{Mode: route.AuthNone} }))
		}
		for i := range many {
			if e := f.service(name(i)); e == nil || e.route.Generation != 2 {
				t.Fatalf("%s was not updated", name(i))
			}
		}
		c := n.client(t)
		for i := range many {
			if i%100 != 0 {
				continue
			}
			n.listen(t, name(i)+":5001", text(name(i)))
			if a := score(t, c, name(i), ""); a.body != name(i) {
				t.Errorf("%s answers %d %q", name(i), a.status, a.body)
			}
		}
		for i := range many {
			f.SetPods(name(i), nil)
			f.RemoveRoute(name(i))
		}
		for name := range f.all() {
			t.Errorf("%s is left", name)
		}
	})
}
