package edge

import (
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
)

// Backends are what the edge routes to. They are handed requests whose Host is known to
// be the installation's. A nil one is answered with 404.
type Backends struct {
	ARM       http.Handler // Azure Resource Manager
	Login     http.Handler // the sign-in service
	Graph     http.Handler // Microsoft Graph
	DataPlane http.Handler // the machine learning workspaces' own hosts
	Portal    http.Handler // pages for people
}

// Route sends requests for a host name to a backend.
type Route struct {
	// Pattern is a name in lower case, or *. and a domain for every name below it.
	Pattern string
	// Owns narrows the pattern to the names that exist here, for instance those of this
	// installation's storage accounts; nil means all. It is called for every
	// connection and request.
	Owns    func(name string) bool
	Handler http.Handler
}

func (r *Route) matches(name string) bool {
	domain, wild := strings.CutPrefix(r.Pattern, "*")
	if wild && !(strings.HasSuffix(name, domain) && len(name) > len(domain)) || !wild && name != r.Pattern {
		return false
	}
	return r.Owns == nil || r.Owns(name)
}

var patternForm = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)+[a-z][a-z0-9-]*$`)

// azureRoutes are the names that clients of Azure's public cloud have compiled in.
func azureRoutes(b Backends) []Route {
	var routes []Route
	add := func(h http.Handler, patterns ...string) {
		for _, p := range patterns {
			routes = append(routes, Route{Pattern: p, Handler: h})
		}
	}
	add(withMetadata(b.ARM, azureCloud()), "management.azure.com", "management.core.windows.net")
	add(b.Login, "login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net")
	add(b.Graph, "graph.microsoft.com")
	add(b.DataPlane, "*.api.azureml.ms")
	add(b.Portal, "ml.azure.com")
	return routes
}

// AzurePatterns lists the names of Azure's public cloud that every installation intercepts.
func AzurePatterns() []string {
	var patterns []string
	for _, r := range azureRoutes(Backends{}) {
		patterns = append(patterns, r.Pattern)
	}
	return patterns
}

// ownPaths maps the first path segment at the installation's own address, in lower case.
func (e *Edge) ownPaths(b Backends, more map[string]http.Handler) (map[string]http.Handler, error) {
	paths := map[string]http.Handler{
		"":      b.Portal,
		"graph": http.StripPrefix("/graph", present(b.Graph)),
		caFile:  http.HandlerFunc(e.serveCA),
	}
	for _, segment := range []string{"subscriptions", "providers", "tenants"} {
		paths[segment] = b.ARM
	}
	for _, segment := range []string{"common", "organizations", "devicelogin"} {
		paths[segment] = b.Login
	}
	// The services that a workspace's discovery document names, by the prefixes clients use.
	for _, segment := range []string{"discovery", "rp", "modelmanagement", "artifact", "assetstore", "credential", "datastore", "dataset", "environment", "execution", "experimentation", "history", "hyperdrive", "metric"} {
		paths[segment] = b.DataPlane
	}
	for segment, h := range more {
		if _, taken := paths[segment]; taken {
			return nil, fmt.Errorf("edge: the path /%s is routed twice", segment)
		}
		paths[segment] = h
	}
	return paths, nil
}

// loginPath recognises the sign-in service's paths, which begin with a tenant.
var loginPath = regexp.MustCompile(`(?i)^/[^/]+/(oauth2|v2\.0|discovery|\.well-known)/`)

// own routes a request for the installation's own address.
func (e *Edge) own(w http.ResponseWriter, r *http.Request) {
	// az joins an address that ends in a slash and a path that begins with one.
	path := strings.TrimLeft(r.URL.Path, "/")
	if path == metadataPath {
		writeMetadata(w, r, ownCloud("https://"+r.Host))
		return
	}
	first, _, _ := strings.Cut(path, "/")
	h, ok := e.paths[strings.ToLower(first)]
	if !ok {
		if h = e.paths[""]; loginPath.MatchString(r.URL.Path) {
			h = e.paths["common"]
		}
	}
	present(h).ServeHTTP(w, r)
}

// present turns a backend that is not there into one that says so.
func present(h http.Handler) http.Handler {
	if h == nil {
		return http.HandlerFunc(nowhere)
	}
	return h
}

func nowhere(w http.ResponseWriter, r *http.Request) {
	armerr.Write(w, armerr.New(armerr.CodeResourceNotFound, "There is nothing at %s. This is Berth: ARM's paths begin with /subscriptions, /providers or /tenants, and `berth status` shows how clients reach it.", r.URL.EscapedPath()))
}

// ServeHTTP routes a request that came in over TLS.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, port := splitHost(r.Host)
	if slices.Contains(e.hosts, name) {
		r.Host = joinHost(name, port) // backends build URLs from it
		e.own(w, r)
		return
	}
	route := e.route(name)
	if route == nil || port != "" && port != "443" {
		http.Error(w, fmt.Sprintf("This Berth does not answer for %q.", r.Host), http.StatusMisdirectedRequest)
		return
	}
	r.Host = name
	present(route.Handler).ServeHTTP(w, r)
}

// withMetadata answers for the metadata endpoint in front of ARM. It is no ServeMux, because that
// would redirect requests whose paths are not clean, and those are ARM's to refuse.
func withMetadata(arm http.Handler, c cloud) http.Handler {
	arm = present(arm)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/"+metadataPath {
			writeMetadata(w, r, c)
			return
		}
		arm.ServeHTTP(w, r)
	})
}

func (e *Edge) route(name string) *Route {
	for i := range e.routes {
		if e.routes[i].matches(name) {
			return &e.routes[i]
		}
	}
	return nil
}

// splitHost splits a Host header or CONNECT target and brings the name to the one form
// that names are compared in.
func splitHost(hostport string) (name, port string) {
	name, port, err := net.SplitHostPort(hostport)
	if err != nil {
		name, port = strings.Trim(hostport, "[]"), ""
	}
	return strings.ToLower(strings.TrimSuffix(name, ".")), port
}

// joinHost puts a host with an optional port together as a URL has it.
func joinHost(name, port string) string {
	switch {
	case port != "" && port != "443":
		return net.JoinHostPort(name, port)
	case strings.Contains(name, ":"):
		return "[" + name + "]"
	}
	return name
}
