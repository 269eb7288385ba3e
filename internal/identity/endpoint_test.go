package identity

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

const armScope = "https://management.core.windows.net//.default"

func claimsOf(t *testing.T, token any) map[string]any {
	t.Helper()
	text, _ := token.(string)
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no JSON web token", text)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestToken_ClientCredentials(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w, body := f.token(f.credentials(armScope))
	if w.Code != http.StatusOK || body["token_type"] != "Bearer" || body["expires_in"] != 3599.0 || body["ext_expires_in"] != 3599.0 || body["refresh_token"] != nil {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	now := float64(f.clock.Now().Unix())
	want := map[string]any{
		"aud": "https://management.core.windows.net/", "iss": "https://sts.windows.net/" + testTenant + "/", "idp": "https://sts.windows.net/" + testTenant + "/",
		"iat": now, "nbf": now, "exp": now + 3600, "appid": f.program.AppID, "azp": f.program.AppID, "appidacr": "1", "idtyp": "app",
		"oid": f.program.ObjectID, "sub": f.program.ObjectID, "tid": testTenant, "ver": "1.0",
	}
	got := claimsOf(t, body["access_token"])
	for name, value := range want {
		if got[name] != value {
			t.Errorf("claim %s is %v, want %v", name, got[name], value)
		}
	}
	if got["uti"] == "" || got["scp"] != nil || got["upn"] != nil {
		t.Errorf("claims of a service principal: %v", got)
	}
}

func TestToken_SecretInBasicHeader(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	basic := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(f.program.AppID) + ":" + url.QueryEscape(f.program.Secret)))
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {armScope}}
	if w, _ := f.token(form, "Authorization", "Basic "+basic); w.Code != http.StatusOK {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	form.Set("client_secret", f.program.Secret)
	w, body := f.token(form, "Authorization", "Basic "+basic)
	wantError(t, w, body, http.StatusBadRequest, "invalid_request", 900144)
}

func TestToken_Version1SpellsNumbersAsStrings(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	form := f.credentials("")
	form.Del("scope")
	form.Set("resource", "https://management.azure.com/")
	w, body := f.do("POST", "/"+testTenant+"/oauth2/token", form)
	if w.Code != http.StatusOK || body["expires_in"] != "3599" || body["resource"] != "https://management.azure.com/" || body["expires_on"] == "" {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if aud := claimsOf(t, body["access_token"])["aud"]; aud != "https://management.azure.com/" {
		t.Errorf("aud is %v", aud)
	}
}

func TestToken_Refusals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, c := range map[string]struct {
		change func(url.Values)
		status int
		error  string
		aadsts int
	}{
		"no grant":         {func(v url.Values) { v.Del("grant_type") }, 400, "invalid_request", 900144},
		"unknown grant":    {func(v url.Values) { v.Set("grant_type", "saml") }, 400, "unsupported_grant_type", 70003},
		"no client":        {func(v url.Values) { v.Del("client_id") }, 400, "invalid_request", 900144},
		"unknown client":   {func(v url.Values) { v.Set("client_id", testTenant) }, 400, "unauthorized_client", 700016},
		"client is a user": {func(v url.Values) { v.Set("client_id", "ada@example.com") }, 400, "unauthorized_client", 700016},
		"wrong secret":     {func(v url.Values) { v.Set("client_secret", "guess") }, 401, "invalid_client", 7000215},
		"no secret":        {func(v url.Values) { v.Del("client_secret") }, 401, "invalid_client", 7000216},
		"no scope":         {func(v url.Values) { v.Del("scope") }, 400, "invalid_request", 900144},
		"only OpenID":      {func(v url.Values) { v.Set("scope", "openid profile") }, 400, "invalid_scope", 1002012},
		"not .default":     {func(v url.Values) { v.Set("scope", "https://management.azure.com/user_impersonation") }, 400, "invalid_scope", 1002012},
		"unknown resource": {func(v url.Values) { v.Set("scope", "https://example.com/.default") }, 400, "invalid_resource", 500011},
		"two resources": {func(v url.Values) {
			v.Set("scope", "https://management.azure.com/.default https://graph.microsoft.com/.default")
		}, 400, "invalid_scope", 28000},
		"certificate":       {func(v url.Values) { v.Set("client_assertion", "x.y.z") }, 401, "invalid_client", 700027},
		"repeated":          {func(v url.Values) { v.Add("scope", "x") }, 400, "invalid_request", 9000411},
		"first party":       {func(v url.Values) { v.Set("client_id", azClient) }, 400, "unauthorized_client", 700016},
		"secret of none":    {func(v url.Values) { v.Set("client_id", azClient); v.Set("grant_type", "password") }, 401, "invalid_client", 700025},
		"program as person": {func(v url.Values) { v.Set("grant_type", "password") }, 400, "unauthorized_client", 700016},
	} {
		t.Run(name, func(t *testing.T) {
			form := f.credentials(armScope)
			c.change(form)
			w, body := f.token(form)
			wantError(t, w, body, c.status, c.error, c.aadsts)
		})
	}
	w, body := f.do("POST", "/6f0c1e1e-8a0b-4a3c-9d57-0f5f3b9c2a11/oauth2/v2.0/token", f.credentials(armScope))
	wantError(t, w, body, http.StatusBadRequest, "invalid_request", 90002)
	w, body = f.token(f.credentials(strings.Repeat("x", maxForm)))
	wantError(t, w, body, http.StatusRequestEntityTooLarge, "invalid_request", 9000531)
	w, body = f.token(f.credentials(armScope), "Content-Type", "application/json")
	wantError(t, w, body, http.StatusBadRequest, "invalid_request", 900561)
}

func TestToken_DisabledPrincipalIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.disable(f.program.ObjectID)
	w, body := f.token(f.credentials(armScope))
	wantError(t, w, body, http.StatusBadRequest, "unauthorized_client", 7000112)
}

func TestToken_GuessingIsSlowedDown(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	wrong := f.credentials(armScope)
	wrong.Set("client_secret", "guess")
	for range freeGuesses {
		w, body := f.token(wrong)
		wantError(t, w, body, http.StatusUnauthorized, "invalid_client", 7000215)
	}
	w, body := f.token(f.credentials(armScope))
	wantError(t, w, body, http.StatusTooManyRequests, "invalid_grant", 50053)
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	f.clock.advance(time.Second)
	f.programToken(armScope)
	if w, body = f.token(wrong); body["error"] != "invalid_client" {
		t.Errorf("a success did not forgive earlier failures: %s", w.Body)
	}
}

func TestToken_GuessingPasswordsIsSlowedDown(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	form := url.Values{"grant_type": {"password"}, "client_id": {azClient}, "username": {"ada@example.com"}, "password": {"guess"}, "scope": {armScope}}
	for range freeGuesses {
		w, body := f.token(form)
		wantError(t, w, body, http.StatusBadRequest, "invalid_grant", 50126)
		form.Set("username", "ADA@example.com") // another spelling is no new start
	}
	form.Set("password", personPassword)
	w, body := f.token(form)
	wantError(t, w, body, http.StatusTooManyRequests, "invalid_grant", 50053)
	remembered := f.guesses.names.Len()
	for name, more := range map[string]int{"nobody@example.com": 1, strings.Repeat("x", 1000): 0} {
		form.Set("username", name)
		w, body = f.token(form)
		wantError(t, w, body, http.StatusBadRequest, "invalid_grant", 50126)
		if remembered += more; f.guesses.names.Len() != remembered {
			t.Errorf("after a guess for a name of %d bytes %d names are remembered, want %d", len(name), f.guesses.names.Len(), remembered)
		}
	}
	form.Set("username", "ada@example.com")
	f.clock.advance(time.Second)
	f.passwordGrant(nil)

	f.disable(f.person.ObjectID)
	w, body = f.token(form)
	wantError(t, w, body, http.StatusBadRequest, "invalid_grant", 50057)
}

func (f *fixture) passwordGrant(change func(url.Values)) map[string]any {
	f.t.Helper()
	form := url.Values{
		"grant_type": {"password"}, "client_id": {azClient}, "username": {"Ada@example.com"}, "password": {personPassword},
		"scope": {"https://management.azure.com/.default offline_access openid profile"}, "client_info": {"1"},
	}
	if change != nil {
		change(form)
	}
	w, body := f.token(form)
	if w.Code != http.StatusOK {
		f.t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return body
}

func TestToken_PersonGetsWhatMSALCaches(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	body := f.passwordGrant(nil)
	access, id := claimsOf(t, body["access_token"]), claimsOf(t, body["id_token"])
	if access["scp"] != "user_impersonation" || access["idtyp"] != "user" || access["upn"] != "ada@example.com" || access["oid"] != f.person.ObjectID || access["appid"] != azClient {
		t.Errorf("access token: %v", access)
	}
	if id["aud"] != azClient || id["preferred_username"] != "ada@example.com" || id["iss"] != "https://login.microsoftonline.com/"+testTenant+"/v2.0" || id["tid"] != testTenant {
		t.Errorf("ID token: %v", id)
	}
	scopes := strings.Fields(body["scope"].(string))
	for _, scope := range []string{"https://management.azure.com/.default", "https://management.azure.com/user_impersonation", "openid", "profile"} {
		if !slices.Contains(scopes, scope) {
			t.Errorf("scope %q lacks %s", scopes, scope)
		}
	}
	raw, _ := base64.RawURLEncoding.DecodeString(body["client_info"].(string))
	if want := `{"uid":"` + f.person.ObjectID + `","utid":"` + testTenant + `"}`; string(raw) != want {
		t.Errorf("client_info is %s, want %s", raw, want)
	}
	if _, err := f.authenticate(body["id_token"].(string)); err == nil {
		t.Error("an ID token was taken for an access token")
	}
}

func TestToken_RefreshTokenRotatesAndReuseEndsTheSignIn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	refresh := func(token, client string) (int, map[string]any) {
		w, body := f.token(url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {token}, "scope": {"https://graph.microsoft.com/.default offline_access"}})
		return w.Code, body
	}
	first := f.passwordGrant(nil)["refresh_token"].(string)
	if code, _ := refresh(first, PortalClientID); code != http.StatusBadRequest {
		t.Errorf("another client's refresh token: %d", code)
	}
	code, body := refresh(first, azClient)
	if code != http.StatusOK || body["refresh_token"] == first || claimsOf(t, body["access_token"])["aud"] != "https://graph.microsoft.com" {
		t.Fatalf("refresh: %d %v", code, body)
	}
	second := body["refresh_token"].(string)
	f.clock.advance(refreshGrace)
	if code, body = refresh(first, azClient); code != http.StatusOK {
		t.Errorf("a parallel process's refresh within the grace period: %d %v", code, body)
	}
	f.clock.advance(time.Second)
	if code, body = refresh(first, azClient); code != http.StatusBadRequest || body["error_codes"].([]any)[0] != 50173.0 {
		t.Errorf("reuse: %d %v", code, body)
	}
	if code, body = refresh(second, azClient); code != http.StatusBadRequest {
		t.Errorf("the family outlived a reuse: %d %v", code, body)
	}
}

func TestToken_RefreshEndsWithTheUser(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := f.passwordGrant(nil)["refresh_token"].(string)
	f.disable(f.person.ObjectID)
	w, body := f.token(url.Values{"grant_type": {"refresh_token"}, "client_id": {azClient}, "refresh_token": {token}})
	wantError(t, w, body, http.StatusBadRequest, "invalid_grant", 50057)
}

func TestToken_ExpiredGrantsAreRemoved(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.passwordGrant(nil)
	f.clock.advance(refreshLifetime + time.Second)
	f.passwordGrant(nil)
	if count := len(f.store.All()[bucketRefresh]); count != 1 {
		t.Errorf("%d refresh tokens are stored, want only the live one", count)
	}
}

func TestNothingSecretIsLoggedOrStored(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	wrong := f.credentials(armScope)
	wrong.Set("client_secret", "wrong-secret-value")
	f.token(wrong)
	f.programToken(armScope)
	body := f.passwordGrant(nil)
	secrets := []string{"wrong-secret-value", f.program.Secret, personPassword, body["access_token"].(string), body["refresh_token"].(string)}
	for _, secret := range secrets {
		if strings.Contains(f.log.String(), secret) {
			t.Errorf("the log holds a secret: %s", f.log)
		}
		for bucket, values := range f.store.All() {
			for key, value := range values {
				if strings.Contains(string(value), secret) || strings.Contains(key, secret) {
					t.Errorf("the store holds a secret in %s", bucket)
				}
			}
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add("application/x-www-form-urlencoded", "grant_type=client_credentials&client_id=x&client_secret=y&scope=https://management.azure.com/.default")
	f.Add("application/x-www-form-urlencoded; charset=utf-8", "grant_type=refresh_token&client_id="+azClient+"&refresh_token=%00")
	f.Add("text/plain", "%zz")
	fix := newFixture(f)
	f.Fuzz(func(t *testing.T, kind, body string) {
		fix := *fix
		fix.t = t
		w := post(&fix, "/common/oauth2/v2.0/token", kind, body)
		if w.Code >= 500 || w.Code < 400 {
			t.Errorf("%q answered %d %s", body, w.Code, w.Body)
		}
	})
}
