// Package graph serves the directory as Microsoft Graph does, as far as clients of ARM need
// it: to look principals up, to name them in role assignments, and to manage users,
// applications and their secrets. An application and its service principal are two views
// of one account of package identity: one has an ID of its own, and deleting either
// deletes both.
//
// Who is signed in may read; changing takes a Permission. A secret's value is in the
// answer to the request that made it and nowhere else.
package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/identity"
)

const (
	// maxBody bounds bodies. The largest is that of getByIds: 1000 IDs are Graph's limit.
	maxBody = 64 << 10
	maxIDs  = 1000
)

// graphError is an error in Graph's own words.
type graphError struct {
	status        int
	code, message string
}

func (e *graphError) Error() string { return e.code + ": " + e.message }

func badRequest(format string, args ...any) error {
	return &graphError{http.StatusBadRequest, "Request_BadRequest", fmt.Sprintf(format, args...)}
}

// asGraphError puts what the directory refused into Graph's words; nil for a fault.
func asGraphError(err error) *graphError {
	e, invalid := new(graphError), new(identity.InvalidError)
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &invalid):
		return &graphError{http.StatusBadRequest, "Request_BadRequest", invalid.Message + "."}
	case errors.Is(err, identity.ErrNameTaken):
		return &graphError{http.StatusBadRequest, "Request_BadRequest", "Another user has this userPrincipalName already; names compare without regard to case."}
	case errors.Is(err, identity.ErrNoSecret):
		return &graphError{http.StatusBadRequest, "Request_BadRequest", "No password credential found with keyId."}
	case errors.Is(err, identity.ErrNoPrincipal): // deleted since it was looked up
		return &graphError{http.StatusNotFound, "Request_ResourceNotFound", err.Error()}
	}
	return nil
}

func notFound(id string) error {
	return &graphError{http.StatusNotFound, "Request_ResourceNotFound", fmt.Sprintf("No such user, application or service principal is in this tenant: '%s'.", id)}
}

// Permission decides who may change the directory.
type Permission struct {
	// Scope is the ARM ID at which a principal needs the role Owner. It is told to who lacks it.
	Scope string
	// Allowed reports whether the principal with the object ID has it.
	Allowed func(ctx context.Context, objectID string) (bool, error)
}

// Handler serves Graph's v1.0 and beta to callers that hold a token for Graph.
func Handler(s *identity.Service, change Permission, log *slog.Logger) http.Handler {
	g := &directory{s, change, log}
	mux := http.NewServeMux()
	for _, version := range []string{"/v1.0", "/beta"} {
		read := func(path string, fn endpoint) { mux.Handle("GET "+version+path, g.handle(http.StatusOK, fn)) }
		write := func(method, path string, status int, fn endpoint) {
			mux.Handle(method+" "+version+path, g.handle(status, g.permitted(fn)))
		}
		read("/me", g.me)
		for _, k := range []kind{users, applications, servicePrincipals} {
			read("/"+k.plural, g.list(k))
			read("/"+k.plural+"/{id}", g.get(k))
			write("DELETE", "/"+k.plural+"/{id}", http.StatusNoContent, g.remove(k))
		}
		write("POST", "/users", http.StatusCreated, g.createUser)
		write("PATCH", "/users/{id}", http.StatusNoContent, g.changeUser)
		write("POST", "/applications", http.StatusCreated, g.createApplication)
		write("PATCH", "/applications/{id}", http.StatusNoContent, g.changeApplication)
		write("POST", "/servicePrincipals", http.StatusCreated, g.createServicePrincipal)
		write("PATCH", "/servicePrincipals/{id}", http.StatusNoContent, g.changeServicePrincipal)
		for _, k := range []kind{applications, servicePrincipals} {
			read("/"+k.plural+"/{id}/owners", g.owners(k))
			write("POST", "/"+k.plural+"/{id}/addPassword", http.StatusOK, g.addPassword(k))
			write("POST", "/"+k.plural+"/{id}/removePassword", http.StatusNoContent, g.removePassword(k))
		}
		read("/groups", g.list(kind{"groups", "#microsoft.graph.group"})) // there are none
		read("/directoryObjects/{id}", g.get(principals))
		mux.Handle("POST "+version+"/directoryObjects/getByIds", g.handle(http.StatusOK, g.getByIDs))
	}
	mux.Handle("/", g.handle(0, func(r *http.Request, _ identity.Principal) (any, error) {
		return nil, &graphError{http.StatusBadRequest, "BadRequest", fmt.Sprintf(
			"Berth's directory has no %s %s: it has users, applications and servicePrincipals.", r.Method, r.URL.Path)}
	}))
	return byKey(mux)
}

// keyed is OData's other way to address an object: /applications(appId='…').
var keyed = regexp.MustCompile(`^(/[^/]+/(?:users|applications|servicePrincipals))\((?:(appId=)|userPrincipalName=)?'([^'/]+)'\)(/.*)?$`)

// byKey leads addresses with a key to the same endpoints as those with an ID.
func byKey(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m := keyed.FindStringSubmatch(r.URL.Path); m != nil {
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = m[1]+"/"+m[2]+m[3]+m[4], ""
		}
		next.ServeHTTP(w, r)
	})
}

type directory struct {
	*identity.Service
	change Permission
	log    *slog.Logger
}

type endpoint func(*http.Request, identity.Principal) (any, error)

// handle authenticates the caller and writes what the endpoint answers, with the status if
// it succeeds.
func (d *directory) handle(status int, fn endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		requestID := uuid.NewString()
		w.Header().Set("request-id", requestID)
		p, err := d.AuthenticateFor(r.Context(), r, identity.Graph)
		if err != nil {
			armerr.Write(w, err)
			return
		}
		status := status
		body, err := fn(r, p)
		if err != nil {
			e := asGraphError(err)
			if e == nil {
				d.log.ErrorContext(r.Context(), "directory failed", "path", r.URL.Path, "request_id", requestID, "error", err)
				e = &graphError{http.StatusInternalServerError, "InternalServerError", "The directory met a fault of its own. Try again."}
			}
			status = e.status
			body = map[string]any{"error": map[string]any{"code": e.code, "message": e.message, "innerError": map[string]string{"request-id": requestID}}}
		}
		w.Header().Set("Cache-Control", "no-store")
		if status == http.StatusNoContent {
			w.WriteHeader(status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body) // the client is gone; nobody is left to tell
	})
}

// permitted lets only those through who may change the directory.
func (d *directory) permitted(fn endpoint) endpoint {
	return func(r *http.Request, p identity.Principal) (any, error) {
		allowed, err := d.change.Allowed(r.Context(), p.ObjectID)
		if err != nil {
			return nil, err
		}
		if !allowed {
			return nil, &graphError{http.StatusForbidden, "Authorization_RequestDenied", fmt.Sprintf(
				"Insufficient privileges to complete the operation. Changing the directory takes the role Owner on %[1]s. Who has it can grant it: az role assignment create --role Owner --scope %[1]s --assignee %[2]s",
				d.change.Scope, p.ObjectID)}
		}
		body, err := fn(r, p)
		if err == nil {
			d.log.InfoContext(r.Context(), "directory changed", "method", r.Method, "path", r.URL.Path, "by", p.ObjectID)
		}
		return body, err
	}
}

type page struct {
	Value []*object `json:"value"`
}

func (d *directory) list(k kind) endpoint {
	return func(r *http.Request, _ identity.Principal) (any, error) {
		match, err := parseFilter(r.URL.Query().Get("$filter"))
		if err != nil {
			return nil, err
		}
		found, err := d.objects(r, k, match)
		return page{found}, err
	}
}

func (d *directory) get(k kind) endpoint {
	return func(r *http.Request, _ identity.Principal) (any, error) { return d.addressed(r, k) }
}

// owners answers that nobody in particular owns what is there: Berth keeps no owners.
func (d *directory) owners(k kind) endpoint {
	return func(r *http.Request, _ identity.Principal) (any, error) {
		_, err := d.addressed(r, k)
		return page{[]*object{}}, err
	}
}

func (d *directory) me(r *http.Request, p identity.Principal) (any, error) {
	if p.Kind != identity.User {
		return nil, &graphError{http.StatusBadRequest, "BadRequest", "/me is for users; a service principal is signed in."}
	}
	return d.one(r, users, p.ObjectID)
}

func (d *directory) getByIDs(r *http.Request, _ identity.Principal) (any, error) {
	var body struct {
		IDs   []string `json:"ids"`
		Types []string `json:"types"` // the caller's guess; an ID has one type anyhow
	}
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	if len(body.IDs) > maxIDs {
		return nil, badRequest("ids has %d IDs; the most is %d.", len(body.IDs), maxIDs)
	}
	found, err := d.objects(r, principals, func(o *object) bool {
		return slices.ContainsFunc(body.IDs, func(id string) bool { return strings.EqualFold(id, o.ID) })
	})
	return page{found}, err
}
