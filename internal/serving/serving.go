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
	"maps"
	"slices"
	"strings"
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

// Apply makes the cluster have a service's workloads. It removes none and leaves the route as it is, so that callers
// notice nothing of it. It is idempotent, and takes back what others changed but for replicas of workloads that scale by
// themselves, which are the front ends', and the containers' resources, which Azure ML lets a cluster's owner change.
// Errors: see Refusal.
func (c *Cluster) Apply(ctx context.Context, workloads []Workload, written Written) error {
	for i := range workloads {
		w := &workloads[i]
		if err := write(ctx, c.api.CoreV1().Services(c.namespace), "service", w.service(), written, serviceSpec, nil); err != nil {
			return fmt.Errorf("the Kubernetes service of %s: %w", w.Name, err)
		}
		if err := write(ctx, c.api.PolicyV1().PodDisruptionBudgets(c.namespace), "budget", w.budget(), written, budgetSpec, nil); err != nil {
			return fmt.Errorf("the disruption budget of %s: %w", w.Name, err)
		}
		if err := write(ctx, c.api.AppsV1().Deployments(c.namespace), "deployment", w.deployment(), written, deploymentSpec, w.scale); err != nil {
			return fmt.Errorf("the deployment of %s: %w", w.Name, err)
		}
	}
	return nil
}

// Route has the front ends follow a route. It writes only what differs from what is there.
func (c *Cluster) Route(ctx context.Context, r *route.Route) error {
	if err := c.route(ctx, r); err != nil {
		return fmt.Errorf("the route of %s: %w", r.Service, err)
	}
	return nil
}

func (c *Cluster) route(ctx context.Context, r *route.Route) error {
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

// Prune removes the workloads of a service that are not among those to keep. No route may lead to them any more.
func (c *Cluster) Prune(ctx context.Context, service string, keep []Workload, written Written) error {
	kept := func(name string) bool {
		return slices.ContainsFunc(keep, func(w Workload) bool { return w.Name == name })
	}
	maps.DeleteFunc(written, func(key, _ string) bool {
		_, name, _ := strings.Cut(key, "/")
		return !kept(name)
	})
	return c.prune(ctx, service, kept)
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
	budgets, err := c.api.PolicyV1().PodDisruptionBudgets(c.namespace).List(ctx, selector(service))
	if err != nil {
		return err
	}
	for _, b := range budgets.Items {
		if keep(b.Name) {
			continue
		}
		err := c.api.PolicyV1().PodDisruptionBudgets(c.namespace).Delete(ctx, b.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("removing the disruption budget %s: %w", b.Name, err)
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
