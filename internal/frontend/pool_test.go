package frontend

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/route"
)

func TestRequestsOfOneContainerAreLimited(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 3} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris", func(r *route.Route) {
					r.Versions[0].MaxConcurrent, r.Versions[0].QueueWait = limit, time.Hour
				}))
				most := map[string]*atomic.Int32{}
				for _, addr := range []string{"a:5001", "b:5001"} {
					var now, top atomic.Int32
					most[addr] = &top
					n.listen(t, addr, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						_, _ = io.Copy(io.Discard, r.Body)
						if v := now.Add(1); v > top.Load() {
							top.Store(v)
						}
						time.Sleep(time.Second)
						now.Add(-1)
					}))
				}
				f.SetPods("iris", up("a:5001", "b:5001"))
				c := n.client(t)
				began := time.Now()
				var wg sync.WaitGroup
				for range 10 * 2 * limit {
					wg.Go(func() {
						if a := score(t, c, "iris", "x"); a.status != 200 {
							t.Errorf("answered %d %s", a.status, a.reason)
						}
					})
				}
				wg.Wait()
				if took := time.Since(began); took != 10*time.Second {
					t.Errorf("took %v, want 10s: neither more nor less at a time", took)
				}
				for addr, top := range most {
					if top.Load() != int32(limit) {
						t.Errorf("%s had up to %d requests at a time, want %d", addr, top.Load(), limit)
					}
				}
			})
		})
	}
}

func TestFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].QueueWait = time.Hour }))
		var mu sync.Mutex
		var served []string
		n.listen(t, "pod:5001", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			served = append(served, string(body))
			mu.Unlock()
			time.Sleep(time.Second)
		}))
		f.SetPods("iris", up("pod:5001"))
		c := n.client(t)
		var wg sync.WaitGroup
		var want []string
		for i := range 20 {
			name := fmt.Sprint(i)
			want = append(want, name)
			wg.Go(func() { score(t, c, "iris", name) })
			synctest.Wait()
		}
		wg.Wait()
		if !slices.Equal(served, want) {
			t.Errorf("served in the order %v", served)
		}
	})
}

func TestQueueWait(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		wait, busy time.Duration
		status     int
		reason     string
		took       time.Duration // busy and wait count from the same moment
	}{
		{"free in time", 500 * time.Millisecond, 499 * time.Millisecond, 200, "", 499 * time.Millisecond},
		{"too late", 500 * time.Millisecond, time.Second, 503, "Overloaded", 500 * time.Millisecond},
		{"no waiting", 0, time.Second, 503, "Overloaded", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].QueueWait = tt.wait }))
				n.listen(t, "pod:5001", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					if body, _ := io.ReadAll(r.Body); string(body) == "first" {
						time.Sleep(tt.busy)
					}
				}))
				f.SetPods("iris", up("pod:5001"))
				c := n.client(t)
				first := make(chan answer)
				go func() { first <- score(t, c, "iris", "first") }()
				synctest.Wait()
				a := score(t, c, "iris", "second")
				by := map[bool]string{true: "model", false: "router"}[tt.status == 200]
				a.want(t, tt.status, by, tt.reason)
				if a.took != tt.took {
					t.Errorf("took %v, want %v", a.took, tt.took)
				}
				if tt.status == 503 && a.header.Get("Retry-After") == "" {
					t.Error("there is no Retry-After")
				}
				(<-first).want(t, 200, "model", "")
			})
		})
	}
}

// A front end that stops goes by the service whose requests may take longest, sleeping ones included.
func TestLongest(t *testing.T) {
	t.Parallel()
	f := New(quiet)
	want := func(d time.Duration) {
		t.Helper()
		if got := f.Longest(); got != d {
			t.Errorf("a request may take %v, want %v", got, d)
		}
	}
	want(stall)
	f.SetRoute(service(t, "iris"))
	want(stall + route.DefaultQueueWait + route.DefaultTimeout)
	f.SetRoute(service(t, "slow", func(r *route.Route) { r.Versions[0].QueueWait, r.Versions[0].Timeout = time.Minute, time.Hour }))
	want(stall + time.Minute + time.Hour)
	f.RemoveRoute("slow")
	f.SetRoute(service(t, "sleeps", auto(0, 1, time.Second), func(r *route.Route) { r.Versions[0].QueueWait, r.Versions[0].Timeout = 0, time.Second }))
	want(stall + route.DefaultTimeout + time.Second)
}

// What is kept of a workload goes with its last route and its last pod, whichever goes later, and not before.
func TestPoolsOfWhatIsGone(t *testing.T) {
	t.Parallel()
	f := New(quiet)
	want := func(names ...string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(f.pools)); !slices.Equal(got, names) {
			t.Errorf("there are pools of %v, want %v", got, names)
		}
	}
	versions := func(names ...string) *route.Route {
		return service(t, "iris", func(r *route.Route) {
			v := r.Versions[0]
			r.Versions = nil
			for _, name := range names {
				v.Name, v.Workload, v.Percent, v.Default = name, "iris-"+name, 0, false
				r.Versions = append(r.Versions, v)
			}
		})
	}
	f.SetPods("iris-a", up("a:5001")) // may come before the route
	want("iris-a")
	f.SetRoute(versions("a", "b"))
	want("iris-a", "iris-b")
	pool := f.pools["iris-a"]
	for range 3 {
		f.SetRoute(versions("a", "b")) // the same again
	}
	f.SetPods("iris-a", nil) // for a moment
	f.SetPods("iris-a", up("a2:5001"))
	if f.pools["iris-a"] != pool {
		t.Error("who waits for a pod waits in another pool now")
	}
	f.SetRoute(versions("b"))
	want("iris-a", "iris-b") // it still has its pod, which finishes what it has
	f.SetPods("iris-a", nil)
	want("iris-b")
	f.RemoveRoute("iris")
	want()
	f.SetPods("iris-b", nil)
	f.RemoveRoute("iris")
	want()
	for i := range 100 { // services come and go
		name := fmt.Sprintf("service-%d", i)
		f.SetRoute(service(t, name))
		f.SetPods(name, up("p:5001"))
		f.RemoveRoute(name)
		f.SetPods(name, nil)
	}
	want()
}

// acquired takes a pod in a bubble without waiting.
func acquired(t *testing.T, p *pool) *pod {
	t.Helper()
	d, why := p.acquire(t.Context(), 0, 0)
	if d == nil {
		t.Fatalf("no pod: refusal %d", why)
	}
	return d
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(func() {})
		p.setPods(up("a"))
		busy := acquired(t, p)
		var wg sync.WaitGroup
		var got atomic.Int32
		for range maxQueued {
			wg.Go(func() {
				if d, _ := p.acquire(t.Context(), time.Hour, 0); d != nil {
					got.Add(1)
					p.answered(d)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if d, why := p.acquire(t.Context(), time.Hour, 0); d != nil || why != overloaded || time.Since(began) != 0 {
			t.Errorf("beyond a full queue: pod %v, refusal %d after %v; want overloaded at once", d, why, time.Since(began))
		}
		p.answered(busy)
		wg.Wait()
		if got.Load() != maxQueued {
			t.Errorf("%d of %d in the queue were served", got.Load(), maxQueued)
		}
	})
}

func TestLeastLoaded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(func() {})
		p.setLimit(4)
		p.setPods(map[string]bool{"a": true, "b": true, "c": true, "not ready": false})
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		var taken []*pod
		for range 2000 {
			if len(taken) == 12 || len(taken) > 0 && random.IntN(2) == 0 {
				i := random.IntN(len(taken))
				p.answered(taken[i])
				taken = slices.Delete(taken, i, i+1)
				continue
			}
			least := 100
			for _, d := range p.pods {
				if d.usable {
					least = min(least, d.busy)
				}
			}
			d := acquired(t, p)
			if d.addr == "not ready" || d.busy != least+1 {
				t.Fatalf("seed %d: %s with %d requests was chosen, the least were %d", seed, d.addr, d.busy-1, least)
			}
			taken = append(taken, d)
		}
	})
}

// Whatever makes room serves the queue.
func TestQueueIsServedWhen(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(p *pool, busy *pod){
		"a request ends":                   func(p *pool, busy *pod) { p.answered(busy) },
		"a pod comes":                      func(p *pool, _ *pod) { p.setPods(up("a", "b")) },
		"another pod takes its place":      func(p *pool, _ *pod) { p.setPods(up("b")) },
		"a pod becomes ready":              func(p *pool, _ *pod) { p.setPods(map[string]bool{"a": true, "sick": true}) },
		"the limit rises":                  func(p *pool, _ *pod) { p.setLimit(2) },
		"a pod no longer refuses":          func(p *pool, busy *pod) { p.refused(busy, time.Now()); time.Sleep(refusedFor) },
		"a pod that closed is tried again": func(p *pool, busy *pod) { p.closed(busy); time.Sleep(closedFor) },
		"a pod that refused came back": func(p *pool, busy *pod) {
			p.refused(busy, time.Now())
			p.setPods(map[string]bool{"a": false})
			p.setPods(up("a"))
		},
		"a pod is replaced by its like": func(p *pool, _ *pod) { p.setPods(nil); p.setPods(up("a")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPool(func() {})
				p.setPods(map[string]bool{"a": true, "sick": false})
				busy := acquired(t, p)
				var got *pod
				go func() { got, _ = p.acquire(t.Context(), time.Hour, 0) }()
				synctest.Wait()
				if got != nil {
					t.Fatal("a busy pod was given")
				}
				began := time.Now()
				happens(p, busy)
				synctest.Wait()
				if got == nil {
					t.Error("the queue still waits")
				}
				if took := time.Since(began); took > refusedFor {
					t.Errorf("it waited %v", took)
				}
			})
		})
	}
}

// A pod where something failed gets nothing for a while, unless it shows that it lives.
func TestDoubt(t *testing.T) {
	t.Parallel()
	const moment = 10 * time.Millisecond
	for _, tt := range []struct {
		name    string
		happens func(p *pool, d *pod) // d has three requests, which is its limit
		want    time.Duration         // when it gets another one
	}{
		{"it refused", func(p *pool, d *pod) { p.refused(d, time.Now()) }, refusedFor},
		{"it closed", func(p *pool, d *pod) { p.closed(d) }, closedFor},
		{"it answered before it was asked, and refused", func(p *pool, d *pod) {
			p.answered(d)
			d.busy++ // with another request
			time.Sleep(moment)
			p.refused(d, time.Now())
		}, moment + refusedFor},
		{"it answered while it was asked, and refused", func(p *pool, d *pod) {
			asked := time.Now()
			time.Sleep(moment)
			p.answered(d)
			p.refused(d, asked)
		}, moment},
		{"it answered before it closed", func(p *pool, d *pod) {
			p.limit = 2 // so that nobody is served by the answer
			p.answered(d)
			p.closed(d)
		}, closedFor},
		{"it answered after it closed", func(p *pool, d *pod) { p.closed(d); time.Sleep(moment); p.answered(d) }, moment},
		{"it answered after it refused", func(p *pool, d *pod) { p.refused(d, time.Now()); time.Sleep(moment); p.answered(d) }, moment},
		{"nothing was learned after it closed", func(p *pool, d *pod) { p.closed(d); time.Sleep(moment); p.release(d) }, closedFor},
		{"it closed again", func(p *pool, d *pod) { p.closed(d); time.Sleep(moment); p.closed(d) }, moment + closedFor},
		{"it refused after it closed", func(p *pool, d *pod) { p.closed(d); time.Sleep(moment); p.refused(d, time.Now()) }, moment + refusedFor},
		{"it closed, and became ready", func(p *pool, d *pod) {
			p.closed(d)
			p.setPods(map[string]bool{"a": false})
			time.Sleep(moment)
			p.setPods(up("a"))
		}, moment},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPool(func() { t.Error("scaling is to wake a service that has a pod") })
				p.setLimit(3)
				p.setPods(up("a"))
				d := acquired(t, p)
				acquired(t, p)
				acquired(t, p)
				began := time.Now()
				tt.happens(p, d)
				if _, why := p.acquire(t.Context(), time.Hour, 0); why != 0 {
					t.Errorf("refusal %d", why)
				}
				if took := time.Since(began); took != tt.want {
					t.Errorf("it got another request after %v, want %v", took, tt.want)
				}
			})
		})
	}
}

// Who does not wait as long as a doubt lasts learns that nothing serves, not that there is too much to do.
func TestDoubtThatOutlastsTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(func() {})
		p.setPods(up("a"))
		p.closed(acquired(t, p))
		began := time.Now()
		if _, why := p.acquire(t.Context(), closedFor/2, 0); why != noReplicas || time.Since(began) != closedFor/2 {
			t.Errorf("refusal %d after %v", why, time.Since(began))
		}
		if d, why := p.acquire(t.Context(), 0, time.Hour); d == nil || time.Since(began) != closedFor {
			t.Errorf("a request that would wait for a service that sleeps: refusal %d after %v", why, time.Since(began))
		} else {
			p.closed(d)
		}
		acquired := func(addr string) {
			t.Helper()
			if d, _ := p.acquire(t.Context(), 0, 0); d == nil || d.addr != addr {
				t.Errorf("got %v, want the pod %s", d, addr)
			}
		}
		p.setPods(up("a", "b"))
		acquired("b") // others serve meanwhile
		if _, why := p.acquire(t.Context(), 0, 0); why != overloaded {
			t.Errorf("refusal %d though a pod serves, and is busy", why)
		}
	})
}

// A pod that is given in the moment its waiter leaves is not lost.
func TestPodGivenToWhoLeaves(t *testing.T) {
	t.Parallel()
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(func() {})
			p.setPods(up("a"))
			busy := acquired(t, p)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				if d, _ := p.acquire(ctx, time.Hour, 0); d != nil {
					p.answered(d)
				}
			}()
			synctest.Wait()
			cancel() // wakes the waiter, which is mostly too slow to leave the queue before
			p.answered(busy)
			synctest.Wait()
			if l := p.load(time.Now()); l.busy != 0 || l.queued != 0 {
				t.Fatalf("afterwards the load is %+v", l)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(func() {})
		want := func(l load) {
			t.Helper()
			if got := p.load(time.Now()); got != l {
				t.Errorf("the load is %+v, want %+v", got, l)
			}
		}
		p.setLimit(2)
		p.setPods(map[string]bool{"a": true, "b": true, "c": false})
		time.Sleep(time.Minute)
		want(load{replicas: 3, idle: time.Minute})
		all := []*pod{acquired(t, p), acquired(t, p), acquired(t, p)}
		want(load{busy: 2, replicas: 3}) // a pod with two requests is one that is busy
		time.Sleep(time.Minute)
		want(load{busy: 2, replicas: 3})
		for _, d := range all {
			p.answered(d)
		}
		want(load{replicas: 3})
		time.Sleep(time.Second)
		want(load{replicas: 3, idle: time.Second})
	})
}

// A pod of which two things failed is in doubt for as long as the worse of them says.
func TestLongestDoubtCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(func() {})
		p.setLimit(2)
		p.setPods(up("a:1"))
		one, _ := p.acquire(t.Context(), 0, 0)
		two, _ := p.acquire(t.Context(), 0, 0)
		began := time.Now()
		p.refused(one, began)
		p.closed(two)
		if d, why := p.acquire(t.Context(), time.Minute, 0); d == nil || time.Since(began) != refusedFor {
			t.Errorf("the pod serves after %v, want %v; %v", time.Since(began), refusedFor, why)
		}
	})
}
