package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/berthdev/berth/internal/route"
)

// load is one load and what came of it.
type load struct {
	targets []vegeta.Target
	rate    float64 // requests a second, whether answers come or not; 0: as many as workers can
	workers uint64  // then
	length  time.Duration
}

func post(url string, body []byte, delay time.Duration) vegeta.Target {
	h := http.Header{"Authorization": {"Bearer " + key}, "Content-Type": {"application/octet-stream"}}
	if delay != 0 {
		h.Set(delayHeader, delay.String())
	}
	return vegeta.Target{Method: http.MethodPost, URL: url, Body: body, Header: h}
}

// most is how many requests a load has under way: more would be out of ports, and of a machine that stood still for a moment.
const most = 4000

// run has the load made by a caller of its own, over new connections.
func (l load) run(ctx context.Context) (*vegeta.Metrics, error) {
	c := newCaller()
	defer c.client.CloseIdleConnections()
	return l.by(ctx, c, 0)
}

// lead is how long a load goes on before it counts: connections are open then, and what the load before left behind is gone, as
// front ends close connections to pods that nobody used for a second.
const lead = 2 * time.Second

// steady has the load made for lead longer, and counts without that. begin is called when it begins to count.
func (l load) steady(ctx context.Context, begin func()) (*vegeta.Metrics, error) {
	c := newCaller()
	defer c.client.CloseIdleConnections()
	begun := make(chan struct{})
	timer := time.AfterFunc(lead, func() { begin(); close(begun) })
	m, err := l.by(ctx, c, lead)
	if !timer.Stop() {
		<-begun
	}
	return m, err
}

// by has the load made, and counts what is asked after a while. It returns an error when the load was not whole: ctx ended, or there was no
// timer for it.
func (l load) by(ctx context.Context, c *caller, uncounted time.Duration) (*vegeta.Metrics, error) {
	options := []func(*vegeta.Attacker){vegeta.MaxWorkers(most), vegeta.Client(&http.Client{Transport: c}), vegeta.MaxBody(0)}
	var pacer vegeta.Pacer = vegeta.Rate{}
	if l.rate == 0 {
		options = append(options, vegeta.Workers(l.workers), vegeta.MaxWorkers(l.workers))
	} else {
		p, err := newPace(l.rate)
		if err != nil {
			return nil, err
		}
		defer p.close()
		pacer = p
	}
	runtime.GC()
	a := vegeta.NewAttacker(options...)
	defer context.AfterFunc(ctx, func() { a.Stop() })()
	var m vegeta.Metrics
	counted := time.Now().Add(uncounted)
	for r := range a.Attack(vegeta.NewStaticTargeter(l.targets...), pacer, uncounted+l.length, "") {
		if !r.Timestamp.Before(counted) {
			m.Add(r)
		}
	}
	m.Close()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if n := failures(&m); n > 0 {
		fmt.Fprintf(os.Stderr, "%s: %d of %d requests failed: %v %q\n", l.targets[0].URL, n, m.Requests, m.StatusCodes, m.Errors[:min(3, len(m.Errors))])
	}
	return &m, nil
}

func failures(m *vegeta.Metrics) int { return int(math.Round(float64(m.Requests) * (1 - m.Success))) }

// way is a way to the pod.
type way struct {
	name string
	url  string
	proc *process // nil: straight
}

// alone stops the processes of the other ways, which may have much to do yet from their own loads, until goOn is called.
func (w way) alone(ways []way) (goOn func()) {
	var stopped []*process
	for _, other := range ways {
		if other.proc != nil && other.proc != w.proc {
			other.proc.signal(syscall.SIGSTOP)
			stopped = append(stopped, other.proc)
		}
	}
	return func() {
		for _, p := range stopped {
			p.signal(syscall.SIGCONT)
		}
	}
}

// result is what a way did in one run: what it added to the way straight to the pod, or, of that way, the whole.
type result struct {
	mean, p50, p99 time.Duration
	perCPU         float64 // requests per second of the way's processor time
	memory         float64
	failed         int
}

// scenario is a load of a share of what Berth does at its limit under that load.
type scenario struct {
	title string
	size  int
	delay time.Duration // of the pod
	share float64
}

const compared = 4000 // the service that is compared, beyond those of the other measurements

// compareAll prints the tables of the comparison.
func (o *options) compareAll(ctx context.Context, c *cluster, procs *processes) error {
	own := processes{measured: o.inside} // they leave the machine to what is measured afterwards
	defer func() { own.end() }()
	pod := fmt.Sprintf("%s:%d", podIP(compared, 0), route.ContainerPort)
	nginx, traefik, err := startPeers(ctx, &own, o.traefik, pod)
	if err != nil {
		return err
	}
	fe, err := c.startFrontEnd(ctx, &own, o.libexec)
	if err != nil {
		return err
	}
	if err := c.add(ctx, compared, 1, func(r *route.Route) { r.Versions[0].MaxConcurrent = 10000 }); err != nil {
		return err
	}
	if err := c.serves(ctx, compared); err != nil {
		return err
	}
	path := "/api/v1/service/" + name(compared) + "/score"
	ways := []way{{"none: the whole", "http://" + pod + path, nil}, {"nginx", "http://" + nginxAddr + path, nginx}, {"Traefik", "http://" + traefikAddr + path, traefik}, {"Berth", "http://" + frontEnd + path, fe}}
	fmt.Printf("Medians of %d runs of %s, and the range. nginx %s, Traefik %s, open-loop load. What is measured has processor %s; load and pods have %d others.\n\n", o.runs, o.length, nginxVersion(ctx), traefikVersion, o.inside, runtime.NumCPU())
	fmt.Printf("| pod, body each way | | rate /s | added mean | added p50 | added p99 | requests per CPU-second | memory | failed |\n|---|---|---|---|---|---|---|---|---|\n")
	limits := map[string]float64{}
	for _, s := range []scenario{
		{"null, 1 KB", 1 << 10, 0, 0.5}, {"null, 1 KB", 1 << 10, 0, 0.25}, {"null, 1 MB", 1 << 20, 0, 0.5},
		{"100 ms, 1 KB", 1 << 10, 100 * time.Millisecond, 0.5}, {"100 ms, 1 MB", 1 << 20, 100 * time.Millisecond, 0.5},
	} {
		if limits[s.title] == 0 {
			limit, busy, err := o.limit(ctx, s, fe)
			if err != nil {
				return err
			}
			fmt.Printf("| %s: Berth at its limit, with %.0f %% of a processor | | %.0f | | | | | | |\n", s.title, 100*busy, limit)
			limits[s.title] = limit
		}
		if err := o.compareOne(ctx, s, ways, math.Round(limits[s.title]*s.share)); err != nil {
			return err
		}
	}
	return nil
}

// limit is the highest rate that Berth keeps up with, in requests a second, in steps of a tenth: it answers all, 99 of 100 of them
// within onTime of what the pod takes, at one of its tries. busy is how many processors the front end used then.
func (o *options) limit(ctx context.Context, s scenario, fe *process) (limit, busy float64, err error) {
	const (
		onTime = 50 * time.Millisecond
		tries  = 3 // the machine may stand still for a moment
	)
	body := make([]byte, s.size)
	// Who waits for an answer before asking again gets more answers than a rate does, from a pod that takes no time.
	closed := load{targets: []vegeta.Target{post(url(compared), body, 0)}, workers: 32, length: o.length}
	if _, err := closed.run(ctx); err != nil { // warm
		return 0, 0, err
	}
	m, err := closed.run(ctx)
	if err != nil {
		return 0, 0, err
	}
	targets := []vegeta.Target{post(url(compared), body, s.delay)}
	missed := 0
	for rate := 0.25 * m.Throughput; missed < tries; {
		var cpu time.Duration
		if m, err = (load{targets: targets, rate: rate, length: o.length}).steady(ctx, func() { cpu = fe.cpu() }); err != nil {
			return 0, 0, err
		}
		if failures(m) > 0 || m.Latencies.P99 > s.delay+onTime || m.Requests == 0 {
			missed++
			continue
		}
		limit, busy, missed = rate, (fe.cpu()-cpu).Seconds()/o.length.Seconds(), 0
		rate *= 1.1
	}
	if limit == 0 {
		return 0, 0, errors.New("Berth keeps up with no rate")
	}
	return limit, busy, nil
}

// compareOne loads all ways at the same rate, one after the other, as often as there are runs.
func (o *options) compareOne(ctx context.Context, s scenario, ways []way, rate float64) error {
	body, results := make([]byte, s.size), map[string][]result{}
	for run := range o.runs {
		var straight *vegeta.Metrics
		for i := range ways {
			w := ways[0]
			if i > 0 { // in another order in each run
				w = ways[1+(i-1+run)%(len(ways)-1)]
			}
			goOn := w.alone(ways)
			var cpu time.Duration
			m, err := load{targets: []vegeta.Target{post(w.url, body, s.delay)}, rate: rate, length: o.length}.steady(ctx, func() {
				if w.proc != nil {
					cpu = w.proc.cpu()
				}
			})
			goOn()
			if err != nil {
				return err
			}
			r := result{mean: m.Latencies.Mean, p50: m.Latencies.P50, p99: m.Latencies.P99, failed: failures(m)}
			if w.proc == nil {
				if r.failed > 0 {
					return errors.New("the pod itself did not answer all requests")
				}
				straight = m
			} else {
				r.mean, r.p50, r.p99 = r.mean-straight.Latencies.Mean, r.p50-straight.Latencies.P50, r.p99-straight.Latencies.P99
				r.perCPU, r.memory = float64(m.Requests)/max(0.01, (w.proc.cpu()-cpu).Seconds()), w.proc.memory()
			}
			results[w.name] = append(results[w.name], r)
		}
	}
	per := map[string]float64{}
	for _, w := range ways {
		rs, failed := results[w.name], 0
		for _, r := range rs {
			failed += r.failed
		}
		of := func(get func(result) float64) []float64 {
			var all []float64
			for _, r := range rs {
				all = append(all, get(r))
			}
			slices.Sort(all)
			return all
		}
		p99, cpu := of(func(r result) float64 { return ms(r.p99) }), of(func(r result) float64 { return r.perCPU })
		per[w.name] = middle(cpu)
		cost := " | "
		if w.proc != nil {
			cost = fmt.Sprintf("%.0f (%.0f to %.0f) | %.0f MiB", middle(cpu), cpu[0], cpu[len(cpu)-1], middle(of(func(r result) float64 { return r.memory })))
		}
		fmt.Printf("| %s | %s | %.0f | %.2f ms | %.2f ms | %.2f ms (%.2f to %.2f) | %s | %d |\n", s.title, w.name, rate,
			middle(of(func(r result) float64 { return ms(r.mean) })), middle(of(func(r result) float64 { return ms(r.p50) })), middle(p99), p99[0], p99[len(p99)-1], cost, failed)
	}
	fmt.Printf("| %s | Berth's requests per CPU-second: %.2f of Traefik's, %.2f of nginx's | | | | | | | |\n", s.title, per["Berth"]/per["Traefik"], per["Berth"]/per["nginx"])
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// middle of what is sorted.
func middle[T any](all []T) T { return all[len(all)/2] }
