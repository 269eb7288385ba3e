package armhttp

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/resource"
)

// Filter is the part of OData's $filter that ARM lists have: equality of a few fields,
// joined by and, and the functions of extension types.
type Filter struct {
	// AtScope leaves out what lives below the listed scope.
	AtScope bool
	clauses []clause
}

type clause struct {
	field    string // lower-cased
	property string // of the document's properties, where the type declares the field
	value    string
}

var (
	equality = regexp.MustCompile(`^\s*([A-Za-z/]+)\s+eq\s+'((?:[^']|'')*)'\s*$`)
	function = regexp.MustCompile(`^\s*([A-Za-z]+\()\s*(?:'((?:[^']|'')*)')?\s*\)\s*$`)
	and      = regexp.MustCompile(`(?i)\s+and\s+`)
)

var commonFields = []string{"name", "location", "resourceType", "resourceGroup", "tagName", "tagValue"}

// ParseFilter reads the $filter of a list of t, or of a list of many types with nil. Errors:
// *armerr.Error that says what can be filtered by.
func ParseFilter(s string, t *resource.Type) (Filter, error) {
	var f Filter
	if t == nil {
		t = new(resource.Type)
	}
	if strings.TrimSpace(s) == "" {
		return f, nil
	}
	fields := slices.Concat(commonFields, slices.Sorted(maps.Keys(t.Filters)))
	for _, part := range and.Split(s, -1) {
		if t.Scope == resource.Anywhere && strings.EqualFold(strings.TrimSpace(part), "atScope()") {
			f.AtScope = true
			continue
		}
		m := equality.FindStringSubmatch(part)
		if m == nil {
			m = function.FindStringSubmatch(part)
		}
		if m == nil {
			return f, armerr.Field("$filter", "%q is not understood. Use FIELD eq 'VALUE', joined by and; the fields are %s.", clip(part), strings.Join(fields, ", "))
		}
		i := slices.IndexFunc(fields, func(name string) bool { return strings.EqualFold(strings.TrimSuffix(name, ")"), m[1]) })
		if i < 0 {
			return f, armerr.Field("$filter", "there is no %q to filter by; the fields are %s.", clip(m[1]), strings.Join(fields, ", "))
		}
		f.clauses = append(f.clauses, clause{field: strings.ToLower(m[1]), property: t.Filters[fields[i]], value: strings.ReplaceAll(m[2], "''", "'")})
	}
	return f, nil
}

// clip shortens what a client sent for an error message.
func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// Match reports whether a document passes the clauses.
func (f Filter) Match(doc map[string]any) bool {
	tagName := ""
	for _, c := range f.clauses {
		if c.field == "tagname" {
			tagName = c.value
		}
	}
	tags, _ := doc["tags"].(map[string]any)
	properties, _ := doc["properties"].(map[string]any)
	for _, c := range f.clauses {
		ok := false
		switch c.field {
		default:
			ok = strings.EqualFold(fmt.Sprint(properties[c.property]), c.value)
		case "name", "location":
			ok = strings.EqualFold(fmt.Sprint(doc[c.field]), c.value)
		case "resourcetype":
			ok = strings.EqualFold(fmt.Sprint(doc["type"]), c.value)
		case "resourcegroup":
			ok = strings.Contains(strings.ToLower(fmt.Sprint(doc["id"])), "/resourcegroups/"+strings.ToLower(c.value)+"/")
		case "tagname":
			_, ok = tags[c.value]
		case "tagvalue":
			for k, v := range tags {
				ok = ok || fmt.Sprint(v) == c.value && (tagName == "" || k == tagName)
			}
		}
		if !ok {
			return false
		}
	}
	return true
}
