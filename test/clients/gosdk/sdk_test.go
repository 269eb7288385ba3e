package gosdk

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"sigs.k8s.io/yaml"
)

// The versions of one SDK have the same operations on types of their own. The tests are
// written once, against what follows; a version's file binds it to the version's client. Bodies
// go through the version's own models both ways, so what a model lacks does not arrive.

// each runs a test with every version of an SDK, in a resource group of its own.
func each[API any](t *testing.T, versions map[string]func(*testing.T) API, f func(t *testing.T, api API, group string)) {
	t.Parallel()
	for version, open := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test, _, _ := strings.Cut(t.Name(), "/")
			f(t, open(t), newGroup(t, strings.ToLower(strings.TrimPrefix(test, "Test"))+version))
		})
	}
}

// model reads a body as a user would fill in the SDK's model.
func model[T any](t *testing.T, body string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%T cannot hold %s: %v", v, body, err)
	}
	return v
}

// read takes what an SDK's method returns, and gives the part of it that a test looks at:
// read[managedCluster](t)(client.Get(…)).
func read[T any](t *testing.T) func(answer any, err error) T {
	return func(answer any, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		var v T
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		return v
	}
}

// operation is a runtime.Poller of any version.
type operation struct {
	wait  func(context.Context) (any, error)
	token func() (string, error)
}

// begin takes what a Begin method returns.
func begin[R any](p *runtime.Poller[R], err error) (*operation, error) {
	if err != nil {
		return nil, err
	}
	return &operation{
		wait:  func(ctx context.Context) (any, error) { return p.PollUntilDone(ctx, nil) },
		token: p.ResumeToken,
	}, nil
}

// finish waits for what begin gave, as users do: at the pace that the server asks for.
func finish[T any](t *testing.T) func(*operation, error) T {
	return func(op *operation, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return read[T](t)(op.wait(ctx))
	}
}

// nothing is the answer to a deletion.
type nothing struct{}

// listing reads all pages of a runtime.Pager of any version.
type listing func(context.Context) (pages any, err error)

func pages[R any](p *runtime.Pager[R]) listing {
	return func(ctx context.Context) (any, error) {
		out := []R{}
		for p.More() {
			page, err := p.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			out = append(out, page)
		}
		return out, nil
	}
}

// all joins the pages of a list.
func all[T any](t *testing.T, list listing) []T {
	t.Helper()
	var out []T
	for _, page := range read[[]struct{ Value []T }](t)(list(t.Context())) {
		out = append(out, page.Value...)
	}
	return out
}

// condition is what a write depends on, or the operation that it goes on with.
type condition struct {
	ifMatch, ifNoneMatch *string
	resume               string
}

// refused asserts that an SDK returned ARM's error with its status and code, and that the
// message has all the words that lead to the fix.
func refused(t *testing.T, err error, status int, code string, words ...string) {
	t.Helper()
	var e *azcore.ResponseError
	if !errors.As(err, &e) {
		t.Fatalf("got %v (%T), want a *azcore.ResponseError with %d %s", err, err, status, code)
	}
	if e.StatusCode != status || e.ErrorCode != code {
		t.Errorf("got %d %s, want %d %s: %v", e.StatusCode, e.ErrorCode, status, code, err)
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			t.Errorf("%q is not in: %v", w, err)
		}
	}
}

// kubeconfigWorks asserts that a kubeconfig parses and names a cluster, a user and both together.
func kubeconfigWorks(t *testing.T, data []byte) {
	t.Helper()
	var c struct {
		CurrentContext string `json:"current-context"`
		Clusters       []struct {
			Cluster struct {
				Server string
				CA     string `json:"certificate-authority-data"`
			}
		}
		Contexts, Users []struct{ Name string }
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Clusters) != 1 || len(c.Contexts) != 1 || len(c.Users) != 1 || c.Contexts[0].Name != c.CurrentContext ||
		!strings.HasPrefix(c.Clusters[0].Cluster.Server, "https://") || c.Clusters[0].Cluster.CA == "" {
		t.Errorf("the kubeconfig is incomplete: %d clusters, %d contexts, %d users", len(c.Clusters), len(c.Contexts), len(c.Users))
	}
}

// unique tells the names of the two runs of a test apart, which go on side by side.
func unique(name string) string {
	if intercepted {
		return "i" + name
	}
	return "c" + name
}

func groupsClient(t *testing.T, subscription string, c azcore.TokenCredential) *armresources.ResourceGroupsClient {
	t.Helper()
	client, err := armresources.NewResourceGroupsClient(subscription, c, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// newGroup makes a resource group that goes with the test.
func newGroup(t *testing.T, name string) string {
	t.Helper()
	client := groupsClient(t, berth.subscription, berth.credential)
	name = unique(name)
	if _, err := client.CreateOrUpdate(t.Context(), name, armresources.ResourceGroup{Location: to.Ptr("westeurope")}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		p, err := client.BeginDelete(ctx, name, nil)
		if err == nil {
			_, err = p.PollUntilDone(ctx, nil)
		}
		if err != nil {
			t.Errorf("deleting the group %s: %v", name, err)
		}
	})
	return name
}

// exists asks ARM for a resource by its ID, with the generic client.
func exists(t *testing.T, id, apiVersion string) bool {
	t.Helper()
	client, err := armresources.NewClient(berth.subscription, berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.GetByID(t.Context(), id, apiVersion, nil)
	var e *azcore.ResponseError
	if errors.As(err, &e) && e.StatusCode == http.StatusNotFound {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}
