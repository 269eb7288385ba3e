package graph

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// send makes a request as the fixture's program, which may change the directory.
func (f *fixture) send(method, path, body string) (int, map[string]any) {
	f.t.Helper()
	status, text := f.do(method, "/v1.0"+path, f.programToken("https://graph.microsoft.com"), body)
	var answer map[string]any
	if err := json.Unmarshal([]byte(text), &answer); err != nil && text != "" {
		f.t.Fatalf("%s %s: %v in %q", method, path, err, text)
	}
	return status, answer
}

// must is send that has to succeed.
func (f *fixture) must(status int, method, path, body string) map[string]any {
	f.t.Helper()
	got, answer := f.send(method, path, body)
	if got != status {
		f.t.Fatalf("%s %s: %d %v, want %d", method, path, got, answer, status)
	}
	return answer
}

func TestApplication_HasAServicePrincipalOfItsOwn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	app := f.must(201, "POST", "/applications", `{"displayName": "tool", "signInAudience": "AzureADMyOrg", "keyCredentials": [], "web": {"redirectUris": [], "homePageUrl": null}}`)
	appID, id := app["appId"].(string), app["id"].(string)
	if len(app["passwordCredentials"].([]any)) != 0 || len(app["keyCredentials"].([]any)) != 0 || app["@odata.type"] != applications.odata {
		t.Errorf("created: %v", app)
	}
	sp := f.must(201, "POST", "/servicePrincipals", `{"appId": "`+appID+`", "accountEnabled": true}`)
	again := f.must(201, "POST", "/servicePrincipals", `{"appId": "`+appID+`"}`)
	if sp["id"] != again["id"] || sp["id"] == id || sp["appId"] != appID || sp["displayName"] != "tool" || id != applicationID(sp["id"].(string)) {
		t.Errorf("application %v, service principal %v, then %v", app, sp, again)
	}

	f.must(204, "PATCH", "/applications/"+id, "")
	f.must(204, "PATCH", "/applications(appId='"+appID+"')", `{"displayName": "tool 2"}`)
	f.must(204, "PATCH", "/servicePrincipals/"+sp["id"].(string), `{"accountEnabled": false}`)
	sp = f.must(200, "GET", "/servicePrincipals(appId='"+appID+"')", "")
	if sp["displayName"] != "tool 2" || sp["accountEnabled"] != false {
		t.Errorf("changed: %v", sp)
	}
	if sp = f.must(201, "POST", "/servicePrincipals", `{"appId": "`+appID+`", "accountEnabled": true}`); sp["accountEnabled"] != true {
		t.Errorf("enabled: %v", sp)
	}

	f.must(204, "DELETE", "/applications/"+id, "")
	for _, path := range []string{"/applications/" + id, "/servicePrincipals/" + sp["id"].(string)} {
		f.must(404, "GET", path, "")
		f.must(404, "DELETE", path, "")
	}
	if status, answer := f.send("POST", "/servicePrincipals", `{"appId": "`+appID+`"}`); status != 400 || strings.Contains(messageOf(answer), " does not reference ") || strings.Contains(messageOf(answer), " does not exist ") {
		t.Errorf("a service principal of no application: %d %v; az must not take it for a delay", status, answer)
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	app := f.must(201, "POST", "/applications", `{"displayName": "tool"}`)
	byApp := "/applications/" + app["id"].(string)
	bySP := "/servicePrincipals(appId='" + app["appId"].(string) + "')"
	signIn := func(secret any) int {
		r := url.Values{"grant_type": {"client_credentials"}, "client_id": {app["appId"].(string)}, "client_secret": {secret.(string)}, "scope": {"https://graph.microsoft.com/.default"}}
		return f.signIn(r).Code
	}

	one := f.must(200, "POST", byApp+"/addPassword", `{"passwordCredential": {"displayName": "one", "startDateTime": "2020-01-01T00:00:00Z", "endDateTime": "2099-01-01T00:00:00Z"}}`)
	two := f.must(200, "POST", bySP+"/addPassword", "")
	if one["displayName"] != "one" || one["endDateTime"] != "2099-01-01T00:00:00Z" || two["endDateTime"] == nil || two["displayName"] != nil {
		t.Errorf("made: %v, %v", one, two)
	}
	if signIn(one["secretText"]) != 200 || signIn(two["secretText"]) != 200 {
		t.Error("one of two secrets does not work")
	}
	for _, path := range []string{byApp, bySP, "/applications", "/servicePrincipals"} {
		answer, err := json.Marshal(f.must(200, "GET", path, ""))
		if err != nil {
			t.Fatal(err)
		}
		text := string(answer)
		if strings.Contains(text, one["secretText"].(string)) || strings.Contains(text, two["secretText"].(string)) || strings.Contains(text, "hash") {
			t.Errorf("%s tells a secret: %s", path, text)
		}
		if !strings.Contains(text, one["keyId"].(string)) || !strings.Contains(text, two["keyId"].(string)) || !strings.Contains(text, `"hint":"`+one["secretText"].(string)[:3]) {
			t.Errorf("%s does not list the secrets: %s", path, text)
		}
	}
	f.must(204, "POST", bySP+"/removePassword", `{"keyId": "`+one["keyId"].(string)+`"}`)
	if signIn(one["secretText"]) != 401 || signIn(two["secretText"]) != 200 {
		t.Error("not the secret that was named was removed")
	}
	f.must(400, "POST", byApp+"/removePassword", `{"keyId": "`+one["keyId"].(string)+`"}`)
	f.must(400, "POST", byApp+"/removePassword", `{}`)
	f.must(400, "POST", byApp+"/addPassword", `{"passwordCredential": {"endDateTime": "2001-01-01T00:00:00Z"}}`)
	f.must(400, "POST", byApp+"/addPassword", `{"passwordCredential": {"endDateTime": "tomorrow"}}`)
	f.must(404, "POST", "/applications/"+f.person.ObjectID+"/addPassword", "")
	f.must(400, "POST", "/users/"+f.person.ObjectID+"/addPassword", "") // users have none
}

func TestUsers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const body = `{"accountEnabled": true, "displayName": "Grace", "mailNickname": "grace", "userPrincipalName": "grace@example.com",
		"passwordProfile": {"password": "correct horse", "forceChangePasswordNextSignIn": false}}`
	made := f.must(201, "POST", "/users", body)
	if made["displayName"] != "Grace" || made["userPrincipalName"] != "grace@example.com" || made["accountEnabled"] != true || made["passwordCredentials"] != nil {
		t.Errorf("created: %v", made)
	}
	if status, answer := f.send("POST", "/users", body); status != 400 || !strings.Contains(messageOf(answer), "already") {
		t.Errorf("created twice: %d %v", status, answer)
	}
	signsIn := func(password string) bool {
		return f.signIn(url.Values{"grant_type": {"password"}, "client_id": {azClient}, "username": {"grace@example.com"}, "password": {password}, "scope": {"User.Read"}}).Code == http.StatusOK
	}
	f.must(204, "PATCH", "/users/grace@example.com", `{"displayName": "Grace H.", "passwordProfile": {"password": "battery staple"}}`)
	if signsIn("correct horse") || !signsIn("battery staple") {
		t.Error("the password was not changed")
	}
	f.must(204, "PATCH", "/users/"+made["id"].(string), `{"accountEnabled": false}`)
	if signsIn("battery staple") {
		t.Error("a disabled user signs in")
	}
	if got := f.must(200, "GET", "/users('grace@example.com')", ""); got["displayName"] != "Grace H." || got["accountEnabled"] != false {
		t.Errorf("changed: %v", got)
	}
	f.must(204, "DELETE", "/users/grace@example.com", "")
	if again := f.must(201, "POST", "/users", strings.Replace(body, "true", "false", 1)); again["id"] == made["id"] || again["accountEnabled"] != false {
		t.Errorf("the name's next holder: %v, the last: %v", again, made)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	self, app := "/servicePrincipals/"+f.program.ObjectID, "/applications/"+f.application()
	for _, c := range []struct {
		method, path, body string
		says               string
	}{
		{"POST", "/applications", ``, "displayName"},
		{"POST", "/applications", `[]`, "not a JSON object"},
		{"POST", "/applications", `{"displayName": 7}`, "displayName"},
		{"POST", "/applications", `{"displayName": ""}`, "1 to 256 characters"},
		{"POST", "/applications", `{"displayName": "x", "keyCredentials": [{"key": "AAAA"}]}`, "'keyCredentials'"},
		{"POST", "/applications", `{"displayName": "x", "passwordCredentials": [{"displayName": "y"}]}`, "'passwordCredentials'"},
		{"POST", "/applications", `{"displayName": "x", "requiredResourceAccess": [{}]}`, "'requiredResourceAccess'"},
		{"POST", "/applications", `{"displayName": "x", "web": {"implicitGrantSettings": {"enableIdTokenIssuance": true}}}`, "'web/implicitGrantSettings/enableIdTokenIssuance'"},
		{"POST", "/applications", `{"displayName": "x", "publicClient": {"redirectUris": ["https://localhost"]}}`, "'publicClient/redirectUris'"},
		{"POST", "/applications", `{"displayName": "x", "signInAudience": "AzureADMultipleOrgs"}`, "signInAudience"},
		{"PATCH", app, `{"appRoles": [{"id": "x"}]}`, "'appRoles'"},
		{"PATCH", app, `{"api": {"requestedAccessTokenVersion": 2}}`, "'api/requestedAccessTokenVersion'"},
		{"POST", "/servicePrincipals", `{}`, "appId"},
		{"POST", "/servicePrincipals", `{"appId": "` + f.program.AppID + `", "accountEnabled": false}`, "cannot disable yourself"},
		{"PATCH", self, `{"accountEnabled": false}`, "cannot disable yourself"},
		{"DELETE", self, ``, "cannot delete yourself"},
		{"DELETE", app, ``, "cannot delete yourself"},
		{"POST", "/users", `{"userPrincipalName": "x@y", "passwordProfile": {"password": "correct horse"}}`, "displayName"},
		{"POST", "/users", `{"displayName": "x", "userPrincipalName": "x", "passwordProfile": {"password": "correct horse"}}`, "name@domain"},
		{"POST", "/users", `{"displayName": "x", "userPrincipalName": "x y@z", "passwordProfile": {"password": "correct horse"}}`, "user name"},
		{"POST", "/users", `{"displayName": "x", "userPrincipalName": "x@y"}`, "passwordProfile/password"},
		{"POST", "/users", `{"displayName": "x", "userPrincipalName": "x@y", "passwordProfile": {"password": "short"}}`, "8 to 72 bytes"},
		{"POST", "/users", `{"displayName": "x", "userPrincipalName": "x@y", "passwordProfile": {"password": "correct horse", "forceChangePasswordNextSignIn": true}}`, "forceChange"},
		{"POST", "/users", `{"displayName": "x", "userPrincipalName": "x@y", "passwordProfile": {"password": "correct horse", "forceChangePasswordNextSignInWithMfa": true}}`, "'passwordProfile/forceChangePasswordNextSignInWithMfa'"},
		{"PATCH", "/users/ada@example.com", `{"userPrincipalName": "eve@example.com"}`, "cannot be changed"},
		{"POST", "/groups", `{"displayName": "x"}`, "has no POST"},
	} {
		status, answer := f.send(c.method, c.path, c.body)
		code, _, _ := strings.Cut(messageOf(answer), ": ")
		if status != http.StatusBadRequest || !strings.HasSuffix(code, "BadRequest") || !strings.Contains(messageOf(answer), c.says) {
			t.Errorf("%s %s %s: %d %v, want %q", c.method, c.path, c.body, status, answer, c.says)
		}
	}
	if status, _ := f.send("POST", "/applications", `{"displayName": "`+strings.Repeat("x", maxBody)+`"}`); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body that is too large: %d", status)
	}
	if accounts, err := f.login.Accounts(t.Context()); err != nil || len(accounts) != 2 || !accounts[0].Enabled || !accounts[1].Enabled {
		t.Errorf("a refused request changed the directory: %v, %v", accounts, err)
	}
}

// messageOf is an answer's error: its code, a colon, its message.
func messageOf(answer map[string]any) string {
	e, _ := answer["error"].(map[string]any)
	return fmt.Sprint(e["code"], ": ", e["message"])
}

func TestPermission(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	person := f.token(url.Values{"grant_type": {"password"}, "client_id": {azClient}, "username": {"ada@example.com"}, "password": {"correct horse battery"}, "scope": {"https://graph.microsoft.com/.default"}})
	sp, app := "/servicePrincipals/"+f.program.ObjectID, "/applications/"+f.application()
	before, err := f.login.Accounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{
		"POST /applications", "PATCH " + app, "DELETE " + app, "POST " + app + "/addPassword", "POST " + app + "/removePassword",
		"POST /servicePrincipals", "PATCH " + sp, "DELETE " + sp, "POST " + sp + "/addPassword", "POST " + sp + "/removePassword",
		"POST /users", "PATCH /users/ada@example.com", "DELETE /users/ada@example.com",
		"DELETE /servicePrincipals(appId='" + f.program.AppID + "')",
	} {
		method, path, _ := strings.Cut(request, " ")
		for _, version := range []string{"/v1.0", "/beta"} {
			status, body := f.do(method, version+path, person, `{}`)
			if status != http.StatusForbidden || !strings.Contains(body, `"Authorization_RequestDenied"`) || !strings.Contains(body, "az role assignment create --role Owner --scope /subscriptions/s --assignee "+f.person.ObjectID) {
				t.Errorf("%s: %d %s", request, status, body)
			}
		}
	}
	if status, body := f.do("GET", "/v1.0/users", person, ""); status != http.StatusOK {
		t.Errorf("reading: %d %s", status, body)
	}
	after, err := f.login.Accounts(t.Context())
	if err != nil || len(after) != len(before) || len(after[0].Secrets)+len(after[1].Secrets) != 1 {
		t.Errorf("who may not, changed the directory: %v, then %v, %v", before, after, err)
	}
}
