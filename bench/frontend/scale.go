package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/berthdev/berth/internal/route"
)

const scaled = 3900 // the first service that scales, beyond those of the other measurements

// replicas follows the number of replicas that a service is set to.
type replicas struct {
	mu   sync.Mutex
	n    int
	grew time.Time // first
}

func (r *replicas) get() (int, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n, r.grew
}

// follow stands in for Kubernetes: some time after a Deployment got more replicas, their pods are ready.
func (o *options) follow(ctx context.Context, c *cluster, service, pods int) (*replicas, error) {
	w, err := c.api.AppsV1().Deployments(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name(service)).String()})
	if err != nil {
		return nil, err
	}
	r := &replicas{n: pods}
	go func() {
		defer w.Stop()
		for e := range w.ResultChan() {
			d, ok := e.Object.(*appsv1.Deployment)
			if !ok || d.Spec.Replicas == nil {
				continue
			}
			n := int(*d.Spec.Replicas)
			r.mu.Lock()
			if n > r.n && r.grew.IsZero() {
				r.grew = time.Now()
			}
			r.n = n
			r.mu.Unlock()
			time.AfterFunc(o.podStart, func() {
				n, _ := r.get()
				_, _ = c.api.DiscoveryV1().EndpointSlices(namespace).Update(ctx, slice(service, podIPs(service, n)...), metav1.UpdateOptions{}) // ctx ended
			})
		}
	}()
	return r, nil
}

// scaleUp measures how soon the front end scales, and whether a load that grows loses requests.
func (o *options) scaleUp(ctx context.Context, c *cluster) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body := make([]byte, 1<<10)
	start := func(service int) (*replicas, error) {
		err := c.add(ctx, service, 1, func(r *route.Route) {
			r.Versions[0].Scale = route.Scale{Auto: true, Min: 1, Max: route.DefaultMaxReplicas, Utilization: route.DefaultUtilization, Refresh: time.Second}
		})
		if err != nil {
			return nil, err
		}
		r, err := o.follow(ctx, c, service, 1)
		if err != nil {
			return nil, err
		}
		return r, c.serves(ctx, service)
	}
	fmt.Printf("\n| scaling | measured | goal |\n|---|---|---|\n")
	var took []time.Duration
	for i := range o.runs {
		service := scaled + 1 + i
		r, err := start(service)
		if err != nil {
			return err
		}
		// Three times what one replica can do, at once: what the queue cannot hold until there are more is refused.
		began := time.Now()
		l := load{targets: []vegeta.Target{post(url(service), body, 100*time.Millisecond)}, rate: 30, length: 3 * time.Second}
		if _, err := l.run(ctx); err != nil {
			return err
		}
		if _, grew := r.get(); grew.After(began) {
			took = append(took, grew.Sub(began))
		} else {
			return fmt.Errorf("%s was not scaled within 3 s", name(service))
		}
	}
	slices.Sort(took)
	fmt.Printf("| from the load to the decision: median, max | %.2f s, %.2f s | 1 s |\n", took[len(took)/2].Seconds(), took[len(took)-1].Seconds())
	r, err := start(scaled)
	if err != nil {
		return err
	}
	requests, failed := 0, 0
	for _, x := range []float64{1, 1.5, 2, 2.5, 3} {
		l := load{targets: []vegeta.Target{post(url(scaled), body, 100*time.Millisecond)}, rate: o.rampOfScale * x, length: 2 * o.length}
		m, err := l.run(ctx)
		if err != nil {
			return err
		}
		requests, failed = requests+int(m.Requests), failed+failures(m)
		n, _ := r.get()
		fmt.Printf("| ramp at %.1fx, %.1f a second: replicas; p99 | %d; %.0f ms | |\n", x, o.rampOfScale*x, n, ms(m.Latencies.P99))
	}
	fmt.Printf("| errors in the ramp's %d requests | %d | 0 |\n", requests, failed)
	return o.wake(ctx, c)
}

// wake measures how soon a service that sleeps is woken by its first request.
func (o *options) wake(ctx context.Context, c *cluster) error {
	var decided, answered []time.Duration
	for i := range o.runs {
		service := scaled + 50 + i
		r, err := o.follow(ctx, c, service, 0)
		if err != nil {
			return err
		}
		err = c.add(ctx, service, 0, func(r *route.Route) {
			r.Versions[0].Scale = route.Scale{Auto: true, Min: 0, Max: 1, Utilization: route.DefaultUtilization, Refresh: time.Second}
		})
		if err != nil {
			return err
		}
		// A caller that is not let in wakes nobody.
		if err := until(ctx, name(service), func() bool {
			status, _ := ask(ctx, http.DefaultClient, service, "wrong")
			return status == http.StatusUnauthorized
		}); err != nil {
			return err
		}
		time.Sleep(time.Second) // it sleeps
		if n, _ := r.get(); n != 0 {
			return fmt.Errorf("%s has %d replicas before it is called", name(service), n)
		}
		began := time.Now()
		status, _ := ask(ctx, http.DefaultClient, service, key)
		if status != http.StatusOK {
			return fmt.Errorf("%s answered %d to the request that wakes it", name(service), status)
		}
		_, grew := r.get()
		decided, answered = append(decided, grew.Sub(began)), append(answered, time.Since(began))
	}
	slices.Sort(decided)
	slices.Sort(answered)
	last := len(decided) - 1
	fmt.Printf("| from the request that wakes a service with no replica to the decision: median, max | %.0f ms, %.0f ms | 1 s |\n", ms(middle(decided)), ms(decided[last]))
	fmt.Printf("| … to its answer; pods take %s of it | %.2f s, %.2f s | 3 s |\n", o.podStart, middle(answered).Seconds(), answered[last].Seconds())
	return nil
}
