// Package clientenv prepares the environment of unmodified clients, so that they reach
// an installation: which proxy to use, whom to trust, which cloud to ask for. It knows
// which variable each client reads, and how each shell quotes.
package clientenv

import (
	"net/netip"
	"slices"
	"strings"
)

// Var is one environment variable.
type Var struct{ Name, Value string }

// Settings describe an installation as clients on this machine see it.
type Settings struct {
	Host   string // own address: host:port
	CA     string // path of the installation's CA certificate
	Bundle string // path of what WriteBundle wrote
	// Patterns are the names that the proxy intercepts, as edge.AzurePatterns has them.
	Patterns []string
	// Getenv reads the environment to build on (os.Getenv).
	Getenv func(string) string
}

// Vars returns the variables to set, in a fixed order.
func Vars(s Settings) []Var {
	proxy := "http://" + s.Host
	noProxy := s.noProxy()
	return []Var{
		// Only HTTPS_PROXY: nothing of Azure's is fetched without TLS. Some clients know the
		// variables in one case only, and where both are set they must agree.
		{"HTTPS_PROXY", proxy},
		{"https_proxy", proxy},
		{"NO_PROXY", noProxy},
		{"no_proxy", noProxy},
		{"REQUESTS_CA_BUNDLE", s.Bundle}, // Python: requests, and with it az, azureml-core, msal
		{"SSL_CERT_FILE", s.Bundle},      // OpenSSL, Go (Terraform, kubectl), .NET, httpx
		{"CURL_CA_BUNDLE", s.Bundle},
		{"NODE_EXTRA_CA_CERTS", s.CA},              // adds to what Node trusts anyway
		{"ARM_METADATA_HOSTNAME", s.Host},          // Terraform's azurerm and azapi: custom cloud
		{"AZURE_CORE_INSTANCE_DISCOVERY", "false"}, // az: do not ask Microsoft whether a custom cloud is genuine
	}
}

// Principal is the service principal that clients sign in as, and where.
type Principal struct{ Subscription, Tenant, Client, Secret string }

// SignIn returns the variables from which clients sign in as p without being asked.
func SignIn(p Principal) []Var {
	return []Var{
		{"AZURE_SUBSCRIPTION_ID", p.Subscription}, // azidentity in every language
		{"AZURE_TENANT_ID", p.Tenant},
		{"AZURE_CLIENT_ID", p.Client},
		{"AZURE_CLIENT_SECRET", p.Secret},
		{"ARM_SUBSCRIPTION_ID", p.Subscription}, // Terraform's azurerm and azapi
		{"ARM_TENANT_ID", p.Tenant},
		{"ARM_CLIENT_ID", p.Client},
		{"ARM_CLIENT_SECRET", p.Secret},
	}
}

// noProxy keeps the exceptions the user has, except those that would let clients past
// the interception, and adds loopback: clusters and Berth itself are there.
func (s Settings) noProxy() string {
	var keep []string
	add := func(entry string) {
		if !slices.Contains(keep, entry) {
			keep = append(keep, entry)
		}
	}
	existing := s.Getenv("no_proxy")
	if existing == "" {
		existing = s.Getenv("NO_PROXY")
	}
	for entry := range strings.FieldsFuncSeq(existing, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !s.exempts(entry) {
			add(entry)
		}
	}
	for _, entry := range []string{"localhost", "127.0.0.0/8", "127.0.0.1", "::1"} { // not all clients know ranges
		add(entry)
	}
	return strings.Join(keep, ",")
}

// exempts says whether a NO_PROXY entry covers a name, or part of the names, that have
// to be intercepted. Clients match an entry's domain and what is below it.
func (s Settings) exempts(entry string) bool {
	if _, err := netip.ParsePrefix(entry); err == nil {
		return false
	}
	domain, _, _ := strings.Cut(strings.ToLower(entry), ":") // an entry may have a port
	domain = strings.TrimLeft(domain, "*.")
	if domain == "" { // "*" exempts everything
		return strings.Contains(entry, "*")
	}
	return slices.ContainsFunc(s.Patterns, func(pattern string) bool {
		name, wild := strings.CutPrefix(pattern, "*.")
		return name == domain || strings.HasSuffix(name, "."+domain) || wild && strings.HasSuffix(domain, "."+name)
	})
}
