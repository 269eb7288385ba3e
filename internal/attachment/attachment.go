// Package attachment puts a workspace's part into a Kubernetes cluster and takes it out
// again: a namespace, a lease that says who holds it, and the front end, whose service account has
// the rights to learn and to scale and no more. It speaks the Kubernetes API only and knows
// nothing of ARM; IDs are labels to it.
//
// The one invariant: everything is in the one namespace of the workspace, so removing that
// namespace leaves the cluster as it was (A6).
package attachment

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/internal/cluster"
)

const (
	leaseName = "berth-attachment"

	managedByLabel    = "app.kubernetes.io/managed-by"
	installationLabel = "berth.dev/installation"
	workspaceKey      = "berth.dev/workspace" // annotation: the workspace's ARM ID
)

// timeout bounds each request to a cluster, so that one that went away is noticed.
const timeout = 5 * time.Second

// Attachment says who attaches what.
type Attachment struct {
	Installation string // of Berth
	Workspace    string // ARM ID
	Compute      string // ARM ID
}

// HeldError says that another compute holds the workspace's part of the cluster.
type HeldError struct{ Holder string }

func (e *HeldError) Error() string { return "the attachment is held by " + e.Holder }

// Found is what Inspect saw.
type Found struct {
	Version string // e.g. 1.37.2
	Nodes   []cluster.Node
}

// Kubernetes attaches to real clusters.
type Kubernetes struct{}

func client(kubeconfig []byte) (*kubernetes.Clientset, error) {
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, errors.New("the cluster's kubeconfig cannot be read") // without the cause: it may quote secrets
	}
	cfg.Timeout = timeout
	cfg.QPS = -1 // a handful of requests; the default limit would only slow an attach down
	cfg.UserAgent = "berth"
	return kubernetes.NewForConfig(cfg)
}

// Inspect reads the cluster's version and nodes.
func (Kubernetes) Inspect(ctx context.Context, kubeconfig []byte) (Found, error) {
	c, err := client(kubeconfig)
	if err != nil {
		return Found{}, err
	}
	v, err := c.Discovery().ServerVersion()
	if err != nil {
		return Found{}, err
	}
	list, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return Found{}, err
	}
	f := Found{Version: strings.TrimPrefix(v.GitVersion, "v")}
	for i := range list.Items {
		f.Nodes = append(f.Nodes, node(&list.Items[i]))
	}
	return f, nil
}

func node(n *corev1.Node) cluster.Node {
	out := cluster.Node{
		Name: n.Name, Pool: n.Labels["agentpool"], VMSize: n.Labels[corev1.LabelInstanceTypeStable],
		MilliCPU: n.Status.Capacity.Cpu().MilliValue(), MemoryMiB: n.Status.Capacity.Memory().Value() >> 20,
		GPUs: int(quantity(n.Status.Capacity, "nvidia.com/gpu")), Version: strings.TrimPrefix(n.Status.NodeInfo.KubeletVersion, "v"),
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			out.Ready = c.Status == corev1.ConditionTrue
		}
	}
	return out
}

func quantityOf(text string) resource.Quantity { return resource.MustParse(text) }

func quantity(list corev1.ResourceList, name corev1.ResourceName) int64 {
	q, ok := list[name]
	if !ok {
		q = resource.Quantity{}
	}
	return q.Value()
}

var notInNames = regexp.MustCompile(`[^a-z0-9-]+`)

// Namespace is the name of a workspace's namespace: readable, and different for each
// workspace of each installation, so that workspaces can share a cluster (A5).
func (a Attachment) Namespace() string {
	name := a.Workspace[strings.LastIndexByte(a.Workspace, '/')+1:]
	name = strings.Trim(notInNames.ReplaceAllString(strings.ToLower(name), "-"), "-")
	sum := sha256.Sum256([]byte(a.Installation + "\n" + strings.ToLower(a.Workspace)))
	const room = 63 - len("azureml--") - 8
	return fmt.Sprintf("azureml-%s-%s", name[:min(room, len(name))], hex.EncodeToString(sum[:4]))
}

// holder is how a lease names its holder.
func (a Attachment) holder() string { return a.Installation + ":" + strings.ToLower(a.Compute) }

func (a Attachment) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Labels: map[string]string{managedByLabel: "berth", installationLabel: a.Installation},
		Annotations: map[string]string{workspaceKey: a.Workspace},
	}
}

// owns reports whether a namespace was made by this installation's Prepare.
func (a Attachment) owns(ns *corev1.Namespace) bool {
	return ns.Labels[installationLabel] == a.Installation
}

// Prepare puts the workspace's part into the cluster, with its front end unless f is nil. It is idempotent
// and repairs what was changed. Errors: *HeldError when another compute holds it.
func (Kubernetes) Prepare(ctx context.Context, kubeconfig []byte, a Attachment, f *FrontEnd) error {
	c, err := client(kubeconfig)
	if err != nil {
		return err
	}
	ns := a.Namespace()
	namespace := &corev1.Namespace{ObjectMeta: a.meta(ns)}
	// Model pods run under the strictest standard; a namespace that asks for it refuses others.
	namespace.Labels["pod-security.kubernetes.io/enforce"] = "restricted"
	_, err = c.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		found, err := c.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("reading the namespace %s: %w", ns, err)
		}
		if !a.owns(found) {
			return fmt.Errorf("the namespace %s is in the way: it is not Berth's. Delete it, then attach again", ns)
		}
	} else if err != nil {
		return fmt.Errorf("creating the namespace %s: %w", ns, err)
	}
	if err := hold(ctx, c, ns, a); err != nil {
		return err
	}
	if f == nil {
		return nil
	}
	return a.install(ctx, c, f)
}

// hold takes the lease, or finds who has it.
func hold(ctx context.Context, c *kubernetes.Clientset, ns string, a Attachment) error {
	mine := a.holder()
	now := metav1.NewMicroTime(time.Now())
	lease := &coordinationv1.Lease{ObjectMeta: a.meta(leaseName), Spec: coordinationv1.LeaseSpec{HolderIdentity: &mine, AcquireTime: &now}}
	leases := c.CoordinationV1().Leases(ns)
	_, err := leases.Create(ctx, lease, metav1.CreateOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("taking the lease: %w", err)
	}
	have, err := leases.Get(ctx, leaseName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the lease: %w", err)
	}
	if h := have.Spec.HolderIdentity; h != nil && *h != "" && *h != mine {
		// Berth's own store decides which compute of a workspace holds a cluster; a lease left by an
		// earlier one of this installation is taken over.
		if !strings.HasPrefix(*h, a.Installation+":") {
			return &HeldError{Holder: *h}
		}
	} else if h != nil && *h == mine {
		return nil
	}
	have.Spec.HolderIdentity, have.Spec.AcquireTime = &mine, &now
	if _, err := leases.Update(ctx, have, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("taking the lease over: %w", err)
	}
	return nil
}

// Remove takes the workspace's part out of the cluster, if the compute still holds it. It
// returns done=false while the namespace is on its way out.
func (Kubernetes) Remove(ctx context.Context, kubeconfig []byte, a Attachment) (done bool, err error) {
	c, err := client(kubeconfig)
	if err != nil {
		return false, err
	}
	ns := a.Namespace()
	lease, err := c.CoordinationV1().Leases(ns).Get(ctx, leaseName, metav1.GetOptions{})
	if err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != a.holder() {
		return true, nil // a later attachment took it over; it is not ours to remove
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("reading the lease: %w", err)
	}
	found, err := c.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the namespace %s: %w", ns, err)
	}
	if !a.owns(found) {
		return true, nil
	}
	if found.DeletionTimestamp != nil {
		return false, nil
	}
	err = c.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return false, fmt.Errorf("deleting the namespace %s: %w", ns, err)
	}
	return apierrors.IsNotFound(err), nil
}
