package armhttp

import (
	"net/http"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/arm/resource"
)

// provider answers for …/providers/{namespace}, its registration and its operations. A
// provider is always registered: there is nothing to switch on.
func (r *request) provider() error {
	reg := r.server.Manager.Registry
	ns, ok := reg.Namespace(r.path.Namespace)
	if !ok {
		_, err := reg.Find(r.path.Namespace)
		return err
	}
	tail := strings.ToLower(r.path.Tail)
	want := http.MethodGet
	if strings.HasSuffix(tail, "register") {
		want = http.MethodPost
	}
	if r.Method != want {
		return notAllowed(r, "The provider "+ns, want)
	}
	action := "Microsoft.Resources/subscriptions/providers/read"
	if want == http.MethodPost {
		action = ns + "/" + tail + "/action"
	}
	if sub := r.path.ID; !sub.IsTenant() {
		if err := r.require(action, sub); err != nil {
			return err
		}
	}
	if tail == "operations" {
		return r.reply(http.StatusOK, map[string]any{"value": Operations(reg, ns)})
	}
	return r.reply(http.StatusOK, ProviderBody(reg, ns, r.path.ID.String()))
}

// ProviderBody describes a provider as ARM does, from the registry.
func ProviderBody(reg *resource.Registry, ns, scope string) map[string]any {
	types := []map[string]any{}
	for _, t := range reg.Types() {
		if t.Namespace != ns {
			continue
		}
		versions := slices.Clone(t.Versions)
		slices.Reverse(versions)
		capabilities := "None"
		if t.Tracked {
			capabilities = "SupportsTags, SupportsLocation"
		}
		types = append(types, map[string]any{
			"resourceType": strings.TrimPrefix(t.Name, ns+"/"), "apiVersions": versions, "defaultApiVersion": versions[0],
			"locations": []string{}, "capabilities": capabilities,
		})
	}
	return map[string]any{
		"id": scope + "/providers/" + ns, "namespace": ns, "registrationState": "Registered",
		"registrationPolicy": "RegistrationFree", "resourceTypes": types,
	}
}

// Operations lists what can be done with a provider's types, as ARM's operations API does.
func Operations(reg *resource.Registry, ns string) []map[string]any {
	out := []map[string]any{}
	add := func(t *resource.Type, suffix, verb, description string) {
		kind := strings.TrimPrefix(t.Name, ns+"/")
		out = append(out, map[string]any{
			"name": t.Name + "/" + suffix, "isDataAction": false,
			"display": map[string]any{"provider": ns, "resource": kind, "operation": verb + " " + kind, "description": description},
		})
	}
	for _, t := range reg.Types() {
		if t.Namespace != ns {
			continue
		}
		add(t, "read", "Get", t.Summary)
		if !t.ReadOnly {
			add(t, "write", "Create or update", t.Summary)
			add(t, "delete", "Delete", t.Summary)
		}
		for _, a := range t.Actions {
			add(t, a.Name+"/action", a.Name, a.Summary)
		}
	}
	return out
}
