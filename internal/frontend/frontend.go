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
	"log"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthdev/berth/internal/route"
)

// Scaler changes the replicas of a workload.
type Scaler interface {
	Scale(workload string, replicas int) error
}

// FrontEnd routes requests. Make it with New.
type FrontEnd struct {
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics
	model   *http.Transport // to pods
	peer    *http.Transport // to other front ends
	// proxyLog takes what proxies have to say of answers that break off.
	proxyLog *log.Logger
	traced   *traced

	services atomic.Pointer[map[string]*entry] // replaced as a whole, so that requests read it without a lock
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
}

type version struct {
	*route.Version
	pool *pool
}

// New makes a front end without services.
func New(logger *slog.Logger) *FrontEnd {
	f := &FrontEnd{log: logger, now: time.Now, pools: map[string]*pool{}, wake: make(chan struct{}, 1), metrics: newMetrics()}
	f.services.Store(&map[string]*entry{})
	f.peers.Store(&peers{})
	f.proxyLog = slog.NewLogLogger(logger.Handler(), slog.LevelWarn)
	f.model = transport()
	f.peer = transport()
	return f
}

// transport keeps a bounded number of idle connections: each takes about 18 KB, and with one to every pod of
// thousands of services they would be most of the memory.
func transport() *http.Transport {
	const idle = 1000
	return &http.Transport{
		MaxIdleConns: idle, MaxIdleConnsPerHost: idle, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
		DialContext: dialer.DialContext,
	}
}

func (f *FrontEnd) wakeScaler() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// pool returns a workload's pool, which outlives changes of routes. f.mu is held.
func (f *FrontEnd) pool(workload string) *pool {
	p := f.pools[workload]
	if p == nil {
		p = newPool(f.wakeScaler)
		f.pools[workload] = p
	}
	return p
}

// SetRoute makes the front end follow a route.
func (f *FrontEnd) SetRoute(r *route.Route) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := &entry{route: r, tokens: &tokens{verified: map[string]time.Time{}}}
	for i := range r.Versions {
		v := &version{Version: &r.Versions[i], pool: f.pool(r.Versions[i].Workload)}
		v.pool.setLimit(v.MaxConcurrent)
		e.versions = append(e.versions, v)
	}
	e.split = newSplitter(r, e.versions)
	next := maps.Clone(*f.services.Load())
	next[r.Service] = e
	f.services.Store(&next)
	f.wakeScaler()
}

// RemoveRoute forgets a service.
func (f *FrontEnd) RemoveRoute(service string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := maps.Clone(*f.services.Load())
	delete(next, service)
	f.services.Store(&next)
	f.metrics.forget(service)
}

// SetPods says which pods a workload has (true: usable), by address.
func (f *FrontEnd) SetPods(workload string, pods map[string]bool) {
	f.mu.Lock()
	p := f.pool(workload)
	f.mu.Unlock()
	p.setPods(pods)
	f.wakeScaler()
}

// service finds a service by name.
func (f *FrontEnd) service(name string) *entry { return (*f.services.Load())[name] }

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
