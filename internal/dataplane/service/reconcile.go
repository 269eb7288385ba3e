package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/serving"
	"github.com/berthdev/berth/internal/store"
)

type object = resource.Object[WebService]

const (
	atOnce      = time.Millisecond       // for a pass whose only aim is that something is stored before the next
	rolloutPoll = 200 * time.Millisecond // while pods start
	watchPoll   = 5 * time.Second        // of a web service that serves
	failedPoll  = 15 * time.Second       // of one that does not: nodes may have come
	// crashes is how often a new container may end before its deployment fails: the second time is no accident.
	crashes = 2
	// pullWait is how long an image, or the registry, may be out of reach: a registry that restarts is back by then.
	pullWait = 2 * time.Minute
	// DefaultScheduleWait is the original's limit.
	DefaultScheduleWait = 5 * time.Minute
)

// memory is what the reconciler remembers of a web service.
type memory struct {
	Operation string         `json:"operation,omitempty"` // whose log Lines is
	Lines     []string       `json:"lines,omitempty"`     // yyyymmddHHMMSS|text
	Seen      map[string]int `json:"heard,omitempty"`     // lines of the builds that are in Lines, by version
	Submitted bool           `json:"submitted,omitempty"` // the images are there, and the cluster was told
	// Images are those that the cluster was told to run, or is about to be, since Good. They are stored before the cluster
	// hears of them, so that they are not removed from the registry.
	Images []string `json:"images,omitempty"`
	// Good is what serves: the workloads and the route's versions of the last rollout that succeeded.
	Good      []serving.Workload `json:"good,omitempty"`
	GoodRoute []route.Version    `json:"goodRoute,omitempty"`
	// Restored is the generation whose rollout failed because of Why, after which the cluster got Good back; 0 for none.
	Restored int64         `json:"restored,omitempty"`
	Why      *armerr.Error `json:"why,omitempty"`
}

func recall(raw json.RawMessage) memory {
	var m memory
	if len(raw) > 0 && json.Unmarshal(raw, &m) != nil {
		return memory{} // it only saves work
	}
	return m
}

// say adds a line to the operation's log. Clients split it at # and |.
func (m *memory) say(now time.Time, text string) {
	text = strings.NewReplacer("#", " ", "|", " ", "\n", " ").Replace(text)
	m.Lines = append(m.Lines, now.UTC().Format("20060102150405")+"|"+text)
}

// hear adds to the log what a version's build says that is not in it yet.
func (m *memory) hear(now time.Time, version string, lines []string) {
	if m.Submitted { // a build that is done again says nothing new
		return
	}
	if m.Seen == nil {
		m.Seen = map[string]int{}
	}
	for ; m.Seen[version] < len(lines); m.Seen[version]++ {
		m.say(now, lines[m.Seen[version]])
	}
}

// good is Good, with what is not stored with it.
func (m *memory) good(o *object) []serving.Workload {
	for i := range m.Good {
		m.Good[i].Scale, m.Good[i].InPlace = m.GoodRoute[i].Scale, inPlace(o)
	}
	return m.Good
}

// isFresh reports whether the reconciler has yet to come to an end with what the client wants.
func isFresh(o *object) bool { return o.Row.Observed != o.Row.Generation }

func (s *Service) reconcile(ctx context.Context, o *object) resource.Outcome {
	mem := recall(o.Record.Data)
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

func (s *Service) step(ctx context.Context, o *object, mem *memory) resource.Outcome {
	w := &o.Spec.Properties
	fresh := isFresh(o)
	place, err := s.Place(ctx, o.ID.Parent().Child("computes", w.ComputeName))
	var refused *armerr.Error
	if errors.As(err, &refused) {
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
	if why := o.Record.Error; !fresh && len(mem.Good) > 0 && mem.Restored != o.Row.Generation && why != nil && why.Code == armerr.CodeOperationTimedOut {
		mem.Restored, mem.Why = o.Row.Generation, why
	}
	if mem.Restored == o.Row.Generation {
		return s.keep(ctx, o, mem, cluster)
	}
	workloads, versions, wait, failed := s.build(ctx, o, mem, place)
	if (failed != nil || wait != "") && !fresh && len(mem.Good) > 0 {
		// Berth was started anew, perhaps with another registry, and looks for the images or makes them again. What serves goes
		// on with those that it has.
		workloads, versions, failed, wait = mem.good(o), mem.GoodRoute, nil, ""
	}
	if failed != nil {
		return s.fail(ctx, o, mem, cluster, failed)
	}
	if wait != "" {
		return resource.Waiting(rolloutPoll, wait)
	}
	if mem.note(workloads) {
		return resource.Waiting(atOnce, "the cluster to be told")
	}
	r, err := s.route(ctx, o, versions)
	if err != nil {
		return resource.Retry(err)
	}
	if fresh && !mem.Submitted {
		mem.say(o.Now, "Submitting deployment to compute.")
		mem.Submitted = true
	}
	if err := cluster.Apply(ctx, o.ID.Name(), workloads, r); err != nil {
		return resource.Retry(fmt.Errorf("deploying to the cluster: %w", err))
	}
	return s.observe(ctx, o, mem, cluster, place, workloads, versions, fresh)
}

// build makes the images of all versions and returns what is to run. wait says what is not there yet.
func (s *Service) build(ctx context.Context, o *object, mem *memory, place Place) (workloads []serving.Workload, versions []route.Version, wait string, failed *armerr.Error) {
	deployed := map[string]*Deployed{}
	var known accesses
	if text, err := o.Secret(accessPath); err == nil {
		known = decodeAccesses(text)
	}
	for name, v := range o.Spec.Properties.all() {
		// Sending a deployment that failed again is a new generation, and so a new attempt.
		plan := fmt.Sprintf("%s %d %s", incarnation(o.Row), o.Row.Generation, name)
		b := s.builds.ensure(plan, s.Manager.Now, func(b *build) (made, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), buildLimit)
			defer cancel()
			m, err := s.make(ctx, o.ID.Parent(), o.ID.Name(), v, known[name], b)
			if err != nil && (b.before == nil || b.before.Error() != err.Error()) {
				s.Logger.Warn("making the images of a web service failed", "service", o.ID.Name(), "version", name, "error", err)
			}
			return m, err
		}, func() { s.wake(o.Row.Key) })
		said, done, m, err := b.look()
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
		if errors.As(err, &refused) && isFresh(o) && b.trying() > pullWait {
			failed = &armerr.Error{Status: 400, Code: armerr.CodeRegistryNotUsable, Message: refused.Message, Target: name}
			continue
		}
		if err != nil {
			wait = "the images of the deployment, whose making will be tried again: " + err.Error()
			continue
		}
		wl, rv := s.workload(o, name, v, m, place)
		workloads, versions = append(workloads, wl), append(versions, rv)
		deployed[name] = &Deployed{Image: string(m.Image)}
		if old := o.Status.Properties.Deployed[name]; old != nil {
			kept := *old
			kept.Image = string(m.Image)
			deployed[name] = &kept
		}
	}
	if wait == "" && failed == nil {
		o.Status.Properties.Deployed = deployed
	}
	return workloads, versions, wait, failed
}

func (s *Service) wake(key string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Manager.Store.Update(ctx, func(tx store.Tx) error { return tx.Wake(key, s.Manager.Now()) }); err != nil {
		s.Logger.Warn("a build ended, and its web service could not be woken; it looks again by itself", "resource", key, "error", err)
	}
}

func (s *Service) workload(o *object, name string, v *Version, m made, place Place) (serving.Workload, route.Version) {
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
		Timeout:  timeout, PullSecret: place.PullSecret, Scale: scale, InPlace: inPlace(o),
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

func inPlace(o *object) bool { return o.Spec.Tags[TagMaxSurge] == "0" }

// observe looks at what runs and says what it means.
func (s *Service) observe(ctx context.Context, o *object, mem *memory, cluster *serving.Cluster, place Place, workloads []serving.Workload, versions []route.Version, fresh bool) resource.Outcome {
	waiting, short := "", false
	for i := range workloads {
		wl := &workloads[i]
		seen, err := cluster.Observe(ctx, wl.Name)
		if err != nil {
			return resource.Retry(fmt.Errorf("looking at the deployment %s: %w", wl.Name, err))
		}
		d := o.Status.Properties.Deployed[wl.Version]
		d.Desired, d.Updated, d.Available, d.Error = seen.Desired, seen.Updated, seen.Available, nil
		if p := seen.Problem; p != nil {
			e := problem(p)
			if d.Error, err = json.Marshal(e); err != nil {
				return resource.Retry(err)
			}
			if fresh && s.hopeless(o.Now, p) {
				if p.Code == serving.Unschedulable {
					e.Message = fmt.Sprintf("Couldn't schedule because the kubernetes cluster didn't have available resources after trying for %s. %s", clock(s.ScheduleWait), e.Message)
				}
				return s.fail(ctx, o, mem, cluster, e)
			}
		}
		if !seen.RolledOut && waiting == "" {
			waiting = fmt.Sprintf("the replicas of %s: %d of %d serve", wl.Name, seen.Available, seen.Desired)
			if seen.Problem != nil {
				waiting += " (" + seen.Problem.Message + ")"
			}
		}
		short = short || seen.Available < seen.Desired
	}
	if waiting == "" && place.Waiting != "" {
		waiting = "the front end: " + place.Waiting
	}
	if fresh && waiting != "" {
		o.Status.Properties.State = ""
		return resource.Waiting(rolloutPoll, waiting)
	}
	if fresh {
		mem.say(o.Now, "The deployment serves at "+o.Status.Properties.ScoringURI)
		mem.Good, mem.GoodRoute, mem.Images = workloads, versions, nil
	}
	if o.Row.State == resource.StateFailed && (short || waiting != "") { // it stays failed until it serves
		why := failureOf(o)
		o.Status.Properties.State = failedState(why)
		return resource.Failed(why, failedPoll)
	}
	o.Status.Properties.State = "Healthy"
	if short {
		o.Status.Properties.State = "Unhealthy"
	}
	return resource.Done(watchPoll)
}

// failedState is the state of a web service whose deployment failed.
func failedState(why *armerr.Error) string {
	if why.Code == serving.Unschedulable {
		return serving.Unschedulable
	}
	return "Failed"
}

func failureOf(o *object) *armerr.Error {
	if o.Record.Error != nil {
		return o.Record.Error
	}
	return armerr.New(armerr.CodeConflict, "The deployment failed.")
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
	case serving.InaccessibleImage:
		return now.Sub(p.Since) > pullWait
	}
	return now.Sub(p.Since) > pullWait
}

// fail ends a deployment. What served before goes on: the cluster gets it back, so that nothing keeps trying
// what cannot work.
func (s *Service) fail(ctx context.Context, o *object, mem *memory, cluster *serving.Cluster, why *armerr.Error) resource.Outcome {
	if isFresh(o) {
		mem.say(o.Now, "The deployment failed: "+why.Message)
	}
	if len(mem.Good) == 0 {
		o.Status.Properties.State = failedState(why)
		return resource.Failed(why, failedPoll)
	}
	kept := *why
	kept.Message = "The update failed, and what was deployed before goes on serving. " + why.Message
	mem.Restored, mem.Why = o.Row.Generation, &kept
	return s.keep(ctx, o, mem, cluster)
}

// keep has the cluster go on with what served before an update that failed. The error of the web service says why it
// failed, its state how the earlier deployment does.
func (s *Service) keep(ctx context.Context, o *object, mem *memory, cluster *serving.Cluster) resource.Outcome {
	r, err := s.route(ctx, o, mem.GoodRoute)
	if err != nil {
		return resource.Retry(err)
	}
	if err := cluster.Apply(ctx, o.ID.Name(), mem.good(o), r); err != nil {
		return resource.Retry(fmt.Errorf("giving the cluster back what served: %w", err))
	}
	o.Status.Properties.State = "Healthy"
	for i := range mem.Good {
		seen, err := cluster.Observe(ctx, mem.Good[i].Name)
		if err != nil {
			return resource.Retry(fmt.Errorf("looking at the deployment %s: %w", mem.Good[i].Name, err))
		}
		if seen.Available < seen.Desired {
			o.Status.Properties.State = "Unhealthy"
		}
		if d := o.Status.Properties.Deployed[mem.Good[i].Version]; d != nil {
			d.Image, d.Desired, d.Updated, d.Available = mem.Good[i].Image, seen.Desired, seen.Updated, seen.Available
		}
	}
	return resource.Failed(mem.Why, watchPoll)
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
