// Package store is the contract for Berth's state: resources, the operations that
// follow them, the wake-ups that make reconcilers look at them, claims on names,
// provider handles, sealed secrets and small values.
//
// The one invariant: whatever belongs together is written in one Update, so that a
// crash at any moment leaves either all of it or none. It knows nothing of ARM types
// or HTTP; documents are opaque JSON to it. Implementations: sqlite (default).
// storetest holds the rules as one suite that every implementation passes.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Errors that callers handle. Anything else is a failure of the store itself.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	// ErrStale says that the row changed since it was read: read again and retry.
	ErrStale = errors.New("changed since it was read")
	// ErrDisk says that nothing was written, because the disk took no more or failed.
	ErrDisk = errors.New("the disk is full or failing")
)

// ClaimedError says that a name is held by another owner.
type ClaimedError struct{ Name, Owner string }

func (e *ClaimedError) Error() string { return "name " + e.Name + " is claimed by " + e.Owner }

// Store is a transactional store. It is safe for concurrent use.
type Store interface {
	// View runs fn on a consistent snapshot. fn must not keep the transaction.
	View(ctx context.Context, fn func(ReadTx) error) error

	// Update runs fn in a transaction that is durable when Update returns nil and
	// without any effect when fn or Update returns an error. Updates are serialisable.
	// fn may be run more than once and must have no side effects of its own.
	Update(ctx context.Context, fn func(Tx) error) error

	// LeaseDue takes up to limit wake-ups that are due at now and that nobody holds,
	// and holds them for owner until now+ttl. A lease that runs out (its owner died)
	// is taken by the next caller.
	LeaseDue(ctx context.Context, now time.Time, owner string, ttl time.Duration, limit int) ([]Wakeup, error)

	// NextDue is the earliest time at which a wake-up that nobody holds becomes due;
	// ok is false when there is none.
	NextDue(ctx context.Context, now time.Time) (at time.Time, ok bool, err error)

	// WakeAll makes every wake-up due by now, and lets no lease outlast now+ttl. It is for a
	// clock that went back: what was to happen in a minute would wait for the clock to
	// come round again.
	WakeAll(ctx context.Context, now time.Time, ttl time.Duration) error

	// Woken is signalled (without blocking, with capacity one) after an Update that
	// added a wake-up. It saves a local reconciler from polling; it is no promise.
	Woken() <-chan struct{}

	Close() error
}

// ReadTx reads. Keys are lower-cased ARM IDs. Returned values are the caller's own.
type ReadTx interface {
	// Resource returns one resource. Errors: ErrNotFound.
	Resource(key string) (*Resource, error)
	// Resources lists in key order. next is the cursor of the following page, "" at the end.
	Resources(q Query) (page []*Resource, next string, err error)
	// Count counts what the query matches, without After and Limit.
	Count(q Query) (int, error)
	// Operation returns one operation. Errors: ErrNotFound.
	Operation(id string) (*Operation, error)
	// ClaimOwner returns who holds a name, "" for nobody.
	ClaimOwner(name string) (owner string, err error)
	// Handle returns the provider's note on a resource. Errors: ErrNotFound.
	Handle(key string) (Handle, error)
	// Secret returns an unsealed secret. Errors: ErrNotFound.
	Secret(key, name string) ([]byte, error)
	// Value returns an unsealed small value. Errors: ErrNotFound.
	Value(bucket, key string) ([]byte, error)
	// Values calls fn for each value of a bucket in key order until fn returns an error.
	Values(bucket string, fn func(key string, value []byte) error) error
}

// Each calls fn for what a query matches, in key order and page by page, until fn returns an error.
func Each(tx ReadTx, q Query, fn func(*Resource) error) error {
	for q.Limit = 500; ; {
		page, next, err := tx.Resources(q)
		if err != nil {
			return err
		}
		for _, r := range page {
			if err := fn(r); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		q.After = next
	}
}

// Tx reads and writes.
type Tx interface {
	ReadTx

	// Create adds a resource with Version 1. Errors: ErrExists.
	Create(r *Resource) error
	// PutSpec writes what clients own (Spec, Location, Generation, OperationID, DeletedAt, State,
	// Modified) and PutStatus what reconcilers own (Status, State, Observed, OperationID,
	// Conditions). Both raise Version by one and set it on r. Errors: ErrStale when r.Version is not the stored one, ErrNotFound.
	PutSpec(r *Resource) error
	PutStatus(r *Resource) error
	// Remove deletes a resource with its handle, secrets, claims and wake-ups. Operations stay.
	// Removing what is not there is no error.
	Remove(key string) error

	// PutOperation inserts or replaces.
	PutOperation(op *Operation) error
	// RemoveOperations deletes operations that ended before the given time.
	RemoveOperations(endedBefore time.Time) (n int, err error)

	// Wake makes reconcilers look at key at the given time, or earlier if an earlier
	// wake-up is there already. A held lease is not disturbed: the wake-up is due again
	// after it is settled.
	Wake(key string, at time.Time) error
	// Settle ends a lease: the wake-up goes, unless Wake was called for it since it was
	// leased. Not holding the lease (any more) is ErrStale.
	Settle(w Wakeup) error

	// Claim takes a unique name for an owner (a resource key). Claiming again for the
	// same owner is no error. Errors: *ClaimedError.
	Claim(name, owner string) error
	// Unclaim releases one name if owner holds it.
	Unclaim(name, owner string) error

	PutHandle(key string, h Handle) error
	// PutSecret seals and stores; nil deletes.
	PutSecret(key, name string, value []byte) error
	// PutValue seals and stores a small value outside any resource; nil deletes.
	PutValue(bucket, key string, value []byte) error
}

// Resource is one ARM resource. Spec holds what clients wrote, with defaults applied;
// Status what Berth found. What a GET shows is the two merged.
type Resource struct {
	Key          string // lower-cased ID; the primary key
	ID           string // as its creator spelled it
	Type         string // lower-cased full type, e.g. microsoft.containerservice/managedclusters
	Parent       string // key of the parent resource or of the resource group, "" for a subscription
	Subscription string // lower-cased, "" for tenant-level resources
	Group        string // lower-cased resource group name, "" outside groups
	Location     string // canonical region name, "" for resources without
	Spec         json.RawMessage
	Status       json.RawMessage
	Conditions   json.RawMessage // reconciler's own record; never shown as it is

	State       string     // provisioning state
	Generation  int64      // raised by every change of Spec
	Observed    int64      // the Generation that Status describes
	OperationID string     // the active or last operation
	DeletedAt   *time.Time // when deletion was asked for

	Created  Stamp
	Modified Stamp
	Version  int64 // raised by every write; the ETag
}

// Stamp says who did something when, as ARM's systemData shows it.
type Stamp struct {
	At   time.Time
	By   string // object ID or name of the principal
	Kind string // User, Application, ManagedIdentity or Key
}

// Query selects resources; all set fields must match.
type Query struct {
	Type         string // lower-cased
	Parent       string
	Subscription string
	Group        string
	Under        string // key prefix: everything below this ID, itself excluded
	Location     string
	States       []string
	After        string // cursor
	Limit        int    // 0 means no limit
}

// Operation is a long-running operation. It reports what its resource's reconciler
// found; it never drives the work.
type Operation struct {
	ID           string // GUID
	ResourceKey  string
	ResourceID   string
	Kind         string // create, update, delete or an action's name
	Subscription string
	Provider     string // lower-cased namespace
	Location     string
	Generation   int64 // the resource's generation that this operation waits for
	Status       string
	Error        json.RawMessage `json:",omitempty"` // ARM error object {code, message, …} when Failed or Canceled
	Result       json.RawMessage `json:",omitempty"` // what a finished action answers
	Percent      int
	Start        time.Time
	Deadline     time.Time // after this the operation fails with a named reason
	End          *time.Time
	By           Stamp
	// Trace is the traceparent of the request that began it, "" when nobody is told of it. Passes belong to it.
	Trace string `json:",omitempty"`
}

// Wakeup is a request to reconcile a resource, held under a lease.
type Wakeup struct {
	Key   string
	Token string // identifies this lease
}

// Handle is a cluster provider's note on a resource.
type Handle struct {
	Provider string
	Version  int
	Data     []byte
}
