// Command cluster measures real clusters made by the local provider, in the phases of
// minikube's time-to-k8s benchmark: the command returns, the API answers, the kubernetes
// and DNS services exist, an application runs, DNS answers inside it. It also measures
// attaching, a further node, deletion and memory. It needs root and an idle machine.
package main

import (
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/bench/internal/berth"
	"github.com/berthdev/berth/internal/armclient"
)

const (
	ml  = "2024-04-01"
	aks = "2026-06-01"
)

func main() {
	bin := flag.String("berth", "bin/berth", "the berth program")
	runs := flag.Int("runs", 5, "runs of each kind of cluster")
	flag.Parse()
	if err := run(*bin, *runs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type phases struct {
	names []string
	times map[string][]time.Duration
}

func (p *phases) add(name string, d time.Duration) {
	if _, known := p.times[name]; !known {
		p.names = append(p.names, name)
	}
	p.times[name] = append(p.times[name], d)
}

func (p *phases) print(title string) {
	fmt.Println(title)
	for _, n := range p.names {
		fmt.Printf("  %-44s %s\n", n, berth.Summary(p.times[n]))
	}
}

func run(bin string, runs int) (err error) {
	ctx, cancel := berth.Context(30 * time.Minute)
	defer cancel()
	home, err := berth.Home()
	if err != nil {
		return err
	}
	s, err := berth.Up(bin, home, "local")
	if err != nil {
		return err
	}
	defer func() {
		if e := s.Down(true); err == nil {
			err = e
		}
	}()
	group := "/subscriptions/" + s.Info.SubscriptionID + "/resourceGroups/bench"
	workspace := group + "/providers/Microsoft.MachineLearningServices/workspaces/ws"
	for _, path := range []string{group, workspace, workspace + "2"} {
		if _, err := s.Put(ctx, path, ml, map[string]any{"location": "westeurope"}); err != nil {
			return err
		}
	}
	for _, purpose := range []string{"DevTest", "FastProd"} {
		p := &phases{times: map[string][]time.Duration{}}
		for i := range runs {
			if err := one(ctx, s, p, workspace, fmt.Sprintf("%s-%d", strings.ToLower(purpose), i), purpose); err != nil {
				return fmt.Errorf("%s, run %d: %w", purpose, i+1, err)
			}
		}
		p.print("cluster of purpose " + purpose)
	}
	return nil
}

// one makes a cluster, measures it and deletes it.
func one(ctx context.Context, s *berth.Server, p *phases, workspace, name, purpose string) error {
	compute := workspace + "/computes/" + name
	start := time.Now()
	d, err := s.Put(ctx, compute, ml, map[string]any{"location": "westeurope", "properties": map[string]any{"computeType": "AKS", "properties": map[string]any{"clusterPurpose": purpose}}})
	if err != nil {
		return err
	}
	p.add("create: PUT to Succeeded", d)
	res, err := s.Client.Do(ctx, armclient.Request{Method: "GET", Path: compute, Version: ml})
	if err != nil {
		return err
	}
	cluster := res.Body.(map[string]any)["properties"].(map[string]any)["resourceId"].(string)
	c, err := kube(ctx, s, cluster)
	if err != nil {
		return err
	}
	if err := timeToKubernetes(ctx, c, p, start); err != nil {
		return err
	}
	marked := berth.MemoryOf(func(_ int, env []string) bool {
		for _, kv := range env {
			if kv == "BERTH_CLUSTER="+strings.ToLower(cluster) {
				return true
			}
		}
		return false
	})
	fmt.Printf("%s: memory of the whole cluster: %.0f MiB resident, %.0f MiB proportional\n", name, marked.RSS, marked.PSS)
	if d, err = s.Put(ctx, workspace+"2/computes/att-"+name, ml, map[string]any{"location": "westeurope", "properties": map[string]any{"computeType": "AKS", "resourceId": cluster, "properties": map[string]any{"clusterPurpose": purpose}}}); err != nil {
		return err
	}
	p.add("attach: PUT to Succeeded", d)
	if err := further(ctx, s, p, cluster); err != nil {
		return err
	}
	if d, err = s.Delete(ctx, workspace+"2/computes/att-"+name+"?underlyingResourceAction=Detach", ml); err != nil {
		return err
	}
	p.add("detach: DELETE to Succeeded", d)
	if d, err = s.Delete(ctx, compute+"?underlyingResourceAction=Delete", ml); err != nil {
		return err
	}
	p.add("delete: DELETE to Succeeded", d)
	return nil
}

// further adds a node to the cluster's pool.
func further(ctx context.Context, s *berth.Server, p *phases, cluster string) error {
	res, err := s.Client.Do(ctx, armclient.Request{Method: "GET", Path: cluster + "/agentPools/agentpool", Version: aks})
	if err != nil {
		return err
	}
	pool := res.Body.(map[string]any)
	props := pool["properties"].(map[string]any)
	props["count"] = props["count"].(float64) + 1
	d, err := s.Put(ctx, cluster+"/agentPools/agentpool", aks, pool)
	if err == nil {
		p.add("a further node: PUT to Succeeded (Ready)", d)
	}
	return err
}

func kube(ctx context.Context, s *berth.Server, cluster string) (*kubernetes.Clientset, error) {
	res, err := s.Client.Do(ctx, armclient.Request{Method: "POST", Path: cluster + "/listClusterAdminCredential", Version: aks})
	if err != nil {
		return nil, err
	}
	value := res.Body.(map[string]any)["kubeconfigs"].([]any)[0].(map[string]any)["value"].(string)
	data, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return nil, err
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// timeToKubernetes measures the benchmark's phases, each from the start of the command.
func timeToKubernetes(ctx context.Context, c *kubernetes.Clientset, p *phases, start time.Time) error {
	phase := func(name string, ok func() bool) error {
		for !ok() {
			if time.Since(start) > 2*time.Minute {
				return fmt.Errorf("%s: not within two minutes", name)
			}
			time.Sleep(10 * time.Millisecond)
		}
		p.add("  "+name, time.Since(start))
		return nil
	}
	exists := func(ns, name string) func() bool {
		return func() bool { _, err := c.CoreV1().Services(ns).Get(ctx, name, metav1.GetOptions{}); return err == nil }
	}
	if err := phase("API answering", func() bool { _, err := c.Discovery().ServerVersion(); return err == nil }); err != nil {
		return err
	}
	if err := phase("kubernetes service", exists("default", "kubernetes")); err != nil {
		return err
	}
	if err := phase("DNS service", exists("kube-system", "kube-dns")); err != nil {
		return err
	}
	if _, err := c.AppsV1().Deployments("default").Create(ctx, hello(), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := phase("application running", func() bool {
		d, err := c.AppsV1().Deployments("default").Get(ctx, "hello", metav1.GetOptions{})
		return err == nil && d.Status.AvailableReplicas == 1
	}); err != nil {
		return err
	}
	return phase("DNS answering", func() bool {
		e, err := c.CoreV1().Endpoints("kube-system").Get(ctx, "kube-dns", metav1.GetOptions{})
		return err == nil && len(e.Subsets) > 0 && len(e.Subsets[0].Addresses) > 0
	})
}

// hello is the application: an image that every node has.
func hello() *appsv1.Deployment {
	labels := map[string]string{"app": "hello"}
	one := int32(1)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "hello"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "hello", Image: "berth.dev/hello:1", ImagePullPolicy: corev1.PullNever}}},
			},
		},
	}
}
