package resource

import (
	"context"
	"errors"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/store"
)

// ActionRequest is a POST below a resource.
type ActionRequest struct {
	ID      armid.ID
	Name    string
	Version string
	Query   func(name string) string
	Body    []byte
	By      store.Stamp
}

// Act carries out an action of a resource that exists.
func (m *Manager) Act(ctx context.Context, t *Type, a ActionRequest) (any, error) {
	known := false
	var names []string
	for _, info := range t.Actions {
		names = append(names, info.Name)
		known = known || strings.EqualFold(info.Name, a.Name)
	}
	if !known {
		have := "none"
		if len(names) > 0 {
			have = strings.Join(names, ", ")
		}
		return nil, armerr.New(armerr.CodeInvalidResourceType, "%s has no action '%s'. Its actions are: %s.", t.Name, clip(a.Name), have)
	}
	call := actionCall{id: a.ID, version: a.Version, query: a.Query, body: a.Body, manager: m, by: a.By}
	err := m.Store.View(ctx, func(tx store.ReadTx) error {
		var err error
		call.row, err = tx.Resource(a.ID.Key())
		if errors.Is(err, store.ErrNotFound) {
			if err := m.CheckPlace(tx, t, a.ID, false); err != nil {
				return err
			}
			return armerr.NotFound(t.Name, a.ID.Name(), a.ID.GroupName())
		}
		if err != nil {
			return err
		}
		if call.handle, err = tx.Handle(a.ID.Key()); errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return t.act(ctx, a.Name, call)
}
