package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/store"
)

// tx is a transaction, on a snapshot or inside the writer's.
type tx struct {
	ctx    context.Context
	c      *conn
	sealer Sealer
	woke   bool
}

var _ store.Tx = (*tx)(nil)

const columns = "key, id, type, parent, subscription, grp, location, spec, status, conditions, state, generation, observed, operation_id, deleted_at, created_at, created_by, created_kind, modified_at, modified_by, modified_kind, version"

type scanner interface{ Scan(...any) error }

func scanResource(row scanner) (*store.Resource, error) {
	var r store.Resource
	var spec, status, conditions []byte
	var deleted sql.NullInt64
	var created, modified int64
	err := row.Scan(&r.Key, &r.ID, &r.Type, &r.Parent, &r.Subscription, &r.Group, &r.Location, &spec, &status, &conditions, &r.State, &r.Generation, &r.Observed,
		&r.OperationID, &deleted, &created, &r.Created.By, &r.Created.Kind, &modified, &r.Modified.By, &r.Modified.Kind, &r.Version)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, store.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	r.Spec, r.Status, r.Conditions = spec, status, conditions
	r.Created.At, r.Modified.At = fromNanos(created), fromNanos(modified)
	if deleted.Valid {
		at := fromNanos(deleted.Int64)
		r.DeletedAt = &at
	}
	return &r, nil
}

func (t *tx) row(query string, args ...any) scanner {
	st, err := t.c.prepare(t.ctx, query)
	if err != nil {
		return failed{err}
	}
	return st.QueryRowContext(t.ctx, args...)
}

type failed struct{ err error }

func (f failed) Scan(...any) error { return f.err }

// one scans a single row and translates its absence.
func (t *tx) one(dest []any, query string, args ...any) error {
	err := t.row(query, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	return err
}

func (t *tx) each(fn func(scanner) error, query string, args ...any) (err error) {
	st, err := t.c.prepare(t.ctx, query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(t.ctx, args...)
	if err != nil {
		return err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Resource returns one resource.
func (t *tx) Resource(key string) (*store.Resource, error) {
	return scanResource(t.row("SELECT "+columns+" FROM resources WHERE key = ?", key))
}

func where(q store.Query) (string, []any) {
	var conds []string
	var args []any
	add := func(cond string, values ...any) {
		conds = append(conds, cond)
		args = append(args, values...)
	}
	for _, f := range []struct{ column, value string }{{"type", q.Type}, {"parent", q.Parent}, {"subscription", q.Subscription}, {"grp", q.Group}, {"location", q.Location}} {
		if f.value != "" {
			add(f.column+" = ?", f.value)
		}
	}
	if q.Under != "" {
		add("key >= ? AND key < ?", q.Under+"/", q.Under+"0") // 0 follows / in ASCII
	}
	if len(q.States) > 0 {
		values := make([]any, len(q.States))
		for i, s := range q.States {
			values[i] = s
		}
		add("state IN (?"+strings.Repeat(", ?", len(q.States)-1)+")", values...)
	}
	if len(conds) == 0 {
		return "1", nil
	}
	return strings.Join(conds, " AND "), args
}

// Resources lists in key order.
func (t *tx) Resources(q store.Query) (page []*store.Resource, next string, err error) {
	cond, args := where(q)
	if q.After != "" {
		cond += " AND key > ?"
		args = append(args, q.After)
	}
	query := "SELECT " + columns + " FROM resources WHERE " + cond + " ORDER BY key"
	if q.Limit > 0 {
		query += " LIMIT ?"
		args = append(args, q.Limit+1)
	}
	err = t.each(func(row scanner) error {
		r, err := scanResource(row)
		if err == nil {
			page = append(page, r)
		}
		return err
	}, query, args...)
	if err == nil && q.Limit > 0 && len(page) > q.Limit {
		page = page[:q.Limit]
		next = page[q.Limit-1].Key
	}
	return page, next, err
}

// Count counts what the query matches.
func (t *tx) Count(q store.Query) (n int, err error) {
	cond, args := where(q)
	err = t.one([]any{&n}, "SELECT count(*) FROM resources WHERE "+cond, args...)
	return n, err
}

// Operation returns one operation.
func (t *tx) Operation(id string) (*store.Operation, error) {
	var data []byte
	if err := t.one([]any{&data}, "SELECT data FROM operations WHERE id = ?", id); err != nil {
		return nil, err
	}
	op := &store.Operation{}
	return op, json.Unmarshal(data, op)
}

// ClaimOwner returns who holds a name.
func (t *tx) ClaimOwner(name string) (owner string, err error) {
	err = t.one([]any{&owner}, "SELECT owner FROM claims WHERE name = ?", name)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return owner, err
}

// Handle returns the provider's note.
func (t *tx) Handle(key string) (h store.Handle, err error) {
	err = t.one([]any{&h.Provider, &h.Version, &h.Data}, "SELECT provider, version, data FROM handles WHERE key = ?", key)
	return h, err
}

// Identities under which secrets and values are sealed.
func secretIdentity(key, name string) string  { return "secret\x00" + key + "\x00" + name }
func valueIdentity(bucket, key string) string { return "value\x00" + bucket + "\x00" + key }

// Secret returns an unsealed secret.
func (t *tx) Secret(key, name string) ([]byte, error) {
	var sealed []byte
	if err := t.one([]any{&sealed}, "SELECT value FROM secrets WHERE key = ? AND name = ?", key, name); err != nil {
		return nil, err
	}
	return t.sealer.Open(secretIdentity(key, name), sealed)
}

// Value returns an unsealed small value.
func (t *tx) Value(bucket, key string) ([]byte, error) {
	var sealed []byte
	if err := t.one([]any{&sealed}, "SELECT value FROM vals WHERE bucket = ? AND key = ?", bucket, key); err != nil {
		return nil, err
	}
	return t.sealer.Open(valueIdentity(bucket, key), sealed)
}

// Values calls fn for each value of a bucket.
func (t *tx) Values(bucket string, fn func(key string, value []byte) error) error {
	type entry struct {
		key    string
		sealed []byte
	}
	var all []entry // fn may use the transaction, so the rows are read first
	err := t.each(func(row scanner) error {
		var e entry
		err := row.Scan(&e.key, &e.sealed)
		all = append(all, e)
		return err
	}, "SELECT key, value FROM vals WHERE bucket = ? ORDER BY key", bucket)
	if err != nil {
		return err
	}
	for _, e := range all {
		value, err := t.sealer.Open(valueIdentity(bucket, e.key), e.sealed)
		if err != nil {
			return err
		}
		if err := fn(e.key, value); err != nil {
			return err
		}
	}
	return nil
}

// Create adds a resource.
func (t *tx) Create(r *store.Resource) error {
	r.Version = 1
	n, err := t.c.execN(t.ctx, "INSERT INTO resources ("+columns+") VALUES (?"+strings.Repeat(", ?", strings.Count(columns, ","))+") ON CONFLICT DO NOTHING",
		r.Key, r.ID, r.Type, r.Parent, r.Subscription, r.Group, r.Location, []byte(r.Spec), []byte(r.Status), []byte(r.Conditions), r.State, r.Generation, r.Observed,
		r.OperationID, optionalNanos(r.DeletedAt), nanos(r.Created.At), r.Created.By, r.Created.Kind, nanos(r.Modified.At), r.Modified.By, r.Modified.Kind, r.Version)
	if err == nil && n == 0 {
		return store.ErrExists
	}
	return err
}

// changed turns the outcome of a versioned write into the contract's errors.
func (t *tx) changed(r *store.Resource, n int64, err error) error {
	if err != nil {
		return err
	}
	if n == 0 {
		if _, err := t.Resource(r.Key); err != nil {
			return err
		}
		return store.ErrStale
	}
	r.Version++
	return nil
}

// PutSpec writes what clients own.
func (t *tx) PutSpec(r *store.Resource) error {
	n, err := t.c.execN(t.ctx, "UPDATE resources SET spec = ?, location = ?, generation = ?, observed = ?, operation_id = ?, deleted_at = ?, state = ?, modified_at = ?, modified_by = ?, modified_kind = ?, version = version + 1 WHERE key = ? AND version = ?",
		[]byte(r.Spec), r.Location, r.Generation, r.Observed, r.OperationID, optionalNanos(r.DeletedAt), r.State, nanos(r.Modified.At), r.Modified.By, r.Modified.Kind, r.Key, r.Version)
	return t.changed(r, n, err)
}

// PutStatus writes what reconcilers own.
func (t *tx) PutStatus(r *store.Resource) error {
	n, err := t.c.execN(t.ctx, "UPDATE resources SET status = ?, conditions = ?, state = ?, observed = ?, operation_id = ?, version = version + 1 WHERE key = ? AND version = ?",
		[]byte(r.Status), []byte(r.Conditions), r.State, r.Observed, r.OperationID, r.Key, r.Version)
	return t.changed(r, n, err)
}

// Remove deletes a resource and what belongs to it.
func (t *tx) Remove(key string) error {
	for _, query := range []string{
		"DELETE FROM resources WHERE key = ?", "DELETE FROM handles WHERE key = ?", "DELETE FROM secrets WHERE key = ?",
		"DELETE FROM claims WHERE owner = ?", "DELETE FROM wakeups WHERE key = ?",
	} {
		if err := t.c.exec(t.ctx, query, key); err != nil {
			return err
		}
	}
	return nil
}

// PutOperation inserts or replaces.
func (t *tx) PutOperation(op *store.Operation) error {
	data, err := json.Marshal(op)
	if err != nil {
		return err
	}
	return t.c.exec(t.ctx, "INSERT INTO operations (id, resource_key, ended_at, data) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at, data = excluded.data",
		op.ID, op.ResourceKey, optionalNanos(op.End), data)
}

// RemoveOperations deletes operations that ended before the given time.
func (t *tx) RemoveOperations(endedBefore time.Time) (int, error) {
	n, err := t.c.execN(t.ctx, "DELETE FROM operations WHERE ended_at < ?", nanos(endedBefore))
	return int(n), err
}

// Wake makes reconcilers look at key.
func (t *tx) Wake(key string, at time.Time) error {
	t.woke = true
	return t.c.exec(t.ctx, `INSERT INTO wakeups (key, due_at) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET
		due_at = CASE WHEN token IS NULL THEN min(due_at, excluded.due_at) ELSE due_at END,
		again_at = CASE WHEN token IS NULL THEN NULL ELSE min(coalesce(again_at, excluded.due_at), excluded.due_at) END`, key, nanos(at))
}

// Settle ends a lease.
func (t *tx) Settle(w store.Wakeup) error {
	n, err := t.c.execN(t.ctx, "DELETE FROM wakeups WHERE key = ? AND token = ? AND again_at IS NULL", w.Key, w.Token)
	if err != nil || n > 0 {
		return err
	}
	n, err = t.c.execN(t.ctx, "UPDATE wakeups SET due_at = again_at, again_at = NULL, token = NULL, lease_owner = NULL, lease_until = NULL WHERE key = ? AND token = ?", w.Key, w.Token)
	if err == nil && n == 0 {
		return store.ErrStale
	}
	t.woke = true
	return err
}

// Claim takes a unique name.
func (t *tx) Claim(name, owner string) error {
	if err := t.c.exec(t.ctx, "INSERT INTO claims (name, owner) VALUES (?, ?) ON CONFLICT DO NOTHING", name, owner); err != nil {
		return err
	}
	holder, err := t.ClaimOwner(name)
	if err == nil && holder != owner {
		return &store.ClaimedError{Name: name, Owner: holder}
	}
	return err
}

// Unclaim releases a name.
func (t *tx) Unclaim(name, owner string) error {
	return t.c.exec(t.ctx, "DELETE FROM claims WHERE name = ? AND owner = ?", name, owner)
}

// PutHandle stores the provider's note.
func (t *tx) PutHandle(key string, h store.Handle) error {
	return t.c.exec(t.ctx, "INSERT INTO handles (key, provider, version, data) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET provider = excluded.provider, version = excluded.version, data = excluded.data",
		key, h.Provider, h.Version, h.Data)
}

// PutSecret seals and stores.
func (t *tx) PutSecret(key, name string, value []byte) error {
	if value == nil {
		return t.c.exec(t.ctx, "DELETE FROM secrets WHERE key = ? AND name = ?", key, name)
	}
	sealed, err := t.sealer.Seal(secretIdentity(key, name), value)
	if err != nil {
		return err
	}
	return t.c.exec(t.ctx, "INSERT INTO secrets (key, name, value) VALUES (?, ?, ?) ON CONFLICT (key, name) DO UPDATE SET value = excluded.value", key, name, sealed)
}

// PutValue seals and stores a small value.
func (t *tx) PutValue(bucket, key string, value []byte) error {
	if value == nil {
		return t.c.exec(t.ctx, "DELETE FROM vals WHERE bucket = ? AND key = ?", bucket, key)
	}
	sealed, err := t.sealer.Seal(valueIdentity(bucket, key), value)
	if err != nil {
		return err
	}
	return t.c.exec(t.ctx, "INSERT INTO vals (bucket, key, value) VALUES (?, ?, ?) ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value", bucket, key, sealed)
}
