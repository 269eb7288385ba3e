package attachment_test

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/internal/attachment"
	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/clustertest"
	"github.com/berthdev/berth/internal/cluster/fake"
)

const workspaces = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/"

func attached(workspace, compute string) attachment.Attachment {
	return attachment.Attachment{Installation: "inst", Workspace: workspaces + workspace, Compute: workspaces + workspace + "/computes/" + compute}
}

// newCluster is a cluster of the fake provider, which serves the Kubernetes API.
func newCluster(t *testing.T) (kubernetes.Interface, []byte, func()) {
	t.Helper()
	w := fake.NewWorld()
	t.Cleanup(w.Close)
	p := fake.New(w, fake.Options{})
	spec := clustertest.NewSpec("attach")
	clustertest.AwaitReady(t, p, spec)
	k, err := p.Credentials(t.Context(), spec.ID, cluster.Handle{}, cluster.RoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	return clustertest.Client(t, p, spec.ID, cluster.RoleAdmin), k.Data, func() { w.Vanish(spec.ID) }
}

func frontEnd() *attachment.FrontEnd {
	return &attachment.FrontEnd{Image: "registry.test/fe@sha256:1", Version: "1", Registry: []byte(`{"auths":{}}`), Replicas: 1}
}

func TestInspect_R3(t *testing.T) {
	t.Parallel()
	client, config, vanish := newCluster(t)
	found, err := attachment.Kubernetes{}.Inspect(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(found.Version, "1.") || len(found.Nodes) != len(nodes.Items) || len(found.Nodes) == 0 {
		t.Fatalf("found %+v of %d nodes", found, len(nodes.Items))
	}
	for _, n := range found.Nodes {
		if !n.Ready || n.MilliCPU < 1000 || n.MemoryMiB < 1024 || n.VMSize == "" || n.Pool == "" {
			t.Errorf("node %+v", n)
		}
	}
	vanish()
	if _, err := (attachment.Kubernetes{}).Inspect(t.Context(), config); err == nil {
		t.Error("a cluster that is gone is inspected")
	}
}

// Everything that Prepare makes is in one namespace, twice is as once, and after Remove
// nothing of it is left (A6).
func TestPrepare_A6_AttachDetachAttach(t *testing.T) {
	t.Parallel()
	client, config, _ := newCluster(t)
	a := attached("Main_WS", "c")
	ns := a.Namespace()
	before := namespaces(t, client)
	for range 2 {
		for range 2 {
			if err := (attachment.Kubernetes{}).Prepare(t.Context(), config, a, frontEnd()); err != nil {
				t.Fatal(err)
			}
		}
		namespace, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
		if err != nil || namespace.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
			t.Fatalf("namespace %+v: %v", namespace, err)
		}
		lease, err := client.CoordinationV1().Leases(ns).Get(t.Context(), "berth-attachment", metav1.GetOptions{})
		if err != nil || lease.Spec.HolderIdentity == nil || !strings.HasPrefix(*lease.Spec.HolderIdentity, "inst:") {
			t.Fatalf("lease %+v: %v", lease, err)
		}
		binding, err := client.RbacV1().RoleBindings(ns).Get(t.Context(), "azureml-fe", metav1.GetOptions{})
		if err != nil || len(binding.Subjects) != 1 || binding.RoleRef.Kind != "Role" || binding.Subjects[0].Namespace != ns {
			t.Fatalf("binding %+v: %v", binding, err)
		}
		for range 100 {
			done, err := (attachment.Kubernetes{}).Remove(t.Context(), config, a)
			if err != nil {
				t.Fatal(err)
			}
			if done {
				break
			}
		}
		if after := namespaces(t, client); after != before {
			t.Fatalf("before: %s\nafter: %s", before, after)
		}
	}
}

// Of all that is in the cluster only the front end has rights. It can neither change them nor read other namespaces.
func TestPrepare_LeastRights(t *testing.T) {
	t.Parallel()
	client, config, _ := newCluster(t)
	a := attached("ws", "c")
	if err := (attachment.Kubernetes{}).Prepare(t.Context(), config, a, frontEnd()); err != nil {
		t.Fatal(err)
	}
	roles, err := client.RbacV1().Roles(a.Namespace()).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(roles.Items) != 1 {
		t.Fatalf("the roles are %+v: %v", roles, err)
	}
	role := &roles.Items[0]
	for _, r := range role.Rules {
		for _, words := range [][]string{r.APIGroups, r.Resources, r.Verbs} {
			for _, w := range words {
				if w == "*" || strings.Contains(w, "role") || w == "bind" || w == "escalate" || w == "impersonate" || w == "pods/exec" || w == "serviceaccounts/token" {
					t.Errorf("the role grants %q: %+v", w, r)
				}
			}
		}
	}
	clusterRoles, err := client.RbacV1().ClusterRoleBindings().List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=berth"})
	if err != nil && !apierrors.IsNotFound(err) || err == nil && len(clusterRoles.Items) > 0 {
		t.Errorf("there are cluster roles: %v %v", clusterRoles, err)
	}
	// What somebody changed is repaired.
	role.Rules = []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}
	if _, err := client.RbacV1().Roles(a.Namespace()).Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := (attachment.Kubernetes{}).Prepare(t.Context(), config, a, frontEnd()); err != nil {
		t.Fatal(err)
	}
	if role, err = client.RbacV1().Roles(a.Namespace()).Get(t.Context(), role.Name, metav1.GetOptions{}); err != nil || len(role.Rules) < 2 {
		t.Errorf("the role is not repaired: %+v %v", role, err)
	}
}

// Workspaces share a cluster, each in a namespace of its own; a second compute of one workspace
// takes the first one's place, whose removal then changes nothing (A5).
func TestPrepare_A5_Holders(t *testing.T) {
	t.Parallel()
	client, config, _ := newCluster(t)
	k := attachment.Kubernetes{}
	first, second, other := attached("ws", "first"), attached("ws", "second"), attached("ws2", "first")
	for _, a := range []attachment.Attachment{first, other, second} {
		if err := k.Prepare(t.Context(), config, a, nil); err != nil {
			t.Fatal(err)
		}
	}
	if first.Namespace() == other.Namespace() || first.Namespace() != second.Namespace() {
		t.Fatalf("namespaces %s, %s, %s", first.Namespace(), second.Namespace(), other.Namespace())
	}
	if done, err := k.Remove(t.Context(), config, first); !done || err != nil {
		t.Errorf("removing what another holds: %v %v", done, err)
	}
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), second.Namespace(), metav1.GetOptions{}); err != nil {
		t.Errorf("the holder's namespace is gone: %v", err)
	}
	// Another installation never takes over: its namespace has another name, and a lease that is in
	// the way is respected.
	foreign := second
	foreign.Installation = "other"
	if foreign.Namespace() == second.Namespace() {
		t.Error("two installations share a namespace")
	}
	lease, err := client.CoordinationV1().Leases(second.Namespace()).Get(t.Context(), "berth-attachment", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stranger := "other:compute"
	lease.Spec.HolderIdentity = &stranger
	if _, err := client.CoordinationV1().Leases(second.Namespace()).Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	var held *attachment.HeldError
	if err := k.Prepare(t.Context(), config, second, nil); !errors.As(err, &held) || held.Holder != stranger {
		t.Errorf("a stranger's lease is taken: %v", err)
	}
}

// A namespace that somebody else made under our name is neither used nor deleted.
func TestForeignNamespace(t *testing.T) {
	t.Parallel()
	client, config, _ := newCluster(t)
	a := attached("ws", "c")
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.Namespace()}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := (attachment.Kubernetes{}).Prepare(t.Context(), config, a, nil); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("Prepare uses it: %v", err)
	}
	if done, err := (attachment.Kubernetes{}).Remove(t.Context(), config, a); !done || err != nil {
		t.Errorf("Remove: %v %v", done, err)
	}
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), a.Namespace(), metav1.GetOptions{}); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

// A broken kubeconfig is refused without a word of what is in it.
func TestBrokenKubeconfig(t *testing.T) {
	t.Parallel()
	for _, config := range []string{"", "SECRETTEXT", "users: [{name: a, user: {token: SECRETTEXT}}]\nclusters: 7"} {
		_, err := attachment.Kubernetes{}.Inspect(t.Context(), []byte(config))
		if err == nil || strings.Contains(err.Error(), "SECRETTEXT") {
			t.Errorf("%q: %v", config, err)
		}
	}
}

func TestNamespaceNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ws", "WS", strings.Repeat("w", 33), "a_b.c", "ünïcode", "---", strings.Repeat("ab-", 20)} {
		ns := attached(name, "c").Namespace()
		if len(ns) > 63 || strings.Trim(ns, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.HasSuffix(ns, "-") {
			t.Errorf("%q becomes %q", name, ns)
		}
	}
	if attached("ws", "c").Namespace() != attached("WS", "d").Namespace() {
		t.Error("a workspace's name has case (A2)")
	}
}

func namespaces(t *testing.T, c kubernetes.Interface) string {
	t.Helper()
	list, err := c.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range list.Items {
		names = append(names, n.Name)
	}
	return strings.Join(names, " ")
}
