package model

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/store"
)

const assetURL = "aml://asset/"

// Artifacts calls fn for every artifact, or prefix of some, that the assets and models of a workspace refer to; workspace
// is its key.
func Artifacts(tx store.ReadTx, fn func(workspace string, id artifact.ID)) error {
	err := store.Each(tx, store.Query{Type: strings.ToLower(Assets)}, func(row *store.Resource) error {
		doc, err := resource.ReadSpec[Asset](row)
		if err != nil {
			return err
		}
		for _, a := range doc.Properties.Artifacts {
			for _, id := range []string{a.ID, a.Prefix} {
				if id != "" {
					fn(row.Parent, artifact.ID(id))
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return store.Each(tx, store.Query{Type: strings.ToLower(Models)}, func(row *store.Resource) error {
		doc, err := resource.ReadSpec[Model](row)
		if err != nil {
			return err
		}
		for _, url := range []string{doc.Properties.SampleInputData, doc.Properties.SampleOutputData} {
			if id, ok := strings.CutPrefix(url, "aml://artifact/"); ok {
				fn(row.Parent, artifact.ID(id))
			}
		}
		return nil
	})
}

// unused are the keys of up to limit assets that no model refers to and that did not change since a time.
func unused(tx store.ReadTx, before time.Time, limit int) ([]string, error) {
	used := map[string]bool{}
	err := store.Each(tx, store.Query{Type: strings.ToLower(Models)}, func(row *store.Resource) error {
		doc, err := resource.ReadSpec[Model](row)
		if err != nil {
			return err
		}
		used[armid.MustParse(row.ID).Parent().Child("assets", strings.TrimPrefix(doc.Properties.URL, assetURL)).Key()] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []string
	full := errors.New("enough")
	err = store.Each(tx, store.Query{Type: strings.ToLower(Assets)}, func(row *store.Resource) error {
		if used[row.Key] || row.DeletedAt != nil || !row.Modified.At.Before(before) {
			return nil
		}
		if out = append(out, row.Key); len(out) == limit {
			return full
		}
		return nil
	})
	if errors.Is(err, full) {
		err = nil
	}
	return out, err
}

// assetsPerWrite bounds how long one transaction keeps others waiting.
const assetsPerWrite = 500

// RemoveUnused removes the assets that no model refers to and that did not change since a time, and says how many. The
// transaction that removes an asset sees that no model has it, and Model.register's that the asset is there, so that
// the two cannot miss each other. Clients make an asset and then a model of it, so before has to leave time for that.
func (s *Service) RemoveUnused(ctx context.Context, before time.Time) (n int, err error) {
	for {
		var found []string
		err := s.Manager.Store.View(ctx, func(tx store.ReadTx) (err error) {
			found, err = unused(tx, before, 1) // writers need not wait where there is nothing to write
			return err
		})
		if err != nil || len(found) == 0 {
			return n, err
		}
		err = s.Manager.Store.Update(ctx, func(tx store.Tx) error {
			if found, err = unused(tx, before, assetsPerWrite); err != nil {
				return err
			}
			for _, key := range found {
				if err := s.removeAsset(ctx, tx, key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		n += len(found)
	}
}

func (s *Service) removeAsset(ctx context.Context, tx store.Tx, key string) error {
	row, err := tx.Resource(key)
	if err != nil {
		return err
	}
	t, ok := s.Manager.Registry.Type(Assets)
	if !ok {
		return errors.New("the type " + Assets + " is not declared")
	}
	_, err = s.Manager.Delete(ctx, tx, resource.Write{ID: armid.MustParse(row.ID), Type: t})
	return err
}
