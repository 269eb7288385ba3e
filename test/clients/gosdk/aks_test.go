package gosdk

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
)

// managedCluster is what the tests look at of a cluster.
type managedCluster struct {
	ID, Name, Type, Location string
	ETag                     string
	Tags                     map[string]string
	Properties               struct {
		ProvisioningState, KubernetesVersion, Fqdn, NodeResourceGroup string
		AgentPoolProfiles                                             []struct {
			Name, VMSize, Mode string
			Count              int
		}
	}
}

type agentPool struct {
	ID, Name   string
	Properties struct {
		ProvisioningState, VMSize, Mode, ETag string
		Count                                 int
	}
}

const threeNodes = `{"location": "northeurope", "properties": {"dnsPrefix": "gosdk", "agentPoolProfiles": [
	{"name": "main", "count": 3, "vmSize": "Standard_D3_v2", "mode": "System", "osType": "Linux", "type": "VirtualMachineScaleSets"}]}}`

func TestManagedClusters(t *testing.T) {
	each(t, aksVersions, func(t *testing.T, api aks, group string) {
		ctx := t.Context()
		if !proves(t, api.module, "ManagedClustersClient.BeginCreateOrUpdate, PollUntilDone", []string{"A8"}, func(t *testing.T) {
			c := finish[managedCluster](t)(api.create(ctx, group, "one", threeNodes, condition{}))
			if c.Properties.ProvisioningState != "Succeeded" || c.Location != "northeurope" || c.Properties.Fqdn == "" || c.Properties.KubernetesVersion == "" {
				t.Errorf("got %+v", c)
			}
			if p := c.Properties.AgentPoolProfiles; len(p) != 1 || p[0].Count != 3 || p[0].VMSize != "Standard_D3_v2" || p[0].Mode != "System" {
				t.Errorf("pools %+v", p)
			}
		}) {
			return
		}
		proves(t, api.module, "ManagedClustersClient.Get", []string{"A2", "A8"}, func(t *testing.T) {
			c := read[managedCluster](t)(api.get(ctx, group, "one"))
			want := "/subscriptions/" + berth.subscription + "/resourcegroups/" + group + "/providers/Microsoft.ContainerService/managedClusters/one"
			if !strings.EqualFold(c.ID, want) || !strings.EqualFold(c.Type, "Microsoft.ContainerService/ManagedClusters") {
				t.Errorf("got %s of type %s, want %s", c.ID, c.Type, want)
			}
			upper := read[managedCluster](t)(api.get(ctx, strings.ToUpper(group), "ONE"))
			if upper.ID != c.ID {
				t.Errorf("in capitals it is %s, want %s", upper.ID, c.ID)
			}
		})
		named := func(c managedCluster) bool { return c.Name == "one" && strings.Contains(c.ID, "/"+group+"/") }
		proves(t, api.module, "ManagedClustersClient.NewListPager", []string{"A8"}, func(t *testing.T) {
			if !slices.ContainsFunc(all[managedCluster](t, api.list()), named) {
				t.Error("the cluster is not in the subscription's list")
			}
		})
		proves(t, api.module, "ManagedClustersClient.NewListByResourceGroupPager", []string{"A8"}, func(t *testing.T) {
			if l := all[managedCluster](t, api.listGroup(group)); len(l) != 1 || !named(l[0]) {
				t.Errorf("got %+v", l)
			}
		})
		proves(t, api.module, "ManagedClustersClient.BeginUpdateTags", []string{"A8"}, func(t *testing.T) {
			if c := finish[managedCluster](t)(api.tag(ctx, group, "one", `{"tags": {"team": "ml"}}`, condition{})); c.Tags["team"] != "ml" || c.Properties.AgentPoolProfiles[0].Count != 3 {
				t.Errorf("got %+v", c)
			}
		})
		for name, call := range map[string]func() (any, error){
			"ManagedClustersClient.ListClusterAdminCredentials": func() (any, error) { return api.adminConfig(ctx, group, "one") },
			"ManagedClustersClient.ListClusterUserCredentials":  func() (any, error) { return api.userConfig(ctx, group, "one") },
		} {
			proves(t, api.module, name, []string{"A8"}, func(t *testing.T) {
				got := read[struct {
					Kubeconfigs []struct {
						Name  string
						Value []byte
					}
				}](t)(call())
				if len(got.Kubeconfigs) != 1 {
					t.Fatalf("%d kubeconfigs", len(got.Kubeconfigs))
				}
				kubeconfigWorks(t, got.Kubeconfigs[0].Value)
			})
		}
		proves(t, api.module, "ManagedClustersClient.GetUpgradeProfile", []string{"A4"}, func(t *testing.T) {
			got := read[struct {
				Properties struct {
					ControlPlaneProfile struct{ KubernetesVersion string }
				}
			}](t)(api.upgradeProfile(ctx, group, "one"))
			if got.Properties.ControlPlaneProfile.KubernetesVersion == "" {
				t.Error("the profile has no version")
			}
		})
		proves(t, api.module, "ManagedClustersClient.BeginCreateOrUpdate, what was read written back", []string{"A8"}, func(t *testing.T) {
			body := read[json.RawMessage](t)(api.get(ctx, group, "one"))
			if c := finish[managedCluster](t)(api.create(ctx, group, "one", string(body), condition{})); c.Tags["team"] != "ml" || c.Properties.AgentPoolProfiles[0].Count != 3 {
				t.Errorf("got %+v", c)
			}
		})
		proves(t, api.module, "ManagedClustersClient.BeginCreateOrUpdate, scaled", []string{"R4"}, func(t *testing.T) {
			if c := finish[managedCluster](t)(api.create(ctx, group, "one", strings.Replace(threeNodes, `"count": 3`, `"count": 4`, 1), condition{})); c.Properties.AgentPoolProfiles[0].Count != 4 {
				t.Errorf("got %+v", c)
			}
			_, err := api.create(ctx, group, "one", strings.Replace(threeNodes, "Standard_D3_v2", "Standard_D4s_v3", 1), condition{})
			refused(t, err, http.StatusBadRequest, "PropertyChangeNotAllowed", "agentPoolProfiles[0].vmSize", "Standard_D3_v2")
		})
		proves(t, api.module, "ManagedClustersClient.BeginCreateOrUpdate and BeginDelete, resumed from a ResumeToken", []string{"A8"}, func(t *testing.T) {
			op, err := api.create(ctx, group, "resumed", threeNodes, condition{})
			if err != nil {
				t.Fatal(err)
			}
			token := read[string](t)(op.token())
			if c := finish[managedCluster](t)(api.create(ctx, group, "resumed", "{}", condition{resume: token})); c.Properties.ProvisioningState != "Succeeded" || c.Name != "resumed" {
				t.Errorf("got %+v", c)
			}
			if op, err = api.remove(ctx, group, "resumed", condition{}); err != nil {
				t.Fatal(err)
			}
			token = read[string](t)(op.token())
			finish[nothing](t)(api.remove(ctx, group, "resumed", condition{resume: token}))
			_, err = api.get(ctx, group, "resumed")
			refused(t, err, http.StatusNotFound, "ResourceNotFound")
		})
		if api.etags {
			testClusterETags(t, api, group)
		}
		proves(t, api.module, "ManagedClustersClient.BeginCreateOrUpdate, bad fields refused", []string{"A8", "R5"}, func(t *testing.T) {
			_, err := api.create(ctx, group, "bad", `{"location": "northeurope", "properties": {"agentPoolProfiles": [{"name": "Bad_Name", "count": 1, "vmSize": "Standard_D3_v9"}]}}`, condition{})
			refused(t, err, http.StatusBadRequest, "InvalidParameter", "agentPoolProfiles[0].name", "agentPoolProfiles[0].vmSize")
			_, err = api.create(ctx, group, "bad", strings.Replace(threeNodes, "northeurope", "atlantis", 1), condition{})
			refused(t, err, http.StatusBadRequest, "LocationNotAvailableForResourceType", "atlantis")
			_, err = api.create(ctx, group, "bad", strings.Replace(threeNodes, `"dnsPrefix"`, `"kubernetesVersion": "1.10.0", "dnsPrefix"`, 1), condition{})
			refused(t, err, http.StatusBadRequest, "K8sVersionNotSupported", "1.10.0")
		})
		proves(t, api.module, "ManagedClustersClient.BeginDelete", []string{"A8"}, func(t *testing.T) {
			finish[nothing](t)(api.remove(ctx, group, "one", condition{}))
			_, err := api.get(ctx, group, "one")
			refused(t, err, http.StatusNotFound, "ResourceNotFound")
		})
		proves(t, api.module, "ManagedClustersClient.BeginDelete, absent", []string{"A8"}, func(t *testing.T) {
			finish[nothing](t)(api.remove(ctx, group, "one", condition{}))
		})
	})
}

// testClusterETags holds conditional writes of clusters to RFC 9110 and AKS's options.
func testClusterETags(t *testing.T, api aks, group string) {
	ctx := t.Context()
	current := func(t *testing.T) *string {
		t.Helper()
		c := read[managedCluster](t)(api.get(ctx, group, "one"))
		if c.ETag == "" {
			t.Fatal("the cluster has no eTag")
		}
		return &c.ETag
	}
	proves(t, api.module, "ManagedClustersClient, IfMatch", []string{"A8"}, func(t *testing.T) {
		stale := current(t)
		finish[managedCluster](t)(api.tag(ctx, group, "one", `{"tags": {"team": "etag"}}`, condition{ifMatch: stale}))
		if *current(t) == *stale {
			t.Error("the eTag did not change with the tags")
		}
		_, err := api.create(ctx, group, "one", threeNodes, condition{ifMatch: stale})
		refused(t, err, http.StatusPreconditionFailed, "PreconditionFailed")
		_, err = api.tag(ctx, group, "one", `{"tags": {}}`, condition{ifMatch: stale})
		refused(t, err, http.StatusPreconditionFailed, "PreconditionFailed")
		_, err = api.remove(ctx, group, "one", condition{ifMatch: stale})
		refused(t, err, http.StatusPreconditionFailed, "PreconditionFailed")
		finish[managedCluster](t)(api.create(ctx, group, "one", threeNodes, condition{ifMatch: current(t)}))
	})
	proves(t, api.module, "ManagedClustersClient, IfNoneMatch *", []string{"A8"}, func(t *testing.T) {
		_, err := api.create(ctx, group, "one", threeNodes, condition{ifNoneMatch: to.Ptr("*")})
		refused(t, err, http.StatusPreconditionFailed, "PreconditionFailed")
		finish[managedCluster](t)(api.create(ctx, group, "fresh", threeNodes, condition{ifNoneMatch: to.Ptr("*")}))
		finish[nothing](t)(api.remove(ctx, group, "fresh", condition{}))
	})
}

func TestAgentPools(t *testing.T) {
	each(t, aksVersions, func(t *testing.T, api aks, group string) {
		ctx := t.Context()
		finish[managedCluster](t)(api.create(ctx, group, "pools", threeNodes, condition{}))
		const two = `{"properties": {"count": 2, "vmSize": "Standard_D4s_v3", "mode": "User"}}`
		if !proves(t, api.module, "AgentPoolsClient.BeginCreateOrUpdate, PollUntilDone", []string{"A8"}, func(t *testing.T) {
			if p := finish[agentPool](t)(api.createPool(ctx, group, "pools", "extra", two, condition{})); p.Properties.ProvisioningState != "Succeeded" || p.Properties.Count != 2 || p.Properties.VMSize != "Standard_D4s_v3" {
				t.Errorf("got %+v", p)
			}
		}) {
			return
		}
		proves(t, api.module, "AgentPoolsClient.Get", []string{"A8"}, func(t *testing.T) {
			if p := read[agentPool](t)(api.getPool(ctx, group, "pools", "extra")); p.Name != "extra" || !strings.HasSuffix(p.ID, "/agentPools/extra") || p.Properties.Mode != "User" {
				t.Errorf("got %+v", p)
			}
			_, err := api.getPool(ctx, group, "pools", "absent")
			refused(t, err, http.StatusNotFound, "ResourceNotFound", "absent")
		})
		proves(t, api.module, "AgentPoolsClient.NewListPager", []string{"A8"}, func(t *testing.T) {
			if l := all[agentPool](t, api.listPools(group, "pools")); len(l) != 2 || l[0].Name != "main" || l[1].Name != "extra" {
				t.Errorf("got %+v", l)
			}
		})
		proves(t, api.module, "AgentPoolsClient.BeginCreateOrUpdate, count changed", []string{"R4"}, func(t *testing.T) {
			if p := finish[agentPool](t)(api.createPool(ctx, group, "pools", "extra", strings.Replace(two, "2", "3", 1), condition{})); p.Properties.Count != 3 {
				t.Errorf("got %+v", p)
			}
			c := read[managedCluster](t)(api.get(ctx, group, "pools"))
			if p := c.Properties.AgentPoolProfiles; len(p) != 2 || p[1].Count != 3 {
				t.Errorf("the cluster shows %+v", p)
			}
		})
		proves(t, api.module, "AgentPoolsClient.BeginCreateOrUpdate, another VM size refused", []string{"R4"}, func(t *testing.T) {
			_, err := api.createPool(ctx, group, "pools", "extra", strings.Replace(two, "D4s_v3", "D8s_v3", 1), condition{})
			refused(t, err, http.StatusBadRequest, "PropertyChangeNotAllowed", "vmSize", "Standard_D4s_v3")
		})
		if api.etags {
			testPoolETags(t, api, group)
		}
		proves(t, api.module, "AgentPoolsClient.BeginDelete, last System pool refused", []string{"A8"}, func(t *testing.T) {
			_, err := api.removePool(ctx, group, "pools", "main", condition{})
			refused(t, err, http.StatusConflict, "OperationNotAllowed", "System")
		})
		proves(t, api.module, "AgentPoolsClient.BeginDelete", []string{"A8"}, func(t *testing.T) {
			finish[nothing](t)(api.removePool(ctx, group, "pools", "extra", condition{}))
			_, err := api.getPool(ctx, group, "pools", "extra")
			refused(t, err, http.StatusNotFound, "ResourceNotFound")
			before := read[managedCluster](t)(api.get(ctx, group, "pools"))
			finish[nothing](t)(api.removePool(ctx, group, "pools", "extra", condition{})) // absent by now
			if after := read[managedCluster](t)(api.get(ctx, group, "pools")); after.ETag != before.ETag {
				t.Error("deleting an absent pool changed the cluster")
			}
		})
	})
}

func testPoolETags(t *testing.T, api aks, group string) {
	ctx := t.Context()
	const three, four = `{"properties": {"count": 3}}`, `{"properties": {"count": 4}}`
	current := func(t *testing.T) *string {
		t.Helper()
		p := read[agentPool](t)(api.getPool(ctx, group, "pools", "extra"))
		if p.Properties.ETag == "" {
			t.Fatal("the pool has no eTag")
		}
		return &p.Properties.ETag
	}
	proves(t, api.module, "AgentPoolsClient, IfMatch", []string{"R4"}, func(t *testing.T) {
		stale := current(t)
		finish[agentPool](t)(api.createPool(ctx, group, "pools", "extra", four, condition{ifMatch: stale}))
		_, err := api.createPool(ctx, group, "pools", "extra", three, condition{ifMatch: stale})
		refused(t, err, http.StatusPreconditionFailed, "PreconditionFailed")
		_, err = api.removePool(ctx, group, "pools", "extra", condition{ifMatch: stale})
		refused(t, err, http.StatusPreconditionFailed, "PreconditionFailed")
		_, err = api.createPool(ctx, group, "pools", "absent", three, condition{ifMatch: to.Ptr("*")})
		refused(t, err, http.StatusPreconditionFailed, "PreconditionFailed")
		finish[agentPool](t)(api.createPool(ctx, group, "pools", "extra", three, condition{ifMatch: current(t)}))
	})
	proves(t, api.module, "AgentPoolsClient, IfNoneMatch *", []string{"A8"}, func(t *testing.T) {
		_, err := api.createPool(ctx, group, "pools", "extra", three, condition{ifNoneMatch: to.Ptr("*")})
		refused(t, err, http.StatusPreconditionFailed, "PreconditionFailed")
		finish[agentPool](t)(api.createPool(ctx, group, "pools", "fresh", three, condition{ifNoneMatch: to.Ptr("*")}))
		finish[nothing](t)(api.removePool(ctx, group, "pools", "fresh", condition{}))
	})
}
