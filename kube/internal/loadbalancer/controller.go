package loadbalancer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// controller keeps one forwarder per TCP port of each LoadBalancer service.
type controller struct {
	client   kubernetes.Interface
	services listers.ServiceLister
	nodes    listers.NodeLister
	synced   []cache.InformerSynced
	queue    workqueue.TypedRateLimitingInterface[string]
	prefix   netip.Prefix

	// Only the one worker uses these.
	addresses  map[string]netip.Addr           // by service
	forwarders map[string]map[int32]*forwarder // by service and port
}

func newController(client kubernetes.Interface, factory informers.SharedInformerFactory, prefix netip.Prefix) *controller {
	services, nodes := factory.Core().V1().Services(), factory.Core().V1().Nodes()
	c := &controller{
		client: client, services: services.Lister(), nodes: nodes.Lister(), prefix: prefix,
		synced:     []cache.InformerSynced{services.Informer().HasSynced, nodes.Informer().HasSynced},
		queue:      workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
		addresses:  map[string]netip.Addr{},
		forwarders: map[string]map[int32]*forwarder{},
	}
	enqueue := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			c.queue.Add(key)
		}
	}
	// The registration's handle is not needed: the informer lives as long as the controller.
	_, _ = services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, DeleteFunc: enqueue, UpdateFunc: func(_, o any) { enqueue(o) },
	})
	return c
}

func (c *controller) run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), c.synced...) {
		return
	}
	c.adoptAddresses()
	go func() {
		<-ctx.Done()
		c.queue.ShutDown()
	}()
	for {
		key, shutdown := c.queue.Get()
		if shutdown {
			break
		}
		if err := c.sync(ctx, key); err != nil {
			klog.ErrorS(err, "Service is not balanced yet", "service", key)
			c.queue.AddRateLimited(key)
		} else {
			c.queue.Forget(key)
		}
		c.queue.Done(key)
	}
	for key := range c.forwarders {
		c.release(key)
	}
}

// adoptAddresses reads back what an earlier run handed out, so that a restart changes
// no service's address.
func (c *controller) adoptAddresses() {
	services, _ := c.services.List(labels.Everything()) // a lister cannot fail
	for _, service := range services {
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			if address, err := netip.ParseAddr(ingress.IP); err == nil && c.prefix.Contains(address) {
				c.addresses[service.Namespace+"/"+service.Name] = address
			}
		}
	}
}

func (c *controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	service, err := c.services.Services(namespace).Get(name)
	switch {
	case errors.IsNotFound(err):
		c.release(key)
		return nil
	case err != nil:
		return err
	}
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer || service.DeletionTimestamp != nil {
		c.release(key)
		return c.setStatus(ctx, service, corev1.LoadBalancerStatus{})
	}
	address, err := c.addressOf(key)
	if err != nil {
		return err
	}
	status, err := c.forward(key, address, service)
	if err != nil {
		return err
	}
	return c.setStatus(ctx, service, status)
}

func (c *controller) addressOf(key string) (netip.Addr, error) {
	if address, exists := c.addresses[key]; exists {
		return address, nil
	}
	used := map[netip.Addr]bool{}
	for _, address := range c.addresses {
		used[address] = true
	}
	for address := c.prefix.Masked().Addr().Next(); c.prefix.Contains(address.Next()); address = address.Next() {
		if !used[address] {
			c.addresses[key] = address
			return address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("all addresses of %s are in use; delete a LoadBalancer service", c.prefix)
}

// forward makes the forwarders match the service's ports. Ports that are not TCP cannot
// be forwarded; the status names them.
func (c *controller) forward(key string, address netip.Addr, service *corev1.Service) (corev1.LoadBalancerStatus, error) {
	current := c.forwarders[key]
	if current == nil {
		current = map[int32]*forwarder{}
		c.forwarders[key] = current
	}
	proxied := corev1.LoadBalancerIPModeProxy
	ingress := corev1.LoadBalancerIngress{IP: address.String(), IPMode: &proxied}
	wanted := map[int32]bool{}
	for _, port := range service.Spec.Ports {
		status := corev1.PortStatus{Port: port.Port, Protocol: port.Protocol}
		if port.Protocol != corev1.ProtocolTCP || port.NodePort == 0 {
			unsupported := "OnlyTCPWithNodePort"
			status.Error = &unsupported
		} else {
			wanted[port.Port] = true
			if current[port.Port] == nil {
				f, err := listen(netip.AddrPortFrom(address, uint16(port.Port)), c.targets(port.NodePort))
				if err != nil {
					return corev1.LoadBalancerStatus{}, err
				}
				current[port.Port] = f
			}
			current[port.Port].setTargets(c.targets(port.NodePort))
		}
		ingress.Ports = append(ingress.Ports, status)
	}
	for port, f := range current {
		if !wanted[port] {
			f.close()
			delete(current, port)
		}
	}
	return corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{ingress}}, nil
}

// targets returns a function that lists a node port on every Ready node, or on all where none is: after an API server was
// away for a minute, Kubernetes takes every node for dead until its kubelet has reported. kube-proxy there finds the pods.
func (c *controller) targets(nodePort int32) func() []string {
	return func() []string {
		var ready, all []string
		nodes, _ := c.nodes.List(labels.Everything()) // a lister cannot fail
		for _, node := range nodes {
			address := internalIP(node)
			if address == "" {
				continue
			}
			target := net.JoinHostPort(address, strconv.Itoa(int(nodePort)))
			if all = append(all, target); isReady(node) {
				ready = append(ready, target)
			}
		}
		if len(ready) == 0 {
			ready = all
		}
		slices.Sort(ready)
		return ready
	}
}

func internalIP(node *corev1.Node) string {
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return address.Address
		}
	}
	return ""
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (c *controller) setStatus(ctx context.Context, service *corev1.Service, status corev1.LoadBalancerStatus) error {
	if equality.Semantic.DeepEqual(service.Status.LoadBalancer, status) {
		return nil
	}
	updated := service.DeepCopy()
	updated.Status.LoadBalancer = status
	_, err := c.client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if errors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *controller) release(key string) {
	for _, f := range c.forwarders[key] {
		f.close()
	}
	delete(c.forwarders, key)
	delete(c.addresses, key)
}
