package identity

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// authorization is a decoded request of the authorization-code flow.
type authorization struct {
	grant
	mode      string // query, fragment or form_post
	state     string
	loginHint string
	prompt    string
}

// parseAuthorization checks an authorization request. shown says that the client or its
// redirect URI can not be trusted: the error is for the person, not for a redirect.
func (s *Service) parseAuthorization(query url.Values) (a *authorization, shown bool, err error) {
	for name, values := range query {
		if len(values) > 1 {
			return nil, true, oauthErrorf(errInvalidRequest, 9000411, "The parameter '%s' is there %d times.", printable(name), len(values))
		}
	}
	a = &authorization{mode: query.Get("response_mode"), state: query.Get("state"), loginHint: query.Get("login_hint"), prompt: query.Get("prompt")}
	a.ClientID = strings.ToLower(query.Get("client_id"))
	a.RedirectURI = query.Get("redirect_uri")
	a.Challenge = query.Get("code_challenge")
	a.Nonce = query.Get("nonce")
	if err := errors.Join(publicClient(a.ClientID), s.checkRedirect(a.RedirectURI)); err != nil {
		return nil, true, err
	}
	if a.mode == "" {
		a.mode = "query"
	}
	if !slices.Contains([]string{"query", "fragment", "form_post"}, a.mode) {
		mode := a.mode
		a.mode = "query"
		return a, false, oauthErrorf(errInvalidRequest, 901002, "The response_mode '%s' is none of query, fragment and form_post.", printable(mode))
	}
	switch kind := query.Get("response_type"); {
	case kind == "":
		return a, false, missing("response_type")
	case kind != "code":
		return a, false, oauthErrorf(errUnsupportedResponse, 70005, "The response_type '%s' is not supported: use 'code'.", printable(kind))
	case a.Challenge == "":
		return a, false, oauthErrorf(errInvalidRequest, 9002325, "Proof Key for Code Exchange is required: send a code_challenge.")
	case query.Get("code_challenge_method") != "S256" || len(a.Challenge) != 43:
		return a, false, oauthErrorf(errInvalidRequest, 501491, "Use code_challenge_method S256: the challenge is the verifier's SHA-256 in 43 base64url characters.")
	case a.prompt == "none":
		return a, false, oauthErrorf(errInteractionRequired, 50058, "There are no browser sessions here, so nobody can be signed in silently.")
	}
	a.Request, err = s.parseScope(query.Get("scope"))
	return a, false, err
}

// authorize shows the sign-in page and takes what it posts. The request's parameters stay in
// the query, so the form holds nothing but the name and the password.
func (s *Service) authorize(w http.ResponseWriter, r *http.Request) {
	a, shown, err := s.parseAuthorization(r.URL.Query())
	switch {
	case err != nil && shown:
		s.showError(w, r, err)
	case err != nil:
		e := s.asOAuthError(r, err)
		s.reply(w, r, a, map[string]string{"error": e.name, "error_description": e.Error()})
	case r.Method == http.MethodPost:
		s.signInPage(w, r, a)
	default:
		s.show(w, r, http.StatusOK, "signin", a.page(a.loginHint, ""))
	}
}

func (a *authorization) page(userName, problem string) page {
	p := page{Title: "Sign in", Client: publicClients[a.ClientID], UserName: userName, Error: problem}
	if u, err := url.Parse(a.RedirectURI); err == nil {
		p.formTo = u.Scheme + "://" + u.Host
	}
	return p
}

func (s *Service) signInPage(w http.ResponseWriter, r *http.Request, a *authorization) {
	form, err := readForm(w, r)
	if err != nil {
		s.showError(w, r, err)
		return
	}
	user, err := s.signInPerson(r.Context(), form.Get("username"), form.Get("password"))
	if err != nil {
		e := s.asOAuthError(r, err)
		s.show(w, r, max(e.status, http.StatusBadRequest), "signin", a.page(form.Get("username"), e.message))
		return
	}
	a.ObjectID = user.ObjectID
	a.Expires = s.now().Add(codeLifetime)
	code, err := s.issue(r.Context(), bucketCodes, &a.grant)
	if err != nil {
		s.showError(w, r, err)
		return
	}
	s.reply(w, r, a, map[string]string{"code": code, "client_info": s.clientInfo(user)})
}

// reply sends the browser back to the client with the outcome.
func (s *Service) reply(w http.ResponseWriter, r *http.Request, a *authorization, fields map[string]string) {
	if a.state != "" {
		fields["state"] = a.state
	}
	if a.mode == "form_post" {
		p := a.page("", "")
		p.Title, p.Action, p.Fields = "Back to the application", a.RedirectURI, fields
		s.show(w, r, http.StatusOK, "formpost", p)
		return
	}
	target, err := url.Parse(a.RedirectURI)
	if err != nil {
		s.showError(w, r, err)
		return
	}
	values := url.Values{}
	if a.mode == "query" {
		values = target.Query()
	}
	for name, value := range fields {
		values.Set(name, value)
	}
	location := target.String() + "#" + values.Encode()
	if a.mode == "query" {
		target.RawQuery = values.Encode()
		location = target.String()
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, location, http.StatusSeeOther)
}
