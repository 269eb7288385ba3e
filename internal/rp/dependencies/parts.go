package dependencies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

// parts are what clients read of the declared types besides the resources themselves. They say what
// holds here, and take no setting that would change it.
func parts(storage, vault *resource.Type) []*resource.Type {
	service := func(name string, properties map[string]any) *resource.Type {
		typ := storage.Name + "/" + name
		return resource.NewVirtual(typ, "The settings of a storage account's service: nothing is kept, so nothing is set.", storage.Versions, resource.InGroup, resource.Virtual{
			Get: func(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
				if c.ID.Name() != "default" {
					return nil, armerr.NotFound(typ, c.ID.Name(), c.ID.GroupName())
				}
				return &resource.Answer{Body: map[string]any{"id": c.ID.String(), "name": "default", "type": typ, "properties": properties}}, exists(ctx, c, c.ID.Parent())
			},
		})
	}
	cors := map[string]any{"corsRules": []any{}}
	off := map[string]any{"enabled": false}
	return []*resource.Type{
		service("blobServices", map[string]any{"cors": cors, "deleteRetentionPolicy": off}),
		service("fileServices", map[string]any{"cors": cors, "shareDeleteRetentionPolicy": off}),
		resource.NewVirtual("Microsoft.Insights/components/currentBillingFeatures", "What a component may take in. It takes in nothing, so the cap is the default.", []string{"2015-05-01"}, resource.InGroup,
			resource.Virtual{List: showBilling, Set: setBilling}),
		resource.NewVirtual(vault.Namespace+"/deletedVaults", "The key vaults that could be recovered: none, because a vault is deleted at once and for good.", vault.Versions, resource.InSubscription,
			resource.Virtual{List: func(context.Context, *resource.Call) (*resource.Answer, error) {
				return &resource.Answer{Body: map[string]any{"value": []any{}}}, nil
			}}),
		resource.NewVirtual(vault.Namespace+"/locations/deletedVaults", "A key vault that could be recovered: there is none.", vault.Versions, resource.InSubscription,
			resource.Virtual{Get: func(_ context.Context, c *resource.Call) (*resource.Answer, error) {
				return nil, armerr.New(armerr.CodeResourceNotFound, "There is no deleted key vault '%s' in %s: Berth deletes vaults at once and for good.", c.ID.Name(), c.ID.Parent().Name())
			}}),
		resource.NewVirtual(vault.Namespace+"/locations/deletedVaults/purge", "Purging a deleted key vault, which its deletion has done already.", vault.Versions, resource.InSubscription,
			resource.Virtual{Post: purge}),
	}
}

// exists answers with ARM's error unless the resource is there.
func exists(ctx context.Context, c *resource.Call, id armid.ID) error {
	return c.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		_, err := tx.Resource(id.Key())
		if errors.Is(err, store.ErrNotFound) {
			return armerr.NotFound(id.Type(), id.Name(), id.GroupName())
		}
		return err
	})
}

// purge holds as soon as nothing of the vault is left, which is so from its deletion on; only
// a vault that lives cannot be purged. As in Azure the answer is an operation, which here
// has ended already.
func purge(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	now := c.Manager.Now()
	op := &store.Operation{
		ID: c.Manager.NewID(), ResourceKey: c.ID.Key(), ResourceID: c.ID.String(), Kind: "purge",
		Subscription: strings.ToLower(c.ID.SubscriptionID()), Provider: strings.ToLower(c.ID.Namespace()), Location: c.ID.Parent().Name(),
		Status: resource.StateSucceeded, Percent: 100, Start: now, Deadline: now, End: &now, By: c.By,
	}
	err := c.Manager.Store.Update(ctx, func(tx store.Tx) error {
		owner, err := tx.ClaimOwner(kindVault + ":" + strings.ToLower(c.ID.Name()))
		if err != nil {
			return err
		}
		if owner != "" {
			return armerr.New(armerr.CodeConflict, "The key vault '%s' has not been deleted, so it cannot be purged. Delete it.", c.ID.Name())
		}
		return tx.PutOperation(op)
	})
	return &resource.Answer{Status: http.StatusAccepted, Operation: op}, err
}

// billing is what a component may take in a day. Fields are spelled as in Azure.
type billing struct {
	CurrentBillingFeatures []string
	DataVolumeCap          struct {
		Cap                            float64 // in GB
		ResetTime                      int     // the hour of the day, UTC
		StopSendNotificationWhenHitCap bool
		WarningThreshold               int // in percent of the cap
	}
}

// defaultBilling is that of a new component in Azure.
func defaultBilling() (b billing) {
	b.CurrentBillingFeatures = []string{"Basic"}
	b.DataVolumeCap.Cap, b.DataVolumeCap.WarningThreshold = 100, 90
	return b
}

func showBilling(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	return &resource.Answer{Body: defaultBilling()}, exists(ctx, c, c.ID)
}

// setBilling takes what it is already, which Terraform sends with every component.
func setBilling(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	have := defaultBilling()
	asked := have
	if err := json.Unmarshal(c.Body, &asked); err != nil {
		return nil, armerr.Field("DataVolumeCap", "the body is not that of billing features: %v.", err)
	}
	if !reflect.DeepEqual(asked, have) {
		return nil, armerr.New(armerr.CodeNotSupported, "DataVolumeCap and CurrentBillingFeatures cannot be changed: Berth takes in no telemetry, so nothing could be capped. Leave out the daily cap, or ask for the default: %s.", fmt.Sprintf("%+v", have))
	}
	return showBilling(ctx, c)
}
