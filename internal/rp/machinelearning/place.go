package machinelearning

import (
	"context"
	"errors"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/attachment"
	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/store"
)

// Place is a workspace's part of a compute's cluster, for those who deploy there.
type Place struct {
	Kubeconfig []byte
	Attachment attachment.Attachment
	CName      string // host name of the front end's certificate, "" without TLS
}

// Place finds where a compute's web services go. Errors: *armerr.Error when the compute or its cluster is
// not there; anything else may pass.
func (s *Service) Place(ctx context.Context, st store.Store, compute armid.ID) (Place, error) {
	if s.FrontEnd == nil {
		return Place{}, armerr.New(armerr.CodeNotSupported, "This Berth's clusters run no pods (its provider is fake), so nothing can be deployed to them. Start Berth with the local provider.")
	}
	gone := func(what string) error {
		return armerr.New(armerr.CodeClusterNotFound, "The compute '%s' %s, so its web services have nowhere to run.", compute.Name(), what)
	}
	var doc *resource.Document[Compute]
	var row *store.Resource
	var handle store.Handle
	err := st.View(ctx, func(tx store.ReadTx) error {
		own, err := tx.Resource(compute.Key())
		if errors.Is(err, store.ErrNotFound) {
			return gone("is not there")
		}
		if err != nil {
			return err
		}
		if doc, err = resource.ReadDocument[Compute](own); err != nil {
			return err
		}
		id, err := armid.Parse(doc.Properties.ResourceID)
		if err != nil {
			return gone("has no cluster yet")
		}
		row, err = tx.Resource(id.Key())
		if errors.Is(err, store.ErrNotFound) || err == nil && row.DeletedAt != nil {
			return gone("has lost its cluster: it was deleted")
		}
		if err != nil {
			return err
		}
		if handle, err = tx.Handle(id.Key()); errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return err
	})
	if err != nil {
		return Place{}, err
	}
	p := Place{Attachment: attachment.Attachment{Installation: s.Installation, Workspace: compute.Parent().String(), Compute: compute.String()}}
	if inner := doc.Properties.Properties; inner != nil && inner.SSLConfiguration != nil && inner.SSLConfiguration.Status == "Enabled" {
		p.CName = inner.SSLConfiguration.CName
	}
	p.Kubeconfig, err = s.Clusters.Kubeconfig(ctx, row, handle, cluster.RoleAdmin)
	return p, err
}
