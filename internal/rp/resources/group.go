// Package resources is the resource provider Microsoft.Resources: tenants, subscriptions,
// locations, resource groups, and the lists of everything. Deleting a group deletes
// what is in it, in the order that the types declare.
package resources

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armhttp"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/region"
	"github.com/berthdev/berth/internal/store"
)

const namespace = "Microsoft.Resources"

// versions are the api-versions that known clients send for the provider's types.
var versions = []string{
	"2014-04-01", "2015-01-01", "2015-11-01", "2016-02-01", "2016-06-01", "2016-09-01", "2017-05-10", "2018-02-01", "2018-05-01", "2018-06-01",
	"2019-03-01", "2019-05-01", "2019-05-10", "2019-06-01", "2019-07-01", "2019-08-01", "2019-10-01", "2019-11-01", "2020-01-01", "2020-06-01", "2020-08-01", "2020-10-01",
	"2021-01-01", "2021-04-01", "2022-01-01", "2022-09-01", "2022-12-01", "2023-07-01", "2024-03-01", "2024-07-01", "2024-11-01", "2025-03-01", "2025-04-01",
}

// Service is the provider.
type Service struct {
	Tenant string
	// Allowed decides what a caller sees of the list of all resources.
	Registry func() *resource.Registry
}

// group is the properties of a resource group: there are none of its own.
type group struct {
	ProvisioningState string `json:"provisioningState,omitempty" arm:"readonly"`
}

var groupName = regexp.MustCompile(`^[\p{L}\p{N}_().-]{0,89}[\p{L}\p{N}_()-]$`)

// Types are the declarations of the provider's types.
func (s *Service) Types() []*resource.Type {
	return []*resource.Type{
		resource.New(resource.Definition[group]{
			Type: armid.ResourceGroupType, Summary: "A resource group.", Versions: versions, Scope: resource.InSubscription, Tracked: true,
			DeleteDeadline: 40 * time.Minute,
			Names:          resource.NameRule{Pattern: groupName, Description: "has 1 to 90 letters, digits, underscores, parentheses, dashes and periods, and does not end with a period"},
		}),
		resource.NewVirtual(armid.SubscriptionType, "A subscription.", versions, resource.InTenant, resource.Virtual{Get: s.getSubscription, List: s.listSubscriptions}),
		resource.NewVirtual(namespace+"/tenants", "The tenant.", versions, resource.InTenant, resource.Virtual{List: s.listTenants}),
		resource.NewVirtual(namespace+"/locations", "The Azure regions.", versions, resource.InSubscription, resource.Virtual{List: listLocations}),
		resource.NewVirtual(namespace+"/providers", "The resource providers.", versions, resource.InSubscription, resource.Virtual{List: s.listProviders}),
		resource.NewVirtual(namespace+"/resources", "All resources of a subscription or group.", versions, resource.InSubscription, resource.Virtual{List: s.listResources}),
	}
}

func (s *Service) subscriptionBody(row *store.Resource) (map[string]any, error) {
	doc, err := resource.ReadSpec[Subscription](row)
	if err != nil {
		return nil, err
	}
	id := armid.MustParse(row.ID)
	return map[string]any{
		"id": row.ID, "subscriptionId": id.SubscriptionID(), "tenantId": s.Tenant, "displayName": doc.Properties.DisplayName, "state": "Enabled",
		"subscriptionPolicies": map[string]any{"locationPlacementId": "Internal_2014-09-01", "quotaId": "Internal_2014-09-01", "spendingLimit": "Off"},
		"authorizationSource":  "RoleBased", "managedByTenants": []any{}, "tags": doc.Tags,
	}, nil
}

// Subscription is what is stored of a subscription.
type Subscription struct {
	DisplayName string `json:"displayName,omitempty"`
}

// EnsureSubscription stores a subscription, unless it is there already.
func EnsureSubscription(tx store.Tx, id armid.ID, displayName string, by store.Stamp) error {
	_, err := tx.Resource(id.Key())
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	doc, err := resource.EncodeJSON(&resource.Document[Subscription]{Properties: Subscription{DisplayName: displayName}})
	if err != nil {
		return err
	}
	return tx.Create(&store.Resource{
		Key: id.Key(), ID: id.String(), Type: strings.ToLower(armid.SubscriptionType), Subscription: strings.ToLower(id.SubscriptionID()),
		Spec: doc, State: resource.StateSucceeded, Generation: 1, Observed: 1, Created: by, Modified: by,
	})
}

func (s *Service) getSubscription(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	a := &resource.Answer{}
	err := c.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		row, err := tx.Resource(c.ID.Key())
		if errors.Is(err, store.ErrNotFound) {
			return resource.SubscriptionNotFound(c.ID.Name())
		}
		if err != nil {
			return err
		}
		a.Body, err = s.subscriptionBody(row)
		return err
	})
	return a, err
}

func (s *Service) listSubscriptions(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	value := []any{}
	err := c.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		rows, _, err := tx.Resources(store.Query{Type: strings.ToLower(armid.SubscriptionType)})
		if err != nil {
			return err
		}
		value = value[:0]
		for _, row := range rows {
			ok, err := c.Visible(armid.SubscriptionType+"/read", armid.MustParse(row.ID))
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			body, err := s.subscriptionBody(row)
			if err != nil {
				return err
			}
			value = append(value, body)
		}
		return nil
	})
	return list(value), err
}

func list(value []any) *resource.Answer {
	return &resource.Answer{Body: map[string]any{"value": value, "count": map[string]any{"type": "Total", "value": len(value)}}}
}

func (s *Service) listTenants(_ context.Context, _ *resource.Call) (*resource.Answer, error) {
	return &resource.Answer{Body: map[string]any{"value": []any{map[string]any{
		"id": "/tenants/" + s.Tenant, "tenantId": s.Tenant, "displayName": "Berth", "defaultDomain": "berth.onmicrosoft.com",
		"domains": []string{"berth.onmicrosoft.com"}, "tenantCategory": "Home", "tenantType": "AAD", "countryCode": "",
	}}}}, nil
}

func listLocations(_ context.Context, c *resource.Call) (*resource.Answer, error) {
	value := []any{}
	for _, r := range region.All() {
		value = append(value, map[string]any{
			"id": c.ID.String() + "/locations/" + r.Name, "name": r.Name, "type": "Region", "displayName": r.DisplayName, "regionalDisplayName": r.RegionalDisplayName,
			"metadata": map[string]any{
				"regionType": "Physical", "regionCategory": r.Category, "geography": r.Geography, "geographyGroup": r.GeographyGroup,
				"latitude": r.Latitude, "longitude": r.Longitude, "physicalLocation": r.PhysicalLocation,
				"pairedRegion": paired(c.ID, r.PairedRegion),
			},
		})
	}
	return &resource.Answer{Body: map[string]any{"value": value}}, nil
}

func paired(sub armid.ID, name string) []any {
	if name == "" {
		return []any{}
	}
	return []any{map[string]any{"name": name, "id": sub.String() + "/locations/" + name}}
}

func (s *Service) listProviders(_ context.Context, c *resource.Call) (*resource.Answer, error) {
	value := []any{}
	for _, ns := range s.Registry().Namespaces() {
		value = append(value, armhttp.ProviderBody(s.Registry(), ns, c.ID.String()))
	}
	return &resource.Answer{Body: map[string]any{"value": value}}, nil
}

// listResources lists all resources of a subscription or a group in their short form.
func (s *Service) listResources(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	filter, err := armhttp.ParseFilter(c.Query("$filter"), nil)
	if err != nil {
		return nil, err
	}
	expand := strings.ToLower(c.Query("$expand"))
	value := []any{}
	err = c.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		if _, err := tx.Resource(c.ID.Key()); errors.Is(err, store.ErrNotFound) {
			if c.ID.GroupName() != "" {
				return armerr.New(armerr.CodeResourceGroupNotFound, "Resource group '%s' could not be found.", c.ID.GroupName())
			}
			return resource.SubscriptionNotFound(c.ID.SubscriptionID())
		} else if err != nil {
			return err
		}
		rows, _, err := tx.Resources(store.Query{Under: c.ID.Key()})
		if err != nil {
			return err
		}
		value = value[:0]
		for _, row := range rows {
			t, ok := s.Registry().Type(row.Type)
			if !ok || !t.Tracked || strings.EqualFold(t.Name, armid.ResourceGroupType) || t.NestedIn() != "" {
				continue
			}
			visible, err := c.Visible(t.Name+"/read", armid.MustParse(row.ID))
			if err != nil {
				return err
			}
			if !visible {
				continue
			}
			doc, err := c.Manager.View(tx, t, row, t.Versions[len(t.Versions)-1])
			if err != nil {
				return err
			}
			if !filter.Match(doc) {
				continue
			}
			short := map[string]any{}
			for _, k := range []string{"id", "name", "type", "location", "kind", "sku", "identity", "tags", "managedBy"} {
				if v, ok := doc[k]; ok && v != nil {
					short[k] = v
				}
			}
			if strings.Contains(expand, "provisioningstate") {
				short["provisioningState"] = row.State
			}
			if strings.Contains(expand, "createdtime") {
				short["createdTime"] = resource.Timestamp(row.Created.At)
			}
			if strings.Contains(expand, "changedtime") {
				short["changedTime"] = resource.Timestamp(row.Modified.At)
			}
			value = append(value, short)
		}
		return nil
	})
	return &resource.Answer{Status: http.StatusOK, Body: map[string]any{"value": value}}, err
}
