package fake

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// maxBody is more than an API server takes (etcd's limit of 1.5 MiB per object).
const maxBody = 3 << 20

// request is where a request's path leads.
type request struct {
	kind                         kind
	namespace, name, subresource string
}

// parse reads /api/v1/… and /apis/<group>/<version>/…; what is not on offer is a 404.
func parse(r *http.Request) (request, error) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group, rest := "", parts
	switch {
	case len(parts) > 2 && parts[0] == "api":
		rest = parts[1:]
	case len(parts) > 3 && parts[0] == "apis":
		group, rest = parts[1], parts[2:]
	default:
		return request{}, errPageNotFound()
	}
	version, rest := rest[0], rest[1:]
	var q request
	// /namespaces/x is a namespace itself, /namespaces/x/pods is something in it.
	if rest[0] == "namespaces" && len(rest) > 2 && rest[2] != "status" && rest[2] != "finalize" {
		q.namespace, rest = rest[1], rest[2:]
	}
	if review, isReview := reviews[group+"/"+rest[0]]; isReview {
		q.kind = review
		return q, nil
	}
	var found bool
	if q.kind, found = findKind(group, version, rest[0]); !found || len(rest) > 3 {
		return request{}, errPageNotFound()
	}
	if len(rest) > 1 {
		q.name = rest[1]
	}
	if len(rest) > 2 {
		q.subresource = rest[2]
	}
	return q, nil
}

func errPageNotFound() error {
	return errors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "the server could not find the requested resource", 0, true)
}

// reviews are the types that are answered and not stored.
var reviews = map[string]kind{
	"authorization.k8s.io/selfsubjectaccessreviews": grouped("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
	"authorization.k8s.io/subjectaccessreviews":     grouped("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", false),
}

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request, q request) error {
	resource := q.kind.groupResource()
	var body object
	var err error
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		if body, err = readObject(r, q.kind); err != nil {
			return err
		}
	}
	switch {
	case strings.HasSuffix(q.kind.Kind, "AccessReview"):
		body["status"] = map[string]any{"allowed": true, "reason": "the fake API server allows everything"}
		writeJSON(w, http.StatusCreated, body)
		return nil
	case r.Method == http.MethodGet && q.name != "" && q.subresource == "":
		return answer(w, r, q.kind, http.StatusOK, func() (object, error) { return s.objects.get(resource, q.namespace, q.name) })
	case r.Method == http.MethodGet && q.subresource == "":
		return s.list(w, r, q)
	case r.Method == http.MethodPost && q.name == "":
		return answer(w, r, q.kind, http.StatusCreated, func() (object, error) { return s.objects.create(resource, q.namespace, body) })
	case r.Method == http.MethodPost && q.subresource == "token":
		return s.createToken(w, q, body)
	case r.Method == http.MethodPost && q.subresource == "eviction", r.Method == http.MethodDelete && q.name != "":
		if _, err := s.objects.delete(resource, q.namespace, q.name); err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, object{"kind": "Status", "apiVersion": "v1", "status": "Success"})
		return nil
	case r.Method == http.MethodPut && q.name != "":
		return answer(w, r, q.kind, http.StatusOK, func() (object, error) {
			return s.objects.update(resource, q.namespace, q.name, func(object) (object, error) { return body, nil })
		})
	case r.Method == http.MethodPatch && q.name != "":
		return s.patch(w, r, q)
	case r.Method == http.MethodDelete:
		return s.deleteCollection(w, r, q)
	}
	return errors.NewMethodNotSupported(resource, r.Method)
}

func answer(w http.ResponseWriter, r *http.Request, k kind, status int, do func() (object, error)) error {
	o, err := do()
	if err != nil {
		return err
	}
	if wantsTable(r) {
		writeJSON(w, status, tableOf(k, []object{o}, ""))
		return nil
	}
	writeJSON(w, status, o)
	return nil
}

// readObject reads a body in any encoding a Kubernetes client may send: JSON, YAML or protobuf.
func readObject(r *http.Request, k kind) (object, error) {
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return nil, errors.NewRequestEntityTooLargeError(err.Error())
	}
	var o object
	if strings.Contains(r.Header.Get("Content-Type"), "protobuf") {
		typed, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
		if err != nil {
			return nil, errors.NewBadRequest(err.Error())
		}
		if o, err = runtime.DefaultUnstructuredConverter.ToUnstructured(typed); err != nil {
			return nil, errors.NewBadRequest(err.Error())
		}
	} else if err := yaml.Unmarshal(data, &o); err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	if o == nil {
		return nil, errors.NewBadRequest("the request has no object in its body")
	}
	if o["kind"] == nil {
		o["apiVersion"], o["kind"] = k.apiVersion(), k.Kind
	}
	if _, isMap := o["metadata"].(map[string]any); !isMap {
		o["metadata"] = map[string]any{}
	}
	return o, nil
}

// selector reads labelSelector and those field selectors that every type has.
func selector(r *http.Request) (func(object) bool, error) {
	byLabel, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		return nil, errors.NewBadRequest("labelSelector: " + err.Error())
	}
	byField, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		return nil, errors.NewBadRequest("fieldSelector: " + err.Error())
	}
	return func(o object) bool {
		nodeName, _, _ := unstructured.NestedString(o, "spec", "nodeName")
		values := fields.Set{"metadata.name": nameOf(o), "metadata.namespace": namespaceOf(o), "spec.nodeName": nodeName}
		return byLabel.Matches(labels.Set(labelsOf(o))) && byField.Matches(values)
	}, nil
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, q request) error {
	matches, err := selector(r)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("watch") == "true" || r.URL.Query().Get("watch") == "1" {
		s.watch(w, r, q, matches)
		return nil
	}
	all, revision := s.objects.listAt(q.kind.groupResource(), q.namespace)
	items := []object{}
	for _, o := range all {
		if matches(o) {
			items = append(items, o)
		}
	}
	version := strconv.Itoa(revision)
	if wantsTable(r) {
		writeJSON(w, http.StatusOK, tableOf(q.kind, items, version))
		return nil
	}
	writeJSON(w, http.StatusOK, object{
		"apiVersion": q.kind.apiVersion(), "kind": q.kind.Kind + "List",
		"metadata": object{"resourceVersion": version}, "items": items,
	})
	return nil
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, q request, matches func(object) bool) {
	// No or a malformed version means from the beginning, which replays what exists.
	revision, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	encoder, flusher := json.NewEncoder(w), http.NewResponseController(w)
	for {
		events, next, changed := s.objects.since(revision)
		for _, e := range events {
			if e.resource != q.kind.groupResource() || !isIn(e.object, q.namespace) || !matches(e.object) {
				continue
			}
			if err := encoder.Encode(object{"type": e.kind, "object": e.object}); err != nil {
				return
			}
		}
		if err := flusher.Flush(); err != nil {
			return
		}
		revision = next
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-s.done:
			return
		}
	}
}

func (s *apiServer) createToken(w http.ResponseWriter, q request, body object) error {
	if _, err := s.objects.get(q.kind.groupResource(), q.namespace, q.name); err != nil {
		return err
	}
	seconds, found, _ := unstructured.NestedFloat64(body, "spec", "expirationSeconds")
	if !found {
		seconds = 3600
	}
	body["status"] = map[string]any{
		"token":               s.newToken(fmt.Sprintf("system:serviceaccount:%s:%s", q.namespace, q.name)),
		"expirationTimestamp": metaTime(s.now().Add(secondsToDuration(seconds))),
	}
	writeJSON(w, http.StatusCreated, body)
	return nil
}

func (s *apiServer) patch(w http.ResponseWriter, r *http.Request, q request) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return errors.NewRequestEntityTooLargeError(err.Error())
	}
	contentType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if types.PatchType(contentType) == types.ApplyYAMLPatchType {
		return s.apply(w, r, q, data)
	}
	return answer(w, r, q.kind, http.StatusOK, func() (object, error) {
		return s.objects.update(q.kind.groupResource(), q.namespace, q.name, func(o object) (object, error) {
			return patched(o, q.kind, types.PatchType(contentType), data)
		})
	})
}

// apply creates the object or merges the configuration into it.
func (s *apiServer) apply(w http.ResponseWriter, r *http.Request, q request, data []byte) error {
	var configuration object
	if err := yaml.Unmarshal(data, &configuration); err != nil {
		return errors.NewBadRequest(err.Error())
	}
	resource := q.kind.groupResource()
	return answer(w, r, q.kind, http.StatusOK, func() (object, error) {
		if _, err := s.objects.get(resource, q.namespace, q.name); errors.IsNotFound(err) {
			(&unstructured.Unstructured{Object: configuration}).SetName(q.name)
			return s.objects.create(resource, q.namespace, configuration)
		}
		merge, err := json.Marshal(configuration)
		if err != nil {
			return nil, err
		}
		return s.objects.update(resource, q.namespace, q.name, func(o object) (object, error) {
			return patched(o, q.kind, types.StrategicMergePatchType, merge)
		})
	})
}

func patched(o object, k kind, patchType types.PatchType, patch []byte) (object, error) {
	before, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	var after []byte
	switch patchType {
	case types.JSONPatchType:
		var operations jsonpatch.Patch
		if operations, err = jsonpatch.DecodePatch(patch); err == nil {
			after, err = operations.Apply(before)
		}
	case types.MergePatchType:
		after, err = jsonpatch.MergePatch(before, patch)
	case types.StrategicMergePatchType:
		var typed runtime.Object
		if typed, err = scheme.Scheme.New(k.GroupVersionKind); err == nil {
			after, err = strategicpatch.StrategicMergePatch(before, patch, typed)
		}
	default:
		return nil, errors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "patch", k.groupResource(), "", "unknown patch type "+string(patchType), 0, false)
	}
	if err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	var result object
	if err := json.Unmarshal(after, &result); err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	return result, nil
}

func (s *apiServer) deleteCollection(w http.ResponseWriter, r *http.Request, q request) error {
	matches, err := selector(r)
	if err != nil {
		return err
	}
	for _, o := range s.objects.list(q.kind.groupResource(), q.namespace) {
		if !matches(o) {
			continue
		}
		if _, err := s.objects.delete(q.kind.groupResource(), namespaceOf(o), nameOf(o)); err != nil && !errors.IsNotFound(err) {
			return err
		}
	}
	writeJSON(w, http.StatusOK, object{"kind": "Status", "apiVersion": "v1", "status": "Success"})
	return nil
}
