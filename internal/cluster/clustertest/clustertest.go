// Package clustertest is the conformance suite of cluster providers: one subtest for
// each rule of docs/contracts/cluster-provider.md, with the rule's name.
package clustertest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/internal/cluster"
)

// patience is how long a rule waits for a real cluster on a slow, busy machine.
const patience = 2 * time.Minute

// Harness is a provider under test and what surrounds it.
type Harness struct {
	Provider cluster.Provider
	// Reopen returns a provider as a new process would make it, after this one crashed.
	Reopen func(t *testing.T) cluster.Provider
	// Leftovers names everything that the provider's clusters left on the machine. It
	// must be empty once all are deleted.
	Leftovers func(t *testing.T) []string
}

type rule struct {
	name  string
	check func(t *testing.T, h Harness)
}

var rules = []rule{
	{"EnsureCreates", ensureCreates},
	{"EnsureIsIdempotent", ensureIsIdempotent},
	{"EnsureFindsClusterWithoutHandle", ensureFindsClusterWithoutHandle},
	{"EnsureSurvivesRestart", ensureSurvivesRestart},
	{"EnsureScales", ensureScales},
	{"EnsureRefusesNewVMSize", ensureRefusesNewVMSize},
	{"EnsureRefusesUnknownVersion", ensureRefusesUnknownVersion},
	{"EnsureObeysContext", ensureObeysContext},
	{"ObserveMissingIsNotAnError", observeMissingIsNotAnError},
	{"DeleteRemovesEverything", deleteRemovesEverything},
	{"DeleteWorksOnHalfMadeClusters", deleteWorksOnHalfMadeClusters},
	{"DeleteMissingIsDone", deleteMissingIsDone},
	{"CredentialsWork", credentialsWork},
	{"CredentialsMissingIsNotFound", credentialsMissingIsNotFound},
	{"HandleHoldsNoSecret", handleHoldsNoSecret},
	{"ListNamesHalfMadeClusters", listNamesHalfMadeClusters},
	{"ClustersAreSeparate", clustersAreSeparate},
}

// Run checks every rule, each against a harness of its own.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			t.Cleanup(func() { sweep(t, h) })
			r.check(t, h)
		})
	}
}

// sweep deletes what a rule left and then insists that nothing is left.
func sweep(t *testing.T, h Harness) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	owned, err := h.Provider.List(ctx)
	if err != nil {
		t.Errorf("List during the clean-up: %v", err)
	}
	for _, o := range owned {
		deleteCluster(t, h.Provider, o.ID)
	}
	for _, thing := range h.Leftovers(t) {
		t.Errorf("left behind: %s", thing)
	}
}

// Names are the names of all clusters that the rules make.
var Names = []string{
	"creates", "idempotent", "nohandle", "restart", "scales", "resize", "version", "cancelled", "missing",
	"deleted", "halfmade", "credentials", "secrets", "listed", "one", "two",
}

// NewSpec is a one-node cluster whose ID follows from name.
func NewSpec(name string) cluster.Spec {
	return cluster.Spec{
		ID:       "/subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/conformance/providers/microsoft.containerservice/managedclusters/" + name,
		Name:     name,
		Location: "westeurope",
		FQDN:     name + "-dns.hcp.westeurope.azmk8s.io",
		Network:  cluster.Network{PodCIDR: "10.244.0.0/16", ServiceCIDR: "10.0.0.0/16", DNSServiceIP: "10.0.0.10"},
		Pools: []cluster.Pool{{
			Name: "agentpool", Count: 1, Mode: "System",
			VMSize: cluster.VMSize{Name: "Standard_D3_v2", VCPUs: 4, MemoryMiB: 14336},
			Labels: map[string]string{"team": "ml"}, Taints: []string{"sku=cpu:PreferNoSchedule"},
		}},
	}
}

// AwaitReady calls Ensure until the cluster is ready, as the reconciler does.
func AwaitReady(t *testing.T, p cluster.Provider, spec cluster.Spec) (cluster.Handle, cluster.Observation) {
	t.Helper()
	var handle cluster.Handle
	var seen cluster.Observation
	start := time.Now()
	await(t, "the cluster to be ready", func(ctx context.Context) (bool, string) {
		h, o, err := p.Ensure(ctx, spec, handle)
		if err != nil {
			t.Fatalf("Ensure: %v", err)
		}
		if o.Message != seen.Message {
			t.Logf("%s after %v: %s %s", spec.Name, time.Since(start).Round(time.Millisecond), o.Reason, o.Message)
		}
		handle, seen = h, o
		return o.Ready, fmt.Sprintf("%+v", o)
	})
	return handle, seen
}

func deleteCluster(t *testing.T, p cluster.Provider, id string) {
	t.Helper()
	await(t, "the cluster to be deleted", func(ctx context.Context) (bool, string) {
		done, err := p.Delete(ctx, id, cluster.Handle{})
		return done, fmt.Sprintf("done=%v, error %v", done, err)
	})
}

func await(t *testing.T, what string, condition func(context.Context) (ok bool, seen string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, seen := condition(ctx)
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v for %s; last seen: %s", patience, what, seen)
		}
	}
}

func observe(t *testing.T, p cluster.Provider, id string) cluster.Observation {
	t.Helper()
	o, err := p.Observe(t.Context(), id, cluster.Handle{})
	if err != nil {
		t.Fatalf("Observe: %v", err)
	}
	return o
}

// Client returns a client of the cluster for a role.
func Client(t *testing.T, p cluster.Provider, id string, role cluster.Role) kubernetes.Interface {
	t.Helper()
	kubeconfig, err := p.Credentials(t.Context(), id, cluster.Handle{}, role)
	if err != nil {
		t.Fatalf("Credentials for %s: %v", role, err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig.Data)
	if err != nil {
		t.Fatalf("read the kubeconfig: %v", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatalf("make a client: %v", err)
	}
	return client
}
