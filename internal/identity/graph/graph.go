// Package graph shows the directory as Microsoft Graph does, as far as clients of ARM
// look principals up in it: to name them in role assignments, and to show who is signed in.
// It only reads; principals are managed through package identity.
package graph

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/identity"
)

const (
	// maxBody bounds the body of getByIds: 1000 IDs are Graph's limit.
	maxBody = 64 << 10
	maxIDs  = 1000
)

// object is a user or a service principal.
type object struct {
	Type                  string    `json:"@odata.type"`
	ID                    string    `json:"id"`
	DisplayName           string    `json:"displayName"`
	AccountEnabled        bool      `json:"accountEnabled"`
	Created               time.Time `json:"createdDateTime"`
	AppID                 string    `json:"appId,omitempty"`
	AppDisplayName        string    `json:"appDisplayName,omitempty"`
	AppOwner              string    `json:"appOwnerOrganizationId,omitempty"`
	ServicePrincipalNames []string  `json:"servicePrincipalNames,omitempty"`
	ServicePrincipalType  string    `json:"servicePrincipalType,omitempty"`
	UserPrincipalName     string    `json:"userPrincipalName,omitempty"`
}

const (
	typeUser             = "#microsoft.graph.user"
	typeServicePrincipal = "#microsoft.graph.servicePrincipal"
)

func objectOf(a identity.Account) *object {
	o := &object{ID: a.ObjectID, DisplayName: a.Name, AccountEnabled: a.Enabled, Created: a.Created}
	if a.Kind == identity.User {
		o.Type, o.UserPrincipalName = typeUser, a.Name
		return o
	}
	o.Type, o.AppID, o.AppDisplayName, o.AppOwner = typeServicePrincipal, a.AppID, a.Name, a.TenantID
	o.ServicePrincipalNames, o.ServicePrincipalType = []string{a.AppID}, "Application"
	return o
}

// graphError is an error in Graph's own words.
type graphError struct {
	status        int
	code, message string
}

func (e *graphError) Error() string { return e.code + ": " + e.message }

func notFound(id string) error {
	return &graphError{http.StatusNotFound, "Request_ResourceNotFound", fmt.Sprintf("No user or service principal %q is in this tenant.", id)}
}

// Handler serves Graph's v1.0 and beta to callers that hold a token for Graph.
func Handler(s *identity.Service, log *slog.Logger) http.Handler {
	g := &directory{s, log}
	mux := http.NewServeMux()
	for _, version := range []string{"/v1.0", "/beta"} {
		mux.Handle("GET "+version+"/me", g.handle(g.me))
		mux.Handle("GET "+version+"/users", g.handle(g.list(typeUser)))
		mux.Handle("GET "+version+"/users/{id}", g.handle(g.get(typeUser)))
		mux.Handle("GET "+version+"/servicePrincipals", g.handle(g.list(typeServicePrincipal)))
		mux.Handle("GET "+version+"/servicePrincipals/{id}", g.handle(g.get(typeServicePrincipal)))
		mux.Handle("GET "+version+"/groups", g.handle(g.list("#microsoft.graph.group"))) // there are none
		mux.Handle("GET "+version+"/directoryObjects/{id}", g.handle(g.get("")))
		mux.Handle("POST "+version+"/directoryObjects/getByIds", g.handle(g.getByIDs))
	}
	mux.Handle("/", g.handle(func(r *http.Request, _ identity.Principal) (any, error) {
		return nil, &graphError{http.StatusBadRequest, "BadRequest", fmt.Sprintf(
			"Berth's directory has no %s %s: it reads users and servicePrincipals. Manage them with berth.", r.Method, r.URL.Path)}
	}))
	return mux
}

type directory struct {
	*identity.Service
	log *slog.Logger
}

type endpoint func(*http.Request, identity.Principal) (any, error)

// handle authenticates the caller and writes what the endpoint answers.
func (d *directory) handle(fn endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		requestID := uuid.NewString()
		w.Header().Set("request-id", requestID)
		p, err := d.AuthenticateFor(r.Context(), r, identity.Graph)
		if err != nil {
			armerr.Write(w, err)
			return
		}
		status := http.StatusOK
		body, err := fn(r, p)
		if err != nil {
			e := new(graphError)
			if !errors.As(err, &e) {
				d.log.ErrorContext(r.Context(), "directory failed", "path", r.URL.Path, "request_id", requestID, "error", err)
				e = &graphError{http.StatusInternalServerError, "InternalServerError", "The directory met a fault of its own. Try again."}
			}
			status = e.status
			body = map[string]any{"error": map[string]any{"code": e.code, "message": e.message, "innerError": map[string]string{"request-id": requestID}}}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body) // the client is gone; nobody is left to tell
	})
}

// objects returns the directory's objects that match, in the order of their IDs.
func (d *directory) objects(r *http.Request, match func(*object) bool) ([]*object, error) {
	accounts, err := d.Accounts(r.Context())
	found := []*object{}
	for _, a := range accounts {
		if o := objectOf(a); match(o) {
			found = append(found, o)
		}
	}
	return found, err
}

type page struct {
	Value []*object `json:"value"`
}

func (d *directory) list(kind string) endpoint {
	return func(r *http.Request, _ identity.Principal) (any, error) {
		match, err := parseFilter(r.URL.Query().Get("$filter"))
		if err != nil {
			return nil, err
		}
		found, err := d.objects(r, func(o *object) bool { return o.Type == kind && match(o) })
		return page{found}, err
	}
}

// get finds one object by its ID, a user also by name. kind "" means any.
func (d *directory) get(kind string) endpoint {
	return func(r *http.Request, _ identity.Principal) (any, error) {
		return d.one(r, r.PathValue("id"), kind)
	}
}

func (d *directory) one(r *http.Request, id, kind string) (any, error) {
	found, err := d.objects(r, func(o *object) bool {
		return (kind == "" || o.Type == kind) && (strings.EqualFold(o.ID, id) || kind == typeUser && strings.EqualFold(o.UserPrincipalName, id))
	})
	if err == nil && len(found) == 0 {
		err = notFound(id)
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

func (d *directory) me(r *http.Request, p identity.Principal) (any, error) {
	if p.Kind != identity.User {
		return nil, &graphError{http.StatusBadRequest, "BadRequest", "/me is for users; a service principal is signed in."}
	}
	return d.one(r, p.ObjectID, typeUser)
}

func (d *directory) getByIDs(r *http.Request, _ identity.Principal) (any, error) {
	var body struct {
		IDs []string `json:"ids"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body.IDs) > maxIDs {
		return nil, &graphError{http.StatusBadRequest, "Request_BadRequest", fmt.Sprintf("The body is an object with a list ids of at most %d IDs.", maxIDs)}
	}
	found, err := d.objects(r, func(o *object) bool {
		return slices.ContainsFunc(body.IDs, func(id string) bool { return strings.EqualFold(id, o.ID) })
	})
	return page{found}, err
}
