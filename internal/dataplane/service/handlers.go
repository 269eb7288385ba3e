package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/store"
)

const noun = "services"

// Register adds the handlers.
func (s *Service) Register(srv *dataplane.Server) {
	at := func(method, path string, verb dataplane.Verb, h dataplane.Handler) {
		srv.Handle(method, dataplane.ModelManagement, path, noun, verb, h)
	}
	at("POST", "/services", dataplane.Write, s.create)
	at("PUT", "/services", dataplane.Write, s.put)
	at("GET", "/services", dataplane.Read, s.list)
	at("POST", "/services/list", dataplane.Read, dataplane.ByBody(s.list))
	at("GET", "/services/{name}", dataplane.Read, s.get)
	at("PATCH", "/services/{name}", dataplane.Write, s.patch)
	at("DELETE", "/services/{name}", dataplane.Delete, s.remove)
	at("POST", "/services/{name}/regenerateKeys", dataplane.Write, s.regenerateKeys)
	at("GET", "/services/{name}/logs", dataplane.Read, s.logs)
	at("POST", "/services/validate/name/{name}", dataplane.Read, s.validateName)
	at("POST", "/services/validate", dataplane.Read, s.validate)
	at("POST", "/services/validate/resource", dataplane.Read, s.validateCreate)
	at("POST", "/services/migrate", dataplane.Write, migrate)
	at("GET", "/operations/{id}", dataplane.Read, s.operation)
	// Azure's table of permissions has scoring with keys take this action, which Readers lack, and scoring with tokens
	// the right to read the workspace. A key is for everybody who has it, and does not end; a token is for its one
	// caller and web service, and ends within a day.
	srv.Handle("POST", dataplane.ModelManagement, "/services/{name}/listkeys", noun+"/aks", "listkeys/action", s.listKeys)
	srv.Handle("POST", dataplane.ModelManagement, "/services/{name}/token", "", dataplane.Read, s.getToken)
	registerImages(srv)
}

func migrate(*dataplane.Request) (*dataplane.Reply, error) {
	return nil, armerr.New(armerr.CodeNotSupported, "Berth does not move a web service to another compute. Deploy it there under another name, then delete this one.")
}

func (s *Service) id(r *dataplane.Request) armid.ID {
	return r.Workspace.Child(noun, r.PathValue("name"))
}

// row reads a web service's row. Errors: 404.
func (s *Service) row(r *dataplane.Request) (*store.Resource, error) {
	var row *store.Resource
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		row, err = tx.Resource(s.id(r).Key())
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, notFound(r, r.PathValue("name"))
	}
	return row, err
}

func notFound(r *dataplane.Request, name string) error {
	e := armerr.New(armerr.CodeResourceNotFound, "The web service '%s' was not found in the workspace '%s'.", name, r.Workspace.Name())
	e.Details = []*armerr.Error{{Code: "ServiceNotFound", Message: e.Message, Target: name}}
	return e
}

// document makes the kernel's document of this API's flat one, and says which service it is about.
func document(body map[string]any) (name string, overwrite bool, doc map[string]any) {
	dataplane.Spell(body, "name", "overwrite")
	name, _ = body["name"].(string)
	overwrite, _ = body["overwrite"].(bool)
	doc = map[string]any{"properties": bare(body)}
	if tags := tagsOf(body); tags != nil {
		doc["tags"] = tags
	}
	if versions, ok := body["versions"].(map[string]any); ok {
		for k, v := range versions {
			if m, ok := v.(map[string]any); ok {
				tags := tagsOf(m)
				m = bare(m)
				for _, k := range shared {
					delete(m, k)
				}
				if tags != nil {
					m["kvTags"] = tags
				}
				versions[k] = m
			}
		}
	}
	return name, overwrite, doc
}

// tagsOf are the tags of a web service or a version. azureml-core sends them as kvTags, but as tags when it changes
// those of a version; what it changes counts.
func tagsOf(body map[string]any) any {
	dataplane.Spell(body, "kvTags", "tags")
	if tags := body["tags"]; tags != nil {
		return tags
	}
	return body["kvTags"]
}

// said are the fields that only Berth says. Clients send them back with the rest.
var said = []string{
	"id", "createdTime", "updatedTime", "createdBy", "operationId", "error", "models", "deploymentStatus", "swaggerUri", "scoringUri", "state", "deployed", "provisioningState",
	"modelConfigMap", "imageDetails", "imageDigest", "environmentDetails", "registryAccess",
}

// named are the fields that name a web service or say how it is written.
var named = []string{"name", "overwrite", "location"}

// shared are the fields that an endpoint has for all its versions.
var shared = []string{"computeType", "computeName", "namespace", "keys", "authEnabled", "aadAuthEnabled", "versions", "deploymentType"}

// bare is a document without what names it, its tags, and what only Berth says.
func bare(body map[string]any) map[string]any {
	out := maps.Clone(body)
	for _, k := range slices.Concat(named, said, []string{"kvTags", "tags"}) {
		delete(out, k)
	}
	return out
}

func oneOf(list []string, field string) bool {
	return slices.ContainsFunc(list, func(f string) bool { return strings.EqualFold(f, field) })
}

// checkPaths refuses a change of what is left out of the stored document: it would be accepted and lost.
func checkPaths(paths []string) error {
	for _, p := range paths {
		parts := strings.Split(p, "/")[1:]
		at, what := "", "web service"
		if parts[0] == "versions" && len(parts) > 2 {
			at, what, parts = "versions."+parts[1]+".", "version", parts[2:]
		}
		field := parts[0]
		switch {
		case oneOf(named, field) || oneOf(said, field):
			return armerr.Field(at+field, "the field names the %s, or is Berth's to say; it cannot be changed.", what)
		case at != "" && oneOf(shared, field):
			return armerr.Field(at+field, "an endpoint has this field for all its versions together. Change it at /%s.", field)
		}
		for _, k := range []string{"versions", "kvTags", "tags"} { // beside one in another spelling it would take the other's place
			if field != k && strings.EqualFold(field, k) {
				return armerr.Field(at+field, "in a patch the field is spelled %s.", k)
			}
		}
	}
	return nil
}

// checkShared refuses versions that say something else than their endpoint about what it has for all of them.
// azureml-core sends some of that with each version, too.
func checkShared(body map[string]any) error {
	dataplane.Spell(body, slices.Concat(shared, named)...)
	versions, _ := body["versions"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(versions)) {
		v, ok := versions[name].(map[string]any)
		if !ok {
			continue // the schema's to refuse
		}
		dataplane.Spell(v, slices.Concat(shared, named)...)
		if given := v["name"]; given != nil && given != name {
			return armerr.Field("versions."+name+".name", "the body says %.100q, and the version is %q. Send the same in both.", fmt.Sprint(given), name)
		}
		for _, k := range shared {
			same := reflect.DeepEqual(v[k], body[k])
			switch k {
			case "computeType": // AKS or AKSENDPOINT, by the call of azureml-core
				text, _ := v[k].(string)
				same = same || strings.EqualFold(text, kindService)
			case "deploymentType":
				text, _ := v[k].(string)
				same = same || strings.EqualFold(text, onlyDeployment)
			case "computeName":
				one, _ := v[k].(string)
				other, _ := body[k].(string)
				same = same || strings.EqualFold(one, other)
			case "keys":
				keys, ok := v[k].(map[string]any)
				same = same || ok && empty(keys)
			}
			if v[k] != nil && !same {
				return armerr.Field("versions."+name+"."+k, "an endpoint has this field for all its versions together, and says something else. Leave it out of the version, and set it for the endpoint.")
			}
		}
	}
	return nil
}

// empty reports whether an object has nothing but nulls.
func empty(object map[string]any) bool {
	for _, v := range object {
		if v != nil {
			return false
		}
	}
	return true
}

// write stores a web service and answers with the operation.
func (s *Service) write(r *dataplane.Request, name string, doc map[string]any, admitOnly bool, before func(row *store.Resource) error) (*resource.Written, error) {
	t, _ := s.Manager.Registry.Type(Type)
	asked := takePasswords(doc)
	var written *resource.Written
	err := s.Manager.Store.Update(r.Context(), func(tx store.Tx) error {
		id := r.Workspace.Child(noun, name)
		row, err := tx.Resource(id.Key())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if errors.Is(err, store.ErrNotFound) {
			row = nil
		}
		if err := before(row); err != nil {
			return err
		}
		if err := asked.seal(tx, id.Key(), doc); err != nil {
			return err
		}
		if written, err = s.Manager.Put(r.Context(), tx, resource.Write{ID: id, Type: t, Version: versions[0], Doc: doc, By: r.Stamp()}); err != nil {
			return busy(r, err)
		}
		if admitOnly {
			return errAdmitted
		}
		return nil
	})
	return written, err
}

var errAdmitted = errors.New("the request is admissible")

// busy names an operation under way, and fields, as this API does.
func busy(r *dataplane.Request, err error) error {
	var e *armerr.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Code == armerr.CodeOperationNotAllowed {
		c := armerr.New(armerr.CodeConflict, "Conflict of operation, another operation on same entity is already running in workspace %s. Wait until it ends (wait_for_deployment), then send the change again.", r.Workspace.Name())
		c.RetryAfter = e.RetryAfter
		return c
	}
	return e.Moved("properties.", "")
}

// withKeys gives a new web service keys where its creator chose none.
func withKeys(doc map[string]any) {
	keys := keysOf(doc)
	for _, k := range []string{"primaryKey", "secondaryKey"} {
		if _, given := keys[k]; keys != nil && !given {
			keys[k] = newKey()
		}
	}
}

// keysOf are the keys in a document, without those that are left open. nil means that they are no object, which is the
// schema's to refuse.
func keysOf(doc map[string]any) map[string]any {
	p := doc["properties"].(map[string]any)
	dataplane.Spell(p, "keys")
	if p["keys"] == nil {
		p["keys"] = map[string]any{}
	}
	keys, _ := p["keys"].(map[string]any)
	dataplane.Spell(keys, "primaryKey", "secondaryKey")
	maps.DeleteFunc(keys, func(_ string, v any) bool { return v == nil || v == "" })
	return keys
}

func (s *Service) create(r *dataplane.Request) (*dataplane.Reply, error) { return s.deploy(r, false) }
func (s *Service) put(r *dataplane.Request) (*dataplane.Reply, error)    { return s.deploy(r, true) }

func (s *Service) deploy(r *dataplane.Request, overwrite bool) (*dataplane.Reply, error) {
	var body map[string]any
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	written, err := s.admitCreate(r, body, overwrite, false)
	if err != nil {
		return nil, err
	}
	return s.accepted(r, written)
}

func (s *Service) admitCreate(r *dataplane.Request, body map[string]any, overwrite, only bool) (*resource.Written, error) {
	if err := checkShared(body); err != nil {
		return nil, err
	}
	name, asked, doc := document(body)
	if _, ok := body["overwrite"].(bool); !ok && body["overwrite"] != nil {
		return nil, armerr.Field("overwrite", "it is true or false.")
	}
	if err := checkLocation(r, body["location"]); err != nil {
		return nil, err
	}
	return s.write(r, name, doc, only, func(row *store.Resource) error {
		if row == nil {
			withKeys(doc)
			return nil
		}
		if !overwrite && !asked {
			return taken(r, name)
		}
		// Keys that are not given stay (deploying again does not lock callers out).
		keysOf(doc)
		return nil
	})
}

// checkLocation refuses another location than the workspace's: a web service is where its compute is.
func checkLocation(r *dataplane.Request, given any) error {
	var ws struct{ Location string }
	if err := json.Unmarshal(r.Row.Spec, &ws); err != nil {
		return err
	}
	plain := func(location string) string { return strings.ToLower(strings.ReplaceAll(location, " ", "")) }
	if text, ok := given.(string); given == nil || ok && (text == "" || plain(text) == plain(ws.Location)) {
		return nil
	}
	return armerr.Field("location", "a web service is where its compute is. Leave the location out.")
}

func (s *Service) accepted(r *dataplane.Request, written *resource.Written) (*dataplane.Reply, error) {
	var body map[string]any
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		body, err = s.wire(tx, written.Row, true)
		return err
	})
	if err != nil {
		return nil, err
	}
	return dataplane.Accepted(r, written.Operation.ID, body)
}

func (s *Service) get(r *dataplane.Request) (*dataplane.Reply, error) {
	row, err := s.row(r)
	if err != nil {
		return nil, err
	}
	var body map[string]any
	err = s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		body, err = s.wire(tx, row, strings.EqualFold(r.Param("expand"), "true"))
		return err
	})
	return &dataplane.Reply{Body: body}, err
}

func (s *Service) patch(r *dataplane.Request) (*dataplane.Reply, error) {
	row, err := s.row(r)
	if err != nil {
		return nil, err
	}
	doc, err := resource.ReadSpec[WebService](row)
	if err != nil {
		return nil, err
	}
	flat, err := flatten(doc)
	if err != nil {
		return nil, err
	}
	old, _ := flat["properties"].(map[string]any)
	after, paths, err := r.Patch(flat)
	if err != nil {
		return nil, err
	}
	if err := checkPaths(paths); err != nil {
		return nil, err
	}
	if err := checkShared(after); err != nil {
		return nil, err
	}
	settle(after, paths)
	now, _ := after["properties"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(old)) {
		if now[k] != old[k] && !tracked(k) {
			return nil, armerr.Field("properties."+k, "a property of a web service does not change once it is there. Add another, or use a tag.")
		}
	}
	_, _, body := document(after)
	if p := body["properties"].(map[string]any); p["keys"] == nil {
		p["keys"] = map[string]any{} // so that they stay
	}
	name := armid.MustParse(row.ID).Name()
	written, err := s.write(r, name, body, false, unchanged(r, row))
	if err != nil {
		return nil, err
	}
	return s.accepted(r, written)
}

// unchanged refuses a write that follows from a row where that is not what the store has any more.
func unchanged(r *dataplane.Request, row *store.Resource) func(now *store.Resource) error {
	return func(now *store.Resource) error {
		name := armid.MustParse(row.ID).Name()
		switch {
		case now == nil:
			return notFound(r, name)
		case now.Generation != row.Generation || !now.Created.At.Equal(row.Created.At):
			return armerr.New(armerr.CodeConflict, "The web service '%s' was changed at the same time. Send the change again.", name)
		}
		return nil
	}
}

// tracked reports whether a property is one of those that azureml-core adds to each request made below a git
// repository: they say where the present version comes from, so they change with it.
func tracked(property string) bool {
	return strings.HasPrefix(property, "azureml.git.") || strings.HasPrefix(property, "mlflow.source.git.")
}

// onlyDefault takes the part of the default version from the others.
func onlyDefault(versions map[string]any, name string) {
	for other, v := range versions {
		if m, ok := v.(map[string]any); ok && other != name {
			m["isDefault"] = false
		}
	}
}

// settle lets the last word count between a fixed number of replicas and the autoscaler.
func settle(doc map[string]any, paths []string) {
	named := func(prefix, suffix string) bool { return slices.Contains(paths, prefix+suffix) }
	one := func(prefix string, m map[string]any) {
		scaler, _ := m["autoScaler"].(map[string]any)
		switch {
		case named(prefix, "/numReplicas") && !named(prefix, "/autoScaler/autoscaleEnabled"):
			m["autoScaler"] = map[string]any{"autoscaleEnabled": false}
		case scaler != nil && scaler["autoscaleEnabled"] == true && !named(prefix, "/numReplicas"):
			delete(m, "numReplicas")
		}
	}
	if doc["computeType"] != kindEndpoint {
		one("", doc)
	}
	versions, _ := doc["versions"].(map[string]any)
	for name := range versions {
		if m, ok := versions[name].(map[string]any); ok && named("/versions/"+name, "/isDefault") && m["isDefault"] == true {
			onlyDefault(versions, name)
		}
	}
	for name, v := range versions {
		if m, ok := v.(map[string]any); ok {
			one("/versions/"+name, m)
		}
	}
}

func (s *Service) remove(r *dataplane.Request) (*dataplane.Reply, error) {
	t, _ := s.Manager.Registry.Type(Type)
	var written *resource.Written
	err := s.Manager.Store.Update(r.Context(), func(tx store.Tx) (err error) {
		written, err = s.Manager.Delete(r.Context(), tx, resource.Write{ID: s.id(r), Type: t, By: r.Stamp()})
		return err
	})
	if err != nil || written.Operation == nil {
		return nil, err
	}
	return dataplane.Accepted(r, written.Operation.ID, nil)
}

// secrets reads the keys.
func (s *Service) secrets(r *dataplane.Request, row *store.Resource) (primary, secondary string, err error) {
	err = s.Manager.Store.View(r.Context(), func(tx store.ReadTx) error {
		all, err := sealed(tx, row.Key)
		primary, secondary = all[primaryPath], all[secondaryPath]
		return err
	})
	return primary, secondary, err
}

func (s *Service) listKeys(r *dataplane.Request) (*dataplane.Reply, error) {
	row, err := s.row(r)
	if err != nil {
		return nil, err
	}
	primary, secondary, err := s.secrets(r, row)
	if err != nil {
		return nil, err
	}
	return dataplane.OK(map[string]any{"primaryKey": primary, "secondaryKey": secondary})
}

func (s *Service) regenerateKeys(r *dataplane.Request) (*dataplane.Reply, error) {
	var body struct {
		KeyType  string
		KeyValue string
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	field := map[string]string{"primary": "primaryKey", "secondary": "secondaryKey"}[strings.ToLower(body.KeyType)]
	if field == "" {
		return nil, armerr.Field("keyType", "%.100q is not Primary or Secondary.", body.KeyType)
	}
	if body.KeyValue == "" {
		body.KeyValue = newKey()
	}
	row, err := s.row(r)
	if err != nil {
		return nil, err
	}
	doc, err := resource.ReadSpec[WebService](row)
	if err != nil {
		return nil, err
	}
	flat, err := flatten(doc)
	if err != nil {
		return nil, err
	}
	flat["keys"] = map[string]any{field: body.KeyValue}
	_, _, next := document(flat)
	written, err := s.write(r, armid.MustParse(row.ID).Name(), next, false, unchanged(r, row))
	if err != nil {
		return nil, err
	}
	return dataplane.Accepted(r, written.Operation.ID, nil)
}

func (s *Service) getToken(r *dataplane.Request) (*dataplane.Reply, error) {
	row, err := s.row(r)
	if err != nil {
		return nil, err
	}
	doc, err := resource.ReadSpec[WebService](row)
	if err != nil {
		return nil, err
	}
	if a := doc.Properties.AADAuthEnabled; a == nil || !*a {
		return nil, armerr.New(armerr.CodeBadRequest, "The web service '%s' does not use tokens. Update it with token_auth_enabled=True and auth_enabled=False, or use its keys (get_keys).", r.PathValue("name"))
	}
	body, err := s.token(r.Context(), row, r.Caller.ObjectID)
	return &dataplane.Reply{Body: body}, err
}

const (
	defaultTail, maxTail = 5000, 100000 // lines
	maxLogs              = 8 << 20      // bytes
)

// logs are what the containers said. A service whose deployment failed before it had containers has the log of its
// operation.
func (s *Service) logs(r *dataplane.Request) (*dataplane.Reply, error) {
	tail, err := r.Number("tail", defaultTail, 1, maxTail)
	if err != nil {
		return nil, err
	}
	row, err := s.row(r)
	if err != nil {
		return nil, err
	}
	doc, err := resource.ReadDocument[WebService](row)
	if err != nil {
		return nil, err
	}
	if strings.EqualFold(r.Param("init"), "true") {
		return dataplane.OK(map[string]any{"content": ""}) // models are mounted, so there is no init container
	}
	away := func(err error) error {
		e := armerr.New(armerr.CodeClusterNotReachable, "The cluster of the compute '%s' does not answer, so its logs cannot be read now. Try again.", doc.Properties.ComputeName)
		return e.Because(err)
	}
	place, err := s.Place(r.Context(), r.Workspace.Child("computes", doc.Properties.ComputeName))
	var refused *armerr.Error
	if errors.As(err, &refused) {
		return nil, refused
	}
	if err != nil {
		return nil, away(err)
	}
	cluster, err := s.open(place)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for name := range doc.Properties.all() {
		text, err := cluster.Logs(r.Context(), workloadName(armid.MustParse(row.ID).Name(), name), int64(tail), maxLogs-b.Len())
		if err != nil {
			return nil, away(err)
		}
		if name != "" && text != "" {
			fmt.Fprintf(&b, "==> version %s <==\n", name)
		}
		b.WriteString(text)
	}
	if b.Len() == 0 {
		rec, err := resource.RecordOf(row)
		if err != nil {
			return nil, err
		}
		mem, err := recall(rec.Data)
		if err != nil {
			return nil, err
		}
		b.WriteString(strings.Join(mem.Lines, "\n"))
	}
	return dataplane.OK(map[string]any{"content": b.String()})
}

// problemReply answers a validation: 200 with an error, which makes clients stop before they deploy.
func problemReply(err error) (*dataplane.Reply, error) {
	if err == nil || errors.Is(err, errAdmitted) {
		return dataplane.OK(map[string]any{})
	}
	var e *armerr.Error
	if !errors.As(err, &e) || e.HTTPStatus() >= http.StatusInternalServerError {
		return nil, err
	}
	return dataplane.OK(map[string]any{"error": map[string]any{"code": e.Code, "message": e.Message}})
}

// taken says that there is a web service of a name already.
func taken(r *dataplane.Request, name string) error {
	e := armerr.New(armerr.CodeConflict, "A web service named '%s' exists in the workspace '%s'. Choose another name, update it, or deploy with overwrite=True.", name, r.Workspace.Name())
	e.Details = []*armerr.Error{{Code: "ServiceExists", Message: e.Message, Target: name}}
	return e
}

// validateName says whether a new web service can have a name. azureml-core asks only for those that it does not deploy
// over.
func (s *Service) validateName(r *dataplane.Request) (*dataplane.Reply, error) {
	t, _ := s.Manager.Registry.Type(Type)
	if err := t.CheckName(r.PathValue("name")); err != nil {
		return problemReply(err)
	}
	switch _, err := s.row(r); {
	case err == nil:
		return problemReply(taken(r, r.PathValue("name")))
	case armerr.Of(err).HTTPStatus() != http.StatusNotFound:
		return nil, err
	}
	return problemReply(nil)
}

func (s *Service) validate(r *dataplane.Request) (*dataplane.Reply, error) {
	var body struct {
		Type          string
		ServiceName   string
		CreateRequest map[string]any
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if !strings.EqualFold(body.Type, "Create") || body.CreateRequest == nil {
		return problemReply(nil) // updates and deletions are checked when they are asked for
	}
	_, err := s.admitCreate(r, body.CreateRequest, false, true)
	return problemReply(err)
}

func (s *Service) validateCreate(r *dataplane.Request) (*dataplane.Reply, error) {
	var body map[string]any
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	_, err := s.admitCreate(r, body, false, true)
	return problemReply(err)
}

// operation shows an operation as this API does.
func (s *Service) operation(r *dataplane.Request) (*dataplane.Reply, error) {
	var op *store.Operation
	var row *store.Resource
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		if op, err = tx.Operation(r.PathValue("id")); err != nil {
			return err
		}
		if row, err = tx.Resource(op.ResourceKey); errors.Is(err, store.ErrNotFound) {
			row, err = nil, nil
		}
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && !strings.HasPrefix(op.ResourceKey, r.Workspace.Key()+"/"+noun+"/") {
		return nil, armerr.New(armerr.CodeOperationNotFound, "There is no operation '%s' in the workspace '%s', or it ended more than a week ago.", r.PathValue("id"), r.Workspace.Name())
	}
	if err != nil {
		return nil, err
	}
	offset, err := r.Number("offset", 0, 0, 1<<30)
	if err != nil {
		return nil, err
	}
	return dataplane.OK(operationWire(r, op, row, offset))
}
