package resource

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/store"
)

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
	return m.finishWrite(ctx, tx, row, op, nil, false, false)
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
