package gosdk

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
)

// workspace is what the tests look at of a workspace.
type workspace struct {
	ID, Name, Location string
	Tags               map[string]string
	Identity           struct{ PrincipalID, Type string }
	Properties         struct {
		ProvisioningState, WorkspaceID, DiscoveryURL, FriendlyName, Description string
		StorageAccount, KeyVault, ApplicationInsights                           string
	}
}

// compute is what the tests look at of a compute of type AKS.
type compute struct {
	ID, Name, Location string
	Properties         struct {
		ComputeType, ComputeLocation, ProvisioningState, ResourceID, Description string
		IsAttachedCompute                                                        bool
		ProvisioningErrors                                                       []struct {
			Error struct{ Code, Message string }
		}
		Properties struct {
			AgentCount                               int
			AgentVMSize, ClusterPurpose, ClusterFqdn string
		}
	}
}

// dependency makes a resource that a workspace refers to, with the generic client.
func dependency(t *testing.T, group, provider, kind, name, apiVersion string, r armresources.GenericResource) string {
	t.Helper()
	client, err := armresources.NewClient(berth.subscription, berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	r.Location = to.Ptr("westeurope")
	return finish[struct{ ID string }](t)(begin(client.BeginCreateOrUpdate(t.Context(), group, provider, "", kind, name, apiVersion, r, nil))).ID
}

func TestWorkspaces(t *testing.T) {
	each(t, mlVersions, func(t *testing.T, api ml, group string) {
		ctx := t.Context()
		storage := dependency(t, group, "Microsoft.Storage", "storageAccounts", strings.ToLower(group)+"st", "2023-01-01",
			armresources.GenericResource{Kind: to.Ptr("StorageV2"), SKU: &armresources.SKU{Name: to.Ptr("Standard_LRS")}, Properties: map[string]any{}})
		vault := dependency(t, group, "Microsoft.KeyVault", "vaults", group, "2023-07-01",
			armresources.GenericResource{Properties: map[string]any{"tenantId": berth.tenant, "sku": map[string]any{"family": "A", "name": "standard"}, "accessPolicies": []any{}}})
		insights := dependency(t, group, "Microsoft.Insights", "components", "insights", "2020-02-02",
			armresources.GenericResource{Kind: to.Ptr("web"), Properties: map[string]any{"Application_Type": "web"}})
		body := fmt.Sprintf(`{"location": "westeurope", "tags": {"a": "b"}, "identity": {"type": "SystemAssigned"}, "sku": {"name": "Basic", "tier": "Basic"},
			"properties": {"friendlyName": "Mine", "storageAccount": %q, "keyVault": %q, "applicationInsights": %q}}`, storage, vault, insights)
		if !proves(t, api.module, "WorkspacesClient.BeginCreateOrUpdate, PollUntilDone", []string{"P1"}, func(t *testing.T) {
			w := finish[workspace](t)(api.createWorkspace(ctx, group, "ws", body))
			p := w.Properties
			if p.ProvisioningState != "Succeeded" || p.WorkspaceID == "" || p.FriendlyName != "Mine" || w.Tags["a"] != "b" || w.Identity.PrincipalID == "" {
				t.Errorf("got %+v", w)
			}
			if !strings.EqualFold(p.StorageAccount, storage) || !strings.EqualFold(p.KeyVault, vault) || !strings.EqualFold(p.ApplicationInsights, insights) {
				t.Errorf("it refers to %q, %q, %q", p.StorageAccount, p.KeyVault, p.ApplicationInsights)
			}
			if !strings.HasPrefix(p.DiscoveryURL, "https://") {
				t.Errorf("discovery URL %q", p.DiscoveryURL)
			}
		}) {
			return
		}
		proves(t, api.module, "WorkspacesClient.BeginCreateOrUpdate, a linked resource that is not there refused", []string{"P1"}, func(t *testing.T) {
			_, err := api.createWorkspace(ctx, group, "unlinked", strings.Replace(body, storage, storage+"x", 1))
			refused(t, err, http.StatusBadRequest, "LinkedInvalidPropertyId", "storageAccount")
		})
		proves(t, api.module, "WorkspacesClient.Get", []string{"P1"}, func(t *testing.T) {
			if w := read[workspace](t)(api.getWorkspace(ctx, group, "ws")); w.Name != "ws" || w.Location != "westeurope" {
				t.Errorf("got %+v", w)
			}
			_, err := api.getWorkspace(ctx, group, "absent")
			refused(t, err, http.StatusNotFound, "ResourceNotFound", "absent", group)
		})
		here := func(w workspace) bool { return w.Name == "ws" && strings.Contains(w.ID, "/"+group+"/") }
		proves(t, api.module, "WorkspacesClient.NewListBySubscriptionPager", []string{"P1"}, func(t *testing.T) {
			if !slices.ContainsFunc(all[workspace](t, api.listWorkspaces()), here) {
				t.Error("the workspace is not in the subscription's list")
			}
		})
		proves(t, api.module, "WorkspacesClient.NewListByResourceGroupPager", []string{"P1"}, func(t *testing.T) {
			if l := all[workspace](t, api.groupWorkspaces(group)); len(l) != 1 || !here(l[0]) {
				t.Errorf("got %+v", l)
			}
		})
		proves(t, api.module, "WorkspacesClient update", []string{"P1"}, func(t *testing.T) {
			w := finish[workspace](t)(api.updateWorkspace(ctx, group, "ws", `{"tags": {"c": "d"}, "properties": {"friendlyName": "Renamed", "description": "By Go"}}`))
			if w.Properties.FriendlyName != "Renamed" || w.Properties.Description != "By Go" || w.Tags["c"] != "d" || !strings.EqualFold(w.Properties.StorageAccount, storage) {
				t.Errorf("got %+v", w)
			}
		})
		proves(t, api.module, "WorkspacesClient.ListKeys", []string{"P1"}, func(t *testing.T) {
			keys := read[struct{ UserStorageResourceID string }](t)(api.workspaceKeys(ctx, group, "ws"))
			if !strings.EqualFold(keys.UserStorageResourceID, storage) {
				t.Errorf("got %+v", keys)
			}
		})
		proves(t, api.module, "WorkspacesClient.BeginResyncKeys", []string{"P1"}, func(t *testing.T) {
			finish[nothing](t)(api.resyncKeys(ctx, group, "ws"))
		})
		proves(t, api.module, "WorkspacesClient.BeginDelete", []string{"P1"}, func(t *testing.T) {
			finish[nothing](t)(api.removeWorkspace(ctx, group, "ws"))
			_, err := api.getWorkspace(ctx, group, "ws")
			refused(t, err, http.StatusNotFound, "ResourceNotFound")
			finish[nothing](t)(api.removeWorkspace(ctx, group, "ws")) // absent by now: 204
		})
	})
}

const clusterVersion = "2024-02-01" // to look at a compute's cluster with

func TestComputesCreated(t *testing.T) {
	each(t, mlVersions, func(t *testing.T, api ml, group string) {
		ctx := t.Context()
		finish[workspace](t)(api.createWorkspace(ctx, group, "ws", `{"location": "westeurope", "identity": {"type": "SystemAssigned"}, "properties": {}}`))
		name := group // unique in the region (R1)
		const byDefault = `{"location": "westeurope", "properties": {"computeType": "AKS"}}`
		var made compute
		if !proves(t, api.module, "ComputeClient.BeginCreateOrUpdate, create with every option default", []string{"C1", "C3", "C6", "R2"}, func(t *testing.T) {
			made = finish[compute](t)(api.create(ctx, group, "ws", name, byDefault, ""))
			p := made.Properties
			if p.ProvisioningState != "Succeeded" || p.ComputeType != "AKS" || p.IsAttachedCompute || p.Properties.AgentCount != 3 || p.Properties.AgentVMSize != "Standard_D3_v2" || p.Properties.ClusterPurpose != "FastProd" || p.Properties.ClusterFqdn == "" {
				t.Errorf("got %+v", made)
			}
			if !exists(t, p.ResourceID, clusterVersion) {
				t.Errorf("the cluster %s is not there", p.ResourceID)
			}
		}) {
			return
		}
		proves(t, api.module, "ComputeClient.Get", []string{"C3"}, func(t *testing.T) {
			if c := read[compute](t)(api.get(ctx, group, "ws", name)); c.Name != name || c.Properties.ResourceID != made.Properties.ResourceID {
				t.Errorf("got %+v", c)
			}
			_, err := api.get(ctx, group, "ws", "absent")
			refused(t, err, http.StatusNotFound, "ResourceNotFound", "absent")
			_, err = api.get(ctx, group, "nowhere", name)
			refused(t, err, http.StatusNotFound, "ResourceNotFound", "workspaces/nowhere")
		})
		proves(t, api.module, "ComputeClient.NewListPager", []string{"C4"}, func(t *testing.T) {
			if l := all[compute](t, api.list(group, "ws")); len(l) != 1 || l[0].Name != name || l[0].Properties.ComputeType != "AKS" {
				t.Errorf("got %+v", l)
			}
		})
		proves(t, api.module, "ComputeClient.ListKeys", []string{"C3"}, func(t *testing.T) {
			keys := read[struct{ ComputeType, AdminKubeConfig, UserKubeConfig string }](t)(api.keys(ctx, group, "ws", name))
			kubeconfigWorks(t, []byte(keys.AdminKubeConfig))
			kubeconfigWorks(t, []byte(keys.UserKubeConfig))
		})
		proves(t, api.module, "ComputeClient.BeginCreateOrUpdate, scaled", []string{"R4"}, func(t *testing.T) {
			c := finish[compute](t)(api.create(ctx, group, "ws", name, `{"location": "westeurope", "properties": {"computeType": "AKS", "properties": {"agentCount": 4}}}`, ""))
			if c.Properties.Properties.AgentCount != 4 || c.Properties.ResourceID != made.Properties.ResourceID {
				t.Errorf("got %+v", c)
			}
			_, err := api.create(ctx, group, "ws", name, `{"location": "westeurope", "properties": {"computeType": "AKS", "properties": {"agentVmSize": "Standard_D4s_v3"}}}`, "")
			refused(t, err, http.StatusBadRequest, "PropertyChangeNotAllowed", "agentVmSize", "Standard_D3_v2")
		})
		proves(t, api.module, "ComputeClient, what only other kinds of compute have refused by name: BeginUpdate with scaleSettings, NewListNodesPager, BeginStop", []string{"R4"}, func(t *testing.T) {
			_, err := api.update(ctx, group, "ws", name, `{"properties": {"properties": {"scaleSettings": {"maxNodeCount": 5}}}}`)
			refused(t, err, http.StatusBadRequest, "InvalidParameter", "scaleSettings")
			_, err = api.nodes(group, "ws", name)(ctx)
			refused(t, err, http.StatusBadRequest, "NotSupported", "AmlCompute")
			_, err = api.stop(ctx, group, "ws", name)
			refused(t, err, http.StatusNotFound, "InvalidResourceType", "stop", "listKeys")
		})
		proves(t, api.module, "ComputeClient.BeginCreateOrUpdate, DevTest, resumed from a ResumeToken", []string{"C1", "C3", "R2", "R3"}, func(t *testing.T) {
			op, err := api.create(ctx, group, "ws", name+"d", `{"location": "westeurope", "properties": {"computeType": "AKS", "computeLocation": "northeurope", "properties": {"clusterPurpose": "DevTest"}}}`, "")
			if err != nil {
				t.Fatal(err)
			}
			c := finish[compute](t)(api.create(ctx, group, "ws", name+"d", `{"properties": {"computeType": "AKS"}}`, read[string](t)(op.token())))
			if p := c.Properties; p.ProvisioningState != "Succeeded" || p.Properties.AgentCount != 1 || p.ComputeLocation != "northeurope" {
				t.Errorf("got %+v", c)
			}
		})
		proves(t, api.module, "ComputeClient.BeginCreateOrUpdate, refused", []string{"R1", "R3", "C2"}, func(t *testing.T) {
			for body, want := range map[string]struct {
				code  string
				words []string
			}{
				`{"location": "westeurope", "properties": {"computeType": "AKS", "properties": {"agentCount": 1}}}`:                 {"NotEnoughCores", []string{"agentCount", "at least 12", "3 nodes"}},
				`{"location": "westeurope", "properties": {"computeType": "AKS", "properties": {"agentVmSize": "Standard_D3_v9"}}}`: {"InvalidParameter", []string{"agentVmSize", "Standard_D3_v9"}},
				`{"location": "northeurope", "properties": {"computeType": "AKS"}}`:                                                 {"InvalidParameter", []string{"location", "westeurope"}},
				`{"location": "westeurope", "properties": {"computeType": "AmlCompute"}}`:                                           {"NotSupported", []string{"AmlCompute"}},
			} {
				_, err := api.create(ctx, group, "ws", name+"r", body, "")
				refused(t, err, http.StatusBadRequest, want.code, want.words...)
			}
			_, err := api.create(ctx, group, "ws", "1bad", byDefault, "")
			refused(t, err, http.StatusBadRequest, "BadRequest", "R1")
			finish[workspace](t)(api.createWorkspace(ctx, group, "ws2", `{"location": "westeurope", "identity": {"type": "SystemAssigned"}, "properties": {}}`))
			_, err = api.create(ctx, group, "ws2", name, byDefault, "")
			refused(t, err, http.StatusConflict, "NameAlreadyTaken", "region")
			_, err = api.create(ctx, group, "nowhere", name+"r", byDefault, "")
			refused(t, err, http.StatusNotFound, "ParentResourceNotFound", "workspaces/nowhere")
		})
		proves(t, api.module, "ComputeClient.BeginDelete, Detach of a created compute", []string{"A6"}, func(t *testing.T) {
			id := read[compute](t)(api.get(ctx, group, "ws", name+"d")).Properties.ResourceID
			finish[nothing](t)(api.remove(ctx, group, "ws", name+"d", "Detach"))
			_, err := api.get(ctx, group, "ws", name+"d")
			refused(t, err, http.StatusNotFound, "ResourceNotFound")
			if !exists(t, id, clusterVersion) {
				t.Error("its cluster went along")
			}
		})
		proves(t, api.module, "ComputeClient.BeginDelete, Delete of a created compute", []string{"A6"}, func(t *testing.T) {
			finish[nothing](t)(api.remove(ctx, group, "ws", name, "Delete"))
			_, err := api.get(ctx, group, "ws", name)
			refused(t, err, http.StatusNotFound, "ResourceNotFound")
			if exists(t, made.Properties.ResourceID, clusterVersion) {
				t.Error("its cluster is still there")
			}
		})
		if api.module == mlV1 {
			return // its BeginDelete takes the 204 that ARM has for what is absent for an error
		}
		proves(t, api.module, "ComputeClient.BeginDelete, absent", []string{"A6"}, func(t *testing.T) {
			finish[nothing](t)(api.remove(ctx, group, "ws", name, "Delete"))
		})
	})
}

func TestComputesAttached(t *testing.T) {
	each(t, mlVersions, func(t *testing.T, api ml, group string) {
		ctx := t.Context()
		finish[workspace](t)(api.createWorkspace(ctx, group, "ws", `{"location": "westeurope", "identity": {"type": "SystemAssigned"}, "properties": {}}`))
		cluster := finish[managedCluster](t)(openAKSv6(t).create(ctx, group, "cluster", threeNodes, condition{})).ID
		body := fmt.Sprintf(`{"location": "westeurope", "properties": {"computeType": "AKS", "resourceId": %q}}`, cluster)
		name := group
		attached := func(t *testing.T) {
			t.Helper()
			c := finish[compute](t)(api.create(ctx, group, "ws", name, body, ""))
			if p := c.Properties; p.ProvisioningState != "Succeeded" || !p.IsAttachedCompute || !strings.EqualFold(p.ResourceID, cluster) || p.Properties.AgentCount != 3 {
				t.Errorf("got %+v", c)
			}
		}
		if !proves(t, api.module, "ComputeClient.BeginCreateOrUpdate, attach by resourceId", []string{"A1", "A2", "A3", "A7"}, attached) {
			return
		}
		proves(t, api.module, "ComputeClient.BeginCreateOrUpdate, second attachment refused", []string{"A5"}, func(t *testing.T) {
			_, err := api.create(ctx, group, "ws", name+"2", body, "")
			refused(t, err, http.StatusConflict, "ClusterAlreadyAttached", name, "detach")
		})
		proves(t, api.module, "ComputeClient.BeginCreateOrUpdate, attach of a cluster that is not there refused", []string{"A7"}, func(t *testing.T) {
			_, err := api.create(ctx, group, "ws", name+"3", strings.Replace(body, "/cluster\"", "/absent\"", 1), "")
			refused(t, err, http.StatusBadRequest, "ClusterNotFound", "absent")
		})
		proves(t, api.module, "ComputeClient.BeginDelete, Delete of an attached compute refused", []string{"A6"}, func(t *testing.T) {
			_, err := api.remove(ctx, group, "ws", name, "Delete")
			refused(t, err, http.StatusBadRequest, "DeleteOfAttachedClusterNotAllowed", "Detach")
		})
		proves(t, api.module, "ComputeClient, attach - detach - attach", []string{"A6"}, func(t *testing.T) {
			detach := func() {
				finish[nothing](t)(api.remove(ctx, group, "ws", name, "Detach"))
				_, err := api.get(ctx, group, "ws", name)
				refused(t, err, http.StatusNotFound, "ResourceNotFound")
			}
			detach()
			attached(t)
			detach()
			if !exists(t, cluster, clusterVersion) {
				t.Error("the cluster went along")
			}
		})
		proves(t, api.module, "ComputeClient.Get, ProvisioningErrors after the cluster was deleted", []string{"C5"}, func(t *testing.T) {
			attached(t)
			finish[nothing](t)(openAKSv6(t).remove(ctx, group, "cluster", condition{}))
			deadline := time.After(20 * time.Second)
			for poll := time.Tick(100 * time.Millisecond); ; {
				p := read[compute](t)(api.get(ctx, group, "ws", name)).Properties
				if p.ProvisioningState == "Failed" {
					if len(p.ProvisioningErrors) != 1 || p.ProvisioningErrors[0].Error.Code != "ClusterNotFound" || !strings.Contains(p.ProvisioningErrors[0].Error.Message, "was deleted") {
						t.Errorf("it says %+v", p.ProvisioningErrors)
					}
					break
				}
				select {
				case <-poll:
				case <-deadline:
					t.Fatalf("the compute does not notice; it is %s", p.ProvisioningState)
				}
			}
			// The same name can be used again, now for a cluster of its own.
			c := finish[compute](t)(api.create(ctx, group, "ws", name, `{"location": "westeurope", "properties": {"computeType": "AKS"}}`, ""))
			if c.Properties.ProvisioningState != "Succeeded" || c.Properties.IsAttachedCompute || strings.EqualFold(c.Properties.ResourceID, cluster) {
				t.Errorf("got %+v", c)
			}
			finish[nothing](t)(api.remove(ctx, group, "ws", name, "Delete"))
		})
	})
}
