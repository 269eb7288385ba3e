package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/route"
)

// The documented formula: utilization = (busy replicas + queued requests) / replicas, compared with the target.
func TestWanted(t *testing.T) {
	t.Parallel()
	busy := func(busy, queued int) load { return load{busy: busy, queued: queued, replicas: max(1, busy)} }
	for _, tt := range []struct {
		name       string
		min, max   int
		target     int
		concurrent int
		load       load
		want       int
	}{
		{"idle", 1, 10, 70, 1, busy(0, 0), 1},
		{"idle, more at least", 3, 10, 70, 1, busy(0, 0), 3},
		{"one busy keeps headroom", 1, 10, 70, 1, busy(1, 0), 2},
		{"7 of 10 are the target", 1, 20, 70, 1, busy(7, 0), 10},
		{"8 are more", 1, 20, 70, 1, busy(8, 0), 12},
		{"queued count as busy", 1, 20, 70, 1, busy(3, 4), 10},
		{"the documents' example: 20 rps of 10 s", 1, 1000, 70, 1, busy(200, 0), 286},
		{"at most", 1, 10, 70, 1, busy(10, 100), 10},
		{"full use", 1, 10, 100, 1, busy(4, 0), 4},
		{"half use", 1, 10, 50, 1, busy(4, 0), 8},
		{"lowest target", 1, 1000, 1, 1, busy(4, 0), 400},
		// By the documents' planning formula a container takes several queued requests.
		{"several in a container", 1, 100, 70, 10, busy(1, 20), 5},
		{"documents' example, ten in a container", 1, 1000, 70, 10, busy(0, 200), 29},
		{"may sleep, used lately", 0, 10, 70, 1, load{replicas: 1, idle: sleepAfter - 1}, 1},
		{"may sleep, unused", 0, 10, 70, 1, load{replicas: 1, idle: sleepAfter}, 0},
		{"asleep", 0, 10, 70, 1, load{}, 0},
		{"asleep, asked for", 0, 10, 70, 1, load{queued: 1}, 2},
		{"asleep, asked for, one at most", 0, 1, 70, 1, load{queued: 1}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := route.Scale{Auto: true, Min: tt.min, Max: tt.max, Utilization: tt.target, Refresh: time.Second}
			if got := wanted(s, tt.load, tt.concurrent); got != tt.want {
				t.Errorf("wanted are %d, want %d", got, tt.want)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	type step struct{ second, want, have, to int }
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"up at once", []step{{0, 1, 1, 1}, {1, 5, 1, 5}, {2, 9, 5, 9}}},
		{"down after a minute", []step{{0, 5, 5, 5}, {1, 1, 5, 5}, {60, 1, 5, 5}, {61, 1, 5, 1}}},
		{"down to the most of the last minute", []step{{0, 9, 9, 9}, {30, 4, 9, 9}, {61, 1, 9, 4}, {91, 1, 4, 1}}},
		{"a peak within the minute keeps it", []step{{0, 5, 5, 5}, {50, 1, 5, 5}, {55, 5, 5, 5}, {100, 1, 5, 5}, {116, 1, 5, 1}}},
		{"who starts waits a minute too", []step{{0, 1, 7, 7}, {59, 1, 7, 7}, {61, 1, 7, 1}}},
		{"who starts scales up at once", []step{{0, 8, 7, 8}}},
		{"set by someone else", []step{{0, 3, 3, 3}, {10, 3, 2, 3}, {20, 3, 6, 3}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, began := &history{}, time.Unix(0, 0)
			for _, s := range tt.steps {
				if got := h.decide(began.Add(time.Duration(s.second)*time.Second), s.want, s.have); got != s.to {
					t.Errorf("after %d s, %d wanted and %d there: %d, want %d", s.second, s.want, s.have, got, s.to)
				}
			}
		})
	}
}

// deployments are the workloads that a front end scales.
type deployments struct {
	mu    sync.Mutex
	sizes map[string]int
	began time.Time
	log   []string
	fail  int             // so many times
	hang  map[string]bool // calls about these take their time, as with an API server that does not answer
	calls map[string]int  // now
	most  int             // calls at a time
}

func (d *deployments) Scale(ctx context.Context, workload string, n int) error {
	d.mu.Lock()
	hangs := d.hang[workload]
	if hangs {
		d.calls[workload]++
		d.most = max(d.most, len(d.calls))
		if d.calls[workload] > 1 {
			d.log = append(d.log, "twice "+workload)
		}
	}
	d.mu.Unlock()
	if hangs {
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.calls, workload)
		return errors.New("the API server does not answer")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, fmt.Sprintf("%v %s=%d", time.Since(d.began), workload, n))
	if d.fail > 0 {
		d.fail--
		return errors.New("the API server is away")
	}
	d.sizes[workload] = n
	return nil
}

func (d *deployments) replicas(workload string) (int, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.sizes[workload]
	return n, ok
}

func (d *deployments) seen() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.log, ", ")
}

// scaled runs a front end's scaling until the test ends.
func scaled(t *testing.T, f *FrontEnd, sizes map[string]int) *deployments {
	t.Helper()
	d := &deployments{sizes: sizes, began: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go f.Run(ctx, d, d.replicas)
	synctest.Wait()
	return d
}

func auto(least, most int, refresh time.Duration) func(*route.Route) {
	return func(r *route.Route) {
		r.Versions[0].QueueWait = time.Hour
		r.Versions[0].Scale = route.Scale{Auto: true, Min: least, Max: most, Utilization: 70, Refresh: refresh}
	}
}

// working answers after a while.
func working(d time.Duration) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(d)
	}
}

func TestScaling(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", auto(1, 4, 10*time.Second)))
		f.SetRoute(service(t, "fixed", func(r *route.Route) { r.Versions[0].Scale.Min = 2 }))
		n.listen(t, "pod:5001", working(55*time.Second))
		f.SetPods("iris", up("pod:5001"))
		d := scaled(t, f, map[string]int{"iris": 1, "fixed": 1})
		time.Sleep(11 * time.Second) // in the middle between two decisions
		c := n.client(t)
		var wg sync.WaitGroup
		wg.Go(func() { score(t, c, "iris", "x").want(t, 200, "model", "") })
		time.Sleep(8*time.Second + 500*time.Millisecond)
		if got := d.seen(); got != "" {
			t.Errorf("scaled before the refresh period was over: %s", got)
		}
		time.Sleep(2 * time.Second)
		if got := d.seen(); !strings.HasSuffix(got, "iris=2") || strings.Contains(got, ",") {
			t.Errorf("one busy replica of one: scaled %q, want to 2", got)
		}
		for range 20 {
			wg.Go(func() { score(t, c, "iris", "x") })
		}
		time.Sleep(10 * time.Second)
		if got := d.seen(); !strings.HasSuffix(got, "iris=4") {
			t.Errorf("a long queue: scaled %q, want to the most, 4", got)
		}
		n.listen(t, "fast:5001", working(0)) // works the queue off
		f.SetPods("iris", up("pod:5001", "fast:5001"))
		wg.Wait()
		idle := time.Now()
		for len(d.seen()) == 0 || !strings.HasSuffix(d.seen(), "iris=1") {
			if time.Since(idle) > 10*time.Minute {
				t.Fatalf("it is never scaled down: %s", d.seen())
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(idle); took < downAfter-10*time.Second || took > downAfter+20*time.Second {
			t.Errorf("scaled down after %v, want about a minute", took)
		}
		if strings.Contains(d.seen(), "fixed") {
			t.Errorf("a service with a fixed number of replicas was scaled: %s", d.seen())
		}
	})
}

func TestScaleFromZero(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", auto(0, 1, time.Minute), func(r *route.Route) { r.Versions[0].QueueWait = route.DefaultQueueWait }))
		d := scaled(t, f, map[string]int{"iris": 0})
		time.Sleep(time.Hour)
		if got := d.seen(); got != "" {
			t.Fatalf("scaled while nobody asked: %s", got)
		}
		asked := time.Now()
		got := make(chan answer)
		go func() { got <- score(t, n.client(t), "iris", "x") }()
		synctest.Wait()
		if log := d.seen(); log != "1h0m0s iris=1" {
			t.Fatalf("scaled %q, want at once, not in the next period", log)
		}
		f.SetPods("iris", map[string]bool{"pod:5001": false})
		time.Sleep(20 * time.Second) // the pod starts
		n.listen(t, "pod:5001", text("awake"))
		f.SetPods("iris", up("pod:5001"))
		a := <-got
		a.want(t, 200, "model", "")
		if a.body != "awake" || time.Since(asked) != 20*time.Second {
			t.Errorf("%q after %v, want the answer as soon as the pod serves", a.body, time.Since(asked))
		}
		time.Sleep(sleepAfter - time.Second)
		if log := d.seen(); strings.Contains(log, ",") {
			t.Errorf("it sleeps too soon: %s", log)
		}
		time.Sleep(2*time.Minute + time.Second)
		if log := d.seen(); !strings.HasSuffix(log, "iris=0") {
			t.Errorf("it does not sleep again: %s", log)
		}
	})
}

// A front end that starts knows of no load. It must not take that for none.
func TestStartingScalesNothingDown(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, _ *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", auto(1, 10, time.Second)))
		d := scaled(t, f, map[string]int{"iris": 8})
		time.Sleep(downAfter - time.Second)
		if got := d.seen(); got != "" {
			t.Errorf("scaled %s", got)
		}
		time.Sleep(5 * time.Second)
		if got := d.seen(); !strings.HasSuffix(got, "iris=1") {
			t.Errorf("scaled %q, want to 1 in the end", got)
		}
	})
}

func TestScalingKeepsToNewBounds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, _ *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", auto(4, 10, time.Second)))
		d := scaled(t, f, map[string]int{"iris": 4})
		time.Sleep(10 * time.Second)
		f.SetRoute(service(t, "iris", auto(1, 2, time.Second)))
		time.Sleep(2 * time.Second)
		if got, _ := d.replicas("iris"); got != 2 {
			t.Errorf("%d replicas, want the new most, 2: %s", got, d.seen())
		}
		f.SetRoute(service(t, "iris", auto(5, 9, time.Second)))
		time.Sleep(2 * time.Second)
		if got, _ := d.replicas("iris"); got != 5 {
			t.Errorf("%d replicas, want the new least, 5: %s", got, d.seen())
		}
	})
}

func TestScalingIsTriedAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, _ *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", auto(3, 10, time.Second)))
		f.SetRoute(service(t, "unknown", auto(3, 10, time.Second))) // its Deployment is not there yet
		d := &deployments{sizes: map[string]int{"iris": 1}, began: time.Now(), fail: 3}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.Run(ctx, d, d.replicas)
		time.Sleep(10 * time.Second)
		if got, _ := d.replicas("iris"); got != 3 || strings.Count(d.seen(), "iris=3") != 4 || strings.Contains(d.seen(), "unknown") {
			t.Errorf("%d replicas after %s", got, d.seen())
		}
	})
}

// Calls that hang hold up neither other workloads nor the end, and there is one at a time about each workload, whatever becomes
// of its route.
func TestScalingThatHangsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ hanging, most int }{{5, 5}, {2 * maxScaling, maxScaling}} {
		t.Run(fmt.Sprint(tt.hanging), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, _ *network, f *FrontEnd) {
				d := &deployments{sizes: map[string]int{"iris": 1}, began: time.Now(), hang: map[string]bool{}, calls: map[string]int{}}
				for i := range tt.hanging {
					name := fmt.Sprintf("hangs-%d", i)
					d.sizes[name], d.hang[name] = 1, true
					f.SetRoute(service(t, name, auto(3, 10, time.Second)))
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { f.Run(ctx, d, d.replicas); close(ended) }()
				time.Sleep(time.Second)
				f.RemoveRoute("hangs-0")
				time.Sleep(time.Second)
				f.SetRoute(service(t, "hangs-0", auto(3, 10, time.Second)))
				asked := time.Now()
				f.SetRoute(service(t, "iris", auto(3, 10, time.Second)))
				for n := 0; n != 3; n, _ = d.replicas("iris") {
					if time.Since(asked) > time.Minute {
						t.Fatal("another workload is never scaled")
					}
					time.Sleep(lookEvery)
				}
				if took := time.Since(asked); tt.hanging < maxScaling && took > 2*lookEvery {
					t.Errorf("another workload was scaled after %v", took)
				}
				time.Sleep(20 * time.Second)
				d.mu.Lock()
				if d.most != tt.most || strings.Contains(strings.Join(d.log, " "), "twice") {
					t.Errorf("up to %d calls at a time, want %d: %v", d.most, tt.most, d.log)
				}
				d.mu.Unlock()
				cancel()
				stopped := time.Now()
				if <-ended; time.Since(stopped) > 0 {
					t.Errorf("it ended %v late", time.Since(stopped))
				}
			})
		})
	}
}
