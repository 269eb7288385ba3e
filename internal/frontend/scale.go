package frontend

import (
	"context"
	"math"
	"time"

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
	next  time.Time
	peaks []peak
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

// Run scales the services of this front end until ctx ends. replicas reports how many a workload is
// set to, and false when that is not known.
func (f *FrontEnd) Run(ctx context.Context, scaler Scaler, replicas func(workload string) (int, bool)) {
	histories := map[string]*history{}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.wake:
		}
		f.scale(f.now(), histories, scaler, replicas)
	}
}

func (f *FrontEnd) scale(now time.Time, histories map[string]*history, scaler Scaler, replicas func(string) (int, bool)) {
	seen := map[string]bool{}
	for _, e := range f.all() {
		for _, v := range e.versions {
			if !v.Scale.Auto || !f.owns(e) {
				continue
			}
			l := v.pool.load(now)
			seen[v.Workload] = true
			h := histories[v.Workload]
			if h == nil {
				h = &history{}
				histories[v.Workload] = h
			}
			waking := l.replicas == 0 && l.queued > 0
			if now.Before(h.next) && !waking {
				continue
			}
			have, ok := replicas(v.Workload)
			if !ok {
				continue
			}
			h.next = now.Add(v.Scale.Refresh - early)
			to := min(h.decide(now, wanted(v.Scale, l, v.MaxConcurrent), have), v.Scale.Max)
			if to == have {
				continue
			}
			if err := scaler.Scale(v.Workload, to); err != nil {
				f.log.Warn("scaling failed; it is tried again", "workload", v.Workload, "from", have, "to", to, "error", err)
				continue
			}
			f.log.Info("scaled", "workload", v.Workload, "from", have, "to", to, "busy", l.busy, "queued", l.queued)
		}
	}
	for w := range histories {
		if !seen[w] {
			delete(histories, w)
		}
	}
}
