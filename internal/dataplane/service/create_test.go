package service_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/route"
)

// A deployment goes through: the operation is there at once, the images are made, pods and route come, and the
// web service says all that azureml-core reads (D1).
func TestDeploy_D1(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.Want(202, "POST", mms, "/services", text(deployment("iris", object{"kvTags": object{"team": "a"}, "properties": object{"p": "1"}, "description": "d"})))
	if at := r.Header.Get("Operation-Location"); !strings.Contains(at, mms) || r.At("state") != "Transitioning" {
		t.Errorf("accepted at %q as %s", at, r.Raw)
	}
	op := operationOf(r)
	s.is("iris", "Transitioning")
	s.pass()
	s.is("iris", "Transitioning")
	s.ended(op, "Running")
	s.serve()
	done := s.ended(op, "Succeeded")
	if done.At("operationType") != "CreateService" || done.At("resourceLocation") != "/services/iris" || done.At("endTime") == nil || done.At("error") != nil {
		t.Errorf("operation: %s", done.Raw)
	}
	got := s.is("iris", "Healthy")
	for path, want := range map[string]any{
		"name": "iris", "computeType": "AKS", "computeName": "aks", "kvTags.team": "a", "properties.p": "1", "description": "d", "authEnabled": true, "aadAuthEnabled": false, "appInsightsEnabled": false,
		"scoringUri": "http://20.0.0.1:80/api/v1/service/iris/score", "swaggerUri": "http://20.0.0.1:80/api/v1/service/iris/swagger.json", "numReplicas": 1.0, "autoScaler.autoscaleEnabled": false,
		"containerResourceRequirements.cpu": 0.1, "containerResourceRequirements.memoryInGB": 0.5, "containerResourceRequirements.cpuLimit": nil, "maxConcurrentRequestsPerContainer": 1.0, "maxQueueWaitMs": 500.0,
		"scoringTimeoutMs": 60000.0, "livenessProbeRequirements.initialDelaySeconds": 310.0, "dataCollection.storageEnabled": false, "deploymentStatus.availableReplicas": 1.0, "models.0.id": "iris:1",
		"environmentImageRequest.modelIds.0": "iris:1", "operationId": op,
	} {
		if got.At(path) != want {
			t.Errorf("%s is %v, want %v", path, got.At(path), want)
		}
	}
	for _, field := range []string{"autoScaler", "containerResourceRequirements", "dataCollection", "kvTags", "properties", "createdTime", "updatedTime", "createdBy", "state"} {
		if _, ok := got.Body[field]; !ok {
			t.Errorf("there is no %s, which the client needs", field)
		}
	}
	if strings.Contains(got.Raw, "primaryKey") || got.At("error") != nil {
		t.Errorf("the answer has keys, or an error: %s", got.Raw)
	}
}

// What runs is the user's script with the models below AZUREML_MODEL_DIR; the driver that azureml-core generates is not.
func TestContainer(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.register("rose", "Custom")
	s.deploy(deployment("iris", nil))
	s.deploy(deployment("both", object{"environmentImageRequest": imageRequest(object{"modelIds": []string{"iris:1", "rose:1"}})}))
	want := map[string]string{
		"AML_APP_ROOT": "/var/azureml-app", "AZUREML_MODEL_DIR": "/var/azureml-app/azureml-models/iris/1", "SERVICE_NAME": "iris", "WORKSPACE_NAME": "ws", "SERVICE_PATH_PREFIX": "api/v1/service/iris",
		"SCORING_TIMEOUT_MS": "60000", "COLOUR": "red",
	}
	if diff := cmp.Diff(want, s.variables("iris")); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
	if dir := s.variables("both")["AZUREML_MODEL_DIR"]; dir != "/var/azureml-app/azureml-models" {
		t.Errorf("with two models AZUREML_MODEL_DIR is %s", dir)
	}
	d := s.kubeDeployment("iris")
	c := d.Spec.Template.Spec.Containers[0]
	if c.Image != "registry.test/env@sha256:1" || c.Command[len(c.Command)-1] != "/var/azureml-app/score.py" || d.Spec.Template.Spec.ImagePullSecrets[0].Name != "pull" {
		t.Errorf("the container is %+v", c)
	}
	if paths := []string{c.VolumeMounts[1].MountPath, c.VolumeMounts[2].MountPath}; paths[0] != "/var/azureml-app" || paths[1] != "/var/azureml-app/azureml-models/iris/1" {
		t.Errorf("mounted at %v", paths)
	}
	code := 0
	for id, content := range s.registry.images {
		if strings.Contains(id, "/code ") {
			code++
			if content["score.py"] != "def run(data): return data" || content["driver.py"] != "" {
				t.Errorf("the code is %v", content)
			}
		}
		if strings.Contains(id, "/models ") && !strings.HasPrefix(content["model.pkl"], "weights of ") {
			t.Errorf("the model is %v", content)
		}
	}
	if code != 2 || len(s.registry.images) != 4 {
		t.Errorf("there are %d images, %d of code; the model of both is packed once", len(s.registry.images), code)
	}
}

// Without a script Berth writes one for the model's framework.
func TestNoCode(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ framework, pip, call string }{
		{"ScikitLearn", "scikit-learn==1.3", "joblib.load"}, {"Onnx", "onnxruntime", "InferenceSession"},
	} {
		t.Run(tt.framework, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.register("m", tt.framework)
			s.deploy(deployment("nocode", object{"environmentImageRequest": object{"modelIds": []string{"m:1"}}}))
			if d := s.images.definitions; len(d) != 1 || !strings.Contains(d[0], `"`+tt.pip+`"`) || !strings.Contains(d[0], "azureml-inference-server-http") {
				t.Errorf("asked for the environments %v", d)
			}
			if code := s.registry.of(t, "/code")["score.py"]; !strings.Contains(code, tt.call) || !strings.Contains(code, "def init()") || !strings.Contains(code, "def run(") {
				t.Errorf("the script is %q", code)
			}
		})
	}
	s := start(t)
	s.register("tf", "TensorFlow")
	s.Refused(400, "InvalidParameter", "POST", mms, "/services", text(deployment("nocode", object{"environmentImageRequest": object{"modelIds": []string{"tf:1"}}})), "environmentImageRequest", "TensorFlow", "ScikitLearn and Onnx", "InferenceConfig")
	s.Refused(400, "InvalidParameter", "POST", mms, "/services", text(deployment("nocode", object{"environmentImageRequest": object{"modelIds": []string{"iris:1", "tf:1"}}})), "modelIds", "exactly one model", "2")
}

// What is refused is refused at once, and by name: the field, the rule, what to do. Several mistakes are told together.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.compute("broken", resource.StateFailed)
	s.deploy(deployment("taken", nil))
	s.deploy(endpoint("a-b", object{"c": version(nil)}))
	long := "v" + strings.Repeat("1", 31)
	for _, tt := range []struct {
		name   string
		status int
		code   string
		body   object
		texts  []string
	}{
		{"name", 400, "BadRequest", deployment("No", nil), []string{"3 to 32 lower-case letters"}},
		{"no name", 400, "BadRequest", deployment("", nil), []string{"3 to 32"}},
		{"name of the front end", 400, "InvalidParameter", deployment("azureml-fe", nil), []string{"name: ", "front end", "another name"}},
		{"taken", 409, "Conflict", deployment("taken", nil), []string{"'taken'", "overwrite=True"}},
		{"name of a version", 400, "InvalidParameter", deployment("a-b-c", nil), []string{"name: ", "'a-b'", "another name"}},
		{"no default", 400, "InvalidParameter", endpoint("mine", object{"v1": version(nil), "v2": version(nil)}), []string{"no version is the default one", "is_default=True"}},
		{"long names", 400, "InvalidParameter", endpoint("e"+strings.Repeat("1", 31), object{long: version(nil)}), []string{"versions." + long + ".name", "65 characters", "63"}},
		{"compute", 404, "ResourceNotFound", deployment("new", object{"computeName": "nowhere"}), []string{"Compute Resource nowhere doesn't exist", "az ml computetarget list"}},
		{"broken compute", 400, "BadRequest", deployment("new", object{"computeName": "broken"}), []string{"not in Succeeded state", "Failed"}},
		{"no compute", 400, "InvalidParameter", deployment("new", object{"computeName": nil}), []string{"computeName"}},
		{"kind of compute", 400, "InvalidParameter", deployment("new", object{"computeType": "ACI"}), []string{"computeType", "AKS"}},
		{"model", 400, "InvalidParameter", deployment("new", object{"environmentImageRequest": imageRequest(object{"modelIds": []string{"iris:7"}})}), []string{"environmentImageRequest.modelIds.0", "iris:7", "Model.list"}},
		{"nothing to run", 400, "InvalidParameter", deployment("new", object{"environmentImageRequest": object{}}), []string{"modelIds", "nothing to run"}},
		{"no image request", 400, "InvalidParameter", deployment("new", object{"environmentImageRequest": nil}), []string{"environmentImageRequest", "required"}},
		{"no environment", 400, "InvalidParameter", deployment("new", object{"environmentImageRequest": imageRequest(object{"environment": nil})}), []string{"environmentImageRequest.environment", "InferenceConfig"}},
		{"elsewhere", 400, "InvalidParameter", deployment("new", object{"location": "eastus"}), []string{"location", "where its compute is"}},
		{"an endpoint's own replicas", 400, "InvalidParameter", with(endpoint("new", object{"v1": version(nil)}), object{"numReplicas": 1}), []string{"numReplicas", "its versions have"}},
		{"a version elsewhere", 400, "InvalidParameter", endpoint("new", object{"v1": version(object{"computeName": "other"})}), []string{"versions.v1.computeName", "something else"}},
		{"replicas and autoscaler", 400, "InvalidParameter", deployment("new", object{"autoScaler": object{"autoscaleEnabled": true}}), []string{"numReplicas", "Leave one of the two out"}},
		{"bounds", 400, "InvalidParameter", deployment("new", object{"numReplicas": nil, "autoScaler": object{"autoscaleEnabled": true, "minReplicas": 5, "maxReplicas": 2}}), []string{"autoScaler.minReplicas", "5", "2"}},
		{"cpu", 400, "InvalidParameter", deployment("new", object{"containerResourceRequirements": object{"cpu": 2, "cpuLimit": 1}}), []string{"containerResourceRequirements.cpuLimit", "1 is less than cpu, 2"}},
		{"memory", 400, "InvalidParameter", deployment("new", object{"containerResourceRequirements": object{"memoryInGB": 2, "memoryInGBLimit": 1}}), []string{"memoryInGBLimit", "less than"}},
		{"keys and tokens", 400, "InvalidParameter", deployment("new", object{"authEnabled": true, "aadAuthEnabled": true}), []string{"aadAuthEnabled", "auth_enabled to False"}},
		{"two mistakes", 400, "InvalidParameter", deployment("new", object{"scoringTimeoutMs": 0, "maxConcurrentRequestsPerContainer": 0}), []string{"2 problems", "scoringTimeoutMs", "maxConcurrentRequestsPerContainer", "between 1 and"}},
		{"namespace", 400, "NotSupported", deployment("new", object{"namespace": "mine"}), []string{"namespace"}},
		{"versions", 400, "InvalidParameter", deployment("new", object{"versions": object{"v": version(nil)}}), []string{"versions", "AksEndpoint"}},
		{"surge", 400, "InvalidParameter", deployment("new", object{"kvTags": object{"berth.maxSurge": "2"}}), []string{"kvTags.berth.maxSurge", `"2"`, "0", "1"}},
		{"no versions", 400, "InvalidParameter", endpoint("new", object{}), []string{"versions", "begins with one"}},
		{"version's name", 400, "InvalidParameter", endpoint("new", object{"V_1": version(nil)}), []string{"versions.V_1.name", "lower-case"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := s.Do("POST", mms, "/services", text(tt.body))
			message, _ := r.At("message").(string)
			if r.Status != tt.status || r.At("error.code") != tt.code {
				t.Errorf("answered with %d %v, want %d %s: %s", r.Status, r.At("error.code"), tt.status, tt.code, message)
			}
			for _, want := range tt.texts {
				if !strings.Contains(message, want) {
					t.Errorf("the message lacks %q: %s", want, message)
				}
			}
			if strings.Contains(r.Raw, "properties.") {
				t.Errorf("fields are named as this API does not know them: %s", message)
			}
		})
	}
	if got := s.Want(200, "GET", mms, "/services", "").Strings("name"); len(got) != 2 {
		t.Errorf("what was refused is there: %v", got)
	}
}

// Validation says beforehand what deploying would say, with 200, and stores nothing.
func TestValidate(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("taken", nil))
	good, bad := deployment("new", nil), deployment("new", object{"computeName": "nowhere"})
	for _, tt := range []struct{ path, body, want string }{
		{"/services/validate/name/new", "", ""},
		{"/services/validate/name/No", "", "lower-case"},
		{"/services/validate/name/taken", "", "overwrite=True"},
		{"/services/validate/resource", text(good), ""},
		{"/services/validate/resource", text(bad), "Compute Resource nowhere doesn't exist"},
		{"/services/validate/resource", text(deployment("taken", nil)), "overwrite=True"},
		{"/services/validate/resource", text(deployment("taken", object{"overwrite": true})), ""},
		{"/services/validate", text(object{"type": "Create", "serviceName": "new", "createRequest": good}), ""},
		{"/services/validate", text(object{"type": "Create", "serviceName": "new", "createRequest": bad}), "nowhere"},
		{"/services/validate", text(object{"type": "Update", "serviceName": "taken", "updateRequest": []any{}}), ""},
		{"/services/validate", text(object{"type": "Delete", "serviceName": "taken"}), ""},
	} {
		r := s.As("reader").Want(200, "POST", mms, tt.path, tt.body)
		message, _ := r.At("error.message").(string)
		if (tt.want == "") != (message == "") || !strings.Contains(message, tt.want) {
			t.Errorf("%s %s: %q, want %q", tt.path, tt.body, message, tt.want)
		}
	}
	if got := s.Want(200, "GET", mms, "/services", "").Strings("name"); len(got) != 1 {
		t.Errorf("validating made %v", got)
	}
	s.Want(400, "POST", mms, "/services/validate", "{")
}

// Deploying over a web service keeps its keys, so that callers are not locked out; keys that are given replace them.
func TestOverwrite(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	primary, secondary := s.keys("iris")
	if len(primary) != 32 || len(secondary) != 32 || primary == secondary {
		t.Fatalf("the keys are %q and %q", primary, secondary)
	}
	for _, tt := range []struct {
		name, method    string
		more            object
		first, secondly string
	}{
		{"overwrite", "POST", object{"overwrite": true, "description": "1"}, primary, secondary},
		{"PUT", "PUT", object{"description": "2"}, primary, secondary},
		{"null", "PUT", object{"description": "3", "keys": object{"primaryKey": nil, "secondaryKey": nil}}, primary, secondary},
		{"one", "PUT", object{"keys": object{"primaryKey": "mine"}}, "mine", secondary},
	} {
		r := s.Want(202, tt.method, mms, "/services", text(deployment("iris", tt.more)))
		s.pass()
		s.serve()
		s.ended(operationOf(r), "Succeeded")
		if p, q := s.keys("iris"); p != tt.first || q != tt.secondly {
			t.Errorf("%s: the keys became %q and %q", tt.name, p, q)
		}
	}
	if a := s.routeOf("iris").Auth; a.Mode != route.AuthKey || !a.HasKey("mine") || !a.HasKey(secondary) || a.HasKey(primary) {
		t.Errorf("front ends know other keys: %+v", a)
	}
	if r := s.get("iris"); r.At("description") != nil {
		t.Errorf("what was left out stays: %s", r.Raw)
	}
	s.Want(202, "PUT", mms, "/services", text(deployment("made-by-put", nil)))
}

// Each caller does what he may, and nothing more.
func TestCallers(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	s.As("stranger").Refused(403, "AuthorizationFailed", "POST", mms, "/services/iris/token", "", "'Microsoft.MachineLearningServices/workspaces/read'")
	s.As("reader").Refused(403, "AuthorizationFailed", "POST", mms, "/services/iris/listkeys", "", "'Microsoft.MachineLearningServices/workspaces/services/aks/listkeys/action'")
	for _, tt := range []struct {
		caller, method, path, body string
		status                     int
	}{
		{"", "GET", "/services", "", 401}, {"stranger", "GET", "/services", "", 403}, {"reader", "GET", "/services", "", 200},
		{"reader", "POST", "/services", text(deployment("x", nil)), 403}, {"reader", "DELETE", "/services/iris", "", 403}, {"reader", "POST", "/services/iris/listkeys", "", 403},
		{"reader", "POST", "/services/iris/regenerateKeys", `{"keyType":"Primary"}`, 403}, {"reader", "PATCH", "/services/iris", "[]", 403},
		{"writer", "POST", "/services/migrate", `{"serviceName":"iris"}`, 400},
		{"writer", "GET", "/services/nobody", "", 404}, {"writer", "PATCH", "/services/nobody", "[]", 404}, {"writer", "POST", "/services/nobody/listkeys", "", 404},
		{"writer", "DELETE", "/services/nobody", "", 204}, {"writer", "GET", "/services/nobody/logs", "", 404}, {"writer", "GET", "/operations/nothing", "", 404},
	} {
		if r := s.As(tt.caller).Do(tt.method, mms, tt.path, tt.body); r.Status != tt.status {
			t.Errorf("%q: %s %s is answered with %d, want %d: %s", tt.caller, tt.method, tt.path, r.Status, tt.status, r.Raw)
		}
	}
}

// What there was before environments is not there: lists are empty, and making one is refused with what to do instead.
func TestImagesPackagesProfiles(t *testing.T) {
	t.Parallel()
	s := start(t)
	for noun, call := range map[string]string{"images": "deploy_from_image", "packages": "Model.package", "profiles": "Model.profile"} {
		s.Refused(400, "NotSupported", "POST", mms, "/"+noun, `{"name":"x"}`, call)
		s.Refused(404, "ResourceNotFound", "GET", mms, "/"+noun+"/x:1", "", call)
		r := s.As("reader").Want(200, "GET", mms, "/"+noun+"?expand=true", "")
		if _, more := r.Body["nextLink"]; more || len(r.Strings("id")) > 0 {
			t.Errorf("%s are %s", noun, r.Raw)
		}
	}
}
