package frontend

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/tracing"
	"github.com/berthdev/berth/internal/tracing/tracingtest"
)

const (
	callersTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	callersParent = "00-" + callersTrace + "-00f067aa0ba902b7-01"
)

// real is a front end on the network, with pods that are servers on it.
type real struct {
	front  *FrontEnd
	url    string
	traces *tracing.Tracer
	seen   chan http.Header // of what pods got
}

// serveReal starts a front end that tells what the environment says, and one pod for each handler; nil answers 200.
func serveReal(t *testing.T, log *slog.Logger, pods ...http.HandlerFunc) *real {
	t.Helper()
	r := &real{front: New(log), seen: make(chan http.Header, 100)}
	t.Cleanup(r.front.model.CloseIdle)
	t.Cleanup(r.front.peer.CloseIdle)
	traces, err := tracing.Start(t.Context(), "azureml-fe", log)
	if err != nil {
		t.Fatal(err)
	}
	r.traces = traces
	t.Cleanup(traces.Stop)
	r.front.Trace(traces)
	addrs := map[string]bool{}
	for _, pod := range pods {
		if pod == nil {
			pod = text("[3]")
		}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
			r.seen <- hr.Header.Clone()
			pod(w, hr)
		}))
		t.Cleanup(s.Close)
		addrs[s.Listener.Addr().String()] = true
	}
	r.front.SetRoute(service(t, "iris", func(ro *route.Route) {
		ro.Versions[0].QueueWait, ro.Versions[0].Name, ro.Versions[0].Workload = time.Minute, "v1", "iris"
	}))
	r.front.SetPods("iris", addrs)
	s := httptest.NewServer(r.front)
	t.Cleanup(s.Close)
	r.url = s.URL
	return r
}

func (r *real) request(t *testing.T, change func(*http.Request)) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+"/api/v1/service/iris/score?signature=QUERYSECRET", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+primary)
	req.Header.Set("Traceparent", callersParent)
	req.Header.Set("Tracestate", "vendor=1")
	if change != nil {
		change(req)
	}
	return req
}

// sends sends a request and returns the answer.
func (r *real) sends(t *testing.T, change func(*http.Request)) answer {
	t.Helper()
	return send(http.DefaultClient, r.request(t, change))
}

// told are the spans, when all were exported.
func (r *real) told(c *tracingtest.Collector) []tracingtest.Span {
	r.traces.Stop()
	return c.Spans()
}

var shown = []string{"http.response.status_code", "http.route", "berth.service", "berth.version", "berth.answered_by", "berth.reason", "http.request.resend_count", "error.type"}

func wantTree(t *testing.T, spans []tracingtest.Span, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), tracingtest.Tree(spans, shown...)); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}

func TestTrace_FromCallerToPod(t *testing.T) {
	c := tracingtest.New(t)
	f := serveReal(t, quiet, nil)
	f.sends(t, func(r *http.Request) { r.Header.Set(requestID, "id-7") }).want(t, 200, "model", "")
	spans := f.told(c)
	wantTree(t, spans, `
server POST /api/v1/service/{service}/score status_code=200 route=/api/v1/service/{service}/score service=iris version=v1 answered_by=model
  internal wait for a replica
  client ask a replica status_code=200
`)
	if len(spans) != 3 {
		t.FailNow()
	}
	if s := spans[0]; s.Trace != callersTrace || s.Parent != "00f067aa0ba902b7" || s.Service != "azureml-fe" || s.Attributes["berth.request_id"] != "id-7" || s.Attributes["url.path"] != "/api/v1/service/iris/score" {
		t.Errorf("the request's span is %+v", s)
	}
	pod := <-f.seen
	if want := "00-" + callersTrace + "-" + spans[2].ID + "-01"; pod.Get("Traceparent") != want || pod.Get("Tracestate") != "vendor=1" {
		t.Errorf("the pod got %q and %q, want %q and what the caller sent", pod.Get("Traceparent"), pod.Get("Tracestate"), want)
	}
}

func TestTrace_ModelsOwnFailure(t *testing.T) {
	c := tracingtest.New(t)
	f := serveReal(t, quiet, status(500))
	f.sends(t, nil).want(t, 502, "model", "ModelError")
	wantTree(t, f.told(c), `
server POST /api/v1/service/{service}/score status_code=502 route=/api/v1/service/{service}/score service=iris version=v1 answered_by=model reason=ModelError failed
  internal wait for a replica
  client ask a replica status_code=500 failed
`)
}

func TestTrace_WaitForAReplica(t *testing.T) {
	c := tracingtest.New(t)
	free := make(chan struct{})
	f := serveReal(t, quiet, func(http.ResponseWriter, *http.Request) { <-free })
	answers := make(chan answer, 2)
	first, second := f.request(t, nil), f.request(t, func(r *http.Request) { r.Header.Set(requestID, "second") })
	go func() { answers <- send(http.DefaultClient, first) }()
	<-f.seen
	go func() { answers <- send(http.DefaultClient, second) }()
	f.front.mu.Lock()
	p := f.front.pool("iris")
	f.front.mu.Unlock()
	for p.load(time.Now()).queued == 0 {
		time.Sleep(time.Millisecond) // polls a real server
	}
	close(free)
	for range 2 {
		(<-answers).want(t, 200, "model", "")
	}
	var firstAsked, waited tracingtest.Span
	spans := f.told(c)
	of := map[string]string{}
	for _, s := range spans {
		of[s.ID] = s.Attributes["berth.request_id"]
	}
	for _, s := range spans {
		switch {
		case s.Name == "ask a replica" && of[s.Parent] != "second":
			firstAsked = s
		case s.Name == "wait for a replica" && of[s.Parent] == "second":
			waited = s
		}
	}
	if waited.ID == "" || firstAsked.ID == "" || waited.End < firstAsked.End || waited.Start > firstAsked.End {
		t.Errorf("the wait for the only replica is %+v, and what it did meanwhile %+v", waited, firstAsked)
	}
}

func TestTrace_NextPodWhenOneDoesNotTakeTheConnection(t *testing.T) {
	c := tracingtest.New(t)
	f := serveReal(t, quiet, nil, nil)
	var dialled atomic.Int32
	dial := f.front.model.DialContext
	f.front.model.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dialled.Add(1) == 1 {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}
		return dial(ctx, network, addr)
	}
	f.sends(t, nil).want(t, 200, "model", "")
	wantTree(t, f.told(c), `
server POST /api/v1/service/{service}/score status_code=200 route=/api/v1/service/{service}/score service=iris version=v1 answered_by=model
  internal wait for a replica
  client ask a replica type=*wire.DialError failed
  internal wait for a replica
  client ask a replica status_code=200 resend_count=1
`)
}

func TestTrace_Refusals(t *testing.T) {
	c := tracingtest.New(t)
	f := serveReal(t, quiet)
	f.front.SetRoute(service(t, "iris"))
	f.sends(t, func(r *http.Request) { r.Header.Set("Authorization", "Bearer WRONGKEY") }).want(t, 401, "router", "Unauthorized")
	f.sends(t, nil).want(t, 503, "router", "NoReadyReplicas")
	f.sends(t, func(r *http.Request) { r.URL.Path = "/elsewhere" }).want(t, 404, "router", "UnknownPath")
	f.sends(t, func(r *http.Request) { r.URL.Path, r.Method = "/", "GET" }) // a load balancer's look is no request
	spans := f.told(c)
	wantTree(t, spans, `
server POST /api/v1/service/{service}/score status_code=401 route=/api/v1/service/{service}/score service=iris answered_by=router reason=Unauthorized
server POST /api/v1/service/{service}/score status_code=503 route=/api/v1/service/{service}/score service=iris answered_by=router reason=NoReadyReplicas failed
  internal wait for a replica type=NoReadyReplicas failed
server POST status_code=404 answered_by=router reason=UnknownPath
`)
	for what, secret := range map[string]string{"a key": primary, "a wrong key": "WRONGKEY", "a query": "QUERYSECRET"} {
		if strings.Contains(c.Text(), secret) {
			t.Errorf("%s was told: %s", what, c.Text())
		}
	}
}

func TestTrace_ClientThatLeaves(t *testing.T) {
	c := tracingtest.New(t)
	f := serveReal(t, quiet, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the server sees that the caller is gone
		<-r.Context().Done()
	})
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan answer, 1)
	req := f.request(t, nil).WithContext(ctx)
	go func() { done <- send(http.DefaultClient, req) }()
	<-f.seen
	leave()
	<-done
	f.front.mu.Lock()
	p := f.front.pool("iris")
	f.front.mu.Unlock()
	for p.load(time.Now()).busy > 0 {
		time.Sleep(time.Millisecond) // polls a real server
	}
	for { // the span ends a moment after the pod is free
		if spans := f.flushed(t, c); len(spans) == 3 {
			wantTree(t, spans, `
server POST /api/v1/service/{service}/score status_code=499 route=/api/v1/service/{service}/score service=iris type=ClientGone failed
  internal wait for a replica
  client ask a replica type=canceled failed
`)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// flushed are the spans so far, exported now.
func (r *real) flushed(t *testing.T, c *tracingtest.Collector) []tracingtest.Span {
	t.Helper()
	if err := r.traces.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c.Spans()
}

func TestTrace_HopToTheOwner(t *testing.T) {
	c := tracingtest.New(t)
	fronts, addrs := [2]*real{serveReal(t, quiet, nil), serveReal(t, quiet, nil)}, []string{}
	for _, f := range fronts {
		s := httptest.NewServer(f.front.Inner())
		t.Cleanup(s.Close)
		addrs = append(addrs, s.Listener.Addr().String())
	}
	other := 0
	for i, f := range fronts {
		f.front.SetPeers(addrs[i], addrs, peerToken)
		if !f.front.owns(f.front.service("iris")) {
			other = i
		}
	}
	fronts[other].sends(t, nil).want(t, 200, "model", "")
	fronts[0].traces.Stop()
	spans := fronts[1].told(c)
	wantTree(t, spans, `
server POST /api/v1/service/{service}/score status_code=200 route=/api/v1/service/{service}/score service=iris version=v1 answered_by=model
  client pass on status_code=200
    server POST /api/v1/service/{service}/score status_code=200 route=/api/v1/service/{service}/score service=iris version=v1 answered_by=model
      internal wait for a replica
      client ask a replica status_code=200
`)
	if strings.Contains(c.Text(), peerToken) {
		t.Errorf("what front ends show each other was told: %s", c.Text())
	}
}

func TestTrace_ParentThatIsNotSampled(t *testing.T) {
	c := tracingtest.New(t)
	f := serveReal(t, quiet, nil)
	f.sends(t, func(r *http.Request) { r.Header.Set("Traceparent", strings.TrimSuffix(callersParent, "1")+"0") }).want(t, 200, "model", "")
	if spans := f.told(c); len(spans) != 0 {
		t.Errorf("the caller's trace is not sampled, and the collector was told %v", spans)
	}
	if got := (<-f.seen).Get("Traceparent"); !strings.HasPrefix(got, "00-"+callersTrace) || !strings.HasSuffix(got, "-00") {
		t.Errorf("the pod got %q", got)
	}
}

// Without a collector a caller's trace is passed on as it came.
func TestTrace_Off(t *testing.T) {
	c := tracingtest.New(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	f := serveReal(t, quiet, nil)
	if f.traces != nil || f.front.traced != nil {
		t.Fatal("there is no endpoint, and spans are made")
	}
	f.sends(t, nil).want(t, 200, "model", "")
	if pod := <-f.seen; pod.Get("Traceparent") != callersParent || pod.Get("Tracestate") != "vendor=1" {
		t.Errorf("the pod got %q and %q", pod.Get("Traceparent"), pod.Get("Tracestate"))
	}
	f.sends(t, func(r *http.Request) { r.Header.Del("Traceparent") }).want(t, 200, "model", "")
	if got := (<-f.seen).Get("Traceparent"); got != "" {
		t.Errorf("a request without a trace got %q", got)
	}
	if n := len(c.Headers()); n != 0 {
		t.Errorf("%d exports", n)
	}
	p := &passage{front: f.front, r: f.request(t, nil)}
	if n := testing.AllocsPerRun(100, func() {
		p.queued().served(0)
		p.leaves("x", "127.0.0.1:1", 2).arrived(nil, io.EOF)
	}); n != 0 {
		t.Errorf("%v allocations for a request of which nothing is told", n)
	}
}

// A collector that is away costs one line in the log, and no request waits for it.
func TestTrace_CollectorDown(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", gone.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20COLLECTORKEY")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
	t.Setenv("OTEL_BSP_EXPORT_TIMEOUT", "50")
	var log bytes.Buffer
	f := serveReal(t, slog.New(slog.NewTextHandler(&log, nil)), nil)
	for range 50 {
		if a := f.sends(t, nil); a.status != 200 || a.took > 5*time.Second {
			t.Fatalf("answered %d after %s", a.status, a.took)
		}
		<-f.seen
	}
	for range 3 {
		_ = f.traces.Flush(t.Context()) // it fails; that is the point
		f.sends(t, nil).want(t, 200, "model", "")
		<-f.seen
	}
	f.traces.Stop()
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "connection refused") || strings.Contains(log.String(), "COLLECTORKEY") {
		t.Errorf("the log has %d lines: %s", n, log.String())
	}
}
