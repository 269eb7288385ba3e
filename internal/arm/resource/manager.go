package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/schema"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/tracing"
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
	Tracer *tracing.Tracer // tells of passes; nil tells nobody
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
