package kube

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/berthdev/berth/internal/frontend"
	"github.com/berthdev/berth/internal/route"
)

var _ FrontEnd = (*frontend.FrontEnd)(nil)

const namespace = "azureml-ws"

// Of what client-go does with errors, only logging is left. The other is a pause between two errors of the process, which sleeps as long as the
// clock went back since the last one: minutes and hours here, where each test has a clock of its own.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	m.Run()
}

// front records what it is told.
type front struct {
	mu     sync.Mutex
	routes map[string]int64 // generation by service
	pods   map[string]map[string]bool
	peers  []string
	token  string
	scaler frontend.Scaler
	size   func(string) (int, bool)
}

func (f *front) SetRoute(r *route.Route) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes[r.Service] = r.Generation
}

func (f *front) RemoveRoute(service string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.routes, service)
}

func (f *front) SetPods(workload string, pods map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pods[workload] = pods
}

func (f *front) SetPeers(self string, addrs []string, token string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers, f.token = append([]string{self}, slices.Sorted(slices.Values(addrs))...), token
}

func (f *front) Run(ctx context.Context, s frontend.Scaler, size func(string) (int, bool)) {
	f.mu.Lock()
	f.scaler, f.size = s, size
	f.mu.Unlock()
	<-ctx.Done()
}

// world is an API server, a watcher of it and what the watcher told.
type world struct {
	*front
	api     *fake.Clientset
	watcher *Watcher
	logged  *bytes.Buffer
	down    bool
	watches []watch.Interface
	answers map[string]int // of pods to probes, by host: status
	asked   map[string]int
}

func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[r.URL.Host]++
	code := w.answers[r.URL.Host]
	if code == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

// setDown makes the API server go away, or come back.
func (w *world) setDown(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	for _, i := range w.watches {
		i.Stop()
	}
	w.watches = nil
}

// selected says whether a field selector takes an object, as an API server does and the fake one does not.
func selected(o runtime.Object, by fields.Selector) bool {
	s, ok := o.(*corev1.Secret)
	return !ok || by == nil || by.Matches(fields.Set{"metadata.name": s.Name, "type": string(s.Type)})
}

// selection is a watch with a field selector.
type selection struct {
	watch.Interface
	out  chan watch.Event
	done chan struct{}
	once sync.Once
}

func newSelection(all watch.Interface, by fields.Selector) *selection {
	s := &selection{Interface: all, out: make(chan watch.Event), done: make(chan struct{})}
	go func() {
		defer close(s.out)
		for e := range all.ResultChan() {
			if !selected(e.Object, by) {
				continue
			}
			select {
			case s.out <- e:
			case <-s.done:
				return
			}
		}
	}()
	return s
}

func (s *selection) ResultChan() <-chan watch.Event { return s.out }

func (s *selection) Stop() { s.once.Do(func() { close(s.done); s.Interface.Stop() }) }

// watched runs a test in a bubble with a watcher that has learned what there is.
func watched(t *testing.T, objects []runtime.Object, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			front: &front{routes: map[string]int64{}, pods: map[string]map[string]bool{}}, api: fake.NewClientset(objects...),
			logged: &bytes.Buffer{}, answers: map[string]int{}, asked: map[string]int{},
		}
		w.api.PrependReactor("*", "*", func(k8stesting.Action) (bool, runtime.Object, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.down {
				return true, nil, errors.New("the API server is away")
			}
			return false, nil, nil
		})
		w.api.PrependReactor("list", "secrets", func(a k8stesting.Action) (bool, runtime.Object, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.down {
				return true, nil, errors.New("the API server is away")
			}
			o, err := w.api.Tracker().List(a.GetResource(), corev1.SchemeGroupVersion.WithKind("Secret"), a.GetNamespace())
			if list, ok := o.(*corev1.SecretList); ok {
				list.Items = slices.DeleteFunc(list.Items, func(s corev1.Secret) bool {
					return !selected(&s, a.(k8stesting.ListAction).GetListRestrictions().Fields)
				})
			}
			return true, o, err
		})
		w.api.PrependWatchReactor("*", func(a k8stesting.Action) (bool, watch.Interface, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.down {
				return true, nil, errors.New("the API server is away")
			}
			i, err := w.api.Tracker().Watch(a.GetResource(), a.GetNamespace())
			if err != nil {
				return true, nil, err
			}
			by := a.(k8stesting.WatchAction).GetWatchRestrictions().Fields
			i = newSelection(i, by)
			w.watches = append(w.watches, i)
			return true, i, nil
		})
		w.watcher = &Watcher{
			API: w.api, Namespace: namespace, Self: "10.0.0.1", Front: w.front, Log: slog.New(slog.NewTextHandler(w.logged, nil)),
			asker: &http.Client{Transport: w},
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.watcher.Run(ctx) }()
		w.settle()
		if !w.watcher.Ready() {
			t.Error("it is not ready")
		}
		test(t, w)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// settle lets the watcher learn what happened.
func (w *world) settle() {
	time.Sleep(time.Second) // of the bubble
	synctest.Wait()
}

func (w *world) wantRoutes(t *testing.T, want map[string]int64) {
	t.Helper()
	w.settle()
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := cmp.Diff(want, w.routes); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
}

func (w *world) wantPods(t *testing.T, workload string, want map[string]bool) {
	t.Helper()
	w.settle()
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := cmp.Diff(want, w.pods[workload]); d != "" {
		t.Errorf("pods of %s (-want +got):\n%s", workload, d)
	}
}

func (w *world) wantPeers(t *testing.T, token string, want ...string) {
	t.Helper()
	w.settle()
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := cmp.Diff(append([]string{"10.0.0.1:9001"}, want...), w.peers); d != "" || w.token != token {
		t.Errorf("token %q, peers (-want +got):\n%s", w.token, d)
	}
}

func secret(t *testing.T, service string, generation int64) *corev1.Secret {
	t.Helper()
	r := &route.Route{Service: service, ID: "id", Generation: generation, Auth: route.Auth{Mode: route.AuthNone}}
	s, err := r.Secret()
	if err != nil {
		t.Fatal(err)
	}
	s.Namespace = namespace
	return s
}

func meta(name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels}
}

// slice is the EndpointSlice of a web service's pods.
func slice(name, workload string, pods ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: meta(name, map[string]string{discoveryv1.LabelServiceName: workload, route.ServiceLabel: "iris"}), Endpoints: pods,
	}
}

// pod is one of an EndpointSlice. Kubernetes reports the pods of such a Service as ready from the beginning.
func pod(ip string, serving, terminating bool) discoveryv1.Endpoint {
	ready := true
	return discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}}
}

func (w *world) put(t *testing.T, o runtime.Object) {
	t.Helper()
	var err error
	switch o := o.(type) {
	case *corev1.Secret:
		if _, err = w.api.CoreV1().Secrets(o.Namespace).Update(t.Context(), o, metav1.UpdateOptions{}); err != nil {
			_, err = w.api.CoreV1().Secrets(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		}
	case *discoveryv1.EndpointSlice:
		if _, err = w.api.DiscoveryV1().EndpointSlices(o.Namespace).Update(t.Context(), o, metav1.UpdateOptions{}); err != nil {
			_, err = w.api.DiscoveryV1().EndpointSlices(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	elsewhere := secret(t, "elsewhere", 1)
	elsewhere.Namespace = "azureml-other"
	opaque := secret(t, "opaque", 1)
	opaque.Type = corev1.SecretTypeOpaque
	watched(t, []runtime.Object{secret(t, "iris", 1), elsewhere, opaque}, func(t *testing.T, w *world) {
		w.wantRoutes(t, map[string]int64{"iris": 1})
		w.put(t, secret(t, "rose", 1))
		w.put(t, secret(t, "iris", 2))
		w.wantRoutes(t, map[string]int64{"iris": 2, "rose": 1})
		broken := secret(t, "iris", 3)
		broken.Data = map[string][]byte{"route.json": []byte(`{"service": "iris", "generation": 3, "auth": {"mode": "key"}}`)}
		w.put(t, broken)
		w.wantRoutes(t, map[string]int64{"iris": 2, "rose": 1})
		if got := w.logged.String(); !strings.Contains(got, "key authentication without keys") || !strings.Contains(got, "route-iris") {
			t.Errorf("logged is %s", got)
		}
		if err := w.api.CoreV1().Secrets(namespace).Delete(t.Context(), "route-rose", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.wantRoutes(t, map[string]int64{"iris": 2})
	})
}

func TestPods(t *testing.T) {
	t.Parallel()
	foreign := slice("foreign", "database", pod("10.1.0.9", true, false))
	delete(foreign.Labels, route.ServiceLabel)
	watched(t, []runtime.Object{slice("s1", "iris", pod("10.1.0.1", true, false), pod("10.1.0.2", false, false), pod("10.1.0.3", true, true)), foreign}, func(t *testing.T, w *world) {
		w.wantPods(t, "iris", map[string]bool{"10.1.0.1:5001": true, "10.1.0.2:5001": false})
		w.wantPods(t, "database", map[string]bool{})
		w.put(t, slice("s2", "iris", pod("fd00::1", true, false))) // a Service may have several slices
		w.wantPods(t, "iris", map[string]bool{"10.1.0.1:5001": true, "10.1.0.2:5001": false, "[fd00::1]:5001": true})
		w.put(t, slice("s1", "iris", pod("10.1.0.1", true, true), pod("10.1.0.2", true, false)))
		w.wantPods(t, "iris", map[string]bool{"10.1.0.2:5001": true, "[fd00::1]:5001": true})
		if err := w.api.DiscoveryV1().EndpointSlices(namespace).Delete(t.Context(), "s1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.wantPods(t, "iris", map[string]bool{"[fd00::1]:5001": true})
	})
}

// A pod that is starting is asked itself, because the kubelet and the API server take their time.
func TestPodsAreProbed(t *testing.T) {
	t.Parallel()
	watched(t, []runtime.Object{slice("s1", "iris", pod("10.1.0.1", false, false), pod("10.1.0.2", false, false))}, func(t *testing.T, w *world) {
		w.wantPods(t, "iris", map[string]bool{"10.1.0.1:5001": false, "10.1.0.2:5001": false})
		set := func(host string, code int) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.answers[host], w.asked[host] = code, 0
		}
		asked := func(host string) int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.asked[host]
		}
		set("10.1.0.1:5001", 502)
		w.wantPods(t, "iris", map[string]bool{"10.1.0.1:5001": false, "10.1.0.2:5001": false})
		set("10.1.0.1:5001", 200)
		w.wantPods(t, "iris", map[string]bool{"10.1.0.1:5001": true, "10.1.0.2:5001": false})
		if got := asked("10.1.0.1:5001"); got != 1 {
			t.Errorf("a pod that answered was asked %d times, want 1", got)
		}
		// Then Kubernetes sees it too, and from then on what Kubernetes says counts.
		w.put(t, slice("s1", "iris", pod("10.1.0.1", true, false), pod("10.1.0.2", false, false)))
		w.wantPods(t, "iris", map[string]bool{"10.1.0.1:5001": true, "10.1.0.2:5001": false})
		w.put(t, slice("s1", "iris", pod("10.1.0.1", true, false), pod("10.1.0.2", true, false)))
		w.settle()
		set("10.1.0.2:5001", 0)
		w.settle()
		if got := asked("10.1.0.2:5001"); got != 0 {
			t.Errorf("a pod that is ready was asked %d times", got)
		}
		set("10.1.0.1:5001", 0)
		w.put(t, slice("s1", "iris", pod("10.1.0.1", false, false), pod("10.1.0.2", false, false)))
		w.wantPods(t, "iris", map[string]bool{"10.1.0.1:5001": false, "10.1.0.2:5001": false})
		// Pods that are gone are asked no more.
		w.put(t, slice("s1", "iris"))
		w.wantPods(t, "iris", map[string]bool{})
		set("10.1.0.1:5001", 0)
		set("10.1.0.2:5001", 0)
		w.settle()
		if got := asked("10.1.0.1:5001") + asked("10.1.0.2:5001"); got != 0 {
			t.Errorf("pods that are gone were asked %d times", got)
		}
	})
}

func TestPeers(t *testing.T) {
	t.Parallel()
	token := func(s string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: meta(route.PeersSecret, nil), Data: map[string][]byte{"token": []byte(s)}}
	}
	peers := func(ready map[string]bool) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{ObjectMeta: meta("fe", map[string]string{discoveryv1.LabelServiceName: route.PeersService})}
		for ip, is := range ready {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &is}})
		}
		return s
	}
	watched(t, []runtime.Object{token("t1")}, func(t *testing.T, w *world) {
		const self, second, third = "10.0.0.1:9001", "10.0.0.2:9001", "10.0.0.3:9001"
		w.wantPeers(t, "t1", self) // the first one
		w.put(t, peers(map[string]bool{"10.0.0.1": false, "10.0.0.2": false}))
		w.wantPeers(t, "t1", self)
		w.put(t, peers(map[string]bool{"10.0.0.1": false, "10.0.0.2": true}))
		w.wantPeers(t, "t1", second) // until it is ready itself, the other one has all services
		w.put(t, peers(map[string]bool{"10.0.0.1": true, "10.0.0.2": true, "10.0.0.3": false}))
		w.wantPeers(t, "t1", self, second)
		w.put(t, peers(map[string]bool{"10.0.0.1": true, "10.0.0.2": true, "10.0.0.3": true}))
		w.wantPeers(t, "t1", self, second, third)
		w.put(t, peers(map[string]bool{"10.0.0.1": false, "10.0.0.2": true, "10.0.0.3": true}))
		w.wantPeers(t, "t1", second, third) // ending
		w.put(t, token("t2"))
		w.wantPeers(t, "t2", second, third)
		w.put(t, &corev1.Secret{ObjectMeta: meta("another", nil), Data: map[string][]byte{"token": []byte("wrong")}})
		w.wantPeers(t, "t2", second, third)
	})
}

// certificate is one for a name, as the Secret of a workspace.
func certificate(t *testing.T, name string) *corev1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{ObjectMeta: meta(route.CertificateSecret, nil), Data: map[string][]byte{
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	first, second := certificate(t, "one.example"), certificate(t, "two.example")
	watched(t, nil, func(t *testing.T, w *world) {
		want := func(name string) {
			t.Helper()
			w.settle()
			c, err := w.watcher.Certificate(nil)
			if name == "" {
				if err == nil || !strings.Contains(err.Error(), "no certificate") {
					t.Errorf("without a certificate: %v, %v", c, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(c.Certificate[0])
			if err != nil || leaf.DNSNames[0] != name {
				t.Errorf("the certificate is for %v (%v), want %s", leaf.DNSNames, err, name)
			}
		}
		want("")
		w.put(t, first)
		want("one.example")
		w.put(t, second) // renewed without a restart
		want("two.example")
		mixed := second.DeepCopy()
		mixed.Data["key.pem"] = first.Data["key.pem"]
		w.put(t, mixed)
		want("two.example")
		if got := w.logged.String(); !strings.Contains(got, "the last one is kept") || strings.Contains(got, "PRIVATE") {
			t.Errorf("logged is %s", got)
		}
		if err := w.api.CoreV1().Secrets(namespace).Delete(t.Context(), route.CertificateSecret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		want("")
	})
}

func TestScale(t *testing.T) {
	t.Parallel()
	two := int32(2)
	deployment := &appsv1.Deployment{ObjectMeta: meta("iris", nil), Spec: appsv1.DeploymentSpec{Replicas: &two}}
	watched(t, []runtime.Object{deployment}, func(t *testing.T, w *world) {
		if n, ok := w.size("iris"); n != 2 || !ok {
			t.Errorf("iris has %d replicas (%v), want 2", n, ok)
		}
		if _, ok := w.size("rose"); ok {
			t.Error("there are replicas of what is not there")
		}
		w.api.ClearActions()
		if err := w.scaler.Scale(t.Context(), "iris", 5); err != nil {
			t.Fatal(err)
		}
		var patches []string
		for _, a := range w.api.Actions() {
			if p, ok := a.(k8stesting.PatchAction); ok {
				patches = append(patches, p.GetNamespace()+"/"+p.GetName()+"/"+p.GetSubresource()+" "+string(p.GetPatch()))
			}
		}
		if d := cmp.Diff([]string{namespace + `/iris/scale {"spec":{"replicas":5}}`}, patches); d != "" {
			t.Errorf("patches (-want +got):\n%s", d)
		}
		w.setDown(true)
		if err := w.scaler.Scale(t.Context(), "iris", 6); err == nil || !strings.Contains(err.Error(), "setting the replicas of iris") {
			t.Errorf("scaling without an API server: %v", err)
		}
	})
}

// What was learned goes on being true while the API server is away, and the rest is learned when it is back.
func TestAPIServerIsAway(t *testing.T) {
	t.Parallel()
	watched(t, []runtime.Object{secret(t, "iris", 1), slice("s1", "iris", pod("10.1.0.1", true, false))}, func(t *testing.T, w *world) {
		w.setDown(true)
		w.settle()
		if err := w.api.Tracker().Add(secret(t, "rose", 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		w.wantRoutes(t, map[string]int64{"iris": 1})
		w.wantPods(t, "iris", map[string]bool{"10.1.0.1:5001": true})
		if !w.watcher.Ready() {
			t.Error("it is not ready any more")
		}
		w.setDown(false)
		time.Sleep(5 * time.Minute) // the longest pause between tries is shorter
		w.wantRoutes(t, map[string]int64{"iris": 1, "rose": 1})
	})
}

func TestEndsWhileTheAPIServerIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset()
		api.PrependReactor("*", "*", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("away") })
		w := &Watcher{API: api, Namespace: namespace, Self: "10.0.0.1", Front: &front{}, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		time.Sleep(time.Minute)
		if w.Ready() {
			t.Error("it is ready and knows nothing")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
