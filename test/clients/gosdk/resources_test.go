package gosdk

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armsubscriptions"
)

func TestResourceGroups(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := groupsClient(t, berth.subscription, berth.credential)
	group := unique("groups")
	if !proves(t, resourcesModule, "ResourceGroupsClient.CreateOrUpdate", []string{"P2"}, func(t *testing.T) {
		g, err := client.CreateOrUpdate(ctx, group, armresources.ResourceGroup{Location: to.Ptr("West Europe"), Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if *g.Name != group || *g.Location != "westeurope" || *g.Properties.ProvisioningState != "Succeeded" || *g.Tags["a"] != "b" || *g.Type != "Microsoft.Resources/resourceGroups" {
			t.Errorf("got %s in %s: %s", *g.Name, *g.Location, *g.Properties.ProvisioningState)
		}
	}) {
		return
	}
	proves(t, resourcesModule, "ResourceGroupsClient.Get", []string{"P2"}, func(t *testing.T) {
		g, err := client.Get(ctx, strings.ToUpper(group), nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := "/subscriptions/" + berth.subscription + "/resourceGroups/" + group; *g.ID != want {
			t.Errorf("got %s, want %s", *g.ID, want)
		}
		_, err = client.Get(ctx, "absent", nil)
		refused(t, err, http.StatusNotFound, "ResourceGroupNotFound", "absent")
	})
	proves(t, resourcesModule, "ResourceGroupsClient.CheckExistence", []string{"P2"}, func(t *testing.T) {
		for name, want := range map[string]bool{group: true, "absent": false} {
			if got, err := client.CheckExistence(ctx, name, nil); err != nil || got.Success != want {
				t.Errorf("%s: %v, %v", name, got.Success, err)
			}
		}
	})
	proves(t, resourcesModule, "ResourceGroupsClient.Update, tags", []string{"P2"}, func(t *testing.T) {
		g, err := client.Update(ctx, group, armresources.ResourceGroupPatchable{Tags: map[string]*string{"c": to.Ptr("d")}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(g.Tags) != 1 || *g.Tags["c"] != "d" {
			t.Errorf("got %v", g.Tags)
		}
	})
	proves(t, resourcesModule, "ResourceGroupsClient.NewListPager, with filter and $top", []string{"P2"}, func(t *testing.T) {
		named := func(g *armresources.ResourceGroup) bool { return *g.Name == group }
		for _, options := range []*armresources.ResourceGroupsClientListOptions{nil, {Top: to.Ptr(int32(1))}, {Filter: to.Ptr("tagName eq 'c' and tagValue eq 'd'")}} {
			found, sizes := 0, []int{}
			for pager := client.NewListPager(options); pager.More(); {
				page, err := pager.NextPage(ctx)
				if err != nil {
					t.Fatal(err)
				}
				sizes = append(sizes, len(page.Value))
				if slices.ContainsFunc(page.Value, named) {
					found++
				}
			}
			if found != 1 || options != nil && options.Top != nil && slices.Max(sizes) > 1 {
				t.Errorf("%+v: it is in %d of pages with %v groups", options, found, sizes)
			}
		}
	})
	proves(t, resourcesModule, "Client.NewListByResourceGroupPager, GetByID, BeginDeleteByID", []string{"P2"}, func(t *testing.T) {
		generic, err := armresources.NewClient(berth.subscription, berth.credential, berth.options)
		if err != nil {
			t.Fatal(err)
		}
		id := dependency(t, group, "Microsoft.Storage", "storageAccounts", group+"st", "2023-01-01", armresources.GenericResource{
			Kind: to.Ptr("StorageV2"), SKU: &armresources.SKU{Name: to.Ptr("Standard_LRS")}, Properties: map[string]any{}})
		l := all[struct{ ID, Type string }](t, pages(generic.NewListByResourceGroupPager(group, nil)))
		if len(l) != 1 || !strings.EqualFold(l[0].ID, id) || l[0].Type != "Microsoft.Storage/storageAccounts" {
			t.Errorf("the group holds %+v, want %s", l, id)
		}
		finish[nothing](t)(begin(generic.BeginDeleteByID(ctx, id, "2023-01-01", nil)))
		if exists(t, id, "2023-01-01") {
			t.Error("it is still there")
		}
	})
	proves(t, resourcesModule, "ResourceGroupsClient.BeginDelete, with a cluster inside", []string{"P2", "C5"}, func(t *testing.T) {
		cluster := finish[managedCluster](t)(openAKSv6(t).create(ctx, group, "inside", threeNodes, condition{}))
		finish[nothing](t)(begin(client.BeginDelete(ctx, group, nil)))
		_, err := client.Get(ctx, group, nil)
		refused(t, err, http.StatusNotFound, "ResourceGroupNotFound")
		if exists(t, cluster.ID, clusterVersion) {
			t.Error("the cluster survived its group")
		}
		_, err = client.BeginDelete(ctx, group, nil)
		refused(t, err, http.StatusNotFound, "ResourceGroupNotFound")
	})
}

func TestSubscriptions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f, err := armsubscriptions.NewClientFactory(berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	client := f.NewClient()
	proves(t, subscriptionsModule, "Client.NewListPager, Get", []string{"P2"}, func(t *testing.T) {
		l := all[armsubscriptions.Subscription](t, pages(client.NewListPager(nil)))
		if len(l) != 1 || *l[0].SubscriptionID != berth.subscription || *l[0].State != armsubscriptions.SubscriptionStateEnabled {
			t.Fatalf("got %d subscriptions", len(l))
		}
		one, err := client.Get(ctx, berth.subscription, nil)
		if err != nil || *one.ID != "/subscriptions/"+berth.subscription || *one.TenantID != berth.tenant {
			t.Errorf("got %+v, %v", one.Subscription, err)
		}
	})
	proves(t, subscriptionsModule, "Client.NewListLocationsPager", []string{"P2", "A3"}, func(t *testing.T) {
		l := all[armsubscriptions.Location](t, pages(client.NewListLocationsPager(berth.subscription, nil)))
		i := slices.IndexFunc(l, func(r armsubscriptions.Location) bool { return *r.Name == "westeurope" })
		if i < 0 || *l[i].DisplayName != "West Europe" || len(l[i].Metadata.PairedRegion) != 1 || *l[i].Metadata.PairedRegion[0].Name != "northeurope" {
			t.Errorf("West Europe is at %d of %d", i, len(l))
		}
	})
	proves(t, subscriptionsModule, "TenantsClient.NewListPager", []string{"P2"}, func(t *testing.T) {
		l := all[armsubscriptions.TenantIDDescription](t, pages(f.NewTenantsClient().NewListPager(nil)))
		if len(l) != 1 || *l[0].TenantID != berth.tenant {
			t.Errorf("got %d tenants", len(l))
		}
	})
}

func TestProviders(t *testing.T) {
	t.Parallel()
	client, err := armresources.NewProvidersClient(berth.subscription, berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	registered := func(p *armresources.Provider) bool { return *p.RegistrationState == "Registered" }
	proves(t, resourcesModule, "ProvidersClient.Get, Register", []string{"P2"}, func(t *testing.T) {
		p, err := client.Get(t.Context(), "Microsoft.MachineLearningServices", nil)
		if err != nil {
			t.Fatal(err)
		}
		computes := func(r *armresources.ProviderResourceType) bool {
			return *r.ResourceType == "workspaces/computes" && slices.ContainsFunc(r.APIVersions, func(v *string) bool { return *v == "2024-04-01" })
		}
		if !registered(&p.Provider) || !slices.ContainsFunc(p.ResourceTypes, computes) {
			t.Errorf("it is %s, with %d types", *p.RegistrationState, len(p.ResourceTypes))
		}
		if r, err := client.Register(t.Context(), "Microsoft.ContainerService", nil); err != nil || !registered(&r.Provider) {
			t.Errorf("registering: %v", err)
		}
		_, err = client.Get(t.Context(), "Microsoft.Nowhere", nil)
		refused(t, err, http.StatusNotFound, "InvalidResourceNamespace", "Microsoft.Nowhere")
	})
	proves(t, resourcesModule, "ProvidersClient.NewListPager", []string{"P2"}, func(t *testing.T) {
		l := all[armresources.Provider](t, pages(client.NewListPager(nil)))
		for _, want := range []string{"Microsoft.Resources", "Microsoft.ContainerService", "Microsoft.MachineLearningServices"} {
			if !slices.ContainsFunc(l, func(p armresources.Provider) bool { return *p.Namespace == want && registered(&p) }) {
				t.Errorf("%s is not listed as registered", want)
			}
		}
	})
}
