package armhttp

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
)

// Filter is the part of OData's $filter that ARM lists have: equality of a few fields,
// joined by and.
type Filter []clause

type clause struct{ field, value string }

var clauseSyntax = regexp.MustCompile(`^\s*([A-Za-z/]+)\s+eq\s+'((?:[^']|'')*)'\s*$`)

var and = regexp.MustCompile(`(?i)\s+and\s+`)

// ParseFilter reads a $filter. Errors: *armerr.Error that says what can be filtered by.
func ParseFilter(s string) (Filter, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var f Filter
	for _, part := range and.Split(s, -1) {
		m := clauseSyntax.FindStringSubmatch(part)
		if m == nil {
			return nil, armerr.Field("$filter", "%q is not understood. Use FIELD eq 'VALUE', joined by and; the fields are name, location, resourceType, resourceGroup, tagName and tagValue.", part)
		}
		field := strings.ToLower(m[1])
		switch field {
		case "name", "location", "resourcetype", "resourcegroup", "tagname", "tagvalue":
		default:
			return nil, armerr.Field("$filter", "there is no field %q to filter by; the fields are name, location, resourceType, resourceGroup, tagName and tagValue.", m[1])
		}
		f = append(f, clause{field, strings.ReplaceAll(m[2], "''", "'")})
	}
	return f, nil
}

// Match reports whether a document passes.
func (f Filter) Match(doc map[string]any) bool {
	tagName := ""
	for _, c := range f {
		if c.field == "tagname" {
			tagName = c.value
		}
	}
	tags, _ := doc["tags"].(map[string]any)
	for _, c := range f {
		ok := false
		switch c.field {
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
