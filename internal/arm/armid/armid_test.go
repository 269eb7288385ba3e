package armid

import (
	"errors"
	"strings"
	"testing"
)

const ws = "/subscriptions/S/resourceGroups/RG/providers/Microsoft.MachineLearningServices/workspaces/ws"

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in, typ, name, parent, group string
	}{
		{"/subscriptions/S", SubscriptionType, "S", "", ""},
		{"/subscriptions/S/resourcegroups/RG", ResourceGroupType, "RG", "/subscriptions/S", "RG"},
		{ws, "Microsoft.MachineLearningServices/workspaces", "ws", "/subscriptions/S/resourceGroups/RG", "RG"},
		{ws + "/computes/c", "Microsoft.MachineLearningServices/workspaces/computes", "c", ws, "RG"},
		{ws + "/providers/Microsoft.Authorization/roleAssignments/1", "Microsoft.Authorization/roleAssignments", "1", ws, "RG"},
		{"/providers/Microsoft.Authorization/roleDefinitions/1", "Microsoft.Authorization/roleDefinitions", "1", "", ""},
		{"/subscriptions/S/providers/A.B/t/providers", "A.B/t", "providers", "/subscriptions/S", ""},
	} {
		id, err := Parse(tt.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.in, err)
			continue
		}
		if id.String() != tt.in || id.Type() != tt.typ || id.Name() != tt.name || id.Parent().String() != tt.parent || id.GroupName() != tt.group {
			t.Errorf("Parse(%q) = %q type %q name %q parent %q group %q", tt.in, id, id.Type(), id.Name(), id.Parent(), id.GroupName())
		}
		if up := MustParse(strings.ToUpper(tt.in)); !up.Equal(id) {
			t.Errorf("A2: %q and its upper-case form differ: %q %q", tt.in, up.Key(), id.Key())
		}
	}
}

func TestSpelled(t *testing.T) {
	t.Parallel()
	for _, want := range []string{
		"/subscriptions/s", "/subscriptions/s/resourceGroups/rg",
		"/subscriptions/s/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws/computes/c",
		"/subscriptions/s/providers/Microsoft.Authorization/roleAssignments/1",
		"/subscriptions/s/resourceGroups/rg/providers/Microsoft.Authorization/roleAssignments/1",
	} {
		if got := MustParse(strings.ToLower(want)).Spelled(MustParse(want).Type()); got.String() != want || got.Key() != strings.ToLower(want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestParse_Refuses(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", "subscriptions/S", "/subscriptions/S//resourceGroups/RG", "/subscriptions/../resourceGroups/RG",
		"/subscriptions/S/resourceGroups/a\x00b", "/subscriptions/S/resourceGroups/a\\b", "/subscriptions", "/subscriptions/S/resourceGroups",
		ws + "/computes", "/subscriptions/S/x/y", "/subscriptions/S/providers/A.B", "/" + strings.Repeat("a", MaxLength), "/subscriptions/" + strings.Repeat("a", 261), "/subscriptions/\xff",
	} {
		var syn *SyntaxError
		if id, err := Parse(in); !errors.As(err, &syn) || syn.Rule == "" {
			t.Errorf("Parse(%q) = %v, %v; want a SyntaxError", in, id, err)
		}
	}
}

func TestParsePath(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, id, tail, collection string }{
		{"/", "", "", ""},
		{"//subscriptions/S", "/subscriptions/S", "", ""},
		{"/subscriptions", "", "subscriptions", SubscriptionType},
		{"/subscriptions/S/resourcegroups", "/subscriptions/S", "resourcegroups", ResourceGroupType},
		{"/subscriptions/S/locations", "/subscriptions/S", "locations", "Microsoft.Resources/locations"},
		{"/subscriptions/S/providers", "/subscriptions/S", "providers", "Microsoft.Resources/providers"},
		{"/subscriptions/S/providers/A.B", "/subscriptions/S", "", ""},
		{"/subscriptions/S/providers/A.B/ts", "/subscriptions/S", "ts", "A.B/ts"},
		{ws + "/listKeys", ws, "listKeys", "Microsoft.MachineLearningServices/workspaces/listKeys"},
		{ws + "/computes", ws, "computes", "Microsoft.MachineLearningServices/workspaces/computes"},
		{"/subscriptions/S/resourceGroups/a%20b", "/subscriptions/S/resourceGroups/a b", "", ""},
	} {
		p, err := ParsePath(tt.in)
		if err != nil {
			t.Errorf("ParsePath(%q): %v", tt.in, err)
			continue
		}
		if p.ID.String() != tt.id || p.Tail != tt.tail || p.CollectionType() != tt.collection {
			t.Errorf("ParsePath(%q) = %q, tail %q, collection %q", tt.in, p.ID, p.Tail, p.CollectionType())
		}
	}
	for _, in := range []string{"/subscriptions/S/resourceGroups/a%2fb", "/subscriptions/%2e%2e", "/subscriptions/%zz", "/subscriptions/a%00"} {
		if p, err := ParsePath(in); err == nil {
			t.Errorf("ParsePath(%q) = %q; want an error", in, p.ID)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{ws, ws + "/computes/c", "/providers/x/y/z/providers/a/b/c", "//", "/subscriptions/S/providers/A.B/t/providers/x", "/%2f", "/ü/ß"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePath(s)
		if err != nil {
			return
		}
		if p.ID.IsTenant() {
			return
		}
		again, err := Parse(p.ID.String())
		if err != nil || !again.Equal(p.ID) || again.Type() != p.ID.Type() {
			t.Fatalf("%q: %q does not parse back: %q %v", s, p.ID, again, err)
		}
		for id := p.ID; !id.IsTenant(); id = id.Parent() {
			if id.Parent().String() == id.String() {
				t.Fatalf("%q: %q is its own parent", s, id)
			}
		}
	})
}
