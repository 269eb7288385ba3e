package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/local/network"
)

const (
	// stepTime is how long one Ensure waits for progress, and look how often it looks.
	stepTime = 2 * time.Second
	look     = 50 * time.Millisecond
)

// Reasons of a cluster that is not Ready.
const (
	reasonStarting = "WaitingForAPIServer"
	reasonProcess  = "ProcessNotRunning"
	reasonNodes    = "WaitingForNodes"
	reasonDraining = "RemovingNodes"
	reasonDNS      = "WaitingForDNS"
)

// converge works on what needs the API server until the cluster is ready or the step's
// time is over.
func (c *localCluster) converge(ctx context.Context) (cluster.Observation, error) {
	client, err := c.client()
	if err != nil {
		return cluster.Observation{Exists: true}, err
	}
	deadline := time.NewTimer(stepTime)
	defer deadline.Stop()
	tick := time.NewTicker(look)
	defer tick.Stop()
	applied := false
	for {
		o, err := c.observe(ctx)
		if err != nil || o.Ready {
			return o, err
		}
		if o.Reason != reasonStarting {
			if !applied {
				applied = c.applySystem(ctx) == nil // until then DNS does not answer, and the next look tries again
			}
			if err := c.tendNodes(ctx, client); err != nil {
				return o, err
			}
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return o, nil
		case <-ctx.Done():
			return o, ctx.Err()
		}
	}
}

// observe looks at the processes, the API server's nodes and the DNS server, in this
// order, and names the first thing that keeps the cluster from being ready.
func (c *localCluster) observe(ctx context.Context) (cluster.Observation, error) {
	o := cluster.Observation{Exists: true, Endpoint: c.endpoint(), Nodes: []cluster.Node{}}
	notReady := func(reason, format string, args ...any) (cluster.Observation, error) {
		o.Reason, o.Message = reason, fmt.Sprintf(format, args...)
		return o, ctx.Err()
	}
	client, err := c.client()
	if err != nil {
		return notReady(reasonStarting, "The cluster's certificates are not made yet.")
	}
	if !network.Connected(c.hostLink()) {
		return notReady(reasonStarting, "The cluster's network is not set up yet, or ended with the machine's restart.")
	}
	dead, err := c.deadPrograms()
	if err != nil {
		return o, err
	}
	if slices.Contains(dead, "apiserver") || slices.Contains(dead, "etcd") {
		return notReady(reasonProcess, "Not running: %s.", c.lastWords(dead))
	}
	if _, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
		return notReady(reasonStarting, "The API server at %s does not answer yet.", o.Endpoint)
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		return notReady(reasonStarting, "The API server at %s does not answer yet.", o.Endpoint)
	}
	o.KubernetesVersion = strings.TrimPrefix(version.GitVersion, "v")
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return notReady(reasonStarting, "The API server at %s does not list nodes yet.", o.Endpoint)
	}
	for _, n := range nodes.Items {
		o.Nodes = append(o.Nodes, observeNode(n, dead))
	}
	slices.SortFunc(o.Nodes, func(a, b cluster.Node) int { return strings.Compare(a.Name, b.Name) })

	var waiting, draining []string
	for _, n := range c.record.Nodes {
		i := slices.IndexFunc(o.Nodes, func(seen cluster.Node) bool { return seen.Name == n.Name })
		switch {
		case !n.DrainUntil.IsZero():
			draining = append(draining, n.Name)
		case i < 0 || !o.Nodes[i].Ready || o.Nodes[i].GPUs != n.Pool.VMSize.GPUs:
			waiting = append(waiting, n.Name)
		}
	}
	switch {
	case len(draining) > 0:
		return notReady(reasonDraining, "Pods are leaving %s.", strings.Join(draining, ", "))
	case len(dead) > 0:
		return notReady(reasonProcess, "Not running: %s.", c.lastWords(dead))
	case len(waiting) > 0:
		return notReady(reasonNodes, "Not ready yet: %s.", strings.Join(waiting, ", "))
	}
	if err := c.askDNS(ctx); err != nil {
		return notReady(reasonDNS, "The cluster's DNS server does not answer yet: %v.", err)
	}
	o.Ready = true
	return o, nil
}

// deadPrograms names the programs that should run and do not.
func (c *localCluster) deadPrograms() ([]string, error) {
	running, err := c.processes()
	if err != nil {
		return nil, err
	}
	programs := c.controlPlane()
	for _, n := range c.record.Nodes {
		programs = append(programs, c.nodePrograms(n)...)
	}
	var dead []string
	for _, p := range programs {
		if _, found := p.find(running); !found {
			dead = append(dead, p.Name)
		}
	}
	return dead, nil
}

// lastWords names dead programs and the last line that each wrote: a program that ends
// again and again says there why.
func (c *localCluster) lastWords(dead []string) string {
	var all []string
	for _, name := range dead {
		data, _ := os.ReadFile(c.logFile(name)) // without a log, the name has to do
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		if last := lines[len(lines)-1]; last != "" {
			name += " (" + last + ")"
		}
		all = append(all, name)
	}
	return strings.Join(all, ", ")
}

// observeNode reads a Node object. The API server notices after most of a minute that a
// kubelet is gone; the list of processes says it at once.
func observeNode(n corev1.Node, dead []string) cluster.Node {
	ready := slices.ContainsFunc(n.Status.Conditions, func(condition corev1.NodeCondition) bool {
		return condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
	})
	if slices.ContainsFunc(dead, func(name string) bool { return strings.HasPrefix(name, n.Name+"/") }) {
		ready = false
	}
	gpus := n.Status.Capacity[gpuResource]
	return cluster.Node{
		Name: n.Name, Pool: n.Labels[cluster.LabelAgentPool], VMSize: n.Labels[cluster.LabelInstanceType], Ready: ready,
		MilliCPU:  n.Status.Capacity.Cpu().MilliValue(),
		MemoryMiB: n.Status.Capacity.Memory().Value() >> 20,
		GPUs:      int(gpus.Value()),
		Version:   strings.TrimPrefix(n.Status.NodeInfo.KubeletVersion, "v"),
	}
}

// askDNS looks the API server's service up the way a pod does: from a node, at the
// service's address. So it proves kube-proxy, too. A cluster without nodes has no DNS.
func (c *localCluster) askDNS(ctx context.Context) error {
	if len(c.record.Nodes) == 0 {
		return nil
	}
	namespace := c.network().NodeNamespace(c.record.Nodes[0].Index)
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		err = network.Do(namespace, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(c.record.Network.DNSServiceIP, "53"))
			return err
		})
		return conn, err
	}}
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	addresses, err := resolver.LookupNetIP(ctx, "ip4", "kubernetes.default.svc.cluster.local.")
	if err != nil {
		return errors.Unwrap(err)
	}
	if want := c.services().Addr().Next(); !slices.Contains(addresses, want) {
		return fmt.Errorf("it says that the API server's service is at %v instead of %v", addresses, want)
	}
	return nil
}

// tendNodes gives Node objects what a kubelet may not or does not set, and lets nodes go.
func (c *localCluster) tendNodes(ctx context.Context, client kubernetes.Interface) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil //nolint:nilerr // the next look asks again
	}
	for _, n := range slices.Clone(c.record.Nodes) {
		i := slices.IndexFunc(nodes.Items, func(seen corev1.Node) bool { return seen.Name == n.Name })
		switch {
		case !n.DrainUntil.IsZero():
			err = c.letGo(ctx, client, n)
		case i >= 0:
			err = c.completeNode(ctx, client, n, nodes.Items[i])
		}
		if err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return nil
}
