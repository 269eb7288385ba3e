package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/environment"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/store"
)

// access is how the registry of a version's base image is asked. The password leaves the request's document before that
// is stored, and is used for no other registry or user than it was given for.
type access struct {
	Host     string `json:"host"` // image.BaseRegistry: the address may be left out, and says nothing by itself
	Username string `json:"username"`
	Password string `json:"password"`
}

// accesses are a web service's, by version.
type accesses map[string]access

// Of the secrets of a row.
const accessPath = "properties.registryAccess"

// sealed are a row's secrets, by path.
func sealed(tx store.ReadTx, key string) (map[string]string, error) {
	raw, err := tx.Secret(key, "document")
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	all := map[string]string{}
	if err == nil && json.Unmarshal(raw, &all) != nil {
		err = errors.New("the secrets of a web service cannot be read") // without the cause: it may quote them
	}
	return all, err
}

// decodeAccesses reads what seal wrote.
func decodeAccesses(text string) accesses {
	var a accesses
	if json.Unmarshal([]byte(text), &a) != nil {
		return nil // nothing was given
	}
	return a
}

// takePasswords takes the passwords out of the environments of a document, and returns what each asks for.
func takePasswords(doc map[string]any) accesses {
	out := accesses{}
	take := func(version string, holder map[string]any) {
		dataplane.Spell(holder, "environmentImageRequest")
		request, _ := holder["environmentImageRequest"].(map[string]any)
		dataplane.Spell(request, "environment")
		env, _ := request["environment"].(map[string]any)
		if a, r := accessOf(env); r != nil {
			out[version] = a
			r["password"] = nil
		}
	}
	p, _ := doc["properties"].(map[string]any)
	dataplane.Spell(p, "versions")
	take("", p)
	versions, _ := p["versions"].(map[string]any)
	for name, v := range versions {
		if m, ok := v.(map[string]any); ok {
			take(name, m)
		}
	}
	return out
}

// accessOf is how the registry of an environment's base image is asked, with docker.baseImageRegistry, which says so, nil
// for none. It leaves one spelling of each name, so that whoever reads the environment later reads the same.
func accessOf(env map[string]any) (a access, registry map[string]any) {
	dataplane.Spell(env, "docker")
	docker, _ := env["docker"].(map[string]any)
	dataplane.Spell(docker, "baseImage", "baseImageRegistry")
	registry, _ = docker["baseImageRegistry"].(map[string]any)
	dataplane.Spell(registry, "address", "username", "password")
	base, _ := docker["baseImage"].(string)
	address, _ := registry["address"].(string)
	a.Host = image.BaseRegistry(base, address)
	a.Username, _ = registry["username"].(string)
	a.Password, _ = registry["password"].(string)
	return a, registry
}

// seal puts the passwords among the document's secrets. One that is not given again stays while registry and user do; where
// no registry is asked there is nothing to keep.
func (a accesses) seal(tx store.ReadTx, key string, doc map[string]any) error {
	secrets, err := sealed(tx, key)
	if err != nil {
		return err
	}
	old, next := decodeAccesses(secrets[accessPath]), accesses{}
	for version, asked := range a {
		if have := old[version]; asked.Password == "" && have.Host == asked.Host && have.Username == asked.Username {
			asked = have
		}
		if asked.Password != "" && asked.Host != "" {
			next[version] = asked
		}
	}
	if len(old) == 0 && len(next) == 0 {
		return nil
	}
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if p, ok := doc["properties"].(map[string]any); ok {
		p["registryAccess"] = string(text)
	}
	return nil
}

// withPassword completes an environment for the builder: with the password that the deployment came with, or the one
// that the environment was registered with.
func (s *Service) withPassword(ctx context.Context, workspace armid.ID, definition json.RawMessage, known access) (json.RawMessage, error) {
	var env map[string]any
	if err := dataplane.Unmarshal(definition, &env); err != nil {
		return nil, &image.UserError{Code: image.EnvironmentNotSupported, Message: fmt.Sprintf("The environment's definition cannot be read: %v.", err)}
	}
	asked, r := accessOf(env)
	if asked.Host == "" || asked.Username == "" || asked.Password != "" {
		return definition, nil
	}
	if known.Host == asked.Host && known.Username == asked.Username {
		asked.Password = known.Password
	}
	if asked.Password == "" {
		name, _ := env["name"].(string)
		version, _ := env["version"].(string)
		err := s.Manager.Store.View(ctx, func(tx store.ReadTx) (err error) {
			asked.Password, err = environment.Password(tx, workspace, name, version, asked.Host, asked.Username)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	r["password"] = asked.Password
	return json.Marshal(env)
}
