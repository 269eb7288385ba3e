// Package serving is the Kubernetes side of a web service: the Deployment and Service of each
// of its versions, the route that front ends follow, and what can be seen of them: state,
// the reason when something is wrong, logs. It speaks the Kubernetes API only and knows nothing of ARM.
//
// The one invariant: every object of a web service carries route.ServiceLabel, so what belongs to it can be
// found and removed without remembering it.
package serving

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/internal/route"
)

// timeout bounds each request to a cluster, so that one that went away is noticed.
const timeout = 5 * time.Second

// Cluster is a workspace's namespace in a cluster.
type Cluster struct {
	api       kubernetes.Interface
	namespace string
}

// Open makes a Cluster of a kubeconfig. It does no I/O.
func Open(kubeconfig []byte, namespace string) (*Cluster, error) {
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, errors.New("the cluster's kubeconfig cannot be read") // without the cause: it may quote secrets
	}
	cfg.Timeout = timeout
	cfg.QPS = -1 // a handful of requests; the default limit would only slow a deployment down
	cfg.UserAgent = "berth"
	api, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return New(api, namespace), nil
}

// New makes a Cluster of a client.
func New(api kubernetes.Interface, namespace string) *Cluster {
	return &Cluster{api: api, namespace: namespace}
}

// selector finds the objects of a web service.
func selector(service string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: labels.Set{route.ServiceLabel: service}.String()}
}

// Apply makes the cluster have a service's workloads and route, and no others of that service.
// The route goes last where something is added and first where something is removed, so that front ends
// never follow a route to nothing. It is idempotent. Replicas of autoscaled workloads are left to the front
// ends once they exist.
func (c *Cluster) Apply(ctx context.Context, service string, workloads []Workload, r *route.Route) error {
	for i := range workloads {
		if err := c.applyService(ctx, &workloads[i]); err != nil {
			return fmt.Errorf("the Kubernetes service of %s: %w", workloads[i].Name, err)
		}
		if err := c.applyDeployment(ctx, &workloads[i]); err != nil {
			return fmt.Errorf("the deployment of %s: %w", workloads[i].Name, err)
		}
	}
	if err := c.applyRoute(ctx, r); err != nil {
		return fmt.Errorf("the route of %s: %w", service, err)
	}
	return c.prune(ctx, service, func(name string) bool {
		return slices.ContainsFunc(workloads, func(w Workload) bool { return w.Name == name })
	})
}

// applyRoute writes the route if it differs from what is there.
func (c *Cluster) applyRoute(ctx context.Context, r *route.Route) error {
	want, err := r.Secret()
	if err != nil {
		return err
	}
	secrets := c.api.CoreV1().Secrets(c.namespace)
	have, err := secrets.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = secrets.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	if old, err := route.FromSecret(have); err == nil && old.Equal(r) {
		return nil
	}
	have.Labels, have.Data = want.Labels, want.Data
	_, err = secrets.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func (c *Cluster) applyService(ctx context.Context, w *Workload) error {
	services := c.api.CoreV1().Services(c.namespace)
	_, err := services.Get(ctx, w.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, w.service(), metav1.CreateOptions{})
	}
	return err
}

func (c *Cluster) applyDeployment(ctx context.Context, w *Workload) error {
	deployments := c.api.AppsV1().Deployments(c.namespace)
	want := w.deployment()
	have, err := deployments.Get(ctx, w.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = deployments.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	scaled := w.Scale.Auto
	same := have.Annotations[specAnnotation] == want.Annotations[specAnnotation] && inPlace(have) == w.InPlace
	inBounds := have.Spec.Replicas != nil && int(*have.Spec.Replicas) >= w.Scale.Min && int(*have.Spec.Replicas) <= w.Scale.Max
	if same && (scaled && inBounds || !scaled && have.Spec.Replicas != nil && *have.Spec.Replicas == *want.Spec.Replicas) {
		return nil
	}
	if scaled && have.Spec.Replicas != nil {
		n := int32(min(max(int(*have.Spec.Replicas), w.Scale.Min), w.Scale.Max))
		want.Spec.Replicas = &n
	}
	want.ResourceVersion = have.ResourceVersion
	_, err = deployments.Update(ctx, want, metav1.UpdateOptions{})
	return err
}

// inPlace reports how a Deployment replaces its pods.
func inPlace(d *appsv1.Deployment) bool {
	r := d.Spec.Strategy.RollingUpdate
	return r != nil && r.MaxSurge != nil && r.MaxSurge.IntValue() == 0
}

// Remove takes everything of a service out of the cluster. It returns done=false while
// something is left.
func (c *Cluster) Remove(ctx context.Context, service string) (done bool, err error) {
	err = c.api.CoreV1().Secrets(c.namespace).Delete(ctx, route.SecretName(service), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("removing the route: %w", err)
	}
	if err := c.prune(ctx, service, func(string) bool { return false }); err != nil {
		return false, err
	}
	pods, err := c.api.CoreV1().Pods(c.namespace).List(ctx, selector(service))
	if err != nil {
		return false, err
	}
	return len(pods.Items) == 0, nil
}

// prune removes the workloads of a service that keep does not name.
func (c *Cluster) prune(ctx context.Context, service string, keep func(name string) bool) error {
	deployments, err := c.api.AppsV1().Deployments(c.namespace).List(ctx, selector(service))
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	for _, d := range deployments.Items {
		if keep(d.Name) {
			continue
		}
		err := c.api.AppsV1().Deployments(c.namespace).Delete(ctx, d.Name, metav1.DeleteOptions{PropagationPolicy: &background})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("removing the deployment %s: %w", d.Name, err)
		}
	}
	services, err := c.api.CoreV1().Services(c.namespace).List(ctx, selector(service))
	if err != nil {
		return err
	}
	for _, s := range services.Items {
		if keep(s.Name) {
			continue
		}
		err := c.api.CoreV1().Services(c.namespace).Delete(ctx, s.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("removing the Kubernetes service %s: %w", s.Name, err)
		}
	}
	return nil
}

// rolledOut reports whether a Deployment has made all its pods anew from its present template.
func rolledOut(d *appsv1.Deployment) bool {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas >= want && d.Status.AvailableReplicas >= want && d.Status.Replicas == d.Status.UpdatedReplicas
}

// podsOf lists a workload's pods of its present template, oldest first, without those that ended for good
// (a node evicted them, say): others have taken their place.
func (c *Cluster) podsOf(ctx context.Context, d *appsv1.Deployment) ([]corev1.Pod, error) {
	list, err := c.api.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.Set(d.Spec.Selector.MatchLabels).String()})
	if err != nil {
		return nil, err
	}
	spec := d.Spec.Template.Annotations[specAnnotation]
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Annotations[specAnnotation] != spec
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return pods, nil
}
