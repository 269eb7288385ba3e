package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/store"
)

// maxForm bounds the body of a sign-in request. MSAL's largest has a few kilobytes.
const maxForm = 64 << 10

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// tokenRequest is a decoded request to the token endpoint.
type tokenRequest struct {
	form         url.Values
	v1           bool // the endpoint without v2.0, with resource in place of scope
	base         string
	clientID     string
	clientSecret string
}

// readForm decodes a form body.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, oauthErrorf(errInvalidRequest, 900561, "Send the parameters as application/x-www-form-urlencoded, not as '%s'.", printable(r.Header.Get("Content-Type")))
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			e := oauthErrorf(errInvalidRequest, 9000531, "The request has more than %d bytes.", maxForm)
			e.status = http.StatusRequestEntityTooLarge
			return nil, e
		}
		return nil, oauthErrorf(errInvalidRequest, 9000531, "The form is malformed.")
	}
	for name, values := range r.PostForm {
		if len(values) > 1 { // RFC 6749 section 3.2
			return nil, oauthErrorf(errInvalidRequest, 9000411, "The parameter '%s' is there %d times.", printable(name), len(values))
		}
	}
	return r.PostForm, nil
}

// parseTokenRequest reads the parameters that all grants share. The claims parameter
// and others that ask for what Berth does not have (conditional access) are ignored.
func parseTokenRequest(w http.ResponseWriter, r *http.Request) (*tokenRequest, error) {
	form, err := readForm(w, r)
	if err != nil {
		return nil, err
	}
	q := &tokenRequest{
		form: form, v1: !strings.HasSuffix(r.URL.Path, "/v2.0/token"), base: endpointBase(r),
		clientID: form.Get("client_id"), clientSecret: form.Get("client_secret"),
	}
	if id, secret, ok := r.BasicAuth(); ok {
		// RFC 6749 section 2.3.1: both are form-encoded before they are joined.
		id, err1 := url.QueryUnescape(id)
		secret, err2 := url.QueryUnescape(secret)
		if err1 != nil || err2 != nil || q.clientID != "" && !strings.EqualFold(id, q.clientID) || q.clientSecret != "" {
			return nil, oauthErrorf(errInvalidRequest, 900144, "Authenticate the client once: in the Authorization header or in the body.")
		}
		q.clientID, q.clientSecret = id, secret
	}
	q.clientID = strings.ToLower(q.clientID)
	if q.clientID == "" {
		return nil, missing("client_id")
	}
	if form.Has("client_assertion") {
		return nil, oauthErrorf(errInvalidClient, 700027, "Berth does not take client assertions (certificates, federated credentials) yet. Use the client's secret.")
	}
	return q, nil
}

// wanted reads what the token is for; ok is false when the request does not say.
func (s *Service) wanted(q *tokenRequest) (want request, ok bool, err error) {
	if id := q.form.Get("resource"); q.v1 && id != "" {
		want, err = s.parseResource(id)
		return want, true, err
	}
	if scope := q.form.Get("scope"); scope != "" {
		want, err = s.parseScope(scope)
		return want, true, err
	}
	return request{}, false, nil
}

// token is the token endpoint.
func (s *Service) token(w http.ResponseWriter, r *http.Request) {
	q, err := parseTokenRequest(w, r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	var answer *tokenResponse
	switch grantType := q.form.Get("grant_type"); grantType {
	case "client_credentials":
		answer, err = s.clientCredentials(r.Context(), q)
	case "authorization_code", "refresh_token", "password", deviceGrant:
		if err = publicClient(q.clientID); err == nil && q.clientSecret != "" {
			err = oauthErrorf(errInvalidClient, 700025, "Application '%s' is a public client and has no secret; do not send one.", printable(q.clientID))
		}
		if err == nil {
			answer, err = s.person(r.Context(), q, grantType)
		}
	case "":
		err = missing("grant_type")
	default:
		err = oauthErrorf(errUnsupportedGrant, 70003, "Berth has no grant '%s'. It has client_credentials, authorization_code, refresh_token, password and device_code.", printable(grantType))
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if q.v1 {
		writeJSON(w, http.StatusOK, answer.version1(s.now()))
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func (s *Service) clientCredentials(ctx context.Context, q *tokenRequest) (*tokenResponse, error) {
	want, ok, err := s.wanted(q)
	switch {
	case err != nil:
		return nil, err
	case !ok && q.v1:
		return nil, missing("resource")
	case !ok:
		return nil, missing("scope")
	case !q.v1 && !want.isDefault():
		return nil, oauthErrorf(errInvalidScope, 1002012, "The scope '%s' is not valid for client_credentials: give one resource followed by /.default.", printable(q.form.Get("scope")))
	case q.clientSecret == "":
		return nil, oauthErrorf(errInvalidClient, 7000216, "The client_credentials grant needs a client_secret.")
	}
	a, err := s.signInProgram(ctx, q.clientID, q.clientSecret)
	if err != nil {
		return nil, err
	}
	return s.answer(ctx, q, a, &grant{ClientID: a.AppID, Request: want})
}

// person redeems one of the grants that a person gave to a client.
func (s *Service) person(ctx context.Context, q *tokenRequest, grantType string) (*tokenResponse, error) {
	want, narrowed, err := s.wanted(q)
	if err != nil {
		return nil, err
	}
	var g *grant
	var a *account
	var refresh string
	switch grantType {
	case "authorization_code":
		g, err = s.redeemCode(ctx, q)
	case "refresh_token":
		g, refresh, err = s.rotate(ctx, q.form.Get("refresh_token"), q.clientID)
	case deviceGrant:
		g, err = s.takeDevice(ctx, q.form.Get("device_code"), q.clientID)
	case "password":
		if !narrowed {
			return nil, missing("scope")
		}
		if a, err = s.signInPerson(ctx, q.form.Get("username"), q.form.Get("password")); err == nil {
			g = &grant{ObjectID: a.ObjectID, ClientID: q.clientID, Request: want}
		}
	}
	if err != nil {
		return nil, err
	}
	if a == nil {
		if a, err = s.grantor(ctx, g); err != nil {
			return nil, err
		}
	}
	// A refresh token is good for every resource: az asks for one after the other with it.
	if narrowed {
		g.Request = want
	}
	answer, err := s.answer(ctx, q, a, g)
	if err != nil {
		return nil, err
	}
	if refresh == "" && (q.v1 || slices.Contains(g.Request.Scopes, "offline_access")) {
		refresh, err = s.issue(ctx, bucketRefresh, &grant{
			ObjectID: a.ObjectID, ClientID: q.clientID, Request: g.Request,
			Family: uuid.NewString(), Expires: s.now().Add(refreshLifetime),
		})
	}
	answer.RefreshToken = refresh
	return answer, err
}

// grantor is the person who gave a grant, if they may still sign in.
func (s *Service) grantor(ctx context.Context, g *grant) (a *account, err error) {
	err = s.store.View(ctx, func(tx store.ReadTx) (err error) {
		a, err = accountByID(tx, g.ObjectID)
		return err
	})
	if errors.Is(err, ErrNoPrincipal) || err == nil && !a.Enabled {
		return nil, oauthErrorf(errInvalidGrant, 50057, "The user account is disabled or gone.")
	}
	return a, err
}

func (s *Service) redeemCode(ctx context.Context, q *tokenRequest) (*grant, error) {
	for _, name := range []string{"code", "redirect_uri", "code_verifier"} {
		if q.form.Get(name) == "" {
			return nil, missing(name)
		}
	}
	g, err := s.takeCode(ctx, q.form.Get("code"))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(q.form.Get("code_verifier")))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	switch {
	case g.ClientID != q.clientID:
		return nil, oauthErrorf(errInvalidGrant, 700003, "The authorization code was issued to another client.")
	case g.RedirectURI != q.form.Get("redirect_uri"):
		return nil, oauthErrorf(errInvalidGrant, 500112, "The redirect_uri is not the one that the code was issued for.")
	case subtle.ConstantTimeCompare([]byte(challenge), []byte(g.Challenge)) != 1:
		return nil, oauthErrorf(errInvalidGrant, 501481, "The code_verifier does not match the code_challenge.")
	}
	return g, nil
}

// tokenResponse is a token endpoint's answer. Times are seconds.
type tokenResponse struct {
	TokenType    string `json:"token_type"`
	Scope        string `json:"scope,omitempty"`
	ExpiresIn    int    `json:"expires_in"`
	ExtExpiresIn int    `json:"ext_expires_in"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	ClientInfo   string `json:"client_info,omitempty"`

	resource string
}

// tokenResponseV1 is version 1's, which spells numbers as strings.
type tokenResponseV1 struct {
	tokenResponse
	ExpiresIn    string `json:"expires_in"`
	ExtExpiresIn string `json:"ext_expires_in"`
	ExpiresOn    string `json:"expires_on"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
}

func (t *tokenResponse) version1(now time.Time) *tokenResponseV1 {
	return &tokenResponseV1{
		tokenResponse: *t,
		ExpiresIn:     strconv.Itoa(t.ExpiresIn), ExtExpiresIn: strconv.Itoa(t.ExtExpiresIn),
		ExpiresOn: strconv.FormatInt(now.Unix()+int64(t.ExpiresIn), 10),
		NotBefore: strconv.FormatInt(now.Unix(), 10), Resource: t.resource,
	}
}

// answer makes the tokens for a grant.
func (s *Service) answer(ctx context.Context, q *tokenRequest, a *account, g *grant) (*tokenResponse, error) {
	access, err := s.accessToken(ctx, a, g.ClientID, g.Request.Audience)
	if err != nil {
		return nil, err
	}
	// One second less than the token really has, so that no client uses it too late.
	lifetime := int(tokenLifetime/time.Second) - 1
	t := &tokenResponse{TokenType: "Bearer", ExpiresIn: lifetime, ExtExpiresIn: lifetime, AccessToken: access, resource: g.Request.Audience}
	if a.Kind != User {
		return t, nil
	}
	t.Scope = s.grantedScope(g.Request)
	if q.form.Get("client_info") == "1" {
		t.ClientInfo = s.clientInfo(a)
	}
	if q.v1 || slices.Contains(g.Request.Scopes, "openid") {
		t.IDToken, err = s.idToken(ctx, a, g.ClientID, q.base, g.Nonce)
	}
	return t, err
}

// grantedScope lists what a user's token is good for. MSAL looks tokens up in its cache by
// the scopes it asked for, so those have to be in the list, /.default included.
func (s *Service) grantedScope(q request) string {
	var out []string
	for _, scope := range q.Scopes {
		if scope != "offline_access" {
			out = append(out, scope)
		}
	}
	known, _ := s.resource(q.Audience)
	for name := range strings.FieldsSeq(known.delegated) {
		if scope := q.Audience + "/" + name; !slices.Contains(out, scope) {
			out = append(out, scope)
		}
	}
	return strings.Join(out, " ")
}
