package armhttp

import (
	"strings"

	"github.com/berthdev/berth/internal/arm/armid"
)

// route is what the request's path has in common with those of other resources of its type, with names left out; "" for a
// type that is not there.
func (r *request) route() string {
	p := r.path
	at := ""
	if p.ID.SubscriptionID() != "" {
		at = "/subscriptions/{subscription}"
	}
	if p.ID.GroupName() != "" {
		at += "/resourceGroups/{group}"
	}
	if isOperation(p) {
		return at + "/providers/{namespace}/locations/{location}/operations/{operation}"
	}
	reg := r.server.Manager.Registry
	if t, ok := reg.Public(p.CollectionType()); ok {
		switch t.Name {
		case armid.SubscriptionType:
			return "/subscriptions"
		case armid.ResourceGroupType:
			return at + "/resourceGroups"
		}
		return at + "/providers/" + named(t.Name)
	}
	if p.Namespace != "" || p.ID.IsTenant() {
		return at + "/providers/{namespace}"
	}
	t, ok := reg.Public(p.ID.Type())
	if !ok {
		return ""
	}
	if t.Name != armid.SubscriptionType && t.Name != armid.ResourceGroupType {
		at += "/providers/" + named(t.Name) + "/{name}"
	}
	if p.Tail == "" {
		return at
	}
	for _, a := range t.Actions {
		if strings.EqualFold(a.Name, p.Tail) {
			return at + "/" + a.Name
		}
	}
	return at + "/{action}"
}

// named puts names between the parts of a type: A.B/c/{name}/d for A.B/c/d.
func named(typ string) string {
	namespace, types, _ := strings.Cut(typ, "/")
	return namespace + "/" + strings.ReplaceAll(types, "/", "/{name}/")
}
