package service_test

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/frontend"
	"github.com/berthdev/berth/internal/route"
)

// Each change that azureml-core's update sends is done, and the rest stays.
func TestPatch(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	s.register("rose", "Custom")
	for _, tt := range []struct {
		ops  []any
		want map[string]any
	}{
		{[]any{"/numReplicas", 3}, map[string]any{"numReplicas": 3.0, "autoScaler.autoscaleEnabled": false}},
		{[]any{"/autoScaler/autoscaleEnabled", true, "/autoScaler/maxReplicas", 4}, map[string]any{"numReplicas": nil, "autoScaler.autoscaleEnabled": true, "autoScaler.minReplicas": 1.0, "autoScaler.maxReplicas": 4.0, "autoScaler.targetUtilization": 70.0}},
		{[]any{"/autoScaler/minReplicas", 2}, map[string]any{"autoScaler.minReplicas": 2.0, "autoScaler.maxReplicas": 4.0, "autoScaler.autoscaleEnabled": true}},
		{[]any{"/numReplicas", 2}, map[string]any{"numReplicas": 2.0, "autoScaler.autoscaleEnabled": false}},
		{[]any{"/autoScaler/autoscaleEnabled", false, "/numReplicas", 1}, map[string]any{"numReplicas": 1.0, "autoScaler.autoscaleEnabled": false}},
		{[]any{"/containerResourceRequirements/cpu", 0.5, "/containerResourceRequirements/memoryInGB", 2}, map[string]any{"containerResourceRequirements.cpu": 0.5, "containerResourceRequirements.memoryInGB": 2.0}},
		{[]any{"/description", "new", "/scoringTimeoutMs", 5000}, map[string]any{"description": "new", "scoringTimeoutMs": 5000.0, "containerResourceRequirements.cpu": 0.5}},
		{[]any{"/maxConcurrentRequestsPerContainer", 2, "/maxQueueWaitMs", 100, "/livenessProbeRequirements/periodSeconds", 7}, map[string]any{"maxConcurrentRequestsPerContainer": 2.0, "maxQueueWaitMs": 100.0, "livenessProbeRequirements.periodSeconds": 7.0}},
		{[]any{"/kvTags", object{"a": "1"}}, map[string]any{"kvTags.a": "1"}},
		{[]any{"/kvTags", object{"b": "2"}}, map[string]any{"kvTags.a": nil, "kvTags.b": "2"}},
		{[]any{"/properties/p", "1"}, map[string]any{"properties.p": "1"}},
		{[]any{"/properties/azureml.git.commit", "abc"}, map[string]any{"properties.p": "1"}},
		{[]any{"/properties/azureml.git.commit", "def"}, map[string]any{"properties.p": "1"}},
		{[]any{"/environmentImageRequest", imageRequest(object{"modelIds": []string{"rose:1"}})}, map[string]any{"models.0.id": "rose:1", "description": "new", "kvTags.b": "2"}},
		{[]any{"/authEnabled", false}, map[string]any{"authEnabled": false, "aadAuthEnabled": false}},
	} {
		s.update("iris", tt.ops...)
		r := s.is("iris", "Healthy")
		for path, want := range tt.want {
			if r.At(path) != want {
				t.Errorf("after %v %s is %v, want %v", tt.ops, path, r.At(path), want)
			}
		}
	}
	r := s.routeOf("iris")
	v := r.Versions[0]
	if r.Auth.Mode != route.AuthNone || v.MaxConcurrent != 2 || v.QueueWait != 100*time.Millisecond || v.Timeout != 5*time.Second {
		t.Errorf("the route is %+v", r)
	}
	if c := s.kubeDeployment("iris").Spec.Template.Spec.Containers[0]; c.Resources.Requests.Cpu().String() != "500m" || c.LivenessProbe.PeriodSeconds != 7 {
		t.Errorf("the container is %+v", c)
	}
}

func TestPatchRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", object{"properties": object{"p": "1"}}))
	for _, tt := range []struct {
		ops   []any
		texts []string
	}{
		{[]any{"/properties/p", "2"}, []string{"properties.p", "does not change", "a tag"}},
		{[]any{"/properties/p", nil}, []string{"properties.p", "does not change"}},
		{[]any{"/properties", object{}}, []string{"properties.p"}},
		{[]any{"/numReplicas", 0}, []string{"numReplicas", "between 1 and 1000"}},
		{[]any{"/numReplicas", 2, "/autoScaler/autoscaleEnabled", true}, []string{"numReplicas", "Leave one of the two out"}},
		{[]any{"/aadAuthEnabled", true}, []string{"aadAuthEnabled", "exclude each other"}},
		{[]any{"/containerResourceRequirements/cpuLimit", 0.05}, []string{"containerResourceRequirements.cpuLimit"}},
		{[]any{"/versions/v2", version(nil)}, []string{"versions", "AksEndpoint"}},
		{[]any{"/colour", "red"}, []string{"colour", "no such field"}},
		{[]any{"/environmentImageRequest/environment", nil}, []string{"environmentImageRequest.environment", "InferenceConfig"}},
	} {
		s.Refused(400, "InvalidParameter", "PATCH", mms, "/services/iris", s.patchBody(tt.ops...), tt.texts...)
	}
	// Clients send these back with what they read; alone they would be accepted and lost.
	for _, field := range []string{
		"name", "Name", "overwrite", "location", "id", "createdTime", "updatedTime", "createdBy", "operationId", "error", "models", "deploymentStatus", "swaggerUri", "scoringUri", "state", "State", "deployed",
		"provisioningState", "modelConfigMap", "imageDetails", "imageDigest", "environmentDetails", "registryAccess",
	} {
		s.Refused(400, "InvalidParameter", "PATCH", mms, "/services/iris", s.patchBody("/"+field, "x"), field, "cannot be changed")
		s.Refused(400, "InvalidParameter", "PATCH", mms, "/services/iris", s.patchBody("/"+field+"/x", "x"), field, "cannot be changed")
	}
	s.Refused(400, "PropertyChangeNotAllowed", "PATCH", mms, "/services/iris", s.patchBody("/computeType", "AKSENDPOINT"), "computeType")
	s.Refused(400, "NotSupported", "PATCH", mms, "/services/iris", s.patchBody("/namespace", "mine"), "namespace")
	s.Want(400, "PATCH", mms, "/services/iris", "{}")
	op := s.patch("iris", "/numReplicas", 2)
	s.Refused(409, "Conflict", "PATCH", mms, "/services/iris", s.patchBody("/numReplicas", 3), "Conflict of operation", "workspace ws", "wait_for_deployment")
	s.serve()
	s.serve()
	s.ended(op, "Succeeded")
	if r := s.is("iris", "Healthy"); r.At("numReplicas") != 2.0 || r.At("properties.p") != "1" {
		t.Errorf("what was refused changed something: %s", r.Raw)
	}
}

// An endpoint's versions come, share the traffic, take the default's place and go (D2).
func TestEndpoint_D2(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(endpoint("pair", object{"v1": version(object{"trafficPercentile": nil})}))
	r := s.is("pair", "Healthy")
	for path, want := range map[string]any{
		"computeType": "AKSENDPOINT", "versions.v1.isDefault": true, "versions.v1.trafficPercentile": 100.0, "versions.v1.type": "Control", "versions.v1.computeType": "AKS",
		"scoringUri": "http://20.0.0.1:80/api/v1/service/pair/score", "versions.v1.scoringUri": "http://20.0.0.1:80/api/v1/service/pair/version/v1/score", "versions.v1.numReplicas": 1.0, "versions.v1.models.0.id": "iris:1",
	} {
		if r.At(path) != want {
			t.Errorf("%s is %v, want %v", path, r.At(path), want)
		}
	}
	s.update("pair", "/versions/v1/trafficPercentile", 60, "/versions/v2", version(object{"trafficPercentile": 30, "isDefault": false}))
	split := func() string {
		out := ""
		for _, v := range s.routeOf("pair").Versions {
			out += fmt.Sprintf("%s=%d default=%v workload=%s; ", v.Name, v.Percent, v.Default, v.Workload)
		}
		return out
	}
	if got, want := split(), "v1=60 default=true workload=pair-v1; v2=30 default=false workload=pair-v2; "; got != want {
		t.Errorf("the traffic is split into %s, want %s", got, want)
	}
	s.Refused(400, "InvalidParameter", "PATCH", mms, "/services/pair", s.patchBody("/versions/v2/trafficPercentile", 41), "versions", "101", "at most 100", "default version")
	s.Refused(400, "InvalidParameter", "PATCH", mms, "/services/pair", s.patchBody("/versions/v2/type", "Control"), "Control", "v1, v2")
	s.Refused(400, "InvalidParameter", "PATCH", mms, "/services/pair", s.patchBody("/versions/v1", nil), "no version is the default one", "is_default=True")
	s.update("pair", "/versions/v2/isDefault", true)
	if got := s.get("pair"); got.At("versions.v1.isDefault") != false || got.At("versions.v2.isDefault") != true {
		t.Errorf("the default did not move: %s", got.Raw)
	}
	s.update("pair", "/versions/v2/numReplicas", 2)
	if got := s.get("pair"); got.At("versions.v2.numReplicas") != 2.0 || got.At("versions.v2.autoScaler.autoscaleEnabled") != false || got.At("versions.v1.numReplicas") != 1.0 {
		t.Errorf("after a change of v2: %s", got.Raw)
	}
	s.update("pair", "/versions/v1", nil)
	if got, want := split(), "v2=30 default=true workload=pair-v2; "; got != want {
		t.Errorf("after v1 is gone the split is %s, want %s", got, want)
	}
	if got := s.deployments(); len(got) != 1 || got[0] != "pair-v2" {
		t.Errorf("the cluster runs %v", got)
	}
	var many []any
	for i := range route.MaxVersions {
		many = append(many, fmt.Sprintf("/versions/n%d", i), version(object{"isDefault": false}))
	}
	s.Refused(400, "InvalidParameter", "PATCH", mms, "/services/pair", s.patchBody(many...), "versions", "at most 6", "7")
	s.update("pair", many[:len(many)-2]...)
	if got := len(s.deployments()); got != route.MaxVersions {
		t.Errorf("the cluster runs %d versions, want %d", got, route.MaxVersions)
	}
}

// What azureml-core's update_version changes of a version is done for that version, and stays with it.
func TestPatchVersion(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(endpoint("pair", object{"v1": version(object{"kvTags": object{"t": "1"}, "properties": object{"p": "1"}, "description": "first"})}))
	s.update("pair", "/versions/v2", version(object{"kvTags": object{"t": "2"}, "isDefault": false}))
	if r := s.get("pair"); r.At("versions.v1.kvTags.t") != "1" || r.At("versions.v2.kvTags.t") != "2" || r.At("versions.v1.properties.p") != "1" || r.At("versions.v1.description") != "first" {
		t.Errorf("the versions were made as %s", r.Raw)
	}
	for _, tt := range []struct {
		ops  []any
		want map[string]any
	}{
		{[]any{"/versions/v2/tags", object{"u": "3"}}, map[string]any{"kvTags.t": nil, "kvTags.u": "3"}},
		{[]any{"/versions/v2/kvTags/w", "4"}, map[string]any{"kvTags.u": "3", "kvTags.w": "4"}},
		{[]any{"/versions/v2/kvTags", object{}}, map[string]any{"kvTags.u": nil, "kvTags.w": nil}},
		{[]any{"/versions/v2/description", "second", "/versions/v2/scoringTimeoutMs", 1234}, map[string]any{"description": "second", "scoringTimeoutMs": 1234.0}},
		{[]any{"/versions/v2/maxConcurrentRequestsPerContainer", 3, "/versions/v2/maxQueueWaitMs", 77}, map[string]any{"maxConcurrentRequestsPerContainer": 3.0, "maxQueueWaitMs": 77.0}},
		{[]any{"/versions/v2/containerResourceRequirements/cpu", 0.3, "/versions/v2/containerResourceRequirements/cpuLimit", 0.4}, map[string]any{"containerResourceRequirements.cpu": 0.3, "containerResourceRequirements.cpuLimit": 0.4}},
		{[]any{"/versions/v2/containerResourceRequirements/memoryInGB", 1, "/versions/v2/containerResourceRequirements/memoryInGBLimit", 2, "/versions/v2/containerResourceRequirements/gpu", 1}, map[string]any{"containerResourceRequirements.memoryInGB": 1.0, "containerResourceRequirements.memoryInGBLimit": 2.0, "containerResourceRequirements.gpu": 1.0}},
		{[]any{"/versions/v2/livenessProbeRequirements/periodSeconds", 1, "/versions/v2/livenessProbeRequirements/initialDelaySeconds", 2, "/versions/v2/livenessProbeRequirements/timeoutSeconds", 3, "/versions/v2/livenessProbeRequirements/failureThreshold", 4}, map[string]any{"livenessProbeRequirements.periodSeconds": 1.0, "livenessProbeRequirements.initialDelaySeconds": 2.0, "livenessProbeRequirements.timeoutSeconds": 3.0, "livenessProbeRequirements.failureThreshold": 4.0}},
		{[]any{"/versions/v2/autoScaler/autoscaleEnabled", true, "/versions/v2/autoScaler/minReplicas", 2, "/versions/v2/autoScaler/maxReplicas", 4, "/versions/v2/autoScaler/refreshPeriodInSeconds", 5, "/versions/v2/autoScaler/targetUtilization", 60}, map[string]any{"autoScaler.minReplicas": 2.0, "autoScaler.maxReplicas": 4.0, "autoScaler.refreshPeriodInSeconds": 5.0, "autoScaler.targetUtilization": 60.0, "numReplicas": nil}},
		{[]any{"/versions/v1/isDefault", false, "/versions/v2/isDefault", true, "/versions/v1/type", "Treatment", "/versions/v2/type", "Control"}, map[string]any{"isDefault": true, "type": "Control"}},
		{[]any{"/versions/v1/trafficPercentile", 10, "/versions/v2/trafficPercentile", 30}, map[string]any{"trafficPercentile": 30.0}},
	} {
		s.update("pair", tt.ops...)
		r := s.get("pair")
		for path, want := range tt.want {
			if got := r.At("versions.v2." + path); got != want {
				t.Errorf("after %v %s is %v, want %v", tt.ops, path, got, want)
			}
		}
		if r.At("versions.v1.kvTags.t") != "1" || r.At("versions.v1.scoringTimeoutMs") != 60000.0 {
			t.Errorf("after %v the other version is another: %s", tt.ops, r.Raw)
		}
	}
}

// Of a version's fields none is accepted and lost: not what names it, not what its endpoint has for all versions, and
// not what an endpoint would have for itself.
func TestPatchVersionRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(endpoint("pair", object{"v1": version(nil)}))
	before := s.get("pair").Raw
	refused := func(code string, ops []any, texts ...string) {
		t.Helper()
		s.Refused(400, code, "PATCH", mms, "/services/pair", s.patchBody(ops...), texts...)
	}
	for _, field := range []string{"name", "id", "state", "scoringUri", "models", "deploymentStatus", "location"} {
		refused("InvalidParameter", []any{"/versions/v1/" + field, "x"}, "versions.v1."+field, "cannot be changed")
	}
	for _, field := range []string{"computeType", "computeName", "namespace", "keys", "authEnabled", "AadAuthEnabled", "versions", "deploymentType"} {
		refused("InvalidParameter", []any{"/versions/v1/" + field, "x"}, "versions.v1."+field, "all its versions together", "/"+field)
	}
	for path, spelled := range map[string]string{"/Versions/v1/description": "versions", "/KvTags": "kvTags", "/versions/v1/TAGS": "tags"} {
		refused("InvalidParameter", []any{path, object{}}, "spelled "+spelled)
	}
	refused("InvalidParameter", []any{"/versions/v1/colour", "x"}, "versions.v1.colour", "no such field")
	for field, value := range map[string]any{
		"numReplicas": 2, "autoScaler": object{"maxReplicas": 2}, "containerResourceRequirements": object{"cpu": 1}, "environmentImageRequest": imageRequest(nil), "maxQueueWaitMs": 1, "scoringTimeoutMs": 1,
		"maxConcurrentRequestsPerContainer": 1, "livenessProbeRequirements": object{"periodSeconds": 1}, "storageInitEnabled": true, "trafficPercentile": 1, "isDefault": true, "type": "Control", "dataCollection": object{"storageEnabled": false},
	} {
		refused("InvalidParameter", []any{"/" + field, value}, field+": an endpoint has no", "versions.{version}."+field)
	}
	for field, value := range map[string]any{
		"name": "other", "computeType": "ACI", "computeName": "other", "namespace": "mine", "keys": object{"primaryKey": "k"}, "authEnabled": false, "aadAuthEnabled": true, "versions": object{}, "deploymentType": "Batch",
	} {
		refused("InvalidParameter", []any{"/versions/v2", version(object{"isDefault": false, field: value})}, "versions.v2."+field)
	}
	if after := s.get("pair").Raw; after != before {
		t.Errorf("what was refused left %s", after)
	}
	// What was read can be written back.
	s.ended(operationOf(s.Want(202, "PUT", mms, "/services", before)), "Running")
	s.pass()
	s.serve()
	if after := s.is("pair", "Healthy"); after.At("versions.v1.numReplicas") != 1.0 || after.At("versions.v1.isDefault") != true {
		t.Errorf("written back, it is %s", after.Raw)
	}
	// What agrees is taken: azureml-core sends it.
	s.update("pair", "/versions/v2", version(object{"isDefault": false, "name": "v2", "computeName": "AKS", "keys": object{"primaryKey": nil, "secondaryKey": nil}, "authEnabled": true}))
}

// The route of an endpoint is written when it changes, and not at every look.
func TestEndpointIsQuiet(t *testing.T) {
	t.Parallel()
	s := start(t)
	versions := object{"v1": version(object{"isDefault": true})}
	for i := range 5 {
		versions[fmt.Sprintf("x%d", i)] = version(object{"isDefault": false})
	}
	s.deploy(endpoint("pair", versions))
	s.kube.ClearActions()
	for range 20 {
		s.after(20 * time.Second)
	}
	for _, a := range s.kube.Actions() {
		if a.GetVerb() != "get" && a.GetVerb() != "list" {
			t.Fatalf("a look at what serves does %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
	if len(s.kube.Actions()) == 0 {
		t.Error("nobody looks at what serves")
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.register("rose", "Custom")
	s.register("rose", "Custom")
	for _, body := range []object{
		deployment("first", object{"kvTags": object{"team": "a", "stage": "x"}, "properties": object{"p": "1"}}),
		deployment("second", object{"kvTags": object{"team": "b"}, "environmentImageRequest": imageRequest(object{"modelIds": []string{"rose:1", "rose:2"}})}),
		endpoint("third", object{"v1": version(object{"environmentImageRequest": imageRequest(object{"modelIds": []string{"rose:2"}})})}),
	} {
		s.deploy(body)
		s.Advance(time.Second)
	}
	s.update("first", "/description", "changed")
	for _, tt := range []struct{ query, want string }{
		{"", "first third second"},
		{"orderby=UpdatedAtDesc", "first third second"},
		{"orderBy=UpdatedAtAsc", "second third first"},
		{"orderBy=CreatedAtDesc", "third second first"},
		{"orderBy=CreatedAtAsc", "first second third"},
		{"computeType=AKS", "first second"},
		{"computeType=aksendpoint", "third"},
		{"computeType=ACI", ""},
		{"name=SECOND", "second"},
		{"tag=team", "first second"},
		{"tags=team=a", "first"},
		{"tags=team=a,stage", "first"},
		{"tags=team=b,stage", ""},
		{"properties=p=1", "first"},
		{"properties=p=2", ""},
		{"modelName=rose", "third second"},
		{"modelId=iris:1", "first"},
		{"modelId=rose:1", "second"},
		{"modelId=rose:2&modelName=rose&computeType=AKS", "second"},
		{"modelId=rose:2&modelName=iris", ""},
		{"imageId=x", ""}, {"imageName=x", ""}, {"imageDigest=x", ""}, {"runId=x", ""},
		{"count=2", "first third"},
		{"count=2&$skipToken=2", "second"},
		{"count=1&$skipToken=9", ""},
	} {
		got := s.Want(200, "GET", mms, "/services?"+strings.ReplaceAll(tt.query, "tags=team=a,", "tags=team%3Da,"), "").Strings("name")
		if diff := cmp.Diff(strings.Fields(tt.want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.query, diff)
		}
	}
	for _, query := range []string{"count=0", "count=x", "orderBy=Name", "$skipToken=x"} {
		name, _, _ := strings.Cut(query, "=")
		s.Refused(400, "InvalidParameter", "GET", mms, "/services?"+query, "", name)
	}
	// The same by POST, with the filters in the body, page by page.
	body, byPost := `{"count":1,"tag":"team","computeType":null}`, []string(nil)
	for body != "" {
		r := s.As("reader").Want(200, "POST", mms, "/services/list", body)
		byPost = append(byPost, r.Strings("name")...)
		body = ""
		if next := r.At("nextRequest"); next != nil {
			body = text(next)
			if at, _ := r.At("nextLink").(string); !strings.HasSuffix(at, "/services/list") {
				t.Errorf("the next page is at %q", at)
			}
		}
	}
	if diff := cmp.Diff([]string{"first", "second"}, byPost); diff != "" {
		t.Errorf("by POST (-want +got):\n%s", diff)
	}
	if all := s.Want(200, "POST", mms, "/services/list", "").Strings("name"); len(all) != 3 {
		t.Errorf("without filters by POST: %v", all)
	}
	s.Refused(400, "InvalidParameter", "POST", mms, "/services/list", `{"tags":["team"]}`, "tags", "a filter is")
	r := s.Want(200, "GET", mms, "/services?count=2&tag=team&expand=true", "")
	if _, ok := r.Body["nextLink"]; ok || r.Body["continuationToken"] != nil || r.At("value.0.models.0.id") != "iris:1" {
		t.Errorf("the only page is %s", r.Raw)
	}
	var all []string
	for next := mms; next != ""; {
		path := "/services?count=1"
		if next != mms {
			u := must(url.Parse(next))
			path = "/services?" + u.RawQuery
		}
		r := s.Want(200, "GET", mms, path, "")
		all = append(all, r.Strings("name")...)
		next, _ = r.At("nextLink").(string)
	}
	if diff := cmp.Diff([]string{"first", "third", "second"}, all); diff != "" {
		t.Errorf("page by page (-want +got):\n%s", diff)
	}
}

// A key is made anew, or set, and the other one stays, so that callers can be moved from one to the other.
func TestRegenerateKeys(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	primary, secondary := s.keys("iris")
	regenerate := func(body string) {
		t.Helper()
		op := operationOf(s.Want(202, "POST", mms, "/services/iris/regenerateKeys", body))
		s.pass()
		s.ended(op, "Succeeded")
	}
	regenerate(`{"keyType":"Primary","keyValue":null}`)
	p, q := s.keys("iris")
	if p == primary || len(p) != 32 || q != secondary {
		t.Errorf("the keys became %q and %q", p, q)
	}
	if a := s.routeOf("iris").Auth; !a.HasKey(p) || !a.HasKey(secondary) || a.HasKey(primary) {
		t.Errorf("front ends know other keys: %+v", a)
	}
	regenerate(`{"keyType":"Secondary","keyValue":"chosen"}`)
	if got, q := s.keys("iris"); got != p || q != "chosen" {
		t.Errorf("the keys became %q and %q", got, q)
	}
	s.Refused(400, "InvalidParameter", "POST", mms, "/services/iris/regenerateKeys", `{"keyType":"Third"}`, "keyType", "Third", "Primary or Secondary")
	secret := must(s.kube.CoreV1().Secrets(ns).Get(t.Context(), route.SecretName("iris"), getOptions))
	if data := fmt.Sprint(secret.Data); strings.Contains(text(secret), p) || strings.Contains(data, "chosen") {
		t.Error("a key is in the cluster as it is")
	}
}

// call asks a front end that follows a service's route for a prediction, and returns the status: 401, or 503
// because no pod answers.
func (s *server) call(routed, called, credential string) int {
	s.T.Helper()
	f := frontend.New(s.Manager.Logger)
	f.SetRoute(s.routeOf(routed))
	r := httptest.NewRequestWithContext(s.T.Context(), "POST", "/api/v1/service/"+called+"/score", strings.NewReader("{}"))
	r.Header.Set("Authorization", "Bearer "+credential)
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w.Code
}

// The front end takes the tokens that are given out for a service, for this one and no other, until they expire,
// and keys no longer.
func TestTokens(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Advance(time.Since(s.Now())) // the front end has a clock of its own
	s.deploy(deployment("iris", object{"maxQueueWaitMs": 1}))
	s.Refused(400, "BadRequest", "POST", mms, "/services/iris/token", "", "'iris'", "token_auth_enabled=True", "get_keys")
	primary, _ := s.keys("iris")
	if got := s.call("iris", "iris", primary); got != 503 {
		t.Errorf("a key is answered with %d", got)
	}
	s.update("iris", "/aadAuthEnabled", true, "/authEnabled", false)
	s.deploy(deployment("rose", object{"maxQueueWaitMs": 1, "aadAuthEnabled": true, "authEnabled": false}))
	token := func(service string) string {
		t.Helper()
		r := s.As("reader").Want(200, "POST", mms, "/services/"+service+"/token", "") // with the right to read the workspace
		refresh, _ := r.At("refreshAfter").(float64)
		expiry, _ := r.At("expiryOn").(float64)
		if now := float64(s.Now().Unix()); r.At("tokenType") != "Bearer" || refresh <= now || expiry <= refresh {
			t.Errorf("the token is %s", r.Raw)
		}
		return r.At("accessToken").(string)
	}
	mine, other := token("iris"), token("rose")
	for _, tt := range []struct {
		name, credential string
		want             int
	}{
		{"token", mine, 503}, {"another service's", other, 401}, {"key", primary, 401}, {"tampered", mine[:len(mine)-6] + "AAAAAA", 401}, {"none", "", 401},
	} {
		if got := s.call("iris", "iris", tt.credential); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	s.Advance(-25 * time.Hour)
	if got := s.call("iris", "iris", token("iris")); got != 401 {
		t.Errorf("a token that has expired is answered with %d", got)
	}
	s.Advance(time.Since(s.Now()))
	// A service that is made anew under the name takes none of the old one's tokens.
	op := operationOf(s.Want(202, "DELETE", mms, "/services/iris", ""))
	s.after(time.Second)
	s.ended(op, "Succeeded")
	s.deploy(deployment("iris", object{"maxQueueWaitMs": 1, "aadAuthEnabled": true, "authEnabled": false}))
	if got := s.call("iris", "iris", mine); got != 401 {
		t.Errorf("a token of the service that was deleted is answered with %d", got)
	}
}

// The password of a base image's registry reaches the builder and nobody else: it is in no answer and in no row, and stays
// while the registry and its user do.
func TestRegistryPassword(t *testing.T) {
	t.Parallel()
	s := start(t)
	const password = "hunter2hunter2"
	withRegistry := func(address, user string, password any) object {
		return object{"environmentImageRequest": imageRequest(object{"environment": env(object{"address": address, "username": user, "password": password})})}
	}
	// Without an address the base image's own name says which registry is asked.
	based := func(base, address any, password any) object {
		e := env(object{"address": address, "username": "me", "password": password})
		e["docker"].(object)["baseImage"] = base
		return imageRequest(object{"environment": e})
	}
	given := func() bool { return strings.Contains(s.images.definitions[len(s.images.definitions)-1], password) }
	for _, tt := range []struct {
		name string
		do   func()
		want bool
	}{
		{"created", func() { s.deploy(deployment("iris", withRegistry("r.test", "me", password))) }, true},
		{"another change", func() { s.update("iris", "/description", "d") }, true},
		{"not given again", func() {
			s.update("iris", "/environmentImageRequest", withRegistry("r.test", "me", nil)["environmentImageRequest"])
		}, true},
		{"new keys", func() {
			s.Want(202, "POST", mms, "/services/iris/regenerateKeys", `{"keyType":"Primary"}`)
			s.pass()
			s.serve()
		}, true},
		{"another user", func() {
			s.update("iris", "/environmentImageRequest", withRegistry("r.test", "you", nil)["environmentImageRequest"])
		}, false},
		{"back", func() {
			s.update("iris", "/environmentImageRequest", withRegistry("r.test", "me", nil)["environmentImageRequest"])
		}, false},
		{"given again", func() {
			s.update("iris", "/environmentImageRequest", withRegistry("r.test", "me", password)["environmentImageRequest"])
		}, true},
		{"another registry", func() {
			s.update("iris", "/environmentImageRequest", withRegistry("evil.test", "me", nil)["environmentImageRequest"])
		}, false},
		{"by the image's name", func() { s.update("iris", "/environmentImageRequest", based("r.test/base:1", "", password)) }, true},
		{"another image of the registry", func() { s.update("iris", "/environmentImageRequest", based("r.test/other:2", nil, nil)) }, true},
		{"the same registry, with its address", func() { s.update("iris", "/environmentImageRequest", based("other:3", "r.test", nil)) }, true},
		{"another registry in the image's name", func() { s.update("iris", "/environmentImageRequest", based("evil.test/base:1", "", nil)) }, false},
		{"back to the image's registry", func() { s.update("iris", "/environmentImageRequest", based("r.test/base:1", "", nil)) }, false},
		{"given again for the image's registry", func() { s.update("iris", "/environmentImageRequest", based("r.test/base:1", "", password)) }, true},
		{"a registry that is none", func() { s.update("iris", "/environmentImageRequest", based("library/base:1", "r", nil)) }, false},
		{"given again for the image's registry", func() { s.update("iris", "/environmentImageRequest", based("r.test/base:1", "", password)) }, true},
		{"two spellings", func() {
			r := based("r.test/base:1", "", nil)
			r["environment"].(object)["docker"].(object)["baseimage"] = "evil.test/base:1"
			s.update("iris", "/environmentImageRequest", r)
		}, false},
		{"of a version", func() {
			s.deploy(endpoint("pair", object{"v1": version(withRegistry("r.test", "me", password))}))
		}, true},
	} {
		tt.do()
		if given() != tt.want {
			t.Errorf("%s: the builder got %s", tt.name, s.images.definitions[len(s.images.definitions)-1])
		}
		for _, name := range s.Want(200, "GET", mms, "/services", "").Strings("name") {
			row := s.row(name)
			for what, data := range map[string]string{"answer": s.get(name).Raw, "spec": string(row.Spec), "status": string(row.Status), "record": string(row.Conditions), "cluster": text(s.kubeObjects())} {
				if strings.Contains(data, password) {
					t.Errorf("%s: the %s of %s has the password: %s", tt.name, what, name, data)
				}
			}
		}
	}
}

// A deployment that names a registered environment is built with the password that this was registered with, for the
// registry that this has.
func TestRegisteredEnvironment(t *testing.T) {
	t.Parallel()
	s := start(t)
	const password = "hunter2hunter2"
	s.Want(200, "PUT", dataplane.Environments, "/environments/e/versions/1", text(env(object{"address": "r.test", "username": "me", "password": password})))
	registered := s.Want(200, "GET", dataplane.Environments, "/environments/e/versions/1", "")
	if strings.Contains(registered.Raw, password) {
		t.Fatalf("the environment shows it: %s", registered.Raw)
	}
	s.deploy(deployment("iris", object{"environmentImageRequest": imageRequest(object{"environment": registered.Body})}))
	if d := s.images.definitions[0]; !strings.Contains(d, password) || !strings.Contains(d, "base:1") {
		t.Errorf("the builder got %s", d)
	}
	for i, c := range []struct{ base, address, user string }{{"base:1", "evil.test", "me"}, {"base:1", "r.test", "you"}, {"evil.test/base:1", "", "me"}, {"base:1", "", "me"}, {"", "r.test", "me"}} {
		e := env(object{"address": c.address, "username": c.user, "password": nil})
		e["docker"].(object)["baseImage"] = c.base
		s.deploy(deployment(fmt.Sprintf("other%d", i), object{"environmentImageRequest": imageRequest(object{"environment": e})}))
		if d := s.images.definitions[len(s.images.definitions)-1]; strings.Contains(d, password) {
			t.Errorf("the password goes to another registry or user: %s", d)
		}
	}
	// What names its registry in the image alone has its password for that one alone.
	e := env(object{"address": "", "username": "me", "password": password})
	e["docker"].(object)["baseImage"] = "r.test/base:1"
	s.Want(200, "PUT", dataplane.Environments, "/environments/e/versions/2", text(e))
	for i, base := range []string{"r.test/base:1", "evil.test/base:1"} {
		e := env(object{"address": nil, "username": "me", "password": nil})
		e["version"], e["docker"].(object)["baseImage"] = "2", base
		s.deploy(deployment(fmt.Sprintf("named%d", i), object{"environmentImageRequest": imageRequest(object{"environment": e})}))
		if d := s.images.definitions[len(s.images.definitions)-1]; strings.Contains(d, password) != (i == 0) {
			t.Errorf("for the image %s the builder got %s", base, d)
		}
	}
	if r := s.get("iris"); strings.Contains(r.Raw, password) {
		t.Errorf("the service shows it: %s", r.Raw)
	}
}
