// Package model serves a workspace's models: named, numbered sets of files with tags
// and properties, and the assets that stand between a model and its artifacts.
package model

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/store"
)

const (
	workspaces = "Microsoft.MachineLearningServices/workspaces"
	// Models and Assets are the types of the rows.
	Models = workspaces + "/models"
	Assets = workspaces + "/assets"
)

var versions = []string{"2018-11-19"}

// Service serves models.
type Service struct {
	Manager   *resource.Manager
	Artifacts *artifact.Service
	// UsedBy names the web services that a model is deployed in.
	UsedBy func(tx store.ReadTx, workspace armid.ID, model string) ([]string, error)
	Work   string // folder where archives are unpacked, made when it is missing; "" means the system's for temporary files
}

// Model is the properties of a model.
type Model struct {
	ProvisioningState    string            `json:"provisioningState,omitempty" arm:"readonly"`
	Name                 string            `json:"name,omitempty" arm:"required,immutable,maxlen=255"`
	Version              int               `json:"version,omitempty" arm:"immutable"`
	URL                  string            `json:"url,omitempty" arm:"required,immutable,maxlen=2048"`
	MimeType             string            `json:"mimeType,omitempty" arm:"maxlen=255"`
	Description          string            `json:"description,omitempty"`
	Properties           map[string]string `json:"properties,omitempty"`
	Framework            string            `json:"framework,omitempty" arm:"maxlen=64"`
	FrameworkVersion     string            `json:"frameworkVersion,omitempty" arm:"maxlen=64"`
	Unpack               *bool             `json:"unpack,omitempty"`
	ExperimentName       string            `json:"experimentName,omitempty" arm:"maxlen=255"`
	RunID                string            `json:"runId,omitempty" arm:"maxlen=255"`
	Datasets             json.RawMessage   `json:"datasets,omitempty"`
	SampleInputData      string            `json:"sampleInputData,omitempty" arm:"maxlen=2048"`
	SampleOutputData     string            `json:"sampleOutputData,omitempty" arm:"maxlen=2048"`
	ResourceRequirements json.RawMessage   `json:"resourceRequirements,omitempty"`
	ParentModelID        string            `json:"parentModelId,omitempty" arm:"maxlen=300"`
}

// Asset is the properties of an asset.
type Asset struct {
	ProvisioningState string            `json:"provisioningState,omitempty" arm:"readonly"`
	Name              string            `json:"name,omitempty" arm:"maxlen=255"`
	Description       string            `json:"description,omitempty"`
	Artifacts         []Artifact        `json:"artifacts,omitempty" arm:"required,minlen=1"`
	Properties        map[string]string `json:"properties,omitempty"`
	RunID             string            `json:"runid,omitempty" arm:"maxlen=255"`
	ProjectID         string            `json:"projectId,omitempty" arm:"maxlen=255"`
	Type              string            `json:"type,omitempty" arm:"maxlen=64"`
	Meta              json.RawMessage   `json:"meta,omitempty"`
}

// Artifact is a part of an asset: one artifact by ID, or all whose IDs are below a prefix.
type Artifact struct {
	ID     string `json:"id,omitempty" arm:"maxlen=2048"`
	Prefix string `json:"prefix,omitempty" arm:"maxlen=2048"`
}

var modelName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9\-._]{0,254}$`)

// Types are the declarations.
func (s *Service) Types() []*resource.Type {
	return []*resource.Type{
		resource.New(resource.Definition[Model]{
			Type: Models, Summary: "A version of a model.", Versions: versions, DataPlane: true, DeleteOrder: 20,
			Names: resource.NameRule{Pattern: regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9\-._]{0,254}:[0-9]+$`), Description: "is a model's name and version"},
		}),
		resource.New(resource.Definition[Asset]{
			Type: Assets, Summary: "The artifacts of a model.", Versions: versions, DataPlane: true, DeleteOrder: 21,
			Names: resource.NameRule{Pattern: regexp.MustCompile(`^[0-9a-f-]{36}$`), Description: "is a GUID"},
			Admit: func(_ context.Context, d *resource.Draft[Asset]) error {
				for _, a := range d.New.Properties.Artifacts {
					for _, id := range []string{a.ID, a.Prefix} {
						if id == "" {
							continue
						}
						if err := artifact.Available(d.Tx, d.ID.Parent(), artifact.ID(id)); err != nil {
							return err
						}
					}
				}
				return nil
			},
		}),
	}
}

// Register adds the handlers.
func (s *Service) Register(srv *dataplane.Server) {
	at := func(method, path string, verb dataplane.Verb, h dataplane.Handler) {
		srv.Handle(method, dataplane.ModelManagement, path, strings.SplitN(path, "/", 3)[1], verb, h)
	}
	at("POST", "/assets", dataplane.Write, s.createAsset)
	at("GET", "/assets", dataplane.Read, s.listAssets)
	at("GET", "/assets/{id}", dataplane.Read, s.getAsset)
	at("POST", "/models", dataplane.Write, s.register)
	at("GET", "/models", dataplane.Read, s.list)
	at("POST", "/models/list", dataplane.Read, dataplane.ByBody(s.list))
	at("GET", "/models/{id}", dataplane.Read, s.get)
	at("PATCH", "/models/{id}", dataplane.Write, s.patch)
	at("DELETE", "/models/{id}", dataplane.Delete, s.remove)
}

func rowID(workspace armid.ID, typ, name string) armid.ID {
	return workspace.Child(typ[strings.LastIndexByte(typ, '/')+1:], name)
}

// write writes a row through the kernel and returns it.
func (s *Service) write(r *dataplane.Request, tx store.Tx, typ, name string, doc map[string]any) (*store.Resource, error) {
	t, ok := s.Manager.Registry.Type(typ)
	if !ok {
		return nil, errors.New("the type " + typ + " is not declared")
	}
	written, err := s.Manager.Put(r.Context(), tx, resource.Write{ID: rowID(r.Workspace, typ, name), Type: t, Version: versions[0], Doc: doc, By: r.Stamp()})
	if err != nil {
		return nil, moved(err)
	}
	return written.Row, nil
}

// moved names fields as this API does, which has no properties around them.
func moved(err error) error {
	var e *armerr.Error
	if errors.As(err, &e) {
		return e.Moved("properties.", "")
	}
	return err
}

func (s *Service) createAsset(r *dataplane.Request) (*dataplane.Reply, error) {
	var body map[string]any
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	doc, name := document(body), uuid.NewString()
	var row *store.Resource
	err := s.Manager.Store.Update(r.Context(), func(tx store.Tx) (err error) {
		row, err = s.write(r, tx, Assets, name, doc)
		return err
	})
	if err != nil {
		return nil, err
	}
	return reply(assetWire(row))
}

// document makes the kernel's document of this API's flat one.
func document(body map[string]any) map[string]any {
	doc := map[string]any{"properties": body}
	if tags, ok := body["kvTags"]; ok {
		if tags != nil {
			doc["tags"] = tags
		}
		delete(body, "kvTags")
	}
	for _, k := range said {
		delete(body, k)
	}
	return doc
}

// said are the fields that only Berth says. Clients send them back with the rest.
var said = []string{"id", "createdTime", "modifiedTime", "createdBy", "derivedModelIds", "etag"}

func reply(body map[string]any, err error) (*dataplane.Reply, error) {
	if err != nil {
		return nil, err
	}
	return dataplane.OK(body)
}

func assetWire(row *store.Resource) (map[string]any, error) {
	doc, err := resource.ReadDocument[Asset](row)
	if err != nil {
		return nil, err
	}
	a := doc.Properties
	return map[string]any{
		"id": armid.MustParse(row.ID).Name(), "name": a.Name, "description": a.Description, "artifacts": a.Artifacts, "kvTags": doc.Tags,
		"properties": a.Properties, "runid": a.RunID, "projectid": a.ProjectID, "type": a.Type, "meta": a.Meta, "createdTime": dataplane.Timestamp(row.Created.At),
	}, nil
}

func (s *Service) row(tx store.ReadTx, workspace armid.ID, typ, name string) (*store.Resource, error) {
	row, err := tx.Resource(rowID(workspace, typ, name).Key())
	if errors.Is(err, store.ErrNotFound) {
		code, what := "ModelNotFound", "model"
		if typ == Assets {
			code, what = armerr.CodeResourceNotFound, "asset"
		}
		e := armerr.New(code, "The %s with ID '%s' was not found in the workspace '%s' (%s).", what, name, workspace.Name(), code)
		e.Status = 404
		return nil, e
	}
	return row, err
}

func (s *Service) show(r *dataplane.Request, typ, name string, wire func(*store.Resource) (map[string]any, error)) (*dataplane.Reply, error) {
	var row *store.Resource
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		row, err = s.row(tx, r.Workspace, typ, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return reply(wire(row))
}

func (s *Service) getAsset(r *dataplane.Request) (*dataplane.Reply, error) {
	return s.show(r, Assets, r.PathValue("id"), assetWire)
}

func (s *Service) get(r *dataplane.Request) (*dataplane.Reply, error) {
	return s.show(r, Models, r.PathValue("id"), Wire)
}

// listAssets shows the assets that match the filters, in the order of their IDs: it stays when others come.
func (s *Service) listAssets(r *dataplane.Request) (*dataplane.Reply, error) {
	count, err := r.Number("count", defaultCount, 1, maxCount)
	if err != nil {
		return nil, err
	}
	value, next := []any{}, ""
	err = s.Manager.Store.View(r.Context(), func(tx store.ReadTx) error {
		rows, _, err := tx.Resources(store.Query{Parent: r.Workspace.Key(), Type: strings.ToLower(Assets)})
		if err != nil {
			return err
		}
		slices.SortFunc(rows, func(a, b *store.Resource) int { return strings.Compare(a.Key, b.Key) })
		value, next = value[:0], ""
		for _, row := range rows {
			w, err := assetWire(row)
			if err != nil {
				return err
			}
			id := w["id"].(string)
			if id < r.Param(dataplane.SkipToken) || !assetMatches(r, w) {
				continue
			}
			if len(value) == count {
				next = id
				return nil
			}
			value = append(value, w)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return dataplane.OK(r.Page("/assets", value, next))
}

func assetMatches(r *dataplane.Request, w map[string]any) bool {
	for parameter, field := range map[string]string{"name": "name", "runId": "runid", "type": "type"} {
		if v := r.Param(parameter); v != "" && v != w[field] {
			return false
		}
	}
	tags, _ := w["kvTags"].(map[string]string)
	properties, _ := w["properties"].(map[string]string)
	return dataplane.Matches(tags, r.Param("tag")) && dataplane.Matches(tags, r.Param("tags")) && dataplane.Matches(properties, r.Param("properties"))
}

// register makes the next version of a model.
func (s *Service) register(r *dataplane.Request) (*dataplane.Reply, error) {
	var body map[string]any
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	name, _ := body["name"].(string)
	if !modelName.MatchString(name) {
		return nil, armerr.Field("name", "%.100q is no name of a model: it has 1 to 255 letters, digits, dashes, dots and underscores, and begins with a letter or digit.", name)
	}
	url, _ := body["url"].(string)
	asset, ok := strings.CutPrefix(url, assetURL)
	if !ok {
		return nil, armerr.Field("url", "a model refers to an asset, as aml://asset/{id}; %.100q does not. Upload the files and create an asset first (Model.register does).", url)
	}
	doc := document(body)
	var row *store.Resource
	err := s.Manager.Store.Update(r.Context(), func(tx store.Tx) error {
		if _, err := s.row(tx, r.Workspace, Assets, asset); err != nil {
			return err
		}
		rows, err := s.versions(tx, r.Workspace, name)
		if err != nil {
			return err
		}
		next := 1
		for _, row := range rows {
			_, v := Split(armid.MustParse(row.ID).Name())
			next = max(next, v+1)
		}
		body["version"] = json.Number(strconv.Itoa(next))
		row, err = s.write(r, tx, Models, name+":"+strconv.Itoa(next), doc)
		return err
	})
	if err != nil {
		return nil, err
	}
	return reply(Wire(row))
}

// Split reads name:version.
func Split(id string) (name string, version int) {
	name, text, _ := strings.Cut(id, ":")
	version, _ = strconv.Atoi(text) // 0 for what is no number
	return name, version
}

func (s *Service) versions(tx store.ReadTx, workspace armid.ID, name string) ([]*store.Resource, error) {
	rows, _, err := tx.Resources(store.Query{Parent: workspace.Key(), Type: strings.ToLower(Models)})
	return slices.DeleteFunc(rows, func(row *store.Resource) bool {
		n, _ := Split(armid.MustParse(row.ID).Name())
		return name != "" && !strings.EqualFold(n, name)
	}), err
}

// Wire is a model as the API shows it.
func Wire(row *store.Resource) (map[string]any, error) {
	doc, err := resource.ReadDocument[Model](row)
	if err != nil {
		return nil, err
	}
	m := doc.Properties
	orEmpty := func(raw json.RawMessage, otherwise any) any {
		if len(raw) == 0 || string(raw) == "null" {
			return otherwise
		}
		return raw
	}
	nullable := func(text string) any {
		if text == "" {
			return nil
		}
		return text
	}
	return map[string]any{
		"id": armid.MustParse(row.ID).Name(), "name": m.Name, "version": m.Version, "url": m.URL, "mimeType": m.MimeType, "description": nullable(m.Description),
		"kvTags": doc.Tags, "properties": m.Properties, "framework": nullable(m.Framework), "frameworkVersion": nullable(m.FrameworkVersion), "unpack": m.Unpack != nil && *m.Unpack,
		"experimentName": nullable(m.ExperimentName), "runId": nullable(m.RunID), "datasets": orEmpty(m.Datasets, []any{}), "sampleInputData": nullable(m.SampleInputData),
		"sampleOutputData": nullable(m.SampleOutputData), "resourceRequirements": orEmpty(m.ResourceRequirements, nil), "parentModelId": nullable(m.ParentModelID), "derivedModelIds": []any{},
		"createdTime": dataplane.Timestamp(row.Created.At), "modifiedTime": dataplane.Timestamp(row.Modified.At),
		"createdBy": map[string]any{"userName": row.Created.By, "userObjectId": row.Created.By, "userPuId": nil, "userIdp": nil, "userAltSecId": nil, "userIss": nil, "userTenantId": nil},
	}, nil
}

// fixed are the fields that make a model the version that it is, and those that only Berth says.
var fixed = append([]string{"name", "version", "url"}, said...)

// patch changes what of a model may change: tags, description, sample data, and properties that are not there yet.
func (s *Service) patch(r *dataplane.Request) (*dataplane.Reply, error) {
	patch, err := r.ReadPatch()
	if err != nil {
		return nil, err
	}
	for _, p := range patch.Paths() {
		if field := strings.Split(p, "/")[1]; slices.ContainsFunc(fixed, func(f string) bool { return strings.EqualFold(f, field) }) {
			return nil, armerr.Field(field, "the field of a model cannot change. Register another version.")
		}
	}
	for r.Context().Err() == nil {
		row, err := s.patchOnce(r, patch)
		if errors.Is(err, store.ErrStale) {
			continue // somebody else was faster
		}
		if err != nil {
			return nil, err
		}
		return reply(Wire(row))
	}
	return nil, r.Context().Err()
}

// patchOnce changes a model as it is now. What that comes to is worked out before the transaction, for which all other writes
// wait. Errors: store.ErrStale when the model changed meanwhile.
func (s *Service) patchOnce(r *dataplane.Request, patch dataplane.Patch) (*store.Resource, error) {
	var have *store.Resource
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		have, err = s.row(tx, r.Workspace, Models, r.PathValue("id"))
		return err
	})
	if err != nil {
		return nil, err
	}
	before, err := Wire(have)
	if err != nil {
		return nil, err
	}
	after, err := patch.Apply(before)
	if err != nil {
		return nil, err
	}
	old, _ := before["properties"].(map[string]string)
	now, _ := after["properties"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(old)) {
		if now[k] != old[k] {
			return nil, armerr.Field("properties."+k, "a property of a model does not change once it is there. Add another, or use a tag.")
		}
	}
	if patch.Adds("/datasets") {
		if err := keepDatasets(have, after); err != nil {
			return nil, err
		}
	}
	doc := document(after)
	var row *store.Resource
	err = s.Manager.Store.Update(r.Context(), func(tx store.Tx) error {
		now, err := s.row(tx, r.Workspace, Models, armid.MustParse(have.ID).Name())
		if err != nil {
			return err
		}
		if now.Version != have.Version {
			return store.ErrStale
		}
		row, err = s.write(r, tx, Models, armid.MustParse(have.ID).Name(), doc)
		return err
	})
	return row, err
}

// keepDatasets adds the references to data sets that a model has to those that are added to them:
// Model.add_dataset_references sends the new ones alone.
func keepDatasets(have *store.Resource, after map[string]any) error {
	doc, err := resource.ReadDocument[Model](have)
	if err != nil {
		return err
	}
	var old []any
	if len(doc.Properties.Datasets) > 0 {
		if err := dataplane.Unmarshal(doc.Properties.Datasets, &old); err != nil {
			return err
		}
	}
	added, ok := after["datasets"].([]any)
	if !ok {
		return armerr.Field("datasets", "it is a list of objects with name and id.")
	}
	for _, d := range added {
		if !slices.ContainsFunc(old, func(o any) bool { return reflect.DeepEqual(o, d) }) {
			old = append(old, d)
		}
	}
	after["datasets"] = old
	return nil
}

// remove deletes a model that no web service has.
func (s *Service) remove(r *dataplane.Request) (*dataplane.Reply, error) {
	t, _ := s.Manager.Registry.Type(Models)
	found := false
	err := s.Manager.Store.Update(r.Context(), func(tx store.Tx) error {
		row, err := tx.Resource(rowID(r.Workspace, Models, r.PathValue("id")).Key())
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		id := armid.MustParse(row.ID).Name()
		users, err := s.UsedBy(tx, r.Workspace, id)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			e := armerr.New(armerr.CodePreconditionFailed, "The model '%s' is deployed in the web services %s. Delete or update them first.", id, strings.Join(users, ", "))
			e.Details = []*armerr.Error{{Code: "DeletionRequired", Message: e.Message, Target: strings.Join(users, ",")}}
			return e
		}
		_, err = s.Manager.Delete(r.Context(), tx, resource.Write{ID: armid.MustParse(row.ID), Type: t, By: r.Stamp()})
		return err
	})
	if err != nil || !found {
		return nil, err
	}
	return &dataplane.Reply{Status: 200}, nil
}
