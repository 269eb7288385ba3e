package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

const (
	verifier = "a-verifier-of-at-least-forty-three-characters-0"
	redirect = "http://localhost:51234/cb?x=1"
)

func authorizeQuery(change map[string]string) string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"client_id": {azClient}, "response_type": {"code"}, "redirect_uri": {redirect}, "state": {`s"<>&`}, "nonce": {"n1"},
		"scope": {"https://management.azure.com/.default offline_access openid"}, "code_challenge_method": {"S256"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}
	for name, value := range change {
		q.Set(name, value)
		if value == "" {
			q.Del(name)
		}
	}
	return "/organizations/oauth2/v2.0/authorize?" + q.Encode()
}

var signInForm = url.Values{"username": {"ada@example.com"}, "password": {personPassword}}

func redeem(f *fixture, code, verifier string) (int, map[string]any) {
	w, body := f.token(redemption(code, verifier))
	return w.Code, body
}

func redemption(code, verifier string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "client_id": {azClient}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier}}
}

func TestAuthorize_CodeFlow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w, _ := f.do("GET", authorizeQuery(map[string]string{"login_hint": `ada"><script>`}), nil)
	page := w.Body.String()
	if w.Code != http.StatusOK || !strings.Contains(page, "Microsoft Azure CLI") || !strings.Contains(page, `<label for="password">`) || strings.Contains(page, "<script>") {
		t.Fatalf("got %d %s", w.Code, page)
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self' http://localhost:51234;") || !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("Content-Security-Policy is %q", csp)
	}

	if w, _ = f.do("POST", authorizeQuery(nil), url.Values{"username": {"ada@example.com"}, "password": {"wrong"}}); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `role="alert"`) {
		t.Errorf("wrong password: %d %s", w.Code, w.Body)
	}

	w, _ = f.do("POST", authorizeQuery(nil), signInForm)
	to, err := url.Parse(w.Header().Get("Location"))
	if err != nil || w.Code != http.StatusSeeOther || to.Host != "localhost:51234" || to.Query().Get("state") != `s"<>&` || to.Query().Get("x") != "1" {
		t.Fatalf("got %d to %s", w.Code, to)
	}
	code := to.Query().Get("code")
	status, body := redeem(f, code, verifier)
	if status != http.StatusOK || claimsOf(t, body["id_token"])["nonce"] != "n1" || body["refresh_token"] == nil {
		t.Fatalf("redeeming: %d %v", status, body)
	}
	if p, err := f.authenticate(body["access_token"].(string)); err != nil || p.ObjectID != f.person.ObjectID || p.Kind != User || p.AppID != azClient {
		t.Errorf("principal %+v, %v", p, err)
	}
	if status, _ = redeem(f, code, verifier); status != http.StatusBadRequest {
		t.Errorf("a code worked twice: %d", status)
	}
}

func TestAuthorize_WrongVerifierSpendsTheCode(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w, _ := f.do("POST", authorizeQuery(map[string]string{"response_mode": "fragment"}), signInForm)
	_, fragment, _ := strings.Cut(w.Header().Get("Location"), "#")
	answer, err := url.ParseQuery(fragment)
	if err != nil || answer.Get("code") == "" {
		t.Fatalf("Location is %q", w.Header().Get("Location"))
	}
	for _, v := range []string{"guess", verifier} {
		if status, body := redeem(f, answer.Get("code"), v); status != http.StatusBadRequest || body["error"] != "invalid_grant" {
			t.Errorf("verifier %q: %d %v", v, status, body)
		}
	}
}

func TestAuthorize_CodeIsForOneClientAndRedirect(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, value := range map[string]string{"client_id": PortalClientID, "redirect_uri": "http://localhost:1/", "code_verifier": ""} {
		w, _ := f.do("POST", authorizeQuery(nil), signInForm)
		to, err := url.Parse(w.Header().Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		form := redemption(to.Query().Get("code"), verifier)
		form.Set(name, value)
		if w, body := f.token(form); w.Code != http.StatusBadRequest || body["access_token"] != nil {
			t.Errorf("%s=%q: %d %s", name, value, w.Code, w.Body)
		}
	}
}

func TestAuthorize_CodeExpires(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w, _ := f.do("POST", authorizeQuery(map[string]string{"response_mode": "form_post"}), signInForm)
	// MSAL for Python asks for form_post.
	m := regexp.MustCompile(`name="code" value="([^"]+)"`).FindStringSubmatch(w.Body.String())
	if w.Code != http.StatusOK || m == nil || !strings.Contains(w.Body.String(), `action="http://localhost:51234/cb?x=1"`) {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	f.clock.advance(codeLifetime)
	if status, body := redeem(f, m[1], verifier); status != http.StatusBadRequest {
		t.Errorf("got %d %v", status, body)
	}
}

func TestAuthorize_Refusals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, change := range map[string]map[string]string{
		"unknown client":     {"client_id": testTenant},
		"foreign redirect":   {"redirect_uri": "https://example.com/"},
		"look-alike":         {"redirect_uri": "http://localhost.example.com/"},
		"loopback user info": {"redirect_uri": "http://x@localhost/"},
		"user info":          {"redirect_uri": "http://localhost@example.com/"},
		"script":             {"redirect_uri": "javascript:alert(1)"},
		"other scheme":       {"redirect_uri": "ftp://localhost/"},
		"no redirect":        {"redirect_uri": ""},
	} {
		if w, _ := f.do("GET", authorizeQuery(change), nil); w.Code != http.StatusBadRequest || w.Header().Get("Location") != "" || !strings.Contains(w.Body.String(), "AADSTS") {
			t.Errorf("%s: %d %s, want a page", name, w.Code, w.Header())
		}
	}
	for name, c := range map[string]struct {
		change map[string]string
		error  string
	}{
		"implicit flow":    {map[string]string{"response_type": "token"}, "unsupported_response_type"},
		"no PKCE":          {map[string]string{"code_challenge": ""}, "invalid_request"},
		"plain PKCE":       {map[string]string{"code_challenge_method": "plain"}, "invalid_request"},
		"silent":           {map[string]string{"prompt": "none"}, "interaction_required"},
		"unknown resource": {map[string]string{"scope": "https://example.com/.default"}, "invalid_resource"},
		"response mode":    {map[string]string{"response_mode": "carrier_pigeon"}, "invalid_request"},
	} {
		w, _ := f.do("POST", authorizeQuery(c.change), signInForm)
		to, err := url.Parse(w.Header().Get("Location"))
		if err != nil || w.Code != http.StatusSeeOther || to.Query().Get("error") != c.error || to.Query().Get("code") != "" {
			t.Errorf("%s: %d to %s, want %s", name, w.Code, to, c.error)
		}
	}
}

func TestPages_RefuseFormsOfOtherSites(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, path := range []string{authorizeQuery(nil), "/devicelogin?otc=BCDFGHJKL"} {
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://example.com"}} {
			if w, _ := f.do("POST", path, signInForm, header...); w.Code != http.StatusForbidden {
				t.Errorf("%s with %v: %d", path, header, w.Code)
			}
		}
	}
}

func TestDevice_Flow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	start := func() (device, user string) {
		w, body := f.do("POST", "/organizations/oauth2/v2.0/devicecode", url.Values{"client_id": {azClient}, "scope": {"https://management.azure.com/.default offline_access openid"}})
		if w.Code != http.StatusOK || body["verification_uri"] != testBase+"/devicelogin" || !strings.Contains(body["message"].(string), body["user_code"].(string)) {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		return body["device_code"].(string), body["user_code"].(string)
	}
	poll := func(device string) (int, map[string]any) {
		w, body := f.token(url.Values{"grant_type": {deviceGrant}, "client_id": {azClient}, "device_code": {device}})
		return w.Code, body
	}

	device, user := start()
	if _, body := poll(device); body["error"] != "authorization_pending" {
		t.Errorf("before sign-in: %v", body)
	}
	page := "/devicelogin?otc=" + strings.ToLower(user[:4]) + "-" + user[4:]
	if w, _ := f.do("GET", page, nil); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Microsoft Azure CLI") {
		t.Errorf("page: %d %s", w.Code, w.Body)
	}
	if w, _ := f.do("POST", page, url.Values{"username": {"ada@example.com"}, "password": {"wrong"}}); w.Code != http.StatusBadRequest {
		t.Errorf("wrong password: %d", w.Code)
	}
	if w, _ := f.do("POST", page, signInForm); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Signed in") {
		t.Fatalf("sign-in: %d %s", w.Code, w.Body)
	}
	if w, body := f.token(url.Values{"grant_type": {deviceGrant}, "client_id": {PortalClientID}, "device_code": {device}}); w.Code != http.StatusBadRequest {
		t.Errorf("another client redeemed the device code: %v", body)
	}
	status, body := poll(device)
	if status != http.StatusOK || body["refresh_token"] == nil || claimsOf(t, body["access_token"])["oid"] != f.person.ObjectID {
		t.Fatalf("after sign-in: %d %v", status, body)
	}
	if status, _ = poll(device); status != http.StatusBadRequest {
		t.Errorf("a device code worked twice: %d", status)
	}
	if w, _ := f.do("POST", page, signInForm); w.Code != http.StatusBadRequest {
		t.Errorf("a user code worked twice: %d", w.Code)
	}

	device, user = start()
	f.do("POST", "/devicelogin?otc="+user, url.Values{"decision": {"decline"}})
	if _, body = poll(device); body["error"] != "authorization_declined" {
		t.Errorf("after declining: %v", body)
	}
	device, _ = start()
	f.clock.advance(deviceLifetime)
	if _, body = poll(device); body["error"] != "expired_token" {
		t.Errorf("after %s: %v", deviceLifetime, body)
	}
}

func TestDevice_SignInsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	form := url.Values{"client_id": {azClient}, "scope": {"https://management.azure.com/.default"}}
	for range maxDevices {
		if _, err := f.startDevice(t.Context(), &grant{ClientID: azClient, Expires: f.clock.Now().Add(deviceLifetime)}); err != nil {
			t.Fatal(err)
		}
	}
	w, body := f.do("POST", "/organizations/oauth2/v2.0/devicecode", form)
	wantError(t, w, body, http.StatusTooManyRequests, "temporarily_unavailable", 90055)
	f.clock.advance(deviceLifetime + pruneInterval)
	if w, _ = f.do("POST", "/organizations/oauth2/v2.0/devicecode", form); w.Code != http.StatusOK {
		t.Errorf("after they expired: %d %s", w.Code, w.Body)
	}
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w, doc := f.do("GET", "/"+testTenant+"/v2.0/.well-known/openid-configuration", nil)
	for name, want := range map[string]string{
		"issuer":                 "https://login.microsoftonline.com/" + testTenant + "/v2.0",
		"token_endpoint":         "https://login.microsoftonline.com/" + testTenant + "/oauth2/v2.0/token",
		"authorization_endpoint": testBase + "/" + testTenant + "/oauth2/v2.0/authorize",
		"jwks_uri":               "https://login.microsoftonline.com/" + testTenant + "/discovery/v2.0/keys",
	} {
		if doc[name] != want {
			t.Errorf("%s is %v, want %s", name, doc[name], want)
		}
	}
	if w.Code != http.StatusOK {
		t.Errorf("got %d", w.Code)
	}
	_, doc = f.do("GET", "/common/discovery/instance?api-version=1.1&authorization_endpoint="+url.QueryEscape("https://login.windows.net/common/oauth2/v2.0/authorize"), nil)
	if doc["tenant_discovery_endpoint"] != "https://login.windows.net/common/v2.0/.well-known/openid-configuration" {
		t.Errorf("instance discovery: %v", doc)
	}
	for path, want := range map[string]string{
		"/common/discovery/instance?authorization_endpoint=https://login.example.com/common/x": "invalid_instance",
		"/common/discovery/instance?authorization_endpoint=%25zz":                              "invalid_request",
		"/nowhere/v2.0/.well-known/openid-configuration":                                       "invalid_request",
		"/nowhere": "invalid_request",
	} {
		if w, doc = f.do("GET", path, nil); doc["error"] != want || w.Code >= 500 {
			t.Errorf("%s: %d %v, want %s", path, w.Code, doc, want)
		}
	}
	_, doc = f.do("GET", "/common/discovery/v2.0/keys", nil)
	key := doc["keys"].([]any)[0].(map[string]any)
	if key["kty"] != "RSA" || key["use"] != "sig" || key["d"] != nil || key["n"] == nil {
		t.Errorf("published key: %v", key)
	}
}
