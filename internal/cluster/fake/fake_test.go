package fake_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/clustertest"
	"github.com/berthdev/berth/internal/cluster/fake"
)

func newWorld(t *testing.T) *fake.World {
	w := fake.NewWorld()
	t.Cleanup(w.Close)
	return w
}

func TestConformance(t *testing.T) {
	t.Parallel()
	clustertest.Run(t, func(t *testing.T) clustertest.Harness {
		w := newWorld(t)
		return clustertest.Harness{
			Provider:  fake.New(w, fake.Options{}),
			Reopen:    func(*testing.T) cluster.Provider { return fake.New(w, fake.Options{}) },
			Leftovers: func(*testing.T) []string { return nil },
		}
	})
}

// TestObjects walks through what attaching does to a cluster (A1, A6).
func TestObjects(t *testing.T) {
	t.Parallel()
	p := fake.New(newWorld(t), fake.Options{})
	spec := clustertest.NewSpec("objects")
	clustertest.AwaitReady(t, p, spec)
	client := clustertest.Client(t, p, spec.ID, cluster.RoleAdmin)
	ctx := t.Context()

	watch, err := client.CoreV1().Namespaces().Watch(ctx, metav1.ListOptions{LabelSelector: "berth=yes"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	namespace := corev1apply.Namespace("ws").WithLabels(map[string]string{"berth": "yes"})
	for range 2 { // applying twice is one object
		if _, err := client.CoreV1().Namespaces().Apply(ctx, namespace, metav1.ApplyOptions{FieldManager: "test"}); err != nil {
			t.Fatalf("apply the namespace: %v", err)
		}
	}
	if e := <-watch.ResultChan(); e.Type != "ADDED" || e.Object.(*corev1.Namespace).Name != "ws" {
		t.Errorf("first watch event is %s of %v, want ADDED of ws", e.Type, e.Object)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "berth"}}
	if _, err := client.CoreV1().ServiceAccounts("nowhere").Create(ctx, account, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("create in a missing namespace: error %v, want not found", err)
	}
	if _, err := client.CoreV1().ServiceAccounts("ws").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ServiceAccounts("ws").Create(ctx, account, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("create twice: error %v, want already exists", err)
	}
	token, err := client.CoreV1().ServiceAccounts("ws").CreateToken(ctx, "berth", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil || token.Status.Token == "" {
		t.Errorf("token: %v, error %v", token, err)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "berth"}}
	if _, err := client.RbacV1().Roles("ws").Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	holder := "one"
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "berth"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}
	lease, err = client.CoordinationV1().Leases("ws").Create(ctx, lease, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patch := []byte(`{"metadata":{"annotations":{"a":"b"}}}`)
	if _, err := client.CoordinationV1().Leases("ws").Patch(ctx, "berth", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoordinationV1().Leases("ws").Update(ctx, lease, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update from an outdated version: error %v, want conflict", err)
	}
	if err := client.CoreV1().Namespaces().Delete(ctx, "ws", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if leases, err := client.CoordinationV1().Leases("").List(ctx, metav1.ListOptions{}); err != nil || len(leases.Items) > 0 {
		t.Errorf("after the namespace: leases %v, error %v", leases, err)
	}
}

func TestKubectlGetNodes(t *testing.T) {
	t.Parallel()
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("kubectl is not installed")
	}
	p := fake.New(newWorld(t), fake.Options{})
	spec := clustertest.NewSpec("kubectl")
	spec.Pools[0].Count = 3
	clustertest.AwaitReady(t, p, spec)
	kubeconfig, err := p.Credentials(t.Context(), spec.ID, cluster.Handle{}, cluster.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, kubeconfig.Data, 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), kubectl, "--kubeconfig", file, "--cache-dir", t.TempDir(), "get", "nodes")
	output, err := command.CombinedOutput()
	if err != nil || strings.Count(string(output), " Ready ") != 3 {
		t.Errorf("kubectl get nodes: error %v, output:\n%s", err, output)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	t.Run("failEnsureAt", func(t *testing.T) {
		t.Parallel()
		p := fake.New(newWorld(t), fake.Options{Faults: fake.Faults{FailEnsureAt: []int{2}}})
		spec := clustertest.NewSpec("fails")
		for call, wantError := range []bool{false, true, false} {
			if _, _, err := p.Ensure(t.Context(), spec, cluster.Handle{}); (err != nil) != wantError {
				t.Errorf("call %d: error %v, want an error: %v", call+1, err, wantError)
			}
		}
	})
	t.Run("blockFor", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := fake.New(fake.NewWorld(), fake.Options{Faults: fake.Faults{BlockFor: time.Hour}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, _, err := p.Ensure(ctx, clustertest.NewSpec("blocks"), cluster.Handle{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want the context's", err)
			}
		})
	})
	t.Run("readyAfter and vanishAfter", func(t *testing.T) {
		t.Parallel()
		now := time.Now()
		p := fake.New(newWorld(t), fake.Options{
			Now:    func() time.Time { return now },
			Faults: fake.Faults{ReadyAfter: time.Minute, VanishAfter: time.Hour},
		})
		spec := clustertest.NewSpec("later")
		if _, o, err := p.Ensure(t.Context(), spec, cluster.Handle{}); err != nil || o.Ready || o.Reason == "" {
			t.Errorf("at first: error %v, observation %+v", err, o)
		}
		now = now.Add(time.Minute)
		if o, _ := p.Observe(t.Context(), spec.ID, cluster.Handle{}); !o.Ready {
			t.Errorf("after a minute: %+v", o)
		}
		now = now.Add(time.Hour)
		if o, _ := p.Observe(t.Context(), spec.ID, cluster.Handle{}); o.Exists {
			t.Errorf("after an hour: %+v", o)
		}
	})
	t.Run("staleCredentials", func(t *testing.T) {
		t.Parallel()
		p := fake.New(newWorld(t), fake.Options{Faults: fake.Faults{StaleCredentials: true}})
		spec := clustertest.NewSpec("stale")
		clustertest.AwaitReady(t, p, spec)
		_, err := clustertest.Client(t, p, spec.ID, cluster.RoleAdmin).Discovery().ServerVersion()
		if !apierrors.IsUnauthorized(err) {
			t.Errorf("error %v, want 401", err)
		}
	})
	t.Run("capacity", func(t *testing.T) {
		t.Parallel()
		p := fake.New(newWorld(t), fake.Options{Capacity: func(cluster.Pool) cluster.VMSize { return cluster.VMSize{VCPUs: 1, MemoryMiB: 512} }})
		_, o := clustertest.AwaitReady(t, p, clustertest.NewSpec("small"))
		if o.Nodes[0].MilliCPU != 1000 || o.Nodes[0].MemoryMiB != 512 {
			t.Errorf("node %+v, want 1 core and 512 MiB", o.Nodes[0])
		}
	})
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	got, err := fake.ParseFaults("failEnsureAt=1+3, readyAfter=2s,staleCredentials")
	want := fake.Faults{FailEnsureAt: []int{1, 3}, ReadyAfter: 2 * time.Second, StaleCredentials: true}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"failEnsureAt=0", "readyAfter=soon", "nonsense"} {
		if _, err := fake.ParseFaults(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
