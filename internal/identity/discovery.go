package identity

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// loginHosts are the names of Entra's public cloud. Clients treat them as one.
var loginHosts = []string{"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"}

func (s *Service) openIDConfiguration(version string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		base := endpointBase(r)
		tenant := strings.ToLower(r.PathValue("tenant"))
		issuer := base + "/" + s.tenant + "/v2.0"
		if version == "" {
			issuer = s.issuer()
		}
		// A person's browser is not behind the interception proxy, so the pages that people see
		// are always at our own address.
		people := s.baseURLs[0]
		if slices.Contains(s.baseURLs, base) {
			people = base
		}
		doc := map[string]any{
			"issuer":                                issuer,
			"token_endpoint":                        base + "/" + tenant + "/oauth2" + version + "/token",
			"authorization_endpoint":                people + "/" + tenant + "/oauth2/v2.0/authorize",
			"end_session_endpoint":                  people + "/" + tenant + "/oauth2/v2.0/logout",
			"device_authorization_endpoint":         base + "/" + tenant + "/oauth2/v2.0/devicecode",
			"jwks_uri":                              base + "/" + tenant + "/discovery" + version + "/keys",
			"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"},
			"response_modes_supported":              []string{"query", "fragment", "form_post"},
			"response_types_supported":              []string{"code"},
			"code_challenge_methods_supported":      []string{"S256"},
			"subject_types_supported":               []string{"public"},
			"id_token_signing_alg_values_supported": []string{"RS256"},
			"scopes_supported":                      []string{"openid", "profile", "email", "offline_access"},
			"grant_types_supported":                 []string{"client_credentials", "authorization_code", "refresh_token", "password", deviceGrant},
			"claims_supported":                      []string{"sub", "iss", "aud", "exp", "iat", "nonce", "name", "preferred_username", "oid", "tid", "ver"},
			"tenant_region_scope":                   nil,
			"cloud_instance_name":                   "microsoftonline.com",
			"cloud_graph_host_name":                 "graph.windows.net",
			"msgraph_host":                          "graph.microsoft.com",
		}
		writeJSON(w, http.StatusOK, doc)
	}
}

func (s *Service) publicKeys(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.keys.public())
}

// instanceDiscovery tells a client whether a login host is genuine, and which names of
// it share a token cache. Ours are genuine here, and Entra's own.
func (s *Service) instanceDiscovery(w http.ResponseWriter, r *http.Request) {
	endpoint, err := url.Parse(r.URL.Query().Get("authorization_endpoint"))
	if err != nil || endpoint.Scheme != "https" || strings.Trim(endpoint.Path, "/") == "" {
		s.refuse(w, r, missing("authorization_endpoint"))
		return
	}
	tenant, _, _ := strings.Cut(strings.TrimPrefix(endpoint.EscapedPath(), "/"), "/")
	type cloud struct {
		Network string   `json:"preferred_network"`
		Cache   string   `json:"preferred_cache"`
		Aliases []string `json:"aliases"`
	}
	clouds := []cloud{{loginHosts[0], "login.windows.net", loginHosts}}
	known := slices.Contains(loginHosts, endpoint.Host)
	for _, base := range s.baseURLs {
		host := strings.TrimPrefix(base, "https://")
		clouds = append(clouds, cloud{host, host, []string{host}})
		known = known || host == endpoint.Host
	}
	if !known {
		s.refuse(w, r, oauthErrorf("invalid_instance", 50049, "'%s' is not a login host of this installation.", printable(endpoint.Host)))
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"tenant_discovery_endpoint": "https://" + endpoint.Host + "/" + tenant + "/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata":                  clouds,
	})
}

// userRealm says that every user signs in here, with a password.
func (s *Service) userRealm(w http.ResponseWriter, r *http.Request) {
	_, domain, _ := strings.Cut(r.PathValue("user"), "@")
	writeJSON(w, http.StatusOK, map[string]string{
		"ver": "1.0", "account_type": "Managed", "domain_name": domain,
		"cloud_instance_name": "microsoftonline.com", "cloud_audience_urn": "urn:federation:MicrosoftOnline",
	})
}
