// Package dataplane is what the data-plane APIs of a workspace share: model management,
// artifacts, environments. All of them live below {prefix}{workspace's resource ID}; this package
// finds the workspace, identifies and authorises the caller, and writes answers and
// errors as these APIs do. Its subpackages have one noun of the API each and register handlers here.
//
// What they store are resources of the ARM kernel, below the workspace's key, with types that the ARM
// endpoint does not serve (resource.Definition.DataPlane).
package dataplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armhttp"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/tracing"
)

// Prefixes of the APIs. Clients put them between the host that discovery names and the
// workspace's ID.
const (
	ModelManagement = "/modelmanagement/v1.0"
	Artifacts       = "/artifact/v2.0"
	Environments    = "/environment/v1.0"
	EnvironmentsV2  = "/environment/v2.0"
)

// MaxBody is the size of the largest request body, in bytes.
const MaxBody = 8 << 20

const workspaceType = "Microsoft.MachineLearningServices/workspaces"

// Verb says what a handler does to its noun, for the decision whether a caller may. The noun "" is the workspace.
type Verb string

// Verbs of Azure's role definitions.
const (
	Read   Verb = "read"
	Write  Verb = "write"
	Delete Verb = "delete"
)

// Handler answers a request. A nil Reply is 204.
type Handler func(r *Request) (*Reply, error)

// Server answers the data plane's requests. Register every handler before the first request.
type Server struct {
	Manager *resource.Manager
	Access  armhttp.Access
	Logger  *slog.Logger

	mux http.ServeMux // patterns are {method} {prefix}/{rest}, without the workspace
}

// Request is a request to a workspace's data plane.
type Request struct {
	*http.Request
	Workspace armid.ID
	Row       *store.Resource // of the workspace
	Caller    armhttp.Caller
	Manager   *resource.Manager

	id   string
	path string // as it was sent: the embedded request's has no workspace
	w    http.ResponseWriter
}

// Reply is an answer.
type Reply struct {
	Status int // 0 means 200
	Header http.Header
	Body   any // sent as JSON
}

// OK is a 200 with a body.
func OK(body any) (*Reply, error) { return &Reply{Body: body}, nil }

// Accepted is a 202 that names the operation to poll, as model management does: clients take the last
// segment of Operation-Location.
func Accepted(r *Request, operation string, body any) (*Reply, error) {
	at := "https://" + r.Host + ModelManagement + r.Workspace.String() + "/operations/" + operation
	return &Reply{Status: http.StatusAccepted, Header: http.Header{"Operation-Location": {at}}, Body: body}, nil
}

// Handle registers a handler for a path below the workspace, which is a pattern of
// http.ServeMux; noun and verb make the action that the caller needs, such as models/write.
func (s *Server) Handle(method, prefix, pattern, noun string, verb Verb, h Handler) {
	action := path.Join(workspaceType, noun, string(verb))
	s.mux.HandleFunc(method+" "+prefix+pattern, func(w http.ResponseWriter, hr *http.Request) {
		r := hr.Context().Value(requestKey{}).(*Request)
		r.Request = hr
		reply, err := s.answer(r, action, h)
		if err != nil {
			s.refuse(r, err)
			return
		}
		s.reply(r, reply)
	})
}

type requestKey struct{}

func (s *Server) answer(r *Request, action string, h Handler) (*Reply, error) {
	allowed, err := s.Access.Allowed(r.Context(), r.Caller, action, r.Workspace)
	if err != nil {
		return nil, err
	}
	if !allowed {
		return nil, armerr.New(armerr.CodeAuthorizationFailed, "The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s'. An Owner can grant it with: az role assignment create --assignee-object-id %s --role Contributor --scope %s",
			r.Caller.Name, r.Caller.ObjectID, action, r.Workspace, r.Caller.ObjectID, r.Workspace)
	}
	err = s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		r.Row, err = tx.Resource(r.Workspace.Key())
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, armerr.NotFound(workspaceType, r.Workspace.Name(), r.Workspace.GroupName())
	}
	if err != nil {
		return nil, err
	}
	return h(r)
}

// workspacePath splits a path into the prefix, the workspace's ID and what is below it.
var workspacePath = regexp.MustCompile(`(?i)^(/[a-z]+/v[0-9.]+)/*(/subscriptions/[^/]+/resourcegroups/[^/]+/providers/microsoft\.machinelearningservices/workspaces/[^/]+)(/.*)?$`)

var slashes = regexp.MustCompile(`/{2,}`)

func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r := &Request{Request: hr, Manager: s.Manager, id: uuid.NewString(), path: hr.URL.Path, w: w}
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.Logger.Error("panic while answering", "request_id", r.id, "method", hr.Method, "path", hr.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			s.refuse(r, errors.New("panic"))
		}
	}()
	r.headers()
	// Before anything else, so that who is nobody learns nothing, not even what there would be.
	var err error
	if r.Caller, err = s.Access.Authenticate(hr); err != nil {
		s.refuse(r, err)
		return
	}
	parts := workspacePath.FindStringSubmatch(hr.URL.EscapedPath())
	if parts == nil {
		s.refuse(r, notThere(hr.URL.Path))
		return
	}
	scope, err := url.PathUnescape(parts[2])
	if err == nil {
		r.Workspace, err = armid.Parse(scope)
	}
	if err != nil {
		s.refuse(r, armerr.New(armerr.CodeInvalidResourceID, "The request's path has no workspace's ID: %s.", err))
		return
	}
	below := hr.Clone(context.WithValue(hr.Context(), requestKey{}, r))
	// The mux would redirect to a path that is cleaned, and that is not the client's: it has no workspace.
	rest := slashes.ReplaceAllString(parts[3], "/")
	if clean := path.Clean("/" + rest); clean != "/" && clean != strings.TrimSuffix(rest, "/") {
		s.refuse(r, armerr.New(armerr.CodeBadRequest, "The request's path has a part that is . or ..; leave it out."))
		return
	}
	below.URL.RawPath = strings.ToLower(parts[1]) + rest
	if below.URL.Path, err = url.PathUnescape(below.URL.RawPath); err != nil {
		s.refuse(r, armerr.New(armerr.CodeBadRequest, "The request's path is malformed: %s.", err))
		return
	}
	_, pattern := s.mux.Handler(below)
	if pattern == "" {
		s.refuse(r, s.unknown(below))
		return
	}
	if route := strings.Split(pattern, "/"); len(route) > 2 { // the workspace comes after the API's prefix
		tracing.Route(hr.Context(), "/"+strings.Join(route[1:3], "/")+"/{workspace}/"+strings.Join(route[3:], "/"))
	}
	s.mux.ServeHTTP(w, below)
}

func notThere(path string) error {
	e := armerr.New(armerr.CodeNotSupported, "Berth's data plane has no %q. It has %s, %s and %s, each followed by a workspace's resource ID.", path, ModelManagement, Artifacts, Environments)
	e.Status = http.StatusNotFound
	return e
}

// unknown tells a path that is not there from a method that a path does not have.
func (s *Server) unknown(r *http.Request) error {
	probe := r.Clone(r.Context())
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe.Method = method
		if _, pattern := s.mux.Handler(probe); pattern != "" {
			allow = append(allow, method)
		}
	}
	if len(allow) == 0 {
		return notThere(r.URL.Path)
	}
	e := armerr.New(armerr.CodeMethodNotAllowed, "%s does not have the method %s. It has: %s.", r.URL.Path, r.Method, strings.Join(allow, ", "))
	e.Header = http.Header{"Allow": {strings.Join(allow, ", ")}}
	return e
}

func (r *Request) headers() {
	h := r.w.Header()
	h.Set("x-ms-request-id", r.id)
	h.Set("Request-Context", "appId="+r.id)
	h.Set("api-supported-versions", "1.0, 2018-03-01-preview, 2018-11-19")
	if c := r.Header.Get("x-ms-client-request-id"); c != "" && len(c) <= 100 {
		h.Set("x-ms-client-request-id", c)
	}
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
}

// Decode reads the request's JSON body into v, which is a pointer. Fields that v does not
// have are left alone: this API's clients send what they have.
func (r *Request) Decode(v any) error {
	data, err := io.ReadAll(http.MaxBytesReader(r.w, r.Body, MaxBody))
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return armerr.New(armerr.CodeRequestTooLarge, "The request's body is larger than the limit of %d bytes. Send a smaller one.", MaxBody)
	}
	if err != nil {
		return armerr.New(armerr.CodeBadRequest, "The request's body could not be read to its end: the connection broke.").Because(err)
	}
	if string(bytes.TrimSpace(data)) == "null" {
		return armerr.New(armerr.CodeInvalidRequestContent, "The request's body is a JSON null; this request takes a document.")
	}
	if err := Unmarshal(data, v); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) && typ.Field != "" {
			return armerr.Field(typ.Field, "the field is of the wrong kind: a JSON %s was sent.", typ.Value)
		}
		if typ != nil {
			wanted := "object"
			if typ.Type.Kind() == reflect.Slice {
				wanted = "list"
			}
			return armerr.New(armerr.CodeInvalidRequestContent, "The request's body is a JSON %s; this request takes a JSON %s.", typ.Value, wanted)
		}
		return armerr.New(armerr.CodeInvalidRequestContent, "The request's body is not valid JSON of the expected shape: %s.", err)
	}
	return nil
}

// Spell gives names in an object the case that Berth's own code knows them by: to clients names have none.
func Spell(object map[string]any, names ...string) {
	for k, v := range object {
		for _, name := range names {
			if k != name && strings.EqualFold(k, name) {
				delete(object, k)
				object[name] = v
			}
		}
	}
}

// Unmarshal reads JSON, with numbers as the kernel wants them in documents: json.Number. More
// than one value is an error.
func Unmarshal(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("there is something after the document's end")
	}
	return nil
}

// Stamp says who makes the request, and when.
func (r *Request) Stamp() store.Stamp {
	by := r.Caller.ObjectID
	if r.Caller.Kind == "User" && r.Caller.Name != "" {
		by = r.Caller.Name
	}
	return store.Stamp{At: r.Manager.Now(), By: by, Kind: r.Caller.Kind}
}

// Param returns a query parameter; its name has no case.
func (r *Request) Param(name string) string {
	for k, v := range r.URL.Query() {
		if strings.EqualFold(k, name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// Number reads a query parameter that is a number from low to high, with a default for none.
func (r *Request) Number(name string, otherwise, low, high int) (int, error) {
	given := r.Param(name)
	if given == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(given)
	if err != nil || n < low || n > high {
		return 0, armerr.Field(name, "%q is not a number from %d to %d.", given, low, high)
	}
	return n, nil
}

func (s *Server) reply(r *Request, reply *Reply) {
	if reply == nil {
		r.w.WriteHeader(http.StatusNoContent)
		return
	}
	h := r.w.Header()
	for k, v := range reply.Header {
		h[k] = v
	}
	status := reply.Status
	if status == 0 {
		status = http.StatusOK
	}
	if reply.Body == nil {
		r.w.WriteHeader(status)
		return
	}
	data, err := json.Marshal(reply.Body)
	if err != nil {
		s.refuse(r, err)
		return
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	r.w.WriteHeader(status)
	_, _ = r.w.Write(data) // the client is gone when this fails; nobody is left to tell
}

// modelError is the shape of model management's errors. The other APIs put code and
// message below error; both are sent, because clients look at either.
type modelError struct {
	Code        string            `json:"code"` // the HTTP status in words
	StatusCode  int               `json:"statusCode"`
	Message     string            `json:"message"`
	Details     []errorDetail     `json:"details"`
	Correlation map[string]string `json:"correlation"`
	Error       errorDetail       `json:"error"`
}

type errorDetail struct {
	Code    string        `json:"code"`
	Message string        `json:"message"`
	Target  string        `json:"target,omitempty"`
	Details []errorDetail `json:"details,omitempty"`
}

func detail(e *armerr.Error) errorDetail {
	d := errorDetail{Code: e.Code, Message: e.Message, Target: e.Target}
	for _, inner := range e.Details {
		d.Details = append(d.Details, detail(inner))
	}
	return d
}

func (s *Server) refuse(r *Request, err error) {
	e := armerr.Of(err)
	status := e.HTTPStatus()
	if status >= http.StatusInternalServerError {
		s.Logger.Error("request failed", "request_id", r.id, "method", r.Method, "path", r.path, "error", err)
	} else {
		s.Logger.Info("request refused", "request_id", r.id, "method", r.Method, "path", r.path, "status", status, "code", e.Code)
	}
	h := r.w.Header()
	for k, v := range e.Header {
		h[k] = v
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("x-ms-error-code", e.Code)
	d := detail(e)
	body := modelError{
		Code: strings.ReplaceAll(http.StatusText(status), " ", ""), StatusCode: status, Message: e.Message,
		Details: append([]errorDetail{}, d.Details...), Error: d,
		// azureml-core prints this field and not the message, except for 404.
		Correlation: map[string]string{"RequestId": r.id, "Reason": e.Message},
	}
	if len(body.Details) == 0 {
		body.Details = []errorDetail{d}
	}
	r.w.WriteHeader(status)
	_ = json.NewEncoder(r.w).Encode(body)
}

// SkipToken is the parameter of a list that says where its next page begins.
const SkipToken = "$skipToken"

// Page is a page of a list of model management at a path below the workspace. next is the token that the next page
// begins with, "" on the last one: that has neither token nor link, because azureml-core follows a nextLink wherever
// there is one, null or not.
func (r *Request) Page(path string, value []any, next string) map[string]any {
	body := map[string]any{"value": value}
	if next == "" {
		return body
	}
	q := r.URL.Query()
	for k := range q {
		if strings.EqualFold(k, SkipToken) {
			delete(q, k)
		}
	}
	q.Set(SkipToken, next)
	body["continuationToken"] = next
	body["nextLink"] = "https://" + r.Host + ModelManagement + r.Workspace.String() + path + "?" + q.Encode()
	return body
}

// ByBody makes a list that is asked for with POST and filters in a body of a list with the same filters in its query.
// Its next page is asked for with nextRequest, the same body with a token.
func ByBody(list Handler) Handler {
	return func(r *Request) (*Reply, error) {
		body := map[string]any{}
		if r.ContentLength != 0 { // without a body there are no filters
			if err := r.Decode(&body); err != nil {
				return nil, err
			}
		}
		Spell(body, "skipToken")
		q := url.Values{}
		for k, v := range body {
			switch v.(type) {
			case nil:
			case string, bool, json.Number:
				q.Set(k, fmt.Sprint(v))
			default:
				return nil, armerr.Field(k, "a filter is a text, a number, true or false.")
			}
		}
		if q.Has("skipToken") {
			q.Set(SkipToken, q.Get("skipToken"))
			q.Del("skipToken")
		}
		r.URL.RawQuery = q.Encode()
		reply, err := list(r)
		if err != nil {
			return nil, err
		}
		page := reply.Body.(map[string]any)
		if next, ok := page["continuationToken"]; ok {
			body["skipToken"] = next
			page["nextRequest"] = body
			page["nextLink"] = "https://" + r.Host + r.path
		}
		return reply, nil
	}
}

// Timestamp writes a time as these APIs do: RFC 3339 with offset, as clients parse it.
func Timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000+00:00") }
