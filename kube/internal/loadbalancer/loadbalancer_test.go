package loadbalancer

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

// prefix is a range of loopback addresses that nobody else uses at the time.
func prefix() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 240, byte(rand.N(256)), 0}), 24)
}

// backend is a node port's server on this machine, which stands for a node.
func backend(t *testing.T, answer string) (nodePort int32) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) }))
	t.Cleanup(server.Close)
	return int32(server.Listener.Addr().(*net.TCPAddr).Port)
}

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		},
	}
}

func service(name string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: ports},
	}
}

// runController runs a controller until the returned function is called.
func runController(t *testing.T, client kubernetes.Interface, p netip.Prefix) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(client, 0)
	c := newController(client, factory, p)
	factory.Start(ctx.Done())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
		factory.Shutdown()
	}
	t.Cleanup(stop)
	return stop
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited 20 s for %s", what)
		}
	}
}

func ingress(t *testing.T, client kubernetes.Interface, name string) *corev1.LoadBalancerIngress {
	t.Helper()
	s, err := client.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Status.LoadBalancer.Ingress) == 0 {
		return nil
	}
	return &s.Status.LoadBalancer.Ingress[0]
}

func get(address string) string {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + ":8080/")
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	data, _ := io.ReadAll(response.Body)
	return string(data)
}

func TestServiceGetsAnAddressThatAnswers(t *testing.T) {
	t.Parallel()
	p := prefix()
	tcp := corev1.ServicePort{Port: 8080, NodePort: backend(t, "one"), Protocol: corev1.ProtocolTCP}
	udp := corev1.ServicePort{Port: 53, NodePort: 30053, Protocol: corev1.ProtocolUDP}
	client := fake.NewClientset(node("ready", corev1.ConditionTrue), node("dead", corev1.ConditionFalse), service("hello", tcp, udp))
	stop := runController(t, client, p)
	until(t, "an address", func() bool { return ingress(t, client, "hello") != nil })
	got := ingress(t, client, "hello")
	if want := p.Addr().Next().String(); got.IP != want || got.IPMode == nil || *got.IPMode != corev1.LoadBalancerIPModeProxy {
		t.Errorf("ingress %+v, want %s in mode Proxy", got, want)
	}
	if len(got.Ports) != 2 || got.Ports[0].Error != nil || got.Ports[1].Error == nil {
		t.Errorf("ports %+v, want TCP without and UDP with an error", got.Ports)
	}
	until(t, "an answer", func() bool { return get(got.IP) == "one" })

	// A restart changes no address, even if it sees the services in another order.
	stop()
	if get(got.IP) != "" {
		t.Error("a stopped controller still forwards")
	}
	if _, err := client.CoreV1().Services("default").Create(t.Context(), service("another", tcp), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	runController(t, client, p)
	until(t, "the other service's address", func() bool { return ingress(t, client, "another") != nil })
	until(t, "an answer after a restart", func() bool { return get(got.IP) == "one" })
	if other := ingress(t, client, "another"); other.IP == got.IP {
		t.Errorf("two services have the address %s", got.IP)
	}

	// A service that is no longer balanced gives its address up.
	s, err := client.CoreV1().Services("default").Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Spec.Type = corev1.ServiceTypeClusterIP
	if _, err := client.CoreV1().Services("default").Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the address to be given up", func() bool { return ingress(t, client, "hello") == nil && get(got.IP) == "" })
}

// An API server that comes back after a while takes every node for dead, which is no reason to send nobody anywhere.
func TestForwardsWhereNoNodeIsReady(t *testing.T) {
	t.Parallel()
	tcp := corev1.ServicePort{Port: 8080, NodePort: backend(t, "one"), Protocol: corev1.ProtocolTCP}
	client := fake.NewClientset(node("a", corev1.ConditionUnknown), node("b", corev1.ConditionUnknown), service("hello", tcp))
	runController(t, client, prefix())
	until(t, "an address", func() bool { return ingress(t, client, "hello") != nil })
	until(t, "an answer", func() bool { return get(ingress(t, client, "hello").IP) == "one" })
}

// TestForwarderTriesTheNextTarget has one node that refuses connections.
func TestForwarderTriesTheNextTarget(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(nil)
	refusing := closed.Listener.Addr().String()
	closed.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "alive") }))
	defer server.Close()
	address := prefix().Addr().Next()
	f, err := listen(netip.AddrPortFrom(address, 8080), func() []string { return []string{refusing, server.Listener.Addr().String()} })
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	for range 4 {
		if answer := get(address.String()); answer != "alive" {
			t.Errorf("answer %q, want the living target's", answer)
		}
	}
}

func TestAddressesRunOut(t *testing.T) {
	t.Parallel()
	c := &controller{prefix: netip.MustParsePrefix("127.240.0.0/30"), addresses: map[string]netip.Addr{}}
	for _, key := range []string{"a/1", "a/2"} {
		if _, err := c.addressOf(key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := c.addressOf("a/3"); err == nil {
		t.Error("a third address came out of a range of two")
	}
	c.release("a/1")
	if _, err := c.addressOf("a/3"); err != nil {
		t.Errorf("after a release: %v", err)
	}
}

func TestOnlyLoopbackRanges(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "127.0.0.1", "10.0.0.0/24", "0.0.0.0/0"} {
		if err := run(t.Context(), "", bad); err == nil {
			t.Errorf("--addresses %q was accepted", bad)
		}
	}
}
