package graph

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// The conditions of OData that clients use to look principals up, each anchored at the
// start of what is left of a filter. A quote in a value is doubled.
var (
	equals     = regexp.MustCompile(`^\s*(\w+)\s+eq\s+'((?:[^']|'')*)'`)
	startsWith = regexp.MustCompile(`^\s*startswith\(\s*(\w+)\s*,\s*'((?:[^']|'')*)'\s*\)`)
	anyEquals  = regexp.MustCompile(`^\s*(servicePrincipalNames|identifierUris)/any\(\s*(\w+)\s*:\s*(\w+)\s+eq\s+'((?:[^']|'')*)'\s*\)`)
	and        = regexp.MustCompile(`^\s+and\s+`)
)

// properties are what filters can compare.
var properties = map[string]func(*object) string{
	"id":                func(o *object) string { return o.ID },
	"appId":             func(o *object) string { return o.AppID },
	"displayName":       func(o *object) string { return o.DisplayName },
	"userPrincipalName": func(o *object) string { return o.UserPrincipalName },
}

var collections = map[string]func(*object) []string{
	"servicePrincipalNames": func(o *object) []string { return o.ServicePrincipalNames },
	"identifierUris":        func(o *object) []string { return o.IdentifierURIs },
}

// parseFilter turns a $filter of conditions joined by "and" into a predicate. What is not
// understood is refused: to ignore it would answer another question.
func parseFilter(filter string) (func(*object) bool, error) {
	var conditions []func(*object) bool
	for rest := filter; strings.TrimSpace(rest) != ""; {
		if len(conditions) > 0 {
			join := and.FindString(rest)
			if join == "" {
				return nil, unsupported(filter)
			}
			rest = rest[len(join):]
		}
		condition, length := parseCondition(rest)
		if condition == nil {
			return nil, unsupported(filter)
		}
		conditions = append(conditions, condition)
		rest = rest[length:]
	}
	return func(o *object) bool {
		return !slices.ContainsFunc(conditions, func(holds func(*object) bool) bool { return !holds(o) })
	}, nil
}

// parseCondition reads one condition and tells how long it is; nil when there is none.
func parseCondition(text string) (func(*object) bool, int) {
	if m := equals.FindStringSubmatch(text); m != nil && properties[m[1]] != nil {
		get, want := properties[m[1]], unquote(m[2])
		return func(o *object) bool { return strings.EqualFold(get(o), want) }, len(m[0])
	}
	if m := startsWith.FindStringSubmatch(text); m != nil && properties[m[1]] != nil {
		get, want := properties[m[1]], strings.ToLower(unquote(m[2]))
		return func(o *object) bool { return strings.HasPrefix(strings.ToLower(get(o)), want) }, len(m[0])
	}
	if m := anyEquals.FindStringSubmatch(text); m != nil && m[2] == m[3] {
		get, want := collections[m[1]], unquote(m[4])
		return func(o *object) bool {
			return slices.ContainsFunc(get(o), func(name string) bool { return strings.EqualFold(name, want) })
		}, len(m[0])
	}
	return nil, 0
}

func unquote(s string) string { return strings.ReplaceAll(s, "''", "'") }

func unsupported(filter string) error {
	return &graphError{http.StatusBadRequest, "Request_UnsupportedQuery", fmt.Sprintf(
		"The $filter %q is not supported: use eq or startswith on id, appId, displayName or userPrincipalName, or any(c:c eq '…') on servicePrincipalNames or identifierUris, joined by and.", filter)}
}
