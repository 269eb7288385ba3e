// Package resource turns the declaration of a resource type into behaviour: PUT, PATCH,
// DELETE and GET with ARM's semantics, the operations that follow a resource, and the
// reconciler that does the work. A type is declared once, as a Definition; everything
// else is derived. The package knows ARM's rules and the store, and no resource type.
//
// The one invariant: a write changes the resource, its operation and its wake-up in one
// transaction; work happens later, in a reconciler, and an operation only reports it.
package resource

import (
	"context"
	"encoding/json"
	"regexp"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/store"
)

// Provisioning states. The last three are final.
const (
	StateCreating  = "Creating"
	StateUpdating  = "Updating"
	StateDeleting  = "Deleting"
	StateSucceeded = "Succeeded"
	StateFailed    = "Failed"
	StateCanceled  = "Canceled"
)

// Final reports whether a provisioning or operation state is final.
func Final(state string) bool {
	return state == StateSucceeded || state == StateFailed || state == StateCanceled
}

// Scope says where resources of a type live.
type Scope int

// The scopes of resource types. A nested type (two or more type segments) lives in its
// parent, whatever its scope says about the outermost one.
const (
	InGroup        Scope = iota // /subscriptions/…/resourceGroups/…/providers/…
	InSubscription              // /subscriptions/…/providers/…
	InTenant                    // /providers/…
	Anywhere                    // an extension: on any scope, resource or not
)

// Document is a resource as clients write it and providers read it. T is the shape of
// its properties, with the rules of package schema in its tags.
type Document[T any] struct {
	ID         string            `json:"id,omitempty" arm:"readonly"`
	Name       string            `json:"name,omitempty" arm:"readonly"`
	Type       string            `json:"type,omitempty" arm:"readonly"`
	Location   string            `json:"location,omitempty" arm:"maxlen=64"`
	Kind       string            `json:"kind,omitempty" arm:"maxlen=64"`
	ManagedBy  string            `json:"managedBy,omitempty" arm:"maxlen=2048"`
	SKU        *SKU              `json:"sku,omitempty"`
	Identity   *Identity         `json:"identity,omitempty"`
	Tags       map[string]string `json:"tags,omitempty" arm:"always,maxlen=50"`
	Zones      []string          `json:"zones,omitempty" arm:"unsupported"`
	Plan       json.RawMessage   `json:"plan,omitempty" arm:"unsupported"`
	Extended   json.RawMessage   `json:"extendedLocation,omitempty" arm:"unsupported"`
	ETag       string            `json:"etag,omitempty" arm:"readonly"`
	ETagAKS    string            `json:"eTag,omitempty" arm:"readonly"`
	SystemData json.RawMessage   `json:"systemData,omitempty" arm:"readonly"`
	Properties T                 `json:"properties,omitempty"`
}

// SKU is the common type of that name.
type SKU struct {
	Name     string `json:"name,omitempty" arm:"maxlen=64"`
	Tier     string `json:"tier,omitempty" arm:"maxlen=64"`
	Size     string `json:"size,omitempty" arm:"maxlen=64"`
	Family   string `json:"family,omitempty" arm:"maxlen=64"`
	Capacity *int   `json:"capacity,omitempty"`
}

// Identity is the common type of that name.
type Identity struct {
	Type                   string                     `json:"type,omitempty" arm:"maxlen=64"`
	PrincipalID            string                     `json:"principalId,omitempty" arm:"readonly"`
	TenantID               string                     `json:"tenantId,omitempty" arm:"readonly"`
	UserAssignedIdentities map[string]json.RawMessage `json:"userAssignedIdentities,omitempty"`
	DelegatedResources     json.RawMessage            `json:"delegatedResources,omitempty" arm:"unsupported"`
}

// Definition declares a resource type.
type Definition[T any] struct {
	Type     string   // e.g. Microsoft.MachineLearningServices/workspaces/computes
	Summary  string   // one sentence for listings and the reference page
	Versions []string // api-versions, oldest first; see Registry.Resolve
	Scope    Scope
	Tracked  bool // has a location and tags
	Names    NameRule

	// BodyType is the type as answers spell it, where that differs from Type.
	BodyType string
	// LowerGroups spells IDs in answers with resourcegroups in lower case, as AKS does (A2).
	LowerGroups bool
	// Discriminate refuses a document of another kind before its fields are looked at.
	Discriminate func(doc map[string]any) error
	// ETagInBody names the body's field that repeats the ETag header: etag, eTag, or "" for none.
	ETagInBody string
	// OperationsPath is the path segment of operation URLs below locations/{location}/.
	OperationsPath string
	// CreateStatus is the HTTP status of a PUT that creates; 0 means 201.
	CreateStatus int
	// DeletedBody makes a DELETE answer with the resource as it was.
	DeletedBody bool
	// TagsOnlyPatch refuses a PATCH of anything but tags.
	TagsOnlyPatch bool
	// ReadOnly types are made by Berth itself; clients can only read them.
	ReadOnly bool
	// DataPlane types are served by an API of their own and do not exist for ARM.
	DataPlane bool
	// Filters are what lists of the type can be filtered by beside the common fields: the
	// name in $filter, with () for a function, to the property that it compares.
	Filters map[string]string
	// DeleteOrder orders the deletion of siblings when their parent goes: lower first.
	DeleteOrder int
	// Deadline bounds create and update, DeleteDeadline delete; 0 means half an hour.
	Deadline, DeleteDeadline time.Duration

	// Admit completes and checks what a client wrote: it fills defaults into d.New, reports
	// every broken rule with d.Fail, and takes claims. It runs in the write's transaction.
	Admit func(ctx context.Context, d *Draft[T]) error
	// Removable says why a resource can not be deleted now, in the DELETE's transaction.
	Removable func(ctx context.Context, d *Removal[T]) error
	// Present adds what an answer shows beyond spec and status.
	Present func(p *Presentation[T])
	// Reconcile does the work; nil means that there is none and writes finish at once.
	Reconcile func(ctx context.Context, o *Object[T]) Outcome
	// Finalize undoes the work before the resource goes; nil means that there is nothing to undo.
	Finalize func(ctx context.Context, o *Object[T]) Outcome
	// Actions are the POSTs below a resource.
	Actions []Action[T]
}

// NameRule is the rule for a type's names.
type NameRule struct {
	Pattern     *regexp.Regexp
	Description string   // completes "The name …", e.g. "has 3 to 24 letters, digits and dashes"
	Reserved    []string // lower-case names that nobody may use
	Code        string   // "" means InvalidResourceName
}

// Draft is a write on its way into the store.
type Draft[T any] struct {
	ID      armid.ID
	Version string       // api-version of the request
	New     *Document[T] // what will be stored; Admit completes it
	Old     *Document[T] // what is stored, nil on create
	Status  *Document[T] // what Berth found of the stored resource, nil on create
	Failed  bool         // the stored resource is in state Failed
	Secrets map[string]string
	Tx      store.Tx
	Manager *Manager
	By      store.Stamp
	// Allowed checks that the writer may do an action elsewhere, on what the document refers to.
	Allowed func(action string, scope armid.ID) error
	Given   func(path string) bool // whether the client sent a field, e.g. "properties.count"

	findings []*armerr.Error
}

// Creating reports whether the write creates the resource.
func (d *Draft[T]) Creating() bool { return d.Old == nil }

// Fail reports a broken rule about a field.
func (d *Draft[T]) Fail(target, format string, args ...any) {
	d.findings = append(d.findings, armerr.Field(target, format, args...))
}

// FailWith reports a broken rule with a code of its own.
func (d *Draft[T]) FailWith(e *armerr.Error) { d.findings = append(d.findings, e) }

// Removal is a DELETE on its way into the store.
type Removal[T any] struct {
	ID      armid.ID
	Doc     *Document[T]
	Status  *Document[T]
	Query   func(name string) string // the request's query parameters, names without case
	Tx      store.Tx
	Manager *Manager
	// Note is kept in the resource's record until it is gone, for Finalize.
	Note string
}

// Presentation is a resource on its way out.
type Presentation[T any] struct {
	ID      armid.ID
	Version string
	Row     *store.Resource
	Doc     *Document[T] // spec and status merged; change it freely
	Tx      store.ReadTx
}

// Object is a resource in the hands of its reconciler.
type Object[T any] struct {
	ID        armid.ID
	Row       *store.Resource // as it was read; do not change
	Spec      *Document[T]
	Status    *Document[T] // what Berth found; change it freely, it is stored with the outcome
	Handle    store.Handle // the provider's note; changed ones are stored with the outcome
	Operation *store.Operation
	Record    Record // the reconciler's own memory; stored with the outcome
	Secret    func(path string) (string, error)
	Manager   *Manager
	Now       time.Time
	Deadline  time.Time // of the active operation; zero without one
	effects   []func(ctx context.Context, tx store.Tx) error
}

// Record is what a reconciler remembers of a resource beside its status. It is shown
// nowhere as it is.
type Record struct {
	Error   *armerr.Error   `json:"error,omitempty"`   // why the resource is Failed
	Waiting string          `json:"waiting,omitempty"` // what it waits for
	Note    string          `json:"note,omitempty"`    // how deletion was asked for
	Data    json.RawMessage `json:"data,omitempty"`    // the type's own
}

// Then adds a write to the transaction that stores the outcome.
func (o *Object[T]) Then(effect func(ctx context.Context, tx store.Tx) error) {
	o.effects = append(o.effects, effect)
}

// Outcome is what one pass of a reconciler came to.
type Outcome struct {
	state   string
	err     *armerr.Error
	waiting string
	after   time.Duration
	gone    bool
}

// Done says that the resource is as its spec wants it. after > 0 asks for another look.
func Done(after time.Duration) Outcome { return Outcome{state: StateSucceeded, after: after} }

// Waiting says that something is not there yet; why is a clause for people that completes
// "waiting for …".
func Waiting(after time.Duration, why string) Outcome { return Outcome{waiting: why, after: after} }

// Failed says that the resource cannot become what its spec wants. after > 0 asks for another look.
func Failed(err *armerr.Error, after time.Duration) Outcome {
	return Outcome{state: StateFailed, err: err, after: after}
}

// Retry says that a pass met an error that may pass; the manager backs off.
func Retry(err error) Outcome {
	return Outcome{waiting: "a retry", err: armerr.Of(err)}
}

// Gone says that nothing is left of the resource. Only Finalize may say it.
func Gone() Outcome { return Outcome{gone: true} }

// Action is a POST below a resource, e.g. listKeys.
type Action[T any] struct {
	Name    string
	Summary string
	// Do answers it. A nil answer is 204.
	Do func(ctx context.Context, a *ActionCall[T]) (any, error)
}

// ActionCall is one call of an action.
type ActionCall[T any] struct {
	ID      armid.ID
	Version string
	Row     *store.Resource
	Doc     *Document[T] // spec and status merged
	Handle  store.Handle
	Query   func(name string) string
	Body    []byte
	Manager *Manager
	By      store.Stamp
}
