// Package kube feeds a front end from the Kubernetes API: routes from Secrets, pods from
// EndpointSlices, replicas from Deployments, its peers and its certificate. It watches its own
// namespace only. When the API server is away, what was learned last goes on being true.
package kube

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/internal/frontend"
	"github.com/berthdev/berth/internal/route"
)

// FrontEnd is what a Watcher feeds: a *frontend.FrontEnd.
type FrontEnd interface {
	SetRoute(*route.Route)
	RemoveRoute(service string)
	SetPods(workload string, pods map[string]bool)
	SetPeers(self string, addrs []string, token string)
	Run(ctx context.Context, scaler frontend.Scaler, replicas func(workload string) (int, bool))
}

// Watcher feeds one front end.
type Watcher struct {
	API       kubernetes.Interface
	Namespace string
	Self      string // this pod's address
	Front     FrontEnd
	Log       *slog.Logger

	asker       *http.Client // to pods
	certificate atomic.Pointer[tls.Certificate]
	learned     chan struct{} // closed once everything was learned
	once        sync.Once
	deployments cache.Store

	mu     sync.Mutex
	slices map[string]map[string]*discoveryv1.EndpointSlice // by service, by name
	probes map[string]map[string]*probe                     // by service, by address
	token  string
}

// probe asks a pod that is not ready yet whether it serves, more often than the kubelet does.
type probe struct {
	cancel context.CancelFunc
	passed bool
}

const (
	resync        = 0 // watches tell everything
	probeInterval = 100 * time.Millisecond
)

// Run watches until ctx ends. It returns early only when the first lists cannot be read in that time.
func (w *Watcher) Run(ctx context.Context) error {
	w.slices, w.probes = map[string]map[string]*discoveryv1.EndpointSlice{}, map[string]map[string]*probe{}
	if w.asker == nil {
		w.asker = &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	}
	factory := func(selector fields.Selector) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(w.API, resync, informers.WithNamespace(w.Namespace), informers.WithTransform(trim),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				if selector != nil {
					o.FieldSelector = selector.String()
				}
			}))
	}
	routes := factory(fields.OneTermEqualSelector("type", string(route.SecretType)))
	certificate := factory(fields.OneTermEqualSelector("metadata.name", route.CertificateSecret))
	secret := factory(fields.OneTermEqualSelector("metadata.name", route.PeersSecret))
	rest := factory(nil)
	var synced []cache.InformerSynced
	watch := func(i cache.SharedIndexInformer, set func(any), gone func(any)) error {
		h, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: set, UpdateFunc: func(_, now any) { set(now) },
			DeleteFunc: func(o any) {
				if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = t.Obj
				}
				gone(o)
			},
		})
		if err == nil {
			synced = append(synced, h.HasSynced)
		}
		return err
	}
	nothing := func(any) {}
	err := errors.Join(
		watch(routes.Core().V1().Secrets().Informer(), w.setRoute, w.removeRoute),
		watch(certificate.Core().V1().Secrets().Informer(), w.setCertificate, func(any) { w.certificate.Store(nil) }),
		watch(secret.Core().V1().Secrets().Informer(), w.setToken, nothing),
		watch(rest.Discovery().V1().EndpointSlices().Informer(), func(o any) { w.setSlice(ctx, o) }, func(o any) { w.removeSlice(ctx, o) }),
		watch(rest.Apps().V1().Deployments().Informer(), nothing, nothing),
	)
	if err != nil {
		return err
	}
	w.deployments = rest.Apps().V1().Deployments().Informer().GetStore()
	for _, f := range []informers.SharedInformerFactory{routes, certificate, secret, rest} {
		f.Start(ctx.Done())
		defer f.Shutdown()
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil // ctx ended
	}
	close(w.Learned())
	w.Front.Run(ctx, w, w.replicas)
	return nil
}

// Learned is closed once everything was learned. Before that a front end would take services for unknown.
func (w *Watcher) Learned() chan struct{} {
	w.once.Do(func() { w.learned = make(chan struct{}) })
	return w.learned
}

// Ready reports whether everything was learned once.
func (w *Watcher) Ready() bool {
	select {
	case <-w.Learned():
		return true
	default:
		return false
	}
}

// parsed is a route's Secret as it is kept: the route that the front end follows, and nothing twice.
type parsed struct {
	metav1.ObjectMeta
	route *route.Route
	err   error
}

// workload is what is kept of a Deployment: how many replicas it is set to.
type workload struct {
	metav1.ObjectMeta
	replicas *int32
}

// trim drops what front ends do not look at, so that thousands of objects stay small.
func trim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Secret:
		if o.Type != route.SecretType {
			return o, nil
		}
		r, err := route.FromSecret(o)
		return &parsed{trimmed(o.ObjectMeta), r, err}, nil
	case *discoveryv1.EndpointSlice:
		small := &discoveryv1.EndpointSlice{ObjectMeta: trimmed(o.ObjectMeta)}
		for _, e := range o.Endpoints {
			small.Endpoints = append(small.Endpoints, discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions})
		}
		return small, nil
	case *appsv1.Deployment:
		return &workload{trimmed(o.ObjectMeta), o.Spec.Replicas}, nil
	}
	return o, nil
}

// trimmed is what informers and this package need of an object's metadata.
func trimmed(m metav1.ObjectMeta) metav1.ObjectMeta {
	small := metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, ResourceVersion: m.ResourceVersion}
	for _, k := range []string{route.ServiceLabel, discoveryv1.LabelServiceName} {
		if v, ok := m.Labels[k]; ok {
			metav1.SetMetaDataLabel(&small, k, v)
		}
	}
	return small
}

func (w *Watcher) setRoute(o any) {
	p, ok := o.(*parsed)
	if !ok {
		return
	}
	if p.err != nil {
		w.Log.Error("a route breaks a rule; the last one is kept", "secret", p.Name, "error", p.err)
		return
	}
	w.Front.SetRoute(p.route)
}

func (w *Watcher) removeRoute(o any) {
	if p, ok := o.(*parsed); ok {
		w.Front.RemoveRoute(p.Labels[route.ServiceLabel])
	}
}

func (w *Watcher) setCertificate(o any) {
	s, ok := o.(*corev1.Secret)
	if !ok {
		return
	}
	c, err := tls.X509KeyPair(s.Data[route.CertificateEntry], s.Data[route.KeyEntry])
	if err != nil {
		w.Log.Error("the certificate cannot be used; the last one is kept", "secret", s.Name)
		return
	}
	w.certificate.Store(&c)
}

// Certificate is the present certificate, for tls.Config.GetCertificate.
func (w *Watcher) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := w.certificate.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("this workspace's front end has no certificate")
}

func (w *Watcher) setToken(o any) {
	if s, ok := o.(*corev1.Secret); ok {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.token = string(s.Data[route.TokenEntry])
		w.tellPeers()
	}
}

// tellPeers tells the front end who else serves. w.mu is held.
func (w *Watcher) tellPeers() {
	self := net.JoinHostPort(w.Self, strconv.Itoa(route.PeersPort))
	addrs := map[string]bool{}
	for _, s := range w.slices[route.PeersService] {
		for _, e := range s.Endpoints {
			if is(e.Conditions.Ready) {
				for _, a := range e.Addresses {
					addrs[net.JoinHostPort(a, strconv.Itoa(route.PeersPort))] = true
				}
			}
		}
	}
	if len(addrs) == 0 { // the first one, or one that knows nothing of the others
		addrs[self] = true
	}
	// Otherwise a front end that is not ready, or is ending, leaves its services to those that are: two that
	// both think a service theirs would scale it against each other.
	w.Front.SetPeers(self, slices.Collect(maps.Keys(addrs)), w.token)
}

func is(b *bool) bool { return b != nil && *b }

func (w *Watcher) setSlice(ctx context.Context, o any) {
	if s, ok := o.(*discoveryv1.EndpointSlice); ok {
		w.mu.Lock()
		defer w.mu.Unlock()
		service := s.Labels[discoveryv1.LabelServiceName]
		if w.slices[service] == nil {
			w.slices[service] = map[string]*discoveryv1.EndpointSlice{}
		}
		w.slices[service][s.Name] = s
		w.changed(ctx, service)
	}
}

func (w *Watcher) removeSlice(ctx context.Context, o any) {
	if s, ok := o.(*discoveryv1.EndpointSlice); ok {
		w.mu.Lock()
		defer w.mu.Unlock()
		service := s.Labels[discoveryv1.LabelServiceName]
		if delete(w.slices[service], s.Name); len(w.slices[service]) == 0 {
			delete(w.slices, service)
		}
		w.changed(ctx, service)
	}
}

// changed works out a workload's pods. w.mu is held.
func (w *Watcher) changed(ctx context.Context, service string) {
	if service == route.PeersService {
		w.tellPeers()
		return
	}
	pods := map[string]bool{}
	for _, s := range w.slices[service] {
		if s.Labels[route.ServiceLabel] == "" {
			continue
		}
		for _, e := range s.Endpoints {
			if is(e.Conditions.Terminating) || len(e.Addresses) == 0 {
				continue
			}
			addr := net.JoinHostPort(e.Addresses[0], strconv.Itoa(route.ContainerPort))
			pods[addr] = is(e.Conditions.Serving)
			pods[addr] = w.probe(ctx, service, addr, pods[addr])
		}
	}
	for addr, p := range w.probes[service] {
		if _, there := pods[addr]; !there {
			p.cancel()
			delete(w.probes[service], addr)
		}
	}
	if len(w.probes[service]) == 0 {
		delete(w.probes, service)
	}
	w.Front.SetPods(service, pods)
}

// probe sees to it that a pod that is not ready is asked itself, and one that is, is not. It reports whether the pod
// is ready, or said so when it was asked. w.mu is held.
func (w *Watcher) probe(ctx context.Context, service, addr string, ready bool) bool {
	p := w.probes[service][addr]
	switch {
	case ready && p != nil:
		p.cancel()
		delete(w.probes[service], addr)
	case !ready && p == nil:
		ctx, cancel := context.WithCancel(ctx)
		p = &probe{cancel: cancel}
		if w.probes[service] == nil {
			w.probes[service] = map[string]*probe{}
		}
		w.probes[service][addr] = p
		go w.ask(ctx, service, addr, p)
	}
	return ready || p.passed
}

// ask waits until a pod answers.
func (w *Watcher) ask(ctx context.Context, service, addr string, p *probe) {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
		if err != nil {
			return
		}
		resp, err := w.asker.Do(req)
		if err != nil {
			continue
		}
		_ = resp.Body.Close() // only the status counts
		if resp.StatusCode != http.StatusOK {
			continue
		}
		w.mu.Lock()
		p.passed = true
		w.changed(ctx, service)
		w.mu.Unlock()
		return
	}
}

// replicas is what a Deployment is set to.
func (w *Watcher) replicas(name string) (int, bool) {
	o, ok, err := w.deployments.GetByKey(w.Namespace + "/" + name)
	if err != nil || !ok {
		return 0, false
	}
	d, ok := o.(*workload)
	if !ok || d.replicas == nil {
		return 0, false
	}
	return int(*d.replicas), true
}

// Scale implements frontend.Scaler.
func (w *Watcher) Scale(ctx context.Context, workload string, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"replicas": replicas}})
	if err != nil {
		return err
	}
	_, err = w.API.AppsV1().Deployments(w.Namespace).Patch(ctx, workload, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "azureml-fe"}, "scale")
	if err != nil {
		return fmt.Errorf("setting the replicas of %s: %w", workload, err)
	}
	return nil
}
