package resource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/tracing"
)

// childPoll is how often a resource that waits for its children looks again; a child
// that goes wakes it at once, so this is only for children that fail.
const childPoll = 2 * time.Second

// Reconcile has one look at the resource of a wake-up: it loads it, lets its type act,
// and stores what came of it together with the state of its operation, in one
// transaction that also settles the wake-up. Nothing is kept in memory that a crash
// could lose: whatever was not stored is done again by the next pass.
func (m *Manager) Reconcile(ctx context.Context, w store.Wakeup) (err error) {
	p, t, children, err := m.load(ctx, w.Key)
	if err != nil {
		return err
	}
	if p == nil {
		return m.settle(ctx, w)
	}
	ctx, span := m.beginPass(ctx, p, t)
	defer func() { tracing.End(span, err) }()
	var out Outcome
	if p.row.DeletedAt != nil && len(children) > 0 {
		if out, err = m.deleteChildren(ctx, p, children); err != nil {
			return err
		}
		p.status = p.row.Status
	} else if out, err = t.reconcile(ctx, p); err != nil {
		return fmt.Errorf("reconciling %s: %w", p.row.ID, err)
	}
	out.tell(span)
	return m.conclude(ctx, w, p, out)
}

// beginPass begins the span of a pass. While an operation is under way, passes belong to the request that began it, so
// that its trace shows all that came of it.
func (m *Manager) beginPass(ctx context.Context, p *pass, t *Type) (context.Context, trace.Span) {
	attrs := []attribute.KeyValue{attribute.String("berth.resource.type", t.Name), attribute.String("berth.resource.id", p.row.ID)}
	if p.op != nil && !Final(p.op.Status) {
		ctx = tracing.Under(ctx, p.op.Trace)
		attrs = append(attrs, attribute.String("berth.operation.id", p.op.ID), attribute.String("berth.operation.kind", p.op.Kind))
	}
	return m.Tracer.Begin(ctx, "reconcile "+t.Name, trace.WithAttributes(attrs...))
}

// tell tells a pass's span what came of it.
func (out Outcome) tell(span trace.Span) {
	what := out.state
	switch {
	case out.gone:
		what = "Gone"
	case what == "" && out.err != nil:
		what = "Retry"
	case what == "":
		what = "Waiting"
	}
	span.SetAttributes(attribute.String("berth.outcome", what))
	if out.err != nil {
		tracing.Fail(span, semconv.ErrorTypeKey.String(out.err.Code))
	}
}

func (m *Manager) settle(ctx context.Context, w store.Wakeup) error {
	return m.Store.Update(ctx, func(tx store.Tx) error {
		if err := tx.Settle(w); err != nil && !errors.Is(err, store.ErrStale) {
			return err
		}
		return nil
	})
}

func (m *Manager) load(ctx context.Context, key string) (*pass, *Type, []*store.Resource, error) {
	var p *pass
	var t *Type
	var children []*store.Resource
	err := m.Store.View(ctx, func(tx store.ReadTx) error {
		p, children = nil, nil
		row, err := tx.Resource(key)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		var ok bool
		if t, ok = m.Registry.Type(row.Type); !ok {
			return fmt.Errorf("the store has a resource of type %s, which this Berth does not know: %s", row.Type, row.ID)
		}
		p = &pass{manager: m, row: row, now: m.Now()}
		if p.record, err = readRecord(row); err != nil {
			return err
		}
		if p.handle, err = tx.Handle(key); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if row.OperationID != "" {
			if p.op, err = tx.Operation(row.OperationID); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		secrets, err := storedSecrets(tx, key)
		if err != nil {
			return err
		}
		p.secret = func(path string) (string, error) {
			if v, ok := secrets[path]; ok {
				return v, nil
			}
			return "", store.ErrNotFound
		}
		if row.DeletedAt != nil {
			children, _, err = tx.Resources(store.Query{Parent: key})
		}
		return err
	})
	return p, t, children, err
}

// deleteChildren begins the deletion of the children that go first, and waits. A child
// whose deletion failed fails its parent's, by name.
func (m *Manager) deleteChildren(ctx context.Context, p *pass, children []*store.Resource) (Outcome, error) {
	order := func(r *store.Resource) int {
		if t, ok := m.Registry.Type(r.Type); ok {
			return t.DeleteOrder
		}
		return 0
	}
	first := order(children[0])
	for _, c := range children {
		first = min(first, order(c))
	}
	var failed []*armerr.Error
	var todo []*store.Resource
	waiting := ""
	for _, c := range children {
		if order(c) != first {
			continue
		}
		waiting = c.ID
		switch {
		case c.DeletedAt == nil:
			todo = append(todo, c)
		case c.State == StateFailed:
			if p.op != nil && c.DeletedAt.Before(p.op.Start) { // a deletion that failed earlier is tried again
				todo = append(todo, c)
				continue
			}
			rec, err := readRecord(c)
			if err != nil {
				return Outcome{}, err
			}
			e := rec.Error
			if e == nil {
				e = armerr.New(armerr.CodeConflict, "The deletion failed.")
			}
			failed = append(failed, &armerr.Error{Code: e.Code, Target: c.ID, Message: c.ID + ": " + e.Message})
		}
	}
	if len(failed) > 0 {
		return Failed(armerr.Of(armerr.Join(armerr.CodeConflict, failed)), 0), nil
	}
	for _, c := range todo {
		t, ok := m.Registry.Type(c.Type)
		if !ok {
			return Outcome{}, fmt.Errorf("the store has a resource of type %s, which this Berth does not know: %s", c.Type, c.ID)
		}
		err := m.Store.Update(ctx, func(tx store.Tx) error {
			_, err := m.Delete(ctx, tx, Write{ID: armid.MustParse(c.ID), Type: t, Query: cascade, By: p.row.Modified})
			return err
		})
		var refused *armerr.Error
		if errors.As(err, &refused) {
			e := *refused
			e.Target, e.Message = c.ID, c.ID+": "+e.Message
			return Failed(&e, 0), nil
		}
		if err != nil {
			return Outcome{}, err
		}
	}
	return Waiting(childPoll, "the deletion of "+waiting), nil
}

// CascadeParameter is the query parameter that a DELETE carries when a parent's
// deletion caused it.
const CascadeParameter = "berth-cascade"

func cascade(name string) string {
	if name == CascadeParameter {
		return "true"
	}
	return ""
}

// conclude stores what a pass came to.
func (m *Manager) conclude(ctx context.Context, w store.Wakeup, p *pass, out Outcome) error {
	key := p.row.Key
	retry := out.state == "" && out.err != nil
	if retry {
		out.after = m.backoff(key)
		m.Logger.WarnContext(ctx, "reconcile will retry", "resource", p.row.ID, "after", out.after, "error", out.err.Error())
	} else {
		m.forget(key)
	}
	err := m.storeOutcome(ctx, w, p, out)
	var refused *armerr.Error
	if errors.As(err, &refused) && refused.HTTPStatus() < http.StatusInternalServerError {
		// What the pass wanted to write elsewhere breaks a rule there: trying again cannot help.
		p.effects = nil
		err = m.storeOutcome(ctx, w, p, Failed(refused, 0))
	}
	if errors.Is(err, store.ErrStale) {
		// A client changed the resource meanwhile, or the lease ran out: look again.
		return m.again(ctx, w, m.Now().Add(staleDelay))
	}
	return err
}

// storeOutcome is the transaction that ends a pass.
func (m *Manager) storeOutcome(ctx context.Context, w store.Wakeup, p *pass, out Outcome) error {
	key := p.row.Key
	return m.Store.Update(ctx, func(tx store.Tx) error {
		now := m.Now()
		row, err := tx.Resource(key)
		if errors.Is(err, store.ErrNotFound) {
			return tx.Settle(w)
		}
		if err != nil {
			return err
		}
		if row.Version != p.row.Version {
			return store.ErrStale
		}
		for _, effect := range p.effects {
			if err := effect(ctx, tx); err != nil {
				return err
			}
		}
		var op *store.Operation
		if p.op != nil {
			c := *p.op // this function may run again
			op = &c
		}
		active := op != nil && !Final(op.Status)
		final := out
		if active && out.state == "" && !out.gone && now.After(op.Deadline) {
			final = Failed(timedOut(op, out), out.after)
		}
		if final.gone {
			if err := m.finishOperation(tx, op, Outcome{state: StateSucceeded}, now); err != nil {
				return err
			}
			return m.remove(tx, row) // with its wake-up, so there is nothing to settle
		}
		if err := m.store(tx, row, p, final); err != nil {
			return err
		}
		if final.state != "" {
			if err := m.finishOperation(tx, op, final, now); err != nil {
				return err
			}
		}
		if out.after > 0 {
			if err := tx.Wake(key, now.Add(out.after)); err != nil {
				return err
			}
		} else if active && final.state == "" {
			// Nothing else may wake it: look again when its time is up.
			if err := tx.Wake(key, op.Deadline.Add(time.Second)); err != nil {
				return err
			}
		}
		return tx.Settle(w)
	})
}

// store writes the reconciler's part of a row, if anything changed.
func (m *Manager) store(tx store.Tx, row *store.Resource, p *pass, out Outcome) error {
	before := *row
	row.Status = p.status
	if out.state != "" {
		row.State = out.state
		row.Observed = row.Generation
	}
	rec := p.record
	rec.Waiting = out.waiting
	switch out.state {
	case StateSucceeded:
		rec.Error = nil
	case StateFailed:
		rec.Error = out.err
	}
	var err error
	if row.Conditions, err = json.Marshal(rec); err != nil {
		return err
	}
	if !sameHandle(p.handle, tx, row.Key) {
		if err := tx.PutHandle(row.Key, p.handle); err != nil {
			return err
		}
	}
	if bytes.Equal(before.Status, row.Status) && before.State == row.State && before.Observed == row.Observed && bytes.Equal(before.Conditions, row.Conditions) {
		return nil
	}
	return tx.PutStatus(row)
}

func sameHandle(h store.Handle, tx store.Tx, key string) bool {
	old, err := tx.Handle(key)
	if errors.Is(err, store.ErrNotFound) {
		return h.Provider == "" && len(h.Data) == 0
	}
	return err == nil && old.Provider == h.Provider && old.Version == h.Version && bytes.Equal(old.Data, h.Data)
}

func (m *Manager) finishOperation(tx store.Tx, op *store.Operation, out Outcome, now time.Time) error {
	if op == nil || Final(op.Status) {
		return nil
	}
	op.Status, op.End = out.state, &now
	if out.state == StateSucceeded {
		op.Percent = 100
	}
	if out.err != nil {
		var err error
		if op.Error, err = json.Marshal(out.err); err != nil {
			return err
		}
	}
	return tx.PutOperation(op)
}

// timedOut names what an operation was still waiting for.
func timedOut(op *store.Operation, out Outcome) *armerr.Error {
	e := armerr.New(armerr.CodeOperationTimedOut, "The %s of '%s' did not finish within %s; it was still waiting for %s.", op.Kind, op.ResourceID, op.Deadline.Sub(op.Start).Round(time.Second), out.waiting)
	if out.err != nil {
		e.Message += " The last error was: " + out.err.Message
	}
	e.Message += " Send the same request again to resume it, or delete the resource."
	return e
}

const (
	staleDelay = 10 * time.Millisecond
	firstRetry = 250 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// backoff is the time until the next attempt: doubling, with jitter.
func (m *Manager) backoff(key string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attempts == nil {
		m.attempts = map[string]int{}
	}
	n := min(m.attempts[key], 7)
	m.attempts[key]++
	d := min(firstRetry<<n, lastRetry)
	return d/2 + time.Duration(m.Jitter()*float64(d/2))
}

func (m *Manager) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.attempts, key)
}

// RetryLater is for passes that ended in an error or a panic: the wake-up comes again, later.
func (m *Manager) RetryLater(ctx context.Context, w store.Wakeup) error {
	return m.again(ctx, w, m.Now().Add(m.backoff(w.Key)))
}

// again settles a wake-up and asks for another at the given time.
func (m *Manager) again(ctx context.Context, w store.Wakeup, at time.Time) error {
	return m.Store.Update(ctx, func(tx store.Tx) error {
		if err := tx.Wake(w.Key, at); err != nil {
			return err
		}
		if err := tx.Settle(w); err != nil && !errors.Is(err, store.ErrStale) {
			return err
		}
		return nil
	})
}
