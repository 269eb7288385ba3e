// Package environment serves a workspace's environments: named, numbered definitions of what a model's container
// has installed. A version never changes once it is registered; labels move between versions. Images
// are made of definitions by package image, when somebody asks for one or deploys.
package environment

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/build"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/store"
)

const (
	noun = "environments"
	// Type is the type of the rows.
	Type = "Microsoft.MachineLearningServices/workspaces/" + noun

	perPage = 100
)

var versions = []string{"2018-11-19"}

// Service serves environments.
type Service struct {
	Manager   *resource.Manager
	Artifacts *artifact.Service // where logs of builds go
	Images    Images
	Builds    *build.Builds
	Logger    *slog.Logger
}

// Images makes the image of a definition. Errors: *image.UserError when the definition cannot be met.
type Images interface {
	Environment(ctx context.Context, definition json.RawMessage, log func(line string)) (image.Reference, error)
	// Has reports whether an image is still there: those that nobody deploys go after a while.
	Has(ctx context.Context, ref image.Reference) (bool, error)
}

// Environment is the properties of a version of an environment.
type Environment struct {
	ProvisioningState       string            `json:"provisioningState,omitempty" arm:"readonly"`
	Name                    string            `json:"name,omitempty" arm:"required,immutable,maxlen=255"`
	Version                 string            `json:"version,omitempty" arm:"required,immutable,maxlen=255"`
	EnvironmentVariables    map[string]string `json:"environmentVariables,omitempty"`
	Python                  json.RawMessage   `json:"python,omitempty"`
	Docker                  json.RawMessage   `json:"docker,omitempty"`
	Spark                   json.RawMessage   `json:"spark,omitempty"`
	Databricks              json.RawMessage   `json:"databricks,omitempty"`
	R                       json.RawMessage   `json:"r,omitempty"`
	InferencingStackVersion string            `json:"inferencingStackVersion,omitempty" arm:"maxlen=64"`
	AssetID                 string            `json:"assetId,omitempty" arm:"readonly"`

	Labels []string `json:"labels,omitempty" arm:"maxlen=100"`
	// RegistryPassword is docker.baseImageRegistry.password of what was registered.
	RegistryPassword string `json:"registryPassword,omitempty" arm:"secret,maxlen=16384"`
}

var (
	validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9\-._]{0,254}$`)
	rowName   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9\-._]{0,254}:[a-zA-Z0-9][a-zA-Z0-9\-._]{0,254}$`)
)

// Types are the declarations.
func (s *Service) Types() []*resource.Type {
	return []*resource.Type{resource.New(resource.Definition[Environment]{
		Type: Type, Summary: "A version of an environment.", Versions: versions, DataPlane: true, DeleteOrder: 22,
		Names: resource.NameRule{Pattern: rowName, Description: "is an environment's name and version"},
	}), s.buildType()}
}

// Register adds the handlers.
func (s *Service) Register(srv *dataplane.Server) {
	const one, version = "/environments/{name}", "/environments/{name}/versions/{version}"
	at := func(method, prefix, path string, verb dataplane.Verb, h dataplane.Handler) {
		srv.Handle(method, prefix, path, noun, verb, h)
	}
	at("GET", dataplane.Environments, "/environments", dataplane.Read, s.list)
	at("GET", dataplane.Environments, "/environments/{$}", dataplane.Read, s.list)
	at("PUT", dataplane.Environments, one, dataplane.Write, s.put)
	at("GET", dataplane.Environments, one, dataplane.Read, s.get)
	at("GET", dataplane.Environments, one+"/labels/{label}", dataplane.Read, s.get)
	at("PUT", dataplane.Environments, version, dataplane.Write, s.put)
	at("GET", dataplane.Environments, version, dataplane.Read, s.get)
	at("PUT", dataplane.Environments, version+"/metadata", dataplane.Write, s.label)
	for _, path := range []string{one, version} {
		at("GET", dataplane.Environments, path+"/image", dataplane.Read, s.image)
		at("POST", dataplane.Environments, path+"/recipe", dataplane.Read, s.recipe)
	}
	at("POST", dataplane.EnvironmentsV2, version+"/image", dataplane.Write, s.build)
	at("POST", dataplane.EnvironmentsV2, version+"/imageoncompute/{compute}", dataplane.Write, s.build)
	at("GET", dataplane.EnvironmentsV2, version+"/image", dataplane.Read, s.status)
}

func rowID(workspace armid.ID, name, version string) armid.ID {
	return workspace.Child(noun, name+":"+version)
}

func split(row *store.Resource) (name, version string) {
	name, version, _ = strings.Cut(armid.MustParse(row.ID).Name(), ":")
	return name, version
}

// rows are the versions of an environment, or of all for the name "", the latest first.
func rows(tx store.ReadTx, workspace armid.ID, name string) ([]*store.Resource, error) {
	all, _, err := tx.Resources(store.Query{Parent: workspace.Key(), Type: strings.ToLower(Type)})
	all = slices.DeleteFunc(all, func(row *store.Resource) bool {
		n, _ := split(row)
		return name != "" && !strings.EqualFold(n, name)
	})
	slices.SortStableFunc(all, func(a, b *store.Resource) int {
		return cmp.Or(b.Created.At.Compare(a.Created.At), cmp.Compare(number(b), number(a)))
	})
	return all, err
}

// number is a version that is one, else 0.
func number(row *store.Resource) int {
	_, v := split(row)
	n, _ := strconv.Atoi(v)
	return n
}

// find is the version that a request's path names: by number, by label, or else the latest.
func (s *Service) find(tx store.ReadTx, r *dataplane.Request) (*store.Resource, *Environment, error) {
	name, version, label := r.PathValue("name"), r.PathValue("version"), r.PathValue("label")
	all, err := rows(tx, r.Workspace, name)
	if err != nil {
		return nil, nil, err
	}
	for _, row := range all {
		doc, err := resource.ReadDocument[Environment](row)
		if err != nil {
			return nil, nil, err
		}
		_, v := split(row)
		if version != "" && strings.EqualFold(v, version) || version == "" && (label == "" || slices.Contains(doc.Properties.Labels, label)) {
			return row, &doc.Properties, nil
		}
	}
	what := "'" + name + "'"
	switch {
	case version != "":
		what += " with the version '" + version + "'"
	case strings.EqualFold(label, "latest") && len(all) > 0: // what Azure gives without being told
		doc, err := resource.ReadDocument[Environment](all[0])
		if err != nil {
			return nil, nil, err
		}
		return all[0], &doc.Properties, nil
	case label != "":
		what += " with the label '" + label + "'"
	}
	advice := "Environment.list(ws) shows those that there are."
	if strings.HasPrefix(strings.ToLower(name), "azureml") {
		advice = "Berth has no curated environments: make one of the packages that you need, with CondaDependencies, and register it."
	}
	e := armerr.New(armerr.CodeResourceNotFound, "The environment %s was not found in the workspace '%s'. %s", what, r.Workspace.Name(), advice)
	e.Status = http.StatusNotFound
	return nil, nil, e
}

// read runs find on its own.
func (s *Service) read(r *dataplane.Request) (row *store.Resource, env *Environment, err error) {
	err = s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		row, env, err = s.find(tx, r)
		return err
	})
	return row, env, err
}

func (s *Service) get(r *dataplane.Request) (*dataplane.Reply, error) {
	_, env, err := s.read(r)
	if err != nil {
		return nil, err
	}
	return dataplane.OK(wire(env))
}

// wire is an environment as azureml-core reads it.
func wire(e *Environment) map[string]any {
	section := func(raw json.RawMessage) any {
		if len(raw) == 0 {
			return nil
		}
		return raw
	}
	variables, stack := e.EnvironmentVariables, any(nil)
	if variables == nil {
		variables = map[string]string{}
	}
	if e.InferencingStackVersion != "" {
		stack = e.InferencingStackVersion
	}
	out := map[string]any{
		"name": e.Name, "version": e.Version, "environmentVariables": variables, "r": section(e.R), "inferencingStackVersion": stack, "assetId": nil,
	}
	// Without a section the client has its own defaults; null it cannot read.
	for name, raw := range map[string]json.RawMessage{"python": e.Python, "docker": e.Docker, "spark": e.Spark, "databricks": e.Databricks} {
		if v := section(raw); v != nil {
			out[name] = v
		}
	}
	return out
}

// list answers with the latest version of each environment, in the order of names. The token is the name that the
// next page begins with.
func (s *Service) list(r *dataplane.Request) (*dataplane.Reply, error) {
	latest := map[string]*store.Resource{}
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) error {
		all, err := rows(tx, r.Workspace, "")
		for _, row := range slices.Backward(all) {
			name, _ := split(row)
			latest[strings.ToLower(name)] = row
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	value, next := []any{}, any(nil)
	for _, name := range slices.Sorted(maps.Keys(latest)) {
		if name < strings.ToLower(r.Param("continuation")) {
			continue
		}
		if len(value) == perPage {
			next = name
			break
		}
		doc, err := resource.ReadDocument[Environment](latest[name])
		if err != nil {
			return nil, err
		}
		value = append(value, wire(&doc.Properties))
	}
	return dataplane.OK(map[string]any{"value": value, "continuationToken": next})
}

// put registers a definition. Without a version it is the next one, unless the latest is the same.
func (s *Service) put(r *dataplane.Request) (*dataplane.Reply, error) {
	var given Environment
	if err := r.Decode(&given); err != nil {
		return nil, err
	}
	name, version := r.PathValue("name"), r.PathValue("version")
	for field, text := range map[string]string{"name": name, "version": version} {
		if !validName.MatchString(text) && (field == "name" || text != "") {
			return nil, armerr.Field(field, "%q is no %s of an environment: it has 1 to 255 letters, digits, dashes, dots and underscores, and begins with a letter or digit.", text, field)
		}
	}
	if given.Name != "" && !strings.EqualFold(given.Name, name) {
		return nil, armerr.Field("name", "the body says %q, and the address %q. Send the same in both.", given.Name, name)
	}
	given.Name, given.Labels, given.AssetID, given.ProvisioningState = name, nil, "", ""
	if err := given.hidePassword(); err != nil {
		return nil, err
	}
	var stored *Environment
	err := s.Manager.Store.Update(r.Context(), func(tx store.Tx) error {
		all, err := rows(tx, r.Workspace, name)
		if err != nil {
			return err
		}
		e, next := given, 1
		for _, row := range all {
			next = max(next, number(row)+1)
		}
		e.Version = cmp.Or(version, strconv.Itoa(next))
		for i, row := range all {
			_, v := split(row)
			doc, err := resource.ReadDocument[Environment](row)
			if err != nil {
				return err
			}
			same := doc.Properties.sameAs(&given)
			if version == "" && i == 0 && same || version != "" && strings.EqualFold(v, version) {
				if !same {
					return armerr.New(armerr.CodeConflict, "The environment '%s' is registered with the version '%s' and another definition; a version does not change. Set version to None to get the next one, or choose another.", name, v)
				}
				e.Name, e.Version, e.Labels = doc.Properties.Name, v, doc.Properties.Labels
			}
		}
		stored = &e
		return s.write(r, tx, &e)
	})
	if err != nil {
		return nil, err
	}
	return dataplane.OK(wire(stored))
}

// write stores a version.
func (s *Service) write(r *dataplane.Request, tx store.Tx, e *Environment) error {
	return s.store(r, tx, Type, rowID(r.Workspace, e.Name, e.Version), e)
}

// store stores a row through the kernel.
func (s *Service) store(r *dataplane.Request, tx store.Tx, typ string, id armid.ID, properties any) error {
	t, ok := s.Manager.Registry.Type(typ)
	if !ok {
		return errors.New("the type " + typ + " is not declared")
	}
	data, err := json.Marshal(map[string]any{"properties": properties})
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := dataplane.Unmarshal(data, &doc); err != nil {
		return err
	}
	_, err = s.Manager.Put(r.Context(), tx, resource.Write{ID: id, Type: t, Version: versions[0], Doc: doc, By: r.Stamp()})
	var refused *armerr.Error
	if errors.As(err, &refused) {
		return refused.Moved("properties.", "")
	}
	return err
}

// hidePassword moves the password of the base image's registry to where it is sealed.
func (e *Environment) hidePassword() error {
	var docker map[string]any
	if len(e.Docker) == 0 || string(e.Docker) == "null" {
		return nil
	}
	if err := dataplane.Unmarshal(e.Docker, &docker); err != nil {
		return armerr.Field("docker", "it is not an object, as Environment.docker makes it.")
	}
	dataplane.Spell(docker, "baseImageRegistry")
	registry, _ := docker["baseImageRegistry"].(map[string]any)
	dataplane.Spell(registry, "password")
	password, _ := registry["password"].(string)
	if password == "" {
		return nil
	}
	e.RegistryPassword, registry["password"] = password, nil
	var err error
	e.Docker, err = json.Marshal(docker)
	return err
}

// definition is what an image is made of, with the password in its place.
func (e *Environment) definition(password string) (json.RawMessage, error) {
	full := wire(e)
	if password != "" {
		var docker map[string]any
		if err := dataplane.Unmarshal(e.Docker, &docker); err != nil {
			return nil, err
		}
		if registry, ok := docker["baseImageRegistry"].(map[string]any); ok {
			registry["password"] = password
		}
		full["docker"] = docker
	}
	return json.Marshal(full)
}

// sameAs reports whether two versions are defined alike, whatever they are called. Passwords are no part of it.
func (e *Environment) sameAs(other *Environment) bool {
	return e.canonical() == other.canonical()
}

func (e *Environment) canonical() string {
	c := *e
	c.ProvisioningState, c.Name, c.Version, c.Labels, c.RegistryPassword, c.AssetID = "", "", "", nil, "", ""
	data, err := json.Marshal(wire(&c))
	var v any
	if err != nil || dataplane.Unmarshal(data, &v) != nil {
		return string(data)
	}
	data, _ = json.Marshal(without(v)) // it was JSON before
	return string(data)
}

// without leaves out nulls, which clients send or not as their version has it.
func without(v any) any {
	switch v := v.(type) {
	case map[string]any:
		maps.DeleteFunc(v, func(_ string, inner any) bool { return inner == nil })
		for k, inner := range v {
			v[k] = without(inner)
		}
	case []any:
		for i, inner := range v {
			v[i] = without(inner)
		}
	}
	return v
}

// label gives a version the labels of the request, which no other version of the environment has then.
func (s *Service) label(r *dataplane.Request) (*dataplane.Reply, error) {
	var body struct{ Labels []string }
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	for _, l := range body.Labels {
		if !validName.MatchString(l) {
			return nil, armerr.Field("labels", "%q is no label: it has 1 to 255 letters, digits, dashes, dots and underscores, and begins with a letter or digit.", l)
		}
	}
	slices.Sort(body.Labels)
	body.Labels = slices.Compact(body.Labels)
	err := s.Manager.Store.Update(r.Context(), func(tx store.Tx) error {
		target, _, err := s.find(tx, r)
		if err != nil {
			return err
		}
		all, err := rows(tx, r.Workspace, r.PathValue("name"))
		if err != nil {
			return err
		}
		for _, row := range all {
			doc, err := resource.ReadDocument[Environment](row)
			if err != nil {
				return err
			}
			e, before := &doc.Properties, len(doc.Properties.Labels)
			if row.Key == target.Key {
				e.Labels = body.Labels
			} else if e.Labels = slices.DeleteFunc(e.Labels, func(l string) bool { return slices.Contains(body.Labels, l) }); len(e.Labels) == before {
				continue
			}
			if err := s.write(r, tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &dataplane.Reply{Status: http.StatusOK}, nil
}

// image says what was made of a version last, because somebody asked for it.
func (s *Service) image(r *dataplane.Request) (*dataplane.Reply, error) {
	var env *Environment
	made := ""
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) error {
		row, e, err := s.find(tx, r)
		if err != nil {
			return err
		}
		env = e
		_, b, err := built(tx, row)
		if b != nil {
			made = b.Image
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var python struct{ InterpreterPath string }
	if len(env.Python) > 0 {
		if err := json.Unmarshal(env.Python, &python); err != nil {
			python.InterpreterPath = ""
		}
	}
	there := made != ""
	if there {
		if there, err = s.Images.Has(r.Context(), image.Reference(made)); err != nil {
			return nil, err
		}
	}
	address, repository, _ := strings.Cut(made, "/")
	return dataplane.OK(map[string]any{
		"imageExistsInRegistry": there,
		// Nodes have a password for the registry; nobody else needs one.
		"dockerImage":       map[string]any{"name": repository, "registry": map[string]any{"address": address, "username": nil, "password": nil}},
		"pythonEnvironment": map[string]any{"interpreterPath": cmp.Or(python.InterpreterPath, "python"), "condaEnvironmentName": nil, "condaEnvironmentPath": nil},
		"ingredients":       nil,
	})
}

// recipe would say how a client makes the image itself.
func (s *Service) recipe(r *dataplane.Request) (*dataplane.Reply, error) {
	if _, _, err := s.read(r); err != nil {
		return nil, err
	}
	return nil, armerr.New(armerr.CodeNotSupported, "Berth gives out no recipe for build_local: it makes images without Docker and conda. Use Environment.build(workspace), or deploy; both make the image.")
}
