package resource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/schema"
	"github.com/berthdev/berth/internal/store"
)

// Manager carries out writes and reconciles what they ask for. It is safe for
// concurrent use; its fields do not change once it is in use.
type Manager struct {
	Registry *Registry
	Store    store.Store
	Tenant   string
	Now      func() time.Time
	NewID    func() string
	// Locate returns the canonical name of a region, e.g. westeurope for "West Europe".
	Locate func(name string) (string, bool)
	Logger *slog.Logger
	// Jitter returns a value in [0, 1) that spreads retries.
	Jitter func() float64

	mu       sync.Mutex
	attempts map[string]int // of passes that ended in Retry, by key
}

// Write is a PUT, PATCH or DELETE.
type Write struct {
	ID          armid.ID
	Type        *Type
	Version     string
	Doc         map[string]any // what the client sent; nil for DELETE
	IfMatch     string
	IfNoneMatch string
	Query       func(name string) string
	By          store.Stamp
	// Allowed checks that the writer may do an action on what the document refers to. nil
	// means that Berth itself writes.
	Allowed func(action string, scope armid.ID) error
}

// Written is what a write came to. Row is nil when a DELETE found nothing, or was done
// at once; Operation is nil for writes that are done at once.
type Written struct {
	Row       *store.Resource
	Operation *store.Operation
	Created   bool
}

const secretsName = "document" // the store's name for the secret fields of a document

// Put creates or replaces a resource.
func (m *Manager) Put(ctx context.Context, tx store.Tx, w Write) (*Written, error) {
	row, err := m.writable(tx, w)
	if err != nil {
		return nil, err
	}
	if row == nil {
		if err := w.Type.CheckName(w.ID.Name()); err != nil {
			return nil, err
		}
	}
	return m.write(ctx, tx, w, row, w.Doc)
}

// Patch changes some fields of a resource, as a JSON merge patch; tags are replaced as a whole.
func (m *Manager) Patch(ctx context.Context, tx store.Tx, w Write) (*Written, error) {
	row, err := m.writable(tx, w)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, armerr.NotFound(w.Type.Name, w.ID.Name(), w.ID.GroupName())
	}
	patch, findings := w.Type.schema.Check(w.Doc, w.Version, "", false)
	if len(findings) > 0 {
		return nil, joinFindings(findings)
	}
	p := patch.(map[string]any)
	if w.Type.tagsOnlyPatch {
		for k := range p {
			if k != "tags" {
				return nil, armerr.Field(k, "a PATCH of %s changes tags only. Use PUT for the rest.", w.Type.Name)
			}
		}
	}
	spec, err := tree(row.Spec)
	if err != nil {
		return nil, err
	}
	doc := schema.Merge(spec, p)
	if tags, ok := p["tags"]; ok {
		doc["tags"] = tags
	}
	return m.write(ctx, tx, w, row, doc)
}

// writable loads what a write is about and holds it against what every write needs:
// a place to be in, matching etags, and that it is not on its way out.
func (m *Manager) writable(tx store.Tx, w Write) (*store.Resource, error) {
	if w.Type.ReadOnly {
		return nil, armerr.New(armerr.CodeMethodNotAllowed, "%s is made by Berth itself and can only be read.", w.Type.Name)
	}
	if err := m.CheckPlace(tx, w.Type, w.ID, true); err != nil {
		return nil, err
	}
	row, err := tx.Resource(w.ID.Key())
	if errors.Is(err, store.ErrNotFound) {
		row, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := precondition(w, row); err != nil {
		return nil, err
	}
	if row != nil && row.DeletedAt != nil {
		e := armerr.New(armerr.CodeConflict, "%s '%s' is being deleted. Wait until it is gone, then create it again.", w.Type.Name, w.ID.Name())
		e.RetryAfter = 2 * time.Second
		return nil, e
	}
	return row, nil
}

// CheckPlace checks that what a resource lives in exists: subscription, group, parent. For
// a write none of them may be on its way out.
func (m *Manager) CheckPlace(tx store.ReadTx, t *Type, id armid.ID, write bool) error {
	leaving := func(what *store.Resource, code string) error {
		if !write || what.DeletedAt == nil {
			return nil
		}
		e := armerr.New(code, "'%s' is being deleted; nothing can be created or changed in it.", what.ID)
		e.RetryAfter = 2 * time.Second
		return e
	}
	if sub := id.SubscriptionID(); sub != "" && !strings.EqualFold(id.Type(), armid.SubscriptionType) {
		if _, err := tx.Resource(id.SubscriptionScope().Key()); errors.Is(err, store.ErrNotFound) {
			return SubscriptionNotFound(sub)
		} else if err != nil {
			return err
		}
	}
	if g := id.GroupName(); g != "" && !strings.EqualFold(id.Type(), armid.ResourceGroupType) {
		row, err := tx.Resource(id.GroupScope().Key())
		if errors.Is(err, store.ErrNotFound) {
			return armerr.New(armerr.CodeResourceGroupNotFound, "Resource group '%s' could not be found.", g)
		} else if err != nil {
			return err
		}
		if err := leaving(row, armerr.CodeResourceGroupBeingDeleted); err != nil {
			return err
		}
	}
	parent := id.Parent()
	if t.Virtual == nil && (t.NestedIn() != "" || t.Scope == Anywhere) && parent.Namespace() != "" {
		row, err := tx.Resource(parent.Key())
		if errors.Is(err, store.ErrNotFound) {
			if !write && t.NestedIn() != "" {
				return armerr.NotFound(parent.Type(), parent.Name(), parent.GroupName())
			}
			return armerr.New(armerr.CodeParentResourceNotFound, "Can not perform the requested operation on the nested resource: its parent '%s' was not found. Create it first.", parent)
		} else if err != nil {
			return err
		}
		if err := leaving(row, armerr.CodeConflict); err != nil {
			return err
		}
	}
	return nil
}

// SubscriptionNotFound is ARM's answer for a subscription that is not there.
func SubscriptionNotFound(sub string) error {
	return armerr.New(armerr.CodeSubscriptionNotFound, "The subscription '%s' could not be found.", sub)
}

func precondition(w Write, row *store.Resource) error {
	fail := func(why string) error {
		return armerr.New(armerr.CodePreconditionFailed, "%s. Read the resource again and repeat the request with its present etag.", why)
	}
	if row == nil {
		if w.IfMatch != "" {
			return fail("If-Match was given, and the resource does not exist")
		}
		return nil
	}
	if w.IfMatch != "" && !matches(w.IfMatch, row) {
		return fail("The etag in If-Match is not the resource's; it changed since it was read")
	}
	if w.IfNoneMatch != "" && matches(w.IfNoneMatch, row) {
		return fail("If-None-Match was given, and the resource exists")
	}
	return nil
}

func matches(header string, row *store.Resource) bool {
	bare := func(s string) string {
		return strings.Trim(strings.TrimPrefix(strings.TrimSpace(s), "W/"), `"`)
	}
	for tag := range strings.SplitSeq(header, ",") {
		if b := bare(tag); b == "*" || b == bare(ETag(row)) {
			return true
		}
	}
	return false
}

func (m *Manager) write(ctx context.Context, tx store.Tx, w Write, row *store.Resource, doc map[string]any) (*Written, error) {
	t := w.Type
	if t.discriminate != nil {
		if err := t.discriminate(doc); err != nil {
			return nil, err
		}
	}
	checked, findings := t.schema.Check(doc, w.Version, "", true)
	clean := checked.(map[string]any)
	findings = append(findings, checkTags(clean)...)
	if loc, _ := clean["location"].(string); t.Tracked && loc != "" {
		canonical, ok := m.Locate(loc)
		if !ok {
			e := armerr.New(armerr.CodeLocationNotAvailable, "location: %q is not an Azure region. List the regions with: az account list-locations", clip(loc))
			e.Target = "location"
			findings = append(findings, e)
		}
		clean["location"] = canonical
	}
	if len(findings) > 0 {
		return nil, joinFindings(findings)
	}

	secrets, changedSecrets, err := m.secrets(tx, t, w.ID.Key(), clean, row)
	if err != nil {
		return nil, err
	}
	var stored map[string]any
	if row != nil {
		if stored, err = tree(row.Spec); err != nil {
			return nil, err
		}
		t.schema.CarryOver(clean, stored, w.Version)
		if clean["location"] == nil && row.Location != "" {
			clean["location"] = row.Location
		}
		if loc, _ := clean["location"].(string); t.Tracked && !strings.EqualFold(loc, row.Location) {
			return nil, armerr.New(armerr.CodeInvalidResourceLocation, "The resource '%s' already exists in location '%s'. A resource with the same name cannot be created in location '%s'. Choose another name, or keep the location.", w.ID.Name(), row.Location, loc)
		}
	}
	allowed := w.Allowed
	if allowed == nil {
		allowed = func(string, armid.ID) error { return nil }
	}
	spec, err := t.admit(ctx, admission{
		allowed: allowed,
		id:      w.ID, version: w.Version, doc: clean, given: w.Doc, row: row, secrets: secrets, tx: tx, manager: m, by: w.By,
	})
	if err != nil {
		return nil, err
	}
	for _, k := range []string{"id", "name", "type"} {
		delete(spec, k)
	}
	loc, _ := spec["location"].(string)
	if t.Tracked && loc == "" {
		e := armerr.New(armerr.CodeInvalidLocation, "location: the field is required for %s. Add the name of an Azure region, such as westeurope.", t.Name)
		e.Target = "location"
		return nil, e
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	now := m.Now()
	by := w.By
	by.At = now
	if row == nil {
		row = &store.Resource{
			Key: w.ID.Key(), ID: w.ID.Spelled(t.Name).String(), Type: t.Key, Parent: w.ID.Parent().Key(),
			Subscription: strings.ToLower(w.ID.SubscriptionID()), Group: strings.ToLower(w.ID.GroupName()),
			Location: loc, Spec: data, Generation: 1, Created: by, Modified: by,
		}
		op := m.begin(t, row, "create", t.deadline, by)
		if err := tx.Create(row); err != nil {
			return nil, err
		}
		return m.finishWrite(tx, row, op, secrets, changedSecrets, true)
	}
	if findings := t.schema.Changed(spec, stored, ""); len(findings) > 0 {
		return nil, joinFindings(findings)
	}
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
			row.State, op.Status, op.End = StateSucceeded, StateSucceeded, &now
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
	return m.finishWrite(tx, row, op, secrets, changedSecrets, false)
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

func (m *Manager) finishWrite(tx store.Tx, row *store.Resource, op *store.Operation, secrets map[string]string, changedSecrets, created bool) (*Written, error) {
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

// Delete begins the deletion of a resource, or does it at once where nothing has to be
// undone. Deleting what is not there gives Written{}.
func (m *Manager) Delete(ctx context.Context, tx store.Tx, w Write) (*Written, error) {
	t := w.Type
	if t.ReadOnly {
		return nil, armerr.New(armerr.CodeMethodNotAllowed, "%s can not be deleted.", t.Name)
	}
	row, err := tx.Resource(w.ID.Key())
	if errors.Is(err, store.ErrNotFound) {
		return &Written{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := precondition(w, row); err != nil {
		return nil, err
	}
	if row.DeletedAt != nil && row.State == StateDeleting {
		op, err := tx.Operation(row.OperationID)
		if err != nil {
			return nil, err
		}
		return &Written{Row: row, Operation: op}, nil
	}
	if w.Query == nil {
		w.Query = func(string) string { return "" }
	}
	note, err := t.removable(ctx, m, tx, row, w.Query)
	if err != nil {
		return nil, err
	}
	now := m.Now()
	by := w.By
	by.At = now
	if err := m.supersede(tx, row, now); err != nil {
		return nil, err
	}
	if !t.Asynchronous && !t.finalizes {
		children, err := tx.Count(store.Query{Parent: row.Key})
		if err != nil {
			return nil, err
		}
		if children == 0 {
			return &Written{}, m.remove(tx, row)
		}
	}
	op := m.begin(t, row, "delete", t.deleteDeadline, by)
	row.DeletedAt, row.Modified = &now, by
	row.Generation++
	rec, err := readRecord(row)
	if err != nil {
		return nil, err
	}
	rec.Note, rec.Error = note, nil
	if row.Conditions, err = json.Marshal(rec); err != nil {
		return nil, err
	}
	// The note is the reconciler's field, but it has to be there before the first pass.
	if err := tx.PutStatus(row); err != nil {
		return nil, err
	}
	if err := tx.PutSpec(row); err != nil {
		return nil, err
	}
	return m.finishWrite(tx, row, op, nil, false, false)
}

// supersede ends the operation whose place a deletion takes.
func (m *Manager) supersede(tx store.Tx, row *store.Resource, now time.Time) error {
	if row.OperationID == "" {
		return nil
	}
	op, err := tx.Operation(row.OperationID)
	if errors.Is(err, store.ErrNotFound) || err == nil && Final(op.Status) {
		return nil
	}
	if err != nil {
		return err
	}
	op.Status, op.End = StateCanceled, &now
	op.Error, err = json.Marshal(armerr.New(armerr.CodeOperationCanceled, "The %s of '%s' was canceled, because a later request deletes the resource.", op.Kind, row.ID))
	if err != nil {
		return err
	}
	return tx.PutOperation(op)
}

// remove takes a resource out of the store and tells a parent that waits for it.
func (m *Manager) remove(tx store.Tx, row *store.Resource) error {
	if err := tx.Remove(row.Key); err != nil {
		return err
	}
	if row.Parent == "" {
		return nil
	}
	parent, err := tx.Resource(row.Parent)
	if errors.Is(err, store.ErrNotFound) || err == nil && parent.DeletedAt == nil {
		return nil
	}
	if err != nil {
		return err
	}
	return tx.Wake(parent.Key, m.Now())
}

func readRecord(row *store.Resource) (Record, error) {
	var rec Record
	if len(row.Conditions) == 0 {
		return rec, nil
	}
	if err := json.Unmarshal(row.Conditions, &rec); err != nil {
		return rec, fmt.Errorf("reading the record of %s: %w", row.ID, err)
	}
	return rec, nil
}

// RecordOf is what the reconciler remembers of a resource.
func RecordOf(row *store.Resource) (Record, error) { return readRecord(row) }

// ReadDocument decodes a stored resource, spec and status merged, as properties of type T.
func ReadDocument[T any](row *store.Resource) (*Document[T], error) {
	doc, err := merged(row)
	if err != nil {
		return nil, err
	}
	return decode[T](doc)
}

// ReadSpec decodes what clients wrote of a stored resource.
func ReadSpec[T any](row *store.Resource) (*Document[T], error) { return decodeBytes[T](row.Spec) }

// Encode makes a client's document of a typed one, for a write that a provider itself sends.
func Encode[T any](d *Document[T]) (map[string]any, error) { return encode(d) }

// EncodeJSON is a typed document as it is stored.
func EncodeJSON[T any](d *Document[T]) (json.RawMessage, error) { return json.Marshal(d) }
