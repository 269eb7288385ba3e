package graph

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/identity"
	"github.com/berthdev/berth/internal/identity/identitytest"
)

const azClient = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"

type fixture struct {
	t       *testing.T
	login   *identity.Service
	handler http.Handler
	program identity.Credentials
	person  identity.Principal
}

func newFixture(t *testing.T) *fixture {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	login, err := identity.New(identity.Config{Store: new(identitytest.Values), Tenant: "5f0c1e1e-8a0b-4a3c-9d57-0f5f3b9c2a11", BaseURLs: []string{"https://localhost"}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, login: login}
	f.handler = Handler(login, Permission{Scope: "/subscriptions/s", Allowed: func(_ context.Context, objectID string) (bool, error) {
		return objectID == f.program.ObjectID, nil
	}}, log)
	if f.program, err = login.CreateServicePrincipal(t.Context(), "ci's own"); err != nil {
		t.Fatal(err)
	}
	if f.person, err = login.CreateUser(t.Context(), "ada@example.com", "correct horse battery"); err != nil {
		t.Fatal(err)
	}
	return f
}

// application is the ID of the program's application.
func (f *fixture) application() string { return applicationID(f.program.ObjectID) }

func (f *fixture) signIn(form url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "https://login.microsoftonline.com/common/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	f.login.Handler().ServeHTTP(w, r)
	return w
}

func (f *fixture) token(form url.Values) string {
	f.t.Helper()
	w := f.signIn(form)
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Token == "" {
		f.t.Fatalf("no token: %v %s", err, w.Body)
	}
	return body.Token
}

func (f *fixture) programToken(resource string) string {
	return f.token(url.Values{"grant_type": {"client_credentials"}, "client_id": {f.program.AppID}, "client_secret": {f.program.Secret}, "scope": {resource + "/.default"}})
}

func (f *fixture) do(method, path, token, body string) (int, string) {
	r := httptest.NewRequest(method, "https://graph.microsoft.com"+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestHandler(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := f.programToken("https://graph.microsoft.com")
	const nobody = "6f0c1e1e-8a0b-4a3c-9d57-0f5f3b9c2a11"
	for _, c := range []struct {
		path   string
		status int
		ids    string // those found, separated by spaces
	}{
		{"/servicePrincipals", 200, f.program.ObjectID},
		{"/servicePrincipals?$filter=servicePrincipalNames/any(c:c eq '" + f.program.AppID + "')", 200, f.program.ObjectID},
		{"/servicePrincipals?$filter=appId eq '" + strings.ToUpper(f.program.AppID) + "'", 200, f.program.ObjectID},
		{"/servicePrincipals?$filter=displayName eq 'ci''s own' and startswith(displayName,'CI')", 200, f.program.ObjectID},
		{"/servicePrincipals?$filter=displayName eq 'ci' and id eq '" + f.program.ObjectID + "'", 200, ""},
		{"/servicePrincipals?$filter=appId eq '" + nobody + "'", 200, ""},
		{"/servicePrincipals?$filter=appId ne 'x'", 400, ""},
		{"/servicePrincipals?$filter=appId eq 'x' or appId eq 'y'", 400, ""},
		{"/servicePrincipals?$filter=appId eq 'x", 400, ""},
		{"/servicePrincipals?$filter=appId eq 'x' appId eq 'y'", 400, ""},
		{"/servicePrincipals?$filter=secret eq 'x'", 400, ""},
		{"/servicePrincipals/" + f.program.ObjectID, 200, f.program.ObjectID},
		{"/servicePrincipals/" + f.person.ObjectID, 404, ""},
		{"/users", 200, f.person.ObjectID},
		{"/users?$filter=userPrincipalName eq 'Ada@example.com'", 200, f.person.ObjectID},
		{"/users/ada@example.com", 200, f.person.ObjectID},
		{"/users/" + nobody, 404, ""},
		{"/directoryObjects/" + f.person.ObjectID, 200, f.person.ObjectID},
		{"/groups", 200, ""},
		{"/applications", 200, f.application()},
		{"/applications?$filter=appId eq '" + f.program.AppID + "'", 200, f.application()},
		{"/applications?$filter=identifierUris/any(s:s eq 'ci')", 200, ""},
		{"/applications/" + f.application(), 200, f.application()},
		{"/applications/" + f.program.ObjectID, 404, ""},
		{"/applications/" + f.program.AppID, 404, ""},
		{"/applications(appId='" + f.program.AppID + "')", 200, f.application()},
		{"/applications(appId='" + f.program.AppID + "')/owners", 200, ""},
		{"/servicePrincipals(appId='" + f.program.AppID + "')", 200, f.program.ObjectID},
		{"/servicePrincipals(appId='" + f.program.ObjectID + "')", 404, ""},
		{"/servicePrincipals/" + f.program.ObjectID + "/owners", 200, ""},
		{"/servicePrincipals/" + nobody + "/owners", 404, ""},
		{"/users('" + f.person.ObjectID + "')", 200, f.person.ObjectID},
		{"/users(userPrincipalName='Ada@example.com')", 200, f.person.ObjectID},
		{"/directoryObjects/" + f.application(), 404, ""},
		{"/policies", 400, ""},
		{"/me", 400, ""}, // a program is signed in
	} {
		status, body := f.do("GET", "/v1.0"+strings.ReplaceAll(c.path, " ", "%20"), token, "")
		if status != c.status {
			t.Errorf("%s: %d %s", c.path, status, body)
		}
		if got := ids(t, body); got != c.ids {
			t.Errorf("%s found %q, want %q", c.path, got, c.ids)
		}
	}
	status, body := f.do("POST", "/v1.0/directoryObjects/getByIds", token, `{"ids": ["`+f.program.ObjectID+`", "`+nobody+`"], "types": ["user"]}`)
	if status != 200 || ids(t, body) != f.program.ObjectID || !strings.Contains(body, servicePrincipals.odata) {
		t.Errorf("getByIds: %d %s", status, body)
	}
	if status, body = f.do("POST", "/v1.0/directoryObjects/getByIds", token, `[`); status != 400 {
		t.Errorf("malformed getByIds: %d %s", status, body)
	}
	person := f.token(url.Values{"grant_type": {"password"}, "client_id": {azClient}, "username": {"ada@example.com"}, "password": {"correct horse battery"}, "scope": {"User.Read openid"}})
	if status, body = f.do("GET", "/v1.0/me", person, ""); status != 200 || ids(t, body) != f.person.ObjectID {
		t.Errorf("/me: %d %s", status, body)
	}
	for _, token := range []string{"", f.programToken("https://management.azure.com")} {
		if status, body = f.do("GET", "/v1.0/users", token, ""); status != http.StatusUnauthorized {
			t.Errorf("with another token: %d %s", status, body)
		}
	}
}

// ids lists the IDs of the objects in an answer.
func ids(t *testing.T, body string) string {
	t.Helper()
	var answer struct {
		ID    string
		Value []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	found := []string{}
	if answer.ID != "" {
		found = append(found, answer.ID)
	}
	for _, o := range answer.Value {
		found = append(found, o.ID)
	}
	return strings.Join(found, " ")
}

func FuzzParseFilter(f *testing.F) {
	f.Add("servicePrincipalNames/any(c:c eq 'x')")
	f.Add("displayName eq 'it''s' and startswith(id,'')")
	f.Fuzz(func(t *testing.T, filter string) {
		if match, err := parseFilter(filter); err == nil {
			match(&object{ServicePrincipalNames: []string{"x"}})
		}
	})
}
