package armhttp

import (
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/arm/resource"
)

var extension = &resource.Type{Scope: resource.Anywhere, Filters: map[string]string{"principalId": "principalId", "assignedTo()": "principalId"}}

var filtered = map[string]any{
	"id": "/subscriptions/s/resourceGroups/RG/providers/N/t/it's", "name": "it's", "location": "westeurope", "type": "N/t",
	"tags": map[string]any{"team": "ports", "a": "b"}, "properties": map[string]any{"principalId": "P1"},
}

func TestFilter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		filter  string
		typ     *resource.Type
		matches bool
		problem string
	}{
		{"", nil, true, ""},
		{"  ", nil, true, ""},
		{"name eq 'it''s'", nil, true, ""},
		{"NAME EQ 'IT''S'", nil, false, "not understood"}, // OData's operators are in lower case
		{"Name eq 'IT''S' and location eq 'westeurope'", nil, true, ""},
		{"name eq 'other'", nil, false, ""},
		{"resourceType eq 'n/T' And resourceGroup eq 'rg'", nil, true, ""},
		{"resourceGroup eq 'r'", nil, false, ""},
		{"tagName eq 'team'", nil, true, ""},
		{"tagName eq 'team' and tagValue eq 'ports'", nil, true, ""},
		{"tagName eq 'team' and tagValue eq 'b'", nil, false, ""},
		{"tagValue eq 'b'", nil, true, ""},
		{"principalId eq 'p1'", extension, true, ""},
		{"atScope()", extension, true, ""},
		{"atScope() and assignedTo('p1')", extension, true, ""},
		{"assignedTo('p2')", extension, false, ""},
		{"principalId eq 'p1'", nil, false, "there is no"},
		{"atScope()", nil, false, "there is no"},
		{"colour eq 'red'", nil, false, `there is no "colour"`},
		{"name eq red", nil, false, "not understood"},
		{"name ne 'x'", nil, false, "not understood"},
		{"name eq 'x' or name eq 'y'", nil, false, "not understood"},
		{"name eq 'x' and", nil, false, "not understood"},
		{strings.Repeat("x", 5000), nil, false, "not understood"},
	} {
		f, err := ParseFilter(tt.filter, tt.typ)
		if tt.problem != "" {
			if err == nil || !strings.Contains(err.Error(), tt.problem) || !strings.Contains(err.Error(), "resourceType") || len(err.Error()) > 500 {
				t.Errorf("%.40q: %v; want %q", tt.filter, err, tt.problem)
			}
			continue
		}
		if err != nil || f.Match(filtered) != tt.matches {
			t.Errorf("%.40q: %v, matches %v", tt.filter, err, !tt.matches)
		}
	}
	if f, err := ParseFilter("atScope()", extension); err != nil || !f.AtScope {
		t.Errorf("atScope() is %+v, %v", f, err)
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"name eq 'a'", "tagName eq 'x' and tagValue eq 'y'", "atScope() and assignedTo('x')", "' and '", "a eq ''''"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, typ := range []*resource.Type{nil, extension} {
			if filter, err := ParseFilter(s, typ); err == nil {
				filter.Match(filtered)
				filter.Match(map[string]any{})
			}
		}
	})
}
