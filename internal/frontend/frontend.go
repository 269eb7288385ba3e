// Package frontend is the router in front of a workspace's web services, azureml-fe's part: it
// authenticates callers, queues and balances requests over pods, splits the traffic of
// endpoints and scales Deployments by their load. It follows routes and pods that are given to it, and
// needs no control plane while it serves.
//
// Every service has one front end among the replicas that serves it, chosen by rendezvous hashing; the others
// pass its requests on. So one queue, one count of busy pods and one scaler are all there is for a
// service, however many front ends there are.
package frontend

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthdev/berth/internal/frontend/wire"
	"github.com/berthdev/berth/internal/route"
)

// Scaler changes the replicas of a workload. It is asked about several at a time, but never twice about one.
type Scaler interface {
	Scale(ctx context.Context, workload string, replicas int) error
}

// FrontEnd routes requests. Make it with New.
type FrontEnd struct {
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics
	model   *wire.Client // to pods
	peer    *wire.Client // to other front ends
	traced  *traced
	room    *room

	services sync.Map // name to *entry; requests read it without a lock
	peers    atomic.Pointer[peers]

	mu    sync.Mutex // guards what follows, and changes of services
	pools map[string]*pool
	wake  chan struct{} // scaling looks now
}

// entry is a service as requests meet it.
type entry struct {
	route    *route.Route
	versions []*version
	tokens   *tokens
	split    *splitter
	share    *share                    // outlives the route, as requests do
	owner    atomic.Pointer[ownership] // found by the first request that needs it
}

type version struct {
	*route.Version
	pool   *pool
	series series
}

// cold is how long a request waits when there is no pod at all, if that is longer than QueueWait: a version that sleeps is
// woken by its first request.
func (v *version) cold() time.Duration {
	if v.Scale.Auto && v.Scale.Min == 0 {
		return max(v.Timeout, route.DefaultTimeout)
	}
	return 0
}

// New makes a front end without services.
func New(logger *slog.Logger) *FrontEnd {
	f := &FrontEnd{log: logger, now: time.Now, pools: map[string]*pool{}, wake: make(chan struct{}, 1), room: newRoom()}
	f.metrics = newMetrics(loads{f})
	f.peers.Store(&peers{})
	f.model = &wire.Client{DialContext: dialer.DialContext, IdleFor: podIdle}
	f.peer = &wire.Client{DialContext: dialer.DialContext, IdleFor: peerIdle}
	return f
}

const (
	// podIdle is less than the 2 s after which gunicorn, where it keeps connections at all, closes them.
	podIdle = time.Second
	// peerIdle is less than IdleTimeout of a front end's server.
	peerIdle = 90 * time.Second
)

func (f *FrontEnd) wakeScaler() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// pool returns a workload's pool, which outlives changes of routes as long as forget does not find it useless. f.mu is held.
func (f *FrontEnd) pool(workload string) *pool {
	p := f.pools[workload]
	if p == nil {
		p = newPool(f.wakeScaler)
		f.pools[workload] = p
	}
	return p
}

// forget drops a workload's pool when no route leads to it and it has no pods. Who waits there waits in vain, and has what
// they need of it. f.mu is held.
func (f *FrontEnd) forget(workload string) {
	if p := f.pools[workload]; p != nil && p.routes == 0 && p.empty() {
		delete(f.pools, workload)
	}
}

// leave is what routes led to before: other routes, or none, have taken their place. f.mu is held.
func (f *FrontEnd) leave(e *entry) {
	if e == nil {
		return
	}
	for _, v := range e.versions {
		v.pool.routes--
		f.forget(v.Workload)
	}
}

// SetRoute makes the front end follow a route.
func (f *FrontEnd) SetRoute(r *route.Route) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.service(r.Service)
	e := &entry{route: r, tokens: &tokens{verified: map[string]time.Time{}}, share: &share{}}
	if before != nil {
		e.share = before.share
	}
	for i := range r.Versions {
		v := &version{Version: &r.Versions[i], pool: f.pool(r.Versions[i].Workload)}
		v.series = series{metrics: f.metrics, service: r.Service, version: v.Name}
		v.pool.routes++
		v.pool.setLimit(v.MaxConcurrent)
		e.versions = append(e.versions, v)
	}
	e.split = newSplitter(r, e.versions)
	f.services.Store(r.Service, e)
	f.leave(before)
	f.wakeScaler()
}

// RemoveRoute forgets a service.
func (f *FrontEnd) RemoveRoute(service string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leave(f.service(service))
	f.services.Delete(service)
	f.metrics.forget(service)
}

// SetPods says which pods a workload has (true: usable), by address.
func (f *FrontEnd) SetPods(workload string, pods map[string]bool) {
	f.mu.Lock()
	f.pool(workload).setPods(pods)
	f.forget(workload)
	f.mu.Unlock()
	f.wakeScaler()
}

// Longest is how long a request that is here may take: its wait for a pod, the scoring, and a minute for a client that is
// slow. It is the most that a service of now allows.
func (f *FrontEnd) Longest() time.Duration {
	most := time.Duration(0)
	for _, e := range f.all() {
		for _, v := range e.versions {
			most = max(most, max(v.QueueWait, v.cold())+v.Timeout)
		}
	}
	return most + stall
}

// service finds a service by name.
func (f *FrontEnd) service(name string) *entry {
	v, _ := f.services.Load(name)
	e, _ := v.(*entry)
	return e
}

// all are the services by name.
func (f *FrontEnd) all() iter.Seq2[string, *entry] {
	return func(yield func(string, *entry) bool) {
		f.services.Range(func(name, v any) bool { return yield(name.(string), v.(*entry)) })
	}
}

// splitter chooses versions in proportion to their percentages, evenly spread: after n requests no version
// is more than one request away from its share.
type splitter struct {
	versions []*version
	shares   []int // add up to 100
	mu       sync.Mutex
	credit   []int
}

func newSplitter(r *route.Route, versions []*version) *splitter {
	s := &splitter{versions: versions, shares: make([]int, len(versions)), credit: make([]int, len(versions))}
	rest := 100
	for i, v := range versions {
		s.shares[i] = v.Percent
		rest -= v.Percent
	}
	if i := slices.IndexFunc(versions, func(v *version) bool { return v.Version == r.DefaultVersion() }); i >= 0 {
		s.shares[i] += rest
	}
	return s
}

func (s *splitter) next() *version {
	switch len(s.versions) {
	case 0:
		return nil
	case 1:
		return s.versions[0]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, share := range s.shares {
		s.credit[i] += share
		if share > 0 && (best < 0 || s.credit[i] > s.credit[best]) {
			best = i
		}
	}
	s.credit[best] -= 100
	return s.versions[best]
}

func (e *entry) version(name string) *version {
	for _, v := range e.versions {
		if v.Name == name {
			return v
		}
	}
	return nil
}
