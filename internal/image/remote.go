package image

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Remote is a registry that is not Berth's, by its address: [http://]HOST[:PORT][/PREFIX]. Whoever keys names
// signs in there; http:// means plain HTTP, which is never used without it. Errors: the address is not of that form.
func Remote(address string, keys authn.Keychain) (*Registry, error) {
	at, insecure := strings.CutPrefix(address, "http://")
	at = strings.TrimSuffix(strings.TrimPrefix(at, "https://"), "/")
	if strings.Contains(at, "@") { // it is not repeated: it may hold a password
		return nil, errors.New("the registry's address holds a user, a password or a digest; leave it out, and sign in with docker login, podman login or crane auth login")
	}
	host, _, _ := strings.Cut(at, "/")
	if host != "localhost" && !strings.ContainsAny(host, ".:") {
		return nil, fmt.Errorf("%q is no registry: its host has a dot or a port, as in registry.example.com/team or localhost:5000", address)
	}
	if slices.Contains([]string{"docker.io", "index.docker.io", "registry-1.docker.io"}, host) {
		return nil, fmt.Errorf("%q is Docker Hub, whose repositories have two parts at most; Berth's have more, as in team/berth/environments. Choose another registry", address)
	}
	if _, err := reference.ParseNamed(at + "/" + Environments); err != nil {
		return nil, fmt.Errorf("%q is no registry, [http://]HOST[:PORT][/PREFIX] with a prefix of small letters, digits, dots, dashes and underscores: %w", address, err)
	}
	r := &Registry{Host: at, Keychain: keys, Insecure: insecure, Transport: remote.DefaultTransport}
	if !insecure {
		r.Transport = onlyTLS{r.Transport}
	}
	return r, nil
}

// Server is the registry's host and port, without the prefix of its repositories.
func (r *Registry) Server() string {
	server, _, _ := strings.Cut(r.Host, "/")
	return server
}

// Prefix is what the names of its repositories begin with, "" or with a slash at its end.
func (r *Registry) Prefix() string {
	_, prefix, ok := strings.Cut(r.Host, "/")
	if ok {
		prefix += "/"
	}
	return prefix
}

// onlyTLS keeps go-containerregistry from trying plain HTTP with hosts that look like a developer's.
type onlyTLS struct{ http.RoundTripper }

func (t onlyTLS) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "https" {
		return t.RoundTripper.RoundTrip(req)
	}
	if req.Body != nil {
		_ = req.Body.Close() // a transport closes it, and nothing was written
	}
	return nil, errors.New("plain HTTP was not asked for")
}

// Password is a keychain with one user and password.
type Password struct{ User, Password string }

// Resolve implements authn.Keychain.
func (p Password) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: p.User, Password: p.Password}, nil
}

// keys is a registry's keychain, whose errors say where credentials come from.
type keys struct{ of *Registry }

// Resolve implements authn.Keychain.
func (k keys) Resolve(target authn.Resource) (authn.Authenticator, error) {
	if k.of.Keychain == nil {
		return authn.Anonymous, nil
	}
	auth, err := k.of.Keychain.Resolve(target)
	if err != nil { // without the cause: it may quote what it could not read
		return nil, &RegistryError{Message: fmt.Sprintf("The credentials for the registry %s cannot be read. Check the file that docker login, podman login or crane auth login wrote (config.json in DOCKER_CONFIG or ~/.docker) and the credential helper that it names, as the user that runs Berth.", k.of.Server())}
	}
	return auth, nil
}

// PullConfig is what nodes show the registry to fetch images, as Kubernetes keeps it (kubernetes.io/dockerconfigjson),
// without an entry for one that needs no credentials. Errors: *RegistryError when they are not a user and a password, which
// is all that nodes can show.
func (r *Registry) PullConfig(ctx context.Context) ([]byte, error) {
	rep, err := r.repository(Environments)
	if err != nil {
		return nil, err
	}
	auth, err := keys{r}.Resolve(rep)
	if err != nil {
		return nil, err
	}
	is, err := authn.Authorization(ctx, auth)
	if err != nil {
		return nil, &RegistryError{Message: fmt.Sprintf("The credentials for the registry %s cannot be read. Sign in again, as the user that runs Berth.", r.Server())}
	}
	entries := map[string]any{}
	switch {
	case is.Username != "" && is.Password != "":
		entries[r.Server()] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(is.Username + ":" + is.Password))}
	case *is != authn.AuthConfig{}:
		return nil, &RegistryError{Message: fmt.Sprintf("The credentials for the registry %s are a token, which nodes cannot show. Sign in with a user and a password, or with an access token as the password.", r.Server())}
	}
	return json.Marshal(map[string]any{"auths": entries})
}

// RegistryError says that a registry that is not Berth's cannot be used, why, and what to do about it. It may pass.
type RegistryError struct {
	Message string
	cause   error
}

func (e *RegistryError) Error() string { return e.Message }

func (e *RegistryError) Unwrap() error { return e.cause }

// trouble says what is wrong with the registry. rep is the repository that was asked for.
func (r *Registry) trouble(doing string, rep name.Repository, err error) error {
	var source *sourceError
	var known *RegistryError
	if r.Own || errors.As(err, &source) {
		return fmt.Errorf("%s the registry %s: %w", doing, r.Host, err)
	}
	if errors.As(err, &known) {
		return known
	}
	if message := r.explain(rep, err); message != "" {
		return &RegistryError{Message: message, cause: err}
	}
	return fmt.Errorf("%s the registry %s: %w", doing, r.Host, withoutURL(err))
}

// withoutURL leaves out the address that a request failed at: one that a registry redirects to may be signed.
func withoutURL(err error) error {
	for at := (*url.Error)(nil); errors.As(err, &at); {
		err = at.Err
	}
	return err
}

// explain names the causes of an error that a person can do something about.
func (r *Registry) explain(rep name.Repository, err error) string {
	server := r.Server()
	var untrusted *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var refused *transport.Error
	var lookup *net.DNSError
	var network *net.OpError
	switch {
	case !r.Insecure && errors.As(err, &untrusted):
		return fmt.Sprintf("The certificate of the registry %s is not trusted: %v. Add its authority to those of this machine, or to the file that SSL_CERT_FILE names.", server, untrusted.Err)
	case !r.Insecure && (errors.As(err, &noTLS) || errors.Is(err, http.ErrSchemeMismatch)):
		return fmt.Sprintf("The registry %s does not speak TLS. If that is as it should be, say so with berth up --registry http://%s.", server, r.Host)
	case answered(err, http.StatusUnauthorized, http.StatusForbidden) || said(err, transport.UnauthorizedErrorCode, transport.DeniedErrorCode):
		why := "the credentials that Berth has for it are wrong, or do not suffice"
		if auth, err := (keys{r}).Resolve(rep); err == nil && auth == authn.Anonymous {
			why = "Berth has no credentials for it"
		}
		return fmt.Sprintf("The registry %s denies access to the repository %s%s: %s. Sign in as the user that runs Berth, with docker login %s, podman login or crane auth login, as somebody who may push there; a new sign-in is found without a restart.",
			server, rep.RepositoryStr(), quote(err), why, server)
	case answered(err, http.StatusNotFound) || said(err, transport.NameUnknownErrorCode):
		return fmt.Sprintf("The repository %s does not exist in the registry %s, which does not make repositories by itself%s. Create it there, or choose another registry or prefix with berth up --registry.", rep.RepositoryStr(), server, quote(err))
	case errors.As(err, &refused):
		return fmt.Sprintf("The registry %s answers with status %d for the repository %s%s. If that does not pass by itself, look into its log.", server, refused.StatusCode, rep.RepositoryStr(), quote(err))
	case errors.As(err, &lookup):
		return fmt.Sprintf("The registry %s cannot be found: there is no host %s. Check its name, or choose another registry with berth up --registry.", server, lookup.Name)
	case errors.As(err, &network):
		return fmt.Sprintf("The registry %s cannot be reached from Berth's machine: %v. Check that it runs, and its port.", server, network)
	}
	return ""
}

// answered tells whether a registry, or its token server, answered with one of some statuses.
func answered(err error, statuses ...int) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && slices.Contains(statuses, refused.StatusCode)
}

// quote is what a registry said, in brackets and of bounded length.
func quote(err error) string {
	var refused *transport.Error
	if !errors.As(err, &refused) || len(refused.Errors) == 0 {
		return ""
	}
	return " (" + reason(fmt.Sprintf("%s: %s", refused.Errors[0].Code, refused.Errors[0].Message)) + ")"
}
