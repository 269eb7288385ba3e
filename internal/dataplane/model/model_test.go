package model_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/dataplanetest"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/store"
)

const mms = dataplane.ModelManagement

// server is a data plane with models, of which some are deployed.
type server struct {
	*dataplanetest.Server
	models *model.Service
	used   map[string][]string // web services, by model
}

func start(t *testing.T) *server {
	t.Helper()
	out := &server{used: map[string][]string{}}
	out.Server = dataplanetest.Start(t, func(s *dataplanetest.Server) []dataplanetest.Noun {
		artifacts := &artifact.Service{Blobs: s.Blobs}
		out.models = &model.Service{Manager: s.Manager, Artifacts: artifacts, UsedBy: func(_ store.ReadTx, _ armid.ID, id string) ([]string, error) { return out.used[id], nil }}
		return []dataplanetest.Noun{artifacts, out.models}
	})
	return out
}

// asset makes an asset of artifacts below a prefix and returns its ID.
func (s *server) asset(prefix string) string {
	s.T.Helper()
	return s.Want(200, "POST", mms, "/assets", fmt.Sprintf(`{"name":"m","artifacts":[{"prefix":%q}],"kvTags":null}`, prefix)).At("id").(string)
}

// register makes a version of a model, of an asset without files unless more says otherwise.
func (s *server) register(name string, more map[string]any) dataplanetest.Reply {
	s.T.Helper()
	body := map[string]any{"name": name, "mimeType": "application/json"}
	for k, v := range more {
		body[k] = v
	}
	if body["url"] == nil {
		body["url"] = "aml://asset/" + s.asset("LocalUpload/none/x")
	}
	data, err := json.Marshal(body)
	if err != nil {
		s.T.Fatal(err)
	}
	return s.Want(200, "POST", mms, "/models", string(data))
}

// What azureml-core's Model.register sends, and what it and Model(ws, name) read.
func TestRegister(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Upload("c1", "model.pkl", "weights")
	asset := s.asset("LocalUpload/c1/model.pkl")
	r := s.register("my.Model_1", map[string]any{
		"url": "aml://asset/" + asset, "kvTags": map[string]string{"area": "x"}, "properties": map[string]string{"p": "1"}, "description": "d", "framework": "ScikitLearn",
		"frameworkVersion": "1.3", "unpack": false, "experimentName": nil, "runId": nil, "datasets": []any{}, "sampleInputData": nil, "sampleOutputData": nil,
		"resourceRequirements": map[string]any{"cpu": 1.5, "memoryInGB": 2, "gpu": nil}, "createdTime": nil, "id": nil,
	})
	want := map[string]any{
		"id": "my.Model_1:1", "name": "my.Model_1", "version": 1.0, "url": "aml://asset/" + asset, "mimeType": "application/json", "description": "d", "kvTags": map[string]any{"area": "x"},
		"properties": map[string]any{"p": "1"}, "framework": "ScikitLearn", "frameworkVersion": "1.3", "unpack": false, "experimentName": nil, "runId": nil, "datasets": []any{},
		"sampleInputData": nil, "sampleOutputData": nil, "resourceRequirements": map[string]any{"cpu": 1.5, "memoryInGB": 2.0, "gpu": nil}, "parentModelId": nil, "derivedModelIds": []any{},
		"createdTime": "2026-06-01T12:00:00.0000000+00:00", "modifiedTime": "2026-06-01T12:00:00.0000000+00:00",
		"createdBy": map[string]any{"userName": "writer", "userObjectId": "writer", "userPuId": nil, "userIdp": nil, "userAltSecId": nil, "userIss": nil, "userTenantId": nil},
	}
	if diff := cmp.Diff(want, r.Body); diff != "" {
		t.Errorf("registered (-want +got):\n%s", diff)
	}
	for _, id := range []string{"my.Model_1:1", "my.Model_1%3A1", "MY.MODEL_1:1"} {
		if diff := cmp.Diff(want, s.Want(200, "GET", mms, "/models/"+id, "").Body); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
	a := s.Want(200, "GET", mms, "/assets/"+asset, "")
	if diff := cmp.Diff([]any{map[string]any{"prefix": "LocalUpload/c1/model.pkl"}}, a.At("artifacts")); diff != "" || a.At("name") != "m" {
		t.Errorf("the asset is %s", a.Raw)
	}
	if l := s.Want(200, "GET", mms, "/assets?name=m", ""); len(l.Strings("id")) != 1 {
		t.Errorf("assets: %s", l.Raw)
	}
	if l := s.Want(200, "GET", mms, "/assets?name=z", ""); len(l.Strings("id")) != 0 {
		t.Errorf("assets of another name: %s", l.Raw)
	}
}

// Each registration is the next version of its name, also when many come at once, and numbers are not
// used again while a later one is there.
func TestVersions(t *testing.T) {
	t.Parallel()
	s := start(t)
	asset := map[string]any{"url": "aml://asset/" + s.asset("LocalUpload/none/x")}
	const many = 12
	got := make([]string, many)
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			r := s.Do("POST", mms, "/models", fmt.Sprintf(`{"name":"m","url":%q}`, asset["url"]))
			got[i], _ = r.At("id").(string)
		})
	}
	wg.Wait()
	slices.Sort(got)
	want := []string{}
	for i := range many {
		want = append(want, fmt.Sprintf("m:%d", i+1))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("registered at once (-want +got):\n%s", diff)
	}
	s.Want(200, "DELETE", mms, "/models/m:3", "")
	if id := s.register("m", asset).At("id"); id != "m:13" {
		t.Errorf("after the deletion of m:3 comes %v", id)
	}
	if id := s.register("M", asset).At("id"); id != "M:14" {
		t.Errorf("names have no case; M is %v", id)
	}
	if id := s.register("m2", asset).At("id"); id != "m2:1" {
		t.Errorf("another name begins with %v", id)
	}
}

func TestRegisterIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	asset := "aml://asset/" + s.asset("LocalUpload/none/x")
	for name, tt := range map[string]struct {
		status       int
		code         string
		body         map[string]any
		target, says string
	}{
		"no name":              {400, "InvalidParameter", map[string]any{"url": asset}, "name", "1 to 255"},
		"a name with a slash":  {400, "InvalidParameter", map[string]any{"name": "a/b", "url": asset}, "name", "a/b"},
		"a name with a colon":  {400, "InvalidParameter", map[string]any{"name": "a:1", "url": asset}, "name", "a:1"},
		"a name of 256":        {400, "InvalidParameter", map[string]any{"name": strings.Repeat("a", 256), "url": asset}, "name", "255"},
		"a name of a number":   {400, "InvalidParameter", map[string]any{"name": 1, "url": asset}, "name", "1 to 255"},
		"no url":               {400, "InvalidParameter", map[string]any{"name": "m"}, "url", "Model.register"},
		"a url of the web":     {400, "InvalidParameter", map[string]any{"name": "m", "url": "https://x"}, "url", "aml://asset/"},
		"an asset not there":   {404, "ResourceNotFound", map[string]any{"name": "m", "url": "aml://asset/none"}, "", "'none'"},
		"an asset elsewhere":   {404, "ResourceNotFound", map[string]any{"name": "m", "url": "aml://asset/../models/m:1"}, "", "asset"},
		"a tag that is a list": {400, "InvalidParameter", map[string]any{"name": "m", "url": asset, "kvTags": map[string]any{"a": []int{1}}}, "tags.a", "string"},
		"an unknown field":     {400, "InvalidParameter", map[string]any{"name": "m", "url": asset, "colour": "red"}, "colour", "colour"},
		"a flag that is text":  {400, "InvalidParameter", map[string]any{"name": "m", "url": asset, "unpack": "yes"}, "unpack", "true or false"},
	} {
		data, err := json.Marshal(tt.body)
		if err != nil {
			t.Fatal(err)
		}
		r := s.Do("POST", mms, "/models", string(data))
		if r.Status != tt.status || r.At("error.code") != tt.code || tt.target != "" && r.At("error.target") != tt.target || !strings.Contains(r.Raw, tt.says) {
			t.Errorf("%s: %d %s, want %d %s about %q with %q", name, r.Status, r.Raw, tt.status, tt.code, tt.target, tt.says)
		}
	}
	s.Refused(400, "InvalidRequestContent", "POST", mms, "/models", `[]x`, "JSON")
	if r := s.Do("POST", mms, "/assets", `{"name":"m"}`); r.Status != 400 || r.At("error.target") != "artifacts" {
		t.Errorf("an asset without artifacts: %d %s", r.Status, r.Raw)
	}
	s.As(dataplanetest.Reader).Refused(403, "AuthorizationFailed", "POST", mms, "/models", `{}`, "workspaces/models/write")
	if l := s.Want(200, "GET", mms, "/models", ""); len(l.Strings("id")) != 0 {
		t.Errorf("what was refused left %s", l.Raw)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	s := start(t)
	asset := "aml://asset/" + s.asset("LocalUpload/none/x")
	for _, m := range []struct {
		name string
		more map[string]any
	}{
		{"a", map[string]any{"kvTags": map[string]string{"area": "x", "k": "1"}, "framework": "Onnx"}},
		{"a", map[string]any{"kvTags": map[string]string{"area": "y"}, "properties": map[string]string{"p": "1"}}},
		{"b", map[string]any{"runId": "run_1", "description": "the best"}},
		{"a", map[string]any{"datasets": []any{map[string]string{"name": "training", "id": "ds-1"}}}},
		{"c", map[string]any{"framework": "Onnx", "kvTags": map[string]string{"area": "x"}}},
	} {
		m.more["url"] = asset
		s.register(m.name, m.more)
		s.Advance(time.Second)
	}
	s.Want(200, "PATCH", mms, "/models/a:2", `[{"op":"replace","path":"/description","value":"changed"}]`)
	for query, want := range map[string][]string{
		"":                              {"c:1", "a:3", "b:1", "a:2", "a:1"},
		"name=a":                        {"a:3", "a:2", "a:1"},
		"name=A":                        {"a:3", "a:2", "a:1"},
		"name=z":                        {},
		"name=a&latestVersionOnly=true": {"a:3"},
		"latestVersionOnly=True":        {"c:1", "a:3", "b:1"},
		"latestVersionOnly=false":       {"c:1", "a:3", "b:1", "a:2", "a:1"},
		"tag=area":                      {"c:1", "a:2", "a:1"},
		"tag=area%3Dx":                  {"c:1", "a:1"},
		"tags=area%3Dx,k":               {"a:1"},
		"tags=area%3Dx,z":               {},
		"properties=p":                  {"a:2"},
		"properties=p%3D2":              {},
		"framework=onnx":                {"c:1", "a:1"},
		"runId=run_1":                   {"b:1"},
		"RunID=run_1":                   {"b:1"},
		"description=the%20best":        {"b:1"},
		"name=a&version=2":              {"a:2"},
		"datasetId=ds-1":                {"a:3"},
		"datasetId=ds":                  {},
		"framework=onnx&tag=k":          {"a:1"},
		"orderBy=CreatedAtAsc":          {"a:1", "a:2", "b:1", "a:3", "c:1"},
		"orderBy=UpdatedAtDesc":         {"a:2", "c:1", "a:3", "b:1", "a:1"},
		"orderBy=UpdatedAtAsc":          {"a:1", "b:1", "a:3", "c:1", "a:2"},
		"offset=3":                      {"a:2", "a:1"},
		"offset=9":                      {},
	} {
		r := s.Want(200, "GET", mms, "/models?"+query, "")
		if diff := cmp.Diff(want, r.Strings("id")); diff != "" || len(r.Body) != 1 { // neither link nor token
			t.Errorf("%q (-want +got):\n%s%s", query, diff, r.Raw)
		}
		for size := 1; size <= len(want); size++ { // by the link, as azureml-core, and by the token
			for how, next := range map[string]func(r dataplanetest.Reply) string{
				"nextLink": func(r dataplanetest.Reply) string { at, _ := r.At("nextLink").(string); return at },
				"continuationToken": func(r dataplanetest.Reply) string {
					token, _ := r.At("continuationToken").(string)
					if token == "" {
						return ""
					}
					return fmt.Sprintf("/models?%s&count=%d&$skipToken=%s", query, size, url.QueryEscape(token))
				},
			} {
				var got []string
				pages := 0
				for at := fmt.Sprintf("/models?%s&count=%d", query, size); at != "" && pages < 9; pages++ {
					r := s.Want(200, "GET", mms, at, "")
					got = append(got, r.Strings("id")...)
					at = next(r)
				}
				if wanted := (len(want) + size - 1) / size; !slices.Equal(got, want) || pages != wanted {
					t.Errorf("%q in pages of %d by %s: %q on %d pages, want %q on %d", query, size, how, got, pages, want, wanted)
				}
			}
		}
	}
	// Model(ws, name) asks for one and takes the first.
	if r := s.Want(200, "GET", mms, "/models?name=a&count=1", ""); r.Strings("id")[0] != "a:3" {
		t.Error(r.Raw)
	}
	if r := s.As(dataplanetest.Reader).Want(200, "POST", mms, "/models/list", `{"name":"a","latestVersionOnly":true,"count":5}`); !slices.Equal(r.Strings("id"), []string{"a:3"}) {
		t.Errorf("by body: %s", r.Raw)
	}
	var byPost []string
	for body := `{"name":"a","skipToken":null,"count":2}`; body != ""; {
		r := s.Want(200, "POST", mms, "/models/list", body)
		byPost, body = append(byPost, r.Strings("id")...), ""
		if next := r.At("nextRequest"); next != nil {
			data, err := json.Marshal(next)
			if err != nil {
				t.Fatal(err)
			}
			body = string(data)
		}
	}
	if want := []string{"a:3", "a:2", "a:1"}; !slices.Equal(byPost, want) {
		t.Errorf("page by page by body: %q, want %q", byPost, want)
	}
	for query, target := range map[string]string{"count=0": "count", "count=1001": "count", "count=x": "count", "offset=-1": "offset", "orderBy=Name": "orderBy", "$skipToken=x": "$skipToken", "$skipToken=-1": "$skipToken"} {
		if r := s.Refused(400, "InvalidParameter", "GET", mms, "/models?"+query, ""); r.At("error.target") != target {
			t.Errorf("%s: %s", query, r.Raw)
		}
	}
	s.Refused(400, "InvalidParameter", "POST", mms, "/models/list", `{"count":0}`, "1 to 1000")
}

func TestPatch(t *testing.T) {
	t.Parallel()
	s := start(t)
	before := s.register("m", map[string]any{"kvTags": map[string]string{"a": "1"}})
	s.Advance(time.Minute)
	for _, tt := range []struct {
		patch, path string
		want        any
	}{
		{`[{"op":"replace","path":"/kvTags","value":{"b":"2"}}]`, "kvTags", map[string]any{"b": "2"}},
		{`[{"op":"add","path":"/kvTags/c","value":"3"}]`, "kvTags", map[string]any{"b": "2", "c": "3"}},
		{`[{"op":"add","path":"/kvTags/a~1b?","value":"` + strings.Repeat("4", 300) + `"}]`, "kvTags", map[string]any{"b": "2", "c": "3", "a/b?": strings.Repeat("4", 300)}}, // Resource Manager would refuse it
		{`[{"op":"remove","path":"/kvTags/a~1b?"}]`, "kvTags", map[string]any{"b": "2", "c": "3"}},
		{`[{"op":"remove","path":"/kvTags/b"}]`, "kvTags", map[string]any{"c": "3"}},
		{`[{"op":"replace","path":"/kvTags","value":{}}]`, "kvTags", nil},
		{`[{"op":"add","path":"/properties","value":{"p":"1"}}]`, "properties", map[string]any{"p": "1"}},
		{`[{"op":"replace","path":"/description","value":"d"}]`, "description", "d"},
		{`[{"op":"replace","path":"/sampleInputData","value":"aml://dataset/1"}]`, "sampleInputData", "aml://dataset/1"},
		{`[{"op":"replace","path":"/resourceRequirements","value":{"cpu":1}}]`, "resourceRequirements", map[string]any{"cpu": 1.0}},
		{`[{"op":"add","path":"/datasets","value":[{"name":"n","id":"i"}]}]`, "datasets", []any{map[string]any{"name": "n", "id": "i"}}},
		{`[{"op":"add","path":"/datasets","value":[{"name":"n","id":"i"},{"name":"m","id":"j"}]}]`, "datasets", []any{map[string]any{"name": "n", "id": "i"}, map[string]any{"name": "m", "id": "j"}}},
		{`[{"op":"add","path":"/datasets","value":[{"name":"m","id":"k"}]}]`, "datasets", []any{map[string]any{"name": "n", "id": "i"}, map[string]any{"name": "m", "id": "j"}, map[string]any{"name": "m", "id": "k"}}},
		{`[{"op":"replace","path":"/datasets","value":[{"name":"m","id":"k"}]}]`, "datasets", []any{map[string]any{"name": "m", "id": "k"}}},
		{`[]`, "description", "d"},
	} {
		r := s.Want(200, "PATCH", mms, "/models/m:1", tt.patch)
		got := r.At(tt.path)
		if m, ok := got.(map[string]any); ok && len(m) == 0 {
			got = nil
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.patch, diff)
		}
		if again := s.Want(200, "GET", mms, "/models/m:1", ""); again.Raw != r.Raw {
			t.Errorf("%s answers\n%s, and then it is\n%s", tt.patch, r.Raw, again.Raw)
		}
	}
	after := s.Want(200, "GET", mms, "/models/m:1", "")
	for field, changes := range map[string]bool{"id": false, "version": false, "url": false, "createdTime": false, "createdBy": false, "modifiedTime": true} {
		if diff := cmp.Diff(before.At(field), after.At(field)); (diff != "") != changes {
			t.Errorf("%s: from %v to %v", field, before.At(field), after.At(field))
		}
	}
	for name, tt := range map[string]struct{ code, patch, target, says string }{
		"another name":     {"InvalidParameter", `[{"op":"replace","path":"/name","value":"x"}]`, "name", "Register another version"},
		"another version":  {"InvalidParameter", `[{"op":"replace","path":"/version","value":2}]`, "version", "Register another version"},
		"another content":  {"InvalidParameter", `[{"op":"replace","path":"/url","value":"aml://asset/x"}]`, "url", "Register another version"},
		"moving the name":  {"InvalidParameter", `[{"op":"move","from":"/name","path":"/description"}]`, "name", "Register another version"},
		"what Berth says":  {"InvalidParameter", `[{"op":"add","path":"/derivedModelIds","value":["x:1"]}]`, "derivedModelIds", "cannot change"},
		"its etag":         {"InvalidParameter", `[{"op":"add","path":"/ETag","value":"x"}]`, "ETag", "cannot change"},
		"a property":       {"InvalidParameter", `[{"op":"replace","path":"/properties/p","value":"2"}]`, "properties.p", "Add another"},
		"all properties":   {"InvalidParameter", `[{"op":"add","path":"/properties","value":{"q":"1"}}]`, "properties.p", "Add another"},
		"no properties":    {"InvalidParameter", `[{"op":"remove","path":"/properties"}]`, "properties.p", "Add another"},
		"an unknown field": {"InvalidParameter", `[{"op":"add","path":"/colour","value":"red"}]`, "colour", "colour"},
		"a wrong kind":     {"InvalidParameter", `[{"op":"replace","path":"/description","value":{}}]`, "description", "string"},
		"datasets' kind":   {"InvalidParameter", `[{"op":"add","path":"/datasets","value":"x"}]`, "datasets", "a list"},
		"a tag's kind":     {"InvalidParameter", `[{"op":"add","path":"/kvTags/a","value":[1]}]`, "tags.a", "string"},
		"what is not":      {"BadRequest", `[{"op":"remove","path":"/kvTags/none"}]`, "", "/kvTags/none"},
		"no patch":         {"InvalidRequestContent", `{"description":"x"}`, "", "JSON"},
	} {
		r := s.Refused(400, tt.code, "PATCH", mms, "/models/m:1", tt.patch, tt.says)
		if tt.target != "" && r.At("error.target") != tt.target {
			t.Errorf("%s: %s", name, r.Raw)
		}
	}
	if again := s.Want(200, "GET", mms, "/models/m:1", ""); again.Raw != after.Raw {
		t.Errorf("what was refused left %s", again.Raw)
	}
	s.Refused(404, "ModelNotFound", "PATCH", mms, "/models/m:2", `[]`, "m:2")
}

// Patches of one model at the same time all count.
func TestPatchesAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.register("m", nil)
	const many = 16
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			if r := s.Do("PATCH", mms, "/models/m:1", fmt.Sprintf(`[{"op":"add","path":"/kvTags/t%d","value":"x"}]`, i)); r.Status != 200 {
				t.Errorf("%d %s", r.Status, r.Raw)
			}
		})
	}
	wg.Wait()
	tags, _ := s.Want(200, "GET", mms, "/models/m:1", "").At("kvTags").(map[string]any)
	if len(tags) != many {
		t.Errorf("of %d tags there are %d: %v", many, len(tags), tags)
	}
}

func TestNotFound(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.register("m", nil)
	for _, id := range []string{"m:2", "m", "m:x", "z:1", "a%2Fb:1", "%2e%2e%2fassets%2fx"} {
		name, err := url.PathUnescape(id)
		if err != nil {
			t.Fatal(err)
		}
		s.Refused(404, "ModelNotFound", "GET", mms, "/models/"+id, "", "'"+name+"'", "'ws'", "(ModelNotFound)")
		s.Want(204, "DELETE", mms, "/models/"+id, "")
	}
	s.Refused(404, "ResourceNotFound", "GET", mms, "/assets/none", "", "asset", "'none'")
}

// A model that web services have stays, and the error names them in the form that azureml-core looks for.
func TestDelete(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.register("m", nil)
	s.used["m:1"] = []string{"svc-a", "svc-b"}
	r := s.Refused(412, "PreconditionFailed", "DELETE", mms, "/models/m:1", "", "m:1", "svc-a, svc-b", "Delete or update them")
	if r.At("details.0.code") != "DeletionRequired" {
		t.Errorf("%s", r.Raw)
	}
	s.Want(200, "GET", mms, "/models/m:1", "")
	delete(s.used, "m:1")
	s.As(dataplanetest.Reader).Refused(403, "AuthorizationFailed", "DELETE", mms, "/models/m:1", "")
	s.Want(200, "DELETE", mms, "/models/m:1", "")
	s.Refused(404, "ModelNotFound", "GET", mms, "/models/m:1", "")
	s.Want(204, "DELETE", mms, "/models/m:1", "")
}

// Assets are found by what they were made with, page by page.
func TestAssets(t *testing.T) {
	t.Parallel()
	s := start(t)
	ids := map[string]string{}
	for name, more := range map[string]string{
		"a": `"runid":"run_1","type":"t","kvTags":{"k":"1"},"properties":{"p":"1"}`, "b": `"runid":"run_1","kvTags":{"k":"2"}`, "c": `"properties":{"p":"2"}`,
	} {
		id, _ := s.Want(200, "POST", mms, "/assets", fmt.Sprintf(`{"name":%q,"artifacts":[{"id":"LocalUpload/1/x"}],%s}`, name, more)).At("id").(string)
		ids[name] = id
	}
	for query, names := range map[string]string{
		"": "a b c", "name=b": "b", "runId=run_1": "a b", "runId=run_2": "", "type=t": "a", "tag=k": "a b", "tags=k%3D2": "b", "properties=p": "a c", "properties=p%3D1": "a", "runId=run_1&properties=p": "a",
	} {
		var want []string
		for name := range strings.FieldsSeq(names) {
			want = append(want, ids[name])
		}
		slices.Sort(want)
		var got []string
		for at := "/assets?count=1&" + query; at != ""; {
			r := s.Want(200, "GET", mms, at, "")
			got = append(got, r.Strings("id")...)
			at, _ = r.At("nextLink").(string)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}
