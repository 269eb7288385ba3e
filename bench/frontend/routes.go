package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/internal/route"
)

// changes are the times that changes took to take effect: from the API server's answer to the write, and from sending
// it. The event that the front end gets lies between the two.
type changes struct{ answered, sent []time.Duration }

func (c *changes) print(what string) {
	slices.Sort(c.answered)
	slices.Sort(c.sent)
	at := func(d []time.Duration, q float64) float64 { return ms(d[min(len(d)-1, int(q*float64(len(d))))]) }
	fmt.Printf("| %s, from the API server's answer: median, p99, max | %.1f ms, %.1f ms, %.1f ms (%d changes) | 30 ms |\n", what, at(c.answered, .5), at(c.answered, .99), at(c.answered, 1), len(c.answered))
	fmt.Printf("| … from sending the write, the API server's time included | %.1f ms, %.1f ms, %.1f ms | |\n", at(c.sent, .5), at(c.sent, .99), at(c.sent, 1))
}

// change writes one change and asks until it has taken effect.
func (c *changes) change(ctx context.Context, write func() error, effective func() bool) error {
	sent := time.Now()
	if err := write(); err != nil {
		return err
	}
	answered := time.Now()
	for !effective() {
		if time.Since(answered) > 10*time.Second || ctx.Err() != nil {
			return fmt.Errorf("a change had no effect within %s", time.Since(answered))
		}
		time.Sleep(200 * time.Microsecond)
	}
	c.answered, c.sent = append(c.answered, time.Since(answered)), append(c.sent, time.Since(sent))
	return nil
}

// changeRoutes routes many services and changes them while all of them are in use.
func (o *options) changeRoutes(ctx context.Context, c *cluster, fe *process) error {
	fmt.Printf("\n| %d services | measured | goal |\n|---|---|---|\n", o.services)
	if err := c.addMany(ctx, 0, o.services); err != nil {
		return err
	}
	if err := c.serves(ctx, o.services-1); err != nil {
		return err
	}
	fmt.Printf("| memory with all of them routed | %.0f MiB | 100 MB |\n", fe.memory())
	for i := range o.services {
		if err := c.serves(ctx, i); err != nil {
			return err
		}
	}
	fmt.Printf("| … when each was called once | %.0f MiB | 100 MB |\n", fe.memory())
	body := make([]byte, 1<<10)
	l := load{rate: o.loadOfRoutes, length: 4 * o.length}
	for i := range o.services {
		l.targets = append(l.targets, post(url(i), body, 0))
	}
	rand.Shuffle(len(l.targets), func(i, j int) { l.targets[i], l.targets[j] = l.targets[j], l.targets[i] })
	before := fe.cpu()
	var m *vegeta.Metrics
	var loading errgroup.Group
	loading.Go(func() (err error) { m, err = l.run(ctx); return err })
	var keys, pods changes
	var err error
	for n, end := 0, time.Now().Add(l.length); time.Now().Before(end) && err == nil; n++ {
		service, replica := rand.IntN(o.services), 1+n%15
		if n%2 == 0 {
			err = keys.change(ctx, func() error {
				secret, err := routeOf(service, func(r *route.Route) {
					r.Generation = int64(n + 2)
					r.Auth.Keys[1] = route.KeySum(fmt.Sprint("secondary-", n))
				}).Secret()
				if err == nil {
					_, err = c.api.CoreV1().Secrets(namespace).Update(ctx, secret, metav1.UpdateOptions{})
				}
				return err
			}, func() bool {
				status, _ := ask(ctx, http.DefaultClient, service, fmt.Sprint("secondary-", n))
				return status == http.StatusOK
			})
		} else {
			err = pods.change(ctx, func() error {
				_, err := c.api.DiscoveryV1().EndpointSlices(namespace).Update(ctx, slice(service, podIP(service, replica)), metav1.UpdateOptions{})
				return err
			}, func() bool {
				_, pod := ask(ctx, http.DefaultClient, service, key)
				return pod == podIP(service, replica)
			})
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := errors.Join(err, loading.Wait()); err != nil {
		return err
	}
	keys.print("a new key")
	pods.print("another pod")
	fmt.Printf("| errors in %d requests to all of them, %.0f a second, meanwhile | %d | 0 |\n", m.Requests, m.Rate, failures(m))
	fmt.Printf("| memory after that | %.0f MiB | 100 MB |\n", fe.memory())
	fmt.Printf("| processor time for all of that | %.0f %% of one core | |\n", 100*(fe.cpu()-before).Seconds()/l.length.Seconds())
	return nil
}
