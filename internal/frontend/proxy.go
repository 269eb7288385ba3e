package frontend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/route"
)

var dialer = &net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}

// Headers that say who answered, and why the router did.
const (
	answeredBy   = "X-Berth-Answered-By" // router or model
	reasonHeader = "X-Berth-Reason"
	// VersionHeader makes a request go to one version of an endpoint.
	VersionHeader = "Azureml-Model-Deployment"
	requestID     = "X-Ms-Request-Id"
)

// target is where a request's path leads.
type target struct {
	service, version string
	path             string // what the pod sees
}

// parse reads /api/v1/service/{name}[/version/{version}]/{score, swagger.json or nothing}.
func parse(path string) (target, bool) {
	rest, ok := strings.CutPrefix(path, "/api/v1/service/")
	if !ok {
		if rest, ok = strings.CutPrefix(path, "/api/v1/endpoint/"); !ok {
			return target{}, false
		}
	}
	name, rest, _ := strings.Cut(rest, "/")
	t := target{service: name}
	if after, ok := strings.CutPrefix(rest, "version/"); ok {
		t.version, rest, _ = strings.Cut(after, "/")
		if t.version == "" {
			return target{}, false
		}
	}
	switch rest {
	case "score", "swagger.json", "":
		t.path = "/" + rest
		return t, name != ""
	}
	return target{}, false
}

// ServeHTTP answers callers.
func (f *FrontEnd) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.serve(w, r, false) }

func (f *FrontEnd) serve(w http.ResponseWriter, r *http.Request, fromPeer bool) {
	sent := newUpload(w, r.Body)
	defer sent.end()
	r.Body = sent
	if r.URL.Path == "/" {
		_, _ = io.WriteString(w, "Healthy") // for load balancers
		return
	}
	id := r.Header.Get(requestID)
	if id == "" {
		if id = r.Header.Get("X-Request-Id"); id == "" {
			id = r.Header.Get("X-Ms-Client-Request-Id")
		}
	}
	if id == "" {
		id = uuid.NewString()
	}
	if len(id) > 100 {
		f.refuse(w, "", http.StatusRequestHeaderFieldsTooLarge, "RequestIdTooLong", "The request ID has more than 100 characters.")
		return
	}
	r.Header.Set(requestID, id)
	w.Header().Set(requestID, id)
	t, ok := parse(r.URL.Path)
	if !ok {
		f.refuse(w, "", http.StatusNotFound, "UnknownPath", "There is nothing at "+r.URL.Path+". Score at /api/v1/service/{name}/score.")
		return
	}
	e := f.service(t.service)
	if e == nil {
		f.refuse(w, "", http.StatusNotFound, "UnknownService", fmt.Sprintf("There is no service %q here.", t.service))
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodPost && r.Method != http.MethodOptions && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, POST, OPTIONS")
		f.refuse(w, t.service, http.StatusMethodNotAllowed, "MethodNotAllowed", "A service takes GET and POST.")
		return
	}
	if !fromPeer && r.Method != http.MethodOptions { // browsers send a preflight without credentials
		if why := authorized(e, r, f.now()); why != "" {
			w.Header().Set("WWW-Authenticate", "Bearer")
			f.refuse(w, t.service, http.StatusUnauthorized, "Unauthorized", why)
			return
		}
	}
	if !fromPeer && f.passOn(w, r, t.service, sent) {
		return
	}
	v := f.choose(e, t, r)
	if v == nil {
		f.refuse(w, t.service, http.StatusNotFound, "UnknownVersion", fmt.Sprintf("The service %q has no such version, or none that takes requests.", t.service))
		return
	}
	f.forward(w, r, t, v, fromPeer, sent)
}

func (f *FrontEnd) choose(e *entry, t target, r *http.Request) *version {
	name := t.version
	if name == "" {
		name = r.Header.Get(VersionHeader)
	}
	if name != "" {
		return e.version(name)
	}
	return e.split.next()
}

// refuse answers in the router's own name.
func (f *FrontEnd) refuse(w http.ResponseWriter, service string, status int, reason, message string) {
	h := w.Header()
	h.Set(answeredBy, "router")
	h.Set(reasonHeader, reason)
	h.Set("Content-Type", "application/json; charset=utf-8")
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": reason, "message": message}}) // the client is gone when this fails
	f.metrics.count(service, "", status)
}

// buffers are reused from request to request.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

var copies = &buffers{}

// forward sends a request to a pod of the version.
func (f *FrontEnd) forward(w http.ResponseWriter, r *http.Request, t target, v *version, fromPeer bool, sent *upload) {
	began := f.now()
	if r.ContentLength > v.MaxBody {
		f.tooLarge(w, t.service, v)
		return
	}
	r.Body = http.MaxBytesReader(w, sent, v.MaxBody)
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	trip := &trip{front: f, version: v, cancel: cancel, client: r.Context(), sent: sent}
	proxy := httputil.ReverseProxy{
		Transport: trip, BufferPool: copies, ErrorLog: f.proxyLog,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.URL.Path, p.Out.URL.RawPath = "http", "model", t.path, ""
			if p.SetXForwarded(); fromPeer { // which knows the client; this one knows only the peer
				for _, h := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
					p.Out.Header[h] = p.In.Header[h]
				}
			}
			p.Out.Host = r.Host
			if v.Name != "" {
				p.Out.Header.Set(VersionHeader, v.Name)
			}
			p.Out.Header.Del("Authorization") // it is for the router; a model has no use for a key
			p.Out.Header.Del("Upgrade")       // a model answers a request, and its pod is free again
			p.Out.Header.Del("Connection")
		},
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Set(answeredBy, "model")
			resp.Body = sent.pace(resp.Body)
			if resp.StatusCode == http.StatusInternalServerError { // as the original does
				resp.StatusCode = http.StatusBadGateway
				resp.Header.Set(reasonHeader, "ModelError")
			}
			if v.Name != "" {
				resp.Header.Set(VersionHeader, v.Name)
			}
			w.Header().Del(requestID)
			resp.Header.Set(requestID, r.Header.Get(requestID))
			f.metrics.done(t.service, v.Name, resp.StatusCode, f.now().Sub(began))
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { f.failed(w, t, v, trip, err) },
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
}

func (f *FrontEnd) tooLarge(w http.ResponseWriter, service string, v *version) {
	f.refuse(w, service, http.StatusRequestEntityTooLarge, "BodyTooLarge", fmt.Sprintf("The body is larger than the limit of %d bytes.", v.MaxBody))
}

// failed answers for a request that got no answer of a model.
func (f *FrontEnd) failed(w http.ResponseWriter, t target, v *version, trip *trip, err error) {
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		f.tooLarge(w, t.service, v)
	case trip.client.Err() != nil && !trip.sent.late(): // the server takes one that is cut off for gone
		f.metrics.count(t.service, v.Name, statusClientGone) // nobody is left to tell
	case trip.sent.failed():
		f.brokeOff(w, t.service, trip.sent)
	case trip.refused == overloaded:
		f.refuse(w, t.service, http.StatusServiceUnavailable, "Overloaded", fmt.Sprintf("Too many requests for service %s (overloaded): none of its replicas became free within %s. Raise the number of replicas, or lower the target utilization.", t.service, v.QueueWait))
	case trip.refused == noReplicas:
		f.refuse(w, t.service, http.StatusServiceUnavailable, "NoReadyReplicas", "No ready replicas for service "+t.service+". Its state and logs say why: get_logs().")
	case errors.Is(err, errTimeout) || trip.timedOut || trip.refused == clientGone: // gone, while the client is there: the time limit
		f.refuse(w, t.service, http.StatusGatewayTimeout, "ScoringTimeout", fmt.Sprintf("The model did not answer within %s (scoring_timeout_ms).", v.Timeout))
	default:
		f.refuse(w, t.service, http.StatusBadGateway, "ReplicaClosedConnection", "Replica closed connection before replying: its container ended or was ended while it worked. get_logs() says more.")
	}
}

// brokeOff answers for a body that ended before its end, is malformed, or did not come in time.
func (f *FrontEnd) brokeOff(w http.ResponseWriter, service string, u *upload) {
	if u.late() {
		f.refuse(w, service, http.StatusRequestTimeout, "BodyTooSlow", "The request's body did not come to its end within the time limit of the service (scoring_timeout_ms). Send it faster, send less, or raise the limit.")
		return
	}
	f.refuse(w, service, http.StatusBadRequest, "BodyBrokeOff", "The request's body broke off, or its chunks are malformed. Send it again, whole.")
}

// statusClientGone is what requests are counted as whose client did not wait for the answer.
const statusClientGone = 499

var errTimeout = errors.New("scoring took too long")

// trip is one request's way to a pod: it waits for one, and finds another when a pod does not take
// the connection, because then no model has seen the request.
type trip struct {
	front    *FrontEnd
	version  *version
	cancel   context.CancelCauseFunc
	client   context.Context
	refused  refusal
	timedOut bool
	sent     *upload
}

const attempts = 4

// RoundTrip implements http.RoundTripper.
func (t *trip) RoundTrip(r *http.Request) (*http.Response, error) {
	v := t.version
	cold := time.Duration(0)
	if v.Scale.Auto && v.Scale.Min == 0 {
		cold = max(v.Timeout, route.DefaultTimeout) // a version that sleeps is woken by its first request
	}
	if r.Body != nil && r.Body != http.NoBody {
		if err := t.readEarly(r); err != nil {
			return nil, err
		}
		defer t.sent.answered()
	}
	for n := 1; ; n++ {
		d, why := v.pool.acquire(r.Context(), v.QueueWait, cold)
		if d == nil {
			t.refused = why
			return nil, errors.New("no pod")
		}
		timer := time.AfterFunc(v.Timeout, func() {
			t.sent.cut()
			t.cancel(errTimeout)
		})
		r.URL.Host = d.addr
		resp, err := t.front.model.RoundTrip(r)
		if err == nil {
			empty := resp.Body == http.NoBody
			body := &held{ReadCloser: resp.Body, release: func() { timer.Stop(); v.pool.release(d, false) }}
			resp.Body = body
			switch {
			case resp.StatusCode == http.StatusSwitchingProtocols:
				_ = resp.Body.Close() // it is of no use
				return nil, errors.New("the model switched protocols, which it was not asked to do")
			case !empty && resp.ContentLength > 0 && resp.ContentLength <= small:
				err = readAnswer(resp)
				t.timedOut = errors.Is(context.Cause(r.Context()), errTimeout)
			default:
				// A client that does not read keeps the answer open for as long as it likes, not the pod.
				context.AfterFunc(r.Context(), body.giveBack)
			}
			return resp, err
		}
		timer.Stop()
		t.timedOut = errors.Is(context.Cause(r.Context()), errTimeout)
		dial := isDial(err) && r.Context().Err() == nil
		v.pool.release(d, dial)
		if !dial {
			return nil, err
		}
		if n == attempts {
			t.refused = noReplicas
			return nil, err
		}
	}
}

// small is the largest body, of a request or an answer, that is kept in memory, in bytes.
const small = 64 << 10

// readEarly reads a small body. Only then does the server notice a client that leaves the queue, and no pod has
// to wait for a client that sends slowly.
func (t *trip) readEarly(r *http.Request) error {
	if r.ContentLength <= 0 || r.ContentLength > small {
		return nil
	}
	defer time.AfterFunc(t.version.Timeout, t.sent.cut).Stop()
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return err
	}
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, _ = r.GetBody() // never fails
	return nil
}

// readAnswer reads a small answer. One that breaks off can then still become an error that says so, and no pod has
// to wait for a client that reads slowly.
func readAnswer(resp *http.Response) error {
	body := make([]byte, resp.ContentLength)
	_, err := io.ReadFull(resp.Body, body)
	_ = resp.Body.Close() // gives the pod back
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return err
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// held is an answer's body that gives its pod back when it ends.
type held struct {
	io.ReadCloser
	once    sync.Once
	release func()
}

func (h *held) Close() error {
	err := h.ReadCloser.Close()
	h.giveBack()
	return err
}

func (h *held) giveBack() { h.once.Do(h.release) }
