package resource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/tracing"
)

// write is what PUT and PATCH have in common: the whole document is held against its schema
// and its type's rules, then stored with the operation and the wake-up that follow.
func (m *Manager) write(ctx context.Context, tx store.Tx, w Write, row *store.Resource, doc map[string]any) (*Written, error) {
	clean, err := m.check(w, doc)
	if err != nil {
		return nil, err
	}
	secrets, changedSecrets, err := m.secrets(tx, w.Type, w.ID.Key(), clean, row)
	if err != nil {
		return nil, err
	}
	var stored map[string]any
	if row != nil {
		if stored, err = m.inherit(w, row, clean); err != nil {
			return nil, err
		}
	}
	spec, err := m.admitted(ctx, tx, w, row, clean, secrets)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	by := w.By
	by.At = m.Now()
	if row == nil {
		return m.create(ctx, tx, w, by, spec, data, secrets, changedSecrets)
	}
	if findings := w.Type.schema.Changed(spec, stored, ""); len(findings) > 0 {
		return nil, joinFindings(findings)
	}
	return m.update(ctx, tx, w, by, row, data, secrets, changedSecrets)
}

// check holds a document against its type's schema and returns it in canonical form.
func (m *Manager) check(w Write, doc map[string]any) (map[string]any, error) {
	t := w.Type
	if t.discriminate != nil {
		if err := t.discriminate(doc); err != nil {
			return nil, err
		}
	}
	checked, findings := t.schema.Check(doc, w.Version, "", true)
	clean := checked.(map[string]any)
	if !t.DataPlane { // tags of models and web services are not Resource Manager's, and have no such rules
		findings = append(findings, checkTags(clean)...)
	}
	if loc, _ := clean["location"].(string); t.Tracked && loc != "" {
		canonical, ok := m.Locate(loc)
		if !ok {
			e := armerr.New(armerr.CodeLocationNotAvailable, "location: %q is not an Azure region. List the regions with: az account list-locations", clip(loc))
			e.Target = "location"
			findings = append(findings, e)
		}
		clean["location"] = canonical
	}
	return clean, joinFindings(findings)
}

// inherit adds to an update what it leaves out and what cannot change, and returns what is stored.
func (m *Manager) inherit(w Write, row *store.Resource, clean map[string]any) (stored map[string]any, err error) {
	if stored, err = tree(row.Spec); err != nil {
		return nil, err
	}
	w.Type.schema.CarryOver(clean, stored, w.Version)
	if clean["location"] == nil && row.Location != "" {
		clean["location"] = row.Location
	}
	if loc, _ := clean["location"].(string); w.Type.Tracked && !strings.EqualFold(loc, row.Location) {
		return nil, armerr.New(armerr.CodeInvalidResourceLocation, "The resource '%s' already exists in location '%s'. A resource with the same name cannot be created in location '%s'. Choose another name, or keep the location.", w.ID.Name(), row.Location, loc)
	}
	return stored, nil
}

// admitted is the document as its type completes it, without what the row says already.
func (m *Manager) admitted(ctx context.Context, tx store.Tx, w Write, row *store.Resource, clean map[string]any, secrets map[string]string) (map[string]any, error) {
	allowed := w.Allowed
	if allowed == nil {
		allowed = func(string, armid.ID) error { return nil }
	}
	spec, err := w.Type.admit(ctx, admission{
		id: w.ID, version: w.Version, doc: clean, given: w.Doc, row: row, secrets: secrets, tx: tx, manager: m, by: w.By, allowed: allowed,
	})
	if err != nil {
		return nil, err
	}
	for _, k := range []string{"id", "name", "type"} {
		delete(spec, k)
	}
	if loc, _ := spec["location"].(string); w.Type.Tracked && loc == "" {
		e := armerr.New(armerr.CodeInvalidLocation, "location: the field is required for %s. Add the name of an Azure region, such as westeurope.", w.Type.Name)
		e.Target = "location"
		return nil, e
	}
	return spec, nil
}

func (m *Manager) create(ctx context.Context, tx store.Tx, w Write, by store.Stamp, spec map[string]any, data []byte, secrets map[string]string, changedSecrets bool) (*Written, error) {
	loc, _ := spec["location"].(string)
	row := &store.Resource{
		Key: w.ID.Key(), ID: w.ID.Spelled(w.Type.Name).String(), Type: w.Type.Key, Parent: w.ID.Parent().Key(),
		Subscription: strings.ToLower(w.ID.SubscriptionID()), Group: strings.ToLower(w.ID.GroupName()),
		Location: loc, Spec: data, Generation: 1, Created: by, Modified: by,
	}
	op := m.begin(w.Type, row, "create", w.Type.deadline, by)
	if err := tx.Create(row); err != nil {
		return nil, err
	}
	return m.finishWrite(ctx, tx, row, op, secrets, changedSecrets, true)
}

func (m *Manager) update(ctx context.Context, tx store.Tx, w Write, by store.Stamp, row *store.Resource, data []byte, secrets map[string]string, changedSecrets bool) (*Written, error) {
	t := w.Type
	same := bytes.Equal(data, row.Spec) && !changedSecrets
	if t.Asynchronous && !Final(row.State) {
		if !same {
			e := armerr.New(armerr.CodeOperationNotAllowed, "Another operation (%s) is in progress on '%s'. Wait until it ends, then send the change again.", row.State, w.ID.Name())
			e.RetryAfter = 5 * time.Second
			return nil, e
		}
		op, err := tx.Operation(row.OperationID)
		if err != nil {
			return nil, err
		}
		return &Written{Row: row, Operation: op}, nil
	}
	if same && row.State == StateSucceeded {
		// Nothing to do; but azureml-core insists on an operation even then.
		op := m.begin(t, row, "update", t.deadline, by)
		if op != nil {
			row.State, op.Status, op.End = StateSucceeded, StateSucceeded, &by.At
			if err := tx.PutOperation(op); err != nil {
				return nil, err
			}
		}
		return &Written{Row: row, Operation: op}, nil
	}
	row.Spec, row.Modified = data, by
	row.Generation++
	op := m.begin(t, row, "update", t.deadline, by)
	if err := tx.PutSpec(row); err != nil {
		return nil, err
	}
	return m.finishWrite(ctx, tx, row, op, secrets, changedSecrets, false)
}

// begin sets a row's state for new work and makes the operation that follows it, nil
// for types that have none.
func (m *Manager) begin(t *Type, row *store.Resource, kind string, deadline time.Duration, by store.Stamp) *store.Operation {
	if kind != "delete" && !t.Asynchronous {
		row.State, row.Observed = StateSucceeded, row.Generation
		return nil
	}
	op := &store.Operation{
		ID: m.NewID(), ResourceKey: row.Key, ResourceID: row.ID, Kind: kind, Subscription: row.Subscription,
		Provider: strings.ToLower(t.Namespace), Location: row.Location, Generation: row.Generation,
		Status: "InProgress", Start: by.At, Deadline: by.At.Add(deadline), By: by,
	}
	row.State = map[string]string{"create": StateCreating, "update": StateUpdating, "delete": StateDeleting}[kind]
	row.OperationID = op.ID
	return op
}

func (m *Manager) finishWrite(ctx context.Context, tx store.Tx, row *store.Resource, op *store.Operation, secrets map[string]string, changedSecrets, created bool) (*Written, error) {
	if changedSecrets {
		data, err := json.Marshal(secrets)
		if err != nil {
			return nil, err
		}
		if len(secrets) == 0 {
			data = nil
		}
		if err := tx.PutSecret(row.Key, secretsName, data); err != nil {
			return nil, err
		}
	}
	if op != nil {
		op.Trace = tracing.Parent(ctx)
		if err := tx.PutOperation(op); err != nil {
			return nil, err
		}
		if err := tx.Wake(row.Key, m.Now()); err != nil {
			return nil, err
		}
	}
	return &Written{Row: row, Operation: op, Created: created}, nil
}

// secrets takes the secret fields out of a document. A secret that is not given again
// is kept as long as the object around it is there.
func (m *Manager) secrets(tx store.Tx, t *Type, key string, doc map[string]any, row *store.Resource) (all map[string]string, changed bool, err error) {
	given := t.schema.Secrets(doc, "")
	old := map[string]string{}
	if row != nil {
		if old, err = storedSecrets(tx, key); err != nil {
			return nil, false, err
		}
	}
	all = given
	for path, v := range old {
		if _, ok := all[path]; ok {
			continue
		}
		parts := strings.Split(path, ".")
		if len(parts) == 1 || has(doc, parts[:len(parts)-1]) {
			all[path] = v
		}
	}
	return all, !maps.Equal(all, old), nil
}

func storedSecrets(tx store.ReadTx, key string) (map[string]string, error) {
	out := map[string]string{}
	data, err := tx.Secret(key, secretsName)
	if errors.Is(err, store.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, errors.New("a resource's secrets can not be read") // without the cause: it may quote them
	}
	return out, nil
}

// checkTags applies ARM's limits: 50 tags, names of 1 to 512 characters without <>%&\?/,
// values of up to 256.
func checkTags(doc map[string]any) []*armerr.Error {
	tags, _ := doc["tags"].(map[string]any)
	var out []*armerr.Error
	for k, v := range tags {
		s, _ := v.(string)
		switch {
		case k == "" || len([]rune(k)) > 512:
			out = append(out, armerr.Field("tags", "a tag's name has 1 to 512 characters; shorten %q.", clip(k)))
		case strings.ContainsAny(k, `<>%&\?/`):
			out = append(out, armerr.Field("tags", "a tag's name has none of the characters < > %% & \\ ? /; rename %q.", clip(k)))
		case len([]rune(s)) > 256:
			out = append(out, armerr.Field("tags."+k, "a tag's value has at most 256 characters; this one has %d.", len([]rune(s))))
		}
	}
	return out
}
