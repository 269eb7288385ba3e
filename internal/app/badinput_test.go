package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// valid are documents with every kind of field that clients send, by what they are PUT to.
// {n} makes the name one of its own.
var valid = map[string]string{
	"{sub}/resourceGroups/g{n}?api-version=2022-09-01": `{"location":"westeurope","tags":{"team":"ports"},"managedBy":"someone"}`,
	"{ml}/w{n}?api-version=2022-10-01": `{"location":"westeurope","tags":{"a":"b"},"identity":{"type":"SystemAssigned"},"sku":{"name":"Basic","tier":"Basic"},
		"properties":{"friendlyName":"f","description":"d","hbiWorkspace":false,"imageBuildCompute":"c","publicNetworkAccess":"Enabled"}}`,
	"{ml}/ws/computes/c{n}?api-version=2020-02-02": `{"location":"westeurope","tags":{"a":"b"},"properties":{"computeType":"AKS","description":"d","properties":{
		"agentCount":3,"agentVmSize":"Standard_D3_v2","clusterPurpose":"FastProd","loadBalancerType":"PublicIp",
		"aksNetworkingConfiguration":{"serviceCidr":"10.0.0.0/16","dnsServiceIP":"10.0.0.10"}}}}`,
	"{mc}/k{n}?api-version=2025-10-01": `{"location":"westeurope","tags":{"a":"b"},"identity":{"type":"SystemAssigned"},"sku":{"name":"Base","tier":"Free"},"properties":{
		"dnsPrefix":"k","kubernetesVersion":"1.37","enableRBAC":true,"nodeResourceGroup":"MC_k",
		"agentPoolProfiles":[{"name":"nodepool1","count":1,"vmSize":"Standard_D3_v2","mode":"System","osType":"Linux","type":"VirtualMachineScaleSets","maxPods":110,"osDiskSizeGB":128,
			"nodeLabels":{"a":"b"},"nodeTaints":["CriticalAddonsOnly=true:NoSchedule"]}],
		"networkProfile":{"networkPlugin":"kubenet","serviceCidr":"10.0.0.0/16","dnsServiceIP":"10.0.0.10","podCidr":"10.244.0.0/16","loadBalancerSku":"standard"}}}`,
	"{mc}/host/agentPools/p{n}?api-version=2025-10-01": `{"properties":{"count":1,"vmSize":"Standard_A2_v2","mode":"User","osType":"Linux","maxPods":110,"nodeLabels":{"a":"b"}}}`,
	"{rg}/providers/Microsoft.Authorization/roleAssignments/00000000-0000-0000-0000-{n12}?api-version=2022-04-01": `{"properties":{
		"roleDefinitionId":"/subscriptions/s/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7","principalId":"00000000-0000-0000-0000-{n12}","principalType":"User"}}`,
	"{rg}/providers/Microsoft.Storage/storageAccounts/st{n}?api-version=2023-01-01":      `{"location":"westeurope","kind":"StorageV2","sku":{"name":"Standard_LRS"},"properties":{"supportsHttpsTrafficOnly":true}}`,
	"{rg}/providers/Microsoft.KeyVault/vaults/kv{n}?api-version=2023-02-01":              `{"location":"westeurope","properties":{"tenantId":"00000000-0000-0000-0000-000000000000","sku":{"family":"A","name":"standard"},"accessPolicies":[]}}`,
	"{rg}/providers/Microsoft.Insights/components/ai{n}?api-version=2020-02-02":          `{"location":"westeurope","kind":"web","properties":{"Application_Type":"web"}}`,
	"{rg}/providers/Microsoft.ContainerRegistry/registries/cr{n}?api-version=2023-07-01": `{"location":"westeurope","sku":{"name":"Basic"},"properties":{"adminUserEnabled":true}}`,
}

// place is one field of a document.
type place struct {
	path  []any // names and indexes
	value any
}

func (p place) name() string {
	for i := len(p.path) - 1; ; i-- {
		if s, ok := p.path[i].(string); ok {
			return s
		}
	}
}

func places(v any, path []any) []place {
	var out []place
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			at := append(slices.Clone(path), k)
			out = append(append(out, place{at, v[k]}), places(v[k], at)...)
		}
	case []any:
		for i, e := range v {
			at := append(slices.Clone(path), i)
			out = append(append(out, place{at, e}), places(e, at)...)
		}
	}
	return out
}

// with is the document with another value at a place, under another name when rename is given.
func with(t *testing.T, doc string, p place, value any, rename string) string {
	t.Helper()
	var root any
	if err := json.Unmarshal([]byte(doc), &root); err != nil {
		t.Fatal(err)
	}
	at := root
	for _, step := range p.path[:len(p.path)-1] {
		switch s := step.(type) {
		case string:
			at = at.(map[string]any)[s]
		case int:
			at = at.([]any)[s]
		}
	}
	switch last := p.path[len(p.path)-1].(type) {
	case string:
		delete(at.(map[string]any), last)
		if rename != "" {
			last = rename
		}
		if value != missing {
			at.(map[string]any)[last] = value
		}
	case int:
		at.([]any)[last] = value
	}
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

var missing any = new(int)

func kind(v any) string {
	switch v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a text"
	case float64:
		return "a number"
	}
	return "a truth value"
}

// TestBadInput sends every document with every one of its fields spoilt in every way, and
// holds the answers to: a status below 500, an ARM error, and the name of the field in it.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.workspace()
	if op := s.settle(s.want(201, "PUT", s.expand("{mc}/host?api-version=2025-10-01"), `{"location":"westeurope","properties":{"agentPoolProfiles":[{"name":"nodepool1","count":1,"mode":"System"}]}}`)); op.at("status") != "Succeeded" {
		t.Fatal(op.raw)
	}
	n := 1000
	put := func(path, doc string) reply {
		n++
		number := strings.NewReplacer("{n12}", fmt.Sprintf("%012d", n), "{n}", fmt.Sprint(n))
		r := s.do("PUT", number.Replace(s.expand(path)), number.Replace(doc))
		if r.status >= 500 {
			t.Errorf("PUT %s is answered with %d\n%.300s\n%s", path, r.status, doc, r.raw)
		}
		if code, _ := r.at("error.code").(string); r.status >= 400 && code == "" {
			t.Errorf("PUT %s is answered with %d and no ARM error: %s", path, r.status, r.raw)
		}
		return r
	}
	refused := func(path, doc, field, how string) {
		t.Helper()
		r := put(path, doc)
		message, _ := r.at("error.message").(string)
		if r.status != http.StatusBadRequest || !strings.Contains(strings.ToLower(message), strings.ToLower(field)) {
			t.Errorf("%s: %s %s: %d %.300s", path, field, how, r.status, r.raw)
		}
		if len(message) > 8<<10 {
			t.Errorf("%s: %s %s: the message has %d bytes", path, field, how, len(message))
		}
	}
	for path, doc := range valid {
		if r := put(path, doc); r.status >= 300 {
			t.Errorf("PUT %s: the valid document is refused: %s", path, r.raw)
			continue
		}
		var root any
		if err := json.Unmarshal([]byte(doc), &root); err != nil {
			t.Fatal(err)
		}
		wrong := map[string]any{"an object": map[string]any{"zz": 1}, "a list": []any{map[string]any{"zz": 1}}, "a text": "zz", "a number": -7.5, "a truth value": true}
		for _, p := range places(root, nil) {
			for how, value := range wrong {
				if how != kind(p.value) {
					refused(path, with(t, doc, p, value, ""), p.name(), "as "+how)
				}
			}
			switch p.value.(type) {
			case string:
				refused(path, with(t, doc, p, strings.Repeat("x", 1<<17), ""), p.name(), "with 131072 characters")
				refused(path, with(t, doc, p, "a\x00b", ""), p.name(), "with NUL")
			case float64:
				for _, value := range []any{-1, 1 << 40, 1.5, json.RawMessage("1e400")} {
					refused(path, with(t, doc, p, value, ""), p.name(), fmt.Sprint("as ", value))
				}
			case map[string]any:
				if p.name() == "tags" || p.name() == "nodeLabels" {
					continue
				}
				doc := with(t, doc, place{append(slices.Clone(p.path), "zzUnknown"), nil}, "x", "")
				refused(path, doc, "zzUnknown", "which does not exist")
			}
			if _, isName := p.path[len(p.path)-1].(string); isName {
				put(path, with(t, doc, p, missing, "")) // allowed or refused, not a 500
				put(path, with(t, doc, p, nil, ""))
				if parent := p.path[max(0, len(p.path)-2)]; parent != "tags" && parent != "nodeLabels" {
					if r := put(path, with(t, doc, p, p.value, strings.ToUpper(p.name()))); r.status >= 300 && r.status != http.StatusConflict { // a pool waits for the one before it
						t.Errorf("%s: names have no case, but %s is refused: %s", path, strings.ToUpper(p.name()), r.raw)
					}
				}
			}
		}
		refused(path, with(t, doc, place{[]any{"zzUnknown"}, nil}, 1, ""), "zzUnknown", "which does not exist")
		for _, broken := range []string{"{", "[]", "7", "null", `"text"`, "\xff", "{}{}", `{"location":}`, strings.Repeat("[", 20000), `{"a":` + strings.Repeat(`{"a":`, 20000)} {
			if r := put(path, broken); r.status != http.StatusBadRequest {
				t.Errorf("%s: the body %.20q is answered with %d %s", path, broken, r.status, r.raw)
			}
		}
	}
	t.Logf("%d documents", n)
}

func TestBadInput_LargeBody(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	body := `{"location":"westeurope","tags":{"a":"` + strings.Repeat("x", 20<<20) + `"}}`
	r, err := s.send("PUT", s.sub()+"/resourceGroups/rg"+v, body)
	if err == nil && (r.status != http.StatusRequestEntityTooLarge || r.at("error.code") != "RequestContentTooLarge") {
		t.Errorf("20 MB are answered with %d %.200s", r.status, r.raw)
	}
	s.want(404, "GET", s.sub()+"/resourceGroups/rg"+v, "") // and the server is there still
}

func TestBadInput_HostileIDs(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.workspace()
	names := []string{
		"..", ".", "%2e%2e", "%2E%2E%2F%2E%2E", "a%2fb", "a%5cb", "%00", "a%00b", "%0d%0aX-Evil:1", "%ff%fe", "%C0%AE", "é", "%E2%80%AE", "名前", "a%20b", " ", "%20", "'", `"`, "%22", "<script>", "%3Cscript%3E",
		"a;b", "a&b", "$(id)", "`id`", "a#b", "%23", "%3f", "a:b", "a|b", strings.Repeat("a", 91), strings.Repeat("a", 5000), "-", "_", "a.", "%", "%zz", "con", "~", "*", "{}", "\\",
	}
	for _, name := range names {
		for _, pattern := range []string{
			"{sub}/resourceGroups/NAME", "{ml}/NAME", "{ml}/ws/computes/NAME", "{mc}/NAME", "{mc}/NAME/agentPools/NAME", "/subscriptions/NAME", "/subscriptions/NAME/resourceGroups", "{rg}/providers/NAME/things/t",
			"{rg}/providers/Microsoft.ContainerService/NAME/t", "{sub}/providers/NAME", "{rg}/NAME", "{ml}/ws/NAME/t",
		} {
			path := strings.ReplaceAll(s.expand(pattern), "NAME", name) + "?api-version=2020-08-01"
			for _, method := range []string{"GET", "PUT", "DELETE", "PATCH", "POST", "HEAD"} {
				body := ""
				if method == "PUT" || method == "PATCH" {
					body = `{"location":"westeurope","properties":{"computeType":"AKS"}}`
				}
				r, err := s.raw(method, path, body)
				if err != nil {
					continue // what is no URL never leaves the client
				}
				if r.status >= 500 || r.status < 200 {
					t.Errorf("%s %q: %d %s", method, path, r.status, r.raw)
				}
				if r.header.Get("X-Evil") != "" {
					t.Errorf("%s %q: a header came out of the path", method, path)
				}
			}
		}
	}
	// None of it left anything behind but groups and clusters with names that the rules allow.
	for _, list := range []string{"{sub}/resourceGroups", "{ml}", "{mc}"} {
		r := s.want(200, "GET", s.expand(list)+"?api-version=2020-08-01", "")
		for _, e := range r.body["value"].([]any) {
			name := e.(map[string]any)["name"].(string)
			if strings.ContainsAny(name, "/\\<>\"'`$%&;:|#?*{} \x00\r\n") || strings.HasSuffix(name, ".") || len(name) > 90 {
				t.Errorf("%s has a resource named %q", list, name)
			}
		}
	}
}

// raw sends a path that net/url would refuse or change as it is.
func (s *server) raw(method, path, body string) (reply, error) {
	req, err := http.NewRequest(method, s.info.URL, bytes.NewBufferString(body))
	if err != nil {
		return reply{}, err
	}
	plain, query, _ := strings.Cut(path, "?")
	if strings.ContainsAny(plain, " \x00\r\n") {
		return reply{}, fmt.Errorf("not a request line")
	}
	req.URL.Opaque = "//" + req.URL.Host + plain
	req.URL.RawQuery = query
	return s.roundTrip(req, body != "")
}

// validDeployment has every field of a web service that clients send.
const validDeployment = `{"name":"svc{n}","computeType":"AKS","computeName":"made","deploymentType":"HttpRealtimeEndpoint","kvTags":{"a":"b"},"properties":{"p":"q"},"description":"d","overwrite":false,
	"keys":{"primaryKey":"one","secondaryKey":"two"},"authEnabled":true,"aadAuthEnabled":false,"appInsightsEnabled":false,"autoScaler":{"autoscaleEnabled":true,"minReplicas":1,"maxReplicas":3,
	"targetUtilization":70,"refreshPeriodInSeconds":1},"containerResourceRequirements":{"cpu":1,"cpuLimit":2,"memoryInGB":1,"memoryInGBLimit":2,"gpu":1},"dataCollection":{"storageEnabled":false,"eventHubEnabled":false},
	"maxConcurrentRequestsPerContainer":1,"maxQueueWaitMs":500,"scoringTimeoutMs":60000,"livenessProbeRequirements":{"initialDelaySeconds":310,"periodSeconds":10,"failureThreshold":3,"successThreshold":1,"timeoutSeconds":2},
	"storageInitEnabled":false,"environmentImageRequest":{"driverProgram":"score.py","assets":[{"id":"score.py","url":"aml://artifact/LocalUpload/1/score.py","mimeType":"application/x-python","unpack":false}],
	"modelIds":["iris:1"],"models":[],"environment":{"name":"plain","version":"1","python":{"userManagedDependencies":true,"condaDependencies":{"dependencies":["python=3.11"]}},
	"docker":{"baseImageRegistry":{"address":"a","username":"u","password":"p"}}}}}`

// TestBadInput_WebService spoils a deployment as TestBadInput does documents of ARM.
func TestBadInput_WebService(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.workspace()
	s.deploy("first")
	n := 0
	post := func(path, doc string) reply {
		n++
		r := s.do("POST", s.expand(path), strings.ReplaceAll(doc, "{n}", fmt.Sprint(n)))
		if r.status >= 500 {
			t.Errorf("%s is answered with %d\n%.300s\n%s", path, r.status, doc, r.raw)
		}
		code, _ := r.at("error.code").(string)
		reason, _ := r.at("correlation.Reason").(string)
		if r.status >= 400 && (code == "" || reason == "") {
			t.Errorf("%s is answered with %d and no error of this API: %s", path, r.status, r.raw)
		}
		return r
	}
	const services = "{mms}/services"
	refused := func(doc, field, how string) {
		t.Helper()
		r := post(services, doc)
		message, _ := r.at("message").(string)
		field = strings.TrimPrefix(field, "kv") // people know kvTags as tags
		if r.status != http.StatusBadRequest || !strings.Contains(strings.ToLower(message), strings.ToLower(field)) {
			t.Errorf("%s %s: %d %.300s", field, how, r.status, r.raw)
		}
		if len(message) > 8<<10 {
			t.Errorf("%s %s: the message has %d bytes", field, how, len(message))
		}
	}
	if r := post(services, validDeployment); r.status != http.StatusAccepted {
		t.Fatalf("the valid deployment is refused: %s", r.raw)
	}
	var root any
	if err := json.Unmarshal([]byte(validDeployment), &root); err != nil {
		t.Fatal(err)
	}
	wrong := map[string]any{"an object": map[string]any{"zz": 1}, "a list": []any{map[string]any{"zz": 1}}, "a text": "zz", "a number": -7.5, "a truth value": true}
	for _, p := range places(root, nil) {
		free := slices.Contains(p.path, any("environment")) || slices.Contains(p.path, any("models")) // whatever a client keeps in an environment
		for how, value := range wrong {
			switch {
			case free:
				post(services, with(t, validDeployment, p, value, "")) // allowed or refused, not a 500
			case how != kind(p.value):
				refused(with(t, validDeployment, p, value, ""), p.name(), "as "+how)
			}
		}
		if free {
			continue
		}
		switch p.value.(type) {
		case string:
			refused(with(t, validDeployment, p, strings.Repeat("x", 1<<17), ""), p.name(), "with 131072 characters")
			refused(with(t, validDeployment, p, "a\x00b", ""), p.name(), "with NUL")
		case float64:
			for _, value := range []any{-1, 1 << 40, json.RawMessage("1e400")} {
				refused(with(t, validDeployment, p, value, ""), p.name(), fmt.Sprint("as ", value))
			}
		case map[string]any:
			if p.name() != "kvTags" && p.name() != "properties" {
				refused(with(t, validDeployment, place{append(slices.Clone(p.path), "zzUnknown"), nil}, "x", ""), "zzUnknown", "which does not exist")
			}
		}
		if _, isName := p.path[len(p.path)-1].(string); isName {
			post(services, with(t, validDeployment, p, missing, "")) // allowed or refused, not a 500
			post(services, with(t, validDeployment, p, nil, ""))
			if r := post(services, with(t, validDeployment, p, p.value, strings.ToUpper(p.name()))); r.status >= 300 {
				t.Errorf("names have no case, but %s is refused: %s", strings.ToUpper(p.name()), r.raw)
			}
		}
	}
	refused(with(t, validDeployment, place{[]any{"zzUnknown"}, nil}, 1, ""), "zzUnknown", "which does not exist")
	broken := []string{"", "{", "[]", "7", "null", `"text"`, "\xff", "{}", "{}{}", `{"name":}`, strings.Repeat("[", 20000), `{"a":` + strings.Repeat(`{"a":`, 20000)}
	for _, path := range []string{services, "{mms}/services/first/regenerateKeys", "{mms}/models", "{mms}/assets", "{artifacts}/batch/metadata/LocalUpload/1"} {
		for _, body := range broken {
			if r := post(path, body); r.status != http.StatusBadRequest {
				t.Errorf("%s: the body %.20q is answered with %d %s", path, body, r.status, r.raw)
			}
		}
	}
	t.Logf("%d documents", n)
}

// A patch changes what may change, as a whole or not at all, whatever it says.
func TestBadInput_Patch(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.workspace()
	s.deploy("first")
	show := func(path string) string {
		r := s.want(200, "GET", path, "")
		delete(r.body, "operationId")
		text, err := json.Marshal(r.body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, path := range []string{s.expand("{mms}/models/iris:1"), s.expand("{mms}/services/first")} {
		before := show(path)
		for _, patch := range []string{
			"", "{", "{}", "null7", "7", `"x"`, `[7]`, `["x"]`, `[null]`, `[{}]`, `[{"op":"add"}]`, `[{"op":"add","path":""}]`, `[{"op":"add","path":"","value":{}}]`, `[{"op":"add","path":"x","value":1}]`,
			`[{"op":"remove","path":"/absent"}]`, `[{"op":"remove","path":"/kvTags/absent/more"}]`, `[{"op":"explode","path":"/description"}]`, `[{"op":7,"path":"/description"}]`, `[{"op":"add","path":7}]`,
			`[{"op":"add","path":"/description","value":{"a":1}}]`, `[{"op":"add","path":"/description","value":7}]`, `[{"op":"add","path":"/kvTags","value":"x"}]`, `[{"op":"add","path":"/kvTags/a","value":{}}]`,
			`[{"op":"add","path":"/zzUnknown","value":"x"}]`, `[{"op":"add","path":"/description/deep","value":"x"}]`, `[{"op":"add","path":"/id","value":"x"},{"op":"test","path":"/id","value":"y"}]`,
			`[{"op":"replace","path":"/name","value":"other"}]`, `[{"op":"move","path":"/description"}]`, `[{"op":"move","from":"/name","path":"/description"}]`, `[{"op":"copy","from":"/absent","path":"/description"}]`,
			`[{"op":"add","path":"/kvTags/a","value":"set"},{"op":"add","path":"/zzUnknown","value":"x"}]`, `[{"op":"test","path":"/name","value":"other"},{"op":"add","path":"/kvTags/a","value":"set"}]`,
			`[{"op":"add","path":"/kvTags/~2","value":{}}]`, `[{"op":"add","path":"/kvTags/a","value":"` + strings.Repeat("x", 1<<17) + `"}]`, `[{"op":"add","path":"/kvTags/a","value":"a\u0000b"}]`,
			`[` + strings.Repeat(`{"op":"add","path":"/kvTags/a","value":"b"},`, 5000) + `{"op":"add","path":"/kvTags/a","value":"b"}]`, strings.Repeat("[", 20000),
		} {
			r := s.do("PATCH", path, patch)
			if code, _ := r.at("error.code").(string); r.status < 400 || r.status >= 500 || code == "" {
				t.Errorf("%s: the patch %.80q is answered with %d %.300s", path, patch, r.status, r.raw)
			}
			if after := show(path); after != before {
				t.Fatalf("%s: the patch %.80q changed\n%s to\n%s", path, patch, before, after)
			}
		}
	}
}
