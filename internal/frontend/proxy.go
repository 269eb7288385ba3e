package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/frontend/wire"
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

// passage is a request on its way from a caller to a pod, or to the front end that serves its service.
type passage struct {
	front    *FrontEnd
	w        http.ResponseWriter
	r        *http.Request
	fromPeer bool
	id       string
	target
	entry   *entry
	version *version
	sent    upload
	early   *buffer   // a small body, read; nil otherwise
	body    io.Reader // any other
	held    int64     // of the front end's room
}

// ServeHTTP answers callers.
func (f *FrontEnd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.traced != nil && r.URL.Path != "/" {
		f.traced.outer.ServeHTTP(w, r)
		return
	}
	f.serve(w, r, false)
}

func (f *FrontEnd) serve(w http.ResponseWriter, r *http.Request, fromPeer bool) {
	if r.URL.Path == "/" {
		const healthy = "Healthy" // for load balancers
		w.Header().Set("Content-Length", strconv.Itoa(len(healthy)))
		_, _ = io.WriteString(w, healthy)
		return
	}
	c := passage{front: f, w: w, r: r, fromPeer: fromPeer, id: r.Header.Get(requestID)}
	c.sent.begin(w, r.Body)
	defer c.sent.end()
	c.body = &c.sent
	if c.id == "" {
		if c.id = r.Header.Get("X-Request-Id"); c.id == "" {
			c.id = r.Header.Get("X-Ms-Client-Request-Id")
		}
	}
	if c.id == "" {
		c.id = uuid.NewString()
	}
	if len(c.id) > 100 {
		f.refuse(w, "", http.StatusRequestHeaderFieldsTooLarge, "RequestIdTooLong", "The request ID has more than 100 characters.")
		return
	}
	w.Header().Set(requestID, c.id)
	var ok bool
	if c.target, ok = parse(r.URL.Path); !ok {
		f.refuse(w, "", http.StatusNotFound, "UnknownPath", "There is nothing at "+r.URL.Path+". Score at /api/v1/service/{name}/score.")
		return
	}
	if c.entry = f.service(c.service); c.entry == nil {
		f.refuse(w, "", http.StatusNotFound, "UnknownService", fmt.Sprintf("There is no service %q here.", c.service))
		return
	}
	c.service = c.entry.route.Service // metrics keep it; what the request says is a part of all of its header
	if r.Method != http.MethodGet && r.Method != http.MethodPost && r.Method != http.MethodOptions && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, POST, OPTIONS")
		f.refuse(w, c.service, http.StatusMethodNotAllowed, "MethodNotAllowed", "A service takes GET and POST.")
		return
	}
	if !fromPeer && r.Method != http.MethodOptions { // browsers send a preflight without credentials
		if why := authorized(c.entry, r, f.now()); why != "" {
			w.Header().Set("WWW-Authenticate", "Bearer")
			f.refuse(w, c.service, http.StatusUnauthorized, "Unauthorized", why)
			return
		}
	}
	defer func() { c.early.free(); c.letGo() }()
	if !c.hold(c.size()) {
		f.refuse(w, c.service, http.StatusServiceUnavailable, "FrontEndOverloaded", fmt.Sprintf("So many requests for service %s wait that there is no memory for more of them here (overloaded). Raise the number of replicas, lower the target utilization, or send smaller bodies.", c.service))
		return
	}
	if !fromPeer && c.passOn() {
		return
	}
	if c.version = c.choose(); c.version == nil {
		f.refuse(w, c.service, http.StatusNotFound, "UnknownVersion", fmt.Sprintf("The service %q has no such version, or none that takes requests.", c.service))
		return
	}
	c.forward()
}

func (c *passage) choose() *version {
	name := c.target.version
	if name == "" {
		name = c.r.Header.Get(VersionHeader)
	}
	if name != "" {
		return c.entry.version(name)
	}
	return c.entry.split.next()
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
	body, _ := json.Marshal(map[string]any{"error": map[string]string{"code": reason, "message": message}}) // strings cannot fail
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client is gone when this fails
	f.metrics.count(service, "", status)
}

const (
	// small is the largest body, of a request or an answer, that is kept in memory, in bytes.
	small    = 64 << 10
	attempts = 4
)

// buffer is memory that goes from request to request.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{} }}

// newBuffer has room for n bytes, and is empty.
func newBuffer(n int) *buffer {
	b, ok := buffers.Get().(*buffer)
	if !ok {
		panic("buffers holds something else")
	}
	if cap(b.b) < n {
		b.b = make([]byte, 0, max(n, 2<<10))
	}
	b.b = b.b[:0]
	return b
}

func (b *buffer) free() {
	if b != nil {
		buffers.Put(b)
	}
}

// limit is how long the request may take: as long as its version says, or, as long as that is not known, the most patient one.
func (c *passage) limit() time.Duration {
	if c.version != nil {
		return c.version.Timeout
	}
	most := time.Duration(0)
	for _, v := range c.entry.versions {
		most = max(most, v.Timeout)
	}
	return most
}

// readEarly reads a small body. Only then does the server notice a client that leaves the queue, and no pod has
// to wait for a client that sends slowly.
func (c *passage) readEarly() error {
	n := c.r.ContentLength
	if n <= 0 || n > small || c.early != nil {
		return nil
	}
	b := newBuffer(int(n))
	b.b = b.b[:n]
	defer time.AfterFunc(c.limit(), c.sent.cut).Stop()
	if _, err := io.ReadFull(&c.sent, b.b); err != nil {
		b.free()
		if gone := c.r.Context().Err(); gone != nil && !c.sent.late() { // the server takes one that is cut off for gone
			return gone
		}
		return &wire.UploadError{Err: err}
	}
	c.early = b
	return nil
}

// request is what goes out, with head as request line and header. The caller frees head when it is through with the request.
func (c *passage) request(head *buffer) wire.Request {
	out := wire.Request{Method: c.r.Method, Early: c.hint}
	if c.early != nil {
		head.b = append(head.b, c.early.b...)
	} else if c.r.ContentLength != 0 {
		out.Body, out.Chunked = c.body, c.r.ContentLength < 0
		out.Cut = c.sent.cut
	}
	out.Head = head.b
	return out
}

// hint passes an informational answer on.
func (c *passage) hint(code int, h http.Header) {
	if !c.r.ProtoAtLeast(1, 1) {
		return
	}
	to := c.w.Header()
	closing := to["Connection"]
	copyHeader(to, h)
	c.w.WriteHeader(code)
	clear(to)
	if closing != nil {
		to["Connection"] = closing
	}
	to[requestID] = []string{c.id}
}

// forward sends the request to a pod of the version. It waits for one, and finds another when a pod does not take the
// connection, because then no model has seen the request.
func (c *passage) forward() {
	v, ctx, began := c.version, c.r.Context(), c.front.now()
	if c.r.ContentLength > v.MaxBody {
		c.tooLarge()
		return
	}
	if c.r.ContentLength < 0 {
		c.body = http.MaxBytesReader(c.w, &c.sent, v.MaxBody)
	}
	if err := c.readEarly(); err != nil {
		c.failed(err)
		return
	}
	head := newBuffer(2 << 10)
	defer head.free()
	var out wire.Request
	for n := 1; ; n++ {
		wait := c.queued()
		d, why := v.pool.acquire(ctx, v.QueueWait, v.cold())
		wait.served(why)
		if d == nil {
			c.refused(why)
			return
		}
		c.letGo() // the number of those who have a pod is bounded otherwise
		way := c.leaves("ask a replica", d.addr, n)
		if n == 1 || way != nil { // each try has a place in the trace, of which the header tells
			head.b = c.toPod(head.b[:0])
			out = c.request(head)
		}
		asked := time.Now()
		out.Deadline = asked.Add(v.Timeout)
		a, err := c.front.model.Do(ctx, d.addr, &out)
		way.arrived(a, err)
		if err == nil {
			c.answer(a, d, out.Deadline, began)
			return
		}
		var dial *wire.DialError
		if !errors.As(err, &dial) || ctx.Err() != nil || !time.Now().Before(out.Deadline) {
			c.without(d, err)
			c.failed(err)
			return
		}
		v.pool.refused(d, asked)
		if n == attempts {
			c.refused(noReplicas)
			return
		}
	}
}

// without gives a pod back from which there is no whole answer, because of an error.
func (c *passage) without(d *pod, err error) {
	var closed *wire.ClosedError
	if errors.As(err, &closed) {
		c.version.pool.closed(d)
	} else {
		c.version.pool.release(d)
	}
}

// answer passes a model's answer on, and gives its pod back as soon as the model is done.
func (c *passage) answer(a *wire.Answer, d *pod, deadline, began time.Time) {
	if a.StatusCode == http.StatusSwitchingProtocols {
		a.Close()
		c.version.pool.answered(d)
		c.failed(errors.New("the model switched protocols, which it was not asked to do"))
		return
	}
	if n := a.ContentLength; a.Empty() || n > 0 && n <= small && c.hold(n) {
		// One that breaks off can then still become an error that says so, and no pod has to wait for a client that
		// reads slowly.
		var body *buffer
		var err error
		if !a.Empty() {
			body = newBuffer(int(n))
			defer body.free()
			body.b = body.b[:n]
			err = a.ReadAll(body.b)
		}
		a.Close()
		if gone := c.r.Context().Err(); err != nil && gone != nil && !a.Severed {
			err = gone
		}
		if err != nil {
			c.without(d, err)
			c.failed(err)
			return
		}
		c.version.pool.answered(d)
		c.w.WriteHeader(c.header(a, began))
		if body != nil {
			c.sent.pace()
			_, _ = c.w.Write(body.b) // the client is gone when this fails
		}
		return
	}
	// A client that does not read keeps the pod for the time limit, and its connection not much longer.
	var once sync.Once
	end := func(give func()) { once.Do(func() { a.Abort(); give(); c.sent.pace() }) }
	cut := func() { end(func() { c.version.pool.release(d) }) }
	defer cut()
	defer a.Close()
	defer time.AfterFunc(time.Until(deadline), cut).Stop()
	if !a.Severed {
		defer context.AfterFunc(c.r.Context(), cut)()
	}
	if err := c.stream(a, c.header(a, began)); err != nil {
		end(func() { c.without(d, err) })
		c.cutShort()
	}
	a.Close()
	end(func() { c.version.pool.answered(d) })
}

// header sets the header of a model's answer, and returns the status.
func (c *passage) header(a *wire.Answer, began time.Time) int {
	h := c.w.Header()
	copyHeader(h, a.Header)
	status := a.StatusCode
	h[answeredBy] = byModel
	if status == http.StatusInternalServerError { // as the original does
		status = http.StatusBadGateway
		h.Set(reasonHeader, "ModelError")
	}
	if c.version.Name != "" {
		h.Set(VersionHeader, c.version.Name)
	}
	h[requestID] = []string{c.id}
	c.version.series.done(status, c.front.now().Sub(began))
	return status
}

var byModel = []string{"model"}

// stream passes on an answer whose header is set, as it comes. When it breaks off, cutShort is next.
func (c *passage) stream(a *wire.Answer, status int) error {
	for k := range a.Trailer {
		c.w.Header().Add("Trailer", k)
	}
	c.w.WriteHeader(status)
	if err := a.CopyTo(c.w, http.NewResponseController(c.w).Flush); err != nil {
		if c.r.Context().Err() == nil {
			c.front.log.Warn("an answer broke off", "service", c.service, "request", c.id, "error", err)
		}
		return err
	}
	for k, v := range a.Trailer {
		c.w.Header()[k] = v
	}
	return nil
}

// cutShort ends the client's connection, because half an answer must not look like a whole one. What came of it is sent, so
// that nobody takes this front end for one that ended.
func (c *passage) cutShort() {
	_ = http.NewResponseController(c.w).Flush()
	panic(http.ErrAbortHandler)
}

func (c *passage) tooLarge() {
	c.front.refuse(c.w, c.service, http.StatusRequestEntityTooLarge, "BodyTooLarge", fmt.Sprintf("The body is larger than the limit of %d bytes.", c.version.MaxBody))
}

// refused answers for a request that got no pod.
func (c *passage) refused(why refusal) {
	switch why {
	case clientGone:
		c.gone()
	case noReplicas:
		c.front.refuse(c.w, c.service, http.StatusServiceUnavailable, "NoReadyReplicas", "No ready replicas for service "+c.service+". Its state and logs say why: get_logs().")
	default:
		c.front.refuse(c.w, c.service, http.StatusServiceUnavailable, "Overloaded", fmt.Sprintf("Too many requests for service %s (overloaded): none of its replicas became free within %s. Raise the number of replicas, or lower the target utilization.", c.service, c.version.QueueWait))
	}
}

// statusClientGone is what requests are counted as whose client did not wait for the answer.
const statusClientGone = 499

func (c *passage) gone() { c.front.metrics.count(c.service, c.version.Name, statusClientGone) } // nobody is left to tell

// failed answers for a request that got no answer of a model.
func (c *passage) failed(err error) {
	var big *http.MaxBytesError
	var upload *wire.UploadError
	switch {
	case errors.As(err, &big):
		c.tooLarge()
	case c.sent.late(): // the server takes one that is cut off for gone
		c.brokeOff()
	case errors.Is(err, context.Canceled):
		c.gone()
	case errors.As(err, &upload):
		c.brokeOff()
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		c.front.refuse(c.w, c.service, http.StatusGatewayTimeout, "ScoringTimeout", fmt.Sprintf("The model did not answer within %s (scoring_timeout_ms).", c.version.Timeout))
	default:
		c.front.refuse(c.w, c.service, http.StatusBadGateway, "ReplicaClosedConnection", "Replica closed connection before replying: its container ended or was ended while it worked. get_logs() says more.")
	}
}

// brokeOff answers for a body that ended before its end, is malformed, or did not come in time.
func (c *passage) brokeOff() {
	if c.sent.late() {
		c.front.refuse(c.w, c.service, http.StatusRequestTimeout, "BodyTooSlow", "The request's body did not come to its end within the time limit of the service (scoring_timeout_ms). Send it faster, send less, or raise the limit.")
		return
	}
	c.front.refuse(c.w, c.service, http.StatusBadRequest, "BodyBrokeOff", "The request's body broke off, or its chunks are malformed. Send it again, whole.")
}
