package local_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/clustertest"
	"github.com/berthdev/berth/internal/cluster/local"
	"github.com/berthdev/berth/internal/cluster/local/proc"
)

// TestKilledProcesses kills each of a cluster's programs in turn. Observe says at once
// that the cluster is not ready, Ensure restarts what died, and what ran in the cluster
// goes on: the same pod answers before and after.
func TestKilledProcesses(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	p := local.New(m.config)
	t.Cleanup(func() { m.cleanUp(t) })
	t.Cleanup(func() { m.showLogs(t) })
	spec := clustertest.NewSpec("creates")
	clustertest.AwaitReady(t, p, spec)
	client := clustertest.Client(t, p, spec.ID, cluster.RoleUser)
	url := runHello(t, client)
	pod := ask(t, url)

	node := cluster.NodeName(spec.ID, "agentpool", 0)
	for _, name := range []string{
		"apiserver", "etcd", "controller-manager", "scheduler", "cloud-controller",
		node + "/kubelet", node + "/containerd", node + "/proxy",
	} {
		kill(t, m, name)
		if o, err := p.Observe(t.Context(), spec.ID, cluster.Handle{}); err != nil || o.Ready || !o.Exists {
			t.Errorf("after killing %s: Observe says %+v, error %v; want that it exists and is not ready", name, o, err)
		}
		clustertest.AwaitReady(t, p, spec)
		if now := ask(t, url); now != pod {
			t.Errorf("after killing %s, %q answers instead of %q", name, now, pod)
		}
	}
}

// kill ends one program of the installation's only cluster.
func kill(t *testing.T, m machine, name string) {
	t.Helper()
	processes, err := proc.List(m.config.Installation)
	if err != nil {
		t.Fatal(err)
	}
	processes = slices.DeleteFunc(processes, func(p proc.Process) bool {
		return p.Name != name || strings.HasPrefix(p.Program, "containerd-shim")
	})
	if len(processes) != 1 {
		t.Fatalf("%d processes are %s, want 1", len(processes), name)
	}
	if err := proc.Kill(t.Context(), processes); err != nil {
		t.Fatal(err)
	}
}

func (m machine) cleanUp(t *testing.T) {
	p := local.New(m.config)
	owned, err := p.List(context.Background())
	if err != nil {
		t.Error(err)
	}
	for _, o := range owned {
		if done, err := p.Delete(context.Background(), o.ID, o.Handle); !done || err != nil {
			t.Errorf("Delete: done=%v, error %v", done, err)
		}
	}
	for _, thing := range m.leftovers(t) {
		t.Errorf("left behind: %s", thing)
	}
}

// runHello deploys the hello image behind a LoadBalancer service and returns its URL.
func runHello(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	labels := map[string]string{"app": "hello"}
	one := int32(1)
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "hello"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &one,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "hello", Image: "berth.dev/hello:1"}}},
			},
		},
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "hello"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: labels,
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	if _, err := client.AppsV1().Deployments("default").Create(t.Context(), deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var url string
	until(t, "the service to get an address", func() bool {
		s, err := client.CoreV1().Services("default").Get(t.Context(), "hello", metav1.GetOptions{})
		if err == nil && len(s.Status.LoadBalancer.Ingress) > 0 {
			url = fmt.Sprintf("http://%s/", s.Status.LoadBalancer.Ingress[0].IP)
		}
		return url != ""
	})
	return url
}

// ask waits for an answer; a restarted forwarder or a pod needs a moment.
func ask(t *testing.T, url string) (answer string) {
	t.Helper()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	until(t, "an answer at "+url, func() bool {
		response, err := client.Get(url)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		data, err := io.ReadAll(response.Body)
		answer = string(data)
		return err == nil && response.StatusCode == http.StatusOK
	})
	return answer
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// TestSecretsAreEncryptedAtRest looks for a secret's text in etcd's files.
func TestSecretsAreEncryptedAtRest(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	p := local.New(m.config)
	t.Cleanup(func() { m.cleanUp(t) })
	spec := clustertest.NewSpec("secrets")
	clustertest.AwaitReady(t, p, spec)
	client := clustertest.Client(t, p, spec.ID, cluster.RoleAdmin)
	const hidden, shown = "very-secret-text", "quite-public-text"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": hidden}}
	if _, err := client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string]string{"k": shown}}
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wal := filepath.Join(m.config.StateDir, "clusters", local.Key(m.config, spec.ID), "etcd", "member", "wal", "*.wal")
	var data string
	until(t, "etcd to write", func() bool {
		data = readAll(t, wal)
		return strings.Contains(data, shown)
	})
	if strings.Contains(data, hidden) {
		t.Error("the secret's text is in etcd's files")
	}
}

// TestRebootedMachine ends everything of a cluster but its files. Ensure brings it back
// with the same endpoint, credentials and data, and its pods run again.
func TestRebootedMachine(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	p := local.New(m.config)
	t.Cleanup(func() { m.cleanUp(t) })
	t.Cleanup(func() { m.showLogs(t) })
	spec := clustertest.NewSpec("restart")
	_, before := clustertest.AwaitReady(t, p, spec)
	client := clustertest.Client(t, p, spec.ID, cluster.RoleUser)
	url := runHello(t, client)
	ask(t, url)
	if err := local.Reboot(t.Context(), m.config, spec.ID); err != nil {
		t.Fatal(err)
	}
	if o, err := p.Observe(t.Context(), spec.ID, cluster.Handle{}); err != nil || !o.Exists || o.Ready || o.Reason == "" {
		t.Errorf("after the reboot: %+v, error %v; want that it exists and says why it is not ready", o, err)
	}
	_, after := clustertest.AwaitReady(t, p, spec)
	if after.Endpoint != before.Endpoint {
		t.Errorf("the endpoint was %s and is %s", before.Endpoint, after.Endpoint)
	}
	ask(t, url)
}
