package armhttp

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

// dispatch finds what a path means: an operation, a provider, an item, a collection or
// an action.
func (r *request) dispatch() error {
	p := r.path
	reg := r.server.Manager.Registry
	if isOperation(p) {
		return r.operation()
	}
	if p.Namespace != "" && (p.Tail == "" || strings.EqualFold(p.Tail, "register") || strings.EqualFold(p.Tail, "unregister") || strings.EqualFold(p.Tail, "operations")) {
		return r.provider()
	}
	if p.Tail == "" {
		if p.ID.IsTenant() {
			return armerr.New(armerr.CodeInvalidResourceID, "The request's path is empty. ARM's paths begin with /subscriptions, /providers or /tenants.")
		}
		t, err := reg.Find(p.ID.Type())
		if err != nil {
			return err
		}
		return r.item(t)
	}
	if t, ok := reg.Public(p.CollectionType()); ok && r.Method != http.MethodPost {
		return r.collection(t)
	}
	if t, ok := reg.Public(p.CollectionType()); ok && t.Virtual != nil && t.Virtual.Post != nil {
		return r.post(t)
	}
	if r.Method == http.MethodPost && p.Namespace == "" && !p.ID.IsTenant() {
		t, err := reg.Find(p.ID.Type())
		if err != nil {
			return err
		}
		return r.action(t)
	}
	_, err := reg.Find(p.CollectionType())
	if err == nil {
		return notAllowed(r, p.CollectionType(), http.MethodGet)
	}
	return err
}

// resolve picks the api-version of the type that serves the request.
func (r *request) resolve(t *resource.Type) (string, error) { return t.Resolve(r.version) }

func (r *request) item(t *resource.Type) error {
	version, err := r.resolve(t)
	if err != nil {
		return err
	}
	if err := scopeFits(t, r.path.ID); err != nil {
		return err
	}
	verb := map[string]string{http.MethodGet: "read", http.MethodHead: "read", http.MethodPut: "write", http.MethodPatch: "write", http.MethodDelete: "delete"}[r.Method]
	if verb == "" {
		return notAllowed(r, t.Name, http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead)
	}
	if err := r.require(t.Name+"/"+verb, r.path.ID); err != nil {
		return err
	}
	if t.Virtual != nil {
		return r.virtual(t, version)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return r.get(t, version)
	case http.MethodDelete:
		return r.remove(t, version)
	}
	return r.put(t, version)
}

// scopeFits refuses a type in a place where it cannot be, such as a workspace outside
// a resource group.
func scopeFits(t *resource.Type, id armid.ID) error {
	outer := id
	for outer.Parent().Namespace() != "" && outer.Scope().Key() != outer.Parent().Key() {
		outer = outer.Parent()
	}
	scope := outer.Scope()
	ok := true
	switch t.Scope {
	case resource.InGroup:
		ok = strings.EqualFold(scope.Type(), armid.ResourceGroupType) || strings.EqualFold(id.Type(), armid.ResourceGroupType)
	case resource.InSubscription:
		ok = strings.EqualFold(scope.Type(), armid.SubscriptionType)
	case resource.InTenant:
		ok = scope.IsTenant()
	}
	if !ok {
		where := map[resource.Scope]string{resource.InGroup: "a resource group", resource.InSubscription: "a subscription", resource.InTenant: "the tenant"}[t.Scope]
		return armerr.New(armerr.CodeInvalidResourceType, "%s exists in %s only; '%s' is not such a place.", t.Name, where, scope)
	}
	return nil
}

func (r *request) get(t *resource.Type, version string) error {
	var body map[string]any
	var row *store.Resource
	err := r.server.Manager.Store.View(r.Context(), func(tx store.ReadTx) error {
		var err error
		if row, err = tx.Resource(r.path.ID.Key()); err == nil {
			if r.Method == http.MethodHead {
				return nil
			}
			body, err = r.server.Manager.View(tx, t, row, version)
			return err
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := r.server.Manager.CheckPlace(tx, t, r.path.ID, false); err != nil {
			return err
		}
		if strings.EqualFold(t.Name, armid.ResourceGroupType) {
			return armerr.New(armerr.CodeResourceGroupNotFound, "Resource group '%s' could not be found.", r.path.ID.Name())
		}
		return armerr.NotFound(t.Name, r.path.ID.Name(), r.path.ID.GroupName())
	})
	if err != nil {
		return err
	}
	r.w.Header().Set("ETag", resource.ETag(row))
	if r.Method == http.MethodHead { // ARM's existence check
		return r.reply(http.StatusNoContent, nil)
	}
	return r.reply(http.StatusOK, body)
}

func (r *request) put(t *resource.Type, version string) error {
	doc, err := r.document()
	if err != nil {
		return err
	}
	var out *resource.Written
	var body map[string]any
	m := r.server.Manager
	w := r.write(t, version)
	w.Doc = doc
	err = m.Store.Update(r.Context(), func(tx store.Tx) error {
		verb := m.Put
		if r.Method == http.MethodPatch {
			verb = m.Patch
		}
		var err error
		if out, err = verb(r.Context(), tx, w); err != nil {
			return err
		}
		body, err = m.View(tx, t, out.Row, version)
		return err
	})
	if err != nil {
		return err
	}
	r.w.Header().Set("ETag", resource.ETag(out.Row))
	status := http.StatusOK
	if out.Created {
		status = t.CreateStatus
	}
	r.polling(t, out.Operation, status == http.StatusAccepted)
	return r.reply(status, body)
}

func (r *request) write(t *resource.Type, version string) resource.Write {
	return resource.Write{
		ID: r.path.ID, Type: t, Version: version, Query: r.param, By: r.stamp(),
		IfMatch: r.Header.Get("If-Match"), IfNoneMatch: r.Header.Get("If-None-Match"),
		Allowed: r.require,
	}
}

func (r *request) remove(t *resource.Type, version string) error {
	var out *resource.Written
	var deleted any
	existed := false
	m := r.server.Manager
	err := m.Store.Update(r.Context(), func(tx store.Tx) error {
		row, err := tx.Resource(r.path.ID.Key())
		existed = err == nil
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if !existed {
			if err := m.CheckPlace(tx, t, r.path.ID, false); err != nil && strings.EqualFold(t.Name, armid.ResourceGroupType) {
				return err
			}
			if strings.EqualFold(t.Name, armid.ResourceGroupType) {
				return armerr.New(armerr.CodeResourceGroupNotFound, "Resource group '%s' could not be found.", r.path.ID.Name())
			}
		}
		if existed && t.DeletedBody {
			if deleted, err = m.View(tx, t, row, version); err != nil {
				return err
			}
		}
		out, err = m.Delete(r.Context(), tx, r.write(t, version))
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case !existed:
		return r.reply(http.StatusNoContent, nil)
	case out.Operation == nil:
		return r.reply(http.StatusOK, deleted)
	}
	r.polling(t, out.Operation, true)
	return r.reply(http.StatusAccepted, nil)
}

func (r *request) action(t *resource.Type) error {
	version, err := r.resolve(t)
	if err != nil {
		return err
	}
	name := r.path.Tail
	for _, a := range t.Actions {
		if strings.EqualFold(a.Name, name) {
			name = a.Name
		}
	}
	if err := r.require(t.Name+"/"+name+"/action", r.path.ID); err != nil {
		return err
	}
	data, err := r.body()
	if err != nil {
		return err
	}
	out, err := r.server.Manager.Act(r.Context(), t, resource.ActionRequest{ID: r.path.ID, Name: name, Version: version, Query: r.param, Body: data, By: r.stamp()})
	if err != nil {
		return err
	}
	if out == nil {
		return r.reply(http.StatusNoContent, nil)
	}
	return r.reply(http.StatusOK, out)
}

// post answers a POST that is about a scope, not about a resource.
func (r *request) post(t *resource.Type) error {
	version, err := r.resolve(t)
	if err != nil {
		return err
	}
	if err := r.require(t.Name+"/action", r.path.ID); err != nil {
		return err
	}
	return r.answerVirtual(t, version, t.Virtual.Post)
}

func (r *request) virtual(t *resource.Type, version string) error {
	v := t.Virtual
	verb := map[string]func(context.Context, *resource.Call) (*resource.Answer, error){
		http.MethodGet: v.Get, http.MethodHead: v.Get, http.MethodPut: v.Put, http.MethodPatch: v.Patch, http.MethodDelete: v.Delete,
	}[r.Method]
	if verb == nil {
		return notAllowed(r, t.Name, http.MethodGet)
	}
	return r.answerVirtual(t, version, verb)
}

func (r *request) answerVirtual(t *resource.Type, version string, verb func(context.Context, *resource.Call) (*resource.Answer, error)) error {
	call := &resource.Call{ID: r.path.ID, Version: version, Query: r.param, Header: r.Header, Manager: r.server.Manager, By: r.stamp(), Allowed: r.require}
	call.Visible = func(action string, id armid.ID) (bool, error) {
		return r.server.Access.Allowed(r.Context(), r.caller, action, id)
	}
	if r.Method == http.MethodPut || r.Method == http.MethodPatch || r.Method == http.MethodPost {
		var err error
		if call.Body, err = r.body(); err != nil {
			return err
		}
	}
	a, err := verb(r.Context(), call)
	if err != nil {
		return err
	}
	status := a.Status
	if status == 0 {
		status = http.StatusOK
	}
	if a.ETag != "" {
		r.w.Header().Set("ETag", a.ETag)
	}
	r.polling(t, a.Operation, status == http.StatusAccepted)
	if r.Method == http.MethodHead {
		return r.reply(http.StatusNoContent, nil)
	}
	return r.reply(status, a.Body)
}

// page sizes of a list
const (
	defaultPage = 200
	largestPage = 1000
)

func (r *request) collection(t *resource.Type) error {
	version, err := r.resolve(t)
	if err != nil {
		return err
	}
	scope := r.path.ID
	if t.Virtual != nil && t.Virtual.Set != nil && r.Method == http.MethodPut {
		if err := r.require(t.Name+"/write", scope); err != nil {
			return err
		}
		return r.answerVirtual(t, version, t.Virtual.Set)
	}
	if r.Method != http.MethodGet {
		return notAllowed(r, "The collection of "+t.Name, http.MethodGet)
	}
	if t.Virtual != nil {
		if t.Virtual.List == nil {
			return notAllowed(r, t.Name)
		}
		if !scope.IsTenant() { // what the tenant lists, each caller sees as far as he may
			if err := r.require(t.Name+"/read", scope); err != nil {
				return err
			}
		}
		return r.answerVirtual(t, version, t.Virtual.List)
	}
	size := defaultPage
	if top := r.param("$top"); top != "" {
		n, err := strconv.Atoi(top)
		if err != nil || n < 1 {
			return armerr.Field("$top", "%q is not a number of 1 or more.", top)
		}
		size = min(n, largestPage)
	}
	cursor := r.param("$skiptoken")
	if _, err := armid.Parse(cursor); cursor != "" && err != nil {
		return armerr.Field("$skiptoken", "%q did not come from a nextLink of this list. Begin again without it.", clip(cursor))
	}
	filter, err := ParseFilter(r.param("$filter"), t)
	if err != nil {
		return err
	}
	// Who may not read the whole scope sees what he may read of it.
	whole, err := r.server.Access.Allowed(r.Context(), r.caller, t.Name+"/read", scope)
	if err != nil {
		return err
	}
	m := r.server.Manager
	q := store.Query{Type: t.Key, After: cursor, Limit: size}
	switch {
	case t.Scope == resource.Anywhere: // see applies
	case t.NestedIn() != "":
		q.Parent = scope.Key()
	case scope.GroupName() != "":
		q.Subscription, q.Group = strings.ToLower(scope.SubscriptionID()), strings.ToLower(scope.GroupName())
	default:
		q.Subscription = strings.ToLower(scope.SubscriptionID())
	}
	value := []map[string]any{}
	next := ""
	err = m.Store.View(r.Context(), func(tx store.ReadTx) error {
		value = value[:0]
		if err := listPlace(m, tx, t, scope); err != nil {
			return err
		}
		rows, n, err := tx.Resources(q)
		if err != nil {
			return err
		}
		next = n
		for _, row := range rows {
			if t.Scope == resource.Anywhere && !applies(armid.MustParse(row.ID).Scope(), scope, filter.AtScope) {
				continue
			}
			if !whole {
				ok, err := r.server.Access.Allowed(r.Context(), r.caller, t.Name+"/read", armid.MustParse(row.ID))
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
			}
			doc, err := m.View(tx, t, row, version)
			if err != nil {
				return err
			}
			if filter.Match(doc) {
				value = append(value, doc)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.reply(http.StatusOK, r.page(value, next))
}

// applies reports whether an extension resource at a scope belongs in the list of another:
// what is at that scope or above it applies there, and what is below it is listed too,
// unless the list is atScope().
func applies(at, listed armid.ID, atScope bool) bool {
	a, l := at.Key(), listed.Key()
	return a == l || strings.HasPrefix(l, a+"/") || !atScope && strings.HasPrefix(a, l+"/")
}

// listPlace checks that the place a list is about exists.
func listPlace(m *resource.Manager, tx store.ReadTx, t *resource.Type, scope armid.ID) error {
	if scope.IsTenant() {
		return nil
	}
	if _, err := tx.Resource(scope.Key()); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if scope.Namespace() == "" && scope.GroupName() == "" {
		return resource.SubscriptionNotFound(scope.SubscriptionID())
	}
	if scope.Namespace() == "" {
		if _, err := tx.Resource(scope.SubscriptionScope().Key()); errors.Is(err, store.ErrNotFound) {
			return resource.SubscriptionNotFound(scope.SubscriptionID())
		}
		return armerr.New(armerr.CodeResourceGroupNotFound, "Resource group '%s' could not be found.", scope.GroupName())
	}
	if err := m.CheckPlace(tx, t, scope, false); err != nil {
		return err
	}
	return armerr.NotFound(scope.Type(), scope.Name(), scope.GroupName())
}

// page is ARM's list. The last page has no nextLink at all, because azureml-core
// follows the key as long as it is there.
func (r *request) page(value any, next string) map[string]any {
	out := map[string]any{"value": value}
	if next != "" {
		// Not r.URL: the data plane serves the same lists under a prefix that is cut off by now.
		path, _, _ := strings.Cut(r.RequestURI, "?")
		q := r.URL.Query()
		for k := range q {
			if strings.EqualFold(k, "$skiptoken") {
				q.Del(k)
			}
		}
		q.Set("$skipToken", next)
		out["nextLink"] = r.base() + path + "?" + q.Encode()
	}
	return out
}

// base is the scheme and host that the client used.
func (r *request) base() string {
	scheme := "https"
	if r.TLS == nil && r.Header.Get("X-Forwarded-Proto") == "" {
		scheme = "http"
	}
	return scheme + "://" + r.Host
}
