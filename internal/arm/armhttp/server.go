// Package armhttp answers HTTP requests as ARM does: it identifies and authorises the
// caller, checks the api-version, finds the declared type, and writes results, errors
// and polling headers. All routes follow from the registry; there is no list of them.
package armhttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/arm/schema"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/tracing"
)

// MaxBody is the size of the largest request body, in bytes. ARM's own limit is 4 MB.
const MaxBody = 4 << 20

// Caller is who makes a request.
type Caller struct {
	ObjectID string
	Name     string
	Kind     string // as systemData writes it: User or Application
}

// Access decides who may do what.
type Access interface {
	// Authenticate identifies the caller of a request. Errors: *armerr.Error with 401.
	Authenticate(r *http.Request) (Caller, error)
	// Allowed reports whether the caller may do the action (Namespace/type/verb) at the scope.
	Allowed(ctx context.Context, c Caller, action string, scope armid.ID) (bool, error)
}

// Server answers ARM requests.
type Server struct {
	Manager *resource.Manager
	Access  Access
	Logger  *slog.Logger
	Region  string // named in routing request IDs
}

// request is one request on its way through the server.
type request struct {
	*http.Request
	w       http.ResponseWriter
	server  *Server
	caller  Caller
	path    armid.Path
	query   map[string]string // by lower-cased name
	version string            // as given
	id      string
}

func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r := &request{Request: hr, w: w, server: s, id: uuid.NewString()}
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.Logger.Error("panic while answering", "request_id", r.id, "method", hr.Method, "path", hr.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			armerr.Write(w, errors.New("panic"))
		}
	}()
	r.headers()
	err := r.serve()
	if errors.Is(err, store.ErrDisk) {
		e := armerr.New(armerr.CodeServiceUnavailable, "Berth could not write its state: the disk with its home folder is full or failing. Nothing was changed. Free some space there, then send the request again.")
		e.RetryAfter = 5 * time.Second
		err = e.Because(err)
	}
	if err != nil {
		s.logFailure(r, err)
		armerr.Write(w, err)
	}
	s.Logger.Debug("answered", "request_id", r.id, "method", hr.Method, "path", hr.URL.Path, "took", time.Since(start))
}

func (s *Server) logFailure(r *request, err error) {
	e := armerr.Of(err)
	if e.HTTPStatus() >= http.StatusInternalServerError {
		s.Logger.Error("request failed", "request_id", r.id, "method", r.Method, "path", r.URL.Path, "error", err)
		return
	}
	s.Logger.Info("request refused", "request_id", r.id, "method", r.Method, "path", r.URL.Path, "status", e.HTTPStatus(), "code", e.Code)
}

// headers sets what every ARM answer has. Clients and support staff find a request by these IDs.
func (r *request) headers() {
	h := r.w.Header()
	correlation := r.Header.Get("x-ms-correlation-request-id")
	if correlation == "" || len(correlation) > 100 {
		correlation = r.id
	}
	h.Set("x-ms-request-id", r.id)
	h.Set("x-ms-correlation-request-id", correlation)
	h.Set("x-ms-routing-request-id", strings.ToUpper(r.server.Region)+":"+time.Now().UTC().Format("20060102T150405Z")+":"+r.id)
	if c := r.Header.Get("x-ms-client-request-id"); c != "" && len(c) <= 100 && strings.EqualFold(r.Header.Get("x-ms-return-client-request-id"), "true") {
		h.Set("x-ms-client-request-id", c)
	}
	h.Set("Cache-Control", "no-cache")
	h.Set("Pragma", "no-cache")
	h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	h.Set("X-Content-Type-Options", "nosniff")
}

func (r *request) serve() error {
	caller, err := r.server.Access.Authenticate(r.Request)
	if err != nil {
		return err
	}
	r.caller = caller
	if r.path, err = armid.ParsePath(r.URL.EscapedPath()); err != nil {
		var syn *armid.SyntaxError
		if errors.As(err, &syn) {
			return armerr.New(armerr.CodeInvalidResourceID, "The request's path is not a resource ID: %s.", syn)
		}
		return err
	}
	tracing.Route(r.Context(), r.route())
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return armerr.New(armerr.CodeBadRequest, "The request's query is malformed: %s.", err)
	}
	r.query = make(map[string]string, len(values))
	for k, v := range values {
		r.query[strings.ToLower(k)] = v[0]
	}
	r.version = r.param("api-version")
	if err := resource.CheckVersion(r.version); err != nil {
		return err
	}
	if sub := r.path.ID.SubscriptionID(); sub != "" {
		if uuid.Validate(sub) != nil || len(sub) != 36 {
			return armerr.New(armerr.CodeInvalidSubscriptionID, "The provided subscription identifier '%s' is malformed or invalid. It is a GUID.", sub)
		}
	}
	return r.dispatch()
}

// param returns a query parameter; its name has no case.
func (r *request) param(name string) string { return r.query[strings.ToLower(name)] }

// require checks that the caller may do the action at the scope.
func (r *request) require(action string, scope armid.ID) error {
	ok, err := r.server.Access.Allowed(r.Context(), r.caller, action, scope)
	if err != nil {
		return err
	}
	if !ok {
		if err := r.subscriptionExists(scope); err != nil {
			return err
		}
		where := scope.String()
		if where == "" {
			where = "/"
		}
		return armerr.New(armerr.CodeAuthorizationFailed, "The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. An Owner can grant it with: az role assignment create --assignee-object-id %s --role Contributor --scope %s",
			r.caller.Name, r.caller.ObjectID, action, where, r.caller.ObjectID, where)
	}
	return nil
}

// subscriptionExists tells a subscription that is not there from one that the caller may
// not see, as ARM does.
func (r *request) subscriptionExists(scope armid.ID) error {
	sub := scope.SubscriptionScope()
	if sub.IsTenant() {
		return nil
	}
	err := r.server.Manager.Store.View(r.Context(), func(tx store.ReadTx) error {
		_, err := tx.Resource(sub.Key())
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return resource.SubscriptionNotFound(sub.Name())
	}
	return err
}

func (r *request) stamp() store.Stamp {
	by := r.caller.ObjectID
	if r.caller.Kind == "User" && r.caller.Name != "" {
		by = r.caller.Name
	}
	return store.Stamp{At: r.server.Manager.Now(), By: by, Kind: r.caller.Kind}
}

// body reads the request's body.
func (r *request) body() ([]byte, error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		mt, _, err := mime.ParseMediaType(ct)
		if err != nil || !(strings.HasSuffix(mt, "json") || mt == "text/plain") {
			return nil, armerr.New(armerr.CodeInvalidContentType, "The content type '%s' is not JSON. Send the body as application/json.", ct)
		}
	}
	data, err := io.ReadAll(http.MaxBytesReader(r.w, r.Body, MaxBody))
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return nil, armerr.New(armerr.CodeRequestTooLarge, "The request's body is larger than the limit of %d bytes. Send a smaller one.", MaxBody)
	}
	if err != nil {
		return nil, armerr.New(armerr.CodeBadRequest, "The request's body could not be read to its end: the connection broke.").Because(err)
	}
	return data, nil
}

func (r *request) document() (map[string]any, error) {
	data, err := r.body()
	if err != nil {
		return nil, err
	}
	return schema.Decode(data)
}

func (r *request) reply(status int, body any) error {
	if body == nil {
		r.w.WriteHeader(status)
		return nil
	}
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	r.w.WriteHeader(status)
	_, _ = r.w.Write(data) // the client is gone when this fails; nobody is left to tell
	return nil
}

func notAllowed(r *request, what string, allow ...string) error {
	e := armerr.New(armerr.CodeMethodNotAllowed, "%s does not have the method %s. It has: %s.", what, r.Method, strings.Join(allow, ", "))
	e.Header = http.Header{"Allow": {strings.Join(allow, ", ")}}
	return e
}
