package resource

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/schema"
	"github.com/berthdev/berth/internal/store"
)

// Type is a declared resource type, with the Go type of its properties erased.
type Type struct {
	Name           string // e.g. Microsoft.ContainerService/managedClusters
	Key            string // lower-cased Name
	Namespace      string
	Summary        string
	Versions       []string
	Scope          Scope
	Tracked        bool
	ReadOnly       bool
	DataPlane      bool // see Definition
	Asynchronous   bool // a reconciler works on it
	OperationsPath string
	CreateStatus   int
	DeleteOrder    int
	Filters        map[string]string // see Definition
	DeletedBody    bool              // see Definition
	Actions        []ActionInfo
	Virtual        *Virtual // set for types that are not stored

	tagsOnlyPatch            bool
	names                    NameRule
	bodyType                 string
	etagInBody               string
	lowerGroups              bool
	discriminate             func(doc map[string]any) error
	deadline, deleteDeadline time.Duration
	schema                   *schema.Schema
	finalizes                bool

	admit     func(ctx context.Context, in admission) (map[string]any, error)
	removable func(ctx context.Context, m *Manager, tx store.Tx, row *store.Resource, query func(string) string) (note string, err error)
	present   func(tx store.ReadTx, row *store.Resource, version string, doc map[string]any) (map[string]any, error)
	reconcile func(ctx context.Context, p *pass) (Outcome, error)
	act       func(ctx context.Context, name string, c actionCall) (any, error)
}

// ActionInfo names a POST of a type.
type ActionInfo struct{ Name, Summary string }

// admission is what a type's Admit works on, still without its Go type.
type admission struct {
	id      armid.ID
	version string
	doc     map[string]any
	given   map[string]any
	row     *store.Resource // nil on create
	secrets map[string]string
	tx      store.Tx
	manager *Manager
	by      store.Stamp
	allowed func(action string, scope armid.ID) error
}

// pass is one look of a reconciler at a resource.
type pass struct {
	manager *Manager
	row     *store.Resource
	op      *store.Operation
	handle  store.Handle
	record  Record
	now     time.Time
	secret  func(path string) (string, error)

	// results
	status  []byte
	effects []func(ctx context.Context, tx store.Tx) error
}

type actionCall struct {
	id      armid.ID
	version string
	row     *store.Resource
	handle  store.Handle
	query   func(string) string
	body    []byte
	manager *Manager
	by      store.Stamp
}

// New makes a type of its declaration. It panics on a declaration that contradicts
// itself: that is a programming error and shows at start.
func New[T any](def Definition[T]) *Type {
	ns, rest, ok := strings.Cut(def.Type, "/")
	if !ok || rest == "" {
		panic(fmt.Sprintf("resource: %q is not Namespace/type", def.Type))
	}
	t := &Type{
		Name: def.Type, Key: strings.ToLower(def.Type), Namespace: ns, Summary: def.Summary, Versions: def.Versions,
		Scope: def.Scope, Tracked: def.Tracked, ReadOnly: def.ReadOnly, DataPlane: def.DataPlane, Asynchronous: def.Reconcile != nil,
		OperationsPath: def.OperationsPath, CreateStatus: def.CreateStatus, DeleteOrder: def.DeleteOrder, Filters: def.Filters, DeletedBody: def.DeletedBody,
		tagsOnlyPatch: def.TagsOnlyPatch, names: def.Names, bodyType: def.BodyType, etagInBody: def.ETagInBody,
		lowerGroups: def.LowerGroups, discriminate: def.Discriminate,
		deadline: def.Deadline, deleteDeadline: def.DeleteDeadline,
		schema: schema.From[Document[T]](), finalizes: def.Finalize != nil,
	}
	if t.bodyType == "" {
		t.bodyType = def.Type
	}
	if t.OperationsPath == "" {
		t.OperationsPath = "operationStatuses"
	}
	if t.CreateStatus == 0 {
		t.CreateStatus = 201
	}
	const halfHour = 30 * time.Minute
	if t.deadline == 0 {
		t.deadline = halfHour
	}
	if t.deleteDeadline == 0 {
		t.deleteDeadline = halfHour
	}
	for _, a := range def.Actions {
		t.Actions = append(t.Actions, ActionInfo{a.Name, a.Summary})
	}

	t.admit = func(ctx context.Context, in admission) (map[string]any, error) {
		d := &Draft[T]{
			ID: in.id, Version: in.version, Secrets: in.secrets, Tx: in.tx, Manager: in.manager, By: in.by, Allowed: in.allowed,
			Given: func(path string) bool { return has(in.given, strings.Split(path, ".")) },
		}
		var err error
		if d.New, err = decode[T](in.doc); err != nil {
			return nil, err
		}
		if in.row != nil {
			d.Failed = in.row.State == StateFailed
			if d.Old, err = decodeBytes[T](in.row.Spec); err != nil {
				return nil, err
			}
			if d.Status, err = decodeBytes[T](in.row.Status); err != nil {
				return nil, err
			}
		}
		if def.Admit != nil {
			if err := def.Admit(ctx, d); err != nil {
				return nil, err
			}
		}
		if err := joinFindings(d.findings); err != nil {
			return nil, err
		}
		return encode(d.New)
	}
	t.removable = func(ctx context.Context, m *Manager, tx store.Tx, row *store.Resource, query func(string) string) (string, error) {
		if def.Removable == nil {
			return "", nil
		}
		r := &Removal[T]{ID: armid.MustParse(row.ID), Query: query, Tx: tx, Manager: m}
		var err error
		if r.Doc, err = decodeBytes[T](row.Spec); err != nil {
			return "", err
		}
		if r.Status, err = decodeBytes[T](row.Status); err != nil {
			return "", err
		}
		err = def.Removable(ctx, r)
		return r.Note, err
	}
	t.present = func(tx store.ReadTx, row *store.Resource, version string, doc map[string]any) (map[string]any, error) {
		if def.Present == nil {
			return doc, nil
		}
		typed, err := decode[T](doc)
		if err != nil {
			return nil, err
		}
		def.Present(&Presentation[T]{ID: armid.MustParse(row.ID), Version: version, Row: row, Doc: typed, Tx: tx})
		return encode(typed)
	}
	t.reconcile = func(ctx context.Context, p *pass) (Outcome, error) {
		o := &Object[T]{
			ID: armid.MustParse(p.row.ID), Row: p.row, Handle: p.handle, Operation: p.op, Record: p.record,
			Secret: p.secret, Manager: p.manager, Now: p.now,
		}
		if p.op != nil && !Final(p.op.Status) {
			o.Deadline = p.op.Deadline
		}
		var err error
		if o.Spec, err = decodeBytes[T](p.row.Spec); err != nil {
			return Outcome{}, err
		}
		if o.Status, err = decodeBytes[T](p.row.Status); err != nil {
			return Outcome{}, err
		}
		var out Outcome
		switch {
		case p.row.DeletedAt == nil && def.Reconcile != nil:
			out = def.Reconcile(ctx, o)
		case p.row.DeletedAt == nil:
			out = Done(0)
		case def.Finalize != nil:
			out = def.Finalize(ctx, o)
		default:
			out = Gone()
		}
		if out.gone && p.row.DeletedAt == nil {
			return Outcome{}, fmt.Errorf("resource: %s said Gone outside Finalize", def.Type)
		}
		p.handle, p.record, p.effects = o.Handle, o.Record, o.effects
		if p.status, err = json.Marshal(o.Status); err != nil {
			return Outcome{}, err
		}
		return out, nil
	}
	t.act = func(ctx context.Context, name string, c actionCall) (any, error) {
		for _, a := range def.Actions {
			if !strings.EqualFold(a.Name, name) {
				continue
			}
			merged, err := merged(c.row)
			if err != nil {
				return nil, err
			}
			doc, err := decode[T](merged)
			if err != nil {
				return nil, err
			}
			return a.Do(ctx, &ActionCall[T]{
				ID: c.id, Version: c.version, Row: c.row, Doc: doc, Handle: c.handle, Query: c.query, Body: c.body, Manager: c.manager, By: c.by,
			})
		}
		return nil, armerr.New(armerr.CodeInvalidResourceType, "%s has no action %q.", def.Type, name)
	}
	return t
}

// joinFindings keeps the code of the finding where all agree, so that a rule with a
// code of its own stays recognisable.
func joinFindings(findings []*armerr.Error) error {
	if len(findings) == 0 {
		return nil
	}
	code := findings[0].Code
	for _, f := range findings {
		if f.Code != code {
			code = armerr.CodeInvalidParameter
		}
	}
	return armerr.Join(code, findings)
}

// NestedIn is the full name of the parent type, "" for a type that is not nested.
func (t *Type) NestedIn() string {
	if strings.Count(t.Name, "/") < 2 {
		return ""
	}
	return t.Name[:strings.LastIndex(t.Name, "/")]
}

// CheckName holds a name against the type's rule. Errors: *armerr.Error.
func (t *Type) CheckName(name string) error {
	r := t.names
	code := r.Code
	if code == "" {
		code = armerr.CodeInvalidResourceName
	}
	if r.Pattern != nil && !r.Pattern.MatchString(name) {
		e := armerr.New(code, "The name %.100q is invalid for %s: it %s. Choose another name.", name, t.Name, r.Description)
		e.Target = "name"
		e.Status = 400
		return e
	}
	for _, res := range r.Reserved {
		if strings.EqualFold(name, res) {
			e := armerr.New(code, "The name %q is reserved for %s. Choose another name; reserved are: %s.", name, t.Name, strings.Join(r.Reserved, ", "))
			e.Target = "name"
			e.Status = 400
			return e
		}
	}
	return nil
}

// identityOf is what a system-assigned identity shows: stable, and derived from the ID,
// so that nothing has to be kept.
func identityOf(key, tenant string) (principal, tenantID string) {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("identity:"+key)).String(), tenant
}

func has(m map[string]any, path []string) bool {
	for k, v := range m {
		if !strings.EqualFold(k, path[0]) {
			continue
		}
		if len(path) == 1 {
			return true
		}
		sub, ok := v.(map[string]any)
		return ok && has(sub, path[1:])
	}
	return false
}

func decode[T any](doc map[string]any) (*Document[T], error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return decodeBytes[T](data)
}

func decodeBytes[T any](data []byte) (*Document[T], error) {
	d := &Document[T]{}
	if len(data) == 0 {
		return d, nil
	}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("reading a stored document: %w", err)
	}
	return d, nil
}

func encode[T any](d *Document[T]) (map[string]any, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return tree(data)
}

// tree reads a document that Berth itself wrote.
func tree(data []byte) (map[string]any, error) {
	if len(data) == 0 {
		return map[string]any{}, nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("reading a stored document: %w", err)
	}
	return m, nil
}

func merged(row *store.Resource) (map[string]any, error) {
	spec, err := tree(row.Spec)
	if err != nil {
		return nil, err
	}
	status, err := tree(row.Status)
	if err != nil {
		return nil, err
	}
	return schema.Overlay(spec, status), nil
}

// View renders a resource as a GET of the given api-version shows it.
func (m *Manager) View(tx store.ReadTx, t *Type, row *store.Resource, version string) (map[string]any, error) {
	doc, err := merged(row)
	if err != nil {
		return nil, err
	}
	if doc, err = t.present(tx, row, version, doc); err != nil {
		return nil, err
	}
	id := armid.MustParse(row.ID)
	doc["id"], doc["name"], doc["type"] = row.ID, id.Name(), t.bodyType
	if t.lowerGroups {
		doc["id"] = strings.Replace(row.ID, "/resourceGroups/", "/resourcegroups/", 1)
	}
	if t.Tracked {
		doc["location"] = row.Location
	}
	props, _ := doc["properties"].(map[string]any)
	if props == nil {
		props = map[string]any{}
		doc["properties"] = props
	}
	props["provisioningState"] = row.State
	if ident, ok := doc["identity"].(map[string]any); ok {
		if typ, _ := ident["type"].(string); strings.Contains(strings.ToLower(typ), "systemassigned") {
			ident = maps.Clone(ident)
			ident["principalId"], ident["tenantId"] = identityOf(row.Key, m.Tenant)
			doc["identity"] = ident
		}
	}
	if t.etagInBody != "" {
		doc[t.etagInBody] = strings.Trim(ETag(row), `"`)
	}
	out, _ := t.schema.Shape(doc, version).(map[string]any)
	if !t.Tracked {
		delete(out, "tags")
		delete(out, "location")
	}
	out["systemData"] = map[string]any{
		"createdBy": row.Created.By, "createdByType": row.Created.Kind, "createdAt": Timestamp(row.Created.At),
		"lastModifiedBy": row.Modified.By, "lastModifiedByType": row.Modified.Kind, "lastModifiedAt": Timestamp(row.Modified.At),
	}
	return out, nil
}

// ETag is the entity tag of a resource's row.
func ETag(row *store.Resource) string { return fmt.Sprintf(`"%016x"`, row.Version) }

// Timestamp writes a time as Azure does, with seven fractional digits.
func Timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }
