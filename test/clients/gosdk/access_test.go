package gosdk

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
)

// TestIntercepted runs the other tests once more, as a program that knows nothing of Berth:
// berth run sets its environment, and it signs in with DefaultAzureCredential to Azure's
// public cloud.
func TestIntercepted(t *testing.T) {
	if intercepted {
		t.Skip("this is that run")
	}
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"run", "--", self, "-test.count=1", "-test.parallel=8"} // they wait more than they work
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := command(ctx, args...)
	cmd.Env = append(cmd.Env, interceptedVar+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // berth run hands it on
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	for _, module := range modules {
		record(t, module, "everything here once more through berth run: interception, Azure's public cloud, DefaultAzureCredential", []string{"P2"})
	}
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	if intercepted {
		// With these set, DefaultAzureCredential above tries EnvironmentCredential first.
		c, err := azidentity.NewEnvironmentCredential(nil)
		if err != nil {
			t.Fatal(err)
		}
		tokenWorks(t, c)
		return
	}
	proves(t, identityModule, "NewClientSecretCredential, custom cloud", []string{"P2"}, func(t *testing.T) { tokenWorks(t, berth.credential) })
	proves(t, identityModule, "NewClientSecretCredential, wrong secret refused", []string{"P2"}, func(t *testing.T) {
		options := azidentity.ClientSecretCredentialOptions{ClientOptions: berth.options.ClientOptions, DisableInstanceDiscovery: true}
		c, err := azidentity.NewClientSecretCredential(berth.tenant, berth.client, "not-the-secret", &options)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://management.azure.com/.default"}})
		if err == nil || !strings.Contains(err.Error(), "AADSTS7000215") || strings.Contains(err.Error(), "not-the-secret") {
			t.Errorf("got %v", err)
		}
	})
}

// tokenWorks gets a token that lives for a while, and uses it.
func tokenWorks(t *testing.T, c azcore.TokenCredential) {
	t.Helper()
	token, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://management.azure.com/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	if time.Until(token.ExpiresOn) < 10*time.Minute {
		t.Errorf("the token ends at %s", token.ExpiresOn)
	}
	all[nothing](t, pages(groupsClient(t, berth.subscription, c).NewListPager(nil)))
}

// forged is a credential whose tokens nobody signed.
type forged struct{}

func (forged) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "eyJhbGciOiJub25lIn0.e30.", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// TestErrors proves that what Berth refuses arrives as the SDKs' own error type.
func TestErrors(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	proves(t, resourcesModule, "*azcore.ResponseError for a subscription that is not there or malformed, and for a forged token", []string{"P2"}, func(t *testing.T) {
		_, err := groupsClient(t, "00000000-0000-0000-0000-000000000001", berth.credential).Get(ctx, "any", nil)
		refused(t, err, http.StatusNotFound, "SubscriptionNotFound")
		_, err = groupsClient(t, "not-a-guid", berth.credential).Get(ctx, "any", nil)
		refused(t, err, http.StatusBadRequest, "InvalidSubscriptionId", "not-a-guid")
		_, err = groupsClient(t, berth.subscription, forged{}).Get(ctx, "any", nil)
		refused(t, err, http.StatusUnauthorized, "InvalidAuthenticationToken")
	})
	proves(t, resourcesModule, "*azcore.ResponseError for an invalid api-version, type and ID", []string{"P2"}, func(t *testing.T) {
		client, err := armresources.NewClient(berth.subscription, berth.credential, berth.options)
		if err != nil {
			t.Fatal(err)
		}
		group := "/subscriptions/" + berth.subscription + "/resourceGroups/any"
		cluster := group + "/providers/Microsoft.ContainerService/managedClusters/any"
		for _, c := range []struct {
			id, version string
			status      int
			code        string
		}{
			{cluster, "yesterday", http.StatusBadRequest, "InvalidApiVersionParameter"},
			{cluster, "2001-01-01", http.StatusBadRequest, "NoRegisteredProviderFound"},
			{cluster, clusterVersion, http.StatusNotFound, "ResourceGroupNotFound"},
			{group + "/providers/Microsoft.ContainerService/nothings/any", clusterVersion, http.StatusNotFound, "InvalidResourceType"},
			{group + "/providers/Microsoft.Nowhere/things/any", clusterVersion, http.StatusNotFound, "InvalidResourceNamespace"},
		} {
			_, err := client.GetByID(ctx, c.id, c.version, nil)
			refused(t, err, c.status, c.code)
		}
	})
}
