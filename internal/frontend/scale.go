package frontend

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthdev/berth/internal/route"
)

const (
	// downAfter is how long a smaller number of replicas must have been enough, as documented for the original.
	downAfter = time.Minute
	// sleepAfter is how long a version that may sleep waits for another request first.
	sleepAfter = 10 * time.Minute
	// lookEvery is how often it is looked whose next decision is due.
	lookEvery = 100 * time.Millisecond
	// early is how much before the end of its period a decision may come: with the shortest period, a second, it
	// and its way to Kubernetes then take no longer than that, and a look that comes a moment too early need not wait
	// for another.
	early = 125 * time.Millisecond
)

// wanted is the number of replicas that a load needs: so many that busy replicas and queued requests are
// the target share of them, by the original's formula. Where a container takes several requests at a time, so
// many queued ones count as one replica's work, as in the original's formula for planning.
func wanted(s route.Scale, l load, maxConcurrent int) int {
	work := float64(l.busy) + float64(l.queued)/float64(max(1, maxConcurrent))
	n := int(math.Ceil(work * 100 / float64(s.Utilization)))
	if n == 0 && (l.idle < sleepAfter && l.replicas > 0 || s.Min > 0) {
		n = 1
	}
	return min(max(n, s.Min), s.Max)
}

// history is what a version wanted lately, so that it is scaled down by the most it needed within downAfter.
type history struct {
	next   time.Time
	peaks  []peak
	moving atomic.Bool // the workload is being scaled
}

type peak struct {
	at time.Time
	n  int
}

// decide is the number of replicas that there should be now.
func (h *history) decide(now time.Time, want, have int) int {
	if h.peaks == nil { // a front end that starts, or takes a service over, knows nothing of the last minute
		h.peaks = []peak{{now, have}}
	}
	h.peaks = append(h.peaks, peak{now, want})
	i := 0
	for i < len(h.peaks) && now.Sub(h.peaks[i].at) > downAfter {
		i++
	}
	h.peaks = h.peaks[i:]
	most := 0
	for _, p := range h.peaks {
		most = max(most, p.n)
	}
	if want > have {
		return want
	}
	return min(have, most)
}

// maxScaling bounds how many workloads are being scaled at a time.
const maxScaling = 32

// scaling is the scaling of a front end's services.
type scaling struct {
	front     *FrontEnd
	scaler    Scaler
	replicas  func(workload string) (int, bool)
	histories map[string]*history // by workload
	calls     errgroup.Group      // calls of scaler, at most maxScaling of them: one that hangs holds up no other workload
}

func (f *FrontEnd) scaling(scaler Scaler, replicas func(string) (int, bool)) *scaling {
	s := &scaling{front: f, scaler: scaler, replicas: replicas, histories: map[string]*history{}}
	s.calls.SetLimit(maxScaling)
	return s
}

// Run scales the services of this front end until ctx ends. replicas reports how many a workload is
// set to, and false when that is not known.
func (f *FrontEnd) Run(ctx context.Context, scaler Scaler, replicas func(workload string) (int, bool)) {
	s := f.scaling(scaler, replicas)
	defer func() { _ = s.calls.Wait() }() // they return no errors
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.wake:
		}
		s.look(ctx, f.now())
	}
}

// look scales what is due. Who waits longest is first, so that calls that hang do not take all places again and again.
func (s *scaling) look(ctx context.Context, now time.Time) {
	seen, due := map[string]bool{}, []decision{}
	for _, e := range s.front.all() {
		for _, v := range e.versions {
			if !v.Scale.Auto || !s.front.owns(e) {
				continue
			}
			seen[v.Workload] = true
			h := s.histories[v.Workload]
			if h == nil {
				h = &history{}
				s.histories[v.Workload] = h
			}
			l := v.pool.load(now)
			waking := l.replicas == 0 && l.queued > 0
			if (waking || !now.Before(h.next)) && !h.moving.Load() {
				due = append(due, decision{v, h, l})
			}
		}
	}
	slices.SortFunc(due, func(a, b decision) int { return a.history.next.Compare(b.history.next) })
	for _, d := range due {
		s.decide(ctx, now, d)
	}
	for w, h := range s.histories {
		if !seen[w] && !h.moving.Load() { // a call under way is remembered, so that there is no other beside it
			delete(s.histories, w)
		}
	}
}

// decision is one that is due.
type decision struct {
	*version
	history *history
	load    load
}

// decide has a version scaled if it wants other replicas than it has.
func (s *scaling) decide(ctx context.Context, now time.Time, d decision) {
	have, ok := s.replicas(d.Workload)
	if !ok {
		return
	}
	h := d.history
	to := min(h.decide(now, wanted(d.Scale, d.load, d.MaxConcurrent), have), d.Scale.Max)
	next := now.Add(d.Scale.Refresh - early)
	if to == have {
		h.next = next
		return
	}
	h.moving.Store(true)
	started := s.calls.TryGo(func() error {
		defer h.moving.Store(false)
		log := s.front.log.With("workload", d.Workload, "from", have, "to", to)
		if err := s.scaler.Scale(ctx, d.Workload, to); err != nil {
			log.Warn("scaling failed; it is tried again", "error", err)
			return nil
		}
		log.Info("scaled", "busy", d.load.busy, "queued", d.load.queued)
		return nil
	})
	if !started { // the next look tries again
		h.moving.Store(false)
		return
	}
	h.next = next
}
