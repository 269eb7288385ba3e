package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/berthdev/berth/internal/route"
)

const (
	namespace = "bench"
	apiHost   = "10.77.0.1"
	apiToken  = "bench-token"
	frontIP   = "10.77.0.2"
	frontEnd  = frontIP + ":8080"
	key       = "bench-key"
	accounts  = "/run/secrets/kubernetes.io/serviceaccount"
)

// cluster is an API server with its etcd. Nothing else of Kubernetes runs: this program says which pods there are.
type cluster struct{ api *kubernetes.Clientset }

func startCluster(ctx context.Context, procs *processes, libexec string) (*cluster, error) {
	if _, err := procs.aside("etcd", filepath.Join(libexec, "etcd"), "--data-dir="+work+"/etcd", "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380"); err != nil {
		return nil, err
	}
	signing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(signing)
	if err != nil {
		return nil, err
	}
	keyFile, tokens, certs := work+"/accounts.key", work+"/tokens", work+"/apiserver"
	err = errors.Join(
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600),
		os.WriteFile(tokens, []byte(apiToken+",bench,bench,system:masters\n"), 0o600),
		os.MkdirAll(accounts, 0o755),
		os.WriteFile(accounts+"/token", []byte(apiToken), 0o600),
	)
	if err != nil {
		return nil, err
	}
	server, err := procs.aside("apiserver", filepath.Join(libexec, "berth-kube"), "apiserver", "--etcd-servers=http://127.0.0.1:2379",
		"--bind-address="+apiHost, "--advertise-address="+apiHost, "--secure-port=6443", "--cert-dir="+certs, "--token-auth-file="+tokens,
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.78.0.0/16", "--endpoint-reconciler-type=none",
		"--service-account-issuer=https://bench", "--service-account-key-file="+keyFile, "--service-account-signing-key-file="+keyFile)
	if err != nil {
		return nil, err
	}
	if err := until(ctx, "the API server's certificate", func() bool { _, err := os.Stat(certs + "/apiserver.key"); return err == nil }); err != nil {
		return nil, fmt.Errorf("%w: %s", err, server.log())
	}
	ca, err := os.ReadFile(certs + "/apiserver.crt")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(accounts+"/ca.crt", ca, 0o600); err != nil {
		return nil, err
	}
	api, err := kubernetes.NewForConfig(&rest.Config{Host: "https://" + apiHost + ":6443", BearerToken: apiToken, TLSClientConfig: rest.TLSClientConfig{CAData: ca}, QPS: -1})
	if err != nil {
		return nil, err
	}
	c := &cluster{api: api}
	if err := until(ctx, "the API server", func() bool {
		_, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
		return err == nil
	}); err != nil {
		return nil, fmt.Errorf("%w: %s", err, server.log())
	}
	// With what they show each other, a front end decides for each request whose it is.
	_, err = api.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: route.PeersSecret}, Data: map[string][]byte{route.TokenEntry: []byte("bench")},
	}, metav1.CreateOptions{})
	return c, err
}

// startFrontEnd starts azureml-fe as a cluster does.
func (c *cluster) startFrontEnd(ctx context.Context, procs *processes, libexec string) (*process, error) {
	p, err := procs.apart("azureml-fe", []string{"GOMEMLIMIT=" + strconv.Itoa(route.MemoryTarget), "POD_IP=" + frontIP, "POD_NAMESPACE=" + namespace, "KUBERNETES_SERVICE_HOST=" + apiHost, "KUBERNETES_SERVICE_PORT=6443"},
		filepath.Join(libexec, "azureml-fe"))
	if err != nil {
		return nil, err
	}
	err = until(ctx, "azureml-fe", func() bool {
		resp, err := http.Get("http://" + frontIP + ":8081/healthz/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, p.log())
	}
	return p, nil
}

func name(service int) string { return fmt.Sprintf("s%04d", service) }

// routeOf is a service with key authentication, queueing and the limits of Azure's defaults, changed as needed.
func routeOf(service int, change func(*route.Route)) *route.Route {
	r := &route.Route{
		Service: name(service), ID: name(service), Generation: 1, Auth: route.Auth{Mode: route.AuthKey, Keys: []string{route.KeySum(key), route.KeySum("secondary")}},
		Versions: []route.Version{{
			Workload: name(service), Percent: 100, Default: true, MaxConcurrent: 1, QueueWait: route.DefaultQueueWait, Timeout: route.DefaultTimeout,
			MaxBody: route.MaxBody, Scale: route.Scale{Min: 1},
		}},
	}
	if change != nil {
		change(r)
	}
	return r
}

// slice says which pods a service has.
func slice(service int, ips ...string) *discoveryv1.EndpointSlice {
	yes := true
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name(service), Labels: map[string]string{discoveryv1.LabelServiceName: name(service), route.ServiceLabel: name(service)}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}})
	}
	return s
}

// add makes a service of one pod, or none.
func (c *cluster) add(ctx context.Context, service, pods int, change func(*route.Route)) error {
	secret, err := routeOf(service, change).Secret()
	if err != nil {
		return err
	}
	replicas, labels := int32(pods), map[string]string{"app": name(service)}
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name(service), Labels: map[string]string{route.ServiceLabel: name(service)}},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "model", Image: "model"}}},
			},
		},
	}
	_, e1 := c.api.AppsV1().Deployments(namespace).Create(ctx, deployment, metav1.CreateOptions{})
	_, e2 := c.api.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice(service, podIPs(service, pods)...), metav1.CreateOptions{})
	_, e3 := c.api.CoreV1().Secrets(namespace).Create(ctx, secret, metav1.CreateOptions{})
	return errors.Join(e1, e2, e3)
}

// addMany makes services [from, to).
func (c *cluster) addMany(ctx context.Context, from, to int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := from; i < to; i++ {
		group.Go(func() error { return c.add(ctx, i, 1, nil) })
	}
	return group.Wait()
}

// url is where a service is scored.
func url(service int) string {
	return "http://" + frontEnd + "/api/v1/service/" + name(service) + "/score"
}

// ask sends one request with a key and returns the status and the pod that answered.
func ask(ctx context.Context, c *http.Client, service int, key string) (status int, pod string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url(service), nil)
	if err != nil {
		return 0, ""
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := c.Do(req)
	if err != nil {
		return 0, ""
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header.Get(podHeader)
}

// serves waits until a service answers.
func (c *cluster) serves(ctx context.Context, service int) error {
	return until(ctx, name(service), func() bool { status, _ := ask(ctx, http.DefaultClient, service, key); return status == http.StatusOK })
}
