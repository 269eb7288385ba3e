package frontend

import (
	"context"
	"slices"
	"sync"
	"time"
)

// maxQueued bounds how many requests wait for one version's pods: more than a second of work for any
// number of pods is better refused, so that the client can go elsewhere.
const maxQueued = 2000

// pool is the pods of one version, and who waits for them. A pod does at most limit requests at a time;
// who comes first is served first, by the pod that has least to do.
type pool struct {
	mu      sync.Mutex
	limit   int
	pods    []*pod
	next    int // where the search for a free one begins, so that equals take turns
	queue   []*waiter
	changed func() // told when a request finds no pods, so that scaling need not wait for its next look
	last    time.Time
	routes  int // versions of routes that lead here; guarded by the front end
}

type pod struct {
	addr   string
	busy   int
	usable bool // as Kubernetes sees it
	// answered is when it last did.
	answered time.Time
	// doubt is until when it gets no requests, because something failed there; zero when nothing did. An answer ends it sooner, and
	// Kubernetes that sees the pod become usable. Kubernetes may never notice what went wrong, so the pod has
	// to be tried again.
	doubt time.Time
}

const (
	// refusedFor is how long a pod is in doubt that did not take a connection.
	refusedFor = time.Second
	// closedFor is how long a pod is in doubt that closed a connection without an answer. A container that is killed closes one
	// after the other while its processes end, and until then its machine takes connections for it: who comes next would be
	// lost as well. With little CPU to spend the container may have to wait for the next period of its limit,
	// 100 ms, before it ends. Afterwards it refuses, which loses nothing.
	closedFor = 250 * time.Millisecond
)

func (d *pod) serves() bool { return d.usable && d.doubt.IsZero() }

type waiter struct {
	given chan *pod // capacity 1
	done  bool
}

func newPool(changed func()) *pool {
	return &pool{limit: 1, changed: changed, last: time.Now()}
}

// setLimit changes how many requests a pod does at a time.
func (p *pool) setLimit(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = n
	p.hand()
}

// setPods says which pods there are (true: usable). Pods that went finish what they have.
func (p *pool) setPods(pods map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pods = slices.DeleteFunc(p.pods, func(d *pod) bool { _, there := pods[d.addr]; return !there })
	have := map[string]*pod{}
	for _, d := range p.pods {
		have[d.addr] = d
	}
	for addr, usable := range pods {
		d := have[addr]
		if d == nil {
			d = &pod{addr: addr}
			p.pods = append(p.pods, d)
		}
		if usable && !d.usable {
			d.doubt = time.Time{}
		}
		d.usable = usable
	}
	p.hand()
}

// empty reports whether there are no pods.
func (p *pool) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pods) == 0
}

// free is the usable pod with least to do, nil when all are busy. One with nothing to do ends the search.
func (p *pool) free() *pod {
	var best *pod
	for i := range p.pods {
		d := p.pods[(p.next+i)%len(p.pods)]
		if !d.serves() || d.busy >= p.limit || best != nil && d.busy >= best.busy {
			continue
		}
		if best = d; d.busy == 0 {
			p.next = (p.next + i + 1) % len(p.pods)
			break
		}
	}
	return best
}

// hand gives free pods to who waits longest. p.mu is held.
func (p *pool) hand() {
	for len(p.queue) > 0 {
		d := p.free()
		if d == nil {
			return
		}
		w := p.queue[0]
		p.queue = p.queue[1:]
		w.done = true
		d.busy++
		w.given <- d
	}
}

// Reasons why there is no pod.
type refusal int

const (
	overloaded refusal = iota + 1 // all pods are busy, and stayed so
	noReplicas                    // no pod serves
	clientGone
)

// acquire takes a pod, waiting for one for at most wait, or for cold when none serves.
func (p *pool) acquire(ctx context.Context, wait, cold time.Duration) (*pod, refusal) {
	p.mu.Lock()
	p.last = time.Now()
	if len(p.queue) == 0 {
		if d := p.free(); d != nil {
			d.busy++
			p.mu.Unlock()
			return d, 0
		}
	}
	if len(p.queue) >= maxQueued {
		p.mu.Unlock()
		return nil, overloaded
	}
	w := &waiter{given: make(chan *pod, 1)}
	p.queue = append(p.queue, w)
	if p.serving() == 0 {
		wait = max(wait, cold)
	}
	none := len(p.pods) == 0
	p.mu.Unlock()
	if none {
		p.changed()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	why := overloaded
	select {
	case d := <-w.given:
		return d, 0
	case <-timer.C:
	case <-ctx.Done():
		why = clientGone
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.done { // given at the same moment
		d := <-w.given
		if why == clientGone {
			p.drop(d)
			return nil, why
		}
		return d, 0
	}
	p.queue = slices.DeleteFunc(p.queue, func(o *waiter) bool { return o == w })
	if why == overloaded && p.serving() == 0 {
		why = noReplicas
	}
	return nil, why
}

func (p *pool) serving() int {
	n := 0
	for _, d := range p.pods {
		if d.serves() {
			n++
		}
	}
	return n
}

// answered gives a pod back that answered.
func (p *pool) answered(d *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.answered, d.doubt = time.Now(), time.Time{}
	p.drop(d)
}

// release gives a pod back of which nothing was learned.
func (p *pool) release(d *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(d)
}

// refused gives a pod back that did not take a connection, which was asked for at a time. If it has answered others since, it is well,
// and what had too much to do is the network or a machine. To take it from all who ask would make that worse, as
// they would all connect anew afterwards.
func (p *pool) refused(d *pod, asked time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !d.answered.After(asked) {
		p.suspect(d, refusedFor)
	}
	p.drop(d)
}

// closed gives a pod back that closed a connection without an answer.
func (p *pool) closed(d *pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suspect(d, closedFor)
	p.drop(d)
}

// suspect keeps a pod from everybody for a while, or for longer if it was to be for longer. p.mu is held.
func (p *pool) suspect(d *pod, long time.Duration) {
	until := time.Now().Add(long)
	if d.doubt.After(until) {
		return
	}
	d.doubt = until
	time.AfterFunc(long, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if d.doubt.Equal(until) { // and not that of a later failure
			d.doubt = time.Time{}
			p.hand()
		}
	})
}

// drop is release with p.mu held.
func (p *pool) drop(d *pod) {
	d.busy--
	p.last = time.Now()
	p.hand()
}

// load is what scaling goes by.
type load struct {
	busy, queued, replicas int
	idle                   time.Duration // since the last request began or ended
}

func (p *pool) load(now time.Time) load {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := load{queued: len(p.queue), replicas: len(p.pods), idle: now.Sub(p.last)}
	for _, d := range p.pods {
		if d.busy > 0 {
			l.busy++
		}
	}
	if l.busy > 0 {
		l.idle = 0
	}
	return l
}
