package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane/build"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/serving"
)

type object = resource.Object[WebService]

const (
	atOnce      = time.Millisecond       // for a pass whose only aim is that something is stored before the next
	rolloutPoll = 200 * time.Millisecond // while pods start
	troublePoll = time.Second            // while they have trouble
	buildPoll   = time.Second            // while images are made, for the log; the end of a build wakes
	watchPoll   = 5 * time.Second        // of a web service that serves
	failedPoll  = 15 * time.Second       // of one that does not: nodes may have come
	logsPoll    = 10 * time.Second       // of what containers say that start for long
	// crashes is how often a new container may end before its deployment fails: the second time is no accident.
	crashes = 2
	// pullWait is how long an image may be out of reach of nodes: a registry that restarts is back by then.
	pullWait = 2 * time.Minute
	// spread is how long front ends may take to learn of a route.
	spread = 5 * time.Second
	// DefaultScheduleWait is the original's limit.
	DefaultScheduleWait = 5 * time.Minute
)

// plan is what a cluster is to have of a web service, without its keys.
type plan struct {
	Generation int64              `json:"generation"` // of the web service that wants it
	Workloads  []serving.Workload `json:"workloads"`
	Versions   []route.Version    `json:"versions"`
	Auth       route.AuthMode     `json:"auth"`
}

// memory is what the reconciler remembers of a web service. A web service whose client wants nothing new is kept as it
// is by nothing else: what it was made of may be gone by then.
type memory struct {
	Operation string         `json:"operation,omitempty"` // whose log Lines is
	Lines     []string       `json:"lines,omitempty"`     // yyyymmddHHMMSS|text
	Seen      map[string]int `json:"heard,omitempty"`     // lines of the builds that are in Lines, by version
	Submitted bool           `json:"submitted,omitempty"` // the images are there, and the cluster was told
	// Next is what is to serve, from when its images are there until it serves or fails. It is stored before the cluster
	// hears of it. A first deployment that failed stays Next, because it may serve yet.
	Next *plan `json:"next,omitempty"`
	// Good is what serves: the last Next that came to.
	Good *plan `json:"good,omitempty"`
	// Failed is the generation that failed because of Why; 0 for none.
	Failed int64         `json:"failed,omitempty"`
	Why    *armerr.Error `json:"why,omitempty"`
	// Prune is when workloads go that are not of Good: a little after the route has left them. Zero when they are gone.
	Prune   time.Time       `json:"prune,omitzero"`
	Looked  time.Time       `json:"looked,omitzero"` // at what containers say that start for long
	Written serving.Written `json:"written,omitempty"`
}

func recall(raw json.RawMessage) (memory, error) {
	m := memory{Written: serving.Written{}}
	if len(raw) == 0 {
		return m, nil
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("what is known of the web service cannot be read: %w", err)
	}
	return m, nil
}

// say adds a line to the operation's log. Clients split it at # and |.
func (m *memory) say(now time.Time, text string) {
	text = strings.NewReplacer("#", " ", "|", " ", "\n", " ").Replace(text)
	m.Lines = append(m.Lines, now.UTC().Format("20060102150405")+"|"+text)
}

// hear adds to the log what a version's build says that is not in it yet.
func (m *memory) hear(now time.Time, version string, lines []string) {
	if m.Seen == nil {
		m.Seen = map[string]int{}
	}
	for ; m.Seen[version] < len(lines); m.Seen[version]++ {
		m.say(now, lines[m.Seen[version]])
	}
}

// isFresh reports whether the reconciler has yet to come to an end with what the client wants.
func isFresh(o *object) bool { return o.Row.Observed != o.Row.Generation }

func (s *Service) reconcile(ctx context.Context, o *object) resource.Outcome {
	mem, err := recall(o.Record.Data)
	if err != nil {
		return resource.Retry(err)
	}
	if o.Operation != nil && mem.Operation != o.Operation.ID {
		mem.Operation, mem.Lines, mem.Seen, mem.Submitted = o.Operation.ID, nil, nil, false
	}
	out := s.step(ctx, o, &mem)
	data, err := json.Marshal(mem)
	if err != nil {
		return resource.Retry(err)
	}
	o.Record.Data = data
	return out
}

// pass is one look at a web service and its cluster.
type pass struct {
	*Service
	*object
	mem     *memory
	place   Place
	cluster *serving.Cluster
}

func (s *Service) step(ctx context.Context, o *object, mem *memory) resource.Outcome {
	if why := o.Record.Error; !isFresh(o) && mem.Failed != o.Row.Generation && why != nil && why.Code == armerr.CodeOperationTimedOut {
		mem.fail(o, why)
	}
	place, err := s.Place(ctx, o.ID.Parent().Child("computes", o.Spec.Properties.ComputeName))
	var refused *armerr.Error
	if errors.As(err, &refused) {
		if isFresh(o) {
			mem.fail(o, refused)
		}
		o.Status.Properties.State = "Failed"
		return resource.Failed(refused, failedPoll)
	}
	if err != nil {
		return resource.Retry(err)
	}
	cluster, err := s.open(place)
	if err != nil {
		return resource.Retry(err)
	}
	if place.Address != "" {
		o.Status.Properties.ScoringURI = place.Address + "/api/v1/service/" + o.ID.Name() + "/score"
	}
	p := &pass{s, o, mem, place, cluster}
	switch {
	case isFresh(o) && mem.Failed != o.Row.Generation:
		return p.deploy(ctx)
	case mem.Good != nil:
		return p.keep(ctx)
	}
	return p.hope(ctx)
}

// fail notes that the present generation failed. What served before goes on.
func (m *memory) fail(o *object, why *armerr.Error) {
	if m.Good != nil {
		kept := *why
		kept.Message = "The update failed, and what was deployed before goes on serving. " + why.Message
		why = &kept
		m.Next, m.Prune = nil, later(m.Prune, o.Now) // no route led to what it added
	}
	m.Failed, m.Why = o.Row.Generation, why
}

// deploy brings what a client wants. Callers notice nothing until it serves.
func (p *pass) deploy(ctx context.Context) resource.Outcome {
	o, mem := p.object, p.mem
	if mem.Good != nil {
		if err := p.lead(ctx, mem.meanwhile(), mem.Good.Auth); err != nil {
			return resource.Retry(err)
		}
	}
	if mem.Next == nil || mem.Next.Generation != o.Row.Generation {
		next, wait, failed := p.build(ctx, o, mem, p.place)
		if failed != nil {
			return p.fail(ctx, failed)
		}
		if wait != "" {
			return resource.Waiting(buildPoll, wait)
		}
		mem.say(o.Now, "Submitting deployment to compute.")
		mem.Next, mem.Submitted = next, true
		return resource.Waiting(atOnce, "the cluster to be told")
	}
	waiting, trouble, err := p.roll(ctx)
	switch {
	case err != nil:
		return resource.Retry(err)
	case trouble != nil && p.hopeless(o.Now, trouble):
		p.cluster.Explain(ctx, trouble)
		why := problem(trouble)
		if trouble.Code == serving.Unschedulable {
			why.Message = fmt.Sprintf("Couldn't schedule because the kubernetes cluster didn't have available resources after trying for %s. %s", clock(p.ScheduleWait), why.Message)
		}
		return p.fail(ctx, why)
	case waiting != "":
		o.Status.Properties.State = ""
		if trouble != nil {
			return resource.Waiting(troublePoll, waiting)
		}
		return resource.Waiting(rolloutPoll, waiting)
	}
	mem.say(o.Now, "The deployment serves at "+o.Status.Properties.ScoringURI)
	o.Status.Properties.State = "Healthy"
	return resource.Done(watchPoll)
}

// fail ends a deployment.
func (p *pass) fail(ctx context.Context, why *armerr.Error) resource.Outcome {
	p.mem.say(p.Now, "The deployment failed: "+why.Message)
	p.mem.fail(p.object, why)
	if p.mem.Good != nil {
		return p.keep(ctx)
	}
	p.Status.Properties.State = failedState(why)
	return resource.Failed(why, failedPoll)
}

// roll has the cluster run Next, and the route lead to it once it serves or when nothing served before. waiting is what it waits for, "" when Next has
// become Good; trouble is why it does not serve.
func (p *pass) roll(ctx context.Context) (waiting string, trouble *serving.Problem, err error) {
	next := p.mem.Next
	err = p.apply(ctx, next)
	if text := serving.Refusal(err); text != "" {
		return "Kubernetes to take it", &serving.Problem{Code: serving.Refused, Message: "Kubernetes refuses the deployment: " + text}, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("deploying to the cluster: %w", err)
	}
	if p.mem.Good == nil { // so that callers of a first deployment hear that no replica is ready, and not that there is no web service
		if err := p.lead(ctx, next.Versions, next.Auth); err != nil {
			return "", nil, err
		}
	}
	seen, err := p.observe(ctx, next)
	if err != nil {
		return "", nil, err
	}
	for i, see := range seen {
		if see.RolledOut {
			continue
		}
		if waiting == "" {
			waiting = fmt.Sprintf("the replicas of %s: %d of %d serve", next.Workloads[i].Name, see.Available, see.Desired)
			if see.Problem != nil {
				waiting += " (" + see.Problem.Message + ")"
			}
		}
		if trouble == nil || see.Problem != nil && p.hopeless(p.Now, see.Problem) {
			trouble = see.Problem
		}
	}
	if waiting == "" && p.place.Waiting != "" {
		waiting = "the front end: " + p.place.Waiting
	}
	if waiting != "" {
		return waiting, trouble, nil
	}
	if p.mem.Good != nil {
		if err := p.lead(ctx, next.Versions, next.Auth); err != nil {
			return "", nil, err
		}
	}
	p.mem.serve(p.Now)
	return "", nil, nil
}

// serve makes Next Good. What the route led to before stays until front ends have left it, and requests that wait for
// its pods have got one.
func (m *memory) serve(now time.Time) {
	m.Prune = now.Add(spread)
	if m.Good != nil {
		for _, v := range m.Good.Versions {
			m.Prune = later(m.Prune, now.Add(spread+v.QueueWait))
		}
	}
	if m.Failed == m.Next.Generation {
		m.Failed, m.Why = 0, nil
	}
	m.Good, m.Next = m.Next, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// meanwhile are the versions of the route while Next starts: those of Good, with the bounds of Next's replicas, so that
// front ends do not scale against what is to come.
func (m *memory) meanwhile() []route.Version {
	out := slices.Clone(m.Good.Versions)
	if m.Next == nil {
		return out
	}
	for i := range out {
		for _, v := range m.Next.Versions {
			if v.Workload == out[i].Workload {
				out[i].Scale = v.Scale
			}
		}
	}
	return out
}

// keep has the cluster go on with Good, whatever became of an update. After one that failed the error of the web service
// says why, its state how the earlier deployment does.
func (p *pass) keep(ctx context.Context) resource.Outcome {
	o, mem := p.object, p.mem
	if err := p.apply(ctx, mem.Good); err != nil {
		return resource.Retry(fmt.Errorf("keeping what serves: %w", err))
	}
	if err := p.lead(ctx, mem.Good.Versions, mem.Good.Auth); err != nil {
		return resource.Retry(err)
	}
	if !mem.Prune.IsZero() && !o.Now.Before(mem.Prune) {
		if err := p.cluster.Prune(ctx, o.ID.Name(), mem.Good.Workloads, mem.Written); err != nil {
			return resource.Retry(err)
		}
		mem.Prune = time.Time{}
	}
	seen, err := p.observe(ctx, mem.Good)
	if err != nil {
		return resource.Retry(err)
	}
	o.Status.Properties.State = "Healthy"
	var lost *armerr.Error
	for _, see := range seen {
		if see.Available >= see.Desired {
			continue
		}
		o.Status.Properties.State = "Unhealthy"
		if pr := see.Problem; pr != nil && pr.Code == serving.InaccessibleImage && p.hopeless(o.Now, pr) {
			lost = problem(pr)
			lost.Message += " If the registry has lost it, deploy again: that makes it anew."
		}
	}
	switch {
	case mem.Failed == o.Row.Generation:
		return resource.Failed(mem.Why, watchPoll)
	case lost != nil:
		return resource.Failed(lost, watchPoll)
	}
	return resource.Done(watchPoll)
}

// hope looks after a first deployment that failed: it may yet come to serve, e.g. when nodes come.
func (p *pass) hope(ctx context.Context) resource.Outcome {
	why := p.mem.Why
	if why == nil {
		why = armerr.New(armerr.CodeConflict, "The deployment failed. Deploy again.")
	}
	p.Status.Properties.State = failedState(why)
	if p.mem.Next == nil && why.Code == armerr.CodeRegistryNotUsable { // which may be usable now
		next, wait, failed := p.build(ctx, p.object, p.mem, p.place)
		if wait != "" || failed != nil {
			return resource.Failed(why, failedPoll)
		}
		p.mem.Next = next
		return resource.Failed(why, rolloutPoll)
	}
	if p.mem.Next == nil {
		return resource.Failed(why, failedPoll)
	}
	waiting, _, err := p.roll(ctx)
	if err != nil {
		return resource.Retry(err)
	}
	if waiting != "" {
		return resource.Failed(why, failedPoll)
	}
	return p.keep(ctx)
}

// apply has the cluster run a plan's workloads.
func (p *pass) apply(ctx context.Context, what *plan) error {
	for i := range what.Workloads {
		what.Workloads[i].InPlace = p.Spec.Tags[TagMaxSurge] == "0"
	}
	return p.cluster.Apply(ctx, what.Workloads, p.mem.Written)
}

// lead writes the route. Its keys are the present ones: one that was taken back counts no more, whatever becomes of a deployment.
func (p *pass) lead(ctx context.Context, versions []route.Version, auth route.AuthMode) error {
	r, err := p.route(ctx, p.object, versions, auth)
	if err != nil {
		return err
	}
	return p.cluster.Route(ctx, r)
}

// observe looks at a plan's workloads, and says in the status how they do.
func (p *pass) observe(ctx context.Context, what *plan) ([]serving.Observation, error) {
	logs := p.Now.Sub(p.mem.Looked) >= logsPoll
	before, deployed, seen := p.Status.Properties.Deployed, map[string]*Deployed{}, []serving.Observation(nil)
	for i := range what.Workloads {
		w := &what.Workloads[i]
		see, err := p.cluster.Observe(ctx, w.Name, logs)
		if err != nil {
			return nil, fmt.Errorf("looking at the deployment %s: %w", w.Name, err)
		}
		d := &Deployed{Image: w.Image, Desired: see.Desired, Updated: see.Updated, Available: see.Available}
		switch old := before[w.Version]; {
		case see.Problem != nil:
			if d.Error, err = json.Marshal(problem(see.Problem)); err != nil {
				return nil, err
			}
		case !see.RolledOut && !logs && old != nil: // only the logs may tell
			d.Error = old.Error
		}
		if !see.RolledOut && logs {
			p.mem.Looked = p.Now
		}
		deployed[w.Version], seen = d, append(seen, see)
	}
	p.Status.Properties.Deployed = deployed
	return seen, nil
}

// failedState is the state of a web service whose deployment failed.
func failedState(why *armerr.Error) string {
	if why.Code == serving.Unschedulable {
		return serving.Unschedulable
	}
	return "Failed"
}

// build makes the images of all versions and returns what is to run. wait says what is not there yet.
func (s *Service) build(ctx context.Context, o *object, mem *memory, place Place) (next *plan, wait string, failed *armerr.Error) {
	var known accesses
	if text, err := o.Secret(accessPath); err == nil {
		known = decodeAccesses(text)
	}
	next = &plan{Generation: o.Row.Generation, Auth: authOf(&o.Spec.Properties)}
	for name, v := range o.Spec.Properties.all() {
		// Sending a deployment that failed again is a new generation, and so a new attempt.
		key := fmt.Sprintf("%s %d %s", incarnation(o.Row), o.Row.Generation, name)
		b := build.Ensure(ctx, s.Builds, key, o.Row.Key, isUsers, func(ctx context.Context, say func(string)) (made, error) {
			return s.make(ctx, o.ID.Parent(), o.ID.Name(), v, known[name], say)
		})
		said, done, m, err := b.Look()
		mem.hear(o.Now, name, said)
		if !done {
			wait = "the images of the deployment"
			continue
		}
		var user *image.UserError
		if errors.As(err, &user) {
			failed = &armerr.Error{Status: 400, Code: user.Code, Message: user.Message, Target: name}
			continue
		}
		var refused *image.RegistryError
		if errors.As(err, &refused) && b.Hopeless() {
			failed = &armerr.Error{Status: 400, Code: armerr.CodeRegistryNotUsable, Message: refused.Message, Target: name}
			continue
		}
		if err != nil {
			wait = "the images of the deployment, whose making will be tried again: " + err.Error()
			continue
		}
		w, rv := workload(o, name, v, m, place)
		next.Workloads, next.Versions = append(next.Workloads, w), append(next.Versions, rv)
	}
	return next, wait, failed
}

// isUsers reports whether an error of a build is the request's, so that another attempt ends in it, too.
func isUsers(err error) bool {
	var user *image.UserError
	return errors.As(err, &user)
}

func workload(o *object, name string, v *Version, m made, place Place) (serving.Workload, route.Version) {
	deployment := workloadName(o.ID.Name(), name)
	timeout := time.Duration(*v.ScoringTimeoutMS) * time.Millisecond
	scale := route.Scale{Auto: *v.AutoScaler.Enabled, Refresh: time.Second}
	if scale.Auto {
		scale.Min, scale.Max = *v.AutoScaler.MinReplicas, *v.AutoScaler.MaxReplicas
		scale.Utilization, scale.Refresh = *v.AutoScaler.Utilization, time.Duration(*v.AutoScaler.Refresh)*time.Second
	} else {
		scale.Min, scale.Max = *v.NumReplicas, *v.NumReplicas
	}
	deref := func(p *float64) float64 {
		if p == nil {
			return 0
		}
		return *p
	}
	l := v.Liveness
	wl := serving.Workload{
		Name: deployment, Service: o.ID.Name(), Version: name, Image: string(m.Image), Command: m.Command, Env: m.Env, Mounts: m.Mounts,
		CPU: *v.Resources.CPU, CPULimit: deref(v.Resources.CPULimit), Memory: *v.Resources.Memory, MemoryMax: deref(v.Resources.MemoryLimit), GPU: *v.Resources.GPU,
		Liveness: serving.Liveness{InitialDelay: *l.InitialDelay, Period: *l.Period, Timeout: *l.Timeout, Success: *l.Success, Failure: *l.Failure},
		Timeout:  timeout, PullSecret: place.PullSecret, Scale: scale,
	}
	rv := route.Version{
		Name: name, Workload: deployment, Default: v.IsDefault != nil && *v.IsDefault || name == "",
		MaxConcurrent: *v.MaxConcurrent, QueueWait: time.Duration(*v.MaxQueueWaitMS) * time.Millisecond, Timeout: timeout, MaxBody: route.MaxBody, Scale: scale,
	}
	if v.TrafficPercentile != nil {
		rv.Percent = *v.TrafficPercentile
	}
	return wl, rv
}

func problem(p *serving.Problem) *armerr.Error {
	e := &armerr.Error{Status: 400, Code: p.Code, Message: p.Message}
	for _, ev := range p.Events {
		data, err := json.Marshal(ev)
		if err == nil { // strings always marshal
			e.Details = append(e.Details, &armerr.Error{Code: ev.Reason, Message: string(data)})
		}
	}
	return e
}

// clock is a duration as hh:mm:ss.
func clock(d time.Duration) string {
	d = d.Round(time.Second)
	return fmt.Sprintf("%02d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
}

// hopeless reports whether a problem will not pass by waiting.
func (s *Service) hopeless(now time.Time, p *serving.Problem) bool {
	switch p.Code {
	case serving.CrashLoopBackOff, serving.OutOfMemory:
		return p.Times >= crashes
	case serving.Unschedulable:
		return now.Sub(p.Since) > s.ScheduleWait
	}
	return now.Sub(p.Since) > pullWait // one that Kubernetes refuses outright is since always
}

func (s *Service) finalize(ctx context.Context, o *object) resource.Outcome {
	place, err := s.Place(ctx, o.ID.Parent().Child("computes", o.Spec.Properties.ComputeName))
	var refused *armerr.Error
	if errors.As(err, &refused) {
		return resource.Gone() // the compute is gone, and with it all that was on it
	}
	if err != nil {
		return resource.Retry(err)
	}
	cluster, err := s.open(place)
	if err != nil {
		return resource.Retry(err)
	}
	done, err := cluster.Remove(ctx, o.ID.Name())
	if err != nil {
		return resource.Retry(fmt.Errorf("removing the service from the cluster: %w", err))
	}
	if !done {
		return resource.Waiting(rolloutPoll, "the service's pods to end")
	}
	return resource.Gone()
}
