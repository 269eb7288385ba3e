// Package armid reads and builds ARM resource IDs.
//
// Azure compares IDs without regard to case but shows them as their creator spelled
// them, so an ID keeps both: String is the spelling, Key the identity. The grammar is
// that of the ARM resource-provider contract: an optional subscription, an optional
// resource group, and any number of /providers/{namespace}/{type}/{name}… parts, of
// which the last one says what the resource is and the rest is its scope.
package armid

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a path, in bytes. ARM documents none for a whole ID; 2048 is what its
// gateway accepts in a URL path, and 260 the longest name of any resource type.
const (
	MaxLength        = 2048
	MaxSegmentLength = 260
)

// Types of the two containers, which have no /providers/ part of their own.
const (
	SubscriptionType  = "Microsoft.Resources/subscriptions"
	ResourceGroupType = "Microsoft.Resources/resourceGroups"
)

// ID is the identity of one resource. The zero ID is the tenant itself.
type ID struct {
	path      string
	key       string
	scopeLen  int // length of the part of path before the last /providers/
	sub       string
	group     string
	namespace string
	types     []string
	names     []string
}

// Path is a parsed request path: a resource ID, and what follows it when the path has
// one segment more, either a collection (GET …/computes) or an action (POST …/listKeys).
type Path struct {
	ID   ID
	Tail string
	// Namespace is set instead of Tail where the path ends in /providers/{namespace} or the
	// collection is the first type after it: the collection's full type is CollectionType.
	Namespace string
}

// CollectionType is the full type of the collection that the path's tail names.
func (p Path) CollectionType() string {
	switch {
	case p.Namespace != "" && p.Tail != "":
		return p.Namespace + "/" + p.Tail
	case p.Tail == "":
		return ""
	case p.ID.IsTenant() && strings.EqualFold(p.Tail, "subscriptions"):
		return SubscriptionType
	case p.ID.namespace == "" && strings.EqualFold(p.Tail, "resourceGroups"):
		return ResourceGroupType
	case p.ID.namespace == "":
		return "Microsoft.Resources/" + p.Tail
	}
	return p.ID.Type() + "/" + p.Tail
}

// SyntaxError says which part of an ID breaks which rule.
type SyntaxError struct {
	Segment string
	Rule    string
}

func (e *SyntaxError) Error() string {
	if e.Segment == "" {
		return "it is malformed: " + e.Rule
	}
	return fmt.Sprintf("it is malformed at %q: %s", e.Segment, e.Rule)
}

// Parse reads an unescaped resource ID, as it stands in JSON. Errors: *SyntaxError.
func Parse(s string) (ID, error) {
	segments, err := split(s, false)
	if err != nil {
		return ID{}, err
	}
	p, err := read(segments)
	if err != nil {
		return ID{}, err
	}
	if p.Tail != "" || p.Namespace != "" {
		return ID{}, &SyntaxError{Segment: segments[len(segments)-1], Rule: "types and names alternate after /providers/{namespace}; a name is missing at the end"}
	}
	return p.ID, nil
}

// MustParse is Parse for constants.
func MustParse(s string) ID {
	id, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return id
}

// ParsePath reads the escaped path of a request (url.URL.EscapedPath). Repeated slashes
// at its start are one, because azureml-core sends //subscriptions/…. Errors: *SyntaxError.
func ParsePath(escaped string) (Path, error) {
	segments, err := split(escaped, true)
	if err != nil {
		return Path{}, err
	}
	return read(segments)
}

func split(s string, escaped bool) ([]string, error) {
	if len(s) > MaxLength {
		return nil, &SyntaxError{Rule: fmt.Sprintf("it has %d bytes; the limit is %d", len(s), MaxLength)}
	}
	if !strings.HasPrefix(s, "/") {
		return nil, &SyntaxError{Rule: "it starts with /"}
	}
	s = strings.Trim(s, "/")
	if s == "" {
		return nil, nil
	}
	segments := strings.Split(s, "/")
	for i, seg := range segments {
		if escaped {
			u, err := url.PathUnescape(seg)
			if err != nil {
				return nil, &SyntaxError{Segment: seg, Rule: "a % is followed by two hexadecimal digits"}
			}
			seg = u
			segments[i] = u
		}
		if rule := segmentRule(seg); rule != "" {
			return nil, &SyntaxError{Segment: seg, Rule: rule}
		}
	}
	return segments, nil
}

func segmentRule(seg string) string {
	switch {
	case seg == "":
		return "no segment is empty"
	case seg == "." || seg == "..":
		return "no segment is . or .."
	case len(seg) > MaxSegmentLength:
		return fmt.Sprintf("a segment has at most %d bytes", MaxSegmentLength)
	case !utf8.ValidString(seg):
		return "it is valid UTF-8"
	}
	for _, r := range seg {
		if strings.ContainsRune(`/\?#%<>&:*"|`, r) && r != ':' {
			return fmt.Sprintf("a segment has no %q", r)
		}
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return "a segment has printable characters only"
		}
	}
	return ""
}

func read(segments []string) (Path, error) {
	var p Path
	rest := segments
	take := func() string { s := rest[0]; rest = rest[1:]; return s }

	if len(rest) > 0 && strings.EqualFold(rest[0], "subscriptions") {
		if len(rest) == 1 {
			return Path{Tail: rest[0]}, nil
		}
		take()
		p.ID = Subscription(take())
		if len(rest) > 0 && strings.EqualFold(rest[0], "resourceGroups") {
			if len(rest) == 1 {
				p.Tail = rest[0]
				return p, nil
			}
			// AKS and the CLI write resourcegroups, everyone else resourceGroups: keep the spelling.
			word := take()
			p.ID = p.ID.group1(word, take())
		}
	}
	for len(rest) > 0 {
		if !strings.EqualFold(rest[0], "providers") {
			if len(rest) == 1 {
				p.Tail = rest[0]
				return p, nil
			}
			return Path{}, &SyntaxError{Segment: rest[0], Rule: "after the scope comes /providers/{namespace}/{type}/{name}"}
		}
		take()
		if len(rest) == 0 {
			p.Tail = "providers"
			return p, nil
		}
		ns := take()
		base := p.ID
		first := true
		for len(rest) > 0 && !(strings.EqualFold(rest[0], "providers") && !first) {
			typ := take()
			if len(rest) == 0 {
				p.Tail = typ
				if first {
					p.Namespace = ns
				}
				return p, nil
			}
			name := take()
			if first {
				p.ID = base.Extend(ns, typ, name)
			} else {
				p.ID = p.ID.Child(typ, name)
			}
			first = false
		}
		if first {
			p.Namespace = ns
			return p, nil
		}
	}
	return p, nil
}

// Subscription is the ID of a subscription.
func Subscription(sub string) ID {
	path := "/subscriptions/" + sub
	return ID{path: path, key: fold(path), sub: sub}
}

// Group is the ID of a resource group in a subscription.
func (id ID) Group(name string) ID { return id.group1("resourceGroups", name) }

func (id ID) group1(word, name string) ID {
	path := id.path + "/" + word + "/" + name
	return ID{path: path, key: fold(path), sub: id.sub, group: name}
}

// Extend is the ID of a resource of a provider in the scope id.
func (id ID) Extend(namespace, typ, name string) ID {
	path := id.path + "/providers/" + namespace + "/" + typ + "/" + name
	return ID{
		path: path, key: fold(path), scopeLen: len(id.path), sub: id.sub, group: id.group,
		namespace: namespace, types: []string{typ}, names: []string{name},
	}
}

// Child is the ID of a resource nested in id.
func (id ID) Child(typ, name string) ID {
	c := id
	c.path = id.path + "/" + typ + "/" + name
	c.key = fold(c.path)
	c.types = append(id.types[:len(id.types):len(id.types)], typ)
	c.names = append(id.names[:len(id.names):len(id.names)], name)
	return c
}

// Spelled is id as ARM writes it, whatever spelling a client used: resourceGroups, and the
// words of id's type as typ has them. Clients such as Terraform compare these with regard
// to case. Names stay as they are.
func (id ID) Spelled(typ string) ID {
	scope := id.Scope()
	switch {
	case id.namespace == "" && id.group != "":
		return id.GroupScope()
	case id.namespace == "":
		return id
	case scope.namespace == "" && scope.group != "":
		scope = id.GroupScope()
	}
	words := strings.Split(typ, "/")
	out := scope.Extend(words[0], words[1], id.names[0])
	for i, name := range id.names[1:] {
		out = out.Child(words[i+2], name)
	}
	return out
}

func fold(s string) string { return strings.ToLower(s) }

// String is the ID as it was spelled.
func (id ID) String() string { return id.path }

// Key is the ID's identity: equal for IDs that differ in case only.
func (id ID) Key() string { return id.key }

// Equal reports whether both identify the same resource.
func (id ID) Equal(other ID) bool { return id.key == other.key }

// IsTenant reports whether id is the tenant, the root of all scopes.
func (id ID) IsTenant() bool { return id.path == "" }

// SubscriptionID is the subscription's GUID, "" outside subscriptions.
func (id ID) SubscriptionID() string { return id.sub }

// GroupName is the resource group's name, "" outside groups.
func (id ID) GroupName() string { return id.group }

// Namespace is the resource's provider, "" for subscriptions and resource groups.
func (id ID) Namespace() string { return id.namespace }

// Name is the last name: the resource's own.
func (id ID) Name() string {
	switch {
	case len(id.names) > 0:
		return id.names[len(id.names)-1]
	case id.group != "":
		return id.group
	}
	return id.sub
}

// Type is the full type, e.g. Microsoft.MachineLearningServices/workspaces/computes.
func (id ID) Type() string {
	switch {
	case id.namespace != "":
		return id.namespace + "/" + strings.Join(id.types, "/")
	case id.group != "":
		return ResourceGroupType
	case id.sub != "":
		return SubscriptionType
	}
	return ""
}

// Parent is the resource that this one is nested in, or its scope when it is not nested:
// a group for a resource, a subscription for a group, the tenant for a subscription.
func (id ID) Parent() ID {
	if n := len(id.names); n > 1 {
		p := id
		p.path = id.path[:len(id.path)-len(id.types[n-1])-len(id.names[n-1])-2]
		p.key = fold(p.path)
		p.types, p.names = id.types[:n-1], id.names[:n-1]
		return p
	}
	return id.Scope()
}

// Scope is what the last /providers/ part hangs on.
func (id ID) Scope() ID {
	switch {
	case id.namespace != "":
		scope, err := Parse(id.path[:id.scopeLen])
		if err != nil { // the prefix of a valid ID is valid; only the empty one, the tenant, is not an ID
			return ID{}
		}
		return scope
	case id.group != "":
		return Subscription(id.sub)
	}
	return ID{}
}

// SubscriptionScope is the subscription that contains id.
func (id ID) SubscriptionScope() ID {
	if id.sub == "" {
		return ID{}
	}
	return Subscription(id.sub)
}

// GroupScope is the resource group that contains id, the zero ID outside groups.
func (id ID) GroupScope() ID {
	if id.group == "" {
		return ID{}
	}
	return Subscription(id.sub).Group(id.group)
}

// MarshalText writes the ID as it was spelled.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.path), nil }

// UnmarshalText is Parse.
func (id *ID) UnmarshalText(b []byte) error {
	p, err := Parse(string(b))
	if err != nil {
		return err
	}
	*id = p
	return nil
}
