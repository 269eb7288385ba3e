package resource

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/store"
)

// Registry holds the declared types of one server.
type Registry struct {
	types      map[string]*Type
	namespaces map[string]string // lower-cased → as declared
}

// Virtual declares a type that is computed, not stored: a projection of another
// resource (agentPools) or of a table (locations/vmSizes). Nil verbs do not exist.
type Virtual struct {
	Get, List, Put, Patch, Delete func(ctx context.Context, c *Call) (*Answer, error)
	// Post answers a POST on the collection's own path, such as …/checkNameAvailability.
	Post func(ctx context.Context, c *Call) (*Answer, error)
	// Set answers a PUT on the collection's own path, of a type that has one instance without
	// a name, such as components/…/currentBillingFeatures. List shows that instance.
	Set func(ctx context.Context, c *Call) (*Answer, error)
}

// Call is a request to a virtual type.
type Call struct {
	ID      armid.ID // for List: the parent
	Version string
	Query   func(name string) string // parameters by name without case
	Header  http.Header
	Body    []byte
	Manager *Manager
	By      store.Stamp
	// Visible reports whether the caller may do an action on what a list would show.
	Visible func(action string, id armid.ID) (bool, error)
	Allowed func(action string, scope armid.ID) error
}

// Answer is the answer of a virtual type.
type Answer struct {
	Status    int              // 0 means 200
	Body      any              // nil means none
	Operation *store.Operation // adds the polling headers
	ETag      string
}

// NewVirtual makes a virtual type.
func NewVirtual(name, summary string, versions []string, scope Scope, v Virtual) *Type {
	ns, _, _ := strings.Cut(name, "/")
	return &Type{
		Name: name, Key: strings.ToLower(name), Namespace: ns, Summary: summary, Versions: versions, Scope: scope,
		ReadOnly: v.Put == nil, Virtual: &v, OperationsPath: "operations", CreateStatus: http.StatusCreated,
	}
}

// NewRegistry collects types. Duplicates and types without versions are errors.
func NewRegistry(types ...*Type) (*Registry, error) {
	r := &Registry{types: map[string]*Type{}, namespaces: map[string]string{}}
	for _, t := range types {
		if _, dup := r.types[t.Key]; dup {
			return nil, fmt.Errorf("resource type %s is declared twice", t.Name)
		}
		if len(t.Versions) == 0 || !slices.IsSortedFunc(t.Versions, compareVersions) {
			return nil, fmt.Errorf("resource type %s needs api-versions, oldest first", t.Name)
		}
		for _, v := range t.Versions {
			if !versionSyntax.MatchString(v) {
				return nil, fmt.Errorf("resource type %s: %q is not an api-version", t.Name, v)
			}
		}
		r.types[t.Key] = t
		r.namespaces[strings.ToLower(t.Namespace)] = t.Namespace
	}
	return r, nil
}

// Type finds a type by its full name, whatever its case.
func (r *Registry) Type(name string) (*Type, bool) {
	t, ok := r.types[strings.ToLower(name)]
	return t, ok
}

// Public is Type without those of the data plane, which ARM does not serve.
func (r *Registry) Public(name string) (*Type, bool) {
	t, ok := r.Type(name)
	if !ok || t.DataPlane {
		return nil, false
	}
	return t, true
}

// Namespace finds a provider's namespace as it is declared.
func (r *Registry) Namespace(ns string) (string, bool) {
	n, ok := r.namespaces[strings.ToLower(ns)]
	return n, ok
}

// Types lists the types that ARM serves by name.
func (r *Registry) Types() []*Type {
	out := make([]*Type, 0, len(r.types))
	for _, t := range r.types {
		if !t.DataPlane {
			out = append(out, t)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}

// Namespaces lists the providers' namespaces by name.
func (r *Registry) Namespaces() []string {
	out := make([]string, 0, len(r.namespaces))
	for _, n := range r.namespaces {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// Find is Public with ARM's errors for what is not there.
func (r *Registry) Find(name string) (*Type, error) {
	if t, ok := r.Public(name); ok {
		return t, nil
	}
	ns, rest, _ := strings.Cut(name, "/")
	declared, ok := r.Namespace(ns)
	if !ok {
		return nil, armerr.New(armerr.CodeInvalidResourceNamespace, "The resource namespace '%s' is invalid: Berth has no such provider. It has: %s.", ns, strings.Join(r.Namespaces(), ", "))
	}
	var have []string
	for _, t := range r.Types() {
		if t.Namespace == declared {
			have = append(have, strings.TrimPrefix(t.Name, declared+"/"))
		}
	}
	return nil, armerr.New(armerr.CodeInvalidResourceType, "The resource type '%s' could not be found in the namespace '%s'. Berth's types there are: %s.", rest, declared, strings.Join(have, ", "))
}

var versionSyntax = regexp.MustCompile(`^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(-[a-z]+)?$`)

// compareVersions orders api-versions by date; a preview comes before the stable version of
// its day.
func compareVersions(a, b string) int {
	key := func(v string) string {
		date, suffix, preview := v[:min(len(v), 10)], v[min(len(v), 10):], len(v) > 10
		if preview {
			return date + suffix
		}
		return date + "~" // after any suffix
	}
	return strings.Compare(key(strings.ToLower(a)), key(strings.ToLower(b)))
}

// Resolve finds the api-version that serves a request: the given one, or the nearest
// earlier one, because clients move on faster than tables do.
func (t *Type) Resolve(version string) (string, error) {
	if err := CheckVersion(version); err != nil {
		return "", err
	}
	for i := len(t.Versions) - 1; i >= 0; i-- {
		if compareVersions(t.Versions[i], version) <= 0 {
			return t.Versions[i], nil
		}
	}
	return "", armerr.New(armerr.CodeNoRegisteredProvider, "No registered resource provider found for API version '%s' for type '%s'. The supported api-versions are '%s'; later ones are served as the nearest earlier one.", version, t.Name, strings.Join(t.Versions, ", "))
}

// CheckVersion refuses an api-version that is missing or malformed.
func CheckVersion(version string) error {
	if version == "" {
		return armerr.New(armerr.CodeMissingAPIVersion, "The api-version query parameter (?api-version=) is required for all requests.")
	}
	if !versionSyntax.MatchString(strings.ToLower(version)) {
		return armerr.New(armerr.CodeInvalidAPIVersion, "The api-version '%s' is invalid. An api-version is a date, YYYY-MM-DD, optionally with a suffix such as -preview.", clip(version))
	}
	return nil
}

func clip(s string) string {
	const most = 64
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
