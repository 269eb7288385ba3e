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
	"log/slog"
	"maps"
	"net/http"
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
	split    splitter
}

type version struct {
	*route.Version
	pool *pool
}

// New makes a front end without services.
func New(log *slog.Logger) *FrontEnd {
	f := &FrontEnd{log: log, now: time.Now, pools: map[string]*pool{}, wake: make(chan struct{}, 1), metrics: newMetrics()}
	f.services.Store(&map[string]*entry{})
	f.peers.Store(&peers{})
	f.model = transport(1000)
	f.peer = transport(1000)
	return f
}

func transport(perHost int) *http.Transport {
	return &http.Transport{
		MaxIdleConnsPerHost: perHost, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
		DialContext: dialer.DialContext, WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10,
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
	e.split.versions = e.versions
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
	mu       sync.Mutex
	credit   []int
}

func (s *splitter) next() *version {
	if len(s.versions) == 1 {
		return s.versions[0]
	}
	if len(s.versions) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.credit == nil {
		s.credit = make([]int, len(s.versions))
	}
	rest := 100
	for _, v := range s.versions {
		rest -= v.Percent
	}
	best := -1
	for i, v := range s.versions {
		share := v.Percent
		if v.Default {
			share += rest
		}
		s.credit[i] += share
		if share > 0 && (best < 0 || s.credit[i] > s.credit[best]) {
			best = i
		}
	}
	if best < 0 {
		return nil
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
