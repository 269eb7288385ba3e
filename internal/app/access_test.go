package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// as is the same server for another caller.
func (s *server) as(token string) *server {
	other := *s
	other.token = token
	return &other
}

// tokenFor signs a service principal in.
func (s *server) tokenFor(client, secret, scope string) string {
	s.t.Helper()
	res, err := s.http.PostForm(s.info.URL+"/"+s.info.TenantID+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {secret}, "scope": {scope},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	var tok struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&tok); err != nil || tok.AccessToken == "" {
		s.t.Fatalf("no token: %s %v", res.Status, err)
	}
	return tok.AccessToken
}

// newPrincipal makes a service principal as clients of Microsoft Graph do.
func (s *server) newPrincipal(name string) (caller *server, objectID string) {
	s.t.Helper()
	c, err := s.home.ReadCredentials()
	if err != nil {
		s.t.Fatal(err)
	}
	graph := s.as(s.tokenFor(c.ClientID, c.ClientSecret, "https://graph.microsoft.com/.default"))
	application := graph.want(201, "POST", "/graph/v1.0/applications", fmt.Sprintf(`{"displayName":%q}`, name))
	appID := application.at("appId").(string)
	objectID = graph.want(201, "POST", "/graph/v1.0/servicePrincipals", fmt.Sprintf(`{"appId":%q}`, appID)).at("id").(string)
	secret := graph.want(200, "POST", "/graph/v1.0/applications/"+application.at("id").(string)+"/addPassword", `{"passwordCredential":{"displayName":"test"}}`).at("secretText").(string)
	return s.as(s.tokenFor(appID, secret, "https://management.azure.com/.default")), objectID
}

var assignments int

// grant assigns a role and returns what revokes it.
func (s *server) grant(role, scope, objectID string) func() {
	s.t.Helper()
	roles := map[string]string{"Owner": "8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "Contributor": "b24988ac-6180-42a0-ab88-20f7382dd24c", "Reader": "acdd72a7-3385-48ef-bd42-f606fba81ae7"}
	assignments++
	path := fmt.Sprintf("%s/providers/Microsoft.Authorization/roleAssignments/00000000-0000-0000-0000-%012d?api-version=2022-04-01", scope, assignments)
	s.want(201, "PUT", path, fmt.Sprintf(`{"properties":{"roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/%s","principalId":%q}}`, roles[role], objectID))
	return func() { s.want(200, "DELETE", path, "") }
}

// Each role allows what it says, at its scope and below, from its grant to its revocation.
func TestRoles(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ws := s.workspace()
	s.want(201, "PUT", s.sub()+"/resourceGroups/other"+v, `{"location":"westeurope"}`)
	op := s.want(201, "PUT", s.expand("{mc}/c?api-version=2025-10-01"), `{"location":"westeurope","properties":{"agentPoolProfiles":[{"name":"nodepool1","count":3,"vmSize":"Standard_D4s_v3","mode":"System"}]}}`)
	if op := s.settle(op); op.at("status") != "Succeeded" {
		t.Fatal(op.raw)
	}
	s.want(200, "PUT", s.expand("{ml}/second"+v), `{"location":"westeurope"}`)
	s.deploy("iris")
	caller, oid := s.newPrincipal("member")
	type request struct{ method, path, body string }
	requests := map[string]request{
		"read the group":               {"GET", s.expand("{rg}" + v), ""},
		"read the workspace":           {"GET", ws + v, ""},
		"write the workspace":          {"PATCH", ws + v, `{"tags":{"a":"b"}}`},
		"read the cluster":             {"GET", s.expand("{mc}/c?api-version=2025-10-01"), ""},
		"get the cluster's kubeconfig": {"POST", s.expand("{mc}/c/listClusterAdminCredential?api-version=2025-10-01"), ""},
		"attach the cluster":           {"PUT", ws + "/computes/att?api-version=2020-02-02", fmt.Sprintf(`{"location":"westeurope","properties":{"computeType":"AKS","resourceId":%q}}`, s.expand("{mc}/c"))},
		"delete the group's resources": {"DELETE", s.expand("{ml}/absent" + v), ""},
		"grant a role":                 {"PUT", s.expand("{rg}/providers/Microsoft.Authorization/roleAssignments/00000000-0000-0000-0001-000000000000?api-version=2022-04-01"), `{"properties":{"roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7","principalId":"` + oid + `"}}`},
		"read the other group":         {"GET", s.sub() + "/resourceGroups/other" + v, ""},
		"write another group":          {"PUT", s.sub() + "/resourceGroups/third" + v, `{"location":"westeurope"}`},

		"list the models":              {"GET", s.expand("{mms}/models"), ""},
		"search the models":            {"POST", s.expand("{mms}/models/list"), `{}`},
		"read a model":                 {"GET", s.expand("{mms}/models/iris:1"), ""},
		"read a file":                  {"GET", s.expand("{artifacts}/contentinfo/LocalUpload/1/model.pkl"), ""},
		"list the web services":        {"GET", s.expand("{mms}/services"), ""},
		"read a web service":           {"GET", s.expand("{mms}/services/iris"), ""},
		"read a web service's logs":    {"GET", s.expand("{mms}/services/iris/logs"), ""},
		"list the environments":        {"GET", s.expand("/environment/v1.0{ml}/ws/environments"), ""},
		"list the second's models":     {"GET", s.expand("/modelmanagement/v1.0{ml}/second/models"), ""},
		"get the URL of an upload":     {"POST", s.expand("{artifacts}/batch/metadata/LocalUpload/2"), `{"paths":[{"path":"x"}]}`},
		"get the URL of another":       {"GET", s.expand("{artifacts}/write/LocalUpload/2/x"), ""},
		"create an asset":              {"POST", s.expand("{mms}/assets"), `{"name":"x","artifacts":[{"prefix":"LocalUpload/1/model.pkl"}]}`},
		"change a model":               {"PATCH", s.expand("{mms}/models/iris:1"), `[{"op":"add","path":"/kvTags/a","value":"b"}]`},
		"delete a model":               {"DELETE", s.expand("{mms}/models/absent:1"), ""},
		"delete a file":                {"DELETE", s.expand("{artifacts}/metadata/LocalUpload/1/absent"), ""},
		"deploy":                       {"POST", s.expand("{mms}/services"), deployment("iris")},
		"deploy over it":               {"PUT", s.expand("{mms}/services"), `{"name":"-"}`},
		"change a web service":         {"PATCH", s.expand("{mms}/services/iris"), `[{"op":"add","path":"/numReplicas","value":0}]`},
		"get a web service's keys":     {"POST", s.expand("{mms}/services/iris/listkeys"), ""},
		"get a web service's token":    {"POST", s.expand("{mms}/services/iris/token"), ""},
		"search the web services":      {"POST", s.expand("{mms}/services/list"), `{}`},
		"make an image":                {"POST", s.expand("{mms}/images"), `{}`},
		"make a web service new keys":  {"POST", s.expand("{mms}/services/iris/regenerateKeys"), `{"keyType":"none"}`},
		"delete a web service":         {"DELETE", s.expand("{mms}/services/absent"), ""},
		"write the second's models":    {"POST", s.expand("/modelmanagement/v1.0{ml}/second/assets"), `{"name":"x","artifacts":[{"prefix":"LocalUpload/1/x"}]}`},
		"read a workspace that is not": {"GET", s.expand("/modelmanagement/v1.0{ml}/absent/models"), ""},
	}
	readingML := []string{"read the workspace", "list the models", "search the models", "read a model", "read a file", "list the web services", "read a web service", "read a web service's logs", "get a web service's token", "search the web services", "list the environments"}
	reading := append([]string{"read the group", "read the cluster", "list the second's models", "read a workspace that is not"}, readingML...)
	writing := append([]string{
		"write the workspace", "get the cluster's kubeconfig", "attach the cluster", "delete the group's resources", "get the URL of an upload", "get the URL of another", "create an asset", "change a model",
		"delete a model", "delete a file", "deploy", "deploy over it", "change a web service", "get a web service's keys", "make an image", "make a web service new keys", "delete a web service", "write the second's models",
	}, reading...)
	for _, tt := range []struct {
		role, scope string
		allowed     []string
	}{
		{"", "", nil},
		{"Reader", s.expand("{rg}"), reading},
		{"Contributor", s.expand("{rg}"), writing},
		{"Owner", s.expand("{rg}"), append([]string{"grant a role"}, writing...)},
		{"Reader", s.sub(), append([]string{"read the other group"}, reading...)},
		{"Reader", ws, readingML},
	} {
		t.Run(tt.role+" at "+tt.scope, func(t *testing.T) {
			revoke := func() {}
			if tt.role != "" {
				revoke = s.grant(tt.role, tt.scope, oid)
			}
			for name, r := range requests {
				got := caller.do(r.method, r.path, r.body)
				may := strings.Contains("|"+strings.Join(tt.allowed, "|")+"|", "|"+name+"|")
				if may == (got.status == 403) || got.status >= 500 {
					t.Errorf("%s: %d %s", name, got.status, got.raw)
				}
				if !may && (got.at("error.code") != "AuthorizationFailed" || !strings.Contains(got.raw, "az role assignment create")) {
					t.Errorf("%s: the refusal does not say what to do: %s", name, got.raw)
				}
				if name == "attach the cluster" && got.status == 201 {
					s.settle(got)
					s.settle(s.want(202, "DELETE", ws+"/computes/att?api-version=2020-02-02&underlyingResourceAction=Detach", ""))
				}
				if name == "grant a role" && got.status == 201 {
					s.want(200, "DELETE", r.path, "")
				}
			}
			// The subscription shows itself to whoever has a role on anything in it.
			list := caller.want(200, "GET", "/subscriptions?api-version=2022-12-01", "")
			if n := len(list.body["value"].([]any)); (n == 1) != (tt.role != "") {
				t.Errorf("%d subscriptions are listed", n)
			}
			// Lists have what may be seen.
			groups := caller.do("GET", s.sub()+"/resourceGroups"+v, "")
			want := map[string]int{s.sub(): 2, s.expand("{rg}"): 1}[tt.scope]
			if n := strings.Count(groups.raw, `"Microsoft.Resources/resourceGroups"`); n != want {
				t.Errorf("%d groups are listed, want %d", n, want)
			}
			revoke()
			if got := caller.do("GET", ws+v, ""); got.status != 403 {
				t.Errorf("after the revocation: %d", got.status)
			}
		})
	}
}

// Whoever makes a workspace gives it only what he may change himself: all that may use the workspace reach its storage
// account's files.
func TestRoles_LinkedResources(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.want(201, "PUT", s.expand("{rg}"+v), `{"location":"westeurope"}`)
	other := s.sub() + "/resourceGroups/other"
	s.want(201, "PUT", other+v, `{"location":"westeurope"}`)
	account := other + "/providers/Microsoft.Storage/storageAccounts/theirs"
	s.want(200, "PUT", account+"?api-version=2023-05-01", `{"location":"westeurope","kind":"StorageV2","sku":{"name":"Standard_LRS"}}`)
	member, oid := s.newPrincipal("member")
	defer s.grant("Contributor", s.expand("{rg}"), oid)()
	defer s.grant("Reader", other, oid)()
	workspace := fmt.Sprintf(`{"location":"westeurope","properties":{"storageAccount":%q}}`, account)
	r := member.want(403, "PUT", s.expand("{ml}/ws"+v), workspace)
	if !strings.Contains(r.raw, "storageAccounts/write") || !strings.Contains(r.raw, account) {
		t.Errorf("the refusal does not name the right or the account: %s", r.raw)
	}
	s.want(200, "PUT", s.expand("{ml}/ws"+v), workspace)
	member.want(200, "PUT", s.expand("{ml}/ws"+v), strings.Replace(workspace, "{", `{"tags":{"a":"b"},`, 1))

	// Nor does anybody get the account of a workspace that has none of its own.
	s.want(200, "PUT", s.expand("{ml}/plain"+v), `{"location":"westeurope"}`)
	info := s.want(200, "GET", s.expand("/artifact/v2.0{ml}/plain/artifacts/write/LocalUpload/1/x"), "")
	host, _, _ := strings.Cut(strings.TrimPrefix(info.at("contentUri").(string), "https://"), ".")
	if r := s.do("PUT", s.expand("{rg}/providers/Microsoft.Storage/storageAccounts/"+host)+"?api-version=2023-05-01", `{"location":"westeurope","kind":"StorageV2","sku":{"name":"Standard_LRS"}}`); r.status != 400 || !strings.Contains(r.raw, "Choose another name") {
		t.Errorf("the account %s: %d %s", host, r.status, r.raw)
	}
}

// Without a token nothing is reached but metadata, discovery and sign-in.
func TestNoToken(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ws := s.workspace()
	for _, token := range []string{"", "x", s.token + "x", s.token[:len(s.token)-4], strings.Replace(s.token, ".", "..", 1)} {
		nobody := s.as(token)
		for _, path := range []string{ws, s.sub(), "/subscriptions", "/providers/Microsoft.ContainerService/operations", "/tenants", "/rp/workspaces" + ws, s.expand("{rg}"), "/subscriptions/absent", s.expand("{mms}/models"), s.expand("{mms}/services/iris")} {
			for _, method := range []string{"GET", "PUT", "DELETE", "POST", "PATCH"} {
				r := nobody.do(method, path+v, "")
				if r.status != 401 || !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Bearer ") {
					t.Errorf("%s %s: %d %s", method, path, r.status, r.raw)
				}
			}
		}
		for _, path := range []string{"/graph/v1.0/users", "/graph/v1.0/applications"} {
			if r := nobody.do("GET", path, ""); r.status != 401 {
				t.Errorf("%s: %d", path, r.status)
			}
		}
		for _, path := range []string{"/metadata/endpoints?api-version=2022-09-01", "/" + s.info.TenantID + "/v2.0/.well-known/openid-configuration", "/discovery/workspaces/x"} {
			if r := nobody.do("GET", path, ""); r.status != 200 {
				t.Errorf("%s: %d %s", path, r.status, r.raw)
			}
		}
	}
}

// deploy makes a compute, registers a model with a file and deploys it. With the fake provider the deployment fails; the
// web service is there all the same.
func (s *server) deploy(name string) {
	s.t.Helper()
	if op := s.settle(s.want(201, "PUT", s.expand("{ml}/ws/computes/made?api-version=2020-02-02"), `{"location":"westeurope","properties":{"computeType":"AKS","properties":{"clusterPurpose":"DevTest"}}}`)); op.at("status") != "Succeeded" {
		s.t.Fatal(op.raw)
	}
	info := s.want(200, "GET", s.expand("{artifacts}/write/LocalUpload/1/model.pkl"), "")
	if r := s.blob("PUT", info.at("contentUri").(string), "weights"); r.status != 201 {
		s.t.Fatalf("uploading: %d %s", r.status, r.raw)
	}
	asset := s.want(200, "POST", s.expand("{mms}/assets"), `{"name":"iris","artifacts":[{"prefix":"LocalUpload/1/model.pkl"}]}`).at("id")
	s.want(200, "POST", s.expand("{mms}/models"), fmt.Sprintf(`{"name":"iris","url":"aml://asset/%s","mimeType":"application/x-python"}`, asset))
	s.settle(s.want(202, "POST", s.expand("{mms}/services"), deployment(name)))
}

// deployment is what a client sends to deploy the model iris:1 with an entry script.
func deployment(name string) string {
	return fmt.Sprintf(`{"name":%q,"computeType":"AKS","computeName":"made","environmentImageRequest":{"driverProgram":"score.py","modelIds":["iris:1"],
		"assets":[{"id":"score.py","url":"aml://artifact/LocalUpload/1/score.py","mimeType":"application/x-python","unpack":false}],
		"environment":{"name":"plain","version":"1","python":{"userManagedDependencies":true}}}}`, name)
}

// blob sends a request to a signed URL, as clients do: without a token.
func (s *server) blob(method, signed, body string) reply {
	s.t.Helper()
	u, err := url.Parse(signed)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.info.URL+u.RequestURI(), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Host = u.Host
	req.Header.Set("x-ms-blob-type", "BlockBlob")
	nobody := s.as("")
	r, err := nobody.roundTrip(req, false)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}
