package identity

import (
	"slices"
	"strings"
)

// Audience is a service that tokens are issued for.
type Audience string

// The services of an installation. A token for one is no good at another.
const (
	ARM             Audience = "Azure Resource Manager"
	MachineLearning Audience = "Azure Machine Learning" // its data plane takes ARM's tokens too
	Graph           Audience = "Microsoft Graph"
	KeyVault        Audience = "Azure Key Vault" // which offers nothing, but clients sign in before they ask
)

// resource is something that a client can ask a token for.
type resource struct {
	audience  Audience
	delegated string // scope of a user's token when the client asks for .default
}

// armResources are the names under which Azure's clients ask for an ARM token; the GUID
// is ARM's application ID.
var armResources = []string{
	"https://management.azure.com", "https://management.core.windows.net",
	"797f4846-ba00-4fd7-ba43-dac1f8f63013",
}

const graphResource = "https://graph.microsoft.com"

// knownResources maps the resource identifiers that tokens are issued for, without
// trailing slashes. The installation's own address names its ARM, and its path /graph
// its Graph, as its cloud metadata says.
func knownResources(baseURLs []string) map[string]resource {
	arm := resource{ARM, "user_impersonation"}
	graph := resource{Graph, "Directory.Read.All User.Read"}
	m := map[string]resource{
		"https://ml.azure.com":                 {MachineLearning, "user_impersonation"},
		"https://vault.azure.net":              {KeyVault, "user_impersonation"},
		graphResource:                          graph,
		"https://graph.windows.net":            graph, // its predecessor, which azureml-core asks for
		"00000003-0000-0000-c000-000000000000": graph,
	}
	for _, name := range armResources {
		m[name] = arm
	}
	for _, u := range baseURLs {
		m[strings.ToLower(u)] = arm
		m[strings.ToLower(u)+"/graph"] = graph
	}
	return m
}

// resource finds a resource by its identifier. Trailing slashes and case do not matter.
func (s *Service) resource(id string) (resource, bool) {
	r, ok := s.resources[strings.ToLower(strings.TrimRight(id, "/"))]
	return r, ok
}

// request is what a client wants a token for.
type request struct {
	Audience string   `json:"audience"` // as the client spelled it: it becomes the token's aud
	Scopes   []string `json:"scopes"`   // every scope that was asked for
}

// openIDScopes are OpenID Connect's own scopes; they name no resource.
var openIDScopes = []string{"openid", "profile", "email", "offline_access"}

// isDefault says whether a resource's .default is all that is asked for, as
// client_credentials requires. MSAL for Go sends OpenID Connect's scopes along.
func (q request) isDefault() bool {
	named := false
	for _, scope := range q.Scopes {
		if slices.Contains(openIDScopes, scope) {
			continue
		}
		if !strings.HasSuffix(scope, "/.default") {
			return false
		}
		named = true
	}
	return named
}

// parseScope reads a v2 scope parameter: OpenID Connect scopes, and the scopes of at most
// one resource, each the resource's identifier, a slash and a name. Without a resource
// it means Graph, as it does in Entra. The identifier may end in a slash itself:
// azureml-core asks for https://management.core.windows.net//.default.
func (s *Service) parseScope(scope string) (request, error) {
	q := request{}
	for _, item := range strings.Fields(scope) {
		q.Scopes = append(q.Scopes, item)
		if slices.Contains(openIDScopes, item) {
			continue
		}
		id := graphResource // a bare name such as User.Read is one of Graph's
		if i := strings.LastIndexByte(item, '/'); i >= 0 {
			id = item[:i]
		}
		if _, ok := s.resource(id); !ok {
			return request{}, noSuchResource(id)
		}
		if q.Audience != "" && q.Audience != id {
			return request{}, oauthErrorf(errInvalidScope, 28000, "A token is for one resource; the scope names '%s' and '%s'.", printable(q.Audience), printable(id))
		}
		q.Audience = id
	}
	if q.Audience == "" {
		q.Audience = graphResource
	}
	return q, nil
}

// parseResource reads version 1's resource parameter.
func (s *Service) parseResource(id string) (request, error) {
	if _, ok := s.resource(id); !ok {
		return request{}, noSuchResource(id)
	}
	return request{Audience: id}, nil
}

func noSuchResource(id string) *oauthError {
	return oauthErrorf(errInvalidResource, 500011, "No resource '%s' is in this tenant. Berth issues tokens for Azure Resource Manager, https://ml.azure.com, https://vault.azure.net and Microsoft Graph.", printable(id))
}
