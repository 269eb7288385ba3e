package identity

import (
	"net/url"
	"slices"
	"strings"
)

// PortalClientID is the client ID that Berth's own portal and command line sign people in with.
const PortalClientID = "b3271cd8-7d0e-4b52-9b46-5b6f2c0a4e11"

// publicClients are the applications that people sign in through. They hold no secret;
// PKCE and a redirect to the person's own machine protect their codes. All but the
// portal are Microsoft's, with IDs that are compiled into unmodified clients.
var publicClients = map[string]string{
	"04b07795-8ddb-461a-bbee-02f9e1bf7b46": "Microsoft Azure CLI", // azure-identity and azureml-core use it, too
	"1950a258-227b-4e31-a9cf-717495945fc2": "Microsoft Azure PowerShell",
	"aebc6443-996d-45c2-90f0-388ff96faa56": "Visual Studio Code",
	"872cd9fa-d31f-45e0-9eab-6e460a02d1f1": "Visual Studio",
	PortalClientID:                         "Berth",
}

// publicClient checks that an application may sign people in.
func publicClient(id string) error {
	if id == "" {
		return missing("client_id")
	}
	if _, ok := publicClients[strings.ToLower(id)]; !ok {
		return oauthErrorf(errUnauthorizedClient, 700016,
			"Application '%s' can not sign people in here. The clients that can are the Azure CLI, PowerShell, Visual Studio (Code) and Berth's own; a service principal uses the client_credentials grant.", printable(id))
	}
	return nil
}

// checkRedirect allows redirects to the person's own machine on any port (RFC 8252
// section 7.3) and to this installation's own pages.
func (s *Service) checkRedirect(raw string) error {
	u, err := url.Parse(raw)
	if err == nil && u.User == nil && u.Fragment == "" {
		host := u.Hostname()
		if u.Scheme == "http" && (host == "localhost" || host == "127.0.0.1" || host == "::1") {
			return nil
		}
		if u.Scheme == "https" && slices.Contains(s.baseURLs, "https://"+u.Host) {
			return nil
		}
	}
	return oauthErrorf(errInvalidRequest, 50011, "The redirect URI '%s' is not allowed: use http://localhost with any port and path.", printable(raw))
}

func missing(parameter string) *oauthError {
	return oauthErrorf(errInvalidRequest, 900144, "The request has no parameter '%s', which is required.", parameter)
}
