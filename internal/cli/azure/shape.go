package azure

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// flatten shows a resource as az does: properties beside the envelope, and the resource
// group that its ID names.
func flatten(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = flatten(e)
		}
		return out
	case map[string]any:
		out := withGroup(v)
		if props, ok := v["properties"].(map[string]any); ok {
			delete(out, "properties")
			for k, e := range props {
				if _, taken := out[k]; taken {
					k = "typeProperties" + strings.ToUpper(k[:1]) + k[1:] // a pool's type beside its resource type
				}
				out[k] = e
			}
		}
		return out
	}
	return v
}

func flat(v any, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return flatten(v), nil
}

// flatAKS is flat with the names that az aks prints.
func flatAKS(v any, err error) (any, error) {
	v, err = flat(v, err)
	return azNames(v), err
}

// acronym is what comes after the first letter of a word in capitals: the QDN of FQDN, the
// P of the IP in podIPAllocationMode.
var acronym = regexp.MustCompile(`([A-Z])([A-Z]+)([A-Z][a-z]|$)`)

// userNamed are objects whose keys users chose, so they are left as they are.
var userNamed = []string{"tags", "nodeLabels", "userAssignedIdentities", "identityProfile", "addonProfiles"}

// azNames spells the keys as az aks does, whose models write no word in capitals: the API's
// osDiskSizeGB is az's osDiskSizeGb, and queries in scripts ask for that.
func azNames(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = azNames(e)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			if !slices.Contains(userNamed, k) {
				e = azNames(e)
			}
			k = acronym.ReplaceAllStringFunc(k, func(word string) string {
				m := acronym.FindStringSubmatch(word)
				return m[1] + strings.ToLower(m[2]) + m[3]
			})
			out[k] = e
		}
		return out
	}
	return v
}

// withGroup adds the resource group that a resource's ID names.
func withGroup(m map[string]any) map[string]any {
	out := make(map[string]any, len(m)+1)
	maps.Copy(out, m)
	if id, ok := m["id"].(string); ok {
		parts := strings.Split(id, "/")
		i := slices.IndexFunc(parts, func(p string) bool { return strings.EqualFold(p, "resourceGroups") })
		if i >= 0 && i+2 < len(parts) { // a group itself has none
			out["resourceGroup"] = parts[i+1]
		}
	}
	return out
}

func withGroups(list []any) []any {
	out := make([]any, len(list))
	for i, e := range list {
		m, _ := e.(map[string]any)
		out[i] = withGroup(m)
	}
	return out
}

// asGroup is a resource group as az prints it: with who manages it and its tags, even when
// there are none, so that columns of tab-separated values stay where they are.
func asGroup(v any, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			_, _ = asGroup(e, nil) // changes e itself
		}
	case map[string]any:
		for _, k := range []string{"managedBy", "tags"} {
			if _, has := v[k]; !has {
				v[k] = nil
			}
		}
	}
	return v, nil
}

// anyOf turns a typed result into one that is nil when there is an error.
func anyOf[T any](v T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}
