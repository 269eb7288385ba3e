package clustertest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/internal/cluster"
)

// ensureCreates proves C1's capacity, too: nodes report what their VM size has.
func ensureCreates(t *testing.T, h Harness) {
	spec := NewSpec("creates")
	_, o := AwaitReady(t, h.Provider, spec)
	version := h.Provider.Capabilities().KubernetesVersions
	newest := version[len(version)-1]
	want := cluster.Observation{
		Exists: true, Ready: true, KubernetesVersion: newest, Endpoint: o.Endpoint,
		Nodes: []cluster.Node{{
			Name: cluster.NodeName(spec.ID, "agentpool", 0), Pool: "agentpool", VMSize: "Standard_D3_v2",
			Ready: true, MilliCPU: 4000, MemoryMiB: 14336, Version: newest,
		}},
	}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("observation (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(o.Endpoint, "https://") {
		t.Errorf("endpoint %q is not an https URL", o.Endpoint)
	}
	if diff := cmp.Diff(o, observe(t, h.Provider, spec.ID)); diff != "" {
		t.Errorf("Observe sees something else than Ensure (-Ensure +Observe):\n%s", diff)
	}
	node := theNode(t, Client(t, h.Provider, spec.ID, cluster.RoleAdmin))
	for key, want := range map[string]string{
		"agentpool": "agentpool", "kubernetes.azure.com/agentpool": "agentpool", "kubernetes.azure.com/mode": "system",
		"kubernetes.azure.com/role": "agent", "node.kubernetes.io/instance-type": "Standard_D3_v2",
		"topology.kubernetes.io/region": "westeurope", "team": "ml",
	} {
		if got := node.Labels[key]; got != want {
			t.Errorf("node label %s is %q, want %q", key, got, want)
		}
	}
	taint := corev1.Taint{Key: "sku", Value: "cpu", Effect: corev1.TaintEffectPreferNoSchedule}
	if !slices.Contains(node.Spec.Taints, taint) {
		t.Errorf("node taints %v lack %v", node.Spec.Taints, taint)
	}
}

func theNode(t *testing.T, client kubernetes.Interface) corev1.Node {
	t.Helper()
	nodes := nodesOf(t, client)
	if len(nodes) != 1 {
		t.Fatalf("the cluster has %d nodes, want 1", len(nodes))
	}
	return nodes[0]
}

func nodesOf(t *testing.T, client kubernetes.Interface) []corev1.Node {
	t.Helper()
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatalf("list nodes: %v", err)
	}
	return nodes.Items
}

func ensureIsIdempotent(t *testing.T, h Harness) {
	spec := NewSpec("idempotent")
	handle, before := AwaitReady(t, h.Provider, spec)
	node := theNode(t, Client(t, h.Provider, spec.ID, cluster.RoleAdmin))
	for range 3 {
		_, after, err := h.Provider.Ensure(t.Context(), spec, handle)
		if err != nil {
			t.Fatalf("Ensure: %v", err)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("a repeated Ensure changed the cluster (-before +after):\n%s", diff)
		}
	}
	if again := theNode(t, Client(t, h.Provider, spec.ID, cluster.RoleAdmin)); again.UID != node.UID {
		t.Error("a repeated Ensure replaced the node")
	}
}

func ensureFindsClusterWithoutHandle(t *testing.T, h Harness) {
	spec := NewSpec("nohandle")
	_, before := AwaitReady(t, h.Provider, spec)
	_, after, err := h.Provider.Ensure(t.Context(), spec, cluster.Handle{})
	if err != nil {
		t.Fatalf("Ensure without a handle: %v", err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("Ensure without a handle sees another cluster (-before +after):\n%s", diff)
	}
}

func ensureSurvivesRestart(t *testing.T, h Harness) {
	spec := NewSpec("restart")
	// Interrupted in the middle of the creation …
	if _, _, err := h.Provider.Ensure(t.Context(), spec, cluster.Handle{}); err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	second := h.Reopen(t)
	_, before := AwaitReady(t, second, spec)
	client := Client(t, second, spec.ID, cluster.RoleAdmin)
	// … and once it is done: old credentials go on working, the cluster is the same.
	third := h.Reopen(t)
	if diff := cmp.Diff(before, observe(t, third, spec.ID)); diff != "" {
		t.Errorf("a new process sees another cluster (-before +after):\n%s", diff)
	}
	theNode(t, client)
}

// ensureScales proves R4's scaling: nodes come and go, the others stay.
func ensureScales(t *testing.T, h Harness) {
	spec := NewSpec("scales")
	AwaitReady(t, h.Provider, spec)
	client := Client(t, h.Provider, spec.ID, cluster.RoleAdmin)
	first := theNode(t, client)

	spec.Pools[0].Count = 2
	spec.Pools = append(spec.Pools, cluster.Pool{
		Name: "gpu", Count: 1, Mode: "User", VMSize: cluster.VMSize{Name: "Standard_NC6", VCPUs: 6, MemoryMiB: 57344, GPUs: 1},
	})
	if !h.Provider.Capabilities().GPU {
		spec.Pools[1].VMSize = cluster.VMSize{Name: "Standard_B2s", VCPUs: 2, MemoryMiB: 4096}
	}
	_, o := AwaitReady(t, h.Provider, spec)
	type shape struct {
		name, size string
		gpus       int
	}
	var got []shape
	for _, n := range o.Nodes {
		got = append(got, shape{n.Name, n.VMSize, n.GPUs})
	}
	want := []shape{
		{cluster.NodeName(spec.ID, "agentpool", 0), "Standard_D3_v2", 0},
		{cluster.NodeName(spec.ID, "agentpool", 1), "Standard_D3_v2", 0},
		{cluster.NodeName(spec.ID, "gpu", 0), spec.Pools[1].VMSize.Name, spec.Pools[1].VMSize.GPUs},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(shape{})); diff != "" {
		t.Errorf("nodes after scaling up (-want +got):\n%s", diff)
	}

	spec.Pools = spec.Pools[:1]
	spec.Pools[0].Count = 1
	_, o = AwaitReady(t, h.Provider, spec)
	if len(o.Nodes) != 1 {
		t.Errorf("after scaling down the cluster has %d nodes, want 1", len(o.Nodes))
	}
	if last := theNode(t, client); last.UID != first.UID {
		t.Errorf("scaling replaced node %s by %s", first.Name, last.Name)
	}
}

func ensureRefusesNewVMSize(t *testing.T, h Harness) {
	spec := NewSpec("resize")
	AwaitReady(t, h.Provider, spec)
	spec.Pools[0].VMSize = cluster.VMSize{Name: "Standard_D4_v2", VCPUs: 8, MemoryMiB: 28672}
	_, _, err := h.Provider.Ensure(t.Context(), spec, cluster.Handle{})
	wantKind(t, err, cluster.KindUser)
	if node := observe(t, h.Provider, spec.ID).Nodes[0]; node.VMSize != "Standard_D3_v2" {
		t.Errorf("the node became a %s", node.VMSize)
	}
}

func wantKind(t *testing.T, err error, kind cluster.Kind) {
	t.Helper()
	var e *cluster.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("error is %#v, want a *cluster.Error of kind %d", err, kind)
	}
	if e.Code == "" || len(e.Message) < 20 {
		t.Errorf("the error has to have a code and say what to do, got %q: %q", e.Code, e.Message)
	}
}

func ensureRefusesUnknownVersion(t *testing.T, h Harness) {
	spec := NewSpec("version")
	spec.KubernetesVersion = "1.17.0"
	_, _, err := h.Provider.Ensure(t.Context(), spec, cluster.Handle{})
	wantKind(t, err, cluster.KindUser)
	if observe(t, h.Provider, spec.ID).Exists {
		t.Error("a refused cluster exists")
	}
}

func ensureObeysContext(t *testing.T, h Harness) {
	spec := NewSpec("cancelled")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := h.Provider.Ensure(ctx, spec, cluster.Handle{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Ensure with a cancelled context: error %v, want context.Canceled", err)
	}
}

func observeMissingIsNotAnError(t *testing.T, h Harness) {
	if o := observe(t, h.Provider, NewSpec("missing").ID); o.Exists {
		t.Errorf("a cluster that nobody made exists: %+v", o)
	}
	if owned, err := h.Provider.List(t.Context()); err != nil || len(owned) > 0 {
		t.Errorf("Observe left something: List says %v, error %v", owned, err)
	}
}

func deleteRemovesEverything(t *testing.T, h Harness) {
	spec := NewSpec("deleted")
	AwaitReady(t, h.Provider, spec)
	deleteCluster(t, h.Provider, spec.ID)
	if observe(t, h.Provider, spec.ID).Exists {
		t.Error("a deleted cluster exists")
	}
	// Its endpoint is not asked: without the cluster its address may be somebody else's.
	if _, err := h.Provider.Credentials(t.Context(), spec.ID, cluster.Handle{}, cluster.RoleAdmin); !errors.Is(err, cluster.ErrNotFound) {
		t.Errorf("credentials of a deleted cluster: error %v, want ErrNotFound", err)
	}
	for _, thing := range h.Leftovers(t) {
		t.Errorf("left behind: %s", thing)
	}
	// C5: the same name can be created again.
	AwaitReady(t, h.Provider, spec)
}

func deleteWorksOnHalfMadeClusters(t *testing.T, h Harness) {
	spec := NewSpec("halfmade")
	if _, _, err := h.Provider.Ensure(t.Context(), spec, cluster.Handle{}); err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	deleteCluster(t, h.Reopen(t), spec.ID)
	if observe(t, h.Provider, spec.ID).Exists {
		t.Error("a deleted cluster exists")
	}
}

func deleteMissingIsDone(t *testing.T, h Harness) {
	done, err := h.Provider.Delete(t.Context(), NewSpec("missing").ID, cluster.Handle{})
	if !done || err != nil {
		t.Errorf("Delete of what is not there: done=%v, error %v", done, err)
	}
}

func credentialsWork(t *testing.T, h Harness) {
	spec := NewSpec("credentials")
	AwaitReady(t, h.Provider, spec)
	admin := Client(t, h.Provider, spec.ID, cluster.RoleAdmin)
	user := Client(t, h.Provider, spec.ID, cluster.RoleUser)
	// Later credentials do not end earlier ones.
	kubeconfig, err := h.Provider.Credentials(t.Context(), spec.ID, cluster.Handle{}, cluster.RoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	theNode(t, admin)
	theNode(t, user)
	if left := time.Until(kubeconfig.Expires); left < 364*24*time.Hour {
		t.Errorf("credentials expire in %v, want a year or more", left)
	}

	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig.Data)
	if err != nil {
		t.Fatal(err)
	}
	anonymous, err := kubernetes.NewForConfig(rest.AnonymousClientConfig(config))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := anonymous.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) && !apierrors.IsForbidden(err) {
		t.Errorf("without credentials: error %v, want 401 or 403", err)
	}
}

func credentialsMissingIsNotFound(t *testing.T, h Harness) {
	_, err := h.Provider.Credentials(t.Context(), NewSpec("missing").ID, cluster.Handle{}, cluster.RoleAdmin)
	if !errors.Is(err, cluster.ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
}

func handleHoldsNoSecret(t *testing.T, h Harness) {
	spec := NewSpec("secrets")
	handle, _, err := h.Provider.Ensure(t.Context(), spec, cluster.Handle{})
	if err != nil {
		t.Fatal(err)
	}
	if handle.IsZero() {
		t.Error("the handle is empty")
	}
	for _, secret := range []string{"PRIVATE KEY", "token", "client-key", "LS0tLS1CRUdJTi"} {
		if bytes.Contains(handle.Data, []byte(secret)) {
			t.Errorf("the handle contains %q", secret)
		}
	}
}

func listNamesHalfMadeClusters(t *testing.T, h Harness) {
	spec := NewSpec("listed")
	if _, _, err := h.Provider.Ensure(t.Context(), spec, cluster.Handle{}); err != nil {
		t.Fatal(err)
	}
	owned, err := h.Reopen(t).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(owned) != 1 || owned[0].ID != spec.ID {
		t.Errorf("List says %v, want just %s", owned, spec.ID)
	}
}

// clustersAreSeparate proves C4's several clusters: same inner addresses, nothing shared.
func clustersAreSeparate(t *testing.T, h Harness) {
	one, two := NewSpec("one"), NewSpec("two")
	AwaitReady(t, h.Provider, one)
	AwaitReady(t, h.Provider, two)
	endpoint := observe(t, h.Provider, two.ID).Endpoint
	kubeconfig, err := h.Provider.Credentials(t.Context(), one.ID, cluster.Handle{}, cluster.RoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig.Data)
	if err != nil {
		t.Fatal(err)
	}
	config.Host = endpoint
	config.TLSClientConfig.Insecure, config.TLSClientConfig.CAData = true, nil
	intruder, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := intruder.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("one cluster's credentials at another: error %v, want 401", err)
	}
	deleteCluster(t, h.Provider, one.ID)
	if o := observe(t, h.Provider, two.ID); !o.Ready {
		t.Errorf("deleting one cluster broke the other: %+v", o)
	}
}
