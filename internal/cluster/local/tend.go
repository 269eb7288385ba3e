package local

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/local/proc"
)

const (
	// drainTime is how long a node's pods have to leave before the node goes anyway. A
	// disruption budget can hold them back that long and no longer.
	drainTime = 60 * time.Second
	// maxGrace bounds the time that a single pod takes to stop, in seconds.
	maxGrace = 30

	gpuResource = corev1.ResourceName("nvidia.com/gpu")
	roleLabel   = "kubernetes.io/role"
)

// completeNode sets the node's pod range, role and labels, ends a cordon of ours, and sets
// the node's GPUs as an extended resource.
func (c *localCluster) completeNode(ctx context.Context, client kubernetes.Interface, n node, seen corev1.Node) error {
	labels := cluster.NodeLabels(c.record.Location, n.Pool)
	labels[roleLabel] = cluster.RoleAgent
	pods := c.podRange(n).String()
	complete := seen.Spec.PodCIDR == pods && seen.Annotations[drainedByBerth] == ""
	for key, value := range labels {
		complete = complete && seen.Labels[key] == value
	}
	nodes := client.CoreV1().Nodes()
	if !complete {
		spec := map[string]any{"podCIDR": pods, "podCIDRs": []string{pods}}
		if seen.Annotations[drainedByBerth] != "" {
			spec["unschedulable"] = nil
		}
		metadata := map[string]any{"labels": labels, "annotations": map[string]any{drainedByBerth: nil}}
		patch := mustJSON(map[string]any{"metadata": metadata, "spec": spec})
		if _, err := nodes.Patch(ctx, n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return ignoreTransient(err)
		}
	}
	if quantity := seen.Status.Capacity[gpuResource]; int(quantity.Value()) != n.Pool.VMSize.GPUs {
		gpus := map[corev1.ResourceName]string{gpuResource: strconv.Itoa(n.Pool.VMSize.GPUs)}
		patch := mustJSON(map[string]any{"status": map[string]any{"capacity": gpus, "allocatable": gpus}})
		if _, err := nodes.Patch(ctx, n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
			return ignoreTransient(err)
		}
	}
	return nil
}

// drainedByBerth marks a cordon as ours, so that a node that is wanted again opens again
// and one that its user cordoned stays closed.
const drainedByBerth = "berth.dev/draining"

// ignoreTransient leaves to the next look what may be different then.
func ignoreTransient(err error) error {
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
		return err
	}
	return nil
}

// letGo cordons a node, evicts its pods, and removes it once they have left or its time is up.
func (c *localCluster) letGo(ctx context.Context, client kubernetes.Interface, n node) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"true"}},"spec":{"unschedulable":true}}`, drainedByBerth)
	_, err := client.CoreV1().Nodes().Patch(ctx, n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return ignoreTransient(err)
	}
	left, err := c.evict(ctx, client, n)
	if err != nil {
		return ignoreTransient(err)
	}
	if left > 0 && c.config.Now().Before(n.DrainUntil) {
		return nil
	}
	if err := c.removeNode(ctx, n); err != nil {
		return err
	}
	// The object goes last: while it is there, the node is not gone. Its pods' objects
	// follow it, collected by the controller manager.
	err = client.CoreV1().Nodes().Delete(ctx, n.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return ignoreTransient(err)
	}
	c.record.Nodes = slices.DeleteFunc(c.record.Nodes, func(r node) bool { return r.Name == n.Name })
	return c.save()
}

// evict asks every pod that can live elsewhere to leave and counts those still there.
func (c *localCluster) evict(ctx context.Context, client kubernetes.Interface, n node) (left int, err error) {
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.Name})
	if err != nil {
		return 0, err
	}
	for _, pod := range pods.Items {
		owner := metav1.GetControllerOf(&pod)
		finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if finished || owner != nil && owner.Kind == "DaemonSet" {
			continue
		}
		left++
		if pod.DeletionTimestamp != nil {
			continue
		}
		grace := int64(maxGrace)
		if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
			grace = min(grace, *own)
		}
		// A refusal because of a disruption budget is not an error: the next look asks again.
		_ = client.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
			DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: &grace},
		})
	}
	return left, nil
}

// removeNode ends a node's processes and removes its network, control group and files.
func (c *localCluster) removeNode(ctx context.Context, n node) error {
	running, err := c.processes()
	if err != nil {
		return err
	}
	running = slices.DeleteFunc(running, func(p proc.Process) bool { return !isOf(p, n) })
	if err := c.end(ctx, running, c.nodeGroup(n)); err != nil {
		return err
	}
	if err := c.network().RemoveNode(n.Index, c.podRange(n)); err != nil {
		return err
	}
	return removeAll(c.nodeRunFile(n), c.nodeFile(n))
}
